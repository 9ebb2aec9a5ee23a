from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from renalcore.metrics import segmentation
from renalcore.metrics.segmentation import Agreement, DiceCurve, Instances, Overlap, Spread, Summary


def picture(*rows: str) -> NDArray[np.uint16]:
    """A label picture drawn in text: `.` is nothing, a digit a glomerulus."""
    return np.array([[0 if cell == "." else int(cell) for cell in row] for row in rows], np.uint16)


def test_dice_and_jaccard_are_the_paper_s() -> None:
    expert, found = picture("11..", "11.."), picture(".11.", ".11.")
    assert segmentation.dice(expert, found) == 2 * 2 / (4 + 4)
    assert segmentation.jaccard(expert, found) == 2 / 6


def test_two_empty_masks_agree_and_one_empty_mask_does_not() -> None:
    empty, one = picture("...."), picture("11..")
    assert segmentation.agreement(empty, empty) == Agreement(Overlap(0, 0, 0), Instances(0, 0, 0), 0, 0)
    for figure in (segmentation.dice, segmentation.jaccard, segmentation.instance_f1):
        assert (figure(empty, empty), figure(one, empty), figure(empty, one)) == (1, 0, 0)
    assert math.isnan(Instances(3, 0, 0).precision)
    assert math.isnan(Instances(0, 3, 0).recall)


def test_touching_glomeruli_are_one_component_and_two_instances() -> None:
    expert, found = picture("11..", "..22", "....", "33.."), picture("11..", "..22", "....", "....")
    assert (segmentation.components(expert), segmentation.components(found)) == (2, 1)  # the corner connects
    assert segmentation.delta_glomeruli(expert, found) == 1
    assert segmentation.agreement(expert, picture("11..", "..11", "....", "22..")).delta_instances == 3 - 2


def test_a_glomerulus_is_found_from_an_overlap_of_a_half() -> None:
    expert = picture("1111....", "....2222")
    half, less = picture(".111....", "...44444"), picture("......11", "2222222.")
    assert segmentation.instances(expert, half) == Instances(2, 2, 2)  # IoU 3/4 and 4/5
    assert segmentation.instances(expert, less) == Instances(2, 2, 0)  # 0, and 3/8
    assert segmentation.instances(picture("11.."), picture("1111")) == Instances(1, 1, 1)  # 2/4
    assert segmentation.instances(expert, half, min_iou=0.8) == Instances(2, 2, 1)


def test_one_found_glomerulus_is_not_two_of_the_expert_s_even_if_it_is_half_of_each() -> None:
    assert segmentation.instances(picture("1122"), picture("3333")) == Instances(2, 1, 1)


def test_what_nobody_looked_at_is_not_judged() -> None:
    expert, found = picture("11......"), picture(".1.22.33")
    known = np.array([[True, True, True, True, False, False, False, True]])
    judged = segmentation.agreement(expert, found, known=known)
    assert judged.pixels == Overlap(1, 2, 1)
    assert judged.instances == Instances(1, 1, 1)  # half of 2 and half of 3 lie where nobody looked
    assert judged.delta_glomeruli == 0
    assert segmentation.agreement(expert, found).instances == Instances(1, 3, 1)


def random_labels(generator: np.random.Generator, like: NDArray[np.uint16] | None = None) -> NDArray[np.uint16]:
    """Overlapping discs numbered from 1 without gaps; those of `like` moved a little, some left out, some added."""
    labels = np.zeros((90, 110), np.uint16)
    rows, columns = np.ogrid[:90, :110]
    centres = generator.uniform((0, 0), (90, 110), (generator.integers(0, 9), 2)).tolist()
    if like is not None:
        known = [np.argwhere(like == k).mean(0) for k in range(1, int(like.max()) + 1)]
        centres = [centre + generator.normal(0, 2.5, 2) for centre in known if generator.random() < 0.8] + centres[:2]
    for y, x in centres:
        labels[(rows - y) ** 2 + (columns - x) ** 2 < generator.uniform(6, 12) ** 2] = labels.max() + 1
    return np.unique(labels, return_inverse=True)[1].reshape(labels.shape).astype(np.uint16)


def test_the_figures_are_those_of_the_tool_that_scores_hidden_slides(shared_data: Path, tmp_path: Path) -> None:
    (tmp_path / "gt" / "instances").mkdir(parents=True)
    generator = np.random.default_rng(4)
    agreements = []
    for number in range(40):
        expert = random_labels(generator)
        found = random_labels(generator, expert)
        Image.fromarray(expert).save(tmp_path / "gt" / "instances" / f"{number}.png")
        Image.fromarray(found).save(tmp_path / f"{number}.instances.png")
        agreements.append(segmentation.agreement(expert, found))
    tool = shared_data.parent / "tools" / "score_histology.py"
    answer = subprocess.run(
        [sys.executable, tool, tmp_path / "gt", tmp_path], capture_output=True, text=True, check=True
    )  # fmt: skip
    summary = Summary.of(agreements)
    assert json.loads(answer.stdout) == {
        "images": 40, "missing": 0,
        "dice_pooled": round(summary.pixels.dice, 4), "dice_mean": round(summary.dice.mean, 4),
        "jaccard_pooled": round(summary.pixels.jaccard, 4), "delta_glomeruli": round(summary.delta_instances.mean, 3),
        "F1@0.5": round(summary.instances.f1, 4), "glomeruli": [summary.instances.expert, summary.instances.found],
    }  # fmt: skip
    assert 0.3 < summary.instances.f1 < 0.9  # neither all nor nothing was matched


def test_pooled_figures_divide_once_and_figures_per_picture_in_each() -> None:
    large = segmentation.agreement(picture("11112222"), picture("1111...."))  # Dice 8/12, F1 2/3
    small = segmentation.agreement(picture("1......."), picture(".1......"))  # both 0
    empty = segmentation.agreement(picture("........"), picture("........"))
    summary = Summary.of([large, small, empty])
    assert (summary.pictures, summary.empty) == (3, 1)
    assert summary.pixels.dice == 2 * 4 / (8 + 1 + 4 + 1)
    assert summary.instances == Instances(3, 2, 1)
    assert summary.dice.mean == pytest.approx((8 / 12 + 0 + 1) / 3)
    assert summary.dice_not_empty == Spread(pytest.approx(1 / 3), pytest.approx(math.sqrt(2) / 3))
    # Touching instances of the large picture are one component.
    assert (summary.delta_glomeruli.mean, summary.delta_instances.mean) == (0, pytest.approx(1 / 3))


def test_the_deviation_is_the_one_that_table_1_of_the_mouse_paper_prints_for_its_folds() -> None:
    delta = Spread.of([0.35, 0.31, 0.14, 0.46, 0.22])  # DeepLab, printed as 0.29 +- 0.12, digits cut off
    assert (math.floor(100 * delta.mean), math.floor(100 * delta.deviation)) == (29, 12)
    assert Spread.of([0.5, math.nan]).mean == 0.5
    assert math.isnan(Spread.of([0.5]).deviation)


def test_the_automatic_threshold_is_the_one_with_the_best_pooled_dice() -> None:
    # Cut above 0.1: 4 found, 2 right, 2 * 2 / (3 + 4); above 0.5: 2 found, both right, 2 * 2 / (3 + 2).
    first = (np.array([[0.9, 0.6], [0.5, 0.2]]), np.array([[True, True], [False, False]]))
    second = (np.array([[0.05, 0.02]]), np.array([[True, False]]))
    best = segmentation.best_threshold_dice([first, second])
    assert (best.threshold, best.dice) == (0.5, 2 * 2 / (3 + 2))
    curve = DiceCurve.of(*first) + DiceCurve.of(*second)
    assert curve.dice[0] == 2 * 2 / (3 + 4)
    in_half = segmentation.best_threshold_dice([(first[0].astype(np.float16), first[1])])
    assert in_half.threshold == 0.5  # half precision rounds thresholds and probabilities alike
    with pytest.raises(ValueError, match="cannot be chosen without pictures"):
        segmentation.best_threshold_dice([])


def test_tiles_cover_a_picture_and_are_all_whole() -> None:
    assert list(segmentation.tiles(600, 1024)) == [
        (slice(0, 512), slice(0, 512)), (slice(0, 512), slice(512, 1024)),
        (slice(88, 600), slice(0, 512)), (slice(88, 600), slice(512, 1024)),
    ]  # fmt: skip
    assert list(segmentation.tiles(256, 256)) == [(slice(0, 256), slice(0, 256))]


@pytest.mark.parametrize(
    ("expert", "found", "message"),
    [
        (np.zeros((2, 3), bool), np.zeros((3, 2), bool), r"is \(2, 3\) and the found one \(3, 2\)"),
        (np.zeros((2, 2)), np.zeros((2, 2), bool), "of bool or integers, got .* of float64"),
        (np.zeros((2, 2), bool), np.full((2, 2), -1), "must be 0 or more, got -1"),
    ],
)
def test_what_is_no_pair_of_masks_is_refused(
    expert: NDArray[np.generic], found: NDArray[np.generic], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        segmentation.agreement(expert, found)
    with pytest.raises(ValueError, match="cannot share 3 px"):
        Overlap(3, 2, 5)
