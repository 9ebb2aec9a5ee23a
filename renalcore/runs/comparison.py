"""Comparisons of methods under one budget: each row is made once, and the table is written after each."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, Protocol, TypeVar

from renalcore.errors import InputError, UnknownName
from renalcore.export.figures import write_json

Result = dict[str, Any]


class Named(Protocol):
    """A row that has a name."""

    @property
    def name(self) -> str:
        """What it is called on the command line and in a table."""


N = TypeVar("N", bound=Named)
R = TypeVar("R", bound=Hashable)
P = TypeVar("P")


def chosen(known: Sequence[N], patterns: Iterable[str], *, usual: Sequence[N], of: str) -> list[N]:
    """The rows that somebody asked for.

    Args:
        known: All rows that there are.
        patterns: Names, `*` standing for anything; none asks for the usual rows.
        usual: What is made when nothing is asked for.
        of: What has the rows, for the message.

    Raises:
        UnknownName: A pattern fits no row.
    """
    wanted = list(patterns)
    if not wanted:
        return list(usual)
    by_name = {row.name: row for row in known}
    for pattern in wanted:
        if not fnmatch.filter(by_name, pattern):
            raise UnknownName(f"{pattern!r} is no row of {of}; there are e.g. {', '.join(list(by_name)[:8])}")
    return [row for name, row in by_name.items() if any(fnmatch.fnmatchcase(name, each) for each in wanted)]


def check_settings(settings: Mapping[str, Any], file: Path) -> None:
    """Refuse to mix rows made under unlike conditions.

    Args:
        settings: What decides a row's figures, apart from the row itself; as JSON has it.
        file: Where the settings of the rows that are there already stand; written where there are none.

    Raises:
        InputError: They were others.
    """
    if file.is_file():
        before = json.loads(file.read_text(encoding="utf-8"))
        if changed := [name for name in settings if before.get(name) != settings[name]]:
            raise InputError(
                f"{file.parent} holds a comparison with another {', '.join(changed)}; give those again, or another "
                "--output"
            )
    write_json(file, settings)


def made_once(
    rows: Sequence[R],
    parts: Sequence[P],
    *,
    file_of: Callable[[R, P], Path],
    make: Callable[[R, P], Result],
    write: Callable[[Sequence[tuple[R, Sequence[Result]]]], object],
    done: Callable[[], object] = lambda: None,
) -> list[tuple[R, Sequence[Result]]]:
    """Make what is not there yet, row by row and part by part (seeds or folds).

    Args:
        rows: In the order of the table.
        parts: What each row is made of.
        file_of: Where the result of a part lies; a part that is there is not made again.
        make: Makes one part; its result can be written as JSON.
        write: Writes the table of the rows that are there, after each part.
        done: Called after each part.

    Returns:
        Each row with the results of its parts.
    """
    results: dict[R, list[Result]] = {row: [] for row in rows}
    for row, part in product(rows, parts):
        file = file_of(row, part)
        if not file.is_file():
            made = make(row, part)
            file.parent.mkdir(parents=True, exist_ok=True)
            write_json(file, made)
        results[row].append(json.loads(file.read_text(encoding="utf-8")))
        write([(each, of_parts) for each, of_parts in results.items() if of_parts])
        done()
    return list(results.items())
