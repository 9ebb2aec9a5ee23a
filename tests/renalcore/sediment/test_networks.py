from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ultralytics.utils.nms import non_max_suppression

from renalcore import taxonomy
from renalcore.errors import ModelError
from renalcore.sediment.losses import HEAD_WEIGHTS, MultiHeadLoss
from renalcore.sediment.names import IGNORE
from renalcore.sediment.networks import MultiHeadDetectionModel, build, load_weights, save_weights
from renalcore.taxonomy import Group

RBC, WBC = taxonomy.class_id("RBC"), taxonomy.class_id("WBC")
BACTERIA, CALCIUM_OXALATE = taxonomy.class_id("Bacteria"), taxonomy.class_id("Calcium oxalate")


@pytest.fixture
def network() -> MultiHeadDetectionModel:
    torch.manual_seed(0)
    model = build("n")
    model.args = SimpleNamespace(box=5.5, cls=0.699, dfl=1.43)
    return model


def batch(*objects: tuple[int, tuple[float, float, float, float]], known: tuple[int, ...]) -> dict[str, torch.Tensor]:
    mask = torch.zeros(1, 39, dtype=torch.bool)
    mask[0, list(known)] = True
    return {
        "img": torch.rand(1, 3, 128, 128),
        "batch_idx": torch.zeros(len(objects)),
        "cls": torch.tensor([[float(class_id)] for class_id, _ in objects]).view(-1, 1),
        "bboxes": torch.tensor([box for _, box in objects]).view(-1, 4),
        "known": mask,
    }


def test_six_heads_answer_in_one_space_of_39_classes(network: MultiHeadDetectionModel) -> None:
    with torch.inference_mode():
        decoded, raw = network.eval()(torch.rand(2, 3, 128, 128))
    anchors = 16 * 16 + 8 * 8 + 4 * 4
    assert decoded.shape == (2, 4 + 39, 6 * anchors)
    assert [head["scores"].shape[1] for head in raw["heads"]] == [9, 6, 13, 6, 4, 1]
    cells = decoded[:, 4:, :anchors]
    others = [index for index in range(39) if index not in taxonomy.ids_of(Group.CELLS)]
    assert (cells[:, others] == 0).all()
    assert (cells[:, list(taxonomy.ids_of(Group.CELLS))] > 0).all()


def test_ultralytics_own_nms_takes_the_output(network: MultiHeadDetectionModel) -> None:
    with torch.no_grad():
        decoded = network.eval()(torch.rand(1, 3, 128, 128))[0].clone()
    decoded[0, :4, 7] = torch.tensor([64.0, 64.0, 30.0, 30.0])
    decoded[0, 4 + RBC, 7] = 0.9
    (kept,) = non_max_suppression(decoded, conf_thres=0.5)
    assert kept[:, 5].int().tolist() == [RBC]


@pytest.mark.parametrize("scale", ["n", "s"])
def test_each_scale_trains_a_step(scale: str) -> None:
    model = build(scale)  # type: ignore[arg-type]
    model.args = SimpleNamespace(box=5.5, cls=0.699, dfl=1.43)
    data = batch((RBC, (0.5, 0.5, 0.25, 0.25)), known=tuple(range(39)))
    loss, parts = model.init_criterion()(model(data["img"]), data)
    loss.sum().backward()
    assert set(parts) == {"box_loss", "cls_loss", "dfl_loss"}
    assert all(torch.isfinite(part) for part in parts.values())
    assert model.model[0].conv.weight.grad.abs().sum() > 0


def test_an_unknown_scale_is_refused() -> None:
    with pytest.raises(ModelError, match="scales n, s, m, l, x, got 'q'"):
        build("q")  # type: ignore[arg-type]


def test_the_lambdas_are_those_of_table_3() -> None:
    assert HEAD_WEIGHTS[Group.ARTIFACT] == 0.5
    assert HEAD_WEIGHTS[Group.CASTS] == HEAD_WEIGHTS[Group.OTHERS] == 1.5
    assert HEAD_WEIGHTS[Group.CELLS] == HEAD_WEIGHTS[Group.CRYSTALS] == HEAD_WEIGHTS[Group.MICROORGANISMS] == 1.0


def test_a_class_nobody_looked_for_gets_no_gradient(network: MultiHeadDetectionModel) -> None:
    data = batch(known=(RBC,))
    network.zero_grad()
    network.init_criterion()(network(data["img"]), data)[0].sum().backward()
    cells, _, crystals, *_ = network.model[-1].heads
    rows = cells.cv3[0][-1].bias.grad
    assert rows[taxonomy.ids_of(Group.CELLS).index(RBC)] > 0
    assert rows[taxonomy.ids_of(Group.CELLS).index(WBC)] == 0
    assert crystals.cv3[0][-1].bias.grad.abs().sum() == 0


def test_a_labelled_object_is_of_no_other_class_even_where_that_class_is_unknown(
    network: MultiHeadDetectionModel,
) -> None:
    data = batch((RBC, (0.5, 0.5, 0.25, 0.25)), known=())  # a cell 32 px across in the middle
    known = network.init_criterion().known(network(data["img"])["feats"], data)[0]
    middle, corner = 8 * 16 + 8, 0  # anchors of stride 8
    assert known[middle].all()
    assert not known[corner].any()
    coarse = 256 + 64 + 2 * 4 + 2  # stride 32: the cell is only one stride across
    assert not known[coarse].any()


def test_nothing_is_known_inside_an_ignored_region(network: MultiHeadDetectionModel) -> None:
    data = batch((IGNORE, (0.5, 0.5, 0.25, 0.25)), known=tuple(range(39)))
    known = network.init_criterion().known(network(data["img"])["feats"], data)[0]
    assert not known[8 * 16 + 8].any()
    assert known[0].all()


def test_the_total_is_the_lambda_weighted_sum_of_the_heads(network: MultiHeadDetectionModel) -> None:
    data = batch((RBC, (0.3, 0.3, 0.25, 0.25)), (BACTERIA, (0.7, 0.7, 0.1, 0.1)), known=tuple(range(39)))
    criterion, raw = network.init_criterion(), network(data["img"])
    known = criterion.known(raw["feats"], data)
    parts = [
        part.gained({**head, "feats": raw["feats"]}, data, known)
        for part, head in zip(criterion.parts, raw["heads"], strict=True)
    ]
    expected = parts[0] + 1.5 * parts[1] + parts[2] + parts[3] + 1.5 * parts[4] + 0.5 * parts[5]
    torch.testing.assert_close(criterion(raw, data)[0], expected)


def test_under_the_batch_normaliser_each_object_counts_alike(network: MultiHeadDetectionModel) -> None:
    cells = [(RBC, (0.2 + 0.2 * i, 0.3, 0.2, 0.2)) for i in range(4)]
    data = batch(*cells, (BACTERIA, (0.7, 0.7, 0.1, 0.1)), known=tuple(range(39)))
    raw = network(data["img"])
    criterion = MultiHeadLoss(network, normaliser="batch")
    total = criterion(raw, data)[0]
    known = criterion.known(raw["feats"], data)
    parts, positives = [], []
    for part, head in zip(criterion.parts, raw["heads"], strict=True):
        parts.append(part.gained({**head, "feats": raw["feats"]}, data, known))
        positives.append(part.bce.positives)
    weights = (1, 1.5, 1, 1, 1.5, 0.5)
    expected = sum(w * p * n for w, p, n in zip(weights, parts, positives, strict=True)) / sum(positives)
    torch.testing.assert_close(total, expected)


def test_weights_survive_a_round_trip_in_half_precision(network: MultiHeadDetectionModel, tmp_path: Path) -> None:
    save_weights(network, tmp_path / "w.safetensors")
    other = build("n")
    load_weights(other, tmp_path / "w.safetensors")
    picture = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        first, second = network.eval()(picture)[0], other.eval()(picture)[0]
    np.testing.assert_allclose(first.numpy(), second.numpy(), rtol=0.05, atol=0.5)
    assert (tmp_path / "w.safetensors").stat().st_size < 12e6


def test_weights_of_another_scale_are_refused(network: MultiHeadDetectionModel, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"stranger": torch.zeros(1)}, tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match=r"w\.safetensors does not fit this network"):
        load_weights(network, tmp_path / "w.safetensors")
