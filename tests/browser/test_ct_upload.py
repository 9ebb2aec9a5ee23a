"""A CT study from the folder of a disc to the list of studies: dropped, chosen from, filled in, registered."""

from __future__ import annotations

import os
import re
import secrets
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import select

from db.models import Upload
from pages.routes.uploads import PIECE
from renalcore.io.volume import Volume
from tests.browser.conftest import drawn, expect, shoot, sign_in
from tests.browser.test_slides import fill
from tests.ct_files import body, ct_series, saved
from tests.ct_uploads import nifti
from tests.running_app import RunningApp

NAMED = {"PatientName": "Secret^Maria", "StudyDate": "20040229", "StudyTime": "0815", "AccessionNumber": "R-77"}
FOLDER = ".uploads input[webkitdirectory]"
FILES = ".uploads input[type=file]:not([webkitdirectory])"
DROP = """(place, [name, words]) => {
    const dropped = new DataTransfer();
    dropped.items.add(new File([words], name));
    place.dispatchEvent(new DragEvent("drop", { dataTransfer: dropped, bubbles: true, cancelable: true }));
}"""


def a_disc(folder: Path, number: str, *, brighter: int = 0) -> Path:
    """A disc with a scout view, two series in folders of their own, and what else lies on discs."""
    hu = body(12, 64, 72) + brighter
    named = {**NAMED, "PatientID": f"P-{number}"}
    saved(folder / "1", ct_series(hu[:1], series="1.1", number=1, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]))
    saved(folder / "portal", ct_series(hu, series="1.2", number=2, SeriesDescription="portal", **named))
    saved(folder / "late", ct_series(hu + 7, series="1.3", number=3, SeriesDescription="late 5 min", **named))
    (folder / "README.TXT").write_text("Open VIEWER.EXE")
    (folder / ".DS_Store").write_bytes(b"clutter")
    return folder


def test_a_disc_is_dropped_a_series_chosen_and_the_form_filled_in_from_its_headers(
    page: Any, web_app: RunningApp, tmp_path: Path
) -> None:
    number = secrets.token_hex(4)
    disc = a_disc(tmp_path / "Maria Secret 1960", number)
    sign_in(page, web_app, web_app.person(), "/new-ct")
    page.locator(".place").wait_for()
    shoot(page, "new-ct-empty")
    page.locator(".uploads").evaluate(DROP, ["letter.txt", "Dear colleague, " * 100])
    refused = page.locator(".uploads li", has_text="letter.txt").get_by_role("alert")  # read aloud when it comes
    expect(refused).to_contain_text("Text. Choose the DICOM")
    page.locator(FOLDER).set_input_files(disc)
    page.get_by_text("Maria Secret 1960 (26 files)", exact=True).wait_for()
    expect(page.get_by_text("late 5 min")).to_have_count(0)
    expect(page.get_by_text("portal venous · 12 slices of 72 × 64 px · 0.7 × 0.8 × 2.5 mm")).to_be_visible()
    expect(page.get_by_text("Series 1 (1 image) is left out: Only scout views")).to_be_visible()
    keeps = page.get_by_role(
        "checkbox", name="Keep names, numbers and dates in the stored files (otherwise they are removed)"
    )
    expect(keeps).not_to_be_checked()
    expect(
        page.get_by_text("Still missing: the patient number, the accession number, at least one scan.")
    ).to_be_visible()
    page.get_by_role("button", name="Fill in").click()
    expect(page.get_by_label("Patient number", exact=True)).to_have_value(f"P-{number}")
    expect(page.get_by_label("Patient name (optional)", exact=True)).to_have_value("Secret, Maria")
    fill(page, "Accession number", f"CT-{number}")
    page.get_by_text("Series 3", exact=True).click()
    expect(page.get_by_label("Name", exact=True)).to_have_value("excretory")
    drawn(page)
    fill(page, "Name", "late")
    register = page.get_by_role("button", name=re.compile("(Register|Analyse) 1 scan"))  # the latter with a model
    expect(register).to_be_enabled()
    shoot(page, "new-ct")
    register.click()
    page.get_by_text("1 scan registered").wait_for()
    page.get_by_role("button", name="All studies").click()
    row = page.locator(".rows tr", has_text=f"CT-{number}")
    expect(row).to_contain_text("late")
    expect(row).to_contain_text("29 Feb 2004 08:15")
    drawn(page)
    shoot(page, "ct-studies")
    log = web_app.log.read_text()
    assert "Maria" not in log
    assert number not in log

    page.goto(f"{web_app.url}/new-ct")
    page.locator(FOLDER).set_input_files(disc)
    page.get_by_text("Series 3", exact=True).wait_for()
    drawn(page)
    page.get_by_text("Series 3", exact=True).click()
    fill(page, "Patient number", "P-other")
    expect(page.get_by_text("The files name another patient number than P-other")).to_be_visible()
    fill(page, "Accession number", f"CT-{number}-2")
    register.click()
    expect(
        page.get_by_text(f"The same scan belongs to CT-{number}: check that it is the right patient")
    ).to_be_visible()
    again = page.get_by_text("Nothing was registered yet: a scan is here already.")
    expect(again).to_be_visible()
    drawn(page)
    page.get_by_text("Series 3", exact=True).click()
    expect(again).to_have_count(0)  # no scan that is ticked is here already
    drawn(page)
    page.get_by_text("Series 3", exact=True).click()
    expect(again).to_be_visible()
    drawn(page)
    page.locator(FOLDER).set_input_files(a_disc(tmp_path / "another", "nobody", brighter=1))
    page.get_by_text("another (26 files)", exact=True).wait_for()
    drawn(page)
    page.get_by_text("Series 2", exact=True).nth(1).click()
    expect(page.get_by_text("The files that are ticked name different patients.")).to_be_visible()
    expect(page.get_by_role("button", name=re.compile("(Register|Analyse) 2 scans"))).to_be_disabled()
    page.get_by_role("button", name="Discard").nth(1).click()
    expect(page.get_by_text("another (26 files)", exact=True)).to_have_count(0)
    drawn(page)
    register.click()
    page.get_by_text("1 scan registered").wait_for()


def test_another_patient_number_is_told_also_where_most_files_state_none(
    page: Any, web_app: RunningApp, tmp_path: Path
) -> None:
    hu = body(12, 64, 72)
    saved(tmp_path / "disc" / "portal", ct_series(hu, series="1.2", PatientName="Secret^Maria"))
    late = ct_series(hu[:8] + 7, series="1.3", PatientName="Secret^Maria", PatientID="P-late")
    saved(tmp_path / "disc" / "late", late)
    sign_in(page, web_app, web_app.person(), "/new-ct")
    page.locator(FOLDER).set_input_files(tmp_path / "disc")
    page.get_by_text("disc (20 files)", exact=True).wait_for()
    drawn(page)
    told = page.get_by_text("The files name another patient number than P-other")
    fill(page, "Patient number", "P-other")
    expect(told).to_be_visible()
    fill(page, "Patient number", "P-late")
    expect(told).to_have_count(0)


def test_of_several_scans_the_one_that_is_refused_is_named_and_no_bar_stays(
    page: Any, web_app: RunningApp, tmp_path: Path
) -> None:
    number = secrets.token_hex(4)
    hu = body(24, 64, 72)
    for name, numbers in (("scan.nii.gz", hu), ("labels.nii.gz", (hu > 0).astype(np.int16))):
        (tmp_path / name).write_bytes(nifti(Volume(numbers, np.diag([1.0, 1.0, 5.0, 1.0]))))
    sign_in(page, web_app, web_app.person(), "/new-ct")
    page.locator(FILES).set_input_files([tmp_path / "scan.nii.gz", tmp_path / "labels.nii.gz"])
    expect(page.get_by_role("checkbox", name="NIfTI volume", checked=True)).to_have_count(2)
    drawn(page)
    fill(page, "Patient number", f"P-{number}")
    fill(page, "Accession number", f"CT-{number}")
    page.get_by_role("button", name=re.compile("(Register|Analyse) 2 scans")).click()
    refused = page.locator("[data-testid=stAlert]")
    expect(refused).to_contain_text("labels.nii.gz: Its numbers are not Hounsfield units")
    expect(refused).to_contain_text("Nothing was registered.")
    drawn(page)
    expect(page.locator("[data-testid=stProgress]")).to_have_count(0)


def test_an_interrupted_study_goes_on_and_only_the_browser_knows_what_it_is_called(
    page: Any, web_app: RunningApp, tmp_path: Path
) -> None:
    study = tmp_path / "Maria Secret 1960.zip"
    with zipfile.ZipFile(study, "w") as archive:
        for path in saved(tmp_path / "series", ct_series(body(12, 64, 72))).iterdir():
            archive.write(path, path.name)
    os.utime(study, (1_700_000_000, 1_700_000_000))
    content = study.read_bytes()
    half = -(-len(content) // 2)
    sign_in(page, web_app, web_app.person())
    told = {"modality": "ct", "name": study.name, "size": len(content), "modified": 1_700_000_000_000}
    headers = {"origin": web_app.url, "content-type": PIECE, "upload-offset": "0"}
    key = page.request.post(f"{web_app.url}/uploads", data=told, headers={"origin": web_app.url}).json()["key"]
    page.request.patch(f"{web_app.url}/uploads/{key}", data=content[:half], headers=headers)

    page.goto(f"{web_app.url}/new-ct")
    interrupted = page.get_by_text("Interrupted: zip archive (50 % of")
    expect(interrupted).to_be_visible()
    page.locator(FILES).set_input_files(study)
    expect(page.get_by_text("Maria Secret 1960.zip", exact=True)).to_be_visible()
    expect(page.get_by_role("checkbox", name="Series 3")).to_be_checked()
    expect(interrupted).to_have_count(0)
    with web_app.database() as session:
        (there,) = session.scalars(select(Upload).where(Upload.modality == "ct", Upload.size_bytes == len(content)))
    assert (there.key, there.name) == (key, "zip archive")
    page.reload()
    expect(page.get_by_text("zip archive", exact=True)).to_be_visible()
    drawn(page)
    assert "Maria" not in page.content() + str(vars(there)) + web_app.log.read_text()
    page.get_by_role("button", name="Discard").click()
    expect(page.get_by_text("zip archive", exact=True)).to_have_count(0)
