"""The pages of an administrator, in a real Chromium."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from db import accounts, audit, cutoffs, worklist
from renalcore import models
from tests.browser.conftest import drawn, expect, shoot, sign_in
from tests.running_app import RunningApp

pytestmark = pytest.mark.browser


def test_an_invited_user_chooses_a_password_by_a_link_that_is_shown_once(page: Any, new_app: RunningApp) -> None:
    sign_in(page, new_app, new_app.person("admin"), "/admin-users")
    shoot(page, "admin-users")
    page.click("text=Invite a user")
    page.get_by_role("textbox", name="User name", exact=True).fill("grace.invited")
    page.get_by_role("textbox", name="Full name", exact=True).fill("Grace Invited")
    page.get_by_role("dialog").get_by_text("reviewer", exact=True).click()
    shoot(page, "admin-users-invite")
    page.click("text=Create a one-time link")
    shown = page.get_by_test_id("stCode")
    expect(shown).to_contain_text(f"{new_app.url}/welcome?token=")
    drawn(page)
    link = shown.inner_text().strip()
    shoot(page, "admin-users-link")
    page.reload()
    page.get_by_test_id("stDataFrame").wait_for()
    drawn(page)
    expect(shown).to_have_count(0)

    page.context.clear_cookies()  # she is somebody else
    page.goto(link)
    page.fill("#password", "words that go together")
    page.fill("#again", "words that go together")
    page.click("button[type=submit]")
    page.wait_for_url("**/worklist")
    page.wait_for_selector("text=Grace Invited")
    with new_app.database() as session:
        assert accounts.by_username(session, "grace.invited").role == "reviewer"


def test_an_account_that_cannot_be_invited_says_why_and_keeps_what_was_typed(page: Any, new_app: RunningApp) -> None:
    sign_in(page, new_app, new_app.person("admin"), "/admin-users")
    page.click("text=Invite a user")
    page.get_by_role("textbox", name="User name", exact=True).fill("has spaces in it")
    page.get_by_role("textbox", name="Full name", exact=True).fill("Some Body")
    page.click("text=Create a one-time link")
    page.wait_for_selector("text=no spaces")
    drawn(page)
    expect(page.get_by_role("textbox", name="Full name", exact=True)).to_have_value("Some Body")


def test_an_account_changes_its_role_is_deactivated_and_comes_back(page: Any, new_app: RunningApp) -> None:
    person = new_app.person("technologist", full_name="000 First In The List")
    sign_in(page, new_app, new_app.person("admin"), "/admin-users")
    change, dialog = page.get_by_role("button", name="Change 000"), page.get_by_role("dialog")

    def open_account() -> None:
        # What the table paints stands in its canvas as elements, too.
        page.locator("[role=gridcell]", has_text=person.full_name).wait_for(state="attached")
        page.get_by_text("Choose a line to change").or_(change).first.wait_for()
        drawn(page)
        if not change.is_visible():  # the line is no longer chosen
            table = page.get_by_test_id("stDataFrame").locator("canvas").first
            table.click(position={"x": 17, "y": 50}, force=True)  # an element above it takes the scrolling
        change.click()
        dialog.wait_for()
        drawn(page)

    def account() -> Any:
        with new_app.database() as session:
            return accounts.by_username(session, person.username)

    open_account()
    shoot(page, "admin-users-change")
    dialog.get_by_text("reviewer", exact=True).click()
    dialog.get_by_role("button", name="Change role").click()
    dialog.wait_for(state="detached")
    assert account().role == "reviewer"

    open_account()
    dialog.get_by_role("button", name="Deactivate").click()
    dialog.wait_for(state="detached")
    assert not account().is_active


def test_a_new_version_of_the_cut_offs_is_made_from_a_copy_and_adopted(page: Any, new_app: RunningApp) -> None:
    sign_in(page, new_app, new_app.person("admin"), "/admin-cutoffs")
    page.get_by_role("heading", name="Table B (coarser, four grades)").wait_for()
    shoot(page, "admin-cutoffs")
    page.get_by_role("button", name="Copy and edit").click()
    page.get_by_role("textbox", name="Version").wait_for()
    shoot(page, "admin-cutoffs-edit")
    page.click("text=Save as a new version")
    page.wait_for_selector("text=a cut-off table needs a version")

    version = page.get_by_role("textbox", name="Version")
    version.fill("B-1")
    page.click("text=Save as a new version")
    page.wait_for_selector("text=versions never change")
    version.fill("Lab-1")
    page.get_by_role("textbox", name="Title", exact=True).fill("Our own cut-offs")
    page.click("text=Save as a new version")
    page.wait_for_selector("text=Version Lab-1 is saved")
    with new_app.database() as session:
        assert cutoffs.default(session).version == "B-1"  # saved is not adopted
        assert cutoffs.get(session, "Lab-1").rows == cutoffs.get(session, "B-1").rows

    page.get_by_role("radio", name="Lab-1").click()
    page.get_by_role("heading", name="Lab-1: Our own cut-offs").wait_for()
    drawn(page)
    page.get_by_role("button", name="Adopt as default").click()
    page.get_by_role("dialog").get_by_role("button", name="Adopt", exact=True).click()
    page.get_by_role("dialog").wait_for(state="detached")
    with new_app.database() as session:
        assert cutoffs.default(session).version == "Lab-1"
    shoot(page, "admin-cutoffs-adopted")


def test_every_model_shows_its_figures_its_data_and_its_limits(page: Any, new_app: RunningApp) -> None:
    sign_in(page, new_app, new_app.person("admin"), "/admin-models")
    shoot(page, "admin-models")
    for card in models.all_cards():
        for words in (card.title, card.sha256, card.intended_use, *card.limits[:1]):
            expect(page.locator("body")).to_contain_text(words, use_inner_text=True)
    if not models.all_cards():
        page.get_by_text("No model is installed.").wait_for()


def test_the_audit_trail_is_filtered_verified_and_downloaded(page: Any, new_app: RunningApp, tmp_path: Path) -> None:
    admin = new_app.person("admin")
    sign_in(page, new_app, admin, "/admin-audit")
    shoot(page, "admin-audit")
    page.get_by_role("textbox", name="Record", exact=True).fill("cutoff_table 1")
    page.keyboard.press("Enter")
    page.get_by_text("1 event, newest first", exact=True).wait_for()
    drawn(page)
    with page.expect_download() as download:
        page.click("text=Download as CSV")
    download.value.save_as(tmp_path / "audit.csv")
    content = (tmp_path / "audit.csv").read_bytes()
    assert content.startswith("\ufeff".encode())
    rows = list(csv.DictReader(io.StringIO(content.decode("utf-8-sig"))))
    assert [(row["entity"], row["entity_id"], row["action"]) for row in rows] == [("cutoff_table", "1", "cutoffs.ship")]
    assert json.loads(rows[0]["new"])["version"] == "A-1"
    with new_app.database() as session:
        assert audit.events(session, action="export.audit", actor=admin.username, limit=1)  # taking it away is recorded

    page.click("text=Verify the trail")
    page.wait_for_selector("text=events are as they were recorded")
    shoot(page, "admin-audit-verified")


def test_a_row_altered_behind_the_programs_back_is_found(page: Any, new_app: RunningApp) -> None:
    sign_in(page, new_app, new_app.person("admin"), "/admin-audit")
    with new_app.engine.begin() as connection:
        triggers = "SELECT name, sql FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'audit_events'"
        kept = connection.execute(sa.text(triggers)).all()
        for name, _ in kept:
            connection.execute(sa.text(f"DROP TRIGGER {name}"))
        connection.execute(sa.text("UPDATE audit_events SET actor_name = 'nobody' WHERE id = 3"))
    try:
        page.click("text=Verify the trail")
        page.wait_for_selector("text=The audit trail has been altered.")
        page.wait_for_selector("text=Audit event 3 was changed after it was recorded.")
        shoot(page, "admin-audit-altered")
    finally:
        with new_app.engine.begin() as connection:
            connection.execute(sa.text("UPDATE audit_events SET actor_name = 'system' WHERE id = 3"))
            for _, sql in kept:
                connection.execute(sa.text(sql))


def test_the_system_page_tells_what_runs_and_offers_the_demo_while_empty(page: Any, new_app: RunningApp) -> None:
    sign_in(page, new_app, new_app.person("admin"), "/admin-system")
    page.wait_for_selector("text=No worker is running")
    shoot(page, "admin-system")
    for words in ("sqlite", "Versions", "Python", "Load demo patients"):
        expect(page.locator("body")).to_contain_text(words, use_inner_text=True)


def test_the_demo_patients_fill_an_empty_installation_once(page: Any, new_app: RunningApp) -> None:
    sign_in(page, new_app, new_app.person("admin"), "/admin-system")
    page.get_by_role("button", name="Load demo patients").click()
    page.wait_for_url("**/worklist", timeout=240_000)  # twelve fields are drawn
    page.wait_for_selector("text=DEMO-001")
    with new_app.database() as session:
        assert worklist.state_counts(session)["waiting"] == 4
    page.goto(f"{new_app.url}/admin-system")
    page.wait_for_selector("text=Versions")
    drawn(page)
    expect(page.get_by_role("button", name="Load demo patients")).to_have_count(0)
