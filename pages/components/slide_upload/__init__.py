"""Where slides are dropped: files of several gigabytes, which Streamlit's own uploader would keep in memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import streamlit as st

from db import uploads
from db.models import Upload
from db.settings import Settings

_HERE = Path(__file__).parent
_component = st.components.v2.component(
    "renalcore_slide_upload",
    js=(_HERE / "upload.js").read_text(encoding="utf-8"),
    css=(_HERE / "upload.css").read_text(encoding="utf-8"),
)

ADDRESS = "/slides/uploads"


def slide_upload(key: str, *, interrupted: Sequence[Upload]) -> list[str]:
    """Show the place to drop slides, and their progress.

    Args:
        key: The widget's key.
        interrupted: Uploads of this person that wait to be gone on with.

    Returns:
        The keys of the uploads that became complete since it is on the page.
    """
    result = _component(
        key=key,
        data={
            "base": ADDRESS,
            "hint": f"SVS, NDPI, SCN, BIF, OME-TIFF, TIFF, PNG or JPEG, up to {Settings.from_env().max_slide_gb:g} GB "
            "each. A broken upload goes on where it was.",
            "interrupted": [
                {"name": upload.name, "size": upload.size_bytes, "offset": uploads.offset(upload)}
                for upload in interrupted
            ],
        },
        on_done_change=_nothing,
    )
    return [str(done) for done in result.get("done") or ()]


def _nothing() -> None:
    """Streamlit names a component's values by their callbacks; the page that runs again reads the value."""
