from __future__ import annotations

import pytest
from hypothesis import given, reject
from hypothesis import strategies as st

from db.corrections import standing
from db.models import Correction
from db.objects import ReviewedObject, Status, checked_box, checked_min_score, threshold
from renalcore.errors import InputError, UnknownName

ACTIONS = st.lists(st.sampled_from(["confirm", "remove", "reclassify"]), max_size=6)


def corrections(*actions: str) -> list[Correction]:
    return [Correction(id=number, action=action) for number, action in enumerate(actions, start=1)]  # type: ignore[arg-type]


@given(ACTIONS, ACTIONS)
def test_undoing_what_came_last_leaves_what_was_before(before: list[str], after: list[str]) -> None:
    history = corrections(*before, *after, *["restore"] * len(after))
    assert [row.action for row in standing(history)] == before


def test_undoing_more_than_there_is_changes_nothing() -> None:
    assert [row.id for row in standing(corrections("restore", "remove", "restore", "restore", "confirm"))] == [5]


@pytest.mark.parametrize(
    ("status", "score", "counted"),
    [
        ("model", 0.5, True),
        ("model", 0.499, False),
        ("confirmed", 0.1, True),
        ("reclassified", 0.1, True),
        ("added", None, True),
        ("removed", 0.9, False),
    ],
)
def test_a_persons_word_counts_whatever_the_score(status: Status, score: float | None, counted: bool) -> None:
    item = ReviewedObject("f1", 1, "RBC", "RBC", score, (0, 0, 1, 1), status)
    assert item.counts({"RBC": 0.5, "default": 1.0}) is counted


def test_a_threshold_is_that_of_the_class_or_of_all_others() -> None:
    assert threshold(0.3, "RBC") == 0.3
    assert threshold({"RBC": 0.6, "default": 0.2}, "RBC") == 0.6
    assert threshold({"RBC": 0.6, "default": 0.2}, "WBC") == 0.2
    assert threshold({"RBC": 0.6}, "WBC") == 0.0


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan"), "0.5", None, True, {"RBC": 2}])
def test_a_threshold_outside_0_to_1_is_refused(value: object) -> None:
    with pytest.raises(InputError, match="the lowest score must be a number from 0 to 1"):
        checked_min_score(value)


def test_a_threshold_of_an_unknown_class_is_refused() -> None:
    with pytest.raises(UnknownName, match="'Erythrocyte'"):
        checked_min_score({"Erythrocyte": 0.5})


@given(st.tuples(*[st.floats(-500, 1500)] * 4))
def test_a_drawn_box_ends_up_inside_its_field_or_is_refused(box: tuple[float, float, float, float]) -> None:
    try:
        x1, y1, x2, y2 = checked_box(box, width_px=1000, height_px=800)
    except InputError:
        reject()
    assert 0 <= x1 <= x2 <= 1000
    assert 0 <= y1 <= y2 <= 800
    assert min(x2 - x1, y2 - y1) >= 1
