"""Backup and restore: one folder or one .tar.gz with a consistent copy of the database and the files it names.

    manifest.json          what is in it, with the sha256 of each part and the end of the audit trail
    renalcore.db           on SQLite, made by its online backup, while everybody goes on working
    renalcore.pgdump       on PostgreSQL, made by pg_dump
    files/ab/abcdef...     the stored files

A backup appears under its name when it is complete. A restore checks every part before it touches anything, and the
audit trail before it says that it is done.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import shutil
import sqlite3
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO, Protocol, cast

import sqlalchemy as sa
from sqlalchemy import select
from sqlalchemy.engine import URL, make_url
from sqlalchemy.orm import Session

from db import audit
from db.engine import engine_for, now, session_scope
from db.files import CHUNK_BYTES, FileStore
from db.models import StoredFile
from renalcore.errors import Conflict, InputError, NotFound, StorageError, StorageFull

FORMAT = 1
MANIFEST = "manifest.json"
_DUMP_NAMES = {"sqlite": "renalcore.db", "postgresql": "renalcore.pgdump"}


@dataclass(frozen=True, slots=True)
class Summary:
    """What a backup holds.

    Attributes:
        files: Number of stored files.
        size_bytes: Bytes of the database copy and of all files.
        audit_events: Number of events in the audit trail.
        audit_hash: Hash of the last one: note it elsewhere, `verify-audit --noted` then finds a trail written anew.
    """

    files: int
    size_bytes: int
    audit_events: int
    audit_hash: str


def backup(target: Path, *, database_url: str, store: FileStore) -> Summary:
    """Copies an installation, which may be in use meanwhile.

    Args:
        target: A folder that does not exist yet, or a file name that ends in `.tar.gz` or `.tgz`.
        database_url: The database to copy.
        store: The files to copy.

    Raises:
        Conflict: The target exists already.
        NotFound: The store lacks a file that the database names.
        StorageFull: No space is left. Nothing of the backup remains.
        StorageError: A stored file is damaged, or pg_dump failed.
    """
    if target.exists():
        raise Conflict(f"{target} exists already. A backup overwrites nothing: choose another name or remove it.")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _disk_error(error, f"the backup {target}") from error
    partial = target.with_name(target.name + ".partial")
    _remove(partial)
    try:
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".renalcore-backup-") as scratch:
            copy = Path(scratch) / _DUMP_NAMES[_kind(database_url)]
            names, events, last_hash = _copy_database(make_url(database_url), copy)
            with _bag(partial, compressed=_is_archive(target)) as bag:
                parts = [_pack_path(bag, copy.name, copy)]
                parts += [_pack_file(bag, store, sha256) for sha256 in names]
                manifest = {
                    "format": FORMAT,
                    "created_at": now().isoformat(),
                    "database": copy.name,
                    "kind": _kind(database_url),
                    "audit": {"events": events, "hash": last_hash},
                    "parts": parts,
                }
                text = json.dumps(manifest, indent=1).encode()
                bag.add(MANIFEST, io.BytesIO(text), len(text))
        partial.replace(target)
    except OSError as error:
        raise _disk_error(error, f"the backup {target}") from error
    except sqlite3.Error as error:
        if "full" in str(error):
            raise StorageFull(f"No space is left for the backup {target}. Free some space and try again.") from error
        raise StorageError(f"The database cannot be copied ({error}).") from error
    finally:
        _remove(partial)
    return Summary(len(names), sum(part["size_bytes"] for part in parts), events, last_hash)


def restore(source: Path, *, database_url: str, store: FileStore, force: bool = False) -> Summary:
    """Puts a backup back. Nothing else may use the database meanwhile: stop the app and its workers.

    Args:
        source: What `backup` wrote.
        database_url: The database to fill, of the kind that the backup was made from.
        store: Where the files go.
        force: Replace what is in the database. Files are only ever added.

    Raises:
        Conflict: Database or store are not empty and `force` was not given, or the database is of another kind.
        InputError: The source is no backup.
        StorageError: A part of the backup is missing or altered, or pg_restore failed.
        AuditBroken: The audit trail of the backup does not verify.
    """
    with _opened(source) as folder:
        manifest = _manifest(folder, source)
        kind = _kind(database_url)
        if manifest["kind"] != kind:
            raise Conflict(
                f"{source} was made from {manifest['kind']} and DATABASE_URL names {kind}: use the same kind."
            )
        if not force:
            _refuse_unless_empty(database_url, store)
        parts = cast(list[dict[str, Any]], manifest["parts"])
        for part in parts:
            _check_part(folder, part, source)
        copy, noted = folder / manifest["database"], manifest["audit"]["hash"]
        try:
            for part in parts:  # before the database, which names them
                if part["name"].startswith("files/"):
                    with (folder / part["name"]).open("rb") as content:
                        store.put(content)
            if kind == "sqlite":
                events = _fill_sqlite(make_url(database_url), copy, noted)
            else:
                events = _fill_postgresql(make_url(database_url), copy, noted)
            store.confirm(part["sha256"] for part in parts if part["name"].startswith("files/"))
        except OSError as error:
            raise _disk_error(error, "the restored installation") from error
    return Summary(len(parts) - 1, sum(part["size_bytes"] for part in parts), events, noted)


class _Bag(Protocol):
    def add(self, name: str, stream: BinaryIO, size: int) -> None: ...


class _Folder:
    def __init__(self, path: Path) -> None:
        self._path = path

    def add(self, name: str, stream: BinaryIO, size: int) -> None:
        path = self._path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as target:
            shutil.copyfileobj(stream, target, CHUNK_BYTES)
            target.flush()
            os.fsync(target.fileno())


class _Archive:
    def __init__(self, archive: tarfile.TarFile) -> None:
        self._archive = archive

    def add(self, name: str, stream: BinaryIO, size: int) -> None:
        entry = tarfile.TarInfo(name)
        entry.size, entry.mode, entry.mtime = size, 0o600, now().timestamp()
        self._archive.addfile(entry, stream)


class _Hashing:
    """A stream that hashes what is read from it."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.sha256 = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        chunk = self._stream.read(size)
        self.sha256.update(chunk)
        return chunk


@contextmanager
def _bag(partial: Path, *, compressed: bool) -> Iterator[_Bag]:
    if compressed:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)  # it holds patients' names
        with os.fdopen(descriptor, "wb") as raw, tarfile.open(fileobj=raw, mode="w:gz", compresslevel=1) as archive:
            yield _Archive(archive)
        return
    partial.mkdir(mode=0o700)
    yield _Folder(partial)


def _pack_path(bag: _Bag, name: str, path: Path) -> dict[str, Any]:
    size = path.stat().st_size
    with path.open("rb") as stream:
        hashing = _Hashing(stream)
        bag.add(name, cast(BinaryIO, hashing), size)
    return {"name": name, "sha256": hashing.sha256.hexdigest(), "size_bytes": size}


def _pack_file(bag: _Bag, store: FileStore, sha256: str) -> dict[str, Any]:
    with store.open(sha256) as stream:  # checks its content
        size = stream.seek(0, os.SEEK_END)
        stream.seek(0)
        bag.add(f"files/{sha256[:2]}/{sha256}", stream, size)
    return {"name": f"files/{sha256[:2]}/{sha256}", "sha256": sha256, "size_bytes": size}


def _copy_database(url: URL, copy: Path) -> tuple[list[str], int, str]:
    """Copies the database; returns what the copy says: the files' sha256, the number of audit events, the last hash."""
    if _kind(url) == "sqlite":
        path = Path(url.database or "")
        if not path.is_file():
            raise NotFound(f"There is no database at {path}. Check DATABASE_URL and RENAL_DATA.")
        with closing(sqlite3.connect(path, timeout=30)) as source, closing(sqlite3.connect(copy)) as target:
            source.backup(target)
        engine = engine_for(f"sqlite:///{copy}")
        try:
            with session_scope(engine, read_only=True) as session:
                return _contents(session)
        finally:
            engine.dispose()
            for suffix in ("-wal", "-shm"):
                copy.with_name(copy.name + suffix).unlink(missing_ok=True)
    with session_scope(engine_for(url), read_only=True) as session:
        session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
        snapshot = session.execute(select(sa.func.pg_export_snapshot())).scalar_one()
        _run_postgresql("pg_dump", url, "--format=custom", f"--snapshot={snapshot}", f"--file={copy}")
        return _contents(session)


def _contents(session: Session) -> tuple[list[str], int, str]:
    end = audit.head(session)
    return list(session.scalars(select(StoredFile.sha256).order_by(StoredFile.id))), end.events, end.hash


def _fill_sqlite(url: URL, copy: Path, noted: str) -> int:
    path = Path(url.database or "")
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(path.name + ".restoring")
    _remove_database(new)
    try:
        shutil.copyfile(copy, new)
        events = _verified(f"sqlite:///{new}", noted)
        with closing(sqlite3.connect(new)) as connection:  # back into one file
            connection.execute("PRAGMA journal_mode = DELETE")
        _let_go(url, path)
        _remove_database(path)
        new.replace(path)
    finally:
        _remove_database(new)
    return events


def _let_go(url: URL, path: Path) -> None:
    """Makes sure that nobody works with the database that is about to be replaced."""
    engine_for(url).dispose()
    if not path.exists():
        return
    with closing(sqlite3.connect(path, timeout=2)) as connection:
        try:
            connection.execute("PRAGMA journal_mode = DELETE")  # only possible for the last one connected
        except sqlite3.OperationalError as error:
            raise Conflict("The database is in use. Stop the app and its workers, then restore again.") from error
        except sqlite3.DatabaseError:
            return  # damaged: the reason to restore


def _fill_postgresql(url: URL, copy: Path, noted: str) -> int:
    engine = engine_for(url)
    with engine.begin() as connection:
        connection.execute(sa.text("SET LOCAL lock_timeout = '10s'"))
        connection.execute(sa.text("DROP SCHEMA IF EXISTS dbos CASCADE"))
        quote = connection.dialect.identifier_preparer.quote
        for table in sa.inspect(connection).get_table_names():
            connection.execute(sa.text(f"DROP TABLE {quote(table)} CASCADE"))
        ours = (
            "SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND starts_with(proname, 'renal_')"
        )
        for function in connection.execute(sa.text(ours)).scalars().all():
            connection.execute(sa.text(f"DROP FUNCTION {quote(function)} CASCADE"))
    _run_postgresql("pg_restore", url, "--no-owner", "--exit-on-error", "--single-transaction", str(copy))
    engine.dispose()
    return _verified(url, noted)


def _verified(url: str | URL, noted: str) -> int:
    engine = engine_for(url)
    try:
        with session_scope(engine, read_only=True) as session:
            return audit.verify(session, noted=None if noted == "0" * 64 else noted)
    finally:
        engine.dispose()


def _refuse_unless_empty(database_url: str, store: FileStore) -> None:
    url = make_url(database_url)
    if _kind(url) != "sqlite" or Path(url.database or "").exists():
        engine = engine_for(url)
        with engine.connect() as connection:
            tables = sa.inspect(connection).get_table_names()
        engine.dispose()
        if tables:
            raise Conflict("The database is not empty. To replace what is in it by the backup, add --force.")
    if next(iter(store.names()), None) is not None:
        raise Conflict("The file store is not empty. To add the backup's files to it, add --force.")


@contextmanager
def _opened(source: Path) -> Iterator[Path]:
    """The backup as a folder."""
    if not source.exists():
        raise InputError(f"There is no backup at {source}.")
    if source.is_dir():
        yield source
        return
    with tempfile.TemporaryDirectory(dir=source.parent, prefix=".renalcore-restore-") as scratch:
        try:
            with tarfile.open(source, "r:gz") as archive:
                archive.extractall(scratch, filter="data")
        except (tarfile.TarError, EOFError, OSError) as error:
            raise InputError(f"{source} is no complete .tar.gz that `python -m db backup` wrote.") from error
        yield Path(scratch)


def _manifest(folder: Path, source: Path) -> dict[str, Any]:
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_bytes())
        known = manifest["format"] == FORMAT and manifest["kind"] in _DUMP_NAMES
        named = {part["name"] for part in manifest["parts"] if len(part["sha256"]) == 64 and part["size_bytes"] >= 0}
        known = known and manifest["database"] in named and len(manifest["audit"]["hash"]) == 64
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{source} has no {MANIFEST} of a backup that `python -m db backup` wrote.") from error
    if not known:
        raise InputError(f"{source} was written by another version of RenalCore: restore it with that one.")
    return manifest


def _check_part(folder: Path, part: dict[str, Any], source: Path) -> None:
    path = folder / part["name"]
    if not path.resolve().is_relative_to(folder.resolve()) or not path.is_file():
        raise StorageError(f"{source} is not complete: {part['name']} is missing. Nothing was restored.")
    with path.open("rb") as stream:
        if hashlib.file_digest(stream, "sha256").hexdigest() != part["sha256"]:
            raise StorageError(f"{source} is damaged: {part['name']} was altered. Nothing was restored.")


def _run_postgresql(program: str, url: URL, *arguments: str) -> None:
    """Runs one of PostgreSQL's programs. The password goes by the environment, which no list of processes shows."""
    plain = url.set(drivername="postgresql", password=None).render_as_string(hide_password=False)
    environment = {**os.environ, **({"PGPASSWORD": url.password} if url.password else {})}
    try:
        done = subprocess.run(
            [program, f"--dbname={plain}", "--no-password", *arguments],
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
    except FileNotFoundError as error:
        raise StorageError(f"{program} is not installed: install PostgreSQL's client programs.") from error
    if done.returncode:
        # Only its first line: those after it may quote rows.
        first = next(iter(done.stderr.strip().splitlines()), f"status {done.returncode}")
        raise StorageError(f"{program} failed: {first}")


def _kind(url: str | URL) -> str:
    return engine_for(url).dialect.name


def _is_archive(path: Path) -> bool:
    return path.name.endswith((".tar.gz", ".tgz"))


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _remove_database(path: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _disk_error(error: OSError, what: str) -> StorageError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageFull(f"No space is left for {what}. Free some space and try again.")
    return StorageError(f"Cannot write {what}: {error.strerror or error}. Choose another place, or mend this one.")
