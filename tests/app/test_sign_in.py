"""Signing in, staying in, being put out: over HTTP, against a running server."""

from __future__ import annotations

from datetime import timedelta

import httpx
import pytest
import sqlalchemy as sa

from db import accounts
from db.engine import now
from db.models import LoginSession, User
from pages.components.auth import COOKIE
from pages.routes.guard import local_target
from tests.running_app import RunningApp


def test_a_page_opened_without_signing_in_leads_to_the_sign_in_page_and_back(web_app: RunningApp) -> None:
    answer = web_app.client().get("/review?specimen=12")
    assert answer.status_code == 303
    assert answer.headers["location"] == "/login?next=%2Freview%3Fspecimen%3D12"


@pytest.mark.parametrize("address", ["/worklist", "/admin-users", "/no-such-page", "/anything/at/all", "/new/"])
def test_no_address_shows_even_an_empty_page_to_a_stranger(web_app: RunningApp, address: str) -> None:
    answer = web_app.client().get(address, headers={"accept": "text/html"})
    assert (answer.status_code, answer.headers["location"].split("?")[0]) == (303, "/login")


def test_the_address_of_a_page_leads_to_it_also_with_a_slash_at_its_end(web_app: RunningApp) -> None:
    client = web_app.client(web_app.person())
    answer = client.get("/worklist/?page=2")
    assert (answer.status_code, answer.headers["location"]) == (301, "/worklist?page=2")
    assert [client.get(address).status_code for address in ("/worklist", "/no-such-page")] == [200, 404]


@pytest.mark.parametrize(
    "address", ["/media/abc.csv", "/_stcore/upload_file/a/b", "/_stcore/metrics", "/fields/1/image"]
)
def test_files_and_uploads_are_refused_to_a_stranger(web_app: RunningApp, address: str) -> None:
    assert web_app.client().get(address).status_code == 403


def test_the_sign_in_page_needs_no_script_and_is_open(web_app: RunningApp) -> None:
    answer = web_app.client().get("/login")
    assert answer.status_code == 200
    assert "<script" not in answer.text
    assert "For research use only. Not for use in diagnostic procedures." in answer.text
    assert answer.headers["cache-control"] == "no-store"


def test_the_right_password_gives_an_http_only_cookie_and_leads_on(web_app: RunningApp) -> None:
    person = web_app.person()
    answer = web_app.client().post(
        "/login", data={"username": person.username, "password": person.password, "next": "/patient?patient=3"}
    )
    assert (answer.status_code, answer.headers["location"]) == (303, "/patient?patient=3")
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith(f"{COOKIE}=")
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    assert "Secure" not in cookie  # served over plain http here


def test_a_wrong_password_and_an_unknown_name_are_answered_alike(web_app: RunningApp) -> None:
    person = web_app.person()
    wrong = web_app.client().post("/login", data={"username": person.username, "password": "not this one"})
    unknown = web_app.client().post("/login", data={"username": "nobody.here", "password": "not this one"})
    assert wrong.status_code == unknown.status_code == 401
    assert wrong.text.replace(person.username, "") == unknown.text.replace("nobody.here", "")
    assert COOKIE not in wrong.headers.get("set-cookie", "")


def test_five_wrong_passwords_lock_the_account_even_for_the_right_one(web_app: RunningApp) -> None:
    person, client = web_app.person(), web_app.client()
    for _ in range(5):
        client.post("/login", data={"username": person.username, "password": "not this one"})
    answer = client.post("/login", data={"username": person.username, "password": person.password})
    assert answer.status_code == 401
    assert "locked for 15 minutes" in answer.text


def test_signing_out_ends_the_session_at_the_server_so_a_copied_cookie_is_worthless(web_app: RunningApp) -> None:
    client = web_app.client(web_app.person())
    copied = client.cookies[COOKIE]
    assert client.get("/worklist").status_code == 200
    answer = client.post("/logout")
    assert (answer.status_code, answer.headers["location"]) == (303, "/login?signed-out")
    assert web_app.client().get("/worklist", headers={"cookie": f"{COOKIE}={copied}"}).status_code == 303


def test_a_session_ends_after_an_idle_hour(web_app: RunningApp) -> None:
    person = web_app.person()
    client = web_app.client(person)
    _age_sessions(web_app, person.username, last_seen_at=now() - timedelta(minutes=61))
    assert client.get("/worklist").status_code == 303


def test_a_session_ends_at_its_absolute_end_however_busy_it_was(web_app: RunningApp) -> None:
    person = web_app.person()
    client = web_app.client(person)
    _age_sessions(web_app, person.username, expires_at=now() - timedelta(seconds=1))
    assert client.get("/worklist").status_code == 303


def test_a_deactivated_account_is_put_out_at_once(web_app: RunningApp) -> None:
    person = web_app.person()
    client = web_app.client(person)
    with web_app.database() as session:
        session.execute(sa.update(User).where(User.username == person.username).values(is_active=False))
    assert client.get("/worklist").status_code == 303


@pytest.mark.parametrize(
    "headers",
    [{"origin": "https://evil.example"}, {"sec-fetch-site": "cross-site"}, {"sec-fetch-site": "same-site"}, {}],
    ids=["other origin", "cross-site", "sister site", "no origin"],
)
def test_a_form_sent_from_elsewhere_is_refused(web_app: RunningApp, headers: dict[str, str]) -> None:
    person = web_app.person()
    answer = httpx.post(
        f"{web_app.url}/login",
        data={"username": person.username, "password": person.password},
        headers=headers,
        trust_env=False,
    )
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers


def test_nobody_is_signed_out_by_a_link(web_app: RunningApp) -> None:
    client = web_app.client(web_app.person())
    assert client.get("/logout").headers["location"] == "/worklist"
    assert client.get("/worklist").status_code == 200


@pytest.mark.parametrize(
    "wanted",
    [
        "https://evil.example/",
        "//evil.example/",
        "/\\evil.example",
        "\\\\evil.example",
        "/\tevil",
        "javascript:alert(1)",
        "",
        None,
        "/login",
        "/",
        "worklist",
    ],
)
def test_signing_in_leads_to_addresses_of_this_app_only(wanted: str | None) -> None:
    assert local_target(wanted) == "/worklist"


def test_the_address_asked_for_is_escaped_on_the_sign_in_page(web_app: RunningApp) -> None:
    answer = web_app.client().get("/login", params={"next": '/a"><script>alert(1)</script>'})
    assert "<script" not in answer.text


def test_the_one_time_link_of_a_new_user_sets_a_password_once(web_app: RunningApp) -> None:
    with web_app.database() as session:
        token = accounts.invite(session, username="new.person", full_name="New Person", role="technologist", by=None)
    client = web_app.client()
    assert client.get("/welcome", params={"token": token}).status_code == 200
    assert client.get("/welcome", params={"token": token}).status_code == 200  # looking does not use it up

    short = client.post("/welcome", data={"token": token, "password": "short", "again": "short"})
    assert (short.status_code, "at least 12 characters" in short.text) == (400, True)
    differ = client.post("/welcome", data={"token": token, "password": "four words of mine", "again": "others"})
    assert (differ.status_code, "differ" in differ.text) == (400, True)

    good = {"token": token, "password": "four words of mine", "again": "four words of mine"}
    answer = client.post("/welcome", data=good)
    assert (answer.status_code, answer.headers["location"]) == (303, "/worklist")
    assert client.get("/worklist").status_code == 200
    assert web_app.client().post("/welcome", data=good).status_code == 400
    assert web_app.client().get("/welcome", params={"token": token}).status_code == 410


def test_the_first_start_prints_a_link_for_the_first_administrator(web_app: RunningApp) -> None:
    assert f"{web_app.url}/welcome?token=" in web_app.log.read_text()


def test_every_answer_carries_the_security_headers(web_app: RunningApp) -> None:
    for address in ("/login", "/health", "/worklist", "/static/missing.js"):
        headers = web_app.client().get(address).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "same-origin"
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        script = next(part for part in headers["content-security-policy"].split("; ") if part.startswith("script-src"))
        assert "unsafe-inline" not in script
        assert "'unsafe-eval'" not in script


def _age_sessions(app: RunningApp, username: str, **values: object) -> None:
    with app.database() as session:
        user_id = session.scalar(sa.select(User.id).where(User.username == username))
        session.execute(sa.update(LoginSession).where(LoginSession.user_id == user_id).values(**values))
