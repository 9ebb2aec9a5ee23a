"""CT studies that the tests bring in as people do: uploaded, made ready, registered."""

from __future__ import annotations

import io
import tarfile
import tempfile
from collections.abc import Sequence
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset
from sqlalchemy.orm import Session

from db import ct_intake, scans, uploads
from db.models import Specimen, Upload, User
from db.scans import NewScan
from db.uploads import Part
from renalcore.io.volume import Volume, write_image


def tarred(datasets: Sequence[Dataset]) -> bytes:
    """DICOM files in one tar archive, named by numbers, as the browser sends a folder."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for number, dataset in enumerate(datasets, start=1):
            content = io.BytesIO()
            dataset.save_as(content, enforce_file_format=True)
            member = tarfile.TarInfo(f"{number:06d}")
            member.size = content.tell()
            content.seek(0)
            archive.addfile(member, content)
    return packed.getvalue()


def nifti(volume: Volume) -> bytes:
    """A volume as a compressed NIfTI file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ct.nii.gz"
        write_image(path, volume)
        return path.read_bytes()


def uploaded(session: Session, by: User, content: bytes, *, name: str = "study", modified_ms: int = 1) -> Upload:
    """A complete upload of CT."""
    upload = uploads.begin(session, name=name, size=len(content), modified_ms=modified_ms, by=by, modality="ct")
    with closing(Part(upload, at=0)) as part:
        part.write(content)
        uploads.complete(session, upload, *part.check())
    return upload


def prepared(upload: Upload, series: str, *, name: str = "", **options: Any) -> NewScan:
    """One series of an upload, ready to be registered."""
    return NewScan(prepared=ct_intake.prepare(upload, series, **{"key": bytes(32)} | options), name=name)


def taken_over(session: Session, by: User, *new: NewScan) -> AbstractContextManager[None]:
    """A block that registers these scans, as the form does."""
    made = [one.prepared for one in new]
    return uploads.taken_over(session, ct_intake.files_of(made), {one.upload_key for one in made}, by=by)


def registered(session: Session, by: User, *new: NewScan, accession: str = "CT-1", **changes: Any) -> Specimen:
    """A study of patient H-1 with these scans."""
    values = {"identifier": "H-1", "patient_name": None, "accession": accession, "collected_at": None} | changes
    with taken_over(session, by, *new):
        return scans.register(session, **values, scans=new, by=by)
