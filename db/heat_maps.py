"""Heat maps on demand: where the evidence lies for one finding, or for all findings of a class in a field.

A row says what was asked for, a worker draws it once, and the picture lies in the file store like any other, so that
a backup holds both. What a person added or reclassified has none: the model did not say it. Of a withdrawn field no
map is handed out; what was drawn before is there again once the field is brought back.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from db import specimens
from db.engine import now
from db.models import Finding, HeatMap, HeatMapState, SpecimenField
from renalcore.errors import NotFound


@dataclass(frozen=True, slots=True)
class Subject:
    """What a map is of: one finding in a field, or all that an analysis found of a class in it.

    Attributes:
        field_id: The field.
        finding_id: The finding; then neither `analysis_id` nor `class_name` is given.
        analysis_id: The analysis.
        class_name: The class.
    """

    field_id: int
    finding_id: int | None = None
    analysis_id: int | None = None
    class_name: str | None = None


def find(session: Session, subject: Subject) -> HeatMap | None:
    """The map where it was asked for before.

    Raises:
        NotFound: The field is not there or was withdrawn, or the model found no such thing in it.
    """
    analysis_id = _analysis_of(session, subject)
    asked = select(HeatMap).where(HeatMap.field_id == subject.field_id, HeatMap.analysis_id == analysis_id)
    if subject.finding_id is not None:
        return session.scalars(asked.where(HeatMap.finding_id == subject.finding_id)).one_or_none()
    return session.scalars(asked.where(HeatMap.class_name == subject.class_name)).one_or_none()


def ask(session: Session, subject: Subject) -> HeatMap:
    """Ask for a map, or once more for one that failed; the caller hands it to the queue once this is committed.

    Raises:
        NotFound: As `find` does.
    """
    known = find(session, subject)
    if known is None:
        known = HeatMap(
            analysis_id=_analysis_of(session, subject),
            field_id=subject.field_id,
            finding_id=subject.finding_id,
            class_name=subject.class_name,
            state="waiting",
        )
        try:
            with session.begin_nested():
                session.add(known)
        except IntegrityError:  # somebody else asked at this very moment
            known = find(session, subject)
            assert known is not None
    held = hold(session, known.id)
    if held.state == "failed":
        held.state, held.message, held.workflow_id, held.finished_at = "waiting", None, None, None
    return held


def hold(session: Session, heat_map_id: int) -> HeatMap:
    """A heat map, read afresh and locked until the transaction ends.

    Raises:
        NotFound: There is none.
    """
    found = session.scalars(
        select(HeatMap).where(HeatMap.id == heat_map_id).with_for_update().execution_options(populate_existing=True)
    ).one_or_none()
    if found is None:
        raise NotFound(f"There is no heat map {heat_map_id}.")
    return found


def findings(session: Session, heat_map: HeatMap) -> list[Finding]:
    """What the map is of: its finding, or the model's findings of its class in its field."""
    if heat_map.finding_id is not None:
        return [session.get_one(Finding, heat_map.finding_id)]
    return list(
        session.scalars(
            select(Finding)
            .where(
                Finding.analysis_id == heat_map.analysis_id,
                Finding.field_id == heat_map.field_id,
                Finding.class_name == heat_map.class_name,
            )
            .order_by(Finding.id)
        )
    )


def store(session: Session, heat_map_id: int, *, sha256: str, size: int) -> bool:
    """Keep the picture, a PNG in the file store.

    Returns:
        Whether it was waited for; False where another worker came first.
    """
    waiting = hold(session, heat_map_id)
    if waiting.state != "waiting":
        return False
    waiting.file_id = specimens.stored_file(session, sha256, size=size, media_type="image/png").id
    waiting.state, waiting.finished_at = "done", now()
    return True


def store_empty(session: Session, heat_map_id: int) -> bool:
    """Keep that the map has no heat anywhere; returns whether it was waited for."""
    return _ended(session, heat_map_id, "empty", None)


def fail(session: Session, heat_map_id: int, message: str) -> bool:
    """Keep what went wrong, in words for whoever asked; returns whether the map was waited for."""
    return _ended(session, heat_map_id, "failed", message)


def _ended(session: Session, heat_map_id: int, state: HeatMapState, message: str | None) -> bool:
    waiting = hold(session, heat_map_id)
    if waiting.state != "waiting":
        return False
    waiting.state, waiting.message, waiting.finished_at = state, message, now()
    return True


def _analysis_of(session: Session, subject: Subject) -> int:
    """The analysis that found what the map is of."""
    field = session.get(SpecimenField, subject.field_id)
    if field is None or field.withdrawn_at is not None:
        raise NotFound("There is no such field, or it was withdrawn.")
    found = select(Finding.analysis_id).where(Finding.field_id == subject.field_id)
    if subject.finding_id is not None:
        found = found.where(Finding.id == subject.finding_id)
    else:
        found = found.where(Finding.analysis_id == subject.analysis_id, Finding.class_name == subject.class_name)
    analysis_id = session.scalar(found.limit(1))
    if analysis_id is None:
        raise NotFound("The model found no such thing in this field.")
    return analysis_id
