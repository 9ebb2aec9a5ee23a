"""A patient's CT studies over time, as the page shows them."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from streamlit.testing.v1 import AppTest

from db.ct_list import StudyRow
from db.ct_reports import CtReport, ReportedScan
from db.models import CtScan
from renalcore.ct.measure import measure
from tests.ct_analysed import drawn

PATIENCE_S = 120.0
JUNE, JULY, NOVEMBER = (datetime(2026, month, 1, tzinfo=UTC) for month in (6, 7, 11))


def _page(scanned, history):  # type: ignore[no-untyped-def]  # runs as a script of its own
    from pages.components import ct_history

    ct_history.show(scanned, history, 1)


def shown(*dates: datetime | None) -> AppTest:
    """A patient with a study scanned at each date, all registered in November."""
    volume, labels = drawn()
    measures = measure(labels, volume.affine)
    reports, rows = [], []
    for number, date in enumerate(dates, start=1):
        name, sizes = f"CT-{number}", (*volume.shape, volume.spacing_mm)
        scan = ReportedScan(number, 0, "portal", "a" * 64, "DICOM", None, *sizes, "b" * 64, measures, "", ())
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
    page = shown(*dates)
    table, note = (html.value for html in page.get("html"))
    assert (table.count("no date"), table.count("01 Nov 2026")) == (1, 0)
    assert words in note
    charts = [json.loads(chart.proto.spec)["data"] for chart in page.get("plotly_chart")]
    assert [line["x"] for line in charts[0]] == [charted] * len(charts[0]) if charted else charts == []


def test_lesions_have_a_scale_of_their_own_below_that_of_the_kidneys() -> None:
    (chart,) = shown(JUNE, JULY).get("plotly_chart")
    lines = {line["name"]: line["yaxis"] for line in json.loads(chart.proto.spec)["data"]}
    assert lines == {"Right kidney": "y", "Left kidney": "y", "Tumours": "y2", "Cysts": "y2"}
