"""A CT scan and its labels as the browser gets them."""

from __future__ import annotations

import httpx
import pytest

from db import ct_files, ct_findings
from db.files import store
from pages.routes.fields import CACHE
from tests.browser.records import user_of
from tests.ct_analysed import Study, analysed, drawn
from tests.running_app import RunningApp


@pytest.fixture(autouse=True)
def data_of_the_app(web_app: RunningApp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RENAL_DATA", str(web_app.data))


def a_study(app: RunningApp, number: str) -> Study:
    user = user_of(app, app.person())
    with app.database() as session:
        return analysed(session, user, [drawn()], accession=f"CT-{number}", identifier=f"P-{number}")


@pytest.fixture
def client(web_app: RunningApp) -> httpx.Client:
    return web_app.client(web_app.person("reviewer"))


def test_the_volume_is_the_stored_file_and_is_asked_for_once(web_app: RunningApp, client: httpx.Client) -> None:
    study = a_study(web_app, "image")
    with web_app.database() as session:
        sha256 = session.merge(study.scan).image.sha256
    first = client.get(f"/ct/{study.scan.id}/image.nii.gz")
    assert (first.status_code, first.headers["content-type"]) == (200, ct_files.MEDIA_TYPE)
    assert first.content == store().read(sha256)
    assert first.headers["cache-control"] == CACHE
    again = client.get(f"/ct/{study.scan.id}/image.nii.gz", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_labels_are_those_that_stand_and_are_sent_again_only_when_one_changed(
    web_app: RunningApp, client: httpx.Client
) -> None:
    study = a_study(web_app, "labels")
    address = f"/ct/{study.scan.id}/labels.nii.gz?analysis={study.analysis.id}"
    where = study.analysis.id, study.scan.id
    with web_app.database() as session:
        found = ct_findings.standing(session, *where)
    first = client.get(address)
    assert first.content == store().read(found.labels_sha256)
    same = {"if-none-match": first.headers["etag"]}
    assert client.get(address, headers=same).status_code == 304
    user = user_of(web_app, web_app.person())
    with web_app.database() as session:
        after = ct_findings.relabel(session, *where, found.measures.lesions[0].voxel, "cyst", by=user)
    second = client.get(address, headers=same)
    assert (second.status_code, second.content) == (200, store().read(after.labels_sha256))


def test_what_is_not_there_or_of_another_study_is_told_so_and_strangers_see_nothing(
    web_app: RunningApp, client: httpx.Client
) -> None:
    one, other = a_study(web_app, "one"), a_study(web_app, "other")
    labels = f"/ct/{one.scan.id}/labels.nii.gz"
    for address in (
        "/ct/999999/image.nii.gz",
        f"/ct/{10**20}/image.nii.gz",
        f"{labels}?analysis={other.analysis.id}",
        f"{labels}?analysis=999999",
        f"{labels}?analysis={10**20}",
    ):
        assert client.get(address).status_code == 404
    assert client.get(labels).status_code == 400
    stranger = web_app.client()
    for address in (f"/ct/{one.scan.id}/image.nii.gz", f"{labels}?analysis={one.analysis.id}"):
        assert stranger.get(address).status_code == 403
