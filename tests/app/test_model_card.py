"""A model's card on the page."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

from streamlit.testing.v1 import AppTest

from renalcore.models import HeldOutFigure, InputScale, ModelCard, TrainingData

CARD = ModelCard(
    key="sediment-example",
    title="Example detector",
    modality="sediment",
    task="detection",
    classes=("RBC", "WBC"),
    validated_classes=("RBC",),
    input=InputScale(640, 0.25),
    min_score={"RBC": 0.3, "WBC": 0.4},
    weights="sediment-example.safetensors",
    sha256="ab" * 32,
    bytes=11_400_000,
    architecture="YOLOv12, six heads",
    scale="n",
    training_data=(TrainingData("Fields of laboratory A", "CC BY 4.0 <sic>", 1200, "7 classes"),),
    figures=(HeldOutFigure("AP50 RBC", 0.81234, "val split", "python -m renalcore evaluate sediment"),),
    intended_use="Finding particles in bright-field urine sediment.",
    limits=("Not tried on phase contrast.",),
    date=date(2026, 11, 21),
)


def _page(card: object) -> None:
    from pages.components import model_card

    model_card.show(card)


def _words_of(card: ModelCard) -> str:
    shown = AppTest.from_function(_page, args=(card,)).run()
    assert not shown.exception
    return " ".join([*(item.value for item in shown.markdown), *(item.proto.body for item in shown.get("html"))])


def test_a_card_shows_use_limits_figures_data_licence_and_identity() -> None:
    words = _words_of(CARD)
    for expected in (
        "Finding particles in bright-field urine sediment\\.",
        "Not tried on phase contrast.",
        "AP50 RBC",
        "0.812",
        "1\u202f200",
        "CC BY 4.0 &lt;sic&gt;",
        "11.4 MB",
        "ab" * 32,
        "**Without such figures:** WBC",
    ):
        assert expected in words


def test_a_card_tells_what_becomes_of_unvalidated_classes_in_a_review() -> None:
    assert "hidden in a review until asked for" in _words_of(CARD)
    of_ct = _words_of(replace(CARD, modality="ct", task="segmentation", min_score=0.5))
    assert "outlined and counted all the same" in of_ct
    assert "hidden" not in of_ct
