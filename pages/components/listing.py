"""What the lists of specimens and of slides share: pages of a hundred lines, and what is done from a line."""

from __future__ import annotations

import streamlit as st

from pages.components import analysis, auth, style
from renalcore.errors import RenalError

PAGE_ROWS = 100
AT_WORK = ("waiting", "running")
REFRESH_BUSY_S = 3.0
REFRESH_IDLE_S = 20.0


def page_number(name: str) -> int:
    """Which page of the list called `name` is shown, from 0."""
    return int(st.session_state.get(f"{name}-page", 0))


def show_first_page(name: str) -> None:
    """Go back to the start of the list, as after a new search."""
    st.session_state[f"{name}-page"] = 0


def pager(name: str, total: int) -> None:
    """Which lines of how many are shown, and the way to the others; inside the list's fragment."""
    number = page_number(name)
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


def act(name: str, asked: tuple[str, int], analysis_ids: dict[int, int | None], user: auth.CurrentUser) -> None:
    """Retry or cancel the analysis of a line; what speaks against it is shown above the list afterwards.

    Args:
        name: The list.
        asked: `retry` or `cancel`, and the id of the line.
        analysis_ids: The analysis of each line.
        user: Who asks.
    """
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


def complaint(name: str) -> None:
    """What spoke against the last thing that was done from a line, once."""
    said = st.session_state.pop(f"{name}-complaint", None)
    if said:
        st.error(style.plain(said))
