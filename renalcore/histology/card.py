"""The cards of histology models: what training knows of the weights, and what an evaluation measures of them.

No figure is typed by hand: training writes a card that promises nothing, and `evaluate histology --write-card` adds
what it measured on held-out slides.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from renalcore.histology.names import GLOMERULUS
from renalcore.models import InputScale, ModelCard, TrainingData, file_entries

if TYPE_CHECKING:
    from renalcore.histology.annotations import LabelledSlide

MIN_SCORE: Final = 0.5
"""Probability from which a pixel belongs to a glomerulus, until an evaluation has chosen a better one."""

INTENDED_USE: Final = (
    "Research on kidney histology: proposing outlines of glomeruli on bright-field slides and pictures of kidney "
    "tissue to a person who reviews them. Not for use in diagnostic procedures."
)

BRIGHT_FIELD_ONLY: Final = "Trained on bright-field pictures of stained tissue; fluorescence is untested."

_NEVER: Final = "Never validated on real pictures."


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
