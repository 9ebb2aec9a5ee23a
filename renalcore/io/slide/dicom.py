"""A slide in DICOM without the patient: its levels, and nothing else of what an archive gave out with them.

The headers are cleaned as those of CT (`renalcore.io.deidentify`); the pictures are copied as they are, however large.
What shows the label or the whole glass is left out.
"""

from __future__ import annotations

import io
import struct
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, BinaryIO, Final, cast

import pydicom
from pydicom.uid import ImplicitVRLittleEndian

from renalcore.errors import UnreadableFile
from renalcore.io.deidentify import BURNT_IN, without_patient
from renalcore.io.slide.packed import members
from renalcore.io.volume.entries import damaged, section
from renalcore.io.volume.headers import DICOM_ERRORS, WHOLE_SLIDE, sop_class
from renalcore.types import QualityFlag

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_PIXELS: Final = b"\xe0\x7f\x10\x00"
_ITEM: Final = b"\xfe\xff\x00\xe0"
_END: Final = b"\xfe\xff\xdd\xe0"
_UNDEFINED: Final = 0xFFFFFFFF
_TABLE_BYTES: Final = 1 << 26
"""More than the table of any slide has: one of a million tiles has 4 MB."""


def deidentify_slide(path: Path, target: Path, *, key: bytes, name: str) -> tuple[QualityFlag, ...]:
    """Writes the levels of a packed DICOM slide, without the patient, into another archive of the same kind.

    The same files and key give the same archive, byte for byte. No picture is held in memory.

    Args:
        path: The archive (see `renalcore.io.slide.packed`).
        target: The archive to write.
        key: Secret of the slide, 16 bytes at least: the same key gives the same new identifiers.
        name: What messages call it.

    Returns:
        Doubts about what was written.

    Raises:
        UnreadableFile: It holds no level of a slide, those of several slides, or a damaged file.
        TooLarge: It holds too many files.
        OSError: `target` cannot be written.
    """
    flags: tuple[QualityFlag, ...] = ()
    series: set[str] = set()
    written = 0
    with tarfile.open(target, "w", format=tarfile.GNU_FORMAT) as archive:
        for member in members(path, name=name):
            with section(path, member) as file:
                try:
                    level = _level(file, key)
                except DICOM_ERRORS:
                    raise damaged(name) from None  # the cause may hold a value: a patient's name
                if level is None:
                    continue
                series.add(level.series)
                written += 1
                copied = tarfile.TarInfo(f"{written:06d}.dcm")
                copied.size = len(level.header) + level.pixels_bytes
                archive.addfile(copied, cast(IO[bytes], io.BufferedReader(_Joined(level.header, file))))
                if level.burnt_in:
                    flags = (BURNT_IN,)
    if not series:
        raise UnreadableFile(
            f"{name}: none of the DICOM files is a level of a slide (VL Whole Slide Microscopy). Choose the folder "
            "with the files of one slide."
        )
    if len(series) > 1:
        raise UnreadableFile(
            f"{name}: these are DICOM files of {len(series)} slides (series). Choose those of one slide at a time, or "
            "put those of each slide into a folder of its own."
        )
    return flags


@dataclass(frozen=True, slots=True)
class _Level:
    """One file of a slide.

    Attributes:
        series: What all files of the slide share, and no other.
        header: All before the pixels, without the patient.
        pixels_bytes: Length of the pixels, at which the file stands.
        burnt_in: It says that writing is in its pixels.
    """

    series: str
    header: bytes
    pixels_bytes: int
    burnt_in: bool


def _level(file: BinaryIO, key: bytes) -> _Level | None:
    """What is written of a file, left at its pixels; None where it is no level of a slide.

    Raises:
        Exception: Any of `DICOM_ERRORS`.
    """
    if file.read(132)[128:] != b"DICM":
        return None
    file.seek(0)
    dataset = pydicom.dcmread(file, stop_before_pixels=True)  # leaves the file at the element of the pixels
    kind = [str(word) for word in dataset.get("ImageType") or ()]
    if sop_class(dataset) != WHOLE_SLIDE or kind[2:3] != ["VOLUME"]:
        return None
    clean = without_patient(dataset, key=key)
    header = io.BytesIO()
    pydicom.dcmwrite(header, clean, enforce_file_format=True)
    start = file.tell()
    end = _end_of_pixels(file, is_implicit=dataset.file_meta.TransferSyntaxUID == ImplicitVRLittleEndian)
    file.seek(start)
    return _Level(
        str(dataset.get("SeriesInstanceUID", "")), header.getvalue(), end - start,
        clean.get("BurnedInAnnotation") == "YES",
    )  # fmt: skip


def _end_of_pixels(file: BinaryIO, *, is_implicit: bool) -> int:
    """Where the element of the pixels ends, at which `file` stands: what comes after it is not copied.

    The table of where the tiles begin is checked: by a wrong one libdicom reads beyond its memory and ends the process.

    Raises:
        ValueError: There is none, it is cut off, or the table is wrong.
    """
    head = file.read(8 if is_implicit else 12)
    if not head.startswith(_PIXELS):
        raise ValueError("a level without pixels, or in an order of bytes that no slide has")
    length = int.from_bytes(head[-4:], "little")
    starts: list[int] | None = None
    first = 0
    begins: set[int] = set()
    while length == _UNDEFINED:  # in items: the table, then one a tile
        head = file.read(8)
        if head[:4] == _END:
            if not begins.issuperset(starts or ()):
                raise ValueError("the table of the tiles is wrong")
            return file.tell()
        if head[:4] != _ITEM:
            raise ValueError("a tile is cut off")
        item_bytes = int.from_bytes(head[4:], "little")
        if starts is None:
            if item_bytes % 4 or item_bytes > _TABLE_BYTES:
                raise ValueError("the table of the tiles is wrong")
            starts = [start for (start,) in struct.iter_unpack("<I", file.read(item_bytes))]
            first = file.tell()
        else:
            begins.add(file.tell() - len(head) - first)
            file.seek(item_bytes, io.SEEK_CUR)
    end = file.tell() + length
    if end > file.seek(0, io.SEEK_END):
        raise ValueError("the pixels are cut off")
    return end


class _Joined(io.RawIOBase):
    """Bytes, and then what a file still holds."""

    def __init__(self, first: bytes, rest: BinaryIO) -> None:
        self._first, self._rest = io.BytesIO(first), rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        piece = self._first.read(len(view)) or self._rest.read(len(view))
        view[: len(piece)] = piece
        return len(piece)
