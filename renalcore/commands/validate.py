"""`renalcore validate`: reports against what technologists graded."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from renalcore.commands.command import Command, Family, count, make_folder, say
from renalcore.errors import InputError, UnreadableFile

if TYPE_CHECKING:
    from renalcore.metrics.agreement import Estimate
    from renalcore.sediment.clinical import Validation
    from renalcore.sediment.measure import CutOffTable
    from renalcore.sediment.table8 import ComponentAgreement, Overall


def _sediment_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--technologist",
        required=True,
        type=Path,
        metavar="CSV",
        help="grades by technologists: columns accession or patient, component, grade; or one column a component",
    )
    parser.add_argument(
        "--report",
        required=True,
        type=Path,
        metavar="CSV",
        help="the CSV that RenalCore exports under Results > Export",
    )
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder for JSON and CSV tables")
    parser.add_argument(
        "--cut-offs",
        default="five-1",
        metavar="TABLE",
        help="what turns numbers into grades: five-1, A-1, B-1 or a JSON file of a cut-off table (%(default)s)",
    )
    parser.add_argument(
        "--regrade", action="store_true", help="grade every mean by that table, whatever grade was reported"
    )
    parser.add_argument("--seed", type=_seed, default=0, metavar="N", help="of the bootstrap (%(default)s)")
    parser.add_argument(
        "--resamples", type=count, default=2000, metavar="N", help="of the bootstrap over patients (%(default)s)"
    )


def _seed(text: str) -> int:
    seed = int(text)
    if seed < 0:
        raise argparse.ArgumentTypeError(f"must be 0 or more, got {text}")
    return seed


def _sediment(arguments: argparse.Namespace) -> int:
    """Compare an export with technologists' grades; 1 where lines of either file could not be read."""
    from renalcore.export.clinical import files
    from renalcore.sediment.clinical import compare
    from renalcore.sediment.reported import read_report
    from renalcore.sediment.technologist import read_sheet

    make_folder(arguments.output)
    table = _cut_offs(arguments.cut_offs)
    sheet = read_sheet(_content(arguments.technologist), name=arguments.technologist.name, table=table)
    rows, bad = read_report(_content(arguments.report), name=arguments.report.name)
    for line in sheet.bad_lines:
        say(f"{arguments.technologist.name} {line}")
    for line in bad:
        say(f"{arguments.report.name} {line}")
    found = compare(
        sheet, rows, table=table, regrade=arguments.regrade, seed=arguments.seed, resamples=arguments.resamples
    )
    for line in found.not_compared:
        say(f"{arguments.technologist.name} {line}")
    for name, content in files(found, sheet, report_bad_lines=bad).items():
        (arguments.output / name).write_bytes(content)
    sys.stdout.write(_summary(found))
    return 1 if sheet.bad_lines or bad else 0


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UnreadableFile(f"{path}: the file cannot be opened ({error.strerror})") from error


def _cut_offs(name: str) -> CutOffTable:
    from renalcore.sediment.grades import FIVE_GRADES
    from renalcore.sediment.measure import TABLE_A, TABLE_B, CutOffTable

    known = {table.version: table for table in (FIVE_GRADES, TABLE_A, TABLE_B)}
    if name in known:
        return known[name]
    if not Path(name).is_file():
        raise InputError(f"--cut-offs: {name} is neither one of {', '.join(known)} nor a file")
    try:
        return CutOffTable.from_json(json.loads(Path(name).read_text(encoding="utf-8-sig")))
    except (InputError, ValueError, AttributeError, TypeError, RecursionError) as error:
        raise InputError(f"{name} cannot be used as a cut-off table: {error}") from error


def _summary(found: Validation) -> str:
    """The tables as text, columns under each other."""
    from renalcore.export.clinical import all_of_table_8
    from renalcore.sediment.grades import GRADES, title
    from renalcore.sediment.table8 import METHOD, TABLE_8_MEAN

    head = ["Component", "Patients", "Accuracy %", "Within one %", "Kappa linear", "Kappa quadratic", "Paper %"]
    whole = found.overall
    rows = [[title(one.component), *_figures(one), _percent(one.paper)] for one in found.components]
    rows.append(["All values", *_figures(whole), ""])
    rows.append(
        [
            "Mean accuracy",
            str(whole.patients),
            _with_interval(whole.mean_accuracy, percent=True),
            *["", "", ""],
            _percent(TABLE_8_MEAN if all_of_table_8(found) else None),
        ]
    )
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) for row in (head, *rows)]
    for one in found.components:
        lines += ["", f"{title(one.component)}: technologists' grade down, the report's across"]
        lines.append("".join(text.rjust(10) for text in ("", *GRADES)))
        for grade, counts in zip(GRADES, one.confusion, strict=True):
            lines.append("".join(text.rjust(10) for text in (grade, *map(str, counts))))
        lines += one.notes
    reasons = {
        f"{title(one.component)}, {figure}: {estimate.reason}": None
        for one in found.components
        for figure, estimate in (("accuracy", one.accuracy), ("kappa", one.linear))
        if estimate.reason
    }
    lines += ["", *reasons]
    one_sided = found.one_sided
    for words, names in (
        ("Graded by technologists, in no report", one_sided.technologist_specimens),
        ("Reported, graded by no technologist", one_sided.report_specimens),
        ("Components that no report has", one_sided.technologist_components),
        ("Found in reports, graded by no technologist", tuple(f"{name} ({n})" for name, n in one_sided.report_classes)),
    ):
        if names:
            more = f" and {len(names) - 8} more" if len(names) > 8 else ""
            lines.append(f"{words}: {', '.join(names[:8])}{more}")
    lines.append(
        f"{found.specimens} specimens, {found.reviewed} of them reviewed by a person; "
        f"models {', '.join(found.models)}; cut-offs {', '.join(found.cut_off_versions)}, numbers by {found.table}."
    )
    lines.append(f"{METHOD} {found.resamples} resamples, seed {found.seed}.")
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _figures(of: ComponentAgreement | Overall) -> list[str]:
    return [
        str(of.patients),
        _with_interval(of.accuracy, percent=True),
        _with_interval(of.within_one, percent=True),
        _with_interval(of.linear),
        _with_interval(of.quadratic),
    ]


def _with_interval(estimate: Estimate, *, percent: bool = False) -> str:
    if estimate.value is None:
        return "-"
    scale, decimals = (100, 1) if percent else (1, 2)
    text = f"{estimate.value * scale:.{decimals}f}"
    if estimate.low is None or estimate.high is None:
        return text
    return f"{text} ({estimate.low * scale:.{decimals}f} to {estimate.high * scale:.{decimals}f})"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value * 100:.2f}"


FAMILY = Family(
    "validate",
    "compare reports with what people graded",
    (
        Command(
            "sediment",
            "compare an export with technologists' grades: accuracy, confusion, weighted kappa",
            "renalcore validate sediment --technologist grades.csv --report export.csv --output validation",
            _sediment_arguments,
            _sediment,
        ),
    ),
)
