from __future__ import annotations

from pathlib import Path

import pytest

from renalcore.histology.benchmark import drawn, measure
from renalcore.histology.pyramid import write_pyramid
from renalcore.io.slide import open_slide
from tests.renalcore.histology.discs import model


def test_a_drawn_slide_is_searched_and_measured(tmp_path: Path) -> None:
    write_pyramid(tmp_path / "drawn.tiff", width_px=1500, height_px=1500, block=drawn(1500), um_per_px=0.5)
    with open_slide(tmp_path / "drawn.tiff") as slide:
        measured = measure(model(), slide)
    assert measured.tissue_mpx == pytest.approx(1.2**2, rel=0.05)  # 0.8 of each side
    assert measured.tiles == 4 * 4
    assert 0 < measured.network_share < 1
    assert measured.mpx_per_s == measured.tissue_mpx / measured.seconds
    assert "Mpx of tissue a second" in str(measured)
