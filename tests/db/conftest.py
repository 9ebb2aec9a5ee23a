"""A migrated database for each test, on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from db.engine import engine_for, session_scope, upgrade
from db.models import User


@pytest.fixture
def engine(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """A migrated database without users, which the settings name too."""
    monkeypatch.setenv("DATABASE_URL", database_url)
    upgrade(database_url)
    engine = engine_for(database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def session(engine: Engine) -> Iterator[Session]:
    """A transaction on the migrated database, committed at the end of the test."""
    with session_scope(engine) as session:
        yield session


@pytest.fixture
def admin(engine: Engine) -> User:
    """An administrator who is already there."""
    with session_scope(engine) as session:
        user = User(username="ada", full_name="Ada Admin", role="admin", password_hash="unusable")
        session.add(user)
    return user
