"""Figures of detectors: COCO's average precision, precision and recall, confusion, calibration.

Matching and average precision are those of COCO's reference evaluator (Lin et al., 2014; `pycocotools.cocoeval`), and
a test compares the two on random boxes. Labels may be partial: a class that nobody looked for in an image is not
judged there, so its boxes are no false positives and its absence is no miss. Regions to ignore are COCO's crowds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

COCO_IOUS: Floats = np.linspace(0.5, 0.95, 10)
"""Overlaps from which a box counts as a hit: AP50 is at the first, AP50-95 the mean over all."""

COCO_RECALLS: Floats = np.linspace(0, 1, 101)
"""Recalls at which precision is read for the average."""

HUNDREDTHS: Floats = np.arange(1, 100) / 100
"""Score thresholds among which the best is chosen, as fine as a model's card gives them."""

MOST_BOXES = 1000
"""Boxes of one class judged in one image, the best; COCO's 100 would cut fields full of cells short."""

ANY = -1
"""Class of a region in which every class is ignored."""


@dataclass(frozen=True, slots=True, eq=False)
class Objects:
    """What there is in a set of images, one row an object.

    Attributes:
        images: `(N,)` index of the image.
        boxes_px: `(N, 4)`, `[x1, y1, x2, y2]`.
        class_ids: `(N,)` class, or `ANY` for a region in which every class is ignored.
        ignored: `(N,)` regions to ignore (COCO's `iscrowd`): a box in one is neither hit nor false.

    Raises:
        ValueError: The columns differ in length, or `ANY` is not ignored.
    """

    images: Ints
    boxes_px: Floats
    class_ids: Ints
    ignored: Bools

    def __post_init__(self) -> None:
        _check_columns(self.boxes_px, self.images, self.class_ids, self.ignored)
        if not self.ignored[self.class_ids == ANY].all():
            raise ValueError("a box of every class can only be a region to ignore")

    def where(self, keep: Bools | Ints) -> Objects:
        """The rows chosen by a mask or by indices, in that order."""
        return Objects(self.images[keep], self.boxes_px[keep], self.class_ids[keep], self.ignored[keep])


@dataclass(frozen=True, slots=True, eq=False)
class Predictions:
    """What was found in a set of images, one row a box.

    Attributes:
        images: `(N,)` index of the image.
        boxes_px: `(N, 4)`, `[x1, y1, x2, y2]`.
        class_ids: `(N,)` class.
        scores: `(N,)` in 0..1.

    Raises:
        ValueError: The columns differ in length.
    """

    images: Ints
    boxes_px: Floats
    class_ids: Ints
    scores: Floats

    def __post_init__(self) -> None:
        _check_columns(self.boxes_px, self.images, self.class_ids, self.scores)

    def where(self, keep: Bools | Ints) -> Predictions:
        """The rows chosen by a mask or by indices, in that order."""
        return Predictions(self.images[keep], self.boxes_px[keep], self.class_ids[keep], self.scores[keep])


@dataclass(frozen=True, slots=True, eq=False)
class Matches:
    """The boxes of one class, best first, judged at several overlaps.

    Attributes:
        ious: `(T,)` overlaps from which a box counts as a hit.
        scores: `(N,)` descending.
        hit: `(T, N)` boxes matched with an object.
        ignored: `(T, N)` boxes matched with a region to ignore.
        objects: Number of objects to find.
    """

    ious: Floats
    scores: Floats
    hit: Bools
    ignored: Bools
    objects: int

    def judged(self, iou: float = 0.5) -> tuple[Floats, Bools]:
        """Scores of the boxes that count at `iou`, best first, and which of them are hits.

        Raises:
            ValueError: The boxes were not matched at `iou`.
        """
        rows = np.flatnonzero(np.isclose(self.ious, iou))
        if not len(rows):
            raise ValueError(f"matched at IoU {self.ious.round(3).tolist()}, not at {iou}")
        counted = ~self.ignored[rows[0]]
        return self.scores[counted], self.hit[rows[0]][counted]


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """What a detector does when boxes scoring below `min_score` are left out.

    Attributes:
        min_score: The threshold.
        precision: Share of the boxes that are hits; 0 where there is no box.
        recall: Share of the objects that were hit; 0 where there is no object.
    """

    min_score: float
    precision: float
    recall: float

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / total if total else 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Reliability:
    """How well scores tell the chance of being right (Guo et al., 2017).

    Attributes:
        edges: `(B + 1,)` limits of the bins.
        boxes: `(B,)` boxes in each.
        mean_score: `(B,)` their mean score, nan in an empty bin.
        true_share: `(B,)` share of them that are hits, nan in an empty bin.
        expected_error: Expected calibration error: mean of `|mean_score - true_share|` over the boxes; nan without any.
    """

    edges: Floats
    boxes: Ints
    mean_score: Floats
    true_share: Floats
    expected_error: float


def overlaps(boxes_px: Floats, others_px: Floats, crowd: Bools | None = None) -> Floats:
    """Intersection over union of every box with every other one.

    Args:
        boxes_px: `(N, 4)`, `[x1, y1, x2, y2]`.
        others_px: `(M, 4)`.
        crowd: `(M,)` regions; with them it is the share of the box that lies in the region.

    Returns:
        `(N, M)`.
    """
    corner = np.maximum(boxes_px[:, None, :2], others_px[None, :, :2])
    sides = np.clip(np.minimum(boxes_px[:, None, 2:], others_px[None, :, 2:]) - corner, 0, None)
    shared = sides.prod(2)
    area = (boxes_px[:, 2:] - boxes_px[:, :2]).prod(1)[:, None]
    union = area + (others_px[:, 2:] - others_px[:, :2]).prod(1)[None] - shared
    if crowd is not None:
        union = np.where(crowd[None], area, union)
    found: Floats = np.divide(shared, union, out=np.zeros_like(shared), where=shared > 0)
    return found


def paired(boxes_px: Floats, others_px: Floats, *, min_iou: float = 0.5) -> list[tuple[int, int]]:
    """Which box is which other one: pairs that overlap, each box in one pair at most, the closest pairs first.

    Args:
        boxes_px: `(N, 4)`, `[x1, y1, x2, y2]`.
        others_px: `(M, 4)`.
        min_iou: Lowest intersection over union of a pair.

    Returns:
        Indices into `boxes_px` and `others_px`.
    """
    ious = overlaps(boxes_px, others_px)
    boxes, others = np.nonzero(ious >= min_iou)
    closest_first = np.argsort(-ious[boxes, others], kind="stable")
    pairs: dict[int, int] = {}
    taken: set[int] = set()
    for box, other in zip(boxes[closest_first].tolist(), others[closest_first].tolist(), strict=True):
        if box not in pairs and other not in taken:
            pairs[box] = other
            taken.add(other)
    return list(pairs.items())


def match(
    objects: Objects,
    predictions: Predictions,
    known: Bools,
    *,
    ious: Floats = COCO_IOUS,
    most: int = MOST_BOXES,
) -> tuple[Matches, ...]:
    """Match boxes with objects of their class, the best box first, each with the object it overlaps most.

    Args:
        objects: What there is.
        predictions: What was found.
        known: `(images, classes)` classes that somebody looked for in an image; elsewhere a class is not judged.
        ious: Overlaps from which a box counts as a hit.
        most: Boxes of one class judged in one image (COCO's `maxDets`).

    Returns:
        One entry a class.
    """
    return tuple(
        _match_class(objects, predictions, known[:, class_id], class_id, ious, most)
        for class_id in range(known.shape[1])
    )


def average_precision(matches: Matches) -> Floats:
    """COCO's average precision at each overlap: `(T,)`, nan where there is no object.

    Precision, made to fall with recall, is read at 101 recalls and averaged.
    """
    if not matches.objects:
        return np.full(len(matches.ious), np.nan)
    hits = matches.hit.cumsum(1, dtype=np.float64)
    false = (~matches.hit & ~matches.ignored).cumsum(1, dtype=np.float64)
    averages = np.zeros(len(matches.ious))
    for row, (right, wrong) in enumerate(zip(hits, false, strict=True)):
        precision = right / (right + wrong + np.spacing(1))
        envelope = np.maximum.accumulate(precision[::-1])[::-1]
        places = np.searchsorted(right / matches.objects, COCO_RECALLS, side="left")
        averages[row] = np.append(envelope, 0.0)[places].mean()  # recalls never reached count as precision 0
    return averages


def operating_point(matches: Matches, min_score: float, *, iou: float = 0.5) -> OperatingPoint:
    """Precision and recall of the boxes that score `min_score` or more."""
    scores, hit = matches.judged(iou)
    hits = hit[scores >= min_score]
    return OperatingPoint(
        float(min_score),
        float(hits.mean()) if len(hits) else 0.0,
        float(hits.sum() / matches.objects) if matches.objects else 0.0,
    )


def best_operating_point(
    matches: Matches, *, iou: float = 0.5, min_scores: Floats = HUNDREDTHS
) -> OperatingPoint | None:
    """The lowest of `min_scores` that gives the best F1, with its precision and recall; None where nothing was hit."""
    points = [operating_point(matches, min_score, iou=iou) for min_score in min_scores.tolist()]
    best = max(points, key=lambda point: point.f1)
    return best if best.f1 > 0 else None


def confusion(objects: Objects, predictions: Predictions, known: Bools, *, iou: float = 0.5) -> Ints:
    """What objects are called: counts by true class (row) and predicted class (column), the last of each: background.

    Boxes and objects are paired irrespective of class, those that overlap most first, each once. Judged are objects
    of the classes known in their image, whatever they were called there, and unpaired boxes of those classes outside
    regions to ignore.

    Args:
        objects: What there is.
        predictions: What was found, and would be reported: thresholds are the caller's.
        known: `(images, classes)` as in `match`.
        iou: Overlap from which box and object are a pair.

    Returns:
        `(classes + 1, classes + 1)`.
    """
    images, classes = known.shape
    counts = np.zeros((classes + 1, classes + 1), np.int64)
    regions = objects.where(objects.ignored)
    there = objects.where(~objects.ignored)
    there = there.where(known[there.images, there.class_ids])
    rows_of_objects, rows_of_regions = _by_image(there.images, images), _by_image(regions.images, images)
    for image, found in enumerate(_by_image(predictions.images, images)):
        own, around = rows_of_objects[image], rows_of_regions[image]
        called = predictions.class_ids[found]
        shared = overlaps(predictions.boxes_px[found], there.boxes_px[own])
        free_box, free_object = np.ones(len(found), bool), np.ones(len(own), bool)
        for flat in np.argsort(-shared, axis=None, kind="stable"):
            box, target = divmod(int(flat), len(own))
            if shared[box, target] < iou:
                break
            if free_box[box] and free_object[target]:
                free_box[box] = free_object[target] = False
                counts[there.class_ids[own[target]], called[box]] += 1
        np.add.at(counts, (there.class_ids[own[free_object]], classes), 1)
        inside = overlaps(predictions.boxes_px[found], regions.boxes_px[around], np.ones(len(around), bool)) >= iou
        inside &= (regions.class_ids[around] == ANY) | (regions.class_ids[around] == called[:, None])
        false = free_box & known[image, called] & ~inside.any(1)
        np.add.at(counts, (classes, called[false]), 1)
    return counts


def reliability(scores: Floats, hit: Bools, *, bins: int = 10) -> Reliability:
    """Mean score and share of hits in bins of equal width, and the expected calibration error.

    Args:
        scores: `(N,)` in 0..1.
        hit: `(N,)` which of the boxes are right, e.g. `Matches.judged(0.5)`.
        bins: Number of bins.
    """
    edges = np.linspace(0, 1, bins + 1)
    place = np.clip(np.searchsorted(edges, scores, side="right") - 1, 0, bins - 1)
    boxes = np.bincount(place, minlength=bins)
    empty = np.full(bins, np.nan)
    mean_score = np.divide(np.bincount(place, scores, bins), boxes, out=empty.copy(), where=boxes > 0)
    true_share = np.divide(np.bincount(place, hit, bins), boxes, out=empty, where=boxes > 0)
    error = np.nansum(np.abs(mean_score - true_share) * boxes) / len(scores) if len(scores) else np.nan
    return Reliability(edges, boxes, mean_score, true_share, float(error))


def class_averages(values: Floats, objects: Ints) -> tuple[float, float]:
    """Mean over the classes that have objects: each class alike, and each object alike; nan where there is none."""
    there = objects > 0
    if not there.any():
        return float("nan"), float("nan")
    return float(values[there].mean()), float(np.average(values[there], weights=objects[there]))


def _match_class(
    objects: Objects, predictions: Predictions, known: Bools, class_id: int, ious: Floats, most: int
) -> Matches:
    own = objects.where(known[objects.images] & ((objects.class_ids == class_id) | (objects.class_ids == ANY)))
    found = predictions.where(known[predictions.images] & (predictions.class_ids == class_id))
    own = own.where(np.argsort(own.ignored, kind="stable"))
    scores, hit, ignored = [np.zeros(0)], [np.zeros((len(ious), 0), bool)], [np.zeros((len(ious), 0), bool)]
    rows_of_objects = _by_image(own.images, len(known))
    for image, rows in enumerate(_by_image(found.images, len(known))):
        if not len(rows):
            continue
        best = rows[np.argsort(-found.scores[rows], kind="stable")[:most]]
        targets = rows_of_objects[image]
        shared = overlaps(found.boxes_px[best], own.boxes_px[targets], own.ignored[targets])
        hit_here, ignored_here = _match_image(shared, own.ignored[targets], ious)
        scores.append(found.scores[best])
        hit.append(hit_here)
        ignored.append(ignored_here)
    all_scores = np.concatenate(scores)
    order = np.argsort(-all_scores, kind="stable")
    return Matches(
        ious,
        all_scores[order],
        np.concatenate(hit, axis=1)[:, order],
        np.concatenate(ignored, axis=1)[:, order],
        int((~own.ignored).sum()),
    )


def _match_image(shared: Floats, ignored: Bools, ious: Floats) -> tuple[Bools, Bools]:
    """Which boxes of one image hit an object and which lie in a region, at each overlap: two `(T, N)`.

    Args:
        shared: `(N, M)` overlaps, boxes best first.
        ignored: `(M,)` which objects are regions, those last.
        ious: `(T,)`.
    """
    hit = np.zeros((len(ious), len(shared)), bool)
    in_region = hit.copy()
    free = np.tile(~ignored, (len(ious), 1))
    levels = np.arange(len(ious))
    for box in np.flatnonzero((shared >= ious.min()).any(1)):
        fits = shared[box] >= ious[:, None]
        own = fits & free
        # Of objects that overlap alike COCO takes the last.
        target = len(ignored) - 1 - np.where(own, shared[box], -1.0)[:, ::-1].argmax(1)
        taken = own.any(1)
        hit[:, box] = taken
        free[levels[taken], target[taken]] = False
        in_region[:, box] = ~taken & (fits & ignored).any(1)
    return hit, in_region


def _by_image(images: Ints, count: int) -> list[Ints]:
    """The rows of each image, in order."""
    order = np.argsort(images, kind="stable")
    return np.split(order, np.searchsorted(images[order], np.arange(1, count)))


def _check_columns(boxes_px: Floats, *columns: NDArray[np.generic]) -> None:
    if boxes_px.shape != (len(columns[0]), 4) or any(column.shape != (len(boxes_px),) for column in columns):
        shapes = ", ".join(str(column.shape) for column in columns)
        raise ValueError(f"boxes must be (N, 4) and the other columns (N,), got {boxes_px.shape} and {shapes}")
