"""Labels of a CT as a DICOM Segmentation that refers to the original series, by highdicom.

One segment for each label and site that holds something and none that is empty: viewers stumble over empty ones. What
a segment is, SNOMED CT says, in the codes that DICOM PS3.16 lists (CID 7150, 7151, 7159; sides CID 244), so that 3D
Slicer and OHIF name it without being told. A tumour is a "mass": what it is, no CT says. The labels themselves are not
altered: the same voxels lie in the same place.
"""

from __future__ import annotations

import copy
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from renalcore.ct.kidneys import SITES, Site, box_of
from renalcore.ct.steps import CYST, KIDNEY, LABELS, TUMOUR
from renalcore.errors import InputError
from renalcore.io.volume.stacking import astray

if TYPE_CHECKING:
    from highdicom.seg import SegmentDescription
    from pydicom import Dataset

Labels = NDArray[np.uint8]
_Order = NDArray[np.intp] | slice
ORDER: Final[tuple[Site, ...]] = ("right", "left", "middle", "pelvis_right", "pelvis_left", "pelvis_middle")
"""Of the segments: right before left, and last what is no native kidney."""

COLOURS: Final = {KIDNEY: (86, 180, 233), TUMOUR: (213, 94, 0), CYST: (240, 228, 66)}
"""RGB that viewers are advised to use, of the Okabe-Ito palette."""

REFERRED_TO: Final = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")
MAY_BE_EMPTY: Final = (
    "PatientID", "PatientBirthDate", "AccessionNumber", "StudyID", "StudyDate", "StudyTime", "ReferringPhysicianName",
)  # fmt: skip
"""What highdicom takes from the first slice, and what DICOM lets be empty but many files leave out."""

FUNCTIONAL_GROUPS: Final = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")

SERIES_NUMBER: Final = 9001
"""Above those that scanners give."""


def dicom_seg(
    labels: Labels,
    sites: Labels,
    affine: NDArray[np.floating[Any]],
    source: Sequence[Dataset],
    *,
    algorithm: str,
    version: str,
    reviewed: bool,
) -> bytes:
    """The labels of one volume as a DICOM Segmentation.

    Args:
        labels: `(D, H, W)`: 0 background, 1 kidney, 2 tumour, 3 cyst.
        sites: `(D, H, W)` as `renalcore.ct.measure.sites` tells them.
        affine: 4 x 4, as that of a `Volume`: `(column, row, slice, 1)`, the reverse of an index, to LPS mm.
        source: Headers of the original slices, as `renalcore.io.volume.slice_headers` gives them; patient and study are
            taken from them.
        algorithm: Key of the model.
        version: Of the model or program.
        reviewed: Whether a person has gone through it.

    Returns:
        The bytes of a Part 10 file.

    Raises:
        InputError: There is nothing to write, or the series cannot be referred to: it lies elsewhere, or its headers
            lack what DICOM demands.
    """
    import highdicom

    if not labels.any():
        raise InputError("Nothing is labelled, so there is nothing to write as DICOM SEG.")
    order = _order(labels.shape, np.asarray(affine, np.float64), source)
    complete = _complete(source, slice_mm=float(np.linalg.norm(np.asarray(affine, np.float64)[:3, 2])))
    box = box_of(labels)
    kinds = sites[box] * np.uint8(4) + labels[box]
    held = np.bincount(kinds.ravel(), minlength=4 * len(SITES))
    numbers = np.zeros(4 * len(SITES), np.uint8)
    segments: list[SegmentDescription] = []
    for site in ORDER:
        for label in LABELS:
            kind = 4 * SITES.index(site) + label
            if held[kind]:
                numbers[kind] = len(segments) + 1
                segments.append(_segment(len(segments) + 1, label, site, algorithm, version, reviewed))
    segmented = np.zeros(labels.shape, np.uint8)
    segmented[box] = numbers[kinds]
    written = highdicom.seg.Segmentation(
        source_images=complete,
        pixel_array=segmented[order],  # without places of its own, so each has that of its image, even or not
        segmentation_type="BINARY",
        segment_descriptions=segments,
        series_instance_uid=highdicom.UID(),
        series_number=SERIES_NUMBER,
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer="RenalCore",
        manufacturer_model_name=algorithm,
        software_versions=version,
        device_serial_number="0",
        content_label="KIDNEYS",
        content_description="Kidneys, tumours and cysts. For research use only.",
        series_description="Kidneys, tumours and cysts",
    )
    written.PatientName = source[0].get("PatientName", "")
    file = io.BytesIO()
    written.save_as(file)
    return file.getvalue()


def _order(shape: tuple[int, ...], affine: NDArray[np.float64], source: Sequence[Dataset]) -> _Order:
    """The slices of the labels in the order of the images, or of the frames of an enhanced one.

    Raises:
        InputError: They are not the slices of the labels, one by one, or cannot be referred to.
    """
    lacking = [word for word in REFERRED_TO if not source or any(not header.get(word) for header in source)]
    if lacking:
        raise InputError(f"The original series has no {lacking[0]} to refer to; export NIfTI instead.")
    if len({header.get("FrameOfReferenceUID") for header in source}) > 1:
        raise InputError("The slices of the original series lie in several frames of reference; export NIfTI instead.")
    if len({(header.StudyInstanceUID, header.SeriesInstanceUID) for header in source}) > 1:
        raise InputError("The slices name several studies or series that they belong to; export NIfTI instead.")
    if len({header.SOPInstanceUID for header in source}) < len(source):
        raise InputError("Slices of the original series share an identifier to refer to; export NIfTI instead.")
    is_enhanced = len(source) == 1 and "NumberOfFrames" in source[0]
    frames = source[0].PerFrameFunctionalGroupsSequence if is_enhanced else source
    if len(frames) != shape[0]:
        raise _other_slices(shape[0], len(frames))
    placed = [frame.PlanePositionSequence[0] for frame in frames] if is_enhanced else frames
    corners = np.array([one.ImagePositionPatient for one in placed], np.float64)
    # Frames come in any order, single images in that of the volume.
    by_place = np.argsort(corners @ affine[:3, 2]) if is_enhanced else np.arange(len(corners))
    away = astray(corners[by_place], affine)
    for index, header in enumerate(() if is_enhanced else source):
        rows, columns = np.array(header.ImageOrientationPatient, np.float64).reshape(2, 3)
        row_mm, column_mm = (float(step) for step in header.PixelSpacing)
        stated = np.stack((rows * column_mm, columns * row_mm), 1)
        away[index] |= (header.Rows, header.Columns) != shape[1:] or not np.allclose(stated, affine[:3, :2], atol=0.05)
    if away.any():
        raise InputError(
            f"Slice {int(away.argmax()) + 1} of the series does not lie where the labels lie; export NIfTI instead."
        )
    return np.argsort(by_place) if is_enhanced else slice(None)


def _other_slices(labelled: int, stored: int) -> InputError:
    return InputError(f"{labelled} slices are labelled, the series has {stored}; export NIfTI instead.")


def _complete(source: Sequence[Dataset], *, slice_mm: float) -> list[Dataset]:
    """Headers that highdicom takes: nothing is left out, and there is no name, which a warning of its would tell.

    A series without a frame of reference gets one of its own, the same each time. Slices without a thickness are as
    thick as they lie apart, and all have the orientation of the first, which may differ in the last digits.
    """
    import pydicom

    first = copy.deepcopy(source[0])
    first.PatientName = ""
    for word in MAY_BE_EMPTY:
        if word not in first:
            setattr(first, word, None)
    if first.get("PatientSex") not in ("M", "F", "O"):
        first.PatientSex = None
    groups = [group for word in FUNCTIONAL_GROUPS for group in first.get(word) or []]
    measures = [measure for group in groups for measure in group.get("PixelMeasuresSequence") or []]
    for measure in measures or [first]:
        if not measure.get("SliceThickness"):
            measure.SliceThickness = f"{slice_mm:.6g}"
    if not first.get("FrameOfReferenceUID"):
        first.FrameOfReferenceUID = pydicom.uid.generate_uid(entropy_srcs=[str(first.SeriesInstanceUID)])
    alike = {word: first[word].value for word in ("FrameOfReferenceUID", "ImageOrientationPatient") if word in first}
    headers = [first]
    for header in source[1:]:
        if any(header.get(word) != value for word, value in alike.items()):
            header = copy.deepcopy(header)
            for word, value in alike.items():
                setattr(header, word, value)
        headers.append(header)
    return headers


def _segment(number: int, label: int, site: Site, algorithm: str, version: str, reviewed: bool) -> SegmentDescription:
    import highdicom
    from highdicom.sr import CodedConcept
    from pydicom.sr.codedict import codes

    category, kind = {
        KIDNEY: (codes.SCT.AnatomicalStructure, codes.SCT.Kidney),
        TUMOUR: (codes.SCT.MorphologicallyAbnormalStructure, codes.SCT.Mass),
        CYST: (codes.SCT.MorphologicallyAbnormalStructure, codes.SCT.Cyst),
    }[label]
    sides = {"right": codes.SCT.Right, "left": codes.SCT.Left}
    in_pelvis, side = site.startswith("pelvis_"), site.removeprefix("pelvis_")
    name = f"{side if side in sides else ''} {LABELS[label]}{' in the pelvis' if in_pelvis else ''}".strip()
    described = highdicom.seg.SegmentDescription(
        segment_number=number,
        segment_label=name.capitalize(),
        segmented_property_category=category,
        segmented_property_type=kind,
        algorithm_type="SEMIAUTOMATIC" if reviewed else "AUTOMATIC",
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name=algorithm, family=codes.DCM.ArtificialIntelligence, version=version
        ),
        tracking_uid=highdicom.UID(),
        tracking_id=name,
        anatomic_regions=None if label == KIDNEY else [codes.SCT.Kidney],
        display_color=highdicom.color.CIELabColor.from_rgb(*COLOURS[label]),
    )
    if side in sides:
        modifier = [CodedConcept.from_code(sides[side])]
        if label == KIDNEY:
            described.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = modifier
        else:
            described.AnatomicRegionSequence[0].AnatomicRegionModifierSequence = modifier
    return described
