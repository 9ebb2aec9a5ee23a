"""What this installation runs on: workers, database, file store, versions; demo patients for an empty one."""

from __future__ import annotations

import platform
from importlib import metadata
from urllib.parse import urlsplit

import streamlit as st
from sqlalchemy.engine import make_url

import renalcore
from db import demo, workers, worklist
from db.engine import session_scope
from db.files import store
from db.settings import Settings
from pages.components import analysis, auth, links, status, style
from renalcore.errors import RenalError

PARTS = ("streamlit", "sqlalchemy", "dbos", "torch", "ultralytics", "sahi", "openvino")


def _load_demo() -> None:
    """Render the demo patients, register them, and hand them to the workers."""
    if analysis.model_is_missing():
        return
    bar = st.progress(0.0, text="Drawing the fields of the demo patients")
    try:
        patients = demo.render_demo(
            store(), on_field=lambda done, total: bar.progress(done / total, text=f"Drawing field {done} of {total}")
        )
        with session_scope() as session:
            registered = demo.register_demo(session, patients, by=admin)
            requested = [analysis.request(session, specimen, by=admin).id for specimen in registered]
        for analysis_id in requested:
            analysis.send(analysis_id)
    except RenalError as error:
        st.error(str(error))
        return
    links.open_page("worklist")


def _version(part: str) -> str:
    try:
        return metadata.version(part)
    except metadata.PackageNotFoundError:
        return "not installed"


def _without_secrets(address: str) -> str:
    """An fsspec address as it may be shown: no user, password or key."""
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


admin = auth.require("admin")
settings = Settings.from_env()

with session_scope(read_only=True) as session:
    empty = not any(worklist.state_counts(session).values())
    alive = workers.alive(session)

with style.page_header("System", "What this installation runs on"):
    load = empty and st.button("Load demo patients", type="primary", key="load-demo")
if load:
    _load_demo()

if empty:
    style.empty_state(
        "There is no specimen yet.",
        "Load the demo patients to look around with rendered fields, or start with **New specimen** in the menu. "
        "Demo patients can be loaded only while the installation is empty.",
    )

st.subheader("Workers", anchor=False)
status.worker_banner()
if alive:
    style.table(
        ["Worker", "Machine", "Device", "Started", "Last sign of life"],
        [
            [
                node.name,
                node.host,
                node.device or "",
                style.when(node.started_at),
                style.when(node.heartbeat_at, seconds=True),
            ]
            for node in alive
        ],
    )

st.subheader("Storage", anchor=False)
style.table(
    ["What", "Where"],
    [
        ["Database", make_url(settings.database_url).render_as_string(hide_password=True)],
        ["File store", _without_secrets(settings.files_url)],
        ["Worker", "started by this web server" if settings.worker == "embedded" else "runs on its own"],
        ["Address", settings.public_url],
    ],
)

st.subheader("Versions", anchor=False)
style.table(
    ["Part", "Version"],
    [
        ["RenalCore", renalcore.__version__],
        ["Python", platform.python_version()],
        *([part, _version(part)] for part in PARTS),
    ],
)
