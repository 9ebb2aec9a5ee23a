"""The worklist: every specimen by its state, what runs and how far, and what waits for a person."""

from __future__ import annotations

from datetime import datetime, time, timedelta

import streamlit as st

from db import worklist
from db.worklist import WorklistRow
from pages.components import auth, links, lists, style
from pages.components.lists import Listing
from pages.components.rows import Row, state_cell


def _moment(day, *, after: int = 0) -> datetime | None:
    if day is None:
        return None
    return datetime.combine(day + timedelta(days=after), time.min, tzinfo=style.browser_zone())


def _line(row: WorklistRow, *, loading: bool) -> Row:
    return Row(
        row.specimen_id,
        links.address("review", specimen=row.specimen_id),
        (
            row.accession,
            row.patient_identifier,
            row.patient_name or "",
            state_cell(row.state, done=row.fields_done, total=row.fields_total, message=row.message, loading=loading),
            style.number(row.fields_total, 0),
            row.objective,
            style.when(row.created_at),
            lists.actions(
                row,
                cancel="Stop the analysis; the pictures stay",
                retry="Analyse again; fields that are done are kept",
            ),
        ),
    )


SPECIMENS = Listing(
    name="worklist",
    tabs=("waiting", "running", "needs_review", "signed", "failed", "cancelled"),
    only_where_some=("cancelled",),
    state_counts=worklist.state_counts,
    page=worklist.page,
    head=("Accession", "Patient", "Name", "State", "Fields", "Objective", "Registered", ""),
    line=_line,
    numeric=(4,),
    minor=(5,),
    least=(2, 4, 6),
    opens="review",
    record="specimen",
    none_yet=(
        "No specimens yet.",
        "Press **New specimen**, scan the patient's number and the accession number, and drop the fields in.",
    ),
    no_match="Check the number, clear the dates, or look under **All**.",
    others="the other specimens",
)

auth.require()
with style.page_header("Worklist"):
    if st.button("New specimen", type="primary", key="worklist-new"):
        links.open_page("new")
with st.container(horizontal=True, vertical_alignment="bottom"):
    text = lists.search("worklist")
    first_day, last_day = (
        st.date_input(
            label,
            None,
            key=f"worklist-{name}",
            persist_state="session",
            on_change=lists.show_first_page,
            args=["worklist"],
            format="YYYY-MM-DD",
            width=160,
        )
        for label, name in (("Registered from", "since"), ("until", "until"))
    )
lists.show(SPECIMENS, text=text, since=_moment(first_day), until=_moment(last_day, after=1))
