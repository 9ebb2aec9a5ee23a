"""DeepLab V2, the network of Meconcelli, Bonechi and Dimitri (ESANN 2022) that segmentation-models-pytorch lacks.

Chen et al., "DeepLab: Semantic Image Segmentation with Deep Convolutional Nets, Atrous Convolution, and Fully
Connected CRFs" (TPAMI 40(4), 2017): a residual network whose last two stages are dilated instead of strided, four
atrous convolutions side by side whose answers are added (ASPP-L, section 3.2), and a bilinear enlargement. The paper's
conditional random field is left out, as Meconcelli et al. tell of none.
"""

from __future__ import annotations

from typing import Final

import torch.nn.functional as F
from segmentation_models_pytorch.encoders import get_encoder
from torch import Tensor, nn

RATES: Final = (6, 12, 18, 24)
"""Dilation of the four branches of ASPP-L."""

OUTPUT_STRIDE: Final = 8
"""Px of the picture for one place of the deepest feature map."""


class AtrousPyramid(nn.Module):
    """Four 3 x 3 convolutions with the dilations of `RATES` over the same features; their answers are added.

    Args:
        channels: Of the features.
        outputs: Of the answer.
    """

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(nn.Conv2d(channels, outputs, 3, padding=rate, dilation=rate) for rate in RATES)
        for branch in self.branches:
            nn.init.normal_(branch.weight, std=0.01)  # type: ignore[arg-type]  # the authors' choice
            nn.init.zeros_(branch.bias)  # type: ignore[arg-type]

    def forward(self, features: Tensor) -> Tensor:
        """`(B, channels, H, W)` to `(B, outputs, H, W)`."""
        first, *others = (branch(features) for branch in self.branches)
        total: Tensor = sum(others, first)
        return total


class DeepLabV2(nn.Module):
    """A dilated residual encoder and `AtrousPyramid`.

    Args:
        encoder_name: A ResNet of segmentation-models-pytorch, e.g. `resnet101`.
        outputs: Channels of the answer.
    """

    def __init__(self, encoder_name: str, outputs: int) -> None:
        super().__init__()
        self.encoder = get_encoder(encoder_name, depth=5, weights=None, output_stride=OUTPUT_STRIDE)
        self.pyramid = AtrousPyramid(self.encoder.out_channels[-1], outputs)

    def forward(self, pictures: Tensor) -> Tensor:
        """Pictures `(B, 3, H, W)`, sides multiples of 8, to logits `(B, outputs, H, W)`."""
        coarse = self.pyramid(self.encoder(pictures)[-1])
        return F.interpolate(coarse, size=pictures.shape[2:], mode="bilinear", align_corners=False)
