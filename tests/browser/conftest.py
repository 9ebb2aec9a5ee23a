"""A real Chromium, and a page in it for every test."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.running_app import Person, RunningApp, running_app, web_app

__all__ = ["running_app", "web_app"]

CHROMIUM_ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
BENCH = {"width": 1280, "height": 800}
TABLET = {"width": 820, "height": 1180}


@pytest.fixture(scope="session")
def browser(chromium: str) -> Iterator[Any]:
    """One Chromium for the whole run."""
    from playwright.sync_api import sync_playwright  # only where a browser exists

    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_ARGUMENTS)
        yield launched
        launched.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A fresh profile's page at bench size; nothing on it may break the content security policy."""
    context = browser.new_context(viewport=BENCH, timezone_id="Europe/Berlin")
    opened = context.new_page()
    opened.set_default_timeout(60_000)
    violations: list[str] = []
    opened.on("console", lambda said: violations.append(said.text) if "Content Security Policy" in said.text else None)
    yield opened
    context.close()
    assert violations == []


def sign_in(page: Any, app: RunningApp, person: Person, target: str = "/worklist") -> None:
    """Sign in through the form, as a person does, and end at `target`."""
    page.goto(f"{app.url}{target}")
    page.fill("#username", person.username)
    page.fill("#password", person.password)
    page.click("button[type=submit]")
    page.wait_for_url(f"**{target}")
    page.wait_for_selector("h1")


def shoot(page: Any, name: str) -> None:
    """Keep pictures of the page at bench and tablet size in the folder RENAL_SCREENSHOTS, where it is set."""
    folder = os.environ.get("RENAL_SCREENSHOTS")
    if not folder:
        return
    Path(folder).mkdir(parents=True, exist_ok=True)
    for size, viewport in (("bench", BENCH), ("tablet", TABLET)):
        page.set_viewport_size(viewport)
        page.wait_for_timeout(700)  # tables are drawn on a canvas after the layout has settled
        page.screenshot(path=Path(folder) / f"{name}-{size}.png")
    page.set_viewport_size(BENCH)
