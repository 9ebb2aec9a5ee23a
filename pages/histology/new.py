"""New slides: who and which, the files as they arrive, what each of them is, and one button."""

from __future__ import annotations

from html import escape

import streamlit as st

from db import analyses, slides, specimens, uploads, watched
from db.engine import session_scope
from db.models import SPECIES, STAINS, Upload
from db.settings import Settings
from db.slides import LARGEST_UM_PER_PX, SMALLEST_UM_PER_PX, NewSlide
from db.uploads import Checked
from pages.components import analysis, auth, registering, status, style
from pages.components.file_upload import file_upload
from renalcore.errors import InputError, RenalError

FORM = "new-slides"

user = auth.require()
action = style.page_header("New slides")
can_analyse = not analysis.no_glomeruli_are_found()
if can_analyse:
    status.worker_banner()
registering.last_one(FORM, opens="slide", record="slide", listed="slides", all_of="All slides")
typed = registering.numbers(FORM, collected="Collected")

with session_scope(read_only=True) as session:
    mine = uploads.of_user(session, user)
interrupted = [upload for upload in mine if upload.sha256 is None and upload.taken_from is None]
just_arrived = file_upload("slide-upload", modality="histology", interrupted=interrupted)


def _ticked() -> set[str]:
    """Keys of the uploads that belong to this form unless somebody takes the tick away."""
    return st.session_state.setdefault("new-slides-ticked", set())


def _take(name: str) -> str | None:
    """Copies a file of the watched folder and ticks it; returns what went wrong."""
    bar = st.progress(0.0, text=style.plain(name))
    try:
        with session_scope() as session:
            upload = watched.begin(session, name, by=user)
        try:
            sha256, found = watched.copy(
                upload, name, progress=lambda share: bar.progress(share, text=style.plain(name))
            )
        except InputError as error:
            with session_scope() as session:
                uploads.discard(session, upload)
            return f"{name}: {uploads.reason(error)}"
        with session_scope() as session:
            uploads.complete(session, upload, sha256, found)
    except RenalError as error:
        return f"{name}: {error}"
    _ticked().add(upload.key)
    return None


def _folder() -> None:
    """What waits in the watched folder, and the button that takes it."""
    with session_scope(read_only=True) as session:
        offered = watched.waiting(session)
    names = {one.name: f"{one.name} ({style.size(one.size_bytes)}, {style.when(one.modified_at)})" for one in offered}
    with st.container(horizontal=True, vertical_alignment="bottom"):
        chosen = st.multiselect(
            "From the slides folder",
            list(names),
            format_func=names.__getitem__,
            key=f"folder-{st.session_state.get('new-slides-folder', 0)}",
            placeholder=f"{len(names)} waiting" if names else "Nothing is waiting there",
            disabled=not names,
        )
        pressed = st.button("Take", disabled=not chosen, key="folder-take")
    complaints: dict[str, str] = st.session_state.setdefault("new-slides-complaints", {})
    for name, words in list(complaints.items()):
        st.error(style.plain(words))
        if name not in names:  # gone from the folder: said once
            del complaints[name]
    if pressed:
        st.session_state["new-slides-complaints"] = {name: words for name in chosen if (words := _take(name))}
        st.session_state["new-slides-folder"] = st.session_state.get("new-slides-folder", 0) + 1
        st.rerun()


if Settings.from_env().slides_folder is not None:
    _folder()
# What arrived on this page belongs to this form; what lies here from another time is taken only when it is ticked.
_ticked().update(just_arrived)
with session_scope(read_only=True) as session:
    arrived = [upload for upload in uploads.of_user(session, user) if upload.sha256 is not None]


def _slide(upload: Upload, number: int, missing: list[str]) -> NewSlide | None:
    """One file that is here: what it is, and what only a person knows of it. None where it is left for later."""
    found = Checked.of(upload)
    with st.container(border=True, key=f"arrived-{upload.key}"):
        with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
            # The tick is the box's default: set as a value it is lost where the next file arrives while this is drawn.
            ticked = upload.key in _ticked()
            taken = st.checkbox(style.plain(upload.name), ticked, key=f"take-{ticked}-{upload.key}")
            facts = [
                found.format,
                f"{style.number(found.width_px, 0)} × {style.number(found.height_px, 0)} px",
                style.size(upload.size_bytes),
                "the file says no scale" if found.um_per_px is None else f"{found.um_per_px:.4g} µm/px",
                *([f"{found.objective:g}x"] if found.objective else []),
            ]
            st.html(f'<span class="rc-quiet-text">{escape(" · ".join(facts))}</span>', width="stretch")
            if st.button("Discard", key=f"discard-{upload.key}", help="Removes this file from the server"):
                with session_scope() as session:
                    uploads.discard(session, uploads.get(session, upload.key, by=user))
                st.rerun()
        doubts = [flag.message for flag in found.flags]
        with session_scope(read_only=True) as session:
            seen = slides.seen_before(session, upload.sha256 or "")
        if seen:
            doubts.insert(0, f"The same file belongs to {', '.join(seen[:3])}: check that it is the right patient")
        if doubts:
            st.html("<br>".join(f"{status.flag_html('check')} {escape(words)}" for words in doubts))
        if not taken:
            return None
        with st.container(horizontal=True, vertical_alignment="bottom"):
            name = st.text_input(
                "Name (optional)",
                key=f"name-{upload.key}",
                max_chars=100,
                placeholder=f"Slide {number}",
                width=190,
                help="What the laboratory calls it, such as its block. The name of the file is not kept, "
                "since it may hold the patient's.",
            )
            stain = st.selectbox(
                "Stain", STAINS, index=None, key=f"stain-{upload.key}", width=150, placeholder="Choose"
            )
            species = st.selectbox("Species", SPECIES, key=f"species-{upload.key}", width=130)
            um_per_px = None
            if found.um_per_px is None:
                um_per_px = st.number_input(
                    "µm per pixel (optional)",
                    min_value=SMALLEST_UM_PER_PX,
                    max_value=LARGEST_UM_PER_PX,
                    value=None,
                    step=0.01,
                    format="%.4f",
                    key=f"um-{upload.key}",
                    width=190,
                    placeholder="Unknown",
                    help="From the scanner's settings. Left empty, lengths and areas are told in px; it can be given "
                    "later.",
                )
    if stain is None:
        missing.append(f"the stain of {upload.name}")
        return None
    return NewSlide(upload=upload, name=name, stain=stain, species=species, um_per_px=um_per_px)


missing_stains: list[str] = []
ready: list[NewSlide] = []
for upload in arrived:
    one = _slide(upload, len(ready) + len(missing_stains) + 1, missing_stains)
    if one is not None:
        ready.append(one)

where = registering.target(FORM, typed, modality="histology", pictures="slides")
lacking = registering.missing(
    typed, where, [*(["at least one slide"] if not ready and not missing_stains else []), *missing_stains]
)


def _slides(number: int) -> str:
    return f"{number} slide" if number == 1 else f"{number} slides"


with action:
    verb = "Analyse" if can_analyse else "Register"
    pressed = st.button(
        f"{verb} {_slides(len(ready))}" if ready else verb,
        type="primary",
        disabled=bool(lacking) or where.is_blocked,
        key=registering.key(FORM, "register"),
    )
if lacking and (arrived or typed.identifier or typed.accession):
    registering.still_missing(lacking)
if pressed:
    with registering.told(), st.spinner("Storing the slides"):
        files = {sha256: path for one in ready for sha256, path in uploads.file_of(one.upload).items()}
        keys = {one.upload.key for one in ready}
        with session_scope() as session, uploads.taken_over(session, files, keys, by=user):
            if where.existing is not None:
                specimen = specimens.get(session, where.existing.id)
                first = slides.add(session, specimen.id, ready, by=user)[0]
                asked = analyses.current(session, specimen.id)
            else:
                specimen = slides.register(
                    session,
                    identifier=typed.identifier,
                    patient_name=typed.patient_name,
                    accession=typed.accession,
                    collected_at=typed.collected_at,
                    slides=ready,
                    by=user,
                )
                first = slides.of_specimen(session, specimen.id)[0]
                asked = None
            if can_analyse and asked is None:
                asked = analysis.request(session, specimen, by=user)
        if asked is not None and asked.state == "queued":
            analysis.send(asked.id)
    words = f"{_slides(len(ready))} {'added' if where.adding else 'registered'}{' and sent to analysis' * can_analyse}."
    registering.done(FORM, specimen.accession, words, first.id)
