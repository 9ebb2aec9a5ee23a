"""Triggers with which the database itself refuses to change what must stay.

A migration that rebuilds a guarded table (batch mode on SQLite) drops its triggers with it and has to guard it again.
"""

from __future__ import annotations

from collections.abc import Sequence

from alembic import op

_REFUSE = """
CREATE OR REPLACE FUNCTION renal_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only: % refused', TG_TABLE_NAME, TG_OP;
END $$
"""
_HEAD_MOVES = """
CREATE OR REPLACE FUNCTION renal_audit_head_moves() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT (NEW.id = OLD.id AND NEW.events = OLD.events + 1 AND EXISTS (
        SELECT 1 FROM audit_events WHERE id = NEW.events AND hash = NEW.hash AND prev_hash = OLD.hash
    )) THEN
        RAISE EXCEPTION 'audit_head moves by one recorded event at a time: UPDATE refused';
    END IF;
    RETURN NEW;
END $$
"""


def make_append_only(table: str, keys: Sequence[Sequence[str]] = (("id",),)) -> None:
    """Refuses UPDATE, DELETE, REPLACE and TRUNCATE on a table.

    Args:
        table: Its name.
        keys: The unique columns, each set of which no row may be replaced by.
    """
    if op.get_context().dialect.name == "postgresql":
        op.execute(_REFUSE)
        op.execute(
            f"CREATE TRIGGER {table}_refuse_change BEFORE UPDATE OR DELETE ON {table} "
            "FOR EACH ROW EXECUTE FUNCTION renal_refuse()"
        )
        _refuse_truncate(table)
        return
    for verb in ("UPDATE", "DELETE"):
        _refuse_on_sqlite(table, verb, verb)
    # REPLACE deletes without firing a delete trigger, so an insert over an existing key has to be refused by itself.
    same = " OR ".join("(" + " AND ".join(f"{column} = NEW.{column}" for column in key) + ")" for key in keys)
    op.execute(
        f"CREATE TRIGGER {table}_refuse_replace BEFORE INSERT ON {table} "
        f"WHEN EXISTS (SELECT 1 FROM {table} WHERE {same}) "
        f"BEGIN SELECT RAISE(ABORT, '{table} is append-only: REPLACE refused'); END"
    )


def freeze(table: str, columns: Sequence[str]) -> None:
    """Refuses to change some columns of a table and to delete its rows."""
    of_columns = f"UPDATE OF {', '.join(columns)}"
    if op.get_context().dialect.name == "postgresql":
        op.execute(_REFUSE)
        op.execute(
            f"CREATE TRIGGER {table}_refuse_change BEFORE DELETE OR {of_columns} ON {table} "
            "FOR EACH ROW EXECUTE FUNCTION renal_refuse()"
        )
        _refuse_truncate(table)
        return
    _refuse_on_sqlite(table, "UPDATE", of_columns)
    _refuse_on_sqlite(table, "DELETE", "DELETE")


def guard_audit_head() -> None:
    """Lets the end of the audit trail move only to the event just recorded."""
    if op.get_context().dialect.name == "postgresql":
        op.execute(_REFUSE)
        op.execute(_HEAD_MOVES)
        op.execute(
            "CREATE TRIGGER audit_head_moves BEFORE UPDATE ON audit_head "
            "FOR EACH ROW EXECUTE FUNCTION renal_audit_head_moves()"
        )
        op.execute(
            "CREATE TRIGGER audit_head_refuse_change BEFORE DELETE ON audit_head "
            "FOR EACH ROW EXECUTE FUNCTION renal_refuse()"
        )
        _refuse_truncate("audit_head")
        return
    op.execute(
        "CREATE TRIGGER audit_head_moves BEFORE UPDATE ON audit_head "
        "WHEN NOT (NEW.id = OLD.id AND NEW.events = OLD.events + 1 AND EXISTS ("
        "SELECT 1 FROM audit_events WHERE id = NEW.events AND hash = NEW.hash AND prev_hash = OLD.hash)) "
        "BEGIN SELECT RAISE(ABORT, 'audit_head moves by one recorded event at a time: UPDATE refused'); END"
    )
    _refuse_on_sqlite("audit_head", "DELETE", "DELETE")
    op.execute(
        "CREATE TRIGGER audit_head_refuse_replace BEFORE INSERT ON audit_head "
        "WHEN EXISTS (SELECT 1 FROM audit_head) "
        "BEGIN SELECT RAISE(ABORT, 'audit_head is append-only: REPLACE refused'); END"
    )


def _refuse_on_sqlite(table: str, verb: str, event: str) -> None:
    op.execute(
        f"CREATE TRIGGER {table}_refuse_{verb.lower()} BEFORE {event} ON {table} "
        f"BEGIN SELECT RAISE(ABORT, '{table} is append-only: {verb} refused'); END"
    )


def _refuse_truncate(table: str) -> None:
    op.execute(
        f"CREATE TRIGGER {table}_refuse_truncate BEFORE TRUNCATE ON {table} "
        "FOR EACH STATEMENT EXECUTE FUNCTION renal_refuse()"
    )
