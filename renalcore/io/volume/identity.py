"""Whose study the files say they are: what a form may offer to whoever uploads them, and nobody else.

The one room of the readers that gives out what names a patient. Callers show it to the person who chose the files and
store nothing of it unless that person says so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

from pydicom.filereader import read_partial
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag, Tag
from pydicom.valuerep import PersonName

from renalcore.io.volume.entries import Entry, opened
from renalcore.io.volume.headers import DICOM_ERRORS, HeaderOf, is_dicom

_TAGS: Final[list[BaseTag | int]] = [
    Tag(keyword)
    for keyword in (
        "SpecificCharacterSet", "Modality", "AcquisitionDate", "AcquisitionTime", "SeriesDate", "SeriesTime",
        "StudyDate", "StudyTime", "AccessionNumber", "PatientName", "PatientID",
    )
]  # fmt: skip
_LAST_TAG: Final = Tag("PatientID")
_MOMENTS: Final = (("AcquisitionDate", "AcquisitionTime"), ("SeriesDate", "SeriesTime"), ("StudyDate", "StudyTime"))


@dataclass(frozen=True, slots=True)
class Stated:
    """Whose a CT study is, in the words of its files; empty where they do not say.

    Attributes:
        patient_number: The hospital's number of the patient.
        patient_name: Family name, then given names.
        accession: The radiology department's number of the study.
        scanned_at: When the scan was made, on the scanner's clock, without a time zone.
    """

    patient_number: str = ""
    patient_name: str = ""
    accession: str = ""
    scanned_at: datetime | None = None


def stated(path: Path | Sequence[Path], *, name: str | None = None) -> list[Stated]:
    """What the DICOM files of an upload say about whose they are, one for each patient; none of NIfTI.

    Only the first bytes of each file are read. Of a patient that who most files name, with the earliest moment.

    Args:
        path: As of `renalcore.io.volume.read_volume`.
        name: As of `renalcore.io.volume.find_series`.

    Raises:
        UnreadableFile: An archive is damaged or locked.
        TooLarge: It exceeds a limit.
    """
    found: dict[tuple[str, str], Counter[tuple[str, datetime | None]]] = {}
    with opened([path] if isinstance(path, Path) else list(path), name=name) as entries:
        for entry in entries:
            one = _stated(entry)
            if one is not None:
                of_patient = found.setdefault((one.patient_number, one.patient_name), Counter())
                of_patient[one.accession, one.scanned_at] += 1
    told = []
    for (number, patient), seen in sorted(found.items(), key=lambda item: -item[1].total()):
        accession = Counter({words: 0 for words, _ in seen})
        for (words, _), count in seen.items():
            accession[words] += count
        moments = [moment for _, moment in seen if moment is not None]
        told.append(Stated(number, patient, accession.most_common(1)[0][0], min(moments, default=None)))
    return told


def people(said: Collection[Stated]) -> int:
    """How many patients the files speak of, as `stated` tells them.

    Two are told apart by their numbers, and by their names in any case where one of them has no number. A number
    without a name and a name without a number may be the same patient's.
    """
    numbers = {one.patient_number for one in said} - {""}
    known = {one.patient_name.casefold() for one in said if one.patient_number}
    others = {one.patient_name.casefold() for one in said if not one.patient_number} - known - {""}
    return len(numbers) + max(0, len(others) - ("" in known))


def _stated(entry: Entry) -> Stated | None:
    """What one file says; None where it is no CT image."""
    if not is_dicom(entry.head()):
        return None
    try:
        with entry.open() as file:
            dataset = read_partial(
                cast(BinaryIO, HeaderOf(file)),
                stop_when=lambda tag, _vr, _length: tag > _LAST_TAG,
                force=True,
                specific_tags=_TAGS,
            )
        if str(dataset.get("Modality", "")) != "CT":
            return None
        name = dataset.get("PatientName") or PersonName("")
        if isinstance(name, MultiValue):  # parted by a backslash, which some characters hold as a byte
            name = name[0]
        given = f"{name.given_name} {name.middle_name}"
        return Stated(
            _word(dataset, "PatientID"),
            ", ".join(filter(None, (_tidy(name.family_name), _tidy(given)))),
            _word(dataset, "AccessionNumber"),
            next(filter(None, (_moment(dataset, *keywords) for keywords in _MOMENTS)), None),
        )
    except DICOM_ERRORS:
        return None  # a file that cannot be read is told of by `find_series`


def _word(dataset: Any, keyword: str) -> str:
    return _tidy(str(dataset.get(keyword) or ""))


def _tidy(words: str) -> str:
    """Fit for a field of a form."""
    return " ".join("".join(letter for letter in words if letter.isprintable()).split())[:100]


def _moment(dataset: Any, date: str, time: str) -> datetime | None:
    day, clock = _word(dataset, date), _word(dataset, time)[:4]
    for words, form in ((day + clock, "%Y%m%d%H%M"), (day, "%Y%m%d")):
        try:
            return datetime.strptime(words, form)  # noqa: DTZ007  (the scanner's clock has no time zone)
        except ValueError:
            continue
    return None
