from __future__ import annotations

import csv
import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from renalcore import cli
from renalcore.errors import InputError
from renalcore.models import ModelCard
from renalcore.sediment.networks import build, load_weights, save_weights
from renalcore.sediment.train import SedimentTrainer, TrainConfig, train


@pytest.fixture
def small_run(urised: Path, tmp_path: Path) -> TrainConfig:
    """A run of two steps an epoch that validates on sample S2."""
    return TrainConfig(
        data=urised,
        output=tmp_path / "run",
        size_px=64,
        batch=4,
        epochs=1,
        items=8,
        held_out=("S2",),
        optimizer="AdamW",
    )


def test_a_run_leaves_weights_that_load_and_a_row_of_metrics_an_epoch(small_run: TrainConfig) -> None:
    weights = train(small_run)
    assert weights == small_run.output / "sediment-multihead-n.safetensors"
    load_weights(build("n"), weights)
    card = ModelCard.from_json((small_run.output / "card.json").read_text())
    assert card.sha256 == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert card.validated_classes == ()  # one held-out object validates nothing
    assert card.training_data[0].images == 1
    with (small_run.output / "metrics.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    assert [row["epoch"] for row in rows] == ["1"]
    assert float(rows[0]["train/cls_loss"]) > 0


def test_a_second_stage_begins_where_the_first_ended(small_run: TrainConfig) -> None:
    first = train(small_run)
    frozen = replace(small_run, output=small_run.output.parent / "second", start=first, lr0=0.0, lrf=0.0)
    second = train(frozen)
    before, after = load_file(first), load_file(second)
    name = "model.0.conv.weight"
    torch.testing.assert_close(after[name], before[name], rtol=0, atol=0)


def interrupt(_: SedimentTrainer) -> None:
    raise KeyboardInterrupt


def test_a_run_resumes_from_its_last_checkpoint(small_run: TrainConfig) -> None:
    with pytest.raises(InputError, match="holds no checkpoint to resume from"):
        train(replace(small_run, resume=True))
    killed = SedimentTrainer(replace(small_run, epochs=2))
    killed.add_callback("on_fit_epoch_end", interrupt)
    with pytest.raises(KeyboardInterrupt):
        killed.train()
    train(replace(small_run, epochs=2, resume=True))
    with (small_run.output / "metrics.csv").open() as lines:
        assert [row["epoch"] for row in csv.DictReader(lines)] == ["1", "2"]


def test_the_command_line_holds_a_sample_out_and_begins_from_an_earlier_stage(urised: Path, tmp_path: Path) -> None:
    first = tmp_path / "first.safetensors"
    save_weights(build("n"), first)
    run = tmp_path / "run"
    status = cli.main(
        ["train", "sediment", "--data", str(urised), "--output", str(run), "--epochs", "1", "--items", "4",
         "--hold-out", "S2", "--start", str(first), "--optimizer", "AdamW", "--normaliser", "batch",
         "--licence", "ours"]
    )  # fmt: skip
    card = ModelCard.from_json((run / "card.json").read_text())
    assert status == 0
    assert (card.training_data[0].images, card.training_data[0].licence) == (1, "ours")
