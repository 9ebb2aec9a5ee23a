from __future__ import annotations

import csv
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from renalcore import cli, models, taxonomy
from renalcore.errors import InputError
from renalcore.models import ModelCard, TrainingData
from renalcore.sediment import card as cards
from renalcore.sediment import predictions
from renalcore.sediment.evaluate import detect, evaluate, write
from renalcore.sediment.names import IGNORE
from renalcore.sediment.readers import LabelledField, read_fields
from tests.renalcore.sediment.squares import RBC, WBC, detector, draw, glass

YEAST = taxonomy.class_id("Yeast")
KNOWN = (RBC, WBC)
Box = tuple[int, int, int, int, int]


def labelled(path: Path, *boxes: Box, known: tuple[int, ...] = KNOWN) -> LabelledField:
    """A field with these labels, each `(class, x1, y1, x2, y2)`."""
    table = np.array(boxes, np.float32).reshape(-1, 5)
    looked_for = np.isin(np.arange(len(taxonomy.NAMES)), known)
    return LabelledField(path, table[:, 1:], table[:, 0].astype(np.int64), looked_for, "S1", True)


def answer(*fields: LabelledField, boxes: tuple[tuple[str, int, int, int, int, float], ...] = ()) -> dict[str, object]:
    """Predictions for the fields, the boxes `(class, x, y, width, height, score)` lying in the first."""
    name = fields[0].path.name
    rows = [{"file_name": name, "category": kind, "bbox": [*box], "score": score} for kind, *box, score in boxes]
    return {"model": "squares", "images": [{"file_name": f.path.name} for f in fields], "predictions": rows}


def row_of_cells(count: int, class_id: int = RBC) -> list[Box]:
    """Cells of 10 px, 20 px apart."""
    return [(class_id, 20 * place, 0, 20 * place + 10, 10) for place in range(count)]


def test_a_detector_is_run_over_fields_and_judged_by_their_labels(tmp_path: Path) -> None:
    pixels = glass(320, 200)
    draw(pixels, RBC, 40, 40, 60, 60)
    draw(pixels, RBC, 200, 40, 220, 60)  # a leukocyte that looks red
    path = tmp_path / "field.png"
    Image.fromarray(pixels).save(path)
    fields = [labelled(path, (RBC, 40, 40, 60, 60), (WBC, 200, 40, 220, 60))]
    found = detect(detector(), fields)
    assert list(found) == ["model", "weights_sha256", "calibrated", "images", "predictions"]
    assert [image["file_name"] for image in found["images"]] == ["field.png"]
    measured = evaluate(fields, found)
    assert [(row.name, row.images, row.objects) for row in measured.rows] == [("RBC", 1, 1), ("WBC", 1, 1)]
    assert measured.confusion.tolist() == [[1, 0, 0], [1, 0, 0], [0, 0, 0]]  # rows and columns: RBC, WBC, background
    white, red = measured.red_and_white
    assert (white.true, white.called, white.missed, white.share) == ("WBC", "RBC", 1, 1.0)
    assert (red.missed, np.isnan(red.share)) == (0, True)
    assert measured.mistakes("WBC") == "of 1 objects 1 are missed, 0 of them not boxed at all and 1 called RBC"


def test_a_threshold_is_chosen_only_where_there_are_twenty_objects(tmp_path: Path) -> None:
    few, enough = (
        evaluate([field], answer(field, boxes=tuple(("RBC", x, 0, 10, 10, 0.3) for x in range(0, 20 * count, 20))))
        for count in (19, 20)
        for field in [labelled(tmp_path / "a.png", *row_of_cells(count))]
    )
    assert (few.validated, few.min_score["RBC"], few.rows[0].reported.recall) == ((), 0.5, 0.0)
    assert (enough.validated, enough.min_score["RBC"], enough.rows[0].reported.recall) == (("RBC",), 0.05, 1.0)
    assert enough.min_score["WBC"] == 0.5


def test_given_thresholds_decide_what_is_reported_and_confused(tmp_path: Path) -> None:
    field = labelled(tmp_path / "a.png", (RBC, 0, 0, 10, 10))
    found = answer(field, boxes=(("RBC", 0, 0, 10, 10, 0.6),))
    for min_score, recall in ((0.6, 1.0), (0.7, 0.0)):
        measured = evaluate([field], found, min_score=dict.fromkeys(taxonomy.NAMES, min_score))
        assert measured.rows[0].reported.recall == recall
        assert measured.confusion[0].tolist() == [recall, 0, 1 - recall]


def test_a_class_nobody_looked_for_and_a_region_to_ignore_are_not_judged(tmp_path: Path) -> None:
    field = labelled(tmp_path / "a.png", (IGNORE, 100, 0, 150, 50), known=(RBC,))
    found = answer(field, boxes=(("RBC", 110, 10, 10, 10, 0.9), ("WBC", 0, 0, 10, 10, 0.9)))
    measured = evaluate([field], found)
    assert [row.name for row in measured.rows] == ["RBC"]
    assert (measured.confusion.sum(), measured.calibration.boxes.sum()) == (0, 0)


def test_further_labels_of_a_particle_are_ranked_but_never_counted(trained: ModelCard, tmp_path: Path) -> None:
    field = labelled(tmp_path / "a.png", *row_of_cells(20))
    found = answer(field, boxes=tuple(("RBC", 20 * place, 0, 10, 10, 0.8) for place in range(19)))
    called_white = ("WBC", 380, 0, 10, 10, 0.7), ("RBC", 380, 0, 10, 10, 0.6)
    found["predictions"] += answer(field, boxes=called_white)["predictions"]  # type: ignore[operator]
    found["predictions"][-1]["alternative"] = True  # type: ignore[index]
    measured = evaluate([field], found)
    red = measured.rows[0]
    assert red.ap50 == 1.0
    assert red.ap50_one_label == pytest.approx(95 / 101)  # recalls 0 to 0.94; COCO's 0.95 is a rounding above 19 / 20
    assert (red.best.recall, measured.confusion[0].tolist()) == (0.95, [19, 1, 0])
    weights = tmp_path / "models" / "squares" / "squares.safetensors"
    told = cards.measured(trained, weights, measured, data="others", on="1 field", command="")
    assert any("the mean AP50 is 0.941 instead of 1.000" in limit for limit in told.limits)


def test_both_averages_leave_out_classes_without_objects(tmp_path: Path) -> None:
    field = labelled(tmp_path / "a.png", *row_of_cells(3), (WBC, 100, 0, 110, 10), known=(RBC, WBC, YEAST))
    measured = evaluate([field], answer(field, boxes=tuple(("RBC", x, 0, 10, 10, 0.9) for x in (0, 20, 40))))
    assert (measured.unweighted.ap50, measured.weighted.ap50) == (1 / 2, 3 / 4)
    assert np.isnan(measured.unweighted_validated.ap50)


def test_what_cannot_be_judged_is_refused(tmp_path: Path) -> None:
    first, second = labelled(tmp_path / "a.png"), labelled(tmp_path / "b.png")
    with pytest.raises(InputError, match=r"lack 1 of the 2 labelled fields, e\.g\. b\.png"):
        evaluate([first, second], answer(first))
    with pytest.raises(InputError, match=r"several fields are called a\.png"):
        evaluate([first, labelled(tmp_path / "other" / "a.png")], answer(first))
    with pytest.raises(InputError, match="no labelled fields"):
        evaluate([], answer(first))
    unknown = labelled(tmp_path / "a.png", known=())
    with pytest.raises(InputError, match="nothing to judge"):
        evaluate([unknown], answer(unknown))


def test_the_tables_are_written_with_empty_cells_where_a_figure_does_not_exist(tmp_path: Path) -> None:
    field = labelled(tmp_path / "a.png", (RBC, 0, 0, 10, 10))
    measured = evaluate([field], answer(field, boxes=(("RBC", 0, 0, 10, 10, 0.9),)))
    write(measured, tmp_path, about={"model": "squares"})
    tables = {
        path.stem: list(csv.reader(path.read_text(encoding="utf-8").splitlines())) for path in tmp_path.glob("*.csv")
    }
    assert tables["table7"][0][:8] == [
        "class", "images", "images_with_class", "objects", "precision", "recall", "mAP50", "mAP50-95",
    ]  # fmt: skip
    assert tables["table7"][1][:8] == ["RBC", "1", "1", "1", "1.0", "1.0", "1.0", "1.0"]
    assert tables["table7"][2][3:8] == ["0", "0.0", "0.0", "", ""]  # no WBC there
    assert [row[0] for row in tables["table7"][3:5]] == ["Unweighted average", "Weighted average"]
    assert tables["confusion"] == [
        ["true \\ predicted", "RBC", "WBC", "background"],
        ["RBC", "1", "0", "0"], ["WBC", "0", "0", "0"], ["background", "0", "0", "0"],
    ]  # fmt: skip
    assert tables["calibration"][10] == ["all", "0.9", "1.0", "1", "0.9", "1.0"]
    content = json.loads((tmp_path / "evaluation.json").read_text())
    assert (content["model"], content["classes"][1]["ap50"]) == ("squares", None)
    assert content["red_and_white"][0]["paper"] == 0.38


@pytest.fixture
def trained(tmp_path: Path) -> ModelCard:
    """The card of a model that has just been trained, beside its weights."""
    folder = tmp_path / "models" / "squares"
    folder.mkdir(parents=True)
    (folder / "squares.safetensors").write_bytes(b"weights")
    sources = (TrainingData("fields", "ours", 12),)
    made = cards.unmeasured(
        "squares", folder / "squares.safetensors", title="Squares", architecture="none", scale="n",
        training_data=sources,
    )  # fmt: skip
    models.write_card(made, folder)
    return made


def test_training_promises_nothing_on_the_card(trained: ModelCard, tmp_path: Path) -> None:
    assert models.card("squares", tmp_path / "models") == trained
    assert models.weights_path(trained, tmp_path / "models").read_bytes() == b"weights"
    assert (trained.validated_classes, trained.figures) == ((), ())
    assert trained.limits == ("39 of the 39 classes were never validated on real pictures.", cards.BRIGHT_FIELD_ONLY)


def test_an_evaluation_replaces_what_an_earlier_one_measured_and_nothing_else(
    trained: ModelCard, tmp_path: Path
) -> None:
    field = labelled(tmp_path / "a.png", *row_of_cells(20), (WBC, 0, 50, 10, 60))
    good = answer(field, boxes=tuple(("RBC", 20 * place, 0, 10, 10, 0.8) for place in range(20)))
    poor = answer(field, boxes=(("RBC", 0, 0, 10, 10, 0.8), ("WBC", 20, 0, 10, 10, 0.8)))
    weights = tmp_path / "models" / "squares" / "squares.safetensors"
    told = {"data": "fields", "on": "1 held-out field", "command": "renalcore evaluate sediment"}
    weak = cards.measured(trained, weights, evaluate([field], poor), **told)
    poorly = (
        f"Held-out fields: RBC is found poorly, AP50 {6 / 101:.2f}; "  # right at 6 of 101 recalls, 0 to 0.05
        "of 20 objects 19 are missed, 18 of them not boxed at all and 1 called WBC."
    )
    assert weak.limits == (
        "38 of the 39 classes were never validated on real pictures.",
        poorly,
        "Held-out fields: only one object of WBC, too few for a figure.",
        "Held-out fields: precision and recall are at score thresholds that were chosen on the same fields.",
        "Held-out fields: scores are the network's own and no probabilities.",
        "Held-out fields: they are part of fields, of which the rest was trained on; expect less elsewhere.",
        cards.BRIGHT_FIELD_ONLY,
    )
    strong = cards.measured(weak, weights, evaluate([field], good), **told)
    assert (strong.validated_classes, strong.min_score_of("WBC")) == (("RBC",), 0.5)
    figures = {figure.name: figure.value for figure in strong.figures}
    assert [figures[f"{name} RBC"] for name in ("AP50", "AP50-95", "Precision", "Recall")] == [1.0] * 4
    assert not any("poorly" in limit for limit in strong.limits)
    assert (strong.training_data, strong.architecture, strong.date) == (
        trained.training_data, trained.architecture, trained.date,
    )  # fmt: skip
    assert strong.limits[-1] == cards.BRIGHT_FIELD_ONLY


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("no json", "holds no predictions"),
        ("[]", "holds no predictions"),
        ({"model": "squares", "images": []}, "holds no predictions .*predictions"),
        ({"bbox": [0, 0, -1, 1]}, "a box without"),
        ({"score": 1.5}, "a box without"),
        ({"bbox": [0, 0, 1]}, "holds a box without"),
        ({"bbox": [float("nan"), 0, 1, 1]}, "holds a box without"),
        ({"category": "Sand"}, "p.json: 'Sand' is not one of the 39"),
    ],
)
def test_a_file_that_holds_no_predictions_is_refused(content: object, message: str, tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    if isinstance(content, dict) and "model" not in content:
        row = {"file_name": "a.png", "category": "RBC", "bbox": [0, 0, 1, 1], "score": 0.5, **content}
        content = {"model": "squares", "images": [], "predictions": [row]}
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(InputError, match=message):
        predictions.read(path)


def run(urised: Path, tmp_path: Path, *more: str) -> int:
    """The command on sample S2, with predictions from `p.json`."""
    options = ["--data", str(urised), "--models", str(tmp_path / "models"), "--model", "squares", "--hold-out", "S2"]
    files = ["--predictions", str(tmp_path / "p.json"), "--output", str(tmp_path / "out")]
    return cli.main(["evaluate", "sediment", *options, *files, *more])


def test_the_command_writes_tables_and_the_card_of_the_weights_that_predicted(
    urised: Path, trained: ModelCard, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    box = {"file_name": "b.png", "category": "WBC", "bbox": [100, 50, 40, 30], "score": 0.9}
    found = {"model": "squares", "images": [{"file_name": "b.png"}], "predictions": [box]}
    (tmp_path / "p.json").write_text(json.dumps(found))
    assert run(urised, tmp_path) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "table7.csv", "counts.csv", "confusion.csv", "calibration.csv", "evaluation.json",
    }  # fmt: skip
    assert "WBC" in capsys.readouterr().out
    assert run(urised, tmp_path, "--write-card") == 1
    assert "cannot stand on their card" in capsys.readouterr().err
    (tmp_path / "p.json").write_text(json.dumps({**found, "weights_sha256": trained.sha256}))
    assert run(urised, tmp_path, "--write-card") == 0
    told = models.card("squares", tmp_path / "models")
    assert "Held-out fields: only one object of WBC, too few for a figure." in told.limits
    command = json.loads((tmp_path / "out" / "evaluation.json").read_text())["command"]
    assert command == (
        f"python -m renalcore evaluate sediment --data {urised} --model squares --hold-out S2 --output evaluation"
    )


@pytest.mark.parametrize("split", ["train", "all"])
def test_figures_on_trained_fields_cannot_come_on_a_card(
    split: str, urised: Path, trained: ModelCard, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sources = (TrainingData(urised.name, "ours", 12),)
    models.write_card(replace(trained, training_data=sources), tmp_path / "models" / "squares")
    options = ["--models", str(tmp_path / "models"), "--model", "squares", "--output", str(tmp_path / "out")]
    assert cli.main(["evaluate", "sediment", "--data", str(urised), "--split", split, "--write-card", *options]) == 1
    assert f"not trained on: leave --split {split} out" in capsys.readouterr().err


@pytest.mark.shared_data
def test_the_figures_are_those_of_the_reference_scorer_on_real_labels(shared_data: Path, tmp_path: Path) -> None:
    """Boxes made of the labels: moved, dropped, doubled, renamed and invented."""
    folder = shared_data / "sediment" / "urised2k"
    fields = read_fields(folder).split("val")
    rng = np.random.default_rng(0)
    named = [taxonomy.class_id(name) for name in ("RBC", "WBC", "Calcium oxalate", "Epithelial cell (squamous)")]
    rows = []
    for field in fields:
        times = rng.integers(0, 3, len(field.class_ids))
        kinds = np.concatenate((np.repeat(field.class_ids, times), [IGNORE] * 3))
        kinds = np.where((kinds == IGNORE) | (rng.random(len(kinds)) < 0.2), rng.choice(named, len(kinds)), kinds)
        boxes = np.vstack((np.repeat(field.boxes_px, times, axis=0), rng.uniform(0, 500, (3, 4))))
        boxes += rng.normal(0, 3, boxes.shape)
        boxes[:, 2:] = np.maximum(boxes[:, 2:] - boxes[:, :2], 2)  # width and height
        for kind, box in zip(kinds, boxes.round(2).tolist(), strict=True):
            row = {"file_name": field.path.name, "category": taxonomy.NAMES[kind], "bbox": box}
            rows.append({**row, "score": round(float(rng.random()), 5)})
    found = {"model": "none", "images": [{"file_name": field.path.name} for field in fields], "predictions": rows}
    (tmp_path / "p.json").write_text(json.dumps(found))
    script = shared_data.parent / "tools" / "score_sediment.py"
    done = subprocess.run(
        [sys.executable, script, folder / "val", tmp_path / "p.json"], check=True, capture_output=True, text=True
    )
    expected = json.loads(done.stdout)
    measured = evaluate(fields, found)
    for row in measured.rows:
        assert row.ap50 == pytest.approx(expected["AP50"][row.name], abs=1e-4)
    assert 0.05 < expected["mAP50"] < 0.95
    assert measured.unweighted.ap50 == pytest.approx(expected["mAP50"], abs=1e-4)
    assert measured.unweighted.ap50_95 == pytest.approx(expected["mAP50-95"], abs=1e-4)
