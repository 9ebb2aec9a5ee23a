"""What stands in each field: the model's findings with every person's corrections folded over them.

Findings and corrections are only ever added; `db.corrections` says which of an object's corrections still stand.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from sqlalchemy import ColumnElement, and_, case, exists, func, or_, select
from sqlalchemy.orm import Session

from db.corrections import by_key, standing
from db.models import Analysis, Correction, Finding, SpecimenField
from renalcore import taxonomy
from renalcore.errors import InputError

Status = Literal["model", "confirmed", "reclassified", "added", "removed"]
Box = tuple[float, float, float, float]
MinScore = float | Mapping[str, float]
"""Lowest score that counts: one for all classes, or one a class with `"default"` for the others."""

_BATCH = 200  # analyses a statement; 39 thresholds each stay under SQLite's 32,766 bound values


@dataclass(frozen=True, slots=True)
class ReviewedObject:
    """One object in one field as it stands after review.

    Attributes:
        key: `f12` for the model's finding 12, `c7` for the object that a person added with correction 7.
        field_id: The field it lies in.
        class_name: The class it has now.
        model_class: The class the model gave it; None where a person added it.
        score: The model's score; None where a person added it.
        box: `(x1, y1, x2, y2)` in px of the upright field.
        status: `model` untouched; `confirmed`, `reclassified` or `added` by a person and so always counted;
            `removed` never counted.
    """

    key: str
    field_id: int
    class_name: str
    model_class: str | None
    score: float | None
    box: Box
    status: Status

    def counts(self, min_score: MinScore) -> bool:
        """Whether the report counts it: a person's word always stands, the model's from `min_score` upwards."""
        if self.status == "model":
            return self.score is not None and self.score >= threshold(min_score, self.class_name)
        return self.status != "removed"


ONLY_WHEN_CONFIRMED = 1.0
"""Lowest score of a class that counts only where a person confirms or adds it: no finding reaches certainty."""


def threshold(min_score: MinScore, class_name: str) -> float:
    """Lowest score at which the model's word counts for `class_name`."""
    if isinstance(min_score, Mapping):
        return float(min_score.get(class_name, min_score.get("default", 0.0)))
    return float(min_score)


def checked_min_score(value: object) -> float | dict[str, float]:
    """`value` as a lowest score that can be stored.

    Raises:
        InputError: It is no number in 0..1 and no mapping of class names (or `default`) to such numbers.
    """
    if isinstance(value, Mapping):
        checked = {}
        for name, score in value.items():
            if name != "default":
                taxonomy.class_id(name)
            checked[str(name)] = _checked_score(score)
        return checked
    return _checked_score(value)


def _checked_score(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise InputError(f"the lowest score must be a number from 0 to 1, got {value!r}")
    return float(value)


def checked_box(box: Sequence[float], *, width_px: int, height_px: int) -> Box:
    """`box` with its corners in order, cut to the field.

    Raises:
        InputError: It is not four finite numbers, or nothing of it lies inside the field.
    """
    if len(box) != 4 or not all(math.isfinite(edge) for edge in box):
        raise InputError(f"a box is four numbers x1, y1, x2, y2 in px, got {tuple(box)}")
    x1, x2 = sorted((float(box[0]), float(box[2])))
    y1, y2 = sorted((float(box[1]), float(box[3])))
    cut = (max(x1, 0.0), max(y1, 0.0), min(x2, float(width_px)), min(y2, float(height_px)))
    if not (cut[2] - cut[0] >= 1 and cut[3] - cut[1] >= 1):
        raise InputError(
            f"the box {tuple(box)} has no area inside the field of {width_px} x {height_px} px; draw it again"
        )
    return cut


def corrections_by_key(session: Session, analysis_id: int) -> dict[str, list[Correction]]:
    """Every correction of an analysis, oldest first, under the key of its object; none in withdrawn fields."""
    withdrawn = _withdrawn_fields(session, [analysis_id])
    corrections = select(Correction).where(Correction.analysis_id == analysis_id).order_by(Correction.id)
    return by_key(row for row in session.scalars(corrections) if row.field_id not in withdrawn)


def objects(session: Session, analysis_id: int, *, field_id: int | None = None) -> list[ReviewedObject]:
    """Every object of an analysis as it stands now, removed ones included, in the order in which they were found.

    One whose drawing was undone is not there at all, nor are those in withdrawn fields.

    Args:
        session: An open session.
        analysis_id: The analysis.
        field_id: Only the objects of this field.
    """
    findings = select(*_FINDING_COLUMNS).where(Finding.analysis_id == analysis_id).order_by(Finding.id)
    corrections = select(Correction).where(Correction.analysis_id == analysis_id).order_by(Correction.id)
    if field_id is not None:
        findings = findings.where(Finding.field_id == field_id)
        corrections = corrections.where(Correction.field_id == field_id)
    found = [_found(row) for row in session.execute(findings)]
    withdrawn = _withdrawn_fields(session, [analysis_id])
    return [item for item in _folded(found, session.scalars(corrections)) if item.field_id not in withdrawn]


def counts(
    session: Session, min_scores: Mapping[int, MinScore], *, without: Collection[int] = ()
) -> tuple[dict[tuple[int, int, str], int], dict[int, int]]:
    """Objects that count, in however many analyses, in a constant number of statements a few hundred analyses.

    Nothing counts in a field that was withdrawn.

    Args:
        session: An open session.
        min_scores: The lowest score that counts in each analysis, by its id.
        without: Fields in which nothing counts either.

    Returns:
        The number by `(analysis_id, field_id, class_name)` (what is not there is none), and by analysis the number
        of those that stand on the model's word alone.
    """
    totals: dict[tuple[int, int, str], int] = defaultdict(int)
    unreviewed: dict[int, int] = defaultdict(int)
    ids = sorted(min_scores)
    for start in range(0, len(ids), _BATCH):
        batch = ids[start : start + _BATCH]
        withdrawn = _withdrawn_fields(session, batch) | set(without)
        untouched = (
            select(Finding.analysis_id, Finding.field_id, Finding.class_name, func.count())
            .where(
                _scored(batch, min_scores),
                ~exists().where(Correction.finding_id == Finding.id),
            )
            .group_by(Finding.analysis_id, Finding.field_id, Finding.class_name)
        )
        for analysis_id, field_id, class_name, number in session.execute(untouched):
            if field_id in withdrawn:
                continue
            totals[analysis_id, field_id, class_name] += number
            unreviewed[analysis_id] += number

        touched: dict[int, list[ReviewedObject]] = defaultdict(list)
        rows = select(*_FINDING_COLUMNS, Finding.analysis_id).where(
            Finding.id.in_(select(Correction.finding_id).where(Correction.analysis_id.in_(batch)))
        )
        for *row, analysis_id in session.execute(rows):
            touched[analysis_id].append(_found(row))
        histories: dict[int, list[Correction]] = defaultdict(list)
        for correction in session.scalars(
            select(Correction).where(Correction.analysis_id.in_(batch)).order_by(Correction.id)
        ):
            histories[correction.analysis_id].append(correction)
        for analysis_id, corrections in histories.items():
            for item in _folded(touched[analysis_id], corrections):
                if item.field_id not in withdrawn and item.counts(min_scores[analysis_id]):
                    totals[analysis_id, item.field_id, item.class_name] += 1
                    unreviewed[analysis_id] += item.status == "model"
    return dict(totals), dict(unreviewed)


_FINDING_COLUMNS = (
    Finding.id, Finding.field_id, Finding.class_name, Finding.score, Finding.x1, Finding.y1, Finding.x2, Finding.y2,
)  # fmt: skip


def _withdrawn_fields(session: Session, analysis_ids: Sequence[int]) -> set[int]:
    """The withdrawn fields among those that these analyses searched."""
    return set(
        session.scalars(
            select(SpecimenField.id)
            .join(Analysis, Analysis.specimen_id == SpecimenField.specimen_id)
            .where(Analysis.id.in_(analysis_ids), SpecimenField.withdrawn_at.is_not(None))
        )
    )


def _scored(analysis_ids: Sequence[int], min_scores: Mapping[int, MinScore]) -> ColumnElement[bool]:
    """Findings of these analyses that reach the lowest score set for theirs."""
    same: dict[tuple[tuple[str, float], ...], list[int]] = defaultdict(list)
    for analysis_id in analysis_ids:
        setting = min_scores[analysis_id]
        by_class = setting if isinstance(setting, Mapping) else {"default": setting}
        same[tuple(sorted(by_class.items()))].append(analysis_id)
    conditions = []
    for setting_items, ids in same.items():
        by_class = dict(setting_items)
        default = by_class.pop("default", 0.0)
        lowest = case(by_class, value=Finding.class_name, else_=default) if by_class else default
        conditions.append(and_(Finding.analysis_id.in_(ids), Finding.score >= lowest))
    return or_(*conditions)


def _found(row: Sequence[object]) -> ReviewedObject:
    finding_id, field_id, class_name, score, *box = row
    return ReviewedObject(
        key=f"f{finding_id}",
        field_id=field_id,  # type: ignore[arg-type]
        class_name=class_name,  # type: ignore[arg-type]
        model_class=class_name,  # type: ignore[arg-type]
        score=score,  # type: ignore[arg-type]
        box=tuple(box),  # type: ignore[arg-type]
        status="model",
    )


def _folded(found: Iterable[ReviewedObject], corrections: Iterable[Correction]) -> list[ReviewedObject]:
    histories = by_key(corrections)
    folded = []
    for item in found:
        history = histories.pop(item.key, None)
        folded.append(_replayed(item, standing(history)) if history else item)
    for key, history in histories.items():  # what is left was added by a person
        first = history[0]
        if first.action != "add":
            continue  # corrects a finding that was not asked for
        added = ReviewedObject(
            key=key,
            field_id=first.field_id,
            class_name=str(first.class_name),
            model_class=None,
            score=None,
            box=(float(first.x1 or 0), float(first.y1 or 0), float(first.x2 or 0), float(first.y2 or 0)),
            status="added",
        )
        still = standing(history)
        if still:
            folded.append(_replayed(added, still[1:]))
    return folded


def _replayed(item: ReviewedObject, corrections: Sequence[Correction]) -> ReviewedObject:
    for correction in corrections:
        if correction.action == "remove":
            item = replace(item, status="removed")
            continue
        class_name = correction.class_name or item.class_name
        status: Status = (
            "added" if item.model_class is None else "confirmed" if class_name == item.model_class else "reclassified"
        )
        item = replace(item, class_name=class_name, status=status)
    return item
