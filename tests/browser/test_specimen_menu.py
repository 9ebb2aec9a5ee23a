"""What is seldom done to a specimen on its review page: withdraw a field, bring it back, change patient or date."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from db import analyses, specimens
from tests.browser.conftest import drawn, expect, shoot, sign_in
from tests.browser.records import analysed, user_of, wait_until
from tests.browser.test_slides import fill
from tests.db.records import MODEL, a_picture
from tests.running_app import Person, RunningApp

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def technologist(web_app: RunningApp) -> Person:
    return web_app.person("technologist", "Tess Technologist")


def choose(page: Any, action: str) -> Any:
    """Opens the menu beside the specimen's name and chooses; returns the dialog that opens."""
    drawn(page)
    page.get_by_role("button", name="Actions").click()
    page.get_by_role("menuitem", name=action).or_(page.get_by_role("option", name=action)).click()
    dialog = page.get_by_role("dialog")
    dialog.wait_for()
    drawn(page)
    return dialog


def test_a_field_is_withdrawn_and_brought_back_and_the_counts_follow(
    page: Any, web_app: RunningApp, technologist: Person
) -> None:
    bench = analysed(web_app, technologist)
    sign_in(page, web_app, technologist, f"/review?specimen={bench.specimen_id}&field={bench.field_ids[1]}")
    page.wait_for_selector(f".viewer[data-picture='{bench.field_ids[1]}']")
    wait_until(page, {"WBC": 6, "RBC": 3})
    dialog = choose(page, "Withdraw a field")
    dialog.locator(f"img[src*='/fields/{bench.field_ids[1]}/']").wait_for()
    dialog.get_by_label("Reason").fill("of another patient")
    shoot(page, "withdraw")
    dialog.get_by_role("button", name="Withdraw", exact=True).click()
    wait_until(page, {"WBC": 4, "RBC": 2})
    page.wait_for_selector(f".viewer[data-picture='{bench.field_ids[2]}']")
    page.get_by_text("2 of 2", exact=True).wait_for()
    drawn(page)
    page.get_by_text("History").click()
    page.get_by_text("field 2.png withdrawn: of another patient").wait_for()
    shoot(page, "withdrawn")

    dialog = choose(page, "Withdraw a field")
    dialog.get_by_text("of another patient").wait_for()
    shoot(page, "bring-back")
    dialog.get_by_role("button", name="Bring back").click()
    wait_until(page, {"WBC": 6, "RBC": 3})
    page.get_by_text("3 of 3", exact=True).wait_for()


def test_a_failed_analysis_goes_on_without_the_field_it_failed_at(
    page: Any, web_app: RunningApp, technologist: Person
) -> None:
    bench = analysed(web_app, technologist, (), (), state="failed")
    sign_in(page, web_app, technologist, f"/review?specimen={bench.specimen_id}")
    page.get_by_text("Field 2 could not be read").wait_for()
    shoot(page, "failed")
    page.get_by_role("button", name="Withdraw a field").click()
    dialog = page.get_by_role("dialog")
    dialog.locator(f"img[src*='/fields/{bench.field_ids[1]}/']").wait_for()
    dialog.get_by_label("Reason").fill("damaged file")
    dialog.get_by_role("button", name="Withdraw", exact=True).click()
    dialog.wait_for(state="hidden")
    page.get_by_role("button", name="Retry").click()
    page.get_by_text("Findings are shown here when all fields are done").wait_for()
    with web_app.database() as session:
        assert analyses.progress(session, bench.analysis_id) == (1, 1)
        assert analyses.get(session, bench.analysis_id).state == "queued"


def test_a_field_that_the_analysis_left_out_is_searched_on_demand(
    page: Any, web_app: RunningApp, technologist: Person
) -> None:
    bench, tess = analysed(web_app, technologist), user_of(web_app, technologist)
    with web_app.database() as session:  # a field added while a second analysis waited, which was then cancelled
        later = analyses.request(session, specimens.get(session, bench.specimen_id), **MODEL, options={}, by=tess)
        specimens.add_fields(session, bench.specimen_id, [a_picture(bench.accession)], by=tess)
        analyses.cancel(session, later.id, tess)
    sign_in(page, web_app, technologist, f"/review?specimen={bench.specimen_id}")
    page.get_by_text("3 of 4 fields").wait_for()
    shoot(page, "left-out")
    page.get_by_role("button", name="Search the field left out").click()
    page.get_by_text("Findings are shown here when all fields are done").wait_for()


def test_a_specimen_is_given_to_the_right_patient(page: Any, web_app: RunningApp, technologist: Person) -> None:
    bench, other = analysed(web_app, technologist), analysed(web_app, technologist)
    sign_in(page, web_app, technologist, f"/review?specimen={bench.specimen_id}")
    page.wait_for_selector(f".viewer[data-picture='{bench.field_ids[0]}']")
    dialog = choose(page, "Change patient")
    dialog.get_by_label("Right patient's number").fill(other.patient)
    page.keyboard.press("Enter")
    dialog.get_by_text("Known:").wait_for()
    dialog.get_by_label("Reason").fill("number mistyped")
    shoot(page, "change-patient")
    dialog.get_by_role("button", name="Change patient").click()
    page.get_by_role("link", name=other.patient).wait_for()
    with web_app.database() as session:
        assert specimens.get(session, bench.specimen_id).patient.identifier == other.patient
    drawn(page)
    page.get_by_text("History").click()
    page.get_by_text(f"Moved from patient {bench.patient} to {other.patient}: number mistyped").wait_for()


def date_typed(page: Any, digits: str) -> None:
    page.get_by_role("dialog").get_by_role("spinbutton").first.click()
    page.keyboard.type(digits)
    page.get_by_text("Both dates are kept").click()  # the calendar closes, which lay over the button
    drawn(page)


def test_the_date_of_collection_is_given_later_and_corrected(
    page: Any, web_app: RunningApp, technologist: Person
) -> None:
    bench = analysed(web_app, technologist)
    sign_in(page, web_app, technologist, f"/review?specimen={bench.specimen_id}")
    page.wait_for_selector(f".viewer[data-picture='{bench.field_ids[0]}']")
    dialog = choose(page, "Change date")
    fill(page, "Reason", "not known before")
    date_typed(page, "209902280815")
    dialog.get_by_role("button", name="Change date").click()
    dialog.get_by_text("The date lies in the future.").wait_for()
    date_typed(page, "200402290815")
    shoot(page, "change-date")
    dialog.get_by_role("button", name="Change date").click()
    dialog.wait_for(state="hidden")

    dialog = choose(page, "Change date")
    expect(dialog.get_by_role("spinbutton")).to_have_text(["2004", "02", "29", "08", "15"])
    fill(page, "Reason", "year mistyped")
    date_typed(page, "202402290815")  # twenty years later
    dialog.get_by_role("button", name="Change date").click()
    dialog.wait_for(state="hidden")
    with web_app.database() as session:
        assert specimens.get(session, bench.specimen_id).collected_at == datetime(2024, 2, 29, 7, 15, tzinfo=UTC)
    drawn(page)
    page.get_by_text("History").click()
    page.get_by_text("Date of collection changed from unknown to 29 Feb 2004 08:15: not known before").wait_for()
    page.get_by_text("changed from 29 Feb 2004 08:15 to 29 Feb 2024 08:15: year mistyped").wait_for()
