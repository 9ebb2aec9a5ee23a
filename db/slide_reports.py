"""Reports of slides: what is counted and measured on each, before and after the specimen is signed.

A signed specimen reports what was signed, word for word; any other reports what stands now. Slides are never added
up: sections of one block, and one section in several stains, show the same glomeruli again.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import numpy as np
from sqlalchemy import select
from sqlalchemy.orm import Session

from db import analyses, glomeruli, reports
from db.glomeruli import Outline, ReviewedGlomerulus, Status
from db.models import (
    Analysis,
    Patient,
    ScaleSource,
    SignOff,
    Slide,
    SlideResult,
    Species,
    Specimen,
    SpecimenState,
    Stain,
    StoredFile,
)
from db.reports import Signature
from renalcore.errors import NotFound
from renalcore.histology.glomeruli import Glomeruli
from renalcore.histology.measure import Limits, SclerosedShare, SlideSummary, sclerosed_share, summary


@dataclass(frozen=True, slots=True)
class ReportedGlomerulus:
    """One glomerulus that a report counts.

    Attributes:
        key: Which one, see `glomeruli.ReviewedGlomerulus`.
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
class SlideReport:
    """What is reported of one specimen of histology.

    Attributes:
        specimen_id: The specimen.
        accession: Its accession number.
        patient_id: The patient.
        patient_identifier: The patient's hospital number.
        patient_name: The patient's name, None where it was not given.
        state: State of the specimen.
        collected_at: When the tissue was taken, None where unknown.
        created_at: When it was registered.
        analysis_id: The analysis that counts; None where there is none, and then there is no slide either.
        model_key: The model.
        weights_sha256: Digest of its weights.
        code_version: Version of the software that ran it.
        limits: Which of the model's glomeruli count.
        slides: The slides that have a result and are not withdrawn, in their order.
        slides_total: All the specimen's slides that are not withdrawn.
        signature: The signature under this report; None where it is not signed as it stands.
        amendments: How often the report has been amended so far.
    """

    specimen_id: int
    accession: str
    patient_id: int
    patient_identifier: str
    patient_name: str | None
    state: SpecimenState
    collected_at: datetime | None
    created_at: datetime
    analysis_id: int | None
    model_key: str | None
    weights_sha256: str | None
    code_version: str | None
    limits: Limits
    slides: tuple[ReportedSlide, ...]
    slides_total: int
    signature: Signature | None
    amendments: int

    @property
    def unreviewed(self) -> int:
        """Glomeruli of all slides that count on the model's word alone."""
        return sum(slide.unreviewed for slide in self.slides)

    @property
    def taken_at(self) -> datetime:
        """When the tissue was taken, or failing that registered: its place in the patient's history."""
        return self.collected_at or self.created_at

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
    found = _reports(session, reports.chosen(session, "histology", patient_id=patient_id))
    return sorted(found, key=lambda one: (one.taken_at, one.specimen_id))


def for_export(
    session: Session,
    *,
    specimen_id: int | None = None,
    patient_id: int | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> list[SlideReport]:
    """The reports of the analysed specimens of histology that are asked for, in the order of registration.

    Args:
        session: An open session.
        specimen_id: Only this specimen.
        patient_id: Only specimens of this patient.
        since: Only specimens registered at this moment or later.
        until: Only specimens registered before this moment.

    Raises:
        InputError: Nothing says which specimens.
    """
    ids = reports.chosen(session, "histology", specimen_id=specimen_id, patient_id=patient_id, since=since, until=until)
    return _reports(session, ids)


def to_json(current: SlideReport) -> dict[str, Any]:
    """What a signature keeps of a report: every slide and glomerulus that counts, and everything they depend on."""
    return {
        "analysis_id": current.analysis_id,
        "model_key": current.model_key,
        "weights_sha256": current.weights_sha256,
        "code_version": current.code_version,
        "limits": glomeruli.limits_to_json(current.limits),
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


def slides_of(snapshot: dict[str, Any]) -> tuple[ReportedSlide, ...]:
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
    """Reports in the order of the ids; those of sediment are left out."""
    rows = session.execute(
        select(Specimen, Patient)
        .join(Patient, Patient.id == Specimen.patient_id)
        .where(Specimen.id.in_(specimen_ids), Specimen.modality == "histology")
    )
    records = {specimen.id: (specimen, patient) for specimen, patient in rows}
    signed, amendments = reports.signatures(session, list(records))
    found = []
    for key in specimen_ids:
        if key not in records:
            continue
        specimen, patient = records[key]
        if specimen.state == "signed":
            found.append(_as_signed(specimen, patient, *signed[key], amendments[key]))
        else:
            found.append(_as_it_stands(session, specimen, patient, amendments.get(key, 0)))
    return found


def _as_signed(specimen: Specimen, patient: Patient, sign_off: SignOff, by: str, amendments: int) -> SlideReport:
    kept = sign_off.report
    return SlideReport(
        **reports.identity(specimen, patient),
        analysis_id=kept["analysis_id"],
        model_key=kept["model_key"],
        weights_sha256=kept["weights_sha256"],
        code_version=kept["code_version"],
        limits=glomeruli.limits_from_json(kept["limits"]),
        slides=slides_of(kept),
        slides_total=kept["slides_total"],
        signature=reports.signature_of(sign_off, by),
        amendments=amendments,
    )


def _as_it_stands(session: Session, specimen: Specimen, patient: Patient, amendments: int) -> SlideReport:
    analysis = analyses.current(session, specimen.id)
    here = session.execute(
        select(Slide, StoredFile.sha256)
        .join(StoredFile, StoredFile.id == Slide.file_id)
        .where(Slide.specimen_id == specimen.id, Slide.withdrawn_at.is_(None))
        .order_by(Slide.position)
    ).all()
    limits = glomeruli.limits_of(analysis) if analysis else Limits()
    return SlideReport(
        **reports.identity(specimen, patient),
        analysis_id=analysis.id if analysis else None,
        model_key=analysis.model_key if analysis else None,
        weights_sha256=analysis.weights_sha256 if analysis else None,
        code_version=analysis.code_version if analysis else None,
        limits=limits,
        slides=_slides(session, analysis, [(slide, sha256) for slide, sha256 in here], limits) if analysis else (),
        slides_total=len(here),
        signature=None,
        amendments=amendments,
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
    for item in glomeruli.standing(session, analysis.id):
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
