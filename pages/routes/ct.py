"""A CT scan for the browser: its volume in Hounsfield units and what was found in it, as NIfTI from the file store.

The viewer unpacks them itself, so each is one file that is sent as it lies there. Nothing of a patient is in them: the
stored volume has no texts. The guard before all addresses has asked who looks.
"""

from __future__ import annotations

from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response

from db import analyses, ct_findings, scans
from db.ct_files import MEDIA_TYPE
from db.engine import session_scope
from db.files import store
from db.settings import Settings
from pages.components.numbers import asked_number
from pages.routes.fields import CACHE
from renalcore.errors import NotFound, RenalError


class _Volume(FileResponse):
    """A file of 50 MB and more, sent in few pieces."""

    chunk_size = 1 << 20


def image(request: Request) -> Response:
    """`/ct/{id}/image.nii.gz`: the volume, int16 Hounsfield units. It never changes under its address."""
    try:
        with session_scope(read_only=True) as session:
            sha256 = scans.get(session, request.path_params["scan_id"]).image.sha256
        return _answer(request, sha256, cache=CACHE)
    except RenalError as error:
        return PlainTextResponse(str(error), 404)


def labels(request: Request) -> Response:
    """`/ct/{id}/labels.nii.gz?analysis=3`: kidneys (1), tumours (2) and cysts (3) as they stand now, on its grid.

    Asked for anew each time, since corrections change it, and sent only where it did change.
    """
    analysis_id = asked_number(request.query_params.get("analysis"))
    if not analysis_id:
        return PlainTextResponse("Name the analysis.", 400)
    scan_id = request.path_params["scan_id"]
    try:
        with session_scope(read_only=True) as session:
            if analyses.get(session, analysis_id).specimen_id != scans.get(session, scan_id).specimen_id:
                raise NotFound(f"Analysis {analysis_id} is not of scan {scan_id}.")
            sha256 = ct_findings.standing(session, analysis_id, scan_id).labels_sha256
        return _answer(request, sha256, cache="private, no-cache")
    except RenalError as error:
        return PlainTextResponse(str(error), 404)


def _answer(request: Request, sha256: str, *, cache: str) -> Response:
    headers = {"etag": f'"{sha256[:32]}"', "cache-control": cache}
    if headers["etag"] in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    path: Path = store().local(sha256, copies=Settings.from_env().data_folder / "scans")
    return _Volume(path, media_type=MEDIA_TYPE, headers=headers)
