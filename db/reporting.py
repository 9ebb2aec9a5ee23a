"""What reports of every modality share: whose they are, the analysis they rest on, signatures, and which there are.

A signed specimen reports what was signed, word for word; any other reports what stands now.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypedDict, TypeVar

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from db import analyses
from db.models import Analysis, Modality, Patient, SignOff, Specimen, SpecimenState, User
from renalcore.errors import InputError
from renalcore.export.csv import Whence

_RESTS_ON = ("analysis_id", "model_key", "weights_sha256", "code_version")


@dataclass(frozen=True, slots=True)
class Signature:
    """Who answers for a report.

    Attributes:
        sign_off_id: The signature.
        kind: `sign` or `amend`.
        by: Full name of the reviewer.
        at: When, UTC.
        meaning: What the signature means.
        reason: Why the report was amended, else None.
    """

    sign_off_id: int
    kind: str
    by: str
    at: datetime
    meaning: str
    reason: str | None


@dataclass(frozen=True, slots=True)
class Report:
    """What every report says of its specimen, and of the analysis that it rests on.

    Attributes:
        specimen_id: The specimen.
        accession: Its accession number.
        patient_id: The patient.
        patient_identifier: The patient's hospital number.
        patient_name: The patient's name, None where it was not given.
        state: State of the specimen.
        collected_at: When the urine was collected, the tissue taken or the patient scanned, None where unknown.
        created_at: When it was registered.
        analysis_id: The analysis that counts; None where there is none, and then there is no result either.
        model_key: The model.
        weights_sha256: Digest of its weights.
        code_version: Version of the software that ran it.
    """

    specimen_id: int
    accession: str
    patient_id: int
    patient_identifier: str
    patient_name: str | None
    state: SpecimenState
    collected_at: datetime | None
    created_at: datetime
    analysis_id: int | None
    model_key: str | None
    weights_sha256: str | None
    code_version: str | None

    @property
    def taken_at(self) -> datetime:
        """When it was collected, taken or scanned, or failing that registered: its place in the patient's history."""
        return self.collected_at or self.created_at


class Which(TypedDict, total=False):
    """Which specimens are asked for: those that pass every condition given.

    Attributes:
        specimen_id: Only this specimen.
        patient_id: Only specimens of this patient.
        since: Only specimens registered at this moment or later.
        until: Only specimens registered before this moment.
    """

    specimen_id: int | None
    patient_id: int | None
    since: datetime | None
    until: datetime | None


_Report = TypeVar("_Report", bound=Report)


def reportable(modality: Modality, *, since: datetime | None = None, until: datetime | None = None) -> Select[int]:
    """Ids of the specimens of one modality that have a report, in the order of registration.

    Args:
        modality: The modality.
        since: Only specimens registered at this moment or later.
        until: Only specimens registered before this moment.
    """
    wanted = select(Specimen.id).where(Specimen.modality == modality, Specimen.state.in_(("needs_review", "signed")))
    if since is not None:
        wanted = wanted.where(Specimen.created_at >= since)
    if until is not None:
        wanted = wanted.where(Specimen.created_at < until)
    return wanted.order_by(Specimen.created_at, Specimen.id)


def chosen(
    session: Session,
    modality: Modality,
    *,
    specimen_id: int | None = None,
    patient_id: int | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> list[int]:
    """The specimens of one modality that have a report and are asked for, see `Which`, as they were registered.

    Raises:
        InputError: No condition is given.
    """
    if specimen_id is None and patient_id is None and since is None and until is None:
        raise InputError("Say what to export: a specimen, a patient or a range of dates.")
    wanted = reportable(modality, since=since, until=until)
    if specimen_id is not None:
        wanted = wanted.where(Specimen.id == specimen_id)
    if patient_id is not None:
        wanted = wanted.where(Specimen.patient_id == patient_id)
    return list(session.scalars(wanted))


def oldest_first(found: Iterable[_Report]) -> list[_Report]:
    """Reports as a patient's history: by when the specimens were taken."""
    return sorted(found, key=lambda one: (one.taken_at, one.specimen_id))


def one_by_one(
    session: Session,
    modality: Modality,
    specimen_ids: Sequence[int],
    *,
    as_signed: Callable[[Mapping[str, Any], Mapping[str, Any]], _Report],
    as_it_stands: Callable[[Session, Mapping[str, Any], int, Analysis | None], _Report],
) -> list[_Report]:
    """Reports in the order of the ids; specimens of other modalities are left out.

    Args:
        session: An open session.
        modality: The modality.
        specimen_ids: The specimens.
        as_signed: The report of a signed specimen, from what every report says and what the signature keeps.
        as_it_stands: The report of any other, from what every report says, the specimen and the analysis that counts.
    """
    rows = session.execute(
        select(Specimen, Patient)
        .join(Patient, Patient.id == Specimen.patient_id)
        .where(Specimen.id.in_(specimen_ids), Specimen.modality == modality)
    )
    records = {specimen.id: (specimen, patient) for specimen, patient in rows}
    signed, amendments = signatures(session, list(records))
    found = []
    for key in specimen_ids:
        if key not in records:
            continue
        specimen, patient = records[key]
        if specimen.state == "signed":
            sign_off, by = signed[key]
            found.append(as_signed(said_when_signed(specimen, patient, sign_off, by, amendments[key]), sign_off.report))
        else:
            analysis = analyses.current(session, key)
            said = said_now(specimen, patient, analysis, amendments.get(key, 0))
            found.append(as_it_stands(session, said, key, analysis))
    return found


def signatures(session: Session, specimen_ids: Sequence[int]) -> tuple[dict[int, tuple[SignOff, str]], dict[int, int]]:
    """The last signature of each of these specimens with the name of who gave it, and the number of amendments."""
    last: dict[int, tuple[SignOff, str]] = {}
    amendments: dict[int, int] = defaultdict(int)
    for sign_off, full_name, username in session.execute(
        select(SignOff, User.full_name, User.username)
        .join(User, User.id == SignOff.by_id)
        .where(SignOff.specimen_id.in_(specimen_ids), SignOff.kind != "reopen")
        .order_by(SignOff.id)
    ):
        last[sign_off.specimen_id] = (sign_off, full_name or username)
        amendments[sign_off.specimen_id] += sign_off.kind == "amend"
    return last, amendments


def said_when_signed(
    specimen: Specimen, patient: Patient, sign_off: SignOff, by: str, amendments: int
) -> dict[str, Any]:
    """What every report says, by the names of its attributes, of a specimen under this signature of `by`."""
    signature = Signature(sign_off.id, sign_off.kind, by, sign_off.at, sign_off.meaning, sign_off.reason)
    kept = {name: sign_off.report[name] for name in _RESTS_ON}
    return _identity(specimen, patient) | kept | {"signature": signature, "amendments": amendments}


def said_now(specimen: Specimen, patient: Patient, analysis: Analysis | None, amendments: int) -> dict[str, Any]:
    """What every report says, by the names of its attributes, of a specimen that is not signed as it stands."""
    return _identity(specimen, patient) | {
        "analysis_id": analysis.id if analysis else None,
        "model_key": analysis.model_key if analysis else None,
        "weights_sha256": analysis.weights_sha256 if analysis else None,
        "code_version": analysis.code_version if analysis else None,
        "signature": None,
        "amendments": amendments,
    }


def _identity(specimen: Specimen, patient: Patient) -> dict[str, Any]:
    return {
        "specimen_id": specimen.id,
        "accession": specimen.accession,
        "patient_id": patient.id,
        "patient_identifier": patient.identifier,
        "patient_name": patient.name,
        "state": specimen.state,
        "collected_at": specimen.collected_at,
        "created_at": specimen.created_at,
    }


def rests_on(report: Report) -> dict[str, Any]:
    """What a signature keeps of the analysis that a report rests on."""
    return {name: getattr(report, name) for name in _RESTS_ON}


def whence(report: Report, signature: Signature | None, amendments: int) -> Whence:
    """What the lines of an exported report rest on."""
    return Whence(
        model=report.model_key or "",
        weights_sha256=report.weights_sha256 or "",
        signed_by=signature.by if signature else None,
        signed_at=signature.at if signature else None,
        signature=signature.kind if signature else None,
        amendments=amendments,
    )
