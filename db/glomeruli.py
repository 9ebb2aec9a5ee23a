"""What stands on each slide: the model's glomeruli with every person's corrections folded over them.

Findings and corrections are only ever added; `db.corrections` says which of a glomerulus's corrections still stand.
Which of the model's glomeruli count is a matter of limits, which are kept with the analysis and can be moved without
running it again; what a person has confirmed, redrawn, marked or added counts whatever the limits.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal

import numpy as np
import shapely
from numpy.typing import ArrayLike
from sqlalchemy import func, select
from sqlalchemy.orm import Session, defer

from db import analyses, audit
from db.corrections import by_key, last_action, restorable
from db.corrections import standing as still_standing
from db.engine import now
from db.models import (
    Analysis,
    GlomerulusAction,
    GlomerulusCorrection,
    GlomerulusFinding,
    Slide,
    SlideResult,
    Specimen,
    User,
)
from renalcore.errors import InputError, NotFound
from renalcore.histology.measure import Limits

Status = Literal["model", "confirmed", "redrawn", "added", "removed"]
Outline = tuple[tuple[float, float], ...]

MOST_POINTS = 10_000
"""Points that a drawn outline may have: one drawn with a steady hand round the largest glomerulus has a tenth."""

_LEAST_SHARE = 0.9  # of a drawn outline that crosses itself, what its largest part must hold to be what was meant
_FAR = 10  # slides away
_FEW_KEYS = 500  # more are read together with all others


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


def standing(session: Session, analysis_id: int, slide_id: int | None = None) -> list[ReviewedGlomerulus]:
    """Every glomerulus of an analysis as it stands now, removed ones included, slide by slide in order of number.

    One whose drawing was undone is not there at all, nor are those on withdrawn slides.

    Args:
        session: An open session.
        analysis_id: The analysis.
        slide_id: Only the glomeruli of this slide.
    """
    return _standing(session, analysis_id, slide_id=slide_id)


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


def checked_outline(outline: ArrayLike, *, width_px: int, height_px: int) -> list[float]:
    """A drawn outline as `x1, y1, x2, y2, ...`, cut to the slide; where the hand crossed its line, without the loops.

    Args:
        outline: The points, as pairs or one after the other, in px of level 0.
        width_px: Width of the slide.
        height_px: Its height.

    Raises:
        InputError: They are no points, the outline crosses itself so that nobody can tell what is meant, or nothing of
            it lies on the slide.
    """
    try:
        points = np.asarray(outline, np.float64).reshape(-1, 2)
    except (TypeError, ValueError):
        raise InputError("An outline is a row of points x, y. Draw it again.") from None
    if not 3 <= len(points) <= MOST_POINTS or not np.isfinite(points).all():
        raise InputError(f"An outline has 3 to {MOST_POINTS:,} points, this one has {len(points)}. Draw it again.")
    if np.abs(points).max() > _FAR * max(width_px, height_px):
        raise InputError("The outline reaches far beyond the slide. Draw it again.")
    drawn = shapely.make_valid(shapely.Polygon(points), method="structure")
    whole = _largest(drawn)
    if whole.area < _LEAST_SHARE * drawn.area:
        raise InputError("The outline crosses itself. Draw it again, once around the glomerulus.")
    cut = _largest(shapely.set_precision(shapely.box(0, 0, width_px, height_px).intersection(whole), 0.01))
    if cut.area < 1:
        raise InputError(f"The outline encloses nothing on the slide of {width_px} x {height_px} px. Draw it again.")
    return [float(value) for value in np.asarray(cut.exterior.coords)[:-1].round(2).ravel()]


def add(session: Session, analysis_id: int, slide_id: int, outline: ArrayLike, *, by: User) -> str:
    """A person draws a glomerulus that the model missed.

    Args:
        session: An open session.
        analysis_id: The analysis.
        slide_id: A slide of its specimen.
        outline: Its outline, see `checked_outline`.
        by: Who draws it.

    Returns:
        The key of the new glomerulus.

    Raises:
        Conflict: The specimen is signed or being analysed.
        InputError: The outline is none.
        NotFound: The slide is none of this specimen, or was withdrawn.
    """
    analysis, specimen = analyses.hold_for_review(session, analysis_id)
    slide = session.get(Slide, slide_id)
    if slide is None or slide.specimen_id != specimen.id:
        raise NotFound(f"Slide {slide_id} does not belong to specimen {specimen.accession}.")
    if slide.withdrawn_at is not None:
        raise NotFound(f"{slide.name} was withdrawn from specimen {specimen.accession}. Reload the page.")
    inside = checked_outline(outline, width_px=slide.width_px, height_px=slide.height_px)
    correction = _row(analysis, slide_id, "add", by=by, outline=inside)
    session.add(correction)
    session.flush()
    key = f"c{correction.id}"
    _record(session, analysis, specimen, "add", {}, [key], by=by)
    return key


def redraw(session: Session, analysis_id: int, key: str, outline: ArrayLike, *, by: User) -> None:
    """A person draws the outline of a glomerulus anew; one that was removed is there again.

    Raises:
        Conflict: The specimen is signed or being analysed.
        InputError: The outline is none.
        NotFound: The glomerulus is none of this analysis.
    """
    analysis, specimen = analyses.hold_for_review(session, analysis_id)
    before = _known(session, analysis, specimen, [key])
    slide = session.get_one(Slide, before[key].slide_id)
    inside = checked_outline(outline, width_px=slide.width_px, height_px=slide.height_px)
    session.add(_row(analysis, slide.id, "redraw", by=by, key=key, outline=inside))
    session.flush()
    _record(session, analysis, specimen, "redraw", before, [key], by=by)


def confirm(session: Session, analysis_id: int, keys: Sequence[str], *, by: User) -> int:
    """A person agrees with the model: these glomeruli count whatever the limits.

    Returns:
        How many changed; those that a person had decided on already stay as they are.

    Raises:
        Conflict: The specimen is signed or being analysed.
        NotFound: A glomerulus is none of this analysis.
    """
    return _correct(session, analysis_id, keys, "confirm", lambda item: item.status in ("model", "removed"), by=by)


def remove(session: Session, analysis_id: int, keys: Sequence[str], *, by: User) -> int:
    """These are no glomeruli: they no longer count. Returns how many changed; raises as `confirm` does."""
    return _correct(session, analysis_id, keys, "remove", lambda item: item.is_there, by=by)


def mark_sclerosed(session: Session, analysis_id: int, keys: Sequence[str], *, by: User) -> int:
    """These glomeruli are globally sclerosed, and so are there; removed ones stay removed.

    Returns how many changed; raises as `confirm` does.
    """
    return _correct(
        session, analysis_id, keys, "mark_sclerosed", lambda item: item.is_there and not item.sclerosed, by=by
    )


def unmark_sclerosed(session: Session, analysis_id: int, keys: Sequence[str], *, by: User) -> int:
    """These glomeruli are not globally sclerosed. Returns how many changed; raises as `confirm` does."""
    return _correct(
        session, analysis_id, keys, "unmark_sclerosed", lambda item: item.is_there and item.sclerosed, by=by
    )


def restore(session: Session, analysis_id: int, keys: Sequence[str], *, by: User) -> int:
    """Take back the last correction that stands on each of these glomeruli, except that it was added.

    Returns how many changed; raises as `confirm` does.
    """
    histories = by_key(_corrections(session, analysis_id))
    return _correct(session, analysis_id, keys, "restore", lambda item: restorable(histories, item.key), by=by)


def undo_last(session: Session, analysis_id: int, by: User) -> int:
    """Take back the last thing that this person did in this review, whether to one glomerulus or to many at once.

    Returns:
        How many changed; 0 where there is nothing left to undo.

    Raises:
        Conflict: The specimen is signed or being analysed, or another person has corrected the same since.
    """
    analysis, specimen = analyses.hold_for_review(session, analysis_id)
    last = last_action(by_key(_corrections(session, analysis_id)), by)
    if not last:
        return 0
    before = {item.key: item for item in _standing(session, analysis_id, keys=last)}
    at = now()
    session.add_all(_row(analysis, row.slide_id, "restore", by=by, at=at, key=key) for key, row in last.items())
    session.flush()
    _record(session, analysis, specimen, "undo", before, sorted(last), by=by)
    return len(last)


def set_limits(session: Session, analysis_id: int, limits: Limits, *, by: User) -> None:
    """Set which of the model's glomeruli count; the model is not run again.

    Raises:
        Conflict: The specimen is signed or being analysed.
    """
    analysis, specimen = analyses.hold_for_review(session, analysis_id)
    before, after = limits_to_json(limits_of(analysis)), limits_to_json(limits)
    if before == after:
        return
    analysis.options = {**analysis.options, "limits": after}
    session.flush()
    audit.record(
        session,
        actor=by,
        action="analysis.set_limits",
        entity="analysis",
        entity_id=analysis.id,
        old={"limits": before},
        new={"accession": specimen.accession, "limits": after},
    )


def _largest(shape: shapely.Geometry) -> shapely.Polygon:
    parts = [part for part in shapely.get_parts([shape]) if isinstance(part, shapely.Polygon)]
    return max(parts, key=lambda part: part.area, default=shapely.Polygon())


def _correct(
    session: Session,
    analysis_id: int,
    keys: Sequence[str],
    action: GlomerulusAction,
    applies: Callable[[ReviewedGlomerulus], bool],
    *,
    by: User,
) -> int:
    analysis, specimen = analyses.hold_for_review(session, analysis_id)
    before = _known(session, analysis, specimen, keys)
    changing = [before[key] for key in dict.fromkeys(keys) if applies(before[key])]
    if not changing:
        return 0
    at = now()
    session.add_all(_row(analysis, item.slide_id, action, by=by, at=at, key=item.key) for item in changing)
    session.flush()
    _record(session, analysis, specimen, action, before, [item.key for item in changing], by=by)
    return len(changing)


def _known(
    session: Session, analysis: Analysis, specimen: Specimen, keys: Sequence[str]
) -> dict[str, ReviewedGlomerulus]:
    found = {item.key: item for item in _standing(session, analysis.id, keys=set(keys))}
    unknown = [key for key in keys if key not in found]
    if unknown:
        raise NotFound(
            f"No glomerulus {', '.join(unknown)} in the review of specimen {specimen.accession}. Reload the page."
        )
    return found


def _row(
    analysis: Analysis,
    slide_id: int,
    action: GlomerulusAction,
    *,
    by: User,
    at: datetime | None = None,
    key: str | None = None,
    outline: list[float] | None = None,
) -> GlomerulusCorrection:
    return GlomerulusCorrection(
        analysis_id=analysis.id,
        slide_id=slide_id,
        finding_id=int(key[1:]) if key and key.startswith("f") else None,
        added_id=int(key[1:]) if key and key.startswith("c") else None,
        action=action,
        outline=outline,
        by_id=by.id,
        at=at or now(),
    )


def _record(
    session: Session,
    analysis: Analysis,
    specimen: Specimen,
    action: str,
    before: Mapping[str, ReviewedGlomerulus],
    keys: Sequence[str],
    *,
    by: User,
) -> None:
    after = {item.key: item for item in _standing(session, analysis.id, keys=set(keys))}
    drawn = {key for key in keys if (old := before.get(key)) is None or old.outline != _outline_of(after.get(key))}

    def words(item: ReviewedGlomerulus | None) -> dict[str, Any] | None:
        if item is None:
            return None  # its drawing was undone
        said: dict[str, Any] = {"status": item.status, "sclerosed": item.sclerosed}
        return said | {"slide_id": item.slide_id, "outline": item.outline} if item.key in drawn else said

    audit.record(
        session,
        actor=by,
        action=f"glomerulus.{action}",
        entity="analysis",
        entity_id=analysis.id,
        old={"glomeruli": {key: words(before.get(key)) for key in keys}},
        new={"accession": specimen.accession, "glomeruli": {key: words(after.get(key)) for key in keys}},
    )


def _outline_of(item: ReviewedGlomerulus | None) -> Outline | None:
    return item.outline if item is not None else None


_FINDING_COLUMNS = (
    GlomerulusFinding.id, GlomerulusFinding.slide_id, GlomerulusFinding.outline, GlomerulusFinding.area_px,
    GlomerulusFinding.score, GlomerulusFinding.touches_edge,
)  # fmt: skip


def _standing(
    session: Session, analysis_id: int, *, slide_id: int | None = None, keys: Collection[str] | None = None
) -> list[ReviewedGlomerulus]:
    """As `standing`; only those with these keys where they are given."""
    slides = _slides(session, analysis_id, slide_id)
    corrections = _corrections(session, analysis_id, slide_id=slide_id)
    numbers = _numbers(session, analysis_id, slides, corrections)
    findings = select(*_FINDING_COLUMNS).where(
        GlomerulusFinding.analysis_id == analysis_id, GlomerulusFinding.slide_id.in_(list(slides))
    )
    if keys is not None and len(keys) <= _FEW_KEYS:
        ids = [int(key[1:]) for key in keys if key in numbers and key.startswith("f")]
        findings = findings.where(GlomerulusFinding.id.in_(ids))
    histories = by_key(corrections)
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


def _corrections(session: Session, analysis_id: int, *, slide_id: int | None = None) -> list[GlomerulusCorrection]:
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
