"""Real kidneys with their tumours and cysts, as label maps, and what a drawn one has inside: cortex, medulla, sinus."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from renalcore.ct.nifti import read_label_map
from renalcore.ct.steps import CYST, KIDNEY, TUMOUR, Grid, resample
from renalcore.ct.synthetic.canvas import SmoothField, body_grid
from renalcore.ct.synthetic.tissue import Tissue
from renalcore.errors import InputError

LEAST_KIDNEY_ML: Final = 15.0
"""What is smaller is no kidney of its own but a piece of one."""

_PADDED_MM: Final = 24.0
"""Drawn around the kidneys: the fat that they lie in."""
_SINUS_MM: Final = 12.0
"""Half the width of the gap that the sinus of a kidney opens with."""


@dataclass(frozen=True, slots=True, eq=False)
class KidneyShape:
    """The kidneys of one patient.

    Attributes:
        name: Of the patient.
        labels: `(D, H, W)` uint8, oriented, labels of KiTS; with room around them.
        grid: In the patient's coordinates, see `renalcore.ct.synthetic.canvas`.
        sides: For each kidney its middle `(z, y, x)` in mm.
        low_mm, high_mm: Corners of the box that holds all kidneys with their lesions, `(z, y, x)`.
    """

    name: str
    labels: NDArray[np.uint8]
    grid: Grid
    sides: tuple[tuple[float, float, float], ...]
    low_mm: tuple[float, float, float]
    high_mm: tuple[float, float, float]


def read_shape(path: Path) -> KidneyShape:
    """The kidneys of a label map, laid around the spine of a patient: right and left stay right and left.

    Raises:
        InputError: As `renalcore.ct.nifti.read_label_map`, or the file holds no kidney.
    """
    labels, grid = read_label_map(path)
    if not (labels == KIDNEY).any():
        raise InputError(f"{path.name} holds no kidney (label 1); leave it out")
    spacing = grid.spacing_mm
    margin = [round(_PADDED_MM / mm) for mm in spacing]
    labels = np.pad(labels, [(n, n) for n in margin])
    sides_px = _kidneys(labels, grid.voxel_ml)
    if not sides_px:
        raise InputError(f"{path.name} holds no kidney of at least {LEAST_KIDNEY_ML:.0f} ml; leave it out")
    boxed = ndimage.find_objects((labels > 0).astype(np.uint8))[0]
    middle = _spine(labels, sides_px, spacing)
    to_mm = [(np.array(side) - middle) * spacing for side in sides_px]
    low = (np.array([each.start for each in boxed]) - middle) * spacing
    high = (np.array([each.stop - 1 for each in boxed]) - middle) * spacing
    d, h, w = labels.shape
    centre = ((np.array(labels.shape) - 1) / 2 - middle) * spacing
    return KidneyShape(
        path.name.split(".")[0],
        labels,
        body_grid((d, h, w), spacing.tolist(), centre.tolist()),
        tuple((float(z), float(y), float(x)) for z, y, x in to_mm),
        (float(low[0]), float(low[1]), float(low[2])),
        (float(high[0]), float(high[1]), float(high[2])),
    )


def _kidneys(labels: NDArray[np.uint8], voxel_ml: float) -> list[tuple[float, float, float]]:
    """The middle of each kidney in voxels, the larger first, two at most."""
    coarse = labels[::2, ::2, ::2] > 0
    numbered, _ = ndimage.label(coarse, np.ones((3, 3, 3)))
    volumes = np.bincount(numbered.ravel())[1:] * 8 * voxel_ml
    largest = [int(i) + 1 for i in np.argsort(-volumes)[:2] if volumes[i] >= LEAST_KIDNEY_ML]
    centres = ndimage.center_of_mass(coarse, numbered, largest)
    return [(2 * z, 2 * y, 2 * x) for z, y, x in centres]


def _spine(
    labels: NDArray[np.uint8],
    sides_px: list[tuple[float, float, float]],
    spacing: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Where the middle of the spine is, in voxels: between the two kidneys, or beside the only one.

    The hilum of a single kidney opens towards it.
    """
    z, y = (float(np.mean([side[axis] for side in sides_px])) for axis in (0, 1))
    columns = np.flatnonzero((labels > 0).any((0, 1)))
    if len(sides_px) == 2:
        middle = sum(side[2] for side in sides_px) / 2
        right = columns[columns < middle].max(initial=int(columns.min()))
        left = columns[columns > middle].min(initial=int(columns.max()))
        x = (right + left) / 2 if left - right > 30 / spacing[2] else middle
    else:
        kidney = labels == KIDNEY
        filled = ndimage.binary_closing(kidney[::2, ::2, ::2], iterations=4)
        opening = np.argwhere(filled & ~kidney[::2, ::2, ::2])
        of_sinus = 2 * float(opening[:, 2].mean()) if len(opening) else sides_px[0][2]
        towards = 1 if of_sinus >= sides_px[0][2] else -1
        x = sides_px[0][2] + towards * 70 / spacing[2]
    return np.array([z, y - 4 / spacing[1], x])


def inner_structure(
    shape: KidneyShape, rng: np.random.Generator, noise: SmoothField, *, fat_mm: float
) -> NDArray[np.uint8]:
    """Tissues of the kidneys and of the fat around them on the grid of the shape; 0 where it says nothing.

    Args:
        shape: The kidneys.
        rng: Decides what a tumour is like.
        noise: Makes borders uneven.
        fat_mm: Mean thickness of the fat around the kidneys.
    """
    labels = shape.labels
    coarse = labels[::2, ::2, ::2]
    step = 2 * shape.grid.spacing_mm
    d, h, w = coarse.shape
    first = shape.grid.to_mm([0, 0, 0])[::-1]
    grid = body_grid((d, h, w), step.tolist(), (first + step * (np.array(coarse.shape) - 1) / 2).tolist())

    def full(values: NDArray[np.float64], outside: float) -> NDArray[np.float32]:
        return resample(values, grid, shape.grid, outside=outside)

    solid = coarse > 0
    away = ndimage.distance_transform_edt(~solid, sampling=step)
    hull = ndimage.distance_transform_edt(away < _SINUS_MM, sampling=step) > _SINUS_MM
    hull |= solid
    depth = full(ndimage.distance_transform_edt(hull, sampling=step), 0.0)
    uneven = noise.on(shape.grid)
    tissues = np.zeros(labels.shape, np.uint8)
    tissues[full(away, 99.0) < fat_mm * np.exp(0.5 * uneven)] = Tissue.FAT
    sinus = (full(hull.astype(np.float64), 0.0) > 0.5) & (labels == 0)
    tissues[sinus] = Tissue.SINUS_FAT
    tissues[sinus & (depth > 5) & (uneven > rng.uniform(-0.4, 0.9))] = Tissue.URINE
    tissues[labels == KIDNEY] = Tissue.CORTEX
    rim_mm = rng.uniform(4.5, 7.5)
    pyramids = (labels == KIDNEY) & (depth > rim_mm) & (uneven > rng.uniform(-0.9, -0.2))
    tissues[pyramids] = Tissue.MEDULLA
    tissues[labels == TUMOUR] = Tissue.TUMOUR
    tumour_ml = (labels == TUMOUR).sum() * shape.grid.voxel_ml
    if tumour_ml > 8 and rng.random() < 0.6:
        core = full(ndimage.distance_transform_edt(coarse == TUMOUR, sampling=step), 0.0)
        tissues[(labels == TUMOUR) & (core > rng.uniform(4, 9)) & (uneven > rng.uniform(-0.5, 1.2))] = Tissue.NECROSIS
    tissues[labels == CYST] = Tissue.CYST
    return tissues


OF_TISSUE: Final[NDArray[np.uint8]] = np.zeros(256, np.uint8)
"""The label of KiTS of each tissue."""
OF_TISSUE[[Tissue.CORTEX, Tissue.MEDULLA]] = KIDNEY
OF_TISSUE[[Tissue.TUMOUR, Tissue.NECROSIS]] = TUMOUR
OF_TISSUE[Tissue.CYST] = CYST
OF_TISSUE.setflags(write=False)
