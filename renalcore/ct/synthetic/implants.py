"""Real tumours and cysts in real scans: lesions of label maps, put where there is room for them on a patient's kidneys.

A lesion keeps its size, its place on the kidney and the share of it that sticks out. It gets the HU of a palette whose
kidneys are as bright as those of the scan. What is finer than `_FINE_MM` within it is the scan's own noise, what is
coarser the texture of a tumour on a real slice. Nothing is pushed aside: a place is taken where kidney and fat lie.

Points are mm along D, H and W from the middle of a scan's first voxel.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import ConvexHull

from renalcore.ct.kidneys import LeastVolumes, Side, parts_of
from renalcore.ct.nifti import read_label_map
from renalcore.ct.slices import Texture
from renalcore.ct.steps import CYST, KIDNEY, TUMOUR, Grid, resample
from renalcore.ct.synthetic.scene import point_spread
from renalcore.ct.synthetic.tissue import EVENNESS_OF_PLAIN, Palette, Tissue, draw_palette
from renalcore.errors import InputError

Floats = NDArray[np.float64]
Labels = NDArray[np.uint8]

_MAPS_TRIED: Final = 60
"""Patients whose lesions are tried on a kidney: most have none of the kind that is sought, or one too large."""
_PALETTES: Final = 64
"""Palettes drawn, of which that with the scan's own kidney is taken; phases that look the same come as they are."""
_POINTS: Final = 600
"""Points of a lesion by which its place is judged."""
_SHIFTED_MM: Final = np.arange(-60.0, 61.0)
"""How far a lesion is moved along its radius until it sticks out as it did."""
_SHARE_OFF: Final = 0.05
"""Difference of what sticks out that is put up with."""
_FAT_HU: Final = (-170, 10)
_IN_FAT: Final = 0.85
"""Share of what sticks out that lies in fat at least. The rest is fascia, small vessels and a touch of the bowel."""
_GAS_HU: Final = -250
_BONE_HU: Final = 250
_ON_TISSUE: Final = 0.5
"""Share of what lies within the kidney's outline that is kidney at least, and not its sinus: lesions grow from it."""
_LEFT_OVER: Final = 0.5
"""Share of the kidney that is left at least."""
_HULL_POINTS: Final = 20_000

_FINE_MM: Final = 1.2
_LAYER_MM: Final = 6.0
"""Height over which one view of a texture goes over into the next: a slice says nothing of what lies above it."""
_BLUR_MM: Final = 0.65
"""Sigma of the blur within a slice: the middle of those of drawn scans."""
_EVEN_MM: Final = 24.0
"""Side of the part of a scan whose noise a lesion gets."""
_SOFT_HU: Final = (-150, 250)
_HARD_HU2: Final = 1e4
"""What counts for each voxel that is gas or bone: more than any noise."""


@dataclass(frozen=True, slots=True, eq=False)
class Kidney:
    """Where one kidney of a scan or label map lies, without its lesions.

    Attributes:
        side: The patient's.
        middle_mm, half_mm: Middle and half sides of the box that holds it.
        faces: `(F, 4)`: a point p lies within its convex hull where `faces @ (p, 1) <= 0`.
    """

    side: Side
    middle_mm: Floats
    half_mm: Floats
    faces: Floats

    def holds(self, points_mm: Floats) -> NDArray[np.bool_]:
        """Which points `(..., 3)` lie within its convex hull, the outline that it had before a lesion dented it."""
        inside: NDArray[np.bool_] = (points_mm @ self.faces[:, :3].T + self.faces[:, 3]).max(-1) <= 0
        return inside


@dataclass(frozen=True, slots=True, eq=False)
class Lesion:
    """A tumour or cyst of a label map.

    Attributes:
        patient: Whose it is.
        label: `TUMOUR` or `CYST`.
        mask: `(D, H, W)`, in the middle of its box.
        spacing_mm: Of its voxels.
        side: Of its kidney.
        place: Its middle from that of its kidney, in half sides of the kidney's box.
        inside: Share of it within the convex hull of its kidney.
    """

    patient: str
    label: int
    mask: NDArray[np.bool_]
    spacing_mm: Floats
    side: Side
    place: Floats
    inside: float

    @property
    def points_mm(self) -> Floats:
        """Some of its points, from its middle."""
        points = (np.argwhere(self.mask) - (np.array(self.mask.shape) - 1) / 2) * self.spacing_mm
        return np.asarray(points[:: -(-len(points) // _POINTS)], np.float64)

    @property
    def ml(self) -> float:
        """Its volume."""
        return float(self.mask.sum() * np.prod(self.spacing_mm) / 1000)

    def mirrored(self) -> Lesion:
        """The same on the other side of the body."""
        side: Side = "left" if self.side == "right" else "right"
        return replace(self, mask=self.mask[..., ::-1], side=side, place=self.place * (1, 1, -1))


@dataclass(frozen=True, slots=True, eq=False)
class _Scan:
    """A scan that lesions are put into: the arrays are changed."""

    hu: NDArray[np.float32]
    labels: Labels
    grid: Grid


def lesions_of(path: Path) -> list[Lesion]:
    """The tumours and cysts of a label map, each with its place on its kidney; specks are left out.

    Raises:
        InputError: As `renalcore.ct.nifti.read_label_map`.
    """
    labels, grid = read_label_map(path)
    least, found = LeastVolumes(), []
    for kidney, mine in _kidneys(labels, grid, None):
        for label, least_ml in ((TUMOUR, least.tumour_ml), (CYST, least.cyst_ml)):
            pieces, _ = ndimage.label(mine & (labels == label), np.ones((3, 3, 3)))
            for number, box in enumerate(ndimage.find_objects(pieces), start=1):
                mask = pieces[box] == number
                if mask.sum() * grid.voxel_ml < least_ml:
                    continue
                middle = np.array([(each.start + each.stop - 1) / 2 for each in box]) * grid.spacing_mm
                place = (middle - kidney.middle_mm) / kidney.half_mm
                lesion = Lesion(path.name.split(".")[0], label, mask, grid.spacing_mm, kidney.side, place, 1.0)
                found.append(replace(lesion, inside=float(kidney.holds(lesion.points_mm + middle).mean())))
    return found


def _kidneys(labels: Labels, grid: Grid, hu: NDArray[Any] | None) -> Iterator[tuple[Kidney, NDArray[np.bool_]]]:
    """Each kidney with enough tissue to tell where on it something lies, and where it is with its lesions."""
    parts = parts_of(labels, grid, hu, LeastVolumes())
    first = np.array([each.start for each in parts.box])
    for number, side in enumerate(parts.sides, start=1):
        own = parts.numbers == number
        tissue = np.argwhere(own & (labels[parts.box] == KIDNEY))
        if len(tissue) * grid.voxel_ml < LeastVolumes().kidney_ml or not np.ptp(tissue, axis=0).all():
            continue
        points = (tissue + first) * grid.spacing_mm
        low, high = points.min(0), points.max(0)
        hull = ConvexHull(points[:: -(-len(points) // _HULL_POINTS)])
        mine = np.zeros(labels.shape, np.bool_)
        mine[parts.box] = own
        yield Kidney(side, (low + high) / 2, (high - low) / 2, hull.equations), mine


def implant(
    hu: NDArray[Any], labels: Labels, grid: Grid, shapes: Sequence[Path], textures: Sequence[Texture], seed: int
) -> tuple[NDArray[np.float32], Labels, list[Lesion]]:
    """A scan with a tumour or a cyst on each of its kidneys that has room for one of those tried.

    Args:
        hu: `(D, H, W)`, which is not changed.
        labels: Of KiTS, on the same grid; not changed either.
        grid: Theirs, turned towards LPS.
        shapes: Label maps that lesions are taken from.
        textures: What tumours look like within.
        seed: Of everything that is chosen.

    Returns:
        HU and labels with the lesions, and which those are.

    Raises:
        InputError: No kidney is labelled, or nothing that was tried found room.
    """
    rng = np.random.default_rng(seed)
    scan = _Scan(np.array(hu, np.float32), labels.copy(), grid)
    put = []
    kidneys = list(_kidneys(labels, grid, hu))
    if not kidneys:
        raise InputError("no whole kidney is labelled there, and lesions are put on kidneys; leave the scan out")
    palette = _palette(float(np.median(hu[labels == KIDNEY])), rng)
    for kidney, mine in kidneys:
        for lesion in _candidates(shapes, rng):
            if {lesion.side, kidney.side} == {"right", "left"}:
                lesion = lesion.mirrored()
            middle_mm = _place(lesion, kidney)
            if middle_mm is not None and _has_room(lesion, middle_mm, kidney, mine, scan):
                _paint(lesion, middle_mm, palette, textures, scan, rng)
                put.append(lesion)
                break
    if not put:
        raise InputError(f"none of the lesions of {min(_MAPS_TRIED, len(shapes))} label maps has room there; give more")
    return scan.hu, scan.labels, put


def _candidates(shapes: Sequence[Path], rng: np.random.Generator) -> Iterator[Lesion]:
    """Lesions of one patient after the other: those of one kind, cysts as often as tumours, before the others."""
    label = CYST if rng.random() < 0.5 else TUMOUR
    others = []
    for chosen in rng.permutation(len(shapes))[:_MAPS_TRIED]:
        lesions = lesions_of(shapes[chosen])
        for number in rng.permutation(len(lesions)):
            if lesions[number].label == label:
                yield lesions[number]
            else:
                others.append(lesions[number])
    yield from others


def _palette(kidney_hu: float, rng: np.random.Generator) -> Palette:
    """Of some palettes that with a kidney of this brightness: the phase of a scan, as far as it can be told."""
    drawn = [draw_palette(rng) for _ in range(_PALETTES)]
    return min(drawn, key=lambda each: abs(each.mean[[Tissue.CORTEX, Tissue.MEDULLA]].mean() - kidney_hu))


def _place(lesion: Lesion, kidney: Kidney) -> Floats | None:
    """The middle of a lesion on another kidney: on the same radius, where as much of it sticks out; None if nowhere."""
    radius = lesion.place * kidney.half_mm
    away_mm = max(float(np.linalg.norm(radius)), 1.0)
    shifts_mm = _SHIFTED_MM[_SHIFTED_MM + away_mm >= 0]  # never to the other side of the kidney
    middles = kidney.middle_mm + radius * (1 + shifts_mm[:, None] / away_mm)
    inside = np.array([kidney.holds(lesion.points_mm + middle).mean() for middle in middles])
    off = np.abs(inside - lesion.inside)
    best = int(np.argmin(off + np.abs(shifts_mm) / 1000))  # of those that do as well, the nearest
    return np.asarray(middles[best], np.float64) if off[best] <= _SHARE_OFF else None


def _has_room(lesion: Lesion, middle_mm: Floats, kidney: Kidney, mine: NDArray[np.bool_], scan: _Scan) -> bool:
    """Whether a lesion takes the place of kidney and fat alone, within the scan, and leaves enough of the kidney."""
    points, spacing = lesion.points_mm + middle_mm, scan.grid.spacing_mm
    reach = np.array(lesion.mask.shape) / 2 * lesion.spacing_mm
    if (middle_mm < reach).any() or (middle_mm + reach > (np.array(scan.grid.shape) - 1) * spacing).any():
        return False
    at = tuple(np.rint(points / spacing).astype(int).T)
    tissue = scan.labels[at] == KIDNEY
    within = kidney.holds(points)
    beside = scan.hu[at][~within & ~tissue]
    kidney_ml = (mine & (scan.labels == KIDNEY)).sum() * scan.grid.voxel_ml
    return bool(
        not (scan.labels[at] > KIDNEY).any()
        and tissue.sum() >= _ON_TISSUE * within.sum()
        and tissue.mean() * lesion.ml <= (1 - _LEFT_OVER) * kidney_ml
        and not ((beside < _GAS_HU) | (beside > _BONE_HU)).any()
        and ((beside > _FAT_HU[0]) & (beside < _FAT_HU[1])).sum() >= _IN_FAT * len(beside)
    )


def _paint(
    lesion: Lesion,
    middle_mm: Floats,
    palette: Palette,
    textures: Sequence[Texture],
    scan: _Scan,
    rng: np.random.Generator,
) -> None:
    """Put a lesion into HU and labels."""
    grid, spacing = scan.grid, scan.grid.spacing_mm
    sigmas = point_spread(float(spacing[0]), _BLUR_MM, spacing)
    reach = np.array(lesion.mask.shape) / 2 * lesion.spacing_mm + (3 * sigmas + 1) * spacing
    first = np.maximum(np.floor((middle_mm - reach) / spacing), 0).astype(int)
    last = np.minimum(np.ceil((middle_mm + reach) / spacing) + 1, grid.shape).astype(int)
    window = tuple(slice(int(begin), int(end)) for begin, end in zip(first, last, strict=True))
    d, h, w = lesion.mask.shape
    own = grid.around(grid.to_mm(middle_mm / spacing), (d, h, w), lesion.spacing_mm.tolist())
    inside = resample(lesion.mask, own, grid.part(window), outside=0.0) > 0.5
    cover = ndimage.gaussian_filter(inside.astype(np.float32), sigmas, truncate=2.5)
    tissue = Tissue.TUMOUR if lesion.label == TUMOUR else Tissue.CYST
    look = palette.mean[tissue] + _noise(scan, window)
    if lesion.label == TUMOUR:
        evenness = EVENNESS_OF_PLAIN if palette.phase == "plain" else 1.0
        look += np.float32(evenness) * _texture(textures, inside.shape, spacing, rng)
    scan.labels[window][inside] = lesion.label
    scan.hu[window] += cover * (look - scan.hu[window])


def _fine_px(spacing: Floats) -> list[float]:
    """Sigmas along D, H and W that part noise from texture."""
    return [0.0, *(max(_FINE_MM / mm, 1.0) for mm in spacing[1:].tolist())]


def _texture(
    textures: Sequence[Texture], shape: tuple[int, ...], spacing: Floats, rng: np.random.Generator
) -> NDArray[np.float32]:
    """The texture of a real patient's tumour: squares of it, turned and mirrored on, each going over into the next."""
    groups = sorted({each.group for each in textures})
    group = groups[int(rng.integers(len(groups)))]
    squares = [each for each in textures if each.group == group]
    heights = np.arange(shape[0]) * spacing[0] / _LAYER_MM + rng.random()
    axes = [np.arange(n) * mm for n, mm in zip(shape[1:], spacing[1:], strict=True)]
    rows, columns = np.meshgrid(*axes, indexing="ij")
    whole = np.zeros(shape, np.float32)
    for layer in range(int(heights[-1]) + 2):
        of = squares[int(rng.integers(len(squares)))]
        angle = rng.uniform(0, 2 * np.pi)
        turned = [rows * np.cos(angle) - columns * np.sin(angle), rows * np.sin(angle) + columns * np.cos(angle)]
        start = rng.uniform(0, len(of.hu), 2)
        at = [axis / of.pixel_mm + begin for axis, begin in zip(turned, start, strict=True)]
        plane = ndimage.map_coordinates(of.hu, at, order=1, mode="mirror", output=np.float32)
        near = np.abs(heights - layer) < 1
        # Sine and cosine: a sum of two independent planes deviates as much as each of them.
        weights = np.cos(np.abs(heights[near] - layer) * np.pi / 2).astype(np.float32)
        whole[near] += weights[:, None, None] * plane
    return np.asarray(ndimage.gaussian_filter(whole, _fine_px(spacing)), np.float32)


def _noise(scan: _Scan, window: tuple[slice, ...]) -> NDArray[np.float32]:
    """The scan's own noise in the slices of a window: that of their most even part, mirrored on."""
    slices, spacing = scan.hu[window[0]], scan.grid.spacing_mm
    smooth = ndimage.gaussian_filter(slices, _fine_px(spacing))
    noise = slices - smooth
    side = [min(max(round(_EVEN_MM / mm), 1), n) for mm, n in zip(spacing[1:], slices.shape[1:], strict=True)]
    hard = (smooth < _SOFT_HU[0]) | (smooth > _SOFT_HU[1])  # also the air around the body
    uneven = _summed((np.square(noise) + _HARD_HU2 * hard).mean(0), side)
    row, column = np.unravel_index(uneven.argmin(), uneven.shape)
    part = noise[:, row : row + side[0], column : column + side[1]]
    rows, columns = (_mirrored_on(n, length) for n, length in zip(side, scan.hu[window].shape[1:], strict=True))
    return np.asarray(part[:, rows][:, :, columns], np.float32)


def _summed(plane: NDArray[Any], side: Sequence[int]) -> NDArray[np.float64]:
    """The sum of each part of `side` pixels, by its first one."""
    total = np.pad(plane.astype(np.float64).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    h, w = side
    return np.asarray(total[h:, w:] - total[:-h, w:] - total[h:, :-w] + total[:-h, :-w], np.float64)


def _mirrored_on(count: int, length: int) -> NDArray[np.int_]:
    """Indices 0, 1 ... `count` - 1, `count` - 1 ... 1, 0, 0, 1 ... up to a length."""
    there = np.arange(length) % (2 * count)
    return np.where(there < count, there, 2 * count - 1 - there)
