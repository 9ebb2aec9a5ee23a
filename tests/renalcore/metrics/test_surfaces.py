"""Figures of volumes, against cases worked out by hand, MONAI's metrics and the project's scorer."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray

from renalcore.metrics.surfaces import TOLERANCES_MM, Summary, compare, compare_labels, surface

UNIT = (1.0, 1.0, 1.0)


def volume(*voxels: tuple[int, int, int], shape: tuple[int, int, int] = (8, 8, 8)) -> NDArray[np.bool_]:
    mask = np.zeros(shape, bool)
    for voxel in voxels:
        mask[voxel] = True
    return mask


def shifted(shared_data: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A real kidney with its tumour and cysts, and the same moved by (1, 2, -1) voxels in one half."""
    image = nibabel.load(shared_data / "ct" / "kits23_shapes" / "case_00008.nii.gz")
    expert = np.asarray(image.dataobj)[::2, ::2, ::2].transpose(2, 1, 0)
    found = np.roll(expert, (1, 2, -1), (0, 1, 2))
    found[:, :, : found.shape[2] // 3] = expert[:, :, : found.shape[2] // 3]
    return expert, found


def test_a_point_and_another_three_slices_of_2_mm_away_are_6_mm_apart_without_spread() -> None:
    told = compare(volume((1, 4, 4)), volume((4, 4, 4)), spacing_mm=(2.0, 1.0, 1.0), tolerance_mm=1.0)
    assert (told.dice, told.assd_mm, told.sdd_mm, told.hausdorff95_mm, told.surface_dice) == (0.0, 6.0, 0.0, 6.0, 0.0)


def test_the_equations_of_the_paper_on_three_surface_points() -> None:
    # The expert's two points are 0 and 2 mm from the one found, which is 0 mm from the expert's: 0, 2, 0.
    told = compare(volume((4, 4, 4), (4, 4, 5)), volume((4, 4, 4)), spacing_mm=(5.0, 1.0, 2.0), tolerance_mm=1.0)
    assert told.dice == 2 * 1 / (2 + 1)
    assert told.assd_mm == pytest.approx((0 + 2 + 0) / 3)
    assert told.sdd_mm == pytest.approx(math.sqrt(((0 - 2 / 3) ** 2 * 2 + (2 - 2 / 3) ** 2) / 3))
    assert told.hausdorff95_mm == pytest.approx(0.95 * 2)  # between 0 and 2, 95 % of the way


def test_the_surface_of_a_block_is_all_of_it_but_its_core_also_at_the_edge_of_the_volume() -> None:
    block = np.ones((5, 4, 3), bool)
    assert surface(block).sum() == 5 * 4 * 3 - 3 * 2 * 1


def test_surface_dice_is_one_within_the_tolerance_and_less_beyond() -> None:
    expert, found = np.zeros((2, 12, 12, 12), bool)
    expert[3:9, 3:9, 3:9] = True
    found[4:10, 3:9, 3:9] = True  # 1.5 mm further along D, seen on the two faces of 36 voxels across D
    near = compare(expert, found, spacing_mm=(1.5, 1.0, 1.0), tolerance_mm=1.6)
    far = compare(expert, found, spacing_mm=(1.5, 1.0, 1.0), tolerance_mm=1.4)
    assert near.surface_dice == 1.0
    assert 0.6 < far.surface_dice < 0.9  # four of the six faces stay


def test_where_nothing_is_and_nothing_was_found_masks_agree_and_there_is_no_distance() -> None:
    told = compare(volume(), volume(), spacing_mm=UNIT, tolerance_mm=1.0)
    assert (told.dice, told.surface_dice) == (1.0, 1.0)
    assert math.isnan(told.assd_mm)
    assert math.isnan(told.sdd_mm)
    assert math.isnan(told.hausdorff95_mm)


@pytest.mark.parametrize(("expert", "found"), [(volume((1, 1, 1)), volume()), (volume(), volume((1, 1, 1)))])
def test_what_is_missed_or_invented_is_infinitely_far(expert: NDArray[np.bool_], found: NDArray[np.bool_]) -> None:
    told = compare(expert, found, spacing_mm=UNIT, tolerance_mm=1.0)
    assert (told.dice, told.surface_dice) == (0.0, 0.0)
    assert told.assd_mm == told.sdd_mm == told.hausdorff95_mm == math.inf


def test_classes_of_kits_hold_each_other_so_that_a_cyst_called_tumour_is_still_a_mass() -> None:
    expert = np.zeros((8, 8, 8), np.uint8)
    expert[1:7, 1:7, 1:7] = 1
    expert[3:5, 3:5, 3:5] = 3
    found = np.where(expert == 3, 2, expert).astype(np.uint8)
    told = {name: each.dice for name, each in compare_labels(expert, found, spacing_mm=UNIT).items()}
    assert told == {"kidney": 1.0, "tumour": 0.0, "cyst": 0.0, "kidney_and_masses": 1.0, "masses": 1.0}


def test_a_summary_means_distances_over_what_was_found_and_tells_how_often_it_was_not() -> None:
    point, other = volume((1, 1, 1)), volume((1, 1, 4))
    pairs = [(point, other), (point, point), (point, volume()), (volume(), point), (volume(), volume())]
    told = Summary.of([compare(a, b, spacing_mm=UNIT, tolerance_mm=1.0) for a, b in pairs])
    assert (told.cases, told.empty, told.missed, told.invented) == (5, 1, 1, 1)
    assert told.assd_mm.mean == (3 + 0) / 2
    assert told.dice.mean == (0 + 1 + 0 + 0 + 1) / 5
    assert told.dice_where_present.mean == pytest.approx((0 + 1 + 0) / 3)


def test_volumes_that_cannot_be_compared_are_refused_with_what_was_expected() -> None:
    with pytest.raises(ValueError, match="differ in shape"):
        compare(volume(), volume(shape=(8, 8, 9)), spacing_mm=UNIT, tolerance_mm=1.0)
    with pytest.raises(ValueError, match="three positive lengths"):
        compare(volume(), volume(), spacing_mm=(1.0, 0.0, 1.0), tolerance_mm=1.0)
    with pytest.raises(ValueError, match="bool or integers"):
        compare(np.zeros((2, 2, 2)), np.zeros((2, 2, 2)), spacing_mm=UNIT, tolerance_mm=1.0)


@pytest.mark.shared_data
def test_monai_tells_the_same_of_a_real_kidney_on_uneven_voxels(shared_data: Path) -> None:
    import torch
    from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance, compute_surface_dice

    expert, found = shifted(shared_data)
    spacing_mm = (5.0, 1.6, 1.8)
    told = compare_labels(expert, found, spacing_mm=spacing_mm)["kidney_and_masses"]
    pair = [torch.from_numpy(each > 0)[None, None] for each in (found, expert)]
    options = {"include_background": True, "spacing": spacing_mm}
    assd = compute_average_surface_distance(*pair, symmetric=True, **options)
    hausdorff = compute_hausdorff_distance(*pair, percentile=95, **options)
    near = compute_surface_dice(*pair, [TOLERANCES_MM["kidney_and_masses"]], use_subvoxels=True, **options)
    assert told.assd_mm == pytest.approx(assd.item(), rel=1e-5)
    assert told.hausdorff95_mm == pytest.approx(hausdorff.item(), rel=1e-5)
    assert told.surface_dice == pytest.approx(near.item(), abs=2e-3)  # the areas of a few ambiguous corners differ


@pytest.mark.shared_data
def test_the_scorer_of_the_project_tells_the_same_dice_and_distance(shared_data: Path, tmp_path: Path) -> None:
    expert, found = shifted(shared_data)
    spacing_mm = (5.0, 1.6, 1.8)
    for name, labels in (("expert", expert > 0), ("found", found)):
        image = nibabel.Nifti1Image(labels.transpose(2, 1, 0).astype(np.uint8), np.diag([*spacing_mm[::-1], 1.0]))
        nibabel.save(image, tmp_path / f"{name}.nii.gz")
    scorer = shared_data.parent / "tools" / "score_ct.py"
    done = subprocess.run(
        [sys.executable, scorer, tmp_path / "expert.nii.gz", tmp_path / "found.nii.gz"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    told = compare_labels(expert, found, spacing_mm=spacing_mm)["kidney_and_masses"]
    scored = json.loads(done.stdout)
    assert (round(told.dice, 4), round(told.assd_mm, 2)) == (scored["dice_kidney"], scored["assd_mm"])
