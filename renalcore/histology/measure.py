"""What is measured on the glomeruli of a slide, and what may be left out of it.

All of it is computed from stored results (outlines, scores, areas), so limits can be moved and glomeruli redrawn
without running the network again. Where the slide's scale is unknown lengths and areas stay in px.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from renalcore.histology.glomeruli import Glomeruli

FEW: Final = 25
"""Glomeruli below which a share of sclerosed ones is said to rest on few: Wang et al. (Nephrol Dial Transplant 13,
1998) found shares of smaller samples to miss the outcome, and the Banff consensus on donor biopsies (Liapis et al., Am
J Transplant 17, 2017) calls 25 adequate."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Which glomeruli count.

    Attributes:
        edge: `keep` counts those that the slide's edge cuts, `leave_out` does not: their size is not known.
        min_score: The least mean probability.
        min_diameter: The least equivalent diameter, in um where the scale is known, else in px.
        max_diameter: The greatest.

    Raises:
        ValueError: A limit leaves its range, or the least exceeds the greatest.
    """

    edge: Literal["keep", "leave_out"] = "keep"
    min_score: float = 0.0
    min_diameter: float = 0.0
    max_diameter: float = math.inf

    def __post_init__(self) -> None:
        if self.edge not in ("keep", "leave_out"):
            raise ValueError(f"edge must be keep or leave_out, got {self.edge!r}")
        if not 0 <= self.min_score <= 1:
            raise ValueError(f"min_score must lie in 0..1, got {self.min_score}")
        if not 0 <= self.min_diameter <= self.max_diameter:
            raise ValueError(f"diameters must run upwards from 0, got {self.min_diameter}..{self.max_diameter}")


@dataclass(frozen=True, slots=True, eq=False)
class Measures:
    """Sizes of each glomerulus, in um and um2 where the slide's scale is known, else in px.

    Attributes:
        unit: `um` or `px`.
        areas: `(G,)`, in `unit` squared.
        equivalent_diameters: `(G,)`, of the circle of the same area.
        max_ferets: `(G,)`, the greatest distance of two points of the outline (longest caliper).
        min_ferets: `(G,)`, the least distance of two parallels that hold the outline between them.
    """

    unit: Literal["um", "px"]
    areas: NDArray[np.float64]
    equivalent_diameters: NDArray[np.float64]
    max_ferets: NDArray[np.float64]
    min_ferets: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class SlideSummary:
    """What is told of a slide.

    Attributes:
        count: Glomeruli that count.
        cut: Those of them that the slide's edge cuts.
        tissue_mm2: Tissue, or None where the scale is unknown.
        density_per_mm2: Glomeruli per mm2 of tissue, or None where the scale or tissue is missing.
        unit: Of the sizes: `um` or `px`.
        total_area: Of all glomeruli together, in `unit` squared.
        mean_area: Of whole glomeruli (none that an edge cuts), or None without any.
        median_area: Likewise.
        mean_diameter: Mean equivalent diameter of whole glomeruli, in `unit`, or None without any.
    """

    count: int
    cut: int
    tissue_mm2: float | None
    density_per_mm2: float | None
    unit: Literal["um", "px"]
    total_area: float
    mean_area: float | None
    median_area: float | None
    mean_diameter: float | None


@dataclass(frozen=True, slots=True)
class SclerosedShare:
    """How many glomeruli are globally sclerosed.

    Attributes:
        sclerosed: Those marked.
        count: All.
        percent: Their share; None without glomeruli.
        note: A sentence to stand beside the percentage, or empty.
    """

    sclerosed: int
    count: int
    percent: float | None
    note: str


def measure(found: Glomeruli) -> Measures:
    """The sizes of each glomerulus."""
    scale = found.um_per_px or 1.0
    ferets = np.array([feret_diameters(outline) for outline in found.outlines_px]).reshape(-1, 2)
    return Measures(
        unit=_unit(found),
        areas=_areas(found),
        equivalent_diameters=_equivalent(found),
        max_ferets=ferets[:, 0] * scale,
        min_ferets=ferets[:, 1] * scale,
    )


def counted(found: Glomeruli, limits: Limits) -> NDArray[np.bool_]:
    """Which glomeruli count, `(G,)`; no score is too low where there is none."""
    diameters = _equivalent(found)
    keep = (diameters >= limits.min_diameter) & (diameters <= limits.max_diameter) & ~(found.scores < limits.min_score)
    return keep & ~found.touches_edge if limits.edge == "leave_out" else keep


def summary(found: Glomeruli) -> SlideSummary:
    """The slide's figures; `found.where(counted(found, limits))` first leaves out what does not count."""
    scale_mm = None if found.um_per_px is None else found.um_per_px / 1000
    tissue_mm2 = None if scale_mm is None else found.tissue_px * scale_mm**2
    all_areas = _areas(found)
    whole = ~found.touches_edge
    areas, diameters = all_areas[whole], _equivalent(found)[whole]
    return SlideSummary(
        count=len(found),
        cut=int(found.touches_edge.sum()),
        tissue_mm2=tissue_mm2,
        density_per_mm2=len(found) / tissue_mm2 if tissue_mm2 else None,
        unit=_unit(found),
        total_area=float(all_areas.sum()),
        mean_area=float(areas.mean()) if len(areas) else None,
        median_area=float(np.median(areas)) if len(areas) else None,
        mean_diameter=float(diameters.mean()) if len(diameters) else None,
    )


def sclerosed_share(sclerosed: int, count: int) -> SclerosedShare:
    """The share of globally sclerosed glomeruli, with what must be said beside it.

    Raises:
        ValueError: More are sclerosed than there are.
    """
    if not 0 <= sclerosed <= count:
        raise ValueError(f"of {count} glomeruli {sclerosed} cannot be sclerosed")
    if not count:
        return SclerosedShare(0, 0, None, "No glomeruli: no percentage.")
    note = f"Fewer than {FEW} glomeruli ({count}): the percentage is uncertain." if count < FEW else ""
    return SclerosedShare(sclerosed, count, 100 * sclerosed / count, note)


def polygon_area_px(outline_px: NDArray[np.floating]) -> float:
    """Area of a polygon `(N, 2)`, for one that somebody drew."""
    return abs(_moments(outline_px)[0])


def polygon_centre_px(outline_px: NDArray[np.floating]) -> tuple[float, float]:
    """Centre of gravity of a polygon `(N, 2)`; the mean of its points where it has no area."""
    area, x, y = _moments(outline_px)
    first = np.asarray(outline_px, np.float64)[0]
    if not area:
        middle = np.asarray(outline_px, np.float64).mean(axis=0)
        return float(middle[0]), float(middle[1])
    return float(first[0] + x / area), float(first[1] + y / area)


def _moments(outline_px: NDArray[np.floating]) -> tuple[float, float, float]:
    """Signed area and first moments by the shoelace formula, about the first point: digits are lost far from it."""
    points = np.asarray(outline_px, np.float64)
    start = points - points[0]
    end = np.roll(start, -1, axis=0)
    twice = start[:, 0] * end[:, 1] - end[:, 0] * start[:, 1]
    x, y = ((start + end) * twice[:, None]).sum(axis=0) / 6
    return float(twice.sum() / 2), float(x), float(y)


def feret_diameters(outline_px: NDArray[np.floating]) -> tuple[float, float]:
    """The greatest and the least Feret diameter of a polygon `(N, 2)`, in px.

    Both belong to its convex hull; the least lies across one of the hull's sides.
    """
    points = np.asarray(outline_px, np.float64)
    hull = cv2.convexHull((points - points[0]).astype(np.float32)).reshape(-1, 2).astype(np.float64)
    apart = hull[:, None] - hull[None]
    greatest = float(np.hypot(apart[..., 0], apart[..., 1]).max())
    sides = np.roll(hull, -1, axis=0) - hull
    normals = np.stack((-sides[:, 1], sides[:, 0]), 1) / np.maximum(np.hypot(*sides.T), 1e-9)[:, None]
    across = hull @ normals.T
    return greatest, float((across.max(axis=0) - across.min(axis=0)).min())


def _unit(found: Glomeruli) -> Literal["um", "px"]:
    return "um" if found.um_per_px else "px"


def _areas(found: Glomeruli) -> NDArray[np.float64]:
    areas: NDArray[np.float64] = found.areas_px * (found.um_per_px or 1.0) ** 2
    return areas


def _equivalent(found: Glomeruli) -> NDArray[np.float64]:
    diameters: NDArray[np.float64] = 2 * np.sqrt(found.areas_px / np.pi) * (found.um_per_px or 1.0)
    return diameters
