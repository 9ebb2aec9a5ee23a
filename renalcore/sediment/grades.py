"""Grades of a urine sediment as people write them, on the five-level scale of the paper's clinical validation.

**Words and signs.** `-` is "none", `+/-` and trace are "rare", `+` and `1+` "few", `++` and `2+` "moderate", `+++` and
more "many". **Numbers** go through a cut-off table of `renalcore.sediment.measure`; where no unit stands beside them
they are in the unit of that table. **Ranges** are graded by their middle; a range that reaches over a cut-off says so.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, get_args

from renalcore.datasets.words import words
from renalcore.errors import InputError, UnknownName
from renalcore.sediment.measure import SETS, CutOff, CutOffTable
from renalcore.sediment.names import IGNORE, class_called
from renalcore.taxonomy import NAMES, Unit

GRADES: Final = ("none", "rare", "few", "moderate", "many")
"""The five-level scale of the paper's clinical validation, in its order."""

FIVE_GRADES: Final = CutOffTable(
    "five-1",
    "Five grades for what a technologist reports",
    "The bounds of Table A; RBC and WBC by steps of its ranges, yeast as bacteria. No standard defines them.",
    (
        CutOff("RBC", "HPF", "grades", (0, 2, 5, 25), GRADES),
        CutOff("WBC", "HPF", "grades", (0, 2, 5, 25), GRADES),
        CutOff("Epithelium", "LPF", "grades", (0, 5, 20, 100), GRADES),
        CutOff("Casts", "LPF", "grades", (0, 2, 5, 10), GRADES),
        CutOff("Crystals", "HPF", "grades", (0, 2, 5, 20), GRADES),
        CutOff("Bacteria", "HPF", "grades", (0, 10, 50, 200), GRADES),
        CutOff("Yeast", "HPF", "grades", (0, 10, 50, 200), GRADES),
        CutOff("Mucus", "LPF", "grades", (0, 1, 3, 10), GRADES),
    ),
)
"""A table that grades every component of Table 8 in five steps; a laboratory gives its own instead."""

COMPONENT_SETS: Final = ("Epithelium", "Casts", "Crystals")
"""What technologists grade as a whole besides single classes."""

_TITLES = MappingProxyType({"Epithelium": "Epithelial cells"})

_WORDS: Final[Mapping[str, int]] = MappingProxyType(
    {
        word: index
        for index, spelt in enumerate(
            (
                "none|neg|negative|nil|absent|not seen|none seen|not found|not present|0|-|--",
                "rare|occasional|occ|very few|scant|scanty|trace|tr|+/-|+-|-/+|±|(+)",
                "few|some|slight|light|+|1+|+1",
                "moderate|mod|medium|++|2+|+2",
                "many|numerous|plenty|abundant|heavy|packed|loaded|full field|tntc|innumerable|+++|++++|3+|4+|+3|+4",
            )
        )
        for word in spelt.split("|")
    }
)

_SET_CALLED: Final = MappingProxyType(
    {
        words(alias): name
        for name, aliases in {
            "Epithelium": "epithelium|epithelial cell|epithelial|epithelia|epith cell|ec|ep cell",
            "Casts": "cast",
            "Crystals": "crystal",
        }.items()
        for alias in aliases.split("|")
    }
)
"""Names of whole sets. In labels of pictures an "epithelial cell" is a squamous one; in a report it is any."""

_UNIT = re.compile(r"[\s(\[]*(?:/|\bper\b)?\s*\b(hpf|lpf|hp|lp)\b[\s)\]]*$")
_RANGE = re.compile(r"(\d+(?:[.,]\d+)?)\s*(?:-|to|\.\.+)\s*(\d+(?:[.,]\d+)?)")
_ABOVE = re.compile(r"(?:>=?|≥|more than|over|above)\s*(\d+(?:[.,]\d+)?)|(\d{2,})\s*\+")
_BELOW = re.compile(r"(?:<=?|≤|less than|under|below)\s*(\d+(?:[.,]\d+)?)")
_NUMBER = re.compile(r"\d+(?:[.,]\d+)?")
_DATE = re.compile(
    r"\d{4}-\d\d-\d\d.*|\d{1,2}[./]\d{1,2}[./]\d{2,4}|\d{1,2}[.\-/\s]+[a-zäéû]{3,9}\.?(?:[\s\-]\d{2,4})?"
    r"|[a-zäéû]{3}[.\-/\s]+\d{1,4}"
)


@dataclass(frozen=True, slots=True)
class Reading:
    """What a written grade says.

    Attributes:
        grade: Index into `GRADES`.
        crossed: Cut-offs that a range reaches over, so that its middle decides.
    """

    grade: int
    crossed: tuple[float, ...] = ()


def title(component: str) -> str:
    """A component as Table 8 writes it: "Epithelial cells"."""
    return _TITLES.get(component, component)


def members(component: str) -> tuple[str, ...]:
    """The classes that a component is made of."""
    return SETS.get(component, (component,)) if component in COMPONENT_SETS else (component,)


def component_of(text: str) -> str:
    """The class or set that a technologist calls `text`.

    Raises:
        UnknownName: Nobody calls any so.
    """
    if found := _SET_CALLED.get(words(text)):
        return found
    class_id = class_called(text)
    if class_id is None or class_id == IGNORE:
        raise UnknownName(
            f"{text[:60]!r} is none of the components; write a class as the export of RenalCore does, such as RBC or "
            f"Calcium oxalate, or {', '.join(COMPONENT_SETS)}"
        )
    return NAMES[class_id]


def component_and_unit(text: str) -> tuple[str, Unit | None]:
    """A component and the unit that stands behind its name, as in `RBC (/HPF)`."""
    if not text:
        raise UnknownName("the component is empty")
    found = _UNIT.search(text.casefold())
    if found is None:
        return component_of(text), None
    return component_of(text[: found.start()]), "HPF" if found[1].startswith("hp") else "LPF"


def scale_of(component: str, table: CutOffTable) -> CutOff:
    """The scale in words by which `table` grades a component.

    Raises:
        InputError: It has none, or its words are not those of the five grades in their order.
    """
    rows = [row for row in table.rows if row.target == component]
    if not rows:
        scales = {(row.unit, row.kind, row.bounds, row.labels) for row in map(table.row_for, members(component))}
        rows = [table.row_for(members(component)[0])] if len(scales) == 1 else []
    steps = [_WORDS.get(label.strip().casefold(), -1) for label in rows[0].labels] if rows else []
    if not steps or -1 in steps or sorted(set(steps)) != steps:
        raise InputError(
            f"the cut-off table {table.version} does not grade {title(component)} in the words {', '.join(GRADES)}"
        )
    return rows[0]


def grade_of_mean(mean: float, unit: str, component: str, table: CutOffTable) -> int:
    """Index into `GRADES` of a mean count, scaled by area where `table` grades in the other field.

    Raises:
        InputError: The table has no such scale, or the mean is per picture of unknown scale.
    """
    scale = scale_of(component, table)
    return _step(_in_unit_of(scale, mean, unit, table), scale)


def read_grade(text: str, component: str, table: CutOffTable, *, unit: Unit | None = None) -> Reading:
    """What a written grade says: a word, plus signs, a number or a range.

    Args:
        text: What was written.
        component: A class, or one of `COMPONENT_SETS`.
        table: Turns numbers into grades.
        unit: The field that a number refers to where the text names none; the table's by default.

    Raises:
        InputError: It cannot be read; the message says what is expected.
    """
    bare = re.sub(r"\s+", " ", re.sub(r"[‐‑‒–—−]", "-", text)).strip().casefold()
    if (found := _UNIT.search(bare)) is not None and found.start() > 0:
        unit = "HPF" if found[1].startswith("hp") else "LPF"
        bare = bare[: found.start()].strip()
    if (word := bare.rstrip(".")) in _WORDS:  # occ., mod.
        return Reading(_WORDS[word])
    if not bare:
        raise InputError("the grade is empty")
    if _DATE.fullmatch(bare):
        raise InputError(
            f"{text[:40]!r} looks like a date, which Excel makes of a range such as 5-10: "
            "format the column as text and write the range again"
        )
    low, high = _numbers(bare, text)
    scale = scale_of(component, table)
    low, high = (_in_unit_of(scale, value, unit or scale.unit, table) for value in (low, high))
    if math.isinf(high):
        return Reading(_step(low, scale, above=True))
    crossed = tuple(bound for bound in scale.bounds if low < bound < high or bound == low == 0 < high)
    return Reading(_step((low + high) / 2, scale), crossed)


def _numbers(bare: str, text: str) -> tuple[float, float]:
    """The two ends of what is written; the upper one is infinite for "more than"."""
    if found := _RANGE.fullmatch(bare):
        low, high = _value(found[1]), _value(found[2])
        if low > high:
            raise InputError(f"the range {text[:40]!r} runs backwards")
        return low, high
    if found := _ABOVE.fullmatch(bare):
        return _value(found[1] or found[2]), math.inf
    if found := _BELOW.fullmatch(bare):
        return 0.0, _value(found[1])
    if _NUMBER.fullmatch(bare):
        return _value(bare), _value(bare)
    raise InputError(
        f"{text[:40]!r} is no grade; write {', '.join(GRADES)}, plus signs, a number or a range such as 5-10"
    )


def _value(text: str) -> float:
    if re.fullmatch(r"[1-9]\d{0,2}[.,]\d{3}", text):
        raise InputError(f"{text} may mean thousands or thousandths; write it without comma and point")
    return float(text.replace(",", "."))


def _in_unit_of(scale: CutOff, value: float, unit: str, table: CutOffTable) -> float:
    if unit == scale.unit:
        return value
    if unit not in get_args(Unit):
        raise InputError("counted per picture of unknown scale, which no cut-off grades")
    given: Unit = "HPF" if unit == "HPF" else "LPF"
    return value * table.unit_area_mm2(scale.unit) / table.unit_area_mm2(given)


def _step(value: float, scale: CutOff, *, above: bool = False) -> int:
    """The grade of a value in the scale's own unit; `above` takes the step that begins right above it."""
    exact = round(value, 6) or (1e-6 if value else 0.0)  # arithmetic noise lifts none across a bound; see `measure`
    index = bisect_right(scale.bounds, exact) if above else bisect_left(scale.bounds, exact)
    return _WORDS[scale.labels[index].strip().casefold()]
