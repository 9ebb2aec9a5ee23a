from __future__ import annotations

import multiprocessing
import sqlite3
import threading
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError, StatementError

from db.engine import RecordedRefusal, engine_for, session_scope, upgrade
from db.migrations.scope import ours
from db.models import Base, Patient, User
from renalcore.errors import InputError, StorageError


def someone(username: str = "grace") -> User:
    return User(username=username, full_name="Grace Reviewer", role="reviewer")


def test_a_scope_commits_at_its_end_and_its_records_stay_readable(engine: Engine) -> None:
    with session_scope(engine) as session:
        user = someone()
        session.add(user)
    assert user.id == 1
    with session_scope(engine) as session:
        assert session.scalars(select(User.username)).all() == ["grace"]


def test_an_error_in_a_scope_leaves_nothing_behind(engine: Engine) -> None:
    with pytest.raises(ZeroDivisionError), session_scope(engine) as session:  # noqa: PT012
        session.add(someone())
        session.flush()
        _ = 1 / 0
    with session_scope(engine) as session:
        assert session.scalars(select(User)).all() == []


def test_a_recorded_refusal_keeps_what_was_recorded(engine: Engine) -> None:
    with pytest.raises(RecordedRefusal), session_scope(engine) as session:  # noqa: PT012
        session.add(someone())
        raise RecordedRefusal("not today")
    with session_scope(engine) as session:
        assert len(session.scalars(select(User)).all()) == 1


def test_the_settings_name_the_database_of_a_scope(engine: Engine) -> None:
    with session_scope() as session:
        session.add(someone())
    with session_scope(engine) as session:
        assert len(session.scalars(select(User)).all()) == 1


def test_a_read_only_scope_reads_and_refuses_to_write(engine: Engine) -> None:
    with session_scope(engine) as session:
        session.add(someone())
    with session_scope(engine, read_only=True) as session:
        assert session.scalars(select(User.username)).one() == "grace"
    with pytest.raises(DBAPIError, match=r"read-?only"), session_scope(engine, read_only=True) as session:
        session.add(someone("heidi"))
    with session_scope(engine) as session:  # the same connection from the pool writes again
        session.add(someone("ivan"))


def test_readers_do_not_wait_for_a_writer(engine: Engine) -> None:
    with session_scope(engine) as writer:
        writer.add(someone())
        writer.flush()
        with session_scope(engine, read_only=True) as reader:
            assert reader.scalars(select(User)).all() == []


def test_writers_that_read_first_wait_for_each_other_instead_of_failing(engine: Engine) -> None:
    with session_scope(engine) as session:
        user = someone()
        session.add(user)

    def count_up() -> None:
        for _ in range(10):
            with session_scope(engine) as session:
                found = session.scalars(select(User).where(User.id == user.id).with_for_update()).one()
                found.failed_logins += 1

    threads = [threading.Thread(target=count_up) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with session_scope(engine) as session:
        assert session.scalars(select(User.failed_logins)).one() == 4 * 10


def test_two_actions_that_wait_for_each_other_end_with_one_asked_to_try_again(engine: Engine) -> None:
    if engine.dialect.name == "sqlite":
        pytest.skip("on SQLite the second writer waits from its beginning")
    with session_scope(engine) as session:
        session.add_all([someone("first"), someone("second")])
    both_hold_one = threading.Barrier(2)
    outcomes: list[str] = []

    def hold(*usernames: str) -> None:
        try:
            with session_scope(engine) as session:
                for username in usernames:
                    session.scalars(select(User).where(User.username == username).with_for_update()).one()
                    if username == usernames[0]:
                        both_hold_one.wait()
            outcomes.append("done")
        except StorageError as error:
            outcomes.append(str(error))

    threads = [threading.Thread(target=hold, args=names) for names in (("first", "second"), ("second", "first"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == [
        "Someone else changed the same records at the same moment. Try again; nothing was changed.",
        "done",
    ]


def test_times_come_back_in_utc_to_the_microsecond(engine: Engine) -> None:
    in_tehran = datetime(2026, 3, 20, 23, 15, 0, 123456, tzinfo=timezone(timedelta(hours=3, minutes=30)))
    with session_scope(engine) as session:
        user = someone()
        user.created_at = in_tehran
        session.add(user)
    with session_scope(engine) as session:
        found = session.scalars(select(User.created_at)).one()
        assert found == datetime(2026, 3, 20, 19, 45, 0, 123456, tzinfo=UTC)
        assert found.tzinfo is UTC
        assert session.scalars(select(User.id).where(User.created_at < in_tehran)).all() == []


def test_a_naive_time_is_refused(engine: Engine) -> None:
    with pytest.raises(StatementError, match="a time needs its zone"), session_scope(engine) as session:  # noqa: PT012
        user = someone()
        user.created_at = datetime(2026, 3, 20)  # noqa: DTZ001  # the point
        session.add(user)


def test_words_outside_a_list_of_choices_are_refused(engine: Engine) -> None:
    with pytest.raises(IntegrityError, match="ck_users_role"), session_scope(engine) as session:
        session.execute(
            text(
                "INSERT INTO users (username, full_name, role, is_active, failed_logins, created_at) "
                "VALUES ('eve', 'Eve', 'superuser', true, 0, '2026-01-01 00:00:00')"
            )
        )


def test_a_reference_to_nothing_is_refused(engine: Engine) -> None:
    with pytest.raises(IntegrityError, match=r"(?i)foreign key"), session_scope(engine) as session:
        session.execute(
            text(
                "INSERT INTO one_time_links (token_sha256, user_id, created_at, expires_at) "
                "VALUES ('00', 99, '2026-01-01 00:00:00', '2026-01-01 00:00:00')"
            )
        )


def test_an_error_of_the_database_never_shows_a_patients_name(engine: Engine) -> None:
    with pytest.raises(IntegrityError) as caught, session_scope(engine) as session:
        session.add_all([Patient(identifier="H1", name="Maria Secret"), Patient(identifier="H1", name="Maria Secret")])
    assert "Maria" not in str(caught.value)


def test_a_patients_name_is_folded_for_search_in_every_script(engine: Engine) -> None:
    with session_scope(engine) as session:
        session.add(Patient(identifier="H1", name="ÉMILIE ΣΊΣΥΦΟΣ"))
        session.flush()
        found = select(Patient.identifier).where(Patient.name_folded.contains("émilie"))
        assert session.scalars(found).all() == ["H1"]


def test_upgrading_again_changes_nothing(engine: Engine, database_url: str) -> None:
    with session_scope(engine) as session:
        session.add(someone())
    upgrade(database_url)
    with session_scope(engine) as session:
        assert len(session.scalars(select(User)).all()) == 1


def test_processes_that_upgrade_at_once_do_it_once(database_url: str) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=upgrade, args=(database_url,)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    engine = engine_for(database_url)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT version FROM cutoff_tables")).all() == [("A-1",), ("B-1",)]
    engine.dispose()


def test_the_migrations_make_exactly_the_schema_of_the_models(engine: Engine) -> None:
    with engine.connect() as connection:
        options = {"include_name": ours, "compare_type": True, "compare_server_default": True}
        assert compare_metadata(MigrationContext.configure(connection, opts=options), Base.metadata) == []
        checks = {
            (table.name, check["name"])
            for table in Base.metadata.sorted_tables
            for check in sa.inspect(connection).get_check_constraints(table.name)
        }
    wanted = {
        (table.name, str(constraint.name))
        for table in Base.metadata.sorted_tables
        for constraint in table.constraints
        if isinstance(constraint, sa.CheckConstraint)
    }
    assert checks == {(table, name if name.startswith("ck_") else f"ck_{table}_{name}") for table, name in wanted}


def test_tables_of_the_workflow_engine_are_left_alone(engine: Engine, database_url: str) -> None:
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE workflow_status (id INTEGER PRIMARY KEY)"))
    upgrade(database_url)
    with engine.connect() as connection:
        assert sa.inspect(connection).has_table("workflow_status")


def test_a_database_of_a_newer_version_says_so_and_stays_as_it_is(engine: Engine, database_url: str) -> None:
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(StorageError, match=r"newer version of RenalCore.* Start the newer version again"):
        upgrade(database_url)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT version_num FROM alembic_version")).scalar() == "9999"


def test_a_database_without_tables_says_what_to_run(database_url: str) -> None:
    engine = engine_for(database_url)
    with pytest.raises(StorageError, match="run `python -m db upgrade` first"), session_scope(engine) as session:
        session.scalars(select(User)).all()
    engine.dispose()


def test_a_database_that_is_not_there_says_so(tmp_path: Path) -> None:
    engine = engine_for(f"sqlite:///{tmp_path}/missing/renalcore.db")
    with pytest.raises(StorageError, match="cannot be reached"), session_scope(engine) as session:
        session.scalars(select(User)).all()
    engine = engine_for("postgresql://renal:secret@127.0.0.1:1/renal")
    with pytest.raises(StorageError, match="cannot be reached") as caught, session_scope(engine) as session:
        session.scalars(select(User)).all()
    assert "secret" not in str(caught.value)


def test_a_full_disk_is_told_in_plain_words(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/renalcore.db"
    upgrade(url)
    engine = engine_for(url)
    with pytest.raises(StorageError, match=r"disk of the database is full"), session_scope(engine) as session:  # noqa: PT012
        pages = session.execute(text("PRAGMA page_count")).scalar_one()
        session.execute(text(f"PRAGMA max_page_count = {pages}"))
        session.add_all([Patient(identifier=f"H{i}", name="x" * 190) for i in range(200)])
    engine.dispose()


def test_sqlite_writes_ahead_so_that_web_and_worker_share_the_file(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/renalcore.db"
    upgrade(url)
    connection = sqlite3.connect(tmp_path / "renalcore.db")
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()


@pytest.mark.parametrize("url", ["mysql://localhost/renal", "sqlite://", "sqlite:///:memory:", "not an address"])
def test_a_database_of_another_kind_is_refused(url: str) -> None:
    with pytest.raises(InputError, match="DATABASE_URL"):
        engine_for(url)
