"""What commands ask about labelled fields and slides that the data cannot say of themselves."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from renalcore.commands.command import micrometres, share

if TYPE_CHECKING:
    from renalcore.histology.annotations import ReadOptions as SlideOptions
    from renalcore.sediment.readers import ReadOptions


def add_reading(parser: argparse.ArgumentParser) -> None:
    """The options `--mapping`, `--format`, `--groups`, `--val-share` and `--partial`."""
    group = _add_groups(parser, "of the 39 classes, or ignore")
    group.add_argument(
        "--format", choices=("yolo", "voc", "coco"), default=None, help="of the labels, where the folder holds several"
    )
    group.add_argument(
        "--partial", action="store_true", help="not everything was boxed: only the boxes themselves are known"
    )


def add_slide_reading(parser: argparse.ArgumentParser) -> None:
    """The options `--mapping`, `--groups`, `--val-share`, `--known`, `--stain`, `--species` and `--um-per-px`."""
    group = _add_groups(parser, "glomerulus, globally sclerosed glomerulus, ignore or other")
    group.add_argument(
        "--known", choices=("all", "some", "inside"), default="all",
        help="what is known where the data do not say it: all glomeruli are outlined, or some, or only a part of each "
        "(%(default)s)",
    )  # fmt: skip
    group.add_argument("--stain", metavar="NAME", help="of the slides whose data do not say it")
    group.add_argument("--species", choices=("human", "mouse", "rat"), help="of the slides whose data do not say it")
    group.add_argument(
        "--um-per-px", type=micrometres, metavar="UM", help="micrometres a pixel of the slides that do not say it"
    )


def slide_reading(arguments: argparse.Namespace) -> SlideOptions:
    """The options of `add_slide_reading` as the reader takes them."""
    from renalcore.histology.annotations import ReadOptions

    return ReadOptions(
        mapping=arguments.mapping,
        group_pattern=arguments.groups,
        val_share=arguments.val_share,
        known=arguments.known,
        stain=arguments.stain,
        species=arguments.species,
        um_per_px=arguments.um_per_px,
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


def _add_groups(parser: argparse.ArgumentParser, labels: str) -> argparse._ArgumentGroup:
    """Names and groups, whatever the modality; `labels` says what a name can be mapped to."""
    group = parser.add_argument_group("reading the data")
    group.add_argument(
        "--mapping", type=Path, metavar="FILE", help=f"CSV of names: the one in the data, and one of ours: {labels}"
    )
    group.add_argument(
        "--groups", metavar="PATTERN",
        help=r"regular expression for the patient or sample in a picture's name, e.g. '^(P\d+)_'; see also groups.csv",
    )  # fmt: skip
    group.add_argument(
        "--val-share", type=share, default=0.2, metavar="SHARE",
        help="of the groups that validate where the data have no splits (%(default)s)",
    )  # fmt: skip
    return group
