from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sqlalchemy.orm import Session

from db import demo, specimens, worklist
from db.files import FileStore
from db.models import User
from renalcore.errors import Conflict
from tests.db.records import Register


def test_an_empty_installation_gets_four_waiting_demo_patients(
    session: Session, tmp_path: Path, technologist: User
) -> None:
    store = FileStore(f"file://{tmp_path / 'files'}")
    seen: list[tuple[int, int]] = []
    loaded = demo.load_demo(
        session, store, by=technologist, fields_each=1, width_px=240, height_px=180,
        on_field=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    page = worklist.page(session, text="demo patient")
    assert [(row.patient_name, row.state, row.fields_total) for row in reversed(page.rows)] == [
        (f"Demo patient {number}", "waiting", 1) for number in (1, 2, 3, 4)
    ]
    (field,) = specimens.fields(session, loaded[0].id)
    picture = Image.open(io.BytesIO(store.read(field.file.sha256)))
    assert (picture.size, picture.mode) == ((240, 180), "RGB")
    assert np.asarray(picture).std() > 1  # something is to be seen
    with pytest.raises(Conflict, match="This installation has patients already"):
        demo.load_demo(session, store, by=technologist, fields_each=1, width_px=120, height_px=90)


def test_demo_patients_never_stand_among_real_ones(session: Session, register: Register, technologist: User) -> None:
    register("A-1")
    with pytest.raises(Conflict, match="Load them into an empty installation"):
        demo.register_demo(session, [], by=technologist)
