"""Kidney fields drawn for tests: pink tissue on glass with discs for glomeruli, and masks that number them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from PIL import Image

Disc = tuple[int, int, int]
"""Middle x, middle y and radius in px."""


def field(discs: list[Disc], *, size: tuple[int, int] = (320, 240), seed: int = 0) -> np.ndarray:
    """Pixels of a field of the given width and height."""
    width, height = size
    pixels = np.full((height, width, 3), (225, 165, 200), np.float32)
    pixels += np.random.default_rng(seed).normal(0, 8, (height, width, 1))
    pixels[:, : width // 8] = 245  # glass
    for x, y, radius in discs:
        cv2.circle(pixels, (x, y), radius, (140, 70, 150), -1)
    return np.clip(pixels, 0, 255).astype(np.uint8)


def numbered(discs: list[Disc], *, size: tuple[int, int] = (320, 240)) -> np.ndarray:
    """A mask that numbers the discs from 1; where two overlap the later one lies on top."""
    mask = np.zeros(size[::-1], np.int32)
    for number, (x, y, radius) in enumerate(discs, start=1):
        cv2.circle(mask, (x, y), radius, number, -1)
    return mask.astype(np.uint16)


def save(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def pair(folder: Path, name: str, discs: list[Disc], *, seed: int = 0) -> Path:
    """`images/NAME.png` and `instances/NAME.png`; the picture."""
    save(folder / "instances" / f"{name}.png", numbered(discs))
    return save(folder / "images" / f"{name}.png", field(discs, seed=seed))
