"""Windows of labelled slides at any scale: pixels, numbered glomeruli and what is known, for training and validation.

A field that is an ordinary picture is kept in memory, no larger than it is ever shown; of a whole slide only the
window is read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from renalcore.datasets.pictures import read_rgb
from renalcore.histology.annotations.masks import read_instances
from renalcore.histology.annotations.record import PLAIN_SUFFIXES, LabelledSlide, Outline
from renalcore.histology.names import IGNORE
from renalcore.io.slide import Slide, open_slide

Image = NDArray[np.uint8]
_Level = TypeVar("_Level", np.uint8, np.uint16)

GLASS: Final = 255
"""Grey level outside of a slide, as `Slide.read` gives it."""

_KEPT_PX: Final = 40_000_000
"""Larger pictures are read window by window."""
_NEAR: Final = 0.25
"""How far around an outline its outside is known where only some glomeruli are outlined, in their diameters."""
_SUBPIXEL: Final = 4
"""Binary digits behind the point of a drawn outline."""


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """A part of a slide.

    Attributes:
        pixels: `(H, W, 3)` uint8 RGB, white outside of the slide.
        instances: `(H, W)` int32: 0, or the number of a glomerulus, the same wherever the slide shows it.
        known: `(H, W)` bool, whether anybody knows what is there.
        shown: `(H, W)` bool, False outside of the slide.
    """

    pixels: Image
    instances: NDArray[np.int32]
    known: NDArray[np.bool_]
    shown: NDArray[np.bool_]


class FieldReader:
    """Reads windows of one labelled slide.

    Args:
        slide: Which.
        largest: The largest size that its pixels will be shown at, relative to level 0; what is kept in memory is
            reduced to it.

    Raises:
        RenalError: The slide or its mask cannot be read.
    """

    def __init__(self, slide: LabelledSlide, *, largest: float = 1.0) -> None:
        self.slide = slide
        self._radii_px = np.concatenate(([0.0], np.sqrt(slide.areas_px / np.pi)))
        self._open: Slide | None = None
        self._pixels: Image | None = None
        self._instances: NDArray[np.uint16] | None = None
        self._kept = 1.0
        small = slide.width_px * slide.height_px <= _KEPT_PX
        if small:
            self._kept = min(largest, 1.0)
        if small and slide.path.suffix.lower() in PLAIN_SUFFIXES:
            self._pixels = _resized(read_rgb(slide.path), self._size(slide), cv2.INTER_AREA)
        elif small:
            with open_slide(slide.path) as opened:
                self._pixels = opened.read(0, 0, *self._size(slide), downsample=1 / self._kept)
        else:
            self._open = open_slide(slide.path)
        if slide.mask_path is not None:
            numbered = _in_order(read_instances(slide.mask_path))
            self._instances = _resized(numbered, self._size(slide), cv2.INTER_NEAREST)
        self._boxes = [
            np.concatenate((outline.points_px.min(0), outline.points_px.max(0))) for outline in slide.outlines or ()
        ]

    def _size(self, slide: LabelledSlide) -> tuple[int, int]:
        return max(round(slide.width_px * self._kept), 1), max(round(slide.height_px * self._kept), 1)

    @property
    def radii_px(self) -> NDArray[np.float64]:
        """`(N + 1,)`, radius in px of level 0 of a circle as large as glomerulus n, at place n; the first is 0."""
        return self._radii_px

    def centre_px(self, number: int) -> tuple[float, float]:
        """About the middle of a glomerulus, x and y in px of level 0; the first is 1."""
        if self._instances is None:
            glomeruli = [
                box for box, of in zip(self._boxes, self.slide.outlines or (), strict=True) if of.label != IGNORE
            ]
            box = glomeruli[number - 1]
            return float(box[0] + box[2]) / 2, float(box[1] + box[3]) / 2
        rows, columns = np.nonzero(self._instances == number)
        if not len(rows):  # smaller than a pixel of what is kept
            return self.slide.width_px / 2, self.slide.height_px / 2
        return (float(columns.mean()) + 0.5) / self._kept, (float(rows.mean()) + 0.5) / self._kept

    def read(self, x_px: float, y_px: float, width_px: int, height_px: int, *, downsample: float) -> Window:
        """A window; its corner in px of level 0, its size in px of the result.

        Args:
            x_px: Left edge in px of level 0.
            y_px: Upper edge in px of level 0.
            width_px: Width of the result.
            height_px: Height of the result.
            downsample: Px of level 0 that one px of the result spans; below 1 it is enlarged.
        """
        if self._pixels is None:
            slide = self._open
            if slide is None:
                raise RuntimeError("a reader has either pixels or an open slide")
            pixels = slide.read(round(x_px), round(y_px), width_px, height_px, downsample=downsample)
        else:
            pixels = self._window(self._pixels, x_px, y_px, width_px, height_px, downsample, GLASS)
        if self._instances is None:
            instances, ignored = self._drawn(x_px, y_px, width_px, height_px, downsample)
        else:
            shown = self._window(self._instances, x_px, y_px, width_px, height_px, downsample, 0, nearest=True)
            instances, ignored = shown.astype(np.int32), np.zeros((height_px, width_px), np.bool_)
        across = x_px + (np.arange(width_px) + 0.5) * downsample
        down = y_px + (np.arange(height_px) + 0.5) * downsample
        inside = (across >= 0) & (across < self.slide.width_px), (down >= 0) & (down < self.slide.height_px)
        return Window(
            pixels, instances, self._known(instances, downsample) & ~ignored, inside[1][:, None] & inside[0][None]
        )

    def _window(
        self,
        whole: NDArray[_Level],
        x_px: float,
        y_px: float,
        width_px: int,
        height_px: int,
        downsample: float,
        outside: int,
        *,
        nearest: bool = False,
    ) -> NDArray[_Level]:
        """A window of a picture in memory, `outside` where it ends."""
        step = downsample * self._kept
        left, top = x_px * self._kept, y_px * self._kept
        x1, y1 = max(int(np.floor(left)), 0), max(int(np.floor(top)), 0)
        x2 = min(int(np.ceil(left + width_px * step)), whole.shape[1])
        y2 = min(int(np.ceil(top + height_px * step)), whole.shape[0])
        if x2 <= x1 or y2 <= y1:
            return np.full((height_px, width_px, *whole.shape[2:]), outside, whole.dtype)
        part = whole[y1:y2, x1:x2]
        across, down = 1.0, 1.0
        if step > 1 and not nearest:  # averaged first: what follows looks at four pixels only
            size = max(round(part.shape[1] / step), 1), max(round(part.shape[0] / step), 1)
            across, down = part.shape[1] / size[0], part.shape[0] / size[1]
            part = np.asarray(cv2.resize(part, size, interpolation=cv2.INTER_AREA), whole.dtype)
        back = np.array(
            [
                [step / across, 0, (left - x1 + step / 2) / across - 0.5],
                [0, step / down, (top - y1 + step / 2) / down - 0.5],
            ]
        )
        flags = (cv2.INTER_NEAREST if nearest else cv2.INTER_LINEAR) | cv2.WARP_INVERSE_MAP
        size = width_px, height_px
        shown = cv2.warpAffine(
            part, back, size, flags=flags, borderMode=cv2.BORDER_CONSTANT, borderValue=(outside,) * 3
        )
        return np.asarray(shown, whole.dtype)

    def _drawn(
        self, x_px: float, y_px: float, width_px: int, height_px: int, downsample: float
    ) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        """Outlines as numbers, and the regions to ignore."""
        instances = np.zeros((height_px, width_px), np.int32)
        ignored = np.zeros((height_px, width_px), np.uint8)
        right, bottom = x_px + width_px * downsample, y_px + height_px * downsample
        number = 0
        for outline, box in zip(self.slide.outlines or (), self._boxes, strict=True):
            number += outline.label != IGNORE
            if box[0] >= right or box[1] >= bottom or box[2] <= x_px or box[3] <= y_px:
                continue
            canvas, value = (ignored, 1) if outline.label == IGNORE else (instances, number)
            draw(outline, canvas, value, corner_px=(x_px, y_px), downsample=downsample)
        return instances, ignored.astype(np.bool_)

    def _known(self, instances: NDArray[np.int32], downsample: float) -> NDArray[np.bool_]:
        if self.slide.known == "all":
            return np.ones(instances.shape, np.bool_)
        inside: NDArray[np.bool_] = instances > 0
        if self.slide.known == "inside" or not inside.any():
            return inside
        away = cv2.distanceTransform((~inside).astype(np.uint8), cv2.DIST_L2, 5)
        reach = _NEAR * (self.slide.glomerulus_px or 0.0) / downsample
        near: NDArray[np.bool_] = away <= reach
        return near


def draw(
    outline: Outline,
    canvas: NDArray[np.int32] | NDArray[np.uint8],
    value: int,
    *,
    corner_px: tuple[float, float] = (0.0, 0.0),
    downsample: float = 1.0,
) -> None:
    """Fill an outline, without its holes, with a number.

    Args:
        outline: What to draw, in px of level 0.
        canvas: What to draw it on.
        value: The number.
        corner_px: Left and upper edge of the canvas in px of level 0.
        downsample: Px of level 0 that one px of the canvas spans.
    """
    rings = [
        # The centre of pixel 0 lies at 0.5 in the coordinates of outlines and at 0 in OpenCV's.
        np.rint(((ring - corner_px) / downsample - 0.5) * 2**_SUBPIXEL).astype(np.int32)
        for ring in (outline.points_px, *outline.holes_px)
    ]
    cv2.fillPoly(canvas, rings, value, shift=_SUBPIXEL)  # a pixel inside two rings is outside: holes stay open


def _resized(whole: NDArray[_Level], size: tuple[int, int], how: int) -> NDArray[_Level]:
    """The picture at another size, width first; itself where it has that size."""
    if (whole.shape[1], whole.shape[0]) == size:
        return whole
    return np.asarray(cv2.resize(whole, size, interpolation=how), whole.dtype)


def _in_order(instances: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """The same glomeruli numbered from 1 in the order of their numbers."""
    present = np.bincount(instances.ravel()) > 0
    present[0] = False
    places = np.zeros(len(present), np.uint16)
    places[present] = np.arange(1, present.sum() + 1)
    return places[instances]
