from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

import pytest

from db import analyses, specimens
from pages.components.analysis import MODEL, card_of
from tests.browser.conftest import sign_in
from tests.browser.records import a_picture
from tests.running_app import Person, RunningApp

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(card_of(MODEL) is None, reason=f"the weights of {MODEL} are not in renalcore/weights"),
]


@pytest.fixture(scope="module")
def technologist(web_app: RunningApp) -> Person:
    return web_app.person("technologist", "Tess Technologist")


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Two fields, the first one again under another name, a text that calls itself an image, and nothing at all."""
    contents = {
        "one.png": a_picture(seed=secrets.randbits(30)),
        "zwei Ödeme.png": a_picture(seed=secrets.randbits(30)),
        "notes.png": b"not a picture",
        "empty.jpg": b"",
    }
    contents["copy.png"] = contents["one.png"]
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    return [tmp_path / name for name in contents]


def scan(page: Any, *numbers: str) -> None:
    """Types as a bar-code scanner does: each number ends with Enter."""
    page.wait_for_function("() => document.activeElement?.closest('[class*=identifier]')")
    for number in numbers:
        page.keyboard.type(number)
        page.keyboard.press("Enter")
        page.wait_for_timeout(300)


def test_a_specimen_is_scanned_checked_and_sent_to_analysis(
    page: Any, web_app: RunningApp, technologist: Person, files: list[Path]
) -> None:
    accession = f"S-{secrets.token_hex(4)}"
    sign_in(page, web_app, technologist, "/new")
    scan(page, "H-77", accession)
    assert page.get_by_label("Accession number").input_value() == accession
    page.set_input_files("input[type=file]", [str(path) for path in files])
    table = page.locator("table.rc-table")
    table.get_by_text("the same picture as one.png").wait_for()
    assert table.get_by_text("Left out:").count() == 3
    page.get_by_role("button", name="Analyse 2 fields").click()
    page.get_by_text("2 fields registered").wait_for()
    with web_app.database() as session:
        specimen = specimens.by_accession(session, accession)
        assert specimen is not None
        fields = [field.name for field in specimens.fields(session, specimen.id)]
        asked = analyses.current(session, specimen.id)
    assert sorted(fields) == ["one.png", "zwei Ödeme.png"]
    assert asked is not None
    assert (asked.state, asked.model_key) == ("queued", MODEL)


def test_fields_are_added_to_a_specimen_that_is_already_registered(
    page: Any, web_app: RunningApp, technologist: Person, files: list[Path]
) -> None:
    accession = f"S-{secrets.token_hex(4)}"
    sign_in(page, web_app, technologist, "/new")
    scan(page, "H-78", accession)
    page.set_input_files("input[type=file]", [str(files[0])])
    page.get_by_role("button", name="Analyse 1 field").click()
    page.get_by_text("1 field registered").wait_for()
    scan(page, "H-78", accession)
    page.get_by_text(f"{accession} is already registered for patient H-78").wait_for()
    page.set_input_files("input[type=file]", [str(files[0]), str(files[1])])
    page.get_by_text("Add these fields to it").click()
    page.get_by_text("has this picture already").wait_for()
    page.get_by_role("button", name="Analyse 1 field").click()
    page.get_by_text("1 field added").wait_for()
    with web_app.database() as session:
        specimen = specimens.by_accession(session, accession)
        assert specimen is not None
        assert len(specimens.fields(session, specimen.id)) == 2
