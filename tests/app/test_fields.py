"""A field's picture as the browser gets it."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from sqlalchemy import func, select

from db import accounts, heat_maps, specimens
from db.files import FileStore
from db.models import Finding, HeatMap
from db.specimens import UploadedField
from pages.routes.fields import CACHE
from tests.browser.records import THREE_CELLS, analysed
from tests.running_app import RunningApp

PICTURE = np.dstack([np.linspace(0, 255, 640 * 480).reshape(480, 640)] * 3).astype(np.uint8)


def _file(kind: str, picture: Image.Image, **options: object) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def _field(app: RunningApp, content: bytes, media_type: str, accession: str) -> int:
    """Store a file as the only field of a specimen, as an upload does; its id."""
    sha256, size = FileStore(f"file://{app.data / 'files'}").put(io.BytesIO(content))
    upload = UploadedField(
        name="field.img",
        sha256=sha256,
        size=size,
        media_type=media_type,
        width_px=640,
        height_px=480,
        flags=[],
        round_field=None,
    )
    person = app.person()
    with app.database() as session:
        specimen = specimens.register(
            session,
            identifier=f"P-{accession}",
            patient_name=None,
            accession=accession,
            objective="40x",
            scale_kind="unknown",
            um_per_px=None,
            collected_at=None,
            uploads=[upload],
            by=accounts.by_username(session, person.username),
        )
        return specimen.fields[0].id


def test_a_picture_a_browser_can_show_is_the_original_to_the_byte(web_app: RunningApp) -> None:
    original = _file("JPEG", Image.fromarray(PICTURE))
    field_id = _field(web_app, original, "image/jpeg", "F-1")
    answer = web_app.client(web_app.person()).get(f"/fields/{field_id}/image")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/jpeg")
    assert answer.content == original


def test_a_tiff_arrives_as_a_picture_the_browser_can_show_with_the_same_pixels(web_app: RunningApp) -> None:
    field_id = _field(web_app, _file("TIFF", Image.fromarray(PICTURE)), "image/tiff", "F-2")
    answer = web_app.client(web_app.person()).get(f"/fields/{field_id}/image")
    assert answer.headers["content-type"] == "image/webp"
    shown = np.asarray(Image.open(io.BytesIO(answer.content)))
    assert shown.shape == PICTURE.shape
    assert np.abs(shown.astype(int) - PICTURE).mean() < 3


def test_a_picture_is_cached_by_this_browser_alone_and_asked_for_once(web_app: RunningApp) -> None:
    field_id = _field(web_app, _file("PNG", Image.fromarray(PICTURE)), "image/png", "F-3")
    client = web_app.client(web_app.person())
    first = client.get(f"/fields/{field_id}/image")
    assert first.headers["cache-control"] == CACHE
    again = client.get(f"/fields/{field_id}/image", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_a_thumbnail_has_about_the_width_asked_for_and_stands_upright(web_app: RunningApp) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: the picture is to be shown rotated by a quarter
    field_id = _field(web_app, _file("JPEG", Image.fromarray(PICTURE), exif=exif), "image/jpeg", "F-4")
    answer = web_app.client(web_app.person()).get(f"/fields/{field_id}/thumb?w=150")
    assert Image.open(io.BytesIO(answer.content)).size == (160, 213)  # 480 x 640 upright, 160 px wide


def test_a_heat_map_is_asked_for_by_looking_and_shown_once_it_is_drawn(web_app: RunningApp) -> None:
    person = web_app.person()
    bench = analysed(web_app, person, THREE_CELLS)
    client, field_id = web_app.client(person), bench.field_ids[0]
    with web_app.database() as session:
        white, _, red = session.scalars(select(Finding.id).where(Finding.field_id == field_id).order_by(Finding.id))
    address = f"/fields/{field_id}/heat"
    of_class, of_box = f"{address}?analysis={bench.analysis_id}&class=WBC", f"{address}?finding={red}"
    assert [client.get(of_class).status_code, client.get(of_class).status_code] == [202, 202]
    assert client.get(of_box).status_code == 202
    picture = _file("PNG", Image.fromarray(PICTURE))
    sha256, size = FileStore(f"file://{web_app.data / 'files'}").put(io.BytesIO(picture))
    with web_app.database() as session:
        whole, single = session.scalars(select(HeatMap).order_by(HeatMap.id))
        assert (whole.class_name, single.finding_id) == ("WBC", red)
        heat_maps.store(session, whole.id, sha256=sha256, size=size)
        heat_maps.fail(session, single.id, "The weights are missing.")
    drawn = client.get(of_class)
    assert (drawn.status_code, drawn.headers["content-type"], drawn.content) == (200, "image/png", picture)
    failed = client.get(of_box)
    assert (failed.status_code, failed.text) == (409, "The weights are missing.")
    assert client.post(of_box, headers={"sec-fetch-site": "cross-site"}).status_code == 403
    assert client.post(of_box).status_code == 202, "asked for once more"
    with web_app.database() as session:
        heat_maps.store_empty(session, single.id)
    assert client.get(of_box).status_code == 204
    assert client.get(f"{address}?finding={10**6}").status_code == 404
    assert client.get(address).status_code == 400
    assert web_app.client().get(f"{address}?finding={white}").status_code == 403
    with web_app.database() as session:
        assert session.scalar(select(func.count()).select_from(HeatMap)) == 2, "strangers and errors ask for nothing"


@pytest.mark.parametrize(
    ("address", "status"),
    [
        ("/fields/99999/image", 404),
        (f"/fields/{10**20}/image", 404),
        (f"/fields/1/heat?finding={10**20}", 404),
        (f"/fields/1/heat?analysis={10**20}&class=RBC", 404),
        ("/fields/99999/thumb?w=x", 400),
    ],
)
def test_a_field_that_is_not_there_is_told_so(web_app: RunningApp, address: str, status: int) -> None:
    assert web_app.client(web_app.person()).get(address).status_code == status


def test_no_picture_is_shown_to_a_stranger(web_app: RunningApp) -> None:
    field_id = _field(web_app, _file("PNG", Image.fromarray(PICTURE[:50])), "image/png", "F-5")
    for variant in ("image", "thumb"):
        assert web_app.client().get(f"/fields/{field_id}/{variant}").status_code == 403
