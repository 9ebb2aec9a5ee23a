"""Slices into a stack: sorted by where they lie, and refused, with the reason, where they are no volume.

The order is that along the slices' normal. Neither names, nor instance numbers, nor the stated thickness are believed:
all three are wrong in files of everyday practice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from renalcore.errors import InputError, TooLarge, UnreadableFile
from renalcore.types import QualityFlag

if TYPE_CHECKING:
    from renalcore.io.volume.headers import Plane

MAX_SIDE: Final = 4096
MAX_SLICES: Final = 5_000
MAX_VOXELS: Final = 512 * 512 * 4_000
"""2 GiB of int16: a scan of the whole body every 0.5 mm."""
MAX_MM: Final = 3_000.0
"""From end to end: more than the longest person, and than any scanner sees."""
MIN_SLICES: Final = 5
_SHORT_MM: Final = 60.0
"""A kidney is 90 to 130 mm long."""
_SAME_PLACE_MM: Final = 0.02
_EVEN: Final = 0.02
"""Gaps differ by this share from rounding in the files: 0.625 mm is written as 0.62 and 0.63."""
_NEARLY_EVEN: Final = 0.10
_STRAYED: Final = 1.0
"""Of a distance: so far a slice may lie from where even ones would, since small differences add up along a series."""
_TURNED: Final = float(np.sin(np.deg2rad(0.5)))
_TILTED: Final = float(np.tan(np.deg2rad(0.5)))
_OUT_OF_LINE: Final = 0.5
"""In pixels."""
_ROUNDED_MM: Final = 0.05
"""Affines are stored as float32, and positions as text."""
_ACQUISITIONS: Final = (attrgetter("acquisition"), attrgetter("acquisition", "gathering"))
_HU_UNITS: Final = ("", "HU", "US")
"""Where the file states no unit, or "unspecified", a CT image is in HU by the standard."""

_UNEVEN = QualityFlag(
    "uneven_spacing",
    "The distances between slices differ by up to a tenth; their mean is used. Volumes may be off by as much.",
)
_SHORT = QualityFlag("few_slices", "The slices cover less than 6 cm: hardly a whole kidney. Check what was exported.")


@dataclass(frozen=True, slots=True, eq=False)
class Stack:
    """Slices in the order of the volume.

    Attributes:
        planes: One a slice.
        affine: As of `renalcore.io.volume.Volume`.
        flags: Doubts.
    """

    planes: tuple[Plane, ...]
    affine: NDArray[np.float64]
    flags: tuple[QualityFlag, ...]


def stack(planes: Sequence[Plane], name: str) -> Stack:
    """The slices of one series as a volume.

    Args:
        planes: CT slices in any order.
        name: What the upload is called, for messages.

    Raises:
        UnreadableFile: They are no volume in HU: the message says why and what to do.
        TooLarge: More voxels, or more millimetres, than can be.
    """
    first = planes[0].picture
    if len(planes) > MAX_SLICES or max(first.rows, first.columns) > MAX_SIDE:
        raise TooLarge(f"{name}: {len(planes)} slices of {first.columns} x {first.rows} px are more than can be read.")
    check_voxels(len(planes), first.rows, first.columns, name)
    corner, orientation, spacing = _geometry(planes, name)
    if {(plane.picture.rows, plane.picture.columns) for plane in planes} != {(first.rows, first.columns)}:
        raise UnreadableFile(f"{name}: the slices have different sizes in pixels. Export one series at a time.")
    if (abs(spacing - spacing[0]) > 0.001 * spacing[0]).any() or not (spacing > 0).all():
        raise UnreadableFile(f"{name}: the slices have different pixel sizes. Export one series at a time.")
    along_columns, along_rows = _directions(orientation, planes, name)
    normal = np.cross(along_columns, along_rows)
    order = np.argsort(corner @ normal, kind="stable")
    planes, corner = [planes[index] for index in order], corner[order]
    flags = _gaps(corner @ normal, planes, name)
    step = _step(corner, normal, float(spacing[0].min()), name)
    if len(planes) < MIN_SLICES:
        few = "one slice" if len(planes) == 1 else f"{len(planes)} slices"
        raise UnreadableFile(f"{name}: only {few}; {MIN_SLICES} are the least. Choose all slices of the series.")
    _check_hu(planes, name)
    affine = np.eye(4)
    affine[:3, 0] = along_columns * spacing[0, 1]
    affine[:3, 1] = along_rows * spacing[0, 0]
    affine[:3, 2], affine[:3, 3] = step, corner[0]
    check_extent((len(planes), first.rows, first.columns), affine, name)
    if float(step @ normal) * (len(planes) - 1) < _SHORT_MM:
        flags.append(_SHORT)
    return Stack(tuple(planes), affine, tuple(flags))


def check_voxels(slices: int, rows: int, columns: int, name: str) -> None:
    """Refuses what would fill the memory.

    Raises:
        TooLarge: More voxels than `MAX_VOXELS`.
    """
    if slices * rows * columns > MAX_VOXELS:
        raise TooLarge(
            f"{name}: {slices} slices of {columns} x {rows} px are more than {MAX_VOXELS // 10**6} million voxels. "
            "Export the abdomen only."
        )


def check_extent(shape: tuple[int, int, int], affine: NDArray[np.float64], name: str) -> None:
    """Refuses what cannot be of this size, such as a file in mm that says metres: what is searched grows with it.

    Args:
        shape: Slices, rows and columns.
        affine: As of `renalcore.io.volume.Volume`.
        name: What the upload is called, for messages.

    Raises:
        TooLarge: More millimetres than `MAX_MM` from end to end.
    """
    longest_mm = float((np.linalg.norm(affine[:3, 2::-1], axis=0) * shape).max())
    if not longest_mm <= MAX_MM:
        raise TooLarge(
            f"{name}: {longest_mm / 1000:.3g} m from end to end, which no scan has: its distances or their unit are "
            "wrong. Export or convert the series again."
        )


def astray(corners: NDArray[np.float64], affine: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which slices are not those of a volume, since `stack` would not make it of them.

    Args:
        corners: `(N, 3)` LPS mm of the first pixel of each slice, in the order of the volume.
        affine: Of the volume: its ends are the first and the last slice, those between need not be quite even.
    """
    step = affine[:3, 2]
    normal = np.cross(affine[:3, 0], affine[:3, 1])
    normal /= np.linalg.norm(normal)
    off = corners - (affine[:3, 3] + np.outer(np.arange(len(corners)), step))
    away = np.asarray(abs(off).max(axis=1) > _ROUNDED_MM)
    if len(corners) > 2:
        gaps, along, step_mm = np.diff(corners @ normal), off @ normal, float(step @ normal)
        usual = _usual(gaps)
        uneven = abs(gaps - usual) > _NEARLY_EVEN * usual
        pixel_mm = float(np.linalg.norm(affine[:3, :2], axis=0).min())
        sideways = np.linalg.norm(off - np.outer(along / step_mm, step), axis=1)
        strayed = (abs(along) > _STRAYED * usual) | (sideways > _beside_mm(pixel_mm, step_mm))
        away[1:-1] = strayed[1:-1] | uneven[:-1] | uneven[1:]
    return away


def separated(planes: Sequence[Plane]) -> tuple[list[list[Plane]], int]:
    """The scans that share a series, where the files tell them apart, and how many slices belong to none of them.

    What is no volume as it is may be phases: told apart where they lie at the very same places, else by the first
    statement that makes each part a volume or leaves it too few slices for one. Only what lies over each other is
    parted so: what lies end to end is one scan, and refused as one where slices are missing.
    """
    whole = list(planes)
    if any(plane.position is None or plane.orientation is None for plane in planes) or _is_volume(planes):
        return [whole], 0
    if _has_doubles(planes):
        for told in _ACQUISITIONS:
            scans = _parted(planes, told)
            if not any(len(scan) < MIN_SLICES or _has_doubles(scan) for scan in scans):
                return scans, 0
    for told in (*_ACQUISITIONS, attrgetter("scanned_at")):
        scans = _parted(planes, told)
        large = [scan for scan in scans if len({plane.position for plane in scan}) >= MIN_SLICES]
        if all(map(_is_volume, large)) and _lie_over_each_other(scans, large):
            return large, len(planes) - sum(map(len, large))
    return [whole], 0


def _parted(planes: Sequence[Plane], told: Callable[[Plane], object]) -> list[list[Plane]]:
    parts: dict[object, list[Plane]] = {}
    for plane in planes:
        parts.setdefault(told(plane), []).append(plane)
    return list(parts.values())


def _is_volume(planes: Sequence[Plane]) -> bool:
    try:
        stack(planes, "")
    except InputError:
        return False
    return True


def _lie_over_each_other(scans: list[list[Plane]], large: list[list[Plane]]) -> bool:
    """Whether each part shares a place with a large one: with another, unless there is but one."""
    along_columns, along_rows = np.array(scans[0][0].orientation, np.float64).reshape(2, 3)
    normal = np.cross(along_columns, along_rows)
    heights = {id(scan): np.array([plane.position for plane in scan]) @ normal for scan in scans}
    spans = {one: (float(found.min()), float(found.max())) for one, found in heights.items()}

    def shared(one: list[Plane], other: list[Plane]) -> bool:
        (low, high), (other_low, other_high) = spans[id(one)], spans[id(other)]
        return low <= other_high and other_low <= high

    return all(any(shared(one, other) for other in large if other is not one or len(large) == 1) for one in scans)


def _has_doubles(planes: Sequence[Plane]) -> bool:
    places = [(plane.position, plane.orientation) for plane in planes]
    return len(set(places)) < len(places)


def _geometry(
    planes: Sequence[Plane], name: str
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    missing = (
        ("position", [plane.position for plane in planes]),
        ("orientation", [plane.orientation for plane in planes]),
        ("pixel size", [plane.spacing for plane in planes]),
    )
    arrays = []
    for what, values in missing:
        without = [plane for plane, value in zip(planes, values, strict=True) if value is None]
        if without:
            raise UnreadableFile(
                f"{name}: {without[0].picture.entry.name} does not state its {what} in the patient, so the slices "
                "cannot be put together. Export the original series from the archive."
            )
        arrays.append(np.array(values, np.float64))
    return arrays[0], arrays[1], arrays[2]


def _directions(
    orientation: NDArray[np.float64], planes: Sequence[Plane], name: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    halves = orientation.reshape(-1, 2, 3)
    skewed = abs((halves[:, 0] * halves[:, 1]).sum(axis=1)) > 0.01
    if skewed.any() or (abs(np.linalg.norm(halves, axis=2) - 1) > 0.01).any():
        raise UnreadableFile(
            f"{name}: rows and columns of the slices are not two directions at a right angle. Export the series again."
        )
    along_columns = halves[0, 0] / np.linalg.norm(halves[0, 0])
    along_rows = halves[0, 1] - (halves[0, 1] @ along_columns) * along_columns
    along_rows /= np.linalg.norm(along_rows)
    turned = np.linalg.norm(halves - halves[0], axis=2).max(axis=1) > _TURNED
    if turned.any():
        raise UnreadableFile(
            f"{name}: the series holds slices of two orientations; {int(turned.sum())} of {len(planes)} are turned "
            f"against the others ({planes[int(turned.argmax())].picture.entry.name}). Export each orientation as a "
            "series of its own."
        )
    return along_columns, along_rows


def _gaps(places: NDArray[np.float64], planes: Sequence[Plane], name: str) -> list[QualityFlag]:
    """Doubts about the distances of sorted slices, in mm along their normal."""
    gaps = np.diff(places)
    if not len(gaps):
        return []
    doubled = gaps < _SAME_PLACE_MM
    if doubled.any():
        place = int(doubled.argmax())
        pair = " and ".join(plane.picture.entry.name for plane in planes[place : place + 2])
        raise UnreadableFile(
            f"{name}: slices are doubled; {int(doubled.sum()) + 1} of {len(planes)} share their place with another "
            f"({pair}). Export one phase or reconstruction at a time."
        )
    usual = _usual(gaps)
    worst = int(abs(gaps - usual).argmax())
    off = abs(float(gaps[worst]) / usual - 1)
    between = f"between {planes[worst].picture.entry.name} and {planes[worst + 1].picture.entry.name}"
    if planes[worst].picture.entry.name == planes[worst + 1].picture.entry.name:
        between = f"between slices {worst + 1} and {worst + 2} of {planes[worst].picture.entry.name}"
    strayed = float(abs(places - np.linspace(places[0], places[-1], len(places))).max()) / usual
    if off <= _EVEN and strayed <= _STRAYED:
        return []
    if off <= _NEARLY_EVEN and strayed <= _STRAYED:
        return [_UNEVEN]
    multiples = np.rint(gaps / usual)
    if (abs(gaps / usual - multiples) <= _NEARLY_EVEN).all() and (multiples >= 1).all() and (multiples > 1).any():
        lacking = int((multiples - 1).sum())
        where = f"is missing, {between}" if lacking == 1 else f"are missing, most of them {between}"
        raise UnreadableFile(
            f"{name}: {lacking} of {int(multiples.sum()) + 1} slices {where}, {gaps[worst]:.2f} mm apart instead of "
            f"{usual:.2f}. Export the series again with every slice."
        )
    raise UnreadableFile(
        f"{name}: the slices are unevenly spaced, from {gaps.min():.2f} to {gaps.max():.2f} mm, most unlike the others "
        f"{between}. Export the series again, or a reconstruction with even spacing."
    )


def _usual(gaps: NDArray[np.float64]) -> float:
    """The distance that most slices have, in mm; of three gaps the middle one may be the wrong one."""
    return float(np.median(gaps) if len(gaps) >= 4 else gaps.min())


def _step(corner: NDArray[np.float64], normal: NDArray[np.float64], pixel_mm: float, name: str) -> NDArray[np.float64]:
    """From one slice to the next, in mm."""
    if len(corner) == 1:
        return normal
    step = (corner[-1] - corner[0]) / (len(corner) - 1)
    along = float(step @ normal)
    sideways = float(np.linalg.norm(step - along * normal))
    if sideways > _TILTED * along:
        degrees = float(np.rad2deg(np.arctan2(sideways, along)))
        raise UnreadableFile(
            f"{name}: the gantry was tilted by {degrees:.0f} degrees, so each slice is shifted against the one before. "
            "Reconstruct the scan without tilt."
        )
    line = corner[0] + np.outer((corner - corner[0]) @ normal / along, step)
    if np.linalg.norm(corner - line, axis=1).max() > _beside_mm(pixel_mm, along):
        raise UnreadableFile(
            f"{name}: the slices do not lie straight behind each other. Export one series with one field of view."
        )
    return np.asarray(step)


def _beside_mm(pixel_mm: float, step_mm: float) -> float:
    """How far beside the line through the others a slice may lie."""
    return max(_OUT_OF_LINE * pixel_mm, 0.05 * step_mm)


def _check_hu(planes: Sequence[Plane], name: str) -> None:
    for plane in planes:
        if plane.slope is None or plane.intercept is None or plane.slope == 0:
            raise UnreadableFile(
                f"{name}: {plane.picture.entry.name} does not state how its numbers become Hounsfield units (rescale "
                "slope and intercept). Export the original series from the archive."
            )
        if plane.unit not in _HU_UNITS:
            raise UnreadableFile(
                f"{name}: {plane.picture.entry.name} is not in Hounsfield units but a map computed from the scan. "
                "Choose the series of ordinary CT images."
            )
