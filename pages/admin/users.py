"""Who may sign in, in which role; invitations and new passwords by one-time links."""

from __future__ import annotations

import streamlit as st

from db import accounts
from db.engine import session_scope
from db.models import ROLES, User
from pages.components import auth, style
from pages.routes.sign_in import welcome_address
from renalcore.errors import RenalError

_WHAT_ROLES_MAY = {
    "technologist": "uploads, reviews and corrects",
    "reviewer": "uploads, reviews, corrects, signs and amends",
    "admin": "uploads, reviews, corrects; keeps users, cut-off tables and the audit trail; does not sign",
}

_LINK_KEY = "admin_users_link"


@st.dialog("Invite a user")
def _invite() -> None:
    with st.form("invite", border=False):
        username = st.text_input("User name", help="What the person types to sign in; an e-mail address works well.")
        full_name = st.text_input("Full name", help="As it stands on reports. The audit trail has the user name.")
        role = st.radio("Role", ROLES, captions=[_WHAT_ROLES_MAY[role] for role in ROLES])
        if not st.form_submit_button("Create a one-time link", type="primary"):
            return
    try:
        with session_scope() as session:
            token = accounts.invite(session, username=username, full_name=full_name, role=role, by=admin)
    except RenalError as error:
        st.error(str(error))
        return
    st.session_state[_LINK_KEY] = (username.strip(), welcome_address(token))
    st.rerun()


@st.dialog("Change this account")
def _change(user: User) -> None:
    st.markdown(f"**{style.plain(user.full_name)}** · {style.plain(user.username)}")
    if user.id == admin.id:
        st.info("This is your own account: another administrator must change its role or deactivate it.")
    else:
        role = st.radio(
            "Role",
            ROLES,
            index=ROLES.index(user.role),
            captions=[_WHAT_ROLES_MAY[role] for role in ROLES],
            key=f"role-{user.id}",
        )
        if st.button("Change role", key=f"change-role-{user.id}", disabled=role == user.role, type="primary"):
            _act(lambda session, held: accounts.change_role(session, held, role, by=admin), user)
    st.subheader("Password", anchor=False)
    st.caption(
        "The present password stops working at once and open sessions end. "
        "A one-time link lets the person choose another."
    )
    if st.button("Create a link for a new password", key=f"reset-{user.id}"):
        try:
            with session_scope() as session:
                token = accounts.reset_password(session, accounts.get(session, user.id), by=admin)
        except RenalError as error:
            st.error(str(error))
            return
        st.session_state[_LINK_KEY] = (user.username, welcome_address(token))
        st.rerun()
    if user.id == admin.id:
        return
    st.subheader("Access", anchor=False)
    if accounts.state(user) == "locked":
        st.caption("Locked after too many wrong passwords.")
        if st.button("Unlock", key=f"unlock-{user.id}"):
            _act(lambda session, held: accounts.activate(session, held, by=admin), user)
    if user.is_active:
        st.caption("A deactivated account can no longer sign in. What it did stays in the audit trail.")
        if st.button("Deactivate", key=f"deactivate-{user.id}"):
            _act(lambda session, held: accounts.deactivate(session, held, by=admin), user)
    elif st.button("Activate again", key=f"activate-{user.id}"):
        _act(lambda session, held: accounts.activate(session, held, by=admin), user)


def _state(user: User) -> str:
    state = accounts.state(user)
    if state == "locked":
        return f"locked until {style.when(user.locked_until)}"
    return "invited, no password yet" if state == "invited" else state


def _act(action, user: User) -> None:
    try:
        with session_scope() as session:
            action(session, accounts.get(session, user.id))
    except RenalError as error:
        st.error(str(error))
        return
    st.rerun()


admin = auth.require("admin")

with style.page_header("Users", "Who may sign in, and in which role"):
    if st.button("Invite a user", type="primary", key="invite-user"):
        _invite()

if _LINK_KEY in st.session_state:
    invited, address = st.session_state.pop(_LINK_KEY)
    with st.container(border=True):
        st.markdown(
            f"**One-time link for {style.plain(invited)}.** Give it to this person now: it is shown only once, "
            "works once and expires."
        )
        st.code(address, language=None, wrap_lines=True)

with session_scope(read_only=True) as session:
    users = accounts.list_users(session)

picked = st.dataframe(
    {
        "Name": [user.full_name for user in users],
        "User name": [user.username for user in users],
        "Role": [user.role for user in users],
        "State": [_state(user) for user in users],
        "Since": [style.when(user.created_at) for user in users],
    },
    hide_index=True,
    on_select="rerun",
    selection_mode="single-row",
    key="users-table",
)

chosen = [users[row] for row in picked.selection.rows if row < len(users)]
if not chosen:
    st.caption("Choose a line to change the role, the password or the access of an account.")
for user in chosen:
    if st.button(f"Change {style.plain(user.full_name)}", key=f"change-{user.id}"):
        _change(user)
