"""What stands on each slide: the model's glomeruli with every person's corrections folded over them.

Findings and corrections are only ever added; `db.corrections` says which of a glomerulus's corrections still stand.
Which of the model's glomeruli count is a matter of limits, which are kept with the analysis and can be moved without
running it again; what a person has confirmed, redrawn, marked or added counts whatever the limits.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import shapely
from sqlalchemy import func, select
from sqlalchemy.orm import Session, defer

from db import analyses
from db.corrections import by_key
from db.corrections import standing as still_standing
from db.models import Analysis, GlomerulusCorrection, GlomerulusFinding, Slide, SlideResult
from renalcore.histology.measure import Limits

Status = Literal["model", "confirmed", "redrawn", "added", "removed"]
Outline = tuple[tuple[float, float], ...]

_FEW_KEYS = 500  # more are read together with all others
_FINDING_COLUMNS = (
    GlomerulusFinding.id, GlomerulusFinding.slide_id, GlomerulusFinding.outline, GlomerulusFinding.area_px,
    GlomerulusFinding.score, GlomerulusFinding.touches_edge,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ReviewedGlomerulus:
    """One glomerulus on one slide as it stands after review.

    Attributes:
        key: `f12` for the model's finding 12, `c7` for the glomerulus that a person added with correction 7.
        slide_id: The slide it lies on.
        number: What it is called on its slide: 1, 2, 3 ... as the model found them, then as people added them. A
            removed one keeps its number.
        outline: Its points `(x, y)` in px of level 0, closed implicitly.
        area_px: Area of the outline, in px of level 0.
        score: The model's score; None where a person added it.
        touches_edge: Whether the slide's edge cuts it.
        sclerosed: Whether a person marked it as globally sclerosed.
        status: `model` untouched; `confirmed` (marking confirms too), `redrawn` or `added` by a person and so always
            counted; `removed` never counted.
    """

    key: str
    slide_id: int
    number: int
    outline: Outline
    area_px: float
    score: float | None
    touches_edge: bool
    sclerosed: bool
    status: Status

    @property
    def is_there(self) -> bool:
        """Whether nobody removed it."""
        return self.status != "removed"

    def counts(self, limits: Limits, um_per_px: float | None) -> bool:
        """Whether the report counts it: a person's word always stands, the model's within the limits."""
        if self.status != "model":
            return self.is_there
        return (
            (self.score or 0.0) >= limits.min_score
            and limits.min_diameter <= self.diameter(um_per_px) <= limits.max_diameter
            and not (self.touches_edge and limits.edge == "leave_out")
        )

    def diameter(self, um_per_px: float | None) -> float:
        """Diameter of the circle of the same area, in um where the scale is known, else in px of level 0."""
        return 2 * math.sqrt(self.area_px / math.pi) * (um_per_px or 1.0)


def standing(
    session: Session, analysis_id: int, slide_id: int | None = None, *, keys: Collection[str] | None = None
) -> list[ReviewedGlomerulus]:
    """Every glomerulus of an analysis as it stands now, removed ones included, slide by slide in order of number.

    One whose drawing was undone is not there at all, nor are those on withdrawn slides.

    Args:
        session: An open session.
        analysis_id: The analysis.
        slide_id: Only the glomeruli of this slide.
        keys: Only the glomeruli with these keys.
    """
    slides = _slides(session, analysis_id, slide_id)
    said = corrections(session, analysis_id, slide_id=slide_id)
    numbers = _numbers(session, analysis_id, slides, said)
    findings = select(*_FINDING_COLUMNS).where(
        GlomerulusFinding.analysis_id == analysis_id, GlomerulusFinding.slide_id.in_(list(slides))
    )
    if keys is not None and len(keys) <= _FEW_KEYS:
        ids = [int(key[1:]) for key in keys if key in numbers and key.startswith("f")]
        findings = findings.where(GlomerulusFinding.id.in_(ids))
    histories = by_key(said)
    items = []
    for finding_id, on_slide, outline, area_px, score, touches_edge in session.execute(findings):
        key = f"f{finding_id}"
        items.append(
            ReviewedGlomerulus(
                key, on_slide, numbers[key], _points(outline), area_px, score, touches_edge, False, "model"
            )
        )
    for key, history in histories.items():
        if history[0].action == "add" and still_standing(history):
            drawn = ReviewedGlomerulus(key, history[0].slide_id, numbers[key], (), 0.0, None, False, False, "added")
            items.append(drawn)
    order = {key: place for place, key in enumerate(slides)}
    return sorted(
        (
            _replayed(item, still_standing(histories.get(item.key, ())), slides[item.slide_id])
            for item in items
            if keys is None or item.key in keys
        ),
        key=lambda item: (order[item.slide_id], item.number),
    )


def counts(session: Session, analysis_ids: Collection[int]) -> dict[int, int]:
    """How many glomeruli count on each slide that was searched in these analyses, without reading an outline."""
    of = {analysis_id: limits_of(analyses.get(session, analysis_id)) for analysis_id in analysis_ids}
    scales = dict(
        session.execute(
            select(SlideResult.slide_id, Slide.um_per_px)
            .join(Slide, Slide.id == SlideResult.slide_id)
            .where(SlideResult.analysis_id.in_(of))
        ).all()
    )
    counted = Counter(dict.fromkeys(scales, 0))
    said: dict[str, list[GlomerulusCorrection]] = by_key(
        session.scalars(
            select(GlomerulusCorrection)
            .where(GlomerulusCorrection.analysis_id.in_(of))
            .options(defer(GlomerulusCorrection.outline))
            .order_by(GlomerulusCorrection.id)
        )
    )
    stand = {key: still_standing(history) for key, history in said.items()}
    for key, history in said.items():
        last = stand[key][-1:]
        counted[history[0].slide_id] += sum(row.action != "remove" for row in last)
    untouched = session.execute(
        select(*(column for column in _FINDING_COLUMNS if column is not GlomerulusFinding.outline))
        .add_columns(GlomerulusFinding.analysis_id)
        .where(GlomerulusFinding.analysis_id.in_(of))
    )
    for finding_id, slide_id, area_px, score, touches_edge, analysis_id in untouched:
        if stand.get(f"f{finding_id}"):
            continue
        item = ReviewedGlomerulus("", slide_id, 0, (), area_px, score, touches_edge, False, "model")
        counted[slide_id] += item.counts(of[analysis_id], scales[slide_id])
    return dict(counted)


def version(session: Session, analysis_id: int, slide: Slide) -> str:
    """What is another one whenever a glomerulus of a slide, what is said of it, the limits or the scale change."""
    last = session.scalar(
        select(func.max(GlomerulusCorrection.id)).where(
            GlomerulusCorrection.analysis_id == analysis_id, GlomerulusCorrection.slide_id == slide.id
        )
    )
    limits = limits_to_json(limits_of(analyses.get(session, analysis_id)))
    return f"{last or 0} {slide.um_per_px} {' '.join(map(str, limits.values()))}"


def limits_of(analysis: Analysis) -> Limits:
    """Which of the model's glomeruli count in an analysis."""
    return limits_from_json(analysis.options.get("limits") or {})


def limits_from_json(kept: Mapping[str, Any]) -> Limits:
    """Limits as an analysis or a signed report keeps them; what is not there limits nothing."""
    known = {name: value for name, value in kept.items() if value is not None}
    return Limits(**known)


def limits_to_json(limits: Limits) -> dict[str, Any]:
    """Limits as an analysis and a signed report keep them: no greatest diameter is null."""
    return {
        "edge": limits.edge,
        "min_score": limits.min_score,
        "min_diameter": limits.min_diameter,
        "max_diameter": limits.max_diameter if math.isfinite(limits.max_diameter) else None,
    }


def _slides(session: Session, analysis_id: int, slide_id: int | None) -> dict[int, Slide]:
    """The slides that an analysis is of and that are not withdrawn, in their order."""
    wanted = (
        select(Slide)
        .join(Analysis, Analysis.specimen_id == Slide.specimen_id)
        .where(Analysis.id == analysis_id, Slide.withdrawn_at.is_(None))
        .order_by(Slide.position, Slide.id)
    )
    if slide_id is not None:
        wanted = wanted.where(Slide.id == slide_id)
    return {slide.id: slide for slide in session.scalars(wanted)}


def corrections(session: Session, analysis_id: int, *, slide_id: int | None = None) -> list[GlomerulusCorrection]:
    """Corrections on slides that are not withdrawn, oldest first."""
    wanted = (
        select(GlomerulusCorrection)
        .join(Slide, Slide.id == GlomerulusCorrection.slide_id)
        .where(GlomerulusCorrection.analysis_id == analysis_id, Slide.withdrawn_at.is_(None))
        .order_by(GlomerulusCorrection.id)
    )
    if slide_id is not None:
        wanted = wanted.where(GlomerulusCorrection.slide_id == slide_id)
    return list(session.scalars(wanted))


def _numbers(
    session: Session, analysis_id: int, slides: Mapping[int, Slide], corrections: Sequence[GlomerulusCorrection]
) -> dict[str, int]:
    """What each glomerulus that was ever found or added on these slides is called, by its key."""
    found = session.execute(
        select(GlomerulusFinding.id, GlomerulusFinding.slide_id)
        .where(GlomerulusFinding.analysis_id == analysis_id, GlomerulusFinding.slide_id.in_(list(slides)))
        .order_by(GlomerulusFinding.id)
    )
    last: Counter[int] = Counter()
    numbers = {}
    added = [(f"c{row.id}", row.slide_id) for row in corrections if row.action == "add"]
    for key, slide_id in [*((f"f{finding_id}", slide_id) for finding_id, slide_id in found), *added]:
        last[slide_id] += 1
        numbers[key] = last[slide_id]
    return numbers


def _replayed(
    item: ReviewedGlomerulus, corrections: Sequence[GlomerulusCorrection], slide: Slide
) -> ReviewedGlomerulus:
    redrawn = False
    for correction in corrections:
        if correction.action == "remove":
            item = replace(item, status="removed")
            continue
        if correction.outline is not None:
            item = _with_outline(item, correction.outline, slide)
            redrawn = True
        if correction.action in ("mark_sclerosed", "unmark_sclerosed"):
            item = replace(item, sclerosed=correction.action == "mark_sclerosed")
        item = replace(item, status="added" if item.score is None else "redrawn" if redrawn else "confirmed")
    return item


def _with_outline(item: ReviewedGlomerulus, outline: Sequence[float], slide: Slide) -> ReviewedGlomerulus:
    points = _points(outline)
    touches = any(x <= 0 or y <= 0 or x >= slide.width_px or y >= slide.height_px for x, y in points)
    return replace(item, outline=points, area_px=float(shapely.Polygon(points).area), touches_edge=touches)


def _points(outline: Sequence[float]) -> Outline:
    return tuple(zip(outline[::2], outline[1::2], strict=True))
