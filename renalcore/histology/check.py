"""Are labelled slides fit to train on? What reading them shows, and what only their outlines and pixels can tell."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, get_args

import numpy as np
from numpy.typing import NDArray
from shapely import Polygon, is_valid_reason
from shapely.strtree import STRtree

from renalcore.datasets.findings import Finding, Findings, Kind, counted
from renalcore.datasets.pictures import Split, read_rgb
from renalcore.datasets.twins import tell_shared_groups, tell_twins
from renalcore.histology.annotations.reading import AS_IS, ReadOptions, Slides, survey
from renalcore.histology.annotations.record import PLAIN_SUFFIXES, LabelledSlide
from renalcore.histology.names import IGNORE
from renalcore.io.slide import open_slide

_THUMBNAIL_PX: Final = 1024
_SAME: Final = 0.8
"""Share of two outlines' union that both cover, from which on they are one glomerulus outlined twice."""


@dataclass(frozen=True, slots=True, eq=False)
class SlideCheck:
    """What a data set holds and what is wrong with it.

    Attributes:
        slides: The data set.
        findings: Everything that was found, the worst first.
    """

    slides: Slides
    findings: tuple[Finding, ...]

    @property
    def is_fit(self) -> bool:
        """False where training, or the figures that it ends with, would be wrong, and where nothing is labelled."""
        return bool(self.slides.slides) and not any(finding.is_error for finding in self.findings)

    @property
    def sides(self) -> list[Split]:
        """The splits that hold a slide, those to train on first."""
        return [split for split in get_args(Split) if self.slides.split(split)]

    def counts(self, split: Split) -> dict[str, int]:
        """Slides, groups and glomeruli of one side, and its slides by stain."""
        side = self.slides.split(split)
        stains = sorted({each.stain or "stain not said" for each in self.slides.slides})
        return {
            "slides": len(side),
            "groups": len({each.group for each in side}),
            "glomeruli": sum(each.glomeruli for each in side),
            **{name: sum((each.stain or "stain not said") == name for each in side) for name in stains},
        }

    def as_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        data = self.slides
        diameters = [each.glomerulus_px for each in data.slides if each.glomerulus_px]
        return {
            "data": str(data.folder),
            "fit": self.is_fit,
            "own_splits": data.own_splits,
            "groups_from": data.grouped_by,
            "splits": {split: self.counts(split) for split in get_args(Split)},
            "unlabelled": len(data.unlabelled),
            "glomerulus_px": [min(diameters), max(diameters)] if diameters else None,
            "names": [{"name": name, "read_as": label or "unknown", "outlines": n} for name, label, n in data.names],
            "findings": [
                {
                    "kind": finding.kind.name.lower(), "error": finding.is_error, "file": finding.file,
                    "message": finding.message, "remedy": finding.remedy,
                }
                for finding in self.findings
            ],
        }  # fmt: skip


def check(
    folder: Path, options: ReadOptions = AS_IS, *, done: Callable[[int, int], object] = lambda _done, _all: None
) -> SlideCheck:
    """Read a data set and look at every outline and every slide of it.

    Args:
        folder: Where it lies, in any form of `renalcore.histology.annotations`.
        options: What the data cannot say of themselves.
        done: Called after each slide with how many were looked at, and how many there are.

    Raises:
        InputError: The folder cannot be understood at all.
    """
    data = survey(folder, options)
    found = Findings(data.folder)
    for slide in data.slides:
        _look_at_outlines(slide, found)
    paths = [slide.path for slide in data.slides]
    tell_twins(paths, list(data.splits), found, read=_overview, done=done)
    tell_shared_groups([slide.group for slide in data.slides], paths, data.splits, found)
    order = list(Kind)
    findings = sorted((*data.findings, *found.done()), key=lambda finding: order.index(finding.kind))
    return SlideCheck(data, tuple(findings))


def _overview(path: Path) -> NDArray[np.uint8]:
    """A picture whole, of a slide what it looks like from afar."""
    if path.suffix.lower() in PLAIN_SUFFIXES:
        return read_rgb(path)
    with open_slide(path) as slide:
        return slide.thumbnail(_THUMBNAIL_PX)


def _look_at_outlines(slide: LabelledSlide, found: Findings) -> None:
    """Tell of outlines that cross themselves, and of glomeruli outlined twice."""
    glomeruli = [outline for outline in slide.outlines or () if outline.label != IGNORE]
    shapes = [Polygon(outline.points_px) for outline in glomeruli]
    crossing = [shape for shape in shapes if not shape.is_valid]
    if crossing:
        place = is_valid_reason(crossing[0])
        found.add(
            Kind.SELF_CROSSING, slide.path,
            f"{counted(len(crossing), 'outline')} with a line that crosses itself ({place}); an odd part counts as "
            "outside",
            "redraw if that is much",
        )  # fmt: skip
    sound = [shape if shape.is_valid else shape.buffer(0) for shape in shapes]
    if not sound:
        return
    near = STRtree(sound).query(sound, predicate="intersects")
    twice = [
        (a, b) for a, b in near.T.tolist()
        if a < b and sound[a].intersection(sound[b]).area >= _SAME * sound[a].union(sound[b]).area
    ]  # fmt: skip
    if twice:
        found.add(
            Kind.OUTLINE_TWICE, slide.path,
            f"{counted(len(twice), 'pair')} of outlines around one glomerulus, which is counted twice",
            "remove one of the two",
        )  # fmt: skip
