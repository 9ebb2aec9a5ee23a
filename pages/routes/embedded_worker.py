"""The worker process that a web server starts for itself, restarts when it dies, and takes along when it stops."""

from __future__ import annotations

import fcntl
import logging
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

from db.settings import Settings
from renalcore import models

_LOG = logging.getLogger(__name__)

REPOSITORY = Path(__file__).resolve().parents[2]
_STEADY_S = 30.0
"""A worker that lived this long is restarted at once; one that dies sooner waits longer each time."""
_LONGEST_PAUSE_S = 30.0


class EmbeddedWorker:
    """One worker process beside this web server.

    A lock on `worker.lock` is handed on to the worker, so that it is held while either of the two lives: a second
    web server on the same folder, or one restarted after a crash, waits until the old worker is gone.
    """

    def __init__(self, data: Path) -> None:
        self._data = data
        self._stopping = threading.Event()
        self._child: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._watch, name="embedded-worker", daemon=True)

    def start(self) -> None:
        """Start the worker and the thread that watches over it."""
        self._data.mkdir(parents=True, exist_ok=True)
        self._thread.start()

    def stop(self, patience_s: float = 10.0) -> None:
        """Ask the worker to finish its field and go; kill it if it does not."""
        self._stopping.set()
        child = self._child
        if child is not None and child.poll() is None:
            child.terminate()
            try:
                child.wait(patience_s)
            except subprocess.TimeoutExpired:
                child.kill()
        self._thread.join(patience_s)

    def _watch(self) -> None:
        with (self._data / "worker.lock").open("ab") as lock:
            if not self._lock(lock.fileno()):
                return
            pause_s = 1.0
            while not self._stopping.is_set():
                began = time.monotonic()
                status = self._run_once(lock.fileno())
                if self._stopping.is_set():
                    return
                pause_s = 1.0 if time.monotonic() - began > _STEADY_S else min(_LONGEST_PAUSE_S, pause_s * 2)
                _LOG.warning("the worker ended with status %s; it is started again in %.0f s", status, pause_s)
                self._stopping.wait(pause_s)

    def _lock(self, descriptor: int) -> bool:
        told = False
        while not self._stopping.is_set():
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not told:
                    _LOG.warning("another worker still runs on %s; waiting for it to end", self._data)
                    told = True
                self._stopping.wait(1.0)
            else:
                return True
        return False

    def _run_once(self, lock_descriptor: int) -> int:
        with (self._data / "worker.log").open("ab") as log:
            self._child = subprocess.Popen(
                [sys.executable, str(REPOSITORY / "worker.py"), "--parent", str(os.getpid())],
                cwd=REPOSITORY,
                # a relative path means another folder there
                env={**os.environ, **Settings.from_env().absolute(), "RENAL_MODELS": str(models.WEIGHTS)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=(lock_descriptor,),
                start_new_session=True,  # Ctrl-C reaches the web server, which then stops the worker itself
            )
        return self._child.wait()
