"""Glomeruli without a network: the Butterworth band-pass of Govind et al. (2018), the thesis' baseline (3.1.1).

Govind et al. filter the fluorescence of nuclei (DAPI), which stand close together in a glomerulus. On a stained slide
haematoxylin marks the same nuclei, so its share of the colour (Ruifrok and Johnston, 2001) is filtered here. The band
follows the known size of glomeruli; the mask is what lies above the threshold of Otsu, opened and filled.
"""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

DIAMETER_UM: Final = 200.0
"""Of a human glomerulus; 75 suits mice and rats."""

_WORKING_DIAMETER_PX: Final = 32.0
"""The picture is reduced until a glomerulus is so large: the band holds nothing finer."""

_PER_DIAMETER: Final = (0.3, 1.3)
"""Lower and upper cut-off in waves a diameter: half and twice 0.64, at which a round spot answers most."""

_STAINS: Final = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
"""Optical density of haematoxylin, eosin and a third stain in red, green and blue (Ruifrok and Johnston, Table 1)."""


def band_pass(values: NDArray[np.float64], *, low: float, high: float) -> NDArray[np.float64]:
    """The thesis' filter of order 1: `H = 1 / (1 + (D / high)^2) * (1 - 1 / (1 + (D / low)^2))`.

    The thesis prints the exponent on the cut-off alone; the quotient is squared here, as in Butterworth's filter.

    Args:
        values: `(H, W)`.
        low: Lower cut-off, in waves a px.
        high: Upper cut-off.

    Returns:
        `(H, W)`, of mean 0.
    """
    height, width = values.shape
    squared = np.fft.fftfreq(height)[:, None] ** 2 + np.fft.rfftfreq(width)[None, :] ** 2
    gain = 1 / (1 + squared / high**2) * (1 - 1 / (1 + squared / low**2))
    return np.fft.irfft2(np.fft.rfft2(values) * gain, s=(height, width))


def segment(
    pixels: NDArray[np.uint8],
    *,
    um_per_px: float | None = None,
    diameter_px: float | None = None,
    diameter_um: float = DIAMETER_UM,
) -> NDArray[np.bool_]:
    """Where glomeruli are, by the density of nuclei.

    Args:
        pixels: `(H, W, 3)` uint8 RGB.
        um_per_px: Scale of the picture, where it is known.
        diameter_px: Diameter of a glomerulus in px, where the scale is not.
        diameter_um: Diameter of a glomerulus, which `um_per_px` turns into px.

    Returns:
        `(H, W)` bool.

    Raises:
        ValueError: Neither or both of `um_per_px` and `diameter_px` are given, or a glomerulus is below 4 px.
    """
    if (um_per_px is None) == (diameter_px is None):
        raise ValueError("the band needs the size of glomeruli: give either um_per_px or diameter_px")
    across_px = diameter_um / um_per_px if um_per_px is not None else diameter_px
    if not across_px or not across_px >= 4:  # also refuses nan
        raise ValueError(f"a glomerulus must be at least 4 px across to be found, got {across_px}")
    height, width = pixels.shape[:2]
    shrink = min(1.0, _WORKING_DIAMETER_PX / across_px)
    size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
    across = across_px * shrink
    stain = _haematoxylin(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA))

    margin = round(across)  # mirrored, or the filter would join opposite sides of the picture
    wide = np.pad(stain, margin, mode="symmetric")
    low, high = (waves / across for waves in _PER_DIAMETER)
    answer = band_pass(wide, low=low, high=high)[margin:-margin, margin:-margin]

    scaled = np.clip(255 * answer / max(answer.max(), 1e-9), 0, 255).astype(np.uint8)
    threshold, _ = cv2.threshold(scaled, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    side = 2 * round(across / 6) + 1  # a third of a glomerulus
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    opened = cv2.morphologyEx((scaled > max(threshold, 1)).astype(np.uint8), cv2.MORPH_OPEN, disc)
    filled = ndimage.binary_fill_holes(opened)
    mask: NDArray[np.bool_] = cv2.resize(filled.astype(np.float32), (width, height)) >= 0.5
    return mask


def _haematoxylin(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The optical density that haematoxylin has in each pixel, `(H, W)`."""
    density = -np.log10((pixels.astype(np.float64) + 1) / 256)
    stains = _STAINS / np.linalg.norm(_STAINS, axis=1, keepdims=True)
    found: NDArray[np.float64] = np.clip(density @ np.linalg.inv(stains)[:, 0], 0, None)
    return found
