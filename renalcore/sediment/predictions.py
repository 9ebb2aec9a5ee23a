"""The JSON that `predict sediment` writes and `evaluate sediment` reads: one row a box, images told by base name."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from renalcore import taxonomy
from renalcore.errors import InputError, UnknownName
from renalcore.types import Detections, Field


def image_row(file_name: str, field: Field, seconds: float) -> dict[str, Any]:
    """What is told of a searched field."""
    size = {"width": field.width_px, "height": field.height_px}
    return {"file_name": file_name, **size, "seconds": round(seconds, 4)}


def box_rows(file_name: str, found: Detections, best: NDArray[np.bool_]) -> Iterator[dict[str, Any]]:
    """What is told of each box.

    `bbox` is `[x, y, width, height]` in px. A row with `"alternative": true` is a further label of a particle that
    another box labels better (not `best`): a ranking for average precision wants those rows, a count leaves them out.
    """
    columns = (found.names, found.scores, found.boxes_px.astype(float), best.tolist())
    for name, score, (x1, y1, x2, y2), is_best in zip(*columns, strict=True):
        yield {
            "file_name": file_name,
            "category": name,
            "group": taxonomy.particle(name).group.value,
            "bbox": [round(float(value), 2) for value in (x1, y1, x2 - x1, y2 - y1)],
            "score": round(float(score), 7),  # so fine that two boxes do not tie where probabilities are small
            **({} if is_best else {"alternative": True}),
        }


def read(path: Path) -> dict[str, Any]:
    """The content of a file of predictions.

    Raises:
        InputError: It is not such a file, or a box has no class, no sides or a score outside 0..1.
    """
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        named = [content["model"], *(row["file_name"] for row in (*content["images"], *content["predictions"]))]
        whole = all(isinstance(name, str) for name in named) and all(map(_is_box, content["predictions"]))
    except UnknownName as error:
        raise InputError(f"{path}: {error}; {_REMEDY}") from None
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise InputError(f"{path} holds no predictions ({type(error).__name__}: {error}); {_REMEDY}") from None
    if not whole:
        raise InputError(f"{path} holds a box without [x, y, width, height] and a score in 0..1; {_REMEDY}")
    return content


_REMEDY = "give a file written by `renalcore predict sediment` or by an earlier evaluation"


def _is_box(row: dict[str, Any]) -> bool:
    taxonomy.class_id(row["category"])
    box = [float(side) for side in row["bbox"]]
    return len(box) == 4 and all(map(math.isfinite, box)) and min(box[2:]) >= 0 and 0 <= row["score"] <= 1
