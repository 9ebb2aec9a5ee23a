"""A grid on which tissues are painted one over the other, in coordinates that a smooth random field has bent.

Points are `(z, y, x)` in mm of the drawn patient: to the head, to the back, to the left, from the middle of the spine
at the level of the kidneys.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from renalcore.ct.steps import Grid, resample
from renalcore.ct.synthetic.tissue import Tissue

Floats = NDArray[np.float32]
Window = tuple[slice, slice, slice]

_REACH_MM = 340.0
"""Beyond this in any direction nothing is drawn."""
_BENT_MM = 12.0
"""By how much coordinates are bent at most: what is painted is looked for this far around."""


def body_grid(shape: tuple[int, int, int], spacing_mm: Sequence[float], centre_mm: Sequence[float]) -> Grid:
    """A grid in the patient's coordinates, of which `centre_mm` `(z, y, x)` is the middle."""
    affine = np.diag([*spacing_mm[::-1], 1.0])
    middle = np.asarray(spacing_mm) * (np.array(shape) - 1) / 2
    affine[:3, 3] = (np.asarray(centre_mm) - middle)[::-1]
    return Grid(shape, affine)


@dataclass(frozen=True, slots=True)
class SmoothField:
    """A random field over the whole patient, the same wherever and however finely it is looked at.

    Attributes:
        values: `(D, H, W)` float32 of deviation 1.
        grid: Where they lie.
    """

    values: Floats
    grid: Grid

    @classmethod
    def drawn(cls, rng: np.random.Generator, scale_mm: float, *, over: Grid | None = None) -> SmoothField:
        """A field whose hills are about `scale_mm` wide.

        Args:
            rng: What it is drawn from.
            scale_mm: Size of its hills.
            over: Cover this grid alone, no finer than its voxels: a texture that is looked at nowhere else.
        """
        spacing_mm, sides_mm, centre = scale_mm / 2, np.full(3, 2 * _REACH_MM), (0.0, 0.0, 0.0)
        if over is not None:
            spacing_mm = max(spacing_mm, float(over.spacing_mm.min()))
            sides_mm = over.spacing_mm * over.shape
            x, y, z = over.centre_mm.tolist()
            centre = (z, y, x)
        d, h, w = (np.ceil(sides_mm / spacing_mm).astype(int) + 2).tolist()
        values = ndimage.gaussian_filter(
            rng.standard_normal((d, h, w), np.float32), scale_mm / 2 / spacing_mm, mode="wrap", truncate=3
        )
        return cls(values / values.std(), body_grid((d, h, w), (spacing_mm,) * 3, centre))

    def on(self, grid: Grid) -> Floats:
        """Its values on a grid."""
        return resample(self.values, self.grid, grid, outside=0.0)


class Canvas:
    """Tissues on one grid.

    Args:
        grid: In the patient's coordinates.
        bend: Fields that displace z, y and x.
        bend_mm: Deviation of the displacement.

    Attributes:
        tissues: `(D, H, W)` uint8 of `Tissue`.
        z, y, x: Bent coordinates of each voxel in mm, `(D, H, W)` float32.
    """

    def __init__(self, grid: Grid, bend: Sequence[SmoothField], bend_mm: float) -> None:
        self.grid = grid
        self.tissues = np.zeros(grid.shape, np.uint8)
        self._first, self._step = grid.affine[:3, 3][::-1], grid.spacing_mm
        axes = [
            (start + step * np.arange(count)).astype(np.float32)
            for start, step, count in zip(self._first, self._step, grid.shape, strict=True)
        ]
        coordinates = np.meshgrid(*axes, indexing="ij")
        for axis, field in zip(coordinates, bend, strict=True):
            axis += np.clip(bend_mm * field.on(grid), -_BENT_MM, _BENT_MM)
        self.z, self.y, self.x = coordinates

    def windows(self, low: NDArray[np.float64], high: NDArray[np.float64]) -> list[Window | None]:
        """The voxels between pairs of points `(N, 3)`, with room for the bending; None where the grid has none."""
        begin = np.ceil((low - _BENT_MM - self._first) / self._step).astype(int)
        end = np.floor((high + _BENT_MM - self._first) / self._step).astype(int) + 1
        begin, end = np.maximum(begin, 0), np.minimum(end, self.grid.shape)
        seen = (begin < end).all(1).tolist()
        return [
            (slice(b[0], e[0]), slice(b[1], e[1]), slice(b[2], e[2])) if there else None
            for b, e, there in zip(begin.tolist(), end.tolist(), seen, strict=True)
        ]

    def paint(self, mask: NDArray[np.bool_], tissue: Tissue, *, over: Collection[Tissue] | None = None) -> None:
        """Paint where a mask of the whole grid is true, over some tissues only or over all."""
        self.tissues[mask if over is None else mask & self._any_of(self.tissues, over)] = tissue

    def ellipsoid(
        self,
        centre: Sequence[float],
        radii: Sequence[float],
        tissue: Tissue,
        *,
        over: Collection[Tissue] | None = None,
    ) -> None:
        """Paint an ellipsoid along the axes, bent as everything is."""
        (window,) = self.windows(np.subtract([centre], [radii]), np.add([centre], [radii]))
        if window is None:
            return
        away = sum(
            np.square((axis[window] - np.float32(middle)) / np.float32(radius))
            for axis, middle, radius in zip((self.z, self.y, self.x), centre, radii, strict=True)
        )
        self._fill(window, away < 1, tissue, over)

    def tube(
        self,
        points: NDArray[np.float64],
        radii: NDArray[np.float64] | float,
        tissue: Tissue,
        *,
        over: Collection[Tissue] | None = None,
        gas: float | None = None,
    ) -> None:
        """Paint balls along a line.

        Args:
            points: `(N, 3)`; a smooth line is laid through them.
            radii: Of the balls, one at each point or one for all.
            tissue: What the tube is of.
            over: What may be painted over.
            gas: In units of the radius: what lies further to the front than this (a patient lies on the back) is gas.
        """
        line, widths = smooth_line(points, np.broadcast_to(np.asarray(radii, np.float64), (len(points),)))
        windows = self.windows(line - widths[:, None], line + widths[:, None])
        for centre, radius, window in zip(line.tolist(), widths.tolist(), windows, strict=True):
            if window is None:
                continue
            front = self.y[window] - np.float32(centre[1])
            away = np.square(self.z[window] - np.float32(centre[0])) + np.square(front)
            away += np.square(self.x[window] - np.float32(centre[2]))
            inside = away < np.float32(radius**2)
            self._fill(window, inside, tissue, over)
            if gas is not None:
                allowed = {tissue} if over is None else {tissue, *over}
                self._fill(window, inside & (front < gas * radius), Tissue.GAS, allowed)

    def _fill(self, window: Window, mask: NDArray[np.bool_], tissue: Tissue, over: Collection[Tissue] | None) -> None:
        part = self.tissues[window]
        part[mask if over is None else mask & self._any_of(part, over)] = tissue

    @staticmethod
    def _any_of(tissues: NDArray[np.uint8], names: Collection[Tissue]) -> NDArray[np.bool_]:
        table = np.zeros(256, np.bool_)
        table[list(names)] = True
        return table[tissues]


def smooth_line(
    points: NDArray[np.float64], radii: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A line through points at steps of 0.45 radii, rounded at its corners, and the radius at each step."""
    lengths = np.linalg.norm(np.diff(points, axis=0), axis=1)
    along = np.concatenate([[0], np.cumsum(lengths)])
    steps = np.linspace(0, along[-1], max(2, int(np.ceil(along[-1] / (0.45 * radii.min()))) + 1))
    line = np.stack([np.interp(steps, along, points[:, axis]) for axis in range(3)], axis=1)
    if len(points) > 2:
        rounded = len(steps) / (len(points) - 1) / 2.5
        line = ndimage.gaussian_filter1d(line, rounded, axis=0, mode="nearest")
    return line, np.interp(steps, along, radii)
