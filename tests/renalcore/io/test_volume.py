"""CT series drawn here in each form that archives give them, and the real ones beside the project."""

import contextlib
import gzip
import random
import shutil
import struct
import tarfile
import threading
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import imagecodecs
import nibabel
import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels import pixel_array
from pydicom.pixels.decoders import pylibjpeg
from pydicom.pixels.decoders.base import DecodeRunner
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from renalcore.errors import InputError, TooLarge, UnknownName, UnreadableFile
from renalcore.io.deidentify import deidentify
from renalcore.io.volume import (
    SeriesFound,
    Volume,
    codestreams,
    find_series,
    pack_series,
    read_volume,
    slice_headers,
    write_image,
    write_labels,
)
from renalcore.io.volume.identity import Stated, people, stated
from renalcore.io.volume.phases import phase
from tests.ct_files import body, ct_series, ct_slice, enhanced, saved, two_phases

pytestmark = pytest.mark.filterwarnings("ignore:::pydicom")  # remarks on files that are broken on purpose

READER_TESTS = "ct/reader_tests"
HU = body()


def codes(found: Volume | SeriesFound) -> set[str]:
    return {flag.code for flag in found.flags}


def refusal(path: Path) -> str:
    with pytest.raises(UnreadableFile) as error:
        read_volume(path)
    return str(error.value)


# DICOM


def test_slices_are_sorted_by_place_and_the_affine_tells_where_a_voxel_lies(tmp_path: Path) -> None:
    volume = read_volume(saved(tmp_path, ct_series(HU)))
    assert volume.hu.dtype == np.int16
    assert np.array_equal(volume.hu, HU)
    assert volume.spacing_mm == pytest.approx((2.5, 0.8, 0.7))
    # Column 5, row 7, slice 2: -10 + 5 * 0.7, -20 + 7 * 0.8, 30 + 2 * 2.5.
    assert volume.affine @ (5, 7, 2, 1) == pytest.approx((-6.5, -14.4, 35.0, 1.0))
    assert volume.lps_mm(np.array([[2, 7, 5]]))[0] == pytest.approx((-6.5, -14.4, 35.0))
    assert volume.indices(np.array([[-6.5, -14.4, 35.0]]))[0] == pytest.approx((2, 7, 5))
    assert volume.voxel_ml == pytest.approx(2.5 * 0.8 * 0.7 / 1000)
    assert codes(volume) == {"few_slices"}
    with pytest.raises(ValueError, match="read-only"):
        volume.hu[0, 0, 0] = 0


def in_zip(path: Path) -> Path:
    folder = saved(path / "study", ct_series(HU))
    with zipfile.ZipFile(path / "study.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../../escaped/README", "not a picture")
        archive.writestr("__MACOSX/._IM0000", b"\0" * 300)
        for file in folder.iterdir():
            archive.write(file, f"../../escaped/{file.name}")
    shutil.rmtree(folder)
    return path / "study.zip"


def in_tar(path: Path) -> Path:
    """As browsers pack a folder: a link out of it is no file of the study."""
    folder = saved(path / "study", ct_series(HU))
    with tarfile.open(path / "study.tar", "w") as archive:
        link = tarfile.TarInfo("passwd")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
        (folder / "IM0003").write_bytes(gzip.compress((folder / "IM0003").read_bytes()))
        archive.add(folder, "../../escaped")
    shutil.rmtree(folder)
    return path / "study.tar"


def without_meta(path: Path) -> Path:
    path.mkdir(exist_ok=True)
    for index, dataset in enumerate(ct_series(HU)):
        del dataset.file_meta
        pydicom.dcmwrite(path / str(index), dataset, implicit_vr=True, little_endian=True)
    return path


def big_endian(path: Path) -> Path:
    path.mkdir(exist_ok=True)
    for index, dataset in enumerate(ct_series(HU, syntax=ExplicitVRBigEndian)):
        dataset.PixelData = np.frombuffer(dataset.PixelData, "<i2").astype(">i2").tobytes()
        dataset.save_as(path / str(index), enforce_file_format=True)
    return path


def compressed(syntax: str) -> Callable[[Path], Path]:
    def write(path: Path) -> Path:
        datasets = ct_series(HU, intercept=0, BitsStored=16)
        for dataset in datasets:
            dataset.compress(syntax, generate_instance_uid=False)
        return saved(path, datasets)

    return write


def encoded(syntax: str, encode: Callable[[NDArray[np.uint16]], bytes]) -> Callable[[Path], Path]:
    """In a syntax that pydicom does not write."""

    def write(path: Path) -> Path:
        datasets = ct_series(HU, intercept=0, syntax=syntax)
        for dataset in datasets:
            stored = np.frombuffer(dataset.PixelData, "<u2").reshape(dataset.Rows, dataset.Columns)
            dataset.PixelData = encapsulate([encode(stored)])
            dataset["PixelData"].VR = "OB"
        return saved(path, datasets)

    return write


def jpeg_of(pixels: NDArray[np.uint16]) -> bytes:
    """Process 14 with selection value 1, which archives use most: each pixel as its difference to the left one, in
    Huffman codes that all have five bits."""
    before = np.empty(pixels.shape, np.int64)
    before[:, 1:], before[1:, 0], before[0, 0] = pixels[:, :-1], pixels[:-1, 0], 2**15
    bits = []
    for difference in ((pixels - before + 2**15) % 2**16 - 2**15).ravel().tolist():
        category = abs(difference).bit_length()
        bits.append(f"{category:05b}")
        if 0 < category < 16:
            bits.append(f"{difference if difference > 0 else difference + 2**category - 1:0{category}b}")
    coded = "".join(bits)
    coded += "1" * (-len(coded) % 8)
    scan = int(coded, 2).to_bytes(len(coded) // 8, "big").replace(b"\xff", b"\xff\x00")
    rows, columns = (side.to_bytes(2, "big") for side in pixels.shape)
    frame = b"\xff\xc3\x00\x0b\x10" + rows + columns + b"\x01\x01\x11\x00"
    table = b"\xff\xc4\x00\x24\x00" + bytes([0, 0, 0, 0, 17, *[0] * 11, *range(17)])
    return b"\xff\xd8" + frame + table + b"\xff\xda\x00\x08\x01\x01\x00\x01\x00\x00" + scan + b"\xff\xd9"


def gzipped(path: Path) -> Path:
    folder = saved(path, ct_series(HU))
    for file in list(folder.iterdir()):
        file.with_suffix(".gz").write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()
    return folder


def multi_frame(path: Path) -> Path:
    return saved(path, [enhanced(HU)])


def multi_frame_in_zip(path: Path) -> Path:
    saved(path, [enhanced(HU)])
    with zipfile.ZipFile(path / "study.zip", "w") as archive:
        archive.write(path / "IM0000", "study")
    return path / "study.zip"


FORMS = {
    "zip whose names lead out of it": in_zip,
    "tar with a link, its files compressed by gzip or not": in_tar,
    "implicit": lambda path: saved(path, ct_series(HU, syntax=ImplicitVRLittleEndian)),
    "no meta header": without_meta,
    "big endian": big_endian,
    "run lengths": compressed(RLELossless),
    "deflated": lambda path: saved(path, ct_series(HU, syntax=DeflatedExplicitVRLittleEndian)),
    "JPEG lossless": encoded(JPEGLosslessSV1, jpeg_of),
    "JPEG-LS": compressed(JPEGLSLossless),
    "JPEG 2000": compressed(JPEG2000Lossless),
    "high-throughput JPEG 2000": encoded(HTJ2KLossless, imagecodecs.htj2k_encode),
    "gzip": gzipped,
    "enhanced": multi_frame,
    "enhanced in zip": multi_frame_in_zip,
    "names in folders": lambda path: saved(path / "DICOM" / "ST1", ct_series(HU), names="{:d}.CT.dcm").parent.parent,
    "slope 2": lambda path: saved(path, ct_series(HU // 2 * 2, slope=2)),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_series_is_the_same_volume_in_every_form(form: str, tmp_path: Path) -> None:
    volume = read_volume(FORMS[form](tmp_path))
    assert np.array_equal(volume.hu, HU // 2 * 2 if form == "slope 2" else HU)
    assert volume.affine @ (5, 7, 2, 1) == pytest.approx((-6.5, -14.4, 35.0, 1.0))
    assert not (tmp_path.parent / "escaped").exists()


def test_progress_counts_slices_and_loose_files_are_one_upload(tmp_path: Path) -> None:
    files = list(saved(tmp_path, ct_series(HU)).iterdir())
    random.Random(0).shuffle(files)
    told: list[tuple[int, int]] = []
    assert np.array_equal(read_volume(files, progress=lambda *step: told.append(step)).hu, HU)
    assert told == [(done, 12) for done in range(1, 13)]


@pytest.mark.parametrize("form", ["implicit", "enhanced", "enhanced in zip", "JPEG 2000"])
def test_slices_are_decoded_in_as_many_threads_as_are_allowed_and_are_the_same_in_one(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = FORMS[form](tmp_path)
    for allowed in ("1", "3"):
        monkeypatch.setenv("RENAL_THREADS", allowed)
        before, during = set(threading.enumerate()), set()
        volume = read_volume(path, progress=lambda *_, during=during: during.update(threading.enumerate()))
        assert 1 <= len(during - before) <= int(allowed)
        assert np.array_equal(volume.hu, HU)


@pytest.mark.parametrize(
    ("form", "size"),
    [("JPEG lossless", ">2H"), ("JPEG-LS", ">2H"), ("JPEG 2000", ">2I"), ("high-throughput JPEG 2000", ">2I")],
)
def test_a_compressed_slice_that_states_another_size_than_its_picture_is_never_unpacked(
    form: str, size: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unpacked: list[tuple[int, int]] = []
    decode = pylibjpeg._decode_frame

    def watched(codestream: bytes, runner: DecodeRunner) -> bytearray:
        unpacked.append(codestreams.size_of(codestream))
        return decode(codestream, runner)

    monkeypatch.setattr(pylibjpeg, "_decode_frame", watched)
    path = FORMS[form](tmp_path)
    assert np.array_equal(read_volume(path).hu, HU)
    assert unpacked == [HU.shape[1:]] * len(HU)
    slices = sorted(path.iterdir())
    dataset = pydicom.dcmread(slices[5])
    rows, columns = HU.shape[1:]
    stated = struct.pack(size, *((rows, columns) if size == ">2H" else (columns, rows)))
    huge = struct.pack(size, 60_000, 60_000)
    assert stated in dataset.PixelData
    dataset.PixelData = dataset.PixelData.replace(stated, huge)
    dataset.save_as(slices[5])
    unpacked.clear()
    with pytest.raises(UnreadableFile, match=f"{slices[5].name}: its pixels are cut off or damaged"):
        read_volume(path)
    assert set(unpacked) == {HU.shape[1:]}


def test_air_outside_of_the_scanners_round_field_is_air_and_what_is_no_number_too(tmp_path: Path) -> None:
    hu = HU.copy()
    hu[:, 0] = -3024
    assert read_volume(saved(tmp_path, ct_series(hu))).hu[:, 0].max() == -1024


def test_of_several_series_one_is_chosen_by_its_number(tmp_path: Path) -> None:
    saved(tmp_path / "a", ct_series(HU, series="1.2.3.5", number=4, SeriesDescription="ABD portal 2.5 Smith"))
    saved(tmp_path / "b", ct_series(HU[:10], series="1.2.3.6", number=4, ContrastBolusAgent="Iomeron"))
    saved(tmp_path / "c", ct_series(HU[:6], series="1.2.3.7", number=2, Modality="MR"))
    found = find_series(tmp_path)
    assert [(one.key, one.slices, one.phase, one.refused) for one in found] == [
        ("4", 12, "portal venous", ""),
        ("4b", 10, "contrast", ""),
        ("2", 6, "", f"{tmp_path.name}: MR, not CT. Choose a CT series of the abdomen."),
    ]
    with pytest.raises(InputError, match=r"several series; choose one of: 4 \(12 slices, 2.5 mm, portal venous\); 4b"):
        read_volume(tmp_path)
    assert read_volume(tmp_path, series="4b").slices == 10
    assert read_volume(tmp_path, series="4").phase == "portal venous"
    with pytest.raises(UnknownName, match="no series 9"):
        read_volume(tmp_path, series="9")
    with pytest.raises(UnreadableFile, match="MR, not CT"):
        read_volume(tmp_path, series="2")


def test_phases_that_share_a_series_are_told_apart_by_their_acquisition(tmp_path: Path) -> None:
    saved(tmp_path / "a", ct_series(HU, AcquisitionNumber=1))
    saved(tmp_path / "b", ct_series(HU + 50, AcquisitionNumber=2))
    assert [(one.key, one.slices, one.refused) for one in find_series(tmp_path)] == [("3", 12, ""), ("3b", 12, "")]


TOLD_BY = {
    "AcquisitionNumber": (1, 2),
    "TemporalPositionIdentifier": (1, 2),
    "AcquisitionTime": ("081530.25", "081605"),
}


def above(datasets: list[Dataset], mm: float) -> list[Dataset]:
    for dataset in datasets:
        dataset.ImagePositionPatient[2] += mm
    return datasets


@pytest.mark.parametrize("told_by", TOLD_BY)
def test_phases_that_share_a_series_are_parted_also_where_they_do_not_lie_at_the_very_same_places(
    told_by: str, tmp_path: Path
) -> None:
    first, second = ({told_by: value} for value in TOLD_BY[told_by])
    saved(tmp_path / "a", ct_series(HU, **first))
    saved(tmp_path / "b", above(ct_series(HU + 50, **second), 0.6))
    assert [(one.key, one.slices, one.refused) for one in find_series(tmp_path)] == [("3", 12, ""), ("3b", 12, "")]
    assert np.array_equal(read_volume(tmp_path, series="3").hu, HU)
    assert read_volume(tmp_path, series="3b").affine[2, 3] == pytest.approx(30.6)


@pytest.mark.parametrize("told_by", TOLD_BY)
@pytest.mark.parametrize("mm", [0, 0.6])
@pytest.mark.parametrize("place", ["three places", "one place"])
def test_an_acquisition_of_too_few_slices_is_left_out_of_its_series(
    told_by: str, mm: float, place: str, tmp_path: Path
) -> None:
    first, second = ({told_by: value} for value in TOLD_BY[told_by])
    saved(tmp_path / "a", ct_series(HU, **first))
    # As for a contrast medium that is awaited: many slices, but all at one place.
    few = ct_series(HU[:3], **second) if place == "three places" else [ct_slice(HU[0], **second) for _ in range(8)]
    saved(tmp_path / "b", above(few, mm))
    (found,) = find_series(tmp_path)
    assert (found.slices, found.refused, codes(found)) == (12, "", {"acquisitions_left_out", "few_slices"})
    assert found.flags[0].message.startswith(f"{len(few)} of {12 + len(few)} slices were left out")
    assert np.array_equal(read_volume(tmp_path).hu, HU)


def test_one_scan_is_not_parted_where_its_acquisitions_lie_end_to_end(tmp_path: Path) -> None:
    series = ct_series(HU)
    for index, dataset in enumerate(series):
        dataset.AcquisitionNumber, dataset.AcquisitionTime = 1 + index // 6, f"08153{index // 6}"
    assert len(find_series(saved(tmp_path / "whole", series))) == 1
    assert "1 of 12 slices is missing" in refusal(saved(tmp_path / "gap", series[:5] + series[6:]))
    again = above(ct_series(HU[2:3], AcquisitionNumber=1, AcquisitionTime="081530"), 5)
    assert "slices are doubled" in refusal(saved(tmp_path / "doubled", series + again))
    for index, dataset in enumerate(shifted(series, 4, 2, 0.8)):
        dataset.AcquisitionNumber, dataset.AcquisitionTime = index, f"0815{index:02d}"
    assert "unevenly spaced" in refusal(saved(tmp_path / "each", series))


def test_phases_of_one_enhanced_file_are_told_apart_by_the_acquisition_of_their_frames(tmp_path: Path) -> None:
    folder = saved(tmp_path, [two_phases(HU, HU + 50, told_by="FrameAcquisitionNumber")])
    assert [(one.key, one.slices, one.refused) for one in find_series(folder)] == [("3", 12, ""), ("3b", 12, "")]
    assert np.array_equal(read_volume(folder, series="3").hu, np.maximum(HU + 50, -1024))
    assert np.array_equal(read_volume(folder, series="3b").hu, HU)


def test_copies_and_scout_views_are_left_out_and_the_volume_says_so(tmp_path: Path) -> None:
    series = ct_series(HU)
    scout = ct_slice(HU[0], (0, 0, 0), orientation=(1, 0, 0, 0, 0, -1), ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    saved(tmp_path / "a", [*series, scout])
    saved(tmp_path / "b", series[:3])
    volume = read_volume(tmp_path)
    assert np.array_equal(volume.hu, HU)
    assert codes(volume) == {"copies_left_out", "localiser_left_out", "few_slices"}


def test_an_image_that_does_not_say_where_it_lies_is_left_out_of_its_series(tmp_path: Path) -> None:
    dose = ct_slice(np.full((32, 40), 7), ImagePositionPatient=None, BurnedInAnnotation="YES")
    pages = ct_slice(HU[0], NumberOfFrames=3)  # three pictures at one place
    (found,) = find_series(saved(tmp_path / "a", [*ct_series(HU), dose, pages]))
    assert (found.slices, codes(found)) == (12, {"images_left_out", "few_slices"})
    assert found.flags[0].message.startswith("2 of 14 images were left out: they do not say where")
    assert np.array_equal(read_volume(tmp_path / "a").hu, HU)
    assert len(slice_headers(tmp_path / "a")) == 12
    # Where most of them do not say it, or one is missed among the others, that is what is wrong with the series.
    placeless = ct_series(HU, ImagePositionPatient=None)
    assert "does not state its position" in refusal(saved(tmp_path / "b", [*ct_series(HU)[:6], *placeless[6:]]))
    assert "IM0007 does not state its position" in refusal(
        saved(tmp_path / "c", [*ct_series(HU)[:4], placeless[4], *ct_series(HU)[5:]])
    )


def test_slices_that_all_have_one_identifier_are_no_copies_of_each_other(tmp_path: Path) -> None:
    series = ct_series(HU)
    for dataset in series:
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4.5"
    volume = read_volume(saved(tmp_path, series))
    assert np.array_equal(volume.hu, HU)
    assert "copies_left_out" not in codes(volume)


def shifted(datasets: list[Dataset], index: int, axis: int, mm: float) -> list[Dataset]:
    place = [float(value) for value in datasets[index].ImagePositionPatient]
    place[axis] += mm
    datasets[index].ImagePositionPatient = place
    return datasets


def tilted(degrees: float) -> list[Dataset]:
    sine, cosine = np.sin(np.deg2rad(degrees)), np.cos(np.deg2rad(degrees))
    return ct_series(HU, orientation=(1, 0, 0, 0, cosine, -sine))


BROKEN = {
    "1 of 12 slices is missing, between IM0006 and IM0005, 5.00 mm": lambda: [*ct_series(HU)[:5], *ct_series(HU)[6:]],
    "2 of 12 slices are missing, most of them between": lambda: [*ct_series(HU)[:5], *ct_series(HU)[7:]],
    "slices are doubled; 2 of 13 share their place": lambda: [*ct_series(HU), ct_series(HU)[4]],
    "the slices are unevenly spaced, from 1.70 to 3.30 mm": lambda: shifted(ct_series(HU), 4, 2, 0.8),
    "the gantry was tilted by 12 degrees": lambda: tilted(12),
    "two orientations; 12 of 16 are turned": lambda: [
        *ct_series(HU),
        *ct_series(HU[:4], orientation=(0, 1, 0, 0, 0, -1)),
    ],
    "do not lie straight behind each other": lambda: shifted(ct_series(HU), 4, 0, 5),
    "different pixel sizes": lambda: [*ct_series(HU[:6]), *ct_series(HU, spacing=(0.5, 0.5))[6:]],
    "different sizes in pixels": lambda: [*ct_series(HU[:6]), *ct_series(HU[:, :-2])[6:]],
    "only 4 slices; 5 are the least": lambda: ct_series(HU[:4]),
    "only scout views": lambda: ct_series(HU, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]),
    "does not state how its numbers become Hounsfield units": lambda: ct_series(HU, slope=None),
    "a map computed from the scan": lambda: ct_series(HU, RescaleType="Z_EFF"),
    "does not state its position": lambda: ct_series(HU, ImagePositionPatient=None),
    "its numbers are not Hounsfield units": lambda: ct_series(abs(HU)),
    "IM0011: its pixels are cut off": lambda: [cut(ct_series(HU)[0]), *ct_series(HU)[1:]],
    "no slices but another object of a CT study": lambda: ct_series(HU, SOPClassUID="1.2.840.10008.5.1.4.1.1.7"),
}


def cut(dataset: Dataset) -> Dataset:
    dataset.PixelData = dataset.PixelData[:-100]
    return dataset


@pytest.mark.parametrize("reason", BROKEN)
def test_what_is_no_volume_is_refused_with_the_reason(reason: str, tmp_path: Path) -> None:
    told = refusal(saved(tmp_path, BROKEN[reason]()))
    assert reason in told
    assert told.endswith(".")


def test_slices_off_by_a_twentieth_are_read_with_a_doubt(tmp_path: Path) -> None:
    volume = read_volume(saved(tmp_path, shifted(ct_series(HU), 4, 2, 0.12)))
    assert "uneven_spacing" in codes(volume)
    assert volume.spacing_mm[0] == pytest.approx(2.5)


def test_small_differences_that_add_up_to_more_than_a_slice_are_refused(tmp_path: Path) -> None:
    heights = np.cumsum([0, *[2.5] * 20, *[2.7] * 20])  # in the middle 2 mm below even slices, less than one
    read = {}
    for times in (1, 3):
        every = np.cumsum([0, *np.repeat(np.diff(heights), times)])
        hu = np.repeat(HU, -(-len(every) // len(HU)), axis=0)[: len(every)]
        slices = [ct_slice(plane, (-10, -20, height)) for plane, height in zip(hu, every.tolist(), strict=True)]
        read[times] = saved(tmp_path / str(times), slices)
    assert "uneven_spacing" in codes(read_volume(read[1]))
    assert "the slices are unevenly spaced, from 2.50 to 2.70 mm" in refusal(read[3])


def test_frames_that_a_file_states_without_their_places_are_never_built(tmp_path: Path) -> None:
    stating = ct_slice(HU[0], NumberOfFrames=100_000)  # each would take memory and time before it is refused
    (found,) = find_series(saved(tmp_path / "alone", [stating]))
    assert "IM0000 does not state its position" in found.refused
    assert found.slices == 1
    grouped = enhanced(HU)
    grouped.NumberOfFrames = 8_001
    assert "IM0000: states 8001 frames; one file may hold 8000" in refusal(saved(tmp_path / "grouped", [grouped]))


def test_a_file_that_the_system_does_not_give_is_an_error_with_a_message(tmp_path: Path) -> None:
    """As one on a broken disk, or of somebody else: the other scans of a command are still searched."""
    (tmp_path / "ct.nii").symlink_to("/proc/self/mem")  # is there, and where it begins nothing can be read
    assert refusal(tmp_path / "ct.nii").startswith("ct.nii: cannot be read (Input/output error). Check who may read it")


def test_a_file_that_cannot_be_read_beside_a_series_is_told(tmp_path: Path) -> None:
    folder = saved(tmp_path, ct_series(HU))
    (folder / "notes.txt").write_text("nothing of interest")
    assert "unreadable_files" not in codes(read_volume(folder))
    # A multi-frame file whose groups are not as many as its frames.
    broken = enhanced(HU)
    broken.NumberOfFrames = 40
    broken.save_as(folder / "broken", enforce_file_format=True)
    assert "unreadable_files" in codes(read_volume(folder))


@pytest.mark.parametrize("how", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_file_that_was_damaged_in_its_zip_archive_is_told_by_its_number_alone(tmp_path: Path, how: int) -> None:
    slices = [file.read_bytes() for file in saved(tmp_path / "s", ct_series(HU)).iterdir()]
    volumes = [nifti(tmp_path / "ct.nii", HU, RAS).read_bytes()] * 4
    path, target = tmp_path / "study.zip", tmp_path / "target"
    for contents, series in ((slices, "3"), (volumes, "file 4")):
        with zipfile.ZipFile(path, "w", how) as archive:
            for number, content in enumerate(contents):
                archive.writestr(f"Jane Doe/{number}", content)
        fourth = archive.infolist()[3]
        damaged = bytearray(path.read_bytes())
        damaged[fourth.header_offset + fourth.compress_size * 3 // 4] ^= 0xFF
        path.write_bytes(damaged)
        for use in (
            partial(read_volume, path),
            partial(pack_series, path, target),
            partial(deidentify, path, target, key=bytes(32)),
        ):
            with pytest.raises(UnreadableFile, match=r"^file 4: the file is cut off or damaged\. Copy") as error:
                use(series=series, name="scan")
            assert error.value.__cause__ is None
        assert not target.exists()


def test_archives_that_are_locked_nested_damaged_or_bombs_are_refused(tmp_path: Path) -> None:
    file = saved(tmp_path / "s", ct_series(HU)) / "IM0000"
    inner, outer = tmp_path / "inner.zip", tmp_path / "outer.zip"
    for archive, member in ((inner, file), (outer, inner)):
        with zipfile.ZipFile(archive, "w") as made:
            made.write(member, "x")
    assert "is an archive again. Unpack the outer one first" in refusal(outer)
    locked = bytearray(inner.read_bytes())
    for signature, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        locked[locked.index(signature) + place] |= 1
    (tmp_path / "locked.zip").write_bytes(locked)
    assert "locked by a password" in refusal(tmp_path / "locked.zip")
    (tmp_path / "half.zip").write_bytes(inner.read_bytes()[:-30])
    assert "cut off or damaged" in refusal(tmp_path / "half.zip")
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("slice", bytes(70 * 2**20))
    with pytest.raises(TooLarge, match="unpacks to more than a CT file can be"):
        find_series(tmp_path / "bomb.zip")
    tarred = in_tar(tmp_path)
    (tmp_path / "half.tar").write_bytes(tarred.read_bytes()[:20_000])
    assert "cut off or damaged" in refusal(tmp_path / "half.tar")
    with tarfile.open(tmp_path / "long.tar", "w", format=tarfile.PAX_FORMAT) as made:
        named = tarfile.TarInfo("x" * 3 * 2**20)
        made.addfile(named)
    assert "cut off or damaged" in refusal(tmp_path / "long.tar"), "its name alone has 3 MB"
    wide = ct_slice(HU[0])
    wide.Rows = wide.Columns = 60_000
    with pytest.raises(UnreadableFile, match="60000 px are more than can be read"):
        read_volume(saved(tmp_path / "wide", [wide] * 1))


def test_a_header_that_would_fill_the_memory_is_refused_without_taking_it(tmp_path: Path) -> None:
    """A value of any length, and a deflated data set that grows to a thousand times its size."""
    whole = saved(tmp_path / "s", ct_series(HU[:1], syntax=ImplicitVRLittleEndian)) / "IM0000"
    meta = whole.read_bytes().partition(b"\x08\x00\x08\x00")[0]
    long = tmp_path / "long"
    with long.open("wb") as file:  # a series description of 200 MB, which take no room on a disk
        file.write(meta + struct.pack("<HHI", 8, 0x60, 2) + b"CT" + struct.pack("<HHI", 8, 0x103E, 200 * 2**20))
        file.truncate(file.tell() + 200 * 2**20)
    deflated = saved(tmp_path / "d", ct_series(HU[:1], syntax=DeflatedExplicitVRLittleEndian)) / "IM0000"
    meta = deflated.read_bytes()[: 144 + struct.unpack("<I", deflated.read_bytes()[140:144])[0]]
    modality = struct.pack("<HH2sH", 8, 0x60, b"CS", 2) + b"CT"
    pixels = struct.pack("<HH2sHI", 0x7FE0, 0x10, b"OB", 0, 200 * 2**20) + bytes(200 * 2**20)
    packing = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    deflated.write_bytes(meta + packing.compress(modality + pixels) + packing.flush())
    for path in (long, deflated):
        tracemalloc.start()
        assert "cut off or damaged" in refusal(path)
        stated(path)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 140 * 2**20, "the 64 MB of a header, and what is made of them"


def test_a_message_tells_nothing_of_the_patient(tmp_path: Path) -> None:
    named = {"PatientName": "Doe^Jane", "PatientID": "4711", "SeriesDescription": "Doe portal"}
    for broken in (
        ct_series(HU, slope=None, **named),
        ct_series(HU[:3], **named),
        ct_series(HU, Modality="MR", **named),
    ):
        told = refusal(saved(tmp_path, broken))
        assert "Doe" not in told
        assert "4711" not in told
        shutil.rmtree(tmp_path)
    assert "Doe" not in repr(read_volume(saved(tmp_path, ct_series(HU, **named))))


def test_a_message_calls_an_upload_by_the_name_that_the_user_gave_it(tmp_path: Path) -> None:
    stored = saved(tmp_path / "0f3a", ct_series(HU[:3]))
    with pytest.raises(UnreadableFile, match=r"^study\.zip: only 3 slices"):
        read_volume(stored, name="C:\\scans\\study.zip")
    assert find_series(stored, name="study.zip")[0].refused.startswith("study.zip: only 3 slices")
    with pytest.raises(UnreadableFile, match=r"^IM0000 and 2 more: only 3 slices"):
        read_volume(sorted(stored.iterdir()))
    packed = tmp_path / "0f3b"
    with tarfile.open(packed, "w") as archive:
        archive.add(saved(tmp_path / "Jane Doe", ct_series(HU, slope=None), names="Jane Doe {:02d}"))
        archive.add(nifti(tmp_path / "Jane Doe.nii.gz", HU, RAS))
    found = {one.key: one.refused for one in find_series(packed, name="scan")}
    assert found["file 13"] == "", "twelve slices, then the NIfTI file"
    assert "scan: file 12 does not state how" in found["3"]
    assert np.array_equal(read_volume(packed, name="scan", series="file 13").hu, HU)


def test_a_volume_is_written_as_a_file_that_gives_the_same_volume_and_always_the_same_bytes(tmp_path: Path) -> None:
    volume = read_volume(saved(tmp_path / "a", ct_series(HU, step_mm=2.3)))
    told: list[tuple[int, int]] = []
    for name in ("1.nii.gz", "2.nii.gz"):
        write_image(tmp_path / name, volume, progress=lambda *step: told.append(step))
    assert told[11] == (12, 12)
    assert (tmp_path / "1.nii.gz").read_bytes() == (tmp_path / "2.nii.gz").read_bytes()
    read = read_volume(tmp_path / "1.nii.gz")
    assert np.array_equal(read.hu, HU)
    assert np.array_equal(read.affine, volume.affine), "to the last digit: labels found before and after are the same"
    assert nibabel.load(tmp_path / "1.nii.gz").get_fdata()[5, 7, 2] == HU[2, 7, 5]


def test_one_series_is_packed_as_it_is_and_tells_whose_it_is(tmp_path: Path) -> None:
    named = {"PatientName": "Doe^Jane^Ann", "PatientID": "47/11", "StudyDate": "20240229", "StudyTime": "081530"}
    folder = saved(tmp_path / "s", ct_series(HU, **named, AccessionNumber="R-9"))
    saved(folder, ct_series(HU + 7, series="1.7", number=7, **named), names="B{}")
    pack_series(folder, tmp_path / "packed", series="7")
    assert (tmp_path / "packed").stat().st_size < HU.nbytes / 2
    assert np.array_equal(read_volume(tmp_path / "packed").hu, HU + 7)
    (said,) = stated(tmp_path / "packed")
    assert said == Stated("47/11", "Doe, Jane Ann", "", datetime.fromisoformat("2024-02-29T08:15"))
    saved(folder, ct_series(HU, PatientID="4712"), names="C{}")
    assert [one.patient_number for one in stated(folder)] == ["47/11", "4712"]
    assert stated(saved(tmp_path / "parted", ct_series(HU, PatientName=["Doe^Jane", "x"], PatientID="4713"))) == [
        Stated("4713", "Doe, Jane")
    ]
    pack_series(nifti(tmp_path / "a.nii", HU, RAS), tmp_path / "packed")
    assert gzip.decompress((tmp_path / "packed").read_bytes()) == (tmp_path / "a.nii").read_bytes()
    assert stated(tmp_path / "packed") == []


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ([("", "Doe, Jane"), ("", "Roe, Richard")], 2),
        ([("", "Doe, Jane"), ("", "DOE, JANE"), ("", "")], 1),
        ([("1", "Doe, Jane"), ("1", "Doe-Roe, Jane"), ("", "Doe, Jane")], 1),
        ([("1", "Doe, Jane"), ("2", "Doe, Jane")], 2),
        ([("1", "Doe, Jane"), ("", "Roe, Richard")], 2),
        ([("1", ""), ("", "Roe, Richard")], 1),
        ([("1", ""), ("", "Roe, Richard"), ("", "Doe, Jane")], 2),
        ([("", "")], 0),
    ],
)
def test_two_patients_are_told_apart_by_their_numbers_else_by_their_names(
    said: list[tuple[str, str]], expected: int
) -> None:
    assert people([Stated(number, name) for number, name in said]) == expected


def test_headers_of_the_slices_come_in_the_order_of_the_volume(tmp_path: Path) -> None:
    headers = slice_headers(saved(tmp_path / "a", ct_series(HU)))
    assert [float(one.ImagePositionPatient[2]) for one in headers] == [30 + 2.5 * index for index in range(12)]
    assert "PixelData" not in headers[0]
    assert len(slice_headers(saved(tmp_path / "b", [enhanced(HU)]))) == 1


@pytest.mark.parametrize(
    ("description", "agent", "told"),
    [
        ("ABD  PORTAL_1.5_B30f", "Iomeron", "portal venous"),
        ("Abdomen art. + pv", "", "arterial, portal venous"),
        ("Late_arterial 2.0", "", "arterial"),
        ("arterial, late, portal", "", "arterial, portal venous, excretory"),
        ("Abd. spätarteriell, spät-venös", "", "arterial, portal venous"),
        ("hepatic arterial", "", "arterial"),
        ("late", "", "excretory"),
        ("nativ", "", "non-contrast"),
        ("AP w/o + w delayed", "x", "excretory"),
        ("Miller, Venedig", "", ""),
        ("THORAX 3.0", "Ultravist 300", "contrast"),
    ],
)
def test_the_phase_is_told_in_words_of_a_list(description: str, agent: str, told: str) -> None:
    assert phase([description], [agent]) == told


@pytest.mark.parametrize("form", ["implicit", "run lengths", "JPEG-LS", "JPEG 2000", "enhanced"])
def test_whatever_is_broken_in_a_file_only_an_error_with_a_message_comes_of_it(form: str, tmp_path: Path) -> None:
    folder = FORMS[form](tmp_path / "whole")
    victim = sorted(folder.iterdir())[0]
    whole, chance = victim.read_bytes(), random.Random(form)
    for _ in range(15):
        broken = bytearray(whole[: len(whole) - chance.choice([0, 0, 0, 900])])
        for _ in range(chance.choice([1, 5, 20])):
            broken[chance.randrange(min(chance.choice([1600, len(broken)]), len(broken)))] = chance.choice([0, 65, 255])
        victim.write_bytes(broken)
        with contextlib.suppress(InputError):
            read_volume(folder)


# NIfTI


def nifti(path: Path, hu: NDArray[Any], affine: NDArray[Any], **options: Any) -> Path:
    image = nibabel.Nifti1Image(hu.transpose(2, 1, 0), affine, **options)
    image.set_sform(affine, code=1)
    image.to_filename(path)
    return path


RAS = np.array([[0.7, 0, 0, -12], [0, 0.8, 0, 5], [0, 0, 2.5, 30], [0, 0, 0, 1]])


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.float32, np.float64, ">i2"])
@pytest.mark.parametrize("name", ["ct.nii", "ct.nii.gz"])
def test_nifti_is_read_in_whole_hu_and_lps(tmp_path: Path, name: str, dtype: Any) -> None:
    volume = read_volume(nifti(tmp_path / name, HU.astype(dtype), RAS))
    assert np.array_equal(volume.hu, HU)
    assert volume.hu.dtype == np.int16
    # To the right and the front in the file, to the left and the back here.
    assert volume.affine @ (5, 7, 2, 1) == pytest.approx((12 - 3.5, -5 - 5.6, 35.0, 1.0))


def test_nifti_files_of_one_name_in_several_folders_are_told_apart(tmp_path: Path) -> None:
    for case in range(3):
        (tmp_path / f"case_{case}").mkdir()
        nifti(tmp_path / f"case_{case}" / "imaging.nii", HU + case, RAS)
    assert [one.key for one in find_series(tmp_path)] == ["imaging.nii", "imaging.nii (2)", "imaging.nii (3)"]
    assert np.array_equal(read_volume(tmp_path, series="imaging.nii (3)").hu, HU + 2)


def test_nifti_2_is_read(tmp_path: Path) -> None:
    nibabel.Nifti2Image(HU.transpose(2, 1, 0), RAS).to_filename(tmp_path / "ct.nii")
    assert np.array_equal(read_volume(tmp_path / "ct.nii").hu, HU)


def test_what_is_longer_than_any_person_is_refused_before_memory_is_taken_for_it(tmp_path: Path) -> None:
    written = nibabel.Nifti1Image(HU.transpose(2, 1, 0), RAS)
    written.header.set_xyzt_units("meter")  # of numbers that are millimetres
    written.to_filename(tmp_path / "ct.nii")
    # 64 rows of 0.8 m are more than 72 columns of 0.7 m, and than 12 slices of 2.5 m.
    assert refusal(tmp_path / "ct.nii").startswith("ct.nii: 51.2 m from end to end, which no scan has")
    sparse = refusal(saved(tmp_path / "s", ct_series(HU, step_mm=251)))
    assert sparse.startswith("s: 3.01 m from end to end"), "12 times 251 mm"
    assert read_volume(saved(tmp_path / "t", ct_series(HU, step_mm=250))).spacing_mm[0] == 250


def test_scaled_numbers_and_numbers_that_are_none_become_hu(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image((HU + 1024).transpose(2, 1, 0), RAS)
    image.header.set_slope_inter(1, -1024)
    image.to_filename(tmp_path / "scaled.nii")
    assert np.array_equal(read_volume(tmp_path / "scaled.nii").hu, HU - 0)
    holes = HU.astype(np.float32)
    holes[0] = np.nan
    assert (read_volume(nifti(tmp_path / "holes.nii", holes, RAS)).hu[0] == -1024).all()


def test_nifti_that_is_cut_off_or_says_not_where_it_lies_is_refused(tmp_path: Path) -> None:
    whole = nifti(tmp_path / "ct.nii.gz", HU, RAS).read_bytes()
    (tmp_path / "half.nii.gz").write_bytes(whole[: len(whole) // 2])
    assert "cut off or damaged" in refusal(tmp_path / "half.nii.gz")
    nowhere = nibabel.Nifti1Image(HU.transpose(2, 1, 0), None)
    nowhere.to_filename(tmp_path / "nowhere.nii")
    assert "left and right are unknown" in refusal(tmp_path / "nowhere.nii")
    assert "two_orientations" not in codes(read_volume(tmp_path / "ct.nii.gz"))
    mirrored = nibabel.load(tmp_path / "ct.nii.gz")
    mirrored.set_qform(np.diag([-1.0, 1, 1, 1]) @ RAS, code=1)
    mirrored.to_filename(tmp_path / "mirrored.nii")
    assert "two_orientations" in codes(read_volume(tmp_path / "mirrored.nii"))


def test_labels_are_written_on_the_very_grid_of_the_volume(tmp_path: Path) -> None:
    volume = read_volume(nifti(tmp_path / "ct.nii.gz", HU, RAS))
    labels = (HU > 100).astype(np.int64) * 3
    write_labels(tmp_path / "labels.nii.gz", labels, volume)
    back = nibabel.load(tmp_path / "labels.nii.gz")
    assert np.array_equal(np.asarray(back.dataobj).transpose(2, 1, 0), labels)
    assert back.get_data_dtype() == np.uint8
    written = nibabel.load(tmp_path / "ct.nii.gz")
    assert np.array_equal(back.affine, written.affine)
    assert np.allclose(back.get_qform(), written.affine, atol=1e-4)
    assert (int(back.header["sform_code"]), int(back.header["qform_code"])) == (1, 1)
    write_labels(tmp_path / "again.nii.gz", labels, volume)
    assert (tmp_path / "again.nii.gz").read_bytes() == (tmp_path / "labels.nii.gz").read_bytes()
    with pytest.raises(ValueError, match="must have the volume's shape"):
        write_labels(tmp_path / "x.nii", labels[1:], volume)
    with pytest.raises(ValueError, match="whole numbers from 0 to 255"):
        write_labels(tmp_path / "x.nii", labels * 100, volume)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again.nii.gz", "ct.nii.gz", "labels.nii.gz"]


# Places in the patient

TURNS = [
    (axes, flips) for axes in ((0, 1, 2), (1, 0, 2), (2, 1, 0), (1, 2, 0)) for flips in ((), (0,), (2,), (0, 1, 2))
]


@pytest.mark.parametrize(("axes", "flips"), TURNS)
def test_toward_lps_undoes_every_turn_and_from_lps_goes_back(axes: tuple[int, ...], flips: tuple[int, ...]) -> None:
    affine = np.array([[0.7, 0, 0, -10], [0, 0.8, 0, -20], [0, 0, 2.5, 30], [0, 0, 0, 1]])
    upright = Volume(HU, affine)
    turned = turn(upright, axes, flips)
    back = turned.toward_lps()
    assert np.array_equal(back.hu, HU)
    assert np.allclose(back.affine, affine)
    assert np.shares_memory(back.hu, turned.hu)
    assert np.array_equal(turned.from_lps(back.hu), turned.hu)


def turn(volume: Volume, axes: tuple[int, ...], flips: tuple[int, ...]) -> Volume:
    """The same patient on a grid whose axes are exchanged and run the other way."""
    shape = [volume.shape[axis] for axis in axes]
    # Old index (slice, row, column) of a new one, then of the affine's reversed order.
    old = np.zeros((4, 4))
    old[3, 3] = 1
    for new_axis, axis in enumerate(axes):
        old[2 - axis, 2 - new_axis] = -1 if new_axis in flips else 1
        old[2 - axis, 3] = shape[new_axis] - 1 if new_axis in flips else 0
    return Volume(np.flip(volume.hu.transpose(axes), flips), volume.affine @ old)


# Real files


@pytest.fixture(scope="module")
def abdomen(shared_data: Path) -> Volume:
    return read_volume(shared_data / "ct/ircad_07/dicom")


def kidneys(volume: Volume, labels: NDArray[Any]) -> tuple[list[float], list[float]]:
    """Centres in LPS mm of what is labelled to the right and to the left of the body's middle."""
    places = volume.lps_mm(np.argwhere(labels == 1))
    middle = places[:, 0].mean()
    right, left = places[places[:, 0] < middle], places[places[:, 0] > middle]
    return right.mean(axis=0).tolist(), left.mean(axis=0).tolist()


def test_a_real_portal_phase_abdomen_lies_where_its_labels_lie(abdomen: Volume, shared_data: Path) -> None:
    assert repr(abdomen) == "Volume(151 x 512 x 512 voxels of 1.6 x 0.782 x 0.782 mm, phase unknown)"
    labels = np.asarray(nibabel.load(shared_data / "ct/ircad_07/labels.nii.gz").dataobj).transpose(2, 1, 0)
    in_kidneys = abdomen.hu[labels == 1]
    assert 120 < in_kidneys.mean() < 220  # contrast medium is in them; off by a slice or mirrored they would not be
    assert (labels == 1).sum() * abdomen.voxel_ml == pytest.approx(286.6, abs=0.1)


def test_the_same_organ_lies_at_the_same_place_however_the_slices_are_stored(
    abdomen: Volume, shared_data: Path, tmp_path: Path
) -> None:
    labels = np.asarray(nibabel.load(shared_data / "ct/ircad_07/labels.nii.gz").dataobj).transpose(2, 1, 0)
    expected = kidneys(abdomen, labels)
    part = Volume(abdomen.hu[::10, ::16, ::8], abdomen.affine @ np.diag([8.0, 16, 10, 1]))
    part_labels = labels[::10, ::16, ::8]
    for count, (axes, flips) in enumerate([((0, 1, 2), (1,)), ((0, 1, 2), (0, 2)), ((2, 0, 1), (1,))]):
        turned = turn(part, axes, flips)
        turned_labels = np.flip(part_labels.transpose(axes), flips)
        # As NIfTI, whose affine may mirror, and as DICOM, whose slices' normal decides the order.
        read = read_volume(nifti(tmp_path / f"{count}.nii", turned.hu, np.diag([-1.0, -1, 1, 1]) @ turned.affine))
        assert np.array_equal(read.hu, turned.hu)
        assert np.allclose(kidneys(read, turned_labels), expected, atol=6)
        from_dicom = read_volume(saved(tmp_path / f"{count}", as_dicom(turned)))
        assert np.allclose(kidneys(from_dicom.toward_lps(), part_labels), expected, atol=6)
        assert np.array_equal(from_dicom.toward_lps().hu, part.hu)


def as_dicom(volume: Volume) -> list[Dataset]:
    columns, rows = (volume.affine[:3, axis] for axis in (0, 1))
    size = np.linalg.norm(rows), np.linalg.norm(columns)
    directions = (*(columns / size[1]).tolist(), *(rows / size[0]).tolist())
    return [
        ct_slice(
            plane,
            tuple((volume.affine @ (0, 0, index, 1))[:3].tolist()),
            orientation=directions,
            spacing=(float(size[0]), float(size[1])),
        )
        for index, plane in enumerate(volume.hu)
    ]


def test_a_real_slab_whose_rows_run_upward_keeps_right_and_left_apart(shared_data: Path) -> None:
    folder = shared_data / "ct/amos_0013_slab"
    volume = read_volume(folder / "img_dicom")
    masks = [pydicom.dcmread(path) for path in (folder / "mask_dicom").iterdir()]
    masks.sort(key=lambda mask: volume.indices(np.array([mask.ImagePositionPatient]))[0, 0])
    labels = np.stack([mask.pixel_array for mask in masks])
    right, left = (volume.lps_mm(np.argwhere(labels == label)).mean(axis=0) for label in (2, 3))
    assert right[0] < left[0]  # x rises to the patient's left
    assert volume.hu[labels == 2].mean() == pytest.approx(volume.hu[labels == 3].mean(), abs=40)
    # Slices run from the head down in the files' own order, and upward once turned.
    assert volume.affine[2, 2] < 0 < volume.toward_lps().affine[2, 2]
    assert "its numbers are not Hounsfield units" in refusal(folder / "mask_dicom")


def test_real_compressed_slices_are_spaced_by_place_and_not_by_thickness(shared_data: Path) -> None:
    volume = read_volume(shared_data / "ct/totalseg_example/dicom_jpeg2000")
    assert volume.slices == 20
    assert volume.spacing_mm[0] == pytest.approx(2.0)
    assert volume.thickness_mm == 3.0
    assert volume.phase == "contrast"
    assert volume.hu.min() == -1024


def test_real_nifti_lies_where_nibabel_says(shared_data: Path) -> None:
    path = shared_data / "ct/totalseg_example/example_ct.nii.gz"
    volume, image = read_volume(path), nibabel.load(path)
    assert np.array_equal(volume.hu, np.clip(np.asarray(image.dataobj), -1024, None).transpose(2, 1, 0))
    assert np.allclose(volume.affine @ (1, 2, 3, 1), np.diag([-1, -1, 1, 1]) @ image.affine @ (1, 2, 3, 1))
    left = np.asarray(nibabel.load(path.parent / "masks_predicted/normal/kidney_left.nii.gz").dataobj) > 0
    right = np.asarray(nibabel.load(path.parent / "masks_predicted/normal/kidney_right.nii.gz").dataobj) > 0
    places = [volume.lps_mm(np.argwhere(mask.transpose(2, 1, 0)))[:, 0].mean() for mask in (right, left)]
    assert places[0] < places[1]


OUTCOMES = {
    "dicom2nifti/failing/gantrytilting/001": "gantry was tilted by 14 degrees",
    "dicom2nifti/failing/notavolume/001": "slices are doubled; 4 of 4 share",
    "dicom2nifti/failing/slicecount/001": "MR, not CT",
    "dicom2nifti/failing/sliceincrement/001": "1 of 5 slices is missing",
    "dicom2nifti/failing/sliceincrement/002": "1 of 5 slices is missing",
    "dicom2nifti/failing/sliceorientation/001": "MR, not CT",
    "dicom2nifti/failing/slicecount/001_ground_truth.nii.gz": "too few slices",
    "dicom2nifti/failing/slicecount/001_ground_truth_reoriented.nii.gz": "too few slices",
    "dicom2nifti/LICENSE": "text",
    "nifti/Talairach_labels_1mm.nii.gz": "not Hounsfield units",
    "nifti/anatomical.nii": "not Hounsfield units",
    "nifti/anatomical_label.nii.gz": "not Hounsfield units",
    "nifti/dti_V1.nii.gz": "not one volume but 128 x 128 x 53 x 3 numbers",
    "nifti/reoriented_anat_moved.nii": "not Hounsfield units",
    "nifti/series.nii.gz": "not one volume but 91 x 109 x 91 x 10 numbers",
    "nifti/zstat1.nii.gz": "not Hounsfield units",
    "pydicom/693_J2KI.dcm": "only one slice",
    "pydicom/CT_small.dcm": "only one slice",
    "pydicom/ExplVR_BigEnd.dcm": "US, not CT",
    "pydicom/ExplVR_BigEndNoMeta.dcm": "RTPLAN, not CT",
    "pydicom/ExplVR_LitEndNoMeta.dcm": "RTPLAN, not CT",
    "pydicom/J2K_pixelrep_mismatch.dcm": "only one slice",
    "pydicom/JPEG2000.dcm": "NM, not CT",
    "pydicom/JPEGLSNearLossless_16.dcm": "no CT image",
    "pydicom/LICENSE": "text",
    "pydicom/MR_small.dcm": "MR, not CT",
    "pydicom/MR_small_RLE.dcm": "MR, not CT",
    "pydicom/MR_small_bigendian.dcm": "MR, not CT",
    "pydicom/MR_small_expb.dcm": "MR, not CT",
    "pydicom/MR_small_implicit.dcm": "MR, not CT",
    "pydicom/MR_small_jp2klossless.dcm": "MR, not CT",
    "pydicom/MR_small_jpeg_ls_lossless.dcm": "MR, not CT",
    "pydicom/MR_small_padded.dcm": "MR, not CT",
    "pydicom/MR_truncated.dcm": "MR, not CT",
    "pydicom/README.txt": "text",
    "pydicom/SC_rgb_jpeg.dcm": "OT, not CT",
    "pydicom/UN_sequence.dcm": "no CT image",
    "pydicom/badVR.dcm": "RTDOSE, not CT",
    "pydicom/empty_charset_LEI.dcm": "no CT image",
    "pydicom/image_dfl.dcm": "OT, not CT",
    "pydicom/liver_1frame.dcm": "SEG, not CT",
    "pydicom/meta_missing_tsyntax.dcm": "no CT image",
    "pydicom/no_meta.dcm": "neither DICOM nor NIfTI",
    "pydicom/no_meta_group_length.dcm": "no CT image",
    "pydicom/reportsi.dcm": "SR, not CT",
    "pydicom/rtdose.dcm": "RTDOSE, not CT",
    "pydicom/rtplan.dcm": "RTPLAN, not CT",
    "pydicom/rtplan_truncated.dcm": "RTPLAN, not CT",
    "pydicom/rtstruct.dcm": "RTSTRUCT, not CT",
    "pydicom/waveform_ecg.dcm": "ECG, not CT",
    "pydicom/zipMR.gz": "MR, not CT",
    "pydicom/dicomdirtests/DICOMDIR-empty.dcm": "none of the 0 files that the directory names lies beside it",
    "pydicom/dicomdirtests/README.txt": "text",
    "pydicom/dicomdirtests/TINY_ALPHA": "no slices but another object of a CT study",
}
"""What each real file or folder is refused for."""
READ = [
    "98892001", "DICOMDIR", "DICOMDIR-bigEnd", "DICOMDIR-implicit", "DICOMDIR-nooffset", "DICOMDIR-nopatient",
    "DICOMDIR-reordered",
]  # fmt: skip
"""In `pydicom/dicomdirtests`: each leads to the same five slices of 2.5 mm, scout views and MR beside them."""


@pytest.mark.parametrize("place", OUTCOMES)
def test_a_real_file_is_refused_for_what_it_is(place: str, shared_data: Path) -> None:
    told = refusal(shared_data / READER_TESTS / place)
    assert OUTCOMES[place] in told
    assert told.startswith(Path(place).name)


@pytest.mark.parametrize("name", READ)
def test_a_real_dicomdir_leads_to_its_slices_even_where_it_is_damaged(name: str, shared_data: Path) -> None:
    volume = read_volume(shared_data / READER_TESTS / "pydicom/dicomdirtests" / name)
    assert volume.shape == (5, 16, 16)
    assert ("missing_files" in codes(volume)) == name.startswith("DICOMDIR")  # two of its three patients are not here
    assert volume.spacing_mm == pytest.approx((2.5, 0.488281, 0.488281), abs=1e-5)


def test_no_real_file_is_without_an_outcome(shared_data: Path) -> None:
    root = shared_data / READER_TESTS
    told = {root / place for place in OUTCOMES} | {root / "pydicom/dicomdirtests" / name for name in READ}
    files = [path for path in root.rglob("*") if path.is_file()]
    assert [str(path) for path in files if not told & {path, *path.parents}] == []


@pytest.mark.parametrize("name", ["693_J2KI.dcm", "J2K_pixelrep_mismatch.dcm", "CT_small.dcm"])
def test_real_odd_slices_decode_to_their_hu(name: str, shared_data: Path, tmp_path: Path) -> None:
    # One slice is no volume; five of it, each at its own place, are.
    original = pydicom.dcmread(shared_data / READER_TESTS / "pydicom" / name)
    original.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    for index in range(5):
        original.ImagePositionPatient = [0, 0, index]
        original.SOPInstanceUID = original.file_meta.MediaStorageSOPInstanceUID = f"1.2.{index + 1}"
        original.save_as(tmp_path / str(index))
    expected = np.clip(pixel_array(original) + int(original.RescaleIntercept), -1024, None)
    volume = read_volume(tmp_path)
    assert np.array_equal(volume.hu[3], expected)


def test_reading_takes_little_more_memory_than_the_volume(tmp_path: Path) -> None:
    hu = np.zeros((60, 256, 256), np.int16)
    hu[:, :64] = -900
    folder = saved(tmp_path / "dicom", ct_series(hu))
    nifti(tmp_path / "ct.nii.gz", hu.astype(np.float64), RAS)
    for path in (folder, tmp_path / "ct.nii.gz"):
        tracemalloc.start()
        volume = read_volume(path)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 1.6 * volume.hu.nbytes  # 7.9 MB; as float64 it would take four times that
