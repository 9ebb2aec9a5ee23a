"""What the wings of a worker have in common: the attempts at a step, the model that was asked for, and the words.

Each wing adds the model it searches with and the steps that one of its pictures (a field, a slide, a scan) takes.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Generic, TypeVar

from dbos import DBOS

from db import analyses, workers
from db.engine import session_scope
from db.models import Analysis
from db.searching.words import Kind, Picture, event, fault, since, unreadable
from renalcore.errors import DamagedFile, InputError, ModelError, NotFound, StorageError, UnknownName
from renalcore.serving import Detector, Searcher, Segmenter

ATTEMPTS = 3  # at one step, before it is given up

Outcome = tuple[str, str]
"""What became of a step, and where it failed a message for the technologist:

`done`; `left` where the picture is withdrawn or has its result; `plan again` where a slide got another scale meanwhile;
`not ours` where the analysis was cancelled or begun anew by someone else; `field failed` and so on, the others go on;
`all fail` where the others would fail in the same way."""

_Value = TypeVar("_Value")
_Model = TypeVar("_Model", Detector, Searcher, Segmenter)


@dataclass(frozen=True, slots=True)
class Pace:
    """How long a worker waits for what.

    Attributes:
        waits_s: Between the attempts at a step: long enough for a network drive to come back.
        beat_s: Between two reports for duty, at which it also looks after what others left undone.
        silent_after_s: After which silence another worker loses what it holds.
    """

    waits_s: tuple[float, ...] = (1.0, 4.0)
    beat_s: float = workers.BEAT_S
    silent_after_s: float = workers.SILENT_AFTER_S


@dataclass(frozen=True, slots=True)
class Asked:
    """The model that an analysis was asked for with."""

    model_key: str
    weights_sha256: str
    calibration_sha256: str

    @classmethod
    def of(cls, analysis: Analysis) -> Asked:
        """As the record has it."""
        return cls(analysis.model_key, analysis.weights_sha256, analysis.options.get("calibration", ""))


@dataclass(frozen=True, slots=True)
class Run:
    """One attempt at an analysis: its workflow's id tells it from those before and after."""

    analysis_id: int
    attempt: str

    def is_on(self, analysis: Analysis) -> bool:
        """Whether the analysis still waits for this very attempt: not cancelled, given up or asked for anew."""
        return analysis.state in ("queued", "running") and analysis.workflow_id == self.attempt


class ToldToStop(BaseException):
    """We were told to stop: the workflow stays unfinished, so that it is gone on with."""


class Station:
    """One worker process as its wings see it.

    Attributes:
        name: Its name, its own among all workers of the database.
        pace: How long it waits for what.
        stopping: Set once it was told to stop.
        device: What ran the model that was loaded last, in words.
    """

    def __init__(self, name: str, pace: Pace) -> None:
        self.name = name
        self.pace = pace
        self.stopping = threading.Event()
        self.device: str | None = None

    def step(self, name: str, does: Callable[[], _Value]) -> _Value:
        """What a step of the workflow gives: of one that was done before a kill, what it gave then."""
        if self.stopping.is_set():
            raise ToldToStop
        return DBOS.run_step({"name": name}, does)


class Wing(ABC, Generic[_Model]):
    """What the worker does with the pictures of one modality.

    Attributes:
        kind: What a picture is called.
        table: Where pictures stand in the record.
    """

    kind: ClassVar[Kind]
    table: ClassVar[Any]

    def __init__(self, worker: Station, load: Callable[[str], _Model]) -> None:
        self.worker = worker
        self._load: Callable[[str], _Model] = load
        self._models: dict[str, _Model] = {}
        self._loading = threading.Lock()  # while a model is loaded, those of other wings go on

    @abstractmethod
    def search(self, run: Run, picture_id: int) -> Outcome:
        """The workflow's part for one picture."""

    def passes(self) -> tuple[Callable[[Run, int], Outcome], ...]:
        """What is done to all pictures before the next is done to any."""
        return (self.search,)

    def step(self, name: str, run: Run, picture_id: int, once: Callable[[Asked, Picture], Outcome]) -> Outcome:
        """A step of the workflow that is about one picture, see `Station.step`."""
        return self.worker.step(name, partial(self.tried, run, picture_id, once))

    def tried(self, run: Run, picture_id: int, once: Callable[[Asked, Picture], Outcome]) -> Outcome:
        """What `once` returns for a picture that is still to be searched, tried again up to `ATTEMPTS` times."""
        kind, picture = self.kind, Picture(self.kind, picture_id)
        about = {"analysis": run.analysis_id, kind: picture_id}
        for tried in range(1, ATTEMPTS + 1):
            try:
                with session_scope(read_only=True) as session:
                    analysis = analyses.get(session, run.analysis_id)
                    if not run.is_on(analysis):
                        return "not ours", ""
                    names = {row.id: row.name for row in analyses.pending(session, run.analysis_id, self.table)}
                    if picture_id not in names:
                        return "left", ""  # perhaps stored by the worker that was killed before it could say so
                    picture.name, asked = names[picture_id], Asked.of(analysis)
                return once(asked, picture)
            except (InputError, NotFound, DamagedFile) as error:
                event(f"{kind} unreadable", **about, error=fault(error))
                return f"{kind} failed", unreadable(error, picture)
            except ModelError as error:
                event("model failed", **about, error=fault(error))
                return "all fail", str(error)
            except Exception as error:  # noqa: BLE001  # whatever a model or a driver raises must end in words
                event("attempt failed", **about, attempt=tried, error=fault(error, hide=picture))
                if tried < ATTEMPTS:
                    self.worker.stopping.wait(self.worker.pace.waits_s[tried - 1])
                    continue
                if isinstance(error, StorageError):
                    return "all fail", str(error)
                return f"{kind} failed", (
                    f"{picture.name}: the search failed {ATTEMPTS} times ({type(error).__name__}). Tell your "
                    "administrator, who finds the reason in the worker's log."
                )
        raise AssertionError("every attempt returns or raises")

    def model(self, asked: Asked) -> _Model:
        """The model that an analysis was asked for with, loaded once.

        Raises:
            ModelError: It cannot be loaded, or is another by now.
        """
        model_key = asked.model_key
        with self._loading:
            if model_key not in self._models:
                started = time.monotonic()
                try:
                    model = self._models[model_key] = self._load(model_key)
                except UnknownName as error:  # no fault of the picture at hand
                    raise ModelError(str(error)) from error
                self.worker.device = model.device
                event("model loaded", model=model_key, device=model.device, seconds=since(started))
            model = self._models[model_key]
        if model.weights_sha256 != asked.weights_sha256:
            raise ModelError(
                f"The analysis was asked for with other weights of {model_key} ({asked.weights_sha256[:12]}) than this "
                f"worker has ({model.weights_sha256[:12]}). Cancel it and ask for a new analysis."
            )
        return model
