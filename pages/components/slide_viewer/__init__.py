"""The deep zoom of a slide, by OpenSeadragon over our own tiles."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from db.models import Slide
from pages.routes.slides import LIBRARY, LIBRARY_ADDRESS

_HERE = Path(__file__).parent
_component = st.components.v2.component(
    "renalcore_slide_viewer",
    js=(_HERE / "viewer.js").read_text(encoding="utf-8"),
    css=(_HERE / "viewer.css").read_text(encoding="utf-8"),
)


def slide_viewer(slide: Slide) -> None:
    """Show a slide; says what is missing where OpenSeadragon was never fetched."""
    if not LIBRARY.is_file():
        st.error(
            "The slide viewer is not installed on this server. An administrator runs `make viewer` in RenalCore's "
            "folder, which fetches OpenSeadragon from npm, and reloads this page."
        )
        return
    _component(
        key=f"slide-{slide.id}",
        data={
            "slide": slide.id,
            "base": f"/slides/{slide.id}",
            "library": LIBRARY_ADDRESS,
            "um_per_px": slide.um_per_px,
            "objective": slide.objective,
        },
    )
