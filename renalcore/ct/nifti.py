"""NIfTI files of a training set, images and label maps alike, turned towards LPS."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from renalcore.ct.steps import LABELS, Grid
from renalcore.errors import InputError
from renalcore.io.volume.entries import damaged, opened
from renalcore.io.volume.nifti import header


def read_nifti(path: Path) -> tuple[NDArray[Any], Grid]:
    """The voxels of a file `(D, H, W)`, to the head, to the back and to the left, and where they lie in mm.

    Axes are permuted and turned around, never interpolated.

    Raises:
        UnreadableFile: As `renalcore.io.volume.nifti.header`, or its numbers are cut off.
    """
    import nibabel
    from nibabel.filebasedimages import ImageFileError

    with opened([path], name=_called(path)) as entries:
        stated = header(entries[0])
    try:
        values = np.asanyarray(nibabel.load(path).dataobj)
    except (OSError, EOFError, ValueError, zlib.error, ImageFileError):
        raise damaged(_called(path)) from None
    values = values.reshape(stated.shape[::-1])
    turn = nibabel.io_orientation(stated.affine)
    turned = nibabel.apply_orientation(values, turn).transpose(2, 1, 0)
    d, h, w = turned.shape
    return turned, Grid((d, h, w), stated.affine @ nibabel.orientations.inv_ornt_aff(turn, values.shape))


def read_label_map(path: Path) -> tuple[NDArray[np.uint8], Grid]:
    """The labels of KiTS in a file, as `read_nifti` gives them.

    Raises:
        UnreadableFile: As `read_nifti`.
        InputError: There are other labels, or numbers that are not whole.
    """
    values, grid = read_nifti(path)
    if 0 <= values.min(initial=0) <= values.max(initial=0) <= max(LABELS):  # false of NaN
        labels = values.astype(np.uint8)
        if np.array_equal(labels, values):
            return labels, grid
    raise InputError(
        f"{_called(path)}: labels are whole numbers, 1 kidney, 2 tumour and 3 cyst; others stand there. Save the "
        "labels again, neither smoothed nor scaled."
    )


def _called(path: Path) -> str:
    """What messages call a file: those of KiTS have one name in the folder of each patient."""
    return f"{path.parent.name}/{path.name}"


def read_labelled(name: str, image: Path, segmentation: Path) -> tuple[NDArray[Any], NDArray[np.uint8], Grid]:
    """A scan in HU, its labels of KiTS, and the grid of both.

    Args:
        name: Of the patient, for messages.
        image: The scan.
        segmentation: Its label map.

    Raises:
        UnreadableFile: As `read_nifti`.
        InputError: As `read_label_map`, or the two lie on different grids.
    """
    hu, grid = read_nifti(image)
    labels, of_labels = read_label_map(segmentation)
    if grid.shape != of_labels.shape or not np.allclose(grid.affine, of_labels.affine, atol=0.05):
        raise InputError(f"{name}: the scan and its labels lie on different grids; take both from one release")
    return hu, labels, grid
