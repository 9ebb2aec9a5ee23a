"""Exports of what CT studies report, as it stands or as it was signed; each is written into the audit trail.

What is made of a scan's labels takes seconds: it is made before the database is asked for anything but what stands, so
that nobody waits for it.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Unpack

from sqlalchemy.orm import Session

from db import audit, ct_files, ct_reports, files, reporting, scans
from db.ct_reports import CtReport, ReportedScan
from db.engine import beforehand
from db.models import User
from db.reporting import Which
from renalcore.ct.measure import sites
from renalcore.errors import InputError
from renalcore.export import meshes
from renalcore.export.ct import ScanOfReport, reported_kidneys_to_csv, reported_lesions_to_csv
from renalcore.export.dicom_seg import dicom_seg

Table = Literal["lesions", "kidneys"]

NO_DICOM_SEG = (
    "This scan was uploaded as NIfTI: there is no DICOM series that a DICOM SEG could refer to. Export its labels as "
    "NIfTI, or upload the DICOM series."
)
"""Why there is no DICOM SEG of a scan without DICOM."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """A reported scan, where its files are, and the identifiers that it came with."""

    report: CtReport
    scan: ReportedScan
    image_sha256: str
    original_uids: Mapping[str, str]


def to_csv(
    session: Session,
    table: Table,
    *,
    by: User,
    file_name: str,
    entity: str,
    entity_id: int | str,
    **which: Unpack[Which],
) -> bytes:
    """A CSV file with a line for each lesion, or for each kidney.

    Args:
        session: A session in which nothing was asked yet, so that the database stays free while it is made.
        table: Which of the two.
        by: Who exports.
        file_name: Name of the file, for the audit trail.
        entity: What is exported, for the audit trail: `specimen`, `patient` or `specimens`.
        entity_id: Which one.
        **which: Which studies, see `reporting.Which`.

    Raises:
        InputError: Nothing says which studies.
    """
    with beforehand(session) as reading:
        found = ct_reports.for_export(reading, **which)
    reported = [_scan(one, scan) for one in found for scan in one.scans]
    held = [scan.measures.lesions if table == "lesions" else scan.measures.kidneys for scan in reported]
    content = reported_lesions_to_csv(reported) if table == "lesions" else reported_kidneys_to_csv(reported)
    audit.record(
        session,
        actor=by,
        action="export.csv",
        entity=entity,
        entity_id=entity_id,
        new={"file_name": file_name, "table": table, "rows": sum(map(len, held))},
    )
    return content


def to_nifti(session: Session, scan_id: int, *, by: User, file_name: str) -> bytes:
    """The labels of a scan as NIfTI on its own grid: 0 background, 1 kidney, 2 tumour, 3 cyst.

    Raises:
        NotFound: There is no such scan, or it has no result.
    """
    with beforehand(session) as reading:
        asked = _asked(reading, scan_id)
    content = files.store().read(asked.scan.labels_sha256)
    _record(session, asked, "export.nifti", by=by, file_name=file_name)
    return content


def to_dicom_seg(session: Session, scan_id: int, *, by: User, file_name: str) -> bytes:
    """The labels of a scan as DICOM Segmentation that refers to the series that was uploaded.

    Also of a scan stored without the patient: the identifiers of its study, series, frame of reference and images come
    back, and nothing else does. A scan registered before they were kept is referred to as it is stored here.

    Args:
        session: A session in which nothing was asked yet, so that the database stays free while it is made.
        scan_id: The scan.
        by: Who exports.
        file_name: Name of the file, for the audit trail.

    Raises:
        InputError: The scan is no DICOM, nothing is labelled, or its series cannot be referred to.
        NotFound: There is no such scan, or it has no result.
    """
    with beforehand(session) as reading:
        asked = _asked(reading, scan_id)
    scan = asked.scan
    if scan.format != "DICOM":
        raise InputError(f"{scan.name}: {NO_DICOM_SEG}")
    from renalcore.io.deidentify import restore_identifiers  # which loads the readers of DICOM

    headers = ct_files.headers(scan.sha256)
    restore_identifiers(headers, asked.original_uids)
    with ct_files.at_hand(asked.image_sha256, name=scan.name) as volume:
        labels = ct_files.labels(scan.labels_sha256)
        content = dicom_seg(
            labels,
            sites(labels, volume.affine, hu=volume.hu),
            volume.affine,
            headers,
            algorithm=asked.report.model_key or "",
            version=asked.report.code_version or "",
            reviewed=asked.report.signature is not None or bool(scan.corrections),
        )
    _record(session, asked, "export.dicom_seg", by=by, file_name=file_name)
    return content


def to_stl(session: Session, scan_id: int, *, by: User, file_name: str) -> bytes:
    """A zip archive with a surface in LPS mm for each label and site that holds something, as binary STL.

    Args:
        session: A session in which nothing was asked yet, so that the database stays free while it is made.
        scan_id: The scan.
        by: Who exports.
        file_name: Name of the file, for the audit trail.

    Raises:
        InputError: Nothing is labelled.
        NotFound: There is no such scan, or it has no result.
    """
    with beforehand(session) as reading:
        asked = _asked(reading, scan_id)
    content = io.BytesIO()
    with ct_files.at_hand(asked.image_sha256, name=asked.scan.name) as volume:
        labels = ct_files.labels(asked.scan.labels_sha256)
        if not labels.any():
            raise InputError(f"{asked.scan.name}: nothing is labelled, so there is no surface to export.")
        with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, surface in meshes.surfaces(labels, sites(labels, volume.affine, hu=volume.hu), volume.affine):
                archive.writestr(f"{name}.stl", meshes.to_stl(surface, name=name))
    _record(session, asked, "export.stl", by=by, file_name=file_name)
    return content.getvalue()


def _asked(session: Session, scan_id: int) -> _Asked:
    scan = scans.get(session, scan_id)
    report = ct_reports.report(session, scan.specimen_id)
    return _Asked(report, report.scan(scan_id), scan.image.sha256, scan.original_uids or {})


def _record(session: Session, asked: _Asked, action: str, *, by: User, file_name: str) -> None:
    audit.record(
        session,
        actor=by,
        action=action,
        entity="scan",
        entity_id=asked.scan.scan_id,
        new={
            "file_name": file_name,
            "accession": asked.report.accession,
            "scan": asked.scan.name,
            "labels_sha256": asked.scan.labels_sha256,
        },
    )


def _scan(report: CtReport, scan: ReportedScan) -> ScanOfReport:
    return ScanOfReport(
        patient=report.patient_identifier,
        accession=report.accession,
        scanned_at=report.collected_at,
        scan=scan.name,
        phase=scan.phase,
        measures=scan.measures,
        corrections=len(scan.corrections),
        doubts=scan.doubts,
        whence=reporting.whence(report, report.signature, report.amendments),
    )
