"""One slide: whose it is and what, and the picture to look at."""

from __future__ import annotations

from html import escape

import streamlit as st

from db import patients, slides, specimens
from db.engine import session_scope
from db.models import Slide
from db.slides import LARGEST_UM_PER_PX, SMALLEST_UM_PER_PX
from pages.components import auth, links, scales, specimen_menu, status, style
from pages.components.slide_viewer import slide_viewer
from renalcore.errors import NotFound, RenalError

_CSS = """
<style>
[data-testid="stMainBlockContainer"]:has(.st-key-slide-head) { padding-top: 1.6rem; padding-bottom: 0.5rem; }
[data-testid="stHeader"], [data-testid="stHeader"] * { pointer-events: none; }
[data-testid="stHeader"] button, [data-testid="stHeader"] button * { pointer-events: auto; }
.st-key-slide-head { padding-left: 1.4rem; }
</style>
"""


def _none() -> None:
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


user = auth.require()
asked = st.query_params.get("slide", "")
try:
    with session_scope(read_only=True) as session:
        slide = slides.get(session, int(asked) if asked.isdigit() else 0)
        specimen = specimens.get(session, slide.specimen_id)
        patient = patients.get(session, specimen.patient_id)
        beside = slides.of_specimen(session, specimen.id)
except NotFound:
    _none()

st.html(_CSS)
with (
    st.container(key="slide-head"),
    st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"),
):
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
    st.html(
        f"<h1>{escape(specimen.accession)} · {escape(slide.name)}</h1>"
        f'<p class="rc-subtitle"><a href="{links.address("patient", patient=patient.id)}" target="_self">'
        f"{escape(patient.identifier)}</a>{name} · {escape(' · '.join(facts))}{flags}</p>",
        width="stretch",
    )
    with st.container(horizontal=True, width="content", vertical_alignment="center"):
        if {one.id for one in beside} - {slide.id}:
            names = {one.id: f"{one.name} ({one.stain})" for one in beside}
            chosen = st.selectbox(
                "Slide of this specimen",
                list(names),
                index=list(names).index(slide.id) if slide.id in names else None,
                format_func=names.__getitem__,
                key=f"beside-{slide.id}",
                label_visibility="collapsed",
                width=190,
            )
            if chosen is not None and chosen != slide.id:
                links.open_page("slide", slide=chosen)
        if slide.scale_from != "file" and specimen.state != "signed":
            _scale(slide, user)
        specimen_menu.menu(specimen, None, user)
        if st.button("All slides", key=f"all-{slide.id}"):
            links.open_page("slides")
slide_viewer(slide)
