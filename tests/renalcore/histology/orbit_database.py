"""A database as Orbit Image Analysis writes it: its tables, and shapes as Java's ObjectOutputStream serialises them."""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

PACKAGE = "com.actelion.research.orbit.imageAnalysis.models"
Points = list[tuple[int, int]]


def utf(text: str) -> bytes:
    return struct.pack(">H", len(text.encode())) + text.encode()


def description(name: str, fields: Iterable[tuple[str, str, bytes]], parent: bytes) -> bytes:
    """A class: its fields as (form, name, class of an object's field), and its parent."""
    rows = [form.encode() + utf(field) + kind for form, field, kind in fields]
    head = b"\x72" + utf(name) + struct.pack(">q", 2) + b"\x02" + struct.pack(">H", len(rows))
    return head + b"".join(rows) + b"\x78" + parent


def numbers(array_class: bytes, values: list[int]) -> bytes:
    return b"\x75" + array_class + struct.pack(f">i{len(values)}i", len(values), *values)


def handle(number: int) -> bytes:
    return b"\x71" + struct.pack(">i", 0x7E0000 + number)


def polygon(points: Points, *, scale: float = 100.0) -> bytes:
    """A PolygonExt; Java numbers what it writes, and later points back at it."""
    base = description(  # handle 2; its field classes are handles 3 and 4
        "java.awt.Polygon",
        [
            ("I", "npoints", b""),
            ("L", "bounds", b"\x74" + utf("Ljava/awt/Rectangle;")),
            ("[", "xpoints", b"\x74" + utf("[I")),
            ("[", "ypoints", handle(4)),
        ],
        b"\x70",
    )
    kind = description(  # handle 0; the class of its point is handle 1
        f"{PACKAGE}.PolygonExt",
        [
            ("Z", "closed", b""), ("Z", "inverse", b""), ("Z", "onlyPoints", b""), ("D", "rasterMaxLength", b""),
            ("I", "rdfId", b""), ("D", "scale", b""), ("D", "useRasterizedContainsThresh", b""),
            ("L", "viewPortOffs", b"\x74" + utf("Ljava/awt/Point;")),
        ],
        base,
    )  # fmt: skip
    padding = [0] * 2  # Java doubles its arrays: there are more places than points
    x, y = [point[0] for point in points] + padding, [point[1] for point in points] + padding
    array_class = description("[I", [], b"\x70")  # handle 6, behind the polygon itself
    of_base = struct.pack(">i", len(points)) + b"\x70" + numbers(array_class, x) + numbers(handle(6), y)
    own = b"\x01\x00\x00" + struct.pack(">didd", 2000.0, 0, scale, 500.0)
    point = (
        b"\x73" + description("java.awt.Point", [("I", "x", b""), ("I", "y", b"")], b"\x70") + struct.pack(">ii", 0, 0)
    )
    return b"\x73" + kind + of_base + own + point


def ellipse(x: float, y: float, width: float, height: float) -> bytes:
    doubles = [("D", name, b"") for name in ("extent", "height", "start", "width", "x", "y")]
    base = description(f"{PACKAGE}.Arc2DFixed$Double", doubles, b"\x70")
    kind = description(f"{PACKAGE}.Arc2DExt", [("I", "rdfId", b""), ("D", "scale", b"")], base)
    return b"\x73" + kind + struct.pack(">6d", 360.0, height, 0.0, width, x, y) + struct.pack(">id", 0, 100.0)


def annotation(shape: bytes, *, subtype: int = 0) -> bytes:
    """The `DATA` of one line: a colour, the shape, its subtype and group."""
    behind = struct.pack(">ii", subtype, 1)
    return b"\xac\xed\x00\x05\x77\x04" + struct.pack(">i", -256) + shape + b"\x77\x08" + behind


def write(path: Path, slides: dict[str, list[tuple[str, bytes]]]) -> Path:
    """A database with outlines, (description, DATA), of slides by their file names."""
    with closing(sqlite3.connect(path)) as database:
        database.execute(
            "CREATE TABLE RAW_DATA_FILE (RAW_DATA_FILE_ID INTEGER PRIMARY KEY NOT NULL, RAW_DATA_ID INTEGER NOT NULL, "
            "PATH TEXT, FILENAME TEXT NOT NULL, MD5 TEXT, SERIES INTEGER)"
        )
        database.execute(
            "CREATE TABLE RAW_ANNOTATION (RAW_ANNOTATION_ID INTEGER PRIMARY KEY NOT NULL, RAW_DATA_FILE_ID INTEGER, "
            "RAW_ANNOTATION_TYPE INTEGER, DESCRIPTION TEXT, DATA BLOB, USER_ID TEXT NOT NULL, "
            "MODIFY_DATE DATE NOT NULL)"
        )
        for number, (name, outlines) in enumerate(slides.items(), start=1):
            database.execute("INSERT INTO RAW_DATA_FILE VALUES (?, 1, 'D:\\slides', ?, '', 0)", (number, name))
            for text, data in outlines:
                database.execute(
                    "INSERT INTO RAW_ANNOTATION VALUES (NULL, ?, 0, ?, ?, 'orbit', 0)", (number, text, data)
                )
        database.execute("INSERT INTO RAW_ANNOTATION VALUES (NULL, 0, 7, 'a model', x'00', 'orbit', 0)")
        database.commit()
    return path
