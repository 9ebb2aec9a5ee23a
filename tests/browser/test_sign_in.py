"""Signing in and out as a person does, in a real Chromium."""

from __future__ import annotations

import re
from typing import Any

import pytest
import sqlalchemy as sa

from db.engine import now
from db.models import LoginSession
from tests.browser.conftest import drawn, expect, shoot, sign_in
from tests.running_app import RunningApp

pytestmark = pytest.mark.browser


def test_a_page_asked_for_by_its_address_is_shown_after_signing_in_and_after_a_reload(
    page: Any, new_app: RunningApp
) -> None:
    person = new_app.person(full_name="Ada Example")
    page.goto(f"{new_app.url}/patient")
    page.wait_for_url(f"{new_app.url}/login?next=%2Fpatient")
    expect(page.locator("#username")).to_be_focused()
    shoot(page, "sign-in")
    page.fill("#username", person.username)
    page.fill("#password", person.password)
    page.keyboard.press("Enter")
    page.wait_for_url("**/patient")
    page.wait_for_selector("text=Ada Example")
    page.reload()
    page.wait_for_selector("text=Ada Example")
    assert "renalcore_session" in {cookie["name"] for cookie in page.context.cookies()}
    assert "renalcore_session" not in page.evaluate("document.cookie")  # no script can read it


def test_a_wrong_password_is_told_and_the_user_name_need_not_be_typed_again(page: Any, new_app: RunningApp) -> None:
    person = new_app.person()
    page.goto(f"{new_app.url}/login")
    page.fill("#username", person.username)
    page.fill("#password", "not this one at all")
    page.click("button[type=submit]")
    page.wait_for_selector("[role=alert]")
    expect(page.locator("#username")).to_have_value(person.username)
    expect(page.locator("#password")).to_have_value("")
    shoot(page, "sign-in-refused")


def test_signing_out_leads_to_the_sign_in_page_and_the_pages_are_closed_again(page: Any, new_app: RunningApp) -> None:
    sign_in(page, new_app, new_app.person())
    page.click("text=Sign out")
    page.wait_for_url("**/login?signed-out")
    expect(page.locator("[role=status]")).to_have_text("You are signed out.")
    page.goto(f"{new_app.url}/worklist")
    page.wait_for_url(f"{new_app.url}/login?next=*")


def test_a_page_left_open_says_so_when_its_session_has_ended_and_leads_back(page: Any, new_app: RunningApp) -> None:
    admin = new_app.person("admin")
    sign_in(page, new_app, admin, "/admin-users")
    with new_app.database() as session:
        session.execute(sa.update(LoginSession).values(ended_at=now()))
    page.click("text=Invite a user")
    page.wait_for_selector("text=Sign in to continue")
    drawn(page)
    expect(page.get_by_text("Invite a user")).to_have_count(0)
    expect(page.get_by_text(admin.full_name)).to_have_count(0)
    shoot(page, "session-ended")
    page.click("text=Sign in to continue")
    page.wait_for_url("**/login?next=%2Fadmin-users")


def test_a_technologist_sees_no_administration_and_is_refused_at_its_address(page: Any, new_app: RunningApp) -> None:
    sign_in(page, new_app, new_app.person("technologist"))
    menu = page.get_by_test_id("stSidebarNav")
    expect(menu).to_contain_text("Worklist")
    expect(menu).not_to_contain_text("Audit trail")
    for address in ("admin-users", "admin-audit", "admin-cutoffs", "admin-models", "admin-system"):
        page.goto(f"{new_app.url}/{address}")
        page.wait_for_selector("text=This page is for administrators. You are signed in as a technologist.")
    shoot(page, "refused")


def test_the_root_leads_to_the_worklist(page: Any, new_app: RunningApp) -> None:
    sign_in(page, new_app, new_app.person())
    page.goto(new_app.url)
    page.wait_for_url("**/worklist")
    page.wait_for_selector("h1")


def test_an_address_that_is_no_page_says_so(page: Any, new_app: RunningApp) -> None:
    sign_in(page, new_app, new_app.person())
    for address in ("no-such-page", "review/12"):
        answer = page.goto(f"{new_app.url}/{address}")
        assert answer.status == 404
        expect(page.get_by_text(f"RenalCore has no page at /{address}.")).to_be_visible()
    shoot(page, "no-such-page")
    page.click("text=To the worklist")
    page.wait_for_url("**/worklist")
    page.wait_for_selector("h1")


def test_the_first_administrator_comes_in_by_the_link_in_the_terminal(page: Any, new_app: RunningApp) -> None:
    links = re.findall(rf"{re.escape(new_app.url)}/welcome\S+", new_app.log.read_text())
    page.goto(links[-1])
    shoot(page, "welcome")
    page.fill("#password", "a fine long password")
    page.fill("#again", "a fine long password")
    page.click("button[type=submit]")
    page.wait_for_url("**/worklist")
    page.wait_for_selector("text=Administration")
