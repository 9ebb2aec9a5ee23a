"""From a folder to labelled slides: see the package."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from renalcore.datasets.findings import Finding, Findings, Kind, counted, shown_path
from renalcore.datasets.groups import divide, of_side, sides, train_and_val
from renalcore.datasets.pictures import Split, absolute, files_under, key, split_of
from renalcore.errors import InputError, RenalError
from renalcore.histology.annotations import geojson, hubmap, masks, orbit
from renalcore.histology.annotations.record import (
    PLAIN_SUFFIXES,
    SLIDE_SUFFIXES,
    Known,
    LabelledSlide,
    Outline,
    Record,
)
from renalcore.histology.names import GLOMERULUS, IGNORE, LABELS, OTHER, label_called, read_mapping
from renalcore.io.image import read_size
from renalcore.io.slide import open_slide
from renalcore.io.table import read_table

_TOLERANCE_PX: Final = 2.0
"""How far an outline may reach over the edge without a word: people draw up to it."""


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """What a data set cannot say of itself.

    Attributes:
        mapping: CSV file `name in the data,label`, see `renalcore.histology.names.read_mapping`.
        group_pattern: Regular expression searched in a slide's name without its suffix; the first bracket, or the
            whole match, is the group.
        val_share: Share of the groups that validate where the data have no splits.
        known: What is known where nothing is outlined, for slides whose data do not say it.
        stain: Of all slides whose data do not say it.
        species: Of all slides whose data do not say it: `human`, `mouse` or `rat`.
        um_per_px: Micrometres a pixel of level 0 of all slides whose data do not say it.

    Raises:
        InputError: `group_pattern` is no regular expression, or a number is out of range.
    """

    mapping: Path | None = None
    group_pattern: str | None = None
    val_share: float = 0.2
    known: Known = "all"
    stain: str | None = None
    species: str | None = None
    um_per_px: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.val_share < 1:
            raise InputError(f"the share of validation groups must lie between 0 and 1, got {self.val_share}")
        if self.um_per_px is not None and not 0 < self.um_per_px < float("inf"):
            raise InputError(f"micrometres a pixel must be positive, got {self.um_per_px}")
        try:
            re.compile(self.group_pattern or "")
        except re.error as error:
            raise InputError(f"the group pattern {self.group_pattern!r} is no regular expression: {error}") from None


AS_IS: Final = ReadOptions()
"""Nothing to add: the data speak for themselves."""


@dataclass(frozen=True, slots=True, eq=False)
class Slides:
    """A data set that was read.

    Attributes:
        folder: Where it lies.
        slides: Its labelled slides.
        splits: The side of each slide.
        own_splits: True where the data themselves say who trains; False where a hash of the group decided.
        grouped_by: `groups.csv`, `pairs.csv`, `pattern`, or `slide` where each slide is its own group.
        names: The names that outlines have in the data: what each is read as (None: nobody knows), and how many.
        unlabelled: Pictures that nobody labelled.
        findings: What is wrong with it, as far as reading shows.
    """

    folder: Path
    slides: tuple[LabelledSlide, ...]
    splits: tuple[Split, ...]
    own_splits: bool
    grouped_by: str
    names: tuple[tuple[str, str | None, int], ...]
    unlabelled: tuple[Path, ...]
    findings: tuple[Finding, ...]

    def split(self, name: Split) -> list[LabelledSlide]:
        """The slides of one side."""
        return of_side(self.slides, self.splits, name)

    def sides(self, held_out: Collection[str] = ()) -> tuple[list[LabelledSlide], list[LabelledSlide]]:
        """Slides to train on and to validate with; those of a test split are in neither.

        Args:
            held_out: Groups that make up the validation side instead of the data's own, for cross-validation.

        Raises:
            InputError: There is no such group.
        """
        return train_and_val(self.slides, self.splits, held_out, folder=self.folder, grouped_by=self.grouped_by)

    def folds(self, count: int) -> list[tuple[str, ...]]:
        """The groups that each of some folds holds out: whole groups, slides of a test split left out.

        Slides, glomeruli and stains are spread evenly; the same slides always give the same folds.

        Raises:
            InputError: There are fewer groups than folds, or fewer than two folds.
        """
        rest = [each for each, side in zip(self.slides, self.splits, strict=True) if side != "test"]
        names = sorted({each.group for each in rest})
        stains = sorted({each.stain or "" for each in rest})
        row_of = {name: row for row, name in enumerate(names)}
        counts = np.zeros((len(names), 2 + len(stains)))
        for each in rest:
            counts[row_of[each.group], [0, 2 + stains.index(each.stain or "")]] += 1
            counts[row_of[each.group], 1] += each.glomeruli
        return divide(names, counts, count)


def read_slides(folder: Path, options: ReadOptions = AS_IS) -> Slides:
    """The labelled slides of a folder, see the package.

    Args:
        folder: Where they lie.
        options: What the data cannot say of themselves.

    Raises:
        InputError: There are no labels, or training on them would be wrong; the first few reasons are named.
    """
    found = survey(folder, options)
    wrong = [finding for finding in found.findings if finding.is_error]
    if wrong:
        rest = f"\nand {len(wrong) - 5} more" if len(wrong) > 5 else ""
        listed = "\n".join(str(finding) for finding in wrong[:5])
        raise InputError(
            f"{folder} cannot be used as it is:\n{listed}{rest}\n"
            f"`renalcore check histology --data {folder}` lists everything"
        )
    if not found.slides:
        raise InputError(
            f"{folder} holds {counted(len(found.unlabelled), 'picture')} and no outlines (masks beside pictures, "
            "Orbit's SQLite, HuBMAP's train.csv or JSON, QuPath's GeoJSON); give the folder that holds both"
        )
    return found


def survey(folder: Path, options: ReadOptions = AS_IS) -> Slides:
    """As `read_slides`, but what is wrong is listed in `findings`, and unusable slides and outlines are left out.

    Raises:
        InputError: It is no folder, or its labels, tables or mapping cannot be understood at all.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; give the folder that holds the slides")
    folder = absolute(folder)
    findings = Findings(folder)
    files = files_under(folder)
    records = _records(folder, files, findings)
    mapping = read_mapping(options.mapping) if options.mapping else {}
    names = _names(records, mapping, options, findings)
    meaning = {name: label for name, label, _ in names}
    usable = [record for record in records if _has_size(record, findings)]
    groups, grouped_by = _groups(usable, folder, options, findings)
    slides, said, kept = [], [], []
    for record, group in zip(usable, groups, strict=True):
        slide = _slide(record, group, meaning, options, findings)
        if slide is not None:
            slides.append(slide)
            said.append(record.split or split_of(record.path, folder))
            kept.append(group)
    chosen, own_splits = sides(said, [slide.path for slide in slides], kept, options.val_share, findings)
    taken = {record.path for record in records} | {record.mask_path for record in records}
    unlabelled = tuple(
        path
        for path in files
        if path.suffix.lower() in SLIDE_SUFFIXES and path not in taken and not masks.is_mask(path)
    )
    if unlabelled and slides:
        findings.add(
            Kind.UNLABELLED, unlabelled[0],
            f"{counted(len(unlabelled), 'picture')} without labels (this is the first) left out",
            "an empty mask or an empty list of outlines says that a slide was searched and holds nothing",
        )  # fmt: skip
    return Slides(folder, tuple(slides), chosen, own_splits, grouped_by, names, unlabelled, findings.done())


def _records(folder: Path, files: list[Path], findings: Findings) -> list[Record]:
    """What each form yields; a slide that several forms label is read once."""
    others = [file for file in files if file.suffix.lower() not in SLIDE_SUFFIXES]
    polygons = geojson.read([file for file in others if geojson.is_geojson(file)], files, findings)
    outlined = {record.path for record in polygons}
    found = [*polygons]
    for file in filter(hubmap.is_hubmap, others):  # its polygon files say the same, and more exactly
        found += [record for record in hubmap.read(file, files, findings) if record.path not in outlined]
    for file in filter(orbit.is_orbit, others):
        found += orbit.read(file, files, findings)
    listed = (folder / masks.TABLE).is_file()
    found += masks.read_table_of_pairs(folder, findings) if listed else masks.read_beside(files)
    first: dict[Path, Record] = {}
    for record in found:
        other = first.setdefault(record.path, record)
        if other is not record:
            findings.add(
                Kind.PICTURE_TWICE, record.path,
                f"is labelled by {shown_path(other.file, folder)}, which counts, and {shown_path(record.file, folder)}",
                "label each slide once",
            )  # fmt: skip
    return list(first.values())


def _names(
    records: list[Record], mapping: dict[str, str], options: ReadOptions, findings: Findings
) -> tuple[tuple[str, str | None, int], ...]:
    """The names in the data with what each is read as."""
    counts = Counter(outline.label for record in records for outline in record.outlines)
    first = {outline.label: record.file for record in reversed(records) for outline in record.outlines}
    folded = {key(name): label for name, label in mapping.items()}
    names = []
    for name in sorted(counts):
        label = folded.get(key(name), label_called(name))
        names.append((name, label, counts[name]))
        if label is None:
            findings.add(
                Kind.UNKNOWN_NAME, first[name],
                f"{name!r} ({counted(counts[name], 'outline')}) is no name of a glomerulus that is known",
                f"add the line `{name},LABEL` to a file for --mapping; labels: {', '.join(LABELS)}",
            )  # fmt: skip
    strangers = [name for name in mapping if key(name) not in {key(each) for each in counts}]
    if strangers and options.mapping:
        findings.add(
            Kind.UNUSED_MAPPING, options.mapping, f"maps {', '.join(strangers)}, not in the data", "check the spelling"
        )
    return tuple(names)


def _has_size(record: Record, findings: Findings) -> bool:
    """Fill in what a slide's file says of itself; False, with a finding, where it cannot be read."""
    try:
        if record.path.suffix.lower() in PLAIN_SUFFIXES:
            record.size_px = read_size(record.path)
        else:
            with open_slide(record.path) as slide:
                record.size_px = slide.width_px, slide.height_px
                record.um_per_px = record.um_per_px or slide.um_per_px
    except (RenalError, OSError) as error:
        findings.add(Kind.UNREADABLE_PICTURE, record.path, str(error), "replace it or remove it with its labels")
        return False
    return True


def _groups(records: list[Record], folder: Path, options: ReadOptions, findings: Findings) -> tuple[list[str], str]:
    """The group of each slide, and where groups come from."""
    named = _named_groups(folder / "groups.csv")
    stems = Counter(key(record.path.stem) for record in records)

    def own(record: Record) -> str:
        alone = stems[key(record.path.stem)] == 1
        return record.path.stem if alone else shown_path(record.path.with_suffix(""), folder)

    if named is not None:
        grouped_by = "groups.csv"
    elif options.group_pattern:
        grouped_by = "pattern"
    else:
        grouped_by = masks.TABLE if any(record.group for record in records) else "slide"
    groups, alone = [], []
    for record in records:
        group = record.group if grouped_by == masks.TABLE else ""
        if named is not None:
            places = (shown_path(record.path, folder), record.path.name, record.path.stem)
            group = next((named[key(place)] for place in places if key(place) in named), "")
        elif options.group_pattern:
            match = re.search(options.group_pattern, unicodedata.normalize("NFC", record.path.stem))
            group = (match.group(1) if match.re.groups else match.group()) or "" if match else ""
        if not group and grouped_by != "slide":
            alone.append(record.path)
        groups.append(group or own(record))
    if alone:
        findings.add(
            Kind.UNGROUPED, alone[0],
            f"{counted(len(alone), 'slide')} (this is the first) without a group by {grouped_by}; each is its own",
            "name the patient or animal of every slide in groups.csv (image,group)",
        )  # fmt: skip
    elif grouped_by == "slide" and records:
        findings.add(
            Kind.UNGROUPED, "(all slides)",
            "no groups are given: each slide counts as a patient of its own, and figures are too good where several "
            "are of one",
            "name the patient or animal of every slide in groups.csv (image,group), or give --groups PATTERN",
        )  # fmt: skip
    return groups, grouped_by


def _named_groups(path: Path) -> dict[str, str] | None:
    if not path.is_file():
        return None
    table = read_table(path.read_bytes(), name=str(path))
    header = [name.lower() for name in table.header]
    if not {"image", "group"} <= set(header):
        raise InputError(f"{path} needs the columns image and group; its first line names {', '.join(header)}")
    image, group = header.index("image"), header.index("group")
    return {key(cells[image].replace("\\", "/")): cells[group] for _, cells in table.rows}


def _slide(
    record: Record, group: str, meaning: dict[str, str | None], options: ReadOptions, findings: Findings
) -> LabelledSlide | None:
    """One slide with what is usable of its labels; None, with a finding, where nothing is."""
    width, height = record.size_px
    outlines: tuple[Outline, ...] | None = None
    if record.mask_path is not None:
        try:
            instances = masks.read_instances(record.mask_path)
        except RenalError as error:
            findings.add(Kind.BROKEN_LABEL, record.mask_path, str(error), "draw or export it again")
            return None
        if instances.shape != (height, width):
            findings.add(
                Kind.OTHER_SIZE, record.mask_path,
                f"has {instances.shape[1]} x {instances.shape[0]} px, its picture {width} x {height}",
                "one of them was resized or turned after labelling: put the original back, or export the mask again",
            )  # fmt: skip
            return None
        areas, whole = _of_mask(instances)
    else:
        outlines = _usable(record, meaning, findings)
        glomeruli = [outline for outline in outlines if outline.label != IGNORE]
        areas = np.array([outline.area_px for outline in glomeruli], np.float64)
        whole = np.array([_is_whole(outline, width, height) for outline in glomeruli], np.bool_)
    if not len(areas):
        findings.add(
            Kind.EMPTY_SLIDE, record.path, "has no glomerulus outlined", "see that it was searched; it is then right"
        )
    return LabelledSlide(
        record.path,
        group,
        record.stain or options.stain,
        record.species or options.species,
        record.um_per_px or options.um_per_px,
        outlines,
        record.mask_path,
        record.known or options.known,
        width,
        height,
        areas,
        whole,
    )


def _of_mask(instances: NDArray[np.uint16]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Area of each glomerulus of a mask, and whether the picture's edge leaves it whole."""
    counts = np.bincount(instances.ravel())
    counts[0] = 0
    present = np.flatnonzero(counts)
    rim = np.concatenate((instances[0], instances[-1], instances[:, 0], instances[:, -1]))
    return counts[present].astype(np.float64), ~np.isin(present, rim)


def _is_whole(outline: Outline, width: int, height: int) -> bool:
    return bool((outline.points_px > 1).all() and (outline.points_px < (width - 1, height - 1)).all())


def _usable(record: Record, meaning: dict[str, str | None], findings: Findings) -> tuple[Outline, ...]:
    """Outlines inside the slide whose names are known, each once; what was left out is told."""
    width, height = record.size_px
    kept: list[Outline] = []
    outside, flat, twice, seen = 0, 0, 0, set()
    farthest = 0.0
    for outline in record.outlines:
        label = meaning[outline.label]
        if label in (None, OTHER):
            continue
        points = outline.points_px
        form = (label, points.round(1).tobytes())
        over = float(max(-points.min(), (points - (width, height)).max(), 0)) if len(points) else 0.0
        if len(points) < 3 or outline.area_px < 1:
            flat += 1
        elif (points.max(0) <= 0).any() or (points.min(0) >= (width, height)).any():
            outside += 1
        elif form in seen:
            twice += 1
        else:
            seen.add(form)
            farthest = max(farthest, over)
            kept.append(replace(outline, label=label or GLOMERULUS))
    of = "" if record.file.stem == record.path.stem else f" of {record.path.name}"

    def tell(kind: Kind, number: int, message: str, remedy: str) -> None:
        if number:
            findings.add(kind, record.file, f"{counted(number, 'outline')}{of} {message}", remedy)

    size = f"the slide of {width} x {height} px"
    tell(Kind.OUTLINE_OUTSIDE, outside, f"wholly outside {size}", _OTHER_LEVEL)
    tell(Kind.OUTLINE_WITHOUT_AREA, flat, "without an area, left out", "remove or redraw")
    tell(Kind.OUTLINE_TWICE, twice, "given twice, counted once", "remove one of the two")
    if farthest > _TOLERANCE_PX:
        tell(Kind.OUTLINE_OVER_EDGE, 1, f"and perhaps more reach up to {farthest:.0f} px over {size}", _OTHER_LEVEL)
    return tuple(kept)


_OTHER_LEVEL: Final = "see that outlines are in px of the full resolution and belong to this slide"
