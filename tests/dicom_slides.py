"""A slide as a DICOM archive gives it out: a file a level, one of the label, and the patient's name in each."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, JPEGBaseline8Bit, generate_uid

WHOLE_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"
WIDTH_PX, HEIGHT_PX, TILE_PX = 1024, 768, 256
UM_PER_PX = 0.5
NAMED = {"PatientName": "Secret^Maria", "PatientID": "4711", "AccessionNumber": "R-77", "StudyDate": "20240229"}
RESAMPLED = ["DERIVED", "PRIMARY", "VOLUME", "RESAMPLED"]


def a_dicom_slide(folder: Path, *, series: str = "1.2.826.0.1.3680043.8.498.1", label: bool = True) -> Path:
    """Writes the three levels of `a_field`, 1024 x 768 px at 0.5 um, and the label into a new folder."""
    folder.mkdir(parents=True)
    pixels = a_field()
    for level, shrink in enumerate((1, 2, 4)):
        small = Image.fromarray(pixels).reduce(shrink) if shrink > 1 else Image.fromarray(pixels)
        kind = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"] if level == 0 else RESAMPLED
        _saved(folder / f"Maria Secret {level + 1}.dcm", small, kind, shrink, series)
    if label:
        picture = Image.new("RGB", (TILE_PX, TILE_PX), (255, 255, 0))
        _saved(folder / "Maria Secret 4.dcm", picture, ["ORIGINAL", "PRIMARY", "LABEL", "NONE"], 1, series)
    return folder


def a_field() -> NDArray[np.uint8]:
    """Squares of 128 px in pink and violet, `(768, 1024, 3)`."""
    odd = np.add.outer(np.arange(HEIGHT_PX) // 128, np.arange(WIDTH_PX) // 128) % 2 == 1
    return np.where(odd[..., None], np.uint8([120, 60, 150]), np.uint8([240, 200, 220])).astype(np.uint8)


def _saved(path: Path, picture: Image.Image, kind: list[str], shrink: int, series: str) -> None:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID(WHOLE_SLIDE)
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[series, path.name])
    meta.TransferSyntaxUID = JPEGBaseline8Bit
    image = Dataset()
    image.file_meta = meta
    image.SOPClassUID, image.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    image.ImageType = kind
    image.Modality, image.SeriesNumber = "SM", 1
    for keyword, value in NAMED.items():
        setattr(image, keyword, value)
    image.ContainerIdentifier, image.SeriesDescription = "Maria Secret K-1", "biopsy of Maria Secret"
    image.StudyInstanceUID, image.SeriesInstanceUID = UID(f"{series}.9"), UID(series)
    image.FrameOfReferenceUID = UID(f"{series}.8")
    across, down = -(-picture.width // TILE_PX), -(-picture.height // TILE_PX)
    image.TotalPixelMatrixColumns, image.TotalPixelMatrixRows = picture.width, picture.height
    image.Columns = image.Rows = TILE_PX
    image.NumberOfFrames = across * down
    image.DimensionOrganizationType = "TILED_FULL"
    image.SamplesPerPixel, image.PhotometricInterpretation, image.PlanarConfiguration = 3, "YBR_FULL_422", 0
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 8, 8, 7, 0
    image.BurnedInAnnotation, image.LossyImageCompression = "NO", "01"
    image.ImagedVolumeWidth, image.ImagedVolumeHeight = WIDTH_PX * UM_PER_PX / 1000, HEIGHT_PX * UM_PER_PX / 1000
    measures, shared, optics = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing = [UM_PER_PX * shrink / 1000] * 2
    shared.PixelMeasuresSequence = [measures]
    image.SharedFunctionalGroupsSequence = [shared]
    optics.OpticalPathIdentifier, optics.ObjectiveLensPower = "1", 20
    image.OpticalPathSequence = [optics]
    image.TotalPixelMatrixFocalPlanes = image.NumberOfOpticalPaths = 1
    frames = []
    for row in range(down):
        for column in range(across):
            left, top = column * TILE_PX, row * TILE_PX
            stream = io.BytesIO()
            picture.crop((left, top, left + TILE_PX, top + TILE_PX)).save(stream, "JPEG", quality=90)
            frames.append(stream.getvalue())
    image.PixelData = encapsulate(frames)
    image["PixelData"].is_undefined_length = True
    image.save_as(path, enforce_file_format=True)


def packed(folder: Path, target: Path, *more: Path) -> Path:
    """The files of folders in one tar archive, named by numbers, as the browser sends them."""
    with tarfile.open(target, "w", format=tarfile.USTAR_FORMAT) as archive:
        files = [path for one in (folder, *more) for path in sorted(one.iterdir())]
        for number, path in enumerate(files, start=1):
            member = tarfile.TarInfo(f"{number:06d}")
            member.size = path.stat().st_size
            with path.open("rb") as content:
                archive.addfile(member, content)
    return target
