"""Pictures of a specimen, whether fields, slides or scans: which count, how one is withdrawn and brought back.

A withdrawn picture keeps what was found in it and what people corrected: nothing is deleted.
"""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import InstrumentedAttribute, Session

from db import analyses, audit
from db.analyses import Picture
from db.engine import now
from db.models import CtScan, Slide, Specimen, SpecimenField, StoredFile, User
from db.states import refuse_if_signed, refuse_while_running
from renalcore.errors import Conflict, InputError, NotFound


def get(session: Session, table: type[Picture], picture_id: int) -> Picture:
    """The picture with this id.

    Raises:
        NotFound: There is none.
    """
    picture = session.get(table, picture_id)
    if picture is None:
        raise NotFound(f"There is no {_kind(table)} {picture_id}.")
    return picture


def hold(session: Session, table: type[Picture], picture_id: int) -> tuple[Picture, Specimen]:
    """A picture and its specimen, read afresh and locked until the transaction ends.

    Raises:
        NotFound: There is no such picture.
    """
    picture = get(session, table, picture_id)
    specimen = analyses.hold_specimen(session, picture.specimen_id)
    session.refresh(picture)
    return picture, specimen


def all_of(session: Session, table: type[Picture], specimen_id: int) -> list[Picture]:
    """The pictures of a specimen, withdrawn ones included, in their order."""
    return list(session.scalars(select(table).where(table.specimen_id == specimen_id).order_by(table.position)))


def counting(session: Session, table: type[Picture], specimen_id: int) -> list[Picture]:
    """The pictures of a specimen that count, in their order."""
    return [picture for picture in all_of(session, table, specimen_id) if picture.withdrawn_at is None]


def withdrawn(session: Session, table: type[Picture], specimen_id: int) -> list[Picture]:
    """The pictures that were withdrawn from a specimen and not brought back, in their order."""
    return [picture for picture in all_of(session, table, specimen_id) if picture.withdrawn_at is not None]


def seen_before(session: Session, file: InstrumentedAttribute[int], sha256: str) -> list[str]:
    """Accession numbers of the specimens that have this very picture, oldest first.

    Args:
        session: An open session.
        file: The column that names the file by which two pictures are the same, such as `Slide.file_id`.
        sha256: Digest of that file.
    """
    table = file.class_
    return list(
        session.scalars(
            select(Specimen.accession)
            .join(table, table.specimen_id == Specimen.id)
            .join(StoredFile, StoredFile.id == file)
            .where(StoredFile.sha256 == sha256, table.withdrawn_at.is_(None))
            .order_by(Specimen.id)
        )
    )


def to_withdraw(session: Session, table: type[Picture], picture_id: int, reason: str) -> tuple[Picture, Specimen]:
    """A picture that may be withdrawn for this reason, and its specimen, as `hold` gives them.

    Raises:
        Conflict: The specimen is signed, or the picture was withdrawn before.
        InputError: No reason is given.
        NotFound: There is no such picture.
    """
    picture, specimen = hold(session, table, picture_id)
    if not reason.strip():
        raise InputError(f"Say why {picture.name} is withdrawn.")
    refuse_if_signed(specimen)
    if picture.withdrawn_at is not None:
        raise Conflict(f"{picture.name} was withdrawn already. Reload the page.")
    return picture, specimen


def withdraw(session: Session, picture: Picture, specimen: Specimen, *, by: User, reason: str) -> Picture:
    """Withdraw what `to_withdraw` gave."""
    picture.withdrawn_at = now()
    _record(session, "withdraw", picture, specimen, by=by, reason=reason.strip())
    return picture


def bring_back(session: Session, table: type[Picture], picture_id: int, *, by: User) -> Picture:
    """Let a withdrawn picture count again, with what was found in it and corrected before.

    Where a complete analysis has no result for it, that analysis is queued again for this picture; the caller then
    hands `analyses.current` to the queue once the transaction is committed.

    Raises:
        Conflict: The specimen is signed or being analysed, or the picture counts already.
        NotFound: There is no such picture.
    """
    picture, specimen = hold(session, table, picture_id)
    refuse_if_signed(specimen)
    refuse_while_running(specimen, f"bring {picture.name} back")
    if picture.withdrawn_at is None:
        raise Conflict(f"{picture.name} is not withdrawn. Reload the page.")
    picture.withdrawn_at = None
    _record(session, "bring_back", picture, specimen, by=by)
    newest = analyses.current(session, specimen.id)
    if newest is not None and newest.state == "done" and analyses.lacking(session, newest.id).without:
        analyses.retry(session, newest.id, by)
    return picture


def _record(
    session: Session, action: str, picture: Picture, specimen: Specimen, *, by: User, reason: str | None = None
) -> None:
    """Tell the audit trail that a picture was withdrawn or brought back."""
    session.flush()
    table = type(picture)
    kind, standing = _kind(table), len(counting(session, table, specimen.id))
    audit.record(
        session,
        actor=by,
        action=f"specimen.{action}_{kind}",
        entity="specimen",
        entity_id=specimen.id,
        old={f"{kind}s": standing + (1 if picture.withdrawn_at is not None else -1)},
        new={
            "accession": specimen.accession,
            f"{kind}s": standing,
            f"{kind}_id": picture.id,
            "name": picture.name,
            "sha256": picture.file.sha256,
        },
        reason=reason,
    )


def _kind(table: type[SpecimenField | Slide | CtScan]) -> str:
    return {SpecimenField: "field", Slide: "slide", CtScan: "scan"}[table]
