"""GeoJSON of QuPath, and HuBMAP's polygon files, which are the same: outlines in px of the full resolution.

A file is a `FeatureCollection` or a bare list of features, and has the name of its slide: `SLIDE.geojson`,
`SLIDE.json`, or `SLIDE-anatomical-structure.json`, whose outlines of cortex and medulla go with those of the same
slide. The class of a feature is its `classification`, and its name where there is none. A `MultiPolygon` is an object
for each of its parts, but slivers that a brush left behind. Points and lines outline nothing.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from renalcore.datasets.findings import Findings, Kind, counted
from renalcore.datasets.pictures import key, read_text
from renalcore.histology.annotations.masks import is_mask
from renalcore.histology.annotations.record import SLIDE_SUFFIXES, Outline, Record
from renalcore.histology.names import OTHER, label_called

UNCLASSIFIED: Final = "(no class)"

_STRUCTURES: Final = re.compile(r"-anatomical-structures?$", re.IGNORECASE)
_SLIVER: Final = 0.05
"""Share of the largest part of a MultiPolygon below which a part is none."""


def is_geojson(path: Path) -> bool:
    """Whether a JSON file holds features, by its beginning."""
    if path.suffix.lower() not in (".json", ".geojson"):
        return False
    with path.open("rb") as stream:
        head = stream.read(1 << 12)
    return b'"FeatureCollection"' in head or b'"Feature"' in head or head.strip() == b"[]"


def read(paths: list[Path], files: list[Path], findings: Findings) -> list[Record]:
    """The slides among some files that these outline."""
    slides: dict[str, list[Path]] = {}
    for file in files:
        if file.suffix.lower() in SLIDE_SUFFIXES and not is_mask(file):
            slides.setdefault(_stem(file), []).append(file)
    records: dict[Path, Record] = {}
    only_structures: set[Path] = set()
    for path in paths:
        near = slides.get(_slide_of(path), [])
        beside = [file for file in near if file.parent == path.parent] or near
        if len(beside) != 1:
            what = "no slide" if not beside else f"{len(beside)} slides"
            findings.add(Kind.LABEL_ALONE, path, f"{what} of that name", "give both the same name, in one folder")
            continue
        outlines = _outlines(path, findings)
        if outlines is None:
            continue
        record = records.setdefault(beside[0], Record(beside[0], (0, 0), path))
        record.outlines += outlines
        if outlines and all(label_called(outline.label) == OTHER for outline in outlines):
            only_structures.add(path)
        else:
            record.file = path
    return [record for record in records.values() if record.file not in only_structures]


def _stem(path: Path) -> str:
    return key(path.name.split(".ome.")[0] if ".ome." in path.name.lower() else path.stem)


def _slide_of(path: Path) -> str:
    return key(_STRUCTURES.sub("", path.stem))


def _outlines(path: Path, findings: Findings) -> list[Outline] | None:
    """The outlines of a file; None, with a finding, where it cannot be understood."""
    try:
        content = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        findings.add(Kind.BROKEN_LABEL, path, f"is no valid JSON ({error})", "export it again")
        return None
    features = content.get("features") if isinstance(content, dict) else content
    if not isinstance(features, list):
        findings.add(Kind.BROKEN_LABEL, path, "holds no list of features", "export it from QuPath as GeoJSON")
        return None
    found: list[Outline] = []
    skipped: Counter[str] = Counter()
    broken = 0
    for feature in features:
        shape = feature.get("geometry") if isinstance(feature, dict) else None
        kind = shape.get("type") if isinstance(shape, dict) else None
        if not isinstance(shape, dict) or kind not in ("Polygon", "MultiPolygon"):
            skipped[str(kind)] += 1
            continue
        try:
            parts = [shape["coordinates"]] if kind == "Polygon" else list(shape["coordinates"])
            label = _label(feature.get("properties"))
            polygons = [Outline(rings[0], label, tuple(rings[1:])) for rings in map(_rings, parts) if rings]
        except (KeyError, TypeError, ValueError):
            broken += 1
            continue
        largest = max((polygon.area_px for polygon in polygons), default=0.0)
        found += [polygon for polygon in polygons if len(polygons) == 1 or polygon.area_px >= _SLIVER * largest]
    if broken:
        findings.add(
            Kind.BROKEN_LABEL,
            path,
            f"{counted(broken, 'feature')} without coordinates that are numbers",
            "export again",
        )
    if skipped:
        kinds = ", ".join(f"{number} {kind}" for kind, number in sorted(skipped.items()))
        findings.add(Kind.NO_OBJECT, path, f"outline nothing and are left out: {kinds}", "nothing to do")
    return found


def _label(properties: Any) -> str:
    """The class of a feature as QuPath writes it, now or in early versions."""
    if not isinstance(properties, dict):
        return UNCLASSIFIED
    said = properties.get("classification")
    if isinstance(said, dict):
        names = said.get("names")
        said = said.get("name") or (": ".join(map(str, names)) if isinstance(names, list) else None)
    return str(said or properties.get("name") or UNCLASSIFIED).strip() or UNCLASSIFIED


def _rings(rings: Any) -> list[NDArray[np.float64]]:
    """The rings of one polygon, the outer first, none with its first point again at its end."""
    found = []
    for ring in rings:
        points = np.array([point[:2] for point in ring], np.float64).reshape(-1, 2)
        if not np.isfinite(points).all():
            raise ValueError("a coordinate is no number")
        found.append(points[:-1] if len(points) > 1 and (points[0] == points[-1]).all() else points)
    return found
