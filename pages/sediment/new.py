"""A new specimen: who and which, its fields checked as they arrive, the scale, and one button."""

from __future__ import annotations

import base64
import hashlib
import io
from dataclasses import dataclass
from html import escape
from typing import Any

import streamlit as st
from PIL import Image

from db import analyses, patients, specimens
from db.engine import session_scope
from db.files import store
from db.models import Specimen
from db.specimens import OBJECTIVES, UploadedField
from pages.components import analysis, auth, links, registering, status, style
from renalcore.errors import RenalError, StorageFull
from renalcore.io import quality
from renalcore.io.image import media_type, read_field, safe_name

FORM = "new"
SCALES = {
    "um_per_px": "µm per pixel is known",
    "whole_field": "Each picture shows one whole field of view",
    "unknown": "Unknown: counts are given per picture, without a grade",
}
THUMB_PX = 120
HEAD_BYTES = 4096  # enough to tell what a file is


@dataclass(frozen=True, slots=True)
class Checked:
    """One uploaded file after its check: a field, or the reason why it is none."""

    name: str
    sha256: str
    size: int
    field: UploadedField | None
    thumb: str
    refusal: str | None


def _check(uploaded: Any) -> Checked:
    """Reads an upload as the analysis will; the answer is kept as long as the file lies in the form."""
    kept: dict[str, Checked] = st.session_state.setdefault("new-checked", {})
    if uploaded.file_id not in kept:
        kept[uploaded.file_id] = _read(uploaded)
    return kept[uploaded.file_id]


def _read(uploaded: Any) -> Checked:
    uploaded.seek(0)
    sha256 = hashlib.file_digest(uploaded, "sha256").hexdigest()
    name = safe_name(uploaded.name)
    try:
        uploaded.seek(0)
        kind = media_type(uploaded.read(HEAD_BYTES))
        uploaded.seek(0)
        field = read_field(uploaded, name=name)
    except RenalError as error:
        return Checked(name, sha256, uploaded.size, None, "", str(error).removeprefix(f"{name}: "))
    shown = Image.fromarray(field.pixels)
    shown.thumbnail((THUMB_PX * 2, THUMB_PX * 2))
    stream = io.BytesIO()
    shown.save(stream, "WEBP", quality=75)
    return Checked(
        name,
        sha256,
        uploaded.size,
        UploadedField(
            name=name,
            sha256=sha256,
            size=uploaded.size,
            media_type=kind,
            width_px=field.width_px,
            height_px=field.height_px,
            flags=field.flags,
            round_field=field.round_field_px,
        ),
        "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode(),
        None,
    )


def _key(name: str) -> str:
    return registering.key(FORM, name)


user = auth.require()
action = style.page_header("New specimen")
analysis.model_is_missing()
status.worker_banner()
registering.last_one(FORM, opens="review", record="specimen", listed="worklist", all_of="Worklist")

with session_scope(read_only=True) as session:
    last = specimens.last_by(session, user)

typed = registering.numbers(FORM, collected="Collected", after="files")
with st.container(horizontal=True, vertical_alignment="top"):
    objective = st.segmented_control(
        "Objective",
        OBJECTIVES,
        default=last.objective if last else "40x",
        key=_key("objective"),
        required=True,
    )
    scale_kind = st.selectbox(
        "Scale",
        tuple(SCALES),
        index=tuple(SCALES).index(last.scale_kind) if last else 2,
        format_func=SCALES.__getitem__,
        key=_key("scale"),
        width=380,
    )
    um_per_px = None
    if scale_kind == "um_per_px":
        um_per_px = st.number_input(
            "µm per pixel",
            min_value=0.001,
            max_value=50.0,
            value=last.um_per_px if last and last.scale_kind == "um_per_px" else None,
            step=0.01,
            format="%.4f",
            key=_key("um"),
            width=160,
            help="From the camera's or scanner's settings. It turns counts per picture into counts per HPF or LPF.",
        )
if last:
    same = (objective, scale_kind, um_per_px) == (last.objective, last.scale_kind, last.um_per_px)
    words = f"Objective and scale {'as' if same else 'other than'} for your last specimen, {last.accession}"
    st.html(f'<span class="rc-quiet-text">{escape(words)}</span>')

uploads = st.file_uploader(
    "Fields: drop the pictures here, many at once (JPEG, PNG, TIFF, BMP or WebP)",
    accept_multiple_files=True,
    key=_key("files"),
)


def _describe(existing: Specimen | None) -> list[UploadedField]:
    """Shows the table of files and returns those that will be analysed."""
    names: dict[str, str] = {}
    ready, lines = [], []
    with session_scope(read_only=True) as session:
        for uploaded in uploads or ():
            one = _check(uploaded)
            if one.field is None:
                lines.append((one, [], one.refusal))
                continue
            if one.sha256 in names:
                lines.append((one, [], f"the same picture as {names[one.sha256]}"))
                continue
            names[one.sha256] = one.name
            seen = specimens.seen_before(session, one.sha256)
            if existing is not None and existing.accession in seen:
                lines.append((one, [], f"{existing.accession} has this picture already"))
                continue
            doubts = [flag.message for flag in one.field.flags]
            if reason := quality.withheld(flag.code for flag in one.field.flags):
                doubts.append(f"It will not be counted ({reason}) unless a reviewer accepts it.")
            if seen:
                doubts.insert(
                    0, f"The same picture belongs to {', '.join(seen[:3])}: check that it is the right patient"
                )
            lines.append((one, doubts, None))
            ready.append(one.field)
    if lines:
        st.html(_table(lines))
    return ready


def _table(lines: list[tuple[Checked, list[str], str | None]]) -> str:
    body = []
    for one, doubts, refusal in lines:
        thumb = (
            f'<img src="{one.thumb}" alt="" style="width:{THUMB_PX}px;max-height:90px;object-fit:contain">'
            if one.thumb
            else ""
        )
        if refusal:
            verdict = f"<strong>Left out:</strong> {escape(refusal)}"
        elif doubts:
            verdict = "<br>".join(
                f'<span class="rc-wrap">{status.flag_html("check")} {escape(words)}</span>' for words in doubts
            )
        else:
            verdict = '<span class="rc-quiet-text">good</span>'
        pixels = f"{one.field.width_px} × {one.field.height_px}" if one.field else style.NO_VALUE
        body.append(
            f'<tr><td style="width:{THUMB_PX + 10}px">{thumb}</td><td>{escape(one.name)}</td>'
            f'<td class="rc-num">{pixels}</td>'
            f'<td class="rc-num">{style.size(one.size)}</td><td>{verdict}</td></tr>'
        )
    return (
        '<table class="rc-table"><thead><tr><th></th><th>File</th><th class="rc-num">Size in px</th>'
        f'<th class="rc-num">File size</th><th>Check</th></tr></thead><tbody>{"".join(body)}</tbody></table>'
    )


existing = None
if typed.accession.strip():
    with session_scope(read_only=True) as session:
        existing = specimens.by_accession(session, typed.accession)
        holder = patients.get(session, existing.patient_id).identifier if existing else ""
adding = False
if existing is not None:
    urine = existing.modality == "sediment"
    state = f"state: {status.STATES[existing.state].words}" if urine else registering.KINDS[existing.modality]
    words = f"Accession number {existing.accession} is already registered for patient {holder}; {state}."
    with st.container(border=True, key=_key("existing-box")):
        st.warning(style.plain(words))
        if not urine:
            st.markdown("It is no urine sediment. Check the accession number.")
        elif st.button("Open that specimen", key=_key("open-existing")):
            links.open_page("review", specimen=existing.id)
        elif existing.state == "signed":
            st.markdown("It is signed: a reviewer must reopen it before fields can be added.")
        elif typed.identifier.strip() and typed.identifier.strip() != holder:
            st.markdown("It belongs to another patient than the number you entered. Check both numbers.")
        else:
            adding = st.checkbox("Add these fields to it", key=_key("adding"))

ready = _describe(existing)
left_out = len(uploads or ()) - len(ready)
lacking = registering.missing(
    typed,
    registering.Target(existing, adding),
    [
        *(["at least one field"] if not ready else []),
        *(["the µm per pixel"] if scale_kind == "um_per_px" and not um_per_px else []),
    ],
)
blocked = existing is not None and not adding


def _store(ready: list[UploadedField]) -> None:
    wanted = {field.sha256 for field in ready}
    for uploaded in uploads or ():
        if _check(uploaded).sha256 in wanted:
            uploaded.seek(0)
            store().put(uploaded)


def _analyse() -> None:
    try:
        with st.spinner("Storing the fields"):
            _store(ready)
        with session_scope() as session:
            if adding and existing is not None:
                specimen = specimens.get(session, existing.id)
                specimens.add_fields(session, specimen.id, ready, by=user)
                asked = analyses.current(session, specimen.id) or analysis.request(session, specimen, by=user)
                words = f"{_fields(len(ready))} added and sent to analysis."
            else:
                specimen = specimens.register(
                    session,
                    identifier=typed.identifier,
                    patient_name=typed.patient_name,
                    accession=typed.accession,
                    objective=objective,
                    scale_kind=scale_kind,
                    um_per_px=um_per_px,
                    collected_at=typed.collected_at,
                    uploads=ready,
                    by=user,
                )
                asked = analysis.request(session, specimen, by=user)
                words = f"{_fields(len(ready))} registered and sent to analysis."
        analysis.send(asked.id)
    except StorageFull as error:
        st.error(
            f"{style.plain(str(error))} Nothing was registered. Your entries are still here: press Analyse again "
            "when there is space."
        )
        return
    except RenalError as error:
        st.error(style.plain(str(error)))
        return
    st.session_state["new-checked"] = {}
    registering.done(FORM, specimen.accession, words, specimen.id)


def _fields(number: int) -> str:
    return f"{number} field" if number == 1 else f"{number} fields"


with action:
    pressed = st.button(
        f"Analyse {_fields(len(ready))}" if ready else "Analyse",
        type="primary",
        disabled=bool(lacking) or blocked,
        key=_key("analyse"),
    )
if lacking and (uploads or typed.identifier or typed.accession):
    registering.still_missing(lacking)
if left_out:
    st.html(f'<p class="rc-quiet-text">{_fields(left_out)} left out, see the table.</p>')
if pressed:
    _analyse()
