"""OME-TIFF and plain TIFF, tiled or in strips, pyramid or not, through tifffile: only the pieces that are asked for."""

from __future__ import annotations

import logging
import re
import struct
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from renalcore.errors import UnreadableFile
from renalcore.io.image import DECODER_ERRORS, full_scale
from renalcore.io.slide.slide import Level
from renalcore.io.slide.stated import Stated, objective_of, ome_of, scale_of
from renalcore.types import QualityFlag

# Its remarks on files name them, and a file's name may be a patient's; what matters in them is an error of ours.
logging.getLogger("tifffile").setLevel(logging.CRITICAL)

_CACHE_BYTES: Final = 64 * 2**20
_STRIP_BYTES: Final = 4 * 2**20
"""An uncompressed picture stored as one strip is read in pieces of this size."""
_PIECE_BYTES: Final = 512 * 2**20
"""What has to be decoded at once may not be larger: a compressed picture of 13,000 px in one piece."""
_SAME_SHAPE: Final = 0.03
"""Levels of a pyramid are as wide for their height as level 0, to within rounding; other pictures hardly ever are."""
_NONE, _JPEG, _JPEG_2000 = 1, 7, (33003, 33004, 33005, 34712)
_COMPRESSIONS: Final = {_NONE, 5, _JPEG, 8, 32773, 32946, *_JPEG_2000, 50000, 50001}
"""None, LZW, JPEG, deflate, PackBits, JPEG 2000, zstd and WebP: a piece cannot grow far beyond its place in these."""
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _YCBCR = 0, 1, 2, 3, 6
HIDDEN: Final = re.compile("label|macro|overview|barcode", re.IGNORECASE)
"""In the name of a picture that shows the label or the whole glass, which may carry the patient's name."""
_FLUORESCENT: Final = ("EmissionWavelength", "Fluor")

_REDUCED_DEPTH = QualityFlag("reduced_depth", "The slide has more than 8 bits a channel and was scaled down to 8.")
_FIRST_FRAME_ONLY = QualityFlag(
    "first_frame_only",
    "The file holds several pictures; only the first is read. Save the others as their own files.",
)
_ONE_PLANE = QualityFlag(
    "one_plane", "The slide was focused at several depths; only the middle one is read. Check that it is sharp."
)
_UNLIKELY_SCALE = QualityFlag(
    "unlikely_scale", "The scale that the file states cannot be right and is not used. Enter the scale by hand."
)


class TiffSource:
    """An open TIFF file."""

    def __init__(self, path: Path, *, name: str) -> None:
        """Opens a file that begins as a TIFF does.

        Raises:
            UnreadableFile: It is damaged, cut off, fluorescence, a time series, or holds no picture.
        """
        import tifffile

        self._name = name
        try:
            self._tiff = tifffile.TiffFile(path, _multifile=False)
        except DECODER_ERRORS as error:
            raise _damaged(name) from error
        try:
            self._open()
        except UnreadableFile:
            self._tiff.close()
            raise
        except DECODER_ERRORS as error:
            self._tiff.close()
            raise _damaged(name) from error

    def _open(self) -> None:
        pictures = _pictures(self._tiff)
        if not pictures:
            raise UnreadableFile(
                f"{self._name}: the TIFF file holds no picture; it was cut off while it was copied. Copy it again."
            )
        main, *others = pictures
        ome = ome_of(self._tiff.ome_metadata, main.keyframe) if self._tiff.is_ome else None
        _refuse_channels(main, ome, self._name)
        plane, flags = _plane(main)
        key = main.keyframe
        um_per_px, stated = scale_of(self._tiff, key, ome)
        if um_per_px is None and stated:
            flags = (*flags, _UNLIKELY_SCALE)
        pages = [(level.keyframe, _page(level, plane)) for level in main.levels]
        pages += [(one.keyframe, _page(one, 0)) for one in others]
        pages.sort(key=lambda pair: -pair[0].imagewidth)
        size = self._tiff.filehandle.size
        self._stored = [_Stored.of(frame, page, size, self._tiff.byteorder, self._name) for frame, page in pages]
        plain = key.bitspersample == 8 and key.photometric in {_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _YCBCR}
        self._full = 255.0
        self._cache: OrderedDict[tuple[int, int, int], NDArray[Any]] = OrderedDict()
        self._cached_bytes = 0
        self._lock = threading.Lock()
        self.stated = Stated(
            "OME-TIFF" if ome is not None else "TIFF",
            key.imagewidth,
            key.imagelength,
            plain and key.dtype == np.uint8,
            main.keyframe.index == 0,
            um_per_px,
            objective_of(ome),
            flags,
        )

    def prepare(self) -> None:
        """Makes the pixels readable by region, which only some kinds of TIFF are.

        Raises:
            UnreadableFile: It is a kind whose regions cannot be read, or a picture in one compressed piece.
        """
        key = self._stored[0]
        depth = key.dtype in (np.uint8, np.uint16)
        colours = {_WHITE_IS_ZERO: 1, _BLACK_IS_ZERO: 1, _PALETTE: 1, _RGB: 3, _YCBCR: 3}.get(key.photometric)
        known = all(stored.compression in _COMPRESSIONS for stored in self._stored)
        if not depth or colours is None or not colours <= key.samples <= 4 or not known:
            raise UnreadableFile(
                f"{self._name}: a TIFF of this kind (CMYK, 32 bits, numbers with a fraction or a rare compression) "
                "cannot be read by region. Export the slide as an 8-bit RGB pyramid TIFF."
            )
        if any(stored.piece_bytes > _PIECE_BYTES for stored in self._stored):
            raise UnreadableFile(
                f"{self._name}: the picture is compressed in one piece, which would have to be opened whole. "
                "Export it as a tiled pyramid TIFF."
            )
        self.levels = tuple(
            Level(one.width, one.height, (key.width / one.width + key.height / one.height) / 2) for one in self._stored
        )
        self.format = self.stated.format
        self.um_per_px = self.stated.um_per_px
        self.objective = self.stated.objective
        self.flags = self.stated.flags
        self.in_bands = key.piece_width >= key.width
        if key.dtype == np.uint16 and key.photometric != _PALETTE:
            self.flags = (*self.flags, _REDUCED_DEPTH)
            self._full = self._brightest()

    def region(self, level: int, left: int, top: int, width: int, height: int) -> NDArray[np.uint8]:
        """See `Source.region`."""
        stored = self._stored[level]
        try:
            return stored.to_rgb(self._samples(level, left, top, width, height), self._full)
        except DECODER_ERRORS as error:
            raise UnreadableFile(
                f"{self._name}: a part of the slide is damaged or of a variant that cannot be read. Copy it from its "
                "source again, or export it as a pyramid TIFF."
            ) from error

    def close(self) -> None:
        """See `Source.close`."""
        self._tiff.close()

    def _samples(self, level: int, left: int, top: int, width: int, height: int) -> NDArray[Any]:
        """`(height, width, samples)` of a window, as they are stored."""
        stored = self._stored[level]
        result = np.empty((height, width, stored.samples), stored.dtype)
        planes = stored.samples if stored.separate else 1
        for plane in range(planes):
            target = result[..., plane : plane + 1] if stored.separate else result
            for row in range(top // stored.piece_height, (top + height - 1) // stored.piece_height + 1):
                for column in range(left // stored.piece_width, (left + width - 1) // stored.piece_width + 1):
                    piece = self._piece(level, plane, row * stored.across + column)
                    y, x = row * stored.piece_height, column * stored.piece_width
                    y1, y2 = max(y, top), min(y + stored.piece_height, top + height)
                    x1, x2 = max(x, left), min(x + stored.piece_width, left + width)
                    target[y1 - top : y2 - top, x1 - left : x2 - left] = piece[y1 - y : y2 - y, x1 - x : x2 - x]
        return result

    def _piece(self, level: int, plane: int, index: int) -> NDArray[Any]:
        """One tile or strip, decoded."""
        key = level, plane, index
        stored = self._stored[level]
        number = plane * stored.per_plane + index
        with self._lock:
            if key in self._cache:
                self._cache.move_to_end(key)
                return self._cache[key]
            self._tiff.filehandle.seek(stored.offsets[number])
            content = self._tiff.filehandle.read(stored.counts[number])
        piece = stored.decoded(content, number)
        with self._lock:
            if key not in self._cache:
                self._cache[key] = piece
                self._cached_bytes += piece.nbytes
            while self._cached_bytes > _CACHE_BYTES and len(self._cache) > 1:
                self._cached_bytes -= self._cache.popitem(last=False)[1].nbytes
        return piece

    def _brightest(self) -> float:
        """What 16-bit samples become 255, told by samples of the smallest level; see `renalcore.io.image`."""
        level = len(self._stored) - 1
        stored = self._stored[level]
        side = min(64, stored.width, stored.height)
        corners = [(step * (stored.width - side) // 3, step * (stored.height - side) // 3) for step in range(4)]
        try:
            samples = [self._samples(level, x, y, side, side)[..., :3] for x, _ in corners for _, y in corners]
        except DECODER_ERRORS as error:
            raise _damaged(self._name) from error
        return full_scale(np.stack(samples))


def is_complete(path: Path) -> bool:
    """Whether a TIFF file reaches as far as its own directory says; True for what tifffile cannot tell."""
    import tifffile

    try:
        with tifffile.TiffFile(path, _multifile=False) as tiff:
            return all(_end(page) <= tiff.filehandle.size for page in tiff.pages)
    except DECODER_ERRORS:
        return True  # a dialect of a scanner: OpenSlide, which knows it, has opened it


@dataclass(frozen=True, slots=True)
class _Stored:
    """One level as it lies in the file: a grid of pieces, of which `across` lie side by side."""

    width: int
    height: int
    piece_width: int
    piece_height: int
    across: int
    per_plane: int
    samples: int
    separate: bool
    dtype: np.dtype[Any]
    photometric: int
    compression: int
    opacity: bool
    palette: NDArray[np.uint8] | None
    offsets: Sequence[int]
    counts: Sequence[int]
    decode: Callable[[bytes, int], NDArray[Any]]

    @classmethod
    def of(cls, key: Any, page: Any, size: int, byteorder: str, name: str) -> _Stored:
        """From tifffile's page (`key` holds its geometry), in a file of `size` bytes."""
        separate = key.planarconfig == 2 and key.samplesperpixel > 1
        planes = key.samplesperpixel if separate else 1
        tiled = bool(key.is_tiled)
        piece_width = key.tilewidth if tiled else key.imagewidth
        piece_height = key.tilelength if tiled else min(key.rowsperstrip, key.imagelength)
        offsets, counts = list(page.dataoffsets), list(page.databytecounts)
        if _end(page) > size:
            raise UnreadableFile(f"{name}: the file ends too early; it was cut off while it was copied. Copy it again.")
        tables, header = page.jpegtables, key.jpegheader
        inner = 1 if separate else key.samplesperpixel
        # Made now: tifffile reads tags for it, which would move the file under another thread's read of a piece.
        decode_piece = key.decode
        row_bytes = piece_width * inner * key.dtype.itemsize

        def decode(content: bytes, number: int) -> NDArray[Any]:
            _refuse_bomb(content, int(key.compression), piece_width, piece_height)
            decoded = decode_piece(content, number, jpegtables=tables, jpegheader=header)[0]
            if decoded is None:
                raise ValueError("a piece of the picture holds nothing")
            return np.asarray(decoded[0])

        whole = (
            not tiled and key.compression == _NONE and key.predictor == 1 and key.fillorder == 1 and key.is_contiguous
        )
        if whole and piece_height * row_bytes > _STRIP_BYTES:
            stored_as = np.dtype(byteorder + key.dtype.char)
            piece_height = max(1, _STRIP_BYTES // row_bytes)
            start = offsets[0]
            tops = range(0, key.imagelength, piece_height)
            heights = [min(piece_height, key.imagelength - top) for top in tops]
            plane_bytes = key.imagelength * row_bytes
            offsets = [start + plane * plane_bytes + top * row_bytes for plane in range(planes) for top in tops]
            counts = [height * row_bytes for height in heights] * planes

            def decode(content: bytes, number: int) -> NDArray[Any]:
                return np.frombuffer(content, stored_as).reshape(-1, piece_width, inner)

        across = -(-key.imagewidth // piece_width)
        per_plane = across * -(-key.imagelength // piece_height)
        if len(offsets) < per_plane * planes or len(counts) < per_plane * planes:
            raise UnreadableFile(f"{name}: parts of the picture are missing; the file was cut off. Copy it again.")
        palette = None
        if key.photometric == _PALETTE:
            palette = (np.asarray(key.colormap).T >> 8).astype(np.uint8)
        return cls(
            key.imagewidth, key.imagelength, piece_width, piece_height, across, per_plane, key.samplesperpixel,
            separate, key.dtype, int(key.photometric), int(key.compression),
            any(int(kind) in (1, 2) for kind in key.extrasamples), palette, offsets, counts, decode,
        )  # fmt: skip

    @property
    def piece_bytes(self) -> int:
        """What has to be decoded at once."""
        samples = 1 if self.separate else self.samples
        return self.piece_width * self.piece_height * samples * self.dtype.itemsize

    def decoded(self, content: bytes, number: int) -> NDArray[Any]:
        """`(height, width, samples)` of one piece; one that a scanner left out (0 bytes) is white."""
        if not content:
            blank = 0 if self.photometric == _WHITE_IS_ZERO else np.iinfo(self.dtype).max
            samples = 1 if self.separate else self.samples
            return np.broadcast_to(self.dtype.type(blank), (self.piece_height, self.piece_width, samples))
        return self.decode(content, number)

    def to_rgb(self, samples: NDArray[Any], full: float) -> NDArray[np.uint8]:
        """`(H, W, 3)` uint8 RGB from samples as stored, whose `full` is white (or black, where white is zero)."""
        if self.palette is not None:
            return np.asarray(self.palette[np.minimum(samples[..., 0], len(self.palette) - 1)], np.uint8)
        colours = 3 if self.photometric in {_RGB, _YCBCR} else 1
        values = samples[..., :colours]
        if self.dtype != np.uint8:
            values = np.clip(np.round(values * np.float32(255 / full)), 0, 255).astype(np.uint8)
        if self.photometric == _WHITE_IS_ZERO:
            values = 255 - values
        if self.opacity and self.samples > colours:
            weight = samples[..., colours : colours + 1] / np.float32(np.iinfo(self.dtype).max)
            values = np.round(255 - weight * (255 - values.astype(np.float32))).astype(np.uint8)
        return np.ascontiguousarray(np.broadcast_to(values, (*values.shape[:2], 3)))


def _damaged(name: str) -> UnreadableFile:
    return UnreadableFile(
        f"{name}: the TIFF file is damaged, cut off or of a variant that cannot be read. Copy it from its source "
        "again, or export it as a pyramid TIFF."
    )


def _refuse_bomb(content: bytes, compression: int, width: int, height: int) -> None:
    """JPEG and JPEG 2000 hold a size of their own, which a decoder believes before it knows that it is wrong.

    Raises:
        ValueError: It is larger than the piece that it stands for.
    """
    own = (0, 0)
    if compression == _JPEG:
        at = 2
        while at + 9 <= len(content) and content[at] == 0xFF:
            if 0xC0 <= content[at + 1] <= 0xCF and content[at + 1] not in (0xC4, 0xC8, 0xCC):  # a frame header
                own = struct.unpack_from(">HH", content, at + 5)
                break
            at += 2 + int.from_bytes(content[at + 2 : at + 4], "big")
    elif compression in _JPEG_2000 and (at := content.find(b"\xff\x4f\xff\x51", 0, 4096)) >= 0:
        own = struct.unpack_from(">II", content, at + 8)[::-1]
    if own[0] > height + 64 or own[1] > width + 64:  # some writers round up to whole blocks
        raise ValueError(f"a piece of {width} x {height} px claims {own[1]} x {own[0]}")


def _pictures(tiff: Any) -> list[Any]:
    """The series of the main picture and of those that are levels of it; none in a broken file."""
    series = [one for one in tiff.series if not HIDDEN.search(one.name) and len(one.shape) >= 2]
    if not series:
        return []
    main = max(series, key=lambda one: one.keyframe.imagewidth * one.keyframe.imagelength)
    others = [one for one in series if one is not main and one.keyframe.is_reduced]
    return [main, *(one for one in others if _is_level_of(main.keyframe, one.keyframe))]


def tissue_pages(tiff: Any) -> list[Any]:
    """The pages of an open TIFF file that the tissue is read from, with all planes of a stack."""
    pages = [page for one in _pictures(tiff) for level in one.levels for page in level.pages]
    return [page for page in pages if page is not None]


def _end(page: Any) -> int:
    return max(
        (offset + count for offset, count in zip(page.dataoffsets, page.databytecounts, strict=False)), default=0
    )


def _page(series: Any, plane: int) -> Any:
    """The page of one plane; planes that follow the first without a directory of their own cannot be chosen."""
    page = series.pages[plane] if plane < len(series.pages) else None
    return series.keyframe if page is None else page


def _is_level_of(full: Any, page: Any) -> bool:
    shape = page.imagewidth / page.imagelength, full.imagewidth / full.imagelength
    one_px = 1 / min(page.imagewidth, page.imagelength)
    return (
        page.imagewidth < full.imagewidth
        and abs(shape[0] / shape[1] - 1) <= max(_SAME_SHAPE, one_px)
        and (page.dtype, page.samplesperpixel, page.photometric) == (full.dtype, full.samplesperpixel, full.photometric)
    )


def _plane(series: Any) -> tuple[int, tuple[QualityFlag, ...]]:
    """The plane of a stack that is read, and what to say about it."""
    sizes = dict(zip(series.axes, series.shape, strict=True))
    depths = int(sizes.get("Z", 1))
    others = np.prod([size for axis, size in sizes.items() if axis not in "ZCSYXT"], dtype=int)
    if others > 1:
        return 0, (_FIRST_FRAME_ONLY,)
    return (depths // 2, (_ONE_PLANE,)) if depths > 1 else (0, ())


def _refuse_channels(series: Any, ome: ElementTree.Element | None, name: str) -> None:
    sizes = dict(zip(series.axes, series.shape, strict=True))
    channels = int(sizes.get("C", 1))
    fluorescent = ome is not None and any(
        word in channel.attrib for channel in ome.iterfind(".//{*}Channel") for word in _FLUORESCENT
    )
    if channels > 1 or fluorescent or series.keyframe.samplesperpixel > 4:
        raise UnreadableFile(
            f"{name}: a fluorescence or multi-channel picture ({max(channels, series.keyframe.samplesperpixel)} "
            "channels). Only stained sections in transmitted light can be searched; export one as RGB."
        )
    if int(sizes.get("T", 1)) > 1:
        raise UnreadableFile(f"{name}: a time series, not a slide. Export one picture of it as RGB TIFF.")
