"""A day at the bench from end to end: real fields, the shipped model, two people, and what is left on record."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pandas
import pytest

from db import analyses, audit, cutoffs, reviews, specimens
from db.reviews import ReviewedObject
from pages.components.analysis import MODEL, card_of
from tests.browser.conftest import drawn, expect, shoot
from tests.browser.records import scan, wait_until
from tests.running_app import ROOT, Person, RunningApp

pytestmark = [
    pytest.mark.browser,
    pytest.mark.shared_data,
    pytest.mark.skipif(card_of(MODEL) is None, reason=f"the weights of {MODEL} are not in renalcore/weights"),
]

PATIENT, ACCESSION = "0042-17", "U-2026-0815"  # a leading zero, as hospitals have them
FIELDS = ("2014-10-27_S1_P108.webp", "2014-10-27_S1_P509.webp", "2014-10-27_S1_P510.webp")
MEANING = "I have reviewed the corrections of another person and release this report."
PATIENCE_MS = 300_000  # the whole day takes a minute on a quiet machine, and the model minutes to load on a busy one
# A picture shows one whole field of view at 40x, so it is one HPF; an LPF is 3.801 / 0.2376 mm2, 16 times as large.
AREAS_IN_A_PICTURE = {"HPF": 1, "LPF": 1 / 16}


def test_a_sediment_day_from_signing_in_to_the_audit_trail(
    page: Any, running_app: RunningApp, shared_data: Path
) -> None:
    app, card = running_app, card_of(MODEL)
    assert card is not None
    page.set_default_timeout(PATIENCE_MS)
    tess = app.person("technologist", "Tess Technologist")
    rita = app.person("reviewer", "Rita Reviewer")

    # The technologist scans two numbers, drops the fields in and sends them off.
    sign_in(page, app, tess, "/new")
    scan(page, PATIENT, ACCESSION)
    page.set_input_files(
        "input[type=file]", [shared_data / "sediment" / "urised2k" / "images" / name for name in FIELDS]
    )
    analyse = page.get_by_role("button", name="Analyse 3 fields")
    analyse.wait_for()
    page.get_by_role("combobox", name="Scale").click()
    page.get_by_role("option", name="Each picture shows one whole field of view").click()
    analyse.click()
    page.get_by_text("3 fields registered").wait_for()
    page.get_by_role("button", name="Open specimen").click()

    # The app's own worker searches them; the page follows by itself.
    page.wait_for_selector(".viewer[data-picture]")
    with app.database() as session:
        specimen = specimens.by_accession(session, ACCESSION)
        assert specimen is not None
        analysis = analyses.current(session, specimen.id)
        assert analysis is not None
        assert (specimen.state, analysis.state) == ("needs_review", "done")
        field_ids = [field.id for field in specimens.fields(session, specimen.id)]
    found = standing(app, analysis.id)
    counted = [item for item in found.values() if item.counts(analysis.options["min_score"])]
    by_field = Counter(item.field_id for item in counted)
    busiest, number = by_field.most_common(1)[0]
    assert number >= 2, "the model must find something to correct in real fields full of cells"
    expected = Counter(item.class_name for item in counted)
    wait_until(page, expected)
    shoot(page, "day-analysed")

    # She corrects: one is of another class, one is nothing, one was missed.
    viewer = page.locator(".viewer")
    drawn(page)
    for _ in field_ids[: field_ids.index(busiest)]:
        page.keyboard.press("n")
    page.wait_for_selector(f".viewer[data-picture='{busiest}']")
    expect(viewer).to_have_attribute("data-shown", re.compile("[1-9]"))  # its findings may come after the picture
    drawn(page)
    page.keyboard.press("j")
    expect(viewer).to_have_attribute("data-selected", re.compile("."))
    renamed = found[viewer.get_attribute("data-selected")]
    page.keyboard.press("r")
    page.keyboard.type("trichomonas")
    page.keyboard.press("Enter")
    expected = +(expected - Counter([renamed.class_name]) + Counter(["Trichomonas vaginalis"]))
    wait_until(page, expected)

    drawn(page)
    page.keyboard.press("j")
    expect(viewer).to_have_attribute("data-selected", re.compile(f"^(?!{re.escape(renamed.key)}$)."))
    removed = found[viewer.get_attribute("data-selected")]
    page.keyboard.press("Delete")
    expected = +(expected - Counter([removed.class_name]))
    wait_until(page, expected)

    drawn(page)
    page.keyboard.press("a")
    stage = page.locator(".viewer .stage").bounding_box()
    left, top = stage["x"] + stage["width"] / 2, stage["y"] + stage["height"] / 2
    page.mouse.move(left, top)
    page.mouse.down()
    page.mouse.move(left + 60, top + 40, steps=6)
    page.mouse.up()
    page.keyboard.type("waxy")
    page.keyboard.press("Enter")
    expected += Counter(["Waxy cast"])
    wait_until(page, expected)
    after = standing(app, analysis.id)
    assert (after[renamed.key].status, after[removed.key].status) == ("reclassified", "removed")
    assert [item.class_name for item in after.values() if item.status == "added"] == ["Waxy cast"]
    shoot(page, "day-corrected")
    sign_out(page, app)

    # The reviewer, at the same bench, signs what the corrections add up to.
    review = f"/review?specimen={specimen.id}"
    sign_in(page, app, rita, review)
    wait_until(page, expected)
    drawn(page)
    page.get_by_role("button", name="Sign", exact=True).click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_text(MEANING).click()
    shoot(page, "day-sign")
    dialog.get_by_role("button", name="Sign", exact=True).click()
    page.get_by_text("Signed by Rita Reviewer").wait_for()
    page.get_by_text(MEANING).first.wait_for()
    drawn(page)
    shoot(page, "day-signed")
    with page.expect_download() as download:
        page.get_by_role("button", name="CSV").click()
    assert download.value.suggested_filename == f"{ACCESSION}.csv"
    content = download.value.path().read_bytes()
    sign_out(page, app)

    # What she takes away says the same to pandas.
    assert content.startswith(b"\xef\xbb\xbf")
    table = pandas.read_csv(io.BytesIO(content), dtype={"patient": str, "accession": str})
    with app.database() as session:
        cut_offs = cutoffs.default(session).version
    for column, value in {
        "patient": PATIENT,
        "accession": ACCESSION,
        "fields": len(FIELDS),
        "cut_off_version": cut_offs,
        "model": card.key,
        "weights_sha256": card.sha256,
        "reviewed": "yes",
        "signed_by": "Rita Reviewer",
        "signature": "sign",
        "amendments": 0,
    }.items():
        assert set(table[column]) == {value}, column
    assert pandas.to_datetime(table["signed_at"], utc=True).notna().all()
    assert table["class"].is_unique
    areas = table["fields"] * table["unit"].map(AREAS_IN_A_PICTURE)
    seen = dict(zip(table["class"], table["mean"] * areas, strict=True))
    assert {name: seen.get(name) for name in expected} == pytest.approx(dict(expected), rel=1e-3)
    assert {name for name, count in seen.items() if count} == set(expected)

    # Without signing in nothing is shown, not even by its address.
    page.goto(f"{app.url}{review}")
    page.wait_for_url(f"{app.url}/login?next=*")
    assert ACCESSION not in page.content()
    assert page.request.get(f"{app.url}/fields/{busiest}/image", max_retries=2).status == 403

    # Who did what is on record, and the record is whole.
    names = {tess.username: "tess", rita.username: "rita"}
    with app.database() as session:
        history = reviews.history(session, specimen.id)
        done = [(names.get(event.actor_name, event.actor_name), event.action) for event in audit.events(session)][::-1]
    assert [(entry.kind, entry.by, entry.meaning) for entry in history] == [("sign", "Rita Reviewer", MEANING)]
    of_people = [(who, what) for who, what in done if who in ("tess", "rita") and what != "user.set_password"]
    assert of_people == [
        ("tess", "user.sign_in"),
        ("tess", "patient.create"),
        ("tess", "specimen.register"),
        ("tess", "analysis.request"),
        ("tess", "object.reclassify"),
        ("tess", "object.remove"),
        ("tess", "object.add"),
        ("tess", "user.sign_out"),
        ("rita", "user.sign_in"),
        ("rita", "specimen.sign"),
        ("rita", "export.csv"),
        ("rita", "user.sign_out"),
    ]
    verified = subprocess.run(
        [sys.executable, "-m", "db", "verify-audit"],
        cwd=ROOT,
        env=app.environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert verified.stdout.startswith(f"The audit trail is whole: {len(done)} events."), verified.stderr


def standing(app: RunningApp, analysis_id: int) -> dict[str, ReviewedObject]:
    """Every object of an analysis as it stands now, by its key."""
    with app.database() as session:
        return {item.key: item for item in reviews.objects(session, analysis_id)}


def sign_in(page: Any, app: RunningApp, person: Person, target: str) -> None:
    page.goto(f"{app.url}{target}")
    page.fill("#username", person.username)
    page.fill("#password", person.password)
    page.click("button[type=submit]")
    page.wait_for_url(f"**{target}")
    page.wait_for_selector("h1")
    drawn(page)


def sign_out(page: Any, app: RunningApp) -> None:
    page.goto(f"{app.url}/worklist")
    page.get_by_text("Sign out").click()
    page.wait_for_url("**/login?signed-out")
