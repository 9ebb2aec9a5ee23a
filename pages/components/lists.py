"""Lists of specimens, slides and CT studies: by state, found by number and name, a hundred lines a page, kept fresh."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import streamlit as st
from sqlalchemy.orm import Session

from db import workers
from db.engine import session_scope
from pages.components import analysis, auth, links, status, style
from pages.components.rows import Cell, Row, actions_cell, rows
from renalcore.errors import RenalError

PAGE_ROWS = 100
AT_WORK = ("waiting", "running")
REFRESH_BUSY_S = 3.0
REFRESH_IDLE_S = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """What is listed, in the words of its kind.

    Attributes:
        name: In the keys of its widgets.
        tabs: States of which each has a tab.
        only_where_some: Those of them without one as long as nothing is in that state.
        state_counts: How many are in each state.
        page: The lines of a page and the number of all, as `db.worklist.page` gives them.
        head: Names of the columns.
        line: A line of the table; told whether the model is being loaded.
        numeric: As `rows` takes it.
        minor: As `rows` takes it.
        least: As `rows` takes it.
        opens: The page that a line opens.
        record: What its address calls the line.
        none_yet: That there is nothing at all, and what to do next.
        no_match: What to do where nothing is found.
        others: What is to be found under All, such as "the other slides".
    """

    name: str
    tabs: Sequence[str]
    only_where_some: Sequence[str]
    state_counts: Callable[[Session], Mapping[Any, int]]
    page: Callable[..., Any]
    head: Sequence[str]
    line: Callable[..., Row]
    numeric: Sequence[int]
    minor: Sequence[int]
    least: Sequence[int]
    opens: str
    record: str
    none_yet: tuple[str, str]
    no_match: str
    others: str


def search(name: str) -> str:
    """The box that the list called `name` is searched with."""
    return st.text_input(
        "Search",
        key=f"{name}-text",
        placeholder="Accession number, patient number or name",
        persist_state="session",
        on_change=show_first_page,
        args=[name],
    )


def show_first_page(name: str) -> None:
    """Go back to the start of the list, as after a new search."""
    st.session_state[f"{name}-page"] = 0


def show(listing: Listing, **sought: object) -> None:
    """Show a list, which is asked for anew by itself.

    Args:
        listing: The list.
        **sought: What `listing.page` is asked for beside a state; what is empty was not asked for.
    """
    with session_scope(read_only=True) as session:
        at_start = listing.state_counts(session)
    busy = any(at_start[state] for state in AT_WORK)
    with st.container(key="refreshed"):
        st.fragment(_list, run_every=REFRESH_BUSY_S if busy else REFRESH_IDLE_S)(listing, sought)


def actions(row: Any, *, cancel: str, retry: str) -> Cell:
    """The buttons of a line.

    Args:
        row: A line of the list as the database gives it.
        cancel: What Cancel does.
        retry: What Retry does.
    """
    offered = []
    if row.state in AT_WORK and row.analysis_id is not None:
        offered.append(("cancel", "Cancel", cancel))
    if row.state in ("failed", "cancelled") and row.analysis_id is not None:
        offered.append(("retry", "Retry", retry))
    return actions_cell(*offered)


def _list(listing: Listing, sought: Mapping[str, object]) -> None:
    user = auth.require()
    status.worker_banner()
    with session_scope(read_only=True) as session:
        counts = {"all": 0, **listing.state_counts(session)}
        loading = workers.are_loading(session)
    counts["all"] = sum(counts.values())
    name = listing.name
    tab = st.segmented_control(
        "State",
        ["all", *(tab for tab in listing.tabs if tab not in listing.only_where_some or counts[tab])],
        default="all",
        format_func=lambda tab: f"{_words(tab)}  {style.number(counts[tab], 0)}",
        key=f"{name}-state",
        label_visibility="collapsed",
        persist_state="session",
        on_change=show_first_page,
        args=[name],
        required=True,
    )
    with session_scope(read_only=True) as session:
        page = listing.page(
            session,
            state=None if tab in (None, "all") else tab,
            limit=PAGE_ROWS,
            offset=_page_number(name) * PAGE_ROWS,
            **sought,
        )
    _complaint(name)
    if not page.rows:
        _empty(listing, counts["all"], searching=any(sought.values()), tab=tab or "all")
        return
    lines = [listing.line(row, loading=loading) for row in page.rows]
    answer = rows(
        f"{name}-rows",
        head=listing.head,
        rows=lines,
        numeric=listing.numeric,
        minor=listing.minor,
        least=listing.least,
        wide=listing.head.index("State"),
    )
    _pager(name, page.total)
    if answer.opened is not None:
        links.open_page(listing.opens, **{listing.record: answer.opened})
    if answer.act is not None:
        analysis_ids = {line.id: row.analysis_id for line, row in zip(lines, page.rows, strict=True)}
        _act(name, answer.act, analysis_ids, user)


def _words(tab: str) -> str:
    return "All" if tab == "all" else status.STATES[tab].words.capitalize()


def _empty(listing: Listing, everything: int, *, searching: bool, tab: str) -> None:
    if not everything:
        style.empty_state(*listing.none_yet)
    elif searching:
        style.empty_state("Nothing matches.", listing.no_match)
    else:
        style.empty_state(f"Nothing is {_words(tab).lower()}.", f"Look under **All** for {listing.others}.")


def _page_number(name: str) -> int:
    """Which page of the list called `name` is shown, from 0."""
    return int(st.session_state.get(f"{name}-page", 0))


def _pager(name: str, total: int) -> None:
    """Which lines of how many are shown, and the way to the others; inside the list's fragment."""
    number = _page_number(name)
    first = number * PAGE_ROWS + 1
    last = min(total, first + PAGE_ROWS - 1)
    with st.container(horizontal=True, vertical_alignment="center", key=f"{name}-pager"):
        shown = f"{style.number(first, 0)} to {style.number(last, 0)} of {style.number(total, 0)}"
        st.html(f'<span class="rc-quiet-text">{shown}</span>')
        if total <= PAGE_ROWS:
            return
        if st.button("Previous", disabled=number == 0, key=f"{name}-previous"):
            st.session_state[f"{name}-page"] = number - 1
            st.rerun(scope="fragment")
        if st.button("Next", disabled=last >= total, key=f"{name}-next"):
            st.session_state[f"{name}-page"] = number + 1
            st.rerun(scope="fragment")


def _act(name: str, asked: tuple[str, int], analysis_ids: Mapping[int, int | None], user: auth.CurrentUser) -> None:
    """Retry or cancel the analysis of a line; what speaks against it is shown above the list afterwards."""
    what, line = asked
    analysis_id = analysis_ids.get(line)
    if analysis_id is None:
        return
    try:
        if what == "retry":
            analysis.retry(analysis_id, by=user)
        else:
            analysis.cancel(analysis_id, by=user)
    except RenalError as error:
        st.session_state[f"{name}-complaint"] = str(error)
    st.rerun()


def _complaint(name: str) -> None:
    """What spoke against the last thing that was done from a line, once."""
    said = st.session_state.pop(f"{name}-complaint", None)
    if said:
        st.error(style.plain(said))
