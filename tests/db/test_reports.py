from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy.orm import Session

from db import analyses, cutoffs, reports, reviews
from db.models import User
from db.objects import ONLY_WHEN_CONFIRMED
from db.reports import SpecimenReport
from renalcore.errors import InputError, NotFound
from renalcore.sediment.measure import TABLE_A, ReportedValue
from renalcore.taxonomy import NAMES
from tests.db.records import MODEL, Analyse, Register, found, statements

MONDAY = datetime(2026, 3, 2, tzinfo=UTC)


def value(report: SpecimenReport, class_name: str) -> ReportedValue:
    return next(row for row in report.rows if row.class_name == class_name)


def test_every_class_is_reported_and_each_value_leads_to_its_fields(session: Session, analysed: Analyse) -> None:
    done = analysed(found(("RBC", 0.9), ("RBC", 0.8)), found(("RBC", 0.7)), found(), accession="A-1")
    report = reports.report(session, done.specimen.id)
    assert [row.class_name for row in report.rows] == list(NAMES)
    rbc = value(report, "RBC")
    assert (rbc.total, rbc.fields, rbc.mean, rbc.unit) == (3, 3, 1.0, "HPF")
    assert [tuple(pair) for pair in rbc.per_field] == [
        (field.id, n) for field, n in zip(done.fields, (2, 1, 0), strict=True)
    ]
    assert [(field.field_id, field.name) for field in report.fields] == [
        (field.id, field.name) for field in done.fields
    ]
    assert (report.accession, report.patient_identifier, report.model_key) == ("A-1", "H-1", MODEL["model_key"])
    assert (report.fields_total, report.unreviewed, report.signature) == (3, 3, None)


def test_a_known_scale_turns_pixels_into_high_power_fields(session: Session, analysed: Analyse) -> None:
    # 1000 x 800 px of 0.5 um are 0.2 mm2; one HPF is 0.23758 mm2, so 2 cells in 0.2 mm2 are 2.3758 per HPF.
    done = analysed(found(("RBC", 0.9), ("RBC", 0.8)), scale_kind="um_per_px", um_per_px=0.5)
    assert value(reports.report(session, done.specimen.id), "RBC").mean == pytest.approx(2.3758, abs=1e-4)


def test_an_unknown_scale_is_reported_per_field_without_a_grade(session: Session, analysed: Analyse) -> None:
    done = analysed(found(("Calcium oxalate", 0.9)), found(), scale_kind="unknown")
    oxalate = value(reports.report(session, done.specimen.id), "Calcium oxalate")
    assert (oxalate.unit, oxalate.mean, oxalate.grade) == ("field", 0.5, None)


def test_the_grade_comes_from_the_table_of_the_specimen(admin: User, session: Session, analysed: Analyse) -> None:
    three = found(*[("Calcium oxalate", 0.9)] * 3)
    coarse = analysed(three)
    cutoffs.adopt(session, TABLE_A.version, admin)
    fine = analysed(three)
    grades = [value(reports.report(session, one.specimen.id), "Calcium oxalate") for one in (coarse, fine)]
    assert [(row.grade, row.cut_off_version) for row in grades] == [("few", "B-1"), ("few", "A-1")]


def test_fields_without_a_result_are_not_counted_as_empty(
    session: Session, register: Register, technologist: User
) -> None:
    specimen = register("A-1")
    assert reports.report(session, specimen.id).rows == ()
    analysis = analyses.request(session, specimen, **MODEL, options={}, by=technologist)
    analyses.start(session, analysis.id, device="cpu", worker="w1")
    first = analyses.pending_fields(session, analysis.id)[0]
    analyses.store_field(session, analysis.id, first.id, detections=found(("RBC", 0.9)), seconds=0.1, worker="w1")
    report = reports.report(session, specimen.id)
    assert (value(report, "RBC").mean, value(report, "RBC").fields) == (1.0, 1)
    assert (len(report.fields), report.fields_total) == (1, 2)


def test_counts_from_sql_are_those_of_the_objects(session: Session, analysed: Analyse, technologist: User) -> None:
    done = analysed(
        found(("RBC", 0.9), ("RBC", 0.4), ("WBC", 0.6), ("WBC", 0.3)),
        found(("Mucus", 0.5), ("RBC", 0.55)),
        min_score={"RBC": 0.5, "WBC": 0.6, "default": 0.2},
    )
    run, keys = done.analysis.id, [item.key for item in reviews.objects(session, done.analysis.id)]
    reviews.confirm(session, run, keys[1:2], by=technologist)
    reviews.reclassify(session, run, keys[3:4], by=technologist, class_name="Yeast")
    reviews.remove(session, run, keys[0:1], by=technologist)
    reviews.remove(session, run, keys[5:6], by=technologist)
    reviews.restore(session, run, keys[5:6], by=technologist)
    reviews.add(session, run, done.fields[1].id, "Waxy cast", (0, 0, 50, 50), by=technologist)
    by_hand: dict[tuple[str, int], int] = {}
    for item in reviews.objects(session, run):
        if item.counts(done.analysis.options["min_score"]):
            by_hand[item.class_name, item.field_id] = by_hand.get((item.class_name, item.field_id), 0) + 1
    report = reports.report(session, done.specimen.id)
    assert {
        (row.class_name, field_id): number for row in report.rows for field_id, number in row.per_field if number
    } == by_hand
    first, second = (field.id for field in done.fields)
    assert by_hand == {
        ("RBC", first): 1, ("WBC", first): 1, ("Yeast", first): 1,
        ("Mucus", second): 1, ("RBC", second): 1, ("Waxy cast", second): 1,
    }  # fmt: skip
    assert report.unreviewed == 3  # WBC, mucus and the restored RBC


def test_a_signed_report_stays_word_for_word(session: Session, analysed: Analyse, reviewer: User) -> None:
    done = analysed(found(("RBC", 0.9)), found(("WBC", 0.8)))
    before = reports.report(session, done.specimen.id)
    reviews.sign(session, done.specimen.id, by=reviewer, meaning="Reviewed")
    session.commit()
    session.expire_all()
    after = reports.report(session, done.specimen.id)
    assert after.rows == before.rows
    assert after.fields == before.fields
    assert after.signature is not None
    assert (after.signature.by, after.signature.meaning, after.signature.kind) == (
        "Rita of the lab",
        "Reviewed",
        "sign",
    )


def test_an_export_gives_what_was_signed_and_leaves_the_signature_of_the_others_empty(
    session: Session, analysed: Analyse, technologist: User, reviewer: User
) -> None:
    signed = analysed(found(("RBC", 0.9)), accession="A-1")
    analysed(found(("RBC", 0.9), ("RBC", 0.9)), accession="A-2")
    reviews.sign(session, signed.specimen.id, by=reviewer, meaning="Reviewed")
    rows = reports.rows_for_export(session, patient_id=signed.specimen.patient_id)
    assert len(rows) == 2 * 39
    first, second = (row for row in rows if row.class_name == "RBC")
    assert (first.accession, first.patient, first.group, first.unit, first.mean) == ("A-1", "H-1", "Cells", "HPF", 1.0)
    assert (first.loinc, first.cut_off_version, first.weights_sha256) == ("13945-1", "B-1", "a" * 64)
    assert (first.reviewed, first.signed_by, first.signature, first.amendments) == (True, "Rita of the lab", "sign", 0)
    assert first.signed_at is not None
    assert (second.accession, second.mean, second.reviewed, second.signed_by, second.signed_at, second.signature) == (
        "A-2", 2.0, False, None, None, None,
    )  # fmt: skip


def test_a_class_nobody_looked_for_is_exported_only_where_a_person_saw_it(
    session: Session, analysed: Analyse, technologist: User
) -> None:
    done = analysed(found(("RBC", 0.9), ("Cystine", 0.9)), min_score={"default": ONLY_WHEN_CONFIRMED, "RBC": 0.5})

    def exported() -> list[str]:
        return [row.class_name for row in reports.rows_for_export(session, specimen_id=done.specimen.id)]

    assert exported() == ["RBC"]
    (cystine,) = (one.key for one in reviews.objects(session, done.analysis.id) if one.class_name == "Cystine")
    reviews.confirm(session, done.analysis.id, [cystine], by=technologist)
    assert exported() == ["RBC", "Cystine"]


def test_an_amended_report_replaces_the_first_in_the_export(
    session: Session, analysed: Analyse, technologist: User, reviewer: User
) -> None:
    done = analysed(found(("RBC", 0.9)))
    number = done.specimen.id
    reviews.sign(session, number, by=reviewer, meaning="Reviewed")
    reviews.reopen(session, number, by=reviewer, reason="a yeast")
    key = reviews.objects(session, done.analysis.id)[0].key
    reviews.reclassify(session, done.analysis.id, [key], by=technologist, class_name="Yeast")

    def exported() -> list[tuple[str, float, str | None, int]]:
        rows = reports.rows_for_export(session, specimen_id=number)
        return [(row.class_name, row.mean, row.signature, row.amendments) for row in rows if row.mean]

    assert exported() == [("Yeast", 1.0, None, 0)]  # reopened: what stands now, under no signature
    reviews.sign(session, number, by=reviewer, meaning="Amended")
    assert exported() == [("Yeast", 1.0, "amend", 1)]


def test_a_range_of_dates_takes_as_many_statements_for_many_specimens_as_for_two(
    session: Session, analysed: Analyse, technologist: User, reviewer: User
) -> None:
    for day in range(12):
        done = analysed(found(("RBC", 0.9)), found(("WBC", 0.9)), min_score=0.1 * (day % 5))
        done.specimen.created_at = MONDAY + timedelta(days=day)
        if day % 3 == 0:
            reviews.sign(session, done.specimen.id, by=reviewer, meaning="Reviewed")
        elif day % 3 == 1:
            key = reviews.objects(session, done.analysis.id)[0].key
            reviews.confirm(session, done.analysis.id, [key], by=technologist)
    session.commit()
    session.expire_all()
    with statements(session) as few:
        assert len(reports.rows_for_export(session, since=MONDAY, until=MONDAY + timedelta(days=2))) == 2 * 39
    session.expire_all()
    with statements(session) as plenty:
        assert len(reports.rows_for_export(session, since=MONDAY)) == 12 * 39
    assert len(plenty) == len(few) <= 12


def test_the_specimens_with_a_report_are_known_without_their_values(
    session: Session, analysed: Analyse, register: Register, reviewer: User
) -> None:
    signed = analysed(found(("RBC", 0.9)), accession="A-1")
    analysed(found(("RBC", 0.9)), accession="A-2", identifier="H-2")
    register("A-3")  # not analysed
    reviews.sign(session, signed.specimen.id, by=reviewer, meaning="Reviewed")
    every = reports.reported_specimens(session)
    assert [(one.accession, one.patient_identifier) for one in every] == [("A-1", "H-1"), ("A-2", "H-2")]
    assert [one.accession for one in reports.reported_specimens(session, signed_only=True)] == ["A-1"]
    assert reports.reported_specimens(session, until=MONDAY - timedelta(days=9999)) == []
    assert reports.rows_of_specimens(session, [every[1].specimen_id]) == reports.rows_for_export(
        session, specimen_id=every[1].specimen_id
    )


def test_specimens_that_are_not_analysed_are_not_exported(session: Session, register: Register) -> None:
    specimen = register("A-1")
    assert reports.rows_for_export(session, specimen_id=specimen.id) == []


def test_an_export_of_nothing_in_particular_is_refused(session: Session) -> None:
    with pytest.raises(InputError, match="Say what to export: a specimen, a patient or a range of dates"):
        reports.rows_for_export(session)


def test_a_patients_history_is_in_the_order_of_collection(
    session: Session, analysed: Analyse, register: Register
) -> None:
    late = analysed(found(("RBC", 0.9)), accession="A-1", collected_at=MONDAY + timedelta(days=5))
    early = analysed(found(("RBC", 0.9), ("RBC", 0.8)), accession="A-2", collected_at=MONDAY)
    register("A-3")  # waits: nothing to show yet
    analysed(found(), accession="B-1", identifier="H-2")
    history = reports.patient_history(session, late.specimen.patient_id)
    assert [(report.accession, report.taken_at, value(report, "RBC").mean) for report in history] == [
        ("A-2", early.specimen.collected_at, 2.0),
        ("A-1", late.specimen.collected_at, 1.0),
    ]


def test_no_such_specimen(session: Session) -> None:
    with pytest.raises(NotFound, match="There is no specimen 99"):
        reports.report(session, 99)
