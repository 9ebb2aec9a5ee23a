from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch

from renalcore.ct.decoding import class_network
from renalcore.ct.predict import Crops, KidneyModel
from renalcore.ct.steps import STEPS
from renalcore.engine import backends, devices
from renalcore.errors import ModelError, UnknownName
from renalcore.io.volume import Volume, read_volume
from renalcore.models import write_card
from tests.renalcore.ct.bright import BODY, KIDNEY, LEFT, RIGHT, body, card, install, model


def dice(expert: np.ndarray, found: np.ndarray) -> float:
    return float(2 * (expert & found).sum() / (expert.sum() + found.sum()))


def turned(volume: Volume, axes: tuple[int, int, int], flipped: tuple[int, ...]) -> Volume:
    """The same patient in a file whose axes run otherwise: only the header knows."""
    affine = volume.affine.copy()
    for axis in flipped:
        affine[:3, 3] += affine[:3, 2 - axis] * (volume.shape[axis] - 1)
        affine[:3, 2 - axis] *= -1
    affine[:, :3] = affine[:, [2 - axis for axis in reversed(axes)]]
    return Volume(np.flip(volume.hu, flipped).transpose(axes), affine)


def places(volume: Volume, labels: np.ndarray) -> np.ndarray:
    """LPS mm of labelled voxels with the label, sorted."""
    indices = np.argwhere(labels)
    rows = np.column_stack((volume.lps_mm(indices).round(3), labels[tuple(indices.T)]))
    return rows[np.lexsort(rows.T)]


def test_kidneys_tumours_and_cysts_are_found_and_measured_on_the_grid_of_the_scan() -> None:
    volume, expert = body(
        [RIGHT, LEFT], tumours=[((30, 30, -84), (20, 20, 20))], cysts=[((0, 30, 64), (16, 16, 16))]
    )  # fmt: skip
    told: list[tuple[int, int]] = []
    searched = model()
    found = searched.search(volume, progress=lambda done, of: told.append((done, of)))
    assert found.labels.shape == volume.shape
    assert found.labels.dtype == np.uint8
    for label, least in ((1, 0.9), (2, 0.9), (3, 0.85)):
        assert dice(expert == label, found.labels == label) > least
    tumour, cyst = found.measures.lesions
    assert (tumour.side, tumour.label, cyst.side, cyst.label) == ("right", "tumour", "left", "cyst")
    assert tumour.diameter_mm == pytest.approx(40, abs=5)
    # A tumour of 1,500 HU leaves its border in the kidney, so that the HU of this one are doubted as well.
    assert found.words.startswith("Two kidneys were found: right, left. Found in them: 1 tumour and 1 cyst.")
    assert told == [(1, 1), (2, 5), (3, 5), (4, 5), (5, 5)]  # the scan, two kidneys, the lesions of two
    assert list(found.seconds) == ["rough", "kidney", "lesion", "labels", "measures"]
    sizes = {step: [np.prod(shape) for shape in searched.steps[step].shapes] for step in STEPS}  # type: ignore[attr-defined]
    assert max(sizes["lesion"]) < min(sizes["kidney"]) / 2  # step 3 is not shown the air around the kidney


def test_what_a_step_found_is_stored_and_another_process_goes_on_with_it() -> None:
    volume, _ = body([RIGHT, LEFT], tumours=[((30, 30, -84), (20, 20, 20))])
    whole, crops = model().search(volume), model().rough(volume)
    assert len(crops) == 2
    for step in (KidneyModel.refine, KidneyModel.lesions):
        content = crops.to_bytes()
        assert len(content) < 50_000
        crops = step(model(), volume, Crops.from_bytes(content))
    found = model().finish(volume, Crops.from_bytes(crops.to_bytes()))
    assert np.array_equal(found.labels, whole.labels)
    assert found.measures == whole.measures


def test_a_scan_without_a_kidney_is_answered_and_no_error() -> None:
    volume, _ = body([])
    searched = model()
    found = searched.search(volume)
    assert not found.labels.any()
    assert found.words == "No kidney was found."
    assert (found.measures.kidneys, found.measures.lesions) == ((), ())
    assert [len(searched.steps[step].shapes) for step in STEPS] == [1, 0, 0]  # type: ignore[attr-defined]
    assert len(Crops.from_bytes(Crops((), ()).to_bytes())) == 0


def test_one_kidney_and_none_of_its_lesions_are_told() -> None:
    volume, expert = body([LEFT])
    found = model().search(volume)
    assert [kidney.side for kidney in found.measures.kidneys] == ["left"]
    assert found.words == "One kidney was found: left. No tumour or cyst was found."
    assert dice(expert == 1, found.labels == 1) > 0.93


def test_a_horseshoe_is_seen_in_one_crop_and_found_whole() -> None:
    volume, expert = body([RIGHT, LEFT, ((-30, 20, 0), (14, 14, 70))])
    assert len(model().rough(volume)) == 1
    found = model().search(volume)
    assert {kidney.place for kidney in found.measures.kidneys} == {"fused"}
    assert dice(expert == 1, found.labels == 1) > 0.9


def test_two_kidneys_that_step_1_saw_as_one_are_both_found() -> None:
    volume, expert = body([RIGHT, LEFT])
    searched = model()
    bridge = Bridges(searched.steps["rough"])
    searched = KidneyModel(searched.card, {**searched.steps, "rough": bridge}, searched.device)
    assert len(searched.rough(volume)) == 1
    found = searched.search(volume)
    assert [kidney.side for kidney in found.measures.kidneys] == ["right", "left"]
    assert dice(expert == 1, found.labels == 1) > 0.9


class Bridges:
    """Step 1 with something between the kidneys that is none."""

    def __init__(self, rough: object) -> None:
        self.rough = rough

    def run(self, volumes: np.ndarray) -> tuple[np.ndarray, ...]:
        (found,) = self.rough.run(volumes)  # type: ignore[attr-defined]
        _, middle, _ = (np.argwhere(found[0]).mean(0)).astype(int)
        first, last = np.argwhere(found[0].any(axis=(0, 1)))[[0, -1], 0]
        found[0, found.shape[1] // 2, middle, first:last] = 1
        return (found,)


def test_a_body_longer_than_the_network_sees_is_seen_in_parts_that_overlap() -> None:
    # 200 slices of 5 mm are 1,000 mm, and one part shows 437 mm; a kidney in the usual place, one in the pelvis.
    volume, expert = body([((250, 30, -64), (50, 26, 26)), ((-70, 0, 60), (50, 26, 26))], shape=(200, 60, 80))
    searched = model()
    found = searched.search(volume)
    assert len(searched.steps["rough"].shapes) == 3  # type: ignore[attr-defined]
    assert [kidney.place for kidney in found.measures.kidneys] == ["usual", "pelvis"]
    assert dice(expert == 1, found.labels == 1) > 0.93


def test_a_kidney_that_step_1_saw_in_part_is_whole_in_its_crop() -> None:
    volume, expert = body([((0, 30, -64), (85, 26, 26)), LEFT])

    class SeesTheUpperPart:
        def __init__(self, model: KidneyModel) -> None:
            self.steps = dict(model.steps)

        def run(self, volumes: np.ndarray) -> tuple[np.ndarray, ...]:
            (found,) = self.steps["rough"].run(volumes)
            found[:, :58, :, :64] = 0
            return (found,)

    searched = model()
    searched = KidneyModel(searched.card, {**searched.steps, "rough": SeesTheUpperPart(searched)}, searched.device)
    rough = searched.rough(volume)
    found = searched.refine(volume, rough)
    for grid, labels in zip(found.grids, found.labels, strict=True):
        first, last = np.argwhere(labels).min(0), np.argwhere(labels).max(0)
        assert (first > 0).all()
        assert (last < np.array(grid.shape) - 1).all()
    whole = searched.search(volume)
    assert dice(expert == 1, whole.labels == 1) > 0.9


def test_a_kidney_of_300_mm_of_which_step_1_saw_one_end_is_found_whole() -> None:
    shape = (80, 60, 80)
    end, _ = body([((-105, 30, -64), (40, 26, 26))], shape=shape)
    volume, expert = body([((0, 30, -64), (150, 26, 26))], shape=shape)
    searched = model()
    kidney = searched.refine(volume, searched.rough(end))
    found = searched.finish(volume, searched.lesions(volume, kidney))
    assert dice(expert == 1, found.labels == 1) > 0.9


def test_what_lies_apart_from_the_kidney_in_its_crop_is_not_kept() -> None:
    beside = ((0, -22, -64), (14, 10, 10))  # 6 ml, 16 mm in front of it: too little for a crop of its own
    volume, labels = body([RIGHT, LEFT, beside])
    alone, expert = body([RIGHT, LEFT])
    found = model().search(volume)
    assert dice(expert == 1, found.labels == 1) > 0.9
    assert not (found.labels > 0)[(labels == 1) & (expert == 0)].any()
    assert found.words == model().search(alone).words


def test_what_was_taken_for_a_kidney_and_is_half_bone_is_told() -> None:
    volume, labels = body([RIGHT, LEFT])
    left = labels.nonzero()[2] > labels.shape[2] // 2
    hu = volume.hu.copy()
    hu[tuple(axis[left][::2] for axis in labels.nonzero())] += 400
    told = model().search(Volume(hu, volume.affine)).words
    assert re.findall(r"HU vary by ± \d+ in what was taken for a kidney \((\w+)\): check that it is one\.", told) == [
        "left"
    ]


def test_a_kidney_cut_off_by_the_end_of_the_scan_is_told() -> None:
    volume, _ = body([((-140, 30, -64), (50, 26, 26)), LEFT])
    assert "A kidney reaches the edge of the scan" in model().search(volume).words


@pytest.mark.shared_data
def test_however_the_axes_of_a_real_scan_run_organs_lie_in_the_same_place(shared_data: Path) -> None:
    folder = shared_data / "ct" / "totalseg_example"
    real = read_volume(folder / "example_ct.nii.gz")
    hu = real.hu.clip(-1000, BODY)
    right, left = ((real.lps_mm(np.argwhere(hu > -3000)) - real.lps_mm(np.array([[56, 50, x]]))) for x in (30, 90))
    for middle in (right, left):
        hu[(np.linalg.norm(middle, axis=1) < 28).reshape(hu.shape)] = KIDNEY
    volume = Volume(hu, real.affine)
    found = model().search(volume)
    assert dice(hu == KIDNEY, found.labels == 1) > 0.9
    expected = places(volume, found.labels)
    for axes, flipped in (((0, 1, 2), (2,)), ((2, 0, 1), (0,)), ((1, 0, 2), (0, 1, 2))):
        other = turned(volume, axes, flipped)
        again = model().search(other)
        assert np.array_equal(places(other, again.labels), expected)
        assert again.measures.found == found.measures.found


@pytest.mark.shared_data
def test_left_and_right_kidney_of_a_real_scan_are_not_swapped(shared_data: Path) -> None:
    folder = shared_data / "ct" / "amos_0013_slab"
    real = read_volume(folder / "img_dicom")
    masks = {
        float(mask.ImagePositionPatient[2]): mask.pixel_array
        for mask in map(pydicom.dcmread, (folder / "mask_dicom").iterdir())
    }
    heights = real.lps_mm(np.array([[index, 0, 0] for index in range(real.slices)]))[:, 2]
    expert = np.stack([masks[min(masks, key=lambda z: abs(z - height))] for height in heights])  # 2 right, 3 left
    hu = np.where(np.isin(expert, (2, 3)), KIDNEY, real.hu.clip(-1000, BODY)).astype(np.int16)
    volume = Volume(hu, real.affine)
    found = model().search(volume)
    for side, label in (("right", 2), ("left", 3)):
        expected_ml = np.count_nonzero(expert == label) * volume.voxel_ml
        assert found.measures.volume_ml(side, 1) == pytest.approx(expected_ml, rel=0.1)  # type: ignore[arg-type]


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A folder of models with one whose weights are random."""
    return install(tmp_path)


@pytest.mark.parametrize("kind", ["cpu", "openvino"])
def test_a_volume_gets_the_class_of_the_greatest_logit_from_every_back_end(
    kind: devices.Kind, installed: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RENAL_DATA", str(tmp_path))
    network = class_network(installed / "bright" / "ct.safetensors", "lesion")
    volume = np.random.default_rng(0).integers(-300, 400, (2, 16, 24, 32)).astype(np.int16)
    with torch.no_grad():
        shown = torch.from_numpy(volume)[:, None].float()
        *_, last = (module for module in network.modules() if isinstance(module, torch.nn.Conv3d))
        last.bias -= network.network(shown).mean((0, 2, 3, 4))  # so that random weights name every class
        expected = network.network(shown).argmax(1).numpy()
    backend = backends.load(lambda: network, devices.Device(kind, 1), key="lesion", shown=backends.VOLUMES)
    (classes,) = backend.run(volume)
    assert (classes.dtype, classes.shape) == (np.uint8, volume.shape)
    assert set(np.unique(expected)) == {0, 1, 2}
    assert (classes == expected).mean() > 0.999


def test_a_model_is_loaded_by_its_card_and_altered_weights_are_refused(installed: Path) -> None:
    loaded = KidneyModel.load("bright", device="cpu", root=installed)
    assert list(loaded.steps) == list(STEPS)
    (installed / "bright" / "ct.safetensors").write_bytes(b"altered")
    with pytest.raises(ModelError, match="altered"):
        KidneyModel.load("bright", device="cpu", root=installed)


def test_where_no_ct_model_is_installed_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no CT model is installed"):
        KidneyModel.load("ct-unet3d", root=tmp_path)
    (tmp_path / "bright").mkdir()
    write_card(card(), tmp_path / "bright")
    with pytest.raises(UnknownName, match="known models: bright"):
        KidneyModel.load("ct-unet3d", root=tmp_path)
    with pytest.raises(ModelError, match="missing"):
        KidneyModel.load("bright", root=tmp_path)
