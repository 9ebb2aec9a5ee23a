from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from renalcore import cli, models
from renalcore.ct import benchmark
from renalcore.ct.card import measured
from renalcore.ct.evaluate import Judged, Labelled, drawn_scan, judge, summaries, table, write
from renalcore.ct.networks import build_network, save_networks
from renalcore.ct.steps import STEPS
from renalcore.models import TrainingData, file_entries, write_card
from tests.renalcore.ct.bright import LEFT, RIGHT, body, card, install, model
from tests.renalcore.ct.kits import write_case, write_labels
from tests.renalcore.ct.test_planes import write_slice


@pytest.fixture(scope="module")
def judged() -> list[Judged]:
    """Two scans: two kidneys with a tumour, and one in which the expert saw a tumour that is as dense as the kidney."""
    first = body([RIGHT, LEFT], tumours=[((30, 30, -84), (20, 20, 20))])
    volume, expert = body([RIGHT, LEFT])
    expert[27:33, 35:40, 55:58][expert[27:33, 35:40, 55:58] > 0] = 2
    cases = [
        Labelled("a", "a", "real", lambda: first),
        Labelled("b", "b", "real", lambda: (volume, expert)),
    ]
    return [judge(model(), case) for case in cases]


def test_scans_are_judged_by_the_figures_of_the_paper_and_of_kits(judged: list[Judged]) -> None:
    rows = {row["class"]: row for row in table(judged)}
    assert list(rows) == ["kidney", "tumour", "cyst", "kidney_and_masses", "masses"]
    assert rows["kidney_and_masses"]["dice"] > 0.93
    assert rows["kidney_and_masses"]["assd_mm"] < 2
    assert rows["kidney"]["paper_dice"] == 0.93
    assert (rows["tumour"]["present"], rows["tumour"]["missed"], rows["tumour"]["invented"]) == (2, 1, 0)
    assert rows["tumour"]["dice"] == pytest.approx(judged[0].agreements["tumour"].dice / 2)  # 0 in the other
    assert rows["cyst"]["dice"] == 1.0  # nothing is there and nothing was found
    assert list(summaries(judged)) == ["real"]


def test_the_tables_of_an_evaluation_are_files(judged: list[Judged], tmp_path: Path) -> None:
    write(judged, tmp_path, about={"model": "bright"})
    told = json.loads((tmp_path / "evaluation.json").read_text())
    assert (told["model"], len(told["cases"])) == ("bright", 2)
    assert told["table"][2]["assd_mm"] is None  # no cyst in any of them
    with (tmp_path / "table2.csv").open() as stream:
        assert [row["class"] for row in csv.DictReader(stream)][:3] == ["kidney", "tumour", "cyst"]
    assert "| real | tumour |" in (tmp_path / "table2.md").read_text()


def test_a_card_tells_figures_and_calls_a_class_validated_from_ten_real_scans_on(
    judged: list[Judged], tmp_path: Path
) -> None:
    weights = tmp_path / "w.safetensors"
    weights.write_bytes(b"weights")
    before = card(limits=("Never validated on real scans.", "Stones are not told."))
    few = measured(before, weights, summaries(judged[:1]), on="held out: here", command="again")
    assert few.validated_classes == ()
    assert few.limits[0].startswith("Never validated on enough real scans")
    assert few.limits[1:] == ("Stones are not told.",)
    enough = measured(before, weights, summaries(judged[:1] * 10), on="held out: here", command="again")
    assert enough.validated_classes == ("kidney", "tumour")
    assert enough.limits == ("Stones are not told.",)
    weak = measured(few, weights, summaries(judged[1:] * 3), on="held out: here", command="again")
    assert weak.limits[1:] == (
        "Tumours are found poorly: mean Dice 0.00 in 3 real scans with one; none was found in 3 of them.",
        "Stones are not told.",
    )
    assert measured(weak, weights, summaries(judged[:1]), on="held out: here", command="again").limits == few.limits
    figures = {figure.name: figure for figure in enough.figures}
    assert figures["Dice, kidney, real scans"].on == "held out: here; 10 real scans, 10 of them with this class"


def test_a_drawn_scan_is_the_same_each_time_and_another_for_each_number(tmp_path: Path) -> None:
    write_labels(tmp_path / "case_00001.nii.gz")
    first, same, other = (
        drawn_scan("case_00001", tmp_path / "case_00001.nii.gz", number, spacing_mm=6.0).read() for number in (0, 0, 1)
    )
    assert (first[0].hu == same[0].hu).all()
    assert set(map(int, set(first[1].ravel()))) == {0, 1, 2, 3}
    assert first[0].shape != other[0].shape or (first[0].hu != other[0].hu).any()


def test_the_command_evaluates_on_held_out_patients_and_writes_the_card(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(2):
        write_case(tmp_path / f"kits/case_{number:05d}", seed=number)
        write_slice(tmp_path / "slices", f"case_{number:05d}")
    folder = tmp_path / "models" / "bright"
    folder.mkdir(parents=True)
    networks = {step: build_network("unet3d", step, width=4) for step in STEPS}
    with torch.no_grad():
        for step in ("rough", "kidney"):
            networks[step].body.answer.bias.copy_(torch.tensor([1000.0, -1000.0]))  # never a kidney
    save_networks(networks, folder / "bright.safetensors")
    sources = tuple(
        TrainingData(name, licence, 1, "outlined by somebody")
        for name, licence in (("kits", "free"), ("slices", "CC BY-NC"), ("left and right", "none"))
    )
    write_card(card(**file_entries(folder / "bright.safetensors"), training_data=sources), folder)
    options = ["--models", str(folder.parent), "--model", "bright", "--device", "cpu", "--hold-out", "case_00001"]
    output = tmp_path / "evaluation"
    named = ["evaluate", "ct", "--data", str(tmp_path / "kits"), "--output", str(output)]
    slices = ["--slices", str(tmp_path / "slices")]
    assert cli.main([*named, *options, *slices, "--write-card"]) == 0
    told = json.loads((output / "evaluation.json").read_text())
    assert [case["case"] for case in told["cases"]] == ["case_00001"]
    assert told["cases"][0]["kidney_dice"] == 0
    assert [each["slice"] for each in told["slices"]["slices"]] == ["case_00001_1"]  # never one that was trained on
    assert [each["missed"] for each in told["slices"]["table"]] == [1, 1, 0]  # kidneys, tumour, cyst
    with (output / "slices.csv").open() as stream:
        assert [row["tumour_dice"] for row in csv.DictReader(stream)] == ["0.0"]
    written = models.card("bright", folder.parent)
    assert written.training_data == sources
    figures = {figure.name: figure for figure in written.figures}
    assert figures["Dice, kidney, real scans"].value == 0
    assert "--hold-out case_00001" in figures["Dice, kidney, real scans"].command
    assert "(patients case_00001 of kits); 1 real slice of 1 patient" in figures["Dice, tumour, real slices"].on
    assert slices[1] in figures["Dice, tumour, real slices"].command
    for name in ("kits", "left and right"):
        (tmp_path / name).mkdir(exist_ok=True)
        touched = ["evaluate", "ct", "--data", str(tmp_path / name), "--split", "all", "--write-card"]
        assert cli.main([*touched, *options[:-2], "--output", str(output)]) == 1
        assert "not trained on: leave --split all out" in capsys.readouterr().err
    (tmp_path / "slices/index.csv").write_text("name,case,spacing\ncase_00001_1,somebody,5x2.0x2.0\n")
    assert cli.main([*named, *options, *slices]) == 1
    assert "no slice of the patients that are judged" in capsys.readouterr().err


@pytest.fixture
def folds(tmp_path: Path) -> Path:
    """A run of two folds of two patients; that of fold 1 takes everything for kidney, that of fold 2 nothing."""
    for number in range(2):
        write_case(tmp_path / f"kits/case_{number:05d}", seed=number)
        bias = torch.tensor([-1000.0, 1000.0] if number == 0 else [1000.0, -1000.0])
        networks = {step: build_network("unet3d", step, width=4) for step in STEPS}
        with torch.no_grad():
            for step in ("rough", "kidney"):
                networks[step].body.answer.bias.copy_(bias)
        folder = tmp_path / f"run/fold-{number + 1}/ct-unet3d"
        folder.mkdir(parents=True)
        save_networks(networks, folder / "ct-unet3d.safetensors")
        write_card(card(key="ct-unet3d", **file_entries(folder / "ct-unet3d.safetensors")), folder)
        (folder.parent / "held_out.json").write_text(json.dumps([f"case_{1 - number:05d}"]))
    return tmp_path / "run"


def test_each_patient_is_judged_by_the_fold_that_held_it_out_and_the_table_is_of_all(
    folds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "evaluation"
    words = ["evaluate", "ct", "--data", str(tmp_path / "kits"), "--folds", str(folds), "--output", str(output)]
    words += ["--device", "cpu"]
    installed = install(tmp_path)
    assert cli.main([*words, "--models", str(installed), "--model", "bright", "--write-card"]) == 0
    told = json.loads((output / "evaluation.json").read_text())
    cases = {case["case"]: case for case in told["cases"]}
    assert {name: case["fold"] for name, case in cases.items()} == {"case_00001": "1", "case_00000": "2"}
    assert cases["case_00001"]["kidney_found"] > 0
    assert cases["case_00000"]["kidney_found"] == 0
    assert "cross-validation in 2 folds, each by a network that was not trained on it" in told["data"]
    assert (told["model"], len(told["weights_sha256"].split())) == ("ct-unet3d", 2)
    with (output / "table2.csv").open() as stream:
        assert next((row["class"], row["cases"]) for row in csv.DictReader(stream)) == ("kidney", "2")
    with (output / "table2_folds.csv").open() as stream:
        rows = [row for row in csv.DictReader(stream) if row["class"] == "kidney"]
    assert [(row["fold"], row["cases"], row["missed"]) for row in rows] == [("1", "1", "0"), ("2", "1", "1")]
    figure = models.card("bright", installed).figures[0]
    assert "cross-validation in 2 folds" in figure.on
    assert f"--folds {folds}" in figure.command
    assert "--split" not in figure.command
    capsys.readouterr()
    for told_wrongly, reason in ((["case_00007"], "held out case_00007, which"), (None, "fold-2 is not finished")):
        held_out = folds / "fold-2/held_out.json"
        held_out.write_text(json.dumps(told_wrongly)) if told_wrongly else held_out.unlink()
        assert cli.main(words) == 1
        assert reason in capsys.readouterr().err
    assert cli.main([*words[:4], "--folds", str(tmp_path), *words[6:]]) == 1
    assert "holds no folds" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main([*words, "--split", "all"])
    assert "not allowed with argument" in capsys.readouterr().err


def test_a_drawn_file_is_searched_and_each_stage_timed(tmp_path: Path) -> None:
    paths = [tmp_path / f"{slices}.nii" for slices in (20, 40)]
    for path, slices in zip(paths, (20, 40), strict=True):
        benchmark.write_drawn(path, slices, side_px=64)
    few, many = benchmark.measure(model(), paths)
    assert (few.shape, many.shape) == ((20, 64, 64), (40, 64, 64))
    assert list(many.stages_s) == ["reading", "rough", "kidney", "lesion", "labels", "measures", "writing"]
    assert sum(many.stages_s.values()) == pytest.approx(many.seconds, rel=0.2)
    assert many.passes >= 1 + 2 * many.kidneys > 1  # more where a crop was widened
    assert many.ratio > 1
    nothing = (np.zeros((1, *STEPS["rough"].shape), np.uint8),)
    (given,) = benchmark.measure(model(), paths[:1], [{"rough": [nothing], "kidney": [], "lesion": []}])
    assert [given.kidneys, given.passes] == [0, 1]
    assert given.networks_s > 0  # its own networks ran, and others answered
    told = str(benchmark.Measured("bright", "CPU", (few, many)))
    assert "2.0 times as many slices took" in told
    assert "times the networks alone" in told


def test_wider_networks_are_measured_with_the_answers_of_a_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scan = tmp_path / "scan.nii"
    benchmark.write_drawn(scan, 20, side_px=64)
    said = ["benchmark", "ct", "--scan", str(scan), "--model", "bright", "--models", str(install(tmp_path))]
    assert cli.main([*said, "--device", "cpu", "--network", "segresnet", "--width", "8"]) == 0
    assert "segresnet of width 8, random, with the answers of bright, on" in capsys.readouterr().out
    assert cli.main([*said, "--device", "cpu", "--network", "vgg"]) == 1
    assert "there is no network 'vgg'" in capsys.readouterr().err
