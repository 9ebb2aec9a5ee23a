"""DoubleU-Net, which the thesis on human glomeruli compares (its Table 2) and segmentation-models-pytorch lacks.

Jha et al., "DoubleU-Net: A Deep Convolutional Neural Network for Medical Image Segmentation" (CBMS 2020): a U-Net on
VGG-19 proposes a mask, the picture is multiplied by that mask, and a second U-Net, which also sees the first encoder's
features, answers. Both answers are judged in training. VGG-19 has batch norms here, since it begins without ImageNet.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final

import torch
import torch.nn.functional as F
from segmentation_models_pytorch.encoders import get_encoder
from torch import Tensor, nn

_SECOND_ENCODER: Final = (32, 64, 128, 256)
_DECODER: Final = (256, 128, 64, 32)
_BRIDGE: Final = 64
_RATES: Final = (6, 12, 18)


def _convolution(before: int, after: int, *, side: int = 3, rate: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, side, padding=rate * (side // 2), dilation=rate, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(inplace=True),
    )


class SqueezeExcitation(nn.Module):
    """Weighs channels by what the whole picture holds (Hu et al., 2018)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, channels // 8, 1)
        self.excite = nn.Conv2d(channels // 8, channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        """`(B, channels, H, W)` to the same shape."""
        weights: Tensor = self.excite(self.squeeze(features.mean((2, 3), keepdim=True)).relu())
        return features * weights.sigmoid()


def _block(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(_convolution(before, after), _convolution(after, after), SqueezeExcitation(after))


class Bridge(nn.Module):
    """ASPP between an encoder and its decoder: the picture's mean, one place, and three dilations."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.whole = nn.Conv2d(channels, _BRIDGE, 1)  # one number a channel and picture: nothing for a batch norm
        self.place = _convolution(channels, _BRIDGE, side=1)
        self.around = nn.ModuleList(_convolution(channels, _BRIDGE, rate=rate) for rate in _RATES)
        self.merge = _convolution((2 + len(_RATES)) * _BRIDGE, _BRIDGE, side=1)

    def forward(self, features: Tensor) -> Tensor:
        """`(B, channels, H, W)` to `(B, 64, H, W)`."""
        whole = self.whole(features.mean((2, 3), keepdim=True)).relu().expand(-1, -1, *features.shape[2:])
        merged: Tensor = self.merge(
            torch.cat((whole, self.place(features), *(branch(features) for branch in self.around)), dim=1)
        )
        return merged


class Decoder(nn.Module):
    """Four doublings; before each block the skipped features join.

    Args:
        skipped: Channels that join, coarsest first.
        outputs: Channels of the answer.
    """

    def __init__(self, skipped: Sequence[int], outputs: int) -> None:
        super().__init__()
        widths = (_BRIDGE, *_DECODER)
        self.blocks = nn.ModuleList(
            _block(before + skip, after) for (before, after), skip in zip(pairwise(widths), skipped, strict=True)
        )
        self.last = nn.Conv2d(widths[-1], outputs, 1)

    def forward(self, deepest: Tensor, skipped: Sequence[Tensor]) -> Tensor:
        """Features of the bridge and of the skips to logits `(B, outputs, H, W)`."""
        features = deepest
        for block, skip in zip(self.blocks, skipped, strict=True):
            features = F.interpolate(features, size=skip.shape[2:], mode="bilinear", align_corners=False)
            features = block(torch.cat((features, skip), dim=1))
        logits: Tensor = self.last(features)
        return logits


class DoubleUNet(nn.Module):
    """Two U-Nets in a row.

    Args:
        encoder_name: The first encoder; `vgg19_bn` of segmentation-models-pytorch in the paper's place of VGG-19.
        outputs: Channels of the answer; the first multiplies the picture.
    """

    def __init__(self, encoder_name: str, outputs: int) -> None:
        super().__init__()
        self.encoder: Any = get_encoder(encoder_name, depth=4, weights=None)
        first = tuple(reversed(self.encoder.out_channels[:-1]))  # strides 8, 4, 2, 1
        self.first_bridge = Bridge(self.encoder.out_channels[-1])
        self.first_decoder = Decoder(first, outputs)
        self.second_encoder = nn.ModuleList(_block(a, b) for a, b in pairwise((3, *_SECOND_ENCODER)))
        self.second_bridge = Bridge(_SECOND_ENCODER[-1])
        both = [a + b for a, b in zip(first, reversed(_SECOND_ENCODER), strict=True)]
        self.second_decoder = Decoder(both, outputs)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures `(B, 3, H, W)`, sides multiples of 16, to two answers `(B, outputs, H, W)`; the second counts."""
        *first_skips, deepest = self.encoder(pictures)
        first_skips.reverse()
        proposed = self.first_decoder(self.first_bridge(deepest), first_skips)
        features = pictures * proposed[:, :1].sigmoid()
        second_skips: list[Tensor] = []
        for block in self.second_encoder:
            features = block(features)
            second_skips.insert(0, features)
            features = F.max_pool2d(features, 2)
        skips = [torch.cat(pair, dim=1) for pair in zip(first_skips, second_skips, strict=True)]
        return proposed, self.second_decoder(self.second_bridge(features), skips)
