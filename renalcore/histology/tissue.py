"""Where the tissue of a slide is, found on a thumbnail; glass, black frames and felt pen are left out.

The optical density of each pixel over the slide's own glass (Beer and Lambert) is cut by Otsu's threshold (IEEE Trans.
SMC 9, 1979), as CLAM cuts the saturation (Lu et al., Nature Biomedical Engineering 5, 2021, Methods). Saturation misses
silver, which stains grey; density does not. The threshold is kept within limits: on a pale slide Otsu would split the
tissue, and in a picture full of it there is no glass to part it from. Its upper limit is below the density of 0.15 that
Macenko et al. (ISBI 2009, section 2.2) take for unstained, for pale glomeruli absorb no more.
"""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

_Plane = NDArray[np.float32]

LONGEST_PX: Final = 1536
"""Longest side of the thumbnail that is searched: some 10 um a pixel on a whole slide, a tenth of a biopsy's width."""

_LEAST_DENSITY: Final = 0.04  # 9 % darker than glass: what dust, JPEG and uneven light make stays below
_GREATEST_DENSITY: Final = 0.10
_GLASS_LEAST: Final = 150  # grey level of the darkest channel; a lamp turned low still gives this
_GLASS_SATURATION: Final = 0.12  # pale stroma has as little, but is not even
_GLASS_FLAT: Final = 4.0
_GLASS_SHARE: Final = 0.005  # with less of it in a picture, what is bright there may be pale tissue
_BLACK_MOST: Final = 30
_FLAT: Final = 10.0  # standard deviation in grey levels over 7 px; tissue is never so even, ink is
_SPECK_SHARE: Final = 1e-4  # of the picture: 150 um across on a slide of 15 mm, less than a glomerulus
_HOLE_SHARE: Final = 5e-3


def find_tissue(thumbnail: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Which pixels of a thumbnail show tissue.

    Lumina inside the tissue belong to it. A picture without glass is tissue all over, black frames apart.

    Args:
        thumbnail: `(H, W, 3)` uint8 RGB of the whole slide, of some `LONGEST_PX` px.

    Returns:
        `(H, W)`, true on tissue.

    Raises:
        ValueError: It is not such a picture.
    """
    if thumbnail.ndim != 3 or thumbnail.shape[2] != 3 or thumbnail.dtype != np.uint8 or not thumbnail.size:
        raise ValueError(f"a thumbnail is (H, W, 3) uint8, got {thumbnail.shape} {thumbnail.dtype}")
    smooth = cv2.GaussianBlur(thumbnail, (0, 0), 1.0).astype(np.float32)
    red, green, blue = cv2.split(smooth)  # plane by plane: NumPy is slow along an axis of three
    spread = _spread((red + green + blue) / 3)
    black = _large((_highest(red, green, blue) < _BLACK_MOST) & (spread < _FLAT), share=_HOLE_SHARE)
    glass = _glass(smooth[~black], spread[~black])
    if glass is None:
        return ~black
    dimmed = ((own + 1) / (plane + 1) for own, plane in zip(glass, (red, green, blue), strict=True))
    density = np.log10(_highest(*dimmed)).clip(0, 1)
    tissue = (density > _threshold(density[~black])) & ~black & ~_ink(smooth, spread)
    tissue = _closed(tissue, radius_px=3) & ~black
    tissue = _large(tissue, share=_SPECK_SHARE)
    return ~_large(~tissue, share=_HOLE_SHARE)


def _glass(pixels: NDArray[np.float32], spread: NDArray[np.float32]) -> NDArray[np.float32] | None:
    """The colour of the glass: the most frequent of the bright, even greys. None where there is hardly any."""
    highest, lowest = _highest(*pixels.T), _lowest(*pixels.T)
    grey_enough = highest - lowest <= _GLASS_SATURATION * highest
    even = (lowest >= _GLASS_LEAST) & grey_enough & (spread < _GLASS_FLAT)
    bright = pixels[even]
    scanned = pixels[even & (lowest < 254)]  # where nothing was scanned, scanners write pure white
    if len(scanned) >= _GLASS_SHARE * len(pixels):
        bright = scanned
    if not len(bright) or len(bright) < _GLASS_SHARE * len(pixels):
        return None
    grey = bright.mean(axis=1)
    counts = np.convolve(np.bincount(grey.astype(np.int64), minlength=256), np.ones(5), mode="same")
    near: NDArray[np.float32] = bright[np.abs(grey - counts.argmax()) <= 3]
    return np.median(near, axis=0).astype(np.float32)


def _threshold(density: NDArray[np.float32]) -> float:
    levels = (density * 255).astype(np.uint8).reshape(-1, 1)
    otsu, _ = cv2.threshold(levels, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    return float(np.clip(otsu / 255, _LEAST_DENSITY, _GREATEST_DENSITY))


def _ink(smooth: NDArray[np.float32], spread: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Felt pen in green or blue: purer than any stain (light green and aniline blue too) and even."""
    red, green, blue = cv2.split(smooth)
    highest, lowest = _highest(red, green, blue), _lowest(red, green, blue)
    pure = (highest - lowest) / np.maximum(highest, 1)
    coloured = ((green == highest) & (pure > 0.55)) | ((blue == highest) & (red < 0.5 * blue) & (pure > 0.65))
    even: NDArray[np.bool_] = coloured & (spread < _FLAT)
    return _closed(_large(even, share=_SPECK_SHARE), radius_px=3, grown_px=3)


def _highest(red: _Plane, green: _Plane, blue: _Plane) -> _Plane:
    return np.maximum(np.maximum(red, green), blue)


def _lowest(red: _Plane, green: _Plane, blue: _Plane) -> _Plane:
    return np.minimum(np.minimum(red, green), blue)


def _spread(grey: NDArray[np.float32]) -> NDArray[np.float32]:
    mean, squares = cv2.blur(grey, (7, 7)), cv2.blur(grey * grey, (7, 7))
    spread: NDArray[np.float32] = np.sqrt(np.maximum(squares - mean * mean, 0))
    return spread


def _closed(mask: NDArray[np.bool_], *, radius_px: int, grown_px: int = 0) -> NDArray[np.bool_]:
    def disc(radius: int) -> NDArray[np.uint8]:
        element: NDArray[np.uint8] = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
        return element

    grown = cv2.dilate(mask.astype(np.uint8), disc(radius_px + grown_px))
    found: NDArray[np.bool_] = cv2.erode(grown, disc(radius_px)).astype(np.bool_)
    return found


def _large(mask: NDArray[np.bool_], *, share: float) -> NDArray[np.bool_]:
    """The connected parts that cover at least `share` of the picture."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    kept = stats[:, cv2.CC_STAT_AREA] >= share * mask.size
    kept[0] = False
    found: NDArray[np.bool_] = kept[labels]
    return found
