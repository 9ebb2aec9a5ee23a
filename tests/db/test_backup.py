from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from sqlalchemy import Engine, select, text

from db import accounts, audit
from db.__main__ import main
from db.engine import engine_for, session_scope
from db.files import FileStore
from db.models import StoredFile, User
from tests.db.test_audit import tamper

ROOT = Path(__file__).resolve().parents[2]
CONTENTS = (b"first field" * 1000, b"second field" * 1000)


@pytest.fixture
def store(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FileStore:
    """An installation in use: an administrator and two stored files."""
    monkeypatch.setenv("RENAL_FILES", f"file://{tmp_path}/files")
    store = FileStore(f"file://{tmp_path}/files")
    with session_scope(engine) as session:
        accounts.invite(session, username="ada", full_name="Ada", role="admin", by=None)
        for content in CONTENTS:
            sha256, size = store.put(io.BytesIO(content))
            session.add(StoredFile(sha256=sha256, size_bytes=size, media_type="image/png"))
    store.put(io.BytesIO(b"belongs to no record"))
    return store


def lose(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FileStore:
    """What is left after a fire: an empty database and an empty store."""
    if engine.dialect.name == "postgresql":
        with engine.begin() as connection:
            connection.execute(text("DROP SCHEMA public CASCADE"))
            connection.execute(text("CREATE SCHEMA public"))
    engine.dispose()
    for path in tmp_path.glob("renalcore.db*"):
        path.unlink()
    monkeypatch.setenv("RENAL_FILES", f"file://{tmp_path}/new-files")
    return FileStore(f"file://{tmp_path}/new-files")


@pytest.mark.parametrize("name", ["backup", "backup.tar.gz"])
def test_what_was_backed_up_comes_back_whole(
    store: FileStore,
    engine: Engine,
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    target = tmp_path / name
    assert main(["backup", str(target)]) == 0
    with session_scope(engine) as session:
        end = audit.head(session)
        accounts.create_user(session, username="later", full_name="Later", role="admin", by=None)
    told = capsys.readouterr().out
    assert "2 files, " in told
    assert f"{end.events} audit events.\nThe audit trail ends in {end.hash}" in told

    store = lose(engine, tmp_path, monkeypatch)
    assert main(["restore", str(target)]) == 0
    with session_scope(engine) as session:
        assert session.scalars(select(User.username)).all() == ["ada"]
        assert audit.verify(session, noted=end.hash) == end.events
        kept = session.scalars(select(StoredFile.sha256).order_by(StoredFile.id)).all()
        assert [store.read(sha256) for sha256 in kept] == list(CONTENTS)
        audit.record(session, actor=None, action="a", entity="e", entity_id=None)
    assert set(store.names()) == {hashlib.sha256(content).hexdigest() for content in CONTENTS}
    with pytest.raises(Exception, match="refused"), engine.begin() as connection:
        connection.execute(text("DELETE FROM audit_events"))  # the triggers came back too


def test_a_backup_is_made_while_others_write(store: FileStore, engine: Engine, tmp_path: Path) -> None:
    with session_scope(engine) as session:
        accounts.create_user(session, username="underway", full_name="Underway", role="admin", by=None)
        session.flush()
        assert main(["backup", str(tmp_path / "backup")]) == 0
    manifest = json.loads((tmp_path / "backup" / "manifest.json").read_text())
    with session_scope(engine) as session:
        assert manifest["audit"]["events"] == audit.head(session).events - 1


def test_a_backup_overwrites_nothing(store: FileStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "backup").mkdir()
    assert main(["backup", str(tmp_path / "backup")]) == 1
    assert "exists already" in capsys.readouterr().err


def test_a_backup_below_a_file_is_refused(store: FileStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert main(["backup", str(tmp_path / "file" / "today.tar.gz")]) == 1
    assert capsys.readouterr().err.endswith("today.tar.gz: File exists. Choose another place, or mend this one.\n")


def test_a_damaged_stored_file_stops_the_backup_and_leaves_nothing_of_it(
    store: FileStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sha256 = hashlib.sha256(CONTENTS[1]).hexdigest()
    (tmp_path / "files" / sha256[:2] / sha256).write_bytes(b"altered")
    before = sorted(path.name for path in tmp_path.iterdir())
    assert main(["backup", str(tmp_path / "backup.tar.gz")]) == 1
    assert f"{sha256[:12]} was damaged or altered" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} - set(before) <= {"renalcore.db-wal", "renalcore.db-shm"}


def test_a_restore_replaces_only_where_it_is_told_to(
    store: FileStore, engine: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "backup"
    main(["backup", str(target)])
    with session_scope(engine) as session:
        accounts.create_user(session, username="later", full_name="Later", role="admin", by=None)
    assert main(["restore", str(target)]) == 1
    assert "The database is not empty. To replace what is in it by the backup, add --force." in capsys.readouterr().err
    engine.dispose()
    assert main(["restore", str(target), "--force"]) == 0
    with session_scope(engine) as session:
        assert session.scalars(select(User.username)).all() == ["ada"]


def test_a_restore_waits_for_nobody_who_uses_the_database(
    store: FileStore, engine: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if engine.dialect.name != "sqlite":
        pytest.skip("PostgreSQL locks each table by itself")
    main(["backup", str(tmp_path / "backup")])
    program = (
        "import sqlite3, sys, time; c = sqlite3.connect(sys.argv[1]); c.execute('SELECT 1 FROM users').fetchall();"
        "print('open', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "renalcore.db")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        assert main(["restore", str(tmp_path / "backup"), "--force"]) == 1
        other.communicate(b"")
    assert "in use. Stop the app and its workers" in capsys.readouterr().err


@pytest.mark.parametrize("part", ["database", "file", "manifest", "absent"])
def test_a_backup_that_was_altered_is_refused_before_anything_is_touched(
    store: FileStore,
    engine: Engine,
    part: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    target = tmp_path / "backup"
    main(["backup", str(target)])
    first = hashlib.sha256(CONTENTS[0]).hexdigest()
    if part == "database":
        (copy,) = target.glob("renalcore.*")
        copy.write_bytes(copy.read_bytes()[:-1] + b"X")
    elif part == "file":
        (target / "files" / first[:2] / first).write_bytes(b"X")
    elif part == "manifest":
        (target / "manifest.json").write_text("{}")
    else:
        (target / "files" / first[:2] / first).unlink()
    store = lose(engine, tmp_path, monkeypatch)
    assert main(["restore", str(target)]) == 1
    message = {"manifest": "no manifest.json of a backup", "absent": "is missing. Nothing was restored"}
    assert message.get(part, "was altered. Nothing was restored") in capsys.readouterr().err
    assert list(store.names()) == []
    assert not (tmp_path / "renalcore.db").exists()


def test_a_backup_whose_audit_trail_was_tampered_with_is_refused(
    store: FileStore,
    engine: Engine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tamper(engine, "UPDATE audit_events SET action = 'x' WHERE id = 2")
    main(["backup", str(tmp_path / "backup")])
    lose(engine, tmp_path, monkeypatch)
    assert main(["restore", str(tmp_path / "backup")]) == 1
    assert "Audit event 2 was changed" in capsys.readouterr().err


def test_an_archive_that_is_cut_off_is_refused(
    store: FileStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "backup.tar.gz"
    main(["backup", str(target)])
    target.write_bytes(target.read_bytes()[:-200])
    assert main(["restore", str(target), "--force"]) == 1
    assert "no complete .tar.gz" in capsys.readouterr().err


def test_an_archive_cannot_write_outside_its_folder(
    store: FileStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "evil.tar.gz"
    with tarfile.open(target, "w:gz") as archive:
        entry = tarfile.TarInfo("../escaped")
        entry.size = 1
        archive.addfile(entry, io.BytesIO(b"x"))
    assert main(["restore", str(target), "--force"]) == 1
    assert "no complete .tar.gz" in capsys.readouterr().err
    assert not list(tmp_path.parent.rglob("escaped"))


def test_the_audit_trail_is_verified_from_the_command_line(
    engine: Engine, admin: User, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify-audit"]) == 0
    told = capsys.readouterr().out
    assert told.startswith("The audit trail is whole: 2 events. It ends in ")
    assert main(["verify-audit", "--noted", told.split()[-1]]) == 0
    assert main(["verify-audit", "--noted", "0" * 64]) == 1
    tamper(engine, "UPDATE audit_events SET reason = 'x' WHERE id = 1")
    assert main(["verify-audit"]) == 1
    assert "Audit event 1 was changed after it was recorded." in capsys.readouterr().err


def test_an_administrator_is_made_from_the_command_line(
    database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("RENAL_PUBLIC_URL", "https://lab.example")
    assert main(["create-admin", "--username", "ada", "--full-name", "Ada"]) == 0  # also on an empty database
    link = capsys.readouterr().out.strip()
    assert link.startswith("https://lab.example/welcome?token=")
    assert main(["create-admin", "--username", "ada"]) == 1
    assert "add --renew for a new password" in capsys.readouterr().err
    assert main(["create-admin", "--username", "ada", "--renew"]) == 0
    newer = capsys.readouterr().out.strip()
    engine = engine_for(database_url)
    with session_scope(engine) as session:
        tokens = [address.partition("token=")[2] for address in (link, newer)]
        assert [accounts.link_is_good(session, token) for token in tokens] == [False, True]
    engine.dispose()


def test_every_command_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ([], ["upgrade"], ["backup"], ["restore"], ["verify-audit"], ["create-admin"]):
        with pytest.raises(SystemExit) as ended:
            main([*command, "--help"])
        assert ended.value.code == 0
        assert "Exit status: 0 done" in capsys.readouterr().out
    for wrong in ([], ["destroy"], ["backup"]):
        with pytest.raises(SystemExit) as ended:
            main(wrong)
        assert ended.value.code == 2


def test_the_commands_run_as_a_module_and_exit_by_their_outcome(tmp_path: Path) -> None:
    environment = {**os.environ, "RENAL_DATA": str(tmp_path / "data")}
    environment.pop("DATABASE_URL", None)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-W", "error", "-m", "db", *arguments]
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)

    refused = run("verify-audit")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "database" in refused.stderr
    assert run("upgrade").returncode == 0
    assert run("verify-audit").returncode == 0
