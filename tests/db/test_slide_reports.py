"""Reports of slides: as they stand, as they were signed, over the patient's specimens."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from sqlalchemy.orm import Session

from db import analyses, audit, glomeruli, reports, reviews, slide_reports
from db.engine import now
from db.models import Analysis, Slide, Specimen, User
from renalcore.errors import Conflict, InputError, NotFound
from renalcore.histology.measure import Limits
from tests.db.records import MODEL, Analyse, Found, found, searched, square

Searched = tuple[Specimen, Analysis, list[Slide]]
JUNE, JULY = datetime(2026, 6, 1, tzinfo=UTC), datetime(2026, 7, 1, tzinfo=UTC)


@pytest.fixture
def done(session: Session, technologist: User) -> Searched:
    """Slides of 0.5 um a px with 1 mm2 of tissue each: three glomeruli on A1, the last cut by the edge, none on A2."""
    of_a1 = [Found(100, 100), Found(300, 100, 200, score=0.6), Found(0, 300, score=0.4, cut=True)]
    return searched(session, technologist, {"A1": of_a1, "A2": []}, tissue_px=4e6)


def test_each_slide_is_counted_and_measured_at_its_own_scale(session: Session, done: Searched) -> None:
    specimen, analysis, (a1, _) = done
    report = slide_reports.report(session, specimen.id)
    first, second = report.slides
    assert (first.name, first.stain, first.um_per_px, first.scale_from) == ("A1", "PAS", 0.5, "person")
    assert first.sha256 == a1.file.sha256
    told = first.summary
    assert (told.count, told.cut, told.tissue_mm2, told.density_per_mm2, told.unit) == (3, 1, 1.0, 3.0, "um")
    assert told.mean_area == (100 * 100 + 200 * 200) / 2 * 0.5**2, "of those that are whole"
    one = first.glomeruli[0]
    assert (one.key, one.number, one.area, one.status) == ("f1", 1, 100 * 100 * 0.25, "model")
    assert one.diameter == pytest.approx(2 * math.sqrt(2500 / math.pi))
    assert (first.sclerosed.percent, first.sclerosed.note) == (
        0.0, "Fewer than 25 glomeruli (3): the percentage is uncertain.",
    )  # fmt: skip
    assert (second.summary.count, second.summary.density_per_mm2, second.sclerosed.percent) == (0, 0.0, None)
    assert (report.slides_total, report.unreviewed, report.signature, report.limits) == (2, 3, None, Limits())
    assert {name: getattr(report, name) for name in MODEL} == MODEL
    assert (report.analysis_id, report.accession, report.patient_identifier) == (analysis.id, "K-1", "H-1")


def test_limits_and_corrections_move_the_figures_at_once(session: Session, done: Searched, technologist: User) -> None:
    specimen, analysis, (a1, a2) = done
    glomeruli.set_limits(session, analysis.id, Limits(edge="leave_out", min_diameter=60), by=technologist)
    assert [slide.summary.count for slide in slide_reports.report(session, specimen.id).slides] == [1, 0]
    glomeruli.mark_sclerosed(session, analysis.id, ["f1"], by=technologist)
    glomeruli.add(session, analysis.id, a2.id, square(10, 10, 50), by=technologist)
    report = slide_reports.report(session, specimen.id)
    first, second = report.slides
    assert ([one.number for one in first.glomeruli], first.sclerosed.percent) == ([1, 2], 50.0)
    assert ([one.score for one in second.glomeruli], second.unreviewed, report.unreviewed) == ([None], 0, 1)
    a1.withdrawn_at = now()
    session.flush()
    without = slide_reports.report(session, specimen.id)
    assert ([slide.name for slide in without.slides], without.slides_total) == (["A2"], 1)


def test_sizes_stay_in_px_where_nobody_knows_the_scale(session: Session, technologist: User) -> None:
    specimen, _, _ = searched(session, technologist, {"A1": [Found(1, 1)]}, um_per_px=None)
    (slide,) = slide_reports.report(session, specimen.id).slides
    assert (slide.summary.unit, slide.summary.density_per_mm2, slide.glomeruli[0].area) == ("px", None, 10_000)


def test_a_signed_report_stays_word_for_word_and_an_amendment_leaves_it_so(
    session: Session, done: Searched, technologist: User, reviewer: User
) -> None:
    specimen, analysis, (a1, _) = done
    glomeruli.mark_sclerosed(session, analysis.id, ["f2"], by=technologist)
    standing = slide_reports.report(session, specimen.id)
    signature = reviews.sign(session, specimen.id, by=reviewer, meaning="Released")
    session.commit()
    session.expire_all()
    a1.name = "renamed"
    signed = slide_reports.report(session, specimen.id)
    assert signed == replace(standing, state="signed", signature=signed.signature)
    assert signed.signature is not None
    assert signed.signature.by == "Rita of the lab"
    for refused in (glomeruli.remove, glomeruli.confirm):
        with pytest.raises(Conflict, match=r"K-1 is signed\. A reviewer must reopen it with a reason first"):
            refused(session, analysis.id, ["f1"], by=technologist)

    reviews.reopen(session, specimen.id, by=reviewer, reason="One is an artery")
    glomeruli.remove(session, analysis.id, ["f1"], by=technologist)
    reviews.sign(session, specimen.id, by=reviewer, meaning="Amended")
    steps = reviews.history(session, specimen.id)
    assert [(step.kind, step.reason) for step in steps] == [
        ("sign", None), ("reopen", "One is an artery"), ("amend", "One is an artery"),
    ]  # fmt: skip
    kept = [slide_reports.slides_of(step.report)[0] for step in steps if step.report]
    assert [[one.number for one in slide.glomeruli] for slide in kept] == [[1, 2, 3], [2, 3]]
    amended = slide_reports.report(session, specimen.id)
    assert (amended.amendments, amended.slides[0].name, amended.slides[0].sclerosed.percent) == (1, "renamed", 50.0)

    first = audit.events(session, action="specimen.sign")[0].new["report"]["slides"][0]
    assert "glomeruli" not in first, "outlines would fill the trail"
    as_kept = json.dumps(signature.report["slides"][0]["glomeruli"], sort_keys=True, separators=(",", ":"))
    assert first["glomeruli_sha256"] == hashlib.sha256(as_kept.encode()).hexdigest()
    assert first["summary"]["count"] == 3
    assert audit.verify(session)


def test_what_lacks_a_result_or_has_no_slide_left_is_not_signed(
    session: Session, technologist: User, reviewer: User
) -> None:
    specimen, first, slides = searched(session, technologist, {"A1": [], "A2": []})
    analyses.request(session, specimen, **MODEL, options={}, by=technologist)
    with pytest.raises(Conflict, match="K-1 is waiting; it can be signed once its analysis is complete"):
        reviews.sign(session, specimen.id, by=reviewer, meaning="Released")
    again = analyses.current(session, specimen.id)
    assert again is not None
    assert again.id != first.id
    specimen.state = "needs_review"
    again.state = "done"
    session.flush()
    with pytest.raises(Conflict, match="2 of 2 slides of specimen K-1 have no result yet"):
        reviews.sign(session, specimen.id, by=reviewer, meaning="Released")
    for slide in slides:
        slide.withdrawn_at = now()
    session.flush()
    with pytest.raises(Conflict, match="All slides of specimen K-1 are withdrawn"):
        reviews.sign(session, specimen.id, by=reviewer, meaning="Released")


def test_a_patients_specimens_of_both_kinds_have_each_their_history_and_exports(
    session: Session, technologist: User, reviewer: User, analysed: Analyse
) -> None:
    urine = analysed(found(("RBC", 0.9)), accession="A-1")
    late, _, _ = searched(session, technologist, {"A1": []}, accession="K-2", collected_at=JULY)
    early, _, _ = searched(session, technologist, {"B1": [Found(1, 1)]}, accession="K-1", collected_at=JUNE)
    searched(session, technologist, {"C1": []}, accession="K-9", identifier="H-2")
    reviews.sign(session, early.id, by=reviewer, meaning="Released")
    patient = urine.specimen.patient_id
    assert [one.accession for one in slide_reports.patient_history(session, patient)] == ["K-1", "K-2"]
    assert [one.accession for one in reports.patient_history(session, patient)] == ["A-1"]
    assert {row.accession for row in reports.rows_for_export(session, until=now())} == {"A-1"}
    assert [one.accession for one in reports.reported_specimens(session)] == ["A-1"]
    assert [one.accession for one in slide_reports.for_export(session, patient_id=patient)] == ["K-2", "K-1"]
    assert [one.accession for one in slide_reports.for_export(session, specimen_id=late.id)] == ["K-2"]
    with pytest.raises(InputError, match="Say what to export"):
        slide_reports.for_export(session)
    with pytest.raises(NotFound, match=f"no specimen of histology {urine.specimen.id}"):
        slide_reports.report(session, urine.specimen.id)
