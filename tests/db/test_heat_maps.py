from __future__ import annotations

import io
from pathlib import Path

import pytest
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from db import heat_maps, queue, specimens
from db.__main__ import main
from db.engine import session_scope
from db.files import FileStore
from db.heat_maps import Subject
from db.models import Finding, HeatMap, StoredFile, User
from renalcore.errors import NotFound
from tests.db.records import Analyse, Analysed, found


@pytest.fixture
def done(analysed: Analyse) -> Analysed:
    """Two fields: an RBC and two WBC, one of them below what is reported, then an RBC."""
    return analysed(found(("RBC", 0.9), ("WBC", 0.8), ("WBC", 0.1)), found(("RBC", 0.7)))


def finding_in(session: Session, field_id: int, class_name: str) -> Finding:
    asked = select(Finding).where(Finding.field_id == field_id, Finding.class_name == class_name).order_by(Finding.id)
    return session.scalars(asked.limit(1)).one()


def test_a_map_is_asked_for_once_for_a_finding_and_once_for_a_class(session: Session, done: Analysed) -> None:
    field_id = done.fields[0].id
    white = finding_in(session, field_id, "WBC")
    of_box = Subject(field_id, finding_id=white.id)
    of_class = Subject(field_id, analysis_id=done.analysis.id, class_name="WBC")
    assert [heat_maps.find(session, subject) for subject in (of_box, of_class)] == [None, None]
    first, second = heat_maps.ask(session, of_box), heat_maps.ask(session, of_class)
    assert (first.state, first.analysis_id, second.state) == ("waiting", done.analysis.id, "waiting")
    assert heat_maps.ask(session, of_box) is first
    assert heat_maps.find(session, of_class) is second
    assert [finding.id for finding in heat_maps.findings(session, first)] == [white.id]
    assert [finding.score for finding in heat_maps.findings(session, second)] == [0.8, 0.1]


def test_what_was_not_found_in_a_field_has_no_map_and_none_is_shown_of_a_withdrawn_field(
    session: Session, done: Analysed, technologist: User
) -> None:
    first, second = done.fields
    red = finding_in(session, first.id, "RBC")
    for nothing in (
        Subject(second.id, finding_id=red.id),  # it lies in the first field
        Subject(second.id, analysis_id=done.analysis.id, class_name="WBC"),
        Subject(second.id, analysis_id=done.analysis.id + 1, class_name="RBC"),
        Subject(999_999, finding_id=red.id),
    ):
        with pytest.raises(NotFound):
            heat_maps.ask(session, nothing)
    subject = Subject(first.id, finding_id=red.id)
    asked = heat_maps.ask(session, subject)
    specimens.withdraw_field(session, first.id, by=technologist, reason="out of focus")
    with pytest.raises(NotFound, match="withdrawn"):
        heat_maps.find(session, subject)
    specimens.bring_back_field(session, first.id, by=technologist)
    assert heat_maps.find(session, subject) is asked


def test_one_that_failed_is_asked_for_again_and_what_is_done_stays(session: Session, done: Analysed) -> None:
    subject = Subject(done.fields[1].id, analysis_id=done.analysis.id, class_name="RBC")
    asked = heat_maps.ask(session, subject)
    asked.workflow_id = "heat-map-1-first"
    assert heat_maps.fail(session, asked.id, "The weights are missing.")
    assert (asked.state, asked.message) == ("failed", "The weights are missing.")
    again = heat_maps.ask(session, subject)
    assert (again.id, again.state, again.message, again.workflow_id) == (asked.id, "waiting", None, None)
    assert heat_maps.store_empty(session, asked.id)
    assert not heat_maps.store(session, asked.id, sha256="b" * 64, size=1), "a second worker comes too late"
    assert heat_maps.ask(session, subject).state == "empty"


def test_a_map_that_the_queue_has_lost_is_put_there_again(engine: Engine, done: Analysed, session: Session) -> None:
    subject = Subject(done.fields[0].id, analysis_id=done.analysis.id, class_name="RBC")
    heat_map_id = heat_maps.ask(session, subject).id
    session.commit()

    def workflow_id() -> str | None:
        with session_scope(engine, read_only=True) as later:
            return later.get_one(HeatMap, heat_map_id).workflow_id

    assert queue.mend() == [(queue.HEAT_MAP, heat_map_id)]
    assert queue.mend() == [], "it waits in the queue"
    first = workflow_id()
    assert queue.enqueue(heat_map_id, queue.HEAT_MAP) == first
    assert str(first).startswith(f"heat-map-{heat_map_id}-")
    queue.cancel(first)  # as an administrator might
    assert queue.mend() == [(queue.HEAT_MAP, heat_map_id)]
    assert workflow_id() not in (None, first)
    queue.forget_clients()


def test_a_backup_holds_the_maps_and_their_pictures(
    engine: Engine,
    done: Analysed,
    session: Session,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("RENAL_FILES", f"file://{tmp_path}/files")
    store = FileStore(f"file://{tmp_path}/files")
    subject = Subject(done.fields[0].id, analysis_id=done.analysis.id, class_name="RBC")
    heat_map = heat_maps.ask(session, subject)
    sha256, size = store.put(io.BytesIO(b"a picture of heat"))
    heat_maps.store(session, heat_map.id, sha256=sha256, size=size)
    for field in done.fields:  # the fixture's fields have no content
        field.file.sha256, _ = store.put(io.BytesIO(field.name.encode()))
    session.commit()
    assert main(["backup", str(tmp_path / "backup")]) == 0
    assert (tmp_path / "backup" / "files" / sha256[:2] / sha256).read_bytes() == b"a picture of heat"
    with session_scope(engine) as later:
        later.delete(later.get_one(HeatMap, heat_map.id))
    session.close()
    engine.dispose()
    monkeypatch.setenv("RENAL_FILES", f"file://{tmp_path}/new-files")
    assert main(["restore", str(tmp_path / "backup"), "--force"]) == 0
    with session_scope(engine) as restored:
        kept = heat_maps.find(restored, subject)
        assert kept is not None
        assert (kept.state, restored.get_one(StoredFile, kept.file_id).sha256) == ("done", sha256)
    assert FileStore(f"file://{tmp_path}/new-files").read(sha256) == b"a picture of heat"
