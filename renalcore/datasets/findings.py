"""What can be wrong with a labelled data set, and how it is told."""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final


class Kind(StrEnum):
    """What can be wrong with a data set; the value is how it is headed in a report."""

    UNKNOWN_NAME = "unknown class names"
    UNKNOWN_ID = "class ids without a name"
    BROKEN_LABEL = "unreadable labels"
    MISSING_PICTURE = "pictures that are named and not there"
    UNREADABLE_PICTURE = "unreadable pictures"
    OTHER_SIZE = "pictures of another size than their labels say"
    BOX_TOO_LARGE = "boxes larger than the picture"
    BOX_OUTSIDE = "boxes wholly outside the picture"
    OUTLINE_OUTSIDE = "outlines wholly outside the slide"
    LEAK = "the same picture in two splits"
    NEAR_LEAK = "almost the same picture in two splits"
    GROUP_LEAK = "groups in two splits"
    NO_VALIDATION = "nothing to validate with"
    SELF_CROSSING = "outlines that cross themselves"
    OUTLINE_OVER_EDGE = "outlines that reach over the edge"
    OUTLINE_WITHOUT_AREA = "outlines without area"
    OUTLINE_TWICE = "outlines given twice"
    BOX_CLIPPED = "boxes that reach over the edge"
    BOX_WITHOUT_AREA = "boxes without area"
    BOX_TWICE = "boxes given twice"
    PICTURE_TWICE = "the same picture twice"
    UNLABELLED = "pictures without labels"
    LABEL_ALONE = "labels without a picture"
    LISTED_NOT_THERE = "pictures on a list of a split that are not there"
    UNSPLIT = "pictures that no split names"
    PICTURE_OUTSIDE = "pictures outside the folder"
    UNUSED_NAME = "class names that have no box and no class"
    UNUSED_MAPPING = "names of the mapping that the data lack"
    UNGROUPED = "pictures whose group nobody knows"
    EMPTY_CLASS = "classes without a box"
    NO_OBJECT = "shapes that outline no object"
    EMPTY_SLIDE = "slides without a glomerulus"


WRONG: Final = frozenset(
    {
        Kind.UNKNOWN_NAME, Kind.UNKNOWN_ID, Kind.BROKEN_LABEL, Kind.MISSING_PICTURE, Kind.UNREADABLE_PICTURE,
        Kind.OTHER_SIZE, Kind.BOX_TOO_LARGE, Kind.BOX_OUTSIDE, Kind.OUTLINE_OUTSIDE, Kind.LEAK, Kind.NEAR_LEAK,
        Kind.GROUP_LEAK,
    }
)  # fmt: skip
"""Kinds that make training or its figures wrong; the others are worth a look."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong with a data set.

    Attributes:
        kind: What it is.
        file: Where, as a path from the data's folder.
        message: What was found.
        remedy: What to do.
    """

    kind: Kind
    file: str
    message: str
    remedy: str

    @property
    def is_error(self) -> bool:
        """True where training, or the figures that it ends with, would be wrong."""
        return self.kind in WRONG

    def __str__(self) -> str:
        return f"{self.file}: {self.message}; {self.remedy}"


class Findings:
    """What is wrong, collected while reading; paths are shown from the data's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows: list[Finding] = []

    def add(self, kind: Kind, file: Path | str, message: str, remedy: str) -> None:
        """Note one more; a path is shown from the data's folder, and words stay as they are."""
        shown = shown_path(file, self.folder) if isinstance(file, Path) else file
        self.rows.append(Finding(kind, shown, message, remedy))

    def done(self) -> tuple[Finding, ...]:
        """All of them, each once, the worst kinds first."""
        order = list(Kind)
        return tuple(sorted(dict.fromkeys(self.rows), key=lambda row: order.index(row.kind)))


def shown_path(path: Path, folder: Path) -> str:
    """A path as seen from a folder, with slashes."""
    return Path(os.path.relpath(path, folder)).as_posix()


def counted(number: int, word: str) -> str:
    """`1 box`, `2 boxes`, `2 classes`, `3 pictures`."""
    return f"{number} {word}" if number == 1 else f"{number} {word}{'es' if word.endswith(('x', 's')) else 's'}"
