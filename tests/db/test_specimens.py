from __future__ import annotations

import io
import threading
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from db import analyses, audit, patients, specimens
from db.engine import session_scope
from db.files import store
from db.models import Patient, StoredFile, User
from db.specimens import UploadedField
from renalcore.errors import Conflict, InputError, NotFound
from renalcore.types import QualityFlag
from tests.db.records import MODEL, Analyse, Register, a_picture, found


def test_a_new_specimen_waits_with_its_fields_in_order(session: Session, register: Register) -> None:
    flag = QualityFlag("too_dark", "The picture is dark.")
    specimen = register(
        "A-1",
        uploads=[a_picture("b.png", flags=(flag,)), a_picture("a.png", round_field=(500.0, 400.0, 390.0))],
    )
    fields = specimens.fields(session, specimen.id)
    assert specimen.state == "waiting"
    assert [(field.name, field.position) for field in fields] == [("b.png", 0), ("a.png", 1)]
    assert fields[0].flags == [{"code": "too_dark", "message": "The picture is dark."}]
    assert (fields[0].round_field, fields[1].round_field) == (None, [500.0, 400.0, 390.0])


def test_an_accession_number_is_given_once(session: Session, register: Register) -> None:
    register("A-1")
    with pytest.raises(Conflict, match=r"Accession number A-1 is already registered. Open that specimen"):
        register(" A-1 ")


def test_numbers_from_a_scanner_lose_their_blanks(session: Session, register: Register) -> None:
    specimen = register(" A-1\t", identifier=" H-1 ")
    assert (specimen.accession, specimen.patient.identifier) == ("A-1", "H-1")
    assert specimens.by_accession(session, "A-1 ") is specimen


def test_the_same_picture_twice_is_refused_by_content(session: Session, register: Register) -> None:
    copy = a_picture("copy.png", sha256=a_picture("a.png").sha256)
    with pytest.raises(Conflict, match=r"copy.png is the same picture as a.png"):
        register("A-1", uploads=[a_picture("a.png"), copy])
    register("A-2", uploads=[a_picture("a.png")])
    specimen = specimens.by_accession(session, "A-2")
    assert specimen is not None
    with pytest.raises(Conflict, match=r"copy.png is the same picture as a.png, which specimen A-2 has already"):
        specimens.add_fields(session, specimen.id, [copy], by=specimen.created_by)


def test_a_picture_seen_in_other_specimens_is_told(session: Session, register: Register) -> None:
    register("A-1", pictures=["a.png"])
    register("A-2", pictures=["a.png", "b.png"])
    assert specimens.seen_before(session, a_picture("a.png").sha256) == ["A-1", "A-2"]
    assert specimens.seen_before(session, "f" * 64) == []
    assert len(session.scalars(select(StoredFile)).all()) == 2  # the same content is one file


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"identifier": "  "}, "hospital number is missing"),
        ({"accession": " "}, "accession number is missing"),
        ({"uploads": []}, "Specimen A-1 has no picture"),
        ({"objective": "43x"}, "Objective '43x' is unknown; choose one of 10x, 20x"),
        ({"scale_kind": "guess"}, "Scale 'guess' is unknown"),
        ({"scale_kind": "um_per_px"}, "Give the scale"),
        ({"scale_kind": "um_per_px", "um_per_px": float("nan")}, "Give the scale"),
        ({"scale_kind": "unknown", "um_per_px": 0.25}, "another kind"),
    ],
)
def test_what_is_missing_is_named(register: Register, changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        register(**({"accession": "A-1"} | changes))


def test_a_hospital_number_of_another_name_is_refused_without_telling_the_name(register: Register) -> None:
    register("A-1", identifier="H-7", patient_name="Ann Müller")
    same = register("A-2", identifier="H-7", patient_name=" ann  MÜLLER ")
    assert same.patient.name == "Ann Müller"
    with pytest.raises(Conflict, match="Hospital number H-7 is registered under another name") as refused:
        register("A-3", identifier="H-7", patient_name="Bea Schmidt")
    assert "Müller" not in str(refused.value)
    assert "Schmidt" not in str(refused.value)


def test_a_name_given_later_is_kept_and_changes_only_with_a_reason(
    session: Session, register: Register, technologist: User
) -> None:
    patient = register("A-1", identifier="H-7").patient
    register("A-2", identifier="H-7", patient_name="Ann Müller")
    assert patient.name == "Ann Müller"
    with pytest.raises(InputError, match="Say why"):
        patients.rename(session, patient.id, "Ann Schmidt", by=technologist, reason=" ")
    patients.rename(session, patient.id, "Ann Schmidt", by=technologist, reason="married")
    event = audit.events(session, action="patient.rename", limit=1)[0]
    assert (event.old, event.new, event.reason) == ({"name": "Ann Müller"}, {"name": "Ann Schmidt"}, "married")


def test_registering_is_audited(session: Session, register: Register) -> None:
    specimen = register("A-1", pictures=["a.png"])
    events = {event.action: event for event in audit.events(session)}
    assert events["specimen.register"].entity_id == str(specimen.id)
    assert events["specimen.register"].actor_name == "tess"
    assert events["specimen.register"].new["fields"] == [{"name": "a.png", "sha256": a_picture("a.png").sha256}]
    assert events["patient.create"].new == {"identifier": "H-1", "name": None}


def test_fields_added_after_the_analysis_queue_it_again_for_them_alone(
    session: Session, analysed: Analyse, technologist: User
) -> None:
    done = analysed(found(("RBC", 0.9)), found())
    (added,) = specimens.add_fields(session, done.specimen.id, [a_picture("new.png")], by=technologist)
    assert (done.specimen.state, done.analysis.state, added.position) == ("waiting", "queued", 2)
    assert analyses.pending_fields(session, done.analysis.id) == [added]


def test_fields_added_after_a_failure_queue_the_analysis_again(
    session: Session, register: Register, technologist: User
) -> None:
    specimen = register("A-1", pictures=["a.png"])
    analysis = analyses.request(session, specimen, **MODEL, options={}, by=technologist)
    analyses.fail(session, analysis.id, "a.png cannot be read.")
    specimens.add_fields(session, specimen.id, [a_picture("b.png")], by=technologist)
    assert (specimen.state, analysis.state) == ("waiting", "queued")


def test_fields_cannot_be_added_while_the_analysis_runs(
    session: Session, register: Register, technologist: User
) -> None:
    specimen = register("A-1")
    analysis = analyses.request(session, specimen, **MODEL, options={}, by=technologist)
    specimens.add_fields(session, specimen.id, [a_picture("in time.png")], by=technologist)
    analyses.start(session, analysis.id, device="cpu", worker="w1")
    with pytest.raises(Conflict, match=r"A-1 is being analysed. Wait for it, or cancel it"):
        specimens.add_fields(session, specimen.id, [a_picture("late.png")], by=technologist)


def test_the_last_specimen_of_a_person_is_remembered(
    session: Session, register: Register, technologist: User, other_technologist: User
) -> None:
    register("A-1", objective="40x")
    register("A-2", objective="10x")
    register("A-3", objective="20x", by=other_technologist)
    last = specimens.last_by(session, technologist)
    assert last is not None
    assert last.objective == "10x"


def test_no_such_specimen(session: Session) -> None:
    with pytest.raises(NotFound, match="There is no specimen 99"):
        specimens.get(session, 99)
    assert specimens.by_accession(session, "A-1") is None


def test_of_several_people_with_one_accession_number_at_one_moment_one_succeeds(
    engine: Engine, technologist: User
) -> None:
    together, ended = threading.Barrier(4), []

    def work(number: int) -> None:
        pictures = ["a.png", "b.png", "c.png"]
        together.wait()
        try:
            with session_scope(engine) as own:
                specimens.register(
                    own, identifier="H-1", patient_name="Ann", accession="A-1", objective="40x", scale_kind="unknown",
                    um_per_px=None, collected_at=None, by=technologist,
                    uploads=[a_picture(name) for name in (pictures if number % 2 else pictures[::-1])],
                )  # fmt: skip
            ended.append("registered")
        except Conflict as refused:
            ended.append(str(refused)[:33])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(ended) == ["Accession number A-1 is already r"] * 3 + ["registered"]


def test_the_same_pictures_in_several_specimens_at_one_moment_are_stored_once(
    engine: Engine, technologist: User, session: Session
) -> None:
    together, ended = threading.Barrier(4), []

    def work(number: int) -> None:
        pictures = ["a.png", "b.png", "c.png"]
        together.wait()
        with session_scope(engine) as own:
            specimen = specimens.register(
                own, identifier=f"H-{number % 2}", patient_name=None, accession=f"A-{number}", objective="40x",
                scale_kind="unknown", um_per_px=None, collected_at=None, by=technologist,
                uploads=[a_picture(name) for name in (pictures if number < 2 else pictures[::-1])],
            )  # fmt: skip
            ended.append(specimen.accession)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(ended) == ["A-0", "A-1", "A-2", "A-3"]
    assert len(session.scalars(select(StoredFile)).all()) == 3
    assert len(session.scalars(select(Patient)).all()) == 2


def test_pictures_of_a_specimen_that_was_refused_leave_the_store_and_those_of_a_registered_one_stay(
    engine: Engine, technologist: User, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RENAL_FILES", f"file://{tmp_path / 'files'}")

    def stored(content: bytes) -> UploadedField:
        return a_picture(f"{content.decode()}.png", sha256=store().put(io.BytesIO(content))[0])

    def register(accession: str, *uploads: UploadedField) -> None:
        with session_scope(engine) as session:
            specimens.register(
                session, identifier="H-1", patient_name=None, accession=accession, objective="40x",
                scale_kind="unknown", um_per_px=None, collected_at=None, uploads=uploads, by=technologist,
            )  # fmt: skip

    def swept(*, older_than: timedelta) -> int:
        with session_scope(engine, read_only=True) as session:
            return store().sweep(is_named=partial(specimens.has_file, session), older_than=older_than)

    kept = [stored(b"one"), stored(b"two")]
    with session_scope(engine) as session:
        specimens.stored_file(session, kept[0].sha256, size=3, media_type="image/png")
    register("A-1", *kept)
    assert list((tmp_path / "files" / "incoming").iterdir()) == [], "the store knows that both are named"
    with pytest.raises(Conflict, match="A-1 is already registered"):
        register("A-1", stored(b"refused"))
    assert swept(older_than=timedelta(days=1)) == 0
    assert swept(older_than=timedelta(seconds=-1)) == 1
    assert set(store().names()) == {picture.sha256 for picture in kept}
