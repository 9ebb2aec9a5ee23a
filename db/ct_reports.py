"""Reports of CT studies: the kidneys and lesions of each scan, before and after the study is signed.

A signed study reports what was signed, word for word; any other reports what stands now. Scans are never added up: the
phases of one examination show the same kidneys again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Final, Unpack

from sqlalchemy import select
from sqlalchemy.orm import Session

from db import ct_findings, reporting
from db.ct_findings import Corrected, Standing
from db.models import Analysis, CtFormat, CtScan, StoredFile
from db.reporting import Report, Signature, Which
from renalcore.ct.measure import RENAL_NOTE, Measures, from_dict, to_dict
from renalcore.errors import NotFound

BY_A_PERSON: Final = "Measured on labels reviewed by a person."
BY_THE_MODEL: Final = "Measured on the model's labels, which no person has released."


@dataclass(frozen=True, slots=True)
class ReportedScan:
    """What is reported of one scan.

    Attributes:
        scan_id: The scan.
        position: Its place in the study, from 0.
        name: What the laboratory calls it.
        sha256: Digest of its file.
        format: `DICOM` or `NIfTI`.
        phase: Words on the contrast phase; None where the files name none.
        slices: Number of slices.
        height_px: Height of a slice.
        width_px: Width of a slice.
        spacing_mm: Along slices, rows and columns.
        labels_sha256: Digest of the labels that were measured.
        measures: Kidneys and lesions, with all that is measured of them.
        words: Which there are, in one to three sentences.
        corrections: What people changed, oldest first.
        doubts: Doubts about its files, a sentence each, such as slices at uneven distances; none of reports that were
            signed before these were kept.
        by_hand: Numbers of the lesions that are not as the model outlined them; none of such reports either.
    """

    scan_id: int
    position: int
    name: str
    sha256: str
    format: CtFormat
    phase: str | None
    slices: int
    height_px: int
    width_px: int
    spacing_mm: tuple[float, float, float]
    labels_sha256: str
    measures: Measures
    words: str
    corrections: tuple[Corrected, ...]
    doubts: tuple[str, ...] = ()
    by_hand: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class CtReport(Report):
    """What is reported of one CT study.

    Attributes:
        scans: The scans that have a result and are not withdrawn, in their order.
        scans_total: All the study's scans that are not withdrawn.
        signature: The signature under this report; None where it is not signed as it stands.
        amendments: How often the report has been amended so far.
    """

    scans: tuple[ReportedScan, ...]
    scans_total: int
    signature: Signature | None
    amendments: int

    @property
    def measured_on(self) -> str:
        """Whose labels the measures rest on, as a sentence."""
        return BY_THE_MODEL if self.signature is None else BY_A_PERSON

    def scan(self, scan_id: int) -> ReportedScan:
        """What is reported of this scan.

        Raises:
            NotFound: The report does not hold it.
        """
        for scan in self.scans:
            if scan.scan_id == scan_id:
                return scan
        raise NotFound(f"The report of study {self.accession} has no result of scan {scan_id}. Reload the page.")


@dataclass(frozen=True, slots=True)
class VolumesAtOneTime:
    """The volumes of one scan, in ml, as a point of the patient's history.

    Attributes:
        scanned_at: When the patient was scanned, None where unknown: it has no place on an axis of time then.
        specimen_id: The study.
        accession: Its accession number.
        scan_id: The scan.
        scan: What the laboratory calls it.
        is_signed: Whether the report is signed as it stands.
        right_ml: The native kidney on the patient's right with its tumours and cysts; None where there is none.
        left_ml: The same on the left.
        side_unknown_ml: The same where the side cannot be told.
        pelvis_right_ml: A kidney in the pelvis or in front, on the right: a transplant or an ectopic one.
        pelvis_left_ml: The same on the left.
        pelvis_side_unknown_ml: The same where the side cannot be told.
        tumour_ml: All tumours.
        cyst_ml: All cysts.
    """

    scanned_at: datetime | None
    specimen_id: int
    accession: str
    scan_id: int
    scan: str
    is_signed: bool
    right_ml: float | None
    left_ml: float | None
    side_unknown_ml: float | None
    pelvis_right_ml: float | None
    pelvis_left_ml: float | None
    pelvis_side_unknown_ml: float | None
    tumour_ml: float
    cyst_ml: float


def report(session: Session, specimen_id: int) -> CtReport:
    """The report of a CT study as it stands, or as it was signed.

    Raises:
        NotFound: There is no such study.
    """
    found = _reports(session, [specimen_id])
    if not found:
        raise NotFound(f"There is no CT study {specimen_id}.")
    return found[0]


def patient_history(session: Session, patient_id: int) -> list[CtReport]:
    """The reports of a patient's CT studies that are analysed, signed or not, oldest first."""
    return reporting.oldest_first(_reports(session, reporting.chosen(session, "ct", patient_id=patient_id)))


def volumes(history: Sequence[CtReport]) -> list[VolumesAtOneTime]:
    """The volumes over time of the scans of these reports, in their order."""
    return [_volumes(one, scan) for one in history for scan in one.scans]


def for_export(session: Session, **which: Unpack[Which]) -> list[CtReport]:
    """The reports of the analysed CT studies that are asked for, in the order of registration.

    Raises:
        InputError: Nothing says which.
    """
    return _reports(session, reporting.chosen(session, "ct", **which))


def to_json(current: CtReport) -> dict[str, Any]:
    """What a signature keeps of a report: every kidney and lesion of each scan, and everything that they depend on."""
    return {
        "accession": current.accession,
        "collected_at": current.collected_at.isoformat() if current.collected_at else None,
        **reporting.rests_on(current),
        "scans": [_scan_to_json(scan) for scan in current.scans],
        "scans_total": current.scans_total,
        "measured_on": BY_A_PERSON,  # it is this person who signs
        "renal_note": RENAL_NOTE,
    }


def scans_of(snapshot: Mapping[str, Any]) -> tuple[ReportedScan, ...]:
    """The scans of a report that a signature kept, such as `reviews.history` gives."""
    return tuple(
        ReportedScan(
            **scan
            | {
                "spacing_mm": tuple(scan["spacing_mm"]),
                "measures": from_dict(scan["measures"]),
                "corrections": tuple(
                    Corrected(**one | {"voxel": tuple(one["voxel"]), "at": datetime.fromisoformat(one["at"])})
                    for one in scan["corrections"]
                ),
                "doubts": tuple(scan.get("doubts", ())),
                "by_hand": tuple(scan.get("by_hand", ())),
            }
        )
        for scan in snapshot["scans"]
    )


def _scan_to_json(scan: ReportedScan) -> dict[str, Any]:
    return {name: getattr(scan, name) for name in scan.__slots__} | {
        "spacing_mm": list(scan.spacing_mm),
        "measures": to_dict(scan.measures),
        "corrections": [asdict(one) | {"voxel": list(one.voxel), "at": one.at.isoformat()} for one in scan.corrections],
        "doubts": list(scan.doubts),
        "by_hand": list(scan.by_hand),
    }


def _reports(session: Session, specimen_ids: Sequence[int]) -> list[CtReport]:
    """Reports in the order of the ids; those of other modalities are left out."""
    return reporting.one_by_one(session, "ct", specimen_ids, as_signed=_as_signed, as_it_stands=_as_it_stands)


def _as_signed(said: Mapping[str, Any], kept: Mapping[str, Any]) -> CtReport:
    return CtReport(
        **said,
        scans=scans_of(kept),
        scans_total=kept["scans_total"],
    )


def _as_it_stands(session: Session, said: Mapping[str, Any], specimen_id: int, analysis: Analysis | None) -> CtReport:
    here = {
        scan.id: (scan, sha256)
        for scan, sha256 in session.execute(
            select(CtScan, StoredFile.sha256)
            .join(StoredFile, StoredFile.id == CtScan.file_id)
            .where(CtScan.specimen_id == specimen_id, CtScan.withdrawn_at.is_(None))
        )
    }
    stands = ct_findings.all_standing(session, analysis.id, list(here)) if analysis else []
    return CtReport(
        **said,
        scans=tuple(_scan(*here[found.scan_id], found) for found in stands),
        scans_total=len(here),
    )


def _scan(scan: CtScan, sha256: str, found: Standing) -> ReportedScan:
    slices, rows, columns = scan.spacing_mm
    return ReportedScan(
        scan_id=scan.id,
        position=scan.position,
        name=scan.name,
        sha256=sha256,
        format=scan.format,
        phase=scan.phase,
        slices=scan.slices,
        height_px=scan.height_px,
        width_px=scan.width_px,
        spacing_mm=(slices, rows, columns),
        labels_sha256=found.labels_sha256,
        measures=found.measures,
        words=found.words,
        corrections=found.corrections,
        doubts=tuple(flag["message"] for flag in scan.flags),
        by_hand=found.by_hand,
    )


def _volumes(one: CtReport, scan: ReportedScan) -> VolumesAtOneTime:
    kidneys = scan.measures.kidneys
    total = {
        site: sum(kidney.total_ml for kidney in kidneys if kidney.site == site)
        for site in {kidney.site for kidney in kidneys}
    }
    lesions = scan.measures.lesions
    return VolumesAtOneTime(
        scanned_at=one.collected_at,
        specimen_id=one.specimen_id,
        accession=one.accession,
        scan_id=scan.scan_id,
        scan=scan.name,
        is_signed=one.signature is not None,
        right_ml=total.get("right"),
        left_ml=total.get("left"),
        side_unknown_ml=total.get("middle"),
        pelvis_right_ml=total.get("pelvis_right"),
        pelvis_left_ml=total.get("pelvis_left"),
        pelvis_side_unknown_ml=total.get("pelvis_middle"),
        tumour_ml=sum(lesion.volume_ml for lesion in lesions if lesion.label == "tumour"),
        cyst_ml=sum(lesion.volume_ml for lesion in lesions if lesion.label == "cyst"),
    )
