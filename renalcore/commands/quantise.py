"""`renalcore quantise`: make the INT8 form of a model, for CPUs."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from renalcore import models
from renalcore.commands.command import SEDIMENT_MODEL, Command, Family, add_models, bar, count, say
from renalcore.errors import InputError, ModelError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CUT_PX: Final = 512
"""Side of a cut. A multiple of 32, as the network takes; below the height of the smallest cameras' fields."""


def _sediment_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default=SEDIMENT_MODEL, metavar="KEY", help="one of `models` (%(default)s)")
    add_models(parser)
    parser.add_argument(
        "--calibration", type=Path, metavar="DIR",
        help="a folder of fields like yours: cuts of them set the ranges of INT8, besides the rendered ones",
    )  # fmt: skip
    parser.add_argument(
        "--pictures", type=count, default=32, metavar="N",
        help="rendered cuts, and as many of --calibration (%(default)s)",
    )  # fmt: skip


def _sediment(arguments: argparse.Namespace) -> int:
    """Make the INT8 form of a multi-head detector, which `--device openvino-int8` runs."""
    card = models.card(arguments.model, arguments.models)
    weights = models.weights_path(card, arguments.models)
    if card.network != "multihead":
        raise ModelError(f"only multi-head detectors have an INT8 form, and {card.key} is a {card.network}")

    from renalcore.datasets.pictures import find_pictures
    from renalcore.sediment import runners

    real: tuple[Path, ...] = ()
    if arguments.calibration is not None:
        found = find_pictures(arguments.calibration)
        real = found[:: max(1, len(found) // arguments.pictures)][: arguments.pictures]  # from the whole folder
        if not real:
            raise InputError(f"{arguments.calibration} holds no picture; --calibration names a folder of fields")
    pictures = []
    with bar(arguments.pictures + len(real), "cut") as progress:
        for picture in _cuts(arguments.pictures, real):
            pictures.append(picture)
            progress.update(1)
    path = runners.quantise(card.scale, weights, card.sha256, pictures)
    say(f"INT8 form of {card.key}: {path}")
    say("run it with --device openvino-int8; `renalcore evaluate sediment` with it tells what the rounding costs")
    return 0


def _cuts(rendered: int, real: tuple[Path, ...]) -> Iterator[NDArray[np.uint8]]:
    """Rendered pictures, then a cut from somewhere in each real one, `(CUT_PX, CUT_PX, 3)`; the same every time."""
    import numpy as np

    from renalcore.datasets.pictures import read_rgb
    from renalcore.sediment.synthetic import render

    for seed in range(rendered):
        yield render(CUT_PX, CUT_PX, rng=np.random.default_rng(seed)).pixels
    rng = np.random.default_rng(0)
    for path in real:
        pixels = read_rgb(path)
        short = [(0, max(0, CUT_PX - length)) for length in pixels.shape[:2]]
        pixels = np.pad(pixels, (*short, (0, 0)), mode="symmetric")
        y, x = (int(rng.integers(length - CUT_PX + 1)) for length in pixels.shape[:2])
        yield pixels[y : y + CUT_PX, x : x + CUT_PX]


FAMILY = Family(
    "quantise",
    "make the INT8 form of a model, which is faster on a CPU",
    (
        Command(
            "sediment",
            "make the INT8 form of a detector of fields in the cache of this machine; again after an update",
            "renalcore quantise sediment --calibration fields/",
            _sediment_arguments,
            _sediment,
        ),
    ),
)
