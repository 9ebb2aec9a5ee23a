from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from renalcore import cli
from renalcore.histology.networks import build_network, save_weights
from tests.renalcore.histology.discs import card


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One model, to which everything is glomerulus: logits of 4 whatever it is shown."""
    folder = tmp_path_factory.mktemp("models") / "discs"
    folder.mkdir()
    network = build_network("linknet-mobilenetv2")
    head = network.body.segmentation_head[0]
    with torch.no_grad():
        head.weight.zero_()
        head.bias.copy_(torch.tensor([4.0, -4.0]))
    save_weights(network, folder / "discs.safetensors")
    sha256 = hashlib.sha256((folder / "discs.safetensors").read_bytes()).hexdigest()
    (folder / "card.json").write_text(card(sha256=sha256).to_json())
    return folder.parent


def predict(registry: Path, output: Path, *inputs: Path, options: tuple[str, ...] = ()) -> int:
    named = [str(path) for path in inputs]
    model = ["--models", str(registry), "--model", "discs", "--device", "cpu"]
    return cli.main(["predict", "histology", *named, "--output", str(output), *model, *options])


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A picture full of tissue, 160 x 96 px."""
    path = tmp_path / "snap ü.png"
    noise = np.random.default_rng(0).integers(60, 200, (96, 160, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    return path


def test_each_input_gets_three_files_and_a_bad_one_does_not_stop_the_others(
    registry: Path, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad, output = tmp_path / "bad.svs", tmp_path / "made" / "found"
    bad.write_bytes(b"II*\0 cut off")
    assert predict(registry, output, bad, picture, options=("--um-per-px", "2")) == 1
    assert "bad.svs" in capsys.readouterr().err
    assert sorted(path.name for path in output.iterdir()) == [
        "snap ü.geojson", "snap ü.instances.png", "snap ü.json",
    ]  # fmt: skip
    told = json.loads((output / "snap ü.json").read_text())
    assert (told["file_name"], told["model"], told["width"], told["height"]) == ("snap ü.png", "discs", 160, 96)
    assert (told["count"], told["cut_by_edge"], told["um_per_px"]) == (1, 1, 2.0)
    assert told["areas_um2"] == pytest.approx([160 * 96 * 4], rel=0.02)  # corners are drawn a little round
    assert told["tissue_mm2"] == pytest.approx(160 * 96 * 4e-6)
    assert told["density_per_mm2"] == pytest.approx(1 / (160 * 96 * 4e-6))
    assert told["seconds"] > 0
    with Image.open(output / "snap ü.instances.png") as image:
        assert image.mode == "I;16"
        labels = np.asarray(image)
    assert labels.shape == (96, 160)
    assert (labels == 1).mean() > 0.98
    (feature,) = json.loads((output / "snap ü.geojson").read_text(encoding="utf-8"))["features"]
    assert np.array(feature["geometry"]["coordinates"][0]).max() == pytest.approx(160, abs=1)


def test_without_a_scale_measures_stay_in_px(registry: Path, picture: Path, tmp_path: Path) -> None:
    assert predict(registry, tmp_path / "found", picture) == 0
    told = json.loads((tmp_path / "found" / "snap ü.json").read_text())
    assert (told["um_per_px"], told["density_per_mm2"], told["tissue_px"]) == (None, None, 160 * 96)
    assert "areas_um2" not in told
    assert told["areas_px2"] == pytest.approx([160 * 96], rel=0.05)


def test_inputs_whose_results_would_have_one_name_are_refused(
    registry: Path, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(registry, tmp_path, picture, tmp_path / "snap ü.svs") == 1
    assert "several inputs are called snap ü" in capsys.readouterr().err
