"""`renalcore benchmark`: speed against the named peer, in the same run, as a ratio."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from renalcore.commands.command import (
    CT_MODEL,
    HISTOLOGY_MODEL,
    SEDIMENT_MODEL,
    Command,
    Family,
    add_device,
    add_models,
    bar,
    count,
)
from renalcore.export.figures import write_json


def _sediment_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", type=count, default=5, metavar="N", help="fields to search (%(default)s)")
    parser.add_argument("--size", type=count, default=1800, metavar="PX", help="side of a field (%(default)s)")
    parser.add_argument("--model", default=None, metavar="KEY", help=f"one of `models` ({SEDIMENT_MODEL})")
    add_models(parser)
    add_device(parser)
    parser.add_argument("--output", type=Path, default=None, metavar="FILE", help="write the figures as JSON as well")


def _sediment(arguments: argparse.Namespace) -> int:
    """Compare the speed with stock SAHI on Ultralytics and print the ratio."""
    from dataclasses import asdict

    from renalcore.sediment.benchmark import compare

    with bar(arguments.images, "field") as progress:
        measured = compare(
            images=arguments.images,
            size_px=arguments.size,
            model=arguments.model,
            root=arguments.models,
            device=arguments.device,
            done=lambda: progress.update(1),
        )
    sys.stdout.write(f"{measured}\n")
    if arguments.output is not None:
        write_json(arguments.output, asdict(measured))
    return 0


def _histology_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--slide", type=Path, metavar="FILE", help="a slide to search; by default two are drawn")
    parser.add_argument(
        "--size", type=count, default=40_000, metavar="PX",
        help="side of the larger drawn slide; one of half the side is searched first (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--peer", type=Path, metavar="PYTHON",
        help="the Python of an environment with TIAToolbox 2.1.3: it searches the (larger) slide with the same network",
    )  # fmt: skip
    parser.add_argument("--model", default=HISTOLOGY_MODEL, metavar="KEY", help="one of `models` (%(default)s)")
    add_models(parser)
    add_device(parser)
    parser.add_argument("--output", type=Path, default=None, metavar="FILE", help="write the figures as JSON as well")


def _histology(arguments: argparse.Namespace) -> int:
    """Search large slides and print how fast that was and what it took, here and in TIAToolbox."""
    from renalcore.histology import benchmark

    with bar(0, "tile") as progress:

        def told(done: int, of: int) -> None:
            if of != progress.total:
                progress.reset(of)
            progress.update(done - progress.n)

        measured = benchmark.run(
            arguments.model,
            slide=arguments.slide,
            size_px=arguments.size,
            device=arguments.device,
            root=arguments.models,
            peer=arguments.peer,
            progress=told,
        )
    sys.stdout.write(f"{measured}\n")
    if arguments.output is not None:
        write_json(arguments.output, measured.as_dict())
    return 0


def _ct_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--scan", type=Path, metavar="SCAN", help="a folder or a zip of DICOM, or a NIfTI file; by default one is drawn"
    )
    parser.add_argument(
        "--slices", type=count, default=280, metavar="N",
        help="of 512 x 512 px of the drawn scan, which is measured with half of them as well (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--network", metavar="NAME",
        help="measure this network of `train ct` with random weights; what the model said before is its answer",
    )  # fmt: skip
    parser.add_argument(
        "--width", type=count, default=32, metavar="N", help="of that network (%(default)s, the paper's)"
    )
    parser.add_argument("--model", default=CT_MODEL, metavar="KEY", help="one of `models` (%(default)s)")
    add_models(parser)
    add_device(parser)
    parser.add_argument("--output", type=Path, default=None, metavar="FILE", help="write the figures as JSON as well")


def _ct(arguments: argparse.Namespace) -> int:
    """Search a large scan and print what each stage took, against the networks alone."""
    from renalcore.ct import benchmark

    measured = benchmark.run(
        arguments.model,
        scan=arguments.scan,
        slices=arguments.slices,
        timed=None if arguments.network is None else (arguments.network, arguments.width),
        device=arguments.device,
        root=arguments.models,
    )
    sys.stdout.write(f"{measured}\n")
    if arguments.output is not None:
        write_json(arguments.output, measured.as_dict())
    return 0


FAMILY = Family(
    "benchmark",
    "measure speed, against the named peer where there is one",
    (
        Command(
            "sediment",
            "time fields here and in stock SAHI on Ultralytics",
            "renalcore benchmark sediment --images 10 --size 1800",
            _sediment_arguments,
            _sediment,
        ),
        Command(
            "histology",
            "time a slide of 40,000 x 40,000 px here and in TIAToolbox, and tell the memory it takes",
            "renalcore benchmark histology --size 40000 --peer ~/tiatoolbox/bin/python",
            _histology_arguments,
            _histology,
        ),
        Command(
            "ct",
            "time each stage from file to labels on a scan of 512 x 512 x 280, beside the networks alone",
            "renalcore benchmark ct --slices 280",
            _ct_arguments,
            _ct,
        ),
    ),
)
