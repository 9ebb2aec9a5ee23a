"""Glomeruli as CSV, a line each or a line a slide, in the form of every table here (see `renalcore.export.csv`).

Columns in um are empty where the scale of the slide is unknown; those in px always hold.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from renalcore.export.csv import table_to_csv
from renalcore.histology.glomeruli import Glomeruli
from renalcore.histology.measure import measure, polygon_centre_px, sclerosed_share, summary

GLOMERULUS_COLUMNS: Final = (
    "slide", "number", "x_px", "y_px", "area_px", "area_um2", "equivalent_diameter_um", "max_feret_um", "min_feret_um",
    "probability", "cut_by_edge", "sclerosed",
)  # fmt: skip
SLIDE_COLUMNS: Final = (
    "slide", "um_per_px", "glomeruli", "cut_by_edge", "tissue_mm2", "density_per_mm2", "mean_area_um2",
    "median_area_um2", "mean_diameter_um", "total_area_um2", "sclerosed", "sclerosed_percent", "note",
)  # fmt: skip


def glomeruli_to_csv(
    slide: str, found: Glomeruli, *, sclerosed: Sequence[bool] | None = None, numbers: Sequence[int] | None = None
) -> bytes:
    """A line for each glomerulus of a slide; x and y are its centre of gravity.

    Args:
        slide: What the slide is called.
        found: Its glomeruli.
        sclerosed: Which of them a person marked as globally sclerosed; none where left out.
        numbers: What each is called on the report; 1, 2, 3 ... where left out.

    Raises:
        ValueError: `sclerosed` or `numbers` are not as many as the glomeruli.
    """
    marks = [False] * len(found) if sclerosed is None else list(sclerosed)
    called = list(range(1, len(found) + 1)) if numbers is None else list(numbers)
    if not len(marks) == len(called) == len(found):
        raise ValueError(f"{len(found)} glomeruli have {len(marks)} marks and {len(called)} numbers")
    sizes = measure(found)
    rows = []
    for index, outline in enumerate(found.outlines_px):
        x, y = polygon_centre_px(outline)
        columns = (sizes.areas, sizes.equivalent_diameters, sizes.max_ferets, sizes.min_ferets)
        in_um = [float(column[index]) if sizes.unit == "um" else None for column in columns]
        rows.append(
            [
                slide, called[index], round(x, 1), round(y, 1), float(found.areas_px[index]), *in_um,
                float(found.scores[index]), bool(found.touches_edge[index]), bool(marks[index]),
            ]
        )  # fmt: skip
    return table_to_csv(GLOMERULUS_COLUMNS, rows)


def slides_to_csv(slides: Iterable[tuple[str, Glomeruli, int]]) -> bytes:
    """A line for each slide: its name, its glomeruli, and how many of them are globally sclerosed."""
    rows = []
    for name, found, sclerosed in slides:
        told, share = summary(found), sclerosed_share(sclerosed, len(found))
        sizes = (told.mean_area, told.median_area, told.mean_diameter, told.total_area)
        rows.append(
            [
                name, found.um_per_px, told.count, told.cut, told.tissue_mm2, told.density_per_mm2,
                *(value if told.unit == "um" else None for value in sizes), sclerosed, share.percent, share.note,
            ]
        )  # fmt: skip
    return table_to_csv(SLIDE_COLUMNS, rows)
