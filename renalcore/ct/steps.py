"""The three steps of Lv and Wang (2021) and their geometry, the same in training and in use.

1. **rough**: the whole scan at 3.41 x 1.71 x 1.71 mm, cut to 128 x 248 x 248 voxels and scaled to 96 x 128 x 128;
2. **kidney**: a crop around each kidney that step 1 found, at 80 x 128 x 128;
3. **lesion**: what of this crop holds the kidney of step 2, and everything else taken away; tumour and cyst.

Arrays are `(D, H, W)` with slices counted to the head, rows to the back and columns to the left, as nearly as the scan
allows (`Volume.toward_lps`). Every grid of a step has the directions of the scan, so that resampling works axis by
axis, quickly and with little memory. A patient who lies askew stays askew.

Labels come back by `resample_labels`: the arg-max is taken on the grid of the network, and what is resampled is one
label at a time, never the scores of all classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from threadpoolctl import ThreadpoolController

KIDNEY: Final = 1
TUMOUR: Final = 2
CYST: Final = 3
LABELS: Final = MappingProxyType({KIDNEY: "kidney", TUMOUR: "tumour", CYST: "cyst"})
"""The labels of a result, as KiTS has them; 0 is everything else."""

WINDOW_HU: Final = (-200.0, 300.0)
"""What a network sees; below is air and above is bone or contrast medium, and how far does not matter."""

COARSE: Final = 2
"""How many times as wide the voxels are that a coarse network works on."""

AIR_HU: Final = -1000
"""What lies where nothing was scanned, and outside of the kidney in step 3."""

StepName = Literal["rough", "kidney", "lesion"]
Shape = tuple[int, int, int]
Floats = NDArray[np.float32]
Affine = NDArray[np.float64]
Floats64 = Sequence[float] | NDArray[np.float64]


_BLAS: Final = ThreadpoolController().select(user_api="blas")
"""numpy's own threads. The products of `resample` are small: beside other work they mostly wait for each other."""


@dataclass(frozen=True, slots=True)
class Step:
    """One use of the network.

    Attributes:
        name: What it is called.
        shape: Voxels that the network is shown, `(D, H, W)`; each is a multiple of 8, which three poolings need.
        spacing_mm: Of these voxels along D, H and W; in a crop the least, see `kidney_grid`.
        classes: What the channels of the network's answer mean; the first is everything else.
        from_labels: The class of each label of KiTS, which is the index.
    """

    name: StepName
    shape: Shape
    spacing_mm: tuple[float, float, float]
    classes: tuple[str, ...]
    from_labels: tuple[int, int, int, int]

    @property
    def extent_mm(self) -> tuple[float, float, float]:
        """What the grid spans along D, H and W."""
        d, h, w = (n * mm for n, mm in zip(self.shape, self.spacing_mm, strict=True))
        return d, h, w

    def targets(self, labels: NDArray[np.integer[Any]]) -> NDArray[np.uint8]:
        """Labels of KiTS as classes of this step, of the same shape."""
        classes: NDArray[np.uint8] = np.array(self.from_labels, np.uint8)[labels]
        return classes


_READ_MM: Final = (3.41, 1.71, 1.71)
_CUT: Final = (128, 248, 248)
_ROUGH: Final = (96, 128, 128)
_ROUGH_MM: Final = tuple(mm * cut / kept for mm, cut, kept in zip(_READ_MM, _CUT, _ROUGH, strict=True))

STEPS: Final[Mapping[StepName, Step]] = MappingProxyType(
    {
        "rough": Step("rough", _ROUGH, (_ROUGH_MM[0], _ROUGH_MM[1], _ROUGH_MM[2]), ("other", "kidney"), (0, 1, 1, 1)),
        "kidney": Step("kidney", (80, 128, 128), (2.0, 1.0, 1.0), ("other", "kidney"), (0, 1, 1, 1)),
        "lesion": Step("lesion", (80, 128, 128), (2.0, 1.0, 1.0), ("other", "tumour", "cyst"), (0, 0, 1, 2)),
    }
)
"""The steps in their order. The kidney with its tumours and cysts is one object in the first two.

The paper scales each crop to 80 x 128 x 128, whatever its size. Here a crop spans 160 x 128 x 128 mm, which holds
almost every kidney at the same scale, and more only where a kidney with its margin is larger. Step 3 is shown what of
it holds the kidney (`closely`): the rest is air.
"""

MARGIN_MM: Final = 15.0
"""What a crop shows beyond the kidney on each side at least: step 1 is rough."""


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """Where the voxels of an array lie.

    Attributes:
        shape: `(D, H, W)`.
        affine: 4 x 4, as that of a `Volume`: `(column, row, slice, 1)`, the reverse of an index, to LPS mm of the
            middle of the voxel.

    Raises:
        ValueError: The affine is no 4 x 4 matrix, or its axes do not span space.
    """

    shape: Shape
    affine: Affine

    def __post_init__(self) -> None:
        affine = np.array(self.affine, np.float64)
        if affine.shape != (4, 4) or not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
            raise ValueError(f"an affine must be a regular 4 x 4 matrix, got {self.affine}")
        affine.setflags(write=False)
        object.__setattr__(self, "affine", affine)

    @property
    def spacing_mm(self) -> NDArray[np.float64]:
        """Distance of neighbouring voxels along D, H and W."""
        return np.asarray(np.linalg.norm(self.affine[:3, 2::-1], axis=0), np.float64)

    @property
    def directions(self) -> NDArray[np.float64]:
        """Unit vectors of D, H and W in LPS, as columns."""
        return self.affine[:3, 2::-1] / self.spacing_mm

    @property
    def centre_mm(self) -> NDArray[np.float64]:
        """The middle of the whole, in LPS mm."""
        return self.to_mm((np.array(self.shape) - 1) / 2)

    @property
    def voxel_ml(self) -> float:
        """Millilitres of one voxel."""
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000

    def to_mm(self, index: Any) -> NDArray[np.float64]:
        """Indices `(..., 3)`, in the order of the array's axes, to LPS mm."""
        there: NDArray[np.float64] = np.asarray(index, np.float64)[..., ::-1] @ self.affine[:3, :3].T
        there += self.affine[:3, 3]
        return there

    def to_index(self, point_mm: Any) -> NDArray[np.float64]:
        """LPS mm `(..., 3)` to indices, which are no whole numbers."""
        beyond = np.asarray(point_mm, np.float64) - self.affine[:3, 3]
        there: NDArray[np.float64] = beyond @ np.linalg.inv(self.affine[:3, :3]).T
        return there[..., ::-1]

    def around(self, centre_mm: Any, shape: Shape, spacing_mm: Sequence[float]) -> Grid:
        """A grid of the same directions with its middle at `centre_mm`, its spacing along D, H and W."""
        affine = np.eye(4)
        affine[:3, 2::-1] = self.directions * np.asarray(spacing_mm)
        affine[:3, 3] = np.asarray(centre_mm) - affine[:3, 2::-1] @ ((np.array(shape) - 1) / 2)
        return Grid(shape, affine)

    def part(self, window: Sequence[slice]) -> Grid:
        """The grid of `array[window]`, whose slices have a start and a stop."""
        affine = np.array(self.affine)
        affine[:3, 3] = self.to_mm([each.start for each in window])
        d, h, w = (each.stop - each.start for each in window)
        return Grid((d, h, w), affine)


def rough_grid(scan: Grid, *, centre_mm: Any | None = None) -> Grid:
    """The grid of step 1 on a scan.

    Args:
        scan: The grid of the scan, turned towards LPS.
        centre_mm: The middle of what is looked at; by default that of the scan. A scan longer than the grid (437 mm)
            is seen in several: `rough_grids`.
    """
    step = STEPS["rough"]
    return scan.around(scan.centre_mm if centre_mm is None else centre_mm, step.shape, step.spacing_mm)


def rough_grids(scan: Grid, *, overlap_mm: float = 150.0) -> list[Grid]:
    """Grids of step 1 that see all of a scan, from the feet to the head; most scans need one.

    Args:
        scan: The grid of the scan, turned towards LPS.
        overlap_mm: What neighbours have in common along the body at least: a kidney is whole in one of them.
    """
    seen_mm = STEPS["rough"].extent_mm[0]
    beyond_mm = float(scan.shape[0] * scan.spacing_mm[0]) - seen_mm
    if beyond_mm <= 0:
        return [rough_grid(scan)]
    count = 1 + int(np.ceil(beyond_mm / (seen_mm - overlap_mm)))
    shifts_mm = np.linspace(-beyond_mm / 2, beyond_mm / 2, count)
    return [rough_grid(scan, centre_mm=scan.centre_mm + scan.directions[:, 0] * shift) for shift in shifts_mm]


def kidney_grid(scan: Grid, low_mm: Floats64, high_mm: Floats64) -> Grid:
    """The grid of steps 2 and 3 around one kidney.

    Args:
        scan: The grid of the scan, turned towards LPS.
        low_mm: Where the kidney begins along D, H and W, in mm from the middle of the scan's first voxel.
        high_mm: Where it ends.

    Returns:
        A grid with the kidney in its middle. All of its spacings grow by the same factor where the kidney with
        `MARGIN_MM` around it needs it.
    """
    step = STEPS["kidney"]
    low, high = np.asarray(low_mm), np.asarray(high_mm)
    grown = max(1.0, float(((high - low + 2 * MARGIN_MM) / step.extent_mm).max()))
    centre = scan.to_mm((low + high) / 2 / scan.spacing_mm)
    return scan.around(centre, step.shape, [grown * mm for mm in step.spacing_mm])


def kidney_grids(scan: Grid, found: NDArray[np.bool_], of: Grid, *, least_ml: float = 15.0) -> list[Grid]:
    """A crop around each kidney, from the patient's right to the left.

    Args:
        scan: The grid of the scan, turned towards LPS.
        found: `(D, H, W)`, kidneys with their lesions, on the grid `of`.
        of: A grid of the scan's directions.
        least_ml: Pieces smaller than this are no kidneys, but a piece of at least a tenth of this within `MARGIN_MM`
            of a kidney's box belongs to it.
    """
    numbered, _ = ndimage.label(found, np.ones((3, 3, 3)))
    volumes = np.bincount(numbered.ravel())[1:] * of.voxel_ml
    boxes: list[tuple[NDArray[np.float64], NDArray[np.float64]]] = []
    for volume, slices in sorted(zip(volumes, ndimage.find_objects(numbered), strict=True), key=lambda item: -item[0]):
        if volume < least_ml / 10:
            break
        ends = [of.to_mm([[each.start for each in slices], [each.stop - 1 for each in slices]])]
        low, high = (scan.to_index(ends[0]) * scan.spacing_mm) + np.array([[-0.5], [0.5]]) * of.spacing_mm
        near = [
            index
            for index, (first, last) in enumerate(boxes)
            if (low < last + MARGIN_MM).all() and (high > first - MARGIN_MM).all()
        ]
        if near and volume < least_ml:
            first, last = boxes[near[0]]
            boxes[near[0]] = (np.minimum(first, low), np.maximum(last, high))
        elif volume >= least_ml:
            boxes.append((low, high))
    return [kidney_grid(scan, *box) for box in sorted(boxes, key=lambda box: float(box[0][2]))]


def within(hu: Floats, region: NDArray[np.bool_]) -> Floats:
    """What step 3 is shown: the kidney, and air around it."""
    return np.where(region, hu, np.float32(AIR_HU))


def closely(region: NDArray[np.bool_], *, clear: int = 4, sides: int = 8 * COARSE) -> tuple[slice, slice, slice]:
    """The part of a crop that step 3 is shown, a quarter of it as a rule: elsewhere is nothing but air.

    Args:
        region: `(D, H, W)`, the kidney.
        clear: Voxels of air on each side at least, where the crop reaches that far.
        sides: Those of the window are multiples of this, or those of the crop.

    Returns:
        A window; of the smallest size where there is no kidney.
    """
    windows = []
    for axis, whole in enumerate(region.shape):
        used = np.flatnonzero(region.any(axis=tuple(other for other in range(3) if other != axis)))
        first, last = (int(used[0]), int(used[-1])) if len(used) else (whole // 2, whole // 2)
        side = min(whole, -(-(last - first + 1 + 2 * clear) // sides) * sides)
        start = min(max((first + last + 1 - side) // 2, 0), whole - side)
        windows.append(slice(start, start + side))
    return windows[0], windows[1], windows[2]


def resample(array: NDArray[Any], of: Grid, to: Grid, *, outside: float = AIR_HU) -> Floats:
    """An array on another grid of the same directions.

    Linear where the new grid is finer, and the mean of what each new voxel covers where it is coarser, so that nothing
    is skipped. Works slice by slice: memory is that of the result and of one slice.

    Args:
        array: `(D, H, W)`, of any number type.
        of: Its grid.
        to: The grid asked for.
        outside: Value of what the array does not cover.

    Returns:
        float32 of the shape of `to`.

    Raises:
        ValueError: The array has another shape than its grid, or the grids have other directions.
    """
    along_d, along_h, along_w = _matrices(array.shape, of, to)
    result = np.full(to.shape, outside, np.float32)
    rows, columns, slices = (np.flatnonzero(matrix.sum(1) > 0) for matrix in (along_h, along_w, along_d))
    if not min(len(rows), len(columns), len(slices)):
        return result
    needs = [_span(along[kept]) for along, kept in ((along_d, slices), (along_h, rows), (along_w, columns))]
    within = np.zeros((len(slices), len(rows), len(columns)), np.float32)
    left = np.ascontiguousarray(along_h[rows][:, needs[1]])
    right = np.ascontiguousarray(along_w[columns][:, needs[2]].T)
    with _BLAS.limit(limits=1):
        for d in range(needs[0].start, needs[0].stop):
            weights = along_d[slices, d]
            asking = np.flatnonzero(weights)
            if len(asking):
                flat = left @ array[d, needs[1], needs[2]].astype(np.float32) @ right
                within[asking] += weights[asking, None, None] * flat
    cover = (along_d[slices].sum(1)[:, None, None] * along_h[rows].sum(1)[:, None]) * along_w[columns].sum(1)
    result[np.ix_(slices, rows, columns)] = within + (1 - cover) * np.float32(outside)
    return result


def resample_labels(labels: NDArray[np.uint8], of: Grid, to: Grid) -> NDArray[np.uint8]:
    """Labels on another grid of the same directions: each voxel takes the label that covers most of it.

    One label at a time is resampled, and only where labels are, whatever the size of the new grid.

    Args:
        labels: `(D, H, W)`; 0 is background, which also surrounds the array.
        of: Their grid.
        to: The grid asked for.

    Raises:
        ValueError: As `resample`.
    """
    _matrices(labels.shape, of, to)  # refuses what does not fit
    result = np.zeros(to.shape, np.uint8)
    boxes = ndimage.find_objects((labels > 0).astype(np.uint8))
    if not boxes:
        return result
    ends = of.to_mm([[each.start - 1 for each in boxes[0]], [each.stop for each in boxes[0]]])
    low, high = to.to_index(ends)
    first = np.clip(np.floor(low), 0, to.shape).astype(int)
    last = np.clip(np.ceil(high) + 1, first, to.shape).astype(int)
    window = tuple(slice(begin, end) for begin, end in zip(first, last, strict=True))
    part = to.part(window)
    if not min(part.shape):
        return result
    found = np.zeros(part.shape, np.uint8)
    most = np.zeros(part.shape, np.float32)
    background = np.ones(part.shape, np.float32)
    for label in np.flatnonzero(np.bincount(labels.ravel())[1:]) + 1:
        share = resample(labels == label, of, part, outside=0.0)
        background -= share
        better = share > most
        most[better] = share[better]
        found[better] = label
    found[background > most] = 0
    result[window] = found
    return result


def _matrices(shape: tuple[int, ...], of: Grid, to: Grid) -> list[Floats]:
    if tuple(shape) != tuple(of.shape):
        raise ValueError(f"an array of shape {tuple(shape)} does not lie on a grid of shape {of.shape}")
    if not np.allclose(of.directions, to.directions, atol=1e-4):
        raise ValueError("the two grids have other directions; turn the volume towards LPS first")
    starts = of.to_index(to.affine[:3, 3])
    steps = to.spacing_mm / of.spacing_mm
    return [
        _matrix(count, float(start), float(step), wanted)
        for count, start, step, wanted in zip(of.shape, starts, steps, to.shape, strict=True)
    ]


def _matrix(count: int, start: float, step: float, wanted: int) -> Floats:
    """`(wanted, count)`: what each new voxel of one axis takes of each old one.

    A new voxel is a hat as wide as the wider of the two spacings, over old voxels that are boxes. Beyond the ends a row
    sums to less than 1.
    """
    centres = start + step * np.arange(wanted)[:, None]
    if step <= 1:
        weights = np.clip(1 - np.abs(centres - np.arange(count)), 0, None)
        # Half a voxel beyond the middle of the last one still belongs to the scan.
        weights[:, 0] += np.where((centres[:, 0] < 0) & (centres[:, 0] >= -0.5), -centres[:, 0], 0)
        over = centres[:, 0] - (count - 1)
        weights[:, -1] += np.where((over > 0) & (over <= 0.5), over, 0)
        weights[(centres[:, 0] < -0.5) | (over > 0.5)] = 0
        return np.asarray(weights, np.float32)
    edges = np.arange(count + 1) - 0.5
    covered = np.clip(edges, centres - step / 2, centres + step / 2)
    shares: NDArray[np.float64] = np.diff(covered, axis=1) / step
    return np.asarray(shares, np.float32)


def _span(weights: Floats) -> slice:
    """The columns that are not zero everywhere."""
    used = np.flatnonzero(weights.any(0))
    return slice(int(used[0]), int(used[-1]) + 1)
