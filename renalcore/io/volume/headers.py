"""What one DICOM file states about its picture, read without a pixel: nothing personal, and nothing taken on trust."""

from __future__ import annotations

import io
import logging
import math
import warnings
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import BinaryIO, Final, cast

import pydicom
import pydicom.config
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from renalcore.errors import UnreadableFile
from renalcore.io.image import DECODER_ERRORS
from renalcore.io.volume.entries import UNPACK_ERRORS, Entry, damaged
from renalcore.io.volume.phases import phase

# Remarks on odd values name them, and a value may be a patient's name; what matters in them is an error of ours.
logging.getLogger("pydicom").setLevel(logging.CRITICAL)
warnings.filterwarnings("ignore", category=Warning, module=r"pydicom\.")
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE

DICOM_ERRORS: Final = (*DECODER_ERRORS, *UNPACK_ERRORS, BytesLengthException, InvalidDicomError)
"""What pydicom and archives raise at broken files."""
CT_IMAGE: Final = "1.2.840.10008.5.1.4.1.1.2"
ENHANCED_CT: Final = frozenset({"1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2"})
"""Enhanced CT and what older single slices were converted to: all slices in one file."""
WHOLE_SLIDE: Final = "1.2.840.10008.5.1.4.1.1.77.1.6"
"""VL Whole Slide Microscopy: a level of a slide, or a picture of its label or of the glass."""
_DIRECTORY: Final = "1.2.840.10008.1.3.10"
MAX_FRAMES: Final = 8_000
"""Slices in one file, all phases together: of 512 x 512 px they fill the largest that is read."""
_HEADER_BYTES: Final = 64 * 2**20
_DEFLATED_BYTES: Final = 512 * 2**20
"""Of a deflated data set, which is inflated with its pixels before anything is read of it."""
_DEFLATED_RATIO: Final = 200
"""Bytes of it to packed ones, where they are more than a header has; real slices stay below 20."""
_KEYWORDS: Final = (
    "SOPClassUID", "SOPInstanceUID", "Modality", "ImageType", "SeriesInstanceUID", "StudyInstanceUID", "SeriesNumber",
    "SeriesDescription", "ProtocolName", "ContrastBolusAgent", "ConvolutionKernel", "SliceThickness",
    "AcquisitionNumber", "AcquisitionTime", "TemporalPositionIdentifier", "Rows", "Columns", "SamplesPerPixel",
    "BitsAllocated", "NumberOfFrames", "PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient",
    "RescaleSlope", "RescaleIntercept", "RescaleType", "BurnedInAnnotation", "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Plane:
    """One slice as its file states it; None where the file does not, or states nonsense.

    Attributes:
        picture: The file it is in.
        frame: Its place in a multi-frame file, from 0, or None.
        position: LPS mm of the centre of the first pixel.
        orientation: Directions of rising columns, then of rising rows.
        spacing: Millimetres from row to row and from column to column.
        slope: What a stored number is multiplied by to give HU.
        intercept: What is added then.
        unit: Unit that the result has; empty where the file does not say.
        acquisition: Tells phases apart that share a series.
        gathering: Tells them apart where that does not: the number of the acquisition of a frame, which may also count
            the slices of one phase.
        scanned_at: Tells them apart where neither does: a time of the day, of a phase or of each slice; as text.
    """

    picture: Picture
    frame: int | None
    position: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    spacing: tuple[float, ...] | None
    slope: float | None
    intercept: float | None
    unit: str
    acquisition: str
    gathering: str
    scanned_at: str


@dataclass(frozen=True, slots=True)
class Picture:
    """One DICOM file.

    Attributes:
        entry: The file.
        series: What all files of its series share, and no other.
        instance: Its own identifier, or empty.
        number: The series' number at the scanner.
        modality: "CT", "MR", ...; empty where not stated.
        is_ct: It is a CT image of the kinds that are read, with pixels.
        is_localiser: A scout view.
        rows: Height in px.
        columns: Width in px.
        frames: Slices in it.
        phase: Words on the contrast phase.
        kernel: Reconstruction kernel.
        thickness_mm: Stated thickness.
        burnt_in: The file says that writing is in its pixels.
    """

    entry: Entry
    series: str
    instance: str
    number: int | None
    modality: str
    is_ct: bool
    is_localiser: bool
    rows: int
    columns: int
    frames: int
    phase: str
    kernel: str
    thickness_mm: float | None
    burnt_in: bool


class HeaderOf:
    """A DICOM file of which no more than a header is read: a value may state any length, and deflated ones grow."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._left = _HEADER_BYTES
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        """As of any file; all of it is asked for where the data set is deflated, and what is returned is deflated too.

        Raises:
            ValueError: It is more than a header can be.
        """
        if size < 0:
            return self._deflated()
        content = self._file.read(min(size, self._left + 1))
        self._left -= len(content)
        if self._left < 0:
            raise ValueError("more than a header can be")
        return content

    def _deflated(self) -> bytes:
        content, grown = bytearray(), 0  # in pieces: a buffer for all that may come is not made
        inflating = zlib.decompressobj(-zlib.MAX_WBITS)
        while piece := self._file.read(2**16):
            content += piece
            while piece:
                grown += len(inflating.decompress(piece, 2**20))
                if grown > min(_DEFLATED_BYTES, max(_HEADER_BYTES, _DEFLATED_RATIO * len(content))):
                    raise ValueError("more than a deflated CT image can be")
                piece = inflating.unconsumed_tail
        return bytes(content)


def is_dicom(head: bytes) -> bool:
    """Whether 512 bytes begin a DICOM file, be it without its preamble or its meta header."""
    if head[128:132] == b"DICM":
        return True
    # Bare data sets begin with a short element of group 2 or 8, in either order of bytes.
    group, element = (int.from_bytes(head[start : start + 2], "little") for start in (0, 2))
    if group in (0x0200, 0x0800):
        group, element = group >> 8, (element >> 8) | (element & 0xFF) << 8
    return len(head) > 12 and group in (2, 8) and element < 0x100


def read(file: BinaryIO, *, header_only: bool) -> Dataset:
    """A data set with a transfer syntax, also where the file states none.

    Raises:
        Exception: Any of `DICOM_ERRORS`.
    """
    tags = list(_KEYWORDS) if header_only else None
    file = cast(BinaryIO, HeaderOf(file)) if header_only else file
    dataset = pydicom.dcmread(file, force=True, stop_before_pixels=header_only, specific_tags=tags)
    if not hasattr(dataset, "file_meta"):
        dataset.file_meta = FileMetaDataset()
    if "TransferSyntaxUID" not in dataset.file_meta:
        implicit, little = dataset.original_encoding
        explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit
    return dataset


def sop_class(dataset: Dataset) -> str:
    """What kind of object it is, by the data set or by its meta header; empty where neither says."""
    return _word(dataset, "SOPClassUID") or _word(dataset.file_meta, "MediaStorageSOPClassUID")


def planes(entry: Entry) -> list[Plane]:
    """The slices in a DICOM file; one for an object that is no CT image too; none for a DICOMDIR.

    Raises:
        UnreadableFile: It is damaged.
    """
    try:
        if entry.bounded:
            with entry.open() as file:
                return _planes(entry, read(file, header_only=True))
        return _planes(entry, read(io.BytesIO(entry.head(_HEADER_BYTES)), header_only=True))
    except DICOM_ERRORS:
        raise damaged(entry.name) from None  # the cause may hold a value: a patient's name


def referenced(entry: Entry) -> list[str] | None:
    """The files that a DICOMDIR names, with `/` between folders; None for any other file.

    Raises:
        UnreadableFile: It is damaged.
    """
    try:
        with entry.open() as file:
            dataset = pydicom.dcmread(file, force=True, specific_tags=["SOPClassUID", "DirectoryRecordSequence"])
        if "DirectoryRecordSequence" not in dataset:
            return None
        names = (record.get("ReferencedFileID") for record in dataset.DirectoryRecordSequence)
        return ["/".join([name] if isinstance(name, str) else map(str, name)) for name in names if name]
    except DICOM_ERRORS:
        raise damaged(entry.name) from None  # the cause may hold a value: a patient's name


def _planes(entry: Entry, dataset: Dataset) -> list[Plane]:
    kind, modality = sop_class(dataset), _word(dataset, "Modality").upper()
    if kind == _DIRECTORY:
        return []
    picture_type = _words(dataset, "ImageType")
    rows, columns = (int(_number(dataset, word) or 0) for word in ("Rows", "Columns"))
    sampled = (_number(dataset, "SamplesPerPixel") or 1) == 1 and (_number(dataset, "BitsAllocated") or 16) in (8, 16)
    is_ct = (
        (kind == CT_IMAGE or kind in ENHANCED_CT or (not kind and modality == "CT"))
        and modality in ("CT", "")
        and min(rows, columns) > 0
        and sampled
    )
    number = _number(dataset, "SeriesNumber")
    picture = Picture(
        entry=entry,
        series=_word(dataset, "SeriesInstanceUID") or f"{_word(dataset, 'StudyInstanceUID')}|{number}|{modality}",
        instance=_word(dataset, "SOPInstanceUID") or _word(dataset.file_meta, "MediaStorageSOPInstanceUID"),
        number=None if number is None else int(number),
        modality=modality,
        is_ct=is_ct,
        is_localiser="LOCALIZER" in picture_type,
        rows=rows,
        columns=columns,
        frames=max(1, int(_number(dataset, "NumberOfFrames") or 1)),
        phase=phase(
            (_word(dataset, "SeriesDescription"), _word(dataset, "ProtocolName")),
            (_word(dataset, "ContrastBolusAgent"),),
        ),
        kernel=" ".join(_words(dataset, "ConvolutionKernel"))[:32],
        thickness_mm=_number(dataset, "SliceThickness"),
        burnt_in=_word(dataset, "BurnedInAnnotation").upper() == "YES",
    )
    shared = _item(dataset, "SharedFunctionalGroupsSequence")
    grouped = is_ct and "PerFrameFunctionalGroupsSequence" in dataset
    if grouped and picture.frames > MAX_FRAMES:  # before any of them is looked at
        raise UnreadableFile(
            f"{entry.name}: states {picture.frames} frames; one file may hold {MAX_FRAMES}. Export the study as single "
            "slices."
        )
    own: list[Dataset | None] = list(dataset.get("PerFrameFunctionalGroupsSequence") or []) if grouped else []
    if not own and picture.frames == 1:
        return [_plane(picture, None, [dataset, shared])]
    if not own:
        # However many frames it states, not one is built: where each of them lies it does not say.
        return [replace(_plane(picture, 0, [dataset, shared]), position=None)]
    if len(own) != picture.frames:
        raise damaged(entry.name)
    return [_plane(picture, index, [groups, shared, dataset]) for index, groups in enumerate(own)]


def _plane(picture: Picture, frame: int | None, places: list[Dataset | None]) -> Plane:
    """A slice whose values are looked for in `places`, the first that states one decides."""

    def numbers(group: str, keyword: str, count: int) -> tuple[float, ...] | None:
        for place in places:
            for holder in (_item(place, group), place):
                found = _numbers(holder, keyword)
                if found is not None and len(found) == count:
                    return found
        return None

    def one(group: str, keyword: str) -> float | None:
        found = numbers(group, keyword, 1)
        return found[0] if found else None

    def words(group: str, keyword: str) -> Iterable[str]:
        return (_word(holder, keyword) for place in places for holder in (_item(place, group), place))

    stack = next(filter(None, words("FrameContentSequence", "StackID")), "")
    moment = next(filter(None, words("FrameContentSequence", "TemporalPositionIndex")), "")
    scanned = next(filter(None, words("", "AcquisitionNumber")), "")
    moved = next(filter(None, words("", "TemporalPositionIdentifier")), "")
    gathering = next(filter(None, words("FrameContentSequence", "FrameAcquisitionNumber")), "")
    return Plane(
        picture=picture,
        frame=frame,
        position=numbers("PlanePositionSequence", "ImagePositionPatient", 3),
        orientation=numbers("PlaneOrientationSequence", "ImageOrientationPatient", 6),
        spacing=numbers("PixelMeasuresSequence", "PixelSpacing", 2),
        slope=one("PixelValueTransformationSequence", "RescaleSlope"),
        intercept=one("PixelValueTransformationSequence", "RescaleIntercept"),
        unit=next(filter(None, words("PixelValueTransformationSequence", "RescaleType")), "").upper(),
        acquisition="|".join((stack, moment, scanned, moved)),
        gathering=gathering,
        scanned_at=next(filter(None, words("", "AcquisitionTime")), ""),
    )


def _item(dataset: Dataset | None, keyword: str) -> Dataset | None:
    sequence = dataset.get(keyword) if dataset is not None and keyword else None
    return sequence[0] if sequence else None


def _words(dataset: Dataset | None, keyword: str) -> list[str]:
    value = dataset.get(keyword) if dataset is not None else None
    if value is None:
        return []
    several = value if not isinstance(value, str) and hasattr(value, "__iter__") else [value]
    return [str(one).strip(" \0") for one in several]


def _word(dataset: Dataset | None, keyword: str) -> str:
    return next(iter(_words(dataset, keyword)), "")


def _numbers(dataset: Dataset | None, keyword: str) -> tuple[float, ...] | None:
    try:
        found = tuple(float(word) for word in _words(dataset, keyword))
    except (ValueError, TypeError, OverflowError):
        return None
    return found if found and all(math.isfinite(value) for value in found) else None


def _number(dataset: Dataset | None, keyword: str) -> float | None:
    found = _numbers(dataset, keyword)
    return found[0] if found else None
