"""MRXS slides: whether all of one is here, and one without the patient.

Beside the tissue their files hold pictures of the label and of the whole glass, names of slide and project, barcodes
and dates. Written is only what the tissue is read by: the size of the grid of photos, each zoom level, where its tiles
lie, and where the photos do. Of the data files all else becomes zeros, so that what stays lies where it did.
Comments within the compressed pixels of a tile are left alone, as in `renalcore.io.slide.dicom`.

The format is described at https://openslide.org/formats/mirax/.
"""

from __future__ import annotations

import configparser
import io
import re
import struct
import tarfile
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, BinaryIO, Final, cast

import numpy as np
from numpy.typing import NDArray

from renalcore.errors import UnreadableFile
from renalcore.io.slide.packed import FOLDER, MRXS, STAND_IN, members, without_folder
from renalcore.io.slide.vendors import unreadable
from renalcore.io.volume.entries import section

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_TEXT: Final = "Slidedat.ini"
_INDEX: Final = "Index.dat"
_TEXT_BYTES: Final = 1 << 20
"""OpenSlide reads no longer one."""
_INDEX_BYTES: Final = 1 << 28
"""A slide of a million tiles has 22 MB."""
_VERSION: Final = b"01.02"
_NEW_ID: Final = "0" * 32
"""In place of the slide's own, by which it could be found in the scanner's archive."""
_ZOOM: Final = "Slide zoom level"
_POSITIONS: Final = ("VIMSLIDE_POSITION_BUFFER", "StitchingIntensityLayer")
"""Layers that say where the photos lie: OpenSlide takes the first that there is."""
_GRID_KEYS: Final = ("IMAGENUMBER_X", "IMAGENUMBER_Y", "OBJECTIVE_MAGNIFICATION")
_DIVISIONS_KEY: Final = "CameraImageDivisionsPerSide"
_LEVEL_KEYS: Final = (
    "IMAGE_CONCAT_FACTOR", "OVERLAP_X", "OVERLAP_Y", "MICROMETER_PER_PIXEL_X", "MICROMETER_PER_PIXEL_Y",
    "IMAGE_FORMAT", "IMAGE_FILL_COLOR_BGR", "DIGITIZER_WIDTH", "DIGITIZER_HEIGHT",
)  # fmt: skip
_VALUE: Final = re.compile(r"[+-]?\d{1,10}(\.\d{0,20})?([eE][+-]?\d{1,3})?|JPEG|PNG|BMP24", re.ASCII)
"""What is written of a value: no text that somebody typed."""
_MOST_TILES: Final = 10_000_000
_WIDEST_PX: Final = 1 << 14
_TECHNICAL: Final = re.compile(r"Data\d{1,6}\.dat|Index\.dat", re.ASCII)
"""Names of files that are a scanner's, and so can be told."""
_ERRORS: Final = (configparser.Error, KeyError, ValueError)
"""What reading a broken slide raises. It may hold what the file holds, so no error of ours has it as its cause."""

_Numbers = NDArray[np.int32]


def check_mrxs(path: Path, *, name: str) -> None:
    """Checks that all files that the tissue needs lie in the folder beside a `.mrxs`, and are whole.

    OpenSlide notices only when it comes to a tile that is missing.

    Raises:
        UnreadableFile: One is missing, cut off or damaged.
    """
    paths = {file.name: file for file in path.with_suffix("").iterdir() if file.is_file()}
    _read(_Files({one: file.stat().st_size for one, file in paths.items()}, lambda one: paths[one].open("rb")), name)


def deidentify_mrxs(path: Path, target: Path, *, name: str) -> None:
    """Writes a packed MRXS slide, without the patient, into another archive of the same kind.

    The same files give the same archive, byte for byte. No picture is held in memory.

    Args:
        path: The archive (see `renalcore.io.slide.packed`).
        target: The archive to write.
        name: What messages call it.

    Raises:
        UnreadableFile: Files of it are missing, cut off or damaged.
        TooLarge: It holds too many files.
        OSError: `target` cannot be written.
    """
    inside = {member.name.removeprefix(f"{FOLDER}/"): member for member in members(path, name=name)}
    files = _Files({one: member.size for one, member in inside.items()}, lambda one: section(path, inside[one]))
    tissue = _read(files, name)
    texts = {MRXS: STAND_IN, f"{FOLDER}/{_TEXT}": _slidedat(tissue), f"{FOLDER}/{_INDEX}": _index(tissue)}
    with tarfile.open(target, "w", format=tarfile.GNU_FORMAT) as archive:
        for inner, text in texts.items():
            _add(archive, inner, len(text), io.BytesIO(text))
        for number, places in tissue.places().items():
            file = tissue.data[number]
            with files.open(file) as whole:
                kept = io.BufferedReader(_Kept(whole, *_spans(places)))
                _add(archive, f"{FOLDER}/{_data_name(number)}", files.sizes[file], cast(BinaryIO, kept))


@dataclass(frozen=True, slots=True)
class _Files:
    """The files of the folder beside a `.mrxs`: their bytes, and how one is opened."""

    sizes: Mapping[str, int]
    open: Callable[[str], BinaryIO]


@dataclass(frozen=True, slots=True)
class _Tissue:
    """What the tissue of a slide is read by.

    Attributes:
        grid: Of the photos, by the keys of the file.
        levels: The zoom levels, by the keys of the file.
        layer: Which of `_POSITIONS` there is; "" where the photos lie evenly.
        data: Names of the data files.
        tiles: Of each level, `(N, 4)`: number in the grid, offset and length in bytes, number of the data file.
        positions: Offset, length and number of the data file, `(0 or 1, 3)`.
    """

    grid: Mapping[str, str]
    levels: tuple[Mapping[str, str], ...]
    layer: str
    data: tuple[str, ...]
    tiles: tuple[_Numbers, ...]
    positions: _Numbers

    def places(self) -> dict[int, NDArray[np.int64]]:
        """Offset and length of all that lies in a data file, `(N, 2)`, by the number of each in which anything does."""
        every = np.concatenate([place[:, -3:] for place in (*self.tiles, self.positions)]).astype(np.int64)
        every = every[np.argsort(every[:, 2], kind="stable")]
        numbers, firsts = np.unique(every[:, 2], return_index=True)
        return dict(zip(numbers.tolist(), np.split(every[:, :2], firsts[1:]), strict=True))


def _read(files: _Files, name: str) -> _Tissue:
    """What `files` say, all of which are there and long enough.

    Raises:
        UnreadableFile: They are not, or make no sense.
    """
    if _TEXT not in files.sizes:
        raise without_folder(name)
    try:
        text = configparser.RawConfigParser(strict=False, delimiters=("=",), comment_prefixes=("#",))
        text.optionxform = str  # type: ignore[assignment, method-assign]
        # A byte a letter, as the slide's name for itself is compared with the index, whatever the encoding is.
        text.read_string(_content(files, _TEXT, _TEXT_BYTES).removeprefix(b"\xef\xbb\xbf").decode("latin-1"))
        index_name = text["HIERARCHICAL"]["INDEXFILE"]
        _check_there(files, [index_name], name)
        tissue = _tissue(text, _content(files, index_name, _INDEX_BYTES))
    except _ERRORS:
        raise unreadable(name) from None
    used = {tissue.data[number]: places.sum(axis=1).max() for number, places in tissue.places().items()}
    _check_there(files, list(used), name)
    short = [file for file, end_bytes in used.items() if end_bytes > files.sizes[file]]
    if short:
        raise UnreadableFile(
            f"{name}: {_told(short)} of the slide ends too early; it was cut off while it was copied. Copy the folder "
            "beside the .mrxs file from the scanner again."
        )
    return tissue


def _content(files: _Files, file: str, most_bytes: int) -> bytes:
    if files.sizes[file] > most_bytes:
        raise ValueError("longer than any slide has it")
    with files.open(file) as stream:
        return stream.read()


def _check_there(files: _Files, needed: list[str], name: str) -> None:
    missing = [file for file in needed if file not in files.sizes]
    if missing:
        raise UnreadableFile(
            f"{name}: {_told(missing)} of the slide is missing. Copy the folder beside the .mrxs file from the scanner "
            "again, with all the files in it, and choose both."
        )


def _told(found: list[str]) -> str:
    """Files by their names, where those are not somebody's words."""
    first = f"the file {found[0]}" if _TECHNICAL.fullmatch(found[0]) else "a file"
    return first if len(found) == 1 else f"{first} with {len(found) - 1} more"


def _tissue(text: configparser.RawConfigParser, index: bytes) -> _Tissue:
    """What the two files say of a slide.

    Raises:
        configparser.Error: Something is missing.
        KeyError: Something is missing.
        ValueError: Something makes no sense.
    """
    general, tree, files = text["GENERAL"], text["HIERARCHICAL"], text["DATAFILE"]
    start = _VERSION + general["SLIDE_ID"].encode("latin-1")
    if tree["HIER_0_NAME"] != _ZOOM or not index.startswith(start):
        raise ValueError("of another version")
    count = _whole(tree["HIER_0_COUNT"], 32)
    grid = {key: _value(general[key]) for key in _GRID_KEYS} | {
        _DIVISIONS_KEY: _value(general.get(_DIVISIONS_KEY, "1"))
    }
    sections = [text[tree[f"HIER_0_VAL_{number}_SECTION"]] for number in range(count)]
    levels = tuple({key: _value(section[key]) for key in _LEVEL_KEYS} for section in sections)
    for level in levels:  # OpenSlide takes memory for a tile before it looks at it
        _whole(level["DIGITIZER_WIDTH"], _WIDEST_PX)
        _whole(level["DIGITIZER_HEIGHT"], _WIDEST_PX)
    if _whole(grid["IMAGENUMBER_X"], _MOST_TILES) * _whole(grid["IMAGENUMBER_Y"], _MOST_TILES) > _MOST_TILES:
        raise ValueError("more tiles than any slide has")
    data = tuple(files[f"FILE_{number}"] for number in range(_whole(files["FILE_COUNT"], 100_000)))
    zooms, others = _ints(index, len(start), 2).tolist()
    tiles = tuple(_tiles(index, at) for at in _ints(index, zooms, count).tolist())
    layer, record = next(((one, at) for one in _POSITIONS if (at := _first_record(tree, one)) is not None), ("", 0))
    positions = np.zeros((0, 3), np.int32)
    if layer:
        (at,) = _ints(index, others + 4 * record, 1)
        _, page = _ints(index, at, 2)
        positions = _ints(index, page, 7)[None, 4:]
    for place in (*tiles, positions):
        if place.size and (place.min() < 0 or place[:, -1].max() >= len(data)):
            raise ValueError("a tile is nowhere")
    if not sum(map(len, tiles)):
        raise ValueError("a slide of no tiles")
    return _Tissue(grid, levels, layer, data, tiles, positions)


def _first_record(tree: Mapping[str, str], layer: str) -> int | None:
    """Number of the first record of a layer that is none of zoom levels; None where there is no such layer.

    As in OpenSlide, layers behind it may be empty or not described at all, while those before it may not.
    """
    record = 0
    for number in range(int(tree["NONHIER_COUNT"])):
        if tree[f"NONHIER_{number}_NAME"] == layer:
            return record
        record += _whole(tree[f"NONHIER_{number}_COUNT"], 1_000_000)
    return None


def _tiles(index: bytes, at: int) -> _Numbers:
    """The tiles of a level, which are listed on pages, each of which says where the next is."""
    nothing, page = _ints(index, at, 2)
    if nothing:
        raise ValueError("no list of tiles")
    found: list[_Numbers] = []
    seen: set[int] = set()
    while page or not found:
        if page in seen:
            raise ValueError("a list of tiles without an end")
        seen.add(page)
        at = page
        count, page = _ints(index, at, 2).tolist()
        found.append(_ints(index, at + 8, 4 * count).reshape(-1, 4))
    return np.concatenate(found)


def _ints(index: bytes, at: int, count: int) -> _Numbers:
    if at < 0 or count < 0:
        raise ValueError("before the start")
    return np.frombuffer(index, "<i4", int(count), int(at))


def _whole(text: str, most: int) -> int:
    value = int(text)
    if not 0 < value <= most:
        raise ValueError("not what any slide has")
    return value


def _value(text: str) -> str:
    if not _VALUE.fullmatch(text):
        raise ValueError("words where a number is due")
    return text


def _data_name(number: int) -> str:
    return f"Data{number:04d}.dat"


def _slidedat(tissue: _Tissue) -> bytes:
    """What a slide says of itself, with nothing in it but `tissue`."""
    count = len(tissue.levels)
    tree = {"INDEXFILE": _INDEX, "HIER_COUNT": "1", "HIER_0_NAME": _ZOOM, "HIER_0_COUNT": str(count)}
    names = [f"LAYER_0_LEVEL_{number}_SECTION" for number in range(count)]
    for number, name in enumerate(names):
        tree |= {f"HIER_0_VAL_{number}": f"ZoomLevel_{number}", f"HIER_0_VAL_{number}_SECTION": name}
    tree |= {"NONHIER_COUNT": str(len(tissue.positions))}
    if tissue.layer:
        tree |= {"NONHIER_0_NAME": tissue.layer, "NONHIER_0_COUNT": "1", "NONHIER_0_VAL_0": "default"}
    files = {f"FILE_{number}": _data_name(number) for number in range(len(tissue.data))}
    sections: dict[str, Mapping[str, str]] = {
        "GENERAL": {"SLIDE_VERSION": _VERSION.decode(), "SLIDE_ID": _NEW_ID, **tissue.grid},
        "HIERARCHICAL": tree,
        "DATAFILE": {"FILE_COUNT": str(len(files)), **files},
        **dict(zip(names, tissue.levels, strict=True)),
    }
    lines = [f"[{name}]\n" + "".join(f"{key} = {value}\n" for key, value in keys.items())
             for name, keys in sections.items()]  # fmt: skip
    return "".join(lines).encode()


def _index(tissue: _Tissue) -> bytes:
    """Where the tiles and the positions of `tissue` lie, each level on one page."""
    start = _VERSION + _NEW_ID.encode()
    index = bytearray(start + bytes(8))

    def put(numbers: list[int]) -> int:
        index.extend(struct.pack(f"<{len(numbers)}i", *numbers))
        return len(index) - 4 * len(numbers)

    zooms = [put([0, put([len(tiles), 0, *tiles.ravel().tolist()])]) for tiles in tissue.tiles]
    others = [put([0, put([1, 0, 0, 0, *place])]) for place in tissue.positions.tolist()]
    struct.pack_into("<2i", index, len(start), put(zooms), put(others))
    return bytes(index)


def _add(archive: tarfile.TarFile, inner: str, size_bytes: int, content: IO[bytes]) -> None:
    member = tarfile.TarInfo(inner)
    member.size = size_bytes
    archive.addfile(member, content)


def _spans(places: NDArray[np.int64]) -> tuple[list[int], list[int]]:
    """Where each stretch that `places` cover begins, and where it ends."""
    order = places[np.argsort(places[:, 0])]
    starts, ends = order[:, 0], np.maximum.accumulate(order.sum(axis=1))
    apart = starts[1:] > ends[:-1]
    return starts[np.r_[True, apart]].tolist(), ends[np.r_[apart, True]].tolist()


class _Kept(io.RawIOBase):
    """A file as long as it is, with zeros outside some stretches of it."""

    def __init__(self, file: BinaryIO, starts: list[int], ends: list[int]) -> None:
        self._file, self._starts, self._ends = file, starts, ends
        self._at = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        piece = self._file.read(len(view))
        end = self._at + len(piece)
        view[: len(piece)] = bytes(len(piece))
        number = bisect_right(self._ends, self._at)
        while number < len(self._starts) and self._starts[number] < end:
            first, last = max(self._starts[number], self._at) - self._at, min(self._ends[number], end) - self._at
            view[first:last] = piece[first:last]
            number += 1
        self._at = end
        return len(piece)
