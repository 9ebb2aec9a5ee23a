from __future__ import annotations

import hashlib
import io
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from renalcore import cli, models, taxonomy
from renalcore.errors import ModelError
from renalcore.sediment import synthetic
from renalcore.sediment.benchmark import untrained_network
from renalcore.sediment.explain import METHODS, Explainer, Method, grad_cam, hires_cam, overlay, png
from renalcore.sediment.networks import build, save_weights
from renalcore.sediment.predict import DEFAULT_MODEL, SedimentDetector
from renalcore.types import Detections, Field
from tests.renalcore.sediment.squares import RBC, WBC, card, field


def noise(width: int, height: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)


def boxes(*rows: tuple[float, float, float, float], class_id: int = RBC) -> Detections:
    count = len(rows)
    return Detections(np.array(rows, np.float32), np.full(count, 0.5), np.full(count, class_id), taxonomy.NAMES)


@pytest.fixture(scope="module")
def untrained() -> Explainer:
    network = build("n")
    network.load_state_dict(untrained_network(noise(128, 128), seed=0).state_dict())  # into tensors that take gradients
    return Explainer(card(), network)


def test_the_heat_is_the_sum_of_the_maps_weighted_by_their_mean_gradient() -> None:
    maps = torch.tensor([[[1.0, 2.0]], [[3.0, -4.0]]])  # two maps of 1 x 2 cells
    score = (maps.requires_grad_() * torch.tensor([[[1.0, 3.0]], [[0.0, 1.0]]])).sum()
    (gradient,) = torch.autograd.grad(score, maps)
    # The weights are (1 + 3) / 2 = 2 and (0 + 1) / 2 = 0.5: 2 x 1 + 0.5 x 3 = 3.5, and 2 x 2 - 0.5 x 4 = 2.
    assert grad_cam(maps.detach(), gradient).tolist() == [[3.5, 2.0]]


def test_cell_by_cell_a_gradient_that_changes_its_sign_does_not_cancel_out() -> None:
    maps, gradient = torch.tensor([[[1.0, 2.0]]]), torch.tensor([[[3.0, -3.0]]])
    assert hires_cam(maps, gradient).tolist() == [[3.0, 0.0]]  # 3 x 1, and -3 x 2 cut off
    assert grad_cam(maps, gradient).tolist() == [[0.0, 0.0]]  # their mean is 0


def test_what_speaks_against_the_class_is_no_heat() -> None:
    maps = torch.tensor([[[1.0, -1.0]]])
    assert grad_cam(maps, torch.full((1, 1, 2), -2.0)).tolist() == [[0.0, 2.0]]


@pytest.mark.parametrize("method", METHODS)
def test_a_box_map_is_the_formula_on_the_level_of_its_anchor(untrained: Explainer, method: Method) -> None:
    pixels = noise(128, 128)
    network = untrained._network
    with torch.no_grad():
        answer, raw = network(torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255)
    # The likeliest anchor of P3, which has 16 x 16 cells, in the first head (Cells), two cells off the border.
    scores = answer[0, 4 + RBC, : 16 * 16].reshape(16, 16)[2:-2, 2:-2]
    row, column = (place + 2 for place in divmod(int(scores.argmax()), 12))
    x, y, width, height = answer[0, :4, 16 * row + column].tolist()
    found = boxes((x - width / 2, y - height / 2, x + width / 2, y + height / 2))
    features = raw["feats"][0].requires_grad_()
    local = network.model[-1].class_ids[0].index(RBC)
    (gradient,) = torch.autograd.grad(network.model[-1].heads[0].cv3[0](features)[0, local, row, column], features)
    touched = (gradient[0] != 0).any(dim=0)
    seen = touched[row - 2 : row + 3, column - 2 : column + 3]
    assert (int(touched.sum()), int(seen.sum())) == (25, 25)  # two 3 x 3 convolutions see 5 x 5 cells
    cells = METHODS[method](features[0].detach(), gradient[0]) * touched
    expected = torch.nn.functional.interpolate(cells[None, None], scale_factor=8, mode="bilinear")[0, 0].numpy()
    (of_box,) = Explainer(card(), network, method=method).explain(field(pixels), found).boxes
    assert of_box.heat == pytest.approx(expected / expected.max(), abs=1e-4)


def test_maps_are_as_large_as_the_field_and_lie_between_0_and_1(untrained: Explainer) -> None:
    explained = untrained.explain(field(noise(100, 75)), boxes((10, 10, 40, 40), (60, 30, 100, 75)))
    heats = [*(of_box.heat for of_box in explained.boxes), *(of_class.heat for of_class in explained.classes)]
    assert [(heat.shape, heat.dtype, heat.min() >= 0, heat.max() <= 1) for heat in heats] == [
        ((75, 100), np.float32, True, True)
    ] * 3
    assert explained.boxes[1].box_px == (60, 30, 100, 75)


def test_each_class_has_one_map_of_all_its_boxes(untrained: Explainer) -> None:
    both = Detections(
        np.array([[10, 10, 40, 40], [50, 50, 80, 80], [80, 10, 110, 40]]), np.full(3, 0.5), [WBC, RBC, WBC],
        taxonomy.NAMES,
    )  # fmt: skip
    explained = untrained.explain(field(noise(128, 96)), both)
    assert [(of.class_name, of.boxes_px[:, 0].tolist()) for of in explained.classes] == [
        ("RBC", [50]),
        ("WBC", [10, 80]),
    ]
    assert [of.class_name for of in explained.boxes] == ["WBC", "RBC", "WBC"]


def test_a_field_without_boxes_has_no_maps(untrained: Explainer) -> None:
    explained = untrained.explain(field(noise(64, 64)), Detections.empty(taxonomy.NAMES))
    assert (explained.boxes, explained.classes) == ((), ())


def test_boxes_of_another_models_classes_are_refused(untrained: Explainer) -> None:
    with pytest.raises(ValueError, match="other classes"):
        untrained.explain(field(noise(64, 64)), Detections.empty(("Calcium oxalate",)))


def test_of_a_large_field_only_the_slices_with_boxes_are_computed(untrained: Explainer) -> None:
    seen: list[tuple[int, ...]] = []
    hook = untrained._network.model[0].register_forward_pre_hook(lambda _, given: seen.append(tuple(given[0].shape)))
    small = Explainer(card(input=models.InputScale(96, 0.25)), untrained._network)
    try:
        explained = small.explain(field(noise(3000, 2000)), boxes((2900, 1900, 2930, 1930), (2910, 1910, 2940, 1940)))
    finally:
        hook.remove()
    assert seen == [(1, 3, 96, 96)]
    assert all(of_box.window.size <= (7 * 32) ** 2 for of_box in explained.boxes)
    left, top, right, bottom = explained.boxes[0].place_px
    assert (left >= 2904 - 96, top >= 1904 - 96, right <= 3000, bottom <= 2000) == (True,) * 4


def test_memory_grows_by_the_map_of_a_class_only(untrained: Explainer) -> None:
    pixels = np.zeros((4000, 4000, 3), np.uint8)
    small = Explainer(card(input=models.InputScale(96, 0.25)), untrained._network)
    found = boxes(
        *((10.0 + 60 * index, 20, 30.0 + 60 * index, 40) for index in range(6))
    )  # 20 px fit into the overlap, 24
    tracemalloc.start()
    try:
        small.explain(field(pixels), found)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 3 * 4000 * 4000 * 4  # the map, and the same scaled; six whole maps of boxes would be twice this


def test_a_box_larger_than_a_slice_is_explained_on_the_field_scaled_down(untrained: Explainer) -> None:
    small = Explainer(card(input=models.InputScale(96, 0.25)), untrained._network)
    (of_box,) = small.explain(field(noise(288, 192)), boxes((10, 10, 280, 180))).boxes
    assert of_box.heat.shape == (192, 288)


def test_heat_moves_a_field_towards_the_colours_of_viridis() -> None:
    grey = np.full((1, 2, 3), 100, np.uint8)
    shown = overlay(grey, np.array([[0.0, 1.0]], np.float32), opacity=1)
    assert shown.tolist() == [[[68, 1, 84], [253, 231, 37]]]  # viridis from end to end
    assert overlay(grey, np.zeros((1, 2), np.float32), opacity=0).tolist() == grey.tolist()


def test_as_a_picture_a_map_is_clear_where_there_is_no_heat_and_opaque_where_most_is() -> None:
    with Image.open(io.BytesIO(png(np.array([[0.0, 0.25, 1.0]], np.float32)))) as picture:
        shown = np.asarray(picture.convert("RGBA"))
    assert shown[0, :, 3].tolist() == [0, 128, 255]  # 255 x the root of 0, 64 / 255 and 1
    assert shown[0, 2, :3].tolist() == [253, 231, 37]


def test_a_map_of_another_size_is_not_laid_over_a_field() -> None:
    with pytest.raises(ValueError, match="as large as the field"):
        overlay(np.zeros((4, 4, 3), np.uint8), np.zeros((2, 2), np.float32))


def test_openvino_is_refused_for_it_has_no_gradients() -> None:
    with pytest.raises(ModelError, match="--device cpu"):
        Explainer.load(device="openvino")


def test_a_model_of_another_network_has_no_heat_maps(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "card.json").write_text(card(key="other", network="retinanet").to_json())
    with pytest.raises(ModelError, match="other has no heat maps"):
        Explainer.load("other", root=tmp_path)


def test_the_heat_of_an_erythrocyte_lies_on_the_erythrocyte() -> None:
    recipe = synthetic.Recipe("red cells", {"RBC": (15, 15)})
    made = synthetic.render(480, 384, rng=np.random.default_rng(3), um_per_px=0.25, recipe=recipe)
    shown = Field("rendered.png", made.pixels)
    found = SedimentDetector.load(DEFAULT_MODEL, device="cpu").predict(shown, min_score=0.25)
    red = found.where(found.class_ids == RBC)
    assert len(red) >= 5
    explained = Explainer.load(DEFAULT_MODEL, device="cpu").explain(shown, red)
    inside = [share_within(of_box.heat, of_box.box_px) for of_box in explained.boxes]
    assert min(inside) >= 0.8, inside


def share_within(heat: np.ndarray, box: tuple[float, float, float, float]) -> float:
    """Share of the heat within a box twice as wide and high."""
    x1, y1, x2, y2 = box
    wider, higher = (x2 - x1) / 2, (y2 - y1) / 2
    rows = slice(max(0, round(y1 - higher)), round(y2 + higher))
    columns = slice(max(0, round(x1 - wider)), round(x2 + wider))
    return float(heat[rows, columns].sum() / heat.sum())


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    (root / "squares").mkdir()
    weights = root / "squares" / "squares.safetensors"
    save_weights(untrained_network(noise(128, 128), seed=0), weights)
    sha256 = hashlib.sha256(weights.read_bytes()).hexdigest()
    (root / "squares" / "card.json").write_text(card(sha256=sha256).to_json())
    return root


def explain(registry: Path, output: Path, *arguments: str) -> int:
    options = ["--output", str(output), "--models", str(registry), "--model", "squares", "--device", "cpu"]
    return cli.main(["explain", "sediment", *arguments, *options])


def test_the_command_writes_a_picture_and_the_maps_and_names_what_it_cannot_read(
    registry: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(noise(96, 64)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_text("no picture")
    output = tmp_path / "why"
    assert explain(registry, output, str(tmp_path / "a.png"), str(tmp_path / "b.png"), "--min-score", "0.2") == 1
    assert "b.png" in capsys.readouterr().err
    assert sorted(path.name for path in output.iterdir()) == ["a.npz", "a.png"]
    with Image.open(output / "a.png") as drawn:
        assert drawn.size == (3 * 96 + 2 * 8, 64 + 24)
    maps = np.load(output / "a.npz")
    count = len(maps["boxes_px"])
    assert count > 0
    assert maps["places_px"].shape == (count, 4)
    assert {name for name in maps.files if name.startswith("class ")} == {f"class {name}" for name in maps["names"]}
    assert all(maps[name].shape == (64, 96) for name in maps.files if name.startswith("class "))


def test_the_command_explains_one_class_on_request(registry: Path, tmp_path: Path) -> None:
    Image.fromarray(noise(128, 96)).save(tmp_path / "a.png")
    assert explain(registry, tmp_path / "why", str(tmp_path / "a.png"), "--min-score", "0.2", "--class", "WBC") == 0
    assert set(np.load(tmp_path / "why" / "a.npz")["names"]) == {"WBC"}  # two of the 131 boxes


def test_the_command_writes_nothing_into_the_folder_of_the_pictures(
    registry: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture, link = tmp_path / "a.png", tmp_path / "links" / "a.png"
    Image.fromarray(noise(128, 96)).save(picture)
    before = picture.read_bytes()
    link.parent.mkdir()
    link.symlink_to(picture)
    for named, output in ((picture, tmp_path), (link, tmp_path), (link, link.parent)):
        assert explain(registry, output, str(named)) == 1
        assert f"{named}: lies in the folder of the results" in capsys.readouterr().err
    assert (picture.read_bytes(), sorted(path.name for path in tmp_path.iterdir())) == (before, ["a.png", "links"])


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["a.png", "other/a.jpg"], "several inputs are called a"),
        (["a.png", "--class", "Unicorn"], "'Unicorn' is not one of the 39 sediment classes"),
    ],
)
def test_the_command_refuses_what_it_cannot_answer(
    registry: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], reason: str
) -> None:
    assert explain(registry, tmp_path / "why", *arguments) == 1
    assert reason in capsys.readouterr().err
