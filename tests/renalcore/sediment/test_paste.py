"""Particles of other fields in a crop: their light, their boxes, and where they must not lie."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from renalcore import taxonomy
from renalcore.sediment.paste import Particles
from renalcore.sediment.readers import LabelledField

RBC, WBC, OXALATE = (taxonomy.class_id(name) for name in ("RBC", "WBC", "Calcium oxalate"))
ALL = np.ones(39, bool)
ONLY_WBC = np.arange(39) == WBC


def field(
    name: str, boxes: list[list[int]], ids: list[int], known: np.ndarray = ALL, *, real: bool = True
) -> LabelledField:
    boxes_px = np.array(boxes, np.float32).reshape(-1, 4)
    return LabelledField(Path(name), boxes_px, np.array(ids, np.int64), known, name, real)


def crystal_on_grey() -> np.ndarray:
    """A square of 20 px that lets half of the light through, on a background of 200."""
    pixels = np.full((100, 100, 3), 199, np.uint8)
    pixels[40:60, 40:60] = 99
    return pixels


def empty(level: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return np.full((128, 128, 3), level, np.uint8), np.zeros((0, 4), np.float32), np.zeros(0, np.int64)


def test_a_particle_takes_the_same_share_of_a_darker_fields_light() -> None:
    source, target = field("a", [[40, 40, 60, 60]], [OXALATE]), field("b", [], [])
    particles = Particles([source], lambda _: crystal_on_grey())
    window, boxes, ids = particles.paste(*empty(120), field=target, zoom=1.0, rng=np.random.default_rng(0))
    assert set(ids.tolist()) == {OXALATE}
    for x1, y1, x2, y2 in boxes:
        middle = window[round((y1 + y2) / 2), round((x1 + x2) / 2)]
        assert abs(int(middle[0]) - 60) <= 2  # half of 120
        assert 0.8 * 20 <= x2 - x1 <= 1.25 * 20
        rows, columns = np.nonzero(window[:, :, 0] < 90)
        assert ((rows >= y1 - 2) & (rows <= y2 + 1) & (columns >= x1 - 2) & (columns <= x2 + 1)).any()
    dark = window[:, :, 0] < 90
    for x1, y1, x2, y2 in boxes.round().astype(int):
        dark[max(y1 - 1, 0) : y2 + 1, max(x1 - 1, 0) : x2 + 1] = False
    assert not dark.any()  # nothing dark lies outside the boxes
    assert window.max() == 120  # and no rim is left around them


def test_nothing_is_laid_over_what_is_there() -> None:
    source = field("a", [[40, 40, 60, 60]], [OXALATE])
    particles = Particles([source], lambda _: crystal_on_grey())
    window, _, _ = empty(120)
    everywhere, ids = np.array([[0, 0, 128, 128]], np.float32), np.array([RBC])
    same, boxes, still = particles.paste(window, everywhere, ids, field=source, zoom=1.0, rng=np.random.default_rng(0))
    assert (same == window).all()
    assert boxes.tolist() == everywhere.tolist()
    assert still.tolist() == [RBC]


def test_particles_stay_among_fields_in_which_the_same_classes_were_looked_for() -> None:
    source = field("a", [[40, 40, 60, 60]], [OXALATE])
    particles = Particles([source], lambda _: crystal_on_grey())
    for other in (field("b", [], [], ONLY_WBC), field("c", [], [], real=False)):
        _, boxes, _ = particles.paste(*empty(120), field=other, zoom=1.0, rng=np.random.default_rng(0))
        assert len(boxes) == 0


def test_touching_cut_and_rendered_particles_are_not_taken() -> None:
    touching = field("a", [[40, 40, 60, 60], [58, 40, 78, 60]], [RBC, RBC])
    cut = field("b", [[0, 40, 20, 60]], [RBC])
    rendered = field("c", [[40, 40, 60, 60]], [RBC], real=False)
    for source in (touching, cut, rendered):
        particles = Particles([source], lambda _: crystal_on_grey())
        _, boxes, _ = particles.paste(*empty(120), field=field("d", [], []), zoom=1.0, rng=np.random.default_rng(0))
        assert len(boxes) == 0, source.path
