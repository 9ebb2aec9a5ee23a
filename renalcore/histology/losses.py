"""Training losses of the glomerulus networks: symmetric Lovasz hinge, Dice, binary cross-entropy, and sums of them.

All take logits and targets `(B, C, H, W)`, the targets in 0..1, and `known`, which broadcasts to them: a pixel where it
is 0 or False is left out, since nobody said what it shows. All compute in float32.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


def binary_cross_entropy(logits: Tensor, targets: Tensor, known: Tensor) -> Tensor:
    """Mean over the known pixels; 0 where there are none."""
    weights = known.expand_as(targets).float()
    losses = F.binary_cross_entropy_with_logits(logits.float(), targets.float(), reduction="none")
    return (losses * weights).sum() / weights.sum().clamp(min=1)


def dice_loss(logits: Tensor, targets: Tensor, known: Tensor, *, smooth: float = 1.0) -> Tensor:
    """One minus the soft Dice, `(2 |P T| + smooth) / (|P| + |T| + smooth)`, mean over the channels.

    Sums run over the whole batch, so that a tile without a glomerulus does not ask for a Dice of its own.
    """
    weights = known.expand_as(targets).float()
    found, wanted = logits.float().sigmoid() * weights, targets.float() * weights
    over = (0, 2, 3)
    dice = (2 * (found * wanted).sum(over) + smooth) / (found.sum(over) + wanted.sum(over) + smooth)
    return 1 - dice.mean()


def lovasz_hinge(logits: Tensor, targets: Tensor, known: Tensor) -> Tensor:
    """The Lovasz hinge of the Jaccard index (Berman et al., 2018) with ELU + 1, mean over pictures and channels.

    The thesis, section 5.4, puts ELU + 1 in the place of ReLU, which left false probabilities of 0.1 to 0.3 on easy
    background. Soft targets count as glomerulus from 0.5.
    """
    errors_of = 1 - logits.float() * (2 * targets.round() - 1)
    judged = known.expand_as(targets).bool()
    losses = []
    for errors, labels, kept in zip(*(each.flatten(0, 1) for each in (errors_of, targets, judged)), strict=True):
        sorted_errors, order = errors[kept].sort(descending=True)
        gradient = _jaccard_gradient(labels[kept].round().float()[order])
        losses.append(torch.dot(F.elu(sorted_errors) + 1, gradient))
    return torch.stack(losses).mean()


def symmetric_lovasz(logits: Tensor, targets: Tensor, known: Tensor) -> Tensor:
    """Half the Lovasz hinge of the glomeruli and half that of the background (the thesis, section 5.4)."""
    return (lovasz_hinge(logits, targets, known) + lovasz_hinge(-logits, 1 - targets, known)) / 2


def _jaccard_gradient(sorted_labels: Tensor) -> Tensor:
    """By how much the Jaccard loss grows with each further wrong pixel, `(N,)` (Berman et al., algorithm 1)."""
    total = sorted_labels.sum()
    intersection = total - sorted_labels.cumsum(0)
    union = total + (1 - sorted_labels).cumsum(0)
    jaccard = 1 - intersection / union
    return torch.diff(jaccard, prepend=jaccard.new_zeros(1))


@dataclass(frozen=True, slots=True)
class Loss:
    """A weighted sum of the losses; those of weight 0 are not computed.

    Attributes:
        bce: Weight of the binary cross-entropy.
        dice: Weight of the Dice loss.
        lovasz: Weight of the symmetric Lovasz hinge.

    Raises:
        ValueError: A weight is negative, or none is positive.
    """

    bce: float = 0.0
    dice: float = 0.0
    lovasz: float = 0.0

    def __post_init__(self) -> None:
        weights = (self.bce, self.dice, self.lovasz)
        if not min(weights) >= 0 or not max(weights) > 0:  # also refuses nan
            raise ValueError(f"a loss needs weights of 0 or more, one of them positive, got {self}")

    def __call__(self, logits: Tensor, targets: Tensor, known: Tensor) -> Tensor:
        """The sum; shapes as the module says."""
        parts = ((self.bce, binary_cross_entropy), (self.dice, dice_loss), (self.lovasz, symmetric_lovasz))
        terms = [weight * part(logits, targets, known) for weight, part in parts if weight]
        return torch.stack(terms).sum()
