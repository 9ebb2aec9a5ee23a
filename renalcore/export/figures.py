"""Measured figures as files: JSON, CSV and Markdown with six digits, and nothing where a figure does not exist."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

OKABE_ITO: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Colours of drawings, which colour-blind people tell apart (Okabe and Ito, 2008)."""


def plain(value: Any) -> Any:
    """`value` with six digits, and None where a figure does not exist, for JSON has no nan."""
    if isinstance(value, Mapping):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    return value


def write_json(path: Path, content: Any) -> None:
    """Write so that a reader never sees half a file."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(path)


def write_table(path: Path, table: Sequence[Sequence[Any]]) -> None:
    """Write rows of cells as CSV; a cell without a figure is empty."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([["" if cell is None else cell for cell in plain(row)] for row in table])


def write_records(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write at least one row as CSV, headed by the names of its columns, which all rows share."""
    write_table(path, [list(rows[0]), *([row[name] for name in rows[0]] for row in rows)])


def markdown(table: Sequence[Sequence[str]]) -> str:
    """A table for people: a head and rows of cells, all columns but the first right-aligned."""
    head, *rows = table
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def with_deviation(mean: float, deviation: float, *, digits: int, times: float = 1) -> str:
    """`mean ± deviation`; the deviation is left out where there is none, all where there is no mean."""
    if math.isnan(mean):
        return ""
    return f"{times * mean:.{digits}f}" + ("" if math.isnan(deviation) else f" ± {times * deviation:.{digits}f}")
