"""Slides of 3DHISTECH: read as they were scanned, refused where a file is missing, kept without the patient."""

from __future__ import annotations

import struct
import tarfile
from pathlib import Path

import numpy as np
import openslide
import pytest
from numpy.typing import NDArray
from PIL import Image

from renalcore.errors import UnreadableFile
from renalcore.io.slide import Slide, open_slide
from renalcore.io.slide.mirax import deidentify_mrxs
from renalcore.io.slide.packed import Packing, unpack
from tests.mirax_files import (
    EMPTY_X_PX,
    EMPTY_Y_PX,
    HEIGHT_PX,
    LEFT_PX,
    NAMED,
    SLIDE_ID,
    UM_PER_PX,
    WIDTH_PX,
    a_field,
    a_label,
    a_mirax_slide,
)


def packed(mrxs: Path, target: Path) -> Path:
    """The archive that a slide comes in."""
    packing = Packing.of(mrxs)
    assert packing is not None
    target.write_bytes(b"".join(packing.blocks(0)))
    return target


def shown(slide: Slide, downsample: int) -> NDArray[np.uint8]:
    return slide.read(0, 0, WIDTH_PX // downsample, HEIGHT_PX // downsample, downsample=downsample)


@pytest.mark.parametrize("compressed", [False, True])
def test_a_slide_of_overlapping_photos_shows_what_was_scanned_where_it_was(tmp_path: Path, compressed: bool) -> None:
    with open_slide(a_mirax_slide(tmp_path / "slide", compressed=compressed)) as slide:
        assert (slide.format, slide.name, slide.flags) == ("3DHISTECH MRXS", "Maria Secret.mrxs", ())
        assert (slide.width_px, slide.height_px, slide.um_per_px, slide.objective) == (352, 352, UM_PER_PX, 20)
        assert [(level.width_px, level.downsample) for level in slide.levels] == [(352, 1), (176, 2), (88, 4)]
        field = a_field()[:, LEFT_PX:].copy()  # what was not scanned is not part of it
        field[EMPTY_Y_PX:, EMPTY_X_PX:] = 255
        for downsample in (1, 2, 4):
            expected = np.asarray(Image.fromarray(field).reduce(downsample), int)
            difference = np.abs(shown(slide, downsample) - expected).max(axis=2)
            assert difference.mean() < 4, "JPEG; a photo that lay 4 px off would differ by 15"
            assert np.percentile(difference, 99) < 15
        assert np.array_equal(slide.read(100, 60, 50, 40), shown(slide, 1)[60:100, 100:150])


@pytest.mark.parametrize("compressed", [False, True])
def test_it_is_stored_without_names_and_label_and_reads_to_the_pixel(tmp_path: Path, compressed: bool) -> None:
    mrxs = a_mirax_slide(tmp_path / "slide", compressed=compressed)
    came = packed(mrxs, tmp_path / "came")
    for name in ("stored", "again"):
        deidentify_mrxs(came, tmp_path / name, name="slide")
    stored = (tmp_path / "stored").read_bytes()
    assert stored == (tmp_path / "again").read_bytes(), "the same slide is the same file"
    for words in (*NAMED, a_label()):
        assert words in came.read_bytes()
        assert words not in stored
    (tmp_path / "folder").mkdir()
    opened = unpack(tmp_path / "stored", tmp_path / "folder", name="slide")
    sizes = {path.name: path.stat().st_size for path in opened.with_suffix("").iterdir()}
    assert sorted(sizes) == ["Data0000.dat", "Data0001.dat", "Index.dat", "Slidedat.ini"]
    with openslide.OpenSlide(opened) as raw:
        assert dict(raw.associated_images) == {}
    with open_slide(mrxs) as original, open_slide(opened) as slide:
        assert (slide.levels, slide.um_per_px, slide.objective) == (original.levels, UM_PER_PX, 20)
        for downsample in (1, 2, 4):
            assert np.array_equal(shown(slide, downsample), shown(original, downsample))
    deidentify_mrxs(tmp_path / "stored", tmp_path / "again", name="slide")
    assert (tmp_path / "again").read_bytes() == stored, "what has no names stays as it is"


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("Data0001.dat", "the file Data0001.dat of the slide is missing. Copy the folder beside the .mrxs file"),
        ("Index.dat", "the file Index.dat of the slide is missing"),
        ("Slidedat.ini", "the folder with the slide's data is missing or incomplete"),
    ],
)
def test_a_slide_that_lacks_a_file_is_refused_by_the_name_of_that_file(tmp_path: Path, file: str, words: str) -> None:
    mrxs = a_mirax_slide(tmp_path / "slide")
    (mrxs.with_suffix("") / file).unlink()
    with pytest.raises(UnreadableFile, match=words):
        open_slide(mrxs, name="slide")
    with pytest.raises(UnreadableFile, match=f"slide: {words}"):
        deidentify_mrxs(packed(mrxs, tmp_path / "came"), tmp_path / "stored", name="slide")


def test_a_missing_file_that_bears_a_patient_s_name_is_not_told_by_it(tmp_path: Path) -> None:
    mrxs = a_mirax_slide(tmp_path / "slide")
    text = mrxs.with_suffix("") / "Slidedat.ini"
    text.write_bytes(text.read_bytes().replace(b"Data0000.dat", b"Maria.dat"))
    with pytest.raises(UnreadableFile, match="slide: a file of the slide is missing"):
        open_slide(mrxs, name="slide")


def test_a_slide_that_was_cut_off_or_makes_no_sense_is_refused(tmp_path: Path) -> None:
    mrxs = a_mirax_slide(tmp_path / "slide")
    data, index, text = (mrxs.with_suffix("") / name for name in ("Data0000.dat", "Index.dat", "Slidedat.ini"))
    whole, listed, said = data.read_bytes(), index.read_bytes(), text.read_bytes()
    data.write_bytes(whole[:-1])
    with pytest.raises(UnreadableFile, match=r"the file Data0000\.dat of the slide ends too early; it was cut off"):
        open_slide(mrxs)
    data.write_bytes(whole)
    at = len(f"01.02{SLIDE_ID}") + 8  # the first page of the first level, whose next page comes second
    assert struct.unpack_from("<2i", listed, at) == (16, at + 8 + 16 * 16)
    for broken, what in (
        (listed[:at] + struct.pack("<2i", 16, at) + listed[at + 8 :], said),  # its next page is itself
        (listed[:at] + struct.pack("<2i", -1, 0) + listed[at + 8 :], said),
        (listed[:-40], said),
        (listed[: at - 4] + struct.pack("<i", 2**31 - 1) + listed[at:], said),  # all but the tiles lies beyond the end
        (listed.replace(SLIDE_ID.encode(), b"0" * 32), said),
        (listed, said.replace(b"IMAGENUMBER_X = 8", b"IMAGENUMBER_X = 80000000")),
        (listed, said.replace(b"DIGITIZER_WIDTH = 64", b"DIGITIZER_WIDTH = 640000")),
        (listed, said.replace(b"MICROMETER_PER_PIXEL_X = 0.25", b"MICROMETER_PER_PIXEL_X = Maria")),
        (listed, said.replace(b"[DATAFILE]", b"[Maria]")),
    ):
        index.write_bytes(broken)
        text.write_bytes(what)
        with pytest.raises(UnreadableFile, match=r"slide: the slide is damaged, incomplete") as caught:
            open_slide(mrxs, name="slide")
        assert caught.value.__suppress_context__, "the cause may hold a name"


def test_layers_behind_the_positions_do_not_matter(tmp_path: Path) -> None:
    mrxs = a_mirax_slide(tmp_path / "slide")
    text = mrxs.with_suffix("") / "Slidedat.ini"
    with open_slide(mrxs) as slide:
        expected = shown(slide, 1)
    three = text.read_bytes().replace(b"NONHIER_COUNT = 2", b"NONHIER_COUNT = 3")
    empty = b"[HIERARCHICAL]\r\nNONHIER_2_NAME = VIMSLIDE_HISTOGRAM\r\nNONHIER_2_COUNT = 0\r\n"
    for changed in (three, three + empty):  # nothing is said of the third one, or that it is empty
        text.write_bytes(changed)
        with open_slide(mrxs) as slide:
            assert np.array_equal(shown(slide, 1), expected)
    text.write_bytes(three.replace(b"NONHIER_1_", b"NONHIER_2_") + empty.replace(b"_2_", b"_1_"))
    with pytest.raises(UnreadableFile, match="damaged, incomplete"):  # by OpenSlide too
        open_slide(mrxs)


def test_what_lies_between_the_tiles_is_gone_and_the_tiles_lie_where_they_did(tmp_path: Path) -> None:
    mrxs = a_mirax_slide(tmp_path / "slide")
    deidentify_mrxs(packed(mrxs, tmp_path / "came"), tmp_path / "stored", name="slide")
    with tarfile.open(tmp_path / "stored") as archive:
        for name, head in (("Data0000.dat", 40), ("Data0001.dat", 40 + 2 * len(a_label()) + 31)):
            before = (mrxs.with_suffix("") / name).read_bytes()
            member = archive.extractfile(f"slide/{name}")
            assert member is not None
            end = len(before) - (len(b"scanned by Maria") if name == "Data0001.dat" else 0)
            assert member.read() == bytes(head) + before[head:end] + bytes(len(before) - end)
