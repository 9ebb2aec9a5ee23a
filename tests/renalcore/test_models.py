from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from renalcore import models
from renalcore.errors import ModelError, UnknownName
from renalcore.models import Calibration, HeldOutFigure, InputScale, ModelCard, TrainingData

CARD = ModelCard(
    key="tiny",
    title="Tiny",
    modality="sediment",
    task="detection",
    classes=("RBC", "WBC", "Yeast"),
    validated_classes=("RBC", "WBC"),
    input=InputScale(slice_px=640, overlap=0.25),
    min_score={"RBC": 0.3, "WBC": 0.4, "Yeast": 0.5},
    weights="tiny.safetensors",
    sha256=hashlib.sha256(b"weights").hexdigest(),
    bytes=7,
    architecture="YOLO12",
    scale="n",
    training_data=(TrainingData(name="fields", licence="CC BY 4.0", images=12),),
    figures=(HeldOutFigure(name="AP50 RBC", value=0.8, on="val", command="python -m renalcore evaluate sediment"),),
    intended_use="Research.",
    limits=("Bright field only.",),
    date=date(2026, 11, 21),
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "card.json").write_text(CARD.to_json())
    (tmp_path / "tiny" / "tiny.safetensors").write_bytes(b"weights")
    return tmp_path


def test_a_card_is_read_as_it_was_written(root: Path) -> None:
    assert models.card("tiny", root) == CARD
    assert models.all_cards(root) == (CARD,)


def test_a_card_keeps_its_calibration_and_an_older_one_has_none(root: Path) -> None:
    fitted = replace(CARD, calibration={"RBC": Calibration(2.0, 0.5, 120)})
    assert ModelCard.from_json(fitted.to_json()) == fitted
    assert len(fitted.calibration_sha256) == 64
    older = json.loads(CARD.to_json())
    del older["calibration"]
    read = ModelCard.from_json(json.dumps(older))
    assert (read, read.calibration_sha256) == (CARD, "")
    with pytest.raises(ValueError, match="slope of a calibration must be positive"):
        Calibration(0.0, 0.5, 120)


def test_classes_without_a_figure_are_said_to_be_unvalidated() -> None:
    assert CARD.unvalidated_classes == ("Yeast",)


def test_the_threshold_is_one_for_all_classes_or_one_for_each() -> None:
    assert CARD.min_score_of("WBC") == 0.4
    assert replace(CARD, min_score=0.25).min_score_of("WBC") == 0.25


def test_an_unknown_key_is_refused_with_the_known_ones(root: Path) -> None:
    with pytest.raises(UnknownName, match="'huge' is not the key of a model; known models: tiny"):
        models.card("huge", root)


@pytest.mark.parametrize("key", ["../tiny", "", "."])
def test_a_key_cannot_leave_the_folder(root: Path, key: str) -> None:
    with pytest.raises(UnknownName):
        models.card(key, root / "tiny")


def test_weights_are_given_when_they_are_those_of_the_card(root: Path) -> None:
    assert models.weights_path(CARD, root).read_bytes() == b"weights"


def test_altered_weights_are_refused(root: Path) -> None:
    (root / "tiny" / "tiny.safetensors").write_bytes(b"weighty")
    with pytest.raises(ModelError, match="were altered"):
        models.weights_path(CARD, root)


def test_missing_weights_are_asked_for_by_name(root: Path) -> None:
    (root / "tiny" / "tiny.safetensors").unlink()
    with pytest.raises(ModelError, match=r"put tiny\.safetensors into"):
        models.weights_path(CARD, root)


def test_a_card_with_a_misspelt_entry_is_refused_with_its_path(root: Path) -> None:
    path = root / "tiny" / "card.json"
    path.write_text(json.dumps({**json.loads(CARD.to_json()), "licences": []}))
    with pytest.raises(ModelError, match=r"tiny/card\.json: not a model card: .*licences"):
        models.all_cards(root)


def test_a_card_in_anothers_folder_is_refused(root: Path) -> None:
    (root / "tiny").rename(root / "other")
    with pytest.raises(ModelError, match="must be the name of its folder, 'other'"):
        models.card("other", root)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"validated_classes": ("Sand",)}, "Sand: not among"),
        ({"min_score": {"RBC": 0.5}}, "lacks the classes WBC, Yeast"),
        ({"weights": "../tiny.safetensors"}, "base name"),
        ({"weights": "tiny.pt"}, "safetensors"),
        ({"modality": "xray"}, "sediment, histology, ct"),
        ({"input": InputScale(640, 1.5)}, "overlap"),
    ],
)
def test_a_card_that_contradicts_itself_cannot_be_made(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(CARD, **change)  # type: ignore[arg-type]


def test_the_cards_that_come_with_renalcore_are_readable_and_their_weights_whole() -> None:
    for card in models.all_cards():
        assert models.weights_path(card).stat().st_size == card.bytes


def test_the_registry_imports_no_heavy_library() -> None:
    script = "import sys, renalcore.models as m; m.all_cards(); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout.split()
    assert not {"torch", "numpy", "cv2", "openvino", "ultralytics", "sahi"} & set(loaded)


def test_a_card_keeps_the_scale_that_its_network_is_shown() -> None:
    scaled = replace(CARD, input=InputScale(512, 0.25, um_per_px=2.0, object_px=(48, 192)))
    assert ModelCard.from_json(scaled.to_json()).input == scaled.input
    with pytest.raises(ValueError, match="least and a greatest"):
        InputScale(slice_px=512, overlap=0.25, object_px=(192, 48))
