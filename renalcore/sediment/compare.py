"""Comparison of methods under one budget: Tables 4, 5 and 6 of Alizadeh et al. (2025), on one's own fields.

Every method is trained on the same fields and crops with the same seed, for the same epochs or hours, from random
weights; is evaluated on the same held-out fields by `renalcore.sediment.evaluate`; and stands in a table beside what
the paper printed for it. The paper trained on OpenUrine, which is not public, for 300 epochs: the order of its rows can
be compared with the order here, its figures cannot.

What the paper leaves open is decided so:

* SAHI is the search of `renalcore.sediment.slicing` in slices of 640 px with an overlap of a quarter; without it a
  field is searched in one piece. A network that was trained on whole fields sees fields and slices fitted into the
  size it was trained at, as Ultralytics would show them; one that was trained on crops sees them as they are.
* Self-supervision needs the YOLO12 backbone, so YOLO11, YOLOv8 and RT-DETR are without it. A backbone is pretrained
  once for each size, as long as a detector is trained, which the budget of a row does not count.
* A removed head (Table 5) leaves its classes to the head of Others.
* RT-DETR is trained by AdamW at its authors' rates, for those of a YOLO make it diverge; all else is as for the others.
* Tables 5 and 6 are of the size asked for; the paper's are of YOLO12-m and YOLO12-n.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from renalcore.export import figures
from renalcore.export.figures import with_deviation
from renalcore.runs import metrics_table
from renalcore.runs.comparison import check_settings, made_once
from renalcore.sediment import evaluate
from renalcore.sediment.card import OBJECTS_TO_VALIDATE
from renalcore.sediment.data import PAPER
from renalcore.sediment.evaluate import Averages
from renalcore.sediment.methods import Method, Printed, Table, printed
from renalcore.sediment.networks import Scale, build_network, complexity
from renalcore.sediment.predict import SedimentDetector
from renalcore.sediment.pretrain import PretrainConfig, pretrain
from renalcore.sediment.readers import LabelledField, read_fields
from renalcore.sediment.slicing import STANDARD
from renalcore.sediment.train import FINISHED, TrainConfig, train

WHOLE: Final = replace(STANDARD, one_pass_share=math.inf)
"""Without SAHI: a field is one slice, however large."""

SAHI: Final = replace(STANDARD, one_pass_share=1.0)
"""With SAHI: an axis longer than a slice is cut."""

FIGURES: Final = ("precision", "recall", "mAP50", "mAP50-95")
_COMMON: Final = f"of classes with {OBJECTS_TO_VALIDATE} objects"


RTDETR: Final = MappingProxyType({"optimizer": "AdamW", "lr0": 1e-4, "momentum": 0.9, "weight_decay": 1e-4})
"""What RT-DETR is trained with (Zhao et al., 2024, section 5)."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """What the rows of a comparison have in common.

    Attributes:
        config: The training of each row: data, crops, budget. Its `output` is the folder of the comparison; its
            network, scale, start, seed and times of validation are chosen here.
        seeds: Each row is trained once with each.
        unlabelled: Pictures to pretrain backbones on; None: those of the training fields, without their labels.
        device: What searches, as in `predict`.
    """

    config: TrainConfig
    seeds: tuple[int, ...] = (0,)
    unlabelled: Path | None = None
    device: str = "auto"

    def settings(self) -> dict[str, Any]:
        """What decides a row's figures, apart from the row itself."""
        own = ("network", "scale", "start", "seed", "validate_every")
        settings = {name: value for name, value in self.config.settings().items() if name not in own}
        return {**settings, "unlabelled": self.unlabelled.resolve().name if self.unlabelled else None}

    def training(self, method: Method, seed: int) -> TrainConfig:
        """The training of a row, which begins with its pretrained backbone if it has one."""
        config = replace(
            self.config,
            output=self.config.output / method.run / f"seed-{seed}",
            network=method.network,
            scale=method.scale,
            start=self.pretraining(method.scale).weights if method.pretrained else None,
            seed=seed,
            validate_every=0,
        )
        if method.network == "rtdetr":
            config = replace(config, **RTDETR)  # type: ignore[arg-type]  # floats and a name
        if method.input_px is not None:
            augmentation = config.augmentation if config.augmentation.whole else PAPER
            config = replace(config, size_px=method.input_px, augmentation=augmentation)
        return replace(config, resume=config.checkpoint.is_file() and not (config.output / FINISHED).is_file())

    def pretraining(self, scale: Scale) -> PretrainConfig:
        """The pretraining of the backbone of one size, with the budget of a row."""
        config = self.config
        made = PretrainConfig(
            data=self.unlabelled or config.data,
            output=config.output / f"pretrain-{scale}",
            scale=scale,
            size_px=config.size_px,
            batch=config.batch,
            epochs=config.epochs,
            hours=config.hours,
            items=config.items,
            seed=self.seeds[0],
        )
        return replace(made, resume=made.checkpoint.is_file())


def compare(
    comparison: Comparison, rows: Sequence[Method], *, table: Table, done: Callable[[], object] = lambda: None
) -> Path:
    """Train and evaluate what is not there yet, and write the table.

    The folder then holds a run for each training, `METHOD/seed-N`, with the evaluation of each way to search in
    `whole` and `sahi`; the pretrained backbones; and `tableN.csv` and `tableN.md`, written anew after each row. A row
    that is there is not made again, an interrupted one goes on.

    Args:
        comparison: What the rows have in common.
        rows: The rows, in the order of the table.
        table: 4, 5 or 6.
        done: Called after each row and seed.

    Returns:
        The Markdown file; the CSV lies beside it.

    Raises:
        InputError: The folder holds a comparison with other settings, or the data cannot be read.
        ModelError: A network does not come in the size asked for.
    """
    folder = comparison.config.output
    folder.mkdir(parents=True, exist_ok=True)
    check_settings(comparison.settings(), folder / "comparison.json")
    data = read_fields(comparison.config.data, comparison.config.reading)
    training, held_out = data.sides(comparison.config.held_out)

    def file_of(method: Method, seed: int) -> Path:
        return folder / method.run / f"seed-{seed}" / _search(method) / "result.json"

    def make(method: Method, seed: int) -> dict[str, Any]:
        if method.pretrained and not comparison.pretraining(method.scale).weights.is_file():
            pictures = () if comparison.unlabelled else tuple(field.path for field in training)
            pretrain(replace(comparison.pretraining(method.scale), pictures=pictures))
        return _measured(comparison, method, seed, held_out, file_of(method, seed).parent)

    def write(results: Sequence[tuple[Method, Sequence[Mapping[str, Any]]]]) -> None:
        found = [table_row(method, of_seeds, printed(method, table)) for method, of_seeds in results]
        figures.write_records(folder / f"table{table}.csv", found)
        text = f"{markdown(found)}\n{_notes(comparison, table, len(held_out))}"
        (folder / f"table{table}.md").write_text(text, encoding="utf-8")

    made_once(rows, comparison.seeds, file_of=file_of, make=make, write=write, done=done)
    return folder / f"table{table}.md"


def _search(method: Method) -> str:
    return "sahi" if method.sliced else "whole"


def _measured(
    comparison: Comparison, method: Method, seed: int, fields: Sequence[LabelledField], folder: Path
) -> dict[str, Any]:
    """Train a row where that has not been done, search the held-out fields; the figures, details in `folder`."""
    config = comparison.training(method, seed)
    if not (config.output / FINISHED).is_file():
        train(config)
    key = f"sediment-{method.network}-{method.scale}"
    detector = SedimentDetector.load(key, device=comparison.device, root=config.output)
    detector = detector.searching(
        SAHI if method.sliced else WHOLE, fit_px=config.size_px if config.augmentation.whole else None
    )
    found = evaluate.detect(detector, fields)
    evaluation = evaluate.evaluate(fields, found, classes=detector.card.classes)
    folder.mkdir(parents=True, exist_ok=True)
    about = {"model": key, "weights_sha256": detector.card.sha256, "method": method.name}
    evaluate.write(evaluation, folder, about=about)
    (folder / "predictions.json").write_text(json.dumps(found), encoding="utf-8")

    network = build_network(method.network, method.scale)
    parameters, gflops = complexity(network, size_px=method.input_px or 640)
    trained = json.loads((config.output / FINISHED).read_text(encoding="utf-8"))
    pretraining = comparison.pretraining(method.scale).output / "metrics.csv"
    return {
        "seed": seed,
        **_figures(evaluation.unweighted),
        **{f"{name} {_COMMON}": value for name, value in _figures(evaluation.unweighted_validated).items()},
        "parameters": parameters,
        "gflops": round(gflops, 3),
        "ms": round(1000 * statistics.median(image["seconds"] for image in found["images"]), 1),
        "device": str(detector.device),
        "epochs": trained["epoch"],
        "crops": trained["epoch"] * config.items,
        "hours": metrics_table.trained_s(config.output / "metrics.csv") / 3600,
        "pretraining_hours": metrics_table.trained_s(pretraining) / 3600 if method.pretrained else 0.0,
        "optimizer": config.optimizer,
        "lr0": config.lr0,
        "input_px": config.size_px,
    }


def _figures(averages: Averages) -> dict[str, float | None]:
    """The figures of a row; None where none could be measured, for JSON has no nan."""
    values = (averages.precision, averages.recall, averages.ap50, averages.ap50_95)
    return {name: value if math.isfinite(value) else None for name, value in zip(FIGURES, values, strict=True)}


def table_row(method: Method, results: Sequence[Mapping[str, Any]], paper: Printed | None) -> dict[str, Any]:
    """The row of a table: means over the seeds, and their standard deviations (of a sample, n - 1).

    Args:
        method: The row.
        results: What each seed gave.
        paper: What the paper printed.
    """
    row: dict[str, Any] = {
        "method": method.name,
        "network": method.network,
        "scale": method.scale,
        "sahi": method.sliced,
        "self_supervised": method.pretrained,
        "input_px": results[0]["input_px"],
        "seeds": " ".join(str(result["seed"]) for result in results),
    }
    for name in (*FIGURES, *(f"{figure} {_COMMON}" for figure in FIGURES)):
        values = [result[name] for result in results if result[name] is not None]
        row[name] = statistics.mean(values) if values else math.nan
        row[f"{name} std"] = statistics.stdev(values) if len(values) > 1 else math.nan
    for name in ("parameters", "gflops"):
        row[name] = results[0][name]
    for name in ("ms", "epochs", "crops", "hours", "pretraining_hours"):
        row[name] = round(statistics.mean(result[name] for result in results), 4)
    for name in ("device", "optimizer", "lr0"):
        row[name] = results[0][name]
    for name, value in zip(FIGURES, paper or (math.nan,) * 4, strict=True):
        row[f"paper {name}"] = value / 100
    return row


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """A table for people: figures in per cent, what the paper printed in brackets."""
    head = ["method", *FIGURES, f"mAP50 {_COMMON}", "M parameters", "GFLOPs", "ms an image", "epochs", "crops", "hours",
            "seeds"]  # fmt: skip
    table = [head]
    for row in rows:
        cells = [row["method"]]
        for name in FIGURES:
            paper = row[f"paper {name}"]
            cells.append(_per_cent(row, name) + ("" if math.isnan(paper) else f" ({100 * paper:.2f})"))
        cells += [_per_cent(row, f"mAP50 {_COMMON}"), f"{row['parameters'] / 1e6:.2f}", f"{row['gflops']:.1f}"]
        cells += [f"{row['ms']:.1f}", f"{row['epochs']:g}", f"{row['crops']:g}", f"{row['hours']:.2f}", row["seeds"]]
        table.append(cells)
    return figures.markdown(table)


def _per_cent(row: Mapping[str, Any], name: str) -> str:
    return with_deviation(row[name], row[f"{name} std"], digits=2, times=100)


def _notes(comparison: Comparison, table: Table, fields: int) -> str:
    config = comparison.config
    budget = f"{config.hours:g} hours" if config.hours else f"{config.epochs} epochs of {config.items} crops"
    paper = {4: "the paper's", 5: "the paper's, of YOLO12-m", 6: "the paper's, of YOLO12-n"}[table]
    return (
        f"Unweighted means over the classes of {fields} held-out fields of {config.data.resolve().name}, in per cent; "
        f"precision and recall at each class's best F1. Each row was trained for {budget}"
        f"{'' if table == 6 else f' of {config.size_px} px'}. GFLOPs at {'its size' if table == 6 else '640 px'}. In "
        f"brackets {paper}, on OpenUrine after 300 epochs.\n"
    )
