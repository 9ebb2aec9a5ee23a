"""States in words and colour together, progress that survives a reload, and whether a worker is alive."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from types import MappingProxyType

import streamlit as st

from db import workers
from db.engine import session_scope
from pages.components import style


@dataclass(frozen=True, slots=True)
class StateLook:
    """How a state is named and coloured everywhere."""

    words: str
    colour: str


STATES = MappingProxyType(
    {
        "not_analysed": StateLook("not analysed", "#6B7280"),
        "waiting": StateLook("waiting", "#6B7280"),
        "queued": StateLook("waiting", "#6B7280"),
        "running": StateLook("running", "#2563EB"),
        "needs_review": StateLook("needs review", "#B7791F"),
        "done": StateLook("done", "#2F7D4F"),
        "signed": StateLook("signed", "#2F7D4F"),
        "failed": StateLook("failed", "#C0392B"),
        "cancelled": StateLook("cancelled", "#6B7280"),
    }
)
"""The states of specimens and analyses, in the order of a specimen's day."""


def state_words(
    state: str,
    *,
    done: int | None = None,
    total: int | None = None,
    message: str | None = None,
    loading: bool = False,
) -> str:
    """A state as a sentence part: `running 12 of 20`, `failed: the field is empty`, `waiting: loading the model`."""
    words = STATES[state].words
    if state == "running" and total:
        return f"{words} {done or 0} of {total}"
    if state == "waiting" and loading:
        return f"{words}: loading the model"
    if state == "failed" and message:
        return f"{words}: {message}"
    return words


def state_chip_html(
    state: str, *, done: int | None = None, total: int | None = None, message: str | None = None
) -> str:
    """The chip of a state as HTML, for tables and headers built with `st.html`."""
    words = state_words(state, done=done, total=total, message=message)
    return f'<span class="rc-chip" style="--rc:{STATES[state].colour}">{escape(words)}</span>'


def state_chip(state: str, *, done: int | None = None, total: int | None = None, message: str | None = None) -> None:
    """Show the chip of a state."""
    st.html(state_chip_html(state, done=done, total=total, message=message))


def quiet_chip_html(words: str) -> str:
    """A chip without colour, for grades and roles."""
    return f'<span class="rc-chip rc-quiet">{escape(words)}</span>'


def flag_html(words: str) -> str:
    """A quality flag or warning in the one warning colour, marked by a triangle as well."""
    return f'<span class="rc-chip rc-flag">{escape(words)}</span>'


def progress(done: int, total: int, *, started: bool, unit: str = "fields") -> None:
    """A bar with words; it takes the same room from the first field or tile to the last.

    Args:
        done: Fields or tiles that were searched.
        total: All of them; 0 while they are not known.
        started: Whether a worker has begun; until then the words say what is waited for.
        unit: What they are.
    """
    if started:
        words = f"{style.number(done, 0)} of {style.number(total, 0)} {unit}" if total else "Looking for tissue"
    else:
        with session_scope(read_only=True) as session:
            loading = workers.are_loading(session)
        words = "Loading the model: a minute or two after a restart" if loading else "Waiting for its turn"
    st.progress(min(1.0, done / total) if started and total else 0.0, text=words)


def worker_banner() -> None:
    """A quiet warning while no worker is alive; nothing otherwise.

    Its place is kept: were what is below to move, Streamlit would make it anew and lose what is being typed there.
    """
    with session_scope(read_only=True) as session:
        someone = bool(workers.alive(session))
    with st.container():
        if not someone:
            st.html(
                '<div class="rc-banner" role="status">No worker is running, so nothing is analysed at the moment. '
                "What is uploaded is kept and starts as soon as a worker is back. "
                "If this stays for more than a minute, tell your administrator.</div>"
            )
