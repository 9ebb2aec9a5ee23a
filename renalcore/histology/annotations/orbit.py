"""Orbit Image Analysis: outlines in its SQLite database, as the mouse and rat slides of paper 003 are published.

The form is that of Orbit's published source (github.com/mstritt/orbit-image-analysis). `RAW_DATA_FILE` names the slides
(`FILENAME`); each line of `RAW_ANNOTATION` with `RAW_ANNOTATION_TYPE` 0 is one outline: `DESCRIPTION` is its name, and
`DATA` a Java stream of a colour, the shape, its subtype (0 normal, 1 inclusion, 2 exclusion, 3 region of interest) and
its group. A shape is a `PolygonExt` (a `java.awt.Polygon`), `RectangleExt`, `Arc2DExt`, or a list of such; its points
are px of the full resolution at its scale of 100.

Normal outlines are read, exclusions become regions to ignore, inclusions and regions of interest outline no object and
are left out. Databases as Orbit's own code writes them are what this was written and tested on: which names the 21,037
glomeruli of Dryad's data set (doi 10.5061/dryad.fqz612jpc) bear could not be looked up; should nobody know them, the
reader says so, and a line of a mapping file tells.
"""

from __future__ import annotations

import sqlite3
import struct
from collections import Counter
from contextlib import closing
from pathlib import Path, PureWindowsPath
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from renalcore.datasets.findings import Findings, Kind, counted
from renalcore.datasets.pictures import key
from renalcore.errors import RenalError, UnreadableFile
from renalcore.histology.annotations.java import JavaObject, read_stream
from renalcore.histology.annotations.record import Outline, Record
from renalcore.histology.names import IGNORE

UNNAMED: Final = "(no name)"

_HEADER: Final = b"SQLite format 3\0"
_TABLES: Final = frozenset({"raw_annotation", "raw_data_file"})
_IMAGE_ANNOTATION: Final = 0
_NORMAL, _INCLUSION, _EXCLUSION, _REGION = 0, 1, 2, 3
_ARC_POINTS: Final = 72


def is_orbit(path: Path) -> bool:
    """Whether a file is a database of Orbit's."""
    with path.open("rb") as stream:
        if stream.read(len(_HEADER)) != _HEADER:
            return False
    try:
        with closing(_connected(path)) as database:
            names = {str(name).lower() for (name,) in database.execute("SELECT name FROM sqlite_master")}
    except sqlite3.Error:
        return False
    return names >= _TABLES


def read(path: Path, files: list[Path], findings: Findings) -> list[Record]:
    """The slides of a database that lie among some files, with their outlines.

    Raises:
        UnreadableFile: The database is damaged.
    """
    by_name = {key(file.name): file for file in files}
    try:
        with closing(_connected(path)) as database:
            slides = database.execute(
                "SELECT RAW_DATA_FILE_ID, FILENAME FROM RAW_DATA_FILE ORDER BY FILENAME"
            ).fetchall()
            rows = database.execute(
                "SELECT RAW_DATA_FILE_ID, DESCRIPTION, DATA FROM RAW_ANNOTATION WHERE RAW_ANNOTATION_TYPE = ? "
                "ORDER BY RAW_ANNOTATION_ID",
                (_IMAGE_ANNOTATION,),
            ).fetchall()
    except sqlite3.Error as error:
        raise UnreadableFile(f"{path} is damaged ({error}); copy it again") from error
    found: dict[int, Record] = {}
    absent = []
    outlined = Counter(number for number, _, _ in rows)
    for number, name in slides:
        place = by_name.get(key(PureWindowsPath(str(name)).name))  # a path of either system
        if place is not None and outlined[number]:
            found[number] = Record(place, (0, 0), path)
        elif outlined[number]:
            absent.append(str(name))
    if absent:
        findings.add(
            Kind.LISTED_NOT_THERE, path,
            f"outlines {counted(len(absent), 'slide')} of which there is no file, the first is {absent[0][:100]}",
            "add them, or go on without",
        )  # fmt: skip
    regions = 0
    for number, name, content in rows:
        record = found.get(number)
        if record is None:
            continue
        try:
            outlines, subtype = read_annotation(bytes(content or b""), str(name or "").strip() or UNNAMED)
        except RenalError as error:
            findings.add(
                Kind.BROKEN_LABEL, path, f"an outline of {record.path.name}: {error}", "draw it again in Orbit"
            )
            continue
        if subtype in (_INCLUSION, _REGION) or not outlines:
            regions += 1
        else:
            record.outlines += outlines
    if regions:
        findings.add(
            Kind.NO_OBJECT,
            path,
            f"{counted(regions, 'region')} of interest, inclusion or points left out",
            "nothing to do",
        )
    return list(found.values())


def read_annotation(content: bytes, name: str) -> tuple[list[Outline], int]:
    """The outlines of one `DATA`, and its subtype.

    Args:
        content: The Java stream.
        name: What outlines of subtype normal are called.

    Raises:
        UnreadableFile: It holds no shape that is known.
    """
    parts = read_stream(content)
    shapes = [part for part in parts if isinstance(part, JavaObject)]
    if len(shapes) != 1:
        raise UnreadableFile(f"it holds {len(shapes)} shapes instead of one")
    behind = b"".join(part for part in parts[parts.index(shapes[0]) + 1 :] if isinstance(part, bytes))
    subtype = struct.unpack_from(">i", behind)[0] if len(behind) >= 4 else _NORMAL  # early versions wrote none
    label = IGNORE if subtype == _EXCLUSION else name
    return [Outline(points, label) for points in _rings(shapes[0])], subtype


def _rings(shape: JavaObject) -> list[NDArray[np.float64]]:
    """The polygons of a shape in px of the full resolution."""
    kind = shape.kind.rpartition(".")[2]
    fields: dict[str, Any] = shape.fields
    scale = 100.0 / float(fields.get("scale") or 100.0)
    if kind in ("PolygonExt", "Polygon"):
        if fields.get("inverse"):
            raise UnreadableFile("an inverted polygon outlines no object")
        if fields.get("onlyPoints"):
            return []
        count = int(fields["npoints"])
        points = np.array([fields["xpoints"][:count], fields["ypoints"][:count]], np.float64).T
        return [points * scale]
    if kind in ("RectangleExt", "Rectangle"):
        x, y, width, height = (float(fields[name]) for name in ("x", "y", "width", "height"))
        return [np.array([[x, y], [x + width, y], [x + width, y + height], [x, y + height]]) * scale]
    if kind == "Arc2DExt":
        x, y, width, height = (float(fields[name]) for name in ("x", "y", "width", "height"))
        turn = np.linspace(0, 2 * np.pi, _ARC_POINTS, endpoint=False)
        return [np.column_stack((x + (1 + np.cos(turn)) * width / 2, y + (1 + np.sin(turn)) * height / 2)) * scale]
    if kind == "ShapeExtList":
        inner = fields.get("shapeList")
        members = [part for part in (inner.extra if inner is not None else ()) if isinstance(part, JavaObject)]
        return [ring for member in members for ring in _rings(member)]
    raise UnreadableFile(f"a shape of kind {kind} is not read")


def _connected(path: Path) -> sqlite3.Connection:
    """The database, opened so that nothing is written beside it."""
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)
