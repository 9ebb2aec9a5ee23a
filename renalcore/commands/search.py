"""`renalcore search`: find good values for the parameters of a training."""

from __future__ import annotations

import argparse
from pathlib import Path

from renalcore.commands.command import Command, Family, bar, count, say
from renalcore.commands.train import add_detector, check_folders, detector_config


def _sediment_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", required=True, type=Path, metavar="DIR", help="real fields with labels")
    parser.add_argument(
        "--output",
        required=True,
        type=Path,
        metavar="RUN",
        help="folder of the search; one that is there is gone on with",
    )
    parser.add_argument(
        "--trials", required=True, type=count, metavar="N", help="trials in the end, earlier ones included (paper: 300)"
    )
    parser.add_argument(
        "--epochs", type=count, default=100, metavar="N", help="length of a trial (%(default)s, paper's)"
    )
    parser.add_argument(
        "--parameter", action="append", default=[], metavar="NAME",
        help="search this one, e.g. lr0 or mosaic; may be repeated; by default all of Table 3",
    )  # fmt: skip
    add_detector(parser)


def _sediment(arguments: argparse.Namespace) -> int:
    """Search the parameters of the multi-head network's training."""
    check_folders(arguments)

    from renalcore.sediment.search import search

    config = detector_config(arguments)
    with bar(arguments.trials, "trial") as progress:
        best = search(config, arguments.trials, parameters=tuple(arguments.parameter), done=lambda: progress.update(1))
    say(f"best parameters: {best}")
    return 0


FAMILY = Family(
    "search",
    "search the parameters of a training",
    (
        Command(
            "sediment",
            "search the parameters of the multi-head YOLOv12 around those of the paper, and draw its scatter plots",
            "renalcore search sediment --data fields/ --trials 300 --output runs/search",
            _sediment_arguments,
            _sediment,
        ),
    ),
)
