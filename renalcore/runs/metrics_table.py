"""`metrics.csv`: a row for each epoch of a run, whatever is trained."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def read(path: Path) -> dict[str, NDArray[np.float64]]:
    """The columns of a table; a cell that is empty or `nan` was not measured in that epoch."""
    rows = _rows(path)
    return {name: np.array([float(row[name] or "nan") for row in rows]) for name in (rows[0] if rows else ())}


def keep(path: Path, epochs: int) -> list[dict[str, str]]:
    """Drop the rows of later epochs, which a killed run wrote after its checkpoint; the rows that stay.

    Args:
        path: The table; one that is not there has no rows.
        epochs: Epochs that the checkpoint holds.
    """
    if not path.is_file():
        return []
    rows = [row for row in _rows(path) if int(row["epoch"]) <= epochs]
    if rows:
        write(path, rows)
    else:
        path.unlink()
    return rows


def complete(path: Path, values: Mapping[str, float]) -> None:
    """Write figures that were measured later into the row of the last epoch."""
    *rows, last = _rows(path)
    write(path, [*rows, {**last, **{name: f"{value:.6g}" for name, value in values.items()}}])


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a table of at least one row."""
    with path.open("w", newline="", encoding="utf-8") as lines:
        writer = csv.DictWriter(lines, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def trained_s(path: Path) -> float:
    """Seconds that a run has trained, all its parts together; 0 where there is no table."""
    if not path.is_file():
        return 0.0
    columns = read(path)
    return float(columns["time" if "time" in columns else "seconds"].max())  # the latter in a pretraining


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))
