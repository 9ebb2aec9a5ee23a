"""What a technologist sees when the program itself is at fault."""

from __future__ import annotations

import re
from typing import Any

import pytest
import sqlalchemy as sa

from tests.browser.conftest import drawn, expect, shoot, sign_in
from tests.browser.records import analysed
from tests.running_app import RunningApp

pytestmark = pytest.mark.browser


def test_a_fault_in_a_part_of_a_page_is_told_calmly_under_a_number_that_the_log_has_too(
    page: Any, web_app: RunningApp
) -> None:
    person = web_app.person()
    bench = analysed(web_app, person)
    with web_app.database() as session:  # a record as no version of the program writes it
        session.execute(
            sa.text("""UPDATE specimen_fields SET flags = '["Anna Example"]' WHERE id = :id"""),
            {"id": bench.field_ids[0]},
        )
    sign_in(page, web_app, person, f"/review?specimen={bench.specimen_id}")
    box = page.get_by_role("alert").filter(has_text="A fault in the program stopped this part of the page")
    expect(box).to_contain_text("Nothing that was stored is lost. Load the page again.")
    told = re.compile(r"error ([0-9A-F]{6}): the log of the web server")
    expect(box).to_contain_text(told)
    number = told.search(box.inner_text())
    assert number
    expect(page.get_by_role("heading", name=bench.accession)).to_be_visible()
    expect(page.get_by_text("For research use only")).to_be_visible()
    drawn(page)
    expect(page.get_by_role("alert")).to_have_count(1)
    shoot(page, "fault")
    with web_app.database() as session:
        session.execute(sa.text("UPDATE specimen_fields SET flags = '[]' WHERE id = :id"), {"id": bench.field_ids[0]})
    log = web_app.log.read_text()
    assert f"error {number[1]} on /review: TypeError" in log
    assert "review.py" in log
    assert "Anna Example" not in log


def test_a_number_beyond_those_of_records_is_told_to_be_none_on_every_page(page: Any, web_app: RunningApp) -> None:
    sign_in(page, web_app, web_app.person(), f"/review?specimen={10**20}")
    expect(page.get_by_text("No such specimen.")).to_be_visible()
    for word in ("slide", "scan", "patient"):
        page.goto(f"{web_app.url}/{word}?{word}={10**20}")
        expect(page.get_by_text(f"No such {word}.")).to_be_visible()
