"""A glomerulus network in the form that back ends run: from pixels as they are to probabilities in 8 bits."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from renalcore.histology.networks import build_network, load_weights


class PixelNetwork(nn.Module):
    """Pictures `(N, H, W, 3)` uint8 RGB, sides multiples of 32, to probabilities `(N, C, H, W)` uint8, 255 being 1.

    Args:
        network: Takes `(N, 3, H, W)` in 0..1 and gives logits `(N, C, H, W)`.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor) -> tuple[Tensor]:
        """The probabilities; a back end expects a tuple."""
        dtype = next(self.network.parameters()).dtype
        logits: Tensor = self.network(pixels.permute(0, 3, 1, 2).to(dtype) / 255)
        return (torch.round(logits.sigmoid() * 255).to(torch.uint8),)


def pixel_network(name: str, weights: Path) -> nn.Module:
    """One of `networks.NETWORKS` with its weights.

    Raises:
        ModelError: There is no such network, or the weights do not fit it.
    """
    network = build_network(name)
    load_weights(network, weights)
    return PixelNetwork(network.eval())
