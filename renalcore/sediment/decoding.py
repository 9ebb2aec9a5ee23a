"""The multi-head network as an inference engine wants it: pixels in, one box and one best class an anchor out.

In its own form the network answers 43 columns for each of 50,400 anchors of a 640-px slice, most of them zeros of other
groups' classes. An anchor belongs to one head, and Ultralytics' NMS uses nothing of an anchor but its best class, so
six columns say the same in a seventh of the memory.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from ultralytics.utils.tal import dist2bbox, make_anchors

from renalcore.sediment.networks import MultiHeadDetect, MultiHeadDetectionModel


class CompactDetector(nn.Module):
    """A copy of a trained `MultiHeadDetectionModel`, its batch norms folded, answering `(boxes, scores, class ids)`.

    Takes `(N, H, W, 3)` uint8 RGB with H and W multiples of 32. Gives boxes `(N, A, 4)` as x1, y1, x2, y2 in px, scores
    `(N, A)` in 0..1 and class ids `(N, A)` int32 among the 39, the anchors of the six heads behind each other. Keeps no
    state between calls, unlike Ultralytics' `Detect`, which remembers the anchors of the last size it saw.
    """

    def __init__(self, model: MultiHeadDetectionModel) -> None:
        super().__init__()
        model = copy.deepcopy(model).eval().fuse(verbose=False)  # folding changes a model in place
        layers: Any = model.model
        self.trunk = nn.ModuleList(layers[:-1])
        self.kept_layers = frozenset(model.save)
        self.head: MultiHeadDetect = layers[-1]
        self.strides = [float(stride) for stride in self.head.stride]
        self.head.dfl.requires_grad_(False)
        for index, ids in enumerate(self.head.class_ids):
            self.register_buffer(f"class_ids_{index}", torch.tensor(ids, dtype=torch.int32), persistent=False)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes, scores and class ids of every anchor."""
        dtype = next(self.trunk.parameters()).dtype
        features = self._features(pixels.permute(0, 3, 1, 2).to(dtype) / 255)
        points, strides = make_anchors(features, self.strides, 0.5)
        points, strides = points.float(), strides.float()  # half precision is coarser than a pixel beyond 1024
        boxes, scores, classes = [], [], []
        for index, head in enumerate(self.head.heads):
            found = head.forward_head(features, **head.one2many)
            distances = head.dfl(found["boxes"]).float().transpose(1, 2)
            boxes.append(dist2bbox(distances, points, xywh=False, dim=-1) * strides)
            best, which = found["scores"].max(dim=1)
            scores.append(best.float().sigmoid())
            classes.append(getattr(self, f"class_ids_{index}")[which])
        return torch.cat(boxes, 1), torch.cat(scores, 1), torch.cat(classes, 1)

    def _features(self, picture: Any) -> list[Tensor]:
        kept: list[Any] = []
        for layer in self.trunk:
            source: Any = layer.f
            if isinstance(source, int):
                given = picture if source == -1 else kept[source]
            else:
                given = [picture if index == -1 else kept[index] for index in source]
            picture = layer(given)
            kept.append(picture if layer.i in self.kept_layers else None)
        sources: Any = self.head.f
        return [kept[index] for index in sources]
