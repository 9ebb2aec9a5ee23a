"""All slides, those of the newest specimen first, to be opened."""

from __future__ import annotations

import streamlit as st

from db import slides
from db.engine import session_scope
from db.slides import SlideRow
from pages.components import auth, links, scales, style
from pages.components.rows import Row, rows

PAGE_ROWS = 100

user = auth.require()
with style.page_header("Slides"):
    if st.button("New slides", type="primary", key="slides-new"):
        links.open_page("new-slides")


def _first_page() -> None:
    st.session_state["slides-page"] = 0


def _cells(row: SlideRow) -> Row:
    slide = row.slide
    return Row(
        slide.id,
        links.address("slide", slide=slide.id),
        (
            f"{row.accession} · {slide.name}",
            row.patient_identifier,
            row.patient_name or "",
            slide.stain,
            slide.species,
            f"{style.number(slide.width_px, 0)} × {style.number(slide.height_px, 0)}",
            scales.number(slide),
            style.size(row.size_bytes),
            style.when(row.created_at),
        ),
    )


text = st.text_input(
    "Search",
    key="slides-text",
    placeholder="Accession number, patient number or name",
    persist_state="session",
    on_change=_first_page,
)
number = st.session_state.get("slides-page", 0)
with session_scope(read_only=True) as session:
    page = slides.page(session, text=text, limit=PAGE_ROWS, offset=number * PAGE_ROWS)
if not page.rows and text:
    style.empty_state("Nothing matches.", "Check the number, or type a part of the name.")
    st.stop()
if not page.rows:
    style.empty_state(
        "No slides yet.",
        "Press **New slides**, scan the patient's number and the accession number, and drop the scanner's files in.",
    )
    st.stop()
answer = rows(
    "slides-rows",
    head=("Slide", "Patient", "Name", "Stain", "Species", "Size in px", "Scale in µm/px", "File size", "Registered"),
    rows=[_cells(row) for row in page.rows],
    numeric=(5, 6, 7),
    minor=(4, 7),
    least=(2, 5, 8),
)
if answer.opened is not None:
    links.open_page("slide", slide=answer.opened)
first, last = number * PAGE_ROWS + 1, number * PAGE_ROWS + len(page.rows)
with st.container(horizontal=True, vertical_alignment="center", key="slides-pager"):
    st.html(f'<span class="rc-quiet-text">{first} to {last} of {style.number(page.total, 0)}</span>')
    if page.total > PAGE_ROWS:
        if st.button("Previous", disabled=number == 0, key="slides-previous"):
            st.session_state["slides-page"] = number - 1
            st.rerun()
        if st.button("Next", disabled=last >= page.total, key="slides-next"):
            st.session_state["slides-page"] = number + 1
            st.rerun()
