"""Scans searched: step by step, each kept for the next to go on with, until a scan has its labels and measures.

A worker that was killed, or lost its work to another one, finds here which step is next. Everything can be stored by
several workers at once: the first one counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from sqlalchemy import ColumnElement, select, update
from sqlalchemy.orm import Session

from db import analyses, pictures
from db.models import CtResult, CtScan, CtStep, CtStepName
from renalcore.ct.measure import Measures, to_dict
from renalcore.errors import Conflict, NotFound

STEPS: Final[Mapping[CtStepName, str]] = MappingProxyType(
    {"rough": "looking for the kidneys", "kidney": "kidneys", "lesion": "tumours and cysts"}
)
"""The steps in their order, and what people read while one runs."""


def pending_scans(session: Session, analysis_id: int) -> list[CtScan]:
    """The scans of an analysis that have no result yet and are not withdrawn, in their order."""
    return analyses.pending(session, analysis_id, CtScan)


def is_pending(session: Session, analysis_id: int, scan_id: int) -> bool:
    """Whether a scan has no result yet and is not withdrawn."""
    return scan_id in {scan.id for scan in pending_scans(session, analysis_id)}


def stored_steps(session: Session, analysis_id: int, scan_id: int) -> list[CtStep]:
    """The steps that have run on a scan, in their order; what they said is gone once it has its result."""
    return list(session.scalars(select(CtStep).where(*_of(analysis_id, scan_id)).order_by(CtStep.position)))


def begin_step(session: Session, analysis_id: int, scan_id: int) -> None:
    """A worker takes the next step of a scan, or measures it: `at_work_on` tells so from now on."""
    analysis, specimen = analyses.hold(session, analysis_id)
    ids = [scan.id for scan in pictures.counting(session, CtScan, specimen.id)]
    if analysis.state != "running" or scan_id not in ids:
        return
    done = len(stored_steps(session, analysis_id, scan_id))
    words = "measuring" if done == len(STEPS) else f"step {done + 1} of {len(STEPS)}: {list(STEPS.values())[done]}"
    several = f"scan {ids.index(scan_id) + 1} of {len(ids)}, " if len(ids) > 1 else ""
    analysis.message = several + words


def at_work_on(session: Session, analysis_id: int) -> str:
    """What a worker is at, in words: "step 2 of 3: kidneys"; of several scans also which one. Else empty."""
    analysis = analyses.get(session, analysis_id)
    return analysis.message or "" if analysis.state == "running" else ""


def store_step(
    session: Session, analysis_id: int, scan_id: int, name: CtStepName, content: bytes, *, seconds: float
) -> bool:
    """Store what a step said of a scan: once, whoever else is storing it at the same moment.

    Args:
        session: An open session.
        analysis_id: The analysis.
        scan_id: A scan of its specimen.
        name: The step.
        content: What it said, as `renalcore.ct.predict.Crops.to_bytes` gives it.
        seconds: Time that it took, without reading the scan.

    Returns:
        False where the step is stored already, the scan has its result or is withdrawn, or the analysis was cancelled:
        nothing was stored.

    Raises:
        Conflict: The step before it is not stored.
        NotFound: The scan is none of this analysis.
    """
    scan = _held(session, analysis_id, scan_id)
    if scan is None:
        return False
    position, done = list(STEPS).index(name), len(stored_steps(session, analysis_id, scan_id))
    if done < position:
        raise Conflict(f"Scan {scan.name} cannot take the step {name}: the one before it is not stored.")
    if done > position:
        return False
    of_scan = {"analysis_id": analysis_id, "scan_id": scan_id}
    session.add(CtStep(**of_scan, position=position, name=name, content=content, seconds=seconds))
    session.flush()
    return True


def finish_scan(
    session: Session,
    analysis_id: int,
    scan_id: int,
    labels_id: int,
    measures: Measures,
    words: str,
    seconds: Mapping[str, float],
    worker: str,
) -> bool:
    """Store the result of a scan and drop what its steps hold: once, whoever else does so at the same moment.

    Args:
        session: An open session.
        analysis_id: The analysis.
        scan_id: A scan of its specimen.
        labels_id: The `StoredFile` of its labels, NIfTI on its own grid.
        measures: What is measured on them.
        words: What was found, in a sentence or some.
        seconds: Of each stage.
        worker: Name of the worker that finished it.

    Returns:
        False where it has a result, is withdrawn, or the analysis was cancelled: nothing was stored.

    Raises:
        NotFound: The scan is none of this analysis.
    """
    if _held(session, analysis_id, scan_id) is None:
        return False
    session.add(
        CtResult(
            analysis_id=analysis_id,
            scan_id=scan_id,
            labels_id=labels_id,
            measures=to_dict(measures),
            words=words,
            seconds=dict(seconds),
            worker=worker,
        )
    )
    session.execute(update(CtStep).where(*_of(analysis_id, scan_id)).values(content=None))
    session.flush()
    return True


def _of(analysis_id: int, scan_id: int) -> tuple[ColumnElement[bool], ...]:
    return CtStep.analysis_id == analysis_id, CtStep.scan_id == scan_id


def _held(session: Session, analysis_id: int, scan_id: int) -> CtScan | None:
    """A scan that is to be searched, its specimen locked; None where it has a result, or is not wanted any more."""
    analysis, specimen = analyses.hold(session, analysis_id)
    scan = session.get(CtScan, scan_id, populate_existing=True)
    if scan is None or scan.specimen_id != specimen.id:
        raise NotFound(f"Scan {scan_id} does not belong to the specimen of analysis {analysis_id}.")
    return scan if analysis.state != "cancelled" and is_pending(session, analysis_id, scan_id) else None
