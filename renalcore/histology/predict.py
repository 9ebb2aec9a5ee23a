"""Finding the glomeruli of a slide."""

from __future__ import annotations

import hashlib
import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from renalcore import models
from renalcore.engine import backends, devices
from renalcore.engine.backends import Backend
from renalcore.engine.devices import Device
from renalcore.errors import ModelError
from renalcore.histology import zoom
from renalcore.histology.glomeruli import Glomeruli
from renalcore.histology.instances import join
from renalcore.histology.tiles import BLOCK_TILES, FULL, Axis, Block, BlockResult, Layout, Sums, cut
from renalcore.histology.tissue import LONGEST_PX, find_tissue
from renalcore.histology.zoom import Readable, Seen
from renalcore.models import ModelCard

if TYPE_CHECKING:
    from torch import nn

    from renalcore.io.slide import Slide

Progress = Callable[[int, int], None]
"""Told how many tiles are searched, and of how many."""

S = TypeVar("S")
T = TypeVar("T")

_BATCH: Final = {"cuda": 32}
_CPU_BATCH: Final = 8  # enough to keep every core busy; each tile more waits in memory
_READERS: Final = {"cuda": 8}  # what it takes to feed a GPU; beside a network on the CPU one is enough
_LEAST_SHARE: Final = 1 / 2  # of the smallest glomerulus trained with: a cut or sclerosed one may be so small
_LEAST_PX: Final = 12.0  # where the card does not say with which sizes the network was trained


class GlomerulusModel:
    """A loaded histology model. Several threads may search with one object.

    Attributes:
        card: The model.
        device: What runs it.
        backend: Its network there: tiles `(N, H, W, 3)` uint8 to probabilities `(N, 2, H, W)` uint8, 255 being 1.
    """

    def __init__(self, card: ModelCard, backend: Backend, device: Device) -> None:
        self.card = card
        self.device = device
        self.backend = backend

    @classmethod
    def load(cls, key: str, *, device: str = "auto", root: Path = models.WEIGHTS) -> GlomerulusModel:
        """The model called `key`, its weights checked against its card.

        Raises:
            UnknownName: There is no such model or device.
            ModelError: It is not a histology model, its weights are missing or altered, or the device is absent.
        """
        card = models.card(key, root)
        if card.modality != "histology":
            raise ModelError(f"{key} does not search kidney slides; it is a model for {card.modality}")
        chosen = devices.choose(device)
        if chosen.kind == "openvino-int8":
            raise ModelError("models of kidney slides have no INT8 form; use --device openvino")
        build = partial(_network, card.network, models.weights_path(card, root))
        return cls(card, backends.load(build, chosen, key=_key(card)), chosen)

    @property
    def batch(self) -> int:
        """Tiles that the network is shown at once."""
        return _BATCH.get(self.device.kind, _CPU_BATCH)

    def blocks(
        self, slide: Slide, *, species: str = "human", block_tiles: int = BLOCK_TILES, downsample: float | None = None
    ) -> tuple[Block, ...]:
        """How the slide is searched, block by block: tissue found, working zoom chosen, tiles laid.

        Each block can be searched alone, in any process, and its result stored. For a slide without a scale this runs
        the network on a part of it, see `renalcore.histology.zoom`.

        Args:
            slide: The slide.
            species: Whose kidney it is, which says how large glomeruli are where the slide's scale is known.
            block_tiles: Tiles from which a block is full. Memory grows with it, the result does not change.
            downsample: Level-0 px a working px, where the caller knows how large glomeruli are; else it is chosen.

        Returns:
            At least one block; a slide without tissue has one without tiles.
        """
        tissue = find_tissue(slide.thumbnail(LONGEST_PX))
        scale = self.card.input
        if downsample is None:
            downsample = zoom.downsample_of(
                scale, species=species, um_per_px=slide.um_per_px, objective=slide.objective
            )
        if downsample is None and scale.object_px is not None:
            downsample = zoom.most_certain(slide, tissue, self._seen, scale.object_px)
        tissue_px = float(tissue.mean()) * slide.width_px * slide.height_px
        layout = self._layout(slide, downsample or 1.0, um_per_px=slide.um_per_px, tissue_px=tissue_px)
        return cut(layout, tissue, block_tiles=block_tiles)

    def search(self, slide: Slide, block: Block) -> BlockResult:
        """What the network says of one block of the slide."""
        return next(self.results(slide, [block]))

    def results(
        self, slide: Readable, blocks: Sequence[Block], *, progress: Progress | None = None
    ) -> Generator[BlockResult, None, None]:
        """What the network says of the blocks, one after the other.

        Tiles of the next block are decoded while one is searched, so this is faster than `search` block by block.
        Whoever leaves before the end closes the generator: nothing reads from the slide after that.

        Args:
            slide: The slide the blocks were made of.
            blocks: Any of its blocks, for example those that a killed worker left.
            progress: Told how far it is after each batch.
        """
        jobs = [(block, tiles) for block in blocks for tiles in _batches(block, self.batch)]
        of_all, searched = sum(len(block.tiles) for block in blocks), 0
        with ExitStack() as stack:
            count = _READERS.get(self.device.kind, 1)
            readers = stack.enter_context(ThreadPoolExecutor(count, "read"))
            network = stack.enter_context(ThreadPoolExecutor(1, "network"))
            pictures = _ahead(readers, lambda job: _read(slide, *job), jobs, waiting=count + 1)
            answers = _ahead(network, self.backend.run, pictures, waiting=1)
            stack.callback(pictures.close)
            stack.callback(answers.close)
            for block in blocks:
                sums = Sums(block)
                for tiles in _batches(block, self.batch):
                    for tile, answer in zip(tiles, next(answers)[0], strict=True):
                        sums.add(tile, answer)
                    searched += len(tiles)
                    if progress is not None:
                        progress(searched, of_all)
                yield sums.result()

    def predict(self, slide: Slide, *, progress: Progress | None = None) -> Glomeruli:
        """The glomeruli of the slide, from top to bottom.

        Args:
            slide: The slide.
            progress: Told how many tiles are done, and of how many.
        """
        return join(self.results(slide, self.blocks(slide), progress=progress))

    def _layout(self, slide: Readable, downsample: float, *, um_per_px: float | None, tissue_px: float) -> Layout:
        card = self.card
        least = card.input.object_px[0] * _LEAST_SHARE if card.input.object_px else _LEAST_PX
        columns, rows = (
            Axis.lay(max(1, round(side / downsample)), tile_px=card.input.slice_px, overlap=card.input.overlap)
            for side in (slide.width_px, slide.height_px)
        )
        return Layout(
            width_px=slide.width_px,
            height_px=slide.height_px,
            um_per_px=um_per_px,
            downsample=downsample,
            columns=columns,
            rows=rows,
            tissue_px=tissue_px,
            min_score=card.min_score_of(card.classes[0]),
            least_px=least,
        )

    def _seen(self, part: Readable, downsample: float) -> Seen:
        """What the network says of a part at one zoom."""
        layout = self._layout(part, downsample, um_per_px=None, tissue_px=0)
        results = list(self.results(part, cut(layout, np.ones((1, 1), np.bool_))))
        sums = np.zeros((layout.rows.length_px, layout.columns.length_px), np.uint16)
        for result in results:
            sums[result.block.top_px : result.block.bottom_px] += result.sums[0]
        return Seen.of(sums.astype(np.float32) / np.float32(FULL), join(results), part, min_score=layout.min_score)


def _batches(block: Block, size: int) -> list[tuple[tuple[int, int], ...]]:
    return [block.tiles[start : start + size] for start in range(0, len(block.tiles), size)]


def _read(slide: Readable, block: Block, tiles: Sequence[tuple[int, int]]) -> NDArray[np.uint8]:
    """The tiles as the network is shown them, `(N, tile height, tile width, 3)`; neighbours in a row are read at once.

    What reaches beyond a slide smaller than a tile mirrors it: an edge that is none would be taken for one.
    """
    layout = block.layout
    rows, columns, downsample = layout.rows, layout.columns, layout.downsample
    height = min(rows.tile_px, rows.length_px)
    pictures = np.empty((len(tiles), rows.tile_px, columns.tile_px, 3), np.uint8)
    done = 0
    for (row, _), run in itertools.groupby(enumerate(tiles), key=lambda at: (at[1][0], at[1][1] - at[0])):
        starts = [columns.starts_px[column] for _, (_, column) in run]
        right = min(starts[-1] + columns.tile_px, columns.length_px)
        strip = slide.read(
            starts[0] * downsample, rows.starts_px[row] * downsample, right - starts[0], height, downsample=downsample
        )
        for start in starts:
            tile = strip[:, start - starts[0] : start - starts[0] + columns.tile_px]
            below, beside = rows.tile_px - tile.shape[0], columns.tile_px - tile.shape[1]
            pictures[done] = cv2.copyMakeBorder(tile, 0, below, 0, beside, cv2.BORDER_REFLECT)
            done += 1
    return pictures


def _ahead(
    pool: ThreadPoolExecutor, work: Callable[[S], T], given: Iterable[S], *, waiting: int
) -> Generator[T, None, None]:
    """`work` done on what is given, in its order, up to `waiting` steps before it is asked for."""
    coming: deque[Future[T]] = deque()
    try:
        for each in given:
            coming.append(pool.submit(work, each))
            if len(coming) > waiting:
                yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()
    finally:
        for future in coming:
            future.cancel()


def _network(name: str, weights: Path) -> nn.Module:
    from renalcore.histology.decoding import pixel_network

    return pixel_network(name, weights)


def _key(card: ModelCard) -> str:
    """Names a converted network by everything it was made from."""
    made_from = hashlib.sha256(f"{card.sha256}{card.network}".encode())
    for package in ("openvino", "torch", "segmentation_models_pytorch", "timm"):
        made_from.update(version(package).encode())
    for module in ("networks.py", "deeplab.py", "double_unet.py", "decoding.py"):
        made_from.update((Path(__file__).parent / module).read_bytes())
    return f"histology-{made_from.hexdigest()[:32]}"
