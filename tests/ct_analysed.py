"""CT studies of the tests, as a finished analysis leaves them in the database and in the file store."""

from __future__ import annotations

import gzip
import io
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import nibabel
import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from db import audit, ct_files, files, patients, specimens
from db.engine import now
from db.models import Analysis, CtFormat, CtResult, CtScan, Specimen, User
from renalcore.ct.measure import measure, to_dict
from renalcore.ct.predict import in_words
from renalcore.io.volume import Volume
from tests.db.records import MODEL
from tests.renalcore.ct.bright import LEFT, RIGHT, body

TUMOUR = ((0.0, 30.0, 74.0), (14.0, 14.0, 14.0))
"""In the left kidney: a ball of 28 mm."""

CYST = ((20.0, 30.0, -64.0), (10.0, 9.0, 9.0))
"""In the right one."""


@dataclass(frozen=True)
class Study:
    """An analysed study, its first scan, and what was found in it."""

    specimen: Specimen
    analysis: Analysis
    scan: CtScan
    volume: Volume
    labels: NDArray[np.uint8]


def drawn() -> tuple[Volume, NDArray[np.uint8]]:
    """Two kidneys, a tumour in the left one and a cyst in the right one."""
    return body([RIGHT, LEFT], tumours=[TUMOUR], cysts=[CYST])


def transplanted() -> tuple[Volume, NDArray[np.uint8]]:
    """Two native kidneys, and on the right one as large in the pelvis, with a tumour."""
    low = ((-140.0, 10.0, -64.0), RIGHT[1])
    return body([RIGHT, LEFT, low], tumours=[(low[0], TUMOUR[1])], shape=(90, 60, 80))


def stored_image(volume: Volume) -> bytes:
    """A volume as the store keeps it."""
    image = nibabel.Nifti1Image(volume.hu.transpose(2, 1, 0), np.diag([-1, -1, 1, 1]) @ volume.affine)
    return gzip.compress(image.to_bytes(), 1, mtime=0)


def analysed(
    session: Session, by: User, found: Sequence[tuple[Volume, NDArray[np.uint8]]] | None = None, *,
    accession: str = "CT-1", identifier: str = "H-1", collected_at: datetime | None = None, source: Path | None = None,
) -> Study:  # fmt: skip
    """A study of which each scan was analysed, its labels given; `source` is the DICOM archive of the only one."""
    scans = found or [drawn()]
    patient, _ = patients.found_or_new(session, identifier, None)
    specimen = Specimen(
        patient_id=patient.id, accession=accession, modality="ct", state="waiting", collected_at=collected_at,
        created_by_id=by.id, created_at=now(),
    )  # fmt: skip
    specimens.insert(session, specimen)
    rows = [
        _scan(session, specimen, position, volume, None if source is None else source.read_bytes())
        for position, (volume, _) in enumerate(scans)
    ]
    analysis = Analysis(
        specimen_id=specimen.id, **MODEL | {"model_key": "ct-segresnet"}, options={}, state="done",
        requested_by_id=by.id,
    )  # fmt: skip
    session.add(analysis)
    session.flush()
    for row, (volume, labels) in zip(rows, scans, strict=True):
        measures = measure(labels, volume.affine, hu=volume.hu)
        sha256, size = ct_files.put_labels(labels, volume)
        file = specimens.stored_file(session, sha256, size=size, media_type=ct_files.MEDIA_TYPE)
        session.add(
            CtResult(
                analysis_id=analysis.id, scan_id=row.id, labels_id=file.id, measures=to_dict(measures),
                words=in_words(labels, measures), seconds={"rough": 1.0}, worker="w1",
            )
        )  # fmt: skip
    specimen.state = "needs_review"
    audit.record(session, actor=by, action="specimen.register", entity="specimen", entity_id=specimen.id)
    session.flush()
    return Study(specimen, analysis, rows[0], *scans[0])


def _scan(session: Session, specimen: Specimen, position: int, volume: Volume, source: bytes | None) -> CtScan:
    image = stored_image(volume)
    kept = []
    for content, media_type in ((image, ct_files.MEDIA_TYPE), (source or image, "application/zip")):
        sha256, size = files.store().put(io.BytesIO(content))
        kept.append(specimens.stored_file(session, sha256, size=size, media_type=media_type).id)
    slices, height_px, width_px = volume.shape
    file_format: CtFormat = "DICOM" if source else "NIfTI"
    scan = CtScan(
        specimen_id=specimen.id, position=position, file_id=kept[1], image_id=kept[0], name=f"Scan {position + 1}",
        format=file_format, is_deidentified=True, phase="portal venous" if source else None, slices=slices,
        height_px=height_px, width_px=width_px, spacing_mm=list(volume.spacing_mm),
    )  # fmt: skip
    session.add(scan)
    session.flush()
    return scan
