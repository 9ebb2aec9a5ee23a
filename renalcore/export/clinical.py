"""A clinical validation as files: one JSON document and tidy CSV tables, shares from 0 to 1."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any

from renalcore.export.csv import table_to_csv
from renalcore.metrics.agreement import Estimate
from renalcore.sediment.clinical import Validation
from renalcore.sediment.grades import GRADES, title
from renalcore.sediment.table8 import METHOD, TABLE_8_MEAN, ComponentAgreement, Overall, Pair
from renalcore.sediment.technologist import BadLine, TechnologistSheet

_FIGURES = ("accuracy", "within_one", "linear", "quadratic")


def files(
    validation: Validation, sheet: TechnologistSheet, *, report_bad_lines: Iterable[BadLine] = ()
) -> dict[str, bytes]:
    """Every table by the name of its file.

    Args:
        validation: The comparison.
        sheet: The technologists' table it is of.
        report_bad_lines: Lines of the exported CSV that could not be read, where it was one.
    """
    bad = tuple(report_bad_lines)
    return {
        "validation.json": (json.dumps(to_json(validation, sheet, bad), indent=1, ensure_ascii=False) + "\n").encode(),
        "agreement.csv": agreement_csv(validation),
        "confusion.csv": confusion_csv(validation),
        "differences.csv": differences_csv(validation),
        "left_out.csv": left_out_csv(validation, sheet, bad),
    }


def agreement_csv(validation: Validation) -> bytes:
    """Table 8 with the figures it leaves out: a line a component, then all values and the mean accuracy."""
    columns = ["component", "patients", "values"]
    for figure in ("accuracy", "within_one", "kappa_linear", "kappa_quadratic"):
        columns += [figure, f"{figure}_low", f"{figure}_high"]
    whole = validation.overall
    mean = whole.mean_accuracy
    rows: list[list[object]] = [
        [title(one.component), one.patients, one.specimens, *_ends(one), one.paper, " ".join(remarks(one))]
        for one in validation.components
    ]
    rows.append(["All values", whole.patients, whole.values, *_ends(whole), None, " ".join(remarks(whole))])
    gap = [None] * (len(columns) - 6)
    paper = TABLE_8_MEAN if all_of_table_8(validation) else None
    rows.append(
        ["Mean accuracy", whole.patients, whole.values, mean.value, mean.low, mean.high, *gap, paper, mean.reason]
    )
    return table_to_csv([*columns, "paper_accuracy", "notes"], rows)


def confusion_csv(validation: Validation) -> bytes:
    """Counts of each component: the technologists' grade down the rows, the report's across."""
    return table_to_csv(
        ["component", "technologist", *(f"report_{grade}" for grade in GRADES)],
        (
            [title(one.component), grade, *counts]
            for one in validation.components
            for grade, counts in zip(GRADES, one.confusion, strict=True)
        ),
    )


def differences_csv(validation: Validation) -> bytes:
    """Every value whose grades differ, the farthest apart first."""
    columns = ("patient", "accession", "component", "technologist_wrote", "technologist", "reported", "report", "steps")
    return table_to_csv((*columns, "line"), ([*_words(pair), pair.line] for pair in validation.differences))


def left_out_csv(validation: Validation, sheet: TechnologistSheet, report_bad_lines: Iterable[BadLine] = ()) -> bytes:
    """Everything that was not compared, with the reason."""
    return table_to_csv(("where", "line", "reason"), _left_out(validation, sheet, report_bad_lines))


def to_json(
    validation: Validation, sheet: TechnologistSheet, report_bad_lines: Iterable[BadLine] = ()
) -> dict[str, Any]:
    """The whole comparison; a figure that cannot be computed is null, with the reason."""
    whole = validation.overall
    return {
        "method": METHOD,
        "seed": validation.seed,
        "resamples": validation.resamples,
        "grades": list(GRADES),
        "cut_off_table": validation.table,
        "regraded": validation.regraded,
        "specimens": validation.specimens,
        "specimens_reviewed_by_a_person": validation.reviewed,
        "models": list(validation.models),
        "report_cut_off_tables": list(validation.cut_off_versions),
        "overall": {
            "patients": whole.patients,
            "values": whole.values,
            "mean_accuracy": asdict(whole.mean_accuracy),
            "paper_mean_accuracy": TABLE_8_MEAN if all_of_table_8(validation) else None,
        }
        | _figures(whole),
        "components": [
            {"component": title(one.component), "patients": one.patients, "values": one.specimens}
            | _figures(one)
            | {"confusion": [list(row) for row in one.confusion], "paper_accuracy": one.paper, "notes": list(one.notes)}
            for one in validation.components
        ],
        "differences": [
            dict(
                zip(
                    ("patient", "accession", "component", "technologist_wrote", "technologist", "reported", "report"),
                    _words(pair),
                    strict=False,
                )
            )
            | {"steps": pair.steps, "line": pair.line}
            for pair in validation.differences
        ],
        "left_out": [
            {"where": where, "line": line, "reason": reason}
            for where, line, reason in _left_out(validation, sheet, report_bad_lines)
        ],
        "components_only_technologists": list(validation.one_sided.technologist_components),
        "classes_only_reports": [
            {"class": name, "found_in_specimens": number} for name, number in validation.one_sided.report_classes
        ],
    }


def all_of_table_8(validation: Validation) -> bool:
    """Whether exactly the paper's components were compared, so that its mean accuracy can stand beside ours."""
    return len(validation.components) == 6 and all(one.paper is not None for one in validation.components)


def remarks(of: ComponentAgreement | Overall) -> list[str]:
    """The notes, and once each the reasons why a figure or an interval is missing."""
    reasons = {getattr(of, figure).reason: None for figure in _FIGURES if getattr(of, figure).reason}
    return [
        *(of.notes if isinstance(of, ComponentAgreement) else ()),
        *(f"{reason[0].upper()}{reason[1:]}." for reason in reasons),
    ]


def _figures(of: ComponentAgreement | Overall) -> dict[str, Any]:
    names = dict(zip(_FIGURES, ("accuracy", "within_one", "kappa_linear", "kappa_quadratic"), strict=True))
    return {names[figure]: asdict(getattr(of, figure)) for figure in _FIGURES}


def _ends(of: ComponentAgreement | Overall) -> Iterator[float | None]:
    for figure in _FIGURES:
        estimate: Estimate = getattr(of, figure)
        yield from (estimate.value, estimate.low, estimate.high)


def _words(pair: Pair) -> list[object]:
    return [
        pair.patient,
        pair.accession,
        title(pair.component),
        pair.written,
        GRADES[pair.technologist],
        pair.reported,
        GRADES[pair.report],
        pair.steps,
    ]


def _left_out(
    validation: Validation, sheet: TechnologistSheet, report_bad_lines: Iterable[BadLine]
) -> Iterator[tuple[str, int | None, str]]:
    for line in sorted((*sheet.bad_lines, *validation.not_compared), key=lambda line: line.line):
        yield "technologists", line.line, line.reason
    for name in sheet.ignored_columns:
        yield "technologists", 1, f"the column {name} is no component"
    for name in validation.one_sided.technologist_specimens:
        yield "technologists", None, f"{name} is in no report"
    for line in report_bad_lines:
        yield "reports", line.line, line.reason
    for name in validation.one_sided.report_specimens:
        yield "reports", None, f"{name} was graded by no technologist"
