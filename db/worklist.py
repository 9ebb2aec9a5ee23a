"""The worklist: sediment by its state, found by number, name and date, in constant time however much there is."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, func, select
from sqlalchemy.orm import Session

from db.listing import Page, matching, newest_analyses
from db.models import (
    SPECIMEN_STATES,
    FieldResult,
    Objective,
    Patient,
    Specimen,
    SpecimenField,
    SpecimenState,
)
from renalcore.errors import UnknownName

_IS_SEDIMENT = Specimen.modality == "sediment"


@dataclass(frozen=True, slots=True)
class WorklistRow:
    """One line of the worklist.

    Attributes:
        specimen_id: The specimen.
        accession: Its accession number.
        patient_identifier: The patient's hospital number.
        patient_name: The patient's name, None where it was not given.
        state: One of `models.SPECIMEN_STATES`.
        message: Why it failed or who cancelled it, else empty.
        fields_done: Fields that the analysis that counts has a result for.
        fields_total: All its fields.
        created_at: When it was registered.
        collected_at: When the urine was collected, None where unknown.
        objective: The objective its fields were taken with.
        analysis_id: The analysis that counts, None where there is none yet.
    """

    specimen_id: int
    accession: str
    patient_identifier: str
    patient_name: str | None
    state: SpecimenState
    message: str
    fields_done: int
    fields_total: int
    created_at: datetime
    collected_at: datetime | None
    objective: Objective
    analysis_id: int | None


def state_counts(session: Session) -> dict[SpecimenState, int]:
    """How many specimens are in each state; every state has an entry."""
    statement = select(Specimen.state, func.count()).where(_IS_SEDIMENT).group_by(Specimen.state)
    counted = dict(session.execute(statement).all())
    return {state: counted.get(state, 0) for state in SPECIMEN_STATES}


def page(
    session: Session,
    *,
    state: SpecimenState | None = None,
    patient_id: int | None = None,
    text: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    limit: int = 100,
    offset: int = 0,
) -> Page[WorklistRow]:
    """Specimens, newest first, in a constant number of statements however many there are.

    Args:
        session: An open session.
        state: Only specimens in this state.
        patient_id: Only specimens of this patient.
        text: Only those whose accession number, hospital number or patient name holds this text, in any case.
        since: Only those registered at this moment or later.
        until: Only those registered before this moment.
        limit: Lines of the page.
        offset: Lines before it.

    Raises:
        UnknownName: No specimen can be in that state.
    """
    if state is not None and state not in SPECIMEN_STATES:
        raise UnknownName(f"{state!r} is no state of a specimen; expected one of {', '.join(SPECIMEN_STATES)}")
    conditions: list[ColumnElement[bool]] = [_IS_SEDIMENT]
    if state is not None:
        conditions.append(Specimen.state == state)
    if patient_id is not None:
        conditions.append(Specimen.patient_id == patient_id)
    if since is not None:
        conditions.append(Specimen.created_at >= since)
    if until is not None:
        conditions.append(Specimen.created_at < until)
    named = matching(text)
    conditions += named
    total = session.scalar(_joined(select(func.count()), bool(named)).where(*conditions)) or 0
    rows = session.execute(
        select(Specimen, Patient.identifier, Patient.name)
        .join(Patient, Patient.id == Specimen.patient_id)
        .where(*conditions)
        .order_by(Specimen.created_at.desc(), Specimen.id.desc())
        .limit(limit)
        .offset(offset)
    ).all()
    ids = [row.Specimen.id for row in rows]
    totals = dict(
        session.execute(
            select(SpecimenField.specimen_id, func.count())
            .where(SpecimenField.specimen_id.in_(ids), SpecimenField.withdrawn_at.is_(None))
            .group_by(SpecimenField.specimen_id)
        ).all()
    )
    newest = newest_analyses(session, ids)
    done = dict(
        session.execute(
            select(FieldResult.analysis_id, func.count())
            .join(SpecimenField, SpecimenField.id == FieldResult.field_id)
            .where(
                FieldResult.analysis_id.in_([analysis.id for analysis in newest.values()]),
                SpecimenField.withdrawn_at.is_(None),
            )
            .group_by(FieldResult.analysis_id)
        ).all()
    )
    lines = []
    for specimen, identifier, name in rows:
        analysis = newest.get(specimen.id)
        lines.append(
            WorklistRow(
                specimen_id=specimen.id,
                accession=specimen.accession,
                patient_identifier=identifier,
                patient_name=name,
                state=specimen.state,
                message=(analysis.message or "") if analysis else "",
                fields_done=done.get(analysis.id, 0) if analysis else 0,
                fields_total=totals.get(specimen.id, 0),
                created_at=specimen.created_at,
                collected_at=specimen.collected_at,
                objective=specimen.objective,
                analysis_id=analysis.id if analysis and analysis.state != "cancelled" else None,
            )
        )
    return Page(tuple(lines), total)


def _joined(statement: Select[Any], by_patient: bool) -> Select[Any]:
    """Count specimens alone where no patient is asked for: the index answers it."""
    statement = statement.select_from(Specimen)
    return statement.join(Patient, Patient.id == Specimen.patient_id) if by_patient else statement
