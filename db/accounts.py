"""Who may sign in: accounts, passwords, sessions and one-time links.

A password is kept as its argon2id hash, a session's cookie and a one-time link as the sha256 of a 256-bit random
token. There is no default password: a new account gets a one-time link with which its owner chooses one. Everything
that happens to an account, refused sign-ins included, is in the audit trail.
"""

from __future__ import annotations

import functools
import hashlib
import re
import secrets
from datetime import timedelta
from typing import NoReturn, get_args

import sqlalchemy as sa
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from sqlalchemy import select
from sqlalchemy.orm import Session

from db import audit
from db.engine import RecordedRefusal, is_read_only, now
from db.models import LoginSession, OneTimeLink, Role, User
from db.settings import Settings
from renalcore.errors import Conflict, InputError, NotFound

FAILURES_BEFORE_LOCK = 5
LOCKED_FOR = timedelta(minutes=15)
LINK_LASTS = timedelta(hours=72)
SHORTEST_PASSWORD = 12
LONGEST_PASSWORD = 256  # more would let a stranger keep the processor busy with hashing
FIRST_ADMIN = "admin"

_SEEN_EVERY = timedelta(minutes=1)  # a session's last use is written no more often
_USERNAME = re.compile(r"[\w.@+-]{2,150}")
# OWASP's argon2id: a tenth of a second, for on SQLite nobody else writes meanwhile, and models keep the cores busy.
_HASHER = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
_LINK_IS_BAD = (
    "This link was used already, has expired or was replaced by a newer one. Ask an administrator for another."
)


class SignInRefused(RecordedRefusal):
    """Nobody was signed in. The message is the same for every reason, and `session_scope` keeps the record of it."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(
            message
            or "The user name or the password is not right, or the account is locked or deactivated. After "
            f"{FAILURES_BEFORE_LOCK} failures an account is locked for {LOCKED_FOR.seconds // 60} minutes."
        )


def create_user(session: Session, *, username: str, full_name: str, role: Role, by: User | None) -> User:
    """Adds an account that has no password yet: `invite` and `reset_password` give it a one-time link.

    Args:
        session: An open session.
        username: What the person types to sign in; upper and lower case are the same.
        full_name: The name under which the person signs.
        role: What the person may do.
        by: The administrator, or None for the command line and the first start.

    Raises:
        InputError: The user name, the full name or the role cannot be used.
        Conflict: The user name is taken, or `by` is no administrator.
    """
    _require_admin(by)
    username = _fold(username)
    full_name = " ".join(full_name.split())
    if not _USERNAME.fullmatch(username):
        raise InputError("A user name has 2 to 150 letters, digits or . _ @ + - and no spaces.")
    if username == audit.SYSTEM:
        raise InputError(f"The user name {audit.SYSTEM!r} is what the audit trail calls the program itself.")
    if not 1 <= len(full_name) <= 200:
        raise InputError("A full name has 1 to 200 characters: it stands on signed reports.")
    _check_role(role)
    if _by_name(session, username) is not None:
        raise Conflict(f"The user name {username} is taken. Choose another one, or reset that account's password.")
    user = User(username=username, full_name=full_name, role=role)
    session.add(user)
    session.flush()
    facts = {"username": username, "full_name": full_name, "role": role}
    audit.record(session, actor=by, action="user.create", entity="user", entity_id=user.id, new=facts)
    return user


def invite(session: Session, *, username: str, full_name: str, role: Role, by: User | None) -> str:
    """Adds an account and returns the token of a one-time link for its owner; see `create_user`."""
    return _new_link(session, create_user(session, username=username, full_name=full_name, role=role, by=by), by=by)


def reset_password(session: Session, user: User, *, by: User | None) -> str:
    """Takes an account's password away, ends its sessions, and returns the token of a one-time link for a new one.

    Raises:
        Conflict: The account is deactivated, or `by` is no administrator.
    """
    _require_admin(by)
    user = _held(session, user)
    if not user.is_active:
        raise Conflict(f"The account {user.username} is deactivated. Activate it first.")
    user.password_hash = None
    _end_sessions(session, user)
    return _new_link(session, user, by=by, action="user.reset_password")


def link_is_good(session: Session, token: str) -> bool:
    """Whether `redeem` would take the token of a one-time link."""
    link = session.scalars(select(OneTimeLink).where(OneTimeLink.token_sha256 == _sha256(token))).one_or_none()
    return link is not None and _is_open(link)


def redeem(session: Session, token: str, password: str) -> User:
    """Sets the password of the account that a one-time link belongs to. The link is then used up.

    Raises:
        Conflict: The link is used, expired, replaced, or unknown.
        InputError: The password is too short, too long or the user name; the link stays good.
    """
    statement = select(OneTimeLink).where(OneTimeLink.token_sha256 == _sha256(token)).with_for_update()
    link = session.scalars(statement.execution_options(populate_existing=True)).one_or_none()
    if link is None or not _is_open(link):
        raise Conflict(_LINK_IS_BAD)
    user = _held(session, link.user)
    user.password_hash = _hash_of(user, password)
    user.failed_logins, user.locked_until = 0, None
    link.used_at = now()
    _end_sessions(session, user)
    audit.record(session, actor=user, action="user.set_password", entity="user", entity_id=user.id)
    return user


def authenticate(session: Session, username: str, password: str) -> User:
    """The account that user name and password belong to.

    Takes as long for an unknown user as for a known one. After five failures in a row an account refuses everything
    for 15 minutes, the right password included.

    Raises:
        SignInRefused: They belong to none that may sign in now.
    """
    user = _by_name(session, _fold(username), lock=True)
    stored = user.password_hash if user is not None and user.password_hash is not None else _nobodys_hash()
    fits = _fits(stored, password)
    if user is None:
        # Not even the name that was typed is kept: it may be a password in the wrong field.
        _refuse(session, None, "unknown user name")
    at = now()
    if user.locked_until is not None and user.locked_until <= at:
        user.failed_logins, user.locked_until = 0, None
    if user.locked_until is not None:
        _refuse(session, user, "account is locked")
    if not user.is_active:
        _refuse(session, user, "account is deactivated")
    if user.password_hash is None or not fits:
        user.failed_logins += 1
        if user.failed_logins >= FAILURES_BEFORE_LOCK:
            user.locked_until = at + LOCKED_FOR
            _refuse(session, user, f"wrong password, account locked after {user.failed_logins} failures")
        _refuse(session, user, "wrong password")
    user.failed_logins = 0
    if _HASHER.check_needs_rehash(user.password_hash):
        user.password_hash = _HASHER.hash(password.encode("utf-8", "surrogatepass"))
    return user


def user_for_subject(session: Session, subject: str, *, email: str | None = None) -> User:
    """The account of someone whom an OpenID Connect provider has identified.

    An account is found by the subject it was linked to. Otherwise the account whose user name is the e-mail address
    is linked to the subject, once. Nobody gets an account by signing in.

    Args:
        session: An open session.
        subject: `issuer|subject`, as the provider's token names them.
        email: The e-mail address, only where the provider says that it is verified.

    Raises:
        SignInRefused: No active account belongs to this person.
    """
    user = session.scalars(select(User).where(User.external_subject == subject)).one_or_none()
    if user is None and email is not None:
        named = _by_name(session, _fold(email), lock=True)
        if named is not None and named.external_subject is None and named.is_active:
            named.external_subject = subject
            facts = {"external_subject": subject}
            audit.record(session, actor=named, action="user.link", entity="user", entity_id=named.id, new=facts)
            user = named
    if user is None or not user.is_active:
        audit.record(
            session,
            actor=None,
            action="user.sign_in_refused",
            entity="user",
            entity_id=None if user is None else user.id,
            new={"external_subject": subject},
            reason="no account for this institutional identity" if user is None else "account is deactivated",
        )
        raise SignInRefused(
            "No active account here belongs to your institutional sign-in. Ask an administrator for one whose user "
            "name is your e-mail address."
        )
    return user


def open_session(session: Session, user: User) -> str:
    """Signs a user in and returns the token for the browser's cookie. How long it lasts is a setting.

    Raises:
        SignInRefused: The account is deactivated.
    """
    user = _held(session, user)
    if not user.is_active:
        _refuse(session, user, "account is deactivated")
    token, at = secrets.token_urlsafe(32), now()
    session.add(
        LoginSession(
            token_sha256=_sha256(token),
            user_id=user.id,
            created_at=at,
            last_seen_at=at,
            expires_at=at + timedelta(hours=Settings.from_env().session_hours),
        )
    )
    audit.record(session, actor=user, action="user.sign_in", entity="user", entity_id=user.id)
    return token


def user_for_token(session: Session, token: str) -> User | None:
    """The user a session's token belongs to, or None where the session ended, expired or lay idle too long.

    Notes that the session is in use, except in a read-only scope: use that where a page asks many times at once,
    such as for its pictures.
    """
    login = session.scalars(select(LoginSession).where(LoginSession.token_sha256 == _sha256(token))).one_or_none()
    at = now()
    if login is None or login.ended_at is not None or login.expires_at <= at:
        return None
    if login.last_seen_at <= at - timedelta(minutes=Settings.from_env().idle_minutes):
        return None
    user = session.get_one(User, login.user_id)
    if not user.is_active:
        return None
    if login.last_seen_at <= at - _SEEN_EVERY and not is_read_only(session):
        login.last_seen_at = at
    return user


def close_session(session: Session, token: str) -> None:
    """Signs out: the token opens nothing any more. An unknown or ended one is no matter."""
    login = session.scalars(select(LoginSession).where(LoginSession.token_sha256 == _sha256(token))).one_or_none()
    if login is None or login.ended_at is not None:
        return
    login.ended_at = now()
    audit.record(session, actor=login.user, action="user.sign_out", entity="user", entity_id=login.user_id)


def change_role(session: Session, user: User, role: Role, *, by: User | None) -> None:
    """Gives a user another role, from the next click on.

    Raises:
        Conflict: The last administrator who can sign in would lose the role, or `by` is no administrator.
    """
    _require_admin(by)
    _check_role(role)
    if role != "admin":
        _keep_an_admin(session, without=user)
    user = _held(session, user)
    if user.role == role:
        return
    old, user.role = user.role, role
    audit.record(
        session,
        actor=by,
        action="user.change_role",
        entity="user",
        entity_id=user.id,
        old={"role": old},
        new={"role": role},
    )


def deactivate(session: Session, user: User, *, by: User | None) -> None:
    """Lets a user sign in no more and ends all the user's sessions and links. What the user did stays.

    Raises:
        Conflict: It is the last administrator who can sign in, or `by` is no administrator.
    """
    _require_admin(by)
    _keep_an_admin(session, without=user)
    user = _held(session, user)
    if not user.is_active:
        return
    user.is_active = False
    _end_sessions(session, user)
    _close_links(session, user)
    audit.record(session, actor=by, action="user.deactivate", entity="user", entity_id=user.id)


def activate(session: Session, user: User, *, by: User | None) -> None:
    """Lets a deactivated or locked user sign in again.

    Raises:
        Conflict: `by` is no administrator.
    """
    _require_admin(by)
    user = _held(session, user)
    if user.is_active and user.locked_until is None:
        return
    user.is_active = True
    user.failed_logins, user.locked_until = 0, None
    audit.record(session, actor=by, action="user.activate", entity="user", entity_id=user.id)


def first_admin_token(session: Session) -> str | None:
    """A one-time link's token for the first administrator, or None where someone can administer already.

    Makes the account `admin` on the first start; until its password is set, each start gives a new link and closes
    the one before.
    """
    if session.scalars(_able_admins().limit(1)).one_or_none() is not None:
        return None
    user = _by_name(session, FIRST_ADMIN, lock=True)
    if user is None:
        return invite(session, username=FIRST_ADMIN, full_name="Administrator", role="admin", by=None)
    if not user.is_active or user.role != "admin":
        return None  # an installation in use: `python -m db create-admin` is the way in
    return _new_link(session, user, by=None)


def get(session: Session, user_id: int) -> User:
    """The account with this id.

    Raises:
        NotFound: There is none.
    """
    user = session.get(User, user_id)
    if user is None:
        raise NotFound(f"There is no account number {user_id}.")
    return user


def by_username(session: Session, username: str) -> User | None:
    """The account with this user name, however it is capitalised."""
    return _by_name(session, _fold(username))


def list_users(session: Session) -> list[User]:
    """All accounts, those that may sign in first, by name."""
    return list(session.scalars(select(User).order_by(User.is_active.desc(), sa.func.lower(User.full_name), User.id)))


def state(user: User) -> str:
    """An account's state in words."""
    if not user.is_active:
        return "deactivated"
    if user.locked_until is not None and user.locked_until > now():
        return "locked"
    if user.password_hash is None and user.external_subject is None:
        return "invited"
    return "active"


def _fold(username: str) -> str:
    return username.strip().casefold()


def _sha256(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


@functools.cache
def _nobodys_hash() -> str:
    return _HASHER.hash(secrets.token_urlsafe(32))


def _fits(stored: str, password: str) -> bool:
    try:
        shortened = password[:LONGEST_PASSWORD].encode("utf-8", "surrogatepass")
        return _HASHER.verify(stored, shortened) and len(password) <= LONGEST_PASSWORD
    except (VerificationError, InvalidHashError):
        return False


def _hash_of(user: User, password: str) -> str:
    if not SHORTEST_PASSWORD <= len(password) <= LONGEST_PASSWORD:
        raise InputError(f"A password has {SHORTEST_PASSWORD} to {LONGEST_PASSWORD} characters.")
    if _fold(password) == user.username or len(set(password)) < 4:
        raise InputError("This password is too easy to guess. Choose a few words that only you would put together.")
    return _HASHER.hash(password.encode("utf-8", "surrogatepass"))


def _check_role(role: str) -> None:
    if role not in get_args(Role):
        raise InputError(f"A role is one of {', '.join(get_args(Role))}, got {role!r}.")


def _require_admin(by: User | None) -> None:
    if by is not None and not (by.is_active and by.role == "admin"):
        raise Conflict("Only an administrator may change accounts.")


def _by_name(session: Session, username: str, *, lock: bool = False) -> User | None:
    if not _USERNAME.fullmatch(username):
        return None
    statement = select(User).where(User.username == username)
    if lock:
        statement = statement.with_for_update().execution_options(populate_existing=True)
    return session.scalars(statement).one_or_none()


def _held(session: Session, user: User) -> User:
    """The account as it is now, kept from others until the transaction ends."""
    statement = select(User).where(User.id == user.id).with_for_update().execution_options(populate_existing=True)
    return session.scalars(statement).one()


def _able_admins() -> sa.Select[User]:
    """Administrators who can sign in."""
    return select(User).where(
        User.role == "admin",
        User.is_active,
        sa.or_(User.password_hash.is_not(None), User.external_subject.is_not(None)),
    )


def _keep_an_admin(session: Session, *, without: User) -> None:
    session.flush()
    # Locked, so that two administrators cannot remove each other at the same moment.
    able = session.scalars(_able_admins().order_by(User.id).with_for_update()).all()
    if any(admin.id == without.id for admin in able) and len(able) == 1:
        raise Conflict(
            f"{without.username} is the last administrator who can sign in. Make someone else an administrator first."
        )


def _new_link(session: Session, user: User, *, by: User | None, action: str = "user.invite") -> str:
    _close_links(session, user)
    token = secrets.token_urlsafe(32)
    expires_at = now() + LINK_LASTS
    session.add(OneTimeLink(token_sha256=_sha256(token), user_id=user.id, expires_at=expires_at))
    facts = {"expires_at": expires_at}
    audit.record(session, actor=by, action=action, entity="user", entity_id=user.id, new=facts)
    return token


def _is_open(link: OneTimeLink) -> bool:
    return link.used_at is None and link.expires_at > now() and link.user.is_active


def _close_links(session: Session, user: User) -> None:
    session.execute(
        sa.update(OneTimeLink)
        .where(OneTimeLink.user_id == user.id, OneTimeLink.used_at.is_(None), OneTimeLink.expires_at > now())
        .values(expires_at=now())
    )


def _end_sessions(session: Session, user: User) -> None:
    session.execute(
        sa.update(LoginSession)
        .where(LoginSession.user_id == user.id, LoginSession.ended_at.is_(None))
        .values(ended_at=now())
    )


def _refuse(session: Session, user: User | None, reason: str) -> NoReturn:
    audit.record(
        session,
        actor=None,
        action="user.sign_in_refused",
        entity="user",
        entity_id=None if user is None else user.id,
        reason=reason,
    )
    raise SignInRefused
