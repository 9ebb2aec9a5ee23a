"""A field or slide that is withdrawn from its specimen, and one that is brought back."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from alembic import command
from sqlalchemy.orm import Session

from db import (
    analyses,
    audit,
    glomeruli,
    reports,
    reviewed_glomeruli,
    reviews,
    slide_reports,
    slides,
    specimens,
    worklist,
)
from db.engine import alembic_config, engine_for, upgrade
from db.models import User
from renalcore.errors import Conflict, InputError, NotFound
from tests.db.records import MODEL, Analyse, Found, Register, a_new_slide, a_picture, found, searched


def means(session: Session, specimen_id: int) -> dict[str, float]:
    return {row.class_name: row.mean for row in reports.report(session, specimen_id).rows if row.total}


def test_what_lies_in_a_withdrawn_field_counts_no_longer_and_again_once_it_is_back(
    session: Session, analysed: Analyse, technologist: User
) -> None:
    done = analysed(found(("RBC", 0.9), ("RBC", 0.9)), found(("WBC", 0.9)))
    number, (first, second) = done.specimen.id, done.fields
    reviews.confirm(session, done.analysis.id, ["f1"], by=technologist)
    assert means(session, number) == {"RBC": 2 / 2, "WBC": 1 / 2}

    specimens.withdraw_field(session, first.id, by=technologist, reason="of another patient")
    assert means(session, number) == {"WBC": 1 / 1}
    report = reports.report(session, number)
    assert ([field.field_id for field in report.fields], report.fields_total, report.unreviewed) == ([second.id], 1, 1)
    assert {item.class_name for item in reviews.objects(session, done.analysis.id)} == {"WBC"}
    assert specimens.fields(session, number) == [second]
    assert specimens.withdrawn_fields(session, number) == [first]
    (line,) = worklist.page(session).rows
    assert (line.fields_done, line.fields_total, line.state) == (1, 1, "needs_review")

    specimens.bring_back_field(session, first.id, by=technologist)
    assert means(session, number) == {"RBC": 2 / 2, "WBC": 1 / 2}
    assert reviews.objects(session, done.analysis.id)[0].status == "confirmed", "corrections are kept"


def test_a_withdrawal_is_audited_with_its_reason(session: Session, analysed: Analyse, technologist: User) -> None:
    done = analysed(found(), found())
    specimens.withdraw_field(session, done.fields[0].id, by=technologist, reason=" out of focus ")
    specimens.bring_back_field(session, done.fields[0].id, by=technologist)
    back, out = audit.events(session, entity="specimen", entity_id=done.specimen.id, limit=2)
    assert (out.action, out.actor_name, out.reason) == ("specimen.withdraw_field", "tess", "out of focus")
    assert (out.old, out.new["fields"], out.new["name"]) == ({"fields": 2}, 1, "S-1-0.png")
    assert out.new["sha256"] == a_picture("S-1-0.png").sha256
    assert (back.action, back.old, back.new["fields"]) == ("specimen.bring_back_field", {"fields": 1}, 2)


def test_an_analysis_that_failed_at_a_withdrawn_field_alone_completes_when_retried(
    session: Session, register: Register, technologist: User
) -> None:
    specimen = register("A-1", pictures=["good.png", "damaged.png"])
    good, damaged = specimens.fields(session, specimen.id)
    analysis = analyses.request(session, specimen, **MODEL, options={}, by=technologist)
    analyses.start(session, analysis.id, device="cpu", worker="w1")
    analyses.store_field(session, analysis.id, good.id, detections=found(), seconds=0.1, worker="w1")
    analyses.fail(session, analysis.id, "damaged.png cannot be read.")
    specimens.withdraw_field(session, damaged.id, by=technologist, reason="the file is damaged")
    assert analyses.progress(session, analysis.id) == (1, 1)

    analyses.retry(session, analysis.id, technologist)
    assert analyses.pending_fields(session, analysis.id) == []
    analyses.start(session, analysis.id, device="cpu", worker="w1")
    assert analyses.finish(session, analysis.id)
    assert specimen.state == "needs_review"

    specimens.bring_back_field(session, damaged.id, by=technologist)
    assert (specimen.state, analysis.state) == ("waiting", "queued"), "it has no result yet"
    assert analyses.pending_fields(session, analysis.id) == [damaged]


def test_a_field_is_brought_back_to_the_analysis_that_counts_after_a_later_one_was_cancelled(
    session: Session, analysed: Analyse, technologist: User
) -> None:
    done = analysed(found(), found())
    later = analyses.request(session, done.specimen, **MODEL, options={}, by=technologist)
    (added,) = specimens.add_fields(session, done.specimen.id, [a_picture("new.png")], by=technologist)
    specimens.withdraw_field(session, added.id, by=technologist, reason="blurred")
    analyses.cancel(session, later.id, technologist)
    assert done.specimen.state == "needs_review"
    specimens.bring_back_field(session, added.id, by=technologist)
    assert (done.specimen.state, done.analysis.state, later.state) == ("waiting", "queued", "cancelled")
    assert analyses.pending_fields(session, done.analysis.id) == [added]


def test_a_field_can_be_withdrawn_while_the_analysis_runs_but_not_brought_back(
    session: Session, register: Register, technologist: User
) -> None:
    specimen = register("A-1")
    analysis = analyses.request(session, specimen, **MODEL, options={}, by=technologist)
    analyses.start(session, analysis.id, device="cpu", worker="w1")
    first, second = specimens.fields(session, specimen.id)
    specimens.withdraw_field(session, first.id, by=technologist, reason="twice the same place")
    assert analyses.pending_fields(session, analysis.id) == [second]
    with pytest.raises(Conflict, match=r"A-1 is being analysed. Wait for it, or cancel it, then bring A-1-1.png back"):
        specimens.bring_back_field(session, first.id, by=technologist)


def test_nothing_is_withdrawn_from_a_signed_specimen_until_it_is_reopened(
    session: Session, analysed: Analyse, technologist: User, reviewer: User
) -> None:
    done = analysed(found(("RBC", 0.9)), found())
    field, number = done.fields[1], done.specimen.id
    reviews.sign(session, number, by=reviewer, meaning="Released")
    with pytest.raises(Conflict, match=r"is signed. A reviewer must reopen it with a reason first"):
        specimens.withdraw_field(session, field.id, by=technologist, reason="out of focus")
    reviews.reopen(session, number, by=reviewer, reason="one field is out of focus")
    specimens.withdraw_field(session, field.id, by=technologist, reason="out of focus")
    reviews.sign(session, number, by=reviewer, meaning="Released")
    kept = [entry.report["fields_total"] for entry in reviews.history(session, number) if entry.report]
    assert kept == [2, 1], "the first report stays as it was signed"
    with pytest.raises(Conflict, match="is signed"):
        specimens.bring_back_field(session, field.id, by=technologist)


def test_what_cannot_be_withdrawn_is_refused_with_the_reason(
    session: Session, register: Register, technologist: User
) -> None:
    first, second = specimens.fields(session, register("A-1").id)
    with pytest.raises(InputError, match=r"Say why A-1-1.png is withdrawn"):
        specimens.withdraw_field(session, first.id, by=technologist, reason=" ")
    specimens.withdraw_field(session, first.id, by=technologist, reason="blurred")
    with pytest.raises(Conflict, match=r"A-1-1.png was withdrawn already"):
        specimens.withdraw_field(session, first.id, by=technologist, reason="blurred")
    with pytest.raises(Conflict, match=r"A-1-2.png is the only field of specimen A-1. Add another picture"):
        specimens.withdraw_field(session, second.id, by=technologist, reason="blurred")
    with pytest.raises(Conflict, match=r"A-1-2.png is not withdrawn"):
        specimens.bring_back_field(session, second.id, by=technologist)
    with pytest.raises(NotFound, match="There is no field 99"):
        specimens.withdraw_field(session, 99, by=technologist, reason="blurred")


def test_a_withdrawn_field_takes_no_corrections_and_undo_passes_it_over(
    session: Session, analysed: Analyse, technologist: User
) -> None:
    done = analysed(found(("RBC", 0.9)), found(("WBC", 0.9)))
    reviews.remove(session, done.analysis.id, ["f1"], by=technologist)
    specimens.withdraw_field(session, done.fields[0].id, by=technologist, reason="blurred")
    assert reviews.undo_last(session, done.analysis.id, technologist) == 0
    with pytest.raises(NotFound, match="No object f1 in the review"):
        reviews.confirm(session, done.analysis.id, ["f1"], by=technologist)
    with pytest.raises(NotFound, match=r"S-1-0.png was withdrawn"):
        reviews.add(session, done.analysis.id, done.fields[0].id, "RBC", (1, 1, 9, 9), by=technologist)


def test_a_withdrawn_picture_is_brought_back_and_not_uploaded_again(
    session: Session, register: Register, technologist: User
) -> None:
    specimen = register("A-1", pictures=["a.png", "b.png"])
    specimens.withdraw_field(session, specimens.fields(session, specimen.id)[0].id, by=technologist, reason="blurred")
    with pytest.raises(Conflict, match=r"same picture as a.png.*It was withdrawn: bring it back instead"):
        specimens.add_fields(session, specimen.id, [a_picture("a.png")], by=technologist)
    assert specimens.seen_before(session, a_picture("a.png").sha256) == [], "it may belong to another specimen"


def test_a_database_of_the_first_schema_keeps_its_fields(database_url: str) -> None:
    engine = engine_for(database_url)
    with engine.begin() as connection:
        command.upgrade(alembic_config(connection), "0001")
        connection.execute(sa.text("INSERT INTO stored_files VALUES (1, 'aa', 10, 'image/png', '2026-01-01')"))
        connection.execute(sa.text("INSERT INTO patients VALUES (1, 'H-1', NULL, NULL, '2026-01-01')"))
        connection.execute(
            sa.text(
                "INSERT INTO users (id, username, full_name, role, is_active, failed_logins, created_at) "
                "VALUES (1, 'tess', 'Tess', 'technologist', TRUE, 0, '2026-01-01')"
            )
        )
        connection.execute(
            sa.text(
                "INSERT INTO cutoff_tables (id, version, title, source, rows, created_at) "
                "VALUES (9, 'v', 't', 's', '[]', '2026-01-01')"
            )
        )
        connection.execute(
            sa.text(
                "INSERT INTO specimens (id, patient_id, accession, modality, objective, scale_kind, state, "
                "created_by_id, created_at, cutoff_table_id) "
                "VALUES (1, 1, 'A-1', 'sediment', '40x', 'unknown', 'waiting', 1, '2026-01-01', 9)"
            )
        )
        connection.execute(
            sa.text(
                "INSERT INTO specimen_fields (id, specimen_id, position, file_id, name, width_px, height_px, flags) "
                "VALUES (1, 1, 0, 1, 'a.png', 100, 100, '[]')"
            )
        )
    engine.dispose()
    upgrade(database_url)
    with Session(engine) as session:
        assert [field.name for field in specimens.fields(session, 1)] == ["a.png"]
    engine.dispose()


def test_what_lies_on_a_withdrawn_slide_counts_no_longer_and_again_once_it_is_back(
    session: Session, technologist: User, reviewer: User
) -> None:
    specimen, analysis, (first, second) = searched(session, technologist, {"A1": [Found(1, 1)], "A2": []})
    glomeruli.confirm(session, analysis.id, ["f1"], by=technologist)
    with pytest.raises(InputError, match="Say why A1 is withdrawn"):
        slides.withdraw(session, first.id, by=technologist, reason=" ")
    slides.withdraw(session, first.id, by=technologist, reason=" of another patient ")
    assert [slide.name for slide in slide_reports.report(session, specimen.id).slides] == ["A2"]
    assert (slides.of_specimen(session, specimen.id), slides.withdrawn(session, specimen.id)) == ([second], [first])
    assert slides.seen_before(session, first.file.sha256) == []
    with pytest.raises(Conflict, match=r"A1 was withdrawn already"):
        slides.withdraw(session, first.id, by=technologist, reason="again")

    slides.bring_back(session, first.id, by=technologist)
    assert [item.status for item in reviewed_glomeruli.standing(session, analysis.id)] == ["confirmed"], (
        "corrections are kept"
    )
    with pytest.raises(Conflict, match=r"A1 is not withdrawn"):
        slides.bring_back(session, first.id, by=technologist)
    back, out = audit.events(session, entity="specimen", entity_id=specimen.id, limit=2)
    assert (out.action, out.reason, out.old) == ("specimen.withdraw_slide", "of another patient", {"slides": 2})
    assert (out.new["slides"], out.new["sha256"]) == (1, first.file.sha256)
    assert (back.action, back.old, back.new["slides"]) == ("specimen.bring_back_slide", {"slides": 1}, 2)
    reviews.sign(session, specimen.id, by=reviewer, meaning="Released")
    with pytest.raises(Conflict, match="is signed"):
        slides.withdraw(session, second.id, by=technologist, reason="late")


def test_the_only_slide_may_be_withdrawn_and_is_searched_once_it_is_back(session: Session, technologist: User) -> None:
    specimen, analysis, (only,) = searched(session, technologist, {"A1": []})
    added = slides.add(session, specimen.id, [a_new_slide(session, technologist, "A2")], by=technologist)
    assert (specimen.state, analysis.state) == ("waiting", "queued"), "the new slide has no result yet"
    for slide in (only, *added):
        slides.withdraw(session, slide.id, by=technologist, reason="of another patient")
    with pytest.raises(Conflict, match=r"It was withdrawn: bring it back instead"):
        slides.add(session, specimen.id, [a_new_slide(session, technologist, "A2")], by=technologist)
    analyses.start(session, analysis.id, device="cpu", worker="w1")
    with pytest.raises(Conflict, match=r"is being analysed\. Wait for it, or cancel it, then bring A2 back"):
        slides.bring_back(session, added[0].id, by=technologist)
    assert analyses.finish(session, analysis.id)
    slides.bring_back(session, only.id, by=technologist)
    assert specimen.state == "needs_review"
    slides.bring_back(session, added[0].id, by=technologist)
    assert (specimen.state, analysis.state) == ("waiting", "queued"), "it has no result yet"
