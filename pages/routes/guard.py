"""Before every address: who may see it, and the headers that keep browsers from being tricked.

Pages guard themselves too (`auth.require`): this keeps even the empty shell of a page, uploads and media from
anyone who is not signed in.
"""

from __future__ import annotations

import base64
import hashlib
import re
import time
from pathlib import Path
from urllib.parse import quote, urlsplit

import streamlit
from anyio import to_thread
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from db import accounts
from db.engine import session_scope
from db.settings import Settings
from pages.components import single_sign_on
from pages.components.auth import COOKIE
from pages.components.links import HOME


def _inline_scripts_of_streamlit() -> str:
    """Hashes of the scripts within Streamlit's own page: these run, any other inline script does not."""
    page = (Path(streamlit.__file__).parent / "static" / "index.html").read_text(encoding="utf-8")
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digests = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    return " ".join(f"'sha256-{digest}'" for digest in digests)


CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'self'",
        # blob: is how Streamlit loads the script of a component; no other inline script, no eval.
        f"script-src 'self' blob: 'wasm-unsafe-eval' {_inline_scripts_of_streamlit()}",
        # Streamlit writes its styles into the page.
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "connect-src 'self' ws: wss:",
        "worker-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    )
)

_OPEN = re.compile(
    r"^/(login|logout|welcome|health|single-sign-on(/finish)?|oauth2callback|auth/(login|logout)|favicon\.png|manifest\.json|source\.tar\.gz"
    r"|static/.*|component/.*|_stcore/(health|host-config|stream|bidi-components/.*))$"
)
"""Addresses that answer without signing in: none of them holds a record. The websocket (`stream`) carries the cookie,
and every page asks for it."""

IDENTITY_COOKIE = "_streamlit_user"
"""Where Streamlit keeps, signed, whom an identity provider has named; further parts and tokens begin alike."""

_PAGE = re.compile(r"^/[a-z-]*/?$")

_TILE = re.compile(r"^/slides/\d+/tile/")
_TILES_GO_ON_S = 1.0
"""A slide in motion asks for fifty tiles at once. Whoever was signed in so long ago gets them without the database
being asked for each; whoever signed out sees no more than what was on its way."""


def local_target(wanted: str | None) -> str:
    """`wanted` if it is an address within this app, else the first page; nobody is sent elsewhere after signing in."""
    if not wanted or not wanted.startswith("/") or wanted.startswith("//"):
        return f"/{HOME}"
    if "\\" in wanted or any(ord(letter) < 33 or ord(letter) == 127 for letter in wanted):
        return f"/{HOME}"
    parts = urlsplit(wanted)
    if parts.scheme or parts.netloc or parts.path in ("/", "/login", "/logout"):
        return f"/{HOME}"
    return wanted


def came_from_here(request: Request) -> bool:
    """Whether a form was sent from one of our own pages, by what every current browser tells about it."""
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site == "same-origin"
    origin = request.headers.get("origin")
    if origin is None:
        return False
    here = {request.headers.get("host"), urlsplit(Settings.from_env().public_url).netloc}
    return urlsplit(origin).netloc in here


def is_signed_in(token: str | None) -> bool:
    """Whether `token` opens a session that has neither ended nor expired."""
    if not token:
        return False
    with session_scope(read_only=True) as session:
        return accounts.user_for_token(session, token) is not None


class Guard:
    """ASGI middleware: sends strangers to the sign-in page and adds the security headers."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._https = Settings.from_env().public_url.startswith("https:")
        self._seen: dict[str, float] = {}  # when the tiles of a session were allowed, by its token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["content-security-policy"] = CONTENT_SECURITY_POLICY
                headers["x-content-type-options"] = "nosniff"
                headers["x-frame-options"] = "DENY"
                headers["referrer-policy"] = "same-origin"
                headers["permissions-policy"] = "camera=(), microphone=(), geolocation=()"
                if self._https:
                    headers["strict-transport-security"] = "max-age=31536000"
            await send(message)

        path = scope["path"]
        if path == "/":
            await RedirectResponse(f"/{HOME}", 307)(scope, receive, send_with_headers)
            return
        request = Request(scope)
        if not _OPEN.match(path) and not await self._knows(request.cookies.get(COOKIE), tile=bool(_TILE.match(path))):
            await _refusal(request)(scope, receive, send_with_headers)
            return
        await self._app(scope, receive, send_with_headers)

    async def _knows(self, token: str | None, *, tile: bool) -> bool:
        if tile and token and time.monotonic() - self._seen.get(token, -_TILES_GO_ON_S) < _TILES_GO_ON_S:
            return True
        known = await to_thread.run_sync(is_signed_in, token)
        if tile and token and known:
            now = time.monotonic()
            self._seen = {one: at for one, at in self._seen.items() if now - at < _TILES_GO_ON_S} | {token: now}
        return known


def _refusal(request: Request) -> ASGIApp:
    path = request.url.path
    wants_page = request.method in ("GET", "HEAD") and _PAGE.match(path)
    if wants_page or "text/html" in request.headers.get("accept", ""):
        if IDENTITY_COOKIE in request.cookies and single_sign_on.is_configured():
            # Back from the provider, which Streamlit sends to the root of the app.
            return RedirectResponse("/single-sign-on", 303)
        target = path + (f"?{request.url.query}" if request.url.query else "")
        return RedirectResponse(f"/login?next={quote(target, safe='')}", 303)
    return PlainTextResponse("Sign in to see this.", 403)
