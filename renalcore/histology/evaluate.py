"""Evaluation of a network on labelled slides: searched, judged slide by slide, and added up by fold, stain and group.

Slides on which only the inside of glomeruli was outlined are left out. `renalcore.histology.judging` judges a slide,
`renalcore.histology.tables` writes what the papers print.
"""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from renalcore import models
from renalcore.errors import InputError
from renalcore.histology import predictions
from renalcore.histology.fields import FieldReader
from renalcore.histology.instances import join
from renalcore.histology.judging import JudgedSlide, judge
from renalcore.histology.tiles import FULL, BlockResult
from renalcore.io.slide import open_slide
from renalcore.metrics.segmentation import BestDice, DiceCurve, Summary

if TYPE_CHECKING:
    from renalcore.histology.annotations import LabelledSlide, Slides
    from renalcore.histology.glomeruli import Glomeruli
    from renalcore.histology.predict import GlomerulusModel

HELD_OUT: Final = "held_out.json"
"""What names the groups that a fold held out, in its folder."""

_NO_SLIDES: Final = "there are no slides to evaluate on: check the data, and the split or the groups held out"

Kind = Literal["all", "fold", "stain", "group"]


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
            raise InputError(_NO_SLIDES)

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
            blocks = model.blocks(opened, species=slide.species or "human", downsample=downsample)
            results = list(model.results(opened, blocks))
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
