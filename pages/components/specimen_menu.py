"""What is seldom done to a specimen: a field or slide withdrawn or brought back, another patient."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from typing import Literal

import streamlit as st
from sqlalchemy.orm import Session

from db import analyses, audit, patients, slides, specimens
from db.engine import session_scope
from db.models import Slide, Specimen, SpecimenField, User
from pages.components import analysis, auth, findings, style
from renalcore.errors import RenalError

WITHDRAW = "Withdraw a field..."
WITHDRAW_SLIDE = "Withdraw a slide..."
ANALYSE_AGAIN = "Analyse again..."
CHANGE_PATIENT = "Change patient..."


def menu(specimen: Specimen, shown_id: int | None, user: auth.CurrentUser) -> None:
    """The quiet menu beside a specimen's name; nothing once it is signed.

    Args:
        specimen: The specimen.
        shown_id: The field or slide on the page, offered first; None where the page shows none.
        user: Who looks at it.
    """
    if specimen.state == "signed":
        return
    offered = [WITHDRAW if specimen.modality == "sediment" else WITHDRAW_SLIDE]
    if specimen.modality == "histology" and specimen.state == "needs_review" and analysis.is_installed("histology"):
        offered.append(ANALYSE_AGAIN)
    if user.role in specimens.MAY_REASSIGN:
        offered.append(CHANGE_PATIENT)
    chosen = st.menu_button("Actions", offered, key=f"actions-{specimen.id}")
    if chosen == WITHDRAW:
        withdraw(specimen.id, shown_id)
    if chosen == WITHDRAW_SLIDE:
        withdraw_slide(specimen.id, shown_id)
    if chosen == ANALYSE_AGAIN:
        _analyse_again(specimen.id)
    if chosen == CHANGE_PATIENT:
        _change_patient(specimen)


@st.dialog("Withdraw a field")
def withdraw(specimen_id: int, shown_field_id: int | None) -> None:
    """Take a field out of the count, or bring one back.

    Args:
        specimen_id: The specimen.
        shown_field_id: The field offered first.
    """
    with session_scope(read_only=True) as session:
        fields = specimens.fields(session, specimen_id)
        withdrawn = specimens.withdrawn_fields(session, specimen_id)
        reasons = _why_withdrawn(session, specimen_id, "field")
    st.markdown(
        "What was found in it counts no longer. Nothing is deleted: until the report is signed, the field can be "
        "brought back here."
    )
    ids = [field.id for field in fields]
    names = {field.id: f"{position} of {len(fields)}: {field.name}" for position, field in enumerate(fields, start=1)}
    field_id = st.selectbox(
        "Field",
        ids,
        index=ids.index(shown_field_id) if shown_field_id in ids else 0,
        format_func=names.__getitem__,
        key=f"withdraw-field-{specimen_id}",
    )
    st.html(f'<img src="/fields/{field_id}/thumb?w=320" alt="" style="max-height:170px;max-width:100%">')
    reason = st.text_input(
        "Reason", key=f"withdraw-reason-{specimen_id}", placeholder="Damaged file, another patient's field, ..."
    )
    if st.button("Withdraw", type="primary", key=f"withdraw-now-{field_id}"):
        _withdraw_now(specimen_id, fields, field_id, reason)
    if withdrawn:
        st.markdown("**Withdrawn so far**")
    for field in withdrawn:
        with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
            st.html(
                f'{escape(field.name)}<br><span class="rc-quiet-text">{style.when(field.withdrawn_at)} · '
                f"{escape(reasons.get(field.id) or '')}</span>",
                width="stretch",
            )
            if st.button("Bring back", key=f"bring-back-{field.id}"):
                _bring_back_now(specimen_id, field.id)


@st.dialog("Withdraw a slide")
def withdraw_slide(specimen_id: int, shown_slide_id: int | None) -> None:
    """Take a slide out of the count, or bring one back.

    Args:
        specimen_id: The specimen.
        shown_slide_id: The slide offered first.
    """
    with session_scope(read_only=True) as session:
        counted = {slide.id: slide for slide in slides.of_specimen(session, specimen_id)}
        withdrawn = slides.withdrawn(session, specimen_id)
        reasons = _why_withdrawn(session, specimen_id, "slide")
    st.markdown(
        "What was found on it counts no longer. Nothing is deleted: until the report is signed, the slide can be "
        "brought back here."
    )
    if counted:
        ids = list(counted)
        slide_id = st.selectbox(
            "Slide",
            ids,
            index=ids.index(shown_slide_id) if shown_slide_id in ids else 0,
            format_func=lambda chosen: f"{counted[chosen].name} ({counted[chosen].stain})",
            key=f"withdraw-slide-{specimen_id}",
        )
        reason = st.text_input(
            "Reason",
            key=f"withdraw-slide-reason-{specimen_id}",
            placeholder="Another patient's slide, out of focus, wrong block, ...",
        )
        if st.button("Withdraw", type="primary", key=f"withdraw-slide-now-{slide_id}"):
            _change_slides(specimen_id, lambda session, by: slides.withdraw(session, slide_id, by=by, reason=reason))
    if withdrawn:
        st.markdown("**Withdrawn so far**")
    for slide in withdrawn:
        with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
            st.html(
                f'{escape(slide.name)}<br><span class="rc-quiet-text">{style.when(slide.withdrawn_at)} · '
                f"{escape(reasons.get(slide.id) or '')}</span>",
                width="stretch",
            )
            if st.button("Bring back", key=f"bring-back-slide-{slide.id}"):
                _change_slides(specimen_id, lambda session, by, of=slide.id: slides.bring_back(session, of, by=by))


@st.dialog("Analyse again")
def _analyse_again(specimen_id: int) -> None:
    st.markdown(
        "All slides of the specimen are searched anew, at the scale that they have now. What was corrected stays with "
        "the result it was said about, and counts no longer; cancelling brings that result back."
    )
    if st.button("Analyse again", type="primary", key=f"again-now-{specimen_id}"):
        _change_slides(
            specimen_id,
            lambda session, by: analysis.request(session, specimens.get(session, specimen_id), by=by),
        )


@st.dialog("Change the patient")
def _change_patient(specimen: Specimen) -> None:
    with session_scope(read_only=True) as session:
        before = patients.get(session, specimen.patient_id)
    name = f", {style.plain(before.name)}" if before.name else ""
    st.markdown(
        f"Specimen **{style.plain(specimen.accession)}** is registered under **{style.plain(before.identifier)}**"
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


def withdrawn_slide(slide: Slide) -> None:
    """Says of a slide that was withdrawn when and why, and brings it back until the report is signed."""
    with session_scope(read_only=True) as session:
        state = specimens.get(session, slide.specimen_id).state
        why = _why_withdrawn(session, slide.specimen_id, "slide").get(slide.id)
    st.html(
        f'<div class="rc-banner" role="status">Withdrawn {style.when(slide.withdrawn_at)}: {escape(why or "")}<br>'
        "Nothing on it counts.</div>"
    )
    if state != "signed" and st.button("Bring back", key=f"bring-back-shown-{slide.id}"):
        _change_slides(slide.specimen_id, lambda session, by: slides.bring_back(session, slide.id, by=by))


def _why_withdrawn(session: Session, specimen_id: int, what: Literal["field", "slide"]) -> dict[int, str | None]:
    """Why each field or slide of a specimen was withdrawn last, by its id."""
    told = audit.events(session, action=f"specimen.withdraw_{what}", entity="specimen", entity_id=specimen_id)
    return {event.new[f"{what}_id"]: event.reason for event in reversed(told)}


def _change_slides(specimen_id: int, change: Callable[[Session, User], object]) -> None:
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
    st.rerun()


def _withdraw_now(specimen_id: int, fields: list[SpecimenField], field_id: int, reason: str) -> None:
    by = auth.require()
    try:
        with session_scope() as session:
            specimens.withdraw_field(session, field_id, by=by, reason=reason)
            current = analyses.current(session, specimen_id)
    except RenalError as error:
        st.error(style.plain(str(error)))
        return
    ids = [field.id for field in fields]
    if current is not None and st.query_params.get("field", str(ids[0])) == str(field_id):
        at = ids.index(field_id)
        beside = ids[at + 1] if at + 1 < len(ids) else ids[at - 1]
        findings.state_of(current.id).go(beside)
        st.query_params["field"] = str(beside)
    st.rerun()


def _bring_back_now(specimen_id: int, field_id: int) -> None:
    by = auth.require()
    try:
        with session_scope() as session:
            specimens.bring_back_field(session, field_id, by=by)
            current = analyses.current(session, specimen_id)
        if current is not None and current.state == "queued":
            analysis.send(current.id)
    except RenalError as error:
        st.error(style.plain(str(error)))
        return
    st.rerun()
