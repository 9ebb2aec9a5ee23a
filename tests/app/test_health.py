"""`/health`, as a container's health check asks it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from starlette.requests import Request

from db import workers
from pages.routes.health import health
from tests.running_app import RunningApp


def test_health_is_open_and_says_whether_a_worker_is_alive(web_app: RunningApp) -> None:
    assert web_app.client().get("/health").json() == {"status": "ok", "database": True, "worker": False}
    with web_app.database() as session:
        workers.beat(session, "bench-1", host="bench", pid=1)
    assert web_app.client().get("/health").json() == {"status": "ok", "database": True, "worker": True}


def test_health_without_a_database_fails_and_gives_no_details(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path}/no-such-folder/renalcore.db")
    answer = health(Request({"type": "http", "method": "GET", "path": "/health", "headers": []}))
    assert answer.status_code == 503
    assert json.loads(answer.body) == {"status": "unavailable", "database": False, "worker": False}
