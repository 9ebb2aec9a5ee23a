"""Fields that are withheld from the counts for their quality, and a reviewer who counts one all the same."""

from __future__ import annotations

import numpy as np
import pytest
from sqlalchemy.orm import Session

from db import audit, gate, reports, reviews
from db.models import User
from renalcore.errors import Conflict, InputError
from renalcore.io.quality import crowding
from renalcore.taxonomy import NAMES
from renalcore.types import Detections, QualityFlag
from tests.db.records import Analyse, Analysed, a_picture, found

BLURRED = QualityFlag("out_of_focus", "Focus again.")
QUIET = QualityFlag("nearly_empty", "Check it by eye.")


def full(share: float) -> Detections:
    """Cells of 60 x 60 px, side by side over this share of a picture of 1000 x 800 px, each 0.0045 of it."""
    cells = np.array([[60 * (i % 16), 60 * (i // 16), 60 * (i % 16) + 60, 60 * (i // 16) + 60] for i in range(200)])
    number = round(share / 0.0045)
    return Detections(cells[:number], np.full(number, 0.9), np.full(number, NAMES.index("WBC")), NAMES)


def counted(session: Session, done: Analysed) -> tuple[dict[str, float], str | None]:
    """Means of what was seen, and what is withheld."""
    report = reports.report(session, done.specimen.id)
    return {row.class_name: row.mean for row in report.rows if row.total}, report.withheld_in_words


def three_fields(analysed: Analyse) -> Analysed:
    """A blurred field with one RBC, a good one with two, and one that is covered by mucus."""
    pictures = [
        a_picture("blurred.png", flags=(BLURRED,)),
        a_picture("good.png", flags=(QUIET,)),
        a_picture("full.png"),
    ]
    reds = found(("RBC", 0.9), ("RBC", 0.9))
    return analysed(found(("RBC", 0.9)), reds, full(0.25), uploads=pictures)


def test_a_field_is_crowded_from_a_fifth_of_its_area_under_boxes_that_overlap_or_not() -> None:
    assert [len(crowding(full(share), 1000, 800)) for share in (0.193, 0.207)] == [0, 1]
    some = full(0.153)
    twice = Detections(np.tile(some.boxes_px, (2, 1)), np.tile(some.scores, 2), np.tile(some.class_ids, 2), NAMES)
    assert crowding(twice, 1000, 800) == (), "what lies under two boxes is covered once"
    (flag,) = crowding(some, 1000, 800, (500, 400, 400))  # the disc is 0.63 of the picture
    assert flag.code == "overcrowded"
    sheet = Detections(np.array([[0, 0, 1000, 400]]), np.array([0.9]), np.array([NAMES.index("Mucus")]), NAMES)
    assert crowding(sheet, 1000, 800) == (), "one large thing does not hide the others"
    assert crowding(Detections.empty(NAMES), 1000, 800) == ()


def test_withheld_fields_are_left_out_of_means_and_named_with_the_reason(session: Session, analysed: Analyse) -> None:
    done = three_fields(analysed)
    words = "field 1 withheld: out of focus; field 3 withheld: overcrowded"
    assert counted(session, done) == ({"RBC": 2 / 1}, words)
    report = reports.report(session, done.specimen.id)
    assert (len(report.fields), report.fields_total, report.fields_missing, report.unreviewed) == (1, 3, 0, 2)
    rows = reports.rows_for_export(session, specimen_id=done.specimen.id)
    assert {(row.class_name, row.fields, row.withheld) for row in rows if row.class_name == "RBC"} == {
        ("RBC", 1, words)
    }


def test_a_reviewer_counts_a_withheld_field_and_takes_it_back(
    session: Session, analysed: Analyse, reviewer: User
) -> None:
    done = three_fields(analysed)
    blurred = done.fields[0].id
    gate.accept_field(session, blurred, by=reviewer, why=" sharp enough for red cells ")
    assert counted(session, done) == ({"RBC": 3 / 2}, "field 3 withheld: overcrowded")
    (event,) = audit.events(session, action="specimen.accept_field", entity="specimen", entity_id=done.specimen.id)
    assert (event.actor_name, event.reason, event.new["in_spite_of"]) == (
        "rita", "sharp enough for red cells", "out of focus",
    )  # fmt: skip
    gate.withhold_field(session, blurred, by=reviewer)
    assert counted(session, done)[0] == {"RBC": 2 / 1}

    gate.accept_field(session, blurred, by=reviewer, why="sharp enough")
    reviews.sign(session, done.specimen.id, by=reviewer, meaning="released")
    with pytest.raises(Conflict, match="is signed"):
        gate.withhold_field(session, blurred, by=reviewer)
    signed = reports.report(session, done.specimen.id)
    assert [field.in_spite_of for field in signed.fields] == ["out of focus", None]
    assert [(field.name, field.reason) for field in signed.withheld] == [("full.png", "overcrowded")]


def test_only_a_reviewer_accepts_with_a_reason_and_only_what_is_withheld(
    session: Session, analysed: Analyse, technologist: User, reviewer: User
) -> None:
    done = three_fields(analysed)
    blurred, good, _ = done.fields
    with pytest.raises(Conflict, match="Only a reviewer may decide"):
        gate.accept_field(session, blurred.id, by=technologist, why="fine")
    with pytest.raises(InputError, match=r"Say why blurred\.png can be counted"):
        gate.accept_field(session, blurred.id, by=reviewer, why=" ")
    with pytest.raises(Conflict, match=r"good\.png is not withheld"):
        gate.accept_field(session, good.id, by=reviewer, why="fine")


def test_without_any_usable_field_a_specimen_has_no_counts_but_the_reason(session: Session, analysed: Analyse) -> None:
    dark = a_picture("dark.png", flags=(QualityFlag("too_dark", "Raise the lamp."),))
    done = analysed(found(("RBC", 0.9)), uploads=[dark], min_score={"default": 0.5, "Mucus": 1.0})
    report = reports.report(session, done.specimen.id)
    assert (report.rows, report.withheld_in_words) == ((), "field 1 withheld: too dark")
    rows = {row.class_name: row for row in reports.rows_for_export(session, specimen_id=done.specimen.id)}
    assert (rows["RBC"].mean, rows["RBC"].fields, rows["RBC"].grade) == (None, 0, None)
    assert rows["RBC"].withheld == "field 1 withheld: too dark"
    assert "Mucus" not in rows, "nobody would have looked for it"
