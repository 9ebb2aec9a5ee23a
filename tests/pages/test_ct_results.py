"""What is said of a CT scan beside its picture, in its history, and before it is signed."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from db.ct_findings import Corrected
from db.ct_reports import CtReport, ReportedScan
from db.models import AuditEvent
from pages.components import ct_results
from renalcore.ct.measure import measure
from renalcore.ct.predict import BEYOND, in_words
from tests.ct_analysed import drawn, transplanted

NOW = datetime(2026, 11, 21, tzinfo=UTC)


@pytest.fixture(scope="module")
def scan() -> ReportedScan:
    """Two kidneys, a tumour in the left one and a cyst in the right one; nobody has corrected it."""
    volume, labels = drawn()
    measures = measure(labels, volume.affine, hu=volume.hu)
    return ReportedScan(
        1, 0, "portal", "a" * 64, "DICOM", None, *volume.shape, volume.spacing_mm, "b" * 64, measures,
        in_words(labels, measures), (),
    )  # fmt: skip


def corrected(scan: ReportedScan) -> ReportedScan:
    """The first lesion called what it is by a person."""
    lesion = scan.measures.lesions[0]
    said = Corrected(1, "relabel", lesion.voxel, "cyst", lesion.label, "Tess", 1, NOW)
    return replace(scan, corrections=(said,), by_hand=(lesion.number,))


def report(*scans: ReportedScan) -> CtReport:
    return CtReport(
        1, "CT-1", 1, "P-1", None, "needs_review", NOW, NOW, 1, "ct-segresnet", "c" * 64, "0.1.0", scans, len(scans),
        None, 0,
    )  # fmt: skip


def test_a_reviewer_reads_each_lesion_what_was_corrected_and_what_stands(scan: ReportedScan) -> None:
    told = "\n".join(ct_results.signed_words(report(scan))).replace("\\", "")
    assert "- Tumour 1, left: 11.4 ml" in told, "a ball of 14 mm holds 11.5 ml"
    assert "2 lesions stand as the model outlined them; signing accepts them." in told
    told = "\n".join(ct_results.signed_words(report(corrected(scan)))).replace("\\", "")
    assert "1 correction by hand." in told
    assert "1 lesion stands as the model outlined it; signing accepts it." in told


def test_a_cyst_called_a_tumour_that_becomes_one_with_a_larger_one_is_not_told_as_the_models(
    scan: ReportedScan,
) -> None:
    lesion, other = scan.measures.lesions
    said = Corrected(1, "relabel", other.voxel, "cyst", "tumour", "Tess", 1, NOW)  # not where the merged one is named
    merged = replace(scan, corrections=(said,), by_hand=(1,), measures=replace(scan.measures, lesions=(lesion,)))
    told = "\n".join(ct_results.signed_words(report(merged))).replace("\\", "")
    assert "1 correction by hand." in told
    assert "as the model outlined" not in told
    assert ct_results.cells(lesion, merged)[1]["chip"] == "tumour, corrected"  # type: ignore[index]


def test_a_reviewer_reads_the_doubts_about_a_scan_before_signing(scan: ReportedScan) -> None:
    assert "Doubts" not in "\n".join(ct_results.signed_words(report(scan)))
    doubted = replace(scan, doubts=("Volumes may be off by as much.",))
    told = "\n".join(ct_results.signed_words(report(doubted))).replace("\\", "")
    assert "Doubts about the scan: Volumes may be off by as much." in told


def test_a_scan_is_unreviewed_until_a_person_corrects_or_signs_it(scan: ReportedScan) -> None:
    assert "unreviewed" in ct_results.found_html(scan, signed=False, unvalidated=())
    assert "unreviewed" not in ct_results.found_html(scan, signed=True, unvalidated=())
    assert "1 correction by hand" in ct_results.found_html(corrected(scan), signed=False, unvalidated=())
    first, second = (ct_results.cells(lesion, corrected(scan))[1] for lesion in scan.measures.lesions)
    assert (first["chip"], second["chip"]) == ("tumour, corrected", "cyst")  # type: ignore[index]


def test_classes_never_validated_on_real_scans_are_told_beside_the_result_signed_or_not(scan: ReportedScan) -> None:
    for signed in (False, True):
        told = ct_results.found_html(scan, signed=signed, unvalidated=("tumour", "cyst"))
        assert "never validated on real scans: tumour, cyst" in told
        assert "never validated" not in ct_results.found_html(scan, signed=signed, unvalidated=())


def test_what_lies_beyond_the_edge_is_a_warning_of_its_own(scan: ReportedScan) -> None:
    assert BEYOND not in ct_results.found_html(scan, signed=False, unvalidated=())
    cut = ct_results.found_html(replace(scan, words=f"{scan.words} {BEYOND}"), signed=False, unvalidated=())
    assert cut.count(BEYOND) == 1
    assert f'role="status">{BEYOND}' in cut


def test_a_kidney_is_called_by_its_side_and_a_fused_one_is_one_thing_as_large_as_both_halves(
    scan: ReportedScan,
) -> None:
    right, left = scan.measures.kidneys
    organs = [ct_results.organ_in_words(organ) for organ in scan.measures.organs]
    assert organs == [f"right kidney, {right.total_ml:.1f} ml", f"left kidney, {left.total_ml:.1f} ml"]
    fused = replace(scan.measures, kidneys=(replace(right, place="fused"), replace(left, place="fused")))
    (organ,) = fused.organs
    assert ct_results.organ_in_words(organ) == f"fused kidney, {right.total_ml + left.total_ml:.1f} ml"


def test_a_transplant_and_its_lesions_are_told_apart_from_the_native_kidney_of_their_side(scan: ReportedScan) -> None:
    volume, labels = transplanted()
    measures = measure(labels, volume.affine)
    changed = replace(scan, measures=measures, words="")
    told = "\n".join(ct_results.signed_words(report(changed))).replace("\\", "")
    assert "- Tumour 1, right (in the pelvis): " in told
    assert "right (in the pelvis) 1" in told
    assert ct_results.cells(measures.lesions[0], changed)[2] == "right (in the pelvis)"
    assert sorted(ct_results.organ_in_words(organ).partition(",")[0] for organ in measures.organs) == [
        "left kidney", "right kidney", "right kidney in the pelvis",
    ]  # fmt: skip


def test_r_and_e_are_told_of_tumours_only(scan: ReportedScan) -> None:
    tumour, cyst = scan.measures.lesions
    assert ct_results.score_in_words(tumour) == f"{tumour.renal_r}, {tumour.renal_e}"
    assert ct_results.score_in_words(cyst) == "–"
    assert "N, A, L and h cannot be computed" in ct_results.renal_note_html()


def test_a_correction_is_told_with_the_name_of_its_scan_where_another_one_is_shown() -> None:
    event = AuditEvent(
        action="lesion.relabel", old={"label": "tumour"}, new={"label": "cyst", "scan_id": 1, "scan": "portal"}
    )
    assert ct_results.change_in_words(event, 1) == "Tumour called a cyst"
    assert ct_results.change_in_words(event, 2) == "Tumour in portal called a cyst"
    event = AuditEvent(action="kidney.remove", old={"label": "left kidney"}, new={"scan_id": 1, "scan": "portal"})
    assert ct_results.change_in_words(event, 1) == "Left kidney deleted with its lesions"
    assert ct_results.change_in_words(AuditEvent(action="export.csv", new={}), 1) is None


def test_a_date_given_or_corrected_is_told_with_the_one_before() -> None:
    event = AuditEvent(
        action="specimen.change_date", old={"collected_at": None},
        new={"accession": "CT-1", "collected_at": "2004-02-29T07:15:00+00:00"}, reason="not known before",
    )  # fmt: skip
    told = "Date of the scan changed from unknown to 29 Feb 2004 07:15: not known before"
    assert ct_results.change_in_words(event, 1) == told
