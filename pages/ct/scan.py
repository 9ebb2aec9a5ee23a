"""One CT scan: its slices, the kidneys and lesions as they were found and corrected, and the signature."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from html import escape

import streamlit as st
from sqlalchemy.orm import Session

from db import analyses, audit, ct_findings, ct_list, ct_reports, ct_searches, patients, reviews, scans, specimens
from db.ct_reports import CtReport, ReportedScan
from db.engine import session_scope
from db.models import Analysis, CtScan, Patient, Specimen, User
from pages.components import analysis as asking
from pages.components import auth, ct_results, download, links, signing, specimen_menu, status, style
from pages.components.ct_meshes import ct_meshes
from pages.components.ct_viewer import Event, ct_viewer
from pages.components.rows import Row, rows
from renalcore.ct.measure import Lesion
from renalcore.errors import NotFound, RenalError
from renalcore.io.image import safe_name

REFRESH_S = 2.0
_CSS = """
<style>
[data-testid="stMainBlockContainer"]:has(.st-key-scan-head) { padding-top: 1.6rem; padding-bottom: 0.5rem; }
[data-testid="stHeader"], [data-testid="stHeader"] * { pointer-events: none; }
[data-testid="stHeader"] button, [data-testid="stHeader"] button * { pointer-events: auto; }
.st-key-scan-head { padding-left: 1.4rem; }
.st-key-scan-body { --rc-stage: clamp(360px, calc(100vh - 252px), 1600px); }
.st-key-scan-body [role="tablist"] button { padding-top: 0; padding-bottom: 0.3rem; height: auto; }
.st-key-scan-body [role="tabpanel"] { padding-top: 0.5rem; }
.st-key-scan-side { max-height: calc(100vh - 150px); overflow-y: auto; padding-right: 0.4rem; }
.st-key-scan-side table.rc-table { font-size: 0.88rem; }
@media (max-width: 1000px) {
  .st-key-scan-body > div > [data-testid="stHorizontalBlock"],
  .st-key-scan-body > [data-testid="stLayoutWrapper"] > [data-testid="stHorizontalBlock"] { flex-direction: column; }
  .st-key-scan-body > div > [data-testid="stHorizontalBlock"] > [data-testid="stColumn"],
  .st-key-scan-body > [data-testid="stLayoutWrapper"] > [data-testid="stHorizontalBlock"] > [data-testid="stColumn"] {
    width: 100%; flex: 1 1 auto; }
  .st-key-scan-body { --rc-stage: min(56vh, 90vw); }
  .st-key-scan-side { max-height: none; }
}
</style>
"""


def _asked_scan() -> CtScan:
    asked = st.query_params.get("scan", "")
    try:
        with session_scope(read_only=True) as session:
            return scans.get(session, int(asked) if asked.isdigit() else 0)
    except NotFound:
        style.page_header("CT scan")
        style.empty_state("No such scan.", "Choose one from the list.")
        if st.button("All studies", key="scan-none"):
            links.open_page("ct")
        st.stop()


def _header(
    scan: CtScan,
    specimen: Specimen,
    patient: Patient,
    siblings: list[CtScan],
    current: Analysis | None,
    user: auth.CurrentUser,
) -> None:
    facts = [
        f"scanned {style.when(specimen.collected_at)[:11]}" if specimen.collected_at else "date of the scan unknown",
        *([scan.phase] if scan.phase else []),
        f"{scan.slices} slices of {scan.width_px} × {scan.height_px}",
        " × ".join(f"{mm:.4g}" for mm in reversed(scan.spacing_mm)) + " mm",
        scan.format,
        *([] if scan.is_deidentified else ["identity kept in the file"]),
    ]
    name = f" {escape(patient.name)}" if patient.name else ""
    flags = "".join(
        f' <span title="{escape(flag["message"])}">{status.flag_html(flag["code"].replace("_", " "))}</span>'
        for flag in scan.flags
    )
    withdrawn = "" if scan.withdrawn_at is None else f" {status.flag_html('withdrawn')}"
    with (
        st.container(key="scan-head"),
        st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"),
    ):
        st.html(
            f'<h1 style="display:inline">{escape(specimen.accession)} · {escape(scan.name)}</h1> &nbsp; '
            f"{status.state_chip_html(ct_list.state_of(specimen, current))}{withdrawn}"
            f'<p class="rc-subtitle"><a href="{links.address("patient", patient=patient.id)}" target="_self">'
            f"{escape(patient.identifier)}</a>{name} · {escape(' · '.join(facts))}{flags}</p>",
            width="stretch",
        )
        with st.container(horizontal=True, width="content", vertical_alignment="center"):
            if {one.id for one in siblings} - {scan.id}:
                _other_scans(scan, siblings)
            if current is not None and current.state == "done":
                _exports(scan, specimen)
            specimen_menu.menu(specimen, scan.id, user)
            if st.button("All studies", key=f"all-{scan.id}"):
                links.open_page("ct")
            _primary_action(specimen, current, user)


def _other_scans(scan: CtScan, siblings: list[CtScan]) -> None:
    names = {one.id: f"{one.name} ({one.slices} slices)" for one in siblings}
    chosen = st.selectbox(
        "Scan of this study",
        list(names),
        index=list(names).index(scan.id) if scan.id in names else None,
        format_func=names.__getitem__,
        key=f"beside-{scan.id}-{scan.id in names}",
        placeholder="Other scans",
        label_visibility="collapsed",
        width=190,
    )
    if chosen is not None and chosen != scan.id:
        links.open_page("scan", scan=chosen)


def _exports(scan: CtScan, specimen: Specimen) -> None:
    """What leaves of a study, as it stands or as it was signed."""
    same = {"entity": "specimen", "entity_id": specimen.id, "specimen_id": specimen.id}
    with st.popover("Export", key=f"export-{scan.id}"):
        for table, words in (("lesions", "CSV, a row a lesion"), ("kidneys", "CSV, a row a kidney")):
            file_name = f"{specimen.accession}-{table}.csv"
            download.ct_button(words, table, key=f"csv-{table}-{specimen.id}", file_name=file_name, **same)
        if scan.withdrawn_at is None:
            download.scan_buttons(scan, f"{specimen.accession}-{safe_name(scan.name)}")


def _primary_action(specimen: Specimen, current: Analysis | None, user: auth.CurrentUser) -> None:
    """The one thing to do next, by the state of the study; nothing where somebody else must do it."""
    may_analyse = current is None and asking.is_installed("ct")
    if may_analyse and st.button("Analyse", type="primary", key=f"analyse-{specimen.id}"):
        _act(lambda: _analyse(specimen.id, user))
    has_failed = current is not None and current.state == "failed"
    if has_failed and st.button("Retry", type="primary", key=f"retry-{current.id}"):
        _act(lambda: asking.retry(current.id, by=user))
    is_reviewer = user.role == "reviewer"
    may_sign = is_reviewer and specimen.state == "needs_review"
    if may_sign and st.button("Sign", type="primary", key=f"sign-{specimen.id}"):
        signing.sign(specimen.id, _signed_words, user, reviewed="scans, kidneys and lesions of this study")
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
        return ct_results.signed_words(ct_reports.report(session, specimen_id))


def _body(scan_id: int) -> None:
    """The picture and what is beside it; runs by itself at each correction."""
    user = auth.require()
    with session_scope(read_only=True) as session:
        scan = scans.get(session, scan_id)
        specimen = specimens.get(session, scan.specimen_id)
        current = analyses.current(session, specimen.id)
        report = ct_reports.report(session, specimen.id) if current is not None and current.state == "done" else None
    found = next((one for one in report.scans if one.scan_id == scan_id), None) if report else None
    chosen = _chosen(found)
    with st.container(key="scan-body"):
        left, right = st.columns([2, 1], gap="medium")
        with left:
            _pictures(scan, current, found, chosen)
        with right, st.container(key="scan-side", gap="small"):
            if scan.withdrawn_at is not None:
                specimen_menu.withdrawn(specimen, scan)
            if current is None:
                _not_analysed(specimen)
            elif current.state in ("queued", "running"):
                st.fragment(_progress, run_every=REFRESH_S)(current.id, current.state)
            elif current.state == "failed":
                _failed(specimen, current, user)
            elif report is not None:
                _result(scan, specimen, current, report, found, chosen, user)
            history = st.expander("History", key=f"history-{scan.id}", on_change="rerun")
            if history.open:  # it reads all that was ever said, so nobody waits for it before asking
                with history:
                    _history(specimen, scan, current)


def _pictures(scan: CtScan, current: Analysis | None, found: ReportedScan | None, chosen: Lesion | None) -> None:
    """The slices in three planes, and beside them in a tab of its own what was found in 3D."""
    lesions = {} if found is None else {lesion.number: lesion for lesion in found.measures.lesions}

    def choose(event: Event) -> None:
        _choose(lesions.get(event["lesion"]))

    slices, solid = st.tabs(["Slices", "3D"], key=f"views-{scan.id}", on_change="rerun")
    with slices:
        voxel, asked = _brought_to(scan, chosen)
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


def _brought_to(scan: CtScan, chosen: Lesion | None) -> tuple[tuple[int, int, int] | None, int]:
    """The voxel that the list of lesions asked for last, and how often it has asked; at first that of the address."""
    return st.session_state.setdefault(f"scan-go-{scan.id}", (chosen.voxel if chosen else None, 0))


def _bring_to(scan: CtScan, lesion: Lesion) -> None:
    """Choose a lesion, and have the viewer go there; a lesion that is clicked in the viewer moves nothing."""
    _choose(lesion)
    _, asked = _brought_to(scan, None)
    st.session_state[f"scan-go-{scan.id}"] = (lesion.voxel, asked + 1)


def _chosen(found: ReportedScan | None) -> Lesion | None:
    """The lesion that the address names by one of its voxels; none where it was removed since."""
    asked = st.session_state["scan-chosen"] = st.query_params.get("lesion")
    if found is None or asked is None:
        return None
    named = (lesion for lesion in found.measures.lesions if ct_results.voxel_key(lesion.voxel) == asked)
    return next(named, None)


def _choose(lesion: Lesion | None) -> None:
    if lesion is None:
        st.query_params.pop("lesion", None)
    else:
        st.query_params["lesion"] = ct_results.voxel_key(lesion.voxel)
    st.session_state["scan-chosen"] = st.query_params.get("lesion")


def _not_analysed(specimen: Specimen) -> None:
    if asking.no_kidneys_are_found():
        return
    if specimen.state == "cancelled":
        style.empty_state("The analysis was cancelled.", "Press **Analyse** to have the kidneys looked for.")
    else:
        style.empty_state("Not analysed yet.", "Press **Analyse** to have the kidneys looked for.")


def _progress(analysis_id: int, shown_state: str) -> None:
    """How far the search of the study is; runs by itself until it begins or ends, which the whole page shows."""
    user = auth.require(keep_alive=False)
    with session_scope(read_only=True) as session:
        current = analyses.get(session, analysis_id)
        done, total = analyses.progress(session, analysis_id)
        doing = ct_searches.at_work_on(session, analysis_id) if current.state == "running" else ""
    if current.state != shown_state:
        st.rerun()
    status.progress(done, total, started=current.state == "running", unit="steps")
    doing = f"{doing[0].upper()}{doing[1:]}. " if doing else ""
    st.html(
        f'<p class="rc-quiet-text">{escape(doing)}Kidneys and lesions are outlined here when all scans of the study '
        "are done. You may leave this page.</p>"
    )
    if st.button("Cancel", key=f"cancel-{analysis_id}"):
        _act(lambda: asking.cancel(analysis_id, by=user))
    status.worker_banner()


def _failed(specimen: Specimen, current: Analysis, user: auth.CurrentUser) -> None:
    st.error(f"The analysis {style.plain(status.state_words('failed', message=current.message))}")
    with session_scope(read_only=True) as session:
        lacking = ct_searches.pending_scans(session, current.id)
    with st.container(horizontal=True):
        if lacking and st.button(specimen_menu.withdraw_words("ct"), key=f"withdraw-{current.id}"):
            specimen_menu.withdraw(specimen, lacking[0].id)
        if st.button("Dismiss", key=f"dismiss-{current.id}", help="Leave it; an earlier analysis counts again"):
            _act(lambda: asking.cancel(current.id, by=user))


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
    complaint = st.session_state.pop(f"scan-complaint-{scan.id}", None)
    if complaint:
        st.error(style.plain(complaint))
    signing.signature(report.signature)
    if lacking and specimen.state == "needs_review":
        words = "Search the scan" if lacking == 1 else f"Search the {lacking} scans"
        if st.button(f"{words} left out", key=f"complete-{current.id}"):
            _act(lambda: asking.retry(current.id, by=user))
    if found is None:
        return
    st.html(ct_results.found_html(found, signed=report.signature is not None))
    if found.measures.kidneys:
        st.html(ct_results.kidneys_html(found.measures))
    _lesions(scan, specimen, current, found, chosen, user)
    if len(report.scans) > 1:
        st.html(ct_results.of_study_html(report, scan.id))
    st.html(ct_results.made_by_html(current))


def _lesions(
    scan: CtScan,
    specimen: Specimen,
    current: Analysis,
    found: ReportedScan,
    chosen: Lesion | None,
    user: auth.CurrentUser,
) -> None:
    """The lesions of a scan, each a line that leads to its slice, and what may be said of the one that is chosen."""
    lesions = found.measures.lesions
    may_correct = specimen.state == "needs_review"
    if lesions:
        answer = rows(
            f"lesion-list-{scan.id}",
            head=("", "Lesion", "Side", "ml", "Axial mm", "3D mm", "HU", "R, E"),
            rows=[
                Row(
                    lesion.number,
                    links.address("scan", scan=scan.id, lesion=ct_results.voxel_key(lesion.voxel)),
                    ct_results.cells(lesion, found),
                )
                for lesion in lesions
            ],
            numeric=(3, 4, 5, 6, 7),
            selected=chosen.number if chosen else None,
            dense=True,
        )
        if answer.opened is not None:
            clicked = next((lesion for lesion in lesions if lesion.number == answer.opened), None)
            if clicked is not None:
                _bring_to(scan, clicked)
            st.rerun(scope="fragment")
    if may_correct:
        _corrections(scan, current, found, chosen, user)
    if chosen is not None:
        st.html(ct_results.lesion_html(chosen))
    if any(lesion.renal_r for lesion in lesions):
        st.html(ct_results.renal_note_html())


def _corrections(
    scan: CtScan, current: Analysis, found: ReportedScan, chosen: Lesion | None, user: auth.CurrentUser
) -> None:
    """Buttons that say what the chosen lesion is, or that it is none, and that take the last word back."""
    with st.container(horizontal=True):
        if chosen is not None:
            named = f"{scan.id}-{found.labels_sha256[:12]}-{ct_results.voxel_key(chosen.voxel)}"
            other = "cyst" if chosen.label == "tumour" else "tumour"
            st.button(
                f"It is a {other}",
                key=f"relabel-{named}",
                shortcut="t",
                on_click=_correct,
                args=(
                    scan.id,
                    lambda session, by: ct_findings.relabel(session, current.id, scan.id, chosen.voxel, other, by=by),
                    chosen,
                ),
            )
            st.button(
                "Delete",
                key=f"remove-{named}",
                shortcut="Delete",
                help="It becomes what surrounds it; Undo brings it back",
                on_click=_correct,
                args=(
                    scan.id,
                    lambda session, by: ct_findings.remove(session, current.id, scan.id, chosen.voxel, by=by),
                    chosen,
                ),
            )
        if found.measures.kidneys:
            _removable_kidneys(scan, current, found)
        if any(each.by_id == user.id for each in found.corrections):
            st.button(
                "Undo",
                key=f"undo-{scan.id}-{found.labels_sha256[:12]}",
                on_click=_correct,
                args=(scan.id, lambda session, by: ct_findings.undo_last(session, current.id, scan.id, by=by)),
            )


def _removable_kidneys(scan: CtScan, current: Analysis, found: ReportedScan) -> None:
    """A menu that says of one of the kidneys that it is none."""
    named = f"{scan.id}-{found.labels_sha256[:12]}"
    with st.popover("Not a kidney", key=f"kidneys-{named}", help="What was taken for a kidney, but is bowel or muscle"):
        st.markdown("It is deleted with its lesions; Undo brings it back.")
        for kidney in found.measures.kidneys:
            st.button(
                f"Delete {ct_results.kidney_in_words(kidney)}",
                key=f"remove-kidney-{kidney.number}-{named}",
                on_click=_correct,
                args=(
                    scan.id,
                    lambda session, by, number=kidney.number: ct_findings.remove_kidney(
                        session, current.id, scan.id, number, seen_sha256=found.labels_sha256, by=by
                    ),
                ),
            )


def _correct(scan_id: int, change: Callable[[Session, User], object], about: Lesion | None = None) -> None:
    """Do something to what was found, in a transaction of its own; what is refused is told beside the picture.

    A button may still stand there when another lesion was chosen already: then nothing is changed.
    """
    by = auth.current()
    if by is None:
        return  # the page says so below
    if about is not None and st.session_state.get("scan-chosen") != ct_results.voxel_key(about.voxel):
        st.session_state[f"scan-complaint-{scan_id}"] = (
            "Another lesion was chosen meanwhile. Press again if it is meant."
        )
        return
    try:
        with session_scope() as session:
            change(session, by)
    except RenalError as error:
        st.session_state[f"scan-complaint-{scan_id}"] = str(error)


def _history(specimen: Specimen, scan: CtScan, current: Analysis | None) -> None:
    with session_scope(read_only=True) as session:
        signatures = reviews.history(session, specimen.id)
        events = audit.events(session, entity="specimen", entity_id=specimen.id, limit=100)
        if current is not None:
            events += audit.events(session, entity="analysis", entity_id=current.id, limit=100)
    lines = [(entry.at, entry.by, signing.in_words(entry)) for entry in signatures]
    lines += [
        (event.at, event.actor_name, words)
        for event in events
        if (words := ct_results.change_in_words(event, scan.id)) is not None
    ]
    signing.history(lines)


user = auth.require()
scan = _asked_scan()
with session_scope(read_only=True) as session:
    specimen = specimens.get(session, scan.specimen_id)
    patient = patients.get(session, specimen.patient_id)
    siblings = scans.of_specimen(session, specimen.id)
    current = analyses.current(session, specimen.id)
st.html(_CSS)
_header(scan, specimen, patient, siblings, current, user)
st.fragment(_body)(scan.id)
