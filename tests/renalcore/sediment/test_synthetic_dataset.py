from pathlib import Path

import cv2
import numpy as np
import pytest

from renalcore import taxonomy
from renalcore.sediment.synthetic import Recipe, render, write_dataset


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_each_picture_has_a_label_file_in_the_yolo_layout(tmp_path: Path) -> None:
    boxes = write_dataset(tmp_path, count=3, seed=5, size_px=(160, 128))
    names = sorted(path.stem for path in (tmp_path / "images").iterdir())
    assert names == sorted(path.stem for path in (tmp_path / "labels").iterdir()) == ["000000", "000001", "000002"]
    assert cv2.imread(str(tmp_path / "images" / "000000.webp")).shape == (128, 160, 3)
    lines = [line.split() for path in (tmp_path / "labels").iterdir() for line in path.read_text().splitlines()]
    assert len(lines) == boxes > 0
    values = np.array(lines, float)
    assert set(values[:, 0]) <= set(range(39))
    assert values[:, 1:].min() >= 0
    assert values[:, 1:].max() <= 1
    assert (tmp_path / "classes.txt").read_text().splitlines() == list(taxonomy.NAMES)


def test_labels_are_the_boxes_of_the_rendered_field(tmp_path: Path) -> None:
    recipe = Recipe("test", {"RBC": (6, 6)})
    write_dataset(tmp_path, count=1, seed=9, size_px=200, recipe=recipe)
    field = render(200, 200, rng=np.random.default_rng((9, 0)), recipe=recipe)
    written = np.loadtxt(tmp_path / "labels" / "000000.txt", ndmin=2)
    corners = np.hstack([written[:, 1:3] - written[:, 3:] / 2, written[:, 1:3] + written[:, 3:] / 2]) * 200
    np.testing.assert_allclose(corners, field.boxes_px, atol=0.01)
    np.testing.assert_array_equal(written[:, 0], field.class_ids)


def test_a_longer_set_begins_with_the_shorter_one_however_many_processes_write_it(tmp_path: Path) -> None:
    write_dataset(tmp_path / "short", count=2, seed=1, size_px=96)
    write_dataset(tmp_path / "long", count=3, seed=1, size_px=96, workers=2)
    short, longer = contents(tmp_path / "short"), contents(tmp_path / "long")
    assert {name: longer[name] for name in short} == short
    assert len(longer) == len(short) + 2


def test_a_negative_count_and_no_workers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="got -1 and 1"):
        write_dataset(tmp_path, count=-1)
    with pytest.raises(ValueError, match="got 1 and 0"):
        write_dataset(tmp_path, count=1, workers=0)
