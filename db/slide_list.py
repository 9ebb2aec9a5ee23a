"""The list of slides: by the state of their specimens, found by number and name, with how far each is."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from db import reviewed_glomeruli
from db.listing import (
    ASKED_STATES,
    AskedState,
    Line,
    Page,
    counted_states,
    in_state,
    matching,
    newest_analyses,
    progress_of,
    said,
)
from db.models import Patient, Slide, Specimen

SlideState = AskedState
SLIDE_STATES = ASKED_STATES


@dataclass(frozen=True, slots=True)
class SlideRow(Line):
    """One line of the list.

    Attributes:
        slide: The slide.
        glomeruli: How many count on it; None where it has no result.
    """

    slide: Slide
    glomeruli: int | None


def state_counts(session: Session) -> dict[SlideState, int]:
    """How many slides are in each state; every state has an entry."""
    return counted_states(session, select(Specimen).join(Slide, Slide.specimen_id == Specimen.id))


def page(
    session: Session,
    *,
    state: SlideState | None = None,
    patient_id: int | None = None,
    text: str | None = None,
    limit: int = 100,
    offset: int = 0,
) -> Page[SlideRow]:
    """Slides, those of the newest specimen first.

    Args:
        session: An open session.
        state: Only those of specimens in this state.
        patient_id: Only those of this patient.
        text: Only those whose accession number, hospital number or patient name holds this text, in any case.
        limit: Lines of the page.
        offset: Lines before it.

    Raises:
        UnknownName: No slide can be in that state.
    """
    conditions = [*in_state(state), *matching(text)]
    if patient_id is not None:
        conditions.append(Specimen.patient_id == patient_id)
    joined = (
        select(Slide, Specimen, Patient)
        .join(Specimen, Specimen.id == Slide.specimen_id)
        .join(Patient, Patient.id == Specimen.patient_id)
        .where(*conditions)
    )
    total = session.scalar(select(func.count()).select_from(joined.subquery())) or 0
    newest_first = joined.order_by(Specimen.created_at.desc(), Specimen.id.desc(), Slide.position)
    found = session.execute(newest_first.limit(limit).offset(offset)).all()
    newest = newest_analyses(session, list({specimen.id for _, specimen, _ in found}))
    progress = progress_of(session, newest.values())
    counted = reviewed_glomeruli.counts(session, [one.id for one in newest.values() if one.state == "done"])
    lines = (
        SlideRow(
            **said(specimen, patient, newest.get(specimen.id), progress),
            slide=slide,
            glomeruli=counted.get(slide.id) if slide.withdrawn_at is None else None,
        )
        for slide, specimen, patient in found
    )
    return Page(tuple(lines), total)
