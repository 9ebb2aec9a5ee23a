"""Comparison of the networks of both papers under one budget, in grouped cross-validation on one's own slides.

Every network is trained on the same slides and tiles with the same seed, for the same epochs or hours, once for each
fold; finds the glomeruli of the slides that the fold held out; and stands in tables as the papers print them: Tables 2
and 3 of the thesis, Table 1 and Figs. 1 and 2 of the mouse paper. The papers trained longer, from ImageNet, on slides
that are not here: the order of their rows can be compared with the order here, their figures cannot.

What the papers leave open is decided so:

* All networks are trained by one recipe, for its augmentations and its loss are not what is compared.
* Slides are shown at the size that the labels say their glomeruli have, as in the papers, whose slides have one scale.
* A pixel counts from the probability that is best for the slides of the fold, as in section 5.5 of the thesis: all
  figures are flattered alike.
* All begin from random weights, for there are none of ImageNet here; `+ssl` from an encoder that was pretrained once,
  without labels, as long as a row is trained, which its budget does not count. It has seen the slides of all folds.
* `butterworth` is the thesis' baseline, which learns nothing; it too is told the size of glomeruli.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np

from renalcore.datasets.findings import counted
from renalcore.errors import InputError
from renalcore.export import figures
from renalcore.export.figures import with_deviation
from renalcore.histology import butterworth, evaluate, judging, tables
from renalcore.histology.annotations import LabelledSlide, read_slides
from renalcore.histology.data import REFERENCE_PX
from renalcore.histology.evaluate import Evaluation, Round
from renalcore.histology.judging import JudgedSlide
from renalcore.histology.methods import MOUSE, THESIS
from renalcore.histology.networks import NETWORKS, parameters_of
from renalcore.histology.predict import GlomerulusModel
from renalcore.histology.pretrain import PretrainConfig, pretrain
from renalcore.histology.train import FINISHED, TrainConfig, train
from renalcore.io.slide import open_slide
from renalcore.metrics.segmentation import Spread
from renalcore.runs import metrics_table
from renalcore.runs.comparison import check_settings, chosen, made_once

BUTTERWORTH: Final = "butterworth"

_FILTERED_PX: Final = 64.0
"""Diameter of a glomerulus in the picture that the band-pass is shown; it reduces it further."""

_LEAST_PX: Final = 4.0
"""What the band-pass takes at the least."""

_OWN: Final = ("output", "network", "start", "resume", "held_out", "validate_every", "workers")
"""What a comparison chooses for each row, or what changes no figure."""


@dataclass(frozen=True, slots=True)
class Method:
    """A row of the comparison.

    Attributes:
        network: One of `NETWORKS`, or `BUTTERWORTH`.
        pretrained: Begins with an encoder that was pretrained without labels.
    """

    network: str
    pretrained: bool = False

    @property
    def name(self) -> str:
        """What it is called on the command line and in a table, e.g. `linknet-mobilenetv2+ssl`."""
        return f"{self.network}{'+ssl' if self.pretrained else ''}"

    @property
    def title(self) -> str:
        """Its name for people, as the papers have it."""
        if self.network == BUTTERWORTH:
            return "Butterworth band-pass"
        return f"{NETWORKS[self.network].title}{', pretrained' if self.pretrained else ''}"


METHODS: Final = (
    Method(BUTTERWORTH),
    *(Method(name, pretrained) for name, pretrained in product(NETWORKS, (False, True))),
)
USUAL: Final = tuple(
    method for method in METHODS if method.network in (BUTTERWORTH, *THESIS, *MOUSE) and not method.pretrained
)
"""The baseline and the networks of both papers."""


def methods(patterns: Sequence[str] = ()) -> list[Method]:
    """The rows that were asked for, by default those of both papers.

    Raises:
        UnknownName: A pattern fits no row.
    """
    return chosen(METHODS, patterns, usual=USUAL, of="the comparison")


@dataclass(frozen=True, slots=True)
class Comparison:
    """What the rows of a comparison have in common.

    Attributes:
        config: The training of each row and fold: data, tiles, budget. Its `output` is the folder of the comparison;
            its network, held-out groups and times of validation are chosen here.
        folds: How many folds.
        unlabelled: Slides to pretrain encoders on; None: those of the data, without their labels.
        device: What searches, as in `predict`.
    """

    config: TrainConfig
    folds: int = 5
    unlabelled: Path | None = None
    device: str = "auto"

    def settings(self) -> dict[str, Any]:
        """What decides a row's figures, apart from the row itself, as JSON has it."""
        told = {name: value for name, value in asdict(self.config).items() if name not in _OWN}
        settings: dict[str, Any] = json.loads(
            json.dumps({**told, "folds": self.folds, "unlabelled": self.unlabelled}, default=str)
        )
        return settings

    def training(self, method: Method, fold: int, held_out: tuple[str, ...]) -> TrainConfig:
        """The training of a row for one fold."""
        config = replace(
            self.config,
            output=self.config.output / method.name / f"fold-{fold}",
            network=method.network,
            held_out=held_out,
            start=self.pretraining(method).weights if method.pretrained else None,
            validate_every=0,
        )
        return replace(config, resume=config.checkpoint.is_file() and not (config.output / FINISHED).is_file())

    def pretraining(self, method: Method) -> PretrainConfig:
        """The pretraining of a row's encoder, with the budget of a row; rows of one encoder share it."""
        config = self.config
        made = PretrainConfig(
            data=self.unlabelled or config.data,
            output=config.output / f"pretrain-{NETWORKS[method.network].encoder}",
            network=method.network,
            size_px=config.size_px,
            batch=config.batch,
            epochs=config.epochs,
            hours=config.hours,
            items=config.items,
            seed=config.seed,
        )
        return replace(made, resume=made.checkpoint.is_file())


def compare(comparison: Comparison, rows: Sequence[Method], *, done: Callable[[], object] = lambda: None) -> Path:
    """Train and evaluate what is not there yet, and write the tables.

    The folder then holds a run for each training, `METHOD/fold-N`, with what it found; written anew after each fold,
    `comparison.csv` and `comparison.md` with a line a row and `table1.md` as in the mouse paper with a table a row; and
    at the end `overlap.png` and `delta.png`. A fold that is there is not made again, an interrupted one goes on.

    Args:
        comparison: What the rows have in common.
        rows: The rows, in the order of the tables.
        done: Called after each row and fold.

    Returns:
        The Markdown file with a line a row.

    Raises:
        InputError: The folder holds a comparison with other settings, or the data cannot be read or divided.
    """
    folder = comparison.config.output
    folder.mkdir(parents=True, exist_ok=True)
    check_settings(comparison.settings(), folder / "comparison.json")
    data = read_slides(comparison.config.data, comparison.config.reading)
    held_out = data.folds(comparison.folds)

    def file_of(method: Method, fold: int) -> Path:
        return folder / method.name / f"fold-{fold}" / "result.json"

    def make(method: Method, fold: int) -> dict[str, Any]:
        groups = held_out[fold - 1]
        slides, left_out = evaluate.judgeable(data.sides(groups)[1])
        if not slides:
            raise InputError(f"no slide of fold {fold} can be judged: {', '.join(left_out)}; take fewer folds")
        if method.network == BUTTERWORTH:
            return _filtered(slides, fold)
        if method.pretrained and not comparison.pretraining(method).weights.is_file():
            pretrain(comparison.pretraining(method))
        return _measured(comparison, comparison.training(method, fold, groups), slides, fold)

    def write(results: Sequence[tuple[Method, Sequence[Mapping[str, Any]]]]) -> None:
        evaluations = {method.name: _evaluation(of_folds) for method, of_folds in results}
        lines = [
            table_row(method, evaluations[method.name], of_folds, comparison.folds) for method, of_folds in results
        ]
        figures.write_records(folder / "comparison.csv", lines)
        (folder / "comparison.md").write_text(f"{markdown(lines)}\n{_notes(comparison)}", encoding="utf-8")
        printed = [
            f"{method.title}\n\n{tables.as_printed(tables.table1(evaluations[method.name], tiles=True))}"
            for method, _ in results
        ]
        (folder / "table1.md").write_text("\n".join(printed), encoding="utf-8")

    made = made_once(rows, range(1, comparison.folds + 1), file_of=file_of, make=make, write=write, done=done)
    tables.draw({method.name: _evaluation(of_folds) for method, of_folds in made}, folder)
    return folder / "comparison.md"


def _measured(
    comparison: Comparison, config: TrainConfig, slides: Sequence[LabelledSlide], fold: int
) -> dict[str, Any]:
    """Train a row for one fold where that has not been done, and judge what it finds."""
    if not (config.output / FINISHED).is_file():
        train(config)
    model = GlomerulusModel.load(config.key, device=comparison.device, root=config.output)
    rounds = [Round(str(fold), model, tuple(slides), ())]
    judged = evaluate.search_and_judge(rounds, config.output / "predictions", choose_threshold=True, told_size=True)
    trained = json.loads((config.output / FINISHED).read_text(encoding="utf-8"))
    return {
        "slides": [each.to_plain() for each in judged],
        "parameters": parameters_of(config.network),
        "epochs": trained["epoch"],
        "hours": metrics_table.trained_s(config.output / "metrics.csv") / 3600,
        "device": str(model.device),
    }


def _filtered(slides: Sequence[LabelledSlide], fold: int) -> dict[str, Any]:
    """Judge what the band-pass finds; on a slide of unknown size of glomeruli it finds nothing."""
    judged = []
    for slide in slides:
        width, height, _ = judging.judged_size(slide)
        labels = np.zeros((height, width), np.uint16)
        if slide.scale_px is not None:
            downsample = max(slide.scale_px / _FILTERED_PX, 1.0)
            across, down = (max(round(side / downsample), 1) for side in (slide.width_px, slide.height_px))
            with open_slide(slide.path) as opened:
                pixels = opened.read(0, 0, across, down, downsample=downsample)
            mask = butterworth.segment(pixels, diameter_px=max(slide.scale_px / downsample, _LEAST_PX))
            _, parts = cv2.connectedComponents(mask.astype(np.uint8))
            labels = cv2.resize(parts.astype(np.uint16), (width, height), interpolation=cv2.INTER_NEAREST)
        judged.append(judging.judge_labels(slide, labels, fold=str(fold)))
    return {
        "slides": [each.to_plain() for each in judged], "parameters": 0, "epochs": 0, "hours": 0.0, "device": "CPU",
    }  # fmt: skip


def _evaluation(results: Sequence[Mapping[str, Any]]) -> Evaluation:
    return Evaluation.of([JudgedSlide.from_plain(slide) for result in results for slide in result["slides"]])


def table_row(
    method: Method, evaluation: Evaluation, results: Sequence[Mapping[str, Any]], folds: int
) -> dict[str, Any]:
    """The row of a method: means over its folds, and their standard deviations (of a sample, n - 1).

    Args:
        method: The row.
        evaluation: All its folds together.
        results: What each fold gave.
        folds: How many folds there will be.
    """
    parts = evaluation.folds
    spreads = {
        "dice_automatic_threshold": Spread.of(part.slides.pixels.dice for part in parts),
        "f1": Spread.of(part.slides.instances.f1 for part in parts),
        "dice_per_slide": Spread.of(part.slides.dice.mean for part in parts),
        "dice_per_tile": Spread.of(part.tiles.dice.mean for part in parts),
        "jaccard_per_tile": Spread.of(part.tiles.jaccard.mean for part in parts),
        "delta_glomeruli_per_tile": Spread.of(part.tiles.delta_glomeruli.mean for part in parts),
    }
    mouse = MOUSE.get(method.network)
    row: dict[str, Any] = {"method": method.name, "title": method.title, "folds": f"{len(parts)} of {folds}"}
    for name, spread in spreads.items():
        row |= {name: spread.mean, f"{name}_std": spread.deviation}
    row |= {
        "parameters": results[0]["parameters"],
        "epochs": Spread.of(result["epochs"] for result in results).mean,
        "hours": Spread.of(result["hours"] for result in results).mean,
        "device": results[0]["device"],
        "paper_dice_automatic_threshold": THESIS.get(method.network),
        "paper_dice_per_tile": mouse.dice.mean if mouse else None,
        "paper_jaccard_per_tile": mouse.jaccard.mean if mouse else None,
        "paper_delta_glomeruli_per_tile": mouse.delta_glomeruli.mean if mouse else None,
    }
    return row


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """A table for people; what a paper printed in brackets."""
    shown = {
        "Dice": ("dice_automatic_threshold", 3),
        "F1": ("f1", 3),
        "Dice a slide": ("dice_per_slide", 3),
        "Dice a tile": ("dice_per_tile", 3),
        "Jaccard a tile": ("jaccard_per_tile", 3),
        "Delta-glomeruli a tile": ("delta_glomeruli_per_tile", 2),
    }
    table = [["network", *shown, "M parameters", "epochs", "hours a fold", "folds"]]
    for row in rows:
        cells = [str(row["title"])]
        for name, digits in shown.values():
            paper = row.get(f"paper_{name}")
            cell = with_deviation(row[name], row[f"{name}_std"], digits=digits)
            cells.append(cell if paper is None else f"{cell} ({paper:.{digits}f})")
        cells += [f"{row['parameters'] / 1e6:.1f}", f"{row['epochs']:g}", f"{row['hours']:.2f}", row["folds"]]
        table.append(cells)
    return figures.markdown(table)


def _notes(comparison: Comparison) -> str:
    config = comparison.config
    tiles = f" of {counted(config.items, 'tile')}" if config.items else ""
    budget = f"{config.hours:g} hours" if config.hours else f"{counted(config.epochs, 'epoch')}{tiles}"
    shown_px = config.augmentation.middle_zoom * REFERENCE_PX
    return (
        f"Means and deviations over the folds of {config.data.resolve().name}, divided by group. Each row was trained "
        f"for {budget} a fold in tiles of {config.size_px} px that show a glomerulus {shown_px:.0f} px across. "
        "Dice, F1: pixels and glomeruli of all slides of a fold, at the threshold best there; tiles of "
        f"{judging.TILE_PX} px. In brackets the papers', on other slides.\n"
    )
