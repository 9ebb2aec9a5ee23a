"""A field's pictures for the browser: the original, or the same pixels as WebP, and heat maps to lay over it."""

from __future__ import annotations

import io
from functools import lru_cache

from PIL import Image, ImageOps
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from db import heat_maps, queue
from db.engine import session_scope
from db.files import store
from db.heat_maps import Subject
from db.models import SpecimenField, StoredFile
from pages.components.auth import COOKIE
from pages.components.numbers import asked_number
from pages.routes.guard import came_from_here, is_signed_in
from renalcore.errors import NotFound, RenalError, StorageError
from renalcore.io.image import read_field

CACHE = "private, max-age=31536000, immutable"
"""A field's pixels never change under their address; other people on a shared proxy must not get them."""

THUMB_WIDTHS_PX = (96, 160, 240, 320, 480, 640)
"""Few widths, so that a browser's cache is hit; a request gets the next wider one."""

_SHOWN_BY_BROWSERS = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp"}
_SHOWN_MODES = {"1", "L", "P", "RGB", "RGBA"}


def image(request: Request) -> Response:
    """`/fields/{id}/image`: the whole field, upright."""
    return _answer(request, "image", _for_browser)


def thumb(request: Request) -> Response:
    """`/fields/{id}/thumb?w=240`: the field scaled to about that width."""
    try:
        wanted = int(request.query_params.get("w", "240"))
    except ValueError:
        return PlainTextResponse("w must be a number of pixels.", 400)
    width_px = next((width for width in THUMB_WIDTHS_PX if width >= wanted), THUMB_WIDTHS_PX[-1])
    return _answer(request, f"w{width_px}", lambda sha256: _scaled(sha256, width_px))


def heat(request: Request) -> Response:
    """`/fields/{id}/heat?finding=12` or `?analysis=3&class=RBC`: where the evidence for it lies, on the whole field.

    A worker draws it when it is asked for first. The answer is 202 until it is there, 204 where there is no heat
    anywhere, and 409 with the reason where it failed; a POST then asks for it again.
    """
    if not is_signed_in(request.cookies.get(COOKIE)):
        return PlainTextResponse("Sign in to see this picture.", 403)
    if request.method == "POST" and not came_from_here(request):
        return PlainTextResponse("This was not sent from a page of RenalCore.", 403)
    asked = request.query_params
    finding_id, analysis_id, class_name = (
        asked_number(asked.get("finding")),
        asked_number(asked.get("analysis")),
        asked.get("class"),
    )
    if finding_id:
        subject = Subject(request.path_params["field_id"], finding_id=finding_id)
    elif analysis_id and class_name:
        subject = Subject(request.path_params["field_id"], analysis_id=analysis_id, class_name=class_name)
    else:
        return PlainTextResponse("Name the finding, or the analysis and the class.", 400)
    try:
        with session_scope(read_only=True) as session:
            known = heat_maps.find(session, subject)
            sha256 = known.file.sha256 if known is not None and known.file is not None else None
        if known is None or (known.state == "failed" and request.method == "POST"):
            with session_scope() as session:
                known = heat_maps.ask(session, subject)
            queue.enqueue(known.id, queue.HEAT_MAP)
        body = store().read(sha256) if sha256 else b""
    except NotFound as error:
        return PlainTextResponse(str(error), 404)
    except StorageError as error:
        return PlainTextResponse(str(error), 409)
    if known.state == "done":
        return Response(body, media_type="image/png", headers={"cache-control": CACHE})
    fresh = {"cache-control": "no-store"}
    if known.state == "empty":
        return Response(status_code=204, headers=fresh)
    if known.state == "failed":
        return PlainTextResponse(known.message or "The heat map failed.", 409, headers=fresh)
    return PlainTextResponse("Waiting for a worker to draw the heat map…", 202, headers=fresh)


def _answer(request: Request, variant: str, render) -> Response:
    if not is_signed_in(request.cookies.get(COOKIE)):
        return PlainTextResponse("Sign in to see this picture.", 403)
    with session_scope(read_only=True) as session:
        field = session.get(SpecimenField, request.path_params["field_id"])
        stored = session.get(StoredFile, field.file_id) if field else None
        sha256 = stored.sha256 if stored else None
    if sha256 is None:
        return PlainTextResponse("There is no such field.", 404)
    headers = {"etag": f'"{sha256}-{variant}"', "cache-control": CACHE}
    if headers["etag"] in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    try:
        body, media_type = render(sha256)
    except RenalError as error:
        return PlainTextResponse(str(error), 404)
    return Response(body, media_type=media_type, headers=headers)


def _for_browser(sha256: str) -> tuple[bytes, str]:
    original = store().read(sha256)
    with Image.open(io.BytesIO(original)) as picture:
        media_type = _SHOWN_BY_BROWSERS.get(picture.format or "")
        if media_type and picture.mode in _SHOWN_MODES and not getattr(picture, "is_animated", False):
            return original, media_type
    return _webp(Image.fromarray(read_field(original, name=f"file {sha256[:12]}").pixels), quality=92), "image/webp"


@lru_cache(maxsize=512)
def _scaled(sha256: str, width_px: int) -> tuple[bytes, str]:
    original = store().read(sha256)
    with Image.open(io.BytesIO(original)) as picture:
        quick = picture.format in _SHOWN_BY_BROWSERS and picture.mode in _SHOWN_MODES
        if quick:
            # JPEG decodes at a fraction of its size, several times faster.
            picture.draft("RGB", (width_px * 2, width_px * 2))
            upright = ImageOps.exif_transpose(picture).convert("RGB")
        else:
            upright = Image.fromarray(read_field(original, name=f"file {sha256[:12]}").pixels)
    height_px = max(1, round(upright.height * width_px / upright.width))
    if upright.width > width_px:
        upright = upright.resize((width_px, height_px), Image.Resampling.LANCZOS, reducing_gap=2.0)
    return _webp(upright, quality=82), "image/webp"


def _webp(picture: Image.Image, *, quality: int) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "WEBP", quality=quality, method=2)
    return stream.getvalue()
