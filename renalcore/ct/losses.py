"""The paper's training loss: Dice and weighted cross-entropy, added up; both are MONAI's and torch's own."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from monai.losses import DiceLoss
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Loss:
    """Dice loss of the classes but the first, plus cross-entropy in which each class has a weight.

    Attributes:
        weights: One for each class of the step. The paper names none: a voxel of a rare class counts more.
        dice: Weight of the Dice loss. Its sums run over the batch, and a class that is absent there hardly pulls: a
            batch without a cyst would else teach that there are none. Cross-entropy tells of those found falsely.
        cross_entropy: Weight of the cross-entropy.

    Raises:
        ValueError: A weight is negative, or those of the two parts are both 0.
    """

    weights: tuple[float, ...]
    dice: float = 1.0
    cross_entropy: float = 1.0

    def __post_init__(self) -> None:
        every = (*self.weights, self.dice, self.cross_entropy)
        if not min(every) >= 0 or not max(self.dice, self.cross_entropy) > 0:  # also refuses nan
            raise ValueError(f"weights of a loss are 0 or more, and one part counts; got {self}")

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The loss, in float32.

        Args:
            logits: `(B, C, D, H, W)`.
            targets: `(B, D, H, W)`, integer classes.
        """
        found, wanted = logits.float(), targets.long()
        overlap = DiceLoss(
            include_background=False, to_onehot_y=True, softmax=True, batch=True, smooth_nr=1e-5, smooth_dr=1e-5
        )
        terms = []
        if self.dice:
            terms.append(self.dice * overlap(found, wanted[:, None]))
        if self.cross_entropy:
            weights = torch.tensor(self.weights, dtype=torch.float32, device=found.device)
            terms.append(self.cross_entropy * F.cross_entropy(found, wanted, weights))
        return torch.stack(terms).sum()
