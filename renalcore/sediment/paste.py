"""Real particles laid into other real fields: copy-paste for classes that have few pictures.

After Ghiasi et al., "Simple Copy-Paste is a Strong Data Augmentation Method for Instance Segmentation" (CVPR 2021).
A bright-field picture shows how much light a particle lets through, so what is carried over is that share: the
particle's pixels over its own background, multiplied into the field where it lands.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from renalcore.sediment.names import IGNORE
from renalcore.sediment.readers import LabelledField

Image = NDArray[np.uint8]
Boxes = NDArray[np.float32]

MARGIN = 0.15
"""Background taken along on each side, as a share of the box."""
_LARGEST = 0.6
"""Longest side of a particle as a share of the crop's; a larger one would hide what is there."""
_TRIES = 8


@dataclass(frozen=True, slots=True)
class Particle:
    """A box of a field, with its margin.

    Attributes:
        field: Number of the field.
        class_id: What it is.
        box_px: `(x1, y1, x2, y2)` of the particle.
        outer_px: The same with its margin, in whole pixels.
    """

    field: int
    class_id: int
    box_px: Boxes
    outer_px: tuple[int, int, int, int]


class Particles:
    """Particles that stand alone in real fields, by what was looked for in those fields.

    A particle goes only into fields in which the same classes were looked for: there its class is known, and the
    magnification is the same.

    Args:
        fields: Where particles are taken from; rendered fields give none.
        read: Reads field `i`, shape (H, W, 3).
    """

    def __init__(self, fields: Sequence[LabelledField], read: Callable[[LabelledField], Image]) -> None:
        self._fields = fields
        self._read = read
        self._alone: dict[bytes, dict[int, list[Particle]]] = {}
        for number, field in enumerate(fields):
            if field.real:
                kinds = self._alone.setdefault(field.known.tobytes(), {})
                for particle in _standing_alone(number, field):
                    kinds.setdefault(particle.class_id, []).append(particle)

    def paste(
        self,
        window: Image,
        boxes_px: Boxes,
        class_ids: NDArray[np.int64],
        *,
        field: LabelledField,
        zoom: float,
        rng: np.random.Generator,
    ) -> tuple[Image, Boxes, NDArray[np.int64]]:
        """A crop of `field` at `zoom` with up to four particles more; each class of its kind is drawn as often.

        A particle that would cover another, or find no free place, is left out.

        Args:
            window: The crop, shape (S, S, 3).
            boxes_px: Its boxes, shape (N, 4).
            class_ids: Their classes, shape (N,).
            field: Where the crop comes from.
            zoom: Pixels of the crop per pixel of the field.
            rng: Draws the particles and their places.
        """
        kinds = self._alone.get(field.known.tobytes()) if field.real else None
        if not kinds:
            return window, boxes_px, class_ids
        window = window.copy()
        for _ in range(rng.integers(1, 5)):
            of_class = kinds[list(kinds)[rng.integers(len(kinds))]]
            particle = of_class[rng.integers(len(of_class))]
            cut = self._cut(particle, zoom * rng.uniform(0.85, 1.18), rng)
            place = _free_place(window.shape[0], cut[0].shape[:2], boxes_px, rng) if cut else None
            if cut is None or place is None:
                continue
            (patch, inner), (left, top) = cut, place
            below = window[top : top + patch.shape[0], left : left + patch.shape[1]]
            below[:] = np.clip(below * patch, 0, 255)
            boxes_px = np.vstack((boxes_px, inner + np.array([left, top, left, top], np.float32)))
            class_ids = np.append(class_ids, particle.class_id)
        return window, boxes_px, class_ids

    def _cut(
        self, particle: Particle, zoom: float, rng: np.random.Generator
    ) -> tuple[NDArray[np.float32], Boxes] | None:
        """The light that a particle lets through, 1 at its rim, turned and zoomed; and the box within, shape (4,).

        None where the particle lies at the edge of its field.
        """
        x1, y1, x2, y2 = particle.outer_px
        picture = self._read(self._fields[particle.field])
        if min(x1, y1) < 0 or x2 > picture.shape[1] or y2 > picture.shape[0]:
            return None
        pixels = picture[y1:y2, x1:x2].astype(np.float32) + 1
        rim = np.concatenate((pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]))
        through = np.clip(pixels / np.median(rim, 0), 0, 3)
        height, width = through.shape[:2]
        size = (max(round(width * zoom), 2), max(round(height * zoom), 2))
        through = cv2.resize(through, size, interpolation=cv2.INTER_AREA if zoom < 1 else cv2.INTER_LINEAR)
        inner = (particle.box_px - np.array([x1, y1, x1, y1])) * np.array([size[0] / width, size[1] / height] * 2)
        if rng.random() < 0.5:
            through, inner = through[:, ::-1], inner[[2, 1, 0, 3]] * (-1, 1, -1, 1) + (size[0], 0, size[0], 0)
        for _ in range(rng.integers(4)):
            across = through.shape[1]
            through = np.rot90(through)
            inner = np.array([inner[1], across - inner[2], inner[3], across - inner[0]])
        mask = _soft_edge(*through.shape[:2])[..., None]
        return 1 + mask * (through - 1), inner.astype(np.float32)


def _standing_alone(number: int, field: LabelledField) -> list[Particle]:
    """The particles of a field with nothing else in their margin."""
    found = []
    for index in np.flatnonzero(field.class_ids != IGNORE):
        box = field.boxes_px[index]
        side = (box[2:] - box[:2]) * MARGIN + 1
        outer = np.concatenate((np.floor(box[:2] - side), np.ceil(box[2:] + side)))
        others = np.delete(field.boxes_px, index, axis=0)
        if _overlap(others, outer).sum() > 0.02 * (outer[2:] - outer[:2]).prod():
            continue
        x1, y1, x2, y2 = (int(edge) for edge in outer)
        found.append(Particle(number, int(field.class_ids[index]), box, (x1, y1, x2, y2)))
    return found


def _overlap(boxes: NDArray[np.floating], box: NDArray[np.floating]) -> NDArray[np.floating]:
    """Common area of each of `boxes` (N, 4) with `box` (4,)."""
    low, high = np.maximum(boxes[:, :2], box[:2]), np.minimum(boxes[:, 2:], box[2:])
    area: NDArray[np.floating] = np.clip(high - low, 0, None).prod(1)
    return area


def _free_place(side: int, shape: tuple[int, int], boxes_px: Boxes, rng: np.random.Generator) -> tuple[int, int] | None:
    """Left and top of a place for a patch of `shape` (height, width) in a square crop; None where all is taken."""
    height, width = shape
    if max(shape) > _LARGEST * side:
        return None
    for _ in range(_TRIES):
        left, top = int(rng.integers(side - width)), int(rng.integers(side - height))
        if not _overlap(boxes_px, np.array([left, top, left + width, top + height])).any():
            return left, top
    return None


def _soft_edge(height: int, width: int) -> NDArray[np.float32]:
    """1 within a rounded rectangle, falling to 0 at the rim, shape (height, width)."""
    rows = np.abs(np.linspace(-1, 1, height, dtype=np.float32))[:, None]
    columns = np.abs(np.linspace(-1, 1, width, dtype=np.float32))[None]
    distance = (rows**4 + columns**4) ** 0.25
    edge: NDArray[np.float32] = np.clip((1 - distance) / 0.2, 0, 1)
    return edge
