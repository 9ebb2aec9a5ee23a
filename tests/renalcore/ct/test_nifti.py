"""Files of a training set: how they are turned, and what is refused rather than guessed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from renalcore.ct.nifti import read_label_map, read_labelled, read_nifti
from renalcore.errors import InputError, UnreadableFile
from renalcore.io.volume import read_volume
from tests.renalcore.ct.kits import write_case

VALUES = np.arange(-1000, 5 * 6 * 7 - 1000, dtype=np.int16).reshape(5, 6, 7)
TO_FEET_FRONT_LEFT = np.array([[0.0, 0, -0.7, 9], [0, 0.8, 0, 5], [-2.5, 0, 0, 30], [0, 0, 0, 1]])
"""Of a file whose first axis runs to the feet, the second to the front and the last to the left."""


def saved(path: Path, values: Any = VALUES, affine: Any = TO_FEET_FRONT_LEFT, *, unit: str = "unknown") -> Path:
    image = nibabel.Nifti1Image(values, affine)
    image.header.set_xyzt_units(unit)
    nibabel.save(image, path)
    return path


def test_voxels_are_turned_to_the_head_the_back_and_the_left_and_lie_where_the_apps_reader_finds_them(
    tmp_path: Path,
) -> None:
    path = saved(tmp_path / "ct.nii.gz")
    values, grid = read_nifti(path)
    assert values[4, 0, 6] == VALUES[0, 5, 6], "the last to the feet is the first to the head"
    assert np.diag(grid.affine).tolist() == pytest.approx([0.7, 0.8, 2.5, 1])
    app = read_volume(path)
    for value in (-1000, -950, -791):
        here, there = (np.argwhere(array == value)[0][::-1] for array in (values, app.hu))
        assert grid.affine @ [*here, 1] == pytest.approx(app.affine @ [*there, 1])


def test_places_in_metres_become_mm(tmp_path: Path) -> None:
    metres = np.diag([1e-3, 1e-3, 1e-3, 1]) @ TO_FEET_FRONT_LEFT
    _, grid = read_nifti(saved(tmp_path / "m.nii", affine=metres, unit="meter"))
    assert grid.spacing_mm == pytest.approx((2.5, 0.8, 0.7))


def test_a_file_that_does_not_say_where_left_is_is_refused_by_its_folder_and_name(tmp_path: Path) -> None:
    write_case(tmp_path / "case_00007")
    path = tmp_path / "case_00007" / "segmentation.nii.gz"
    saved(path, affine=None)
    with pytest.raises(
        UnreadableFile, match=r"case_00007/segmentation\.nii\.gz: does not state where it lies .* Convert"
    ):
        read_labelled("case_00007", path.with_name("imaging.nii.gz"), path)


@pytest.mark.parametrize("wrong", [1.5, np.nan, 4.0, -1.0])
def test_labels_that_are_no_whole_numbers_of_kits_are_refused_not_cut_off(tmp_path: Path, wrong: float) -> None:
    labels = np.zeros((2, 3, 4), np.float32)
    labels[0, 0] = 3
    path = saved(tmp_path / "labels.nii.gz", labels)
    found, _ = read_label_map(path)
    assert (found.dtype, np.count_nonzero(found == 3)) == (np.uint8, 4)
    labels[1, 1, 1] = wrong
    saved(path, labels)
    with pytest.raises(InputError, match=r"labels\.nii\.gz: labels are whole numbers, .* Save the labels again"):
        read_label_map(path)
