"""What technologists graded, read from their own table.

A table has either one line a value (columns patient or accession, component, grade) or one line a patient with a column
for each component. Headers, names and grades are read as laboratories spell them: "Leukocytes", "RBC /HPF",
"occasional", "++", "5-10", ">100"; see `renalcore.sediment.grades`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from renalcore.errors import InputError, UnknownName
from renalcore.io.table import TextTable, read_table
from renalcore.sediment.grades import FIVE_GRADES, component_and_unit, read_grade, title
from renalcore.sediment.measure import CutOffTable

_HEADERS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "accession": (
            "accession", "accessionnumber", "accessionno", "accessionid", "specimen", "specimenid", "specimennumber",
            "sample", "sampleid", "samplenumber", "sampleno", "order", "ordernumber", "barcode",
        ),
        "patient": (
            "patient", "patientid", "patientnumber", "patientno", "patientidentifier", "hospitalnumber", "mrn",
            "identifier", "pid",
        ),
        "component": (
            "component", "class", "componentclass", "urinarycomponent", "particle", "analyte", "element", "parameter",
            "test", "finding",
        ),
        "grade": (
            "grade", "technologistgrade", "technologistsgrade", "manualgrade", "referencegrade", "result", "value",
            "category", "quantity", "level", "count", "amount",
        ),
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class TechnologistGrade:
    """One grade that a technologist gave.

    Attributes:
        line: Its line in the file.
        accession: Accession number, None where the table names the patient only.
        patient: The patient's identifier, None where the table names the specimen only.
        component: A class of the taxonomy, or one of `COMPONENT_SETS`.
        text: What was written.
        grade: Index into `GRADES`.
        crossed: See `Reading`.
    """

    line: int
    accession: str | None
    patient: str | None
    component: str
    text: str
    grade: int
    crossed: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line, or a cell of it, that is left out."""

    line: int
    reason: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.reason}"


@dataclass(frozen=True, slots=True)
class TechnologistSheet:
    """A technologists' table.

    Attributes:
        name: Name of the file.
        grades: What could be read, in the order of the file.
        bad_lines: What could not.
        ignored_columns: Columns that name no component, in a table with a column for each.
    """

    name: str
    grades: tuple[TechnologistGrade, ...]
    bad_lines: tuple[BadLine, ...]
    ignored_columns: tuple[str, ...] = ()

    @property
    def accessions(self) -> frozenset[str]:
        """The specimens graded, by accession number."""
        return frozenset(grade.accession for grade in self.grades if grade.accession is not None)

    @property
    def patients(self) -> frozenset[str]:
        """The patients graded without an accession number."""
        return frozenset(grade.patient for grade in self.grades if grade.accession is None and grade.patient)


def read_sheet(content: bytes, *, name: str, table: CutOffTable = FIVE_GRADES) -> TechnologistSheet:
    """The grades of a technologists' CSV file.

    Args:
        content: The file.
        name: Its name, for messages.
        table: Turns numbers and ranges into grades.

    Returns:
        What could be read, and every line that could not with its number and the reason.

    Raises:
        InputError: The file is no such table at all: no text, no column that tells the patient, no grades.
    """
    lines = read_table(content, name=name)
    columns = {what: _column(lines.header, what) for what in _HEADERS}
    who = {what: columns[what] for what in ("accession", "patient")}
    if who == {"accession": None, "patient": None}:
        raise InputError(
            f"{name}: no column tells the patient; one must be called accession or patient. "
            f"The first line has {', '.join(lines.header)[:200]}"
        )
    if columns["component"] is not None and columns["grade"] is not None:
        return _collected(lines, who, table, component_column=columns["component"], value_columns=(columns["grade"],))
    values = tuple(index for index, head in enumerate(lines.header) if _header_component(head) is not None)
    if not values:
        raise InputError(
            f"{name}: no column holds grades; make columns called component and grade, or one for each component, "
            f"such as RBC. The first line has {', '.join(lines.header)[:200]}"
        )
    return _collected(lines, who, table, component_column=None, value_columns=values)


def _collected(
    lines: TextTable,
    who: Mapping[str, int | None],
    table: CutOffTable,
    *,
    component_column: int | None,
    value_columns: tuple[int, ...],
) -> TechnologistSheet:
    """Every value of the table, either with its component beside it or one component a column."""
    found: dict[tuple[str | None, str | None, str], TechnologistGrade] = {}
    contradicted: set[tuple[str | None, str | None, str]] = set()
    bad: list[BadLine] = []
    for number, cells in lines.rows:
        names = {what: (cells[index] or None) if index is not None else None for what, index in who.items()}
        if not any(names.values()):
            bad.append(BadLine(number, "neither an accession number nor a patient"))
            continue
        for index in value_columns:
            text = cells[index]
            if not text and component_column is None:
                continue  # not graded
            named = lines.header[index] if component_column is None else cells[component_column]
            try:
                component, unit = component_and_unit(named)
                reading = read_grade(text, component, table, unit=unit)
            except InputError as error:
                where = f"column {named}: " if component_column is None else ""
                bad.append(BadLine(number, f"{where}{error}"))
                continue
            grade = TechnologistGrade(
                line=number,
                accession=names["accession"],
                patient=names["patient"],
                component=component,
                text=text,
                grade=reading.grade,
                crossed=reading.crossed,
            )
            key = (grade.accession, grade.patient if grade.accession is None else None, component)
            earlier = found.setdefault(key, grade)
            if earlier is grade:
                continue
            if earlier.grade == grade.grade:
                bad.append(
                    BadLine(number, f"{title(component)} stands on line {earlier.line} already, with this grade")
                )
                continue
            contradicted.add(key)
            bad.append(
                BadLine(
                    number,
                    f"{title(component)} is {grade.text!r} here and {earlier.text!r} on line {earlier.line}; "
                    "neither is used: keep one of them",
                )
            )
    ignored: tuple[str, ...] = ()
    if component_column is None:
        ignored = tuple(
            head
            for index, head in enumerate(lines.header)
            if index not in value_columns and index not in who.values() and head
        )
    kept = tuple(grade for key, grade in found.items() if key not in contradicted)
    return TechnologistSheet(lines.name, kept, tuple(bad), ignored)


def _column(header: tuple[str, ...], what: str) -> int | None:
    """Where the column is that tells `what`, by the first of its names that stands in the header."""
    keys = [re.sub(r"[^a-z]", "", head.casefold()) for head in header]
    return next((keys.index(name) for name in _HEADERS[what] if name in keys), None)


def _header_component(head: str) -> str | None:
    try:
        return component_and_unit(head)[0]
    except UnknownName:
        return None
