"""Tables that laboratories make: CSV out of Excel or a laboratory system, read as text with line numbers."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from typing import Final

from renalcore.errors import TooLarge, UnreadableFile
from renalcore.export.csv import escape_formula

MAX_BYTES: Final = 20_000_000
"""Far more than a year of a laboratory; protects the memory of the server."""

_SEPARATORS = (";", "\t", ",")


@dataclass(frozen=True, slots=True)
class TextTable:
    """A CSV file as it stands.

    Attributes:
        name: Name of the file, for messages.
        header: The first line, blanks around each cell removed.
        rows: The other lines that are not empty, each with its number in the file (the header is line 1 as a rule)
            and as many cells as the header has.
    """

    name: str
    header: tuple[str, ...]
    rows: tuple[tuple[int, tuple[str, ...]], ...]


def read_table(content: bytes, *, name: str, max_bytes: int = MAX_BYTES, comments: bool = False) -> TextTable:
    """The lines of a CSV file: separated by comma, semicolon or tab; UTF-8, UTF-16 or a Windows code page.

    The apostrophe with which an export keeps a spreadsheet from running a text as a formula is taken off again.

    Args:
        content: The file.
        name: Its name, for messages.
        max_bytes: A larger file is refused.
        comments: Lines that begin with `#` are left out.

    Raises:
        UnreadableFile: It is empty, no text, holds one column only, a line with more cells than the first, or a
            quotation mark that is not closed.
        TooLarge: It exceeds `max_bytes`.
    """
    if len(content) > max_bytes:
        raise TooLarge(f"{name}: {len(content) / 1e6:.0f} MB is more than {max_bytes / 1e6:.0f} MB; split the table")
    text = _text(content, name)
    lines = text.splitlines(keepends=True)
    skipped = 0
    if lines and lines[0].strip().lower().startswith("sep="):  # what Excel writes for itself
        skipped, lines = 1, lines[1:]
    if comments:
        lines = ["\n" if line.lstrip().startswith("#") else line for line in lines]
    head = next((line for line in lines if line.strip()), "")
    if not head:
        raise UnreadableFile(f"{name}: the file is empty; export the table anew")
    separator = max(_SEPARATORS, key=head.count)
    if not head.count(separator):
        raise UnreadableFile(
            f"{name}: the first line has one column only ({head.strip()[:60]!r}); "
            "save the table as CSV with a header line and a comma, semicolon or tab between the columns"
        )
    header: tuple[str, ...] = ()
    rows: list[tuple[int, tuple[str, ...]]] = []
    for number, cells in _cells("".join(lines), separator, name, skipped):
        cleaned = tuple(_cell(cell) for cell in cells)
        if not any(cleaned):
            continue
        if not header:
            header = cleaned
            continue
        if any(cleaned[len(header) :]):
            raise UnreadableFile(
                f"{name}: line {number} has {len(cleaned)} cells and the first line {len(header)}; "
                f"put what holds a {separator!r} in quotation marks"
            )
        padded = (*cleaned, *("" for _ in range(len(header) - len(cleaned))))[: len(header)]
        rows.append((number, padded))
    return TextTable(name, header, tuple(rows))


def _cells(text: str, separator: str, name: str, skipped: int) -> list[tuple[int, list[str]]]:
    """The cells of each line, with the number in the file of the line that ends it."""

    def read(*, strict: bool) -> list[tuple[int, list[str]]]:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=strict)
        try:
            return [(reader.line_num + skipped, cells) for cells in reader]
        except csv.Error as error:
            line = reader.line_num + skipped
            raise UnreadableFile(f"{name}: line {line} cannot be read as CSV ({error})") from error

    try:
        return read(strict=True)
    except UnreadableFile:
        found = read(strict=False)  # a blank between quotation mark and separator does no harm
        if any("\n" in cell for _, cells in found for cell in cells):  # but lines in one cell may have been swallowed
            raise
        return found


def _text(content: bytes, name: str) -> str:
    if content.startswith(b"PK"):
        raise UnreadableFile(f"{name}: this is a workbook, not a CSV; in Excel use Save as > CSV UTF-8")
    try:
        if content.startswith((b"\xff\xfe", b"\xfe\xff")):
            text = content.decode("utf-16")
        else:
            text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("cp1252", errors="replace")  # what Excel's plain "CSV" writes in the West
    if "\0" in text:
        raise UnreadableFile(f"{name}: this is no text; save the table as CSV")
    return text


def _cell(cell: str) -> str:
    bare = cell.strip()
    disarmed = bare.startswith("'") and escape_formula(bare[1:]) == bare
    return bare[1:].strip() if disarmed else bare
