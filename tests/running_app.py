"""A real server process of the app, and real people in its database, for the tests that look from outside.

`tests/app` talks HTTP to it, `tests/browser` drives a real Chromium; both import the fixtures from here.
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from db import accounts
from db.engine import engine_for, session_scope
from db.models import Role

ROOT = Path(__file__).resolve().parent.parent
START_S = 300.0
"""Longest wait for the first answer: Streamlit's import alone takes seconds on a busy machine."""


@dataclass(frozen=True)
class Person:
    """Somebody who may sign in."""

    username: str
    password: str
    full_name: str
    role: Role


@dataclass
class RunningApp:
    """A server of the app on a free loopback port, with a folder of its own.

    Attributes:
        url: Its address, without a final slash.
        data: Its data folder.
        environ: The environment it was started with.
        log: What it writes to the terminal.
    """

    url: str
    data: Path
    environ: dict[str, str]
    log: Path
    server: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    _clients: list[httpx.Client] = field(default_factory=list, repr=False)

    @property
    def engine(self) -> sa.Engine:
        """The database of the app, seen from the test."""
        return engine_for(self.environ["DATABASE_URL"])

    @contextmanager
    def database(self) -> Iterator[Session]:
        """One transaction in the app's database."""
        with session_scope(self.engine) as session:
            yield session

    def person(self, role: Role = "technologist", full_name: str = "Test Person") -> Person:
        """A new account with a password, as the administrator's invitation and its link make it."""
        known = Person(f"{role}.{secrets.token_hex(3)}", secrets.token_urlsafe(12), full_name, role)
        with self.database() as session:
            token = accounts.invite(session, username=known.username, full_name=full_name, role=role, by=None)
        with self.database() as session:
            accounts.redeem(session, token, known.password)
        return known

    def client(self, person: Person | None = None) -> httpx.Client:
        """An HTTP client as a browser would be; signed in where a person is named."""
        client = httpx.Client(base_url=self.url, headers={"origin": self.url}, timeout=60, trust_env=False)
        self._clients.append(client)
        if person is not None:
            answer = client.post("/login", data={"username": person.username, "password": person.password})
            assert answer.status_code == 303, answer.text
        return client

    def start(self) -> None:
        """Start the server and wait until it answers."""
        port = self.url.rsplit(":", 1)[1]
        with self.log.open("ab") as log:
            self.server = subprocess.Popen(
                [
                    *(sys.executable, "-m", "streamlit", "run", "app.py"),
                    *("--server.address", "127.0.0.1", "--server.port", port),
                ],
                cwd=ROOT,
                env=self.environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            if self.server.poll() is not None:
                pytest.fail(f"the app ended with status {self.server.returncode}:\n{self.log.read_text()}")
            try:
                if httpx.get(f"{self.url}/health", timeout=5, trust_env=False).status_code == 200:
                    return
            except httpx.TransportError:
                time.sleep(0.2)
        pytest.fail(f"the app did not answer within {START_S:.0f} s:\n{self.log.read_text()}")

    def pause(self, worker: subprocess.Popen[bytes]) -> None:
        """Pause a worker of the app by SIGSTOP, in a moment in which it holds up nobody who writes to SQLite."""
        while True:
            worker.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, worker.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
            with closing(sqlite3.connect(self.data / "renalcore.db", timeout=0.2, isolation_level=None)) as database:
                try:
                    database.execute("BEGIN IMMEDIATE")
                    return
                except sqlite3.OperationalError:  # it has the lock, and would keep it
                    worker.send_signal(signal.SIGCONT)
            time.sleep(0.05)

    def stop(self, *, kill: bool = False) -> None:
        """Stop the server; `kill` gives it no chance to tidy up."""
        for client in self._clients:
            client.close()
        if self.server is None or self.server.poll() is not None:
            return
        self.server.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
        try:
            self.server.wait(30)
        except subprocess.TimeoutExpired:
            self.server.kill()
            self.server.wait(10)


def make_app(folder: Path, **settings: str) -> RunningApp:
    """An app that is not started yet, in `folder`, with `settings` as environment variables."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    own = {
        "RENAL_DATA": str(folder),
        "DATABASE_URL": f"sqlite:///{folder / 'renalcore.db'}",
        "RENAL_PUBLIC_URL": url,
        "RENAL_THREADS": "1",
        **settings,
    }
    folder.mkdir(parents=True, exist_ok=True)
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("RENAL_", "STREAMLIT_"))}
    return RunningApp(url, folder, inherited | own, folder / "web.log")


@contextmanager
def serving(folder: Path, **settings: str) -> Iterator[RunningApp]:
    """A new installation in `folder`, served until the end of the block."""
    app = make_app(folder, **settings)
    try:
        app.start()
        yield app
    finally:
        app.stop()


@pytest.fixture(scope="module")
def running_app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApp]:
    """The app with a worker of its own, as `make app` starts it; one server for the tests of a module."""
    with serving(tmp_path_factory.mktemp("app") / "data") as app:
        yield app


@pytest.fixture(scope="package")
def web_app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApp]:
    """The app without a worker: enough for whatever does not wait for a model, and quicker.

    One server for all tests of a folder, so that each minds its own records only.
    """
    with serving(tmp_path_factory.mktemp("web") / "data", RENAL_WORKER="external") as app:
        yield app


@pytest.fixture(scope="module")
def new_app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApp]:
    """As `web_app`, for the tests of one module: empty at first, and nobody else minds what they do to it."""
    with serving(tmp_path_factory.mktemp("new") / "data", RENAL_WORKER="external") as app:
        yield app
