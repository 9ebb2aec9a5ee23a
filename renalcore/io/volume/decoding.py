"""Stored numbers into Hounsfield units, slice by slice in threads, into one array of int16."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydicom.pixels.utils import iter_pixels, pixel_array

from renalcore.engine.devices import usable_threads
from renalcore.errors import UnreadableFile
from renalcore.io.volume.codestreams import plugin_of
from renalcore.io.volume.headers import DICOM_ERRORS, Plane, read

Progress = Callable[[int, int], None]

AIR_HU: Final = -1024
"""Nothing is thinner than air: what scanners write outside of their round field, down to -3024, becomes this."""
TOP_HU: Final = 32767
_MOST_THREADS: Final = 4
"""Each holds a slice, and of a compressed archive a whole file."""
_SLACK_BYTES: Final = 64 * 2**20
"""What a file may hold beside its pixels."""


def decoded(planes: Sequence[Plane], progress: Progress | None) -> NDArray[np.int16]:
    """`(D, H, W)` int16 HU of slices in the order of the volume.

    At most one slice a thread is held beside the result, of a compressed archive one file a thread.

    Raises:
        UnreadableFile: A file's pixels are cut off or damaged.
        TooLarge: A file unpacks to more than its picture.
    """
    first = planes[0].picture
    hu = np.empty((len(planes), first.rows, first.columns), np.int16)
    by_file: dict[int, list[int]] = {}
    for index, plane in enumerate(planes):
        by_file.setdefault(id(plane.picture), []).append(index)
    threads = min(_MOST_THREADS, usable_threads())
    work = [part for indices in by_file.values() for part in _shared_out(indices, planes, threads)]
    done = 0
    with ThreadPoolExecutor(threads) as pool:
        waiting = [pool.submit(_fill, hu, planes, part) for part in work]
        try:
            for finished in as_completed(waiting):
                done += finished.result()
                if progress is not None:
                    progress(done, len(planes))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return hu


def hounsfield(stored: NDArray[Any], slope: float, intercept: float) -> NDArray[np.int16]:
    """Whole HU of a slice: rounded, and within -1024 and 32767; what is no number becomes air."""
    if slope == 1 and intercept == 0 and stored.dtype == np.int16:  # as volumes are stored here: one pass
        raised: NDArray[np.int16] = np.maximum(stored, np.int16(AIR_HU))
        return raised
    if slope == 1 and intercept.is_integer() and stored.dtype.kind in "iu" and abs(intercept) < 2**20:
        wide = stored.astype(np.int32) if stored.dtype.itemsize <= 2 else stored.astype(np.int64)
        wide += int(intercept)
        return np.clip(wide, AIR_HU, TOP_HU).astype(np.int16)
    scaled = stored.astype(np.float32)
    scaled *= np.float32(slope)
    scaled += np.float32(intercept)
    np.nan_to_num(scaled, copy=False, nan=AIR_HU, posinf=TOP_HU, neginf=AIR_HU)
    return np.clip(np.rint(scaled, out=scaled), AIR_HU, TOP_HU).astype(np.int16)


def _shared_out(indices: list[int], planes: Sequence[Plane], threads: int) -> list[list[int]]:
    """The slices of one file in the order of its frames, in a run for each thread where it lies open on disk."""
    indices = sorted(indices, key=lambda index: planes[index].frame or 0)
    if len(indices) == 1 or not planes[indices[0]].picture.entry.on_disk:
        return [indices]
    size = -(-len(indices) // threads)
    return [indices[start : start + size] for start in range(0, len(indices), size)]


def _fill(hu: NDArray[np.int16], planes: Sequence[Plane], indices: list[int]) -> int:
    picture = planes[indices[0]].picture
    try:
        for index, stored in zip(indices, _stored([planes[index] for index in indices]), strict=True):
            plane = planes[index]
            if stored.shape != hu.shape[1:] or plane.slope is None or plane.intercept is None:
                raise ValueError(f"a slice of {stored.shape} where {hu.shape[1:]} was expected")
            hu[index] = hounsfield(stored, plane.slope, plane.intercept)
    except UnreadableFile:
        raise
    except DICOM_ERRORS:
        raise UnreadableFile(
            f"{picture.entry.name}: its pixels are cut off or damaged. Copy or export the series again."
        ) from None  # the cause may hold a value: a patient's name
    return len(indices)


def _stored(planes: list[Plane]) -> Iterator[NDArray[Any]]:
    picture, frames = planes[0].picture, [plane.frame or 0 for plane in planes]
    if picture.entry.on_disk and planes[0].frame is not None:
        with picture.entry.open() as file:
            plugin = plugin_of(read(file, header_only=True))
            file.seek(0)
            yield from iter_pixels(file, indices=frames, raw=True, decoding_plugin=plugin)
        return
    if picture.entry.on_disk:
        with picture.entry.open() as file:
            dataset = read(file, header_only=False)
    else:
        limit = 4 * picture.rows * picture.columns * picture.frames + _SLACK_BYTES
        dataset = read(io.BytesIO(picture.entry.content(limit)), header_only=False)
    if planes[0].frame is None:
        yield pixel_array(dataset, raw=True, decoding_plugin=plugin_of(dataset))
    else:
        yield from iter_pixels(dataset, indices=frames, raw=True, decoding_plugin=plugin_of(dataset))
