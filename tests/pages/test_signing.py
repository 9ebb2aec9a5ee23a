"""What a reviewer is shown before signing is what is signed, and whom the history names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from db import accounts, analyses, audit, reviews, specimens
from db.engine import session_scope, upgrade
from db.models import SignOff, User
from pages.components import auth
from tests.db.records import MODEL, a_picture, found

PATIENCE_S = 120.0


def _dialog() -> None:
    from types import SimpleNamespace

    from db import reports
    from db.engine import session_scope
    from pages.components import signing

    def said(specimen_id: int) -> list[str]:
        with session_scope(read_only=True) as session:
            return [f"{sum(row.total for row in reports.report(session, specimen_id).rows)} seen"]

    signing.sign(1, said, SimpleNamespace(full_name="Rita Reviewer"), reviewed="fields")


def test_a_report_changed_by_another_person_is_read_again_before_it_is_signed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path / 'renalcore.db'}")
    upgrade()
    with session_scope() as session:
        tess, rita = (User(username=name, full_name=name, role=role) for name, role in
                      (("tess", "technologist"), ("rita", "reviewer")))  # fmt: skip
        session.add_all([tess, rita])
        session.flush()
        token = accounts.open_session(session, rita)
        specimen = specimens.register(
            session, identifier="H-1", patient_name=None, accession="S-1", objective="40x", scale_kind="whole_field",
            um_per_px=None, collected_at=None, uploads=[a_picture("a.png")], by=tess,
        )  # fmt: skip
        analysis = analyses.request(session, specimen, **MODEL, options={"min_score": 0.5}, by=tess)
        analyses.start(session, analysis.id, device="cpu", worker="w")
        (field,) = specimens.fields(session, specimen.id)
        analyses.store_field(session, analysis.id, field.id, detections=found(("RBC", 0.9)), seconds=1.0, worker="w")
        analyses.finish(session, analysis.id)
    monkeypatch.setattr(type(st.context), "cookies", {auth.COOKIE: token})  # AppTest has no browser to send it

    page = AppTest.from_function(_dialog, default_timeout=PATIENCE_S).run()
    assert page.markdown[0].value == "1 seen"
    with session_scope() as session:
        reviews.add(session, analysis.id, field.id, "WBC", (1, 1, 30, 30), by=tess)
    page.button(key="sign-now-1").click().run()
    assert page.markdown[0].value == "2 seen"
    assert [error.value.replace("\\", "") for error in page.error] == [
        "Somebody changed this report while you read it. Read it again, then sign."
    ]
    page.button(key="sign-now-1").click().run()
    with session_scope(read_only=True) as session:
        kept = session.get_one(SignOff, 1).report["rows"]
    assert sum(row["total"] for row in kept) == 2


def _history() -> None:
    from pages.components import signing

    signing.history(1, [("specimen", 1)], lambda event: event.action)


def test_the_history_has_the_full_name_of_who_did_something(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path / 'renalcore.db'}")
    upgrade()
    with session_scope() as session:
        tess = User(username="tess", full_name="Tess Technologist", role="technologist")
        session.add(tess)
        session.flush()
        audit.record(session, actor=tess, action="specimen.register", entity="specimen", entity_id=1)
        audit.record(session, actor=None, action="specimen.sweep", entity="specimen", entity_id=1)
    (lines,) = AppTest.from_function(_history, default_timeout=PATIENCE_S).run().get("html")
    assert re.findall(r"· (.+?)</span><br>(.+?)</div>", lines.proto.body) == [
        ("system", "specimen.sweep"),
        ("Tess Technologist", "specimen.register"),
    ]
