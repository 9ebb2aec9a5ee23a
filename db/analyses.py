"""Analyses: one run of one model over the fields, slides or scans of one specimen, stored piece by piece.

How a field is stored, is here; how a slide is, block by block, in `db.slide_searches`, and how a scan is, step by step,
in `db.ct_searches`.

What the model found is only ever added. A second analysis with another model is a second row; the newest one that was
not cancelled is the one that counts.

A second opinion is an analysis too, with the same queue and the same workers, but it stands aside: it moves no
specimen, and what it finds is neither counted, corrected, reported nor exported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import timedelta
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar, get_args

from sqlalchemy import ColumnElement, Select, and_, case, delete, exists, func, insert, or_, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import InstrumentedAttribute, Session, aliased

from db import audit
from db.engine import now
from db.models import (
    Analysis,
    AnalysisState,
    CtResult,
    CtScan,
    CtStep,
    CtStepName,
    FieldResult,
    Finding,
    Modality,
    Purpose,
    Slide,
    SlideBlock,
    SlideResult,
    Specimen,
    SpecimenField,
    SpecimenState,
    User,
)
from db.objects import checked_min_score
from db.states import in_words, move_analysis, move_specimen, named, refuse_if_signed
from renalcore.errors import Conflict, NotFound
from renalcore.io import quality
from renalcore.types import Detections

GIVEN_UP_AFTER = timedelta(days=1)
"""A cancelled analysis may be tried again meanwhile, and goes on where it was."""

Picture = TypeVar("Picture", SpecimenField, Slide, CtScan)
"""What a specimen has several of, by its modality."""


class Progress(NamedTuple):
    """Fields, tiles or steps of an analysis that are done, and all of them."""

    done: int
    total: int


class Lacking(NamedTuple):
    """Fields, slides or scans of an analysis that have no result, and all of them."""

    without: int
    of: int


@dataclass(frozen=True, slots=True)
class _Kind:
    """What the analyses of one modality are about.

    Attributes:
        table: Where the pictures of its specimens stand.
        searched: The column of the results that names a picture; a result has an `analysis_id` too.
        pictures: What people call the pictures.
        units: What they are shown the progress in.
        remedy: What to do about a specimen that has none.
    """

    table: type[SpecimenField] | type[Slide] | type[CtScan]
    searched: InstrumentedAttribute[int]
    pictures: str
    units: str
    remedy: str


_KINDS: Mapping[Modality, _Kind] = MappingProxyType(
    {
        "sediment": _Kind(SpecimenField, FieldResult.field_id, "fields", "fields", "Add pictures to it first."),
        "histology": _Kind(Slide, SlideResult.slide_id, "slides", "tiles", "Upload one, or bring one back."),
        "ct": _Kind(CtScan, CtResult.scan_id, "scans", "steps", "Upload one, or bring one back."),
    }
)


def units(modality: Modality) -> str:
    """What `progress` counts: "fields", "tiles" or "steps"."""
    return _KINDS[modality].units


def pictures(modality: Modality) -> str:
    """What `lacking` counts: "fields", "slides" or "scans"."""
    return _KINDS[modality].pictures


def get(session: Session, analysis_id: int) -> Analysis:
    """The analysis with this id.

    Raises:
        NotFound: There is none.
    """
    analysis = session.get(Analysis, analysis_id)
    if analysis is None:
        raise NotFound(f"There is no analysis {analysis_id}.")
    return analysis


def current(session: Session, specimen_id: int) -> Analysis | None:
    """The analysis that counts: the specimen's newest one that was not cancelled."""
    return _newest(session, specimen_id, "count")


def second_opinion(session: Session, specimen_id: int) -> Analysis | None:
    """The newest second opinion on a specimen that was not cancelled."""
    return _newest(session, specimen_id, "second_opinion")


def _newest(
    session: Session, specimen_id: int, purpose: Purpose, *, other_than: Analysis | None = None
) -> Analysis | None:
    found = select(Analysis).where(
        Analysis.specimen_id == specimen_id, Analysis.purpose == purpose, Analysis.state != "cancelled"
    )
    if other_than is not None:
        found = found.where(Analysis.id != other_than.id)
    return session.scalars(found.order_by(Analysis.id.desc()).limit(1)).one_or_none()


def all_of(session: Session, specimen_id: int) -> list[Analysis]:
    """Every analysis of a specimen, second opinions too, oldest first."""
    return list(session.scalars(select(Analysis).where(Analysis.specimen_id == specimen_id).order_by(Analysis.id)))


def progress(session: Session, analysis_id: int) -> Progress:
    """How many fields (tiles of slides, steps of scans) are done, and how many there are, without withdrawn pictures.

    The tiles of a slide are known once it is planned, and those without tissue have none: whether an analysis of
    slides is complete, `lacking` tells. So it does for scans, of which the last step is done before their result is
    there.
    """
    analysis = get(session, analysis_id)
    if analysis.specimen.modality == "histology":
        done = case((SlideBlock.finished_at.is_not(None), SlideBlock.tiles), else_=0)
        tiles = session.execute(
            select(func.sum(done), func.sum(SlideBlock.tiles))
            .join(Slide, Slide.id == SlideBlock.slide_id)
            .where(SlideBlock.analysis_id == analysis_id, Slide.withdrawn_at.is_(None))
        ).one()
        return Progress(tiles[0] or 0, tiles[1] or 0)
    without, total = lacking(session, analysis_id)
    if analysis.specimen.modality == "sediment":
        return Progress(total - without, total)
    steps = (
        select(func.count(CtStep.id))
        .join(CtScan, CtScan.id == CtStep.scan_id)
        .where(CtStep.analysis_id == analysis_id, CtScan.withdrawn_at.is_(None))
    )
    return Progress(session.scalar(steps) or 0, len(get_args(CtStepName)) * total)


def lacking(session: Session, analysis_id: int) -> Lacking:
    """How many pictures of the analysis lack a result, and how many there are; withdrawn ones are neither."""
    analysis = get(session, analysis_id)
    kind = _KINDS[analysis.specimen.modality]
    standing = select(func.count()).where(*_standing(kind.table, analysis.specimen_id))
    without = standing.where(kind.table.id.not_in(searched(analysis_id, kind.table)))
    return Lacking(session.scalar(without) or 0, session.scalar(standing) or 0)


def pending(session: Session, analysis_id: int, table: type[Picture]) -> list[Picture]:
    """The pictures that have no result yet and are not withdrawn, in their order.

    Args:
        session: An open session.
        analysis_id: The analysis.
        table: Where the pictures of its modality stand.
    """
    analysis = get(session, analysis_id)
    return list(
        session.scalars(
            select(table)
            .where(*_standing(table, analysis.specimen_id), table.id.not_in(searched(analysis_id, table)))
            .order_by(table.position)
        )
    )


def pending_fields(session: Session, analysis_id: int) -> list[SpecimenField]:
    """The fields of an analysis of sediment that are `pending`."""
    return pending(session, analysis_id, SpecimenField)


def searched(analysis_id: int, table: type[SpecimenField] | type[Slide] | type[CtScan]) -> Select[int]:
    """The ids of the pictures that have a result, as a condition of another query."""
    (column,) = (kind.searched for kind in _KINDS.values() if kind.table is table)
    return select(column).where(column.class_.analysis_id == analysis_id)


def _standing(
    table: type[SpecimenField] | type[Slide] | type[CtScan], specimen_id: int
) -> tuple[ColumnElement[bool], ...]:
    """What is true of the pictures of a specimen that are not withdrawn."""
    return table.specimen_id == specimen_id, table.withdrawn_at.is_(None)


def is_cancelled(session: Session, analysis_id: int) -> bool:
    """Whether a person cancelled it: asked by the worker between fields, so read afresh each time."""
    return session.scalar(select(Analysis.state).where(Analysis.id == analysis_id)) == "cancelled"


def request(
    session: Session,
    specimen: Specimen,
    *,
    model_key: str,
    weights_sha256: str,
    code_version: str,
    options: Mapping[str, Any],
    by: User,
) -> Analysis:
    """Ask for an analysis; the caller hands it to the queue once the transaction is committed.

    Args:
        session: An open session.
        specimen: What to analyse.
        model_key: The model's key in the registry.
        weights_sha256: Digest of the weights that key has now.
        code_version: Version of the software.
        options: Everything else that decides the result: of sediment `min_score`, the lowest score that counts, of
            slides `limits`, which glomeruli count, of scans nothing.
        by: Who asks.

    Raises:
        Conflict: The specimen has no field, slide or scan that counts, is signed, or is being analysed already.
        InputError: `min_score` is no score.
    """
    held = hold_specimen(session, specimen.id)
    newest = current(session, held.id)
    if newest is not None and newest.state in ("queued", "running"):
        raise Conflict(
            f"{named(held, begins=True)} is already {in_words(newest.state)} for {newest.model_key}. "
            "Wait for it, or cancel it first."
        )
    if held.state == "signed":
        raise Conflict(f"{named(held, begins=True)} is signed. A reviewer must reopen it with a reason first.")
    kind = _KINDS[held.modality]
    if not session.scalar(select(func.count()).where(*_standing(kind.table, held.id))):
        raise Conflict(f"{named(held, begins=True)} has no {kind.pictures.removesuffix('s')}. {kind.remedy}")
    return _requested(
        session,
        held,
        "count",
        model_key=model_key,
        weights_sha256=weights_sha256,
        code_version=code_version,
        options=options,
        by=by,
    )


def request_second(
    session: Session,
    specimen: Specimen,
    *,
    model_key: str,
    weights_sha256: str,
    code_version: str,
    options: Mapping[str, Any],
    by: User,
) -> Analysis:
    """Ask another model for its opinion on a specimen under review; the counts stay those of the first.

    The arguments are those of `request`, and so is what the caller does next.

    Raises:
        Conflict: The specimen is not under review, was analysed by this very model, or waits for a second opinion.
        InputError: `min_score` is no score.
    """
    held = hold_specimen(session, specimen.id)
    first = current(session, held.id)
    if held.state != "needs_review" or first is None:
        raise Conflict(
            f"{named(held, begins=True)} is {in_words(held.state)}; "
            "a second opinion is asked for while it awaits review."
        )
    if first.model_key == model_key:
        raise Conflict(f"{named(held, begins=True)} was analysed by {model_key}. Choose another model.")
    newest = second_opinion(session, held.id)
    if newest is not None and newest.state in ("queued", "running"):
        raise Conflict(
            f"The second opinion of {newest.model_key} on {named(held)} is {in_words(newest.state)}. "
            "Wait for it, or cancel it first."
        )
    return _requested(
        session,
        held,
        "second_opinion",
        model_key=model_key,
        weights_sha256=weights_sha256,
        code_version=code_version,
        options=options,
        by=by,
    )


def _requested(
    session: Session,
    held: Specimen,
    purpose: Purpose,
    *,
    model_key: str,
    weights_sha256: str,
    code_version: str,
    options: Mapping[str, Any],
    by: User,
) -> Analysis:
    """Add an analysis of a specimen that is held, and tell the audit trail."""
    chosen = dict(options)
    if "min_score" in chosen:
        chosen["min_score"] = checked_min_score(chosen["min_score"])
    before = held.state
    if purpose == "count":
        move_specimen(held, "waiting")
    analysis = Analysis(
        specimen_id=held.id,
        purpose=purpose,
        model_key=model_key,
        weights_sha256=weights_sha256,
        code_version=code_version,
        options=chosen,
        state="queued",
        message="",
        requested_by_id=by.id,
        created_at=now(),
    )
    session.add(analysis)
    session.flush()
    audit.record(
        session,
        actor=by,
        action="analysis.request" if purpose == "count" else "analysis.request_second",
        entity="analysis",
        entity_id=analysis.id,
        old={"specimen_state": before},
        new={
            "state": "queued",
            "specimen_state": held.state,
            "accession": held.accession,
            "model_key": model_key,
            "weights_sha256": weights_sha256,
            "code_version": code_version,
            "options": chosen,
        },
    )
    return analysis


def start(session: Session, analysis_id: int, *, device: str, worker: str) -> bool:
    """A worker begins, or takes over from one that fell silent.

    Returns:
        Whether there is anything to do: not where it was cancelled, has failed or is complete.
    """
    analysis, specimen = hold(session, analysis_id)
    if analysis.state not in ("queued", "running"):
        return False
    analysis.device = device
    if analysis.started_at is None:
        analysis.started_at = now()
    _moved(session, analysis, specimen, "running", "running", actor=None, device=device, worker=worker)
    return True


def store_field(
    session: Session, analysis_id: int, field_id: int, *, detections: Detections, seconds: float, worker: str
) -> bool:
    """Store what the model found in one field: once, whoever else is storing it at the same moment.

    Args:
        session: An open session.
        analysis_id: The analysis.
        field_id: A field of its specimen.
        detections: What the model found, in px of the upright field.
        seconds: Time the model took.
        worker: Name of the worker that ran it.

    Returns:
        False where the field has a result already or the analysis was cancelled: nothing was stored.

    Raises:
        NotFound: The field is none of this analysis.
    """
    analysis = get(session, analysis_id)
    field = session.get(SpecimenField, field_id)
    if field is None or field.specimen_id != analysis.specimen_id:
        raise NotFound(f"Field {field_id} does not belong to the specimen of analysis {analysis_id}.")
    if is_cancelled(session, analysis_id):
        return False
    disc = (field.round_field[0], field.round_field[1], field.round_field[2]) if field.round_field else None
    result = FieldResult(
        analysis_id=analysis_id,
        field_id=field_id,
        seconds=seconds,
        finished_at=now(),
        worker=worker,
        flags=[asdict(flag) for flag in quality.crowding(detections, field.width_px, field.height_px, disc)],
    )
    try:
        with session.begin_nested():
            session.add(result)
    except IntegrityError:
        return False  # the unique constraint chose the worker that came first
    if len(detections):
        session.execute(
            insert(Finding),
            [
                {
                    "field_result_id": result.id,
                    "analysis_id": analysis_id,
                    "field_id": field_id,
                    "class_name": class_name,
                    "score": _score(score),
                    "x1": float(box[0]),
                    "y1": float(box[1]),
                    "x2": float(box[2]),
                    "y2": float(box[3]),
                }
                for class_name, score, box in zip(detections.names, detections.scores, detections.boxes_px, strict=True)
            ],
        )
    return True


def _score(score: float) -> float:
    """Six decimals are all that float32 holds, so that 0.7 does not lie below 0.7; and no model is ever certain."""
    return min(round(float(score), 6), 0.999999)


def finish(session: Session, analysis_id: int) -> bool:
    """Every field, slide or scan has its result: the specimen needs review, unless this is a second opinion.

    Returns:
        Whether it ended now; False where it already had, or was cancelled meanwhile.

    Raises:
        Conflict: A field, slide or scan has no result.
    """
    analysis, specimen = hold(session, analysis_id)
    if analysis.state in ("done", "cancelled"):
        return False
    without, total = lacking(session, analysis_id)
    what = pictures(specimen.modality)
    searched: dict[str, Any] = {what: total}
    if without:
        raise Conflict(
            f"{named(specimen, begins=True)} cannot be completed: {without} of {total} {what} lack a result."
        )
    analysis.message = ""
    analysis.finished_at = now()
    _moved(session, analysis, specimen, "done", "needs_review", actor=None, **searched)
    return True


def fail(session: Session, analysis_id: int, message: str) -> bool:
    """The worker gives up.

    Args:
        session: An open session.
        analysis_id: The analysis.
        message: What went wrong and what to do, in a technologist's words; shown beside the Retry button.

    Returns:
        Whether it failed now; False where it had ended before.
    """
    analysis, specimen = hold(session, analysis_id)
    if analysis.state not in ("queued", "running"):
        return False
    analysis.message = message
    analysis.finished_at = now()
    _moved(session, analysis, specimen, "failed", "failed", actor=None, message=message)
    return True


def cancel(session: Session, analysis_id: int, by: User) -> Analysis:
    """Stop an analysis, or dismiss one that failed. What it stored stays until `sweep`; an earlier one counts again.

    Raises:
        Conflict: It is complete, or was cancelled before.
    """
    analysis, specimen = hold(session, analysis_id)
    if analysis.state not in ("queued", "running", "failed"):
        raise Conflict(f"The analysis of {named(specimen)} is {in_words(analysis.state)}: nothing to cancel.")
    earlier = _newest(session, specimen.id, "count", other_than=analysis)
    falls_back_to: SpecimenState = "cancelled"
    if earlier is not None:
        falls_back_to = "needs_review" if earlier.state == "done" else "failed"
    analysis.message = f"Cancelled by {by.full_name or by.username}."
    analysis.finished_at = now()
    _moved(session, analysis, specimen, "cancelled", falls_back_to, actor=by)
    return analysis


def sweep(session: Session, *, older_than: timedelta = GIVEN_UP_AFTER) -> int:
    """Removes the blocks of slides and steps of scans that led to no result and with which nobody goes on.

    Those are of analyses that were cancelled, or failed before another one was complete. Should one be tried again all
    the same, what was under way in it begins anew; results stay.

    Returns:
        The number of blocks and steps removed.
    """
    newer = aliased(Analysis)
    followed = exists().where(
        newer.specimen_id == Analysis.specimen_id,
        newer.purpose == Analysis.purpose,
        newer.id > Analysis.id,
        newer.state == "done",
    )
    given_up = select(Analysis.id).where(
        Analysis.finished_at < now() - older_than,
        or_(Analysis.state == "cancelled", and_(Analysis.state == "failed", followed)),
    )
    slide_is_done = exists().where(
        SlideResult.analysis_id == SlideBlock.analysis_id, SlideResult.slide_id == SlideBlock.slide_id
    )
    scan_is_done = exists().where(CtResult.analysis_id == CtStep.analysis_id, CtResult.scan_id == CtStep.scan_id)
    blocks = delete(SlideBlock).where(SlideBlock.analysis_id.in_(given_up), ~slide_is_done)
    steps = delete(CtStep).where(CtStep.analysis_id.in_(given_up), ~scan_is_done)
    return sum(
        len(session.execute(each).all()) for each in (blocks.returning(SlideBlock.id), steps.returning(CtStep.id))
    )


def retry(session: Session, analysis_id: int, by: User) -> Analysis:
    """Queue an analysis again that failed, was cancelled or lacks results; what has one keeps it.

    The caller hands it to the queue once the transaction is committed.

    Raises:
        Conflict: It is waiting, running or complete, is not the newest, or the specimen is signed.
    """
    analysis, specimen = hold(session, analysis_id)
    is_incomplete = analysis.state == "done" and specimen.state != "signed" and lacking(session, analysis_id).without
    if analysis.state not in ("failed", "cancelled") and not is_incomplete:
        raise Conflict(f"The analysis of {named(specimen)} is {in_words(analysis.state)}: nothing to retry.")
    if analysis.purpose == "second_opinion" and specimen.state == "signed":
        raise Conflict(f"{named(specimen, begins=True)} is signed. A reviewer must reopen it with a reason first.")
    newer = select(Analysis.id).where(
        Analysis.specimen_id == specimen.id, Analysis.purpose == analysis.purpose, Analysis.id > analysis.id
    )
    if analysis.state != "cancelled":
        newer = newer.where(Analysis.state != "cancelled")  # those that were count no longer, and this one does
    if session.scalar(newer.limit(1)) is not None:
        raise Conflict(f"A newer analysis of {named(specimen)} was asked for since. Reload the page.")
    requeue(session, analysis, specimen, by=by, action="analysis.retry")
    return analysis


def requeue(session: Session, analysis: Analysis, specimen: Specimen, *, by: User, action: str) -> None:
    """Put an analysis whose specimen is held back into the queue; what has a result keeps it."""
    analysis.message = ""
    analysis.finished_at = None
    analysis.workflow_id = None
    _moved(session, analysis, specimen, "queued", "waiting", actor=by, action=action)


def hold(session: Session, analysis_id: int) -> tuple[Analysis, Specimen]:
    """An analysis and its specimen, read afresh and locked until the transaction ends."""
    specimen = hold_specimen(session, get(session, analysis_id).specimen_id)
    analysis = get(session, analysis_id)
    session.refresh(analysis)
    return analysis, specimen


def hold_for_review(session: Session, analysis_id: int) -> tuple[Analysis, Specimen]:
    """An analysis and its specimen as `hold` gives them, while people may correct what was found.

    Raises:
        Conflict: The specimen is signed or being analysed, or was analysed again since.
    """
    analysis, specimen = hold(session, analysis_id)
    refuse_if_signed(specimen)
    newest = current(session, specimen.id)
    if newest is None or newest.id != analysis.id:
        raise Conflict(
            f"{named(specimen, begins=True)} was analysed again since. Reload the page to review the newer result."
        )
    if specimen.state != "needs_review":
        raise Conflict(
            f"{named(specimen, begins=True)} is {in_words(specimen.state)}; it can be corrected once that is complete."
        )
    return analysis, specimen


def hold_specimen(session: Session, specimen_id: int) -> Specimen:
    """A specimen, read afresh and locked until the transaction ends.

    Raises:
        NotFound: There is none.
    """
    specimen = session.scalars(
        select(Specimen).where(Specimen.id == specimen_id).with_for_update().execution_options(populate_existing=True)
    ).one_or_none()
    if specimen is None:
        raise NotFound(f"There is no specimen {specimen_id}.")
    return specimen


def _moved(
    session: Session,
    analysis: Analysis,
    specimen: Specimen,
    state: AnalysisState,
    specimen_state: SpecimenState,
    *,
    actor: User | None,
    action: str | None = None,
    **details: object,
) -> None:
    """Change both states and write the one audit event that tells of it; no event where nothing changes.

    A second opinion leaves the specimen as it is.
    """
    before: dict[str, str] = {"state": move_analysis(analysis, state)}
    after: dict[str, str] = {"state": state}
    if analysis.purpose == "count":
        before["specimen_state"] = move_specimen(specimen, specimen_state)
        after["specimen_state"] = specimen_state
    session.flush()
    if before != after:
        audit.record(
            session,
            actor=actor,
            action=action or f"analysis.{state}",
            entity="analysis",
            entity_id=analysis.id,
            old=before,
            new=after | {"accession": specimen.accession} | details,
        )
