"""Slides and CT studies arrive here: pieces of files of several gigabytes, written to the disk as they come.

The rules are those of the tus protocol (https://tus.io): POST makes an upload, HEAD tells how much of it is here, PATCH
appends from there, DELETE gives it up. Whatever broke, the browser asks for the offset and goes on. The last piece is
answered when the file was checked: 422 and the reason where it cannot be used, and then nothing of it is kept.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import get_args

import anyio
from anyio import to_thread
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from db import accounts, uploads
from db.engine import session_scope
from db.models import Upload, User
from pages.components.auth import COOKIE
from pages.routes.guard import came_from_here
from renalcore.errors import Conflict, InputError, NotFound, RenalError, StorageFull, TooLarge

PIECE = "application/offset+octet-stream"
BLOCK_BYTES = 1 << 20
STALLED_S = 60.0
"""A browser that sends nothing for so long is gone, and lets others write."""

_LARGEST_REQUEST = 10_000  # bytes of the JSON that begins an upload
_FRESH = {"cache-control": "no-store"}


async def begin(request: Request) -> Response:
    """`POST /uploads` with modality, name, size and date of change: a new upload, or the one begun with it."""

    async def answer(user: User) -> Response:
        try:
            if int(request.headers.get("content-length") or _LARGEST_REQUEST + 1) > _LARGEST_REQUEST:
                raise ValueError
            told = await request.json()
            name, size, modified_ms = str(told["name"]), int(told["size"]), int(told["modified"])
            modality = told["modality"]
            if modality not in get_args(uploads.Kind) or not abs(size) < 2**62 or not abs(modified_ms) < 2**62:
                raise ValueError
        except (ValueError, KeyError, TypeError, ClientDisconnect):
            return _refusal("Say modality, name, size and modified of the file as JSON.", 400)

        def make() -> dict[str, object]:
            with session_scope() as session:
                upload = uploads.begin(
                    session, name=name, size=size, modified_ms=modified_ms, by=user, modality=modality
                )
                return {"key": upload.key, "offset": uploads.offset(upload), "size": upload.size_bytes}

        return JSONResponse(await to_thread.run_sync(make), 201, headers=_FRESH)

    return await _answered(request, answer)


async def tell(request: Request) -> Response:
    """`HEAD /uploads/{key}`: how much of it is here, in the header `Upload-Offset`."""

    async def answer(user: User) -> Response:
        upload = await to_thread.run_sync(_find, request.path_params["key"], user)
        return Response(headers=_progress(upload, uploads.offset(upload)))

    return await _answered(request, answer)


async def give_up(request: Request) -> Response:
    """`DELETE /uploads/{key}`: nothing of it is kept."""

    async def answer(user: User) -> Response:
        def remove() -> None:
            with session_scope() as session:
                uploads.discard(session, uploads.get(session, request.path_params["key"], by=user))

        await to_thread.run_sync(remove)
        return Response(status_code=204, headers=_FRESH)

    return await _answered(request, answer)


async def append(request: Request) -> Response:
    """`PATCH /uploads/{key}`: the bytes from `Upload-Offset` on."""

    async def answer(user: User) -> Response:
        if request.headers.get("content-type") != PIECE:
            return _refusal(f"A piece of a file has the content type {PIECE}.", 415)
        try:
            at = int(request.headers.get("upload-offset", ""))
        except ValueError:
            return _refusal("Say in the header Upload-Offset where the piece begins.", 400)
        upload = await to_thread.run_sync(_find, request.path_params["key"], user)
        if upload.sha256 is not None:
            return Response(status_code=204, headers=_progress(upload, upload.size_bytes))
        try:
            part = await to_thread.run_sync(lambda: uploads.Part(upload, at=at))
        except Conflict as error:
            status = 423 if isinstance(error, uploads.Busy) else 409
            return PlainTextResponse(str(error), status, headers=_progress(upload, uploads.offset(upload)))
        try:
            await _receive(request, part)
            if part.offset == upload.size_bytes:
                await to_thread.run_sync(_settle, upload, part)
            return Response(status_code=204, headers=_progress(upload, part.offset))
        finally:
            with anyio.CancelScope(shield=True):
                await to_thread.run_sync(part.close)

    return await _answered(request, answer)


async def _receive(request: Request, part: uploads.Part) -> None:
    """Write what comes until it ends or stops coming; what came is kept either way."""
    waiting = bytearray()
    pieces = request.stream()
    try:
        while True:
            with anyio.fail_after(STALLED_S):
                piece = await anext(pieces, None)
            if piece is None:
                break
            waiting += piece
            if len(waiting) >= BLOCK_BYTES:
                await to_thread.run_sync(part.write, bytes(waiting))
                waiting.clear()
    except (ClientDisconnect, TimeoutError):
        pass  # the browser asks for the offset when it is back
    if waiting:
        await to_thread.run_sync(part.write, bytes(waiting))


def _settle(upload: Upload, part: uploads.Part) -> None:
    """Check a file that is all here; one that cannot be used is given up."""
    try:
        sha256, checked = part.check()
    except InputError as error:
        with session_scope() as session:
            uploads.discard(session, upload)
        raise type(error)(uploads.reason(error)) from error
    with session_scope() as session:
        uploads.complete(session, upload, sha256, checked)


async def _answered(request: Request, answer: Callable[[User], Awaitable[Response]]) -> Response:
    """What `answer` says to someone signed in who asks from one of our pages, or why it is refused."""
    user = await to_thread.run_sync(_user, request.cookies.get(COOKIE))
    if user is None:
        return _refusal("Sign in to upload files.", 403)
    if request.method != "HEAD" and not came_from_here(request):
        return _refusal("This was not sent from a page of RenalCore.", 403)
    try:
        return await answer(user)
    except NotFound as error:
        return _refusal(str(error), 404)
    except StorageFull as error:
        return _refusal(str(error), 507)
    except TooLarge as error:
        return _refusal(str(error), 413)
    except InputError as error:
        return _refusal(str(error), 422)
    except RenalError as error:
        return _refusal(str(error), 409)


def _user(token: str | None) -> User | None:
    """Who asks. A piece of a file counts as use of the session: nobody is signed out in the middle of an upload."""
    if not token:
        return None
    with session_scope() as session:
        return accounts.user_for_token(session, token)


def _find(key: str, user: User) -> Upload:
    with session_scope(read_only=True) as session:
        return uploads.get(session, key, by=user)


def _progress(upload: Upload, offset: int) -> dict[str, str]:
    return {**_FRESH, "upload-offset": str(offset), "upload-length": str(upload.size_bytes)}


def _refusal(words: str, status: int) -> PlainTextResponse:
    return PlainTextResponse(words, status, headers=_FRESH)
