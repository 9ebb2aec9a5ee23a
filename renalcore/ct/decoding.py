"""From the logits of a step to its classes, inside the network: one byte a voxel leaves it and no scores."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from renalcore.ct.networks import StepNetwork, load_networks
from renalcore.ct.steps import StepName
from renalcore.errors import ModelError


class ClassOfVoxel(nn.Module):
    """A network of a step that takes volumes as they are and names the class of each voxel."""

    def __init__(self, network: StepNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, volumes: Tensor) -> tuple[Tensor]:
        """`(N, D, H, W)` int16 HU to `(N, D, H, W)` uint8, the greatest logit's class."""
        dtype = next(self.network.parameters()).dtype
        logits = self.network(volumes[:, None].to(dtype))
        classes = torch.zeros_like(logits[:, 0], dtype=torch.uint8)
        greatest = logits[:, 0]
        for number in range(1, logits.shape[1]):  # element by element, which every back end does fast
            classes = torch.where(logits[:, number] > greatest, torch.full_like(classes, number), classes)
            greatest = torch.maximum(greatest, logits[:, number])
        return (classes,)


def class_network(weights: Path, step: StepName) -> ClassOfVoxel:
    """The network of one step from a file of weights.

    Raises:
        ModelError: The file holds no such network.
    """
    networks = load_networks(weights)
    if step not in networks:
        raise ModelError(f"{weights.name} holds no network for the step {step!r}; a model needs all three steps")
    return ClassOfVoxel(networks[step])
