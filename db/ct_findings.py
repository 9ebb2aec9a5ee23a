"""What stands in each scan: the model's labels with every person's corrections after them.

Corrections are only ever added, and each keeps the labels and measures as they are after it: to open a scan computes
nothing. What a correction changes is computed before the database is asked for anything but what stands, so that nobody
waits for it; where somebody else has corrected the scan in the meantime it is refused, and neither correction is lost.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Final, Literal, NamedTuple, get_args

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from db import analyses, audit, ct_files, specimens
from db.engine import beforehand, now
from db.models import CtAction, CtCorrection, CtKidney, CtLesion, CtResult, CtScan, Specimen, StoredFile, User
from renalcore.ct import measure
from renalcore.ct.kidneys import Labels, Site
from renalcore.ct.measure import Measures
from renalcore.ct.predict import in_words
from renalcore.ct.steps import CYST, LABELS, TUMOUR
from renalcore.errors import Conflict, InputError, NotFound
from renalcore.io.volume import Volume

Label = Literal["kidney", "tumour", "cyst"]
Voxel = Sequence[int]

_NUMBERS: Final = {name: number for number, name in LABELS.items()}
_LESIONS: Final[Mapping[int, CtLesion]] = {TUMOUR: "tumour", CYST: "cyst"}
_KIDNEYS: Final[Mapping[Site, CtKidney]] = {
    "right": "right kidney",
    "left": "left kidney",
    "middle": "kidney",
    "pelvis_right": "right pelvic kidney",
    "pelvis_left": "left pelvic kidney",
    "pelvis_middle": "pelvic kidney",
}


@dataclass(frozen=True, slots=True)
class Corrected:
    """One correction that nobody has undone.

    Attributes:
        correction_id: The correction.
        action: `relabel` or `remove`.
        voxel: One of the voxels of the lesion or kidney: slice, row, column.
        was: What it was.
        label: What it became; of a lesion that was removed what surrounds it, None where that is background.
        by: Full name of who corrected it.
        by_id: Who that is.
        at: When, UTC.
    """

    correction_id: int
    action: CtAction
    voxel: tuple[int, int, int]
    was: CtLesion | CtKidney
    label: str | None
    by: str
    by_id: int
    at: datetime


@dataclass(frozen=True, slots=True)
class Standing:
    """What was found in one scan as it stands after review.

    Attributes:
        scan_id: The scan.
        labels_id: The labels, a stored NIfTI file on the grid of the scan.
        labels_sha256: Digest of that file; another one whenever a label changes.
        measures: What is measured on them.
        words: Which kidneys and lesions there are, in one to three sentences.
        corrections: Those that stand, oldest first.
        by_hand: Numbers of the lesions that are not as the model outlined them.
    """

    scan_id: int
    labels_id: int
    labels_sha256: str
    measures: Measures
    words: str
    corrections: tuple[Corrected, ...]
    by_hand: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Start:
    """What a correction starts from: the scan, its labels and measures, and the number of the last correction."""

    name: str
    image_sha256: str
    labels_sha256: str
    measures: Measures
    last: int


@dataclass(frozen=True, slots=True)
class _After:
    """What a correction leaves behind."""

    voxel: tuple[int, int, int]
    was: CtLesion | CtKidney
    label: str | None
    sha256: str
    size: int
    measures: dict[str, Any]
    words: str


def standing(session: Session, analysis_id: int, scan_id: int) -> Standing:
    """What was found in a scan as it stands now.

    Raises:
        NotFound: The analysis has no result of this scan.
    """
    found = all_standing(session, analysis_id, [scan_id])
    if not found:
        raise NotFound(f"Analysis {analysis_id} has no result of scan {scan_id}. Reload the page.")
    return found[0]


def all_standing(session: Session, analysis_id: int, scan_ids: Collection[int] | None = None) -> list[Standing]:
    """What was found in each scan that has a result, withdrawn ones included, in their order.

    Args:
        session: An open session.
        analysis_id: The analysis.
        scan_ids: Only these scans.
    """
    results = (
        select(CtResult.scan_id, CtResult.labels_id, StoredFile.sha256, CtResult.measures, CtResult.words)
        .join(CtScan, CtScan.id == CtResult.scan_id)
        .join(StoredFile, StoredFile.id == CtResult.labels_id)
        .where(CtResult.analysis_id == analysis_id)
        .order_by(CtScan.position, CtScan.id)
    )
    if scan_ids is not None:
        results = results.where(CtResult.scan_id.in_(scan_ids))
    said = _said(session, analysis_id)
    found = []
    for scan_id, *outlined in session.execute(results):
        rows = said.get(scan_id, [])
        stands = outlined
        if rows:  # the last one says what stands, also where it is an undoing
            last = (
                select(CtCorrection.labels_id, StoredFile.sha256, CtCorrection.measures, CtCorrection.words)
                .join(StoredFile, StoredFile.id == CtCorrection.labels_id)
                .where(CtCorrection.id == rows[-1].correction_id)
            )
            stands = list(session.execute(last).one())
        labels_id, sha256, kept, words = stands
        measures = measure.from_dict(kept)
        by_hand = _by_hand(measures, measure.from_dict(outlined[2])) if rows else ()
        found.append(Standing(scan_id, labels_id, sha256, measures, words, _not_undone(rows), by_hand))
    return found


def _by_hand(stands: Measures, outlined: Measures) -> tuple[int, ...]:
    """Numbers of the lesions that the model did not outline as they stand.

    The places of corrections do not tell: a cyst that is called a tumour becomes one with a tumour that it touches, and
    what is deleted becomes part of what surrounds it.
    """
    known = {(each.label, each.voxel, each.volume_ml) for each in outlined.lesions}
    return tuple(each.number for each in stands.lesions if (each.label, each.voxel, each.volume_ml) not in known)


def relabel(session: Session, analysis_id: int, scan_id: int, voxel: Voxel, label: Label, *, by: User) -> Standing:
    """A person says what a lesion is: a tumour, a cyst, or tissue of the kidney.

    Args:
        session: A session in which nothing was asked yet, so that the database stays free while it is measured.
        analysis_id: The analysis.
        scan_id: A scan of its study.
        voxel: Slice, row and column of any voxel of the lesion, such as `Lesion.voxel`.
        label: What it is; where it was that, nothing changes.
        by: Who says so.

    Returns:
        What stands then.

    Raises:
        Conflict: The study is signed or being analysed, or another person has corrected the scan meanwhile.
        InputError: There is no such label, or no lesion at this place.
        NotFound: The scan is none of this study, was withdrawn, or has no result.
    """
    if label not in _NUMBERS:
        raise InputError(f"A lesion is one of {', '.join(_NUMBERS)}, got {label!r}.")
    return _correct(session, analysis_id, scan_id, "relabel", partial(_of_lesion, voxel=voxel, label=label), by=by)


def remove(session: Session, analysis_id: int, scan_id: int, voxel: Voxel, *, by: User) -> Standing:
    """There is no lesion here: it becomes what surrounds it most. The rest is as of `relabel`."""
    return _correct(session, analysis_id, scan_id, "remove", partial(_of_lesion, voxel=voxel, label=None), by=by)


def remove_kidney(
    session: Session, analysis_id: int, scan_id: int, number: int, *, seen_sha256: str, by: User
) -> Standing:
    """What was taken for a kidney is none, such as bowel or muscle: it goes with its lesions, a fused one whole.

    Args:
        session: A session in which nothing was asked yet, as `relabel` takes it.
        analysis_id: The analysis.
        scan_id: A scan of its study.
        number: `Kidney.number`, of a fused one that of either half.
        seen_sha256: Digest of the labels in which it has that number.
        by: Who says so.

    Returns:
        What stands then.

    Raises:
        Conflict: As `relabel`, also where these labels stand no longer.
        InputError: There is no such kidney.
        NotFound: As `relabel`.
    """
    return _correct(
        session, analysis_id, scan_id, "remove", partial(_without_kidney, number=number, seen_sha256=seen_sha256), by=by
    )


def undo_last(session: Session, analysis_id: int, scan_id: int, *, by: User) -> bool:
    """Take back the last correction of this person on a scan that stands.

    Returns:
        Whether there was one.

    Raises:
        Conflict: The study is signed or being analysed, or another person has corrected the scan since.
        NotFound: The scan is none of this study, was withdrawn, or has no result.
    """
    _, specimen = analyses.hold_for_review(session, analysis_id)
    scan = _scan(session, specimen, scan_id)
    before = standing(session, analysis_id, scan_id)
    mine = [index for index, each in enumerate(before.corrections) if each.by_id == by.id]
    if not mine:
        return False
    if mine[-1] + 1 < len(before.corrections):
        raise Conflict(
            f"{before.corrections[-1].by} has corrected {scan.name} since you did. Undo that first, or correct the "
            "lesion again."
        )
    undone = before.corrections[-1]
    left: CtCorrection | CtResult = (
        session.get_one(CtCorrection, before.corrections[-2].correction_id)
        if len(before.corrections) > 1
        else session.scalars(
            select(CtResult).where(CtResult.analysis_id == analysis_id, CtResult.scan_id == scan_id)
        ).one()
    )
    session.add(
        CtCorrection(
            analysis_id=analysis_id,
            scan_id=scan_id,
            action="undo",
            undone_id=undone.correction_id,
            labels_id=left.labels_id,
            measures=left.measures,
            words=left.words,
            by_id=by.id,
            at=now(),
        )
    )
    session.flush()
    _record(
        session, specimen, scan, analysis_id, f"{_thing(undone.was)}.undo", undone.voxel, was=undone.label,
        label=undone.was, labels=(before.labels_sha256, left.labels.sha256), by=by,
    )  # fmt: skip
    return True


def _correct(
    session: Session,
    analysis_id: int,
    scan_id: int,
    action: CtAction,
    change: Callable[[_Start, Volume], _After | None],
    *,
    by: User,
) -> Standing:
    """Computes first and holds the study afterwards; `change` gives None where nothing changes."""
    with beforehand(session) as reading:
        start = _start(reading, analysis_id, scan_id)
    with ct_files.at_hand(start.image_sha256, name=start.name) as volume:
        after = change(start, volume)
    _, specimen = analyses.hold_for_review(session, analysis_id)
    scan = _scan(session, specimen, scan_id)
    if _last(session, analysis_id, scan_id) != start.last:
        who = _said(session, analysis_id)[scan_id][-1].by
        raise Conflict(f"{scan.name} has changed meanwhile: {who} corrected it. Reload the page, then correct again.")
    if after is None:
        return standing(session, analysis_id, scan_id)
    file = specimens.stored_file(session, after.sha256, size=after.size, media_type=ct_files.MEDIA_TYPE)
    session.add(
        CtCorrection(
            analysis_id=analysis_id,
            scan_id=scan_id,
            action=action,
            voxel=list(after.voxel),
            was=after.was,
            label=after.label,
            labels_id=file.id,
            measures=after.measures,
            words=after.words,
            by_id=by.id,
            at=now(),
        )
    )
    session.flush()
    _record(
        session, specimen, scan, analysis_id, f"{_thing(after.was)}.{action}", after.voxel, was=after.was,
        label=after.label, labels=(start.labels_sha256, after.sha256), by=by,
    )  # fmt: skip
    return standing(session, analysis_id, scan_id)


def _start(session: Session, analysis_id: int, scan_id: int) -> _Start:
    analysis = analyses.get(session, analysis_id)
    scan = _scan(session, analysis.specimen, scan_id)
    stands = standing(session, analysis_id, scan_id)
    last = _last(session, analysis_id, scan_id)
    return _Start(scan.name, scan.image.sha256, stands.labels_sha256, stands.measures, last)


def _of_lesion(start: _Start, scan: Volume, voxel: Voxel, label: Label | None) -> _After | None:
    """What a lesion's correction leaves behind; None where it has that label. `label` None is what surrounds it."""
    labels = ct_files.labels(start.labels_sha256)
    place = tuple(int(index) for index in voxel)
    inside = len(place) == 3 and all(0 <= index < length for index, length in zip(place, labels.shape, strict=True))
    was = _LESIONS.get(int(labels[place])) if inside else None
    if was is None:
        raise InputError(f"No lesion of {start.name} lies there. Reload the page: it may have been corrected.")
    if was == label:
        return None
    d, h, w = place
    changed = measure.relabel(labels, (d, h, w), None if label is None else _NUMBERS[label])
    return _after(scan, changed, (d, h, w), was, LABELS.get(int(changed[place])))


def _without_kidney(start: _Start, scan: Volume, number: int, seen_sha256: str) -> _After:
    """What is left without a kidney."""
    if start.labels_sha256 != seen_sha256:
        raise Conflict(f"{start.name} has changed meanwhile. Look at its kidneys again, then remove one.")
    kidney = next((each for each in start.measures.kidneys if each.number == number), None)
    if kidney is None:
        raise InputError(f"{start.name} has no kidney {number}. Reload the page.")
    changed, voxel = measure.without_kidney(ct_files.labels(seen_sha256), scan.affine, number, hu=scan.hu)
    return _after(scan, changed, voxel, "fused kidney" if kidney.place == "fused" else _KIDNEYS[kidney.site], None)


def _after(
    scan: Volume, labels: Labels, voxel: tuple[int, int, int], was: CtLesion | CtKidney, label: str | None
) -> _After:
    """Measures labels that a correction left and puts them into the file store."""
    measures = measure.measure(labels, scan.affine, hu=scan.hu)
    sha256, size = ct_files.put_labels(labels, scan)
    return _After(voxel, was, label, sha256, size, measure.to_dict(measures), in_words(labels, measures))


def _thing(was: CtLesion | CtKidney) -> Literal["kidney", "lesion"]:
    """What a correction is about, as the audit trail names it."""
    return "kidney" if was in get_args(CtKidney) else "lesion"


def _scan(session: Session, specimen: Specimen, scan_id: int) -> CtScan:
    scan = session.get(CtScan, scan_id)
    if scan is None or scan.specimen_id != specimen.id:
        raise NotFound(f"Scan {scan_id} does not belong to study {specimen.accession}.")
    if scan.withdrawn_at is not None:
        raise NotFound(f"{scan.name} was withdrawn from study {specimen.accession}. Reload the page.")
    return scan


def _last(session: Session, analysis_id: int, scan_id: int) -> int:
    """The number of the last correction of a scan, 0 where there is none."""
    last = select(func.max(CtCorrection.id)).where(
        CtCorrection.analysis_id == analysis_id, CtCorrection.scan_id == scan_id
    )
    return session.scalar(last) or 0


class _Said(NamedTuple):
    """A row of a correction without what it leaves behind."""

    correction_id: int
    scan_id: int
    action: CtAction
    voxel: list[int] | None
    was: CtLesion | CtKidney | None
    label: str | None
    undone_id: int | None
    by: str
    by_id: int
    at: datetime


def _said(session: Session, analysis_id: int) -> dict[int, list[_Said]]:
    """Every correction of an analysis by its scan, oldest first."""
    said: dict[int, list[_Said]] = defaultdict(list)
    for row in session.execute(
        select(
            CtCorrection.id, CtCorrection.scan_id, CtCorrection.action, CtCorrection.voxel, CtCorrection.was,
            CtCorrection.label, CtCorrection.undone_id, func.coalesce(func.nullif(User.full_name, ""), User.username),
            CtCorrection.by_id, CtCorrection.at,
        )
        .join(User, User.id == CtCorrection.by_id)
        .where(CtCorrection.analysis_id == analysis_id)
        .order_by(CtCorrection.id)
    ):  # fmt: skip
        said[row.scan_id].append(_Said(*row))
    return said


def _not_undone(rows: Sequence[_Said]) -> tuple[Corrected, ...]:
    undone = {row.undone_id for row in rows}
    return tuple(
        Corrected(row.correction_id, row.action, _voxel(row.voxel), row.was, row.label, row.by, row.by_id, row.at)
        for row in rows
        if row.voxel is not None and row.was is not None and row.correction_id not in undone  # an undoing has neither
    )


def _voxel(index: Sequence[int]) -> tuple[int, int, int]:
    d, h, w = index
    return int(d), int(h), int(w)


def _record(
    session: Session,
    specimen: Specimen,
    scan: CtScan,
    analysis_id: int,
    action: str,
    voxel: Voxel,
    *,
    was: str | None,
    label: str | None,
    labels: tuple[str, str],
    by: User,
) -> None:
    audit.record(
        session,
        actor=by,
        action=action,
        entity="analysis",
        entity_id=analysis_id,
        old={"label": was, "labels_sha256": labels[0]},
        new={
            "accession": specimen.accession,
            "scan_id": scan.id,
            "scan": scan.name,
            "voxel": list(voxel),
            "label": label,
            "labels_sha256": labels[1],
        },
    )
