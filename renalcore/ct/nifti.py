"""NIfTI files of a training set, images and label maps alike, turned towards LPS."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from renalcore.ct.steps import LABELS, Grid
from renalcore.errors import InputError, UnreadableFile


def read_nifti(path: Path) -> tuple[NDArray[Any], Grid]:
    """The voxels of a file `(D, H, W)`, to the head, to the back and to the left, and where they lie.

    Axes are permuted and turned around, never interpolated.

    Raises:
        UnreadableFile: It is no NIfTI file of three dimensions, or is cut off.
    """
    import nibabel
    from nibabel.filebasedimages import ImageFileError

    try:
        image: Any = nibabel.as_closest_canonical(nibabel.load(path))
        values = np.asanyarray(image.dataobj)
    except (OSError, EOFError, ValueError, zlib.error, ImageFileError) as error:
        raise UnreadableFile(f"{path.name} is not a whole NIfTI file ({error}); copy it again") from None
    if values.ndim != 3:
        raise UnreadableFile(f"{path.name} has {values.ndim} dimensions; a scan and its labels have 3")
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ image.affine  # NIfTI counts to the right and to the front
    for axis in (0, 1):
        affine[:3, 3] += affine[:3, axis] * (values.shape[axis] - 1)
        affine[:3, axis] *= -1
    turned = values[::-1, ::-1].transpose(2, 1, 0)
    d, h, w = turned.shape
    return turned, Grid((d, h, w), affine)


def read_labelled(name: str, image: Path, segmentation: Path) -> tuple[NDArray[Any], NDArray[np.uint8], Grid]:
    """A scan in HU, its labels of KiTS, and the grid of both.

    Args:
        name: Of the patient, for messages.
        image: The scan.
        segmentation: Its label map.

    Raises:
        UnreadableFile: As `read_nifti`.
        InputError: The two lie on different grids, or there are other labels.
    """
    hu, grid = read_nifti(image)
    labels, of_labels = read_nifti(segmentation)
    if grid.shape != of_labels.shape or not np.allclose(grid.affine, of_labels.affine, atol=0.05):
        raise InputError(f"{name}: the scan and its labels lie on different grids; take both from one release")
    if labels.min(initial=0) < 0 or labels.max(initial=0) > max(LABELS):
        raise InputError(f"{name}: labels are 1 kidney, 2 tumour and 3 cyst; others stand there")
    return hu, labels.astype(np.uint8), grid
