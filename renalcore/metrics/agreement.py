"""Agreement of two raters who give the same cases a grade on one ordered scale.

A confusion table holds in row `i`, column `j` how many cases the reference gave grade `i` and the other rater `j`.
Weighted kappa is that of Cohen, "Weighted kappa: nominal scale agreement with provision for scaled disagreement or
partial credit", Psychological Bulletin 70 (1968) 213-220: one minus the weighted disagreement seen over the one that
chance alone would give. With `linear` weights two grades apart count twice as much as one, with `quadratic` weights
four times; `unweighted` is Cohen's kappa of 1960, where every disagreement counts the same.

Intervals are 95 % by the bootstrap over patients (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993,
chapter 13, percentile interval): whole patients are drawn with replacement, so that several specimens or components of
one patient, which are no independent evidence, stay together. The seed is fixed: the same cases give the same interval.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

import numpy as np
import numpy.typing as npt

from renalcore.errors import UnknownName

Weights = Literal["unweighted", "linear", "quadratic"]
Floats = npt.NDArray[np.float64]
Table = npt.NDArray[np.int64]

RESAMPLES: Final = 2000
"""Enough for the 2.5th and the 97.5th percentile (Efron and Tibshirani, section 13.6, ask for 1000 or more)."""
SEED: Final = 0
LEVEL: Final = 0.95
_MOST = 0.9  # an interval from fewer of the resamples than this would leave out the extreme ones
_CHUNK = 200  # resamples at a time, so that memory does not grow with their number


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its interval; what cannot be computed is None, with the reason, and never nan.

    Attributes:
        value: The figure, None where it is not defined.
        low: Lower end of the 95 % interval, None where there is none.
        high: Upper end.
        reason: Why the value or the interval is missing, else None.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    reason: str | None = None


def confusion(reference: Sequence[int], other: Sequence[int], *, grades: int) -> Table:
    """How often each grade of the reference met each grade of the other rater.

    Args:
        reference: Grade of each case as an index from 0.
        other: Grade of the same cases by the other rater.
        grades: Number of grades on the scale.

    Returns:
        `(grades, grades)` counts, the reference down the rows.

    Raises:
        ValueError: The lengths differ, or an index lies outside the scale.
    """
    if len(reference) != len(other):
        raise ValueError(f"both raters must grade the same cases, got {len(reference)} and {len(other)}")
    if any(not 0 <= grade < grades for grade in (*reference, *other)):
        raise ValueError(f"a grade must be an index from 0 to {grades - 1}")
    table = np.zeros((grades, grades), np.int64)
    np.add.at(table, (np.asarray(reference, np.int64), np.asarray(other, np.int64)), 1)
    return table


def accuracy(table: npt.ArrayLike) -> float | None:
    """Share of cases with the same grade (Table 8's accuracy); None where there is no case."""
    return within(table, steps=0)


def within(table: npt.ArrayLike, *, steps: int = 1) -> float | None:
    """Share of cases whose two grades lie at most `steps` apart; None where there is no case."""
    return _number(_within(_checked(table), steps))


def disagreement(grades: int, weights: Weights) -> Floats:
    """How much each pair of grades disagrees: 0 on the diagonal, 1 at most; `(grades, grades)`.

    Raises:
        UnknownName: There are no such weights.
    """
    if weights not in get_args(Weights):
        raise UnknownName(f"the weights must be one of {', '.join(get_args(Weights))}, got {weights!r}")
    apart = np.abs(np.subtract.outer(np.arange(grades), np.arange(grades))) / max(grades - 1, 1)
    if weights == "unweighted":
        return (apart > 0).astype(np.float64)
    return apart if weights == "linear" else apart**2


def kappa(table: npt.ArrayLike, weights: Weights | Floats) -> Estimate:
    """Weighted kappa of a confusion table, without an interval.

    Args:
        table: `(k, k)` counts or shares.
        weights: `unweighted`, `linear`, `quadratic`, or a `(k, k)` table of disagreement, 0 on its diagonal.

    Returns:
        1 for perfect agreement, 0 for that of chance. None with the reason where there is no case, or where both
        raters gave one and the same grade throughout: chance then agrees as perfectly as they do.

    Raises:
        ValueError: The table is not square or holds a negative number, or the weights have another shape.
    """
    counts = _checked(table)
    given = disagreement(len(counts), weights) if isinstance(weights, str) else weights
    if given.shape != counts.shape:
        raise ValueError(f"weights for {len(counts)} grades must be {counts.shape}, got {given.shape}")
    value = _number(_kappas(counts, given))
    if value is not None:
        return Estimate(value)
    if not counts.sum():
        return Estimate(None, reason="no case was graded by both")
    return Estimate(None, reason="both gave the same single grade to every case, so there is no disagreement to weigh")


def kappa_over_patients(
    tables: npt.ArrayLike, weights: Weights, *, seed: int = SEED, resamples: int = RESAMPLES
) -> Estimate:
    """Weighted kappa of all cases with its 95 % interval.

    Args:
        tables: `(patients, k, k)`: one confusion table a patient.
        weights: `unweighted`, `linear` or `quadratic`.
        seed: Of the resampling.
        resamples: How often the patients are drawn anew.

    Returns:
        The interval is None with the reason where there are fewer than two patients, where all resamples give the same
        figure (perfect agreement: resampling cannot show how few cases say so), or where too many have no kappa.
    """
    stack = _checked_stack(tables)
    given = disagreement(stack.shape[-1], weights)
    whole = kappa(stack.sum(axis=0), weights)
    if whole.value is None:
        return whole
    return over_patients(stack, lambda drawn: _kappas(drawn, given), seed=seed, resamples=resamples)


def accuracy_over_patients(
    tables: npt.ArrayLike, *, steps: int = 0, seed: int = SEED, resamples: int = RESAMPLES
) -> Estimate:
    """Share of cases whose grades lie at most `steps` apart, with its 95 % interval; see `kappa_over_patients`."""
    return over_patients(_checked_stack(tables), lambda drawn: _within(drawn, steps), seed=seed, resamples=resamples)


def over_patients(
    per_patient: Floats, figure: Callable[[Floats], Floats], *, seed: int = SEED, resamples: int = RESAMPLES
) -> Estimate:
    """Any figure of summed counts with its 95 % percentile interval, drawing whole patients with replacement.

    Args:
        per_patient: `(patients, ...)` counts.
        figure: Of summed counts, `(n, ...)` to `(n,)`; nan where it is not defined.
        seed: Of the resampling.
        resamples: How often the patients are drawn anew.
    """
    patients = len(per_patient)
    value = _number(figure(per_patient.sum(axis=0)[None])[0])
    if value is None:
        return Estimate(None, reason="no case was graded by both")
    if patients < 2:
        return Estimate(value, reason="an interval needs at least two patients")
    rng = np.random.default_rng(seed)
    flat = per_patient.reshape(patients, -1)
    values = np.concatenate(
        [
            figure((_draws(rng, patients, min(_CHUNK, resamples - start)) @ flat).reshape(-1, *per_patient.shape[1:]))
            for start in range(0, resamples, _CHUNK)
        ]
    )
    defined = values[~np.isnan(values)]
    if len(defined) < _MOST * resamples:
        return Estimate(
            value, reason=f"no interval: {resamples - len(defined)} of {resamples} resamples have no figure"
        )
    low, high = np.quantile(defined, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    if low == high:
        return Estimate(value, reason="no interval: all resamples give this figure, as where agreement is perfect")
    return Estimate(value, float(low), float(high))


def _draws(rng: np.random.Generator, patients: int, times: int) -> Floats:
    """How often each patient is drawn, `(times, patients)`."""
    return rng.multinomial(patients, np.full(patients, 1 / patients), size=times).astype(np.float64)


def _checked(table: npt.ArrayLike) -> Floats:
    counts = np.asarray(table, np.float64)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1]:
        raise ValueError(f"a confusion table must be square, got the shape {counts.shape}")
    if not (counts >= 0).all():  # also refuses nan
        raise ValueError("a confusion table holds counts from 0 up")
    return counts


def _checked_stack(tables: npt.ArrayLike) -> Floats:
    stack = np.asarray(tables, np.float64)
    if stack.ndim != 3 or stack.shape[1] != stack.shape[2]:
        raise ValueError(f"expected one square table a patient, (patients, k, k), got the shape {stack.shape}")
    return stack


def _number(value: Floats | np.float64) -> float | None:
    return None if np.isnan(value) else float(value)


def _share(part: Floats, whole: Floats) -> Floats:
    """`part / whole`, nan where the whole is 0."""
    shares: Floats = np.divide(part, whole, out=np.full(np.shape(part), np.nan), where=np.asarray(whole) > 0)
    return shares


def _within(tables: Floats, steps: int) -> Floats:
    grades = tables.shape[-1]
    near = np.abs(np.subtract.outer(np.arange(grades), np.arange(grades))) <= steps
    return _share((tables * near).sum(axis=(-2, -1)), tables.sum(axis=(-2, -1)))


def _kappas(tables: Floats, weights: Floats) -> Floats:
    """Weighted kappa of each table of a stack `(..., k, k)`, nan where chance gives no disagreement."""
    expected = np.einsum("...i,...j,ij->...", tables.sum(axis=-1), tables.sum(axis=-2), weights)
    seen = (tables * weights).sum(axis=(-2, -1)) * tables.sum(axis=(-2, -1))
    return 1.0 - _share(seen, expected)
