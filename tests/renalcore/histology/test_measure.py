from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import uuid

import numpy as np
import pytest

from renalcore.export.csv import Whence
from renalcore.export.geojson import to_geojson
from renalcore.export.glomeruli import SlideOfReport, glomeruli_to_csv, slides_to_csv
from renalcore.histology.glomeruli import Glomeruli
from renalcore.histology.measure import (
    Limits,
    counted,
    feret_diameters,
    measure,
    polygon_area_px,
    polygon_centre_px,
    sclerosed_share,
    summary,
)
from renalcore.histology.predictions import draw


def box(x: float, y: float, width: float, height: float) -> np.ndarray:
    return np.array([[x, y], [x + width, y], [x + width, y + height], [x, y + height]], np.float32)


def boxes(*sides: tuple[float, float], um_per_px: float | None = 0.5, cut: int | None = None) -> Glomeruli:
    """Boxes of these sides beside each other, on 4,000,000 px of tissue: 1 mm2 at 0.5 um a pixel."""
    outlines = tuple(box(300 * index, 0, *side) for index, side in enumerate(sides))
    return Glomeruli(
        outlines,
        np.linspace(0.9, 0.6, len(sides)),
        np.array([width * height for width, height in sides], float),
        np.arange(len(sides)) == cut,
        4_000_000.0,
        um_per_px,
    )


def test_sizes_are_in_um_where_the_scale_is_known() -> None:
    sizes = measure(boxes((300, 400)))
    assert sizes.unit == "um"
    assert sizes.areas.tolist() == [300 * 400 * 0.25]
    assert sizes.equivalent_diameters.tolist() == pytest.approx([2 * math.sqrt(30_000 / math.pi)])
    assert sizes.max_ferets.tolist() == pytest.approx([500 * 0.5])  # the diagonal
    assert sizes.min_ferets.tolist() == pytest.approx([300 * 0.5])


def test_sizes_stay_in_px_where_it_is_not_and_no_density_is_told() -> None:
    found = boxes((300, 400), um_per_px=None)
    assert (measure(found).unit, measure(found).areas.tolist()) == ("px", [120_000])
    assert (summary(found).tissue_mm2, summary(found).density_per_mm2) == (None, None)


def test_the_feret_diameters_of_a_circle_are_its_diameter_wherever_it_lies() -> None:
    angles = np.linspace(0, 2 * np.pi, 90, endpoint=False)
    circle = np.stack((np.cos(angles), np.sin(angles)), 1) * 100 + 90_000
    assert feret_diameters(circle) == pytest.approx((200, 200), rel=2e-3)
    assert polygon_area_px(circle) == pytest.approx(np.pi * 100**2, rel=2e-3)


def test_the_centre_of_a_polygon_does_not_lean_to_where_its_points_are_dense() -> None:
    crowded = np.array([[0, 0], [1, 0], [2, 0], [3, 0], [100, 0], [100, 50], [0, 50]], np.float32) + 70_000
    assert polygon_centre_px(crowded) == pytest.approx((70_050, 70_025))
    assert polygon_centre_px(crowded[::-1]) == pytest.approx((70_050, 70_025))


def test_limits_are_moved_without_searching_again() -> None:
    found = boxes((20, 20), (200, 200), (100, 100), cut=1)  # equivalent diameters of 11.3, 112.8 and 56.4 um
    assert counted(found, Limits()).tolist() == [True, True, True]
    assert counted(found, Limits(min_diameter=50)).tolist() == [False, True, True]
    assert counted(found, Limits(min_diameter=50, edge="leave_out")).tolist() == [False, False, True]
    assert counted(found, Limits(max_diameter=60, min_score=0.7)).tolist() == [True, False, False]
    assert len(found.where(counted(found, Limits(min_diameter=50)))) == 2
    with pytest.raises(ValueError, match="run upwards"):
        Limits(min_diameter=60, max_diameter=50)


def test_a_slide_is_summed_up_with_sizes_of_whole_glomeruli_only() -> None:
    told = summary(boxes((200, 200), (100, 100), (60, 100), cut=2))
    assert (told.count, told.cut, told.tissue_mm2, told.density_per_mm2) == (3, 1, 1.0, 3.0)
    assert (told.mean_area, told.median_area) == ((10_000 + 2_500) / 2, (10_000 + 2_500) / 2)
    assert told.total_area == 10_000 + 2_500 + 1_500


def test_a_share_of_few_glomeruli_says_so() -> None:
    few, enough = sclerosed_share(3, 24), sclerosed_share(5, 25)
    assert (few.percent, few.note) == (12.5, "Fewer than 25 glomeruli (24): the percentage is uncertain.")
    assert (enough.percent, enough.note) == (20.0, "")
    assert sclerosed_share(0, 0).percent is None
    with pytest.raises(ValueError, match="cannot be sclerosed"):
        sclerosed_share(3, 2)


def test_geojson_has_what_qupath_reads() -> None:
    content = json.loads(to_geojson(boxes((300, 400), (10, 20)), sclerosed=[False, True]))
    assert content["type"] == "FeatureCollection"
    first, second = content["features"]
    assert first["geometry"] == {"type": "Polygon", "coordinates": [[[0, 0], [300, 0], [300, 400], [0, 400], [0, 0]]]}
    assert first["properties"]["objectType"] == "annotation"
    assert first["properties"]["name"] == "Glomerulus 1"
    assert first["properties"]["classification"] == {"name": "Glomerulus", "color": [0, 114, 178]}
    assert first["properties"]["measurements"]["Area µm^2"] == 30_000
    assert second["properties"]["classification"]["name"] == "Globally sclerosed glomerulus"
    assert uuid.UUID(first["id"]) != uuid.UUID(second["id"])


def lines(content: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(content.decode("utf-8-sig"))))


def test_csv_has_a_line_a_glomerulus_and_a_line_a_slide() -> None:
    found = boxes((300, 400), (10, 20), cut=1)
    added = dataclasses.replace(found, scores=[0.9, math.nan])
    slide = SlideOfReport(
        patient="H-1", accession="K-1", slide="=a.svs", stain="PAS", scale_from="file", found=added, numbers=(1, 7),
        sclerosed=(True, False), statuses=("model", "added"), summary=summary(found), share=sclerosed_share(1, 2),
        limits=Limits(min_diameter=30), whence=Whence(model="m", weights_sha256="a"),
    )  # fmt: skip
    first, second = lines(glomeruli_to_csv([slide]))
    assert [row["number"] for row in (first, second)] == ["1", "7"]
    assert (first["slide"], first["area_um2"], first["sclerosed"], second["cut_by_edge"]) == (
        "'=a.svs", "30000", "yes", "yes",
    )  # fmt: skip
    assert (first["area_px"], first["x_px"], first["y_px"]) == ("120000", "150", "200")
    assert (first["probability"], second["probability"], second["status"]) == ("0.9", "", "added")
    (row,) = lines(slides_to_csv([slide]))
    assert (row["glomeruli"], row["density_per_mm2"], row["sclerosed_percent"], row["unreviewed"]) == (
        "2",
        "2",
        "50",
        "1",
    )
    assert row["note"] == "Fewer than 25 glomeruli (2): the percentage is uncertain."
    assert (row["min_diameter"], row["max_diameter"], row["reviewed"]) == ("30", "", "no")
    with pytest.raises(ValueError, match="2 glomeruli have 1 numbers, 2 marks and 2 statuses"):
        dataclasses.replace(slide, numbers=(1,))


def test_the_label_picture_gives_each_pixel_to_the_polygon_around_its_centre() -> None:
    outlines = [box(2, 1, 3, 2), box(5, 1, 2.6, 2), np.array([[0, 6], [4.2, 6], [0, 10.2]])]
    expected = np.zeros((10, 9), int)
    expected[1:3, 2:5] = 1
    expected[1:3, 5:8] = 2  # its last centre, 7.5, lies left of 7.6
    for row, width in enumerate((4, 3, 2, 1)):
        expected[6 + row, :width] = 3
    labels = draw(outlines, 9, 10)
    assert labels.dtype == np.uint16
    assert labels.tolist() == expected.tolist()
