from __future__ import annotations

import io
from typing import Any

import pandas
import pytest

from db import audit, patients, reviews
from tests.browser.conftest import drawn, expect, sign_in
from tests.browser.records import analysed, user_of
from tests.running_app import Person, RunningApp

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def reviewer(web_app: RunningApp) -> Person:
    return web_app.person("reviewer", "Rita Reviewer")


def downloaded(page: Any, button: str) -> pandas.DataFrame:
    page.get_by_role("button", name=button).wait_for()
    drawn(page)
    with page.expect_download() as waiting:
        page.get_by_role("button", name=button).click()
    content = waiting.value.path().read_bytes()
    assert content.startswith(b"\xef\xbb\xbf")
    return pandas.read_csv(io.BytesIO(content), dtype={"patient": str, "accession": str})


def test_a_patients_value_leads_to_the_field_it_was_counted_in(
    page: Any, web_app: RunningApp, reviewer: Person
) -> None:
    bench = analysed(web_app, reviewer)
    sign_in(page, web_app, reviewer, "/patient")
    page.get_by_label("Search").fill(bench.patient)
    page.keyboard.press("Enter")
    expect(page.locator("tr[data-id]")).to_have_count(1)
    drawn(page)
    page.locator("tr[data-id] a", has_text=bench.patient).click()
    page.wait_for_url("**/patient?patient=*")
    page.get_by_text("Where each value comes from").wait_for()
    drawn(page)
    page.locator("summary", has_text="WBC").click()
    page.get_by_role("link", name="field 3").click()
    page.wait_for_url(f"**/review?specimen={bench.specimen_id}&field={bench.field_ids[2]}")
    page.wait_for_selector(f".viewer[data-picture='{bench.field_ids[2]}']")


def test_a_patients_name_is_changed_with_a_reason(page: Any, web_app: RunningApp, reviewer: Person) -> None:
    bench = analysed(web_app, reviewer)
    with web_app.database() as session:
        patient = patients.find(session, bench.patient)
    sign_in(page, web_app, reviewer, f"/patient?patient={patient.id}")
    page.get_by_role("button", name="Change name").click()
    page.get_by_label("Patient name").fill("Ann Schmidt")
    page.get_by_role("button", name="Change", exact=True).click()
    page.get_by_text("Say why the patient's name changes.").wait_for()
    page.get_by_label("Reason").fill("She married")
    page.get_by_role("button", name="Change", exact=True).click()
    expect(page.locator(".rc-subtitle", has_text="Ann Schmidt")).to_be_visible()
    with web_app.database() as session:
        (renamed,) = audit.events(session, entity="patient", entity_id=patient.id, action="patient.rename")
    assert (renamed.actor_name, renamed.new, renamed.reason) == (
        reviewer.username,
        {"name": "Ann Schmidt"},
        "She married",
    )


def test_a_specimen_is_exported_and_the_export_recorded(page: Any, web_app: RunningApp, reviewer: Person) -> None:
    bench = analysed(web_app, reviewer)
    rita = user_of(web_app, reviewer)
    with web_app.database() as session:
        reviews.sign(session, bench.specimen_id, by=rita, meaning="I have reviewed it.")
    sign_in(page, web_app, reviewer, "/export")
    page.get_by_label("Accession number").fill(bench.accession)
    page.keyboard.press("Enter")
    table = downloaded(page, f"Download {bench.accession}.csv").set_index("class")
    assert set(table["accession"]) == {bench.accession}
    assert table.loc["WBC", "mean"] == 2.0
    assert table.loc["WBC", "signed_by"] == "Rita Reviewer"
    with web_app.database() as session:
        recorded = audit.events(session, action="export.csv", entity="specimen", entity_id=bench.specimen_id)
    assert [event.actor_name for event in recorded] == [reviewer.username]


def test_a_range_of_dates_is_exported(page: Any, web_app: RunningApp, reviewer: Person) -> None:
    bench = analysed(web_app, reviewer)
    sign_in(page, web_app, reviewer, "/export")
    page.get_by_text("A range of dates").click()
    page.get_by_text("specimens with results in this range").wait_for()
    assert bench.accession in set(downloaded(page, "Download CSV")["accession"])
