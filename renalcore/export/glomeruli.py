"""Reported glomeruli as CSV, a line each or a line a slide, in the form of every table (see `renalcore.export.csv`).

Columns in um are empty where the scale of the slide is unknown; those in px always hold. Slides are lines of their own
and never added up: sections of one block show the same glomeruli again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from renalcore.export.csv import WHENCE_COLUMNS, Whence, table_to_csv
from renalcore.histology.glomeruli import Glomeruli
from renalcore.histology.measure import Limits, SclerosedShare, SlideSummary, measure, polygon_centre_px

_WHOSE: Final = ("patient", "accession", "slide", "stain")
GLOMERULUS_COLUMNS: Final = (
    *_WHOSE, "number", "x_px", "y_px", "area_px", "area_um2", "equivalent_diameter_um", "max_feret_um", "min_feret_um",
    "probability", "cut_by_edge", "sclerosed", "status", *WHENCE_COLUMNS,
)  # fmt: skip
SLIDE_COLUMNS: Final = (
    *_WHOSE, "um_per_px", "scale_from", "glomeruli", "cut_by_edge", "tissue_mm2", "density_per_mm2", "mean_area_um2",
    "median_area_um2", "mean_diameter_um", "total_area_um2", "sclerosed", "sclerosed_percent", "note", "unreviewed",
    "edge", "min_score", "min_diameter", "max_diameter", *WHENCE_COLUMNS,
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SlideOfReport:
    """What a report says of one slide, with everything that it rests on.

    Attributes:
        patient: The patient's identifier, never the name.
        accession: Accession number of the specimen.
        slide: What the laboratory calls the slide.
        stain: Its stain.
        scale_from: Who says its scale: `file` or `person`; None where nobody knows it.
        found: The glomeruli that count; their probability is nan where a person added them.
        numbers: What each is called on the report.
        sclerosed: Which of them a person marked as globally sclerosed.
        statuses: What people did to each: `model` (nothing), `confirmed`, `redrawn` or `added`.
        summary: The slide's figures.
        share: Its globally sclerosed glomeruli.
        limits: Which of the model's glomeruli count.
        whence: The model that searched it, and who answers for it.

    Raises:
        ValueError: Numbers, marks or statuses are not as many as the glomeruli.
    """

    patient: str
    accession: str
    slide: str
    stain: str
    scale_from: str | None
    found: Glomeruli
    numbers: tuple[int, ...]
    sclerosed: tuple[bool, ...]
    statuses: tuple[str, ...]
    summary: SlideSummary
    share: SclerosedShare
    limits: Limits
    whence: Whence

    def __post_init__(self) -> None:
        if not len(self.found) == len(self.numbers) == len(self.sclerosed) == len(self.statuses):
            raise ValueError(
                f"{len(self.found)} glomeruli have {len(self.numbers)} numbers, {len(self.sclerosed)} marks and "
                f"{len(self.statuses)} statuses"
            )


def glomeruli_to_csv(slides: Iterable[SlideOfReport]) -> bytes:
    """A line for each glomerulus; x and y are its centre of gravity."""
    return table_to_csv(GLOMERULUS_COLUMNS, (row for slide in slides for row in _glomeruli(slide)))


def slides_to_csv(slides: Iterable[SlideOfReport]) -> bytes:
    """A line for each slide, also where nothing was found on it."""
    return table_to_csv(SLIDE_COLUMNS, (_slide(slide) for slide in slides))


def _glomeruli(slide: SlideOfReport) -> Iterator[list[object]]:
    found, sizes = slide.found, measure(slide.found)
    columns = (sizes.areas, sizes.equivalent_diameters, sizes.max_ferets, sizes.min_ferets)
    for index, outline in enumerate(found.outlines_px):
        x, y = polygon_centre_px(outline)
        score = float(found.scores[index])
        yield [
            *_whose(slide), slide.numbers[index], round(x, 1), round(y, 1), float(found.areas_px[index]),
            *(float(column[index]) if sizes.unit == "um" else None for column in columns),
            None if math.isnan(score) else score, bool(found.touches_edge[index]), slide.sclerosed[index],
            slide.statuses[index], *slide.whence.cells,
        ]  # fmt: skip


def _slide(slide: SlideOfReport) -> list[object]:
    told, share, limits = slide.summary, slide.share, slide.limits
    sizes = (told.mean_area, told.median_area, told.mean_diameter, told.total_area)
    return [
        *_whose(slide), slide.found.um_per_px, slide.scale_from, told.count, told.cut, told.tissue_mm2,
        told.density_per_mm2, *(value if told.unit == "um" else None for value in sizes),
        share.sclerosed, share.percent, share.note, slide.statuses.count("model"),
        limits.edge, limits.min_score, limits.min_diameter,
        limits.max_diameter if math.isfinite(limits.max_diameter) else None, *slide.whence.cells,
    ]  # fmt: skip


def _whose(slide: SlideOfReport) -> tuple[str, ...]:
    return slide.patient, slide.accession, slide.slide, slide.stain
