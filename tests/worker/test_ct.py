"""The durable worker at CT scans: killed, told to stop, and answered with what cannot be read."""

from __future__ import annotations

import gzip
import io
from datetime import UTC, datetime
from pathlib import Path

import nibabel
import numpy as np
import pytest
from sqlalchemy import func, select

from db import analyses, ct_files, ct_searches, queue
from db.engine import session_scope
from db.models import CtResult, CtScan, CtStep, StoredFile
from renalcore.ct.measure import Measures, from_dict
from tests.ct_analysed import CYST, TUMOUR, stored_image
from tests.renalcore.ct.bright import BODY, KIDNEY, LEFT, RIGHT, body
from tests.worker.laboratory import Laboratory

VOLUME, EXPERT = body([RIGHT, LEFT], tumours=[TUMOUR], cysts=[CYST])
PORTAL = stored_image(VOLUME)
NATIVE = stored_image(body([LEFT], shape=(58, 60, 80))[0])


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
    killed = lab.start("--name", "anna", "--die-at", "kidney of 60 slices")
    assert killed.wait(timeout=300) == 9
    assert (lab.analysis(analysis_id).state, lab.steps_done()) == ("running", ["rough"])
    with session_scope(read_only=True) as session:
        assert ct_searches.at_work_on(session, analysis_id) == "step 2 of 3: kidneys"
        assert analyses.progress(session, analysis_id) == (1, 3)

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
    told = lab.start("--name", "anna", "--seconds", "0.5")
    lab.until(lambda: any(call.startswith("kidney") for call in lab.calls()))
    told.terminate()
    assert told.wait(timeout=120) == 0
    assert lab.steps_done()[:2] == ["rough", "kidney"]
    assert len(lab.steps_done()) == sum(lab.calls().values()) < 4, (
        "no step was begun and lost, and no other study begun"
    )

    lab.start("--name", "bert")
    lab.until_all_ended(*both)
    assert [lab.analysis(analysis_id).state for analysis_id in both] == ["done", "done"], lab.log()
    assert set(lab.calls().values()) == {1}
    slices = [line.split(" of ")[1] for line in lab.calls_file.read_text().splitlines()]
    studies = [number for number, before in zip(slices, ["", *slices], strict=False) if number != before]
    assert len(studies) <= 3, "one study, the other, and what was left of the first: never in turns"


@pytest.mark.long
def test_a_scan_of_a_thousand_slices_is_gone_on_with_after_a_kill_within_two_gigabytes(lab: Laboratory) -> None:
    scan = large_scan()
    assert len(scan) < 20e6, "packed; its voxels take 524 MB"
    analysis_id = lab.study(large=scan)
    assert lab.start("--name", "anna", "--die-at", "kidney of 1000 slices").wait(timeout=900) == 9
    worker = lab.start("--name", "anna")
    lab.until_all_ended(analysis_id, within_s=900)
    assert (lab.analysis(analysis_id).state, lab.calls()["rough of 1000 slices"]) == ("done", 1), lab.log()
    assert [kidney.side for kidney in measures_of(analysis_id)["large"].kidneys] == ["right", "left"]
    status = Path(f"/proc/{worker.pid}/status").read_text()
    (peak_kb,) = (int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    assert peak_kb < 2e6, f"{peak_kb / 1e6:.2f} GB"


def large_scan() -> bytes:
    """1,000 slices of 512 x 512 as NIfTI, written slice by slice: a box of body with two kidneys and air around it."""
    shape, spacing_mm = (1000, 512, 512), (1.0, 0.9, 0.9)
    z_mm, y_mm, x_mm = ((np.arange(n) - (n - 1) / 2) * mm for n, mm in zip(shape, spacing_mm, strict=True))
    header = nibabel.Nifti1Header()
    header.set_data_shape(shape[::-1])
    header.set_data_dtype(np.int16)
    header.set_sform(np.diag([-spacing_mm[2], -spacing_mm[1], spacing_mm[0], 1]), code=1)
    header["magic"], header["vox_offset"] = b"n+1", 352
    packed = io.BytesIO()
    with gzip.open(packed, "wb", 1) as file:
        file.write(header.binaryblock + bytes(4))
        for z in z_mm:
            plane = np.full(shape[1:], -1000, "<i2")
            plane[64:-64, 32:-32] = BODY
            for (cz, cy, cx), (rz, ry, rx) in (RIGHT, LEFT):
                plane[((z - cz) / rz) ** 2 + ((y_mm[:, None] - cy) / ry) ** 2 + ((x_mm - cx) / rx) ** 2 < 1] = KIDNEY
            file.write(plane.tobytes())
    return packed.getvalue()
