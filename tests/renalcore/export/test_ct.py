"""Kidneys and lesions as CSV."""

from __future__ import annotations

import csv
import io

import numpy as np

from renalcore.ct.measure import RENAL_NOTE, measure
from renalcore.export.ct import KIDNEY_COLUMNS, LESION_COLUMNS, kidneys_to_csv, lesions_to_csv
from tests.ct_analysed import transplanted

AFFINE = np.array([[2.0, 0, 0, -100], [0, 2, 0, -80], [0, 0, 5, 0], [0, 0, 0, 1]])


def rows(table: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(table.decode("utf-8-sig"))))


def two_kidneys_a_tumour_and_a_cyst() -> np.ndarray:
    labels = np.zeros((20, 60, 100), np.uint8)
    labels[4:14, 30:50, 10:30] = labels[4:14, 30:50, 70:90] = 1
    labels[10:12, 38:42, 75:85] = 2
    labels[6:8, 32:34, 12:14] = 3
    return labels


def test_a_lesion_is_a_line_with_its_size_place_and_score() -> None:
    tumour, cyst = rows(lesions_to_csv("=CT-7", measure(two_kidneys_a_tumour_and_a_cyst(), AFFINE)))
    assert tuple(tumour) == LESION_COLUMNS
    assert tumour["study"] == "'=CT-7"  # no formula to a spreadsheet
    assert (tumour["number"], tumour["kidney"], tumour["side"], tumour["label"]) == ("1", "2", "left", "tumour")
    assert (tumour["volume_ml"], tumour["x_lps_mm"], tumour["mean_hu"]) == ("1.6", "59", "")
    assert (tumour["renal_r"], tumour["renal_e"], tumour["note"]) == ("1", "3", RENAL_NOTE)
    assert (cyst["side"], cyst["renal_r"], cyst["note"]) == ("right", "", "")


def test_a_lesion_of_a_transplant_is_told_from_one_of_the_native_kidney_of_its_side() -> None:
    volume, labels = transplanted()
    labels[labels.shape[0] // 2, 37, 23] = 3  # 0.08 ml in the native one
    tumour, cyst = rows(lesions_to_csv("CT-7", measure(labels, volume.affine)))
    assert (tumour["side"], tumour["place"]) == ("right", "pelvis")
    assert (cyst["side"], cyst["place"]) == ("right", "usual")


def test_a_kidney_is_a_line_with_its_volumes_and_how_many_lesions_it_has() -> None:
    hu = np.full((20, 60, 100), 35, np.int16)
    right, left = rows(kidneys_to_csv("CT-7", measure(two_kidneys_a_tumour_and_a_cyst(), AFFINE, hu=hu)))
    assert tuple(right) == KIDNEY_COLUMNS
    assert (right["side"], right["kidney_ml"], right["cyst_ml"], right["total_ml"]) == ("right", "79.84", "0.16", "80")
    assert (left["side"], left["tumours"], left["cysts"], left["mean_hu"]) == ("left", "1", "0", "35")
    assert left["note"] == "Two kidneys were found: right, left."


def test_a_study_without_kidneys_has_headers_alone() -> None:
    nothing = measure(np.zeros((4, 4, 4), np.uint8), AFFINE)
    assert rows(lesions_to_csv("CT-7", nothing)) == rows(kidneys_to_csv("CT-7", nothing)) == []
