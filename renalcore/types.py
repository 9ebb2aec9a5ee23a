"""Typed values that every wing hands to every other part."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Detections:
    """Boxes found in one image: columnar, validated, immutable.

    Attributes:
        boxes_px: `(N, 4)` float32, `[x1, y1, x2, y2]` in px of the image searched.
        scores: `(N,)` float32 in 0..1.
        class_ids: `(N,)` int64, indices into `classes`.
        classes: Names of the classes the model knows, in the model's order.

    Raises:
        ValueError: Shapes disagree, a score leaves 0..1, or an id has no class.
    """

    boxes_px: NDArray[np.float32]
    scores: NDArray[np.float32]
    class_ids: NDArray[np.int64]
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        boxes = np.array(self.boxes_px, dtype=np.float32).reshape(-1, 4)
        scores = np.array(self.scores, dtype=np.float32).reshape(-1)
        class_ids = np.array(self.class_ids, dtype=np.int64).reshape(-1)
        if not len(boxes) == len(scores) == len(class_ids):
            raise ValueError(
                f"boxes, scores and class ids must be as many, got {len(boxes)}, {len(scores)} and {len(class_ids)}"
            )
        if len(scores) and not (scores.min() >= 0 and scores.max() <= 1):
            raise ValueError(f"scores must lie in 0..1, got {scores.min()}..{scores.max()}")
        if len(class_ids) and not 0 <= class_ids.min() <= class_ids.max() < len(self.classes):
            raise ValueError(f"class ids must lie in 0..{len(self.classes) - 1}, got up to {class_ids.max()}")
        for name, column in (("boxes_px", boxes), ("scores", scores), ("class_ids", class_ids)):
            column.setflags(write=False)
            object.__setattr__(self, name, column)

    def __len__(self) -> int:
        return len(self.scores)

    @classmethod
    def empty(cls, classes: tuple[str, ...]) -> Detections:
        """No boxes at all, from a model that knows `classes`."""
        return cls(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64), classes)

    def where(self, keep: NDArray[np.bool_] | NDArray[np.int64]) -> Detections:
        """The rows chosen by a mask or by indices, in that order."""
        return Detections(self.boxes_px[keep], self.scores[keep], self.class_ids[keep], self.classes)

    @property
    def names(self) -> list[str]:
        """The class name of each box."""
        return [self.classes[i] for i in self.class_ids]


@dataclass(frozen=True, slots=True)
class QualityFlag:
    """A doubt about a picture that was accepted all the same.

    Attributes:
        code: Stable word for machines: `out_of_focus`, `nearly_empty`, `too_dark`, `too_bright`, `low_contrast`,
            `round_field`, `first_frame_only`, `reduced_depth`, `overcrowded`;
            of slides `one_plane`, `unlikely_scale`, `dark_background`, `no_colour`, `camera_picture`;
            of CT `few_slices`, `uneven_spacing`, `localiser_left_out`, `copies_left_out`, `unreadable_files`,
            `missing_files`, `burnt_in`, `two_orientations`.
        message: One sentence for a technologist: what was seen and what to do.
    """

    code: str
    message: str


@dataclass(frozen=True, slots=True, eq=False)
class Field:
    """One microscope field as it will be searched.

    Attributes:
        name: Base name of the file, without any folder.
        pixels: `(H, W, 3)` uint8 RGB, upright.
        um_per_px: Micrometres a pixel, or None where the scale is unknown. Never guessed.
        flags: Doubts about the picture's quality.
        round_field_px: `(cx, cy, radius)` of the illuminated disc of a picture taken through an eyepiece, else None.
    """

    name: str
    pixels: NDArray[np.uint8]
    um_per_px: float | None = None
    flags: tuple[QualityFlag, ...] = ()
    round_field_px: tuple[float, float, float] | None = None

    @property
    def height_px(self) -> int:
        """Height of the upright picture in px."""
        return int(self.pixels.shape[0])

    @property
    def width_px(self) -> int:
        """Width of the upright picture in px."""
        return int(self.pixels.shape[1])

    @property
    def area_mm2(self) -> float | None:
        """Illuminated area of the field in mm2, or None where the scale is unknown."""
        if self.um_per_px is None:
            return None
        area_px = illuminated_area_px(self.width_px, self.height_px, self.round_field_px)
        return area_px * (self.um_per_px / 1000.0) ** 2


def illuminated_area_px(
    width_px: int, height_px: int, round_field_px: tuple[float, float, float] | None = None
) -> float:
    """Area of a picture in which particles can be seen, in px.

    Args:
        width_px: Width of the picture.
        height_px: Height of the picture.
        round_field_px: `(cx, cy, radius)` of the illuminated disc, which the picture's frame may cut.

    Returns:
        The whole picture, or the part of the disc that lies in it.
    """
    if round_field_px is None:
        return float(width_px * height_px)
    cx, cy, radius = round_field_px
    columns = (np.arange(4 * width_px) + 0.5) / 4  # quarters of a pixel: exact to a ten-thousandth
    half_chords = np.sqrt(np.clip(radius**2 - (columns - cx) ** 2, 0, None))
    chords = np.clip(cy + half_chords, 0, height_px) - np.clip(cy - half_chords, 0, height_px)
    return float(chords.sum() / 4)
