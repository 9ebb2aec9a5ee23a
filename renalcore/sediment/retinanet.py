"""RetinaNet for calcium oxalate: torchvision's network, with anchors for crystals and a loss for partial labels.

Xiang et al. (Urine Calcium Oxalate Crystallization Recognition Method Based on Deep Learning), section III and Fig. 3:
a ResNet-50, a feature pyramid, and two subnets of four 3x3 convolutions that classify and regress the anchors of every
level; focal loss (equation 1) with alpha 0.25 and gamma 2, which are torchvision's defaults. Where this differs:

* **Nothing is pretrained.** The paper begins from ImageNet; weights are never downloaded here. The frozen batch norm
  that torchvision puts into a pretrained backbone would be a constant there, so it is one that learns, which folds into
  the convolutions afterwards. The subnets have group norm, as in torchvision's second version of RetinaNet: they see
  five levels in turn, whose statistics a batch norm would mix. Without any norm they hardly learn from scratch.
* **Anchors begin at 16 px, not 32.** Of the 725 crystals of urised2k nine in ten are 20 to 61 px across (median:
  27 px). An anchor of 32 px overlaps a crystal of 20 px by at most 0.39 (IoU), and below 0.4 it counts as background.
* **ResNet-18** is there beside it, with 128 channels in pyramid and subnets instead of 256, since its feature maps are
  four times thinner: a network for a machine without a GPU.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from functools import partial
from typing import Final, Literal, get_args

import torch
from torch import Tensor, nn
from torchvision.models import resnet18, resnet50
from torchvision.models.detection import RetinaNet
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from renalcore.errors import ModelError

Backbone = Literal["resnet18", "resnet50"]

CLASS_NAME: Final = "Calcium oxalate"
"""The one class that it finds."""

STRIDES: Final = (8, 16, 32, 64, 128)
"""Pixels of the picture a cell of the levels P3 to P7."""

ANCHOR_PX: Final = (16, 32, 64, 128, 256)
"""Side of a level's smallest anchor; the others are 2^(1/3) and 2^(2/3) times as large, as in RetinaNet."""

ASPECTS: Final = (0.5, 1.0, 2.0)
"""Height by width of the anchors; real crystals lie between 0.35 and 1.8."""

_GROUPS = 32


class CrystalAnchors(AnchorGenerator):
    """torchvision's anchors at the strides that the levels really have, in float32.

    torchvision divides the side of the picture by that of the level, which is off where it does not divide (P7 of a
    picture of 320 px: 106 instead of 128), so that anchors would stand elsewhere in a crop than in a field. It also
    gives them the type of the features, and bfloat16 is whole pixels off.
    """

    def __init__(self) -> None:
        super().__init__(tuple((side, side * 2 ** (1 / 3), side * 2 ** (2 / 3)) for side in ANCHOR_PX), ASPECTS)

    def over(self, levels: list[Tensor]) -> Tensor:
        """The anchors of all levels, `(A, 4)` as x1, y1, x2, y2 in px of the picture."""
        device = levels[0].device
        self.set_cell_anchors(torch.float32, device)
        strides = [[torch.tensor(stride, device=device)] * 2 for stride in STRIDES]
        anchors: Tensor = torch.cat(self.grid_anchors([level.shape[-2:] for level in levels], strides))
        return anchors

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        """The same anchors for every picture of a batch."""
        return [self.over(feature_maps)] * len(image_list.image_sizes)


class PartialLabelHead(RetinaNetHead):
    """torchvision's two subnets, whose loss leaves out the background that nobody vouches for.

    An anchor that fits no crystal is background only in a field in which somebody looked for crystals (`known` of its
    target, a bool), and only if its centre lies in none of the target's `ignored` regions, `(R, 4)`. Elsewhere it is
    left out of the loss. Anchors that fit a crystal count always.
    """

    def compute_loss(
        self,
        targets: list[dict[str, Tensor]],
        head_outputs: dict[str, Tensor],
        anchors: list[Tensor],
        matched_idxs: list[Tensor],
    ) -> dict[str, Tensor]:
        """Focal loss (`classification`) and L1 loss of the boxes (`bbox_regression`), each by the crystals found."""
        judged = [
            torch.where(
                (matched == Matcher.BELOW_LOW_THRESHOLD) & _unknown(own, target), Matcher.BETWEEN_THRESHOLDS, matched
            )
            for matched, own, target in zip(matched_idxs, anchors, targets, strict=True)
        ]
        with torch.autocast(anchors[0].device.type, enabled=False):  # small losses vanish in half precision
            outputs = {name: output.float() for name, output in head_outputs.items()}
            losses: dict[str, Tensor] = super().compute_loss(targets, outputs, anchors, judged)
        return losses


def _unknown(anchors: Tensor, target: dict[str, Tensor]) -> Tensor:
    """`(A,)` bool: anchors at which nobody knows whether there is a crystal."""
    centres = (anchors[:, :2] + anchors[:, 2:]) / 2
    regions = target["ignored"]
    inside = ((centres[:, None] >= regions[:, :2]) & (centres[:, None] <= regions[:, 2:])).all(2).any(1)
    return inside | ~target["known"]


def build(backbone: str = "resnet50") -> RetinaNet:
    """A RetinaNet with fresh weights, in training mode.

    In training it takes a list of `(3, H, W)` pictures in 0..1 and one target each: `boxes` `(N, 4)` in px, `labels`
    `(N,)` zeros, `ignored` and `known` (see `PartialLabelHead`), and gives its two losses.

    Raises:
        ModelError: `backbone` is neither `resnet18` nor `resnet50`.
    """
    if backbone not in get_args(Backbone):
        raise ModelError(f"RetinaNet comes with {' or '.join(get_args(Backbone))}, got {backbone!r}")
    resnet, channels = {"resnet18": (resnet18, 128), "resnet50": (resnet50, 256)}[backbone]
    body = resnet(weights=None, norm_layer=nn.BatchNorm2d)
    pyramid = BackboneWithFPN(
        body,
        return_layers={"layer2": "0", "layer3": "1", "layer4": "2"},
        in_channels_list=[body.inplanes // 4, body.inplanes // 2, body.inplanes],
        out_channels=channels,
        extra_blocks=LastLevelP6P7(channels, channels),
    )
    anchors = CrystalAnchors()
    head = PartialLabelHead(
        channels, anchors.num_anchors_per_location()[0], num_classes=1, norm_layer=partial(nn.GroupNorm, _GROUPS)
    )
    return RetinaNet(pyramid, num_classes=1, anchor_generator=anchors, head=head, _skip_resize=True)


class CompactRetinaNet(nn.Module):
    """A copy of a trained network as `NetworkFinder` wants it: pixels in, boxes, scores and class ids out.

    Takes `(N, H, W, 3)` uint8 RGB with H and W multiples of 32. Gives boxes `(N, A, 4)` as x1, y1, x2, y2 in px, scores
    `(N, A)` in 0..1, and class ids `(N, A)` int32, all zero. Keeps nothing between calls.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, model: RetinaNet) -> None:
        super().__init__()
        model = copy.deepcopy(model).eval()
        self.backbone, self.head, self.anchors = model.backbone, model.head, model.anchor_generator
        self.coder: BoxCoder = model.box_coder
        for name, levels in (("mean", model.transform.image_mean), ("deviation", model.transform.image_std)):
            self.register_buffer(name, torch.tensor(levels).view(3, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes, scores and class ids of every anchor."""
        pictures = pixels.permute(0, 3, 1, 2).to(self.mean.dtype) / 255
        levels: OrderedDict[str, Tensor] = self.backbone((pictures - self.mean) / self.deviation)
        features = list(levels.values())
        found = self.head(features)
        anchors = self.anchors.over(features).repeat(pixels.shape[0], 1)
        boxes = self.coder.decode_single(found["bbox_regression"].float().reshape(-1, 4), anchors)
        scores = found["cls_logits"].float().squeeze(-1).sigmoid()
        return boxes.view(pixels.shape[0], -1, 4), scores, torch.zeros_like(scores, dtype=torch.int32)
