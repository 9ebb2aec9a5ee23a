"""What technologists wrote: their grades of a urine sediment, read from their own table into the five grades.

A table has either one line a value (columns patient or accession, component, grade) or one line a patient with a column
for each component. Headers, names and grades are read as laboratories spell them: "Leukocytes", "RBC /HPF",
"occasional", "++", "5-10", ">100".

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

from renalcore.errors import InputError, UnknownName
from renalcore.io.table import TextTable, read_table
from renalcore.sediment.measure import SETS, CutOff, CutOffTable
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
        for index, words in enumerate(
            (
                "none|neg|negative|nil|absent|not seen|none seen|not found|not present|0|-|--",
                "rare|occasional|occ|very few|scant|scanty|trace|tr|+/-|+-|-/+|±|(+)",
                "few|some|slight|light|+|1+|+1",
                "moderate|mod|medium|++|2+|+2",
                "many|numerous|plenty|abundant|heavy|packed|loaded|full field|tntc|innumerable|+++|++++|3+|4+|+3|+4",
            )
        )
        for word in words.split("|")
    }
)

_ALIASES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "RBC": "red blood cell|red cell|erythrocyte|ery",
        "WBC": "white blood cell|white cell|leukocyte|leucocyte|leuko|pus cell",
        "Epithelium": "epithelial cell|epithelial|epithelia|epith cell|ec|ep cell",
        "Epithelial cell (squamous)": "squamous epithelial cell|squamous epithelial|squamous epithelium|squamous cell|"
        "squamous|sec",
        "Epithelial cell (transitional)": "transitional epithelial cell|transitional epithelial|transitional cell|"
        "transitional epithelium|transitional|urothelial cell|urothelial",
        "Epithelial cell (renal)": "renal epithelial cell|renal tubular epithelial cell|renal tubular cell|"
        "tubular epithelial cell|renal cell|rte|rtec",
        "Calcium oxalate": "calcium oxalate crystal|caox|ca oxalate|ca ox|oxalate|oxalate crystal",
        "Amorphous": "amorphous urate|amorphous phosphate|amorphous crystal|amorphous material|amorphous deposit",
        "Triple phosphate": "triple phosphate crystal|struvite",
        "Uric acid": "uric acid crystal",
        "Calcium phosphate": "calcium phosphate crystal",
        "Calcium carbonate": "calcium carbonate crystal",
        "Ammonium biurat": "ammonium biurate|ammonium urate|ammonium biurate crystal",
        "Cystine": "cystine crystal",
        "Leucine": "leucine crystal",
        "Tyrosine crystal": "tyrosine",
        "Cholesterol": "cholesterol crystal",
        "Bilirubin": "bilirubin crystal",
        "Hippuric acid": "hippuric acid crystal",
        "Bacteria": "bacterium|bact|germ",
        "Yeast": "yeast cell|budding yeast|candida",
        "Fungal hyphae": "hyphae|pseudohyphae",
        "Trichomonas vaginalis": "trichomonas|trichomonad",
        "Mucus": "mucous|mucus thread|mucous thread|mucus strand|mucin",
        "Sperm": "spermatozoa|spermatozoon",
        "RBC cast": "red cell cast|red blood cell cast|erythrocyte cast",
        "Mixed cell cast": "mixed cast|cellular cast",
        "Lipid cast": "fatty cast",
        "Fat droplets": "fat|fat globule|lipid droplet",
        "Oval fat bodies": "oval fat body",
        "WBC clump": "leukocyte clump|white cell clump",
        "RBC clump": "erythrocyte clump|red cell clump",
    }
)

_HEADERS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "accession": (
            "accession", "accessionnumber", "accessionno", "accessionid", "specimen", "specimenid", "specimennumber",
            "sample", "sampleid", "samplenumber", "sampleno", "order", "ordernumber", "barcode",
        ),
        "patient": (
            "patient", "patientid", "patientnumber", "patientno", "patientidentifier", "hospitalnumber", "mrn",
            "identifier", "pid",
        ),
        "component": (
            "component", "class", "componentclass", "urinarycomponent", "particle", "analyte", "element", "parameter",
            "test", "finding",
        ),
        "grade": (
            "grade", "technologistgrade", "technologistsgrade", "manualgrade", "referencegrade", "result", "value",
            "category", "quantity", "level", "count", "amount",
        ),
    }
)  # fmt: skip

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


@dataclass(frozen=True, slots=True, kw_only=True)
class TechnologistGrade:
    """One grade that a technologist gave.

    Attributes:
        line: Its line in the file.
        accession: Accession number, None where the table names the patient only.
        patient: The patient's identifier, None where the table names the specimen only.
        component: A class of the taxonomy, or one of `COMPONENT_SETS`.
        text: What was written.
        grade: Index into `GRADES`.
        crossed: See `Reading`.
    """

    line: int
    accession: str | None
    patient: str | None
    component: str
    text: str
    grade: int
    crossed: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line, or a cell of it, that is left out."""

    line: int
    reason: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.reason}"


@dataclass(frozen=True, slots=True)
class TechnologistSheet:
    """A technologists' table.

    Attributes:
        name: Name of the file.
        grades: What could be read, in the order of the file.
        bad_lines: What could not.
        ignored_columns: Columns that name no component, in a table with a column for each.
    """

    name: str
    grades: tuple[TechnologistGrade, ...]
    bad_lines: tuple[BadLine, ...]
    ignored_columns: tuple[str, ...] = ()

    @property
    def accessions(self) -> frozenset[str]:
        """The specimens graded, by accession number."""
        return frozenset(grade.accession for grade in self.grades if grade.accession is not None)

    @property
    def patients(self) -> frozenset[str]:
        """The patients graded without an accession number."""
        return frozenset(grade.patient for grade in self.grades if grade.accession is None and grade.patient)


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
    found = _COMPONENTS.get(_key(text))
    if found is None:
        raise UnknownName(
            f"{text[:60]!r} is none of the components; write a class as the export of RenalCore does, such as RBC or "
            f"Calcium oxalate, or {', '.join(COMPONENT_SETS)}"
        )
    return found


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
    if bare in _WORDS:
        return Reading(_WORDS[bare])
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


def read_sheet(content: bytes, *, name: str, table: CutOffTable = FIVE_GRADES) -> TechnologistSheet:
    """The grades of a technologists' CSV file.

    Args:
        content: The file.
        name: Its name, for messages.
        table: Turns numbers and ranges into grades.

    Returns:
        What could be read, and every line that could not with its number and the reason.

    Raises:
        InputError: The file is no such table at all: no text, no column that tells the patient, no grades.
    """
    lines = read_table(content, name=name)
    columns = {what: _column(lines.header, what) for what in _HEADERS}
    who = {what: columns[what] for what in ("accession", "patient")}
    if who == {"accession": None, "patient": None}:
        raise InputError(
            f"{name}: no column tells the patient; one must be called accession or patient. "
            f"The first line has {', '.join(lines.header)[:200]}"
        )
    if columns["component"] is not None and columns["grade"] is not None:
        return _collected(lines, who, table, component_column=columns["component"], value_columns=(columns["grade"],))
    values = tuple(index for index, head in enumerate(lines.header) if _header_component(head) is not None)
    if not values:
        raise InputError(
            f"{name}: no column holds grades; make columns called component and grade, or one for each component, "
            f"such as RBC. The first line has {', '.join(lines.header)[:200]}"
        )
    return _collected(lines, who, table, component_column=None, value_columns=values)


def _collected(
    lines: TextTable,
    who: Mapping[str, int | None],
    table: CutOffTable,
    *,
    component_column: int | None,
    value_columns: tuple[int, ...],
) -> TechnologistSheet:
    """Every value of the table, either with its component beside it or one component a column."""
    found: dict[tuple[str | None, str | None, str], TechnologistGrade] = {}
    contradicted: set[tuple[str | None, str | None, str]] = set()
    bad: list[BadLine] = []
    for number, cells in lines.rows:
        names = {what: (cells[index] or None) if index is not None else None for what, index in who.items()}
        if not any(names.values()):
            bad.append(BadLine(number, "neither an accession number nor a patient"))
            continue
        for index in value_columns:
            text = cells[index]
            if not text and component_column is None:
                continue  # not graded
            named = lines.header[index] if component_column is None else cells[component_column]
            try:
                component, unit = _named(named)
                reading = read_grade(text, component, table, unit=unit)
            except InputError as error:
                where = f"column {named}: " if component_column is None else ""
                bad.append(BadLine(number, f"{where}{error}"))
                continue
            grade = TechnologistGrade(
                line=number,
                accession=names["accession"],
                patient=names["patient"],
                component=component,
                text=text,
                grade=reading.grade,
                crossed=reading.crossed,
            )
            key = (grade.accession, grade.patient if grade.accession is None else None, component)
            earlier = found.setdefault(key, grade)
            if earlier is grade:
                continue
            if earlier.grade == grade.grade:
                bad.append(
                    BadLine(number, f"{title(component)} stands on line {earlier.line} already, with this grade")
                )
                continue
            contradicted.add(key)
            bad.append(
                BadLine(
                    number,
                    f"{title(component)} is {grade.text!r} here and {earlier.text!r} on line {earlier.line}; "
                    "neither is used: keep one of them",
                )
            )
    ignored: tuple[str, ...] = ()
    if component_column is None:
        ignored = tuple(
            head
            for index, head in enumerate(lines.header)
            if index not in value_columns and index not in who.values() and head
        )
    kept = tuple(grade for key, grade in found.items() if key not in contradicted)
    return TechnologistSheet(lines.name, kept, tuple(bad), ignored)


def _column(header: tuple[str, ...], what: str) -> int | None:
    """Where the column is that tells `what`, by the first of its names that stands in the header."""
    keys = [re.sub(r"[^a-z]", "", head.casefold()) for head in header]
    return next((keys.index(name) for name in _HEADERS[what] if name in keys), None)


def _header_component(head: str) -> str | None:
    try:
        return _named(head)[0]
    except UnknownName:
        return None


def _named(text: str) -> tuple[str, Unit | None]:
    """A component and the unit that stands behind its name, as in `RBC (/HPF)`."""
    if not text:
        raise UnknownName("the component is empty")
    found = _UNIT.search(text.casefold())
    if found is None:
        return component_of(text), None
    return component_of(text[: found.start()]), "HPF" if found[1].startswith("hp") else "LPF"


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
    if re.fullmatch(r"\d+,\d{3}", text):
        raise InputError(f"{text} may mean thousands or thousandths; write it without the comma")
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


def _key(text: str) -> str:
    """A name without case, marks and plural, each word in its place."""
    words = re.sub(r"[^a-z0-9]+", " ", text.casefold()).split()
    return " ".join(
        word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("us") else word for word in words
    )


_COMPONENTS: Final[Mapping[str, str]] = MappingProxyType(
    {_key(name): name for name in (*NAMES, *COMPONENT_SETS)}
    | {_key(alias): name for name, aliases in _ALIASES.items() for alias in aliases.split("|")}
)
