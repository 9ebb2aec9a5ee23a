"""All slides, those of the newest specimen first: what runs and how far, what waits for a person, to be opened."""

from __future__ import annotations

import streamlit as st

from db import slide_list
from db.slide_list import SLIDE_STATES, SlideRow
from pages.components import auth, links, lists, scales, status, style
from pages.components.lists import Listing
from pages.components.rows import Cell, Row, state_cell


def _line(row: SlideRow, *, loading: bool) -> Row:
    slide = row.slide
    withdrawn: Cell = {"chip": "withdrawn", "colour": status.STATES["cancelled"].colour}
    return Row(
        slide.id,
        links.address("slide", slide=slide.id),
        (
            f"{row.accession} · {slide.name}",
            row.patient_identifier,
            row.patient_name or "",
            state_cell(row.state, done=row.done, total=row.total, message=row.message, loading=loading)
            if slide.withdrawn_at is None
            else withdrawn,
            style.number(row.glomeruli, 0),
            f"{slide.stain}, {slide.species}",
            scales.number(slide),
            style.when(row.created_at),
            lists.actions(
                row,
                cancel="Stop the analysis of this specimen; its slides stay",
                retry="Analyse again; parts that are done are kept",
            ),
        ),
    )


SLIDES = Listing(
    name="slides",
    tabs=SLIDE_STATES,
    only_where_some=("not_analysed", "cancelled"),
    state_counts=slide_list.state_counts,
    page=slide_list.page,
    head=("Slide", "Patient", "Name", "State", "Glomeruli", "Stain", "µm/px", "Registered", ""),
    line=_line,
    numeric=(4, 6),
    minor=(6,),
    least=(2, 5, 7),
    opens="slide",
    record="slide",
    none_yet=(
        "No slides yet.",
        "Press **New slides**, scan the patient's number and the accession number, and drop the scanner's files in.",
    ),
    no_match="Check the number, type a part of the name, or look under **All**.",
    others="the other slides",
)

auth.require()
with style.page_header("Slides"):
    if st.button("New slides", type="primary", key="slides-new"):
        links.open_page("new-slides")
lists.show(SLIDES, text=lists.search("slides"))
