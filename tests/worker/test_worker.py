"""The durable worker, in processes of its own that are killed, paused and told to stop; only the model is a fake."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
import torch
from PIL import Image
from sqlalchemy import func, select

import worker
from db import analyses, heat_maps, queue, slide_searches, slides, specimens, workers
from db.engine import session_scope, upgrade
from db.files import FileStore
from db.heat_maps import Subject
from db.models import (
    Finding,
    GlomerulusFinding,
    HeatMap,
    Slide,
    SlideBlock,
    SlideResult,
    WorkerNode,
)
from db.specimens import UploadedField
from renalcore import models
from renalcore.sediment import card as cards
from renalcore.sediment import networks, retinanet
from renalcore.types import Detections
from tests.worker.laboratory import ROOT, WEIGHTS_SHA256, Laboratory

TAKEOVER_WITHIN_S = 60.0
SILENT_AFTER_S = 8.0  # here, so that nobody waits long for the silence to be noticed; 20 s at work


def test_a_worker_killed_in_the_middle_of_twenty_fields_goes_on_where_it_was(lab: Laboratory) -> None:
    analysis_id = lab.specimen(20)
    killed = lab.start("--seconds", "0.1")
    lab.until(lambda: lab.done() >= 7)
    killed.kill()
    killed.wait()
    done = lab.done()
    assert 7 <= done < 20
    assert lab.analysis(analysis_id).state == "running"

    lab.start()
    lab.until_all_ended(analysis_id)
    lab.assert_each_field_once(analysis_id)
    assert len(lab.calls()) == 20
    assert sum(lab.calls().values()) <= 21, "a kill costs at most one field"


def second_opinion(lab: Laboratory, *, fields: int, model_key: str, weights_sha256: str) -> int:
    """A specimen in which the first model found nothing, and the analysis of a second one, in the queue."""
    first_id = lab.specimen(fields, enqueue=False)
    with session_scope() as session:
        analyses.start(session, first_id, device="cpu", worker="the first")
        for each in analyses.pending_fields(session, first_id):
            analyses.store_field(
                session, first_id, each.id, detections=Detections.empty(("RBC",)), seconds=0.1, worker="the first"
            )
        analyses.finish(session, first_id)
        second = analyses.request_second(
            session, analyses.get(session, first_id).specimen, model_key=model_key, weights_sha256=weights_sha256,
            code_version="test", options={"min_score": 0.1}, by=lab.user,
        )  # fmt: skip
    queue.enqueue(second.id)
    return second.id


def test_a_second_opinion_goes_on_where_a_killed_worker_left_it(lab: Laboratory) -> None:
    analysis_id = second_opinion(lab, fields=8, model_key="another", weights_sha256=WEIGHTS_SHA256)
    killed = lab.start("--seconds", "0.3")
    lab.until(lambda: lab.done(analysis_id) >= 2)
    killed.kill()
    killed.wait()
    lab.start()
    lab.until_all_ended(analysis_id)
    lab.assert_each_field_once(analysis_id)
    assert sum(lab.calls().values()) <= 9, "a kill costs at most one field"


def test_the_worker_gives_the_second_opinion_of_whatever_model_is_installed(
    big_lab: Laboratory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RENAL_MODELS", str(big_lab.folder / "models"))
    monkeypatch.setenv("RENAL_DEVICE", "cpu")
    card = untrained_retinanet(big_lab.folder / "models")
    analysis_id = second_opinion(big_lab, fields=1, model_key=card.key, weights_sha256=card.sha256)
    big_lab.start_program(str(ROOT / "worker.py"))
    big_lab.until_all_ended(analysis_id, within_s=600)  # torch is loaded
    with session_scope(read_only=True) as session:
        second = analyses.get(session, analysis_id)
        assert (second.state, second.specimen.state) == ("done", "needs_review"), second.message
        counted = analyses.current(session, second.specimen_id)
        assert counted is not None
        assert (counted.model_key, big_lab.done(counted.id), big_lab.done(analysis_id)) == ("fake", 1, 1)
        found = session.execute(select(Finding.analysis_id, Finding.class_name).distinct()).all()
        assert [tuple(row) for row in found] == [(analysis_id, "Calcium oxalate")]


def untrained_retinanet(root: Path) -> models.ModelCard:
    """A folder of models with a RetinaNet of random weights, which finds something everywhere."""
    folder = root / "sediment-caox-retinanet"
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    network = retinanet.build("resnet18")
    torch.nn.init.zeros_(network.head.classification_head.cls_logits.bias)
    weights = folder / f"{folder.name}.safetensors"
    networks.save_weights(network, weights)
    card = cards.unmeasured(
        folder.name, weights, title="t", architecture="a", scale="resnet18", training_data=(),
        classes=("Calcium oxalate",), network="retinanet",
    )  # fmt: skip
    models.write_card(card, folder)
    return card


def test_two_workers_share_two_hundred_fields_and_search_each_once(big_lab: Laboratory) -> None:
    ids = [big_lab.specimen(10) for _ in range(20)]
    big_lab.start("--name", "anna")
    big_lab.start("--name", "bert")
    big_lab.until_all_ended(*ids)
    big_lab.assert_each_field_once(*ids)
    assert sorted(big_lab.calls().values()) == [1] * 200
    assert set(big_lab.searched_by()) == {"anna", "bert"}


def test_what_a_worker_killed_for_good_was_doing_is_taken_over_by_the_other_within_a_minute(
    big_lab: Laboratory,
) -> None:
    ids = [big_lab.specimen(10) for _ in range(12)]
    killed = big_lab.start("--name", "anna", "--seconds", "0.1", "--silent-after", str(SILENT_AFTER_S))
    big_lab.start("--name", "bert", "--seconds", "0.1", "--silent-after", str(SILENT_AFTER_S))
    big_lab.until(lambda: big_lab.done() >= 30 and big_lab.in_the_middle("anna"))
    killed.kill()
    killed.wait()
    took = big_lab.until(lambda: "taken over" in big_lab.log())
    assert took + workers.SILENT_AFTER_S + workers.BEAT_S - SILENT_AFTER_S < TAKEOVER_WITHIN_S
    big_lab.until_all_ended(*ids)
    big_lab.assert_each_field_once(*ids)
    assert sum(big_lab.calls().values()) <= 120 + 2, "a kill costs at most the field of each specimen in hand"


def test_a_worker_that_was_only_paused_does_nothing_twice_when_it_wakes(big_lab: Laboratory) -> None:
    analysis_id = big_lab.specimen(14)
    paused = big_lab.start("--name", "anna", "--seconds", "1", "--silent-after", str(SILENT_AFTER_S))
    big_lab.until(lambda: len(big_lab.calls()) >= 3)  # the model is at work, so that no transaction stands open
    paused.send_signal(signal.SIGSTOP)
    big_lab.start("--name", "bert", "--seconds", "0.3", "--silent-after", str(SILENT_AFTER_S))
    big_lab.until(lambda: big_lab.searched_by()["bert"] >= 3)
    paused.send_signal(signal.SIGCONT)
    big_lab.until_all_ended(analysis_id)
    big_lab.assert_each_field_once(analysis_id)
    assert sum(big_lab.calls().values()) <= 14 + 2, "the field at which it was paused, and the one at which it woke"
    paused.terminate()
    assert paused.wait(timeout=120) == 0, "and still ends in good order"


def test_a_cancelled_analysis_stops_before_its_next_field_and_keeps_what_it_has(lab: Laboratory) -> None:
    analysis_id = lab.specimen(40)
    lab.start("--seconds", "0.1", "--concurrency", "1")
    lab.until(lambda: lab.done() >= 3)
    with session_scope() as session:
        workflow_id = analyses.cancel(session, analysis_id, by=lab.user).workflow_id
    queue.cancel(workflow_id)
    next_one = lab.specimen(2)  # the worker is free for it
    lab.until_all_ended(next_one)
    lab.assert_each_field_once(next_one)
    cancelled = lab.analysis(analysis_id)
    assert (cancelled.state, cancelled.specimen_id) == ("cancelled", 1)
    assert 3 <= lab.done(analysis_id) <= 5
    assert cancelled.message == "Cancelled by Tess Technologist."


def test_a_model_that_fails_is_tried_three_times_and_the_analysis_can_be_retried(lab: Laboratory) -> None:
    broken = lab.folder / "model is broken"
    broken.touch()
    analysis_id = lab.specimen(2)
    lab.start("--fail-while", str(broken))
    lab.until_all_ended(analysis_id)
    failed = lab.analysis(analysis_id)
    assert failed.state == "failed"
    assert failed.message == (
        "2 of 2 fields could not be searched. "
        "S-1 field 0.png: the search failed 3 times (RuntimeError). Tell your administrator, who finds the reason in "
        "the worker's log. "
        "S-1 field 1.png: the search failed 3 times (RuntimeError). Tell your administrator, who finds the reason in "
        "the worker's log."
    )
    assert lab.calls() == {"S-1 field 0.png": 3, "S-1 field 1.png": 3}

    broken.unlink()
    with session_scope() as session:
        analyses.retry(session, analysis_id, by=lab.user)
    queue.enqueue(analysis_id)
    lab.until_all_ended(analysis_id)
    lab.assert_each_field_once(analysis_id)
    assert lab.calls() == {"S-1 field 0.png": 4, "S-1 field 1.png": 4}


def test_a_field_that_cannot_be_read_fails_the_analysis_after_the_others_are_done(lab: Laboratory) -> None:
    analysis_id = lab.specimen(4, broken=(1,))
    lab.start()
    lab.until_all_ended(analysis_id)
    failed = lab.analysis(analysis_id)
    assert failed.state == "failed"
    assert failed.message is not None
    assert failed.message.startswith("1 of 4 fields could not be searched. S-1 field 1.png")
    assert failed.message.endswith("The other 3 of 4 fields are done and kept.")
    assert lab.done(analysis_id) == 3
    assert set(lab.calls().values()) == {1}, "what cannot be read is not tried again"


def test_a_picture_missing_from_the_file_store_is_named(lab: Laboratory) -> None:
    analysis_id = lab.specimen(2)
    for path in (lab.folder / "files").rglob("*"):
        if path.is_file():
            path.unlink()
            break
    lab.start()
    lab.until_all_ended(analysis_id)
    message = lab.analysis(analysis_id).message
    assert message is not None
    assert "its picture is missing from the file store. Ask IT to restore it, or withdraw the field." in message
    assert lab.done(analysis_id) == 1


def test_a_damaged_field_stops_no_other_and_once_withdrawn_the_analysis_completes(lab: Laboratory) -> None:
    analysis_id = lab.specimen(3)
    stored = next(path for path in sorted((lab.folder / "files").rglob("*")) if path.is_file())
    stored.write_bytes(stored.read_bytes()[:-1] + b"!")
    lab.start()
    lab.until_all_ended(analysis_id)
    message = lab.analysis(analysis_id).message
    assert message is not None
    assert (
        "its picture was damaged or altered in the file store. Ask IT to restore it, or withdraw the field." in message
    )
    assert lab.done(analysis_id) == 2
    with session_scope() as session:
        (damaged,) = analyses.pending_fields(session, analysis_id)
        specimens.withdraw_field(session, damaged.id, by=lab.user, reason="its file is damaged")
        analyses.retry(session, analysis_id, lab.user)
    queue.enqueue(analysis_id)
    lab.until_all_ended(analysis_id)
    assert lab.analysis(analysis_id).state == "done"
    assert set(lab.calls().values()) == {1}, "the two good fields kept what they had"


def test_a_model_that_cannot_be_loaded_fails_the_analysis_with_the_reason(lab: Laboratory) -> None:
    analysis_id = lab.specimen(3)
    lab.start("--no-model")
    lab.until_all_ended(analysis_id)
    assert lab.analysis(analysis_id).message == "The weights of fake are missing. Ask IT to install them again."


def test_an_analysis_asked_for_with_other_weights_is_not_run_with_these(lab: Laboratory) -> None:
    analysis_id = lab.specimen(3)
    with session_scope() as session:
        analyses.get(session, analysis_id).weights_sha256 = "a" * 64
    lab.start()
    lab.until_all_ended(analysis_id)
    assert lab.analysis(analysis_id).message == (
        "The analysis was asked for with other weights of fake (aaaaaaaaaaaa) than this worker has (ffffffffffff). "
        "Cancel it and ask for a new analysis."
    )
    assert lab.calls() == {}


def test_a_double_click_enqueues_once(lab: Laboratory) -> None:
    analysis_id = lab.specimen(3)
    assert queue.enqueue(analysis_id) == queue.enqueue(analysis_id) == lab.analysis(analysis_id).workflow_id
    lab.start()
    lab.until_all_ended(analysis_id)
    lab.assert_each_field_once(analysis_id)
    assert set(lab.calls().values()) == {1}


def test_an_analysis_asked_for_by_a_web_process_that_died_before_it_reached_the_queue_is_done(
    lab: Laboratory,
) -> None:
    analysis_id = lab.specimen(3, enqueue=False)
    lab.start()
    lab.until_all_ended(analysis_id)
    lab.assert_each_field_once(analysis_id)
    assert "put back into the queue analysis=1" in lab.log()


def test_a_record_restored_from_a_backup_is_worked_on_again_although_the_queue_thinks_it_done(
    lab: Laboratory,
) -> None:
    analysis_id = lab.specimen(3)
    lab.start()
    lab.until_all_ended(analysis_id)
    with session_scope() as session:  # as it was in a backup of a minute ago
        analysis = analyses.get(session, analysis_id)
        analysis.state, analysis.specimen.state, analysis.finished_at = "running", "running", None
    lab.until_all_ended(analysis_id)
    lab.assert_each_field_once(analysis_id)


def test_a_worker_told_to_stop_finishes_its_field_and_hands_the_rest_back(lab: Laboratory) -> None:
    analysis_id = lab.specimen(20)
    told = lab.start("--seconds", "0.2", "--name", "anna")
    lab.until(lambda: lab.done() >= 3)
    told.terminate()
    assert told.wait(timeout=120) == 0
    done = lab.done()
    assert 3 <= done < 20
    assert sum(lab.calls().values()) == done, "no field was begun and lost"
    with session_scope(read_only=True) as session:
        assert session.scalars(select(WorkerNode)).one().stopped_at is not None
    assert lab.analysis(analysis_id).state == "running"

    lab.start("--name", "bert")
    lab.until_all_ended(analysis_id)
    lab.assert_each_field_once(analysis_id)
    assert set(lab.calls().values()) == {1}


def test_an_embedded_worker_ends_when_its_parent_is_gone(lab: Laboratory) -> None:
    parent = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    lab.processes.append(parent)
    worker = lab.start("--parent", str(parent.pid))
    lab.until(lambda: "worker ready" in lab.log())
    parent.kill()
    parent.wait()
    assert worker.wait(timeout=120) == 0
    assert "parent gone" in lab.log()


def test_an_analysis_that_kills_one_worker_after_the_other_is_given_up(lab: Laboratory) -> None:
    analysis_id = lab.specimen(3)
    for _ in range(queue.MAX_TAKEOVERS + 1):
        assert lab.start("--die-at", "S-1 field 1.png").wait(timeout=120) == 9
    survivor = lab.start("--die-at", "S-1 field 1.png")
    lab.until_all_ended(analysis_id)
    failed = lab.analysis(analysis_id)
    assert failed.state == "failed"
    assert failed.message is not None
    assert failed.message.startswith("The worker ended unexpectedly 3 times at the same place.")
    assert lab.calls()["S-1 field 1.png"] == queue.MAX_TAKEOVERS + 1
    assert survivor.poll() is None
    others = lab.specimen(2)
    lab.until_all_ended(others)
    lab.assert_each_field_once(others)


def test_what_kills_a_worker_that_always_comes_back_under_its_name_is_given_up_too(lab: Laboratory) -> None:
    """As a container that is started anew has the host name and mostly the process id of the one before."""
    analysis_id = lab.specimen(3)
    same = ("--name", "container", "--die-at", "S-1 field 1.png")
    for _ in range(queue.MAX_TAKEOVERS + 1):
        assert lab.start(*same).wait(timeout=120) == 9
    survivor = lab.start(*same)
    lab.until_all_ended(analysis_id, within_s=60)
    assert str(lab.analysis(analysis_id).message).startswith("The worker ended unexpectedly 3 times")
    assert lab.calls()["S-1 field 1.png"] == queue.MAX_TAKEOVERS + 1
    assert survivor.poll() is None


def test_the_heat_map_that_a_killed_worker_was_drawing_is_drawn_by_the_next_and_a_failure_is_told(
    lab: Laboratory,
) -> None:
    analysis_id = lab.specimen(2)
    first = lab.start("--die-at", "heat of S-1 field 0.png")
    lab.until_all_ended(analysis_id)
    ids = []
    with session_scope() as session:
        for field_row in specimens.fields(session, lab.analysis(analysis_id).specimen_id):
            of_class = Subject(field_row.id, analysis_id=analysis_id, class_name="RBC")
            ids.append(heat_maps.ask(session, of_class).id)
            lost = field_row.file.sha256
    (lab.folder / "files" / lost[:2] / lost).unlink()
    for heat_map_id in ids:
        queue.enqueue(heat_map_id, queue.HEAT_MAP)
    assert first.wait(timeout=180) == 9
    lab.start()

    def states() -> list[str]:
        with session_scope(read_only=True) as session:
            return [session.get_one(HeatMap, heat_map_id).state for heat_map_id in ids]

    lab.until(lambda: "waiting" not in states())
    assert states() == ["done", "failed"]
    assert lab.calls()["heat of S-1 field 0.png"] == 2
    assert "taken over heat_map=1" in lab.log()
    with session_scope(read_only=True) as session:
        drawn, failed = (session.get_one(HeatMap, heat_map_id) for heat_map_id in ids)
        assert FileStore(os.environ["RENAL_FILES"]).read(drawn.file.sha256) == b"\x01"  # one box
        assert failed.message is not None
        assert failed.message.startswith("S-1 field 1.png: its picture is missing from the file store.")


@pytest.mark.parametrize("laboratory", ["lab", pytest.param("big_lab", marks=pytest.mark.postgres)])
def test_a_worker_killed_in_the_middle_of_a_slide_goes_on_at_its_next_block(
    laboratory: str, request: pytest.FixtureRequest
) -> None:
    lab: Laboratory = request.getfixturevalue(laboratory)
    analysis_id = lab.kidney("A1", "A2")
    killed = lab.start("--name", "anna", "--seconds", "0.3")
    lab.until(lambda: lab.blocks_done() >= 7)
    killed.kill()
    killed.wait()
    done = lab.blocks_done()
    with session_scope(read_only=True) as session:
        tiles = analyses.progress(session, analysis_id)
        total = session.scalar(select(func.count()).select_from(SlideBlock))
    assert lab.analysis(analysis_id).state == "running"
    assert 0 < tiles.done < tiles.total
    assert 7 <= done < total == 2 * 5

    lab.start("--name", "anna")  # started again: it knows its own
    lab.until_all_ended(analysis_id)
    analysis = lab.analysis(analysis_id)
    assert (analysis.state, analysis.message) == ("done", ""), lab.log()
    assert lab.glomeruli(analysis_id) == {"A1": 3, "A2": 3}
    calls = lab.calls()
    assert sum(calls.values()) <= 2 + 10 + 1, "two plans, ten blocks; a kill costs at most one of them"
    assert len(calls) == 2 + 10
    with session_scope(read_only=True) as session:
        assert session.scalar(select(func.count()).where(SlideBlock.content.is_not(None))) == 0
        centres = sorted(
            tuple(np.array(row.outline).reshape(-1, 2).mean(axis=0).round(-2).tolist())
            for row in session.scalars(select(GlomerulusFinding).where(GlomerulusFinding.slide_id == 1))
        )
    assert centres == [(300, 300), (400, 1500), (900, 400)]


def test_a_slide_that_cannot_be_searched_stops_no_other_and_is_named(lab: Laboratory) -> None:
    analysis_id = lab.kidney("A1", "A2", "A3")
    missing, damaged, _ = lab.slides_of(analysis_id)
    lab.stored(missing).unlink()
    lab.stored(damaged).write_bytes(lab.stored(damaged).read_bytes()[:-1] + b"!")
    glass = lab.kidney("B1", tissue=False)
    lab.start()
    lab.until_all_ended(analysis_id, glass)
    failed = lab.analysis(analysis_id)
    assert failed.state == "failed"
    assert failed.message == (
        "2 of 3 slides could not be searched. "
        "A1: its file is missing from the file store. Ask IT to restore it, or withdraw the slide. "
        "A2: its file was damaged or altered in the file store. Ask IT to restore it, or withdraw the slide. "
        "The other 1 of 3 slides are done and kept."
    )
    assert lab.glomeruli(analysis_id) == {"A3": 3}
    assert (lab.analysis(glass).state, lab.glomeruli(glass)) == ("done", {"B1": 0}), "none is a result"

    with session_scope() as session:
        for one in (missing, damaged):
            session.get_one(Slide, one.id).withdrawn_at = datetime.now(UTC)
        analyses.retry(session, analysis_id, lab.user)
    queue.enqueue(analysis_id)
    lab.until_all_ended(analysis_id)
    assert lab.analysis(analysis_id).state == "done"
    assert max(lab.calls().values()) == 1, "what was done is kept"


def test_what_people_do_to_a_slide_while_it_is_searched_holds_from_its_next_block_on(lab: Laboratory) -> None:
    searched = lab.kidney("A1", "A2")
    with session_scope() as session:
        session.get_one(Slide, lab.slides_of(searched)[0].id).species = "mouse"
    worker = lab.start("--seconds", "0.3", "--concurrency", "1")
    lab.until(lambda: lab.blocks_done() >= 1)
    with session_scope() as session:
        slides.set_scale(session, lab.slides_of(searched)[0].id, 0.25 * 75 / 200, by=lab.user)
        session.get_one(Slide, lab.slides_of(searched)[1].id).withdrawn_at = datetime.now(UTC)
    lab.until_all_ended(searched)
    with session_scope(read_only=True) as session:
        expected = 2.0 / 0.25  # begun anew, with the glomeruli of a mouse shown as large as those of people
        assert [row.downsample for row in session.scalars(select(SlideResult))] == [expected]
    assert lab.analysis(searched).state == "done"
    assert [call for call in lab.calls() if call.endswith("A2")] == ["plan of A2"], "withdrawn, so never searched"

    cancelled = lab.kidney("C1")
    lab.until(lambda: lab.calls()["row 0 of C1"] == 1)
    with session_scope() as session:
        workflow_id = analyses.cancel(session, cancelled, by=lab.user).workflow_id
    queue.cancel(workflow_id)
    going_on = lab.kidney("D1")  # the worker is free for it
    lab.until(lambda: lab.calls()["row 1 of D1"] == 1)
    assert lab.calls()["row 2 of C1"] == 0
    worker.terminate()
    assert worker.wait(timeout=120) == 0, "told to stop, it ends in good order"
    with session_scope(read_only=True) as session:
        begun = [call for call in lab.calls() if call.startswith("row") and call.endswith("D1")]
        left = slide_searches.pending_blocks(session, going_on, lab.slides_of(going_on)[0].id)
        assert len(begun) + len(left) == 5, "no block was begun and lost"
    assert lab.analysis(going_on).state == "running"
    assert {call for call, times in lab.calls().items() if times > 1} == {"plan of A1", "row 0 of A1"}


def test_a_name_that_is_in_use_is_refused(lab: Laboratory) -> None:
    lab.start("--name", "anna")
    lab.until(lambda: "worker ready" in lab.log())
    second = lab.start("--name", "anna")
    assert second.wait(timeout=120) == 1
    assert "A worker named anna is at work on" in lab.log()


def test_the_log_names_neither_patients_nor_files(lab: Laboratory) -> None:
    broken = lab.folder / "model is broken"
    broken.touch()
    ids = lab.specimen(2, broken=(0,)), lab.specimen(1)
    lab.start("--fail-while", str(broken))
    lab.until_all_ended(*ids)
    log = lab.log()
    for word in ("Ada", "Example", "P-1", "field 0.png", "field 1.png"):
        assert word not in log
    lines = log.splitlines()
    assert [line for line in lines if line[:4] != f"{datetime.now(UTC).year}"] == [], "one line an event"
    assert any("attempt failed analysis=2 field=3 attempt=3 error=RuntimeError(the fake fails on (field))" in line
               for line in lines)  # fmt: skip


def test_a_worker_is_alive_while_it_reports_silent_when_it_does_not_and_neither_once_it_stopped(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", database_url)
    upgrade(database_url)
    with session_scope() as session:
        for name in ("anna", "bert", "cora", "dora"):
            workers.beat(session, name, host="bench", pid=1)
        workers.beat(session, "anna", host="bench", pid=1, device="CPU")
        bert = session.scalars(select(WorkerNode).where(WorkerNode.name == "bert")).one()
        bert.heartbeat_at -= timedelta(seconds=workers.SILENT_AFTER_S + 1)
        dora = session.scalars(select(WorkerNode).where(WorkerNode.name == "dora")).one()
        dora.heartbeat_at -= timedelta(days=2)
        workers.stopped(session, "cora")
    with session_scope(read_only=True) as session:
        assert [(node.name, node.device) for node in workers.alive(session)] == [("anna", "CPU")]
        assert [node.name for node in workers.silent(session)] == ["bert"]
    with session_scope() as session:
        workers.beat(session, "cora", host="bench", pid=2)
        assert [node.name for node in workers.alive(session)] == ["anna", "cora"]


def test_the_worker_searches_a_real_field_with_the_model_that_comes_with_renalcore(
    lab: Laboratory, shared_data: Path
) -> None:
    folder = shared_data / "sediment" / "urised2k"
    picture = folder / "images" / json.loads((folder / "val" / "gt.json").read_text())["images"][0]["file_name"]
    with Image.open(picture) as image:
        width_px, height_px = image.size
    with picture.open("rb") as stream:
        sha256, size = FileStore(os.environ["RENAL_FILES"]).put(stream)
    card = models.card("sediment-multihead-n")
    upload = UploadedField(picture.name, sha256, size, "image/webp", width_px, height_px)
    analysis_id = lab.register(
        [upload], model_key=card.key, weights_sha256=card.sha256, calibration=card.calibration_sha256
    )
    queue.enqueue(analysis_id)
    lab.start_program(str(ROOT / "worker.py"), "--name", "anna")
    lab.until_all_ended(analysis_id, within_s=600)  # converting the model for the first time
    analysis = lab.analysis(analysis_id)
    assert (analysis.state, analysis.message) == ("done", "")
    assert analysis.device is not None
    assert analysis.device.startswith(("CPU", "NVIDIA"))
    with session_scope(read_only=True) as session:
        found = session.scalars(select(Finding).where(Finding.analysis_id == analysis_id)).all()
    assert found
    assert {finding.class_name for finding in found} <= set(card.classes)
    assert all(
        0 <= finding.x1 < finding.x2 <= width_px and 0 <= finding.y1 < finding.y2 <= height_px for finding in found
    )


@pytest.mark.parametrize(
    ("database", "queued_in"),
    [
        ("sqlite:////data/renalcore.db", "sqlite:////data/renalcore-queue.db"),
        ("postgresql://renal:se%40cret@db/renal", "postgresql+psycopg://renal:se%40cret@db/renal"),
    ],
)
def test_the_queue_lies_in_the_database_or_in_a_file_beside_it(database: str, queued_in: str) -> None:
    assert queue.system_database_url(database) == queued_in


def test_the_worker_explains_its_options_and_says_whether_one_is_at_work(
    lab: Laboratory, capsys: pytest.CaptureFixture[str]
) -> None:
    def check() -> int:
        return subprocess.run([sys.executable, ROOT / "worker.py", "--check"], cwd=lab.folder, check=False).returncode

    with pytest.raises(SystemExit, match=r"^0$"):
        worker.main(["--help"])
    explained = capsys.readouterr().out
    assert all(option in explained for option in ("--name", "--concurrency", "--parent", "--check"))
    with pytest.raises(SystemExit, match=r"^2$"):
        worker.main(["--concurrency", "0"])
    assert "must be 1 or more, got 0" in capsys.readouterr().err
    assert check() == 1
    lab.start()
    lab.until(lambda: "worker ready" in lab.log())
    assert check() == 0


def _ended_long_ago(analysis_id: int) -> None:
    """Sets back the clock of the workflow that has searched an analysis by 31 days."""
    with session_scope(read_only=True) as session:
        workflow_id = analyses.get(session, analysis_id).workflow_id
    engine = sa.create_engine(queue.system_database_url(), poolclass=sa.NullPool)
    table = "workflow_status" if engine.dialect.name == "sqlite" else f"{queue.SCHEMA}.workflow_status"
    with engine.begin() as connection:
        changed = connection.execute(
            sa.text(f"UPDATE {table} SET completed_at = completed_at - :ms WHERE workflow_uuid = :id"),
            {"ms": 31 * 24 * 3600 * 1000, "id": workflow_id},
        )
        assert changed.rowcount == 1


def _workflows() -> int:
    return len(queue._client().list_workflows(load_input=False, load_output=False))


def test_a_worker_that_starts_sweeps_killed_uploads_and_forgets_workflows_long_ended(lab: Laboratory) -> None:
    old, new = lab.specimen(1), lab.specimen(1)
    first = lab.start()
    lab.until_all_ended(old, new)
    first.terminate()
    first.wait(timeout=120)
    _ended_long_ago(old)
    abandoned, going_on = (lab.folder / "files" / "incoming" / name for name in ("abandoned", "going on"))
    for path in (abandoned, going_on):
        path.write_bytes(b"half a fie")
    os.utime(abandoned, times=(time.time() - 25 * 3600,) * 2)

    lab.start()
    lab.until(lambda: _workflows() == 1 and not abandoned.exists())
    assert going_on.exists()
    assert "old workflows forgotten number=1" in lab.log()
    assert lab.done(old, new) == 2, "the record keeps everything"


def test_workflows_long_ended_are_forgotten_on_postgresql_too(big_lab: Laboratory) -> None:
    analysis_id = big_lab.specimen(1)
    big_lab.start()
    big_lab.until_all_ended(analysis_id)
    assert queue.prune() == 0
    big_lab.until(lambda: all(status.completed_at for status in queue._client().list_workflows()))
    _ended_long_ago(analysis_id)
    assert queue.prune() == 1
    assert _workflows() == 0
