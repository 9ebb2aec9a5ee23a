from __future__ import annotations

import csv
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from renalcore import cli, models
from renalcore.errors import InputError, ModelError
from renalcore.histology.annotations import ReadOptions
from renalcore.histology.data import MOUSE, THESIS, Augmentation
from renalcore.histology.losses import Loss
from renalcore.histology.networks import build_network, save_weights
from renalcore.histology.train import TrainConfig, train, with_recipe
from renalcore.runs.training import pace
from tests.renalcore.histology.drawn import pair

GENTLE = Augmentation(zoom=(1.0, 1.0), bent=0.0, toned=0.0, stain=None, blur_px=0.0, noise=0.0, jpeg=0.0)


@pytest.fixture
def slides(tmp_path: Path) -> Path:
    """Four slides with a glomerulus 96 px across each, so that they are shown as they are."""
    folder = tmp_path / "slides"
    for number, name in enumerate("abcd"):
        pair(folder, name, [(110 + 30 * number, 90 + 15 * number, 48)], seed=number)
    return folder


@pytest.fixture
def small_run(slides: Path, tmp_path: Path) -> TrainConfig:
    """A run of two steps an epoch."""
    return TrainConfig(
        data=slides,
        output=tmp_path / "run",
        network="linknet-mobilenetv2",
        size_px=64,
        batch=2,
        items=4,
        epochs=2,
        augmentation=GENTLE,
        validate_every=0,
        held_out=("d",),
        bf16=False,
    )


@dataclass(frozen=True)
class Kill(Loss):
    """A loss that kills the run when it is asked for the N-th time."""

    at: int = 0
    asked: ClassVar[list[int]] = []

    def __call__(self, logits: Tensor, targets: Tensor, known: Tensor) -> Tensor:
        self.asked.append(1)
        if len(self.asked) == self.at:
            raise KeyboardInterrupt
        return super().__call__(logits, targets, known)


def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def killed(config: TrainConfig, *, at: int) -> None:
    Kill.asked.clear()
    with pytest.raises(KeyboardInterrupt):
        train(replace(config, loss=Kill(bce=1.0, dice=1.0, at=at)))


def test_a_network_learns_discs_and_leaves_a_model_with_its_curves(small_run: TrainConfig) -> None:
    weights = train(replace(small_run, batch=4, items=32, epochs=6, validate_every=4, lr0=5e-3))
    rows = table(small_run.output / "metrics.csv")
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4", "5", "6"]
    assert float(rows[-1]["train/loss"]) < 0.6 * float(rows[0]["train/loss"])
    assert [row["val/dice"] == "nan" for row in rows] == [True, True, True, False, True, False]
    figures = json.loads((small_run.output / "figures.json").read_text())
    assert (figures["epoch"], figures["slides"]) == (6, 1)
    assert figures["dice"] > 0.5  # calling all of the slide a glomerulus gives 0.17
    assert (small_run.output / "curves.png").is_file()
    card = models.card("histology-linknet-mobilenetv2", small_run.output)
    assert models.weights_path(card, small_run.output) == weights
    assert (card.network, card.input.object_px) == ("linknet-mobilenetv2", (96.0, 96.0))
    assert (card.figures, [source.images for source in card.training_data]) == ((), [3])


def test_glomeruli_can_be_shown_smaller_and_the_card_says_how_small(small_run: TrainConfig) -> None:
    smaller = replace(GENTLE, zoom=(0.5, 2.0)).showing(48.0)
    half = replace(small_run, augmentation=smaller, epochs=1, reading=ReadOptions(species="human"))
    train(half)
    shown = models.card("histology-linknet-mobilenetv2", half.output).input
    assert (shown.object_px, shown.um_per_px) == ((24.0, 96.0), 200 / 48)  # a human glomerulus is 200 um across


def test_a_run_killed_in_the_middle_of_an_epoch_ends_with_the_weights_it_would_have_had(
    small_run: TrainConfig, tmp_path: Path
) -> None:
    whole = load_file(train(replace(small_run, output=tmp_path / "whole")))
    killed(small_run, at=4)  # the last step of the second epoch
    assert not (small_run.output / "figures.json").exists()
    resumed = load_file(train(replace(small_run, resume=True)))
    for name, value in whole.items():
        torch.testing.assert_close(resumed[name], value, rtol=0, atol=0)
    assert len(table(small_run.output / "metrics.csv")) == 2
    with pytest.raises(InputError, match="is finished after 2 epochs, there is nothing to resume"):
        train(replace(small_run, resume=True))
    with pytest.raises(InputError, match="trains linknet-mobilenetv2; resume it with that --network"):
        train(replace(small_run, resume=True, network="unet-mobilenetv2"))


def test_a_run_that_never_began_cannot_be_resumed(small_run: TrainConfig) -> None:
    with pytest.raises(InputError, match="holds no checkpoint to resume from"):
        train(replace(small_run, resume=True))


def test_while_the_encoder_is_frozen_the_decoder_alone_learns(small_run: TrainConfig, tmp_path: Path) -> None:
    begun = build_network("linknet-mobilenetv2")
    save_weights(begun, tmp_path / "start.safetensors")
    killed(replace(small_run, frozen_epochs=1, start=tmp_path / "start.safetensors"), at=3)
    kept = torch.load(small_run.checkpoint, weights_only=True)["network"]
    first = {name: value.half().float() for name, value in begun.state_dict().items() if value.ndim == 4}
    same = {name for name, value in first.items() if torch.equal(value, kept[name])}
    assert same == {name for name in first if name.startswith("body.encoder.")}


def test_a_loss_without_end_stops_the_run_and_says_what_to_do(small_run: TrainConfig) -> None:
    with pytest.raises(ModelError, match=r"the loss became (nan|inf).*lower --lr0"):
        train(replace(small_run, lr0=1e30, warmup=0.0, items=40))


def test_the_recipes_are_those_of_the_papers() -> None:
    plain = TrainConfig(data=Path("d"), output=Path("o"), network="deeplabv2-resnet101")
    thesis, mouse = with_recipe(plain, "thesis"), with_recipe(plain, "mouse")
    assert (thesis.size_px, thesis.batch, thesis.epochs, thesis.frozen_epochs) == (256, 16, 38, 6)
    assert (thesis.loss, thesis.augmentation, thesis.network) == (Loss(lovasz=1.0), THESIS, "deeplabv2-resnet101")
    assert (mouse.size_px, mouse.batch, mouse.epochs, mouse.optimizer) == (512, 2, 10, "Adam")
    assert (mouse.lr0, mouse.weight_decay, mouse.augmentation) == (2.5e-4, 0.0005, MOUSE)
    assert (mouse.annealed, mouse.warmup, mouse.average, thesis.average) == (False, 0.0, 1, 1)
    assert with_recipe(plain, "scratch") == plain


def test_the_learning_rate_rises_and_falls_once_for_the_decoder_and_once_for_all() -> None:
    # Each half rises over a fifth of it, to 1 at 0.1 and 0.6, and is in the middle of its fall at 0.3 and 0.8.
    at = [pace(share, warmup=0.2, frozen=0.5) for share in (0, 0.1, 0.3, 0.5, 0.6, 0.8, 1)]
    assert at == pytest.approx([0.04, 1, 0.505, 0.04, 1, 0.505, 0.01])
    assert {pace(share / 10, warmup=0.0, annealed=False) for share in range(11)} == {1.0}


def test_folds_hold_every_slide_out_once_and_their_table_tells_mean_and_deviation(slides: Path, tmp_path: Path) -> None:
    run = tmp_path / "folds"
    command = ["train", "histology", "--data", str(slides), "--output", str(run), "--network", "linknet-mobilenetv2"]
    command += ["--size", "64", "--batch", "2", "--items", "4", "--epochs", "1", "--folds", "2"]
    assert cli.main([*command, "--fold", "2"]) == 0
    assert [row["fold"] for row in table(run / "folds.csv")] == ["2", "mean", "std"]
    made = (run / "fold-2" / "figures.json").stat().st_mtime_ns
    assert cli.main([*command, "--resume"]) == 0
    assert (run / "fold-2" / "figures.json").stat().st_mtime_ns == made  # a finished fold stays
    first, second, mean, deviation = table(run / "folds.csv")
    held_out = [json.loads((run / f"fold-{number}" / "held_out.json").read_text()) for number in (1, 2)]
    assert sorted(held_out[0] + held_out[1]) == ["a", "b", "c", "d"]
    figures = float(first["dice"]), float(second["dice"])
    assert float(mean["dice"]) == pytest.approx(sum(figures) / 2, abs=1e-5)
    assert float(deviation["dice"]) == pytest.approx(abs(figures[0] - figures[1]) / 2**0.5, abs=2e-5)
    assert cli.main([*command[:-1], "3", "--resume"]) == 1  # three folds hold out other groups
