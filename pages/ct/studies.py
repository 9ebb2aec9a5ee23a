"""All CT studies, the newest first: what runs and how far, what waits for a person, to be opened."""

from __future__ import annotations

import streamlit as st

from db import ct_list, workers
from db.ct_list import STUDY_STATES, StudyRow
from db.engine import session_scope
from pages.components import auth, links, listing, status, style
from pages.components.rows import Cell, Row, actions_cell, rows, state_cell

ONLY_WHERE_SOME = ("not_analysed", "cancelled")

auth.require()
with style.page_header("CT studies"):
    if st.button("New CT study", type="primary", key="ct-new"):
        links.open_page("new-ct")


def _first_page() -> None:
    listing.show_first_page("ct")


text = st.text_input(
    "Search",
    key="ct-text",
    placeholder="Accession number, patient number or name",
    persist_state="session",
    on_change=_first_page,
)


def _words(tab: str) -> str:
    return "All" if tab == "all" else status.STATES[tab].words.capitalize()


def _cells(row: StudyRow, *, loading: bool) -> Row:
    first = row.scans[0]
    withdrawn: Cell = {"chip": "withdrawn", "colour": status.STATES["cancelled"].colour}
    any_found = any(count is not None for count in row.lesions)
    actions = []
    if row.state in listing.AT_WORK:
        actions.append(("cancel", "Cancel", "Stop the analysis of this study; its scans stay"))
    if row.state in ("failed", "cancelled") and row.analysis_id is not None:
        actions.append(("retry", "Retry", "Analyse again; steps that are done are kept"))
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
            actions_cell(*actions),
        ),
    )


def _list() -> None:
    user = auth.require()
    status.worker_banner()
    with session_scope(read_only=True) as session:
        counts: dict[str, int] = {"all": 0, **ct_list.state_counts(session)}
        loading = workers.are_loading(session)
    counts["all"] = sum(counts.values())
    tab = st.segmented_control(
        "State",
        [tab for tab in ("all", *STUDY_STATES) if tab not in ONLY_WHERE_SOME or counts[tab]],
        default="all",
        format_func=lambda name: f"{_words(name)}  {style.number(counts[name], 0)}",
        key="ct-state",
        label_visibility="collapsed",
        persist_state="session",
        on_change=_first_page,
        required=True,
    )
    with session_scope(read_only=True) as session:
        page = ct_list.page(
            session,
            state=None if tab in (None, "all") else tab,
            text=text,
            limit=listing.PAGE_ROWS,
            offset=listing.page_number("ct") * listing.PAGE_ROWS,
        )
    listing.complaint("ct")
    if not page.rows:
        _empty(counts["all"], tab)
        return
    answer = rows(
        "ct-rows",
        head=("Study", "Patient", "Name", "State", "Scans", "Lesions", "Scanned", "Registered", ""),
        rows=[_cells(row, loading=loading) for row in page.rows],
        numeric=(5,),
        minor=(4,),
        least=(2, 7),
        wide=3,
    )
    listing.pager("ct", page.total)
    if answer.opened is not None:
        links.open_page("scan", scan=answer.opened)
    if answer.act is not None:
        listing.act("ct", answer.act, {row.scans[0].id: row.analysis_id for row in page.rows}, user)


def _empty(everything: int, tab: str | None) -> None:
    if not everything:
        style.empty_state(
            "No CT studies yet.",
            "Press **New CT study**, scan the patient's number and the accession number, and drop the folder of the "
            "study in.",
        )
    elif text:
        style.empty_state("Nothing matches.", "Check the number, type a part of the name, or look under **All**.")
    else:
        style.empty_state(f"Nothing is {_words(tab or 'all').lower()}.", "Look under **All** for the other studies.")


with session_scope(read_only=True) as session:
    at_start = ct_list.state_counts(session)
busy = any(at_start[state] for state in listing.AT_WORK)
with st.container(key="refreshed"):
    st.fragment(_list, run_every=listing.REFRESH_BUSY_S if busy else listing.REFRESH_IDLE_S)()
