from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile

from renalcore.errors import UnreadableFile
from renalcore.io.slide import open_slide
from renalcore.io.slide.blanking import deidentify_tiff
from tests.vendor_slides import GLASS, SECRET, TISSUE, write_bif, write_ndpi, write_scn


def blanked(path: Path) -> Path:
    """A copy without the patient, which reads as the file does."""
    copy = shutil.copyfile(path, path.with_name("upload.part"))
    assert deidentify_tiff(copy, name="slide")
    content = copy.read_bytes()
    assert not deidentify_tiff(copy, name="slide")
    assert copy.read_bytes() == content
    assert len(content) == path.stat().st_size
    with open_slide(path) as before, open_slide(copy) as after:
        told = [
            (each.format, each.levels, each.um_per_px, each.objective, {flag.code for flag in each.flags})
            for each in (before, after)
        ]
        assert told[0] == told[1]
        for downsample in (1.0, before.levels[-1].downsample):
            size = min(512, int(before.width_px / downsample)), min(512, int(before.height_px / downsample))
            assert np.array_equal(*(each.read(0, 0, *size, downsample=downsample) for each in (before, after)))
    return copy


@pytest.mark.parametrize(("suffix", "write"), [("ndpi", write_ndpi), ("scn", write_scn), ("bif", write_bif)])
def test_what_scanners_write_beside_the_tissue_is_gone_and_the_tissue_reads_as_before(
    tmp_path: Path, suffix: str, write: Callable[[Path], None]
) -> None:
    path = tmp_path / f"a.{suffix}"
    write(path)
    assert SECRET.encode() in path.read_bytes()
    copy = blanked(path)
    assert SECRET.encode() not in copy.read_bytes()
    with openslide.OpenSlide(path) as before, openslide.OpenSlide(copy) as after:
        assert {"macro"} <= set(before.associated_images)
        for picture in after.associated_images.values():
            assert np.asarray(picture.convert("RGB")).std() < GLASS.std() / 4
    assert GLASS[:8].tobytes() not in copy.read_bytes()


@pytest.mark.shared_data
def test_an_aperio_slide_keeps_no_label_no_glass_no_name_and_no_date(shared_data: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.svs"
    shutil.copyfile(shared_data / "histology" / "slide_formats" / "CMU-1-Small-Region.svs", path)
    with openslide.OpenSlide(path) as slide:
        assert np.asarray(slide.associated_images["label"].convert("RGB")).std() > 40
    content = blanked(path).read_bytes()
    for text in (b"CMU-1", b"12/29/09", b"09:59:15", b"b414003d", b"CPAPERIOCS"):
        assert text in path.read_bytes()
        assert text not in content
    with tifffile.TiffFile(tmp_path / "upload.part") as tiff:
        for page in tiff.pages[2:]:
            for start, count in zip(page.dataoffsets, page.databytecounts, strict=True):
                pixels = content[start : start + count]
                assert pixels.count(0) >= count - 700, "the tables of a JPEG at the most"


def test_an_ome_tiff_keeps_its_scale_and_names_nobody(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    told = {
        "axes": "YXS", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5, "Name": SECRET, "Description": SECRET,
        "AcquisitionDate": "2020-01-01T00:00:00",
    }  # fmt: skip
    with tifffile.TiffWriter(path, ome=True) as tiff:
        tiff.write(TISSUE, photometric="rgb", metadata=told, datetime="2020:01:01 00:00:00")
        tiff.write(GLASS, photometric="rgb", metadata={"axes": "YXS", "Name": f"label of {SECRET}"})
    content = blanked(path).read_bytes()
    for text in (SECRET.encode(), b"2020-01-01", b"2020:01:01", GLASS.tobytes()):
        assert text in path.read_bytes()
        assert text not in content
    assert TISSUE.tobytes() in content


def test_of_a_plain_tiff_texts_and_pictures_that_are_no_level_of_the_first_go(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(
            TISSUE, photometric="rgb", description=SECRET, metadata=None, extratags=[(315, "s", 0, SECRET, True)]
        )
        tiff.write(TISSUE[::2, ::2], photometric="rgb", subfiletype=1, metadata=None)
        tiff.write(GLASS, photometric="rgb", metadata=None)
    content = blanked(path).read_bytes()
    assert SECRET.encode() not in content
    assert GLASS.tobytes() not in content
    assert TISSUE[::2, ::2].tobytes() in content


def test_a_file_of_another_kind_stays_as_it_is_and_a_broken_one_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"\x89PNG\r\n\x1a\n of another kind")
    assert not deidentify_tiff(path, name="slide")
    write_scn(path)
    path.write_bytes(path.read_bytes().replace(b"<collection", b"<collected "))
    with pytest.raises(UnreadableFile, match="slide: the slide is damaged"):
        deidentify_tiff(path, name="slide")
