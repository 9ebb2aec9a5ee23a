import dataclasses

import numpy as np
import pytest
from numpy.typing import NDArray

from renalcore import taxonomy
from renalcore.errors import UnknownName
from renalcore.sediment.synthetic import DEMO_RECIPES, Light, Plan, Recipe, RenderedField, paint, plan, render
from renalcore.sediment.synthetic.morphology import KINDS

CLEAR = Light(colour=(0.7, 0.7, 0.65), focus_um=-1.0, depth_um=0.2)
"""A good microscope and a perfect camera: no noise, no compression, no sharpening."""


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def roomy_scale(class_name: str) -> float:
    """A scale at which one particle of the class fits into a field of 400 px."""
    return max(0.2, 5 * KINDS[class_name].radius_um / 400)


def single(class_name: str, seed: int, **counts: tuple[int, int]) -> Plan:
    """A clear field of one particle of `class_name` in its middle, and of others where they fall."""
    recipe = Recipe("test", {class_name: (1, 1), **counts}, light=CLEAR)
    planned = plan(400, 400, rng=rng(seed), um_per_px=roomy_scale(class_name), recipe=recipe)
    wanted = taxonomy.class_id(class_name)
    first = next(k for k, placed in enumerate(planned.particles) if placed.class_id == wanted)
    moved = dataclasses.replace(planned.particles[first], x_px=200.0, y_px=200.0)
    others = planned.particles[:first] + planned.particles[first + 1 :]
    return dataclasses.replace(planned, particles=(moved, *others))


def change(with_it: RenderedField, without_it: RenderedField) -> NDArray[np.float64]:
    """How much each pixel differs, as a share of its light without the particle."""
    before = without_it.pixels.astype(float)
    return (np.abs(with_it.pixels - before) / np.maximum(before, 1)).max(axis=2)


def extent(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])


def test_every_class_of_the_taxonomy_has_a_drawer() -> None:
    assert set(KINDS) == set(taxonomy.NAMES)
    assert len(KINDS) == 39


@pytest.mark.parametrize("class_name", taxonomy.NAMES)
def test_a_box_encloses_the_pixels_that_its_particle_changes_with_the_margin_that_people_leave(class_name: str) -> None:
    planned = single(class_name, seed=7, RBC=(2, 2), WBC=(1, 1))
    complete = paint(planned)
    missing = paint(dataclasses.replace(planned, particles=planned.particles[1:]))

    assert complete.class_ids[0] == taxonomy.class_id(class_name)
    assert len(complete.boxes_px) == len(missing.boxes_px) + 1
    np.testing.assert_array_equal(complete.boxes_px[1:], missing.boxes_px)
    changed = change(complete, missing)
    # 15 % of the strongest change, at least 2 % and at most 5 % of the light
    visible = changed > np.clip(0.15 * changed.max(), 0.02, 0.05)
    x1, y1, x2, y2 = extent(visible)
    margin = min(0.12 * max(x2 - x1, y2 - y1), 0.8 / planned.um_per_px)
    expected = np.array([x1 - margin, y1 - margin, x2 + margin, y2 + margin])
    height, width = complete.pixels.shape[:2]
    np.testing.assert_allclose(complete.boxes_px[0], np.clip(expected, 0, [width, height] * 2), atol=2.5)


@pytest.mark.parametrize("class_name", taxonomy.NAMES)
def test_no_two_particles_of_a_class_look_alike(class_name: str) -> None:
    first, second = (paint(dataclasses.replace(single(class_name, seed), seed=0, debris=0)) for seed in (1, 2))
    assert change(first, second).max() > 0.03


def test_boxes_lie_within_the_picture() -> None:
    for seed in range(12):
        field = render(320, 200, rng=rng(seed))
        x1, y1, x2, y2 = field.boxes_px.T
        assert field.pixels.shape == (200, 320, 3)
        assert field.pixels.dtype == np.uint8
        assert (x1 >= 0).all()
        assert (y1 >= 0).all()
        assert (x2 <= 320).all()
        assert (y2 <= 200).all()
        assert (x2 > x1).all()
        assert (y2 > y1).all()
        assert len(field.class_ids) == len(field.boxes_px)


def test_the_same_seed_gives_the_same_field_and_another_seed_another() -> None:
    first, again, other = (render(200, 160, rng=rng(seed)) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.pixels, again.pixels)
    np.testing.assert_array_equal(first.boxes_px, again.boxes_px)
    np.testing.assert_array_equal(first.class_ids, again.class_ids)
    assert (first.pixels != other.pixels).any()


def test_a_recipe_says_how_many_particles_a_field_holds() -> None:
    recipe = Recipe("test", {"RBC": (9, 9), "Calcium oxalate": (4, 4)}, light=CLEAR, crowding=0)
    planned = plan(600, 600, rng=rng(), um_per_px=0.2, recipe=recipe)
    names = [taxonomy.NAMES[placed.class_id] for placed in planned.particles]
    assert (names.count("RBC"), names.count("Calcium oxalate"), len(names)) == (9, 4, 13)


def test_a_red_cell_is_seven_micrometres_wide_at_any_scale() -> None:
    for um_per_px in (0.12, 0.2, 0.35):
        recipe = Recipe("test", {"RBC": (12, 12)}, light=CLEAR, crowding=0)
        boxes = render(700, 700, rng=rng(), um_per_px=um_per_px, recipe=recipe).boxes_px
        longest_um = np.maximum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]) * um_per_px
        assert 7.5 < np.median(longest_um) < 10.5  # with the halo at its edge and 0.8 um of margin on both sides


def test_random_scales_let_a_red_cell_cover_20_to_60_px() -> None:
    scales = [plan(64, 64, rng=rng(seed), recipe=Recipe("empty")).um_per_px for seed in range(40)]
    assert min(scales) >= 7 / 60
    assert max(scales) <= 7 / 20
    assert max(scales) / min(scales) > 2


def test_low_power_training_fields_hold_no_class_that_is_too_small_to_tell() -> None:
    fields = [planned for seed in range(60) if (planned := plan(400, 400, rng=rng(seed))).um_per_px > 7 / 20]
    names = {taxonomy.NAMES[placed.class_id] for planned in fields for placed in planned.particles}
    assert 1 <= len(fields) <= 15
    assert names
    assert not names & {"RBC", "WBC", "Bacteria", "Yeast", "Calcium oxalate"}


def test_far_from_focus_edges_are_softer() -> None:
    planned = single("RBC", seed=1)
    sharp, soft = (
        paint(dataclasses.replace(planned, debris=0, particles=(dataclasses.replace(planned.particles[0], z_um=z),)))
        for z in (-0.8, -15.0)
    )
    steepest = [np.abs(np.diff(field.pixels.astype(int), axis=1)).max() for field in (sharp, soft)]
    assert steepest[0] > 2 * steepest[1]


def test_light_ranges_from_dark_to_bright_and_over_several_tints() -> None:
    fields = [render(48, 48, rng=rng(seed), recipe=Recipe("empty")).pixels.reshape(-1, 3) for seed in range(60)]
    colours = np.array([np.median(field, axis=0) for field in fields])
    brightness = colours.mean(axis=1)
    assert brightness.min() < 110
    assert brightness.max() > 215
    warmth = colours[:, 0] - colours[:, 2]
    assert warmth.min() < -10
    assert warmth.max() > 25


def test_a_picture_through_an_eyepiece_is_black_outside_its_disc_and_holds_boxes_only_inside() -> None:
    light = dataclasses.replace(CLEAR, round_field=(0.5, 0.5, 0.45))
    recipe = Recipe("test", {"RBC": (30, 30)}, light=light, crowding=1)
    field = render(400, 400, rng=rng(), um_per_px=0.3, recipe=recipe)
    y, x = np.mgrid[:400, :400]
    distance = np.hypot(x - 200, y - 200)
    assert field.pixels[distance > 190].max() == 0
    assert field.pixels[distance < 120].min() > 20
    centres = (field.boxes_px[:, :2] + field.boxes_px[:, 2:]) / 2
    assert np.hypot(*(centres - 200).T).max() < 0.45 * 400


def test_random_fields_reach_all_39_classes() -> None:
    seen: set[int] = set()
    for seed in range(400):
        seen.update(placed.class_id for placed in plan(640, 640, rng=rng(seed)).particles)
    assert seen == set(range(39))


@pytest.mark.parametrize(
    ("recipe", "signs"),
    list(
        zip(
            DEMO_RECIPES,
            [("RBC", "RBC cast"), ("WBC", "Bacteria"), ("Calcium oxalate", "Uric acid"), ("Muddy brown cast",)],
            strict=True,
        )
    ),
    ids=[recipe.name for recipe in DEMO_RECIPES],
)
def test_a_demo_patient_shows_its_signs_under_one_microscope(recipe: Recipe, signs: tuple[str, ...]) -> None:
    fields = [render(480, 360, rng=rng(seed), um_per_px=0.35, recipe=recipe) for seed in range(3)]
    found = {taxonomy.NAMES[class_id] for field in fields for class_id in field.class_ids}
    assert found >= set(signs)
    medians = np.array([np.median(field.pixels.reshape(-1, 3), axis=0) for field in fields])
    assert np.ptp(medians, axis=0).max() < 30


def test_a_recipe_refuses_a_class_nobody_knows_and_counts_that_cannot_be() -> None:
    with pytest.raises(UnknownName, match="'Unicorn' is not one of the 39"):
        Recipe("test", {"Unicorn": (1, 2)})
    with pytest.raises(ValueError, match=r"counts of 'RBC' must be 0 <= low <= high, got 3\.\.2"):
        Recipe("test", {"RBC": (3, 2)})


def test_a_field_without_extent_or_scale_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 px wide and high, got 0 x 5"):
        render(0, 5, rng=rng())
    with pytest.raises(ValueError, match="um_per_px must be positive, got nan"):
        render(5, 5, rng=rng(), um_per_px=float("nan"))
