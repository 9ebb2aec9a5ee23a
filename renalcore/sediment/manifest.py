"""Tables beside the labels: `manifest.csv` lists the pictures of a set, `groups.csv` names patient or sample."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from renalcore import taxonomy
from renalcore.datasets.findings import Findings, Kind, shown_path
from renalcore.datasets.pictures import key, split_called
from renalcore.errors import InputError
from renalcore.io.table import read_table
from renalcore.sediment.labels.record import Record, same_size, stated_px
from renalcore.sediment.names import IGNORE, class_called

URISED_SCOPES: Final = MappingProxyType(
    {
        "all_cells": ("RBC", "WBC", "Yeast", "Calcium oxalate", "Epithelial cell (squamous)"),
        "wbc_only": ("WBC",),
        "rbc_only_incomplete": (),  # even some RBC are unboxed: only the boxes themselves are known
        "epi_only_lowpower": ("Epithelial cell (squamous)",),
    }
)
"""Classes that were looked for in a field, by a manifest's `label_scope`."""


@dataclass(frozen=True, slots=True)
class Tables:
    """`manifest.csv` and `groups.csv`, by picture; None where there is none."""

    manifest: Mapping[str, Mapping[str, str]] | None
    groups: Mapping[str, str] | None
    folder: Path

    @classmethod
    def read(cls, folder: Path) -> Tables:
        """Those of a folder.

        Raises:
            InputError: One cannot be read, or contradicts itself.
        """
        groups = _by_picture(folder / "groups.csv", "group")
        named = None if groups is None else {entry: row["group"] for entry, row in groups.items()}
        return cls(_by_picture(folder / "manifest.csv"), named, folder)

    def entry_of(self, path: Path, entries: Mapping[str, Any]) -> str | None:
        """The entry that names a picture: by path, by name, or by name without suffix."""
        shown = key(shown_path(path, self.folder))
        return next((name for name in (shown, key(path.name), key(path.stem)) if name in entries), None)

    def listed(self, records: list[Record], findings: Findings) -> list[Record]:
        """The pictures that the manifest lists, with what it says of them; all of them where there is none."""
        if self.manifest is None:
            return records
        manifest = self.folder / "manifest.csv"
        found, seen = [], set()
        for record in records:
            entry = self.entry_of(record.path, self.manifest)
            if entry is None:
                findings.add(
                    Kind.UNLABELLED, record.path, "is not listed in manifest.csv and left out", "list it there"
                )
                continue
            seen.add(entry)
            row = self.manifest[entry]
            record.known = _known(row, manifest)
            if row.get("split"):
                record.split = split_called(row["split"])
                if record.split is None:
                    raise InputError(
                        f"{manifest}: unknown split {row['split']!r} for {row['image']}; use train, val or test"
                    )
            said = (stated_px(row.get("width")), stated_px(row.get("height")))
            if same_size(said, record.size_px, manifest, findings, row["image"]):
                found.append(record)
        for entry, row in self.manifest.items():
            if entry not in seen:
                _known(row, manifest)
                findings.add(
                    Kind.MISSING_PICTURE, manifest, f"lists {row['image']}, which has no picture or labels",
                    "add them, or remove the line",
                )  # fmt: skip
        return found


def _by_picture(path: Path, *required: str) -> dict[str, dict[str, str]] | None:
    """The lines of a CSV file by their picture, cells by the names of their columns in lower case."""
    if not path.is_file():
        return None
    table = read_table(path.read_bytes(), name=str(path))
    header = [name.lower() for name in table.header]
    required = ("image", *required)
    if not set(required) <= set(header):
        raise InputError(f"{path} needs the columns {', '.join(required)}; its first line names {', '.join(header)}")
    rows: dict[str, dict[str, str]] = {}
    for number, cells in table.rows:
        row = dict(zip(header, cells, strict=True))
        if rows.setdefault(key(row["image"].replace("\\", "/")), row) != row:
            raise InputError(
                f"{path}, line {number}: {row['image']} was listed otherwise before; keep one of the lines"
            )
    return rows


def _known(row: Mapping[str, str], manifest: Path) -> NDArray[np.bool_] | None:
    """The classes that a manifest says were looked for in a picture; None where it says nothing."""
    known = np.zeros(len(taxonomy.CLASSES), bool)
    if row.get("label_scope"):
        if row["label_scope"] not in URISED_SCOPES:
            raise InputError(f"{manifest}: unknown label_scope {row['label_scope']!r} for {row['image']}")
        known[[taxonomy.class_id(name) for name in URISED_SCOPES[row["label_scope"]]]] = True
        return known
    if "known" not in row or row["known"].strip() == "*":
        return None
    for name in filter(None, map(str.strip, row["known"].split(";"))):
        class_id = class_called(name)
        if class_id is None:
            raise InputError(f"{manifest}: unknown class {name!r} in `known` of {row['image']}")
        if class_id != IGNORE:
            known[class_id] = True
    return known
