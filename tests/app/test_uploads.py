"""Slides come to a running server in pieces, through breaks of every kind."""

from __future__ import annotations

import hashlib
import io
import socket
import time
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
from PIL import Image
from sqlalchemy import select

from db.models import Upload
from pages.routes.uploads import PIECE
from tests.ct_files import body, ct_series
from tests.ct_uploads import tarred
from tests.running_app import RunningApp

NAME = "Maria Secret 1960.png"


@pytest.fixture(scope="module")
def content() -> bytes:
    """A picture of 600 x 500 px as PNG; noise, so that it fills some hundred kB."""
    pixels = np.random.default_rng(1).integers(0, 255, (500, 600, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def client(web_app: RunningApp) -> httpx.Client:
    return web_app.client(web_app.person())


def begin(
    client: httpx.Client, size: int, *, name: str = NAME, modified: int = 1, modality: str = "histology"
) -> httpx.Response:
    return client.post("/uploads", json={"modality": modality, "name": name, "size": size, "modified": modified})


def piece(client: httpx.Client, key: str, at: int, body: bytes) -> httpx.Response:
    headers = {"upload-offset": str(at), "content-type": PIECE}
    return client.patch(f"/uploads/{key}", content=body, headers=headers)


def offset(client: httpx.Client, key: str) -> int:
    return int(client.head(f"/uploads/{key}").headers["upload-offset"])


def row(app: RunningApp, key: str) -> Upload | None:
    with app.database() as session:
        return session.scalars(select(Upload).where(Upload.key == key)).one_or_none()


def test_a_slide_comes_in_pieces_and_is_checked_when_the_last_is_there(
    web_app: RunningApp, client: httpx.Client, content: bytes
) -> None:
    answer = begin(client, len(content))
    assert (answer.status_code, answer.json()["offset"]) == (201, 0)
    key = answer.json()["key"]
    half = len(content) // 2
    assert piece(client, key, 0, content[:half]).headers["upload-offset"] == str(half)
    assert piece(client, key, half, content[half:]).status_code == 204
    done = row(web_app, key)
    assert done is not None
    assert done.sha256 == hashlib.sha256(content).hexdigest()
    assert done.found is not None
    assert (done.found["width_px"], done.found["height_px"], done.found["um_per_px"]) == (600, 500, None)
    assert piece(client, key, half, content[half:]).status_code == 204, "an answer that was lost is given again"
    assert begin(client, len(content)).json() == {"key": key, "offset": len(content), "size": len(content)}


def test_an_upload_goes_on_after_the_connection_broke_and_the_server_was_killed(
    web_app: RunningApp, content: bytes
) -> None:
    person = web_app.person()
    client = web_app.client(person)
    key = begin(client, len(content)).json()["key"]
    cookie = "; ".join(f"{name}={value}" for name, value in client.cookies.items())
    host, port = urlsplit(web_app.url).hostname, urlsplit(web_app.url).port
    with socket.create_connection((str(host), int(port or 0))) as line:  # it tells of all the rest, and then goes away
        line.sendall(
            f"PATCH /uploads/{key} HTTP/1.1\r\nHost: {host}:{port}\r\nOrigin: {web_app.url}\r\n"
            f"Cookie: {cookie}\r\nContent-Type: {PIECE}\r\nUpload-Offset: 0\r\n"
            f"Content-Length: {len(content)}\r\n\r\n".encode()
            + content[:100_000]
        )
        until = time.monotonic() + 60
        while (busy := piece(client, key, 10**6, b"x")).status_code != 423 and time.monotonic() < until:
            assert busy.status_code == 409, busy.text
        assert busy.status_code == 423, "one writes at a time"
    while offset(client, key) < 100_000 and time.monotonic() < until:
        time.sleep(0.05)
    assert offset(client, key) == 100_000
    web_app.stop(kill=True)
    web_app.start()
    client = web_app.client(person)
    known = begin(client, len(content)).json()
    assert known == {"key": key, "offset": 100_000, "size": len(content)}, "the same file goes on where it was"
    assert piece(client, key, 100_000, content[100_000:]).status_code == 204
    done = row(web_app, key)
    assert done is not None
    assert done.sha256 == hashlib.sha256(content).hexdigest(), "counted anew, since the server forgot it"


def test_a_ct_study_goes_on_where_it_was_and_tells_its_series_without_the_patient(
    web_app: RunningApp, client: httpx.Client
) -> None:
    scout = ct_series(body(1), series="1.1", number=1, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    named = {"PatientName": "Secret^Maria", "SeriesDescription": "Maria portal", "PatientID": "4711"}
    study = tarred([*scout, *ct_series(body(12), **named)])
    called = "Maria Secret 1960 (13 files)"
    key = begin(client, len(study), name=called, modality="ct").json()["key"]
    assert piece(client, key, 0, study[:60_000]).status_code == 204
    assert begin(client, len(study), name=called).json()["key"] != key, "a slide is another upload"
    other = begin(client, len(study), name="John Secret (13 files)", modality="ct").json()
    assert other["key"] != key, "of the same size and time, but called otherwise"
    known = begin(client, len(study), name=called, modality="ct").json()
    assert known == {"key": key, "offset": 60_000, "size": len(study)}
    assert piece(client, key, 60_000, study[60_000:]).status_code == 204
    done = row(web_app, key)
    assert done is not None
    assert done.found is not None
    read, refused = done.found["series"]
    assert (read["key"], read["slices"], read["phase"], read["refused"]) == ("3", 12, "portal venous", "")
    assert refused["refused"].startswith("Only scout views")
    assert done.name == "13 files"
    assert "Maria" not in str(vars(done)) + web_app.log.read_text()
    no_study = tarred(ct_series(body(12), Modality="MR", **named))
    key = begin(client, len(no_study), modality="ct").json()["key"]
    refusal = piece(client, key, 0, no_study)
    assert (refusal.status_code, refusal.text[:15]) == (422, "MR, not CT. Cho")
    assert (
        client.post("/uploads", json={"modality": "sediment", "name": "a", "size": 9, "modified": 1}).status_code == 400
    )


def test_a_piece_out_of_order_changes_nothing_and_tells_where_to_go_on(client: httpx.Client, content: bytes) -> None:
    key = begin(client, len(content), modified=2).json()["key"]
    piece(client, key, 0, content[:1000])
    for at in (0, 999, 2000):
        refused = piece(client, key, at, b"y" * 10)
        assert (refused.status_code, refused.headers["upload-offset"]) == (409, "1000")
    assert offset(client, key) == 1000


def test_what_is_too_large_is_refused_before_and_while_it_comes(client: httpx.Client) -> None:
    refused = begin(client, 10**13)
    assert refused.status_code == 413
    assert "more than the 20 GB" in refused.text
    refused = begin(client, 19 * 10**9, modified=3)
    if refused.status_code == 201:
        client.delete(f"/uploads/{refused.json()['key']}")  # this machine has room for it
    else:
        assert refused.status_code == 507
        assert "The disk has no room" in refused.text
    key = begin(client, 100, modified=4).json()["key"]
    assert piece(client, key, 0, b"z" * 101).status_code == 413
    assert offset(client, key) == 0


@pytest.mark.parametrize(
    ("body", "words"), [(b"plain text, no slide at all\n" * 40, "text"), (b"\x89PNG\r\n\x1a\n" + b"\0" * 300, "")]
)
def test_what_is_no_slide_is_refused_with_its_reason_and_not_kept(
    web_app: RunningApp, client: httpx.Client, body: bytes, words: str
) -> None:
    key = begin(client, len(body)).json()["key"]
    refused = piece(client, key, 0, body)
    assert refused.status_code == 422
    assert words in refused.text
    assert "Maria" not in refused.text
    assert row(web_app, key) is None
    assert not list((web_app.data / "uploads").glob(f"{key}*"))
    assert "Maria" not in web_app.log.read_text()


def test_only_people_signed_in_upload_and_only_what_is_their_own(web_app: RunningApp, client: httpx.Client) -> None:
    key = begin(client, 1000, modified=5).json()["key"]
    stranger = web_app.client()
    assert begin(stranger, 1000).status_code == 403
    assert piece(stranger, key, 0, b"x").status_code == 403
    assert stranger.head(f"/uploads/{key}").status_code == 403
    colleague = web_app.client(web_app.person("reviewer"))
    assert piece(colleague, key, 0, b"x").status_code == 404
    assert colleague.delete(f"/uploads/{key}").status_code == 404
    assert begin(colleague, 1000, modified=5).json()["key"] != key
    elsewhere = {"origin": "https://evil.example", "upload-offset": "0", "content-type": PIECE}
    assert client.patch(f"/uploads/{key}", content=b"x", headers=elsewhere).status_code == 403
    wrong_type = client.patch(f"/uploads/{key}", content=b"x", headers={"upload-offset": "0"})
    assert wrong_type.status_code == 415
    assert client.post("/uploads", content=b"{").status_code == 400
    assert offset(client, key) == 0
    assert client.delete(f"/uploads/{key}").status_code == 204
    assert client.head(f"/uploads/{key}").status_code == 404
