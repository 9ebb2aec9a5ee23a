"""What a label file says of a picture, unjudged, and the numbers in it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from renalcore.datasets.findings import Findings, Kind
from renalcore.datasets.pictures import Split

ADD_PICTURE: Final = "add the picture, or remove the labels"
_MOST: Final = 1e7
"""No picture has so many px: a number beyond is a slip, and its square would leave the range of numbers."""


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


def numbers(values: Iterable[Any]) -> NDArray[np.float64] | None:
    """The numbers that a label file gives, None where one of them is none, infinite, or larger than any picture."""
    try:
        found = np.array([float(value) for value in values])
    except (TypeError, ValueError, OverflowError):
        return None
    return found if (np.abs(found) <= _MOST).all() else None  # also refuses nan


def stated_px(value: object) -> int:
    """A side that labels state of their picture, in px; 0 where they state none."""
    found = numbers([value])
    return 0 if found is None else max(int(found[0]), 0)


def same_size(said: tuple[int, int], size: tuple[int, int], file: Path, findings: Findings, name: str = "") -> bool:
    """False, with a finding, where labels in px were made for a picture of another size."""
    if 0 in said or said == size:
        return True
    of = f" for {name}" if name else ""
    findings.add(
        Kind.OTHER_SIZE, file, f"says {said[0]} x {said[1]} px{of}, the picture has {size[0]} x {size[1]}",
        "it was resized or turned after labelling: put the original back, or export the labels again",
    )  # fmt: skip
    return False
