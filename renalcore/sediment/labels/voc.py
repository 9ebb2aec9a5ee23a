"""Pascal VOC: an XML file a picture."""

from __future__ import annotations

import os
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path, PurePosixPath

from renalcore.datasets.findings import Findings, Kind
from renalcore.datasets.pictures import (
    SPLITS,
    Finder,
    Split,
    absolute,
    files_under,
    key,
    place_of,
    read_text,
    size_of,
    split_of,
)
from renalcore.sediment.labels.lists import assign, class_names, tell_absent
from renalcore.sediment.labels.record import ADD_PICTURE, Record, Source, numbers, same_size, stated_px

_DECLARED = re.compile(rb"<\?xml[^>]*?encoding\s*=\s*['\"]([\w.:-]+)['\"][^>]*?\?>")


def is_label(path: Path) -> bool:
    """Whether an XML file is an annotation."""
    with path.open("rb") as stream:
        return b"<annotation" in stream.read(4096).replace(b"\0", b"")


def read(folder: Path, pictures: tuple[Path, ...], findings: Findings, _: bool) -> Source:
    """The annotations of a folder."""
    finder = Finder(pictures)
    labels = [path for path in files_under(folder) if path.suffix.lower() == ".xml" and is_label(path)]
    sides = _image_sets(folder, {key(path.stem) for path in (*labels, *pictures)}, findings)
    records: list[Record] = []
    taken: dict[Path, Path] = {}
    for label in labels:
        try:
            root = _parsed(label)
        except (ElementTree.ParseError, ValueError, LookupError) as error:
            findings.add(Kind.BROKEN_LABEL, label, f"is not valid XML: {error}", "export the labels again")
            continue
        named = PurePosixPath((root.findtext("filename") or "").strip().replace("\\", "/"))
        if named.name in ("", ".."):
            named = PurePosixPath(label.stem)
        picture = _picture(label, named, root.findtext("path") or "", finder)
        if picture is None:
            findings.add(
                Kind.MISSING_PICTURE, label, f"names the picture {str(named)[:100]}, which is not there", ADD_PICTURE
            )
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
        said = (stated_px(root.findtext("size/width")), stated_px(root.findtext("size/height")))
        if not same_size(said, size, label, findings):
            continue
        side = sides.get(key(label.stem)) or split_of(picture, folder) or split_of(label, folder)
        record = Record(picture, size, label, split=side)
        _read_objects(record, root, findings)
        records.append(record)
    unlabelled = tuple(picture for picture in pictures if picture not in taken)
    return Source(records, unlabelled, class_names(folder, real=True))


def _parsed(label: Path) -> ElementTree.Element:
    """The content of an annotation; expat knows few encodings, and refuses entities that grow without end itself."""
    content = label.read_bytes()
    declared = _DECLARED.match(content)
    if declared:
        return ElementTree.fromstring(content[declared.end() :].decode(declared[1].decode("ascii")))
    return ElementTree.fromstring(content)


def _picture(label: Path, named: PurePosixPath, path: str, finder: Finder) -> Path | None:
    """The picture of an annotation: by place and name, by its relative path, or by a name only one picture has."""
    beside = label.with_name(named.name)
    exact = finder.by_full_place.get(place_of(beside) + key(beside.suffix))
    if exact:
        return exact
    for at_its_place in (beside, label):  # the second: renamed after labelling
        if place_of(at_its_place) in finder.by_place:
            return finder.by_place[place_of(at_its_place)]
    said = (absolute(label.parent / text) for text in (str(named), path.strip().replace("\\", "/")) if text)
    place = next(filter(os.path.isfile, said), None)
    return place or finder.by_name.get(key(named.name)) or finder.by_stem.get(key(named.stem))


def _image_sets(folder: Path, stems: set[str], findings: Findings) -> dict[str, Split]:
    """Splits by `ImageSets/Main`: names without suffix, which may hold blanks and be followed by 1, 0 or -1."""
    sides: dict[Path, Split] = {}
    lists = {path.stem.lower(): path for path in sorted(folder.rglob("ImageSets/Main/*.txt"))}
    for name in ("train", "val", "test", *(() if {"train", "val"} <= set(lists) else ("trainval",))):
        if name not in lists:
            continue
        listed, absent = [], []
        for line in filter(None, map(str.strip, read_text(lists[name]).splitlines())):
            flagged = None if key(line) in stems else re.fullmatch(r"(.*?)\s+(-?1|0)", line)
            if flagged and flagged[2] == "-1":
                continue
            stem = key(flagged[1] if flagged else line)
            listed.append(Path(stem))
            if stem not in stems:
                absent.append(line)
        assign(sides, listed, SPLITS[name], lists[name], findings)
        tell_absent(absent, lists[name], findings)
    return {str(stem): side for stem, side in sides.items()}


def _read_objects(record: Record, root: ElementTree.Element, findings: Findings) -> None:
    for thing in root.iter("object"):
        name = (thing.findtext("name") or "").strip()
        corners = numbers(thing.findtext(f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax"))
        if not name or corners is None:
            findings.add(
                Kind.BROKEN_LABEL, record.file, f"an object {name!r} without a name or a whole bndbox", "correct it"
            )
            continue
        x1, y1, x2, y2 = corners.tolist()
        difficult = (thing.findtext("difficult") or "0").strip().lower() in ("1", "true", "yes")
        record.add(name, (x1, y1, x2, y2), ignored=difficult)
