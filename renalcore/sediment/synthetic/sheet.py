"""What one particle does to light: a small sheet of optical path and pigment, and the strokes that draw on it.

A particle is drawn in micrometres on a `Sheet`. Two layers are enough for bright-field microscopy: the optical path
difference against the surrounding urine (refractive index difference times thickness), which focus turns into rims
and halos, and the pigment, which absorbs. `optics.transmission` turns both into light.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Layer = NDArray[np.floating[Any]]
Points = NDArray[np.float64]

MARGIN_UM = 2.5
"""Room around a particle for the halo that focus draws outside its edge."""

_SHIFT = 4  # fractional bits of the co-ordinates given to OpenCV: a sixteenth of a pixel


class Sheet:
    """Optical path and pigment on a grid of micrometres whose origin is the particle's centre.

    Attributes:
        opd_um: `(H, W)` optical path difference against urine, in um.
        pigment: `(H, W, 3)` absorbance (natural logarithm) for red, green, blue.
        um_per_px: Scale of this grid, usually finer than the picture's.
        left_um: x of the centre of column 0.
        top_um: y of the centre of row 0.
    """

    def __init__(self, opd_um: Floats, pigment: Floats, um_per_px: float, left_um: float, top_um: float) -> None:
        self.opd_um = opd_um
        self.pigment = pigment
        self.um_per_px = um_per_px
        self.left_um = left_um
        self.top_um = top_um

    @classmethod
    def holding(cls, points_um: Points, um_per_px: float, *, margin_um: float = MARGIN_UM) -> Sheet:
        """An empty sheet that has room for all `points_um`."""
        low = points_um.min(axis=0) - margin_um
        span = points_um.max(axis=0) + margin_um - low
        width, height = (int(n) for n in np.ceil(span / um_per_px) + 1)
        opd = np.zeros((height, width), np.float32)
        return cls(opd, np.zeros((height, width, 3), np.float32), um_per_px, float(low[0]), float(low[1]))

    @classmethod
    def disc(cls, radius_um: float, um_per_px: float) -> Sheet:
        """An empty sheet that has room for a disc of `radius_um` around the origin."""
        return cls.holding(np.array([[-radius_um, -radius_um], [radius_um, radius_um]]), um_per_px)

    def part(self, x_um: float, y_um: float, radius_um: float) -> Sheet:
        """The square around a point as a sheet of its own that shares this one's memory: quick small strokes."""
        col, row = (x_um - self.left_um) / self.um_per_px, (y_um - self.top_um) / self.um_per_px
        reach = radius_um / self.um_per_px + 2
        height, width = self.opd_um.shape
        x0, x1 = (int(np.clip(v, 0, width)) for v in (col - reach, col + reach + 1))
        y0, y1 = (int(np.clip(v, 0, height)) for v in (row - reach, row + reach + 1))
        x1, y1 = max(x1, x0 + 1), max(y1, y0 + 1)
        x0, y0 = min(x0, width - 1), min(y0, height - 1)
        window = np.s_[y0:y1, x0:x1]
        return Sheet(
            self.opd_um[window],
            self.pigment[window],
            self.um_per_px,
            self.left_um + x0 * self.um_per_px,
            self.top_um + y0 * self.um_per_px,
        )

    def grid(self) -> tuple[Floats, Floats]:
        """Co-ordinates in um, x as a row and y as a column, ready to broadcast."""
        height, width = self.opd_um.shape
        x = self.left_um + self.um_per_px * np.arange(width, dtype=np.float32)
        y = self.top_um + self.um_per_px * np.arange(height, dtype=np.float32)
        return x[None, :], y[:, None]

    def turned(self, x_um: float, y_um: float, angle: float) -> tuple[Floats, Floats]:
        """Co-ordinates along and across an axis at `angle` through a point."""
        x, y = self.grid()
        dx, dy = x - np.float32(x_um), y - np.float32(y_um)
        c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
        return c * dx + s * dy, c * dy - s * dx

    def _fixed(self, points_um: Points) -> NDArray[np.int32]:
        px = (np.asarray(points_um) - (self.left_um, self.top_um)) / self.um_per_px
        return np.round(px * (1 << _SHIFT)).astype(np.int32)

    def _blank(self) -> NDArray[np.uint8]:
        return np.zeros(self.opd_um.shape, np.uint8)

    def filled(self, outline_um: Points) -> Floats:
        """1 inside the polygon, 0 outside, fractions on its edge."""
        canvas = self._blank()
        cv2.fillPoly(canvas, [self._fixed(outline_um)], 255, cv2.LINE_AA, _SHIFT)
        return canvas.astype(np.float32) / np.float32(255)

    def stroked(self, lines_um: Sequence[Points], width_um: float, *, closed: bool = False) -> Floats:
        """1 on the lines, 0 elsewhere; a line thinner than a pixel is drawn fainter instead."""
        canvas = self._blank()
        width_px = width_um / self.um_per_px
        fixed = [self._fixed(line) for line in lines_um]
        cv2.polylines(canvas, fixed, closed, 255, max(1, round(width_px)), cv2.LINE_AA, _SHIFT)
        return canvas.astype(np.float32) * np.float32(min(1.0, width_px) / 255)

    def dotted(self, centres_um: Points, radii_um: NDArray[np.float64], weights: NDArray[np.float64]) -> Floats:
        """Discs, each as bright as its weight in 0..1; a disc smaller than a pixel is drawn fainter instead."""
        canvas = self._blank()
        smallest = 0.6 * self.um_per_px
        faint = np.minimum(1.0, (radii_um / smallest) ** 2)
        values = np.clip(255 * weights * faint, 0, 255).astype(int).tolist()
        radii = np.round(np.maximum(radii_um, smallest) / self.um_per_px * (1 << _SHIFT)).astype(int).tolist()
        for (x, y), radius, value in zip(self._fixed(centres_um).tolist(), radii, values, strict=True):
            cv2.circle(canvas, (x, y), radius, value, -1, cv2.LINE_AA, _SHIFT)
        return blurred(canvas.astype(np.float32) / np.float32(255), 0.5)  # grains are round, also when of a pixel

    def softened(self, mask: Layer, sigma_um: float) -> Floats:
        """`mask` blurred by a Gaussian of `sigma_um`."""
        return blurred(mask, sigma_um / self.um_per_px)

    def depth_um(self, mask: Layer) -> Floats:
        """Distance of each point inside `mask` from its edge."""
        inside = (mask > 0.5).astype(np.uint8)
        inside[0, :] = inside[-1, :] = inside[:, 0] = inside[:, -1] = 0
        distance: Floats = cv2.distanceTransform(inside, cv2.DIST_L2, 5)
        return np.maximum(distance - 1 + mask, 0) * np.float32(self.um_per_px) * (mask > 0)

    def domed(self, mask: Layer, edge_um: float) -> Floats:
        """A pillow over `mask`: 0 at the edge, rising like a quarter circle to 1 at `edge_um` inside it."""
        rise = np.clip(1 - self.depth_um(mask) / np.float32(edge_um), 0, 1)
        return blurred(np.sqrt(1 - rise * rise), 0.7)  # the grid's stairs are not part of the particle

    def noise(self, rng: np.random.Generator, grain_um: float) -> Floats:
        """Smooth random texture of zero mean and unit spread, with features about `grain_um` wide."""
        height, width = self.opd_um.shape
        step = max(grain_um / self.um_per_px, 1.0)
        coarse = rng.standard_normal((int(height / step) + 3, int(width / step) + 3), np.float32)
        size = (int(coarse.shape[1] * step) + 1, int(coarse.shape[0] * step) + 1)
        fine: Floats = cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC)
        return np.asarray(fine[:height, :width] * np.float32(1.2))

    def tint(self, amount: Layer, colour: Layer) -> None:
        """Add pigment of `colour` (absorbance for red, green, blue) where `amount` says."""
        for channel, absorbance in enumerate(colour.tolist()):
            self.pigment[..., channel] += amount * np.float32(absorbance)

    def ball(self, x_um: float, y_um: float, radius_um: float, index_step: float) -> None:
        """Add the optical path of a sphere: a droplet, a granule, a swollen cell."""
        view = self.part(x_um, y_um, radius_um)
        x, y = view.grid()
        squared = np.float32(radius_um**2) - (x - np.float32(x_um)) ** 2 - (y - np.float32(y_um)) ** 2
        view.opd_um += np.float32(2 * index_step) * np.sqrt(np.maximum(squared, 0))


def blurred(layer: Layer, sigma_px: float) -> Floats:
    """`layer` under a Gaussian; a wide one is taken on a smaller grid, which looks the same and is quick."""
    if sigma_px < 0.25:
        return layer.astype(np.float32, copy=False)
    if sigma_px > 6 and min(layer.shape[:2]) > 24:
        height, width = layer.shape[:2]
        small = cv2.resize(layer, (width // 3 + 1, height // 3 + 1), interpolation=cv2.INTER_AREA)
        small = cv2.GaussianBlur(small, (0, 0), sigma_px / 3)
        wide: Floats = cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
        return wide
    narrow: Floats = cv2.GaussianBlur(layer, (0, 0), sigma_px)
    return narrow


# Outlines: closed polygons in um around the origin.


def turn(points_um: Points, angle: float, about: tuple[float, float] = (0, 0)) -> Points:
    """`points_um` turned about the origin, which is then moved to `about`."""
    c, s = np.cos(angle), np.sin(angle)
    return np.asarray(points_um @ np.array([[c, s], [-s, c]]) + np.array(about))


def ring(
    rng: np.random.Generator, radius_x_um: float, radius_y_um: float, *, rough: float = 0.03, waves: int = 6
) -> Points:
    """A rounded outline: an ellipse whose radius wavers by about `rough` of itself, in up to `waves` lobes."""
    theta = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    order = np.arange(2, waves + 2)
    swing = rng.normal(0, rough, len(order)) / np.sqrt(order - 1)
    phase = rng.uniform(0, 2 * np.pi, len(order))
    radius = 1 + (swing[:, None] * np.cos(order[:, None] * theta + phase[:, None])).sum(axis=0)
    return np.stack([radius_x_um * radius * np.cos(theta), radius_y_um * radius * np.sin(theta)], axis=1)


def corners(rng: np.random.Generator, radius_um: float, count: int, *, uneven: float = 0.2) -> Points:
    """An irregular polygon of `count` corners."""
    theta = np.sort((np.arange(count) + rng.uniform(-uneven, uneven, count)) * 2 * np.pi / count)
    radius = radius_um * rng.uniform(1 - uneven, 1 + uneven, count)
    return turn(np.stack([radius * np.cos(theta), radius * np.sin(theta)], axis=1), rng.uniform(0, 2 * np.pi))


def rounded(outline_um: Points, times: int = 2) -> Points:
    """The polygon with its corners cut `times` times (Chaikin): soft, still lop-sided."""
    for _ in range(times):
        after = np.roll(outline_um, -1, axis=0)
        outline_um = np.stack([0.75 * outline_um + 0.25 * after, 0.25 * outline_um + 0.75 * after], axis=1).reshape(
            -1, 2
        )
    return outline_um


def wander(rng: np.random.Generator, length_um: float, *, bend: float, steps: int = 40) -> Points:
    """A smooth line whose direction swings by about `bend` radians, centred on the origin, heading anywhere."""
    s = np.linspace(0, 1, steps)
    waves = np.array([0.5, 1.0, 1.7, 2.6])
    swing = rng.normal(0, bend, len(waves)) / (1 + waves)
    angle = rng.uniform(0, 2 * np.pi) + swing @ np.sin(2 * np.pi * waves[:, None] * s + rng.uniform(0, 6.3, (4, 1)))
    line = np.cumsum(np.stack([np.cos(angle), np.sin(angle)], axis=1), axis=0) * length_um / steps
    return centred(line)


def tube(line_um: Points, widths_um: NDArray[np.float64]) -> Points:
    """The outline of a ribbon along `line_um` that is `widths_um` wide at each of its points."""
    along = np.gradient(line_um, axis=0)
    along /= np.linalg.norm(along, axis=1, keepdims=True) + 1e-9
    normal = np.stack([-along[:, 1], along[:, 0]], axis=1) * widths_um[:, None] / 2
    return np.concatenate([line_um + normal, (line_um - normal)[::-1]])


def centred(points_um: Points) -> Points:
    """`points_um` moved so that their bounding box lies around the origin."""
    moved: Points = points_um - (points_um.min(axis=0) + points_um.max(axis=0)) / 2
    return moved


def scattered(rng: np.random.Generator, sheet: Sheet, mask: Layer, count: int) -> Points:
    """Up to `count` random points in um that fall inside `mask`."""
    height, width = mask.shape
    tries = 3 * count + 8
    rows, cols = rng.uniform(0, height - 1, tries), rng.uniform(0, width - 1, tries)
    inside = mask[rows.astype(int), cols.astype(int)] > 0.5
    points = np.stack([cols[inside], rows[inside]], axis=1)[:count]
    return np.asarray(points * sheet.um_per_px + (sheet.left_um, sheet.top_um))


def packed(rng: np.random.Generator, count: int, spacing_um: float) -> Points:
    """Centres of `count` neighbours that touch, grown one beside another into a lump around the origin."""
    placed = [np.zeros(2)]
    for _ in range(count - 1):
        angle = rng.uniform(0, 2 * np.pi, 8)
        start = np.array(placed)[rng.integers(len(placed), size=8)]
        tried = start + spacing_um * np.stack([np.cos(angle), np.sin(angle)], axis=1)
        gap = np.linalg.norm(tried[:, None] - np.array(placed)[None], axis=2).min(axis=1)
        placed.append(tried[int(np.argmax(gap - 0.15 * np.linalg.norm(tried, axis=1) / spacing_um))])
    points = np.array(placed)
    return centred(points)
