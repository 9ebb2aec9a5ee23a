"""The worker process that the web server keeps beside itself."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from db import workers
from tests.running_app import RunningApp, make_app

PATIENCE_S = 60.0


@pytest.fixture
def app(tmp_path: Path) -> Iterator[RunningApp]:
    """An app with a worker of its own, for tests that kill one of the two."""
    made = make_app(tmp_path / "data")
    try:
        made.start()
        yield made
    finally:
        made.stop()


def _eventually(what: Callable[[], object]) -> object:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if found := what():
            return found
        time.sleep(0.3)
    pytest.fail(f"not within {PATIENCE_S:.0f} s")


def _worker_processes(app: RunningApp) -> list[int]:
    """Process ids of the workers that run on the app's data, whoever started them."""
    found = []
    for process in psutil.process_iter(["pid", "cmdline"]):
        try:
            mine = process.environ().get("RENAL_DATA") == str(app.data)
        except (psutil.AccessDenied, psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
        if mine and any(part.endswith("worker.py") for part in process.info["cmdline"] or []):
            found.append(process.pid)
    return found


def _at_work(app: RunningApp) -> int | None:
    """The process id of the one worker that has reported for duty."""
    with app.database() as session:
        alive = [node.pid for node in workers.alive(session)]
    running = [pid for pid in _worker_processes(app) if pid in alive]
    return running[0] if running else None


def test_a_worker_that_dies_is_started_again_and_there_are_never_two(app: RunningApp) -> None:
    first = _eventually(lambda: _at_work(app))
    assert _worker_processes(app) == [first]
    os.kill(first, signal.SIGKILL)
    second = _eventually(lambda: _at_work(app) if _worker_processes(app) != [first] else None)
    assert second != first
    assert _worker_processes(app) == [second]


def test_the_worker_goes_when_the_web_server_stops_and_its_log_stays(app: RunningApp) -> None:
    _eventually(lambda: _at_work(app))
    app.stop()
    _eventually(lambda: not _worker_processes(app))
    assert (app.data / "worker.log").exists()


def test_a_killed_web_server_leaves_no_second_worker_when_it_comes_back(app: RunningApp) -> None:
    first = _eventually(lambda: _at_work(app))
    app.stop(kill=True)
    app.start()
    counts = []

    def _one_new() -> bool:
        running = _worker_processes(app)
        counts.append(len(running))
        return bool(running) and first not in running

    _eventually(_one_new)
    assert max(counts) == 1
