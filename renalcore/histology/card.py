"""The cards of histology models: what training knows of the weights, and what an evaluation measures of them.

No figure is typed by hand: training writes a card that promises nothing, and `evaluate histology --write-card` adds
what it measured on held-out slides.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from renalcore.histology.names import GLOMERULUS
from renalcore.models import HeldOutFigure, InputScale, ModelCard, TrainingData, file_entries

if TYPE_CHECKING:
    from renalcore.histology.annotations import LabelledSlide
    from renalcore.histology.evaluate import Evaluation

MIN_SCORE: Final = 0.5
"""Probability from which a pixel belongs to a glomerulus, until an evaluation has chosen a better one."""

INTENDED_USE: Final = (
    "Research on kidney histology: proposing outlines of glomeruli on bright-field slides and pictures of kidney "
    "tissue to a person who reviews them. Not for use in diagnostic procedures."
)

BRIGHT_FIELD_ONLY: Final = "Trained on bright-field pictures of stained tissue; fluorescence is untested."

GLOMERULI_TO_VALIDATE: Final = 20
"""Held-out glomeruli below which the model counts as unvalidated, and a stain gets no figure of its own."""

WEAK_DICE: Final = 0.8
"""A stain with a pooled Dice below this is named among the limits."""

_NEVER: Final = "Never validated on real pictures."
_HELD_OUT: Final = "Held-out slides: "


def unmeasured(
    key: str,
    weights: Path,
    *,
    title: str,
    architecture: str,
    scale: str,
    network: str,
    shown: InputScale,
    training_data: Sequence[TrainingData],
    slides: Sequence[LabelledSlide],
    limits: Sequence[str] = (BRIGHT_FIELD_ONLY,),
) -> ModelCard:
    """The card of newly trained weights, of which nothing has been measured.

    Args:
        key: Name of the model.
        weights: The safetensors file.
        title: Its name for people.
        architecture: The network in words.
        scale: The encoder, or what else tells its size.
        network: One of `renalcore.histology.networks.NETWORKS`.
        shown: How a slide is cut, and the sizes of glomeruli that the network was shown.
        training_data: What it was trained on.
        slides: The slides trained on; the card tells their stains and how large their glomeruli are.
        limits: What training knows that it does not do.
    """
    return ModelCard(
        key=key,
        title=title,
        modality="histology",
        task="segmentation",
        classes=(GLOMERULUS,),
        validated_classes=(),
        input=shown,
        min_score=MIN_SCORE,
        **file_entries(weights),
        architecture=architecture,
        scale=scale,
        training_data=tuple(training_data),
        figures=(),
        intended_use=INTENDED_USE,
        limits=(_NEVER, sizes_seen(shown, slides), stains_seen(slides), *limits),
        date=datetime.now(UTC).date(),
        network=network,
    )


def measured(card: ModelCard, weights: Path, evaluation: Evaluation, *, data: str, on: str, command: str) -> ModelCard:
    """`card` with what `evaluation` measured in place of what stood there; what training knows stays.

    Args:
        card: The card so far.
        weights: The weights that were evaluated.
        evaluation: The figures, all measured on slides that were not trained on, at the threshold that is best there.
        data: Name of the data, as the card names what was trained on.
        on: The slides in words, e.g. `held out: 45 slides of histology (split val)`.
        command: The command that gives the figures again.

    Raises:
        ValueError: The evaluation does not know the best threshold.
    """
    best = evaluation.all.best
    if best is None:
        raise ValueError("a card needs the best threshold, and these figures are of stored predictions")
    enough = evaluation.all.slides.instances.expert >= GLOMERULI_TO_VALIDATE
    kept = [limit for limit in card.limits if not limit.startswith((_HELD_OUT, _NEVER))]
    return replace(
        card,
        **file_entries(weights),
        validated_classes=card.classes if enough else (),
        min_score=round(best.threshold, 4),
        figures=tuple(_figures(evaluation, on, command)),
        limits=(*_measured_limits(card, evaluation, data), *kept),
    )


def _figures(evaluation: Evaluation, on: str, command: str) -> Iterator[HeldOutFigure]:
    slides, tiles = evaluation.all.slides, evaluation.all.tiles
    told = f"{on}; {slides.instances.expert} glomeruli"
    in_tiles = f"{told}; {tiles.pictures} tiles of 512 px, {tiles.empty} of them empty and found so"
    for name, value, where in (
        ("Dice, pixels of all slides", slides.pixels.dice, told),
        ("Dice, mean of slides", slides.dice.mean, told),
        ("Jaccard, pixels of all slides", slides.pixels.jaccard, told),
        ("F1 of glomeruli at IoU 0.5", slides.instances.f1, told),
        ("Precision of glomeruli", slides.instances.precision, told),
        ("Recall of glomeruli", slides.instances.recall, told),
        ("Delta-glomeruli a slide", slides.delta_instances.mean, told),
        ("Dice, mean of tiles", tiles.dice.mean, in_tiles),
        ("Dice, mean of tiles that are not empty", tiles.dice_not_empty.mean, in_tiles),
        ("Delta-glomeruli a tile, by connected components", tiles.delta_glomeruli.mean, in_tiles),
        ("Delta-glomeruli a tile, by instances", tiles.delta_instances.mean, in_tiles),
    ):
        if math.isfinite(value):
            yield HeldOutFigure(name, round(value, 4), where, command)
    for part in evaluation.stains:
        if (glomeruli := part.slides.instances.expert) >= GLOMERULI_TO_VALIDATE:
            where = f"{on}; {part.slides.pictures} slides, {glomeruli} glomeruli"
            yield HeldOutFigure(f"Dice of {part.name}", round(part.slides.pixels.dice, 4), where, command)
            yield HeldOutFigure(f"F1 of {part.name}", round(part.slides.instances.f1, 4), where, command)


def _measured_limits(card: ModelCard, evaluation: Evaluation, data: str) -> list[str]:
    glomeruli = evaluation.all.slides.instances.expert
    limits = [f"{_HELD_OUT}the threshold was chosen on the same slides."]
    if glomeruli < GLOMERULI_TO_VALIDATE:
        limits.append(f"{_HELD_OUT}only {glomeruli} glomeruli, too few to call the model validated.")
    for part in evaluation.stains:
        counts, dice = part.slides.instances, part.slides.pixels.dice
        if counts.expert < GLOMERULI_TO_VALIDATE:
            limits.append(f"{_HELD_OUT}only {counts.expert} glomeruli in {part.name}, too few for a figure.")
        elif dice < WEAK_DICE:
            missed, wrong = counts.expert - counts.matched, counts.found - counts.matched
            limits.append(
                f"{_HELD_OUT}{part.name} is found poorly, Dice {dice:.2f}; of {counts.expert} glomeruli {missed} are "
                f"missed, and {wrong} outlines are none."
            )
    if data in {source.name for source in card.training_data}:
        limits.append(f"{_HELD_OUT}they are part of {data}, of which the rest was trained on; expect less elsewhere.")
    return limits


def sizes_seen(shown: InputScale, slides: Sequence[LabelledSlide]) -> str:
    """How large the glomeruli of some slides are, as they lie there in px and um and as the network was shown them.

    Each slide counts with the median diameter of its glomeruli, as circles of the same area.
    """
    sized = [(slide.glomerulus_px, slide.um_per_px) for slide in slides]
    diameters_px = [px for px, _ in sized if px is not None]
    diameters_um = [px * scale for px, scale in sized if px is not None and scale is not None]
    if not diameters_px:
        return "Trained without an outlined glomerulus, so nothing is known of the sizes it finds."
    told = f"Trained on slides whose median glomerulus is {_range(diameters_px)} px across"
    if shown.object_px is not None:
        told += f", scaled so that the network saw {_range(shown.object_px)} px"
    if diameters_um:
        told += f"; {_range(diameters_um)} um in the {len(diameters_um)} of {len(slides)} slides of known scale"
    else:
        told += f"; the scale of none of the {len(slides)} slides is known, so no size in um can be told"
    return f"{told}. Expect less outside of these sizes."


def stains_seen(slides: Sequence[LabelledSlide]) -> str:
    """Stains and species of some slides, with how many there are of each."""
    stains = Counter(slide.stain or "unknown" for slide in slides)
    species = Counter(slide.species or "unknown" for slide in slides)
    told = [", ".join(f"{name} ({count})" for name, count in each.most_common()) for each in (stains, species)]
    return f"Stains seen in training: {told[0]}; species: {told[1]}. Others are untested."


def _range(values: Sequence[float]) -> str:
    least, greatest = round(min(values)), round(max(values))
    return f"{least} to {greatest}" if least < greatest else f"{least}"
