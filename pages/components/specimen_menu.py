"""What is seldom done to a specimen: a field, slide or scan withdrawn or brought back; another patient or date."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from html import escape
from types import MappingProxyType
from typing import Any

import streamlit as st
from sqlalchemy.orm import Session

from db import analyses, audit, patients, scans, slides, specimens
from db.engine import session_scope
from db.models import CtScan, Modality, Slide, Specimen, User
from db.states import named
from pages.components import analysis, auth, findings, style
from pages.components.registering import EARLIEST
from renalcore.errors import RenalError

ANALYSE_AGAIN = "Analyse again..."
CHANGE_PATIENT = "Change patient..."
CHANGE_DATE = "Change date..."

_LATEST = date(2100, 1, 1)
"""Up to it a date can be typed, so that one in the future is refused in words; without it Streamlit shows those of more
than ten years after the date that is to change, but loses them."""


@dataclass(frozen=True, slots=True)
class _Pictures:
    """What the specimens of one kind consist of.

    Attributes:
        word: What one is called.
        of: Those that count, in their order.
        withdrawn: Those that were withdrawn, in their order.
        withdraw: Takes one out, by its id.
        bring_back: Lets one count again, by its id.
        named: What it is called in a list of its own kind.
        reasons: Reasons to withdraw one, as examples.
        dated: What the date of the specimen is called.
    """

    word: str
    of: Callable[[Session, int], Sequence[Any]]
    withdrawn: Callable[[Session, int], Sequence[Any]]
    withdraw: Callable[..., object]
    bring_back: Callable[..., object]
    named: Callable[[Any], str]
    reasons: str
    dated: str


_PICTURES: Mapping[Modality, _Pictures] = MappingProxyType(
    {
        "sediment": _Pictures(
            "field",
            specimens.fields,
            specimens.withdrawn_fields,
            specimens.withdraw_field,
            specimens.bring_back_field,
            lambda field: field.name,
            "Damaged file, another patient's field, ...",
            "Date of collection",
        ),
        "histology": _Pictures(
            "slide",
            slides.of_specimen,
            slides.withdrawn,
            slides.withdraw,
            slides.bring_back,
            lambda slide: f"{slide.name} ({slide.stain})",
            "Another patient's slide, out of focus, wrong block, ...",
            "Date of collection",
        ),
        "ct": _Pictures(
            "scan",
            scans.of_specimen,
            scans.withdrawn,
            scans.withdraw,
            scans.bring_back,
            lambda scan: f"{scan.name} ({scan.slices} slices)",
            "Another patient's scan, moved during the scan, wrong phase, ...",
            "Date of the scan",
        ),
    }
)


def withdraw_words(modality: Modality) -> str:
    """What the menu calls it to withdraw a field, slide or scan."""
    return f"Withdraw a {_PICTURES[modality].word}..."


def menu(specimen: Specimen, shown_id: int | None, user: auth.CurrentUser) -> None:
    """The quiet menu beside a specimen's name; nothing once it is signed.

    Args:
        specimen: The specimen.
        shown_id: The field, slide or scan on the page, offered first; None where the page shows none.
        user: Who looks at it.
    """
    if specimen.state == "signed":
        return
    modality = specimen.modality
    offered = [withdraw_words(modality)]
    if modality != "sediment" and specimen.state == "needs_review" and analysis.is_installed(modality):
        offered.append(ANALYSE_AGAIN)
    if user.role in specimens.MAY_REASSIGN:
        offered += [CHANGE_PATIENT, CHANGE_DATE]
    chosen = st.menu_button("Actions", offered, key=f"actions-{specimen.id}")
    if chosen == offered[0]:
        withdraw(specimen, shown_id)
    if chosen == ANALYSE_AGAIN:
        _analyse_again(specimen)
    if chosen == CHANGE_PATIENT:
        _change_patient(specimen)
    if chosen == CHANGE_DATE:
        _change_date(specimen)


def withdraw(specimen: Specimen, shown_id: int | None) -> None:
    """Ask which field, slide or scan to take out of the count, or to bring back.

    Args:
        specimen: The specimen.
        shown_id: The one offered first.
    """
    st.dialog(withdraw_words(specimen.modality).rstrip("."))(_withdraw)(specimen.id, specimen.modality, shown_id)


def _withdraw(specimen_id: int, modality: Modality, shown_id: int | None) -> None:
    kind = _PICTURES[modality]
    with session_scope(read_only=True) as session:
        counted = {one.id: one for one in kind.of(session, specimen_id)}
        withdrawn = kind.withdrawn(session, specimen_id)
        reasons = _why_withdrawn(session, specimen_id, kind.word)
    st.markdown(
        f"What was found in it counts no longer. Nothing is deleted: until the report is signed, the {kind.word} can "
        "be brought back here."
    )
    if counted:
        ids = list(counted)
        chosen = st.selectbox(
            kind.word.capitalize(),
            ids,
            index=ids.index(shown_id) if shown_id in ids else 0,
            format_func=lambda one: f"{ids.index(one) + 1} of {len(ids)}: {kind.named(counted[one])}",
            key=f"withdraw-{kind.word}-{specimen_id}",
        )
        if modality == "sediment":
            st.html(f'<img src="/fields/{chosen}/thumb?w=320" alt="" style="max-height:170px;max-width:100%">')
        reason = st.text_input("Reason", key=f"withdraw-{kind.word}-reason-{specimen_id}", placeholder=kind.reasons)
        if st.button("Withdraw", type="primary", key=f"withdraw-{kind.word}-now-{chosen}"):
            _change(
                specimen_id,
                lambda session, by: kind.withdraw(session, chosen, by=by, reason=reason),
                then=lambda current_id: _go_beside(ids, chosen, current_id) if modality == "sediment" else None,
            )
    if withdrawn:
        st.markdown("**Withdrawn so far**")
    for one in withdrawn:
        with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
            st.html(
                f'{escape(one.name)}<br><span class="rc-quiet-text">{style.when(one.withdrawn_at)} · '
                f"{escape(reasons.get(one.id) or '')}</span>",
                width="stretch",
            )
            if st.button("Bring back", key=f"bring-back-{kind.word}-{one.id}"):
                _change(specimen_id, lambda session, by, of=one.id: kind.bring_back(session, of, by=by))


def _go_beside(ids: Sequence[int], withdrawn_id: int, analysis_id: int | None) -> None:
    """Show the next field in place of the one that was withdrawn, where that is the one on the page."""
    if analysis_id is None or st.query_params.get("field", str(ids[0])) != str(withdrawn_id):
        return
    at = ids.index(withdrawn_id)
    beside = ids[at + 1] if at + 1 < len(ids) else ids[at - 1]
    findings.state_of(analysis_id).go(beside)
    st.query_params["field"] = str(beside)


@st.dialog("Analyse again")
def _analyse_again(specimen: Specimen) -> None:
    scale = ", at the scale that they have now" if specimen.modality == "histology" else ""
    st.markdown(
        f"All {_PICTURES[specimen.modality].word}s of {style.plain(named(specimen))} are searched "
        f"anew{scale}. What was corrected stays with the result it was said about, and counts no longer; cancelling "
        "brings that result back."
    )
    if st.button("Analyse again", type="primary", key=f"again-now-{specimen.id}"):
        _change(
            specimen.id,
            lambda session, by: analysis.request(session, specimens.get(session, specimen.id), by=by),
        )


@st.dialog("Change the patient")
def _change_patient(specimen: Specimen) -> None:
    with session_scope(read_only=True) as session:
        before = patients.get(session, specimen.patient_id)
    name = f", {style.plain(before.name)}" if before.name else ""
    st.markdown(
        f"**{style.plain(named(specimen, begins=True))}** is registered under **{style.plain(before.identifier)}**"
        f"{name}. It moves with all that belongs to it; both numbers are kept in the audit trail."
    )
    identifier = st.text_input("Right patient's number", key=f"change-number-{specimen.id}")
    with session_scope(read_only=True) as session:
        known = patients.find(session, identifier) if identifier.strip() else None
    given = None
    if known is not None:
        st.markdown(f"Known: **{style.plain(known.name or 'no name given')}**")
    elif identifier.strip():
        given = st.text_input("Name of this new patient (optional)", key=f"change-name-{specimen.id}")
    reason = st.text_input("Reason", key=f"change-reason-{specimen.id}", placeholder="Number mistyped, label mixed up")
    if st.button("Change patient", type="primary", key=f"change-now-{specimen.id}"):
        by = auth.require(*specimens.MAY_REASSIGN)
        try:
            with session_scope() as session:
                specimens.reassign(
                    session, specimen.id, identifier=identifier, patient_name=given, by=by, reason=reason
                )
        except RenalError as error:
            st.error(style.plain(str(error)))
            return
        st.rerun()


@st.dialog("Change the date")
def _change_date(specimen: Specimen) -> None:
    zone, before = style.browser_zone(), specimen.collected_at
    st.markdown(
        f"Of **{style.plain(named(specimen))}**. Both dates are kept in the audit trail. Leave it empty where the date "
        "is not known."
    )
    at = st.datetime_input(
        _PICTURES[specimen.modality].dated,
        before.astimezone(zone).replace(tzinfo=None) if before else None,
        min_value=EARLIEST,
        max_value=_LATEST,
        key=f"date-{specimen.id}",
        format="YYYY-MM-DD",
    )
    reason = st.text_input("Reason", key=f"date-reason-{specimen.id}", placeholder="Date mistyped, not known before")
    if st.button("Change date", type="primary", key=f"date-now-{specimen.id}"):
        by = auth.require(*specimens.MAY_REASSIGN)
        try:
            with session_scope() as session:
                specimens.change_date(
                    session, specimen.id, at.replace(tzinfo=zone) if at else None, by=by, reason=reason
                )
        except RenalError as error:
            st.error(style.plain(str(error)))
            return
        st.rerun()


def withdrawn(specimen: Specimen, shown: Slide | CtScan) -> None:
    """Says of a slide or scan that was withdrawn when and why, and brings it back until the report is signed."""
    kind = _PICTURES[specimen.modality]
    with session_scope(read_only=True) as session:
        why = _why_withdrawn(session, specimen.id, kind.word).get(shown.id)
    st.html(
        f'<div class="rc-banner" role="status">Withdrawn {style.when(shown.withdrawn_at)}: {escape(why or "")}<br>'
        f"{'Nothing in it counts' if specimen.modality == 'ct' else 'Nothing on it counts'}.</div>"
    )
    if specimen.state != "signed" and st.button("Bring back", key=f"bring-back-shown-{shown.id}"):
        _change(specimen.id, lambda session, by: kind.bring_back(session, shown.id, by=by))


def _why_withdrawn(session: Session, specimen_id: int, word: str) -> dict[int, str | None]:
    """Why each field, slide or scan of a specimen was withdrawn last, by its id."""
    told = audit.events(session, action=f"specimen.withdraw_{word}", entity="specimen", entity_id=specimen_id)
    return {event.new[f"{word}_id"]: event.reason for event in reversed(told)}


def _change(
    specimen_id: int,
    change: Callable[[Session, User], object],
    *,
    then: Callable[[int | None], object] | None = None,
) -> None:
    """Do it, hand over to the workers what it queued, and draw the page anew; `then` is told the analysis."""
    by = auth.require()
    try:
        with session_scope() as session:
            change(session, by)
            current = analyses.current(session, specimen_id)
        if current is not None and current.state == "queued":
            analysis.send(current.id)
    except RenalError as error:
        st.error(style.plain(str(error)))
        return
    if then is not None:
        then(None if current is None else current.id)
    st.rerun()
