"""YOLO: a text file a picture, a line an object."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from renalcore import taxonomy
from renalcore.datasets.findings import Findings, Kind, counted
from renalcore.datasets.pictures import Finder, files_under, key, place_of, read_text, size_of, split_of
from renalcore.errors import InputError
from renalcore.sediment.labels.lists import URISED_NAMES, class_names, description_of, listed_sides, yaml_sides
from renalcore.sediment.labels.record import Record, Source, numbers

_NAME_LISTS: Final = frozenset({"classes", "predefined_classes", "obj", "requirements"})
_LISTS: Final = frozenset({"train", "trainval", "val", "valid", "validation", "test"})


def is_label(path: Path) -> bool:
    """False for class lists, lists of pictures and notes, which are text as well."""
    stem = key(path.stem)
    listed = stem in _LISTS and "labels" not in map(str.lower, path.parts)
    return not listed and stem not in _NAME_LISTS and not stem.startswith(("readme", "license", "licence"))


def read(folder: Path, pictures: tuple[Path, ...], findings: Findings, real: bool) -> Source:
    """The labels of a folder.

    Raises:
        InputError: There is no class list, or the description of the data cannot be read.
    """
    description = description_of(folder)
    sides = yaml_sides(description, folder, findings) if description else {}
    sides = sides or listed_sides(folder, findings)
    pictures = tuple(dict.fromkeys((*pictures, *sides)))
    roots = dict.fromkeys(
        [folder, *(_label_root(picture) for picture in pictures if not picture.is_relative_to(folder))]
    )
    texts = dict.fromkeys(path for root in roots for path in files_under(root) if path.suffix.lower() == ".txt")
    labels = Finder(sorted(filter(is_label, texts), key=lambda path: "labels" not in map(str.lower, path.parts)))
    own = {picture: labels.by_place[place_of(picture)] for picture in pictures if place_of(picture) in labels.by_place}
    free = labels.without(own.values())
    names = class_names(folder, real=real)
    records, unlabelled, used = [], [], set()
    for picture in pictures:
        label = own.get(picture) or free.by_stem.get(key(picture.stem))
        if label is None:
            unlabelled.append(picture)
            continue
        used.add(label)
        size = size_of(picture, findings)
        if size is not None:
            side = sides.get(picture) or split_of(picture, folder)
            record = Record(picture, size, label, split=side)
            _read_lines(record, names, findings)
            records.append(record)
    _alone(labels.by_place.values(), used, findings)
    if names is None:
        raise InputError(
            f"{folder} has no class list; write classes.txt into it, one name a line in the order of the ids, "
            "or data.yaml"
        )
    urised = names == URISED_NAMES
    defaults = {"crystal": taxonomy.class_id("Calcium oxalate")} if urised else {}
    return Source(records, tuple(unlabelled), names, defaults)


def _label_root(picture: Path) -> Path:
    """The folder that holds the labels of a picture outside the data's folder."""
    parts = [part.lower() for part in picture.parts]
    return Path(*picture.parts[: len(parts) - 1 - parts[::-1].index("images")]) if "images" in parts else picture.parent


def _read_lines(record: Record, names: tuple[str, ...] | None, findings: Findings) -> None:
    strangers: Counter[str] = Counter()
    for number, line in enumerate(read_text(record.file).splitlines(), 1):
        if not line.strip():
            continue
        cells = numbers(line.split())
        polygon = cells is not None and len(cells) >= 7 and len(cells) % 2 == 1
        if cells is None or not (len(cells) in (5, 6) or polygon) or cells[0] != round(cells[0]):
            findings.add(
                Kind.BROKEN_LABEL, record.file, f"line {number} is not `class x y w h`: {line.strip()[:60]!r}",
                "correct the line or export the labels again",
            )  # fmt: skip
            continue
        index, values = int(cells[0]), cells[1:]
        if names is not None and not 0 <= index < len(names):
            strangers[str(index)] += 1
            continue
        if polygon:
            corners = values.reshape(-1, 2)
            low, high = corners.min(0), corners.max(0)
        else:
            low, high = values[:2] - values[2:4] / 2, values[:2] + values[2:4] / 2
        (x1, y1), (x2, y2) = (low * record.size_px).tolist(), (high * record.size_px).tolist()
        record.add(names[index] if names is not None else "", (x1, y1, x2, y2))
    if strangers and names is not None:
        findings.add(
            Kind.UNKNOWN_ID, record.file,
            f"{counted(strangers.total(), 'box')} of class id {', '.join(strangers)}; "
            f"the class list ends at {len(names) - 1}",
            "complete the class list or correct the labels",
        )  # fmt: skip


def _alone(labels: Iterable[Path], used: set[Path], findings: Findings) -> None:
    for label in labels:
        if label not in used:
            findings.add(Kind.LABEL_ALONE, label, "has no picture", "add the picture, or remove the labels")
