"""Tables that laboratories make: CSV out of Excel or a laboratory system, read as text with line numbers."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import dataclass
from typing import Final

from renalcore.errors import TooLarge, UnreadableFile

MAX_BYTES: Final = 20_000_000
"""Far more than a year of a laboratory; protects the memory of the server."""

_SEPARATORS = (";", "\t", ",")
_FORMULA = re.compile(r"'[=+\-@＝＋－＠]")


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


def read_table(content: bytes, *, name: str, max_bytes: int = MAX_BYTES) -> TextTable:
    """The lines of a CSV file: separated by comma, semicolon or tab; UTF-8, UTF-16 or a Windows code page.

    The apostrophe with which an export keeps a spreadsheet from running a text as a formula is taken off again.

    Args:
        content: The file.
        name: Its name, for messages.
        max_bytes: A larger file is refused.

    Raises:
        UnreadableFile: It is empty, no text, or holds one column only.
        TooLarge: It exceeds `max_bytes`.
    """
    if len(content) > max_bytes:
        raise TooLarge(f"{name}: {len(content) / 1e6:.0f} MB is more than {max_bytes / 1e6:.0f} MB; split the table")
    text = _text(content, name)
    lines = text.splitlines(keepends=True)
    skipped = 0
    if lines and lines[0].strip().lower().startswith("sep="):  # what Excel writes for itself
        skipped, lines = 1, lines[1:]
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
    reader = csv.reader(io.StringIO("".join(lines), newline=""), delimiter=separator)
    try:
        for cells in reader:
            cleaned = tuple(_cell(cell) for cell in cells)
            if not any(cleaned):
                continue
            if not header:
                header = cleaned
                continue
            padded = (*cleaned, *("" for _ in range(len(header) - len(cleaned))))[: len(header)]
            rows.append((reader.line_num + skipped, padded))
    except csv.Error as error:
        raise UnreadableFile(f"{name}: line {reader.line_num + skipped} cannot be read as CSV ({error})") from error
    return TextTable(name, header, tuple(rows))


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
    return bare[1:] if _FORMULA.match(bare) else bare
