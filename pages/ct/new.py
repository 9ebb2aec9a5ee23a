"""New scans: whose and which, the study as it arrives, which of its series to take, and one button."""

from __future__ import annotations

from html import escape
from typing import Any

import streamlit as st

from db import analyses, ct_intake, scans, specimens, uploads
from db.ct_intake import Prepared
from db.engine import session_scope
from db.models import Upload
from db.scans import NewScan
from db.uploads import CheckedStudy
from pages.components import analysis, auth, registering, status, style
from pages.components.file_upload import file_upload
from renalcore.errors import InputError
from renalcore.io.volume import SeriesFound

FORM = "new-ct"

Choice = tuple[str, str]
"""The key of an upload, and that of a series in it."""


def _kept(name: str) -> dict[Any, Any]:
    """What this form found out so far, by upload or series: gone with the form, and never stored."""
    return st.session_state.setdefault("new-ct-kept", {}).setdefault(name, {})


user = auth.require()
action = style.page_header("New CT study")
can_analyse = not analysis.no_kidneys_are_found()
if can_analyse:
    status.worker_banner()
registering.last_one(FORM, opens="scan", record="scan", listed="ct", all_of="All studies")
typed = registering.numbers(FORM, collected="Scanned")

with session_scope(read_only=True) as session:
    mine = uploads.of_user(session, user, "ct")
interrupted = [upload for upload in mine if upload.sha256 is None]
just_arrived = file_upload("ct-upload", modality="ct", interrupted=interrupted)
# What arrived for this form belongs to it; what lies here from another time or form is taken only when it is ticked.
here: set[str] = st.session_state.setdefault("new-ct-here", set())
here.update(set(just_arrived) - st.session_state.get("new-ct-past", set()))
_kept("called").update(just_arrived)
with session_scope(read_only=True) as session:
    arrived = [upload for upload in uploads.of_user(session, user, "ct") if upload.sha256 is not None]


def _called(upload: Upload) -> str:
    """What the browser calls it where it came just now: that name, often the patient's, is not stored."""
    return str(_kept("called").get(upload.key, upload.name))


def _fill_in(said: dict[str, object]) -> None:
    for name, value in said.items():
        if value:
            st.session_state[registering.key(FORM, name)] = value


def _stated(upload: Upload) -> list[Any]:
    from renalcore.io.volume.identity import stated  # which loads the readers of DICOM

    known = _kept("stated")
    if upload.key not in known:
        known[upload.key] = stated(uploads.part_of(upload), name="scan")
    return known[upload.key]


def _are_several(of: list[Upload]) -> bool:
    """Whether the files of these uploads name more than one patient."""
    said = [one for upload in of for one in _stated(upload)]
    if not said:
        return False
    from renalcore.io.volume.identity import people

    return people(said) > 1


def _whose(upload: Upload) -> None:
    """Shows whose the files say they are and offers to fill the form in with it."""
    people = _stated(upload)
    if not people:
        return
    said = people[0]
    facts = [
        *([f"patient number {said.patient_number}"] if said.patient_number else []),
        *([said.patient_name] if said.patient_name else []),
        *([f"accession {said.accession}"] if said.accession else []),
        *([f"scanned {said.scanned_at:%d %b %Y %H:%M}"] if said.scanned_at else []),
    ]
    if not facts:
        return
    with st.container(horizontal=True, vertical_alignment="center", key=f"stated-{upload.key}"):
        st.html(f'<span class="rc-quiet-text">The files say: {escape(" · ".join(facts))}</span>', width="content")
        st.button(
            "Fill in",
            key=f"fill-{upload.key}",
            on_click=_fill_in,
            args=[
                {
                    "identifier": said.patient_number,
                    "name": said.patient_name,
                    "accession": said.accession,
                    "collected": said.scanned_at,
                }
            ],
            help="Takes them over into the form above, where they can be changed. Nothing of them is stored otherwise.",
        )
    number = typed.identifier.strip()
    if number and {one.patient_number for one in people} - {"", number}:
        _doubts([f"The files name another patient number than {number}: check that it is the right patient"])


def _doubts(words: list[str]) -> None:
    if words:
        st.html("<br>".join(f"{status.flag_html('check')} {escape(one)}" for one in words))


def _facts(series: SeriesFound) -> list[str]:
    sides = series.spacing_mm and " × ".join(f"{mm:.3g}" for mm in reversed(series.spacing_mm))
    return [
        series.phase or "phase not stated",
        f"{style.number(series.slices, 0)} slices of {series.columns} × {series.rows} px",
        *([f"{sides} mm"] if sides else []),
        *([f"kernel {series.kernel}"] if series.kernel else []),
    ]


def _series(upload: Upload, series: SeriesFound, *, is_expected: bool) -> tuple[SeriesFound, str] | None:
    """One series that can be read: what it is, whether it is taken, and its name. None where it is not taken."""
    at = f"{upload.key}-{series.key}"
    called = f"Series {series.key}" if series.format == "DICOM" else "NIfTI volume"
    with st.container(horizontal=True, vertical_alignment="center", key=f"series-{at}"):
        taken = st.checkbox(style.plain(called), is_expected, key=f"take-{is_expected}-{at}")
        st.html(f'<span class="rc-quiet-text">{escape(" · ".join(_facts(series)))}</span>', width="stretch")
        name = ""
        if taken:
            name = st.text_input(
                "Name",
                series.phase,
                key=f"name-{at}",
                max_chars=100,
                placeholder="Name, such as portal",
                label_visibility="collapsed",
                width=220,
            )
    doubts = [flag.message for flag in series.flags]
    if seen := _kept("seen").get((upload.key, series.key)):
        doubts.insert(0, f"The same scan belongs to {', '.join(seen[:3])}: check that it is the right patient")
    _doubts(doubts)
    return (series, name) if taken else None


def _study(upload: Upload) -> list[tuple[Choice, str]]:
    """An upload that is here: the series that are taken of it, with their names."""
    found = CheckedStudy.of(upload).series
    readable = [series for series in found if not series.refused]
    with st.container(border=True, key=f"arrived-{upload.key}"):
        with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
            st.html(
                f"<strong>{escape(_called(upload))}</strong> "
                f'<span class="rc-quiet-text">{style.size(upload.size_bytes)}</span>',
                width="stretch",
            )
            if st.button("Discard", key=f"discard-{upload.key}", help="Removes it from the server"):
                with session_scope() as session:
                    uploads.discard(session, uploads.get(session, upload.key, by=user))
                st.rerun()
        if _are_several([upload]):
            st.error("The files belong to several patients. Discard them, and upload the study of one patient.")
            return []
        _whose(upload)
        if len(readable) > 1:
            st.markdown("Several series: take those to be analysed. The others are not kept.")
        expected = len(readable) == 1 and upload.key in here
        chosen = [_series(upload, series, is_expected=expected) for series in readable]
        for series in found[len(readable) :]:
            count = f"{series.slices} image" if series.slices == 1 else f"{series.slices} images"
            words = f"Series {series.key or '?'} ({count}) is left out: {series.refused}"
            st.html(f'<span class="rc-quiet-text">{escape(words)}</span>')
    return [((upload.key, series.key), name) for series, name in filter(None, chosen)]


taken = [choice for upload in arrived for choice in _study(upload)]
keeps_identity = False
if arrived:
    keeps_identity = st.checkbox(
        "Keep names, numbers and dates in the stored files (otherwise they are removed)",
        key=registering.key(FORM, "keeps-identity"),
        help="Without the tick, names, numbers, dates and private texts are removed before the scan is stored "
        "(DICOM PS3.15, basic profile); the original identifiers of its images are kept apart, for a DICOM SEG to "
        "refer to them. With it, the files are stored as they are.",
    )
where = registering.target(FORM, typed, modality="ct", pictures="scans")
lacking = registering.missing(typed, where, [] if taken else ["at least one scan"])
of_several = _are_several([upload for upload in arrived if upload.key in {key for (key, _), _ in taken}])
if of_several:
    st.error("The files that are ticked name different patients. Take the scans of one patient.")


def _scans(number: int) -> str:
    return f"{number} scan" if number == 1 else f"{number} scans"


def _prepared() -> list[NewScan]:
    """What is stored of each scan that is taken; what was made ready before is not made again."""
    known: dict[tuple[Choice, bool], Prepared] = _kept("prepared")
    study_key = _kept("key").setdefault("key", ct_intake.new_key())
    by_key = {upload.key: upload for upload in arrived}
    bar = st.progress(0.0, text="Making the scans ready")
    new = []
    try:
        for index, (choice, name) in enumerate(taken):
            words = f"Making scan {index + 1} of {len(taken)} ready" if len(taken) > 1 else "Making the scan ready"
            upload = by_key[choice[0]]
            if (choice, keeps_identity) not in known:
                try:
                    known[choice, keeps_identity] = ct_intake.prepare(
                        upload,
                        choice[1],
                        keeps_identity=keeps_identity,
                        key=study_key,
                        progress=lambda share, words=words: bar.progress(share, text=words),
                    )
                except InputError as error:
                    raise InputError(f"{_called(upload)}: {error} Nothing was registered.") from error
            new.append(NewScan(prepared=known[choice, keeps_identity], name=name))
    finally:
        bar.empty()
    return new


def _seen_before(new: list[NewScan]) -> bool:
    """Whether a scan belongs to another study, which nobody was told yet; it is told when the page is drawn again."""
    told = _kept("seen")
    before = dict(told)
    with session_scope(read_only=True) as session:
        for (choice, _), one in zip(taken, new, strict=True):
            if seen := scans.seen_before(session, one.prepared.image.sha256):
                told[choice] = seen
    return told != before


with action:
    verb = "Analyse" if can_analyse else "Register"
    pressed = st.button(
        f"{verb} {_scans(len(taken))}" if taken else verb,
        type="primary",
        disabled=bool(lacking) or where.is_blocked or of_several,
        key=registering.key(FORM, "register"),
    )
if lacking and (arrived or typed.identifier or typed.accession):
    registering.still_missing(lacking)
if any(choice in _kept("seen") for choice, _ in taken):
    words = f"Nothing was registered yet: a scan is here already. Press {verb} again if that is right."
    st.html(f'<p class="rc-quiet-text" role="status">{escape(words)}</p>')
if pressed:
    with registering.told():
        new = _prepared()
        if _seen_before(new):
            st.rerun()
        made = [one.prepared for one in new]
        with (
            session_scope() as session,
            uploads.taken_over(session, ct_intake.files_of(made), {one.upload_key for one in made}, by=user),
        ):
            if where.existing is not None:
                specimen = specimens.get(session, where.existing.id)
                first = scans.add(session, specimen.id, new, by=user)[0]
                asked = analyses.current(session, specimen.id)
            else:
                specimen = scans.register(
                    session,
                    identifier=typed.identifier,
                    patient_name=typed.patient_name,
                    accession=typed.accession,
                    collected_at=typed.collected_at,
                    scans=new,
                    by=user,
                )
                first = scans.of_specimen(session, specimen.id)[0]
                asked = None
            if can_analyse and asked is None:
                asked = analysis.request(session, specimen, by=user)
        if asked is not None and asked.state == "queued":
            analysis.send(asked.id)
    words = f"{_scans(len(new))} {'added' if where.adding else 'registered'}{' and sent to analysis' * can_analyse}."
    st.session_state["new-ct-past"] = set(just_arrived)
    for name in ("new-ct-kept", "new-ct-here"):
        st.session_state.pop(name, None)
    registering.done(FORM, specimen.accession, words, first.id)
