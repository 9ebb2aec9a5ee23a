"""`/health` for the container's health check: open to anyone, so it names no version, host or error."""

from __future__ import annotations

import logging

import sqlalchemy as sa
from starlette.requests import Request
from starlette.responses import JSONResponse

from db import workers
from db.engine import session_scope
from renalcore.errors import StorageError

_LOG = logging.getLogger(__name__)


def health(request: Request) -> JSONResponse:
    """200 while the database answers, 503 otherwise; a missing worker is told, and does not fail the web server."""
    try:
        with session_scope(read_only=True) as session:
            session.execute(sa.text("SELECT 1"))
            worker = bool(workers.alive(session))
    except (sa.exc.SQLAlchemyError, StorageError):
        _LOG.warning("health: the database does not answer", exc_info=True)
        return JSONResponse({"status": "unavailable", "database": False, "worker": False}, 503)
    return JSONResponse({"status": "ok", "database": True, "worker": worker})
