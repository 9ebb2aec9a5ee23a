"""The cards of CT models: what training knows of the weights, and what an evaluation measures of them.

No figure is typed by hand: training writes a card that promises nothing, and `evaluate ct --write-card` adds what it
measured on held-out scans.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from renalcore.ct.networks import NETWORKS
from renalcore.ct.steps import LABELS, STEPS, StepName
from renalcore.models import HeldOutFigure, InputScale, ModelCard, TrainingData, file_entries

if TYPE_CHECKING:
    from renalcore.ct.evaluate import Kind
    from renalcore.metrics.surfaces import Summary

INTENDED_USE: Final = (
    "Research on abdominal CT: proposing outlines of kidneys, their tumours and cysts to a person who reviews them. "
    "Not for use in diagnostic procedures."
)

SCANS_TO_VALIDATE: Final = 10
"""Real scans with a class from which a card calls it validated."""

WEAK_DICE: Final = 0.5
"""Mean Dice of the scans with a class below which a card warns of it."""

_NEVER: Final = "Never validated"
_POORLY: Final = "are found poorly"


def drawn_scans(patients: int, *, randomised: int = 0) -> str:
    """What scans drawn around the label maps of some patients are.

    Args:
        patients: Whose label maps.
        randomised: Scans of them whose tissues are as bright as chance has it.
    """
    told = (
        f"drawn CT scans: the outlines of kidneys, tumours and cysts are those of {patients} real patients; "
        "everything else is drawn; HU of kidneys, tumours and cysts follow those measured on slices of KiTS19, HU of "
        "other tissues are usual ones at 120 kV; no real voxel of CT"
    )
    return told + (f"; mean and deviation of each tissue's HU are random in {randomised}" if randomised else "")


def grown_slices(patients: int) -> str:
    """What slices of some patients are, as they are trained on."""
    return (
        f"labelled axial slices of {patients} real patients, each grown into a volume: real brightness and texture, "
        "drawn shape along the body"
    )


def implanted_scans(outlined: int, textured: int) -> str:
    """What real scans are that lesions were put into.

    Args:
        outlined: Patients among whose lesions was chosen.
        textured: Patients whose tumours gave texture.
    """
    return (
        f"real CT scans with a tumour or cyst put on each kidney with room for one: outlines, size and place are those "
        f"of lesions of {outlined} real patients, rarely large ones or such that stick out far; texture is that of "
        f"tumours on real slices of {textured} patients, mean HU are drawn, cysts are even, nothing is pushed aside"
    )


def unmeasured(
    key: str,
    weights: Path,
    *,
    network: str,
    width: int,
    coarse: Sequence[StepName],
    training_data: Sequence[TrainingData],
    real_scans: bool,
) -> ModelCard:
    """The card of newly trained weights, of which nothing has been measured.

    Args:
        key: Name of the model.
        weights: The safetensors file.
        network: One of `renalcore.ct.networks.NETWORKS`.
        width: Channels of its finest level.
        coarse: Steps that work on voxels twice as wide.
        training_data: What it was trained on.
        real_scans: Whether real CT scans were among that.
    """
    limits = [f"{_NEVER} on real scans."]
    if not real_scans:
        limits.append("Trained without a single real CT scan; expect less on real scans than on drawn ones.")
    limits += [
        "Tumours and cysts outside of the kidney that was found are not sought.",
        "Cysts are believed only where they hold water; without contrast medium only those that the network sees.",
        "Bosniak classes, stones and the renal pelvis are not told; a pelvis wide with urine may be called a cyst.",
    ]
    title = NETWORKS[network].title
    wide = f", on voxels twice as wide in the step {' and '.join(coarse)}" if coarse else ""
    return ModelCard(
        key=key,
        title=f"{title} in three steps for kidneys, tumours and cysts",
        modality="ct",
        task="segmentation",
        classes=tuple(LABELS.values()),
        validated_classes=(),
        input=InputScale(slice_px=STEPS["rough"].shape[1], overlap=0.0),
        min_score=0.5,
        **file_entries(weights),
        architecture=f"{title} of width {width}, once for each of three steps (Lv and Wang, 2021){wide}, from scratch",
        scale=str(width),
        training_data=tuple(training_data),
        figures=(),
        intended_use=INTENDED_USE,
        limits=tuple(limits),
        date=datetime.now(UTC).date(),
        network=network,
    )


def _weakness(name: str, each: Summary, present: int, kind: Kind) -> str:
    """What a reviewer has to know of a class that is often missed or outlined wrongly."""
    told = f"{name.capitalize()}s {_POORLY}: mean Dice {each.dice_where_present.mean:.2f} in {present} {kind} scans "
    told += f"with one; none was found in {each.missed} of them"
    without = each.empty + each.invented
    return told + (f", and false ones in {each.invented} of {without} without." if without else ".")


def measured(
    card: ModelCard,
    weights: Path,
    summaries: Mapping[Kind, Mapping[str, Summary]],
    *,
    on: str,
    command: str,
    further: Sequence[HeldOutFigure] = (),
) -> ModelCard:
    """`card` with what was measured in place of what stood there; what training knows stays.

    Args:
        card: The card so far.
        weights: The weights that were evaluated.
        summaries: What `renalcore.ct.evaluate.summaries` tells of scans that were not trained on.
        on: What they are, e.g. `held out: kits23_shapes (split val)`.
        command: The command that gives the figures again.
        further: What was measured on other pictures than scans; it comes last, and validates nothing.
    """
    figures, validated, weak = [], [], []
    for kind, classes in summaries.items():
        for name, each in classes.items():
            present = each.cases - each.empty - each.invented
            told = f"{on}; {each.cases} {kind} scans, {present} of them with this class"
            for title, value in (
                ("Dice", each.dice_where_present.mean),
                ("ASSD in mm", each.assd_mm.mean),
                ("SDD in mm", each.sdd_mm.mean),
                ("HD95 in mm", each.hausdorff95_mm.mean),
                ("Surface Dice", each.surface_dice.mean),
            ):
                if math.isfinite(value):
                    figures.append(HeldOutFigure(f"{title}, {name}, {kind} scans", round(value, 4), told, command))
            if kind == "real" and name in LABELS.values() and present >= SCANS_TO_VALIDATE:
                validated.append(name)
            if name in LABELS.values() and each.dice_where_present.mean < WEAK_DICE:
                weak.append(_weakness(name, each, present, kind))
    limits = weak + [limit for limit in card.limits if not limit.startswith(_NEVER) and _POORLY not in limit]
    if not validated:
        limits.insert(0, "Never validated on enough real scans; figures of drawn scans tell little of real ones.")
    return replace(
        card,
        **file_entries(weights),
        validated_classes=tuple(name for name in card.classes if name in validated),
        figures=(*figures, *further),
        limits=tuple(limits),
    )
