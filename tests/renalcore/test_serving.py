"""What a worker is given of the models that are installed."""

from __future__ import annotations

from pathlib import Path

import pytest

from renalcore.ct.predict import Crops
from renalcore.ct.steps import STEPS
from renalcore.errors import ModelError
from renalcore.serving import registered
from tests.renalcore.ct.bright import LEFT, body, install


def test_a_model_of_scans_is_asked_step_by_step(tmp_path: Path) -> None:
    segmenter = registered("cpu", root=install(tmp_path)).segmenter("bright")
    assert list(segmenter.steps) == list(STEPS)
    assert len(segmenter.weights_sha256) == 64
    assert segmenter.device
    volume, _ = body([LEFT])
    none = Crops((), ())  # no kidney, so that no network runs
    assert len(segmenter.steps["lesion"](volume, segmenter.steps["kidney"](volume, none))) == 0
    found = segmenter.finish(volume, none, {"rough": 1.5})
    assert found.labels.shape == volume.shape
    assert list(found.seconds) == ["rough", "labels", "measures"]


def test_the_int8_form_of_the_models_of_fields_is_not_asked_of_the_others(tmp_path: Path) -> None:
    root = install(tmp_path)
    (root / "bright" / "ct.safetensors").unlink()
    with pytest.raises(ModelError, match="missing"):  # and not that there is no such form
        registered("openvino-int8", root=root).segmenter("bright")
