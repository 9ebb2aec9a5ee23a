"""Labels of each form, read as they stand: YOLO text, Pascal VOC, COCO."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import yaml
from numpy.typing import NDArray

from renalcore import taxonomy
from renalcore.errors import InputError
from renalcore.sediment.findings import Findings, Kind, counted
from renalcore.sediment.pictures import (
    PICTURE_SUFFIXES,
    SPLITS,
    Finder,
    Split,
    absolute,
    files_under,
    find_pictures,
    key,
    place_of,
    read_text,
    size_of,
    split_called,
    split_of,
)

URISED_NAMES: Final = (
    "leukocyte", "erythrocyte", "broken leukocyte", "broken erythrocyte", "mycete", "crystal", "epithelial", "other",
)  # fmt: skip
"""Classes of the label files of `urised2k`, by id; its crystals are calcium oxalate."""

_NAME_LISTS: Final = frozenset({"classes", "predefined_classes", "obj", "requirements"})
_LISTS: Final = frozenset({"train", "trainval", "val", "valid", "validation", "test"})


class Format(StrEnum):
    """Forms that labels come in."""

    YOLO = "yolo"
    VOC = "voc"
    COCO = "coco"
    UNLABELLED = "unlabelled"


@dataclass(slots=True)
class Record:
    """A picture and its boxes as the data say, unjudged."""

    path: Path
    size_px: tuple[int, int]
    file: Path
    boxes_px: list[tuple[float, float, float, float]] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    ignored: list[bool] = field(default_factory=list)
    split: Split | None = None
    known: NDArray[np.bool_] | None = None

    def add(self, name: str, box_px: tuple[float, float, float, float], *, ignored: bool = False) -> None:
        """One more box."""
        self.boxes_px.append(box_px)
        self.names.append(name)
        self.ignored.append(ignored)


@dataclass(slots=True)
class Source:
    """What one form yields: pictures with labels, pictures without, and the class list (None: there is none)."""

    records: list[Record]
    unlabelled: tuple[Path, ...]
    names: tuple[str, ...] | None
    defaults: Mapping[str, int] = field(default_factory=dict)


def format_of(folder: Path) -> Format:
    """The form of a folder's labels.

    Raises:
        InputError: There are several; with a manifest beside YOLO labels these are meant.
    """
    files = files_under(folder)
    pictures = {key(path.stem) for path in files if path.suffix.lower() in PICTURE_SUFFIXES}
    texts = [path for path in files if path.suffix.lower() == ".txt" and _is_label(path)]
    forms = set()
    if any(key(path.stem) in pictures or path.parent.name.lower() == "labels" for path in texts):
        forms.add(Format.YOLO)
    elif _yaml_of(folder) and pictures == set():
        forms.add(Format.YOLO)  # pictures elsewhere
    if any(path.suffix.lower() == ".xml" and _is_voc(path) for path in files):
        forms.add(Format.VOC)
    if any(path.suffix.lower() == ".json" and _is_coco(path) for path in files):
        forms.add(Format.COCO)
    if Format.YOLO in forms and (folder / "manifest.csv").is_file():
        return Format.YOLO
    if len(forms) > 1:
        raise InputError(
            f"{folder} holds labels in several forms ({', '.join(sorted(forms))}); say which to read with --format"
        )
    return forms.pop() if forms else Format.UNLABELLED


# YOLO


def _is_label(path: Path) -> bool:
    """False for class lists, lists of pictures and notes, which are text as well."""
    stem = key(path.stem)
    listed = stem in _LISTS and "labels" not in map(str.lower, path.parts)
    return not listed and stem not in _NAME_LISTS and not stem.startswith(("readme", "license", "licence"))


def _yaml_of(folder: Path) -> Path | None:
    """The Ultralytics description of a data set: a YAML file that names classes."""
    named = [folder / name for name in ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")]
    others = sorted(path for path in folder.glob("*.y*ml") if path not in named)
    return next((path for path in (*named, *others) if path.is_file() and "names" in _described(path)), None)


def _described(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(read_text(path))
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path} is not valid YAML: {reason}; correct it or remove it") from None
    return content if isinstance(content, dict) else {}


def _yolo(folder: Path, pictures: tuple[Path, ...], findings: Findings, real: bool) -> Source:
    description = _yaml_of(folder)
    sides = _yaml_sides(description, folder, findings) if description else {}
    sides = sides or _listed_sides(folder, pictures, findings)
    pictures = tuple(dict.fromkeys((*pictures, *sides)))
    roots = dict.fromkeys(
        [folder, *(_label_root(picture) for picture in pictures if not picture.is_relative_to(folder))]
    )
    texts = dict.fromkeys(path for root in roots for path in files_under(root) if path.suffix.lower() == ".txt")
    labels = Finder(sorted(filter(_is_label, texts), key=lambda path: "labels" not in map(str.lower, path.parts)))
    own = {picture: labels.by_place[place_of(picture)] for picture in pictures if place_of(picture) in labels.by_place}
    free = labels.without(own.values())
    names = _yolo_names(folder, description, real=real)
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
            _read_yolo_lines(record, names, findings)
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


def _yolo_names(folder: Path, description: Path | None, *, real: bool) -> tuple[str, ...] | None:
    if description:
        names = _described(description)["names"]
        if isinstance(names, dict):
            try:
                by_id = {int(index): str(name) for index, name in names.items()}
            except (TypeError, ValueError):
                raise InputError(f"{description}: `names` must give a name to each number 0, 1, 2, ...") from None
            return tuple(by_id.get(index, f"class {index}") for index in range(max(by_id, default=-1) + 1))
        if isinstance(names, list):
            return tuple(str(name).strip() for name in names)
        raise InputError(f"{description}: `names` must be a list of class names, got {names!r}")
    places = (folder, folder / "labels", *sorted(path.parent for path in folder.glob("*/classes.txt")))
    lists = [place / name for place in places for name in ("classes.txt", "obj.names", "predefined_classes.txt")]
    lists += sorted(folder.glob("*.names"))
    for path in lists:
        if path.is_file():
            lines = read_text(path).rstrip().splitlines()  # an empty line in between keeps its number
            return tuple(line.strip() for line in lines)
    if _has_scopes(folder):
        return URISED_NAMES
    return None if real else taxonomy.NAMES


def _has_scopes(folder: Path) -> bool:
    manifest = folder / "manifest.csv"
    return manifest.is_file() and "label_scope" in read_text(manifest).partition("\n")[0]


def _yaml_sides(description: Path, folder: Path, findings: Findings) -> dict[Path, Split]:
    content = _described(description)
    base = folder / str(content.get("path") or "").replace("\\", "/")
    sides: dict[Path, Split] = {}
    for word in ("train", "val", "valid", "test"):
        entries = content.get(word) or []
        for entry in entries if isinstance(entries, list) else [entries]:
            place = existing(str(entry).replace("\\", "/"), (base, folder))
            if place is None:
                continue  # Roboflow names a test folder that it did not write; folders' names serve as well
            found = _paths_in(place, base) if place.is_file() else find_pictures(place)
            _assign(sides, found, SPLITS[word], description, findings)
    return sides


def existing(entry: str, bases: Iterable[Path]) -> Path | None:
    """Where a path of somebody else's machine lies here; Roboflow writes `../train/images` for `train/images`."""
    forms = [entry, *([entry[3:]] if entry.startswith("../") else [])]
    places = (absolute(base / form) for form in forms for base in bases)
    return next((place for place in places if place.exists()), None)


def _paths_in(lines: Path, base: Path) -> list[Path]:
    """Pictures named by a list; what is not where it says is looked for by its last folders."""
    found = []
    for line in read_text(lines).splitlines():
        parts = PurePosixPath(line.strip().replace("\\", "/")).parts
        tails = [Path(*parts[start:]) for start in range(len(parts))]
        places = (absolute(root / tail) for tail in tails for root in (lines.parent, base))
        found += [place for place in [next((place for place in places if place.is_file()), None)] if place]
    return found


def _listed_sides(folder: Path, pictures: Iterable[Path], findings: Findings) -> dict[Path, Split]:
    """Splits by darknet's lists `train.txt`, `valid.txt`, `test.txt`."""
    lists = [path for path in folder.glob("*.txt") if split_called(path.stem)]
    sides: dict[Path, Split] = {}
    for path in sorted(lists):
        _assign(sides, _paths_in(path, folder), SPLITS[re.sub(r"[\d_\-. ]+$", "", path.stem.lower())], path, findings)
    return sides


def _assign(sides: dict[Path, Split], pictures: Iterable[Path], side: Split, source: Path, findings: Findings) -> None:
    twice = [path for path in pictures if sides.setdefault(path, side) != side]
    if twice:
        findings.add(
            Kind.LEAK, source,
            f"puts {counted(len(twice), 'picture')} into {sides[twice[0]]} and {side}, the first is {twice[0].name}",
            "give each split pictures of its own",
        )  # fmt: skip


def _read_yolo_lines(record: Record, names: tuple[str, ...] | None, findings: Findings) -> None:
    strangers: Counter[str] = Counter()
    for number, line in enumerate(read_text(record.file).splitlines(), 1):
        cells = line.split()
        if not cells:
            continue
        try:
            index, values = float(cells[0]), np.array(cells[1:], np.float64)
        except ValueError:
            index, values = np.nan, np.empty(0)
        polygon = len(values) >= 6 and len(values) % 2 == 0
        if not (len(values) in (4, 5) or polygon) or not np.isfinite(values).all() or index != round(index, 0):
            findings.add(
                Kind.BROKEN_LABEL, record.file, f"line {number} is not `class x y w h`: {line.strip()[:60]!r}",
                "correct the line or export the labels again",
            )  # fmt: skip
            continue
        if names is not None and not 0 <= index < len(names):
            strangers[f"{index:.0f}"] += 1
            continue
        if polygon:
            corners = values.reshape(-1, 2)
            low, high = corners.min(0), corners.max(0)
        else:
            low, high = values[:2] - values[2:4] / 2, values[:2] + values[2:4] / 2
        (x1, y1), (x2, y2) = (low * record.size_px).tolist(), (high * record.size_px).tolist()
        record.add(names[int(index)] if names is not None else "", (x1, y1, x2, y2))
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


# Pascal VOC


def _is_voc(path: Path) -> bool:
    with path.open("rb") as stream:
        return b"<annotation" in stream.read(4096).replace(b"\0", b"")


def _voc(folder: Path, pictures: tuple[Path, ...], findings: Findings, _: bool) -> Source:
    finder = Finder(pictures)
    sides = _image_sets(folder, findings)
    records: list[Record] = []
    taken: dict[Path, Path] = {}
    for label in (path for path in files_under(folder) if path.suffix.lower() == ".xml" and _is_voc(path)):
        try:
            root = ElementTree.fromstring(label.read_bytes())
        except ElementTree.ParseError as error:
            findings.add(Kind.BROKEN_LABEL, label, f"is not valid XML: {error}", "export the labels again")
            continue
        named = (root.findtext("filename") or label.stem).strip().replace("\\", "/")
        picture = _voc_picture(label, named, root.findtext("path"), finder)
        if picture is None:
            findings.add(Kind.MISSING_PICTURE, label, f"names the picture {named}, which is not there", _ADD_PICTURE)
            continue
        if picture in taken:
            findings.add(
                Kind.BROKEN_LABEL, label, f"labels {picture.name}, which {taken[picture].name} labels too", "keep one"
            )
            continue
        taken[picture] = label
        size = size_of(picture, findings)
        if size is None:
            continue
        said = tuple(int(float(root.findtext(f"size/{side}") or 0)) for side in ("width", "height"))
        if not same_size(said, size, label, findings):
            continue
        side = sides.get(key(label.stem)) or split_of(picture, folder) or split_of(label, folder)
        record = Record(picture, size, label, split=side)
        _read_voc_objects(record, root, findings)
        records.append(record)
    unlabelled = tuple(picture for picture in pictures if picture not in taken)
    return Source(records, unlabelled, _yolo_names(folder, _yaml_of(folder), real=True))


_ADD_PICTURE: Final = "add the picture, or remove the labels"


def _voc_picture(label: Path, named: str, path: str | None, finder: Finder) -> Path | None:
    """The picture of an annotation: by place and name, by its relative path, or by a name only one picture has."""
    for at_its_place in (label.with_name(PurePosixPath(named).name), label):  # the second: renamed after labelling
        if place_of(at_its_place) in finder.by_place:
            return finder.by_place[place_of(at_its_place)]
    for text in (named, (path or "").strip().replace("\\", "/")):
        if text:
            place = absolute(label.parent / text)
            if place.is_file():
                return place
    name = PurePosixPath(named)
    return finder.by_name.get(key(name.name)) or finder.by_stem.get(key(name.stem))


def _image_sets(folder: Path, findings: Findings) -> dict[str, Split]:
    sides: dict[Path, Split] = {}
    lists = {path.stem.lower(): path for path in sorted(folder.rglob("ImageSets/Main/*.txt"))}
    for name in ("train", "val", "test", *(() if {"train", "val"} <= set(lists) else ("trainval",))):
        if name in lists:
            rows = [line.split() for line in read_text(lists[name]).splitlines() if line.strip()]
            stems = [Path(key(row[0])) for row in rows if row[1:2] != ["-1"]]
            _assign(sides, stems, SPLITS[name], lists[name], findings)
    return {str(stem): side for stem, side in sides.items()}


def _read_voc_objects(record: Record, root: ElementTree.Element, findings: Findings) -> None:
    for thing in root.iter("object"):
        name = (thing.findtext("name") or "").strip()
        try:
            corners = [float(thing.findtext(f"bndbox/{side}") or "") for side in ("xmin", "ymin", "xmax", "ymax")]
        except ValueError:
            corners = []
        if not name or len(corners) != 4 or not np.isfinite(corners).all():
            findings.add(
                Kind.BROKEN_LABEL, record.file, f"an object {name!r} without a name or a whole bndbox", "correct it"
            )
            continue
        x1, y1, x2, y2 = corners
        difficult = (thing.findtext("difficult") or "0").strip().lower() in ("1", "true", "yes")
        record.add(name, (x1, y1, x2, y2), ignored=difficult)


def same_size(said: tuple[int, ...], size: tuple[int, int], file: Path, findings: Findings, name: str = "") -> bool:
    """False, with a finding, where labels in px were made for a picture of another size."""
    if 0 in said or said == size:
        return True
    of = f" for {name}" if name else ""
    findings.add(
        Kind.OTHER_SIZE, file, f"says {said[0]} x {said[1]} px{of}, the picture has {size[0]} x {size[1]}",
        "it was resized or turned after labelling: put the original back, or export the labels again",
    )  # fmt: skip
    return False


# COCO


def _is_coco(path: Path) -> bool:
    with path.open("rb") as stream:
        head = stream.read(1 << 16)
    return any(word in head for word in (b'"images"', b'"annotations"', b'"categories"'))


def _coco(folder: Path, pictures: tuple[Path, ...], findings: Findings, _: bool) -> Source:
    finder = Finder(pictures)
    names: dict[str, None] = {}
    records: dict[Path, Record] = {}
    taken = set()
    for file in (path for path in files_under(folder) if path.suffix.lower() == ".json" and _is_coco(path)):
        content = _coco_content(file)
        categories = {row["id"]: str(row["name"]).strip() for row in content["categories"]}
        names |= dict.fromkeys(categories.values())
        words = re.split(r"[^a-z]+", file.stem.lower())  # instances_val2017
        side = next((split_called(word) for word in words if split_called(word)), None)
        own: dict[Any, Record] = {}
        for row in content["images"]:
            named = str(row["file_name"]).replace("\\", "/")
            picture = _coco_picture(file, named, folder, finder)
            if picture is None:
                findings.add(Kind.MISSING_PICTURE, file, f"names the picture {named}, which is not there", _ADD_PICTURE)
                continue
            taken.add(picture)
            size = size_of(picture, findings)
            said = (int(row.get("width") or 0), int(row.get("height") or 0))
            if size is None or not same_size(said, size, file, findings, named):
                continue
            record = Record(picture, size, file, split=side or split_of(file, folder) or split_of(picture, folder))
            other = records.setdefault(picture, record)
            if other is not record:
                _same_twice(other, record, findings)
                continue
            own[row["id"]] = record
        _read_coco_boxes(content, categories, own, file, findings)
    unlabelled = tuple(picture for picture in pictures if picture not in taken)
    return Source(list(records.values()), unlabelled, tuple(names))


def _coco_content(file: Path) -> dict[str, list[dict[str, Any]]]:
    try:
        content = json.loads(read_text(file))
        parts = {part: list(content[part]) for part in ("images", "annotations", "categories")}
        for part, keys in (
            ("images", ("id", "file_name")),
            ("annotations", ("image_id",)),
            ("categories", ("id", "name")),
        ):
            for row in parts[part]:
                for key in keys:
                    row[key]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise InputError(
            f"{file} is not COCO ({type(error).__name__}: {error}); it needs images, annotations and categories: "
            "export it again, or move it out of the folder"
        ) from None
    return parts


def _coco_picture(file: Path, named: str, folder: Path, finder: Finder) -> Path | None:
    place = existing(
        named, (file.parent, file.parent / "images", file.parent.parent / "images", folder, folder / "images")
    )
    return place if place and place.is_file() else finder.by_name.get(key(PurePosixPath(named).name))


def _same_twice(first: Record, second: Record, findings: Findings) -> None:
    if first.split != second.split:
        kind, where = Kind.LEAK, f"in {first.split or first.file.name} and {second.split or second.file.name}"
    else:
        kind, where = Kind.PICTURE_TWICE, f"in {first.file.name} and {second.file.name}; the labels of the first count"
    findings.add(kind, first.path, f"is listed {where}", "list each picture once")


def _read_coco_boxes(
    content: dict[str, list[dict[str, Any]]],
    categories: dict[Any, str],
    records: dict[Any, Record],
    file: Path,
    findings: Findings,
) -> None:
    images = {row["id"]: str(row["file_name"]) for row in content["images"]}
    for row in content["annotations"]:
        name = categories.get(row.get("category_id"))
        box = np.array(row.get("bbox") or [], np.float64)
        if row["image_id"] not in images:
            broken = f"belongs to image {row['image_id']}, which is not listed"
        elif name is None:
            broken = f"has category {row.get('category_id')}, which is not listed"
        elif box.shape != (4,) or not np.isfinite(box).all():
            broken = f"of {images[row['image_id']]} has no bbox of four numbers"
        else:
            record = records.get(row["image_id"])  # None: the picture is missing, or of another size
            if record is not None:
                x, y, width, height = box.tolist()
                record.add(name, (x, y, x + width, y + height), ignored=bool(row.get("iscrowd")))
            continue
        findings.add(Kind.BROKEN_LABEL, file, f"annotation {row.get('id')} {broken}", "correct it or export again")


_Reader = Callable[[Path, tuple[Path, ...], Findings, bool], Source]
FORMATS: Final[Mapping[Format, _Reader]] = MappingProxyType({Format.YOLO: _yolo, Format.VOC: _voc, Format.COCO: _coco})
