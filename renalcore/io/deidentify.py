"""CT files without the patient: DICOM's Basic Application Level Confidentiality Profile, applied before storage.

Which attribute is removed, emptied or replaced says Table E.1-1 of DICOM PS3.15, edition 2026c, as dicom-anonymizer
generates it from the standard. Only its table is used: its own walk leaves out the sequences that stay, and it keeps
one map of identifiers for all patients. Beyond the table everything goes that is not known to be harmless: private
attributes, overlays (also in bits beside the pixels), texts, persons' names, dates, raw bytes and words that are no
code, unless `_KEPT_TEXTS` names them or they are the pixels; and of the groups on patients, visits, orders and results
nothing stays.

Kept by the option "Clean Descriptors": which contrast phase it is, in words of a fixed list, as series description.
Which identifiers were replaced is told to the caller, who alone may keep them, apart from the files: a segmentation can
then refer to the series in the archive of the hospital.
The headers of slides are cleaned in the same way (`renalcore.io.slide.dicom`).
Not done, so the codes of those options are not set: pixels are not searched for burnt-in writing (what a file states
about it becomes a flag), and a face can be rebuilt from a scan of the head. Comments and bits beside the pixels within
compressed pixel data are left alone.
"""

from __future__ import annotations

import gzip
import hashlib
import hmac
import io
import math
import re
import secrets
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import UID

from renalcore.errors import UnreadableFile
from renalcore.io.volume.entries import UNPACK_ERRORS, Entry, damaged
from renalcore.io.volume.headers import CT_IMAGE, DICOM_ERRORS, ENHANCED_CT, WHOLE_SLIDE, is_dicom, read, sop_class
from renalcore.io.volume.nifti import header, is_nifti
from renalcore.io.volume.opening import entries_of
from renalcore.io.volume.packing import DEFLATE_LEVEL
from renalcore.io.volume.phases import phase
from renalcore.io.volume.stacking import check_voxels
from renalcore.types import QualityFlag

EDITION: Final = "2026c"
_METHOD: Final = f"DICOM PS3.15 {EDITION} basic profile, clean descriptors"
_CODES: Final = (
    ("113100", "Basic Application Confidentiality Profile"),
    ("113105", "Clean Descriptors Option"),
)
_KEPT_TEXTS: Final = frozenset(
    {
        "Manufacturer", "ManufacturerModelName", "ConvolutionKernel", "FilterType", "RescaleType", "StackID",
        "CodeValue", "CodingSchemeDesignator", "CodingSchemeVersion", "CodeMeaning",
    }
)  # fmt: skip
_KEPT_SCHEMES: Final = frozenset({"DCM", "SCT", "SRT", "SNM3", "99SDM", "UCUM"})
"""Codes of other schemes are a hospital's or a maker's own, and so are the words beside them."""
_CODE_TEXTS: Final = frozenset({"CodeValue", "CodingSchemeVersion", "CodeMeaning"})
"""Without a scheme they are somebody's words."""
_TEXT_VRS: Final = frozenset({"AE", "AS", "DA", "DT", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UN", "UR", "UT"})
_BYTES_VRS: Final = frozenset({"OB", "OD", "OF", "OL", "OV", "OW"})
_NUMBER_VRS: Final = frozenset({"DS", "IS"})
_PERSONAL_GROUPS: Final = frozenset({0x0010, 0x0012, 0x0032, 0x0038, 0x4000, 0x4008})
"""Patient, trial, order, visit, and two retired ones of texts and results."""
_DRAWN_GROUPS: Final = (0x50, 0x60)
"""Curves and overlays, which may be writing."""
_EMPTY_BY_THE_STANDARD: Final = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex")
_GZIPPED_BYTES: Final = 512 * 2**20
_PIXEL_GROUP: Final = 0x7FE0
_PIXELS_AT_ONCE: Final = 2**20
_REFERRED_TO: Final = ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "SOPInstanceUID")
"""By these another object says which pictures it belongs to."""
_DUMMIES: Final = {
    "DA": "19000101", "DT": "19000101000000", "TM": "000000", "AS": "000Y", "UR": "http://removed.invalid",
    "DS": "0", "IS": "0", "FD": 0.0, "FL": 0.0, "SL": 0, "SS": 0, "UL": 0, "US": 0,
}  # fmt: skip
BURNT_IN = QualityFlag(
    "burnt_in", "The files say that writing is burnt into the pictures: look whether it names the patient."
)


@dataclass(frozen=True, slots=True)
class Deidentified:
    """What became of an upload.

    Attributes:
        files: Files written.
        left_out: Files not written because they are no CT image (reports, screenshots, plans, other scans, text).
        flags: Doubts about what was written.
        replaced: The identifiers of study, series, frame of reference and images that the files came with, by those
            that they have now: none of NIfTI, nor of what stated none.
    """

    files: int
    left_out: int
    flags: tuple[QualityFlag, ...]
    replaced: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _Clean:
    """A file without the patient, to be written."""

    name: str
    content: bytes | memoryview
    is_burnt_in: bool = False
    replaced: Mapping[str, str] = field(default_factory=dict)


def new_key() -> bytes:
    """A secret for one study. Whoever keeps it can tell that two files are of one study; without it nobody can."""
    return secrets.token_bytes(32)


def deidentify(
    path: Path | Sequence[Path],
    target: Path,
    *,
    key: bytes,
    series: str | None = None,
    name: str | None = None,
    pseudonym: str = "",
    progress: Callable[[int, int], None] | None = None,
) -> Deidentified:
    """Writes the CT images of an upload, without the patient, into a zip archive that `read_volume` reads.

    One file at a time is held in memory. The same upload and key give the same archive, byte for byte.

    Args:
        path: As of `renalcore.io.volume.read_volume`.
        target: The archive to write; it appears when it is complete.
        key: Secret of the study, 16 bytes at least: the same key gives the same new identifiers.
        series: `SeriesFound.key` of the one to write; all CT images where none is chosen.
        name: As of `renalcore.io.volume.find_series`.
        pseudonym: Stands in place of the patient's name and number; may be empty.
        progress: Called with the number of files done and that of all.

    Raises:
        UnreadableFile: Nothing in it is a CT image or a NIfTI volume, or a file is damaged.
        UnknownName: There is no such series.
        TooLarge: It exceeds a limit.
        ValueError: The key is too short.
    """
    _check(key)
    written = left_out = 0
    flags: list[QualityFlag] = []
    replaced: dict[str, str] = {}
    unfinished = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        with entries_of(path, series=series, name=name) as entries, zipfile.ZipFile(unfinished, "w") as archive:
            for index, entry in enumerate(entries):
                made = _one(entry, written + 1, key=key, pseudonym=pseudonym)
                if made is None:
                    left_out += 1
                else:
                    info = zipfile.ZipInfo(made.name)  # with the date 1980-01-01
                    archive.writestr(info, made.content, zipfile.ZIP_DEFLATED, DEFLATE_LEVEL)
                    written += 1
                    replaced |= made.replaced
                    if made.is_burnt_in and BURNT_IN not in flags:
                        flags.append(BURNT_IN)
                if progress is not None:
                    progress(index + 1, len(entries))
        if not written:
            raise UnreadableFile("None of the files is a CT image. Choose the DICOM files of a CT series or NIfTI.")
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)
    return Deidentified(written, left_out, tuple(flags), replaced)


def without_patient(dataset: Dataset, *, key: bytes, pseudonym: str = "") -> Dataset:
    """The data set of a CT image or a slide without the patient, ready to be written; the original is not changed.

    Args:
        dataset: An image whose `file_meta` states a transfer syntax.
        key: As of `deidentify`.
        pseudonym: As of `deidentify`.

    Raises:
        UnreadableFile: It is neither.
        ValueError: The key is too short.
    """
    _check(key)
    kind = sop_class(dataset)
    if kind not in (CT_IMAGE, WHOLE_SLIDE, *ENHANCED_CT):
        raise UnreadableFile("The file is no CT image and no slide, and is not stored.")
    described = str(dataset.get("SeriesDescription", "")), str(dataset.get("ProtocolName", ""))
    words = "" if kind == WHOLE_SLIDE else phase(described, (str(dataset.get("ContrastBolusAgent", "")),))
    clean = _cleaned(dataset, key=key, enhanced=kind != CT_IMAGE)
    for keyword in _EMPTY_BY_THE_STANDARD:
        setattr(clean, keyword, "")
    clean.PatientName = clean.PatientID = pseudonym
    if words:
        clean.SeriesDescription = words
    if words and words != "non-contrast":
        clean.ContrastBolusAgent = "contrast"
    clean.SOPClassUID = UID(kind)
    clean.SOPInstanceUID = new_uid(_instance(dataset), key)
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID"):  # some exports empty them
        if not clean.get(keyword):
            setattr(clean, keyword, new_uid(f"{keyword} {dataset.get('SeriesNumber')}", key))
    clean.PatientIdentityRemoved = "YES"
    clean.DeidentificationMethod = _METHOD
    clean.DeidentificationMethodCodeSequence = Items([_code(value, meaning) for value, meaning in _CODES])
    clean.LongitudinalTemporalInformationModified = "REMOVED"
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = clean.SOPClassUID
    meta.MediaStorageSOPInstanceUID = clean.SOPInstanceUID
    meta.TransferSyntaxUID = dataset.file_meta.TransferSyntaxUID
    clean.file_meta = meta
    clean.preamble = bytes(128)
    _say_nothing_beside_pixels(clean)
    return clean


def restore_identifiers(headers: Sequence[Dataset], replaced: Mapping[str, str]) -> None:
    """Gives headers of a series without the patient its own identifiers back, and nothing else of the original.

    Args:
        headers: As `renalcore.io.volume.slice_headers` gives them; they are changed.
        replaced: As `Deidentified` has it; what it does not name stays as it is.
    """
    for one in headers:
        for keyword in _REFERRED_TO:
            if original := replaced.get(str(one.get(keyword, ""))):
                setattr(one, keyword, UID(original))


def new_uid(old: str, key: bytes) -> UID:
    """The identifier that replaces another: always the same for one key, and not to be turned back without it."""
    digest = hmac.new(key, old.strip(" \0").encode(), hashlib.sha256).digest()
    return UID(f"2.25.{int.from_bytes(digest[:16], 'big')}")


def _replaced_in(dataset: Dataset, clean: Dataset) -> dict[str, str]:
    """The identifiers of a file by those that replace them; what is no identifier may be a name, and is not told."""
    stated = {keyword: str(dataset.get(keyword) or "").strip(" \0") for keyword in _REFERRED_TO}
    stated["SOPInstanceUID"] = _instance(dataset).strip(" \0")
    return {str(clean[word].value): old for word, old in stated.items() if re.fullmatch(r"[0-9.]{1,64}", old)}


def _instance(dataset: Dataset) -> str:
    return str(dataset.get("SOPInstanceUID") or dataset.file_meta.get("MediaStorageSOPInstanceUID") or "")


def _check(key: bytes) -> None:
    if len(key) < 16:
        raise ValueError(f"the key must have 16 bytes at least, got {len(key)}")


def _one(entry: Entry, number: int, *, key: bytes, pseudonym: str) -> _Clean | None:
    """A file without the patient; None for no CT image."""
    head = entry.head()
    if is_nifti(head):
        try:
            return _Clean(f"volume-{number:06d}.nii.gz", _nifti_without_texts(entry))
        except (OSError, *UNPACK_ERRORS):
            raise damaged(entry.name) from None
    if not is_dicom(head):
        return None
    try:
        with entry.open() as file:
            stream: BinaryIO = file if entry.bounded else io.BytesIO(entry.content(_GZIPPED_BYTES))
            dataset = read(stream, header_only=False)
        if sop_class(dataset) not in (CT_IMAGE, *ENHANCED_CT) or "PixelData" not in dataset:
            return None
        clean = without_patient(dataset, key=key, pseudonym=pseudonym)
        written = io.BytesIO()
        pydicom.dcmwrite(written, clean, enforce_file_format=True)
        replaced = _replaced_in(dataset, clean)
    except DICOM_ERRORS:
        raise damaged(entry.name) from None  # the cause may hold a value: a patient's name
    is_burnt_in = clean.get("BurnedInAnnotation") == "YES"
    return _Clean(f"image-{number:06d}.dcm", written.getbuffer(), is_burnt_in, replaced)


def _nifti_without_texts(entry: Entry) -> memoryview:
    """A NIfTI file with its numbers and its place, and none of its texts or extensions."""
    import nibabel

    stated = header(entry)  # refuses what is no volume
    check_voxels(*stated.shape, entry.name)
    with entry.open() as file:
        first = file.read(12)
        file.seek(0)
        kind = nibabel.Nifti2Header if first[4:7] == b"n+2" else nibabel.Nifti1Header
        old = kind.from_fileobj(file)
        new = kind(endianness=old.endianness)
        for field in ("dim", "pixdim", "datatype", "bitpix", "scl_slope", "scl_inter", "xyzt_units", "qform_code",
                      "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z",
                      "srow_x", "srow_y", "srow_z"):  # fmt: skip
            new[field] = old[field]
        new["magic"], new["vox_offset"] = b"n+2" if kind is nibabel.Nifti2Header else b"n+1", new.single_vox_offset
        packed = io.BytesIO()
        file.seek(stated.offset)
        left = math.prod(stated.shape) * stated.dtype.itemsize
        with gzip.GzipFile(filename="", mode="wb", fileobj=packed, compresslevel=1, mtime=0) as out:
            out.write(new.binaryblock + bytes(4))  # no extensions
            while left:
                content = file.read(min(left, 2**20))
                if not content:
                    raise damaged(entry.name)
                out.write(content)
                left -= len(content)
    return packed.getbuffer()


def _code(value: str, meaning: str) -> Dataset:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, "DCM", meaning
    return code


def _say_nothing_beside_pixels(image: Dataset) -> None:
    """Takes away what old scanners drew into the bits that a pixel does not need: an overlay, which may be writing.

    The pixels keep their values; those bits repeat the sign or are 0.
    """
    allocated, stored, high = (int(image.get(word) or 0) for word in ("BitsAllocated", "BitsStored", "HighBit"))
    syntax = image.file_meta.TransferSyntaxUID
    if allocated != 16 or not 0 < stored <= high + 1 <= 16 or stored == 16 or "PixelData" not in image:
        return
    if syntax.is_compressed:
        return
    order, kind = "<" if syntax.is_little_endian else ">", "i2" if image.get("PixelRepresentation") == 1 else "u2"
    pixels = np.frombuffer(image.PixelData, order + kind)
    low = high + 1 - stored

    def alone(some: NDArray[Any]) -> NDArray[Any]:
        return some << (15 - high) >> (15 - high + low) << low

    parts = [pixels[start : start + _PIXELS_AT_ONCE] for start in range(0, len(pixels), _PIXELS_AT_ONCE)]
    if all(np.array_equal(alone(part), part) for part in parts):
        return  # as nearly always: nothing is copied
    content = b"".join(alone(part).astype(pixels.dtype).tobytes() for part in parts)
    image.add(DataElement("PixelData", image["PixelData"].VR, content))


def _cleaned(dataset: Dataset, *, key: bytes, enhanced: bool) -> Dataset:
    """A copy of a data set or of an item of a sequence with nothing but what may stay."""
    clean = Dataset()
    is_coded = "CodingSchemeDesignator" in dataset
    if is_coded and str(dataset.CodingSchemeDesignator) not in _KEPT_SCHEMES:
        return clean
    for tag in dataset.keys():  # noqa: SIM118  (iterating a data set converts its values; one may be broken)
        try:
            element = dataset[tag]
        except DICOM_ERRORS:
            continue  # a value that cannot be told is not kept
        if element.keyword in _CODE_TEXTS and not is_coded:
            continue
        kept = _kept(element, key=key, enhanced=enhanced)
        if kept is not None:
            clean.add(kept)
    return clean


def _kept(element: DataElement, *, key: bytes, enhanced: bool) -> DataElement | None:
    tag, vr = element.tag, element.VR
    if tag.is_private or tag.group in _PERSONAL_GROUPS or tag.group >> 8 in _DRAWN_GROUPS:
        return None
    action = _actions().get(int(tag), "")
    if action and action != "U":
        return _replaced(element, action, enhanced=enhanced)
    if vr == "SQ":
        items = [_cleaned(item, key=key, enhanced=enhanced) for item in element.value or []]
        if any(len(item) == 0 for item in items):
            return None
        return DataElement(tag, vr, Items(items))
    if vr == "UI":
        uids = [element.value] if isinstance(element.value, str) else list(element.value or [])
        return DataElement(
            tag, vr, [_uid(str(uid), key) for uid in uids] if len(uids) != 1 else _uid(str(uids[0]), key)
        )
    if vr in _BYTES_VRS or " or " in vr:
        return element if tag.group == _PIXEL_GROUP or (" or " in vr and _is_number(element.value)) else None
    if vr in _TEXT_VRS:
        return element if element.keyword in _KEPT_TEXTS else None
    if vr in _NUMBER_VRS and not _is_number(element.value):
        return None
    if vr == "CS" and not _is_code(element.value):
        return None
    return element


def _replaced(element: DataElement, action: str, *, enhanced: bool) -> DataElement | None:
    """What the table asks for; where it leaves the choice, what the kind of image requires.

    In a CT Image none of the attributes with a choice is required to have a value, in an Enhanced CT and in a slide
    most are.
    """
    vr = element.VR
    required = "D" in action and (enhanced or action == "D")
    if required and vr in (_TEXT_VRS | _NUMBER_VRS | _DUMMIES.keys()) - {"UN"}:
        return DataElement(element.tag, vr, _DUMMIES.get(vr, "REMOVED"))
    if "Z" in action:
        return DataElement(element.tag, vr, Items() if vr == "SQ" else None)
    return None


def _uid(old: str, key: bytes) -> str:
    """The standard's own identifiers stay, all others are replaced, whatever the table says."""
    return old if not old or old.startswith("1.2.840.10008.") else new_uid(old, key)


def _is_code(value: Any) -> bool:
    """Whether it is one of the standard's capital words, and no text that somebody put in their place."""
    words = [value] if isinstance(value, str) else value or []
    return all(re.fullmatch(r"[A-Z0-9_ ]{0,16}", str(word)) for word in words)


def _is_number(value: Any) -> bool:
    values = value if hasattr(value, "__iter__") and not isinstance(value, str | bytes) else [value]
    try:
        return all(one is None or one == "" or math.isfinite(float(one)) for one in values)
    except (TypeError, ValueError):
        return False


@cache
def _actions() -> dict[int, str]:
    """The action of each attribute of the table, in its own letters."""
    from dicomanonymizer.dicom_anonymization_databases import dicomfields_2026c as table

    columns = {
        "D": table.D_TAGS, "Z": table.Z_TAGS, "X": table.X_TAGS, "U": table.U_TAGS, "Z/D": table.Z_D_TAGS,
        "X/Z": table.X_Z_TAGS, "X/D": table.X_D_TAGS, "X/Z/D": table.X_Z_D_TAGS, "X/Z/U*": table.X_Z_U_STAR_TAGS,
    }  # fmt: skip
    # Entries of four numbers are groups of curves and overlays, which never stay.
    return {tag[0] << 16 | tag[1]: action for action, tags in columns.items() for tag in tags if len(tag) == 2}
