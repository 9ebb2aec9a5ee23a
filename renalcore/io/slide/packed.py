"""Slides in many files, as one: a tar archive of a `.mrxs` with its folder, or of the DICOM files of one slide.

In the archive an MRXS slide is `slide.mrxs` beside `slide/...`, whose files keep the names by which the slide refers to
them; DICOM files are named by numbers. No name is the patient's. Of anything else in an archive nothing is written: no
link, no device, no name with a folder of its own.
"""

from __future__ import annotations

import re
import shutil
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from renalcore.errors import UnreadableFile
from renalcore.io.volume.entries import damaged, section, tar_members

MRXS: Final = "slide.mrxs"
FOLDER: Final = "slide"
"""Of the other files of an MRXS slide."""
_NAMES: Final = re.compile(r"slide\.mrxs|slide/[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}|[0-9]{6}(\.dcm)?", re.ASCII)
_BLOCK_BYTES: Final = 1 << 22
STAND_IN: Final = b"MRXS"
"""In place of a `.mrxs`, whose name alone tells what it is: its picture of the glass may name the patient."""
_TAR_BYTES: Final = 512
_TAR_END: Final = bytes(2 * _TAR_BYTES)


@dataclass(frozen=True, slots=True)
class Packing:
    """The files of a slide as the archive that they become, which is written nowhere before it is asked for.

    Attributes:
        start: What stands before all files: that of a `.mrxs`, in whose place there is a mere word.
        files: Where each lies.
        headers: What stands before each in the archive.
        sizes: Their bytes.
        modified_s: When the last of them was changed, in seconds since 1970.
    """

    start: bytes
    files: tuple[Path, ...]
    headers: tuple[bytes, ...]
    sizes: tuple[int, ...]
    modified_s: float

    @classmethod
    def of(cls, path: Path) -> Packing | None:
        """That of a `.mrxs` file with the folder of its name, or of a folder with DICOM files; None for others.

        Links are not followed.

        Raises:
            OSError: A file is gone.
        """
        start, modified_s = b"", 0.0
        if path.suffix.lower() == ".mrxs":
            start = _header(MRXS, len(STAND_IN)) + STAND_IN.ljust(_TAR_BYTES, b"\0")
            modified_s = path.stat().st_mtime
            data = [one for one in _plain_files(path.with_suffix("")) if _NAMES.fullmatch(f"{FOLDER}/{one.name}")]
            named = [(f"{FOLDER}/{one.name}", one) for one in data]
        elif path.is_dir():
            levels = [one for one in _plain_files(path) if is_dicom_name(one.name)]
            named = [(f"{number:06d}", one) for number, one in enumerate(levels, start=1)]
        else:
            return None
        stats = [file.stat() for _, file in named]
        return cls(
            start=start,
            files=tuple(file for _, file in named),
            headers=tuple(_header(name, stat.st_size) for (name, _), stat in zip(named, stats, strict=True)),
            sizes=tuple(stat.st_size for stat in stats),
            modified_s=max(modified_s, *(stat.st_mtime for stat in stats), 0.0),
        )

    @property
    def size_bytes(self) -> int:
        """Size of the archive."""
        files_bytes = sum(size + -size % _TAR_BYTES for size in self.sizes)
        return len(self.start) + sum(map(len, self.headers)) + files_bytes + len(_TAR_END)

    def blocks(self, start: int) -> Iterator[bytes]:
        """The archive from the byte `start` on.

        Raises:
            OSError: A file is gone.
        """
        yield self.start[start:]
        start = max(0, start - len(self.start))
        for header, path, size in zip(self.headers, self.files, self.sizes, strict=True):
            yield header[start:]
            start = max(0, start - len(header))
            with path.open("rb") as file:
                at = file.seek(min(start, size))
                while block := file.read(min(_BLOCK_BYTES, size - at)):  # no more, should it grow
                    at += len(block)
                    yield block
            padding = bytes(-size % _TAR_BYTES)
            yield padding[max(0, start - size) :]
            start = max(0, start - size - len(padding))
        yield _TAR_END[start:]


def _header(name: str, size: int) -> bytes:
    member = tarfile.TarInfo(name)
    member.size = size
    return member.tobuf(tarfile.GNU_FORMAT)


def is_dicom_name(name: str) -> bool:
    """Whether a file is called as DICOM files are."""
    return name.lower().endswith(".dcm") and not name.startswith(".")


def _plain_files(folder: Path) -> list[Path]:
    if folder.is_symlink() or not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_file() and not path.is_symlink())


def is_packed(path: Path) -> bool:
    """Whether a file is a tar archive, as no slide in one file is."""
    with path.open("rb") as file:
        return file.read(512)[257:262] == b"ustar"


def holds_mrxs(path: Path, *, name: str) -> bool:
    """Whether an archive holds an MRXS slide.

    Raises:
        InputError: As `members`.
    """
    return any(member.name == MRXS for member in members(path, name=name))


def members(path: Path, *, name: str) -> list[tarfile.TarInfo]:
    """The files of a packed slide, sorted by their names.

    Args:
        path: The archive.
        name: What messages call it.

    Raises:
        UnreadableFile: It is damaged or cut off, holds nothing, something that is no part of a slide, or one without
            the `.mrxs` or its folder.
        TooLarge: It holds too many files.
    """
    found = sorted(tar_members(path, name=name), key=lambda member: member.name)
    names = [member.name for member in found]
    if not found or len(set(names)) < len(names) or not all(map(_NAMES.fullmatch, names)):
        raise UnreadableFile(f"{name}: the archive was not made of a slide. Choose the slide's own files or folder.")
    _check_complete(names, name)
    return found


def unpack(path: Path, folder: Path, *, name: str) -> Path:
    """Writes the files of a packed slide.

    Args:
        path: The archive.
        folder: An empty folder for them.
        name: What messages call it.

    Returns:
        The file by which the slide is opened.

    Raises:
        UnreadableFile: As `members`.
        TooLarge: It holds too many files.
        OSError: The folder cannot be written.
    """
    found = members(path, name=name)
    if any(member.name == MRXS for member in found):
        (folder / FOLDER).mkdir()
    for member in found:
        with section(path, member) as source, (folder / member.name).open("xb") as target:
            shutil.copyfileobj(source, target, _BLOCK_BYTES)
            if target.tell() != member.size:
                raise damaged(name)
    return main_file(folder)


def is_unpacked(path: Path, folder: Path, *, name: str) -> bool:
    """Whether a folder holds every file of a packed slide as it is in the archive.

    Raises:
        InputError: As `members`.
    """
    for member in members(path, name=name):
        file = folder / member.name
        if not file.is_file() or file.stat().st_size != member.size:
            return False
        with section(path, member) as packed, file.open("rb") as unpacked:
            while block := packed.read(_BLOCK_BYTES):
                if unpacked.read(_BLOCK_BYTES) != block:
                    return False
    return True


def main_file(folder: Path) -> Path:
    """The file by which an unpacked slide is opened."""
    mrxs = folder / MRXS
    return mrxs if mrxs.exists() else min(path for path in folder.iterdir() if path.is_file())


def _check_complete(names: list[str], name: str) -> None:
    with_folder = any(one.startswith(f"{FOLDER}/") for one in names)
    if MRXS in names and not with_folder:
        raise without_folder(name)
    if with_folder and MRXS not in names:
        raise UnreadableFile(f"{name}: the .mrxs file is missing. Choose it together with the folder of the same name.")


def without_folder(name: str) -> UnreadableFile:
    """The error of a `.mrxs` file by itself, which is no slide but may show the label."""
    return UnreadableFile(
        f"{name}: the folder with the slide's data is missing or incomplete. Choose or copy the .mrxs file together "
        "with the folder of the same name beside it."
    )
