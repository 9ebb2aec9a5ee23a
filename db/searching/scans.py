"""The wing of CT: scans are searched step by step."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

from db import ct_files, ct_searches, specimens
from db.engine import session_scope
from db.models import CtScan, CtStepName
from db.searching.wing import Asked, Outcome, Run, Station, Wing
from db.searching.words import Picture, event, since
from renalcore.ct.predict import Crops
from renalcore.errors import Conflict
from renalcore.io.volume import Volume
from renalcore.serving import Segmenter


class Scans(Wing[Segmenter]):
    """CT: one step of the workflow for each of the model's, and one for labels and measures.

    The volume stays at hand from the first to the last, and there is one at a time, whatever the number of specimens:
    a scan of 1,000 slices takes more memory than all else that the worker does.
    """

    kind = "scan"
    table = CtScan

    def __init__(self, worker: Station, load: Callable[[str], Segmenter]) -> None:
        super().__init__(worker, load)
        self._one_at_a_time = threading.Lock()

    def search(self, run: Run, scan_id: int) -> Outcome:
        """See `Wing.search`."""
        with self._one_at_a_time:
            read = cache(ct_files.image)
            for name in ct_searches.STEPS:
                once = partial(self._take, run, scan_id, name, read)
                outcome, message = self.step(f"scan {scan_id} {name}", run, scan_id, once)
                if outcome != "done":
                    return outcome, message
            return self.step(f"finish scan {scan_id}", run, scan_id, partial(self._finish, run, scan_id, read))

    def _take(
        self, run: Run, scan_id: int, name: CtStepName, read: Callable[..., Volume], asked: Asked, picture: Picture
    ) -> Outcome:
        """A step of the model."""
        so_far = _ScanSoFar.of(run, scan_id)
        if name in so_far.seconds:
            return "done", ""  # stored by the worker that was killed before it could say so
        _tell(run, scan_id)
        segmenter, volume = self.model(asked), read(so_far.sha256, name=picture.name)
        started = time.monotonic()
        crops = segmenter.steps[name](volume, so_far.crops(before=name))
        seconds = time.monotonic() - started
        with session_scope() as session:
            stored = ct_searches.store_step(session, run.analysis_id, scan_id, name, crops.to_bytes(), seconds=seconds)
        event("step done" if stored else "step known", analysis=run.analysis_id, scan=scan_id, step=name,
               kidneys=len(crops), seconds=round(seconds, 3))  # fmt: skip
        return "done", ""

    def _finish(self, run: Run, scan_id: int, read: Callable[..., Volume], asked: Asked, picture: Picture) -> Outcome:
        """The labels and measures of a scan."""
        so_far = _ScanSoFar.of(run, scan_id)
        _tell(run, scan_id)
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
        event("scan done" if stored else "scan known", analysis=run.analysis_id, scan=scan_id,
               kidneys=len(found.measures.kidneys), lesions=len(found.measures.lesions),
               seconds=since(started))  # fmt: skip
        return "done", ""


def _tell(run: Run, scan_id: int) -> None:
    """Lets people read what the worker is at."""
    with session_scope() as session:
        ct_searches.begin_step(session, run.analysis_id, scan_id)


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
    def of(cls, run: Run, scan_id: int) -> _ScanSoFar:
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
