"""Speed of the search of a slide: tissue a second, the share of the time inside the network, and the memory it takes.

The slide is drawn and written as a tiled pyramid (JPEG tiles, halved levels) unless one is given, so that what is timed
is what `predict histology` does: finding the tissue, decoding, the network, joining the blocks. The network's time
includes waiting for the processor where decoding runs beside it on the same cores.
"""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from renalcore import models
from renalcore.engine.backends import Backend, Outputs
from renalcore.histology.instances import join
from renalcore.histology.predict import GlomerulusModel, Progress
from renalcore.histology.pyramid import write_pyramid
from renalcore.io.slide import Slide, open_slide

UM_PER_PX: Final = 0.5
"""Of the slide that is drawn: a 20x objective."""

_PERIOD_PX: Final = 2048
_TISSUE_SHARE: Final = 0.8  # of each side


@dataclass(frozen=True, slots=True)
class Measured:
    """What a benchmark measured.

    Attributes:
        model: Key of the model.
        device: What ran it.
        slide: Its size and levels in words.
        tissue_mpx: Tissue, in million px of level 0.
        tiles: Tiles shown to the network.
        glomeruli: What was found, which means nothing on a drawn slide.
        seconds: The whole search, from the open slide to outlines.
        network_s: Of those, inside the network.
        peak_mb: The most memory that the process held, in 2^20 bytes.
    """

    model: str
    device: str
    slide: str
    tissue_mpx: float
    tiles: int
    glomeruli: int
    seconds: float
    network_s: float
    peak_mb: float

    @property
    def mpx_per_s(self) -> float:
        """Tissue a second, in million px of level 0."""
        return self.tissue_mpx / self.seconds

    @property
    def network_share(self) -> float:
        """Share of the time inside the network."""
        return self.network_s / self.seconds

    def __str__(self) -> str:
        return "\n".join(
            (
                f"model               {self.model}, on {self.device}",
                f"slide               {self.slide}",
                f"tissue              {self.tissue_mpx:10.1f} Mpx of level 0, {self.tiles} tiles",
                f"search              {self.seconds:10.1f} s",
                f"speed               {self.mpx_per_s:10.2f} Mpx of tissue a second",
                f"inside the network  {self.network_share:10.1%}",
                f"peak memory         {self.peak_mb:10.0f} MB",
            )
        )


class _Timed:
    """A back end that counts its seconds; `GlomerulusModel` calls it from one thread."""

    def __init__(self, backend: Backend) -> None:
        self.seconds = 0.0
        self._backend = backend

    def run(self, batch: NDArray[np.uint8]) -> Outputs:
        start = time.perf_counter()
        found = self._backend.run(batch)
        self.seconds += time.perf_counter() - start
        return found


def run(
    key: str,
    *,
    slide: Path | None = None,
    size_px: int = 40_000,
    device: str = "auto",
    root: Path = models.WEIGHTS,
    progress: Progress | None = None,
) -> Measured:
    """Search one slide and measure.

    Args:
        key: The model.
        slide: A slide; by default one is drawn.
        size_px: Side of the slide that is drawn.
        device: What runs the network.
        root: Folder of models.
        progress: Told how many tiles are done, and of how many.

    Raises:
        UnknownName: There is no such model or device.
        ModelError: The weights are missing or altered, or the device is absent.
        InputError: The slide cannot be read.
    """
    with ExitStack() as stack:
        if slide is None:
            slide = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "drawn.tiff"
            write_pyramid(slide, width_px=size_px, height_px=size_px, block=drawn(size_px), um_per_px=UM_PER_PX)
        opened = stack.enter_context(open_slide(slide))
        model = GlomerulusModel.load(key, device=device, root=root)
        return measure(model, opened, progress=progress)


def measure(model: GlomerulusModel, slide: Slide, *, progress: Progress | None = None) -> Measured:
    """Search an open slide once to warm the network up, on its first block, and once in full."""
    model.search(slide, model.blocks(slide)[0])
    timed = _Timed(model.backend)
    model = GlomerulusModel(model.card, timed, model.device)
    start = time.perf_counter()
    blocks = model.blocks(slide)
    found = join(model.results(slide, blocks, progress=progress))
    seconds = time.perf_counter() - start
    sizes = " ".join(f"{level.downsample:g}" for level in slide.levels)
    return Measured(
        model=model.card.key,
        device=str(model.device),
        slide=f"{slide.width_px} x {slide.height_px} px, {slide.format}, levels {sizes}",
        tissue_mpx=found.tissue_px / 1e6,
        tiles=sum(len(block.tiles) for block in blocks),
        glomeruli=len(found),
        seconds=seconds,
        network_s=timed.seconds,
        peak_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    )


def drawn(size_px: int) -> Callable[[int, int, int, int], NDArray[np.uint8]]:
    """A square of rough pink tissue in the middle of glass, four dark discs of 200 um in each mm2.

    Args:
        size_px: Side of the slide.

    Returns:
        What `write_pyramid` asks for its pixels.
    """
    random = np.random.default_rng(0)
    rough = random.normal(0, 12, (_PERIOD_PX // 8, _PERIOD_PX // 8, 3)).repeat(8, 0).repeat(8, 1)
    tissue = np.array([205, 140, 180]) + rough
    places = np.arange(_PERIOD_PX) % (_PERIOD_PX // 2) - _PERIOD_PX // 4
    tissue[np.hypot(places[:, None], places[None]) < 100 / UM_PER_PX] -= 70
    pattern = tissue.clip(0, 255).astype(np.uint8)
    margin = size_px * (1 - _TISSUE_SHARE) / 2

    def block(x_px: int, y_px: int, width_px: int, height_px: int) -> NDArray[np.uint8]:
        x, y = x_px + np.arange(width_px), y_px + np.arange(height_px)
        pixels: NDArray[np.uint8] = pattern[np.ix_(y % _PERIOD_PX, x % _PERIOD_PX)]
        pixels[(y < margin) | (y > size_px - margin)] = 243
        pixels[:, (x < margin) | (x > size_px - margin)] = 243
        return pixels

    return block
