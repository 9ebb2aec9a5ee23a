"""Labelled sediment fields on disk: YOLO text, Pascal VOC, COCO, with a manifest or without, in any usual layout.

`survey` reads a folder, whatever its form, and lists what is wrong with it; `read_fields` refuses what cannot be
trained on. Names become those of `renalcore.taxonomy` (`renalcore.sediment.names`); a class that nobody looked for in a
field is unknown there, not absent.

**Forms.** *YOLO*: a `.txt` file a picture (`class x y w h`, or a polygon), found in `labels/` for a picture in
`images/`, in the same sub-folder, or beside it; names from `data.yaml` (Ultralytics, Roboflow), `classes.txt` or
`obj.names` (darknet, labelImg, CVAT). *Pascal VOC*: an `.xml` file a picture; `difficult` objects become regions where
nothing is known; coordinates are taken as they stand, the way labelImg, CVAT and Roboflow write them. *COCO*: `.json`
files with `images`, `annotations` and `categories`; `iscrowd` regions are regions where nothing is known.

**Tables beside them.** `manifest.csv` (`image`, and any of `group`, `split`, `known`, `label_scope`) lists the pictures
of the set; `known` holds the classes looked for, separated by semicolons (`*`: the whole list; nothing: unknown but for
the boxes). `groups.csv` (`image`, `group`) names the patient or sample of a picture, and goes before the
manifest.

**Splits** are those of the manifest, of `data.yaml`, of lists (`train.txt`, `ImageSets/Main/train.txt`) or of folders
called train, valid or test; without any, whole groups go to validation by a hash of their name, so that a set which
grows keeps its split. A set with a test split and no validation split gives groups of its training side.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from renalcore import taxonomy
from renalcore.datasets.findings import Finding, Findings, Kind, counted, shown_path
from renalcore.datasets.groups import of_side, sides, train_and_val
from renalcore.datasets.pictures import Split, absolute, find_pictures, key
from renalcore.errors import InputError
from renalcore.sediment.formats import FORMATS, format_of
from renalcore.sediment.labels.record import Format, Record, Source
from renalcore.sediment.manifest import Tables
from renalcore.sediment.names import IGNORE, class_called, nearest, read_mapping

_TOLERANCE_PX: Final = 1.0
"""How far a box may reach over the edge without a word: label files round."""


@dataclass(frozen=True, slots=True, eq=False)
class LabelledField:
    """One field and its boxes.

    Attributes:
        path: The picture.
        boxes_px: `(N, 4)` float32, `[x1, y1, x2, y2]`.
        class_ids: `(N,)` int64 ids of the 39 classes, or `IGNORE` for a region where nothing is known.
        known: `(39,)` bool, the classes that somebody looked for.
        group: Patient or sample; fields of one group never lie on both sides of a split.
        real: False for rendered fields.
    """

    path: Path
    boxes_px: NDArray[np.float32]
    class_ids: NDArray[np.int64]
    known: NDArray[np.bool_]
    group: str
    real: bool


@dataclass(frozen=True, slots=True)
class SourceClass:
    """A class as the data name it: what it is read as (None: nobody knows) and how many boxes it has."""

    name: str
    class_id: int | None
    boxes: int


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """What a data set cannot say of itself.

    Attributes:
        format: Its form, where the folder holds labels in several.
        mapping: CSV file `name in the data,class or ignore`, see `renalcore.sediment.names.read_mapping`.
        group_pattern: Regular expression searched in a picture's name without its suffix; the first bracket, or the
            whole match, is the group.
        val_share: Share of the groups that validate where the data have no splits; the paper's is 0.2.
        partial: Not everything of the class list was boxed everywhere: only the boxes themselves are known.

    Raises:
        InputError: `group_pattern` is no regular expression, or `val_share` is not between 0 and 1.
    """

    format: Format | None = None
    mapping: Path | None = None
    group_pattern: str | None = None
    val_share: float = 0.2
    partial: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.val_share < 1:
            raise InputError(f"the share of validation groups must lie between 0 and 1, got {self.val_share}")
        try:
            re.compile(self.group_pattern or "")
        except re.error as error:
            raise InputError(f"the group pattern {self.group_pattern!r} is no regular expression: {error}") from None


AS_IS: Final = ReadOptions()
"""Nothing to add: the data speak for themselves."""


@dataclass(frozen=True, slots=True, eq=False)
class LabelledFields:
    """A data set that was read.

    Attributes:
        folder: Where it lies.
        format: The form of its labels.
        fields: Its labelled fields.
        splits: The side of each field.
        own_splits: True where the data themselves say who trains; False where a hash of the group decided.
        grouped_by: `groups.csv`, `manifest.csv`, `pattern`, or `picture` where each picture is its own group.
        classes: The class list of the data.
        unlabelled: Pictures that nobody labelled.
        findings: What is wrong with it, as far as reading shows.
    """

    folder: Path
    format: Format
    fields: tuple[LabelledField, ...]
    splits: tuple[Split, ...]
    own_splits: bool
    grouped_by: str
    classes: tuple[SourceClass, ...]
    unlabelled: tuple[Path, ...]
    findings: tuple[Finding, ...]

    def split(self, name: Split) -> list[LabelledField]:
        """The fields of one side."""
        return of_side(self.fields, self.splits, name)

    def sides(self, held_out: Collection[str] = ()) -> tuple[list[LabelledField], list[LabelledField]]:
        """Fields to train on and to validate with; those of a test split are in neither.

        Args:
            held_out: Groups that make up the validation side instead of the data's own, for cross-validation.

        Raises:
            InputError: There is no such group.
        """
        return train_and_val(self.fields, self.splits, held_out, folder=self.folder, grouped_by=self.grouped_by)


def read_fields(folder: Path, options: ReadOptions = AS_IS, *, real: bool = True) -> LabelledFields:
    """The labelled fields of a folder, see the module.

    Args:
        folder: Where they lie.
        options: What the data cannot say of themselves.
        real: False for rendered fields.

    Raises:
        InputError: There are no labels, or training on them would be wrong; the first few reasons are named.
    """
    found = survey(folder, options, real=real)
    if found.format is Format.UNLABELLED:
        raise InputError(
            f"{folder} holds {counted(len(found.unlabelled), 'picture')} and no labels (YOLO .txt, Pascal VOC .xml or "
            "COCO .json); give the folder that holds both"
        )
    wrong = [finding for finding in found.findings if finding.is_error]
    if wrong:
        rest = f"\nand {len(wrong) - 5} more" if len(wrong) > 5 else ""
        listed = "\n".join(str(finding) for finding in wrong[:5])
        raise InputError(
            f"{folder} cannot be used as it is:\n{listed}{rest}\n"
            f"`renalcore check sediment --data {folder}` lists everything"
        )
    return found


def survey(folder: Path, options: ReadOptions = AS_IS, *, real: bool = True) -> LabelledFields:
    """As `read_fields`, but what is wrong is listed in `findings`, and unusable boxes and pictures are left out.

    Raises:
        InputError: The folder has no pictures, or its labels, tables or class list cannot be understood at all.
    """
    folder = absolute(folder)  # not resolved: a link's own name counts
    pictures = find_pictures(folder)
    findings = Findings(folder)
    chosen = options.format or format_of(folder)
    if chosen is Format.UNLABELLED:
        return LabelledFields(folder, chosen, (), (), False, "picture", (), pictures, ())
    source = FORMATS[chosen](folder, pictures, findings, real)
    if not source.records and not source.unlabelled and not findings.rows:
        raise InputError(f"{folder} holds no pictures; give the folder that holds pictures and labels")
    tables = Tables.read(folder)
    records = tables.listed(source.records, findings)
    classes = _classes(source, records, options, findings)
    ids = {each.name: each.class_id for each in classes}
    groups, grouped_by = _groups(records, tables, options, findings)
    splits, own_splits = sides(
        [record.split for record in records], [record.path for record in records], groups, options.val_share, findings
    )
    listed = np.zeros(len(taxonomy.CLASSES), bool)
    if not options.partial:
        listed[[index for index in ids.values() if index is not None and index != IGNORE]] = True
    fields = []
    for record, group in zip(records, groups, strict=True):
        known = listed if record.known is None else record.known
        boxes, class_ids = _usable(record, ids, findings)
        fields.append(LabelledField(record.path, boxes, class_ids, known, group, real))
    outside = [record.path for record in records if not record.path.is_relative_to(folder)]
    if outside:
        findings.add(
            Kind.PICTURE_OUTSIDE, outside[0],
            f"{counted(len(outside), 'picture')} (this is the first) outside the folder, by its labels' word",
            "see that they are meant",
        )  # fmt: skip
    if source.unlabelled:
        findings.add(
            Kind.UNLABELLED, source.unlabelled[0],
            f"{counted(len(source.unlabelled), 'picture')} without labels (this is the first) left out",
            "an empty label file says that a field was searched and holds nothing",
        )  # fmt: skip
    return LabelledFields(
        folder, chosen, tuple(fields), splits, own_splits, grouped_by, classes, source.unlabelled, findings.done()
    )


def _classes(
    source: Source, records: list[Record], options: ReadOptions, findings: Findings
) -> tuple[SourceClass, ...]:
    """The class list of the data with what each name is read as."""
    mapping = read_mapping(options.mapping) if options.mapping else {}
    boxes = Counter(name for record in records for name in record.names)
    names = tuple(dict.fromkeys((*(source.names or ()), *sorted(boxes))))
    folded = {key(name): class_id for name, class_id in mapping.items()}
    first = {name: record.file for record in reversed(records) for name in record.names}
    classes = []
    for name in names:
        own = source.defaults.get(name, class_called(name))
        class_id = folded.get(key(name), own)
        classes.append(SourceClass(name, class_id, boxes[name]))
        if class_id is None:
            alike = f"; nearest: {', '.join(nearest(name))}" if nearest(name) else ""
            findings.add(
                Kind.UNKNOWN_NAME if boxes[name] else Kind.UNUSED_NAME, first.get(name, "(class list)"),
                f"{name!r} ({counted(boxes[name], 'box')}) is none of the 39 classes{alike}",
                f"add the line `{name},CLASS` or `{name},ignore` to a file for --mapping",
            )  # fmt: skip
    strangers = set(folded) - {key(name) for name in names}
    if strangers and options.mapping:
        unused = ", ".join(name for name in mapping if key(name) in strangers)
        findings.add(Kind.UNUSED_MAPPING, options.mapping, f"maps {unused}, not in the data", "check the spelling")
    return tuple(classes)


def _groups(records: list[Record], tables: Tables, options: ReadOptions, findings: Findings) -> tuple[list[str], str]:
    """The group of each picture, and where groups come from."""
    stems = Counter(key(_source_name(record.path)) for record in records)
    parents: dict[str, set[Path]] = defaultdict(set)
    for record in records:
        parents[key(_source_name(record.path))].add(record.path.parent)

    def own(record: Record) -> str:
        name = _source_name(record.path)
        if stems[key(name)] == 1 or len(parents[key(name)]) == 1 or ".rf." in record.path.name:
            return name
        return shown_path(record.path.with_suffix(""), tables.folder)

    pairs = tables.groups
    rows = tables.manifest or {}
    if pairs is None and not options.group_pattern and any(row.get("group") for row in rows.values()):
        pairs = {entry: row.get("group", "") for entry, row in rows.items()}
        grouped_by = "manifest.csv"
    else:
        grouped_by = "groups.csv" if pairs is not None else "pattern" if options.group_pattern else "picture"
    groups, alone = [], []
    for record in records:
        group = ""
        if pairs is not None:
            entry = tables.entry_of(record.path, pairs)
            group = pairs[entry] if entry else ""
        elif options.group_pattern:
            match = re.search(options.group_pattern, unicodedata.normalize("NFC", record.path.stem))
            group = (match.group(1) if match.re.groups else match.group()) or "" if match else ""
        if not group and grouped_by != "picture":
            alone.append(record.path)
        groups.append(group or own(record))
    if alone:
        findings.add(
            Kind.UNGROUPED, alone[0],
            f"{counted(len(alone), 'picture')} (this is the first) without a group by {grouped_by}; each is its own",
            "name the patient or sample of every picture in groups.csv (image,group)",
        )  # fmt: skip
    elif grouped_by == "picture" and records:
        findings.add(
            Kind.UNGROUPED, "(all pictures)",
            "no groups are given: each picture counts as a patient of its own, and figures are too good where several "
            "are of one",
            "name the patient or sample of every picture in groups.csv (image,group), or give --groups PATTERN",
        )  # fmt: skip
    return groups, grouped_by


def _source_name(path: Path) -> str:
    """The name of a picture; that of its original where Roboflow made several of one (`NAME_jpg.rf.0123abcd.jpg`)."""
    return unicodedata.normalize("NFC", path.stem.split(".rf.")[0])


def _usable(
    record: Record, ids: Mapping[str, int | None], findings: Findings
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Boxes inside the picture with the classes that are known, each once; what was changed is told."""
    class_ids = [ids[name] for name in record.names]
    rows = [
        (box, IGNORE if ignored else class_id)
        for box, ignored, class_id in zip(record.boxes_px, record.ignored, class_ids, strict=True)
        if ignored or class_id is not None
    ]
    if not rows:
        return np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
    boxes = np.array([box for box, _ in rows], np.float64)
    classes = np.array([class_id for _, class_id in rows], np.int64)
    edge = np.array(record.size_px * 2, np.float64)
    sides = boxes[:, 2:] - boxes[:, :2]
    inside = np.clip(boxes, 0, edge)
    over = np.abs(inside - boxes).max(1)
    empty = np.asarray((sides < 1).any(1))
    large: NDArray[np.bool_] = ~empty & (sides > edge[:2] + 2 * _TOLERANCE_PX).any(1)
    outside: NDArray[np.bool_] = ~empty & ~large & ((boxes[:, 2:] <= 0) | (boxes[:, :2] >= edge[:2])).any(1)
    good: NDArray[np.bool_] = ~(empty | large | outside)
    clipped: NDArray[np.bool_] = good & (over > _TOLERANCE_PX)
    _, first = np.unique(np.column_stack((boxes.round(1), classes)), axis=0, return_index=True)
    twice: NDArray[np.bool_] = good & ~np.isin(np.arange(len(boxes)), first)
    tell = partial(_tell, record, findings)
    tell(Kind.BOX_WITHOUT_AREA, empty, "less than 1 px wide or high, left out", "remove or redraw")
    tell(Kind.BOX_TOO_LARGE, large, f"larger than the picture of {record.size_px[0]} x {record.size_px[1]} px", _UNITS)
    tell(Kind.BOX_OUTSIDE, outside, "wholly outside the picture", _UNITS)
    most = over[clipped].max(initial=0)
    tell(Kind.BOX_CLIPPED, clipped, f"up to {most:.1f} px outside the picture, clipped", "redraw if that is much")
    tell(Kind.BOX_TWICE, twice, "given twice, counted once", "remove one of the two")
    kept = good & ~twice
    return inside[kept].astype(np.float32), classes[kept]


_UNITS: Final = "check the labels' units and the picture's size: YOLO takes shares of the picture, VOC and COCO px"


def _tell(record: Record, findings: Findings, kind: Kind, which: NDArray[np.bool_], message: str, remedy: str) -> None:
    if which.any():
        of = "" if record.file.stem == record.path.stem else f" of {record.path.name}"
        findings.add(kind, record.file, f"{counted(int(which.sum()), 'box')}{of} {message}", remedy)
