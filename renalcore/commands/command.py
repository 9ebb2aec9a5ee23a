"""What a command is, and the arguments and answers that commands share.

Results go to files, progress and messages to stderr.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from renalcore import models
from renalcore.engine import devices
from renalcore.errors import InputError

SEDIMENT_MODEL = "sediment-multihead-n"
HISTOLOGY_MODEL = "histology-linknet-efficientnet-b0"
CT_MODEL = "ct-segresnet"


class Command(NamedTuple):
    """One command of a table: how it is called, what it takes and what runs it."""

    name: str
    help: str
    example: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


@dataclass(frozen=True, slots=True)
class Family:
    """Commands of one verb, one for each modality that exists."""

    name: str
    help: str
    commands: tuple[Command, ...]


def add_device(parser: argparse.ArgumentParser) -> None:
    """The option `--device`."""
    parser.add_argument(
        "--device",
        choices=devices.CHOICES,
        default="auto",
        help="what runs the network; auto is the fastest that is here, a named one is used or refused (%(default)s)",
    )


def add_models(parser: argparse.ArgumentParser) -> None:
    """The option `--models`."""
    parser.add_argument(
        "--models",
        type=Path,
        default=models.WEIGHTS,
        metavar="DIR",
        help="folder of models; by default RENAL_MODELS, or those that come with RenalCore",
    )


def micrometres(text: str) -> float:
    """An argument that is a length in um: more than none."""
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be more than 0, got {text}")
    return value


def share(text: str) -> float:
    """An argument between 0 and 1."""
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"must lie between 0 and 1, got {text}")
    return value


def part(text: str) -> float:
    """An argument that is a part of something: more than none, and 1 is all of it."""
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"must be more than 0 and at most 1, got {text}")
    return value


def count(text: str) -> int:
    """An argument that counts something: at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return value


def hours(text: str) -> float:
    """An argument that is a length of time: more than none."""
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be more than 0, got {text}")
    return value


def say(message: str) -> None:
    """A line for the person at the terminal."""
    sys.stderr.write(f"{message}\n")


def make_folder(folder: Path) -> None:
    """Make the folder for results, before hours go into what could not be written.

    Raises:
        InputError: There can be no folder: a file has its name, or nothing may be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = "a file has this name" if isinstance(error, FileExistsError | NotADirectoryError) else error.strerror
        raise InputError(
            f"{folder}: no folder for results can be made here ({reason}); give --output another place"
        ) from error


def status_of(refused: int, inputs: int, output: Path) -> int:
    """The exit status where `refused` of some inputs could not be used, with a line on what `output` then holds."""
    if refused:
        holds = f"{output} holds the others" if refused < inputs else "there is no result"
        say(f"{refused} of {inputs} inputs could not be used; {holds}")
    return 1 if refused else 0


def bar(total: int, unit: str) -> Any:
    """A progress bar on stderr."""
    from tqdm import tqdm  # type: ignore[import-untyped]

    return tqdm(total=total, unit=unit, file=sys.stderr, dynamic_ncols=True)
