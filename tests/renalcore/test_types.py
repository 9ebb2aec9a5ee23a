import numpy as np
import pytest

from renalcore.types import Detections, Field

CLASSES = ("RBC", "WBC")


def detections(**changes: object) -> Detections:
    values: dict[str, object] = {
        "boxes_px": [[0, 0, 10, 10], [5, 5, 20, 25]],
        "scores": [0.9, 0.4],
        "class_ids": [1, 0],
        "classes": CLASSES,
    }
    return Detections(**{**values, **changes})  # type: ignore[arg-type]


def test_detections_are_columns_of_fixed_types_that_nobody_can_change() -> None:
    found = detections()
    assert (found.boxes_px.dtype, found.scores.dtype, found.class_ids.dtype) == (np.float32, np.float32, np.int64)
    assert (len(found), found.names) == (2, ["WBC", "RBC"])
    with pytest.raises(ValueError, match="read-only"):
        found.scores[0] = 1


def test_detections_do_not_change_with_the_array_they_were_made_of() -> None:
    scores = np.array([0.9, 0.4], np.float32)
    found = detections(scores=scores)
    scores[0] = 0
    assert found.scores[0] == np.float32(0.9)


def test_rows_are_chosen_by_mask_and_by_index() -> None:
    found = detections()
    assert found.where(found.scores > 0.5).names == ["WBC"]
    assert found.where(np.array([1, 0])).names == ["RBC", "WBC"]
    assert len(Detections.empty(CLASSES)) == 0
    assert Detections.empty(CLASSES).boxes_px.shape == (0, 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": [0.9]}, "boxes, scores and class ids must be as many, got 2, 1 and 2"),
        ({"scores": [0.9, 1.5]}, r"scores must lie in 0\.\.1, got 0\.8999\d*\.\.1\.5"),
        ({"scores": [0.9, float("nan")]}, r"scores must lie in 0\.\.1"),
        ({"class_ids": [0, 2]}, r"class ids must lie in 0\.\.1, got up to 2"),
        ({"class_ids": [0, -1]}, r"class ids must lie in 0\.\.1"),
    ],
)
def test_detections_that_cannot_be_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        detections(**change)


def field(**changes: object) -> Field:
    values: dict[str, object] = {"name": "f.png", "pixels": np.zeros((500, 1000, 3), np.uint8)}
    return Field(**{**values, **changes})  # type: ignore[arg-type]


def test_a_field_has_an_area_only_where_its_scale_is_known() -> None:
    assert (field().width_px, field().height_px, field().area_mm2) == (1000, 500, None)
    assert field(um_per_px=2.0).area_mm2 == pytest.approx(2.0 * 1.0)


def test_of_a_round_field_the_part_of_the_disc_in_the_picture_counts() -> None:
    whole = field(um_per_px=1.0, round_field_px=(500.0, 250.0, 200.0))
    cut = field(um_per_px=1.0, round_field_px=(0.0, 250.0, 200.0))
    assert whole.area_mm2 == pytest.approx(np.pi * 0.2**2, rel=1e-4)
    assert cut.area_mm2 == pytest.approx(np.pi * 0.2**2 / 2, rel=1e-4)
