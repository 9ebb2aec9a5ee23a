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
from dataclasses import dataclass
from typing import cast, get_args

from renalcore.datasets.findings import counted
from renalcore.errors import InputError
from renalcore.metrics.agreement import RESAMPLES, SEED
from renalcore.sediment.grades import (
    COMPONENT_SETS,
    FIVE_GRADES,
    grade_of_mean,
    members,
    read_grade,
    scale_of,
    title,
)
from renalcore.sediment.measure import CutOffTable
from renalcore.sediment.reported import ReportLine
from renalcore.sediment.table8 import TABLE_8, ComponentAgreement, Overall, Pair, component_agreement, overall
from renalcore.sediment.technologist import BadLine, TechnologistGrade, TechnologistSheet
from renalcore.taxonomy import NAMES, Unit


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
            component_agreement(
                name, [pair for pair in pairs if pair.component == name], seed=seed, resamples=resamples
            )
            for name in (*TABLE_8, *(name for name in (*COMPONENT_SETS, *NAMES) if name not in TABLE_8))
            if name in known
        ),
        overall=overall(pairs, seed=seed, resamples=resamples),
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
        return f"{sheet.name}: no report was found for {counted(len(unmatched), 'specimen')} in it"
    if not_compared:
        return f"{sheet.name}: nothing can be compared; {not_compared[0]}"
    return (
        f"{sheet.name}: none of its specimens ({', '.join(list(unmatched)[:3])}) is among the reports "
        f"({', '.join(list(reports)[:3])}); look for lost leading zeros"
    )
