"""`renalcore train`: make a model."""

from __future__ import annotations

import argparse
from pathlib import Path

from renalcore.commands.command import Command, Family, count, say
from renalcore.errors import InputError


def _sediment_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", required=True, type=Path, metavar="DIR", help="real fields with labels")
    parser.add_argument(
        "--synthetic", action="append", default=[], type=Path, metavar="DIR", help="rendered fields; may be repeated"
    )
    parser.add_argument("--output", required=True, type=Path, metavar="RUN", help="folder of the run")
    parser.add_argument("--resume", action="store_true", help="go on from the run's last checkpoint")
    parser.add_argument("--scale", choices=("n", "s", "m", "l", "x"), default="n", help="size of YOLO12 (%(default)s)")
    parser.add_argument("--epochs", type=count, default=None, metavar="N", help="length of the run")
    parser.add_argument("--hours", type=float, default=None, metavar="H", help="end after this time instead")
    parser.add_argument("--items", type=count, default=None, metavar="N", help="crops an epoch")
    parser.add_argument("--start", type=Path, metavar="FILE", help="safetensors to begin from, of an earlier stage")
    parser.add_argument(
        "--hold-out", action="append", default=[], metavar="GROUP",
        help="validate on this sample instead of the manifest's split; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--normaliser", choices=("head", "batch"), default="head",
        help="heads pull the backbone alike, as in the paper, or by their objects (%(default)s)",
    )  # fmt: skip
    parser.add_argument("--optimizer", choices=("SGD", "AdamW"), default="SGD", help="(%(default)s, the paper's)")
    parser.add_argument("--lr0", type=float, default=None, metavar="RATE", help="first learning rate")
    parser.add_argument("--licence", default="not stated", metavar="WORDS", help="of the real fields, for the card")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of crops and weights (%(default)s)")


def _sediment(arguments: argparse.Namespace) -> int:
    """Train the multi-head network."""
    for folder in (arguments.data, *arguments.synthetic):
        if not folder.is_dir():
            raise InputError(f"{folder} is not a folder; --data and --synthetic name folders of fields with labels")

    from renalcore.sediment.train import TrainConfig, train

    chosen = {name: getattr(arguments, name) for name in ("epochs", "items", "lr0") if getattr(arguments, name)}
    config = TrainConfig(
        data=arguments.data,
        output=arguments.output,
        rendered=tuple(arguments.synthetic),
        scale=arguments.scale,
        hours=arguments.hours,
        resume=arguments.resume,
        start=arguments.start,
        held_out=tuple(arguments.hold_out),
        normaliser=arguments.normaliser,
        optimizer=arguments.optimizer,
        licence=arguments.licence,
        seed=arguments.seed,
        **chosen,
    )
    say(f"weights: {train(config)}")
    return 0


FAMILY = Family(
    "train",
    "train a model",
    (
        Command(
            "sediment",
            "train the multi-head YOLOv12",
            "renalcore train sediment --data fields/ --synthetic rendered/ --output runs/first",
            _sediment_arguments,
            _sediment,
        ),
    ),
)
