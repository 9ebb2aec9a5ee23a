"""Finding the particles of a microscope field."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from renalcore import models
from renalcore.engine import devices
from renalcore.engine.devices import Device
from renalcore.errors import ModelError
from renalcore.models import Calibration, ModelCard
from renalcore.sediment import runners
from renalcore.sediment.calibration import network_score, of_boxes
from renalcore.sediment.runners import NETWORKS, Runner
from renalcore.sediment.slicing import STANDARD, Boxes, Finder, FittedFinder, Slicing, best_labels, search
from renalcore.types import Detections, Field

DEFAULT_MODEL = "sediment-multihead-n"
LOWEST_SCORE = 0.05
"""What the network itself scores below this is noise; what is reported starts at the card's threshold, which a user may
move."""

SLICE_IOU = 0.7
"""Overlap at which two boxes of one class in one slice are one object; Ultralytics' value for prediction."""


class NetworkFinder:
    """Searches pictures with a network; shareable between threads.

    Args:
        runner: Runs the network.
        most: Boxes kept of one picture, the best. None keeps all: a field full of bacteria has more than the 300 that
            Ultralytics keeps, and every one counts.
    """

    def __init__(self, runner: Runner, *, most: int | None = None) -> None:
        self._runner = runner
        self._most = most

    def find(self, pictures: NDArray[np.uint8], *, min_score: float) -> list[Boxes]:
        """The boxes of each picture, duplicates within a class removed."""
        return [
            _distinct(boxes, scores, class_ids, min_score)[: self._most]
            for boxes, scores, class_ids in zip(*self._runner.run(pictures, min_score), strict=True)
        ]


class SedimentDetector:
    """A loaded sediment model. Several threads may call `predict` of one object.

    Attributes:
        card: The model.
        device: What runs it.
    """

    def __init__(self, card: ModelCard, finder: Finder, device: Device, *, slicing: Slicing = STANDARD) -> None:
        self.card = card
        self.device = device
        self._finder = finder
        self._slicing = slicing

    @classmethod
    def load(cls, key: str = DEFAULT_MODEL, *, device: str = "auto", root: Path = models.WEIGHTS) -> SedimentDetector:
        """The model called `key`, its weights checked against its card.

        Raises:
            UnknownName: There is no such model or device.
            ModelError: It is not a sediment model, its weights are missing or altered, or the device is absent.
        """
        card = models.card(key, root)
        if card.modality != "sediment":
            raise ModelError(f"{key} does not search sediment; it is a model for {card.modality}")
        if card.network not in NETWORKS:
            raise ModelError(f"{key} needs the network {card.network!r}; this version has {', '.join(NETWORKS)}")
        if card.classes != NETWORKS[card.network][0]:
            raise ModelError(f"{key}: its card names other classes than the network {card.network!r} finds")
        chosen = devices.choose(device)
        if device == "auto" and chosen.kind == "openvino" and card.network in runners.TORCH_ONLY:
            chosen = devices.choose("cpu")
        weights = models.weights_path(card, root)
        slicing = Slicing(slice_px=card.input.slice_px, overlap=card.input.overlap)
        runner = runners.load(card.network, card.scale, weights, card.sha256, chosen)
        return cls(card, NetworkFinder(runner), chosen, slicing=slicing)

    def searching(self, slicing: Slicing, *, fit_px: int | None = None) -> SedimentDetector:
        """The same model with another way to search.

        Args:
            slicing: How fields are cut.
            fit_px: Side of a square that each slice is fitted into; None shows slices as they are.
        """
        finder = self._finder if fit_px is None else FittedFinder(self._finder, fit_px)
        return SedimentDetector(self.card, finder, self.device, slicing=slicing)

    def predict(self, field: Field, *, min_score: float | None = None) -> Detections:
        """The particles of `field`, each with its best label, best first.

        Of a round field on black only the bounding square of the disc is searched, and what has its centre off the
        disc is left out.

        Args:
            field: The picture to search.
            min_score: Particles scoring below this are left out; by default those to which the network itself gives
                less than `LOWEST_SCORE`.

        Raises:
            ValueError: `min_score` leaves 0..1, or the picture is not `(H, W, 3)` uint8.
        """
        found, best = self.every_label(field, min_score=min_score)
        return found.where(best)

    def every_label(
        self, field: Field, *, min_score: float | None = None, calibrated: bool = True
    ) -> tuple[Detections, NDArray[np.bool_]]:
        """All labels of each particle, as a ranking for average precision needs them, and which are the best ones.

        Args:
            field: The picture to search.
            min_score: Labels scoring below this are left out, as in `predict`.
            calibrated: Give probabilities where the card has a calibration, else the network's own scores. Which
                label is the best is decided on the latter, see `renalcore.sediment.calibration`.

        Raises:
            ValueError: As `predict` does.
        """
        if min_score is not None and not 0 < min_score < 1:
            raise ValueError(f"min_score must lie between 0 and 1, got {min_score}")
        if field.pixels.ndim != 3 or field.pixels.shape[2] != 3 or field.pixels.dtype != np.uint8:
            raise ValueError(f"a field is (H, W, 3) uint8, got {field.pixels.shape} {field.pixels.dtype}")
        left, top, right, bottom = _searched(field)
        calibration = self.card.calibration if calibrated else {}
        boxes = search(
            field.pixels[top:bottom, left:right],
            self._finder,
            self.card.classes,
            min_score=_searched_from(min_score, calibration),
            slicing=replace(self._slicing, one_label_iou=None),
        )
        iou = self._slicing.one_label_iou
        best = np.ones(len(boxes), np.bool_) if iou is None else best_labels(boxes, iou)
        boxes = boxes + np.array([left, top, left, top, 0, 0], np.float32)
        class_ids = boxes[:, 5].astype(np.int64)
        scores = of_boxes(boxes[:, 4], class_ids, self.card.classes, calibration)
        keep = scores >= (0 if min_score is None else min_score)
        if field.round_field_px is not None:
            x, y, radius = field.round_field_px
            centres = (boxes[:, :2] + boxes[:, 2:4]) / 2
            keep &= np.hypot(centres[:, 0] - x, centres[:, 1] - y) <= radius
        order = np.argsort(-scores, kind="stable")
        order = order[keep[order]]
        found = Detections(boxes[order, :4], scores[order].astype(np.float32), class_ids[order], self.card.classes)
        return found, best[order]


def _searched_from(min_score: float | None, calibration: Mapping[str, Calibration]) -> float:
    """The network's score from which a picture must be searched for everything that scores `min_score`."""
    if min_score is None:
        return LOWEST_SCORE
    return min(min_score, *(network_score(min_score, found) for found in calibration.values()), 1)


def _distinct(
    boxes: NDArray[np.float32], scores: NDArray[np.float32], class_ids: NDArray[np.int32], min_score: float
) -> Boxes:
    """The anchors above `min_score` of one slice, best first, after suppression within each class (OpenCV's)."""
    likely = np.flatnonzero(scores > min_score)
    boxes, scores, class_ids = boxes[likely], scores[likely], class_ids[likely]
    corners_and_sides = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1).astype(np.float64)
    suppress: Any = cv2.dnn.NMSBoxesBatched  # its stub knows no arrays
    keep = np.asarray(suppress(corners_and_sides, scores, class_ids, 0.0, SLICE_IOU), np.int64)
    found = np.concatenate([boxes, scores[:, None], class_ids[:, None]], axis=1)
    found = found[keep].astype(np.float32, copy=False)
    return found[np.argsort(-found[:, 4], kind="stable")]


def _searched(field: Field) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of the part of the picture that shows the field."""
    if field.round_field_px is None:
        return 0, 0, field.width_px, field.height_px
    x, y, radius = field.round_field_px
    left, top = max(0, int(np.floor(x - radius))), max(0, int(np.floor(y - radius)))
    right = min(field.width_px, int(np.ceil(x + radius)))
    bottom = min(field.height_px, int(np.ceil(y + radius)))
    return left, top, right, bottom
