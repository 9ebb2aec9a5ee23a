from __future__ import annotations

import numpy as np
import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from db import analyses, audit, gate, reports, reviews, second_opinions, specimens, worklist
from db.models import Analysis, Specimen, User
from renalcore.errors import Conflict
from renalcore.types import Detections, QualityFlag
from tests.db.records import MODEL, Analyse, Analysed, Register, a_picture, found

CAOX = "Calcium oxalate"
SECOND = {"model_key": "sediment-caox-retinanet", "weights_sha256": "c" * 64, "code_version": "0.1.0"}


def crystals(*boxes: tuple[int, int, int, int], score: float = 0.9) -> Detections:
    """Calcium oxalate in these places, as a model that knows nothing else finds it."""
    return Detections(
        np.array(boxes, np.float32), np.full(len(boxes), score, np.float32), np.zeros(len(boxes), np.int64), (CAOX,)
    )


def asked(session: Session, specimen: Specimen, by: User) -> Analysis:
    return analyses.request_second(session, specimen, **SECOND, options={"min_score": {CAOX: 0.4, "RBC": 1.0}}, by=by)


def given(session: Session, done: Analysed, by: User, *detections: Detections) -> Analysis:
    """A second opinion with these findings, one entry a field."""
    second = asked(session, done.specimen, by)
    analyses.start(session, second.id, device="cpu", worker="w2")
    for field, objects in zip(done.fields, detections, strict=True):
        analyses.store_field(session, second.id, field.id, detections=objects, seconds=0.1, worker="w2")
    analyses.finish(session, second.id)
    return second


def test_a_second_opinion_is_neither_counted_nor_reported_nor_reviewed(
    session: Session, analysed: Analyse, technologist: User, reviewer: User
) -> None:
    done = analysed(found((CAOX, 0.9), ("RBC", 0.9)))
    before = reports.to_json(reports.report(session, done.specimen.id))
    second = given(session, done, technologist, crystals((500, 500, 540, 540), (600, 500, 640, 540)))
    assert (second.state, second.purpose, done.specimen.state) == ("done", "second_opinion", "needs_review")
    assert analyses.current(session, done.specimen.id) is done.analysis
    assert analyses.second_opinion(session, done.specimen.id) is second
    assert reports.to_json(reports.report(session, done.specimen.id)) == before
    rows = reports.rows_for_export(session, specimen_id=done.specimen.id)
    assert {row.model for row in rows} == {MODEL["model_key"]}
    (line,) = worklist.page(session).rows
    assert (line.analysis_id, line.fields_done) == (done.analysis.id, 1)
    with pytest.raises(Conflict, match="Reload the page"):
        reviews.confirm(session, second.id, [reviews.objects(session, second.id)[0].key], by=technologist)
    signed = reviews.sign(session, done.specimen.id, by=reviewer, meaning="Reviewed")
    assert signed.report == before
    told = audit.events(session, entity="analysis", entity_id=second.id)
    assert [event.action for event in reversed(told)] == [
        "analysis.request_second", "analysis.running", "analysis.done",
    ]  # fmt: skip
    assert told[-1].actor_name == "tess"


def test_a_second_opinion_that_fails_leaves_everything_else_as_it_was(
    session: Session, analysed: Analyse, technologist: User
) -> None:
    done = analysed(found((CAOX, 0.9)))
    second = asked(session, done.specimen, technologist)
    with pytest.raises(Conflict, match="of sediment-caox-retinanet on specimen S-1 is waiting"):
        asked(session, done.specimen, technologist)
    analyses.fail(session, second.id, "The weights are missing.")
    assert (second.state, done.specimen.state, worklist.page(session).rows[0].message) == (
        "failed", "needs_review", "",
    )  # fmt: skip
    analyses.retry(session, second.id, technologist)
    assert (second.state, done.specimen.state) == ("queued", "needs_review")
    analyses.cancel(session, second.id, technologist)
    assert (analyses.second_opinion(session, done.specimen.id), done.specimen.state) == (None, "needs_review")
    assert asked(session, done.specimen, technologist).state == "queued"


def test_a_second_opinion_needs_another_model_and_a_specimen_under_review(
    session: Session, analysed: Analyse, register: Register, technologist: User, reviewer: User
) -> None:
    with pytest.raises(Conflict, match="A-1 is waiting; a second opinion is asked for while it awaits review"):
        asked(session, register("A-1"), technologist)
    done = analysed(found())
    with pytest.raises(Conflict, match=r"was analysed by sediment-multihead-n\. Choose"):
        analyses.request_second(session, done.specimen, **MODEL, options={}, by=technologist)
    second = asked(session, done.specimen, technologist)
    analyses.fail(session, second.id, "The weights are missing.")
    reviews.sign(session, done.specimen.id, by=reviewer, meaning="Reviewed")
    with pytest.raises(Conflict, match="is signed"):
        analyses.retry(session, second.id, technologist)
    with pytest.raises(Conflict, match="is signed"):
        asked(session, done.specimen, technologist)


def test_fields_added_later_are_searched_by_both(session: Session, analysed: Analyse, technologist: User) -> None:
    done = analysed(found())
    second = given(session, done, technologist, crystals())
    specimens.add_fields(session, done.specimen.id, [a_picture("late.png")], by=technologist)
    assert (done.analysis.state, second.state, done.specimen.state) == ("queued", "done", "waiting")
    assert analyses.progress(session, second.id) == (1, 2)
    analyses.retry(session, second.id, technologist)
    assert (second.state, len(analyses.pending_fields(session, second.id))) == ("queued", 1)


def test_agreement_is_told_for_each_class_that_the_second_model_knows(
    session: Session, analysed: Analyse, technologist: User
) -> None:
    # The first finds crystals at x = 0..40 and 50..90, and a red cell; the second moves the first crystal by 10 of
    # 40 px (IoU 30/50 = 0.6), the second by 15 (25/55 = 0.45, too little), and is too unsure of a third.
    done = analysed(found((CAOX, 0.9), (CAOX, 0.8), ("RBC", 0.9)), found())
    second = given(
        session,
        done,
        technologist,
        Detections(
            np.array([[10, 10, 50, 50], [65, 10, 105, 50], [300, 10, 340, 50]], np.float32),
            np.array([0.9, 0.8, 0.3], np.float32),
            np.zeros(3, np.int64),
            (CAOX,),
        ),
        crystals((200, 200, 240, 240)),
    )
    both = second_opinions.agreement(session, done.analysis, second)
    first_keys = [item.key for item in reviews.objects(session, done.analysis.id)]
    second_keys = [item.key for item in reviews.objects(session, second.id)]
    (line,) = both.classes
    assert (line.class_name, line.counted, line.confirmed) == (CAOX, 2, 1)
    assert [item.key for item in line.only_first] == [first_keys[1]]
    assert [(item.key, item.field_id) for item in line.only_second] == [
        (second_keys[1], done.fields[0].id), (second_keys[3], done.fields[1].id),
    ]  # fmt: skip
    assert [(one.item.key, one.confirms) for one in both.findings] == [
        (second_keys[0], first_keys[0]), (second_keys[1], None), (second_keys[3], None),
    ]  # fmt: skip
    reviews.remove(session, done.analysis.id, [first_keys[1]], by=technologist)
    specimens.withdraw_field(session, done.fields[1].id, by=technologist, reason="out of focus")
    (line,) = second_opinions.agreement(session, done.analysis, second).classes
    assert (line.counted, line.confirmed, len(line.only_first), len(line.only_second)) == (1, 1, 0, 1)


def test_in_a_withheld_field_nothing_agrees_or_disagrees_until_a_reviewer_counts_it(
    session: Session, analysed: Analyse, technologist: User, reviewer: User
) -> None:
    blurred = a_picture("blurred.png", flags=(QualityFlag("out_of_focus", "Focus again."),))
    done = analysed(found((CAOX, 0.9)), uploads=[blurred])
    second = given(session, done, technologist, crystals((500, 500, 540, 540)))
    both = second_opinions.agreement(session, done.analysis, second)
    assert [(line.counted, len(line.only_second)) for line in both.classes] == [(0, 0)]
    assert len(both.findings) == 1
    gate.accept_field(session, done.fields[0].id, by=reviewer, why="sharp enough")
    both = second_opinions.agreement(session, done.analysis, second)
    assert [(line.counted, len(line.only_second)) for line in both.classes] == [(1, 1)]


def test_a_purpose_that_nobody_knows_is_refused_by_the_database(
    engine: Engine, session: Session, register: Register, technologist: User
) -> None:
    analyses.request(session, register(), **MODEL, options={}, by=technologist)
    session.commit()
    with engine.begin() as connection, pytest.raises(IntegrityError):
        connection.execute(text("UPDATE analyses SET purpose = 'decoration'"))
