"""Review of one specimen: its fields with what was found in them, corrected by exception, then signed."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Any

import streamlit as st

from db import analyses, gate, objects, patients, reports, reviews, specimens
from db.engine import session_scope
from db.models import Analysis, Specimen
from db.objects import MinScore
from pages.components import analysis as asking
from pages.components import (
    auth,
    counts,
    download,
    findings,
    gallery,
    links,
    reviewing,
    second_opinion,
    signing,
    specimen_menu,
    status,
    style,
    viewer,
    withheld,
)
from pages.components.findings import Review, ShownField
from pages.components.numbers import asked_number
from renalcore import taxonomy
from renalcore.errors import NotFound
from renalcore.sediment.measure import ReportedValue


def _asked_specimen() -> Specimen:
    try:
        with session_scope(read_only=True) as session:
            specimen = specimens.get(session, asked_number(st.query_params.get("specimen")))
        if specimen.modality != "sediment":
            raise NotFound(f"Specimen {specimen.id} has no fields.")
        return specimen
    except NotFound:
        style.page_header("Review")
        style.empty_state("No such specimen.", "Choose one in the worklist.")
        if st.button("Worklist", type="primary"):
            links.open_page("worklist")
        st.stop()


def _field_in_address() -> int | None:
    return asked_number(st.query_params.get("field")) or None


def _header(specimen: Specimen, current: Analysis | None, user: auth.CurrentUser) -> None:
    with session_scope(read_only=True) as session:
        patient = patients.get(session, specimen.patient_id)
    with st.container(
        horizontal=True, vertical_alignment="center", horizontal_alignment="distribute", key="review-head"
    ):
        with st.container(horizontal=True, vertical_alignment="center", width="stretch"):
            name = f" · {escape(patient.name)}" if patient.name else ""
            address = links.address("patient", patient=patient.id)
            st.html(
                f'<h1 style="display:inline">{escape(specimen.accession)}</h1> &nbsp; '
                f"{status.state_chip_html(specimen.state)} &nbsp; "
                f'<span class="rc-quiet-text">Patient <a href="{escape(address)}" target="_self">'
                f"{escape(patient.identifier)}</a>{name} · {specimen.objective} · "
                f"{style.when(specimen.created_at)}</span>"
            )
        with st.container(horizontal=True, vertical_alignment="center", width="content"):
            if specimen.state in ("needs_review", "signed"):
                download.csv_button(
                    "CSV",
                    key=f"csv-{specimen.id}",
                    file_name=f"{specimen.accession}.csv",
                    entity="specimen",
                    entity_id=specimen.id,
                    specimen_id=specimen.id,
                )
            complete = current is not None and current.state == "done"
            specimen_menu.menu(specimen, _field_in_address(), user)
            if complete:
                signing.offer(specimen, _signed_words, user, reviewed="fields and findings of this specimen")


def _signed_words(specimen_id: int) -> Iterator[str]:
    with session_scope(read_only=True) as session:
        report = reports.report(session, specimen_id)
    yield (
        f"Specimen **{style.plain(report.accession)}**, patient **{style.plain(report.patient_identifier)}**, "
        f"{len(report.fields)} fields counted, cut-off table {style.plain(report.cut_off_version)}."
    )
    found = [row for row in counts.in_order(report.rows) if row.total]
    yield "\n".join(map(_signed_value, found)) or "Nothing found that counts."
    if report.withheld_in_words:
        yield f"Not counted: {style.plain(report.withheld_in_words)}."
    if report.unreviewed:
        yield f"{report.unreviewed} findings stand as the model found them; signing accepts them."


def _signed_value(row: ReportedValue) -> str:
    grade = f", {style.plain(row.grade)}" if row.grade else ""
    return f"- {style.plain(row.class_name)}: **{style.number(row.mean)}** per {row.unit}{grade}"


def _shown_fields(session: Any, specimen_id: int, current: Analysis, min_score: MinScore) -> list[ShownField]:
    searched = gate.results(session, current.id)
    numbers, _ = objects.counts(session, {current.id: min_score})
    by_field: dict[int, int] = {}
    for (_, field_id, _), count in numbers.items():
        by_field[field_id] = by_field.get(field_id, 0) + count
    return [
        ShownField(
            field.id,
            field.name,
            field.width_px,
            field.height_px,
            by_field.get(field.id, 0),
            tuple(words for _, words in gate.flags(field, searched.get(field.id))),
        )
        for field in specimens.fields(session, specimen_id)
    ]


def _body(specimen_id: int, analysis_id: int) -> None:
    """Everything that a correction changes; runs by itself at each correction."""
    auth.require()
    state = findings.state_of(analysis_id)
    with session_scope(read_only=True) as session:
        specimen = specimens.get(session, specimen_id)
        current = analyses.get(session, analysis_id)
        report = reports.report(session, specimen_id)
        min_score: MinScore = current.options.get("min_score", 0.0)
        fields = _shown_fields(session, specimen_id, current, min_score)
        opinion = second_opinion.opinion_on(session, current)
    card = asking.card_of(current.model_key)
    unvalidated = card.unvalidated_classes if card else tuple(filter(report.is_unvalidated, taxonomy.NAMES))
    released = asking.released_scores(card) if card else min_score
    known = {shown.id for shown in fields}
    shown_now = state.goal[1] if state.goal[1] in known else fields[0].id

    def thresholds(chosen: float | None) -> MinScore:
        if card is None:
            return min_score if chosen is None else chosen
        return asking.counted_from(card, chosen)

    def apply(key: str) -> None:
        # Asked anew at each action. Who is signed out meanwhile is told so below, in place of the picture.
        signed_in = auth.current()
        if signed_in is not None:
            findings.apply(analysis_id, st.session_state[key].get("actions"), by=signed_in, thresholds=thresholds)

    def visited() -> None:
        state.visit(int(st.session_state[viewer.key_of(analysis_id)]["field"]))

    def jump() -> None:
        target = st.session_state[gallery.key_of(analysis_id)].get("jump")
        if target:
            state.go(int(target["field"]), str(target["key"]))
            st.session_state[f"mode-{analysis_id}"] = "Fields"

    with st.container(key="review-body"):
        left, right = st.columns([2.7, 1], gap="medium")
        with left, st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
            mode = st.segmented_control(
                "View",
                ("Fields", "Gallery"),
                # A default beside a value set by `jump` would be warned of; a value set here would be lost in a rerun.
                default=None if f"mode-{analysis_id}" in st.session_state else "Fields",
                key=f"mode-{analysis_id}",
                label_visibility="collapsed",
                required=True,
            )
            show_unvalidated = False
            if unvalidated:
                show_unvalidated = st.toggle(
                    "Show classes never validated on real pictures",
                    key=f"unvalidated-{analysis_id}",
                    help="What the model proposes for them counts only where a person confirms it.",
                )
        review = Review(
            analysis_id=analysis_id,
            fields=fields,
            min_score=min_score,
            released=released,
            unvalidated=unvalidated,
            show_unvalidated=show_unvalidated,
            read_only=specimen.state != "needs_review",
        )
        with left:
            if mode == "Gallery":
                with session_scope(read_only=True) as session:
                    everything = reviews.objects(session, analysis_id)
                gallery.gallery(
                    review,
                    objects=everything,
                    on_actions=lambda: apply(gallery.key_of(analysis_id)),
                    on_jump=jump,
                )
            else:
                with session_scope(read_only=True) as session:
                    near = [
                        item
                        for field_id in viewer.neighbours(fields, shown_now)
                        for item in reviews.objects(session, analysis_id, field_id=field_id)
                    ]
                viewer.viewer(
                    review,
                    current=shown_now,
                    objects=near,
                    on_actions=lambda: apply(viewer.key_of(analysis_id)),
                    on_field=visited,
                    heat=card is not None and card.network == "multihead",
                    second=second_opinion.layer(opinion, viewer.neighbours(fields, shown_now)),
                )
        with right, st.container(key="review-side"):
            _side(report, specimen_id, analysis_id, unvalidated, state)
            second_opinion.panel(opinion, current, state, read_only=specimen.state != "needs_review")
            with st.expander("History", key=f"history-{analysis_id}"):
                _history(specimen_id, analysis_id, opinion)
    # Only a step puts the field into the address: else the browser's Back would lead to this page for ever.
    if st.query_params.get("field", str(fields[0].id)) != str(shown_now):
        st.query_params["field"] = str(shown_now)


def _side(
    report: reports.SpecimenReport,
    specimen_id: int,
    analysis_id: int,
    unvalidated: tuple[str, ...],
    state: findings.ReviewState,
) -> None:
    if state.complaint:
        st.error(style.plain(state.complaint))
        state.complaint = None
    signing.signature(report.signature)
    withheld.show(report, auth.require())
    if report.rows:
        counts.show(report.rows, unvalidated=unvalidated, key=f"counts-{analysis_id}")
    searched = f"{len(report.fields)} of {report.fields_total} fields"
    alone = f" · {report.unreviewed} findings not touched by a person" if report.unreviewed else ""
    st.html(
        f'<p class="rc-quiet-text">{searched}{alone}<br>Grades by {escape(report.cut_off_version)}'
        f"<br>Model {escape(report.model_key or style.NO_VALUE)}</p>"
    )
    lacking = report.fields_missing
    if lacking and report.state == "needs_review":
        asking.offer_the_rest(analysis_id, lacking, picture="field", by=auth.require())


def _history(specimen_id: int, analysis_id: int, opinion: second_opinion.Opinion | None) -> None:
    about = [("analysis", analysis_id), ("specimen", specimen_id)]
    if opinion is not None:
        about.append(("analysis", opinion.second.id))
    signing.history(specimen_id, about, _change_in_words)


_VERBS = {
    "object.confirm": "confirmed",
    "object.remove": "removed",
    "object.restore": "restored",
    "object.undo": "undone",
    "object.reclassify": "reclassified",
}


def _change_in_words(event: Any) -> str | None:
    """A correction or another change as a technologist would say it, or None for events of other kinds."""
    new = event.new or {}
    if event.action == "specimen.withdraw_field":
        return f"{new['name']} withdrawn: {event.reason}"
    if event.action == "specimen.reassign":
        return f"Moved from patient {event.old['patient']} to {new['patient']}: {event.reason}"
    if event.action == "specimen.change_date":
        return signing.date_changed(event, "Date of collection")
    if event.action == "specimen.bring_back_field":
        return f"{new['name']} brought back"
    if event.action == "specimen.accept_field":
        return f"{new['name']} counted, though {new['in_spite_of']}: {event.reason}"
    if event.action == "specimen.withhold_field":
        return f"{new['name']} withheld again: {new['in_spite_of']}"
    if event.action == "object.add":
        return f"{new['class']} added by hand"
    if event.action == "analysis.request_second":
        return f"Second opinion asked of {new['model_key']}"
    if event.action == "analysis.set_threshold":
        return "Confidence threshold changed"
    if event.action not in _VERBS:
        return None
    before = event.old["objects"]
    after = new["objects"]
    names = sorted({item["class"] for item in before.values()})
    target = sorted({item["class"] for item in after.values()})
    as_what = f" as {', '.join(target)}" if event.action == "object.reclassify" else ""
    return f"{len(before)} {', '.join(names)} {_VERBS[event.action]}{as_what}"


def _progress(specimen_id: int, analysis_id: int) -> None:
    auth.require()
    with session_scope(read_only=True) as session:
        current = analyses.get(session, analysis_id)
        done, total = analyses.progress(session, analysis_id)
    if current.state not in ("queued", "running"):
        st.rerun()
    status.worker_banner()
    status.progress(done, total, started=current.state == "running")
    st.html('<p class="rc-quiet-text">Findings are shown here when all fields are done. You may leave this page.</p>')


user = auth.require()
reviewing.room("review")
specimen = _asked_specimen()
with session_scope(read_only=True) as session:
    current = analyses.current(session, specimen.id)
_header(specimen, current, user)
if current is None or specimen.state in ("failed", "cancelled"):
    words = status.state_words(specimen.state, message=current.message if current else None)
    st.error(f"The analysis {style.plain(words)}" if current else "This specimen has not been analysed.")
    with st.container(horizontal=True):
        again = st.button("Retry" if current else "Analyse", type="primary", key=f"retry-{specimen.id}")
        if current and st.button(specimen_menu.withdraw_words("sediment"), key=f"withdraw-{specimen.id}"):
            with session_scope(read_only=True) as session:
                lacking = analyses.pending_fields(session, current.id)
            specimen_menu.withdraw(specimen, lacking[0].id if lacking else None)
    if again and current:
        asking.attempt(lambda: asking.retry(current.id, by=user))
    elif again:
        asking.attempt(lambda: asking.analyse(specimen.id, by=user))
elif current.state in ("queued", "running"):
    with st.container(key="refreshed"):
        st.fragment(_progress, run_every=reviewing.REFRESH_S)(specimen.id, current.id)
else:
    asked_field = _field_in_address()
    agreed = findings.state_of(current.id)
    if asked_field is not None and agreed.goal[1] != asked_field:
        agreed.go(asked_field)
    st.fragment(_body)(specimen.id, current.id)
