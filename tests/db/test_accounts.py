from __future__ import annotations

import threading
import time
from datetime import timedelta

import pytest
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from db import accounts, audit
from db.engine import now, session_scope
from db.models import LoginSession, OneTimeLink, Role, User
from renalcore.errors import Conflict, InputError, NotFound

PASSWORD = "seven blue pipettes"
REFUSED = "The user name or the password is not right, or the account is locked or deactivated"


def person(session: Session, username: str = "grace", role: Role = "technologist") -> User:
    """Someone who has redeemed an invitation."""
    token = accounts.invite(session, username=username, full_name=username.title(), role=role, by=None)
    return accounts.redeem(session, token, PASSWORD)


def attempt(engine: Engine, username: str, password: str) -> str | None:
    """One try to sign in, in a transaction of its own: the refusal's message, or None."""
    try:
        with session_scope(engine) as session:
            accounts.authenticate(session, username, password)
    except accounts.SignInRefused as refused:
        return str(refused)
    return None


def actions(session: Session) -> list[str]:
    return [event.action for event in reversed(audit.events(session, action="user."))]


def test_an_invited_user_chooses_a_password_and_signs_in(session: Session, admin: User) -> None:
    token = accounts.invite(session, username="Grace", full_name=" Grace  Hopper ", role="reviewer", by=admin)
    assert accounts.link_is_good(session, token)
    user = accounts.redeem(session, token, PASSWORD)
    assert (user.username, user.full_name, user.role) == ("grace", "Grace Hopper", "reviewer")
    assert accounts.authenticate(session, " GRACE ", PASSWORD) is user
    cookie = accounts.open_session(session, user)
    assert accounts.user_for_token(session, cookie) is user
    accounts.close_session(session, cookie)
    assert accounts.user_for_token(session, cookie) is None
    assert actions(session) == ["user.create", "user.invite", "user.set_password", "user.sign_in", "user.sign_out"]
    assert audit.verify(session) > 0


def test_passwords_and_tokens_are_kept_as_hashes_only(session: Session) -> None:
    link = accounts.invite(session, username="grace", full_name="Grace", role="reviewer", by=None)
    user = accounts.redeem(session, link, PASSWORD)
    cookie = accounts.open_session(session, user)
    assert user.password_hash is not None
    assert user.password_hash.startswith("$argon2id$")
    kept = [*session.scalars(select(LoginSession.token_sha256)), *session.scalars(select(OneTimeLink.token_sha256))]
    trail = "".join(str(row) for row in audit.export_rows(session))
    for secret in (link, cookie, PASSWORD):
        assert secret not in trail
        assert secret not in kept


@pytest.mark.parametrize("username", ["", "a", "two words", "a" * 151, "semi;colon", "nul\0", "system"])
def test_a_user_name_that_cannot_be_typed_is_refused(session: Session, username: str) -> None:
    with pytest.raises(InputError, match="user name"):
        accounts.create_user(session, username=username, full_name="X", role="admin", by=None)


def test_a_user_name_is_given_once_however_it_is_capitalised(session: Session) -> None:
    person(session, "grace")
    with pytest.raises(Conflict, match="grace is taken"):
        accounts.create_user(session, username="GRACE", full_name="X", role="admin", by=None)
    assert accounts.by_username(session, "Grace") is not None


def test_a_role_nobody_knows_is_refused(session: Session) -> None:
    with pytest.raises(InputError, match="A role is one of technologist, reviewer, admin"):
        accounts.create_user(session, username="grace", full_name="X", role="boss", by=None)  # type: ignore[arg-type]
    user = person(session)
    with pytest.raises(InputError, match="A role is one of"):
        accounts.change_role(session, user, "boss", by=None)  # type: ignore[arg-type]


def test_only_administrators_change_accounts(session: Session) -> None:
    user = person(session)
    for change in (
        lambda: accounts.invite(session, username="eve", full_name="Eve", role="admin", by=user),
        lambda: accounts.change_role(session, user, "admin", by=user),
        lambda: accounts.deactivate(session, user, by=user),
        lambda: accounts.activate(session, user, by=user),
        lambda: accounts.reset_password(session, user, by=user),
    ):
        with pytest.raises(Conflict, match="Only an administrator"):
            change()


@pytest.mark.parametrize("password", ["short", "x" * 257, "aaaaaaaaaaaaaaaa", "grace.hopper@lab"])
def test_a_poor_password_is_refused_and_the_link_stays_good(session: Session, password: str) -> None:
    token = accounts.invite(session, username="grace.hopper@lab", full_name="Grace", role="reviewer", by=None)
    with pytest.raises(InputError, match="password"):
        accounts.redeem(session, token, password)
    assert accounts.redeem(session, token, PASSWORD).username == "grace.hopper@lab"


def test_a_link_works_once(session: Session) -> None:
    token = accounts.invite(session, username="grace", full_name="Grace", role="reviewer", by=None)
    accounts.redeem(session, token, PASSWORD)
    assert not accounts.link_is_good(session, token)
    with pytest.raises(Conflict, match="was used already, has expired"):
        accounts.redeem(session, token, PASSWORD)


def test_a_link_expires(session: Session) -> None:
    token = accounts.invite(session, username="grace", full_name="Grace", role="reviewer", by=None)
    session.scalars(select(OneTimeLink)).one().expires_at = now() - timedelta(seconds=1)
    session.flush()
    assert not accounts.link_is_good(session, token)
    with pytest.raises(Conflict, match="has expired"):
        accounts.redeem(session, token, PASSWORD)


def test_a_link_that_never_was_is_refused(session: Session) -> None:
    assert not accounts.link_is_good(session, "made up")
    with pytest.raises(Conflict):
        accounts.redeem(session, "", PASSWORD)


def test_a_new_link_takes_password_sessions_and_older_links_away(session: Session, admin: User) -> None:
    user = person(session)
    cookie = accounts.open_session(session, user)
    first = accounts.reset_password(session, user, by=admin)
    second = accounts.reset_password(session, user, by=admin)
    assert accounts.user_for_token(session, cookie) is None
    assert [accounts.link_is_good(session, token) for token in (first, second)] == [False, True]
    with pytest.raises(accounts.SignInRefused):
        accounts.authenticate(session, "grace", PASSWORD)
    accounts.redeem(session, second, "another fine password")
    assert accounts.authenticate(session, "grace", "another fine password") is user


def test_every_refusal_reads_the_same(engine: Engine) -> None:
    with session_scope(engine) as session:
        person(session, "grace")
        accounts.deactivate(session, person(session, "gone"), by=None)
        accounts.invite(session, username="new", full_name="New", role="reviewer", by=None)
    refusals = {attempt(engine, name, PASSWORD) for name in ("gone", "new", "nobody", "", "nul\0", "a b")}
    refusals.add(attempt(engine, "grace", "wrong"))
    refusals.add(attempt(engine, "grace", PASSWORD + "x" * 300))
    assert len(refusals) == 1
    assert (refusals.pop() or "").startswith(REFUSED)


def test_an_unknown_user_is_refused_no_faster_than_a_known_one(engine: Engine) -> None:
    with session_scope(engine) as session:
        person(session)
    attempt(engine, "nobody", "wrong")  # the first one makes the hash to compare with

    def fastest(username: str) -> float:
        durations = []
        for _ in range(4):  # fewer than lock an account
            began = time.perf_counter()
            attempt(engine, username, "wrong")
            durations.append(time.perf_counter() - began)
        return min(durations)

    assert fastest("nobody") > fastest("grace") / 3  # without a hash to compare: a twentieth


def test_five_failures_lock_an_account_for_a_quarter_of_an_hour(engine: Engine) -> None:
    with session_scope(engine) as session:
        user = person(session)
    for _ in range(5):
        assert attempt(engine, "grace", "wrong") is not None
    assert attempt(engine, "grace", PASSWORD) is not None
    with session_scope(engine) as session:
        user = accounts.get(session, user.id)
        assert accounts.state(user) == "locked"
        assert user.locked_until is not None
        assert timedelta(minutes=14) < user.locked_until - now() <= timedelta(minutes=15)
        reasons = [event.reason for event in audit.events(session, action="user.sign_in_refused")]
        assert reasons == [
            "account is locked",
            "wrong password, account locked after 5 failures",
            *["wrong password"] * 4,
        ]
        user.locked_until = now()
    assert attempt(engine, "grace", "wrong") is not None  # one more failure does not lock it again
    assert attempt(engine, "grace", PASSWORD) is None


def test_a_success_forgets_the_failures_before_it(engine: Engine) -> None:
    with session_scope(engine) as session:
        person(session)
    for _ in range(3):
        for _ in range(4):
            assert attempt(engine, "grace", "wrong") is not None
        assert attempt(engine, "grace", PASSWORD) is None


def test_failures_at_the_same_moment_are_all_counted(engine: Engine) -> None:
    with session_scope(engine) as session:
        user = person(session)
    threads = [threading.Thread(target=attempt, args=(engine, "grace", "wrong")) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with session_scope(engine) as session:
        assert accounts.state(accounts.get(session, user.id)) == "locked"


def test_an_administrator_unlocks_an_account(engine: Engine, admin: User) -> None:
    with session_scope(engine) as session:
        user = person(session)
    for _ in range(5):
        attempt(engine, "grace", "wrong")
    with session_scope(engine) as session:
        accounts.activate(session, user, by=admin)
    assert attempt(engine, "grace", PASSWORD) is None


def test_a_refused_sign_in_of_nobody_leaves_no_trace_of_what_was_typed(engine: Engine) -> None:
    attempt(engine, "my-password-in-the-wrong-field", "x")
    with session_scope(engine) as session:
        (event,) = audit.events(session, action="user.sign_in_refused")
        assert (event.actor_name, event.entity_id, event.reason) == ("system", None, "unknown user name")
        assert "wrong-field" not in str(list(audit.export_rows(session)))


def test_a_session_ends_after_its_hours_whatever_happens(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RENAL_SESSION_HOURS", "2")
    cookie = accounts.open_session(session, person(session))
    login = session.scalars(select(LoginSession)).one()
    assert login.expires_at - login.created_at == timedelta(hours=2)
    login.expires_at = now()
    assert accounts.user_for_token(session, cookie) is None


def test_a_session_ends_when_it_lies_idle(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RENAL_IDLE_MINUTES", "30")
    user = person(session)
    cookie = accounts.open_session(session, user)
    login = session.scalars(select(LoginSession)).one()
    login.last_seen_at = now() - timedelta(minutes=29)
    assert accounts.user_for_token(session, cookie) is user
    assert now() - login.last_seen_at < timedelta(minutes=1)  # seen now
    login.last_seen_at = now() - timedelta(minutes=30)
    assert accounts.user_for_token(session, cookie) is None


def test_a_session_can_be_looked_up_in_a_read_only_scope(engine: Engine) -> None:
    with session_scope(engine) as session:
        cookie = accounts.open_session(session, person(session))
        session.scalars(select(LoginSession)).one().last_seen_at = now() - timedelta(minutes=5)
    with session_scope(engine, read_only=True) as session:
        user = accounts.user_for_token(session, cookie)
    assert user is not None
    assert user.username == "grace"


@pytest.mark.parametrize("token", ["", "made up", "\udcff"])
def test_a_token_that_never_was_opens_nothing(session: Session, token: str) -> None:
    assert accounts.user_for_token(session, token) is None
    accounts.close_session(session, token)


def test_a_deactivated_user_is_out_at_once_and_may_come_back(session: Session, admin: User) -> None:
    user = person(session)
    cookie = accounts.open_session(session, user)
    accounts.deactivate(session, user, by=admin)
    assert accounts.state(user) == "deactivated"
    assert accounts.user_for_token(session, cookie) is None
    with pytest.raises(accounts.SignInRefused):
        accounts.open_session(session, user)
    with pytest.raises(Conflict, match="is deactivated"):
        accounts.reset_password(session, user, by=admin)
    accounts.activate(session, user, by=admin)
    assert accounts.user_for_token(session, cookie) is None  # signs in anew
    assert accounts.authenticate(session, "grace", PASSWORD) is user


def test_the_last_administrator_who_can_sign_in_stays(session: Session) -> None:
    ada = person(session, "ada", "admin")
    accounts.invite(session, username="invited", full_name="Not yet here", role="admin", by=ada)
    for change in (
        lambda: accounts.deactivate(session, ada, by=ada),
        lambda: accounts.change_role(session, ada, "reviewer", by=ada),
    ):
        with pytest.raises(Conflict, match="ada is the last administrator who can sign in"):
            change()
    second = person(session, "bea", "admin")
    accounts.change_role(session, ada, "reviewer", by=second)
    assert ada.role == "reviewer"
    (event,) = audit.events(session, action="user.change_role")
    assert (event.actor_name, event.old, event.new) == ("bea", {"role": "admin"}, {"role": "reviewer"})


def test_two_administrators_cannot_remove_each_other_at_the_same_moment(engine: Engine) -> None:
    with session_scope(engine) as session:
        ada, bea = person(session, "ada", "admin"), person(session, "bea", "admin")
    outcomes: list[str] = []

    def remove(by: User, whom: User) -> None:
        try:
            with session_scope(engine) as session:
                accounts.deactivate(session, whom, by=by)
            outcomes.append("removed")
        except Conflict:
            outcomes.append("refused")

    threads = [threading.Thread(target=remove, args=pair) for pair in ((ada, bea), (bea, ada))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["refused", "removed"]


def test_the_first_start_makes_an_administrator_with_a_link(session: Session) -> None:
    first = accounts.first_admin_token(session)
    again = accounts.first_admin_token(session)  # started again before the link was used
    assert first is not None
    assert again is not None
    assert [accounts.link_is_good(session, token) for token in (first, again)] == [False, True]
    user = accounts.redeem(session, again, PASSWORD)
    assert (user.username, user.role) == ("admin", "admin")
    assert accounts.first_admin_token(session) is None


def test_an_identified_person_is_linked_to_the_account_of_the_verified_address_once(session: Session) -> None:
    accounts.create_user(session, username="Grace@Lab.example", full_name="Grace", role="reviewer", by=None)
    user = accounts.user_for_subject(session, "https://idp|1", email="grace@lab.example")
    assert user.external_subject == "https://idp|1"
    assert accounts.state(user) == "active"
    assert accounts.user_for_subject(session, "https://idp|1") is user
    with pytest.raises(accounts.SignInRefused, match="institutional sign-in"):
        accounts.user_for_subject(session, "https://idp|2", email="grace@lab.example")


def test_an_identified_person_without_an_active_account_is_refused(engine: Engine) -> None:
    with session_scope(engine) as session:
        accounts.create_user(session, username="grace@lab", full_name="Grace", role="reviewer", by=None)
        user = accounts.user_for_subject(session, "idp|1", email="grace@lab")
        accounts.deactivate(session, user, by=None)
    for subject, email in (("idp|1", None), ("idp|2", "nobody@lab"), ("idp|3", None)):
        with pytest.raises(accounts.SignInRefused), session_scope(engine) as session:
            accounts.user_for_subject(session, subject, email=email)
    with session_scope(engine) as session:
        assert audit.count(session, action="user.sign_in_refused") == 3


def test_accounts_are_listed_by_name_with_those_who_left_last(session: Session) -> None:
    for name in ("zoe", "bea", "ada"):
        person(session, name)
    accounts.deactivate(session, accounts.get(session, 3), by=None)
    assert [user.username for user in accounts.list_users(session)] == ["bea", "zoe", "ada"]
    with pytest.raises(NotFound, match="number 99"):
        accounts.get(session, 99)
