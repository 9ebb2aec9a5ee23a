"""Evaluation of a sediment detector on labelled fields: the papers' tables, confusion and calibration.

Alizadeh et al. (2025), equations 8 to 10 and Table 7. Average precision follows COCO's reference evaluator
(`renalcore.metrics.detection`) and ranks every label of a particle; precision, recall, confusion and calibration are
those of the best label alone, which is what counts, at IoU 0.5.

The count table is Table I of Xiang et al., "Urine Calcium Oxalate Crystallization Recognition Method Based on Deep
Learning", for every class.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from renalcore import taxonomy
from renalcore.errors import InputError
from renalcore.export.figures import plain, write_json, write_table
from renalcore.io.image import read_field
from renalcore.metrics import detection
from renalcore.metrics.detection import ANY, Bools, Ints, Matches, Objects, OperatingPoint, Predictions, Reliability
from renalcore.models import Calibration
from renalcore.sediment import predictions
from renalcore.sediment.calibration import FOLDS, Counted, chosen_form, cross_fitted, fit, of_boxes
from renalcore.sediment.card import OBJECTS_TO_VALIDATE, SCORE_UNVALIDATED
from renalcore.sediment.groups import split_groups
from renalcore.sediment.names import IGNORE
from renalcore.sediment.predict import LOWEST_SCORE

if TYPE_CHECKING:
    from renalcore.sediment.predict import SedimentDetector
    from renalcore.sediment.readers import LabelledField

RED_AND_WHITE = (("WBC", "RBC", 0.38), ("RBC", "WBC", 0.43))
"""True class, what it is called, and the share of the missed ones that the paper reports for it."""

BACKGROUND = "background"


@dataclass(frozen=True, slots=True)
class ClassFigures:
    """One row of Table 7.

    Attributes:
        name: The class.
        images: Fields in which somebody looked for it.
        images_with_class: Those of them that hold it.
        objects: Number of its objects in them.
        ap50: Average precision at IoU 0.5; nan without objects.
        ap50_95: Mean average precision over IoU 0.5 to 0.95; nan without objects.
        best: Precision and recall at the score that gives the best F1; `SCORE_UNVALIDATED` where nothing is hit.
        reported: The same at the score from which the class is reported.
        calibration_error: Expected calibration error of its scores; nan without boxes.
        ap50_one_label: `ap50` where only the best label of each particle is ranked, as in counts.
        ap50_95_one_label: `ap50_95` likewise.
    """

    name: str
    images: int
    images_with_class: int
    objects: int
    ap50: float
    ap50_95: float
    best: OperatingPoint
    reported: OperatingPoint
    calibration_error: float
    ap50_one_label: float
    ap50_95_one_label: float


@dataclass(frozen=True, slots=True)
class Counts:
    """One row of Xiang et al., Table I: boxes as reported, counted.

    The paper calls the accuracy the "coincidence rate" between recognition and expert and gives no equation; its own
    numbers fit correct by total (258 / 344 = 0.75, printed as 0.74). It does not say what its "missed" are either
    (258 correct and 16 missed are not its 344); here they are all objects that are not correctly identified. A box is
    correct when it overlaps an object of its class, not yet taken by a better box, by IoU 0.5.

    Attributes:
        name: The class.
        total: Objects that the expert marked.
        correct: Those of them that were found.
        false: Boxes reported that are none of them; those in regions to ignore do not count.
        missed: Objects that were not found.
    """

    name: str
    total: int
    correct: int
    false: int
    missed: int

    @property
    def accuracy(self) -> float:
        """Share of the objects that were correctly identified; nan without objects."""
        return self.correct / self.total if self.total else math.nan

    @classmethod
    def of(cls, name: str, matches: Matches, min_score: float) -> Counts:
        """What is counted of `matches` when boxes scoring below `min_score` are left out."""
        scores, hit = matches.judged()
        reported = hit[scores >= min_score]
        correct = int(reported.sum())
        return cls(name, matches.objects, correct, len(reported) - correct, matches.objects - correct)


@dataclass(frozen=True, slots=True)
class Averages:
    """The four columns of Table 7 averaged over classes, precision and recall being those at the best F1."""

    precision: float
    recall: float
    ap50: float
    ap50_95: float


@dataclass(frozen=True, slots=True)
class Mistaken:
    """How many of the missed objects of one class were called another, which the paper tells of RBC and WBC.

    The paper says no more than "38% of the undetected WBC instances were misclassified as RBC". Here an object is
    missed when the box that overlaps it most, at IoU 0.5 or more, has another class, or there is none.
    """

    true: str
    called: str
    objects: int
    missed: int
    mistaken: int
    paper: float

    @property
    def share(self) -> float:
        """Of the missed ones, the share called `called`; nan when none is missed."""
        return self.mistaken / self.missed if self.missed else math.nan


@dataclass(frozen=True, slots=True)
class CalibrationCheck:
    """Expected calibration error of the counted boxes of one class, before and after a calibration fitted here.

    Attributes:
        name: The class, or `all` for those of all validated classes together.
        boxes: How many boxes.
        before: Error of the network's own scores.
        after: Error of each box's probability by a fit on the samples of other folds, see
            `renalcore.sediment.calibration`; nan where no calibration was better than none.
    """

    name: str
    boxes: int
    before: float
    after: float


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """Everything measured of one model on one set of fields.

    Attributes:
        rows: A row for each class that somebody looked for, in the taxonomy's order.
        unweighted, weighted: Averages over the classes with objects, each class or each object alike.
        validated: Classes with at least `OBJECTS_TO_VALIDATE` objects.
        unweighted_validated, weighted_validated: Averages over those.
        min_score: Scores from which each class is reported; `confusion` is measured with them.
        names: Names of the rows and columns of `confusion`, without the background.
        confusion: True class (row) by predicted class (column), background last.
        calibration: Of all scores.
        calibration_by_class: By class.
        red_and_white: RBC and WBC taken for each other.
        counts: The count table, at the scores from which each class is reported.
        calibration_used: What made the network's scores probabilities, by class; empty where nothing did.
        calibrated: What calibration does to the scores; empty where the predictions do not tell the network's own.
    """

    rows: tuple[ClassFigures, ...]
    unweighted: Averages
    weighted: Averages
    validated: tuple[str, ...]
    unweighted_validated: Averages
    weighted_validated: Averages
    min_score: Mapping[str, float]
    names: tuple[str, ...]
    confusion: Ints
    calibration: Reliability
    calibration_by_class: Mapping[str, Reliability]
    red_and_white: tuple[Mistaken, ...]
    counts: tuple[Counts, ...]
    calibration_used: Mapping[str, Calibration]
    calibrated: tuple[CalibrationCheck, ...]

    def mistakes(self, name: str) -> str:
        """In words, what becomes of the objects of `name` that are missed."""
        own = self.names.index(name)
        row = self.confusion[own].tolist()
        missed = sum(row) - row[own]
        others = {other: count for other, count in zip(self.names, row, strict=False) if other != name}
        words = f"of {sum(row)} objects {missed} are missed, {row[-1]} of them not boxed at all"
        called = max(others, key=others.__getitem__, default="")
        return f"{words} and {others[called]} called {called}" if others.get(called) else words


def detect(
    detector: SedimentDetector, fields: Sequence[LabelledField], *, done: Callable[[], object] = lambda: None
) -> dict[str, Any]:
    """Search `fields`; the result has the form of `predict sediment`, and names the weights as well.

    Scores are the network's own, before any calibration (`"calibrated": false`), so that one can be fitted and judged.

    Args:
        detector: The model.
        fields: What to search.
        done: Called after each field.

    Raises:
        InputError: A picture cannot be read, or two have one name.
    """
    _check_names(fields)
    images: list[dict[str, Any]] = []
    boxes: list[dict[str, Any]] = []
    for labelled in fields:
        field = read_field(labelled.path, name=labelled.path.name)
        start = time.perf_counter()
        found, best = detector.every_label(field, calibrated=False)
        images.append(predictions.image_row(labelled.path.name, field, time.perf_counter() - start))
        boxes += predictions.box_rows(labelled.path.name, found, best)
        done()
    card = detector.card
    about = {"model": card.key, "weights_sha256": card.sha256, "calibrated": False}
    return {**about, "images": images, "predictions": boxes}


def evaluate(
    fields: Sequence[LabelledField],
    found: Mapping[str, Any],
    *,
    classes: Sequence[str] = taxonomy.NAMES,
    min_score: Mapping[str, float] | None = None,
    calibration: Mapping[str, Calibration] | None = None,
) -> Evaluation:
    """Judge predictions by labels.

    Predictions that tell the network's own scores (`"calibrated": false`, as `detect` gives them) are calibrated
    first; all figures but those of `Evaluation.calibrated` are of the scores that result.

    Args:
        fields: The labels; a class that is not known in a field is not judged there.
        found: Predictions in the form of `predict sediment`; of other images than `fields` they are left out.
        classes: Classes the model knows; others are not judged.
        min_score: Score from which each class is reported. By default it is chosen here: the best F1 where a class has
            `OBJECTS_TO_VALIDATE` objects, else `SCORE_UNVALIDATED`.
        calibration: What makes the network's scores probabilities. By default it is fitted here, for the classes that
            have `OBJECTS_TO_VALIDATE` objects.

    Raises:
        InputError: A field was not searched, two have one name, or nothing can be judged in them.
    """
    _check_names(fields)
    searched = {image["file_name"] for image in found["images"]}
    if absent := [field.path.name for field in fields if field.path.name not in searched]:
        raise InputError(
            f"the predictions lack {len(absent)} of the {len(fields)} labelled fields, e.g. {absent[0]}: "
            "predict all of them, or leave --predictions out"
        )
    known = np.stack([field.known for field in fields]) & np.isin(taxonomy.NAMES, classes)
    objects, (boxes, best_label) = _objects(fields), _boxes(fields, found)
    judged = np.flatnonzero(known.any(0))
    if not len(judged):
        raise InputError("none of the model's classes was looked for in these fields; there is nothing to judge")
    checks: tuple[CalibrationCheck, ...] = ()
    if found.get("calibrated") is False:
        fitted, checks = _calibration(fields, objects, boxes.where(best_label), known)
        calibration = fitted if calibration is None else calibration
        boxes = replace(boxes, scores=of_boxes(boxes.scores, boxes.class_ids, taxonomy.NAMES, calibration))
    else:
        calibration = {}
    ranked = detection.match(objects, boxes, known)
    boxes = boxes.where(best_label)
    matches = detection.match(objects, boxes, known)
    offered = detection.HUNDREDTHS  # what the network scores least is told by any calibrated score
    if not calibration:
        offered = offered[offered >= LOWEST_SCORE]
    best = {i: detection.best_operating_point(matches[i], min_scores=offered) for i in judged}
    validated = [i for i in judged if matches[i].objects >= OBJECTS_TO_VALIDATE]
    if min_score is None:
        min_score = dict.fromkeys(classes, SCORE_UNVALIDATED) | {
            taxonomy.NAMES[i]: point.min_score for i in validated if (point := best[i])
        }
    rows = []
    for i in judged:
        precision, one_label = (detection.average_precision(by[i]) for by in (ranked, matches))
        there = known[:, i] & np.array([(field.class_ids == i).any() for field in fields])
        rows.append(
            ClassFigures(
                taxonomy.NAMES[i],
                int(known[:, i].sum()),
                int(there.sum()),
                matches[i].objects,
                float(precision[0]),
                float(precision.mean()),
                best[i] or detection.operating_point(matches[i], SCORE_UNVALIDATED),
                detection.operating_point(matches[i], min_score[taxonomy.NAMES[i]]),
                detection.reliability(*matches[i].judged()).expected_error,
                float(one_label[0]),
                float(one_label.mean()),
            )
        )
    limits = np.array([min_score.get(name, np.inf) for name in taxonomy.NAMES])
    confusion = detection.confusion(objects, boxes.where(boxes.scores >= limits[boxes.class_ids]), known)
    names, confusion = _seen(confusion, known)
    unweighted, weighted = _averages(rows)
    chosen = tuple(taxonomy.NAMES[i] for i in validated)
    unweighted_validated, weighted_validated = _averages([row for row in rows if row.name in chosen])
    scores, hit = (np.concatenate(parts) for parts in zip(*(matches[i].judged() for i in judged), strict=True))
    return Evaluation(
        tuple(rows),
        unweighted,
        weighted,
        chosen,
        unweighted_validated,
        weighted_validated,
        min_score,
        names,
        confusion,
        detection.reliability(scores, hit),
        {taxonomy.NAMES[i]: detection.reliability(*matches[i].judged()) for i in judged},
        tuple(_mistaken(names, confusion, *pair) for pair in RED_AND_WHITE if {*pair[:2]} <= {*names}),
        tuple(Counts.of(taxonomy.NAMES[i], matches[i], min_score[taxonomy.NAMES[i]]) for i in judged),
        calibration,
        checks,
    )


def write(evaluation: Evaluation, folder: Path, *, about: Mapping[str, str]) -> None:
    """Write `table7.csv`, `counts.csv`, `confusion.csv`, `calibration.csv` and `evaluation.json` into `folder`.

    Args:
        evaluation: What to write.
        folder: Where; it must exist.
        about: What was measured on what, e.g. model, data and command; the head of `evaluation.json`.
    """
    write_table(folder / "table7.csv", _table7(evaluation))
    table: list[list[Any]] = [["class", "total", "correct", "false", "missed", "accuracy", "min_score"]]
    table += [
        [row.name, row.total, row.correct, row.false, row.missed, row.accuracy, evaluation.min_score[row.name]]
        for row in evaluation.counts
    ]
    write_table(folder / "counts.csv", table)
    names = [*evaluation.names, BACKGROUND]
    table = [["true \\ predicted", *names]]
    table += [[name, *row] for name, row in zip(names, evaluation.confusion.tolist(), strict=True)]
    write_table(folder / "confusion.csv", table)
    table = [["class", "score_from", "score_to", "boxes", "mean_score", "true_share"]]
    for name, curve in {"all": evaluation.calibration, **evaluation.calibration_by_class}.items():
        columns = (curve.edges[:-1], curve.edges[1:], curve.boxes, curve.mean_score, curve.true_share)
        table += [[name, *row] for row in zip(*(column.tolist() for column in columns), strict=True)]
    write_table(folder / "calibration.csv", table)
    write_json(folder / "evaluation.json", plain({**about, **_content(evaluation)}))


def _check_names(fields: Sequence[LabelledField]) -> None:
    if not fields:
        raise InputError("there are no labelled fields to evaluate on; check the data folder and the split")
    count = Counter(field.path.name for field in fields)
    if twice := sorted(name for name, times in count.items() if times > 1):
        raise InputError(f"several fields are called {twice[0]}, and results are told apart by file name: rename them")


def _objects(fields: Sequence[LabelledField]) -> Objects:
    class_ids = np.concatenate([field.class_ids for field in fields])
    region = class_ids == IGNORE
    return Objects(
        np.repeat(np.arange(len(fields)), [len(field.class_ids) for field in fields]),
        np.concatenate([field.boxes_px for field in fields]).astype(np.float64),
        np.where(region, ANY, class_ids),
        region,
    )


def _boxes(fields: Sequence[LabelledField], found: Mapping[str, Any]) -> tuple[Predictions, Bools]:
    """All boxes, and which of them carry the best label of their particle."""
    index = {field.path.name: row for row, field in enumerate(fields)}
    rows = [row for row in found["predictions"] if row["file_name"] in index]
    boxes = np.array([row["bbox"] for row in rows], np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return Predictions(
        np.array([index[row["file_name"]] for row in rows], np.int64),
        boxes,
        np.array([taxonomy.class_id(row["category"]) for row in rows], np.int64),
        np.array([row["score"] for row in rows], np.float64),
    ), ~np.array([row.get("alternative", False) for row in rows], np.bool_)


def _calibration(
    fields: Sequence[LabelledField], objects: Objects, counted: Predictions, known: Bools
) -> tuple[dict[str, Calibration], tuple[CalibrationCheck, ...]]:
    """The calibration that fits the counted boxes of the validated classes, and its error on samples left out."""
    groups = len({field.group for field in fields})
    folds = split_groups(fields, min(FOLDS, groups)) if groups > 1 else [tuple({field.group for field in fields})]
    fold_of = {group: fold for fold, members in enumerate(folds) for group in members}
    fold_of_field = np.array([fold_of[field.group] for field in fields])
    by_fold = [detection.match(objects, counted, known & (fold_of_field == i)[:, None]) for i in range(len(folds))]
    boxes: dict[str, Counted] = {}
    for class_id, name in enumerate(taxonomy.NAMES):
        if sum(matches[class_id].objects for matches in by_fold) >= OBJECTS_TO_VALIDATE:
            parts = [matches[class_id].judged() for matches in by_fold]
            boxes[name] = Counted.together(
                [Counted(scores, hit, np.full(len(hit), fold)) for fold, (scores, hit) in enumerate(parts)]
            )
    form = chosen_form(boxes)
    after = (
        cross_fitted(boxes, form) if form else {name: np.full(len(each.hit), np.nan) for name, each in boxes.items()}
    )

    def check(name: str, parts: Sequence[str]) -> CalibrationCheck:
        each = Counted.together([boxes[part] for part in parts])
        told = np.concatenate([after[part] for part in parts])
        error = detection.reliability(told, each.hit).expected_error if form else math.nan
        return CalibrationCheck(name, len(told), detection.reliability(each.scores, each.hit).expected_error, error)

    checks = tuple(check(*row) for row in (*((name, [name]) for name in boxes), ("all", [*boxes]))) if boxes else ()
    return fit(boxes, form) if form else {}, checks


def _averages(rows: Sequence[ClassFigures]) -> tuple[Averages, Averages]:
    counts = np.array([row.objects for row in rows], np.int64)
    columns = [(row.best.precision, row.best.recall, row.ap50, row.ap50_95) for row in rows]
    values = np.array(columns, np.float64).reshape(-1, 4)
    means = [detection.class_averages(column, counts) for column in values.T]
    return Averages(*(mean for mean, _ in means)), Averages(*(mean for _, mean in means))


def _seen(confusion: Ints, known: Bools) -> tuple[tuple[str, ...], Ints]:
    """The confusion matrix without classes that were neither looked for nor found."""
    shown = known.any(0) | (confusion.sum(0) + confusion.sum(1) > 0)[:-1]
    keep = np.append(np.flatnonzero(shown), len(shown))
    return tuple(taxonomy.NAMES[i] for i in keep[:-1]), confusion[np.ix_(keep, keep)]


def _mistaken(names: Sequence[str], confusion: Ints, true: str, called: str, paper: float) -> Mistaken:
    row = confusion[names.index(true)]
    missed = int(row.sum() - row[names.index(true)])
    return Mistaken(true, called, int(row.sum()), missed, int(row[names.index(called)]), paper)


def _table7(evaluation: Evaluation) -> list[list[Any]]:
    table: list[list[Any]] = [
        ["class", "images", "images_with_class", "objects", "precision", "recall", "mAP50", "mAP50-95", "min_score",
         "precision_as_reported", "recall_as_reported", "min_score_as_reported", "calibration_error",
         "mAP50_one_label", "mAP50-95_one_label", "calibration_error_of_network", "calibration_error_cross_fitted"]
    ]  # fmt: skip
    checks = {check.name: (check.before, check.after) for check in evaluation.calibrated}
    for row in evaluation.rows:
        table.append(
            [row.name, row.images, row.images_with_class, row.objects, row.best.precision, row.best.recall, row.ap50,
             row.ap50_95, row.best.min_score, row.reported.precision, row.reported.recall, row.reported.min_score,
             row.calibration_error, row.ap50_one_label, row.ap50_95_one_label,
             *checks.get(row.name, (math.nan, math.nan))]
        )  # fmt: skip
    validated = f"of classes with {OBJECTS_TO_VALIDATE} objects"
    for name, mean in (
        ("Unweighted average", evaluation.unweighted),
        ("Weighted average", evaluation.weighted),
        (f"Unweighted average {validated}", evaluation.unweighted_validated),
        (f"Weighted average {validated}", evaluation.weighted_validated),
    ):
        table.append([name, "", "", "", mean.precision, mean.recall, mean.ap50, mean.ap50_95])
    return table


def _content(evaluation: Evaluation) -> dict[str, Any]:
    def curve(found: Reliability) -> dict[str, Any]:
        return {
            "expected_error": found.expected_error,
            "edges": found.edges.tolist(),
            "boxes": found.boxes.tolist(),
            "mean_score": found.mean_score.tolist(),
            "true_share": found.true_share.tolist(),
        }

    names = ("unweighted", "weighted", "unweighted_validated", "weighted_validated")
    return {
        "classes": [asdict(row) for row in evaluation.rows],
        "averages": {name: asdict(getattr(evaluation, name)) for name in names},
        "validated": evaluation.validated,
        "counts": [{**asdict(row), "accuracy": row.accuracy} for row in evaluation.counts],
        "min_score": dict(evaluation.min_score),
        "confusion": {"names": [*evaluation.names, BACKGROUND], "counts": evaluation.confusion.tolist()},
        "red_and_white": [{**asdict(pair), "share": pair.share} for pair in evaluation.red_and_white],
        "calibration": {
            "all": curve(evaluation.calibration),
            **{name: curve(found) for name, found in evaluation.calibration_by_class.items()},
        },
        "calibration_used": {name: asdict(found) for name, found in evaluation.calibration_used.items()},
        "calibration_error": [asdict(check) for check in evaluation.calibrated],
    }
