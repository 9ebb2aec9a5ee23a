"""All slides, those of the newest specimen first: what runs and how far, what waits for a person, to be opened."""

from __future__ import annotations

import streamlit as st

from db import slide_list, workers
from db.engine import session_scope
from db.slide_list import SLIDE_STATES, SlideRow
from pages.components import auth, links, listing, scales, status, style
from pages.components.rows import Cell, Row, actions_cell, rows, state_cell

ONLY_WHERE_SOME = ("not_analysed", "cancelled")

auth.require()
with style.page_header("Slides"):
    if st.button("New slides", type="primary", key="slides-new"):
        links.open_page("new-slides")


def _first_page() -> None:
    listing.show_first_page("slides")


text = st.text_input(
    "Search",
    key="slides-text",
    placeholder="Accession number, patient number or name",
    persist_state="session",
    on_change=_first_page,
)


def _words(tab: str) -> str:
    return "All" if tab == "all" else status.STATES[tab].words.capitalize()


def _cells(row: SlideRow, *, loading: bool) -> Row:
    slide = row.slide
    withdrawn: Cell = {"chip": "withdrawn", "colour": status.STATES["cancelled"].colour}
    actions = []
    if row.state in listing.AT_WORK:
        actions.append(("cancel", "Cancel", "Stop the analysis of this specimen; its slides stay"))
    if row.state in ("failed", "cancelled") and row.analysis_id is not None:
        actions.append(("retry", "Retry", "Analyse again; parts that are done are kept"))
    return Row(
        slide.id,
        links.address("slide", slide=slide.id),
        (
            f"{row.accession} · {slide.name}",
            row.patient_identifier,
            row.patient_name or "",
            state_cell(row.state, done=row.done, total=row.total, message=row.message, loading=loading)
            if slide.withdrawn_at is None
            else withdrawn,
            style.number(row.glomeruli, 0),
            f"{slide.stain}, {slide.species}",
            scales.number(slide),
            style.when(row.created_at),
            actions_cell(*actions),
        ),
    )


def _list() -> None:
    user = auth.require()
    status.worker_banner()
    with session_scope(read_only=True) as session:
        counts: dict[str, int] = {"all": 0, **slide_list.state_counts(session)}
        loading = workers.are_loading(session)
    counts["all"] = sum(counts.values())
    tab = st.segmented_control(
        "State",
        [tab for tab in ("all", *SLIDE_STATES) if tab not in ONLY_WHERE_SOME or counts[tab]],
        default="all",
        format_func=lambda name: f"{_words(name)}  {style.number(counts[name], 0)}",
        key="slides-state",
        label_visibility="collapsed",
        persist_state="session",
        on_change=_first_page,
        required=True,
    )
    number = listing.page_number("slides")
    with session_scope(read_only=True) as session:
        page = slide_list.page(
            session,
            state=None if tab in (None, "all") else tab,
            text=text,
            limit=listing.PAGE_ROWS,
            offset=number * listing.PAGE_ROWS,
        )
    listing.complaint("slides")
    if not page.rows:
        _empty(counts["all"], tab)
        return
    answer = rows(
        "slides-rows",
        head=("Slide", "Patient", "Name", "State", "Glomeruli", "Stain", "µm/px", "Registered", ""),
        rows=[_cells(row, loading=loading) for row in page.rows],
        numeric=(4, 6),
        minor=(6,),
        least=(2, 5, 7),
        wide=3,
    )
    listing.pager("slides", page.total)
    if answer.opened is not None:
        links.open_page("slide", slide=answer.opened)
    if answer.act is not None:
        listing.act("slides", answer.act, {row.slide.id: row.analysis_id for row in page.rows}, user)


def _empty(everything: int, tab: str | None) -> None:
    if not everything:
        style.empty_state(
            "No slides yet.",
            "Press **New slides**, scan the patient's number and the accession number, and drop the scanner's files "
            "in.",
        )
    elif text:
        style.empty_state("Nothing matches.", "Check the number, type a part of the name, or look under **All**.")
    else:
        style.empty_state(f"Nothing is {_words(tab or 'all').lower()}.", "Look under **All** for the other slides.")


with session_scope(read_only=True) as session:
    at_start = slide_list.state_counts(session)
busy = any(at_start[state] for state in listing.AT_WORK)
with st.container(key="refreshed"):
    st.fragment(_list, run_every=listing.REFRESH_BUSY_S if busy else listing.REFRESH_IDLE_S)()
