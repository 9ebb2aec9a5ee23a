"""NIfTI, the format of research: volumes in and out, labels out on the very grid they were made for.

Read slice by slice from the header's own offset, so that neither a compressed file nor scaled numbers are ever held
whole as floats, as nibabel's arrays are.
"""

from __future__ import annotations

import gzip
import logging
import os
import secrets
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from renalcore.errors import UnreadableFile
from renalcore.io.image import DECODER_ERRORS
from renalcore.io.volume.entries import UNPACK_ERRORS, Entry, damaged, opened
from renalcore.io.volume.volume import RAS_OF_LPS, Volume
from renalcore.types import QualityFlag

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# Its remarks on odd headers go to stderr, where nobody can act on them; what matters in them is an error of ours.
logging.getLogger("nibabel.global").setLevel(logging.CRITICAL)

_MM_OF_UNIT: Final = {"m": 1000.0, "meter": 1000.0, "mm": 1.0, "micron": 0.001, "unknown": 1.0}
_TWO_PLACES = QualityFlag(
    "two_orientations",
    "The file states two different places in the patient (qform and sform); the sform is used. Check left and right.",
)


@dataclass(frozen=True, slots=True, eq=False)
class NiftiHeader:
    """What a NIfTI file states.

    Attributes:
        shape: Slices, rows and columns: the reverse of the file's order.
        affine: As of `renalcore.io.volume.Volume`.
        dtype: Of a stored number, with its order of bytes.
        offset: Where the numbers begin.
        slope: What a stored number is multiplied by.
        intercept: What is added then.
        flags: Doubts.
    """

    shape: tuple[int, int, int]
    affine: NDArray[np.float64]
    dtype: np.dtype[Any]
    offset: int
    slope: float
    intercept: float
    flags: tuple[QualityFlag, ...]


def is_nifti(head: bytes) -> bool:
    """Whether 512 bytes begin a NIfTI file, or half of a pair of `.hdr` and `.img`."""
    if head[344:348] in (b"n+1\0", b"ni1\0"):
        return True
    return head[4:12] in (b"n+2\0\r\n\032\n", b"ni2\0\r\n\032\n")


def header(entry: Entry) -> NiftiHeader:
    """What a NIfTI file states.

    Raises:
        UnreadableFile: It is damaged, half of a pair, no single volume of numbers, or does not state where it lies.
    """
    import nibabel
    from nibabel.spatialimages import HeaderDataError

    name = entry.name
    first = entry.head(2)
    kind = nibabel.Nifti2Header if first in (b"\x1c\x02", b"\x00\x00") and _is_second(entry) else nibabel.Nifti1Header
    try:
        with entry.open() as file:
            stated = kind.from_fileobj(file)
        shape = tuple(int(side) for side in stated.get_data_shape())
        dtype = stated.get_data_dtype()
        slope, intercept = stated.get_slope_inter()
        unit = stated.get_xyzt_units()[0]
        offset = int(stated.get_data_offset())
        codes = int(stated["sform_code"]), int(stated["qform_code"])
        ras = stated.get_best_affine()
        other = stated.get_qform() if all(codes) else ras
    except (*DECODER_ERRORS, *UNPACK_ERRORS, HeaderDataError):
        raise damaged(name) from None
    if bytes(stated["magic"])[:2] == b"ni":
        raise UnreadableFile(f"{name}: half of a pair of files (.hdr and .img). Save the volume as one .nii.gz file.")
    shape = shape[:3] + tuple(side for side in shape[3:] if side != 1)
    if len(shape) != 3 or 0 in shape:
        sides = " x ".join(map(str, shape))
        raise UnreadableFile(
            f"{name}: not one volume but {sides} numbers (a time series, colours or a map of directions). Choose one "
            "CT volume."
        )
    if dtype.kind not in "iuf":
        raise UnreadableFile(f"{name}: its voxels are not single numbers. Choose one CT volume.")
    if not any(codes):
        raise UnreadableFile(
            f"{name}: does not state where it lies in the patient, so left and right are unknown. Convert it from the "
            "original DICOM series again."
        )
    scale = _MM_OF_UNIT.get(unit, 1.0)
    affine = RAS_OF_LPS @ np.asarray(ras, np.float64)
    affine[:3] *= scale
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise UnreadableFile(f"{name}: states a place in the patient that cannot be. Convert the series again.")
    # Where the last voxel lies by either statement, in voxels.
    end = np.array([*shape, 1.0])
    apart = np.linalg.norm((np.asarray(ras) - np.asarray(other))[:3] @ end) * scale
    doubtful = apart > np.linalg.norm(affine[:3, :3], axis=0).max() or abs(np.asarray(ras) - other)[:3, 3].max() > 1
    return NiftiHeader(
        shape=(shape[2], shape[1], shape[0]),
        affine=affine,
        dtype=dtype,
        offset=offset,
        slope=1.0 if slope is None else float(slope),
        intercept=0.0 if intercept is None else float(intercept),
        flags=(_TWO_PLACES,) if doubtful else (),
    )


def _is_second(entry: Entry) -> bool:
    return entry.head(12)[4:7] in (b"n+2", b"ni2")


def voxels(entry: Entry, stated: NiftiHeader, progress: Callable[[int, int], None] | None) -> NDArray[np.int16]:
    """`(D, H, W)` int16 HU, read slice by slice.

    Raises:
        UnreadableFile: The file ends too early or cannot be unpacked.
    """
    from renalcore.io.volume.decoding import hounsfield

    hu = np.empty(stated.shape, np.int16)
    for index, stored in enumerate(_slices(entry, stated)):
        hu[index] = hounsfield(stored, stated.slope, stated.intercept)
        if progress is not None:
            progress(index + 1, stated.shape[0])
    return hu


def _slices(entry: Entry, stated: NiftiHeader) -> Iterator[NDArray[Any]]:
    """The stored numbers `(H, W)` of one slice after the other."""
    depth, height, width = stated.shape
    size = height * width * stated.dtype.itemsize
    try:
        with entry.open() as file:
            file.seek(stated.offset)
            for _ in range(depth):
                content = file.read(size)
                if len(content) < size:
                    raise damaged(entry.name)
                yield np.frombuffer(content, stated.dtype).reshape(height, width)
    except (OSError, *UNPACK_ERRORS):
        raise damaged(entry.name) from None


def read_labels(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Labels as `write_labels` wrote them: `(D, H, W)` on the grid of their volume, and its affine.

    Args:
        path: `.nii` or `.nii.gz`, whatever it is called.

    Raises:
        UnreadableFile: It is damaged, or holds no labels of one byte a voxel.
    """
    with opened([path]) as entries:
        stated = header(entries[0])
        if stated.dtype != np.uint8 or (stated.slope, stated.intercept) != (1.0, 0.0):
            raise UnreadableFile(f"{entries[0].name}: holds no labels of one byte a voxel.")
        labels = np.empty(stated.shape, np.uint8)
        for index, stored in enumerate(_slices(entries[0], stated)):
            labels[index] = stored
        return labels, stated.affine


def write_labels(path: Path, labels: NDArray[Any], volume: Volume) -> None:
    """Writes labels as NIfTI on the grid of the volume they were made for; a file half written never appears.

    The file has as many voxels as the input, at the same places: its sform and its qform say so (a sheared grid can be
    said by the sform alone).

    Args:
        path: `.nii.gz` for a compressed file, else `.nii`.
        labels: `(D, H, W)` whole numbers or booleans from 0 to 255, indexed as `volume.hu`.
        volume: The volume that was segmented.

    Raises:
        ValueError: The shape is not the volume's, or a label is no whole number from 0 to 255.
    """
    if labels.shape != volume.shape:
        raise ValueError(f"labels must have the volume's shape {volume.shape}, got {labels.shape}")
    if labels.dtype.kind not in "iub" or (labels.size and not 0 <= int(labels.min()) <= int(labels.max()) <= 255):
        raise ValueError(f"labels must be whole numbers from 0 to 255, got {labels.dtype}")
    _write(path, labels, np.dtype(np.uint8), volume.affine, level=4, progress=None)


def write_image(path: Path, volume: Volume, *, progress: Callable[[int, int], None] | None = None) -> None:
    """Writes a volume as NIfTI of int16 HU; a file half written never appears.

    It holds the voxels and where they lie, and no text. One volume gives the same file, byte for byte.

    Args:
        path: `.nii.gz` for a compressed file, else `.nii`.
        volume: What `read_volume` gave, whose HU are whole numbers.
        progress: Called with the number of slices written and that of all.

    Raises:
        ValueError: The volume's HU are no int16.
    """
    if volume.hu.dtype != np.int16:
        raise ValueError(f"only whole HU are written, got {volume.hu.dtype}")
    # At level 1 a scan takes a fifth more room than at 6 and a fourth of the time.
    _write(path, volume.hu, np.dtype(np.int16), volume.affine, level=1, progress=progress)


def _write(
    path: Path,
    values: NDArray[Any],
    dtype: np.dtype[Any],
    affine: NDArray[np.float64],
    *,
    level: int,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Slice by slice, so that no copy of the volume is held."""
    import nibabel

    header = nibabel.Nifti1Header()
    header.set_data_shape(values.shape[::-1])
    header.set_data_dtype(dtype)
    header.set_xyzt_units("mm")
    header.set_slope_inter(1, 0)
    ras = RAS_OF_LPS @ affine
    header.set_qform(ras, code=1)
    header.set_sform(ras, code=1)
    header["vox_offset"] = header.single_vox_offset
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with ExitStack() as stack:
            file: Any = stack.enter_context(unfinished.open("wb"))
            if path.suffix == ".gz":  # without the file's name and the hour, which gzip would write into it
                file = stack.enter_context(
                    gzip.GzipFile(filename="", mode="wb", fileobj=file, compresslevel=level, mtime=0)
                )
            file.write(header.binaryblock + bytes(4))  # no extensions
            for index, plane in enumerate(values):
                file.write(np.ascontiguousarray(plane, dtype).data)
                if progress is not None:
                    progress(index + 1, len(values))
        os.replace(unfinished, path)  # noqa: PTH105
    finally:
        unfinished.unlink(missing_ok=True)
