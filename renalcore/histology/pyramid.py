"""A slide written as a tiled pyramid TIFF while it is drawn or read: its size does not show in the memory used.

Any viewer that reads plain pyramid TIFF opens it: OpenSlide, QuPath, ASAP, libvips. A slide that was stored without
smaller levels becomes quick to look at: `write_pyramid(path, ..., block=slide.read)`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Final

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Block = Callable[[int, int, int, int], Pixels]

_CLASSIC_BYTES: Final = 2**32
"""What an ordinary TIFF can address; larger pictures are written as BigTIFF."""


def write_pyramid(
    path: Path,
    *,
    width_px: int,
    height_px: int,
    block: Block,
    um_per_px: float | None,
    tile_px: int = 512,
    quality: int = 80,
) -> None:
    """Writes a pyramid TIFF of JPEG tiles, each level half of the one before, down to a single tile.

    Memory holds two rows of tiles (for 40,000 px, 60 MB); the smaller levels wait in a temporary file beside `path`.
    The file appears under its name when it is complete.

    Args:
        path: The file; one that is there is replaced.
        width_px: Width of level 0.
        height_px: Height of level 0.
        block: Gives `(h, w, 3)` uint8 RGB for `(x_px, y_px, w, h)` of level 0. Called once for every tile, row by row;
            never beyond the slide.
        um_per_px: Micrometres a pixel, written as the TIFF's resolution; None writes none.
        tile_px: Side of a tile, a multiple of 16.
        quality: Of JPEG, 1 to 100.

    Raises:
        ValueError: A size is not positive, `tile_px` no multiple of 16, or `block` gives another shape.
        OSError: The file cannot be written.
    """
    import tifffile

    if min(width_px, height_px) < 1 or tile_px < 16 or tile_px % 16 or not 1 <= quality <= 100:
        raise ValueError(f"cannot write {width_px} x {height_px} px in tiles of {tile_px} px at quality {quality}")
    if um_per_px is not None and not 0 < um_per_px < float("inf"):
        raise ValueError(f"um_per_px must be positive, got {um_per_px}")
    unfinished = path.with_name(path.name + ".part")
    resolution = None if um_per_px is None else (1e4 / um_per_px, 1e4 / um_per_px)
    try:
        with (
            tempfile.TemporaryFile(dir=path.parent) as spool,
            tifffile.TiffWriter(unfinished, bigtiff=4 * width_px * height_px >= _CLASSIC_BYTES) as tiff,
        ):
            top = level = _Level(width_px, height_px, tile_px, quality, spool)
            tiles = top.drawn(block)
            while True:
                tiff.write(
                    tiles,
                    shape=(level.height_px, level.width_px, 3),
                    dtype=np.uint8,
                    photometric="rgb",
                    compression="jpeg",
                    tile=(tile_px, tile_px),
                    subfiletype=0 if level is top else 1,
                    resolution=resolution,
                    resolutionunit=None if resolution is None else "CENTIMETER",
                    metadata=None,
                    software=False if level is not top else "RenalCore",
                )
                if level.smaller is None:
                    break
                level = level.smaller
                tiles = level.kept()
                resolution = None if resolution is None else (resolution[0] / 2, resolution[1] / 2)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


class _Level:
    """One level of the pyramid, which takes the halved tiles of the one above and hands its own halves down."""

    def __init__(self, width_px: int, height_px: int, tile_px: int, quality: int, spool: IO[bytes]) -> None:
        self.width_px, self.height_px = width_px, height_px
        self._tile_px, self._quality, self._spool = tile_px, quality, spool
        self._across, self._down = -(-width_px // tile_px), -(-height_px // tile_px)
        self._places: list[tuple[int, int]] = []
        single = max(width_px, height_px) <= tile_px
        half = -(-width_px // 2), -(-height_px // 2)
        self.smaller = None if single else _Level(*half, tile_px, quality, spool)
        self._row: Pixels | None = None

    def drawn(self, block: Block) -> Iterator[bytes]:
        """The tiles of level 0, while `block` draws them."""
        side = self._tile_px
        for top in range(0, self.height_px, side):
            for left in range(0, self.width_px, side):
                width, height = min(side, self.width_px - left), min(side, self.height_px - top)
                pixels = block(left, top, width, height)
                if pixels.shape != (height, width, 3) or pixels.dtype != np.uint8:
                    raise ValueError(f"block gave {pixels.shape} {pixels.dtype}, expected {(height, width, 3)} uint8")
                tile = np.pad(pixels, ((0, side - height), (0, side - width), (0, 0)), mode="edge")
                yield self._encoded(tile, top // side, left // side)

    def kept(self) -> Iterator[bytes]:
        """The tiles of a smaller level, once those above are all written."""
        for start, length in self._places:
            self._spool.seek(start)
            yield self._spool.read(length)

    def _encoded(self, tile: Pixels, row: int, column: int) -> bytes:
        import cv2

        if self.smaller is not None:
            half = self._tile_px // 2
            shrunk = np.asarray(cv2.resize(tile, (half, half), interpolation=cv2.INTER_AREA), np.uint8)
            self.smaller._take(shrunk, row, column, last=(self._down - 1, self._across - 1))
        written, content = cv2.imencode(".jpg", tile[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, self._quality])
        if not written:
            raise OSError("a tile could not be written as JPEG")
        return content.tobytes()

    def _take(self, quarter: Pixels, row: int, column: int, *, last: tuple[int, int]) -> None:
        """A quarter of one of this level's tiles; writes a row of tiles when its last quarter has come."""
        side, half = self._tile_px, self._tile_px // 2
        if self._row is None:
            self._row = np.full((side, self._across * side, 3), 255, np.uint8)
        y, x = row % 2 * half, column * half
        self._row[y : y + half, x : x + half] = quarter
        if column == last[1] and (row % 2 == 1 or row == last[0]):
            for own in range(self._across):
                content = self._encoded(self._row[:, own * side : (own + 1) * side], row // 2, own)
                self._places.append((self._spool.seek(0, 2), len(content)))
                self._spool.write(content)
            self._row[:] = 255
