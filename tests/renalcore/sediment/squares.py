"""A finder that needs no network: it finds squares of known colours, so that a test knows what must come out."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

import cv2
import numpy as np

from renalcore import taxonomy
from renalcore.engine.devices import Device
from renalcore.models import InputScale, ModelCard
from renalcore.sediment.predict import SedimentDetector
from renalcore.sediment.slicing import STANDARD, Boxes, Slicing
from renalcore.types import Field

RBC, WBC = taxonomy.class_id("RBC"), taxonomy.class_id("WBC")
COLOURS = {RBC: (255, 0, 0), WBC: (0, 0, 255)}
GLASS = (200, 200, 200)


class SquareFinder:
    """Finds connected areas of pure red (RBC) and pure blue (WBC), however little of them a picture shows.

    Args:
        scores: Score of every find, by class id.
    """

    def __init__(self, scores: dict[int, float] | None = None) -> None:
        self.scores = scores or {RBC: 0.9, WBC: 0.8}
        self.seen: list[tuple[int, ...]] = []

    def find(self, pictures: np.ndarray, *, min_score: float) -> Sequence[Boxes]:
        self.seen += [picture.shape for picture in pictures]
        return [self._found(picture, min_score) for picture in pictures]

    def _found(self, picture: np.ndarray, min_score: float) -> Boxes:
        rows = []
        for class_id, colour in COLOURS.items():
            alike = (np.abs(picture.astype(int) - colour).max(axis=2) < 90).astype(np.uint8)
            _, _, stats, _ = cv2.connectedComponentsWithStats(alike)
            rows += [
                [x, y, x + width, y + height, self.scores[class_id], class_id]
                for x, y, width, height, _ in stats[1:]
                if self.scores[class_id] > min_score
            ]
        return np.array(rows, np.float32).reshape(-1, 6)


def glass(width: int, height: int) -> np.ndarray:
    """An empty field."""
    return np.full((height, width, 3), GLASS, np.uint8)


def draw(pixels: np.ndarray, class_id: int, x1: int, y1: int, x2: int, y2: int) -> None:
    """A square of the class's colour."""
    pixels[y1:y2, x1:x2] = COLOURS[class_id]


def card(**changes: object) -> ModelCard:
    """The card of a model that nobody trained."""
    values: dict[str, object] = {
        "key": "squares",
        "title": "Coloured squares",
        "modality": "sediment",
        "task": "detection",
        "classes": taxonomy.NAMES,
        "validated_classes": ("RBC",),
        "input": InputScale(slice_px=640, overlap=0.25),
        "min_score": 0.25,
        "weights": "squares.safetensors",
        "sha256": "0" * 64,
        "bytes": 0,
        "architecture": "none",
        "scale": "n",
        "training_data": (),
        "figures": (),
        "intended_use": "Tests.",
        "limits": (),
        "date": date(2026, 1, 1),
    }
    return ModelCard(**{**values, **changes})  # type: ignore[arg-type]


def detector(finder: SquareFinder | None = None, slicing: Slicing = STANDARD) -> SedimentDetector:
    """The whole detector around the finder."""
    return SedimentDetector(card(), finder or SquareFinder(), Device("cpu", 1), slicing=slicing)


def field(pixels: np.ndarray, **values: object) -> Field:
    """A field named squares.png."""
    return Field("squares.png", pixels, **values)  # type: ignore[arg-type]
