"""Fields that are withheld for their quality: the reason, and a reviewer's word that one counts all the same."""

from __future__ import annotations

from html import escape

import streamlit as st

from db import gate
from db.engine import session_scope
from db.reports import ReportField, SpecimenReport, WithheldField
from pages.components import auth, status, style
from renalcore.errors import RenalError


def show(report: SpecimenReport, user: auth.CurrentUser) -> None:
    """The withheld fields of a report, and those counted in spite of their flags; nothing where there is none.

    Args:
        report: The report.
        user: Who looks at it; only a reviewer of an unsigned report is offered to decide.
    """
    if report.withheld and not report.fields:
        st.html(
            f'<p role="status">{status.flag_html("counts withheld")} No field of this specimen can be counted. '
            "Take better pictures, or let a reviewer accept a field.</p>"
        )
    may_decide = user.role == "reviewer" and report.state == "needs_review"
    for field in report.withheld:
        with _line(field.field_id, f"field {field.position + 1} withheld: {field.reason}", field.name):
            if may_decide and st.button("Count it...", key=f"accept-{field.field_id}"):
                _accept(field)
    for counted in report.fields:
        if counted.in_spite_of is None:
            continue
        words = f"field {counted.position + 1} counted by a reviewer, though {counted.in_spite_of}"
        with _line(counted.field_id, words, counted.name):
            if may_decide and st.button("Withhold it", key=f"withhold-{counted.field_id}"):
                _withhold(counted)


def _line(field_id: int, words: str, name: str) -> st.delta_generator.DeltaGenerator:
    line = st.container(
        horizontal=True, vertical_alignment="center", horizontal_alignment="distribute", key=f"gate-{field_id}"
    )
    with line:
        st.html(
            f'{status.flag_html(words)}<br><span class="rc-quiet-text" style="font-size:0.8rem">{escape(name)}</span>',
            width="stretch",
        )
    return line


@st.dialog("Count a withheld field")
def _accept(field: WithheldField) -> None:
    st.markdown(
        f"**{style.plain(field.name)}** is withheld because it is {style.plain(field.reason)}. "
        "Counted all the same, it enters means and grades; the report says so and your signature answers for it."
    )
    st.html(f'<img src="/fields/{field.field_id}/thumb?w=320" alt="" style="max-height:170px;max-width:100%">')
    why = st.text_input("Reason", key=f"accept-why-{field.field_id}", placeholder="Why it can be counted")
    if st.button("Count it", type="primary", key=f"accept-now-{field.field_id}"):
        try:
            with session_scope() as session:
                gate.accept_field(session, field.field_id, by=auth.require("reviewer"), why=why)
        except RenalError as error:
            st.error(style.plain(str(error)))
            return
        st.rerun()


def _withhold(field: ReportField) -> None:
    try:
        with session_scope() as session:
            gate.withhold_field(session, field.field_id, by=auth.require("reviewer"))
    except RenalError as error:
        st.error(style.plain(str(error)))
        return
    st.rerun()
