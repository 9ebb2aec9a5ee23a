"""Slides and CT studies on their way to the server: gigabytes that come in pieces and go on after a break.

Each upload is a row and, until it is registered, a file `uploads/KEY.part` in the data folder. The size of that file is
how far the upload is: whatever dies, browser, connection or server, it goes on from there. One writer at a time holds a
lock on the file. The digest is counted as the bytes come; a server that was restarted counts it anew at the end.

What a CT study is called, its folder or its file, often is the patient's name. It is not kept: a digest of it, as of a
file of the watched folder, finds the upload again.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import re
import secrets
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from sqlalchemy import select
from sqlalchemy.orm import Session

from db import slide_files
from db.engine import now, once_committed
from db.files import CHUNK_BYTES, SPARE_BYTES, store
from db.models import Upload, User
from db.settings import Settings
from renalcore.errors import Conflict, InputError, NotFound, StorageError, StorageFull, TooLarge, UnreadableFile
from renalcore.io.image import safe_name
from renalcore.io.slide import open_slide
from renalcore.io.slide.blanking import deidentify_tiff
from renalcore.io.slide.mirax import deidentify_mrxs
from renalcore.io.slide.packed import holds_mrxs, is_packed, unpack, without_folder
from renalcore.io.volume import SeriesFound, find_series
from renalcore.types import QualityFlag

Kind = Literal["histology", "ct"]
"""What is uploaded in pieces."""

_KINDS: Mapping[str, str] = MappingProxyType(
    {".zip": "zip archive", ".tar": "tar archive", ".nii": "NIfTI file", ".nii.gz": "NIfTI file"}
)
"""By suffix what a CT study of one file is called."""

ABANDONED_AFTER = timedelta(days=7)

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


class Busy(Conflict):
    """Another request still writes this upload."""


@dataclass(frozen=True, slots=True)
class Checked:
    """What an upload of histology turned out to be.

    Attributes:
        format: In words, such as "Aperio SVS".
        width_px: Width of the finest level.
        height_px: Height of the finest level.
        um_per_px: Its scale, None where the file does not say.
        objective: Magnification, None where the file does not say.
        flags: Doubts about it.
        stored_bytes: Size of what is stored, None where that is the file as it came.
    """

    format: str
    width_px: int
    height_px: int
    um_per_px: float | None
    objective: float | None
    flags: tuple[QualityFlag, ...]
    stored_bytes: int | None = None

    @classmethod
    def of(cls, upload: Upload) -> Checked:
        """The check of a complete upload.

        Raises:
            Conflict: It is not complete.
        """
        found = _found(upload)
        return cls(**found | {"flags": _flags(found)})


@dataclass(frozen=True, slots=True)
class CheckedStudy:
    """What an upload of CT turned out to be.

    Attributes:
        series: Its series, those that can be read first; at least one can. Nothing in them is a patient's.
    """

    series: tuple[SeriesFound, ...]

    @classmethod
    def of(cls, upload: Upload) -> CheckedStudy:
        """The check of a complete upload.

        Raises:
            Conflict: It is not complete.
        """
        series = []
        for one in _found(upload)["series"]:
            spacing = one["spacing_mm"] and tuple(one["spacing_mm"])
            series.append(SeriesFound(**one | {"flags": _flags(one), "spacing_mm": spacing}))
        return cls(tuple(series))


def _found(upload: Upload) -> dict[str, Any]:
    if upload.found is None:
        raise _incomplete()
    return upload.found


def _incomplete() -> Conflict:
    return Conflict("This upload is not complete. Wait for it, or choose its file again to go on.")


def _flags(found: dict[str, Any]) -> tuple[QualityFlag, ...]:
    return tuple(QualityFlag(**flag) for flag in found["flags"])


def begin(
    session: Session,
    *,
    name: str,
    size: int,
    modified_ms: int,
    by: User,
    modality: Kind = "histology",
    taken_from: str | None = None,
) -> Upload:
    """A new upload, or the one that the same person began with the same file.

    Args:
        session: An open session.
        name: What the file is called; its folder is dropped. Of CT no more is kept than what kind of file it is.
        size: Its bytes.
        modified_ms: When it was last changed, in ms since 1970: with name and size it tells one file from another.
        by: Who brings it.
        modality: What it is checked for once it is here.
        taken_from: Which file of the watched folder it is, None where a browser brings it.

    Raises:
        InputError: The file is empty.
        TooLarge: It is larger than the settings allow.
        StorageFull: The disk has no room for it.
    """
    settings = Settings.from_env()
    if size <= 0:
        raise InputError("The file is empty (0 bytes). Copy it from the scanner again.")
    if size > settings.max_slide_gb * 1e9:
        raise TooLarge(
            f"The file has {size / 1e9:.1f} GB, more than the {settings.max_slide_gb:g} GB that are accepted here. "
            "An administrator can raise RENAL_MAX_SLIDE_GB."
        )
    name = safe_name(name)
    if modality == "ct":
        taken_from = hashlib.sha256(f"{name}|{size}|{modified_ms}".encode()).hexdigest()
        name = _kind_of(name)
    same = select(Upload).where(
        Upload.by_id == by.id,
        Upload.modality == modality,
        Upload.name == name,
        Upload.size_bytes == size,
        Upload.modified_ms == modified_ms,
        Upload.taken_from.is_(None) if taken_from is None else Upload.taken_from == taken_from,
    )
    known = session.scalars(same.limit(1)).one_or_none()
    if known is not None:
        return known
    _folder().mkdir(parents=True, exist_ok=True)
    promised = sum(upload.size_bytes - offset(upload) for upload in session.scalars(select(Upload)))
    free = shutil.disk_usage(_folder()).free - promised - SPARE_BYTES
    if size > free:
        raise StorageFull(
            f"The disk has no room for it: {size / 1e9:.1f} GB are needed, {max(0, free) / 1e9:.1f} GB are free. "
            "Ask your administrator to free some space."
        )
    upload = Upload(
        key=secrets.token_hex(16),
        by_id=by.id,
        modality=modality,
        name=name,
        size_bytes=size,
        modified_ms=modified_ms,
        taken_from=taken_from,
    )
    session.add(upload)
    session.flush()
    part_of(upload).touch()
    return upload


def _kind_of(name: str) -> str:
    """What a CT study comes as, without its name, at whose end the browser puts the number of several files."""
    if counted := re.search(r"\d+ files?(?=\)?$)", name):
        return counted[0]
    return next((kind for suffix, kind in _KINDS.items() if name.lower().endswith(suffix)), "1 file")


def get(session: Session, key: str, *, by: User) -> Upload:
    """The upload with this key.

    Raises:
        NotFound: There is none, or it is somebody else's.
    """
    upload = session.scalars(select(Upload).where(Upload.key == key, Upload.by_id == by.id)).one_or_none()
    if upload is None:
        raise NotFound("There is no such upload: it was registered, discarded, or given up. Choose the file again.")
    return upload


def of_user(session: Session, by: User, modality: Kind = "histology") -> list[Upload]:
    """What a person has uploaded for a modality and not registered yet, complete or not, oldest first."""
    mine = select(Upload).where(Upload.by_id == by.id, Upload.modality == modality)
    return list(session.scalars(mine.order_by(Upload.id)))


def offset(upload: Upload) -> int:
    """How many bytes of it are here."""
    if upload.sha256 is not None:
        return upload.size_bytes
    try:
        return part_of(upload).stat().st_size
    except FileNotFoundError:
        return 0


def part_of(upload: Upload) -> Path:
    """The file in which it arrives."""
    return _folder() / f"{upload.key}.part"


def beside(upload: Upload, what: str) -> Path:
    """A file that is made of it before it is registered; it goes with the upload."""
    return _folder() / f"{upload.key}.{what}"


def complete(session: Session, upload: Upload, sha256: str, checked: Checked | CheckedStudy) -> None:
    """Note that an upload is there, and what it is."""
    held = session.get_one(Upload, upload.id)
    held.sha256, held.found = sha256, asdict(checked)
    session.flush()


def discard(session: Session, upload: Upload) -> None:
    """Give an upload up."""
    session.delete(session.get_one(Upload, upload.id))
    session.flush()
    _remove_files(upload)
    if upload.sha256 is not None:
        slide_files.forget(upload.sha256)


def file_of(upload: Upload) -> dict[str, Path]:
    """Where that lies which is stored of a complete upload of histology, by its digest.

    Raises:
        Conflict: It is not complete.
    """
    if upload.sha256 is None:
        raise _incomplete()
    made = beside(upload, _MADE)
    return {upload.sha256: made if made.exists() else part_of(upload)}


@contextmanager
def taken_over(session: Session, files: Mapping[str, Path], keys: Collection[str], *, by: User) -> Iterator[None]:
    """Register within the block: at its end the files are in the store, and once it is committed the uploads given up.

    Where anything is refused nothing of it is left in the store, and where the store or the commit fails
    `FileStore.sweep` removes it; either way the uploads stay as they are.

    Args:
        session: A session in which nothing was asked yet, so that the database stays free while files are copied; what
            comes after the block in its transaction must not be refused.
        files: What is stored, by its digest: see `FileStore.arriving`.
        keys: Of the uploads that it was made of.
        by: Who registers.

    Raises:
        NotFound: An upload is somebody else's or was registered already, or its file is gone.
        StorageFull: No space is left.
        StorageError: The store cannot be written.
    """
    with store().arriving(files) as settle:
        yield
        mine = [get(session, key, by=by) for key in keys]
        for upload in mine:
            session.delete(upload)
        session.flush()
        settle()
        once_committed(session, partial(_given_up, mine))


def _given_up(mine: Iterable[Upload]) -> None:
    with suppress(OSError):  # what is left is swept
        for upload in mine:
            _remove_files(upload)


def _remove_files(upload: Upload) -> None:
    _digests.pop(upload.key, None)
    for path in _folder().glob(f"{upload.key}.*"):
        path.unlink(missing_ok=True)


def sweep(session: Session, *, older_than: timedelta = ABANDONED_AFTER) -> int:
    """Removes uploads of which nothing has come for days, parts that belong to none, and what was made of an upload.

    Returns:
        The number of uploads and files removed.
    """
    limit = now() - older_than
    known = set()
    removed = 0
    for upload in session.scalars(select(Upload)):
        part = part_of(upload)
        if max(upload.created_at, _changed_at(part) or upload.created_at) < limit:
            discard(session, upload)
            removed += 1
        else:
            known.add(part)
    for part in _folder().glob("*"):
        if part not in known and (changed := _changed_at(part)) is not None and changed < limit:
            part.unlink(missing_ok=True)
            removed += 1
    return removed


class Part:
    """The file of an upload, open for the next piece. Not a context manager: it is opened and closed in other threads.

    Args:
        upload: Which one.
        at: Where the piece begins.

    Raises:
        Busy: Another request still writes it.
        Conflict: The piece begins elsewhere than where the file ends.
        NotFound: The upload was given up.
    """

    def __init__(self, upload: Upload, *, at: int) -> None:
        self._upload = upload
        try:
            self._file = part_of(upload).open("r+b", buffering=0)
        except FileNotFoundError as error:
            raise NotFound("This upload was given up. Choose the file again to begin anew.") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.offset = self._file.seek(0, 2)
            if at != self.offset:
                raise Conflict(f"The next piece begins at byte {self.offset}, not at {at}.")
        except BlockingIOError as error:
            self._file.close()
            raise Busy("Another request still writes this upload.") from error
        except Conflict:
            self._file.close()
            raise
        seen, digest = _digests.get(upload.key, (0, hashlib.sha256()))
        self._digest = digest if seen == self.offset else None

    def write(self, block: bytes) -> None:
        """Append some bytes.

        Raises:
            TooLarge: They go beyond the size that was told. None of them is kept.
            StorageFull: The disk is full. What fitted is kept.
        """
        if self.offset + len(block) > self._upload.size_bytes:
            raise TooLarge(f"The file was said to have {self._upload.size_bytes} bytes, and more came.")
        view = memoryview(block)
        try:
            while view:
                written = self._file.write(view)
                if self._digest is not None:
                    self._digest.update(view[:written])
                view = view[written:]
                self.offset += written
        except OSError as error:
            if error.errno in _NO_SPACE:
                raise StorageFull(
                    "The disk of the server is full. What has arrived is kept: ask your administrator to free some "
                    "space, then resume."
                ) from error
            raise StorageError(f"The upload cannot be written ({error.strerror or type(error).__name__}).") from error

    def check(self) -> tuple[str, Checked | CheckedStudy]:
        """The digest of what is stored of it, and what it is.

        Raises:
            InputError: It is no slide or CT study that can be read, in words that do not name it.
            StorageError: There is no room to unpack a slide of many files, or the disk cannot be written.
        """
        path = part_of(self._upload)
        if self._digest is None:
            with path.open("rb") as whole:
                self._digest = hashlib.sha256()
                while chunk := whole.read(CHUNK_BYTES):
                    self._digest.update(chunk)
        came = self._digest.hexdigest()
        sha256, found = _CHECKS[self._upload.modality](self._upload, came)
        if sha256 != came:  # what is here is no longer what came
            self._digest = None
            _digests.pop(self._upload.key, None)
        return sha256, found

    def close(self) -> None:
        """Let others write, and remember the digest so far."""
        if self._digest is not None:
            _digests[self._upload.key] = (self.offset, self._digest)
        self._file.close()


_SPOKEN: Mapping[Kind, str] = MappingProxyType({"histology": "slide", "ct": "scan"})
"""Instead of the file's name, which may hold the patient's."""


_MADE = "slide"
"""A slide of many files without the patient, beside the upload that it is made of."""


def _slide(upload: Upload, sha256: str) -> tuple[str, Checked]:
    path = part_of(upload)
    if is_packed(path):
        return _packed_slide(upload, sha256)
    if upload.name.lower().endswith(".mrxs"):
        raise without_folder(_SPOKEN["histology"])
    found = _slide_at(path)
    if found.format == "DICOM slide":  # under the name of another format, else it had come packed
        raise UnreadableFile(
            f"{_SPOKEN['histology']}: this is DICOM under the name of another format. Let its name end in .dcm, then "
            "choose it again: it is stored without the patient then."
        )
    if deidentify_tiff(path, name=_SPOKEN["histology"]):
        sha256, found = _digest(path), _slide_at(path)
    return sha256, found


def _packed_slide(upload: Upload, sha256: str) -> tuple[str, Checked]:
    """A slide of many files, made anew without the patient, which gives the same each time.

    What it is unpacked to here stays for whoever looks at it next.
    """
    path, name, made = part_of(upload), _SPOKEN["histology"], beside(upload, _MADE)
    flags: tuple[QualityFlag, ...] = ()
    size_bytes = path.stat().st_size
    with slide_files.a_folder(size_bytes, beside_bytes=size_bytes) as folder:
        if holds_mrxs(path, name=name):
            deidentify_mrxs(path, made, name=name)
        else:
            from renalcore.io.slide.dicom import deidentify_slide  # which loads the readers of DICOM

            flags = deidentify_slide(path, made, key=bytes.fromhex(sha256), name=name)
        sha256 = _digest(made)
        found = _slide_at(unpack(made, folder, name=name))
        slide_files.keep(folder, sha256)
    return sha256, replace(found, flags=(*found.flags, *flags), stored_bytes=made.stat().st_size)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _slide_at(path: Path) -> Checked:
    with open_slide(path, name=_SPOKEN["histology"]) as slide:
        return Checked(slide.format, slide.width_px, slide.height_px, slide.um_per_px, slide.objective, slide.flags)


def _study(upload: Upload, sha256: str) -> tuple[str, CheckedStudy]:
    found = [replace(one, refused=_plainly(one.refused)) for one in find_series(part_of(upload), name=_SPOKEN["ct"])]
    if all(one.refused for one in found):
        told = [found[0].refused] if len(found) == 1 else [f"Series {one.key}: {one.refused}" for one in found]
        raise UnreadableFile(" ".join(dict.fromkeys(told)))
    return sha256, CheckedStudy(tuple(found))


_CHECKS: Mapping[str, Callable[[Upload, str], tuple[str, Checked | CheckedStudy]]] = MappingProxyType(
    {"histology": _slide, "ct": _study}
)


def reason(error: InputError) -> str:
    """Why `Part.check` refuses a file, for a page that shows the file's name beside it."""
    return _plainly(str(error))


def _plainly(words: str) -> str:
    for spoken in _SPOKEN.values():
        words = words.removeprefix(f"{spoken}: ")
    return words[:1].upper() + words[1:]


_digests: dict[str, tuple[int, Any]] = {}
"""By upload the digest of its first bytes, and how many these are."""


def _folder() -> Path:
    return Settings.from_env().data_folder / "uploads"


def _changed_at(path: Path) -> datetime | None:
    try:
        return datetime.fromtimestamp(path.stat().st_mtime, UTC)
    except FileNotFoundError:
        return None
