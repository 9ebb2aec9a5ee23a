from __future__ import annotations

import cv2
import numpy as np
import pytest

from renalcore.histology.butterworth import band_pass, segment


def kidney(diameter_px: int, *centres: tuple[int, int]) -> np.ndarray:
    """Pink tissue with a few dark nuclei, and glomeruli, where they stand close."""
    rng = np.random.default_rng(0)
    pixels = np.full((300, 400, 3), (235, 200, 215), np.uint8)
    nucleus = max(2, diameter_px // 16)
    for x, y in rng.integers((0, 0), (400, 300), (60, 2)):
        cv2.circle(pixels, (int(x), int(y)), nucleus, (90, 70, 140), -1)
    for cx, cy in centres:
        for _ in range(120):
            radius, angle = diameter_px / 2 * np.sqrt(rng.random()), 2 * np.pi * rng.random()
            at = (round(cx + radius * np.cos(angle)), round(cy + radius * np.sin(angle)))
            cv2.circle(pixels, at, nucleus, (90, 70, 140), -1)
    return pixels


def test_two_glomeruli_are_found_at_their_places_and_nothing_else() -> None:
    pixels = kidney(64, (100, 100), (300, 200))
    mask = segment(pixels, um_per_px=200 / 64)
    count, labels = cv2.connectedComponents(mask.astype(np.uint8))
    assert count - 1 == 2
    for x, y in ((100, 100), (300, 200)):
        disc = np.zeros_like(labels, np.uint8)
        cv2.circle(disc, (x, y), 32, 1, -1)
        own = labels == labels[y, x]
        assert 2 * (own & (disc > 0)).sum() / (own.sum() + disc.sum()) > 0.75
    assert (mask == segment(pixels, diameter_px=64)).all()


def test_the_filter_halves_twice_at_its_cut_offs_and_removes_the_mean() -> None:
    # With both cut-offs at 1/16 wave a px, a wave of that frequency keeps 1 / (1 + 1) * (1 - 1 / (1 + 1)) = 1/4.
    wave = np.tile(np.cos(2 * np.pi * np.arange(64) / 16), (64, 1))
    found = band_pass(wave + 5, low=1 / 16, high=1 / 16)
    np.testing.assert_allclose(found, wave / 4, atol=1e-9)


def test_empty_glass_holds_no_glomerulus() -> None:
    assert not segment(np.full((80, 90, 3), 243, np.uint8), diameter_px=30).any()


def test_the_size_of_glomeruli_must_be_told_once() -> None:
    pixels = np.zeros((50, 50, 3), np.uint8)
    with pytest.raises(ValueError, match="either um_per_px or diameter_px"):
        segment(pixels)
    with pytest.raises(ValueError, match="either um_per_px or diameter_px"):
        segment(pixels, um_per_px=1.0, diameter_px=30)
    with pytest.raises(ValueError, match="at least 4 px across"):
        segment(pixels, um_per_px=100.0)
