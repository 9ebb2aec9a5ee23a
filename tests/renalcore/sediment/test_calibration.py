from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from renalcore import taxonomy
from renalcore.engine.devices import Device
from renalcore.models import Calibration, ModelCard
from renalcore.sediment import card as cards
from renalcore.sediment.calibration import Counted, chosen_form, cross_fitted, fit, probabilities
from renalcore.sediment.evaluate import Evaluation, evaluate
from renalcore.sediment.predict import SedimentDetector
from renalcore.sediment.readers import LabelledField
from tests.renalcore.sediment.squares import RBC, WBC, SquareFinder, card, draw, field, glass


def counted(boxes: int, *, slope: float = 2.0, seed: int = 0) -> Counted:
    """Boxes in four folds whose chance of being right is the score's, its logit multiplied by `slope`."""
    rng = np.random.default_rng(seed)
    scores = rng.uniform(0.05, 0.95, boxes)
    chance = 1 / (1 + ((1 - scores) / scores) ** slope)
    return Counted(scores, rng.random(boxes) < chance, rng.integers(0, 4, boxes))


def test_a_fit_finds_by_how_much_scores_are_too_timid() -> None:
    found = fit({"RBC": counted(20_000)}, "Platt")["RBC"]
    assert (found.slope, found.intercept) == (pytest.approx(2.0, abs=0.1), pytest.approx(0.0, abs=0.1))
    assert probabilities(np.array([0.9]), Calibration(2.0, 0.0, 1))[0] == pytest.approx(81 / 82)  # odds of 9, squared


def test_the_form_is_chosen_by_samples_left_out_and_none_where_there_is_one_sample() -> None:
    assert chosen_form({"RBC": counted(2_000)}) == "temperature"
    shifted = counted(2_000)
    timid = replace(shifted, scores=shifted.scores / (shifted.scores + (1 - shifted.scores) * 20))  # odds twentyfold
    assert chosen_form({"RBC": timid}) == "Platt"
    assert chosen_form({"RBC": replace(shifted, folds=np.zeros(2_000, np.int64))}) is None
    assert chosen_form({}) is None


def test_a_box_is_judged_by_a_fit_that_never_saw_its_sample() -> None:
    boxes = counted(1_000)
    own = boxes.folds == 2
    other = replace(boxes, hit=np.where(own, ~boxes.hit, boxes.hit))
    before, after = (cross_fitted({"RBC": each}, "temperature")["RBC"] for each in (boxes, other))
    assert (before[own] == after[own]).all()
    assert (before[~own] != after[~own]).all()


def test_a_class_with_few_boxes_takes_the_fit_of_all_and_a_lone_one_none() -> None:
    few = counted(40, seed=1)
    found = fit({"RBC": counted(2_000), "WBC": few}, "temperature")
    assert (found["RBC"].pooled, found["RBC"].boxes) == (False, 2_000)
    assert (found["WBC"].pooled, found["WBC"].boxes) == (True, 2_040)
    assert fit({"WBC": few}, "temperature") == {}


def measured(tmp_path: Path, calibration: dict[str, Calibration] | None = None) -> Evaluation:
    """Four samples of 50 RBC, 45 of them found, beside 40 false ones, and 5 WBC, all of them found."""
    rng, fields, rows = np.random.default_rng(0), [], []
    for sample in range(4):
        cells = np.array([[20 * place, 0, 20 * place + 10, 10] for place in range(55)], np.float32)
        class_ids = np.array([RBC] * 50 + [WBC] * 5)
        known = np.isin(np.arange(len(taxonomy.NAMES)), (RBC, WBC))
        path = tmp_path / f"{sample}.png"
        fields.append(LabelledField(path, cells, class_ids, known, f"S{sample}", True))
        for place in range(90):
            there = place >= 40
            kind = "WBC" if place >= 85 else "RBC"
            x = 20 * (place - 35 if kind == "WBC" else place - 40) if there else 5_000 + 20 * place
            score = round(float(rng.uniform(0.4, 0.9) if there else rng.uniform(0.1, 0.6)), 3)
            rows.append({"file_name": path.name, "category": kind, "bbox": [x, 0, 10, 10], "score": score})
    images = [{"file_name": each.path.name} for each in fields]
    found = {"model": "squares", "calibrated": False, "images": images, "predictions": rows}
    return evaluate(fields, found, calibration=calibration)


def test_calibration_leaves_average_precision_as_it_was_and_lowers_its_own_error(tmp_path: Path) -> None:
    plain, fitted = measured(tmp_path, {}), measured(tmp_path)
    assert {*fitted.calibration_used} == {"RBC", "WBC"}
    assert fitted.calibration_used["WBC"].pooled  # 20 boxes, all hits
    figures = [[(row.ap50, row.ap50_95, row.ap50_one_label) for row in each.rows] for each in (plain, fitted)]
    assert figures[0] == figures[1]
    assert 0 < figures[0][0][0] < 1
    assert [check.name for check in fitted.calibrated] == ["RBC", "WBC", "all"]
    red = fitted.calibrated[0]
    assert red.before == plain.rows[0].calibration_error
    assert red.after < red.before * 2 / 3
    assert fitted.rows[0].calibration_error < red.before * 2 / 3


def test_a_card_tells_the_error_before_and_after_and_what_stays_uncalibrated(tmp_path: Path) -> None:
    weights = tmp_path / "squares.safetensors"
    weights.write_bytes(b"weights")
    made = cards.unmeasured("squares", weights, title="Squares", architecture="none", scale="n", training_data=())
    told = cards.measured(made, weights, fitted := measured(tmp_path), data="others", on="4 fields", command="")
    assert told.calibration == fitted.calibration_used
    assert ModelCard.from_json(told.to_json()) == told
    values = {figure.name: figure.value for figure in told.figures}
    red = fitted.calibrated[0]
    assert values["Calibration error of RBC, the network's scores"] == pytest.approx(red.before, abs=1e-4)
    assert values["Calibration error of RBC, calibrated"] == pytest.approx(red.after, abs=1e-4)
    assert any("RBC, WBC are calibrated" in limit and "no probabilities" in limit for limit in told.limits)
    again = cards.measured(told, weights, measured(tmp_path, {}), data="others", on="4 fields", command="")
    assert (again.calibration, [limit for limit in again.limits if "are calibrated" in limit]) == ({}, [])


def test_a_detector_tells_probabilities_and_chooses_the_label_by_the_networks_scores() -> None:
    pixels = glass(300, 300)
    draw(pixels, RBC, 10, 10, 50, 50)
    draw(pixels, WBC, 12, 12, 48, 48)  # the same particle
    draw(pixels, WBC, 100, 100, 150, 150)
    of_card = card(calibration={"RBC": Calibration(0.5, 0.0, 100)})  # 0.9 has odds of 9, and their root is 3: 3 / 4
    finder = SedimentDetector(of_card, SquareFinder(), Device("cpu", 1))
    found = finder.predict(field(pixels))
    assert (found.names, found.scores.tolist()) == (["WBC", "RBC"], [pytest.approx(0.8), pytest.approx(0.75)])
    assert finder.predict(field(pixels), min_score=0.78).names == ["WBC"]
    raw, best = finder.every_label(field(pixels), calibrated=False)
    assert raw.scores.tolist() == pytest.approx([0.9, 0.8, 0.8])
    assert [name for name, is_best in zip(raw.names, best, strict=True) if not is_best] == ["WBC"]
