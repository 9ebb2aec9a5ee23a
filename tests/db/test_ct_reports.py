"""Reports of CT studies: as they stand, as they were signed, over the patient's studies."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy.orm import Session

from db import audit, ct_findings, ct_reports, reports, reviews
from db.engine import now
from db.models import CtResult, CtScan, User
from renalcore.ct.measure import RENAL_NOTE
from renalcore.errors import Conflict, InputError, NotFound
from tests.ct_analysed import TUMOUR, Study, analysed, drawn, transplanted
from tests.db.records import MODEL, searched
from tests.renalcore.ct.bright import LEFT, RIGHT, body

JUNE, JULY = datetime(2026, 6, 1, tzinfo=UTC), datetime(2026, 7, 1, tzinfo=UTC)


@pytest.fixture(autouse=True)
def file_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RENAL_DATA", str(tmp_path))
    monkeypatch.setenv("RENAL_FILES", f"file://{tmp_path / 'files'}")


@pytest.fixture
def study(session: Session, technologist: User) -> Study:
    """Two scans: one with a tumour in the left kidney and a cyst in the right one, and one with the tumour alone."""
    return analysed(session, technologist, [drawn(), body([RIGHT, LEFT], tumours=[TUMOUR])], collected_at=JUNE)


def remove_tumour(session: Session, study: Study, by: User) -> None:
    (tumour, *_) = ct_findings.standing(session, study.analysis.id, study.scan.id).measures.lesions
    ct_findings.remove(session, study.analysis.id, study.scan.id, tumour.voxel, by=by)


def test_each_scan_is_reported_with_what_it_rests_on(session: Session, study: Study, technologist: User) -> None:
    report = ct_reports.report(session, study.specimen.id)
    first, second = report.scans
    assert (first.name, first.format, first.slices, first.spacing_mm) == ("Scan 1", "NIfTI", 60, (5.0, 4.0, 4.0))
    assert first.sha256 == study.scan.file.sha256
    assert [lesion.label for lesion in first.measures.lesions] == ["tumour", "cyst"]
    assert [lesion.label for lesion in second.measures.lesions] == ["tumour"]
    assert (report.scans_total, report.signature, report.measured_on) == (2, None, ct_reports.BY_THE_MODEL)
    assert {name: getattr(report, name) for name in MODEL} == MODEL | {"model_key": "ct-segresnet"}
    assert (report.accession, report.patient_identifier, report.taken_at) == ("CT-1", "H-1", JUNE)

    remove_tumour(session, study, technologist)
    changed = ct_reports.report(session, study.specimen.id).scan(study.scan.id)
    assert ([lesion.label for lesion in changed.measures.lesions], len(changed.corrections)) == (["cyst"], 1)
    assert changed.labels_sha256 != first.labels_sha256
    study.scan.withdrawn_at = now()
    session.flush()
    without = ct_reports.report(session, study.specimen.id)
    assert ([scan.name for scan in without.scans], without.scans_total) == (["Scan 2"], 1)
    with pytest.raises(NotFound, match=f"study CT-1 has no result of scan {study.scan.id}"):
        without.scan(study.scan.id)
    with pytest.raises(NotFound, match="There is no CT study 99"):
        ct_reports.report(session, 99)


def test_a_signed_report_stays_word_for_word_and_an_amendment_leaves_it_so(
    session: Session, study: Study, technologist: User, reviewer: User
) -> None:
    specimen = study.specimen
    standing = ct_reports.report(session, specimen.id)
    signature = reviews.sign(session, specimen.id, by=reviewer, meaning="Released")
    session.commit()
    session.expire_all()
    study.scan.name = "renamed"
    signed = ct_reports.report(session, specimen.id)
    assert signed == replace(standing, state="signed", signature=signed.signature)
    assert signed.signature is not None
    assert (signed.signature.by, signed.measured_on) == ("Rita of the lab", ct_reports.BY_A_PERSON)
    kept = signature.report
    assert (kept["accession"], kept["measured_on"], kept["renal_note"]) == (
        "CT-1", "Measured on labels reviewed by a person.", RENAL_NOTE,
    )  # fmt: skip
    assert kept["scans"][0]["measures"]["lesions"][0]["renal_r"] == 1
    with pytest.raises(Conflict, match=r"Study CT-1 is signed\. A reviewer must reopen it with a reason first"):
        remove_tumour(session, study, technologist)

    reviews.reopen(session, specimen.id, by=reviewer, reason="It is a vessel")
    remove_tumour(session, study, technologist)
    reviews.sign(session, specimen.id, by=reviewer, meaning="Amended")
    steps = reviews.history(session, specimen.id)
    assert [(step.kind, step.reason) for step in steps] == [
        ("sign", None), ("reopen", "It is a vessel"), ("amend", "It is a vessel"),
    ]  # fmt: skip
    scans = [ct_reports.scans_of(step.report)[0] for step in steps if step.report]
    assert [[lesion.label for lesion in scan.measures.lesions] for scan in scans] == [["tumour", "cyst"], ["cyst"]]
    assert scans[0] == standing.scans[0]
    amended = ct_reports.report(session, specimen.id)
    assert (amended.amendments, amended.scans) == (1, (scans[1], *standing.scans[1:]))
    assert amended.scans[0].corrections[0].was == "tumour"
    trail = audit.events(session, action="specimen.sign")[0].new
    assert trail is not None
    assert trail["report"] == kept
    assert audit.verify(session)


UNEVEN = {"code": "uneven_spacing", "message": "Volumes may be off by as much."}


def test_doubts_about_a_scan_are_signed_with_it_and_a_report_signed_without_them_stays_as_it_was(
    session: Session, study: Study, technologist: User, reviewer: User
) -> None:
    study.scan.flags = [UNEVEN]
    reviews.sign(session, study.specimen.id, by=reviewer, meaning="Released")
    study.scan.flags = []
    signed = ct_reports.report(session, study.specimen.id)
    assert [scan.doubts for scan in signed.scans] == [("Volumes may be off by as much.",), ()]
    kept = reviews.history(session, study.specimen.id)[0].report
    assert kept is not None
    assert kept["scans"][0]["doubts"] == ["Volumes may be off by as much."]
    before = {**kept, "scans": [{name: of for name, of in scan.items() if name != "doubts"} for scan in kept["scans"]]}
    assert ct_reports.scans_of(before) == tuple(replace(scan, doubts=()) for scan in signed.scans)
    assert audit.verify(session)


def test_what_lacks_a_result_or_has_no_scan_left_is_not_signed(session: Session, study: Study, reviewer: User) -> None:
    another = session.query(CtResult.labels_id).limit(1).scalar()
    late = CtScan(
        specimen_id=study.specimen.id, position=2, file_id=another, image_id=another, name="Late", format="NIfTI",
        is_deidentified=True, slices=1, height_px=1, width_px=1, spacing_mm=[1.0, 1.0, 1.0],
    )  # fmt: skip
    session.add(late)
    with pytest.raises(Conflict, match=r"1 of 3 scans of study CT-1 have no result yet\. Analyse them before signing"):
        reviews.sign(session, study.specimen.id, by=reviewer, meaning="Released")
    for scan in session.query(CtScan):
        scan.withdrawn_at = now()
    session.flush()
    with pytest.raises(Conflict, match=r"All scans of study CT-1 are withdrawn\. Bring one back before signing"):
        reviews.sign(session, study.specimen.id, by=reviewer, meaning="Released")


def test_a_patients_volumes_follow_each_other_in_the_order_of_the_scans(
    session: Session, technologist: User, reviewer: User
) -> None:
    late = analysed(session, technologist, accession="CT-2", collected_at=JULY)
    early = analysed(session, technologist, [body([LEFT])], accession="CT-1", collected_at=JUNE)
    analysed(session, technologist, [body([RIGHT])], accession="CT-9", identifier="H-2")
    slides, _, _ = searched(session, technologist, {"A1": []})
    reviews.sign(session, early.specimen.id, by=reviewer, meaning="Released")
    patient = slides.patient_id
    history = ct_reports.patient_history(session, patient)
    assert [one.accession for one in history] == ["CT-1", "CT-2"]
    lone, pair = ct_reports.volumes(history)
    assert (lone.scanned_at, lone.is_signed, lone.right_ml, lone.tumour_ml, lone.cyst_ml) == (JUNE, True, None, 0, 0)
    ellipsoid_ml = 4 / 3 * 3.14159 * 50 * 26 * 26 / 1000
    assert lone.left_ml == pytest.approx(ellipsoid_ml, rel=0.05)
    assert pair.left_ml == pytest.approx(ellipsoid_ml, rel=0.05), "a tumour inside adds nothing to the whole"
    lesions_ml = [lesion.volume_ml for lesion in history[1].scans[0].measures.lesions]
    assert ([pair.tumour_ml, pair.cyst_ml], pair.is_signed) == (lesions_ml, False)
    assert [one.accession for one in ct_reports.for_export(session, patient_id=patient)] == ["CT-2", "CT-1"]
    assert [one.accession for one in ct_reports.for_export(session, specimen_id=late.specimen.id)] == ["CT-2"]
    assert reports.patient_history(session, patient) == []
    with pytest.raises(InputError, match="Say what to export"):
        ct_reports.for_export(session)


def test_a_kidney_in_the_pelvis_adds_nothing_to_the_native_one_of_its_side(
    session: Session, technologist: User
) -> None:
    study = analysed(session, technologist, [transplanted()])
    (point,) = ct_reports.volumes([ct_reports.report(session, study.specimen.id)])
    assert (point.side_unknown_ml, point.pelvis_left_ml, point.pelvis_side_unknown_ml) == (None, None, None)
    assert [point.right_ml, point.pelvis_right_ml] == pytest.approx([point.left_ml] * 2, rel=0.02)
