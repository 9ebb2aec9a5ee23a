"""A patient planted in every attribute that DICOM knows, at every depth, and the real files beside the project."""

import gzip
import io
import zipfile
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from pydicom.datadict import DicomDictionary
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from renalcore.errors import UnreadableFile
from renalcore.io.deidentify import deidentify, new_key, new_uid, restore_identifiers, without_patient
from renalcore.io.volume import find_series, read_volume, slice_headers
from tests.ct_files import body, ct_series, ct_slice, enhanced, saved

KEY = bytes(range(32))
HU = body()
SECRET = "SECRETUM"
VALUES = {
    "PN": f"{SECRET}^Jane", "AE": SECRET, "LO": SECRET, "LT": SECRET, "SH": SECRET, "ST": SECRET, "UC": SECRET,
    "UT": SECRET, "UR": f"https://{SECRET}.example", "UN": SECRET.encode(), "OB": SECRET.encode(),
    "OW": SECRET.encode(), "DA": "20200229", "DT": "20200229101112", "TM": "101112", "AS": "077Y",
    "UI": "1.2.999.4711", "CS": "Jane Doe",
}  # fmt: skip
# Names of kernels, makers and codes stay, and what makes the picture one.
NOT_PLANTED = {
    "Manufacturer", "ManufacturerModelName", "ConvolutionKernel", "FilterType", "RescaleType", "StackID", "CodeValue",
    "CodingSchemeDesignator", "CodingSchemeVersion", "CodeMeaning", "SOPClassUID", "PixelData",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "SpecificCharacterSet", "Modality",
    "ImageType", "PhotometricInterpretation",
}  # fmt: skip


def planted() -> Dataset:
    """Every attribute that can hold a text, a person, a date, an identifier or bytes, holds the patient's."""
    data = Dataset()
    for tag, (vr, _, _, _, keyword) in DicomDictionary.items():
        if vr in VALUES and keyword and keyword not in NOT_PLANTED and 0x0008 <= tag >> 16 < 0x7FE0:
            data.add_new(tag, vr, VALUES[vr])
    for group in (0x0009, 0x0029, 0x6001):
        block = data.private_block(group, f"MAKER {SECRET}", create=True)
        block.add_new(0x10, "LO", SECRET)
    data.add_new(0x60003000, "OW", VALUES["OW"])
    return data


def with_patient(dataset: Dataset) -> Dataset:
    """A picture with the patient at its top, in every sequence, and in an item of an item."""
    everything = planted()
    own = {keyword: dataset.get(keyword) for keyword in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")}
    dataset.update(everything)
    for keyword, value in own.items():
        setattr(dataset, keyword, value)
    for tag, (vr, _, _, _, keyword) in DicomDictionary.items():
        if vr == "SQ" and keyword not in NOT_PLANTED and 0x0008 <= tag >> 16 < 0x7FE0:
            inner = Dataset()
            inner.PatientName, inner.StudyDate, inner.InstitutionName = VALUES["PN"], VALUES["DA"], SECRET
            dataset.add_new(tag, "SQ", Sequence([inner]))
    outer, inner = Dataset(), Dataset()
    inner.update(everything)
    outer.PurposeOfReferenceCodeSequence = Sequence([inner])
    dataset.FrameAnatomySequence = Sequence([outer])
    for frame in dataset.get("PerFrameFunctionalGroupsSequence", []):
        content = Dataset()
        content.FrameAcquisitionDateTime, content.FrameComments = VALUES["DT"], SECRET
        frame.FrameContentSequence = Sequence([content])
    dataset.preamble = SECRET.encode().ljust(128)
    return dataset


@pytest.mark.parametrize("form", ["single slices", "enhanced"])
def test_nothing_of_the_patient_survives_in_any_attribute_at_any_depth(form: str, tmp_path: Path) -> None:
    datasets = ct_series(HU[:6]) if form == "single slices" else [enhanced(HU[:6])]
    with_patient(datasets[0])
    saved(tmp_path / "study", datasets)
    done = deidentify(tmp_path / "study", tmp_path / "study.zip", key=KEY, pseudonym="Kidney 12")
    assert (done.files, done.left_out) == (len(datasets), 0)
    with zipfile.ZipFile(tmp_path / "study.zip") as archive:
        written = b"".join(archive.read(name) for name in archive.namelist())
    before = b"".join(path.read_bytes() for path in (tmp_path / "study").iterdir())
    for trace in (SECRET.encode(), b"20200229", b"101112", b"077Y", b"1.2.999.4711", b"Jane Doe"):
        assert trace in before
        assert trace not in written
    assert np.array_equal(read_volume(tmp_path / "study.zip").hu, HU[:6])


def test_the_result_says_what_was_done_and_keeps_what_the_standard_requires() -> None:
    original = ct_slice(HU[0], PatientName="Doe^Jane", PatientID="4711", StudyDate="20200229", AccessionNumber="A1")
    original.SeriesDescription, original.ContrastBolusAgent = "Doe ABD portal 1.5", "Iomeron for Doe"
    clean = without_patient(original, key=KEY, pseudonym="Kidney 12")
    assert (clean.PatientName, clean.PatientID) == ("Kidney 12", "Kidney 12")
    assert all(
        keyword in clean and not clean.get(keyword) for keyword in ("StudyDate", "AccessionNumber", "PatientSex")
    )
    assert (clean.SeriesDescription, clean.ContrastBolusAgent) == ("portal venous", "contrast")
    assert clean.PatientIdentityRemoved == "YES"
    assert [code.CodeValue for code in clean.DeidentificationMethodCodeSequence] == ["113100", "113105"]
    assert all(code.CodingSchemeDesignator == "DCM" for code in clean.DeidentificationMethodCodeSequence)
    assert "2026c" in clean.DeidentificationMethod
    assert clean.LongitudinalTemporalInformationModified == "REMOVED"
    assert clean.file_meta.MediaStorageSOPInstanceUID == clean.SOPInstanceUID
    assert original.PatientName == "Doe^Jane"


def test_words_beside_a_code_stay_only_where_a_scheme_of_the_standard_says_what_it_is() -> None:
    original = ct_slice(HU[0], CodeMeaning="Jane Doe")
    known, own, bare, urn = Dataset(), Dataset(), Dataset(), Dataset()
    known.CodeValue, known.CodingSchemeDesignator, known.CodeMeaning = "64033007", "SCT", "Kidney"
    own.CodeValue, own.CodingSchemeDesignator, own.CodeMeaning = "JD", "99HOSPITAL", "Jane Doe"
    bare.CodeValue, bare.CodeMeaning = "JD", "Jane Doe"
    urn.URNCodeValue, urn.CodeMeaning = "urn:jane", "Jane Doe"
    original.AnatomicRegionSequence = Sequence([known])
    original.PrimaryAnatomicStructureSequence = Sequence([own])
    original.ViewCodeSequence = Sequence([bare])
    original.ViewModifierCodeSequence = Sequence([urn])
    clean = without_patient(original, key=KEY)
    assert clean.AnatomicRegionSequence[0].CodeMeaning == "Kidney"
    assert "Jane" not in str(clean)


def test_new_identifiers_hold_a_study_together_and_lead_nowhere() -> None:
    first, second = ct_series(HU[:2], FrameOfReferenceUID="1.2.3.9")
    reference = Dataset()
    reference.ReferencedSOPInstanceUID, reference.ReferencedSOPClassUID = first.SOPInstanceUID, first.SOPClassUID
    second.ReferencedImageEvidenceSequence = Sequence([reference])
    one, two = (without_patient(dataset, key=KEY) for dataset in (first, second))
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
        assert one[keyword].value == two[keyword].value == new_uid(first[keyword].value, KEY)
        assert one[keyword].value.is_valid
    assert one.SOPInstanceUID != two.SOPInstanceUID
    assert two.ReferencedImageEvidenceSequence[0].ReferencedSOPInstanceUID == one.SOPInstanceUID
    assert two.ReferencedImageEvidenceSequence[0].ReferencedSOPClassUID == first.SOPClassUID
    assert without_patient(first, key=new_key()).SOPInstanceUID != one.SOPInstanceUID
    with pytest.raises(ValueError, match="16 bytes"):
        without_patient(first, key=b"short")


@pytest.mark.parametrize("form", ["single slices", "enhanced"])
def test_who_keeps_what_was_replaced_can_refer_to_the_original_series(form: str, tmp_path: Path) -> None:
    datasets = ct_series(HU) if form == "single slices" else [enhanced(HU)]
    for dataset in datasets:
        dataset.FrameOfReferenceUID = "1.2.3.9"
    datasets[0].StudyInstanceUID = "Jane Doe"  # no identifier: it is not told
    done = deidentify(saved(tmp_path / "study", datasets), tmp_path / "a.zip", key=KEY)
    originals, clean = slice_headers(tmp_path / "study"), slice_headers(tmp_path / "a.zip")
    assert len(done.replaced) == len(datasets) + (3 if form == "single slices" else 2)
    restore_identifiers(clean, done.replaced)
    for keyword in ("SeriesInstanceUID", "FrameOfReferenceUID", "SOPInstanceUID"):
        assert [one[keyword].value for one in clean] == [one[keyword].value for one in originals]
    assert clean[0].StudyInstanceUID == new_uid("Jane Doe", KEY)
    assert clean[-1].StudyInstanceUID == ("1.2.3" if form == "single slices" else new_uid("Jane Doe", KEY))


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("high", [11, 13])
def test_writing_in_bits_that_a_pixel_does_not_need_is_gone_and_the_pixels_stay(signed: bool, high: int) -> None:
    dataset = ct_slice(HU[5], intercept=0 if signed else -1024)
    low = high - 11
    stored = (np.frombuffer(dataset.PixelData, "<u2") & 0x0FFF) << low  # 12 bits: -2048 to 2047, or 0 to 4095
    written = stored.copy()
    written[::3] |= 0x8000
    if low:
        written[::4] |= 1
    dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 12, high, int(signed)
    dataset.PixelData = written.tobytes()
    clean = without_patient(dataset, key=KEY)
    kept = np.frombuffer(clean.PixelData, "<i2" if signed else "<u2")
    assert np.array_equal(kept >> low, HU[5].ravel() + (0 if signed else 1024))
    assert (kept & ((1 << low) - 1) == 0).all()
    assert dataset.PixelData == written.tobytes(), "the original is not changed"
    assert without_patient(clean, key=KEY).PixelData == clean.PixelData


def test_only_ct_images_are_stored_packed_and_the_archive_is_the_same_each_time(tmp_path: Path) -> None:
    saved(tmp_path / "study", ct_series(HU, SeriesDescription="nativ", BurnedInAnnotation="YES"))
    saved(tmp_path / "study" / "screen", [ct_slice(HU[0], SOPClassUID="1.2.840.10008.5.1.4.1.1.7")])
    (tmp_path / "study" / "report.txt").write_text("Jane Doe")
    told: list[tuple[int, int]] = []
    done = deidentify(tmp_path / "study", tmp_path / "a.zip", key=KEY, progress=lambda *step: told.append(step))
    assert (done.files, done.left_out) == (12, 2)
    assert [flag.code for flag in done.flags] == ["burnt_in"]
    assert told[-1] == (14, 14)
    (series,) = find_series(tmp_path / "a.zip")
    assert (series.phase, series.slices, series.refused) == ("non-contrast", 12, "")
    deidentify(tmp_path / "study", tmp_path / "b.zip", key=KEY)
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    assert (tmp_path / "a.zip").stat().st_size < HU.nbytes / 2
    with pytest.raises(UnreadableFile, match="None of the files is a CT image"):
        deidentify(tmp_path / "study" / "report.txt", tmp_path / "c.zip", key=KEY)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zip", "b.zip", "study"]


def test_one_series_of_several_can_be_chosen(tmp_path: Path) -> None:
    saved(tmp_path / "study" / "a", ct_series(HU))
    saved(tmp_path / "study" / "b", ct_series(HU + 9, series="1.2.3.5", number=7))
    assert deidentify(tmp_path / "study", tmp_path / "a.zip", key=KEY, series="7").files == 12
    assert np.array_equal(read_volume(tmp_path / "a.zip").hu, HU + 9)


def test_nifti_loses_its_texts_and_keeps_its_voxels_and_place(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(HU.transpose(2, 1, 0), np.diag([0.7, 0.8, 2.5, 1]))
    image.header["descrip"], image.header["aux_file"], image.header["db_name"] = SECRET, SECRET, SECRET
    image.header.set_intent("estimate", name=SECRET)
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", SECRET.encode()))
    image.to_filename(tmp_path / f"{SECRET}.nii.gz")
    assert SECRET.encode() in gzip.decompress((tmp_path / f"{SECRET}.nii.gz").read_bytes())
    deidentify(tmp_path / f"{SECRET}.nii.gz", tmp_path / "a.zip", key=KEY)
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.namelist() == ["volume-000001.nii.gz"]
        content = archive.read("volume-000001.nii.gz")
    assert SECRET.encode() not in gzip.decompress(content) + content
    before, after = read_volume(tmp_path / f"{SECRET}.nii.gz"), read_volume(tmp_path / "a.zip")
    assert np.array_equal(before.hu, after.hu)
    assert np.array_equal(before.affine, after.affine)


@pytest.mark.parametrize(
    ("folder", "traces"),
    [
        ("ircad_07/dicom", ["liver_07", "IRCAD", "20090527", "125545", "1.2.826.0.1.3680043.2.1125.5129"]),
        (
            "totalseg_example/dicom_jpeg2000",
            ["Petersgraben", "PETCT2", "QR_SNOWFOX", "NPONKINF", "20221208", "CT Body"],
        ),
        ("amos_0013_slab/img_dicom", ["SGQATE", "TGUF", "20230803", "224636", "1.2.826.0.1.3680043.2.1125.1.41574"]),
    ],
)
def test_real_files_lose_names_places_dates_and_identifiers(
    folder: str, traces: list[str], shared_data: Path, tmp_path: Path
) -> None:
    files = sorted((shared_data / "ct" / folder).iterdir())[:5]
    before = b"".join(path.read_bytes() for path in files)
    assert all(trace.encode() in before for trace in traces if trace[0] != "1")
    deidentify(files, tmp_path / "a.zip", key=KEY)
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        contents = [archive.read(name) for name in archive.namelist()]
    assert [trace for trace in traces if trace.encode() in b"".join(contents)] == []
    originals = {pydicom.dcmread(path).PixelData for path in files}
    assert {pydicom.dcmread(io.BytesIO(content)).PixelData for content in contents} == originals
