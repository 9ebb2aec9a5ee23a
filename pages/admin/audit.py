"""The audit trail: who did what, when and why; filters, proof that nothing was altered, export."""

from __future__ import annotations

import csv
import io
import math
import re
from datetime import date, datetime, time, timedelta
from typing import Any

import streamlit as st

from db import accounts, audit
from db.engine import session_scope
from db.models import AuditEvent
from pages.components import auth, status, style
from renalcore.errors import AuditBroken, Conflict
from renalcore.export.csv import escape_formula

PAGE_SIZE = 50


def _filters(usernames: list[str], actions: list[str]) -> dict[str, Any]:
    """The chosen filters, as `audit.events` takes them; a day begins and ends in the browser's time zone."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        actor = st.selectbox("Person", [*usernames, audit.SYSTEM], index=None, placeholder="Anyone", key="audit-actor")
        action = st.selectbox(
            "Action", actions, index=None, format_func=_plain_words, placeholder="Any action", key="audit-action"
        )
        entity = st.text_input(
            "Record", placeholder="specimen 12", key="audit-entity", help="A kind of record, or one."
        )
        days = st.date_input("From, to", value=(), format="YYYY-MM-DD", key="audit-days")
    kind, number = _asked_record(entity)
    return {
        "actor": actor,
        "action": action,
        "entity": kind,
        "entity_id": number,
        "since": _midnight(days[0]) if len(days) > 0 else None,
        "until": _midnight(days[-1] + timedelta(days=1)) if len(days) > 0 else None,
    }


def _asked_record(words: str) -> tuple[str | None, str | None]:
    """Kind and number of a record as it was typed: `cutoff table 1`, `specimen`; None for what was not."""
    kind, _, number = words.strip().rpartition(" ")
    if not number[:1].isdigit():
        kind, number = words.strip(), ""
    return kind.strip().replace(" ", "_").lower() or None, number or None


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), tzinfo=style.browser_zone())


def _record(event: AuditEvent) -> str:
    kind = _plain_words(event.entity)
    return kind if event.entity_id is None else f"{kind} {event.entity_id}"


def _plain_words(name: str) -> str:
    """A stored name as a person reads it: `user.sign_in_refused` is "user: sign in refused"."""
    return name.replace(".", ": ").replace("_", " ")


def _change(event: AuditEvent) -> str:
    """What changed, in one line: `role: technologist → reviewer`; lists by their length."""
    if not isinstance(event.old, dict | None) or not isinstance(event.new, dict | None):
        return f"{_brief(event.old)} → {_brief(event.new)}"
    old, new = event.old or {}, event.new or {}
    return ", ".join(
        f"{_plain_words(key)}: {_brief(old[key])} → {_brief(new[key])}"
        if key in old and key in new
        else f"{_plain_words(key)}: {_brief(new.get(key, old.get(key)))}"
        for key in dict.fromkeys([*old, *new])
    )


def _brief(value: Any) -> str:
    if isinstance(value, list | dict):
        return f"{len(value)} {'entry' if len(value) == 1 else 'entries'}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str) and re.match(r"\d{4}-\d\d-\d\dT\d\d:", value):
        return style.when(datetime.fromisoformat(value))
    if isinstance(value, str) and value in status.STATES:
        return status.STATES[value].words
    return style.NO_VALUE if value is None else str(value)


def _csv(chosen: dict[str, Any], token: str) -> bytes:
    """The chosen events as CSV. Made on a click, maybe long after the page was shown, so the session is asked again."""
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, audit.EXPORT_COLUMNS, lineterminator="\r\n")
    writer.writeheader()
    with session_scope() as session:
        user = accounts.user_for_token(session, token)
        if user is None or user.role != "admin":
            raise Conflict("Your session has ended. Sign in again to export.")
    with session_scope(read_only=True) as session:  # of its own: nobody waits until all of it is written
        for row in audit.export_rows(session, **chosen):
            writer.writerow({name: escape_formula(value) for name, value in row.items()})
    with session_scope() as session:
        audit.record(session, actor=user, action="export.audit", entity="audit_trail", entity_id=None, new=chosen)
    return stream.getvalue().encode("utf-8-sig")


def _verify() -> None:
    try:
        with session_scope(read_only=True) as session:
            verified = audit.verify(session)
            head = audit.head(session).hash
    except AuditBroken as error:
        st.error(
            f"**The audit trail has been altered.** {style.plain(str(error))} Keep this database and tell your IT."
        )
        return
    st.success(f"All {style.number(verified, 0)} events are as they were recorded. Last hash: `{head}`")


auth.require("admin")
token = st.context.cookies[auth.COOKIE]

with session_scope(read_only=True) as session:
    usernames = [user.username for user in accounts.list_users(session)]
    actions = audit.actions(session)

with style.page_header("Audit trail", "Everything that was done, in a chain that shows any later change"):
    verify = st.button("Verify the trail", type="primary", key="verify-audit")
if verify:
    with st.spinner("Checking every event"):
        _verify()

chosen = _filters(usernames, actions)

with session_scope(read_only=True) as session:
    total = audit.count(session, **chosen)
    pages = max(1, math.ceil(total / PAGE_SIZE))
    shown_page = min(st.session_state.get("audit-page", 1), pages)
    events = audit.events(session, **chosen, limit=PAGE_SIZE, offset=(shown_page - 1) * PAGE_SIZE)

if not events:
    style.empty_state("No event passes these filters.", "Clear a filter above to see more.")
    st.stop()

picked = st.dataframe(
    {
        "No.": [event.id for event in events],
        "When": [style.when(event.at, seconds=True) for event in events],
        "Person": [event.actor_name for event in events],
        "Action": [_plain_words(event.action) for event in events],
        "Record": [_record(event) for event in events],
        "Change": [_change(event) for event in events],
        "Reason": [event.reason or "" for event in events],
    },
    hide_index=True,
    on_select="rerun",
    selection_mode="single-row",
    height=min(520, 36 * (len(events) + 1) + 4),
    column_config={
        "No.": st.column_config.NumberColumn(width="small"),
        "Change": st.column_config.Column(width="large"),
    },
    key=f"audit-table-{shown_page}-{events[0].id}",
)

noun = "event" if total == 1 else "events"
with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
    st.html(f'<span class="rc-quiet-text">{style.number(total, 0)} {noun}, newest first</span>')
    if pages > 1:
        st.pagination(pages, key="audit-page")
    st.download_button(
        "Download as CSV",
        data=lambda: _csv(chosen, token),
        file_name="renalcore-audit.csv",
        mime="text/csv",
        on_click="ignore",
        key="audit-csv",
    )

for row in picked.selection.rows:
    event = events[row]
    st.subheader(f"Event {event.id}, {style.plain(_plain_words(event.action))}", anchor=False)
    before, after = st.columns(2)
    for place, title, value in ((before, "Before", event.old), (after, "After", event.new)):
        with place:
            st.markdown(f"**{title}**")
            if value is None:
                st.caption("nothing")
            else:
                st.json(value)
    st.html(
        f'<p class="rc-quiet-text">Hash <span class="rc-mono">{event.hash}</span><br>'
        f'Hash before <span class="rc-mono">{event.prev_hash}</span></p>'
    )
