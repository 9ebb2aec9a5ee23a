"""A whole field: what lies where (`plan`), and its picture with exact boxes (`paint`)."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from renalcore import taxonomy
from renalcore.sediment.synthetic.morphology import KINDS
from renalcore.sediment.synthetic.optics import Light, background, photograph, transmission
from renalcore.sediment.synthetic.recipe import (
    COARSEST_UM_PER_PX,
    FINEST_UM_PER_PX,
    LOW_POWER_SHARE,
    LOW_POWER_UM_PER_PX,
    Recipe,
)
from renalcore.sediment.synthetic.sheet import Floats, Sheet, ring

_FAINT, _CLEAR = 0.02, 0.05
"""A pixel belongs to a particle that changes its light by 15 % of the particle's strongest change, within these."""

_LEAST_CHANGE, _LEAST_OVER_NOISE = 0.06, 2.5
"""A particle whose strongest change of the light is weaker than this, or than so many times the noise, is left out."""

_MARGIN_SHARE, _WIDEST_MARGIN_UM = 0.12, 0.8
"""People box a particle with its halo and some background: boxes drawn by hand stand off the rim by about this share
of the longer side, and from large particles by no more than this (measured on RBC, oxalate and yeast of urised2k)."""

_SEEN_SHARE = 0.25
"""A particle of which less lies within the picture is left out: no one could name it."""


@dataclass(frozen=True, slots=True)
class Placed:
    """One particle of a plan: its class, the seed of its looks, its centre and its distance from focus."""

    class_id: int
    seed: int
    x_px: float
    y_px: float
    z_um: float


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that decides a picture; the same plan always gives the same picture."""

    width_px: int
    height_px: int
    um_per_px: float
    light: Light
    debris: float
    seed: int
    particles: tuple[Placed, ...]


@dataclass(frozen=True, slots=True, eq=False)
class RenderedField:
    """A picture and the truth about it.

    Attributes:
        pixels: `(H, W, 3)` uint8 RGB.
        boxes_px: `(N, 4)` float32 `[x1, y1, x2, y2]`, around the pixels that each particle visibly changes, as
            loosely as people box.
        class_ids: `(N,)` int64, indices into `renalcore.taxonomy.CLASSES`.
        um_per_px: Micrometres a pixel.
    """

    pixels: NDArray[np.uint8]
    boxes_px: NDArray[np.float32]
    class_ids: NDArray[np.int64]
    um_per_px: float


def render(
    width_px: int,
    height_px: int,
    *,
    rng: np.random.Generator,
    um_per_px: float | None = None,
    recipe: Recipe | None = None,
) -> RenderedField:
    """Draw one urine-sediment field.

    Args:
        width_px: Width of the picture.
        height_px: Height of the picture.
        rng: Decides everything that is not given; the same state gives the same field.
        um_per_px: Scale; None takes a random one at which a red cell covers 20 to 60 px. If the recipe is left open
            too, some fields are seen through a 10x objective instead, and hold only large particles.
        recipe: What the field holds; None takes a random training mixture of all 39 classes.

    Returns:
        The picture with a box for each particle.

    Raises:
        ValueError: The size or the scale is not positive.
    """
    return paint(plan(width_px, height_px, rng=rng, um_per_px=um_per_px, recipe=recipe))


def plan(
    width_px: int,
    height_px: int,
    *,
    rng: np.random.Generator,
    um_per_px: float | None = None,
    recipe: Recipe | None = None,
) -> Plan:
    """Decide what lies where; see `render` for the arguments."""
    if width_px < 1 or height_px < 1:
        raise ValueError(f"a field must be at least 1 px wide and high, got {width_px} x {height_px}")
    low_power = um_per_px is None and recipe is None and rng.random() < LOW_POWER_SHARE
    if um_per_px is None:
        scales = LOW_POWER_UM_PER_PX if low_power else (FINEST_UM_PER_PX, COARSEST_UM_PER_PX)
        um_per_px = float(np.exp(rng.uniform(*np.log(scales))))
    if not um_per_px > 0:
        raise ValueError(f"um_per_px must be positive, got {um_per_px}")
    if recipe is None:
        sampled = Recipe.sampled_low_power if low_power else Recipe.sampled
        recipe = sampled(rng, width_px * height_px * um_per_px**2)
    light = recipe.light or Light.sampled(rng, round_field=recipe.round_field, low_power=um_per_px > COARSEST_UM_PER_PX)
    particles: list[Placed] = []
    taken = np.empty((0, 3))
    for name, (low, high) in recipe.counts.items():
        for _ in range(int(rng.integers(low, high + 1))):
            radius_px = KINDS[name].radius_um / um_per_px
            x, y = _place(rng, (width_px, height_px), light, taken, radius_px, recipe.crowding)
            taken = np.vstack([taken, (x, y, radius_px)])
            z = light.focus_um + rng.normal(0, light.depth_um)
            particles.append(Placed(taxonomy.class_id(name), int(rng.integers(2**62)), x, y, float(z)))
    order = rng.permutation(len(particles))
    shuffled = tuple(particles[k] for k in order)
    return Plan(width_px, height_px, um_per_px, light, recipe.debris, int(rng.integers(2**62)), shuffled)


def _place(
    rng: np.random.Generator,
    size_px: tuple[int, int],
    light: Light,
    taken: NDArray[np.float64],
    radius_px: float,
    crowding: float,
) -> tuple[float, float]:
    """A centre within the lit field; the freest of several tries unless the sample is crowded."""
    tries = rng.uniform(0, 1, (1 if rng.random() < crowding else 8, 2))
    if light.round_field is not None:
        cx, cy, radius = light.round_field
        reach = radius * min(size_px) * 0.93 * np.sqrt(tries[:, :1])
        angle = 2 * np.pi * tries[:, 1:]
        centres = np.hstack([cx * size_px[0] + reach * np.cos(angle), cy * size_px[1] + reach * np.sin(angle)])
        centres = np.clip(centres, 0, np.array(size_px))
    else:
        centres = tries * np.array(size_px)
    if len(taken) and len(centres) > 1:
        apart = np.linalg.norm(centres[:, None] - taken[None, :, :2], axis=2) - taken[None, :, 2] - radius_px
        clear = np.minimum(apart.min(axis=1), 0.0)
        x, y = centres[int(np.argmax(clear))]
    else:
        x, y = centres[0]
    return float(x), float(y)


def paint(planned: Plan) -> RenderedField:
    """The picture of a plan, and a box for each particle that can be seen in it."""
    rng = np.random.default_rng(planned.seed)
    scene = background(planned.width_px, planned.height_px, planned.light, rng)
    _scatter_debris(scene, planned, rng)
    lit = _lit(planned)
    boxes, class_ids = [], []
    for placed in planned.particles:
        box = _add(scene, placed, planned, lit)
        if box is not None:
            boxes.append(box)
            class_ids.append(placed.class_id)
    pixels = photograph(scene, planned.light, rng, planned.um_per_px)
    return RenderedField(
        pixels,
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(class_ids, np.int64),
        planned.um_per_px,
    )


def _lit(planned: Plan) -> NDArray[np.bool_] | None:
    """Pixels within the eyepiece's disc, or None where all are."""
    if planned.light.round_field is None:
        return None
    cx, cy, radius = planned.light.round_field
    x = np.arange(planned.width_px)[None, :] - cx * planned.width_px
    y = np.arange(planned.height_px)[:, None] - cy * planned.height_px
    inside: NDArray[np.bool_] = x * x + y * y < (radius * min(planned.width_px, planned.height_px)) ** 2
    return inside


def _drawn(placed: Placed, um_per_px: float) -> Sheet:
    """The particle on a grid that suits its size: finer than the picture for small ones, coarser for huge ones."""
    kind = KINDS[taxonomy.NAMES[placed.class_id]]
    across_px = 2 * kind.radius_um / um_per_px
    fineness = 3 if across_px < 24 else 2 if across_px < 60 else 1 if across_px < 420 else 0.6
    return kind.draw(np.random.default_rng(placed.seed), um_per_px / fineness)


def _add(
    scene: Floats, placed: Placed, planned: Plan, lit: NDArray[np.bool_] | None
) -> tuple[int, int, int, int] | None:
    """Multiply one particle into the scene; its box, or None if it would hardly be seen and was left out."""
    sheet = _drawn(placed, planned.um_per_px)
    factor = transmission(sheet, planned.light, placed.z_um)
    ratio = sheet.um_per_px / planned.um_per_px
    width, height = (max(1, round(n * ratio)) for n in factor.shape[1::-1])
    if (width, height) != factor.shape[1::-1]:
        method = cv2.INTER_AREA if ratio < 1 else cv2.INTER_LINEAR
        factor = cv2.resize(factor, (width, height), interpolation=method)
    change = np.abs(factor - 1).max(axis=2)
    if change.max() < max(_LEAST_CHANGE, _LEAST_OVER_NOISE * planned.light.noise):
        return None
    visible = change > np.clip(0.15 * change.max(), _FAINT, _CLEAR)
    left, top = _corner(placed.x_px, width, planned.width_px), _corner(placed.y_px, height, planned.height_px)
    x0, y0 = max(left, 0), max(top, 0)
    x1, y1 = min(left + width, planned.width_px), min(top + height, planned.height_px)
    if x1 <= x0 or y1 <= y0:
        return None
    window = np.s_[y0 - top : y1 - top, x0 - left : x1 - left]
    seen = visible[window] if lit is None else visible[window] & lit[y0:y1, x0:x1]
    columns, rows = np.flatnonzero(seen.any(axis=0)), np.flatnonzero(seen.any(axis=1))
    if not len(columns) or seen.sum() < _SEEN_SHARE * visible.sum():
        return None
    scene[y0:y1, x0:x1] *= factor[window]
    return _boxed((x0 + columns[0], y0 + rows[0], x0 + columns[-1] + 1, y0 + rows[-1] + 1), planned)


def _boxed(rim: tuple[int, int, int, int], planned: Plan) -> tuple[int, int, int, int]:
    """A box `(x1, y1, x2, y2)` as a person draws it around something with this rim."""
    x1, y1, x2, y2 = rim
    margin = round(min(_MARGIN_SHARE * max(x2 - x1, y2 - y1), _WIDEST_MARGIN_UM / planned.um_per_px))
    return (
        int(max(x1 - margin, 0)),
        int(max(y1 - margin, 0)),
        int(min(x2 + margin, planned.width_px)),
        int(min(y2 + margin, planned.height_px)),
    )


def _corner(centre_px: float, extent_px: int, size_px: int) -> int:
    """Where a particle begins along one axis; one larger than half the picture is drawn towards its middle."""
    if extent_px > size_px / 2:
        pull = min(1.0, 2 * extent_px / size_px - 1)
        centre_px += (size_px / 2 - centre_px) * 0.8 * pull
    return round(centre_px - extent_px / 2)


def _scatter_debris(scene: Floats, planned: Plan, rng: np.random.Generator) -> None:
    """What every sample has and nobody boxes: fine haze, dust, shadows far above or below focus."""
    scale, light = planned.um_per_px, planned.light
    size_um = np.array([planned.width_px, planned.height_px]) * scale
    area = float(size_um.prod()) / 16_000
    granular = 20 if rng.random() < 0.12 else 1  # some samples are full of pale grains
    dots = rng.poisson(18 * planned.debris * area * granular)
    tiny = rng.poisson(2 * planned.debris * area) if scale > COARSEST_UM_PER_PX else 0
    if dots or tiny:
        sheet = Sheet.holding(np.array([(0, 0), size_um]), scale * 1.0, margin_um=0)
        grains = sheet.dotted(
            rng.uniform(0, 1, (dots, 2)) * size_um, rng.gamma(2, 0.16, dots), rng.uniform(0.1, 1, dots)
        )
        sheet.opd_um += grains * np.float32(rng.uniform(0.01, 0.05))
        if tiny:  # cells, crystals and yeast too small to tell at low power
            specks = sheet.dotted(
                rng.uniform(0, 1, (tiny, 2)) * size_um, rng.uniform(1, 3.6, tiny), rng.uniform(0.2, 1, tiny)
            )
            sheet.opd_um += specks * np.float32(rng.uniform(0.1, 0.5))
            sheet.tint(specks, np.full(3, rng.uniform(0, 0.5)))
        factor = transmission(sheet, light, light.focus_um + rng.normal(0, 0.5))
        scene *= factor[: planned.height_px, : planned.width_px]
    for _ in range(rng.poisson(1.6 * planned.debris * area)):
        radius = rng.gamma(2, 1.6) + 0.6
        sheet = Sheet.disc(radius + 9, scale * 2)
        body = sheet.domed(sheet.filled(ring(rng, radius, radius * rng.uniform(0.5, 1), rough=0.1)), radius)
        sheet.tint(body, np.full(3, rng.uniform(0.1, 0.8)))
        factor = transmission(sheet, light, rng.choice([-1, 1]) * rng.uniform(5, 14))
        factor = cv2.resize(factor, None, fx=2, fy=2, interpolation=cv2.INTER_LINEAR)
        centre = rng.uniform(0, 1, 2) * (planned.width_px, planned.height_px)
        _multiply(scene, factor, *(np.round(centre - np.array(factor.shape[1::-1]) / 2).astype(int)))


def _multiply(scene: Floats, factor: Floats, left: int, top: int) -> None:
    height, width = factor.shape[:2]
    x0, y0 = max(left, 0), max(top, 0)
    x1, y1 = min(left + width, scene.shape[1]), min(top + height, scene.shape[0])
    if x1 > x0 and y1 > y0:
        scene[y0:y1, x0:x1] *= factor[y0 - top : y1 - top, x0 - left : x1 - left]
