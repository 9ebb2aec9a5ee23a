from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from renalcore import taxonomy
from renalcore.sediment.data import PAPER, Augmentation, SedimentDataset
from renalcore.sediment.names import IGNORE
from renalcore.sediment.readers import read_fields

RBC, WBC = taxonomy.class_id("RBC"), taxonomy.class_id("WBC")


def test_boxes_follow_whole_fields_through_the_mosaic_of_the_paper(urised: Path) -> None:
    """Every red pixel lies in an erythrocyte's box or in a region of which nothing is known."""
    fields = list(read_fields(urised).fields)
    options = replace(PAPER, hue=0, saturation=0, value=0, mosaic=0.5)
    dataset = SedimentDataset(fields, size_px=160, augmentation=options, items=40, seed=2)
    seen = []
    for index in range(40):
        item = dataset[index]
        pixels = item["img"].numpy().astype(int)
        red = (pixels[0] - pixels[2]) > 100
        for x, y, width, height in item["bboxes"].numpy() * 160:
            left, top, right, bottom = x - width / 2 - 2, y - height / 2 - 2, x + width / 2 + 2, y + height / 2 + 2
            red[max(0, int(top)) : math.ceil(bottom), max(0, int(left)) : math.ceil(right)] = False
        assert red.sum() == 0
        seen.append(int((item["cls"] == RBC).sum()))
    assert max(seen) > 1  # several fields in one picture


def test_a_mosaic_takes_only_fields_in_which_the_same_was_looked_for(urised: Path) -> None:
    rbc_and_more, wbc_only = read_fields(urised).fields
    dataset = SedimentDataset(
        [rbc_and_more, wbc_only], size_px=64, augmentation=replace(PAPER, mosaic=1.0), items=60, seed=0
    )
    for index in range(60):
        item = dataset[index]
        classes = set(item["cls"].view(-1).int().tolist()) - {IGNORE}
        assert classes <= {RBC if item["known"][RBC] else WBC}


def test_processes_that_read_draw_different_crops(urised: Path) -> None:
    dataset = SedimentDataset(read_fields(urised).fields, size_px=64, augmentation=Augmentation(), items=4, seed=0)
    loader = DataLoader(dataset, batch_size=1, num_workers=2, collate_fn=lambda items: items[0]["img"])
    first, second, *_ = list(loader)  # one of each process
    assert not torch.equal(first, second)


def test_fields_of_any_size_are_validated_whole(urised: Path) -> None:
    item = SedimentDataset(read_fields(urised).fields, size_px=64, augmentation=None)[0]
    assert item["img"].shape == (3, 224, 320)  # 200 x 300 in whole strides of 32
