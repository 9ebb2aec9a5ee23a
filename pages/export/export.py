"""Export of reported values as CSV: one specimen, one patient, or a range of dates."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import streamlit as st

from db import patients, reporting, specimens
from db.engine import session_scope
from db.models import Modality
from pages.components import auth, date_range, download, style

SCOPES = ("One specimen", "One patient", "A range of dates")
KINDS: Mapping[str, tuple[Modality, str]] = MappingProxyType(
    {
        "Sediment": ("sediment", ""),
        "Kidney slides": ("histology", "slides"),
        "Glomeruli": ("histology", "glomeruli"),
        "Kidneys on CT": ("ct", "kidneys"),
        "Lesions on CT": ("ct", "lesions"),
    }
)
"""What is exported: of which specimens, and which of their tables where they have two."""

IT_IS: Mapping[Modality, str] = MappingProxyType(
    {"sediment": "a urine sediment", "histology": "kidney tissue", "ct": "a CT study"}
)
WITH_RESULTS = ("needs_review", "signed")

auth.require()
style.page_header(
    "Export",
    "One row a value, slide, glomerulus, kidney or lesion, as CSV that Excel and pandas open as it is. "
    "Every export is recorded.",
)
with st.container(horizontal=True, vertical_alignment="bottom"):
    what = st.segmented_control("What", list(KINDS), default=next(iter(KINDS)), key="export-what", required=True)
    scope = st.segmented_control("Of", SCOPES, default=SCOPES[0], key="export-scope", required=True)
modality, table = KINDS[what]
suffix = f"-{table}" if table else ""


def _button(
    label: str, *, key: str, file_name: str, entity: str, entity_id: int | str, disabled: bool = False, **which: object
) -> None:
    said = {"key": f"{key}{suffix}", "file_name": file_name, "entity": entity, "entity_id": entity_id}
    if modality == "sediment":
        download.csv_button(label, **said, disabled=disabled, **which)
    elif modality == "histology":
        download.glomeruli_button(label, table, **said, disabled=disabled, **which)
    else:
        download.ct_button(label, table, **said, disabled=disabled, **which)


if scope == SCOPES[0]:
    accession = st.text_input("Accession number", key="export-accession", placeholder="Scan or type", width=360)
    with session_scope(read_only=True) as session:
        specimen = specimens.by_accession(session, accession) if accession.strip() else None
    if specimen is not None and specimen.modality != modality:
        st.info(f"It is {IT_IS[specimen.modality]}: choose so above.")
    elif specimen is not None and specimen.state in WITH_RESULTS:
        _button(
            f"Download {specimen.accession}{suffix}.csv",
            key=f"export-specimen-{specimen.id}",
            file_name=f"{specimen.accession}{suffix}.csv",
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
        _button(
            f"Download patient-{patient.identifier}{suffix}.csv",
            key=f"export-patient-{patient.id}",
            file_name=f"patient-{patient.identifier}{suffix}.csv",
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
            number = len(reporting.chosen(session, modality, since=days.since, until=days.until))
        st.html(f'<p class="rc-quiet-text">{style.number(number, 0)} specimens with results in this range.</p>')
        _button(
            "Download CSV",
            key=f"export-range-{days.first}-{days.last}",
            file_name=f"{modality}{suffix}-{days.first}-{days.last}.csv",
            entity="specimens",
            entity_id=f"{days.first}..{days.last}",
            disabled=number == 0,
            since=days.since,
            until=days.until,
        )
