from __future__ import annotations

from dataclasses import replace

import pytest
from sqlalchemy.orm import Session

from db import audit, cutoffs
from db.engine import upgrade
from db.models import User
from renalcore.errors import Conflict, NotFound
from renalcore.sediment.measure import TABLE_A, TABLE_B
from tests.db.records import Register


def test_both_published_tables_are_there_and_the_coarser_is_the_default(session: Session) -> None:
    assert {row.version for row in cutoffs.all_versions(session)} == {TABLE_A.version, TABLE_B.version}
    assert cutoffs.default(session) == TABLE_B
    assert cutoffs.get(session, TABLE_A.version) == TABLE_A


def test_a_second_upgrade_adds_nothing(session: Session, database_url: str) -> None:
    session.commit()
    upgrade(database_url)
    assert len(cutoffs.all_versions(session)) == 2
    assert len(audit.events(session, action="cutoffs.ship")) == 2


def test_an_adopted_version_grades_specimens_registered_from_then_on(
    session: Session, admin: User, register: Register
) -> None:
    before = register("A-1")
    ours = replace(TABLE_A, version="Ours 2026", title="Our laboratory", source="Validation of March 2026")
    cutoffs.add_version(session, ours, admin)
    assert cutoffs.default(session) == TABLE_B  # stored, not yet adopted
    cutoffs.adopt(session, "Ours 2026", admin)
    assert cutoffs.default(session) == ours
    after = register("A-2")
    assert (before.cutoff_table.version, after.cutoff_table.version) == (TABLE_B.version, "Ours 2026")
    (event,) = audit.events(session, action="cutoffs.adopt")
    assert (event.actor_name, event.old, event.new) == ("ada", {"default": TABLE_B.version}, {"default": "Ours 2026"})


def test_an_earlier_version_can_be_adopted_again(session: Session, admin: User) -> None:
    cutoffs.adopt(session, TABLE_A.version, admin)
    cutoffs.adopt(session, TABLE_B.version, admin)
    assert cutoffs.default(session) == TABLE_B


def test_a_version_never_changes(session: Session, admin: User) -> None:
    with pytest.raises(Conflict, match="There is a cut-off table 'B-1' already, and versions never change"):
        cutoffs.add_version(session, replace(TABLE_A, version="B-1"), admin)
    assert cutoffs.get(session, "B-1") == TABLE_B


def test_only_an_admin_changes_them(session: Session, technologist: User, reviewer: User) -> None:
    for user in (technologist, reviewer):
        with pytest.raises(Conflict, match="Only an admin may change cut-off tables"):
            cutoffs.adopt(session, TABLE_A.version, user)
        with pytest.raises(Conflict, match="Only an admin may change cut-off tables"):
            cutoffs.add_version(session, replace(TABLE_A, version="x"), user)


def test_no_such_version(session: Session) -> None:
    with pytest.raises(NotFound, match="There is no cut-off table 'C-9'"):
        cutoffs.get(session, "C-9")
