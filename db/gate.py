"""The quality gate: fields whose counts are withheld, and the reviewer who counts one all the same.

Which flags withhold a field is told in `renalcore.io.quality.WITHHELD`, and nowhere else. A withheld field keeps its
findings and can be corrected; it is left out of means, grades and exports until a reviewer accepts it.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from db import analyses, audit, pictures
from db.engine import now
from db.models import FieldResult, Specimen, SpecimenField, User
from db.states import refuse_if_signed
from renalcore.errors import Conflict, InputError
from renalcore.io import quality


def flags(field: SpecimenField, result: FieldResult | None) -> list[tuple[str, str]]:
    """Code and message of each doubt about a field, those of its search last."""
    found = [*field.flags, *((result.flags or ()) if result is not None else ())]
    return [(str(flag["code"]), str(flag["message"])) for flag in found]


def reason(field: SpecimenField, result: FieldResult | None) -> str:
    """Why the gate withholds a field, in words; empty where it does not. Acceptance is not asked."""
    return quality.withheld(code for code, _ in flags(field, result))


def results(session: Session, analysis_id: int) -> dict[int, FieldResult]:
    """The results of an analysis by field."""
    found = session.scalars(select(FieldResult).where(FieldResult.analysis_id == analysis_id))
    return {result.field_id: result for result in found}


def accept_field(session: Session, field_id: int, *, by: User, why: str) -> SpecimenField:
    """A reviewer counts a field in spite of its flags; the signature keeps that it was so.

    Raises:
        Conflict: `by` is no reviewer, the specimen is signed, or the field is not withheld.
        InputError: Nobody says why.
        NotFound: There is no such field.
    """
    field, specimen, what = _held(session, field_id, by)
    if not why.strip():
        raise InputError(f"Say why {field.name} can be counted.")
    if not what or field.accepted_at is not None or field.withdrawn_at is not None:
        raise Conflict(f"{field.name} is not withheld. Reload the page.")
    field.accepted_at = now()
    _record(session, "specimen.accept_field", specimen, field, what, by=by, why=why.strip())
    return field


def withhold_field(session: Session, field_id: int, *, by: User) -> SpecimenField:
    """A reviewer takes an acceptance back: the field is withheld again.

    Raises:
        Conflict: `by` is no reviewer, the specimen is signed, or the field was not accepted.
        NotFound: There is no such field.
    """
    field, specimen, what = _held(session, field_id, by)
    if field.accepted_at is None:
        raise Conflict(f"{field.name} was not accepted. Reload the page.")
    field.accepted_at = None
    _record(session, "specimen.withhold_field", specimen, field, what, by=by, why=None)
    return field


def _held(session: Session, field_id: int, by: User) -> tuple[SpecimenField, Specimen, str]:
    """The field and its specimen, locked, and why the gate withholds it."""
    if by.role != "reviewer" or not by.is_active:
        raise Conflict("Only a reviewer may decide whether a withheld field counts. Ask a reviewer.")
    field, specimen = pictures.hold(session, SpecimenField, field_id)
    refuse_if_signed(specimen)
    current = analyses.current(session, specimen.id)
    searched = results(session, current.id) if current is not None else {}
    return field, specimen, reason(field, searched.get(field.id))


def _record(
    session: Session, action: str, specimen: Specimen, field: SpecimenField, what: str, *, by: User, why: str | None
) -> None:
    session.flush()
    counts = field.accepted_at is not None
    audit.record(
        session,
        actor=by,
        action=action,
        entity="specimen",
        entity_id=specimen.id,
        old={"counts": not counts},
        new={
            "accession": specimen.accession,
            "counts": counts,
            "in_spite_of": what,
            "field_id": field.id,
            "name": field.name,
            "sha256": field.file.sha256,
        },
        reason=why,
    )


def in_words(withheld: Sequence[tuple[int, str]]) -> str:
    """Withheld fields in one line, each by its place in the specimen, counted from 1, and the reason."""
    return "; ".join(f"field {place} withheld: {what}" for place, what in withheld)
