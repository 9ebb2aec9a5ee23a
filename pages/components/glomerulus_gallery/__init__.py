"""The gallery: crops of the glomeruli of a slide, by size, confidence or number; a click goes there in the viewer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import streamlit as st

from db.models import Slide
from pages.components import slide_viewer
from pages.components.slide_viewer.events import Event, acknowledged, receiver

_HERE = Path(__file__).parent
_SHARED = tuple(slide_viewer.HERE / name for name in slide_viewer.SHARED)
_component = st.components.v2.component(
    "renalcore_glomerulus_gallery",
    js=slide_viewer.script(*_SHARED, _HERE / "gallery.js"),
    css=(_HERE / "gallery.css").read_text(encoding="utf-8"),
)


def glomerulus_gallery(
    slide: Slide,
    *,
    analysis_id: int,
    version: str,
    selected: str | None,
    on_event: Callable[[Event], None],
) -> None:
    """Show the glomeruli of a slide.

    Args:
        slide: The slide.
        analysis_id: The analysis that found them.
        version: Anything that changes whenever a glomerulus or a limit does: then they are fetched again.
        selected: Key of the glomerulus that is selected in the viewer.
        on_event: Called with a `select` of the key that was clicked, before the page runs. A viewer of the slide on the
            same page has gone there already.
    """
    key = f"gallery-{slide.id}-{analysis_id}"
    with st.container(key=f"steady-{key}"):
        _component(
            key=key,
            data={
                "slide": slide.id,
                "base": f"/slides/{slide.id}",
                "um_per_px": slide.um_per_px,
                "analysis": analysis_id,
                "version": version,
                "selected": selected,
                "acknowledged": acknowledged(key),
            },
            on_events_change=receiver(key, on_event),
        )
