"""A report's values as a table: what was found, what was looked for, and what the model cannot be trusted with."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from html import escape

import streamlit as st

from pages.components import status, style
from renalcore import taxonomy
from renalcore.sediment.measure import ReportedValue

_SHAPES = (
    "circle(46%)",
    "inset(30% 0 30% 0)",
    "polygon(50% 0, 100% 50%, 50% 100%, 0 50%)",
    "polygon(50% 6%, 98% 94%, 2% 94%)",
    "inset(8%)",
    "polygon(20% 4%, 50% 34%, 80% 4%, 96% 20%, 66% 50%, 96% 80%, 80% 96%, 50% 66%, 20% 96%, 4% 80%, 34% 50%, 4% 20%)",
)
"""One shape a group, as in findings.js; a clip path, since Streamlit takes drawings out of HTML."""

_GROUPS = tuple(taxonomy.GROUP_COLOURS)


def group_mark_html(group: taxonomy.Group) -> str:
    """The shape of a group in its colour."""
    return (
        f'<span title="{group}" style="display:inline-block;width:10px;height:10px;'
        f'background:{taxonomy.GROUP_COLOURS[group]};clip-path:{_SHAPES[_GROUPS.index(group)]}"></span>'
    )


def in_order(rows: Sequence[ReportedValue]) -> list[ReportedValue]:
    """The values by group in the order shown everywhere, within a group as the taxonomy has them."""
    return sorted(rows, key=lambda row: _GROUPS.index(row.group))


def show(rows: Sequence[ReportedValue], *, unvalidated: Collection[str], key: str) -> None:
    """Show a report.

    Args:
        rows: The values.
        unvalidated: Classes never validated on real pictures.
        key: Prefix of the widgets' keys; it carries the record's id.
    """
    found = [row for row in in_order(rows) if row.total]
    absent = [row for row in in_order(rows) if not row.total and row.class_name not in unvalidated]
    seen = {row.class_name for row in found}
    blind = [name for name in taxonomy.NAMES if name in unvalidated and name not in seen]
    if found:
        st.html(_table(found, unvalidated))
    else:
        st.html('<p class="rc-quiet-text">Nothing found that counts.</p>')
    if absent:
        with st.expander(f"Looked for, not found ({len(absent)})", key=f"{key}-absent"):
            st.html(f'<span class="rc-quiet-text">{escape(", ".join(row.class_name for row in absent))}</span>')
    if blind:
        with st.expander(f"Not assessed by the model ({len(blind)})", key=f"{key}-blind"):
            st.html(
                '<span class="rc-quiet-text">Never validated on real pictures, so they count only where a person '
                f"confirms or adds them: {escape(', '.join(blind))}</span>"
            )


def _table(rows: Sequence[ReportedValue], unvalidated: Collection[str]) -> str:
    lines = []
    for row in rows:
        notes = [row.note] if row.note else []
        if row.class_name in unvalidated:
            notes.append("Never validated on real pictures.")
        remark = f'<div class="rc-quiet-text" style="font-size:0.8rem">{escape(" ".join(notes))}</div>' if notes else ""
        grade = status.quiet_chip_html(row.grade) if row.grade else style.NO_VALUE
        lines.append(
            f'<tr data-class="{escape(row.class_name)}">'
            f"<td>{group_mark_html(row.group)} {escape(row.class_name)}{remark}</td>"
            f'<td class="rc-num">{style.number(row.total, 0)}</td>'
            f'<td class="rc-num" style="white-space:nowrap">{style.number(row.mean)} '
            f'<span class="rc-quiet-text">/{escape(row.unit)}</span></td>'
            f"<td>{grade}</td></tr>"
        )
    return (
        '<table class="rc-table rc-counts"><thead><tr><th>Class</th><th class="rc-num">Seen</th>'
        f'<th class="rc-num">Mean</th><th>Grade</th></tr></thead><tbody>{"".join(lines)}</tbody></table>'
    )
