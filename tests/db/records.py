"""Records for the tests of `db`: pictures, detections and what the fixtures hand out."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy import event, insert
from sqlalchemy.orm import Session

from db import analyses, patients, slides, specimens, uploads
from db.models import (
    Analysis,
    CtScan,
    GlomerulusFinding,
    Slide,
    SlideResult,
    Specimen,
    SpecimenField,
    Upload,
    User,
)
from db.slides import NewSlide
from db.specimens import UploadedField
from db.uploads import Checked
from renalcore.taxonomy import NAMES, class_id
from renalcore.types import Detections

MODEL = {"model_key": "sediment-multihead-n", "weights_sha256": "a" * 64, "code_version": "0.1.0"}


def a_picture(name: str, **changes: Any) -> UploadedField:
    """A checked picture whose content its name decides."""
    values = {
        "name": name,
        "sha256": hashlib.sha256(name.encode()).hexdigest(),
        "size": 1000,
        "media_type": "image/png",
        "width_px": 1000,
        "height_px": 800,
    }
    return UploadedField(**(values | changes))


def found(*items: tuple[str, float]) -> Detections:
    """Detections of these classes and scores, boxes of 40 px side by side."""
    if not items:
        return Detections.empty(NAMES)
    return Detections(
        np.array([[50 * i, 10, 50 * i + 40, 50] for i in range(len(items))], np.float32),
        np.array([score for _, score in items], np.float32),
        np.array([class_id(name) for name, _ in items]),
        NAMES,
    )


@dataclass(frozen=True)
class Analysed:
    """A specimen whose analysis is complete."""

    specimen: Specimen
    analysis: Analysis
    fields: list[SpecimenField]


Register = Callable[..., Specimen]
Analyse = Callable[..., Analysed]


@dataclass(frozen=True)
class Found:
    """A square glomerulus that the model found: its corner and its side in px."""

    x: int
    y: int
    side: int = 100
    score: float = 0.9
    cut: bool = False

    @property
    def outline(self) -> list[float]:
        return [float(value) for value in square(self.x, self.y, self.side)]


def square(x: int, y: int, side: int) -> list[int]:
    """Its outline as `x1, y1, x2, y2, ...`."""
    return [x, y, x + side, y, x + side, y + side, x, y + side]


def a_new_slide(
    session: Session, by: User, name: str, *, um_per_px: float | None = 0.5, width_px: int = 2000,
    height_px: int = 1000, sha256: str | None = None,
) -> NewSlide:  # fmt: skip
    """A slide of this name, uploaded and checked; its name decides its content where no digest is given."""
    upload = Upload(key=secrets.token_hex(8), by_id=by.id, name="a.svs", size_bytes=9, modified_ms=1)
    session.add(upload)
    session.flush()
    found = Checked("drawn", width_px, height_px, None, None, ())
    uploads.complete(session, upload, sha256 or hashlib.sha256(name.encode()).hexdigest(), found)
    return NewSlide(upload=upload, name=name, stain="PAS", species="human", um_per_px=um_per_px)


def a_specimen_of_slides(
    session: Session, by: User, names: Sequence[str], *, accession: str = "K-1", um_per_px: float | None = 0.5,
    width_px: int = 2000, height_px: int = 1000, files: Mapping[str, str] | None = None, **changes: Any,
) -> Specimen:  # fmt: skip
    """A specimen of histology of patient H-1, its slides uploaded and checked before; `files` has sha256 by name."""
    size = {"width_px": width_px, "height_px": height_px}
    new = [
        a_new_slide(session, by, name, um_per_px=um_per_px, **size, sha256=(files or {}).get(name)) for name in names
    ]
    values = {"identifier": "H-1", "patient_name": None, "accession": accession, "collected_at": None} | changes
    specimen = slides.register(session, **values, slides=new, by=by)
    for one in new:
        uploads.discard(session, one.upload)
    return specimen


def a_ct_study(
    session: Session, by: User, *names: str, accession: str = "C-1", images: Mapping[str, str] | None = None,
    shape: tuple[int, int, int] = (60, 60, 80), spacing_mm: tuple[float, float, float] = (5.0, 4.0, 4.0),
) -> Specimen:  # fmt: skip
    """A CT study of patient H-1 with scans of these names; `images` has the sha256 of their NIfTI files by name."""
    patient, _ = patients.found_or_new(session, "H-1", None)
    specimen = Specimen(patient_id=patient.id, accession=accession, modality="ct", created_by_id=by.id)
    slices, height_px, width_px = shape
    for position, name in enumerate(names):
        digests = hashlib.sha256(name.encode()).hexdigest(), (images or {}).get(name, "d" * 64)
        file, image = (specimens.stored_file(session, each, size=9, media_type="application/gzip") for each in digests)
        scan = CtScan(
            position=position, file=file, image=image, name=name, format="NIfTI", is_deidentified=True,
            slices=slices, height_px=height_px, width_px=width_px, spacing_mm=list(spacing_mm),
        )  # fmt: skip
        specimen.scans.append(scan)
    session.add(specimen)
    session.flush()
    return specimen


def searched(
    session: Session, by: User, found: Mapping[str, Sequence[Found]], *, tissue_px: float = 1e6,
    options: Mapping[str, Any] | None = None, **changes: Any,
) -> tuple[Specimen, Analysis, list[Slide]]:  # fmt: skip
    """A specimen of histology in which a model found these on its slides, given by their names; analysed."""
    specimen = a_specimen_of_slides(session, by, list(found), **changes)
    analysis = analyses.request(session, specimen, **MODEL, options=options or {}, by=by)
    analyses.start(session, analysis.id, device="cpu", worker="w1")
    for slide in specimen.slides:
        store_slide(session, analysis, slide, found[slide.name], tissue_px=tissue_px)
    analyses.finish(session, analysis.id)
    return specimen, analysis, list(specimen.slides)


def store_slide(
    session: Session, analysis: Analysis, slide: Slide, found: Sequence[Found], *, tissue_px: float = 1e6
) -> None:
    """The result of a slide, as its worker leaves it."""
    same = {"analysis_id": analysis.id, "slide_id": slide.id}
    result = SlideResult(**same, seconds=1.0, worker="w1", tissue_px=tissue_px, downsample=4.0)
    session.add(result)
    session.flush()
    rows = [
        same
        | {"slide_result_id": result.id, "score": one.score, "outline": one.outline}
        | {"area_px": float(one.side**2), "touches_edge": one.cut}
        for one in found
    ]
    if rows:
        session.execute(insert(GlomerulusFinding), rows)


@contextmanager
def statements(session: Session) -> Iterator[list[str]]:
    """The statements that run inside, without those that begin a transaction."""
    seen: list[str] = []

    def noted(_connection: object, _cursor: object, statement: str, *_rest: object) -> None:
        if not statement.startswith(("BEGIN", "PRAGMA")):
            seen.append(statement)

    engine = session.get_bind()
    event.listen(engine, "before_cursor_execute", noted)
    try:
        yield seen
    finally:
        event.remove(engine, "before_cursor_execute", noted)
