"""`renalcore check`: is a data set fit to train on?"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from renalcore.commands.command import Command, Family, bar, say
from renalcore.commands.reading import add_reading, reading
from renalcore.export.figures import write_json

if TYPE_CHECKING:
    from renalcore.sediment.check import DataCheck

_SHOWN = 5


def _sediment_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", required=True, type=Path, metavar="DIR", help="fields, with labels or without")
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder for check.json, findings.csv, classes.csv")
    add_reading(parser)


def _sediment(arguments: argparse.Namespace) -> int:
    """Tell what a data set holds and what is wrong with it."""
    from renalcore.sediment.check import check

    with bar(0, "picture") as progress:

        def tell(done: int, all_: int) -> None:
            progress.total = all_
            progress.update(done - progress.n)

        report = check(arguments.data, reading(arguments), done=tell)
    sys.stdout.writelines(f"{line}\n" for line in _lines(report))
    if arguments.output is not None:
        arguments.output.mkdir(parents=True, exist_ok=True)
        _write(report, arguments.output)
        say(f"tables: {arguments.output}")
    return 0 if report.is_fit else 1


def _lines(report: DataCheck) -> list[str]:
    """The report for a person."""
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
    for kind, rows in groupby(report.findings, key=lambda finding: finding.kind):
        found = list(rows)
        lines += ["", f"{'WRONG' if found[0].is_error else 'look at'}: {kind} ({len(found)})"]
        lines += [f"  {finding}" for finding in found[:_SHOWN]]
        if len(found) > _SHOWN:
            lines.append(f"  and {len(found) - _SHOWN} more; --output DIR writes them all")
    verdict = "fit to train on" if report.is_fit else "NOT fit to train on: correct what is marked WRONG"
    return [*lines, "", verdict if data.fields or not report.is_fit else "no labels: fit for pretraining only"]


def _row(name: str, cells: Sequence[str]) -> str:
    return f"  {name:<32}" + "".join(f"{cell:>10}" for cell in cells)


def _write(report: DataCheck, folder: Path) -> None:
    """The report for programs and spreadsheets."""
    from renalcore.export.csv import table_to_csv

    content = report.as_dict()
    write_json(folder / "check.json", content)
    columns = ("kind", "error", "file", "message", "remedy")
    findings = ([finding[column] for column in columns] for finding in content["findings"])
    (folder / "findings.csv").write_bytes(table_to_csv(columns, findings))
    objects = content["objects"]
    classes = ([name, *(counts[name] for counts in objects.values())] for name in objects["train"])
    (folder / "classes.csv").write_bytes(table_to_csv(("class", *objects), classes))


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
    ),
)
