"""Training data on disk: rendered fields in the YOLO layout."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from renalcore import taxonomy
from renalcore.sediment.synthetic.field import RenderedField, render
from renalcore.sediment.synthetic.recipe import Recipe


def write_dataset(
    folder: Path | str,
    *,
    count: int,
    seed: int = 0,
    size_px: int | tuple[int, int] = 640,
    workers: int = 1,
    recipe: Recipe | None = None,
) -> int:
    """Render `count` fields into `images/NNNNNN.webp` with boxes in `labels/NNNNNN.txt`, and `classes.txt`.

    A label line is `class x y w h`: id in `renalcore.taxonomy.CLASSES`, centre and size as shares of the picture.
    Field `n` depends on `seed` and `n` only, so a longer set begins with the shorter one.

    Args:
        folder: Where to; made if missing.
        count: How many fields.
        seed: Chooses the set.
        size_px: Side of the square pictures, or width and height.
        workers: Processes that render side by side.
        recipe: What the fields hold; None gives random training mixtures of all 39 classes.

    Returns:
        The number of boxes written.

    Raises:
        ValueError: `count` is negative or `workers` is not positive.
    """
    if count < 0 or workers < 1:
        raise ValueError(f"count must be at least 0 and workers at least 1, got {count} and {workers}")
    folder = Path(folder)
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    (folder / "classes.txt").write_text("\n".join(taxonomy.NAMES) + "\n", encoding="utf-8")
    size = (size_px, size_px) if isinstance(size_px, int) else size_px
    write = partial(_write_one, folder, seed, size, recipe)
    if workers == 1:
        return sum(map(write, range(count)))
    # a fork would inherit the locks of OpenCV's threads without the threads
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=fresh, initializer=cv2.setNumThreads, initargs=(1,)) as pool:
        return sum(pool.map(write, range(count), chunksize=8))


def _write_one(folder: Path, seed: int, size_px: tuple[int, int], recipe: Recipe | None, index: int) -> int:
    field = render(*size_px, rng=np.random.default_rng((seed, index)), recipe=recipe)
    stem = f"{index:06d}"
    bgr = cv2.cvtColor(field.pixels, cv2.COLOR_RGB2BGR)
    cv2.imwrite(str(folder / "images" / f"{stem}.webp"), bgr, [cv2.IMWRITE_WEBP_QUALITY, 90])
    (folder / "labels" / f"{stem}.txt").write_text(_yolo_lines(field), encoding="utf-8")
    return len(field.class_ids)


def _yolo_lines(field: RenderedField) -> str:
    height, width = field.pixels.shape[:2]
    lines = []
    for class_id, (x1, y1, x2, y2) in zip(field.class_ids.tolist(), field.boxes_px.tolist(), strict=True):
        centre = f"{(x1 + x2) / 2 / width:.6f} {(y1 + y2) / 2 / height:.6f}"
        lines.append(f"{class_id} {centre} {(x2 - x1) / width:.6f} {(y2 - y1) / height:.6f}\n")
    return "".join(lines)
