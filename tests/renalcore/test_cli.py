from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from renalcore import cli, taxonomy
from renalcore.sediment.benchmark import untrained_network
from renalcore.sediment.networks import save_weights
from tests.renalcore.sediment.squares import card


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One model with random weights."""
    root = tmp_path_factory.mktemp("models")
    folder = root / "squares"
    folder.mkdir()
    noise = np.random.default_rng(0).integers(0, 255, (128, 128, 3), dtype=np.uint8)
    save_weights(untrained_network(noise, seed=0), folder / "squares.safetensors")
    sha256 = hashlib.sha256((folder / "squares.safetensors").read_bytes()).hexdigest()
    (folder / "card.json").write_text(card(sha256=sha256).to_json())
    return root


@pytest.fixture
def fields(tmp_path: Path) -> list[Path]:
    """Two small pictures."""
    paths = [tmp_path / "in" / "field 1.png", tmp_path / "in" / "Feld ü.png"]
    paths[0].parent.mkdir()
    for seed, path in enumerate(paths):
        noise = np.random.default_rng(seed).integers(0, 255, (96, 128, 3), dtype=np.uint8)
        Image.fromarray(noise).save(path)
    return paths


def predict(registry: Path, output: Path, *images: Path) -> int:
    named = [str(path) for path in images]
    options = ["--output", str(output), "--models", str(registry), "--model", "squares", "--device", "cpu"]
    return cli.main(["predict", "sediment", *named, *options])


def test_predictions_follow_the_contract(registry: Path, fields: list[Path], tmp_path: Path) -> None:
    output = tmp_path / "made" / "p.json"
    assert predict(registry, output, *fields) == 0
    result = json.loads(output.read_text(encoding="utf-8"))
    assert list(result) == ["model", "images", "predictions"]
    assert result["model"] == "squares"
    assert [image["file_name"] for image in result["images"]] == ["field 1.png", "Feld ü.png"]
    assert [(image["width"], image["height"]) for image in result["images"]] == [(128, 96)] * 2
    assert all(image["seconds"] > 0 for image in result["images"])
    assert result["predictions"]
    for row in result["predictions"]:
        assert [key for key in row if key != "alternative"] == ["file_name", "category", "group", "bbox", "score"]
        assert row["group"] == taxonomy.particle(row["category"]).group
        x, y, width, height = row["bbox"]
        assert 0 <= x <= x + width <= 128.01
        assert 0 <= y <= y + height <= 96.01
        assert 0.05 <= row["score"] <= 1


def test_a_bad_input_is_named_and_the_others_are_still_processed(
    registry: Path, fields: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, absent = tmp_path / "text.png", tmp_path / "absent.png"
    text.write_text("not a picture")
    output = tmp_path / "p.json"
    assert predict(registry, output, text, fields[0], absent) == 1
    assert [image["file_name"] for image in json.loads(output.read_text())["images"]] == ["field 1.png"]
    said = capsys.readouterr().err
    assert "text.png: " in said
    assert "absent.png: the file cannot be opened" in said
    assert f"2 of 3 inputs could not be used; {output} holds the others" in said


@pytest.mark.parametrize("modality", ["sediment", "histology", "ct"])
def test_results_that_could_not_be_written_are_refused_before_a_model_is_loaded(
    modality: str, registry: Path, fields: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    taken = tmp_path / "taken"
    taken.write_text("a file of somebody's")
    output = taken / "p.json" if modality == "sediment" else taken
    command = ["predict", modality, str(fields[0]), "--models", str(registry), "--output"]
    assert cli.main([*command, str(output)]) == 1
    assert "taken: no folder for results can be made here (a file has this name); give --output another place" in (
        capsys.readouterr().err
    )
    assert taken.read_text() == "a file of somebody's"


def test_a_folder_is_neither_a_picture_nor_the_file_of_results(
    registry: Path, fields: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(registry, tmp_path / "p.json", fields[0].parent) == 1
    assert "in: this is a folder. Name the pictures in it." in (said := capsys.readouterr().err)
    assert "1 of 1 inputs could not be used; there is no result" in said
    assert predict(registry, tmp_path, fields[0]) == 1
    assert f"{tmp_path} is a folder; --output names the JSON file to write" in capsys.readouterr().err


def test_two_inputs_with_one_name_are_refused_before_any_work(
    registry: Path, fields: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other" / "field 1.png"
    assert predict(registry, tmp_path / "p.json", fields[0], other) == 1
    assert "several inputs are called field 1.png" in capsys.readouterr().err
    assert not (tmp_path / "p.json").exists()


def test_an_unknown_model_is_refused_with_the_known_ones(
    registry: Path, fields: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["predict", "sediment", str(fields[0]), "--output", str(tmp_path / "p.json")]
    assert cli.main([*arguments, "--model", "triangles", "--models", str(registry)]) == 1
    assert "'triangles' is not the key of a model; known models: squares" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", ["0", "1", "-0.1", "nan", "much"])
def test_an_impossible_score_is_a_wrong_command(wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refusal:
        cli.main(["predict", "sediment", "a.png", "--output", "p.json", f"--min-score={wrong}"])
    assert refusal.value.code == 2
    assert "--min-score" in capsys.readouterr().err


EVERY_LEVEL = [
    [],
    *([family.name] for family in cli.FAMILIES),
    *([family.name, command.name] for family in cli.FAMILIES for command in family.commands),
    *([command.name] for command in cli.COMMANDS),
]


@pytest.mark.parametrize("command", EVERY_LEVEL, ids=" ".join)
def test_every_level_has_help_with_an_example(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main([*command, "--help"])
    assert end.value.code == 0
    assert f"renalcore {' '.join(command)}".strip() in capsys.readouterr().out.split("examples:")[1]


def test_models_lists_the_registry_and_shows_a_card(registry: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["models", "--models", str(registry)]) == 0
    assert "39 classes, 1 of them validated" in capsys.readouterr().out
    assert cli.main(["models", "squares", "--models", str(registry)]) == 0
    assert json.loads(capsys.readouterr().out)["key"] == "squares"
    assert cli.main(["models", "--models", str(registry / "squares")]) == 1
    assert "squares holds no KEY/card.json, as a folder of models does" in capsys.readouterr().err


def test_models_and_help_import_no_heavy_library() -> None:
    script = "import sys; from renalcore.cli import main; main(['models']); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert not {"torch", "numpy", "cv2", "openvino", "ultralytics", "sahi", "PIL"} & set(done.stderr.split())


def test_synthetic_writes_the_asked_for_fields(tmp_path: Path) -> None:
    assert cli.main(["synthetic", "--output", str(tmp_path / "set"), "--count", "2", "--size", "160"]) == 0
    assert len(list((tmp_path / "set" / "images").iterdir())) == 2


def test_a_file_that_is_not_there_is_named_with_the_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    absent = tmp_path / "none.json"
    command = ["train", "sediment", "--data", str(tmp_path), "--output", str(tmp_path / "run")]
    assert cli.main([*command, "--hyperparameters", str(absent)]) == 1
    assert f"renalcore: {absent}: No such file or directory. Check its name and place.\n" in capsys.readouterr().err


def test_training_without_data_says_which_folder_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = cli.main(["train", "sediment", "--data", str(tmp_path / "none"), "--output", str(tmp_path / "run")])
    assert status == 1
    assert "none is not a folder" in capsys.readouterr().err
