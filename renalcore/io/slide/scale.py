"""Micrometres a pixel out of what files state, or None: a scale that nobody measured is no scale."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from renalcore.errors import InputError

# Finest: a 100x oil objective on small camera pixels. Coarsest: kidney slides reduced to 1.25x are 8 um; beyond 20 um
# begins what programs write as print resolution (72 dpi = 353 um, 96 dpi = 265 um, 300 dpi = 85 um, 1,200 dpi = 21 um).
FINEST_UM: Final = 0.05
COARSEST_UM: Final = 20.0
_SQUARE: Final = 1.05
_AGREES: Final = 1.10

_UM: Final[Mapping[str, float]] = {
    "nm": 1e-3, "µm": 1.0, "μm": 1.0, "um": 1.0, "\\u00b5m": 1.0, "micron": 1.0, "microns": 1.0, "micrometer": 1.0,
    "mm": 1e3, "cm": 1e4, "m": 1e6, "inch": 25_400.0, "in": 25_400.0,
}  # fmt: skip


def um_of(unit: str) -> float | None:
    """Micrometres in a unit of length as OME-XML and ImageJ spell it; None for "pixel" and what is no length."""
    return _UM.get(unit.strip().lower())


def likely(x_um: float | None, y_um: float | None) -> float | None:
    """The side of a pixel in um from its stated width and height; None where no light microscope made such pixels.

    Pixels that are not square to within 5 % have no one scale, and are refused one too.
    """
    if not x_um or not y_um or not (min(x_um, y_um) >= FINEST_UM and max(x_um, y_um) <= COARSEST_UM):
        return None
    return (x_um * y_um) ** 0.5 if max(x_um, y_um) <= _SQUARE * min(x_um, y_um) else None


def agreed(stated: float | None, given: float | None, *, name: str) -> float | None:
    """The scale of a file that states one, or not, when the user gives one, or not.

    Raises:
        InputError: Both are there and differ by more than 10 %.
        ValueError: `given` is not positive.
    """
    if given is None:
        return stated
    if not 0 < given < float("inf"):
        raise ValueError(f"um_per_px must be positive, got {given}")
    if stated is not None and not stated / _AGREES <= given <= stated * _AGREES:
        raise InputError(
            f"{name}: the file states {stated:.4g} um a pixel, but {given:.4g} was given. Leave the scale out to use "
            "the file's own."
        )
    return given if stated is None else stated
