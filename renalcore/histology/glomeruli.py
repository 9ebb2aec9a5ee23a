"""`Glomeruli`: what was found on a slide, the one value between the model and everything else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray

TYPICAL_GLOMERULUS_UM: Final[Mapping[str, float]] = MappingProxyType({"human": 200.0, "mouse": 75.0, "rat": 120.0})
"""Diameter of a glomerulus by species, in um: what a slide of known scale is zoomed by."""


@dataclass(frozen=True, slots=True, eq=False)
class Glomeruli:
    """Glomeruli of one slide: columnar, validated, immutable.

    Attributes:
        outlines_px: A polygon each: `(N, 2)` float32, x and y in level-0 px, closed implicitly.
        scores: `(G,)` float32 in 0..1, the network's mean probability inside; nan where a person added it.
        areas_px: `(G,)` float64, in level-0 px.
        touches_edge: `(G,)`, true where the slide's edge cuts it.
        tissue_px: Area of the tissue searched, in level-0 px.
        um_per_px: Micrometres a level-0 px, or None where the scale is unknown. Never guessed.

    Raises:
        ValueError: Columns differ in length, an outline has fewer than three points, or a value leaves its range.
    """

    outlines_px: tuple[NDArray[np.float32], ...]
    scores: NDArray[np.float32]
    areas_px: NDArray[np.float64]
    touches_edge: NDArray[np.bool_]
    tissue_px: float
    um_per_px: float | None

    def __post_init__(self) -> None:
        outlines = tuple(np.array(outline, dtype=np.float32) for outline in self.outlines_px)
        scores = np.array(self.scores, dtype=np.float32).reshape(-1)
        areas = np.array(self.areas_px, dtype=np.float64).reshape(-1)
        touches = np.array(self.touches_edge, dtype=np.bool_).reshape(-1)
        if not len(outlines) == len(scores) == len(areas) == len(touches):
            raise ValueError(
                "outlines, scores, areas and edges must be as many, got "
                f"{len(outlines)}, {len(scores)}, {len(areas)} and {len(touches)}"
            )
        for outline in outlines:
            if outline.ndim != 2 or outline.shape[1] != 2 or len(outline) < 3 or not np.isfinite(outline).all():
                raise ValueError(f"an outline is (N, 2) with three or more finite points, got {outline.shape}")
        given = scores[~np.isnan(scores)]
        if len(given) and not (given.min() >= 0 and given.max() <= 1):
            raise ValueError(f"scores must lie in 0..1, got {given.min()}..{given.max()}")
        if len(areas) and not (areas.min() > 0 and areas.max() < np.inf):
            raise ValueError(f"areas must be positive, got {areas.min()}..{areas.max()}")
        if not 0 <= self.tissue_px < np.inf:
            raise ValueError(f"tissue_px must be an area, got {self.tissue_px}")
        if self.um_per_px is not None and not 0 < self.um_per_px < np.inf:
            raise ValueError(f"um_per_px must be positive, got {self.um_per_px}")
        for outline in outlines:
            outline.setflags(write=False)
        object.__setattr__(self, "outlines_px", outlines)
        for name, column in (("scores", scores), ("areas_px", areas), ("touches_edge", touches)):
            column.setflags(write=False)
            object.__setattr__(self, name, column)

    def __len__(self) -> int:
        return len(self.scores)

    def where(self, keep: NDArray[np.bool_] | NDArray[np.int64]) -> Glomeruli:
        """Those chosen by a mask or by indices, in that order; tissue and scale stay the slide's."""
        kept = np.arange(len(self))[keep]
        return Glomeruli(
            tuple(self.outlines_px[index] for index in kept),
            self.scores[kept],
            self.areas_px[kept],
            self.touches_edge[kept],
            self.tissue_px,
            self.um_per_px,
        )


def usual_area(areas: NDArray[np.float64], cut: NDArray[np.bool_]) -> float:
    """The middle glomerulus's area, where half of all the area lies in larger ones; 0 without any.

    Counted by area, many small false ones cannot outvote the glomeruli.

    Args:
        areas: `(G,)`, in any unit.
        cut: `(G,)`, true where the picture's edge cuts it; those count only where all are cut.
    """
    areas = np.sort(areas[~cut] if (~cut).any() else areas)
    if not len(areas):
        return 0.0
    return float(areas[np.searchsorted(areas.cumsum(), areas.sum() / 2)])
