"""The command line: `python -m renalcore`.

Results go to files, progress and messages to stderr. The exit status is 0 only when every input was processed; 1 when
some could not be, each named with the reason; 2 when the command itself was wrong. Heavy libraries are imported by the
commands that need them.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from renalcore import __version__, models
from renalcore.engine import devices
from renalcore.errors import InputError, RenalError

if TYPE_CHECKING:
    from renalcore.types import Detections, Field

SEDIMENT_MODEL = "sediment-multihead-n"


class Command(NamedTuple):
    """One command of a table: how it is called, what it takes and what runs it."""

    name: str
    help: str
    example: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; its exit status."""
    arguments = _parser().parse_args(argv)
    try:
        status: int = arguments.run(arguments)
    except (RenalError, OSError) as error:
        _say(f"renalcore: {error}")
        return 1
    except KeyboardInterrupt:
        _say("renalcore: stopped")
        return 130
    return status


# --- predict sediment -------------------------------------------------------------------------------------------------


def _predict_sediment_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="a microscope field, of any image format")
    parser.add_argument("--output", required=True, type=Path, metavar="FILE", help="the JSON file to write")
    parser.add_argument("--model", default=SEDIMENT_MODEL, metavar="KEY", help="one of `models` (%(default)s)")
    _add_models(parser)
    _add_device(parser)
    parser.add_argument(
        "--min-score", type=_share, default=0.05, metavar="S", help="leave out what scores below this (%(default)s)"
    )


def predict_sediment(arguments: argparse.Namespace) -> int:
    """Find the particles of some fields and write them to one JSON file."""
    twice = sorted(name for name, count in Counter(path.name for path in arguments.images).items() if count > 1)
    if twice:
        raise InputError(
            f"several inputs are called {', '.join(twice)}, and results are told apart by file name: "
            "give them different names, or call the command once for each folder"
        )
    arguments.output.parent.mkdir(parents=True, exist_ok=True)

    from renalcore.sediment.predict import SedimentDetector

    detector = SedimentDetector.load(arguments.model, device=arguments.device, root=arguments.models)
    images: list[dict[str, Any]] = []
    predictions: list[dict[str, Any]] = []
    refused = 0
    with _bar(len(arguments.images), "field") as bar:
        for path, field in _read_ahead(arguments.images):
            if isinstance(field, Exception):
                refused += 1
                bar.write(str(field), file=sys.stderr)  # names the file
            else:
                start = time.perf_counter()
                found = detector.predict(field, min_score=arguments.min_score)
                seconds = round(time.perf_counter() - start, 4)
                size = {"width": field.width_px, "height": field.height_px}
                images.append({"file_name": path.name, **size, "seconds": seconds})
                predictions += _rows(path.name, found)
            bar.update(1)
    _write_json(arguments.output, {"model": detector.card.key, "images": images, "predictions": predictions})
    if refused:
        _say(f"{refused} of {len(arguments.images)} inputs could not be used; {arguments.output} holds the others")
    return 1 if refused else 0


def _read_ahead(paths: Sequence[Path]) -> Iterator[tuple[Path, Field | RenalError]]:
    """Each input with its picture or the reason there is none, the next being decoded while one is searched."""
    from renalcore.io.image import read_field

    def read(path: Path) -> Field | RenalError:
        try:
            return read_field(path, name=path.name)
        except RenalError as error:
            return error

    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(read, paths[0])
        for index, path in enumerate(paths):
            field = coming.result()
            if index + 1 < len(paths):
                coming = pool.submit(read, paths[index + 1])
            yield path, field


def _rows(file_name: str, found: Detections) -> Iterator[dict[str, Any]]:
    from renalcore import taxonomy

    for name, score, (x1, y1, x2, y2) in zip(found.names, found.scores, found.boxes_px.astype(float), strict=True):
        yield {
            "file_name": file_name,
            "category": name,
            "group": taxonomy.particle(name).group.value,
            "bbox": [round(float(value), 2) for value in (x1, y1, x2 - x1, y2 - y1)],
            "score": round(float(score), 5),
        }


# --- train sediment ---------------------------------------------------------------------------------------------------


def _train_sediment_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", required=True, type=Path, metavar="DIR", help="real fields with labels")
    parser.add_argument(
        "--synthetic", action="append", default=[], type=Path, metavar="DIR", help="rendered fields; may be repeated"
    )
    parser.add_argument("--output", required=True, type=Path, metavar="RUN", help="folder of the run")
    parser.add_argument("--resume", action="store_true", help="go on from the run's last checkpoint")
    parser.add_argument("--scale", choices=("n", "s", "m", "l", "x"), default="n", help="size of YOLO12 (%(default)s)")
    parser.add_argument("--epochs", type=_count, default=None, metavar="N", help="length of the run")
    parser.add_argument("--hours", type=float, default=None, metavar="H", help="end after this time instead")
    parser.add_argument("--items", type=_count, default=None, metavar="N", help="crops an epoch")
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


def train_sediment(arguments: argparse.Namespace) -> int:
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
    _say(f"weights: {train(config)}")
    return 0


# --- synthetic --------------------------------------------------------------------------------------------------------


def _synthetic_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder to write to")
    parser.add_argument("--count", required=True, type=_count, metavar="N", help="number of fields")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="another seed, other fields (%(default)s)")
    parser.add_argument("--size", type=_count, default=640, metavar="PX", help="side of a field (%(default)s)")
    parser.add_argument("--workers", type=_count, default=1, metavar="N", help="processes side by side (%(default)s)")


def synthetic(arguments: argparse.Namespace) -> int:
    """Render fields with exact boxes of all 39 classes."""
    from renalcore.sediment.synthetic import write_dataset

    boxes = write_dataset(
        arguments.output,
        count=arguments.count,
        seed=arguments.seed,
        size_px=arguments.size,
        workers=arguments.workers,
    )
    _say(f"{arguments.count} fields with {boxes} boxes in {arguments.output}")
    return 0


# --- benchmark sediment -----------------------------------------------------------------------------------------------


def _benchmark_sediment_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", type=_count, default=5, metavar="N", help="fields to search (%(default)s)")
    parser.add_argument("--size", type=_count, default=1800, metavar="PX", help="side of a field (%(default)s)")
    parser.add_argument("--model", default=None, metavar="KEY", help=f"one of `models` ({SEDIMENT_MODEL})")
    _add_models(parser)
    _add_device(parser)
    parser.add_argument("--output", type=Path, default=None, metavar="FILE", help="write the figures as JSON as well")


def benchmark_sediment(arguments: argparse.Namespace) -> int:
    """Compare the speed with stock SAHI on Ultralytics and print the ratio."""
    from dataclasses import asdict

    from renalcore.sediment.benchmark import compare

    with _bar(arguments.images, "field") as bar:
        measured = compare(
            images=arguments.images,
            size_px=arguments.size,
            model=arguments.model,
            root=arguments.models,
            device=arguments.device,
            done=lambda: bar.update(1),
        )
    sys.stdout.write(f"{measured}\n")
    if arguments.output is not None:
        _write_json(arguments.output, asdict(measured))
    return 0


# --- models -----------------------------------------------------------------------------------------------------------


def _models_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("key", nargs="?", default=None, metavar="KEY", help="show this model's whole card")
    _add_models(parser)


def list_models(arguments: argparse.Namespace) -> int:
    """List the models, or show one card."""
    if arguments.key is not None:
        sys.stdout.write(models.card(arguments.key, arguments.models).to_json())
        return 0
    for card in models.all_cards(arguments.models):
        sys.stdout.write(
            f"{card.key}\n  {card.title}\n"
            f"  {card.modality} {card.task}, {card.architecture}, {card.date}\n"
            f"  {len(card.classes)} classes, {len(card.validated_classes)} of them validated on real pictures\n"
        )
        sys.stdout.writelines(f"  {figure.name} {figure.value:.3f} on {figure.on}\n" for figure in card.figures)
    return 0


# --- the tables -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Family:
    """Commands of one verb, one for each modality that exists."""

    name: str
    help: str
    commands: tuple[Command, ...]


FAMILIES: tuple[Family, ...] = (
    Family(
        "predict",
        "find what is in pictures",
        (
            Command(
                "sediment",
                "find the particles of urine-sediment fields",
                "renalcore predict sediment fields/*.jpg --output found.json --min-score 0.25",
                _predict_sediment_arguments,
                predict_sediment,
            ),
        ),
    ),
    Family(
        "train",
        "train a model",
        (
            Command(
                "sediment",
                "train the multi-head YOLOv12",
                "renalcore train sediment --data fields/ --synthetic rendered/ --output runs/first",
                _train_sediment_arguments,
                train_sediment,
            ),
        ),
    ),
    Family(
        "benchmark",
        "measure speed against the named peer",
        (
            Command(
                "sediment",
                "against stock SAHI on Ultralytics",
                "renalcore benchmark sediment --images 10 --size 1800",
                _benchmark_sediment_arguments,
                benchmark_sediment,
            ),
        ),
    ),
)

COMMANDS: tuple[Command, ...] = (
    Command(
        "synthetic",
        "render sediment fields with exact boxes",
        "renalcore synthetic --output rendered --count 1000 --seed 1",
        _synthetic_arguments,
        synthetic,
    ),
    Command("models", "list the models and show their cards", "renalcore models", _models_arguments, list_models),
)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="renalcore",
        description="RenalCore: models and measures for the renal laboratory. For research use only.",
        epilog=_examples(command for family in FAMILIES for command in family.commands),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"renalcore {__version__}")
    verbs = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for family in FAMILIES:
        verb = verbs.add_parser(
            family.name,
            help=family.help,
            description=f"{family.help.capitalize()}.",
            epilog=_examples(family.commands),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        kinds = verb.add_subparsers(title="modalities", required=True, metavar="MODALITY")
        for command in family.commands:
            _add_command(kinds, command)
    for command in COMMANDS:
        _add_command(verbs, command)
    return parser


def _add_command(parent: argparse._SubParsersAction[argparse.ArgumentParser], command: Command) -> None:
    parser = parent.add_parser(
        command.name,
        help=command.help,
        description=f"{command.help[0].upper()}{command.help[1:]}.",
        epilog=_examples([command]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_arguments(parser)
    parser.set_defaults(run=command.run)


def _examples(commands: Iterable[Command]) -> str:
    return "\n".join(("examples:", *(f"  {command.example}" for command in commands)))


# --- what the commands share ------------------------------------------------------------------------------------------


def _add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device",
        choices=devices.CHOICES,
        default="auto",
        help="what runs the network; auto is the fastest that is here, a named one is used or refused (%(default)s)",
    )


def _add_models(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--models",
        type=Path,
        default=models.WEIGHTS,
        metavar="DIR",
        help="folder of models; by default those that come with RenalCore",
    )


def _share(text: str) -> float:
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"must lie between 0 and 1, got {text}")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return value


def _say(message: str) -> None:
    sys.stderr.write(f"{message}\n")


def _bar(total: int, unit: str) -> Any:
    from tqdm import tqdm  # type: ignore[import-untyped]

    return tqdm(total=total, unit=unit, file=sys.stderr, dynamic_ncols=True)


def _write_json(path: Path, content: Any) -> None:
    """Write so that a reader never sees half a file."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(path)
