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
from renalcore.sediment.names import IGNORE
from renalcore.sediment.readers import LabelledField, read_fields
from renalcore.sediment.train import FIGURES, TrainConfig, train


def split_groups(fields: Sequence[LabelledField], folds: int) -> list[tuple[str, ...]]:
    """Divide the groups of some fields into folds that hold about as many fields and objects of each class.

    The group with the largest share of any class is placed first, each into the fold that has least of what it brings.
    The same fields always give the same folds. A class of a single group can only be in one of them.

    Args:
        fields: All labelled fields; those of one group stay together.
        folds: How many folds.

    Returns:
        The names of the groups that each fold holds out, in the order of their names.

    Raises:
        InputError: There are fewer groups than folds, or fewer than two folds.
    """
    names = sorted({field.group for field in fields})
    if folds < 2 or len(names) < folds:
        raise InputError(f"{len(names)} groups cannot be divided into {folds} folds; choose between 2 and their number")
    row_of = {name: row for row, name in enumerate(names)}
    counts = np.zeros((len(names), len(taxonomy.CLASSES) + 1))
    for field in fields:
        row = row_of[field.group]
        counts[row, :-1] += np.bincount(field.class_ids[field.class_ids != IGNORE], minlength=len(taxonomy.CLASSES))
        counts[row, -1] += 1
    shares = counts / np.maximum(counts.sum(0), 1)
    load = np.zeros((folds, counts.shape[1]))
    held: list[list[str]] = [[] for _ in range(folds)]
    for row in sorted(range(len(names)), key=lambda row: (-shares[row].max(), names[row])):
        # What a group adds to the sum of squares over folds and classes, without the part that is the same everywhere.
        fold = min(range(folds), key=lambda fold: (round(float(load[fold] @ shares[row]), 12), load[fold].sum(), fold))
        load[fold] += shares[row]
        held[fold].append(names[row])
    return [tuple(sorted(groups)) for groups in held]


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
        InputError: No such fold, or the groups cannot be divided.
    """
    if only is not None and not 1 <= only <= folds:
        raise InputError(f"there is no fold {only}; folds are counted from 1 to {folds}")
    train_side, val_side = read_fields(config.data, config.reading).sides()
    held_out = split_groups([*train_side, *val_side], folds)
    for number, groups in enumerate(held_out, start=1):
        output = _folder(config.output, number)
        finished = (output / "figures.json").is_file()
        if only not in (None, number) or (config.resume and finished):
            continue
        output.mkdir(parents=True, exist_ok=True)
        (output / "figures.json").unlink(missing_ok=True)
        run = replace(config, output=output, held_out=groups)
        train(replace(run, resume=config.resume and run.checkpoint.is_file()))
    return _write_table(config.output, held_out)


def _folder(output: Path, number: int) -> Path:
    return output / f"fold-{number}"


def _write_table(output: Path, held_out: Sequence[tuple[str, ...]]) -> Path:
    rows: list[dict[str, Any]] = []
    for number, groups in enumerate(held_out, start=1):
        file = _folder(output, number) / "figures.json"
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
