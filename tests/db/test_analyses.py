from __future__ import annotations

import threading

import pytest
from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session

from db import analyses, audit, reviews, specimens
from db.engine import session_scope
from db.models import Analysis, FieldResult, Finding, Specimen, User
from renalcore.errors import Conflict, InputError, NotFound
from tests.db.records import MODEL, Analyse, Register, found


@pytest.fixture
def specimen(register: Register) -> Specimen:
    return register("A-1")


@pytest.fixture
def analysis(session: Session, specimen: Specimen, technologist: User) -> Analysis:
    return analyses.request(session, specimen, **MODEL, options={"min_score": 0.3}, by=technologist)


def store(session: Session, analysis: Analysis, number: int, worker: str = "w1") -> bool:
    field = specimens.fields(session, analysis.specimen_id)[number]
    return analyses.store_field(
        session, analysis.id, field.id, detections=found(("RBC", 0.9), ("WBC", 0.2)), seconds=0.5, worker=worker
    )


def test_an_analysis_goes_from_queued_to_review(session: Session, specimen: Specimen, analysis: Analysis) -> None:
    assert (analysis.state, specimen.state) == ("queued", "waiting")
    assert analyses.start(session, analysis.id, device="cpu", worker="w1")
    assert (analysis.state, specimen.state, analysis.device) == ("running", "running", "cpu")
    assert store(session, analysis, 0)
    assert analyses.progress(session, analysis.id) == (1, 2)
    with pytest.raises(Conflict, match="A-1 cannot be completed: 1 of 2 fields lack a result"):
        analyses.finish(session, analysis.id)
    assert store(session, analysis, 1)
    assert analyses.finish(session, analysis.id)
    assert (analysis.state, specimen.state) == ("done", "needs_review")
    assert analysis.started_at is not None
    assert analysis.finished_at is not None
    assert not analyses.finish(session, analysis.id)  # a second worker may say so too
    assert [event.action for event in reversed(audit.events(session, entity="analysis"))] == [
        "analysis.request", "analysis.running", "analysis.done",
    ]  # fmt: skip


def test_findings_are_stored_as_the_model_gave_them(session: Session, analysis: Analysis) -> None:
    store(session, analysis, 0)
    rows = session.scalars(select(Finding).order_by(Finding.id)).all()
    assert [(row.class_name, row.score, (row.x1, row.y1, row.x2, row.y2)) for row in rows] == [
        ("RBC", 0.9, (0, 10, 40, 50)),
        ("WBC", 0.2, (50, 10, 90, 50)),
    ]


def test_no_model_is_ever_certain(session: Session, analysis: Analysis) -> None:
    field = specimens.fields(session, analysis.specimen_id)[0]
    analyses.store_field(
        session, analysis.id, field.id, detections=found(("RBC", 1.0), ("RBC", 0.7)), seconds=0.5, worker="w1"
    )
    assert session.scalars(select(Finding.score).order_by(Finding.id)).all() == [0.999999, 0.7]


def test_a_field_is_stored_once(session: Session, analysis: Analysis) -> None:
    assert store(session, analysis, 0, worker="w1")
    assert not store(session, analysis, 0, worker="w2")
    assert session.scalar(select(func.count()).select_from(Finding)) == 2
    assert session.scalar(select(FieldResult.worker)) == "w1"


def test_two_workers_at_the_same_moment_store_a_field_once(
    session: Session, engine: Engine, analysis: Analysis
) -> None:
    field = specimens.fields(session, analysis.specimen_id)[0]
    session.commit()
    together, stored = threading.Barrier(4), []

    def work(worker: str) -> None:
        together.wait()
        with session_scope(engine) as own:
            stored.append(
                analyses.store_field(
                    own, analysis.id, field.id, detections=found(("RBC", 0.9)), seconds=0.5, worker=worker
                )
            )

    threads = [threading.Thread(target=work, args=(f"w{i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(stored) == [False, False, False, True]
    assert session.scalar(select(func.count()).select_from(Finding)) == 1


def test_a_field_of_another_specimen_is_refused(session: Session, analysis: Analysis, register: Register) -> None:
    other = specimens.fields(session, register("A-2").id)[0]
    with pytest.raises(NotFound, match=f"Field {other.id} does not belong to the specimen of analysis {analysis.id}"):
        analyses.store_field(session, analysis.id, other.id, detections=found(), seconds=0.1, worker="w1")


def test_a_failed_analysis_is_retried_with_the_fields_it_has(
    session: Session, specimen: Specimen, analysis: Analysis, technologist: User
) -> None:
    analyses.start(session, analysis.id, device="cpu", worker="w1")
    store(session, analysis, 0)
    assert analyses.fail(session, analysis.id, "The worker ran out of memory. Retry.")
    assert (analysis.state, specimen.state, analysis.message) == (
        "failed", "failed", "The worker ran out of memory. Retry.",
    )  # fmt: skip
    again = analyses.retry(session, analysis.id, technologist)
    assert again is analysis
    assert (analysis.state, specimen.state, analysis.message, analysis.workflow_id) == ("queued", "waiting", "", None)
    assert [field.position for field in analyses.pending_fields(session, analysis.id)] == [1]
    with pytest.raises(Conflict, match="is waiting: nothing to retry"):
        analyses.retry(session, analysis.id, technologist)


def test_a_worker_takes_over_without_a_second_event(session: Session, analysis: Analysis) -> None:
    analyses.start(session, analysis.id, device="cpu", worker="w1")
    started = analysis.started_at
    assert analyses.start(session, analysis.id, device="cuda", worker="w2")
    assert (analysis.started_at, analysis.device) == (started, "cuda")
    assert len(audit.events(session, action="analysis.running")) == 1


def test_what_was_cancelled_neither_starts_nor_stores_nor_fails(
    session: Session, specimen: Specimen, analysis: Analysis, technologist: User
) -> None:
    analyses.cancel(session, analysis.id, technologist)
    assert (analysis.state, specimen.state) == ("cancelled", "cancelled")
    assert analysis.message == "Cancelled by Tess of the lab."
    assert analyses.is_cancelled(session, analysis.id)
    assert analyses.current(session, specimen.id) is None
    assert not analyses.start(session, analysis.id, device="cpu", worker="w1")
    assert not store(session, analysis, 0)
    assert not analyses.fail(session, analysis.id, "late")
    assert not analyses.finish(session, analysis.id)
    with pytest.raises(Conflict, match="is cancelled: nothing to cancel"):
        analyses.cancel(session, analysis.id, technologist)
    analyses.retry(session, analysis.id, technologist)
    assert (analysis.state, specimen.state) == ("queued", "waiting")


def test_another_model_is_another_analysis_and_cancelling_it_brings_the_first_back(
    session: Session, analysed: Analyse, technologist: User
) -> None:
    done = analysed(found(("RBC", 0.9)))
    second = analyses.request(
        session, done.specimen, model_key="sediment-multihead-s", weights_sha256="b" * 64, code_version="0.1.0",
        options={}, by=technologist,
    )  # fmt: skip
    assert analyses.current(session, done.specimen.id) is second
    assert done.specimen.state == "waiting"
    assert [one.id for one in analyses.all_of(session, done.specimen.id)] == [done.analysis.id, second.id]
    with pytest.raises(Conflict, match="already waiting for sediment-multihead-s"):
        analyses.request(session, done.specimen, **MODEL, options={}, by=technologist)
    analyses.cancel(session, second.id, technologist)
    assert analyses.current(session, done.specimen.id) is done.analysis
    assert done.specimen.state == "needs_review"


def test_a_failed_second_analysis_is_dismissed_or_superseded(
    session: Session, analysed: Analyse, technologist: User
) -> None:
    done = analysed(found())
    second = analyses.request(session, done.specimen, **MODEL, options={}, by=technologist)
    analyses.fail(session, second.id, "The weights are missing.")
    assert done.specimen.state == "failed"
    analyses.cancel(session, second.id, technologist)
    assert done.specimen.state == "needs_review"
    analyses.request(session, done.specimen, **MODEL, options={}, by=technologist)
    with pytest.raises(Conflict, match="A newer analysis of specimen"):
        analyses.retry(session, second.id, technologist)


def test_a_signed_specimen_is_not_analysed_again(
    session: Session, analysed: Analyse, technologist: User, reviewer: User
) -> None:
    done = analysed(found())
    reviews.sign(session, done.specimen.id, by=reviewer, meaning="Reviewed")
    with pytest.raises(Conflict, match=r"is signed\. A reviewer must reopen it"):
        analyses.request(session, done.specimen, **MODEL, options={}, by=technologist)


def test_a_lowest_score_that_is_none_is_refused(session: Session, specimen: Specimen, technologist: User) -> None:
    with pytest.raises(InputError, match="must be a number from 0 to 1, got 30"):
        analyses.request(session, specimen, **MODEL, options={"min_score": 30}, by=technologist)


def test_no_such_analysis(session: Session) -> None:
    with pytest.raises(NotFound, match="There is no analysis 99"):
        analyses.progress(session, 99)
