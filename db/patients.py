"""Patients: found by number or name, with how many specimens each has."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from db.models import Patient, Specimen


@dataclass(frozen=True, slots=True)
class PatientRow:
    """One patient of a search.

    Attributes:
        patient_id: The patient.
        identifier: The hospital number.
        name: The name, None where it was not given.
        specimens: How many specimens are registered.
        newest_at: When the newest was registered.
    """

    patient_id: int
    identifier: str
    name: str | None
    specimens: int
    newest_at: datetime


def search(session: Session, text: str | None = None, *, limit: int = 100) -> list[PatientRow]:
    """Patients whose number or name holds `text` in any case, those seen last first.

    Args:
        session: An open session.
        text: What was typed; everybody where it is empty.
        limit: The most patients to return.
    """
    newest = func.max(Specimen.created_at)
    wanted = (text or "").strip()
    statement = (
        select(Patient.id, Patient.identifier, Patient.name, func.count(), newest)
        .join(Specimen, Specimen.patient_id == Patient.id)
        .group_by(Patient.id, Patient.identifier, Patient.name)
        .order_by(newest.desc(), Patient.id.desc())
        .limit(limit)
    )
    if wanted:
        statement = statement.where(
            or_(
                Patient.identifier.icontains(wanted, autoescape=True),
                Patient.name_folded.contains(wanted.casefold(), autoescape=True),
            )
        )
    return [PatientRow(*row) for row in session.execute(statement)]
