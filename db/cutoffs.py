"""Cut-off tables: the versions that turn a mean count into a grade, never edited once they are stored.

No standard defines them; the two published ones differ two to four times. A specimen keeps the version that was the
default when it was registered, so adopting another changes no report that exists.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from db import audit
from db.engine import now
from db.models import CutOffTableRow, User
from renalcore.errors import Conflict, NotFound
from renalcore.sediment.measure import TABLE_A, TABLE_B, CutOffTable

SHIPPED = (TABLE_A, TABLE_B)
"""The published tables that every installation begins with."""

FIRST_DEFAULT = TABLE_B
"""The coarser one: adopted where nothing was adopted before."""


def add_shipped(session: Session) -> list[str]:
    """Store the published tables that an installation lacks; `engine.upgrade` calls it.

    Returns:
        The versions that were added.
    """
    present = set(session.scalars(select(CutOffTableRow.version)))
    added = [_row(table, by=None) for table in SHIPPED if table.version not in present]
    session.add_all(added)
    session.flush()
    if session.scalar(select(CutOffTableRow.id).where(CutOffTableRow.adopted_at.is_not(None)).limit(1)) is None:
        get_row(session, FIRST_DEFAULT.version).adopted_at = now()
    for row in added:
        audit.record(
            session,
            actor=None,
            action="cutoffs.ship",
            entity="cutoff_table",
            entity_id=row.id,
            new={"version": row.version, "rows": row.rows, "adopted": row.adopted_at is not None},
        )
    return [row.version for row in added]


def default(session: Session) -> CutOffTable:
    """The table that specimens registered from now on are graded by: the one adopted last."""
    return table_of(default_row(session))


def default_row(session: Session) -> CutOffTableRow:
    """The record of the table adopted last.

    Raises:
        NotFound: None is stored.
    """
    row = session.scalars(
        select(CutOffTableRow)
        .where(CutOffTableRow.adopted_at.is_not(None))
        .order_by(CutOffTableRow.adopted_at.desc(), CutOffTableRow.id.desc())
        .limit(1)
    ).one_or_none()
    if row is None:
        raise NotFound("No cut-off table is stored. Run `python -m db upgrade` once.")
    return row


def get(session: Session, version: str) -> CutOffTable:
    """The table of this version.

    Raises:
        NotFound: There is none.
    """
    return table_of(get_row(session, version))


def get_row(session: Session, version: str) -> CutOffTableRow:
    """The record of this version; raises as `get` does."""
    row = session.scalars(select(CutOffTableRow).where(CutOffTableRow.version == version)).one_or_none()
    if row is None:
        raise NotFound(f"There is no cut-off table {version!r}.")
    return row


def all_versions(session: Session) -> list[CutOffTableRow]:
    """Every version stored, newest first; `table_of` gives the table of one."""
    return list(session.scalars(select(CutOffTableRow).order_by(CutOffTableRow.id.desc())))


def table_of(row: CutOffTableRow) -> CutOffTable:
    """The validated table of a stored version."""
    return CutOffTable.from_rows(row.rows, version=row.version, title=row.title, source=row.source)


def add_version(session: Session, table: CutOffTable, by: User) -> CutOffTableRow:
    """Store a new version; it grades nothing until it is adopted.

    Raises:
        Conflict: `by` is no admin, or the version is taken.
    """
    _refuse_unless_admin(by)
    row = _row(table, by=by)
    try:
        with session.begin_nested():
            session.add(row)
    except IntegrityError:
        raise Conflict(
            f"There is a cut-off table {table.version!r} already, and versions never change. Choose another name."
        ) from None
    audit.record(
        session,
        actor=by,
        action="cutoffs.add",
        entity="cutoff_table",
        entity_id=row.id,
        new={"version": row.version, "title": row.title, "source": row.source, "rows": row.rows},
    )
    return row


def adopt(session: Session, version: str, by: User) -> CutOffTableRow:
    """Make a version the default for specimens registered from now on.

    Raises:
        Conflict: `by` is no admin.
        NotFound: There is no such version.
    """
    _refuse_unless_admin(by)
    row, before = get_row(session, version), default_row(session)
    if row.id == before.id:
        return row
    row.adopted_at = now()
    audit.record(
        session,
        actor=by,
        action="cutoffs.adopt",
        entity="cutoff_table",
        entity_id=row.id,
        old={"default": before.version},
        new={"default": row.version},
    )
    return row


def _row(table: CutOffTable, *, by: User | None) -> CutOffTableRow:
    rows: Sequence[object] = table.to_rows()
    return CutOffTableRow(
        version=table.version,
        title=table.title,
        source=table.source,
        rows=list(rows),
        created_by_id=by.id if by else None,
    )


def _refuse_unless_admin(user: User) -> None:
    if user.role != "admin" or not user.is_active:
        raise Conflict("Only an admin may change cut-off tables. Ask an admin.")
