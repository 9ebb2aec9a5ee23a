"""Lists beside the labels: the names of the classes, and the pictures of each split."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any, Final

import yaml

from renalcore import taxonomy
from renalcore.datasets.findings import Findings, Kind, counted
from renalcore.datasets.pictures import (
    PICTURE_SUFFIXES,
    SPLITS,
    Split,
    absolute,
    find_pictures,
    places,
    read_text,
    split_called,
)
from renalcore.errors import InputError

URISED_NAMES: Final = (
    "leukocyte", "erythrocyte", "broken leukocyte", "broken erythrocyte", "mycete", "crystal", "epithelial", "other",
)  # fmt: skip
"""Classes of the label files of `urised2k`, by id; its crystals are calcium oxalate."""

_MOST_CLASSES: Final = 10_000


def description_of(folder: Path) -> Path | None:
    """The Ultralytics description of a data set: a YAML file that names classes."""
    named = [folder / name for name in ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")]
    others = sorted(path for path in folder.glob("*.y*ml") if path not in named)
    return next((path for path in (*named, *others) if path.is_file() and "names" in _described(path)), None)


def class_names(folder: Path, *, real: bool) -> tuple[str, ...] | None:
    """The class list of a folder by id, None where there is none; rendered fields have the taxonomy's."""
    description = description_of(folder)
    if description:
        return _yaml_names(description)
    folders = (folder, folder / "labels", *sorted(path.parent for path in folder.glob("*/classes.txt")))
    lists = [place / name for place in folders for name in ("classes.txt", "obj.names", "predefined_classes.txt")]
    lists += sorted(folder.glob("*.names"))
    for path in lists:
        if path.is_file():
            lines = read_text(path).rstrip().splitlines()  # an empty line in between keeps its number
            return tuple(line.strip() for line in lines)
    if _has_scopes(folder):
        return URISED_NAMES
    return None if real else taxonomy.NAMES


def yaml_sides(description: Path, folder: Path, findings: Findings) -> dict[Path, Split]:
    """Splits by the entries `train`, `val` and `test` of a description."""
    content = _described(description)
    root = content.get("path")
    base = folder / root.replace("\\", "/") if isinstance(root, str) else folder
    sides: dict[Path, Split] = {}
    for word in ("train", "val", "valid", "test"):
        entries = content.get(word)
        for entry in entries if isinstance(entries, list) else [entries]:
            if not isinstance(entry, str):
                continue
            place = next(filter(os.path.exists, places(entry.replace("\\", "/"), (base, folder))), None)
            if place is None:
                continue  # Roboflow names a test folder that it did not write; folders' names serve as well
            found = _paths_in(place, base, findings) if place.is_file() else find_pictures(place)
            assign(sides, found, SPLITS[word], description, findings)
    return sides


def listed_sides(folder: Path, findings: Findings) -> dict[Path, Split]:
    """Splits by darknet's lists `train.txt`, `valid.txt`, `test.txt`."""
    sides: dict[Path, Split] = {}
    for path in sorted(folder.glob("*.txt")):
        side = split_called(path.stem)
        if side:
            assign(sides, _paths_in(path, folder, findings), side, path, findings)
    return sides


def assign(sides: dict[Path, Split], pictures: Iterable[Path], side: Split, source: Path, findings: Findings) -> None:
    """Put pictures on a side; those that are on another one already stay there, with a finding."""
    twice = [path for path in pictures if sides.setdefault(path, side) != side]
    if twice:
        findings.add(
            Kind.LEAK, source,
            f"puts {counted(len(twice), 'picture')} into {sides[twice[0]]} and {side}, the first is {twice[0].name}",
            "give each split pictures of its own",
        )  # fmt: skip


def tell_absent(names: list[str], source: Path, findings: Findings) -> None:
    """Tell of names in the list of a split that nothing has."""
    if names:
        findings.add(
            Kind.LISTED_NOT_THERE, source,
            f"lists {counted(len(names), 'picture')} of which there is no file, the first is {names[0][:100]}",
            "add them, or take them off the list",
        )  # fmt: skip


def _described(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(read_text(path))
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # a date that is none, nesting without end
        reason = " ".join(str(error).split())
        raise InputError(f"{path} is not valid YAML: {reason}; correct it or remove it") from None
    return content if isinstance(content, dict) else {}


def _yaml_names(description: Path) -> tuple[str, ...]:
    names = _described(description)["names"]
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict):
        raise InputError(f"{description}: `names` must be a list of class names, got {str(names)[:60]!r}")
    try:
        by_id = {int(index): name for index, name in names.items()}
    except (TypeError, ValueError):
        by_id = {-1: ""}
    if any(not 0 <= index < _MOST_CLASSES for index in by_id):
        raise InputError(f"{description}: `names` must give a name to each number 0, 1, 2, ...")
    if any(isinstance(name, list | dict) for name in by_id.values()):
        raise InputError(f"{description}: each of `names` must be one name, not a list")
    return tuple(str(by_id.get(index, f"class {index}")).strip() for index in range(max(by_id, default=-1) + 1))


def _has_scopes(folder: Path) -> bool:
    manifest = folder / "manifest.csv"
    return manifest.is_file() and "label_scope" in read_text(manifest).partition("\n")[0]


def _paths_in(lines: Path, base: Path, findings: Findings) -> list[Path]:
    """Pictures named by a list; what is not where it says is looked for by its last folders."""
    found, absent = [], []
    for line in read_text(lines).splitlines():
        parts = PurePosixPath(line.strip().replace("\\", "/")).parts
        tails = [Path(*parts[start:]) for start in range(len(parts))]
        candidates = (absolute(root / tail) for tail in tails for root in (lines.parent, base))
        place = next(filter(os.path.isfile, candidates), None)
        if place:
            found.append(place)
        elif parts and Path(parts[-1]).suffix.lower() in PICTURE_SUFFIXES:  # else a remark, or labels
            absent.append(line.strip())
    tell_absent(absent, lines, findings)
    return found
