"""A real Chromium, a page in it for every test, and the ways to wait for what that page shows.

Streamlit draws a page piece by piece, and what follows a click comes back through the server. So nothing is read from a
page at once: `expect` waits for what shall be there. That something is absent is asked only after `drawn`, or after
something that comes with it or later.
"""

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
PATIENCE_MS = 60_000  # a server on a machine with better things to do answers in ten seconds
BENCH = {"width": 1280, "height": 800}
TABLET = {"width": 820, "height": 1180}


@pytest.fixture(scope="session")
def browser(chromium: str) -> Iterator[Any]:
    """One Chromium for the whole run."""
    from playwright.sync_api import expect, sync_playwright  # only where a browser exists

    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_ARGUMENTS)
        yield launched
        launched.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A fresh profile's page at bench size; nothing on it may break the content security policy."""
    context = browser.new_context(viewport=BENCH, timezone_id="Europe/Berlin")
    opened = context.new_page()
    opened.set_default_timeout(PATIENCE_MS)
    violations: list[str] = []
    opened.on("console", lambda said: violations.append(said.text) if "Content Security Policy" in said.text else None)
    yield opened
    context.close()
    assert violations == []


def expect(what: Any) -> Any:
    """Playwright's assertions about a page or a locator; each waits until it holds."""
    from playwright.sync_api import expect as assertions  # only where a browser exists

    return assertions(what)


def drawn(page: Any) -> None:
    """Waits until the script of the page that is seen has run to its end: what is absent by now comes only by a click.

    To be called once something of that page is seen: a run that has not begun looks like one that ended.
    """
    page.wait_for_selector("[data-testid=stApp][data-test-script-state=notRunning]", state="attached")
    expect(page.locator("[data-stale=true]")).to_have_count(0)
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


def sign_in(page: Any, app: RunningApp, person: Person, target: str = "/worklist") -> None:
    """Sign in through the form, as a person does, and end at `target`."""
    page.goto(f"{app.url}{target}")
    page.fill("#username", person.username)
    page.fill("#password", person.password)
    page.click("button[type=submit]")
    page.wait_for_url(f"**{target}")
    page.wait_for_selector("h1")
    drawn(page)


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
