from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from renalcore import models, taxonomy
from renalcore.engine import backends, devices
from renalcore.errors import DeviceUnavailable, ModelError, UnknownName
from renalcore.sediment import runners
from renalcore.sediment.benchmark import untrained_network
from renalcore.sediment.decoding import CompactDetector
from renalcore.sediment.networks import MultiHeadDetectionModel, save_weights
from renalcore.sediment.predict import NetworkFinder, SedimentDetector
from renalcore.sediment.runners import WholeRunner
from renalcore.types import Field
from tests.renalcore.sediment.squares import RBC, WBC, SquareFinder, card, detector, draw, field, glass


@pytest.fixture(scope="module")
def network() -> MultiHeadDetectionModel:
    return untrained_network(noise(0, 128, 128), seed=0)


def noise(seed: int, width: int = 64, height: int = 64) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)


def hardly_differ(some: np.ndarray, others: np.ndarray, *, within: float) -> bool:
    """Whether 98 of 100 values agree; random weights make the rest out of rounding."""
    return some.shape == others.shape and bool(np.quantile(np.abs(some - others), 0.98) <= within)


def test_particles_come_out_named_scored_and_in_place() -> None:
    pixels = glass(900, 700)
    draw(pixels, RBC, 850, 30, 880, 60)
    draw(pixels, WBC, 100, 600, 150, 650)
    found = detector().predict(field(pixels))
    assert found.names == ["RBC", "WBC"]
    assert found.boxes_px.tolist() == [[850, 30, 880, 60], [100, 600, 150, 650]]
    assert found.scores.tolist() == pytest.approx([0.9, 0.8])
    assert found.classes == taxonomy.NAMES


def test_particles_below_the_asked_for_score_are_left_out() -> None:
    pixels = glass(300, 300)
    draw(pixels, RBC, 10, 10, 40, 40)
    draw(pixels, WBC, 100, 100, 150, 150)
    assert detector().predict(field(pixels), min_score=0.85).names == ["RBC"]


def test_the_other_labels_of_a_particle_are_given_on_request_and_told_apart() -> None:
    pixels = glass(300, 300)
    draw(pixels, RBC, 10, 10, 50, 50)
    draw(pixels, WBC, 12, 12, 48, 48)  # the same particle: 36 x 36 of 40 x 40 px are an overlap of 0.81
    finder = detector()
    assert finder.predict(field(pixels)).names == ["RBC"]
    found, best = finder.every_label(field(pixels))
    assert found.names == ["RBC", "WBC"]
    assert best.tolist() == [True, False]


def test_an_empty_field_has_no_particles() -> None:
    assert len(detector().predict(field(glass(900, 900)))) == 0


def test_of_a_round_field_only_the_square_around_the_disc_is_searched() -> None:
    finder = SquareFinder()
    pixels = glass(2000, 1500)
    draw(pixels, RBC, 1000, 600, 1040, 640)
    found = detector(finder).predict(field(pixels, round_field_px=(1000.0, 700.0, 320.0)))
    assert finder.seen == [(640, 640, 3)]
    assert found.boxes_px.tolist() == [[1000, 600, 1040, 640]]


def test_what_has_its_centre_off_the_disc_is_left_out() -> None:
    pixels = glass(700, 700)
    draw(pixels, RBC, 60, 60, 90, 90)
    draw(pixels, WBC, 320, 320, 350, 350)
    assert detector().predict(field(pixels, round_field_px=(350.0, 350.0, 300.0))).names == ["WBC"]


@pytest.mark.parametrize("min_score", [0.0, 1.0, float("nan")])
def test_a_score_that_keeps_all_or_nothing_is_refused(min_score: float) -> None:
    with pytest.raises(ValueError, match="min_score must lie between 0 and 1"):
        detector().predict(field(glass(64, 64)), min_score=min_score)


def test_a_grey_picture_is_refused_with_its_shape() -> None:
    with pytest.raises(ValueError, match=r"\(64, 64\)"):
        detector().predict(Field("grey.png", np.zeros((64, 64), np.uint8)))


def test_the_compact_network_says_what_the_network_says(network: MultiHeadDetectionModel) -> None:
    pixels = torch.from_numpy(np.stack([noise(1, 96, 64), noise(2, 96, 64)]))
    with torch.inference_mode():
        whole = network(pixels.permute(0, 3, 1, 2).float() / 255)[0]
        boxes, scores, class_ids = CompactDetector(network)(pixels)
    best, which = whole[:, 4:].max(dim=1)
    centre, side = whole[:, :2].transpose(1, 2), whole[:, 2:4].transpose(1, 2)
    assert hardly_differ(boxes.numpy(), torch.cat((centre - side / 2, centre + side / 2), 2).numpy(), within=0.05)
    assert hardly_differ(scores.numpy(), best.numpy(), within=1e-3)
    assert (class_ids == which).float().mean() > 0.99
    assert boxes.std() > 1  # boxes that all were alike would prove nothing


def test_openvino_says_what_torch_says_at_every_size(
    network: MultiHeadDetectionModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RENAL_DATA", str(tmp_path))
    save_weights(network, tmp_path / "n.safetensors")
    in_torch, in_openvino = (
        runners.load("multihead", "n", tmp_path / "n.safetensors", "a digest", devices.Device(kind, 1))
        for kind in ("cpu", "openvino")
    )
    for batch in (np.stack([noise(1), noise(2), noise(3)]), noise(4, 160, 96)[None]):
        least = min(0.5, float(np.median(in_torch.run(batch, 0.5)[1])))  # half of the anchors, at every border too
        boxes, scores, class_ids = zip(in_torch.run(batch, least), in_openvino.run(batch, least), strict=True)
        assert hardly_differ(*scores, within=1e-3)
        assert np.mean(np.equal(*class_ids)) > 0.99
        above = np.logical_and(*(side > least for side in scores))
        assert above.mean() > 0.4
        assert hardly_differ(*(side[above] for side in boxes), within=0.05)
        assert not boxes[1][scores[1] <= least].any()  # what scores less has no box computed


class BrightnessNetwork(torch.nn.Module):
    """Answers with one box whose sides and score say how bright the picture is."""

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        mean = pixels.float().mean(dim=(1, 2, 3))[:, None]
        box = torch.stack([mean * 0, mean * 0, mean / 8, mean / 8], dim=-1)
        return box, mean / 512 + 0.2, (mean * 0).int()


@pytest.mark.parametrize("kind", ["cpu", "openvino"])
def test_no_thread_gets_the_boxes_of_anothers_picture(
    kind: devices.Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RENAL_DATA", str(tmp_path))
    backend = backends.load(BrightnessNetwork, devices.Device(kind, 2), key="brightness")
    shared = SedimentDetector(card(), NetworkFinder(WholeRunner(backend)), devices.Device(kind, 2))
    fields = [field(np.full((64 + 32 * (grey % 3), 64, 3), grey, np.uint8)) for grey in range(60, 240)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(shared.predict, fields))
    for one, detections in zip(fields, found, strict=True):
        assert detections.boxes_px[0, 2] == pytest.approx(one.pixels[0, 0, 0] / 8, abs=0.01)


def test_every_box_of_a_slice_is_kept_unless_a_number_is_given() -> None:
    class Many:
        def run(self, batch: np.ndarray) -> backends.Outputs:
            x = np.arange(400, dtype=np.float32) * 20
            boxes = np.stack([x, x * 0, x + 10, x * 0 + 10], axis=1)
            return boxes[None], np.linspace(0.1, 0.9, 400, dtype=np.float32)[None], np.zeros((1, 400), np.int32)

    assert len(NetworkFinder(WholeRunner(Many())).find(noise(0)[None], min_score=0.05)[0]) == 400
    [best] = NetworkFinder(WholeRunner(Many()), most=300).find(noise(0)[None], min_score=0.05)
    assert len(best) == 300
    assert best[-1, 4] > 0.29


@pytest.fixture
def registry(tmp_path: Path, network: MultiHeadDetectionModel) -> Path:
    folder = tmp_path / "weights" / "squares"
    folder.mkdir(parents=True)
    save_weights(network, folder / "squares.safetensors")
    sha256 = hashlib.sha256((folder / "squares.safetensors").read_bytes()).hexdigest()
    (folder / "card.json").write_text(card(sha256=sha256).to_json())
    return tmp_path / "weights"


def test_a_model_is_loaded_by_its_key_and_finds_something(registry: Path) -> None:
    loaded = SedimentDetector.load("squares", device="cpu", root=registry)
    assert loaded.card == models.card("squares", registry)
    assert len(loaded.predict(field(noise(0, 128, 96)))) > 0


def test_a_model_whose_weights_were_altered_is_not_loaded(registry: Path) -> None:
    with (registry / "squares" / "squares.safetensors").open("ab") as stream:
        stream.write(b"!")
    with pytest.raises(ModelError, match="altered"):
        SedimentDetector.load("squares", device="cpu", root=registry)


def test_a_model_for_something_else_is_not_taken_for_sediment(registry: Path) -> None:
    changed = card(key="slides", modality="histology", classes=("glomerulus",), validated_classes=())
    (registry / "slides").mkdir()
    (registry / "slides" / "card.json").write_text(changed.to_json())
    with pytest.raises(ModelError, match="a model for histology"):
        SedimentDetector.load("slides", device="cpu", root=registry)


def test_an_unknown_model_is_refused_with_the_known_ones(registry: Path) -> None:
    with pytest.raises(UnknownName, match="known models: squares"):
        SedimentDetector.load("triangles", root=registry)


def test_a_device_that_is_absent_is_refused_rather_than_replaced(registry: Path) -> None:
    if devices.absence("cuda") is None:
        pytest.skip("this machine has a GPU")
    with pytest.raises(DeviceUnavailable, match="no NVIDIA driver"):
        SedimentDetector.load("squares", device="cuda", root=registry)


def test_an_int8_form_that_was_not_made_is_refused_with_the_command_that_makes_it(
    registry: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RENAL_DATA", str(tmp_path))
    with pytest.raises(ModelError, match="run `renalcore quantise sediment`"):
        SedimentDetector.load("squares", device="openvino-int8", root=registry)
