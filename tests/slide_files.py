"""Small slides for the tests, drawn where they are asked for."""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from db import slides, uploads
from db.files import FileStore
from db.models import Upload
from db.slides import NewSlide
from db.uploads import Checked
from renalcore.histology.pyramid import write_pyramid
from renalcore.io.slide import open_slide
from tests.browser.records import user_of
from tests.renalcore.histology import discs
from tests.running_app import Person, RunningApp

WIDTH_PX, HEIGHT_PX = 2200, 1500
SQUARE_PX = 100
DISCS = ((300, 300, 100), (900, 370, 90), (1500, 360, 110), (400, 1000, 80), (1600, 1100, 150))
"""Centre x, centre y and radius of what the worker of `tests/fake_worker.py` finds on `a_section`."""


def squares(x_px: int, y_px: int, width_px: int, height_px: int) -> NDArray[np.uint8]:
    """A window of an endless chequer of pink and violet squares of 100 px."""
    columns, rows = np.arange(x_px, x_px + width_px) // SQUARE_PX, np.arange(y_px, y_px + height_px) // SQUARE_PX
    odd = (columns[None, :] + rows[:, None]) % 2 == 1
    return np.where(odd[..., None], np.uint8([120, 60, 150]), np.uint8([240, 200, 220])).astype(np.uint8)


def a_pyramid(path: Path, *, um_per_px: float | None = None) -> Path:
    """A pyramid TIFF of 2200 x 1500 px."""
    write_pyramid(path, width_px=WIDTH_PX, height_px=HEIGHT_PX, block=squares, um_per_px=um_per_px)
    return path


def a_section(path: Path, *, um_per_px: float | None = 0.5) -> Path:
    """A slide of 2200 x 1500 px: pale tissue with `DISCS`, on which `tests/fake_worker.py` finds glomeruli."""
    return discs.drawn(path, WIDTH_PX, HEIGHT_PX, DISCS, um_per_px=um_per_px)


@contextmanager
def unpacked_by_another(data: Path, sha256: str, so_far: bytes) -> Iterator[None]:
    """What a process looks like in the data folder while it unpacks a slide; at the end it is killed."""
    folder = data / "unpacked" / f"unfinished-{sha256}"
    folder.mkdir(parents=True)
    (folder / "000001").write_bytes(so_far)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def registered(
    app: RunningApp, by: Person, path: Path, *, um_per_px: float | None = None, packed: Path | None = None
) -> tuple[int, str]:
    """A slide of a specimen and a patient of its own, as an upload leaves it: its id and accession number.

    One of several files is stored as the archive `packed`.
    """
    with (packed or path).open("rb") as stream:
        sha256, size = FileStore(f"file://{app.data / 'files'}").put(stream)
    with open_slide(path) as slide:
        found = Checked(slide.format, slide.width_px, slide.height_px, slide.um_per_px, slide.objective, slide.flags)
    number = secrets.token_hex(4)
    user = user_of(app, by)
    with app.database() as session:
        upload = Upload(key=number, by_id=user.id, name=path.name, size_bytes=size, modified_ms=1)
        session.add(upload)
        session.flush()
        uploads.complete(session, upload, sha256, found)
        new = NewSlide(upload=upload, name="A1", stain="PAS", species="human", um_per_px=um_per_px)
        specimen = slides.register(
            session, identifier=f"P-{number}", patient_name="Anna Example", accession=f"K-{number}",
            collected_at=None, slides=[new], by=user,
        )  # fmt: skip
        uploads.discard(session, upload)
        return slides.of_specimen(session, specimen.id)[0].id, specimen.accession
