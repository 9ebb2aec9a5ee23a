from __future__ import annotations

import contextlib
import io
import secrets
import shutil
import struct
import subprocess
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from db import analyses, specimens, workers
from db.files import FileStore
from db.specimens import UploadedField
from pages.components.analysis import MODEL, card_of
from tests.browser.conftest import drawn, expect, shoot, sign_in
from tests.browser.records import a_picture, scan, user_of
from tests.running_app import Person, RunningApp, make_app

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(card_of(MODEL) is None, reason=f"the weights of {MODEL} are not in renalcore/weights"),
]


@pytest.fixture(scope="module")
def technologist(web_app: RunningApp) -> Person:
    return web_app.person("technologist", "Tess Technologist")


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Two fields, the first one again under another name, a text that calls itself an image, and nothing at all."""
    contents = {
        "one.png": a_picture(seed=secrets.randbits(30)),
        "zwei Ödeme.png": a_picture(seed=secrets.randbits(30)),
        "notes.png": b"not a picture",
        "empty.jpg": b"",
    }
    contents["copy.png"] = contents["one.png"]
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    return [tmp_path / name for name in contents]


def test_what_is_being_typed_stays_when_a_worker_comes_and_its_absence_is_no_longer_told(
    page: Any, web_app: RunningApp, technologist: Person
) -> None:
    sign_in(page, web_app, technologist, "/new")
    expect(page.get_by_text("No worker is running")).to_be_visible()
    field = page.get_by_label("Accession number").element_handle()
    with web_app.database() as session:
        workers.beat(session, "bench", host="test", pid=1)
    scan(page, "H-78", "half a num")
    expect(page.get_by_text("No worker is running")).to_have_count(0)
    assert field.evaluate("input => input.isConnected")
    with web_app.database() as session:
        workers.stopped(session, "bench")


def test_a_field_that_is_clicked_before_the_form_takes_keys_can_be_typed_in(
    page: Any, web_app: RunningApp, technologist: Person
) -> None:
    # Keys without a pause, as those of a scan that began before the form was there, keep it from taking any.
    page.add_init_script("""
        setInterval(() => document.dispatchEvent(new KeyboardEvent("keydown", {key: "Shift"})), 20);
    """)
    sign_in(page, web_app, technologist, "/new")
    field = page.get_by_label("Accession number")
    field.wait_for()
    drawn(page)
    field.click()
    page.keyboard.type("S-1")
    expect(field).to_have_value("S-1")


def test_a_specimen_is_scanned_checked_and_sent_to_analysis(
    page: Any, web_app: RunningApp, technologist: Person, files: list[Path]
) -> None:
    accession = f"S-{secrets.token_hex(4)}"
    sign_in(page, web_app, technologist, "/new")
    scan(page, "H-77", accession)
    expect(page.get_by_label("Accession number")).to_have_value(accession)
    page.set_input_files("input[type=file]", [str(path) for path in files])
    table = page.locator("table.rc-table")
    expect(table).to_contain_text("the same picture as one.png")
    expect(table.get_by_text("Left out:")).to_have_count(3)
    page.get_by_role("button", name="Analyse 2 fields").click()
    page.get_by_text("2 fields registered").wait_for()
    with web_app.database() as session:
        specimen = specimens.by_accession(session, accession)
        assert specimen is not None
        fields = [field.name for field in specimens.fields(session, specimen.id)]
        asked = analyses.current(session, specimen.id)
    assert sorted(fields) == ["one.png", "zwei Ödeme.png"]
    assert asked is not None
    assert (asked.state, asked.model_key) == ("queued", MODEL)


def test_fields_are_added_to_a_specimen_that_is_already_registered(
    page: Any, web_app: RunningApp, technologist: Person, files: list[Path]
) -> None:
    accession = f"S-{secrets.token_hex(4)}"
    sign_in(page, web_app, technologist, "/new")
    scan(page, "H-78", accession)
    page.set_input_files("input[type=file]", [str(files[0])])
    page.get_by_role("button", name="Analyse 1 field").click()
    page.get_by_text("1 field registered").wait_for()
    scan(page, "H-78", accession)
    page.get_by_text(f"{accession} is already registered for patient H-78").wait_for()
    page.set_input_files("input[type=file]", [str(files[0]), str(files[1])])
    page.get_by_text("Add these fields to it").click()
    page.get_by_text("has this picture already").wait_for()
    page.get_by_role("button", name="Analyse 1 field").click()
    page.get_by_text("1 field added").wait_for()
    with web_app.database() as session:
        specimen = specimens.by_accession(session, accession)
        assert specimen is not None
        assert len(specimens.fields(session, specimen.id)) == 2


def png_bomb(side_px: int) -> bytes:
    """A sound PNG, white all over, of a few hundred kilobytes that unpack to gigabytes of pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side_px, side_px, 1, 0, 0, 0, 0)  # one bit a pixel, grey
    packer = zlib.compressobj(1)
    line = b"\0" + b"\xff" * (side_px // 8)
    body = b"".join(packer.compress(line) for _ in range(side_px)) + packer.flush()
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def encoded(kind: str, picture: Image.Image, **options: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def upload(page: Any, files: list[tuple[str, bytes]]) -> None:
    page.set_input_files(
        "input[type=file]",
        [{"name": name, "mimeType": "application/octet-stream", "buffer": content} for name, content in files],
    )


def test_bad_files_are_left_out_each_with_its_reason_and_the_good_ones_go_through(
    page: Any, web_app: RunningApp, technologist: Person
) -> None:
    good, other = (a_picture(seed=secrets.randbits(30)) for _ in range(2))
    picture = Image.open(io.BytesIO(good))
    deep = Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257)
    jpeg = encoded("JPEG", picture)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("../field.png", good)
    files = [
        ("good.png", good, "good"),
        ("notes.png", b"RBC 12, WBC 3\n", "this is text, not a picture; upload the picture itself"),
        ("cut.jpg", jpeg[: len(jpeg) // 2], "the picture is damaged, cut off"),
        ("empty.png", b"", "the file is empty (0 bytes)"),
        ("bomb.png", png_bomb(30_000), "the picture has 30000 x 30000 px, more than the 80 million"),
        ("deep.tif", encoded("TIFF", deep), "more than 8 bits a channel and was scaled down"),
        (
            "moving.gif",
            encoded("GIF", picture, save_all=True, append_images=[picture.rotate(90)]),
            "this is a GIF picture; save the field as JPEG",
        ),
        ("fields.zip", packed.getvalue(), "this is a zip archive; unpack it"),
        ("C:\\Fälle\\..\\Ünal Ç 3 – 尿.png", other, "good"),
        ("again.png", good, "the same picture as good.png"),
    ]
    accession = f"S-{secrets.token_hex(4)}"
    sign_in(page, web_app, technologist, "/new")
    scan(page, "H-80", accession)
    upload(page, [(name, content) for name, content, _ in files])
    page.get_by_text("7 fields left out, see the table").wait_for()
    lines = page.locator("table.rc-table tbody tr")
    expect(lines).to_have_count(len(files))
    for name, _, reason in files:
        shown = page.get_by_role("cell", name=name.rsplit("\\", 1)[-1], exact=True)
        expect(lines.filter(has=shown).locator("td").nth(4)).to_contain_text(reason)
    shoot(page, "new-bad-files")
    page.get_by_role("button", name="Analyse 3 fields").click()
    page.get_by_text("3 fields registered").wait_for()
    store = FileStore(f"file://{web_app.data / 'files'}")
    with web_app.database() as session:
        specimen = specimens.by_accession(session, accession)
        assert specimen is not None
        kept = {field.name: field for field in specimens.fields(session, specimen.id)}
        assert sorted(kept) == ["deep.tif", "good.png", "Ünal Ç 3 – 尿.png"]
        assert store.read(kept["good.png"].file.sha256) == good
        assert store.read(kept["Ünal Ç 3 – 尿.png"].file.sha256) == other
        assert [flag["code"] for flag in kept["deep.tif"].flags][:1] == ["reduced_depth"]


def test_an_accession_number_is_given_once_even_to_two_who_type_it_at_once(
    page: Any, web_app: RunningApp, technologist: Person
) -> None:
    accession, content = f"S-{secrets.token_hex(4)}", a_picture(seed=secrets.randbits(30))
    sign_in(page, web_app, technologist, "/new")
    scan(page, "H-81", accession)
    upload(page, [("mine.png", content)])
    analyse = page.get_by_role("button", name="Analyse 1 field")
    expect(analyse).to_be_enabled()
    drawn(page)
    with web_app.database() as session:  # a colleague is quicker, with another patient
        specimens.register(
            session,
            identifier="H-82",
            patient_name=None,
            accession=accession,
            objective="40x",
            scale_kind="unknown",
            um_per_px=None,
            collected_at=None,
            uploads=[UploadedField("theirs.png", secrets.token_hex(32), 1, "image/png", 64, 64)],
            by=user_of(web_app, technologist),
        )
    analyse.click()
    page.get_by_text(f"Accession number {accession} is already registered for patient H-82").first.wait_for()
    page.get_by_text("It belongs to another patient than the number you entered").wait_for()
    page.locator("button[disabled]", has_text="Analyse 1 field").wait_for()
    shoot(page, "new-accession-taken")
    page.get_by_label("Accession number").fill(f"{accession}-2")  # what was typed and uploaded is still there
    page.keyboard.press("Enter")
    expect(page.get_by_text("is already registered")).to_have_count(0)
    analyse.click()
    page.get_by_text("1 field registered").wait_for()
    with web_app.database() as session:
        names = [
            [field.name for field in specimens.fields(session, specimens.by_accession(session, number).id)]
            for number in (accession, f"{accession}-2")
        ]
    assert names == [["theirs.png"], ["mine.png"]]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of one megabyte."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounting = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(mounting, capture_output=True, check=False).returncode:
        pytest.skip("this machine lets no test mount a small disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_is_told_nothing_is_registered_and_nothing_typed_is_lost(
    page: Any, tmp_path: Path, small_disk: Path
) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(600_000))
    noise = np.random.default_rng(secrets.randbits(30)).integers(0, 255, (300, 400, 3), np.uint8)
    files = [("small.png", noise[:64, :64]), ("large.png", noise)]  # 12 KB and 360 KB, which cannot be squeezed
    app = make_app(tmp_path / "data", RENAL_WORKER="external", RENAL_FILES=f"file://{small_disk / 'files'}")
    try:
        app.start()
        sign_in(page, app, app.person(), "/new")
        scan(page, "H-83", "S-83")
        upload(page, [(name, encoded("PNG", Image.fromarray(pixels))) for name, pixels in files])
        analyse = page.get_by_role("button", name="Analyse 2 fields")
        expect(analyse).to_be_enabled()
        with (small_disk / "more").open("wb", buffering=0) as more, contextlib.suppress(OSError):
            while more.write(bytes(4096)):
                pass
        analyse.click()
        page.get_by_text("The file store is full: a file of at least 12").wait_for()
        page.get_by_text("Nothing was registered. Your entries are still here").wait_for()
        shoot(page, "new-full-disk")
        with app.database() as session:
            assert specimens.by_accession(session, "S-83") is None
        assert not [path for path in (small_disk / "files").rglob("*") if path.is_file()]
        ballast.unlink()
        analyse.click()
        page.get_by_text("2 fields registered").wait_for()
        with app.database() as session:
            specimen = specimens.by_accession(session, "S-83")
            assert specimen is not None
            assert len(specimens.fields(session, specimen.id)) == 2
    finally:
        app.stop()


def test_a_scan_that_began_before_the_form_was_there_is_left_out_whole(
    page: Any, web_app: RunningApp, technologist: Person
) -> None:
    sign_in(page, web_app, technologist)
    page.add_init_script(
        "window.scanner = setInterval(() => document.activeElement?.dispatchEvent("
        "new KeyboardEvent('keydown', {key: '7', bubbles: true, cancelable: true})), 20)"
    )
    page.goto(f"{web_app.url}/new")
    page.get_by_label("Patient number").wait_for()
    drawn(page)
    page.wait_for_timeout(1500)  # longer than the form waits for quiet
    assert page.evaluate("document.activeElement === document.body")  # so what is typed goes nowhere
    page.evaluate("clearInterval(window.scanner)")
    scan(page, "H-83", "S-83")
    expect(page.get_by_label("Patient number")).to_have_value("H-83")
    expect(page.get_by_label("Accession number")).to_have_value("S-83")


def test_a_scan_goes_to_the_first_empty_field_when_nothing_is_in_focus(
    page: Any, web_app: RunningApp, technologist: Person
) -> None:
    sign_in(page, web_app, technologist, "/new")
    scan(page, "H-84")
    page.locator("h1").click()
    page.evaluate("document.activeElement.blur()")
    page.keyboard.type("S-84")
    expect(page.get_by_label("Patient number")).to_have_value("H-84")
    expect(page.get_by_label("Accession number")).to_have_value("S-84")
