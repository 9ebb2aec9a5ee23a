from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from ultralytics.nn.modules import Detect

from renalcore import cli, models, taxonomy
from renalcore.errors import ModelError, UnknownName
from renalcore.sediment import compare, runners
from renalcore.sediment.compare import Comparison, markdown, table_row
from renalcore.sediment.decoding import compact
from renalcore.sediment.losses import QueryLoss, SingleHeadLoss
from renalcore.sediment.methods import Method, Printed, methods, printed
from renalcore.sediment.names import IGNORE
from renalcore.sediment.networks import NETWORKS, MultiHeadDetect, build_network, load_start, save_backbone
from renalcore.sediment.slicing import Boxes, FittedFinder
from renalcore.sediment.train import TrainConfig
from renalcore.taxonomy import Group

RBC, WBC, CAST = (taxonomy.class_id(name) for name in ("RBC", "WBC", "Hyaline cast"))
GAINS = SimpleNamespace(box=5.5, cls=0.7, dfl=1.4)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as lines:
        return list(csv.DictReader(lines))


def test_table_4_has_each_network_with_and_without_what_can_be_added_to_it() -> None:
    names = [method.name for method in methods(4)]
    assert len(names) == len(set(names)) == 3 * 2 + 2 * 3 * 4  # three without self-supervision, two with, of n, s, m
    assert {"rtdetr-l", "rtdetr-l+sahi", "yolov8-n", "yolo11-n+sahi", "yolo12-s+sahi+ssl", "multihead-m"} <= {*names}
    assert [method.name for method in methods(4, ["yolo12-x*ssl"])] == ["yolo12-x+ssl", "yolo12-x+sahi+ssl"]
    with pytest.raises(UnknownName, match=r"'rtdetr-l\+ssl' is no row of table 4; there are e.g. yolov8-n"):
        methods(4, ["rtdetr-l+ssl"])


def test_the_paper_s_figures_stand_beside_the_row_that_they_were_measured_of() -> None:
    assert printed(Method("multihead", "m", sliced=True, pretrained=True), 4) == (76.59, 62.45, 64.15, 47.20)
    assert printed(Method("multihead", "n", sliced=True, pretrained=True), 4) is None
    cells, casts, *_, full = methods(5, scale="n")  # the paper's are of m
    assert (casts.name, printed(casts, 5)) == ("multihead-without-casts-n+sahi+ssl", (72.58, 60.68, 62.73, 45.42))
    assert printed(cells, 5) == (73.69, 60.28, 61.98, 46.56)
    assert (full.name, printed(full, 5)) == ("multihead-n+sahi+ssl", (76.59, 62.45, 64.15, 47.20))
    at_960 = methods(6, ["*@960"], scale="s")[0]  # and of n
    assert printed(at_960, 6) == (63.40, 53.00, 55.98, 38.91)
    assert all(printed(method, 6) for method in methods(6))


def result(seed: int, recall: float, map50: float) -> dict[str, object]:
    figures = {"precision": 0.5, "recall": recall, "mAP50": map50, "mAP50-95": 0.25}
    return {
        "seed": seed, **figures, **{f"{name} of classes with 20 objects": None for name in figures},
        "parameters": 2_500_000, "gflops": 7.5, "ms": 10.0 + seed, "device": "CPU", "epochs": 4, "crops": 400,
        "hours": 0.5, "pretraining_hours": 0.0, "optimizer": "SGD", "lr0": 0.01, "input_px": 320,
    }  # fmt: skip


def test_a_row_tells_mean_and_deviation_over_the_seeds_beside_the_paper() -> None:
    method = Method("yolo12", "m", sliced=True)
    row = table_row(method, [result(0, 0.6, 0.5), result(3, 0.64, 0.5)], Printed(62.91, 56.49, 59.91, 42.27))
    assert row["recall"] == pytest.approx(0.62)
    assert row["recall std"] == pytest.approx(math.sqrt(2 * 0.02**2 / (2 - 1)))
    assert (row["seeds"], row["ms"], row["paper mAP50"]) == ("0 3", 11.5, pytest.approx(0.5991))
    assert math.isnan(row["mAP50 of classes with 20 objects"])
    head, _, line = markdown([row]).splitlines()
    assert head.startswith("| method | precision | recall | mAP50 | mAP50-95 | ")
    assert line.startswith("| yolo12-m+sahi | 50.00 ± 0.00 (62.91) | 62.00 ± 2.83 (56.49) | 50.00 ± 0.00 (59.91) | ")
    assert line.endswith("|  | 2.50 | 7.5 | 11.5 | 4 | 400 | 0.50 | 0 3 |")
    alone = table_row(method, [result(0, 0.6, 0.5)], None)
    assert "| 60.00 | 50.00 |" in markdown([alone])


def test_the_classes_of_a_removed_head_are_found_by_others() -> None:
    head = MultiHeadDetect([16, 16, 16], Group.CASTS)
    of = dict(zip(head.groups, head.class_ids, strict=True))
    assert Group.CASTS not in of
    assert {*of[Group.OTHERS]} == {*taxonomy.ids_of(Group.OTHERS), *taxonomy.ids_of(Group.CASTS)}
    assert sorted(class_id for ids in head.class_ids for class_id in ids) == list(range(39))


@pytest.mark.parametrize("network", ["yolo12", "yolo11", "yolov8", "rtdetr", "multihead-without-crystals"])
def test_every_network_learns_from_partial_labels_and_answers_in_one_form(network: str) -> None:
    torch.manual_seed(0)
    model = build_network(network, "l" if network == "rtdetr" else "n")
    model.args = GAINS
    batch = {
        "img": torch.rand(2, 3, 64, 64), "cls": torch.tensor([[float(RBC)], [float(IGNORE)], [float(CAST)]]),
        "bboxes": torch.tensor([[0.5, 0.5, 0.3, 0.3], [0.2, 0.2, 0.2, 0.2], [0.4, 0.6, 0.5, 0.5]]),
        "batch_idx": torch.tensor([0.0, 0.0, 1.0]), "known": torch.ones(2, 39, dtype=torch.bool),
    }  # fmt: skip
    loss, _ = model(batch)
    loss.sum().backward()
    assert all(torch.isfinite(each.grad).all() for each in model.parameters() if each.grad is not None)
    with torch.inference_mode():
        boxes, scores, class_ids = compact(model).eval()(torch.randint(0, 256, (2, 64, 96, 3), dtype=torch.uint8))
    assert boxes.shape == (*scores.shape, 4) == (*class_ids.shape, 4)
    # Anchors of P3, P4, P5 once for each group or head; RT-DETR gives the best 300 pairs of a query and a class.
    anchors = 12 * 8 + 6 * 4 + 3 * 2
    assert scores.shape == (2, {"rtdetr": 300, "multihead-without-crystals": 5 * anchors}.get(network, 6 * anchors))
    assert 0 <= int(class_ids.min()) <= int(class_ids.max()) < 39


def test_a_single_head_is_taught_nothing_about_classes_that_nobody_looked_for() -> None:
    torch.manual_seed(0)
    head = Detect(nc=39, ch=[8, 8, 8])
    head.stride = torch.tensor([8.0, 16.0, 32.0])
    loss = SingleHeadLoss(SimpleNamespace(parameters=head.parameters, args=GAINS, model=[head]))
    raw = head.forward_head([torch.rand(1, 8, side, side) for side in (8, 4, 2)], **head.one2many)
    raw["scores"].retain_grad()
    known = torch.zeros(1, 39, dtype=torch.bool)
    known[0, RBC] = True
    batch = {
        "img": torch.rand(1, 3, 64, 64), "cls": torch.zeros(0, 1), "bboxes": torch.zeros(0, 4),
        "batch_idx": torch.zeros(0), "known": known,
    }  # fmt: skip
    loss(raw, batch)[0].sum().backward()
    taught = raw["scores"].grad.abs().sum((0, 2)) > 0
    assert taught.nonzero().flatten().tolist() == [RBC]


def query_loss(scores: torch.Tensor) -> float:
    """Loss of RT-DETR's classes for three queries: on the RBC, elsewhere, in a region to ignore; WBC is unknown."""
    loss = QueryLoss(nc=39, use_vfl=True, aux_loss=False)
    loss.known = torch.ones(1, 39, dtype=torch.bool)
    loss.known[0, WBC] = False
    loss.regions = [torch.tensor([[0.8, 0.8, 0.2, 0.2]])]
    boxes = torch.tensor([[[[0.3, 0.3, 0.2, 0.2], [0.5, 0.1, 0.1, 0.1], [0.8, 0.8, 0.1, 0.1]]]])
    objects = {"cls": torch.tensor([RBC]), "bboxes": torch.tensor([[0.3, 0.3, 0.2, 0.2]]), "gt_groups": [1]}
    return float(loss((boxes, scores), objects)["loss_class"])


def test_a_query_is_taught_what_is_known_of_its_place() -> None:
    plain = torch.full((1, 1, 3, 39), -2.0)
    before = query_loss(plain)
    for query, class_id, counts in (
        (0, WBC, True),  # an RBC is no WBC, even where nobody looked for those
        (1, WBC, False),
        (1, CAST, True),
        (2, CAST, False),
    ):
        other = plain.clone()
        other[0, 0, query, class_id] = 1.0
        assert (query_loss(other) != before) == counts, (query, class_id)


class Corner:
    """Finds a box in the upper left quarter of what it is shown."""

    def find(self, pictures: NDArray[np.uint8], *, min_score: float) -> list[Boxes]:
        self.shape = pictures.shape
        return [np.array([[0, 0, 32, 16, 0.9, 3]], np.float32) for _ in pictures]


def test_a_picture_is_fitted_into_the_size_that_a_network_was_trained_at_and_boxes_come_back_in_its_own_px() -> None:
    # 200 x 100 px fitted into 64: 64 x 32, so a box of half its sides is 100 x 50 px.
    finder = Corner()
    (boxes,) = FittedFinder(finder, 64).find(np.zeros((1, 100, 200, 3), np.uint8), min_score=0.1)
    assert finder.shape == (1, 32, 64, 3)
    np.testing.assert_allclose(boxes, [[0, 0, 100, 50, 0.9, 3]], rtol=1e-6)


def test_the_registry_knows_every_network_that_can_be_trained() -> None:
    assert set(NETWORKS) == set(runners.NETWORKS) - {"retinanet"}
    with pytest.raises(ModelError, match="rtdetr comes in the scales l, x, got 'n'"):
        build_network("rtdetr", "n")


def test_a_backbone_of_yolo12_begins_yolo12_alone(tmp_path: Path) -> None:
    save_backbone(build_network("yolo12", "n"), tmp_path / "backbone-n.safetensors")
    assert load_start(build_network("multihead-without-cells", "n"), tmp_path / "backbone-n.safetensors") == "backbone"
    with pytest.raises(ModelError, match="is the backbone of YOLO12-n, and yolo11 has another backbone"):
        load_start(build_network("yolo11", "n"), tmp_path / "backbone-n.safetensors")


def test_rows_are_made_once_go_on_where_they_were_and_are_not_mixed_with_unlike_ones(
    urised: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "compared"
    command = ["compare", "sediment", "--table", "4", "--data", str(urised), "--output", str(run), "--epochs", "1",
               "--items", "2", "--size", "64", "--batch", "2", "--hold-out", "S2", "--device", "cpu",
               "--unlabelled", str(urised / "images")]  # fmt: skip
    assert cli.main([*command, "--row", "yolo12-n", "--row", "multihead-n+sahi+ssl"]) == 0
    table = rows_of(run / "table4.csv")
    assert [row["method"] for row in table] == ["yolo12-n", "multihead-n+sahi+ssl"]
    assert [(row["epochs"], row["crops"], row["seeds"]) for row in table] == [("1", "2", "0")] * 2
    assert (run / "pretrain-n" / "backbone-n.safetensors").is_file()
    assert models.card("sediment-yolo12-n", run / "yolo12-n" / "seed-0").network == "yolo12"
    assert "| yolo12-n |" in capsys.readouterr().out
    weights = run / "yolo12-n" / "seed-0" / "sediment-yolo12-n" / "sediment-yolo12-n.safetensors"
    made = weights.stat().st_mtime_ns
    assert cli.main([*command, "--row", "yolo12-n", "--row", "yolo12-n+sahi"]) == 0  # another search, no training
    assert weights.stat().st_mtime_ns == made
    whole, sliced = rows_of(run / "table4.csv")
    assert (whole["mAP50"], whole["parameters"]) == (sliced["mAP50"], sliced["parameters"])  # 300 px are one slice
    evaluation = json.loads((run / "yolo12-n" / "seed-0" / "sahi" / "evaluation.json").read_text())
    assert evaluation["method"] == "yolo12-n+sahi"
    assert cli.main([*command, "--row", "yolo12-n", "--items", "3"]) == 1
    assert "holds a comparison with another items; give those again" in capsys.readouterr().err


@pytest.mark.parametrize(("table", "row"), [pytest.param(4, "rtdetr-l", marks=pytest.mark.long), (6, "yolo12-n@64")])
def test_rt_detr_and_an_input_size_are_compared(urised: Path, tmp_path: Path, table: int, row: str) -> None:
    run = tmp_path / "compared"
    config = TrainConfig(
        data=urised, output=run, size_px=64, batch=2, epochs=1, items=2, held_out=("S2",), optimizer="AdamW"
    )
    compare.compare(Comparison(config, device="cpu"), methods(table, [row]), table=table)
    (made,) = rows_of(run / f"table{table}.csv")
    assert (made["method"], made["input_px"]) == (row, "64")
    assert float(made["gflops"]) > 0
    assert made["lr0"] == ("0.0001" if row == "rtdetr-l" else "0.00996")


def test_a_row_that_was_interrupted_goes_on_and_a_finished_one_does_not(tmp_path: Path) -> None:
    comparison = Comparison(TrainConfig(data=tmp_path, output=tmp_path / "compared"))
    method = Method("yolo12", "n")
    run = comparison.training(method, 1)
    assert (run.output.relative_to(tmp_path).as_posix(), run.seed) == ("compared/yolo12-n/seed-1", 1)
    assert (run.network, run.resume) == ("yolo12", False)
    run.checkpoint.parent.mkdir(parents=True)
    run.checkpoint.touch()
    assert comparison.training(method, 1).resume
    (run.output / "figures.json").touch()
    assert not comparison.training(method, 1).resume
    whole = comparison.training(replace(method, input_px=640), 1)
    assert (whole.size_px, whole.augmentation.whole) == (640, True)
