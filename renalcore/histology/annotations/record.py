"""A slide with its glomeruli as somebody outlined them: what every reader yields and what training takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from renalcore.datasets.pictures import PICTURE_SUFFIXES, Split
from renalcore.histology.glomeruli import TYPICAL_GLOMERULUS_UM

Known = Literal["all", "some", "inside"]
"""What is known of a slide. `all`: what is not outlined is no glomerulus. `some`: only some glomeruli are outlined,
whole; near an outline its outside is known, elsewhere not. `inside`: the outlines hold a part of each glomerulus (the
tuft), so that only what is inside of them is known."""

KNOWN: Final[Mapping[str, Known]] = MappingProxyType({"all": "all", "some": "some", "inside": "inside"})

SLIDE_SUFFIXES: Final = PICTURE_SUFFIXES | {
    ".svs", ".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".vmu", ".svslide", ".dcm"
}  # fmt: skip
"""Endings of files that may be a slide; what they are, `renalcore.io.slide` finds out."""

PLAIN_SUFFIXES: Final = PICTURE_SUFFIXES - {".tif", ".tiff"}
"""Endings of pictures that are read at once; a TIFF may be a whole slide."""


@dataclass(frozen=True, slots=True, eq=False)
class Outline:
    """One outlined structure.

    Attributes:
        points_px: `(N, 2)` float64, x and y in px of level 0, closed implicitly.
        label: What it is: `glomerulus`, `globally sclerosed glomerulus` or `ignore` once read (before, the file's own
            word).
        holes_px: Rings cut out of it, each as `points_px`.
    """

    points_px: NDArray[np.float64]
    label: str
    holes_px: tuple[NDArray[np.float64], ...] = ()

    @property
    def area_px(self) -> float:
        """Area in px2 of level 0, without its holes."""
        return max(ring_area(self.points_px) - sum(map(ring_area, self.holes_px)), 0.0)


@dataclass(frozen=True, slots=True, eq=False)
class LabelledSlide:
    """One slide or field with its glomeruli; their outlines, or a picture that numbers them.

    Attributes:
        path: The slide.
        group: Patient, animal, sample or slide; slides of one group never lie on both sides of a split.
        stain: As the data name it; None where they do not.
        species: `human`, `mouse` or `rat`; None where nobody says it.
        um_per_px: Micrometres a pixel of level 0, None where nobody says it; never guessed.
        outlines: Glomeruli and regions to ignore; None where a mask holds them.
        mask_path: A picture of the slide's size that numbers its glomeruli, see `masks.read_instances`.
        known: What is known where nothing is outlined.
        width_px: Width of level 0.
        height_px: Height of level 0.
        areas_px: `(N,)` float64, area of each glomerulus in px2 of level 0.
        whole: `(N,)` bool, False for a glomerulus that the edge of the picture cuts.
    """

    path: Path
    group: str
    stain: str | None
    species: str | None
    um_per_px: float | None
    outlines: tuple[Outline, ...] | None
    mask_path: Path | None
    known: Known
    width_px: int
    height_px: int
    areas_px: NDArray[np.float64]
    whole: NDArray[np.bool_]

    @property
    def glomeruli(self) -> int:
        """How many glomeruli are outlined."""
        return len(self.areas_px)

    @property
    def glomerulus_px(self) -> float | None:
        """Median diameter in px of level 0 of circles of the same area; None where no glomerulus is outlined.

        Glomeruli cut by the edge of the picture count only where there is no other.
        """
        areas = self.areas_px[self.whole] if self.whole.any() else self.areas_px
        return float(np.median(2 * np.sqrt(areas / np.pi))) if len(areas) else None

    @property
    def scale_px(self) -> float | None:
        """The diameter in px that a glomerulus of this slide has or must have; None where nothing tells it."""
        if self.glomerulus_px is not None:
            return self.glomerulus_px
        typical = TYPICAL_GLOMERULUS_UM.get(self.species or "")
        return typical / self.um_per_px if typical and self.um_per_px else None


@dataclass(slots=True)
class Record:
    """A slide as the data describe it, unjudged."""

    path: Path
    size_px: tuple[int, int]
    file: Path
    outlines: list[Outline] = field(default_factory=list)
    mask_path: Path | None = None
    group: str = ""
    split: Split | None = None
    stain: str | None = None
    species: str | None = None
    um_per_px: float | None = None
    known: Known | None = None


def ring_area(points_px: NDArray[np.float64]) -> float:
    """Area of a polygon in px2 by the shoelace formula."""
    x, y = points_px[:, 0], points_px[:, 1]
    return float(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2)
