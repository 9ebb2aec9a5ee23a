"""The durable worker at CT scans: killed, told to stop, and answered with what cannot be read."""

from __future__ import annotations

import io
import tarfile
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import func, select

from db import analyses, ct_files, ct_searches, queue, uploads
from db.engine import session_scope
from db.models import CtResult, CtScan, CtStep, StoredFile, Upload
from db.uploads import Part
from renalcore.ct.measure import Measures, from_dict
from tests.ct_analysed import TUMOUR, stored_image
from tests.ct_files import ct_slice
from tests.ct_uploads import prepared, registered
from tests.renalcore.ct.bright import BODY, KIDNEY, LEFT, RIGHT, body
from tests.worker.laboratory import WEIGHTS_SHA256, Laboratory

CYST = ((10.0, 30.0, -64.0), (18.0, 16.0, 16.0))
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
    killed = lab.start("--name", "anna", "--die-at", "middle of kidney of 60 slices")
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
def test_a_study_of_a_thousand_slices_comes_in_pieces_is_gone_on_with_after_a_kill_and_finishes_once(
    lab: Laboratory,
) -> None:
    upload = sent_in_pieces(lab, large_study(lab.folder / "study.tar"))
    new = prepared(upload, "3", name="large")
    with session_scope() as session:
        specimen = registered(session, lab.user, new, accession="C-1")
        analysis_id = analyses.request(
            session, specimen, model_key="fake", weights_sha256=WEIGHTS_SHA256, code_version="test", options={},
            by=lab.user,
        ).id  # fmt: skip
    queue.enqueue(analysis_id)
    assert lab.start("--name", "anna", "--die-at", "middle of kidney of 1000 slices").wait(timeout=900) == 9
    worker = lab.start("--name", "anna")
    lab.until_all_ended(analysis_id, within_s=900)
    assert lab.analysis(analysis_id).state == "done", lab.log()
    assert lab.calls() == {
        "rough of 1000 slices": 1, "kidney of 1000 slices": 2, "lesion of 1000 slices": 1, "finish of 1000 slices": 1
    }  # fmt: skip
    assert [kidney.side for kidney in measures_of(analysis_id)["large"].kidneys] == ["right", "left"]
    status = Path(f"/proc/{worker.pid}/status").read_text()
    (peak_kb,) = (int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    assert peak_kb < 2e6, f"{peak_kb / 1e6:.2f} GB"


def sent_in_pieces(lab: Laboratory, path: Path) -> Upload:
    """A file as the browser sends it, the connection breaking off after each piece."""
    size = path.stat().st_size
    assert size > 520e6, "two bytes a voxel"
    with session_scope() as session:
        upload = uploads.begin(session, name="study", size=size, modified_ms=1, by=lab.user, modality="ct")
    with path.open("rb") as file:
        while piece := file.read(40_000_000):
            with closing(Part(upload, at=uploads.offset(upload))) as part:
                part.write(piece)
                if part.offset == size:
                    sha256, found = part.check()
    with session_scope() as session:
        upload = uploads.get(session, upload.key, by=lab.user)
        uploads.complete(session, upload, sha256, found)
    return upload


def large_study(path: Path) -> Path:
    """1,000 DICOM slices of 512 x 512 as the browser packs a folder: a box of body with two kidneys and air around."""
    z_mm = np.arange(1000) - 499.5
    y_mm = x_mm = 0.9 * (np.arange(512) - 255.5)
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for number, z in enumerate(z_mm):
            plane = np.full((512, 512), -1000, np.int16)
            plane[64:-64, 32:-32] = BODY
            for (cz, cy, cx), (rz, ry, rx) in (RIGHT, LEFT):
                plane[((z - cz) / rz) ** 2 + ((y_mm[:, None] - cy) / ry) ** 2 + ((x_mm - cx) / rx) ** 2 < 1] = KIDNEY
            content = io.BytesIO()
            ct_slice(plane, (0.0, 0.0, float(z)), spacing=(0.9, 0.9)).save_as(content, enforce_file_format=True)
            member = tarfile.TarInfo(f"{number:06d}")
            member.size = content.tell()
            content.seek(0)
            archive.addfile(member, content)
    return path
