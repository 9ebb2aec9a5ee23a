"""How a second model's findings agree with what stands in the review, in the classes that the second one knows.

The second opinion is laid beside the counts and never into them: what it finds is read here and nowhere else.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from sqlalchemy.orm import Session

from db import gate, specimens
from db.models import Analysis
from db.objects import ONLY_WHEN_CONFIRMED, MinScore, ReviewedObject, objects
from renalcore import taxonomy
from renalcore.metrics.detection import paired

MIN_IOU = 0.5
"""Overlap (intersection over union) from which two boxes of one class are one object."""


@dataclass(frozen=True, slots=True)
class SecondFinding:
    """One finding of the second model.

    Attributes:
        item: The finding, in its own analysis.
        confirms: Key of the object in the review that it confirms, or None where only the second model has it.
    """

    item: ReviewedObject
    confirms: str | None


@dataclass(frozen=True, slots=True)
class ClassAgreement:
    """What two models say of one class, in the fields that count and that both have searched.

    Attributes:
        class_name: The class.
        counted: Objects that the review counts, by the first model or by a person.
        only_first: Those of them that the second model does not confirm, in the order of the fields.
        only_second: What only the second model has, in the order of the fields.
    """

    class_name: str
    counted: int
    only_first: tuple[ReviewedObject, ...]
    only_second: tuple[ReviewedObject, ...]

    @property
    def confirmed(self) -> int:
        """Objects that both have."""
        return self.counted - len(self.only_first)


@dataclass(frozen=True, slots=True)
class Agreement:
    """A second opinion beside the review.

    Attributes:
        findings: What the second model found, from its own lowest scores upwards.
        classes: One entry for each class that it looked for, in the order of the taxonomy.
    """

    findings: tuple[SecondFinding, ...]
    classes: tuple[ClassAgreement, ...]


def agreement(session: Session, first: Analysis, second: Analysis) -> Agreement:
    """Compare a second opinion with what counts now, in the fields that both models have searched.

    Findings in fields withheld for their quality are given, but neither agree nor disagree: nothing counts there.

    Args:
        session: An open session.
        first: The analysis under review, with its corrections.
        second: The second opinion. Classes without a lowest score of their own in its options it does not look for:
            those of the first are no disagreement.
    """
    classes = _looked_for(second)
    results = gate.results(session, first.id)
    searched_by_both = results.keys() & gate.results(session, second.id).keys()
    counting = {
        field.id
        for field in specimens.fields(session, first.specimen_id)
        if field.accepted_at is not None or not gate.reason(field, results.get(field.id))
    }
    of_first, of_second = (
        _by_place(
            [
                item
                for item in objects(session, analysis.id)
                if item.field_id in searched_by_both and item.class_name in classes and item.counts(_lowest(analysis))
            ]
        )
        for analysis in (first, second)
    )
    confirmed: dict[str, str] = {}
    for place in of_first.keys() & of_second.keys():
        counted, other = of_first[place], of_second[place]
        pairs = paired(
            np.array([item.box for item in counted]), np.array([item.box for item in other]), min_iou=MIN_IOU
        )
        confirmed |= {other[theirs].key: counted[ours].key for ours, theirs in pairs}
    kept = set(confirmed.values())
    findings = [SecondFinding(item, confirmed.get(item.key)) for items in of_second.values() for item in items]
    lines = []
    for name in classes:
        counted = [
            item
            for (field_id, class_name), items in of_first.items()
            if class_name == name and field_id in counting
            for item in items
        ]
        lines.append(
            ClassAgreement(
                class_name=name,
                counted=len(counted),
                only_first=tuple(item for item in counted if item.key not in kept),
                only_second=tuple(
                    found.item
                    for found in findings
                    if found.confirms is None and found.item.class_name == name and found.item.field_id in counting
                ),
            )
        )
    return Agreement(tuple(findings), tuple(lines))


def _lowest(analysis: Analysis) -> MinScore:
    setting: MinScore = analysis.options.get("min_score", 0.0)
    return setting


def _looked_for(analysis: Analysis) -> tuple[str, ...]:
    """The classes in which the model's word counts, in the order of the taxonomy."""
    setting = _lowest(analysis)
    if not isinstance(setting, Mapping):
        return taxonomy.NAMES
    return tuple(name for name in taxonomy.NAMES if setting.get(name, ONLY_WHEN_CONFIRMED) < ONLY_WHEN_CONFIRMED)


def _by_place(items: list[ReviewedObject]) -> dict[tuple[int, str], list[ReviewedObject]]:
    """Objects by field and class, the fields in the order of their ids."""
    places: dict[tuple[int, str], list[ReviewedObject]] = defaultdict(list)
    for item in sorted(items, key=lambda item: item.field_id):
        places[item.field_id, item.class_name].append(item)
    return places
