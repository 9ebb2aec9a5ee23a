from __future__ import annotations

import numpy as np
from scipy import ndimage

from renalcore.ct.lesions import lesions_by_hu
from renalcore.ct.steps import Grid

SPACING_MM = (2.0, 1.0, 1.0)
GRID = Grid((40, 80, 80), np.diag([1.0, 1.0, 2.0, 1.0]))


def ball(middle_mm: tuple[float, float, float], radius_mm: float) -> np.ndarray:
    axes = (np.arange(n) * mm - at for n, mm, at in zip((40, 80, 80), SPACING_MM, middle_mm, strict=True))
    z, y, x = np.meshgrid(*axes, indexing="ij")
    return z**2 + y**2 + x**2 < radius_mm**2


KIDNEY = ball((40, 40, 40), 32)
UPPER, LOWER = ball((54, 44, 40), 12), ball((25, 35, 40), 9)  # 7 and 3 ml


def scan(kidney_hu: float) -> np.ndarray:
    """Fat around a kidney, with the noise of a scan."""
    noise = np.random.default_rng(0).normal(0, 12, KIDNEY.shape)
    return (np.where(KIDNEY, kidney_hu, -100) + noise).astype(np.float32)


def labels(cysts: np.ndarray) -> np.ndarray:
    """A kidney in which the network called something a cyst."""
    return (KIDNEY + 2 * cysts).astype(np.uint8)


def test_what_the_network_calls_a_cyst_is_one_where_it_holds_water() -> None:
    hu = scan(120)
    hu[UPPER] -= 110  # water; the other is as bright as the kidney
    told = lesions_by_hu(hu, labels(UPPER | LOWER), GRID)
    assert (told[UPPER] == 3).all()
    assert (told[LOWER] == 1).all()
    assert np.array_equal(told > 0, KIDNEY)


def test_a_small_cyst_is_one_though_most_of_it_is_border() -> None:
    small = ball((25, 35, 40), 6)  # 0.9 ml
    hu = ndimage.gaussian_filter(np.where(small, 10, scan(160)), np.divide(1.2, SPACING_MM)).astype(np.float32)
    assert np.median(hu[small]) > 35
    assert (lesions_by_hu(hu, labels(small), GRID)[small] == 3).all()


def test_what_the_network_calls_a_cyst_and_is_solid_is_a_tumour_with_contrast_medium() -> None:
    bright, plain = scan(150), scan(70)
    bright[UPPER] -= 80  # 70 HU: no water, and much darker than its kidney
    told = lesions_by_hu(bright, labels(UPPER | LOWER), GRID)
    assert (told[UPPER] == 2).all()
    assert (told[LOWER] == 1).all()
    plain[UPPER] -= 20
    assert (lesions_by_hu(plain, labels(UPPER), GRID) == KIDNEY).all()


def test_without_contrast_medium_water_alone_tells_a_cyst() -> None:
    plain = scan(30)
    plain[UPPER] -= 20
    assert (lesions_by_hu(plain, labels(UPPER), GRID)[UPPER] == 3).all()
    assert (lesions_by_hu(plain, labels(LOWER), GRID) == KIDNEY).all()


def test_fat_and_specks_are_no_cysts_and_what_was_not_called_one_stays_as_it_is() -> None:
    hu = scan(120)
    hu[UPPER] = -90
    speck = ball((25, 35, 30), 3)  # 0.11 ml
    hu[speck] = 10
    assert (lesions_by_hu(hu, labels(UPPER | speck), GRID) == KIDNEY).all()
    tumour = (KIDNEY + UPPER).astype(np.uint8)
    assert np.array_equal(lesions_by_hu(hu, tumour, GRID), tumour)
    nothing = np.zeros_like(tumour)
    assert np.array_equal(lesions_by_hu(hu, nothing, GRID), nothing)


def test_a_cyst_that_is_most_of_its_kidney_stays_one() -> None:
    large = ball((40, 40, 42), 30)  # 82 % of it
    hu = (np.where(large, 12, scan(150)) + np.random.default_rng(1).normal(0, 5, KIDNEY.shape)).astype(np.float32)
    told = lesions_by_hu(hu, labels(large), GRID)
    assert (told[large] == 3).all()
    assert (told[KIDNEY & ~large] == 1).mean() > 0.3  # a thin layer of it is blurred away
