"""What is measured on the labels of a CT volume: kidneys by side, lesions one by one, and R and E of R.E.N.A.L.

All of it is computed from a label array and its affine, so a lesion can be relabelled or deleted without running the
networks again. Left and right are decided in the patient's own axes (LPS), never by where an array begins.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import ConvexHull, KDTree
from scipy.spatial.distance import pdist

from renalcore.ct.steps import CYST, KIDNEY, LABELS, TUMOUR, Grid

Side = Literal["right", "left", "middle"]
"""The patient's side; `middle` where a kidney lies so near to the middle that its side cannot be told."""

Place = Literal["usual", "fused", "pelvis"]
"""`fused`: one half of a kidney that reaches both sides; `pelvis`: far below the other, or in front."""

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

ENDOPHYTIC_SHARE: Final = 0.05
"""Share outside the kidney below which a lesion counts as entirely inside: the hull of voxels is no finer."""

RENAL_NOTE: Final = (
    "Only R and E of the R.E.N.A.L. score are given: N, A, L and h cannot be computed from these labels, which hold "
    "no collecting system, vessels or polar lines. R is by the greatest diameter in any direction; E is by the convex "
    "hull of the kidney's tissue, which a large tumour stretches, so that it errs towards inside."
)
"""What is said beside R and E (Kutikov and Uzzo, J Urol 182, 2009)."""


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


@dataclass(frozen=True, slots=True)
class Kidney:
    """One kidney, or the half of a fused one, with its lesions.

    Attributes:
        number: 1, 2 ... from the patient's right to the left.
        side: Of the patient.
        place: Where it lies.
        kidney_ml: Volume of its tissue without lesions.
        tumour_ml: Volume of its tumours.
        cyst_ml: Volume of its cysts.
        length_mm: The greatest distance of two points of its tissue, from pole to pole; 0 where no tissue is left.
        mean_hu, sd_hu: Of its tissue, or None without the CT's values or without tissue.
        centre_lps_mm: Centre of gravity with its lesions.
    """

    number: int
    side: Side
    place: Place
    kidney_ml: float
    tumour_ml: float
    cyst_ml: float
    length_mm: float
    mean_hu: float | None
    sd_hu: float | None
    centre_lps_mm: Point

    @property
    def total_ml(self) -> float:
        """With its lesions."""
        return self.kidney_ml + self.tumour_ml + self.cyst_ml


@dataclass(frozen=True, slots=True)
class Lesion:
    """One connected piece of tumour or cyst; two that touch are one.

    Attributes:
        number: 1, 2 ..., tumours before cysts and large before small.
        kidney: Number of its kidney, or None where there is no kidney.
        side: Of its kidney; without one, of itself.
        label: `tumour` or `cyst`.
        volume_ml: Its volume.
        axial_diameter_mm: The greatest distance of two points in one axial slice.
        diameter_mm: The greatest distance of two points.
        mean_hu, sd_hu: Of its voxels, or None without the CT's values.
        centre_lps_mm: Its centre of gravity.
        slice_index: The axial slice in which the axial diameter was found, for the viewer to go to.
        voxel: One of its voxels, an index into the array: what names it when it is edited.
        outside_share: Share of it outside the convex hull of its kidney's tissue, or None where that is unknown.
        renal_r: R of the R.E.N.A.L. score, 1 to 3, of a tumour; else None.
        renal_e: E of it, 1 to 3, or None of a cyst or where `outside_share` is unknown.
    """

    number: int
    kidney: int | None
    side: Side
    label: str
    volume_ml: float
    axial_diameter_mm: float
    diameter_mm: float
    mean_hu: float | None
    sd_hu: float | None
    centre_lps_mm: Point
    slice_index: int
    voxel: tuple[int, int, int]
    outside_share: float | None
    renal_r: int | None
    renal_e: int | None


@dataclass(frozen=True, slots=True)
class Measures:
    """What a volume's labels hold.

    Attributes:
        kidneys: From the patient's right to the left.
        lesions: By number.
        found: One sentence on which kidneys there are.
        side_from: What the middle of the body was told by: the `pair` of kidneys, the `body` in the CT's values, or
            the `field` of view, which the patient may not lie in the middle of.
    """

    kidneys: tuple[Kidney, ...]
    lesions: tuple[Lesion, ...]
    found: str
    side_from: Literal["pair", "body", "field"]

    def volume_ml(self, side: Side, label: int) -> float:
        """Millilitres of one label (1 kidney, 2 tumour, 3 cyst) on one side; 0 where there is none."""
        name = f"{LABELS[label]}_ml"
        return math.fsum(getattr(kidney, name) for kidney in self.kidneys if kidney.side == side)


def to_dict(measures: Measures) -> dict[str, Any]:
    """Measures as JSON holds them, for a record to keep: objects, lists, numbers, texts and null, by attribute."""
    plain: dict[str, Any] = json.loads(json.dumps(asdict(measures), allow_nan=False))
    return plain


def from_dict(stored: Mapping[str, Any]) -> Measures:
    """What `to_dict` gave.

    Raises:
        ValueError: It is nothing that `to_dict` gives.
    """
    try:
        return Measures(
            kidneys=tuple(
                Kidney(**{**each, "centre_lps_mm": tuple(each["centre_lps_mm"])}) for each in stored["kidneys"]
            ),
            lesions=tuple(
                Lesion(**{**each, "centre_lps_mm": tuple(each["centre_lps_mm"]), "voxel": tuple(each["voxel"])})
                for each in stored["lesions"]
            ),
            found=stored["found"],
            side_from=stored["side_from"],
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"these are no measures of a CT: {error}") from error


@dataclass(frozen=True, slots=True, eq=False)
class _Parts:
    """Which kidney each voxel belongs to.

    Attributes:
        box: Where labels are.
        numbers: Of the kidney of each voxel within the box; 0 where no kidney is.
        sides, places: Of each kidney, by number - 1.
        middle_mm: x of the body's middle in LPS.
        side_from: As in `Measures`.
    """

    box: Box
    numbers: Labels
    sides: tuple[Side, ...]
    places: tuple[Place, ...]
    middle_mm: float
    side_from: Literal["pair", "body", "field"]


def measure(
    labels: Labels,
    affine: NDArray[np.floating[Any]],
    *,
    hu: NDArray[Any] | None = None,
    least: LeastVolumes = LeastVolumes(),
) -> Measures:
    """Everything that is told of a volume's labels. Nothing is dropped here: see `drop_small`.

    Args:
        labels: `(D, H, W)`: 0 background, 1 kidney, 2 tumour, 3 cyst.
        affine: 4 x 4, as that of a `Volume`: `(column, row, slice, 1)`, the reverse of an index, to LPS mm.
        hu: `(D, H, W)` values of the CT, for densities and to tell the side of a lone kidney.
        least: Its `kidney_ml` is the volume from which a piece is a kidney of its own.

    Raises:
        ValueError: The arrays or the affine do not fit together.
    """
    grid = _grid(labels, affine, hu)
    parts = _parts(labels, grid, hu, least)
    within, part = labels[parts.box], grid.part(parts.box)
    densities = None if hu is None else hu[parts.box]
    kidneys, hulls = [], []
    for number, (side, place) in enumerate(zip(parts.sides, parts.places, strict=True), start=1):
        mine = parts.numbers == number
        tissue = mine & (within == KIDNEY)
        volumes = np.bincount(within[mine], minlength=4) * _voxel_ml(grid)
        ends = part.to_mm(_ends(tissue))
        hull = ConvexHull(ends) if len(ends) else None
        hulls.append(hull)
        mean_hu, sd_hu = _density(densities, tissue)
        kidneys.append(
            Kidney(
                number=number,
                side=side,
                place=place,
                kidney_ml=float(volumes[KIDNEY]),
                tumour_ml=float(volumes[TUMOUR]),
                cyst_ml=float(volumes[CYST]),
                length_mm=0.0 if hull is None else _diameter(hull),
                mean_hu=mean_hu,
                sd_hu=sd_hu,
                centre_lps_mm=_centre(mine, part),
            )
        )
    return Measures(
        tuple(kidneys), tuple(_lesions(within, parts, part, densities, hulls)), _found(kidneys), parts.side_from
    )


def drop_small(labels: Labels, affine: NDArray[np.floating[Any]], *, least: LeastVolumes = LeastVolumes()) -> Labels:
    """The labels without what is too small to be kept.

    A lesion that is too small takes the label that surrounds it most, and is background where none does; a piece of
    kidney that is too small is background.

    Args:
        labels: `(D, H, W)`: 0 background, 1 kidney, 2 tumour, 3 cyst.
        affine: 4 x 4, as `measure` takes it.
        least: What is too small.

    Returns:
        A new array.

    Raises:
        ValueError: As `measure`.
    """
    grid = _grid(labels, affine, None)
    kept = labels.copy()
    box = _box(labels)
    within = kept[box]  # a view
    for label, least_ml in ((CYST, least.cyst_ml), (TUMOUR, least.tumour_ml)):
        pieces, boxes, volumes = _pieces(within == label, grid)
        for number in np.flatnonzero(volumes < least_ml).tolist():
            around = tuple(slice(max(each.start - 1, 0), each.stop + 1) for each in boxes[number])
            mine = pieces[around] == number + 1
            within[around][mine] = _surrounding(within[around], mine)
    pieces, boxes, volumes = _pieces(within > 0, grid)
    own = _own(within, pieces, volumes, grid, least)
    for number, volume in enumerate(volumes):
        near = volume >= least.kidney_ml / 10 and any(
            _gap_mm(boxes[number], boxes[other], grid) <= NEAR_MM for other in own
        )
        if not (volume >= least.kidney_ml or near):
            within[boxes[number]][pieces[boxes[number]] == number + 1] = 0
    return kept


def relabel(labels: Labels, voxel: tuple[int, int, int], label: int | None) -> Labels:
    """The labels with one connected piece of one label changed: a lesion that a person corrects.

    Args:
        labels: `(D, H, W)`: 0 background, 1 kidney, 2 tumour, 3 cyst.
        voxel: Any voxel of the piece, for instance a `Lesion.voxel`.
        label: What the piece is: 0 to 3; None deletes it, and it takes the label that surrounds it most.

    Returns:
        A new array.

    Raises:
        ValueError: The voxel lies outside or holds no label, or the new label is none.
    """
    if not all(0 <= index < length for index, length in zip(voxel, labels.shape, strict=True)) or not labels[voxel]:
        raise ValueError(f"the voxel {voxel} holds no label")
    if label is not None and not 0 <= label <= CYST:
        raise ValueError(f"a label lies in 0..{CYST}, got {label}")
    box = _box(labels)
    changed = labels.copy()
    within = changed[box]  # a view
    pieces, _ = ndimage.label(within == labels[voxel], TOUCHING)
    mine = pieces == pieces[tuple(index - each.start for index, each in zip(voxel, box, strict=True))]
    within[mine] = _surrounding(within, mine) if label is None else label
    return changed


def sides(
    labels: Labels,
    affine: NDArray[np.floating[Any]],
    *,
    hu: NDArray[Any] | None = None,
    least: LeastVolumes = LeastVolumes(),
) -> Labels:
    """The side of each labelled voxel, as `measure` tells it, whose arguments these are.

    Returns:
        `(D, H, W)`: 1 right, 2 left, 0 where nothing is or the side cannot be told.

    Raises:
        ValueError: As `measure`.
    """
    parts = _parts(labels, _grid(labels, affine, hu), hu, least)
    codes = np.array([0, *({"right": 1, "left": 2, "middle": 0}[side] for side in parts.sides)], np.uint8)
    told = np.zeros(labels.shape, np.uint8)
    told[parts.box] = codes[parts.numbers]
    return told


def renal_r(diameter_mm: float) -> int:
    """R of the R.E.N.A.L. score (Kutikov and Uzzo, J Urol 182, 2009): 1 to 4 cm, 2 below 7 cm, 3 from there."""
    return 1 if diameter_mm <= 40 else 2 if diameter_mm < 70 else 3


def renal_e(outside_share: float) -> int:
    """E of the same: 1 where half or more lies outside the kidney, 2 where less does, 3 where it is entirely inside."""
    return 1 if outside_share >= 0.5 else 2 if outside_share > ENDOPHYTIC_SHARE else 3


def _grid(labels: Labels, affine: NDArray[np.floating[Any]], hu: NDArray[Any] | None) -> Grid:
    if labels.ndim != 3 or labels.dtype.kind not in "ui":
        raise ValueError(f"labels must be (D, H, W) integers, got {labels.shape} {labels.dtype}")
    if labels.size and not 0 <= labels.min() <= labels.max() <= CYST:
        raise ValueError(f"labels must lie in 0..{CYST}, got {labels.min()}..{labels.max()}")
    if hu is not None and hu.shape != labels.shape:
        raise ValueError(f"labels {labels.shape} and the CT {hu.shape} differ in shape")
    depth, height, width = labels.shape
    return Grid((depth, height, width), np.asarray(affine, np.float64))


def _parts(labels: Labels, grid: Grid, hu: NDArray[Any] | None, least: LeastVolumes) -> _Parts:
    box = _box(labels)
    within, part = labels[box], grid.part(box)
    pieces, boxes, volumes = _pieces(within > 0, grid)
    own = _own(within, pieces, volumes, grid, least)
    centres = {piece: _centre(pieces[boxes[piece]] == piece + 1, part.part(boxes[piece])) for piece in own}
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
            found.append((x, _side(x - middle), place, piece, None))
        else:
            found.append((middle - 1, "right", "fused", piece, halves))
            found.append((middle + 1, "left", "fused", piece, ~halves))
    found.sort(key=lambda each: each[0])
    numbers = np.zeros(within.shape, np.uint8)
    for number, (_, _, _, piece, half) in enumerate(found, start=1):
        mine = pieces[boxes[piece]] == piece + 1
        numbers[boxes[piece]][mine if half is None else mine & half] = number
    _join_loose(numbers, pieces, boxes, [piece for piece in range(len(boxes)) if piece not in own], part)
    return _Parts(box, numbers, tuple(each[1] for each in found), tuple(each[2] for each in found), middle, side_from)


def _own(within: Labels, pieces: NDArray[np.int32], volumes: Floats, grid: Grid, least: LeastVolumes) -> list[int]:
    """The pieces that are kidneys of their own, large ones first: large enough, and with some tissue if any has it."""
    tissue = np.bincount(pieces[within == KIDNEY], minlength=len(volumes) + 1)[1:] * _voxel_ml(grid)
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
    axis = _axial_axis(grid)
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
    return _centre(tissue if tissue.any() else mine, part.part(box))[2]


def _side(from_middle_mm: float) -> Side:
    """LPS: x rises to the patient's left."""
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
        _, index = nearest.query(_centre(mine, part.part(boxes[piece])))
        numbers[boxes[piece]][mine] = numbers[tuple(held[index])]


def _lesions(
    within: Labels, parts: _Parts, part: Grid, densities: NDArray[Any] | None, hulls: Sequence[ConvexHull | None]
) -> list[Lesion]:
    found: list[Lesion] = []
    for label in (TUMOUR, CYST):
        pieces, boxes, volumes = _pieces(within == label, part)
        for piece in np.argsort(-volumes, kind="stable"):
            box = boxes[piece]
            mine, inner = pieces[box] == piece + 1, part.part(box)
            centre = _centre(mine, inner)
            kidney = int(np.bincount(parts.numbers[box][mine]).argmax())
            diameter = _diameter(ConvexHull(inner.to_mm(_ends(mine))))
            axial, slice_index = _axial_diameter(mine, inner)
            hull = hulls[kidney - 1] if kidney else None
            outside = None if hull is None else _outside(hull, inner.to_mm(np.argwhere(mine)))
            voxel = np.argwhere(mine)[0] + [each.start for each in box] + [each.start for each in parts.box]
            mean_hu, sd_hu = _density(None if densities is None else densities[box], mine)
            axis = _axial_axis(part)
            found.append(
                Lesion(
                    number=len(found) + 1,
                    kidney=kidney or None,
                    side=parts.sides[kidney - 1] if kidney else _side(centre[0] - parts.middle_mm),
                    label=LABELS[label],
                    volume_ml=float(volumes[piece]),
                    axial_diameter_mm=axial,
                    diameter_mm=diameter,
                    mean_hu=mean_hu,
                    sd_hu=sd_hu,
                    centre_lps_mm=centre,
                    slice_index=slice_index + box[axis].start + parts.box[axis].start,
                    voxel=(int(voxel[0]), int(voxel[1]), int(voxel[2])),
                    outside_share=outside,
                    renal_r=renal_r(diameter) if label == TUMOUR else None,
                    renal_e=renal_e(outside) if label == TUMOUR and outside is not None else None,
                )
            )
    return found


def _found(kidneys: Sequence[Kidney]) -> str:
    """One sentence on which kidneys there are."""
    if not kidneys:
        return "No kidney was found."
    if kidneys[0].place == "fused":
        return (
            "One connected kidney lies on both sides, a horseshoe or two that touch: its volumes are parted in the "
            "middle."
        )
    where = [
        f"{'side unknown' if kidney.side == 'middle' else kidney.side}"
        f"{' (in the pelvis or in front: a transplant or an ectopic kidney)' if kidney.place == 'pelvis' else ''}"
        for kidney in kidneys
    ]
    count = {1: "One kidney was", 2: "Two kidneys were"}.get(len(kidneys), f"{len(kidneys)} kidneys were")
    return f"{count} found: {', '.join(where)}."


def _box(labels: Labels) -> Box:
    """Where labels are; one voxel where there are none."""
    held: list[Box] = ndimage.find_objects((labels > 0).view(np.uint8))
    return held[0] if held else (slice(0, 1), slice(0, 1), slice(0, 1))


def _pieces(mask: Mask, grid: Grid) -> tuple[NDArray[np.int32], list[Box], Floats]:
    """Connected pieces of a mask, numbered from 1; the box and the volume of each, from the first."""
    pieces, count = ndimage.label(mask, TOUCHING)
    volumes = np.bincount(pieces.ravel(), minlength=count + 1)[1:].astype(np.float64) * _voxel_ml(grid)
    return pieces, ndimage.find_objects(pieces), volumes


def _surrounding(within: Labels, mine: Mask) -> int:
    """The label that touches a piece most; background where none does."""
    ring = ndimage.binary_dilation(mine, TOUCHING) & ~mine
    touched = np.bincount(within[ring], minlength=CYST + 1)[1:]
    return int(touched.argmax()) + 1 if touched.any() else 0


def _gap_mm(first: Box, second: Box, grid: Grid) -> float:
    """Distance of two boxes."""
    apart = [max(a.start - b.stop, b.start - a.stop, 0) for a, b in zip(first, second, strict=True)]
    return float(np.linalg.norm(apart * grid.spacing_mm))


def _voxel_ml(grid: Grid) -> float:
    return float(abs(np.linalg.det(grid.affine[:3, :3]))) / 1000


def _centre(mask: Mask, grid: Grid) -> Point:
    x, y, z = grid.to_mm(np.argwhere(mask).mean(axis=0)).tolist()
    return x, y, z


def _density(densities: NDArray[Any] | None, mask: Mask) -> tuple[float | None, float | None]:
    """Mean and standard deviation."""
    if densities is None or not mask.any():
        return None, None
    values = densities[mask].astype(np.float64)
    return float(values.mean()), float(values.std())


def _axial_axis(grid: Grid) -> int:
    """The axis of the array that runs most to the head or feet."""
    return int(np.abs(grid.directions[2]).argmax())


def _ends(mask: Mask) -> Floats:
    """The middles of the faces at which each line of voxels (or pixels) begins and ends, indices `(N, ndim)`.

    The hull of a mask is theirs. One voxel is as long as its side: to measure from middle to middle of the voxels
    would tell every length one voxel short.
    """
    ends = []
    for axis in range(mask.ndim):
        lines = np.argwhere(mask.any(axis=axis))
        first = mask.argmax(axis=axis)[tuple(lines.T)] - 0.5
        last = mask.shape[axis] - 0.5 - np.flip(mask, axis).argmax(axis=axis)[tuple(lines.T)]
        ends += [np.insert(lines.astype(np.float64), axis, each, axis=1) for each in (first, last)]
    return np.concatenate(ends)


def _diameter(hull: ConvexHull) -> float:
    """The greatest distance of two of its points."""
    return float(pdist(hull.points[hull.vertices]).max())


def _axial_diameter(mask: Mask, grid: Grid) -> tuple[float, int]:
    """The greatest distance of two points of one axial slice, and the slice's index."""
    axis = _axial_axis(grid)
    axes = [each for each in range(3) if each != axis]
    best, at = 0.0, 0
    in_plane = np.linalg.qr((grid.directions * grid.spacing_mm)[:, axes])[1]  # indices to mm of a plane of its own
    for index in np.flatnonzero(mask.any(axis=tuple(axes))).tolist():
        points = _ends(np.take(mask, index, axis)) @ in_plane.T
        longest = _diameter(ConvexHull(points))
        if longest > best:
            best, at = longest, index
    return best, at


def _outside(hull: ConvexHull, points: Floats) -> float:
    """Share of the points outside a convex hull; some at a time, since each is held against each of its faces."""
    normals, offsets = hull.equations[:, :3].T.astype(np.float32), hull.equations[:, 3].astype(np.float32)
    beyond = 0
    for start in range(0, len(points), 8192):
        heights = points[start : start + 8192].astype(np.float32) @ normals + offsets
        beyond += int(np.count_nonzero(heights.max(axis=1) > 0.01))
    return beyond / len(points)
