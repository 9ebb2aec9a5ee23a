"""`renalcore compare`: methods against each other under one budget."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from renalcore.commands.command import Command, Family, add_device, bar, count, say
from renalcore.commands.reading import add_slide_reading, reading, slide_reading
from renalcore.commands.train import add_crops, add_recipe, add_run, check_folders, sizes
from renalcore.errors import InputError


def _sediment_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--table", required=True, type=int, choices=(4, 5, 6),
        help="of the paper: 4 methods, 5 heads left out, 6 input sizes",
    )  # fmt: skip
    parser.add_argument(
        "--row", action="append", default=[], metavar="NAME",
        help="make this row alone, e.g. multihead-n+sahi or 'yolo12-n*'; may be repeated; by default the usual ones",
    )  # fmt: skip
    parser.add_argument("--list", action="store_true", help="name the rows and what the paper printed, train nothing")
    parser.add_argument(
        "--scale", choices=("n", "s", "m", "l", "x"), default="n", help="size in tables 5 and 6 (%(default)s)"
    )
    add_run(parser, "real fields with labels")
    add_crops(parser)
    add_recipe(parser)
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0], metavar="N",
        help="train each row with each of these; the table then has mean and deviation (0)",
    )  # fmt: skip
    parser.add_argument(
        "--unlabelled", type=Path, metavar="DIR",
        help="pictures to pretrain backbones on; by default those of the training fields",
    )  # fmt: skip
    add_device(parser)


def _sediment(arguments: argparse.Namespace) -> int:
    """Train and evaluate the rows of a table that are not there yet, and print the table."""
    check_folders(arguments)
    if arguments.unlabelled is not None and not arguments.unlabelled.is_dir():
        raise InputError(f"{arguments.unlabelled} is not a folder; --unlabelled names a folder of pictures")

    from renalcore.sediment import compare, methods
    from renalcore.sediment.train import TrainConfig, paper_recipe

    rows = methods.methods(arguments.table, arguments.row, scale=arguments.scale)
    if arguments.list:
        for row in rows:
            paper = methods.printed(row, arguments.table)
            words = "not in the paper" if paper is None else "P {} R {} mAP50 {} mAP50-95 {}".format(*paper)
            sys.stdout.write(f"{row.name:<46} {words}\n")
        return 0
    config = TrainConfig(
        data=arguments.data,
        output=arguments.output,
        rendered=tuple(arguments.synthetic),
        hours=arguments.hours,
        licence=arguments.licence,
        held_out=tuple(arguments.hold_out),
        reading=reading(arguments),
        normaliser=arguments.normaliser,
        optimizer=arguments.optimizer,
    )
    if arguments.recipe == "paper":
        config = paper_recipe(config)
    comparison = compare.Comparison(
        replace(config, **sizes(arguments)), tuple(arguments.seeds), arguments.unlabelled, arguments.device
    )
    with bar(len(rows) * len(arguments.seeds), "row") as progress:
        table = compare.compare(comparison, rows, table=arguments.table, done=lambda: progress.update(1))
    sys.stdout.write(table.read_text(encoding="utf-8"))
    say(f"table: {table}, {table.with_suffix('.csv').name}")
    return 0


def _histology_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--row", action="append", default=[], metavar="NAME",
        help="make this row alone, e.g. linknet-efficientnet-b0+ssl or 'linknet-*'; may be repeated; by default the "
        "baseline and the networks of both papers",
    )  # fmt: skip
    parser.add_argument("--list", action="store_true", help="name the rows and what the papers printed, train nothing")
    add_run(parser, "slides with outlined glomeruli")
    parser.add_argument("--folds", type=count, default=5, metavar="N", help="of whole groups (%(default)s)")
    parser.add_argument(
        "--recipe", choices=("scratch", "thesis", "mouse"), default="scratch",
        help="ours, that of the thesis, or that of the mouse paper, for every row (%(default)s)",
    )  # fmt: skip
    parser.add_argument("--items", type=count, default=None, metavar="N", help="tiles an epoch; by default 4 a slide")
    parser.add_argument("--size", type=count, default=None, metavar="PX", help="side of a tile, a multiple of 32")
    parser.add_argument(
        "--glomerulus", type=count, default=None, metavar="PX",
        help="diameter at which glomeruli are shown, in the middle of the zooms; fewer px take less time and see less "
        "(96)",
    )  # fmt: skip
    parser.add_argument("--batch", type=count, default=None, metavar="N", help="tiles a step")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of tiles and weights (%(default)s)")
    parser.add_argument(
        "--unlabelled", type=Path, metavar="DIR",
        help="slides to pretrain encoders on, for rows named `+ssl`; by default those of --data",
    )  # fmt: skip
    add_slide_reading(parser)
    add_device(parser)


def _histology(arguments: argparse.Namespace) -> int:
    """Train and evaluate the rows and folds that are not there yet, and print the table."""
    if not arguments.data.is_dir():
        raise InputError(f"{arguments.data} is not a folder; --data names a folder of slides with outlined glomeruli")
    if arguments.unlabelled is not None and not arguments.unlabelled.is_dir():
        raise InputError(f"{arguments.unlabelled} is not a folder; --unlabelled names a folder of slides")

    from renalcore.histology import compare
    from renalcore.histology.methods import MOUSE, THESIS
    from renalcore.histology.train import TrainConfig, with_recipe

    rows = compare.methods(arguments.row)
    if arguments.list:
        for row in rows:
            mouse, dice = MOUSE.get(row.network), THESIS.get(row.network)
            words = "not in the papers" if row.network not in {*THESIS, *MOUSE} else "in the thesis, its figure is lost"
            if dice is not None:
                words = f"Dice {dice}"
            if mouse is not None:
                figures = (mouse.dice.mean, mouse.jaccard.mean, mouse.delta_glomeruli.mean)
                words = "Dice {} Jaccard {} Delta-glomeruli {}".format(*figures)
            sys.stdout.write(f"{row.name:<32} {words}\n")
        return 0
    config = TrainConfig(
        data=arguments.data,
        output=arguments.output,
        hours=arguments.hours,
        licence=arguments.licence,
        reading=slide_reading(arguments),
        seed=arguments.seed,
    )
    config = replace(with_recipe(config, arguments.recipe), **sizes(arguments))
    if arguments.glomerulus is not None:
        config = replace(config, augmentation=config.augmentation.showing(arguments.glomerulus))
    comparison = compare.Comparison(config, arguments.folds, arguments.unlabelled, arguments.device)
    with bar(len(rows) * arguments.folds, "fold") as progress:
        table = compare.compare(comparison, rows, done=lambda: progress.update(1))
    sys.stdout.write(table.read_text(encoding="utf-8"))
    say(f"table: {table}, {table.with_suffix('.csv').name}")
    return 0


FAMILY = Family(
    "compare",
    "compare methods under one budget",
    (
        Command(
            "sediment",
            "make the paper's Tables 4 to 6 with labelled fields",
            "renalcore compare sediment --table 4 --data fields/ --epochs 20 --output runs/compared",
            _sediment_arguments,
            _sediment,
        ),
        Command(
            "histology",
            "cross-validate the networks of both papers on labelled slides",
            "renalcore compare histology --data slides/ --epochs 10 --output runs/compared",
            _histology_arguments,
            _histology,
        ),
    ),
)
