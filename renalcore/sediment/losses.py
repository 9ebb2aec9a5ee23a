"""Training losses of the multi-head YOLOv12 and of the networks it is compared with, masked where nobody labelled.

Alizadeh et al. (2025), equations 1 to 7 and Table 3: each head has the YOLO12 detection loss of its own, and the total
is their lambda-weighted sum. YOLO12 has no separate objectness output; its class scores carry objectness, so equation
6 is part of the classification term, as in Ultralytics' implementation, which this module builds on.
"""

from __future__ import annotations

from types import MappingProxyType, SimpleNamespace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from ultralytics.models.utils.loss import RTDETRDetectionLoss
from ultralytics.utils.loss import v8DetectionLoss
from ultralytics.utils.tal import make_anchors

from renalcore.sediment.names import IGNORE
from renalcore.taxonomy import Group

Normaliser = Literal["head", "batch"]

HEAD_WEIGHTS = MappingProxyType(
    {
        Group.CELLS: 1.0,
        Group.CASTS: 1.5,
        Group.CRYSTALS: 1.0,
        Group.MICROORGANISMS: 1.0,
        Group.OTHERS: 1.5,
        Group.ARTIFACT: 0.5,
    }
)
"""Lambda of equation 1 (Table 3)."""

_FITTING_STRIDES = (2.0, 8.0)
"""An anchor stands for objects of 2 to 8 strides across; a bacterium upon a squamous cell is not the cell's anchor."""


class MaskedBCE(nn.Module):
    """Binary cross-entropy that counts an element where its label is known, and always where it is positive.

    Attributes:
        known: Where labels are known; must broadcast to the shape of the logits.
        positives: Sum of the last call's targets, by which `v8DetectionLoss` divides.
    """

    known: Tensor
    positives: Tensor

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Elementwise loss."""
        self.positives = targets.sum().clamp(min=1)
        loss = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        return loss * torch.maximum(self.known.to(loss.dtype), (targets > 0).to(loss.dtype))


class GroupLoss(v8DetectionLoss):
    """Ultralytics' detection loss for one head, over the classes of its group."""

    def __init__(self, model: nn.Module, head: nn.Module, class_ids: list[int]) -> None:
        super().__init__(SimpleNamespace(parameters=model.parameters, args=model.args, model=[head]))
        self.bce = MaskedBCE()
        self.column = torch.full((IGNORE + 1,), -1, dtype=torch.long, device=self.device)
        self.column[class_ids] = torch.arange(len(class_ids), device=self.device)
        self.class_ids = class_ids

    def gained(self, preds: dict[str, Tensor], batch: dict[str, Any], known: Tensor) -> Tensor:
        """Box, class and DFL loss of this head, gains applied, for the boxes of its group."""
        columns = self.column[batch["cls"].view(-1).long()]
        own = columns >= 0
        self.bce.known = known[..., self.class_ids]
        mine = {"batch_idx": batch["batch_idx"][own], "cls": columns[own], "bboxes": batch["bboxes"][own]}
        loss: Tensor = self.get_assigned_targets_and_loss(preds, mine)[1]
        return loss


class MultiHeadLoss:
    """Equation 1: the lambda-weighted sum of the six heads' losses.

    A batch is Ultralytics' (`img`, `batch_idx`, `cls`, `bboxes` normalised xywh) with 39-class ids, plus `known`,
    `(B, 39)` bool: the classes labelled in each image. A class that is not known there is left out of the
    classification loss, save at two kinds of place: where an anchor is positive for it, and where an anchor fits a
    labelled object, which cannot be of another class too. Boxes of class `IGNORE` mark regions where nothing is known.

    Args:
        model: The multi-head network, with its gains in `model.args`.
        normaliser: What a head's loss is divided by. `head`: by its own positives, as in equations 5 to 7, so that a
            head with two objects in a batch pulls the backbone as hard as one with sixty. `batch`: by those of all
            heads together, so that each object counts alike.
    """

    def __init__(self, model: Any, *, normaliser: Normaliser = "head") -> None:
        self.normaliser = normaliser
        detect = model.model[-1]
        self.weights = [HEAD_WEIGHTS[group] for group in detect.groups]
        self.parts = [GroupLoss(model, head, ids) for head, ids in zip(detect.heads, detect.class_ids, strict=True)]
        self.loss_names = self.parts[0].loss_names
        self.stride: Tensor = detect.stride

    def __call__(self, preds: Any, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """The total loss times the batch size (box, class, DFL), and its detached parts for the log."""
        raw = preds[1] if isinstance(preds, tuple) else preds
        known = self.known(raw["feats"], batch)
        total = torch.zeros(3, device=known.device)
        with torch.autocast(known.device.type, enabled=False):  # boxes decoded in half precision are off by pixels
            losses = []
            for part, head in zip(self.parts, raw["heads"], strict=True):
                full = {"boxes": head["boxes"].float(), "scores": head["scores"].float(), "feats": raw["feats"]}
                losses.append(part.gained(full, batch, known))
            positives = torch.stack([part.bce.positives for part in self.parts])
            shares = positives / positives.sum() if self.normaliser == "batch" else torch.ones_like(positives)
            for loss, share, weight in zip(losses, shares, self.weights, strict=True):
                total = total + weight * share * loss
        return total * batch["img"].shape[0], dict(zip(self.loss_names, total.detach(), strict=True))

    def known(self, feats: list[Tensor], batch: dict[str, Any]) -> Tensor:
        """`(B, A, 39)` bool: where each class is known to be present or absent."""
        points, strides = make_anchors(feats, self.stride.to(feats[0].device), 0.5)
        points_px = points * strides
        height_px, width_px = (int(side * self.stride[0]) for side in feats[0].shape[2:])
        known: Tensor = batch["known"].to(points.device)[:, None, :].repeat(1, len(points), 1)
        size = torch.tensor([width_px, height_px], device=points.device)
        centres, sides = batch["bboxes"][:, :2] * size, batch["bboxes"][:, 2:] * size
        ignored = batch["cls"].view(-1) == IGNORE
        across = sides.prod(1).sqrt()
        for index in range(len(known)):
            for is_ignored in (True, False):
                rows = (batch["batch_idx"] == index) & (ignored == is_ignored)
                if not rows.any():
                    continue
                inside = ((points_px[:, None] - centres[rows]).abs() <= sides[rows] / 2).all(2)
                if not is_ignored:
                    strides_across = across[rows] / strides
                    inside &= (strides_across >= _FITTING_STRIDES[0]) & (strides_across <= _FITTING_STRIDES[1])
                known[index, inside.any(1)] = not is_ignored
        return known


class SingleHeadLoss(MultiHeadLoss):
    """Ultralytics' loss of a plain YOLO, one head for all 39 classes, with the masks of `MultiHeadLoss`.

    Args:
        model: The network, with its gains in `model.args`.
    """

    def __init__(self, model: Any) -> None:
        self.normaliser = "head"
        detect = model.model[-1]
        self.weights = [1.0]
        self.parts = [GroupLoss(model, detect, list(range(detect.nc)))]
        self.loss_names = self.parts[0].loss_names
        self.stride = detect.stride

    def __call__(self, preds: Any, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """As of `MultiHeadLoss`."""
        raw = preds[1] if isinstance(preds, tuple) else preds
        return super().__call__({"feats": raw["feats"], "heads": [raw]}, batch)


class QueryLoss(RTDETRDetectionLoss):
    """Ultralytics' loss of RT-DETR, masked query by query where nobody labelled.

    RT-DETR has no anchors, so the masks of `MultiHeadLoss` are laid over its queries: one that is matched with an
    object is of no other class; of any other query a class counts that was looked for in the picture, and nothing
    counts where the query's box has its centre in a region to ignore.

    Attributes:
        known: `(B, 39)` bool, the classes labelled in each picture of the batch.
        regions: The regions to ignore of each picture, `(R, 4)` normalised xywh.
    """

    known: Tensor
    regions: list[Tensor]

    def forward(
        self,
        preds: tuple[Tensor, Tensor],
        batch: dict[str, Any],
        dn_bboxes: Tensor | None = None,
        dn_scores: Tensor | None = None,
        dn_meta: dict[str, Any] | None = None,
    ) -> dict[str, Tensor]:
        """The parts of the loss, computed in float32: Ultralytics warns of nan in half precision."""
        boxes, scores = (each.float() for each in preds)
        noisy_boxes, noisy_scores = (None if each is None else each.float() for each in (dn_bboxes, dn_scores))
        with torch.autocast(boxes.device.type, enabled=False):
            parts: dict[str, Tensor] = super().forward((boxes, scores), batch, noisy_boxes, noisy_scores, dn_meta)
        return parts

    def _get_loss(self, pred_bboxes: Tensor, pred_scores: Tensor, *targets: Any, **options: Any) -> dict[str, Tensor]:
        centres = pred_bboxes[..., None, :2].detach()
        ignored = [
            ((centre - regions[:, :2]).abs() <= regions[:, 2:] / 2).all(2).any(1)
            for centre, regions in zip(centres, self.regions, strict=True)
        ]
        self._counted = self.known[:, None] & ~torch.stack(ignored)[..., None]
        parts: dict[str, Tensor] = super()._get_loss(pred_bboxes, pred_scores, *targets, **options)
        return parts

    def _get_loss_class(
        self, pred_scores: Tensor, targets: Tensor, gt_scores: Tensor, num_gts: int, postfix: str = ""
    ) -> dict[str, Tensor]:
        counted = self._counted | (targets < self.nc)[..., None]
        certain = pred_scores.masked_fill(~counted, -100.0)  # a certain "no" where none is wanted costs nothing
        parts: dict[str, Tensor] = super()._get_loss_class(certain, targets, gt_scores, num_gts, postfix)
        return parts
