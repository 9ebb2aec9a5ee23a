"""DICOM SEG: written for a real series and read back by highdicom and pydicom."""

from __future__ import annotations

import copy
import io
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray

from renalcore.ct.kidneys import SITES
from renalcore.ct.measure import sites
from renalcore.errors import InputError
from renalcore.export.dicom_seg import dicom_seg
from renalcore.io.volume import Volume, read_volume, slice_headers
from tests.ct_files import body, ct_series, enhanced, saved

MODEL = {"algorithm": "ct-three-step", "version": "1.2.3"}


@pytest.fixture(scope="module")
def slab(shared_data: Path) -> tuple[Volume, list[pydicom.Dataset], NDArray[np.uint8]]:
    """Eleven real slices whose rows run upward, their headers, and kidneys with a drawn tumour in the left one."""
    folder = shared_data / "ct" / "amos_0013_slab"
    volume, headers = read_volume(folder / "img_dicom"), slice_headers(folder / "img_dicom")
    masks = {
        mask.ImagePositionPatient[2]: mask.pixel_array
        for mask in map(pydicom.dcmread, (folder / "mask_dicom").iterdir())
    }
    expert = np.stack([masks[header.ImagePositionPatient[2]] for header in headers])  # 2 right, 3 left
    labels = np.isin(expert, (2, 3)).astype(np.uint8)
    d, h, w = np.argwhere(expert == 3).mean(axis=0).astype(int)
    labels[d : d + 2, h : h + 9, w : w + 9] = 2
    return volume, headers, labels


def written(slab: tuple[Volume, list[pydicom.Dataset], NDArray[np.uint8]], **changed: object) -> bytes:
    volume, headers, labels = slab
    options = {"reviewed": False, **MODEL, **changed}
    return dicom_seg(labels, sites(labels, volume.affine, hu=volume.hu), volume.affine, headers, **options)


@pytest.mark.shared_data
def test_the_same_voxels_lie_in_the_same_place_when_read_back(slab: tuple) -> None:
    volume, headers, labels = slab
    read = highdicom.seg.segread(io.BytesIO(written(slab)))
    assert list(read.segment_numbers) == [1, 2, 3]
    assert [description.segment_label for description in map(read.get_segment_description, read.segment_numbers)] == [
        "Right kidney", "Left kidney", "Left tumour",
    ]  # fmt: skip
    place = highdicom.VolumeGeometry(
        volume.affine[:, [2, 1, 0, 3]], volume.shape, "PATIENT", frame_of_reference_uid=headers[0].FrameOfReferenceUID
    )
    back = read.get_volume(combine_segments=True).match_geometry(place).array
    np.testing.assert_array_equal(back > 0, labels > 0)
    np.testing.assert_array_equal(back == 3, labels == 2)
    told = sites(labels, volume.affine, hu=volume.hu)
    np.testing.assert_array_equal(back == 1, (labels == 1) & (told == 1))


@pytest.mark.shared_data
def test_each_frame_refers_to_the_slice_that_it_lies_on(slab: tuple) -> None:
    _, headers, _ = slab
    file = pydicom.dcmread(io.BytesIO(written(slab)))
    heights = {header.SOPInstanceUID: float(header.ImagePositionPatient[2]) for header in headers}
    assert file.NumberOfFrames == len(file.PerFrameFunctionalGroupsSequence) > 3
    for frame in file.PerFrameFunctionalGroupsSequence:
        (reference,) = frame.DerivationImageSequence[0].SourceImageSequence
        height = float(frame.PlanePositionSequence[0].ImagePositionPatient[2])
        assert heights[reference.ReferencedSOPInstanceUID] == pytest.approx(height)
    assert (file.StudyInstanceUID, file.FrameOfReferenceUID) == (
        headers[0].StudyInstanceUID, headers[0].FrameOfReferenceUID,
    )  # fmt: skip
    assert file.ReferencedSeriesSequence[0].SeriesInstanceUID == headers[0].SeriesInstanceUID


@pytest.mark.shared_data
def test_segments_are_named_in_snomed_with_their_side(slab: tuple) -> None:
    file = pydicom.dcmread(io.BytesIO(written(slab, reviewed=True)))
    right, _, tumour = file.SegmentSequence
    kind = right.SegmentedPropertyTypeCodeSequence[0]
    assert (kind.CodeValue, kind.SegmentedPropertyTypeModifierCodeSequence[0].CodeValue) == ("64033007", "24028007")
    region = tumour.AnatomicRegionSequence[0]
    assert tumour.SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Mass"
    assert (region.CodeValue, region.AnatomicRegionModifierSequence[0].CodeMeaning) == ("64033007", "Left")
    assert (tumour.SegmentAlgorithmType, tumour.SegmentAlgorithmName) == ("SEMIAUTOMATIC", "ct-three-step")


@pytest.mark.shared_data
def test_a_patient_s_name_goes_into_the_file_and_into_no_warning(slab: tuple) -> None:
    volume, headers, labels = slab
    named = [copy.deepcopy(header) for header in headers]
    for header in named:
        header.PatientName = "Doe"  # without a caret highdicom warns and tells it; warnings are errors here
        del header.StudyID, header.PatientSex
    file = pydicom.dcmread(io.BytesIO(written((volume, named, labels))))
    assert (str(file.PatientName), file.PatientID, file.StudyID) == ("Doe", headers[0].PatientID, "")
    assert (str(named[0].PatientName), "StudyID" in named[0]) == ("Doe", False)  # the headers stay as they are


@pytest.mark.shared_data
def test_a_series_that_lies_elsewhere_is_refused(slab: tuple) -> None:
    volume, headers, labels = slab
    told = sites(labels, volume.affine)
    with pytest.raises(InputError, match=r"Slice 1 of the series does not lie where the labels lie"):
        dicom_seg(labels, told, volume.affine, headers[::-1], reviewed=False, **MODEL)
    with pytest.raises(InputError, match="11 slices are labelled, the series has 10; export NIfTI instead"):
        dicom_seg(labels, told, volume.affine, headers[1:], reviewed=False, **MODEL)
    strange = copy.deepcopy(headers)
    strange[3].FrameOfReferenceUID = "1.2.3"
    with pytest.raises(InputError, match="several frames of reference"):
        dicom_seg(labels, told, volume.affine, strange, reviewed=False, **MODEL)
    strange = copy.deepcopy(headers)
    strange[3].StudyInstanceUID = "1.2.3"
    with pytest.raises(InputError, match="name several studies or series"):
        dicom_seg(labels, told, volume.affine, strange, reviewed=False, **MODEL)
    strange = copy.deepcopy(headers)
    strange[3].SOPInstanceUID = strange[4].SOPInstanceUID
    with pytest.raises(InputError, match="share an identifier"):
        dicom_seg(labels, told, volume.affine, strange, reviewed=False, **MODEL)
    del strange[3].SOPInstanceUID
    with pytest.raises(InputError, match="has no SOPInstanceUID to refer to"):
        dicom_seg(labels, told, volume.affine, strange, reviewed=False, **MODEL)


@pytest.mark.shared_data
def test_a_series_without_a_frame_of_reference_gets_one_that_stays(slab: tuple) -> None:
    volume, headers, labels = slab
    without = copy.deepcopy(headers)
    for header in without:
        del header.FrameOfReferenceUID
    first, second = (pydicom.dcmread(io.BytesIO(written((volume, without, labels)))) for _ in range(2))
    assert first.FrameOfReferenceUID == second.FrameOfReferenceUID != headers[0].FrameOfReferenceUID
    assert first.SOPInstanceUID != second.SOPInstanceUID


@pytest.mark.parametrize("form", ["no thickness", "empty thickness", "enhanced without thickness"])
def test_slices_that_state_no_thickness_are_as_thick_as_they_lie_apart(form: str, tmp_path: Path) -> None:
    hu = body(12, 64, 72)
    datasets = [enhanced(hu)] if form.startswith("enhanced") else ct_series(hu)
    for dataset in datasets if form == "empty thickness" else ():
        dataset.SliceThickness = None
    for dataset in datasets if form == "no thickness" else ():
        del dataset.SliceThickness
    series = saved(tmp_path, datasets)
    volume, labels = read_volume(series), np.zeros(hu.shape, np.uint8)
    labels[3:8, 20:40, 30:50] = 1
    told = sites(labels, volume.affine)
    written = dicom_seg(labels, told, volume.affine, slice_headers(series), reviewed=False, **MODEL)
    read = highdicom.seg.segread(io.BytesIO(written))
    (measures,) = read.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence
    assert measures.SliceThickness == 2.5
    place = highdicom.VolumeGeometry(
        volume.affine[:, [2, 1, 0, 3]], volume.shape, "PATIENT", frame_of_reference_uid=read.FrameOfReferenceUID
    )
    np.testing.assert_array_equal(read.get_volume(combine_segments=True).match_geometry(place).array, labels)


def test_a_kidney_in_the_pelvis_is_a_segment_of_its_own(tmp_path: Path) -> None:
    hu = body(12, 64, 72)
    series = saved(tmp_path, ct_series(hu, step_mm=5))
    volume, labels, told = read_volume(series), np.zeros(hu.shape, np.uint8), np.zeros(hu.shape, np.uint8)
    for site, (first, column) in enumerate(((6, 10), (6, 50), (1, 10)), start=1):
        labels[first : first + 3, 20:40, column : column + 10] = 1
        told[first : first + 3, 20:40, column : column + 10] = SITES.index("pelvis_right") if site == 3 else site
    labels[2, 25:30, 12:16] = 2
    read = highdicom.seg.segread(
        io.BytesIO(dicom_seg(labels, told, volume.affine, slice_headers(series), reviewed=False, **MODEL))
    )
    described = [read.get_segment_description(number) for number in read.segment_numbers]
    assert [each.segment_label for each in described] == [
        "Right kidney", "Left kidney", "Right kidney in the pelvis", "Right tumour in the pelvis",
    ]  # fmt: skip
    kind = described[2].SegmentedPropertyTypeCodeSequence[0]
    assert kind.SegmentedPropertyTypeModifierCodeSequence[0].CodeMeaning == "Right"


def placed(datasets: list[pydicom.Dataset]) -> list[pydicom.Dataset]:
    """What states the positions of the slices, of single images or of the frames of one."""
    if "PerFrameFunctionalGroupsSequence" not in datasets[0]:
        return datasets
    return [frame.PlanePositionSequence[0] for frame in datasets[0].PerFrameFunctionalGroupsSequence]


@pytest.mark.parametrize("form", ["single", "enhanced"])
@pytest.mark.parametrize(("off_mm", "doubted"), [(0.08, False), (0.4, True)])
def test_each_frame_lies_where_its_image_lies_also_in_a_series_that_is_not_quite_even(
    form: str, off_mm: float, doubted: bool, tmp_path: Path
) -> None:
    hu = body(12, 64, 72)
    datasets = [enhanced(hu, step_mm=5)] if form == "enhanced" else ct_series(hu, step_mm=5)
    placed(datasets)[5].ImagePositionPatient[2] += off_mm
    if form == "single":
        datasets[6].ImageOrientationPatient = [1, 0, 0, 0, 1, 0.000001]  # as exports round it
    series = saved(tmp_path, datasets)
    volume, labels = read_volume(series), np.zeros(hu.shape, np.uint8)
    assert any(flag.code == "uneven_spacing" for flag in volume.flags) == doubted
    for index in range(3, 9):
        labels[index, 20 : 30 + index, 30:50] = 1  # the number of rows tells which slice it is
    told = sites(labels, volume.affine)
    file = pydicom.dcmread(
        io.BytesIO(dicom_seg(labels, told, volume.affine, slice_headers(series), reviewed=False, **MODEL))
    )
    assert file.NumberOfFrames == 6
    for frame, pixels in zip(file.PerFrameFunctionalGroupsSequence, file.pixel_array, strict=True):
        (reference,) = frame.DerivationImageSequence[0].SourceImageSequence
        images = [image for image in datasets if image.SOPInstanceUID == reference.ReferencedSOPInstanceUID]
        stated = placed(images)[reference.get("ReferencedFrameNumber", 1) - 1].ImagePositionPatient
        assert frame.PlanePositionSequence[0].ImagePositionPatient == stated
        assert pixels.any(axis=1).sum() == 10 + round((stated[2] - 30) / 5)
    elsewhere = slice_headers(series)
    for one in placed(elsewhere):
        one.ImagePositionPatient[2] += 5
    with pytest.raises(InputError, match="Slice 1 of the series does not lie where the labels lie"):
        dicom_seg(labels, told, volume.affine, elsewhere, reviewed=False, **MODEL)


def test_two_images_that_changed_places_do_not_lie_where_the_labels_lie(tmp_path: Path) -> None:
    series = saved(tmp_path, ct_series(body(12, 64, 72)))
    volume, headers = read_volume(series), slice_headers(series)
    headers[5:7] = headers[6:4:-1]
    labels = np.ones(volume.shape, np.uint8)
    with pytest.raises(InputError, match="Slice 5 of the series does not lie where"):
        dicom_seg(labels, labels, volume.affine, headers, reviewed=False, **MODEL)


def test_nothing_labelled_is_nothing_to_write() -> None:
    nothing = np.zeros((2, 3, 4), np.uint8)
    with pytest.raises(InputError, match="Nothing is labelled"):
        dicom_seg(nothing, nothing, np.eye(4), [], reviewed=False, **MODEL)
