"""Cross-validation grouped by slide, patient or animal: four folds in the thesis, five in the mouse paper."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from renalcore.errors import InputError
from renalcore.histology.annotations import read_slides
from renalcore.histology.evaluate import HELD_OUT
from renalcore.histology.train import FINISHED, TrainConfig, train
from renalcore.metrics.segmentation import Spread

_FIGURES = ("dice", "jaccard", "best_dice", "best_threshold")


def cross_validate(config: TrainConfig, folds: int, *, only: int | None = None) -> Path:
    """Train once for each fold, each time validating on the groups of that fold.

    Fold K has its own run in `output/fold-K`. With `config.resume` a finished fold is left as it is, an interrupted one
    goes on from its checkpoint, and one that never began begins. `evaluate histology --folds output` then judges every
    slide by the fold that held it out.

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
    held_out = read_slides(config.data, config.reading).folds(folds)
    runs = {number: config.output / f"fold-{number}" for number in range(1, folds + 1)}
    for number, groups in enumerate(held_out, start=1):
        if config.resume or only not in (None, number):
            _check_groups(runs[number], groups)
    for number, groups in enumerate(held_out, start=1):
        output = runs[number]
        finished = output / FINISHED
        if only not in (None, number) or (config.resume and finished.is_file()):
            continue
        output.mkdir(parents=True, exist_ok=True)
        finished.unlink(missing_ok=True)
        (output / HELD_OUT).write_text(json.dumps(groups) + "\n", encoding="utf-8")
        run = replace(config, output=output, held_out=groups)
        train(replace(run, resume=config.resume and run.checkpoint.is_file()))
    return _write_table(config.output / "folds.csv", runs, held_out)


def _check_groups(folder: Path, groups: tuple[str, ...]) -> None:
    """Refuse a fold whose figures are of other groups than it would hold out now."""
    told = folder / HELD_OUT
    if told.is_file() and json.loads(told.read_text(encoding="utf-8")) != list(groups):
        raise InputError(
            f"{folder} held out other groups: the data or the number of folds are not what they were; "
            "give another --output"
        )


def _write_table(path: Path, runs: dict[int, Path], held_out: Sequence[tuple[str, ...]]) -> Path:
    rows: list[dict[str, Any]] = []
    for (number, folder), groups in zip(runs.items(), held_out, strict=True):
        if (folder / FINISHED).is_file():
            figures = json.loads((folder / FINISHED).read_text(encoding="utf-8"))
            rows.append({"fold": number, "groups": len(groups), **figures})
    spreads = {name: Spread.of(row[name] for row in rows) for name in _FIGURES}
    rows.append({"fold": "mean", **{name: round(spread.mean, 5) for name, spread in spreads.items()}})
    rows.append({"fold": "std", **{name: round(spread.deviation, 5) for name, spread in spreads.items()}})
    with path.open("w", newline="", encoding="utf-8") as lines:
        writer = csv.DictWriter(lines, ["fold", "groups", "slides", "epoch", *_FIGURES, "loss"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return path
