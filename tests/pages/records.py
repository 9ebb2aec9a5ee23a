"""Values for the tests of the pages."""

from __future__ import annotations

from datetime import date
from typing import Any

from db.reviews import ReviewedObject
from renalcore.models import InputScale, ModelCard
from renalcore.taxonomy import NAMES


def an_object(key: str, **changes: Any) -> ReviewedObject:
    """A WBC that the model found in field 1."""
    values: dict[str, Any] = {
        "key": key,
        "field_id": 1,
        "class_name": "WBC",
        "model_class": "WBC",
        "score": 0.9,
        "box": (10.0, 10.0, 40.0, 40.0),
        "status": "model",
    }
    return ReviewedObject(**(values | changes))


def a_card(*, validated: tuple[str, ...], min_score: float) -> ModelCard:
    """A card of a model that knows every class."""
    return ModelCard(
        key="a-model",
        title="A model",
        modality="sediment",
        task="detection",
        classes=NAMES,
        validated_classes=validated,
        input=InputScale(640, 0.25),
        min_score=min_score,
        weights="a-model.safetensors",
        sha256="a" * 64,
        bytes=1,
        architecture="YOLOv12",
        scale="n",
        training_data=(),
        figures=(),
        intended_use="tests",
        limits=(),
        date=date(2026, 1, 1),
    )
