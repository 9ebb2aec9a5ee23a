"""What stands in a scan: relabelled and removed lesions, measured anew, undone, and refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import Engine, event
from sqlalchemy.orm import Session

from db import audit, ct_files, ct_findings, ct_reports
from db.ct_findings import Standing
from db.engine import now, session_scope
from db.models import CtCorrection, User
from renalcore.errors import Conflict, InputError, NotFound, UnreadableFile
from tests.ct_analysed import CYST, TUMOUR, Study, analysed, drawn, transplanted
from tests.renalcore.ct.bright import LEFT, RIGHT, body


@pytest.fixture(autouse=True)
def file_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RENAL_DATA", str(tmp_path))
    monkeypatch.setenv("RENAL_FILES", f"file://{tmp_path / 'files'}")


@pytest.fixture
def study(session: Session, technologist: User) -> Study:
    """Two kidneys, a tumour in the left one and a cyst in the right one; nothing is corrected."""
    return analysed(session, technologist)


def told(stands: Standing) -> list[tuple[str, str]]:
    return [(lesion.label, lesion.side) for lesion in stands.measures.lesions]


def test_a_lesion_that_is_relabelled_is_stored_and_measured_anew(
    session: Session, study: Study, technologist: User
) -> None:
    where = study.analysis.id, study.scan.id
    before = ct_findings.standing(session, *where)
    tumour, cyst = before.measures.lesions
    assert (told(before), before.corrections) == ([("tumour", "left"), ("cyst", "right")], ())
    after = ct_findings.relabel(session, *where, tumour.voxel, "cyst", by=technologist)
    assert after == ct_findings.standing(session, *where), "what is kept is what is told"
    assert told(after) == [("cyst", "left"), ("cyst", "right")]
    now_cyst = after.measures.lesions[0]
    assert (now_cyst.volume_ml, now_cyst.mean_hu, now_cyst.renal_r) == (tumour.volume_ml, tumour.mean_hu, None)
    assert after.words.endswith("Found in them: 2 cysts.")
    (said,) = after.corrections
    assert (said.action, said.was, said.label, said.by) == ("relabel", "tumour", "cyst", "Tess of the lab")
    expected = np.where(study.labels == 2, 3, study.labels)
    assert np.array_equal(ct_files.labels(after.labels_sha256), expected)
    assert ct_findings.relabel(session, *where, tumour.voxel, "cyst", by=technologist) == after, "it is that already"

    gone = ct_findings.remove(session, *where, cyst.voxel, by=technologist)
    assert (told(gone), gone.corrections[-1].label) == ([("cyst", "left")], "kidney")
    right, _ = gone.measures.kidneys
    assert right.kidney_ml == pytest.approx(before.measures.kidneys[0].kidney_ml + cyst.volume_ml)
    (trail,) = audit.events(session, action="lesion.remove")
    assert trail.new is not None
    assert (trail.old, trail.new["scan"], trail.new["voxel"], trail.new["label"]) == (
        {"label": "cyst", "labels_sha256": after.labels_sha256}, "Scan 1", list(cyst.voxel), "kidney",
    )  # fmt: skip
    assert len(audit.events(session, action="lesion.")) == 2
    assert audit.verify(session)


def test_a_lesion_is_by_hand_where_the_model_outlined_another_one_also_after_two_became_one(
    session: Session, technologist: User
) -> None:
    volume, labels = drawn()
    tumour = labels == 2
    tumour[:, :, : int(np.argwhere(tumour)[:, 2].max()) - 1] = False
    labels[tumour] = 3  # the two outermost columns of the tumour: a cyst that touches it
    study = analysed(session, technologist, [(volume, labels)])
    where = study.analysis.id, study.scan.id
    found = ct_findings.standing(session, *where)
    assert (told(found), found.by_hand) == ([("tumour", "left"), ("cyst", "right"), ("cyst", "left")], ())
    touching = found.measures.lesions[2].voxel
    merged = ct_findings.relabel(session, *where, touching, "tumour", by=technologist)
    assert told(merged) == [("tumour", "left"), ("cyst", "right")]
    assert touching not in [lesion.voxel for lesion in merged.measures.lesions], "it is not named by what was clicked"
    assert merged.by_hand == (1,), "the other cyst is as the model outlined it"
    reported = ct_reports.report(session, study.specimen.id).scans
    assert ct_reports.scans_of(ct_reports.to_json(ct_reports.report(session, study.specimen.id))) == reported
    assert reported[0].by_hand == (1,)
    assert ct_findings.undo_last(session, *where, by=technologist)
    assert ct_findings.standing(session, *where) == found


def test_everyone_undoes_what_they_did_last_unless_somebody_built_on_it(
    session: Session, study: Study, technologist: User, other_technologist: User
) -> None:
    where = study.analysis.id, study.scan.id
    found = ct_findings.standing(session, *where)
    tumour, cyst = (lesion.voxel for lesion in found.measures.lesions)
    assert not ct_findings.undo_last(session, *where, by=technologist)
    first = ct_findings.relabel(session, *where, tumour, "kidney", by=technologist)
    ct_findings.remove(session, *where, cyst, by=other_technologist)
    with pytest.raises(Conflict, match="Theo of the lab has corrected Scan 1 since you did"):
        ct_findings.undo_last(session, *where, by=technologist)
    assert ct_findings.undo_last(session, *where, by=other_technologist)
    assert ct_findings.standing(session, *where) == first
    assert not ct_findings.undo_last(session, *where, by=other_technologist), "his only one is undone"
    assert ct_findings.undo_last(session, *where, by=technologist)
    assert ct_findings.standing(session, *where) == found, "as the model left it"
    assert [row.action for row in session.query(CtCorrection).order_by(CtCorrection.id)] == [
        "relabel", "remove", "undo", "undo",
    ]  # fmt: skip
    trail = audit.events(session, action="lesion.undo")[0]
    assert (trail.old["label"], trail.new["label"]) == ("kidney", "tumour")


def test_a_kidney_that_is_none_goes_with_its_lesions_and_comes_back(
    session: Session, study: Study, technologist: User
) -> None:
    where = study.analysis.id, study.scan.id
    found = ct_findings.standing(session, *where)
    right, left = found.measures.kidneys
    seen = {"seen_sha256": found.labels_sha256, "by": technologist}
    gone = ct_findings.remove_kidney(session, *where, left.number, **seen)
    assert (told(gone), gone.words) == (
        [("cyst", "right")], "One kidney was found: right. Found in them: 1 cyst.",
    )  # fmt: skip
    assert [kidney.total_ml for kidney in gone.measures.kidneys] == [right.total_ml]
    of_right = np.arange(study.labels.shape[2]) < study.labels.shape[2] // 2  # columns run to the patient's left
    assert np.array_equal(ct_files.labels(gone.labels_sha256), study.labels * of_right)
    (said,) = gone.corrections
    assert (said.action, said.was, said.label, study.labels[said.voxel] > 0) == ("remove", "left kidney", None, True)
    with pytest.raises(Conflict, match=r"Scan 1 has changed meanwhile\. Look at its kidneys again"):
        ct_findings.remove_kidney(session, *where, right.number, **seen)
    with pytest.raises(InputError, match="Scan 1 has no kidney 2"):
        ct_findings.remove_kidney(session, *where, 2, seen_sha256=gone.labels_sha256, by=technologist)
    assert ct_findings.undo_last(session, *where, by=technologist)
    assert ct_findings.standing(session, *where) == found
    undone, removed = audit.events(session, action="kidney.")
    assert (removed.action, removed.old["label"]) == ("kidney.remove", "left kidney")
    assert (undone.action, undone.new["label"]) == ("kidney.undo", "left kidney")


def test_a_fused_kidney_that_is_none_goes_whole_and_comes_back_whole(session: Session, technologist: User) -> None:
    isthmus = ((5.0, 30.0, 0.0), (15.0, 15.0, 45.0))
    study = analysed(session, technologist, [body([RIGHT, LEFT, isthmus], tumours=[TUMOUR], cysts=[CYST])])
    where = study.analysis.id, study.scan.id
    found = ct_findings.standing(session, *where)
    assert [(half.side, half.place) for half in found.measures.kidneys] == [("right", "fused"), ("left", "fused")]
    gone = ct_findings.remove_kidney(session, *where, 2, seen_sha256=found.labels_sha256, by=technologist)
    assert (gone.measures.kidneys, told(gone), gone.words) == ((), [], "No kidney was found.")
    assert not ct_files.labels(gone.labels_sha256).any()
    assert gone.corrections[0].was == "fused kidney"
    assert ct_findings.undo_last(session, *where, by=technologist)
    assert ct_findings.standing(session, *where) == found
    undone, removed = audit.events(session, action="kidney.")
    assert (removed.action, removed.old["label"]) == ("kidney.remove", "fused kidney")
    assert (undone.action, undone.new["label"]) == ("kidney.undo", "fused kidney")


def test_a_transplant_that_is_none_is_not_told_as_the_native_kidney_of_its_side(
    session: Session, technologist: User
) -> None:
    study = analysed(session, technologist, [transplanted()])
    where = study.analysis.id, study.scan.id
    found = ct_findings.standing(session, *where)
    (low,) = (kidney for kidney in found.measures.kidneys if kidney.place == "pelvis")
    gone = ct_findings.remove_kidney(session, *where, low.number, seen_sha256=found.labels_sha256, by=technologist)
    assert [kidney.site for kidney in gone.measures.kidneys] == ["right", "left"]
    assert gone.corrections[0].was == "right pelvic kidney"


def test_of_two_corrections_at_one_moment_the_later_is_refused_and_the_first_stays(
    engine: Engine, technologist: User, other_technologist: User
) -> None:
    with session_scope(engine) as session:
        study = analysed(session, technologist)
    where = study.analysis.id, study.scan.id
    with session_scope(engine, read_only=True) as session:
        tumour, cyst = (lesion.voxel for lesion in ct_findings.standing(session, *where).measures.lesions)

    def corrects_meanwhile(*_: object) -> None:
        with session_scope(engine) as other:
            ct_findings.remove(other, *where, cyst, by=other_technologist)

    def corrects_later() -> None:
        with session_scope(engine) as session:
            event.listen(session, "after_transaction_create", corrects_meanwhile, once=True)  # it is measured by then
            ct_findings.relabel(session, *where, tumour, "cyst", by=technologist)

    with pytest.raises(Conflict, match=r"Scan 1 has changed meanwhile: Theo of the lab corrected it\. Reload the page"):
        corrects_later()
    with session_scope(engine) as session:
        assert told(ct_findings.relabel(session, *where, tumour, "cyst", by=technologist)) == [("cyst", "left")]


def test_what_cannot_be_corrected_says_why(session: Session, study: Study, technologist: User) -> None:
    where = study.analysis.id, study.scan.id
    tumour = ct_findings.standing(session, *where).measures.lesions[0].voxel
    for nowhere in ((0, 0, 0), (99, 0, 0), (-1, 2, 3), (1, 2), tuple(np.argwhere(study.labels == 1)[0])):
        with pytest.raises(InputError, match="No lesion of Scan 1 lies there"):
            ct_findings.remove(session, *where, nowhere, by=technologist)
    with pytest.raises(InputError, match="one of kidney, tumour, cyst, got 'stone'"):
        ct_findings.relabel(session, *where, tumour, "stone", by=technologist)  # type: ignore[arg-type]
    with pytest.raises(NotFound, match="Scan 99 does not belong to study CT-1"):
        ct_findings.remove(session, study.analysis.id, 99, tumour, by=technologist)
    with pytest.raises(UnreadableFile, match="holds no labels of one byte a voxel"):
        ct_files.labels(study.scan.image.sha256)
    study.specimen.state = "signed"
    session.flush()
    seen = ct_findings.standing(session, *where).labels_sha256
    for refused in (
        lambda: ct_findings.remove(session, *where, tumour, by=technologist),
        lambda: ct_findings.remove_kidney(session, *where, 1, seen_sha256=seen, by=technologist),
        lambda: ct_findings.undo_last(session, *where, by=technologist),
    ):
        with pytest.raises(Conflict, match=r"Study CT-1 is signed\. A reviewer must reopen it with a reason first"):
            refused()
    study.specimen.state = "needs_review"
    study.scan.withdrawn_at = now()
    session.flush()
    with pytest.raises(NotFound, match="Scan 1 was withdrawn from study CT-1"):
        ct_findings.remove(session, *where, tumour, by=technologist)
