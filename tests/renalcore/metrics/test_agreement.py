"""Agreement of two raters, against the papers that define it."""

from __future__ import annotations

import numpy as np
import pytest

from renalcore.errors import UnknownName
from renalcore.metrics.agreement import (
    Estimate,
    accuracy,
    accuracy_over_patients,
    confusion,
    disagreement,
    kappa,
    kappa_over_patients,
    within,
)

COHEN_1968 = np.array([[88, 14, 18], [10, 40, 10], [2, 6, 12]])
"""The 200 diagnoses of Cohen (1968), Table 1: personality disorder, neurosis, psychosis by two psychiatrists."""


def test_the_worked_example_of_cohen_1968_gives_his_weighted_kappa() -> None:
    # Weighted disagreement seen: 0.07 + 3*0.09 + 0.05 + 6*0.05 + 3*0.01 + 6*0.03 = 0.90; by chance 1.38.
    # 1 - 0.90 / 1.38 = 0.348
    found = kappa(COHEN_1968, np.array([[0.0, 1, 3], [1, 0, 6], [3, 6, 0]])).value
    assert found == pytest.approx(1 - 0.90 / 1.38)
    assert round(found or 0, 3) == 0.348


def test_the_worked_example_of_fleiss_cohen_and_everitt_1969_gives_their_kappa() -> None:
    shares = [[0.53, 0.05, 0.02], [0.11, 0.14, 0.05], [0.01, 0.06, 0.03]]
    # Seen 0.70, by chance 0.60*0.65 + 0.30*0.25 + 0.10*0.10 = 0.475: (0.70 - 0.475) / (1 - 0.475) = 0.429
    assert kappa(shares, "unweighted").value == pytest.approx(0.225 / 0.525)


def test_three_cases_by_hand() -> None:
    table = confusion([0, 1, 4], [0, 2, 0], grades=5)
    assert accuracy(table) == pytest.approx(1 / 3)
    assert within(table) == pytest.approx(2 / 3)
    # Linear: seen (0 + 1 + 4) / 3; all nine pairs of {0, 1, 4} and {0, 2, 0}: (0+2+0 + 1+1+1 + 4+2+4) / 9
    assert kappa(table, "linear").value == pytest.approx(1 - (5 / 3) / (15 / 9))
    # Quadratic: seen (0 + 1 + 16) / 3; by chance (0+4+0 + 1+1+1 + 16+4+16) / 9
    assert kappa(table, "quadratic").value == pytest.approx(1 - (17 / 3) / (43 / 9))


@pytest.mark.parametrize("power", [0, 1, 2])
@pytest.mark.parametrize("seed", range(3))
def test_kappa_weighs_the_cases_against_all_pairs_of_the_two_raters_grades(power: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    reference = rng.integers(0, 5, 60)
    other = np.clip(reference + rng.integers(-1, 2, 60), 0, 4)

    def apart(a: int, b: int) -> int:
        return int(abs(a - b) ** power) if a != b else 0

    seen = np.mean([apart(a, b) for a, b in zip(reference, other, strict=True)])
    by_chance = np.mean([apart(a, b) for a in reference for b in other])
    weights = ("unweighted", "linear", "quadratic")[power]
    assert kappa(confusion(reference, other, grades=5), weights).value == pytest.approx(1 - seen / by_chance, abs=1e-12)


def test_one_and_the_same_grade_throughout_has_no_kappa_and_says_why() -> None:
    found = kappa(confusion([2, 2, 2], [2, 2, 2], grades=5), "linear")
    assert found.value is None
    assert "same single grade" in (found.reason or "")
    assert kappa_over_patients([np.diag([3, 0, 0])] * 4, "quadratic").reason == found.reason


def test_no_case_has_no_figure_and_says_why() -> None:
    nothing = np.zeros((5, 5))
    assert (accuracy(nothing), within(nothing)) == (None, None)
    assert kappa(nothing, "linear") == Estimate(None, reason="no case was graded by both")
    assert accuracy_over_patients(np.zeros((0, 5, 5))) == Estimate(None, reason="no case was graded by both")


def test_one_rater_with_a_single_grade_agrees_no_better_than_chance() -> None:
    assert kappa(confusion([0, 0, 0, 0], [0, 0, 0, 3], grades=5), "linear").value == 0.0


def test_the_interval_surrounds_the_figure_and_is_the_same_every_time() -> None:
    rng = np.random.default_rng(7)
    reference = rng.integers(0, 5, 84)  # as many patients as in the paper
    other = np.clip(reference + rng.choice([-1, 0, 0, 0, 1], 84), 0, 4)
    tables = [confusion([a], [b], grades=5) for a, b in zip(reference, other, strict=True)]
    found = kappa_over_patients(tables, "linear")
    assert found == kappa_over_patients(tables, "linear")
    assert found.low is not None
    assert found.high is not None
    assert found.low < (found.value or 0) < found.high
    assert found.value == kappa(np.sum(tables, axis=0), "linear").value
    share = accuracy_over_patients(tables)
    p = share.value or 0
    # The percentile interval of a share comes close to the normal one of 1.96 standard errors.
    assert share.high == pytest.approx(p + 1.96 * (p * (1 - p) / 84) ** 0.5, abs=0.015)
    assert share.low == pytest.approx(p - 1.96 * (p * (1 - p) / 84) ** 0.5, abs=0.015)


def test_specimens_of_one_patient_are_drawn_together() -> None:
    # Ten patients of ten equal specimens each say as little as ten patients of one.
    right, wrong = confusion([0], [0], grades=2), confusion([0], [1], grades=2)
    one = accuracy_over_patients([right] * 7 + [wrong] * 3)
    ten = accuracy_over_patients([10 * right] * 7 + [10 * wrong] * 3)
    assert ten == one


def test_an_interval_that_resampling_cannot_give_is_withheld_with_the_reason() -> None:
    perfect = kappa_over_patients([confusion([grade], [grade], grades=5) for grade in (0, 1, 2, 3)], "linear")
    assert (perfect.value, perfect.low, perfect.high) == (1.0, None, None)
    assert "all resamples give this figure" in (perfect.reason or "")
    alone = accuracy_over_patients([confusion([0, 1], [0, 2], grades=5)])
    assert (alone.value, alone.low) == (0.5, None)
    assert "at least two patients" in (alone.reason or "")
    # Two patients, one of them with a single grade on both sides: a quarter of the draws holds only that one.
    rare = kappa_over_patients([np.diag([1, 0, 0]), confusion([1], [2], grades=3)], "linear")
    assert rare.value is not None
    assert rare.low is None
    assert "resamples have no figure" in (rare.reason or "")


def test_weights_grow_with_the_distance_of_the_grades() -> None:
    assert disagreement(5, "linear")[0].tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert disagreement(5, "quadratic")[0].tolist() == [0, 0.0625, 0.25, 0.5625, 1]
    assert disagreement(3, "unweighted").tolist() == [[0, 1, 1], [1, 0, 1], [1, 1, 0]]


def test_what_is_no_table_of_two_raters_is_refused() -> None:
    with pytest.raises(ValueError, match="the same cases, got 2 and 1"):
        confusion([0, 1], [0], grades=5)
    with pytest.raises(ValueError, match="from 0 to 4"):
        confusion([5], [0], grades=5)
    with pytest.raises(ValueError, match=r"square, got the shape \(2, 3\)"):
        kappa(np.ones((2, 3)), "linear")
    with pytest.raises(ValueError, match="counts from 0 up"):
        kappa([[1, -1], [0, 1]], "linear")
    with pytest.raises(ValueError, match=r"must be \(2, 2\), got \(3, 3\)"):
        kappa(np.eye(2), np.eye(3))
    with pytest.raises(ValueError, match=r"\(patients, k, k\)"):
        kappa_over_patients(np.eye(5), "linear")
    with pytest.raises(UnknownName, match="unweighted, linear, quadratic, got 'cubic'"):
        kappa(np.eye(5), "cubic")  # type: ignore[arg-type]
