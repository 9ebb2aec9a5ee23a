"""Who is looking at a page, and whether they may.

The session cookie is HttpOnly and travels with Streamlit's websocket, so a page asks `require` on every run and
the database answers: a session that ended or expired is refused at the next click. A fragment that runs by itself
calls `require` as well, because Streamlit then runs nothing else of the page.
"""

from __future__ import annotations

import time
from html import escape
from urllib.parse import quote, urlsplit

import streamlit as st

from db import accounts
from db.engine import session_scope
from db.models import User

COOKIE = "renalcore_session"

CurrentUser = User
"""A signed-in account, detached from its database session: `id`, `username`, `full_name` and `role` can be read."""

_ROLE_NAMES = {"technologist": "technologists", "reviewer": "reviewers", "admin": "administrators"}
_A = {"technologist": "a technologist", "reviewer": "a reviewer", "admin": "an administrator"}

_SEEN = "auth_last_seen"
_SEEN_EVERY_S = 60.0  # the database is told about use no more often


def current(*, keep_alive: bool = True) -> CurrentUser | None:
    """The account whose session cookie came with this browser, or None.

    Args:
        keep_alive: Count this as use of the session. A page that refreshes by itself must not, or a browser left
            alone would stay signed in.
    """
    token = st.context.cookies.get(COOKIE)
    if not token:
        return None
    with session_scope(read_only=True) as session:
        user = accounts.user_for_token(session, token)
    last_told = st.session_state.get(_SEEN, float("-inf"))
    if user is not None and keep_alive and time.monotonic() - last_told > _SEEN_EVERY_S:
        st.session_state[_SEEN] = time.monotonic()
        with session_scope() as session:
            accounts.user_for_token(session, token)
    return user


def require(*roles: str, keep_alive: bool = True) -> CurrentUser:
    """The signed-in account if it has one of `roles` (any account if none is named); else says so and stops the page.

    Example: `reviewer = auth.require("reviewer")`; in a fragment with `run_every`: `auth.require(keep_alive=False)`.
    """
    user = current(keep_alive=keep_alive)
    if user is None:
        _ask_to_sign_in()
        st.stop()
    if roles and user.role not in roles:
        allowed = " and ".join(_ROLE_NAMES[role] for role in roles)
        st.error(f"This page is for {allowed}. You are signed in as {_A[user.role]}.")
        st.stop()
    return user


def sign_in_address() -> str:
    """Address of the sign-in page that leads back to the page shown now."""
    shown = urlsplit(st.context.url or "/")
    query = "&".join(f"{quote(key)}={quote(value)}" for key, value in st.query_params.items())
    target = (shown.path or "/") + (f"?{query}" if query else "")
    return f"/login?next={quote(target, safe='')}"


def account_form(user: CurrentUser) -> None:
    """Name, role and the sign-out button, at the foot of the menu; works without the websocket."""
    st.html(
        f'<div class="rc-account"><strong>{escape(user.full_name)}</strong><br>'
        f'<span class="rc-quiet-text">{escape(user.username)} · {escape(user.role)}</span>'
        '<form method="post" action="/logout"><button type="submit">Sign out</button></form></div>'
    )


def _ask_to_sign_in() -> None:
    st.warning("You are not signed in, or your session has ended. Nothing that you saved is lost.")
    st.html(f'<a class="rc-action" href="{escape(sign_in_address())}" target="_self">Sign in to continue</a>')
