"""At which zoom a slide is shown to the network.

A network knows glomeruli of a certain size in pixels. Where the slide's scale is known, its model's card says the zoom
for a human kidney, and the smaller glomeruli of mice and rats are shown as large; where only the objective is, a 10x
objective is taken for 1 um a pixel, as scanners are built. A picture without either, as a camera gives it, is searched
at several zooms, and the one is kept at which the network is most certain and says the same as at the zooms beside it:
a glomerulus is still one at twice or half its size, and a tubule that is shown as large as a glomerulus is taken for
one at that zoom only. None of this claims a scale: what is measured on such a slide stays in pixels.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from renalcore.histology.glomeruli import TYPICAL_GLOMERULUS_UM, Glomeruli, usual_area
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
_MAP_PX: Final = 256  # longest side of the maps that are compared
_FINER: Final = 1 / 3  # way from the middle size to the greatest, at which outlines are best


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
        map: The probabilities, of one size at all zooms: `(h, w)` float32 in 0..1.
    """

    found: Glomeruli
    inside: float
    above: float
    total: float
    searched: float
    map: NDArray[np.float32]

    @classmethod
    def of(cls, chance: NDArray[np.float32], found: Glomeruli, part: Readable, *, min_score: float) -> Seen:
        """The figures of a part.

        Args:
            chance: `(H, W)` probability of glomerulus in working px.
            found: The glomeruli.
            part: The part.
            min_score: Probability from which a pixel belongs to a glomerulus.
        """
        above = chance >= min_score
        shrink = _MAP_PX / max(part.width_px, part.height_px)
        size = max(1, round(part.width_px * shrink)), max(1, round(part.height_px * shrink))
        small = np.asarray(cv2.resize(chance, size, interpolation=cv2.INTER_AREA), np.float32)
        return cls(found, float(chance[above].sum()), float(above.sum()), float(chance.sum()), chance.size, small)


def downsample_of(scale: InputScale, *, species: str, um_per_px: float | None, objective: float | None) -> float | None:
    """Level-0 px a working px as far as it can be known without looking; None where the picture must be asked.

    Args:
        scale: What the network was trained with.
        species: Whose kidney it is; of one that `TYPICAL_GLOMERULUS_UM` lacks, the picture must be asked.
        um_per_px: Micrometres a level-0 px, where that is known.
        objective: Magnification that the slide was scanned with, where that is known.
    """
    if scale.um_per_px is None and scale.object_px is None:
        return 1.0
    if um_per_px is None and objective:
        um_per_px = 10 / objective
    typical_um = TYPICAL_GLOMERULUS_UM.get(species)
    if scale.um_per_px is None or um_per_px is None or typical_um is None:
        return None if scale.object_px is not None else 1.0
    return scale.um_per_px / um_per_px * typical_um / TYPICAL_GLOMERULUS_UM["human"]


def most_certain(
    slide: Readable,
    tissue: NDArray[np.bool_],
    search: Callable[[Readable, float], Seen],
    object_px: tuple[float, float],
) -> float:
    """The zoom at which a network is most certain of a picture, as level-0 px a working px.

    Zooms lie an octave apart. One is worth the square of the Dice that the network itself expects there, times the mean
    Dice between its map and those of the zooms beside it, times how near the glomeruli found come to the size it was
    trained with, times the fourth roots of the area and of the number found: a network that sees too little of a
    glomerulus is certain of few, and one large vessel proves less than a dozen of one size. The best is then moved so
    that the glomeruli found are a third of the way from the middle to the greatest size trained with: outlines are
    finer there.

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
    same = [_same(finer, coarser) for finer, coarser in itertools.pairwise(seen)]
    worth, sizes = [], []
    for index, (zoom, area, at) in enumerate(zip(zooms, areas, seen, strict=True)):
        size, count = _diameter(at) / zoom, sum(len(each.found) for each in at)
        expected = _ratio(2 * sum(each.inside for each in at), sum(each.above + each.total for each in at))
        near = math.exp(-((math.log2(size / middle) / octaves) ** 2) / 2) if size else 0.0
        beside = same[max(index - 1, 0) : index + 1] or [1.0]  # a picture of one zoom has none beside it
        worth.append(expected**2 * sum(beside) / len(beside) * near * (area * count) ** 0.25)
        sizes.append(size)
    best = int(np.argmax(worth))
    if not worth[best]:
        return zooms[len(zooms) // 2]
    shown = middle * (object_px[1] / middle) ** _FINER
    return zooms[best] * float(np.clip(sizes[best] / shown, 0.5, 2))


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
    """The middle glomerulus's diameter in level-0 px; 0 without any."""
    areas = np.concatenate([each.found.areas_px for each in at])
    cut = np.concatenate([each.found.touches_edge for each in at])
    return 2 * math.sqrt(usual_area(areas, cut) / math.pi)


def _same(finer: list[Seen], coarser: list[Seen]) -> float:
    """Dice between the maps of two zooms."""
    maps = [(one.map, other.map) for one, other in zip(finer, coarser, strict=True)]
    both = sum(float(np.minimum(one, other).sum()) for one, other in maps)
    return _ratio(2 * both, sum(float(one.sum() + other.sum()) for one, other in maps))


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
