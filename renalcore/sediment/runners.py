"""What runs a sediment network: from pictures to a box, a score and a class of each anchor, on the device asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from renalcore import taxonomy
from renalcore.engine import backends
from renalcore.engine.backends import Backend
from renalcore.engine.devices import Device
from renalcore.errors import ModelError
from renalcore.sediment.towers import BoxTowers

if TYPE_CHECKING:
    from torch import nn

Found = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int32]]
"""Boxes `(N, A, 4)` as x1, y1, x2, y2 in px, scores `(N, A)` and class ids `(N, A)` of every anchor."""

KEPT_IN_FLOAT: Final = (r".*\.attn/.*", r".*\.heads\..*")
"""What INT8 leaves alone: the products and softmax of the attention, and the towers that give the scores. The boxes
come from `BoxTowers`, which compute in float32 always."""


class Runner(Protocol):
    """Runs one network; several threads may call one object."""

    def run(self, pictures: NDArray[np.uint8], min_score: float) -> Found:
        """The anchors of `(N, H, W, 3)` RGB pictures; the boxes of those that score more than `min_score`."""
        ...


class WholeRunner:
    """A network that gives every anchor's box itself."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def run(self, pictures: NDArray[np.uint8], min_score: float) -> Found:
        """The anchors of the pictures, all with their boxes."""
        boxes, scores, class_ids = self._backend.run(pictures)
        return boxes, scores, class_ids


class SparseRunner:
    """A `ScoreNetwork` and the box towers: only what scores enough gets a box, the others have zeros."""

    def __init__(self, backend: Backend, towers: BoxTowers) -> None:
        self._backend = backend
        self._towers = towers

    def run(self, pictures: NDArray[np.uint8], min_score: float) -> Found:
        """The anchors of the pictures, with the boxes of those that score more than `min_score`."""
        scores, class_ids, *features = self._backend.run(pictures)
        return self._towers.boxes(features, scores > min_score), scores, class_ids


def load(network: str, scale: str, weights: Path, sha256: str, device: Device) -> Runner:
    """A network with its weights on a device.

    Args:
        network: One of `NETWORKS`.
        scale: Its size, as its card names it.
        weights: The safetensors file.
        sha256: What tells these weights from others.
        device: What to run it on.

    Raises:
        ModelError: The weights do not fit the network, or there is no INT8 form of it here.
    """
    key = _key(sha256)
    if network.startswith("multihead") and device.kind in ("openvino", "openvino-int8"):
        backend = backends.load(partial(_scores, network, scale, weights), device, key=f"{key}-scores")
        return SparseRunner(backend, BoxTowers.read(weights))
    if device.kind == "openvino-int8":
        raise ModelError(f"only multi-head detectors have an INT8 form, and this is a {network}; use --device openvino")
    if network in TORCH_ONLY and device.kind == "openvino":
        raise ModelError(f"OpenVINO does not run the {network}; use --device auto, cpu or cuda")
    return WholeRunner(backends.load(partial(NETWORKS[network][1], scale, weights), device, key=key))


def has_int8(sha256: str) -> bool:
    """Whether `quantise` has been run for these weights on this machine."""
    return backends.int8_path(f"{_key(sha256)}-scores").is_file()


def quantise(scale: str, weights: Path, sha256: str, pictures: Sequence[NDArray[np.uint8]]) -> Path:
    """Make the INT8 form of a multi-head detector, which `load` then runs on the device `openvino-int8`.

    Args:
        scale: Its size.
        weights: The safetensors file.
        sha256: What tells these weights from others.
        pictures: Pictures such as it will see, `(H, W, 3)` RGB, all of one size, sides multiples of 32; they set the
            ranges of the activations.

    Returns:
        The file written, in the cache.

    Raises:
        ModelError: The weights do not fit the network.
    """
    build = partial(_scores, "multihead", scale, weights)
    return backends.quantise(build, key=f"{_key(sha256)}-scores", pictures=pictures, kept_in_float=KEPT_IN_FLOAT)


def _whole(network: str, scale: str, weights: Path) -> nn.Module:
    if network == "retinanet":
        return _retinanet(scale, weights)

    from renalcore.sediment.decoding import compact

    return compact(_detector(network, scale, weights))


def _scores(network: str, scale: str, weights: Path) -> nn.Module:
    from renalcore.sediment.decoding import ScoreNetwork

    return ScoreNetwork(_detector(network, scale, weights))


def _detector(network: str, scale: str, weights: Path) -> Any:
    from renalcore.sediment.networks import build_network, load_weights

    model = build_network(network, scale)  # type: ignore[arg-type]  # refused there when unknown
    load_weights(model, weights)
    return model


def _retinanet(scale: str, weights: Path) -> nn.Module:
    from renalcore.sediment.networks import load_weights
    from renalcore.sediment.retinanet import CompactRetinaNet, build

    model = build(scale)
    load_weights(model, weights)
    return CompactRetinaNet(model)


NETWORKS: Final = MappingProxyType(
    {
        name: (("Calcium oxalate",) if name == "retinanet" else taxonomy.NAMES, partial(_whole, name))
        for name in (
            "multihead", "retinanet", "yolo12", "yolo11", "yolov8", "rtdetr",
            *(f"multihead-without-{group.lower()}" for group in taxonomy.Group if group is not taxonomy.Group.OTHERS),
        )
    }
)  # fmt: skip
"""What a card's `network` may be: the classes it finds, and what builds it from the card's `scale` and a weights file.

All but the first two are there to be compared with, see `renalcore.sediment.compare`. A network takes `(N, H, W, 3)`
uint8 and gives boxes `(N, A, 4)` in px, scores `(N, A)` and class ids `(N, A)`.
"""

TORCH_ONLY: Final = frozenset({"rtdetr"})
"""Networks that OpenVINO does not run."""


def _key(sha256: str) -> str:
    """Names a converted network by everything it was made from."""
    made_from = hashlib.sha256(f"{sha256}{KEPT_IN_FLOAT}".encode())
    for package in ("openvino", "nncf", "torch", "torchvision", "ultralytics"):
        made_from.update(version(package).encode())
    for module in ("networks.py", "decoding.py", "retinanet.py"):
        made_from.update((Path(__file__).parent / module).read_bytes())
    return f"sediment-{made_from.hexdigest()[:32]}"
