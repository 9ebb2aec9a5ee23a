"""A migrated database for each test, on SQLite and on PostgreSQL."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, make_url
from sqlalchemy.orm import Session

from db import analyses, specimens
from db.engine import engine_for, session_scope, upgrade
from db.models import Role, Specimen, User
from renalcore.types import Detections
from tests.conftest import PostgresServer
from tests.db.records import MODEL, Analyse, Analysed, Register, a_picture


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file that was upgraded: the tests take copies, each in a hundredth of the time."""
    path = tmp_path_factory.mktemp("migrated") / "renalcore.db"
    upgrade(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def migrated_url(postgres_server: PostgresServer) -> Iterator[str]:
    """As `migrated_file`, on PostgreSQL."""
    with postgres_server.database() as url:
        upgrade(url)
        yield url


@pytest.fixture
def postgres_url(postgres_server: PostgresServer, request: pytest.FixtureRequest) -> Iterator[str]:
    """A PostgreSQL database that only this test uses: empty, or migrated where the test asks for `engine`."""
    template = "template1"
    if "engine" in request.fixturenames:
        template = str(make_url(request.getfixturevalue("migrated_url")).database)
    with postgres_server.database(template) as url:
        yield url


@pytest.fixture
def engine(database_url: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """A migrated database without users, which the settings name too."""
    monkeypatch.setenv("DATABASE_URL", database_url)
    url = make_url(database_url)
    if url.get_backend_name() == "sqlite":
        shutil.copyfile(request.getfixturevalue("migrated_file"), str(url.database))
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


@pytest.fixture
def staff(engine: Engine) -> dict[str, User]:
    """Tess and Theo, technologists, and Rita, a reviewer: there before the test's own transaction begins."""
    roles: dict[str, Role] = {"tess": "technologist", "theo": "technologist", "rita": "reviewer"}
    with session_scope(engine) as session:
        users = {
            name: User(username=name, full_name=f"{name.title()} of the lab", role=role) for name, role in roles.items()
        }
        session.add_all(users.values())
    return users


@pytest.fixture
def technologist(staff: dict[str, User]) -> User:
    """Tess, who registers and corrects."""
    return staff["tess"]


@pytest.fixture
def other_technologist(staff: dict[str, User]) -> User:
    """Theo."""
    return staff["theo"]


@pytest.fixture
def reviewer(staff: dict[str, User]) -> User:
    """Rita, who signs."""
    return staff["rita"]


@pytest.fixture
def register(technologist: User, session: Session) -> Register:
    """Registers specimens A-1, A-2, ... of patient H-1 with two fields each, unless told otherwise."""
    numbers = itertools.count(1)

    def registered(accession: str | None = None, *, pictures: Sequence[str] | None = None, **changes: Any) -> Specimen:
        accession = accession or f"A-{next(numbers)}"
        values: dict[str, Any] = {
            "identifier": "H-1",
            "patient_name": None,
            "accession": accession,
            "objective": "40x",
            "scale_kind": "whole_field",
            "um_per_px": None,
            "collected_at": None,
            "uploads": [a_picture(name) for name in pictures or (f"{accession}-1.png", f"{accession}-2.png")],
            "by": technologist,
        }
        return specimens.register(session, **(values | changes))

    return registered


@pytest.fixture
def analysed(technologist: User, session: Session, register: Register) -> Analyse:
    """Registers specimens S-1, S-2, ... with a field for each of the detections given, stored as its analysis."""
    numbers = itertools.count(1)

    def done(*detections: Detections, min_score: Any = 0.5, accession: str | None = None, **changes: Any) -> Analysed:
        accession = accession or f"S-{next(numbers)}"
        specimen = register(accession, pictures=[f"{accession}-{i}.png" for i in range(len(detections))], **changes)
        analysis = analyses.request(session, specimen, **MODEL, options={"min_score": min_score}, by=technologist)
        analyses.start(session, analysis.id, device="cpu", worker="w1")
        fields = specimens.fields(session, specimen.id)
        for field, objects in zip(fields, detections, strict=True):
            analyses.store_field(session, analysis.id, field.id, detections=objects, seconds=0.1, worker="w1")
        analyses.finish(session, analysis.id)
        return Analysed(specimen, analysis, fields)

    return done
