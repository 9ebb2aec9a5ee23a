"""Who is at work: each worker reports for duty every few seconds, so that its silence can be noticed."""

from __future__ import annotations

import os
from datetime import datetime, timedelta

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from db.engine import now
from db.models import WorkerNode

BEAT_S = 5.0  # how often a worker reports
SILENT_AFTER_S = 20.0  # four reports missed: longer than a busy database delays one, well within a minute
FORGOTTEN_AFTER_S = 24 * 3600.0  # a worker that did not come back within a day was replaced


def beat(session: Session, name: str, *, host: str, pid: int, device: str | None = None) -> WorkerNode:
    """A worker says that it is at work; its first report enters it.

    Args:
        session: An open session.
        name: The worker's name, its own among all workers of the database.
        host: The machine it runs on.
        pid: Its process there. Another process under the same name begins a new duty.
        device: Where its model runs, once it is known.
    """
    at = _clock(session)
    node = session.scalars(select(WorkerNode).where(WorkerNode.name == name)).one_or_none()
    if node is None:
        node = WorkerNode(name=name, host=host, pid=pid, started_at=at)
        session.add(node)
    elif (node.host, node.pid) != (host, pid) or node.stopped_at is not None:
        node.host, node.pid, node.started_at, node.stopped_at = host, pid, at, None
        node.device = None  # a new process has yet to load its model
    node.heartbeat_at = at
    if device is not None:
        node.device = device
    session.flush()
    return node


def stopped(session: Session, name: str) -> None:
    """A worker has ended in good order; unknown names are no matter."""
    node = session.scalars(select(WorkerNode).where(WorkerNode.name == name)).one_or_none()
    if node is not None:
        node.stopped_at = _clock(session)


def alive(session: Session, within_s: float = SILENT_AFTER_S) -> list[WorkerNode]:
    """The workers that reported within the last seconds and have not ended, by name."""
    return list(
        session.scalars(
            select(WorkerNode)
            .where(WorkerNode.stopped_at.is_(None), WorkerNode.heartbeat_at >= _before(session, within_s))
            .order_by(WorkerNode.name)
        )
    )


def at_work(session: Session, host: str, silent_after_s: float = SILENT_AFTER_S) -> set[str]:
    """Names of the workers that are at work, as the machine `host` can tell."""
    # A SQLite file has all its workers on one machine: there a dead process is known to be dead at once.
    one_machine = session.get_bind().dialect.name == "sqlite"
    return {
        node.name
        for node in alive(session, silent_after_s)
        if not (one_machine and node.host == host and not is_running(node.pid))
    }


def is_running(pid: int) -> bool:
    """Whether a process of this machine runs, under whatever user."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def are_loading(session: Session) -> bool:
    """Whether workers are alive of which none has a model yet: what waits now waits for that."""
    nodes = alive(session)
    return bool(nodes) and all(node.device is None for node in nodes)


def silent(
    session: Session, after_s: float = SILENT_AFTER_S, *, forgotten_after_s: float = FORGOTTEN_AFTER_S
) -> list[WorkerNode]:
    """The workers that fell silent without having ended, by name; those long gone are no news."""
    return list(
        session.scalars(
            select(WorkerNode)
            .where(
                WorkerNode.stopped_at.is_(None),
                WorkerNode.heartbeat_at < _before(session, after_s),
                WorkerNode.heartbeat_at >= _before(session, forgotten_after_s),
            )
            .order_by(WorkerNode.name)
        )
    )


def _before(session: Session, seconds: float) -> datetime:
    return _clock(session) - timedelta(seconds=seconds)


def _clock(session: Session) -> datetime:
    """The database server's time: the clocks of the workers' machines need not agree. SQLite is on one machine."""
    if session.get_bind().dialect.name == "sqlite":
        return now()
    at: datetime = session.scalars(select(func.clock_timestamp())).one()
    return at
