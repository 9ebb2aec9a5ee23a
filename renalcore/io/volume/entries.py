"""The files of an upload: in folders, in zip archives, named by a DICOMDIR, or loose; nothing is unpacked to disk."""

from __future__ import annotations

import gzip
import io
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, cast

from renalcore.errors import TooLarge, UnreadableFile
from renalcore.io.image import media_type, safe_name

MAX_FILES: Final = 20_000
"""Files in one upload: four studies of 5,000 slices."""
MAX_FILE_BYTES: Final = 4 * 2**30
"""One file: an enhanced multi-frame study of 8,000 slices of 512 x 512."""
MAX_BYTES: Final = 24 * 2**30
"""All files of an upload together, unpacked."""
_BOMB_RATIO: Final = 200
"""Unpacked bytes to packed ones; real slices stay below 20. Only what unpacks to more than `_BOMB_BYTES` is judged."""
_BOMB_BYTES: Final = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of an upload.

    Attributes:
        name: Its base name, fit for a message.
        open: Opens its content, unpacked, from the start.
        on_disk: It lies uncompressed on disk, so that several threads may read parts of it.
        bounded: Its unpacked size was checked; that of a gzip file is known only when it was read.
    """

    name: str
    open: Callable[[], BinaryIO]
    on_disk: bool = False
    bounded: bool = True

    def head(self, size: int = 512) -> bytes:
        """Its first bytes.

        Raises:
            UnreadableFile: They cannot be unpacked.
        """
        found = bytearray()  # in pieces: a buffer of `size` bytes is not made for a small file
        try:
            with self.open() as file:
                while len(found) < size and (piece := file.read(min(size - len(found), 2**20))):
                    found += piece
        except (OSError, EOFError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
            raise damaged(self.name) from error
        return bytes(found)

    def content(self, limit: int) -> bytes:
        """All of it.

        Raises:
            TooLarge: It unpacks to more than `limit` bytes.
            UnreadableFile: It cannot be unpacked.
        """
        content = self.head(limit + 1)
        if len(content) > limit:
            raise TooLarge(f"{self.name}: unpacks to more than its picture can be. Export the study again.")
        return content


def damaged(name: str) -> UnreadableFile:
    """The error of a file that is cut off or broken."""
    return UnreadableFile(f"{name}: the file is cut off or damaged. Copy or export it again.")


@contextmanager
def opened(paths: Sequence[Path]) -> Iterator[list[Entry]]:
    """The files of folders, zip archives, DICOMDIRs and loose files, readable until the end of the block.

    Raises:
        UnreadableFile: A path does not exist, or an archive is damaged, locked or holds another archive.
        TooLarge: Too many files, too many bytes, or an archive that unpacks to far more than it is.
    """
    with ExitStack() as stack:
        found: list[Entry] = []
        for path in paths:
            if not path.exists():
                raise UnreadableFile(f"{safe_name(path.name)}: there is no such file or folder.")
            files = sorted(_files(path)) if path.is_dir() else [path]
            for file in files:
                if media_type(_head(file)) == "application/zip":
                    found += _zipped(stack.enter_context(_archive(file)), safe_name(file.name))
                else:
                    found.append(_plain(file))
            if len(found) > MAX_FILES:
                raise TooLarge(
                    f"{safe_name(path.name)}: more than {MAX_FILES} files. Choose the folder of one study only."
                )
        yield found


def _files(folder: Path) -> Iterator[Path]:
    for place, folders, names in os.walk(folder):  # does not follow links to other folders
        folders[:] = [name for name in folders if not _is_clutter(name)]
        for name in names:
            path = Path(place, name)
            if not _is_clutter(name) and path.is_file():
                yield path


def _is_clutter(name: str) -> bool:
    """What operating systems leave in folders."""
    return (name.startswith(".") and name.strip(".") != "") or name in ("__MACOSX", "Thumbs.db", "desktop.ini")


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(512)


def _plain(path: Path) -> Entry:
    name = safe_name(path.name)
    if path.stat().st_size > MAX_FILE_BYTES:
        raise TooLarge(f"{name}: larger than {MAX_FILE_BYTES // 2**30} GiB. Export the study as single slices.")
    if _head(path)[:2] == b"\x1f\x8b":
        return Entry(name, lambda: cast(BinaryIO, gzip.open(path, "rb")), bounded=False)
    return Entry(name, lambda: path.open("rb"), on_disk=True)


def _archive(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise damaged(safe_name(path.name)) from error


def _zipped(archive: zipfile.ZipFile, name: str) -> list[Entry]:
    """The files in an archive, none of which is ever written anywhere, so none can leave its folder."""
    members = [
        member
        for member in archive.infolist()
        if not member.is_dir() and not any(_is_clutter(part) for part in member.filename.split("/"))
    ]
    if len(members) > MAX_FILES:
        raise TooLarge(f"{name}: more than {MAX_FILES} files in the archive. Choose one study only.")
    for member in members:
        inside = safe_name(member.filename)
        if member.flag_bits & 1:
            raise UnreadableFile(f"{name}: the archive is locked by a password. Save it without one.")
        bomb = member.file_size > _BOMB_BYTES and member.file_size > _BOMB_RATIO * max(member.compress_size, 1)
        if bomb or member.file_size > MAX_FILE_BYTES:
            raise TooLarge(f"{name}: {inside} in it unpacks to more than a CT file can be. Archive the study anew.")
    if sum(member.file_size for member in members) > MAX_BYTES:
        raise TooLarge(f"{name}: unpacks to more than {MAX_BYTES // 2**30} GiB. Choose one study only.")
    entries = []
    for member in members:
        entry = Entry(safe_name(member.filename), _opener(archive, member))
        head = entry.head()
        if media_type(head) == "application/zip":
            raise UnreadableFile(f"{name}: {entry.name} in it is an archive again. Unpack the outer one first.")
        if head[:2] == b"\x1f\x8b":
            entry = Entry(entry.name, _unzipper(entry), bounded=False)
        entries.append(entry)
    return entries


def _opener(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Callable[[], BinaryIO]:
    return lambda: cast(BinaryIO, io.BufferedReader(cast(io.RawIOBase, archive.open(member))))


def _unzipper(entry: Entry) -> Callable[[], BinaryIO]:
    return lambda: cast(BinaryIO, gzip.GzipFile(fileobj=entry.open()))
