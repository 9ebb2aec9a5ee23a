"""Exports of what slides report, as they stand or as they were signed; each is written into the audit trail."""

from __future__ import annotations

from typing import Literal, Unpack

from sqlalchemy.orm import Session

from db import audit, reporting, slide_reports, slides
from db.engine import beforehand
from db.models import User
from db.reporting import Which
from db.slide_reports import ReportedSlide, SlideReport
from renalcore.export import geojson
from renalcore.export.glomeruli import SlideOfReport, glomeruli_to_csv, slides_to_csv

Table = Literal["glomeruli", "slides"]


def to_csv(
    session: Session,
    table: Table,
    *,
    by: User,
    file_name: str,
    entity: str,
    entity_id: int | str,
    **which: Unpack[Which],
) -> bytes:
    """A CSV file with a line for each glomerulus that counts, or for each slide.

    Args:
        session: A session in which nothing was asked yet, so that the database stays free while it is made.
        table: Which of the two.
        by: Who exports.
        file_name: Name of the file, for the audit trail.
        entity: What is exported, for the audit trail: `specimen`, `patient` or `specimens`.
        entity_id: Which one.
        **which: Which specimens, see `reporting.Which`.

    Raises:
        InputError: Nothing says which specimens.
    """
    with beforehand(session) as reading:
        found = slide_reports.for_export(reading, **which)
    reported = [_slide(one, slide) for one in found for slide in one.slides]
    rows = len(reported) if table == "slides" else sum(len(slide.found) for slide in reported)
    content = slides_to_csv(reported) if table == "slides" else glomeruli_to_csv(reported)
    audit.record(
        session,
        actor=by,
        action="export.csv",
        entity=entity,
        entity_id=entity_id,
        new={"file_name": file_name, "table": table, "rows": rows},
    )
    return content


def to_geojson(session: Session, slide_id: int, *, by: User, file_name: str) -> bytes:
    """The glomeruli of a slide that count, as GeoJSON that QuPath opens; `session` as of `to_csv`.

    Raises:
        NotFound: There is no such slide, or it has no result.
    """
    with beforehand(session) as reading:
        slide = slides.get(reading, slide_id)
        reported = slide_reports.report(reading, slide.specimen_id).slide(slide_id)
    content = geojson.to_geojson(
        reported.found(),
        sclerosed=[item.sclerosed for item in reported.glomeruli],
        numbers=[item.number for item in reported.glomeruli],
    )
    audit.record(
        session,
        actor=by,
        action="export.geojson",
        entity="slide",
        entity_id=slide_id,
        new={"file_name": file_name, "rows": len(reported.glomeruli)},
    )
    return content


def _slide(report: SlideReport, slide: ReportedSlide) -> SlideOfReport:
    return SlideOfReport(
        patient=report.patient_identifier,
        accession=report.accession,
        slide=slide.name,
        stain=slide.stain,
        scale_from=slide.scale_from,
        found=slide.found(),
        numbers=tuple(item.number for item in slide.glomeruli),
        sclerosed=tuple(item.sclerosed for item in slide.glomeruli),
        statuses=tuple(item.status for item in slide.glomeruli),
        summary=slide.summary,
        share=slide.sclerosed,
        limits=report.limits,
        whence=reporting.whence(report, report.signature, report.amendments),
    )
