"""What step 3 calls a cyst, put right by its HU: a simple cyst is full of water, as dark in every scan.

A small network sees that a part of a kidney is darker than the rest, and less well how dark it is. So what it calls a
cyst is believed where it is as dark as water and darker than its kidney. What is too bright for water, but much darker
than a kidney with contrast medium, is solid: a tumour.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from renalcore.ct.kidneys import pieces_of
from renalcore.ct.steps import CYST, KIDNEY, TUMOUR, Floats, Grid

WATER_HU: Final = (-15.0, 30.0)
"""Of what may be a cyst. Even masses of -9 to 20 HU, or of 30 HU with contrast medium, are benign cysts by the Bosniak
classification of 2019; some noise comes on top."""
DARKER_HU: Final = 20.0
"""By how much a cyst is darker than the bright part of its kidney at least: noise alone makes the dark third of a piece
darker than that by one deviation."""
CONTRAST_HU: Final = 35.0
"""By how much a tumour that was called a cyst is darker than its kidney: without contrast medium nothing is."""
LEAST_ML: Final = 0.15
"""The smallest of either."""
_TYPICAL: Final = 35
"""The percentile of HU that stands for a cyst: much of a small one is border, which the kidney around it brightens."""


def lesions_by_hu(hu: Floats, labels: NDArray[np.uint8], grid: Grid) -> NDArray[np.uint8]:
    """The labels of one kidney with its cysts put right; what is no cyst after all is tumour or kidney.

    The limits were chosen on 52 drawn scans of patients that do not train; those of the model's card are drawn anew.

    Args:
        hu: `(D, H, W)`, the crop.
        labels: `(D, H, W)`: 0 elsewhere, 1 kidney, 2 tumour, 3 cyst.
        grid: Where both lie.
    """
    called, _, volumes_ml = pieces_of(labels == CYST, grid)
    if not len(volumes_ml):
        return labels
    tissue = labels == KIDNEY
    bright = float(np.percentile(hu[tissue if tissue.any() else labels > 0], 75))
    numbers = np.arange(1, 1 + len(volumes_ml))
    typical = ndimage.labeled_comprehension(
        hu, called, numbers, lambda of: np.percentile(of, _TYPICAL), np.float64, 0.0
    )
    watery = (typical > WATER_HU[0]) & (typical < min(WATER_HU[1], bright - DARKER_HU))
    solid = (typical >= WATER_HU[1]) & (typical < bright - CONTRAST_HU)
    kinds = np.where(watery, CYST, np.where(solid, TUMOUR, KIDNEY)).astype(np.uint8)
    kinds[volumes_ml < LEAST_ML] = KIDNEY
    told: NDArray[np.uint8] = np.where(called > 0, np.concatenate(([np.uint8(0)], kinds))[called], labels)
    return told
