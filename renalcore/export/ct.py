"""Kidneys and lesions of a CT as CSV, a line each, in the form of every table here (see `renalcore.export.csv`).

Places are those of the centre of gravity in LPS mm: x rises to the patient's left, y to the back, z to the head. HU are
empty where the values of the CT were not at hand, R and E of R.E.N.A.L. for what is no tumour.
"""

from __future__ import annotations

from typing import Final

from renalcore.ct.measure import RENAL_NOTE, Measures
from renalcore.export.csv import table_to_csv

LESION_COLUMNS: Final = (
    "study", "number", "kidney", "side", "label", "volume_ml", "axial_diameter_mm", "diameter_mm", "mean_hu", "sd_hu",
    "x_lps_mm", "y_lps_mm", "z_lps_mm", "slice_index", "outside_kidney_percent", "renal_r", "renal_e", "note",
)  # fmt: skip
KIDNEY_COLUMNS: Final = (
    "study", "number", "side", "place", "kidney_ml", "tumour_ml", "cyst_ml", "total_ml", "length_mm", "mean_hu",
    "sd_hu", "x_lps_mm", "y_lps_mm", "z_lps_mm", "tumours", "cysts", "note",
)  # fmt: skip


def lesions_to_csv(study: str, measures: Measures) -> bytes:
    """A line for each lesion; `slice_index` counts from 0 along the array, `note` says what the score lacks.

    Args:
        study: What the study is called; never the patient's name.
        measures: What it holds.
    """
    rows = (
        [
            study, lesion.number, lesion.kidney, lesion.side, lesion.label, lesion.volume_ml, lesion.axial_diameter_mm,
            lesion.diameter_mm, lesion.mean_hu, lesion.sd_hu, *lesion.centre_lps_mm, lesion.slice_index,
            None if lesion.outside_share is None else 100 * lesion.outside_share, lesion.renal_r, lesion.renal_e,
            RENAL_NOTE if lesion.renal_r else None,
        ]
        for lesion in measures.lesions
    )  # fmt: skip
    return table_to_csv(LESION_COLUMNS, rows)


def kidneys_to_csv(study: str, measures: Measures) -> bytes:
    """A line for each kidney with how many lesions it has; `note` is the sentence on which kidneys were found.

    Args:
        study: What the study is called; never the patient's name.
        measures: What it holds.
    """
    rows = []
    for kidney in measures.kidneys:
        labels = [lesion.label for lesion in measures.lesions if lesion.kidney == kidney.number]
        rows.append(
            [
                study, kidney.number, kidney.side, kidney.place, kidney.kidney_ml, kidney.tumour_ml, kidney.cyst_ml,
                kidney.total_ml, kidney.length_mm, kidney.mean_hu, kidney.sd_hu, *kidney.centre_lps_mm,
                labels.count("tumour"), labels.count("cyst"), measures.found,
            ]
        )  # fmt: skip
    return table_to_csv(KIDNEY_COLUMNS, rows)
