"""Pictures and label files on disk: finding them, pairing them, their size, their split."""

from __future__ import annotations

import codecs
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from renalcore.datasets.findings import Findings, Kind
from renalcore.errors import InputError, UnreadableFile
from renalcore.io.image import Limits, read_pixels, read_size

Image = NDArray[np.uint8]
Split = Literal["train", "val", "test"]

ANY_SIDE: Final = Limits(min_side_px=1)
"""Training data may be crops; only what is reported of a patient has to be a whole field."""

PICTURE_SUFFIXES: Final = frozenset({".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp"})

SPLITS: Final[Mapping[str, Split]] = MappingProxyType(
    {
        "train": "train", "training": "train", "trainval": "train",
        "val": "val", "valid": "val", "validation": "val", "dev": "val",
        "test": "test", "testing": "test",
    }
)  # fmt: skip
_LABEL_FOLDERS: Final = frozenset({"images", "labels", "annotations", "jpegimages", "xmls"})


def find_pictures(folder: Path) -> tuple[Path, ...]:
    """All pictures under a folder, labelled or not, in the order of their names; hidden files are left out.

    Raises:
        InputError: It is not a folder.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; give the folder that holds the pictures")
    return tuple(path for path in files_under(folder) if path.suffix.lower() in PICTURE_SUFFIXES)


def read_rgb(path: Path) -> Image:
    """A training picture as `(H, W, 3)` uint8 RGB, decoded as the fields of a patient are, whatever its size.

    Raises:
        UnreadableFile: It cannot be decoded.
        TooLarge: It exceeds a limit of `renalcore.io.image`.
    """
    return read_pixels(path, name=path.name, limits=ANY_SIDE)


def read_text(path: Path) -> str:
    """A label file's text: UTF-8 with or without a byte-order mark, UTF-16 with one, else Windows' Western encoding."""
    content = path.read_bytes()
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16", "replace")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("cp1252", "replace")


def absolute(path: Path) -> Path:
    """The path from the root without `..`; links are not followed, since a link's own name counts."""
    return Path(os.path.normpath(path.absolute()))


def places(entry: str, bases: Iterable[Path]) -> Iterator[Path]:
    """Where a path of somebody else's machine may lie here; Roboflow writes `../train/images` for `train/images`."""
    forms = [entry, *([entry[3:]] if entry.startswith("../") else [])]
    return (absolute(base / form) for form in forms for base in bases)


def files_under(folder: Path) -> list[Path]:
    """All files in a folder and below, by name; hidden ones are left out, and so is a link back to a folder above.

    Raises:
        OSError: A folder cannot be opened.
    """
    found: list[Path] = []
    for place, folders, names in os.walk(folder, followlinks=True, onerror=_refuse):
        here = Path(place).resolve()
        folders[:] = [
            name
            for name in folders
            if not name.startswith((".", "__MACOSX")) and not here.is_relative_to(Path(place, name).resolve())
        ]
        found += [Path(place, name) for name in names if not name.startswith(".")]
    return sorted(found)


def _refuse(error: OSError) -> None:
    raise error


def key(text: str) -> str:
    """A name for comparison: macOS and Windows write the same one differently."""
    return unicodedata.normalize("NFC", text).casefold()


def place_of(path: Path) -> str:
    """What a picture and its label file have in common: the path without `images`, `labels` and suffix."""
    parts = [key(part) for part in path.with_suffix("").parts]
    return "/".join([*(part for part in parts[:-1] if part not in _LABEL_FOLDERS), parts[-1]])


class Finder:
    """Finds a label's picture, or a picture's label, by place or by a name that only one file has."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self.by_place: dict[str, Path] = {}
        self.by_full_place: dict[str, Path] = {}
        by_stem: dict[str, list[Path]] = defaultdict(list)
        by_name: dict[str, list[Path]] = defaultdict(list)
        self.paths = tuple(paths)
        for path in self.paths:
            self.by_place.setdefault(place_of(path), path)
            self.by_full_place.setdefault(place_of(path) + key(path.suffix), path)
            by_stem[key(path.stem)].append(path)
            by_name[key(path.name)].append(path)
        self.by_stem = {stem: found[0] for stem, found in by_stem.items() if len(found) == 1}
        self.by_name = {name: found[0] for name, found in by_name.items() if len(found) == 1}

    def without(self, taken: Iterable[Path]) -> Finder:
        """A finder of the other files."""
        gone = set(taken)
        return Finder(path for path in self.paths if path not in gone)


def split_of(path: Path, folder: Path) -> Split | None:
    """The split that a folder's name says, the innermost first."""
    for part in reversed(Path(os.path.relpath(path, folder)).parts[:-1]):
        named = split_called(part)
        if named:
            return named
    return None


def split_called(word: str) -> Split | None:
    """The split that a word means: `valid`, `val2017`, `Training`; None if it means none."""
    return SPLITS.get(re.sub(r"[\d_\-. ]+$", "", word.lower()))  # val2017, train_1


def size_of(path: Path, findings: Findings) -> tuple[int, int] | None:
    """Width and height in px of the upright picture; None, with a finding, where it cannot be read."""
    try:
        return read_size(path)
    except UnreadableFile:
        findings.add(Kind.UNREADABLE_PICTURE, path, "is not a picture that can be read", "replace it or remove it")
        return None
