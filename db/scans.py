"""Scans: a patient's CT study under one accession number, one scan a series."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy.orm import Session

from db import analyses, audit, patients, pictures, specimens
from db.ct_intake import Made, Prepared
from db.engine import now
from db.models import CtScan, Specimen, StoredFile, User
from db.states import refuse_if_signed, refuse_while_running
from renalcore.errors import Conflict, InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class NewScan:
    """One series that a technologist registers.

    Attributes:
        prepared: What `ct_intake.prepare` made of it.
        name: What the laboratory calls it, such as "portal"; numbered where it is empty.
    """

    prepared: Prepared
    name: str


def register(
    session: Session,
    *,
    identifier: str,
    patient_name: str | None,
    accession: str,
    collected_at: datetime | None,
    scans: Sequence[NewScan],
    by: User,
) -> Specimen:
    """Register a CT study with its scans, and its patient where the hospital number is new.

    To be called in `uploads.taken_over`, which stores its files and gives the uploads up, with the series that were not
    chosen.

    Args:
        session: An open session.
        identifier: The patient's hospital number.
        patient_name: The patient's name, or None.
        accession: The number of the study.
        collected_at: When it was scanned, or None.
        scans: The scans, in order.
        by: Who registers it.

    Raises:
        Conflict: The accession number is taken, two scans are the same, or the hospital number belongs to a patient of
            another name.
        InputError: A number is missing, or there is no scan.
    """
    identifier, accession = specimens.checked_numbers(identifier, accession)
    if not scans:
        raise InputError(f"Study {accession} has no scan. Upload at least one.")
    specimens.refuse_if_taken(session, accession)
    patient, patient_events = patients.found_or_new(session, identifier, patient_name)
    specimen = Specimen(
        patient_id=patient.id,
        accession=accession,
        modality="ct",
        state="waiting",
        collected_at=collected_at,
        created_by_id=by.id,
        created_at=now(),
    )
    specimens.insert(session, specimen)
    added = _add(session, specimen, scans, first_position=0)
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
            "modality": "ct",
            "collected_at": collected_at.astimezone(UTC).isoformat() if collected_at else None,
            "state": "waiting",
            "scans": [_told(scan) for scan in added],
        },
    )
    return specimen


def add(session: Session, specimen_id: int, scans: Sequence[NewScan], *, by: User) -> list[CtScan]:
    """Add scans to a CT study that is not signed; in `uploads.taken_over`, as `register`.

    An analysis that was complete or had failed is queued again for the scans that lack a result, with its corrections
    kept; the caller hands `analyses.current` to the queue once the transaction is committed.

    Raises:
        Conflict: The study is signed, being analysed or no CT, or has one of the scans already.
        InputError: There is no scan.
    """
    specimen = analyses.hold_specimen(session, specimen_id)
    if specimen.modality != "ct":
        raise Conflict(f"{specimen.accession} is no CT study. Check the accession number.")
    if not scans:
        raise InputError(f"No scan to add to study {specimen.accession}.")
    refuse_if_signed(specimen)
    refuse_while_running(specimen, "add scans")
    present = pictures.all_of(session, CtScan, specimen.id)
    added = _add(session, specimen, scans, first_position=len(present))
    audit.record(
        session,
        actor=by,
        action="specimen.add_scans",
        entity="specimen",
        entity_id=specimen.id,
        old={"scans": len(present)},
        new={
            "accession": specimen.accession,
            "scans": len(present) + len(added),
            "added": [_told(scan) for scan in added],
        },
    )
    newest = analyses.current(session, specimen.id)
    if newest is not None and newest.state in ("done", "failed"):
        analyses.retry(session, newest.id, by)
    return added


def withdraw(session: Session, scan_id: int, *, by: User, reason: str) -> CtScan:
    """Take a scan out of its study: what was found in it no longer counts, and nothing is deleted.

    Also the last one may go, as one that was uploaded for the wrong patient. An analysis that failed at this scan
    alone is complete without it: the caller offers to retry it.

    Args:
        session: An open session.
        scan_id: The scan.
        by: Who withdraws it.
        reason: Why, in that person's words.

    Raises:
        Conflict: The study is signed, or the scan was withdrawn before.
        InputError: No reason is given.
        NotFound: There is no such scan.
    """
    scan, specimen = pictures.to_withdraw(session, CtScan, scan_id, reason)
    return pictures.withdraw(session, scan, specimen, by=by, reason=reason)


def bring_back(session: Session, scan_id: int, *, by: User) -> CtScan:
    """Let a withdrawn scan count again, with what was found in it and corrected before.

    Where a complete analysis has no result for it, that analysis is queued again for this scan; the caller then hands
    `analyses.current` to the queue once the transaction is committed.

    Raises:
        Conflict: The study is signed or being analysed, or the scan counts already.
        NotFound: There is no such scan.
    """
    return pictures.bring_back(session, CtScan, scan_id, by=by)


def get(session: Session, scan_id: int) -> CtScan:
    """The scan with this id.

    Raises:
        NotFound: There is none.
    """
    return pictures.get(session, CtScan, scan_id)


def of_specimen(session: Session, specimen_id: int) -> list[CtScan]:
    """The scans of a study that count, in their order."""
    return pictures.counting(session, CtScan, specimen_id)


def withdrawn(session: Session, specimen_id: int) -> list[CtScan]:
    """The scans that were withdrawn from a study and not brought back, in their order."""
    return pictures.withdrawn(session, CtScan, specimen_id)


def seen_before(session: Session, image_sha256: str) -> list[str]:
    """Accession numbers of the studies that have this very scan, oldest first, by what `ct_intake` made of it."""
    return pictures.seen_before(session, CtScan.image_id, image_sha256)


def _add(session: Session, specimen: Specimen, new: Sequence[NewScan], *, first_position: int) -> list[CtScan]:
    here = {scan.image.sha256: scan.withdrawn_at for scan in pictures.all_of(session, CtScan, specimen.id)}
    added = []
    for position, one in enumerate(new, start=first_position):
        made = one.prepared
        name = " ".join(one.name.split())[:100] or f"Scan {position + 1}"
        if made.image.sha256 in here:
            remedy = "Leave it out." if here[made.image.sha256] is None else "It was withdrawn: bring it back instead."
            raise Conflict(f"{name} is in study {specimen.accession} already. {remedy}")
        here[made.image.sha256] = None
        scan = CtScan(
            specimen_id=specimen.id,
            position=position,
            file_id=_stored(session, made.file).id,
            image_id=_stored(session, made.image).id,
            name=name,
            format=made.format,
            is_deidentified=made.is_deidentified,
            phase=made.phase or None,
            slices=made.slices,
            height_px=made.height_px,
            width_px=made.width_px,
            spacing_mm=list(made.spacing_mm),
            flags=[{"code": flag.code, "message": flag.message} for flag in made.flags],
            original_uids=dict(made.original_uids) or None,
        )
        session.add(scan)
        added.append(scan)
    session.flush()
    return added


def _stored(session: Session, made: Made) -> StoredFile:
    return specimens.stored_file(session, made.sha256, size=made.size_bytes, media_type=made.media_type)


def _told(scan: CtScan) -> dict[str, object]:
    """What the trail keeps of a scan."""
    return {
        "name": scan.name,
        "sha256": scan.file.sha256,
        "image_sha256": scan.image.sha256,
        "phase": scan.phase,
        "slices": scan.slices,
        "is_deidentified": scan.is_deidentified,
    }
