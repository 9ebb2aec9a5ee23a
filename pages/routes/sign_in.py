"""Signing in and out, and the one-time link that sets a password: plain HTML that works without JavaScript.

The session cookie is HttpOnly, so no script of a page can read it, and SameSite=Lax, not Strict: with Strict, a link
to a specimen in a mail or in the laboratory's information system would arrive without the cookie and ask someone who
is signed in to sign in again. Nothing changes on a GET, forms must come from our own pages, and Streamlit's websocket
checks where it was opened from.
"""

from __future__ import annotations

from urllib.parse import urlencode

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from db import accounts
from db.engine import session_scope
from db.settings import Settings
from pages.components import single_sign_on
from pages.components.auth import COOKIE
from pages.routes import plain
from pages.routes.guard import IDENTITY_COOKIE, came_from_here, is_signed_in, local_target
from renalcore.errors import RenalError


async def login(request: Request) -> Response:
    """`/login`: the form, and its answer."""
    if request.method != "POST":
        target = local_target(request.query_params.get("next"))
        if await run_in_threadpool(is_signed_in, request.cookies.get(COOKIE)):
            return RedirectResponse(target, 303)
        signed_out = "signed-out" in request.query_params
        return _login_page(target, message="You are signed out." if signed_out else None, good=True)
    form = await request.form()
    if not came_from_here(request):
        return _foreign_form()
    target = local_target(_text(form, "next"))
    username = _text(form, "username").strip()
    try:
        token = await run_in_threadpool(_open_session, username, _text(form, "password"))
    except RenalError as error:
        return _login_page(target, message=str(error), username=username, status=401)
    return _signed_in(token, target)


async def logout(request: Request) -> Response:
    """`/logout`: ends the session in the database, so that a copied cookie is worth nothing; a mere link does not."""
    if request.method != "POST":
        return RedirectResponse(local_target(None), 303)
    if not came_from_here(request):
        return _foreign_form()
    token = request.cookies.get(COOKIE)
    if token:
        await run_in_threadpool(_close_session, token)
    response = RedirectResponse("/login?signed-out", 303)
    response.delete_cookie(COOKIE, path="/", httponly=True, samesite="lax", secure=Settings.from_env().secure_cookies)
    for name in request.cookies:
        if name.startswith(IDENTITY_COOKIE):  # else the next page asked for would sign in again by itself
            response.delete_cookie(name, path="/")
    response.headers["clear-site-data"] = '"cache"'
    return response


async def welcome(request: Request) -> Response:
    """`/welcome?token=`: choose a password by a one-time link. Looking at the page does not use the link up."""
    if request.method != "POST":
        token = request.query_params.get("token", "")
        if not await run_in_threadpool(_link_is_good, token):
            return plain.message(
                410,
                "This link cannot be used",
                "It has been used already, has expired, or is incomplete. Ask your administrator for a new one.",
            )
        return plain.page("welcome.html", token=token, message=None, shortest=accounts.SHORTEST_PASSWORD)
    form = await request.form()
    if not came_from_here(request):
        return _foreign_form()
    token, password = _text(form, "token"), _text(form, "password")
    complaint = None
    if len(password) < accounts.SHORTEST_PASSWORD:
        complaint = f"The password must have at least {accounts.SHORTEST_PASSWORD} characters."
    elif password != _text(form, "again"):
        complaint = "The two passwords differ. Type the same one twice."
    if complaint is None:
        try:
            return _signed_in(await run_in_threadpool(_redeem, token, password), local_target(None))
        except RenalError as error:
            complaint = str(error)
    return plain.page("welcome.html", 400, token=token, message=complaint, shortest=accounts.SHORTEST_PASSWORD)


def finish_single_sign_on(request: Request) -> Response:
    """`/single-sign-on/finish?ticket=`: turns the ticket of the single-sign-on page into our own session cookie."""
    user_id = single_sign_on.redeem_ticket(request.query_params.get("ticket", ""))
    if user_id is None:
        return RedirectResponse("/login", 303)
    with session_scope() as session:
        token = accounts.open_session(session, accounts.get(session, user_id))
    return _signed_in(token, local_target(None))


def welcome_address(token: str) -> str:
    """The one-time link that carries `token`, to be given to its person."""
    return f"{Settings.from_env().public_url}/welcome?{urlencode({'token': token})}"


def _open_session(username: str, password: str) -> str:
    with session_scope() as session:
        return accounts.open_session(session, accounts.authenticate(session, username, password))


def _close_session(token: str) -> None:
    with session_scope() as session:
        accounts.close_session(session, token)


def _redeem(token: str, password: str) -> str:
    with session_scope() as session:
        return accounts.open_session(session, accounts.redeem(session, token, password))


def _link_is_good(token: str) -> bool:
    with session_scope(read_only=True) as session:
        return accounts.link_is_good(session, token)


def _signed_in(token: str, target: str) -> Response:
    settings = Settings.from_env()
    response = RedirectResponse(target, 303)
    response.set_cookie(
        COOKIE,
        token,
        max_age=round(settings.session_hours * 3600),
        path="/",
        httponly=True,
        samesite="lax",
        secure=settings.secure_cookies,
    )
    return response


def _login_page(
    target: str, *, message: str | None, username: str = "", good: bool = False, status: int = 200
) -> HTMLResponse:
    return plain.page(
        "login.html",
        status,
        next=target,
        message=message,
        good=good,
        username=username,
        single_sign_on=single_sign_on.is_configured(),
    )


def _foreign_form() -> HTMLResponse:
    return plain.message(
        403,
        "That did not come from RenalCore",
        "The form was sent from another site, so nothing was done. Open the sign-in page and try again.",
    )


def _text(form: FormData, key: str) -> str:
    value = form.get(key)
    return value if isinstance(value, str) else ""
