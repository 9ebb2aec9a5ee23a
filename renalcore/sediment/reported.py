"""What the reports say: the CSV that RenalCore exports, read back for comparing it with what people graded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import get_args

from renalcore.errors import InputError
from renalcore.export.csv import ExportRow
from renalcore.io.table import read_table
from renalcore.sediment.technologist import BadLine
from renalcore.taxonomy import NAMES, Unit

_REPORT_COLUMNS = ("patient", "accession", "class", "unit", "mean", "grade", "cut_off_version")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportLine:
    """One reported value as far as validation needs it; the fields are those of `renalcore.export.csv.ExportRow`."""

    patient: str
    accession: str
    class_name: str
    unit: str
    mean: float
    grade: str | None
    cut_off_version: str
    model: str
    reviewed: bool

    @classmethod
    def of(cls, row: ExportRow) -> ReportLine:
        """The line that an exported row is."""
        return cls(**{column.name: getattr(row, column.name) for column in fields(cls)})


def read_report(content: bytes, *, name: str) -> tuple[tuple[ReportLine, ...], tuple[BadLine, ...]]:
    """The values of a CSV that RenalCore exported, also where a spreadsheet has saved it since.

    Returns:
        The values, and the lines that could not be read with the reason.

    Raises:
        InputError: It is no export of RenalCore.
    """
    table = read_table(content, name=name)
    missing = [column for column in _REPORT_COLUMNS if column not in table.header]
    if missing:
        raise InputError(
            f"{name}: this is not an export of RenalCore, the column {missing[0]} is missing; "
            "export it anew under Results > Export"
        )
    lines: list[ReportLine] = []
    bad: list[BadLine] = []
    seen: dict[tuple[str, str], int] = {}
    for number, cells in table.rows:
        row = dict(zip(table.header, cells, strict=True))
        if not row["mean"] and row.get("withheld"):
            continue  # no field of it could be counted: there is nothing to compare
        try:
            line = _report_line(row)
        except InputError as error:
            bad.append(BadLine(number, str(error)))
            continue
        first = seen.setdefault((line.accession, line.class_name), number)
        if first != number:
            bad.append(BadLine(number, f"{line.class_name} of {line.accession} stands on line {first} already"))
            continue
        lines.append(line)
    return tuple(lines), tuple(bad)


def _report_line(row: Mapping[str, str]) -> ReportLine:
    for column in ("patient", "accession"):
        if not row[column]:
            raise InputError(f"the column {column} is empty")
    if row["class"] not in NAMES:
        raise InputError(f"{row['class'][:60]!r} is not one of the 39 classes")
    if row["unit"] not in (*get_args(Unit), "field"):
        raise InputError(f"the unit must be HPF, LPF or field, got {row['unit'][:20]!r}")
    try:
        mean = float(row["mean"].replace(",", "."))
    except ValueError:
        mean = -1.0
    if not 0 <= mean < float("inf"):
        raise InputError(f"the mean must be a number from 0 up, got {row['mean'][:20]!r}")
    return ReportLine(
        patient=row["patient"],
        accession=row["accession"],
        class_name=row["class"],
        unit=row["unit"],
        mean=mean,
        grade=row["grade"] or None,
        cut_off_version=row["cut_off_version"],
        model=row.get("model", ""),
        reviewed=row.get("reviewed", "") == "yes",
    )
