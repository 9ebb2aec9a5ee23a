"""A laboratory on each of the two databases."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from db import queue
from db.engine import session_scope, upgrade
from db.models import User
from tests.worker.laboratory import Laboratory


def _laboratory(url: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Laboratory]:
    monkeypatch.setenv("DATABASE_URL", url)
    monkeypatch.setenv("RENAL_DATA", str(folder))
    monkeypatch.setenv("RENAL_FILES", f"file://{folder / 'files'}")
    upgrade(url)
    with session_scope() as session:
        user = User(username="tess", full_name="Tess Technologist", role="technologist")
        session.add(user)
    laboratory = Laboratory(folder, user)
    yield laboratory
    for process in laboratory.processes:
        if process.poll() is None:
            process.kill()
        process.wait()
    queue.forget_clients()


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Laboratory]:
    """A laboratory on SQLite."""
    yield from _laboratory(f"sqlite:///{tmp_path / 'renalcore.db'}", tmp_path, monkeypatch)


@pytest.fixture
def big_lab(postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Laboratory]:
    """A laboratory on PostgreSQL."""
    yield from _laboratory(postgres_url, tmp_path, monkeypatch)
