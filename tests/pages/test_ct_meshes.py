"""Kidneys and lesions in 3D, as Plotly is told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from db import ct_files
from pages.components.ct_meshes import figure
from pages.components.ct_viewer import COLOURS
from renalcore.ct.measure import measure
from tests.ct_analysed import drawn


def test_kidneys_are_seen_through_and_lesions_not_and_each_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RENAL_DATA", str(tmp_path))
    volume, labels = drawn()
    measures = measure(labels, volume.affine)
    sha256, _ = ct_files.put_labels(labels, volume)
    made = figure(sha256, measures)
    assert [(trace.name, trace.opacity) for trace in made.data] == [
        ("Right kidney", 0.35), ("Left kidney", 0.35), ("Tumour 1, left", 1.0), ("Cyst 2, right", 1.0),
    ]  # fmt: skip
    assert [trace.color for trace in made.data[1:]] == [COLOURS["kidney"], COLOURS["tumour"], COLOURS["cyst"]]
    assert all(trace.showlegend for trace in made.data)
    scene = made.layout.scene
    lengths = [getattr(scene.aspectratio, axis) / np.ptp(scene[f"{axis}axis"].range) for axis in "xyz"]
    assert lengths == pytest.approx([lengths[0]] * 3), "a millimetre is as long along each axis"
    assert scene.camera.eye.y < 0 < scene.camera.up.z, "from the front, the head up"
    right, left = (np.mean(trace.x) for trace in made.data[:2])
    assert right < left, "LPS: x rises to the patient's left"
    assert len(made.to_json()) < 3e6
    assert figure(sha256, measures) is made, "made once for the same labels"
