"""A slide on its way from the scanner to the eye: uploaded, registered, looked at, measured."""

from __future__ import annotations

import math
import os
import re
import secrets
import shutil
import statistics
import time
from pathlib import Path
from typing import Any

from PIL import Image

from db import slides, specimens
from tests.browser.conftest import PATIENCE_MS, drawn, expect, shoot, sign_in
from tests.dicom_slides import a_dicom_slide
from tests.running_app import RunningApp, serving
from tests.slide_files import HEIGHT_PX, WIDTH_PX, a_pyramid, registered, unpacked_by_another
from tests.slide_findings import searched

COLOURS = """canvas => {
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    let pink = 0, violet = 0;
    for (let i = 0; i < data.length; i += 4) {
        pink += Math.abs(data[i] - 240) < 12 && Math.abs(data[i + 1] - 200) < 12;
        violet += Math.abs(data[i] - 120) < 12 && Math.abs(data[i + 1] - 60) < 12;
    }
    return [pink / data.length * 4, violet / data.length * 4];
}"""
"""Shares of the two colours of the slide among the pixels that the viewer drew."""


def shares(page: Any, *, least: float) -> list[float]:
    """What `COLOURS` tells once both are more than `least`: nothing else says when the tiles in sight are drawn."""
    canvas, until = page.locator(".stage .openseadragon-canvas canvas").first, time.monotonic() + PATIENCE_MS / 1000
    seen: list[float] = canvas.evaluate(COLOURS)
    while min(seen) <= least and time.monotonic() < until:
        seen = canvas.evaluate(COLOURS)
    return seen


def fill(page: Any, label: str, words: str) -> None:
    field = page.get_by_label(label, exact=True)
    field.fill(words)
    field.press("Enter")
    drawn(page)


def test_a_slide_is_uploaded_registered_looked_at_and_measured(page: Any, web_app: RunningApp, tmp_path: Path) -> None:
    number = secrets.token_hex(4)
    sign_in(page, web_app, web_app.person(), "/new-slides")
    page.locator(".place").wait_for()
    shoot(page, "new-slides-empty")
    letter = tmp_path / "letter.txt"
    letter.write_text("Dear colleague, " * 100)
    empty = tmp_path / "empty.tif"
    empty.touch()
    slide = a_pyramid(tmp_path / "Maria Secret 1960.tif")
    page.locator(".uploads input[type=file]:not([webkitdirectory])").set_input_files([letter, empty, slide])
    expect(page.locator(".uploads li", has_text="letter.txt").locator(".said")).to_contain_text("This is text")
    refused = page.locator(".uploads li", has_text="empty.tif")
    expect(refused.locator(".said")).to_contain_text("The file is empty (0 bytes)")
    expect(refused.locator(".size")).to_have_text("0 kB")
    expect(refused.locator(".bar")).to_be_hidden()
    expect(page.get_by_role("checkbox")).to_be_checked()
    expect(page.get_by_text("the file says no scale")).to_be_visible()
    fill(page, "Patient number", f"P-{number}")
    fill(page, "Accession number", f"K-{number}")
    fill(page, "Name (optional)", "Block A1")
    fill(page, "µm per pixel (optional)", "0.5")
    page.get_by_label("Stain", exact=True).click()
    page.get_by_role("option", name="PAS").click()
    register = page.get_by_role("button", name=re.compile("(Register|Analyse) 1 slide"))  # the latter with a model
    expect(register).to_be_enabled()
    shoot(page, "new-slides")
    register.click()
    page.get_by_role("button", name="Open slide").click()

    page.locator(".slide[data-shown=yes]").wait_for()
    expect(page.get_by_role("heading", name=f"K-{number} · Block A1")).to_be_visible()
    drawn(page)
    assert "Maria" not in page.content()
    shoot(page, "slide")
    page.emulate_media(color_scheme="dark")
    shoot(page, "slide-dark")
    page.emulate_media(color_scheme="light")
    zoomed = page.locator(".slide .zoom")
    page.get_by_role("button", name="1:1").click()
    expect(zoomed).to_have_text("100 %")
    pink, violet = shares(page, least=0.4)
    assert 0.4 < pink < 0.6, "half of the squares"
    assert 0.4 < violet < 0.6
    expect(page.locator(".scale")).to_have_text("50 µm")  # at most 130 px of 0.5 µm
    page.get_by_role("button", name="Measure").click()
    frame = page.locator(".frame").bounding_box()
    middle = frame["x"] + frame["width"] / 2, frame["y"] + frame["height"] / 2
    page.mouse.click(middle[0] - 150, middle[1])
    page.mouse.click(middle[0] + 150, middle[1])
    expect(page.locator(".slide .said")).to_have_text("150 µm")  # 300 px of 0.5 µm
    shoot(page, "slide-measured")
    page.mouse.wheel(0, 400)
    expect(zoomed).not_to_have_text("100 %")
    expect(page.locator(".slide .said")).to_have_text("150 µm")

    page.get_by_role("link", name=f"P-{number}").click()
    page.get_by_role("link", name=f"K-{number} · Block A1").wait_for()
    drawn(page)
    shoot(page, "patient-slides")
    page.goto(f"{web_app.url}/slides")
    page.locator(".rows a", has_text=f"K-{number} · Block A1").wait_for()
    drawn(page)
    shoot(page, "slides")
    assert "Maria" not in web_app.log.read_text()


def test_slides_that_arrive_right_after_each_other_are_all_ticked(
    page: Any, web_app: RunningApp, tmp_path: Path
) -> None:
    sign_in(page, web_app, web_app.person(), "/new-slides")
    fields = [tmp_path / f"field {shade}.png" for shade in range(4)]
    for shade, path in enumerate(fields):
        Image.new("RGB", (300, 200), (200, 100, 50 * shade)).save(path)
    page.locator(".uploads input[type=file]:not([webkitdirectory])").set_input_files(fields)
    expect(page.get_by_role("checkbox")).to_have_count(4)
    expect(page.get_by_role("checkbox", checked=True)).to_have_count(4)
    page.get_by_text("field 1.png", exact=True).click()
    expect(page.get_by_role("checkbox", checked=True)).to_have_count(3)
    expect(page.get_by_role("checkbox", name="field 1.png", exact=True)).not_to_be_checked()  # as it is read aloud
    drawn(page)
    expect(page.get_by_label("Stain", exact=True)).to_have_count(3)


def test_why_a_file_of_the_watched_folder_is_no_slide_stays_while_it_waits_there(page: Any, tmp_path: Path) -> None:
    folder = tmp_path / "scanner"
    folder.mkdir()
    broken = folder / "letter.svs"
    broken.write_text("Dear colleague, " * 100)
    os.utime(broken, (1e9, 1e9))
    with serving(tmp_path / "data", RENAL_WORKER="external", RENAL_SLIDES=str(folder)) as app:
        sign_in(page, app, app.person(), "/new-slides")
        page.get_by_label("From the slides folder", exact=True).click()
        page.get_by_role("option", name="letter.svs").click()
        drawn(page)
        page.keyboard.press("Escape")
        page.locator(".st-key-folder-take button").click()
        said = page.get_by_role("alert").get_by_text("letter.svs: This is text, not a slide")
        expect(said).to_be_visible()
        fill(page, "Patient number", "P-1")
        missing = page.get_by_text("Still missing: the accession number, at least one slide")
        expect(missing).to_be_visible()
        expect(said).to_be_visible()
        broken.unlink()
        fill(page, "Patient number", "")  # two runs of the page: what is missing shows that each took place
        expect(missing).to_have_count(0)
        fill(page, "Patient number", "P-2")
        expect(missing).to_be_visible()
        expect(said).to_have_count(0)


def test_an_upload_that_the_server_cannot_write_stops_with_the_reason_and_is_resumed(
    page: Any, web_app: RunningApp, tmp_path: Path
) -> None:
    words = "The upload cannot be written (Input/output error)."
    pieces = []

    def refuse(route: Any) -> None:
        pieces.append(route.request.headers["upload-offset"])
        route.fulfill(status=409, content_type="text/plain", body=words)

    sign_in(page, web_app, web_app.person(), "/new-slides")
    Image.new("RGB", (300, 200), (200, 100, 50)).save(tmp_path / "field.png")
    page.route(re.compile("/uploads/"), refuse)
    page.locator(".uploads input[type=file]:not([webkitdirectory])").set_input_files(tmp_path / "field.png")
    expect(page.locator(".uploads li").get_by_role("alert")).to_have_text(words)
    assert pieces == ["0"], "it is not tried again by itself"
    page.unroute(re.compile("/uploads/"))
    page.get_by_role("button", name="Resume").click()
    expect(page.get_by_role("checkbox", name="field.png", exact=True)).to_be_checked()


def test_a_folder_with_a_dicom_slide_becomes_one_slide_and_one_without_its_folder_is_refused_at_once(
    page: Any, web_app: RunningApp, tmp_path: Path
) -> None:
    number = secrets.token_hex(4)
    sign_in(page, web_app, web_app.person(), "/new-slides")
    drop = tmp_path / "Maria Secret"
    a_dicom_slide(drop / "biopsy")
    Image.new("RGB", (300, 200), (200, 100, 50)).save(drop / "field.png")
    (drop / "alone.mrxs").write_bytes(b"\xff\xd8 a picture of the label")
    (drop / "index.html").write_text("Open VIEWER.EXE")
    page.locator(".uploads input[webkitdirectory]").set_input_files(drop)
    refused = page.locator(".uploads li", has_text="alone.mrxs").get_by_role("alert")
    expect(refused).to_contain_text("The folder of the same name, with the slide's data, is missing.")
    expect(page.get_by_text("Taken as one slide: biopsy (4 files). Left out")).to_be_visible()
    expect(page.get_by_role("checkbox", checked=True)).to_have_count(2)
    expect(page.get_by_text(re.compile(r"DICOM slide · 1\s024 × 768 px"))).to_be_visible()
    shoot(page, "new-slides-folder")
    page.get_by_text("field.png", exact=True).click()
    fill(page, "Patient number", f"P-{number}")
    fill(page, "Accession number", f"K-{number}")
    page.get_by_label("Stain", exact=True).click()
    page.get_by_role("option", name="PAS").click()
    page.get_by_role("button", name=re.compile("(Register|Analyse) 1 slide")).click()
    opening = page.get_by_role("button", name="Open slide")
    opening.wait_for()
    with web_app.database() as session:
        sha256 = slides.of_specimen(session, specimens.by_accession(session, f"K-{number}").id)[0].file.sha256
    shutil.rmtree(web_app.data / "unpacked" / sha256)  # as when others needed the room
    with unpacked_by_another(web_app.data, sha256, b""):
        opening.click()
        expect(page.locator(".slide .notice")).to_have_text("The slide is being unpacked: 0 %")
    page.locator(".slide[data-shown=yes]").wait_for()
    drawn(page)
    page.get_by_role("button", name="1:1").click()
    expect(page.locator(".slide .zoom")).to_have_text("20x")  # as its file says
    pink, violet = shares(page, least=0.3)
    assert (pink > 0.3, violet > 0.3) == (True, True), "half of the squares each"
    assert "Maria" not in page.content() + web_app.log.read_text()


def frame_ms(page: Any) -> float:
    """The median time between two frames, in ms, while the picture is dragged to and fro with the mouse."""
    frame = page.locator(".slide .frame").bounding_box()
    x, y = frame["x"] + frame["width"] / 2, frame["y"] + frame["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.evaluate("""() => {
        window.frameTimes = [];
        const next = last => requestAnimationFrame(now => {
            if (!window.frameTimes) return;
            window.frameTimes.push(now - last);
            next(now);
        });
        requestAnimationFrame(next);
    }""")
    for step in range(41):
        page.mouse.move(x + 150 * math.sin(step * math.pi / 20), y + 90 * math.sin(step * math.pi / 10))
    times: list[float] = page.evaluate(
        "() => { const times = window.frameTimes; window.frameTimes = null; return times; }"
    )
    page.mouse.up()
    return statistics.median(times)


def test_five_thousand_outlines_are_panned_listed_and_corrected(page: Any, web_app: RunningApp, tmp_path: Path) -> None:
    person = web_app.person()
    slide_id, _ = registered(web_app, person, a_pyramid(tmp_path / "many.tif"), um_per_px=0.5)
    places = [(x, y) for y in range(25, HEIGHT_PX - 12, 25) for x in range(25, WIDTH_PX - 12, 25)][:5000]
    discs = [(x, y, 11, 0.5 + (n % 500) / 1000) for n, (x, y) in enumerate(places)]
    searched(web_app, person, slide_id, [*discs[:-1], (*places[-1], 12, 0.3)], min_score=0.4)
    sign_in(page, web_app, person, f"/slide?slide={slide_id}")
    page.locator(".slide[data-shown=yes][data-glomeruli='5000']").wait_for()
    expect(page.locator(".slide [data-kind=aside]")).to_contain_text("1")
    shoot(page, "outlines-far")
    page.locator(".slide").get_by_role("button", name="Zoom in").click()
    drawn(page)
    outlines = page.locator("[data-switch=outlines]")
    frames: dict[str, list[float]] = {"with": [], "without": []}
    for _ in range(3):  # in turns: what else the machine does comes and goes
        frames["with"].append(frame_ms(page))
        outlines.uncheck()
        frames["without"].append(frame_ms(page))
        outlines.check()
    with_them, without = (min(times) for times in frames.values())  # while the machine had least else to do
    assert with_them < 2 * without + 8, f"a frame took {with_them:.0f} ms with outlines, {without:.0f} ms without"

    tiles = page.locator(".glomeruli .tile")
    expect(tiles.first).to_contain_text("(5000)")  # the model was least sure of it
    assert tiles.count() < 60, "only what is in sight is in the page"
    tiles.first.click()
    expect(page.locator(".slide .card")).to_contain_text("Glomerulus 5000")
    page.wait_for_url("**glomerulus=f*")
    drawn(page)
    shoot(page, "outlines-near")
    page.keyboard.press("r")
    frame = page.locator(".slide .frame").bounding_box()
    x, y = frame["x"] + frame["width"] / 2, frame["y"] + frame["height"] / 2
    page.keyboard.down("Shift")  # freehand
    page.mouse.move(x - 80, y - 80)
    page.mouse.down()
    for across, down in ((80, 80), (80, -80), (-80, 80)):
        page.mouse.move(x + across, y + down, steps=4)
    page.mouse.up()
    expect(page.locator(".slide .hint")).to_contain_text("crosses itself")  # an eight: which half is meant?
    page.mouse.move(x + 80, y)
    page.mouse.down()
    for step in range(1, 26):  # a little more than once around
        page.mouse.move(x + 80 * math.cos(step * math.pi / 12), y + 80 * math.sin(step * math.pi / 12))
    page.mouse.up()
    page.keyboard.up("Shift")
    expect(page.locator(".slide[data-waiting='0'] .card")).to_contain_text("redrawn by hand")
    expect(page.locator(".glomeruli .tile[aria-selected=true]")).to_contain_text("5000 ✓")
    page.keyboard.press("Delete")
    expect(page.locator(".slide [data-kind=removed]")).to_contain_text("1")
    page.keyboard.press("Delete")
    expect(page.locator(".slide[data-waiting='0'] .card")).to_contain_text("redrawn by hand")
