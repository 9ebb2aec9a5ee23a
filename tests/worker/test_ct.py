"""The durable worker at CT scans: killed, told to stop, and answered with what cannot be read."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest
from sqlalchemy import func, select

from db import analyses, ct_files, ct_searches, queue
from db.engine import session_scope
from db.models import CtResult, CtScan, CtStep, StoredFile
from renalcore.ct.measure import Measures, from_dict
from tests.ct_analysed import CYST, TUMOUR
from tests.renalcore.ct.bright import LEFT, RIGHT, body
from tests.worker.laboratory import Laboratory

PORTAL, EXPERT = body([RIGHT, LEFT], tumours=[TUMOUR], cysts=[CYST])
NATIVE, _ = body([LEFT], shape=(58, 60, 80))


def measures_of(analysis_id: int) -> dict[str, Measures]:
    """What was found in each scan that has a result."""
    with session_scope(read_only=True) as session:
        rows = session.execute(
            select(CtScan.name, CtResult.measures)
            .join(CtResult, CtResult.scan_id == CtScan.id)
            .where(CtResult.analysis_id == analysis_id)
        )
        return {row.name: from_dict(row.measures) for row in rows}


@pytest.mark.parametrize("laboratory", ["lab", pytest.param("big_lab", marks=pytest.mark.postgres)])
def test_a_worker_killed_in_the_middle_of_step_two_goes_on_with_what_step_one_gave_and_finishes_once(
    laboratory: str, request: pytest.FixtureRequest
) -> None:
    lab: Laboratory = request.getfixturevalue(laboratory)
    analysis_id = lab.study(portal=PORTAL)
    killed = lab.start("--name", "anna", "--seconds", "1.5")
    lab.until(lambda: lab.calls()["kidney of 60 slices"] == 1)
    with session_scope(read_only=True) as session:
        assert ct_searches.at_work_on(session, analysis_id) == "step 2 of 3: kidneys"
        assert analyses.progress(session, analysis_id) == (1, 3)
    killed.kill()
    killed.wait()
    assert (lab.analysis(analysis_id).state, lab.steps_done()) == ("running", ["rough"])

    lab.start("--name", "anna")  # started again: it knows its own
    lab.until_all_ended(analysis_id)
    analysis = lab.analysis(analysis_id)
    assert (analysis.state, analysis.message) == ("done", ""), lab.log()
    assert lab.calls() == {
        "rough of 60 slices": 1, "kidney of 60 slices": 2, "lesion of 60 slices": 1, "finish of 60 slices": 1
    }  # fmt: skip
    assert lab.steps_done() == ["rough", "kidney", "lesion"]
    with session_scope(read_only=True) as session:
        assert session.scalar(select(func.count()).where(CtStep.content.is_not(None))) == 0, "dropped"
        result = session.scalars(select(CtResult)).one()
        stored = session.get_one(StoredFile, result.labels_id)
        assert list(result.seconds) == ["rough", "kidney", "lesion", "labels", "measures"]
        assert result.words == "Two kidneys were found: right, left. Found in them: 1 tumour and 1 cyst."
        assert session.get_one(CtScan, result.scan_id).specimen.state == "needs_review"
    labels = ct_files.labels(stored.sha256)
    assert 2 * np.count_nonzero((labels > 0) & (EXPERT > 0)) / np.count_nonzero([labels, EXPERT]) > 0.9
    assert [lesion.label for lesion in measures_of(analysis_id)["portal"].lesions] == ["tumour", "cyst"]


def test_a_scan_that_cannot_be_read_stops_no_other_and_is_named(lab: Laboratory) -> None:
    analysis_id = lab.study(lost=PORTAL, native=NATIVE)
    with session_scope(read_only=True) as session:
        sha256 = session.scalars(select(CtScan).where(CtScan.name == "lost")).one().image.sha256
    (lab.folder / "files" / sha256[:2] / sha256).unlink()
    lab.start()
    lab.until_all_ended(analysis_id)
    failed = lab.analysis(analysis_id)
    assert failed.state == "failed"
    assert failed.message == (
        "1 of 2 scans could not be searched. "
        "lost: its file is missing from the file store. Ask IT to restore it, or withdraw the scan. "
        "The other 1 of 2 scans are done and kept."
    )
    assert [kidney.side for kidney in measures_of(analysis_id)["native"].kidneys] == ["left"]

    with session_scope() as session:
        session.scalars(select(CtScan).where(CtScan.name == "lost")).one().withdrawn_at = datetime.now(UTC)
        analyses.retry(session, analysis_id, lab.user)
    queue.enqueue(analysis_id)
    lab.until_all_ended(analysis_id)
    assert lab.analysis(analysis_id).state == "done"
    assert set(lab.calls().values()) == {1}, "what was done is kept"


def test_scans_of_several_studies_are_searched_one_at_a_time_and_a_worker_told_to_stop_ends_its_step(
    lab: Laboratory,
) -> None:
    both = lab.study(portal=PORTAL), lab.study(native=NATIVE)
    told = lab.start("--name", "anna", "--seconds", "1")
    lab.until(lambda: any(call.startswith("kidney") for call in lab.calls()))
    told.terminate()
    assert told.wait(timeout=120) == 0
    assert lab.steps_done() == ["rough", "kidney"], "the step at hand was ended, and none of the other study begun"

    lab.start("--name", "bert")
    lab.until_all_ended(*both)
    assert [lab.analysis(analysis_id).state for analysis_id in both] == ["done", "done"], lab.log()
    assert set(lab.calls().values()) == {1}
    slices = [line.split(" of ")[1] for line in lab.calls_file.read_text().splitlines()]
    first, *_ = slices
    assert slices in ([first] * 4 + [slices[-1]] * 4, [first] * 2 + [slices[2]] * 4 + [first] * 2)
