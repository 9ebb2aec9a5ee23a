from __future__ import annotations

import numpy as np

from renalcore.histology.glomeruli import Glomeruli, usual_area
from renalcore.histology.zoom import Readable, Seen, most_certain
from tests.renalcore.histology.discs import Disc, slide

WIDTH_PX, HEIGHT_PX = 1360, 1024
ONE: Disc = (600, 500, 170)
TUBULES: tuple[Disc, ...] = tuple((x, y, 34) for x in range(100, 1300, 100) for y in range(50, 1000, 100))


def seen(discs: tuple[Disc, ...], part: Readable, zoom: float) -> Seen:
    """What a network says that is certain of these discs."""
    x, y = (np.arange(round(side / zoom)) * zoom for side in (part.width_px, part.height_px))
    chance = np.zeros((len(y), len(x)), np.float32)
    for cx, cy, radius in discs:
        chance[np.hypot(x[None] - cx, y[:, None] - cy) < radius] = 0.95
    square = np.float32([(0, 0), (1, 0), (1, 1), (0, 1)])
    areas = np.array([np.pi * radius**2 for _, _, radius in discs])
    cut = np.zeros(len(discs), np.bool_)
    found = Glomeruli((square,) * len(discs), np.full(len(discs), 0.95, np.float32), areas, cut, 0, None)
    return Seen.of(chance, found, part, min_score=0.8)


def test_tubules_shown_as_large_as_glomeruli_at_one_zoom_do_not_outweigh_one_seen_at_several() -> None:
    def search(part: Readable, zoom: float) -> Seen:
        discs = TUBULES if zoom < 1 else (ONE,) if zoom < 8 else ()
        return seen(discs, part, zoom)

    picture = slide(WIDTH_PX, HEIGHT_PX, (), um_per_px=None)
    zoom = most_certain(picture, np.ones((1, 1), np.bool_), search, (48, 192))
    covered = [sum(np.pi * radius**2 for *_, radius in discs) for discs in (TUBULES, (ONE,))]
    assert covered[0] > 4 * covered[1]
    assert 110 < 2 * ONE[2] / zoom < 130  # a third of the octave from 96 to 192: 121


def test_a_picture_in_which_nothing_is_found_has_a_zoom_all_the_same() -> None:
    picture = slide(WIDTH_PX, HEIGHT_PX, (), um_per_px=None)
    zoom = most_certain(picture, np.ones((1, 1), np.bool_), lambda part, zoom: seen((), part, zoom), (48, 192))
    assert 0.5 < zoom < 12


def test_the_usual_glomerulus_is_the_middle_one_by_area_and_cut_ones_count_only_among_themselves() -> None:
    areas = np.array([1.0, 1, 1, 1, 10, 12])  # of 26, half lies in 10 and less
    assert usual_area(areas, np.zeros(6, np.bool_)) == 10
    assert usual_area(np.array([50.0, 4]), np.array([True, False])) == 4
    assert usual_area(np.array([50.0]), np.array([True])) == 50
    assert usual_area(np.empty(0), np.empty(0, np.bool_)) == 0
