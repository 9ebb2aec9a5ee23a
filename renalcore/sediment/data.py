"""Labelled sediment fields for training: readers, what is known of each field, and augmentation.

A field knows which classes somebody looked for in it. A class that nobody looked for is unknown there, not absent, and
`renalcore.sediment.losses` leaves it out of the loss.
"""

from __future__ import annotations

import csv
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset
from ultralytics.data.dataset import YOLODataset

from renalcore import taxonomy
from renalcore.errors import InputError, UnreadableFile
from renalcore.sediment.losses import IGNORE

Image = NDArray[np.uint8]

URISED_CLASSES = MappingProxyType(
    {
        0: taxonomy.class_id("WBC"),
        1: taxonomy.class_id("RBC"),
        2: taxonomy.class_id("WBC"),
        3: taxonomy.class_id("RBC"),
        4: taxonomy.class_id("Yeast"),
        5: taxonomy.class_id("Calcium oxalate"),
        6: taxonomy.class_id("Epithelial cell (squamous)"),
        7: IGNORE,
    }
)
"""Class ids of the `urised2k` label files in the 39-class taxonomy (broken cells count as cells)."""

URISED_SCOPES = MappingProxyType(
    {
        "all_cells": ("RBC", "WBC", "Yeast", "Calcium oxalate", "Epithelial cell (squamous)"),
        "wbc_only": ("WBC",),
        "rbc_only_incomplete": (),  # even some RBC are unboxed: only the boxes themselves are known
        "epi_only_lowpower": ("Epithelial cell (squamous)",),
    }
)
"""Classes that were looked for in a field, by the manifest's `label_scope`."""


@dataclass(frozen=True, slots=True, eq=False)
class LabelledField:
    """One field and its boxes.

    Attributes:
        path: The picture.
        boxes_px: `(N, 4)` float32, `[x1, y1, x2, y2]`.
        class_ids: `(N,)` int64 ids of the 39 classes, or `IGNORE` for a region where nothing is known.
        known: `(39,)` bool, the classes that somebody looked for.
        group: Patient or sample; fields of one group never lie on both sides of a split.
        real: False for rendered fields.
    """

    path: Path
    boxes_px: NDArray[np.float32]
    class_ids: NDArray[np.int64]
    known: NDArray[np.bool_]
    group: str
    real: bool


def read_urised(folder: Path, split: Literal["train", "val"], *, held_out: Collection[str] = ()) -> list[LabelledField]:
    """Fields of one split of a folder in the form of `urised2k` (`manifest.csv`, `images/`, `labels/`).

    Args:
        folder: Where the manifest lies.
        split: Which side.
        held_out: Groups that make up the validation side instead of the manifest's own, for cross-validation.

    Raises:
        InputError: The folder lacks its manifest, names a scope or class nobody knows, or has no such group.
    """
    manifest = folder / "manifest.csv"
    if not manifest.is_file():
        raise InputError(f"{folder} has no manifest.csv; give the folder that holds manifest.csv, images/ and labels/")
    with manifest.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    strangers = set(held_out) - {row["group"] for row in rows}
    if strangers:
        raise InputError(f"{manifest} has no group {', '.join(sorted(strangers))}; see its column `group`")

    def side(row: dict[str, str]) -> str:
        if held_out:
            return "val" if row["group"] in held_out else "train"
        return row["split"]

    return [_urised_field(folder, row) for row in rows if side(row) == split]


def _urised_field(folder: Path, row: dict[str, str]) -> LabelledField:
    if row["label_scope"] not in URISED_SCOPES:
        raise InputError(f"{folder}/manifest.csv: unknown label_scope {row['label_scope']!r} for {row['image']}")
    known = np.zeros(len(taxonomy.CLASSES), bool)
    known[[taxonomy.class_id(name) for name in URISED_SCOPES[row["label_scope"]]]] = True
    label = folder / "labels" / Path(row["image"]).with_suffix(".txt").name
    boxes, ids = _read_yolo_boxes(label, int(row["width"]), int(row["height"]))
    try:
        mapped = np.array([URISED_CLASSES[int(index)] for index in ids], np.int64)
    except KeyError as error:
        raise InputError(f"{label}: unknown class id {error}; urised2k uses 0 to 7") from None
    return LabelledField(folder / "images" / row["image"], boxes, mapped, known, row["group"], True)


def read_rendered(folder: Path) -> list[LabelledField]:
    """Fields written by `renalcore.sediment.synthetic.write_dataset`: YOLO labels of the 39 classes, all of them known.

    Raises:
        InputError: The folder has no pictures, or a label names an unknown class.
    """
    paths = sorted(path for path in (folder / "images").glob("*") if path.suffix in {".png", ".webp", ".jpg"})
    if not paths:
        raise InputError(f"{folder}/images holds no pictures; write some with `python -m renalcore synthetic`")
    fields = []
    for path in paths:
        height, width = read_rgb(path).shape[:2]
        boxes, ids = _read_yolo_boxes(folder / "labels" / f"{path.stem}.txt", width, height)
        if len(ids) and not 0 <= ids.min() <= ids.max() < len(taxonomy.CLASSES):
            raise InputError(f"{path.name}: class id {ids.max()} is not one of the 39 classes (0 to 38)")
        fields.append(LabelledField(path, boxes, ids, np.ones(len(taxonomy.CLASSES), bool), path.stem, False))
    return fields


def _read_yolo_boxes(path: Path, width: int, height: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    rows = [line.split()[:5] for line in path.read_text().splitlines() if line.strip()] if path.exists() else []
    table = np.array(rows, np.float64).reshape(-1, 5)
    centres, sides = table[:, 1:3] * (width, height), table[:, 3:5] * (width, height)
    return np.hstack((centres - sides / 2, centres + sides / 2)).astype(np.float32), table[:, 0].astype(np.int64)


def read_rgb(path: Path) -> Image:
    """A training picture as `(H, W, 3)` uint8 RGB; raises `UnreadableFile` when it cannot be decoded."""
    pixels = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR_RGB)
    if pixels is None:
        raise UnreadableFile(f"{path.name} cannot be decoded as a picture; remove it from the data set or replace it")
    return np.asarray(pixels, np.uint8)


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


def recolour(pixels: Image, options: Augmentation, rng: np.random.Generator) -> Image:
    """Another microscope's light, colour, focus and camera upon the same field."""
    low_contrast, high_contrast = np.log(options.contrast)
    low_gamma, high_gamma = np.log(options.gamma)
    if rng.random() < options.grey:
        pixels = cv2.cvtColor(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    elif rng.random() < 0.7:
        gains = 1 + rng.uniform(-1, 1, 3) * (options.hue, options.saturation, options.value)
        levels = np.arange(256)
        hsv = cv2.split(cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV))
        tables = ((levels * gains[0]) % 180, np.clip(levels * gains[1], 0, 255), np.clip(levels * gains[2], 0, 255))
        hsv = [cv2.LUT(plane, table.astype(np.uint8)) for plane, table in zip(hsv, tables, strict=True)]
        pixels = cv2.cvtColor(cv2.merge(hsv), cv2.COLOR_HSV2RGB)
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
    inside = np.clip(moved, 0, size_px)
    area = (moved[:, 2:] - moved[:, :2]).prod(1)
    visible = (inside[:, 2:] - inside[:, :2]).prod(1)
    shown = visible > 1
    ids = np.where(visible >= kept * area, class_ids, IGNORE)
    return np.asarray(window, np.uint8), inside[shown], ids[shown]


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
        self.rng = np.random.default_rng(seed)
        self.pixels: dict[Path, Image] = {}
        real = np.array([field.real for field in self.fields])
        weights = np.zeros(len(self.fields))
        for kind, share in ((real, 1 - rendered_share), (~real, rendered_share)):
            if kind.any():
                factors = repeat_factors([field for field, chosen in zip(self.fields, kind, strict=True) if chosen])
                weights[kind] = factors / factors.sum() * share
        self.weights = weights / weights.sum()

    def __len__(self) -> int:
        return self.items

    def __getitem__(self, index: int) -> dict[str, Any]:
        if self.augmentation is None:
            field = self.fields[index]
            return self._item(field, *self._on_canvas(field))
        field = self.fields[self.rng.choice(len(self.fields), p=self.weights)]
        return self._item(field, *self._augmented(field, self.augmentation))

    def _read(self, field: LabelledField) -> Image:
        if field.path not in self.pixels:
            self.pixels[field.path] = read_rgb(field.path)
        return self.pixels[field.path]

    def _on_canvas(self, field: LabelledField) -> tuple[Image, NDArray[np.float32], NDArray[np.int64]]:
        canvas = np.full((608, 800, 3), 114, np.uint8)
        pixels = self._read(field)[:608, :800]
        canvas[: pixels.shape[0], : pixels.shape[1]] = pixels
        return canvas, field.boxes_px, field.class_ids

    def _augmented(
        self, field: LabelledField, options: Augmentation
    ) -> tuple[Image, NDArray[np.float32], NDArray[np.int64]]:
        rng = self.rng
        pixels = self._read(field)
        zoom = float(np.exp(rng.uniform(*np.log(options.scale))))
        side = self.size_px / zoom
        height, width = pixels.shape[:2]
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
        window, boxes, ids = crop(
            pixels,
            field.boxes_px,
            field.class_ids,
            size_px=self.size_px,
            zoom=zoom,
            corner_px=(float(left), float(top)),
            kept=options.kept,
        )
        if rng.random() < 0.5:
            window, boxes = window[:, ::-1], boxes[:, [2, 1, 0, 3]] * (-1, 1, -1, 1) + (self.size_px, 0) * 2
        for _ in range(rng.integers(4)):  # quarter turns, exact for boxes
            window = np.rot90(window)
            boxes = np.stack((boxes[:, 1], self.size_px - boxes[:, 2], boxes[:, 3], self.size_px - boxes[:, 0]), axis=1)
        return recolour(np.ascontiguousarray(window), options, rng), boxes.astype(np.float32), ids

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
