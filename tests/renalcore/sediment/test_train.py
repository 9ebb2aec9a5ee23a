from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from renalcore import cli, models, taxonomy
from renalcore.errors import InputError
from renalcore.runs import metrics_table
from renalcore.sediment.data import PAPER
from renalcore.sediment.folds import cross_validate
from renalcore.sediment.groups import split_groups
from renalcore.sediment.networks import build, load_weights, save_weights
from renalcore.sediment.readers import LabelledField, ReadOptions
from renalcore.sediment.synthetic import write_dataset
from renalcore.sediment.train import SedimentTrainer, TrainConfig, paper_recipe, train
from tests.renalcore.sediment.conftest import two_fields


@pytest.fixture
def small_run(urised: Path, tmp_path: Path) -> TrainConfig:
    """A run of two steps an epoch that validates on sample S2."""
    return two_steps(urised, tmp_path / "run")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainConfig, Path]:
    """A `small_run` that was trained to its end, and its weights, for tests that only read them."""
    folder = tmp_path_factory.mktemp("finished")
    config = two_steps(two_fields(folder), folder / "run")
    return config, train(config)


def two_steps(data: Path, output: Path) -> TrainConfig:
    return TrainConfig(
        data=data,
        output=output,
        size_px=64,
        batch=4,
        epochs=1,
        items=8,
        held_out=("S2",),
        optimizer="AdamW",
    )


def test_a_run_leaves_weights_that_load_and_a_row_of_metrics_an_epoch(finished: tuple[TrainConfig, Path]) -> None:
    small_run, weights = finished
    assert weights == small_run.output / "sediment-multihead-n" / "sediment-multihead-n.safetensors"
    load_weights(build("n"), weights)
    card = models.card("sediment-multihead-n", small_run.output)  # the run is a folder of models
    assert models.weights_path(card, small_run.output) == weights
    assert (card.validated_classes, card.figures) == ((), ())  # training measures nothing that a card may tell
    assert card.training_data[0].images == 1
    with (small_run.output / "metrics.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    assert [row["epoch"] for row in rows] == ["1"]
    assert float(rows[0]["train/cls_loss"]) > 0


def test_on_rendered_fields_alone_the_real_ones_only_validate(small_run: TrainConfig, tmp_path: Path) -> None:
    write_dataset(tmp_path / "rendered", count=1, size_px=64)
    trainer = SedimentTrainer(replace(small_run, rendered=(tmp_path / "rendered",), rendered_share=1.0))
    assert [field.real for field in trainer.build_dataset("").fields] == [False]
    assert all(field.real for field in trainer.build_dataset("", "val").fields)
    with pytest.raises(InputError, match="rendered fields alone needs some; name their folder with --synthetic"):
        replace(small_run, rendered_share=1.0)


def test_a_second_stage_begins_where_the_first_ended(finished: tuple[TrainConfig, Path], tmp_path: Path) -> None:
    small_run, first = finished
    frozen = replace(small_run, output=tmp_path / "second", start=first, lr0=0.0, lrf=0.0)
    second = train(frozen)
    before, after = load_file(first), load_file(second)
    name = "model.0.conv.weight"
    torch.testing.assert_close(after[name], before[name], rtol=0, atol=0)


def interrupt(_: SedimentTrainer) -> None:
    raise KeyboardInterrupt


def test_a_run_resumes_from_its_last_checkpoint_and_keeps_no_row_without_one(small_run: TrainConfig) -> None:
    with pytest.raises(InputError, match="holds no checkpoint to resume from"):
        train(replace(small_run, resume=True))
    killed = SedimentTrainer(replace(small_run, epochs=2))
    killed.add_callback("on_fit_epoch_end", interrupt)
    with pytest.raises(KeyboardInterrupt):
        killed.train()
    table = small_run.output / "metrics.csv"
    metrics_table.complete(table, {"time": 5000})
    table.write_text(table.read_text() + "2,1" + ",0" * 13 + "\n")  # killed between the row and its checkpoint
    train(replace(small_run, epochs=2, resume=True))
    first, second = rows_of(table)
    assert (first["epoch"], second["epoch"]) == ("1", "2")
    assert float(second["time"]) > 5000  # one clock for both parts
    assert float(second["train/cls_loss"]) > 0


def test_a_resumed_run_goes_on_with_other_crops_and_knows_how_long_it_has_trained(small_run: TrainConfig) -> None:
    killed = SedimentTrainer(replace(small_run, epochs=3, seed=7))
    killed.add_callback("on_fit_epoch_end", interrupt)
    with pytest.raises(KeyboardInterrupt):
        killed.train()
    metrics_table.complete(small_run.output / "metrics.csv", {"time": 5000})
    resumed = replace(small_run, epochs=3, seed=7, resume=True)
    assert SedimentTrainer(resumed).build_dataset("").seed == 7 + 1
    assert [SedimentTrainer(replace(resumed, hours=hours)).ended for hours in (None, 1.0, 2.0)] == [False, True, False]


def test_a_run_that_was_killed_between_its_last_checkpoint_and_its_weights_is_finished(small_run: TrainConfig) -> None:
    config = replace(small_run, hours=1e-9)
    killed = SedimentTrainer(config)
    killed.final_eval = lambda: interrupt(killed)
    with pytest.raises(KeyboardInterrupt):
        killed.train()
    metrics_table.complete(config.output / "metrics.csv", {"metrics/mAP50(B)": math.nan})  # as if not yet measured
    (before,) = rows_of(config.output / "metrics.csv")
    checkpoint = config.checkpoint.read_bytes()
    weights = train(replace(config, resume=True))
    assert config.checkpoint.read_bytes() == checkpoint  # nothing was trained
    load_weights(build("n"), weights)
    (after,) = rows_of(config.output / "metrics.csv")
    assert not math.isnan(float(after["metrics/mAP50(B)"]))
    assert after["train/cls_loss"] == before["train/cls_loss"]
    assert json.loads((config.output / "figures.json").read_text())["epoch"] == 1


def test_the_command_line_holds_a_sample_out_and_begins_from_an_earlier_stage(urised: Path, tmp_path: Path) -> None:
    first = tmp_path / "first.safetensors"
    save_weights(build("n"), first)
    run = tmp_path / "run"
    status = cli.main(
        ["train", "sediment", "--data", str(urised), "--output", str(run), "--epochs", "1", "--items", "4",
         "--hold-out", "S2", "--start", str(first), "--optimizer", "AdamW", "--normaliser", "batch",
         "--licence", "ours"]
    )  # fmt: skip
    card = models.card("sediment-multihead-n", run)
    assert status == 0
    assert (card.training_data[0].images, card.training_data[0].licence) == (1, "ours")


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as lines:
        return list(csv.DictReader(lines))


def test_the_loss_falls(small_run: TrainConfig) -> None:
    # 2 epochs of 8 steps on one field.
    train(replace(small_run, epochs=2, items=32, lr0=3e-3, validate_every=0))
    loss = [float(row["train/cls_loss"]) for row in rows_of(small_run.output / "metrics.csv")]
    assert loss[-1] < 0.9 * loss[0]


def test_the_settings_are_those_of_table_3() -> None:
    settings = TrainConfig(Path("d"), Path("o")).overrides()
    table_3 = {
        "optimizer": "SGD", "momentum": 0.939, "lr0": 0.00996, "lrf": 0.00724, "weight_decay": 0.0005,
        "warmup_epochs": 2.03, "warmup_momentum": 0.874, "box": 5.5, "cls": 0.699, "dfl": 1.43,
    }  # fmt: skip
    assert {name: settings[name] for name in table_3} == table_3
    assert (PAPER.hue, PAPER.saturation, PAPER.value) == (0.0173, 0.828, 0.238)
    assert (PAPER.translate, PAPER.flip, PAPER.mosaic) == (0.135, 0.286, 0.408)
    assert PAPER.scale == (1 - 0.35, 1 + 0.35)


def test_the_recipe_of_the_paper_trains(small_run: TrainConfig) -> None:
    assert paper_recipe(small_run).size_px == 960
    train(replace(paper_recipe(small_run), size_px=64))
    assert len(rows_of(small_run.output / "metrics.csv")) == 1


def test_epochs_between_validations_have_no_figures_and_the_last_one_has(small_run: TrainConfig) -> None:
    train(replace(small_run, epochs=3, items=4, validate_every=2))
    figures = [float(row["metrics/mAP50(B)"]) for row in rows_of(small_run.output / "metrics.csv")]
    assert [math.isnan(figure) for figure in figures] == [True, False, False]
    assert json.loads((small_run.output / "figures.json").read_text())["epoch"] == 3


def test_a_run_that_validates_at_the_end_only_is_measured_there_and_draws_its_curves(small_run: TrainConfig) -> None:
    train(replace(small_run, epochs=2, validate_every=0))
    rows = rows_of(small_run.output / "metrics.csv")
    assert [math.isnan(float(row["val/cls_loss"])) for row in rows] == [True, False]
    figures = json.loads((small_run.output / "figures.json").read_text())
    assert figures["fields"] == 1
    assert figures["mAP50"] == pytest.approx(float(rows[-1]["metrics/mAP50(B)"]), abs=1e-4)
    with Image.open(small_run.output / "curves.png") as curves:
        assert curves.width > 1000  # four panels a row


def test_a_run_that_the_clock_ends_is_measured_too(small_run: TrainConfig) -> None:
    train(replace(small_run, hours=1e-9, validate_every=50))
    (row,) = rows_of(small_run.output / "metrics.csv")
    assert not math.isnan(float(row["metrics/mAP50(B)"]))


def test_no_checkpoint_is_the_best_before_one_was_measured(small_run: TrainConfig) -> None:
    killed = SedimentTrainer(replace(small_run, epochs=2, validate_every=0))
    killed.add_callback("on_fit_epoch_end", interrupt)
    with pytest.raises(KeyboardInterrupt):
        killed.train()
    assert (small_run.output / "weights" / "last.pt").is_file()
    assert not (small_run.output / "weights" / "best.pt").exists()


def test_early_stopping_ends_the_run_and_keeps_the_best_weights(small_run: TrainConfig) -> None:
    # A fitness of 3, 2, 1: the first epoch is the best, and patience is over after the third.
    trainer = SedimentTrainer(replace(small_run, epochs=10, patience=2))
    measured = trainer.validate
    after: list[torch.Tensor] = []

    def falling() -> tuple[dict[str, float], float | None]:
        metrics, _ = measured()
        after.append(trainer.ema.ema.model[0].conv.weight.clone().half())
        fitness = 3.0 - trainer.epoch
        trainer.best_fitness = max(trainer.best_fitness if len(after) > 1 else fitness, fitness)
        return metrics, fitness

    trainer.validate = falling
    trainer.train()
    assert [row["epoch"] for row in rows_of(small_run.output / "metrics.csv")] == ["1", "2", "3"]
    assert trainer.figures()["epoch"] == 1
    kept = trainer.ema.ema.model[0].conv.weight.half()
    torch.testing.assert_close(kept, after[0], rtol=0, atol=0)
    assert not torch.equal(after[0], after[2])


def test_averaged_weights_are_kept_not_those_of_the_last_step(small_run: TrainConfig) -> None:
    trainer = SedimentTrainer(replace(small_run, lr0=0.01))
    trainer.train()
    averaged, last = trainer.ema.ema.model[0].conv.weight, trainer.model.model[0].conv.weight
    assert trainer.ema.updates == 2
    assert not torch.equal(averaged, last)


def test_a_finished_run_has_nothing_to_resume(finished: tuple[TrainConfig, Path]) -> None:
    with pytest.raises(InputError, match="is finished after 1 epochs, there is nothing to resume; begin a new run"):
        train(replace(finished[0], resume=True))


def test_a_crop_that_does_not_fit_the_strides_is_refused() -> None:
    with pytest.raises(InputError, match="multiple of 32 px and at least 64, got 330"):
        TrainConfig(Path("d"), Path("o"), size_px=330)


def made_up(group: str, *class_ids: int) -> LabelledField:
    boxes = np.zeros((len(class_ids), 4), np.float32)
    return LabelledField(Path(group), boxes, np.array(class_ids, np.int64), np.ones(39, bool), group, True)


def test_folds_keep_groups_together_and_hold_each_group_out_once() -> None:
    fields = [made_up(f"G{index % 7}", index % 3) for index in range(70)]
    folds = split_groups(fields, 5)
    assert sorted(group for fold in folds for group in fold) == [f"G{index}" for index in range(7)]
    assert len(folds) == 5
    assert all(folds)
    assert split_groups(fields[::-1], 5) == folds  # the order of the files decides nothing


def test_folds_share_out_a_rare_class_before_the_common_one() -> None:
    # Class 5 lies in two groups of many; the two must not meet in one of two folds.
    fields = [made_up("A", 5, 5), made_up("B", 5), *(made_up(f"C{index}", 0, 0, 0) for index in range(8))]
    first, second = split_groups(fields, 2)
    assert ("A" in first) != ("B" in first)
    assert abs(len(first) - len(second)) <= 2


def test_groups_that_are_fewer_than_the_folds_are_refused() -> None:
    with pytest.raises(InputError, match="2 groups cannot be divided into 3 folds"):
        split_groups([made_up("A", 1), made_up("B", 1)], 3)


def test_cross_validation_tells_mean_and_deviation_and_resumes(small_run: TrainConfig) -> None:
    config = replace(small_run, held_out=(), items=4, validate_every=0)
    with pytest.raises(InputError, match="there is no fold 3; folds are counted from 1 to 2"):
        cross_validate(config, 2, only=3)
    table = cross_validate(config, 2, only=2)
    assert [row["fold"] for row in rows_of(table)] == ["2", "mean", "std"]
    second = (config.output / "fold-2" / "metrics.csv").stat().st_mtime_ns
    for number, recall in ((1, 0.25), (2, 0.75)):
        if number == 1:
            cross_validate(replace(config, resume=True), 2)
        file = config.output / f"fold-{number}" / "figures.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "recall": recall}))
    assert (config.output / "fold-2" / "metrics.csv").stat().st_mtime_ns == second  # it was finished
    rows = rows_of(cross_validate(replace(config, resume=True), 2))
    assert [row["fold"] for row in rows] == ["1", "2", "mean", "std"]
    assert [float(row["recall"]) for row in rows] == [0.25, 0.75, 0.5, 0.35355]  # sqrt(2 * 0.25^2 / (2 - 1))
    assert [row["groups"] for row in rows] == ["1", "1", "", ""]
    (config.output / "fold-1" / "held_out.json").write_text('["S9"]')
    with pytest.raises(InputError, match="fold-1 held out other groups: the data or the number of folds"):
        cross_validate(config, 2, only=2)


def test_the_command_line_cross_validates_and_refuses_what_contradicts_it(
    urised: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    command = ["train", "sediment", "--data", str(urised), "--output", str(run)]
    sizes = ["--epochs", "1", "--items", "4", "--size", "64", "--batch", "4", "--validate-every", "0"]
    assert cli.main([*command, *sizes, "--folds", "2", "--fold", "1"]) == 0
    assert [row["fold"] for row in rows_of(run / "folds.csv")] == ["1", "mean", "std"]
    assert cli.main([*command, "--fold", "1"]) == 1
    assert cli.main([*command, "--folds", "2", "--hold-out", "S2"]) == 1
    assert cli.main([*command, "--stage", "pretrain", "--folds", "2", "--licence", "ours"]) == 1
    with pytest.raises(SystemExit):
        cli.main([*command, "--hours", "0"])
    said = capsys.readouterr().err
    assert "--fold names one of --folds; give both" in said
    assert "--folds chooses what to hold out; leave --hold-out away" in said
    assert "--folds, --licence: for training the detector; leave it out with --stage pretrain" in said
    assert "--hours: must be more than 0, got 0" in said


def test_parameters_that_a_search_found_are_trained_with_unless_others_are_given(urised: Path, tmp_path: Path) -> None:
    best = tmp_path / "best.json"
    best.write_text(json.dumps({"parameters": {"lr0": 0.002, "box": 7.0}}))
    run = tmp_path / "run"
    status = cli.main(
        ["train", "sediment", "--data", str(urised), "--output", str(run), "--epochs", "1", "--items", "4",
         "--size", "64", "--batch", "4", "--hold-out", "S2", "--hyperparameters", str(best), "--lr0", "0.004"]
    )  # fmt: skip
    assert status == 0
    settings = (run / "args.yaml").read_text()
    assert "box: 7.0" in settings
    assert "lr0: 0.004" in settings


def test_a_run_reads_labels_of_any_form_with_a_mapping(urised: Path, tmp_path: Path) -> None:
    (urised / "manifest.csv").unlink()
    (urised / "groups.csv").write_text("image,group\na.png,S1\nb.png,S2\n")
    for name in "ab":
        (urised / "labels" / f"{name}.txt").unlink()
        (urised / "images" / f"{name}.xml").write_text(
            f"<annotation><filename>{name}.png</filename><object><name>kristall</name><bndbox><xmin>100</xmin>"
            "<ymin>50</ymin><xmax>140</xmax><ymax>80</ymax></bndbox></object></annotation>"
        )
    mapping = tmp_path / "names.csv"
    mapping.write_text("name,class\nkristall,Calcium oxalate\n")
    config = TrainConfig(data=urised, output=tmp_path / "run", held_out=("S2",), reading=ReadOptions(mapping=mapping))
    trainer = SedimentTrainer(config)
    for mode, name in (("train", "a.png"), ("val", "b.png")):
        (field,) = trainer.build_dataset("", mode).fields
        assert (field.path.name, field.class_ids.tolist()) == (name, [taxonomy.class_id("Calcium oxalate")])
