"""CT from the DICOM files to the signed report: uploaded, found, looked at, corrected, signed, exported, amended."""

from __future__ import annotations

import csv
import io
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image

from renalcore import models
from tests.browser.conftest import PATIENCE_MS, drawn, expect, shoot, sign_in
from tests.browser.records import user_of
from tests.browser.test_slides import fill
from tests.ct_analysed import analysed
from tests.ct_analysed import drawn as a_body
from tests.renalcore.ct import bright
from tests.running_app import ROOT, RunningApp, serving

pytestmark = [pytest.mark.browser, pytest.mark.shared_data]

MODEL = "ct-segresnet"
SLICES = range(0, 80, 4)
"""Of a real scan: 6.4 mm apart, they hold both kidneys."""

COLOURED = """canvas => {
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width - 16, canvas.height);
    let [grey, blue, orange] = [0, 0, 0];
    for (let i = 0; i < data.length; i += 4) {
        const [r, g, b] = [data[i], data[i + 1], data[i + 2]];
        if (b - r > 25) blue++;
        else if (r - b > 25 && r - g > 15) orange++;
        else if (r > 40 && r < 250) grey++;
    }
    return [grey, blue, orange];
}"""
"""Pixels of a plane, without its strip, that are tissue, kidney and tumour."""


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApp]:
    """An app that has the card of a model for CT; a worker of its own would take other tests' work."""
    folder = tmp_path_factory.mktemp("ct")
    (folder / "models" / MODEL).mkdir(parents=True)
    models.write_card(bright.card(key=MODEL, sha256="f" * 64), folder / "models" / MODEL)
    with serving(folder / "data", RENAL_WORKER="external", RENAL_MODELS=str(folder / "models")) as served:
        yield served


@contextmanager
def working(app: RunningApp, folder: Path, labels: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The real worker with a model that knows the scan, until the end of the block; see `test_glomeruli.working`."""
    with (folder / "worker.log").open("wb") as log:
        worker = subprocess.Popen(
            [
                *(sys.executable, str(ROOT / "tests/fake_worker.py")),
                *("--calls", str(folder / "calls"), "--seconds", "0.5", "--ct-labels", str(labels)),
            ],
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


def values(page: Any, name: str) -> Any:
    """A number of each kidney, from the right to the left; the table that is being replaced may stand there too."""
    return page.locator(f".st-key-scan-side [data-stale=false] tr[data-value={name}] td.rc-num")


def coloured(picture: bytes) -> int:
    """How many pixels of a picture are not grey."""
    pixels = np.asarray(Image.open(io.BytesIO(picture)).convert("RGB")).astype(int)
    return int(np.count_nonzero(np.ptp(pixels, axis=2) > 30))


def lesions(page: Any) -> Any:
    """The lines of the list of lesions."""
    return page.locator(".st-key-scan-side .rows tbody tr")


def exported(page: Any, name: str) -> bytes:
    """What the button of this name in the menu of exports downloads."""
    page.get_by_role("button", name="Export").click()
    with page.expect_download() as coming:
        page.get_by_role("button", name=name).click()
    page.keyboard.press("Escape")
    return Path(coming.value.path()).read_bytes()


def rows(table: bytes) -> list[dict[str, str]]:
    """The lines of a CSV file by its header."""
    return list(csv.DictReader(io.StringIO(table.decode("utf-8-sig"))))


def sign(page: Any, said: str) -> None:
    """Press Sign, and Sign again in the dialog that tells what is signed."""
    page.get_by_role("button", name="Sign", exact=True).click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_text(said).wait_for()
    shoot(page, "ct-sign")
    dialog.get_by_role("button", name="Sign", exact=True).click()


def test_kidneys_are_found_corrected_signed_exported_and_amended(
    page: Any, app: RunningApp, tmp_path: Path, shared_data: Path
) -> None:
    number = secrets.token_hex(4)
    scan = shared_data / "ct/ircad_07"
    sign_in(page, app, app.person("reviewer", "Rita Reviewer"), "/new-ct")
    page.locator(".uploads input[type=file]:not([webkitdirectory])").set_input_files(
        [scan / "dicom" / f"image_{at}" for at in SLICES]
    )
    expect(page.get_by_text("20 slices of 512 × 512 px · 0.782 × 0.782 × 6.4 mm")).to_be_visible()
    fill(page, "Patient number", f"P-{number}")
    fill(page, "Accession number", f"CT-{number}")
    page.get_by_role("button", name="Analyse 1 scan").click()
    page.get_by_role("button", name="Open scan").click()
    page.get_by_text("Waiting for its turn").wait_for()

    with working(app, tmp_path, scan / "labels.nii.gz") as worker:
        calls = tmp_path / "calls"
        while not calls.exists() or "lesion of 20 slices" not in calls.read_text():  # two of the steps are stored
            assert worker.poll() is None, (tmp_path / "worker.log").read_text()
            time.sleep(0.02)
        app.pause(worker)
        page.get_by_text("2 of 3 steps").wait_for()
        page.reload()
        page.get_by_text("Step 3 of 3: tumours and cysts").wait_for()
        page.locator(".ct[data-complete]").wait_for()
        shoot(page, "ct-running")
        worker.send_signal(signal.SIGCONT)
        expect(lesions(page)).to_have_count(2)
    expect(page.get_by_text("Two kidneys were found: right, left. Found in them: 1 tumour and 1 cyst.")).to_be_visible()
    expect(values(page, "kidney")).to_have_text([re.compile(r"^13\d\.\d$")] * 2)  # the expert's: 286.6 ml together
    expect(values(page, "tumour")).to_have_text(["0.0", "17.1"])  # a ball of 16 mm: 17.2 ml
    expect(lesions(page).first).to_contain_text("tumour")

    drawn(page)
    lesions(page).first.click()
    page.wait_for_url("**lesion=16-*")
    page.get_by_text("Axial 17 / 20").wait_for()
    page.locator(".ct[data-version]").wait_for()
    drawn(page)
    grey, blue, orange = page.locator(".plane[data-plane=axial] canvas").evaluate(COLOURED)
    assert grey > 10_000, "tissue"
    assert blue > 100, "kidney around the tumour"
    assert orange > 300, "tumour"
    shoot(page, "ct")
    page.emulate_media(color_scheme="dark")
    shoot(page, "ct-dark")
    page.emulate_media(color_scheme="light")
    page.get_by_role("tab", name="3D").click()
    solid = page.locator(".js-plotly-plot:has(canvas)")
    solid.wait_for()
    until = time.monotonic() + PATIENCE_MS / 1000
    while coloured(solid.screenshot()) < 5_000:  # kidneys and lesions; nothing else tells when they are drawn
        assert time.monotonic() < until, "kidneys and lesions in their colours"
    shoot(page, "ct-3d")
    both = coloured(solid.screenshot())
    solid.locator(".legend .traces", has_text="Left kidney").locator(".legendtoggle").click()
    while coloured(solid.screenshot()) > 0.8 * both:
        assert time.monotonic() < until, "the legend hides what is clicked in it"
    page.get_by_role("tab", name="Slices").click()

    page.get_by_role("button", name="Sign", exact=True).click()
    page.get_by_role("dialog").get_by_text("Tumour 1, left: 17.1 ml").wait_for()
    for key in ("t", "Delete"):  # they change the lesion that is chosen, but not behind a dialog
        page.keyboard.press(key)
    page.keyboard.press("Escape")
    page.get_by_role("dialog").wait_for(state="hidden")
    drawn(page)
    expect(lesions(page)).to_have_count(2)
    expect(lesions(page).first).to_contain_text("tumour")
    page.get_by_role("button", name="It is a cyst").click()
    expect(lesions(page).first).to_contain_text("cyst, corrected")
    expect(values(page, "tumour")).to_have_text(["0.0", "0.0"])
    expect(values(page, "cyst").last).to_have_text("17.1")
    drawn(page)
    lesions(page).last.click()
    page.wait_for_url("**lesion=3-*")
    page.get_by_text("Axial 4 / 20").wait_for()
    drawn(page)
    page.get_by_role("button", name="Delete").click()
    expect(lesions(page)).to_have_count(1)
    expect(values(page, "cyst").first).to_have_text("0.0")
    drawn(page)
    shoot(page, "ct-corrected")
    sign(page, "Cyst 1, left: 17.1 ml")
    page.get_by_text("Signed by Rita Reviewer").wait_for()
    drawn(page)
    expect(page.get_by_role("button", name="Undo")).to_have_count(0)
    shoot(page, "ct-signed")

    (lesion,) = rows(exported(page, "CSV, a row a lesion"))
    assert (lesion["label"], lesion["side"], lesion["signed_by"]) == ("cyst", "left", "Rita Reviewer")
    assert abs(float(lesion["volume_ml"]) - 17.2) < 0.3
    kidneys = rows(exported(page, "CSV, a row a kidney"))
    assert [(kidney["side"], kidney["cysts"]) for kidney in kidneys] == [("right", "0"), ("left", "1")]
    segmentation = pydicom.dcmread(io.BytesIO(exported(page, "DICOM SEG")))
    assert [str(segment.SegmentLabel) for segment in segmentation.SegmentSequence] == [
        "Right kidney", "Left kidney", "Left cyst"
    ]  # fmt: skip
    (series,) = segmentation.ReferencedSeriesSequence
    assert len(series.ReferencedInstanceSequence) == len(SLICES)
    original = pydicom.dcmread(scan / "dicom/image_0", stop_before_pixels=True)
    assert series.SeriesInstanceUID == original.SeriesInstanceUID, "also of a scan stored without the patient"

    page.get_by_role("button", name="Reopen for amendment").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Reason").fill("The small cyst is one")
    dialog.get_by_role("button", name="Reopen").click()
    dialog.wait_for(state="hidden")
    page.get_by_role("button", name="Undo").click()
    expect(lesions(page)).to_have_count(2)
    drawn(page)  # a button of before the undo would be refused
    page.get_by_role("button", name="Not a kidney").click()
    shoot(page, "ct-kidneys")
    page.get_by_role("button", name="Delete right kidney").click()
    expect(page.get_by_text("One kidney was found: left. Found in them: 1 cyst.")).to_be_visible()
    expect(values(page, "cyst")).to_have_text(["17.1"])
    drawn(page)
    page.get_by_role("button", name="Undo").click()
    expect(lesions(page)).to_have_count(2)
    sign(page, "Cyst 2, right: 0.92 ml")
    page.get_by_text("Amended and signed by Rita Reviewer").wait_for()
    drawn(page)
    page.locator("summary", has_text="History").click()
    page.get_by_text("Reopened: The small cyst is one").wait_for()
    page.get_by_text("Tumour called a cyst").wait_for()
    drawn(page)
    shoot(page, "ct-amended")
    page.get_by_role("link", name=f"P-{number}").click()
    expect(page.locator("tr", has_text=f"CT-{number}")).to_contain_text("2 cysts")
    drawn(page)
    shoot(page, "ct-patient")
    page.goto(f"{app.url}/ct")
    expect(page.locator(".rows tr", has_text=f"CT-{number}")).to_contain_text("signed")


def test_a_scan_without_a_kidney_is_looked_at_and_signed(
    page: Any, web_app: RunningApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RENAL_DATA", str(web_app.data))
    rita = web_app.person("reviewer", "Rita Reviewer")
    volume, labels = a_body()
    with web_app.database() as session:
        study = analysed(session, user_of(web_app, rita), [(volume, np.zeros_like(labels))], accession="CT-none")
    sign_in(page, web_app, rita, f"/scan?scan={study.scan.id}")
    page.get_by_text("No kidney was found.").wait_for()
    page.locator("h1").click()
    page.keyboard.press("x")
    assert page.locator("[data-testid=stMain]:focus-visible").count() == 1
    frame = "main => getComputedStyle(main, '::before').boxShadow"
    assert page.locator("[data-testid=stMain]").evaluate(frame) == "none", "no line through the name of the study"
    page.locator("summary", has_text="History").click()  # what comes last beside the picture
    page.get_by_text("No corrections and no signature yet.").wait_for()
    page.get_by_role("button", name="Actions").click()
    expect(page.get_by_role("menuitem", name="Analyse again")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("menu")).to_have_count(0)
    page.get_by_role("tab", name="3D").click()
    page.get_by_text("There is no kidney and no lesion to show.").wait_for()
    sign(page, "of this study and release this report")
    page.get_by_text("Signed by Rita Reviewer").wait_for()


def test_of_many_lesions_the_one_clicked_in_the_picture_and_what_can_be_done_with_it_come_into_sight(
    page: Any, web_app: RunningApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RENAL_DATA", str(web_app.data))
    rita = web_app.person("reviewer", "Rita Reviewer")
    volume, labels = a_body()
    labels[labels > 1] = 1
    apart = labels[::6, ::4, ::4]
    apart[apart == 1] = 3
    with web_app.database() as session:
        study = analysed(session, user_of(web_app, rita), [(volume, labels)], accession="CT-many", identifier="P-many")
    sign_in(page, web_app, rita, f"/scan?scan={study.scan.id}")
    page.locator(".ct[data-version]").wait_for()
    drawn(page)
    assert lesions(page).count() > 20
    expect(lesions(page).last).not_to_be_in_viewport()
    page.keyboard.press("p")  # the last one
    expect(lesions(page).last).to_have_attribute("aria-current", "true")
    expect(lesions(page).last).to_be_in_viewport()
    expect(page.get_by_role("button", name="Delete")).to_be_in_viewport()
    shoot(page, "ct-many")
    lesions(page).last.click()
    expect(page.get_by_role("button", name="It is a tumour")).to_be_in_viewport()
