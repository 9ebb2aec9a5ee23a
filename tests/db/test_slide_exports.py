"""What is exported of slides: tables of glomeruli and of slides, and outlines for QuPath."""

from __future__ import annotations

import csv
import io
import json

import pytest
from sqlalchemy import Connection, Engine, event
from sqlalchemy.orm import Session

from db import audit, glomeruli, reviews, slide_exports
from db.engine import session_scope
from db.models import User
from renalcore.errors import InputError, NotFound
from tests.db.records import Found, searched, square


def lines(content: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(content.decode("utf-8-sig"))))


def test_exports_say_what_was_signed_until_an_amendment_is_and_are_audited(
    session: Session, technologist: User, reviewer: User
) -> None:
    specimen, analysis, (a1, a2) = searched(session, technologist, {"A1": [Found(100, 100), Found(400, 400)], "A2": []})
    run, tables = analysis.id, {"by": technologist, "file_name": "K-1.csv", "entity": "specimen", "entity_id": 1}
    glomeruli.remove(session, run, ["f1"], by=technologist)
    glomeruli.mark_sclerosed(session, run, ["f2"], by=technologist)
    key = glomeruli.add(session, run, a1.id, square(700, 700, 80), by=technologist)

    def exported() -> list[tuple[str, ...]]:
        rows = lines(slide_exports.to_csv(session, "glomeruli", **tables, specimen_id=specimen.id))
        return [(row["slide"], row["number"], row["status"], row["sclerosed"], row["signature"]) for row in rows]

    assert exported() == [("A1", "2", "confirmed", "yes", ""), ("A1", "3", "added", "no", "")]
    reviews.sign(session, specimen.id, by=reviewer, meaning="Released")
    signed = [("A1", "2", "confirmed", "yes", "sign"), ("A1", "3", "added", "no", "sign")]
    assert exported() == signed
    per_slide = lines(slide_exports.to_csv(session, "slides", **tables, patient_id=specimen.patient_id))
    told = [(row["slide"], row["glomeruli"], row["sclerosed_percent"], row["signed_by"]) for row in per_slide]
    assert told == [("A1", "2", "50", "Rita of the lab"), ("A2", "0", "", "Rita of the lab")]
    assert per_slide[0]["note"] == "Fewer than 25 glomeruli (2): the percentage is uncertain."

    outlines = json.loads(slide_exports.to_geojson(session, a1.id, by=technologist, file_name="A1.geojson"))
    first, second = outlines["features"]
    assert (first["properties"]["name"], first["properties"]["classification"]["name"]) == (
        "Glomerulus 2", "Globally sclerosed glomerulus",
    )  # fmt: skip
    assert first["geometry"]["coordinates"][0][0] == [400, 400]
    known = ["Probability" in feature["properties"]["measurements"] for feature in (first, second)]
    assert known == [True, False], "no network said how likely it is what a person added"
    of_a2 = slide_exports.to_geojson(session, a2.id, by=technologist, file_name="A2.geojson")
    assert json.loads(of_a2)["features"] == []
    trail = [(event.action, event.entity, event.new) for event in audit.events(session, action="export.", limit=3)]
    assert trail == [
        ("export.geojson", "slide", {"file_name": "A2.geojson", "rows": 0}),
        ("export.geojson", "slide", {"file_name": "A1.geojson", "rows": 2}),
        ("export.csv", "specimen", {"file_name": "K-1.csv", "table": "slides", "rows": 2}),
    ]

    reviews.reopen(session, specimen.id, by=reviewer, reason="One is no glomerulus")
    glomeruli.remove(session, run, [key], by=technologist)
    assert exported() == [("A1", "2", "confirmed", "yes", "")], "what stands now, unsigned"
    with pytest.raises(InputError, match="Say what to export"):
        slide_exports.to_csv(session, "slides", **tables)
    with pytest.raises(NotFound, match="There is no slide 99"):
        slide_exports.to_geojson(session, 99, by=technologist, file_name="A1.geojson")


@pytest.mark.parametrize("export", ["glomeruli", "slides", "geojson"])
def test_what_is_exported_is_read_and_made_while_others_may_write(
    engine: Engine, technologist: User, export: str
) -> None:
    with session_scope(engine) as session:
        specimen, _, (slide,) = searched(session, technologist, {"A1": [Found(100, 100)]})
    asked_while_writing: list[str] = []

    def noted(connection: Connection, _cursor: object, statement: str, *_rest: object) -> None:
        if not connection.get_execution_options().get("read_only", False):
            asked_while_writing.append(statement)

    event.listen(engine, "before_cursor_execute", noted)
    with session_scope(engine) as session:
        if export == "geojson":
            slide_exports.to_geojson(session, slide.id, by=technologist, file_name="A1.geojson")
        else:
            told = {"by": technologist, "file_name": "K-1.csv", "entity": "specimen", "entity_id": specimen.id}
            slide_exports.to_csv(session, export, **told, specimen_id=specimen.id)
    event.remove(engine, "before_cursor_execute", noted)
    assert any("audit_events" in statement for statement in asked_while_writing)
    assert not any("slides" in statement for statement in asked_while_writing)
