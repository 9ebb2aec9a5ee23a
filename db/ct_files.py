"""Volumes of CT and the labels on their grids, in the file store: typed values out, typed values in.

Each function reads or writes whole files and takes seconds for a large scan: call it outside of a transaction.
"""

from __future__ import annotations

import errno
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from db import files
from db.settings import Settings
from renalcore.errors import StorageError, StorageFull
from renalcore.io.volume import Volume, read_volume, slice_headers, write_labels
from renalcore.io.volume.nifti import read_labels

if TYPE_CHECKING:
    from pydicom import Dataset

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_one_at_a_time = threading.Lock()
_kept: dict[str, Volume] = {}
"""The volume that was at hand last, by its digest."""

MEDIA_TYPE = "application/gzip"
"""Of NIfTI as it is stored here: `.nii.gz`."""


def image(sha256: str, *, name: str) -> Volume:
    """The volume of a scan.

    Args:
        sha256: Digest of its `CtScan.image`.
        name: What people call the scan, for messages.

    Raises:
        NotFound: The store has no such file.
        DamagedFile: The file's content is not what was stored.
        InputError: It holds no CT volume.
    """
    return read_volume(_local(sha256), name=name)


@contextmanager
def at_hand(sha256: str, *, name: str) -> Iterator[Volume]:
    """The volume of a scan for work on the whole of it: one at a time in a process, others wait until the block ends.

    The last one stays in memory, since a lesion is seldom corrected alone, and goes before another one is read. Nothing
    is asked of the database within the block, so that who waits for the one never holds the other.

    Args:
        sha256: As of `image`.
        name: As of `image`.

    Raises:
        InputError, NotFound, DamagedFile: As `image`.
    """
    with _one_at_a_time:
        if sha256 not in _kept:
            _kept.clear()
            _kept[sha256] = image(sha256, name=name)
        yield _kept[sha256]


def labels(sha256: str) -> NDArray[np.uint8]:
    """Labels that `put_labels` wrote, `(D, H, W)` on the grid of their volume.

    Raises:
        NotFound: The store has no such file.
        DamagedFile: The file's content is not what was stored.
        InputError: It holds no labels.
    """
    return read_labels(_local(sha256))[0]


def headers(sha256: str) -> list[Dataset]:
    """The DICOM headers of a scan's slices as they are stored, in the order of its volume and without pixels.

    Args:
        sha256: Digest of its `CtScan.file`.

    Raises:
        NotFound: The store has no such file.
        DamagedFile: The file's content is not what was stored.
        InputError: The scan is no DICOM.
    """
    return slice_headers(_local(sha256))


def put_labels(found: NDArray[Any], volume: Volume) -> tuple[str, int]:
    """Write labels as NIfTI on the grid of their volume into the store.

    Args:
        found: `(D, H, W)` whole numbers from 0 to 255.
        volume: The volume that they were made for.

    Returns:
        Digest and size in bytes; the same labels give the same.

    Raises:
        StorageFull: No space is left.
        StorageError: The store cannot be written.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="renal-labels-") as folder:
            path = Path(folder) / "labels.nii.gz"
            write_labels(path, found, volume)
            with path.open("rb") as stream:
                return files.store().put(stream)
    except OSError as error:
        raise disk_error(error, "The labels") from error


def disk_error(error: OSError, what: str) -> StorageError:
    """What a person reads where `what`, which begins the sentence, could not be written to a disk of the server."""
    if error.errno in _NO_SPACE:
        return StorageFull("The disk of the server is full. Ask your administrator to free some space, then try again.")
    return StorageError(f"{what} cannot be written ({error.strerror or type(error).__name__}).")


def _local(sha256: str) -> Path:
    """Where a file lies on this machine, its content checked."""
    return files.store().local(sha256, copies=Settings.from_env().data_folder / "scans", verify=True)
