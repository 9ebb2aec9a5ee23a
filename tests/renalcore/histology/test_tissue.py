from __future__ import annotations

import cv2
import numpy as np
import pytest

from renalcore.histology.tissue import find_tissue

STAINS = {
    "HE": (205, 130, 175),
    "pale HE": (226, 205, 220),
    "PAS": (190, 120, 170),
    "silver": (120, 118, 116),
    "trichrome, blue": (110, 140, 190),
    "trichrome, green": (130, 170, 140),
}


def section(stain: tuple[int, int, int], *, glass: tuple[int, int, int] = (243, 242, 240)) -> np.ndarray:
    """Glass of 600 x 400 px with two pieces of tissue, as rough as tissue is; one has a lumen of 12 px."""
    random = np.random.default_rng(0)
    pixels = np.full((400, 600, 3), glass, np.float32)
    pixels += random.normal(0, 1.5, pixels.shape)
    rough = cv2.GaussianBlur(random.normal(0, 1, (400, 600)).astype(np.float32), (0, 0), 1.5) * 60
    where = truth()
    pixels[where] = (np.array(stain) + rough[..., None].clip(-25, 25))[where]
    cv2.circle(pixels, (150, 200), 6, glass, -1)
    return pixels.clip(0, 255).astype(np.uint8)


def truth() -> np.ndarray:
    mask = np.zeros((400, 600), np.uint8)
    cv2.ellipse(mask, (150, 200), (70, 150), 0, 0, 360, 1, -1)
    cv2.ellipse(mask, (430, 200), (100, 120), 30, 0, 360, 1, -1)
    return mask.astype(bool)


def overlap(some: np.ndarray, other: np.ndarray) -> float:
    return (some & other).sum() / (some | other).sum()


@pytest.mark.parametrize("stain", STAINS)
def test_tissue_of_every_stain_is_told_from_glass(stain: str) -> None:
    assert overlap(find_tissue(section(STAINS[stain])), truth()) > 0.93


def test_yellow_glass_is_glass() -> None:
    assert overlap(find_tissue(section(STAINS["HE"], glass=(228, 226, 208))), truth()) > 0.93


def test_a_black_frame_and_felt_pen_are_not_tissue() -> None:
    pixels = section(STAINS["PAS"])
    pixels[:30], pixels[:, :25] = 0, 0
    cv2.line(pixels, (300, 60), (300, 360), (20, 150, 60), 14)
    pixels[340:352, 20:300] = (30, 40, 200)
    shown = truth()
    shown[:30], shown[:, :25], shown[336:356, 20:300] = False, False, False
    assert overlap(find_tissue(pixels), shown) > 0.9


def test_a_picture_without_glass_is_tissue_all_over() -> None:
    pixels = section(STAINS["HE"], glass=STAINS["HE"])[50:350, 100:200]
    rough = np.random.default_rng(1).normal(0, 15, pixels.shape)
    assert find_tissue((pixels + rough).clip(0, 255).astype(np.uint8)).mean() > 0.99


@pytest.mark.parametrize("grey", [0, 243, 255])
def test_an_empty_slide_has_no_tissue(grey: int) -> None:
    assert not find_tissue(np.full((80, 100, 3), grey, np.uint8)).any()
