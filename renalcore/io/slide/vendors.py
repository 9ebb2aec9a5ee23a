"""The scanners' own formats, through OpenSlide."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from renalcore.errors import UnreadableFile
from renalcore.io.slide.scale import likely
from renalcore.io.slide.slide import Level
from renalcore.types import QualityFlag

if TYPE_CHECKING:
    import openslide

_FORMATS: Final[Mapping[str, str]] = {
    "aperio": "Aperio SVS",
    "dicom": "DICOM slide",
    "hamamatsu": "Hamamatsu NDPI",
    "leica": "Leica SCN",
    "mirax": "3DHISTECH MRXS",
    "philips": "Philips TIFF",
    "sakura": "Sakura SVSLIDE",
    "trestle": "Trestle TIFF",
    "ventana": "Ventana BIF",
    "zeiss": "Zeiss CZI",
}
_UNLIKELY_SCALE = QualityFlag(
    "unlikely_scale", "The scale that the file states cannot be right and is not used. Enter the scale by hand."
)


def vendor_of(path: Path) -> str | None:
    """OpenSlide's word for the scanner whose format a file is in; None where it is in none, or in plain TIFF."""
    import openslide

    try:
        vendor = openslide.OpenSlide.detect_format(path)
    except openslide.OpenSlideError:  # known at first sight and broken on the second: `VendorSource` will say so
        return None
    return None if vendor is None or vendor == "generic-tiff" else str(vendor)


class VendorSource:
    """A scanner's file, open through OpenSlide, cropped to what was scanned where the file says what that is.

    QuPath crops in the same way, so positions mean the same there.
    """

    def __init__(self, path: Path, vendor: str, *, name: str) -> None:
        """Opens a file that `vendor_of` knows.

        Raises:
            UnreadableFile: It is damaged, or of a kind that OpenSlide cannot read.
        """
        import openslide

        try:
            self._slide: openslide.OpenSlide = openslide.OpenSlide(path)
        except openslide.OpenSlideError as error:
            raise unreadable(name) from error
        properties = self._slide.properties
        self._name = name
        self._left, self._top, width, height = bounds(properties, self._slide.dimensions)
        self._downsamples = self._slide.level_downsamples
        self.levels = tuple(
            Level(max(1, round(width / downsample)), max(1, round(height / downsample)), downsample)
            for downsample in self._downsamples
        )
        sides = number(properties.get("openslide.mpp-x")), number(properties.get("openslide.mpp-y"))
        self.format = _FORMATS.get(vendor, vendor)
        self.um_per_px = likely(*sides)
        self.objective = number(properties.get("openslide.objective-power"))
        self.flags = (_UNLIKELY_SCALE,) if self.um_per_px is None and any(sides) else ()
        self.in_bands = False

    def region(self, level: int, left: int, top: int, width: int, height: int) -> NDArray[np.uint8]:
        """See `Source.region`."""
        import openslide

        downsample = self._downsamples[level]
        corner = self._left + round(left * downsample), self._top + round(top * downsample)
        try:
            found = np.asarray(self._slide.read_region(corner, level, (width, height)))
        except openslide.OpenSlideError as error:
            raise UnreadableFile(
                f"{self._name}: a part of the slide is damaged or missing. Copy it from the scanner again."
            ) from error
        colour, opacity = found[..., :3], found[..., 3:]
        if opacity.min() == 255:
            return np.ascontiguousarray(colour)
        weight = opacity.astype(np.uint16)
        return ((colour * weight + 255 * (255 - weight) + 127) // 255).astype(np.uint8)

    def close(self) -> None:
        """See `Source.close`."""
        self._slide.close()


def unreadable(name: str) -> UnreadableFile:
    """The error of a scanner's file, or files, of which no sense can be made."""
    return UnreadableFile(
        f"{name}: the slide is damaged, incomplete or of a variant that cannot be read. Copy it, with all files that "
        "belong to it, from the scanner again, or export it as OME-TIFF."
    )


def bounds(properties: Mapping[str, str], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Left, top, width and height in px of what was scanned, the whole plane where a file does not say."""
    try:
        left, top, width, height = (
            int(properties[f"openslide.bounds-{side}"]) for side in ("x", "y", "width", "height")
        )
    except (KeyError, ValueError):
        return 0, 0, *size
    fits = left >= 0 and top >= 0 and width > 0 and height > 0 and left + width <= size[0] and top + height <= size[1]
    return (left, top, width, height) if fits else (0, 0, *size)


def number(text: str | None) -> float | None:
    """A positive number as a property states it, else None."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if value > 0 and math.isfinite(value) else None
