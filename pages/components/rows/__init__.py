"""A table whose rows open a record, with chips, progress and buttons in the cells; a refresh shifts nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import streamlit as st

from pages.components import status

_HERE = Path(__file__).parent
_component = st.components.v2.component(
    "renalcore_rows",
    js=(_HERE / "rows.js").read_text(encoding="utf-8"),
    css=(_HERE / "rows.css").read_text(encoding="utf-8"),
)

Cell = str | dict[str, Any]


@dataclass(frozen=True, slots=True)
class Row:
    """One line: what it opens, its address for a new tab, and its cells."""

    id: int
    href: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """What was clicked since the last run: a row to open, or a button's name and its row."""

    opened: int | None
    act: tuple[str, int] | None


def state_cell(state: str, *, done: int, total: int, message: str, loading: bool = False) -> Cell:
    """A state in words and colour, with a bar while it runs and the reason where it waits for the model or failed."""
    cell: dict[str, Any] = {
        "chip": status.state_words(state, done=done, total=total, loading=loading),
        "colour": status.STATES[state].colour,
    }
    if state == "running":
        cell |= {"done": done, "total": total}
    if message and state in ("failed", "cancelled"):
        cell["note"] = message
    return cell


def actions_cell(*actions: tuple[str, str, str]) -> Cell:
    """Buttons: name, words and what they do."""
    return {"actions": [list(action) for action in actions]}


def rows(
    key: str,
    *,
    head: Sequence[str],
    rows: Sequence[Row],
    link: int = 0,
    numeric: Sequence[int] = (),
    minor: Sequence[int] = (),
    least: Sequence[int] = (),
    wide: int | None = None,
    selected: int | None = None,
    dense: bool = False,
) -> Answer:
    """Show the table.

    Args:
        key: The widget's key.
        head: Names of the columns.
        rows: The lines.
        link: The column that holds the record's link.
        numeric: Columns that are right-aligned.
        minor: Columns left out where the page is narrow.
        least: Columns left out where it is narrower still, as on a tablet beside the menu.
        wide: The column that takes the room left over, and is cut off where there is none.
        selected: The line that is chosen, where a line is chosen and not opened.
        dense: Narrower lines, for a table beside a picture.
    """
    result = _component(
        key=key,
        data={
            "head": list(head),
            "link": link,
            "numeric": list(numeric),
            "minor": list(minor),
            "least": list(least),
            "wide": wide,
            "selected": selected,
            "dense": dense,
            "rows": [{"id": row.id, "href": row.href, "cells": list(row.cells)} for row in rows],
        },
        on_open_change=_nothing,
        on_act_change=_nothing,
    )
    act = result.get("act")
    return Answer(result.get("open"), (str(act["name"]), int(act["id"])) if act else None)


def _nothing() -> None:
    """Streamlit names a component's events by their callbacks; the answer is read from its result."""
