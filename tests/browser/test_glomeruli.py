"""Glomeruli from the scanner's file to the signed report: found, corrected, counted, signed, exported, amended."""

from __future__ import annotations

import csv
import io
import json
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from renalcore import models
from renalcore.export.geojson import GLOMERULUS, SCLEROSED
from tests.browser.conftest import BENCH, drawn, expect, shoot, sign_in
from tests.browser.test_slides import fill
from tests.renalcore.histology import discs
from tests.running_app import ROOT, RunningApp, serving
from tests.slide_files import a_section

pytestmark = pytest.mark.browser

MODEL = "histology-linknet-efficientnet-b0"
BLUE = """canvas => {
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    let blue = 0;
    for (let i = 0; i < data.length; i += 4) blue += data[i] < 60 && data[i + 1] > 80 && data[i + 2] > 140;
    return blue;
}"""
"""Pixels of the canvas over the slide in the colour of outlines that count."""
OUTLINED = """canvas => {
    const { left, top } = canvas.getBoundingClientRect();
    const card = canvas.getRootNode().querySelector(".card").getBoundingClientRect();
    const scale = canvas.width / canvas.getBoundingClientRect().width;
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    const found = { beside: 0, under: 0 };
    for (let i = 0; i < data.length; i += 4) {
        if (data[i] > 30 || data[i + 1] > 40 || data[i + 2] > 60 || data[i + 3] < 250) continue;
        const [x, y] = [left + (i / 4 % canvas.width) / scale, top + Math.floor(i / 4 / canvas.width) / scale];
        found[x < card.right && y < card.bottom ? "under" : "beside"] += 1;
    }
    return found;
}"""
"""Pixels in the colour of the outline that is selected, beside the card that tells of it and under it."""
TOO_WIDE = "tables => tables.filter(one => one.offsetWidth > one.parentElement.clientWidth).length"


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApp]:
    """An app that has the card of a model for slides; a worker of its own would take other tests' work."""
    folder = tmp_path_factory.mktemp("glomeruli")
    (folder / "models" / MODEL).mkdir(parents=True)
    models.write_card(discs.card(key=MODEL, sha256="f" * 64), folder / "models" / MODEL)
    with serving(folder / "data", RENAL_WORKER="external", RENAL_MODELS=str(folder / "models")) as served:
        yield served


@contextmanager
def working(app: RunningApp, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The real worker with the fake model, until the end of the block; `calls` in `folder` tells where it is."""
    with (folder / "worker.log").open("wb") as log:
        worker = subprocess.Popen(
            [sys.executable, str(ROOT / "tests/fake_worker.py"), "--calls", str(folder / "calls"), "--seconds", "0.5"],
            cwd=folder,
            env=app.environ,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            yield worker
        finally:
            worker.send_signal(signal.SIGCONT)  # it may be paused still
            worker.terminate()
            worker.wait(60)


def value(page: Any, name: str) -> Any:
    """A number of the slide beside the picture; while the page is drawn anew its old table may stand there too."""
    return page.locator(f".st-key-slide-side [data-stale=false] tr[data-value={name}] td.rc-num")


def exported(page: Any, name: str) -> str:
    """What the button of this name in the menu of exports downloads."""
    page.get_by_role("button", name="Export").click()
    with page.expect_download() as coming:
        page.get_by_role("button", name=name).click()
    page.keyboard.press("Escape")
    return Path(coming.value.path()).read_text(encoding="utf-8-sig")


def rows(table: str) -> list[dict[str, str]]:
    """The lines of a CSV file by its header."""
    return list(csv.DictReader(io.StringIO(table)))


def sign(page: Any) -> None:
    """Press Sign, and Sign again in the dialog that tells what is signed."""
    page.get_by_role("button", name="Sign", exact=True).click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_text("glomeruli, globally sclerosed").wait_for()
    shoot(page, "glomeruli-sign")
    dialog.get_by_role("button", name="Sign", exact=True).click()


def test_glomeruli_are_found_corrected_signed_exported_and_amended(page: Any, app: RunningApp, tmp_path: Path) -> None:
    number = secrets.token_hex(4)
    sign_in(page, app, app.person("reviewer", "Rita Reviewer"), "/new-slides")
    page.locator(".uploads input[type=file]:not([webkitdirectory])").set_input_files(a_section(tmp_path / "scan.tif"))
    expect(page.get_by_role("checkbox")).to_be_checked()
    fill(page, "Patient number", f"P-{number}")
    fill(page, "Accession number", f"K-{number}")
    fill(page, "Name (optional)", "A1")
    page.get_by_label("Stain", exact=True).click()
    page.get_by_role("option", name="PAS").click()
    page.get_by_role("button", name="Analyse 1 slide").click()
    page.get_by_role("button", name="Open slide").click()
    page.get_by_text("Waiting for its turn").wait_for()

    with working(app, tmp_path) as worker:
        calls = tmp_path / "calls"
        while not calls.exists() or calls.read_text().count("row") < 3:  # two of the four blocks are stored
            assert worker.poll() is None, (tmp_path / "worker.log").read_text()
            time.sleep(0.02)
        app.pause(worker)
        page.get_by_text("12 of 24 tiles").wait_for()
        page.reload()
        page.get_by_text("12 of 24 tiles").wait_for()
        shoot(page, "glomeruli-running")
        worker.send_signal(signal.SIGCONT)
        expect(value(page, "count")).to_have_text("5")
    page.locator(".slide[data-glomeruli='5']").wait_for()
    expect(value(page, "sclerosed")).to_contain_text("0 of 5 = 0.0 %")
    expect(value(page, "few")).to_have_text("Fewer than 25 glomeruli")
    expect(value(page, "diameter")).to_have_text("106.0 µm")  # of 100, 110, 90, 80 and 150
    drawn(page)
    assert page.locator("canvas.paper").evaluate(BLUE) > 500, "five outlines"
    shoot(page, "glomeruli")

    page.set_viewport_size({"width": 1024, "height": 768})
    drawn(page)
    page.wait_for_timeout(700)  # the viewer takes the size of its frame in its own time
    page.keyboard.press("n")
    page.wait_for_url("**glomerulus=f*")
    drawn(page)
    outlined = page.locator("canvas.paper").evaluate(OUTLINED)
    assert outlined["beside"] > 300
    assert outlined["under"] == 0, "the card lies over the glomerulus that it tells of"
    assert page.locator(".st-key-slide-side table").evaluate_all(TOO_WIDE) == 0
    page.set_viewport_size(BENCH)
    page.keyboard.press("Delete")
    expect(value(page, "count")).to_have_text("4")
    page.keyboard.press("n")
    page.keyboard.press("s")
    expect(value(page, "sclerosed")).to_contain_text("1 of 4 = 25.0 %")
    expect(value(page, "unreviewed")).to_have_text("3")
    page.keyboard.press("0")
    page.keyboard.press("a")
    frame = page.locator(".slide .frame").bounding_box()
    middle = frame["x"] + frame["width"] / 2, frame["y"] + frame["height"] / 2
    for x, y in ((-30, -30), (30, -30), (30, 30), (-30, 30)):
        page.mouse.click(middle[0] + x, middle[1] + y)
    page.keyboard.press("Enter")
    expect(value(page, "count")).to_have_text("5")
    shoot(page, "glomeruli-corrected")
    drawn(page)
    page.locator("summary", has_text="Counted: all").click()
    fill(page, "Least µm across", "95")
    expect(page.get_by_label("Least µm across", exact=True)).not_to_be_focused()  # keys are the slide's again
    expect(value(page, "count")).to_have_text("3")  # 2, confirmed by its mark, 5 of 150 µm, and 6, drawn by hand
    expect(value(page, "sclerosed")).to_contain_text("1 of 3 = 33.3 %")
    shoot(page, "glomeruli-limits")
    sign(page)
    page.get_by_text("Signed by Rita Reviewer").wait_for()
    drawn(page)
    shoot(page, "glomeruli-signed")
    page.emulate_media(color_scheme="dark")
    shoot(page, "glomeruli-signed-dark")
    page.emulate_media(color_scheme="light")

    each = rows(exported(page, "CSV, a row a glomerulus"))
    assert [(row["number"], row["sclerosed"]) for row in each] == [("2", "yes"), ("5", "no"), ("6", "no")]
    assert {row["signed_by"] for row in each} == {"Rita Reviewer"}
    assert abs(float(each[0]["x_px"]) - 1500) < 2, "where the disc of radius 110 was drawn"
    (slide,) = rows(exported(page, "CSV, a row a slide"))
    assert (slide["glomeruli"], slide["sclerosed"], slide["accession"]) == ("3", "1", f"K-{number}")
    outlines = json.loads(exported(page, "GeoJSON of this slide, for QuPath"))["features"]
    assert [one["properties"]["classification"]["name"] for one in outlines] == [SCLEROSED, GLOMERULUS, GLOMERULUS]

    page.get_by_role("button", name="Reopen for amendment").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Reason").fill("What was drawn is no glomerulus")
    dialog.get_by_role("button", name="Reopen").click()
    dialog.wait_for(state="hidden")
    page.locator(".slide").get_by_role("button", name="Undo").click()
    expect(value(page, "count")).to_have_text("2")
    sign(page)
    page.get_by_text("Amended and signed by Rita Reviewer").wait_for()
    drawn(page)
    page.locator("summary", has_text="History").click()
    page.get_by_text("Reopened: What was drawn is no glomerulus").wait_for()
    drawn(page)
    shoot(page, "glomeruli-amended")
    page.get_by_role("link", name=f"P-{number}").click()
    expect(page.locator("tr", has_text=f"K-{number} · A1")).to_contain_text("1 of 2 = 50.0 %")
    drawn(page)
    shoot(page, "glomeruli-patient")
    page.goto(f"{app.url}/slides")
    expect(page.locator(".rows tr", has_text=f"K-{number} · A1")).to_contain_text("signed")
    drawn(page)
    shoot(page, "glomeruli-slides")
