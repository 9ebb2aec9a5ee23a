"""The deep zoom of a slide, by OpenSeadragon over our own tiles, and its glomeruli to look at and correct."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import streamlit as st

from db.models import Slide
from pages.components.slide_viewer.events import Event, acknowledged, receiver
from pages.routes.slides import LIBRARY, LIBRARY_ADDRESS

HERE = Path(__file__).parent
SHARED = ("parts.js", "glomeruli.js")
"""What the gallery of glomeruli is built of too."""


def script(*paths: Path) -> str:
    """One script of several files: Streamlit takes the text of one."""
    return "\n".join(path.read_text(encoding="utf-8") for path in paths)


_FILES = (*SHARED, "outlines.js", "ruler.js", "drawing.js", "card.js", "deepzoom.js", "viewer.js")
_component = st.components.v2.component(
    "renalcore_slide_viewer",
    js=script(*(HERE / name for name in _FILES)),
    css=(HERE / "viewer.css").read_text(encoding="utf-8"),
)


def slide_viewer(
    slide: Slide,
    *,
    analysis_id: int | None,
    version: str,
    editable: bool,
    selected: str | None,
    on_event: Callable[[Event], None],
) -> None:
    """Show a slide; says what is missing where OpenSeadragon was never fetched.

    Args:
        slide: The slide.
        analysis_id: The analysis whose glomeruli lie over it; None shows none.
        version: Anything that changes whenever a glomerulus or a limit does: then they are fetched again.
        editable: Whether they may be corrected.
        selected: Key of a glomerulus to bring into sight and select, whenever it is another than before.
        on_event: Called with each thing that a person did, once and in order, before the page runs.
    """
    if not LIBRARY.is_file():
        st.error(
            "The slide viewer is not installed on this server. An administrator runs `make viewer` in RenalCore's "
            "folder, which fetches OpenSeadragon from npm, and reloads this page."
        )
        return
    key = f"slide-{slide.id}" if analysis_id is None else f"slide-{slide.id}-{analysis_id}"
    with st.container(key=f"steady-{key}"):
        _component(
            key=key,
            data={
                "slide": slide.id,
                "base": f"/slides/{slide.id}",
                "library": LIBRARY_ADDRESS,
                "um_per_px": slide.um_per_px,
                "objective": slide.objective,
                "analysis": analysis_id,
                "version": version,
                "editable": editable,
                "selected": selected,
                "acknowledged": acknowledged(key),
            },
            on_events_change=receiver(key, on_event),
        )
