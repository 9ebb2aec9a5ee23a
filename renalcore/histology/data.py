"""Tiles for training and whole fields for validation, from labelled slides.

**Scale.** The physical scale of most labelled data is unknown, so tiles are scaled by what is known instead: the size
of the slide's own glomeruli. A tile drawn at `zoom` shows a glomerulus of that slide `zoom * REFERENCE_PX` px across.
A slide without glomeruli is scaled by its micrometres a pixel and the size that is typical of its species; one with
neither is taken as it is.

**What is known.** Where only some glomeruli were outlined, what lies far from them is unknown, not empty: `known` is 0
there and the loss leaves it out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from renalcore.errors import InputError
from renalcore.histology.annotations.record import LabelledSlide
from renalcore.histology.fields import GLASS, FieldReader, Image, Window
from renalcore.histology.stains import Recolouring, recolour

REFERENCE_PX: Final = 96.0
"""Diameter in px of a glomerulus in a tile of zoom 1: 200 um at 2.1 um per px, about a 5x objective."""

_CORE: Final = 0.3
"""Share of a glomerulus' radius that its core leaves out all around."""
_FILLED: Final = 0.8
"""Share of a tile that a field fills at least, across and down: less would teach glass."""
_MARGIN: Final = 1.5
"""Side of what is read around a tile that will be turned and bent, in sides of the tile."""
_RECOLOURED: Final = Recolouring()


@dataclass(frozen=True, slots=True)
class Augmentation:
    """How hard a tile is changed. The defaults reach beyond the training data, to other laboratories' stains.

    Attributes:
        zoom: Zoom is drawn log-uniformly from this range; see the module.
        flip: Probability of a mirror image, across and down each.
        turns: Quarter turns: a section has no upper side.
        moved: Probability of a shift, scaling and rotation by any angle within the next three.
        shift: Largest shift, as a share of the tile.
        scale: Largest change of size; 0.1 is 10 % up or down.
        rotate_degrees: Largest turn.
        bent: Probability of one of three distortions: of a lens, of a grid, or of a mesh moved point by point.
        lens: Largest relative displacement at the edge of the tile.
        grid: Largest relative change of one of five rows or columns.
        mesh: Standard deviation of the points' displacement, as a share of the tile.
        toned: Probability of one of three: hue, saturation and value; local equalisation (CLAHE); brightness, contrast.
        hue: Largest change in units of OpenCV, 180 around the circle.
        saturation, value: Largest change in grey levels.
        contrast: Largest relative change; brightness changes by as much of the range.
        stain: Changes of the dyes themselves, see `renalcore.histology.stains`; None leaves them.
        blur_px: Largest Gaussian sigma, with a third of the tiles.
        noise: Largest standard deviation in grey levels, with half of the tiles.
        jpeg: Probability of the traces of JPEG.
    """

    zoom: tuple[float, float] = (0.5, 2.0)
    flip: float = 0.5
    turns: bool = True
    moved: float = 0.5
    shift: float = 0.0625
    scale: float = 0.1
    rotate_degrees: float = 45.0
    bent: float = 0.3
    lens: float = 0.1
    grid: float = 0.3
    mesh: float = 0.02
    toned: float = 0.5
    hue: float = 10.0
    saturation: float = 30.0
    value: float = 20.0
    contrast: float = 0.2
    stain: Recolouring | None = _RECOLOURED
    blur_px: float = 1.0
    noise: float = 6.0
    jpeg: float = 0.2

    def __post_init__(self) -> None:
        if not 0 < self.zoom[0] <= self.zoom[1]:
            raise InputError(f"the zoom must rise from above 0, got {self.zoom[0]} to {self.zoom[1]}")

    @property
    def middle_zoom(self) -> float:
        """The zoom in the middle of the range."""
        return math.sqrt(self.zoom[0] * self.zoom[1])

    def showing(self, diameter_px: float) -> Augmentation:
        """The same with a range of zooms around the one that shows a glomerulus `diameter_px` px across."""
        factor = diameter_px / (self.middle_zoom * REFERENCE_PX)
        return replace(self, zoom=(self.zoom[0] * factor, self.zoom[1] * factor))


THESIS: Final = Augmentation(zoom=(1.0, 1.0), hue=20.0, stain=None, blur_px=0.0, noise=0.0, jpeg=0.0)
"""Section 5.3 of the human thesis and nothing else; the figures are those of Albumentations, which it used."""

MOUSE: Final = Augmentation(
    zoom=(1.0, 1.0), flip=0.0, moved=0.0, bent=0.0, toned=0.0, stain=None, blur_px=0.0, noise=0.0, jpeg=0.0
)
"""Section 3.1 of the mouse paper: turns by 90 degrees."""


class TileDataset(Dataset[dict[str, torch.Tensor]]):
    """Random tiles of labelled slides.

    An item holds `image` (3, S, S) uint8 RGB; `mask` (2, S, S) float32, the glomeruli and their cores, which touching
    glomeruli do not share; `known` (1, S, S) float32, 1 where somebody knows what is there; `instances` (S, S) int32,
    numbered from 1 within the slide. Items of a number differ from epoch to epoch, see `start_epoch`, and are the same
    in every run with the same seed, however many processes load them.

    Args:
        slides: What to draw from, each as often as another.
        size_px: Side of a tile.
        augmentation: How tiles are changed.
        items: Items an epoch; by default four a slide.
        around: Probability that a tile is laid around a glomerulus instead of anywhere.
        enlarged: The largest enlargement: a slide whose glomeruli are tiny is not blown up beyond it.
        seed: Makes the tiles of a run repeatable.

    Raises:
        InputError: There are no slides, or the size is not a multiple of 32 px.
    """

    def __init__(
        self,
        slides: Sequence[LabelledSlide],
        *,
        size_px: int = 256,
        augmentation: Augmentation = Augmentation(),
        items: int | None = None,
        around: float = 0.7,
        enlarged: float = 3.0,
        seed: int = 0,
    ) -> None:
        if not slides:
            raise InputError("there are no labelled slides to train on; check the data folder")
        if size_px < 64 or size_px % 32:
            raise InputError(f"the side of a tile must be a multiple of 32 px and at least 64, got {size_px}")
        self.slides = tuple(slides)
        self.size_px = size_px
        self.augmentation = augmentation
        self.items = items or 4 * len(self.slides)
        self.around = around
        self.enlarged = enlarged
        self.seed = seed
        self.epoch = 0
        self._readers: dict[int, FieldReader] = {}

    def start_epoch(self, epoch: int) -> None:
        """Draw other tiles than in the epochs before; call it before the loader starts, which copies the data set."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.items

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        if not 0 <= index < self.items:
            raise IndexError(index)
        rng = np.random.default_rng((self.seed, self.epoch, index))
        chosen = int(rng.integers(len(self.slides)))
        reader = self._reader(chosen)
        window, scale = self._tile(reader, rng)
        return item(dress(window, self.augmentation, rng), reader.radii_px * scale)

    def _reader(self, index: int) -> FieldReader:
        if index not in self._readers:
            slide = self.slides[index]
            largest = self.augmentation.zoom[1] * (1 + self.augmentation.scale) * self._unit(slide)
            self._readers[index] = FieldReader(slide, largest=largest)
        return self._readers[index]

    def _unit(self, slide: LabelledSlide) -> float:
        """Px of a tile of zoom 1 for one px of the slide."""
        return REFERENCE_PX / slide.scale_px if slide.scale_px else 1.0

    def _tile(self, reader: FieldReader, rng: np.random.Generator) -> tuple[Window, float]:
        """A tile before it is coloured, and px of it for one px of the slide."""
        options, slide, size = self.augmentation, reader.slide, self.size_px
        zoom = float(np.exp(rng.uniform(*np.log(options.zoom))))
        scale = min(zoom * self._unit(slide), self.enlarged)
        scale = max(scale, min(_FILLED * size / min(slide.width_px, slide.height_px), self.enlarged))
        side = size / scale
        x, y = self._centre(reader, side, rng)
        grid = Grid.drawn(size, options, rng)
        read = size if grid is None else round(size * _MARGIN)
        corner = x - read / scale / 2, y - read / scale / 2
        window = reader.read(*corner, read, read, downsample=1 / scale)
        if grid is not None:
            window = grid.bend(window)
            scale *= grid.scale
        return _turned(window, options, rng), scale

    def _centre(self, reader: FieldReader, side: float, rng: np.random.Generator) -> tuple[float, float]:
        """Where the middle of a tile that spans `side` px of the slide lies."""
        slide = reader.slide
        if slide.glomeruli and rng.random() < self.around:
            centre = np.array(reader.centre_px(int(rng.integers(slide.glomeruli)) + 1))
            centre += side * rng.uniform(-0.4, 0.4, 2)
        else:
            centre = rng.uniform(0, 1, 2) * (slide.width_px, slide.height_px)
        size = np.array([slide.width_px, slide.height_px], np.float64)
        slack = 0.4 * side  # little more than a tenth of a tile is glass beyond the edge
        lowest, highest = np.minimum(slack, size / 2), np.maximum(size - slack, size / 2)
        x, y = np.clip(centre, lowest, highest)
        return float(x), float(y)


class FieldDataset(Dataset[dict[str, Any]]):
    """Whole fields for validation, unchanged but for their scale: item i is slide i at zoom 1.

    An item holds what a tile holds, with sides padded by glass to multiples of 32 px, and `slide`, its number.

    Args:
        slides: What to validate with.
        zoom: The one zoom that they are shown at.
        longest_px: Where a field would be larger than this, its middle is shown.
    """

    def __init__(self, slides: Sequence[LabelledSlide], *, zoom: float = 1.0, longest_px: int = 2048) -> None:
        if not slides:
            raise InputError("there are no labelled slides to validate with; check the data folder")
        self.slides = tuple(slides)
        self.zoom = zoom
        self.longest_px = longest_px

    def __len__(self) -> int:
        return len(self.slides)

    def __getitem__(self, index: int) -> dict[str, Any]:
        slide = self.slides[index]
        scale = self.zoom * REFERENCE_PX / slide.scale_px if slide.scale_px else self.zoom
        reader = FieldReader(slide, largest=scale)
        sides = [min(round(side * scale), self.longest_px) for side in (slide.width_px, slide.height_px)]
        width, height = (max(side + -side % 32, 32) for side in sides)
        corner = [
            (whole - shown / scale) / 2 if round(whole * scale) > shown else 0.0
            for whole, shown in zip((slide.width_px, slide.height_px), sides, strict=True)
        ]
        window = reader.read(corner[0], corner[1], width, height, downsample=1 / scale)
        return {**item(window, reader.radii_px * scale), "slide": index}


def item(window: Window, radii_px: NDArray[np.float64]) -> dict[str, torch.Tensor]:
    """A window as tensors, see `TileDataset`.

    Args:
        window: What it shows.
        radii_px: Radius of glomerulus n in px of the window, at place n.
    """
    glomeruli = window.instances > 0
    mask = np.stack((glomeruli, cores(window.instances, radii_px))).astype(np.float32)
    return {
        "image": torch.from_numpy(np.ascontiguousarray(window.pixels.transpose(2, 0, 1))),
        "mask": torch.from_numpy(mask),
        "known": torch.from_numpy(window.known[None].astype(np.float32)),
        "instances": torch.from_numpy(np.ascontiguousarray(window.instances)),
    }


def cores(instances: NDArray[np.int32], radii_px: NDArray[np.float64]) -> NDArray[np.bool_]:
    """The inner part of each glomerulus, which leaves a gap between those that touch.

    The edge of the window takes nothing away: a glomerulus goes on behind it.

    Args:
        instances: `(H, W)`, 0 or the number of a glomerulus.
        radii_px: Radius of glomerulus n in px, at place n.
    """
    between = np.zeros(instances.shape, np.bool_)
    across, down = instances[:, 1:] != instances[:, :-1], instances[1:] != instances[:-1]
    between[:, 1:] |= across
    between[:, :-1] |= across
    between[1:] |= down
    between[:-1] |= down
    inside = (instances > 0) & ~between
    if not inside.any():
        return inside
    depth = cv2.distanceTransform(inside.astype(np.uint8), cv2.DIST_L2, 5)
    core: NDArray[np.bool_] = inside & (depth > _CORE * radii_px[instances])
    return core


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """Where each pixel of a tile comes from in a larger window around it: shifted, scaled, turned and bent.

    Attributes:
        x, y: `(S, S)` float32, px of the window, counted from its middle.
        scale: How much larger things become.
    """

    x: NDArray[np.float32]
    y: NDArray[np.float32]
    scale: float

    @classmethod
    def drawn(cls, size: int, options: Augmentation, rng: np.random.Generator) -> Grid | None:
        """One at random; None where nothing is to be done."""
        moved, bent = rng.random() < options.moved, rng.random() < options.bent
        if not (moved or bent):
            return None
        steps = np.arange(size, dtype=np.float32) - (size - 1) / 2
        x, y = np.meshgrid(steps, steps)
        if bent:
            x, y = _bends(x, y, options, rng)
        scale = 1.0
        if moved:
            scale = float(1 + rng.uniform(-options.scale, options.scale))
            angle = np.radians(rng.uniform(-options.rotate_degrees, options.rotate_degrees))
            shift = rng.uniform(-options.shift, options.shift, 2) * size
            cosine, sine = np.float32(np.cos(angle) / scale), np.float32(np.sin(angle) / scale)
            x, y = cosine * x - sine * y + np.float32(shift[0]), sine * x + cosine * y + np.float32(shift[1])
        return cls(x, y, scale)

    def bend(self, window: Window) -> Window:
        """The tile."""
        middle = np.float32((window.known.shape[0] - 1) / 2)
        x, y = self.x + middle, self.y + middle
        glass = (GLASS, GLASS, GLASS)
        pixels = cv2.remap(window.pixels, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=glass)
        columns = np.clip(np.rint(x).astype(np.intp), 0, window.known.shape[1] - 1)
        rows = np.clip(np.rint(y).astype(np.intp), 0, window.known.shape[0] - 1)
        at = rows, columns
        return Window(np.asarray(pixels, np.uint8), window.instances[at], window.known[at], window.shown[at])


def _bends(
    x: NDArray[np.float32], y: NDArray[np.float32], options: Augmentation, rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """One of three distortions, as Albumentations has them: optical, grid, piecewise affine."""
    size = len(x)
    half = size / 2
    kind = rng.integers(3)
    if kind == 0:
        factor = 1 + np.float32(rng.uniform(-options.lens, options.lens)) * (x**2 + y**2) / np.float32(half**2)
        return (x * factor).astype(np.float32), (y * factor).astype(np.float32)
    if kind == 1:
        warped = []
        for _ in range(2):
            widths = 1 + rng.uniform(-options.grid, options.grid, 5)
            edges = np.concatenate(([0.0], np.cumsum(widths / widths.sum()))) * size - half
            warped.append(np.interp(np.arange(size) - (size - 1) / 2, np.linspace(-half, half, 6), edges))
        across, down = (line.astype(np.float32) for line in warped)
        return np.broadcast_to(across, (size, size)), np.broadcast_to(down[:, None], (size, size))
    knots = rng.normal(0, options.mesh * size, (2, 5, 5)).astype(np.float32)
    moves = [cv2.resize(each, (size, size), interpolation=cv2.INTER_LINEAR) for each in knots]
    return x + moves[0], y + moves[1]


def _turned(window: Window, options: Augmentation, rng: np.random.Generator) -> Window:
    """Mirror images and quarter turns, which cost no detail."""
    across, down = rng.random() < options.flip, rng.random() < options.flip
    quarters = int(rng.integers(4)) if options.turns else 0

    def turned(values: NDArray[Any]) -> NDArray[Any]:
        values = values[:: -1 if down else 1, :: -1 if across else 1]
        return np.ascontiguousarray(np.rot90(values, quarters))

    return Window(*(turned(part) for part in (window.pixels, window.instances, window.known, window.shown)))


def dress(window: Window, options: Augmentation, rng: np.random.Generator) -> Window:
    """Another laboratory's dyes, light and camera upon the same tile; what lies beyond the slide stays white."""
    pixels = window.pixels
    if options.stain is not None:
        pixels = recolour(pixels, options.stain, rng, shown=window.shown)
    if rng.random() < options.toned:
        pixels = _toned(pixels, options, rng)
    if options.blur_px and rng.random() < 1 / 3:
        pixels = np.asarray(cv2.GaussianBlur(pixels, (0, 0), rng.uniform(0.2, options.blur_px)), np.uint8)
    if options.noise and rng.random() < 0.5:
        grain = rng.standard_normal(pixels.shape, np.float32) * rng.uniform(0, options.noise)
        pixels = np.clip(pixels + grain, 0, 255).astype(np.uint8)
    if rng.random() < options.jpeg:
        _, packed = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(40, 95))])
        pixels = np.asarray(cv2.imdecode(packed, cv2.IMREAD_COLOR), np.uint8)
    pixels = np.where(window.shown[:, :, None], pixels, np.uint8(GLASS))
    return replace(window, pixels=pixels)


def _toned(pixels: Image, options: Augmentation, rng: np.random.Generator) -> Image:
    """One of hue, saturation and value; CLAHE; brightness and contrast."""
    kind = rng.integers(3)
    levels = np.arange(256)
    if kind == 0:
        moves = rng.uniform(-1, 1, 3) * (options.hue, options.saturation, options.value)
        hue = ((levels + moves[0]) % 180).astype(np.uint8)
        tables = [hue, *(np.clip(levels + move, 0, 255).astype(np.uint8) for move in moves[1:])]
        planes = cv2.split(cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV))
        merged = cv2.merge([cv2.LUT(plane, table) for plane, table in zip(planes, tables, strict=True)])
        return np.asarray(cv2.cvtColor(merged, cv2.COLOR_HSV2RGB), np.uint8)
    if kind == 1:
        lab = cv2.cvtColor(pixels, cv2.COLOR_RGB2LAB)
        lab[:, :, 0] = cv2.createCLAHE(rng.uniform(1, 4), (8, 8)).apply(lab[:, :, 0])
        return np.asarray(cv2.cvtColor(lab, cv2.COLOR_LAB2RGB), np.uint8)
    contrast, brightness = 1 + rng.uniform(-options.contrast, options.contrast, 2)
    table = np.clip(levels * contrast + 255 * (brightness - 1), 0, 255).astype(np.uint8)
    return np.asarray(cv2.LUT(pixels, table), np.uint8)


def collate(items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Tiles, or fields of different sizes, as one batch: fields are padded by glass that nobody asks about."""
    height = max(each["image"].shape[1] for each in items)
    width = max(each["image"].shape[2] for each in items)
    filled = {"image": GLASS, "mask": 0, "known": 0, "instances": 0}
    batch: dict[str, Any] = {}
    for name, fill in filled.items():
        parts = []
        for each in items:
            part = each[name]
            below, right = height - part.shape[-2], width - part.shape[-1]
            parts.append(torch.nn.functional.pad(part, (0, right, 0, below), value=fill) if below or right else part)
        batch[name] = torch.stack(parts)
    if "slide" in items[0]:
        batch["slide"] = torch.tensor([each["slide"] for each in items])
    return batch
