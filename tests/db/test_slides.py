from __future__ import annotations

import hashlib
import io
import os
import time
from contextlib import AbstractContextManager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from alembic import command
from PIL import Image
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from db import audit, files, slide_list, slides, specimens, uploads, watched, worklist
from db.engine import alembic_config, engine_for, session_scope, upgrade
from db.files import FileStore, store
from db.models import Specimen, Upload, User
from db.slides import NewSlide
from db.uploads import Part
from renalcore.errors import Conflict, DamagedFile, InputError, NotFound, StorageError, StorageFull
from tests.db.records import Register

SECRET = "Maria Secret 1960.png"


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The data folder of the settings."""
    monkeypatch.setenv("RENAL_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def a_picture(seed: int = 0) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (80, 120, 3), np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def uploaded(session: Session, by: User, content: bytes, *, modified_ms: int = 1) -> Upload:
    """A complete upload, in two pieces."""
    upload = uploads.begin(session, name=f"C:\\scans\\{SECRET}", size=len(content), modified_ms=modified_ms, by=by)
    for piece in (content[:100], content[100:]):
        part = Part(upload, at=uploads.offset(upload))
        part.write(piece)
        part.close()
    part = Part(upload, at=len(content))
    uploads.complete(session, upload, *part.check())
    part.close()
    return upload


def new(upload: Upload, **said: Any) -> NewSlide:
    return NewSlide(**{"upload": upload, "name": "", "stain": "PAS", "species": "human", "um_per_px": None} | said)


def registered(session: Session, by: User, *new_slides: NewSlide, accession: str = "K-1") -> Specimen:
    with taken_over(session, by, *new_slides):
        return slides.register(
            session,
            identifier="H-1",
            patient_name=None,
            accession=accession,
            collected_at=None,
            slides=new_slides,
            by=by,
        )


def taken_over(session: Session, by: User, *new_slides: NewSlide) -> AbstractContextManager[None]:
    """A block that registers these slides, as the form does."""
    stored = {sha256: path for one in new_slides for sha256, path in uploads.file_of(one.upload).items()}
    return uploads.taken_over(session, stored, {one.upload.key for one in new_slides}, by=by)


def test_a_slide_is_registered_with_its_file_moved_and_without_its_files_name(
    session: Session, technologist: User, data: Path
) -> None:
    content = a_picture()
    upload = uploaded(session, technologist, content)
    arrived = uploads.part_of(upload).stat().st_ino
    specimen = registered(session, technologist, new(upload, name=" Block  A1 ", um_per_px=0.25))
    sha256 = hashlib.sha256(content).hexdigest()
    stored = data / "files" / sha256[:2] / sha256
    assert stored.stat().st_ino == arrived, "moved, not copied"
    assert store().local(sha256, copies=data) == stored
    (slide,) = slides.of_specimen(session, specimen.id)
    assert (slide.name, slide.format, slide.width_px, slide.height_px) == ("Block A1", "PNG", 120, 80)
    assert (slide.um_per_px, slide.scale_from, slide.stain) == (0.25, "person", "PAS")
    assert uploads.of_user(session, technologist) == []
    (event,) = audit.events(session, action="specimen.register")
    assert event.new["slides"][0]["sha256"] == sha256
    assert "Maria" not in str([event.new, slide.name, slide.flags])


def registered_but_not_committed(engine: sa.Engine, by: User, upload: Upload) -> None:
    """All statements pass, then the database refuses the commit or is gone."""
    with session_scope(engine) as session:
        registered(session, by, new(upload))
        if engine.dialect.name == "sqlite":
            session.execute(sa.text("PRAGMA defer_foreign_keys = ON"))
            session.add(Upload(key="f" * 32, by_id=10**6, name="of nobody", size_bytes=1, modified_ms=1))
            session.flush()
            return
        own = session.scalar(sa.text("SELECT pg_backend_pid()"))
        with engine.connect() as other:
            other.execute(sa.text("SELECT pg_terminate_backend(:own)"), {"own": own})


def test_a_registration_whose_commit_fails_can_be_made_again_and_leaves_no_file_for_longer_than_a_day(
    engine: sa.Engine, technologist: User
) -> None:
    with session_scope(engine) as session:
        upload = uploaded(session, technologist, a_picture())

    def swept() -> int:
        with session_scope(engine, read_only=True) as session:
            is_named = partial(specimens.has_file, session)
            return store().sweep(is_named=is_named, older_than=timedelta(seconds=-1))  # as if a day were over

    for _ in range(2):
        with pytest.raises((IntegrityError, StorageError)):
            registered_but_not_committed(engine, technologist, upload)
        assert list(store().names()) == [upload.sha256]
        assert uploads.part_of(upload).exists(), "nobody has to upload it again"
        assert swept() == 1
        assert list(store().names()) == []
    with session_scope(engine) as session:
        assert uploads.of_user(session, technologist) == [session.get_one(Upload, upload.id)]
        registered(session, technologist, new(upload))
    assert not uploads.part_of(upload).exists()
    assert swept() == 0
    assert store().read(upload.sha256) == a_picture()


def test_a_scale_is_never_guessed_and_only_a_person_corrects_a_persons(session: Session, technologist: User) -> None:
    specimen = registered(session, technologist, new(uploaded(session, technologist, a_picture())))
    (slide,) = slides.of_specimen(session, specimen.id)
    assert (slide.um_per_px, slide.scale_from, slide.name) == (None, None, "Slide 1")
    with pytest.raises(InputError, match=r"between 0\.02 and 50 µm per pixel"):
        slides.set_scale(session, slide.id, 250.0, by=technologist)
    slides.set_scale(session, slide.id, 0.5, by=technologist)
    assert (slide.um_per_px, slide.scale_from) == (0.5, "person")
    slide.scale_from = "file"
    with pytest.raises(Conflict, match="says its scale"):
        slides.set_scale(session, slide.id, 0.4, by=technologist)
    assert [event.new["um_per_px"] for event in audit.events(session, action="slide.set_scale")] == [0.5]


def test_slides_are_added_to_kidney_tissue_only_and_each_file_once(
    session: Session, technologist: User, register: Register
) -> None:
    specimen = registered(session, technologist, new(uploaded(session, technologist, a_picture())))
    second = uploaded(session, technologist, a_picture(2))
    with taken_over(session, technologist, new(second)):
        slides.add(session, specimen.id, [new(second, stain="H&E")], by=technologist)
    assert [slide.name for slide in slides.of_specimen(session, specimen.id)] == ["Slide 1", "Slide 2"]
    again = uploaded(session, technologist, a_picture(2), modified_ms=2)
    before = set(store().names())
    with pytest.raises(Conflict, match="in specimen K-1 already"), taken_over(session, technologist, new(again)):
        slides.add(session, specimen.id, [new(again)], by=technologist)
    another = new(uploaded(session, technologist, a_picture(3)))
    with pytest.raises(Conflict, match="K-1 is already registered"):
        registered(session, technologist, another)
    assert set(store().names()) == before, "what is refused leaves nothing in the store"
    assert slides.seen_before(session, str(again.sha256)) == ["K-1"]
    urine = register("A-1")
    with pytest.raises(Conflict, match="A-1 is no kidney tissue"):
        slides.add(session, urine.id, [new(again)], by=technologist)


def test_nobody_takes_what_another_uploads(session: Session, technologist: User, reviewer: User) -> None:
    upload = uploaded(session, technologist, a_picture())
    with pytest.raises(NotFound):
        uploads.get(session, upload.key, by=reviewer)


def test_a_specimen_of_histology_is_found_among_the_slides_and_not_in_the_worklist(
    session: Session, technologist: User, register: Register
) -> None:
    register("A-1")
    registered(session, technologist, new(uploaded(session, technologist, a_picture())))
    assert [row.accession for row in worklist.page(session).rows] == ["A-1"]
    assert worklist.state_counts(session)["waiting"] == 1
    page = slide_list.page(session, text="k-")
    assert (page.total, [row.accession for row in page.rows]) == (1, ["K-1"])
    assert slide_list.page(session, text="A-1").total == 0
    with pytest.raises(Conflict, match="K-1 is already registered"):
        register("K-1")


def test_a_piece_that_finds_the_disk_full_keeps_what_fitted(
    session: Session, technologist: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = uploads.begin(session, name="a", size=1000, modified_ms=1, by=technologist)
    part = Part(upload, at=0)
    part.close()
    with Path("/dev/full").open("r+b", buffering=0) as full:
        part._file = full
        with pytest.raises(StorageFull, match="What has arrived is kept"):
            part.write(b"x")
    monkeypatch.setattr(uploads, "SPARE_BYTES", 1 << 60)
    with pytest.raises(StorageFull, match="The disk has no room"):
        uploads.begin(session, name="b", size=1000, modified_ms=1, by=technologist)


def test_uploads_that_nobody_goes_on_with_are_removed_after_days(
    session: Session, technologist: User, data: Path
) -> None:
    young = uploads.begin(session, name="young", size=10, modified_ms=1, by=technologist)
    old = uploads.begin(session, name="old", size=10, modified_ms=1, by=technologist)
    stray = data / "uploads" / "stray.part"
    stray.write_bytes(b"left by a server that was killed")
    long_ago = time.time() - 8 * 86_400
    old.created_at -= timedelta(days=8)
    for path in (uploads.part_of(old), stray):
        os.utime(path, (long_ago, long_ago))
    assert uploads.sweep(session) == 2
    assert [upload.name for upload in uploads.of_user(session, technologist)] == ["young"]
    assert list((data / "uploads").iterdir()) == [uploads.part_of(young)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A watched folder with one slide in it, finished two minutes ago, and things that are none of its business."""
    folder = tmp_path / "scanner"
    (folder / "today").mkdir(parents=True)
    monkeypatch.setenv("RENAL_SLIDES", str(folder))
    outside = tmp_path / "outside.svs"
    (folder / "link.svs").symlink_to(outside)
    (folder / "linked").symlink_to(tmp_path)
    files = (folder / "today" / SECRET, folder / "growing.svs", folder / "notes.txt", folder / ".hidden.svs", outside)
    for path in files:
        path.write_bytes(a_picture())
    old = time.time() - 120
    for path in files:
        if path.name != "growing.svs":
            os.utime(path, (old, old))
    return folder


def test_a_slide_is_taken_from_the_watched_folder_and_offered_until_it_is_registered(
    session: Session, technologist: User, folder: Path
) -> None:
    (one,) = watched.waiting(session)
    assert one.name == f"today/{SECRET}", "links, hidden files, other kinds and what still grows are left out"
    upload = watched.begin(session, one.name, by=technologist)
    part = Part(upload, at=0)
    part.write(a_picture()[:100])  # a copy that was broken off
    part.close()
    assert watched.begin(session, one.name, by=technologist) is upload
    shares: list[float] = []
    uploads.complete(session, upload, *watched.copy(upload, one.name, progress=shares.append))
    assert shares == [1.0]
    assert watched.waiting(session) == []
    registered(session, technologist, new(upload))
    assert watched.waiting(session) == []
    assert (folder / "today" / SECRET).read_bytes() == a_picture(), "the scanner's own file stays"
    os.utime(folder / "today" / SECRET, (1e9, 1e9))
    assert len(watched.waiting(session)) == 1, "another file under the same name"


@pytest.mark.parametrize("name", ["../outside.svs", "link.svs", "linked/outside.svs", "/etc/hostname", "today", ""])
def test_nothing_outside_the_watched_folder_can_be_reached(
    session: Session, technologist: User, folder: Path, name: str
) -> None:
    with pytest.raises(NotFound, match="no such file"):
        watched.begin(session, name, by=technologist)


def test_a_store_elsewhere_gives_copies_to_read_from_and_keeps_as_many_as_have_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    distant = FileStore(f"memory://{tmp_path.name}")
    copies = tmp_path / "copies"
    names: list[str] = []
    for content in (b"the first", b"the second"):
        part = tmp_path / "part"
        part.write_bytes(content)
        names.append(hashlib.sha256(content).hexdigest())
        with distant.arriving({names[-1]: part}) as settle:
            settle()
        assert set(distant.names()) == set(names)
    assert distant.local(names[0], copies=copies).read_bytes() == b"the first"
    monkeypatch.setattr(files, "COPIES_BYTES", 12)
    assert distant.local(names[1], copies=copies).read_bytes() == b"the second"
    assert [path.name for path in copies.iterdir()] == [names[1]]
    with pytest.raises(NotFound):
        distant.local("0" * 64, copies=copies)
    (copies / names[1]).write_bytes(b"the sexond")
    with pytest.raises(DamagedFile):
        distant.local(names[1], copies=copies, verify=True)
    assert distant.local(names[1], copies=copies, verify=True).read_bytes() == b"the second", "fetched anew"


def test_the_migration_keeps_every_specimen_of_sediment_as_it_was(database_url: str) -> None:
    engine = engine_for(database_url)
    columns = "patient_id, accession, modality, objective, scale_kind, state, created_by_id, cutoff_table_id"
    row = "1, 'A-1', 'sediment', '40x', 'unknown', 'needs_review', 1, 1"
    with engine.begin() as connection:
        command.upgrade(alembic_config(connection), "0005")
        for table, names, values in (
            ("users", "username, full_name, role, is_active, failed_logins", "'tess', 'Tess', 'admin', true, 0"),
            ("patients", "identifier", "'H-1'"),
            ("cutoff_tables", "version, title, source, rows", "'ours', 'Ours', 'Us', '[]'"),
            ("specimens", columns, row),
            (
                "analyses",
                "specimen_id, model_key, weights_sha256, code_version, options, state, requested_by_id",
                "1, 'm', 'w', 'c', '{}', 'done', 1",
            ),
        ):
            statement = f"INSERT INTO {table} ({names}, created_at) VALUES ({values}, '2026-01-01 00:00:00')"
            connection.execute(sa.text(statement))
        before = connection.execute(sa.text(f"SELECT id, {columns} FROM specimens")).all()
    engine.dispose()
    upgrade(database_url)
    with engine.connect() as connection:
        assert connection.execute(sa.text(f"SELECT id, {columns} FROM specimens")).all() == before
        assert connection.execute(sa.text("SELECT specimen_id FROM analyses")).all() == [(1,)]
    row = row.replace("A-1", "A-2")
    for broken in (row.replace("'40x'", "NULL"), row.replace("'40x'", "'41x'"), row.replace("sediment", "urine")):
        statement = f"INSERT INTO specimens ({columns}, created_at) VALUES ({broken}, '2026-01-01 00:00:00')"
        with pytest.raises(IntegrityError, match="ck_specimens"), session_scope(engine) as session:
            session.execute(sa.text(statement))
    engine.dispose()
