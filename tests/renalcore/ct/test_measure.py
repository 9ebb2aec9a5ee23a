"""Measures of CT labels: shapes with the arithmetic visible, and real kidneys whose sides experts told."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray

from renalcore.ct.kidneys import SITES, LeastVolumes
from renalcore.ct.measure import (
    RENAL_NOTE,
    Measures,
    drop_small,
    from_dict,
    measure,
    relabel,
    renal_e,
    renal_r,
    sites,
    to_dict,
    without_kidney,
)
from renalcore.ct.nifti import read_nifti
from renalcore.io.volume import read_volume
from tests.ct_analysed import transplanted

Labels = NDArray[np.uint8]

# Slices of 5 mm, pixels of 2 x 2 mm: 0.02 ml a voxel. Column 0 is the patient's right (x = -100 mm), row 0 the front.
AFFINE = np.array([[2.0, 0, 0, -100], [0, 2, 0, -80], [0, 0, 5, 0], [0, 0, 0, 1]])
RIGHT, LEFT = (slice(4, 14), slice(30, 50), slice(10, 30)), (slice(6, 16), slice(30, 50), slice(70, 90))
KIDNEY_ML = 10 * 20 * 20 * 0.02


def labelled(*boxes: tuple[tuple[slice, slice, slice], int]) -> Labels:
    labels = np.zeros((40, 80, 100), np.uint8)
    for box, label in boxes:
        labels[box] = label
    return labels


def two_kidneys() -> Labels:
    """Two blocks, and in the left one a tumour of 2 x 4 x 10 voxels, which is 10 x 8 x 20 mm."""
    return labelled((RIGHT, 1), (LEFT, 1), ((slice(10, 12), slice(38, 42), slice(75, 85)), 2))


def shape(shared_data: Path, case: str) -> tuple[Labels, NDArray[np.float64]]:
    labels, grid = read_nifti(shared_data / "ct" / "kits23_shapes" / f"case_{case}.nii.gz")
    return labels.astype(np.uint8), grid.affine


def told(measures: Measures) -> dict[str, float]:
    return {
        f"{side} {name}": round(measures.volume_ml(side, label), 3)
        for side in ("right", "left")
        for label, name in ((1, "kidney"), (2, "tumour"), (3, "cyst"))
    }


def test_volumes_are_told_by_side_and_label() -> None:
    found = measure(two_kidneys(), AFFINE)
    tumour_ml = 2 * 4 * 10 * 0.02
    assert told(found) == {
        "right kidney": KIDNEY_ML, "right tumour": 0.0, "right cyst": 0.0,
        "left kidney": KIDNEY_ML - tumour_ml, "left tumour": tumour_ml, "left cyst": 0.0,
    }  # fmt: skip
    assert found.found == "Two kidneys were found: right, left."
    assert found.side_from == "pair"


def test_a_lesion_is_measured_from_face_to_face_in_its_slice_and_in_space() -> None:
    hu = np.full((40, 80, 100), 100, np.int16)
    hu[10, 38:42, 75:85], hu[11, 38:42, 75:85] = 40, 60
    (lesion,) = measure(two_kidneys(), AFFINE, hu=hu).lesions
    # In the slice from the middle of one end face (20 mm away) to that of a voxel at the other side (3 voxels of 2 mm).
    assert lesion.axial_diameter_mm == pytest.approx(np.hypot(20, 6))
    # In space from the upper face of one slice to the lower one of the other: 10 mm, 3 and 9 voxels of 2 mm.
    assert lesion.diameter_mm == pytest.approx(max(np.sqrt(10**2 + 6**2 + 18**2), np.sqrt(5**2 + 6**2 + 20**2)))
    assert (lesion.label, lesion.side, lesion.kidney, lesion.number) == ("tumour", "left", 2, 1)
    assert lesion.centre_lps_mm == pytest.approx((-100 + 2 * 79.5, -80 + 2 * 39.5, 5 * 10.5))
    assert (lesion.mean_hu, lesion.sd_hu) == (50.0, 10.0)
    assert lesion.slice_index in (10, 11)
    assert lesion.voxel == (lesion.slice_index, 39, 79), "rows 38 to 41, columns 75 to 84"
    assert (lesion.outside_share, lesion.renal_r, lesion.renal_e) == (0.0, 1, 3)
    assert "N, A, L and h cannot be computed" in RENAL_NOTE


def test_one_voxel_is_as_long_as_its_side() -> None:
    labels = labelled((RIGHT, 1), ((slice(8, 9), slice(40, 41), slice(20, 21)), 3))
    (cyst,) = measure(labels, AFFINE).lesions
    assert (cyst.axial_diameter_mm, cyst.diameter_mm) == (2.0, 5.0)
    assert (cyst.renal_r, cyst.renal_e) == (None, None)  # the score is a tumour's


def test_r_and_e_take_their_limits_from_kutikov_and_uzzo() -> None:
    assert [renal_r(mm) for mm in (5, 40, 40.1, 69.9, 70, 120)] == [1, 1, 2, 2, 3, 3]
    assert [renal_e(share) for share in (1.0, 0.5, 0.49, 0.06, 0.05, 0.0)] == [1, 1, 2, 2, 3, 3]


def test_what_stands_out_of_the_kidney_s_hull_is_exophytic() -> None:
    beside = (slice(8, 10), slice(38, 42), slice(86, 96))  # 4 columns within the kidney's 70 to 89, 6 outside
    (tumour,) = measure(labelled((LEFT, 1), (beside, 2)), AFFINE).lesions
    assert tumour.outside_share == pytest.approx(6 / 10)
    assert tumour.renal_e == 1


def test_the_same_patient_in_any_array_order_and_direction_has_the_same_measures() -> None:
    labels = two_kidneys()
    expected = dataclasses.replace(measure(labels, AFFINE), lesions=())
    lesion = measure(labels, AFFINE).lesions[0]
    for order, flips in itertools.product(itertools.permutations(range(3)), itertools.product((False, True), repeat=3)):
        affine = AFFINE.copy()
        for axis, flipped in enumerate(flips):
            if flipped:  # column 2 - axis of the affine belongs to an axis of the array
                affine[:3, 3] += affine[:3, 2 - axis] * (labels.shape[axis] - 1)
                affine[:3, 2 - axis] *= -1
        affine[:, :3] = affine[:, [2 - axis for axis in reversed(order)]]
        turned = np.flip(labels, [axis for axis in range(3) if flips[axis]]).transpose(order)
        found = measure(np.ascontiguousarray(turned), affine)
        for kidney, same in zip(found.kidneys, expected.kidneys, strict=True):
            assert (kidney.side, kidney.total_ml) == (same.side, pytest.approx(same.total_ml))
            assert kidney.centre_lps_mm == pytest.approx(same.centre_lps_mm)
        assert found.lesions[0].axial_diameter_mm == pytest.approx(lesion.axial_diameter_mm)
        assert found.lesions[0].centre_lps_mm == pytest.approx(lesion.centre_lps_mm)


def test_a_lone_kidney_s_side_is_told_by_the_body_and_not_guessed_beside_the_middle() -> None:
    hu = np.full((40, 80, 100), -1000, np.int16)
    hu[:, 20:70, 0:60] = 40  # the body lies in the right part of the picture, its middle at column 29.5
    near, right = (slice(4, 14), slice(40, 60), slice(20, 40)), (slice(4, 14), slice(40, 60), slice(2, 22))
    assert [kidney.side for kidney in measure(labelled((right, 1)), AFFINE, hu=hu).kidneys] == ["right"]
    assert [kidney.side for kidney in measure(labelled((near, 1)), AFFINE, hu=hu).kidneys] == ["middle"]
    by_field = measure(labelled((near, 1)), AFFINE)
    assert ([kidney.side for kidney in by_field.kidneys], by_field.side_from) == (["right"], "field")


def test_a_transplant_beside_two_kidneys_is_told_by_its_height() -> None:
    low = (slice(0, 10), slice(20, 40), slice(64, 84))
    high = tuple((slice(each[0].start + 24, each[0].stop + 24), *each[1:]) for each in (RIGHT, LEFT))
    found = measure(labelled((high[0], 1), (high[1], 1), (low, 1)), AFFINE)
    assert [(kidney.side, kidney.place) for kidney in found.kidneys] == [
        ("right", "usual"), ("left", "pelvis"), ("left", "usual"),
    ]  # fmt: skip
    assert found.found.startswith("3 kidneys were found: right, left (in the pelvis")


def test_a_transplant_s_volume_and_lesions_are_no_part_of_the_native_kidney_s() -> None:
    volume, labels = transplanted()
    found = measure(labels, volume.affine)
    half = labels.shape[2] // 2  # columns run to the patient's left, the middle between them
    native, low = labels[31:], labels[:31]  # slices run to the head
    for site, part in {
        "right": native[..., :half], "left": native[..., half:], "pelvis_right": low, "pelvis_left": low[..., half:],
    }.items():  # fmt: skip
        for label in (1, 2):
            expected_ml = np.count_nonzero(part == label) * volume.voxel_ml
            assert found.volume_ml(site, label) == pytest.approx(expected_ml)  # type: ignore[arg-type]
    (tumour,) = found.lesions
    assert (tumour.side, found.site_of(tumour)) == ("right", "pelvis_right")
    told = sites(labels, volume.affine)
    assert {SITES[code] for code in np.unique(told[labels > 0])} == {"right", "left", "pelvis_right"}
    assert ((told == SITES.index("pelvis_right")) == (np.arange(90) < 31)[:, None, None] * (labels > 0)).all()


def test_a_kidney_in_front_of_the_body_s_middle_is_no_usual_one() -> None:
    hu = np.full((40, 80, 100), 40, np.int16)
    front = (slice(4, 14), slice(10, 30), slice(64, 84))
    (kidney,) = measure(labelled((front, 1)), AFFINE, hu=hu).kidneys
    assert (kidney.side, kidney.place) == ("left", "pelvis")


def test_where_nothing_is_nothing_is_told_and_nothing_fails() -> None:
    found = measure(labelled(), AFFINE, hu=np.zeros((40, 80, 100), np.int16))
    assert (found.kidneys, found.lesions, found.found) == ((), (), "No kidney was found.")
    assert not drop_small(labelled(), AFFINE).any()
    assert not sites(labelled(), AFFINE).any()


def test_specks_take_what_surrounds_them_and_lonely_ones_go() -> None:
    labels = two_kidneys()
    speck, lonely, piece = (8, 40, 20), (20, 10, 10), (slice(4, 14), slice(52, 56), slice(10, 30))
    labels[speck], labels[lonely], labels[30:34, 5:15, 5:15] = 3, 1, 1  # 0.02, 0.02 and 8 ml
    labels[piece] = 1  # 16 ml, two rows of 2 mm behind the right kidney
    kept = drop_small(labels, AFFINE, least=LeastVolumes(kidney_ml=20.0, tumour_ml=0.1, cyst_ml=0.05))
    assert kept[speck] == 1
    assert not kept[lonely]
    assert not kept[30:34].any()
    assert kept[piece].all()
    assert np.count_nonzero(kept == 2) == np.count_nonzero(labels == 2)
    assert len(measure(kept, AFFINE, least=LeastVolumes(kidney_ml=20.0)).kidneys) == 2  # the piece is the right one's


def test_a_lesion_is_relabelled_or_deleted_alone_by_any_of_its_voxels() -> None:
    labels = two_kidneys()
    labels[6, 40, 20] = 2  # another one
    (large, small) = measure(labels, AFFINE).lesions
    cyst = relabel(labels, large.voxel, 3)
    assert [(lesion.label, lesion.volume_ml) for lesion in measure(cyst, AFFINE).lesions] == [
        ("tumour", small.volume_ml), ("cyst", large.volume_ml),
    ]  # fmt: skip
    gone = relabel(labels, small.voxel, None)
    assert gone[6, 40, 20] == 1  # the kidney closes round it
    assert np.count_nonzero(gone != labels) == 1
    assert not relabel(labelled(((slice(1, 2),) * 3, 2)), (1, 1, 1), None).any()
    with pytest.raises(ValueError, match="holds no label"):
        relabel(labels, (0, 0, 0), 1)


def test_a_kidney_goes_with_its_lesions_and_a_horseshoe_whole_whichever_half_is_named() -> None:
    labels = two_kidneys()
    gone, voxel = without_kidney(labels, AFFINE, 2)
    assert np.array_equal(gone, labelled((RIGHT, 1)))
    assert voxel == (10, 39, 79), "the middle of slices 6 to 15, rows 30 to 49, columns 70 to 89"
    horseshoe = labelled((RIGHT, 1), (LEFT, 1), ((slice(8, 10), slice(38, 42), slice(10, 90)), 1))
    horseshoe[30:32, 5:9, 5:9], horseshoe[10, 40, 80] = 1, 2  # a loose piece of it, and a lesion
    for half in measure(horseshoe, AFFINE).kidneys:
        assert not without_kidney(horseshoe, AFFINE, half.number)[0].any()
    with pytest.raises(ValueError, match="no kidney 3 among 2"):
        without_kidney(labels, AFFINE, 3)


def test_the_halves_of_a_fused_kidney_are_one_organ_and_two_kidneys_are_two() -> None:
    horseshoe = measure(labelled((RIGHT, 1), (LEFT, 1), ((slice(8, 10), slice(38, 42), slice(10, 90)), 1)), AFFINE)
    two = measure(two_kidneys(), AFFINE)
    assert [[kidney.side for kidney in organ] for organ in horseshoe.organs] == [["right", "left"]]
    assert [[kidney.side for kidney in organ] for organ in two.organs] == [["right"], ["left"]]
    assert measure(labelled(), AFFINE).organs == ()


def test_measures_that_a_record_kept_as_json_are_the_same_when_they_are_read_back() -> None:
    hu = np.random.default_rng(0).integers(-100, 300, (40, 80, 100), np.int16)
    loose_cyst = labelled((RIGHT, 1), ((slice(30, 34), slice(2, 6), slice(2, 6)), 3))
    for found in (measure(two_kidneys(), AFFINE, hu=hu), measure(loose_cyst, AFFINE), measure(labelled(), AFFINE)):
        stored = to_dict(found)
        assert json.loads(json.dumps(stored)) == stored
        assert from_dict(stored) == found
    assert to_dict(measure(two_kidneys(), AFFINE))["lesions"][0]["voxel"] == [10, 39, 79]


def test_a_record_that_holds_no_measures_is_refused() -> None:
    stored = to_dict(measure(two_kidneys(), AFFINE))
    for other in ({}, {**stored, "lesions": [{}]}, {**stored, "kidneys": [{**stored["kidneys"][0], "mood": 1}]}):
        with pytest.raises(ValueError, match="these are no measures of a CT"):
            from_dict(other)


def test_labels_that_cannot_be_measured_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must lie in 0\.\.3, got 0\.\.4"):
        measure(labelled((RIGHT, 4)), AFFINE)
    with pytest.raises(ValueError, match="differ in shape"):
        measure(labelled(), AFFINE, hu=np.zeros((2, 2, 2)))
    with pytest.raises(ValueError, match="kidney_ml must be"):
        LeastVolumes(kidney_ml=-1)


@pytest.mark.shared_data
def test_left_and_right_are_the_experts_where_the_rows_of_a_real_scan_run_upward(shared_data: Path) -> None:
    folder = shared_data / "ct" / "amos_0013_slab"
    volume = read_volume(folder / "img_dicom")
    masks = sorted(
        map(pydicom.dcmread, (folder / "mask_dicom").iterdir()), key=lambda mask: mask.ImagePositionPatient[2]
    )
    expert = np.stack([mask.pixel_array for mask in masks])  # 2 right, 3 left kidney
    heights = volume.lps_mm(np.array([[0, 0, 0], [volume.slices - 1, 0, 0]]))[:, 2]
    expert = expert if heights[0] < heights[1] else expert[::-1]
    labels = np.isin(expert, (2, 3)).astype(np.uint8)
    found = measure(labels, volume.affine, hu=volume.hu)
    assert volume.affine[1, 1] < 0  # upward
    assert [kidney.side for kidney in found.kidneys] == ["right", "left"]
    assert found.volume_ml("right", 1) == pytest.approx(np.count_nonzero(expert == 2) * volume.voxel_ml, rel=0.01)
    assert found.volume_ml("left", 1) == pytest.approx(np.count_nonzero(expert == 3) * volume.voxel_ml, rel=0.01)
    told_side = sites(labels, volume.affine, hu=volume.hu)
    assert np.count_nonzero((told_side == 1) != (expert == 2)) < 0.01 * labels.sum()
    for side in (2, 3):  # and of a lone one
        lone = measure((expert == side).astype(np.uint8), volume.affine, hu=volume.hu)
        assert [kidney.side for kidney in lone.kidneys] == [{2: "right", 3: "left"}[side]]
        assert lone.side_from == "body"


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("case", "found"),
    [
        ("00005", "One connected kidney lies on both sides, a horseshoe or two that touch"),
        ("00165", "One kidney was found: side unknown."),  # cut out of its scan
        ("00066", "Two kidneys were found: right, left."),
    ],
)
def test_what_real_label_maps_hold(shared_data: Path, case: str, found: str) -> None:
    labels, affine = shape(shared_data, case)
    kept = drop_small(labels, affine)
    measures = measure(kept, affine)
    assert measures.found.startswith(found)
    total = np.count_nonzero(kept) * 1.5**3 / 1000
    assert sum(kidney.total_ml for kidney in measures.kidneys) == pytest.approx(total)
    assert sum(lesion.volume_ml for lesion in measures.lesions) == pytest.approx(
        np.count_nonzero(kept > 1) * 1.5**3 / 1000
    )
