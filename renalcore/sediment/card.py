"""The cards of sediment models: what training knows of the weights, and what an evaluation measures of them.

No figure is typed by hand: training writes a card that promises nothing, and `evaluate sediment --write-card` adds
what it measured on held-out fields.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from renalcore import taxonomy
from renalcore.models import HeldOutFigure, InputScale, ModelCard, TrainingData, file_entries

if TYPE_CHECKING:
    from renalcore.sediment.evaluate import Evaluation
    from renalcore.sediment.readers import LabelledField

OBJECTS_TO_VALIDATE = 20
"""Held-out real objects below which a class counts as unvalidated: an AP over fewer says little."""

SCORE_UNVALIDATED = 0.5
"""Reporting threshold of a class for which no best one could be measured."""

WEAK_AP50 = 0.5
"""A validated class below this is named among the limits, with what it is mistaken for."""

INTENDED_USE = (
    "Research on urine-sediment microscopy: proposing particles in bright-field pictures of unstained sediment to a "
    "technologist who reviews every field. Not for use in diagnostic procedures."
)

BRIGHT_FIELD_ONLY = "Trained on bright-field pictures without stain; phase contrast and stained sediment are untested."

_HELD_OUT = "Held-out fields: "
_WRITTEN_BY_EVALUATION = re.compile(f"^{_HELD_OUT}|never validated on real pictures")
"""Tells the limits that an evaluation wrote, to be written anew, from those that training wrote, to be kept."""


def unmeasured(
    key: str,
    weights: Path,
    *,
    title: str,
    architecture: str,
    scale: str,
    training_data: Sequence[TrainingData],
    classes: Sequence[str] = taxonomy.NAMES,
    limits: Sequence[str] = (BRIGHT_FIELD_ONLY,),
    network: str = "multihead",
) -> ModelCard:
    """The card of newly trained weights, of which nothing has been measured.

    Args:
        key: Name of the model.
        weights: The safetensors file.
        title: Its name for people.
        architecture: The network.
        scale: Size of the network, e.g. `n`.
        training_data: What it was trained on.
        classes: What it finds, in the order of its outputs.
        limits: What training knows that it does not do.
        network: What loads the weights, see `renalcore.sediment.runners.NETWORKS`.
    """
    return ModelCard(
        key=key,
        title=title,
        modality="sediment",
        task="detection",
        classes=tuple(classes),
        validated_classes=(),
        input=InputScale(slice_px=640, overlap=0.25),
        min_score=dict.fromkeys(classes, SCORE_UNVALIDATED),
        **file_entries(weights),
        architecture=architecture,
        scale=scale,
        training_data=tuple(training_data),
        figures=(),
        intended_use=INTENDED_USE,
        limits=(_never_validated(len(classes), len(classes)), *limits),
        date=datetime.now(UTC).date(),
        network=network,
    )


def sources(data: Path, licence: str, fields: Sequence[LabelledField], *, note: str) -> list[TrainingData]:
    """What a card tells of the fields trained on: the real ones of `data` and the rendered ones, where there are some.

    Args:
        data: Folder of the real fields.
        licence: Its licence words.
        fields: All fields trained on.
        note: What a reader must know of the real ones.
    """
    real = sum(field.real for field in fields)
    found = [TrainingData(data.resolve().name, licence, real, note)] if real else []
    if len(fields) > real:
        drawn = "drawn by renalcore.sediment.synthetic, all 39 classes"
        found.append(TrainingData("rendered fields", "AGPL-3.0-only", len(fields) - real, drawn))
    return found


def measured(card: ModelCard, weights: Path, evaluation: Evaluation, *, data: str, on: str, command: str) -> ModelCard:
    """`card` with what `evaluation` measured in place of what stood there; what training knows stays.

    Args:
        card: The card so far.
        weights: The weights that were evaluated.
        evaluation: The figures, all measured on real fields that were not trained on.
        data: Name of the data, as the card names what was trained on.
        on: The fields in words, e.g. `206 held-out fields of urised2k`.
        command: The command that gives the figures again.
    """
    kept = [limit for limit in card.limits if not _WRITTEN_BY_EVALUATION.search(limit)]
    return replace(
        card,
        **file_entries(weights),
        validated_classes=evaluation.validated,
        min_score={name: evaluation.min_score[name] for name in card.classes},
        calibration=dict(evaluation.calibration_used),
        figures=tuple(_figures(evaluation, on, command)),
        limits=(*_measured_limits(card, evaluation, data), *kept),
    )


def _figures(evaluation: Evaluation, on: str, command: str) -> list[HeldOutFigure]:
    rows = [row for row in evaluation.rows if row.name in evaluation.validated]
    objects = sum(row.objects for row in rows)
    columns = [
        ("AP50", [row.ap50 for row in rows]),
        ("AP50-95", [row.ap50_95 for row in rows]),
        ("Precision", [row.reported.precision for row in rows]),
        ("Recall", [row.reported.recall for row in rows]),
    ]
    figures = []
    for measure, values in columns:
        for row, value in zip(rows, values, strict=True):
            figures.append(
                HeldOutFigure(f"{measure} {row.name}", round(value, 4), f"{on}; {row.objects} objects", command)
            )
        if len(rows) > 1:
            name = f"{measure}, mean of these {len(rows)} classes"
            mean = round(sum(values) / len(values), 4)
            figures.append(HeldOutFigure(name, mean, f"{on}; {objects} objects", command))
    if rows:
        mean = round(sum(row.ap50_one_label for row in rows) / len(rows), 4)
        name = f"AP50 of the counted labels alone, mean of these {len(rows)} classes"
        figures.append(HeldOutFigure(name, mean, f"{on}; {objects} objects", command))
    for mistaken in evaluation.red_and_white:
        if mistaken.missed:
            name = f"Share of the missed {mistaken.true} called {mistaken.called}"
            figures.append(HeldOutFigure(name, round(mistaken.share, 4), f"{on}; {mistaken.missed} missed", command))
    for check in evaluation.calibrated:
        name = "of the counted boxes" if check.name == "all" else f"of {check.name}"
        told = f"{on}; {check.boxes} boxes"
        figures.append(
            HeldOutFigure(f"Calibration error {name}, the network's scores", round(check.before, 4), told, command)
        )
        if evaluation.calibration_used:
            figures.append(
                HeldOutFigure(
                    f"Calibration error {name}, calibrated", round(check.after, 4),
                    f"{told}, each calibrated by the other samples", command,
                )
            )  # fmt: skip
    return figures


def _measured_limits(card: ModelCard, evaluation: Evaluation, data: str) -> list[str]:
    unvalidated = len(card.classes) - len(evaluation.validated)
    limits = [_never_validated(unvalidated, len(card.classes))] if unvalidated else []
    for row in evaluation.rows:
        if row.name in evaluation.validated and row.ap50 < WEAK_AP50:
            mistakes = evaluation.mistakes(row.name)
            limits.append(f"{_HELD_OUT}{row.name} is found poorly, AP50 {row.ap50:.2f}; {mistakes}.")
        elif row.name not in evaluation.validated and row.objects:
            objects = "one object" if row.objects == 1 else f"{row.objects} objects"
            limits.append(f"{_HELD_OUT}only {objects} of {row.name}, too few for a figure.")
    if evaluation.validated:
        limits.append(f"{_HELD_OUT}precision and recall are at score thresholds that were chosen on the same fields.")
    if evaluation.calibration_used:
        names = ", ".join(evaluation.calibration_used)
        limits.append(
            f"{_HELD_OUT}scores of {names} are calibrated as probabilities among fields like these; those of all other "
            "classes are the network's own and no probabilities."
        )
    elif evaluation.validated:
        limits.append(f"{_HELD_OUT}scores are the network's own and no probabilities.")
    one_label = [row.ap50_one_label for row in evaluation.rows if row.name in evaluation.validated]
    every_label = [row.ap50 for row in evaluation.rows if row.name in evaluation.validated]
    if one_label != every_label:
        limits.append(
            f"{_HELD_OUT}average precision ranks every label of a particle; ranking only the one that counts, the mean "
            f"AP50 is {sum(one_label) / len(one_label):.3f} instead of {sum(every_label) / len(every_label):.3f}."
        )
    if data in {source.name for source in card.training_data}:
        limits.append(f"{_HELD_OUT}they are part of {data}, of which the rest was trained on; expect less elsewhere.")
    return limits


def _never_validated(count: int, of: int) -> str:
    return f"{count} of the {of} classes were never validated on real pictures."
