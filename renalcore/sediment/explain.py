"""Why the multi-head detector says what it says: Grad-CAM for a box and for a class.

Selvaraju et al., "Grad-CAM" (2017), eq. 1 and 2: the gradient of a score with regard to feature maps A_k, averaged
over each, gives a weight a_k for each map, and the heat is ReLU(sum_k a_k A_k). Here the score is the class logit,
before the sigmoid, at the anchor that gave the box, in the head of the class's group; the maps are P3, P4 or P5,
whichever the anchor belongs to. Alizadeh et al. (2025), Fig. 5, shows such maps next to the boxes.

The average is Grad-CAM's weak point here. The class towers of the head answer to contrast: on a ring like an
erythrocyte the gradient of a map is positive in some cells and negative in the next, and the average cancels out. Of
224 annotated boxes in 30 real fields (val split of urised2k) its map was empty for 13 (9 of 67 WBC, 3 of 25 RBC, 1 of
68 calcium oxalate), and its hottest cell lay within the box for 176 (11 of the 25 RBC). So the gradient is taken cell
by cell by default (HiResCAM, Draelos and Carin 2020, the same but for the average): no map empty, the hottest cell
within the box for 218 (all 25 RBC). The published form is a choice away.

An anchor's logit depends on the few cells of its map around it, and its gradient is exactly zero elsewhere. A map is
kept to these cells, and that of a class is the sum of its boxes' maps. So heat near a box follows from how the map is
made and is no evidence that the model ignores the background; what can be read is where within these cells it lies.
Without that limit the class weights of the shipped detector gave more heat to glass than to cells on a rendered field.

A large field is explained in the slices in which it was searched, one at a time, and only where they hold a box.
Gradients need torch, on the CPU or on CUDA; OpenVINO computes none.
"""

from __future__ import annotations

import io
import threading
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

from renalcore import models, taxonomy
from renalcore.engine import devices
from renalcore.errors import ModelError
from renalcore.models import ModelCard
from renalcore.sediment.networks import MultiHeadDetectionModel, build, load_weights
from renalcore.sediment.predict import DEFAULT_MODEL
from renalcore.sediment.slicing import Slicing, slice_boxes
from renalcore.types import Detections, Field

Heat = NDArray[np.float32]
"""`(H, W)`, 0 where nothing speaks for the class, 1 where most does."""

_GREY = 114  # what a picture is padded with for the search


@dataclass(frozen=True, slots=True, eq=False)
class BoxMap:
    """Where the evidence for one box lies.

    Attributes:
        box_px: The box, `[x1, y1, x2, y2]` in px of the field.
        class_name: The class that the map speaks for.
        score: The box's score, 0..1.
        window: The heat inside `place_px`, `(h, w)` float32 in 0..1; it is zero elsewhere.
        place_px: The window's left, top, right and bottom in the field, in px.
        field_px: Height and width of the field, in px.
    """

    box_px: tuple[float, float, float, float]
    class_name: str
    score: float
    window: Heat
    place_px: tuple[int, int, int, int]
    field_px: tuple[int, int]

    @property
    def heat(self) -> Heat:
        """The map over the whole field, `(H, W)` float32 in 0..1."""
        whole = np.zeros(self.field_px, np.float32)
        left, top, right, bottom = self.place_px
        whole[top:bottom, left:right] = self.window
        return whole


@dataclass(frozen=True, slots=True, eq=False)
class ClassMap:
    """Where the evidence for a class lies, summed over its boxes.

    Attributes:
        class_name: The class.
        boxes_px: The boxes that it explains, `(N, 4)` float32.
        heat: `(H, W)` float32 in 0..1.
    """

    class_name: str
    boxes_px: NDArray[np.float32]
    heat: Heat


@dataclass(frozen=True, slots=True, eq=False)
class Explanation:
    """The maps of the boxes of one field, in the boxes' order, and of their classes, in the model's order."""

    boxes: tuple[BoxMap, ...]
    classes: tuple[ClassMap, ...]


@dataclass(frozen=True, slots=True)
class _Anchor:
    """Where in the network's answer a box came from: head, class within it, level, row and column."""

    group: int
    local_class: int
    level: int
    row: int
    column: int


def grad_cam(features: Tensor, gradient: Tensor) -> Tensor:
    """Selvaraju et al. (2017), equations 1 and 2.

    Args:
        features: The maps A_k, `(K, h, w)`.
        gradient: Of the score with regard to them, `(K, h, w)`.

    Returns:
        ReLU(sum_k a_k A_k), `(h, w)`, a_k being the mean of the k-th gradient.
    """
    weights = gradient.mean(dim=(1, 2))
    return torch.einsum("k,khw->hw", weights, features).relu()


def hires_cam(features: Tensor, gradient: Tensor) -> Tensor:
    """Draelos and Carin (2020), "Use HiResCAM instead of Grad-CAM for faithful explanations", equation 3.

    Args:
        features: The maps A_k, `(K, h, w)`.
        gradient: Of the score with regard to them, `(K, h, w)`.

    Returns:
        ReLU(sum_k dy/dA_k A_k), `(h, w)`, the gradient dy/dA_k taken cell by cell.
    """
    return (gradient * features).sum(dim=0).relu()


Method = Literal["hires-cam", "grad-cam"]
METHODS: Final[Mapping[Method, Callable[[Tensor, Tensor], Tensor]]] = MappingProxyType(
    {"hires-cam": hires_cam, "grad-cam": grad_cam}
)
"""What turns feature maps and the gradient of a score into heat, by name."""


class Explainer:
    """A loaded multi-head detector that gives reasons. Threads that share one wait for each other.

    Args:
        card: The model.
        network: Its network, with its weights.
        device: A torch device, `cpu` or `cuda`.
        method: What makes the heat.
    """

    def __init__(
        self, card: ModelCard, network: MultiHeadDetectionModel, device: str = "cpu", *, method: Method = "hires-cam"
    ) -> None:
        self.card = card
        self._heat = METHODS[method]
        self._device = torch.device(device)
        self._network: Any = network.eval().requires_grad_(False).float().to(self._device)
        self._head: Any = self._network.model[-1]
        self._slicing = Slicing(slice_px=card.input.slice_px, overlap=card.input.overlap)
        self._lock = threading.Lock()  # Ultralytics' head remembers the anchors of the last size

    @classmethod
    def load(
        cls,
        key: str = DEFAULT_MODEL,
        *,
        device: str = "auto",
        root: Path = models.WEIGHTS,
        method: Method = "hires-cam",
    ) -> Explainer:
        """The model called `key`, its weights checked against its card.

        Args:
            key: One of `models`.
            device: `cuda`, `cpu`, or `auto`: the first of them that is here.
            root: The folder of models.
            method: What makes the heat.

        Raises:
            UnknownName: There is no such model or device.
            ModelError: It is not a multi-head detector, its weights are missing or altered, or the device is absent or
                computes no gradients.
        """
        card = models.card(key, root)
        if card.modality != "sediment" or card.network != "multihead":
            raise ModelError(f"{key} has no heat maps: they are made for the multi-head sediment detectors only")
        if device.startswith("openvino"):
            raise ModelError("OpenVINO computes no gradients, which heat maps are made of; use --device cpu or cuda")
        chosen = devices.choose(device)
        network = build(card.scale)  # type: ignore[arg-type]  # refused there when unknown
        load_weights(network, models.weights_path(card, root))
        return cls(card, network, "cuda" if chosen.kind == "cuda" else "cpu", method=method)

    def explain(self, field: Field, found: Detections) -> Explanation:
        """The maps of some boxes of a field, and of the classes of these boxes.

        Each slice that holds boxes is computed once. A class map is the sum of its boxes' maps, each of maximum
        1, for gradients of different levels have no common scale; the sum is scaled to 0..1.

        Args:
            field: The picture.
            found: Boxes of it, as `SedimentDetector.predict` gives them, or as a person drew them.

        Raises:
            ValueError: `found` is of other classes than the model's, or the picture is not `(H, W, 3)` uint8.
        """
        if found.classes != self.card.classes:
            raise ValueError(f"the boxes are of other classes than those of {self.card.key}")
        if field.pixels.ndim != 3 or field.pixels.shape[2] != 3 or field.pixels.dtype != np.uint8:
            raise ValueError(f"a field is (H, W, 3) uint8, got {field.pixels.shape} {field.pixels.dtype}")
        whole = (0, 0, field.width_px, field.height_px)
        slices = slice_boxes(field.width_px, field.height_px, self._slicing)
        held: dict[tuple[int, int, int, int], list[int]] = defaultdict(list)
        for index, box in enumerate(found.boxes_px):
            held[_slice_of(box, slices) or whole].append(index)
        boxes: dict[int, BoxMap] = {}
        classes: dict[int, Heat] = {}
        for place, indices in held.items():
            with self._lock:
                self._explain_slice(field, found, place, indices, boxes, classes)
        return Explanation(
            tuple(boxes[index] for index in range(len(found))),
            tuple(
                ClassMap(self.card.classes[class_id], found.boxes_px[found.class_ids == class_id], _scaled(heat))
                for class_id, heat in sorted(classes.items())
            ),
        )

    def _explain_slice(
        self,
        field: Field,
        found: Detections,
        place: tuple[int, int, int, int],
        indices: list[int],
        boxes: dict[int, BoxMap],
        classes: dict[int, Heat],
    ) -> None:
        """Add the maps of the boxes that one slice holds to `boxes` and to the map of their `classes`."""
        left, top, right, bottom = place
        pixels = field.pixels[top:bottom, left:right]
        longest = max(pixels.shape[:2])
        scale = 1.0  # px of the field for one of the network's
        if longest > self._slicing.one_pass_share * self._slicing.slice_px:
            scale = longest / self._slicing.slice_px
            size = (max(1, round(pixels.shape[1] / scale)), max(1, round(pixels.shape[0] / scale)))
            pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
        height, width = pixels.shape[:2]
        with torch.no_grad():
            answer, raw = self._network(self._padded(pixels))
        features: list[Tensor] = [level.detach().requires_grad_() for level in raw["feats"]]
        corner = np.array([left, top, left, top], np.float32)
        anchors = {
            index: self._anchor(
                answer[0], features, (found.boxes_px[index] - corner) / scale, int(found.class_ids[index])
            )
            for index in indices
        }
        logits = {
            (group, level): self._head.heads[group].cv3[level](features[level])
            for group, level in {(anchor.group, anchor.level) for anchor in anchors.values()}
        }
        for index, anchor in anchors.items():
            logit = logits[anchor.group, anchor.level][0, anchor.local_class, anchor.row, anchor.column]
            (gradient,) = torch.autograd.grad(logit, features[anchor.level], retain_graph=True)
            cells = self._heat(features[anchor.level][0].detach(), gradient[0])
            window, (x, y) = _window(cells, gradient[0], int(self._stride(anchor.level)))
            window = window[: max(1, height - y), : max(1, width - x)]  # without the padding
            if scale != 1:
                window = cv2.resize(window, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
            x1, y1 = left + round(x * scale), top + round(y * scale)
            window = window[: field.height_px - y1, : field.width_px - x1]
            box = tuple(found.boxes_px[index].tolist())
            boxes[index] = BoxMap(
                (box[0], box[1], box[2], box[3]),
                self.card.classes[found.class_ids[index]],
                float(found.scores[index]),
                _scaled(np.asarray(window, np.float32)),
                (x1, y1, x1 + window.shape[1], y1 + window.shape[0]),
                (field.height_px, field.width_px),
            )
            class_id, of_box = int(found.class_ids[index]), boxes[index]
            if class_id not in classes:
                classes[class_id] = np.zeros(of_box.field_px, np.float32)
            x1, y1, x2, y2 = of_box.place_px
            classes[class_id][y1:y2, x1:x2] += of_box.window

    def _stride(self, level: int) -> float:
        return float(self._head.stride[level])

    def _padded(self, pixels: NDArray[np.uint8]) -> Tensor:
        """The picture as the network takes it, each axis filled up with grey to a multiple of 32."""
        height, width = pixels.shape[:2]
        padded = np.full((-(-height // 32) * 32, -(-width // 32) * 32, 3), _GREY, np.uint8)
        padded[:height, :width] = pixels
        return torch.from_numpy(padded).to(self._device).permute(2, 0, 1)[None].float() / 255

    def _anchor(self, answer: Tensor, features: list[Tensor], box: NDArray[np.float32], class_id: int) -> _Anchor:
        """The anchor that gave a box: best by its score for the class times its overlap with the box.

        Where none overlaps, as with a box drawn by a person on empty glass, the one whose own box has the nearest
        centre.
        """
        group = next(index for index, ids in enumerate(self._head.class_ids) if class_id in ids)
        sizes = [(level.shape[2], level.shape[3]) for level in features]
        number = sum(rows * columns for rows, columns in sizes)
        mine = answer[:, group * number : (group + 1) * number]
        x, y, width, height = mine[:4]
        x1, y1, x2, y2 = (float(value) for value in box)
        across = (x + width / 2).clamp(max=x2) - (x - width / 2).clamp(min=x1)
        down = (y + height / 2).clamp(max=y2) - (y - height / 2).clamp(min=y1)
        overlap = across.clamp(min=0) * down.clamp(min=0)
        iou = overlap / (width * height + (x2 - x1) * (y2 - y1) - overlap).clamp(min=1e-9)
        fit = iou * mine[4 + class_id]
        if not bool((fit > 0).any()):
            fit = -torch.hypot(x - (x1 + x2) / 2, y - (y1 + y2) / 2)
        best = int(fit.argmax())
        level = 0
        while best >= sizes[level][0] * sizes[level][1]:
            best -= sizes[level][0] * sizes[level][1]
            level += 1
        row, column = divmod(best, sizes[level][1])
        return _Anchor(group, self._head.class_ids[group].index(class_id), level, row, column)


def _slice_of(box: NDArray[np.float32], slices: list[tuple[int, int, int, int]]) -> tuple[int, int, int, int] | None:
    """Of the slices that hold the whole box the one whose middle is nearest, or None."""
    holding = [
        place
        for place in slices
        if box[0] >= place[0] and box[1] >= place[1] and box[2] <= place[2] and box[3] <= place[3]
    ]

    def off_middle(place: tuple[int, int, int, int]) -> float:
        across, down = (place[0] + place[2] - box[0] - box[2]) / 2, (place[1] + place[3] - box[1] - box[3]) / 2
        return float(np.hypot(across, down))

    return min(holding, key=off_middle, default=None)


def _window(cells: Tensor, gradient: Tensor, stride: int) -> tuple[Heat, tuple[int, int]]:
    """The heat where the gradient is not zero, in px, and the left and top of it in px."""
    touched = (gradient != 0).any(dim=0)
    cam = cells * touched
    rows, columns = torch.nonzero(touched.any(dim=1)).flatten(), torch.nonzero(touched.any(dim=0)).flatten()
    if not len(rows):  # a class tower that ignores the picture
        return np.zeros((stride, stride), np.float32), (0, 0)
    # One cell more on each side, which is zero: the interpolation then ends as that of the whole map would.
    top, bottom = max(0, int(rows[0]) - 1), int(rows[-1]) + 2
    left, right = max(0, int(columns[0]) - 1), int(columns[-1]) + 2
    return _upsampled(cam[top:bottom, left:right], stride), (left * stride, top * stride)


def _upsampled(cam: Tensor, stride: int) -> Heat:
    heat = functional.interpolate(cam[None, None], scale_factor=stride, mode="bilinear", align_corners=False)[0, 0]
    return np.asarray(heat.cpu().numpy(), np.float32)


def _scaled(heat: Heat) -> Heat:
    """The map with its maximum at 1; one without any heat stays zero."""
    most = float(heat.max(initial=0.0))
    return heat / np.float32(most) if most > 0 else heat


def overlay(pixels: NDArray[np.uint8], heat: Heat, *, opacity: float = 0.55) -> NDArray[np.uint8]:
    """A field under its heat map, in viridis: perceptually uniform, and ordered for every kind of colour vision.

    Args:
        pixels: `(H, W, 3)` uint8 RGB.
        heat: `(H, W)` in 0..1.
        opacity: Share of the map's colours in the picture.

    Returns:
        `(H, W, 3)` uint8 RGB.

    Raises:
        ValueError: The sizes differ, or `opacity` leaves 0..1.
    """
    if pixels.shape[:2] != heat.shape:
        raise ValueError(f"the map must be as large as the field, got {heat.shape} for {pixels.shape[:2]}")
    if not 0 <= opacity <= 1:
        raise ValueError(f"opacity must lie in 0..1, got {opacity}")
    colours = _viridis()[_levels(heat)]
    return np.asarray(cv2.addWeighted(pixels, 1 - opacity, np.ascontiguousarray(colours), opacity, 0), np.uint8)


def png(heat: Heat) -> bytes:
    """A map as a PNG to lay over its field: in viridis, opaque where the heat is 1, clear where there is none.

    Args:
        heat: `(H, W)` in 0..1.
    """
    picture = Image.fromarray(_levels(heat))
    picture.putpalette(_viridis().tobytes())
    stream = io.BytesIO()
    clear = np.rint(255 * np.sqrt(np.linspace(0, 1, 256)))  # the root keeps faint heat in sight
    picture.save(stream, "PNG", transparency=clear.astype(np.uint8).tobytes())
    return stream.getvalue()


def _levels(heat: Heat) -> NDArray[np.uint8]:
    levels: NDArray[np.uint8] = np.rint(heat.clip(0, 1) * 255).astype(np.uint8)
    return levels


def _viridis() -> NDArray[np.uint8]:
    """Its 256 colours, `(256, 3)` RGB."""
    steps = np.arange(256, dtype=np.uint8)[:, None]
    return np.ascontiguousarray(cv2.applyColorMap(steps, cv2.COLORMAP_VIRIDIS)[:, 0, ::-1])


def panels(field: Field, found: Detections, heat: Heat, *, title: str, longest_px: int = 1600) -> NDArray[np.uint8]:
    """Field, boxes and heat map beside each other, as Fig. 5 of Alizadeh et al. (2025).

    Args:
        field: The picture.
        found: Boxes to draw, in the colours of their groups, with class and score.
        heat: `(H, W)` in 0..1.
        title: What the heat map explains.
        longest_px: A larger field is drawn smaller, its longer side at this.

    Returns:
        One `(h, w, 3)` uint8 RGB picture.
    """
    scale = min(1.0, longest_px / max(field.width_px, field.height_px))
    size = (max(1, round(field.width_px * scale)), max(1, round(field.height_px * scale)))
    pixels = np.asarray(cv2.resize(field.pixels, size, interpolation=cv2.INTER_AREA), np.uint8)
    hot = overlay(pixels, np.asarray(cv2.resize(heat, size, interpolation=cv2.INTER_AREA), np.float32))
    boxed = pixels.copy()
    for box, name, score in zip(found.boxes_px * scale, found.names, found.scores, strict=True):
        colour = taxonomy.particle(name).colour.lstrip("#")
        rgb = tuple(int(colour[place : place + 2], 16) for place in (0, 2, 4))
        x1, y1, x2, y2 = (round(float(value)) for value in box)
        cv2.rectangle(boxed, (x1, y1), (x2, y2), rgb, 2)
        cv2.putText(boxed, f"{name} {score:.2f}", (x1, max(10, y1 - 4)), _FONT, 0.4, rgb, 1, cv2.LINE_AA)
    parts = [_headed(part, words) for part, words in ((pixels, field.name), (boxed, "boxes"), (hot, title))]
    gap = np.full((parts[0].shape[0], 8, 3), 255, np.uint8)
    return np.hstack([parts[0], gap, parts[1], gap, parts[2]])


_FONT = cv2.FONT_HERSHEY_SIMPLEX


def _headed(picture: NDArray[np.uint8], words: str) -> NDArray[np.uint8]:
    strip = np.full((24, picture.shape[1], 3), 255, np.uint8)
    cv2.putText(strip, words, (4, 17), _FONT, 0.5, (30, 30, 30), 1, cv2.LINE_AA)
    return np.vstack([strip, picture])
