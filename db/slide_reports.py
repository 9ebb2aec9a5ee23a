"""Reports of slides: what is counted and measured on each, before and after the specimen is signed.

A signed specimen reports what was signed, word for word; any other reports what stands now. Slides are never added
up: sections of one block, and one section in several stains, show the same glomeruli again.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Unpack

import numpy as np
from sqlalchemy import select
from sqlalchemy.orm import Session

from db import reporting, reviewed_glomeruli
from db.models import (
    Analysis,
    ScaleSource,
    Slide,
    SlideResult,
    Species,
    Stain,
    StoredFile,
)
from db.reporting import Report, Signature, Which
from db.reviewed_glomeruli import Outline, ReviewedGlomerulus, Status
from renalcore.errors import NotFound
from renalcore.histology.glomeruli import Glomeruli
from renalcore.histology.measure import Limits, SclerosedShare, SlideSummary, sclerosed_share, summary


@dataclass(frozen=True, slots=True)
class ReportedGlomerulus:
    """One glomerulus that a report counts.

    Attributes:
        key: Which one, see `reviewed_glomeruli.ReviewedGlomerulus`.
        number: What it is called on its slide.
        status: `model` where it counts on the model's word alone, else what a person did: `confirmed`, `redrawn` or
            `added`.
        sclerosed: Whether a person marked it as globally sclerosed.
        score: The model's score; None where a person added it.
        touches_edge: Whether the slide's edge cuts it.
        area_px: Its area, in px of level 0.
        area: Its area, in um2 where the scale of the slide is known, else in px.
        diameter: Diameter of the circle of the same area, in um, else in px.
        outline: Its points `(x, y)` in px of level 0.
    """

    key: str
    number: int
    status: Status
    sclerosed: bool
    score: float | None
    touches_edge: bool
    area_px: float
    area: float
    diameter: float
    outline: Outline


@dataclass(frozen=True, slots=True)
class ReportedSlide:
    """What is reported of one slide.

    Attributes:
        slide_id: The slide.
        position: Its place in the specimen, from 0.
        name: What the laboratory calls it.
        sha256: Digest of its file.
        stain: Its stain.
        species: Whose tissue it is.
        width_px: Width of level 0.
        height_px: Height of level 0.
        um_per_px: Micrometres a px of level 0; None where nobody knows, and then sizes are in px.
        scale_from: Who says so: the `file` or a `person`.
        tissue_px: Area of the tissue searched, in px of level 0.
        summary: Counts, sizes, tissue and density.
        sclerosed: How many are globally sclerosed, and the sentence to stand beside the percentage.
        unreviewed: How many count on the model's word alone.
        glomeruli: Those that count, by their numbers.
    """

    slide_id: int
    position: int
    name: str
    sha256: str
    stain: Stain
    species: Species
    width_px: int
    height_px: int
    um_per_px: float | None
    scale_from: ScaleSource | None
    tissue_px: float
    summary: SlideSummary
    sclerosed: SclerosedShare
    unreviewed: int
    glomeruli: tuple[ReportedGlomerulus, ...]

    def found(self) -> Glomeruli:
        """Its glomeruli as what measures and writes them takes."""
        return _columns(self.glomeruli, tissue_px=self.tissue_px, um_per_px=self.um_per_px)


@dataclass(frozen=True, slots=True)
class SlideReport(Report):
    """What is reported of one specimen of histology.

    Attributes:
        limits: Which of the model's glomeruli count.
        slides: The slides that have a result and are not withdrawn, in their order.
        slides_total: All the specimen's slides that are not withdrawn.
        signature: The signature under this report; None where it is not signed as it stands.
        amendments: How often the report has been amended so far.
    """

    limits: Limits
    slides: tuple[ReportedSlide, ...]
    slides_total: int
    signature: Signature | None
    amendments: int

    @property
    def unreviewed(self) -> int:
        """Glomeruli of all slides that count on the model's word alone."""
        return sum(slide.unreviewed for slide in self.slides)

    def slide(self, slide_id: int) -> ReportedSlide:
        """What is reported of this slide.

        Raises:
            NotFound: The report does not hold it.
        """
        for slide in self.slides:
            if slide.slide_id == slide_id:
                return slide
        raise NotFound(f"The report of specimen {self.accession} has no result of slide {slide_id}. Reload the page.")


def report(session: Session, specimen_id: int) -> SlideReport:
    """The report of a specimen of histology as it stands, or as it was signed.

    Raises:
        NotFound: There is no such specimen.
    """
    found = _reports(session, [specimen_id])
    if not found:
        raise NotFound(f"There is no specimen of histology {specimen_id}.")
    return found[0]


def patient_history(session: Session, patient_id: int) -> list[SlideReport]:
    """The reports of a patient's specimens of histology that are analysed, signed or not, oldest first."""
    return reporting.oldest_first(_reports(session, reporting.chosen(session, "histology", patient_id=patient_id)))


def for_export(session: Session, **which: Unpack[Which]) -> list[SlideReport]:
    """The reports of the analysed specimens of histology that are asked for, in the order of registration.

    Raises:
        InputError: Nothing says which.
    """
    return _reports(session, reporting.chosen(session, "histology", **which))


def to_json(current: SlideReport) -> dict[str, Any]:
    """What a signature keeps of a report: every slide and glomerulus that counts, and everything they depend on."""
    return {
        **reporting.rests_on(current),
        "limits": reviewed_glomeruli.limits_to_json(current.limits),
        "slides": [_slide_to_json(slide) for slide in current.slides],
        "slides_total": current.slides_total,
        "unreviewed": current.unreviewed,
    }


def without_outlines(kept: dict[str, Any]) -> dict[str, Any]:
    """What the audit trail holds of a report that a signature keeps: a digest in place of each slide's glomeruli."""
    slides = [
        {name: value for name, value in slide.items() if name != "glomeruli"} | {"glomeruli_sha256": _digest(slide)}
        for slide in kept["slides"]
    ]
    return kept | {"slides": slides}


def _digest(slide: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(slide["glomeruli"], sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def slides_of(snapshot: Mapping[str, Any]) -> tuple[ReportedSlide, ...]:
    """The slides of a report that a signature kept, such as `reviews.history` gives."""
    return tuple(
        ReportedSlide(
            **slide
            | {
                "summary": SlideSummary(**slide["summary"]),
                "sclerosed": SclerosedShare(**slide["sclerosed"]),
                "glomeruli": tuple(
                    ReportedGlomerulus(**one | {"outline": tuple((x, y) for x, y in one["outline"])})
                    for one in slide["glomeruli"]
                ),
            }
        )
        for slide in snapshot["slides"]
    )


def _slide_to_json(slide: ReportedSlide) -> dict[str, Any]:
    plain = {name: getattr(slide, name) for name in slide.__slots__}
    return plain | {
        "summary": asdict(slide.summary),
        "sclerosed": asdict(slide.sclerosed),
        "glomeruli": [{name: getattr(one, name) for name in one.__slots__} for one in slide.glomeruli],
    }


def _reports(session: Session, specimen_ids: Sequence[int]) -> list[SlideReport]:
    """Reports in the order of the ids; those of other modalities are left out."""
    return reporting.one_by_one(session, "histology", specimen_ids, as_signed=_as_signed, as_it_stands=_as_it_stands)


def _as_signed(said: Mapping[str, Any], kept: Mapping[str, Any]) -> SlideReport:
    return SlideReport(
        **said,
        limits=reviewed_glomeruli.limits_from_json(kept["limits"]),
        slides=slides_of(kept),
        slides_total=kept["slides_total"],
    )


def _as_it_stands(
    session: Session, said: Mapping[str, Any], specimen_id: int, analysis: Analysis | None
) -> SlideReport:
    here = session.execute(
        select(Slide, StoredFile.sha256)
        .join(StoredFile, StoredFile.id == Slide.file_id)
        .where(Slide.specimen_id == specimen_id, Slide.withdrawn_at.is_(None))
        .order_by(Slide.position)
    ).all()
    limits = reviewed_glomeruli.limits_of(analysis) if analysis else Limits()
    return SlideReport(
        **said,
        limits=limits,
        slides=_slides(session, analysis, [(slide, sha256) for slide, sha256 in here], limits) if analysis else (),
        slides_total=len(here),
    )


def _slides(
    session: Session, analysis: Analysis, here: Sequence[tuple[Slide, str]], limits: Limits
) -> tuple[ReportedSlide, ...]:
    tissue = dict(
        session.execute(
            select(SlideResult.slide_id, SlideResult.tissue_px).where(SlideResult.analysis_id == analysis.id)
        ).all()
    )
    standing: dict[int, list[ReviewedGlomerulus]] = defaultdict(list)
    for item in reviewed_glomeruli.standing(session, analysis.id):
        standing[item.slide_id].append(item)
    return tuple(
        _slide(slide, sha256, standing[slide.id], limits, tissue_px=tissue[slide.id])
        for slide, sha256 in here
        if slide.id in tissue
    )


def _slide(
    slide: Slide, sha256: str, standing: Sequence[ReviewedGlomerulus], limits: Limits, *, tissue_px: float
) -> ReportedSlide:
    scale = slide.um_per_px
    counted = tuple(
        ReportedGlomerulus(
            key=item.key,
            number=item.number,
            status=item.status,
            sclerosed=item.sclerosed,
            score=item.score,
            touches_edge=item.touches_edge,
            area_px=item.area_px,
            area=item.area_px * (scale or 1.0) ** 2,
            diameter=item.diameter(scale),
            outline=item.outline,
        )
        for item in standing
        if item.counts(limits, scale)
    )
    return ReportedSlide(
        slide_id=slide.id,
        position=slide.position,
        name=slide.name,
        sha256=sha256,
        stain=slide.stain,
        species=slide.species,
        width_px=slide.width_px,
        height_px=slide.height_px,
        um_per_px=scale,
        scale_from=slide.scale_from,
        tissue_px=tissue_px,
        summary=summary(_columns(counted, tissue_px=tissue_px, um_per_px=scale)),
        sclerosed=sclerosed_share(sum(item.sclerosed for item in counted), len(counted)),
        unreviewed=sum(item.status == "model" for item in counted),
        glomeruli=counted,
    )


def _columns(counted: Sequence[ReportedGlomerulus], *, tissue_px: float, um_per_px: float | None) -> Glomeruli:
    return Glomeruli(
        outlines_px=tuple(np.array(item.outline, np.float32) for item in counted),
        scores=np.array([np.nan if item.score is None else item.score for item in counted], np.float32),
        areas_px=np.array([item.area_px for item in counted], np.float64),
        touches_edge=np.array([item.touches_edge for item in counted], np.bool_),
        tissue_px=tissue_px,
        um_per_px=um_per_px,
    )
