"""What the forms for new specimens of all kinds share: whose it is, under which number, what became of the last one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime
from html import escape
from types import MappingProxyType
from typing import NoReturn

import streamlit as st

from db import patients, specimens
from db.engine import session_scope
from db.models import Modality, Specimen
from pages.components import links, style
from pages.components.scanning import focus_chain
from renalcore.errors import RenalError

KINDS: Mapping[Modality, str] = MappingProxyType(
    {"sediment": "a urine sediment", "histology": "kidney slides", "ct": "a CT study"}
)
"""What stands under an accession number, in words."""

EARLIEST = date(1900, 1, 1)
"""Dates from it on are taken; without it Streamlit shows those of more than ten years ago, but loses them."""


@dataclass(frozen=True, slots=True)
class Numbers:
    """What was typed or scanned.

    Attributes:
        identifier: The patient's hospital number, maybe empty.
        accession: The accession number, maybe empty.
        patient_name: The patient's name, or None.
        collected_at: When the tissue was taken or the scan made, or None.
    """

    identifier: str
    accession: str
    patient_name: str | None
    collected_at: datetime | None


@dataclass(frozen=True, slots=True)
class Target:
    """Where the form leads.

    Attributes:
        existing: What is registered under the accession number; None where it is new.
        adding: Somebody asked to add to it.
    """

    existing: Specimen | None
    adding: bool

    @property
    def is_blocked(self) -> bool:
        """The number is taken, and nobody asked to add to what it stands for."""
        return self.existing is not None and not self.adding


def key(form: str, name: str) -> str:
    """Widget keys change with every specimen, so that nothing of the last one stays in the form."""
    return f"{form}-{st.session_state.get(f'{form}-number', 0)}-{name}"


def done(form: str, accession: str, words: str, record_id: int) -> NoReturn:
    """Empty the form for the next one, and tell what became of this one."""
    st.session_state[f"{form}-done"] = {"id": record_id, "accession": accession, "words": words}
    st.session_state[f"{form}-number"] = st.session_state.get(f"{form}-number", 0) + 1
    st.rerun()


def last_one(form: str, *, opens: str, record: str, listed: str, all_of: str) -> None:
    """What became of the last one, and the ways to it.

    Args:
        form: The form.
        opens: The page that shows it.
        record: What its address calls it; also the word for it on the button.
        listed: The page that lists all.
        all_of: The word for all on the button.
    """
    last = st.session_state.get(f"{form}-done")
    if not last:
        return
    with st.container(border=True, horizontal=True, vertical_alignment="center", key=f"{form}-done-box"):
        st.html(f'<span role="status"><strong>{escape(last["accession"])}</strong>: {escape(last["words"])}</span>')
        if st.button(f"Open {record}", key=key(form, "open-done")):
            links.open_page(opens, **{record: last["id"]})
        if st.button(all_of, key=key(form, f"to-{listed}")):
            links.open_page(listed)


def numbers(form: str, *, collected: str, after: str = "no-button") -> Numbers:
    """The fields that a bar-code scanner fills, one after the other.

    Args:
        form: The form.
        collected: What the date is called.
        after: The widget of the form whose button Enter in the last field leads to.
    """
    with st.container(horizontal=True, vertical_alignment="bottom"):
        identifier = st.text_input(
            "Patient number", key=key(form, "identifier"), max_chars=100, placeholder="Scan or type", width=218
        )
        accession = st.text_input(
            "Accession number", key=key(form, "accession"), max_chars=100, placeholder="Scan or type", width=218
        )
        name = st.text_input("Patient name (optional)", key=key(form, "name"), max_chars=200, width=218)
        at = st.datetime_input(
            f"{collected} (optional)",
            None,
            min_value=EARLIEST,
            key=key(form, "collected"),
            format="YYYY-MM-DD",
            width=218,
        )
    chained = [key(form, name) for name in ("identifier", "accession", "name")]
    focus_chain(chained, after=key(form, after))
    return Numbers(identifier, accession, name.strip() or None, at.replace(tzinfo=style.browser_zone()) if at else None)


def target(form: str, typed: Numbers, *, modality: Modality, pictures: str) -> Target:
    """Says where the accession number is taken, and offers to add to what it stands for where that can be.

    Args:
        form: The form.
        typed: What was typed.
        modality: What the form registers.
        pictures: What is added, such as "slides".
    """
    if not typed.accession.strip():
        return Target(None, False)
    with session_scope(read_only=True) as session:
        existing = specimens.by_accession(session, typed.accession)
        holder = patients.get(session, existing.patient_id).identifier if existing else ""
    if existing is None:
        return Target(None, False)
    with st.container(border=True, key=key(form, "existing-box")):
        st.warning(style.plain(f"Accession number {existing.accession} is already registered for patient {holder}."))
        if existing.modality != modality:
            st.markdown(f"It is {KINDS[existing.modality]}. Check the accession number.")
        elif existing.state == "signed":
            st.markdown(f"It is signed: a reviewer must reopen it before {pictures} can be added.")
        elif existing.state == "running":
            st.markdown(f"It is being analysed: wait for it, or cancel that, before {pictures} are added.")
        elif typed.identifier.strip() and typed.identifier.strip() != holder:
            st.markdown("It belongs to another patient than the number you entered. Check both numbers.")
        else:
            return Target(existing, st.checkbox(f"Add these {pictures} to it", key=key(form, "adding")))
    return Target(existing, False)


def missing(typed: Numbers, where: Target, others: Sequence[str]) -> list[str]:
    """What the form still lacks, in words."""
    return [
        *(["the patient number"] if not typed.identifier.strip() and not where.adding else []),
        *(["the accession number"] if not typed.accession.strip() else []),
        *others,
    ]


def still_missing(lacking: Sequence[str]) -> None:
    """Says what the form still lacks."""
    st.html(f'<p class="rc-quiet-text" role="status">Still missing: {escape(", ".join(lacking))}.</p>')


@contextmanager
def told() -> Iterator[None]:
    """Tells what speaks against the registration, on the page."""
    try:
        yield
    except RenalError as error:
        st.error(style.plain(str(error)))
        st.stop()
