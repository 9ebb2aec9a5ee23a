"""The list of CT studies: by their state, found by number and name, with how far each is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

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
from db.models import CtCorrection, CtResult, CtScan, Patient, Specimen

StudyState = AskedState
STUDY_STATES = ASKED_STATES


@dataclass(frozen=True, slots=True)
class StudyRow(Line):
    """One line of the list.

    Attributes:
        scans: Its scans that count, in their order; the withdrawn ones where none does.
        lesions: How many lesions each of these scans has, corrections included; None where it has no result.
    """

    scans: tuple[CtScan, ...]
    lesions: tuple[int | None, ...]


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
) -> Page[StudyRow]:
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
    progress = progress_of(session, newest.values())
    lesions = _lesions(session, [one.id for one in newest.values() if one.state == "done"])
    scans: dict[int, list[CtScan]] = {}
    for scan in session.scalars(select(CtScan).where(CtScan.specimen_id.in_(ids)).order_by(CtScan.position)):
        scans.setdefault(scan.specimen_id, []).append(scan)
    lines = []
    for specimen, patient in found:
        analysis = newest.get(specimen.id)
        all_of_it = scans.get(specimen.id, [])
        shown = tuple([scan for scan in all_of_it if scan.withdrawn_at is None] or all_of_it)
        lines.append(
            StudyRow(
                **said(specimen, patient, analysis, progress),
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
