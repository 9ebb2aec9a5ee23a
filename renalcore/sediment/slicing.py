"""Sliced search of one field: cut, find, put together.

From SAHI come the slices (`sahi.slicing.get_slice_bboxes`), the model interface (`sahi.models.base.DetectionModel`,
behind which `SahiDetector` puts any finder of ours) and the suppression of duplicates across slices
(`sahi.postprocess.combine.batched_nms` and `nms`). What SAHI does with a Python object for each box, shifting,
filtering, wrapping and unwrapping, is done here on one array for all boxes: its cost grows with the boxes of a dense
field and would be most of the time on a GPU. `sahi.predict.get_sliced_prediction` takes the same `SahiDetector` and
gives the same boxes; a test compares them.

Ours, since SAHI has no such step:

* An axis up to `one_pass_share` slices long is not cut: two slices would overlap almost wholly.
* What is cut by an inner border of its slice and would fit into the overlap is left out: the neighbouring slice shows
  it whole. A longer cut piece is left out where a whole box covers it.
* The whole image, scaled down to a slice, is searched too, and exactly the boxes that no slice contains are taken from
  it. They are larger than the overlap, which is what slices can miss.
* Of two labels on one particle the better-scored one stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray
from sahi.models.base import DetectionModel
from sahi.postprocess.backends import set_postprocess_backend
from sahi.postprocess.combine import batched_nms, nms
from sahi.prediction import ObjectPrediction
from sahi.slicing import get_slice_bboxes

Boxes = NDArray[np.float32]
"""`(N, 6)`: x1, y1, x2, y2 in px, score, class id. SAHI's columns."""

NO_BOXES: Boxes = np.zeros((0, 6), np.float32)

# Said once at import, as SAHI asks: its other choices import torch, and are slower for some hundred boxes.
set_postprocess_backend("numpy")


@dataclass(frozen=True, slots=True)
class Slicing:
    """How a field is cut and its boxes put together.

    Attributes:
        slice_px: Side of a slice; the paper's 640.
        overlap: Share of a slice in common with the next; the paper's 0.25, which holds objects up to 160 px whole.
        one_pass_share: An axis up to this many slices long is searched in one piece.
        batch_size: Slices handed to the network at once.
        iou: Overlap from which two boxes of one class are one object.
        one_label_iou: Overlap from which two boxes of different classes are one particle, or None to keep both labels.
            Lower would join a cell with another that lies half upon it; higher would split the labels of small cells,
            whose boxes of 20 px agree no better than this between two heads.
        border_px: A box that ends this near to an inner border of its slice is cut by it. None keeps cut boxes.
        covered: Share of a cut piece's area that a whole box must cover to replace it.
        whole_image: Search the scaled-down image too, for objects that no slice holds.
    """

    slice_px: int = 640
    overlap: float = 0.25
    one_pass_share: float = 1.25
    batch_size: int = 8
    iou: float = 0.5
    one_label_iou: float | None = 0.7
    border_px: float | None = 3.0
    covered: float = 0.7
    whole_image: bool = True

    def __post_init__(self) -> None:
        if self.slice_px < 32 or self.slice_px % 32:
            raise ValueError(f"slice_px must be a multiple of 32, got {self.slice_px}")
        if not 0 <= self.overlap < 1:
            raise ValueError(f"overlap must lie in 0..1, got {self.overlap}")
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")


STANDARD = Slicing()
PLAIN_SAHI = replace(STANDARD, one_label_iou=None, border_px=None, whole_image=False)
"""Only what `get_sliced_prediction` does with `perform_standard_pred=False`: for comparisons with it."""


class Finder(Protocol):
    """Finds objects in pictures of one size; the seam where a network, or a test's stand-in, goes in."""

    def find(self, pictures: NDArray[np.uint8], *, min_score: float) -> Sequence[Boxes]:
        """The boxes of each of the `(N, H, W, 3)` RGB pictures; H and W are multiples of 32."""
        ...


class FittedFinder:
    """Shows a finder every picture fitted into a square, as a network wants it that was trained on whole fields.

    Args:
        finder: Searches the fitted picture.
        size_px: Side of the square.
    """

    def __init__(self, finder: Finder, size_px: int) -> None:
        self._finder = finder
        self._size_px = size_px

    def find(self, pictures: NDArray[np.uint8], *, min_score: float) -> list[Boxes]:
        """The boxes of each picture, in px of the picture as it was given."""
        height, width = pictures.shape[1:3]
        zoom = self._size_px / max(height, width)
        across, down = max(1, round(width * zoom)), max(1, round(height * zoom))
        fitted = np.full((len(pictures), _up(down), _up(across), 3), 114, np.uint8)
        for picture, place in zip(pictures, fitted, strict=True):
            way = cv2.INTER_AREA if zoom < 1 else cv2.INTER_LINEAR
            place[:down, :across] = cv2.resize(picture, (across, down), interpolation=way)
        scale = np.array([width / across, height / down] * 2 + [1, 1], np.float32)
        return [boxes * scale for boxes in self._finder.find(fitted, min_score=min_score)]


class SahiDetector(DetectionModel):  # type: ignore[misc]  # SAHI has no types for mypy to see
    """A `Finder` behind SAHI's model interface.

    SAHI keeps a batch's answer on the model object, so an object serves one search only; the finder behind it may be
    shared.
    """

    def __init__(self, finder: Finder, classes: Sequence[str], *, min_score: float) -> None:
        mapping = {str(index): name for index, name in enumerate(classes)}
        super().__init__(model=finder, confidence_threshold=min_score, category_mapping=mapping, device="cpu")

    def set_device(self, device: str | None = None) -> None:
        """Keep the word; the finder has chosen its device."""
        self.device = device

    def set_model(self, model: Finder, **_: Any) -> None:
        """Take the finder."""
        self.model = model

    def perform_inference(self, image: NDArray[np.uint8]) -> None:
        """Search one RGB picture."""
        self.perform_batch_inference([image])

    def perform_batch_inference(self, images: Sequence[NDArray[np.uint8]]) -> None:
        """Search RGB pictures of one size; `original_predictions` then holds one `Boxes` a picture."""
        height, width = images[0].shape[:2]
        padded = np.full((len(images), _up(height), _up(width), 3), 114, np.uint8)  # Ultralytics' grey
        for index, image in enumerate(images):
            padded[index, :height, :width] = image
        self._original_predictions = [
            _clipped(found, width, height) for found in self.model.find(padded, min_score=self.confidence_threshold)
        ]

    def _create_object_prediction_list_from_original_predictions(
        self,
        shift_amount_list: Any = None,
        full_shape_list: Any = None,
    ) -> None:
        """SAHI's objects, for SAHI's own functions; `search` does without them."""
        found: list[Boxes] = self._original_predictions
        shifts = shift_amount_list or [[0, 0]] * len(found)
        shifts = shifts if isinstance(shifts[0], Sequence) else [shifts]
        shapes = full_shape_list or [None] * len(found)
        shapes = shapes if shapes[0] is None or isinstance(shapes[0], Sequence) else [shapes]
        names: dict[str, str] = self.category_mapping
        self._object_prediction_list_per_image = [
            [
                ObjectPrediction(
                    bbox=row[:4].tolist(),
                    score=float(row[4]),
                    category_id=int(row[5]),
                    category_name=names[str(int(row[5]))],
                    shift_amount=shift,
                    full_shape=shape,
                )
                for row in boxes
            ]
            for boxes, shift, shape in zip(found, shifts, shapes, strict=True)
        ]


def slice_boxes(width_px: int, height_px: int, slicing: Slicing = STANDARD) -> list[tuple[int, int, int, int]]:
    """The slices of a picture as x1, y1, x2, y2; all of one size, each axis short enough in one piece."""

    def side(length: int) -> int:
        return length if length <= slicing.one_pass_share * slicing.slice_px else slicing.slice_px

    slices = get_slice_bboxes(
        image_height=height_px,
        image_width=width_px,
        slice_height=side(height_px),
        slice_width=side(width_px),
        auto_slice_resolution=False,
        overlap_height_ratio=slicing.overlap,
        overlap_width_ratio=slicing.overlap,
    )
    return [(x1, y1, x2, y2) for x1, y1, x2, y2 in slices]


def search(
    pixels: NDArray[np.uint8], finder: Finder, classes: Sequence[str], *, min_score: float, slicing: Slicing = STANDARD
) -> Boxes:
    """All objects of a picture, each once, best first.

    Args:
        pixels: `(H, W, 3)` RGB.
        finder: Searches one slice.
        classes: Names of the finder's classes.
        min_score: Boxes scoring below this are left out.
        slicing: How to cut and put together.
    """
    height, width = pixels.shape[:2]
    model = SahiDetector(finder, classes, min_score=min_score)
    slices = slice_boxes(width, height, slicing)
    found: list[Boxes] = []
    for start in range(0, len(slices), slicing.batch_size):
        batch = slices[start : start + slicing.batch_size]
        model.perform_batch_inference([pixels[y1:y2, x1:x2] for x1, y1, x2, y2 in batch])
        found += model.original_predictions
    pieces = [_cut(boxes, place, width, height, slicing) for boxes, place in zip(found, slices, strict=True)]
    boxes = np.concatenate([_shifted(kept, place) for (kept, _), place in zip(pieces, slices, strict=True)])
    cut = np.concatenate([is_cut for _, is_cut in pieces])

    if slicing.whole_image and len(slices) > 1:
        large = _in_no_slice(_whole_image(pixels, model, slicing), slices)
        boxes, cut = np.concatenate([boxes, large]), np.concatenate([cut, np.zeros(len(large), np.bool_)])
    if len(slices) > 1:
        boxes = boxes[~_replaced(boxes, cut, slicing.covered)]
    if len(boxes):
        boxes = boxes[batched_nms(boxes, match_metric="IOU", match_threshold=slicing.iou)]
    if slicing.one_label_iou is not None:
        boxes = boxes[best_labels(boxes, slicing.one_label_iou)]
    return boxes[np.argsort(-boxes[:, 4], kind="stable")]


def best_labels(boxes: Boxes, iou: float) -> NDArray[np.bool_]:
    """Which boxes carry the best-scored label of their particle: where others overlap by `iou`, the best alone."""
    best = np.zeros(len(boxes), np.bool_)
    best[nms(boxes, match_metric="IOU", match_threshold=iou)] = True
    return best


def _up(length: int) -> int:
    """The next multiple of 32, the network's coarsest stride."""
    return -(-length // 32) * 32


def _clipped(boxes: Boxes, width: int, height: int) -> Boxes:
    """The boxes inside the picture, without those that lie in its padding."""
    boxes = np.array(boxes, np.float32).reshape(-1, 6)
    boxes[:, [0, 2]] = boxes[:, [0, 2]].clip(0, width)
    boxes[:, [1, 3]] = boxes[:, [1, 3]].clip(0, height)
    return boxes[(boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])]


def _shifted(boxes: Boxes, place: tuple[int, int, int, int]) -> Boxes:
    return boxes + np.array([place[0], place[1], place[0], place[1], 0, 0], np.float32)


def _cut(
    boxes: Boxes, place: tuple[int, int, int, int], width: int, height: int, slicing: Slicing
) -> tuple[Boxes, NDArray[np.bool_]]:
    """The boxes of one slice that no neighbour shows whole, and which of them an inner border cuts."""
    if slicing.border_px is None:
        return boxes, np.zeros(len(boxes), np.bool_)
    any_cut = np.zeros(len(boxes), np.bool_)
    whole_next_door = np.zeros(len(boxes), np.bool_)
    for low, high, length in ((0, 2, width), (1, 3, height)):
        side = place[high] - place[low]
        before = (place[low] > 0) & (boxes[:, low] <= slicing.border_px)
        after = (place[high] < length) & (boxes[:, high] >= side - slicing.border_px)
        cut = before | after
        # Twice the border's width less than the overlap, or the neighbour might take it for cut as well.
        fits = boxes[:, high] - boxes[:, low] < int(slicing.overlap * side) - 2 * slicing.border_px
        any_cut |= cut
        whole_next_door |= cut & fits
    return boxes[~whole_next_door], any_cut[~whole_next_door]


def _whole_image(pixels: NDArray[np.uint8], model: SahiDetector, slicing: Slicing) -> Boxes:
    height, width = pixels.shape[:2]
    scale = slicing.slice_px / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    model.perform_inference(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False))
    found: Boxes = model.original_predictions[0]
    return found * np.array([width / size[0], height / size[1], width / size[0], height / size[1], 1, 1], np.float32)


def _in_no_slice(boxes: Boxes, slices: Sequence[tuple[int, int, int, int]]) -> Boxes:
    places = np.array(slices, np.float32)
    sides = [boxes[:, None, axis] >= places[None, :, axis] for axis in (0, 1)]
    sides += [boxes[:, None, axis] <= places[None, :, axis] for axis in (2, 3)]
    held: NDArray[np.bool_] = np.logical_and.reduce(sides).any(axis=1)
    return boxes[~held]


def _replaced(boxes: Boxes, cut: NDArray[np.bool_], covered: float) -> NDArray[np.bool_]:
    """Cut pieces that a whole box of their class, or a better-scored whole box of any class, covers."""
    replaced = np.zeros(len(boxes), np.bool_)
    whole = boxes[~cut]
    for index in np.flatnonzero(cut):
        piece = boxes[index]
        sides = np.minimum(whole[:, 2:4], piece[2:4]) - np.maximum(whole[:, :2], piece[:2])
        share = sides.clip(0).prod(1) / (piece[2:4] - piece[:2]).prod()
        replaced[index] = ((share >= covered) & ((whole[:, 5] == piece[5]) | (whole[:, 4] > piece[4]))).any()
    return replaced
