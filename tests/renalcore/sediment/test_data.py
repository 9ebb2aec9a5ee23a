from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from renalcore import taxonomy
from renalcore.datasets.pictures import read_rgb
from renalcore.sediment.data import Augmentation, SedimentDataset, crop, recolour, repeat_factors
from renalcore.sediment.names import IGNORE
from renalcore.sediment.readers import LabelledField, read_fields

RBC, WBC = taxonomy.class_id("RBC"), taxonomy.class_id("WBC")


def test_boxes_follow_the_picture_through_every_crop_and_turn(urised: Path) -> None:
    """The only red pixels of each crop must lie in the erythrocyte's box and fill it."""
    field = read_fields(urised).fields[0]
    plain = Augmentation(
        gamma=(1, 1), contrast=(1, 1), cast=0, noise=1.01, hue=0, saturation=0, value=0, grey=0, paste=0
    )
    dataset = SedimentDataset([field], size_px=160, augmentation=plain, items=40, seed=1)
    seen = 0
    for index in range(40):
        item = dataset[index]
        pixels = item["img"].numpy().astype(int)
        red = (pixels[0] - pixels[2]) > 100
        for box, class_id in zip(item["bboxes"].numpy() * 160, item["cls"].view(-1).tolist(), strict=True):
            if class_id != RBC:
                continue
            rows, columns = np.nonzero(red)
            edges = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            expected = (box[0] - box[2] / 2, box[1] - box[3] / 2, box[0] + box[2] / 2, box[1] + box[3] / 2)
            np.testing.assert_allclose(edges, expected, atol=3.5)
            seen += 1
    assert seen > 10


def test_a_crop_that_stays_native_keeps_light_and_nearly_the_zoom_and_a_rendered_field_never_does(urised: Path) -> None:
    real = read_fields(urised).fields[0]
    dull = Augmentation(native=1.0, hue=0, saturation=0, value=0, paste=0, scale=(0.3, 3.0))
    tones = {tuple(tone) for tone in read_rgb(real.path).reshape(-1, 3)[::50].tolist()}

    def drawn(field: LabelledField) -> tuple[list[float], int]:
        """How wide erythrocytes become, and how many crops hold no tone that the field lacks."""
        dataset = SedimentDataset([field], size_px=160, augmentation=dull, items=30, seed=2)
        items = [dataset[index] for index in range(30)]
        widths = [float(box[2]) * 160 for item in items for box in item["bboxes"][item["cls"].view(-1) == RBC]]
        corners = [tuple(item["img"][:, 0, 0].tolist()) for item in items]
        return widths, sum(corner in tones for corner in corners)

    own = float(real.boxes_px[real.class_ids == RBC][0, 2] - real.boxes_px[real.class_ids == RBC][0, 0])
    widths, unchanged = drawn(real)
    assert max(widths) <= 1.16 * own
    assert unchanged > 20
    widths, unchanged = drawn(replace(real, real=False))
    assert max(widths) > 1.5 * own
    assert unchanged < 20


def test_a_box_mostly_outside_the_crop_becomes_a_region_to_ignore() -> None:
    boxes = np.array([[0, 0, 40, 40], [60, 60, 90, 90], [200, 200, 220, 220]], np.float32)
    window, inside, ids = crop(
        np.zeros((300, 300, 3), np.uint8), boxes, np.array([RBC, WBC, RBC]),
        size_px=100, zoom=1.0, corner_px=(30, 30), kept=0.4,
    )  # fmt: skip
    assert window.shape == (100, 100, 3)
    assert ids.tolist() == [IGNORE, WBC]  # a sixteenth of the first is left, the third is not there
    assert inside.tolist() == [[0, 0, 10, 10], [30, 30, 60, 60]]


def test_recolouring_keeps_shape_and_type() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (64, 64, 3)).astype(np.uint8)
    for _ in range(30):
        changed = recolour(pixels, Augmentation(), rng)
        assert (changed.shape, changed.dtype) == ((64, 64, 3), np.uint8)


def test_fields_with_rare_classes_are_drawn_more_often() -> None:
    def field(class_id: int) -> LabelledField:
        return LabelledField(
            Path("x"), np.zeros((1, 4), np.float32), np.array([class_id]), np.ones(39, bool), "g", True
        )

    factors = repeat_factors([field(RBC)] * 99 + [field(WBC)], threshold=0.25)
    assert factors[0] == 1.0
    assert factors[-1] == 5.0  # sqrt(0.25 / 0.01)
