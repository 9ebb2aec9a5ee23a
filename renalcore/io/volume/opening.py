"""What an upload holds, and the one volume that is asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
from numpy.typing import NDArray

from renalcore.errors import InputError, UnknownName, UnreadableFile
from renalcore.io.image import media_type, safe_name
from renalcore.io.volume.entries import Entry, head_of, opened
from renalcore.io.volume.nifti import NiftiHeader, header, is_nifti, voxels
from renalcore.io.volume.volume import Volume
from renalcore.types import QualityFlag

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from renalcore.io.volume.headers import Plane
    from renalcore.io.volume.stacking import Stack

Format = Literal["DICOM", "NIfTI"]

_KINDS: Final = {
    "application/vnd.rar": "a rar archive; unpack it and choose the folder",
    "application/x-7z-compressed": "a 7z archive; unpack it and choose the folder",
    "application/pdf": "a PDF document",
    "application/dicom": "the directory of a DICOM disc without its files; choose the whole disc or folder",
    "text/plain": "text",
}
# Shares of voxels. Of real abdomens 60 % lie below -50 HU, of a tight crop around kidneys 5 %, and nothing but metal
# above 3100; MR scans and maps of statistics lie elsewhere, and label maps have no voxel below 0.
_FAT_OR_AIR_HU: Final = -50
_FAT_OR_AIR_SHARE: Final = 0.005
_DENSE_HU: Final = 3100
_DENSE_SHARE: Final = 0.05

_LOCALISERS = QualityFlag("localiser_left_out", "Scout views in the series were left out.")
_COPIES = QualityFlag("copies_left_out", "Some slices were there twice; the copies were left out.")
_BURNT_IN = QualityFlag(
    "burnt_in", "The files say that writing is burnt into the pictures: look whether it names the patient."
)


@dataclass(frozen=True, slots=True, eq=False)
class SeriesFound:
    """One series of an upload.

    Attributes:
        key: What `read_volume` is told to choose it: the series' number at the scanner (with a letter where several
            share it), of a NIfTI file its name (with a number where several have the same).
        format: What it is stored as.
        modality: "CT", "MR", ... as stated; "CT" for NIfTI, which cannot state it; empty where DICOM does not.
        slices: Number of slices, or of other objects.
        rows: Height of a slice in px, 0 where there is none.
        columns: Width of a slice in px.
        spacing_mm: Millimetres between slices, rows and columns; None where it cannot be read.
        phase: As of `Volume`.
        kernel: As of `Volume`.
        thickness_mm: As of `Volume`.
        flags: Doubts; more may come when it is read.
        refused: Why it cannot be read and what to do, or empty where it can.
    """

    key: str
    format: Format
    modality: str
    slices: int
    rows: int
    columns: int
    spacing_mm: tuple[float, float, float] | None
    phase: str
    kernel: str
    thickness_mm: float | None
    flags: tuple[QualityFlag, ...]
    refused: str


@dataclass(frozen=True, slots=True, eq=False)
class _Found:
    """A series with what is needed to read it."""

    series: SeriesFound
    entry: Entry
    content: Stack | NiftiHeader | None


def find_series(path: Path | Sequence[Path], *, name: str | None = None) -> list[SeriesFound]:
    """The series in a folder, a zip or tar archive, a DICOMDIR, or loose files; those that can be read come first.

    Only headers are read.

    Args:
        path: One path, or all the files that were chosen together.
        name: Of an upload, whose own names may hold the patient's: what messages call it. The files in it are told by
            their numbers, and what lies beside it is not looked at.

    Raises:
        UnreadableFile: Nothing in it is DICOM or NIfTI, or an archive is damaged or locked.
        TooLarge: An archive or the number of files exceeds the limits.
    """
    with _found(path, name) as (found, _):
        return [one.series for one in found]


def read_volume(
    path: Path | Sequence[Path],
    *,
    series: str | None = None,
    name: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Volume:
    """The CT volume in a folder, a zip or tar archive, a DICOMDIR, a NIfTI file, or loose files.

    Args:
        path: One path, or all the files that were chosen together.
        series: `SeriesFound.key` of the one to read, where there are several.
        name: As of `find_series`.
        progress: Called with the number of slices read and that of all, from the calling thread.

    Raises:
        UnreadableFile: No CT volume can be read: the message says why and what to do.
        TooLarge: It exceeds a limit.
        UnknownName: There is no such series.
        InputError: There are several series and none is chosen.
    """
    with _found(path, name) as (found, called):
        chosen = _chosen(found, series, called)
        seen = chosen.series
        if isinstance(chosen.content, NiftiHeader):
            hu, affine = voxels(chosen.entry, chosen.content, progress), chosen.content.affine
        elif chosen.content is not None:
            from renalcore.io.volume.decoding import decoded

            hu, affine = decoded(chosen.content.planes, progress), chosen.content.affine
        else:
            raise UnreadableFile(seen.refused)
    _check_scale(hu, called)
    return Volume(
        hu=hu,
        # As NIfTI keeps it: labels found in a scan are the same before and after it is stored.
        affine=affine.astype(np.float32).astype(np.float64),
        flags=seen.flags,
        phase=seen.phase,
        kernel=seen.kernel,
        thickness_mm=seen.thickness_mm,
    )


def slice_headers(path: Path | Sequence[Path], *, series: str | None = None) -> list[Dataset]:
    """The DICOM headers of a volume's slices in the volume's order, without pixels, to refer to the original series.

    They hold all that the files hold, names included. Of an enhanced multi-frame file there is one header.

    Raises:
        InputError: As `read_volume`; or the volume is not DICOM, or one of several phases in the same file.
    """
    import pydicom

    with _found(path) as (found, name):
        if len(found) > 1 and all(one.entry is found[0].entry for one in found):
            raise InputError(
                "Several phases lie in one DICOM file, and a DICOM object that refers to it could not say which of "
                "them is meant. Export the labels as NIfTI, or upload each phase as a series of its own."
            )
        chosen = _chosen(found, series, name)
        if chosen.content is None or isinstance(chosen.content, NiftiHeader):
            raise InputError(f"{name}: this is no DICOM series, to which a DICOM SEG could refer; leave the SEG out.")
        entries = {id(plane.picture): plane.picture.entry for plane in chosen.content.planes}
        headers: list[Dataset] = []
        for entry in entries.values():
            with entry.open() as file:
                headers.append(pydicom.dcmread(file, force=True, stop_before_pixels=True))
        return headers


@contextmanager
def entries_of(path: Path | Sequence[Path], *, series: str | None, name: str | None = None) -> Iterator[list[Entry]]:
    """The files of one series, or all of an upload where none is chosen, readable until the end of the block.

    Args:
        path: As of `read_volume`.
        series: As of `read_volume`.
        name: As of `find_series`.

    Raises:
        InputError: As `read_volume`.
    """
    if series is None:
        paths, _ = _with_referenced([path] if isinstance(path, Path) else list(path), name)
        with opened(paths, name=name) as entries:
            yield entries
        return
    with _found(path, name) as (found, called):
        chosen = _chosen(found, series, called)
        if chosen.content is None or isinstance(chosen.content, NiftiHeader):
            yield [chosen.entry]
        else:
            yield list({id(plane.picture): plane.picture.entry for plane in chosen.content.planes}.values())


@contextmanager
def _found(path: Path | Sequence[Path], name: str | None = None) -> Iterator[tuple[list[_Found], str]]:
    """The series of an upload, readable until the end of the block, and what the upload is called."""
    paths = [path] if isinstance(path, Path) else list(path)
    if not paths:
        raise InputError("No file was chosen.")
    more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
    called = safe_name(paths[0].resolve().name if name is None else name) + ("" if name else more)
    paths, missing = _with_referenced(paths, name)
    with opened(paths, name=None if name is None else called) as entries:
        found = _sorted_out(entries, called)
        if not found:
            raise _nothing_in(entries, called)
        if missing:
            flag = QualityFlag(
                "missing_files", f"{missing} files that the directory names are not there: slices may be missing."
            )
            found = [_doubted(one, flag) for one in found]
        yield sorted(found, key=lambda one: bool(one.series.refused)), called


def _with_referenced(paths: list[Path], name: str | None) -> tuple[list[Path], int]:
    """A DICOMDIR that was chosen alone stands for the files that it names; and how many of these are not there.

    That of an upload, which has a `name`, stands for itself: what lies beside it is somebody else's.

    Raises:
        UnreadableFile: It is damaged or cannot be read, or none of its files is there.
    """
    if name is not None or len(paths) != 1 or not paths[0].is_file():
        return paths, 0
    from renalcore.io.volume.headers import is_dicom, referenced

    path = paths[0]
    head = head_of(path, safe_name(path.name))
    if not is_dicom(head) or b"1.2.840.10008.1.3.10" not in head:
        return paths, 0
    named = referenced(Entry(safe_name(path.name), lambda: path.open("rb"), on_disk=True))
    if named is None:
        return paths, 0
    beside = {
        file.relative_to(path.parent).as_posix().lower(): file for file in path.parent.rglob("*") if file.is_file()
    }
    there = [beside[place.lower()] for place in named if place.lower() in beside]
    if not there:
        raise UnreadableFile(
            f"{safe_name(path.name)}: none of the {len(named)} files that the directory names lies beside it. Choose "
            "the whole disc or folder."
        )
    return there, len(named) - len(there)


def _sorted_out(entries: list[Entry], name: str) -> list[_Found]:
    found: list[_Found] = []
    planes: list[Plane] = []
    unreadable: list[str] = []
    names: Counter[str] = Counter()  # of NIfTI files: those in several folders may have the same, as in KiTS
    from renalcore.io.volume.headers import is_dicom
    from renalcore.io.volume.headers import planes as planes_of

    for entry in entries:
        try:
            head = entry.head()
            if is_nifti(head):
                names[entry.name] += 1
                again = f" ({names[entry.name]})" if names[entry.name] > 1 else ""
                found.append(_nifti(entry, key=entry.name + again))
            elif is_dicom(head):
                planes += planes_of(entry)
        except UnreadableFile:
            if len(entries) == 1:
                raise
            unreadable.append(entry.name)
    found += _dicom(planes, name)
    if unreadable and not found:
        raise UnreadableFile(
            f"{name}: {len(unreadable)} files are cut off or damaged ({unreadable[0]}). Copy or export them again."
        )
    if unreadable:
        flag = QualityFlag(
            "unreadable_files",
            f"{len(unreadable)} files beside the series could not be read ({unreadable[0]}): slices may be missing.",
        )
        found = [_doubted(one, flag) for one in found]
    return found


def _doubted(found: _Found, flag: QualityFlag) -> _Found:
    return replace(found, series=replace(found.series, flags=(*found.series.flags, flag)))


def _nifti(entry: Entry, *, key: str) -> _Found:
    from renalcore.io.volume.stacking import MIN_SLICES, check_extent, check_voxels

    stated: NiftiHeader | None = None
    refused = ""
    try:
        stated = header(entry)
        check_voxels(*stated.shape, entry.name)
        check_extent(stated.shape, stated.affine, entry.name)
        if min(stated.shape) < MIN_SLICES:
            raise UnreadableFile(f"{entry.name}: too few slices; {MIN_SLICES} are the least. Choose a whole volume.")
    except InputError as error:
        refused = str(error)
    slices, rows, columns = stated.shape if stated else (0, 0, 0)
    series = SeriesFound(
        key=key,
        format="NIfTI",
        modality="CT",
        slices=slices,
        rows=rows,
        columns=columns,
        spacing_mm=_spacing(stated.affine) if stated else None,
        phase="",
        kernel="",
        thickness_mm=None,
        flags=stated.flags if stated else (),
        refused=refused,
    )
    return _Found(series, entry, None if refused else stated)


def _dicom(planes: list[Plane], name: str) -> list[_Found]:
    series: dict[str, list[Plane]] = {}
    for plane in planes:
        series.setdefault(plane.picture.series, []).append(plane)
    found = []
    for members in series.values():
        pictures = [plane for plane in members if plane.picture.is_ct]
        axial = [plane for plane in pictures if not plane.picture.is_localiser]
        if not pictures:
            found.append(_refused(members, _not_ct(members[0], name)))
        elif not axial:
            reason = f"{name}: only scout views (localisers). Choose the series of slices."
            found.append(_refused(pictures, reason))
        else:
            found += _scans(axial, name, (_LOCALISERS,) if len(axial) < len(pictures) else ())
    return _with_keys(found)


def _scans(axial: list[Plane], name: str, flags: tuple[QualityFlag, ...]) -> list[_Found]:
    """The scans in one series."""
    from renalcore.io.volume.stacking import separated

    placed = [plane for plane in axial if plane.position and plane.orientation]
    if unplaced := len(axial) - len(placed):
        if unplaced < len(placed):
            left_out = QualityFlag(
                "images_left_out",
                f"{unplaced} of {len(axial)} images were left out: they do not say where they lie.",
            )
            found = _scans(placed, name, (*flags, left_out))
            if not all(one.series.refused for one in found):
                return found
        return [_stacked(axial, name, flags)]  # refused for that
    once = _without_copies(axial)
    if len(once) < len(axial):
        flags = (*flags, _COPIES)
    if any(plane.picture.burnt_in for plane in once):
        flags = (*flags, _BURNT_IN)
    scans, few = separated(once)
    if few:
        message = f"{few} of {len(once)} slices were left out: they are of other acquisitions, too few for a scan."
        flags = (*flags, QualityFlag("acquisitions_left_out", message))
    return [_stacked(scan, name, flags) for scan in scans]


def _without_copies(planes: list[Plane]) -> list[Plane]:
    """The first of all slices that share an identifier and a place; those that state none are all kept.

    There are exports that give all slices one identifier: these are no copies.
    """
    first: dict[object, Plane] = {}
    for plane in planes:
        instance = plane.picture.instance
        first.setdefault((instance, plane.frame, plane.position) if instance else plane, plane)
    return list(first.values())


def _stacked(planes: list[Plane], name: str, flags: tuple[QualityFlag, ...]) -> _Found:
    from renalcore.io.volume.stacking import stack

    try:
        content = stack(planes, name)
    except InputError as error:
        return _refused(planes, str(error))
    first = content.planes[0].picture
    series = replace(
        _refused(planes, "").series,
        rows=first.rows,
        columns=first.columns,
        spacing_mm=_spacing(content.affine),
        flags=(*flags, *content.flags),
    )
    return _Found(series, first.entry, content)


def _refused(planes: list[Plane], reason: str) -> _Found:
    first = planes[0].picture
    series = SeriesFound(
        key="" if first.number is None else str(first.number),
        format="DICOM",
        modality=first.modality,
        slices=len(planes),
        rows=first.rows,
        columns=first.columns,
        spacing_mm=None,
        phase=first.phase,
        kernel=first.kernel,
        thickness_mm=first.thickness_mm,
        flags=(),
        refused=reason,
    )
    return _Found(series, first.entry, None)


def _not_ct(plane: Plane, name: str) -> str:
    modality = plane.picture.modality
    if modality == "CT":
        return (
            f"{name}: no slices but another object of a CT study (a report, a screenshot). Choose a series of slices."
        )
    what = f"{modality}, not CT" if modality else "no CT image"
    return f"{name}: {what}. Choose a CT series of the abdomen."


def _with_keys(found: list[_Found]) -> list[_Found]:
    """Each series under a key of its own."""
    counts: dict[str, int] = {}
    keyed = []
    for one in sorted(found, key=lambda one: (len(one.series.key), one.series.key)):
        number = one.series.key or "1"
        counts[number] = counts.get(number, 0) + 1
        letter = "" if counts[number] == 1 else _letters(counts[number])
        keyed.append(replace(one, series=replace(one.series, key=number + letter)))
    return keyed


def _letters(count: int) -> str:
    """B, c, ... z, then `-27`, ..."""
    return chr(ord("a") + count - 1) if count <= 26 else f"-{count}"


def _spacing(affine: NDArray[np.float64]) -> tuple[float, float, float]:
    columns, rows, slices = np.linalg.norm(affine[:3, :3], axis=0).tolist()
    return slices, rows, columns


def _chosen(found: list[_Found], series: str | None, name: str) -> _Found:
    readable = [one for one in found if not one.series.refused]
    if series is not None:
        for one in found:
            if one.series.key == series:
                if one.series.refused:
                    raise UnreadableFile(one.series.refused)
                return one
        raise UnknownName(f"{name}: no series {series}. There are: {_listed(found)}.")
    if not readable:
        raise UnreadableFile(found[0].series.refused)
    if len(readable) > 1:
        raise InputError(f"{name}: several series; choose one of: {_listed(readable)}.")
    return readable[0]


def _listed(found: list[_Found]) -> str:
    words = []
    for one in found:
        seen = one.series
        told = [f"{seen.slices} slices"]
        if seen.spacing_mm:
            told.append(f"{seen.spacing_mm[0]:.2g} mm")
        told += [word for word in (seen.phase, seen.kernel) if word]
        words.append(f"{seen.key} ({', '.join(told)})")
    return "; ".join(words)


def _nothing_in(entries: list[Entry], name: str) -> UnreadableFile:
    if len(entries) == 1:
        kind = _KINDS.get(media_type(entries[0].head()), "neither DICOM nor NIfTI")
        return UnreadableFile(f"{name}: {kind}. Choose the DICOM files of a CT series, a zip of them, or a NIfTI file.")
    what = f"none of its {len(entries)} files is DICOM or NIfTI" if entries else "empty"
    return UnreadableFile(f"{name}: {what}. Choose the folder with the DICOM files of a CT series.")


def _check_scale(hu: NDArray[np.int16], name: str) -> None:
    sample = hu[:: max(1, len(hu) // 64), ::4, ::4]
    if (sample < _FAT_OR_AIR_HU).mean() < _FAT_OR_AIR_SHARE or (sample > _DENSE_HU).mean() > _DENSE_SHARE:
        raise UnreadableFile(
            f"{name}: its numbers are not Hounsfield units: next to nothing is as thin as fat or air, or too much is "
            "denser than bone. Choose the CT images themselves (no labels, no MR), in Hounsfield units."
        )
