"""RenalCore's web app: `streamlit run app.py`.

Streamlit serves the pages (`pages/components/shell.py` is run for each); beside them stand the few addresses that are
plain HTTP: sign-in, pictures of fields, slides and CT studies on their way in, slides tile by tile out, health, the
source.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import streamlit as st
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse
from starlette.routing import Route

from db import accounts
from db.engine import session_scope, upgrade
from db.settings import Settings
from pages.components import faults
from pages.routes import ct, fields, sign_in, slides, source, uploads
from pages.routes.absent import absent
from pages.routes.embedded_worker import EmbeddedWorker
from pages.routes.guard import Guard
from pages.routes.health import health

ROOT = Path(__file__).resolve().parent


@asynccontextmanager
async def lifespan(_: st.App) -> AsyncIterator[None]:
    """Bring the schema up to date, greet a new installation, keep a worker running."""
    settings = Settings.from_env()
    upgrade()
    _greet_new_installation()
    worker = EmbeddedWorker(settings.data_folder) if settings.worker == "embedded" else None
    if worker is not None:
        worker.start()
    try:
        yield
    finally:
        if worker is not None:
            worker.stop()


def _greet_new_installation() -> None:
    with session_scope() as session:
        token = accounts.first_admin_token(session)
    if token is not None:
        sys.stderr.write(
            "\n  This installation has no administrator yet. Open this link once to choose the password of the\n"
            f'  first one, whose user name is "admin":\n\n    {sign_in.welcome_address(token)}\n\n'
        )
        sys.stderr.flush()


def icon(_: Request) -> FileResponse:
    """`/favicon.png`: the icon of the browser's tab, in place of Streamlit's."""
    return FileResponse(ROOT / "pages/routes/icon.png", headers={"cache-control": "max-age=86400"})


faults.keep_streamlit_quiet()
app = st.App(
    "pages/components/shell.py",
    lifespan=lifespan,
    on_script_error=faults.tell,
    middleware=[Middleware(Guard)],
    routes=[
        Route("/login", sign_in.login, methods=["GET", "POST"]),
        Route("/logout", sign_in.logout, methods=["GET", "POST"]),
        Route("/welcome", sign_in.welcome, methods=["GET", "POST"]),
        Route("/single-sign-on/finish", sign_in.finish_single_sign_on, methods=["GET"]),
        Route("/favicon.png", icon, methods=["GET"]),
        Route("/health", health, methods=["GET"]),
        Route("/source.tar.gz", source.source, methods=["GET"]),
        Route("/fields/{field_id:number}/image", fields.image, methods=["GET"]),
        Route("/fields/{field_id:number}/thumb", fields.thumb, methods=["GET"]),
        Route("/fields/{field_id:number}/heat", fields.heat, methods=["GET", "POST"]),
        Route("/slides/{slide_id:number}/descriptor.json", slides.descriptor, methods=["GET"]),
        Route("/slides/{slide_id:number}/tile/{level:number}/{x:number}/{y:number}.jpg", slides.tile, methods=["GET"]),
        Route("/slides/{slide_id:number}/crop", slides.crop, methods=["GET"]),
        Route("/slides/{slide_id:number}/glomeruli.json", slides.outlines, methods=["GET"]),
        Route(slides.LIBRARY_ADDRESS, slides.library, methods=["GET"]),
        Route("/ct/{scan_id:number}/image.nii.gz", ct.image, methods=["GET"]),
        Route("/ct/{scan_id:number}/labels.nii.gz", ct.labels, methods=["GET"]),
        Route("/uploads", uploads.begin, methods=["POST"]),
        Route("/uploads/{key}", uploads.tell, methods=["HEAD"]),
        Route("/uploads/{key}", uploads.append, methods=["PATCH"]),
        Route("/uploads/{key}", uploads.give_up, methods=["DELETE"]),
        Route("/{path:absent}", absent, methods=["GET"]),
    ],
)
