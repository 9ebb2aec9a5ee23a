"""Axial slices of real patients, grown into the samples that the three steps are trained on.

Real scans with labels are hard to come by, single slices of them less so: those of KiTS19 with their tumours and cysts,
and those of CURVAS. A slice is put above itself, moved, scaled and made noisy a little from height to height; its
kidneys end above and below as kidneys do, in fat. So a network sees the brightness and the texture of real organs
beside those that are drawn; the shapes along the body are not real, and nothing is validated on such a sample.
`renalcore.ct.planes` judges what is found in the plane of a slice that was not trained on.

Pictures hold HU cut to 0..255. What is 0 within the body is taken for fat, and in closed pieces also for gas.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from renalcore.ct.steps import AIR_HU, CYST, KIDNEY, TUMOUR, Grid
from renalcore.errors import InputError, UnreadableFile

PIXEL_MM: Final = 0.78
"""Where the pixels of a slice have no known size: that of a field of 400 mm, the most usual."""

_FAT_HU: Final = (-100.0, 14.0)
_GAS_HU: Final = -900.0
_BODY_PX: Final = 20_000
"""Pixels that the body covers at least."""
_BORDER_MM: Final = 2.0
"""At the border of a tumour its HU are mixed with those of what lies beside it."""
_LEAST_SQUARE_MM: Final = 12.0
_MOST_CUT: Final = 0.05
"""Share of the pixels of a texture that may have been cut off at 0 or 255."""
_YELLOW: Final = (0, 255, 255)
"""Kidneys in the masks of CURVAS, as OpenCV reads it."""


@dataclass(frozen=True, slots=True)
class Slice:
    """One labelled slice, seen from the feet as usual: the patient's right is on the left.

    Attributes:
        group: The patient.
        image: 8-bit picture, HU cut to 0..255.
        labels: 8-bit picture of labels of KiTS, or one in colours with yellow kidneys.
        pixel_mm: Size of its pixels.
    """

    group: str
    image: Path
    labels: Path
    pixel_mm: float


@dataclass(frozen=True, slots=True, eq=False)
class Texture:
    """What a square within a real tumour has beside its mean.

    Attributes:
        group: The patient.
        hu: `(N, N)` float32 of mean 0.
        pixel_mm: Size of its pixels.
    """

    group: str
    hu: NDArray[np.float32]
    pixel_mm: float


def read_slices(folder: Path) -> list[Slice]:
    """The slices of a folder, by name.

    It holds `index.csv` (name, case, spacing as `2.5x0.74x0.74`) with `images` and `labels_kits23`, as the slices of
    KiTS19 here; or folders `images` and `masks`, at any depth, of pictures called `PATIENT_NUMBER.png`, as CURVAS.

    Raises:
        InputError: The folder holds neither, or a picture has no labels.
    """
    index = folder / "index.csv"
    if index.is_file():
        with index.open(newline="", encoding="utf-8") as lines:
            rows = {row["name"]: row for row in csv.DictReader(lines)}
        images = {path: folder / "labels_kits23" / path.name for path in sorted((folder / "images").glob("*.png"))}
        known = {path: rows[path.stem] for path in images if path.stem in rows}
        found = [
            Slice(row["case"], path, images[path], float(row["spacing"].split("x")[-1])) for path, row in known.items()
        ]
    else:
        found = [
            Slice(path.stem.rpartition("_")[0], path, path.parent.with_name("masks") / path.name, PIXEL_MM)
            for path in sorted(folder.rglob("images/*.png"))
        ]
    if not found:
        raise InputError(f"{folder} holds no slices: neither index.csv with images, nor folders images and masks")
    if without := [each.image.name for each in found if not each.labels.is_file()]:
        raise InputError(f"{folder} has no labels of {without[0]} ({len(without)} in all); copy them there")
    return found


def tumour_textures(slices: Sequence[Slice]) -> list[Texture]:
    """The largest square within each tumour, clear of its border, where few of its HU were cut off.

    Cysts give none: they are even (2 HU once noise is smoothed) and dark, so that pictures cut off what they have.

    Raises:
        UnreadableFile: As `grow`.
    """
    found = []
    for each in slices:
        image, labels = _pictures(each)
        for box in ndimage.find_objects(ndimage.label(labels == TUMOUR)[0]):
            depth_mm = ndimage.distance_transform_edt(np.pad(labels[box] == TUMOUR, 1), sampling=each.pixel_mm)
            row, column = np.unravel_index(depth_mm.argmax(), depth_mm.shape)
            half = int((depth_mm.max() - _BORDER_MM) / np.sqrt(2) / each.pixel_mm)
            if (2 * half + 1) * each.pixel_mm < _LEAST_SQUARE_MM:
                continue
            top, left = box[0].start - 1 + int(row) - half, box[1].start - 1 + int(column) - half
            square = image[top : top + 2 * half + 1, left : left + 2 * half + 1]
            if ((square == 0) | (square == 255)).mean() <= _MOST_CUT:
                hu = square.astype(np.float32)
                found.append(Texture(each.group, hu - hu.mean(), each.pixel_mm))
    return found


def grow(
    of: Slice, seed: int, *, slices: int, slice_mm: float, pixel_mm: float
) -> tuple[NDArray[np.int16], NDArray[np.uint8], Grid]:
    """A volume around a slice, which lies in its middle.

    Args:
        of: The slice.
        seed: Of everything that is drawn.
        slices: How many the volume has.
        slice_mm: Their distance.
        pixel_mm: Size of its pixels, no finer than those of the slice.

    Returns:
        HU and labels of KiTS `(slices, H, W)`, and the grid.

    Raises:
        UnreadableFile: A picture cannot be read, or the two differ in size.
    """
    rng = np.random.default_rng(seed)
    hu, labels = _read(of, rng)
    mm = max(pixel_mm, of.pixel_mm)
    if mm > of.pixel_mm:
        across = (round(hu.shape[1] * of.pixel_mm / mm), round(hu.shape[0] * of.pixel_mm / mm))
        hu = cv2.resize(hu, across, interpolation=cv2.INTER_AREA)
        labels = cv2.resize(labels, across, interpolation=cv2.INTER_NEAREST)
    pieces = [_Piece.drawn(piece, mm, rng) for piece in _kidneys(labels)]
    heights = slice_mm * (np.arange(slices) - (slices - 1) / 2)
    waves = [_wave(heights, rng) for _ in range(3)]
    noise_hu = rng.uniform(0, 15)
    grown = np.empty((slices, *hu.shape), np.int16)
    named = np.empty((slices, *hu.shape), np.uint8)
    across = (hu.shape[1], hu.shape[0])
    middle = (np.array(across) - 1) / 2
    for number, height in enumerate(heights):
        plane, told = hu.copy(), labels.copy()
        for piece in pieces:
            beyond = piece.ended(height)
            plane[beyond] = rng.normal(*_FAT_HU, np.count_nonzero(beyond))
            told[beyond] = 0
        size = 1 + 0.05 * waves[0][number]
        shift = middle - size * middle + np.array([waves[1][number], waves[2][number]]) * 5 / mm
        matrix = np.array([[size, 0, shift[0]], [0, size, shift[1]]])
        plane = cv2.warpAffine(plane, matrix, across, flags=cv2.INTER_LINEAR, borderValue=AIR_HU)
        noise = rng.standard_normal(hu.shape, np.float32)
        plane += cv2.GaussianBlur(noise, (0, 0), 0.8) * np.float32(2.8 * noise_hu)  # the blur leaves 1 / 2.8 of it
        grown[number] = np.clip(np.rint(plane), -1024, 3071)
        named[number] = cv2.warpAffine(told, matrix, across, flags=cv2.INTER_NEAREST)
    affine = np.diag([mm, mm, slice_mm, 1.0])
    affine[:3, 3] = [-middle[0] * mm, -middle[1] * mm, heights[0]]
    return grown, named, Grid((slices, hu.shape[0], hu.shape[1]), affine)


@dataclass(frozen=True, slots=True, eq=False)
class _Piece:
    """One kidney of a slice with its lesions, as half of an ellipsoid above and below it.

    Attributes:
        depth_mm: `(H, W)`, how far inside of it a pixel lies; 0 outside.
        radius_mm: The greatest depth.
        middle_mm: Height of its middle above the slice.
        half_mm: Half its length.
    """

    depth_mm: NDArray[np.float32]
    radius_mm: float
    middle_mm: float
    half_mm: float

    @classmethod
    def drawn(cls, mask: NDArray[np.bool_], mm: float, rng: np.random.Generator) -> _Piece:
        depth = ndimage.distance_transform_edt(mask, sampling=mm).astype(np.float32)
        radius = float(depth.max())
        half = float(np.clip(rng.uniform(1.8, 2.7) * radius, 20, 90))
        return cls(depth, radius, half * rng.uniform(-0.5, 0.5), half)

    def ended(self, height_mm: float) -> NDArray[np.bool_]:
        """Where it is no longer there at a height; in the slice itself it is whole."""
        away = (height_mm - self.middle_mm) / self.half_mm
        if abs(away) >= 1:
            return self.depth_mm > 0
        here = np.sqrt(1 - (self.middle_mm / self.half_mm) ** 2)
        thinner = self.radius_mm * (here - np.sqrt(1 - away**2))
        ended: NDArray[np.bool_] = (self.depth_mm > 0) & (self.depth_mm < thinner)
        return ended


def _pictures(of: Slice) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """What a slice shows, HU cut to 0..255, and its labels."""
    image: Any = cv2.imread(str(of.image), cv2.IMREAD_GRAYSCALE)
    labels: Any = cv2.imread(str(of.labels), cv2.IMREAD_UNCHANGED)
    if image is None or labels is None or image.shape != labels.shape[:2]:
        raise UnreadableFile(f"{of.image.name} and its labels are not two pictures of one size; copy them again")
    if labels.ndim == 3:
        labels = np.where((labels[..., :3] == _YELLOW).all(-1), np.uint8(KIDNEY), np.uint8(0))
    if labels.max(initial=0) > CYST:
        raise UnreadableFile(f"{of.labels.name}: labels are 1 kidney, 2 tumour and 3 cyst; others stand there")
    return image, labels


def _read(of: Slice, rng: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    image, labels = _pictures(of)
    hu = image.astype(np.float32)
    nothing = image == 0
    body = _body(~nothing)
    fat = rng.normal(*_FAT_HU, hu.shape).astype(np.float32)
    hu[nothing] = AIR_HU
    hu[nothing & body] = cv2.GaussianBlur(fat, (0, 0), 0.7)[nothing & body]
    closed, count = ndimage.label(nothing & body)
    sizes = np.bincount(closed.ravel(), minlength=count + 1)
    sizes[0] = 0
    for number in np.flatnonzero((sizes > 30) & (sizes < sizes.max(initial=0))):  # the largest is the fat
        if rng.random() < 0.5:
            hu[closed == number] = _GAS_HU
    hu[image == 255] += rng.uniform(0, 200)
    return hu, labels


def _body(bright: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The patient, filled: the largest bright piece once skin and muscles are joined."""
    joined = ndimage.binary_closing(np.pad(bright, 12), iterations=6)[12:-12, 12:-12]
    pieces, _ = ndimage.label(ndimage.binary_fill_holes(joined))
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    if sizes.max(initial=0) < _BODY_PX:
        return np.zeros(bright.shape, np.bool_)
    body: NDArray[np.bool_] = pieces == sizes.argmax()
    return body


def _kidneys(labels: NDArray[np.uint8]) -> list[NDArray[np.bool_]]:
    pieces, count = ndimage.label(labels > 0, np.ones((3, 3)))
    return [pieces == number for number in range(1, count + 1)]


def _wave(heights: NDArray[np.floating[Any]], rng: np.random.Generator) -> NDArray[np.float64]:
    """A curve within -1..1 that is 0 in the slice itself."""
    at: Sequence[float] = rng.uniform(60, 160, 2).tolist()
    bent = sum(rng.uniform(-0.5, 0.5) * np.sin(heights / length * np.pi) for length in at)
    return np.asarray(bent, np.float64)
