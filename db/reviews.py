"""Review: people's corrections over a model's findings, and the signature under the result.

Nothing is ever overwritten. A correction is a new row about an object, undoing is a new row too, and a signature keeps
the report as it stood. After signing nothing changes until a reviewer reopens the specimen with a reason.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from db import analyses, audit, ct_reports, reports, slide_reports
from db.corrections import last_action, restorable
from db.engine import now
from db.models import (
    Analysis,
    Correction,
    CorrectionAction,
    Modality,
    SignOff,
    SignOffKind,
    Specimen,
    SpecimenField,
    User,
)
from db.objects import (
    Box,
    MinScore,
    ReviewedObject,
    checked_box,
    checked_min_score,
    corrections_by_key,
    objects,
)
from db.states import in_words, move_specimen, named
from renalcore import taxonomy
from renalcore.errors import Conflict, InputError, NotFound

__all__ = [
    "HistoryEntry",
    "ReviewedObject",
    "add",
    "confirm",
    "fingerprint",
    "history",
    "objects",
    "reclassify",
    "remove",
    "reopen",
    "restore",
    "set_threshold",
    "sign",
    "undo_last",
]


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One step in the life of a report.

    Attributes:
        kind: `sign`, `reopen` or `amend`.
        by: Full name of the reviewer.
        at: When, UTC.
        meaning: What the signature means; empty for a reopening.
        reason: Why it was reopened or amended, else None.
        sign_off_id: The signature; None for a reopening.
        report: The report as it was signed; None for a reopening.
    """

    kind: SignOffKind
    by: str
    at: datetime
    meaning: str
    reason: str | None
    sign_off_id: int | None
    report: dict[str, Any] | None


def confirm(session: Session, analysis_id: int, keys: Sequence[str], *, by: User) -> int:
    """A person agrees with the model: these objects count whatever their score.

    Returns:
        How many objects changed; those that a person had decided on already stay as they are.

    Raises:
        Conflict: The specimen is signed or being analysed.
        NotFound: An object is none of this analysis.
    """
    return _correct(
        session, analysis_id, keys, by=by, action="confirm", applies=lambda item: item.status in ("model", "removed")
    )


def remove(session: Session, analysis_id: int, keys: Sequence[str], *, by: User) -> int:
    """These objects are not there: they no longer count. Returns how many changed; raises as `confirm` does."""
    return _correct(session, analysis_id, keys, by=by, action="remove", applies=lambda item: item.status != "removed")


def restore(session: Session, analysis_id: int, keys: Sequence[str], *, by: User) -> int:
    """Take back the last correction that stands on each of these objects, except that it was added.

    Returns how many changed; raises as `confirm` does.
    """
    return _correct(session, analysis_id, keys, by=by, action="restore", applies=lambda _item: True)


def reclassify(session: Session, analysis_id: int, keys: Sequence[str], *, by: User, class_name: str) -> int:
    """These objects are of another class; where it is the class they have, they are confirmed.

    Returns how many changed; raises as `confirm` does, and `UnknownName` where nobody knows the class.
    """
    taxonomy.class_id(class_name)
    return _correct(
        session,
        analysis_id,
        keys,
        by=by,
        action="reclassify",
        applies=lambda item: item.class_name != class_name or item.status in ("model", "removed"),
        class_name=class_name,
    )


def add(session: Session, analysis_id: int, field_id: int, class_name: str, box: Sequence[float], *, by: User) -> str:
    """A person draws an object that the model missed.

    Args:
        session: An open session.
        analysis_id: The analysis.
        field_id: A field of its specimen.
        class_name: What it is.
        box: Two opposite corners `(x1, y1, x2, y2)` in px of the upright field; what lies outside is cut off.
        by: Who draws it.

    Returns:
        The key of the new object.

    Raises:
        Conflict: The specimen is signed or being analysed.
        InputError: The box has no area inside the field.
        NotFound: The field is none of this specimen, or was withdrawn.
        UnknownName: Nobody knows the class.
    """
    taxonomy.class_id(class_name)
    analysis, specimen = analyses.hold_for_review(session, analysis_id)
    field = session.get(SpecimenField, field_id)
    if field is None or field.specimen_id != specimen.id:
        raise NotFound(f"Field {field_id} does not belong to specimen {specimen.accession}.")
    if field.withdrawn_at is not None:
        raise NotFound(f"{field.name} was withdrawn from specimen {specimen.accession}. Reload the page.")
    inside = checked_box(box, width_px=field.width_px, height_px=field.height_px)
    correction = _row(analysis, field_id, "add", by=by, at=now(), class_name=class_name, box=inside)
    session.add(correction)
    session.flush()
    key = f"c{correction.id}"
    audit.record(
        session,
        actor=by,
        action="object.add",
        entity="analysis",
        entity_id=analysis.id,
        new={"accession": specimen.accession, "key": key, "field_id": field_id, "class": class_name, "box": inside},
    )
    return key


def undo_last(session: Session, analysis_id: int, by: User) -> int:
    """Take back the last thing that this person did in this review, whether to one object or to many at once.

    Returns:
        How many objects changed; 0 where there is nothing left to undo.

    Raises:
        Conflict: The specimen is signed or being analysed, or another person has corrected the same objects since.
    """
    analysis, specimen = analyses.hold_for_review(session, analysis_id)
    last = last_action(corrections_by_key(session, analysis_id), by)
    if not last:
        return 0
    before = {item.key: item for item in objects(session, analysis_id)}
    at = now()
    session.add_all(_row(analysis, row.field_id, "restore", by=by, at=at, key=key) for key, row in last.items())
    session.flush()
    _record(session, analysis, specimen, "undo", before, sorted(last), by=by)
    return len(last)


def set_threshold(session: Session, analysis_id: int, min_score: MinScore, by: User) -> None:
    """Set the lowest score at which the model's word counts in the report.

    Args:
        session: An open session.
        analysis_id: The analysis.
        min_score: One number for all classes, or numbers by class name with `default` for the others.
        by: Who sets it.

    Raises:
        Conflict: The specimen is signed or being analysed.
        InputError: A number is not within 0..1.
        UnknownName: Nobody knows a class.
    """
    checked = checked_min_score(min_score)
    analysis, specimen = analyses.hold_for_review(session, analysis_id)
    before = analysis.options.get("min_score")
    if before == checked:
        return
    analysis.options = {**analysis.options, "min_score": checked}
    session.flush()
    audit.record(
        session,
        actor=by,
        action="analysis.set_threshold",
        entity="analysis",
        entity_id=analysis.id,
        old={"min_score": before},
        new={"accession": specimen.accession, "min_score": checked},
    )


def fingerprint(session: Session, specimen_id: int) -> str:
    """Of the report as a signature would keep it now, and of whose it is: another one when any of that changes."""
    specimen = session.get_one(Specimen, specimen_id)
    return _fingerprint(specimen, _report(session, specimen)[0])


def sign(session: Session, specimen_id: int, *, by: User, meaning: str, seen: str | None = None) -> SignOff:
    """A reviewer signs the report as it stands; what nobody touched is signed as the model found it.

    Args:
        session: An open session.
        specimen_id: The specimen.
        by: A reviewer.
        meaning: What the signature means, such as "Reviewed and released".
        seen: The `fingerprint` of what the reviewer has read; None where it was read in this transaction.

    Returns:
        The signature with its own copy of the report; an amendment where the specimen was signed before.

    Raises:
        Conflict: `by` is no reviewer, or the specimen is signed already, being analysed, lacks results, or has changed
            since it was read.
        InputError: No meaning is given.
    """
    _refuse_unless_reviewer(by, "sign")
    if not meaning.strip():
        raise InputError("Say what the signature means.")
    specimen = analyses.hold_specimen(session, specimen_id)
    analysis = analyses.current(session, specimen_id)
    if specimen.state == "signed":
        raise Conflict(f"{named(specimen, begins=True)} is signed already.")
    if specimen.state != "needs_review" or analysis is None or analysis.state != "done":
        raise Conflict(
            f"{named(specimen, begins=True)} is {in_words(specimen.state)}; "
            "it can be signed once its analysis is complete."
        )
    without, total = analyses.lacking(session, analysis.id)
    what = analyses.pictures(specimen.modality)
    if not total:
        raise Conflict(f"All {what} of {named(specimen)} are withdrawn. Bring one back before signing.")
    if without:
        raise Conflict(
            f"{without} of {total} {what} of {named(specimen)} have no result yet. Analyse them before signing."
        )
    earlier = _sign_offs(session, specimen_id)
    kept, told = _report(session, specimen)
    if seen is not None and seen != _fingerprint(specimen, kept):
        raise Conflict("Somebody changed this report while you read it. Read it again, then sign.")
    sign_off = SignOff(
        specimen_id=specimen_id,
        analysis_id=analysis.id,
        kind="amend" if earlier else "sign",
        by_id=by.id,
        at=now(),
        meaning=meaning.strip(),
        reason=earlier[-1].reason if earlier else None,
        report=kept,
    )
    session.add(sign_off)
    move_specimen(specimen, "signed")
    session.flush()
    audit.record(
        session,
        actor=by,
        action=f"specimen.{sign_off.kind}",
        entity="specimen",
        entity_id=specimen_id,
        old={"state": "needs_review"},
        new={
            "state": "signed",
            "accession": specimen.accession,
            "sign_off_id": sign_off.id,
            "meaning": sign_off.meaning,
            "report": told,
        },
        reason=sign_off.reason,
    )
    return sign_off


def reopen(session: Session, specimen_id: int, *, by: User, reason: str) -> Specimen:
    """A reviewer takes a signed specimen up again; the signature and its report stay as they are.

    Raises:
        Conflict: `by` is no reviewer, or the specimen is not signed.
        InputError: No reason is given.
    """
    _refuse_unless_reviewer(by, "reopen a signed specimen")
    if not reason.strip():
        raise InputError("Say why the signed report must change.")
    specimen = analyses.hold_specimen(session, specimen_id)
    if specimen.state != "signed":
        raise Conflict(f"{named(specimen, begins=True)} is {in_words(specimen.state)}, not signed: nothing to reopen.")
    signed = _sign_offs(session, specimen_id)[-1]
    session.add(
        SignOff(
            specimen_id=specimen_id,
            analysis_id=signed.analysis_id,
            kind="reopen",
            by_id=by.id,
            at=now(),
            meaning="",
            reason=reason.strip(),
            report={},
        )
    )
    move_specimen(specimen, "needs_review")
    session.flush()
    audit.record(
        session,
        actor=by,
        action="specimen.reopen",
        entity="specimen",
        entity_id=specimen_id,
        old={"state": "signed", "sign_off_id": signed.id},
        new={"state": "needs_review", "accession": specimen.accession},
        reason=reason.strip(),
    )
    return specimen


def history(session: Session, specimen_id: int) -> list[HistoryEntry]:
    """Every signature, reopening and amendment of a specimen, oldest first."""
    rows = session.execute(
        select(SignOff, User.full_name, User.username)
        .join(User, User.id == SignOff.by_id)
        .where(SignOff.specimen_id == specimen_id)
        .order_by(SignOff.id)
    )
    return [
        HistoryEntry(
            kind=row.kind,
            by=full_name or username,
            at=row.at,
            meaning=row.meaning,
            reason=row.reason,
            sign_off_id=None if row.kind == "reopen" else row.id,
            report=None if row.kind == "reopen" else row.report,
        )
        for row, full_name, username in rows
    ]


def _sign_offs(session: Session, specimen_id: int) -> list[SignOff]:
    return list(session.scalars(select(SignOff).where(SignOff.specimen_id == specimen_id).order_by(SignOff.id)))


_KEPT: Mapping[Modality, Callable[[Session, int], dict[str, Any]]] = MappingProxyType(
    {
        "sediment": lambda session, specimen_id: reports.to_json(reports.report(session, specimen_id)),
        "histology": lambda session, specimen_id: slide_reports.to_json(slide_reports.report(session, specimen_id)),
        "ct": lambda session, specimen_id: ct_reports.to_json(ct_reports.report(session, specimen_id)),
    }
)
"""What a signature keeps of the report of a specimen of each kind."""


def _report(session: Session, specimen: Specimen) -> tuple[dict[str, Any], dict[str, Any]]:
    """The report of a specimen as its signature keeps it, and as the audit trail tells it."""
    kept = _KEPT[specimen.modality](session, specimen.id)
    return kept, slide_reports.without_outlines(kept) if specimen.modality == "histology" else kept


def _fingerprint(specimen: Specimen, kept: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps([specimen.patient_id, kept], sort_keys=True).encode()).hexdigest()


def _refuse_unless_reviewer(user: User, what: str) -> None:
    if user.role != "reviewer" or not user.is_active:
        raise Conflict(f"Only a reviewer may {what}. Ask a reviewer, or ask an admin for that role.")


def _correct(
    session: Session,
    analysis_id: int,
    keys: Sequence[str],
    *,
    by: User,
    action: CorrectionAction,
    applies: Callable[[ReviewedObject], bool],
    class_name: str | None = None,
) -> int:
    analysis, specimen = analyses.hold_for_review(session, analysis_id)
    before = {item.key: item for item in objects(session, analysis_id)}
    unknown = [key for key in keys if key not in before]
    if unknown:
        raise NotFound(
            f"No object {', '.join(unknown)} in the review of specimen {specimen.accession}. Reload the page."
        )
    changing = [before[key] for key in dict.fromkeys(keys) if applies(before[key])]
    if action == "restore":
        histories = corrections_by_key(session, analysis_id)
        changing = [item for item in changing if restorable(histories, item.key)]
    if not changing:
        return 0
    at = now()
    session.add_all(
        _row(analysis, item.field_id, action, by=by, at=at, key=item.key, class_name=class_name) for item in changing
    )
    session.flush()
    _record(session, analysis, specimen, action, before, [item.key for item in changing], by=by)
    return len(changing)


def _row(
    analysis: Analysis,
    field_id: int,
    action: CorrectionAction,
    *,
    by: User,
    at: datetime,
    key: str | None = None,
    class_name: str | None = None,
    box: Box | None = None,
) -> Correction:
    edges: tuple[float | None, ...] = box if box is not None else (None, None, None, None)
    return Correction(
        analysis_id=analysis.id,
        field_id=field_id,
        finding_id=int(key[1:]) if key and key.startswith("f") else None,
        added_id=int(key[1:]) if key and key.startswith("c") else None,
        action=action,
        class_name=class_name,
        x1=edges[0],
        y1=edges[1],
        x2=edges[2],
        y2=edges[3],
        by_id=by.id,
        at=at,
    )


def _record(
    session: Session,
    analysis: Analysis,
    specimen: Specimen,
    action: str,
    before: dict[str, ReviewedObject],
    keys: Sequence[str],
    *,
    by: User,
) -> None:
    after = {item.key: item for item in objects(session, analysis.id)}
    audit.record(
        session,
        actor=by,
        action=f"object.{action}",
        entity="analysis",
        entity_id=analysis.id,
        old={"objects": {key: _words(before.get(key)) for key in keys}},
        new={"accession": specimen.accession, "objects": {key: _words(after.get(key)) for key in keys}},
    )


def _words(item: ReviewedObject | None) -> dict[str, str] | None:
    return {"class": item.class_name, "status": item.status} if item else None  # None: its drawing was undone
