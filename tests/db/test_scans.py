from __future__ import annotations

import gzip
import io
import tarfile
import tracemalloc
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from db import audit, ct_files, ct_findings, ct_intake, ct_list, scans, slide_list, slides, uploads, worklist
from db.files import store
from db.models import StoredFile, Upload, User
from db.uploads import CheckedStudy
from renalcore.errors import Conflict, InputError, NotFound, StorageFull, UnreadableFile
from renalcore.io.volume import find_series, read_volume
from renalcore.io.volume.identity import stated
from tests.ct_analysed import analysed, drawn
from tests.ct_files import body, ct_series, two_phases
from tests.ct_uploads import nifti, prepared, registered, taken_over, tarred, uploaded
from tests.db.records import Register
from tests.renalcore.ct import bright

HU = body(12, 32, 40)
NAMED = {"PatientName": "Secret^Maria", "PatientID": "4711", "StudyDate": "20240229", "InstitutionName": "Secret Hall"}


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The data folder of the settings."""
    monkeypatch.setenv("RENAL_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def portal(hu: Any = HU, *, series: str = "1.4", number: int = 4) -> list[Any]:
    return ct_series(hu, series=series, number=number, SeriesDescription="Secret portal", **NAMED)


def arrived(content: bytes) -> Upload:
    """A complete upload that no database knows."""
    upload = Upload(key="k", modality="ct", name="a disc")
    part = uploads.part_of(upload)
    part.parent.mkdir(parents=True)
    part.write_bytes(content)
    upload.found = asdict(CheckedStudy(tuple(find_series(part, name="scan"))))
    return upload


def local(sha256: str, data: Path) -> Path:
    return store().local(sha256, copies=data)


def unpacked(path: Path) -> bytes:
    """All that a stored file holds: an archive, or a volume packed by gzip."""
    if not zipfile.is_zipfile(path):
        return gzip.decompress(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        return b"".join(archive.read(name) for name in archive.namelist())


def test_a_series_is_chosen_and_stored_without_the_patient_and_as_a_volume(
    session: Session, technologist: User, data: Path
) -> None:
    scout = ct_series(HU[:1], series="1.1", number=1, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"], **NAMED)
    upload = uploaded(session, technologist, tarred([*scout, *portal(), *portal(HU + 9, series="1.5", number=5)]))
    four, five, refused = CheckedStudy.of(upload).series
    assert (four.key, four.slices, four.spacing_mm, four.phase) == (
        "4",
        12,
        pytest.approx((2.5, 0.8, 0.7)),
        "portal venous",
    )
    assert (five.key, refused.refused[:41]) == ("5", "Only scout views (localisers). Choose the")
    assert "Secret" not in str(upload.found)
    specimen = registered(session, technologist, prepared(upload, "5", name=" portal  1 "), prepared(upload, "4"))
    first, second = scans.of_specimen(session, specimen.id)
    assert (first.name, first.format, first.phase, first.slices, first.is_deidentified) == (
        "portal 1", "DICOM", "portal venous", 12, True,
    )  # fmt: skip
    assert (second.name, second.spacing_mm) == ("Scan 2", pytest.approx([2.5, 0.8, 0.7]))
    assert [flag["code"] for flag in second.flags] == ["few_slices"]
    for scan, hu in ((first, HU + 9), (second, HU)):
        for file in (scan.file, scan.image):
            assert np.array_equal(read_volume(local(file.sha256, data)).hu, np.maximum(hu, -1024))
            assert b"Secret" not in unpacked(local(file.sha256, data))
    (said,) = stated(local(first.file.sha256, data))
    assert (said.patient_name, said.patient_number, said.scanned_at) == ("", "", None)
    known = first.original_uids
    assert known is not None
    assert {"1.2.3", "1.5"} < set(known.values()), "study and series, for a DICOM SEG"
    assert len(known) == 2 + 12
    assert uploads.of_user(session, technologist, "ct") == []
    session.commit()
    assert list((data / "uploads").iterdir()) == []
    (event,) = audit.events(session, action="specimen.register")
    assert [scan["sha256"] for scan in event.new["scans"]] == [first.file.sha256, second.file.sha256]


def test_names_stay_in_the_stored_files_only_where_the_uploader_says_so(
    session: Session, technologist: User, data: Path
) -> None:
    upload = uploaded(session, technologist, tarred(portal()))
    specimen = registered(session, technologist, prepared(upload, "4", keeps_identity=True))
    (scan,) = scans.of_specimen(session, specimen.id)
    assert not scan.is_deidentified
    assert scan.original_uids is None, "they are in the files"
    assert stated(local(scan.file.sha256, data))[0].patient_name == "Secret, Maria"
    assert b"Secret" in unpacked(local(scan.file.sha256, data))
    assert b"Secret" not in unpacked(local(scan.image.sha256, data))


def test_a_real_study_is_stored_as_it_was_read_and_still_compressed(data: Path, shared_data: Path) -> None:
    folder = shared_data / "ct/totalseg_example/dicom_jpeg2000"
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        archive.add(folder, "disc")
    upload = arrived(packed.getvalue())
    (found,) = CheckedStudy.of(upload).series
    made = ct_intake.prepare(upload, found.key, key=bytes(32))
    original, stored, image = (read_volume(path) for path in (folder, made.file.path, made.image.path))
    for volume in (stored, image):
        assert np.array_equal(volume.hu, original.hu)
        assert np.array_equal(volume.affine, original.affine), "so that `renalcore predict` finds the same"
    assert made.file.size_bytes < 1.2 * sum(path.stat().st_size for path in folder.iterdir())


TWO_PHASES = two_phases(HU, HU + 5, told_by="TemporalPositionIndex")


@pytest.mark.parametrize(
    ("datasets", "series", "hu"),
    [
        ([TWO_PHASES], "3b", HU),
        ([*portal(series="1.1"), *portal(HU + 9, series="1.2")], "4b", HU + 9),
    ],
    ids=["second phase of a file", "two series of one number"],
)
def test_the_very_series_that_was_chosen_is_stored(datasets: Any, series: str, hu: Any, data: Path) -> None:
    made = ct_intake.prepare(arrived(tarred(datasets)), series, key=bytes(32))
    assert np.array_equal(read_volume(made.image.path).hu, np.maximum(hu, -1024))


def test_a_phase_that_cannot_be_told_from_another_is_not_taken_for_it(data: Path) -> None:
    upload = arrived(tarred([*portal(HU + 9, series="1.1", number=3), TWO_PHASES]))
    assert np.array_equal(read_volume(ct_intake.prepare(upload, "3", key=bytes(32)).image.path).hu, HU + 9)
    for phase in ("3b", "3c"):
        with pytest.raises(UnreadableFile, match=r"Several series have the number 3, .* Upload that file alone\."):
            ct_intake.prepare(upload, phase, key=bytes(32))


def test_both_phases_of_one_file_are_scans_of_one_study(session: Session, technologist: User, data: Path) -> None:
    upload = uploaded(session, technologist, tarred([TWO_PHASES]))
    specimen = registered(session, technologist, prepared(upload, "3"), prepared(upload, "3b"))
    of_3, of_3b = (read_volume(local(one.image.sha256, data)).hu for one in scans.of_specimen(session, specimen.id))
    assert np.array_equal(of_3b, np.maximum(HU, -1024))
    assert np.array_equal(of_3, np.maximum(HU + 5, -1024))
    with pytest.raises(InputError, match=r"Several phases lie in one DICOM file, .* Export the labels as NIfTI"):
        ct_files.headers(scans.get(session, 1).file.sha256)


def test_nifti_is_stored_once_and_the_same_scan_is_known_again_whatever_form_it_comes_in(
    session: Session, technologist: User, data: Path
) -> None:
    upload = uploaded(session, technologist, tarred(portal()))
    first = prepared(upload, "4")
    volume = read_volume(first.prepared.image.path)
    registered(session, technologist, first)
    again = uploaded(session, technologist, nifti(volume), modified_ms=2)
    (series,) = CheckedStudy.of(again).series
    assert (series.format, series.key) == ("NIfTI", "scan")
    second = prepared(again, series.key)
    assert second.prepared.file == second.prepared.image
    assert scans.seen_before(session, second.prepared.image.sha256) == ["CT-1"]
    registered(session, technologist, second, accession="CT-2")
    assert len(session.scalars(select(StoredFile)).all()) == 2, "an archive and one volume"
    third = prepared(uploaded(session, technologist, tarred(portal()), modified_ms=3), "4", key=bytes(range(32)))
    assert third.prepared.file.sha256 != first.prepared.file.sha256, "another key, other identifiers"
    specimen = scans.get(session, 1).specimen
    with pytest.raises(Conflict, match=r"Scan 2 is in study CT-1 already\. Leave it out"):
        scans.add(session, specimen.id, [third], by=technologist)
    scans.withdraw(session, 1, by=technologist, reason="wrong patient")
    assert scans.seen_before(session, third.prepared.image.sha256) == ["CT-2"]
    with pytest.raises(Conflict, match="bring it back instead"):
        scans.add(session, specimen.id, [third], by=technologist)


def test_a_scan_is_withdrawn_with_a_reason_brought_back_and_never_added_to_urine(
    session: Session, technologist: User, register: Register
) -> None:
    specimen = registered(session, technologist, prepared(uploaded(session, technologist, tarred(portal())), "4"))
    with pytest.raises(InputError, match="Say why Scan 1"):
        scans.withdraw(session, 1, by=technologist, reason=" ")
    scans.withdraw(session, 1, by=technologist, reason="motion")
    assert scans.of_specimen(session, specimen.id) == []
    assert [scan.name for scan in scans.withdrawn(session, specimen.id)] == ["Scan 1"]
    scans.bring_back(session, 1, by=technologist)
    (event,) = audit.events(session, action="specimen.withdraw_scan")
    assert (event.reason, event.old, event.new["scans"], event.new["name"]) == ("motion", {"scans": 1}, 0, "Scan 1")
    other = prepared(uploaded(session, technologist, tarred(portal(HU + 1))), "4")
    with taken_over(session, technologist, other):
        scans.add(session, specimen.id, [other], by=technologist)
    assert [scan.name for scan in scans.of_specimen(session, specimen.id)] == ["Scan 1", "Scan 2"]
    third = prepared(uploaded(session, technologist, tarred(portal(HU + 2))), "4")
    with pytest.raises(Conflict, match="A-1 is no CT study"):
        scans.add(session, register("A-1").id, [third], by=technologist)
    with pytest.raises(Conflict, match="CT-1 is no kidney tissue"):
        slides.add(session, specimen.id, [], by=technologist)


def test_what_is_no_ct_is_refused_with_the_reason_of_each_series(session: Session, technologist: User) -> None:
    few = ct_series(HU[:3], series="1.2", number=2, **NAMED)
    angiogram = ct_series(HU, series="1.3", number=3, Modality="MR", **NAMED)
    with pytest.raises(UnreadableFile) as error:
        uploaded(session, technologist, tarred([*few, *angiogram]), name="Maria Secret")
    assert "Series 2: Only 3 slices; 5 are the least" in str(error.value)
    assert "Series 3: MR, not CT. Choose a CT series" in str(error.value)
    with pytest.raises(UnreadableFile, match=r"text\. Choose the DICOM files") as error:
        uploaded(session, technologist, b"Maria Secret, born 1960\n" * 40, name="Maria Secret")
    assert "Maria" not in str(error.value)


def test_a_scan_that_finds_the_disk_full_or_its_upload_gone_leaves_nothing_behind(
    session: Session, technologist: User, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = uploaded(session, technologist, tarred(portal()))

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(ct_intake, "write_image", full)
        with pytest.raises(StorageFull, match="The disk of the server is full"):
            ct_intake.prepare(upload, "4", key=bytes(32))
    assert list((data / "uploads").iterdir()) == [uploads.part_of(upload)]
    made = ct_intake.prepare(upload, "4", key=bytes(32))
    made.image.path.unlink()
    with (
        pytest.raises(NotFound, match="no longer on the server"),
        uploads.taken_over(session, ct_intake.files_of([made]), {upload.key}, by=technologist),
    ):
        pass
    assert uploads.of_user(session, technologist, "ct") == [upload]
    uploads.discard(session, upload)
    assert list((data / "uploads").iterdir()) == []


def test_making_a_scan_ready_takes_little_more_memory_than_its_volume_once(data: Path) -> None:
    hu = np.random.default_rng(1).integers(-900, 900, (24, 256, 256)).astype(np.int16)
    upload = arrived(tarred(ct_series(hu)))
    ct_intake.prepare(upload, "3", key=bytes(32))  # what is loaded once does not count
    shares: list[float] = []
    tracemalloc.start()
    ct_intake.prepare(upload, "3", key=bytes(32), progress=shares.append)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2.2 * hu.nbytes  # 3.1 MB, and a slice, a header and what packs them at a time
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_a_study_that_is_refused_leaves_nothing_in_the_store_and_can_be_registered_under_another_number(
    session: Session, technologist: User, other_technologist: User
) -> None:
    registered(session, technologist, prepared(uploaded(session, technologist, tarred(portal())), "4"))
    before = set(store().names())
    named = prepared(uploaded(session, technologist, tarred(portal(HU + 1)), modified_ms=2), "4", keeps_identity=True)
    with pytest.raises(Conflict, match="CT-1 is already registered"):
        registered(session, technologist, named)
    with session.begin_nested() as refused:
        with pytest.raises(NotFound, match="There is no such upload"):
            registered(session, other_technologist, named, accession="CT-2")
        refused.rollback()
    assert set(store().names()) == before
    specimen = registered(session, technologist, named, accession="CT-2")
    (scan,) = scans.of_specimen(session, specimen.id)
    assert set(store().names()) - before == {scan.file.sha256, scan.image.sha256}


def test_studies_are_listed_apart_from_slides_and_urine_with_their_scans(
    session: Session, technologist: User, register: Register
) -> None:
    register("A-1")
    for accession, hu in (("CT-1", HU), ("CT-2", HU + 1)):
        new = prepared(uploaded(session, technologist, tarred(portal(hu))), "4", name="portal")
        registered(session, technologist, new, accession=accession)
    scans.withdraw(session, 2, by=technologist, reason="motion")
    counts = ct_list.state_counts(session)
    assert (counts["not_analysed"], sum(counts.values())) == (2, 2)
    assert sum(slide_list.state_counts(session).values()) == 0
    page = ct_list.page(session, state="not_analysed", text="ct-")
    assert [(row.accession, row.state, [scan.name for scan in row.scans]) for row in page.rows] == [
        ("CT-2", "not_analysed", ["portal"]),
        ("CT-1", "not_analysed", ["portal"]),
    ]
    assert ct_list.page(session, text="A-1").total == 0
    assert ct_list.page(session, state="waiting").total == 0
    assert [row.accession for row in worklist.page(session).rows] == ["A-1"]


def test_the_list_tells_how_many_lesions_each_scan_of_a_study_has_after_its_corrections(
    session: Session, technologist: User
) -> None:
    study = analysed(session, technologist, [drawn(), bright.body([bright.RIGHT])])
    (row,) = ct_list.page(session).rows
    assert (row.state, row.lesions) == ("needs_review", (2, 0))
    lesion, *_ = ct_findings.standing(session, study.analysis.id, study.scan.id).measures.lesions
    ct_findings.remove(session, study.analysis.id, study.scan.id, lesion.voxel, by=technologist)
    assert ct_list.page(session).rows[0].lesions == (1, 0)
    ct_findings.undo_last(session, study.analysis.id, study.scan.id, by=technologist)
    assert ct_list.page(session).rows[0].lesions == (2, 0)
