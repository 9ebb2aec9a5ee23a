"""Sign-in through the institution (OpenID Connect), where `.streamlit/secrets.toml` has an `[auth]` section.

Streamlit does the exchange with the provider (`st.login`, which needs the package Authlib). An existing account is
then found by the provider's subject, or once by its verified e-mail address, which must be the account's user name;
nobody gets an account by signing in. The page hands a ticket, good once and for a minute, to our own route, which
sets our own session cookie: expiry and sign-out are then the same for everyone. Streamlit remembers the identity for 30
days: it opens a session only within `FRESH_S` of the sign-in there, else whoever sits down at a bench after a session
has ended would go on in another person's name.
"""

from __future__ import annotations

import secrets
import threading
import time
from html import escape
from typing import Any

import streamlit as st

from db import accounts
from db.engine import session_scope
from renalcore.errors import RenalError

URL_PATH = "single-sign-on"
TICKET_S = 60.0
FRESH_S = 300.0
"""So old may a sign-in at the institution be; the clocks of both need not agree better than that."""

_tickets: dict[str, tuple[int, float]] = {}
_lock = threading.Lock()


def is_configured() -> bool:
    """Whether an identity provider is set up."""
    try:
        return "auth" in st.secrets
    except FileNotFoundError:
        return False


def pages() -> list[Any]:
    """The page that talks to the provider, or none."""
    if not is_configured():
        return []
    return [st.Page(show, title="Institutional sign-in", url_path=URL_PATH)]


def show() -> None:
    """Send the browser to the provider; once it is back, find the account and offer to go on."""
    if not st.user.is_logged_in:
        st.login()
        st.stop()
    issued_s = st.user.get("iat")
    if not isinstance(issued_s, int | float) or abs(time.time() - issued_s) > FRESH_S:
        st.warning("Your sign-in at your institution is too old to open a new session.")
        if st.button("Sign in at your institution again", type="primary", key="sign-in-again"):
            st.login()
        st.stop()
    subject, email = st.user.get("sub"), st.user.get("email")
    if not subject:
        st.error("Your institution did not say who you are. Ask your administrator to check the provider's settings.")
        st.stop()
    try:
        with session_scope() as session:
            user = accounts.user_for_subject(
                session,
                f"{st.user.get('iss')}|{subject}",
                email=email if st.user.get("email_verified") else None,
            )
    except RenalError as error:
        st.error(str(error))
        if st.button("Use another account"):
            st.logout()
        st.stop()
    st.html(
        f'<p>Signed in at your institution as {escape(user.full_name)}.</p><a class="rc-action" target="_self" '
        f'href="/single-sign-on/finish?ticket={_issue_ticket(user.id)}">Continue to RenalCore</a>'
    )


def redeem_ticket(ticket: str) -> int | None:
    """The account's id that a ticket was issued for; None if it was used, is too old, or never existed."""
    with _lock:
        user_id, issued = _tickets.pop(ticket, (None, 0.0))
    return user_id if time.monotonic() - issued <= TICKET_S else None


def _issue_ticket(user_id: int) -> str:
    ticket = secrets.token_urlsafe(32)
    with _lock:
        for old in [key for key, (_, issued) in _tickets.items() if time.monotonic() - issued > TICKET_S]:
            del _tickets[old]
        _tickets[ticket] = (user_id, time.monotonic())
    return ticket
