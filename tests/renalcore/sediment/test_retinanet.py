from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from renalcore import cli, models, taxonomy
from renalcore.engine import devices
from renalcore.errors import InputError, ModelError
from renalcore.io.image import read_field
from renalcore.metrics import detection
from renalcore.metrics.detection import Matches
from renalcore.sediment import card as cards
from renalcore.sediment.data import Augmentation, SedimentDataset
from renalcore.sediment.evaluate import Counts
from renalcore.sediment.names import IGNORE
from renalcore.sediment.networks import save_weights
from renalcore.sediment.predict import SedimentDetector
from renalcore.sediment.readers import LabelledField, read_fields
from renalcore.sediment.retinanet import CompactRetinaNet, CrystalAnchors, PartialLabelHead, build
from renalcore.sediment.retinanet_train import KEY, PAPER, CaoxConfig, crystal_fields, targets, train
from renalcore.sediment.synthetic import Light, Recipe, render
from renalcore.types import Field

CAOX = taxonomy.class_id("Calcium oxalate")
RBC = taxonomy.class_id("RBC")
AS_THEY_ARE = Augmentation(
    scale=(1.0, 1.0),
    grey=0.0,
    coloured=0.0,
    optics=False,
    flip=0.0,
    turns=False,
    whole=True,
    translate=0.0,
    paste=0.0,
)


def wanted(*boxes: tuple[float, ...], ignored: tuple[tuple[float, ...], ...] = (), known: bool = True) -> dict:
    """A target of RetinaNet's loss."""
    return {
        "boxes": torch.tensor(boxes).view(-1, 4),
        "labels": torch.zeros(len(boxes), dtype=torch.long),
        "ignored": torch.tensor(ignored).view(-1, 4),
        "known": torch.tensor(known),
    }


def classification_loss(anchors: torch.Tensor, matched: list[int], target: dict) -> float:
    """The loss of a head whose scores are all one half."""
    head = PartialLabelHead(32, 9, num_classes=1)
    outputs = {"cls_logits": torch.zeros(1, len(anchors), 1), "bbox_regression": torch.zeros(1, len(anchors), 4)}
    return float(head.compute_loss([target], outputs, [anchors], [torch.tensor(matched)])["classification"])


ANCHORS = torch.tensor([[0.0, 0, 20, 20], [20, 0, 40, 20], [40, 0, 60, 20], [60, 0, 80, 20]])
FOUND, ABSENT = 0.25 * 0.5**2 * math.log(2), 0.75 * 0.5**2 * math.log(2)
"""Focal loss of a score of 0.5 (alpha 0.25, gamma 2) on a crystal and on background."""


def test_the_focal_loss_is_the_papers() -> None:
    # FL(p_t) = -alpha_t (1 - p_t)^2 log(p_t): one anchor on a crystal, three on background, by one crystal.
    loss = classification_loss(ANCHORS, [0, -1, -1, -1], wanted((0, 0, 20, 20)))
    assert loss == pytest.approx((FOUND + 3 * ABSENT) / 1, rel=1e-6)


def test_a_field_in_which_nobody_looked_for_crystals_gives_no_background() -> None:
    assert classification_loss(ANCHORS, [-1, -1, -1, -1], wanted(known=False)) == 0
    loss = classification_loss(ANCHORS, [0, -1, -1, -1], wanted((0, 0, 20, 20), known=False))
    assert loss == pytest.approx(FOUND, rel=1e-6)  # the crystal that is boxed all the same counts


def test_regions_to_ignore_are_no_background() -> None:
    # The region holds the centres of the anchors at 30 and 50 px, not those at 10 and 70 px.
    loss = classification_loss(ANCHORS, [0, -1, -1, -1], wanted((0, 0, 20, 20), ignored=((25, 0, 55, 20),)))
    assert loss == pytest.approx(FOUND + ABSENT, rel=1e-6)


def test_anchors_stand_where_their_cells_are_whatever_the_size_of_the_picture() -> None:
    # A picture of 320 px has levels of 40, 20, 10, 5 and 3 cells: the second cell of P7 begins at 128 px, not at 106.
    anchors = CrystalAnchors()
    levels = [torch.zeros(1, 1, side, side, dtype=torch.bfloat16) for side in (40, 20, 10, 5, 3)]
    boxes = anchors.over(levels)
    assert boxes.shape == (9 * (1600 + 400 + 100 + 25 + 9), 4)
    assert boxes.dtype == torch.float32
    of_p7 = boxes[-9 * 9 :].view(9, 9, 4)
    assert ((of_p7[1, 0, :2] + of_p7[1, 0, 2:]) / 2).tolist() == [128, 0]
    smallest = boxes[: 9 * 1600].view(1600, 9, 4)[0, 3]  # square, the first size of the first level
    assert (smallest[2:] - smallest[:2]).tolist() == [16, 16]


def test_a_crystal_of_twenty_pixels_has_an_anchor_that_fits() -> None:
    levels = [torch.zeros(1, 1, side, side) for side in (8, 4, 2, 1, 1)]
    crystal = np.array([[21.0, 22, 41, 42]])
    assert detection.overlaps(CrystalAnchors().over(levels).double().numpy(), crystal).max() > 0.5


def test_pixels_go_in_and_torchvisions_own_boxes_come_out() -> None:
    torch.manual_seed(0)
    model = build("resnet18").eval()
    torch.nn.init.zeros_(model.head.classification_head.cls_logits.bias)  # scores about one half
    model.score_thresh, model.nms_thresh, model.topk_candidates, model.detections_per_img = 0.0, 1.0, 10**6, 10**6
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    model.transform.min_size, model.transform.max_size = (64,), 64
    with torch.inference_mode():
        boxes, scores, class_ids = CompactRetinaNet(model)(torch.from_numpy(pixels)[None])
        (theirs,) = model([torch.from_numpy(pixels).permute(2, 0, 1) / 255])
    best = scores[0].argmax()
    torch.testing.assert_close(scores[0, best], theirs["scores"][0])
    torch.testing.assert_close(boxes[0, best].clamp(0, 64), theirs["boxes"][0])
    assert not class_ids.any()


def test_a_backbone_that_is_not_there_is_refused() -> None:
    with pytest.raises(ModelError, match="resnet18 or resnet50, got 'resnet34'"):
        build("resnet34")


def test_the_papers_network_takes_a_step() -> None:
    # 256 channels and a ResNet-50: 32.2 million parameters, 64 MB in fp16.
    model = build("resnet50")
    assert sum(each.numel() for each in model.parameters()) == pytest.approx(32.2e6, rel=0.01)
    losses = model([torch.rand(3, 64, 64), torch.rand(3, 64, 64)], [wanted((10, 10, 40, 40)), wanted()])
    assert set(losses) == {"classification", "bbox_regression"}
    sum(losses.values()).backward()


def labelled(*class_ids: int, known: tuple[int, ...]) -> LabelledField:
    boxes = np.tile(np.array([[10, 10, 30, 30]], np.float32), (len(class_ids), 1))
    mask = np.zeros(len(taxonomy.CLASSES), bool)
    mask[list(known)] = True
    return LabelledField(Path("a.png"), boxes, np.array(class_ids, np.int64), mask, "S1", True)


def test_only_fields_that_tell_of_crystals_are_trained_on_and_only_their_crystals() -> None:
    fields = [
        labelled(CAOX, RBC, IGNORE, known=(CAOX, RBC)),
        labelled(RBC, known=(CAOX, RBC)),  # searched, and none there: background
        labelled(RBC, known=(RBC,)),  # nobody looked for crystals
        labelled(CAOX, RBC, known=(RBC,)),  # not searched, but one is boxed
    ]
    assert [each.class_ids.tolist() for each in crystal_fields(fields)] == [[CAOX, IGNORE], [], [CAOX]]


def test_a_batch_becomes_targets_in_pixels() -> None:
    batch = {
        "img": torch.zeros(2, 3, 64, 128, dtype=torch.uint8),
        "cls": torch.tensor([[CAOX], [IGNORE], [CAOX]]),
        "bboxes": torch.tensor([[0.5, 0.5, 0.25, 0.5], [0.1, 0.1, 0.2, 0.2], [0.5, 0.25, 1.0, 0.5]]),
        "batch_idx": torch.tensor([0, 0, 1]),
        "known": torch.zeros(2, len(taxonomy.CLASSES), dtype=torch.bool),
    }
    batch["known"][1, CAOX] = True
    first, second = targets(batch)
    assert (first["boxes"].tolist(), second["boxes"].tolist()) == ([[48, 16, 80, 48]], [[0, 0, 128, 32]])
    torch.testing.assert_close(first["ignored"], torch.tensor([[0.0, 0, 25.6, 12.8]]))
    assert (bool(first["known"]), bool(second["known"])) == (False, True)


def test_the_papers_augmentations_move_pixels_and_leave_their_colours(tmp_path: Path) -> None:
    picture = np.zeros((64, 64, 3), np.uint8)
    picture[:32] = (30, 60, 200)
    cv2.imwrite(str(tmp_path / "a.png"), picture[:, :, ::-1])
    field = replace(labelled(CAOX, known=(CAOX,)), path=tmp_path / "a.png")
    crops = SedimentDataset([field], size_px=64, augmentation=replace(PAPER, scale=(1.0, 1.0)), items=8)
    items = [crops[0] for _ in range(20)]  # each time another crop
    colours = {tuple(colour) for item in items for colour in item["img"].flatten(1).T.tolist()}
    assert {(30, 60, 200), (0, 0, 0)} <= colours
    turned = {tuple(item["img"][2, [0, 0, -1], [0, -1, 0]].tolist()) for item in items}
    assert len(turned) > 2


def test_the_count_table_is_the_papers() -> None:
    # Table I: 344 crystals, 258 correctly identified, 32 false recognitions; 258 / 344 = 0.75, printed as 0.74. What
    # scores below the reporting threshold does not count, nor do the boxes in a region to ignore.
    scores = np.concatenate((np.full(258 + 32 + 5, 0.9), np.full(40, 0.1)))
    hit = np.concatenate((np.ones(258, bool), np.zeros(32 + 5, bool), np.ones(40, bool)))
    ignored = np.zeros(len(hit), bool)
    ignored[290:295] = True
    table = Counts.of("Calcium oxalate", Matches(np.array([0.5]), scores, hit[None], ignored[None], 344), 0.5)
    assert (table.total, table.correct, table.false, table.missed) == (344, 258, 32, 344 - 258)
    assert table.accuracy == 258 / 344 == pytest.approx(0.74, abs=0.011)
    nothing = Matches(np.array([0.5]), np.zeros(0), np.zeros((1, 0), bool), np.zeros((1, 0), bool), 0)
    assert math.isnan(Counts.of("RBC", nothing, 0.5).accuracy)


@pytest.fixture(scope="module")
def crystals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three rendered fields of 96 px with a crystal of 30 px each, two of them for training."""
    folder = tmp_path_factory.mktemp("crystals")
    recipe = Recipe("one crystal", {"Calcium oxalate": (1, 1)}, debris=0.0, light=Light())
    for name, seed in (("a", 2), ("b", 3), ("c", 0)):
        field = render(96, 96, rng=np.random.default_rng(seed), um_per_px=0.25, recipe=recipe)
        cv2.imwrite(str(folder / f"{name}.png"), field.pixels[:, :, ::-1])
        ((x1, y1, x2, y2),) = (field.boxes_px / 96).tolist()
        (folder / f"{name}.txt").write_text(f"0 {(x1 + x2) / 2} {(y1 + y2) / 2} {x2 - x1} {y2 - y1}\n")
    (folder / "classes.txt").write_text("CaOx\n")
    (folder / "manifest.csv").write_text("image,group,split\na.png,S1,train\nb.png,S2,train\nc.png,S3,val\n")
    return folder


@pytest.fixture
def small_run(crystals: Path, tmp_path: Path) -> CaoxConfig:
    """A run of two steps an epoch that validates at its end only."""
    return CaoxConfig(
        data=crystals, output=tmp_path / "run", backbone="resnet18", size_px=96, batch=2, items=4, epochs=1, warmup=5,
        augmentation=AS_THEY_ARE, lr0=1e-3, bf16=False, workers=0, validate_every=0,
    )  # fmt: skip


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as lines:
        return list(csv.DictReader(lines))


def test_training_lowers_the_loss_until_the_crystals_it_saw_are_found(small_run: CaoxConfig, crystals: Path) -> None:
    weights = train(replace(small_run, items=16, epochs=4))
    rows = rows_of(small_run.output / "metrics.csv")
    loss = [float(row["train/cls_loss"]) + float(row["train/box_loss"]) for row in rows]
    assert loss[-1] < 0.5 * loss[0]
    made = models.card(KEY, small_run.output)  # the run is a folder of models
    assert models.weights_path(made, small_run.output) == weights
    assert (made.classes, made.network, made.scale) == (("Calcium oxalate",), "retinanet", "resnet18")
    assert made.validated_classes == ()
    detector = SedimentDetector.load(KEY, device="cpu", root=small_run.output)
    for seen in read_fields(crystals).split("train"):
        found = detector.predict(read_field(seen.path, name=seen.path.name))
        assert found.scores[0] > 0.5
        assert found.names[0] == "Calcium oxalate"
        assert detection.overlaps(seen.boxes_px.astype(float), found.boxes_px[:1].astype(float)).max() > 0.5


def test_a_killed_run_resumes_with_its_weights_its_rates_and_its_table(small_run: CaoxConfig) -> None:
    with pytest.raises(InputError, match="holds no checkpoint to resume from"):
        train(replace(small_run, resume=True))
    train(small_run)
    table = small_run.output / "metrics.csv"
    table.write_text(table.read_text() + "2,9,9,9,nan,nan,nan,9\n")  # killed between the row and its checkpoint
    with pytest.raises(InputError, match="is finished after 1 epochs, there is nothing to resume"):
        train(replace(small_run, resume=True))
    before, told = small_run.checkpoint.read_bytes(), small_run.output / "figures.json"
    figures = json.loads(told.read_text())
    assert (figures["epoch"], figures["fields"]) == (1, 1)
    told.unlink()  # killed between the checkpoint and the end
    train(replace(small_run, resume=True))
    assert json.loads(told.read_text()) == figures
    assert small_run.checkpoint.read_bytes() == before
    with pytest.raises(InputError, match="trains a resnet18; resume it with --backbone resnet18"):
        train(replace(small_run, resume=True, backbone="resnet50", epochs=3))
    train(replace(small_run, resume=True, epochs=2, lr0=0.0))
    assert [row["epoch"] for row in rows_of(table)] == ["1", "2"]
    kept = torch.load(small_run.checkpoint, weights_only=True)
    assert kept["progress"][:2] == (2, 4)  # two epochs of two steps
    assert kept["optimizer"]["state"][0]["step"] == 4


def test_a_run_ends_by_the_clock_and_is_measured_on_the_sample_held_out(small_run: CaoxConfig) -> None:
    train(replace(small_run, hours=1e-9, items=100, held_out=("S2",)))
    assert torch.load(small_run.checkpoint, weights_only=True)["progress"][1] == 1
    (row,) = rows_of(small_run.output / "metrics.csv")
    figures = json.loads((small_run.output / "figures.json").read_text())
    assert float(row["metrics/AP50"]) == pytest.approx(figures["AP50"], abs=1e-4)
    assert figures["total"] == figures["correct"] + figures["missed"] > 0
    assert (small_run.output / "curves.png").is_file()


def test_fields_without_a_crystal_cannot_be_trained_on(urised: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no Calcium oxalate is boxed in the training fields of"):
        train(CaoxConfig(data=urised, output=tmp_path / "run"))


def write_voc(folder: Path) -> None:
    """Two fields in the paper's form, Pascal VOC, with a crystal each, one of them for validation."""
    (folder / "train.txt").write_text("a\n")
    (folder / "val.txt").write_text("b\n")
    for name in ("a", "b"):
        cv2.imwrite(str(folder / f"{name}.png"), np.full((96, 96, 3), 150, np.uint8))
        (folder / f"{name}.xml").write_text(
            f"<annotation><filename>{name}.png</filename><size><width>96</width><height>96</height><depth>3</depth>"
            "</size><object><name>CAOX</name><difficult>0</difficult><bndbox><xmin>20</xmin><ymin>20</ymin>"
            "<xmax>50</xmax><ymax>50</ymax></bndbox></object></annotation>"
        )


def test_the_command_line_trains_on_voc_files_then_predicts_and_counts(tmp_path: Path) -> None:
    data, run = tmp_path / "voc", tmp_path / "run"
    data.mkdir()
    write_voc(data)
    status = cli.main(
        ["train", "caox", "--data", str(data), "--output", str(run), "--backbone", "resnet18", "--epochs", "1",
         "--items", "2", "--size", "64", "--batch", "2", "--recipe", "paper", "--licence", "ours"]
    )  # fmt: skip
    assert status == 0
    assert models.card(KEY, run).training_data[0].licence == "ours"
    model = ["--model", KEY, "--models", str(run), "--device", "cpu"]
    assert cli.main(["predict", "sediment", str(data / "a.png"), "--output", str(tmp_path / "p.json"), *model]) == 0
    found = json.loads((tmp_path / "p.json").read_text())
    assert found["model"] == KEY
    assert {row["category"] for row in found["predictions"]} <= {"Calcium oxalate"}
    tables = tmp_path / "tables"
    command = ["evaluate", "sediment", "--data", str(data), "--output", str(tables), *model]
    assert cli.main([*command, "--write-card"]) == 0
    (row,) = rows_of(tables / "counts.csv")
    assert (row["class"], row["total"]) == ("Calcium oxalate", "1")
    assert cli.main(["train", "caox", "--data", str(tmp_path / "none"), "--output", str(run)]) == 1


@pytest.fixture
def untrained(tmp_path: Path) -> Path:
    """A folder of models with a ResNet-18 RetinaNet that nobody trained."""
    folder = tmp_path / KEY
    folder.mkdir()
    torch.manual_seed(0)
    model = build("resnet18")
    torch.nn.init.zeros_(model.head.classification_head.cls_logits.bias)
    save_weights(model, folder / f"{KEY}.safetensors")
    made = cards.unmeasured(
        KEY, folder / f"{KEY}.safetensors", title="t", architecture="a", scale="resnet18", training_data=(),
        classes=("Calcium oxalate",), network="retinanet",
    )  # fmt: skip
    models.write_card(made, folder)
    return tmp_path


def test_openvino_finds_what_torch_finds_at_another_size_than_it_was_converted_at(
    untrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if devices.absence("openvino") is not None:
        pytest.skip("openvino is not installed")
    monkeypatch.setenv("RENAL_DATA", str(tmp_path))
    field = Field("a.png", np.random.default_rng(0).integers(0, 256, (96, 160, 3), dtype=np.uint8))
    by_torch, by_openvino = (
        SedimentDetector.load(KEY, device=device, root=untrained).predict(field) for device in ("cpu", "openvino")
    )
    np.testing.assert_allclose(by_openvino.scores, by_torch.scores, atol=1e-4)
    np.testing.assert_allclose(by_openvino.boxes_px, by_torch.boxes_px, atol=0.1)


def test_a_card_that_contradicts_its_network_is_refused(untrained: Path) -> None:
    own = models.card(KEY, untrained)
    models.write_card(replace(own, network="yolo13"), untrained / KEY)
    with pytest.raises(ModelError, match="needs the network 'yolo13'; this version has multihead, retinanet"):
        SedimentDetector.load(KEY, device="cpu", root=untrained)
    models.write_card(replace(own, network="multihead"), untrained / KEY)
    with pytest.raises(ModelError, match="names other classes than the network 'multihead' finds"):
        SedimentDetector.load(KEY, device="cpu", root=untrained)
