"""Figures of volumes: Dice, surface distances in mm, surface Dice, for the labels and for the classes of KiTS.

Lv and Wang, "Three Uses of One Neural Network" (KiTS21), equations 1 to 3, for DSC, ASSD and SDD (the column "SSD" of
its Table II is the same quantity); the KiTS23 evaluation for surface Dice, its tolerances and the hierarchical classes.

The surface of a mask is its voxels that have one of six neighbours outside (the edge of the volume is outside), each a
point at its centre. Surface Dice alone weighs each corner between voxels by the area of surface in the cube of eight
voxels round it (marching cubes), as Nikolov et al. (arXiv 1809.04430) define it and KiTS computes it.

**Empty masks.** Where nothing is and nothing was found, Dice and surface Dice are 1, as KiTS has it, and there is no
distance: nan. Where only one of the two is empty, Dice and surface Dice are 0 and the distances are infinite. A mean of
distances therefore goes over the cases in which both hold something, and `Summary` tells how many are not in it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import KDTree

from renalcore.metrics.segmentation import Overlap, Spread

Mask = NDArray[np.bool_]
Floats = NDArray[np.float64]
Spacing = tuple[float, float, float]

CLASSES: Final[Mapping[str, tuple[int, ...]]] = MappingProxyType(
    {"kidney": (1,), "tumour": (2,), "cyst": (3,), "kidney_and_masses": (1, 2, 3), "masses": (2, 3)}
)
"""Labels of each class that is told. KiTS ranks by `kidney_and_masses`, `masses` and `tumour`, its hierarchical
classes; the paper's second step, which gives kidney, tumour and cyst one label, is `kidney_and_masses`."""

TOLERANCES_MM: Final[Mapping[str, float]] = MappingProxyType(
    {
        "kidney": 1.0330772532390826,
        "tumour": 1.1498198361434828,
        "cyst": 1.1328796488598762,
        "kidney_and_masses": 1.0330772532390826,
        "masses": 1.1328796488598762,
    }
)
"""Distance within which surfaces agree: how far the annotators of KiTS stand apart, as its evaluation publishes it for
the hierarchical classes; kidney and cyst alone, which KiTS does not rank, take that of the class that holds them."""


@dataclass(frozen=True, slots=True)
class VolumeAgreement:
    """How a found mask agrees with the expert's in one volume; see the top of this module for empty ones.

    Attributes:
        voxels: Of the two masks and of both.
        assd_mm: Average symmetric surface distance, equation 2.
        sdd_mm: Surface distance deviation, equation 3.
        hausdorff95_mm: The greater of the two 95th percentiles, from the expert's surface and from the found one.
        surface_dice: Share of both surfaces that lies within the tolerance of the other.
    """

    voxels: Overlap
    assd_mm: float
    sdd_mm: float
    hausdorff95_mm: float
    surface_dice: float

    @property
    def dice(self) -> float:
        """Dice similarity coefficient, equation 1."""
        return self.voxels.dice


@dataclass(frozen=True, slots=True)
class Summary:
    """The figures of one class over several volumes.

    Attributes:
        cases: How many.
        empty: Those in which neither mask holds anything.
        missed: Those in which the class is and nothing was found.
        invented: Those in which the class is not and something was found.
        dice: Over all cases.
        dice_where_present: Over the cases in which the class is.
        surface_dice: Over all cases.
        assd_mm, sdd_mm, hausdorff95_mm: Over the cases in which both masks hold something.
    """

    cases: int
    empty: int
    missed: int
    invented: int
    dice: Spread
    dice_where_present: Spread
    surface_dice: Spread
    assd_mm: Spread
    sdd_mm: Spread
    hausdorff95_mm: Spread

    @classmethod
    def of(cls, agreements: Sequence[VolumeAgreement]) -> Summary:
        """The figures of all `agreements` together."""
        held = [(each.voxels.expert > 0, each.voxels.found > 0) for each in agreements]
        measured = [each for each in agreements if math.isfinite(each.assd_mm)]
        return cls(
            len(agreements),
            held.count((False, False)),
            held.count((True, False)),
            held.count((False, True)),
            Spread.of(each.dice for each in agreements),
            Spread.of(each.dice for each in agreements if each.voxels.expert),
            Spread.of(each.surface_dice for each in agreements),
            Spread.of(each.assd_mm for each in measured),
            Spread.of(each.sdd_mm for each in measured),
            Spread.of(each.hausdorff95_mm for each in measured),
        )


def compare_labels(
    expert: NDArray[np.integer[Any]], found: NDArray[np.integer[Any]], *, spacing_mm: Spacing
) -> dict[str, VolumeAgreement]:
    """How found labels agree with the expert's, for every class of `CLASSES`.

    Args:
        expert: `(D, H, W)`: 0 background, 1 kidney, 2 tumour, 3 cyst.
        found: `(D, H, W)` likewise, on the same grid.
        spacing_mm: Between voxels along D, H and W.

    Raises:
        ValueError: The two differ in shape, are no labels, or the spacing is not positive.
    """
    _check(expert, found, spacing_mm)
    box = _box(expert, found)
    expert, found = expert[box], found[box]
    return {
        name: _compare(np.isin(expert, labels), np.isin(found, labels), spacing_mm, TOLERANCES_MM[name])
        for name, labels in CLASSES.items()
    }


def compare(expert: NDArray[Any], found: NDArray[Any], *, spacing_mm: Spacing, tolerance_mm: float) -> VolumeAgreement:
    """How one found mask agrees with the expert's.

    Args:
        expert: `(D, H, W)` bool, or integers of which all but 0 are inside.
        found: `(D, H, W)` likewise, on the same grid.
        spacing_mm: Between voxels along D, H and W.
        tolerance_mm: Distance within which the surfaces agree.

    Raises:
        ValueError: The two differ in shape, are no masks, or the spacing or tolerance is not positive.
    """
    _check(expert, found, spacing_mm)
    if not tolerance_mm > 0:
        raise ValueError(f"tolerance_mm must be positive, got {tolerance_mm}")
    return _compare(expert > 0, found > 0, spacing_mm, tolerance_mm)


def surface(mask: Mask) -> Mask:
    """The voxels of a mask `(D, H, W)` of which one of six neighbours is outside it or outside the volume."""
    inside = np.pad(mask, 1)
    core = mask.copy()
    for axis in range(3):
        for shift in (0, 2):
            window = [slice(1, -1)] * 3
            window[axis] = slice(shift, shift + mask.shape[axis])
            core &= inside[tuple(window)]
    return mask & ~core


def _compare(expert: Mask, found: Mask, spacing_mm: Spacing, tolerance_mm: float) -> VolumeAgreement:
    voxels = Overlap(*(int(np.count_nonzero(each)) for each in (expert & found, expert, found)))
    if not (voxels.expert and voxels.found):
        apart = math.inf if voxels.expert or voxels.found else math.nan
        return VolumeAgreement(voxels, apart, apart, apart, voxels.dice)
    box = _box(expert, found)
    expert, found = expert[box], found[box]
    from_expert, from_found = _distances_mm(_centres_mm(expert, spacing_mm), _centres_mm(found, spacing_mm))
    distances = np.concatenate((from_expert, from_found))
    return VolumeAgreement(
        voxels,
        assd_mm=float(distances.mean()),
        sdd_mm=float(distances.std()),
        hausdorff95_mm=float(max(np.percentile(each, 95) for each in (from_expert, from_found))),
        surface_dice=_surface_dice(expert, found, spacing_mm, tolerance_mm),
    )


def _surface_dice(expert: Mask, found: Mask, spacing_mm: Spacing, tolerance_mm: float) -> float:
    """Area of both surfaces within the tolerance of the other, over the area of both."""
    (expert_mm, expert_mm2), (found_mm, found_mm2) = (_corners(each, spacing_mm) for each in (expert, found))
    from_expert, from_found = _distances_mm(expert_mm, found_mm)
    near = expert_mm2[from_expert <= tolerance_mm].sum() + found_mm2[from_found <= tolerance_mm].sum()
    return float(near / (expert_mm2.sum() + found_mm2.sum()))


def _centres_mm(mask: Mask, spacing_mm: Spacing) -> Floats:
    points: Floats = np.argwhere(surface(mask)) * np.array(spacing_mm)
    return points


def _corners(mask: Mask, spacing_mm: Spacing) -> tuple[Floats, Floats]:
    """Corners between voxels through which the surface runs `(N, 3)`, in mm, and the area `(N,)` round each, in mm2."""
    inside = np.pad(mask, 1).astype(np.uint8)
    codes = np.zeros([length - 1 for length in inside.shape], np.uint8)
    for bit, (d, h, w) in enumerate(np.ndindex(2, 2, 2)):
        codes |= inside[d : d + codes.shape[0], h : h + codes.shape[1], w : w + codes.shape[2]] << bit
    corners = np.nonzero((codes > 0) & (codes < 255))
    return np.stack(corners, 1) * np.array(spacing_mm), _areas_mm2(spacing_mm)[codes[corners]]


@functools.lru_cache(maxsize=8)  # a data set has few spacings
def _areas_mm2(spacing_mm: Spacing) -> Floats:
    """`(256,)` area of surface within a cube of eight voxels, for each pattern of those that are inside."""
    from skimage.measure import marching_cubes, mesh_surface_area  # heavy

    areas = np.zeros(256)
    for code in range(1, 255):
        cube = np.array([code >> bit & 1 for bit in range(8)], np.float32).reshape(2, 2, 2)
        vertices, faces, _, _ = marching_cubes(cube, 0.5, spacing=spacing_mm)
        areas[code] = mesh_surface_area(vertices, faces)
    areas.setflags(write=False)
    return areas


def _distances_mm(first: Floats, second: Floats) -> tuple[Floats, Floats]:
    """From each point of the first to the nearest of the second, and back; in a tree empty space costs nothing."""
    return KDTree(second).query(first)[0], KDTree(first).query(second)[0]


def _box(expert: NDArray[Any], found: NDArray[Any]) -> tuple[slice, slice, slice]:
    """The smallest box that holds all of both."""
    held = [ndimage.find_objects((each > 0).view(np.uint8))[:1] for each in (expert, found)]
    boxes = [each[0] for each in held if each]
    if not boxes:
        return slice(0), slice(0), slice(0)
    spans = [slice(min(s.start for s in axis), max(s.stop for s in axis)) for axis in zip(*boxes, strict=True)]
    return spans[0], spans[1], spans[2]


def _check(expert: NDArray[Any], found: NDArray[Any], spacing_mm: Spacing) -> None:
    for each in (expert, found):
        if each.ndim != 3 or each.dtype.kind not in "bui":
            raise ValueError(f"labels must be (D, H, W) bool or integers, got {each.shape} {each.dtype}")
    if expert.shape != found.shape:
        raise ValueError(f"the expert's labels {expert.shape} and the found ones {found.shape} differ in shape")
    if len(spacing_mm) != 3 or not all(0 < step < math.inf for step in spacing_mm):
        raise ValueError(f"spacing_mm must be three positive lengths, got {spacing_mm}")
