"""Signing in through an identity provider, in a real Chromium, against a provider that runs here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from db import accounts
from tests.browser.conftest import drawn, expect, shoot
from tests.browser.identity_provider import IdentityProvider
from tests.running_app import RunningApp, make_app

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def provider() -> Iterator[IdentityProvider]:
    """The institution's identity provider."""
    made = IdentityProvider()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def app(provider: IdentityProvider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApp]:
    """An app whose secrets name that provider."""
    folder: Path = tmp_path_factory.mktemp("oidc")
    made = make_app(folder / "data", RENAL_WORKER="external", STREAMLIT_SECRETS_FILES=str(folder / "secrets.toml"))
    (folder / "secrets.toml").write_text(provider.secrets_toml(made.url))
    try:
        made.start()
        yield made
    finally:
        made.stop()


def test_an_account_named_by_its_verified_address_comes_in_and_signs_out_for_good(
    page: Any, app: RunningApp, provider: IdentityProvider
) -> None:
    with app.database() as session:
        accounts.invite(session, username=provider.email, full_name="Some Body", role="reviewer", by=None)
    page.goto(f"{app.url}/worklist")
    shoot(page, "sign-in-institution")
    page.click("text=Sign in with your institution")
    page.click("text=Continue to RenalCore")
    page.wait_for_url("**/worklist")
    page.wait_for_selector("text=Some Body")
    with app.database() as session:
        assert accounts.by_username(session, provider.email).external_subject == f"{provider.issuer}|subject-1"
    page.click("text=Sign out")
    page.wait_for_url("**/login?signed-out")
    page.goto(f"{app.url}/worklist")
    page.wait_for_url(f"{app.url}/login*")


def test_an_identity_of_an_hour_ago_opens_no_session_until_the_institution_is_asked_again(
    page: Any, app: RunningApp, provider: IdentityProvider
) -> None:
    provider.subject, provider.email = "subject-3", "reviewer@hospital.example"
    with app.database() as session:
        accounts.invite(session, username=provider.email, full_name="Re Viewer", role="reviewer", by=None)
    provider.issued_ago_s = 3600  # as the browser remembers it after a session that has ended
    page.goto(f"{app.url}/login")
    page.click("text=Sign in with your institution")
    page.wait_for_selector("text=Your sign-in at your institution is too old")
    drawn(page)
    expect(page.get_by_text("Continue to RenalCore")).to_have_count(0)
    provider.issued_ago_s = 0
    page.click("text=Sign in at your institution again")
    page.click("text=Continue to RenalCore")
    page.wait_for_url("**/worklist")


def test_someone_without_an_account_gets_none(page: Any, app: RunningApp, provider: IdentityProvider) -> None:
    provider.subject, provider.email = "subject-2", "stranger@hospital.example"
    page.goto(f"{app.url}/login")
    page.click("text=Sign in with your institution")
    page.wait_for_selector("text=No active account here belongs to your institutional sign-in")
    drawn(page)
    expect(page.get_by_text("Continue to RenalCore")).to_have_count(0)
    with app.database() as session:
        assert accounts.by_username(session, provider.email) is None
