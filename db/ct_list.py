"""The list of CT studies: by their state, found by number and name, with how far each is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from db import analyses
from db.models import CtCorrection, CtResult, CtScan, Patient, Specimen
from db.slide_list import SLIDE_STATES, SlideState, counted_states, in_state, state_of
from db.worklist import matching, newest_analyses

__all__ = ["STUDY_STATES", "Page", "StudyRow", "StudyState", "page", "state_counts", "state_of"]

StudyState = SlideState
STUDY_STATES = SLIDE_STATES


@dataclass(frozen=True, slots=True)
class StudyRow:
    """One line of the list.

    Attributes:
        specimen_id: The study.
        accession: Its accession number.
        patient_id: The patient.
        patient_identifier: The patient's hospital number.
        patient_name: The patient's name, None where it was not given.
        created_at: When it was registered.
        collected_at: When it was scanned, None where unknown.
        state: Its state.
        message: Why the analysis failed or who cancelled it, else empty.
        analysis_id: The analysis that counts; None where there is none.
        done: Steps of a running analysis that are done.
        total: All its steps; 0 while it does not run.
        scans: Its scans that count, in their order; the withdrawn ones where none does.
        lesions: How many lesions each of these scans has, corrections included; None where it has no result.
    """

    specimen_id: int
    accession: str
    patient_id: int
    patient_identifier: str
    patient_name: str | None
    created_at: datetime
    collected_at: datetime | None
    state: StudyState
    message: str
    analysis_id: int | None
    done: int
    total: int
    scans: tuple[CtScan, ...]
    lesions: tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class Page:
    """Some lines of the list, and how many there are in all."""

    rows: tuple[StudyRow, ...]
    total: int


def state_counts(session: Session) -> dict[StudyState, int]:
    """How many studies are in each state; every state has an entry."""
    return counted_states(session, select(Specimen).where(Specimen.modality == "ct"))


def page(
    session: Session,
    *,
    state: StudyState | None = None,
    patient_id: int | None = None,
    text: str | None = None,
    limit: int = 100,
    offset: int = 0,
) -> Page:
    """Studies, the newest first.

    Args:
        session: An open session.
        state: Only those in this state.
        patient_id: Only those of this patient.
        text: Only those whose accession number, hospital number or patient name holds this text, in any case.
        limit: Lines of the page.
        offset: Lines before it.

    Raises:
        UnknownName: No study can be in that state.
    """
    conditions = [Specimen.modality == "ct", *in_state(state), *matching(text)]
    if patient_id is not None:
        conditions.append(Specimen.patient_id == patient_id)
    joined = select(Specimen, Patient).join(Patient, Patient.id == Specimen.patient_id).where(*conditions)
    total = session.scalar(select(func.count()).select_from(joined.subquery())) or 0
    newest_first = joined.order_by(Specimen.created_at.desc(), Specimen.id.desc())
    found = session.execute(newest_first.limit(limit).offset(offset)).all()
    ids = [specimen.id for specimen, _ in found]
    newest = newest_analyses(session, ids)
    # Few run at a time, so their steps are counted one by one.
    progress = {one.id: analyses.progress(session, one.id) for one in newest.values() if one.state == "running"}
    lesions = _lesions(session, [one.id for one in newest.values() if one.state == "done"])
    scans: dict[int, list[CtScan]] = {}
    for scan in session.scalars(select(CtScan).where(CtScan.specimen_id.in_(ids)).order_by(CtScan.position)):
        scans.setdefault(scan.specimen_id, []).append(scan)
    lines = []
    for specimen, patient in found:
        analysis = newest.get(specimen.id)
        done, steps = progress.get(analysis.id, (0, 0)) if analysis else (0, 0)
        all_of_it = scans.get(specimen.id, [])
        shown = tuple([scan for scan in all_of_it if scan.withdrawn_at is None] or all_of_it)
        lines.append(
            StudyRow(
                specimen_id=specimen.id,
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
                total=steps,
                scans=shown,
                lesions=tuple(lesions.get((analysis.id, scan.id)) if analysis else None for scan in shown),
            )
        )
    return Page(tuple(lines), total)


def _lesions(session: Session, analysis_ids: Sequence[int]) -> dict[tuple[int, int], int]:
    """How many lesions stand, by analysis and scan: the last correction keeps the measures as they are after it."""
    found: dict[tuple[int, int], int] = {}
    for table in (CtResult, CtCorrection):
        number = func.json_array_length(table.measures["lesions"])
        rows = select(table.analysis_id, table.scan_id, number).where(table.analysis_id.in_(analysis_ids))
        found |= {
            (analysis_id, scan_id): count for analysis_id, scan_id, count in session.execute(rows.order_by(table.id))
        }
    return found
