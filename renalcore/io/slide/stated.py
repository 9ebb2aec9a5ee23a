"""What a TIFF states about its main picture in OME-XML and in its tags, such as objective and scale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final
from xml.etree import ElementTree

from renalcore.io.slide.scale import likely, um_of
from renalcore.types import QualityFlag

_INCH, _CENTIMETRE = 2, 3
_RESOLUTION_UM: Final = {_INCH: 25_400.0, _CENTIMETRE: 10_000.0}


@dataclass(frozen=True, slots=True)
class Stated:
    """What a TIFF states about itself, read without decoding a pixel.

    Attributes:
        format: "OME-TIFF" or "TIFF".
        width_px: Width of its main picture.
        height_px: Height of its main picture.
        plain: It is 8-bit colour or grey, whose regions can be read as they stand; else it may be a palette, 16 bits,
            CMYK, numbers with a fraction and so on.
        first: Its main picture is the first in the file, which is the one that other programs show.
        um_per_px: Scale of level 0, where it can be trusted.
        objective: Magnification, where an OME-TIFF states it.
        flags: Doubts.
    """

    format: str
    width_px: int
    height_px: int
    plain: bool
    first: bool
    um_per_px: float | None
    objective: float | None
    flags: tuple[QualityFlag, ...]


def ome_of(text: str | None, key: Any) -> ElementTree.Element | None:
    """The element of the picture in OME-XML, with its instrument below it."""
    root = ElementTree.fromstring(text or "<OME/>")
    for image in root.iterfind("{*}Image"):
        pixels = image.find("{*}Pixels")
        if pixels is not None and (pixels.get("SizeX"), pixels.get("SizeY")) == (
            str(key.imagewidth),
            str(key.imagelength),
        ):
            image.extend(root.iterfind("{*}Instrument"))
            return image
    return ElementTree.Element("Image")


def objective_of(ome: ElementTree.Element | None) -> float | None:
    """Magnification of the objective that the picture was taken with, where its OME-XML names it."""
    used = None if ome is None else ome.find("{*}ObjectiveSettings")
    if ome is None or used is None:
        return None
    for objective in ome.iterfind(".//{*}Objective"):
        if objective.get("ID") == used.get("ID"):
            return _number(objective.get("NominalMagnification"))
    return None


def _number(text: object) -> float | None:
    try:
        value = float(str(text))
    except ValueError:
        return None
    return value if 0 < value < float("inf") else None


def scale_of(tiff: Any, key: Any, ome: ElementTree.Element | None) -> tuple[float | None, bool]:
    """Micrometres a pixel, and whether the file states one in a place where only a microscope would.

    A resolution in the TIFF tags is believed where it is one that print and screens do not have; see `likely`.
    """
    pixels = None if ome is None else ome.find("{*}Pixels")
    if pixels is not None and "PhysicalSizeX" in pixels.attrib:
        sides = [_number(pixels.get(f"PhysicalSize{side}", pixels.get("PhysicalSizeX"))) for side in "XY"]
        units = [um_of(pixels.get(f"PhysicalSize{side}Unit", "µm")) for side in "XY"]
        if None in units:
            return None, False  # "pixel" and "reference frame" are no lengths
        x_um, y_um = (side * unit if side and unit else None for side, unit in zip(sides, units, strict=True))
        return likely(x_um, y_um), True
    unit = _RESOLUTION_UM.get(int(key.tags.valueof("ResolutionUnit", 0)))
    if tiff.is_imagej:
        unit = um_of(str((tiff.imagej_metadata or {}).get("unit", ""))) or unit
    per_unit = [_ratio(key.tags.valueof(f"{side}Resolution")) for side in "XY"]
    if unit is None or None in per_unit:
        return None, False
    return likely(*(unit / side for side in per_unit if side)), False


def _ratio(value: Any) -> float | None:
    """A rational tag as a number."""
    if not isinstance(value, tuple) or len(value) != 2 or not all(value):
        return None
    return float(value[0] / value[1])
