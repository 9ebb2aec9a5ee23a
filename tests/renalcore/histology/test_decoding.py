from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from renalcore.engine import backends
from renalcore.engine.devices import Device
from renalcore.histology.decoding import PixelNetwork
from renalcore.histology.networks import build_network


def test_openvino_and_torch_see_the_same_glomeruli_at_every_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RENAL_DATA", str(tmp_path))
    torch.manual_seed(0)
    network = PixelNetwork(build_network("linknet-mobilenetv2").eval())
    in_torch, in_openvino = (
        backends.load(lambda: network, Device(kind, 1), key="a digest") for kind in ("cpu", "openvino")
    )
    pictures = np.random.default_rng(0).integers(0, 255, (2, 160, 96, 3), dtype=np.uint8)  # converted at 64 x 96
    some, others = in_torch.run(pictures)[0], in_openvino.run(pictures)[0]
    assert some.shape == others.shape == (2, 2, 160, 96)
    assert np.abs(some.astype(int) - others).max() <= 1
    assert some.std() > 0
