"""At which zoom a slide is shown to the network.

A network knows glomeruli of a certain size in pixels. Where the slide's scale is known, its model's card says the
zoom; where only the objective is, a 10x objective is taken for 1 um a pixel, as scanners are built. A picture without
either, as a camera gives it, is searched at several zooms, and the one is kept at which the network is most certain.
None of this claims a scale: what is measured on such a slide stays in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from renalcore.histology.glomeruli import Glomeruli
from renalcore.models import InputScale


class Readable(Protocol):
    """What a search needs of a slide: its size, and windows of it as `renalcore.io.slide.Slide.read` gives them."""

    @property
    def width_px(self) -> int:
        """Of level 0."""

    @property
    def height_px(self) -> int:
        """Of level 0."""

    def read(
        self, x_px: float, y_px: float, width_px: int, height_px: int, *, downsample: float = 1.0
    ) -> NDArray[np.uint8]:
        """A window of it."""


_LEAST_SHARE: Final = 1 / 40  # the smallest glomerulus sought, in longest sides of a picture
_LEAST_PX: Final = (24.0, 100.0)  # its limits in px: what can be seen at all, and 200 um at 2 um a pixel
_GREATEST_PX: Final = 2000.0  # 200 um at 0.1 um a pixel, the finest that scanners give
_SEARCHED_PX: Final = 4_000_000  # of a large slide, parts are searched that are so large at the finest zoom
_PARTS: Final = 3


@dataclass(frozen=True, slots=True)
class Part:
    """A window of a slide, as a slide."""

    slide: Readable
    left_px: int
    top_px: int
    width_px: int
    height_px: int

    def read(
        self, x_px: float, y_px: float, width_px: int, height_px: int, *, downsample: float = 1.0
    ) -> NDArray[np.uint8]:
        """A window of the window."""
        return self.slide.read(self.left_px + x_px, self.top_px + y_px, width_px, height_px, downsample=downsample)


@dataclass(frozen=True, slots=True)
class Seen:
    """What a network said of a part at one zoom.

    Attributes:
        found: The glomeruli.
        inside: Sum of the probabilities above the threshold.
        above: Number of pixels above it.
        total: Sum of all probabilities.
        searched: Number of pixels.
    """

    found: Glomeruli
    inside: float
    above: float
    total: float
    searched: float


def downsample_of(scale: InputScale, *, um_per_px: float | None, objective: float | None) -> float | None:
    """Level-0 px a working px as far as it can be known without looking; None where the picture must be asked."""
    if scale.um_per_px is None and scale.object_px is None:
        return 1.0
    if um_per_px is None and objective:
        um_per_px = 10 / objective
    if scale.um_per_px is None or um_per_px is None:
        return None if scale.object_px is not None else 1.0
    return scale.um_per_px / um_per_px


def most_certain(
    slide: Readable,
    tissue: NDArray[np.bool_],
    search: Callable[[Readable, float], Seen],
    object_px: tuple[float, float],
) -> float:
    """The zoom at which a network is most certain of a picture, as level-0 px a working px.

    Zooms lie an octave apart. One is worth the Dice that the network itself expects there, times how near the
    glomeruli found come to the size it was trained with, times the root of the area found, since a network that sees
    too little of a glomerulus is certain of few. The best is then moved so that the glomeruli found have that size.

    Args:
        slide: The picture.
        tissue: `(H, W)`, true on its tissue.
        search: Searches a part at a zoom.
        object_px: Least and greatest diameter that the network was trained with, in working px.

    Returns:
        The zoom; where nothing is found at any, the middle one.
    """
    middle = math.sqrt(object_px[0] * object_px[1])
    octaves = max(math.log2(object_px[1] / object_px[0]) / 2, 0.5)
    zooms = _zooms(slide, middle)
    parts = _parts(slide, tissue, zooms[0])
    seen = [[search(part, zoom) for part in parts] for zoom in zooms]
    areas = [_ratio(sum(each.above for each in at), sum(each.searched for each in at)) for at in seen]
    worth, sizes = [], []
    for zoom, area, at in zip(zooms, areas, seen, strict=True):
        size = _diameter(at) / zoom
        expected = _ratio(2 * sum(each.inside for each in at), sum(each.above + each.total for each in at))
        near = math.exp(-((math.log2(size / middle) / octaves) ** 2) / 2) if size else 0.0
        worth.append(expected * near * math.sqrt(area))
        sizes.append(size)
    best = int(np.argmax(worth))
    if not worth[best]:
        return zooms[len(zooms) // 2]
    return zooms[best] * float(np.clip(sizes[best] / middle, 0.5, 2))


def _zooms(slide: Readable, middle: float) -> list[float]:
    longest, shortest = max(slide.width_px, slide.height_px), min(slide.width_px, slide.height_px)
    least = float(np.clip(longest * _LEAST_SHARE, *_LEAST_PX))
    zooms = [2 * least / middle]  # an octave below the middle is still within what a network knows
    while zooms[-1] * 2 * middle < min(1.2 * shortest, _GREATEST_PX):
        zooms.append(zooms[-1] * 2)
    return zooms


def _parts(slide: Readable, tissue: NDArray[np.bool_], finest: float) -> list[Readable]:
    """The slide, or of a large one the parts with most tissue."""
    side = int(math.sqrt(_SEARCHED_PX / _PARTS) * finest)
    if slide.width_px * slide.height_px <= _SEARCHED_PX * finest**2:
        return [slide]
    width, height = min(side, slide.width_px), min(side, slide.height_px)
    across, down = tissue.shape[1] / slide.width_px, tissue.shape[0] / slide.height_px
    box = max(1, round(width * across)), max(1, round(height * down))
    left = tissue.astype(np.float32)
    parts: list[Readable] = []
    for _ in range(_PARTS):
        covered = cv2.boxFilter(left, cv2.CV_32F, box, borderType=cv2.BORDER_CONSTANT)
        row, column = np.unravel_index(int(covered.argmax()), covered.shape)
        x = int(np.clip((column + 0.5) / across - width / 2, 0, slide.width_px - width))
        y = int(np.clip((row + 0.5) / down - height / 2, 0, slide.height_px - height))
        if not covered[row, column] > 0:
            break
        parts.append(Part(slide, x, y, width, height))
        left[int(y * down) : math.ceil((y + height) * down), int(x * across) : math.ceil((x + width) * across)] = 0
    return parts or [Part(slide, 0, 0, width, height)]


def _diameter(at: list[Seen]) -> float:
    """The middle glomerulus's diameter in level-0 px, by area; 0 without any. Cut ones count where all are cut."""
    areas = np.concatenate([each.found.areas_px for each in at])
    cut = np.concatenate([each.found.touches_edge for each in at])
    areas = np.sort(areas[~cut] if (~cut).any() else areas)
    if not len(areas):
        return 0.0
    middle = areas[np.searchsorted(areas.cumsum(), areas.sum() / 2)]
    return float(2 * math.sqrt(middle / math.pi))


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
