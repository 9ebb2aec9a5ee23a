"""How a slide is cut: overlapping tiles over tissue, windows that sum to one, and blocks of tile rows.

All positions here are in working px, the pixels that the network is shown; `Layout.downsample` level-0 px make one.
A tile's answer is weighted with a window and added up. Where several tiles overlap their windows sum to one, so that
what a block of tiles adds up can be stored alone and added to its neighbours' afterwards, and the sum is the same
however the slide was cut into blocks: weights are rounded to integers first, and integers add up exactly.
"""

from __future__ import annotations

import dataclasses
import json
import math
import zlib
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from renalcore.errors import InputError

SIDE_MULTIPLE_PX: Final = 32
"""Sides of a tile are multiples of this, as the networks want."""

FULL: Final = 64 * 255
"""What a block's sums hold where the network is certain (255 of 255), give or take the rounding."""

BLOCK_TILES: Final = 64
"""Tiles from which a block is full: some seconds of work on a plain CPU."""

BLOCK_PX: Final = 8_000_000
"""Area in working px that a block of more than one row of tiles keeps to: 32 MB of sums. No slide is so wide (75 mm)
that one row of tiles takes more than some 80 MB."""


@dataclass(frozen=True, slots=True)
class Axis:
    """Tiles along one side of a slide.

    Attributes:
        length_px: The slide, in working px.
        tile_px: A tile; more than `length_px` only where one tile holds the whole slide.
        starts_px: Where each tile begins.
        ramp_px: Width over which one tile's window gives way to the next one's.
    """

    length_px: int
    tile_px: int
    starts_px: tuple[int, ...]
    ramp_px: int

    @classmethod
    def lay(cls, length_px: int, *, tile_px: int, overlap: float) -> Axis:
        """The fewest tiles that cover `length_px` and overlap by at least `overlap` of a tile, evenly spread.

        None reaches beyond the slide, unless the slide is smaller than a tile.

        Raises:
            ValueError: The slide has no length, the tile is no multiple of 32 px, or the overlap leaves 0..0.5.
        """
        if length_px < 1 or tile_px < 1 or tile_px % SIDE_MULTIPLE_PX or not 0 <= overlap <= 0.5:
            raise ValueError(f"cannot lay tiles of {tile_px} px on {length_px} px with an overlap of {overlap}")
        tile_px = min(tile_px, math.ceil(length_px / SIDE_MULTIPLE_PX) * SIDE_MULTIPLE_PX)
        ramp_px = round(tile_px * overlap)
        if length_px <= tile_px:
            return cls(length_px, tile_px, (0,), ramp_px)
        steps = math.ceil((length_px - tile_px) / (tile_px - ramp_px))
        starts = tuple(round(index * (length_px - tile_px) / steps) for index in range(steps + 1))
        strides = [int(stride) for stride in np.diff(starts)]
        return cls(length_px, tile_px, starts, min(ramp_px, tile_px - max(strides), min(strides)))

    def window(self, index: int) -> NDArray[np.float32]:
        """The weights of a tile's pixels along this side, `(tile_px,)`; those of all tiles sum to one everywhere.

        Each is the difference of two smooth steps (raised cosines) about the middles of its overlaps, so the sum over
        neighbours telescopes.
        """
        places = self.starts_px[index] + np.arange(self.tile_px, dtype=np.float64) + 0.5
        return (self._step(index, places) - self._step(index + 1, places)).astype(np.float32)

    def _step(self, index: int, places: NDArray[np.floating]) -> NDArray[np.floating]:
        if index == 0:
            return np.ones(len(places))
        if index == len(self.starts_px):
            return np.zeros(len(places))
        middle = (self.starts_px[index - 1] + self.tile_px + self.starts_px[index]) / 2
        if not self.ramp_px:
            return (places > middle).astype(np.float64)
        share = ((places - middle) / self.ramp_px + 0.5).clip(0, 1)
        return (1 - np.cos(np.pi * share)) / 2


@dataclass(frozen=True, slots=True)
class Layout:
    """How one slide is searched; all that turns sums of a network's answers into glomeruli of that slide.

    Attributes:
        width_px: Of level 0.
        height_px: Of level 0.
        um_per_px: Of level 0, or None where it is unknown.
        downsample: Level-0 px a working px.
        columns: Tiles along the width.
        rows: Tiles along the height.
        tissue_px: Area of the tissue, in level-0 px.
        min_score: Probability from which a pixel belongs to a glomerulus.
        least_px: Diameter, in working px, below which something is no glomerulus.
    """

    width_px: int
    height_px: int
    um_per_px: float | None
    downsample: float
    columns: Axis
    rows: Axis
    tissue_px: float
    min_score: float
    least_px: float

    def to_json(self) -> str:
        """As text, for the record of an analysis."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Layout:
        """What `to_json` wrote."""
        plain: dict[str, Any] = json.loads(text)
        sides = {
            side: Axis(**{**plain[side], "starts_px": tuple(plain[side]["starts_px"])}) for side in ("columns", "rows")
        }
        return cls(**{**plain, **sides})


@dataclass(frozen=True, slots=True)
class Block:
    """Whole rows of tiles, searched as one.

    Attributes:
        layout: Of the slide.
        first_row: The first row of tiles.
        end_row: The row after the last.
        tiles: Row and column of each tile that shows tissue, in reading order.
    """

    layout: Layout
    first_row: int
    end_row: int
    tiles: tuple[tuple[int, int], ...]

    @property
    def top_px(self) -> int:
        """Where the block begins, in working px."""
        return self.layout.rows.starts_px[self.first_row]

    @property
    def bottom_px(self) -> int:
        """Where the block's last tile ends, within the slide, in working px."""
        rows = self.layout.rows
        return min(rows.starts_px[self.end_row - 1] + rows.tile_px, rows.length_px)

    def to_json(self) -> str:
        """As text, so that another process can search it."""
        return json.dumps(
            {
                "layout": self.layout.to_json(),
                "first_row": self.first_row,
                "end_row": self.end_row,
                "tiles": self.tiles,
            }
        )

    @classmethod
    def from_json(cls, text: str) -> Block:
        """What `to_json` wrote."""
        plain: dict[str, Any] = json.loads(text)
        tiles = tuple((int(row), int(column)) for row, column in plain["tiles"])
        return cls(Layout.from_json(plain["layout"]), plain["first_row"], plain["end_row"], tiles)


@dataclass(frozen=True, slots=True, eq=False)
class BlockResult:
    """What a network said of a block, to be joined with the others of its slide.

    Attributes:
        block: The block.
        sums: `(2, height, width)` uint16 over the block's rows and the slide's whole width, in working px: probability
            of glomerulus and of core, weighted and added up over the block's tiles, `FULL` being 1.

    Raises:
        ValueError: The sums are not those of the block.
    """

    block: Block
    sums: NDArray[np.uint16]

    def __post_init__(self) -> None:
        expected = (2, self.block.bottom_px - self.block.top_px, self.block.layout.columns.length_px)
        if self.sums.shape != expected or self.sums.dtype != np.uint16:
            raise ValueError(f"the block's sums are {expected} uint16, got {self.sums.shape} {self.sums.dtype}")

    def to_bytes(self) -> bytes:
        """For the store: a line of JSON, then the sums, compressed (some 2 % of their size)."""
        return self.block.to_json().encode() + b"\n" + zlib.compress(self.sums.tobytes(), 1)

    @classmethod
    def from_bytes(cls, content: bytes) -> BlockResult:
        """What `to_bytes` wrote.

        Raises:
            InputError: It is cut off or something else.
        """
        head, _, packed = content.partition(b"\n")
        try:
            block = Block.from_json(head.decode())
            shape = (2, block.bottom_px - block.top_px, block.layout.columns.length_px)
            return cls(block, np.frombuffer(zlib.decompress(packed), np.uint16).reshape(shape))
        except (ValueError, TypeError, LookupError, zlib.error) as error:
            raise InputError(f"this is not the result of a block ({error}); search the block again") from error


class Sums:
    """Adds up the answers to the tiles of one block.

    Args:
        block: The block.
    """

    def __init__(self, block: Block) -> None:
        self.block = block
        self._sums = np.zeros((2, block.bottom_px - block.top_px, block.layout.columns.length_px), np.uint16)

    def add(self, tile: tuple[int, int], answer: NDArray[np.uint8]) -> None:
        """Add the answer to one tile, `(2, tile height, tile width)`, 255 being certain."""
        if not answer[0].any():
            return  # cores count within glomeruli only
        layout = self.block.layout
        row, column = tile
        top = layout.rows.starts_px[row] - self.block.top_px
        left = layout.columns.starts_px[column]
        part = self._sums[:, top : top + layout.rows.tile_px, left : left + layout.columns.tile_px]
        window = np.outer(layout.rows.window(row), layout.columns.window(column) * np.float32(FULL / 255))
        weighted = answer[:, : part.shape[1], : part.shape[2]] * window[: part.shape[1], : part.shape[2]]
        part += np.rint(weighted, out=weighted).astype(np.uint16)

    def result(self) -> BlockResult:
        """What has been added up."""
        return BlockResult(self.block, self._sums)


def cut(layout: Layout, tissue: NDArray[np.bool_], *, block_tiles: int = BLOCK_TILES) -> tuple[Block, ...]:
    """The blocks of a slide, top to bottom; at least one, which may be without tiles.

    Args:
        layout: How the slide is searched.
        tissue: `(H, W)`, true on tissue, of any size; it covers the whole slide.
        block_tiles: Tiles from which a block is full. Memory grows with it, the result does not change.
    """
    blocks: list[Block] = []
    first, end, tiles = 0, 0, list[tuple[int, int]]()
    for row, columns in enumerate(_shown(layout, tissue)):
        if not columns:
            continue
        height_px = layout.rows.starts_px[row] + layout.rows.tile_px - layout.rows.starts_px[first]
        if tiles and (len(tiles) >= block_tiles or height_px * layout.columns.length_px > BLOCK_PX):
            blocks.append(Block(layout, first, end, tuple(tiles)))
            tiles = []
        if not tiles:
            first = row
        tiles += [(row, column) for column in columns]
        end = row + 1
    return (*blocks, Block(layout, first, max(end, 1), tuple(tiles)))


def _shown(layout: Layout, tissue: NDArray[np.bool_]) -> list[list[int]]:
    """The columns of the tiles with tissue, row by row."""
    height, width = tissue.shape
    counts = np.zeros((height + 1, width + 1), np.int64)
    counts[1:, 1:] = tissue.cumsum(0).cumsum(1)

    def edges(axis: Axis, size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        starts = np.array(axis.starts_px)
        ends = np.minimum(starts + axis.tile_px, axis.length_px)
        return (
            np.floor(starts * size / axis.length_px).astype(np.int64),
            np.ceil(ends * size / axis.length_px).astype(np.int64),
        )

    (tops, bottoms), (lefts, rights) = edges(layout.rows, height), edges(layout.columns, width)
    inside = (
        counts[np.ix_(bottoms, rights)] - counts[np.ix_(tops, rights)]
        - counts[np.ix_(bottoms, lefts)] + counts[np.ix_(tops, lefts)]
    )  # fmt: skip
    return [np.flatnonzero(columns).tolist() for columns in inside]
