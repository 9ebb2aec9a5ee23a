from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from renalcore.engine.devices import Device
from renalcore.errors import InputError
from renalcore.histology.benchmark import Measured, Peer, ask, drawn, measure, run
from renalcore.histology.pyramid import write_pyramid
from renalcore.io.slide import open_slide
from tests.renalcore.histology.discs import model, slide

DISCS = slide(1400, 1400, [(700, 700, 100)])
TIATOOLBOX = """#!/bin/sh
cp "$3/job.json" "$3/asked.json"
echo '{"version": "2.1.3", "tiles": 9, "seconds": 60, "processor_s": 40, "peak_mb": 2500}' > "$3/answer.json"
"""
"""What stands in for the Python of TIAToolbox's environment: called as `python -I peer.py FOLDER`."""


def test_a_drawn_slide_is_searched_and_measured(tmp_path: Path) -> None:
    write_pyramid(tmp_path / "drawn.tiff", width_px=1500, height_px=1500, block=drawn(1500), um_per_px=0.5)
    with open_slide(tmp_path / "drawn.tiff") as opened:
        measured = measure(model(), opened)
    assert measured.tissue_mpx == pytest.approx(1.2**2, rel=0.05)  # 0.8 of each side
    assert measured.tiles == 4 * 4
    assert 0 < measured.network_s < measured.seconds
    assert sum(measured.shares.values()) == pytest.approx(1)
    assert min(measured.processor_s.values()) > 0
    assert measured.mpx_per_s == measured.tissue_mpx / measured.seconds
    assert "Mpx of tissue a second" in str(measured)


def test_tiatoolbox_is_asked_for_the_same_tiles_and_its_time_is_told_as_a_ratio(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(TIATOOLBOX)
    python.chmod(0o700)
    ours = measure(model(), DISCS)
    peer = asked(python, tmp_path)
    job = json.loads((tmp_path / "asked.json").read_text())
    assert (job["tile_px"], job["batch"], job["threads"], job["device"]) == (128, 8, 3, "cpu")
    assert job["stride_px"] == 74  # 1,400 / 4 = 350 px in 4 tiles: (350 - 128) / 3
    assert job["downsample"] == pytest.approx(2.0 / 0.5)
    measured = Measured("discs", "CPU", (ours,), peer)
    assert measured.ratios == (60 / ours.seconds, 40 / sum(ours.processor_s.values()))
    assert "TIAToolbox 2.1.3" in str(measured)
    assert json.loads(json.dumps(measured.as_dict()))["peer"]["tiles"] == 9


def test_a_python_without_tiatoolbox_is_told_with_what_it_lacks(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"No package metadata .* tiatoolbox\).* `pip install tiatoolbox==2.1.3`"):
        run("discs", peer=Path(sys.executable))  # before anything is searched: there is no such model
    with pytest.raises(InputError, match=r"cannot be started \(No such file"):
        run("discs", peer=tmp_path / "nowhere")


def asked(python: Path, folder: Path) -> Peer:
    layout, tissue = model().blocks(DISCS)[0].layout, np.ones((30, 30), np.bool_)
    return ask(python, folder, folder / "slide.tiff", layout, tissue, device=Device("cpu", 3), batch=8)
