"""Which kidneys there are in the labels of a CT volume, where each lies, and which voxels are its own.

Left and right are decided in the patient's own axes (LPS), never by where an array begins.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import KDTree

from renalcore.ct.steps import KIDNEY, Grid

Side = Literal["right", "left", "middle"]
"""The patient's side; `middle` where a kidney lies so near to the middle that its side cannot be told."""

Place = Literal["usual", "fused", "pelvis"]
"""`fused`: one half of a kidney that reaches both sides; `pelvis`: far below the other, or in front."""

Site = Literal["middle", "right", "left", "pelvis_middle", "pelvis_right", "pelvis_left"]
"""What volumes are added up by: the side of a native kidney; apart from it that of one in the pelvis or in front, which
is a transplant or an ectopic kidney."""

SITES: Final[tuple[Site, ...]] = get_args(Site)
"""Those in the pelvis follow the others in the same order."""

Labels = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Floats = NDArray[np.float64]
Point = tuple[float, float, float]
Box = tuple[slice, slice, slice]

TOUCHING: Final = np.ones((3, 3, 3), bool)
"""Voxels that meet at a face, an edge or a corner are connected."""

PAIR_MM: Final = 60.0
"""Distance from right to left from which the two largest pieces are a pair, with the middle between them: the least of
the 477 pairs of KiTS23 is wider."""

FUSED_MM: Final = 130.0
"""Width of one piece of kidney from which it is taken for two: a horseshoe, or two that touch. The three such cases
of KiTS23 are 170 to 225 mm wide, its widest single kidney 112 mm with the tumour."""

FUSED_SHARE: Final = 0.2
"""Share of such a piece that lies on either side of the middle at least."""

MIDDLE_MM: Final = 15.0
"""Distance from the middle below which the side of a lone kidney is not told."""

LOW_MM: Final = 120.0
"""Height by which the tissue of a kidney in the pelvis lies below that of the highest one, centre to centre: of the 477
pairs of KiTS23 one lies so far apart, the median is 15 mm."""

FRONT_MM: Final = 40.0
"""Distance by which a kidney's centre lies before that of the body where it is in no usual place. Kidneys beside the
spine lie 20 mm behind it, one that a mass pushes forward 10 mm before it; a transplant lies under the front wall."""

NEAR_MM: Final = 15.0
"""A small piece this near to a kidney belongs to it."""

BODY_HU: Final = -300
"""What is denser is body and not air."""


@dataclass(frozen=True, slots=True)
class LeastVolumes:
    """What is too small to be kept, in ml; the figures beside them are those of the 489 label maps of KiTS23.

    Attributes:
        kidney_ml: A connected piece of kidney with its lesions. A smaller one of at least a tenth of this within
            `NEAR_MM` of a kidney belongs to it. The smallest kidney there is larger.
        tumour_ml: One tumour: the smallest there has 0.15 ml, and 6 % of all connected pieces are specks below 0.05.
        cyst_ml: One cyst, a ball of 4.6 mm: 10 % of the pieces there are smaller, down to single voxels.

    Raises:
        ValueError: A limit is negative or no number.
    """

    kidney_ml: float = 15.0
    tumour_ml: float = 0.1
    cyst_ml: float = 0.05

    def __post_init__(self) -> None:
        for name in ("kidney_ml", "tumour_ml", "cyst_ml"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be a volume from 0 up, got {getattr(self, name)}")


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """Which kidney each voxel belongs to.

    Attributes:
        box: Where labels are.
        numbers: Of the kidney of each voxel within the box; 0 where no kidney is.
        sides, places: Of each kidney, by number - 1.
        middle_mm: x of the body's middle in LPS.
        side_from: What the middle was told by, as in `measure.Measures`.
    """

    box: Box
    numbers: Labels
    sides: tuple[Side, ...]
    places: tuple[Place, ...]
    middle_mm: float
    side_from: Literal["pair", "body", "field"]

    def whole(self, number: int) -> Mask:
        """Where the kidney of this number lies within the box, of a fused one both halves: no other is beside them."""
        whole: Mask = self.numbers > 0 if self.places[number - 1] == "fused" else self.numbers == number
        return whole


def parts_of(labels: Labels, grid: Grid, hu: NDArray[Any] | None, least: LeastVolumes) -> Parts:
    """Which kidneys there are, from the patient's right to the left.

    Args:
        labels: `(D, H, W)`: 0 background, 1 kidney, 2 tumour, 3 cyst.
        grid: Theirs.
        hu: `(D, H, W)` values of the CT, which tell where the middle of the body is; or None.
        least: Its `kidney_ml` is the volume from which a piece is a kidney of its own.
    """
    box = box_of(labels)
    within, part = labels[box], grid.part(box)
    pieces, boxes, volumes = pieces_of(within > 0, grid)
    own = own_pieces(within, pieces, volumes, grid, least)
    centres = {piece: centre_of(pieces[boxes[piece]] == piece + 1, part.part(boxes[piece])) for piece in own}
    heights = {piece: _height(within, pieces, piece, boxes[piece], part) for piece in own}
    body = None if hu is None or not own else _body_mm(hu, grid, box)
    middle, side_from = _middle([centres[piece][0] for piece in own], body, grid)
    found: list[tuple[float, Side, Place, int, Mask | None]] = []  # centre, ..., piece, the half of it
    for piece in own:
        x, y, _ = centres[piece]
        low = max(heights.values()) - heights[piece] >= LOW_MM
        place: Place = "pelvis" if low or (body is not None and body[1] - y >= FRONT_MM) else "usual"
        halves = _halves(within, pieces, piece, boxes[piece], part, middle) if len(own) == 1 else None
        if halves is None:
            found.append((x, side_of(x - middle), place, piece, None))
        else:
            found.append((middle - 1, "right", "fused", piece, halves))
            found.append((middle + 1, "left", "fused", piece, ~halves))
    found.sort(key=lambda each: each[0])
    numbers = np.zeros(within.shape, np.uint8)
    for number, (_, _, _, piece, half) in enumerate(found, start=1):
        mine = pieces[boxes[piece]] == piece + 1
        numbers[boxes[piece]][mine if half is None else mine & half] = number
    _join_loose(numbers, pieces, boxes, [piece for piece in range(len(boxes)) if piece not in own], part)
    return Parts(box, numbers, tuple(each[1] for each in found), tuple(each[2] for each in found), middle, side_from)


def site_of(side: Side, place: Place) -> Site:
    """Where a kidney lies, for its volume to be added to."""
    return SITES[SITES.index(side) + (3 if place == "pelvis" else 0)]


def own_pieces(
    within: Labels, pieces: NDArray[np.int32], volumes: Floats, grid: Grid, least: LeastVolumes
) -> list[int]:
    """The pieces that are kidneys of their own, large ones first: large enough, and with some tissue if any has it.

    Args:
        within: `(D, H, W)` labels.
        pieces: What is connected in them, numbered, as `pieces_of` gives it.
        volumes: Of each piece, in ml.
        grid: That of the arrays.
        least: What is large enough.
    """
    tissue = np.bincount(pieces[within == KIDNEY], minlength=len(volumes) + 1)[1:] * grid.voxel_ml
    large = [int(piece) for piece in np.argsort(-volumes, kind="stable") if volumes[piece] >= least.kidney_ml]
    return [piece for piece in large if tissue[piece] >= least.kidney_ml / 10] or large


def _middle(xs: Sequence[float], body: Floats | None, grid: Grid) -> tuple[float, Literal["pair", "body", "field"]]:
    """Where the body's middle lies in x: between the two largest kidneys unless both lie on one side of the body."""
    largest = sorted(xs[:2])
    one_side = body is not None and (largest[0] - body[0] >= MIDDLE_MM or body[0] - largest[-1] >= MIDDLE_MM)
    if len(largest) == 2 and largest[1] - largest[0] >= PAIR_MM and not one_side:
        return sum(largest) / 2, "pair"
    return (float(grid.centre_mm[0]), "field") if body is None else (float(body[0]), "body")


def _body_mm(hu: NDArray[Any], grid: Grid, box: Box) -> Floats | None:
    """Middle of the body in LPS mm at the height of the kidneys, from every fourth voxel of a few slices."""
    axis = axial_axis(grid)
    every: list[slice] = [slice(2, None, 4)] * 3
    every[axis] = slice(box[axis].start, box[axis].stop, max((box[axis].stop - box[axis].start) // 8, 1))
    inside = np.argwhere(hu[tuple(every)] > BODY_HU)
    if not len(inside):
        return None
    starts, steps = [each.start for each in every], [each.step for each in every]
    centre: Floats = grid.to_mm(inside * steps + starts).mean(axis=0)
    return centre


def _height(within: Labels, pieces: NDArray[np.int32], piece: int, box: Box, part: Grid) -> float:
    """How far to the head the tissue of a piece lies, which a tumour does not move; where none is, the whole piece."""
    mine = pieces[box] == piece + 1
    tissue = mine & (within[box] == KIDNEY)
    return centre_of(tissue if tissue.any() else mine, part.part(box))[2]


def side_of(from_middle_mm: float) -> Side:
    """The side at a distance from the body's middle along x of LPS, which rises to the patient's left."""
    if abs(from_middle_mm) < MIDDLE_MM:
        return "middle"
    return "left" if from_middle_mm > 0 else "right"


def _halves(within: Labels, pieces: NDArray[np.int32], piece: int, box: Box, part: Grid, middle: float) -> Mask | None:
    """The right half of a piece within its box if the piece is two kidneys in one, else None."""
    tissue = (pieces[box] == piece + 1) & (within[box] == KIDNEY)
    inner = part.part(box)
    first, steps = inner.to_mm((0, 0, 0))[0], inner.affine[0, 2::-1]
    xs = first + sum(
        np.arange(length).reshape([-1 if axis == each else 1 for each in range(3)]) * steps[axis]
        for axis, length in enumerate(tissue.shape)
    )
    right: Mask = np.broadcast_to(xs < middle, tissue.shape)
    inside = np.broadcast_to(xs, tissue.shape)[tissue]
    if not len(inside) or inside.max() - inside.min() < FUSED_MM:
        return None
    share = np.count_nonzero(inside < middle) / len(inside)
    return right if FUSED_SHARE <= share <= 1 - FUSED_SHARE else None


def _join_loose(
    numbers: Labels, pieces: NDArray[np.int32], boxes: Sequence[Box], loose: Sequence[int], part: Grid
) -> None:
    """Gives each piece that is no kidney the number of the nearest kidney, if there is one."""
    if not loose or not numbers.any():
        return
    held = np.argwhere(numbers)[::20]  # the nearest kidney is told well enough by some of its voxels
    nearest = KDTree(part.to_mm(held))
    for piece in loose:
        mine = pieces[boxes[piece]] == piece + 1
        _, index = nearest.query(centre_of(mine, part.part(boxes[piece])))
        numbers[boxes[piece]][mine] = numbers[tuple(held[index])]


def box_of(labels: Labels) -> Box:
    """Where labels are; one voxel where there are none."""
    slices = np.flatnonzero(labels.max(axis=(1, 2), initial=0))
    if not len(slices):
        return slice(0, 1), slice(0, 1), slice(0, 1)
    depth = slice(int(slices[0]), int(slices[-1]) + 1)
    across = labels[depth].max(axis=0)
    rows, columns = np.flatnonzero(across.max(axis=1)), np.flatnonzero(across.max(axis=0))
    return depth, slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def pieces_of(mask: Mask, grid: Grid) -> tuple[NDArray[np.int32], list[Box], Floats]:
    """Connected pieces of a mask, numbered from 1; the box and the volume of each, from the first."""
    pieces, count = ndimage.label(mask, TOUCHING)
    volumes = np.bincount(pieces.ravel(), minlength=count + 1)[1:].astype(np.float64) * grid.voxel_ml
    return pieces, ndimage.find_objects(pieces), volumes


def gap_mm(first: Box, second: Box, grid: Grid) -> float:
    """Distance of two boxes, 0 where they touch or overlap."""
    apart = [max(a.start - b.stop, b.start - a.stop, 0) for a, b in zip(first, second, strict=True)]
    return float(np.linalg.norm(apart * grid.spacing_mm))


def centre_of(mask: Mask, grid: Grid) -> Point:
    """Centre of gravity of a mask that holds something, in LPS mm."""
    x, y, z = grid.to_mm(np.argwhere(mask).mean(axis=0)).tolist()
    return x, y, z


def axial_axis(grid: Grid) -> int:
    """The axis of the array that runs most to the head or feet."""
    return int(np.abs(grid.directions[2]).argmax())
