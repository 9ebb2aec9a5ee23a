"""What people do to the glomeruli of a slide: confirm, remove, redraw, add and mark them, and set which count.

What stands after it is told in `db.reviewed_glomeruli`, whose names are handed on here. Nothing is overwritten: each
correction is a new row, and undoing one is a new row too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import numpy as np
import shapely
from numpy.typing import ArrayLike
from sqlalchemy.orm import Session

from db import analyses, audit
from db.corrections import by_key, last_action, restorable
from db.engine import now
from db.models import Analysis, GlomerulusAction, GlomerulusCorrection, Slide, Specimen, User
from db.reviewed_glomeruli import (
    Outline,
    ReviewedGlomerulus,
    corrections,
    limits_of,
    limits_to_json,
    standing,
)
from renalcore.errors import InputError, NotFound
from renalcore.histology.measure import Limits

MOST_POINTS = 10_000
"""Points that a drawn outline may have: one drawn with a steady hand round the largest glomerulus has a tenth."""

_LEAST_SHARE = 0.9  # of a drawn outline that crosses itself, what its largest part must hold to be what was meant
_FAR = 10  # slides away


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
    histories = by_key(corrections(session, analysis_id))
    return _correct(session, analysis_id, keys, "restore", lambda item: restorable(histories, item.key), by=by)


def undo_last(session: Session, analysis_id: int, by: User) -> int:
    """Take back the last thing that this person did in this review, whether to one glomerulus or to many at once.

    Returns:
        How many changed; 0 where there is nothing left to undo.

    Raises:
        Conflict: The specimen is signed or being analysed, or another person has corrected the same since.
    """
    analysis, specimen = analyses.hold_for_review(session, analysis_id)
    last = last_action(by_key(corrections(session, analysis_id)), by)
    if not last:
        return 0
    before = {item.key: item for item in standing(session, analysis_id, keys=last)}
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
    _set_limits(session, *analyses.hold_for_review(session, analysis_id), limits, by=by)


def forget_diameters(session: Session, specimen: Specimen, *, by: User) -> None:
    """Take the limits of diameter away: set in px, they would now be taken for um, or the other way round."""
    analysis = analyses.current(session, specimen.id)
    if analysis is not None:
        kept = replace(limits_of(analysis), min_diameter=0.0, max_diameter=math.inf)
        _set_limits(session, analysis, specimen, kept, by=by)


def _set_limits(session: Session, analysis: Analysis, specimen: Specimen, limits: Limits, *, by: User) -> None:
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
    found = {item.key: item for item in standing(session, analysis.id, keys=set(keys))}
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
    after = {item.key: item for item in standing(session, analysis.id, keys=set(keys))}
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
