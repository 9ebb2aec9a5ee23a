"""Export of reported values as CSV: one specimen, one patient, or a range of dates."""

from __future__ import annotations

import streamlit as st

from db import patients, specimens, worklist
from db.engine import session_scope
from pages.components import auth, date_range, download, style

SCOPES = ("One specimen", "One patient", "A range of dates")

auth.require()
style.page_header("Export", "One row a value, as CSV that Excel and pandas open as it is. Every export is recorded.")
scope = st.segmented_control("What", SCOPES, default=SCOPES[0], key="export-scope", required=True)

if scope == SCOPES[0]:
    accession = st.text_input("Accession number", key="export-accession", placeholder="Scan or type", width=360)
    with session_scope(read_only=True) as session:
        specimen = specimens.by_accession(session, accession) if accession.strip() else None
    if specimen is not None and specimen.state in ("needs_review", "signed"):
        download.csv_button(
            f"Download {specimen.accession}.csv",
            key=f"export-specimen-{specimen.id}",
            file_name=f"{specimen.accession}.csv",
            entity="specimen",
            entity_id=specimen.id,
            specimen_id=specimen.id,
        )
    elif specimen is not None:
        st.info("This specimen has no result yet: its analysis is not done.")
    elif accession.strip():
        st.warning("No specimen has this accession number. Check it, or look in the worklist.")
elif scope == SCOPES[1]:
    identifier = st.text_input("Patient number", key="export-patient", placeholder="Scan or type", width=360)
    with session_scope(read_only=True) as session:
        patient = patients.find(session, identifier) if identifier.strip() else None
    if patient is not None:
        download.csv_button(
            f"Download patient-{patient.identifier}.csv",
            key=f"export-patient-{patient.id}",
            file_name=f"patient-{patient.identifier}.csv",
            entity="patient",
            entity_id=patient.id,
            patient_id=patient.id,
        )
    elif identifier.strip():
        st.warning("No patient has this number. Check it, or look under Patients.")
else:
    days = date_range.choose("export")
    if days is not None:
        with session_scope(read_only=True) as session:
            number = sum(
                worklist.page(session, state=state, since=days.since, until=days.until, limit=1).total
                for state in ("needs_review", "signed")
            )
        st.html(f'<p class="rc-quiet-text">{style.number(number, 0)} specimens with results in this range.</p>')
        download.csv_button(
            "Download CSV",
            key=f"export-range-{days.first}-{days.last}",
            file_name=f"sediment-{days.first}-{days.last}.csv",
            entity="specimens",
            entity_id=f"{days.first}..{days.last}",
            disabled=number == 0,
            since=days.since,
            until=days.until,
        )
