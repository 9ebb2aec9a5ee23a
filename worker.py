"""The compute side: takes analyses from the queue, searches their fields or slides with a model, draws heat maps.

One durable workflow a specimen; one step a field, or one a block of a slide's tiles. DBOS remembers the steps that are
done and the record keeps their results, so a worker killed at any moment costs the field or block it was at and
nothing else:

- restarted on the same machine, or on PostgreSQL any other worker, it goes on at the next one;
- a worker that falls silent for 20 s loses what it held to the others; one that was only paused finds, when it wakes,
  that the field or block is stored already or that the workflow is no longer its own, and lets go;
- SIGTERM or Ctrl-C: it finishes the fields and blocks at hand and hands the rest back. A second one ends it at once.

The log has one line an event and names analyses, fields and slides by number: names may be those of patients.
"""

from __future__ import annotations

import argparse
import functools
import io
import logging
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Literal, TypeVar

import numpy as np
from dbos import DBOS, DBOSConfig
from sqlalchemy.orm import Session

from db import analyses, files, heat_maps, queue, slide_searches, slides, uploads, workers
from db.engine import session_scope
from db.models import Analysis, HeatMap, SpecimenField
from db.settings import Settings
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
from renalcore.types import Detections, Field

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
class Detector:
    """A loaded model of fields, as far as the worker cares.

    Attributes:
        predict: Finds every object in one field, in px of that field; called from several threads.
        device: What runs it, in words.
        weights_sha256: Digest of the weights it was loaded with.
        calibration_sha256: Digest of what makes its scores probabilities; empty where they are the network's own.
    """

    predict: Callable[[Field], Detections]
    device: str
    weights_sha256: str
    calibration_sha256: str = ""


DetectorFor = Callable[[str], Detector]
"""Loads the model of a key. Called once for each key and worker; raises ModelError or UnknownName where it cannot."""


@dataclass(frozen=True, slots=True)
class Searcher:
    """A loaded model of slides, as far as the worker cares.

    Attributes:
        blocks: How a slide is searched; one without tissue has one block without tiles.
        results: What the network says of some blocks of a slide, one after the other. It may read ahead; nothing
            reads from the slide once the generator is closed. Called from several threads.
        device: What runs it, in words.
        weights_sha256: Digest of the weights it was loaded with.
    """

    blocks: Callable[[Slide], Sequence[Block]]
    results: Callable[[Slide, Sequence[Block]], Generator[BlockResult, None, None]]
    device: str
    weights_sha256: str


SearcherFor = Callable[[str], Searcher]
"""As `DetectorFor`."""


@dataclass(frozen=True, slots=True)
class Explainer:
    """What draws heat maps with a model, as far as the worker cares.

    Attributes:
        draw: Where the evidence for some boxes of one class lies: a PNG as large as the field, or None where there is
            no heat at all; called from several threads.
        classes: The classes of the model, in its order.
        min_score_of: The lowest score of a class that the model reports.
        weights_sha256: Digest of the weights it was loaded with.
    """

    draw: Callable[[Field, Detections], bytes | None]
    classes: tuple[str, ...]
    min_score_of: Callable[[str], float]
    weights_sha256: str


ExplainerFor = Callable[[str], Explainer]
"""As `DetectorFor`; raises ModelError too where the model has no heat maps."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """The model that an analysis was asked for with."""

    model_key: str
    weights_sha256: str
    calibration_sha256: str

    @classmethod
    def of(cls, analysis: Analysis) -> _Asked:
        return cls(analysis.model_key, analysis.weights_sha256, analysis.options.get("calibration", ""))


_Outcome = tuple[str, str]
"""What became of a step, and where it failed a message for the technologist."""

_Model = TypeVar("_Model", Detector, Searcher)


class _Loaded(Generic[_Model]):
    """The models of one kind that a worker holds. While one is loaded, those of other kinds go on."""

    def __init__(self, load: Callable[[str], _Model]) -> None:
        self.load: Callable[[str], _Model] = load
        self.models: dict[str, _Model] = {}
        self.lock = threading.Lock()


@dataclass(slots=True)
class _Picture:
    """What a step is about.

    Attributes:
        kind: Its kind.
        number: Its id, which names it in the log.
        name: What people call it, as soon as it is read from the record; never in the log.
    """

    kind: Literal["field", "slide"]
    number: int
    name: str = ""


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
    """One worker process: its models, what it has at hand, and the words for what goes wrong."""

    def __init__(
        self, name: str, detector_for: DetectorFor, searcher_for: SearcherFor, explainer_for: ExplainerFor, pace: Pace
    ) -> None:
        self.name = name
        self.pace = pace
        self.stopping = threading.Event()
        self.device: str | None = None
        self._detectors = _Loaded(detector_for)
        self._searchers = _Loaded(searcher_for)
        self._explainer_for = explainer_for
        self._explainers: dict[str, Explainer] = {}
        self._loading_explainer = threading.Lock()  # of its own: torch takes seconds, and fields go on meanwhile

    def analyse(self, analysis_id: int) -> None:
        """The workflow: its own code runs again after a kill, so all it does to the world lies in steps."""
        attempt = str(DBOS.workflow_id)
        with session_scope(read_only=True) as session:
            modality = analyses.get(session, analysis_id).specimen.modality  # it never changes, so this is no step
        search = self._search_fields if modality == "sediment" else self._search_slides
        told = search(analysis_id, attempt)
        if told is None:
            return
        if self.stopping.is_set():
            raise _Told
        DBOS.run_step({"name": "end"}, self.end, analysis_id, attempt, *told)

    def _search_fields(self, analysis_id: int, attempt: str) -> tuple[list[str], str] | None:
        """The workflow's part between begin and end: one step a field.

        Returns:
            What is wrong with single fields and with all; None where the analysis is no longer ours.
        """
        field_ids, trouble = DBOS.run_step({"name": "begin"}, self.begin, analysis_id, attempt)
        problems: list[str] = []
        for field_id in field_ids:
            if self.stopping.is_set():
                raise _Told
            outcome, message = DBOS.run_step(
                {"name": f"field {field_id}"}, self.search_field, analysis_id, field_id, attempt
            )
            if outcome == "not ours":
                return None
            if outcome == "field failed":
                problems.append(message)
            elif outcome == "all fail":
                trouble = message
                break
        return problems, trouble

    def _search_slides(self, analysis_id: int, attempt: str) -> tuple[list[str], str] | None:
        """As `_search_fields`: one step to plan a slide, one a block of its tiles, one to join what they say.

        All slides are planned first, so that progress knows its whole.
        """
        slide_ids, trouble = DBOS.run_step({"name": "begin"}, self.begin, analysis_id, attempt)
        problems: dict[int, str] = {}
        for search in (self._plan, self._search_slide):
            for slide_id in slide_ids:
                if slide_id in problems:
                    continue
                outcome, message = search(analysis_id, slide_id, attempt)
                if outcome == "not ours":
                    return None
                if outcome == "slide failed":
                    problems[slide_id] = message
                elif outcome == "all fail":
                    return list(problems.values()), message
        return list(problems.values()), trouble

    def _plan(self, analysis_id: int, slide_id: int, attempt: str) -> _Outcome:
        outcome, message, _ = self._planned(analysis_id, slide_id, attempt)
        return outcome, message

    def _planned(self, analysis_id: int, slide_id: int, attempt: str) -> tuple[str, str, list[int]]:
        if self.stopping.is_set():
            raise _Told
        return DBOS.run_step({"name": f"plan slide {slide_id}"}, self.plan_slide, analysis_id, slide_id, attempt)

    def _search_slide(self, analysis_id: int, slide_id: int, attempt: str) -> _Outcome:
        """The blocks of a slide, and what follows from them; once more where its plan was replaced meanwhile."""
        at_hand = _SlideAtHand()
        try:
            while True:
                outcome, message, positions = self._planned(analysis_id, slide_id, attempt)
                for position in positions:
                    if self.stopping.is_set():
                        raise _Told
                    outcome, message = DBOS.run_step(
                        {"name": f"slide {slide_id} block {position}"},
                        self.search_block, analysis_id, slide_id, position, attempt, at_hand,
                    )  # fmt: skip
                    if outcome != "done":
                        break
                if outcome == "done":
                    outcome, message = DBOS.run_step(
                        {"name": f"join slide {slide_id}"}, self.join_slide, analysis_id, slide_id, attempt
                    )
                if outcome != "plan again":
                    return outcome, message
                at_hand.close()
        finally:
            at_hand.close()

    def begin(self, analysis_id: int, attempt: str) -> tuple[list[int], str]:
        """The step before the search: load the model, name what is to be searched, or say why there is nothing."""
        with session_scope(read_only=True) as session:
            analysis = analyses.get(session, analysis_id)
            if not _is_ours(analysis, attempt):
                return [], ""
            asked, modality = _Asked.of(analysis), analysis.specimen.modality
        try:
            device = (self._detector(asked) if modality == "sediment" else self._searcher(asked)).device
        except ModelError as error:
            _event("model failed", analysis=analysis_id, error=_fault(error))
            return [], str(error)
        with session_scope() as session:
            if not analyses.start(session, analysis_id, device=device, worker=self.name):
                return [], ""
            pending = analyses.pending_fields if modality == "sediment" else slide_searches.pending_slides
            ids = [picture.id for picture in pending(session, analysis_id)]
        _event("analysis begun", analysis=analysis_id, **{analyses.pictures(modality): len(ids)}, device=device)
        return ids, ""

    def search_field(self, analysis_id: int, field_id: int, attempt: str) -> _Outcome:
        """The step of one field.

        Returns:
            `done`, `not ours` (cancelled, or begun anew by someone else), or how it failed, see `_tried`.
        """
        picture = _Picture("field", field_id)

        def once() -> _Outcome:
            with session_scope(read_only=True) as session:
                analysis = analyses.get(session, analysis_id)
                if not _is_ours(analysis, attempt):
                    return "not ours", ""
                if field_id not in {field.id for field in analyses.pending_fields(session, analysis_id)}:
                    return "done", ""  # stored by the worker that was killed before it could say so
                row = session.get_one(SpecimenField, field_id)
                picture.name, sha256, um_per_px = row.name, row.file.sha256, row.specimen.um_per_px
            detector = self._detector(_Asked.of(analysis))
            field = read_field(files.store().read(sha256), name=picture.name, um_per_px=um_per_px)
            started = time.monotonic()
            detections = detector.predict(field)
            seconds = time.monotonic() - started
            with session_scope() as session:
                stored = analyses.store_field(
                    session, analysis_id, field_id, detections=detections, seconds=seconds, worker=self.name
                )
            _event("field done" if stored else "field known", analysis=analysis_id, field=field_id,
                   objects=len(detections), seconds=round(seconds, 3))  # fmt: skip
            return "done", ""

        return self._tried(analysis_id, picture, once)

    def plan_slide(self, analysis_id: int, slide_id: int, attempt: str) -> tuple[str, str, list[int]]:
        """The step that finds the tissue of a slide and cuts it into blocks, unless that is done.

        Returns:
            As `search_field`, or `left` where the slide is withdrawn or has its result; and the positions of the
            blocks still to be searched.
        """
        picture = _Picture("slide", slide_id)
        positions: list[int] = []

        def once() -> _Outcome:
            while True:
                with session_scope(read_only=True) as session:
                    analysis = analyses.get(session, analysis_id)
                    if not _is_ours(analysis, attempt):
                        return "not ours", ""
                    if not slide_searches.is_pending(session, analysis_id, slide_id):
                        return "left", ""
                    file = _SlideFile.of(session, slide_id)
                    picture.name = file.name
                    if slide_searches.is_planned(session, analysis_id, slide_id):
                        pending = slide_searches.pending_blocks(session, analysis_id, slide_id)
                        positions[:] = [row.position for row in pending]
                        return "done", ""
                searcher = self._searcher(_Asked.of(analysis))
                started = time.monotonic()
                with file.open(verify=True) as slide:
                    blocks = searcher.blocks(slide)
                with session_scope() as session:
                    stored = slide_searches.plan(session, analysis_id, slide_id, blocks)
                _event("slide planned" if stored else "slide known", analysis=analysis_id, slide=slide_id,
                       blocks=len(blocks), tiles=sum(len(block.tiles) for block in blocks),
                       seconds=round(time.monotonic() - started, 3))  # fmt: skip

        outcome, message = self._tried(analysis_id, picture, once)
        return outcome, message, positions

    def search_block(
        self, analysis_id: int, slide_id: int, position: int, attempt: str, at_hand: _SlideAtHand
    ) -> _Outcome:
        """The step of one block of a slide.

        Returns:
            As `plan_slide`, or `plan again` where the slide got another scale meanwhile.
        """
        picture = _Picture("slide", slide_id)

        def planned() -> tuple[_SlideFile, dict[int, Block]]:
            with session_scope(read_only=True) as session:
                rows = slide_searches.pending_blocks(session, analysis_id, slide_id)
                return _SlideFile.of(session, slide_id), {row.position: Block.from_json(row.plan) for row in rows}

        def once() -> _Outcome:
            with session_scope(read_only=True) as session:
                analysis = analyses.get(session, analysis_id)
                if not _is_ours(analysis, attempt):
                    return "not ours", ""
                picture.name = slides.get(session, slide_id).name
                if not slide_searches.is_pending(session, analysis_id, slide_id):
                    return "left", ""
                if not slide_searches.is_planned(session, analysis_id, slide_id):
                    return "plan again", ""
                if not slide_searches.is_pending(session, analysis_id, slide_id, position):
                    return "done", ""  # stored by the worker that was killed before it could say so
            searcher = self._searcher(_Asked.of(analysis))
            started = time.monotonic()
            result = at_hand.result(searcher, position, planned)
            seconds = time.monotonic() - started
            with session_scope() as session:
                stored = slide_searches.store_block(session, analysis_id, slide_id, position, result, seconds=seconds)
            _event("block done" if stored else "block known", analysis=analysis_id, slide=slide_id, block=position,
                   tiles=len(result.block.tiles), seconds=round(seconds, 3))  # fmt: skip
            return "done", ""

        return self._tried(analysis_id, picture, once)

    def join_slide(self, analysis_id: int, slide_id: int, attempt: str) -> _Outcome:
        """The step after the blocks of a slide: its glomeruli. Returns as `search_block`."""
        picture = _Picture("slide", slide_id)

        def once() -> _Outcome:
            with session_scope(read_only=True) as session:
                if not _is_ours(analyses.get(session, analysis_id), attempt):
                    return "not ours", ""
                picture.name = slides.get(session, slide_id).name
                if not slide_searches.is_pending(session, analysis_id, slide_id):
                    return "left", ""
                if slide_searches.pending_blocks(session, analysis_id, slide_id):
                    return "plan again", ""
                started = time.monotonic()
                found = join(slide_searches.results(session, analysis_id, slide_id))
            with session_scope() as session:
                if not slide_searches.finish_slide(session, analysis_id, slide_id, found, worker=self.name):
                    return "plan again", ""
            _event("slide done", analysis=analysis_id, slide=slide_id, glomeruli=len(found),
                   seconds=round(time.monotonic() - started, 3))  # fmt: skip
            return "done", ""

        return self._tried(analysis_id, picture, once)

    def _tried(self, analysis_id: int, picture: _Picture, once: Callable[[], _Outcome]) -> _Outcome:
        """What `once` returns, tried again up to `ATTEMPTS` times.

        Returns:
            Where it failed: `field failed` or `slide failed`, the others go on; or `all fail`, the others would fail
            in the same way.
        """
        kind = picture.kind
        about = {"analysis": analysis_id, kind: picture.number}
        for tried in range(1, ATTEMPTS + 1):
            try:
                return once()
            except (InputError, NotFound, DamagedFile) as error:
                _event(f"{kind} unreadable", **about, error=_fault(error))
                return f"{kind} failed", _unreadable(error, picture)
            except ModelError as error:
                _event("model failed", **about, error=_fault(error))
                return "all fail", str(error)
            except Exception as error:  # noqa: BLE001  # whatever a model or a driver raises must end in words
                _event("attempt failed", **about, attempt=tried, error=_fault(error, hide=picture))
                if tried < ATTEMPTS:
                    self.stopping.wait(self.pace.waits_s[tried - 1])
                    continue
                if isinstance(error, StorageError):
                    return "all fail", str(error)
                return f"{kind} failed", (
                    f"{picture.name}: the search failed {ATTEMPTS} times ({type(error).__name__}). Tell your "
                    "administrator, who finds the reason in the worker's log."
                )
        raise AssertionError("every attempt returns or raises")

    def end(self, analysis_id: int, attempt: str, problems: list[str], trouble: str) -> None:
        """The step after the search: complete, or failed with what went wrong and what to do."""
        with session_scope() as session:
            analysis, specimen = analyses.hold(session, analysis_id)
            if not _is_ours(analysis, attempt):
                return
            without, total = analyses.lacking(session, analysis_id)
            what, done = analyses.pictures(specimen.modality), total - without
            if not without:
                analyses.finish(session, analysis_id)
                _event("analysis done", analysis=analysis_id, **{what: total})
                return
            analyses.fail(session, analysis_id, _told(what, done, total, problems, trouble))
        _event("analysis failed", analysis=analysis_id, **{f"{what}_done": done, what: total})

    def draw_heat_map(self, heat_map_id: int) -> None:
        """The workflow of a heat map."""
        if self.stopping.is_set():
            raise _Told
        DBOS.run_step({"name": "draw"}, self.draw, heat_map_id, str(DBOS.workflow_id))

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
                self._explainers[model_key] = self._explainer_for(model_key)
            explainer = self._explainers[model_key]
        if explainer.weights_sha256 != weights_sha256:
            raise ModelError(
                f"This was found with other weights of {model_key} ({weights_sha256[:12]}) than are installed now "
                f"({explainer.weights_sha256[:12]}), so it cannot be explained."
            )
        return explainer

    def _detector(self, asked: _Asked) -> Detector:
        detector = self._model(self._detectors, asked)
        if detector.calibration_sha256 != asked.calibration_sha256:
            raise ModelError(
                f"The scores of {asked.model_key} have been calibrated anew since the analysis was asked for, so they "
                "cannot be compared with its thresholds. Cancel it and ask for a new analysis."
            )
        return detector

    def _searcher(self, asked: _Asked) -> Searcher:
        return self._model(self._searchers, asked)

    def _model(self, loaded: _Loaded[_Model], asked: _Asked) -> _Model:
        model_key = asked.model_key
        with loaded.lock:
            if model_key not in loaded.models:
                started = time.monotonic()
                try:
                    model = loaded.models[model_key] = loaded.load(model_key)
                except UnknownName as error:  # no fault of the picture at hand
                    raise ModelError(str(error)) from error
                self.device = model.device
                _event(
                    "model loaded", model=model_key, device=self.device, seconds=round(time.monotonic() - started, 1)
                )
            model = loaded.models[model_key]
        if model.weights_sha256 != asked.weights_sha256:
            raise ModelError(
                f"The analysis was asked for with other weights of {model_key} ({asked.weights_sha256[:12]}) than this "
                f"worker has ({model.weights_sha256[:12]}). Cancel it and ask for a new analysis."
            )
        return model


def run(
    *,
    detector_for: DetectorFor | None = None,
    searcher_for: SearcherFor | None = None,
    explainer_for: ExplainerFor | None = None,
    name: str | None = None,
    concurrency: int = 2,
    parent: int | None = None,
    pace: Pace | None = None,
) -> None:
    """Work until told to stop.

    Args:
        detector_for: Gives the detector of a model's key; by default the registry's.
        searcher_for: Gives the searcher of a model's key; by default the registry's.
        explainer_for: Gives what draws heat maps with the model of a key; by default the registry's.
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
        detector_for or functools.partial(_registered_detector, settings.device),
        searcher_for or functools.partial(_registered_searcher, settings.device),
        explainer_for or functools.partial(_registered_explainer, settings.device),
        pace or Pace(),
    )
    _listen_to_signals(worker.stopping)
    orphaned = _watch(parent) if parent is not None else lambda: False

    with session_scope() as session:
        for node in workers.alive(session):
            if node.name == worker.name and not (node.host == host and (node.pid == pid or not _is_running(node.pid))):
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
        description="Take analyses from the queue and search their fields and slides. Several workers share one "
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


def _is_ours(analysis: Analysis, attempt: str) -> bool:
    """Whether the analysis still waits for this very workflow, not cancelled, given up or asked for anew."""
    return analysis.state in ("queued", "running") and analysis.workflow_id == attempt


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


def _registered_detector(device: str, model_key: str) -> Detector:
    from renalcore.sediment.predict import SedimentDetector

    loaded = SedimentDetector.load(model_key, device=device)
    return Detector(loaded.predict, str(loaded.device), loaded.card.sha256, loaded.card.calibration_sha256)


def _registered_searcher(device: str, model_key: str) -> Searcher:
    from renalcore.histology.predict import GlomerulusModel

    # The INT8 form is one of the models of fields; the same CPU runs those of slides as they are.
    loaded = GlomerulusModel.load(model_key, device="openvino" if device == "openvino-int8" else device)
    return Searcher(loaded.blocks, loaded.results, str(loaded.device), loaded.card.sha256)


def _registered_explainer(device: str, model_key: str) -> Explainer:
    from renalcore.sediment import explain

    # Where OpenVINO searches, torch explains: OpenVINO computes no gradients.
    loaded = explain.Explainer.load(model_key, device="auto" if device.startswith("openvino") else device)

    def draw(field: Field, found: Detections) -> bytes | None:
        (of_class,) = loaded.explain(field, found).classes
        return explain.png(of_class.heat) if of_class.heat.any() else None

    return Explainer(draw, loaded.card.classes, loaded.card.min_score_of, loaded.card.sha256)


def _keep_duties(worker: Worker, host: str, pid: int, ended: threading.Event) -> None:
    """Report for duty until the very end; until told to stop, also look after what others left undone."""
    while True:
        try:
            with session_scope() as session:
                workers.beat(session, worker.name, host=host, pid=pid, device=worker.device)
            if not worker.stopping.is_set():
                for left in queue.take_over(functools.partial(_at_work, host, worker.pace.silent_after_s)):
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
    """Names of the workers that are at work."""
    with session_scope(read_only=True) as session:
        nodes = workers.alive(session, silent_after_s)
        # A SQLite file has all its workers on one machine: there a dead process is known to be dead at once.
        one_machine = session.get_bind().dialect.name == "sqlite"
    return {node.name for node in nodes if not (one_machine and node.host == host and not _is_running(node.pid))}


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it runs, under another user
        return True
    return True


def _watch(parent: int) -> Callable[[], bool]:
    """Tells whether the parent has ended. A child asks for its parent, which no later process can imitate."""
    if os.getppid() == parent:
        return lambda: os.getppid() != parent
    return lambda: not _is_running(parent)


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


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, got {text}")
    return value


if __name__ == "__main__":
    sys.exit(main())
