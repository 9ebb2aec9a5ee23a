"""A laboratory for one test: its database, its file store and the worker processes that work for it."""

from __future__ import annotations

import io
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image
from sqlalchemy import func, select

from db import analyses, queue, slides, specimens
from db.engine import session_scope
from db.files import FileStore
from db.models import (
    Analysis,
    CtStep,
    FieldResult,
    Finding,
    GlomerulusFinding,
    Slide,
    SlideBlock,
    SlideResult,
    SpecimenField,
    StoredFile,
    User,
)
from db.specimens import UploadedField
from tests import fake_worker
from tests.db.records import a_ct_study, a_specimen_of_slides
from tests.renalcore.histology import discs

ROOT = Path(__file__).resolve().parent.parent.parent
WEIGHTS_SHA256 = "f" * 64  # those of the fake
SLIDE_PX = 1200, 2000
DISCS: tuple[discs.Disc, ...] = ((300, 300, 100), (900, 370, 90), (400, 1500, 110))


# What a worker imports takes seconds, and a test of it milliseconds: one process imports it, workers are forks of that.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.fake_worker"])


class Fork:
    """A process of its own with the fake model; the words are those of `subprocess.Popen`."""

    def __init__(self, *arguments: str, folder: Path, log: Path) -> None:
        # The environment is that of this moment; the process that forks has the one of the first test.
        self._process = FORKS.Process(target=_work, args=(arguments, folder, log, dict(os.environ)), daemon=True)
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int | None:
        self._process.join(timeout)
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:  # the number of a process that has ended may be another's
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _work(arguments: tuple[str, ...], folder: Path, log: Path, environ: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environ)
    os.chdir(folder)
    with log.open("wb") as output:
        os.dup2(output.fileno(), sys.stdout.fileno())
        os.dup2(output.fileno(), sys.stderr.fileno())
    fake_worker.run(arguments)


@dataclass
class Laboratory:
    """A database, a file store, and the worker processes of one test."""

    folder: Path
    user: User
    processes: list[subprocess.Popen[bytes] | Fork] = field(default_factory=list)
    _serial: int = 0

    @property
    def calls_file(self) -> Path:
        return self.folder / "calls.txt"

    def calls(self) -> Counter[str]:
        """How often a model was asked for each picture, by name."""
        lines = self.calls_file.read_text().splitlines() if self.calls_file.exists() else []
        return Counter(line.split(" ", 1)[1] for line in lines)

    def log(self) -> str:
        return "".join(path.read_text() for path in sorted(self.folder.glob("worker-*.log")))

    def start(self, *arguments: str) -> Fork:
        """A worker process with the fake model."""
        process = Fork("--calls", str(self.calls_file), *arguments, folder=self.folder, log=self._log_file())
        self.processes.append(process)
        return process

    def start_program(self, *arguments: str) -> subprocess.Popen[bytes]:
        """A Python program, stopped at the end of the test."""
        with self._log_file().open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=self.folder,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self.processes.append(process)
        return process

    def _log_file(self) -> Path:
        return self.folder / f"worker-{len(self.processes)}.log"

    def specimen(self, fields: int, *, broken: tuple[int, ...] = (), enqueue: bool = True) -> int:
        """A specimen whose pictures are `S-1 field 0.png` and so on; returns the id of its analysis."""
        store, uploads, rng = FileStore(os.environ["RENAL_FILES"]), [], np.random.default_rng(self._serial)
        for index in range(fields):
            stream = io.BytesIO()
            Image.fromarray(rng.integers(0, 255, (64, 64, 3), np.uint8)).save(stream, "PNG")
            content = stream.getvalue()
            sha256, size = store.put(io.BytesIO(content[:500] if index in broken else content))
            uploads.append(UploadedField(f"S-{self._serial + 1} field {index}.png", sha256, size, "image/png", 64, 64))
        analysis_id = self.register(uploads, model_key="fake", weights_sha256=WEIGHTS_SHA256)
        if enqueue:
            queue.enqueue(analysis_id)
        return analysis_id

    def register(
        self, uploads: list[UploadedField], *, model_key: str, weights_sha256: str, calibration: str = ""
    ) -> int:
        """A specimen of these pictures and an analysis of it, not yet in the queue; returns the analysis's id."""
        self._serial += 1
        with session_scope() as session:
            specimen = specimens.register(
                session,
                identifier=f"P-{self._serial}",
                patient_name="Ada Example",
                accession=f"S-{self._serial}",
                objective="40x",
                scale_kind="unknown",
                um_per_px=None,
                collected_at=None,
                uploads=uploads,
                by=self.user,
            )
            return analyses.request(
                session,
                specimen,
                model_key=model_key,
                weights_sha256=weights_sha256,
                code_version="test",
                options={"min_score": 0.1, "calibration": calibration},
                by=self.user,
            ).id

    def kidney(self, *names: str, tissue: bool = True) -> int:
        """A specimen of drawn slides of these names, each with `DISCS` at 0.5 um; returns the id of its analysis."""
        store, files = FileStore(os.environ["RENAL_FILES"]), {}
        width, height = SLIDE_PX
        for name in names:
            path = self.folder / f"{name}.tif"
            discs.drawn(path, width, height, DISCS if tissue else (), um_per_px=None, glass_px=0 if tissue else width)
            with path.open("ab") as stream:
                stream.write(name.encode())  # each a file of its own
            with path.open("rb") as stream:
                files[name] = store.put(stream)[0]
        with session_scope() as session:
            specimen = a_specimen_of_slides(
                session, self.user, names, files=files, accession=f"K-{names}", patient_name="Ada Example",
                width_px=width, height_px=height,
            )  # fmt: skip
            analysis_id = analyses.request(
                session, specimen, model_key="fake", weights_sha256=WEIGHTS_SHA256, code_version="test", options={},
                by=self.user,
            ).id  # fmt: skip
        queue.enqueue(analysis_id)
        return analysis_id

    def study(self, **scans: bytes) -> int:
        """A CT study of NIfTI files by the names of the scans; returns the id of its analysis."""
        store = FileStore(os.environ["RENAL_FILES"])
        images = {name: store.put(io.BytesIO(content))[0] for name, content in scans.items()}
        self._serial += 1
        with session_scope() as session:
            study = a_ct_study(session, self.user, *scans, accession=f"C-{self._serial}", images=images)
            analysis_id = analyses.request(
                session, study, model_key="fake", weights_sha256=WEIGHTS_SHA256, code_version="test", options={},
                by=self.user,
            ).id  # fmt: skip
        queue.enqueue(analysis_id)
        return analysis_id

    def steps_done(self) -> list[str]:
        """The steps of scans that are stored, in the order in which they were."""
        with session_scope(read_only=True) as session:
            return list(session.scalars(select(CtStep.name).order_by(CtStep.id)))

    def blocks_done(self) -> int:
        """Blocks of slides that have a result."""
        with session_scope(read_only=True) as session:
            return session.scalar(select(func.count(SlideBlock.finished_at))) or 0

    def slides_of(self, analysis_id: int) -> list[Slide]:
        with session_scope(read_only=True) as session:
            return slides.of_specimen(session, analyses.get(session, analysis_id).specimen_id)

    def stored(self, slide: Slide) -> Path:
        """The file of a slide in the store."""
        with session_scope(read_only=True) as session:
            sha256 = session.get_one(StoredFile, slide.file_id).sha256
        return self.folder / "files" / sha256[:2] / sha256

    def glomeruli(self, analysis_id: int) -> dict[str, int]:
        """How many were found on each slide that has a result."""
        with session_scope(read_only=True) as session:
            counted = (
                select(Slide.name, func.count(GlomerulusFinding.id).label("number"))
                .join(SlideResult, SlideResult.slide_id == Slide.id)
                .outerjoin(GlomerulusFinding, GlomerulusFinding.slide_result_id == SlideResult.id)
                .where(SlideResult.analysis_id == analysis_id)
                .group_by(Slide.name)
            )
            return {row.name: row.number for row in session.execute(counted)}

    def analysis(self, analysis_id: int) -> Analysis:
        with session_scope(read_only=True) as session:
            return analyses.get(session, analysis_id)

    def done(self, *analysis_ids: int) -> int:
        """Fields of these analyses (of all, where none is named) that have a result."""
        with session_scope(read_only=True) as session:
            chosen = FieldResult.analysis_id.in_(analysis_ids) if analysis_ids else FieldResult.id.is_not(None)
            return session.scalar(select(func.count()).where(chosen)) or 0

    def searched_by(self) -> Counter[str]:
        """Number of results of each worker."""
        with session_scope(read_only=True) as session:
            return Counter(session.scalars(select(FieldResult.worker)))

    def in_the_middle(self, worker: str) -> bool:
        """Whether a worker has begun a specimen of ten fields and has several left: between two it holds nothing."""
        with session_scope(read_only=True) as session:
            done: Counter[int] = Counter()
            last: dict[int, str] = {}
            for row in session.scalars(select(FieldResult).order_by(FieldResult.id)):
                done[row.analysis_id] += 1
                last[row.analysis_id] = row.worker
        return any(1 <= count <= 5 and last[analysis_id] == worker for analysis_id, count in done.items())

    def until(self, holds: Callable[[], bool], *, within_s: float = 300.0) -> float:
        """Wait until something holds; returns the seconds it took."""
        started = time.monotonic()
        while not holds():
            assert time.monotonic() - started < within_s, f"not within {within_s} s; the log:\n{self.log()}"
            time.sleep(0.05)
        return time.monotonic() - started

    def until_all_ended(self, *analysis_ids: int, within_s: float = 300.0) -> float:
        def ended() -> bool:
            with session_scope(read_only=True) as session:
                open_ones = select(func.count()).where(
                    Analysis.id.in_(analysis_ids), Analysis.state.in_(("queued", "running"))
                )
                return session.scalar(open_ones) == 0

        return self.until(ended, within_s=within_s)

    def assert_each_field_once(self, *analysis_ids: int) -> None:
        """Every field has one result with one finding (the fake finds one object a field), and none has two."""
        with session_scope(read_only=True) as session:
            for analysis_id in analysis_ids:
                analysis = analyses.get(session, analysis_id)
                assert (analysis.state, analysis.specimen.state) == ("done", "needs_review"), self.log()
                wanted = sorted(
                    session.scalars(select(SpecimenField.id).where(SpecimenField.specimen_id == analysis.specimen_id))
                )
                for table in (FieldResult, Finding):
                    found = session.scalars(select(table.field_id).where(table.analysis_id == analysis_id))
                    assert sorted(found) == wanted
