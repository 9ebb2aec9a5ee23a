"""A patient's CT studies over time, as the page shows them."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime

import numpy as np
import pytest
from numpy.typing import NDArray
from streamlit.testing.v1 import AppTest

from db.ct_list import StudyRow
from db.ct_reports import CtReport, ReportedScan
from db.models import CtScan
from renalcore.ct.measure import measure
from renalcore.ct.predict import in_words
from renalcore.io.volume import Volume
from tests.ct_analysed import CYST, TUMOUR, drawn, transplanted
from tests.renalcore.ct.bright import LEFT, RIGHT, body

PATIENCE_S = 120.0
JUNE, JULY, NOVEMBER = (datetime(2026, month, 1, tzinfo=UTC) for month in (6, 7, 11))


def _page(scanned, history):  # type: ignore[no-untyped-def]  # runs as a script of its own
    from pages.components import ct_history

    ct_history.show(scanned, history, 1)


def shown(*studies: tuple[datetime | None, tuple[Volume, NDArray[np.uint8]]]) -> AppTest:
    """A patient with these studies: when each was scanned, and what was found in it. All registered in November."""
    reports, rows = [], []
    for number, (date, (volume, labels)) in enumerate(studies, start=1):
        measures = measure(labels, volume.affine)
        name, sizes = f"CT-{number}", (*volume.shape, volume.spacing_mm)
        scan = ReportedScan(
            number, 0, "portal", "a" * 64, "DICOM", None, *sizes, "b" * 64, measures, in_words(labels, measures), ()
        )
        reports.append(
            CtReport(
                number, name, 1, "P-1", None, "needs_review", date, NOVEMBER, number, "ct-segresnet", "c" * 64, "0.1.0",
                (scan,), 1, None, 0,
            )
        )  # fmt: skip
        lesions = (len(measures.lesions),)
        of = CtScan(id=number, name="portal", slices=60)
        rows.append(
            StudyRow(number, name, 1, "P-1", None, NOVEMBER, date, "needs_review", "", number, 0, 0, (of,), lesions)
        )
    return AppTest.from_function(_page, args=(rows, reports), default_timeout=PATIENCE_S).run()


@pytest.mark.parametrize(
    ("dates", "charted", "words"),
    [
        ((JUNE, None, JULY), ["2026-06-01T00:00:00", "2026-07-01T00:00:00"], "1 study is not in it: the date of the"),
        ((JUNE, None), None, "There is no chart over time"),
    ],
)
def test_a_study_without_a_date_of_the_scan_has_no_place_in_time(
    dates: tuple[datetime | None, ...], charted: list[str] | None, words: str
) -> None:
    page = shown(*((date, drawn()) for date in dates))
    table, note = (html.value for html in page.get("html"))
    assert (table.count("no date"), table.count("01 Nov 2026")) == (1, 0)
    assert words in note
    charts = [json.loads(chart.proto.spec)["data"] for chart in page.get("plotly_chart")]
    assert [line["x"] for line in charts[0]] == [charted] * len(charts[0]) if charted else charts == []


def test_lesions_have_a_scale_of_their_own_below_that_of_the_kidneys() -> None:
    (chart,) = shown((JUNE, drawn()), (JULY, drawn())).get("plotly_chart")
    lines = {line["name"]: line["yaxis"] for line in json.loads(chart.proto.spec)["data"]}
    assert lines == {"Right kidney": "y", "Left kidney": "y", "Tumours": "y2", "Cysts": "y2"}


def test_volumes_are_told_by_side_and_label_in_the_table_and_over_time() -> None:
    grown = (TUMOUR[0], (22.0, 22.0, 22.0))
    found = [drawn(), body([RIGHT, LEFT], tumours=[grown], cysts=[CYST])]
    page = shown(*zip((JUNE, JULY), found, strict=True))

    expected: dict[str, list[float]] = {"Right kidney": [], "Left kidney": [], "Tumours": [], "Cysts": []}
    for _, labels in found:
        patients_right, patients_left = labels[:, :, :40], labels[:, :, 40:]  # x grows toward the left, 0 in the middle
        which = (patients_right > 0, patients_left > 0, labels == 2, labels == 3)  # a kidney is told with its lesions
        for line, voxels in zip(expected.values(), which, strict=True):
            line.append(voxels.sum() * 5 * 4 * 4 / 1000)
    (right, same_right), (left, grown_left), (tumour, grown_tumour), (cyst, same_cyst) = expected.values()
    assert (right, cyst) == (same_right, same_cyst)
    assert grown_tumour > 2 * tumour
    assert grown_left > left > tumour > cyst
    assert grown_left != same_right, "a swap of the sides would show"

    (chart,) = (json.loads(chart.proto.spec)["data"] for chart in page.get("plotly_chart"))
    assert {line["name"]: line["y"] for line in chart} == {name: pytest.approx(ml) for name, ml in expected.items()}
    table = page.get("html")[0].value
    cells = [float(cell) for cell in re.findall(r'<td class="rc-num">([^<]+)</td>', table)]
    assert cells == pytest.approx([ml[study] for study in (0, 1) for ml in expected.values()], abs=0.051)


def test_a_kidney_in_the_pelvis_has_a_line_of_its_own_beside_the_native_one_of_its_side() -> None:
    page = shown((JUNE, transplanted()), (JULY, transplanted()))
    (chart,) = (json.loads(chart.proto.spec)["data"] for chart in page.get("plotly_chart"))
    lines = {line["name"]: line["y"][0] for line in chart}
    assert list(lines) == ["Right kidney", "Left kidney", "Right kidney (in the pelvis)", "Tumours"]
    assert lines["Right kidney"] == pytest.approx(lines["Left kidney"], rel=0.02), "not twice as much"
    table = page.get("html")[0].value
    assert f"Right kidney (in the pelvis): {lines['Right kidney (in the pelvis)']:.1f} ml" in table


def test_a_kidney_that_the_scan_cuts_off_is_told_beside_its_volumes_and_over_time() -> None:
    volume, labels = drawn()
    lower = int(np.flatnonzero(labels.any((1, 2)))[0]) + 3
    part = Volume(volume.hu[lower:], volume.affine)
    page = shown((JUNE, (volume, labels)), (JULY, (part, labels[lower:])))
    whole, cut = re.findall(r"<tr><td>.*?</tr>", page.get("html")[0].value)
    told = "kidney cut off by the edge of the scan"
    assert (told in whole, told in cut) == (False, True)
    (chart,) = (json.loads(chart.proto.spec)["data"] for chart in page.get("plotly_chart"))
    assert [point[1] for point in chart[0]["customdata"]] == ["not signed", f"not signed, {told}"]
