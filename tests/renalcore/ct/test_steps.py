from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from threadpoolctl import ThreadpoolController

from renalcore.ct.steps import (
    CYST,
    KIDNEY,
    STEPS,
    TUMOUR,
    Grid,
    closely,
    kidney_grids,
    resample,
    resample_labels,
    rough_grid,
    rough_grids,
)


def scan(shape: tuple[int, int, int], spacing_mm: tuple[float, float, float]) -> Grid:
    """A scan whose first voxel lies at the origin."""
    return Grid(shape, np.diag([*spacing_mm[::-1], 1.0]))


def test_the_steps_have_the_spacings_and_sizes_of_the_paper() -> None:
    rough = STEPS["rough"]
    assert rough.shape == (96, 128, 128)
    # 128 x 248 x 248 voxels of 3.41 x 1.71 x 1.71 mm, scaled to 96 x 128 x 128.
    assert rough.extent_mm == pytest.approx((128 * 3.41, 248 * 1.71, 248 * 1.71))
    assert STEPS["kidney"].shape == STEPS["lesion"].shape == (80, 128, 128)


def test_labels_of_kits_become_the_classes_of_each_step() -> None:
    labels = np.array([0, KIDNEY, TUMOUR, CYST])
    assert STEPS["rough"].targets(labels).tolist() == [0, 1, 1, 1]
    assert STEPS["kidney"].targets(labels).tolist() == [0, 1, 1, 1]
    assert STEPS["lesion"].targets(labels).tolist() == [0, 0, 1, 2]


def test_resampling_starts_no_threads_of_its_own_and_leaves_those_of_others_as_they_are() -> None:
    every = ThreadpoolController().select(user_api="blas")
    blas = every.select(filepath=[each["filepath"] for each in every.info() if "numpy" in each["filepath"]])
    during: list[int] = []

    class Watched(np.ndarray):
        def astype(self, *args: object, **options: object) -> np.ndarray:
            during.extend(each["num_threads"] for each in blas.info())
            return np.asarray(self).astype(*args, **options)

    of = scan((2, 8, 8), (1.0, 1.0, 1.0))
    with blas.limit(limits=2):
        before = [each["num_threads"] for each in blas.info()]
        resample(np.zeros(of.shape, np.int16).view(Watched), of, of)
        assert [each["num_threads"] for each in blas.info()] == before
    assert set(during) == {1}


def test_a_coarser_voxel_is_the_mean_of_what_it_covers_and_a_finer_one_lies_on_the_line_between() -> None:
    of = scan((1, 1, 4), (1.0, 1.0, 1.0))
    values = np.array([[[10, 20, 30, 40]]], np.int16)
    coarse = of.around(of.centre_mm, (1, 1, 2), (1, 1, 2))
    assert resample(values, of, coarse, outside=0)[0, 0].tolist() == [15, 35]
    fine = of.around(of.centre_mm, (1, 1, 7), (1, 1, 0.5))
    assert resample(values, of, fine, outside=0)[0, 0].tolist() == [10, 15, 20, 25, 30, 35, 40]


def test_what_was_not_scanned_is_air() -> None:
    of = scan((2, 2, 2), (1.0, 1.0, 1.0))
    beyond = of.around(of.to_mm([5, 0.5, 0.5]), (4, 2, 2), (1, 1, 1))
    assert (resample(np.full((2, 2, 2), 50), of, beyond) == -1000).all()


def test_a_place_keeps_its_position_in_the_patient_on_every_grid() -> None:
    # A ball of 20 mm about a point of the patient, in a scan whose axes are askew by 20 degrees.
    angle = np.deg2rad(20)
    turned = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turned * [0.9, 0.9, 2.5]
    affine[:3, 3] = (-80, -170, 40)
    of = Grid((60, 150, 150), affine)
    middle = of.to_mm([25, 70, 90])
    index = np.stack(np.meshgrid(*map(np.arange, of.shape), indexing="ij"), axis=-1)
    ball = (np.linalg.norm(of.to_mm(index) - middle, axis=-1) < 20).astype(np.uint8)
    grids = [rough_grid(of), *kidney_grids(of, ball > 0, of)]
    for grid in grids:
        there = resample_labels(ball, of, grid)
        centre = grid.to_mm(np.argwhere(there)).mean(0)
        assert np.linalg.norm(centre - middle) < 0.5
        back = resample_labels(there, grid, of)
        assert 2 * (back & ball).sum() / (back.sum() + ball.sum()) > 0.93


def test_the_label_that_covers_most_of_a_voxel_is_its_own() -> None:
    of = scan((1, 1, 6), (1.0, 1.0, 1.0))
    labels = np.array([[[0, 1, 1, 2, 0, 0]]], np.uint8)
    to = of.around(of.centre_mm, (1, 1, 2), (1, 1, 3))
    assert resample_labels(labels, of, to)[0, 0].tolist() == [1, 0]  # thirds: 0 1 1 and 2 0 0


def test_each_kidney_gets_a_crop_in_its_middle_from_right_to_left_and_crumbs_get_none() -> None:
    of = scan((40, 60, 100), (4.0, 3.0, 3.0))
    found = np.zeros(of.shape, np.bool_)
    found[10:30, 20:35, 70:85] = True  # left: x rises to the left
    found[5:25, 20:35, 15:30] = True
    found[35:37, 2:4, 2:4] = True
    right, left = kidney_grids(of, found, of)
    assert right.centre_mm == pytest.approx(of.to_mm([14.5, 27, 22]))
    assert left.centre_mm == pytest.approx(of.to_mm([19.5, 27, 77]))
    assert right.spacing_mm == pytest.approx((2, 1, 1))


def test_a_crop_grows_in_all_directions_alike_where_a_kidney_needs_it() -> None:
    of = scan((100, 60, 60), (4.0, 3.0, 3.0))
    found = np.zeros(of.shape, np.bool_)
    found[10:85, 20:35, 20:35] = True  # 300 mm and 15 mm beyond both ends: 330 of 160 mm
    (grid,) = kidney_grids(of, found, of)
    assert grid.spacing_mm == pytest.approx(np.array([2, 1, 1]) * 330 / 160)


def test_step_3_is_shown_the_part_of_a_crop_that_holds_the_kidney_with_air_around_it() -> None:
    crop = np.zeros((80, 128, 128), bool)
    crop[20:50, 30:101, 60:128] = True
    assert closely(crop) == (
        slice(11, 59),
        slice(25, 105),
        slice(48, 128),
    )  # 38, 79 and 76 voxels
    assert closely(crop, clear=40) == (slice(0, 80), slice(0, 128), slice(0, 128))
    assert crop[closely(np.zeros_like(crop))].shape == (16, 16, 16)


def test_a_long_scan_is_seen_in_several_overlapping_parts() -> None:
    short, long = scan((200, 10, 10), (2.0, 1, 1)), scan((500, 10, 10), (2.0, 1, 1))
    assert len(rough_grids(short)) == 1
    parts = rough_grids(long)  # 1000 mm; each part sees 436.5, and 286.5 further on at most
    assert len(parts) == 3
    ends = [(grid.to_mm([-0.5, 0, 0])[2], grid.to_mm([95.5, 0, 0])[2]) for grid in parts]
    assert ends[0][0] == pytest.approx(-1.0)
    assert ends[-1][1] == pytest.approx(999.0)
    assert all(last - first > 150 for (_, last), (first, _) in pairwise(ends))


def test_grids_of_other_directions_and_arrays_of_other_shapes_are_refused() -> None:
    of = scan((2, 2, 2), (1.0, 1.0, 1.0))
    with pytest.raises(ValueError, match="turn the volume towards LPS first"):
        resample(np.zeros((2, 2, 2)), of, Grid((2, 2, 2), np.diag([-1.0, 1, 1, 1])))
    with pytest.raises(ValueError, match="does not lie on a grid"):
        resample(np.zeros((2, 2, 3)), of, of)
    with pytest.raises(ValueError, match="regular 4 x 4"):
        Grid((2, 2, 2), np.diag([1.0, 1, 0, 1]))
