"""A specimen registered under the wrong patient is given to the right one."""

from __future__ import annotations

import pytest
from sqlalchemy.orm import Session

from db import audit, patients, reports, reviews, specimens, worklist
from db.models import User
from renalcore.errors import Conflict, InputError
from tests.db.records import Analyse, Register, found


def test_a_specimen_moves_to_the_right_patient_with_all_it_holds(
    session: Session, analysed: Analyse, technologist: User
) -> None:
    done = analysed(found(("RBC", 0.9)), identifier="H-1", patient_name="Ann Example")
    wrong = done.specimen.patient_id
    specimens.reassign(
        session, done.specimen.id, identifier=" H-2 ", patient_name="Bea Example", by=technologist, reason="mistyped"
    )
    right = patients.find(session, "H-2")
    assert right is not None
    assert (right.name, done.specimen.patient) == ("Bea Example", right)
    assert reports.patient_history(session, wrong) == []
    (moved,) = reports.patient_history(session, right.id)
    assert (moved.accession, moved.patient_identifier, moved.unreviewed) == ("S-1", "H-2", 1)
    event = audit.events(session, action="specimen.reassign")[0]
    assert (event.old, event.new) == ({"patient": "H-1"}, {"accession": "S-1", "patient": "H-2"})
    assert (event.actor_name, event.reason, event.entity_id) == ("tess", "mistyped", str(done.specimen.id))


def test_a_specimen_joins_the_others_of_a_known_patient(
    session: Session, register: Register, technologist: User, admin: User
) -> None:
    register("A-1", identifier="H-1", patient_name="Ann Example")
    lost = register("A-2", identifier="H-9")
    specimens.reassign(session, lost.id, identifier="H-1", patient_name=None, by=admin, reason="label mixed up")
    assert {row.accession for row in worklist.page(session, patient_id=lost.patient_id).rows} == {"A-1", "A-2"}
    with pytest.raises(Conflict, match="Specimen A-2 is registered under H-1 already"):
        specimens.reassign(session, lost.id, identifier="H-1", patient_name=None, by=technologist, reason="again")


def test_a_move_needs_a_number_a_reason_and_the_name_that_is_known(
    session: Session, register: Register, technologist: User
) -> None:
    register("A-1", identifier="H-1", patient_name="Ann Example")
    lost = register("A-2", identifier="H-9")
    with pytest.raises(InputError, match="hospital number is missing"):
        specimens.reassign(session, lost.id, identifier=" ", patient_name=None, by=technologist, reason="mistyped")
    with pytest.raises(InputError, match="Say why the specimen belongs to another patient"):
        specimens.reassign(session, lost.id, identifier="H-1", patient_name=None, by=technologist, reason=" ")
    with pytest.raises(Conflict, match="H-1 is registered under another name"):
        specimens.reassign(session, lost.id, identifier="H-1", patient_name="Bob", by=technologist, reason="mistyped")


def test_reviewers_do_not_move_specimens(session: Session, register: Register, reviewer: User) -> None:
    specimen = register("A-1")
    with pytest.raises(Conflict, match="Only a technologist or an administrator may change the patient"):
        specimens.reassign(session, specimen.id, identifier="H-2", patient_name=None, by=reviewer, reason="mistyped")


def test_a_signed_specimen_moves_once_it_is_reopened(
    session: Session, analysed: Analyse, technologist: User, reviewer: User
) -> None:
    done = analysed(found(), identifier="H-1")
    number = done.specimen.id
    reviews.sign(session, number, by=reviewer, meaning="Released")
    with pytest.raises(Conflict, match=r"is signed. A reviewer must reopen it with a reason first"):
        specimens.reassign(session, number, identifier="H-2", patient_name=None, by=technologist, reason="mistyped")
    reviews.reopen(session, number, by=reviewer, reason="wrong patient")
    specimens.reassign(session, number, identifier="H-2", patient_name=None, by=technologist, reason="mistyped")
    reviews.sign(session, number, by=reviewer, meaning="Released")
    assert reports.report(session, number).patient_identifier == "H-2"
