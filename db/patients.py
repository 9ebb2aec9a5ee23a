"""Patients: found by number or name, registered, renamed, and with how many specimens each has."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, or_, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from db import audit
from db.models import Patient, Specimen, User
from renalcore.errors import Conflict, InputError, NotFound


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


def get(session: Session, patient_id: int) -> Patient:
    """The patient with this id.

    Raises:
        NotFound: There is none.
    """
    patient = session.get(Patient, patient_id)
    if patient is None:
        raise NotFound(f"There is no patient {patient_id}.")
    return patient


def find(session: Session, identifier: str) -> Patient | None:
    """The patient with this hospital number, if known."""
    return session.scalars(select(Patient).where(Patient.identifier == identifier.strip())).one_or_none()


def rename(session: Session, patient_id: int, name: str | None, *, by: User, reason: str) -> Patient:
    """Correct or change a patient's name.

    Raises:
        InputError: No reason is given.
        NotFound: There is no such patient.
    """
    patient = get(session, patient_id)
    if not reason.strip():
        raise InputError("Say why the patient's name changes.")
    before = patient.name
    patient.name = _tidy(name)
    session.flush()
    audit.record(
        session,
        actor=by,
        action="patient.rename",
        entity="patient",
        entity_id=patient.id,
        old={"name": before},
        new={"name": patient.name},
        reason=reason.strip(),
    )
    return patient


def found_or_new(session: Session, identifier: str, name: str | None) -> tuple[Patient, list[dict[str, Any]]]:
    """The patient with this number, registered now where it is new.

    Returns:
        The patient, and what `audit.record` has to be told about it once all records are written.

    Raises:
        Conflict: The number belongs to a patient of another name.
    """
    given = _tidy(name)
    patient = find(session, identifier)
    if patient is None:
        patient = Patient(identifier=identifier, name=given)
        try:
            with session.begin_nested():
                session.add(patient)
        except IntegrityError:  # somebody registered the patient at this very moment
            patient = session.scalars(select(Patient).where(Patient.identifier == identifier)).one()
        else:
            return patient, [{"action": "patient.create", "new": {"identifier": identifier, "name": given}}]
    if given is None or patient.name_folded == given.casefold():
        return patient, []
    if patient.name is None:
        patient.name = given
        session.flush()
        return patient, [{"action": "patient.rename", "old": {"name": None}, "new": {"name": given}}]
    raise Conflict(
        f"Hospital number {identifier} is registered under another name. Check the number; "
        "if the name has changed, change it on the patient's page first."
    )


def _tidy(name: str | None) -> str | None:
    return " ".join((name or "").split()) or None
