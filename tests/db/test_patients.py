from __future__ import annotations

from sqlalchemy.orm import Session

from db import patients
from tests.db.records import Register, a_picture


def test_patients_are_found_by_a_part_of_their_number_or_name_in_any_case(session: Session, register: Register) -> None:
    register("A-1", identifier="H-77", patient_name="Ödön Example", uploads=[a_picture("a.png")])
    register("A-2", identifier="H-78", patient_name=None, uploads=[a_picture("b.png")])
    assert [row.identifier for row in patients.search(session, "h-77")] == ["H-77"]
    assert [row.identifier for row in patients.search(session, "ödÖN")] == ["H-77"]
    assert patients.search(session, "%") == []


def test_patients_come_with_their_specimens_counted_the_one_seen_last_first(
    session: Session, register: Register
) -> None:
    register("A-1", identifier="H-1", uploads=[a_picture("a.png")])
    register("A-2", identifier="H-2", uploads=[a_picture("b.png")])
    register("A-3", identifier="H-1", uploads=[a_picture("c.png")])
    found = patients.search(session)
    assert [(row.identifier, row.specimens) for row in found] == [("H-1", 2), ("H-2", 1)]
    assert patients.search(session, limit=1) == found[:1]
