"""Slides in many files: what may be in their archive, what is written of it, and what of it is a patient's."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pydicom
import pytest

from renalcore.errors import UnreadableFile
from renalcore.io.slide import open_slide
from renalcore.io.slide.dicom import deidentify_slide
from renalcore.io.slide.packed import is_packed, unpack
from tests.dicom_slides import HEIGHT_PX, UM_PER_PX, WIDTH_PX, a_dicom_slide, a_field, packed

KEY = bytes(32)


def archive(path: Path, *names: str, content: bytes = b"x" * 700) -> Path:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as target:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            target.addfile(member, io.BytesIO(content))
    return path


def test_a_dicom_slide_is_stored_without_the_patient_and_its_label_and_reads_to_the_pixel(tmp_path: Path) -> None:
    came = packed(a_dicom_slide(tmp_path / "Maria"), tmp_path / "came")
    assert is_packed(came)
    for name in ("stored", "again"):
        assert deidentify_slide(came, tmp_path / name, key=KEY, name="slide") == ()
    stored = (tmp_path / "stored").read_bytes()
    assert stored == (tmp_path / "again").read_bytes(), "the same slide is the same file"
    for words in (b"Maria", b"4711", b"R-77", b"20240229", b"K-1"):
        assert words in came.read_bytes()
        assert words not in stored
    (tmp_path / "folder").mkdir()
    opened = unpack(tmp_path / "stored", tmp_path / "folder", name="slide")
    assert len(list(opened.parent.glob("*.dcm"))) == 3, "three levels, no label"
    with open_slide(opened, name="slide") as slide, open_slide(tmp_path / "Maria" / "Maria Secret 1.dcm") as original:
        assert (slide.format, slide.width_px, slide.height_px) == ("DICOM slide", WIDTH_PX, HEIGHT_PX)
        assert [level.downsample for level in slide.levels] == [1, 2, 4]
        assert (slide.um_per_px, slide.objective) == (pytest.approx(UM_PER_PX), 20)
        pixels = slide.read(0, 0, WIDTH_PX, HEIGHT_PX)
        assert np.array_equal(pixels, original.read(0, 0, WIDTH_PX, HEIGHT_PX))
        assert np.abs(pixels.astype(int) - a_field()).mean() < 2  # JPEG
    clean = pydicom.dcmread(opened, stop_before_pixels=True)
    assert (clean.PatientName, clean.PatientID, clean.PatientIdentityRemoved) == ("", "", "YES")
    assert clean.ContainerIdentifier == "REMOVED"


def test_dicom_files_that_are_no_slide_or_several_or_cut_off_are_refused(tmp_path: Path) -> None:
    first = a_dicom_slide(tmp_path / "one")
    second = a_dicom_slide(tmp_path / "two", series="1.2.826.0.1.3680043.8.498.2", label=False)
    both = packed(first, tmp_path / "both", second)
    with pytest.raises(UnreadableFile, match=r"slide: these are DICOM files of 2 slides.*one slide at a time"):
        deidentify_slide(both, tmp_path / "out", key=KEY, name="slide")
    for path in sorted(first.iterdir())[:3]:
        path.unlink()
    with pytest.raises(UnreadableFile, match="none of the DICOM files is a level"):  # the label alone
        deidentify_slide(packed(first, tmp_path / "label"), tmp_path / "out", key=KEY, name="slide")
    level = next(second.iterdir())
    level.write_bytes(level.read_bytes()[:-2000])
    with pytest.raises(UnreadableFile, match="slide: the file is cut off") as caught:
        deidentify_slide(packed(second, tmp_path / "cut"), tmp_path / "out", key=KEY, name="slide")
    assert caught.value.__suppress_context__, "the cause may hold a name"


def test_a_dicom_slide_whose_table_of_tiles_is_wrong_is_refused_since_it_would_end_the_process(tmp_path: Path) -> None:
    level = sorted(a_dicom_slide(tmp_path / "slide", label=False).iterdir())[0]
    content = bytearray(level.read_bytes())
    table = content.index(b"\xfe\xff\x00\xe0", content.index(b"\xe0\x7f\x10\x00")) + 8
    assert content[table : table + 4] == bytes(4), "the first tile begins at 0"
    content[table + 3] = 49
    level.write_bytes(content)
    with pytest.raises(UnreadableFile, match="slide: the file is cut off"):
        deidentify_slide(packed(level.parent, tmp_path / "wrong"), tmp_path / "out", key=KEY, name="slide")


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["slide.mrxs"], "folder with the slide's data is missing"),
        (["slide/Slidedat.ini"], "the .mrxs file is missing"),
        (["slide.mrxs", "slide/../../Slidedat.ini"], "not made of a slide"),
        (["slide.mrxs", "/slide/Slidedat.ini"], "not made of a slide"),
        (["slide.mrxs", "slide/deeper/Slidedat.ini"], "not made of a slide"),
        (["slide.mrxs", "slide/Slidedat.ini", "Maria.jpg"], "not made of a slide"),
        (["000001", "000001"], "not made of a slide"),
        ([], "not made of a slide"),
    ],
)
def test_what_lacks_a_part_of_a_slide_or_holds_more_is_refused_before_anything_is_written(
    tmp_path: Path, names: list[str], words: str
) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(UnreadableFile, match=f"slide: .*{words}"):
        unpack(archive(tmp_path / "packed", *names), tmp_path / "folder", name="slide")
    assert list((tmp_path / "folder").iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "packed"]


def test_links_are_no_files_and_mrxs_data_keep_their_names(tmp_path: Path) -> None:
    path = archive(tmp_path / "packed", "slide.mrxs", "slide/Slidedat.ini", "slide/Data0000.dat")
    with tarfile.open(path, "a") as target:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE):
            member = tarfile.TarInfo("slide/Index.dat")
            member.type, member.linkname = kind, "/etc/passwd"
            target.addfile(member)
    (tmp_path / "folder").mkdir()
    opened = unpack(path, tmp_path / "folder", name="slide")
    assert opened == tmp_path / "folder" / "slide.mrxs"
    assert sorted(one.name for one in (tmp_path / "folder" / "slide").iterdir()) == ["Data0000.dat", "Slidedat.ini"]
    with pytest.raises(UnreadableFile, match=r"slide.mrxs: the slide is damaged, incomplete"):
        open_slide(opened)
