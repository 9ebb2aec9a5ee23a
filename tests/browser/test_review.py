from __future__ import annotations

import io
from typing import Any

import pytest
from PIL import Image
from sqlalchemy import select

from db import analyses, heat_maps, reviews, specimens
from db.engine import now
from db.files import FileStore
from db.models import HeatMap, LoginSession
from tests.browser.conftest import drawn, expect, shoot, sign_in
from tests.browser.records import HEIGHT_PX, WIDTH_PX, Bench, analysed, user_of, wait_until
from tests.running_app import Person, RunningApp

pytestmark = pytest.mark.browser

ALL = {"WBC": 6, "RBC": 3}  # three fields of two WBC and an RBC


@pytest.fixture(scope="module")
def technologist(web_app: RunningApp) -> Person:
    return web_app.person("technologist", "Tess Technologist")


@pytest.fixture(scope="module")
def reviewer(web_app: RunningApp) -> Person:
    return web_app.person("reviewer", "Rita Reviewer")


def open_review(page: Any, app: RunningApp, person: Person, bench: Bench) -> None:
    sign_in(page, app, person, f"/review?specimen={bench.specimen_id}")
    page.wait_for_selector(f".viewer[data-picture='{bench.field_ids[0]}']")
    wait_until(page, ALL)
    expect(page.locator(".viewer")).to_have_attribute("data-shown", "3")
    drawn(page)


def standing(app: RunningApp, bench: Bench, field: int = 0) -> list[tuple[str, str]]:
    with app.database() as session:
        found = reviews.objects(session, bench.analysis_id, field_id=bench.field_ids[field])
    return [(item.class_name, item.status) for item in found]


def on_screen(page: Any, x_px: float, y_px: float) -> tuple[float, float]:
    """Where a point of the picture lies on the screen while the whole field is shown."""
    page.locator(".viewer .stage").element_handle().wait_for_element_state("stable")
    stage = page.locator(".viewer .stage").bounding_box()
    scale = min((stage["width"] - 2) / WIDTH_PX, (stage["height"] - 2) / HEIGHT_PX)
    left = stage["x"] + 1 + (stage["width"] - 2 - WIDTH_PX * scale) / 2
    top = stage["y"] + 1 + (stage["height"] - 2 - HEIGHT_PX * scale) / 2
    return left + x_px * scale, top + y_px * scale


def test_a_finding_is_reclassified_by_keys_and_the_counts_follow(
    page: Any, web_app: RunningApp, technologist: Person
) -> None:
    bench = analysed(web_app, technologist)
    open_review(page, web_app, technologist, bench)
    page.mouse.click(*on_screen(page, 125, 125))
    expect(page.locator(".viewer .said")).to_have_text("WBC 0.90: found by the model")
    page.keyboard.press("r")
    page.keyboard.type("squam")
    page.keyboard.press("Enter")
    wait_until(page, {"WBC": 5, "RBC": 3, "Epithelial cell (squamous)": 1})
    assert standing(web_app, bench)[0] == ("Epithelial cell (squamous)", "reclassified")
    page.keyboard.press("u")
    wait_until(page, ALL)


def test_keys_pressed_faster_than_the_server_answers_are_all_kept(
    page: Any, web_app: RunningApp, technologist: Person
) -> None:
    bench = analysed(web_app, technologist)
    open_review(page, web_app, technologist, bench)
    for key in ("j", "c", "j", "Delete", "j", "c"):
        page.keyboard.press(key)
    wait_until(page, {"WBC": 5, "RBC": 3})
    page.wait_for_selector(".viewer[data-waiting='0']")
    assert sorted(standing(web_app, bench)) == [("RBC", "confirmed"), ("WBC", "confirmed"), ("WBC", "removed")]


def test_a_missed_object_is_added_by_drawing_a_box(page: Any, web_app: RunningApp, technologist: Person) -> None:
    bench = analysed(web_app, technologist)
    open_review(page, web_app, technologist, bench)
    page.keyboard.press("a")
    page.mouse.move(*on_screen(page, 200, 300))
    page.mouse.down()
    page.mouse.move(*on_screen(page, 230, 320), steps=4)
    page.mouse.move(*on_screen(page, 260, 340), steps=4)
    page.mouse.up()
    page.keyboard.type("hyaline")
    page.keyboard.press("Enter")
    wait_until(page, ALL | {"Hyaline cast": 1})
    with web_app.database() as session:
        added = [item for item in reviews.objects(session, bench.analysis_id) if item.status == "added"]
    assert len(added) == 1
    assert added[0].field_id == bench.field_ids[0]
    assert added[0].box == pytest.approx((200, 300, 260, 340), abs=3)


def test_the_confidence_slider_filters_while_it_moves_and_counts_when_it_is_let_go(
    page: Any, web_app: RunningApp, technologist: Person
) -> None:
    bench = analysed(web_app, technologist)
    open_review(page, web_app, technologist, bench)
    slider = page.get_by_label("Confidence threshold")
    slider.evaluate("slider => { slider.value = '0.7'; slider.dispatchEvent(new Event('input')); }")
    expect(page.locator(".viewer")).to_have_attribute("data-shown", "2")
    wait_until(page, ALL)
    slider.evaluate("slider => slider.dispatchEvent(new Event('change'))")
    wait_until(page, {"WBC": 3, "RBC": 3})
    with web_app.database() as session:
        kept = analyses.get(session, bench.analysis_id).options["min_score"]
    assert (kept if isinstance(kept, float) else kept["WBC"]) == 0.7


def test_groups_are_switched_and_the_original_is_one_key_away(
    page: Any, web_app: RunningApp, technologist: Person
) -> None:
    bench = analysed(web_app, technologist)
    open_review(page, web_app, technologist, bench)
    drawn = """() => { for (const host of document.querySelectorAll('*')) {
        const canvas = host.shadowRoot?.querySelector('.viewer canvas');
        if (canvas) return canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data.some(Boolean);
    } }"""
    page.wait_for_function(drawn)
    page.keyboard.press("o")
    page.wait_for_function(f"() => !({drawn})()")
    page.keyboard.press("o")
    page.locator(".viewer [data-group='Cells']").click()
    expect(page.locator(".viewer")).to_have_attribute("data-shown", "0")
    page.locator(".viewer [data-group='Cells']").click()
    expect(page.locator(".viewer")).to_have_attribute("data-shown", "3")


def test_stepping_through_the_fields_keeps_the_place_in_the_address(
    page: Any, web_app: RunningApp, technologist: Person
) -> None:
    bench = analysed(web_app, technologist)
    open_review(page, web_app, technologist, bench)
    page.keyboard.press("n")
    page.keyboard.press("n")
    page.wait_for_selector(f".viewer[data-picture='{bench.field_ids[2]}']")
    page.wait_for_url(f"**field={bench.field_ids[2]}")
    page.reload()
    page.wait_for_selector(f".viewer[data-picture='{bench.field_ids[2]}']")


def test_the_heat_map_of_a_box_or_of_a_class_lies_over_the_picture_once_it_is_drawn(
    page: Any, web_app: RunningApp, technologist: Person
) -> None:
    bench = analysed(web_app, technologist)
    open_review(page, web_app, technologist, bench)
    page.keyboard.press("h")
    said, of = page.locator(".viewer .heatbox"), page.get_by_label("Heat map of")
    expect(said).to_contain_text("Select one box, or choose a class.")
    page.mouse.click(*on_screen(page, 125, 125))
    expect(said).to_contain_text("Waiting for a worker to draw the heat map")
    stream = io.BytesIO()
    spot = Image.radial_gradient("L").resize((80, 80)).point(lambda level: max(0, 255 - 2 * level))
    drawing = Image.new("RGBA", (WIDTH_PX, HEIGHT_PX))
    drawing.paste((253, 231, 37, 255), (85, 85), spot)
    drawing.save(stream, "PNG")
    sha256, size = FileStore(f"file://{web_app.data / 'files'}").put(io.BytesIO(stream.getvalue()))
    with web_app.database() as session:
        (asked,) = session.scalars(select(HeatMap).where(HeatMap.analysis_id == bench.analysis_id))
        heat_maps.store(session, asked.id, sha256=sha256, size=size)
    heat = page.locator(".viewer img.heat")
    expect(heat).to_be_visible()
    shoot(page, "heat-map")
    page.get_by_label("Opacity of the heat map").fill("0.3")
    expect(heat).to_have_css("opacity", "0.3")
    of.select_option("All RBC")
    expect(heat).to_be_hidden()
    expect(said).to_contain_text("Waiting for a worker to draw the heat map")
    with web_app.database() as session:
        of_class = session.scalars(select(HeatMap).where(HeatMap.class_name == "RBC")).one()
        heat_maps.fail(session, of_class.id, "The weights are missing.")
    expect(said).to_contain_text("The weights are missing.")
    expect(page.get_by_role("button", name="Try again")).to_be_visible()
    of.select_option("The selected box")
    expect(heat).to_be_visible()
    page.locator(".viewer .stage").focus()
    page.keyboard.press("r")
    page.keyboard.type("squam")
    page.keyboard.press("Enter")
    expect(said).to_contain_text("the model did not say Epithelial cell (squamous), so it has no heat map")
    page.keyboard.press("h")
    expect(said).to_be_hidden()


def test_many_findings_are_corrected_at_once_in_the_gallery(
    page: Any, web_app: RunningApp, technologist: Person
) -> None:
    bench = analysed(web_app, technologist)
    open_review(page, web_app, technologist, bench)
    page.get_by_text("Gallery", exact=True).click()
    page.wait_for_selector(".gallery .tile canvas[data-drawn]")
    page.locator(".gallery .chips [data-class='WBC']").click()
    tiles = page.locator(".gallery .tile")
    expect(page.locator(".gallery .tile[data-class='RBC']")).to_have_count(0)
    expect(tiles).to_have_count(6)
    tiles.nth(0).click()
    tiles.nth(3).click(modifiers=["Shift"])
    expect(page.locator(".gallery")).to_have_attribute("data-selected", "4")
    page.keyboard.press("Delete")
    wait_until(page, {"WBC": 2, "RBC": 3})
    page.keyboard.press("u")
    wait_until(page, ALL)
    page.wait_for_selector(".gallery[data-waiting='0']")
    expect(tiles).to_have_count(6)
    drawn(page)
    key = tiles.nth(5).get_attribute("data-key")
    tiles.nth(5).dblclick()
    page.wait_for_selector(f".viewer[data-selected='{key}']")


def test_a_reviewer_signs_and_reopens_with_a_reason(
    page: Any, web_app: RunningApp, technologist: Person, reviewer: Person
) -> None:
    bench = analysed(web_app, technologist)
    open_review(page, web_app, reviewer, bench)
    page.get_by_role("button", name="Sign", exact=True).click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_text("9 findings stand as the model found them").wait_for()
    dialog.get_by_role("button", name="Sign", exact=True).click()
    page.get_by_text("Signed by Rita Reviewer").wait_for()
    page.wait_for_selector(".viewer[data-picture]")
    expect(page.locator(".viewer .actions")).to_be_hidden()
    drawn(page)
    page.mouse.click(*on_screen(page, 125, 125))
    page.keyboard.press("Delete")
    page.get_by_role("button", name="Reopen for amendment").click()
    page.get_by_role("dialog").get_by_label("Reason").fill("A cast was overlooked")
    page.get_by_role("dialog").get_by_role("button", name="Reopen").click()
    page.get_by_role("button", name="Sign", exact=True).wait_for()
    with web_app.database() as session:
        history = reviews.history(session, bench.specimen_id)
        state = specimens.get(session, bench.specimen_id).state
    assert [(entry.kind, entry.reason) for entry in history] == [("sign", None), ("reopen", "A cast was overlooked")]
    assert state == "needs_review"
    assert standing(web_app, bench)[0] == ("WBC", "model"), "what is signed is not changed"


def test_a_technologist_is_offered_no_signature(page: Any, web_app: RunningApp, technologist: Person) -> None:
    bench = analysed(web_app, technologist)
    open_review(page, web_app, technologist, bench)
    expect(page.get_by_role("button", name="CSV")).to_be_visible()
    expect(page.get_by_role("button", name="Sign", exact=True)).to_have_count(0)


def test_an_administrator_corrects_and_is_offered_no_signature(page: Any, web_app: RunningApp) -> None:
    admin = web_app.person("admin", "Ada Administrator")
    bench = analysed(web_app, admin)
    open_review(page, web_app, admin, bench)
    page.mouse.click(*on_screen(page, 125, 125))
    page.keyboard.press("Delete")
    wait_until(page, {"WBC": 5, "RBC": 3})
    assert standing(web_app, bench)[0] == ("WBC", "removed")
    expect(page.get_by_role("button", name="Sign", exact=True)).to_have_count(0)


def test_what_was_signed_meanwhile_is_not_changed_and_the_reason_is_said(
    page: Any, web_app: RunningApp, technologist: Person, reviewer: Person
) -> None:
    bench = analysed(web_app, technologist)
    open_review(page, web_app, technologist, bench)
    rita = user_of(web_app, reviewer)
    with web_app.database() as session:
        reviews.sign(session, bench.specimen_id, by=rita, meaning="I have reviewed it.")
    page.keyboard.press("j")
    page.keyboard.press("Delete")
    page.get_by_text("is signed. A reviewer must reopen it").wait_for()
    assert {status for _, status in standing(web_app, bench)} == {"model"}


def test_a_correction_after_the_session_ended_is_not_shown_as_made(
    page: Any, web_app: RunningApp, technologist: Person
) -> None:
    bench = analysed(web_app, technologist)
    open_review(page, web_app, technologist, bench)
    with web_app.database() as session:
        for login in session.query(LoginSession).filter_by(user_id=user_of(web_app, technologist).id):
            login.ended_at = now()
    page.keyboard.press("j")
    page.keyboard.press("Delete")
    page.get_by_text("your session has ended").first.wait_for()
    page.locator(".viewer").wait_for(state="detached")
    assert {status for _, status in standing(web_app, bench)} == {"model"}
