"""What was found on one labelled slide, judged by what an expert outlined: whole, and in tiles of 512 px.

A slide is judged in its own px. Of tiles, as Meconcelli et al. (ESANN 2022) have them, most hold little or nothing, and
both masks empty count as 1, so that figures of tiles flatter: both are told.

What nobody knows is not judged: regions to ignore, and, where only some glomeruli were outlined, all that lies far from
them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from renalcore.errors import InputError, UnreadableFile
from renalcore.histology import predictions
from renalcore.histology.fields import FieldReader
from renalcore.metrics import segmentation
from renalcore.metrics.segmentation import Agreement, DiceCurve, Instances, Overlap

if TYPE_CHECKING:
    from renalcore.histology.annotations import LabelledSlide

TILE_PX: Final = 512
"""Side of a tile of the mouse paper, section 2.1."""

Labels = NDArray[np.uint16]


@dataclass(frozen=True, slots=True)
class JudgedTile:
    """One tile of a slide.

    Attributes:
        x_px: Its left edge.
        y_px: Its upper edge.
        agreement: Its figures.
    """

    x_px: int
    y_px: int
    agreement: Agreement


@dataclass(frozen=True, slots=True)
class JudgedSlide:
    """What was found on one slide, judged by what an expert outlined.

    Attributes:
        name: Base name of its file.
        group: Its patient, animal or sample.
        stain: Its stain, `unknown` where nobody says it.
        fold: The fold that it was held out in; empty without folds.
        whole: Figures of the whole slide.
        tiles: Of its tiles.
        curve: Dice at each threshold, where the network's probabilities are known.
    """

    name: str
    group: str
    stain: str
    fold: str
    whole: Agreement
    tiles: tuple[JudgedTile, ...]
    curve: DiceCurve | None = None

    def to_plain(self) -> dict[str, Any]:
        """As JSON has it."""
        curve = self.curve
        told = None
        if curve is not None:
            told = [curve.thresholds.tolist(), curve.both.tolist(), curve.found.tolist(), curve.expert]
        return {**asdict(replace(self, curve=None)), "curve": told}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> JudgedSlide:
        """What `to_plain` gave."""
        curve = None
        if plain["curve"] is not None:
            thresholds, both, found, expert = plain["curve"]
            curve = DiceCurve(np.array(thresholds), np.array(both, np.int64), np.array(found, np.int64), expert)
        tiles = tuple(JudgedTile(tile["x_px"], tile["y_px"], _agreement(tile["agreement"])) for tile in plain["tiles"])
        return cls(**{**plain, "whole": _agreement(plain["whole"]), "tiles": tiles, "curve": curve})


def _agreement(plain: Mapping[str, Any]) -> Agreement:
    pixels, counts = Overlap(**plain["pixels"]), Instances(**plain["instances"])
    return Agreement(pixels, counts, plain["expert_components"], plain["found_components"])


def judge(
    slide: LabelledSlide,
    folder: Path,
    *,
    fold: str = "",
    curve: DiceCurve | None = None,
    largest_px: int = predictions.LABELLED_PX,
) -> JudgedSlide:
    """Judge what `predict histology` found on one slide.

    Args:
        slide: The slide with its labels.
        folder: The folder that `predict histology` wrote to.
        fold: The fold that the slide was held out in.
        curve: Dice at each threshold, where it is known.
        largest_px: A slide of more px is judged at half, a quarter ... of its sides, its tiles with it.

    Raises:
        InputError: There is no result for it, or one of another picture.
    """
    width, height, shrunk = judged_size(slide, largest_px=largest_px)
    return judge_labels(slide, _found(slide, folder, width, height, shrunk), fold=fold, curve=curve)


def judged_size(slide: LabelledSlide, *, largest_px: int = predictions.LABELLED_PX) -> tuple[int, int, int]:
    """Width and height in px at which a slide is judged, and the px of level 0 that one of them spans."""
    shrunk = 1
    while (slide.width_px // shrunk) * (slide.height_px // shrunk) > largest_px:
        shrunk *= 2
    return slide.width_px // shrunk, slide.height_px // shrunk, shrunk


def judge_labels(slide: LabelledSlide, found: Labels, *, fold: str = "", curve: DiceCurve | None = None) -> JudgedSlide:
    """Judge a label picture of one slide.

    Args:
        slide: The slide with its labels.
        found: `(H, W)`, a number for each glomerulus, of the slide's size or of `judged_size`.
        fold: The fold that the slide was held out in.
        curve: Dice at each threshold, where it is known.
    """
    height, width = found.shape
    shrunk = slide.width_px // width
    marked = FieldReader(slide).read(0, 0, width, height, downsample=shrunk)
    known = None if slide.known == "all" and marked.known.all() else marked.known
    tiles = []
    for rows, columns in segmentation.tiles(height, width, tile_px=max(TILE_PX // shrunk, 1)):
        at = (rows, columns)
        part = segmentation.agreement(marked.instances[at], found[at], known=None if known is None else known[at])
        tiles.append(JudgedTile(columns.start * shrunk, rows.start * shrunk, part))
    whole = segmentation.agreement(marked.instances, found, known=known)
    return JudgedSlide(slide.path.name, slide.group, slide.stain or "unknown", fold, whole, tuple(tiles), curve)


def _found(slide: LabelledSlide, folder: Path, width: int, height: int, shrunk: int) -> Labels:
    """What was found as a label picture of the size asked for."""
    if shrunk > 1:
        return predictions.draw(predictions.read_outlines(folder / f"{slide.path.stem}.geojson", shrunk), width, height)
    path = folder / f"{slide.path.stem}.instances.png"
    if not path.is_file():
        raise InputError(
            f"{folder} has no {path.name}: run `renalcore predict histology` on all slides of the data, or leave "
            "--predictions out"
        )
    labels = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED) if path.stat().st_size else None
    if labels is None or labels.ndim != 2 or not np.issubdtype(labels.dtype, np.integer):
        raise UnreadableFile(f"{path} is not a label picture of one channel; make it again with `predict histology`")
    if labels.shape != (height, width):
        raise InputError(
            f"{path} has {labels.shape[1]} x {labels.shape[0]} px and {slide.path.name} {width} x {height}: it is of "
            "another picture"
        )
    numbered: Labels = labels.astype(np.uint16)
    return numbered
