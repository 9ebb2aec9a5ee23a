"""Figures of segmentation: Dice, Jaccard, Delta-glomeruli, Dice at the best threshold, instances found.

Meconcelli et al., "Deep learning approaches for mice glomeruli segmentation" (ESANN 2022), section 2.3, for Dice,
Jaccard and Delta-glomeruli; the thesis of the HuBMAP glomeruli, section 5.5, for Dice with automatic threshold
selection. Two ways to tell the same figure: *pooled* adds up the pixels or glomeruli of all pictures and divides once;
*per picture* divides in each and tells mean and standard deviation (of a sample, n - 1: only that gives the folds'
averages that Meconcelli et al. print in their Table 1).

**Two empty masks agree**: where nothing is and nothing was found, Dice, Jaccard and F1 are 1. This flatters a set of
mostly empty tiles, so `Summary` also tells the mean over the pictures in which either mask holds something. (The paper
does not say what it does; its Dice of 0.91 beside a Jaccard of 0.80 cannot come from one rule for both.)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Labels = NDArray[Any]
"""`(H, W)` bool, or integers: 0 outside, one number for each glomerulus; numbers may be missing."""

THRESHOLDS: Final[Floats] = np.arange(10, 90, 5) / 100
"""Thresholds among which the best is chosen: 0.10 to 0.85, those of the public HuBMAP pipeline that the thesis uses."""

MIN_IOU: Final = 0.5
"""Overlap from which a found glomerulus is one of the expert's."""


@dataclass(frozen=True, slots=True)
class Overlap:
    """Pixels of the expert's mask and of the found one; those of several pictures add up.

    Attributes:
        both: In both masks.
        expert: In the expert's.
        found: In the found one.

    Raises:
        ValueError: Counts that no two masks have.
    """

    both: int
    expert: int
    found: int

    def __post_init__(self) -> None:
        if not 0 <= self.both <= min(self.expert, self.found):
            raise ValueError(f"two masks cannot share {self.both} px of {self.expert} and {self.found}")

    def __add__(self, other: Overlap) -> Overlap:
        return Overlap(self.both + other.both, self.expert + other.expert, self.found + other.found)

    @property
    def dice(self) -> float:
        """2 |A and B| / (|A| + |B|); 1 where both are empty."""
        return 2 * self.both / (self.expert + self.found) if self.expert + self.found else 1.0

    @property
    def jaccard(self) -> float:
        """|A and B| / |A or B|; 1 where both are empty."""
        union = self.expert + self.found - self.both
        return self.both / union if union else 1.0


@dataclass(frozen=True, slots=True)
class Instances:
    """Glomeruli counted one by one; those of several pictures add up.

    Attributes:
        expert: Marked by the expert.
        found: Found by the model.
        matched: Pairs of one marked and one found, each in one pair at most, that overlap enough.

    Raises:
        ValueError: More pairs than glomeruli.
    """

    expert: int
    found: int
    matched: int

    def __post_init__(self) -> None:
        if not 0 <= self.matched <= min(self.expert, self.found):
            raise ValueError(f"{self.matched} pairs cannot be made of {self.expert} and {self.found} glomeruli")

    def __add__(self, other: Instances) -> Instances:
        return Instances(self.expert + other.expert, self.found + other.found, self.matched + other.matched)

    @property
    def precision(self) -> float:
        """Share of the found that are marked; nan where nothing was found."""
        return self.matched / self.found if self.found else math.nan

    @property
    def recall(self) -> float:
        """Share of the marked that were found; nan where nothing is marked."""
        return self.matched / self.expert if self.expert else math.nan

    @property
    def f1(self) -> float:
        """2 matched / (expert + found); 1 where there is neither."""
        return 2 * self.matched / (self.expert + self.found) if self.expert + self.found else 1.0


@dataclass(frozen=True, slots=True)
class Agreement:
    """How the found mask of one picture or tile agrees with the expert's.

    Attributes:
        pixels: As one mask each.
        instances: Glomerulus by glomerulus.
        expert_components: Connected components of the expert's mask; touching glomeruli are one.
        found_components: Those of the found mask.
    """

    pixels: Overlap
    instances: Instances
    expert_components: int
    found_components: int

    @property
    def delta_glomeruli(self) -> int:
        """The paper's |number in the expert's mask - number in the found one|, by connected components."""
        return abs(self.expert_components - self.found_components)

    @property
    def delta_instances(self) -> int:
        """The same by instances, which count touching glomeruli apart."""
        return abs(self.instances.expert - self.instances.found)

    @property
    def empty(self) -> bool:
        """Whether neither mask holds anything."""
        return not (self.pixels.expert or self.pixels.found)


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean and standard deviation (of a sample, n - 1) of a figure; nan where there are too few values."""

    mean: float
    deviation: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Of the values that are there: nan is left out."""
        known = np.array([value for value in values if not math.isnan(value)], np.float64)
        return cls(
            float(known.mean()) if len(known) else math.nan, float(known.std(ddof=1)) if len(known) > 1 else math.nan
        )


@dataclass(frozen=True, slots=True)
class Summary:
    """The figures of a set of pictures or tiles.

    Attributes:
        pictures: How many.
        empty: Those of them in which nothing is and nothing was found.
        pixels: Pooled; its `dice` and `jaccard` are the pooled ones.
        instances: Pooled.
        dice, jaccard, f1: Per picture, an empty one being 1.
        dice_not_empty, jaccard_not_empty: Per picture that is not empty.
        delta_glomeruli: Per picture, by connected components.
        delta_instances: Per picture, by instances.
    """

    pictures: int
    empty: int
    pixels: Overlap
    instances: Instances
    dice: Spread
    jaccard: Spread
    f1: Spread
    dice_not_empty: Spread
    jaccard_not_empty: Spread
    delta_glomeruli: Spread
    delta_instances: Spread

    @classmethod
    def of(cls, agreements: Sequence[Agreement]) -> Summary:
        """The figures of all `agreements` together."""
        held = [each for each in agreements if not each.empty]
        return cls(
            len(agreements),
            len(agreements) - len(held),
            sum((each.pixels for each in agreements), Overlap(0, 0, 0)),
            sum((each.instances for each in agreements), Instances(0, 0, 0)),
            Spread.of(each.pixels.dice for each in agreements),
            Spread.of(each.pixels.jaccard for each in agreements),
            Spread.of(each.instances.f1 for each in agreements),
            Spread.of(each.pixels.dice for each in held),
            Spread.of(each.pixels.jaccard for each in held),
            Spread.of(each.delta_glomeruli for each in agreements),
            Spread.of(each.delta_instances for each in agreements),
        )


@dataclass(frozen=True, slots=True, eq=False)
class DiceCurve:
    """Pixels that two masks share, the found one being cut at each of several thresholds; pictures add up.

    Attributes:
        thresholds: `(T,)`, rising: a pixel is found where its probability is higher.
        both: `(T,)` pixels in both masks.
        found: `(T,)` pixels found.
        expert: Pixels in the expert's mask.

    Raises:
        ValueError: The columns differ in length, or the thresholds do not rise.
    """

    thresholds: Floats
    both: Ints
    found: Ints
    expert: int

    def __post_init__(self) -> None:
        if self.thresholds.ndim != 1 or not len(self.thresholds) or not (np.diff(self.thresholds) > 0).all():
            raise ValueError(f"thresholds must rise, got {self.thresholds.tolist()}")
        if self.both.shape != self.thresholds.shape or self.found.shape != self.thresholds.shape:
            raise ValueError(
                f"one count for each of {len(self.thresholds)} thresholds is needed, got {self.both.shape} and "
                f"{self.found.shape}"
            )

    @classmethod
    def of(cls, probabilities: NDArray[np.floating], expert: Labels, *, thresholds: Floats = THRESHOLDS) -> DiceCurve:
        """The curve of one picture.

        Args:
            probabilities: `(H, W)`, in 0..1.
            expert: `(H, W)`.
            thresholds: `(T,)`, rising.

        Raises:
            ValueError: The two differ in shape, or the thresholds do not rise.
        """
        _check_labels(expert)
        if probabilities.shape != expert.shape:
            raise ValueError(f"probabilities {probabilities.shape} and mask {expert.shape} differ in shape")
        # A probability in bin i is higher than i of the thresholds.
        bins = np.searchsorted(thresholds.astype(probabilities.dtype), probabilities.ravel(), side="left")
        counts = np.bincount(bins, minlength=len(thresholds) + 1)
        inside = np.bincount(bins[(expert > 0).ravel()], minlength=len(thresholds) + 1)
        both, found = (each[::-1].cumsum()[::-1][1:] for each in (inside, counts))
        return cls(thresholds, both, found, int(inside.sum()))

    def __add__(self, other: DiceCurve) -> DiceCurve:
        if not np.array_equal(self.thresholds, other.thresholds):
            raise ValueError("curves at unlike thresholds cannot be added")
        return DiceCurve(self.thresholds, self.both + other.both, self.found + other.found, self.expert + other.expert)

    @property
    def dice(self) -> Floats:
        """`(T,)` pooled Dice at each threshold."""
        return np.array(
            [
                Overlap(both, self.expert, found).dice
                for both, found in zip(self.both.tolist(), self.found.tolist(), strict=True)
            ]
        )

    @property
    def best(self) -> BestDice:
        """The highest Dice and the lowest threshold that gives it."""
        dice = self.dice
        return BestDice(float(self.thresholds[dice.argmax()]), float(dice.max()))


@dataclass(frozen=True, slots=True)
class BestDice:
    """Dice with automatic threshold selection: flattered, for the threshold was chosen on the same pictures.

    Attributes:
        threshold: Probability above which a pixel is found.
        dice: Pooled Dice with it.
    """

    threshold: float
    dice: float


def overlap(expert: Labels, found: Labels) -> Overlap:
    """Pixels of two masks of one picture.

    Raises:
        ValueError: They differ in shape or are no masks.
    """
    _check_pair(expert, found)
    marked, called = expert > 0, found > 0
    return Overlap(*(int(np.count_nonzero(each)) for each in (marked & called, marked, called)))


def dice(expert: Labels, found: Labels) -> float:
    """Dice index of two masks of one picture, section 2.3; 1 where both are empty.

    Raises:
        ValueError: They differ in shape or are no masks.
    """
    return overlap(expert, found).dice


def jaccard(expert: Labels, found: Labels) -> float:
    """Jaccard index of two masks of one picture, section 2.3; 1 where both are empty.

    Raises:
        ValueError: They differ in shape or are no masks.
    """
    return overlap(expert, found).jaccard


def components(mask: Labels) -> int:
    """Connected components of a mask; pixels that meet at a corner are connected, as `cv2.connectedComponents` has it.

    Raises:
        ValueError: It is no mask.
    """
    _check_labels(mask)
    return int(ndimage.label(mask > 0, np.ones((3, 3), int))[1])


def delta_glomeruli(expert: Labels, found: Labels) -> int:
    """Difference in number between two masks of one picture, by connected components, section 2.3.

    Raises:
        ValueError: They differ in shape or are no masks.
    """
    _check_pair(expert, found)
    return abs(components(expert) - components(found))


def best_threshold_dice(
    pictures: Iterable[tuple[NDArray[np.floating], Labels]], *, thresholds: Floats = THRESHOLDS
) -> BestDice:
    """Dice with automatic threshold selection, section 5.5 of the thesis: pooled over all pictures, one threshold.

    Args:
        pictures: Probabilities and the expert's mask of each, both `(H, W)`; read once, one at a time.
        thresholds: `(T,)`, rising.

    Raises:
        ValueError: There is no picture, the two of one differ in shape, or the thresholds do not rise.
    """
    curves = (DiceCurve.of(probabilities, expert, thresholds=thresholds) for probabilities, expert in pictures)
    try:
        total = next(curves)
    except StopIteration:
        raise ValueError("a threshold cannot be chosen without pictures") from None
    return sum(curves, total).best


def instances(expert: Labels, found: Labels, *, min_iou: float = MIN_IOU) -> Instances:
    """Marked and found glomeruli of one picture, and how many are the same: those that overlap most are paired first.

    Args:
        expert: `(H, W)`, a number for each glomerulus.
        found: `(H, W)` likewise.
        min_iou: Intersection over union from which two are the same. At 0.5 a pair is the only one possible, but for
            two glomeruli of which each is exactly half of what was found: then one of them counts as found.

    Raises:
        ValueError: The two differ in shape or are no masks, or `min_iou` is not in 0..1.
    """
    _check_pair(expert, found)
    if not 0 < min_iou <= 1:
        raise ValueError(f"min_iou must lie between 0 and 1, got {min_iou}")
    marked_px, called_px = (np.bincount(each[each > 0].ravel()) for each in (expert, found))
    shared = (expert > 0) & (found > 0)
    pairs = expert[shared].astype(np.int64) * len(called_px) + found[shared]
    pair_ids, shared_px = np.unique(pairs, return_counts=True)
    marked, called = np.divmod(pair_ids, max(len(called_px), 1))
    ious = shared_px / (marked_px[marked] + called_px[called] - shared_px)
    taken_marked: set[int] = set()
    taken_called: set[int] = set()
    for pair in np.argsort(-ious, kind="stable"):
        if ious[pair] < min_iou:
            break
        if marked[pair] not in taken_marked and called[pair] not in taken_called:
            taken_marked.add(int(marked[pair]))
            taken_called.add(int(called[pair]))
    return Instances(int(np.count_nonzero(marked_px)), int(np.count_nonzero(called_px)), len(taken_marked))


def instance_f1(expert: Labels, found: Labels, *, min_iou: float = MIN_IOU) -> float:
    """F1 of the glomeruli of one picture, see `instances`; 1 where nothing is and nothing was found.

    Raises:
        ValueError: As `instances`.
    """
    return instances(expert, found, min_iou=min_iou).f1


def agreement(expert: Labels, found: Labels, *, known: NDArray[np.bool_] | None = None) -> Agreement:
    """All figures of one picture or tile.

    Args:
        expert: `(H, W)`, a number for each glomerulus.
        found: `(H, W)` likewise.
        known: `(H, W)`, where somebody looked for glomeruli; None: everywhere. Pixels elsewhere are not judged, nor are
            found glomeruli of which half lies there.

    Raises:
        ValueError: The three differ in shape or are no masks.
    """
    if known is None or known.all():
        return Agreement(overlap(expert, found), instances(expert, found), components(expert), components(found))
    _check_pair(expert, found)
    _check_pair(expert, known)
    areas_px, known_px = (np.bincount(each.ravel(), minlength=int(found.max()) + 1) for each in (found, found[known]))
    judged = np.where((2 * known_px > areas_px)[found], found, 0)
    return Agreement(
        overlap(np.where(known, expert, 0), np.where(known, judged, 0)),
        instances(expert, judged),
        components(expert),
        components(judged),
    )


def tiles(height_px: int, width_px: int, *, tile_px: int = 512) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of the tiles of a picture, section 2.1: all whole; the last of an axis is moved back inside.

    An axis shorter than a tile is one shorter tile.

    Raises:
        ValueError: A size is not positive.
    """
    if min(height_px, width_px, tile_px) < 1:
        raise ValueError(f"sizes must be positive, got {height_px} x {width_px} and tiles of {tile_px} px")
    for top in _starts(height_px, tile_px):
        for left in _starts(width_px, tile_px):
            yield slice(top, min(top + tile_px, height_px)), slice(left, min(left + tile_px, width_px))


def _starts(length_px: int, tile_px: int) -> list[int]:
    last = max(length_px - tile_px, 0)
    return [*range(0, last, tile_px), last]


def _check_labels(mask: Labels) -> None:
    if mask.ndim != 2 or not (mask.dtype == np.bool_ or np.issubdtype(mask.dtype, np.integer)):
        raise ValueError(f"a mask must be (H, W) of bool or integers, got {mask.shape} of {mask.dtype}")
    if np.issubdtype(mask.dtype, np.signedinteger) and mask.size and mask.min() < 0:
        raise ValueError(f"the numbers of a mask must be 0 or more, got {mask.min()}")


def _check_pair(expert: Labels, found: Labels) -> None:
    _check_labels(expert)
    _check_labels(found)
    if expert.shape != found.shape:
        raise ValueError(f"the expert's mask is {expert.shape} and the found one {found.shape}; they must be alike")
