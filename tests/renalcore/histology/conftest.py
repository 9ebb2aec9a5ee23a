from __future__ import annotations

from pathlib import Path

import pytest

from tests.renalcore.histology.drawn import Disc, pair

DISCS: dict[str, list[Disc]] = {"two": [(110, 80, 30), (230, 150, 32)], "one": [(160, 120, 28)], "none": []}
HEAD = "image,instances,group,stain,um_per_px,note\n"


@pytest.fixture
def three_slides(tmp_path: Path) -> Path:
    """Three fields of two patients at 2 um a pixel: two glomeruli in H&E, one and none in PAS."""
    lines = [HEAD]
    for seed, (name, discs) in enumerate(DISCS.items()):
        pair(tmp_path / "slides", name, discs, seed=seed)
        who = "P1,HE" if name == "two" else "P2,PAS"
        lines.append(f"images/{name}.png,instances/{name}.png,{who},2.0,\n")
    (tmp_path / "slides" / "pairs.csv").write_text("".join(lines))
    return tmp_path / "slides"
