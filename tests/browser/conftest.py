"""A real Chromium, a page in it for every test, and the ways to wait for what that page shows.

Streamlit draws a page piece by piece, and what follows a click comes back through the server. So nothing is read from a
page at once: `expect` waits for what shall be there. That something is absent is asked only after `drawn`, or after
something that comes with it or later.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.running_app import Person, RunningApp, new_app, running_app, web_app

__all__ = ["new_app", "running_app", "web_app"]

CHROMIUM_ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--process-per-site",  # see `profile`
]
SHOWN = """() => `Script ${document.querySelector("[data-testid=stApp]")?.dataset.testScriptState}, stale parts:
${document.querySelectorAll("[data-stale=true]").length}. Text of the page:\n${document.body.innerText}`"""
"""What a page shows, and how far Streamlit has drawn it."""
PATIENCE_MS = 180_000  # costs time only where a test fails; a machine with better things to do needs a minute
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


@pytest.fixture(scope="session")
def profile(browser: Any) -> Iterator[Any]:
    """One profile for the whole run: Streamlit's scripts, megabytes of them, are fetched and compiled once.

    An empty page at the address of the apps stays open: those of the tests are tabs beside it, without windows of their
    own, and run in its process, which keeps what it has compiled.
    """
    made = browser.new_context(viewport=BENCH, timezone_id="Europe/Berlin", reduced_motion="reduce")
    stays = made.new_page()
    stays.route("**", lambda route: route.fulfill(body=""))
    stays.goto("http://127.0.0.1/")
    yield made
    made.close()


FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Remembers that a test failed, for what its page tells then."""
    report = yield
    item.stash[FAILED] = item.stash.get(FAILED, False) or report.failed
    return report


@pytest.fixture
def page(profile: Any, request: pytest.FixtureRequest) -> Iterator[Any]:
    """A page at bench size that knows nobody; nothing on it may break the content security policy.

    Where the test failed, what the page shows is told with it: elsewhere it may never fail again.
    """
    opened = profile.new_page()
    opened.set_default_timeout(PATIENCE_MS)
    opened.add_init_script("if (!sessionStorage.length) localStorage.clear(); sessionStorage.test = 'goes on';")
    violations: list[str] = []
    opened.on("console", lambda said: violations.append(said.text) if "Content Security Policy" in said.text else None)
    errors: list[str] = []
    opened.on("pageerror", lambda error: errors.append(f"{error.message}\n{error.stack}"))
    opened.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
    yield opened
    if request.node.stash.get(FAILED, False):
        request.node.add_report_section("teardown", "page", "\n".join((opened.url, opened.evaluate(SHOWN), *errors)))
    opened.close()
    profile.clear_cookies()
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


def admit(page: Any, app: RunningApp, person: Person) -> None:
    """Sign in as the form does, without looking at it."""
    answer = page.request.post(
        f"{app.url}/login",
        form={"username": person.username, "password": person.password},
        headers={"origin": app.url},
        max_redirects=0,
        max_retries=2,  # the server may close the connection of the test before in the moment in which it is used again
    )
    assert answer.status == 303, answer.text()


def sign_in(page: Any, app: RunningApp, person: Person, target: str = "/worklist") -> None:
    """`admit`, and go to `target`."""
    admit(page, app, person)
    page.goto(f"{app.url}{target}")
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
