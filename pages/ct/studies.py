"""All CT studies, the newest first: what runs and how far, what waits for a person, to be opened."""

from __future__ import annotations

import streamlit as st

from db import ct_list
from db.ct_list import STUDY_STATES, StudyRow
from pages.components import auth, links, lists, status, style
from pages.components.lists import Listing
from pages.components.rows import Cell, Row, state_cell


def _line(row: StudyRow, *, loading: bool) -> Row:
    first = row.scans[0]
    withdrawn: Cell = {"chip": "withdrawn", "colour": status.STATES["cancelled"].colour}
    any_found = any(count is not None for count in row.lesions)
    return Row(
        first.id,
        links.address("scan", scan=first.id),
        (
            row.accession,
            row.patient_identifier,
            row.patient_name or "",
            state_cell(row.state, done=row.done, total=row.total, message=row.message, loading=loading)
            if first.withdrawn_at is None
            else withdrawn,
            ", ".join(scan.name for scan in row.scans),
            ", ".join(style.number(count, 0) for count in row.lesions) if any_found else style.NO_VALUE,
            style.when(row.collected_at),
            style.when(row.created_at),
            lists.actions(
                row,
                cancel="Stop the analysis of this study; its scans stay",
                retry="Analyse again; steps that are done are kept",
            ),
        ),
    )


STUDIES = Listing(
    name="ct",
    tabs=STUDY_STATES,
    only_where_some=("not_analysed", "cancelled"),
    state_counts=ct_list.state_counts,
    page=ct_list.page,
    head=("Study", "Patient", "Name", "State", "Scans", "Lesions", "Scanned", "Registered", ""),
    line=_line,
    numeric=(5,),
    minor=(4,),
    least=(2, 7),
    opens="scan",
    record="scan",
    none_yet=(
        "No CT studies yet.",
        "Press **New CT study**, scan the patient's number and the accession number, and drop the study's folder in.",
    ),
    no_match="Check the number, type a part of the name, or look under **All**.",
    others="the other studies",
)

auth.require()
with style.page_header("CT studies"):
    if st.button("New CT study", type="primary", key="ct-new"):
        links.open_page("new-ct")
lists.show(STUDIES, text=lists.search("ct"))
