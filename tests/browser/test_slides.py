"""A slide on its way from the scanner to the eye: uploaded, registered, looked at, measured."""

from __future__ import annotations

import re
import secrets
from pathlib import Path
from typing import Any

from tests.browser.conftest import drawn, expect, shoot, sign_in
from tests.running_app import RunningApp
from tests.slide_files import a_pyramid

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
    slide = a_pyramid(tmp_path / "Maria Secret 1960.tif")
    page.locator(".uploads input[type=file]").set_input_files([letter, slide])
    expect(page.locator(".uploads li", has_text="letter.txt").locator(".said")).to_contain_text("This is text")
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
    pink, violet = page.locator(".stage .openseadragon-canvas canvas").first.evaluate(COLOURS)
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
