"""Glomeruli as GeoJSON that QuPath opens (drag the file onto the slide), in px of level 0.

The form is QuPath's own ("Export objects as GeoJSON", version 0.4 and later): a FeatureCollection in which each object
has an id, a polygon, `objectType`, `name`, `classification` and `measurements`; what a person added has no probability.
"""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from renalcore.histology.glomeruli import Glomeruli
from renalcore.histology.measure import Measures, measure

GLOMERULUS: Final = "Glomerulus"
SCLEROSED: Final = "Globally sclerosed glomerulus"
_COLOURS: Final = {GLOMERULUS: [0, 114, 178], SCLEROSED: [213, 94, 0]}  # Okabe and Ito's blue and vermilion
_SPACE: Final = uuid.UUID("5a1c7c52-6f0e-4d0a-9d0b-0f3a1f6c2b61")


def to_geojson(
    found: Glomeruli, *, sclerosed: Sequence[bool] | None = None, numbers: Sequence[int] | None = None
) -> bytes:
    """The glomeruli as a GeoJSON file.

    Args:
        found: The glomeruli.
        sclerosed: Which of them a person marked as globally sclerosed; none where left out.
        numbers: What each is called on the report; 1, 2, 3 ... where left out.

    Raises:
        ValueError: `sclerosed` or `numbers` are not as many as the glomeruli.
    """
    marks = [False] * len(found) if sclerosed is None else list(sclerosed)
    called = list(range(1, len(found) + 1)) if numbers is None else list(numbers)
    sizes = measure(found)
    rows = zip(found.outlines_px, marks, called, _measurements(found, sizes), strict=True)
    features = [_feature(outline, mark, number, values) for outline, mark, number, values in rows]
    return (json.dumps({"type": "FeatureCollection", "features": features}, ensure_ascii=False) + "\n").encode()


def _feature(outline: NDArray[np.float32], sclerosed: bool, number: int, values: dict[str, float]) -> dict[str, Any]:
    kind = SCLEROSED if sclerosed else GLOMERULUS
    ring = [[round(float(x), 2), round(float(y), 2)] for x, y in (*outline, outline[0])]  # GeoJSON closes its rings
    name = f"Glomerulus {number}"
    return {
        "type": "Feature",
        "id": str(uuid.uuid5(_SPACE, f"{name} {ring}")),
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {
            "objectType": "annotation",
            "name": name,
            "classification": {"name": kind, "color": _COLOURS[kind]},
            "measurements": values,
        },
    }


def _measurements(found: Glomeruli, sizes: Measures) -> list[dict[str, float]]:
    unit = {"um": "µm", "px": "px"}[sizes.unit]  # as QuPath spells it
    columns: dict[str, NDArray[Any]] = {
        f"Area {unit}^2": sizes.areas,
        f"Equivalent diameter {unit}": sizes.equivalent_diameters,
        f"Max diameter {unit}": sizes.max_ferets,
        f"Min diameter {unit}": sizes.min_ferets,
        "Probability": found.scores,
        "Cut by the edge": found.touches_edge,
    }
    rows = zip(*(column.astype(np.float64).round(4).tolist() for column in columns.values()), strict=True)
    return [{name: value for name, value in zip(columns, row, strict=True) if not math.isnan(value)} for row in rows]
