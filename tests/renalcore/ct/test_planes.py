from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from renalcore.ct.planes import JudgedSlice, SliceSummary, as_printed, figures, judge_slice
from renalcore.ct.predict import KidneyModel
from renalcore.ct.slices import read_slices
from renalcore.engine.devices import Device
from renalcore.metrics.segmentation import Overlap
from tests.renalcore.ct.bright import card

FLESH, KIDNEY, TUMOUR = 50, 150, 250


def write_slice(folder: Path, case: str) -> None:
    """A body of 240 x 240 mm at 2 mm, in the form of the slices of KiTS19: two kidneys, the left with a tumour."""
    y, x = np.mgrid[:120, :120] - 60
    image, labels = np.full((120, 120), FLESH, np.uint8), np.zeros((120, 120), np.uint8)
    for middle, radius, hu, label in ((-32, 13, KIDNEY, 1), (32, 13, KIDNEY, 1), (32, 6, TUMOUR, 2)):
        here = (x - middle) ** 2 + y**2 <= radius**2
        image[here], labels[here] = hu, label
    for part, picture in (("images", image), ("labels_kits23", labels)):
        (folder / part).mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / part / f"{case}_1.png"), picture)
    index = folder / "index.csv"
    before = index.read_text() if index.is_file() else "name,case,spacing\n"
    index.write_text(f"{before}{case}_1,{case},5x2.0x2.0\n")


class Tells:
    """A step that tells its class by HU: the brighter than `above` are class 1."""

    def __init__(self, above: float) -> None:
        self.above = above

    def run(self, volumes: np.ndarray) -> tuple[np.ndarray, ...]:
        return ((volumes > self.above).astype(np.uint8),)


def test_a_slice_is_judged_in_its_own_plane_and_pixels_given_where_its_kidneys_are(tmp_path: Path) -> None:
    write_slice(tmp_path, "case_00001")
    (of,) = read_slices(tmp_path)
    labels = cv2.imread(str(of.labels), cv2.IMREAD_UNCHANGED)
    # Step 1 has no network here: it is not asked.
    steps = {"kidney": Tells((FLESH + KIDNEY) / 2), "lesion": Tells((KIDNEY + TUMOUR) / 2)}
    judged = judge_slice(KidneyModel(card(), steps, Device("cpu", 1)), of)
    expert = {name: pixels.expert for name, pixels in judged.pixels.items()}
    assert expert == {"kidney_and_masses": (labels > 0).sum(), "tumour": (labels == 2).sum(), "cyst": 0}
    assert judged.pixels["kidney_and_masses"].dice > 0.97
    assert judged.pixels["tumour"].dice > 0.9
    assert judged.pixels["cyst"] == Overlap(0, 0, 0)
    steps["kidney"] = Tells(3000)
    nothing = judge_slice(KidneyModel(card(), steps, Device("cpu", 1)), of)
    assert {pixels.found for pixels in nothing.pixels.values()} == {0}


def slices(*tumours: tuple[int, int, int]) -> list[JudgedSlice]:
    """Slices of two patients in turn, by the pixels of their tumours that are in both masks, true and found."""
    whole = {"kidney_and_masses": Overlap(90, 100, 100), "cyst": Overlap(0, 0, 0)}
    return [
        JudgedSlice(f"{number}", f"case_{number % 2}", {**whole, "tumour": Overlap(*pixels)})
        for number, pixels in enumerate(tumours)
    ]


def test_slices_with_a_class_and_those_that_get_it_falsely_are_told_apart() -> None:
    judged = slices((6, 10, 10), (0, 10, 0), (0, 0, 5), (0, 0, 0))  # Dice 0.6, missed, invented, rightly none
    tumour = SliceSummary.of(judged, "tumour")
    assert (tumour.slices, tumour.patients, tumour.present, tumour.absent) == (4, 2, 2, 2)
    assert (tumour.missed, tumour.invented) == (1, 1)
    assert tumour.dice_where_present.mean == pytest.approx((0.6 + 0) / 2)
    assert tumour.dice.mean == pytest.approx((0.6 + 0 + 0 + 1) / 4)
    assert "| tumour | 2 | 1 | 0.300 ± 0.424 | 2 | 1 | 0.400 ± 0.490 |" in as_printed(judged)
    told = {figure.name: figure for figure in figures(judged, on="held out: here", command="again")}
    assert {name: figure.value for name, figure in told.items()} == {
        "Dice, kidney_and_masses, real slices": 0.9,
        "Dice, tumour, real slices": 0.3,
        "Share with a false tumour, real slices without one": 0.5,
        "Share with a false cyst, real slices without one": 0.0,
    }
    assert told["Dice, tumour, real slices"].on == (
        "held out: here; 4 real slices of 2 patients, grown; judged in the real plane only, step 2 being given the "
        "crop around each true kidney; 2 of them with this class"
    )
