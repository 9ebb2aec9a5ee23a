"""Who did what, when and why: an append-only trail in which every event seals the ones before it.

Each event's hash covers all its columns and the hash of the event before; `audit_head` holds the number of events and
the last hash. Triggers refuse to change any of it. Whoever removes the triggers and changes, deletes, inserts or
reorders events, also the last ones, is found by `verify`. Undetectable from the database alone is someone with full
rights who drops the triggers and writes the whole trail anew, head included: note a head's hash elsewhere now and then
(each backup's manifest holds one) and give it to `verify`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from datetime import date, datetime
from typing import Any, NamedTuple, TypedDict, TypeVar, Unpack

import sqlalchemy as sa
from sqlalchemy import RowMapping, Select, select
from sqlalchemy.orm import Session

from db.engine import now
from db.models import AuditEvent, AuditHead, User
from renalcore.errors import AuditBroken

_Chosen = TypeVar("_Chosen", bound=Select[Any])

SYSTEM = "system"
"""The actor's name where no user acted: a worker, the command line, a refused sign-in."""

EXPORT_COLUMNS = (
    "id", "at", "actor_id", "actor_name", "action", "entity", "entity_id", "old", "new", "reason", "prev_hash", "hash",
)  # fmt: skip


class Filters(TypedDict, total=False):
    """Which events are asked for: those that pass every filter given, None being none.

    Attributes:
        actor: User name of who acted.
        action: What was done; a final dot takes all of a kind, so `user.` finds `user.create`.
        entity: Kind of record.
        entity_id: Which record.
        since: Earliest time, included.
        until: Latest time, left out.
    """

    actor: str | None
    action: str | None
    entity: str | None
    entity_id: int | str | None
    since: datetime | None
    until: datetime | None


class TrailEnd(NamedTuple):
    """Where the trail ended at some moment: the number of events and the hash of the last one."""

    events: int
    hash: str


def record(
    session: Session,
    *,
    actor: User | None,
    action: str,
    entity: str,
    entity_id: int | str | None,
    old: object = None,
    new: object = None,
    reason: str | None = None,
) -> AuditEvent:
    """Appends an event to the trail, in the transaction of what it tells about.

    From here to the transaction's end no other transaction can append. Change the records first, then record.

    Args:
        session: A session that may write.
        actor: Who did it, or None for the system itself.
        action: What was done, such as `specimen.register`.
        entity: The kind of record it was done to, such as `specimen`.
        entity_id: Which record.
        old: The values before, as JSON (times become ISO text).
        new: The values after.
        reason: Why, in the actor's words.

    Raises:
        AuditBroken: The trail has lost its head.
        TypeError: A value has no form in JSON.
    """
    session.flush()
    head = session.scalars(select(AuditHead).with_for_update().execution_options(populate_existing=True)).one_or_none()
    if head is None:
        raise AuditBroken("The audit trail has lost its head, so nothing can be recorded: restore from a backup.")
    event = AuditEvent(
        id=head.events + 1,
        at=now(),
        actor_id=None if actor is None else actor.id,
        actor_name=SYSTEM if actor is None else actor.username,
        action=action,
        entity=entity,
        entity_id=None if entity_id is None else str(entity_id),
        old=_plain(old),
        new=_plain(new),
        reason=reason,
        prev_hash=head.hash,
    )
    event.hash = _hash({name: getattr(event, name) for name in EXPORT_COLUMNS if name != "hash"})
    session.add(event)
    session.flush()  # the head may only move to an event that is there
    head.events, head.hash = event.id, event.hash
    session.flush()
    return event


def verify(session: Session, *, noted: str | None = None) -> int:
    """Proves that the trail is as it was recorded.

    Args:
        session: Any session; others may go on recording meanwhile.
        noted: The hash of an event or head noted earlier outside the database, which must be part of the trail.

    Returns:
        The number of events.

    Raises:
        AuditBroken: It is not; the message names the first bad event.
    """
    # One statement sees one moment, also on PostgreSQL where two statements see two.
    columns = [getattr(AuditEvent, name) for name in EXPORT_COLUMNS if name not in ("old", "new")]
    raw = [sa.cast(AuditEvent.old, sa.Text).label("old"), sa.cast(AuditEvent.new, sa.Text).label("new")]
    statement = (
        select(*columns, *raw, AuditHead.events.label("head_events"), AuditHead.hash.label("head_hash"))
        .select_from(AuditHead)
        .outerjoin(AuditEvent, sa.true())
        .order_by(AuditEvent.id)
    )
    seen, last_hash, head_events, head_hash, found = 0, "0" * 64, None, "", noted is None
    try:
        with session.execute(statement, execution_options={"yield_per": 1000}) as result:
            for row in result.mappings():
                head_events, head_hash = row["head_events"], row["head_hash"]
                if row["id"] is None:
                    break
                _check_follows(row, seen, last_hash)
                seen, last_hash = row["id"], row["hash"]
                found = found or last_hash == noted
    except (ValueError, TypeError) as error:
        raise AuditBroken(f"An audit event after event {seen} cannot be read: it was changed.") from error
    if head_events is None:
        raise AuditBroken("The audit trail has lost its head: someone deleted it.")
    if head_events != seen:
        raise AuditBroken(f"Audit event {min(head_events, seen) + 1} is wrong: {head_events} recorded, {seen} present.")
    if head_hash != last_hash:
        raise AuditBroken(f"Audit event {seen} is not the one that was recorded last.")
    if not found:
        raise AuditBroken("The noted hash is not part of the audit trail: the trail was written anew since.")
    return seen


def head(session: Session) -> TrailEnd:
    """Where the trail ends: the number of events and the last hash, worth noting outside the database.

    Raises:
        AuditBroken: Someone deleted it.
    """
    found = session.execute(select(AuditHead.events, AuditHead.hash)).one_or_none()
    if found is None:
        raise AuditBroken("The audit trail has lost its head: someone deleted it.")
    return TrailEnd(*found)


def events(session: Session, *, limit: int = 500, offset: int = 0, **filters: Unpack[Filters]) -> list[AuditEvent]:
    """Events that pass every filter given, the newest first.

    Args:
        session: Any session.
        limit: At most so many.
        offset: So many of the newest are passed over.
        **filters: See `Filters`.
    """
    chosen = _chosen(select(AuditEvent), **filters)
    return list(session.scalars(chosen.order_by(AuditEvent.id.desc()).limit(limit).offset(offset)))


def count(session: Session, **filters: Unpack[Filters]) -> int:
    """How many events pass the filters."""
    return session.scalar(_chosen(select(sa.func.count()).select_from(AuditEvent), **filters)) or 0


def actions(session: Session) -> list[str]:
    """Every action that occurs in the trail, in alphabetical order."""
    return list(session.scalars(select(AuditEvent.action).distinct().order_by(AuditEvent.action)))


def export_rows(session: Session, **filters: Unpack[Filters]) -> Iterator[dict[str, str]]:
    """The events that pass the filters as text, the oldest first, with the columns `EXPORT_COLUMNS`.

    Values before and after are JSON. The rows are read as they are asked for: use them within the session.
    """
    chosen = _chosen(select(AuditEvent), **filters).order_by(AuditEvent.id)
    for event in session.scalars(chosen, execution_options={"yield_per": 1000}):
        yield {name: _text(getattr(event, name)) for name in EXPORT_COLUMNS}


def _check_follows(row: RowMapping, seen: int, last_hash: str) -> None:
    if row["id"] != seen + 1:
        raise AuditBroken(f"Audit event {seen + 1} is missing or out of order: event {row['id']} comes instead.")
    values = {name: row[name] for name in EXPORT_COLUMNS if name != "hash"}
    values |= {name: None if row[name] is None else json.loads(row[name]) for name in ("old", "new")}
    if row["hash"] != _hash(values):
        raise AuditBroken(f"Audit event {row['id']} was changed after it was recorded.")
    if row["prev_hash"] != last_hash:
        raise AuditBroken(f"Audit event {row['id']} does not follow the event before it: one was exchanged.")


def _chosen(
    statement: _Chosen,
    *,
    actor: str | None = None,
    action: str | None = None,
    entity: str | None = None,
    entity_id: int | str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> _Chosen:
    for column, wanted in (
        (AuditEvent.actor_name, actor),
        (AuditEvent.entity, entity),
        (AuditEvent.entity_id, None if entity_id is None else str(entity_id)),
    ):
        if wanted is not None:
            statement = statement.where(column == wanted)
    if action is not None:
        exact = not action.endswith(".")
        statement = statement.where(
            AuditEvent.action == action if exact else AuditEvent.action.startswith(action, autoescape=True)
        )
    if since is not None:
        statement = statement.where(AuditEvent.at >= since)
    if until is not None:
        statement = statement.where(AuditEvent.at < until)
    return statement


def _plain(value: object) -> Any:
    """The value as it will come back from a JSON column."""
    return json.loads(_canonical(value))


def _canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, default=_iso)


def _hash(values: dict[str, Any]) -> str:
    return hashlib.sha256(_canonical(values).encode("ascii")).hexdigest()


def _iso(value: object) -> str:
    if isinstance(value, (date, datetime)):
        return value.isoformat()
    raise TypeError(f"the audit trail keeps JSON values, got a {type(value).__name__}")


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.isoformat()
    return value if isinstance(value, str) else _canonical(value)
