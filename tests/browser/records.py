"""Specimens for the tests in a browser: drawn fields whose cells lie where the findings say."""

from __future__ import annotations

import io
import secrets
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from db import analyses, specimens
from db.files import FileStore
from db.models import User
from db.specimens import UploadedField
from renalcore.taxonomy import NAMES, class_id
from renalcore.types import Detections
from tests.browser.conftest import drawn
from tests.running_app import Person, RunningApp

WIDTH_PX, HEIGHT_PX = 720, 576
THRESHOLD = 0.3
Found = tuple[str, float, tuple[int, int, int, int]]

THREE_CELLS: tuple[Found, ...] = (
    ("WBC", 0.9, (100, 100, 150, 150)),
    ("WBC", 0.6, (300, 120, 350, 170)),
    ("RBC", 0.8, (500, 400, 540, 440)),
)


@dataclass(frozen=True)
class Bench:
    """An analysed specimen of a patient of its own."""

    specimen_id: int
    analysis_id: int
    accession: str
    patient: str
    field_ids: tuple[int, ...]


def a_picture(found: tuple[Found, ...] = THREE_CELLS, *, seed: int = 0) -> bytes:
    """A grey field with noise, a dark ring for each finding, as PNG."""
    rng = np.random.default_rng(seed)
    field = Image.fromarray(rng.normal(190, 4, (HEIGHT_PX, WIDTH_PX, 3)).clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(field)
    for _, _, box in found:
        draw.ellipse(box, outline=(60, 60, 70), width=4)
    stream = io.BytesIO()
    field.save(stream, "PNG")
    return stream.getvalue()


def scan(page: Any, *numbers: str) -> None:
    """Types into the New specimen page as a bar-code scanner does: each number ends with Enter."""
    page.wait_for_function("() => document.activeElement?.closest('[class*=identifier]')")
    for number in numbers:
        page.keyboard.type(number)
        page.evaluate("window.scanned = document.activeElement")
        page.keyboard.press("Enter")
        page.wait_for_function("() => document.activeElement !== window.scanned")
    lacking = ("the accession number", "at least one field")[len(numbers) - 1 :]
    page.get_by_text(f"Still missing: {', '.join(lacking)}.", exact=True).wait_for()
    drawn(page)


def user_of(app: RunningApp, person: Person) -> User:
    """The account of a person, as the database functions want it."""
    with app.database() as session:
        return session.query(User).filter_by(username=person.username).one()


def analysed(app: RunningApp, by: Person, *fields: tuple[Found, ...], state: str = "done") -> Bench:
    """Registers a specimen with these fields and stores their findings as its analysis.

    Args:
        app: The app whose database it goes to.
        by: Who registers it.
        fields: What each field holds; three fields of three cells by default.
        state: `done`, `failed` after the first field, or `queued`.
    """
    contents = fields or (THREE_CELLS, THREE_CELLS, THREE_CELLS)
    user = user_of(app, by)
    number = secrets.token_hex(4)
    store = FileStore(f"file://{app.data / 'files'}")
    uploads = []
    for position, found in enumerate(contents):
        sha256, size = store.put(io.BytesIO(a_picture(found, seed=int(number, 16) % 2**31 + position)))
        uploads.append(UploadedField(f"field {position + 1}.png", sha256, size, "image/png", WIDTH_PX, HEIGHT_PX))
    with app.database() as session:
        specimen = specimens.register(
            session,
            identifier=f"P-{number}",
            patient_name="Anna Example",
            accession=f"A-{number}",
            objective="40x",
            scale_kind="whole_field",
            um_per_px=None,
            collected_at=None,
            uploads=uploads,
            by=user,
        )
        analysis = analyses.request(
            session,
            specimen,
            model_key="sediment-multihead-n",
            weights_sha256="a" * 64,
            code_version="0.1.0",
            options={"min_score": THRESHOLD},
            by=user,
        )
        field_ids = tuple(field.id for field in specimens.fields(session, specimen.id))
        if state != "queued":
            analyses.start(session, analysis.id, device="cpu", worker="test")
            for field_id, found in zip(field_ids, contents, strict=True):
                analyses.store_field(
                    session, analysis.id, field_id, detections=_detections(found), seconds=0.1, worker="test"
                )
                if state == "failed":
                    break
        if state == "done":
            analyses.finish(session, analysis.id)
        if state == "failed":
            analyses.fail(session, analysis.id, "Field 2 could not be read. Upload it again.")
        return Bench(specimen.id, analysis.id, specimen.accession, f"P-{number}", field_ids)


def _detections(found: tuple[Found, ...]) -> Detections:
    return Detections(
        np.array([box for _, _, box in found], np.float32).reshape(-1, 4),
        np.array([score for _, score, _ in found], np.float32),
        np.array([class_id(name) for name, _, _ in found], np.int64),
        NAMES,
    )


def wait_until(page: Any, wanted: dict[str, int]) -> None:
    """Waits until the report beside the picture shows these counts."""
    script = """wanted => {
        const lines = [...document.querySelectorAll('.st-key-review-side tr[data-class]')];
        const shown = Object.fromEntries(lines.map(line => [line.dataset.class, Number(line.children[1].innerText)]));
        const names = Object.keys(wanted);
        return names.length === Object.keys(shown).length && names.every(name => shown[name] === wanted[name]);
    }"""
    page.wait_for_function(script, arg=wanted)
