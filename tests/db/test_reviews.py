from __future__ import annotations

import json
import threading

import pytest
from sqlalchemy import Engine, func, select, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from db import analyses, audit, reports, reviews, specimens
from db.engine import session_scope
from db.models import Correction, Finding, SignOff, User
from db.objects import ReviewedObject
from renalcore.errors import Conflict, InputError, NotFound, UnknownName
from tests.db.records import MODEL, Analyse, Analysed, Register, a_picture, found


@pytest.fixture
def done(analysed: Analyse) -> Analysed:
    """Two fields: RBC 0.9, RBC 0.6, WBC 0.4 in the first, WBC 0.8 in the second; from 0.5 up they count."""
    return analysed(found(("RBC", 0.9), ("RBC", 0.6), ("WBC", 0.4)), found(("WBC", 0.8)), accession="A-1")


def standing(session: Session, done: Analysed) -> dict[str, tuple[str, str]]:
    """Class and status by key."""
    return {item.key: (item.class_name, item.status) for item in reviews.objects(session, done.analysis.id)}


def keys(session: Session, done: Analysed) -> list[str]:
    return [item.key for item in reviews.objects(session, done.analysis.id)]


def totals(session: Session, done: Analysed) -> dict[str, int]:
    return {row.class_name: row.total for row in reports.report(session, done.specimen.id).rows if row.total}


def test_what_the_model_found_stands_until_somebody_corrects_it(session: Session, done: Analysed) -> None:
    first = reviews.objects(session, done.analysis.id)[0]
    assert first == ReviewedObject(
        first.key, done.fields[0].id, "RBC", "RBC", pytest.approx(0.9), (0, 10, 40, 50), "model"
    )
    second_field = reviews.objects(session, done.analysis.id, field_id=done.fields[1].id)
    assert [item.class_name for item in second_field] == ["WBC"]


def test_only_scores_from_the_threshold_up_count(session: Session, done: Analysed, technologist: User) -> None:
    assert totals(session, done) == {"RBC": 2, "WBC": 1}
    reviews.set_threshold(session, done.analysis.id, 0.7, technologist)
    assert totals(session, done) == {"RBC": 1, "WBC": 1}
    reviews.set_threshold(session, done.analysis.id, {"RBC": 0.95, "default": 0.1}, technologist)
    assert totals(session, done) == {"WBC": 2}
    assert [event.new["min_score"] for event in audit.events(session, action="analysis.set_threshold")] == [
        {"RBC": 0.95, "default": 0.1}, 0.7,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("value", "error"), [(1.5, InputError), ({"RBC": -1}, InputError), ({"rbc": 0.5}, UnknownName)]
)
def test_a_threshold_that_is_none_is_refused(
    session: Session, done: Analysed, technologist: User, value: object, error: type[Exception]
) -> None:
    with pytest.raises(error):
        reviews.set_threshold(session, done.analysis.id, value, technologist)  # type: ignore[arg-type]


def test_a_confirmed_object_counts_whatever_its_score(session: Session, done: Analysed, technologist: User) -> None:
    doubtful = keys(session, done)[2]
    assert reviews.confirm(session, done.analysis.id, [doubtful], by=technologist) == 1
    assert standing(session, done)[doubtful] == ("WBC", "confirmed")
    assert totals(session, done) == {"RBC": 2, "WBC": 2}
    assert reviews.confirm(session, done.analysis.id, [doubtful], by=technologist) == 0  # nothing left to say


def test_many_are_reclassified_at_once_under_one_event(session: Session, done: Analysed, technologist: User) -> None:
    rbc = keys(session, done)[:2]
    assert reviews.reclassify(session, done.analysis.id, rbc, by=technologist, class_name="Yeast") == 2
    assert totals(session, done) == {"Yeast": 2, "WBC": 1}
    (event,) = audit.events(session, action="object.reclassify")
    assert event.old == {"objects": {key: {"class": "RBC", "status": "model"} for key in rbc}}
    assert event.new == {
        "accession": "A-1", "objects": {key: {"class": "Yeast", "status": "reclassified"} for key in rbc},
    }  # fmt: skip


def test_reclassifying_to_the_same_class_confirms(session: Session, done: Analysed, technologist: User) -> None:
    key = keys(session, done)[0]
    assert reviews.reclassify(session, done.analysis.id, [key], by=technologist, class_name="RBC") == 1
    assert standing(session, done)[key] == ("RBC", "confirmed")


def test_an_unknown_class_or_object_is_refused(session: Session, done: Analysed, technologist: User) -> None:
    with pytest.raises(UnknownName, match="'Rbc' is not one of the 39"):
        reviews.reclassify(session, done.analysis.id, keys(session, done), by=technologist, class_name="Rbc")
    with pytest.raises(NotFound, match=r"No object f999 in the review of specimen A-1\. Reload the page"):
        reviews.confirm(session, done.analysis.id, ["f999"], by=technologist)
    assert session.scalar(select(func.count()).select_from(Correction)) == 0


def test_an_object_of_another_specimen_is_never_touched(
    session: Session, done: Analysed, analysed: Analyse, technologist: User
) -> None:
    other = analysed(found(("RBC", 0.9)))
    with pytest.raises(NotFound):
        reviews.remove(session, done.analysis.id, keys(session, other), by=technologist)
    with pytest.raises(NotFound, match=f"Field {other.fields[0].id} does not belong to specimen A-1"):
        reviews.add(session, done.analysis.id, other.fields[0].id, "RBC", (0, 0, 10, 10), by=technologist)


def test_the_last_correction_wins_and_undoing_brings_the_one_before_back(
    session: Session, done: Analysed, technologist: User
) -> None:
    key, *_ = keys(session, done)
    run = done.analysis.id
    reviews.reclassify(session, run, [key], by=technologist, class_name="Yeast")
    reviews.remove(session, run, [key], by=technologist)
    assert standing(session, done)[key] == ("Yeast", "removed")
    assert totals(session, done) == {"RBC": 1, "WBC": 1}
    assert reviews.undo_last(session, run, technologist) == 1
    assert standing(session, done)[key] == ("Yeast", "reclassified")
    assert reviews.undo_last(session, run, technologist) == 1
    assert standing(session, done)[key] == ("RBC", "model")
    assert reviews.undo_last(session, run, technologist) == 0
    assert [row.action for row in session.scalars(select(Correction).order_by(Correction.id))] == [
        "reclassify", "remove", "restore", "restore",
    ]  # fmt: skip
    assert len(audit.events(session, action="object.undo")) == 2


def test_undoing_takes_back_all_that_one_action_changed(session: Session, done: Analysed, technologist: User) -> None:
    every = keys(session, done)
    reviews.confirm(session, done.analysis.id, every[:1], by=technologist)
    reviews.remove(session, done.analysis.id, every, by=technologist)
    assert reviews.undo_last(session, done.analysis.id, technologist) == 4
    assert [status for _, status in standing(session, done).values()] == ["confirmed", "model", "model", "model"]


def test_undoing_is_ones_own_and_never_overrules_another_person(
    session: Session, done: Analysed, technologist: User, other_technologist: User
) -> None:
    key, *_ = keys(session, done)
    reviews.confirm(session, done.analysis.id, [key], by=technologist)
    assert reviews.undo_last(session, done.analysis.id, other_technologist) == 0
    reviews.remove(session, done.analysis.id, [key], by=other_technologist)
    with pytest.raises(Conflict, match="1 of the objects changed last have been corrected by another person"):
        reviews.undo_last(session, done.analysis.id, technologist)


def test_a_removed_object_can_be_restored(session: Session, done: Analysed, technologist: User) -> None:
    key, untouched, *_ = keys(session, done)
    reviews.remove(session, done.analysis.id, [key], by=technologist)
    assert reviews.restore(session, done.analysis.id, [key, untouched], by=technologist) == 1
    assert standing(session, done)[key] == ("RBC", "model")


def test_a_missed_object_is_drawn_reclassified_removed_and_restored(
    session: Session, done: Analysed, technologist: User
) -> None:
    run = done.analysis.id
    key = reviews.add(session, run, done.fields[1].id, "Hyaline cast", (300, 90, 250, -20), by=technologist)
    assert key.startswith("c")
    assert reviews.objects(session, run)[-1] == ReviewedObject(
        key, done.fields[1].id, "Hyaline cast", None, None, (250, 0, 300, 90), "added"
    )
    reviews.reclassify(session, run, [key], by=technologist, class_name="Waxy cast")
    assert standing(session, done)[key] == ("Waxy cast", "added")
    reviews.remove(session, run, [key], by=technologist)
    assert totals(session, done) == {"RBC": 2, "WBC": 1}
    reviews.restore(session, run, [key], by=technologist)
    reviews.restore(session, run, [key], by=technologist)
    assert standing(session, done)[key] == ("Hyaline cast", "added")
    assert reviews.restore(session, run, [key], by=technologist) == 0  # that it was added is undone by removing it
    assert totals(session, done) == {"RBC": 2, "WBC": 1, "Hyaline cast": 1}


def test_drawing_an_object_can_be_undone(session: Session, done: Analysed, technologist: User) -> None:
    key = reviews.add(session, done.analysis.id, done.fields[0].id, "RBC", (0, 0, 10, 10), by=technologist)
    assert reviews.undo_last(session, done.analysis.id, technologist) == 1
    assert key not in standing(session, done)
    assert totals(session, done) == {"RBC": 2, "WBC": 1}
    (event,) = audit.events(session, action="object.undo")
    assert (event.old, event.new["objects"]) == ({"objects": {key: {"class": "RBC", "status": "added"}}}, {key: None})


@pytest.mark.parametrize("box", [(1100, 10, 1200, 20), (10, 10, 10.2, 30), (0, 0, float("nan"), 10)])
def test_a_box_without_area_inside_the_field_is_refused(
    session: Session, done: Analysed, technologist: User, box: tuple[float, ...]
) -> None:
    with pytest.raises(InputError, match="box"):
        reviews.add(session, done.analysis.id, done.fields[0].id, "RBC", box, by=technologist)


def test_nothing_is_corrected_while_the_analysis_runs(session: Session, register: Register, technologist: User) -> None:
    specimen = register("A-1")
    analysis = analyses.request(session, specimen, **MODEL, options={}, by=technologist)
    field = specimens.fields(session, specimen.id)[0]
    analyses.start(session, analysis.id, device="cpu", worker="w1")
    with pytest.raises(Conflict, match="A-1 is being analysed; it can be corrected once"):
        reviews.add(session, analysis.id, field.id, "RBC", (0, 0, 10, 10), by=technologist)


def test_an_older_analysis_is_not_corrected(session: Session, done: Analysed, technologist: User) -> None:
    analyses.request(session, done.specimen, **MODEL, options={}, by=technologist)
    with pytest.raises(Conflict, match=r"A-1 was analysed again since\. Reload"):
        reviews.remove(session, done.analysis.id, keys(session, done), by=technologist)


def test_findings_and_corrections_cannot_be_changed_even_by_sql(
    session: Session, done: Analysed, technologist: User
) -> None:
    reviews.confirm(session, done.analysis.id, keys(session, done)[:1], by=technologist)
    for table in (Finding, Correction):
        with pytest.raises(DBAPIError, match="append-only"), session.begin_nested():
            session.execute(update(table).values(class_name="WBC"))


def test_only_a_reviewer_signs_and_reopens(
    admin: User, session: Session, done: Analysed, technologist: User, reviewer: User
) -> None:
    for user in (technologist, admin):
        with pytest.raises(Conflict, match="Only a reviewer may sign"):
            reviews.sign(session, done.specimen.id, by=user, meaning="Reviewed")
    reviews.sign(session, done.specimen.id, by=reviewer, meaning="Reviewed")
    with pytest.raises(Conflict, match="Only a reviewer may reopen"):
        reviews.reopen(session, done.specimen.id, by=technologist, reason="mistake")


def test_a_signature_keeps_the_report_and_everything_it_rests_on(
    session: Session, done: Analysed, reviewer: User
) -> None:
    sign_off = reviews.sign(session, done.specimen.id, by=reviewer, meaning=" Reviewed and released ")
    assert done.specimen.state == "signed"
    assert (sign_off.kind, sign_off.meaning, sign_off.reason) == ("sign", "Reviewed and released", None)
    kept = sign_off.report
    assert {name: kept[name] for name in ("model_key", "weights_sha256", "code_version", "min_score")} == (
        MODEL | {"min_score": 0.5}
    )
    assert (kept["cut_off_version"], kept["objective"], kept["fields_total"], kept["unreviewed"]) == (
        "B-1",
        "40x",
        2,
        3,
    )
    rbc = next(row for row in kept["rows"] if row["class_name"] == "RBC")
    assert (rbc["total"], rbc["fields"], rbc["mean"], rbc["unit"]) == (2, 2, 1.0, "HPF")
    assert [list(pair) for pair in rbc["per_field"]] == [[done.fields[0].id, 2], [done.fields[1].id, 0]]
    (event,) = audit.events(session, action="specimen.sign")
    assert event.new["report"] == json.loads(json.dumps(kept))


def test_what_somebody_changed_since_it_was_read_is_not_signed(
    session: Session, done: Analysed, technologist: User, reviewer: User
) -> None:
    number = done.specimen.id

    def sign(seen: str) -> None:
        reviews.sign(session, number, by=reviewer, meaning="Reviewed", seen=seen)

    seen = reviews.fingerprint(session, number)
    key = reviews.add(session, done.analysis.id, done.fields[0].id, "WBC", (1, 1, 30, 30), by=technologist)
    with pytest.raises(Conflict, match=r"Somebody changed this report while you read it\. Read it again"):
        sign(seen)
    reviews.remove(session, done.analysis.id, [key], by=technologist)
    assert reviews.fingerprint(session, number) == seen, "the report is what it was"
    specimens.reassign(session, number, identifier="H-2", patient_name=None, by=technologist, reason="mistyped")
    with pytest.raises(Conflict, match="Somebody changed this report"):
        sign(seen)
    sign(reviews.fingerprint(session, number))
    assert done.specimen.state == "signed"


def test_signed_is_final_until_a_reviewer_reopens_it_with_a_reason(
    session: Session, done: Analysed, technologist: User, reviewer: User
) -> None:
    run, number = done.analysis.id, done.specimen.id
    key = keys(session, done)[0]
    reviews.sign(session, number, by=reviewer, meaning="Reviewed")
    refused = r"A-1 is signed\. A reviewer must reopen it with a reason first"
    with pytest.raises(Conflict, match=refused):
        reviews.remove(session, run, [key], by=technologist)
    with pytest.raises(Conflict, match=refused):
        reviews.undo_last(session, run, technologist)
    with pytest.raises(Conflict, match=refused):
        reviews.set_threshold(session, run, 0.9, technologist)
    with pytest.raises(Conflict, match=refused):
        specimens.add_fields(session, number, [a_picture("late.png")], by=technologist)
    with pytest.raises(Conflict, match="A-1 is signed already"):
        reviews.sign(session, number, by=reviewer, meaning="Reviewed")
    with pytest.raises(InputError, match="Say why the signed report must change"):
        reviews.reopen(session, number, by=reviewer, reason="  ")
    reviews.reopen(session, number, by=reviewer, reason="A yeast was taken for a red cell")
    assert done.specimen.state == "needs_review"
    assert reviews.remove(session, run, [key], by=technologist) == 1


def test_a_correction_made_while_another_person_signs_is_refused(
    session: Session, engine: Engine, done: Analysed, technologist: User, reviewer: User
) -> None:
    key = keys(session, done)[0]
    session.commit()
    ended: list[str] = []

    def correct() -> None:
        try:
            with session_scope(engine) as own:
                reviews.remove(own, done.analysis.id, [key], by=technologist)
            ended.append("corrected")
        except Conflict as refused:
            ended.append(str(refused))

    reviews.sign(session, done.specimen.id, by=reviewer, meaning="Reviewed")
    thread = threading.Thread(target=correct)
    thread.start()
    thread.join(0.5)
    assert ended == []  # it waits for the signature
    session.commit()
    thread.join()
    assert ended == ["Specimen A-1 is signed. A reviewer must reopen it with a reason first."]


def test_an_amendment_leaves_the_first_signature_as_it_was(
    session: Session, done: Analysed, technologist: User, reviewer: User
) -> None:
    number = done.specimen.id
    reviews.sign(session, number, by=reviewer, meaning="Reviewed")
    reviews.reopen(session, number, by=reviewer, reason="A yeast was taken for a red cell")
    reviews.reclassify(session, done.analysis.id, keys(session, done)[:1], by=technologist, class_name="Yeast")
    reviews.sign(session, number, by=reviewer, meaning="Amended")
    session.expire_all()
    steps = reviews.history(session, number)
    assert [(step.kind, step.by, step.meaning, step.reason) for step in steps] == [
        ("sign", "Rita of the lab", "Reviewed", None),
        ("reopen", "Rita of the lab", "", "A yeast was taken for a red cell"),
        ("amend", "Rita of the lab", "Amended", "A yeast was taken for a red cell"),
    ]
    assert steps[1].report is None
    signed = [
        {row.class_name: row.total for row in reports.rows_of(step.report) if row.total}
        for step in (steps[0], steps[2])
        if step.report
    ]
    assert signed == [{"RBC": 2, "WBC": 1}, {"RBC": 1, "WBC": 1, "Yeast": 1}]
    with pytest.raises(DBAPIError, match="append-only"), session.begin_nested():
        session.execute(update(SignOff).values(meaning="changed"))


def test_nothing_is_signed_while_it_runs_has_failed_or_lacks_a_field(
    session: Session, done: Analysed, technologist: User, reviewer: User
) -> None:
    number = done.specimen.id
    second = analyses.request(session, done.specimen, **MODEL, options={}, by=technologist)
    with pytest.raises(Conflict, match="A-1 is waiting; it can be signed once its analysis is complete"):
        reviews.sign(session, number, by=reviewer, meaning="Reviewed")
    specimens.add_fields(session, number, [a_picture("new.png")], by=technologist)
    analyses.fail(session, second.id, "Out of memory.")
    with pytest.raises(Conflict, match="A-1 is failed; it can be signed once"):
        reviews.sign(session, number, by=reviewer, meaning="Reviewed")
    analyses.cancel(session, second.id, technologist)  # the first analysis counts again, but never saw the new field
    with pytest.raises(Conflict, match="1 of 3 fields of specimen A-1 have no result yet"):
        reviews.sign(session, number, by=reviewer, meaning="Reviewed")


def test_a_signature_needs_a_meaning(session: Session, done: Analysed, reviewer: User) -> None:
    with pytest.raises(InputError, match="Say what the signature means"):
        reviews.sign(session, done.specimen.id, by=reviewer, meaning=" ")


def test_reopening_what_is_not_signed_is_refused(session: Session, done: Analysed, reviewer: User) -> None:
    with pytest.raises(Conflict, match="A-1 is awaiting review, not signed: nothing to reopen"):
        reviews.reopen(session, done.specimen.id, by=reviewer, reason="why not")


def test_the_audit_trail_of_a_whole_review_verifies(
    session: Session, done: Analysed, technologist: User, reviewer: User
) -> None:
    reviews.confirm(session, done.analysis.id, keys(session, done), by=technologist)
    reviews.add(session, done.analysis.id, done.fields[0].id, "RBC", (0, 0, 10, 10), by=technologist)
    reviews.sign(session, done.specimen.id, by=reviewer, meaning="Reviewed")
    assert audit.verify(session) == len(audit.events(session))
