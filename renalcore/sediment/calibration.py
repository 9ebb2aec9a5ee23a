"""Scores turned into probabilities: the chance that a counted box is a particle of its class, at IoU 0.5.

A score `s` becomes `1 / (1 + exp(-(slope * log(s / (1 - s)) + intercept)))`: Platt (1999), or with the intercept 0
temperature scaling (Guo et al., 2017). The slope is positive, so within a class no box overtakes another and average
precision stays. Isotonic regression would make ties, which change it, and beta calibration has a number more; on the
8 samples that the committed model was measured on, both did worse on samples left out than the temperature alone.

Which of a particle's labels is its best is decided before, on the network's own scores. Deciding it on the calibrated
ones changed none of the 28 confusions of RBC and WBC of that model (its temperatures differ, 2.4 and 1.5, but what is
taken for the other is so by a wide margin), and would compare probabilities with the scores of classes that have none.

Fitted on all counted boxes of a class where enough were hits and misses, on those of all validated classes together
where they were not. Classes without held-out figures keep the network's scores. How good it is, is told by boxes of
samples that it was not fitted on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from renalcore.models import Calibration

Form = Literal["temperature", "Platt"]
FORMS: Final[tuple[Form, ...]] = ("temperature", "Platt")

ENOUGH: Final = 50
"""Hits, and misses, from which a class gets a fit of its own: twenty or more for each of its two numbers."""

FOLDS: Final = 5
"""Parts that the samples are divided into, each judged by a fit on the others."""

_EDGE: Final = 1e-6  # scores nearer to 0 or 1 are taken for this near: their logit would be infinite


@dataclass(frozen=True, slots=True, eq=False)
class Counted:
    """The boxes of one class that count, judged by labels.

    Attributes:
        scores: `(N,)` the network's scores.
        hit: `(N,)` which of them are right.
        folds: `(N,)` the part that their sample belongs to.
    """

    scores: NDArray[np.float64]
    hit: NDArray[np.bool_]
    folds: NDArray[np.int64]

    def where(self, keep: NDArray[np.bool_]) -> Counted:
        """The boxes chosen by a mask."""
        return Counted(self.scores[keep], self.hit[keep], self.folds[keep])

    @classmethod
    def together(cls, parts: Sequence[Counted]) -> Counted:
        """The boxes of several classes as if they were of one."""
        columns = ("scores", "hit", "folds")
        return cls(*(np.concatenate([getattr(part, column) for part in parts]) for column in columns))


def probabilities(scores: NDArray[np.floating], calibration: Calibration | None) -> NDArray[np.float64]:
    """The scores of one class as probabilities; unchanged without a calibration."""
    found = np.asarray(scores, np.float64)
    return found if calibration is None else _sigmoid(calibration.slope * _logit(found) + calibration.intercept)


def network_score(probability: float, calibration: Calibration | None) -> float:
    """The network's score that becomes this probability."""
    if calibration is None:
        return probability
    return float(_sigmoid((_logit(np.array(probability)) - calibration.intercept) / calibration.slope))


def of_boxes(
    scores: NDArray[np.floating],
    class_ids: NDArray[np.integer],
    classes: Sequence[str],
    calibrations: Mapping[str, Calibration],
) -> NDArray[np.float64]:
    """`probabilities` of boxes of several classes.

    Args:
        scores: `(N,)` the network's scores.
        class_ids: `(N,)` indices into `classes`.
        classes: Names of the classes.
        calibrations: By class name; a class without one keeps its scores.
    """
    found = np.array(scores, np.float64)
    for name, calibration in calibrations.items():
        own = np.asarray(class_ids) == classes.index(name)
        found[own] = probabilities(found[own], calibration)
    return found


def fit(counted: Mapping[str, Counted], form: Form) -> dict[str, Calibration]:
    """The calibration of every class that has boxes enough, alone or together with the others; of no other.

    Args:
        counted: The boxes of each class.
        form: `temperature` fits the slope alone, `Platt` slope and intercept.
    """
    if not counted:
        return {}
    pooled = _fit(Counted.together(list(counted.values())), form, pooled=True)
    own = {name: _fit(boxes, form) or pooled for name, boxes in counted.items()}
    return {name: found for name, found in own.items() if found is not None}


def cross_fitted(counted: Mapping[str, Counted], form: Form) -> dict[str, NDArray[np.float64]]:
    """The probabilities of the boxes of each class, those of each fold by the fit on all other folds."""
    found = {name: np.array(boxes.scores) for name, boxes in counted.items()}
    for fold in np.unique(np.concatenate([boxes.folds for boxes in counted.values()])).tolist() if counted else ():
        others = fit({name: boxes.where(boxes.folds != fold) for name, boxes in counted.items()}, form)
        for name, boxes in counted.items():
            here = boxes.folds == fold
            found[name][here] = probabilities(boxes.scores[here], others.get(name))
    return found


def chosen_form(counted: Mapping[str, Counted]) -> Form | None:
    """The form that tells most of boxes it was not fitted on; None where the network's own scores tell more.

    Measured by the mean over the classes of the log loss, one form for all classes, so that little is chosen. Nothing
    is chosen where all boxes lie in one fold: nobody would know how good it is.
    """
    if len({fold for boxes in counted.values() for fold in boxes.folds.tolist()}) < 2:
        return None
    losses: dict[Form | None, float] = {
        form: float(np.mean([_log_loss(scores, counted[name].hit) for name, scores in told.items()]))
        for form, told in ((form, cross_fitted(counted, form)) for form in FORMS)
    }
    losses[None] = float(np.mean([_log_loss(boxes.scores, boxes.hit) for boxes in counted.values()]))
    return min(losses, key=losses.__getitem__)


def _fit(boxes: Counted, form: Form, *, pooled: bool = False) -> Calibration | None:
    """The logistic regression of the hits on the scores' logits, by Newton's method; None where it tells nothing."""
    hits, misses = int(boxes.hit.sum()), int((~boxes.hit).sum())
    if min(hits, misses) < ENOUGH:
        return None
    # Platt's targets: as if one more box had been a hit and one a miss, so that no fit becomes certain.
    target = np.where(boxes.hit, (hits + 1) / (hits + 2), 1 / (misses + 2))
    logits = _logit(boxes.scores)
    design = np.column_stack([logits, np.ones_like(logits)][: 1 if form == "temperature" else 2])
    weights = np.eye(design.shape[1])[0]
    for _ in range(100):
        told = _sigmoid(design @ weights)
        curvature = (design * (told * (1 - told))[:, None]).T @ design + 1e-9 * np.eye(len(weights))
        step = np.linalg.solve(curvature, design.T @ (told - target)).clip(-1, 1)
        weights = weights - step
        if np.abs(step).max() < 1e-9:
            break
    slope, intercept = (*weights.tolist(), 0.0)[:2]
    if slope < 0.001:
        return None  # scores that do not rise with the hits tell no probability
    return Calibration(round(slope, 4), round(intercept, 4), hits + misses, pooled)


def _log_loss(told: NDArray[np.float64], hit: NDArray[np.bool_]) -> float:
    right = np.where(hit, told, 1 - told)
    return float(-np.log(right.clip(_EDGE)).mean()) if len(hit) else 0.0


def _logit(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    inside = scores.clip(_EDGE, 1 - _EDGE)
    found: NDArray[np.float64] = np.log(inside / (1 - inside))
    return found


def _sigmoid(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    found: NDArray[np.float64] = 1 / (1 + np.exp(-logits))
    return found
