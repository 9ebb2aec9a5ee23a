"""Pictures beside masks: one number a glomerulus (instances), or glomeruli as one colour on black (binary).

Pairs are named by a `pairs.csv` (`image`, `instances`, and any of `group`, `stain`, `species`, `um_per_px`, `known`,
`split`, `note`), or by their names: a mask has its picture's name, with or without `_mask`, `_masks`, `_instances`,
`_labels` or `_seg` behind it, in the same folder or in one called `masks`, `instances`, `labels`, `annotations`, `gt`
or `ground_truth`.

What a mask is, its values say. With two values, 0 and another one, it is binary and its connected parts are the
glomeruli; with more, each value but 0 is one glomerulus, of however many parts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from renalcore.datasets.findings import Findings, Kind
from renalcore.datasets.pictures import PICTURE_SUFFIXES, absolute, key, split_called
from renalcore.errors import InputError, UnreadableFile
from renalcore.histology.annotations.record import KNOWN, Known, Record
from renalcore.io.table import read_table

TABLE: Final = "pairs.csv"
_MASK_SUFFIXES: Final = frozenset({".png", ".tif", ".tiff", ".bmp"})
_FOLDERS: Final = frozenset(
    {"mask", "masks", "instances", "labels", "annotations", "gt", "ground_truth", "groundtruth"}
)
_ENDINGS: Final = re.compile(r"[-_. ](masks?|instances?|labels?|seg|segmentation|gt)$", re.IGNORECASE)
_NOTES: Final[tuple[tuple[str, Known], ...]] = (("target=tuft", "inside"), ("only normal structures", "some"))
"""Words of the notes of our own collection that say what is known there."""


def read_instances(path: Path) -> NDArray[np.uint16]:
    """A mask as `(H, W)` uint16: 0 outside, one number a glomerulus.

    Raises:
        UnreadableFile: It is no picture of whole numbers, or holds more than 65,535 glomeruli.
    """
    encoded = np.fromfile(path, np.uint8)
    values = cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED) if len(encoded) else None
    if values is None or not np.issubdtype(values.dtype, np.integer):
        raise UnreadableFile(f"{path} is not a mask that can be read; save it as 8- or 16-bit PNG or TIFF, one channel")
    if values.ndim == 3:
        colour = values[:, :, :3]
        if (colour != colour[:, :, :1]).any():
            raise UnreadableFile(f"{path} is a mask in colours; save it with one channel, a number a glomerulus")
        values = np.ascontiguousarray(colour[:, :, 0])
    if values.min() < 0 or values.max() > 65_535:
        raise UnreadableFile(f"{path} numbers its glomeruli up to {values.max()}; use 1 to 65,535")
    numbers = np.flatnonzero(np.bincount(values.ravel()))
    if len(numbers) <= 2 and numbers[0] in (0, numbers[-1]):
        count, parts = cv2.connectedComponents((values > 0).astype(np.uint8), connectivity=8)
        if count > 65_536:
            raise UnreadableFile(f"{path} has {count - 1} separate specks; is it a mask of glomeruli?")
        return np.asarray(parts, np.uint16)
    return np.asarray(values, np.uint16)


def is_mask(path: Path) -> bool:
    """Whether a file is named as a mask is: by its ending, or by its folder."""
    return path.suffix.lower() in _MASK_SUFFIXES and (
        _ENDINGS.search(path.stem) is not None or path.parent.name.lower() in _FOLDERS
    )


def read_table_of_pairs(folder: Path, findings: Findings) -> list[Record]:
    """The pairs that `pairs.csv` names.

    Raises:
        InputError: It has no columns `image` and `instances`, or a cell that cannot be meant.
    """
    file = folder / TABLE
    table = read_table(file.read_bytes(), name=str(file))
    header = [name.lower() for name in table.header]
    if not {"image", "instances"} <= set(header):
        raise InputError(f"{file} needs the columns image and instances; its first line names {', '.join(header)}")
    records = []
    for number, cells in table.rows:
        row = dict(zip(header, cells, strict=True))
        picture, mask = (absolute(folder / row[name].replace("\\", "/")) for name in ("image", "instances"))
        absent = [place.name for place in (picture, mask) if not place.is_file()]
        if absent:
            findings.add(
                Kind.MISSING_PICTURE, file, f"line {number} names {' and '.join(absent)}, which is not there",
                "add it, or remove the line",
            )  # fmt: skip
            continue
        record = Record(picture, (0, 0), mask, mask_path=mask)
        _describe(record, row, f"{file}, line {number}")
        records.append(record)
    return records


def _describe(record: Record, row: Mapping[str, str], where: str) -> None:
    """What a line says of a slide beside its labels."""
    record.group = row.get("group", "")
    record.stain = row.get("stain") or None
    record.species = species_called(row.get("species", ""))
    record.um_per_px = stated_um(row.get("um_per_px", ""))
    note = row.get("note", "").lower()
    record.known = next((known for words, known in _NOTES if words in note), None)
    if row.get("known"):
        if row["known"].lower() not in KNOWN:
            raise InputError(f"{where}: `known` is one of {', '.join(KNOWN)}, not {row['known']!r}")
        record.known = KNOWN[row["known"].lower()]
    if row.get("split"):
        record.split = split_called(row["split"])
        if record.split is None:
            raise InputError(f"{where}: unknown split {row['split']!r}; use train, val or test")


def species_called(text: str) -> str | None:
    """The species that words mean: human, mouse or rat."""
    first = re.match(r"\s*([a-z]+)", text.lower())
    known = {"human": "human", "homo": "human", "mouse": "mouse", "mice": "mouse", "mus": "mouse", "rat": "rat"}
    return known.get(first.group(1)) if first else None


def stated_um(text: str) -> float | None:
    """Micrometres a pixel, where they are stated as a number; `~8` is an estimate, and `unknown` is unknown."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 < value < float("inf") else None


def read_beside(files: list[Path]) -> list[Record]:
    """Pictures with a mask that their names tell."""
    masks: dict[str, list[Path]] = {}
    for path in files:
        if is_mask(path):
            masks.setdefault(_name_of(path), []).append(path)
    records = []
    for path in files:
        if path.suffix.lower() not in PICTURE_SUFFIXES or is_mask(path):
            continue
        near = [mask for mask in masks.get(_name_of(path), ()) if _belongs(mask, path)]
        if len(near) == 1:
            records.append(Record(path, (0, 0), near[0], mask_path=near[0]))
    return records


def _name_of(path: Path) -> str:
    return key(_ENDINGS.sub("", path.stem) if is_mask(path) else path.stem)


def _belongs(mask: Path, picture: Path) -> bool:
    """Whether both lie in one folder, or in folders beside each other."""
    places = {picture.parent, picture.parent.parent}
    return mask.parent in places or mask.parent.parent in places
