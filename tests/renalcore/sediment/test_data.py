from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from renalcore import taxonomy
from renalcore.errors import InputError
from renalcore.sediment.data import (
    Augmentation,
    LabelledField,
    SedimentDataset,
    crop,
    read_rendered,
    read_urised,
    recolour,
    repeat_factors,
)
from renalcore.sediment.losses import IGNORE

RBC, WBC = taxonomy.class_id("RBC"), taxonomy.class_id("WBC")


def test_a_label_file_is_read_in_pixels_with_what_is_known(urised: Path) -> None:
    first, second = read_urised(urised, "train")
    np.testing.assert_allclose(first.boxes_px[0], (100, 50, 140, 80), atol=0.01)
    assert first.class_ids.tolist() == [RBC, IGNORE]
    assert [taxonomy.NAMES[index] for index in np.flatnonzero(first.known)] == [
        "RBC", "WBC", "Epithelial cell (squamous)", "Calcium oxalate", "Yeast",
    ]  # fmt: skip
    assert (second.class_ids.tolist(), np.flatnonzero(second.known).tolist()) == ([WBC], [WBC])


def test_held_out_groups_replace_the_manifests_split(urised: Path) -> None:
    train, val = (read_urised(urised, side, held_out=["S2"]) for side in ("train", "val"))
    assert ([field.group for field in train], [field.group for field in val]) == (["S1"], ["S2"])
    with pytest.raises(InputError, match="has no group S9"):
        read_urised(urised, "train", held_out=["S9"])


def test_a_folder_without_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no manifest\.csv"):
        read_urised(tmp_path, "train")


def test_an_unknown_scope_is_refused(urised: Path) -> None:
    (urised / "manifest.csv").write_text(
        "image,group,width,height,label_scope,split\na.png,S1,300,200,some_cells,train\n"
    )
    with pytest.raises(InputError, match="unknown label_scope 'some_cells' for a"):
        read_urised(urised, "train")


def test_an_empty_folder_of_rendered_fields_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no pictures"):
        read_rendered(tmp_path)


def test_boxes_follow_the_picture_through_every_crop_and_turn(urised: Path) -> None:
    """The only red pixels of each crop must lie in the erythrocyte's box and fill it."""
    field = read_urised(urised, "train")[0]
    plain = Augmentation(gamma=(1, 1), contrast=(1, 1), cast=0, noise=1.01, hue=0, saturation=0, value=0, grey=0)
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


@pytest.mark.shared_data
def test_the_real_fields_are_read_whole(shared_data: Path) -> None:
    folder = shared_data / "sediment" / "urised2k"
    train, val = read_urised(folder, "train"), read_urised(folder, "val")
    assert (len(train), len(val)) == (1812, 206)
    shared = {field.group for field in train} & {field.group for field in val}
    assert shared == {"NUM_800x600"}  # a label for numbered files of many samples, not a sample
    assert sum(int((field.class_ids == RBC).sum()) for field in val) == 938 + 28
    assert all(field.path.is_file() for field in train + val)
