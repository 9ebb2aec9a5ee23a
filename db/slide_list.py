"""The list of slides: by the state of their specimens, found by number and name, with how far each is."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, get_args

from sqlalchemy import ColumnElement, Select, func, select
from sqlalchemy.orm import Session

from db import analyses, glomeruli
from db.models import SPECIMEN_STATES, Analysis, Patient, Slide, Specimen, SpecimenState
from db.worklist import matching, newest_analyses
from renalcore.errors import UnknownName

SlideState = Literal["not_analysed", SpecimenState]
"""States of a specimen of slides or scans: before anybody asks for an analysis nothing is waited for."""

SLIDE_STATES: tuple[SlideState, ...] = (get_args(SlideState)[0], *SPECIMEN_STATES)


@dataclass(frozen=True, slots=True)
class SlideRow:
    """One line of the list.

    Attributes:
        slide: The slide.
        accession: Accession number of its specimen.
        patient_id: The patient.
        patient_identifier: The patient's hospital number.
        patient_name: The patient's name, None where it was not given.
        created_at: When its specimen was registered.
        collected_at: When the tissue was taken, None where unknown.
        state: That of its specimen.
        message: Why the analysis failed or who cancelled it, else empty.
        analysis_id: The analysis that counts; None where there is none.
        done: Tiles of a running analysis, over all slides of the specimen, that were searched.
        total: All its tiles; 0 while it does not run or they are not known yet.
        glomeruli: How many count on it; None where it has no result.
    """

    slide: Slide
    accession: str
    patient_id: int
    patient_identifier: str
    patient_name: str | None
    created_at: datetime
    collected_at: datetime | None
    state: SlideState
    message: str
    analysis_id: int | None
    done: int
    total: int
    glomeruli: int | None


@dataclass(frozen=True, slots=True)
class Page:
    """Some lines of the list, and how many there are in all."""

    rows: tuple[SlideRow, ...]
    total: int


def state_of(specimen: Specimen, analysis: Analysis | None) -> SlideState:
    """The state of a specimen of slides or scans, whose analysis that counts is `analysis`."""
    return "not_analysed" if analysis is None and specimen.state == "waiting" else specimen.state


def state_counts(session: Session) -> dict[SlideState, int]:
    """How many slides are in each state; every state has an entry."""
    return counted_states(session, select(Specimen).join(Slide, Slide.specimen_id == Specimen.id))


def counted_states(session: Session, specimens: Select[Any]) -> dict[SlideState, int]:
    """How many lines of `specimens` are in each state, also of CT studies; every state has an entry."""
    asked = _IS_ASKED.label("asked")
    counted = dict.fromkeys(SLIDE_STATES, 0)
    states = specimens.with_only_columns(Specimen.state, asked, func.count()).group_by(Specimen.state, asked)
    for state, is_asked, number in session.execute(states):
        counted[state if is_asked or state != "waiting" else "not_analysed"] += number
    return counted


def in_state(state: SlideState | None) -> list[ColumnElement[bool]]:
    """What a specimen of slides or scans must be to be in a state; nothing where it may be in any.

    Raises:
        UnknownName: None can be in that state.
    """
    if state is None:
        return []
    if state not in SLIDE_STATES:
        raise UnknownName(f"{state!r} is no state of a specimen; expected one of {', '.join(SLIDE_STATES)}")
    if state == "not_analysed":
        return [Specimen.state == "waiting", ~_IS_ASKED]
    return [Specimen.state == state, *([_IS_ASKED] if state == "waiting" else [])]


def page(
    session: Session,
    *,
    state: SlideState | None = None,
    patient_id: int | None = None,
    text: str | None = None,
    limit: int = 100,
    offset: int = 0,
) -> Page:
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
    # Few run at a time, so their tiles are counted one by one.
    progress = {one.id: analyses.progress(session, one.id) for one in newest.values() if one.state == "running"}
    counted = glomeruli.counts(session, [one.id for one in newest.values() if one.state == "done"])
    lines = []
    for slide, specimen, patient in found:
        analysis = newest.get(specimen.id)
        done, tiles = progress.get(analysis.id, (0, 0)) if analysis else (0, 0)
        lines.append(
            SlideRow(
                slide=slide,
                accession=specimen.accession,
                patient_id=patient.id,
                patient_identifier=patient.identifier,
                patient_name=patient.name,
                created_at=specimen.created_at,
                collected_at=specimen.collected_at,
                state=state_of(specimen, analysis),
                message=(analysis.message or "") if analysis else "",
                analysis_id=analysis.id if analysis else None,
                done=done,
                total=tiles,
                glomeruli=counted.get(slide.id) if slide.withdrawn_at is None else None,
            )
        )
    return Page(tuple(lines), total)


_IS_ASKED = select(Analysis.id).where(Analysis.specimen_id == Specimen.id).exists()
