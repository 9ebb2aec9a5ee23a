"""The worklist: every specimen by its state, what runs and how far, and what waits for a person."""

from __future__ import annotations

from datetime import datetime, time, timedelta

import streamlit as st

from db import workers, worklist
from db.engine import session_scope
from db.worklist import WorklistRow
from pages.components import auth, links, listing, status, style
from pages.components.rows import Row, actions_cell, rows, state_cell

TABS = ("all", "waiting", "running", "needs_review", "signed", "failed", "cancelled")

auth.require()
with style.page_header("Worklist"):
    if st.button("New specimen", type="primary", key="worklist-new"):
        links.open_page("new")


def _moment(day, *, after: int = 0) -> datetime | None:
    if day is None:
        return None
    return datetime.combine(day + timedelta(days=after), time.min, tzinfo=style.browser_zone())


def _first_page() -> None:
    listing.show_first_page("worklist")


with st.container(horizontal=True, vertical_alignment="bottom"):
    text = st.text_input(
        "Search",
        key="worklist-text",
        placeholder="Accession number, patient number or name",
        persist_state="session",
        on_change=_first_page,
    )
    first_day, last_day = (
        st.date_input(
            label,
            None,
            key=f"worklist-{name}",
            persist_state="session",
            on_change=_first_page,
            format="YYYY-MM-DD",
            width=160,
        )
        for label, name in (("Registered from", "since"), ("until", "until"))
    )


def _cells(row: WorklistRow, *, loading: bool) -> Row:
    actions = []
    if row.state in listing.AT_WORK and row.analysis_id is not None:
        actions.append(("cancel", "Cancel", "Stop the analysis; the pictures stay"))
    if row.state in ("failed", "cancelled") and row.analysis_id is not None:
        actions.append(("retry", "Retry", "Analyse again; fields that are done are kept"))
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
            actions_cell(*actions),
        ),
    )


def _list() -> None:
    user = auth.require()
    status.worker_banner()
    with session_scope(read_only=True) as session:
        counts = worklist.state_counts(session)
        loading = workers.are_loading(session)
    counts["all"] = sum(counts.values())
    shown = tuple(tab for tab in TABS if tab != "cancelled" or counts["cancelled"])
    tab = st.segmented_control(
        "State",
        shown,
        default="all",
        format_func=lambda name: f"{_words(name)}  {style.number(counts[name], 0)}",
        key="worklist-state",
        label_visibility="collapsed",
        persist_state="session",
        on_change=_first_page,
        required=True,
    )
    number = listing.page_number("worklist")
    with session_scope(read_only=True) as session:
        page = worklist.page(
            session,
            state=None if tab in (None, "all") else tab,
            text=text,
            since=_moment(first_day),
            until=_moment(last_day, after=1),
            limit=listing.PAGE_ROWS,
            offset=number * listing.PAGE_ROWS,
        )
    listing.complaint("worklist")
    if not page.rows:
        _empty(counts["all"], searching=bool(text or first_day or last_day), tab=tab)
        return
    answer = rows(
        "worklist-rows",
        head=("Accession", "Patient", "Name", "State", "Fields", "Objective", "Registered", ""),
        rows=[_cells(row, loading=loading) for row in page.rows],
        numeric=(4,),
        minor=(5,),
        least=(2, 4, 6),
        wide=3,
    )
    listing.pager("worklist", page.total)
    if answer.opened is not None:
        links.open_page("review", specimen=answer.opened)
    if answer.act is not None:
        listing.act("worklist", answer.act, {row.specimen_id: row.analysis_id for row in page.rows}, user)


def _words(tab: str) -> str:
    return "All" if tab == "all" else status.STATES[tab].words.capitalize()


def _empty(everything: int, *, searching: bool, tab: str | None) -> None:
    if not everything:
        style.empty_state(
            "No specimens yet.",
            "Press **New specimen**, scan the patient's number and the accession number, and drop the fields in.",
        )
    elif searching:
        style.empty_state("Nothing matches.", "Check the number, clear the dates, or look under **All**.")
    else:
        style.empty_state(f"Nothing is {_words(tab or 'all').lower()}.", "Look under **All** for the other specimens.")


with session_scope(read_only=True) as session:
    at_start = worklist.state_counts(session)
busy = any(at_start[state] for state in listing.AT_WORK)
with st.container(key="refreshed"):
    st.fragment(_list, run_every=listing.REFRESH_BUSY_S if busy else listing.REFRESH_IDLE_S)()
