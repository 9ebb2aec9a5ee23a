"""What step 3 calls a lesion, put right by its HU: a simple cyst is full of water, as dark in every scan.

A small network sees that a part of a kidney is darker than the rest, and less well how dark it is. So what step 3 calls
a cyst is believed where it is as dark as water and darker than its kidney; and where contrast medium makes the kidney
bright, a part of it that is dark, round and large enough is a cyst whatever it was called. What it calls a cyst there
and is too bright for water, but much darker than the kidney, is solid: a tumour.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from renalcore.ct.kidneys import pieces_of
from renalcore.ct.steps import CYST, KIDNEY, TUMOUR, Floats, Floats64, Grid

WATER_HU: Final = (-15.0, 30.0)
"""Of what may be a cyst. Even masses of -9 to 20 HU, or of 30 HU with contrast medium, are benign cysts by the Bosniak
classification of 2019; some noise comes on top."""
DARKER_HU: Final = 10.0
"""By how much a cyst that the network saw is darker than its kidney at least."""
CALLED_ML: Final = 0.3
"""The smallest of those."""

DARK_HU: Final = 26.0
"""Below this smoothed HU lies the core of what is a cyst though the network saw none."""
CONTRAST_HU: Final = 35.0
"""By how much it, or a tumour that was called a cyst, is darker than its kidney: without contrast medium nothing is."""
SMOOTHED_MM: Final = 2.5
"""Sigma, within the kidney alone."""
ROUND_MM: Final = 2.5
"""Radius of a ball that fits into every part of a core: fat and the border of the kidney make thin layers."""
CORE_ML: Final = 0.6
"""The smallest of those cores."""


def lesions_by_hu(hu: Floats, labels: NDArray[np.uint8], grid: Grid) -> NDArray[np.uint8]:
    """The labels of one kidney with its lesions put right; what is no cyst after all is tumour or kidney.

    Of what the network calls a tumour no more than a dark core becomes a cyst: a tumour may be dead inside. The limits
    were chosen on 32 drawn scans of patients that neither train nor are among the 20 of the model's card.

    Args:
        hu: `(D, H, W)`, the crop.
        labels: `(D, H, W)`: 0 elsewhere, 1 kidney, 2 tumour, 3 cyst.
        grid: Where both lie.
    """
    kidney = labels > 0
    if not kidney.any():
        return labels
    spacing_mm = grid.spacing_mm
    tissue = labels == KIDNEY
    bright = float(np.percentile(hu[tissue if tissue.any() else kidney], 75))
    smooth = _smoothed(hu, kidney, spacing_mm)
    dark = kidney & (smooth > WATER_HU[0]) & (smooth < min(DARK_HU, bright - CONTRAST_HU))
    pieces, _, volumes_ml = pieces_of(_rounded(dark, spacing_mm), grid)
    cores = np.isin(pieces, 1 + np.flatnonzero(volumes_ml >= CORE_ML))
    called, _, volumes_ml = pieces_of(labels == CYST, grid)
    medians = ndimage.median(hu, called, np.arange(1, 1 + len(volumes_ml)))
    watery = (medians > WATER_HU[0]) & (medians < min(WATER_HU[1], bright - DARKER_HU))
    solid = (medians >= WATER_HU[1]) & (medians < bright - CONTRAST_HU)
    cysts, tumours = (np.isin(called, 1 + np.flatnonzero(kind & (volumes_ml >= CALLED_ML))) for kind in (watery, solid))
    if cores.any():  # the border of a cyst lies half way to the kidney
        beside = ndimage.distance_transform_edt(~cores, spacing_mm) <= 2 * SMOOTHED_MM
        half = (smooth > WATER_HU[0]) & (smooth < (float(np.mean(WATER_HU)) + bright) / 2)
        cysts |= cores | ((labels == KIDNEY) & beside & half)
    told: NDArray[np.uint8] = np.where(labels == CYST, np.uint8(KIDNEY), labels)
    told[tumours] = TUMOUR
    told[cysts] = CYST
    return told


def _smoothed(hu: Floats, kidney: NDArray[np.bool_], spacing_mm: Floats64) -> Floats:
    """The weighted mean of what lies around each voxel in the kidney."""
    sigma = SMOOTHED_MM / np.asarray(spacing_mm)
    weights = ndimage.gaussian_filter(kidney.astype(np.float32), sigma)
    summed = ndimage.gaussian_filter(np.where(kidney, hu, np.float32(0)), sigma)
    mean: Floats = summed / np.maximum(weights, np.float32(1e-3))
    return mean


def _rounded(mask: NDArray[np.bool_], spacing_mm: Floats64) -> NDArray[np.bool_]:
    """What of a mask a ball of `ROUND_MM` covers without leaving it."""
    middles: NDArray[np.bool_] = ndimage.distance_transform_edt(mask, spacing_mm) >= ROUND_MM
    if not middles.any():
        return middles
    covered: NDArray[np.bool_] = mask & (ndimage.distance_transform_edt(~middles, spacing_mm) <= ROUND_MM)
    return covered
