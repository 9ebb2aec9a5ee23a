"""A drawn scan: one patient in one contrast phase on one scanner, looked at on any grid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from renalcore.ct.steps import AIR_HU, Grid, resample_labels
from renalcore.ct.synthetic.body import Body, draw_body, paint_body
from renalcore.ct.synthetic.canvas import SmoothField, body_grid
from renalcore.ct.synthetic.kidneys import OF_TISSUE, KidneyShape, inner_structure
from renalcore.ct.synthetic.tissue import Palette, Tissue, draw_palette, randomised_palette

_BEND_SCALE_MM = 70.0
_UNEVEN_MM = 13.0

_GIVES_WAY = np.zeros(256, np.bool_)
"""What the fat around the kidneys covers: organs, bowel and muscle, neither bone nor large vessels."""
_GIVES_WAY[[Tissue.LIVER, Tissue.SPLEEN, Tissue.PANCREAS, Tissue.BILE, Tissue.MUSCLE, Tissue.PORTAL_VEIN]] = True
_GIVES_WAY[[Tissue.WALL, Tissue.FLUID, Tissue.GAS, Tissue.FAECES, Tissue.ORAL_CONTRAST, Tissue.AIR]] = True


@dataclass(frozen=True, slots=True)
class Scanner:
    """How a scan was made.

    Attributes:
        slice_mm: Thickness of a slice.
        blur_mm: Sigma of the blur within a slice.
        noise_hu: Deviation in voxels of 1 mm; larger ones have less.
        field_mm: Radius of what was reconstructed.
        feet_mm, head_mm: Where the scan begins and ends, from the middle of the kidneys.
    """

    slice_mm: float
    blur_mm: float
    noise_hu: float
    field_mm: float
    feet_mm: float
    head_mm: float


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """A drawn scan. The same seed and kidneys give the same one.

    Attributes:
        body: The patient.
        palette: How bright each tissue is.
        scanner: What was scanned, and how well.
        kidneys: Tissues of the kidneys on the grid of their shape.
        bend: Fields that displace everything but the kidneys.
        seed: Of textures and noise.
    """

    body: Body
    palette: Palette
    scanner: Scanner
    kidneys: NDArray[np.uint8]
    bend: tuple[SmoothField, SmoothField, SmoothField]
    seed: int

    def scan(self, *, spacing_mm: float = 1.5) -> Grid:
        """The grid of the whole scan."""
        height = self.scanner.head_mm - self.scanner.feet_mm
        centre = (self.scanner.feet_mm + self.scanner.head_mm) / 2
        side = 2 * round(210 / spacing_mm)
        shape = (round(height / spacing_mm), side, side)
        return body_grid(shape, (spacing_mm,) * 3, (centre, self.body.middle_y_mm, 0))

    def render(self, grid: Grid) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
        """HU and labels of KiTS on a grid of the patient's coordinates, both of its shape."""
        tissues = paint_body(self.body, grid, list(self.bend)).tissues
        drawn = resample_labels(self.kidneys, self.body.shape.grid, grid)
        soft = np.isin(drawn, (Tissue.FAT, Tissue.SINUS_FAT))
        paint = ((drawn > 0) & ~soft) | (soft & _GIVES_WAY[tissues])
        tissues[paint] = drawn[paint]
        hu = self._hu(tissues, grid)
        labels = OF_TISSUE[tissues]
        outside = self._unscanned(grid)
        hu[outside] = AIR_HU
        labels[outside] = 0
        return hu, labels

    def _hu(self, tissues: NDArray[np.uint8], grid: Grid) -> NDArray[np.int16]:
        rng = np.random.default_rng(self.seed)
        spacing = grid.spacing_mm
        palette, scanner = self.palette, self.scanner
        hu = palette.mean[tissues]
        for table, scale_mm in ((palette.coarse, 22.0), (palette.fine, 5.5)):
            hu += table[tissues] * SmoothField.drawn(rng, scale_mm, over=grid).on(grid)
        hu = ndimage.gaussian_filter(hu, point_spread(scanner.slice_mm, scanner.blur_mm, spacing), truncate=2.5)
        noise = rng.standard_normal(grid.shape, np.float32)
        noise = ndimage.gaussian_filter(noise, np.array([scanner.slice_mm / 2.7, 0.7, 0.7]) / spacing, truncate=2.5)
        fewer = np.sqrt(np.prod(np.minimum(1 / spacing, 1.0)))  # a coarse voxel is the mean of many
        hu += noise * np.float32(scanner.noise_hu * max(fewer, 0.25) / max(float(noise.std()), 1e-6))
        return np.asarray(np.clip(np.rint(hu), -1024, 3071), np.int16)

    def _unscanned(self, grid: Grid) -> NDArray[np.bool_]:
        x, y, z = (
            grid.affine[k, 3] + grid.affine[k, k] * np.arange(grid.shape[2 - k]) for k in range(3)
        )  # grids of the patient's coordinates are not turned
        beyond = (z < self.scanner.feet_mm) | (z > self.scanner.head_mm)
        round_field = np.hypot(y[:, None] - self.body.middle_y_mm, x) > self.scanner.field_mm
        unscanned: NDArray[np.bool_] = beyond[:, None, None] | round_field
        return unscanned


def point_spread(slice_mm: float, blur_mm: float, spacing_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    """By how much a scanner blurs along D, H and W: the sigmas in voxels of this spacing.

    Args:
        slice_mm: Thickness of a slice.
        blur_mm: Sigma within a slice.
        spacing_mm: Of the voxels, each of which is the mean of what it covers.
    """
    return np.asarray(np.hypot([slice_mm / 2.7, blur_mm, blur_mm], 0.45 * spacing_mm) / spacing_mm, np.float64)


def draw_scene(shape: KidneyShape, seed: int, *, randomised: bool = False) -> Scene:
    """A scan of a patient with these kidneys.

    Args:
        shape: The kidneys, which are not changed.
        seed: Of everything else.
        randomised: Each tissue is as bright as chance has it, instead of as in a contrast phase.
    """
    rng = np.random.default_rng(seed)
    body = draw_body(shape, rng)
    fields = tuple(SmoothField.drawn(rng, _BEND_SCALE_MM) for _ in range(3))
    uneven = SmoothField.drawn(rng, _UNEVEN_MM)
    kidneys = inner_structure(shape, rng, uneven, fat_mm=body.perirenal_mm)
    scanner = Scanner(
        slice_mm=float(rng.choice([1.0, 1.5, 2.5, 3.0, 5.0])),
        blur_mm=float(rng.uniform(0.4, 0.9)),
        noise_hu=float(np.exp(rng.uniform(np.log(9), np.log(48)))),
        field_mm=float(rng.uniform(170, 250)),
        feet_mm=shape.low_mm[0] - float(rng.uniform(5, 190)),
        head_mm=shape.high_mm[0] + float(rng.uniform(10, 120)),
    )
    palette = randomised_palette(rng) if randomised else draw_palette(rng)
    return Scene(body, palette, scanner, kidneys, (fields[0], fields[1], fields[2]), int(rng.integers(2**31)))
