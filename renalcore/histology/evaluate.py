"""Evaluation of glomeruli found on labelled slides: the papers' tables, by slide and by tile, by stain and by group.

Figures are those of `renalcore.metrics.segmentation`. A slide is judged whole, in its own px, and again in tiles of
512 px, as Meconcelli et al. (ESANN 2022) have it: most tiles of a slide hold little or nothing, and both masks empty
count as 1, so that figures of tiles flatter. Both are told, and the slide's stand on the card.

What nobody knows is not judged: regions to ignore; where only some glomeruli were outlined, all that lies far from
them; and slides on which only the inside of glomeruli was outlined are left out.
"""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from renalcore import models
from renalcore.errors import InputError, UnreadableFile
from renalcore.export import figures
from renalcore.export.figures import plain, with_deviation, write_json, write_records, write_table
from renalcore.histology import plots, predictions
from renalcore.histology.fields import FieldReader
from renalcore.histology.instances import join
from renalcore.histology.methods import THESIS
from renalcore.histology.tiles import FULL, BlockResult
from renalcore.io.slide import open_slide
from renalcore.metrics import segmentation
from renalcore.metrics.segmentation import Agreement, BestDice, DiceCurve, Instances, Overlap, Spread, Summary

if TYPE_CHECKING:
    from renalcore.histology.annotations import LabelledSlide, Slides
    from renalcore.histology.glomeruli import Glomeruli
    from renalcore.histology.predict import GlomerulusModel

HELD_OUT: Final = "held_out.json"
"""What names the groups that a fold held out, in its folder."""

TILE_PX: Final = 512
"""Side of a tile of the mouse paper, section 2.1."""

_NO_SLIDES: Final = "there are no slides to evaluate on: check the data, and the split or the groups held out"

Kind = Literal["all", "fold", "stain", "group"]

Labels = NDArray[np.uint16]


@dataclass(frozen=True, slots=True)
class JudgedTile:
    """One tile of a slide.

    Attributes:
        x_px: Its left edge.
        y_px: Its upper edge.
        agreement: Its figures.
    """

    x_px: int
    y_px: int
    agreement: Agreement


@dataclass(frozen=True, slots=True)
class JudgedSlide:
    """What was found on one slide, judged by what an expert outlined.

    Attributes:
        name: Base name of its file.
        group: Its patient, animal or sample.
        stain: Its stain, `unknown` where nobody says it.
        fold: The fold that it was held out in; empty without folds.
        whole: Figures of the whole slide.
        tiles: Of its tiles.
        curve: Dice at each threshold, where the network's probabilities are known.
    """

    name: str
    group: str
    stain: str
    fold: str
    whole: Agreement
    tiles: tuple[JudgedTile, ...]
    curve: DiceCurve | None = None

    def to_plain(self) -> dict[str, Any]:
        """As JSON has it."""
        curve = self.curve
        told = None
        if curve is not None:
            told = [curve.thresholds.tolist(), curve.both.tolist(), curve.found.tolist(), curve.expert]
        return {**asdict(replace(self, curve=None)), "curve": told}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> JudgedSlide:
        """What `to_plain` gave."""
        curve = None
        if plain["curve"] is not None:
            thresholds, both, found, expert = plain["curve"]
            curve = DiceCurve(np.array(thresholds), np.array(both, np.int64), np.array(found, np.int64), expert)
        tiles = tuple(JudgedTile(tile["x_px"], tile["y_px"], _agreement(tile["agreement"])) for tile in plain["tiles"])
        return cls(**{**plain, "whole": _agreement(plain["whole"]), "tiles": tiles, "curve": curve})


def _agreement(plain: Mapping[str, Any]) -> Agreement:
    pixels, counts = Overlap(**plain["pixels"]), Instances(**plain["instances"])
    return Agreement(pixels, counts, plain["expert_components"], plain["found_components"])


@dataclass(frozen=True, slots=True)
class Part:
    """The figures of some of the slides.

    Attributes:
        kind: What the slides have in common.
        name: Which; empty for all.
        slides: Per slide and pooled.
        tiles: Per tile and pooled.
        best: Dice with automatic threshold selection, None where the probabilities are not known.
    """

    kind: Kind
    name: str
    slides: Summary
    tiles: Summary
    best: BestDice | None

    @classmethod
    def of(cls, kind: Kind, name: str, judged: Sequence[JudgedSlide]) -> Part:
        """The figures of `judged`."""
        curves = [each.curve for each in judged if each.curve is not None]
        return cls(
            kind,
            name,
            Summary.of([each.whole for each in judged]),
            Summary.of([tile.agreement for each in judged for tile in each.tiles]),
            sum(curves[1:], curves[0]).best if curves and len(curves) == len(judged) else None,
        )


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Everything measured on one set of slides.

    Attributes:
        slides: Each slide.
        all: All of them together.
        folds, stains, groups: By what they have in common; no folds where there was one model for all.
        left_out: Slides that cannot be judged, since only the inside of their glomeruli was outlined.
    """

    slides: tuple[JudgedSlide, ...]
    all: Part
    folds: tuple[Part, ...]
    stains: tuple[Part, ...]
    groups: tuple[Part, ...]
    left_out: tuple[str, ...] = ()

    @classmethod
    def of(cls, judged: Sequence[JudgedSlide], *, left_out: Sequence[str] = ()) -> Evaluation:
        """The figures of some judged slides.

        Raises:
            InputError: There is none.
        """
        if not judged:
            raise InputError("there are no slides to evaluate on: check the data, and the split or the groups held out")

        def parts(kind: Literal["fold", "stain", "group"]) -> tuple[Part, ...]:
            names = sorted({name for each in judged if (name := getattr(each, kind))})
            return tuple(
                Part.of(kind, name, [each for each in judged if getattr(each, kind) == name]) for name in names
            )

        return cls(
            tuple(judged), Part.of("all", "", judged), parts("fold"), parts("stain"), parts("group"), tuple(left_out)
        )


@dataclass(frozen=True, slots=True, eq=False)
class Searched:
    """What a network says of one slide, packed, so that the threshold can be chosen when all slides are searched.

    Attributes:
        results: The slide's blocks, as `BlockResult.to_bytes` packs them.
        curve: Dice at each threshold, in the px that the network was shown.
        seconds: What the search took.
    """

    results: tuple[bytes, ...]
    curve: DiceCurve
    seconds: float

    @classmethod
    def of(cls, model: GlomerulusModel, slide: LabelledSlide, *, told_size: bool = False) -> Searched:
        """Search one slide.

        Args:
            model: The model.
            slide: The slide.
            told_size: Show its glomeruli in the size that the labels give them, instead of looking for it.

        Raises:
            InputError: It cannot be read.
        """
        start = time.perf_counter()
        sizes_px, downsample = model.card.input.object_px, None
        if told_size and slide.scale_px and sizes_px is not None:
            downsample = slide.scale_px / math.sqrt(sizes_px[0] * sizes_px[1])
        with open_slide(slide.path, um_per_px=slide.um_per_px) as opened:
            results = list(model.results(opened, model.blocks(opened, downsample=downsample)))
        seconds = time.perf_counter() - start
        return cls(tuple(result.to_bytes() for result in results), _curve(slide, results), seconds)

    @property
    def downsample(self) -> float:
        """Level-0 px a pixel that the network was shown."""
        return BlockResult.from_bytes(self.results[0]).block.layout.downsample

    def found(self, min_score: float) -> Glomeruli:
        """The glomeruli where a pixel counts from the probability `min_score`."""
        return join(_at(BlockResult.from_bytes(packed), min_score) for packed in self.results)


def _at(result: BlockResult, min_score: float) -> BlockResult:
    block = replace(result.block, layout=replace(result.block.layout, min_score=min_score))
    return replace(result, block=block)


def _curve(slide: LabelledSlide, results: Sequence[BlockResult]) -> DiceCurve:
    layout = results[0].block.layout
    height, width = layout.rows.length_px, layout.columns.length_px
    sums = np.zeros((height, width), np.uint16)
    for result in results:
        sums[result.block.top_px : result.block.bottom_px] += result.sums[0]
    marked = FieldReader(slide).read(0, 0, width, height, downsample=layout.downsample)
    chance = (sums / np.float32(FULL)).clip(0, 1)
    return DiceCurve.of(chance[marked.known][None], marked.instances[marked.known][None])


@dataclass(frozen=True, slots=True, eq=False)
class Round:
    """A model and the slides that it is judged by.

    Attributes:
        fold: Which fold; empty without folds.
        model: The model.
        slides: None of them was trained on.
        left_out: Names of those that cannot be judged.
    """

    fold: str
    model: GlomerulusModel
    slides: tuple[LabelledSlide, ...]
    left_out: tuple[str, ...]


def folds_of(run: Path, data: Slides, *, device: str = "auto") -> list[Round]:
    """The folds of a run of `train histology --folds`, each with the slides of the groups that it held out.

    Args:
        run: The folder of the run, with `fold-1`, `fold-2` ...
        data: The data that it was trained on.
        device: What searches, as in `predict`.

    Raises:
        InputError: There are no folds, one is not finished, or the data lack a group that it held out.
    """
    from renalcore.histology.predict import GlomerulusModel

    folders = sorted(run.glob("fold-*"), key=lambda path: (len(path.name), path.name))
    if not folders:
        raise InputError(f"{run} holds no folds; give the folder of a run of `renalcore train histology --folds N`")
    rounds = []
    for folder in folders:
        told, cards = folder / HELD_OUT, models.all_cards(folder)
        if not told.is_file() or len(cards) != 1:
            raise InputError(f"{folder} is not finished: `renalcore train histology --folds N --resume` ends it")
        groups = json.loads(told.read_text(encoding="utf-8"))
        slides, left_out = judgeable(data.sides(groups)[1])
        model = GlomerulusModel.load(cards[0].key, device=device, root=folder)
        rounds.append(Round(folder.name.removeprefix("fold-"), model, tuple(slides), tuple(left_out)))
    return rounds


def made_by(folder: Path, slides: Sequence[LabelledSlide]) -> str:
    """The model that made stored predictions, as the first of them says; `unknown` where it says nothing."""
    for slide in slides[:1]:
        told = folder / f"{slide.path.stem}.json"
        if told.is_file():
            return str(json.loads(told.read_text(encoding="utf-8")).get("model", "unknown"))
    return "unknown"


def judgeable(slides: Iterable[LabelledSlide]) -> tuple[list[LabelledSlide], list[str]]:
    """The slides whose glomeruli are outlined whole, and the names of the others.

    Raises:
        InputError: Two slides have one name, apart from the suffix: their results could not be told apart.
    """
    slides = list(slides)
    stems = Counter(slide.path.stem for slide in slides)
    if twice := sorted(stem for stem, count in stems.items() if count > 1):
        raise InputError(
            f"several slides are called {', '.join(twice[:5])}, and results are told apart by name: rename them"
        )
    return (
        [slide for slide in slides if slide.known != "inside"],
        [slide.path.name for slide in slides if slide.known == "inside"],
    )


def search_and_judge(
    rounds: Sequence[Round],
    folder: Path,
    *,
    choose_threshold: bool,
    told_size: bool = False,
    done: Callable[[], object] = lambda: None,
) -> list[JudgedSlide]:
    """Search the slides of all rounds, write what was found and judge it.

    Args:
        rounds: The models and their slides.
        folder: Where results go, in the form of `predict histology`; it is made.
        choose_threshold: A pixel belongs to a glomerulus from the probability that is best for all slides together,
            instead of the one on its model's card.
        told_size: As in `Searched.of`.
        done: Called after each slide.

    Raises:
        InputError: There are no slides, or one cannot be read.
    """
    searched: list[list[Searched]] = []
    for each in rounds:
        searched.append([])
        for slide in each.slides:
            searched[-1].append(Searched.of(each.model, slide, told_size=told_size))
            done()
    curves = [answer.curve for answers in searched for answer in answers]
    if not curves:
        raise InputError(_NO_SLIDES)
    best = sum(curves[1:], curves[0]).best
    folder.mkdir(parents=True, exist_ok=True)
    judged = []
    for each, answers in zip(rounds, searched, strict=True):
        card = each.model.card
        min_score = best.threshold if choose_threshold else card.min_score_of(card.classes[0])
        for slide, answer in zip(each.slides, answers, strict=True):
            with open_slide(slide.path, um_per_px=slide.um_per_px) as opened:
                found, seconds = answer.found(min_score), answer.seconds
                predictions.write(
                    folder, slide.path.stem, found, opened, card=card, downsample=answer.downsample, seconds=seconds
                )
            judged.append(judge(slide, folder, fold=each.fold, curve=answer.curve))
    return judged


def judge(
    slide: LabelledSlide,
    folder: Path,
    *,
    fold: str = "",
    curve: DiceCurve | None = None,
    largest_px: int = predictions.LABELLED_PX,
) -> JudgedSlide:
    """Judge what `predict histology` found on one slide.

    Args:
        slide: The slide with its labels.
        folder: The folder that `predict histology` wrote to.
        fold: The fold that the slide was held out in.
        curve: Dice at each threshold, where it is known.
        largest_px: A slide of more px is judged at half, a quarter ... of its sides, its tiles with it.

    Raises:
        InputError: There is no result for it, or one of another picture.
    """
    width, height, shrunk = judged_size(slide, largest_px=largest_px)
    return judge_labels(slide, _found(slide, folder, width, height, shrunk), fold=fold, curve=curve)


def judged_size(slide: LabelledSlide, *, largest_px: int = predictions.LABELLED_PX) -> tuple[int, int, int]:
    """Width and height in px at which a slide is judged, and the px of level 0 that one of them spans."""
    shrunk = 1
    while (slide.width_px // shrunk) * (slide.height_px // shrunk) > largest_px:
        shrunk *= 2
    return slide.width_px // shrunk, slide.height_px // shrunk, shrunk


def judge_labels(slide: LabelledSlide, found: Labels, *, fold: str = "", curve: DiceCurve | None = None) -> JudgedSlide:
    """Judge a label picture of one slide.

    Args:
        slide: The slide with its labels.
        found: `(H, W)`, a number for each glomerulus, of the slide's size or of `judged_size`.
        fold: The fold that the slide was held out in.
        curve: Dice at each threshold, where it is known.
    """
    height, width = found.shape
    shrunk = slide.width_px // width
    marked = FieldReader(slide).read(0, 0, width, height, downsample=shrunk)
    known = None if slide.known == "all" and marked.known.all() else marked.known
    tiles = []
    for rows, columns in segmentation.tiles(height, width, tile_px=max(TILE_PX // shrunk, 1)):
        at = (rows, columns)
        part = segmentation.agreement(marked.instances[at], found[at], known=None if known is None else known[at])
        tiles.append(JudgedTile(columns.start * shrunk, rows.start * shrunk, part))
    whole = segmentation.agreement(marked.instances, found, known=known)
    return JudgedSlide(slide.path.name, slide.group, slide.stain or "unknown", fold, whole, tuple(tiles), curve)


def _found(slide: LabelledSlide, folder: Path, width: int, height: int, shrunk: int) -> Labels:
    """What was found as a label picture of the size asked for."""
    if shrunk > 1:
        return predictions.draw(predictions.read_outlines(folder / f"{slide.path.stem}.geojson", shrunk), width, height)
    path = folder / f"{slide.path.stem}.instances.png"
    if not path.is_file():
        raise InputError(
            f"{folder} has no {path.name}: run `renalcore predict histology` on all slides of the data, or leave "
            "--predictions out"
        )
    labels = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED) if path.stat().st_size else None
    if labels is None or labels.ndim != 2 or not np.issubdtype(labels.dtype, np.integer):
        raise UnreadableFile(f"{path} is not a label picture of one channel; make it again with `predict histology`")
    if labels.shape != (height, width):
        raise InputError(
            f"{path} has {labels.shape[1]} x {labels.shape[0]} px and {slide.path.name} {width} x {height}: it is of "
            "another picture"
        )
    numbered: Labels = labels.astype(np.uint16)
    return numbered


def write(evaluation: Evaluation, folder: Path, *, network: str, about: Mapping[str, Any]) -> None:
    """Write tables and drawings into `folder`.

    `table1_slides` and `table1_tiles` are Table 1 of the mouse paper, `tables2and3.csv` the row of Tables 2 and 3 of
    the thesis, `parts.csv` the figures of all slides and of each fold, stain and group, `slides.csv` and `tiles.csv`
    those of each slide and tile; `overlap.png` and `delta.png` are drawn as Figs. 1 and 2 of the mouse paper;
    `evaluation.json` holds all but the tiles.

    Args:
        evaluation: What to write.
        folder: Where; it must exist.
        network: Which of the papers' networks it is, as on a card.
        about: What was measured on what, e.g. model, data and command; the head of `evaluation.json`.
    """
    for name, tiles in (("slides", False), ("tiles", True)):
        table = table1(evaluation, tiles=tiles)
        write_table(folder / f"table1_{name}.csv", table)
        (folder / f"table1_{name}.md").write_text(as_printed(table), encoding="utf-8")
    write_records(folder / "tables2and3.csv", [tables_2_and_3(evaluation.all, network)])
    parts = (evaluation.all, *evaluation.folds, *evaluation.stains, *evaluation.groups)
    write_records(folder / "parts.csv", [part_row(part) for part in parts])
    write_records(folder / "slides.csv", [_slide_row(each) for each in evaluation.slides])
    write_records(
        folder / "tiles.csv",
        [
            {"slide": each.name, "x_px": tile.x_px, "y_px": tile.y_px, **_agreement_row(tile.agreement)}
            for each in evaluation.slides
            for tile in each.tiles
        ],
    )
    draw({network: evaluation}, folder)
    content = {
        **about,
        "tile_px": TILE_PX,
        "parts": [part_row(part) for part in parts],
        "slides": [_slide_row(each) for each in evaluation.slides],
        "left_out": list(evaluation.left_out),
    }
    write_json(folder / "evaluation.json", plain(content))


def draw(evaluations: Mapping[str, Evaluation], folder: Path) -> None:
    """Draw `overlap.png` and `delta.png` of one or several models, as Figs. 1 and 2 of the mouse paper."""
    of_slides, of_tiles = (
        {model: _by_fold(evaluation, tiles=tiles) for model, evaluation in evaluations.items()}
        for tiles in (False, True)
    )
    plots.draw_overlap({"slides": of_slides, f"tiles of {TILE_PX} px": of_tiles}, folder / "overlap.png")
    plots.draw_delta(of_tiles, folder / "delta.png")


def table1(evaluation: Evaluation, *, tiles: bool) -> list[list[Any]]:
    """Table 1 of the mouse paper: mean and deviation over the tiles or slides of each fold, and of the folds' means.

    Without folds there is one row. The last row is the average over the folds.
    """
    head = ["fold", "dice", "dice_std", "jaccard", "jaccard_std", "delta_glomeruli", "delta_glomeruli_std"]
    rows = [
        (part.name or "all", (part.tiles if tiles else part.slides)) for part in evaluation.folds or (evaluation.all,)
    ]
    table: list[list[Any]] = [head]
    for name, summary in rows:
        spreads = (summary.dice, summary.jaccard, summary.delta_glomeruli)
        table.append([name, *(value for spread in spreads for value in (spread.mean, spread.deviation))])
    if evaluation.folds:
        means = [Spread.of(row[column] for row in table[1:]) for column in (1, 3, 5)]
        table.append(["folds average", *(value for spread in means for value in (spread.mean, spread.deviation))])
    return table


def as_printed(table: Sequence[Sequence[Any]]) -> str:
    """A table of `table1` as the paper prints it."""
    cells = [["Fold", "Dice", "Jaccard", "Mean Delta-glomeruli"]]
    for name, *values in table[1:]:
        pairs = zip(values[::2], values[1::2], strict=True)
        cells.append([str(name), *(with_deviation(*pair, digits=2) for pair in pairs)])
    return figures.markdown(cells)


def tables_2_and_3(part: Part, network: str) -> dict[str, Any]:
    """A row of Tables 2 and 3 of the thesis: pooled Dice with the threshold used and with the best one."""
    return {
        "model": network,
        "dice": part.slides.pixels.dice,
        "dice_automatic_threshold": part.best.dice if part.best else None,
        "automatic_threshold": part.best.threshold if part.best else None,
        "paper_dice": THESIS.get(network),
    }


def part_row(part: Part) -> dict[str, Any]:
    """The figures of a part in one line: those of its slides, then those of its tiles."""
    row: dict[str, Any] = {"part": part.kind, "name": part.name}
    for unit, summary in (("slide", part.slides), ("tile", part.tiles)):
        if unit == "slide":
            counts, pixels = summary.instances, summary.pixels
            row |= {
                "slides": summary.pictures, "glomeruli": counts.expert, "found": counts.found,
                "matched": counts.matched, "dice_pooled": pixels.dice, "jaccard_pooled": pixels.jaccard,
                "precision": counts.precision, "recall": counts.recall, "f1": counts.f1,
                "dice_automatic_threshold": part.best.dice if part.best else None,
                "automatic_threshold": part.best.threshold if part.best else None,
            }  # fmt: skip
        else:
            row |= {"tiles": summary.pictures, "empty_tiles": summary.empty}
        for name in ("dice", "jaccard", "f1", "dice_not_empty", "jaccard_not_empty", "delta_glomeruli",
                     "delta_instances"):  # fmt: skip
            spread: Spread = getattr(summary, name)
            row |= {f"{name}_per_{unit}": spread.mean, f"{name}_per_{unit}_std": spread.deviation}
    return row


def _slide_row(judged: JudgedSlide) -> dict[str, Any]:
    tiles = Summary.of([tile.agreement for tile in judged.tiles])
    return {
        "slide": judged.name, "group": judged.group, "stain": judged.stain, "fold": judged.fold,
        **_agreement_row(judged.whole),
        "tiles": tiles.pictures, "dice_per_tile": tiles.dice.mean,
        "delta_glomeruli_per_tile": tiles.delta_glomeruli.mean,
    }  # fmt: skip


def _agreement_row(judged: Agreement) -> dict[str, Any]:
    counts = judged.instances
    return {
        "glomeruli": counts.expert, "found": counts.found, "matched": counts.matched, "f1": counts.f1,
        "dice": judged.pixels.dice, "jaccard": judged.pixels.jaccard, "delta_glomeruli": judged.delta_glomeruli,
        "delta_instances": judged.delta_instances,
    }  # fmt: skip


def _by_fold(evaluation: Evaluation, *, tiles: bool) -> dict[str, list[Agreement]]:
    found: dict[str, list[Agreement]] = {}
    for each in evaluation.slides:
        own = [tile.agreement for tile in each.tiles] if tiles else [each.whole]
        found.setdefault(each.fold or "all", []).extend(own)
    return dict(sorted(found.items()))


def in_words(part: Part) -> str:
    """The figures of a part in one line for a person."""
    slides, tiles = part.slides, part.tiles
    name = f"{part.kind} {part.name}".strip()
    return (
        f"{name:<30} {slides.pictures:>5} slides {slides.instances.expert:>6} glomeruli  Dice {slides.pixels.dice:.3f} "
        f"(mean {slides.dice.mean:.3f}, of tiles {tiles.dice.mean:.3f})  Jaccard {slides.pixels.jaccard:.3f}  "
        f"F1 {slides.instances.f1:.3f}  Delta a tile {tiles.delta_glomeruli.mean:.2f}"
    )
