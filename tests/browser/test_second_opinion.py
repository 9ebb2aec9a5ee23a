from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from db import analyses, audit, reviews
from db.models import Analysis
from renalcore import models
from renalcore.types import Detections
from tests.browser.conftest import expect, shoot, sign_in
from tests.browser.records import Bench, Found, analysed, wait_until
from tests.pages.records import a_card
from tests.running_app import Person, RunningApp, make_app

pytestmark = pytest.mark.browser

CAOX = "Calcium oxalate"
KEY = "sediment-caox-retinanet"
FIRST: tuple[Found, ...] = (
    (CAOX, 0.9, (100, 100, 150, 150)),
    (CAOX, 0.8, (300, 120, 350, 170)),
    ("RBC", 0.8, (500, 400, 540, 440)),
)
SECOND: tuple[Found, ...] = (
    (CAOX, 0.7, (104, 100, 154, 150)),
    (CAOX, 0.6, (600, 200, 640, 240)),
    (CAOX, 0.2, (20, 20, 60, 60)),
)


@pytest.fixture(scope="module")
def two_models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApp]:
    """The app where a second model is installed; no worker, whose part the test takes."""
    folder = tmp_path_factory.mktemp("web")
    installed = folder / "models"
    (installed / KEY).mkdir(parents=True)
    (installed / "sediment-multihead-n").symlink_to(models.WEIGHTS / "sediment-multihead-n")
    card = dataclasses.replace(
        a_card(validated=(CAOX,), min_score=0.4), key=KEY, title="RetinaNet for calcium oxalate", classes=(CAOX,),
        weights=f"{KEY}.safetensors", architecture="RetinaNet", scale="resnet18", network="retinanet",
    )  # fmt: skip
    (installed / KEY / "card.json").write_text(card.to_json(), encoding="utf-8")
    app = make_app(folder / "data", RENAL_WORKER="external", RENAL_MODELS=str(installed))
    try:
        app.start()
        yield app
    finally:
        app.stop()


@pytest.fixture(scope="module")
def technologist(two_models: RunningApp) -> Person:
    return two_models.person("technologist", "Tess Technologist")


def crystals(found: tuple[Found, ...]) -> Detections:
    boxes, scores = [box for _, _, box in found], [score for _, score, _ in found]
    return Detections(np.array(boxes), np.array(scores), np.zeros(len(found), np.int64), (CAOX,))


def opinion(app: RunningApp, bench: Bench) -> Analysis:
    with app.database() as session:
        second = analyses.second_opinion(session, bench.specimen_id)
    assert second is not None
    return second


def test_a_second_opinion_is_asked_for_laid_over_the_boxes_and_never_counted(
    page: Any, two_models: RunningApp, technologist: Person
) -> None:
    bench = analysed(two_models, technologist, FIRST, ())
    sign_in(page, two_models, technologist, f"/review?specimen={bench.specimen_id}")
    page.wait_for_selector(f".viewer[data-picture='{bench.field_ids[0]}']")
    counted = {CAOX: 2, "RBC": 1}
    wait_until(page, counted)
    side = page.locator(f".st-key-second-opinion-{bench.analysis_id}")
    toggle = page.locator(".viewer .second")
    expect(toggle).to_be_hidden()
    side.get_by_role("button", name="Ask").click()
    expect(side).to_contain_text("No worker is running")
    shoot(page, "second-opinion-waiting")
    second = opinion(two_models, bench)
    assert (second.model_key, second.options["min_score"], second.state) == (KEY, {CAOX: 0.4}, "queued")
    with two_models.database() as session:
        (asked,) = audit.events(session, action="analysis.request_second", entity_id=second.id)
        analyses.fail(session, second.id, "Field 2 could not be read.")
    assert asked.actor_name == technologist.username
    expect(side).to_contain_text("the counts are not touched. Field 2 could not be read.")
    shoot(page, "second-opinion-failed")
    side.get_by_role("button", name="Retry").click()
    expect(side).to_contain_text("Waiting for its turn")
    with two_models.database() as session:
        analyses.start(session, second.id, device="cpu", worker="test")
        for field_id, found in zip(bench.field_ids, (SECOND[:1], SECOND[1:]), strict=True):
            analyses.store_field(session, second.id, field_id, detections=crystals(found), seconds=0.1, worker="test")
        analyses.finish(session, second.id)

    expect(side).to_contain_text("1 of 2 confirmed")
    expect(toggle).to_contain_text("Second opinion, not counted")
    viewer = page.locator(".viewer")
    expect(viewer).to_have_attribute("data-second", "0")
    page.keyboard.press("s")
    expect(viewer).to_have_attribute("data-second", "1")
    page.keyboard.press("j")
    said = page.locator(".viewer .said")
    expect(said).to_have_text(f"{CAOX} 0.90: found by the model; the second opinion has it too, 0.70")
    shoot(page, "second-opinion")
    side.get_by_role("button", name="1 not confirmed").click()
    expect(said).to_have_text(f"{CAOX} 0.80: found by the model")
    side.get_by_role("button", name="1 additional").click()
    page.wait_for_selector(f".viewer[data-picture='{bench.field_ids[1]}']")
    expect(said).to_have_text(f"{CAOX} 0.60: second opinion alone, not counted")
    shoot(page, "second-opinion-alone")
    page.keyboard.press("Delete")
    page.keyboard.press("c")
    wait_until(page, counted)
    with two_models.database() as session:
        assert {item.status for item in reviews.objects(session, bench.analysis_id)} == {"model"}
