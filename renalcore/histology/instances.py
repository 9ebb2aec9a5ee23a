"""From a map of probabilities to single glomeruli.

What is connected (8 neighbours) above the model's threshold is one glomerulus, or several that touch. Those are told
apart by their cores, the network's second answer: the watershed of the distance from the cores, where each pixel goes
to its nearest one. Holes are filled, outlines are drawn at the threshold between pixels (marching squares,
Lorensen and Cline, SIGGRAPH 1987) and simplified (Douglas and Peucker, 1973) by less than half a pixel of the map.

Glomeruli are round, and those of one slide are alike in size. What has large bays is left out, and so is what is whole
and far smaller than the slide's other glomeruli. Of 952 glomeruli that people outlined in 162 fields, 4 have such bays
and 5 are so small. What ends within two pixels of the picture's edge is said to be cut by it: in the fields of the
README's figures 8 of 16 outlines that end between half a pixel and two were of cut glomeruli, 2 were of whole ones, and
the others were of none.

Blocks are joined in order. What reaches the last finished row waits for the next block, so a glomerulus is looked at
once, whole, wherever blocks happen to meet.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import contourpy
import cv2
import numpy as np
from numpy.typing import NDArray

from renalcore.histology.glomeruli import Glomeruli, usual_area
from renalcore.histology.tiles import FULL, BlockResult, Layout

CORE_SCORE: Final = 0.5
"""Probability from which a pixel belongs to a core."""

_CORE_LEAST: Final = 0.5  # diameter of the smallest core that counts, in those of the smallest glomerulus
_LEAST_SOLID: Final = 0.8  # area of a glomerulus in that of its convex hull
_LEAST_OF_USUAL: Final = 0.4  # diameter of the smallest glomerulus in those of the slide's middle one
_TOLERANCE_PX: Final = 0.35  # what simplifying may move an outline, in working px
_EDGE_PX: Final = 2.0  # within which an outline that the edge cuts ends: networks are less sure there
_WAITING_ROWS: Final = 2048  # the most that waits for the next block, in working px: 20 glomeruli in a column
_EIGHT: Final = np.ones((3, 3), np.bool_)


@dataclass(frozen=True, slots=True, eq=False)
class Instance:
    """One glomerulus in working px.

    Attributes:
        outline: `(N, 2)` float64, x and y, closed implicitly.
        score: Mean probability inside.
        area: Of the outline before it was simplified.
        touches_edge: The picture's edge cuts it.
    """

    outline: NDArray[np.float64]
    score: float
    area: float
    touches_edge: bool


def join(results: Iterable[BlockResult]) -> Glomeruli:
    """The glomeruli of a slide.

    Args:
        results: Those of all blocks of the slide, in their order; they may be read from a store one by one.

    Returns:
        Glomeruli from top to bottom.

    Raises:
        ValueError: There is no result, they are of different slides, or not in order.
    """
    joiner: Joiner | None = None
    found: list[Instance] = []
    for result in results:
        joiner = joiner or Joiner(result.block.layout)
        found += joiner.add(result)
    if joiner is None:
        raise ValueError("a slide has at least one block")
    found += joiner.finish()
    layout = joiner.layout
    areas, cut = np.array([each.area for each in found]), np.array([each.touches_edge for each in found], np.bool_)
    usual = usual_area(areas, cut)
    found = [each for each in found if each.touches_edge or each.area >= _LEAST_OF_USUAL**2 * usual]
    found.sort(key=lambda each: (each.outline[:, 1].min(), each.outline[:, 0].min()))
    scale = layout.downsample
    limits = np.array([layout.width_px, layout.height_px], np.float64)
    return Glomeruli(
        tuple((each.outline * scale).clip(0, limits).astype(np.float32) for each in found),
        np.array([each.score for each in found], np.float32),
        np.array([each.area * scale**2 for each in found], np.float64),
        np.array([each.touches_edge for each in found], np.bool_),
        layout.tissue_px,
        layout.um_per_px,
    )


class Joiner:
    """Takes a slide's results in order and gives each glomerulus once, as soon as it is whole.

    Holds the rows that are not finished and what reaches into them, never the slide.

    Args:
        layout: Of the slide.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self._top = 0
        self._sums = np.zeros((2, 0, layout.columns.length_px), np.uint16)

    def add(self, result: BlockResult) -> list[Instance]:
        """Take the next block; the glomeruli that it completes.

        Raises:
            ValueError: It is of another slide, or not the next one.
        """
        block = result.block
        bottom = self._top + self._sums.shape[1]
        if block.layout != self.layout or block.top_px < self._top:
            raise ValueError("blocks are joined in their order, and those of one slide only")
        done = self._finish_rows(min(block.top_px, bottom), last=block.top_px > bottom)
        if not self._sums.shape[1]:
            self._top, self._sums = block.top_px, result.sums
            return done
        longer = np.zeros((2, max(block.bottom_px, bottom) - self._top, self._sums.shape[2]), np.uint16)
        longer[:, : self._sums.shape[1]] = self._sums
        longer[:, block.top_px - self._top : block.bottom_px - self._top] += result.sums
        self._sums = longer
        return done

    def finish(self) -> list[Instance]:
        """The glomeruli that were waiting for another block."""
        return self._finish_rows(self._top + self._sums.shape[1], last=True)

    def _finish_rows(self, end: int, *, last: bool) -> list[Instance]:
        """The glomeruli that end above row `end`, or at it where nothing follows; forgets the rows not needed again."""
        rows = end - self._top
        if not rows:
            return []
        finished = self._sums[:, :rows]
        mask = (finished[0] >= self.layout.min_score * FULL).astype(np.uint8)
        _, labels, boxes, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
        tops = boxes[:, cv2.CC_STAT_TOP]
        waiting = (tops + boxes[:, cv2.CC_STAT_HEIGHT] == rows) & (tops >= rows - _WAITING_ROWS) & (not last)
        waiting[0] = False
        found: list[Instance] = []
        for label in (np.flatnonzero(~waiting[1:]) + 1).tolist():
            left, top, width, height = (int(value) for value in boxes[label, :4])
            found += self._instances(labels, label, top, left, top + height, left + width)
        kept_from = int(min(tops[waiting], default=rows))
        kept_from = max(kept_from - 1, 0)  # with the row above, in which the outline is drawn
        sums = self._sums[:, kept_from:].copy()
        told = labels[kept_from:]
        sums[:, : rows - kept_from][:, (told > 0) & ~waiting[told]] = 0
        self._top, self._sums = (end, sums[:, :0]) if last else (self._top + kept_from, sums)
        return found

    def _instances(
        self, labels: NDArray[np.int32], label: int, top: int, left: int, bottom: int, right: int
    ) -> Iterator[Instance]:
        # One row and column more on each side; beyond the map there is nothing.
        height, width = labels.shape
        window = slice(max(top - 1, 0), min(bottom + 1, height)), slice(max(left - 1, 0), min(right + 1, width))
        pad = ((int(top < 1), int(bottom + 1 > height)), (int(left < 1), int(right + 1 > width)))
        mask = np.pad(labels[window] == label, pad)
        core, chance = (np.pad(self._sums[(channel, *window)], pad) for channel in (1, 0))
        layout = self.layout
        whole = layout.columns.length_px, layout.rows.length_px
        for outline, score, area in separate(
            chance.astype(np.float32) / np.float32(FULL),
            core.astype(np.float32) / np.float32(FULL),
            mask,
            layout.min_score,
            layout.least_px,
        ):
            place = outline + np.array([left - 1, self._top + top - 1])
            at_edge = (place.min(axis=0) <= _EDGE_PX) | (place.max(axis=0) >= np.array(whole) - _EDGE_PX)
            yield Instance(place, score, area, bool(at_edge.any()))


def separate(
    chance: NDArray[np.float32], core: NDArray[np.float32], mask: NDArray[np.bool_], min_score: float, least_px: float
) -> Iterator[tuple[NDArray[np.float64], float, float]]:
    """The glomeruli in one connected part of a map.

    Args:
        chance: `(H, W)` probability of glomerulus, with a border of at least one pixel about the part.
        core: `(H, W)` probability of core.
        mask: `(H, W)`, the part, above `min_score`.
        min_score: The level at which outlines are drawn.
        least_px: Diameter below which something is no glomerulus.

    Yields:
        Outline `(N, 2)` with (0, 0) the corner of the first pixel, mean probability inside, and area.
    """
    from scipy import ndimage  # a fifth of a worker's start

    least_area = np.pi / 4 * least_px**2
    if mask.sum() < least_area:
        return
    for (rows, columns), part in _parts(mask, core, least_px):
        near = chance[rows, columns]
        level = np.where((near >= min_score) & ~part, 0, near)  # without its neighbours
        filled = ndimage.binary_fill_holes(part)
        level[filled & ~part] = 1
        contour = _outline(level, min_score)
        if contour is None or (area := cv2.contourArea(contour)) < least_area:
            continue
        if area < _LEAST_SOLID * cv2.contourArea(cv2.convexHull(contour)):
            continue
        simple = cv2.approxPolyDP(contour, _TOLERANCE_PX, True).reshape(-1, 2)
        if len(simple) >= 3:
            score = float(np.clip(near[part].mean(), 0, 1))
            yield simple.astype(np.float64) + np.array([columns.start + 0.5, rows.start + 0.5]), score, float(area)


def _parts(
    mask: NDArray[np.bool_], core: NDArray[np.float32], least_px: float
) -> Iterator[tuple[tuple[slice, slice], NDArray[np.bool_]]]:
    """Each glomerulus of a connected part: a window with a pixel to spare on each side, and where it lies in that."""
    from scipy import ndimage

    seeds, count = ndimage.label((core >= CORE_SCORE) & mask, _EIGHT)
    sizes = np.bincount(seeds.ravel(), minlength=count + 1)
    large = np.flatnonzero(sizes[1:] >= np.pi / 4 * (_CORE_LEAST * least_px) ** 2) + 1
    if len(large) < 2:
        yield (slice(0, mask.shape[0]), slice(0, mask.shape[1])), mask
        return
    seeds[~np.isin(seeds, large)] = 0
    nearest = ndimage.distance_transform_edt(seeds == 0, return_distances=False, return_indices=True)
    owner = np.where(mask, seeds[tuple(nearest)], 0)
    windows = ndimage.find_objects(owner)
    for label in large.tolist():
        rows, columns = (slice(side.start - 1, side.stop + 1) for side in windows[label - 1])
        pieces, _ = ndimage.label(owner[rows, columns] == label)
        own = np.bincount(pieces[seeds[rows, columns] == label]).argmax()  # not what lies beyond a gap
        yield (rows, columns), pieces == own


def _outline(level: NDArray[np.float32], at: float) -> NDArray[np.float32] | None:
    """The longest closed line at the height `at`, through pixel centres at whole numbers."""
    lines = contourpy.contour_generator(z=level).lines(at)
    closed = [np.asarray(line[:-1], np.float32) for line in lines if len(line) > 3]
    return max(closed, key=lambda line: abs(cv2.contourArea(line)), default=None)
