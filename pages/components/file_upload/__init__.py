"""Where slides and CT studies are dropped: gigabytes, which Streamlit's own uploader would keep in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import streamlit as st

from db import uploads
from db.models import Upload
from db.settings import Settings
from db.uploads import Kind

_HERE = Path(__file__).parent
_component = st.components.v2.component(
    "renalcore_file_upload",
    js="\n".join((_HERE / name).read_text(encoding="utf-8") for name in ("tar.js", "slides.js", "upload.js")),
    css=(_HERE / "upload.css").read_text(encoding="utf-8"),
)

ADDRESS = "/uploads"

_CHOOSE: Mapping[Kind, str] = MappingProxyType({"histology": "Choose slides", "ct": "Choose files"})
_KINDS: Mapping[Kind, str] = MappingProxyType(
    {
        "histology": "SVS, NDPI, SCN, BIF, OME-TIFF, TIFF, PNG or JPEG, a .mrxs with its folder, a folder of DICOM",
        "ct": "The folder or disc of a DICOM study, its loose files, a zip of them, or NIfTI",
    }
)


def file_upload(key: str, *, modality: Kind, interrupted: Sequence[Upload]) -> dict[str, str]:
    """Show the place to drop files, and their progress.

    A folder can be dropped too. The files of a CT study come as one upload; so do those of a slide that consists of
    several, which is told by what the files are.

    Args:
        key: The widget's key.
        modality: What is uploaded.
        interrupted: Uploads of this person that wait to be gone on with.

    Returns:
        The uploads that became complete since it is on the page: by their keys what they are called in the browser.
    """
    result = _component(
        key=key,
        data={
            "base": ADDRESS,
            "modality": modality,
            "choose": _CHOOSE[modality],
            "hint": f"{_KINDS[modality]}, up to {Settings.from_env().max_slide_gb:g} GB each. A broken upload goes on "
            "where it was.",
            "interrupted": [
                {
                    "name": upload.name,
                    "size": upload.size_bytes,
                    "modified": upload.modified_ms,
                    "offset": uploads.offset(upload),
                }
                for upload in interrupted
            ],
        },
        on_done_change=_nothing,
    )
    return {str(key): str(name) for key, name in result.get("done") or ()}


def _nothing() -> None:
    """Streamlit names a component's values by their callbacks; the page that runs again reads the value."""
