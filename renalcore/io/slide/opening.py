"""What a file is, told by its content, and the reader for it; what is no slide is refused with the reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from renalcore.errors import TooLarge, UnreadableFile
from renalcore.io.image import DECODER_ERRORS, DEFAULT_LIMITS, READERS, media_type, read_picture, read_size, safe_name
from renalcore.io.slide.mirax import check_mrxs
from renalcore.io.slide.packed import without_folder
from renalcore.io.slide.scale import agreed
from renalcore.io.slide.slide import Level, Slide, Source
from renalcore.io.slide.tiff import TiffSource, is_complete
from renalcore.io.slide.vendors import VendorSource, vendor_of
from renalcore.types import QualityFlag

MAX_PIXELS: Final = 40_000_000_000
"""A whole glass, 25 x 75 mm, at 0.22 um a pixel. What claims to be larger was not scanned."""

_PICTURE_LIMITS: Final = replace(DEFAULT_LIMITS, max_bytes=400 * 2**20)
_FORMATS: Final[Mapping[str, str]] = {
    "image/jpeg": "JPEG",
    "image/png": "PNG",
    "image/tiff": "TIFF",
    "image/bmp": "BMP",
    "image/webp": "WebP",
}
_REMEDIES: Final[Mapping[str, str]] = {
    "application/zip": "a zip archive; unpack it and choose the slide in it",
    "application/vnd.rar": "a rar archive; unpack it and choose the slide in it",
    "application/x-7z-compressed": "a 7z archive; unpack it and choose the slide in it",
    "application/gzip": "a compressed file; unpack it and choose the slide in it",
    "application/pdf": "a PDF document; export the slide itself",
    "application/dicom": "a DICOM file, but not of a slide (VL Whole Slide Microscopy); choose the slide's own files",
    "image/heif": "a HEIC or AVIF photograph; set the phone's camera to JPEG ('most compatible') and take it again",
    "text/plain": "text, not a slide; choose the slide itself",
}
_SAMPLE_PX: Final = 64
# Brightest channel, 0..255. Glass and stroma of stained sections are above 150; the background of fluorescence is below
# 40 in colour, and in one channel that was stretched below 100, with what glows standing far above it.
_DARK_MEDIAN: Final = 40
_DARK_GREY_MEDIAN: Final = 100
_GREY_SPREAD: Final = 12
_TISSUE_BELOW: Final = 225

_DARK_BACKGROUND = QualityFlag(
    "dark_background",
    "The picture is bright on black, as fluorescence is. Glomeruli can be searched in stained sections only.",
)
_NO_COLOUR = QualityFlag(
    "no_colour", "The picture has no colour. Glomeruli are known by their stain; check every one by eye."
)
_CAMERA = QualityFlag(
    "camera_picture",
    "A camera or phone took this picture, not a slide scanner. Check that it shows a stained section.",
)


def open_slide(path: Path, *, name: str | None = None, um_per_px: float | None = None) -> Slide:
    """A slide, or a picture of a section, open for reading; close it, or use it in a `with` statement.

    Args:
        path: The file. Of a slide in many files (MRXS, DICOM, VMS): the `.mrxs` or `.vms` file, or any of the others.
        name: What the user calls it, where the path does not say; only the base name is kept and shown.
        um_per_px: Micrometres a pixel of level 0, where the user knows what the file does not say.

    Raises:
        UnreadableFile: It is no slide or picture that can be read, is broken, cut off, empty or too small, shows
            fluorescence or time, or lacks files that belong to it.
        TooLarge: It has more pixels than can be.
        InputError: `um_per_px` differs from what the file states by more than 10 %.
        ValueError: `um_per_px` is not positive.
    """
    name = safe_name(path.name if name is None else name)
    kind = _kind(path, name)
    vendor = vendor_of(path)
    source: Source
    if vendor is not None:
        if kind == "image/tiff" and not is_complete(path):
            raise UnreadableFile(f"{name}: the file ends too early; it was cut off while it was copied. Copy it again.")
        if vendor == "mirax":
            check_mrxs(path, name=name)
        source = VendorSource(path, vendor, name=name)
    elif path.suffix.lower() == ".mrxs":  # by itself a JPEG, which may show the label
        raise without_folder(name)
    elif kind == "image/tiff":
        source = _tiff(path, name)
    elif kind in READERS:
        source = _picture(path, kind, name)
    else:
        what = _REMEDIES.get(kind, "neither a slide nor a picture that can be read; export it as OME-TIFF")
        raise UnreadableFile(f"{name}: this is {what}.")
    try:
        _check_size(source.levels[0], name)
        scale = agreed(source.um_per_px, um_per_px, name=name)
        flags = (*source.flags, *_doubts(_samples(source)))
    except BaseException:
        source.close()
        raise
    return Slide(source, name=name, um_per_px=scale, flags=flags)


class PictureSource:
    """A picture small enough to be held whole, as `renalcore.io.image` reads it."""

    def __init__(
        self, pixels: NDArray[np.uint8], *, format: str, um_per_px: float | None = None,  # noqa: A002
        objective: float | None = None, flags: tuple[QualityFlag, ...] = (),
    ) -> None:  # fmt: skip
        """From `(H, W, 3)` uint8 RGB pixels and what their file states."""
        self._pixels = pixels
        self.format = format
        self.levels = (Level(pixels.shape[1], pixels.shape[0], 1.0),)
        self.um_per_px = um_per_px
        self.objective = objective
        self.flags = flags
        self.in_bands = False

    def region(self, level: int, left: int, top: int, width: int, height: int) -> NDArray[np.uint8]:
        """See `Source.region`."""
        return self._pixels[top : top + height, left : left + width].copy()

    def close(self) -> None:
        """See `Source.close`."""


def _kind(path: Path, name: str) -> str:
    try:
        if path.is_dir():
            raise UnreadableFile(f"{name}: this is a folder. Name the slide's file, or any one of its files, in it.")
        with path.open("rb") as stream:
            head = stream.read(512)
    except OSError as error:
        raise UnreadableFile(
            f"{name}: the file cannot be opened ({error.strerror or 'unreadable'}). Check its name and place."
        ) from error
    if not head:
        raise UnreadableFile(f"{name}: the file is empty (0 bytes). Copy it again.")
    return media_type(head)


def _tiff(path: Path, name: str) -> Source:
    """Regions of the file where it is a usual TIFF or too large to be held; else the whole picture, by Pillow."""
    source = TiffSource(path, name=name)
    stated = source.stated
    try:
        small = stated.width_px * stated.height_px <= _PICTURE_LIMITS.max_pixels
        if stated.plain or not small or not stated.first:
            _check_size(Level(stated.width_px, stated.height_px, 1.0), name)
            source.prepare()
            return source
    except BaseException:
        source.close()
        raise
    source.close()
    pixels, flags = read_picture(path, name=name, limits=_PICTURE_LIMITS)
    return PictureSource(
        pixels, format=stated.format, um_per_px=stated.um_per_px, objective=stated.objective,
        flags=tuple(dict.fromkeys((*stated.flags, *flags))),
    )  # fmt: skip


def _picture(path: Path, kind: str, name: str) -> Source:
    width, height = read_size(path)
    if width * height > _PICTURE_LIMITS.max_pixels:
        raise TooLarge(
            f"{name}: a {_FORMATS[kind]} of {width} x {height} px has to be opened whole, which is done up to "
            f"{_PICTURE_LIMITS.max_pixels / 1e6:.0f} million px. Export the slide as a pyramid TIFF or OME-TIFF."
        )
    pixels, flags = read_picture(path, name=name, limits=_PICTURE_LIMITS)
    camera = (_CAMERA,) if kind == "image/jpeg" and _by_camera(path) else ()
    return PictureSource(pixels, format=_FORMATS[kind], flags=(*flags, *camera))


def _by_camera(path: Path) -> bool:
    """Whether a JPEG names the maker or the model of a camera."""
    try:
        with READERS["image/jpeg"](path) as image:
            exif = Image.Image.getexif(image)
            return ExifTags.Base.Make in exif or ExifTags.Base.Model in exif
    except DECODER_ERRORS:
        return False  # broken remarks in a picture that was read


def _check_size(full: Level, name: str) -> None:
    if full.width_px * full.height_px > MAX_PIXELS:
        raise TooLarge(
            f"{name}: the file claims {full.width_px} x {full.height_px} px, more than a scanner makes of a whole "
            "glass. It is damaged; copy it from the scanner again."
        )
    if min(full.width_px, full.height_px) < DEFAULT_LIMITS.min_side_px:
        raise UnreadableFile(
            f"{name}: the picture has only {full.width_px} x {full.height_px} px; a section needs at least "
            f"{DEFAULT_LIMITS.min_side_px} px a side. Choose the original, not its thumbnail."
        )


def _samples(source: Source) -> NDArray[np.uint8]:
    """Sixteen windows spread over the smallest stored level, as `(N, 3)` pixels."""
    index = len(source.levels) - 1
    level = source.levels[index]
    width, height = min(_SAMPLE_PX, level.width_px), min(_SAMPLE_PX, level.height_px)
    lefts = [step * (level.width_px - width) // 3 for step in range(4)]
    tops = [step * (level.height_px - height) // 3 for step in range(4)]
    windows = [source.region(index, left, top, width, height) for top in tops for left in lefts]
    return np.concatenate([window.reshape(-1, 3) for window in windows])


def _doubts(samples: NDArray[np.uint8]) -> tuple[QualityFlag, ...]:
    brightest = samples.max(axis=1)
    darkest, middle, lightest = np.percentile(brightest, (1, 50, 99))
    tissue = samples[(brightest < _TISSUE_BELOW) & (brightest > _DARK_MEDIAN)]
    spread = tissue.max(axis=1).astype(int) - tissue.min(axis=1)
    grey = len(tissue) > len(samples) // 100 and np.percentile(spread, 95) < _GREY_SPREAD
    glows = grey and middle < _DARK_GREY_MEDIAN and lightest - middle > 2 * (middle - darkest)
    if middle < _DARK_MEDIAN or glows:
        return (_DARK_BACKGROUND,)
    return (_NO_COLOUR,) if grey else ()
