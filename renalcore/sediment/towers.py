"""Boxes of the anchors that found something, computed where they are needed only.

The six heads ask 50,400 anchors of a 640-px slice for a box, and some hundred of them score above a threshold. The box
towers are depthwise-separable with a 3 x 3 neighbourhood in two layers, so the box of one anchor rests on 5 x 5 places
of the feature maps. Computing those alone gives the same boxes (up to rounding) and saves a quarter of the network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

Floats = NDArray[np.float32]

STRIDES: Final = (8, 16, 32)
"""Px of the picture from one anchor to the next on P3, P4, P5."""

_BINS: Final = np.arange(16, dtype=np.float32)
"""Ultralytics' `reg_max`: the distance to a side is the mean of these, in strides, by 16 probabilities."""

_EPSILON: Final = 1e-5
"""Of the batch norms in the heads: torch's default."""


@dataclass(frozen=True, slots=True)
class _Layer:
    """A depthwise 3 x 3 convolution `(9, C)`, or a 1 x 1 one `(C, C')`, with its batch norm folded in."""

    weight: Floats
    bias: Floats


class BoxTowers:
    """The box towers of a `MultiHeadDetectionModel`; keeps nothing between calls.

    Args:
        heads: For each head and each feature map its five layers.
    """

    def __init__(self, heads: Sequence[Sequence[Sequence[_Layer]]]) -> None:
        self._heads = heads

    @classmethod
    def read(cls, weights: Path) -> BoxTowers:
        """The towers in a file that `networks.save_weights` wrote for a `MultiHeadDetectionModel`."""
        tensors = {name: value for name, value in load_file(weights).items() if ".cv2." in name and ".heads." in name}
        last = next(iter(tensors)).split(".heads.")[0]

        def layer(name: str) -> _Layer:
            weight, norm = tensors[f"{name}.conv.weight"].astype(np.float32), f"{name}.bn."
            scale = tensors[f"{norm}weight"] / np.sqrt(tensors[f"{norm}running_var"].astype(np.float32) + _EPSILON)
            bias = tensors[f"{norm}bias"] - tensors[f"{norm}running_mean"] * scale
            flat = weight.reshape(len(weight), -1) * scale[:, None]  # (C, 9) or (C', C)
            return _Layer(np.ascontiguousarray(flat.T), bias.astype(np.float32))

        def tower(name: str) -> list[_Layer]:
            separable = [layer(f"{name}.{block}.{half}") for block in (0, 1) for half in (0, 1)]
            weight = tensors[f"{name}.2.weight"].astype(np.float32)
            return [*separable, _Layer(weight[:, :, 0, 0].T.copy(), tensors[f"{name}.2.bias"].astype(np.float32))]

        heads = 1 + max(int(name.split(".heads.")[1].split(".")[0]) for name in tensors)
        return cls(
            [[tower(f"{last}.heads.{head}.cv2.{level}") for level in range(len(STRIDES))] for head in range(heads)]
        )

    def boxes(self, features: Sequence[Floats], chosen: NDArray[np.bool_]) -> Floats:
        """The boxes of chosen anchors.

        Args:
            features: P3, P4 and P5, `(N, H + 2, W + 2, C)`: with a border of zeros.
            chosen: `(N, A)`, the anchors of the heads behind each other, each head's those of P3, P4, P5.

        Returns:
            `(N, A, 4)` as x1, y1, x2, y2 in px of the picture; zeros where an anchor is not chosen.
        """
        found = np.zeros((*chosen.shape, 4), np.float32)
        start = 0
        for towers in self._heads:
            for tower, level, stride in zip(towers, features, STRIDES, strict=True):
                pictures, height, width = level.shape[0], level.shape[1] - 2, level.shape[2] - 2
                here = slice(start, start + height * width)
                picture, y, x = np.nonzero(chosen[:, here].reshape(pictures, height, width))
                if len(picture):
                    places = (picture * (height + 2) + y + 1) * (width + 2) + x + 1
                    distances = _distances(level, places, tower)
                    centres = np.stack((x, y), axis=1).astype(np.float32) + np.float32(0.5)
                    corners = np.concatenate((centres - distances[:, :2], centres + distances[:, 2:]), axis=1)
                    found[picture, start + y * width + x] = corners * np.float32(stride)
                start = here.stop
        return found


def _distances(level: Floats, places: NDArray[np.int64], tower: Sequence[_Layer]) -> Floats:
    """How far left, top, right and bottom lie from some places of a feature map, in strides: `(places, 4)`."""
    first_around, first, second_around, second, last = tower
    rows, columns, channels = level.shape[1:]
    around = (np.arange(-1, 2)[:, None] * columns + np.arange(-1, 2)).ravel()

    needed = np.zeros((level.shape[0], rows, columns), np.bool_)
    needed.reshape(-1)[places[:, None] + around] = True
    needed[:, [0, -1]] = False  # outside the picture the second convolution sees zeros
    needed[:, :, [0, -1]] = False
    neighbours = np.flatnonzero(needed)
    hidden = _silu(_depthwise(level.reshape(-1, channels), neighbours[:, None] + around, first_around))
    hidden = _silu(hidden @ first.weight + first.bias)

    row_of = np.zeros(needed.size, np.int64)  # row 0 is zeros
    row_of[neighbours] = np.arange(1, len(neighbours) + 1)
    hidden = np.concatenate((np.zeros((1, hidden.shape[1]), np.float32), hidden))
    hidden = _silu(_depthwise(hidden, row_of[places[:, None] + around], second_around))
    bins = _silu(hidden @ second.weight + second.bias) @ last.weight + last.bias
    bins = bins.reshape(len(places), 4, len(_BINS))
    shares = np.exp(bins - bins.max(axis=2, keepdims=True))
    result: Floats = (shares @ _BINS) / shares.sum(axis=2)
    return result


def _depthwise(cells: Floats, rows: NDArray[np.int64], layer: _Layer) -> Floats:
    """A depthwise 3 x 3 convolution; `rows`, `(places, 9)`, says where in `cells`, `(..., C)`, the neighbours stand."""
    total = np.tile(layer.bias, (len(rows), 1))
    for neighbour, weight in zip(rows.T, layer.weight, strict=True):
        total += cells[neighbour] * weight
    return total


def _silu(values: Floats) -> Floats:
    with np.errstate(over="ignore"):  # exp of a large number is infinite and the quotient zero, as it should be
        result: Floats = values / (1 + np.exp(-values))
    return result
