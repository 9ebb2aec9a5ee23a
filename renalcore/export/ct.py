"""Kidneys and lesions of a CT as CSV, a line each, in the form of every table here (see `renalcore.export.csv`).

Places are those of the centre of gravity in LPS mm: x rises to the patient's left, y to the back, z to the head. HU are
empty where the values of the CT were not at hand, R and E of R.E.N.A.L. for what is no tumour.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from renalcore.ct.measure import RENAL_NOTE, Measures
from renalcore.export.csv import WHENCE_COLUMNS, Whence, table_to_csv

_LESION: Final = (
    "number", "kidney", "side", "label", "volume_ml", "axial_diameter_mm", "diameter_mm", "mean_hu", "sd_hu",
    "x_lps_mm", "y_lps_mm", "z_lps_mm", "slice_index", "outside_kidney_percent", "renal_r", "renal_e", "note",
    "place",
)  # fmt: skip
_KIDNEY: Final = (
    "number", "side", "place", "kidney_ml", "tumour_ml", "cyst_ml", "total_ml", "length_mm", "mean_hu", "sd_hu",
    "x_lps_mm", "y_lps_mm", "z_lps_mm", "tumours", "cysts", "note",
)  # fmt: skip
_WHOSE: Final = ("patient", "accession", "scanned_at", "scan", "phase")
LESION_COLUMNS: Final = ("study", *_LESION)
KIDNEY_COLUMNS: Final = ("study", *_KIDNEY)
REPORTED_LESION_COLUMNS: Final = (*_WHOSE, *_LESION, "corrections", *WHENCE_COLUMNS, "doubts")
REPORTED_KIDNEY_COLUMNS: Final = (*_WHOSE, *_KIDNEY, "corrections", *WHENCE_COLUMNS, "doubts")


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanOfReport:
    """What a report says of one scan, with everything that it rests on.

    Attributes:
        patient: The patient's identifier, never the name.
        accession: Accession number of the study.
        scanned_at: When the patient was scanned, or None; aware of its time zone.
        scan: What the laboratory calls the scan.
        phase: Its contrast phase, or None.
        measures: What it holds.
        corrections: How many corrections of people stand.
        doubts: Doubts about its files, a sentence each.
        whence: The model that searched it, and who answers for it.
    """

    patient: str
    accession: str
    scanned_at: datetime | None
    scan: str
    phase: str | None
    measures: Measures
    corrections: int
    doubts: Sequence[str]
    whence: Whence


def lesions_to_csv(study: str, measures: Measures) -> bytes:
    """A line for each lesion; `slice_index` counts from 0 along the array, `note` says what the score lacks.

    `place` is that of its kidney: by `side` alone a lesion of a transplant is not told from one of a native kidney.

    Args:
        study: What the study is called; never the patient's name.
        measures: What it holds.
    """
    return table_to_csv(LESION_COLUMNS, ([study, *line] for line in _lesions(measures)))


def kidneys_to_csv(study: str, measures: Measures) -> bytes:
    """A line for each kidney with how many lesions it has; `note` is the sentence on which kidneys were found.

    Args:
        study: What the study is called; never the patient's name.
        measures: What it holds.
    """
    return table_to_csv(KIDNEY_COLUMNS, ([study, *line] for line in _kidneys(measures)))


def reported_lesions_to_csv(scans: Iterable[ScanOfReport]) -> bytes:
    """A line for each lesion of the scans of reports, as `lesions_to_csv` has them."""
    return table_to_csv(
        REPORTED_LESION_COLUMNS, (_reported(scan, line) for scan in scans for line in _lesions(scan.measures))
    )


def reported_kidneys_to_csv(scans: Iterable[ScanOfReport]) -> bytes:
    """A line for each kidney of the scans of reports, as `kidneys_to_csv` has them."""
    return table_to_csv(
        REPORTED_KIDNEY_COLUMNS, (_reported(scan, line) for scan in scans for line in _kidneys(scan.measures))
    )


def _reported(scan: ScanOfReport, line: list[object]) -> list[object]:
    whose = (scan.patient, scan.accession, scan.scanned_at, scan.scan, scan.phase)
    return [*whose, *line, scan.corrections, *scan.whence.cells, " ".join(scan.doubts)]


def _lesions(measures: Measures) -> Iterator[list[object]]:
    places = {kidney.number: kidney.place for kidney in measures.kidneys}
    for lesion in measures.lesions:
        yield [
            lesion.number, lesion.kidney, lesion.side, lesion.label, lesion.volume_ml, lesion.axial_diameter_mm,
            lesion.diameter_mm, lesion.mean_hu, lesion.sd_hu, *lesion.centre_lps_mm, lesion.slice_index,
            None if lesion.outside_share is None else 100 * lesion.outside_share, lesion.renal_r, lesion.renal_e,
            RENAL_NOTE if lesion.renal_r else None, places.get(lesion.kidney) if lesion.kidney else None,
        ]  # fmt: skip


def _kidneys(measures: Measures) -> Iterator[list[object]]:
    for kidney in measures.kidneys:
        labels = [lesion.label for lesion in measures.lesions if lesion.kidney == kidney.number]
        yield [
            kidney.number, kidney.side, kidney.place, kidney.kidney_ml, kidney.tumour_ml, kidney.cyst_ml,
            kidney.total_ml, kidney.length_mm, kidney.mean_hu, kidney.sd_hu, *kidney.centre_lps_mm,
            labels.count("tumour"), labels.count("cyst"), measures.found,
        ]  # fmt: skip
