"""The signature under a report, the same for every kind of specimen: given, taken up again with a reason, and told."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from html import escape

import streamlit as st

from db import accounts, audit, reviews
from db.engine import session_scope
from db.models import AuditEvent, Specimen
from db.reporting import Signature
from db.reviews import HistoryEntry
from pages.components import auth, style
from renalcore.errors import RenalError


@st.dialog("Sign the report")
def sign(specimen_id: int, said: Callable[[int], Iterable[str]], user: auth.CurrentUser, *, reviewed: str) -> None:
    """Ask a reviewer for the signature.

    Args:
        specimen_id: The specimen.
        said: What is signed now, as paragraphs of markdown, by the specimen's id.
        user: The reviewer.
        reviewed: What the signature says was reviewed, e.g. `fields and findings of this specimen`.
    """
    with session_scope(read_only=True) as session:  # before the words, which are as new as it or newer
        now = reviews.fingerprint(session, specimen_id)
    for paragraph in said(specimen_id):
        st.markdown(paragraph)
    meanings = (
        f"I have reviewed the {reviewed} and release this report.",
        "I have reviewed the corrections of another person and release this report.",
    )
    meaning = st.radio("Meaning of the signature", meanings, key=f"meaning-{specimen_id}")
    st.markdown(
        f"Signed as **{style.plain(user.full_name)}**, with the time. Later changes are amendments with a reason."
    )
    pressed = st.button("Sign", type="primary", key=f"sign-now-{specimen_id}")
    read = st.session_state.get("sign-read", "")
    st.session_state["sign-read"] = now
    if pressed:
        try:
            with session_scope() as session:
                reviews.sign(session, specimen_id, by=auth.require("reviewer"), meaning=meaning, seen=read)
        except RenalError as error:
            st.error(style.plain(str(error)))
            return
        st.rerun()


@st.dialog("Reopen for amendment")
def reopen(specimen_id: int) -> None:
    """Ask a reviewer why a signed report must change."""
    st.markdown("The signed report is kept as it is. What you change becomes an amendment and must be signed again.")
    reason = st.text_area("Reason", key=f"reason-{specimen_id}", placeholder="Why the signed report must change")
    if st.button("Reopen", type="primary", key=f"reopen-now-{specimen_id}"):
        try:
            with session_scope() as session:
                reviews.reopen(session, specimen_id, by=auth.require("reviewer"), reason=reason)
        except RenalError as error:
            st.error(style.plain(str(error)))
            return
        st.rerun()


def offer(specimen: Specimen, said: Callable[[int], Iterable[str]], user: auth.CurrentUser, *, reviewed: str) -> None:
    """The button that signs what needs review, or takes up again what is signed: for reviewers, the others see none.

    Args:
        specimen: The specimen.
        said: As `sign` takes it.
        user: Who looks at it.
        reviewed: As `sign` takes it.
    """
    if user.role != "reviewer":
        return
    if specimen.state == "needs_review" and st.button("Sign", type="primary", key=f"sign-{specimen.id}"):
        sign(specimen.id, said, user, reviewed=reviewed)
    if specimen.state == "signed" and st.button("Reopen for amendment", key=f"reopen-{specimen.id}"):
        reopen(specimen.id)


def signature(signed: Signature | None) -> None:
    """Who answers for the report; nothing where it is not signed."""
    if signed is None:
        return
    words = "Amended and signed" if signed.kind == "amend" else "Signed"
    reason = f"<br>Amended because: {escape(signed.reason)}" if signed.reason else ""
    st.html(
        f'<div role="status"><strong>{words} by {escape(signed.by)}</strong>, {style.when(signed.at)}<br>'
        f'<span class="rc-quiet-text">{escape(signed.meaning)}{reason}</span></div>'
    )


def _in_words(entry: HistoryEntry) -> str:
    """A signature, reopening or amendment as a line of a history."""
    if entry.kind == "reopen":
        return f"Reopened: {entry.reason}"
    if entry.kind == "sign":
        return f"Signed: {entry.meaning}"
    return f"Amendment signed: {entry.meaning} Reason: {entry.reason}"


def date_changed(event: AuditEvent, dated: str) -> str:
    """A change of a specimen's date in words; `dated` is what it is called: "Date of the scan"."""
    old, new = (
        style.when(datetime.fromisoformat(said["collected_at"])) if said["collected_at"] else "unknown"
        for said in (event.old, event.new)
    )
    return f"{dated} changed from {old} to {new}: {event.reason}"


def history(specimen_id: int, about: Iterable[tuple[str, int]], in_words: Callable[[AuditEvent], str | None]) -> None:
    """What happened to a specimen, newest first: when, by whom and what.

    Args:
        specimen_id: The specimen.
        about: Entities and ids of what the audit trail is asked about.
        in_words: An event of these as a technologist would say it, or None where it is no news.
    """
    with session_scope(read_only=True) as session:
        lines = [(entry.at, entry.by, _in_words(entry)) for entry in reviews.history(session, specimen_id)]
        full_names = {user.id: user.full_name for user in accounts.list_users(session)}
        for entity, entity_id in about:
            for event in audit.events(session, entity=entity, entity_id=entity_id, limit=100):
                words = in_words(event)
                if words is not None:
                    by = full_names.get(event.actor_id) if event.actor_id is not None else None
                    lines.append((event.at, by or event.actor_name, words))
    newest_first = sorted(lines, key=lambda line: line[0], reverse=True)
    if not newest_first:
        st.html('<span class="rc-quiet-text">No corrections and no signature yet.</span>')
        return
    st.html(
        "".join(
            f'<div style="padding:0.2rem 0;font-size:0.9rem"><span class="rc-quiet-text">{style.when(at)} · '
            f"{escape(by)}</span><br>{escape(words)}</div>"
            for at, by, words in newest_first
        )
    )
