"""COCO: a JSON file with `images`, `annotations` and `categories`."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path, PurePosixPath
from typing import Any, Final

from renalcore.datasets.findings import Findings, Kind
from renalcore.datasets.pictures import Finder, files_under, key, places, read_text, size_of, split_called, split_of
from renalcore.errors import InputError
from renalcore.sediment.labels.record import ADD_PICTURE, Record, Source, numbers, same_size, stated_px

_Rows = list[dict[str, Any]]
_PARTS: Final = {"images": ("id", "file_name"), "annotations": ("image_id",), "categories": ("id", "name")}


def is_label(path: Path) -> bool:
    """Whether a JSON file is COCO."""
    with path.open("rb") as stream:
        head = stream.read(1 << 16)
    return any(f'"{part}"'.encode() in head for part in _PARTS)


def read(folder: Path, pictures: tuple[Path, ...], findings: Findings, _: bool) -> Source:
    """The annotations of a folder.

    Raises:
        InputError: A file is not COCO, or gives one category two names.
    """
    finder = Finder(pictures)
    names: dict[str, None] = {}
    records: dict[Path, Record] = {}
    taken = set()
    for file in (path for path in files_under(folder) if path.suffix.lower() == ".json" and is_label(path)):
        content = _content(file)
        categories = _categories(content["categories"], file)
        names |= dict.fromkeys(categories.values())
        words = re.split(r"[^a-z]+", file.stem.lower())  # instances_val2017
        side = next((split_called(word) for word in words if split_called(word)), None)
        own: dict[Any, Record] = {}
        first: dict[Any, str] = {}
        for row in content["images"]:
            named = row["file_name"].replace("\\", "/")
            picture = _picture(file, named, folder, finder)
            if picture is None:
                findings.add(
                    Kind.MISSING_PICTURE, file, f"names the picture {named[:100]}, which is not there", ADD_PICTURE
                )
                continue
            taken.add(picture)
            if first.setdefault(row["id"], named) != named:
                own.pop(row["id"], None)
                findings.add(
                    Kind.BROKEN_LABEL, file, f"image {row['id']} is {first[row['id']]} and {named}, so nobody knows "
                    "whose its boxes are", "export again",
                )  # fmt: skip
                continue
            size = size_of(picture, findings)
            said = (stated_px(row.get("width")), stated_px(row.get("height")))
            if size is None or not same_size(said, size, file, findings, named):
                continue
            record = Record(picture, size, file, split=side or split_of(file, folder) or split_of(picture, folder))
            other = records.setdefault(picture, record)
            if other is not record:
                _same_twice(other, record, findings)
                continue
            own[row["id"]] = record
        _read_boxes(content, categories, own, file, findings)
    unlabelled = tuple(picture for picture in pictures if picture not in taken)
    return Source(list(records.values()), unlabelled, tuple(names))


def _content(file: Path) -> dict[str, _Rows]:
    try:
        content = json.loads(read_text(file))
    except (ValueError, RecursionError) as error:  # also a number of thousands of digits, or nesting without end
        raise _no_coco(file, str(error)) from None
    for part, columns in _PARTS.items():
        rows = content.get(part) if isinstance(content, dict) else None
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise _no_coco(file, f"`{part}` is no list of entries")
        for row in rows:
            for column in columns:
                if not isinstance(row.get(column), str if column == "file_name" else str | int | float):
                    raise _no_coco(file, f"an entry of `{part}` has no {column}: {str(row)[:60]}")
    found: dict[str, _Rows] = content
    return found


def _no_coco(file: Path, reason: str) -> InputError:
    return InputError(
        f"{file} is not COCO ({reason}); it needs images, annotations and categories: "
        "export it again, or move it out of the folder"
    )


def _categories(rows: _Rows, file: Path) -> dict[Any, str]:
    names: dict[Any, str] = {}
    for row in rows:
        name = str(row["name"]).strip()
        if names.setdefault(row["id"], name) != name:
            raise InputError(f"{file} calls category {row['id']} {names[row['id']]} and {name}; export it again")
    return names


def _picture(file: Path, named: str, folder: Path, finder: Finder) -> Path | None:
    split_folder = file.stem.rpartition("_")[2]  # instances_train2017
    bases = (
        file.parent, file.parent / "images", file.parent.parent / "images", folder, folder / "images",
        folder / split_folder, folder / "images" / split_folder,
    )  # fmt: skip
    place = next(filter(os.path.isfile, places(named, bases)), None)
    return place or finder.by_name.get(key(PurePosixPath(named).name))


def _same_twice(first: Record, second: Record, findings: Findings) -> None:
    if first.split != second.split:
        kind, where = Kind.LEAK, f"in {first.split or first.file.name} and {second.split or second.file.name}"
    else:
        kind, where = Kind.PICTURE_TWICE, f"in {first.file.name} and {second.file.name}; the labels of the first count"
    findings.add(kind, first.path, f"is listed {where}", "list each picture once")


def _read_boxes(
    content: dict[str, _Rows], categories: dict[Any, str], records: dict[Any, Record], file: Path, findings: Findings
) -> None:
    images = {row["id"]: row["file_name"] for row in content["images"]}
    for row in content["annotations"]:
        kind, bbox = row.get("category_id"), row.get("bbox")
        name = categories.get(kind) if isinstance(kind, str | int | float) else None
        box = numbers(bbox) if isinstance(bbox, list) and len(bbox) == 4 else None
        if row["image_id"] not in images:
            broken = f"belongs to image {row['image_id']}, which is not listed"
        elif name is None:
            broken = f"has category {kind}, which is not listed"
        elif box is None:
            broken = f"of {images[row['image_id']]} has no bbox of four numbers"
        else:
            record = records.get(row["image_id"])  # None: the picture is missing, of another size, or told twice
            if record is not None:
                x, y, width, height = box.tolist()
                record.add(name, (x, y, x + width, y + height), ignored=row.get("iscrowd") in (1, "1"))
            continue
        findings.add(Kind.BROKEN_LABEL, file, f"annotation {row.get('id')} {broken}", "correct it or export again")
