"""What the page of one slide and that of one CT scan share: the head with the next thing to do, and what is waited for.

`room` is also that of the fields of a sediment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from typing import Any

import streamlit as st
from sqlalchemy.orm import Session

from db import analyses, patients, specimens
from db.engine import session_scope
from db.listing import state_of
from db.models import Analysis, CtScan, Modality, Patient, Slide, Specimen
from pages.components import analysis as asking
from pages.components import auth, links, signing, specimen_menu, status, style
from pages.components.numbers import asked_number
from renalcore.errors import NotFound

REFRESH_S = 2.0

_CSS = """
<style>
[data-testid="stMainBlockContainer"]:has(.st-key-NAME-head) { padding-top: 1.6rem; padding-bottom: 0.5rem; }
[data-testid="stHeader"], [data-testid="stHeader"] * { pointer-events: none; }
[data-testid="stHeader"] button, [data-testid="stHeader"] button * { pointer-events: auto; }
[data-testid="stMain"]:has(.st-key-NAME-head)::before { box-shadow: none; } /* no frame by a key after a click */
.st-key-NAME-head { padding-left: 1.4rem; }
.st-key-NAME-side { max-height: calc(100vh - 150px); overflow-y: auto; padding-right: 0.4rem; }
.st-key-NAME-side table.rc-table, .st-key-NAME-side table.rc-counts { font-size: 0.88rem; }
.st-key-NAME-side .rc-chip { font-size: 0.8rem; }
@media (max-width: 1000px) {
  .st-key-NAME-body > div > [data-testid="stHorizontalBlock"],
  .st-key-NAME-body > [data-testid="stLayoutWrapper"] > [data-testid="stHorizontalBlock"] { flex-direction: column; }
  .st-key-NAME-body > div > [data-testid="stHorizontalBlock"] > [data-testid="stColumn"],
  .st-key-NAME-body > [data-testid="stLayoutWrapper"] > [data-testid="stHorizontalBlock"] > [data-testid="stColumn"] {
    width: 100%; flex: 1 1 auto; }
  .st-key-NAME-side { max-height: none; }
}
</style>
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What is reviewed, and what people call it.

    Attributes:
        word: `slide` or `scan`: its page, and what an address calls it.
        title: Of the page where there is none.
        of: What one is called among the others, such as "Slide of this specimen".
        listed: The page that lists all.
        all_of: The word for all on the button.
        modality: Of its specimens.
        get: The one with an id.
        siblings: Those of a specimen that count.
        named: What one is called among the others.
        facts: What is told of one below its name, given its specimen.
        sought: What a model looks for.
        is_missing: Says so on the page where there is no model.
        unit: What progress is counted in.
        meanwhile: What is said below the bar while an analysis is at work.
        pending: Those that an analysis has not searched.
        reviewed: What a signature says was reviewed.
        signed_words: What is signed, by the specimen's id.
    """

    word: str
    title: str
    of: str
    listed: str
    all_of: str
    modality: Modality
    get: Callable[[Session, int], Slide | CtScan]
    siblings: Callable[[Session, int], Sequence[Slide | CtScan]]
    named: Callable[[Any], str]
    facts: Callable[[Any, Specimen], Sequence[str]]
    sought: str
    is_missing: Callable[[], bool]
    unit: str
    meanwhile: Callable[[Session, Analysis], str]
    pending: Callable[[Session, int], Sequence[Slide | CtScan]]
    reviewed: str
    signed_words: Callable[[int], Iterable[str]]


def room(name: str) -> None:
    """A picture at the left and what is said of it beside it, below it on a tablet.

    Args:
        name: Of the page: the containers `NAME-head`, `NAME-body` with two columns and `NAME-side` in the right one.
    """
    st.html(_CSS.replace("NAME", name))


def asked(kind: Kind) -> Any:
    """The slide or scan that the address names; without one the page ends here."""
    try:
        with session_scope(read_only=True) as session:
            return kind.get(session, asked_number(st.query_params.get(kind.word)))
    except NotFound:
        style.page_header(kind.title)
        style.empty_state(f"No such {kind.word}.", "Choose one from the list.")
        if st.button(kind.all_of, key=f"{kind.word}-none"):
            links.open_page(kind.listed)
        st.stop()


@contextmanager
def head(kind: Kind, shown: Slide | CtScan, user: auth.CurrentUser) -> Iterator[tuple[Specimen, Analysis | None]]:
    """The name of what is shown, whose it is, and the buttons; those of the page stand where it is entered.

    Args:
        kind: What is reviewed.
        shown: The one that is shown.
        user: Who looks at it.

    Yields:
        Its specimen, and the analysis that counts.
    """
    with session_scope(read_only=True) as session:
        specimen = specimens.get(session, shown.specimen_id)
        patient = patients.get(session, specimen.patient_id)
        siblings = kind.siblings(session, specimen.id)
        current = analyses.current(session, specimen.id)
    with (
        st.container(key=f"{kind.word}-head"),
        st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"),
    ):
        st.html(_title_html(kind, shown, specimen, patient, current), width="stretch")
        with st.container(horizontal=True, width="content", vertical_alignment="center"):
            if {one.id for one in siblings} - {shown.id}:
                _others(kind, shown, siblings)
            yield specimen, current
            specimen_menu.menu(specimen, shown.id, user)
            if st.button(kind.all_of, key=f"all-{shown.id}"):
                links.open_page(kind.listed)
            _next_step(kind, specimen, current, user)


def _title_html(
    kind: Kind, shown: Slide | CtScan, specimen: Specimen, patient: Patient, current: Analysis | None
) -> str:
    name = f" {escape(patient.name)}" if patient.name else ""
    flags = "".join(
        f' <span title="{escape(flag["message"])}">{status.flag_html(flag["code"].replace("_", " "))}</span>'
        for flag in shown.flags
    )
    withdrawn = "" if shown.withdrawn_at is None else f" {status.flag_html('withdrawn')}"
    return (
        f'<h1 style="display:inline">{escape(specimen.accession)} · {escape(shown.name)}</h1> &nbsp; '
        f"{status.state_chip_html(state_of(specimen, current))}{withdrawn}"
        f'<p class="rc-subtitle"><a href="{links.address("patient", patient=patient.id)}" target="_self">'
        f"{escape(patient.identifier)}</a>{name} · {escape(' · '.join(kind.facts(shown, specimen)))}{flags}</p>"
    )


def _others(kind: Kind, shown: Slide | CtScan, siblings: Sequence[Slide | CtScan]) -> None:
    names = {one.id: kind.named(one) for one in siblings}
    chosen = st.selectbox(
        kind.of,
        list(names),
        index=list(names).index(shown.id) if shown.id in names else None,
        format_func=names.__getitem__,
        key=f"beside-{shown.id}-{shown.id in names}",
        placeholder=f"Other {kind.word}s",
        label_visibility="collapsed",
        width=190,
    )
    if chosen is not None and chosen != shown.id:
        links.open_page(kind.word, **{kind.word: chosen})


def _next_step(kind: Kind, specimen: Specimen, current: Analysis | None, user: auth.CurrentUser) -> None:
    """The one thing to do next, by the state of the specimen; nothing where somebody else must do it."""
    may_analyse = current is None and asking.is_installed(kind.modality)
    if may_analyse and st.button("Analyse", type="primary", key=f"analyse-{specimen.id}"):
        asking.attempt(lambda: asking.analyse(specimen.id, by=user))
    has_failed = current is not None and current.state == "failed"
    if has_failed and st.button("Retry", type="primary", key=f"retry-{current.id}"):
        asking.attempt(lambda: asking.retry(current.id, by=user))
    signing.offer(specimen, kind.signed_words, user, reviewed=kind.reviewed)


def without_result(kind: Kind, specimen: Specimen, current: Analysis | None, user: auth.CurrentUser) -> None:
    """Why there is nothing to review, and what can be done: not analysed, at work, or failed; nothing once it is done.

    Args:
        kind: What is reviewed.
        specimen: Its specimen.
        current: The analysis that counts.
        user: Who looks at it.
    """
    if current is None:
        _not_analysed(kind, specimen)
    elif current.state in ("queued", "running"):
        st.fragment(_progress, run_every=REFRESH_S)(kind, current.id, current.state)
    elif current.state == "failed":
        _failed(kind, specimen, current, user)


def _not_analysed(kind: Kind, specimen: Specimen) -> None:
    if kind.is_missing():
        return
    words = "The analysis was cancelled." if specimen.state == "cancelled" else "Not analysed yet."
    style.empty_state(words, f"Press **Analyse** to have the {kind.sought} looked for.")


def _progress(kind: Kind, analysis_id: int, shown_state: str) -> None:
    """How far the search is; runs by itself until it begins or ends, which the whole page shows."""
    user = auth.require(keep_alive=False)
    with session_scope(read_only=True) as session:
        current = analyses.get(session, analysis_id)
        done, total = analyses.progress(session, analysis_id)
        words = kind.meanwhile(session, current)
    if current.state != shown_state:
        st.rerun()
    status.progress(done, total, started=current.state == "running", unit=kind.unit)
    st.html(f'<p class="rc-quiet-text">{escape(words)} You may leave this page.</p>')
    if st.button("Cancel", key=f"cancel-{analysis_id}"):
        asking.attempt(lambda: asking.cancel(analysis_id, by=user))
    status.worker_banner()


def _failed(kind: Kind, specimen: Specimen, current: Analysis, user: auth.CurrentUser) -> None:
    st.error(f"The analysis {style.plain(status.state_words('failed', message=current.message))}")
    with session_scope(read_only=True) as session:
        lacking = kind.pending(session, current.id)
    with st.container(horizontal=True):
        if lacking and st.button(specimen_menu.withdraw_words(kind.modality), key=f"withdraw-{current.id}"):
            specimen_menu.withdraw(specimen, lacking[0].id)
        if st.button("Dismiss", key=f"dismiss-{current.id}", help="Leave it; an earlier analysis counts again"):
            asking.attempt(lambda: asking.cancel(current.id, by=user))
