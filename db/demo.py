"""Demo patients for an empty installation: rendered fields, registered like any laboratory's own."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from db import specimens
from db.files import FileStore
from db.models import Patient, Specimen, User
from db.specimens import UploadedField
from renalcore.errors import Conflict

UM_PER_PX = 0.25
"""Scale of the demo fields, that of a 40x objective: a red cell of 7.5 um is 30 px across."""


@dataclass(frozen=True, slots=True)
class DemoPatient:
    """A patient who does not exist.

    Attributes:
        identifier: The hospital number.
        name: Such as "Demo patient 1".
        accession: The accession number of the only specimen.
        fields: Its rendered fields, in the file store already.
    """

    identifier: str
    name: str
    accession: str
    fields: tuple[UploadedField, ...]


def load_demo(
    session: Session,
    store: FileStore,
    *,
    by: User,
    fields_each: int = 3,
    width_px: int = 1200,
    height_px: int = 900,
    on_field: Callable[[int, int], None] | None = None,
) -> list[Specimen]:
    """Render four demo patients and register a specimen of each; the caller asks for their analyses.

    The pictures are rendered before the session is used, so that a database with one writer stays free meanwhile.

    Args:
        session: A session in which nothing was asked yet.
        store: Where the pictures go.
        by: Who loads them.
        fields_each: Fields of each patient.
        width_px: Width of a field.
        height_px: Height of a field.
        on_field: Told after each field how many are rendered, and of how many.

    Returns:
        The specimens, waiting.

    Raises:
        Conflict: The installation has patients already.
    """
    patients = render_demo(store, fields_each=fields_each, width_px=width_px, height_px=height_px, on_field=on_field)
    return register_demo(session, patients, by=by)


def render_demo(
    store: FileStore,
    *,
    fields_each: int = 3,
    width_px: int = 1200,
    height_px: int = 900,
    on_field: Callable[[int, int], None] | None = None,
) -> list[DemoPatient]:
    """Render the demo patients' fields into the file store; the same pictures every time. See `load_demo`."""
    import numpy as np
    from PIL import Image

    from renalcore.io.quality import judge
    from renalcore.sediment.synthetic import DEMO_RECIPES, render

    patients = []
    for number, recipe in enumerate(DEMO_RECIPES, start=1):
        fields = []
        for index in range(fields_each):
            pixels = render(
                width_px,
                height_px,
                rng=np.random.default_rng([number, index]),
                um_per_px=UM_PER_PX,
                recipe=recipe,
            ).pixels
            flags, disc = judge(pixels)
            png = io.BytesIO()
            Image.fromarray(pixels).save(png, "png", compress_level=1)  # five times as quick as 6, a tenth larger
            png.seek(0)
            sha256, size = store.put(png)
            fields.append(
                UploadedField(
                    name=f"demo-{number}-{index + 1}.png",
                    sha256=sha256,
                    size=size,
                    media_type="image/png",
                    width_px=width_px,
                    height_px=height_px,
                    flags=flags,
                    round_field=disc,
                )
            )
            if on_field is not None:
                on_field((number - 1) * fields_each + index + 1, len(DEMO_RECIPES) * fields_each)
        patients.append(DemoPatient(f"DEMO-{number}", f"Demo patient {number}", f"DEMO-{number:03}", tuple(fields)))
    return patients


def register_demo(session: Session, patients: list[DemoPatient], *, by: User) -> list[Specimen]:
    """Register rendered demo patients; raises `Conflict` as `load_demo` does."""
    if session.scalar(select(Patient.id).limit(1)) is not None:
        raise Conflict(
            "This installation has patients already, and demo patients must not stand among them. "
            "Load them into an empty installation."
        )
    return [
        specimens.register(
            session,
            identifier=patient.identifier,
            patient_name=patient.name,
            accession=patient.accession,
            objective="40x",
            scale_kind="um_per_px",
            um_per_px=UM_PER_PX,
            collected_at=None,
            uploads=patient.fields,
            by=by,
        )
        for patient in patients
    ]
