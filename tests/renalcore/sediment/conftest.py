from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest


@pytest.fixture
def urised(tmp_path: Path) -> Path:
    """Two fields in the form of urised2k: a red square where the label file says an erythrocyte is."""
    return two_fields(tmp_path)


def two_fields(folder: Path) -> Path:
    """Writes what the fixture `urised` gives; returns `folder`."""
    (folder / "images").mkdir()
    (folder / "labels").mkdir()
    picture = np.full((200, 300, 3), 128, np.uint8)
    picture[50:80, 100:140] = (0, 0, 255)  # BGR
    for name in ("a.png", "b.png"):
        cv2.imwrite(str(folder / "images" / name), picture)
    (folder / "labels" / "a.txt").write_text("1 0.4 0.325 0.133333 0.15\n7 0.9 0.9 0.1 0.1\n")
    (folder / "labels" / "b.txt").write_text("2 0.4 0.325 0.133333 0.15\n")
    (folder / "manifest.csv").write_text(
        "image,group,width,height,label_scope,split\n"
        "a.png,S1,300,200,all_cells,train\nb.png,S2,300,200,wbc_only,train\n"
    )
    return folder
