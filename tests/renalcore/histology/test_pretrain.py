from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from renalcore import cli
from renalcore.errors import InputError
from renalcore.histology.networks import NETWORKS, build_network, load_start
from renalcore.histology.pretrain import (
    BLOCK_PX,
    PretrainConfig,
    Restorer,
    pretrain,
    restoration_loss,
    spoil,
    unlabelled,
)
from tests.renalcore.histology.drawn import field, pair, save


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two pictures that nobody outlined, one in a sub-folder, and a labelled one with its mask."""
    save(tmp_path / "slides" / "a.png", field([(100, 100, 40)]))
    save(tmp_path / "slides" / "more" / "b.png", field([(200, 90, 30)], seed=1))
    pair(tmp_path / "slides", "c", [(150, 120, 48)], seed=2)
    return tmp_path / "slides"


def test_every_slide_is_learnt_from_and_no_mask_is_taken_for_one(folder: Path) -> None:
    found = {slide.path.name: slide.scale_px for slide in unlabelled(folder)}
    assert sorted(found) == ["a.png", "b.png", "c.png"]
    assert (found["a.png"], found["c.png"]) == (None, pytest.approx(96, abs=2))
    with pytest.raises(InputError, match=r"too few slides to learn from \(1\)"):
        unlabelled(folder / "more")


def test_a_pretrained_encoder_begins_a_training_and_a_killed_run_goes_on(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    small = PretrainConfig(
        data=folder,
        output=run,
        network="linknet-mobilenetv2",
        size_px=64,
        batch=2,
        items=8,
        epochs=1,
        lr0=3e-3,
        bf16=False,
    )
    pretrain(small)
    weights = pretrain(replace(small, epochs=2, resume=True))
    rows = list(csv.DictReader((run / "metrics.csv").read_text().splitlines()))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert float(rows[1]["train/loss"]) < float(rows[0]["train/loss"])
    assert (run / "curves.png").is_file()
    assert weights.name == "encoder-mobilenet_v2.safetensors"
    assert load_start(build_network("unet-mobilenetv2"), weights) == "encoder"
    with pytest.raises(InputError, match="pretrains linknet-mobilenetv2; resume it with that --network"):
        pretrain(replace(small, network="mobilenet", resume=True))


@pytest.mark.parametrize("name", ["linknet-mobilenetv2", "deeplabv2-resnet18", "mobilenet"])
def test_encoders_of_every_stride_are_restored_from_and_learn_as_a_whole(name: str) -> None:
    network = build_network(name)
    restored = Restorer(network)(torch.rand(2, 3, 64, 64))
    assert restored.shape == (2, 3, 64, 64)
    restored.mean().backward()
    assert [part for part, parameter in network.encoder.named_parameters() if parameter.grad is None] == []


def test_a_third_of_a_tile_is_hidden_in_whole_blocks_behind_its_mean_colour() -> None:
    pictures = torch.rand(8, 3, 256, 256, generator=torch.Generator().manual_seed(1))
    spoiled, hidden = spoil(pictures, torch.Generator().manual_seed(0))
    assert hidden.float().mean().item() == pytest.approx(1 / 3, abs=0.05)
    blocks = hidden.unfold(2, BLOCK_PX, BLOCK_PX).unfold(3, BLOCK_PX, BLOCK_PX).flatten(4)
    assert (blocks.all(-1) | ~blocks.any(-1)).all()
    mean = pictures.mean((2, 3), keepdim=True).expand_as(pictures)
    shown = hidden.expand_as(pictures)
    torch.testing.assert_close(spoiled[shown], mean[shown])
    assert 0 < (spoiled - pictures)[~shown].std() < 0.1
    assert torch.equal(spoil(pictures, torch.Generator().manual_seed(0))[0], spoiled)


def test_the_loss_weighs_what_was_hidden_as_much_as_the_rest() -> None:
    hidden = torch.tensor([True, False, False, False]).view(1, 1, 1, 4)
    restored, pictures = torch.tensor([0.5, 0.2, 0.2, 0.2]).expand(1, 3, 1, 4), torch.zeros(1, 3, 1, 4)
    assert restoration_loss(restored, pictures, hidden).item() == pytest.approx(0.5 + 0.2)


def test_options_that_need_outlines_are_refused_in_pretraining(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", "histology", "--stage", "pretrain", "--data", str(folder), "--output", str(tmp_path / "run")]
    assert cli.main([*command, "--folds", "3", "--recipe", "thesis"]) == 1
    assert "--recipe, --folds: for training on outlined glomeruli" in capsys.readouterr().err
    assert cli.main([*command, "--network", "segnet"]) == 1
    assert f"no network 'segnet'; choose one of {next(iter(NETWORKS))}" in capsys.readouterr().err
