"""Slides in many files: uploaded as one, stored as one without the patient, unpacked once to be read."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import tarfile
from concurrent.futures import wait
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy.orm import Session

from db import files, slide_files, slides, uploads, watched
from db.models import Upload, User
from db.slides import NewSlide
from db.uploads import Checked, Part
from renalcore.errors import DamagedFile, StorageFull, UnreadableFile
from renalcore.io.slide.packed import Packing, is_unpacked, unpack
from tests import mirax_files
from tests.dicom_slides import WIDTH_PX, a_dicom_slide, a_field, packed
from tests.mirax_files import a_mirax_slide
from tests.slide_files import unpacked_by_another
from tests.vendor_slides import SECRET, write_scn


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The data folder of the settings."""
    monkeypatch.setenv("RENAL_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def sent(session: Session, by: User, content: bytes, *, name: str, modified_ms: int = 1) -> Upload:
    """An upload of which all is here."""
    upload = uploads.begin(session, name=name, size=len(content), modified_ms=modified_ms, by=by)
    with closing(Part(upload, at=0)) as part:
        part.write(content)
        uploads.complete(session, upload, *part.check())
    return upload


def stored(tmp_path: Path, *, series: str = "1.2.3") -> str:
    """Digest of a packed DICOM slide in the file store."""
    path = packed(a_dicom_slide(tmp_path / series, series=series, label=False), tmp_path / f"{series}.tar")
    with path.open("rb") as content:
        return files.store().put(content)[0]


def unpacked(data: Path) -> set[str]:
    return {path.name for path in (data / "unpacked").iterdir()}


def test_a_dicom_slide_is_uploaded_as_one_stored_without_the_patient_and_the_same_each_time(
    session: Session, technologist: User, tmp_path: Path, data: Path
) -> None:
    content = packed(a_dicom_slide(tmp_path / "Maria"), tmp_path / "came").read_bytes()
    upload, again = (sent(session, technologist, content, name="Maria (4 files)", modified_ms=at) for at in (1, 2))
    assert upload.sha256 == again.sha256
    assert unpacked(data) == {upload.sha256}, "what was unpacked to be checked is there to be looked at"
    found = Checked.of(upload)
    assert (found.format, found.width_px, found.um_per_px, found.objective) == ("DICOM slide", WIDTH_PX, 0.5, 20)
    uploads.discard(session, again)
    assert unpacked(data) == set(), "nothing stays of what is given up"
    new = NewSlide(upload=upload, name="A1", stain="PAS", species="human", um_per_px=None)
    with uploads.taken_over(session, uploads.file_of(upload), {upload.key}, by=technologist):
        specimen = slides.register(
            session, identifier="H-1", patient_name=None, accession="K-1", collected_at=None, slides=[new],
            by=technologist,
        )  # fmt: skip
    (slide,) = slides.of_specimen(session, specimen.id)
    kept = files.store().read(slide.file.sha256)
    assert slide.file.size_bytes == len(kept)
    assert b"Maria" in content
    assert b"Maria" not in kept
    session.commit()
    assert list((data / "uploads").iterdir()) == []
    with slide_files.opened(slide.file.sha256, name="K-1 A1") as opened:
        assert np.abs(opened.read(0, 0, WIDTH_PX, 768).astype(int) - a_field()).mean() < 2  # JPEG


def test_a_mrxs_is_uploaded_with_its_folder_and_stored_without_the_patient_and_the_label(
    session: Session, technologist: User, tmp_path: Path, data: Path
) -> None:
    packing = Packing.of(a_mirax_slide(tmp_path / "Maria"))
    assert packing is not None
    content = b"".join(packing.blocks(0))
    name = "Maria Secret.mrxs (5 files)"
    upload, again = (sent(session, technologist, content, name=name, modified_ms=at) for at in (1, 2))
    assert upload.sha256 == again.sha256, "the same slide is the same file"
    found = Checked.of(upload)
    assert (found.format, found.width_px, found.um_per_px, found.objective) == ("3DHISTECH MRXS", 352, 0.25, 20)
    (made,) = uploads.file_of(upload).values()
    for words in (*mirax_files.NAMED, mirax_files.a_label()):
        assert words in content
        assert words not in made.read_bytes()
    with made.open("rb") as kept:
        assert files.store().put(kept) == (upload.sha256, found.stored_bytes)
    with slide_files.opened(upload.sha256, name="K-1 A1") as opened:
        shown = opened.read(0, 0, 352, 240).astype(int)
        assert np.abs(shown - mirax_files.a_field()[:240, mirax_files.LEFT_PX :]).mean() < 2  # JPEG
    assert unpacked(data) == {upload.sha256}


def test_a_scanners_tiff_is_stored_without_the_label_and_names_and_the_same_each_time(
    session: Session, technologist: User, tmp_path: Path
) -> None:
    write_scn(tmp_path / "a.scn")
    content = (tmp_path / "a.scn").read_bytes()
    upload, again = (sent(session, technologist, content, name="Maria.scn", modified_ms=at) for at in (1, 2))
    (kept,) = uploads.file_of(upload).values()
    assert upload.sha256 == again.sha256 == hashlib.sha256(kept.read_bytes()).hexdigest()
    assert SECRET.encode() in content
    assert SECRET.encode() not in kept.read_bytes()
    assert Checked.of(upload).format == "Leica SCN"
    with closing(Part(upload, at=len(content))) as part:  # as after a request that was broken off
        assert part.check()[0] == upload.sha256


def test_dicom_under_the_name_of_another_format_is_not_stored_with_the_patient(
    session: Session, technologist: User, tmp_path: Path
) -> None:
    level = sorted(a_dicom_slide(tmp_path / "slide", label=False).iterdir())[0]
    with pytest.raises(UnreadableFile, match=r"slide: this is DICOM under the name of another format\. .* \.dcm"):
        sent(session, technologist, level.read_bytes(), name="a.tif")


def test_a_mrxs_file_without_its_folder_is_refused_with_what_to_do_and_never_shown(
    session: Session, technologist: User
) -> None:
    alone = io.BytesIO()
    with tarfile.open(fileobj=alone, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("slide.mrxs"))
    for name, content in (("a.mrxs (1 file)", alone.getvalue()), ("a.MRXS", b"\xff\xd8\xff a picture of the label")):
        with pytest.raises(UnreadableFile) as caught:
            sent(session, technologist, content, name=name)
        assert uploads.reason(caught.value) == (
            "The folder with the slide's data is missing or incomplete. Choose or copy the .mrxs file together with "
            "the folder of the same name beside it."
        )


def test_a_slide_is_unpacked_once_and_what_was_used_longest_ago_goes_unless_somebody_reads_it(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third = (stored(tmp_path, series=f"1.2.{number}") for number in range(3))
    monkeypatch.setattr(slide_files, "UNPACKED_BYTES", 100_000)  # of two slides of 37 kB
    slide_files.opened(first, name="a").close()
    folder = data / "unpacked" / first
    made = folder.stat().st_ino
    slide_files.opened(second, name="b").close()
    os.utime(data / "unpacked" / second, (1e9, 1e9))
    with slide_files.opened(first, name="a") as read:
        assert folder.stat().st_ino == made, "it is there already"
        os.utime(folder, (1e8, 1e8))
        slide_files.opened(third, name="c").close()
        assert unpacked(data) == {first, third}, "the older one is being read"
        assert read.read(0, 0, 8, 8).shape == (8, 8, 3)
    os.utime(folder, (1e8, 1e8))
    slide_files.opened(second, name="b").close()
    assert unpacked(data) == {second, third}
    monkeypatch.setattr(slide_files, "SPARE_BYTES", 1 << 60)
    with pytest.raises(StorageFull, match="no room to unpack the slide"):
        slide_files.opened(first, name="a")


def test_a_slide_of_many_files_is_checked_only_where_both_that_are_made_of_it_fit(
    session: Session, technologist: User, tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = packed(a_dicom_slide(tmp_path / "a"), tmp_path / "came").read_bytes()
    free = shutil.disk_usage(tmp_path)._replace(free=slide_files.SPARE_BYTES + len(content) * 3 // 2)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: free)
        upload = uploads.begin(session, name="a", size=len(content), modified_ms=1, by=technologist)
        with closing(Part(upload, at=0)) as part:
            part.write(content)
            with pytest.raises(StorageFull, match="no room to unpack the slide"):
                part.check()
    assert [path.name for path in (data / "uploads").iterdir()] == [f"{upload.key}.part"], "what has arrived is kept"
    with closing(Part(upload, at=len(content))) as part:
        sha256, _ = part.check()
    assert unpacked(data) == {sha256}


def test_a_slide_is_made_ready_beside_whoever_asks_by_one_process_at_a_time_and_never_half(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sha256 = stored(tmp_path)
    size = files.store().local(sha256, copies=data).stat().st_size
    with unpacked_by_another(data, sha256, bytes(size // 4)):
        preparation = slide_files.prepare(sha256, name="a")
        assert slide_files.prepare(sha256, name="a") is preparation, "whoever asks waits for the same"
        assert preparation.share == pytest.approx(0.25, abs=1e-3), "as far as the other process is"
        assert not preparation.done.done()
        assert unpacked(data) == {f"unfinished-{sha256}"}
    preparation.done.result(timeout=60)  # the other was killed
    assert (preparation.share, slide_files.prepare(sha256, name="a")) == (1.0, None)
    assert unpacked(data) == {sha256}
    assert is_unpacked(files.store().local(sha256, copies=data), data / "unpacked" / sha256, name="a")

    slide_files.forget(sha256)
    with monkeypatch.context() as patch:
        patch.setattr(slide_files, "SPARE_BYTES", 1 << 60)
        wait([slide_files.prepare(sha256, name="a").done], timeout=60)
        for _ in range(2):  # the viewer and the gallery
            with pytest.raises(StorageFull, match="no room to unpack the slide"):
                slide_files.prepare(sha256, name="a")
    assert unpacked(data) == set()
    monkeypatch.setattr(slide_files, "TOLD_S", 0.0)
    slide_files.prepare(sha256, name="a").done.result(timeout=60)  # later it is tried again, and there is room now
    assert unpacked(data) == {sha256}


def test_what_was_altered_after_it_was_unpacked_is_unpacked_anew_before_it_is_searched(
    tmp_path: Path, data: Path
) -> None:
    sha256 = stored(tmp_path)
    slide_files.opened(sha256, name="a").close()
    level = data / "unpacked" / sha256 / "000001"
    whole = level.read_bytes()
    level.write_bytes(whole[:-9] + bytes(9))
    slide_files.opened(sha256, name="a", verify=True).close()
    assert hashlib.sha256(level.read_bytes()).digest() == hashlib.sha256(whole).digest()
    (data / "files" / sha256[:2] / sha256).write_bytes(b"something else")
    with pytest.raises(DamagedFile):
        slide_files.opened(sha256, name="a", verify=True)


def test_the_watched_folder_gives_a_mrxs_with_its_folder_and_a_folder_of_dicom_as_one_slide_each(
    session: Session, technologist: User, tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scanner = tmp_path / "scanner"
    monkeypatch.setenv("RENAL_SLIDES", str(scanner))
    a_dicom_slide(scanner / "K-1")
    (scanner / "K-2").mkdir()
    (scanner / "K-2.mrxs").write_bytes(b"label")
    parts = {"Data0000.dat": bytes(range(256)) * 5, "Index.dat": bytes(512), "Slidedat.ini": b"[GENERAL]"}
    for name, content in parts.items():
        (scanner / "K-2" / name).write_bytes(content)
    (scanner / "K-2" / "Link.dat").symlink_to(scanner / "K-2.mrxs")
    for path in scanner.rglob("*"):
        if path.is_file():
            os.utime(path, (1e9, 1e9))
    assert {one.name for one in watched.waiting(session)} == {"K-1", "K-2.mrxs"}

    upload = watched.begin(session, "K-1", by=technologist)
    uploads.complete(session, upload, *watched.copy(upload, "K-1", progress=lambda _: None))
    assert Checked.of(upload).format == "DICOM slide"
    assert [one.name for one in watched.waiting(session)] == ["K-2.mrxs"]

    upload = watched.begin(session, "K-2.mrxs", by=technologist)
    whole = b"".join(Packing.of(scanner / "K-2.mrxs").blocks(0))
    assert upload.size_bytes == len(whole) == 4 * 512 + 512 + 1536 + 512 + 512 + 1024  # headers, files, end
    for start in (511, 600, 1025, 2000, 4000, len(whole) - 1):
        assert b"".join(Packing.of(scanner / "K-2.mrxs").blocks(start)) == whole[start:], "a copy goes on anywhere"
    with closing(Part(upload, at=0)) as part:
        part.write(whole[:1000])  # a copy that was broken off
    with pytest.raises(UnreadableFile, match="damaged, incomplete"):  # as far as OpenSlide is concerned
        watched.copy(upload, "K-2.mrxs", progress=lambda _: None)
    (tmp_path / "out").mkdir()
    unpack(uploads.part_of(upload), tmp_path / "out", name="slide")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out" / "slide").iterdir()} == parts
    assert (tmp_path / "out" / "slide.mrxs").read_bytes() == b"MRXS", "the picture of the label is not stored"
