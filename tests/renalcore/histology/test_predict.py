from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from renalcore.errors import InputError, ModelError
from renalcore.histology.glomeruli import Glomeruli
from renalcore.histology.instances import join, separate
from renalcore.histology.predict import GlomerulusModel
from renalcore.histology.tiles import Axis, BlockResult
from tests.renalcore.histology.discs import DarkIsGlomerulus, Disc, model, slide

# 2,000 x 3,000 px at 0.5 um are 500 x 750 of the network's px: tiles begin at 0, 93, 186, 279, 372 and, downwards,
# at 0, 89, 178 ... 622, so every disc lies in several tiles and most in several blocks of one row.
APART: tuple[Disc, ...] = (
    (300, 300, 100), (900, 370, 90), (1500, 360, 110), (400, 800, 60), (1000, 1100, 150), (1601.5, 1203.25, 100),
    (300, 1500, 100), (1000, 1800, 80), (1700, 2300, 120),
)  # fmt: skip
TOUCHING: tuple[Disc, ...] = ((600, 2500, 100), (798, 2500, 100), (700, 2672, 100))
CLOSE: tuple[Disc, ...] = ((1155, 1255, 55),)  # not touching the disc of 150 px, a part of which lies in its box
CUT: tuple[Disc, ...] = ((0, 2000, 100), (1000, 3000, 100))


def found_on(discs: tuple[Disc, ...], *, block_tiles: int = 8, um_per_px: float | None = 0.5) -> Glomeruli:
    finder, picture = model(), slide(2000, 3000, discs, um_per_px=um_per_px)
    return join(finder.results(picture, finder.blocks(picture, block_tiles=block_tiles)))


def nearest(found: Glomeruli, disc: Disc) -> int:
    centres = np.array([outline.mean(axis=0) for outline in found.outlines_px])
    return int(np.hypot(*(centres - disc[:2]).T).argmin())


@pytest.mark.parametrize("length", [1, 20, 32, 100, 128, 129, 225, 500, 5000])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5])
def test_the_windows_of_overlapping_tiles_sum_to_one(length: int, overlap: float) -> None:
    axis = Axis.lay(length, tile_px=128, overlap=overlap)
    total = np.zeros(max(length, axis.tile_px))
    for index, start in enumerate(axis.starts_px):
        total[start : start + axis.tile_px] += axis.window(index)
    assert np.allclose(total, 1, atol=1e-6)
    assert axis.starts_px[-1] + axis.tile_px >= length
    assert axis.tile_px % 32 == 0


def test_every_glomerulus_is_counted_once_with_its_area_whole_touching_or_cut() -> None:
    found = found_on((*APART, *TOUCHING, *CLOSE, *CUT), block_tiles=1)
    assert len(found) == 9 + 3 + 1 + 2
    for disc in (*APART, *TOUCHING, *CLOSE):
        each = nearest(found, disc)
        assert found.areas_px[each] == pytest.approx(np.pi * disc[2] ** 2, rel=0.06 if disc in CLOSE else 0.02)
        assert not found.touches_edge[each]
    for disc in CUT:  # half of it is on the slide
        each = nearest(found, disc)
        assert found.areas_px[each] == pytest.approx(np.pi * disc[2] ** 2 / 2, rel=0.04)
        assert found.touches_edge[each]
    assert found.scores.min() > 0.9
    assert found.tissue_px == 2000 * 3000


def test_what_ends_just_before_the_edge_is_cut_by_it() -> None:
    found = found_on(((106, 400, 100), (113, 1200, 100), (1896, 2000, 100), (1000, 2887, 100)))
    cut = sorted(
        (round(float(outline[:, 1].mean()), -2), bool(cut))
        for outline, cut in zip(found.outlines_px, found.touches_edge, strict=True)
    )
    assert cut == [(400, True), (1200, False), (2000, True), (2900, False)]


def test_what_is_far_smaller_than_the_others_is_none_unless_the_edge_cuts_it() -> None:
    small = [(1600, 700, 38), (1600, 2000, 42), (2000, 1000, 38)]  # the rest are 100 px: the least is 40
    found = found_on([(x, y, 100) for x in (300, 900) for y in (300, 900, 1500)] + small)
    rims = sorted(round(float(outline[:, 0].max())) for outline in found.outlines_px)
    assert rims == pytest.approx([400] * 3 + [1000] * 3 + [1642, 2000], abs=4)


def test_what_has_large_bays_is_no_glomerulus() -> None:
    chance = np.zeros((60, 60), np.float32)
    chance[10:50, 10:20] = chance[40:50, 10:50] = 1  # an L of 700 px; its hull has nearly 1,150
    empty = np.zeros_like(chance)
    assert list(separate(chance, empty, chance > 0, 0.5, 5.0)) == []
    chance[10:50, 10:50] = 1
    assert len(list(separate(chance, empty, chance > 0, 0.5, 5.0))) == 1


def test_outlines_lie_on_the_rims_to_a_pixel_of_the_network() -> None:
    found = found_on(APART)
    for disc in APART:
        outline = found.outlines_px[nearest(found, disc)]
        assert np.abs(np.hypot(*(outline - disc[:2]).T) - disc[2]).max() < 4
        assert len(outline) < 60


def test_the_answer_is_the_same_however_the_slide_is_cut_into_blocks() -> None:
    discs = (*APART, *TOUCHING, *CUT)
    whole, *others = (found_on(discs, block_tiles=size) for size in (10_000, 1, 13))
    for other in others:
        assert [outline.tolist() for outline in other.outlines_px] == [each.tolist() for each in whole.outlines_px]
        assert other.areas_px.tolist() == whole.areas_px.tolist()
        assert other.scores.tolist() == whole.scores.tolist()


def test_blocks_searched_one_by_one_and_stored_give_the_same_after_a_restart() -> None:
    picture, discs = slide(2000, 3000, APART), model()
    blocks = discs.blocks(picture, block_tiles=8)
    stored = [discs.search(picture, block).to_bytes() for block in blocks]
    assert max(map(len, stored)) < 20_000
    again = model().blocks(slide(2000, 3000, APART), block_tiles=8)
    assert [type(block).from_json(block.to_json()) for block in again] == list(blocks)
    found = join(BlockResult.from_bytes(content) for content in stored)
    assert found.areas_px.tolist() == model().predict(slide(2000, 3000, APART)).areas_px.tolist()
    with pytest.raises(InputError, match="search the block again"):
        BlockResult.from_bytes(stored[0][:-20])
    with pytest.raises(ValueError, match="in their order"):
        join(map(BlockResult.from_bytes, reversed(stored)))


def test_only_tissue_is_searched_and_progress_counts_its_tiles() -> None:
    told: list[tuple[int, int]] = []
    network = DarkIsGlomerulus()
    picture = slide(4000, 4000, [(1300, 2000, 100)], glass_px=1200)
    found = model(network).predict(picture, progress=lambda *at: told.append(at))
    searched = sum(shape[0] for shape in network.shapes)
    assert len(found) == 1
    assert told[-1] == (searched, searched)
    assert searched == 7 * 7  # of 11 x 11: those that reach into 300..700 of 1,000 of the network's px
    assert found.tissue_px == pytest.approx(1600**2, rel=0.02)


def test_a_slide_without_tissue_has_no_glomeruli() -> None:
    network = DarkIsGlomerulus()
    found = model(network).predict(slide(2000, 2000, [], glass_px=1000))
    assert (len(found), found.tissue_px, network.shapes) == (0, 0, [])


def test_memory_does_not_grow_with_the_slide() -> None:
    def peak(height_px: int) -> int:
        picture, finder = slide(2000, height_px, [(1000, y, 100) for y in range(300, height_px, 500)]), model()
        blocks = finder.blocks(picture, block_tiles=8)
        tracemalloc.start()
        try:
            assert len(join(finder.results(picture, blocks))) == len(range(300, height_px, 500))
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak(12_000) < 1.5 * peak(3_000)  # tiles in flight differ from run to run; the map itself would be fourfold


@pytest.mark.parametrize("um_per_px", [0.25, 1.3])
def test_a_known_scale_brings_any_objective_to_the_networks(um_per_px: float) -> None:
    discs = [(x / um_per_px, y / um_per_px, radius / um_per_px) for x, y, radius in ((200, 150, 50), (300, 350, 40))]
    picture = slide(round(600 / um_per_px), round(500 / um_per_px), discs, um_per_px=um_per_px)
    found = model().predict(picture)
    assert (found.areas_px * um_per_px**2).tolist() == pytest.approx([np.pi * 50**2, np.pi * 40**2], rel=0.03)
    assert found.um_per_px == um_per_px


@pytest.mark.parametrize(("species", "downsample"), [("human", 8), ("mouse", 3), ("rat", 4.8)])
def test_glomeruli_of_a_smaller_animal_are_shown_as_large_as_those_of_people(species: str, downsample: float) -> None:
    blocks = model().blocks(slide(4000, 3000, APART, um_per_px=0.25), species=species)
    assert blocks[0].layout.downsample == pytest.approx(downsample)  # 8 x 75 um of 200, 8 x 120 um of 200


def test_a_scale_says_nothing_of_the_glomeruli_of_an_unknown_species() -> None:
    discs = [(272, 512, 70), (952, 400, 70)]
    known, unknown = (slide(1360, 1024, discs, um_per_px=um) for um in (0.1, None))
    searched = [model().blocks(picture, species="other")[0].layout for picture in (known, unknown)]
    assert searched[0].downsample == searched[1].downsample
    assert searched[0].um_per_px == 0.1


@pytest.mark.parametrize("radius", [20, 70, 180])
def test_a_picture_without_a_scale_is_searched_at_the_size_of_its_glomeruli(radius: int) -> None:
    discs = [(0.2 * 1360, 512, radius), (0.7 * 1360, 400, radius)]
    picture = slide(1360, 1024, discs, um_per_px=None)
    blocks = model().blocks(picture)
    # 24 to 96 px are known: the middle is 48, and a third of the octave from there to 96 is 60.
    assert 2 * radius / blocks[0].layout.downsample == pytest.approx(60, rel=0.1)
    found = join(model().results(picture, blocks))
    assert found.areas_px.tolist() == pytest.approx([np.pi * radius**2] * 2, rel=0.03)
    assert found.um_per_px is None


def test_a_large_slide_without_a_scale_is_tried_where_its_tissue_lies() -> None:
    network = DarkIsGlomerulus()
    discs = [(x, y, 200) for x in range(12_000, 20_000, 900) for y in range(12_000, 20_000, 900)]
    picture = slide(32_000, 32_000, discs, um_per_px=None, glass_px=11_000)
    blocks = model(network).blocks(picture)
    assert 400 / blocks[0].layout.downsample == pytest.approx(60, rel=0.15)
    assert sum(np.prod(shape[:3]) for shape in network.shapes) < 12e6


def test_a_model_of_another_wing_is_refused() -> None:
    with pytest.raises(ModelError, match="does not search kidney slides"):
        GlomerulusModel.load("sediment-multihead-n")
