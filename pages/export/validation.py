"""Clinical validation: the reports of this laboratory against what its technologists graded."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime
from html import escape
from typing import Any, NamedTuple

import streamlit as st

from db import accounts, audit, cutoffs, reports
from db.engine import session_scope
from pages.components import auth, confusion, date_range, links, style
from renalcore.errors import Conflict, RenalError
from renalcore.export import clinical as tables
from renalcore.metrics.agreement import Estimate
from renalcore.sediment.clinical import Validation, compare
from renalcore.sediment.grades import FIVE_GRADES, GRADES, title
from renalcore.sediment.measure import CutOffTable
from renalcore.sediment.reported import ReportLine
from renalcore.sediment.table8 import METHOD, TABLE_8_MEAN, ComponentAgreement, Overall, Pair
from renalcore.sediment.technologist import TechnologistSheet, read_sheet

SCOPES = ("All signed specimens", "A range of dates")
GRADINGS = ("As reported", "Anew from the means")
MOST_SHOWN = 100
"""Differences on the page; the download has all of them."""

_EXAMPLE = [["A-1001", "RBC", "few"], ["A-1001", "Epithelial cells", "++"], ["A-1002", "WBC", "5-10"]]
_DONE = "validation_done"
"""Session key of the comparison that is shown; the technologists' file itself is kept nowhere."""


class _Asked(NamedTuple):  # Streamlit makes this class anew on every run; tuples stay equal all the same
    """What a comparison is asked for: equal questions have equal answers."""

    file_name: str
    sha256: str
    signed_only: bool
    since: datetime | None
    until: datetime | None
    table: CutOffTable
    regrade: bool


class _Done(NamedTuple):
    """A comparison, for the run of the script after it."""

    asked: _Asked
    sheet: TechnologistSheet
    found: Validation
    specimen_ids: Mapping[str, int]


def _choose_specimens() -> tuple[bool, datetime | None, datetime | None] | None:
    """Signed only, since, until; None where the dates make no range."""
    scope = st.segmented_control("Specimens", SCOPES, default=SCOPES[0], key="validation-scope", required=True)
    if scope == SCOPES[0]:
        return True, None, None
    days = date_range.choose("validation")
    return None if days is None else (False, days.since, days.until)


def _choose_grading() -> tuple[CutOffTable, bool]:
    """The table that grades numbers, and whether it grades every mean anew."""
    with session_scope(read_only=True) as session:
        versions = [FIVE_GRADES, *(cutoffs.table_of(row) for row in cutoffs.all_versions(session))]
    by_version = {table.version: table for table in reversed(versions)}
    with st.container(horizontal=True, vertical_alignment="bottom"):
        grading = st.segmented_control(
            "Grades of the reports",
            GRADINGS,
            default=GRADINGS[0],
            key="validation-grading",
            required=True,
            help="As reported: the grade on the report; a bare number is graded by the table beside. "
            "Anew: every mean is graded by that table.",
        )
        names = [table.version for table in versions]
        chosen = st.selectbox(
            "Numbers are graded by",
            list(dict.fromkeys(names)),
            key="validation-table",
            width=220,
            help="Turns counts and ranges of either side into the five grades. five-1 comes with RenalCore.",
        )
    return by_version[chosen], grading == GRADINGS[1]


def _compare(content: bytes, asked: _Asked) -> _Done:
    """Read, compare, and record that it was done, with counts only.

    Raises:
        RenalError: The file cannot be used, or nothing can be compared.
    """
    sheet = read_sheet(content, name=asked.file_name, table=asked.table)
    with session_scope(read_only=True) as session:
        every = reports.reported_specimens(session, since=asked.since, until=asked.until, signed_only=asked.signed_only)
        accessions, patients = sheet.accessions, sheet.patients
        wanted = [one for one in every if one.accession in accessions or one.patient_identifier in patients]
        rows = reports.rows_of_specimens(session, [one.specimen_id for one in wanted])
    taken = {one.accession for one in wanted}
    found = compare(
        sheet,
        [ReportLine.of(row) for row in rows if row.mean is not None],  # none where every field is withheld
        also_reported=[one.accession for one in every if one.accession not in taken],
        table=asked.table,
        regrade=asked.regrade,
    )
    with session_scope() as session:
        audit.record(
            session,
            actor=user,
            action="validation.compare",
            entity="validation",
            entity_id=None,
            new=_counts(sheet, found)
            | {
                "signed_only": asked.signed_only,
                "since": asked.since,
                "until": asked.until,
                "cut_off_table": asked.table.version,
                "regraded": asked.regrade,
            },
        )
    return _Done(asked, sheet, found, {one.accession: one.specimen_id for one in wanted})


def _counts(sheet: TechnologistSheet, found: Validation) -> dict[str, int]:
    return {
        "patients": found.overall.patients,
        "specimens": found.specimens,
        "values": found.overall.values,
        "differences": len(found.differences),
        "bad_lines": len(sheet.bad_lines) + len(found.not_compared),
    }


def _download(label: str, file_name: str, content: bytes, done: _Done) -> None:
    """A button for one table; patients' numbers leave with it, so each download is recorded."""
    token = st.context.cookies.get(auth.COOKIE)

    def make() -> bytes:
        with session_scope() as session:
            asking = accounts.user_for_token(session, token) if token else None
            if asking is None or asking.role not in ("reviewer", "admin"):
                raise Conflict("Your session has ended. Sign in again to download.")
            audit.record(
                session,
                actor=asking,
                action="export.validation",
                entity="validation",
                entity_id=None,
                new={"file_name": file_name} | _counts(done.sheet, done.found),
            )
        return content

    st.download_button(
        label, make, file_name=file_name, mime="text/csv", key=f"validation-{file_name}", on_click="ignore"
    )


def _show(done: _Done) -> None:
    found = done.found
    st.header("Agreement", anchor=False)
    _show_agreement(found)
    with st.container(horizontal=True):
        _download("Agreement as CSV", "agreement.csv", tables.agreement_csv(found), done)
        _download("Confusion as CSV", "confusion.csv", tables.confusion_csv(found), done)
        _download("Differences as CSV", "differences.csv", tables.differences_csv(found), done)
        _download("Left out as CSV", "left_out.csv", tables.left_out_csv(found, done.sheet), done)
    st.header("Confusion", anchor=False)
    st.html(
        "<p class=\"rc-quiet-text\">The technologists' grade down, the report's across; the outlined cells agree. "
        "The colour is the share of the row.</p>"
    )
    confusion.show({title(one.component): one.confusion for one in found.components}, GRADES)
    st.header(f"Differences ({len(found.differences)})", anchor=False)
    _show_differences(found.differences, done.specimen_ids)
    _show_left_out(done)


def _show_agreement(found: Validation) -> None:
    whole = found.overall
    lines = [_line(escape(title(one.component)), one, _percent(one.paper)) for one in found.components]
    lines.append(_line(f"<strong>All {whole.values} values</strong>", whole, ""))
    paper = TABLE_8_MEAN if tables.all_of_table_8(found) else None
    lines.append(
        f'<tr data-component="mean"><td><strong>Mean accuracy</strong></td><td class="rc-num">{whole.patients}</td>'
        f"{_cell(whole.mean_accuracy, percent=True)}<td></td><td></td><td></td>"
        f'<td class="rc-num">{_percent(paper)}</td></tr>'
    )
    names = ("Patients", "Accuracy, %", "Within one grade, %", "Kappa, linear", "Kappa, quadratic", "Paper, %")
    head = "".join(
        f'<th class="rc-num" style="white-space:normal; vertical-align:bottom">{name}</th>' for name in names
    )
    st.html(
        '<div style="overflow-x:auto"><table class="rc-table"><thead><tr>'
        f'<th style="vertical-align:bottom">Component</th>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )
    reviewed = (
        f"{found.reviewed} of the {found.specimens} specimens are signed, so their grades hold what people corrected: "
        "the figures tell how good those reports are, not what the model does alone. "
        if found.reviewed
        else ""
    )
    grading = "all means graded" if found.regraded else "numbers graded"
    st.html(
        f'<p class="rc-quiet-text">{reviewed}{escape(METHOD)} {found.resamples} resamples, seed {found.seed}. '
        f"Cut-offs of the reports: {escape(', '.join(found.cut_off_versions))}; {grading} by {escape(found.table)}. "
        f"Models: {escape(', '.join(found.models))}. Paper: its Table 8, 84 patients of another laboratory.</p>"
    )


def _line(name_html: str, of: ComponentAgreement | Overall, paper: str) -> str:
    """A line of the table; the notes and the reasons for what is missing stand below it in a line of their own."""
    note = " ".join(tables.remarks(of))
    component = of.component if isinstance(of, ComponentAgreement) else "all"
    plain = ' style="border-bottom:0"' if note else ""
    below = f'<tr><td colspan="7" class="rc-quiet-text" style="font-size:0.8rem">{escape(note)}</td></tr>'
    return (
        f'<tr data-component="{escape(component)}"><td{plain}>{name_html}</td>'
        f'<td class="rc-num"{plain}>{of.patients}</td>{_cell(of.accuracy, plain, percent=True)}'
        f"{_cell(of.within_one, plain, percent=True)}{_cell(of.linear, plain)}{_cell(of.quadratic, plain)}"
        f'<td class="rc-num"{plain}>{paper}</td></tr>{below if note else ""}'
    )


def _cell(estimate: Estimate, attributes: str = "", *, percent: bool = False) -> str:
    """A figure over its interval."""
    scale, decimals = (100, 1) if percent else (1, 2)
    value = style.NO_VALUE if estimate.value is None else f"{estimate.value * scale:.{decimals}f}"
    if estimate.low is None or estimate.high is None:
        below = "not defined" if estimate.value is None else "no interval"
    else:
        below = f"{estimate.low * scale:.{decimals}f} – {estimate.high * scale:.{decimals}f}"
    return (
        f'<td class="rc-num"{attributes}>{value}<div class="rc-quiet-text" style="font-size:0.8rem">{below}</div></td>'
    )


def _percent(value: float | None) -> str:
    return style.NO_VALUE if value is None else f"{value * 100:.1f}"


def _show_differences(differences: tuple[Pair, ...], specimen_ids: Mapping[str, int]) -> None:
    if not differences:
        st.html('<p class="rc-quiet-text">None: every grade is the technologist\'s.</p>')
        return
    lines = "".join(
        f'<tr data-accession="{escape(pair.accession)}">'
        f'<td><a href="{links.address("review", specimen=specimen_ids[pair.accession])}" target="_self">'
        f"{escape(pair.accession)}</a></td><td>{escape(pair.patient)}</td><td>{escape(title(pair.component))}</td>"
        f"<td>{_both(GRADES[pair.technologist], pair.written)}</td><td>{_both(GRADES[pair.report], pair.reported)}</td>"
        f'<td class="rc-num">{pair.steps:+d}</td></tr>'
        for pair in differences[:MOST_SHOWN]
    )
    st.html(
        '<table class="rc-table"><thead><tr><th>Specimen</th><th>Patient</th><th>Component</th><th>Technologist</th>'
        f'<th>Report</th><th class="rc-num">Grades apart</th></tr></thead><tbody>{lines}</tbody></table>'
    )
    if len(differences) > MOST_SHOWN:
        st.html(f'<p class="rc-quiet-text">The {MOST_SHOWN} farthest apart; the download has all.</p>')


def _both(grade: str, said: str) -> str:
    beside = f' <span class="rc-quiet-text">{escape(said)}</span>' if said.strip().casefold() != grade else ""
    return f"{grade}{beside}"


def _show_left_out(done: _Done) -> None:
    found, sheet = done.found, done.sheet
    bad = sorted((*sheet.bad_lines, *found.not_compared), key=lambda line: line.line)
    one_sided = found.one_sided
    if bad:
        with st.expander(f"Lines that were not compared ({len(bad)})", key="validation-bad", expanded=True):
            style.table(["Line", "Reason"], [[str(line.line), line.reason] for line in bad[:MOST_SHOWN]], numeric=(0,))
    classes = [f"{name} ({number})" for name, number in one_sided.report_classes]
    for words, names in (
        ("Graded by technologists, no such report among these specimens", one_sided.technologist_specimens),
        ("Reported, graded by no technologist", one_sided.report_specimens),
        ("Components that no report has: the model does not assess them", one_sided.technologist_components),
        ("Found in reports, graded by no technologist (number of specimens)", classes),
        ("Columns that name no component", sheet.ignored_columns),
    ):
        if names:
            with st.expander(f"{words} ({len(names)})"):
                more = f" and {len(names) - MOST_SHOWN} more" if len(names) > MOST_SHOWN else ""
                st.html(f'<span class="rc-quiet-text">{escape(", ".join(names[:MOST_SHOWN]))}{more}</span>')


def _explain() -> None:
    st.markdown(
        "Upload what technologists graded, as CSV: one line a value as below, or one line a specimen with a column "
        "for each component. The file is compared and not kept."
    )
    style.table(["accession", "component", "grade"], _EXAMPLE)
    st.html(
        '<p class="rc-quiet-text">In place of accession, patient will do where a patient has one specimen. Grades are '
        f"{', '.join(GRADES)}, signs such as ++, numbers or ranges such as 5-10.</p>"
    )


user = auth.require("reviewer", "admin")
with style.page_header(
    "Clinical validation",
    "Reports against technologists' grades, component by component. Every comparison is recorded.",
):
    start = st.container()

uploaded: Any = st.file_uploader("Technologists' grades (CSV)", type=["csv", "tsv", "txt"], key="validation-file")
specimens_asked = _choose_specimens()
table, regrade = _choose_grading()

asked = None
if uploaded is not None and specimens_asked is not None:
    signed_only, since, until = specimens_asked
    content = uploaded.getvalue()
    digest = hashlib.sha256(content).hexdigest()
    asked = _Asked(uploaded.name, digest, signed_only, since, until, table, regrade)
with start:
    pressed = st.button("Compare", type="primary", key="validation-compare", disabled=asked is None)

if uploaded is None:
    st.session_state.pop(_DONE, None)
    _explain()
elif asked is not None:
    if pressed:
        st.session_state.pop(_DONE, None)
        try:
            with st.spinner("Comparing"):
                st.session_state[_DONE] = _compare(content, asked)
        except RenalError as error:
            st.error(style.plain(str(error)))
    done = st.session_state.get(_DONE)
    if done is not None and done.asked == asked:
        _show(done)
    elif not pressed:
        st.html('<p class="rc-quiet-text">Press Compare to see the figures for this choice.</p>')
