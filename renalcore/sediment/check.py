"""Is a labelled data set fit to train on? What reading it shows, and what only its pixels can tell."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np

from renalcore import taxonomy
from renalcore.datasets.findings import Finding, Findings, Kind, counted
from renalcore.datasets.pictures import Split, read_rgb
from renalcore.datasets.twins import tell_shared_groups, tell_twins
from renalcore.errors import InputError
from renalcore.sediment.names import IGNORE
from renalcore.sediment.readers import AS_IS, LabelledFields, ReadOptions, survey


@dataclass(frozen=True, slots=True, eq=False)
class DataCheck:
    """What a data set holds and what is wrong with it.

    Attributes:
        fields: The data set.
        findings: Everything that was found, the worst first.
    """

    fields: LabelledFields
    findings: tuple[Finding, ...]

    @property
    def is_fit(self) -> bool:
        """False where training, or the figures that it ends with, would be wrong."""
        return not any(finding.is_error for finding in self.findings)

    @property
    def sides(self) -> list[Split]:
        """The splits that hold a picture, those to train on first."""
        return [split for split in get_args(Split) if self.pictures(split)]

    def pictures(self, split: Split) -> int:
        """Labelled pictures of one side."""
        return len(self.fields.split(split))

    def objects(self, split: Split) -> dict[str, int]:
        """Boxes of each of the 39 classes on one side."""
        counts = np.zeros(IGNORE + 1, np.int64)
        for field in self.fields.split(split):
            counts += np.bincount(field.class_ids, minlength=IGNORE + 1)
        return dict(zip(taxonomy.NAMES, counts.tolist(), strict=False))

    def as_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        data = self.fields
        return {
            "data": str(data.folder),
            "format": data.format.value,
            "fit": self.is_fit,
            "own_splits": data.own_splits,
            "groups_from": data.grouped_by,
            "pictures": {split: self.pictures(split) for split in get_args(Split)},
            "groups": {split: len({field.group for field in data.split(split)}) for split in get_args(Split)},
            "unlabelled": len(data.unlabelled),
            "names": [
                {"name": each.name, "read_as": read_as(each.class_id), "boxes": each.boxes} for each in data.classes
            ],
            "objects": {split: self.objects(split) for split in get_args(Split)},
            "findings": [
                {
                    "kind": finding.kind.name.lower(), "error": finding.is_error, "file": finding.file,
                    "message": finding.message, "remedy": finding.remedy,
                }
                for finding in self.findings
            ],
        }  # fmt: skip


def read_as(class_id: int | None) -> str:
    """What a name of the data means, in words."""
    if class_id is None:
        return "unknown"
    return "ignored" if class_id == IGNORE else taxonomy.NAMES[class_id]


def check(
    folder: Path, options: ReadOptions = AS_IS, *, done: Callable[[int, int], object] = lambda _done, _all: None
) -> DataCheck:
    """Read a data set and look at every picture of it.

    Args:
        folder: Where it lies, in any form of `renalcore.sediment.readers`.
        options: What the data cannot say of themselves.
        done: Called after each picture with how many were looked at, and how many there are.

    Raises:
        InputError: The folder cannot be understood at all, or holds no picture.
    """
    data = survey(folder, options)
    found = Findings(data.folder)
    pictures = [field.path for field in data.fields] + list(data.unlabelled)
    if not pictures and not data.findings:
        raise InputError(f"{data.folder} holds no picture; give the folder that holds the pictures")
    sides: list[Split | None] = [*data.splits, *(None for _ in data.unlabelled)]
    tell_twins(pictures, sides, found, read=read_rgb, done=done)
    tell_shared_groups(
        [field.group for field in data.fields], [field.path for field in data.fields], data.splits, found
    )
    _empty_classes(data, found)
    order = list(Kind)
    findings = sorted((*data.findings, *found.done()), key=lambda finding: order.index(finding.kind))
    return DataCheck(data, tuple(findings))


def _empty_classes(data: LabelledFields, found: Findings) -> None:
    listed = {each.class_id for each in data.classes} - {None, IGNORE}
    boxes = np.zeros(IGNORE + 1, np.int64)
    for field in data.fields:
        boxes += np.bincount(field.class_ids, minlength=IGNORE + 1)
    empty = [name for index, name in enumerate(taxonomy.NAMES) if index in listed and not boxes[index]]
    if empty:
        found.add(
            Kind.EMPTY_CLASS, "(class list)", f"{counted(len(empty), 'class')} listed, not one box: {', '.join(empty)}",
            "nothing is learnt of them here but that they are absent; take them off the class list if nobody looked",
        )  # fmt: skip
