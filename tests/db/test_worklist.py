from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from db import analyses, specimens, worklist
from db.models import Analysis, Patient, Specimen, User
from renalcore.errors import UnknownName
from tests.db.records import MODEL, Register, found, statements

MONDAY = datetime(2026, 3, 2, tzinfo=UTC)


def test_the_worklist_shows_progress_and_why_something_failed(
    session: Session, register: Register, technologist: User
) -> None:
    running, failed = register("A-1"), register("A-2", identifier="H-2", patient_name="Ann")
    one = analyses.request(session, running, **MODEL, options={}, by=technologist)
    two = analyses.request(session, failed, **MODEL, options={}, by=technologist)
    analyses.start(session, one.id, device="cpu", worker="w1")
    field = specimens.fields(session, running.id)[0]
    analyses.store_field(session, one.id, field.id, detections=found(), seconds=0.1, worker="w1")
    analyses.fail(session, two.id, "A-2-1.png cannot be read. Upload it again.")
    page = worklist.page(session)
    assert page.total == 2
    assert [(row.accession, row.state, row.fields_done, row.fields_total, row.message) for row in page.rows] == [
        ("A-2", "failed", 0, 2, "A-2-1.png cannot be read. Upload it again."),
        ("A-1", "running", 1, 2, ""),
    ]
    assert (page.rows[0].patient_identifier, page.rows[0].patient_name) == ("H-2", "Ann")
    assert worklist.state_counts(session) == {
        "waiting": 0, "running": 1, "needs_review": 0, "signed": 0, "failed": 1, "cancelled": 0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "accessions"),
    [
        ("26-0", ["26-002", "26-001"]),
        ("h-0", ["26-002", "26-001"]),
        ("H-02", ["26-002"]),
        ("müll", ["26-001"]),
        ("ÖZ", ["26-002"]),
        ("%", ["B_%1"]),
        ("_", ["B_%1"]),
        ("  ", ["B_%1", "26-002", "26-001"]),
        ("nobody", []),
    ],
)
def test_the_worklist_is_searched_by_accession_number_and_name_in_any_case(
    session: Session, register: Register, text: str, accessions: list[str]
) -> None:
    register("26-001", identifier="H-01", patient_name="Ann MÜLLER")
    register("26-002", identifier="H-02", patient_name="Ben Özil")
    register("B_%1", identifier="X-03", patient_name=None)
    page = worklist.page(session, text=text)
    assert [row.accession for row in page.rows] == accessions
    assert page.total == len(accessions)


def test_a_range_of_dates_holds_its_beginning_but_not_its_end(session: Session, register: Register) -> None:
    for days in range(3):
        register(f"A-{days}").created_at = MONDAY + timedelta(days=days)
    page = worklist.page(session, since=MONDAY, until=MONDAY + timedelta(days=2))
    assert [row.accession for row in page.rows] == ["A-1", "A-0"]


def test_the_worklist_of_one_patient(session: Session, register: Register) -> None:
    mine = register("A-1", identifier="H-1")
    register("A-2", identifier="H-11")
    assert [row.accession for row in worklist.page(session, patient_id=mine.patient_id).rows] == ["A-1"]


def test_an_unknown_state_is_refused(session: Session) -> None:
    with pytest.raises(UnknownName, match="'lost' is no state of a specimen; expected one of waiting, running"):
        worklist.page(session, state="lost")  # type: ignore[arg-type]


def many(session: Session, technologist: User, register: Register, number: int) -> None:
    model = register("first")
    session.execute(
        insert(Patient),
        [{"identifier": f"P-{i}", "name": f"Patient {i}", "name_folded": f"patient {i}", "created_at": MONDAY}
         for i in range(number)],
    )  # fmt: skip
    ids = list(session.scalars(select(Patient.id).where(Patient.identifier.like("P-%"))))
    session.execute(
        insert(Specimen),
        [
            {
                "patient_id": patient_id,
                "accession": f"N-{i:05}",
                "modality": "sediment",
                "objective": "40x",
                "scale_kind": "unknown",
                "state": "needs_review" if i % 2 else "waiting",
                "created_by_id": technologist.id,
                "created_at": MONDAY + timedelta(minutes=i),
                "cutoff_table_id": model.cutoff_table_id,
            }
            for i, patient_id in enumerate(ids)
        ],
    )
    session.execute(
        insert(Analysis),
        [
            {
                "specimen_id": specimen_id,
                "state": "done",
                "options": {},
                "requested_by_id": technologist.id,
                "created_at": MONDAY,
                **MODEL,
            }
            for specimen_id in session.scalars(select(Specimen.id))
        ],
    )
    session.commit()


def test_the_worklist_takes_as_many_statements_for_ten_thousand_specimens_as_for_three(
    session: Session, technologist: User, register: Register
) -> None:
    register("early")
    with statements(session) as few:
        worklist.page(session)
    many(session, technologist, register, 10_000)
    with statements(session) as plenty:
        page = worklist.page(session, state="needs_review", text="patient 99", offset=5)
    assert len(plenty) == len(few) <= 6
    assert page.total == len([i for i in range(1, 10_000, 2) if str(i).startswith("99")])
    started = datetime.now(UTC)
    for ask in ({}, {"text": "99"}, {"state": "needs_review"}, {"offset": 9_900}):
        worklist.page(session, **ask)
        worklist.state_counts(session)
    assert (datetime.now(UTC) - started).total_seconds() / 4 < 0.5  # an idle machine takes a tenth of it


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)  # PostgreSQL chooses its plan by statistics
def test_newest_specimens_come_from_an_index(session: Session, technologist: User, register: Register) -> None:
    many(session, technologist, register, 100)

    def plan(sql: str) -> str:
        return str(session.connection().exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}").all())

    urine, newest = "modality = 'sediment'", "ORDER BY created_at DESC, id DESC LIMIT 100"
    for condition in (urine, f"{urine} AND state = 'waiting'"):
        assert "TEMP B-TREE" not in plan(f"SELECT id FROM specimens WHERE {condition} {newest}")
    counted = plan(f"SELECT state, count(*) FROM specimens WHERE {urine} GROUP BY state")
    assert "COVERING INDEX ix_specimens_modality_state_created_at" in counted
