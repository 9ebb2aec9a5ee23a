"""The compute side: takes analyses from the queue, searches what they are about with a model, draws heat maps.

One durable workflow a specimen; one step a field, or one a block of a slide's tiles, or four a CT scan. DBOS remembers
the steps that are done and the record keeps their results, so a worker killed at any moment costs the step it was at
and nothing else:

- restarted on the same machine, or on PostgreSQL any other worker, it goes on at the next one, unless that step ends
  one worker after the other, be it one container that is started anew each time: then it is given up;
- a worker that falls silent for 20 s loses what it held to the others; one that was only paused finds, when it wakes,
  that the step is stored already or that the workflow is no longer its own, and lets go;
- SIGTERM or Ctrl-C: it finishes the steps at hand and hands the rest back. A second one ends it at once.

What the wings have in common is told once, in `db.searching.wing`: each wing adds the model it searches with and the
steps that one of its pictures (a field, a slide, a scan) takes.

The log has one line an event and names analyses and pictures by number: names may be those of patients.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from dbos import DBOS, DBOSConfig

from db import analyses, files, queue, specimens, uploads, workers
from db.engine import session_scope
from db.models import Modality
from db.searching.fields import Fields
from db.searching.heat_maps import HeatMaps
from db.searching.scans import Scans
from db.searching.slides import Slides
from db.searching.wing import Asked, Pace, Run, Station, Wing
from db.searching.words import event, fault, log
from db.settings import Settings
from renalcore.errors import Conflict, ModelError, RenalError
from renalcore.serving import Models, registered

__all__ = ["Pace", "Worker", "log_to_stderr", "main", "run"]

POLL_S = 0.5  # how soon a free worker notices new work
MESSAGES = 3  # of single fields or slides, shown one by one when an analysis fails
TIDY_EVERY_S = 24 * 3600.0
STOP_WITHIN_S = 600  # the longest a step may take once we were told to stop


class Worker(Station):
    """One worker process with its wings and what draws its heat maps."""

    def __init__(self, name: str, models: Models, pace: Pace) -> None:
        super().__init__(name, pace)
        self._wings: Mapping[Modality, Wing[Any]] = {
            "sediment": Fields(self, models.detector),
            "histology": Slides(self, models.searcher),
            "ct": Scans(self, models.segmenter),
        }
        self._heat_maps = HeatMaps(models.explainer)

    def analyse(self, analysis_id: int) -> None:
        """The workflow: its own code runs again after a kill, so all it does to the world lies in steps."""
        run = Run(analysis_id, str(DBOS.workflow_id))
        with session_scope(read_only=True) as session:
            modality = analyses.get(session, analysis_id).specimen.modality  # it never changes, so this is no step
        wing = self._wings[modality]
        picture_ids, trouble = DBOS.run_step({"name": "begin"}, self.begin, run, wing)
        problems: dict[int, str] = {}
        for search, picture_id in ((search, picture_id) for search in wing.passes() for picture_id in picture_ids):
            if picture_id in problems:
                continue
            outcome, message = search(run, picture_id)
            if outcome == "not ours":
                return
            if outcome == "all fail":
                trouble = message
                break
            if outcome.endswith(" failed"):
                problems[picture_id] = message
        self.step("end", partial(self.end, run, list(problems.values()), trouble))

    def begin(self, run: Run, wing: Wing[Any]) -> tuple[list[int], str]:
        """The step before the search: load the model, name what is to be searched, or say why there is nothing."""
        with session_scope(read_only=True) as session:
            analysis = analyses.get(session, run.analysis_id)
            if not run.is_on(analysis):
                return [], ""
            asked = Asked.of(analysis)
        try:
            device = wing.model(asked).device
        except ModelError as error:
            event("model failed", analysis=run.analysis_id, error=fault(error))
            return [], str(error)
        with session_scope() as session:
            if not analyses.start(session, run.analysis_id, device=device, worker=self.name):
                return [], ""
            ids = [picture.id for picture in analyses.pending(session, run.analysis_id, wing.table)]
        event("analysis begun", analysis=run.analysis_id, **{f"{wing.kind}s": len(ids)}, device=device)
        return ids, ""

    def end(self, run: Run, problems: list[str], trouble: str) -> None:
        """The step after the search: complete, or failed with what went wrong and what to do."""
        with session_scope() as session:
            analysis, specimen = analyses.hold(session, run.analysis_id)
            if not run.is_on(analysis):
                return
            without, total = analyses.lacking(session, run.analysis_id)
            what, done = analyses.pictures(specimen.modality), total - without
            if not without:
                analyses.finish(session, run.analysis_id)
                event("analysis done", analysis=run.analysis_id, **{what: total})
                return
            analyses.fail(session, run.analysis_id, _told(what, done, total, problems, trouble))
        event("analysis failed", analysis=run.analysis_id, **{f"{what}_done": done, what: total})

    def draw_heat_map(self, heat_map_id: int) -> None:
        """The workflow of a heat map."""
        self.step("draw", partial(self._heat_maps.draw, heat_map_id, str(DBOS.workflow_id)))


def run(
    *,
    models: Models | None = None,
    name: str | None = None,
    concurrency: int = 2,
    parent: int | None = None,
    pace: Pace | None = None,
) -> None:
    """Work until told to stop.

    Args:
        models: How models are loaded; by default those of the registry, on the device of the settings.
        name: The worker's name, its own among all workers of the database; host and process id by default.
        concurrency: Specimens at a time. All workers of a database share the figure of the one started last.
        parent: Stop when this process has ended.
        pace: How long it waits for what; all workers of a database should agree.

    Raises:
        Conflict: Another worker is at work under this name.
    """
    settings = Settings.from_env()
    host, pid = socket.gethostname(), os.getpid()
    worker = Worker(
        name or f"{host}-{pid}",
        models or registered(settings.device),
        pace or Pace(),
    )
    _listen_to_signals(worker.stopping)
    orphaned = _watch(parent) if parent is not None else lambda: False

    with session_scope() as session:
        for node in workers.alive(session):
            is_gone = node.host == host and (node.pid == pid or not workers.is_running(node.pid))
            if node.name == worker.name and not is_gone:
                raise Conflict(f"A worker named {node.name} is at work on {node.host}. Give this one another --name.")
        workers.beat(session, worker.name, host=host, pid=pid)
    config: DBOSConfig = {
        "name": queue.APPLICATION,
        "system_database_url": queue.system_database_url(settings.database_url),
        "dbos_system_schema": queue.SCHEMA,
        "application_version": queue.APPLICATION_VERSION,
        "executor_id": worker.name,
        "enable_otlp": False,
        "log_level": "ERROR",  # its warnings quote errors word by word, and those may name a file
    }
    queue.prepare(settings.database_url)
    # What an earlier process of this name held: DBOS would begin it again by itself, however often it has killed us.
    _take_over(lambda: _at_work(host, worker.pace.silent_after_s) - {worker.name})
    DBOS(config=config)

    @DBOS.workflow(name=queue.ANALYSIS.workflow)
    def analyse_specimen(analysis_id: int) -> None:
        worker.analyse(analysis_id)

    @DBOS.workflow(name=queue.HEAT_MAP.workflow)
    def draw_heat_map(heat_map_id: int) -> None:
        worker.draw_heat_map(heat_map_id)

    DBOS.launch()
    DBOS.register_queue(
        queue.QUEUE, worker_concurrency=concurrency, polling_interval_sec=POLL_S, on_conflict="always_update"
    )
    event("worker ready", worker=worker.name, concurrency=concurrency)
    ended = threading.Event()
    duties = threading.Thread(target=_keep_duties, args=(worker, host, pid, ended), name="duties", daemon=True)
    duties.start()
    threading.Thread(target=_tidy_daily, args=(worker.stopping,), name="tidying", daemon=True).start()
    while not worker.stopping.wait(1.0):
        if orphaned():
            event("parent gone", parent=parent)
            worker.stopping.set()
    DBOS.destroy(workflow_completion_timeout_sec=STOP_WITHIN_S)
    ended.set()
    duties.join()
    queue.hand_back(worker.name)
    with session_scope() as session:
        workers.stopped(session, worker.name)
    event("worker stopped", worker=worker.name)


def log_to_stderr() -> None:
    """One line an event, with the time in UTC."""
    formatter = logging.Formatter("%(asctime)sZ %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    log.addHandler(handler)
    log.setLevel(logging.INFO)


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="worker.py",
        description="Take analyses from the queue and search their fields, slides and scans. Several workers share one "
        "PostgreSQL database; DATABASE_URL, RENAL_FILES and RENAL_DEVICE say which database, files and device.",
    )
    parser.add_argument("--name", help="the worker's name, its own among all workers (default: host and process id)")
    parser.add_argument(
        "--concurrency", type=_positive, default=2, metavar="N",
        help="specimens at a time; workers of one database share the figure of the one started last (default: 2)",
    )  # fmt: skip
    parser.add_argument("--parent", type=_positive, metavar="PID", help="stop when this process has ended")
    parser.add_argument(
        "--check", action="store_true", help="start nothing; status 0 if a worker on this machine is at work"
    )
    options = parser.parse_args(argv)
    log_to_stderr()
    try:
        if options.check:
            with session_scope(read_only=True) as session:
                return 0 if any(node.host == socket.gethostname() for node in workers.alive(session)) else 1
        run(name=options.name, concurrency=options.concurrency, parent=options.parent)
    except RenalError as error:
        log.error("%s", error)
        return 1
    return 0


def _told(what: str, done: int, total: int, problems: list[str], trouble: str) -> str:
    """What a technologist reads beside the Retry button."""
    shown = [trouble] if trouble else []
    if problems:
        shown += [f"{len(problems)} of {total} {what} could not be searched.", *problems[:MESSAGES]]
        if len(problems) > MESSAGES:
            shown.append(f"And {len(problems) - MESSAGES} more.")
    if not shown:  # a second opinion goes on while its specimen is given more fields
        shown = [f"{what.capitalize()} were added meanwhile. Press Retry."]
    if done:
        shown.append(f"The other {done} of {total} {what} are done and kept.")
    return " ".join(shown)


def _keep_duties(worker: Worker, host: str, pid: int, ended: threading.Event) -> None:
    """Report for duty until the very end; until told to stop, also look after what others left undone."""
    while True:
        try:
            with session_scope() as session:
                workers.beat(session, worker.name, host=host, pid=pid, device=worker.device)
            if not worker.stopping.is_set():
                _take_over(partial(_at_work, host, worker.pace.silent_after_s))
                for task in queue.mend():
                    event("put back into the queue", **{task.work.name: task.record_id})
        except Exception as error:  # noqa: BLE001  # a database that is away for a while must not end the worker
            event("duties failed", error=fault(error))
        if ended.wait(worker.pace.beat_s):
            return


def _tidy_daily(stopping: threading.Event) -> None:
    """At the start and once a day: remove what uploads that were killed and workflows long ended have left behind."""
    chores: dict[str, Callable[[], int]] = {
        "abandoned files removed": _sweep_files,
        "abandoned uploads removed": _sweep_uploads,
        "steps of searches given up removed": _sweep_searches,
        "old workflows forgotten": queue.prune,
    }
    while True:
        for done, chore in chores.items():
            try:
                number = chore()
            except Exception as error:  # noqa: BLE001  # tomorrow is another day
                event("tidying failed", error=fault(error))
                continue
            if number:
                event(done, number=number)
        if stopping.wait(TIDY_EVERY_S):
            return


def _sweep_files() -> int:
    with session_scope(read_only=True) as session:
        return files.store().sweep(is_named=partial(specimens.has_file, session))


def _sweep_uploads() -> int:
    with session_scope() as session:
        return uploads.sweep(session)


def _sweep_searches() -> int:
    with session_scope() as session:
        return analyses.sweep(session)


def _take_over(at_work: Callable[[], set[str]]) -> None:
    for left in queue.take_over(at_work):
        event("given up" if left.given_up else "taken over",
               **{left.task.work.name: left.task.record_id}, from_worker=left.from_worker)  # fmt: skip


def _at_work(host: str, silent_after_s: float) -> set[str]:
    with session_scope(read_only=True) as session:
        return workers.at_work(session, host, silent_after_s)


def _watch(parent: int) -> Callable[[], bool]:
    """Tells whether the parent has ended. A child asks for its parent, which no later process can imitate."""
    if os.getppid() == parent:
        return lambda: os.getppid() != parent
    return lambda: not workers.is_running(parent)


def _listen_to_signals(stopping: threading.Event) -> None:
    def told(_number: int, _frame: object) -> None:
        if stopping.is_set():
            os._exit(1)  # told twice: what is at hand is lost, and searched again by the next worker
        stopping.set()

    signal.signal(signal.SIGTERM, told)
    signal.signal(signal.SIGINT, told)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, got {text}")
    return value


if __name__ == "__main__":
    sys.exit(main())
