"""The scale of a slide in words, which is said everywhere in the same way, and never guessed."""

from __future__ import annotations

from db.models import Slide


def number(slide: Slide) -> str:
    """The scale in µm per px, for a column that names the unit; `unknown` where nobody says it."""
    return "unknown" if slide.um_per_px is None else f"{slide.um_per_px:.4g}"


def with_source(slide: Slide) -> str:
    """The scale and who said so: `0.25 µm/px (entered by hand)`."""
    if slide.um_per_px is None:
        return "scale unknown"
    return f"{number(slide)} µm/px ({'from the file' if slide.scale_from == 'file' else 'entered by hand'})"
