"""From an upload of CT to what is stored of it: the series without the patient, and its volume to be looked at.

Before anything is registered, and outside of a transaction, since a scan of 1,000 slices takes a minute. What is made
lies beside the upload until it is registered (`uploads.taken_over`); a process that dies leaves no more than a file
that goes with the upload. One slice is held at a time, then the volume once, as int16.
"""

from __future__ import annotations

import hashlib
import secrets
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_lowercase

from db import uploads
from db.ct_files import MEDIA_TYPE, disk_error
from db.models import CtFormat, Upload
from db.uploads import CheckedStudy
from renalcore.errors import InputError, NotFound, UnknownName, UnreadableFile
from renalcore.io.volume import SeriesFound, Volume, find_series, pack_series, read_volume, write_image
from renalcore.types import QualityFlag

ZIP = "application/zip"

_SPOKEN = "scan"  # instead of the file's name, which may hold the patient's
_PACKED, _READ = 0.35, 0.6
"""Shares of the time until the series is written, and until it is read again as a volume."""


@dataclass(frozen=True, slots=True)
class Made:
    """A file that is ready for the store.

    Attributes:
        path: Where it lies until then.
        sha256: Digest of its content.
        size_bytes: Its size.
        media_type: What it is.
    """

    path: Path
    sha256: str
    size_bytes: int
    media_type: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """One series of an upload, ready to be registered.

    Attributes:
        upload_key: The upload it came with.
        series: Its key there.
        format: What it came as.
        is_deidentified: Nothing of the patient is in its files.
        phase: The contrast phase in words, empty where nothing says it.
        slices: Number of slices.
        height_px: Rows of a slice.
        width_px: Columns of a slice.
        spacing_mm: Along slices, rows and columns.
        flags: Doubts about it.
        original_uids: Identifiers that its DICOM files came with, by those that they are stored under; none where they
            are stored as they are.
        file: The series: DICOM in a zip archive, or NIfTI.
        image: Its volume as NIfTI of int16 HU; the same file as `file` where NIfTI came in without the patient. The
            same scan gives the same, whenever and by whomever it is uploaded.
    """

    upload_key: str
    series: str
    format: CtFormat
    is_deidentified: bool
    phase: str
    slices: int
    height_px: int
    width_px: int
    spacing_mm: tuple[float, float, float]
    flags: tuple[QualityFlag, ...]
    original_uids: Mapping[str, str]
    file: Made
    image: Made


def new_key() -> bytes:
    """The secret with which the scans of one study get identifiers that belong together; kept nowhere."""
    from renalcore.io import deidentify  # which loads the readers of DICOM

    return deidentify.new_key()


def prepare(
    upload: Upload,
    series: str,
    *,
    keeps_identity: bool = False,
    key: bytes,
    progress: Callable[[float], None] = lambda _: None,
) -> Prepared:
    """Makes of one series what is stored.

    Args:
        upload: A complete upload of CT.
        series: Which of its series.
        keeps_identity: Store the files as they are, with what they say of the patient.
        key: As `new_key` gives it, one for all series of a study.
        progress: Told the share that is done, 0 to 1, from the calling thread.

    Raises:
        Conflict: The upload is not complete.
        UnknownName: It has no such series.
        InputError: The series cannot be read, in words that do not name a file.
        NotFound: The upload was given up.
        StorageFull: The disk is full. Nothing of it is kept.
        StorageError: The disk cannot be written.
    """
    found = CheckedStudy.of(upload).series
    chosen = next((one for one in found if one.key == series), None)
    if chosen is None:
        raise UnknownName(f"The upload has no series {series}. Reload the page.")
    source, made = uploads.part_of(upload), secrets.token_hex(4)
    if not source.exists():
        raise NotFound("The study is no longer on the server. Upload it again.")
    packed, image = (uploads.beside(upload, f"{made}.{name}") for name in ("series", "nii.gz"))
    try:
        volume, original_uids = _packed_and_read(
            source, chosen, found, packed, keeps_identity=keeps_identity, key=key, progress=progress
        )
        write_image(image, volume, progress=_share(progress, _READ, 1.0))
        stored = _made(image, MEDIA_TYPE)
        file = _made(packed, ZIP if chosen.format == "DICOM" else MEDIA_TYPE) if packed.exists() else stored
    except BaseException as error:
        for path in (packed, image):
            path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise disk_error(error, "The scan") from error
        if isinstance(error, InputError):
            raise type(error)(uploads.reason(error)) from error
        raise
    codes = {flag.code for flag in chosen.flags}
    return Prepared(
        upload_key=upload.key,
        series=series,
        format=chosen.format,
        is_deidentified=not keeps_identity,
        phase=chosen.phase,
        slices=volume.shape[0],
        height_px=volume.shape[1],
        width_px=volume.shape[2],
        spacing_mm=volume.spacing_mm,
        flags=(*chosen.flags, *(flag for flag in volume.flags if flag.code not in codes)),
        original_uids=original_uids,
        file=file,
        image=stored,
    )


def files_of(prepared: Iterable[Prepared]) -> dict[str, Path]:
    """Where that lies which is stored of these scans, by its digest: for `uploads.taken_over`."""
    return {made.sha256: made.path for one in prepared for made in (one.image, one.file)}


def _packed_and_read(
    source: Path,
    chosen: SeriesFound,
    found: Sequence[SeriesFound],
    packed: Path,
    *,
    keeps_identity: bool,
    key: bytes,
    progress: Callable[[float], None],
) -> tuple[Volume, Mapping[str, str]]:
    """The volume, read from what is stored: whoever opens that later gets the same; and its own identifiers."""
    original_uids: Mapping[str, str] = {}
    reading = _share(progress, _PACKED, _READ)
    if keeps_identity:
        packing = _share(progress, 0.0, _PACKED)
        pack_series(source, packed, series=chosen.key, name=_SPOKEN, progress=packing)
    elif chosen.format == "DICOM":
        from renalcore.io.deidentify import deidentify

        packing = _share(progress, 0.0, _PACKED)
        done = deidentify(source, packed, key=key, series=chosen.key, name=_SPOKEN, progress=packing)
        original_uids = done.replaced
    else:  # what is written of the volume holds no text of the file
        return read_volume(source, series=chosen.key, name=_SPOKEN, progress=reading), original_uids
    if chosen.format == "DICOM":
        with zipfile.ZipFile(packed, "a") as archive:  # of a file with two phases it tells which is meant
            archive.comment = chosen.key.encode()
    alone = _key_alone(packed, chosen, found)
    return read_volume(packed, series=alone, name=_SPOKEN, progress=reading), original_uids


def _key_alone(packed: Path, chosen: SeriesFound, found: Sequence[SeriesFound]) -> str | None:
    """The key of a series in its own archive, where it shares its number with nothing but phases of the same file.

    Raises:
        UnreadableFile: Which of the phases it is cannot be told.
    """
    number = chosen.key.rstrip(ascii_lowercase)
    sharing = [one.key for one in found if one.key.rstrip(ascii_lowercase) == number]
    if len(sharing) == 1:
        return None
    alone = [one.key for one in find_series(packed, name=_SPOKEN)]
    if len(alone) == 1:
        return alone[0]
    if len(alone) == len(sharing):
        return chosen.key
    raise UnreadableFile(
        f"Several series have the number {number}, and a file of one holds {len(alone)} phases, so that these cannot "
        "be told apart. Upload that file alone."
    )


def _share(progress: Callable[[float], None], first: float, last: float) -> Callable[[int, int], None]:
    """Tells of a step as a part of the whole, at most a hundred times."""
    told = -1

    def tell(done: int, of: int) -> None:
        nonlocal told
        if (step := int(100 * done / max(of, 1))) != told:
            told = step
            progress(first + (last - first) * step / 100)

    return tell


def _made(path: Path, media_type: str) -> Made:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Made(path, digest, path.stat().st_size, media_type)
