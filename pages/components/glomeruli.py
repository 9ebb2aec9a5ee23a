"""What is beside a slide under review: the limits within which the model's word counts, and what comes back of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from html import escape
from typing import Any

import streamlit as st
from sqlalchemy.orm import Session

from db import glomeruli, reviewed_glomeruli
from db.engine import session_scope
from db.models import Analysis, AuditEvent, User
from db.slide_reports import ReportedSlide, SlideReport
from pages.components import auth, links, signing, status, style
from pages.components.slide_viewer.events import Event
from renalcore.errors import RenalError
from renalcore.histology.measure import FEW, Limits, SclerosedShare

UNITS = {"um": "µm", "px": "px"}
_INSIDE = ' style="padding-left:0.8rem"'  # of lines that tell a part of the line above
_WRAPS = ' style="white-space:normal"'  # where the column is narrow, as on a tablet


def limits_in_words(limits: Limits, unit: str) -> str:
    """Which of the model's glomeruli count: `score at least 0.30, 60 to 300 µm, none cut by the slide's edge`.

    Args:
        limits: The limits.
        unit: Of the diameters: `um` or `px`.
    """
    words = []
    if limits.min_score > 0:
        words.append(f"score at least {limits.min_score:.2f}")
    if limits.min_diameter > 0 or math.isfinite(limits.max_diameter):
        greatest = f"at most {limits.max_diameter:g}"
        least = f"at least {limits.min_diameter:g}"
        both = f"{limits.min_diameter:g} to {limits.max_diameter:g}"
        size = greatest if not limits.min_diameter else least if math.isinf(limits.max_diameter) else both
        words.append(f"{size} {UNITS[unit]} across")
    if limits.edge == "leave_out":
        words.append("none cut by the slide's edge")
    return ", ".join(words) or "all that the model outlined"


def show(report: SlideReport, slide_id: int) -> None:
    """What is reported of a slide, and of the others of its specimen beside it.

    Slides are not added up: sections of one block show the same glomeruli again.

    Args:
        report: The report of the specimen.
        slide_id: The slide that is shown.
    """
    for slide in report.slides:
        if slide.slide_id == slide_id:
            st.html(_of_slide(slide))
    if len(report.slides) > 1:
        st.html(_of_specimen(report, slide_id))


def share_in_words(share: SclerosedShare) -> str:
    """How many are globally sclerosed: `3 of 42 = 7.1 %`, `none found` where there is no glomerulus."""
    if share.percent is None:
        return "none found"
    return f"{share.sclerosed} of {share.count} = {share.percent:.1f} %"


def few_html(share: SclerosedShare) -> str:
    """What stands beside a percentage that rests on few glomeruli; empty where it does not."""
    if share.percent is None or not share.note:
        return ""
    return f'<span title="{escape(share.note)}">{status.flag_html(f"Fewer than {FEW} glomeruli")}</span>'


def density_in_words(slide: ReportedSlide) -> str:
    """Glomeruli per mm2 of tissue, or why there is no such number."""
    if slide.um_per_px is None:
        return "scale unknown"
    return style.number(slide.summary.density_per_mm2, 2)


def length_in_words(length: float | None, unit: str) -> str:
    """A length with its unit, `um` or `px`; a dash where there is none."""
    return style.NO_VALUE if length is None else f"{style.number(length, 1 if unit == 'um' else 0)} {UNITS[unit]}"


def _of_slide(slide: ReportedSlide) -> str:
    told, unit = slide.summary, UNITS[slide.summary.unit]
    tissue = "scale unknown" if told.tissue_mm2 is None else f"{style.number(told.tissue_mm2, 2)} mm²"
    few = few_html(slide.sclerosed)
    few_line = f'<tr data-value="few"><td class="rc-num" colspan="2">{few}</td></tr>' if few else ""
    lines = [
        ("count", "Glomeruli", f"<strong>{style.number(told.count, 0)}</strong>"),
        ("cut", "cut by the slide's edge", style.number(told.cut, 0)),
        ("unreviewed", "unreviewed", style.number(slide.unreviewed, 0)),
        ("density", "Per mm² of tissue", density_in_words(slide)),
        ("tissue", "Tissue", tissue),
        ("sclerosed", "Globally sclerosed", share_in_words(slide.sclerosed)),
        ("diameter", "Mean diameter", length_in_words(told.mean_diameter, told.unit)),
        ("area", f"Mean area in {unit}²", style.number(told.mean_area, 0)),
        ("median", f"Median area in {unit}²", style.number(told.median_area, 0)),
    ]
    body = "".join(
        f'<tr data-value="{name}"><td{_INSIDE if name in ("cut", "unreviewed") else ""}>{escape(words)}</td>'
        f'<td class="rc-num">{value}</td></tr>' + (few_line if name == "sclerosed" else "")
        for name, words, value in lines
    )
    return (
        f'<table class="rc-table"><thead><tr><th>{escape(slide.name)}</th><th></th></tr></thead>'
        f"<tbody>{body}</tbody></table>"
    )


def _of_specimen(report: SlideReport, slide_id: int) -> str:
    lines = []
    for slide in report.slides:
        name = escape(slide.name)
        if slide.slide_id != slide_id:
            name = f'<a href="{links.address("slide", slide=slide.slide_id)}" target="_self">{name}</a>'
        density = "unknown" if slide.um_per_px is None else density_in_words(slide)
        lines.append(
            f'<tr><td>{name} <span class="rc-quiet-text">{escape(slide.stain)}</span></td>'
            f'<td class="rc-num">{style.number(slide.summary.count, 0)}</td><td class="rc-num">{density}</td>'
            f'<td class="rc-num"{_WRAPS}>{share_in_words(slide.sclerosed)}</td></tr>'
        )
    missing = report.slides_total - len(report.slides)
    left_out = f" {missing} without a result." if missing else ""
    if any(few_html(slide.sclerosed) for slide in report.slides):
        left_out += f" A share of fewer than {FEW} glomeruli is uncertain."
    return (
        '<table class="rc-table"><thead><tr><th>Slide</th><th class="rc-num">Glomeruli</th>'
        '<th class="rc-num">Per mm²</th><th class="rc-num">Sclerosed</th></tr></thead>'
        f'<tbody>{"".join(lines)}</tbody></table><p class="rc-quiet-text">Slides are not added up: sections of '
        f"one block show the same glomeruli again.{left_out}</p>"
    )


def signed_words(report: SlideReport) -> Iterator[str]:
    """What a reviewer is about to sign, as paragraphs of markdown."""
    yield (
        f"Specimen **{style.plain(report.accession)}**, patient **{style.plain(report.patient_identifier)}**, "
        f"model {style.plain(report.model_key or style.NO_VALUE)}."
    )
    yield "\n".join(f"- {style.plain(slide.name)}: {_signed_share(slide.sclerosed)}" for slide in report.slides)
    if report.limits != Limits():
        words = _limits_of_all(report.limits, {slide.summary.unit for slide in report.slides})
        yield f"Counted of the model: {style.plain(words)}."
    if report.unreviewed == 1:
        yield "1 glomerulus stands as the model outlined it; signing accepts it."
    elif report.unreviewed:
        yield f"{report.unreviewed} glomeruli stand as the model outlined them; signing accepts them."


def _limits_of_all(limits: Limits, units: Collection[str]) -> str:
    """Limits over slides of which some may have no scale."""
    words = dict.fromkeys(limits_in_words(limits, unit) for unit in sorted(units, reverse=True))
    return "; where the scale is unknown, ".join(words)


def _signed_share(share: SclerosedShare) -> str:
    if not share.count:
        return "**no** glomeruli."
    glomeruli_words = "glomerulus" if share.count == 1 else "glomeruli"
    return (
        f"**{share.count}** {glomeruli_words}, globally sclerosed {style.plain(share_in_words(share))}. "
        f"{style.plain(share.note)}"
    )


_DONE = {
    "confirm": "confirmed",
    "remove": "removed",
    "restore": "restored",
    "undo": "undone",
    "add": "added by hand",
    "redraw": "redrawn",
    "mark_sclerosed": "marked as globally sclerosed",
    "unmark_sclerosed": "marked as not sclerosed",
}


def change_in_words(event: AuditEvent, numbers: Mapping[str, int], unit: str) -> str | None:
    """What was done to a specimen of slides, as a technologist would say it; None for events of other kinds.

    Args:
        event: An event of the specimen, of one of its slides, or of its analysis.
        numbers: What the glomeruli of the slide that is shown are called, by their keys.
        unit: Of diameters on that slide: `um` or `px`.
    """
    new, kind = event.new or {}, event.action.removeprefix("glomerulus.")
    if event.action.startswith("glomerulus.") and kind in _DONE:
        keys = list(new["glomeruli"])
        called = ", ".join(str(number) for number in sorted(numbers[key] for key in keys if key in numbers))
        what = "Glomeruli" if len(keys) > 1 else "Glomerulus"
        return f"{what}{' ' * bool(called)}{called} {_DONE[kind]}"
    match event.action:
        case "analysis.set_limits":
            return f"Counted of the model: {limits_in_words(reviewed_glomeruli.limits_from_json(new['limits']), unit)}"
        case "slide.set_scale":
            scale = new["um_per_px"]
            return "Scale taken back" if scale is None else f"Scale set to {scale:g} µm/px"
        case "specimen.reassign":
            return f"Moved from patient {event.old['patient']} to {new['patient']}: {event.reason}"
        case "specimen.change_date":
            return signing.date_changed(event, "Date of collection")
        case "specimen.withdraw_slide":
            return f"{new['name']} withdrawn: {event.reason}"
        case "specimen.bring_back_slide":
            return f"{new['name']} brought back"
        case "specimen.add_slides":
            number = len(new["added"])
            return "1 slide added" if number == 1 else f"{number} slides added"
    return None


def limits_form(current: Analysis, unit: str) -> None:
    """Widgets that say which of the model's glomeruli count; each acts at once, and the model is not run again.

    Args:
        current: The analysis under review.
        unit: Of the diameters on the slide that is shown: `um` or `px`.
    """
    limits = reviewed_glomeruli.limits_of(current)
    names = ("edge", "score", "least", "greatest")
    keys = {name: f"limits-{name}-{current.id}" for name in names}
    # What stands in the database is what the widgets show, also after a refusal or another person's change.
    st.session_state[keys["edge"]] = limits.edge == "leave_out"
    st.session_state[keys["score"]] = limits.min_score
    st.session_state[keys["least"]] = limits.min_diameter or None
    st.session_state[keys["greatest"]] = limits.max_diameter if math.isfinite(limits.max_diameter) else None

    def change() -> None:
        user = auth.current()
        if user is None:
            return  # the page says so below
        chosen = {name: st.session_state[key] for name, key in keys.items()}
        complain(current.id, lambda session: _set_limits(session, current.id, chosen, by=user))

    st.slider("Least score", 0.0, 1.0, step=0.01, format="%.2f", key=keys["score"], on_change=change)
    for column, name, label in zip(st.columns(2), ("least", "greatest"), ("Least", "Greatest"), strict=True):
        column.number_input(
            f"{label} {UNITS[unit]} across",
            min_value=0.0,
            step=10.0,
            format="%g",
            key=keys[name],
            placeholder="no limit",
            on_change=change,
            help="Diameter of the circle of the same area. Limits hold for all slides of the specimen, in µm where the "
            "scale is known and in px where it is not.",
        )
    st.checkbox("Leave out those cut by the slide's edge", key=keys["edge"], on_change=change)


def _set_limits(session: Session, analysis_id: int, chosen: Mapping[str, Any], *, by: User) -> None:
    least, greatest = chosen["least"] or 0.0, chosen["greatest"] or math.inf
    limits = Limits(
        edge="leave_out" if chosen["edge"] else "keep",
        min_score=round(chosen["score"], 4),
        min_diameter=min(least, greatest),
        max_diameter=max(least, greatest),
    )
    glomeruli.set_limits(session, analysis_id, limits, by=by)


def complain(analysis_id: int, action: Callable[[Session], object]) -> None:
    """Do something to a review in a transaction of its own; what is refused is told beside the picture."""
    try:
        with session_scope() as session:
            action(session)
    except RenalError as error:
        st.session_state[f"glomeruli-complaint-{analysis_id}"] = str(error)


def complaint(analysis_id: int) -> None:
    """What was refused last, once."""
    words = st.session_state.pop(f"glomeruli-complaint-{analysis_id}", None)
    if words:
        st.error(style.plain(words))


def apply(analysis_id: int, slide_id: int, event: Event, *, by: User) -> None:
    """Do what was done in the viewer or the gallery; a refusal is kept for `complaint`.

    Args:
        analysis_id: The analysis under review.
        slide_id: The slide that is shown.
        event: What the viewer handed over, see `slide_viewer`.
        by: Who did it.
    """
    complain(analysis_id, lambda session: _correct(session, analysis_id, slide_id, event, by=by))


def _correct(session: Session, analysis_id: int, slide_id: int, event: Event, *, by: User) -> None:
    keys = event["keys"]
    match event["action"]:
        case "add":
            glomeruli.add(session, analysis_id, slide_id, event["outline"], by=by)
        case "redraw":
            glomeruli.redraw(session, analysis_id, keys[0], event["outline"], by=by)
        case "confirm":
            glomeruli.confirm(session, analysis_id, keys, by=by)
        case "remove":
            glomeruli.remove(session, analysis_id, keys, by=by)
        case "restore":
            glomeruli.restore(session, analysis_id, keys, by=by)
        case "mark_sclerosed":
            glomeruli.mark_sclerosed(session, analysis_id, keys, by=by)
        case "unmark_sclerosed":
            glomeruli.unmark_sclerosed(session, analysis_id, keys, by=by)
        case "undo":
            glomeruli.undo_last(session, analysis_id, by)
