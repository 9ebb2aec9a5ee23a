"""The paper's training loss: Dice and weighted cross-entropy, added up, in which some voxels may count more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

SMOOTH_VOXELS: Final = 1000.0
"""Added to both parts of the Dice loss' fraction; a lesion of 2 ml. Without it a kidney that has no cyst would not tell
of false ones, since a Dice of 0 is as bad with few of them as with many; with far less each of them would count more
than a voxel of a true cyst, and teach that there are none."""


@dataclass(frozen=True, slots=True)
class Loss:
    """Dice loss of the classes but the first, plus cross-entropy in which the voxels of each label have a weight.

    Attributes:
        weights: One for each label. The paper names none: a voxel of what is rare counts more.
        classes: The class of each label, as `Step.from_labels`; by default each label is a class of its own.
        dice: Weight of the Dice loss, whose sums run over the batch and begin at `smooth`: where a class is absent,
            each voxel that is found falsely counts, and finding none costs nothing.
        cross_entropy: Weight of the cross-entropy.
        smooth: Voxels at which these sums begin.

    Raises:
        ValueError: A weight is negative, those of the two parts are both 0, or not every label has a class.
    """

    weights: tuple[float, ...]
    classes: tuple[int, ...] | None = None
    dice: float = 1.0
    cross_entropy: float = 1.0
    smooth: float = SMOOTH_VOXELS

    def __post_init__(self) -> None:
        every = (*self.weights, self.dice, self.cross_entropy)
        if not min(every) >= 0 or not max(self.dice, self.cross_entropy) > 0:  # also refuses nan
            raise ValueError(f"weights of a loss are 0 or more, and one part counts; got {self}")
        if self.classes is not None and len(self.classes) != len(self.weights):
            raise ValueError(f"each label of a loss has a weight and a class, got {self}")

    def __call__(self, logits: Tensor, labels: Tensor, counts: Tensor | None = None) -> Tensor:
        """The loss, in float32.

        Args:
            logits: `(B, C, D, H, W)`.
            labels: `(B, D, H, W)`, integers.
            counts: `(B, D, H, W)`, how often each voxel counts in both parts; None for once.
        """
        found, named = logits.float(), labels.long()
        wanted = named if self.classes is None else torch.tensor(self.classes, device=found.device)[named]
        count = torch.ones_like(found[:, 0]) if counts is None else counts.to(found)
        terms = []
        if self.dice:
            share = found.softmax(1)[:, 1:]
            true = F.one_hot(wanted, found.shape[1]).movedim(-1, 1)[:, 1:].to(found)
            both, either = ((count[:, None] * voxels).sum((0, 2, 3, 4)) for voxels in (share * true, share + true))
            terms.append(self.dice * (1 - (2 * both + self.smooth) / (either + self.smooth)).mean())
        if self.cross_entropy:
            weights = count * torch.tensor(self.weights, dtype=torch.float32, device=found.device)[named]
            each = weights * F.cross_entropy(found, wanted, reduction="none")
            terms.append(self.cross_entropy * each.sum() / weights.sum())
        return torch.stack(terms).sum()
