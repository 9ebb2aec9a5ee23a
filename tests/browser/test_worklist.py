from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from db import analyses, specimens, workers
from tests.browser.conftest import TABLET, drawn, expect, sign_in
from tests.browser.records import analysed
from tests.running_app import Person, RunningApp

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def technologist(new_app: RunningApp) -> Person:
    return new_app.person("technologist", "Tess Technologist")


def test_an_empty_worklist_says_what_to_do_next(page: Any, new_app: RunningApp, technologist: Person) -> None:
    sign_in(page, new_app, technologist)
    page.get_by_text("No specimens yet.").wait_for()
    page.get_by_text("No worker is running").wait_for()
    page.get_by_role("button", name="New specimen").click()
    page.wait_for_url("**/new")


def test_a_specimen_is_found_by_its_accession_number_and_opened_by_its_row(
    page: Any, new_app: RunningApp, technologist: Person
) -> None:
    wanted, other = analysed(new_app, technologist), analysed(new_app, technologist)
    sign_in(page, new_app, technologist)
    page.locator(f"tr[data-id='{other.specimen_id}']").wait_for()
    page.get_by_label("Search").fill(wanted.accession)
    page.keyboard.press("Enter")
    expect(page.locator(f"tr[data-id='{other.specimen_id}']")).to_have_count(0)
    row = page.locator(f"tr[data-id='{wanted.specimen_id}']")
    expect(row).to_contain_text("needs review")
    drawn(page)
    row.get_by_text("Anna Example").click()
    page.wait_for_url(f"**/review?specimen={wanted.specimen_id}**")
    page.wait_for_selector(".viewer[data-picture]")
    page.go_back()
    page.wait_for_selector("h1:has-text('Worklist')")


def test_a_failed_analysis_says_why_and_is_tried_again(page: Any, new_app: RunningApp, technologist: Person) -> None:
    bench, other = analysed(new_app, technologist, state="failed"), analysed(new_app, technologist)
    sign_in(page, new_app, technologist)
    row = page.locator(f"tr[data-id='{bench.specimen_id}']")
    expect(row).to_contain_text("Field 2 could not be read. Upload it again.")
    link = page.locator(f"tr[data-id='{other.specimen_id}'] a")
    link.focus()
    came = analysed(new_app, technologist)
    row.get_by_role("button", name="Retry").dispatch_event("click")
    row.get_by_text("waiting").wait_for()
    page.locator(f"tr[data-id='{came.specimen_id}']").wait_for()
    expect(link).to_be_focused()  # a line that changes, or comes in above, leaves the others alone
    with new_app.database() as session:
        assert specimens.get(session, bench.specimen_id).state == "waiting"
    drawn(page)
    row.get_by_role("button", name="Cancel").click()
    row.get_by_text("cancelled", exact=True).wait_for()


def test_a_waiting_specimen_shows_its_progress_without_a_reload(
    page: Any, new_app: RunningApp, technologist: Person
) -> None:
    bench = analysed(new_app, technologist, state="queued")
    sign_in(page, new_app, technologist)
    row = page.locator(f"tr[data-id='{bench.specimen_id}']")
    row.get_by_text("waiting").wait_for()
    with new_app.database() as session:
        beat = workers.beat(session, "bench", host="test", pid=1)
        beat.heartbeat_at += timedelta(minutes=10)  # alive for as long as the page needs to show it
    row.get_by_text("waiting: loading the model").wait_for()
    with new_app.database() as session:
        workers.stopped(session, "bench")
        analyses.start(session, bench.analysis_id, device="cpu", worker="test")
    row.get_by_text("running 0 of 3").wait_for()
    with new_app.database() as session:
        analyses.cancel(session, bench.analysis_id, analyses.get(session, bench.analysis_id).requested_by)


def test_the_menu_leaves_the_room_of_a_tablet_to_the_page(page: Any, new_app: RunningApp, technologist: Person) -> None:
    page.set_viewport_size(TABLET)
    sign_in(page, new_app, technologist)
    menu = page.get_by_test_id("stSidebar")
    expand = page.get_by_test_id("stExpandSidebarButton")
    expand.wait_for()
    expect(menu.get_by_role("link", name="Patients")).to_have_count(0)  # Tab would stop at what nobody sees
    expand.click()  # there only while the menu is closed
    menu.get_by_role("link", name="Patients").click()
    page.wait_for_selector("h1:has-text('Patients')")
