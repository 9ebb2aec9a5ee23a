"""Table 8 of the paper: how well reports and technologists agree, component by component and over all.

Accuracy alone flatters a component that is almost always "none", so beside it stand agreement within one grade and
weighted kappa with 95 % intervals (`renalcore.metrics.agreement`), and the whole confusion.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from renalcore.datasets.findings import counted
from renalcore.metrics import agreement
from renalcore.metrics.agreement import Estimate, Floats
from renalcore.sediment.grades import GRADES

TABLE_8: Final[Mapping[str, float]] = {
    "RBC": 0.8731,
    "WBC": 0.8840,
    "Epithelium": 0.9710,
    "Calcium oxalate": 0.9379,
    "Bacteria": 0.5936,
    "Mucus": 0.9332,
}
"""The paper's patient-level accuracy of each component, 84 patients."""
TABLE_8_MEAN: Final = 0.8655

METHOD: Final = (
    "Intervals: 95 % percentile bootstrap over patients (whole patients drawn with replacement). "
    "Kappa: Cohen 1968, linear and quadratic weights on five grades."
)


@dataclass(frozen=True, slots=True)
class Pair:
    """One component of one specimen, graded by both.

    Attributes:
        patient: The patient's identifier.
        accession: The specimen.
        component: A class, or a set of them.
        line: Line of the technologists' file.
        written: What the technologist wrote.
        technologist: Its index in `GRADES`.
        reported: What the report says: its grade, or its mean with the unit.
        report: Its index in `GRADES`.
        from_mean: Whether the mean was graded here and not the reported grade read.
        crossed: Cut-offs that the technologist's range reaches over.
    """

    patient: str
    accession: str
    component: str
    line: int
    written: str
    technologist: int
    reported: str
    report: int
    from_mean: bool
    crossed: tuple[float, ...]

    @property
    def steps(self) -> int:
        """How many grades the report lies above the technologist."""
        return self.report - self.technologist


@dataclass(frozen=True, slots=True)
class ComponentAgreement:
    """A line of Table 8, with what the table leaves out.

    Attributes:
        component: A class, or a set of them.
        patients: Patients compared.
        specimens: Specimens compared.
        accuracy: Share with the same grade.
        within_one: Share at most one grade apart.
        linear: Kappa with linear weights.
        quadratic: Kappa with quadratic weights.
        confusion: Counts, technologists' grade down the rows, the report's across.
        paper: The paper's accuracy, where Table 8 has the component.
        notes: What a reader must know about these figures.
    """

    component: str
    patients: int
    specimens: int
    accuracy: Estimate
    within_one: Estimate
    linear: Estimate
    quadratic: Estimate
    confusion: tuple[tuple[int, ...], ...]
    paper: float | None
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Overall:
    """All components together.

    Attributes:
        patients: Patients compared in at least one component.
        values: Values compared.
        mean_accuracy: Unweighted mean of the components' accuracies, the last line of Table 8.
        accuracy: Share of all values with the same grade.
        within_one: Share of all values at most one grade apart.
        linear: Kappa of all values, linear weights.
        quadratic: Kappa of all values, quadratic weights.
    """

    patients: int
    values: int
    mean_accuracy: Estimate
    accuracy: Estimate
    within_one: Estimate
    linear: Estimate
    quadratic: Estimate


def component_agreement(name: str, pairs: Sequence[Pair], *, seed: int, resamples: int) -> ComponentAgreement:
    """The line of one component, of its pairs alone."""
    stack = _stack(pairs, (name,))[:, 0]
    whole = stack.sum(axis=0).astype(int)
    return ComponentAgreement(
        name,
        len(stack),
        len(pairs),
        agreement.accuracy_over_patients(stack, seed=seed, resamples=resamples),
        agreement.accuracy_over_patients(stack, steps=1, seed=seed, resamples=resamples),
        agreement.kappa_over_patients(stack, "linear", seed=seed, resamples=resamples),
        agreement.kappa_over_patients(stack, "quadratic", seed=seed, resamples=resamples),
        tuple(tuple(int(count) for count in row) for row in whole),
        TABLE_8.get(name),
        _notes(pairs),
    )


def overall(pairs: Sequence[Pair], *, seed: int, resamples: int) -> Overall:
    """The last lines, of the pairs of all components."""
    stack = _stack(pairs, tuple({pair.component: None for pair in pairs}))
    pooled = stack.sum(axis=1)
    return Overall(
        len(stack),
        len(pairs),
        agreement.over_patients(stack, _mean_accuracy, seed=seed, resamples=resamples),
        agreement.accuracy_over_patients(pooled, seed=seed, resamples=resamples),
        agreement.accuracy_over_patients(pooled, steps=1, seed=seed, resamples=resamples),
        agreement.kappa_over_patients(pooled, "linear", seed=seed, resamples=resamples),
        agreement.kappa_over_patients(pooled, "quadratic", seed=seed, resamples=resamples),
    )


def _stack(pairs: Sequence[Pair], components: Sequence[str]) -> Floats:
    """`(patients, components, 5, 5)`: how often each grade of the technologist met each of the report."""
    patients = {patient: index for index, patient in enumerate(dict.fromkeys(pair.patient for pair in pairs))}
    places = {name: index for index, name in enumerate(components)}
    stack = np.zeros((len(patients), len(places), len(GRADES), len(GRADES)))
    for pair in pairs:
        stack[patients[pair.patient], places[pair.component], pair.technologist, pair.report] += 1
    return stack


def _mean_accuracy(tables: Floats) -> Floats:
    """Unweighted mean over the components that have a case, `(n, components, 5, 5)` to `(n,)`."""
    cases = tables.sum(axis=(-2, -1))
    right = np.trace(tables, axis1=-2, axis2=-1)
    shares = np.divide(right, cases, out=np.zeros_like(right), where=cases > 0)
    mean: Floats = shares.sum(axis=-1) / (cases > 0).sum(axis=-1)
    return mean


def _notes(pairs: Sequence[Pair]) -> tuple[str, ...]:
    notes = []
    technologists = Counter(pair.technologist for pair in pairs)
    reports = Counter(pair.report for pair in pairs)
    for whose, counts in (("technologists give", technologists), ("reports give", reports)):
        if len(counts) == 1 and len(technologists) + len(reports) > 2:
            notes.append(f"The {whose} {GRADES[next(iter(counts))]!r} throughout: kappa is 0 whatever the agreement.")
    if not any(pair.from_mean for pair in pairs):
        never = [
            f"{GRADES[grade]!r} {counted(count, 'time')}"
            for grade, count in sorted(technologists.items())
            if not reports[grade]
        ]
        if never:
            notes.append(
                f"Technologists give {' and '.join(never)}, the reports never: see whether their cut-off table has "
                "that step, or grade the means anew."
            )
    from_mean = sum(pair.from_mean for pair in pairs)
    if 0 < from_mean < len(pairs):
        notes.append(f"{from_mean} of {len(pairs)} reports give no grade; their means were graded.")
    crossed = Counter(pair.written for pair in pairs if pair.crossed)
    if crossed:
        notes.append(
            f"{counted(crossed.total(), 'range')} over a cut-off, graded by the middle: "
            f"{', '.join(text for text, _ in crossed.most_common(3))}."
        )
    return tuple(notes)
