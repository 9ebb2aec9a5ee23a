from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from renalcore.metrics.detection import (
    ANY,
    Matches,
    Objects,
    Predictions,
    average_precision,
    best_operating_point,
    class_averages,
    confusion,
    match,
    operating_point,
    overlaps,
    reliability,
)

RBC, WBC, YEAST = range(3)
LEFT, RIGHT = (0.0, 0.0, 10.0, 10.0), (50.0, 0.0, 60.0, 10.0)
Row = tuple[int, tuple[float, float, float, float]]


def objects(*rows: Row, ignored: tuple[Row, ...] = ()) -> Objects:
    """Objects of image 0, each a class and a box, then regions to ignore."""
    every = (*rows, *ignored)
    return Objects(
        np.zeros(len(every), np.int64),
        np.array([box for _, box in every], float).reshape(-1, 4),
        np.array([class_id for class_id, _ in every], np.int64),
        np.arange(len(every)) >= len(rows),
    )


def predictions(*rows: tuple[int, tuple[float, float, float, float], float]) -> Predictions:
    """Boxes found in image 0."""
    return Predictions(
        np.zeros(len(rows), np.int64),
        np.array([box for _, box, _ in rows], float).reshape(-1, 4),
        np.array([class_id for class_id, _, _ in rows], np.int64),
        np.array([score for _, _, score in rows], float),
    )


def known(*class_ids: int) -> np.ndarray:
    """One image in which these of the three classes were looked for."""
    return np.isin(np.arange(3), class_ids)[None]


EVERYTHING = known(RBC, WBC, YEAST)


def random_set(seed: int) -> tuple[Objects, Predictions, np.ndarray]:
    """Thirty images of three classes with crowds, doubled boxes, tied scores and labels that are partial."""
    rng = np.random.default_rng(seed)
    images, count = 30, 260

    def boxes(number: int) -> np.ndarray:
        corner = rng.uniform(0, 150, (number, 2))
        return np.hstack((corner, corner + rng.uniform(4, 40, (number, 2))))

    there = Objects(
        rng.integers(images, size=count), boxes(count), rng.integers(3, size=count), rng.random(count) < 0.2
    )
    copied = rng.integers(count, size=500)
    jitter = rng.normal(0, 2, (500, 4)) * rng.integers(0, 2, (500, 1))
    near = there.boxes_px[copied] + jitter
    near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 1)
    right = np.where(rng.random(500) < 0.8, there.class_ids[copied], rng.integers(3, size=500))
    found = Predictions(
        np.concatenate((there.images[copied], rng.integers(images, size=200))),
        np.vstack((near, boxes(200))),
        np.concatenate((right, rng.integers(3, size=200))),
        rng.random(700).round(2),
    )
    return there, found, rng.random((images, 3)) < 0.8


def reference(there: Objects, found: Predictions, judged: np.ndarray, class_id: int, most: int) -> np.ndarray:
    """COCO's own average precision at each IoU."""

    def sides(box: np.ndarray) -> list[float]:
        return [float(box[0]), float(box[1]), float(box[2] - box[0]), float(box[3] - box[1])]

    columns = zip(there.images, there.boxes_px, there.class_ids, there.ignored, strict=True)
    truth = {
        "images": [{"id": image} for image in range(len(judged))],
        "categories": [{"id": index} for index in range(3)],
        "annotations": [
            {"id": row + 1, "image_id": int(image), "category_id": int(kind), "bbox": sides(box),
             "area": float((box[2:] - box[:2]).prod()), "iscrowd": int(crowd)}
            for row, (image, box, kind, crowd) in enumerate(columns)
        ],
    }  # fmt: skip
    rows = [
        {"image_id": int(image), "category_id": int(kind), "bbox": sides(box), "score": float(score)}
        for image, box, kind, score in zip(found.images, found.boxes_px, found.class_ids, found.scores, strict=True)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        run = COCOeval(coco, coco.loadRes(rows), "bbox")
        run.params.catIds = [class_id]
        run.params.imgIds = np.flatnonzero(judged[:, class_id]).tolist()
        run.params.maxDets = [most]
        run.evaluate()
        run.accumulate()
    return np.asarray(run.eval["precision"])[:, :, 0, 0, 0].mean(1)


@pytest.mark.parametrize("most", [3, 100])
@pytest.mark.parametrize("seed", range(4))
def test_average_precision_is_that_of_cocos_reference_evaluator(seed: int, most: int) -> None:
    there, found, judged = random_set(seed)
    for class_id, matches in enumerate(match(there, found, judged, most=most)):
        expected = reference(there, found, judged, class_id, most)
        assert 0.05 < expected[0] < 0.95
        np.testing.assert_allclose(average_precision(matches), expected, atol=1e-6)


def test_average_precision_of_a_false_box_above_a_true_one_is_a_half() -> None:
    rows = predictions((RBC, RIGHT, 0.9), (RBC, LEFT, 0.8))
    matches = match(objects((RBC, LEFT)), rows, EVERYTHING)[RBC]
    np.testing.assert_allclose(average_precision(matches), 0.5)  # one of two boxes is right at every recall


def test_a_class_without_objects_has_no_average_precision() -> None:
    matches = match(objects(), predictions((RBC, LEFT, 0.9)), EVERYTHING)[RBC]
    assert np.isnan(average_precision(matches)).all()
    assert best_operating_point(matches) is None


def test_an_object_is_found_once() -> None:
    twice = predictions((RBC, LEFT, 0.9), (RBC, LEFT, 0.8))
    point = operating_point(match(objects((RBC, LEFT)), twice, EVERYTHING)[RBC], 0.5)
    assert (point.precision, point.recall) == (0.5, 1.0)


def test_a_class_nobody_looked_for_is_not_judged() -> None:
    found = predictions((RBC, RIGHT, 0.9), (WBC, RIGHT, 0.9))
    rbc, wbc, _ = match(objects((RBC, LEFT), (WBC, LEFT)), found, known(WBC))
    assert (rbc.objects, len(rbc.scores)) == (0, 0)
    assert (wbc.objects, len(wbc.scores)) == (1, 1)


def test_boxes_in_a_region_to_ignore_are_neither_right_nor_wrong() -> None:
    found = predictions((RBC, RIGHT, 0.9), (WBC, RIGHT, 0.8))
    of_every_class = match(objects(ignored=((ANY, RIGHT),)), found, EVERYTHING)
    assert [len(matches.judged()[0]) for matches in of_every_class] == [0, 0, 0]
    of_one = match(objects(ignored=((WBC, RIGHT),)), found, EVERYTHING)
    assert [len(matches.judged()[0]) for matches in of_one] == [1, 0, 0]


def test_a_region_of_every_class_must_be_ignored() -> None:
    with pytest.raises(ValueError, match="region to ignore"):
        objects((ANY, LEFT))


def test_columns_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match="boxes must be"):
        Predictions(np.zeros(2, np.int64), np.zeros((2, 4)), np.zeros(1, np.int64), np.zeros(2))


def test_overlap_with_a_crowd_is_the_share_of_the_box() -> None:
    box, half = np.array([LEFT]), np.array([[5.0, 0.0, 15.0, 10.0]])
    assert overlaps(box, half)[0, 0] == 50 / 150
    assert overlaps(box, half, np.array([True]))[0, 0] == 0.5


def ranked(hits: list[bool], scores: list[float], count: int) -> Matches:
    hit = np.array([hits])
    return Matches(np.array([0.5]), np.array(scores), hit, np.zeros_like(hit), count)


def test_the_best_threshold_is_the_one_of_the_highest_f1() -> None:
    matches = ranked([True, True, False, True, False], [0.9, 0.8, 0.7, 0.6, 0.1], 4)
    best = best_operating_point(matches)
    assert best is not None
    assert (best.min_score, best.precision, best.recall) == (0.11, 3 / 4, 3 / 4)  # F1 0.75; with two boxes 0.67
    assert operating_point(matches, 0.8).recall == 2 / 4


def test_matches_are_asked_only_for_overlaps_they_were_made_at() -> None:
    with pytest.raises(ValueError, match=r"matched at IoU \[0.5\], not at 0.75"):
        ranked([True], [0.5], 1).judged(0.75)


def test_confusion_tells_what_objects_are_called_and_what_is_missed_or_made_up() -> None:
    far = (90.0, 0.0, 99.0, 9.0)
    there = objects((WBC, LEFT), (RBC, RIGHT), (RBC, (0.0, 50.0, 10.0, 60.0)))
    found = predictions((RBC, LEFT, 0.9), (RBC, RIGHT, 0.9), (YEAST, far, 0.9))
    background = 3
    expected = np.zeros((4, 4), int)
    expected[WBC, RBC] = 1
    expected[RBC, RBC] = 1
    expected[RBC, background] = 1
    expected[background, YEAST] = 1
    np.testing.assert_array_equal(confusion(there, found, EVERYTHING), expected)


def test_confusion_gives_an_object_to_the_box_that_overlaps_it_most() -> None:
    shifted = (1.0, 0.0, 11.0, 10.0)
    counts = confusion(objects((WBC, LEFT)), predictions((RBC, shifted, 0.9), (WBC, LEFT, 0.2)), EVERYTHING)
    assert (counts[WBC, WBC], counts[3, RBC], counts.sum()) == (1, 1, 2)


def test_confusion_names_an_unknown_class_only_where_it_covers_a_known_object() -> None:
    found = predictions((RBC, LEFT, 0.9), (RBC, RIGHT, 0.9))
    counts = confusion(objects((WBC, LEFT), (YEAST, RIGHT)), found, known(WBC))
    assert (counts[WBC, RBC], counts.sum()) == (1, 1)


def test_confusion_leaves_out_boxes_in_regions_to_ignore() -> None:
    found = predictions((RBC, RIGHT, 0.9), (WBC, RIGHT, 0.9))
    counts = confusion(objects(ignored=((WBC, RIGHT),)), found, EVERYTHING)
    assert (counts[3, RBC], counts.sum()) == (1, 1)


def test_calibration_error_is_the_gap_weighted_by_boxes() -> None:
    found = reliability(np.array([0.85, 0.85, 0.25, 1.0]), np.array([True, False, False, True]))
    assert found.boxes.tolist() == [0, 0, 1, 0, 0, 0, 0, 0, 2, 1]
    assert found.true_share[8] == 0.5
    assert found.expected_error == pytest.approx((0.35 * 2 + 0.25 + 0.0) / 4)
    assert np.isnan(reliability(np.zeros(0), np.zeros(0, bool)).expected_error)


def test_averages_count_each_class_or_each_object_alike() -> None:
    values, counts = np.array([1.0, 0.5, np.nan]), np.array([1, 3, 0])
    assert class_averages(values, counts) == (0.75, (1.0 + 3 * 0.5) / 4)
    assert np.isnan(class_averages(values, np.zeros(3, int))).all()
