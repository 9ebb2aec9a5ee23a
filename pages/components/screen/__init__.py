"""Whether the window is narrow, as on a tablet held upright: Streamlit itself closes the menu only on phones."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

COOKIE = "renalcore_screen"
WIDE_PX = 1000
_KEY = "screen"

_component = st.components.v2.component(
    "renalcore_screen",
    js=(Path(__file__).parent / "screen.js").read_text(encoding="utf-8"),
    isolate_styles=False,
)


def is_narrow() -> bool:
    """What the window said last; a window that has said nothing yet is taken for a wide one."""
    return _known() == "narrow"


def listen() -> None:
    """Let the window say how wide it is; the page runs again where that is news. Once a page, below its content."""
    with st.container(key="screen-listener"):
        _component(
            key=_KEY,
            data={"known": _known(), "wide_px": WIDE_PX, "cookie": COOKIE},
            on_width_change=_nothing,
        )


def _known() -> str | None:
    told = st.session_state.get(_KEY)
    width = told.get("width") if told else None
    return width or st.context.cookies.get(COOKIE)


def _nothing() -> None:
    """Streamlit names a component's values by their callbacks; the page that runs again reads the value."""
