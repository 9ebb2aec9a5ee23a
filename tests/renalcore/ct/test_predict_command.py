from __future__ import annotations

import json
from pathlib import Path

import highdicom
import nibabel
import numpy as np
import pydicom
import pytest
import torch

from renalcore import cli
from renalcore.ct import predictions
from renalcore.ct.measure import measure
from renalcore.ct.networks import StepNetwork, build_network, save_networks
from renalcore.ct.predict import Found, in_words
from renalcore.ct.steps import STEPS
from renalcore.models import file_entries, write_card
from tests import ct_files
from tests.ct_analysed import transplanted
from tests.renalcore.ct.bright import LEFT, RIGHT, body, card


def bright_is_kidney(network: StepNetwork, *, above: float) -> None:
    """Set the weights so that what is by `above` deviations brighter than the mean is of class 1."""
    body = network.body
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.dim() == 5:
                parameter.zero_()
        for part in (body.first, body.up[-1].convs):
            for convolution in (part.conv_0.conv, part.conv_1.conv):
                convolution.weight[0, 0, 1, 1, 1] = 1.0
        body.answer.weight[1, 0] = 1.0
        body.answer.bias[1] = -above


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One model, to which what is bright is kidney, and which knows no lesions."""
    folder = tmp_path_factory.mktemp("models") / "bright"
    folder.mkdir()
    networks = {step: build_network("unet3d", step, width=4) for step in STEPS}
    for step, network in networks.items():
        bright_is_kidney(network, above=1000.0 if step == "lesion" else 1.0)
    save_networks(networks, folder / "bright.safetensors")
    write_card(card(**file_entries(folder / "bright.safetensors")), folder)
    return folder.parent


def predict(registry: Path, output: Path, *scans: Path, options: tuple[str, ...] = ()) -> int:
    model = ["--models", str(registry), "--model", "bright", "--device", "cpu"]
    return cli.main(["predict", "ct", *map(str, scans), "--output", str(output), *model, *options])


def test_a_dicom_series_gets_labels_on_its_own_grid_figures_surfaces_and_a_seg_and_a_bad_scan_does_not_stop_it(
    registry: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn, expert = body([RIGHT, LEFT], shape=(40, 60, 80))
    series = ct_files.saved(tmp_path / "study", ct_files.ct_series(drawn.hu, step_mm=5.0, spacing=(4.0, 4.0)))
    bad, output = tmp_path / "bad.nii.gz", tmp_path / "found"
    bad.write_bytes(b"cut off")
    assert predict(registry, output, bad, series, options=("--seg", "--stl")) == 1
    said = capsys.readouterr().err
    assert "bad.nii.gz" in said
    assert "study: Two kidneys were found: right, left. No tumour or cyst was found." in said
    assert sorted(path.name for path in (output / "study").iterdir()) == [
        "kidney-left.stl", "kidney-right.stl", "kidneys.csv", "labels.dcm", "labels.nii.gz", "lesions.csv",
        "summary.json",
    ]  # fmt: skip
    labels = nibabel.load(output / "study" / "labels.nii.gz")
    assert labels.shape == (80, 60, 40)
    assert labels.affine == pytest.approx(np.array([[-4, 0, 0, 10], [0, -4, 0, 20], [0, 0, 5, 30], [0, 0, 0, 1]]))
    found = np.asarray(labels.dataobj).transpose(2, 1, 0)
    assert 2 * (found * expert).sum() / (found.sum() + expert.sum()) > 0.9
    told = json.loads((output / "study" / "summary.json").read_text())
    assert (told["model"], told["shape"], told["largest_diameter_mm"]["tumour"]) == ("bright", [40, 60, 80], None)
    right, left = ((expert[..., half] > 0).sum() * 0.08 for half in (slice(0, 40), slice(40, 80)))  # 5 x 4 x 4 mm
    assert told["ml"]["right"]["kidney"] == pytest.approx(right, rel=0.1)
    assert told["ml"]["left"] == {"kidney": pytest.approx(left, rel=0.1), "tumour": 0, "cyst": 0}
    assert list(told["seconds_of"]) == ["rough", "kidney", "lesion", "labels", "measures"]
    segments = highdicom.seg.segread(output / "study" / "labels.dcm")
    assert [segment.SegmentLabel for segment in segments.SegmentSequence] == ["Right kidney", "Left kidney"]
    source = pydicom.dcmread(next(series.iterdir()))
    assert segments.FrameOfReferenceUID == source.get("FrameOfReferenceUID", segments.FrameOfReferenceUID)


def test_a_kidney_in_the_pelvis_has_figures_and_surfaces_apart_from_the_native_one_of_its_side(tmp_path: Path) -> None:
    volume, labels = transplanted()
    measures = measure(labels, volume.affine, hu=volume.hu)
    found = Found(labels, measures, in_words(labels, measures), {})
    predictions.write(tmp_path, found, volume, card=card(), name="study", seconds=1.0)
    told = json.loads((tmp_path / "summary.json").read_text())["ml"]
    assert list(told) == ["right", "left", "pelvis_right", "total"]
    assert told["right"] == {"kidney": pytest.approx(told["left"]["kidney"], rel=0.02), "tumour": 0, "cyst": 0}
    assert told["pelvis_right"]["tumour"] == told["total"]["tumour"] > 0
    assert sum(told[site]["kidney"] for site in ("right", "left", "pelvis_right")) == pytest.approx(
        told["total"]["kidney"]
    )
    written = predictions.write_surfaces(tmp_path, found, volume)
    assert [path.name for path in written] == [
        "kidney-right.stl", "kidney-left.stl", "kidney-pelvis-right.stl", "tumour-pelvis-right.stl",
    ]  # fmt: skip


def test_a_seg_and_surfaces_of_an_earlier_scan_do_not_stay_beside_the_labels_of_another(tmp_path: Path) -> None:
    for name in ("labels.dcm", "tumour-pelvis-left.stl", "kidney-right.stl", "of-the-clinic.stl"):
        (tmp_path / name).write_bytes(b"of the scan before")
    volume, labels = transplanted()
    measures = measure(labels, volume.affine, hu=volume.hu)
    found = Found(labels, measures, in_words(labels, measures), {})
    predictions.write(tmp_path, found, volume, card=card(), name="study", seconds=1.0)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "kidneys.csv", "labels.nii.gz", "lesions.csv", "of-the-clinic.stl", "summary.json",
    ]  # fmt: skip


def test_nothing_found_is_written_as_empty_labels_and_is_no_error(
    registry: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn, _ = body([], shape=(20, 30, 40))
    scan = ct_files.saved(tmp_path / "empty", ct_files.ct_series(drawn.hu, step_mm=5.0, spacing=(4.0, 4.0)))
    assert predict(registry, tmp_path / "found", scan, options=("--seg", "--stl")) == 0
    assert "No kidney was found." in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "found").iterdir()) == [
        "kidneys.csv", "labels.nii.gz", "lesions.csv", "summary.json",
    ]  # fmt: skip
    assert not np.asarray(nibabel.load(tmp_path / "found" / "labels.nii.gz").dataobj).any()
    told = json.loads((tmp_path / "found" / "summary.json").read_text())
    assert told["found"] == "No kidney was found."
    assert told["ml"]["total"] == {"kidney": 0, "tumour": 0, "cyst": 0}


def test_a_seg_of_a_scan_that_is_no_dicom_is_refused_before_the_search(
    registry: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn, _ = body([], shape=(20, 30, 40))
    scan, output = tmp_path / "scan.nii", tmp_path / "found"
    nibabel.save(nibabel.Nifti1Image(drawn.hu.transpose(2, 1, 0), np.diag([4.0, 4, 5, 1])), scan)
    assert predict(registry, output, scan, options=("--seg",)) == 1
    assert "scan.nii: this is no DICOM series, to which a DICOM SEG could refer; leave the SEG out" in (
        capsys.readouterr().err
    )
    assert not list(output.iterdir())


def test_without_a_ct_model_the_command_says_that_none_is_installed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["predict", "ct", str(tmp_path), "--output", str(tmp_path / "found"), "--models", str(tmp_path)]
    assert cli.main(arguments) == 1
    assert "no CT model is installed" in capsys.readouterr().err
