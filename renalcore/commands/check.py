"""`renalcore check`: is a data set fit to train on?"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from renalcore.commands.command import Command, Family, bar, make_folder, say
from renalcore.commands.reading import add_reading, add_slide_reading, reading, slide_reading
from renalcore.export.figures import write_json

if TYPE_CHECKING:
    from renalcore.datasets.findings import Finding
    from renalcore.histology.check import SlideCheck
    from renalcore.sediment.check import DataCheck

_SHOWN = 5


def _sediment_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", required=True, type=Path, metavar="DIR", help="fields, with labels or without")
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder for check.json, findings.csv, classes.csv")
    add_reading(parser)


def _sediment(arguments: argparse.Namespace) -> int:
    """Tell what a data set holds and what is wrong with it."""
    _make_output(arguments)

    from renalcore.sediment.check import check

    with bar(0, "picture") as progress:
        report = check(arguments.data, reading(arguments), done=_shown_on(progress))
    sys.stdout.writelines(f"{line}\n" for line in _lines(report))
    if arguments.output is not None:
        _write(report, arguments.output)
        say(f"tables: {arguments.output}")
    return 0 if report.is_fit else 1


def _histology_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", required=True, type=Path, metavar="DIR", help="slides with their outlines or masks")
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder for check.json, findings.csv, splits.csv")
    add_slide_reading(parser)


def _histology(arguments: argparse.Namespace) -> int:
    """Tell what labelled slides hold and what is wrong with them."""
    _make_output(arguments)

    from renalcore.histology.check import check

    with bar(0, "slide") as progress:
        report = check(arguments.data, slide_reading(arguments), done=_shown_on(progress))
    sys.stdout.writelines(f"{line}\n" for line in _slide_lines(report))
    if arguments.output is not None:
        content = report.as_dict()
        counts = content["splits"]
        rows = ([name, *(side[name] for side in counts.values())] for name in counts["train"])
        _write_tables(content, arguments.output, "splits.csv", ("what", *counts), rows)
        say(f"tables: {arguments.output}")
    return 0 if report.is_fit else 1


def _make_output(arguments: argparse.Namespace) -> None:
    if arguments.output is not None:
        make_folder(arguments.output)


def _shown_on(progress: Any) -> Callable[[int, int], None]:
    def tell(done: int, all_: int) -> None:
        progress.total = all_
        progress.update(done - progress.n)

    return tell


def _slide_lines(report: SlideCheck) -> list[str]:
    """The report on slides for a person."""
    data = report.slides
    lines = [f"{data.folder}: {len(data.slides)} labelled slides, {len(data.unlabelled)} unlabelled pictures"]
    if data.slides:
        lines.append(f"splits: {'its own' if data.own_splits else 'by a hash of the group'}; groups: {data.grouped_by}")
        counts = {split: report.counts(split) for split in report.sides}
        lines += ["", _row("", report.sides)]
        lines += [_row(name, [str(side[name]) for side in counts.values()]) for name in counts[report.sides[0]]]
        sizes = sorted(slide.glomerulus_px for slide in data.slides if slide.glomerulus_px)
        if sizes:
            lines.append(f"  glomeruli are {sizes[0]:.0f} to {sizes[-1]:.0f} px across, slide by slide")
    if data.names:
        lines += ["", "names read as"]
        lines += [f"  {name} -> {label or 'unknown'} ({count} outlines)" for name, label, count in data.names]
    return [*lines, *_told(report.findings), "", _verdict(report.is_fit) if data.slides else "NOT fit: no labels"]


def _lines(report: DataCheck) -> list[str]:
    """The report on fields for a person."""
    from renalcore.sediment.check import read_as

    data = report.fields
    lines = [f"{data.folder}: {data.format}, {len(data.fields)} labelled pictures, {len(data.unlabelled)} unlabelled"]
    if data.fields:
        lines.append(f"splits: {'its own' if data.own_splits else 'by a hash of the group'}; groups: {data.grouped_by}")
        sides = report.sides
        counts = {split: report.objects(split) for split in sides}
        groups = [str(len({field.group for field in data.split(split)})) for split in sides]
        lines += ["", _row("", sides), _row("pictures", [str(report.pictures(split)) for split in sides])]
        lines.append(_row("groups", groups))
        names = [name for name in counts[sides[0]] if any(counts[split][name] for split in sides)]
        lines += [_row(name, [str(counts[split][name]) for split in sides]) for name in names]
    renamed = [each for each in data.classes if each.name != read_as(each.class_id)]
    if renamed:
        lines += ["", "names read as"]
        lines += [f"  {each.name} -> {read_as(each.class_id)} ({each.boxes} boxes)" for each in renamed]
    verdict = _verdict(report.is_fit) if data.fields or not report.is_fit else "no labels: fit for pretraining only"
    return [*lines, *_told(report.findings), "", verdict]


def _verdict(is_fit: bool) -> str:
    return "fit to train on" if is_fit else "NOT fit to train on: correct what is marked WRONG"


def _told(findings: Sequence[Finding]) -> list[str]:
    """Findings under their headings, the first few of each."""
    lines = []
    for kind, rows in groupby(findings, key=lambda finding: finding.kind):
        found = list(rows)
        lines += ["", f"{'WRONG' if found[0].is_error else 'look at'}: {kind} ({len(found)})"]
        lines += [f"  {finding}" for finding in found[:_SHOWN]]
        if len(found) > _SHOWN:
            lines.append(f"  and {len(found) - _SHOWN} more; --output DIR writes them all")
    return lines


def _row(name: str, cells: Sequence[str]) -> str:
    return f"  {name:<32}" + "".join(f"{cell:>10}" for cell in cells)


def _write(report: DataCheck, folder: Path) -> None:
    """The report for programs and spreadsheets."""
    content = report.as_dict()
    objects = content["objects"]
    classes = ([name, *(counts[name] for counts in objects.values())] for name in objects["train"])
    _write_tables(content, folder, "classes.csv", ("class", *objects), classes)


def _write_tables(
    content: dict[str, Any], folder: Path, name: str, header: Sequence[str], rows: Iterable[Sequence[Any]]
) -> None:
    """`check.json`, `findings.csv` and one more table."""
    from renalcore.export.csv import table_to_csv

    write_json(folder / "check.json", content)
    columns = ("kind", "error", "file", "message", "remedy")
    findings = ([finding[column] for column in columns] for finding in content["findings"])
    (folder / "findings.csv").write_bytes(table_to_csv(columns, findings))
    (folder / name).write_bytes(table_to_csv(header, rows))


FAMILY = Family(
    "check",
    "check whether data are fit to train on",
    (
        Command(
            "sediment",
            "list what is wrong with labelled fields",
            "renalcore check sediment --data fields/ --output checked/",
            _sediment_arguments,
            _sediment,
        ),
        Command(
            "histology",
            "list what is wrong with labelled slides",
            "renalcore check histology --data slides/ --output checked/",
            _histology_arguments,
            _histology,
        ),
    ),
)
