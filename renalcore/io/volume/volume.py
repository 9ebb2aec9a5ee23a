"""A CT volume and its place in the patient."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from renalcore.types import QualityFlag

Scalar = TypeVar("Scalar", bound=np.generic)
RAS_OF_LPS: Final = np.diag([-1.0, -1.0, 1.0, 1.0])
"""NIfTI counts millimetres to the right and the front, DICOM to the left and the back."""


@dataclass(frozen=True, slots=True, eq=False)
class Volume:
    """A CT volume in Hounsfield units on the grid of its files.

    Attributes:
        hu: `(D, H, W)` int16 or float32 in HU, indexed `[slice, row, column]`; read-only. Nothing is below -1024.
        affine: `(4, 4)` float64 that turns a voxel's `(column, row, slice, 1)`, in this order, the reverse of an index
            into `hu`, into the LPS millimetres of the voxel's centre: rising to the patient's left, back and head.
            Of what was read from files each number is one of float32, whatever the form of the files.
        flags: Doubts about the files.
        modality: Always "CT" for what was read from DICOM, where a NIfTI file cannot say and "CT" is what was checked.
        phase: Words on the contrast phase from a fixed list ("portal venous", "arterial, portal venous", "contrast",
            "non-contrast"), or empty where the files name none. Never a free text.
        kernel: The scanner's name of the reconstruction kernel, or empty.
        thickness_mm: Thickness that the scanner states, which may differ from the distance of the slices, or None.

    Raises:
        ValueError: A shape, type or number cannot be.
    """

    hu: NDArray[np.int16] | NDArray[np.float32]
    affine: NDArray[np.float64]
    flags: tuple[QualityFlag, ...] = ()
    modality: str = "CT"
    phase: str = ""
    kernel: str = ""
    thickness_mm: float | None = None

    def __post_init__(self) -> None:
        if self.hu.ndim != 3 or 0 in self.hu.shape or self.hu.dtype not in (np.int16, np.float32):
            raise ValueError(f"hu must be (D, H, W) of int16 or float32, got {self.hu.shape} of {self.hu.dtype}")
        affine = np.array(self.affine, dtype=np.float64)
        if affine.shape != (4, 4) or not np.isfinite(affine).all() or not np.array_equal(affine[3], (0, 0, 0, 1)):
            raise ValueError(f"affine must be 4x4, finite, with 0 0 0 1 as its last row, got {affine.tolist()}")
        if abs(np.linalg.det(affine[:3, :3])) < 1e-9:
            raise ValueError("the affine lays all voxels into one plane")
        hu = self.hu.view()
        for name, array in (("hu", hu), ("affine", affine)):
            array.setflags(write=False)
            object.__setattr__(self, name, array)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Slices, rows and columns."""
        depth, height, width = self.hu.shape
        return depth, height, width

    @property
    def slices(self) -> int:
        """Number of slices."""
        return self.shape[0]

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Millimetres from one slice, one row and one column to the next, in the order of `hu`'s axes."""
        columns, rows, slices = np.linalg.norm(self.affine[:3, :3], axis=0).tolist()
        return slices, rows, columns

    @property
    def voxel_ml(self) -> float:
        """Millilitres of one voxel."""
        return float(abs(np.linalg.det(self.affine[:3, :3])) / 1000)

    def lps_mm(self, indices: NDArray[Any]) -> NDArray[np.float64]:
        """Where voxels lie, in LPS mm.

        Args:
            indices: `(N, 3)` indices into `hu`: slice, row, column; fractions are welcome.
        """
        return np.asarray(indices, np.float64)[:, ::-1] @ self.affine[:3, :3].T + self.affine[:3, 3]

    def indices(self, lps_mm: NDArray[Any]) -> NDArray[np.float64]:
        """Where places lie in `hu`: `(N, 3)` slice, row, column with fractions, of `(N, 3)` LPS mm."""
        shifted = np.asarray(lps_mm, np.float64) - self.affine[:3, 3]
        return np.asarray(np.linalg.solve(self.affine[:3, :3], shifted.T).T[:, ::-1], np.float64)

    def toward_lps(self) -> Volume:
        """The same volume with slices counted to the head, rows to the back and columns to the left.

        Of an oblique volume the nearest such turn. Nothing is copied: `hu` is a view of this volume's.
        """
        axes, flipped = self._turn()
        affine = self.affine.copy()
        size = self.shape
        for axis in flipped:  # of hu, so column 2 - axis of the affine
            affine[:3, 3] += affine[:3, 2 - axis] * (size[axis] - 1)
            affine[:3, 2 - axis] *= -1
        affine[:, :3] = affine[:, [2 - axis for axis in reversed(axes)]]
        return replace(self, hu=np.flip(self.hu, flipped).transpose(axes), affine=affine)

    def from_lps(self, turned: NDArray[Scalar]) -> NDArray[Scalar]:
        """What was computed on `toward_lps()`, labels for instance, back on this volume's own grid, as a view.

        Raises:
            ValueError: The shape is not that of `toward_lps()`.
        """
        axes, flipped = self._turn()
        expected = tuple(self.shape[axis] for axis in axes)
        if turned.shape != expected:
            raise ValueError(f"expected the shape {expected} of toward_lps(), got {turned.shape}")
        return np.flip(turned.transpose(np.argsort(axes)), flipped)

    def _turn(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Axes of `hu` in the order head, back, left; and those that run against these directions."""
        directions = self.affine[:3, :3] / np.linalg.norm(self.affine[:3, :3], axis=0)
        along = directions[::-1, ::-1].T  # [axis of hu, direction: head, back, left]
        axes = max(itertools.permutations(range(3)), key=lambda order: sum(abs(along[order, range(3)])))
        return axes, tuple(sorted(axis for direction, axis in enumerate(axes) if along[axis, direction] < 0))

    def __repr__(self) -> str:
        depth, height, width = self.shape
        mm = " x ".join(f"{side:.3g}" for side in self.spacing_mm)
        return f"Volume({depth} x {height} x {width} voxels of {mm} mm, {self.phase or 'phase unknown'})"
