"""The date of a specimen is given or corrected after it was registered."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from sqlalchemy.orm import Session

from db import audit, ct_reports, reports, reviews, specimens
from db.engine import now
from db.models import User
from renalcore.errors import Conflict, InputError
from tests.ct_analysed import analysed as analysed_ct
from tests.db.records import Analyse, Register, found

LONG_AGO = datetime(2004, 2, 29, 8, 15, tzinfo=timezone(timedelta(hours=1)))
LATER = datetime(2024, 2, 29, 8, 15, tzinfo=UTC)


def test_a_date_is_given_corrected_and_taken_back_and_each_is_told(
    session: Session, register: Register, technologist: User, admin: User
) -> None:
    number = register("A-1").id
    specimens.change_date(session, number, LONG_AGO, by=technologist, reason=" not known before ")
    specimens.change_date(session, number, LATER, by=admin, reason="year mistyped")
    assert specimens.get(session, number).collected_at == LATER
    specimens.change_date(session, number, None, by=admin, reason="of another specimen")
    assert specimens.get(session, number).collected_at is None
    given, corrected, taken_back = reversed(audit.events(session, action="specimen.change_date"))
    assert (given.old, given.new) == (
        {"collected_at": None},
        {"accession": "A-1", "collected_at": "2004-02-29T07:15:00+00:00"},
    )
    assert (given.actor_name, given.reason, given.entity_id) == ("tess", "not known before", str(number))
    assert (corrected.old, taken_back.old) == (
        {"collected_at": "2004-02-29T07:15:00+00:00"},
        {"collected_at": "2024-02-29T08:15:00+00:00"},
    )


def test_a_scan_whose_date_is_given_takes_its_place_in_the_patients_history(
    session: Session, technologist: User
) -> None:
    later = analysed_ct(session, technologist, accession="CT-1", collected_at=LATER)
    earlier = analysed_ct(session, technologist, accession="CT-2")
    specimens.change_date(session, earlier.specimen.id, LONG_AGO, by=technologist, reason="not known before")
    history = ct_reports.patient_history(session, later.specimen.patient_id)
    assert [(one.accession, one.collected_at) for one in history] == [("CT-2", LONG_AGO), ("CT-1", LATER)]


def test_a_date_needs_a_reason_and_lies_in_the_past(session: Session, register: Register, technologist: User) -> None:
    number = register("A-1", collected_at=LATER).id
    with pytest.raises(InputError, match="Say why the date changes"):
        specimens.change_date(session, number, LONG_AGO, by=technologist, reason=" ")
    with pytest.raises(InputError, match="The date lies in the future"):
        specimens.change_date(session, number, now() + timedelta(minutes=1), by=technologist, reason="mistyped")
    with pytest.raises(Conflict, match="Specimen A-1 has this date already"):
        specimens.change_date(session, number, LATER, by=technologist, reason="mistyped")
    with pytest.raises(Conflict, match="Specimen A-2 has no date yet"):
        specimens.change_date(session, register("A-2").id, None, by=technologist, reason="mistyped")


def test_reviewers_do_not_change_dates(session: Session, register: Register, reviewer: User) -> None:
    with pytest.raises(Conflict, match="Only a technologist or an administrator may change the date"):
        specimens.change_date(session, register("A-1").id, LONG_AGO, by=reviewer, reason="mistyped")


def test_the_date_of_a_signed_specimen_changes_once_it_is_reopened(
    session: Session, analysed: Analyse, technologist: User, reviewer: User
) -> None:
    number = analysed(found()).specimen.id
    reviews.sign(session, number, by=reviewer, meaning="Released")
    with pytest.raises(Conflict, match=r"is signed. A reviewer must reopen it with a reason first"):
        specimens.change_date(session, number, LONG_AGO, by=technologist, reason="mistyped")
    reviews.reopen(session, number, by=reviewer, reason="wrong date")
    specimens.change_date(session, number, LONG_AGO, by=technologist, reason="mistyped")
    reviews.sign(session, number, by=reviewer, meaning="Released")
    assert reports.report(session, number).collected_at == LONG_AGO
