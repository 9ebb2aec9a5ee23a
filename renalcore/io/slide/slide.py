"""`Slide`: one picture of any size with its levels, its scale and its doubts, of which only regions are ever read."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from renalcore.types import QualityFlag

Pixels = NDArray[np.uint8]

_BLOCK_PX: Final = 4096
"""Side of the largest square of a level that is held at once, in px: 50 MB."""
_OVERVIEW_PX: Final = 4096
"""Longest side of the smallest level. Where a file stores no level so small, one is computed when first asked for."""


@dataclass(frozen=True, slots=True)
class Level:
    """One resolution of a slide.

    Attributes:
        width_px: Width of the level in its own px.
        height_px: Height of the level in its own px.
        downsample: Pixels of level 0 in one of this level, along a side: 1.0 for level 0.
    """

    width_px: int
    height_px: int
    downsample: float


class Source(Protocol):
    """What a reader of one format knows of a file; `Slide` does the rest. Regions may be read by several threads."""

    @property
    def format(self) -> str:
        """The format's name as a user knows it."""

    @property
    def levels(self) -> tuple[Level, ...]:
        """Stored resolutions, the largest first."""

    @property
    def um_per_px(self) -> float | None:
        """Micrometres a pixel of level 0 where the file says so."""

    @property
    def objective(self) -> float | None:
        """Magnification of the objective where the file says so."""

    @property
    def flags(self) -> tuple[QualityFlag, ...]:
        """Doubts that come from how the file is stored."""

    @property
    def in_bands(self) -> bool:
        """Whether what is decoded at once runs over the whole width (strips), so that bands are cheaper than tiles."""

    def region(self, level: int, left: int, top: int, width: int, height: int) -> Pixels:
        """A window that lies within a level, in that level's px: `(height, width, 3)` uint8 RGB."""

    def close(self) -> None:
        """Closes the file; nothing reads at that time or later."""


class Closeable(Protocol):
    """What is closed at the end."""

    def close(self) -> None:
        """Closes it."""


class Slide:
    """A slide that is open for reading; a context manager, safe to read from several threads.

    Attributes:
        name: Base name of the file, without any folder.
        format: What the file is, as "Aperio SVS", "OME-TIFF" or "PNG".
        width_px: Width of level 0 in px.
        height_px: Height of level 0 in px.
        levels: Resolutions, the largest first. The last is at most 4,096 px long; where the file stores none so
            small, it is computed from the others when it is first read, once.
        um_per_px: Micrometres a pixel of level 0; None where neither the file nor the user says. Never guessed.
        objective: Magnification of the objective, None where the file does not say.
        flags: Doubts about the picture.
    """

    def __init__(
        self, source: Source, *, name: str, um_per_px: float | None = None, flags: tuple[QualityFlag, ...] = ()
    ) -> None:
        """Made by `open_slide`.

        Args:
            source: The open file.
            name: Base name of the file.
            um_per_px: Scale of level 0 in micrometres a pixel, where known.
            flags: All doubts about it.
        """
        self._source: Source = _WithOverview(source) if _longest(source.levels[-1]) > _OVERVIEW_PX else source
        self._turn = threading.Condition()
        self._readers = 0
        self._open = True
        self._kept = ExitStack()
        self.name = name
        self.format = source.format
        self.levels = self._source.levels
        self.width_px = self.levels[0].width_px
        self.height_px = self.levels[0].height_px
        self.um_per_px = um_per_px
        self.objective = source.objective
        self.flags = flags

    def read(
        self, x_px: float, y_px: float, width_px: int, height_px: int, *, downsample: float = 1.0
    ) -> NDArray[np.uint8]:
        """A window of the slide at any resolution.

        The level nearest to the resolution, never a coarser one, is read and resized: areas are averaged when it
        shrinks, pixels are interpolated when it grows. The window's sides are moved to whole px of the level that is
        read, so neighbouring windows join without a seam; a level's own resolution comes back to the pixel.

        Args:
            x_px: Left side, in px of level 0; may lie outside the slide.
            y_px: Upper side, in px of level 0.
            width_px: Width of the result in px; the window is `width_px * downsample` px of level 0 wide.
            height_px: Height of the result in px.
            downsample: Pixels of level 0 in one of the result, along a side; below 1 enlarges.

        Returns:
            `(height_px, width_px, 3)` uint8 RGB, white outside the slide.

        Raises:
            ValueError: A size or `downsample` is not positive, or the slide is closed.
            UnreadableFile: That part of the file is damaged.
        """
        if width_px < 1 or height_px < 1 or not 0 < downsample < float("inf"):
            raise ValueError(f"a window must be larger than nothing, got {width_px} x {height_px} at {downsample}")
        with self._reading():
            window = _Window(x_px, y_px, width_px * downsample, height_px * downsample)
            return _read(self._source, window, width_px, height_px)

    def thumbnail(self, longest_px: int) -> NDArray[np.uint8]:
        """The whole slide reduced to `longest_px` px along its longer side; a smaller one is not enlarged.

        Returns:
            `(H, W, 3)` uint8 RGB. Neither the label nor the picture of the glass, whatever the file calls thumbnail.

        Raises:
            ValueError: `longest_px` is not positive, or the slide is closed.
            UnreadableFile: The file is damaged.
        """
        if longest_px < 1:
            raise ValueError(f"longest_px must be positive, got {longest_px}")
        shrink = max(1.0, max(self.width_px, self.height_px) / longest_px)
        size = max(1, round(self.width_px / shrink)), max(1, round(self.height_px / shrink))
        with self._reading():
            return _read(self._source, _Window(0, 0, self.width_px, self.height_px), *size)

    def close(self) -> None:
        """Closes the file as soon as the windows being read in other threads are done."""
        with self._turn:
            was_open, self._open = self._open, False
            self._turn.wait_for(lambda: self._readers == 0)
            if was_open:
                self._source.close()
                self._kept.close()

    def keep(self, needed: Closeable) -> None:
        """Closes `needed`, without which the file cannot be read, as soon as the slide is closed."""
        self._kept.callback(needed.close)

    def __enter__(self) -> Slide:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Slide({self.format}, {self.width_px} x {self.height_px} px, {len(self.levels)} levels)"

    @contextmanager
    def _reading(self) -> Iterator[None]:
        with self._turn:
            if not self._open:
                raise ValueError("the slide is closed")
            self._readers += 1
        try:
            yield
        finally:
            with self._turn:
                self._readers -= 1
                self._turn.notify_all()


@dataclass(frozen=True, slots=True)
class _Window:
    """A part of the plane, in px of level 0."""

    left: float
    top: float
    width: float
    height: float


class _WithOverview:
    """A source with one more, small level, computed when it is first read."""

    def __init__(self, source: Source) -> None:
        full = source.levels[0]
        shrink = 1
        while _longest(full) > _OVERVIEW_PX * shrink:
            shrink *= 2
        self._source = source
        self._size = max(1, round(full.width_px / shrink)), max(1, round(full.height_px / shrink))
        self._pixels: Pixels | None = None
        self._lock = threading.Lock()
        self.format = source.format
        self.um_per_px = source.um_per_px
        self.objective = source.objective
        self.flags = source.flags
        self.in_bands = source.in_bands
        self.levels = (*source.levels, Level(*self._size, float(shrink)))

    def region(self, level: int, left: int, top: int, width: int, height: int) -> Pixels:
        if level < len(self._source.levels):
            return self._source.region(level, left, top, width, height)
        with self._lock:
            if self._pixels is None:
                full = self.levels[0]
                self._pixels = _read(self._source, _Window(0, 0, full.width_px, full.height_px), *self._size)
        return self._pixels[top : top + height, left : left + width]

    def close(self) -> None:
        self._source.close()


def _longest(level: Level) -> int:
    return max(level.width_px, level.height_px)


def _read(source: Source, window: _Window, width_px: int, height_px: int) -> Pixels:
    """A window at `width_px` x `height_px` px, in blocks, so that a large window is never held at a finer level."""
    downsample = max(window.width / width_px, window.height / height_px)
    # A level is meant to be 4 times smaller and is 4.0016 times: a hundredth more is the same resolution.
    fine = [index for index, level in enumerate(source.levels) if level.downsample <= downsample * 1.01]
    index = max(fine, key=lambda index: source.levels[index].downsample, default=0)
    full, level = source.levels[0], source.levels[index]
    across, down = full.width_px / level.width_px, full.height_px / level.height_px
    # Level px in one of the result; a block of the result covers at most `_BLOCK_PX` squared of them.
    shrink = max(1.0, downsample / level.downsample)
    block_width = width_px if source.in_bands else max(1, int(_BLOCK_PX / shrink))
    block_height = max(1, int(_BLOCK_PX**2 / (min(block_width, width_px) * shrink) / shrink))
    if height_px <= block_height and width_px <= block_width:
        block_width, block_height = width_px, height_px
    result = np.empty((height_px, width_px, 3), np.uint8)
    for top in range(0, height_px, block_height):
        bottom = min(top + block_height, height_px)
        y1, y2 = ((window.top + row * window.height / height_px) / down for row in (top, bottom))
        for left in range(0, width_px, block_width):
            right = min(left + block_width, width_px)
            x1, x2 = ((window.left + column * window.width / width_px) / across for column in (left, right))
            found = _on_white(source, index, _whole(x1, x2), _whole(y1, y2))
            result[top:bottom, left:right] = _resized(found, right - left, bottom - top)
    return result


def _whole(start: float, stop: float) -> tuple[int, int]:
    """The nearest whole px, at least one of them."""
    first = round(start)
    return first, max(first + 1, round(stop))


def _on_white(source: Source, index: int, columns: tuple[int, int], rows: tuple[int, int]) -> Pixels:
    """A window of a level that may reach over its sides."""
    level = source.levels[index]
    left, right = (min(max(column, 0), level.width_px) for column in columns)
    top, bottom = (min(max(row, 0), level.height_px) for row in rows)
    inside = left < right and top < bottom
    if inside and (left, right) == columns and (top, bottom) == rows:
        return source.region(index, left, top, right - left, bottom - top)
    canvas = np.full((rows[1] - rows[0], columns[1] - columns[0], 3), 255, np.uint8)
    if inside:
        part = source.region(index, left, top, right - left, bottom - top)
        canvas[top - rows[0] : bottom - rows[0], left - columns[0] : right - columns[0]] = part
    return canvas


def _resized(pixels: Pixels, width_px: int, height_px: int) -> Pixels:
    import cv2

    height, width = pixels.shape[:2]
    if (width, height) == (width_px, height_px):
        return pixels
    shrinks = width >= width_px and height >= height_px
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(pixels, (width_px, height_px), interpolation=how), np.uint8)
