"""One slide: the picture, its glomeruli as they were found and corrected, what they add up to, and the signature."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from html import escape

import streamlit as st

from db import (
    analyses,
    audit,
    glomeruli,
    patients,
    reviews,
    slide_list,
    slide_reports,
    slide_searches,
    slides,
    specimens,
)
from db.engine import session_scope
from db.models import Analysis, Patient, Slide, Specimen
from db.slides import LARGEST_UM_PER_PX, SMALLEST_UM_PER_PX
from pages.components import analysis as asking
from pages.components import auth, download, links, scales, signing, specimen_menu, status, style
from pages.components import glomeruli as beside
from pages.components.glomerulus_gallery import glomerulus_gallery
from pages.components.slide_viewer import slide_viewer
from pages.components.slide_viewer.events import Event
from renalcore.errors import NotFound, RenalError
from renalcore.io.image import safe_name

REFRESH_S = 2.0

_CSS = """
<style>
[data-testid="stMainBlockContainer"]:has(.st-key-slide-head) { padding-top: 1.6rem; padding-bottom: 0.5rem; }
[data-testid="stHeader"], [data-testid="stHeader"] * { pointer-events: none; }
[data-testid="stHeader"] button, [data-testid="stHeader"] button * { pointer-events: auto; }
.st-key-slide-head { padding-left: 1.4rem; }
.st-key-slide-side { max-height: calc(100vh - 150px); overflow-y: auto; padding-right: 0.4rem; }
.st-key-slide-side table.rc-table { font-size: 0.88rem; }
@media (max-width: 1000px) {
  .st-key-slide-body > div > [data-testid="stHorizontalBlock"],
  .st-key-slide-body > [data-testid="stLayoutWrapper"] > [data-testid="stHorizontalBlock"] { flex-direction: column; }
  .st-key-slide-body [data-testid="stColumn"] { width: 100%; flex: 1 1 auto; }
  .st-key-slide-side { max-height: none; }
}
</style>
"""


def _asked_slide() -> Slide:
    asked = st.query_params.get("slide", "")
    try:
        with session_scope(read_only=True) as session:
            return slides.get(session, int(asked) if asked.isdigit() else 0)
    except NotFound:
        style.page_header("Slide")
        style.empty_state("No such slide.", "Choose one from the list.")
        if st.button("All slides", key="slide-none"):
            links.open_page("slides")
        st.stop()


def _scale(slide: Slide, user: auth.CurrentUser) -> None:
    """Where a person says the scale of a slide whose file does not."""
    with st.popover("Set scale" if slide.um_per_px is None else "Change scale", key=f"scale-{slide.id}"):
        um_per_px = st.number_input(
            "µm per pixel",
            min_value=SMALLEST_UM_PER_PX,
            max_value=LARGEST_UM_PER_PX,
            value=slide.um_per_px,
            step=0.01,
            format="%.4f",
            key=f"um-{slide.id}",
            placeholder="Unknown",
            help="From the scanner's settings: about 0.25 at 40x, 0.5 at 20x. Empty means unknown.",
        )
        if st.button("Save", type="primary", key=f"save-scale-{slide.id}", disabled=um_per_px == slide.um_per_px):
            try:
                with session_scope() as session:
                    slides.set_scale(session, slide.id, um_per_px, by=user)
            except RenalError as error:
                st.error(style.plain(str(error)))
            else:
                st.rerun()


def _header(
    slide: Slide,
    specimen: Specimen,
    patient: Patient,
    siblings: list[Slide],
    current: Analysis | None,
    user: auth.CurrentUser,
) -> None:
    facts = [
        slide.stain,
        slide.species,
        *([f"{slide.objective:g}x"] if slide.objective else []),
        f"{style.number(slide.width_px, 0)} × {style.number(slide.height_px, 0)} px",
        scales.with_source(slide),
        slide.format,
    ]
    name = f" {escape(patient.name)}" if patient.name else ""
    flags = "".join(
        f' <span title="{escape(flag["message"])}">{status.flag_html(flag["code"].replace("_", " "))}</span>'
        for flag in slide.flags
    )
    withdrawn = "" if slide.withdrawn_at is None else f" {status.flag_html('withdrawn')}"
    with (
        st.container(key="slide-head"),
        st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"),
    ):
        st.html(
            f'<h1 style="display:inline">{escape(specimen.accession)} · {escape(slide.name)}</h1> &nbsp; '
            f"{status.state_chip_html(slide_list.state_of(specimen, current))}{withdrawn}"
            f'<p class="rc-subtitle"><a href="{links.address("patient", patient=patient.id)}" target="_self">'
            f"{escape(patient.identifier)}</a>{name} · {escape(' · '.join(facts))}{flags}</p>",
            width="stretch",
        )
        with st.container(horizontal=True, width="content", vertical_alignment="center"):
            if {one.id for one in siblings} - {slide.id}:
                _other_slides(slide, siblings)
            if slide.scale_from != "file" and specimen.state != "signed":
                _scale(slide, user)
            if current is not None and current.state == "done":
                _exports(slide, specimen)
            specimen_menu.menu(specimen, slide.id, user)
            if st.button("All slides", key=f"all-{slide.id}"):
                links.open_page("slides")
            _primary_action(specimen, current, user)


def _other_slides(slide: Slide, siblings: list[Slide]) -> None:
    names = {one.id: f"{one.name} ({one.stain})" for one in siblings}
    chosen = st.selectbox(
        "Slide of this specimen",
        list(names),
        index=list(names).index(slide.id) if slide.id in names else None,
        format_func=names.__getitem__,
        key=f"beside-{slide.id}-{slide.id in names}",
        placeholder="Other slides",
        label_visibility="collapsed",
        width=190,
    )
    if chosen is not None and chosen != slide.id:
        links.open_page("slide", slide=chosen)


def _exports(slide: Slide, specimen: Specimen) -> None:
    """What leaves of a specimen, as it stands or as it was signed."""
    same = {"entity": "specimen", "entity_id": specimen.id, "specimen_id": specimen.id}
    with st.popover("Export", key=f"export-{slide.id}"):
        for table, words in (("glomeruli", "CSV, a row a glomerulus"), ("slides", "CSV, a row a slide")):
            file_name = f"{specimen.accession}-{table}.csv"
            download.glomeruli_button(words, table, key=f"{table}-{specimen.id}", file_name=file_name, **same)
        if slide.withdrawn_at is None:
            file_name = f"{specimen.accession}-{safe_name(slide.name)}.geojson"
            download.geojson_button(
                "GeoJSON of this slide, for QuPath", slide.id, key=f"geojson-{slide.id}", file_name=file_name
            )


def _primary_action(specimen: Specimen, current: Analysis | None, user: auth.CurrentUser) -> None:
    """The one thing to do next, by the state of the specimen; nothing where somebody else must do it."""
    may_analyse = current is None and asking.is_installed("histology")
    if may_analyse and st.button("Analyse", type="primary", key=f"analyse-{specimen.id}"):
        _act(lambda: _analyse(specimen.id, user))
    has_failed = current is not None and current.state == "failed"
    if has_failed and st.button("Retry", type="primary", key=f"retry-{current.id}"):
        _act(lambda: asking.retry(current.id, by=user))
    is_reviewer = user.role == "reviewer"
    may_sign = is_reviewer and specimen.state == "needs_review"
    if may_sign and st.button("Sign", type="primary", key=f"sign-{specimen.id}"):
        signing.sign(specimen.id, _signed_words, user, reviewed="slides and glomeruli of this specimen")
    may_reopen = is_reviewer and specimen.state == "signed"
    if may_reopen and st.button("Reopen for amendment", key=f"reopen-{specimen.id}"):
        signing.reopen(specimen.id)


def _act(action: Callable[[], object]) -> None:
    try:
        action()
    except RenalError as error:
        st.error(style.plain(str(error)))
    else:
        st.rerun()


def _analyse(specimen_id: int, user: auth.CurrentUser) -> None:
    with session_scope() as session:
        asked = asking.request(session, specimens.get(session, specimen_id), by=user)
    asking.send(asked.id)


def _signed_words(specimen_id: int) -> Iterator[str]:
    with session_scope(read_only=True) as session:
        return beside.signed_words(slide_reports.report(session, specimen_id))


def _body(slide_id: int) -> None:
    """The picture and what is beside it; runs by itself at each correction."""
    user = auth.require()
    with session_scope(read_only=True) as session:
        slide = slides.get(session, slide_id)
        specimen = specimens.get(session, slide.specimen_id)
        current = analyses.current(session, specimen.id)
        is_found = current is not None and current.state == "done" and slide.withdrawn_at is None
        version = glomeruli.version(session, current.id, slide) if current is not None and is_found else ""
    found_by = current.id if current is not None and is_found else None

    def act(event: Event) -> None:
        # Asked anew at each action. Who is signed out meanwhile is told so below, in place of the picture.
        signed_in = auth.current()
        if signed_in is not None and found_by is not None:
            _act_on(event, found_by, slide_id, signed_in)

    with st.container(key="slide-body"):
        left, right = st.columns([2.7, 1], gap="medium")
        with left:
            slide_viewer(
                slide,
                analysis_id=found_by,
                version=version,
                editable=is_found and specimen.state == "needs_review",
                selected=st.query_params.get("glomerulus"),
                on_event=act,
            )
        with right, st.container(key="slide-side"):
            if slide.withdrawn_at is not None:
                specimen_menu.withdrawn(specimen, slide)
            if current is None:
                _not_analysed(specimen)
            elif current.state in ("queued", "running"):
                st.fragment(_progress, run_every=REFRESH_S)(current.id, current.state)
            elif current.state == "failed":
                _failed(specimen, current, user)
            else:
                _result(slide, specimen, current, user)
            if found_by is not None:
                glomerulus_gallery(
                    slide,
                    analysis_id=found_by,
                    version=version,
                    selected=st.query_params.get("glomerulus"),
                    on_event=act,
                )
            history = st.expander("History", key=f"history-{slide.id}", on_change="rerun")
            if history.open:  # it reads all that was ever said, so nobody waits for it before asking
                with history:
                    _history(specimen, slide, current)


def _act_on(event: Event, analysis_id: int, slide_id: int, user: auth.CurrentUser) -> None:
    """Do what was done in the picture or the gallery; what is selected stands in the address."""
    if event["action"] != "select":
        beside.apply(analysis_id, slide_id, event, by=user)
    elif len(event["keys"]) == 1:
        st.query_params["glomerulus"] = event["keys"][0]
    else:
        st.query_params.pop("glomerulus", None)


def _not_analysed(specimen: Specimen) -> None:
    if asking.no_glomeruli_are_found():
        return
    if specimen.state == "cancelled":
        style.empty_state("The analysis was cancelled.", "Press **Analyse** to have the glomeruli looked for.")
    else:
        style.empty_state("Not analysed yet.", "Press **Analyse** to have the glomeruli looked for.")


def _progress(analysis_id: int, shown_state: str) -> None:
    """How far the search of the specimen is; runs by itself until it begins or ends, which the whole page shows."""
    user = auth.require(keep_alive=False)
    with session_scope(read_only=True) as session:
        current = analyses.get(session, analysis_id)
        done, total = analyses.progress(session, analysis_id)
    if current.state != shown_state:
        st.rerun()
    status.progress(done, total, started=current.state == "running", unit="tiles")
    st.html(
        '<p class="rc-quiet-text">Glomeruli are outlined here when all slides of the specimen are done. '
        "You may leave this page.</p>"
    )
    if st.button("Cancel", key=f"cancel-{analysis_id}"):
        _act(lambda: asking.cancel(analysis_id, by=user))
    status.worker_banner()


def _failed(specimen: Specimen, current: Analysis, user: auth.CurrentUser) -> None:
    st.error(f"The analysis {style.plain(status.state_words('failed', message=current.message))}")
    with session_scope(read_only=True) as session:
        lacking = slide_searches.pending_slides(session, current.id)
    with st.container(horizontal=True):
        if lacking and st.button(specimen_menu.withdraw_words("histology"), key=f"withdraw-{current.id}"):
            specimen_menu.withdraw(specimen, lacking[0].id)
        if st.button("Dismiss", key=f"dismiss-{current.id}", help="Leave it; an earlier analysis counts again"):
            _act(lambda: asking.cancel(current.id, by=user))


def _result(slide: Slide, specimen: Specimen, current: Analysis, user: auth.CurrentUser) -> None:
    with session_scope(read_only=True) as session:
        report = slide_reports.report(session, specimen.id)
        lacking = analyses.lacking(session, current.id).without
    beside.complaint(current.id)
    signing.signature(report.signature)
    if lacking and specimen.state == "needs_review":
        words = "Search the slide" if lacking == 1 else f"Search the {lacking} slides"
        if st.button(f"{words} left out", key=f"complete-{current.id}"):
            _act(lambda: asking.retry(current.id, by=user))
    beside.show(report, slide.id)
    if slide.withdrawn_at is None:
        unit = _unit(slide)
        words = beside.limits_in_words(report.limits, unit)
        if specimen.state == "needs_review":
            with st.expander(f"Counted: {words}", key=f"limits-{current.id}"):
                beside.limits_form(current, unit)
        else:
            st.html(f'<p class="rc-quiet-text">Counted: {escape(words)}</p>')


def _unit(slide: Slide) -> str:
    """Of lengths on it, as `beside` takes it."""
    return "px" if slide.um_per_px is None else "um"


def _history(specimen: Specimen, slide: Slide, current: Analysis | None) -> None:
    with session_scope(read_only=True) as session:
        signatures = reviews.history(session, specimen.id)
        events = audit.events(session, entity="slide", entity_id=slide.id, limit=100)
        events += audit.events(session, entity="specimen", entity_id=specimen.id, limit=100)
        numbers: dict[str, int] = {}
        if current is not None:
            events += audit.events(session, entity="analysis", entity_id=current.id, limit=100)
            numbers = {item.key: item.number for item in glomeruli.standing(session, current.id, slide.id)}
    lines = [(entry.at, entry.by, signing.in_words(entry)) for entry in signatures]
    lines += [
        (event.at, event.actor_name, words)
        for event in events
        if (words := beside.change_in_words(event, numbers, _unit(slide))) is not None
    ]
    signing.history(lines)


user = auth.require()
slide = _asked_slide()
with session_scope(read_only=True) as session:
    specimen = specimens.get(session, slide.specimen_id)
    patient = patients.get(session, specimen.patient_id)
    siblings = slides.of_specimen(session, specimen.id)
    current = analyses.current(session, specimen.id)
st.html(_CSS)
_header(slide, specimen, patient, siblings, current, user)
st.fragment(_body)(slide.id)
