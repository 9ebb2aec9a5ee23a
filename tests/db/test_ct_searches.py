"""The record of a search through scans: step by step, finished, and complete."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session

from db import analyses, audit, ct_searches, queue, specimens
from db.engine import session_scope
from db.models import Analysis, CtResult, CtScan, CtStep, Specimen, User
from renalcore.ct import steps
from renalcore.ct.measure import Kidney, Measures, from_dict
from renalcore.errors import Conflict, NotFound
from tests.db.records import MODEL, a_ct_study

STEPS = list(ct_searches.STEPS)
KIDNEY = Kidney(1, "left", "usual", 150.5, 0.0, 2.25, 110.0, 98.7, 12.0, (60.0, 30.0, -4.5))
FOUND = Measures((KIDNEY,), (), "One kidney was found: left.", "body")
SECONDS = {"rough": 1.0, "kidney": 1.0, "lesion": 1.0, "labels": 0.5, "measures": 0.25}


AT_ONCE = timedelta(seconds=-1)


def asked(session: Session, specimen: Specimen, by: User) -> Analysis:
    analysis = analyses.request(session, specimen, **MODEL, options={}, by=by)
    assert analyses.start(session, analysis.id, device="cpu", worker="w1")
    return analysis


def step(session: Session, analysis: Analysis, scan: CtScan, number: int) -> bool:
    content = f"step {number}".encode()
    return ct_searches.store_step(session, analysis.id, scan.id, STEPS[number], content, seconds=1.0)


def at_work(session: Session, analysis: Analysis, scan: CtScan) -> str:
    ct_searches.begin_step(session, analysis.id, scan.id)
    return ct_searches.at_work_on(session, analysis.id)


def finish(session: Session, analysis: Analysis, scan: CtScan) -> bool:
    labels = specimens.stored_file(session, "e" * 64, size=9, media_type="application/gzip")
    return ct_searches.finish_scan(
        session, analysis.id, scan.id, labels.id, FOUND, "One kidney was found: left.", SECONDS, "w1"
    )


def test_scans_are_searched_step_by_step_until_the_study_needs_review(session: Session, technologist: User) -> None:
    specimen = a_ct_study(session, technologist, "portal", "native")
    first, second = specimen.scans
    analysis = asked(session, specimen, technologist)
    assert analyses.progress(session, analysis.id) == (0, 2 * 3)
    told = []
    for number in range(3):
        told.append(at_work(session, analysis, first))
        assert step(session, analysis, first, number)
    told.append(at_work(session, analysis, first))
    assert told == [
        "scan 1 of 2, step 1 of 3: looking for the kidneys",
        "scan 1 of 2, step 2 of 3: kidneys",
        "scan 1 of 2, step 3 of 3: tumours and cysts",
        "scan 1 of 2, measuring",
    ]
    stored = ct_searches.stored_steps(session, analysis.id, first.id)
    assert [(row.name, row.content, row.seconds) for row in stored] == [
        ("rough", b"step 0", 1.0), ("kidney", b"step 1", 1.0), ("lesion", b"step 2", 1.0)
    ]  # fmt: skip

    assert finish(session, analysis, first)
    assert session.scalar(select(func.count()).where(CtStep.content.is_not(None))) == 0, "dropped"
    assert ct_searches.pending_scans(session, analysis.id) == [second]
    assert at_work(session, analysis, second) == "scan 2 of 2, step 1 of 3: looking for the kidneys"
    assert (analyses.progress(session, analysis.id), analyses.lacking(session, analysis.id)) == ((3, 6), (1, 2))
    with pytest.raises(Conflict, match="1 of 2 scans lack a result"):
        analyses.finish(session, analysis.id)

    for number in range(3):
        step(session, analysis, second, number)
    finish(session, analysis, second)
    assert analyses.finish(session, analysis.id)
    assert (specimen.state, analyses.progress(session, analysis.id)) == ("needs_review", (6, 6))
    assert ct_searches.at_work_on(session, analysis.id) == ""
    assert audit.events(session, action="analysis.done")[0].new["scans"] == 2
    result = session.scalars(select(CtResult).where(CtResult.scan_id == first.id)).one()
    assert from_dict(result.measures) == FOUND
    assert (result.words, result.seconds, result.worker) == ("One kidney was found: left.", SECONDS, "w1")


def test_of_two_workers_at_one_scan_the_first_counts_at_every_step(engine: Engine, technologist: User) -> None:
    with session_scope(engine) as session:
        specimen = a_ct_study(session, technologist, "portal")
        analysis, (scan,) = asked(session, specimen, technologist), specimen.scans

    def at_once(store: Callable[[Session], bool]) -> tuple[int, int]:
        """How many of two workers that store at once are told that it counts, and by how much the work moves on."""

        def worker(_number: int) -> tuple[bool, int]:
            with session_scope(engine) as own:
                counted = store(own)
                return counted, queue.ANALYSIS.progress(own, analysis.id)

        with session_scope(engine, read_only=True) as own:
            before = queue.ANALYSIS.progress(own, analysis.id)
        with ThreadPoolExecutor(2) as both:
            told = list(both.map(worker, range(2)))
        return sum(counted for counted, _ in told), max(after for _, after in told) - before

    for number in range(3):
        assert at_once(lambda own, number=number: step(own, analysis, scan, number)) == (1, 1)  # type: ignore[misc]
    assert at_once(lambda own: finish(own, analysis, scan)) == (1, 1)
    with session_scope(engine) as session:
        assert not step(session, analysis, scan, 0), "what has a result is not searched again"


def test_the_scan_that_is_searched_is_named_and_not_one_before_it_that_failed(
    session: Session, technologist: User
) -> None:
    specimen = a_ct_study(session, technologist, "lost", "native")
    lost, native = specimen.scans
    analysis = asked(session, specimen, technologist)
    assert ct_searches.at_work_on(session, analysis.id) == ""
    step(session, analysis, lost, 0)
    assert at_work(session, analysis, lost) == "scan 1 of 2, step 2 of 3: kidneys"
    assert at_work(session, analysis, native) == "scan 2 of 2, step 1 of 3: looking for the kidneys"
    analyses.fail(session, analysis.id, "lost: its file is missing.")
    assert at_work(session, analysis, native) == ""
    assert analysis.message == "lost: its file is missing."


def test_the_steps_of_a_search_that_was_given_up_are_swept_and_those_of_one_that_failed_stay_for_a_retry(
    session: Session, technologist: User
) -> None:
    specimen = a_ct_study(session, technologist, "portal", "native")
    portal, native = specimen.scans
    analysis = asked(session, specimen, technologist)
    for number in range(3):
        step(session, analysis, portal, number)
    finish(session, analysis, portal)
    step(session, analysis, native, 0)
    analyses.fail(session, analysis.id, "The power went.")
    assert analyses.sweep(session, older_than=AT_ONCE) == 0
    analyses.cancel(session, analysis.id, technologist)
    assert analyses.sweep(session) == 0, "cancelled just now"
    assert analyses.sweep(session, older_than=AT_ONCE) == 1
    assert analyses.progress(session, analysis.id) == (3, 6), "the scan that has its result keeps what it has"
    analyses.retry(session, analysis.id, technologist)
    assert step(session, analysis, native, 0), "begins anew"

    analyses.fail(session, analysis.id, "The power went again.")
    second = asked(session, specimen, technologist)
    assert analyses.sweep(session, older_than=AT_ONCE) == 0, "the second may still be dismissed"
    for scan in (portal, native):
        for number in range(3):
            step(session, second, scan, number)
        finish(session, second, scan)
    analyses.finish(session, second.id)
    assert analyses.sweep(session, older_than=AT_ONCE) == 1
    assert analyses.progress(session, second.id) == (6, 6)


def test_a_step_waits_for_the_one_before_it(session: Session, technologist: User) -> None:
    specimen = a_ct_study(session, technologist, "portal")
    analysis, (scan,) = asked(session, specimen, technologist), specimen.scans
    assert at_work(session, analysis, scan) == "step 1 of 3: looking for the kidneys"
    with pytest.raises(Conflict, match="portal cannot take the step lesion: the one before it is not stored"):
        step(session, analysis, scan, 2)
    with pytest.raises(NotFound, match="does not belong to the specimen"):
        ct_searches.store_step(session, analysis.id, 99, "rough", b"", seconds=1.0)


def test_a_withdrawn_scan_is_not_searched_and_one_that_is_cancelled_takes_nothing_more(
    session: Session, technologist: User
) -> None:
    specimen = a_ct_study(session, technologist, "portal", "native")
    first, second = specimen.scans
    analysis = asked(session, specimen, technologist)
    assert step(session, analysis, first, 0)
    first.withdrawn_at = datetime.now(UTC)
    session.flush()
    assert ct_searches.pending_scans(session, analysis.id) == [second]
    assert not step(session, analysis, first, 1)
    assert not finish(session, analysis, first)
    assert analyses.progress(session, analysis.id) == (0, 3), "neither its steps nor those it has count"

    step(session, analysis, second, 0)
    analyses.cancel(session, analysis.id, technologist)
    assert not step(session, analysis, second, 1)
    analyses.retry(session, analysis.id, technologist)
    assert step(session, analysis, second, 1), "it goes on where it was"


def test_scans_are_asked_for_as_fields_and_slides_are(session: Session, technologist: User) -> None:
    specimen = a_ct_study(session, technologist, "portal")
    analysis = asked(session, specimen, technologist)
    with pytest.raises(Conflict, match="already being analysed"):
        asked(session, specimen, technologist)
    assert (analyses.units("ct"), analyses.pictures("ct")) == ("steps", "scans")
    assert list(ct_searches.STEPS) == list(steps.STEPS), "as the model takes them"
    specimen.scans[0].withdrawn_at = datetime.now(UTC)
    analyses.cancel(session, analysis.id, technologist)
    with pytest.raises(Conflict, match=r"C-1 has no scan\. Upload one, or bring one back"):
        asked(session, specimen, technologist)
