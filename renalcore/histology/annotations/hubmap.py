"""HuBMAP's `train.csv` (Kaggle, "Hacking the Kidney"): glomeruli as runs of pixels, beside TIFFs named by `id`.

`encoding` (or `rle`, `predicted`) holds pairs `start length`, counted from 1 down the columns, the leftmost first:
pixel 1 is the upper left one and pixel 2 the one below it. Runs that touch, also at a corner, are one glomerulus;
glomeruli that touch cannot be told apart here, but in the polygon files (`geojson`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from renalcore.datasets.findings import Findings, Kind
from renalcore.datasets.pictures import key
from renalcore.errors import InputError, RenalError
from renalcore.histology.annotations.masks import is_mask
from renalcore.histology.annotations.record import SLIDE_SUFFIXES, Outline, Record
from renalcore.histology.names import GLOMERULUS
from renalcore.io.slide import open_slide
from renalcore.io.table import read_table

_COLUMNS: Final = ("encoding", "rle", "predicted")
_MOST_BYTES: Final = 512 * 1024 * 1024


def is_hubmap(path: Path) -> bool:
    """Whether a file is a table of runs, by its first line."""
    if path.suffix.lower() != ".csv":
        return False
    with path.open("rb") as stream:
        head = stream.readline(1 << 12).decode("utf-8-sig", "replace")
    names = {name.strip().strip('"').lower() for name in head.split(",")}
    return "id" in names and bool(names & set(_COLUMNS))


def read(path: Path, files: list[Path], findings: Findings) -> list[Record]:
    """The slides among some files that a table outlines.

    Raises:
        InputError: The table cannot be read.
    """
    by_stem = {key(file.stem): file for file in files if file.suffix.lower() in SLIDE_SUFFIXES and not is_mask(file)}
    table = read_table(path.read_bytes(), name=str(path), max_bytes=_MOST_BYTES)
    header = [name.lower() for name in table.header]
    column = next(header.index(name) for name in _COLUMNS if name in header)
    records = []
    for number, cells in table.rows:
        name = cells[header.index("id")]
        place = by_stem.get(key(name))
        if place is None:
            findings.add(
                Kind.LISTED_NOT_THERE, path, f"line {number} names {name}, of which there is no file",
                "add it, or go on without",
            )  # fmt: skip
            continue
        try:
            with open_slide(place) as slide:
                size = slide.width_px, slide.height_px
            outlines = outlines_of(cells[column], width_px=size[0], height_px=size[1])
        except RenalError as error:
            findings.add(Kind.BROKEN_LABEL, path, f"line {number}, {name}: {error}", "take the table from Kaggle again")
            continue
        records.append(Record(place, size, path, outlines))
    return records


def outlines_of(encoding: str, *, width_px: int, height_px: int) -> list[Outline]:
    """The glomeruli of one line of runs.

    Args:
        encoding: Pairs `start length`; empty where there is none.
        width_px: Width of the slide.
        height_px: Height of the slide.

    Raises:
        InputError: They are no pairs of numbers, or lie outside of the slide.
    """
    runs = _runs(encoding, width_px, height_px)
    if not len(runs):
        return []
    found = []
    parts = _connected(runs)
    order = np.argsort(parts, kind="stable")
    for rows in np.split(runs[order], np.flatnonzero(np.diff(parts[order])) + 1):
        left, top = rows[:, 0].min(), rows[:, 1].min()
        canvas = np.zeros((rows[:, 2].max() - top, rows[:, 0].max() - left + 1), np.uint8)
        for column, start, end in rows:
            canvas[start - top : end - top, column - left] = 1
        rings, nested = cv2.findContours(canvas, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        points = [ring[:, 0, :] + np.array([left + 0.5, top + 0.5]) for ring in rings]
        inner = nested[0][:, 3] >= 0
        outer = int(np.flatnonzero(~inner)[0])
        holes = tuple(ring for ring, is_hole in zip(points, inner, strict=True) if is_hole and len(ring) > 2)
        found.append(Outline(points[outer], GLOMERULUS, holes))
    return found


def _runs(encoding: str, width_px: int, height_px: int) -> NDArray[np.int64]:
    """Runs within one column each, `(N, 3)`: column, first row, row behind the last; in the order of the slide."""
    try:
        numbers = np.array(encoding.split(), np.int64)
    except (ValueError, OverflowError):
        raise InputError("the runs are not all whole numbers") from None
    if len(numbers) % 2:
        raise InputError("the runs are no pairs of a start and a length")
    starts, lengths = numbers[::2] - 1, numbers[1::2]
    ends = starts + lengths
    if len(starts) and (starts.min() < 0 or lengths.min() < 1 or ends.max() > width_px * height_px):
        raise InputError(f"the runs leave the slide of {width_px} x {height_px} px; are they of another size?")
    rows: list[tuple[int, int, int]] = []
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        while start < end:
            column = start // height_px
            stop = min(end, (column + 1) * height_px)
            rows.append((column, start - column * height_px, stop - column * height_px))
            start = stop
    return np.array(sorted(rows), np.int64).reshape(-1, 3)


def _connected(runs: NDArray[np.int64]) -> NDArray[np.int32]:
    """Which runs belong together: those of neighbouring columns that touch, also at a corner."""
    firsts = np.searchsorted(runs[:, 0], runs[:, 0] + 1)
    behind = np.searchsorted(runs[:, 0], runs[:, 0] + 1, side="right")
    one: list[int] = []
    other: list[int] = []
    for index in range(len(runs)):
        beside = slice(firsts[index], behind[index])
        touching = np.flatnonzero((runs[beside, 1] <= runs[index, 2]) & (runs[beside, 2] >= runs[index, 1]))
        one += [index] * len(touching)
        other += (touching + firsts[index]).tolist()
    graph = coo_array((np.ones(len(one)), (one, other)), shape=(len(runs), len(runs)))
    _, parts = connected_components(graph, directed=False)
    return np.asarray(parts, np.int32)
