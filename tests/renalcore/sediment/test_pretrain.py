from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from renalcore import cli
from renalcore.datasets.pictures import find_pictures
from renalcore.errors import InputError, ModelError
from renalcore.sediment.networks import backbone, build, load_start, load_weights, save_backbone, save_weights
from renalcore.sediment.pretrain import (
    Autoencoder,
    PretrainConfig,
    Pretraining,
    ReconstructionLoss,
    UnlabelledFields,
    pretrain,
)


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four fields of discs on a slanted light, two of them in a sub-folder, beside a file that is no picture."""
    fields = tmp_path_factory.mktemp("fields")
    (fields / "more").mkdir()
    rng = np.random.default_rng(0)
    for index, name in enumerate(("a.png", "b.JPG", "more/c.tif", "more/d.webp")):
        pixels = np.full((120, 160, 3), 190, np.uint8) - np.arange(160, dtype=np.uint8)[None, :, None] // (index + 2)
        for _ in range(8):
            centre = (int(rng.integers(160)), int(rng.integers(120)))
            cv2.circle(pixels, centre, int(rng.integers(6, 14)), (90, 120, 160), 2)
        Image.fromarray(pixels).save(fields / name)
    (fields / "notes.txt").write_text("no picture")
    return fields


@pytest.fixture
def small_run(folder: Path, tmp_path: Path) -> PretrainConfig:
    """A run of two steps an epoch."""
    return PretrainConfig(data=folder, output=tmp_path / "run", size_px=64, batch=2, epochs=1, items=4)


def test_every_picture_below_the_folder_is_seen_and_nothing_else(small_run: PretrainConfig) -> None:
    run = Pretraining(small_run)
    seen = sorted(path.name for path in (*run.crops.paths, *run.unseen.paths))
    assert seen == ["a.png", "b.JPG", "c.tif", "d.webp"]
    assert len(run.unseen.paths) == 1  # a twentieth, and at least one


def test_a_folder_of_one_picture_is_refused(small_run: PretrainConfig, folder: Path) -> None:
    for name in ("b.JPG", "more/c.tif", "more/d.webp"):
        (folder / name).unlink()
    with pytest.raises(InputError, match="holds 1 pictures; pretraining needs at least two"):
        Pretraining(small_run)


def test_ssim_is_that_of_the_formula() -> None:
    # Two flat pictures have no variance: SSIM = (2 ab + c1) / (a^2 + b^2 + c1), c1 = 0.01^2, and L1 = |a - b|.
    first, second = torch.full((1, 3, 32, 32), 0.2), torch.full((1, 3, 32, 32), 0.6)
    loss, parts = ReconstructionLoss(ssim_weight=2.0)(first, second)
    ssim = (2 * 0.2 * 0.6 + 1e-4) / (0.04 + 0.36 + 1e-4)
    assert parts["ssim"] == pytest.approx(ssim, abs=1e-4)
    assert parts["l1"] == pytest.approx(0.4, abs=1e-6)
    assert loss.item() == pytest.approx(0.4 + 2 * (1 - ssim), abs=1e-3)


def test_ssim_of_a_picture_and_its_negative_is_the_formula_s_too() -> None:
    # One window of 11 px, weighted by the Gaussian of sigma 1.5: y = 1 - x has the same variance and covariance -var.
    picture = torch.rand(1, 1, 11, 11, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    bell = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    weights = np.outer(bell, bell) / bell.sum() ** 2
    x = picture[0, 0].numpy()
    mean = (weights * x).sum()
    variance = (weights * (x - mean) ** 2).sum()
    c1, c2 = 0.01**2, 0.03**2
    light = (2 * mean * (1 - mean) + c1) / (mean**2 + (1 - mean) ** 2 + c1)
    structure = (-2 * variance + c2) / (2 * variance + c2)
    found = ReconstructionLoss(1.0)(picture.float(), 1 - picture.float())[1]["ssim"]
    assert found == pytest.approx(light * structure, abs=1e-4)


def test_the_decoder_gives_a_picture_of_the_same_shape_and_every_layer_of_the_backbone_learns() -> None:
    detector = build("n")
    network = Autoencoder(detector)
    pictures = torch.rand(2, 3, 64, 96)
    found = network(pictures)
    assert found.shape == pictures.shape
    assert 0 <= found.min() <= found.max() <= 1
    ReconstructionLoss(1.0)(found, pictures)[0].backward()
    assert len(network.encoder) == 9  # layers 0 to 8 of yolo12.yaml
    for layer in network.encoder:
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in layer.parameters())
    assert network.encoder[0] is detector.model[0]  # trained in place


def test_an_untrained_decoder_paints_the_mean_colour() -> None:
    network = Autoencoder(build("n")).eval()
    colour = torch.tensor([0.8, 0.5, 0.3])
    network.begin_with(colour)
    with torch.inference_mode():
        painted = network(torch.rand(1, 3, 64, 64)).mean((0, 2, 3))
    torch.testing.assert_close(painted, colour, rtol=0, atol=0.1)  # the features still add a little


def test_a_crop_depends_on_seed_epoch_and_index_alone(folder: Path) -> None:
    def crops() -> UnlabelledFields:
        return UnlabelledFields(find_pictures(folder), size_px=64, items=6, seed=3)

    first, second = crops(), crops()
    torch.testing.assert_close(first[4], [second[index] for index in (0, 5, 4)][2], rtol=0, atol=0)
    second.epoch = 1
    assert not torch.equal(first[4], second[4])
    assert first[4].shape == (3, 64, 64)
    assert 0 <= first[4].min() <= first[4].max() <= 1


def test_pictures_beyond_the_memory_allowed_are_read_again(folder: Path) -> None:
    one = 120 * 160 * 3
    crops = UnlabelledFields(find_pictures(folder), size_px=64, items=None, seed=0, kept_bytes=one + 1)
    for index in range(4):
        crops[index]
    assert len(crops.kept) == 1


def test_the_loss_falls(folder: Path, tmp_path: Path) -> None:
    # 20 epochs of one step on four pictures.
    config = PretrainConfig(data=folder, output=tmp_path / "run", size_px=64, batch=4, epochs=20, items=4)
    pretrain(replace(config, lr0=3e-3))
    with (config.output / "metrics.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    loss = [float(row["train/loss"]) for row in rows]
    assert np.mean(loss[-4:]) < 0.75 * np.mean(loss[:2])


def test_a_run_leaves_a_backbone_curves_and_pictures(small_run: PretrainConfig) -> None:
    weights = pretrain(small_run)
    assert weights == small_run.output / "backbone-n.safetensors"
    names = {path.name for path in small_run.output.iterdir()}
    assert names == {
        "backbone-n.safetensors", "checkpoint.pt", "curves.png", "metrics.csv", "reconstructions.png",
    }  # fmt: skip
    with (
        Image.open(small_run.output / "reconstructions.png") as crops,
        Image.open(small_run.output / "curves.png") as c,
    ):
        assert crops.size == (64, 2 * 64)  # one held-out crop, and what came back below it
        assert c.width > 300


def test_a_run_resumes_where_it_was_killed_and_repeats_no_row(small_run: PretrainConfig) -> None:
    with pytest.raises(InputError, match="holds no checkpoint to resume from"):
        pretrain(replace(small_run, resume=True))
    pretrain(small_run)
    table = small_run.output / "metrics.csv"
    table.write_text(table.read_text() + "2,9,1,1,0,1,1,0,0\n")  # killed after the row, before the checkpoint
    pretrain(replace(small_run, epochs=2, resume=True))
    with table.open() as lines:
        rows = list(csv.DictReader(lines))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert rows[1]["train/loss"] != "1"


def test_a_resumed_run_has_the_weights_of_the_one_it_goes_on_from(small_run: PretrainConfig) -> None:
    pretrain(small_run)
    resumed = Pretraining(replace(small_run, epochs=2, resume=True))
    assert resumed.epoch == 1
    saved = load_file(small_run.output / "backbone-n.safetensors")
    torch.testing.assert_close(resumed.detector.model[0].conv.weight.half(), saved["0.conv.weight"], rtol=0, atol=0)


def test_a_run_of_hours_ends_by_the_clock(small_run: PretrainConfig) -> None:
    pretrain(replace(small_run, hours=1e-9))
    assert not (small_run.output / "metrics.csv").exists()
    assert (small_run.output / "backbone-n.safetensors").exists()


def test_a_crop_that_the_network_cannot_halve_five_times_is_refused(small_run: PretrainConfig) -> None:
    with pytest.raises(InputError, match="multiple of 32 px and at least 64, got 100"):
        replace(small_run, size_px=100)


def test_the_backbone_alone_begins_a_detector_and_leaves_neck_and_heads_alone(tmp_path: Path) -> None:
    first, second = build("n"), build("n")
    neck = second.model[11].cv1.conv.weight.clone()
    path = tmp_path / "backbone-n.safetensors"
    save_backbone(first, path)
    assert load_start(second, path) == "backbone"
    for before, after in zip(backbone(first).parameters(), backbone(second).parameters(), strict=True):
        torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-4)  # stored in half precision
    torch.testing.assert_close(second.model[11].cv1.conv.weight, neck, rtol=0, atol=0)


def test_a_whole_detector_begins_one_too(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(build("n"), path)
    assert load_start(build("n"), path) == "detector"


def test_a_backbone_is_no_detector_to_predict_with(tmp_path: Path) -> None:
    path = tmp_path / "backbone-n.safetensors"
    save_backbone(build("n"), path)
    with pytest.raises(ModelError, match="holds the backbone of YOLO12-n and no detector; train one from it"):
        load_weights(build("n"), path)


def test_a_backbone_of_another_scale_is_refused_with_the_option_that_fits(tmp_path: Path) -> None:
    path = tmp_path / "backbone-s.safetensors"
    save_backbone(build("s"), path)
    with pytest.raises(ModelError, match="is the backbone of YOLO12-s, and this network is YOLO12-n; give --scale s"):
        load_start(build("n"), path)


def test_a_detector_without_some_of_its_tensors_is_broken_not_a_backbone(tmp_path: Path) -> None:
    # The very tensors of a backbone, under the detector's names, in a file that does not say that it is one.
    from safetensors.torch import save_file

    model = build("n")
    path = tmp_path / "w.safetensors"
    save_file({f"model.{k}": v.contiguous() for k, v in backbone(model).state_dict().items()}, path)
    with pytest.raises(ModelError, match=r"w\.safetensors does not fit this network: \d+ tensors missing, 0 unexp"):
        load_start(model, path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ModelError, match=r"w\.safetensors is not a whole safetensors file"):
        load_start(model, path)


def test_the_command_line_pretrains_and_its_backbone_begins_a_training(
    folder: Path, urised: Path, tmp_path: Path
) -> None:
    pre, run = tmp_path / "pre", tmp_path / "run"
    options = ["--epochs", "1", "--items", "4", "--batch", "2", "--size", "64"]
    stage = ["train", "sediment", "--stage", "pretrain", "--data", str(folder), "--output", str(pre), *options]
    assert cli.main(stage) == 0
    start = ["--start", str(pre / "backbone-n.safetensors"), "--hold-out", "S2", "--lr0", "1e-9"]
    assert cli.main(["train", "sediment", "--data", str(urised), "--output", str(run), *options, *start]) == 0
    before = load_file(pre / "backbone-n.safetensors")["0.conv.weight"]
    after = load_file(run / "sediment-multihead-n" / "sediment-multihead-n.safetensors")["model.0.conv.weight"]
    torch.testing.assert_close(after, before, rtol=0, atol=2e-3)
