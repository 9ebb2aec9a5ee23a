"""The scale of a slide in words, which is said everywhere in the same way, and never guessed."""

from __future__ import annotations

from db.models import Slide

UNKNOWN = "unknown"


def words(slide: Slide) -> str:
    """The scale: `0.2527 µm/px`, or that it is unknown."""
    return UNKNOWN if slide.um_per_px is None else f"{slide.um_per_px:.4g} µm/px"


def with_source(slide: Slide) -> str:
    """The scale and who said so: `0.25 µm/px (entered by hand)`."""
    if slide.um_per_px is None:
        return "scale unknown"
    return f"{words(slide)} ({'from the file' if slide.scale_from == 'file' else 'entered by hand'})"
