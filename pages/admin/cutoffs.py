"""Cut-off tables: every version to look at, a copy to edit into a new one, and which one grades new specimens."""

from __future__ import annotations

import streamlit as st

from db import cutoffs
from db.engine import session_scope
from db.models import CutOffTableRow
from pages.components import auth, cutoff_lines, style
from renalcore.errors import RenalError
from renalcore.sediment.measure import SETS, CutOffTable
from renalcore.taxonomy import NAMES

_EDITED = "cutoffs_edited_version"
"""Session key: the version whose copy is being edited."""


def _show(row: CutOffTableRow, *, is_default: bool) -> None:
    table = cutoffs.table_of(row)
    with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
        st.subheader(f"{style.plain(table.version)}: {style.plain(table.title)}", anchor=False)
        if not is_default and st.button("Adopt as default", key=f"adopt-{row.id}"):
            _adopt(row)
    st.markdown(style.plain(table.source))
    style.table(
        ["Class or set", "Per", "Scale"],
        [[cut_off.target, cut_off.unit, cutoff_lines.scale_in_words(cut_off)] for cut_off in table.rows],
    )
    st.html(
        f'<p class="rc-quiet-text">A mean equal to a bound belongs to the lower step. Classes without a line are '
        f"reported as numbers. Field number of the eyepiece: {table.field_number_mm:g} mm, which makes an HPF "
        f"{table.unit_area_mm2('HPF'):.4f} mm² and an LPF {table.unit_area_mm2('LPF'):.3f} mm².</p>"
    )


@st.dialog("Adopt this cut-off table")
def _adopt(row: CutOffTableRow) -> None:
    st.markdown(
        f"Specimens registered from now on are graded by **{style.plain(row.version)}**. "
        "Specimens that exist keep the version they were registered with."
    )
    if st.button("Adopt", type="primary", key=f"adopt-now-{row.id}"):
        try:
            with session_scope() as session:
                cutoffs.adopt(session, row.version, by=admin)
        except RenalError as error:
            st.error(str(error))
            return
        st.rerun()


def _edit(row: CutOffTableRow) -> None:
    """A form that makes a new version out of a copy of `row`."""
    table = cutoffs.table_of(row)
    st.subheader(f"A new version, begun as a copy of {style.plain(table.version)}", anchor=False)
    with st.form(f"edit-{row.id}", enter_to_submit=False):
        left, middle, right = st.columns([2, 4, 2])
        version = left.text_input("Version", placeholder="Lab-1", help="Stands on every report graded by it.")
        title = middle.text_input("Title", value=table.title)
        field_number_mm = right.number_input(
            "Field number of the eyepiece, mm", 5.0, 40.0, float(table.field_number_mm), step=0.5, format="%.1f"
        )
        source = st.text_input("Where the numbers come from", value=f"Based on {table.version}: {table.source}")
        lines = st.data_editor(
            cutoff_lines.lines_of(table),
            num_rows="dynamic",
            hide_index=True,
            key=f"lines-{row.id}",
            column_config={
                "Class or set": st.column_config.SelectboxColumn(options=[*SETS, *NAMES], required=True),
                "Unit": st.column_config.SelectboxColumn(options=["HPF", "LPF"], required=True, width="small"),
                "Kind": st.column_config.SelectboxColumn(
                    options=["grades", "ranges", "number"], required=True, width="small"
                ),
                "Upper bounds": st.column_config.TextColumn(help="Ascending, with commas: 0, 4, 10"),
                "Labels": st.column_config.TextColumn(
                    help="One more than bounds, with commas: none, few, moderate, many", width="large"
                ),
            },
        )
        st.caption("A number has neither bounds nor labels. A single class comes before the set it belongs to.")
        with st.container(horizontal=True):
            save = st.form_submit_button("Save as a new version", type="primary")
            leave = st.form_submit_button("Leave without saving")
    if leave:
        del st.session_state[_EDITED]
        st.rerun()
    if not save:
        return
    cut_offs, problems = cutoff_lines.cut_offs_of(lines.to_dict("records"))
    if not problems:
        try:
            made = CutOffTable(version.strip(), title.strip(), source.strip(), cut_offs, field_number_mm)
            with session_scope() as session:
                cutoffs.add_version(session, made, by=admin)
        except RenalError as error:
            problems.append(str(error))
    if problems:
        st.error("Nothing was saved.\n\n" + "\n".join(f"- {style.plain(problem)}" for problem in problems))
        return
    del st.session_state[_EDITED]
    st.session_state["cutoffs_saved"] = made.version
    st.rerun()


admin = auth.require("admin")

with session_scope(read_only=True) as session:
    versions = cutoffs.all_versions(session)
    default_id = cutoffs.default_row(session).id
    authors = {row.id: row.created_by.full_name if row.created_by else "shipped with RenalCore" for row in versions}
by_version = {row.version: row for row in versions}

header = style.page_header("Cut-off tables", "Versions that turn a mean count into a grade; none is edited in place")

if saved := st.session_state.pop("cutoffs_saved", None):
    st.success(f"Version {style.plain(saved)} is saved. It grades nothing until it is adopted.")

st.dataframe(
    {
        "Version": [row.version for row in versions],
        "Use": ["default for new specimens" if row.id == default_id else "" for row in versions],
        "Title": [row.title for row in versions],
        "Made by": [authors[row.id] for row in versions],
        "Made": [style.when(row.created_at) for row in versions],
    },
    hide_index=True,
)

names = list(by_version)
default_name = next(row.version for row in versions if row.id == default_id)
shown = st.segmented_control("Version", names, default=default_name, required=True, key="cutoffs-shown")
with header:
    if st.button("Copy and edit", type="primary", key="cutoffs-copy", disabled=_EDITED in st.session_state):
        st.session_state[_EDITED] = shown
        st.rerun()

if st.session_state.get(_EDITED) in by_version:
    _edit(by_version[st.session_state[_EDITED]])
else:
    _show(by_version[shown or default_name], is_default=by_version[shown or default_name].id == default_id)
