"""The multi-head network as an inference engine wants it: pixels in, one box and one best class an anchor out.

In its own form the network answers 43 columns for each of 50,400 anchors of a 640-px slice, most of them zeros of other
groups' classes. An anchor belongs to one head, and Ultralytics' NMS uses nothing of an anchor but its best class, so
six columns say the same in a seventh of the memory.
"""

from __future__ import annotations

import copy
import threading
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from ultralytics.utils.tal import dist2bbox, make_anchors

from renalcore import taxonomy
from renalcore.sediment.networks import (
    MultiHeadDetect,
    MultiHeadDetectionModel,
    QueryDetectionModel,
    SingleHeadDetectionModel,
)


class CompactDetector(nn.Module):
    """A copy of a trained `MultiHeadDetectionModel`, its batch norms folded, answering `(boxes, scores, class ids)`.

    Takes `(N, H, W, 3)` uint8 RGB with H and W multiples of 32. Gives boxes `(N, A, 4)` as x1, y1, x2, y2 in px, scores
    `(N, A)` in 0..1 and class ids `(N, A)` int32 among the 39, the anchors of the six heads behind each other. Keeps no
    state between calls, unlike Ultralytics' `Detect`, which remembers the anchors of the last size it saw.
    """

    def __init__(self, model: MultiHeadDetectionModel | SingleHeadDetectionModel) -> None:
        super().__init__()
        model = copy.deepcopy(model).eval().fuse(verbose=False)  # folding changes a model in place
        layers: Any = model.model
        self.trunk = nn.ModuleList(layers[:-1])
        self.kept_layers = frozenset(model.save)
        self.head: MultiHeadDetect = layers[-1]
        self.strides = [float(stride) for stride in self.head.stride]
        self.head.dfl.requires_grad_(False)
        for index, ids in enumerate(self._class_ids()):
            self.register_buffer(f"class_ids_{index}", torch.tensor(ids, dtype=torch.int32), persistent=False)

    def _class_ids(self) -> list[list[int]]:
        """The classes among which an anchor has one answer, list by list."""
        found: list[list[int]] = self.head.class_ids
        return found

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes, scores and class ids of every anchor."""
        features = self._features(pixels)
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

    def _features(self, pixels: Tensor) -> list[Tensor]:
        picture: Any = pixels.permute(0, 3, 1, 2).to(next(self.trunk.parameters()).dtype) / 255
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


class ScoreNetwork(CompactDetector):
    """A `CompactDetector` without its box towers, which `towers.BoxTowers` computes for the anchors that need a box.

    Answers `(scores, class ids, P3, P4, P5)`: the feature maps `(N, H + 2, W + 2, C)`, with a border of zeros.
    """

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]  # it answers something else
        """Scores and class ids of every anchor, and what their boxes are made from."""
        features = self._features(pixels)
        scores, classes = [], []
        for index, head in enumerate(self.head.heads):
            towers = zip(head.cv3, features, strict=True)
            best, which = torch.cat([tower(level).flatten(2) for tower, level in towers], 2).max(dim=1)
            scores.append(best.float().sigmoid())
            classes.append(getattr(self, f"class_ids_{index}")[which])
        bordered = [functional.pad(level.float(), (1, 1, 1, 1)).permute(0, 2, 3, 1) for level in features]
        return torch.cat(scores, 1), torch.cat(classes, 1), *bordered


class CompactSingleHead(CompactDetector):
    """A plain YOLO in the form of `CompactDetector`: an anchor has one answer in each of the six groups.

    So it can say of one place as much as a multi-head network can, and the two are ranked alike.
    """

    def _class_ids(self) -> list[list[int]]:
        return [list(taxonomy.ids_of(group)) for group in taxonomy.Group]

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes, scores and class ids of every anchor, once a group."""
        features = self._features(pixels)
        points, strides = make_anchors(features, self.strides, 0.5)
        points, strides = points.float(), strides.float()
        head: Any = self.head
        found = head.forward_head(features, **head.one2many)
        boxes = dist2bbox(head.dfl(found["boxes"]).float().transpose(1, 2), points, xywh=False, dim=-1) * strides
        scores, classes = [], []
        for index in range(len(taxonomy.Group)):
            ids: Tensor = getattr(self, f"class_ids_{index}")
            best, which = found["scores"].index_select(1, ids).max(dim=1)
            scores.append(best.float().sigmoid())
            classes.append(ids[which])
        return torch.cat([boxes] * len(scores), 1), torch.cat(scores, 1), torch.cat(classes, 1)


class CompactQueries(nn.Module):
    """RT-DETR in the same form: the answers of its 300 best queries, with their classes.

    Runs in torch only, one call at a time: its decoder remembers the size it saw last.
    """

    def __init__(self, model: QueryDetectionModel) -> None:
        super().__init__()
        self.model: Any = copy.deepcopy(model).eval().fuse(verbose=False)
        self._lock = threading.Lock()

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes, scores and class ids of every answer."""
        height, width = pixels.shape[1:3]
        pictures = pixels.permute(0, 3, 1, 2).to(next(self.parameters()).dtype) / 255
        with self._lock:
            found = self.model.predict(pictures)[0].float()
        centres, sides = found[..., :2], found[..., 2:4]
        boxes = torch.cat((centres - sides / 2, centres + sides / 2), 2) * found.new_tensor([width, height] * 2)
        return boxes, found[..., 4], found[..., 5].int()


def compact(model: MultiHeadDetectionModel | SingleHeadDetectionModel | QueryDetectionModel) -> nn.Module:
    """The compact form of one of `networks.NETWORKS`."""
    if isinstance(model, QueryDetectionModel):
        return CompactQueries(model)
    return CompactSingleHead(model) if isinstance(model, SingleHeadDetectionModel) else CompactDetector(model)
