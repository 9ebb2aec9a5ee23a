"""Small patients in the form of KiTS: two kidneys as ellipsoids, a tumour on one of them and a cyst in the other, and
some muscle behind; the rest is fat."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
from numpy.typing import NDArray

SPACING_MM = 4.0
SHAPE = (60, 40, 40)
"""Voxels to the right, to the front and to the head: 240 x 160 x 160 mm."""


def labels() -> NDArray[np.uint8]:
    """Kidneys 64 mm to the right and to the left of the middle, 88 mm long."""
    x, y, z = (
        (np.arange(n) - (n - 1) / 2).reshape([-1 if i == k else 1 for i in range(3)]) * SPACING_MM
        for k, n in enumerate(SHAPE)
    )
    found = np.zeros(SHAPE, np.uint8)
    for side in (-1, 1):
        found[((x - 64 * side) / 24) ** 2 + (y / 26) ** 2 + (z / 44) ** 2 < 1] = 1
    found[(x - 76) ** 2 + y**2 + (z - 22) ** 2 < 15**2] = 2  # NIfTI counts to the right: the right kidney
    found[(x + 70) ** 2 + y**2 + (z + 16) ** 2 < 11**2] = 3
    return found


def write_labels(path: Path, found: NDArray[np.uint8] | None = None) -> None:
    """A label map as it lies in `kits23_shapes`."""
    affine = np.diag([SPACING_MM, SPACING_MM, SPACING_MM, 1.0])
    nibabel.save(nibabel.Nifti1Image(labels() if found is None else found, affine), path)


def write_case(folder: Path, *, seed: int = 0) -> None:
    """A scan with its labels, as KiTS has them: the first axis runs to the feet, the last to the left."""
    folder.mkdir(parents=True)
    found = labels()
    hu = np.array([-100, 130, 70, 10], np.float32)[found]
    hu[27:33, :6] = 60  # muscle behind
    hu += np.random.default_rng(seed).normal(0, 10, SHAPE).astype(np.float32)
    affine = np.zeros((4, 4))
    affine[0, 2] = affine[1, 1] = affine[2, 0] = -SPACING_MM
    affine[3, 3] = 1
    for name, values in (("imaging", hu.astype(np.int16)), ("segmentation", found)):
        turned = np.ascontiguousarray(values[::-1, ::-1, ::-1].transpose(2, 1, 0))
        nibabel.save(nibabel.Nifti1Image(turned, affine), folder / f"{name}.nii.gz")
