"""The watched folder (`RENAL_SLIDES`): slides that a scanner or a network drive puts where the server can read them.

They are copied, never moved: the folder is somebody else's. What was registered is not offered again; it is known by a
digest of its name, size and date, since the name itself may hold the patient's and is not kept.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath

from sqlalchemy import select
from sqlalchemy.orm import Session

from db import uploads
from db.engine import now
from db.files import CHUNK_BYTES
from db.models import Slide, Upload, User
from db.settings import Settings
from db.uploads import Checked, CheckedStudy, Part
from renalcore.errors import NotFound
from renalcore.io.slide.packed import Packing, is_dicom_name

QUIET = timedelta(minutes=1)
"""A file that was written to within this time may still be growing."""

MOST = 500  # files that are offered; older ones wait until these are registered

SUFFIXES = frozenset(
    {
        ".svs", ".ndpi", ".scn", ".bif", ".svslide", ".mrxs", ".tif", ".tiff", ".btf", ".tf8",
        ".png", ".jpg", ".jpeg", ".webp",
    }
)  # fmt: skip
"""Of slides that are one file, or one beside a folder. Whether a file is one, its content says once it was taken."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """One file of the watched folder, a `.mrxs` with its folder, or a folder with the DICOM files of a slide.

    Attributes:
        name: Its path below the folder, with slashes.
        size_bytes: Its size, that of all files together.
        modified_at: When it was last written to.
    """

    name: str
    size_bytes: int
    modified_at: datetime

    @property
    def fingerprint(self) -> str:
        """What it is known by once it was taken."""
        return hashlib.sha256(f"{self.name}|{self.size_bytes}|{self.modified_at.isoformat()}".encode()).hexdigest()


def waiting(session: Session) -> list[Waiting]:
    """The files that can be taken, the newest first; none where no folder is watched."""
    folder = Settings.from_env().slides_folder
    if folder is None:
        return []
    taken = set(session.scalars(select(Slide.taken_from).where(Slide.taken_from.is_not(None))))
    taken |= set(session.scalars(select(Upload.taken_from).where(Upload.sha256.is_not(None))))
    limit = now() - QUIET
    found = [one for one in _files(folder) if one.modified_at < limit and one.fingerprint not in taken]
    return sorted(found, key=lambda one: one.modified_at, reverse=True)[:MOST]


def begin(session: Session, name: str, *, by: User) -> Upload:
    """An upload for a file of the watched folder, or the one that was begun with it.

    Raises:
        NotFound: The folder has no such file.
        Conflict, InputError, StorageFull: As `uploads.begin`.
    """
    path, one = _path(name)
    return uploads.begin(
        session,
        name=path.name,
        size=one.size_bytes,
        modified_ms=round(one.modified_at.timestamp() * 1000),
        by=by,
        taken_from=one.fingerprint,
    )


def copy(upload: Upload, name: str, *, progress: Callable[[float], None]) -> tuple[str, Checked | CheckedStudy]:
    """Copies what is not here yet of a file of the watched folder, and checks it.

    Args:
        upload: What `begin` gave for it.
        name: The file.
        progress: Told the share that is here, 0 to 1, now and then.

    Returns:
        What `uploads.complete` wants.

    Raises:
        NotFound: The folder has no such file any more, or another one by that name.
        InputError: It is no slide that can be read.
        StorageFull: The disk is full. What was copied is kept.
    """
    path, one = _path(name)
    if one.fingerprint != upload.taken_from:
        raise _missing()
    part = Part(upload, at=uploads.offset(upload))
    try:
        for block in _blocks(path, part.offset):
            part.write(block)
            progress(part.offset / upload.size_bytes)
        if _path(name)[1].fingerprint != upload.taken_from:
            raise _missing()
        return part.check()
    finally:
        part.close()


def _files(folder: Path) -> Iterator[Waiting]:
    """Files below the folder; links are not followed, so nothing outside it is reached."""
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found = [Path(parent, name) for name in names if Path(name).suffix.lower() in SUFFIXES and name[0] != "."]
        if Path(parent) != folder and any(map(is_dicom_name, names)):
            found.append(Path(parent))
        for path in found:
            if not path.is_symlink():
                try:
                    yield _told(path, folder)
                except OSError:  # gone since it was listed
                    continue


def _told(path: Path, folder: Path) -> Waiting:
    packing = Packing.of(path)
    if packing is None:
        stat = path.stat()
        size_bytes, modified_s = stat.st_size, stat.st_mtime
    else:
        size_bytes, modified_s = packing.size_bytes, packing.modified_s
    return Waiting(path.relative_to(folder).as_posix(), size_bytes, datetime.fromtimestamp(int(modified_s), UTC))


def _blocks(path: Path, start: int) -> Iterator[bytes]:
    """What is copied of a slide, from the byte `start` on."""
    packing = Packing.of(path)
    if packing is not None:
        yield from packing.blocks(start)
        return
    with path.open("rb") as source:
        source.seek(start)
        while block := source.read(16 * CHUNK_BYTES):
            yield block


def _path(name: str) -> tuple[Path, Waiting]:
    """A file of the folder by its name, and nothing else whatever the name says."""
    folder = Settings.from_env().slides_folder
    if folder is None:
        raise _missing()
    path = folder / PurePosixPath(name)
    if path.resolve() != path or not path.is_relative_to(folder) or path == folder:
        raise _missing()
    packing = Packing.of(path) if path.is_dir() else None
    if not path.is_file() and (packing is None or not packing.files):
        raise _missing()
    return path, _told(path, folder)


def _missing() -> NotFound:
    return NotFound("The slides folder has no such file, or it changed meanwhile. Reload the page and take it again.")
