"""Clinical validation in a real Chromium: from a technologists' file to the specimens that differ."""

from __future__ import annotations

import io
import re
from typing import Any

import pandas
import pytest

from db import audit, reviews
from tests.browser.conftest import drawn, expect, shoot, sign_in
from tests.browser.records import Bench, Found, analysed, user_of
from tests.running_app import Person, RunningApp

pytestmark = pytest.mark.browser


def oxalates(count: int) -> tuple[Found, ...]:
    """A field with so many calcium oxalates and one white cell."""
    crystals = tuple(("Calcium oxalate", 0.9, (40 + 40 * i, 40, 70 + 40 * i, 70)) for i in range(count))
    return (*crystals, ("WBC", 0.9, (100, 300, 150, 350)))


@pytest.fixture(scope="module")
def reviewer(web_app: RunningApp) -> Person:
    return web_app.person("reviewer", "Rita Reviewer")


@pytest.fixture(scope="module")
def signed(web_app: RunningApp, reviewer: Person) -> list[Bench]:
    """Four signed specimens with 0, 2, 7 and 14 calcium oxalates per HPF: none, few, moderate, many by table B."""
    made = [analysed(web_app, reviewer, oxalates(count)) for count in (0, 2, 7, 14)]
    for bench in made:
        with web_app.database() as session:
            reviews.sign(session, bench.specimen_id, by=user_of(web_app, reviewer), meaning="I have reviewed it.")
    return made


def upload(page: Any, content: str | bytes, name: str = "grades.csv") -> None:
    payload = content.encode() if isinstance(content, str) else content
    page.locator("[data-testid=stFileUploaderDropzoneInput]").set_input_files(
        {"name": name, "mimeType": "text/csv", "buffer": payload}
    )
    page.get_by_text("Press Compare").wait_for()


def test_a_technologists_file_is_compared_shown_downloaded_and_recorded(
    page: Any, web_app: RunningApp, reviewer: Person, signed: list[Bench]
) -> None:
    none, few, moderate, many = (bench.accession for bench in signed)
    sign_in(page, web_app, reviewer, "/validation")
    page.get_by_text("The file is compared and not kept.").wait_for()
    shoot(page, "validation-empty")
    grades = f"Accession number;Component;Grade\n{none};CaOx;-\n{few};CaOx;+\n{moderate};CaOx;few\n{many};CaOx;10-25\n"
    upload(page, grades + f"{few};WBC;rare\nA-unknown;CaOx;few\n{few};Quartz;few\n")
    page.get_by_role("button", name="Compare").click()
    line = page.locator("tr[data-component='Calcium oxalate'] td")
    # Right: none, few; "few" for a report of moderate is one step off; 10-25, by its middle, is moderate for many.
    expect(line.nth(1)).to_have_text("4")
    expect(line.nth(2)).to_have_text(re.compile(r"^50\.0"))
    expect(line.nth(3)).to_have_text(re.compile(r"^100\.0"))
    expect(line.nth(6)).to_have_text("93.8")
    wbc = page.locator("tr[data-component='WBC'] td")
    expect(wbc.nth(2)).to_have_text(re.compile(r"^100\.0"))
    expect(wbc.nth(4)).to_contain_text("not defined")
    confusion = page.locator("table[data-confusion='Calcium oxalate'] tbody tr")
    expect(confusion.nth(2).locator("td")).to_have_text(["0", "0", "1", "1", "0"])
    expect(page.get_by_text("A-unknown")).to_have_count(1)
    expect(page.get_by_text("'Quartz' is none of the components")).to_have_count(1)
    drawn(page)
    expect(page.get_by_text("nan")).to_have_count(0)
    shoot(page, "validation")
    page.get_by_role("heading", name="Differences").scroll_into_view_if_needed()
    shoot(page, "validation-differences")

    with page.expect_download() as waiting:
        page.get_by_role("button", name="Differences as CSV").click()
    content = waiting.value.path().read_bytes()
    assert content.startswith(b"\xef\xbb\xbf")
    table = pandas.read_csv(io.BytesIO(content))
    assert sorted(zip(table["accession"], table["steps"], strict=True)) == sorted([(moderate, 1), (many, 1)])

    page.locator(f"tr[data-accession='{moderate}'] a").click()
    page.wait_for_url(f"**/review?specimen={signed[2].specimen_id}*")
    with web_app.database() as session:
        (compared,) = audit.events(session, action="validation.compare")
        (downloaded,) = audit.events(session, action="export.validation")
    assert (compared.actor_name, compared.new["specimens"], compared.new["values"]) == (reviewer.username, 4, 5)
    assert (downloaded.new["file_name"], downloaded.new["differences"]) == ("differences.csv", 2)
    assert none not in str(compared.new)  # counts only


def test_another_choice_asks_for_another_comparison(
    page: Any, web_app: RunningApp, reviewer: Person, signed: list[Bench]
) -> None:
    sign_in(page, web_app, reviewer, "/validation")
    upload(page, f"accession,Calcium oxalate\n{signed[1].accession},rare\n")
    page.get_by_role("button", name="Compare").click()
    page.locator(f"tr[data-accession='{signed[1].accession}']").wait_for()  # table B knows no "rare"
    page.get_by_text("Anew from the means").click()
    page.get_by_text("Press Compare").wait_for()
    page.get_by_role("button", name="Compare").click()
    page.get_by_text("None: every grade is the technologist's.").wait_for()  # 2 per HPF are rare by five-1


def test_a_file_that_cannot_be_used_says_why(
    page: Any, web_app: RunningApp, reviewer: Person, signed: list[Bench]
) -> None:
    sign_in(page, web_app, reviewer, "/validation")
    upload(page, "age,result\n70,few\n", "wrong.csv")
    page.get_by_role("button", name="Compare").click()
    page.get_by_text("wrong.csv: no column tells the patient").wait_for()
    shoot(page, "validation-refused")


def test_technologists_are_refused(page: Any, web_app: RunningApp) -> None:
    sign_in(page, web_app, web_app.person("technologist"))
    expect(page.get_by_test_id("stSidebarNav")).to_contain_text("Worklist")
    expect(page.get_by_test_id("stSidebarNav")).not_to_contain_text("Clinical validation")
    page.goto(f"{web_app.url}/validation")
    page.get_by_text("This page is for reviewers and administrators. You are signed in as a technologist.").wait_for()
