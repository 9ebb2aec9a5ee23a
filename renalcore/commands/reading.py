"""What commands ask about labelled fields that the data cannot say of themselves."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from renalcore.commands.command import share

if TYPE_CHECKING:
    from renalcore.sediment.readers import ReadOptions


def add_reading(parser: argparse.ArgumentParser) -> None:
    """The options `--mapping`, `--format`, `--groups`, `--val-share` and `--partial`."""
    group = parser.add_argument_group("reading the data")
    group.add_argument(
        "--mapping", type=Path, metavar="FILE",
        help="CSV of names: the one in the data, and the taxonomy's or `ignore`",
    )  # fmt: skip
    group.add_argument(
        "--format", choices=("yolo", "voc", "coco"), default=None, help="of the labels, where the folder holds several"
    )
    group.add_argument(
        "--groups", metavar="PATTERN",
        help=r"regular expression for the patient or sample in a picture's name, e.g. '^(P\d+)_'; see also groups.csv",
    )  # fmt: skip
    group.add_argument(
        "--val-share", type=share, default=0.2, metavar="SHARE",
        help="of the groups that validate where the data have no splits (%(default)s)",
    )  # fmt: skip
    group.add_argument(
        "--partial", action="store_true", help="not everything was boxed: only the boxes themselves are known"
    )


def reading(arguments: argparse.Namespace) -> ReadOptions:
    """The options as the reader takes them."""
    from renalcore.sediment.labels.record import Format
    from renalcore.sediment.readers import ReadOptions

    return ReadOptions(
        format=Format(arguments.format) if arguments.format else None,
        mapping=arguments.mapping,
        group_pattern=arguments.groups,
        val_share=arguments.val_share,
        partial=arguments.partial,
    )
