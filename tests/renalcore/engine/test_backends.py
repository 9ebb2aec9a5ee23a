from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from renalcore.engine import backends, devices
from renalcore.errors import ModelError

OPENVINO = devices.Device("openvino", 2)


class Mean(torch.nn.Module):
    """The mean of each picture, and its first pixel."""

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return pixels.float().mean(dim=(1, 2, 3)), pixels[:, 0, 0]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RENAL_DATA", str(tmp_path))
    return tmp_path / "cache" / "openvino"


def grey(*levels: int, side: int = 8) -> np.ndarray:
    return np.stack([np.full((side, side, 3), level, np.uint8) for level in levels])


@pytest.mark.parametrize("kind", ["cpu", "openvino"])
def test_a_batch_is_answered_picture_by_picture_in_order(kind: devices.Kind) -> None:
    mean, first = backends.load(Mean, devices.Device(kind, 2), key="mean").run(grey(*range(40)))
    assert mean.tolist() == list(range(40))
    assert first.tolist() == [[level] * 3 for level in range(40)]


@pytest.mark.parametrize("kind", ["cpu", "openvino"])
def test_every_thread_gets_the_answer_to_its_own_batch(kind: devices.Kind) -> None:
    backend = backends.load(Mean, devices.Device(kind, 2), key="mean")
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda level: backend.run(grey(level, level + 1, side=8 + level % 3)), range(200)))
    assert [answer[0].tolist() for answer in answers] == [[level, level + 1] for level in range(200)]


def test_more_sizes_than_are_kept_are_all_answered() -> None:
    backend = backends.load(Mean, OPENVINO, key="mean")
    sides = [*range(4, 4 + 2 * backends.OpenVinoBackend.kept_sizes), 4]
    assert [float(backend.run(grey(side, side=side))[0][0]) for side in sides] == sides


def test_a_converted_network_is_kept_and_not_made_again() -> None:
    made = []

    def build() -> torch.nn.Module:
        made.append(True)
        return Mean()

    for _ in range(2):
        assert backends.load(build, OPENVINO, key="mean").run(grey(7))[0].tolist() == [7]
    assert len(made) == 1


def test_another_key_is_another_network() -> None:
    backends.load(Mean, OPENVINO, key="mean")
    with pytest.raises(ZeroDivisionError):
        backends.load(lambda: torch.nn.Linear(1, 1 // 0), OPENVINO, key="other")


def test_a_damaged_converted_network_is_made_again(cache: Path) -> None:
    cache.mkdir(parents=True)
    (cache / "mean.xml").write_text("<net")
    assert backends.load(Mean, OPENVINO, key="mean").run(grey(7))[0].tolist() == [7]
    assert (cache / "mean.bin").is_file()


def test_a_cache_that_cannot_be_written_is_done_without(
    cache: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.parent.parent.joinpath("cache").write_text("a file where a folder should be")
    assert backends.load(Mean, OPENVINO, key="mean").run(grey(7))[0].tolist() == [7]
    assert "each start will convert it again" in caplog.text


class Blurs(torch.nn.Module):
    """Three convolutions, one of which is called the last."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.middle, self.last = (torch.nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor]:
        return (self.last(self.middle(self.first(pixels.permute(0, 3, 1, 2).float() / 255)).relu()),)


def test_int8_is_made_once_then_run_at_every_size_and_says_nearly_the_same() -> None:
    int8 = devices.Device("openvino-int8", 1)
    with pytest.raises(ModelError, match="has not been made on this machine"):
        backends.load(Blurs, int8, key="blurs")
    pictures = list(np.random.default_rng(0).integers(0, 255, (4, 32, 32, 3), dtype=np.uint8))
    path = backends.quantise(Blurs, key="blurs", pictures=pictures, kept_in_float=[".*last.*"])
    assert path == backends.int8_path("blurs")
    assert path.read_text().count('type="Convolution"') == 3
    assert path.read_text().count('element_type="i8"') == 2  # the weights of all but the last
    rounded = backends.load(lambda: torch.nn.Linear(1, 1 // 0), int8, key="blurs")
    exact = backends.load(Blurs, OPENVINO, key="blurs")
    for batch in (pictures[0][None], np.pad(pictures[1], ((0, 16), (0, 0), (0, 0)))[None]):
        [some], [others] = rounded.run(batch), exact.run(batch)
        assert np.abs(some - others).max() < 0.05 * np.ptp(others)
        assert (some != others).any()


def test_int8_ranges_need_pictures_of_one_size() -> None:
    for pictures in ([], [grey(1)[0], grey(1, side=9)[0]]):
        with pytest.raises(ValueError, match="of one size"):
            backends.quantise(Mean, key="mean", pictures=pictures)


def test_the_cache_lies_with_the_data_or_where_the_system_keeps_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RENAL_DATA", "/srv/renal")
    assert backends.cache_folder() == Path("/srv/renal/cache")
    monkeypatch.delenv("RENAL_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/cache")
    assert backends.cache_folder() == Path("/var/cache/renalcore")
