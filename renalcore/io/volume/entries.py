"""The files of an upload: in folders, in zip and tar archives, named by a DICOMDIR, or loose; nothing is unpacked."""

from __future__ import annotations

import gzip
import io
import itertools
import os
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, cast

from renalcore.errors import TooLarge, UnreadableFile
from renalcore.io.image import media_type, safe_name

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

MAX_FILES: Final = 20_000
"""Files in one upload: four studies of 5,000 slices."""
MAX_FILE_BYTES: Final = 4 * 2**30
"""One file: an enhanced multi-frame study of 8,000 slices of 512 x 512."""
MAX_BYTES: Final = 24 * 2**30
"""All files of an upload together, unpacked."""
_BOMB_RATIO: Final = 200
"""Unpacked bytes to packed ones; real slices stay below 20. Only what unpacks to more than `_BOMB_BYTES` is judged."""
_BOMB_BYTES: Final = 64 * 2**20
UNPACK_ERRORS: Final = (EOFError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error, gzip.BadGzipFile)
"""What unpacking raises at broken archives. It may name a file in there, so no error of ours has it as its cause."""
_TAR_HEADER_BYTES: Final = 2**20
"""Of what a tar archive says about a file; names of several thousand letters have less."""


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
        except (OSError, *UNPACK_ERRORS):
            raise damaged(self.name) from None
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


def head_of(path: Path, name: str) -> bytes:
    """The first 512 bytes of a file.

    Raises:
        UnreadableFile: The system does not give them.
    """
    try:
        with path.open("rb") as file:
            return file.read(512)
    except OSError as error:
        raise UnreadableFile(
            f"{name}: cannot be read ({error.strerror}). Check who may read it, and the disk that it lies on."
        ) from None


@contextmanager
def opened(paths: Sequence[Path], *, name: str | None = None) -> Iterator[list[Entry]]:
    """The files of folders, zip and tar archives, and loose files, readable until the end of the block.

    Args:
        paths: What was chosen.
        name: What messages call it instead of its own name; files in an archive are then told by their numbers, since
            their names may hold the patient's.

    Raises:
        UnreadableFile: A path does not exist or cannot be read, or an archive is damaged, locked or holds another one.
        TooLarge: Too many files, too many bytes, or an archive that unpacks to far more than it is.
    """
    numbers = itertools.count(1)
    told: Callable[[str], str] = safe_name if name is None else lambda _: f"file {next(numbers)}"
    with ExitStack() as stack:
        found: list[Entry] = []
        for path in paths:
            if not path.exists():
                raise UnreadableFile(
                    f"{name or safe_name(path.name)}: there is no such file or folder. Check its name and place."
                )
            files = sorted(_files(path)) if path.is_dir() else [path]
            for file in files:
                called = name or safe_name(file.name)
                head = head_of(file, called)
                if media_type(head) == "application/zip":
                    found += _zipped(stack.enter_context(_archive(file, called)), called, told)
                elif head[257:262] == b"ustar":
                    found += _tarred(file, called, told)
                else:
                    found.append(_plain(file, called, head))
            if len(found) > MAX_FILES:
                raise TooLarge(
                    f"{name or safe_name(path.name)}: more than {MAX_FILES} files. Choose the folder of one study only."
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


def _plain(path: Path, name: str, head: bytes) -> Entry:
    if path.stat().st_size > MAX_FILE_BYTES:
        raise TooLarge(f"{name}: larger than {MAX_FILE_BYTES // 2**30} GiB. Export the study as single slices.")
    if head[:2] == b"\x1f\x8b":
        return Entry(name, lambda: cast(BinaryIO, gzip.open(path, "rb")), bounded=False)
    return Entry(name, lambda: path.open("rb"), on_disk=True)


def _archive(path: Path, name: str) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise damaged(name) from error


def _zipped(archive: zipfile.ZipFile, name: str, told: Callable[[str], str]) -> list[Entry]:
    """The files in an archive, none of which is ever written anywhere, so none can leave its folder."""
    members = [member for member in archive.infolist() if not member.is_dir() and _counts(member.filename)]
    for member in members:
        if member.flag_bits & 1:
            raise UnreadableFile(f"{name}: the archive is locked by a password. Save it without one.")
        if member.file_size > _BOMB_BYTES and member.file_size > _BOMB_RATIO * max(member.compress_size, 1):
            raise TooLarge(f"{name}: a file in it unpacks to more than a CT file can be. Archive the study anew.")
    _check_sizes([member.file_size for member in members], name)
    return [_within(Entry(told(member.filename), _opener(archive, member)), name) for member in members]


def _tarred(path: Path, name: str, told: Callable[[str], str]) -> list[Entry]:
    """The files in a tar archive, which lie in it as they are."""
    members = [member for member in tar_members(path, name=name) if _counts(member.name)]
    _check_sizes([member.size for member in members], name)
    return [_within(Entry(told(member.name), _cutter(path, member), on_disk=True), name) for member in members]


def tar_members(path: Path, *, name: str) -> list[tarfile.TarInfo]:
    """What a tar archive holds of plain files, whole: links, devices and sparse files are no files.

    Args:
        path: The archive, not compressed.
        name: What messages call it.

    Raises:
        UnreadableFile: It is damaged or cut off.
        TooLarge: It holds more than `MAX_FILES` files.
    """
    members: list[tarfile.TarInfo] = []
    try:
        with _Headers(path, "rb") as file, tarfile.open(fileobj=cast(BinaryIO, file), mode="r:") as archive:
            for seen, member in enumerate(archive):
                if seen > 2 * MAX_FILES:
                    raise _too_many(name)
                if member.isreg() and not member.issparse():
                    members.append(member)
    except (tarfile.TarError, OSError, ValueError, EOFError) as error:
        raise damaged(name) from error
    if len(members) > MAX_FILES:
        raise _too_many(name)
    whole = path.stat().st_size
    if any(member.offset_data + member.size > whole for member in members):
        raise damaged(name)
    return members


def section(path: Path, member: tarfile.TarInfo) -> BinaryIO:
    """One of `tar_members`, open for reading."""
    return cast(BinaryIO, io.BufferedReader(_Section(path, member.offset_data, member.size)))


def _counts(path: str) -> bool:
    """Whether a file of an archive is one of the study's, by the folders and the name that it has there."""
    return not any(_is_clutter(part) for part in path.split("/"))


def _check_sizes(sizes: list[int], name: str) -> None:
    if len(sizes) > MAX_FILES:
        raise _too_many(name)
    if max(sizes, default=0) > MAX_FILE_BYTES:
        raise TooLarge(f"{name}: a file in it is more than a CT file can be. Archive the study anew.")
    if sum(sizes) > MAX_BYTES:
        raise TooLarge(f"{name}: unpacks to more than {MAX_BYTES // 2**30} GiB. Choose one study only.")


def _too_many(name: str) -> TooLarge:
    return TooLarge(f"{name}: more than {MAX_FILES} files in the archive. Choose one study or slide only.")


def _within(entry: Entry, name: str) -> Entry:
    """A file of the archive called `name`, unpacked where it is compressed itself."""
    head = entry.head()
    if media_type(head) == "application/zip" or head[257:262] == b"ustar":
        raise UnreadableFile(f"{name}: {entry.name} in it is an archive again. Unpack the outer one first.")
    return Entry(entry.name, _unzipper(entry), bounded=False) if head[:2] == b"\x1f\x8b" else entry


def _opener(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Callable[[], BinaryIO]:
    return lambda: cast(BinaryIO, io.BufferedReader(cast(io.RawIOBase, archive.open(member))))


def _cutter(path: Path, member: tarfile.TarInfo) -> Callable[[], BinaryIO]:
    return lambda: section(path, member)


def _unzipper(entry: Entry) -> Callable[[], BinaryIO]:
    return lambda: cast(BinaryIO, gzip.GzipFile(fileobj=entry.open()))


class _Headers(io.FileIO):
    """A tar archive whose headers are read, and which refuses those that would fill the memory."""

    def read(self, size: int | None = -1) -> bytes:
        if size is None or not 0 <= size <= _TAR_HEADER_BYTES:
            raise ValueError("a header of a tar archive is too long")
        return super().read(size)


class _Section(io.RawIOBase):
    """A part of a file as a file of its own."""

    name = ""  # pydicom asks for it

    def __init__(self, path: Path, start: int, size: int) -> None:
        self._file, self._start, self._size, self._at = path.open("rb", buffering=0), start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = max(0, offset + (0, self._at, self._size)[whence])
        return self._at

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        self._file.seek(self._start + self._at)
        read = self._file.readinto(view[: max(0, self._size - self._at)])
        self._at += read
        return read

    def close(self) -> None:
        self._file.close()
        super().close()
