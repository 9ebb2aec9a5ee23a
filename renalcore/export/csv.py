"""Reported values as CSV: one tidy row a value, opened correctly by Excel and by pandas.

UTF-8 with a byte-order mark (without it Excel takes names for Latin-1), CRLF line ends, times in UTC as ISO 8601.
Text that a spreadsheet would take for a formula gets a leading apostrophe; numbers are numbers. In pandas, read
identifiers as text, or it drops their leading zeros: `pandas.read_csv(path, dtype={"patient": str, "accession": str})`.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Final

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")  # Excel takes the wide forms too


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportRow:
    """One reported value with everything that it rests on; the fields are the columns, in this order.

    Attributes:
        patient: The patient's identifier, never the name.
        accession: Accession number of the specimen.
        class_name: The class, as the taxonomy spells it (column `class`).
        group: Its group.
        loinc: LOINC code of the result, where there is one.
        unit: `HPF`, `LPF` or `field`.
        fields: Number of fields counted.
        mean: Mean count per unit; None where no field of the specimen can be counted.
        grade: Label by the cut-off table, where the class has a scale.
        cut_off_version: Version of the cut-off table.
        model: Key of the model that searched the fields.
        weights_sha256: Its weights.
        reviewed: True where a person has gone through the findings.
        signed_by: Full name of the reviewer who signed, or None.
        signed_at: When; aware of its time zone.
        signature: `sign` for the first signature, `amend` for one after an amendment, or None.
        amendments: How often the report has been amended.
        withheld: The specimen's fields that are not counted and why, e.g. `field 2 withheld: out of focus`, or None.
        validated: False where the model was never validated on real pictures of this class: the mean is what people
            confirmed or added.

    Raises:
        ValueError: The mean is negative or not finite, or `signed_at` has no time zone.
    """

    patient: str
    accession: str
    class_name: str
    group: str
    loinc: str | None
    unit: str
    fields: int
    mean: float | None
    grade: str | None
    cut_off_version: str
    model: str
    weights_sha256: str
    reviewed: bool
    signed_by: str | None = None
    signed_at: datetime | None = None
    signature: str | None = None
    amendments: int = 0
    withheld: str | None = None
    validated: bool = True

    def __post_init__(self) -> None:
        if self.mean is not None and not (math.isfinite(self.mean) and self.mean >= 0):
            raise ValueError(f"a mean must be a number from 0 up, got {self.mean}")
        _check_zone(self.signed_at)


@dataclass(frozen=True, slots=True, kw_only=True)
class Whence:
    """What a line of a table rests on: which model found it, and who answers for it. Its columns are `WHENCE_COLUMNS`.

    Attributes:
        model: Key of the model.
        weights_sha256: Its weights.
        signed_by: Full name of the reviewer who signed, or None.
        signed_at: When; aware of its time zone.
        signature: `sign` for the first signature, `amend` for one after an amendment, or None.
        amendments: How often the report has been amended.

    Raises:
        ValueError: `signed_at` has no time zone.
    """

    model: str
    weights_sha256: str
    signed_by: str | None = None
    signed_at: datetime | None = None
    signature: str | None = None
    amendments: int = 0

    def __post_init__(self) -> None:
        _check_zone(self.signed_at)

    @property
    def cells(self) -> tuple[object, ...]:
        """Its part of a line."""
        return (
            self.model, self.weights_sha256, self.signature is not None, self.signed_by, self.signed_at,
            self.signature, self.amendments,
        )  # fmt: skip


WHENCE_COLUMNS: Final = (
    "model", "weights_sha256", "reviewed", "signed_by", "signed_at", "signature", "amendments",
)  # fmt: skip

COLUMNS: tuple[str, ...] = tuple({"class_name": "class"}.get(column.name, column.name) for column in fields(ExportRow))
"""The header line."""


def to_csv(rows: Iterable[ExportRow]) -> bytes:
    """The rows as a CSV file: a header and a line each, complete even when there are no rows."""
    return table_to_csv(COLUMNS, ([getattr(row, column.name) for column in fields(ExportRow)] for row in rows))


def table_to_csv(columns: Iterable[str], rows: Iterable[Iterable[object]]) -> bytes:
    """Any table in the form of every export here: see the top of this module."""
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator="\r\n")
    writer.writerow(columns)
    writer.writerows([_cell(value) for value in row] for row in rows)
    return stream.getvalue().encode("utf-8-sig")


def escape_formula(value: object) -> object:
    """`value` as a spreadsheet may be given it: text that would run as a formula gets a leading apostrophe.

    Text is judged by its first character after quotes, apostrophes and blanks, since some programs strip those
    first. A number is no text and comes back as it is.
    """
    if not isinstance(value, str):
        return value
    text = value.replace("\0", "")  # no CSV reader survives it
    bare = text.lstrip("\"' \u00a0")
    return f"'{text}" if text.startswith(_FORMULA_STARTS) or bare.startswith(_FORMULA_STARTS) else text


def _check_zone(signed_at: datetime | None) -> None:
    if signed_at is not None and signed_at.utcoffset() is None:
        raise ValueError("signed_at must be aware of its time zone, got a naive time")


def _cell(value: object) -> object:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6f}".rstrip("0").rstrip(".")  # never 1e-06, which Excel shows as it likes
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    return escape_formula(value)
