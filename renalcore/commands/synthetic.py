"""`renalcore synthetic`: draw labelled pictures."""

from __future__ import annotations

import argparse
from pathlib import Path

from renalcore.commands.command import Command, count, say


def _synthetic_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder to write to")
    parser.add_argument("--count", required=True, type=count, metavar="N", help="number of fields")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="another seed, other fields (%(default)s)")
    parser.add_argument("--size", type=count, default=640, metavar="PX", help="side of a field (%(default)s)")
    parser.add_argument("--workers", type=count, default=1, metavar="N", help="processes side by side (%(default)s)")


def _synthetic(arguments: argparse.Namespace) -> int:
    """Render fields with exact boxes of all 39 classes."""
    from renalcore.sediment.synthetic import write_dataset

    boxes = write_dataset(
        arguments.output,
        count=arguments.count,
        seed=arguments.seed,
        size_px=arguments.size,
        workers=arguments.workers,
    )
    say(f"{arguments.count} fields with {boxes} boxes in {arguments.output}")
    return 0


COMMAND = Command(
    "synthetic",
    "render sediment fields with exact boxes",
    "renalcore synthetic --output rendered --count 1000 --seed 1",
    _synthetic_arguments,
    _synthetic,
)
