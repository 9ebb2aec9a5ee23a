"""What is exported of CT studies: tables, labels on the grid of the scan, DICOM SEG and surfaces, read back."""

from __future__ import annotations

import csv
import gzip
import io
import zipfile
from datetime import UTC, datetime
from pathlib import Path

import highdicom
import nibabel
import numpy as np
import pydicom
import pytest
from sqlalchemy.orm import Session

from db import audit, ct_exports, ct_findings, reviews
from db.models import User
from renalcore.errors import InputError, NotFound
from renalcore.io.deidentify import deidentify
from renalcore.io.volume import read_volume, slice_headers
from tests.ct_analysed import Study, analysed, drawn, stored_image
from tests.ct_files import ct_series, saved
from tests.renalcore.ct.bright import LEFT, body

JUNE = datetime(2026, 6, 1, tzinfo=UTC)


@pytest.fixture(autouse=True)
def file_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RENAL_DATA", str(tmp_path))
    monkeypatch.setenv("RENAL_FILES", f"file://{tmp_path / 'files'}")


@pytest.fixture
def dicom(session: Session, technologist: User, tmp_path: Path) -> Study:
    """A study of one DICOM series, stored without the patient's name."""
    hu, labels = drawn()[0].hu, drawn()[1]
    series = ct_series(hu, step_mm=5.0, spacing=(4.0, 4.0), PatientName="Doe^Jane", FrameOfReferenceUID="1.2.3.9")
    done = deidentify(saved(tmp_path / "series", series), tmp_path / "series.zip", key=bytes(32))
    volume = read_volume(tmp_path / "series.zip")
    study = analysed(session, technologist, [(volume, labels)], source=tmp_path / "series.zip")
    study.scan.original_uids = dict(done.replaced)
    session.flush()
    return study


def lines(content: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(content.decode("utf-8-sig"))))


def test_tables_have_a_line_a_lesion_or_a_kidney_of_many_studies(
    session: Session, technologist: User, reviewer: User
) -> None:
    first = analysed(session, technologist, collected_at=JUNE)
    analysed(session, technologist, [body([LEFT])], accession="CT-2", identifier="H-2")
    where = first.analysis.id, first.scan.id
    tumour, _ = ct_findings.standing(session, *where).measures.lesions
    first.scan.flags = [{"code": "uneven_spacing", "message": "Volumes may be off by as much."}]
    ct_findings.relabel(session, *where, tumour.voxel, "cyst", by=technologist)
    reviews.sign(session, first.specimen.id, by=reviewer, meaning="Released")
    many = {"by": technologist, "file_name": "all.csv", "entity": "specimens", "entity_id": "2026", "since": JUNE}
    assert lines(ct_exports.to_csv(session, "lesions", **many | {"until": JUNE})) == []
    larger, smaller = lines(ct_exports.to_csv(session, "lesions", **many))
    assert (larger["patient"], larger["accession"], larger["scan"], larger["scanned_at"]) == (
        "H-1", "CT-1", "Scan 1", "2026-06-01T00:00:00Z",
    )  # fmt: skip
    assert [(row["label"], row["side"], row["renal_r"]) for row in (larger, smaller)] == [
        ("cyst", "left", ""), ("cyst", "right", ""),
    ]  # fmt: skip
    assert float(larger["volume_ml"]) == pytest.approx(tumour.volume_ml)
    assert (larger["corrections"], larger["reviewed"], larger["signed_by"]) == ("1", "yes", "Rita of the lab")
    kidneys = lines(ct_exports.to_csv(session, "kidneys", **many))
    assert [(row["accession"], row["side"], row["cysts"], row["reviewed"]) for row in kidneys] == [
        ("CT-1", "right", "1", "yes"), ("CT-1", "left", "1", "yes"), ("CT-2", "left", "0", "no"),
    ]  # fmt: skip
    doubts = [row["doubts"] for row in (larger, *kidneys)]
    assert doubts == ["Volumes may be off by as much."] * 3 + [""]
    (event,) = audit.events(session, action="export.csv", limit=1)
    assert (event.entity, event.new) == ("specimens", {"file_name": "all.csv", "table": "kidneys", "rows": 3})


def test_labels_leave_on_the_very_grid_of_the_scan_as_they_stand(session: Session, technologist: User) -> None:
    study = analysed(session, technologist)
    where = study.analysis.id, study.scan.id
    _, cyst = ct_findings.standing(session, *where).measures.lesions
    ct_findings.remove(session, *where, cyst.voxel, by=technologist)
    content = ct_exports.to_nifti(session, study.scan.id, by=technologist, file_name="CT-1.nii.gz")
    labels, image = (
        nibabel.Nifti1Image.from_bytes(gzip.decompress(packed)) for packed in (content, stored_image(study.volume))
    )
    assert np.array_equal(labels.affine, image.affine)
    expected = np.where(study.labels == 3, 1, study.labels)
    assert np.array_equal(np.asarray(labels.dataobj).transpose(2, 1, 0), expected)
    (event,) = audit.events(session, action="export.nifti")
    assert event.new is not None
    assert (event.entity, event.new["accession"], event.new["scan"]) == ("scan", "CT-1", "Scan 1")
    with pytest.raises(InputError, match="Scan 1: This scan was uploaded as NIfTI: there is no DICOM series"):
        ct_exports.to_dicom_seg(session, study.scan.id, by=technologist, file_name="CT-1.dcm")
    with pytest.raises(NotFound, match="There is no scan 99"):
        ct_exports.to_nifti(session, 99, by=technologist, file_name="CT-1.nii.gz")


def test_a_dicom_seg_lies_on_the_series_that_was_uploaded_frame_by_frame_and_names_nobody(
    session: Session, dicom: Study, technologist: User, reviewer: User, tmp_path: Path
) -> None:
    reviews.sign(session, dicom.specimen.id, by=reviewer, meaning="Released")
    content = ct_exports.to_dicom_seg(session, dicom.scan.id, by=technologist, file_name="CT-1.dcm")
    assert b"Doe" not in content
    file = pydicom.dcmread(io.BytesIO(content))
    headers = slice_headers(tmp_path / "series")
    heights = {header.SOPInstanceUID: float(header.ImagePositionPatient[2]) for header in headers}
    assert (file.StudyInstanceUID, file.FrameOfReferenceUID) == ("1.2.3", "1.2.3.9")
    assert file.ReferencedSeriesSequence[0].SeriesInstanceUID == "1.2.3.4"
    assert [(one.SegmentLabel, one.SegmentAlgorithmType) for one in file.SegmentSequence] == [
        (name, "SEMIAUTOMATIC") for name in ("Right kidney", "Right cyst", "Left kidney", "Left tumour")
    ]
    for frame in file.PerFrameFunctionalGroupsSequence:
        (reference,) = frame.DerivationImageSequence[0].SourceImageSequence
        height = float(frame.PlanePositionSequence[0].ImagePositionPatient[2])
        assert heights[reference.ReferencedSOPInstanceUID] == pytest.approx(height)
    read = highdicom.seg.segread(io.BytesIO(content))
    place = highdicom.VolumeGeometry(
        dicom.volume.affine[:, [2, 1, 0, 3]], dicom.volume.shape, "PATIENT",
        frame_of_reference_uid=file.FrameOfReferenceUID,
    )  # fmt: skip
    back = read.get_volume(combine_segments=True).match_geometry(place).array
    np.testing.assert_array_equal(np.array([0, 1, 3, 1, 2])[back], dicom.labels)
    assert len(audit.events(session, action="export.dicom_seg")) == 1


def test_a_dicom_seg_of_a_scan_whose_identifiers_were_not_kept_refers_to_it_as_it_is_stored(
    session: Session, dicom: Study, technologist: User, tmp_path: Path
) -> None:
    dicom.scan.original_uids = None
    session.flush()
    content = ct_exports.to_dicom_seg(session, dicom.scan.id, by=technologist, file_name="CT-1.dcm")
    (stored, *_) = slice_headers(tmp_path / "series.zip")
    file = pydicom.dcmread(io.BytesIO(content))
    assert file.ReferencedSeriesSequence[0].SeriesInstanceUID == stored.SeriesInstanceUID != "1.2.3.4"


def test_surfaces_leave_in_lps_mm_and_nothing_has_none(session: Session, technologist: User) -> None:
    empty = body([])[0], np.zeros((60, 60, 80), np.uint8)
    nothing = analysed(session, technologist, [empty], accession="CT-0")
    study = analysed(session, technologist)
    content = ct_exports.to_stl(session, study.scan.id, by=technologist, file_name="CT-1.zip")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert sorted(archive.namelist()) == [
            "cyst-right.stl",
            "kidney-left.stl",
            "kidney-right.stl",
            "tumour-left.stl",
        ]
        stl = archive.read("kidney-left.stl")
    assert stl.startswith(b"SPACE=LPS unit mm kidney-left")
    faces = np.frombuffer(stl, np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("end", "<u2")]), offset=84)
    middle = (faces["corners"].reshape(-1, 3).min(0) + faces["corners"].reshape(-1, 3).max(0)) / 2
    (z, y, x), _ = LEFT
    assert middle == pytest.approx([x, y, z], abs=3), "half a voxel of 5 mm"
    with pytest.raises(InputError, match="Scan 1: nothing is labelled, so there is no surface to export"):
        ct_exports.to_stl(session, nothing.scan.id, by=technologist, file_name="CT-0.zip")
