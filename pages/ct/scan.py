"""One CT scan: its slices, the kidneys and lesions as they were found and corrected, and the signature."""

from __future__ import annotations

from collections.abc import Iterator

import streamlit as st
from sqlalchemy.orm import Session

from db import analyses, ct_reports, ct_searches, scans, specimens
from db.ct_reports import CtReport, ReportedScan
from db.engine import session_scope
from db.models import Analysis, CtScan, Specimen
from pages.components import analysis as asking
from pages.components import auth, ct_results, download, lesions, reviewing, signing, specimen_menu, style
from pages.components.ct_meshes import ct_meshes
from pages.components.ct_viewer import Event, ct_viewer
from renalcore.ct.measure import Lesion
from renalcore.io.image import safe_name

_CSS = """
<style>
.st-key-scan-body { --rc-stage: clamp(360px, calc(100vh - 252px), 1600px);
  --rc-list: max(190px, calc(100vh - 575px)); } /* what can be done with a lesion stays in sight below it */
.st-key-scan-body [role="tablist"] button { padding-top: 0; padding-bottom: 0.3rem; height: auto; }
.st-key-scan-body [role="tabpanel"] { padding-top: 0.5rem; }
@media (max-width: 1000px) { .st-key-scan-body { --rc-stage: min(56vh, 90vw); --rc-list: none; } }
</style>
"""


def _facts(scan: CtScan, specimen: Specimen) -> list[str]:
    return [
        f"scanned {style.when(specimen.collected_at)[:11]}" if specimen.collected_at else "date of the scan unknown",
        *([scan.phase] if scan.phase else []),
        f"{scan.slices} slices of {scan.width_px} × {scan.height_px}",
        " × ".join(f"{mm:.4g}" for mm in reversed(scan.spacing_mm)) + " mm",
        scan.format,
        *([] if scan.is_deidentified else ["identity kept in the file"]),
    ]


def _signed_words(specimen_id: int) -> Iterator[str]:
    with session_scope(read_only=True) as session:
        return ct_results.signed_words(ct_reports.report(session, specimen_id))


def _meanwhile(session: Session, current: Analysis) -> str:
    doing = ct_searches.at_work_on(session, current.id) if current.state == "running" else ""
    doing = f"{doing[0].upper()}{doing[1:]}. " if doing else ""
    return f"{doing}Kidneys and lesions are outlined here when all scans of the study are done."


KIND = reviewing.Kind(
    word="scan",
    title="CT scan",
    of="Scan of this study",
    listed="ct",
    all_of="All studies",
    modality="ct",
    get=scans.get,
    siblings=scans.of_specimen,
    named=lambda one: f"{one.name} ({one.slices} slices)",
    facts=_facts,
    sought="kidneys",
    is_missing=asking.no_kidneys_are_found,
    unit="steps",
    meanwhile=_meanwhile,
    pending=ct_searches.pending_scans,
    reviewed="scans, kidneys and lesions of this study",
    signed_words=_signed_words,
)


def _exports(scan: CtScan, specimen: Specimen) -> None:
    """What leaves of a study, as it stands or as it was signed."""
    same = {"entity": "specimen", "entity_id": specimen.id, "specimen_id": specimen.id}
    with st.popover("Export", key=f"export-{scan.id}"):
        for table, words in (("lesions", "CSV, a row a lesion"), ("kidneys", "CSV, a row a kidney")):
            file_name = f"{specimen.accession}-{table}.csv"
            download.ct_button(words, table, key=f"csv-{table}-{specimen.id}", file_name=file_name, **same)
        if scan.withdrawn_at is None:
            download.scan_buttons(scan, f"{specimen.accession}-{safe_name(scan.name)}")


def _body(scan_id: int) -> None:
    """The picture and what is beside it; runs by itself at each correction."""
    user = auth.require()
    with session_scope(read_only=True) as session:
        scan = scans.get(session, scan_id)
        specimen = specimens.get(session, scan.specimen_id)
        current = analyses.current(session, specimen.id)
        report = ct_reports.report(session, specimen.id) if current is not None and current.state == "done" else None
    found = next((one for one in report.scans if one.scan_id == scan_id), None) if report else None
    chosen = lesions.named_in_address(found)
    with st.container(key="scan-body"):
        left, right = st.columns([2, 1], gap="medium")
        with left:
            _pictures(scan, current, found, chosen)
        with right, st.container(key="scan-side", gap="small"):
            if scan.withdrawn_at is not None:
                specimen_menu.withdrawn(specimen, scan)
            reviewing.without_result(KIND, specimen, current, user)
            if report is not None:
                _result(scan, specimen, current, report, found, chosen, user)
            history = st.expander("History", key=f"history-{scan.id}", on_change="rerun")
            if history.open:  # it reads all that was ever said, so nobody waits for it before asking
                with history:
                    _history(specimen, scan, current)


def _pictures(scan: CtScan, current: Analysis | None, found: ReportedScan | None, chosen: Lesion | None) -> None:
    """The slices in three planes, and beside them in a tab of its own what was found in 3D."""
    by_number = {} if found is None else {lesion.number: lesion for lesion in found.measures.lesions}

    def choose(event: Event) -> None:
        lesions.choose(by_number.get(event["lesion"]))

    slices, solid = st.tabs(["Slices", "3D"], key=f"views-{scan.id}", on_change="rerun")
    with slices:
        voxel, asked = lesions.brought_to(scan, chosen)
        ct_viewer(
            scan,
            analysis_id=None if current is None or found is None else current.id,
            version="" if found is None else found.labels_sha256,
            on_event=choose,
            measures=None if found is None else found.measures,
            go_to=voxel,
            asked=asked,
        )
    if solid.open:
        with solid:
            if found is None:
                style.empty_state("Nothing to turn yet.", "Kidneys and lesions stand here once they are found.")
            else:
                ct_meshes(scan, found)


def _result(
    scan: CtScan,
    specimen: Specimen,
    current: Analysis,
    report: CtReport,
    found: ReportedScan | None,
    chosen: Lesion | None,
    user: auth.CurrentUser,
) -> None:
    with session_scope(read_only=True) as session:
        lacking = analyses.lacking(session, current.id).without
    lesions.complaint(scan.id)
    signing.signature(report.signature)
    if lacking and specimen.state == "needs_review":
        asking.offer_the_rest(current.id, lacking, picture="scan", by=user)
    if found is None:
        return
    card = asking.card_of(current.model_key)
    unvalidated = card.unvalidated_classes if card else ()
    st.html(ct_results.found_html(found, signed=report.signature is not None, unvalidated=unvalidated))
    if found.measures.kidneys:
        st.html(ct_results.kidneys_html(found.measures))
    lesions.show(scan, specimen, current, found, chosen, user)
    if len(report.scans) > 1:
        st.html(ct_results.of_study_html(report, scan.id))
    st.html(ct_results.made_by_html(current))


def _history(specimen: Specimen, scan: CtScan, current: Analysis | None) -> None:
    about = [("specimen", specimen.id), *([("analysis", current.id)] if current is not None else [])]
    signing.history(specimen.id, about, lambda event: ct_results.change_in_words(event, scan.id))


user = auth.require()
scan = reviewing.asked(KIND)
reviewing.room("scan")
st.html(_CSS)
with reviewing.head(KIND, scan, user) as (specimen, current):
    if current is not None and current.state == "done":
        _exports(scan, specimen)
st.fragment(_body)(scan.id)
