"""Labelled sediment fields for training: crops, augmentation, and the form that Ultralytics takes.

A field (`renalcore.sediment.readers`) knows which classes somebody looked for in it. A class that nobody looked for is
unknown there, not absent, and `renalcore.sediment.losses` leaves it out of the loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset, get_worker_info
from ultralytics.data.dataset import YOLODataset

from renalcore import taxonomy
from renalcore.datasets.pictures import read_rgb
from renalcore.errors import InputError
from renalcore.sediment.names import IGNORE
from renalcore.sediment.paste import Particles
from renalcore.sediment.readers import LabelledField

Image = NDArray[np.uint8]


def check_size(size_px: int) -> None:
    """Refuse, with `InputError`, a side of a training crop that a network with strides up to 32 px cannot take."""
    if size_px < 64 or size_px % 32:
        raise InputError(f"the side of a crop must be a multiple of 32 px and at least 64, got {size_px}")


def repeat_factors(fields: Sequence[LabelledField], *, threshold: float = 1.0) -> NDArray[np.float64]:
    """How often each field is drawn relative to a common one (Gupta et al., LVIS, 2019, section 4).

    A field counts as its rarest class: `max(1, sqrt(threshold / f))`, f being the share of fields with that class.
    """
    present = np.zeros((len(fields), len(taxonomy.CLASSES)), bool)
    for row, field in enumerate(fields):
        present[row, field.class_ids[field.class_ids != IGNORE]] = True
    share = present.mean(0)
    of_class = np.sqrt(np.maximum(1.0, threshold / np.maximum(share, 1e-9)))
    factors: NDArray[np.float64] = np.where(present, of_class, 1.0).max(1)
    return factors


@dataclass(frozen=True, slots=True)
class Augmentation:
    """How hard a training crop is changed; the ranges cover microscopes other than the training data's.

    Attributes:
        scale: Zoom is drawn log-uniformly from this range: RBC of 33 px become 18 to 60 px.
        hue, saturation, value: Table 3 of the paper.
        gamma, contrast: Light and low-contrast optics; drawn log-uniformly.
        cast: Largest relative gain of one colour channel.
        blur_px: Largest Gaussian sigma; zooming already blurs.
        noise: Largest standard deviation of sensor noise in grey levels (the training files were smoothed by WebP).
        grey: Probability of a monochrome camera.
        kept: A box cut by the crop stays when this share of it is inside; otherwise its rest is ignored.
        coloured: Probability that hue, saturation and value are changed (of crops that are not grey).
        optics: Also gamma, contrast, colour cast, focus, grain and JPEG's traces.
        flip: Probability of a mirror image.
        turns: Quarter turns; a microscope field has no upper side.
        mosaic: Probability that a crop is put together from four. They come from fields in which the same classes
            were looked for, so that what is known stays the same all over the picture.
        whole: Crops show whole fields, fitted into the crop and then zoomed by `scale`, instead of parts of them.
        translate: How far such a field is moved, as a share of the crop.
        paste: Probability that particles of other real fields are laid into a crop of a real one.
        native: Probability that a crop of a real field keeps the light and focus of its microscope, and nearly its
            zoom: what the network will be shown most.
    """

    scale: tuple[float, float] = (0.55, 1.8)
    hue: float = 0.0173
    saturation: float = 0.828
    value: float = 0.238
    gamma: tuple[float, float] = (0.5, 2.0)
    contrast: tuple[float, float] = (0.4, 1.4)
    cast: float = 0.25
    blur_px: float = 1.6
    noise: float = 12.0
    grey: float = 0.15
    kept: float = 0.4
    coloured: float = 0.7
    optics: bool = True
    flip: float = 0.5
    turns: bool = True
    mosaic: float = 0.0
    whole: bool = False
    translate: float = 0.135
    paste: float = 0.5
    native: float = 0.5

    def gentle(self) -> Augmentation:
        """What is left of the changes for a crop that stays as its microscope showed it."""
        lowest, highest = self.scale
        scale = (max(lowest, 0.87), min(highest, 1.15))
        return replace(self, scale=scale, grey=0.0, coloured=min(self.coloured, 0.3), optics=False)


PAPER = Augmentation(
    scale=(0.65, 1.35),
    grey=0.0,
    coloured=1.0,
    optics=False,
    flip=0.286,
    turns=False,
    mosaic=0.408,
    whole=True,
    paste=0.0,
    native=0.0,
)
"""Table 3 of the paper and nothing else: whole fields, zoomed by 1 +- 0.35 and moved by up to 0.135."""


def recolour(pixels: Image, options: Augmentation, rng: np.random.Generator) -> Image:
    """Another microscope's light, colour, focus and camera upon the same field."""
    low_contrast, high_contrast = np.log(options.contrast)
    low_gamma, high_gamma = np.log(options.gamma)
    if rng.random() < options.grey:
        pixels = cv2.cvtColor(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    elif rng.random() < options.coloured:
        gains = 1 + rng.uniform(-1, 1, 3) * (options.hue, options.saturation, options.value)
        levels = np.arange(256)
        hsv = cv2.split(cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV))
        tables = ((levels * gains[0]) % 180, np.clip(levels * gains[1], 0, 255), np.clip(levels * gains[2], 0, 255))
        hsv = [cv2.LUT(plane, table.astype(np.uint8)) for plane, table in zip(hsv, tables, strict=True)]
        pixels = cv2.cvtColor(cv2.merge(hsv), cv2.COLOR_HSV2RGB)
    if not options.optics:
        return np.asarray(pixels, np.uint8)
    ramp = np.arange(256, dtype=np.float32)[:, None] / 255
    middle = pixels.mean((0, 1)) / 255
    if rng.random() < 0.6:
        ramp = middle + (ramp - middle) * np.exp(rng.uniform(low_contrast, high_contrast))
    if rng.random() < 0.6:
        ramp = np.clip(ramp, 0, 1) ** np.exp(rng.uniform(low_gamma, high_gamma))
    if rng.random() < 0.5:
        ramp = ramp * (1 + rng.uniform(-options.cast, options.cast, 3))
    table = (np.clip(ramp, 0, 1) * 255).astype(np.uint8)
    pixels = cv2.LUT(pixels, np.ascontiguousarray(np.broadcast_to(table, (256, 3)))[:, None])
    if rng.random() < 0.3:
        pixels = cv2.GaussianBlur(pixels, (0, 0), rng.uniform(0.3, options.blur_px))
    elif rng.random() < 0.3:
        pixels = cv2.addWeighted(pixels, 1.6, cv2.GaussianBlur(pixels, (0, 0), 1.5), -0.6, 0)
    if rng.random() < 0.6:
        grain = rng.standard_normal(pixels.shape, np.float32) * rng.uniform(1, options.noise)
        pixels = np.clip(pixels + grain, 0, 255).astype(np.uint8)
    if rng.random() < 0.3:
        _, packed = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(35, 90))])
        pixels = np.asarray(cv2.imdecode(packed, cv2.IMREAD_COLOR), np.uint8)
    return np.asarray(pixels, np.uint8)


def crop(
    pixels: Image,
    boxes_px: NDArray[np.float32],
    class_ids: NDArray[np.int64],
    *,
    size_px: int,
    zoom: float,
    corner_px: tuple[float, float],
    kept: float,
) -> tuple[Image, NDArray[np.float32], NDArray[np.int64]]:
    """A window of `size_px / zoom` px at `corner_px`, zoomed to `size_px`, with the boxes that it shows.

    Outside the field the window has the field's median colour. A box of which less than `kept` lies inside becomes a
    region to ignore.
    """
    height, width = pixels.shape[:2]
    side = round(size_px / zoom)
    left, top = round(corner_px[0]), round(corner_px[1])
    x1, y1, x2, y2 = max(left, 0), max(top, 0), min(left + side, width), min(top + side, height)
    window = pixels[y1:y2, x1:x2]
    if (x2 - x1, y2 - y1) != (side, side):
        edge = [int(level) for level in np.median(window.reshape(-1, 3)[::97], axis=0)]
        window = cv2.copyMakeBorder(
            window, y1 - top, top + side - y2, x1 - left, left + side - x2, cv2.BORDER_CONSTANT, value=edge
        )
    window = cv2.resize(window, (size_px, size_px), interpolation=cv2.INTER_AREA if zoom < 1 else cv2.INTER_LINEAR)
    ratio = size_px / side
    moved = (boxes_px - np.array([left, top, left, top], np.float32)) * ratio
    return np.asarray(window, np.uint8), *_shown(moved, class_ids, (0, 0, size_px, size_px), kept)


def _shown(
    boxes: NDArray[np.float32], class_ids: NDArray[np.int64], frame: tuple[int, int, int, int], kept: float
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The parts of boxes inside a frame `(x1, y1, x2, y2)`; of less than `kept` of a box nothing is known."""
    inside = np.clip(boxes, np.array(frame[:2] * 2, np.float32), np.array(frame[2:] * 2, np.float32))
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    visible = (inside[:, 2:] - inside[:, :2]).prod(1)
    shown = visible > 1
    ids = np.where(visible >= kept * area, class_ids, IGNORE)
    return inside[shown], ids[shown]


class SedimentDataset(Dataset[dict[str, Any]]):
    """Fields in the form that Ultralytics' trainer and validator take, plus `known`.

    For training an item is a random crop of a random field: rare classes are drawn more often (`repeat_factors`), and
    `rendered_share` of the items are rendered fields. For validation item `i` is field `i` whole, at its own size on a
    grey canvas common to all.

    Args:
        fields: What to draw from.
        size_px: Side of a training crop.
        augmentation: How crops are changed; None gives whole fields for validation.
        items: Items an epoch of training.
        rendered_share: Share of rendered fields where both kinds are given.
        seed: Makes the crops of a run repeatable.
    """

    rect = False
    collate_fn = staticmethod(lambda items: _collate(items))

    def __init__(
        self,
        fields: Sequence[LabelledField],
        *,
        size_px: int,
        augmentation: Augmentation | None,
        items: int | None = None,
        rendered_share: float = 0.3,
        seed: int = 0,
    ) -> None:
        if not fields:
            raise InputError("there are no labelled fields to train on or validate with; check the data folder")
        self.fields = list(fields)
        self.size_px = size_px
        self.augmentation = augmentation
        self.items = items or len(self.fields)
        self.seed = seed
        self.rng = np.random.default_rng(seed)
        self.worker: int | None = None
        self.pixels: dict[Path, Image] = {}
        self.known = np.stack([field.known for field in self.fields])
        real = np.array([field.real for field in self.fields])
        weights = np.zeros(len(self.fields))
        for kind, share in ((real, 1 - rendered_share), (~real, rendered_share)):
            if kind.any():
                factors = repeat_factors([field for field, chosen in zip(self.fields, kind, strict=True) if chosen])
                weights[kind] = factors / factors.sum() * share
        self.weights = weights / weights.sum()
        self.canvas = (0, 0) if augmentation else self._canvas()
        self.particles = Particles(self.fields, self._read) if augmentation and augmentation.paste else None

    def __len__(self) -> int:
        return self.items

    def __getitem__(self, index: int) -> dict[str, Any]:
        worker = get_worker_info()
        if worker is not None and worker.id != self.worker:  # else all processes would draw the same crops
            self.worker, self.rng = worker.id, np.random.default_rng((self.seed, worker.id))
        if self.augmentation is None:
            field = self.fields[index]
            return self._item(field, *self._on_canvas(field))
        field = self.fields[self.rng.choice(len(self.fields), p=self.weights)]
        native = field.real and self.rng.random() < self.augmentation.native
        options = self.augmentation.gentle() if native else self.augmentation
        return self._item(field, *self._augmented(field, options))

    def _read(self, field: LabelledField) -> Image:
        if field.path not in self.pixels:
            self.pixels[field.path] = read_rgb(field.path)
        return self.pixels[field.path]

    def _canvas(self) -> tuple[int, int]:
        """Height and width that every field fits into, in whole strides of the network."""
        sizes = np.array([self._read(field).shape[:2] for field in self.fields])
        height, width = (-(-int(side) // 32) * 32 for side in sizes.max(0))
        return height, width

    def _on_canvas(self, field: LabelledField) -> tuple[Image, NDArray[np.float32], NDArray[np.int64]]:
        canvas = np.full((*self.canvas, 3), 114, np.uint8)
        pixels = self._read(field)
        canvas[: pixels.shape[0], : pixels.shape[1]] = pixels
        return canvas, field.boxes_px, field.class_ids

    def _augmented(
        self, field: LabelledField, options: Augmentation
    ) -> tuple[Image, NDArray[np.float32], NDArray[np.int64]]:
        rng = self.rng
        window, boxes, ids = self._window(field, options)
        if options.mosaic and rng.random() < options.mosaic:
            window, boxes, ids = self._mosaic(field, (window, boxes, ids), options)
        if rng.random() < options.flip:
            window, boxes = window[:, ::-1], boxes[:, [2, 1, 0, 3]] * (-1, 1, -1, 1) + (self.size_px, 0) * 2
        for _ in range(rng.integers(4) if options.turns else 0):  # exact for boxes
            window = np.rot90(window)
            boxes = np.stack((boxes[:, 1], self.size_px - boxes[:, 2], boxes[:, 3], self.size_px - boxes[:, 0]), axis=1)
        return recolour(np.ascontiguousarray(window), options, rng), boxes.astype(np.float32), ids

    def _window(
        self, field: LabelledField, options: Augmentation
    ) -> tuple[Image, NDArray[np.float32], NDArray[np.int64]]:
        """A crop of a field, before it is turned and recoloured."""
        rng = self.rng
        pixels = self._read(field)
        height, width = pixels.shape[:2]
        if options.whole:
            zoom = self.size_px / max(height, width) * rng.uniform(*options.scale)
            side = self.size_px / zoom
            left, top = (np.array([width, height]) - side) / 2 + side * rng.uniform(-1, 1, 2) * options.translate
        else:
            zoom = float(np.exp(rng.uniform(*np.log(options.scale))))
            side = self.size_px / zoom
            left, top = self._corner(field, side, (width, height))
        window, boxes, ids = crop(
            pixels,
            field.boxes_px,
            field.class_ids,
            size_px=self.size_px,
            zoom=zoom,
            corner_px=(float(left), float(top)),
            kept=options.kept,
        )
        if self.particles is not None and rng.random() < options.paste:
            return self.particles.paste(window, boxes, ids, field=field, zoom=zoom, rng=rng)
        return window, boxes, ids

    def _corner(self, field: LabelledField, side: float, size: tuple[int, int]) -> tuple[float, float]:
        """Where a window of `side` px lies in a field of `size` (width, height)."""
        rng = self.rng
        width, height = size
        objects = np.flatnonzero(field.class_ids != IGNORE)
        if len(objects) and rng.random() < 0.7:  # most crops hold at least one object
            kind = rng.choice(np.unique(field.class_ids[objects]))  # a rare class beside a common one is seen as often
            box = field.boxes_px[rng.choice(np.flatnonzero(field.class_ids == kind))]
            centre = (box[:2] + box[2:]) / 2
            left, top = centre - side * rng.uniform(0.15, 0.85, 2)
        else:
            left, top = rng.uniform(0, 1, 2) * (width - side, height - side)
        slack = 0.1 * side
        left = np.clip(left, min(-slack, width - side), max(width - side + slack, 0))
        top = np.clip(top, min(-slack, height - side), max(height - side + slack, 0))
        return float(left), float(top)

    def _mosaic(
        self,
        field: LabelledField,
        first: tuple[Image, NDArray[np.float32], NDArray[np.int64]],
        options: Augmentation,
    ) -> tuple[Image, NDArray[np.float32], NDArray[np.int64]]:
        """Four crops around a point: a quarter of `first` beside quarters of fields that are labelled as `field` is."""
        rng, size = self.rng, self.size_px
        alike = (self.known == field.known).all(1)
        chances = self.weights * alike / (self.weights * alike).sum()
        others = [self.fields[index] for index in rng.choice(len(self.fields), 3, p=chances)]
        x, y = (int(at) for at in rng.integers(size // 4, size - size // 4, 2))
        frames = [(0, 0, x, y), (x, 0, size, y), (0, y, x, size), (x, y, size, size)]
        rng.shuffle(frames)
        canvas = np.empty((size, size, 3), np.uint8)
        boxes, ids = [], []
        for frame, part in zip(frames, [first, *(self._window(other, options) for other in others)], strict=True):
            x1, y1, x2, y2 = frame
            canvas[y1:y2, x1:x2] = part[0][y1:y2, x1:x2]
            inside, of = _shown(part[1], part[2], frame, options.kept)
            boxes.append(inside)
            ids.append(of)
        return canvas, np.concatenate(boxes), np.concatenate(ids)

    def _item(
        self, field: LabelledField, pixels: Image, boxes: NDArray[np.float32], ids: NDArray[np.int64]
    ) -> dict[str, Any]:
        height, width = pixels.shape[:2]
        normal = np.hstack(((boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2])) / ((width, height) * 2)
        return {
            "img": torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))),
            "cls": torch.from_numpy(ids.astype(np.float32)).view(-1, 1),
            "bboxes": torch.from_numpy(normal.astype(np.float32)).view(-1, 4),
            "batch_idx": torch.zeros(len(ids)),
            "known": torch.from_numpy(field.known),
            "im_file": str(field.path),
            "ori_shape": (height, width),
            "resized_shape": (height, width),
            "ratio_pad": ((1.0, 1.0), (0.0, 0.0)),
        }


def _collate(items: list[dict[str, Any]]) -> dict[str, Any]:
    batch: dict[str, Any] = YOLODataset.collate_fn(items)
    batch["known"] = torch.stack(batch["known"])
    return batch
