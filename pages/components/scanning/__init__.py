"""Moves the focus from field to field when a bar-code scanner types and presses Enter."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import streamlit as st

_component = st.components.v2.component(
    "renalcore_scanning",
    js=(Path(__file__).parent / "scanning.js").read_text(encoding="utf-8"),
    isolate_styles=False,
)


def focus_chain(keys: Sequence[str], *, after: str) -> None:
    """Chain the text fields with these widget keys; Enter in the last one goes to the button of the widget `after`."""
    _component(key=f"scanning-{keys[0]}", data={"keys": list(keys), "after": after})
