"""Speed of the search of a slide: tissue a second, what each stage takes, memory, and the same by TIAToolbox.

Slides are drawn and written as tiled pyramids (JPEG tiles, halved levels) unless one is given, so that what is timed is
what `predict histology` does: finding the tissue, decoding, the network, adding up the tiles' answers, outlines. Of the
drawn slides the first has a quarter of the second one's area, which shows whether memory grows with it.

Decoding and the network run beside each other, so stages are told by the processor time they take; what no thread of
ours takes is the network's (with the little that OpenCV's own threads do). On a machine that does other work too, only
these shares and ratios mean something: seconds do not.
"""

from __future__ import annotations

import json
import resource
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from renalcore import models
from renalcore.engine.backends import Backend, Outputs
from renalcore.engine.devices import Device
from renalcore.errors import InputError
from renalcore.histology.instances import join
from renalcore.histology.predict import GlomerulusModel, Progress
from renalcore.histology.pyramid import write_pyramid
from renalcore.histology.tiles import BlockResult, Layout
from renalcore.histology.tissue import LONGEST_PX, find_tissue
from renalcore.io.slide import Slide, open_slide

UM_PER_PX: Final = 0.5
"""Of the slides that are drawn: a 20x objective."""

PEER: Final = "tiatoolbox==2.1.3"
"""What the environment of the peer holds."""

_PERIOD_PX: Final = 2048
_TISSUE_SHARE: Final = 0.8  # of each side


@dataclass(frozen=True, slots=True)
class Search:
    """What the search of one slide took.

    Attributes:
        slide: Its size and levels in words.
        tissue_mpx: Tissue, in million px of level 0.
        tiles: Tiles shown to the network.
        glomeruli: What was found; on a drawn slide, dark discs.
        seconds: The whole search, from the open slide to outlines.
        network_s: Of those, those in which the network was at work.
        processor_s: Processor time of all threads, by stage.
        peak_mb: The most memory that the process held until then, in 2^20 bytes.
    """

    slide: str
    tissue_mpx: float
    tiles: int
    glomeruli: int
    seconds: float
    network_s: float
    processor_s: dict[str, float]
    peak_mb: float

    @property
    def mpx_per_s(self) -> float:
        """Tissue a second, in million px of level 0."""
        return self.tissue_mpx / self.seconds

    @property
    def shares(self) -> dict[str, float]:
        """Share of each stage in the processor time."""
        whole = sum(self.processor_s.values())
        return {stage: seconds / whole for stage, seconds in self.processor_s.items()}

    def __str__(self) -> str:
        tissue = f"{self.tissue_mpx:10.1f} Mpx of level 0, {self.tiles} tiles, {self.glomeruli} glomeruli"
        shares = ", ".join(f"{stage} {share:.1%}" for stage, share in self.shares.items())
        at_work = f"the network at work in {self.network_s / self.seconds:.1%}"
        return "\n".join(
            (
                f"slide               {self.slide}",
                f"tissue              {tissue}",
                f"search              {self.seconds:10.1f} s, {at_work}",
                f"speed               {self.mpx_per_s:10.2f} Mpx of tissue a second",
                f"processor time      {sum(self.processor_s.values()):10.1f} s: {shares}",
                f"peak memory         {self.peak_mb:10.0f} MB",
            )
        )


@dataclass(frozen=True, slots=True)
class Peer:
    """What TIAToolbox took for the last slide, with the same network, zoom, size and overlap of tiles, and tissue.

    Attributes:
        version: Of TIAToolbox.
        tiles: Tiles that it showed to the network.
        seconds: From the path of the slide to a file of labels, without outlines.
        processor_s: Processor time of all its threads.
        peak_mb: The most memory that its process held, in 2^20 bytes.
    """

    version: str
    tiles: int
    seconds: float
    processor_s: float
    peak_mb: float

    def __str__(self) -> str:
        return (
            f"TIAToolbox {self.version:<8} {self.seconds:10.1f} s, {self.processor_s:.1f} s of processor time, "
            f"{self.tiles} tiles, {self.peak_mb:.0f} MB"
        )


@dataclass(frozen=True, slots=True)
class Measured:
    """What a benchmark measured.

    Attributes:
        model: Key of the model.
        device: What ran it.
        searches: Of each slide.
        peer: What TIAToolbox took for the last of them, if it was asked.
    """

    model: str
    device: str
    searches: tuple[Search, ...]
    peer: Peer | None

    @property
    def ratios(self) -> tuple[float, float] | None:
        """How many times faster than TIAToolbox: by the clock, and in processor time."""
        if self.peer is None:
            return None
        ours = self.searches[-1]
        return self.peer.seconds / ours.seconds, self.peer.processor_s / sum(ours.processor_s.values())

    def __str__(self) -> str:
        lines = [f"{self.model}, on {self.device}", *map(str, self.searches)]
        if self.peer is not None and self.ratios is not None:
            by_clock, by_processor = self.ratios
            lines += [str(self.peer), f"times faster        {by_clock:10.2f}, in processor time {by_processor:.2f}"]
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """All of it, for JSON."""
        searches = [{**asdict(each), "mpx_per_s": each.mpx_per_s, "shares": each.shares} for each in self.searches]
        return {**asdict(self), "searches": searches, "ratios": self.ratios}


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


class _TimedSlide:
    """A slide that keeps the processor time of each window that is read."""

    def __init__(self, slide: Slide) -> None:
        self.width_px, self.height_px = slide.width_px, slide.height_px
        self.taken_s: list[float] = []
        self._slide = slide

    def read(
        self, x_px: float, y_px: float, width_px: int, height_px: int, *, downsample: float = 1.0
    ) -> NDArray[np.uint8]:
        """See `Slide.read`."""
        start = time.thread_time()
        found = self._slide.read(x_px, y_px, width_px, height_px, downsample=downsample)
        self.taken_s.append(time.thread_time() - start)
        return found


def run(
    key: str,
    *,
    slide: Path | None = None,
    size_px: int = 40_000,
    device: str = "auto",
    root: Path = models.WEIGHTS,
    peer: Path | None = None,
    progress: Progress | None = None,
) -> Measured:
    """Search one slide, or two drawn ones, and measure.

    Args:
        key: The model.
        slide: A slide; by default two are drawn.
        size_px: Side of the larger drawn one; the other's is half of it.
        device: What runs the network.
        root: Folder of models.
        peer: The Python of an environment with TIAToolbox, which then searches the (larger) slide too.
        progress: Told how many tiles of a slide are done, and of how many.

    Raises:
        UnknownName: There is no such model or device.
        ModelError: The weights are missing or altered, or the device is absent.
        InputError: The slide cannot be read, or the peer cannot be run.
    """
    if peer is not None:  # asked now, not after a long search
        _call(peer, "-c", "from importlib.metadata import version; version('tiatoolbox')")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        paths = [slide] if slide is not None else []
        for side in () if slide is not None else (max(1, size_px // 2), size_px):
            paths.append(folder / f"drawn-{side}.tiff")
            write_pyramid(paths[-1], width_px=side, height_px=side, block=drawn(side), um_per_px=UM_PER_PX)
        model = GlomerulusModel.load(key, device=device, root=root)
        searches = []
        for path in paths:
            with open_slide(path) as opened:
                searches.append(measure(model, opened, progress=progress))
        theirs = None
        if peer is not None:
            _trace(model, root, folder / "network.pt")
            with open_slide(paths[-1]) as opened:
                layout = model.blocks(opened)[0].layout
                tissue = find_tissue(opened.thumbnail(LONGEST_PX))
            theirs = ask(peer, folder, paths[-1], layout, tissue, device=model.device, batch=model.batch)
        return Measured(key, str(model.device), tuple(searches), theirs)


def measure(model: GlomerulusModel, slide: Slide, *, progress: Progress | None = None) -> Search:
    """Search an open slide: its first block once to warm up, then all of it."""
    join([model.search(slide, model.blocks(slide)[0])])
    timed, read = _Timed(model.backend), _TimedSlide(slide)
    model = GlomerulusModel(model.card, timed, model.device)
    start, processor, thread = time.perf_counter(), time.process_time(), time.thread_time()
    blocks = model.blocks(slide)
    tissue_s = time.thread_time() - thread
    adding_s: list[float] = []
    found = join(_kept(model.results(read, blocks, progress=progress), adding_s))
    own_s, seconds = time.thread_time() - thread, time.perf_counter() - start
    decoding_s = sum(read.taken_s)
    sizes = " ".join(f"{level.downsample:g}" for level in slide.levels)
    return Search(
        slide=f"{slide.width_px} x {slide.height_px} px, {slide.format}, levels {sizes}",
        tissue_mpx=found.tissue_px / 1e6,
        tiles=sum(len(block.tiles) for block in blocks),
        glomeruli=len(found),
        seconds=seconds,
        network_s=timed.seconds,
        processor_s={
            "network": time.process_time() - processor - own_s - decoding_s,
            "decoding": decoding_s,
            "adding up": sum(adding_s),
            "outlines": own_s - tissue_s - sum(adding_s),
            "tissue": tissue_s,
        },
        peak_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    )


def _kept(results: Iterator[BlockResult], taken_s: list[float]) -> Iterator[BlockResult]:
    """The results, with the processor time that this thread took for each."""
    while True:
        start = time.thread_time()
        result = next(results, None)
        taken_s.append(time.thread_time() - start)
        if result is None:
            return
        yield result


def ask(
    python: Path, folder: Path, slide: Path, layout: Layout, tissue: NDArray[np.bool_], *, device: Device, batch: int
) -> Peer:
    """Let TIAToolbox search a slide as `layout` says.

    Args:
        python: The interpreter of its environment.
        folder: Holds the network as TorchScript, `network.pt`; TIAToolbox writes here.
        slide: The slide.
        layout: How we searched it.
        tissue: `(H, W)`, true on its tissue.
        device: What ran our network; TIAToolbox's runs in torch, on the same GPU or on as many threads.
        batch: Tiles shown to the network at once.

    Raises:
        InputError: There is no such interpreter, or it fails.
    """
    tile_px = layout.columns.tile_px
    strides = np.diff(layout.columns.starts_px)
    job = {
        "slide": str(slide.absolute()),
        "downsample": layout.downsample,
        "tile_px": tile_px,
        "stride_px": int(strides.max()) if len(strides) else tile_px,
        "batch": batch,
        "threads": device.threads,
        "device": "cuda" if device.kind == "cuda" else "cpu",
    }
    (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
    np.save(folder / "tissue.npy", tissue)
    _call(python, Path(__file__).with_name("peer.py"), folder)
    return Peer(**json.loads((folder / "answer.json").read_text(encoding="utf-8")))


def _call(python: Path, *arguments: str | Path) -> None:
    """Run the peer's interpreter, with nothing of this environment or this folder (`-I`)."""
    remedy = f"it has to be the Python of an environment with `pip install {PEER}`"
    try:
        done = subprocess.run([python, "-I", *arguments], capture_output=True, text=True, check=False)
    except OSError as error:
        raise InputError(f"{python} cannot be started ({error.strerror}); {remedy}") from error
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
        raise InputError(f"{python} cannot search slides with TIAToolbox ({said[-1]}); {remedy}")


def _trace(model: GlomerulusModel, root: Path, path: Path) -> None:
    """Write the model's network as TorchScript: from `(N, 3, H, W)` in 0..1 to logits."""
    import warnings

    import torch

    from renalcore.histology.decoding import pixel_network

    network = pixel_network(model.card.network, models.weights_path(model.card, root)).network
    side = model.card.input.slice_px
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # the tracer's, about sizes that are fixed
        traced = torch.jit.trace(network, torch.zeros(1, 3, side, side))  # type: ignore[no-untyped-call]
        torch.jit.save(traced, path)


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
