"""A cut-off table as lines that an admin reads and edits: bounds and labels as lists with commas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from renalcore.errors import InputError, RenalError
from renalcore.sediment.measure import CutOff, CutOffTable

COLUMNS = ("Class or set", "Unit", "Kind", "Upper bounds", "Labels")


def scale_in_words(cut_off: CutOff) -> str:
    """A scale as a sentence part: `none: 0, few: up to 4, many: above 4`."""
    if cut_off.kind == "number":
        return "reported as a number"
    if cut_off.kind == "ranges":
        return ", ".join(cut_off.labels)
    steps = [
        f"{label}: 0" if bound == 0 else f"{label}: up to {bound:g}"
        for label, bound in zip(cut_off.labels, cut_off.bounds, strict=False)
    ]
    return ", ".join([*steps, f"{cut_off.labels[-1]}: above {cut_off.bounds[-1]:g}"])


def lines_of(table: CutOffTable) -> pd.DataFrame:
    """The cut-offs of a table, one line each, with the columns `COLUMNS`."""
    return pd.DataFrame(
        [
            [row.target, row.unit, row.kind, ", ".join(f"{bound:g}" for bound in row.bounds), ", ".join(row.labels)]
            for row in table.rows
        ],
        columns=list(COLUMNS),
    )


def cut_offs_of(lines: Sequence[Mapping[str, Any]]) -> tuple[tuple[CutOff, ...], list[str]]:
    """What edited lines say, and what is wrong with them: every problem names its line and what to do."""
    cut_offs, problems = [], []
    for number, line in enumerate(lines, start=1):
        try:
            cut_offs.append(_cut_off(line))
        except RenalError as error:
            problems.append(f"line {number}: {error}")
    return tuple(cut_offs), problems


def _cut_off(line: Mapping[str, Any]) -> CutOff:
    target, unit, kind, bounds, labels = (line.get(column) for column in COLUMNS)
    if not all(isinstance(value, str) and value for value in (target, unit, kind)):
        raise InputError("choose a class or set, a unit and a kind, or delete the line")
    try:
        numbers = tuple(float(part) for part in _parts(bounds))
    except ValueError:
        raise InputError(f"{target}: bounds are numbers with commas between them, got {bounds}") from None
    return CutOff(target, unit, kind, numbers, tuple(_parts(labels)))


def _parts(text: Any) -> list[str]:
    """The parts of a list with commas; an empty cell of the editor is None or nan."""
    return [part.strip() for part in text.split(",") if part.strip()] if isinstance(text, str) else []
