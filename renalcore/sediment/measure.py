"""From boxes to the numbers a laboratory reports: mean counts per field of view, and their grades.

A particle is reported per high-power field (HPF, what one sees through the 40x objective) or per low-power field
(LPF, 10x). Both are areas: a field number of 22 mm, as on most laboratory microscopes, makes an HPF 0.55 mm across
(0.2376 mm2) and an LPF 2.2 mm (3.801 mm2). A mean is the particles counted in all fields together, divided by their
area and multiplied by that of one HPF or LPF; fields of equal size thus weigh the same.

No standard says how many crystals are "few", and published tables differ two- to fourfold, so grades come from a
versioned `CutOffTable` whose numbers a laboratory edits into a version of its own. Two published ones are here,
`TABLE_A` and `TABLE_B`, of which B, the coarser, is `DEFAULT_TABLE`.

**At the boundaries.** Means are continuous, the published tables are written for whole numbers, and so one rule
holds everywhere: a label reaches up to its bound *inclusive* and begins right above the bound below it. With
`bounds=(0, 4, 10)` and `labels=("none", "few", "moderate", "many")`:

- a mean of exactly 0 is "none", and one particle in any number of fields is not;
- 4 is "few" and 10 is "moderate": a mean equal to a bound belongs to the lower grade;
- 4.5, in the gap that "few 0-4, moderate 5-10" leaves, lies above 4 and is "moderate".

Means are rounded to six decimals first, so that arithmetic noise cannot lift one across a bound.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Literal, NamedTuple, get_args

from renalcore.errors import InputError, UnknownName
from renalcore.taxonomy import CLASSES, NAMES, Group, ParticleClass, Unit, class_id
from renalcore.types import Detections

Kind = Literal["grades", "ranges", "number"]
Objective = Literal["10x", "20x", "40x", "60x", "100x"]
ScaleKind = Literal["um_per_px", "whole_field", "unknown"]
ReportUnit = Literal["HPF", "LPF", "field"]

MAGNIFICATION: Final[Mapping[str, int]] = MappingProxyType({name: int(name[:-1]) for name in get_args(Objective)})
_UNIT_OBJECTIVE: Final[Mapping[str, str]] = MappingProxyType({"HPF": "40x", "LPF": "10x"})

_LIPID_CAST = "Lipid cast"
SETS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        group.value: tuple(kind.name for kind in CLASSES if kind.group is group and kind.name != _LIPID_CAST)
        for group in Group
    }
    | {
        # Table 2 lists the lipid cast under Cells; a laboratory counts it as the cast it is.
        Group.CASTS.value: tuple(
            kind.name for kind in CLASSES if kind.group is Group.CASTS or kind.name == _LIPID_CAST
        ),
        "Epithelium": tuple(name for name in NAMES if name.startswith("Epithelial cell")),
    }
)
"""What one row of a cut-off table may name besides a single class; the cut-off holds for each class by itself."""


@dataclass(frozen=True, slots=True)
class CutOff:
    """One row of a cut-off table.

    Attributes:
        target: A class ("RBC") or a set of classes (a group such as "Crystals", or "Epithelium"). A row of a set
            grades each of its classes by itself; the row of a single class comes before that of a set.
        unit: The field that the bounds refer to.
        kind: `grades` (words), `ranges` ("2-5") or `number` (the mean as it is, no label).
        bounds: Upper bound of each label but the last, ascending, each inclusive.
        labels: One more than `bounds`; none for `number`.

    Raises:
        UnknownName: Nobody knows the target, the unit or the kind.
        InputError: Bounds and labels do not make a scale.
    """

    target: str
    unit: Unit
    kind: Kind
    bounds: tuple[float, ...] = ()
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.target not in SETS and self.target not in NAMES:
            raise UnknownName(
                f"{self.target!r} is neither one of the 39 classes nor one of the sets {', '.join(SETS)}; "
                "choose a name from the list"
            )
        if self.unit not in get_args(Unit):
            raise UnknownName(f"{self.target}: the unit must be HPF or LPF, got {self.unit!r}")
        if self.kind not in get_args(Kind):
            raise UnknownName(f"{self.target}: the kind must be grades, ranges or number, got {self.kind!r}")
        for bound in self.bounds:
            if isinstance(bound, bool) or not isinstance(bound, int | float):
                raise InputError(f"{self.target}: a bound must be a number, got {bound!r}")
            if not (math.isfinite(bound) and bound >= 0):
                raise InputError(f"{self.target}: a bound must be a finite number from 0 up, got {bound}")
        object.__setattr__(self, "bounds", tuple(map(float, self.bounds)))
        object.__setattr__(self, "labels", tuple(self.labels))
        if any(lower >= upper for lower, upper in zip(self.bounds, self.bounds[1:], strict=False)):
            raise InputError(f"{self.target}: the bounds must ascend, got {_listed(self.bounds)}")
        if self.kind == "number":
            if self.bounds or self.labels:
                raise InputError(f"{self.target}: a plain number has neither bounds nor labels; remove them")
            return
        if not self.bounds:
            raise InputError(f"{self.target}: {self.kind} need at least one bound, or choose the kind number")
        if len(self.labels) != len(self.bounds) + 1:
            raise InputError(
                f"{self.target}: {len(self.bounds)} bounds make {len(self.bounds) + 1} labels, got {len(self.labels)}"
            )
        if any(not isinstance(label, str) or not label.strip() for label in self.labels):
            raise InputError(f"{self.target}: a label is empty; give each step of the scale a word")
        if len(set(self.labels)) < len(self.labels):
            raise InputError(f"{self.target}: two labels are the same in {', '.join(self.labels)}")

    def label(self, mean: float) -> str | None:
        """The label of a mean count by the rule at the top of this module; None for the kind `number`."""
        if self.kind == "number":
            return None
        return self.labels[bisect_left(self.bounds, mean)]


@dataclass(frozen=True, slots=True)
class CutOffTable:
    """One version of a laboratory's cut-offs, never edited in place.

    Attributes:
        version: Its name on every report.
        title: What an admin reads in the list.
        source: Where the numbers come from.
        rows: The cut-offs. A class that none names is reported as a number in its usual unit.
        field_number_mm: The field number engraved on the eyepiece, which with the objective gives the size of a field.

    Raises:
        InputError: A text is empty, the field number is not possible, or two rows claim one class.
    """

    version: str
    title: str
    source: str
    rows: tuple[CutOff, ...]
    field_number_mm: float = 22.0
    _row_of: dict[str, CutOff] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for what, text in (("version", self.version), ("title", self.title)):
            if not isinstance(text, str) or not text.strip():
                raise InputError(f"a cut-off table needs a {what}")
        number = self.field_number_mm
        if isinstance(number, bool) or not isinstance(number, int | float) or not 5 <= number <= 40:
            raise InputError(f"the field number must lie between 5 and 40 mm (22 on most eyepieces), got {number!r}")
        object.__setattr__(self, "rows", tuple(self.rows))
        row_of: dict[str, CutOff] = {}
        for row in sorted(self.rows, key=lambda row: row.target not in SETS):  # a single class comes before its set
            for name in SETS.get(row.target, (row.target,)):
                earlier = row_of.get(name)
                if earlier and (earlier.target in SETS) == (row.target in SETS):
                    raise InputError(f"two rows claim {name}: {earlier.target} and {row.target}; remove one of them")
                row_of[name] = row
        object.__setattr__(self, "_row_of", row_of)

    def row_for(self, name: str) -> CutOff:
        """The cut-off of the class called `name`: its own, else its set's, else a plain number in its usual unit."""
        kind = CLASSES[class_id(name)]
        return self._row_of.get(name) or CutOff(name, kind.unit, "number")

    def field_area_mm2(self, objective: str) -> float:
        """Area of the whole field of view through `objective`, in mm2.

        Raises:
            UnknownName: There is no such objective.
        """
        if objective not in MAGNIFICATION:
            raise UnknownName(f"the objective must be one of {', '.join(MAGNIFICATION)}, got {objective!r}")
        return math.pi / 4 * (self.field_number_mm / MAGNIFICATION[objective]) ** 2

    def unit_area_mm2(self, unit: Unit) -> float:
        """Area of one HPF or LPF, in mm2."""
        return self.field_area_mm2(_UNIT_OBJECTIVE[unit])

    def to_rows(self) -> list[dict[str, Any]]:
        """The numbers as JSON for a table's `rows` column: the field number first, then a dictionary a cut-off."""
        settings: dict[str, Any] = {"field_number_mm": self.field_number_mm}
        return [settings] + [
            {
                "target": row.target,
                "unit": row.unit,
                "kind": row.kind,
                "bounds": list(row.bounds),
                "labels": list(row.labels),
            }
            for row in self.rows
        ]

    @classmethod
    def from_rows(cls, rows: Sequence[Mapping[str, Any]], *, version: str, title: str, source: str) -> CutOffTable:
        """The table that `to_rows` wrote; a list without a field number gets 22 mm.

        Raises:
            InputError: A row is not one, or its numbers make no scale (see `CutOff`).
        """
        settings: dict[str, Any] = {}
        cut_offs = []
        for row in rows:
            if not isinstance(row, Mapping):
                raise InputError(f"a row of a cut-off table must have named columns, got {row!r}")
            if set(row) == {"field_number_mm"}:
                settings = dict(row)
                continue
            missing = {"target", "unit", "kind"} - set(row)
            unknown = set(row) - {"target", "unit", "kind", "bounds", "labels"}
            if missing or unknown:
                raise InputError(
                    "a row of a cut-off table has target, unit, kind, bounds and labels; "
                    f"missing {sorted(missing)}, not known {sorted(map(str, unknown))}"
                )
            bounds, labels = row.get("bounds") or (), row.get("labels") or ()
            if isinstance(bounds, str) or isinstance(labels, str):
                raise InputError(f"{row['target']}: bounds and labels must be lists, got {bounds!r} and {labels!r}")
            cut_offs.append(CutOff(row["target"], row["unit"], row["kind"], tuple(bounds), tuple(labels)))
        return cls(version, title, source, tuple(cut_offs), **settings)

    def to_json(self) -> dict[str, Any]:
        """The whole table as JSON."""
        return {"version": self.version, "title": self.title, "source": self.source, "rows": self.to_rows()}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> CutOffTable:
        """The table that `to_json` wrote; raises `InputError` where it is not one."""
        missing = {"version", "title", "source", "rows"} - set(document)
        if missing:
            raise InputError(f"this is not a cut-off table: {', '.join(sorted(missing))} missing")
        return cls.from_rows(
            document["rows"], version=document["version"], title=document["title"], source=document["source"]
        )


_FIVE = ("none", "rare", "few", "moderate", "many")
_FOUR = ("none", "few", "moderate", "many")
_CELL_BOUNDS = (2, 5, 10, 25, 50, 100)
_CELL_RANGES = ("0-2", "2-5", "5-10", "10-25", "25-50", "50-100", ">100")

TABLE_A: Final = CutOffTable(
    "A-1",
    "Table A (finer, five grades)",
    "Published cut-offs with five grades; RBC and WBC as ranges per HPF.",
    (
        CutOff("RBC", "HPF", "ranges", _CELL_BOUNDS, _CELL_RANGES),
        CutOff("WBC", "HPF", "ranges", _CELL_BOUNDS, _CELL_RANGES),
        CutOff("Epithelial cell (squamous)", "LPF", "grades", (0, 5, 20, 100), _FIVE),
        CutOff("Casts", "LPF", "grades", (0, 2, 5, 10), _FIVE),
        CutOff("Crystals", "HPF", "grades", (0, 2, 5, 20), _FIVE),
        CutOff("Bacteria", "HPF", "grades", (0, 10, 50, 200), _FIVE),
        CutOff("Mucus", "LPF", "grades", (0, 1, 3, 10), _FIVE),
    ),
)
"""The finer of the two published tables."""

TABLE_B: Final = CutOffTable(
    "B-1",
    "Table B (coarser, four grades)",
    "Published cut-offs with four grades; casts as numbers per LPF.",
    (
        CutOff("Epithelium", "HPF", "grades", (0, 4, 10), _FOUR),
        CutOff("Casts", "LPF", "number"),
        CutOff("Crystals", "HPF", "grades", (0, 4, 10), _FOUR),
        CutOff("Bacteria", "HPF", "grades", (0, 25, 50), _FOUR),
        CutOff("Yeast", "HPF", "grades", (0, 25, 50), _FOUR),
    ),
)
"""The coarser of the two published tables."""

DEFAULT_TABLE: Final = TABLE_B


@dataclass(frozen=True, slots=True)
class MeasuredField:
    """What was counted in one field of a specimen, and how large that field is.

    Attributes:
        field_id: The field's id, by which a reported value can be traced back to it.
        objective: The objective it was taken through.
        scale_kind: `um_per_px` (the picture's scale is known), `whole_field` (the picture shows exactly what the
            eye sees through the objective) or `unknown`.
        counts: Particles of each class by name; a class left out was not seen.
        um_per_px: Micrometres a pixel, for the scale kind `um_per_px`.
        area_px: Illuminated area, see `renalcore.types.illuminated_area_px`, for the scale kind `um_per_px`.

    Raises:
        UnknownName: Nobody knows the objective, the scale kind or a class.
        ValueError: A count is negative, or the scale needs a number that is missing.
    """

    field_id: int
    objective: str
    scale_kind: ScaleKind
    counts: Mapping[str, int]
    um_per_px: float | None = None
    area_px: float | None = None

    def __post_init__(self) -> None:
        if self.objective not in MAGNIFICATION:
            raise UnknownName(f"the objective must be one of {', '.join(MAGNIFICATION)}, got {self.objective!r}")
        if self.scale_kind not in get_args(ScaleKind):
            raise UnknownName(
                f"the scale kind must be one of {', '.join(get_args(ScaleKind))}, got {self.scale_kind!r}"
            )
        for name, count in self.counts.items():
            class_id(name)
            if count < 0:
                raise ValueError(f"a count cannot be negative, got {count} for {name}")
        if self.scale_kind == "um_per_px":
            for what, value in (("um_per_px", self.um_per_px), ("area_px", self.area_px)):
                if value is None or not (math.isfinite(value) and value > 0):
                    raise ValueError(f"{what} must be positive where the scale is known, got {value}")

    @classmethod
    def of(
        cls,
        field_id: int,
        found: Detections,
        *,
        objective: str,
        scale_kind: ScaleKind,
        um_per_px: float | None = None,
        area_px: float | None = None,
        min_score: float = 0.0,
    ) -> MeasuredField:
        """The field in which `found` was found; boxes scoring below `min_score` are left out."""
        counts: dict[str, int] = {}
        for name in found.where(found.scores >= min_score).names:
            counts[name] = counts.get(name, 0) + 1
        return cls(field_id, objective, scale_kind, counts, um_per_px, area_px)

    def area_mm2(self, table: CutOffTable) -> float | None:
        """Area of the field, in mm2, or None where its scale is unknown."""
        if self.scale_kind == "um_per_px" and self.um_per_px is not None and self.area_px is not None:
            return self.area_px * (self.um_per_px / 1000.0) ** 2
        if self.scale_kind == "whole_field":
            return table.field_area_mm2(self.objective)
        return None


class FieldCount(NamedTuple):
    """How many particles of a class one field holds."""

    field_id: int
    particles: int


@dataclass(frozen=True, slots=True)
class ReportedValue:
    """One line of a patient's report.

    Attributes:
        class_name: The class, as in `renalcore.taxonomy`.
        group: Its group.
        loinc: LOINC code of the result in this unit, where there is one.
        unit: HPF, LPF, or `field` where the scale is unknown.
        fields: Number of fields counted for this class.
        total: Particles seen in them.
        mean: Mean count per `unit`.
        grade: Label by the cut-off table; None where the class has no scale or the unit is `field`.
        cut_off_version: Version of the cut-off table.
        note: What a reader must know about the number, else None.
        per_field: The fields counted and what each holds, in their order.
    """

    class_name: str
    group: Group
    loinc: str | None
    unit: ReportUnit
    fields: int
    total: int
    mean: float
    grade: str | None
    cut_off_version: str
    note: str | None
    per_field: tuple[FieldCount, ...]


def report(fields: Sequence[MeasuredField], table: CutOffTable = DEFAULT_TABLE) -> list[ReportedValue]:
    """The reported value of every class, in the order of the taxonomy.

    Classes reported per LPF are counted in the fields taken at 10x where the specimen has some, classes reported per
    HPF in those taken at a higher power; where it has none of the proper kind the others are scaled by their area, and
    the value carries a note. As soon as the scale of one field is unknown, everything is reported per field and
    without a grade: an area is never guessed.

    Args:
        fields: The specimen's fields that have been counted.
        table: The laboratory's cut-offs.

    Returns:
        39 values: a class not seen has a mean of 0.0, and is never absent.

    Raises:
        InputError: One field comes twice.
    """
    if len({measured.field_id for measured in fields}) < len(fields):
        raise InputError("a field was handed in twice; each field of a specimen counts once")
    areas_mm2 = {measured.field_id: measured.area_mm2(table) for measured in fields}
    known = {field_id: area for field_id, area in areas_mm2.items() if area is not None}
    if len(known) < len(areas_mm2):
        return [_per_field(kind, fields, table) for kind in CLASSES]
    return [_per_area(kind, fields, known, table) for kind in CLASSES]


def _per_area(
    kind: ParticleClass, fields: Sequence[MeasuredField], areas_mm2: Mapping[int, float], table: CutOffTable
) -> ReportedValue:
    row = table.row_for(kind.name)
    low_power = [measured for measured in fields if measured.objective == "10x"]
    high_power = [measured for measured in fields if measured.objective != "10x"]
    proper, other = (low_power, high_power) if row.unit == "LPF" else (high_power, low_power)
    chosen = proper or other
    area_mm2 = sum(areas_mm2[measured.field_id] for measured in chosen)
    units = area_mm2 / table.unit_area_mm2(row.unit)
    if not chosen:
        note: str | None = "No field has been counted yet."
    elif chosen is other:
        objectives = sorted({measured.objective for measured in chosen}, key=MAGNIFICATION.__getitem__)
        searched = f"{_fields(len(chosen))} at {' and '.join(objectives)}"
        note = f"Counted in {searched}, together {round(units, 2):g} {row.unit}, and scaled by area."
    else:
        note = None
    counts = tuple(FieldCount(measured.field_id, measured.counts.get(kind.name, 0)) for measured in chosen)
    total = sum(count for _, count in counts)
    mean = round(total / units, 6) if chosen else 0.0
    if total and not mean:
        mean = 1e-6  # something seen is never "none"
    grade = row.label(mean) if chosen else None
    return ReportedValue(
        kind.name,
        kind.group,
        _loinc(kind, row.unit, graded=grade is not None),
        row.unit,
        len(chosen),
        total,
        mean,
        grade,
        table.version,
        note,
        counts,
    )


def _per_field(kind: ParticleClass, fields: Sequence[MeasuredField], table: CutOffTable) -> ReportedValue:
    counts = tuple(FieldCount(measured.field_id, measured.counts.get(kind.name, 0)) for measured in fields)
    total = sum(count for _, count in counts)
    return ReportedValue(
        kind.name,
        kind.group,
        None,  # LOINC has no code for a number per picture of unknown size
        "field",
        len(fields),
        total,
        round(total / len(fields), 6),
        None,
        table.version,
        "The scale of the pictures is unknown: mean per picture, without a grade.",
        counts,
    )


def _loinc(kind: ParticleClass, unit: Unit, *, graded: bool) -> str | None:
    """The code of the number in this unit; else that of the presence, which a bare number may not carry."""
    number = kind.loinc_hpf if unit == "HPF" else kind.loinc_lpf
    return number or (kind.loinc_presence if graded else None)


def _fields(count: int) -> str:
    return "1 field" if count == 1 else f"{count} fields"


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)
