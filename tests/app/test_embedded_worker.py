"""The worker process that the web server keeps beside itself."""

from __future__ import annotations

import io
import os
import signal
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import TypeVar

import psutil
import pytest

from db import analyses, specimens, workers
from db.files import FileStore
from db.models import FieldResult
from db.specimens import UploadedField
from pages.components import analysis
from pages.components.analysis import MODEL, card_of
from tests.browser.records import HEIGHT_PX, WIDTH_PX, a_picture, user_of
from tests.running_app import RunningApp, serving

PATIENCE_S = 180.0
MODEL_LOADED_WITHIN_S = 240.0  # seconds on a quiet machine
FIELDS = 6
T = TypeVar("T")


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApp]:
    """An app with a worker of its own, for tests that kill one of the two; the last of them stops it for good."""
    folder = tmp_path_factory.mktemp("app")
    with serving(folder / "data", RENAL_DEVICE="cpu") as served:  # torch is ready sooner than OpenVINO, which compiles
        yield served


def _eventually(what: Callable[[], T], within_s: float = PATIENCE_S) -> T:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if found := what():
            return found
        time.sleep(0.3)
    pytest.fail(f"not within {within_s:.0f} s")


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


@pytest.mark.skipif(card_of(MODEL) is None, reason=f"the weights of {MODEL} are not in renalcore/weights")
def test_a_web_server_killed_while_its_worker_searches_loses_nothing(app: RunningApp) -> None:
    analysis_id = _asked_for(app, fields=FIELDS)
    before = _eventually(lambda: _searched(app, analysis_id), within_s=MODEL_LOADED_WITHIN_S)
    app.stop(kill=True)
    app.start()
    _eventually(lambda: _state(app, analysis_id) == ("done", "needs_review"), within_s=MODEL_LOADED_WITHIN_S)
    after = _searched(app, analysis_id)
    assert len(before) < FIELDS, "the analysis was over before the web server was killed"
    assert after[: len(before)] == before  # what was done is kept as it was
    assert len({field_id for field_id, _ in after}) == len(after) == FIELDS  # none lost, none twice


def test_the_worker_goes_when_the_web_server_stops_and_its_log_stays(app: RunningApp) -> None:
    _eventually(lambda: _at_work(app))
    app.stop()
    _eventually(lambda: not _worker_processes(app))
    assert (app.data / "worker.log").exists()


def _asked_for(app: RunningApp, *, fields: int) -> int:
    """Registers a specimen of drawn fields and asks for its analysis, as the New specimen page does; its id."""
    store, uploads = FileStore(f"file://{app.data / 'files'}"), []
    for number in range(fields):
        sha256, size = store.put(io.BytesIO(a_picture(seed=number)))
        uploads.append(UploadedField(f"field {number}.png", sha256, size, "image/png", WIDTH_PX, HEIGHT_PX))
    user = user_of(app, app.person())
    with app.database() as session:
        specimen = specimens.register(
            session,
            identifier="P-1",
            patient_name=None,
            accession="S-1",
            objective="40x",
            scale_kind="unknown",
            um_per_px=None,
            collected_at=None,
            uploads=uploads,
            by=user,
        )
        return analysis.request(session, specimen, by=user).id  # not sent: a worker finds it by itself


def _searched(app: RunningApp, analysis_id: int) -> list[tuple[int, datetime]]:
    """The fields that have a result, and since when, in the order in which they got it."""
    with app.database() as session:
        results = session.query(FieldResult).filter_by(analysis_id=analysis_id).order_by(FieldResult.id)
        return [(result.field_id, result.finished_at) for result in results]


def _state(app: RunningApp, analysis_id: int) -> tuple[str, str]:
    with app.database() as session:
        asked = analyses.get(session, analysis_id)
        return asked.state, asked.specimen.state
