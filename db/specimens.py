"""Specimens: a patient's urine under one accession number, and its fields; and what specimens of all kinds share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import get_args

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from db import analyses, audit, cutoffs, patients, pictures
from db.engine import now
from db.files import confirm_once_committed
from db.models import (
    OBJECTIVES,
    Objective,
    Role,
    ScaleKind,
    Specimen,
    SpecimenField,
    StoredFile,
    User,
)
from db.states import named, refuse_if_signed, refuse_while_running
from renalcore.errors import Conflict, InputError, NotFound
from renalcore.types import QualityFlag

SCALE_KINDS: tuple[ScaleKind, ...] = get_args(ScaleKind)
"""How the area of a field is known: from its scale, because it shows one whole field of view, or not at all."""


MAY_REASSIGN: tuple[Role, ...] = ("technologist", "admin")
"""Who may give a specimen to another patient, and change its date."""


@dataclass(frozen=True, slots=True)
class UploadedField:
    """A picture that was checked and stored, and is not yet a field of any specimen.

    Attributes:
        name: Base name of the uploaded file.
        sha256: Digest of its bytes: its address in the file store.
        size: Its bytes.
        media_type: What it is by content, such as `image/jpeg`.
        width_px: Width of the upright picture.
        height_px: Height of the upright picture.
        flags: Doubts about its quality.
        round_field: `(cx, cy, radius)` in px of the illuminated disc of an eyepiece picture, else None.
    """

    name: str
    sha256: str
    size: int
    media_type: str
    width_px: int
    height_px: int
    flags: tuple[QualityFlag, ...] = ()
    round_field: tuple[float, float, float] | None = None


def register(
    session: Session,
    *,
    identifier: str,
    patient_name: str | None,
    accession: str,
    objective: Objective,
    scale_kind: ScaleKind,
    um_per_px: float | None,
    collected_at: datetime | None,
    uploads: Sequence[UploadedField],
    by: User,
) -> Specimen:
    """Register a specimen with its fields, and its patient where the hospital number is new.

    Args:
        session: An open session.
        identifier: The patient's hospital number.
        patient_name: The patient's name, or None.
        accession: The laboratory's number of the specimen.
        objective: One of `OBJECTIVES`.
        scale_kind: One of `SCALE_KINDS`.
        um_per_px: Micrometres a pixel, given exactly where `scale_kind` is `um_per_px`.
        collected_at: When the urine was collected, or None.
        uploads: The fields, in order.
        by: Who registers it.

    Raises:
        Conflict: The accession number is taken, two pictures are the same, or the hospital number belongs to a
            patient of another name.
        InputError: A number is missing, or the scale is none.
    """
    identifier, accession = checked_numbers(identifier, accession)
    _check_scale(objective, scale_kind, um_per_px)
    if not uploads:
        raise InputError(f"Specimen {accession} has no picture. Add at least one field.")
    _check_different(uploads)
    refuse_if_taken(session, accession)
    table = cutoffs.default_row(session)
    patient, patient_events = patients.found_or_new(session, identifier, patient_name)
    specimen = Specimen(
        patient_id=patient.id,
        accession=accession,
        modality="sediment",
        objective=objective,
        scale_kind=scale_kind,
        um_per_px=um_per_px,
        state="waiting",
        collected_at=collected_at,
        created_by_id=by.id,
        created_at=now(),
        cutoff_table_id=table.id,
    )
    insert(session, specimen)
    _add(session, specimen, uploads, first_position=0)
    for event in patient_events:
        audit.record(session, actor=by, entity="patient", entity_id=patient.id, **event)
    audit.record(
        session,
        actor=by,
        action="specimen.register",
        entity="specimen",
        entity_id=specimen.id,
        new={
            "accession": accession,
            "patient": identifier,
            "objective": objective,
            "scale_kind": scale_kind,
            "um_per_px": um_per_px,
            "collected_at": collected_at.astimezone(UTC).isoformat() if collected_at else None,
            "cut_off_version": table.version,
            "state": "waiting",
            "fields": [{"name": upload.name, "sha256": upload.sha256} for upload in uploads],
        },
    )
    return specimen


def checked_numbers(identifier: str, accession: str) -> tuple[str, str]:
    """Hospital number and accession number without spaces around them.

    Raises:
        InputError: One of them is missing.
    """
    identifier, accession = identifier.strip(), accession.strip()
    if not identifier:
        raise InputError("The patient's hospital number is missing. Type or scan it.")
    if not accession:
        raise InputError("The accession number is missing. Type or scan it.")
    return identifier, accession


def refuse_if_taken(session: Session, accession: str) -> None:
    """Raises `Conflict` where a specimen has this accession number."""
    if by_accession(session, accession) is not None:
        raise _taken(accession)


def insert(session: Session, specimen: Specimen) -> None:
    """Write a new specimen.

    Raises:
        Conflict: Somebody registered its accession number at this very moment.
    """
    try:
        with session.begin_nested():
            session.add(specimen)
    except IntegrityError:
        raise _taken(specimen.accession) from None


def _taken(accession: str) -> Conflict:
    return Conflict(
        f"Accession number {accession} is already registered. Open that specimen to add to it, or check the number."
    )


def add_fields(
    session: Session, specimen_id: int, uploads: Sequence[UploadedField], *, by: User
) -> list[SpecimenField]:
    """Add pictures to a specimen that is not signed.

    An analysis that was complete or had failed is queued again for the fields that lack a result, with its
    corrections kept; the caller hands `analyses.current` to the queue once the transaction is committed.

    Raises:
        Conflict: The specimen is signed or being analysed, or has one of the pictures already.
        InputError: There is no picture.
    """
    specimen = analyses.hold_specimen(session, specimen_id)
    if not uploads:
        raise InputError(f"No picture to add to specimen {specimen.accession}.")
    refuse_if_signed(specimen)
    refuse_while_running(specimen, "add pictures")
    _check_different(uploads)
    present = dict(
        session.execute(
            select(StoredFile.sha256, SpecimenField)
            .join(SpecimenField, SpecimenField.file_id == StoredFile.id)
            .where(SpecimenField.specimen_id == specimen.id)
        ).all()
    )
    for upload in uploads:
        same = present.get(upload.sha256)
        if same is not None:
            remedy = "Leave it out." if same.withdrawn_at is None else "It was withdrawn: bring it back instead."
            raise Conflict(
                f"{upload.name} is the same picture as {same.name}, which specimen {specimen.accession} "
                f"has already. {remedy}"
            )
    added = _add(session, specimen, uploads, first_position=len(present))
    audit.record(
        session,
        actor=by,
        action="specimen.add_fields",
        entity="specimen",
        entity_id=specimen.id,
        old={"fields": len(present)},
        new={
            "accession": specimen.accession,
            "fields": len(present) + len(added),
            "added": [{"name": upload.name, "sha256": upload.sha256} for upload in uploads],
        },
    )
    newest = analyses.current(session, specimen.id)
    if newest is not None and newest.state in ("done", "failed"):
        analyses.retry(session, newest.id, by)
    return added


def withdraw_field(session: Session, field_id: int, *, by: User, reason: str) -> SpecimenField:
    """Take a field out of its specimen: what was found in it no longer counts, and nothing is deleted.

    An analysis that failed at this field alone is complete without it: the caller offers to retry it.

    Args:
        session: An open session.
        field_id: The field.
        by: Who withdraws it.
        reason: Why, in that person's words.

    Raises:
        Conflict: The specimen is signed, has no other field, or the field was withdrawn before.
        InputError: No reason is given.
        NotFound: There is no such field.
    """
    field, specimen = pictures.to_withdraw(session, SpecimenField, field_id, reason)
    if len(fields(session, specimen.id)) == 1:
        raise Conflict(
            f"{field.name} is the only field of specimen {specimen.accession}. "
            "Add another picture before you withdraw it."
        )
    return pictures.withdraw(session, field, specimen, by=by, reason=reason)


def bring_back_field(session: Session, field_id: int, *, by: User) -> SpecimenField:
    """Let a withdrawn field count again, with what was found in it and corrected before.

    Where a complete analysis has no result for it, that analysis is queued again for this field; the caller then hands
    `analyses.current` to the queue once the transaction is committed.

    Raises:
        Conflict: The specimen is signed or being analysed, or the field counts already.
        NotFound: There is no such field.
    """
    return pictures.bring_back(session, SpecimenField, field_id, by=by)


def reassign(
    session: Session, specimen_id: int, *, identifier: str, patient_name: str | None, by: User, reason: str
) -> Specimen:
    """Give a specimen that was registered under a wrong number to its patient, who may be new.

    Args:
        session: An open session.
        specimen_id: The specimen.
        identifier: The right patient's hospital number.
        patient_name: That patient's name, or None; checked against the name that is known.
        by: A technologist or an administrator.
        reason: Why, in that person's words.

    Raises:
        Conflict: `by` is neither, the specimen is signed or is this patient's already, or the hospital number belongs
            to a patient of another name.
        InputError: The number or the reason is missing.
        NotFound: There is no such specimen.
    """
    if by.role not in MAY_REASSIGN or not by.is_active:
        raise Conflict("Only a technologist or an administrator may change the patient of a specimen. Ask one of them.")
    identifier = identifier.strip()
    if not identifier:
        raise InputError("The patient's hospital number is missing. Type or scan it.")
    if not reason.strip():
        raise InputError("Say why the specimen belongs to another patient.")
    specimen = analyses.hold_specimen(session, specimen_id)
    refuse_if_signed(specimen)
    before = patients.get(session, specimen.patient_id)
    if before.identifier == identifier:
        raise Conflict(f"{named(specimen, begins=True)} is registered under {identifier} already.")
    patient, patient_events = patients.found_or_new(session, identifier, patient_name)
    specimen.patient_id = patient.id
    session.flush()
    session.expire(specimen, ["patient"])
    for event in patient_events:
        audit.record(session, actor=by, entity="patient", entity_id=patient.id, **event)
    audit.record(
        session,
        actor=by,
        action="specimen.reassign",
        entity="specimen",
        entity_id=specimen.id,
        old={"patient": before.identifier},
        new={"accession": specimen.accession, "patient": patient.identifier},
        reason=reason.strip(),
    )
    return specimen


def change_date(
    session: Session, specimen_id: int, collected_at: datetime | None, *, by: User, reason: str
) -> Specimen:
    """Give the date of a specimen that was registered without one, or with a wrong one.

    Args:
        session: An open session.
        specimen_id: The specimen.
        collected_at: When the urine was collected, the tissue taken or the patient scanned; None where nobody knows.
        by: A technologist or an administrator.
        reason: Why, in that person's words.

    Raises:
        Conflict: `by` is neither, or the specimen is signed or has this date already.
        InputError: The date lies in the future, or the reason is missing.
        NotFound: There is no such specimen.
    """
    if by.role not in MAY_REASSIGN or not by.is_active:
        raise Conflict("Only a technologist or an administrator may change the date of a specimen. Ask one of them.")
    if collected_at is not None and collected_at > now():
        raise InputError("The date lies in the future. Check day, month, year and time.")
    if not reason.strip():
        raise InputError("Say why the date changes.")
    specimen = analyses.hold_specimen(session, specimen_id)
    refuse_if_signed(specimen)
    before = specimen.collected_at
    if before == collected_at:
        has = "has no date yet" if before is None else "has this date already"
        raise Conflict(f"{named(specimen, begins=True)} {has}.")
    specimen.collected_at = collected_at
    session.flush()
    old, new = (moment.astimezone(UTC).isoformat() if moment else None for moment in (before, collected_at))
    audit.record(
        session,
        actor=by,
        action="specimen.change_date",
        entity="specimen",
        entity_id=specimen.id,
        old={"collected_at": old},
        new={"accession": specimen.accession, "collected_at": new},
        reason=reason.strip(),
    )
    return specimen


def get(session: Session, specimen_id: int) -> Specimen:
    """The specimen with this id.

    Raises:
        NotFound: There is none.
    """
    specimen = session.get(Specimen, specimen_id)
    if specimen is None:
        raise NotFound(f"There is no specimen {specimen_id}.")
    return specimen


def by_accession(session: Session, accession: str) -> Specimen | None:
    """The specimen with this accession number, if it is registered."""
    return session.scalars(select(Specimen).where(Specimen.accession == accession.strip())).one_or_none()


def fields(session: Session, specimen_id: int) -> list[SpecimenField]:
    """The fields of a specimen that count, in their order."""
    return pictures.counting(session, SpecimenField, specimen_id)


def withdrawn_fields(session: Session, specimen_id: int) -> list[SpecimenField]:
    """The fields that were withdrawn from a specimen and not brought back, in their order."""
    return pictures.withdrawn(session, SpecimenField, specimen_id)


def last_by(session: Session, user: User) -> Specimen | None:
    """The specimen that a person registered last: its objective and scale are offered for the next one."""
    return session.scalars(
        select(Specimen)
        .where(Specimen.created_by_id == user.id, Specimen.modality == "sediment")
        .order_by(Specimen.created_at.desc(), Specimen.id.desc())
        .limit(1)
    ).one_or_none()


def seen_before(session: Session, sha256: str) -> list[str]:
    """Accession numbers of the specimens that have this very picture, oldest first."""
    return pictures.seen_before(session, SpecimenField.file_id, sha256)


def has_file(session: Session, sha256: str) -> bool:
    """Whether a record names this file of the store."""
    return session.scalar(select(StoredFile.id).where(StoredFile.sha256 == sha256)) is not None


def stored_file(session: Session, sha256: str, *, size: int, media_type: str) -> StoredFile:
    """The record of a file in the store, made where there is none, whoever else is making it at the same moment.

    Once it is committed, the store knows that the file is to be kept.
    """
    confirm_once_committed(session, sha256)
    file = StoredFile(sha256=sha256, size_bytes=size, media_type=media_type)
    try:
        with session.begin_nested():
            session.add(file)
    except IntegrityError:
        return session.scalars(select(StoredFile).where(StoredFile.sha256 == sha256)).one()
    return file


def _check_scale(objective: str, scale_kind: str, um_per_px: float | None) -> None:
    if objective not in OBJECTIVES:
        raise InputError(f"Objective {objective!r} is unknown; choose one of {', '.join(OBJECTIVES)}.")
    if scale_kind not in SCALE_KINDS:
        raise InputError(f"Scale {scale_kind!r} is unknown; choose one of {', '.join(SCALE_KINDS)}.")
    if scale_kind == "um_per_px":
        if um_per_px is None or not 0 < um_per_px < 1000:  # also refuses nan
            raise InputError("Give the scale in micrometres a pixel, such as 0.25, or choose another kind of scale.")
    elif um_per_px is not None:
        raise InputError("Micrometres a pixel were given, but the scale is said to be of another kind. Choose one.")


def _check_different(uploads: Sequence[UploadedField]) -> None:
    names: dict[str, str] = {}
    for upload in uploads:
        if upload.sha256 in names:
            raise Conflict(
                f"{upload.name} is the same picture as {names[upload.sha256]}: a field counts once. Leave one out."
            )
        names[upload.sha256] = upload.name


def _add(
    session: Session, specimen: Specimen, uploads: Sequence[UploadedField], *, first_position: int
) -> list[SpecimenField]:
    files = {
        file.sha256: file
        for file in session.scalars(
            select(StoredFile).where(StoredFile.sha256.in_([upload.sha256 for upload in uploads]))
        )
    }
    for upload in sorted(uploads, key=lambda upload: upload.sha256):  # in one order, or two uploads wait for each other
        if upload.sha256 not in files:
            files[upload.sha256] = stored_file(session, upload.sha256, size=upload.size, media_type=upload.media_type)
    added = []
    for position, upload in enumerate(uploads, start=first_position):
        field = SpecimenField(
            specimen_id=specimen.id,
            position=position,
            file_id=files[upload.sha256].id,
            name=upload.name,
            width_px=upload.width_px,
            height_px=upload.height_px,
            flags=[{"code": flag.code, "message": flag.message} for flag in upload.flags],
            round_field=list(upload.round_field) if upload.round_field else None,
        )
        session.add(field)
        added.append(field)
    session.flush()
    return added
