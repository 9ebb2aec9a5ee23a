"""One series of an upload as a file of its own, as it is, with all that it says of the patient."""

from __future__ import annotations

import gzip
import secrets
import shutil
import zipfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, cast

from renalcore.io.volume.entries import UNPACK_ERRORS, Entry, damaged
from renalcore.io.volume.nifti import is_nifti
from renalcore.io.volume.opening import entries_of

DEFLATE_LEVEL = 1
"""Of archives: real slices take less than half the room, for 2 s of a processor and 300 slices."""

_BLOCK_BYTES = 2**20


def pack_series(
    path: Path | Sequence[Path],
    target: Path,
    *,
    series: str | None = None,
    name: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Writes the files of one series unchanged: DICOM into a zip archive, NIfTI compressed by gzip.

    Patients' names stay in them: `renalcore.io.deidentify.deidentify` writes them without.

    Args:
        path: As of `renalcore.io.volume.read_volume`.
        target: The file to write; it appears when it is complete. Its name does not matter.
        series: As of `read_volume`.
        name: As of `find_series`.
        progress: Called with the number of files done and that of all.

    Raises:
        UnreadableFile: There is no such series in it, or a file is damaged.
        TooLarge: It exceeds a limit.
    """
    unfinished = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        with entries_of(path, series=series, name=name) as entries, ExitStack() as stack:
            alone = len(entries) == 1 and is_nifti(entries[0].head())
            file = stack.enter_context(unfinished.open("wb"))
            if alone:
                packed = gzip.GzipFile(filename="", mode="wb", fileobj=file, compresslevel=1, mtime=0)
                _copy(entries[0], cast(IO[bytes], stack.enter_context(packed)))
            else:
                archive = stack.enter_context(
                    zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=DEFLATE_LEVEL)
                )
                for index, entry in enumerate(entries):
                    member = f"image-{index + 1:06d}.dcm"  # it gets the date 1980-01-01
                    with archive.open(member, "w", force_zip64=True) as out:
                        _copy(entry, out)
                    if progress is not None:
                        progress(index + 1, len(entries))
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)


def _copy(entry: Entry, out: IO[bytes]) -> None:
    try:
        with entry.open() as file:
            shutil.copyfileobj(file, out, _BLOCK_BYTES)
    except UNPACK_ERRORS:
        raise damaged(entry.name) from None
