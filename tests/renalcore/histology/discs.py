"""Slides of dark discs on pink tissue, drawn where they are read, and a 'network' that sees just those."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from functools import partial
from pathlib import Path

import numpy as np

from renalcore.engine.devices import Device
from renalcore.histology.predict import GlomerulusModel
from renalcore.histology.pyramid import write_pyramid
from renalcore.io.slide import Level, Slide
from renalcore.models import InputScale, ModelCard
from renalcore.types import QualityFlag

GLASS, TISSUE, DISC, CORE = 240, 200, 60, 0
Disc = tuple[float, float, float]
"""Centre x, centre y and radius in level-0 px."""


class DrawnDiscs:
    """A slide's file that holds no pixels: tissue within a frame of glass, discs on it, each with a darker core."""

    format = "drawn"
    objective: float | None = None
    flags: tuple[QualityFlag, ...] = ()
    in_bands = False

    def __init__(self, width_px: int, height_px: int, discs: Sequence[Disc], *, glass_px: int = 0) -> None:
        self.levels = tuple(
            Level(-(-width_px // shrink), -(-height_px // shrink), float(shrink)) for shrink in (1, 4, 16)
        )
        self.discs = discs
        self.glass_px = glass_px
        self.um_per_px: float | None = None

    def region(self, level: int, left: int, top: int, width: int, height: int) -> np.ndarray:
        shrink = self.levels[level].downsample
        x, y = (left + np.arange(width) + 0.5) * shrink, (top + np.arange(height) + 0.5) * shrink
        full = self.levels[0]
        grey = np.full((height, width), GLASS, np.float32)
        frame = self.glass_px
        grey[np.ix_((y > frame) & (y < full.height_px - frame), (x > frame) & (x < full.width_px - frame))] = TISSUE
        for cx, cy, radius in self.discs:
            columns, rows = (
                slice(*np.searchsorted(places, (c - radius, c + radius))) for places, c in ((x, cx), (y, cy))
            )
            apart = np.hypot(x[None, columns] - cx, y[rows, None] - cy)
            for colour, within in ((DISC, radius), (CORE, radius * 0.6)):
                covered = ((within - apart) / shrink + 0.5).clip(0, 1)  # of each pixel, nearly
                grey[rows, columns] += covered * (colour - grey[rows, columns])
        pixels = np.repeat(grey[..., None], 3, 2)
        pixels[grey < GLASS, 1] *= 0.75
        return np.rint(pixels).astype(np.uint8)

    def close(self) -> None:
        pass


class DarkIsGlomerulus:
    """A back end: the darker a pixel, the more glomerulus; half way from tissue to disc is 0.5."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def run(self, batch: np.ndarray) -> tuple[np.ndarray, ...]:
        self.shapes.append(batch.shape)
        red = batch[..., 0].astype(np.float32)
        chance = ((TISSUE - red) / (TISSUE - DISC)).clip(0, 1)
        core = ((DISC - red) / (DISC - CORE)).clip(0, 1)
        return (np.rint(np.stack((chance, core), 1) * 255).astype(np.uint8),)


def card(**changes: object) -> ModelCard:
    """The card of a model that was told what discs are: 2 um a pixel, discs of 24 to 96 px."""
    values: dict[str, object] = {
        "key": "discs",
        "title": "Dark discs",
        "modality": "histology",
        "task": "segmentation",
        "classes": ("glomerulus",),
        "validated_classes": (),
        "input": InputScale(slice_px=128, overlap=0.25, um_per_px=2.0, object_px=(24, 96)),
        "min_score": 0.5,
        "weights": "discs.safetensors",
        "sha256": "0" * 64,
        "bytes": 0,
        "architecture": "none",
        "scale": "",
        "training_data": (),
        "figures": (),
        "intended_use": "Tests.",
        "limits": (),
        "date": date(2026, 1, 1),
        "network": "linknet-mobilenetv2",
    }
    return ModelCard(**{**values, **changes})  # type: ignore[arg-type]


def model(backend: DarkIsGlomerulus | None = None) -> GlomerulusModel:
    """The whole model around the 'network'."""
    return GlomerulusModel(card(), backend or DarkIsGlomerulus(), Device("cpu", 1))


def slide(
    width_px: int, height_px: int, discs: Sequence[Disc], *, um_per_px: float | None = 0.5, glass_px: int = 0
) -> Slide:
    """A slide named discs.svs; 0.5 um a pixel, so that 4 px are one of the network's."""
    return Slide(DrawnDiscs(width_px, height_px, discs, glass_px=glass_px), name="discs.svs", um_per_px=um_per_px)


def drawn(
    path: Path, width_px: int, height_px: int, discs: Sequence[Disc], *, um_per_px: float | None = 0.5,
    glass_px: int = 0,
) -> Path:  # fmt: skip
    """The same as a file, a pyramid TIFF."""
    source = DrawnDiscs(width_px, height_px, discs, glass_px=glass_px)
    write_pyramid(path, width_px=width_px, height_px=height_px, block=partial(source.region, 0), um_per_px=um_per_px)
    return path
