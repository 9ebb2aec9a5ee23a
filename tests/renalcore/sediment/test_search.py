from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest

from renalcore import cli
from renalcore.errors import InputError, UnknownName
from renalcore.sediment.data import Augmentation
from renalcore.sediment.readers import ReadOptions
from renalcore.sediment.search import read_values, search, space, values_of, with_values
from renalcore.sediment.train import SedimentTrainer, TrainConfig, paper_recipe


@pytest.fixture
def config(urised: Path, tmp_path: Path) -> TrainConfig:
    """Trials of one epoch of one step."""
    return TrainConfig(
        data=urised, output=tmp_path / "search", size_px=64, batch=4, epochs=1, items=4, held_out=("S2",),
        optimizer="AdamW", lr0=1e-3,
    )  # fmt: skip


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as lines:
        return list(csv.DictReader(lines))


def test_the_values_of_the_paper_s_recipe_are_those_of_table_3() -> None:
    paper = paper_recipe(TrainConfig(Path("d"), Path("o")))
    assert paper.size_px == 960
    assert values_of(paper) == pytest.approx(
        {
            "lr0": 0.00996, "lrf": 0.00724, "momentum": 0.939, "weight_decay": 0.0005, "warmup_epochs": 2.03,
            "warmup_momentum": 0.874, "box": 5.5, "cls": 0.699, "dfl": 1.43, "hue": 0.0173, "saturation": 0.828,
            "value": 0.238, "translate": 0.135, "scale": 0.35, "flip": 0.286, "mosaic": 0.408,
        }
    )  # fmt: skip


@pytest.mark.parametrize("optimizer", ["SGD", "AdamW"])
def test_every_range_has_a_reason_and_holds_the_value_of_the_paper(optimizer: str) -> None:
    paper = paper_recipe(TrainConfig(Path("d"), Path("o"), optimizer=optimizer, lr0=1e-3))
    start = values_of(paper if optimizer == "AdamW" else replace(paper, lr0=0.00996))
    ranges = space(paper)
    assert {each.name for each in ranges} == set(start)
    for each in ranges:
        assert each.low <= start[each.name] <= each.high, each.name
        assert each.reason


def test_values_reach_the_training_and_the_augmentation() -> None:
    base = TrainConfig(Path("d"), Path("o"))
    changed = with_values(base, {"lr0": 0.02, "box": 7.0, "mosaic": 0.9, "scale": 0.25})
    assert (changed.lr0, changed.overrides()["box"], changed.augmentation.mosaic) == (0.02, 7.0, 0.9)
    assert changed.augmentation.scale == (1 / 1.25, 1.25)  # crops
    assert with_values(paper_recipe(base), {"scale": 0.25}).augmentation.scale == (0.75, 1.25)  # whole fields
    assert with_values(base, {}) == base
    assert base.augmentation == Augmentation()


def test_an_unknown_parameter_is_refused() -> None:
    with pytest.raises(UnknownName, match="lr_0: no parameter; there are lr0, lrf"):
        with_values(TrainConfig(Path("d"), Path("o")), {"lr_0": 1.0})


def test_a_parameter_that_the_recipe_does_not_have_is_refused(config: TrainConfig) -> None:
    with pytest.raises(UnknownName, match="translate: not searched with this recipe; choose from lr0, lrf"):
        search(config, 1, parameters=("translate",))


def test_a_search_leaves_a_table_scatter_plots_and_parameters_to_train_with(config: TrainConfig) -> None:
    best = search(config, 2, parameters=("lr0", "mosaic"))
    rows = rows_of(config.output / "trials.csv")
    assert list(rows[0]) == [
        "trial", "state", "folder", "epoch", "seconds", "lr0", "mosaic", "precision", "recall", "mAP50", "mAP50-95",
    ]  # fmt: skip
    assert [row["state"] for row in rows] == ["finished", "finished"]
    assert (float(rows[0]["lr0"]), float(rows[0]["mosaic"])) == (1e-3, 0.0)  # first what the run was told
    assert {path.name for path in config.output.glob("*.png")} == {
        "scatter-precision.png", "scatter-recall.png", "scatter-mAP50.png", "scatter-mAP50-95.png",
    }  # fmt: skip
    assert not list(config.output.rglob("*.pt"))
    values = read_values(best)
    assert set(values) == {"lr0", "mosaic"}
    assert with_values(config, values).lr0 == values["lr0"]


def test_a_search_goes_on_where_it_was_and_adds_only_what_is_missing(config: TrainConfig) -> None:
    search(config, 1, parameters=("lr0",))
    counted = []
    search(config, 2, parameters=("lr0",), done=lambda: counted.append(1))
    assert len(counted) == 1
    assert [row["trial"] for row in rows_of(config.output / "trials.csv")] == ["0", "1"]
    with pytest.raises(InputError, match="holds a search with another epochs; give those again"):
        search(replace(config, epochs=2), 3, parameters=("lr0",))
    start = config.output / "start.safetensors"
    start.write_bytes(b"weights")
    unlike = replace(config, batch=2, rendered=(config.data,), start=start, reading=ReadOptions(partial=True))
    with pytest.raises(InputError, match="holds a search with another rendered, batch, reading, start;"):
        search(unlike, 3, parameters=("lr0",))


def test_a_killed_trial_goes_on_from_its_checkpoint_with_the_same_values(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    longer = replace(config, epochs=2)
    save = SedimentTrainer.save_model

    def killed(trainer: SedimentTrainer) -> bool:
        save(trainer)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(SedimentTrainer, "save_model", killed)
        with pytest.raises(KeyboardInterrupt):
            search(longer, 1, parameters=("lr0",))
    assert (config.output / "trial-0000" / "weights" / "last.pt").is_file()
    search(longer, 1, parameters=("lr0",))
    (row,) = rows_of(config.output / "trials.csv")
    assert (row["folder"], row["epoch"], float(row["lr0"])) == ("trial-0000", "2", 1e-3)
    assert [row["epoch"] for row in rows_of(config.output / "trial-0000" / "metrics.csv")] == ["1", "2"]


def test_a_file_without_parameters_is_refused(tmp_path: Path) -> None:
    (tmp_path / "best.json").write_text(json.dumps({"figures": {}}))
    with pytest.raises(InputError, match=r"holds no parameters; give the best\.json that `search sediment` wrote"):
        read_values(tmp_path / "best.json")


def test_the_command_line_searches(urised: Path, tmp_path: Path) -> None:
    run = tmp_path / "search"
    status = cli.main(
        ["search", "sediment", "--data", str(urised), "--output", str(run), "--trials", "1", "--epochs", "1",
         "--items", "4", "--size", "64", "--batch", "4", "--parameter", "lr0", "--hold-out", "S2"]
    )  # fmt: skip
    assert status == 0
    assert read_values(run / "best.json") == {"lr0": 0.00996}
