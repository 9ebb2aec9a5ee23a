"""`renalcore predict`: find what is in pictures."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from renalcore.commands.command import (
    CT_MODEL,
    HISTOLOGY_MODEL,
    SEDIMENT_MODEL,
    Command,
    Family,
    add_device,
    add_models,
    bar,
    make_folder,
    micrometres,
    share,
    status_of,
)
from renalcore.errors import InputError, RenalError
from renalcore.export.figures import write_json

if TYPE_CHECKING:
    from renalcore.ct.predict import KidneyModel
    from renalcore.histology.predict import GlomerulusModel
    from renalcore.types import Field


def _sediment_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="a microscope field, of any image format")
    parser.add_argument("--output", required=True, type=Path, metavar="FILE", help="the JSON file to write")
    parser.add_argument("--model", default=SEDIMENT_MODEL, metavar="KEY", help="one of `models` (%(default)s)")
    add_models(parser)
    add_device(parser)
    parser.add_argument(
        "--min-score", type=share, metavar="S",
        help="leave out what scores below this; by default what the network itself scores below 0.05",
    )  # fmt: skip


def _sediment(arguments: argparse.Namespace) -> int:
    """Find the particles of some fields and write them to one JSON file."""
    _refuse_twins([path.name for path in arguments.images])
    if arguments.output.is_dir():
        raise InputError(f"{arguments.output} is a folder; --output names the JSON file to write")
    make_folder(arguments.output.parent)

    from renalcore.sediment.predict import SedimentDetector
    from renalcore.sediment.predictions import box_rows, image_row

    detector = SedimentDetector.load(arguments.model, device=arguments.device, root=arguments.models)
    images: list[dict[str, Any]] = []
    predictions: list[dict[str, Any]] = []
    refused = 0
    with bar(len(arguments.images), "field") as progress:
        for path, field in _read_ahead(arguments.images):
            if isinstance(field, Exception):
                refused += 1
                progress.write(str(field), file=sys.stderr)  # names the file
            else:
                start = time.perf_counter()
                found, best = detector.every_label(field, min_score=arguments.min_score)
                images.append(image_row(path.name, field, time.perf_counter() - start))
                predictions += box_rows(path.name, found, best)
            progress.update(1)
    write_json(arguments.output, {"model": detector.card.key, "images": images, "predictions": predictions})
    return status_of(refused, len(arguments.images), arguments.output)


def _refuse_twins(names: Sequence[str]) -> None:
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        raise InputError(
            f"several inputs are called {', '.join(twice)}, and results are told apart by file name: "
            "give them different names, or call the command once for each folder"
        )


def _histology_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "images", nargs="+", type=Path, metavar="IMAGE", help="a whole slide, or a picture of a section"
    )
    parser.add_argument(
        "--output", required=True, type=Path, metavar="DIR",
        help="folder for NAME.geojson, NAME.instances.png and NAME.json of each input",
    )  # fmt: skip
    parser.add_argument("--model", default=HISTOLOGY_MODEL, metavar="KEY", help="one of `models` (%(default)s)")
    add_models(parser)
    add_device(parser)
    parser.add_argument(
        "--um-per-px", type=micrometres, metavar="UM",
        help="micrometres a pixel of inputs that do not say; without it their measures stay in px",
    )  # fmt: skip
    parser.add_argument(
        "--species", choices=("human", "mouse", "rat", "other"), default="human",
        help="whose kidneys they are: where the scale is known, this says how large glomeruli are (%(default)s)",
    )  # fmt: skip


def _histology(arguments: argparse.Namespace) -> int:
    """Find the glomeruli of some slides and write three files for each."""
    _refuse_twins([path.stem for path in arguments.images])
    make_folder(arguments.output)

    from renalcore.histology.predict import GlomerulusModel

    model = GlomerulusModel.load(arguments.model, device=arguments.device, root=arguments.models)
    refused = 0
    with bar(len(arguments.images), "slide") as progress:
        for path in arguments.images:
            try:
                _search_slide(model, path, arguments, progress)
            except RenalError as error:
                refused += 1
                progress.write(str(error), file=sys.stderr)  # names the file
            progress.update(1)
    return status_of(refused, len(arguments.images), arguments.output)


def _search_slide(model: GlomerulusModel, path: Path, arguments: argparse.Namespace, progress: Any) -> None:
    from renalcore.histology import predictions
    from renalcore.histology.instances import join
    from renalcore.io.slide import open_slide

    start = time.perf_counter()
    with open_slide(path, um_per_px=arguments.um_per_px) as slide:
        blocks = model.blocks(slide, species=arguments.species)
        results = model.results(
            slide, blocks, progress=lambda done, of: progress.set_postfix_str(f"{path.name}: tile {done} of {of}")
        )
        predictions.write(
            arguments.output,
            path.stem,
            join(results),
            slide,
            card=model.card,
            downsample=blocks[0].layout.downsample,
            seconds=time.perf_counter() - start,
        )


def _ct_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "scans", nargs="+", type=Path, metavar="SCAN", help="a folder or a zip of DICOM, a DICOMDIR, or a NIfTI file"
    )
    parser.add_argument(
        "--output", required=True, type=Path, metavar="DIR",
        help="folder for labels.nii.gz, summary.json, lesions.csv and kidneys.csv; of several scans each gets a folder "
        "in it with its name",
    )  # fmt: skip
    parser.add_argument("--model", default=CT_MODEL, metavar="KEY", help="one of `models` (%(default)s)")
    add_models(parser)
    add_device(parser)
    parser.add_argument("--series", metavar="KEY", help="which series to read, where a scan holds several")
    parser.add_argument("--seg", action="store_true", help="write labels.dcm, a DICOM SEG of the series, as well")
    parser.add_argument("--stl", action="store_true", help="write a surface for each organ and side as well")


def _ct(arguments: argparse.Namespace) -> int:
    """Find kidneys, tumours and cysts of some scans, and write labels and measures of each."""
    several = len(arguments.scans) > 1
    names = [_stem(path) for path in arguments.scans]
    if several:
        _refuse_twins(names)
    make_folder(arguments.output)

    from renalcore.ct.predict import KidneyModel

    model = KidneyModel.load(arguments.model, device=arguments.device, root=arguments.models)
    refused = 0
    with bar(len(arguments.scans), "scan") as progress:
        for path, name in zip(arguments.scans, names, strict=True):
            folder = arguments.output / name if several else arguments.output
            try:
                _search_scan(model, path, folder, arguments, progress)
            except RenalError as error:
                refused += 1
                progress.write(str(error), file=sys.stderr)  # names the file
            progress.update(1)
    return status_of(refused, len(arguments.scans), arguments.output)


def _stem(path: Path) -> str:
    name = path.resolve().name
    suffix = next((end for end in (".nii.gz", ".nii", ".zip", ".dcm") if name.lower().endswith(end)), "")
    return name[: len(name) - len(suffix)]


def _search_scan(model: KidneyModel, path: Path, folder: Path, arguments: argparse.Namespace, progress: Any) -> None:
    from renalcore.ct import predictions
    from renalcore.io.volume import read_volume, slice_headers

    start = time.perf_counter()
    progress.set_postfix_str(f"{path.name}: reading")
    volume = read_volume(path, series=arguments.series)
    headers = slice_headers(path, series=arguments.series) if arguments.seg else []  # refused before the search
    found = model.search(
        volume, progress=lambda done, of: progress.set_postfix_str(f"{path.name}: pass {done} of {of}")
    )
    seconds = time.perf_counter() - start
    make_folder(folder)
    predictions.write(folder, found, volume, card=model.card, name=path.name, seconds=seconds)
    progress.write(f"{path.name}: {found.words}", file=sys.stderr)
    if not found.labels.any():
        return  # neither a surface nor a segment can be empty
    if arguments.stl:
        predictions.write_surfaces(folder, found, volume)
    if arguments.seg:
        predictions.write_seg(folder, found, volume, headers, card=model.card)


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


FAMILY = Family(
    "predict",
    "find what is in pictures",
    (
        Command(
            "sediment",
            "find the particles of urine-sediment fields",
            "renalcore predict sediment fields/*.jpg --output found.json --min-score 0.25",
            _sediment_arguments,
            _sediment,
        ),
        Command(
            "histology",
            "find the glomeruli of kidney slides",
            "renalcore predict histology biopsy.svs snapshot.jpg --output found",
            _histology_arguments,
            _histology,
        ),
        Command(
            "ct",
            "find kidneys, tumours and cysts of abdominal CT",
            "renalcore predict ct study/ scan.nii.gz --output found",
            _ct_arguments,
            _ct,
        ),
    ),
)
