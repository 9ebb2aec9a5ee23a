"""Slides in many files, as one: a tar archive of a `.mrxs` with its folder, or of the DICOM files of one slide.

In the archive an MRXS slide is `slide.mrxs` beside `slide/...`, whose files keep the names by which the slide refers to
them; DICOM files are named by numbers. Neither name holds the patient's. Of anything else in an archive nothing is
written: no link, no device, no name with a folder of its own.
"""

from __future__ import annotations

import re
import shutil
import tarfile
from pathlib import Path
from typing import Final

from renalcore.errors import UnreadableFile
from renalcore.io.volume.entries import damaged, section, tar_members

MRXS: Final = "slide.mrxs"
FOLDER: Final = "slide"
"""Of the other files of an MRXS slide."""
_NAMES: Final = re.compile(r"slide\.mrxs|slide/[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}|[0-9]{6}(\.dcm)?", re.ASCII)
_BLOCK_BYTES: Final = 1 << 22


def is_packed(path: Path) -> bool:
    """Whether a file is a tar archive, as no slide in one file is."""
    with path.open("rb") as file:
        return file.read(512)[257:262] == b"ustar"


def holds_mrxs(path: Path, *, name: str) -> bool:
    """Whether an archive holds an MRXS slide, whole or not.

    Raises:
        InputError: As `members`.
    """
    return any(member.name.startswith(FOLDER) for member in members(path, name=name))


def members(path: Path, *, name: str) -> list[tarfile.TarInfo]:
    """The files of a packed slide, sorted by their names.

    Args:
        path: The archive.
        name: What messages call it.

    Raises:
        UnreadableFile: It is damaged or cut off, holds nothing, or something that is no part of a slide.
        TooLarge: It holds too many files.
    """
    found = sorted(tar_members(path, name=name), key=lambda member: member.name)
    names = [member.name for member in found]
    if not found or len(set(names)) < len(names) or not all(map(_NAMES.fullmatch, names)):
        raise UnreadableFile(f"{name}: the archive was not made of a slide. Choose the slide's own files or folder.")
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
        UnreadableFile: As `members`, or files of the slide are missing.
        TooLarge: It holds too many files.
        OSError: The folder cannot be written.
    """
    found = members(path, name=name)
    names = [member.name for member in found]
    _check_complete(names, name)
    if MRXS in names:
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
