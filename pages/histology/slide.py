"""One slide: the picture, its glomeruli as they were found and corrected, what they add up to, and the signature."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

import streamlit as st
from sqlalchemy.orm import Session

from db import analyses, reviewed_glomeruli, slide_reports, slide_searches, slides, specimens
from db.engine import session_scope
from db.models import Analysis, Slide, Specimen
from db.slides import LARGEST_UM_PER_PX, SMALLEST_UM_PER_PX
from pages.components import analysis as asking
from pages.components import auth, download, reviewing, scales, signing, specimen_menu, style
from pages.components import glomeruli as beside
from pages.components.glomerulus_gallery import glomerulus_gallery
from pages.components.slide_viewer import slide_viewer
from pages.components.slide_viewer.events import Event
from renalcore.errors import RenalError
from renalcore.io.image import safe_name


def _facts(slide: Slide, _: Specimen) -> list[str]:
    return [
        slide.stain,
        slide.species,
        *([f"{slide.objective:g}x"] if slide.objective else []),
        f"{style.number(slide.width_px, 0)} × {style.number(slide.height_px, 0)} px",
        scales.with_source(slide),
        slide.format,
    ]


def _signed_words(specimen_id: int) -> Iterator[str]:
    with session_scope(read_only=True) as session:
        return beside.signed_words(slide_reports.report(session, specimen_id))


def _meanwhile(session: Session, current: Analysis) -> str:
    return "Glomeruli are outlined here when all slides of the specimen are done."


KIND = reviewing.Kind(
    word="slide",
    title="Slide",
    of="Slide of this specimen",
    listed="slides",
    all_of="All slides",
    modality="histology",
    get=slides.get,
    siblings=slides.of_specimen,
    named=lambda one: f"{one.name} ({one.stain})",
    facts=_facts,
    sought="glomeruli",
    is_missing=asking.no_glomeruli_are_found,
    unit="tiles",
    meanwhile=_meanwhile,
    pending=slide_searches.pending_slides,
    reviewed="slides and glomeruli of this specimen",
    signed_words=_signed_words,
)


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
            help="From the scanner's settings: about 0.25 at 40x, 0.5 at 20x. Empty means unknown. Limits of diameter "
            "are taken away where they change from px to µm, or back.",
        )
        if st.button("Save", type="primary", key=f"save-scale-{slide.id}", disabled=um_per_px == slide.um_per_px):
            try:
                with session_scope() as session:
                    slides.set_scale(session, slide.id, um_per_px, by=user)
            except RenalError as error:
                st.error(style.plain(str(error)))
            else:
                st.rerun()


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


def _body(slide_id: int) -> None:
    """The picture and what is beside it; runs by itself at each correction."""
    user = auth.require()
    with session_scope(read_only=True) as session:
        slide = slides.get(session, slide_id)
        specimen = specimens.get(session, slide.specimen_id)
        current = analyses.current(session, specimen.id)
        is_found = current is not None and current.state == "done" and slide.withdrawn_at is None
        version = reviewed_glomeruli.version(session, current.id, slide) if current is not None and is_found else ""
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
            reviewing.without_result(KIND, specimen, current, user)
            if current is not None and current.state == "done":
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


def _result(slide: Slide, specimen: Specimen, current: Analysis, user: auth.CurrentUser) -> None:
    with session_scope(read_only=True) as session:
        report = slide_reports.report(session, specimen.id)
        lacking = analyses.lacking(session, current.id).without
    beside.complaint(current.id)
    signing.signature(report.signature)
    if lacking and specimen.state == "needs_review":
        asking.offer_the_rest(current.id, lacking, picture="slide", by=user)
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
    about = [("slide", slide.id), ("specimen", specimen.id)]
    numbers: dict[str, int] = {}
    if current is not None:
        about.append(("analysis", current.id))
        with session_scope(read_only=True) as session:
            numbers = {item.key: item.number for item in reviewed_glomeruli.standing(session, current.id, slide.id)}
    signing.history(specimen.id, about, lambda event: beside.change_in_words(event, numbers, _unit(slide)))


user = auth.require()
slide = reviewing.asked(KIND)
reviewing.room("slide")
with reviewing.head(KIND, slide, user) as (specimen, current):
    if slide.scale_from != "file" and specimen.state != "signed":
        _scale(slide, user)
    if current is not None and current.state == "done":
        _exports(slide, specimen)
st.fragment(_body)(slide.id)
