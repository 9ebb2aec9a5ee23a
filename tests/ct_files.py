"""CT series drawn here and written as scanners and archives write them, for the tests of every part that reads CT."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

CT = "1.2.840.10008.5.1.4.1.1.2"
ENHANCED = "1.2.840.10008.5.1.4.1.1.2.1"


def body(depth: int = 12, height: int = 64, width: int = 72) -> NDArray[np.int16]:
    """HU that tell where a voxel lies, -1000 (air) in the first quarter of the columns."""
    slices, rows, columns = np.mgrid[:depth, :height, :width]
    hu = (slices * 40 + rows * 3 - columns).astype(np.int16)
    hu[:, :, : width // 4] = -1000
    return hu


def ct_slice(
    pixels: NDArray[Any],
    position: tuple[float, float, float] = (-10.0, -20.0, 30.0),
    *,
    series: str = "1.2.3.4",
    number: int | None = 3,
    orientation: tuple[float, ...] = (1, 0, 0, 0, 1, 0),
    spacing: tuple[float, float] = (0.8, 0.7),
    slope: float | None = 1,
    intercept: float | None = -1024,
    syntax: str = ExplicitVRLittleEndian,
    **attributes: Any,
) -> Dataset:
    """One CT image; pixels are HU, stored as `(hu - intercept) / slope`."""
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = CT, generate_uid()
    dataset.Modality, dataset.ImageType = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.SeriesNumber = "1.2.3", series, number
    dataset.ImagePositionPatient, dataset.ImageOrientationPatient = list(position), list(orientation)
    dataset.PixelSpacing, dataset.SliceThickness = list(spacing), "9.9"  # the thickness says nothing of the spacing
    dataset.Rows, dataset.Columns = pixels.shape[-2:]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 1
    if slope is not None and intercept is not None:
        dataset.RescaleSlope, dataset.RescaleIntercept = slope, intercept
    stored = np.rint((pixels - (intercept or 0)) / (slope or 1)).astype("<i2")
    if len(stored.tobytes()) % 2:
        raise ValueError("an even number of pixels is needed")
    dataset.PixelData = stored.tobytes()
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    return dataset


def ct_series(hu: NDArray[np.int16], *, step_mm: float = 2.5, **options: Any) -> list[Dataset]:
    """Axial slices from foot to head, 2.5 mm apart, the first at z = 30 mm."""
    return [ct_slice(plane, (-10.0, -20.0, 30.0 + step_mm * index), **options) for index, plane in enumerate(hu)]


def saved(folder: Path, datasets: list[Dataset], *, names: str = "IM{:04d}") -> Path:
    """Files in a folder, in an order that tells nothing: the last slice is first."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, dataset in enumerate(reversed(datasets)):
        dataset.save_as(folder / names.format(index), enforce_file_format=True)
    return folder


def enhanced(hu: NDArray[np.int16], *, step_mm: float = 2.5) -> Dataset:
    """All slices in one Enhanced CT file, their frames in the reverse order of their places."""
    planes = ct_series(hu, step_mm=step_mm)[::-1]
    dataset = ct_slice(hu[::-1])
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope",
                    "RescaleIntercept", "SliceThickness"):  # fmt: skip
        delattr(dataset, keyword)
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = ENHANCED
    dataset.NumberOfFrames = len(hu)
    shared = Dataset()
    shared.PlaneOrientationSequence = _group(planes[0], "ImageOrientationPatient")
    shared.PixelMeasuresSequence = _group(planes[0], "PixelSpacing")
    shared.PixelValueTransformationSequence = _group(planes[0], "RescaleSlope", "RescaleIntercept")
    dataset.SharedFunctionalGroupsSequence = Sequence([shared])
    frames = []
    for plane in planes:
        frame = Dataset()
        frame.PlanePositionSequence = _group(plane, "ImagePositionPatient")
        frames.append(frame)
    dataset.PerFrameFunctionalGroupsSequence = Sequence(frames)
    return dataset


def two_phases(first: NDArray[np.int16], second: NDArray[np.int16], *, told_by: str) -> Dataset:
    """One Enhanced CT file of two phases at the same places, the frames of the second first; an element tells."""
    dataset = enhanced(np.concatenate([first, second]))
    frames, count = dataset.PerFrameFunctionalGroupsSequence, len(first)
    for index, frame in enumerate(frames):
        content = Dataset()
        setattr(content, told_by, 2 if index < count else 1)
        frame.FrameContentSequence = Sequence([content])
        frame.PlanePositionSequence = frames[index % count + count].PlanePositionSequence
    return dataset


def _group(source: Dataset, *keywords: str) -> Sequence:
    item = Dataset()
    for keyword in keywords:
        setattr(item, keyword, source[keyword].value)
    return Sequence([item])
