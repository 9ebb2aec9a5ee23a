"""Cross-validation grouped by patient or sample, as Alizadeh et al. (2025), "Data partitioning": mean and deviation."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from renalcore import taxonomy
from renalcore.errors import InputError
from renalcore.sediment.groups import split_groups
from renalcore.sediment.readers import read_fields
from renalcore.sediment.train import FIGURES, FINISHED, TrainConfig, train

_HELD_OUT = "held_out.json"


def cross_validate(config: TrainConfig, folds: int, *, only: int | None = None) -> Path:
    """Train once for each fold, each time validating on the groups of that fold.

    Fold K has its own run in `output/fold-K`. With `config.resume` a finished fold is left as it is, an interrupted one
    goes on from its checkpoint, and one that never began begins.

    Args:
        config: The run of one fold; its `held_out` is chosen here.
        folds: How many folds.
        only: Train this fold alone, counted from 1, for running several on several machines.

    Returns:
        `output/folds.csv`: a row for each finished fold, their mean, and their standard deviation (of a sample, n - 1).

    Raises:
        InputError: No such fold, the groups cannot be divided, or a fold that is to stay held out others.
    """
    if only is not None and not 1 <= only <= folds:
        raise InputError(f"there is no fold {only}; folds are counted from 1 to {folds}")
    train_side, val_side = read_fields(config.data, config.reading).sides()
    held_out = split_groups([*train_side, *val_side], folds)
    for number, groups in enumerate(held_out, start=1):
        if config.resume or only not in (None, number):
            _check_groups(_folder(config.output, number), groups)
    for number, groups in enumerate(held_out, start=1):
        output = _folder(config.output, number)
        finished = (output / FINISHED).is_file()
        if only not in (None, number) or (config.resume and finished):
            continue
        output.mkdir(parents=True, exist_ok=True)
        (output / FINISHED).unlink(missing_ok=True)
        (output / _HELD_OUT).write_text(json.dumps(groups) + "\n", encoding="utf-8")
        run = replace(config, output=output, held_out=groups)
        train(replace(run, resume=config.resume and run.checkpoint.is_file()))
    return _write_table(config.output, held_out)


def _check_groups(folder: Path, groups: tuple[str, ...]) -> None:
    """Refuse a fold whose figures are of other groups than it would hold out now."""
    told = folder / _HELD_OUT
    if told.is_file() and json.loads(told.read_text(encoding="utf-8")) != list(groups):
        raise InputError(
            f"{folder} held out other groups: the data or the number of folds are not what they were; "
            "give another --output"
        )


def _folder(output: Path, number: int) -> Path:
    return output / f"fold-{number}"


def _write_table(output: Path, held_out: Sequence[tuple[str, ...]]) -> Path:
    rows: list[dict[str, Any]] = []
    for number, groups in enumerate(held_out, start=1):
        file = _folder(output, number) / FINISHED
        if file.is_file():
            figures = json.loads(file.read_text(encoding="utf-8"))
            of_classes = {f"AP50 {name}": value for name, value in figures.pop("AP50").items()}
            rows.append({"fold": number, "groups": len(groups), **figures, **of_classes})
    measured = [*FIGURES, *(f"AP50 {name}" for name in taxonomy.NAMES if any(f"AP50 {name}" in row for row in rows))]
    columns = {name: np.array([row[name] for row in rows if name in row]) for name in measured}
    rows.append({"fold": "mean", **{name: round(float(values.mean()), 5) for name, values in columns.items()}})
    deviations = {name: round(float(values.std(ddof=1)), 5) for name, values in columns.items() if len(values) > 1}
    rows.append({"fold": "std", **deviations})
    path = output / "folds.csv"
    with path.open("w", newline="", encoding="utf-8") as lines:
        writer = csv.DictWriter(lines, ["fold", "groups", "fields", "epoch", *measured])
        writer.writeheader()
        writer.writerows(rows)
    return path
