from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from renalcore.errors import InputError
from renalcore.histology.annotations import LabelledSlide, Outline, read_slides
from renalcore.histology.data import REFERENCE_PX, Augmentation, FieldDataset, TileDataset, collate, cores
from renalcore.histology.fields import FieldReader
from tests.renalcore.histology.drawn import numbered, pair

PLAIN = Augmentation(
    zoom=(1.0, 1.0), flip=0.0, turns=False, moved=0.0, bent=0.0, toned=0.0, stain=None, blur_px=0.0, noise=0.0, jpeg=0.0
)


@pytest.fixture
def slides(tmp_path: Path) -> tuple[LabelledSlide, ...]:
    """One field with two glomeruli of 48 px that touch, and one with a single glomerulus of 24 px."""
    pair(tmp_path, "a", [(120, 100, 24), (168, 100, 24)])
    pair(tmp_path, "b", [(200, 120, 12)], seed=1)
    return read_slides(tmp_path).slides


def test_tiles_show_glomeruli_of_every_slide_at_the_same_size(slides: tuple[LabelledSlide, ...]) -> None:
    for slide in slides:
        tiles = TileDataset([slide], size_px=256, augmentation=PLAIN, items=12, around=1.0, enlarged=8.0)
        shown = [np.bincount(tiles[index]["instances"].numpy().ravel())[1:].max(initial=0) for index in range(12)]
        assert max(shown) == pytest.approx(np.pi * (REFERENCE_PX / 2) ** 2, rel=0.06)


def test_zoom_and_the_largest_enlargement_set_the_scale(slides: tuple[LabelledSlide, ...]) -> None:
    small = slides[1]  # 24 px: zoom 2 would enlarge it 8 times
    tiles = TileDataset([small], augmentation=replace(PLAIN, zoom=(2.0, 2.0)), items=8, around=1.0, enlarged=3.0)
    shown = [float(tiles[index]["mask"][0].sum()) for index in range(8)]
    assert max(shown) == pytest.approx(np.pi * (3 * 12) ** 2, rel=0.06)


def test_a_tile_depends_on_its_number_epoch_and_seed_alone(slides: tuple[LabelledSlide, ...]) -> None:
    tiles = TileDataset(slides, size_px=64, items=4)
    alone = [tiles[index]["image"] for index in (3, 0)]
    loader = DataLoader(tiles, batch_size=4, collate_fn=collate, num_workers=0)
    (batch,) = loader
    assert torch.equal(batch["image"][3], alone[0])
    assert torch.equal(batch["image"][0], alone[1])
    tiles.start_epoch(1)
    assert not torch.equal(tiles[3]["image"], alone[0])
    assert batch["image"].dtype == torch.uint8
    assert {name: tuple(part.shape) for name, part in batch.items()} == {
        "image": (4, 3, 64, 64), "mask": (4, 2, 64, 64), "known": (4, 1, 64, 64), "instances": (4, 64, 64),
    }  # fmt: skip


def test_pixels_and_numbers_are_turned_and_bent_alike(slides: tuple[LabelledSlide, ...]) -> None:
    options = replace(PLAIN, flip=0.5, turns=True, moved=1.0, bent=1.0)
    tiles = TileDataset(slides, size_px=128, augmentation=options, items=20)
    for index in range(20):
        tile = tiles[index]
        dark = tile["image"][1] < 110  # discs have a green of 70, tissue one of 165
        assert float((dark != (tile["mask"][0] > 0)).float().mean()) < 0.03


def test_colours_change_and_labels_do_not(slides: tuple[LabelledSlide, ...]) -> None:
    plain = TileDataset(slides, size_px=96, augmentation=PLAIN, items=6)
    hard = replace(Augmentation(), zoom=(1.0, 1.0), flip=0.0, turns=False, moved=0.0, bent=0.0)
    changed = TileDataset(slides, size_px=96, augmentation=hard, items=6)
    assert all(torch.equal(plain[index]["instances"], changed[index]["instances"]) for index in range(6))
    assert sum(not torch.equal(plain[index]["image"], changed[index]["image"]) for index in range(6)) >= 5


def test_cores_of_touching_glomeruli_do_not_touch_and_the_edge_takes_nothing() -> None:
    mask = numbered([(40, 50, 20), (79, 50, 20), (0, 100, 20)], size=(120, 120)).astype(np.int32)
    found = cores(mask, np.array([0.0, 20.0, 20.0, 20.0]))
    assert not found[:, 58:62].any()  # 6 px on each side of where they meet
    assert found[50, 40]
    assert found[50, 79]
    assert found[100, 0]
    assert found.sum() == pytest.approx(2.5 * np.pi * 14**2, rel=0.15)  # 70 % of the radius


@pytest.mark.parametrize(("known", "share"), [("all", 1.0), ("some", 0.5), ("inside", 0.0)])
def test_what_nobody_outlined_is_unknown_where_not_all_were(
    slides: tuple[LabelledSlide, ...], known: str, share: float
) -> None:
    window = FieldReader(replace(slides[1], known=known)).read(0, 0, 320, 240, downsample=1.0)
    radius = np.hypot(*(np.mgrid[:240, :320] - np.array([120, 200])[:, None, None]))
    ring = (radius > 13) & (radius < 13 + 2 * 0.25 * 24 - 2)  # half of it within a quarter of the diameter
    assert window.known[ring].mean() == pytest.approx(share, abs=0.15)
    assert window.known[radius < 11].all()
    assert window.known[radius > 40].mean() == (1.0 if known == "all" else 0.0)


def test_outlines_are_drawn_with_their_holes_and_ignored_regions(slides: tuple[LabelledSlide, ...]) -> None:
    def square(x: float, y: float, side: float) -> np.ndarray:
        return np.array([[x, y], [x + side, y], [x + side, y + side], [x, y + side]], np.float64)

    outlines = (
        Outline(square(10, 10, 40), "glomerulus", (square(20, 20, 10),)),
        Outline(square(100, 100, 20), "ignore"),
        Outline(square(200, 100, 30), "globally sclerosed glomerulus"),
    )
    slide = replace(slides[0], outlines=outlines, mask_path=None, areas_px=np.array([1500.0, 900.0]))
    window = FieldReader(slide).read(0, 0, 320, 240, downsample=1.0)
    counts = np.bincount(window.instances.ravel())[1:]
    assert counts == pytest.approx([40**2 - 10**2, 30**2], rel=0.08)  # OpenCV fills the pixels of the border too
    assert not window.known[105:115, 105:115].any()
    half = FieldReader(slide).read(0, 0, 160, 120, downsample=2.0)
    assert np.bincount(half.instances.ravel())[1:] == pytest.approx([20**2 - 5**2, 15**2], rel=0.15)


def test_validation_shows_whole_fields_at_one_scale(slides: tuple[LabelledSlide, ...]) -> None:
    fields = FieldDataset(slides)
    first, second = fields[0], fields[1]
    scale = REFERENCE_PX / slides[0].glomerulus_px  # about 2: 48 px become 96
    assert [side - side % 32 for side in first["image"].shape[1:]] == list(first["image"].shape[1:])
    assert first["image"].shape[1:] == pytest.approx((240 * scale, 320 * scale), abs=32)
    batch = collate([first, second])
    assert tuple(batch["image"].shape) == (2, *second["image"].shape)
    assert batch["known"][0, 0, first["image"].shape[1] :].sum() == 0
    assert batch["slide"].tolist() == [0, 1]
    assert float(first["mask"][0].sum()) == pytest.approx(2 * np.pi * 48**2, rel=0.06)


def test_sizes_and_zooms_that_cannot_be_meant_are_refused(slides: tuple[LabelledSlide, ...]) -> None:
    with pytest.raises(InputError, match="multiple of 32 px and at least 64, got 100"):
        TileDataset(slides, size_px=100)
    with pytest.raises(InputError, match="no labelled slides to train on"):
        TileDataset([])
    with pytest.raises(InputError, match="the zoom must rise from above 0, got 2 to 1"):
        Augmentation(zoom=(2, 1))
