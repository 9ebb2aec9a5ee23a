"""The compute side: takes analyses from the queue, searches what they are about with a model, draws heat maps.

One durable workflow a specimen; one step a field, or one a block of a slide's tiles, or four a CT scan. DBOS remembers
the steps that are done and the record keeps their results, so a worker killed at any moment costs the step it was at
and nothing else:

- restarted on the same machine, or on PostgreSQL any other worker, it goes on at the next one;
- a worker that falls silent for 20 s loses what it held to the others; one that was only paused finds, when it wakes,
  that the step is stored already or that the workflow is no longer its own, and lets go;
- SIGTERM or Ctrl-C: it finishes the steps at hand and hands the rest back. A second one ends it at once.

What the wings have in common is told once, in `Worker` and `_Wing`: each wing adds the model it searches with and the
steps that one of its pictures (a field, a slide, a scan) takes.

The log has one line an event and names analyses and pictures by number: names may be those of patients.
"""

from __future__ import annotations

import argparse
import io
import logging
import os
import signal
import socket
import sys
import threading
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, TypeVar

import numpy as np
from dbos import DBOS, DBOSConfig
from sqlalchemy.orm import Session

from db import (
    analyses,
    ct_files,
    ct_searches,
    files,
    heat_maps,
    queue,
    slide_searches,
    slides,
    specimens,
    uploads,
    workers,
)
from db.engine import session_scope
from db.models import Analysis, CtScan, CtStepName, HeatMap, Modality, SpecimenField
from db.models import Slide as SlideRow
from db.settings import Settings
from renalcore.ct.predict import Crops
from renalcore.errors import (
    Conflict,
    DamagedFile,
    InputError,
    ModelError,
    NotFound,
    RenalError,
    StorageError,
    UnknownName,
)
from renalcore.histology.instances import join
from renalcore.histology.tiles import Block, BlockResult
from renalcore.io.image import read_field
from renalcore.io.slide import Slide, open_slide
from renalcore.io.volume import Volume
from renalcore.serving import Detector, Explainer, Models, Searcher, Segmenter, registered
from renalcore.types import Detections

ATTEMPTS = 3  # at one step, before it is given up
POLL_S = 0.5  # how soon a free worker notices new work
MESSAGES = 3  # of single fields or slides, shown one by one when an analysis fails
TIDY_EVERY_S = 24 * 3600.0
STOP_WITHIN_S = 600  # the longest a step may take once we were told to stop

log = logging.getLogger("renalcore.worker")


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
class _Asked:
    """The model that an analysis was asked for with."""

    model_key: str
    weights_sha256: str
    calibration_sha256: str

    @classmethod
    def of(cls, analysis: Analysis) -> _Asked:
        return cls(analysis.model_key, analysis.weights_sha256, analysis.options.get("calibration", ""))


@dataclass(frozen=True, slots=True)
class _Run:
    """One attempt at an analysis: its workflow's id tells it from those before and after."""

    analysis_id: int
    attempt: str

    def is_on(self, analysis: Analysis) -> bool:
        """Whether the analysis still waits for this very attempt: not cancelled, given up or asked for anew."""
        return analysis.state in ("queued", "running") and analysis.workflow_id == self.attempt


_Kind = Literal["field", "slide", "scan"]


@dataclass(slots=True)
class _Picture:
    """What a step is about.

    Attributes:
        kind: Its kind.
        number: Its id, which names it in the log.
        name: What people call it, as soon as it is read from the record; never in the log.
    """

    kind: _Kind
    number: int
    name: str = ""


_Outcome = tuple[str, str]
"""What became of a step, and where it failed a message for the technologist:

`done`; `left` where the picture is withdrawn or has its result; `plan again` where a slide got another scale meanwhile;
`not ours` where the analysis was cancelled or begun anew by someone else; `field failed` and so on, the others go on;
`all fail` where the others would fail in the same way."""

_Value = TypeVar("_Value")
_Model = TypeVar("_Model", Detector, Searcher, Segmenter)


@dataclass(frozen=True, slots=True)
class _SlideFile:
    """The file of a slide, and what the record says of it."""

    name: str
    sha256: str
    um_per_px: float | None

    @classmethod
    def of(cls, session: Session, slide_id: int) -> _SlideFile:
        row = slides.get(session, slide_id)
        return cls(row.name, row.file.sha256, row.um_per_px)

    def open(self, *, verify: bool = False) -> Slide:
        """The slide, open for reading; `verify` reads its file through to check that it is what was uploaded."""
        copies = Settings.from_env().data_folder / "slides"
        slide = open_slide(files.store().local(self.sha256, copies=copies, verify=verify), name=self.name)
        slide.um_per_px = self.um_per_px  # as people were shown it and may have given it
        return slide


class _SlideAtHand:
    """A slide open from its first block to its last: the tiles of one are read while another is stored."""

    def __init__(self) -> None:
        self._slide: Slide | None = None
        self._coming: Generator[BlockResult, None, None] | None = None
        self._order: list[int] = []

    def result(
        self, searcher: Searcher, position: int, planned: Callable[[], tuple[_SlideFile, dict[int, Block]]]
    ) -> BlockResult:
        """What the network says of the block at `position`.

        Args:
            searcher: The network.
            position: The block.
            planned: Reads from the record which file it is and the blocks still to be searched, by position.
        """
        if self._coming is None or self._order[:1] != [position]:
            self.close()
            file, blocks = planned()
            left = {place: block for place, block in blocks.items() if place >= position}
            self._slide = file.open()
            self._coming, self._order = searcher.results(self._slide, list(left.values())), list(left)
        try:
            result = next(self._coming)
        except BaseException:
            self.close()  # a generator that failed gives nothing more
            raise
        self._order.pop(0)
        return result

    def close(self) -> None:
        """Let go of it; the next result opens it again."""
        if self._coming is not None:
            self._coming.close()
        if self._slide is not None:
            self._slide.close()
        self._coming = self._slide = None


class _Told(BaseException):
    """We were told to stop: the workflow stays unfinished, so that it is gone on with."""


class Worker:
    """One worker process: its wings, what it has at hand, and the words for what goes wrong."""

    def __init__(self, name: str, models: Models, pace: Pace) -> None:
        self.name = name
        self.pace = pace
        self.stopping = threading.Event()
        self.device: str | None = None
        self._wings: Mapping[Modality, _Wing[Any]] = {
            "sediment": _Fields(self, models.detector),
            "histology": _Slides(self, models.searcher),
            "ct": _Scans(self, models.segmenter),
        }
        self._load_explainer = models.explainer
        self._explainers: dict[str, Explainer] = {}
        self._loading_explainer = threading.Lock()  # of its own: torch takes seconds, and fields go on meanwhile

    def analyse(self, analysis_id: int) -> None:
        """The workflow: its own code runs again after a kill, so all it does to the world lies in steps."""
        run = _Run(analysis_id, str(DBOS.workflow_id))
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

    def step(self, name: str, does: Callable[[], _Value]) -> _Value:
        """What a step of the workflow gives: of one that was done before a kill, what it gave then."""
        if self.stopping.is_set():
            raise _Told
        return DBOS.run_step({"name": name}, does)

    def begin(self, run: _Run, wing: _Wing[Any]) -> tuple[list[int], str]:
        """The step before the search: load the model, name what is to be searched, or say why there is nothing."""
        with session_scope(read_only=True) as session:
            analysis = analyses.get(session, run.analysis_id)
            if not run.is_on(analysis):
                return [], ""
            asked = _Asked.of(analysis)
        try:
            device = wing.model(asked).device
        except ModelError as error:
            _event("model failed", analysis=run.analysis_id, error=_fault(error))
            return [], str(error)
        with session_scope() as session:
            if not analyses.start(session, run.analysis_id, device=device, worker=self.name):
                return [], ""
            ids = [picture.id for picture in analyses.pending(session, run.analysis_id, wing.table)]
        _event("analysis begun", analysis=run.analysis_id, **{f"{wing.kind}s": len(ids)}, device=device)
        return ids, ""

    def end(self, run: _Run, problems: list[str], trouble: str) -> None:
        """The step after the search: complete, or failed with what went wrong and what to do."""
        with session_scope() as session:
            analysis, specimen = analyses.hold(session, run.analysis_id)
            if not run.is_on(analysis):
                return
            without, total = analyses.lacking(session, run.analysis_id)
            what, done = analyses.pictures(specimen.modality), total - without
            if not without:
                analyses.finish(session, run.analysis_id)
                _event("analysis done", analysis=run.analysis_id, **{what: total})
                return
            analyses.fail(session, run.analysis_id, _told(what, done, total, problems, trouble))
        _event("analysis failed", analysis=run.analysis_id, **{f"{what}_done": done, what: total})

    def draw_heat_map(self, heat_map_id: int) -> None:
        """The workflow of a heat map."""
        self.step("draw", partial(self.draw, heat_map_id, str(DBOS.workflow_id)))

    def draw(self, heat_map_id: int, attempt: str) -> None:
        """The one step of a heat map. It is not tried again: whoever waits for it reads why it failed, and can."""
        picture, started = _Picture("field", 0), time.monotonic()
        try:
            with session_scope(read_only=True) as session:
                asked = session.get_one(HeatMap, heat_map_id)
                if asked.state != "waiting" or asked.workflow_id != attempt:
                    return
                picture = _Picture("field", asked.field_id, asked.field.name)
                analysis, sha256 = asked.analysis, asked.field.file.sha256
                found, one_box = heat_maps.findings(session, asked), asked.finding_id is not None
            explainer = self._explainer(analysis.model_key, analysis.weights_sha256)
            if not one_box:
                class_name = found[0].class_name
                least = explainer.min_score_of(class_name)
                found = [finding for finding in found if finding.score >= least]
                if not found:
                    raise InputError(
                        f"No {class_name} of this field scores {least:.2f}, from which the model reports it."
                    )
            field = read_field(files.store().read(sha256), name=picture.name)
            boxes = np.array([(box.x1, box.y1, box.x2, box.y2) for box in found], np.float32)
            scores = np.array([box.score for box in found], np.float32)
            ids = np.array([explainer.classes.index(box.class_name) for box in found], np.int64)
            png = explainer.draw(field, Detections(boxes, scores, ids, explainer.classes))
            with session_scope() as session:
                if png is None:
                    heat_maps.store_empty(session, heat_map_id)
                else:
                    digest, size = files.store().put(io.BytesIO(png))
                    heat_maps.store(session, heat_map_id, sha256=digest, size=size)
        except Exception as error:  # noqa: BLE001  # whatever a model or a driver raises must end in words
            _event("heat map failed", heat_map=heat_map_id, error=_fault(error, hide=picture))
            if isinstance(error, InputError | NotFound | DamagedFile):
                words = _unreadable(error, picture)
            elif isinstance(error, RenalError):
                words = str(error)
            else:
                words = (
                    f"The map cannot be drawn ({type(error).__name__}). Tell your administrator, who finds the reason "
                    "in the worker's log."
                )
            with session_scope() as session:
                heat_maps.fail(session, heat_map_id, words)
        else:
            _event("heat map done", heat_map=heat_map_id, boxes=len(found), empty=png is None,
                   seconds=round(time.monotonic() - started, 3))  # fmt: skip

    def _explainer(self, model_key: str, weights_sha256: str) -> Explainer:
        with self._loading_explainer:
            if model_key not in self._explainers:
                self._explainers[model_key] = self._load_explainer(model_key)
            explainer = self._explainers[model_key]
        if explainer.weights_sha256 != weights_sha256:
            raise ModelError(
                f"This was found with other weights of {model_key} ({weights_sha256[:12]}) than are installed now "
                f"({explainer.weights_sha256[:12]}), so it cannot be explained."
            )
        return explainer


class _Wing(ABC, Generic[_Model]):
    """What the worker does with the pictures of one modality.

    Attributes:
        kind: What a picture is called.
        table: Where pictures stand in the record.
    """

    kind: ClassVar[_Kind]
    table: ClassVar[Any]

    def __init__(self, worker: Worker, load: Callable[[str], _Model]) -> None:
        self.worker = worker
        self._load: Callable[[str], _Model] = load
        self._models: dict[str, _Model] = {}
        self._loading = threading.Lock()  # while a model is loaded, those of other wings go on

    @abstractmethod
    def search(self, run: _Run, picture_id: int) -> _Outcome:
        """The workflow's part for one picture."""

    def passes(self) -> tuple[Callable[[_Run, int], _Outcome], ...]:
        """What is done to all pictures before the next is done to any."""
        return (self.search,)

    def step(self, name: str, run: _Run, picture_id: int, once: Callable[[_Asked, _Picture], _Outcome]) -> _Outcome:
        """A step of the workflow that is about one picture, see `Worker.step`."""
        return self.worker.step(name, partial(self.tried, run, picture_id, once))

    def tried(self, run: _Run, picture_id: int, once: Callable[[_Asked, _Picture], _Outcome]) -> _Outcome:
        """What `once` returns for a picture that is still to be searched, tried again up to `ATTEMPTS` times."""
        kind, picture = self.kind, _Picture(self.kind, picture_id)
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
                    picture.name, asked = names[picture_id], _Asked.of(analysis)
                return once(asked, picture)
            except (InputError, NotFound, DamagedFile) as error:
                _event(f"{kind} unreadable", **about, error=_fault(error))
                return f"{kind} failed", _unreadable(error, picture)
            except ModelError as error:
                _event("model failed", **about, error=_fault(error))
                return "all fail", str(error)
            except Exception as error:  # noqa: BLE001  # whatever a model or a driver raises must end in words
                _event("attempt failed", **about, attempt=tried, error=_fault(error, hide=picture))
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

    def model(self, asked: _Asked) -> _Model:
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
                _event("model loaded", model=model_key, device=model.device, seconds=_since(started))
            model = self._models[model_key]
        if model.weights_sha256 != asked.weights_sha256:
            raise ModelError(
                f"The analysis was asked for with other weights of {model_key} ({asked.weights_sha256[:12]}) than this "
                f"worker has ({model.weights_sha256[:12]}). Cancel it and ask for a new analysis."
            )
        return model


class _Fields(_Wing[Detector]):
    """Sediment: one step a field."""

    kind = "field"
    table = SpecimenField

    def model(self, asked: _Asked) -> Detector:
        detector = super().model(asked)
        if detector.calibration_sha256 != asked.calibration_sha256:
            raise ModelError(
                f"The scores of {asked.model_key} have been calibrated anew since the analysis was asked for, so they "
                "cannot be compared with its thresholds. Cancel it and ask for a new analysis."
            )
        return detector

    def search(self, run: _Run, field_id: int) -> _Outcome:
        def once(asked: _Asked, picture: _Picture) -> _Outcome:
            with session_scope(read_only=True) as session:
                row = session.get_one(SpecimenField, field_id)
                sha256, um_per_px = row.file.sha256, row.specimen.um_per_px
            detector = self.model(asked)
            field = read_field(files.store().read(sha256), name=picture.name, um_per_px=um_per_px)
            started = time.monotonic()
            detections = detector.predict(field)
            seconds = time.monotonic() - started
            with session_scope() as session:
                stored = analyses.store_field(
                    session, run.analysis_id, field_id, detections=detections, seconds=seconds, worker=self.worker.name
                )
            _event("field done" if stored else "field known", analysis=run.analysis_id, field=field_id,
                   objects=len(detections), seconds=round(seconds, 3))  # fmt: skip
            return "done", ""

        return self.step(f"field {field_id}", run, field_id, once)


class _Slides(_Wing[Searcher]):
    """Histology: one step to plan a slide, one a block of its tiles, one to join what they say."""

    kind = "slide"
    table = SlideRow

    def passes(self) -> tuple[Callable[[_Run, int], _Outcome], ...]:
        return self.plan, self.search  # all slides are planned first, so that progress knows its whole

    def plan(self, run: _Run, slide_id: int) -> _Outcome:
        """As `search`, up to the plan."""
        return self._planned(run, slide_id)[:2]

    def search(self, run: _Run, slide_id: int) -> _Outcome:
        """The blocks of a slide, and what follows from them; once more where its plan was replaced meanwhile."""
        with closing(_SlideAtHand()) as at_hand:
            while True:
                outcome, message, positions = self._planned(run, slide_id)
                for position in positions:
                    once = partial(self._search_block, run, slide_id, position, at_hand)
                    outcome, message = self.step(f"slide {slide_id} block {position}", run, slide_id, once)
                    if outcome != "done":
                        break
                if outcome == "done":
                    once = partial(self._join, run, slide_id)
                    outcome, message = self.step(f"join slide {slide_id}", run, slide_id, once)
                if outcome != "plan again":
                    return outcome, message
                at_hand.close()

    def _planned(self, run: _Run, slide_id: int) -> tuple[str, str, list[int]]:
        """The step that finds the tissue of a slide and cuts it into blocks, unless that is done.

        Returns:
            Its outcome, and the positions of the blocks still to be searched.
        """

        def planned() -> tuple[str, str, list[int]]:
            positions: list[int] = []
            outcome, message = self.tried(run, slide_id, partial(self._find_tissue, run, slide_id, positions))
            return outcome, message, positions

        return self.worker.step(f"plan slide {slide_id}", planned)

    def _find_tissue(
        self, run: _Run, slide_id: int, positions: list[int], asked: _Asked, _picture: _Picture
    ) -> _Outcome:
        while True:
            with session_scope(read_only=True) as session:
                if not slide_searches.is_pending(session, run.analysis_id, slide_id):
                    return "left", ""
                file = _SlideFile.of(session, slide_id)
                if slide_searches.is_planned(session, run.analysis_id, slide_id):
                    pending = slide_searches.pending_blocks(session, run.analysis_id, slide_id)
                    positions[:] = [row.position for row in pending]
                    return "done", ""
            searcher = self.model(asked)
            started = time.monotonic()
            with file.open(verify=True) as slide:
                blocks = searcher.blocks(slide)
            with session_scope() as session:
                stored = slide_searches.plan(session, run.analysis_id, slide_id, blocks)
            _event("slide planned" if stored else "slide known", analysis=run.analysis_id, slide=slide_id,
                   blocks=len(blocks), tiles=sum(len(block.tiles) for block in blocks),
                   seconds=_since(started))  # fmt: skip

    def _search_block(
        self, run: _Run, slide_id: int, position: int, at_hand: _SlideAtHand, asked: _Asked, _picture: _Picture
    ) -> _Outcome:
        def planned() -> tuple[_SlideFile, dict[int, Block]]:
            with session_scope(read_only=True) as session:
                rows = slide_searches.pending_blocks(session, run.analysis_id, slide_id)
                return _SlideFile.of(session, slide_id), {row.position: Block.from_json(row.plan) for row in rows}

        with session_scope(read_only=True) as session:
            if not slide_searches.is_planned(session, run.analysis_id, slide_id):
                return "plan again", ""
            if not slide_searches.is_pending(session, run.analysis_id, slide_id, position):
                return "done", ""  # stored by the worker that was killed before it could say so
        searcher = self.model(asked)
        started = time.monotonic()
        result = at_hand.result(searcher, position, planned)
        seconds = time.monotonic() - started
        with session_scope() as session:
            stored = slide_searches.store_block(session, run.analysis_id, slide_id, position, result, seconds=seconds)
        _event("block done" if stored else "block known", analysis=run.analysis_id, slide=slide_id, block=position,
               tiles=len(result.block.tiles), seconds=round(seconds, 3))  # fmt: skip
        return "done", ""

    def _join(self, run: _Run, slide_id: int, _asked: _Asked, _picture: _Picture) -> _Outcome:
        """The glomeruli of a slide."""
        with session_scope(read_only=True) as session:
            if slide_searches.pending_blocks(session, run.analysis_id, slide_id):
                return "plan again", ""
            started = time.monotonic()
            found = join(slide_searches.results(session, run.analysis_id, slide_id))
        with session_scope() as session:
            if not slide_searches.finish_slide(session, run.analysis_id, slide_id, found, worker=self.worker.name):
                return "plan again", ""
        _event("slide done", analysis=run.analysis_id, slide=slide_id, glomeruli=len(found), seconds=_since(started))
        return "done", ""


class _Scans(_Wing[Segmenter]):
    """CT: one step of the workflow for each of the model's, and one for labels and measures.

    The volume stays at hand from the first to the last, and there is one at a time, whatever the number of specimens:
    a scan of 1,000 slices takes more memory than all else that the worker does.
    """

    kind = "scan"
    table = CtScan

    def __init__(self, worker: Worker, load: Callable[[str], Segmenter]) -> None:
        super().__init__(worker, load)
        self._one_at_a_time = threading.Lock()

    def search(self, run: _Run, scan_id: int) -> _Outcome:
        with self._one_at_a_time:
            read = cache(ct_files.image)
            for name in ct_searches.STEPS:
                once = partial(self._take, run, scan_id, name, read)
                outcome, message = self.step(f"scan {scan_id} {name}", run, scan_id, once)
                if outcome != "done":
                    return outcome, message
            return self.step(f"finish scan {scan_id}", run, scan_id, partial(self._finish, run, scan_id, read))

    def _take(
        self, run: _Run, scan_id: int, name: CtStepName, read: Callable[..., Volume], asked: _Asked, picture: _Picture
    ) -> _Outcome:
        """A step of the model."""
        so_far = _ScanSoFar.of(run, scan_id)
        if name in so_far.seconds:
            return "done", ""  # stored by the worker that was killed before it could say so
        segmenter, volume = self.model(asked), read(so_far.sha256, name=picture.name)
        started = time.monotonic()
        crops = segmenter.steps[name](volume, so_far.crops(before=name))
        seconds = time.monotonic() - started
        with session_scope() as session:
            stored = ct_searches.store_step(session, run.analysis_id, scan_id, name, crops.to_bytes(), seconds=seconds)
        _event("step done" if stored else "step known", analysis=run.analysis_id, scan=scan_id, step=name,
               kidneys=len(crops), seconds=round(seconds, 3))  # fmt: skip
        return "done", ""

    def _finish(
        self, run: _Run, scan_id: int, read: Callable[..., Volume], asked: _Asked, picture: _Picture
    ) -> _Outcome:
        """The labels and measures of a scan."""
        so_far = _ScanSoFar.of(run, scan_id)
        segmenter, volume = self.model(asked), read(so_far.sha256, name=picture.name)
        started = time.monotonic()
        found = segmenter.finish(volume, so_far.crops(), so_far.seconds)
        sha256, size = ct_files.put_labels(found.labels, volume)
        with session_scope() as session:
            labels = specimens.stored_file(session, sha256, size=size, media_type=ct_files.MEDIA_TYPE)
            stored = ct_searches.finish_scan(
                session, run.analysis_id, scan_id, labels.id, found.measures, found.words, found.seconds,
                self.worker.name,
            )  # fmt: skip
        _event("scan done" if stored else "scan known", analysis=run.analysis_id, scan=scan_id,
               kidneys=len(found.measures.kidneys), lesions=len(found.measures.lesions),
               seconds=_since(started))  # fmt: skip
        return "done", ""


@dataclass(frozen=True, slots=True)
class _ScanSoFar:
    """Where a scan lies, and what was said of it so far.

    Attributes:
        sha256: Digest of its volume in the file store.
        seconds: Of the steps that are stored, by their names in their order.
        content: What the last of them gave.
    """

    sha256: str
    seconds: dict[str, float]
    content: bytes | None

    @classmethod
    def of(cls, run: _Run, scan_id: int) -> _ScanSoFar:
        with session_scope(read_only=True) as session:
            rows = ct_searches.stored_steps(session, run.analysis_id, scan_id)
            sha256 = session.get_one(CtScan, scan_id).image.sha256
        return cls(sha256, {row.name: row.seconds for row in rows}, rows[-1].content if rows else None)

    def crops(self, *, before: CtStepName | None = None) -> Crops:
        """What a step goes on with, or where none is named what there is after all of them.

        Raises:
            Conflict: What a step gave is not in the record, though the queue takes it for done.
        """
        names = list(ct_searches.STEPS)
        if list(self.seconds) != (names if before is None else names[: names.index(before)]):
            raise Conflict(f"The record has {list(self.seconds)} of the scan, and the queue takes more for done.")
        return Crops((), ()) if self.content is None else Crops.from_bytes(self.content)


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
    _event("worker ready", worker=worker.name, concurrency=concurrency)
    ended = threading.Event()
    duties = threading.Thread(target=_keep_duties, args=(worker, host, pid, ended), name="duties", daemon=True)
    duties.start()
    threading.Thread(target=_tidy_daily, args=(worker.stopping,), name="tidying", daemon=True).start()
    while not worker.stopping.wait(1.0):
        if orphaned():
            _event("parent gone", parent=parent)
            worker.stopping.set()
    DBOS.destroy(workflow_completion_timeout_sec=STOP_WITHIN_S)
    ended.set()
    duties.join()
    queue.hand_back(worker.name)
    with session_scope() as session:
        workers.stopped(session, worker.name)
    _event("worker stopped", worker=worker.name)


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


def _unreadable(error: InputError | NotFound | DamagedFile, picture: _Picture) -> str:
    """What a technologist reads of a picture that cannot be searched."""
    if isinstance(error, InputError):
        return str(error)
    what = "picture" if picture.kind == "field" else "file"
    happened = "is missing from" if isinstance(error, NotFound) else "was damaged or altered in"
    return (
        f"{picture.name}: its {what} {happened} the file store. Ask IT to restore it, or withdraw the {picture.kind}."
    )


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
                for left in queue.take_over(partial(_at_work, host, worker.pace.silent_after_s)):
                    _event("given up" if left.given_up else "taken over",
                           **{left.task.work.name: left.task.record_id}, from_worker=left.from_worker)  # fmt: skip
                for task in queue.mend():
                    _event("put back into the queue", **{task.work.name: task.record_id})
        except Exception as error:  # noqa: BLE001  # a database that is away for a while must not end the worker
            _event("duties failed", error=_fault(error))
        if ended.wait(worker.pace.beat_s):
            return


def _tidy_daily(stopping: threading.Event) -> None:
    """At the start and once a day: remove what uploads that were killed and workflows long ended have left behind."""
    chores: dict[str, Callable[[], int]] = {
        "abandoned files removed": lambda: files.store().sweep(),
        "abandoned uploads removed": _sweep_uploads,
        "old workflows forgotten": queue.prune,
    }
    while True:
        for done, chore in chores.items():
            try:
                number = chore()
            except Exception as error:  # noqa: BLE001  # tomorrow is another day
                _event("tidying failed", error=_fault(error))
                continue
            if number:
                _event(done, number=number)
        if stopping.wait(TIDY_EVERY_S):
            return


def _sweep_uploads() -> int:
    with session_scope() as session:
        return uploads.sweep(session)


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


def _event(what: str, **facts: object) -> None:
    log.info("%s%s", what, "".join(f" {name}={value}" for name, value in facts.items()))


def _fault(error: BaseException, *, hide: _Picture | None = None) -> str:
    """An error on one line: its kind, its words and its place, without the name of the picture it is about."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    # Our own messages are made for the technologist and name files; the kind and the place say enough here.
    words = "" if isinstance(error, RenalError) else " ".join(str(error).split())[:300]
    if hide is not None and hide.name:
        words = words.replace(hide.name, f"({hide.kind})")
    return f"{type(error).__name__}({words}){place}"


def _since(started: float) -> float:
    return round(time.monotonic() - started, 3)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, got {text}")
    return value


if __name__ == "__main__":
    sys.exit(main())
