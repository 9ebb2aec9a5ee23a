"""A CT model that finds what a label map says, on whatever slices of its scan it is shown: for tests on a real scan.

The networks of `bright` are shown the labels painted in their HU; everything around the networks is the real thing.
"""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import nibabel
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from renalcore.ct import predict
from renalcore.ct.predict import Crops, KidneyModel, Progress
from renalcore.io.volume import Volume
from tests.renalcore.ct import bright

TUMOUR_MM, CYST_MM = 16.0, 6.0
"""Radius of the ball of tumour in the first kidney of the map, and of the ball of cyst in the second."""


class Told(KidneyModel):
    """Its kidneys are label 1 of a NIfTI file."""

    def __init__(self, path: Path) -> None:
        model = bright.model()
        super().__init__(model.card, model.steps, model.device)
        image = nibabel.load(path)
        self.affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ image.affine
        self.hu = _painted(np.asanyarray(image.dataobj).transpose(2, 1, 0) == 1, self.affine)

    def rough(self, volume: Volume, *, progress: Progress | None = None) -> Crops:
        return super().rough(self._seen(volume), progress=progress)

    def refine(self, volume: Volume, crops: Crops, *, progress: Progress | None = None) -> Crops:
        return super().refine(self._seen(volume), crops, progress=progress)

    def lesions(self, volume: Volume, kidneys: Crops, *, progress: Progress | None = None) -> Crops:
        with mock.patch.object(predict, "lesions_by_hu", lambda hu, labels, grid: labels):  # paint is no water
            return super().lesions(self._seen(volume), kidneys, progress=progress)

    def _seen(self, volume: Volume) -> Volume:
        to = np.linalg.inv(self.affine) @ volume.affine
        hu = ndimage.affine_transform(
            self.hu, to[2::-1, 2::-1], to[2::-1, 3], output_shape=volume.shape, order=0, cval=bright.BODY
        )
        return Volume(hu, volume.affine)


def _painted(kidneys: NDArray[np.bool_], affine: NDArray[np.float64]) -> NDArray[np.int16]:
    """The lesions lie where their kidney is thickest."""
    hu = np.where(kidneys, np.int16(bright.KIDNEY), np.int16(bright.BODY))
    spacing_mm = np.linalg.norm(affine[:3, 2::-1], axis=0)
    (box,) = ndimage.find_objects(kidneys.view(np.uint8))
    within, part = kidneys[box], hu[box]  # views
    pieces, _ = ndimage.label(within)
    largest = 1 + np.argsort(-np.bincount(pieces.ravel())[1:])[:2]
    for piece, radius_mm, tissue in zip(largest, (TUMOUR_MM, CYST_MM), (bright.TUMOUR, bright.CYST), strict=True):
        depth_mm = ndimage.distance_transform_edt(pieces == piece, spacing_mm)
        middle = np.unravel_index(depth_mm.argmax(), depth_mm.shape)
        apart = [(np.arange(n) - at) * mm for n, at, mm in zip(within.shape, middle, spacing_mm, strict=True)]
        part[sum(each**2 for each in np.ix_(*apart)) < radius_mm**2] = tissue
    return hu
