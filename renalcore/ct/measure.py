"""What is measured on the labels of a CT volume: kidneys by side, lesions one by one, and R and E of R.E.N.A.L.

All of it is computed from a label array and its affine, so a lesion can be relabelled or deleted without running the
networks again. Which kidneys there are is told in `renalcore.ct.kidneys`.
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
from scipy.spatial import ConvexHull
from scipy.spatial.distance import pdist

from renalcore.ct.kidneys import (
    NEAR_MM,
    SITES,
    TOUCHING,
    Floats,
    Labels,
    LeastVolumes,
    Mask,
    Parts,
    Place,
    Point,
    Side,
    Site,
    axial_axis,
    box_of,
    centre_of,
    gap_mm,
    own_pieces,
    parts_of,
    pieces_of,
    side_of,
    site_of,
)
from renalcore.ct.steps import CYST, KIDNEY, LABELS, TUMOUR, Grid

ENDOPHYTIC_SHARE: Final = 0.05
"""Share outside the kidney below which a lesion counts as entirely inside: the hull of voxels is no finer."""

RENAL_NOTE: Final = (
    "Only R and E of the R.E.N.A.L. score are given: N, A, L and h cannot be computed from these labels, which hold "
    "no collecting system, vessels or polar lines. R is by the greatest diameter in any direction; E is by the convex "
    "hull of the kidney's tissue, which a large tumour stretches, so that it errs towards inside."
)
"""What is said beside R and E (Kutikov and Uzzo, J Urol 182, 2009)."""


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

    @property
    def site(self) -> Site:
        """Its side, and apart from it `pelvis_` with the side where it lies in the pelvis or in front."""
        return site_of(self.side, self.place)


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
        voxel: Its voxel in that slice nearest to the middle of what lies there, an index into the array: what names it
            when it is edited.
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

    def volume_ml(self, site: Site, label: int) -> float:
        """Millilitres of one label (1 kidney, 2 tumour, 3 cyst) at one site; 0 where there is none."""
        name = f"{LABELS[label]}_ml"
        return math.fsum(getattr(kidney, name) for kidney in self.kidneys if kidney.site == site)

    def site_of(self, lesion: Lesion) -> Site:
        """The site of the lesion's kidney; without one, its own side."""
        return next((kidney.site for kidney in self.kidneys if kidney.number == lesion.kidney), lesion.side)

    @property
    def organs(self) -> tuple[tuple[Kidney, ...], ...]:
        """The kidneys as things of their own: each alone, and the two halves of a fused one together."""
        halves = tuple(kidney for kidney in self.kidneys if kidney.place == "fused")
        return (halves,) if halves else tuple((kidney,) for kidney in self.kidneys)


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
    parts = parts_of(labels, grid, hu, least)
    within, part = labels[parts.box], grid.part(parts.box)
    densities = None if hu is None else hu[parts.box]
    kidneys, hulls = [], []
    for number, (side, place) in enumerate(zip(parts.sides, parts.places, strict=True), start=1):
        mine = parts.numbers == number
        tissue = mine & (within == KIDNEY)
        volumes = np.bincount(within[mine], minlength=4) * grid.voxel_ml
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
                centre_lps_mm=centre_of(mine, part),
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
    box = box_of(labels)
    within = kept[box]  # a view
    for label, least_ml in ((CYST, least.cyst_ml), (TUMOUR, least.tumour_ml)):
        pieces, boxes, volumes = pieces_of(within == label, grid)
        for number in np.flatnonzero(volumes < least_ml).tolist():
            around = tuple(slice(max(each.start - 1, 0), each.stop + 1) for each in boxes[number])
            mine = pieces[around] == number + 1
            within[around][mine] = _surrounding(within[around], mine)
    pieces, boxes, volumes = pieces_of(within > 0, grid)
    own = own_pieces(within, pieces, volumes, grid, least)
    for number, volume in enumerate(volumes):
        near = volume >= least.kidney_ml / 10 and any(
            gap_mm(boxes[number], boxes[other], grid) <= NEAR_MM for other in own
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
    box = box_of(labels)
    changed = labels.copy()
    within = changed[box]  # a view
    pieces, _ = ndimage.label(within == labels[voxel], TOUCHING)
    mine = pieces == pieces[tuple(index - each.start for index, each in zip(voxel, box, strict=True))]
    within[mine] = _surrounding(within, mine) if label is None else label
    return changed


def without_kidney(
    labels: Labels,
    affine: NDArray[np.floating[Any]],
    number: int,
    *,
    hu: NDArray[Any] | None = None,
    least: LeastVolumes = LeastVolumes(),
) -> tuple[Labels, tuple[int, int, int]]:
    """The labels without a kidney that a person says is none, such as bowel or muscle, and without its lesions.

    Args:
        labels: `(D, H, W)`: 0 background, 1 kidney, 2 tumour, 3 cyst.
        affine: 4 x 4, as `measure` takes it.
        number: Of the kidney, as `measure` tells it of the same arguments; of a fused one both halves go.
        hu: As `measure` takes it.
        least: As `measure` takes it.

    Returns:
        A new array, and the voxel of the kidney nearest to its middle, which names it.

    Raises:
        ValueError: There is no such kidney, or as `measure`.
    """
    parts = parts_of(labels, _grid(labels, affine, hu), hu, least)
    if not 1 <= number <= len(parts.sides):
        raise ValueError(f"there is no kidney {number} among {len(parts.sides)}")
    whole = parts.whole(number)
    held = np.argwhere(whole)
    nearest = held[((held - held.mean(axis=0)) ** 2).sum(axis=1).argmin()]
    d, h, w = (int(index) + each.start for index, each in zip(nearest, parts.box, strict=True))
    changed = labels.copy()
    changed[parts.box][whole] = 0
    return changed, (d, h, w)


def sites(
    labels: Labels,
    affine: NDArray[np.floating[Any]],
    *,
    hu: NDArray[Any] | None = None,
    least: LeastVolumes = LeastVolumes(),
) -> Labels:
    """The site of each labelled voxel, as `measure` tells it, whose arguments these are.

    Returns:
        `(D, H, W)`: an index into `SITES`, which is 0 also where nothing is.

    Raises:
        ValueError: As `measure`.
    """
    parts = parts_of(labels, _grid(labels, affine, hu), hu, least)
    told = np.zeros(labels.shape, np.uint8)
    codes = [SITES.index(site_of(side, place)) for side, place in zip(parts.sides, parts.places, strict=True)]
    told[parts.box] = np.array([0, *codes], np.uint8)[parts.numbers]
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


def _lesions(
    within: Labels, parts: Parts, part: Grid, densities: NDArray[Any] | None, hulls: Sequence[ConvexHull | None]
) -> list[Lesion]:
    found: list[Lesion] = []
    for label in (TUMOUR, CYST):
        pieces, boxes, volumes = pieces_of(within == label, part)
        for piece in np.argsort(-volumes, kind="stable"):
            box = boxes[piece]
            mine, inner = pieces[box] == piece + 1, part.part(box)
            centre = centre_of(mine, inner)
            kidney = int(np.bincount(parts.numbers[box][mine]).argmax())
            diameter = _diameter(ConvexHull(inner.to_mm(_ends(mine))))
            axial, slice_index = _axial_diameter(mine, inner)
            hull = hulls[kidney - 1] if kidney else None
            outside = None if hull is None else _outside(hull, mine, inner)
            axis = axial_axis(part)
            first = np.array([outer.start + each.start for outer, each in zip(parts.box, box, strict=True)])
            voxel = first + _middle_voxel(mine, axis, slice_index)
            mean_hu, sd_hu = _density(None if densities is None else densities[box], mine)
            found.append(
                Lesion(
                    number=len(found) + 1,
                    kidney=kidney or None,
                    side=parts.sides[kidney - 1] if kidney else side_of(centre[0] - parts.middle_mm),
                    label=LABELS[label],
                    volume_ml=float(volumes[piece]),
                    axial_diameter_mm=axial,
                    diameter_mm=diameter,
                    mean_hu=mean_hu,
                    sd_hu=sd_hu,
                    centre_lps_mm=centre,
                    slice_index=slice_index + int(first[axis]),
                    voxel=(int(voxel[0]), int(voxel[1]), int(voxel[2])),
                    outside_share=outside,
                    renal_r=renal_r(diameter) if label == TUMOUR else None,
                    renal_e=renal_e(outside) if label == TUMOUR and outside is not None else None,
                )
            )
    return found


def _middle_voxel(mask: Mask, axis: int, slice_index: int) -> NDArray[np.int64]:
    """The voxel of one slice of a mask that is nearest to the middle of what the mask holds there."""
    held = np.argwhere(np.take(mask, slice_index, axis))
    nearest = held[((held - held.mean(axis=0)) ** 2).sum(axis=1).argmin()]
    return np.insert(nearest, axis, slice_index)


def _surrounding(within: Labels, mine: Mask) -> int:
    """The label that touches a piece most; background where none does."""
    ring = ndimage.binary_dilation(mine, TOUCHING) & ~mine
    touched = np.bincount(within[ring], minlength=CYST + 1)[1:]
    return int(touched.argmax()) + 1 if touched.any() else 0


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


def _density(densities: NDArray[Any] | None, mask: Mask) -> tuple[float | None, float | None]:
    """Mean and standard deviation."""
    if densities is None or not mask.any():
        return None, None
    values = densities[mask].astype(np.float64)
    return float(values.mean()), float(values.std())


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
    axis = axial_axis(grid)
    axes = [each for each in range(3) if each != axis]
    best, at = 0.0, 0
    in_plane = np.linalg.qr((grid.directions * grid.spacing_mm)[:, axes])[1]  # indices to mm of a plane of its own
    for index in np.flatnonzero(mask.any(axis=tuple(axes))).tolist():
        points = _ends(np.take(mask, index, axis)) @ in_plane.T
        longest = _diameter(ConvexHull(points))
        if longest > best:
            best, at = longest, index
    return best, at


def _outside(hull: ConvexHull, mask: Mask, grid: Grid) -> float:
    """Share of a mask that lies outside a convex hull.

    Of each line of voxels the hull holds one stretch, which ends where the line meets the first of its faces.
    """
    lines = np.argwhere(mask.any(axis=2))
    normals, offsets = hull.equations[:, :3].T, hull.equations[:, 3] - 0.01  # mm: what touches is inside
    slopes = grid.affine[:3, 0] @ normals
    rising, falling = slopes > 0, slopes < 0
    along = np.arange(mask.shape[2])
    inside = 0
    for start in range(0, len(lines), 4096):
        some = lines[start : start + 4096]
        heights = grid.to_mm(np.insert(some, 2, 0, axis=1)) @ normals + offsets
        last = (-heights[:, rising] / slopes[rising]).min(axis=1, initial=np.inf)
        first = (-heights[:, falling] / slopes[falling]).max(axis=1, initial=-np.inf)
        first[(heights[:, slopes == 0] > 0).any(axis=1)] = np.inf
        held = mask[some[:, 0], some[:, 1]]
        inside += int(np.count_nonzero(held & (along >= first[:, None]) & (along <= last[:, None])))
    return 1 - inside / int(np.count_nonzero(mask))
