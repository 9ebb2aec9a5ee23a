"""Connections, transactions and the schema's version, the same on SQLite and PostgreSQL."""

from __future__ import annotations

import functools
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection, Dialect, Engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session
from sqlalchemy.pool import ConnectionPoolEntry, NullPool

from db.settings import Settings
from renalcore.errors import Conflict, InputError, StorageError, StorageFull

MIGRATIONS = Path(__file__).parent / "migrations"
BUSY_TIMEOUT_S = 30.0  # how long a writer waits for another's transaction; none of ours takes a second
UPGRADE_LOCK = 0x52454E414C  # "RENAL": one process at a time changes the schema on PostgreSQL


def now() -> datetime:
    """The present time in UTC."""
    return datetime.now(UTC)


class UtcDateTime(sa.types.TypeDecorator[datetime]):
    """A moment in UTC: aware in Python on every database, refused when naive."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: D102
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"a time needs its zone, got the naive {value.isoformat()}")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: D102
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class RecordedRefusal(Conflict):
    """A refusal that is itself a fact to keep: `session_scope` commits what was recorded, then passes it on."""


def engine_for(url: str | URL) -> Engine:
    """The engine of a database, one for each address and process.

    SQLite connections use write-ahead logging, enforce foreign keys and wait for other writers. A transaction takes
    the write lock when it begins, so that it never fails half-way because another one wrote in between; only
    connections with the execution option `read_only` begin without it, and can then not write.

    Args:
        url: SQLAlchemy's address of a SQLite file or a PostgreSQL database.

    Raises:
        InputError: The address names no SQLite file and no PostgreSQL database.
    """
    return _cached_engine(_checked(url))


@contextmanager
def session_scope(engine: Engine | None = None, *, read_only: bool = False) -> Iterator[Session]:
    """One transaction for one user action: committed at the end, rolled back on an error.

    Loaded values stay readable after the scope. A `RecordedRefusal` is committed before it is passed on.

    Args:
        engine: The database, by default the one of the settings.
        read_only: Begin without the write lock. Anything written then fails.

    Raises:
        StorageFull: No space is left where the database lies.
        StorageError: The database cannot be reached, stayed busy, or has no tables yet.
    """
    engine = engine or engine_for(Settings.from_env().database_url)
    bind = engine.execution_options(read_only=True, postgresql_readonly=True) if read_only else engine
    session = Session(bind, expire_on_commit=False)
    try:
        try:
            yield session
            session.commit()
        except RecordedRefusal:
            session.commit()
            raise
        except BaseException:
            session.rollback()
            raise
        finally:
            session.close()
    except DBAPIError as error:
        translated = _translated(error)
        if translated is None:
            raise
        raise translated from error


@contextmanager
def beforehand(session: Session) -> Iterator[Session]:
    """A session to read in before the given one has begun, so that long work between holds up nobody.

    Where the given one has begun, it is that one.
    """
    bind = session.get_bind()
    if session.in_transaction() or not isinstance(bind, Engine):
        yield session
        return
    with session_scope(bind, read_only=True) as reading:
        yield reading


def once_committed(session: Session, act: Callable[[], None]) -> None:
    """Has something done when the session's transaction is committed, and never where it is rolled back."""
    left = [act]

    @event.listens_for(session, "after_commit")
    def committed(_: Session) -> None:
        if left and not session.in_nested_transaction():
            left.pop()()

    @event.listens_for(session, "after_rollback")
    def rolled_back(_: Session) -> None:
        if not session.in_nested_transaction():
            left.clear()


def is_read_only(session: Session) -> bool:
    """Whether the session belongs to a read-only scope."""
    return bool(session.connection().get_execution_options().get("read_only", False))


def upgrade(url: str | URL | None = None) -> None:
    """Brings a database, empty or of an earlier version, to the schema of this code, with its published cut-offs.

    Several processes may call it at once: one changes the schema, the others wait and find it done.

    Args:
        url: The database, by default the one of the settings.

    Raises:
        StorageError: The migration would leave a reference to a record that is not there, or the schema is newer than
            this code.
    """
    checked = _checked(url if url is not None else Settings.from_env().database_url)
    sqlite_path = Path(checked.database or "") if checked.get_backend_name() == "sqlite" else None
    if sqlite_path is not None:
        sqlite_path.parent.mkdir(parents=True, exist_ok=True)
    # Rebuilding a table (Alembic's batch mode) drops the old one: with foreign keys on, its children would go too.
    engine = _new_engine(checked, foreign_keys=False, poolclass=NullPool)
    try:
        with engine.begin() as connection:
            if sqlite_path is None:
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(UPGRADE_LOCK)))
            try:
                command.upgrade(alembic_config(connection), "head")
            except CommandError as error:
                raise StorageError(
                    "The database was written by a newer version of RenalCore, whose schema this one does not know. "
                    "Start the newer version again, or restore a backup made before it."
                ) from error
            _add_published_cutoffs(connection)
            if sqlite_path is not None:
                orphan = connection.exec_driver_sql("PRAGMA foreign_key_check").first()
                if orphan is not None:
                    raise StorageError(f"Not upgraded: row {orphan[1]} of {orphan[0]} refers to a missing record.")
    except DBAPIError as error:
        translated = _translated(error)
        if translated is None:
            raise
        raise translated from error
    finally:
        engine.dispose()


def _add_published_cutoffs(connection: Connection) -> None:
    from db import cutoffs  # it needs the records, and they need this module

    with Session(connection, join_transaction_mode="create_savepoint") as session:
        cutoffs.add_shipped(session)
        session.commit()


def alembic_config(connection: Connection) -> Config:
    """Alembic's configuration for commands that run on `connection`, in its transaction."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def _checked(url: str | URL) -> URL:
    try:
        parsed = make_url(url)
        backend = parsed.get_backend_name()
    except sa.exc.SQLAlchemyError as error:
        raise InputError("DATABASE_URL is not an address that SQLAlchemy understands.") from error
    if backend in ("postgresql", "postgres"):
        return parsed.set(drivername="postgresql+psycopg")
    if backend == "sqlite" and parsed.database and parsed.database != ":memory:":
        return parsed.set(drivername="sqlite+pysqlite")
    raise InputError(f"DATABASE_URL must name a SQLite file or a PostgreSQL database, got one of {backend!r}.")


@functools.cache
def _cached_engine(url: URL) -> Engine:
    return _new_engine(url, foreign_keys=True)


def _new_engine(url: URL, *, foreign_keys: bool, **options: Any) -> Engine:
    # hide_parameters: a statement's values are patients' names, and an error's text ends up in logs.
    if url.get_backend_name() == "postgresql":
        return sa.create_engine(url, hide_parameters=True, pool_pre_ping=True, **options)
    engine = sa.create_engine(url, hide_parameters=True, connect_args={"timeout": BUSY_TIMEOUT_S}, **options)

    @event.listens_for(engine, "connect")
    def connected(connection: sqlite3.Connection, _record: ConnectionPoolEntry) -> None:
        connection.isolation_level = None  # else the driver begins by itself, and late
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")  # a committed audit event survives a power cut
        connection.execute(f"PRAGMA foreign_keys = {'ON' if foreign_keys else 'OFF'}")

    @event.listens_for(engine, "begin")
    def begun(connection: Connection) -> None:
        read_only = connection.get_execution_options().get("read_only", False)
        connection.exec_driver_sql(f"PRAGMA query_only = {'ON' if read_only else 'OFF'}")
        connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")

    return engine


def _translated(error: DBAPIError) -> StorageError | None:
    """The error in words for a technologist, or None where it is a fault of the program."""
    text = str(error.orig).lower()
    state = getattr(error.orig, "sqlstate", None)
    if "database or disk is full" in text or state == "53100":
        return StorageFull("The disk of the database is full. Free some space and try again; nothing was changed.")
    if "no such table" in text or state == "42P01":
        return StorageError("The database has no tables yet, or older ones: run `python -m db upgrade` first.")
    if "database is locked" in text:
        return StorageError(f"The database stayed busy for {BUSY_TIMEOUT_S:.0f} s. Try again; nothing was changed.")
    if state == "40P01":
        return StorageError("Someone else changed the same records at the same moment. Try again; nothing was changed.")
    if error.connection_invalidated or "unable to open database file" in text or "connection failed" in text:
        return StorageError("The database cannot be reached. Check that it runs and that DATABASE_URL names it.")
    return None
