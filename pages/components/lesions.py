"""The lesions and kidneys of a CT scan under review: chosen, brought into the picture, corrected, told."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st
from sqlalchemy.orm import Session

from db import ct_findings
from db.ct_reports import ReportedScan
from db.engine import session_scope
from db.models import Analysis, CtScan, Specimen, User
from pages.components import auth, ct_results, links, style
from pages.components.rows import Row, rows
from renalcore.ct.measure import Lesion
from renalcore.errors import RenalError


def brought_to(scan: CtScan, chosen: Lesion | None) -> tuple[tuple[int, int, int] | None, int]:
    """The voxel that the list of lesions asked for last, and how often it has asked; at first that of the address."""
    return st.session_state.setdefault(f"scan-go-{scan.id}", (chosen.voxel if chosen else None, 0))


def _bring_to(scan: CtScan, lesion: Lesion) -> None:
    """Choose a lesion, and have the viewer go there; a lesion that is clicked in the viewer moves nothing."""
    choose(lesion)
    _, asked = brought_to(scan, None)
    st.session_state[f"scan-go-{scan.id}"] = (lesion.voxel, asked + 1)


def named_in_address(found: ReportedScan | None) -> Lesion | None:
    """The lesion that the address names by one of its voxels; none where it was removed since."""
    asked = st.session_state["scan-chosen"] = st.query_params.get("lesion")
    if found is None or asked is None:
        return None
    named = (lesion for lesion in found.measures.lesions if ct_results.voxel_key(lesion.voxel) == asked)
    return next(named, None)


def choose(lesion: Lesion | None) -> None:
    """Choose a lesion, which then stands in the address; or none."""
    if lesion is None:
        st.query_params.pop("lesion", None)
    else:
        st.query_params["lesion"] = ct_results.voxel_key(lesion.voxel)
    st.session_state["scan-chosen"] = st.query_params.get("lesion")


def show(
    scan: CtScan,
    specimen: Specimen,
    current: Analysis,
    found: ReportedScan,
    chosen: Lesion | None,
    user: auth.CurrentUser,
) -> None:
    """The lesions of a scan, each a line that leads to its slice, and what may be said of the one that is chosen.

    Args:
        scan: The scan.
        specimen: Its study.
        current: The analysis that found them.
        found: What stands in the scan.
        chosen: The lesion that is chosen.
        user: Who looks at it.
    """
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
        st.html(ct_results.lesion_html(chosen, found.measures))
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
        if any(each.by_id == user.id for each in found.corrections):
            st.button(
                "Undo",
                key=f"undo-{scan.id}-{found.labels_sha256[:12]}",
                on_click=_correct,
                args=(scan.id, lambda session, by: ct_findings.undo_last(session, current.id, scan.id, by=by)),
            )
        if found.measures.kidneys:
            _removable_kidneys(scan, current, found)


def _removable_kidneys(scan: CtScan, current: Analysis, found: ReportedScan) -> None:
    """A menu that says of one of the kidneys that it is none."""
    named = f"{scan.id}-{found.labels_sha256[:12]}"
    with st.popover("Not a kidney", key=f"kidneys-{named}"):
        st.markdown("It goes with its lesions; Undo brings it back.")
        for organ in found.measures.organs:
            st.button(
                f"Delete {ct_results.organ_in_words(organ)}",
                key=f"remove-kidney-{organ[0].number}-{named}",
                on_click=_correct,
                args=(
                    scan.id,
                    lambda session, by, number=organ[0].number: ct_findings.remove_kidney(
                        session, current.id, scan.id, number, seen_sha256=found.labels_sha256, by=by
                    ),
                ),
            )


def complaint(scan_id: int) -> None:
    """What was refused last, once."""
    words = st.session_state.pop(f"scan-complaint-{scan_id}", None)
    if words:
        st.error(style.plain(words))


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
