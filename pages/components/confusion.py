"""Confusion tables side by side, each cell a number over the colour of its share of the row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import streamlit as st

_COLOUR = "#0072B2"
_CELL = "padding:0.25rem 0.4rem; text-align:right; font-variant-numeric:tabular-nums; min-width:2.6rem;"
_HEAD = "padding:0.2rem 0.4rem; font-weight:500; font-size:0.8rem;"


def show(tables: Mapping[str, Sequence[Sequence[int]]], grades: Sequence[str]) -> None:
    """Show a table for each name, as many in a row as fit.

    Args:
        tables: Counts by name: the reference down, the other across.
        grades: The names of both.
    """
    shown = "".join(table_html(name, counts, grades) for name, counts in tables.items())
    st.html(f'<div style="display:flex; flex-wrap:wrap; gap:1.2rem 2.2rem">{shown}</div>')


def table_html(name: str, counts: Sequence[Sequence[int]], grades: Sequence[str]) -> str:
    """One table; a 0 is quiet, the cells where both agree are outlined."""
    head = "".join(f'<th scope="col" style="{_HEAD} text-align:right">{escape(grade)}</th>' for grade in grades)
    lines = []
    for row, (grade, numbers) in enumerate(zip(grades, counts, strict=True)):
        total = sum(numbers)
        cells = "".join(
            _cell(number, number / total if total else 0.0, agrees=row == column)
            for column, number in enumerate(numbers)
        )
        lines.append(f'<tr><th scope="row" style="{_HEAD} text-align:left">{escape(grade)}</th>{cells}</tr>')
    return (
        f'<table data-confusion="{escape(name)}" style="border-collapse:collapse; font-size:0.9rem">'
        f'<caption style="text-align:left; font-weight:600; padding-bottom:0.2rem">{escape(name)}</caption>'
        f"<thead><tr><th></th>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
    )


def _cell(number: int, share: float, *, agrees: bool) -> str:
    outline = "outline:1px solid color-mix(in srgb, currentColor 45%, transparent); outline-offset:-2px;"
    quiet = "color:color-mix(in srgb, currentColor 45%, transparent);" if not number else ""
    background = f"background:color-mix(in srgb, {_COLOUR} {round(share * 60)}%, transparent);" if number else ""
    return f'<td style="{_CELL} {background} {quiet} {outline if agrees else ""}">{number}</td>'
