"""What the lists of specimens share: their pages and states, what a text finds, and what a line says of a specimen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, Literal, TypeVar, get_args

from sqlalchemy import ColumnElement, Select, func, or_, select
from sqlalchemy.orm import Session

from db import analyses
from db.analyses import Progress
from db.models import SPECIMEN_STATES, Analysis, Patient, Specimen, SpecimenState
from renalcore.errors import UnknownName

AskedState = Literal["not_analysed", SpecimenState]
"""States of a specimen of slides or scans: before anybody asks for an analysis nothing is waited for."""

ASKED_STATES: tuple[AskedState, ...] = (get_args(AskedState)[0], *SPECIMEN_STATES)

_IS_ASKED = select(Analysis.id).where(Analysis.specimen_id == Specimen.id).exists()

Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class Page(Generic[Row]):
    """Some lines of a list, and how many there are in all."""

    rows: tuple[Row, ...]
    total: int


@dataclass(frozen=True, slots=True)
class Line:
    """What a line of slides or scans says of its specimen.

    Attributes:
        specimen_id: The specimen.
        accession: Its accession number.
        patient_id: The patient.
        patient_identifier: The patient's hospital number.
        patient_name: The patient's name, None where it was not given.
        created_at: When the specimen was registered.
        collected_at: When the tissue was taken or the patient scanned, None where unknown.
        state: State of the specimen.
        message: Why the analysis failed or who cancelled it, else empty.
        analysis_id: The analysis that counts; None where there is none.
        done: Tiles or steps of a running analysis, over all slides or scans of the specimen, that are done.
        total: All of them; 0 while it does not run or they are not known yet.
    """

    specimen_id: int
    accession: str
    patient_id: int
    patient_identifier: str
    patient_name: str | None
    created_at: datetime
    collected_at: datetime | None
    state: AskedState
    message: str
    analysis_id: int | None
    done: int
    total: int


def said(
    specimen: Specimen, patient: Patient, analysis: Analysis | None, progress: Mapping[int, Progress]
) -> dict[str, Any]:
    """What a line says of its specimen, by the names of the attributes of `Line`."""
    done, total = progress.get(analysis.id, (0, 0)) if analysis else (0, 0)
    return {
        "specimen_id": specimen.id,
        "accession": specimen.accession,
        "patient_id": patient.id,
        "patient_identifier": patient.identifier,
        "patient_name": patient.name,
        "created_at": specimen.created_at,
        "collected_at": specimen.collected_at,
        "state": state_of(specimen, analysis),
        "message": (analysis.message or "") if analysis else "",
        "analysis_id": analysis.id if analysis else None,
        "done": done,
        "total": total,
    }


def progress_of(session: Session, newest: Iterable[Analysis]) -> dict[int, Progress]:
    """Of those that run: few run at a time, so what is done is counted one by one."""
    return {one.id: analyses.progress(session, one.id) for one in newest if one.state == "running"}


def state_of(specimen: Specimen, analysis: Analysis | None) -> AskedState:
    """The state of a specimen of slides or scans, whose analysis that counts is `analysis`."""
    return "not_analysed" if analysis is None and specimen.state == "waiting" else specimen.state


def counted_states(session: Session, specimens: Select[Any]) -> dict[AskedState, int]:
    """How many lines of `specimens`, which are of slides or scans, are in each state; every state has an entry."""
    asked = _IS_ASKED.label("asked")
    counted = dict.fromkeys(ASKED_STATES, 0)
    states = specimens.with_only_columns(Specimen.state, asked, func.count()).group_by(Specimen.state, asked)
    for state, is_asked, number in session.execute(states):
        counted[state if is_asked or state != "waiting" else "not_analysed"] += number
    return counted


def in_state(state: AskedState | None) -> list[ColumnElement[bool]]:
    """What a specimen of slides or scans must be to be in a state; nothing where it may be in any.

    Raises:
        UnknownName: None can be in that state.
    """
    if state is None:
        return []
    if state not in ASKED_STATES:
        raise UnknownName(f"{state!r} is no state of a specimen; expected one of {', '.join(ASKED_STATES)}")
    if state == "not_analysed":
        return [Specimen.state == "waiting", ~_IS_ASKED]
    return [Specimen.state == state, *([_IS_ASKED] if state == "waiting" else [])]


def matching(text: str | None) -> list[ColumnElement[bool]]:
    """What the accession number, hospital number or patient name must hold, in any case; nothing for no text."""
    wanted = (text or "").strip()
    if not wanted:
        return []
    return [
        or_(
            Specimen.accession.icontains(wanted, autoescape=True),
            Patient.identifier.icontains(wanted, autoescape=True),
            Patient.name_folded.contains(wanted.casefold(), autoescape=True),
        )
    ]


def newest_analyses(session: Session, specimen_ids: Sequence[int]) -> dict[int, Analysis]:
    """By specimen the newest analysis to count that was not cancelled, or the newest where all were."""
    newest: dict[int, Analysis] = {}
    for analysis in session.scalars(
        select(Analysis)
        .where(Analysis.specimen_id.in_(specimen_ids), Analysis.purpose == "count")
        .order_by(Analysis.id)
    ):
        if analysis.state != "cancelled" or newest.get(analysis.specimen_id, analysis).state == "cancelled":
            newest[analysis.specimen_id] = analysis
    return newest
