"""Slides: a patient's kidney tissue under one accession number, scanned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy.orm import Session

from db import analyses, audit, glomeruli, patients, pictures, specimens
from db.engine import now
from db.models import ScaleSource, Slide, Species, Specimen, Stain, Upload, User
from db.states import refuse_if_signed, refuse_while_running
from db.uploads import Checked
from renalcore.errors import Conflict, InputError

SMALLEST_UM_PER_PX, LARGEST_UM_PER_PX = 0.02, 50.0
"""What a person may give as the scale of a slide: an immersion objective, and a photograph of the whole slide."""

MEDIA_TYPE = "application/octet-stream"  # vendors' formats have no registered type, and browsers never get the file


@dataclass(frozen=True, slots=True, kw_only=True)
class NewSlide:
    """What a technologist says about one complete upload.

    Attributes:
        upload: Which one.
        name: What the laboratory calls the slide, such as its block; numbered where it is empty.
        stain: One of `models.STAINS`.
        species: One of `models.SPECIES`.
        um_per_px: Scale of the finest level where the file does not say it; None where nobody knows.
    """

    upload: Upload
    name: str
    stain: Stain
    species: Species
    um_per_px: float | None


def register(
    session: Session,
    *,
    identifier: str,
    patient_name: str | None,
    accession: str,
    collected_at: datetime | None,
    slides: Sequence[NewSlide],
    by: User,
) -> Specimen:
    """Register a specimen of histology with its slides, and its patient where the hospital number is new.

    To be called in `uploads.taken_over`, which stores its files and gives the uploads up.

    Args:
        session: An open session.
        identifier: The patient's hospital number.
        patient_name: The patient's name, or None.
        accession: The laboratory's number of the specimen.
        collected_at: When the tissue was taken, or None.
        slides: The slides, in order.
        by: Who registers it.

    Raises:
        Conflict: The accession number is taken, two slides are the same, or the hospital number belongs
            to a patient of another name.
        InputError: A number is missing, or a scale is none.
    """
    identifier, accession = specimens.checked_numbers(identifier, accession)
    if not slides:
        raise InputError(f"Specimen {accession} has no slide. Upload at least one.")
    specimens.refuse_if_taken(session, accession)
    patient, patient_events = patients.found_or_new(session, identifier, patient_name)
    specimen = Specimen(
        patient_id=patient.id,
        accession=accession,
        modality="histology",
        state="waiting",
        collected_at=collected_at,
        created_by_id=by.id,
        created_at=now(),
    )
    specimens.insert(session, specimen)
    added = _add(session, specimen, slides, first_position=0)
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
            "modality": "histology",
            "collected_at": collected_at.astimezone(UTC).isoformat() if collected_at else None,
            "state": "waiting",
            "slides": [_told(slide) for slide in added],
        },
    )
    return specimen


def add(session: Session, specimen_id: int, slides: Sequence[NewSlide], *, by: User) -> list[Slide]:
    """Add slides to a specimen of histology that is not signed; in `uploads.taken_over`, as `register`.

    An analysis that was complete or had failed is queued again for the slides that lack a result, with its corrections
    kept; the caller hands `analyses.current` to the queue once the transaction is committed.

    Raises:
        Conflict: The specimen is signed, being analysed or of another kind, or has one of the slides already.
        InputError: There is no slide, or a scale is none.
    """
    specimen = analyses.hold_specimen(session, specimen_id)
    if specimen.modality != "histology":
        raise Conflict(f"Specimen {specimen.accession} is no kidney tissue. Check the accession number.")
    if not slides:
        raise InputError(f"No slide to add to specimen {specimen.accession}.")
    refuse_if_signed(specimen)
    refuse_while_running(specimen, "add slides")
    present = pictures.all_of(session, Slide, specimen.id)
    added = _add(session, specimen, slides, first_position=len(present))
    audit.record(
        session,
        actor=by,
        action="specimen.add_slides",
        entity="specimen",
        entity_id=specimen.id,
        old={"slides": len(present)},
        new={
            "accession": specimen.accession,
            "slides": len(present) + len(added),
            "added": [_told(slide) for slide in added],
        },
    )
    newest = analyses.current(session, specimen.id)
    if newest is not None and newest.state in ("done", "failed"):
        analyses.retry(session, newest.id, by)
    return added


def withdraw(session: Session, slide_id: int, *, by: User, reason: str) -> Slide:
    """Take a slide out of its specimen: what was found on it no longer counts, and nothing is deleted.

    Also the last one may go, as one that was uploaded for the wrong patient. An analysis that failed at this slide
    alone is complete without it: the caller offers to retry it.

    Args:
        session: An open session.
        slide_id: The slide.
        by: Who withdraws it.
        reason: Why, in that person's words.

    Raises:
        Conflict: The specimen is signed, or the slide was withdrawn before.
        InputError: No reason is given.
        NotFound: There is no such slide.
    """
    slide, specimen = pictures.to_withdraw(session, Slide, slide_id, reason)
    return pictures.withdraw(session, slide, specimen, by=by, reason=reason)


def bring_back(session: Session, slide_id: int, *, by: User) -> Slide:
    """Let a withdrawn slide count again, with what was found on it and corrected before.

    Where a complete analysis has no result for it, that analysis is queued again for this slide; the caller then hands
    `analyses.current` to the queue once the transaction is committed.

    Raises:
        Conflict: The specimen is signed or being analysed, or the slide counts already.
        NotFound: There is no such slide.
    """
    return pictures.bring_back(session, Slide, slide_id, by=by)


def set_scale(session: Session, slide_id: int, um_per_px: float | None, *, by: User) -> Slide:
    """Say the scale of a slide whose file does not, correct it, or take it back.

    While the slide is searched its search begins anew; a result stands, see `slide_searches`. Limits of diameter, which
    hold for all slides, are taken away where this is the first slide with a scale, or was the last one.

    Raises:
        Conflict: The specimen is signed, or the file itself says the scale.
        InputError: It is no scale.
        NotFound: There is no such slide.
    """
    slide, specimen = pictures.hold(session, Slide, slide_id)
    refuse_if_signed(specimen)
    if slide.scale_from == "file":
        raise Conflict(f"The file of {slide.name} says its scale, so nobody has to.")
    before = slide.um_per_px
    slide.um_per_px = _checked_scale(um_per_px)
    slide.scale_from = None if um_per_px is None else "person"
    session.flush()
    audit.record(
        session,
        actor=by,
        action="slide.set_scale",
        entity="slide",
        entity_id=slide.id,
        old={"um_per_px": before},
        new={"accession": specimen.accession, "slide": slide.name, "um_per_px": slide.um_per_px},
    )
    others = (other for other in of_specimen(session, specimen.id) if other.id != slide.id)
    if (before is None) != (um_per_px is None) and all(other.um_per_px is None for other in others):
        glomeruli.forget_diameters(session, specimen, by=by)
    return slide


def get(session: Session, slide_id: int) -> Slide:
    """The slide with this id.

    Raises:
        NotFound: There is none.
    """
    return pictures.get(session, Slide, slide_id)


def of_specimen(session: Session, specimen_id: int) -> list[Slide]:
    """The slides of a specimen that count, in their order."""
    return pictures.counting(session, Slide, specimen_id)


def withdrawn(session: Session, specimen_id: int) -> list[Slide]:
    """The slides that were withdrawn from a specimen and not brought back, in their order."""
    return pictures.withdrawn(session, Slide, specimen_id)


def seen_before(session: Session, sha256: str) -> list[str]:
    """Accession numbers of the specimens that have this very file, oldest first."""
    return pictures.seen_before(session, Slide.file_id, sha256)


def _checked_scale(um_per_px: float | None) -> float | None:
    if um_per_px is not None and not SMALLEST_UM_PER_PX <= um_per_px <= LARGEST_UM_PER_PX:  # also refuses nan
        raise InputError(
            f"The scale of a slide lies between {SMALLEST_UM_PER_PX:g} and {LARGEST_UM_PER_PX:g} µm per pixel "
            "(0.25 at 40x, 0.5 at 20x). Correct it, or leave it unknown."
        )
    return um_per_px


def _scale(new: NewSlide, found: Checked) -> tuple[float | None, ScaleSource | None]:
    if found.um_per_px is not None:
        return found.um_per_px, "file"
    um_per_px = _checked_scale(new.um_per_px)
    return um_per_px, None if um_per_px is None else "person"


def _add(session: Session, specimen: Specimen, new: Sequence[NewSlide], *, first_position: int) -> list[Slide]:
    here = {slide.file.sha256: slide.withdrawn_at for slide in pictures.all_of(session, Slide, specimen.id)}
    added = []
    for position, one in enumerate(new, start=first_position):
        found, sha256 = Checked.of(one.upload), one.upload.sha256 or ""
        if sha256 in here:
            remedy = "Leave it out." if here[sha256] is None else "It was withdrawn: bring it back instead."
            raise Conflict(f"Slide {position + 1} is in specimen {specimen.accession} already. {remedy}")
        here[sha256] = None
        um_per_px, scale_from = _scale(one, found)
        size = found.stored_bytes or one.upload.size_bytes
        file = specimens.stored_file(session, sha256, size=size, media_type=MEDIA_TYPE)
        slide = Slide(
            specimen_id=specimen.id,
            position=position,
            file_id=file.id,
            name=" ".join(one.name.split())[:100] or f"Slide {position + 1}",
            format=found.format,
            width_px=found.width_px,
            height_px=found.height_px,
            um_per_px=um_per_px,
            scale_from=scale_from,
            stain=one.stain,
            species=one.species,
            objective=found.objective,
            flags=[{"code": flag.code, "message": flag.message} for flag in found.flags],
            taken_from=one.upload.taken_from,
        )
        session.add(slide)
        session.flush()
        added.append(slide)
    return added


def _told(slide: Slide) -> dict[str, object]:
    """What the trail keeps of a slide."""
    return {
        "name": slide.name,
        "sha256": slide.file.sha256,
        "stain": slide.stain,
        "species": slide.species,
        "um_per_px": slide.um_per_px,
        "scale_from": slide.scale_from,
    }
