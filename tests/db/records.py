"""Records for the tests of `db`: pictures, detections and what the fixtures hand out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy import event
from sqlalchemy.orm import Session

from db.models import Analysis, Specimen, SpecimenField
from db.specimens import UploadedField
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
