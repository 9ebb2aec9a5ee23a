from __future__ import annotations

import json
import multiprocessing
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from db import audit
from db.engine import engine_for, session_scope
from db.models import APPEND_ONLY, User
from renalcore.errors import AuditBroken

GUARDED = (*APPEND_ONLY, "audit_head", "cutoff_tables")
SHIPPED = 2  # events that the upgrade itself records: the two published cut-off tables


def tell(engine: Engine, *actions: str, actor: User | None = None) -> None:
    """Records one event an action, each in a transaction of its own."""
    for action in actions:
        with session_scope(engine) as session:
            audit.record(session, actor=actor, action=action, entity="specimen", entity_id=7, new={"state": action})


def verified(engine: Engine, *, noted: str | None = None) -> int:
    with session_scope(engine, read_only=True) as session:
        return audit.verify(session, noted=noted)


def without_triggers(connection: Connection) -> None:
    """What an intruder with the rights of the database's owner does first."""
    if connection.dialect.name == "postgresql":
        for table in GUARDED:
            connection.execute(text(f"ALTER TABLE {table} DISABLE TRIGGER USER"))
        return
    for (name,) in connection.execute(text("SELECT name FROM sqlite_master WHERE type = 'trigger'")).all():
        connection.execute(text(f"DROP TRIGGER {name}"))


def tamper(engine: Engine, *statements: str) -> None:
    with engine.begin() as connection:
        without_triggers(connection)
        for statement in statements:
            connection.execute(text(statement))


def test_an_event_holds_who_when_what_and_why(engine: Engine, admin: User) -> None:
    before = datetime.now(UTC)
    with session_scope(engine) as session:
        audit.record(
            session,
            actor=admin,
            action="specimen.amend",
            entity="specimen",
            entity_id=12,
            old={"grade": "few"},
            new={"grade": "many", "counts": (1, 2.5)},
            reason="wrong cast",
        )
    with session_scope(engine) as session:
        event, *_ = audit.events(session)
    assert (event.id, event.actor_id, event.actor_name) == (SHIPPED + 1, admin.id, "ada")
    assert (event.action, event.entity, event.entity_id, event.reason) == (
        "specimen.amend", "specimen", "12", "wrong cast",
    )  # fmt: skip
    assert (event.old, event.new) == ({"grade": "few"}, {"grade": "many", "counts": [1, 2.5]})
    assert before <= event.at <= datetime.now(UTC)


def test_a_whole_trail_verifies_and_tells_its_length(engine: Engine, admin: User) -> None:
    assert verified(engine) == SHIPPED
    tell(engine, "a", "b", "c", actor=admin)
    assert verified(engine) == SHIPPED + 3


def test_every_json_value_survives_the_database_as_it_was_hashed(engine: Engine) -> None:
    values = {
        "big": 2**60, "tiny": 5e-324, "huge": 1e300, "whole": 3.0, "text": "Ü \u0627 \U0001f52c \\ \" \n",
        "none": None, "yes": True, "list": [0.1, -0.0, []], "when": datetime(2026, 1, 2, tzinfo=UTC), "z": 1, "a": 2,
    }  # fmt: skip
    with session_scope(engine) as session:
        audit.record(session, actor=None, action="a", entity="e", entity_id=None, old=values, new=[values])
        audit.record(session, actor=None, action="a", entity="e", entity_id=None, old="", new=False)
    assert verified(engine) == SHIPPED + 2


def test_a_value_without_a_form_in_json_is_refused(engine: Engine) -> None:
    with pytest.raises(TypeError, match="keeps JSON values, got a set"), session_scope(engine) as session:
        audit.record(session, actor=None, action="a", entity="e", entity_id=None, new={1})
    with pytest.raises(ValueError, match=r"(?i)nan|json"), session_scope(engine) as session:
        audit.record(session, actor=None, action="a", entity="e", entity_id=None, new=float("nan"))


def test_an_event_disappears_with_the_transaction_it_tells_about(engine: Engine) -> None:
    tell(engine, "a")
    with pytest.raises(ZeroDivisionError), session_scope(engine) as session:  # noqa: PT012
        audit.record(session, actor=None, action="b", entity="e", entity_id=None)
        _ = 1 / 0
    tell(engine, "c")
    assert verified(engine) == SHIPPED + 2


def test_several_events_fit_into_one_transaction(engine: Engine) -> None:
    with session_scope(engine) as session:
        ids = [audit.record(session, actor=None, action=a, entity="e", entity_id=None).id for a in "abc"]
        assert audit.verify(session) == SHIPPED + 3
    assert ids == [SHIPPED + 1, SHIPPED + 2, SHIPPED + 3]


@pytest.mark.parametrize("verb", ["UPDATE", "DELETE", "TRUNCATE"])
def test_the_database_refuses_to_change_what_must_stay(engine: Engine, admin: User, verb: str) -> None:
    if verb == "TRUNCATE" and engine.dialect.name == "sqlite":
        pytest.skip("SQLite has no TRUNCATE; its DELETE is tested")
    fill(engine, admin)
    for table in GUARDED:
        column = {"audit_head": "hash", "cutoff_tables": "title"}.get(table, "id")
        statement = {
            "UPDATE": f"UPDATE {table} SET {column} = {column}",
            "DELETE": f"DELETE FROM {table}",
            "TRUNCATE": f"TRUNCATE {table} CASCADE",
        }[verb]
        with pytest.raises(DBAPIError, match="refused"), engine.begin() as connection:
            connection.execute(text(statement))


def test_sqlite_refuses_to_replace_an_event(engine: Engine) -> None:
    if engine.dialect.name != "sqlite":
        pytest.skip("PostgreSQL has no REPLACE; its ON CONFLICT DO UPDATE is an UPDATE")
    tell(engine, "a", "b")
    for key in ("id", "id + 1"):
        with pytest.raises(DBAPIError, match="REPLACE refused"), engine.begin() as connection:
            connection.execute(
                text(
                    f"INSERT OR REPLACE INTO audit_events SELECT {key}, at, actor_id, actor_name, 'forged', entity, "
                    "entity_id, old, new, reason, prev_hash, hash FROM audit_events WHERE id = 4"
                )
            )
    with pytest.raises(DBAPIError, match="REPLACE refused"), engine.begin() as connection:
        connection.execute(text("INSERT OR REPLACE INTO audit_head VALUES (1, 0, 'x')"))


def test_a_cut_off_table_can_still_be_adopted(engine: Engine, admin: User) -> None:
    fill(engine, admin)
    with engine.begin() as connection:
        connection.execute(text("UPDATE cutoff_tables SET adopted_at = '2026-01-01 00:00:00'"))


def test_the_head_moves_only_to_the_event_just_recorded(engine: Engine) -> None:
    tell(engine, "a", "b")
    with engine.begin() as connection:
        first = connection.execute(text("SELECT hash FROM audit_events WHERE id = 1")).scalar_one()
    for forged in (f"events = 1, hash = '{first}'", "events = 5, hash = 'x'", "events = 4, hash = 'x'"):
        with pytest.raises(DBAPIError, match="UPDATE refused"), engine.begin() as connection:
            connection.execute(text(f"UPDATE audit_head SET {forged}"))


@pytest.mark.parametrize(
    ("statements", "message"),
    [
        (["UPDATE audit_events SET action = 'x' WHERE id = 4"], "event 4 was changed"),
        (['UPDATE audit_events SET new = \'{"state": "x"}\' WHERE id = 4'], "event 4 was changed"),
        (["UPDATE audit_events SET old = '[]' WHERE id = 5"], "event 5 was changed"),
        (["UPDATE audit_events SET actor_name = 'eve' WHERE id = 3"], "event 3 was changed"),
        (["UPDATE audit_events SET at = '2020-01-01 00:00:00' WHERE id = 6"], "event 6 was changed"),
        (["UPDATE audit_events SET reason = 'x' WHERE id = 6"], "event 6 was changed"),
        (["DELETE FROM audit_events WHERE id = 3"], "event 3 is missing"),
        (["DELETE FROM audit_events WHERE id = 5"], "event 5 is missing"),
        (["DELETE FROM audit_events WHERE id >= 5"], "event 5 is wrong: 6 recorded, 4 present"),
        (["DELETE FROM audit_events"], "event 1 is wrong: 6 recorded, 0 present"),
        (["DELETE FROM audit_head"], "lost its head"),
        (["UPDATE audit_head SET hash = 'x'"], "event 6 is not the one that was recorded last"),
        (
            [
                "UPDATE audit_events SET id = 99 WHERE id = 4",
                "UPDATE audit_events SET id = 4 WHERE id = 5",
                "UPDATE audit_events SET id = 5 WHERE id = 99",
            ],
            "event 4 was changed",
        ),
        (
            ["DELETE FROM audit_events WHERE id = 4", "UPDATE audit_events SET id = id - 1 WHERE id > 4"],
            "event 4 was changed",
        ),
        (
            [
                (
                    "INSERT INTO audit_events (id, at, actor_name, action, entity, prev_hash, hash) "
                    "SELECT 7, at, actor_name, 'forged', entity, hash, 'x' FROM audit_events WHERE id = 6"
                )
            ],
            "event 7 was changed",
        ),
    ],
)
def test_tampering_is_found_where_the_triggers_were_removed(
    engine: Engine, statements: list[str], message: str
) -> None:
    tell(engine, "a", "b", "c", "d")
    tamper(engine, *statements)
    with pytest.raises(AuditBroken, match=message):
        verified(engine)


def forged_row(connection: Connection, event_id: int, **changes: str) -> None:
    """Changes an event and gives it a hash that fits, as someone who knows the program would."""
    row = dict(connection.execute(text(f"SELECT * FROM audit_events WHERE id = {event_id}")).mappings().one())
    row |= changes
    for name in ("old", "new"):
        if isinstance(row[name], str):
            row[name] = json.loads(row[name])
    if isinstance(row["at"], str):
        row["at"] = datetime.fromisoformat(row["at"]).replace(tzinfo=UTC)
    row["at"] = row["at"].astimezone(UTC)
    row["hash"] = audit._hash({name: row[name] for name in audit.EXPORT_COLUMNS if name != "hash"})
    sets = ", ".join(f"{name} = :{name}" for name in (*changes, "hash"))
    connection.execute(
        text(f"UPDATE audit_events SET {sets} WHERE id = {event_id}"), {n: row[n] for n in (*changes, "hash")}
    )


def test_an_exchanged_event_with_a_fitting_hash_breaks_the_chain_after_it(engine: Engine) -> None:
    tell(engine, "a", "b", "c")
    with engine.begin() as connection:
        without_triggers(connection)
        forged_row(connection, 4, action="x")
    with pytest.raises(AuditBroken, match="event 5 does not follow"):
        verified(engine)


def test_the_last_event_exchanged_with_a_fitting_hash_does_not_fit_the_head(engine: Engine) -> None:
    tell(engine, "a", "b", "c")
    with engine.begin() as connection:
        without_triggers(connection)
        forged_row(connection, 5, action="x")
    with pytest.raises(AuditBroken, match="event 5 is not the one that was recorded last"):
        verified(engine)


def test_a_trail_written_wholly_anew_is_found_by_a_hash_noted_before(engine: Engine) -> None:
    tell(engine, "a", "b")
    with session_scope(engine) as session:
        noted = audit.head(session).hash
    tell(engine, "c")
    assert verified(engine, noted=noted) == SHIPPED + 3
    with engine.begin() as connection:
        without_triggers(connection)
        connection.execute(text("DELETE FROM audit_events"))
        connection.execute(text(f"UPDATE audit_head SET events = 0, hash = '{'0' * 64}'"))
    tell(engine, "a", "b", "c")
    assert verified(engine) == 3  # from the database alone this cannot be seen
    with pytest.raises(AuditBroken, match="noted hash is not part"):
        verified(engine, noted=noted)


def test_nothing_is_recorded_behind_a_lost_head(engine: Engine) -> None:
    tamper(engine, "DELETE FROM audit_head")
    with pytest.raises(AuditBroken, match="lost its head"):
        tell(engine, "a")


def record_many(url: str, count: int) -> None:
    engine = engine_for(url)
    for number in range(count):
        tell(engine, f"p{number}")
    engine.dispose()


def at_once(workers: list[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=work) for work in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_threads_and_processes_that_record_at_once_keep_one_chain(engine: Engine, database_url: str) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=record_many, args=(database_url, 15)) for _ in range(2)]
    for process in processes:
        process.start()
    at_once([lambda: tell(engine, *"abcdefghij")] * 3)
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert verified(engine) == SHIPPED + 2 * 15 + 3 * 10


def test_a_trail_verifies_while_others_record(engine: Engine) -> None:
    lengths: list[int] = []
    at_once([lambda: tell(engine, *"abcdefghij" * 3), lambda: lengths.extend(verified(engine) for _ in range(10))])
    assert len(lengths) == 10
    assert lengths == sorted(lengths)


def test_events_are_found_by_actor_action_record_and_time(engine: Engine, admin: User) -> None:
    tell(engine, "user.create", "user.sign_in", actor=admin)
    tell(engine, "specimen.register")
    with session_scope(engine) as session:
        audit.record(session, actor=None, action="user_x", entity="user", entity_id="3")
        everything = [event.id - SHIPPED for event in audit.events(session)]
        assert everything == [4, 3, 2, 1, 0, -1]
        assert [e.id - SHIPPED for e in audit.events(session, actor="ada")] == [2, 1]
        assert [e.id - SHIPPED for e in audit.events(session, action="user.sign_in")] == [2]
        assert [e.id - SHIPPED for e in audit.events(session, action="user.")] == [2, 1]
        assert [e.id - SHIPPED for e in audit.events(session, entity="user", entity_id=3)] == [4]
        assert [e.id - SHIPPED for e in audit.events(session, limit=2, offset=1)] == [3, 2]
        third = audit.events(session)[1].at
        assert [e.id - SHIPPED for e in audit.events(session, since=third)] == [4, 3]
        assert [e.id - SHIPPED for e in audit.events(session, until=third)] == [2, 1, 0, -1]
        assert audit.count(session, actor="ada") == 2
        assert audit.count(session, since=third + timedelta(days=1)) == 0
        assert audit.actions(session) == ["cutoffs.ship", "specimen.register", "user.create", "user.sign_in", "user_x"]


def test_exported_rows_are_text_from_the_oldest_to_the_newest(engine: Engine, admin: User) -> None:
    tell(engine, "a", "b", actor=admin)
    with session_scope(engine) as session:
        rows = list(audit.export_rows(session, entity="specimen"))
        first = audit.events(session)[1]
    assert [tuple(row) for row in rows] == [audit.EXPORT_COLUMNS] * 2
    assert rows[0] == {
        "id": "3", "at": first.at.isoformat(), "actor_id": str(admin.id), "actor_name": "ada", "action": "a",
        "entity": "specimen", "entity_id": "7", "old": "", "new": '{"state":"a"}', "reason": "",
        "prev_hash": first.prev_hash, "hash": first.hash,
    }  # fmt: skip


def fill(engine: Engine, user: User) -> None:
    """One row in every guarded table."""
    from db.models import (
        Analysis,
        Correction,
        CtCorrection,
        CtResult,
        CtScan,
        CutOffTableRow,
        FieldResult,
        Finding,
        GlomerulusCorrection,
        GlomerulusFinding,
        Patient,
        SignOff,
        Slide,
        SlideResult,
        Specimen,
        SpecimenField,
        StoredFile,
    )

    with session_scope(engine) as session:
        table = CutOffTableRow(version="t", title="T", source="s", rows=[], created_by=user)
        specimen = Specimen(
            patient=Patient(identifier="H1"), accession="A1", objective="40x", scale_kind="unknown",
            created_by_id=user.id, cutoff_table=table,
        )  # fmt: skip
        field = SpecimenField(
            specimen=specimen, position=0, name="a.png", width_px=9, height_px=9,
            file=StoredFile(sha256="0" * 64, size_bytes=1, media_type="image/png"),
        )  # fmt: skip
        analysis = Analysis(
            specimen=specimen, model_key="m", weights_sha256="0", code_version="0", requested_by_id=user.id
        )
        slide = Slide(
            specimen=specimen, position=0, name="A1", format="TIFF", width_px=9, height_px=9, stain="PAS",
            species="human", file=StoredFile(sha256="1" * 64, size_bytes=1, media_type="image/tiff"),
        )  # fmt: skip
        volume = StoredFile(sha256="2" * 64, size_bytes=1, media_type="application/gzip")
        session.add_all([field, slide, analysis, volume])
        session.flush()
        scan = CtScan(
            specimen=specimen, position=0, name="portal", format="NIfTI", is_deidentified=True, slices=9, height_px=9,
            width_px=9, spacing_mm=[1.0, 1.0, 1.0], file=volume, image=volume,
        )  # fmt: skip
        session.add(scan)
        session.flush()
        result = FieldResult(analysis_id=analysis.id, field_id=field.id, seconds=1, worker="w")
        session.add(result)
        session.flush()
        box = {"x1": 0.0, "y1": 0.0, "x2": 1.0, "y2": 1.0}
        where = {"analysis_id": analysis.id, "field_id": field.id}
        session.add(Finding(field_result_id=result.id, class_name="RBC", score=0.5, **box, **where))
        session.add(Correction(action="add", class_name="RBC", by_id=user.id, **box, **where))
        on = {"analysis_id": analysis.id, "slide_id": slide.id}
        searched = SlideResult(seconds=1, worker="w", tissue_px=9, downsample=1, **on)
        session.add(searched)
        session.flush()
        outline = [0.0, 0.0, 1.0, 0.0, 1.0, 1.0]
        session.add(
            GlomerulusFinding(
                slide_result_id=searched.id, score=0.5, outline=outline, area_px=0.5, touches_edge=False, **on
            )
        )
        session.add(GlomerulusCorrection(action="add", outline=outline, by_id=user.id, **on))
        of = {"analysis_id": analysis.id, "scan_id": scan.id, "labels_id": volume.id, "measures": {}, "words": "w"}
        session.add(CtResult(seconds={}, worker="w", **of))
        session.add(CtCorrection(action="remove", by_id=user.id, **of))
        session.add(
            SignOff(
                specimen_id=specimen.id, analysis_id=analysis.id, kind="sign", by_id=user.id, meaning="m", report=[]
            )
        )
        audit.record(session, actor=user, action="a", entity="e", entity_id=1)
