from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from renalcore.ct.steps import CYST, KIDNEY, TUMOUR, WINDOW_HU
from renalcore.ct.synthetic import draw_scene, read_shape
from renalcore.ct.synthetic.body import paint_body
from renalcore.ct.synthetic.canvas import body_grid
from renalcore.ct.synthetic.tissue import (
    BRIGHTNESS,
    PHASE_SHARES,
    PHASES,
    RANDOM_DEVIATION_HU,
    Tissue,
    draw_palette,
    randomised_palette,
)
from renalcore.errors import InputError, UnreadableFile
from tests.renalcore.ct.kits import labels, write_labels

COARSE = body_grid((24, 48, 56), (10.0, 8.0, 8.0), (0, -45, 0))


def test_a_shape_lies_around_the_spine_with_right_and_left_where_they_were(tmp_path: Path) -> None:
    write_labels(tmp_path / "case_00001.nii.gz")
    shape = read_shape(tmp_path / "case_00001.nii.gz")
    assert shape.name == "case_00001"
    assert sorted(round(x) for _, _, x in shape.sides) == [-65, 64]  # to the left; each lesion sticks out a little
    tumour = shape.grid.to_mm(np.argwhere(shape.labels == TUMOUR)).mean(0)
    cyst = shape.grid.to_mm(np.argwhere(shape.labels == CYST)).mean(0)
    assert tumour[0] == pytest.approx(-76, abs=3)  # in the right kidney, x runs to the left
    assert cyst[0] == pytest.approx(70, abs=3)
    assert tumour[2] - cyst[2] == pytest.approx(22 + 16, abs=2)  # the tumour lies higher


def test_a_drawn_scan_holds_the_kidneys_as_they_are_in_an_abdomen_with_the_liver_on_the_right(tmp_path: Path) -> None:
    write_labels(tmp_path / "case_00001.nii.gz")
    shape = read_shape(tmp_path / "case_00001.nii.gz")
    scene = draw_scene(shape, 5)
    hu, found = scene.render(shape.grid)
    assert set(np.unique(found)) == {0, KIDNEY, TUMOUR, CYST}
    # Each label as large as in the map, but for the sinus that a kidney is drawn with, and for cut ends of a scan.
    for label in (KIDNEY, TUMOUR, CYST):
        assert (found == label).sum() == pytest.approx((shape.labels == label).sum(), rel=0.03)
    hu, _ = scene.render(COARSE)
    assert hu.shape == COARSE.shape
    # Above the kidneys: more soft tissue on the right (low index) than on the left; air around, bone in the middle.
    window = hu[17:20].astype(int)
    soft = (window > 0) & (window < 200)
    assert soft[..., :28].sum() > 1.2 * soft[..., 28:].sum()
    assert hu[:, 0].max() < -500
    assert hu[10:14, 20:32, 26:30].max() > 250


def test_the_same_seed_draws_the_same_scan_and_another_seed_another(tmp_path: Path) -> None:
    write_labels(tmp_path / "case_00001.nii.gz")
    shape = read_shape(tmp_path / "case_00001.nii.gz")
    grid = body_grid((4, 16, 16), (20.0, 20.0, 20.0), (0, -45, 0))
    first, again, other = (draw_scene(shape, seed).render(grid)[0] for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_seeds_draw_what_they_drew_when_the_shipped_model_was_trained_and_measured(tmp_path: Path) -> None:
    write_labels(tmp_path / "case_00001.nii.gz")
    shape = read_shape(tmp_path / "case_00001.nii.gz")
    named = [Tissue.CORTEX, Tissue.TUMOUR, Tissue.CYST, Tissue.BLADDER]
    for seed, phase, hu, noise_hu, last in (
        (0, "portal", [153.25, 108.907, 16.276, 54.494], 22.259, 1775509963),
        (1, "delayed", [125.159, 93.826, 12.254, 296.158], 25.195, 218393239),
        (950_000, "delayed", [157.028, 83.733, 42.972, 305.477], 28.907, 1887764755),
    ):
        scene = draw_scene(shape, seed)
        assert scene.palette.phase == phase
        assert scene.palette.mean[named].tolist() == pytest.approx(hu, abs=1e-3)
        assert scene.scanner.noise_hu == pytest.approx(noise_hu, abs=1e-3)
        assert scene.seed == last  # the last number drawn: as many came before it


def test_randomised_tissues_are_as_bright_as_chance_has_it_and_air_and_lungs_stay_dark() -> None:
    drawn = [randomised_palette(np.random.default_rng(seed)) for seed in range(400)]
    means = np.stack([palette.mean for palette in drawn])
    deviations = np.stack([np.hypot(palette.coarse, palette.fine) for palette in drawn])
    random = [tissue for tissue in Tissue if tissue not in (Tissue.AIR, Tissue.LUNG)]
    low, high = WINDOW_HU
    for values, lowest, highest in ((means, low, high), (deviations, 0.0, RANDOM_DEVIATION_HU)):
        assert lowest <= values[:, random].min() <= values[:, random].max() <= highest
        # The mean of 400 uniform numbers deviates by 1 / sqrt(12 * 400) of their range: 1.4 %.
        assert values[:, random].mean(0) == pytest.approx((lowest + highest) / 2, abs=0.07 * (highest - lowest))
        assert (np.ptp(values[:, random], axis=0) > 0.95 * (highest - lowest)).all()
    related = np.corrcoef(means[:, random].T) - np.eye(len(random))
    assert np.abs(related).max() < 0.3  # cortex and medulla, tumour and cyst: none tells of another one
    assert {palette.phase for palette in drawn} == {None}
    for tissue in (Tissue.AIR, Tissue.LUNG):
        assert set(means[:, tissue]) == {BRIGHTNESS[tissue].hu[0]}


def test_a_randomised_scan_is_the_same_patient_on_the_same_scanner_in_other_hu(tmp_path: Path) -> None:
    write_labels(tmp_path / "case_00001.nii.gz")
    shape = read_shape(tmp_path / "case_00001.nii.gz")
    usual, random = (draw_scene(shape, 5, randomised=randomised) for randomised in (False, True))
    assert random.scanner == usual.scanner
    (hu, labels), (other, same) = (scene.render(COARSE) for scene in (usual, random))
    assert np.array_equal(labels, same)
    within = (labels == KIDNEY) | (hu > 40)  # organs and bones
    assert np.abs(hu[within].astype(int) - other[within]).mean() > 50
    assert other[:, 0].max() < -500  # air in front


def test_a_bladder_of_urine_is_drawn_where_the_scan_reaches_the_pelvis(tmp_path: Path) -> None:
    write_labels(tmp_path / "case_00001.nii.gz")
    shape = read_shape(tmp_path / "case_00001.nii.gz")
    grid = body_grid((20, 30, 30), (10.0, 8.0, 8.0), (-220, -45, 0))  # -320 to -120 mm: below the kidneys
    for seed in range(3):
        scene = draw_scene(shape, seed)
        whole = replace(scene, scanner=replace(scene.scanner, feet_mm=-330.0, noise_hu=1.0))
        bladder = paint_body(scene.body, grid, list(scene.bend)).tissues == Tissue.BLADDER
        assert 20 < bladder.sum() * grid.voxel_ml < 700
        hu, found = whole.render(grid)
        assert not found[bladder].any()
        inside = ndimage.binary_erosion(bladder)
        assert np.median(hu[inside]) == pytest.approx(scene.palette.mean[Tissue.BLADDER], abs=12)
        upper = body_grid((20, 30, 30), (10.0, 8.0, 8.0), (0, -45, 0))
        assert not (paint_body(scene.body, upper, list(scene.bend)).tissues == Tissue.BLADDER).any()
    drawn = [draw_palette(np.random.default_rng(seed)) for seed in range(200)]
    told = {phase: [palette.mean[Tissue.BLADDER] for palette in drawn if palette.phase == phase] for phase in PHASES}
    assert [np.median(told[phase]) == pytest.approx(9, abs=7) for phase in ("plain", "arterial")] == [True, True]
    assert np.median(told["delayed"]) > 250  # excreted contrast medium


def test_every_tissue_has_its_brightness_and_phases_come_as_often_as_told() -> None:
    assert set(BRIGHTNESS) == set(Tissue)
    assert sum(PHASE_SHARES) == pytest.approx(1)
    drawn = [draw_palette(np.random.default_rng(seed)) for seed in range(400)]
    plain = [palette for palette in drawn if palette.phase == "plain"]
    assert len(plain) / 400 == pytest.approx(PHASE_SHARES[0], abs=0.06)
    portal = np.mean([palette.mean[[Tissue.CORTEX, Tissue.AIR]] for palette in drawn if palette.phase == "portal"], 0)
    assert portal[0] == pytest.approx(170, abs=15)
    assert portal[1] == -1000


def test_the_kidneys_that_are_drawn_are_as_bright_as_those_of_kits19() -> None:
    # Measured on KiTS19, which is late arterial: kidney 105 +- 37 HU, tumour 66 +- 30; plain scans are darker.
    drawn = [draw_palette(np.random.default_rng(seed)) for seed in range(400)]
    kidneys = np.array([palette.mean[[Tissue.CORTEX, Tissue.MEDULLA]].mean() for palette in drawn])
    tumours = np.array([palette.mean[Tissue.TUMOUR] for palette in drawn])
    assert 85 < kidneys.mean() < 140
    assert 55 < tumours.mean() < 95
    assert kidneys.std() > 30
    # The middles of its four cysts that have one: 13, 14, 29 and 35 HU.
    assert np.median([palette.mean[Tissue.CYST] for palette in drawn]) == pytest.approx(21, abs=3)


def test_files_that_are_no_kidneys_are_refused_by_name(tmp_path: Path) -> None:
    write_labels(tmp_path / "none.nii.gz", np.zeros((20, 20, 20), np.uint8))
    with pytest.raises(InputError, match=r"none\.nii\.gz holds no kidney \(label 1\)"):
        read_shape(tmp_path / "none.nii.gz")
    small = np.zeros((20, 20, 20), np.uint8)
    small[9:12, 9:12, 9:12] = 1  # 27 voxels of 64 mm3: 1.7 ml
    write_labels(tmp_path / "small.nii.gz", small)
    with pytest.raises(InputError, match="no kidney of at least 15 ml"):
        read_shape(tmp_path / "small.nii.gz")
    (tmp_path / "broken.nii.gz").write_bytes(b"\x1f\x8b nothing")
    with pytest.raises(UnreadableFile, match=r"broken\.nii\.gz: the file is cut off or damaged"):
        read_shape(tmp_path / "broken.nii.gz")


def test_real_kidneys_keep_their_volumes_and_the_left_one_is_the_higher_one(shared_data: Path) -> None:
    found = [read_shape(shared_data / f"ct/kits23_shapes/case_{number:05d}.nii.gz") for number in (0, 24, 100)]
    # index.csv: kidney 361.6 ml in case_00000.
    kidney_ml = (found[0].labels == KIDNEY).sum() * found[0].grid.voxel_ml
    assert kidney_ml == pytest.approx(361.6, rel=0.03)  # at 1.5 mm instead of 0.92 x 0.92 x 0.5 mm
    for shape in found:
        (low_z, _, right), (high_z, _, left) = sorted(shape.sides)
        assert (right < 0 < left, low_z < high_z) == (True, True)


def test_labels_of_the_small_patient_are_all_there() -> None:
    assert set(np.unique(labels())) == {0, KIDNEY, TUMOUR, CYST}
