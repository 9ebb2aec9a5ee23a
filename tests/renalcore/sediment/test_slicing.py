from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sahi.predict import get_sliced_prediction

from renalcore import taxonomy
from renalcore.sediment.slicing import PLAIN_SAHI, STANDARD, SahiDetector, Slicing, search, slice_boxes
from tests.renalcore.sediment.squares import RBC, WBC, SquareFinder, draw, glass


def test_the_papers_slices_cover_an_1800_px_field_in_sixteen() -> None:
    slices = slice_boxes(1800, 1800)
    assert len(slices) == 16
    assert slices[:5] == [
        (0, 0, 640, 640),
        (480, 0, 1120, 640),
        (960, 0, 1600, 640),
        (1160, 0, 1800, 640),
        (0, 480, 640, 1120),
    ]


@pytest.mark.parametrize(("width", "height"), [(720, 576), (800, 600), (800, 800), (640, 640), (200, 100)])
def test_a_field_up_to_a_quarter_larger_than_a_slice_is_searched_once_at_its_own_size(width: int, height: int) -> None:
    finder = SquareFinder()
    search(glass(width, height), finder, taxonomy.NAMES, min_score=0.1)
    assert finder.seen == [(-(-height // 32) * 32, -(-width // 32) * 32, 3)]


def test_only_the_long_axis_of_a_strip_is_cut() -> None:
    assert slice_boxes(1500, 700) == [(0, 0, 640, 700), (480, 0, 1120, 700), (860, 0, 1500, 700)]


def test_a_square_found_in_any_slice_lands_where_it_is_in_the_field() -> None:
    pixels = glass(1800, 1700)
    places = [(10, 20, 40, 50), (1000, 30, 1050, 70), (1700, 1600, 1799, 1699), (300, 1200, 333, 1244)]
    for place in places:
        draw(pixels, RBC, *place)
    found = search(pixels, SquareFinder(), taxonomy.NAMES, min_score=0.1)
    assert sorted(map(tuple, found[:, :4].astype(int))) == sorted(places)


@pytest.mark.parametrize("x", range(440, 680, 7))
def test_a_cell_at_any_place_across_a_seam_is_found_once(x: int) -> None:
    pixels = glass(1200, 640)
    draw(pixels, RBC, x, 300, x + 40, 340)
    found = search(pixels, SquareFinder(), taxonomy.NAMES, min_score=0.1)
    assert found[:, :4].tolist() == [[x, 300, x + 40, 340]]


def test_a_cell_where_four_slices_meet_is_found_once() -> None:
    pixels = glass(1120, 1120)
    draw(pixels, RBC, 470, 470, 490, 490)
    draw(pixels, WBC, 600, 600, 650, 650)
    found = search(pixels, SquareFinder(), taxonomy.NAMES, min_score=0.1)
    assert sorted(map(tuple, found[:, :4].astype(int))) == [(470, 470, 490, 490), (600, 600, 650, 650)]


def test_an_object_just_too_long_for_every_slice_is_found_once() -> None:
    pixels = glass(1120, 1120)
    draw(pixels, WBC, 620, 470, 660, 650)
    [box] = search(pixels, SquareFinder(), taxonomy.NAMES, min_score=0.1)
    assert np.abs(box[:4] - (620, 470, 660, 650)).max() < 4


def test_what_no_slice_can_hold_is_found_whole_in_the_scaled_down_image_and_its_pieces_are_left_out() -> None:
    pixels = glass(1600, 1600)
    draw(pixels, WBC, 100, 700, 1500, 800)
    [(x1, y1, x2, y2, _, class_id)] = search(pixels, SquareFinder(), taxonomy.NAMES, min_score=0.1)
    assert class_id == WBC
    assert np.abs(np.array([x1, y1, x2, y2]) - (100, 700, 1500, 800)).max() < 4


def test_small_objects_are_not_taken_from_the_scaled_down_image() -> None:
    class OnlyWholeImage(SquareFinder):
        def find(self, pictures: np.ndarray, *, min_score: float) -> list[np.ndarray]:
            whole = len(self.seen) >= 9
            self.seen += [picture.shape for picture in pictures]
            box = [[10, 10, 40, 40, 0.9, RBC]] if whole else []
            return [np.array(box, np.float32).reshape(-1, 6) for _ in pictures]

    finder = OnlyWholeImage()
    assert len(search(glass(1600, 1600), finder, taxonomy.NAMES, min_score=0.1)) == 0
    assert len(finder.seen) == 10


def test_a_piece_longer_than_the_overlap_is_kept_where_nothing_whole_covers_it() -> None:
    pixels = glass(1600, 640)
    draw(pixels, WBC, 100, 300, 1500, 340)
    found = search(pixels, SquareFinder(), taxonomy.NAMES, min_score=0.1, slicing=replace(STANDARD, whole_image=False))
    assert found[:, 0].min() == 100
    assert found[:, 2].max() == 1500


class TwoLabels:
    """Says of one particle that it is a WBC (0.6) and an RBC (0.5) in almost the same place."""

    def find(self, pictures: np.ndarray, *, min_score: float) -> list[np.ndarray]:
        rows = [[100, 100, 140, 140, 0.5, RBC], [101, 101, 141, 141, 0.6, WBC]]
        return [np.array(rows, np.float32) for _ in pictures]


def test_a_particle_with_two_labels_keeps_the_better_scored_one() -> None:
    found = search(glass(640, 640), TwoLabels(), taxonomy.NAMES, min_score=0.1)
    assert found[:, 5].tolist() == [WBC]


def test_both_labels_stay_where_the_decision_is_switched_off() -> None:
    found = search(glass(640, 640), TwoLabels(), taxonomy.NAMES, min_score=0.1, slicing=PLAIN_SAHI)
    assert found[:, 5].tolist() == [WBC, RBC]


def test_the_array_path_gives_the_boxes_of_sahis_own_sliced_prediction() -> None:
    rng = np.random.default_rng(0)
    pixels = glass(1500, 1300)
    for _ in range(60):
        x, y, side = rng.integers(0, 1400), rng.integers(0, 1200), rng.integers(8, 90)
        draw(pixels, int(rng.choice([RBC, WBC])), x, y, x + side, y + side)
    ours = search(pixels, SquareFinder(), taxonomy.NAMES, min_score=0.05, slicing=PLAIN_SAHI)
    theirs = get_sliced_prediction(
        pixels,
        SahiDetector(SquareFinder(), taxonomy.NAMES, min_score=0.05),
        slice_height=640,
        slice_width=640,
        overlap_height_ratio=0.25,
        overlap_width_ratio=0.25,
        perform_standard_pred=False,
        postprocess_type="NMS",
        postprocess_match_metric="IOU",
        batch_size=4,
        force_postprocess_type=True,
        verbose=0,
    ).object_prediction_list
    assert len(ours) > 40
    assert sorted((*map(int, row[:4]), int(row[5])) for row in ours) == sorted(
        (*map(int, item.bbox.to_xyxy()), item.category.id) for item in theirs
    )


def test_sahis_own_single_prediction_takes_our_detector_too() -> None:
    from sahi.predict import get_prediction

    pixels = glass(100, 90)
    draw(pixels, RBC, 10, 20, 30, 40)
    found = get_prediction(pixels, SahiDetector(SquareFinder(), taxonomy.NAMES, min_score=0.05))
    [item] = found.object_prediction_list
    assert (item.bbox.to_xyxy(), item.category.name) == ([10, 20, 30, 40], "RBC")


@pytest.mark.parametrize("wrong", [{"slice_px": 100}, {"overlap": 1.0}, {"batch_size": 0}])
def test_impossible_slicing_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Slicing(**wrong)  # type: ignore[arg-type]
