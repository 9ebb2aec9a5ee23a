"""The files that `predict histology` writes for each input: outlines, a label picture, and the figures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from renalcore.errors import InputError
from renalcore.export.figures import plain, write_json
from renalcore.export.geojson import to_geojson
from renalcore.histology.glomeruli import Glomeruli
from renalcore.histology.measure import measure, summary
from renalcore.io.slide import Slide
from renalcore.models import ModelCard

LABELLED_PX: Final = 100_000_000
"""Pixels up to which an input gets a label picture."""


def write(
    folder: Path, stem: str, found: Glomeruli, slide: Slide, *, card: ModelCard, downsample: float, seconds: float
) -> None:
    """Write STEM.geojson, STEM.instances.png (for inputs up to 100 Mpx) and STEM.json.

    Args:
        folder: Where to; it exists.
        stem: The input's name without its last suffix.
        found: What was found.
        slide: The input.
        card: The model that found it.
        downsample: Level-0 px a pixel that the model was shown.
        seconds: What the search took.
    """
    (folder / f"{stem}.geojson").write_bytes(to_geojson(found))
    if slide.width_px * slide.height_px <= LABELLED_PX:
        _, packed = cv2.imencode(".png", draw(found.outlines_px, slide.width_px, slide.height_px))
        (folder / f"{stem}.instances.png").write_bytes(packed.tobytes())
    write_json(
        folder / f"{stem}.json", plain(_figures(found, slide, card=card, downsample=downsample, seconds=seconds))
    )


def _figures(found: Glomeruli, slide: Slide, *, card: ModelCard, downsample: float, seconds: float) -> dict[str, Any]:
    sizes, of_slide = measure(found), summary(found)
    unit, scale = sizes.unit, slide.um_per_px
    tissue = {"tissue_px": round(found.tissue_px)} if scale is None else {"tissue_mm2": of_slide.tissue_mm2}
    return {
        "file_name": slide.name,
        "format": slide.format,
        "model": card.key,
        "weights_sha256": card.sha256,
        "width": slide.width_px,
        "height": slide.height_px,
        "um_per_px": scale,
        "searched_downsample": downsample,
        "count": of_slide.count,
        "cut_by_edge": of_slide.cut,
        **tissue,
        "density_per_mm2": of_slide.density_per_mm2,
        f"areas_{unit}2": sizes.areas.tolist(),
        f"equivalent_diameters_{unit}": sizes.equivalent_diameters.tolist(),
        f"max_ferets_{unit}": sizes.max_ferets.tolist(),
        "scores": found.scores.astype(float).tolist(),
        "seconds": seconds,
        "flags": [flag.code for flag in slide.flags],
    }


def draw(outlines_px: Sequence[NDArray[np.floating]], width_px: int, height_px: int) -> NDArray[np.uint16]:
    """`(height_px, width_px)` with 1, 2, 3 ... inside the outlines in their order, and 0 elsewhere.

    Raises:
        ValueError: There are more than 65,535.
    """
    if len(outlines_px) > np.iinfo(np.uint16).max:
        raise ValueError(f"16 bits cannot number {len(outlines_px)} glomeruli")
    labels = np.zeros((height_px, width_px), np.uint16)
    for number, outline in enumerate(outlines_px, 1):
        left, top = np.floor(outline.min(axis=0)).astype(int).clip(0)
        right, bottom = np.ceil(outline.max(axis=0)).astype(int).clip(0)
        window = labels[top:bottom, left:right]
        window[inside(outline - (left, top), *window.shape[::-1]) & (window == 0)] = number
    return labels


def read_outlines(path: Path, downsample: float = 1.0) -> list[NDArray[np.float64]]:
    """The polygons of a GeoJSON file that `write` wrote, in their order, `downsample` level-0 px a px.

    Raises:
        InputError: It is not such a file.
    """
    try:
        features = json.loads(path.read_text(encoding="utf-8"))["features"]
        rings = [np.array(feature["geometry"]["coordinates"][0], np.float64) for feature in features]
        return [ring[:-1].reshape(-1, 2) / downsample for ring in rings]
    except (OSError, ValueError, TypeError, LookupError) as error:
        raise InputError(f"{path} holds no outlines of `renalcore predict histology` ({error})") from None


def inside(outline: NDArray[np.floating], width_px: int, height_px: int) -> NDArray[np.bool_]:
    """Which pixels have their centre inside a polygon; polygons that share a side share no pixel.

    Args:
        outline: `(N, 2)`, x and y, (0, 0) being the corner of the first pixel.
        width_px: Of the result.
        height_px: Of the result.

    Returns:
        `(height_px, width_px)`: inside is where an odd number of sides lies to the left.
    """
    start = np.asarray(outline, np.float64) - 0.5  # pixel centres at whole numbers
    end = np.roll(start, -1, axis=0)
    low, high = np.minimum(start[:, 1], end[:, 1]), np.maximum(start[:, 1], end[:, 1])
    first = np.ceil(low).clip(0, height_px).astype(np.int64)
    crossed = np.ceil(high).clip(0, height_px).astype(np.int64) - first
    side = np.repeat(np.arange(len(start)), crossed)
    rows = np.arange(len(side)) - np.repeat(np.cumsum(crossed) - crossed, crossed) + first[side]
    slope = (end[side, 0] - start[side, 0]) / (end[side, 1] - start[side, 1])
    columns = np.ceil(start[side, 0] + (rows - start[side, 1]) * slope).clip(0, width_px).astype(np.int64)
    toggles = np.zeros((height_px, width_px + 1), np.int32)
    np.add.at(toggles, (rows, columns), 1)
    odd: NDArray[np.bool_] = toggles.cumsum(axis=1)[:, :width_px] % 2 == 1
    return odd
