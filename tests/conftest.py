"""What every test may ask for, and what happens to a test whose needs this machine cannot meet.

Markers `browser`, `postgres` and `shared_data` name a need. Where it is absent the test is skipped and says why;
where the environment variable RENAL_REQUIRE lists the marker (`RENAL_REQUIRE=browser,postgres,shared_data`, as CI
does) the test fails instead, so that a missing package can never turn a build green. A test that asks for the fixture
of a need carries its marker by itself. Tests marked `long` run only when asked for by name: `-m long`.

With `-n 2`, as `make test` does, two processes share the files of tests: all of a file run in one process, in order.
Each process has servers, databases and a browser of its own, and its parts of a fixture that is for the whole run.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import pytest

ROOT = Path(__file__).resolve().parent.parent
SHARED_DATA = ROOT.parent / "shared" / "data"
NEEDS_OF_FIXTURES = {
    "chromium": "browser",
    "postgres_server": "postgres",
    "postgres_url": "postgres",
    "shared_data": "shared_data",
}

LONGEST = ("/test_train.py", "/test_worker.py", "/worker/test_ct.py")  # begun last, they would outlast all others

# Pictures here are small, and several processes share the cores: threads would mostly wait for each other. Programs
# that a test starts inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RENAL_THREADS", "1")

# A failing property fails on every run and every machine, however slow, and leaves no files in the tree.
hypothesis.settings.register_profile("renalcore", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("renalcore")


def _chromium_program() -> str | None:
    named = os.environ.get("RENAL_CHROMIUM")
    if named:
        return named if Path(named).is_file() else None
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def _postgres_programs() -> Path | None:
    """The newest folder that holds `initdb`: Debian keeps it out of PATH."""
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    if versions:
        return versions[-1].parent
    found = shutil.which("initdb")
    return Path(found).resolve().parent if found else None


@functools.cache
def absent(need: str) -> str | None:
    """Why this machine cannot meet `need`, or None where it can."""
    if need == "browser":
        if importlib.util.find_spec("playwright") is None:
            return "the Python package playwright is not installed (pip install playwright)"
        if _chromium_program() is None:
            return "no Chromium found (apt-get install chromium, or name one in RENAL_CHROMIUM)"
    if need == "postgres" and _postgres_programs() is None:
        return "no PostgreSQL server programs found (apt-get install postgresql)"
    if need == "shared_data" and not SHARED_DATA.is_dir():
        return f"the real pictures are not on this machine ({SHARED_DATA} is absent)"
    return None


@pytest.hookimpl(tryfirst=True)  # before pytest selects by -m, so that markers added here count
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: not item.path.as_posix().endswith(LONGEST))
    long_asked_for = re.search(r"\blong\b", config.getoption("markexpr")) is not None
    for item in items:
        for fixture in getattr(item, "fixturenames", ()):
            if fixture in NEEDS_OF_FIXTURES:
                item.add_marker(NEEDS_OF_FIXTURES[fixture])
        if item.get_closest_marker("long") and not long_asked_for:
            item.add_marker(pytest.mark.skip(reason="takes minutes; run with -m long"))


def pytest_runtest_setup(item: pytest.Item) -> None:
    required = {need.strip() for need in os.environ.get("RENAL_REQUIRE", "").split(",")}
    for need in ("browser", "postgres", "shared_data"):
        reason = absent(need) if item.get_closest_marker(need) else None
        if reason and need in required:
            pytest.fail(f"RENAL_REQUIRE asks for {need}, but {reason}", pytrace=False)
        if reason:
            pytest.skip(reason)


@pytest.fixture(autouse=True)
def main_module() -> Iterator[None]:
    """Streamlit's AppTest leaves its script behind as `__main__`, which a process spawned later would try to import."""
    main = sys.modules["__main__"]
    yield
    sys.modules["__main__"] = main


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real pictures, `../shared/data`."""
    return SHARED_DATA


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of the Chromium program, for playwright's `executable_path`."""
    program = _chromium_program()
    assert program is not None
    return program


@dataclass(frozen=True)
class PostgresServer:
    """A PostgreSQL server of this test run's own."""

    port: int
    password: str

    def url(self, database: str) -> str:
        """SQLAlchemy's address of one of its databases."""
        return f"postgresql+psycopg://postgres:{self.password}@127.0.0.1:{self.port}/{database}"

    @contextmanager
    def database(self, template: str = "template1") -> Iterator[str]:
        """The address of a new database, a copy of `template`, until the end of the block."""
        import psycopg  # only where a server exists

        name = f"test_{secrets.token_hex(6)}"
        administration = self.url("postgres").replace("+psycopg", "")
        with psycopg.connect(administration, autocommit=True) as connection:
            # Up to PostgreSQL 14 the only way; the newer one takes three times as long for a database as small as ours.
            strategy = "STRATEGY file_copy" if connection.info.server_version >= 150000 else ""
            connection.execute(f"CREATE DATABASE {name} TEMPLATE {template} {strategy}")
        yield self.url(name)
        with psycopg.connect(administration, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A PostgreSQL server on a temporary folder and a free loopback port, stopped at the end of the run."""
    programs = _postgres_programs()
    assert programs is not None
    folder = Path(tempfile.mkdtemp(prefix="renal-postgres-"))  # pytest's own folders are closed to user postgres
    password, port = secrets.token_hex(16), _free_port()
    (folder / "password").write_text(password)
    user = "postgres" if os.geteuid() == 0 else None  # PostgreSQL refuses to run as root
    if user:
        for path in (folder, folder / "password"):
            shutil.chown(path, user, user)

    def run(program: str, *arguments: str) -> None:
        # Into files, not pipes: the server inherits them, and a pipe would stay open until it stops.
        with (folder / f"{program}.out").open("wb") as output:
            status = subprocess.run(
                [programs / program, *arguments],
                user=user,
                group=user,
                extra_groups=[] if user else None,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=folder,
                check=False,
            ).returncode
        if status:
            logs = [path for path in (folder / f"{program}.out", folder / "server.log") if path.exists()]
            pytest.fail(f"{program} failed:\n" + "\n".join(path.read_text(errors="replace") for path in logs))

    data = str(folder / "data")
    options = (
        f"-c listen_addresses=127.0.0.1 -p {port} -c unix_socket_directories={folder} "
        "-c fsync=off -c synchronous_commit=off -c full_page_writes=off -c max_connections=200"
    )
    try:
        run(
            "initdb", "-D", data, "-U", "postgres", "-A", "scram-sha-256", f"--pwfile={folder / 'password'}",
            "-E", "UTF8", "--locale=C", "--no-sync",
        )  # fmt: skip
        run("pg_ctl", "-D", data, "-o", options, "-l", str(folder / "server.log"), "-w", "-t", "120", "start")
        try:
            yield PostgresServer(port, password)
        finally:
            run("pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """The address of an empty PostgreSQL database that only this test uses."""
    with postgres_server.database() as url:
        yield url


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty database: each test runs once on SQLite and once on PostgreSQL."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'renalcore.db'}"
    url: str = request.getfixturevalue("postgres_url")
    return url
