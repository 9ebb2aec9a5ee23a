"""A patient's results, of kidney slides, of CT and of sediment over time, each traceable to where it was counted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from html import escape
from zoneinfo import ZoneInfo

import plotly.graph_objects as go
import streamlit as st

from db import ct_list, ct_reports, patients, slide_list, slide_reports, worklist
from db.engine import session_scope
from db.models import Patient
from db.reports import SpecimenReport, patient_history
from db.slide_list import SlideRow
from db.slide_reports import SlideReport
from pages.components import auth, counts, ct_history, download, glomeruli, links, status, style
from pages.components.numbers import asked_number
from pages.components.rows import Row, rows
from renalcore import taxonomy
from renalcore.errors import NotFound, RenalError
from renalcore.sediment.measure import ReportedValue

DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
SLIDE_TABLES = (("slides", "CSV, a row a slide"), ("glomeruli", "CSV, a row a glomerulus"))
CT_TABLES = (("kidneys", "CSV, a row a kidney"), ("lesions", "CSV, a row a lesion"))
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star", "triangle-down")


def _search() -> None:
    style.page_header("Patients")
    text = st.text_input("Search", key="patients-text", placeholder="Patient number or name", persist_state="session")
    with session_scope(read_only=True) as session:
        found = patients.search(session, text)
    if not found:
        if text:
            style.empty_state("Nobody matches.", "Check the number, or type a part of the name.")
        else:
            style.empty_state("No patients yet.", "A patient appears here with the first specimen that is registered.")
        return
    answer = rows(
        "patients-rows",
        head=("Patient", "Name", "Specimens", "Last specimen"),
        rows=[
            Row(
                row.patient_id,
                links.address("patient", patient=row.patient_id),
                (row.identifier, row.name or "", style.number(row.specimens, 0), style.when(row.newest_at)),
            )
            for row in found
        ],
        numeric=(2,),
    )
    if answer.opened is not None:
        links.open_page("patient", patient=answer.opened)


@st.dialog("Change the name")
def _rename(patient: Patient) -> None:
    """Ask for a patient's right name, and why it changes."""
    st.markdown(f"Of patient **{style.plain(patient.identifier)}**. Both names are kept in the audit trail.")
    name = st.text_input("Patient name", patient.name or "", max_chars=200, key=f"new-name-{patient.id}")
    reason = st.text_input("Reason", key=f"new-name-reason-{patient.id}", placeholder="Why the name changes")
    if st.button("Change", type="primary", key=f"rename-now-{patient.id}"):
        try:
            with session_scope() as session:
                patients.rename(session, patient.id, name, by=auth.require(), reason=reason)
        except RenalError as error:
            st.error(style.plain(str(error)))
            return
        st.rerun()


def _patient(patient_id: int) -> None:
    with session_scope(read_only=True) as session:
        patient = patients.get(session, patient_id)
        history = patient_history(session, patient_id)
        mine = worklist.page(session, patient_id=patient_id, limit=500).rows
        scanned = slide_list.page(session, patient_id=patient_id, limit=500).rows
        reported = slide_reports.patient_history(session, patient_id) if scanned else []
        studies = ct_list.page(session, patient_id=patient_id, limit=500).rows
        measured = ct_reports.patient_history(session, patient_id) if studies else []
    beside = bool(scanned or studies)
    with style.page_header(patient.identifier, patient.name):
        if mine or not beside:
            download.csv_button(
                "CSV of sediment" if beside else "CSV",
                key=f"csv-patient-{patient_id}",
                file_name=f"patient-{patient.identifier}.csv",
                entity="patient",
                entity_id=patient_id,
                disabled=not history,
                patient_id=patient_id,
            )
        if st.button("Change name", key=f"rename-{patient_id}"):
            _rename(patient)
        if st.button("All patients", key="patients-all"):
            links.open_page("patient")
    if scanned:
        st.header("Kidney slides", anchor=False)
        _slides(scanned, reported)
        if reported:
            _exports(download.glomeruli_button, SLIDE_TABLES, patient)
    if studies:
        st.header("Kidneys on CT", anchor=False)
        ct_history.show(studies, measured, patient_id)
        if measured:
            _exports(download.ct_button, CT_TABLES, patient)
    if beside and not mine:
        return
    if beside:
        st.header("Urine sediment", anchor=False)
    lines = "".join(
        f'<tr><td><a href="{links.address("review", specimen=row.specimen_id)}" target="_self">'
        f"{escape(row.accession)}</a></td>"
        f"<td>{status.state_chip_html(row.state, done=row.fields_done, total=row.fields_total)}</td>"
        f'<td class="rc-num">{row.fields_total}</td><td>{escape(row.objective)}</td>'
        f"<td>{style.when(row.collected_at or row.created_at)}</td></tr>"
        for row in mine
    )
    st.html(
        '<table class="rc-table"><thead><tr><th>Specimen</th><th>State</th><th class="rc-num">Fields</th>'
        f"<th>Objective</th><th>Taken</th></tr></thead><tbody>{lines}</tbody></table>"
    )
    if not history:
        style.empty_state("No results yet.", "They appear here when an analysis is done.")
        return
    st.header("Over time", anchor=False)
    values = {(report.specimen_id, row.class_name): row for report in history for row in report.rows}
    seen = [
        name
        for name in _class_order()
        if any((key := (one.specimen_id, name)) in values and values[key].total for one in history)
    ]
    chosen = st.multiselect(
        "Classes", seen, default=seen[:6], key=f"classes-{patient_id}", placeholder="Choose classes"
    )
    for one in history:
        if one.withheld and not one.rows:
            st.html(
                f"<p>{status.flag_html('counts withheld')} {escape(f'{one.accession}: {one.withheld_in_words}')}</p>"
            )
    if not chosen:
        st.html('<p class="rc-quiet-text">Nothing was found in any specimen, or no class is chosen.</p>')
        return
    _table(history, values, chosen)
    _plot(history, values, chosen, patient_id)
    st.header("Where each value comes from", anchor=False)
    for name in chosen:
        with st.expander(name, key=f"trace-{patient_id}-{name}"):
            _trace(history, values, name)


def _slides(scanned: Sequence[SlideRow], reported: Sequence[SlideReport]) -> None:
    """Every slide of a patient with what is reported of its glomeruli, signed or not."""
    results = {slide.slide_id: slide for one in reported for slide in one.slides}
    lines = []
    for row in scanned:
        slide, found = row.slide, results.get(row.slide.id)
        state = status.state_chip_html(row.state, done=row.done, total=row.total)
        if slide.withdrawn_at is not None:
            state = status.quiet_chip_html("withdrawn")
        cells = [style.NO_VALUE] * 4
        if found is not None:
            few = glomeruli.few_html(found.sclerosed)
            cells = [
                style.number(found.summary.count, 0),
                glomeruli.density_in_words(found),
                glomeruli.share_in_words(found.sclerosed) + (f'<div class="rc-narrow">{few}</div>' if few else ""),
                glomeruli.length_in_words(found.summary.mean_diameter, found.summary.unit),
            ]
        lines.append(
            f'<tr><td><a href="{links.address("slide", slide=slide.id)}" target="_self">'
            f'<span style="white-space:nowrap">{escape(row.accession)}</span> · {escape(slide.name)}</a><br>'
            f'<span class="rc-quiet-text">{escape(slide.stain)}, {escape(slide.species)}<br>'
            f'<span style="white-space:nowrap">{style.when(row.collected_at or row.created_at)[:11]}</span></span></td>'
            f"<td>{state}</td>" + "".join(f'<td class="rc-num">{cell}</td>' for cell in cells) + "</tr>"
        )
    st.html(
        '<div style="overflow-x:auto"><table class="rc-table"><thead><tr><th>Slide</th><th>State</th>'
        '<th class="rc-num">Glomeruli</th><th class="rc-num">Per mm²<br>of tissue</th>'
        '<th class="rc-num">Globally<br>sclerosed</th><th class="rc-num">Mean<br>diameter</th></tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _exports(offer: Callable[..., None], tables: Sequence[tuple[str, str]], patient: Patient) -> None:
    """CSV files of all that a patient has of one kind: names of the tables, and the words on their buttons."""
    with st.container(horizontal=True):
        for table, words in tables:
            offer(
                words,
                table,
                key=f"{table}-patient-{patient.id}",
                file_name=f"patient-{patient.identifier}-{table}.csv",
                entity="patient",
                entity_id=patient.id,
                patient_id=patient.id,
            )


def _class_order() -> list[str]:
    return [taxonomy.NAMES[index] for group in taxonomy.Group for index in taxonomy.ids_of(group)]


def _plot(
    history: list[SpecimenReport], values: dict[tuple[int, str], ReportedValue], chosen: list[str], patient_id: int
) -> None:
    figure = go.Figure()
    zone = style.browser_zone()
    for number, name in enumerate(chosen):
        points = [(one, values[one.specimen_id, name]) for one in history if (one.specimen_id, name) in values]
        unit = points[-1][1].unit if points else ""
        figure.add_scatter(
            x=[one.taken_at.astimezone(zone).replace(tzinfo=None) for one, _ in points],
            y=[value.mean for _, value in points],
            customdata=[[one.accession, value.grade or "no grade", value.fields] for one, value in points],
            mode="lines+markers",
            name=f"{name} /{unit}",
            line={"color": taxonomy.particle(name).colour, "dash": DASHES[number % len(DASHES)], "width": 2},
            marker={"symbol": SYMBOLS[number % len(SYMBOLS)], "size": 9},
            hovertemplate="%{customdata[0]}: %{y:.1f}, %{customdata[1]}, %{customdata[2]} fields"
            "<extra>%{fullData.name}</extra>",
        )
    figure.update_layout(
        height=340,
        margin={"l": 10, "r": 10, "t": 10, "b": 10},
        xaxis={"tickformat": "%d %b %Y", "range": _days(history, zone), "nticks": 8},
        yaxis={"title": "Mean count", "rangemode": "tozero"},
        legend={"orientation": "h", "y": -0.2},
    )
    st.plotly_chart(figure, key=f"plot-{patient_id}", config={"displayModeBar": False})


def _days(history: list[SpecimenReport], zone: ZoneInfo) -> list[datetime]:
    """The span of the chart: a little more than the specimens cover, and never less than two days."""
    first, last = (one.taken_at.astimezone(zone).replace(tzinfo=None) for one in (history[0], history[-1]))
    margin = max(timedelta(days=1), (last - first) / 20)
    return [first - margin, last + margin]


def _table(history: list[SpecimenReport], values: dict[tuple[int, str], ReportedValue], chosen: list[str]) -> None:
    head = "".join(
        f'<th class="rc-num">{escape(one.accession)}<br><span class="rc-quiet-text">{style.when(one.taken_at)[:11]}'
        f"{'' if one.signature else ', not signed'}</span></th>"
        for one in history[-6:]
    )
    lines = []
    for name in chosen:
        cells = []
        unit = ""
        for one in history[-6:]:
            value = values.get((one.specimen_id, name))
            if value is None:
                cells.append(f'<td class="rc-num">{"withheld" if one.withheld else style.NO_VALUE}</td>')
                continue
            unit = value.unit
            grade = f" {status.quiet_chip_html(value.grade)}" if value.grade else ""
            cells.append(f'<td class="rc-num">{style.number(value.mean)}{grade}</td>')
        mark = counts.group_mark_html(taxonomy.particle(name).group)
        doubt = ", never validated on real pictures" if any(one.is_unvalidated(name) for one in history) else ""
        lines.append(
            f'<tr><td>{mark} {escape(name)} <span class="rc-quiet-text">/{unit}{doubt}</span></td>{"".join(cells)}</tr>'
        )
    st.html(
        f'<table class="rc-table"><thead><tr><th>Class</th>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table>'
    )
    if len(history) > 6:
        st.html(f'<p class="rc-quiet-text">The last 6 of {len(history)} specimens; the chart and the CSV have all.</p>')


def _trace(history: list[SpecimenReport], values: dict[tuple[int, str], ReportedValue], name: str) -> None:
    lines = []
    for one in reversed(history):
        value = values.get((one.specimen_id, name))
        if value is None:
            continue
        places = {field.field_id: field for field in one.fields}
        per_field = ", ".join(
            f'<a href="{links.address("review", specimen=one.specimen_id, field=field_id)}" target="_self" '
            f'title="{escape(places[field_id].name)}">field {places[field_id].position + 1}</a>: {count}'
            for field_id, count in value.per_field
        )
        left_out = f"<br>{escape(one.withheld_in_words)}" if one.withheld_in_words else ""
        lines.append(
            f"<tr><td>{escape(one.accession)}</td>"
            f'<td class="rc-num" style="white-space:nowrap">{style.number(value.mean)} /{escape(value.unit)}</td>'
            f"<td>{status.quiet_chip_html(value.grade) if value.grade else style.NO_VALUE}</td>"
            f"<td>{value.total} in {value.fields} fields: {per_field}{left_out}</td>"
            f'<td class="rc-quiet-text">{escape(value.cut_off_version)}</td></tr>'
        )
    st.html(
        '<table class="rc-table"><thead><tr><th>Specimen</th><th class="rc-num">Mean</th><th>Grade</th>'
        f"<th>Counted</th><th>Cut-offs</th></tr></thead><tbody>{''.join(lines)}</tbody></table>"
    )


auth.require()
asked = st.query_params.get("patient", "")
if asked:
    try:
        _patient(asked_number(asked))
    except NotFound:
        style.page_header("Patients")
        style.empty_state("No such patient.", "Look for the patient by number or name.")
        if st.button("All patients", key="patients-none"):
            links.open_page("patient")
else:
    _search()
