"""The queue between the web app, which asks for analyses and heat maps, and the workers, which carry them out.

The queue is DBOS's. On PostgreSQL its tables lie in the schema `dbos` of RenalCore's own database. On SQLite they lie
in a file of their own beside RenalCore's (`renalcore-queue.db` beside `renalcore.db`): SQLite lets one writer in at a
time, and DBOS polls, claims and checkpoints all day; so it never waits for a clinical record to be written, nor the
other way round. It also keeps a backup of the record free of running work.

Two files cannot be written in one transaction, so the record alone says what is to be done, and the queue is derived
from it: what is to be done (`Work`) and nobody works on is put back into the queue by the workers (`mend`), be it that
the web process was killed between its two commits or that a backup was restored.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import func, select
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from db import analyses, heat_maps
from db.engine import now, session_scope
from db.models import Analysis, CtResult, CtStep, FieldResult, HeatMap, SlideBlock, SlideResult
from db.settings import Settings
from renalcore.errors import StorageError

if TYPE_CHECKING:
    from dbos import DBOSClient, WorkflowStatus

QUEUE = "sediment"
APPLICATION = "renalcore"
APPLICATION_VERSION = "1"  # fixed: what an older release began, a newer one goes on with
SCHEMA = "dbos"

MAX_TAKEOVERS = 3
"""How often work without progress is taken over before it is given up: it may be what kills the workers."""

_TAKEOVER_LOCK = 0x52454E41_54414B45  # "RENATAKE": one worker at a time looks for what the dead left
_ENDED = ("SUCCESS", "ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED")

_log = logging.getLogger(__name__)
_clients: dict[str, DBOSClient] = {}
_opening = threading.Lock()


@dataclass(frozen=True, slots=True)
class Work:
    """One kind of work: what the queue calls it, and where the record says what is to be done.

    Attributes:
        workflow: Name of its workflow, which takes the id of a row.
        name: Its name in the log; with hyphens also in the ids of workflows.
        table: Where a row stands for each piece of work.
        unfinished: The states of a row that is still to be done.
        hold: Reads a row afresh and locks it.
        fail: Gives a row up, with a message for whoever waits for it.
        progress: Tells how far a row is: a number that changes with every step that is done and kept.
        given_up: Message for what ended one worker after the other.
        broken_off: Message for what broke off by a fault of the program.
    """

    workflow: str
    name: str
    table: type[Analysis] | type[HeatMap]
    unfinished: tuple[str, ...]
    hold: Callable[[Session, int], Analysis | HeatMap]
    fail: Callable[[Session, int, str], bool]
    progress: Callable[[Session, int], int]
    given_up: str
    broken_off: str


def _steps_done(session: Session, analysis_id: int) -> int:
    """Fields searched; of slides, blocks planned, blocks searched and slides joined; of scans, steps and results."""
    counted = (
        select(func.count(SlideBlock.id) + func.count(SlideBlock.finished_at)).where(
            SlideBlock.analysis_id == analysis_id
        ),
        *(
            select(func.count()).where(table.analysis_id == analysis_id)
            for table in (FieldResult, SlideResult, CtStep, CtResult)
        ),
    )
    return sum(session.scalar(count) or 0 for count in counted)


ANALYSIS = Work(
    workflow="analyse_specimen",
    name="analysis",
    table=Analysis,
    unfinished=("queued", "running"),
    hold=lambda session, analysis_id: analyses.hold(session, analysis_id)[0],
    fail=analyses.fail,
    progress=_steps_done,
    given_up=(
        f"The worker ended unexpectedly {MAX_TAKEOVERS} times at the same place. One picture may be too much for this "
        "machine. Press Retry; if it fails again, tell your administrator, who finds the reason in the worker's log."
    ),
    broken_off="The analysis broke off. Press Retry; if it fails again, tell your administrator.",
)
HEAT_MAP = Work(
    workflow="draw_heat_map",
    name="heat_map",
    table=HeatMap,
    unfinished=("waiting",),
    hold=heat_maps.hold,
    fail=heat_maps.fail,
    progress=lambda _session, _heat_map_id: 0,
    given_up=(
        f"The worker ended unexpectedly {MAX_TAKEOVERS} times at this heat map. The picture may be too much for this "
        "machine. Try again; if it fails again, tell your administrator, who finds the reason in the worker's log."
    ),
    broken_off="The heat map broke off. Try again; if it fails again, tell your administrator.",
)
WORKS = (ANALYSIS, HEAT_MAP)
_BY_WORKFLOW = {work.workflow: work for work in WORKS}


class Task(NamedTuple):
    """One piece of work: its kind, and the id of its row."""

    work: Work
    record_id: int


class TakenOver(NamedTuple):
    """What a dead worker held and what was put back into the queue, or given up."""

    task: Task
    from_worker: str
    given_up: bool


def system_database_url(database_url: str | None = None) -> str:
    """Where DBOS keeps its tables, by the address of RenalCore's database (that of the settings by default)."""
    url = make_url(database_url or Settings.from_env().database_url)
    if url.get_backend_name() == "sqlite":
        path = Path(str(url.database))
        return f"sqlite:///{path.with_name(f'{path.stem}-queue.db')}"
    return url.set(drivername="postgresql+psycopg").render_as_string(hide_password=False)


def prepare(database_url: str | None = None) -> None:
    """Create the queue's tables, or bring them to the version of this DBOS. Changes nothing the second time."""
    from dbos import DBOS

    url = system_database_url(database_url)
    if url.startswith("sqlite"):
        import sqlite3

        connection = sqlite3.connect(url.removeprefix("sqlite:///"), timeout=30)
        connection.execute("PRAGMA journal_mode = WAL")  # kept in the file: those who read never wait for a writer
        connection.close()
    DBOS.migrate(url, schema=SCHEMA)


def enqueue(record_id: int, work: Work = ANALYSIS) -> str:
    """Put what is to be done into the queue, once, however often it is asked for.

    Called after the transaction that asked for it, in no transaction of its own.

    Args:
        record_id: The row that says what is to be done.
        work: Its kind.

    Returns:
        The workflow's id, also kept as the row's `workflow_id`. Another attempt has another id.

    Raises:
        NotFound: There is no such row.
        StorageError: The queue cannot be reached; a worker that can will put the work there (`mend`).
    """
    from dbos import EnqueueOptions

    with session_scope() as session:
        row = work.hold(session, record_id)  # two clicks: the second one waits, then finds the id
        if row.workflow_id is None:
            row.workflow_id = f"{work.name.replace('_', '-')}-{record_id}-{secrets.token_hex(4)}"
        workflow_id = row.workflow_id
    options: EnqueueOptions = {
        "workflow_name": work.workflow,
        "queue_name": QUEUE,
        "workflow_id": workflow_id,
        "app_version": APPLICATION_VERSION,
    }
    try:
        _client().enqueue(options, record_id)
    except DBAPIError as error:
        raise StorageError(
            "The queue cannot be reached. Nothing is lost: the work starts by itself once a worker reaches it."
        ) from error
    return workflow_id


def cancel(workflow_id: str | None) -> None:
    """Take a workflow out of the queue, or stop it before its next step. One that ended or is unknown is no matter.

    The record says what was cancelled (`analyses.cancel`): without the queue, the worker reads it there.
    """
    if workflow_id is None:
        return
    try:
        _client().cancel_workflow(workflow_id)
    except DBAPIError as error:
        _log.warning("workflow %s is cancelled in the record alone: %s", workflow_id, type(error).__name__)


def hand_back(worker: str) -> None:
    """A worker that ends in good order returns what it has begun, for the next one to go on with."""
    for status in _held(executor_id=worker):
        _client().resume_workflow(status.workflow_id, queue_name=QUEUE)


def take_over(at_work: Callable[[], Collection[str]]) -> list[TakenOver]:
    """Put back into the queue what workers hold that are no longer at work. What is done and kept stays.

    One worker at a time does this: the second one finds nothing left. What kills one worker after the other at the
    same step is given up, with a message, after `MAX_TAKEOVERS` times.

    Args:
        at_work: Tells the names of the workers that are, as of now. It is asked after what is held was read: whoever
            holds something had reported for duty before.
    """
    if not _orphans(at_work):
        return []  # the everyday case, without a lock
    taken: list[TakenOver] = []
    with session_scope() as session:
        _lock(session)
        for status in _orphans(at_work):
            task = _task(status)
            done = task.work.progress(session, task.record_id)
            before = status.attributes or {}
            times = 1 + (before.get("takeovers", 0) if before.get("steps_done") == done else 0)
            given_up = times > MAX_TAKEOVERS
            if given_up:
                task.work.fail(session, task.record_id, task.work.given_up)
                _client().cancel_workflow(status.workflow_id)
            else:
                _client().update_workflow_attributes(status.workflow_id, {"takeovers": times, "steps_done": done})
                _client().resume_workflow(status.workflow_id, queue_name=QUEUE)
            taken.append(TakenOver(task, str(status.executor_id), given_up))
    return taken


def mend() -> list[Task]:
    """Put into the queue what the record says is to be done and the queue knows nothing of.

    Returns:
        What was put there; what broke off by a fault of the program is failed instead.
    """
    return [task for work in WORKS for task in _mended(work)]


def _mended(work: Work) -> list[Task]:
    with session_scope(read_only=True) as session:
        rows = select(work.table.id, work.table.workflow_id).where(work.table.state.in_(work.unfinished))
        unfinished: dict[int, str | None] = {row.id: row.workflow_id for row in session.execute(rows)}
    if not unfinished:
        return []
    known = {status.workflow_id: str(status.status) for status in _statuses(filter(None, unfinished.values()))}
    put_back: list[Task] = []
    for record_id, workflow_id in unfinished.items():
        state = known.get(workflow_id or "")
        if state in ("ENQUEUED", "DELAYED", "PENDING"):
            continue
        with session_scope() as session:
            row = work.hold(session, record_id)
            if row.state not in work.unfinished or row.workflow_id != workflow_id:
                continue  # it ended, or was asked for again, since we looked
            if state in ("ERROR", "MAX_RECOVERY_ATTEMPTS_EXCEEDED"):
                work.fail(session, record_id, work.broken_off)
                continue
            if state is not None:
                row.workflow_id = None  # that one has ended and cannot run again
        enqueue(record_id, work)
        put_back.append(Task(work, record_id))
    return put_back


def prune(*, older_than: timedelta = timedelta(days=30)) -> int:
    """Remove from the queue's history what ended long ago. The record, which says what was done, keeps everything.

    Returns:
        The number of workflows removed.
    """
    client, removed = _client(), 0
    before = (now() - older_than).isoformat()
    while ended := client.list_workflows(
        status=list(_ENDED), completed_before=before, limit=500, load_input=False, load_output=False
    ):
        client.delete_workflows([status.workflow_id for status in ended])
        removed += len(ended)
    return removed


def forget_clients() -> None:
    """Close the connections to the queue of every database; the next call opens what it needs."""
    for client in _clients.values():
        client.destroy()
    _clients.clear()


def _held(*, executor_id: str | None = None) -> list[WorkflowStatus]:
    """The workflows that some worker has begun and not ended."""
    return _client().list_workflows(
        status="PENDING", name=list(_BY_WORKFLOW), executor_id=executor_id, load_output=False
    )


def _orphans(at_work: Callable[[], Collection[str]]) -> list[WorkflowStatus]:
    held = _held()
    names = at_work() if held else ()
    return [status for status in held if status.executor_id not in names]


def _statuses(workflow_ids: Iterable[str]) -> list[WorkflowStatus]:
    ids = list(workflow_ids)
    found: list[WorkflowStatus] = []
    for start in range(0, len(ids), 500):
        found += _client().list_workflows(workflow_ids=ids[start : start + 500], load_input=False, load_output=False)
    return found


def _task(status: WorkflowStatus) -> Task:
    if status.input is None:
        raise ValueError(f"workflow {status.workflow_id} has no input")
    return Task(_BY_WORKFLOW[status.name], int(status.input["args"][0]))


def _lock(session: Session) -> None:
    """Held until the transaction ends. On SQLite every writing transaction is such a lock."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(select(func.pg_advisory_xact_lock(_TAKEOVER_LOCK)))


def _client() -> DBOSClient:
    from dbos import DBOSClient

    url = Settings.from_env().database_url
    with _opening:
        if url not in _clients:
            prepare(url)
            _clients[url] = DBOSClient(
                system_database_url=system_database_url(url),
                dbos_system_schema=SCHEMA,
                application_name=APPLICATION,
                retry_connection_errors=False,
            )
        return _clients[url]
