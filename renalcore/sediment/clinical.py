"""Clinical validation: what the reports say against what technologists graded, patient by patient.

After the paper's section "Clinical validation" and its Table 8: the model's counts are averaged over a patient's fields
and put on the five-level scale none, rare, few, moderate, many; a component is right where that grade is the
technologist's. Accuracy alone flatters a component that is almost always "none", so beside it stand agreement within
one grade and weighted kappa with 95 % intervals (`renalcore.metrics.agreement`), and the whole confusion.

How a report's grade comes about, for each value:

- as a rule by the grade that was reported, read by the same rules as the technologists' (`grades.read_grade`), so
  that equal words and equal ranges are equal grades; a value without a grade by its mean and a cut-off table;
- with `regrade` always by the mean and that table, whatever was reported.

A component that is a set, such as "Epithelial cells", has the highest of its classes' reported grades, or the grade of
the sum of their means.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Final, cast, get_args

import numpy as np

from renalcore.errors import InputError
from renalcore.export.csv import ExportRow
from renalcore.io.table import read_table
from renalcore.metrics import agreement
from renalcore.metrics.agreement import RESAMPLES, SEED, Estimate, Floats
from renalcore.sediment.grades import (
    COMPONENT_SETS,
    FIVE_GRADES,
    GRADES,
    grade_of_mean,
    members,
    read_grade,
    scale_of,
    title,
)
from renalcore.sediment.measure import CutOffTable
from renalcore.sediment.technologist import BadLine, TechnologistGrade, TechnologistSheet
from renalcore.taxonomy import NAMES, Unit

TABLE_8: Final[Mapping[str, float]] = {
    "RBC": 0.8731,
    "WBC": 0.8840,
    "Epithelium": 0.9710,
    "Calcium oxalate": 0.9379,
    "Bacteria": 0.5936,
    "Mucus": 0.9332,
}
"""The paper's patient-level accuracy of each component, 84 patients."""
TABLE_8_MEAN: Final = 0.8655

METHOD: Final = (
    "Intervals: 95 % percentile bootstrap over patients (whole patients drawn with replacement). "
    "Kappa: Cohen 1968, linear and quadratic weights on five grades."
)

_REPORT_COLUMNS = ("patient", "accession", "class", "unit", "mean", "grade", "cut_off_version")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportLine:
    """One reported value as far as validation needs it; the fields are those of `renalcore.export.csv.ExportRow`."""

    patient: str
    accession: str
    class_name: str
    unit: str
    mean: float
    grade: str | None
    cut_off_version: str
    model: str
    reviewed: bool

    @classmethod
    def of(cls, row: ExportRow) -> ReportLine:
        """The line that an exported row is."""
        return cls(**{column.name: getattr(row, column.name) for column in fields(cls)})


@dataclass(frozen=True, slots=True)
class Pair:
    """One component of one specimen, graded by both.

    Attributes:
        patient: The patient's identifier.
        accession: The specimen.
        component: A class, or a set of them.
        line: Line of the technologists' file.
        written: What the technologist wrote.
        technologist: Its index in `GRADES`.
        reported: What the report says: its grade, or its mean with the unit.
        report: Its index in `GRADES`.
        from_mean: Whether the mean was graded here and not the reported grade read.
        crossed: Cut-offs that the technologist's range reaches over.
    """

    patient: str
    accession: str
    component: str
    line: int
    written: str
    technologist: int
    reported: str
    report: int
    from_mean: bool
    crossed: tuple[float, ...]

    @property
    def steps(self) -> int:
        """How many grades the report lies above the technologist."""
        return self.report - self.technologist


@dataclass(frozen=True, slots=True)
class ComponentAgreement:
    """A line of Table 8, with what the table leaves out.

    Attributes:
        component: A class, or a set of them.
        patients: Patients compared.
        specimens: Specimens compared.
        accuracy: Share with the same grade.
        within_one: Share at most one grade apart.
        linear: Kappa with linear weights.
        quadratic: Kappa with quadratic weights.
        confusion: Counts, technologists' grade down the rows, the report's across.
        paper: The paper's accuracy, where Table 8 has the component.
        notes: What a reader must know about these figures.
    """

    component: str
    patients: int
    specimens: int
    accuracy: Estimate
    within_one: Estimate
    linear: Estimate
    quadratic: Estimate
    confusion: tuple[tuple[int, ...], ...]
    paper: float | None
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Overall:
    """All components together.

    Attributes:
        patients: Patients compared in at least one component.
        values: Values compared.
        mean_accuracy: Unweighted mean of the components' accuracies, the last line of Table 8.
        accuracy: Share of all values with the same grade.
        within_one: Share of all values at most one grade apart.
        linear: Kappa of all values, linear weights.
        quadratic: Kappa of all values, quadratic weights.
    """

    patients: int
    values: int
    mean_accuracy: Estimate
    accuracy: Estimate
    within_one: Estimate
    linear: Estimate
    quadratic: Estimate


@dataclass(frozen=True, slots=True)
class OneSided:
    """What only one of the two files has.

    Attributes:
        technologist_specimens: Accession numbers or patients that no report has.
        report_specimens: Accession numbers that no technologist graded.
        technologist_components: Components that no compared report has, such as classes that the model does not assess.
        report_classes: Classes that the compared reports count and that no technologist graded, with the number of
            specimens in which they were found.
    """

    technologist_specimens: tuple[str, ...]
    report_specimens: tuple[str, ...]
    technologist_components: tuple[str, ...]
    report_classes: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Validation:
    """The whole comparison.

    Attributes:
        components: One entry for each component compared, those of Table 8 first, in its order.
        overall: All of them together.
        pairs: What was compared, in the order of the technologists' file.
        one_sided: What only one file has.
        not_compared: Lines of the technologists' file that were read, and yet not compared, with the reason.
        specimens: Specimens compared.
        reviewed: How many of them a person had reviewed and signed, so that their grades hold corrections.
        models: Models that searched the specimens compared.
        cut_off_versions: Cut-off tables of their reports.
        table: The table that graded numbers here.
        regraded: Whether all means were graded by it.
        seed: Of the resampling.
        resamples: How many.
    """

    components: tuple[ComponentAgreement, ...]
    overall: Overall
    pairs: tuple[Pair, ...]
    one_sided: OneSided
    not_compared: tuple[BadLine, ...]
    specimens: int
    reviewed: int
    models: tuple[str, ...]
    cut_off_versions: tuple[str, ...]
    table: str
    regraded: bool
    seed: int
    resamples: int

    @property
    def differences(self) -> tuple[Pair, ...]:
        """The pairs whose grades differ, the farthest apart first."""
        return tuple(sorted((pair for pair in self.pairs if pair.steps), key=lambda pair: -abs(pair.steps)))


def read_report(content: bytes, *, name: str) -> tuple[tuple[ReportLine, ...], tuple[BadLine, ...]]:
    """The values of a CSV that RenalCore exported, also where a spreadsheet has saved it since.

    Returns:
        The values, and the lines that could not be read with the reason.

    Raises:
        InputError: It is no export of RenalCore.
    """
    table = read_table(content, name=name)
    missing = [column for column in _REPORT_COLUMNS if column not in table.header]
    if missing:
        raise InputError(
            f"{name}: this is not an export of RenalCore, the column {missing[0]} is missing; "
            "export it anew under Results > Export"
        )
    lines: list[ReportLine] = []
    bad: list[BadLine] = []
    seen: dict[tuple[str, str], int] = {}
    for number, cells in table.rows:
        row = dict(zip(table.header, cells, strict=True))
        if not row["mean"] and row.get("withheld"):
            continue  # no field of it could be counted: there is nothing to compare
        try:
            line = _report_line(row)
        except InputError as error:
            bad.append(BadLine(number, str(error)))
            continue
        first = seen.setdefault((line.accession, line.class_name), number)
        if first != number:
            bad.append(BadLine(number, f"{line.class_name} of {line.accession} stands on line {first} already"))
            continue
        lines.append(line)
    return tuple(lines), tuple(bad)


def compare(
    sheet: TechnologistSheet,
    rows: Iterable[ReportLine],
    *,
    also_reported: Iterable[str] = (),
    table: CutOffTable = FIVE_GRADES,
    regrade: bool = False,
    seed: int = SEED,
    resamples: int = RESAMPLES,
) -> Validation:
    """Compare a technologists' table with reports.

    Args:
        sheet: What the technologists graded.
        rows: What the reports say.
        also_reported: Accession numbers of reports whose rows were not fetched because nobody graded them.
        table: Grades means; `read_sheet` should have had the same.
        regrade: Grade all means by `table`, whatever was reported.
        seed: Of the resampling.
        resamples: How many.

    Raises:
        InputError: Nothing can be compared; the message says why.
    """
    reports: dict[str, dict[str, ReportLine]] = defaultdict(dict)
    specimens_of: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        if row.accession not in reports:
            specimens_of[row.patient].append(row.accession)
        reports[row.accession][row.class_name] = row
    pairs: list[Pair] = []
    not_compared: list[BadLine] = []
    unmatched: dict[str, None] = {}
    absent: dict[str, None] = {}
    for grade in sheet.grades:
        try:
            accession = _specimen(grade, reports, specimens_of)
            if accession is None:
                unmatched[grade.accession or f"patient {grade.patient}"] = None
                continue
            present = [reports[accession][name] for name in members(grade.component) if name in reports[accession]]
            if not present:
                absent[grade.component] = None
                not_compared.append(BadLine(grade.line, f"the report of {accession} has no {title(grade.component)}"))
                continue
            pairs.append(_pair(grade, present, table, regrade=regrade))
        except InputError as error:
            not_compared.append(BadLine(grade.line, f"{title(grade.component)}: {error}"))
    if not pairs:
        raise InputError(_nothing(sheet, reports, unmatched, not_compared))
    compared = {pair.accession for pair in pairs}
    graded = {grade.component for grade in sheet.grades}
    known = {pair.component for pair in pairs}
    return Validation(
        components=tuple(
            _component(name, [pair for pair in pairs if pair.component == name], seed, resamples)
            for name in (*TABLE_8, *(name for name in (*COMPONENT_SETS, *NAMES) if name not in TABLE_8))
            if name in known
        ),
        overall=_overall(pairs, seed, resamples),
        pairs=tuple(pairs),
        one_sided=OneSided(
            tuple(unmatched),
            tuple(sorted({*(set(reports) - compared), *also_reported})),
            tuple(title(name) for name in absent if name not in known),
            _only_reported([reports[accession] for accession in compared], graded),
        ),
        not_compared=tuple(not_compared),
        specimens=len(compared),
        reviewed=sum(next(iter(reports[accession].values())).reviewed for accession in compared),
        models=tuple(sorted({row.model for name in compared for row in reports[name].values() if row.model})),
        cut_off_versions=tuple(sorted({row.cut_off_version for name in compared for row in reports[name].values()})),
        table=table.version,
        regraded=regrade,
        seed=seed,
        resamples=resamples,
    )


def _report_line(row: Mapping[str, str]) -> ReportLine:
    for column in ("patient", "accession"):
        if not row[column]:
            raise InputError(f"the column {column} is empty")
    if row["class"] not in NAMES:
        raise InputError(f"{row['class'][:60]!r} is not one of the 39 classes")
    if row["unit"] not in (*get_args(Unit), "field"):
        raise InputError(f"the unit must be HPF, LPF or field, got {row['unit'][:20]!r}")
    try:
        mean = float(row["mean"].replace(",", "."))
    except ValueError:
        mean = -1.0
    if not 0 <= mean < float("inf"):
        raise InputError(f"the mean must be a number from 0 up, got {row['mean'][:20]!r}")
    return ReportLine(
        patient=row["patient"],
        accession=row["accession"],
        class_name=row["class"],
        unit=row["unit"],
        mean=mean,
        grade=row["grade"] or None,
        cut_off_version=row["cut_off_version"],
        model=row.get("model", ""),
        reviewed=row.get("reviewed", "") == "yes",
    )


def _specimen(
    grade: TechnologistGrade, reports: Mapping[str, Mapping[str, ReportLine]], specimens_of: Mapping[str, Sequence[str]]
) -> str | None:
    """The specimen that a technologist graded, None where no report has it."""
    if grade.accession is not None:
        if grade.accession not in reports:
            return None
        patient = next(iter(reports[grade.accession].values())).patient
        if grade.patient is not None and grade.patient != patient:
            raise InputError(
                f"{grade.accession} belongs to patient {patient} in the report and to {grade.patient} here; "
                "correct the wrong one"
            )
        return grade.accession
    found = specimens_of.get(grade.patient or "", ())
    if len(found) > 1:
        raise InputError(
            f"patient {grade.patient} has {len(found)} specimens in the report ({', '.join(sorted(found)[:5])}); "
            "tell which one in a column called accession"
        )
    return found[0] if found else None


def _pair(grade: TechnologistGrade, rows: Sequence[ReportLine], table: CutOffTable, *, regrade: bool) -> Pair:
    """The technologist's grade beside that of the report, whose `rows` are the component's classes."""
    reported = [row.grade for row in rows if row.grade is not None]
    from_mean = regrade or len(reported) < len(rows)
    if from_mean:
        report, said = _from_means(grade.component, rows, table)
    else:
        readings = [read_grade(row.grade or "", row.class_name, table, unit=cast(Unit, row.unit)).grade for row in rows]
        report = max(readings)
        said = reported[readings.index(report)]
    return Pair(
        rows[0].patient,
        rows[0].accession,
        grade.component,
        grade.line,
        grade.text,
        grade.grade,
        said,
        report,
        from_mean,
        grade.crossed,
    )


def _from_means(component: str, rows: Sequence[ReportLine], table: CutOffTable) -> tuple[int, str]:
    """The grade of the sum of the means, and that sum in words."""
    if len({row.unit for row in rows}) == 1:
        total, unit = sum(row.mean for row in rows), rows[0].unit
    elif any(row.unit == "field" for row in rows):
        raise InputError("counted per picture of unknown scale, which no cut-off grades")
    else:
        scale = scale_of(component, table)
        unit = scale.unit
        areas = {name: table.unit_area_mm2(name) for name in get_args(Unit)}
        total = sum(row.mean * areas[unit] / areas[row.unit] for row in rows)
    return grade_of_mean(total, unit, component, table), f"{total:.4g} per {unit}"


def _component(name: str, pairs: Sequence[Pair], seed: int, resamples: int) -> ComponentAgreement:
    stack = _stack(pairs, (name,))[:, 0]
    whole = stack.sum(axis=0).astype(int)
    return ComponentAgreement(
        name,
        len(stack),
        len(pairs),
        agreement.accuracy_over_patients(stack, seed=seed, resamples=resamples),
        agreement.accuracy_over_patients(stack, steps=1, seed=seed, resamples=resamples),
        agreement.kappa_over_patients(stack, "linear", seed=seed, resamples=resamples),
        agreement.kappa_over_patients(stack, "quadratic", seed=seed, resamples=resamples),
        tuple(tuple(int(count) for count in row) for row in whole),
        TABLE_8.get(name),
        _notes(pairs),
    )


def _overall(pairs: Sequence[Pair], seed: int, resamples: int) -> Overall:
    stack = _stack(pairs, tuple({pair.component: None for pair in pairs}))
    pooled = stack.sum(axis=1)
    return Overall(
        len(stack),
        len(pairs),
        agreement.over_patients(stack, _mean_accuracy, seed=seed, resamples=resamples),
        agreement.accuracy_over_patients(pooled, seed=seed, resamples=resamples),
        agreement.accuracy_over_patients(pooled, steps=1, seed=seed, resamples=resamples),
        agreement.kappa_over_patients(pooled, "linear", seed=seed, resamples=resamples),
        agreement.kappa_over_patients(pooled, "quadratic", seed=seed, resamples=resamples),
    )


def _stack(pairs: Sequence[Pair], components: Sequence[str]) -> Floats:
    """`(patients, components, 5, 5)`: how often each grade of the technologist met each of the report."""
    patients = {patient: index for index, patient in enumerate(dict.fromkeys(pair.patient for pair in pairs))}
    places = {name: index for index, name in enumerate(components)}
    stack = np.zeros((len(patients), len(places), len(GRADES), len(GRADES)))
    for pair in pairs:
        stack[patients[pair.patient], places[pair.component], pair.technologist, pair.report] += 1
    return stack


def _mean_accuracy(tables: Floats) -> Floats:
    """Unweighted mean over the components that have a case, `(n, components, 5, 5)` to `(n,)`."""
    cases = tables.sum(axis=(-2, -1))
    right = np.trace(tables, axis1=-2, axis2=-1)
    shares = np.divide(right, cases, out=np.zeros_like(right), where=cases > 0)
    mean: Floats = shares.sum(axis=-1) / (cases > 0).sum(axis=-1)
    return mean


def _notes(pairs: Sequence[Pair]) -> tuple[str, ...]:
    notes = []
    technologists = Counter(pair.technologist for pair in pairs)
    reports = Counter(pair.report for pair in pairs)
    for whose, counts in (("technologists give", technologists), ("reports give", reports)):
        if len(counts) == 1 and len(technologists) + len(reports) > 2:
            notes.append(f"The {whose} {GRADES[next(iter(counts))]!r} throughout: kappa is 0 whatever the agreement.")
    if not any(pair.from_mean for pair in pairs):
        never = [
            f"{GRADES[grade]!r} {_number_of(count, 'time')}"
            for grade, count in sorted(technologists.items())
            if not reports[grade]
        ]
        if never:
            notes.append(
                f"Technologists give {' and '.join(never)}, the reports never: see whether their cut-off table has "
                "that step, or grade the means anew."
            )
    from_mean = sum(pair.from_mean for pair in pairs)
    if 0 < from_mean < len(pairs):
        notes.append(f"{from_mean} of {len(pairs)} reports give no grade; their means were graded.")
    crossed = Counter(pair.written for pair in pairs if pair.crossed)
    if crossed:
        notes.append(
            f"{_number_of(crossed.total(), 'range')} over a cut-off, graded by the middle: "
            f"{', '.join(text for text, _ in crossed.most_common(3))}."
        )
    return tuple(notes)


def _only_reported(reports: Sequence[Mapping[str, ReportLine]], graded: Iterable[str]) -> tuple[tuple[str, int], ...]:
    """Classes found in these reports that are part of no component that a technologist graded."""
    asked = {name for component in graded for name in members(component)}
    found = Counter(name for report in reports for name, row in report.items() if row.mean > 0 and name not in asked)
    return tuple((name, found[name]) for name in NAMES if found[name])


def _nothing(
    sheet: TechnologistSheet,
    reports: Mapping[str, object],
    unmatched: Mapping[str, None],
    not_compared: Sequence[BadLine],
) -> str:
    if not sheet.grades:
        why = f": {sheet.bad_lines[0]}" if sheet.bad_lines else ""
        return f"{sheet.name}: no line holds a grade that can be read{why}"
    if not reports:
        return f"{sheet.name}: no report was found for {_number_of(len(unmatched), 'specimen')} in it"
    if not_compared:
        return f"{sheet.name}: nothing can be compared; {not_compared[0]}"
    return (
        f"{sheet.name}: none of its specimens ({', '.join(list(unmatched)[:3])}) is among the reports "
        f"({', '.join(list(reports)[:3])}); look for lost leading zeros"
    )


def _number_of(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
