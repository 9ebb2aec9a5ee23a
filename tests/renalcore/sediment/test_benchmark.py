from __future__ import annotations

import numpy as np
import pytest

from renalcore.sediment.benchmark import compare, matched


def boxes(*rows: list[float]) -> np.ndarray:
    return np.array(rows, np.float32).reshape(-1, 6)


def test_boxes_match_in_pairs_of_one_class_that_hardly_differ() -> None:
    ours = boxes([0, 0, 100, 100, 0.9, 1], [0, 0, 100, 100, 0.8, 1], [200, 0, 300, 100, 0.7, 2])
    stock = boxes([0, 0, 100, 95, 0.9, 1], [200, 0, 300, 100, 0.9, 3])
    assert matched(ours, stock) == 1
    assert matched(stock, ours) == 1
    assert matched(boxes(), stock) == 0
    assert matched(ours, boxes()) == 0


def test_without_fields_there_is_nothing_to_measure() -> None:
    with pytest.raises(ValueError, match="at least one field"):
        compare(images=0)


def test_ours_finds_the_boxes_of_stock_sahi_on_ultralytics() -> None:
    measured = compare(images=1, size_px=810, device="cpu", min_score=0.05)
    assert measured.slices == 4
    assert measured.boxes > 20
    assert measured.found_again >= 0.99
    assert measured.confirmed >= 0.99
    assert f"{measured.ratio:8.2f}" in str(measured)
    assert 0 <= measured.outside_share < 1
