"""What a network is shown while it trains: samples of `renalcore.ct.data`, changed anew each time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torch.utils.data import Dataset

from renalcore.ct.data import Sample, read_samples
from renalcore.ct.kidneys import TOUCHING
from renalcore.ct.steps import AIR_HU, COARSE, CYST, TUMOUR, WINDOW_HU, Floats64, Shape, Step, StepName, closely, within
from renalcore.errors import InputError

SOUGHT: Final[Mapping[StepName, float]] = MappingProxyType({"rough": 0.0, "kidney": 0.4, "lesion": 0.3})
"""Share of the items of a step that are kidneys with a lesion. Half of the patients of KiTS have a cyst, on one kidney
mostly, and slices and whole scans have hardly any: who took files in turn would show a cyst with one item of six. But
kidneys without a lesion have to be shown too, so that none is found there."""
_OVERFLOW_MM: Final = 8.0
"""How far the kidney of step 2 may flow over into what lies beside it, in step 3's training."""
_EVEN_ML: Final = 8.0
"""A lesion of this volume counts in step 3's training as its voxels do, a smaller one more and a larger one less."""
_EVEN_POWER: Final = 2 / 3
"""Between 0, where each voxel counts the same, and 1, where each lesion does."""
_COUNTS: Final = (0.3, 10.0)
"""The least and the most that a voxel counts."""
_ROOM_VOXELS: Final = 12
"""Voxels around a kidney that step 3 may be turned, scaled and shifted into."""


@dataclass(frozen=True, slots=True)
class Augmentation:
    """How hard a sample is changed: the paper's scaling, rotations, brightness, contrast and gamma, and translation.

    The paper tells no ranges; these are usual ones. Blur and noise come on top.

    Attributes:
        scale: Largest change of size; 0.15 is 15 % up or down.
        rotate_degrees: Largest turn about each axis.
        shift: Largest shift, as a share of the grid.
        mirror: Probability that right and left are exchanged; not in step 1, which should know the liver's side.
        brightness_hu: Largest change of all HU.
        contrast: Largest relative change of the differences to 50 HU.
        gamma: Largest exponent of the window, or one over it.
        noise_hu: Largest deviation of noise, with half of the samples.
        blur: Largest sigma in voxels, with a third of the samples.
        region_mm: In step 3, by how far the border of the kidney that step 2 found may be wrong.
    """

    scale: float = 0.15
    rotate_degrees: float = 12.0
    shift: float = 0.08
    mirror: float = 0.5
    brightness_hu: float = 15.0
    contrast: float = 0.15
    gamma: float = 1.25
    noise_hu: float = 15.0
    blur: float = 0.7
    region_mm: float = 3.0


AUGMENTATIONS: Final[Mapping[StepName, Augmentation]] = MappingProxyType(
    {
        "rough": Augmentation(),
        "kidney": Augmentation(),
        "lesion": Augmentation(brightness_hu=8.0, contrast=0.08, gamma=1.1, noise_hu=11.0, blur=0.5),
    }
)
"""Of each step. Step 3 tells lesions by their HU, which drawn scans vary as far as patients do: it gets little more."""


class StepDataset(Dataset[dict[str, Tensor]]):
    """Changed samples of one step.

    An item holds `image` `(1, D, H, W)` float32 HU, `labels` `(D, H, W)` int64, those of KiTS, and `counts`
    `(D, H, W)` float32, how often each voxel counts in the loss (`evened`; once in steps 1 and 2). Items differ from
    epoch to epoch and are the same in every run with the same seed. Those of step 3 are of different sizes
    (`renalcore.ct.steps.closely`): `alike` and `batched` join them.

    Args:
        paths: Files of `prepare`.
        step: The step.
        augmentation: How samples are changed; None for that of `AUGMENTATIONS`.
        patch: Voxels of an item; None for the whole grid of the step. Smaller ones are laid around the kidneys mostly,
            and about lesions in step 3.
        coarse: Show voxels `COARSE` times as wide: an hour holds many more samples.
        items: Items an epoch; None gives each file once.
        seed: Makes the items of a run repeatable.

    Raises:
        InputError: There are no files, or a side of the patch is no multiple of 8 or larger than the grid.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        step: Step,
        *,
        augmentation: Augmentation | None = None,
        patch: Shape | None = None,
        coarse: bool = False,
        items: int | None = None,
        seed: int = 0,
    ) -> None:
        if not paths:
            raise InputError("there is nothing to train on; give scans, or label maps and --synthetic")
        patch = patch or step.shape
        if any(side % 8 or not 0 < side <= whole for side, whole in zip(patch, step.shape, strict=True)):
            raise InputError(f"sides of a patch are multiples of 8 within {step.shape}, got {patch}")
        self.paths = tuple(paths)
        self.step = step
        self.augmentation = augmentation or AUGMENTATIONS[step.name]
        self.patch = patch
        self.coarse = coarse
        if coarse:  # its noise is less
            self.augmentation = replace(self.augmentation, noise_hu=self.augmentation.noise_hu / COARSE**1.5)
        self.items = items or len(self.paths)
        self._holding = _holding(self.paths) if SOUGHT[step.name] else {}
        self._kept: dict[Path, list[Sample]] = {}
        self.seed = seed
        self.epoch = 0

    def start_epoch(self, epoch: int) -> None:
        """Draw other items than in the epochs before; call it before the loader starts, which copies the data set."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.items

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if not 0 <= index < self.items:
            raise IndexError(index)
        # Every file comes once before one comes twice, in another order each time.
        turn, place = divmod(self.epoch * self.items + index, len(self.paths))
        order = np.random.default_rng((self.seed, turn)).permutation(len(self.paths))
        rng = np.random.default_rng((self.seed, self.epoch, index))
        path, lesion = self._sought(self.paths[order[place]], rng)
        samples = self._samples(path)
        if lesion is not None:
            samples = [sample for sample in samples if sample.holds(lesion)] or samples  # a small one is gone if coarse
        if not samples:  # a scan without a kidney has no crop
            samples = [self._nothing()]
        sample = samples[int(rng.integers(len(samples)))]
        hu, labels = self._placed(sample, rng)
        hu = _recoloured(hu, self.augmentation, rng)
        counts = np.ones_like(hu)
        if self.step.name == "lesion":
            region = _region(labels, sample.spacing_mm, self.augmentation.region_mm, rng)
            window = closely(region, clear=4 // COARSE, sides=8) if self.coarse else closely(region)
            hu = within(hu, region)[window]
            labels = np.where(region, labels, np.uint8(0))[window]  # nothing is sought in air
            counts = evened(labels, sample.spacing_mm)
        return {
            "image": torch.from_numpy(hu)[None],
            "labels": torch.from_numpy(labels).long(),
            "counts": torch.from_numpy(counts),
        }

    def _samples(self, path: Path) -> list[Sample]:
        """Those of a file, as they are shown. Coarse ones are kept: they are small, and reading takes longest."""
        if path in self._kept:
            return self._kept[path]
        samples = read_samples(path, self.step.name)
        if self.step.name == "lesion":
            samples = [sample.part(closely(sample.labels > 0, clear=_ROOM_VOXELS)) for sample in samples]
        if self.coarse:
            samples = self._kept[path] = [sample.coarse() for sample in samples]
        return samples

    def _sought(self, path: Path, rng: np.random.Generator) -> tuple[Path, int | None]:
        """The file whose turn it is; or one with a cyst or, as often, with a tumour, and which of them is sought."""
        if rng.random() < SOUGHT[self.step.name]:
            for lesion in (CYST, TUMOUR) if rng.random() < 0.5 else (TUMOUR, CYST):
                if holding := self._holding[lesion]:
                    return holding[int(rng.integers(len(holding)))], lesion
        return path, None

    def _nothing(self) -> Sample:
        shape, spacing = self.step.shape, self.step.spacing_mm
        return Sample(np.full(shape, AIR_HU, np.int16), np.zeros(shape, np.uint8), spacing)

    def _placed(self, sample: Sample, rng: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """A turned, scaled and shifted patch of a sample: HU and labels."""
        options, whole = self.augmentation, np.array(sample.hu.shape)
        patch = np.minimum(self.patch, whole)
        spacing = np.array(sample.spacing_mm)
        turn = _rotation(np.deg2rad(rng.uniform(-1, 1, 3) * options.rotate_degrees))
        size = np.exp(rng.uniform(-1, 1) * np.log1p(options.scale))
        middle = (whole - 1) / 2 + rng.uniform(-1, 1, 3) * options.shift * whole
        if (patch < whole).any():
            middle = self._about(sample, patch, rng)
        step_mm = turn @ np.diag(spacing) * size
        if self.step.name != "rough" and rng.random() < options.mirror:
            step_mm[:, 2] *= -1
        to_voxel = np.diag(1 / spacing) @ step_mm
        # torch counts x, y, z in units of half a side.
        half = (whole - 1) / 2
        matrix = np.diag(1 / half) @ to_voxel @ np.diag((patch - 1) / 2)
        theta = np.concatenate([matrix[::-1, ::-1], ((middle - half) / half)[::-1, None]], axis=1)
        grid = F.affine_grid(torch.from_numpy(theta[None]).float(), [1, 1, *patch.tolist()], align_corners=True)
        hu = torch.from_numpy(sample.hu.astype(np.float32) - AIR_HU)[None, None]
        shown = F.grid_sample(hu, grid, mode="bilinear", padding_mode="zeros", align_corners=True)[0, 0] + AIR_HU
        labels = torch.from_numpy(sample.labels.astype(np.float32))[None, None]
        named = F.grid_sample(labels, grid, mode="nearest", padding_mode="zeros", align_corners=True)[0, 0]
        return shown.numpy(), named.numpy().astype(np.uint8)

    def _about(self, sample: Sample, patch: NDArray[np.int_], rng: np.random.Generator) -> NDArray[np.float64]:
        """The middle of a patch: about a kidney or a lesion in three of four, anywhere in the others."""
        whole = np.array(sample.hu.shape)
        lowest, highest = (patch - 1) / 2, whole - (patch + 1) / 2
        wanted = sample.labels > 0
        if self.step.name == "lesion" and rng.random() < 0.7:
            rare = sample.labels == (CYST if rng.random() < 0.5 else TUMOUR)
            wanted = rare if rare.any() else wanted
        if rng.random() < 0.75 and wanted.any():
            flat = np.flatnonzero(wanted)
            centre = np.array(np.unravel_index(flat[rng.integers(len(flat))], sample.labels.shape))
            middle: NDArray[np.float64] = np.clip(centre + rng.uniform(-0.3, 0.3, 3) * patch, lowest, highest)
            return middle
        return rng.uniform(lowest, highest)


def _holding(paths: Sequence[Path]) -> dict[int, list[Path]]:
    """The files with a kidney that holds a tumour, and those with one that holds a cyst; repeated as they are given."""
    lesions = {
        path: [lesion for lesion in (TUMOUR, CYST) if any(each.holds(lesion) for each in read_samples(path, "lesion"))]
        for path in dict.fromkeys(paths)
    }
    return {lesion: [path for path in paths if lesion in lesions[path]] for lesion in (TUMOUR, CYST)}


def _region(
    labels: NDArray[np.uint8], spacing_mm: Floats64, wrong_mm: float, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """The kidney as step 2 might find it, without holes.

    It is a little too large or too small, and unevenly so; half of the time it also flows over here and there, into the
    fat of the hilum or what lies beside the kidney.
    """
    kidney = labels > 0
    if not wrong_mm or not kidney.any():
        return kidney
    uneven = ndimage.gaussian_filter(rng.standard_normal(labels.shape, np.float32), 4)
    uneven *= rng.uniform(0, 0.35) / max(float(uneven.std()), 1e-6)
    sigma = wrong_mm / np.asarray(spacing_mm) / 1.5
    soft = ndimage.gaussian_filter(kidney.astype(np.float32), sigma, truncate=2)
    found: NDArray[np.bool_] = soft > np.clip(0.4 + rng.uniform(-0.25, 0.2) + uneven, 0.05, 0.95)
    if rng.random() < 0.5:
        lumps = ndimage.gaussian_filter(rng.standard_normal(labels.shape, np.float32), 5)
        beside = ndimage.distance_transform_edt(~kidney, spacing_mm) < rng.uniform(0, _OVERFLOW_MM)
        found |= beside & (lumps > rng.uniform(0.5, 2) * lumps.std())
    return np.asarray(ndimage.binary_fill_holes(found), np.bool_)


def evened(labels: NDArray[np.uint8], spacing_mm: Floats64) -> NDArray[np.float32]:
    """How often each voxel counts, so that small lesions are learned beside large ones; one that is no lesion once.

    A cyst of 0.5 ml is a speck beside a tumour of 100 ml, and missing it costs next to nothing where each voxel counts
    the same. Shirokikh et al. (MICCAI 2020) let each lesion count the same; here the volume keeps some say.

    Args:
        labels: `(D, H, W)` of KiTS.
        spacing_mm: Of the voxels along D, H and W.
    """
    counts = np.ones(labels.shape, np.float32)
    for lesion in (TUMOUR, CYST):
        pieces, count = ndimage.label(labels == lesion, TOUCHING)
        volumes_ml = np.bincount(pieces.ravel(), minlength=count + 1)[1:] * np.prod(spacing_mm) / 1000
        times = np.clip((_EVEN_ML / volumes_ml) ** _EVEN_POWER, *_COUNTS)
        counts *= np.concatenate(([1.0], times)).astype(np.float32)[pieces]
    return counts


def alike(items: Sequence[Mapping[str, Tensor]], *, batch: int) -> list[dict[str, Tensor]]:
    """Batches of those items of a `StepDataset` that are nearest in size, so that little air is computed."""
    ordered = sorted(items, key=lambda item: item["labels"].numel())
    return [batched(ordered[first : first + batch]) for first in range(0, len(ordered), batch)]


def batched(items: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Items of a `StepDataset` as one batch; those that are smaller than others are continued with air."""
    largest = [max(sides) for sides in zip(*(item["labels"].shape for item in items), strict=True)]

    def filled(tensor: Tensor, value: int) -> Tensor:
        room = [more for side, of in zip(tensor.shape[-3:], largest, strict=True) for more in (of - side, 0)]
        return F.pad(tensor, room[::-1], value=value)

    return {
        "image": torch.stack([filled(item["image"], AIR_HU) for item in items]),
        "labels": torch.stack([filled(item["labels"], 0) for item in items]),
        "counts": torch.stack([filled(item["counts"], 1) for item in items]),
    }


def _rotation(angles: NDArray[np.float64]) -> NDArray[np.float64]:
    turn = np.eye(3)
    for axis, angle in enumerate(angles):
        about = np.eye(3)
        first, second = (other for other in range(3) if other != axis)
        about[[first, second], [first, second]] = np.cos(angle)
        about[first, second], about[second, first] = -np.sin(angle), np.sin(angle)
        turn = turn @ about
    return turn


def _recoloured(hu: NDArray[np.float32], options: Augmentation, rng: np.random.Generator) -> NDArray[np.float32]:
    low, high = WINDOW_HU
    if options.blur and rng.random() < 1 / 3:
        hu = ndimage.gaussian_filter(hu, rng.uniform(0, options.blur), truncate=2.5)
    hu = np.clip(hu, low - 50, high + 50)
    hu = (hu - 50) * np.float32(np.exp(rng.uniform(-1, 1) * np.log1p(options.contrast)))
    hu += np.float32(50 + rng.uniform(-1, 1) * options.brightness_hu)
    exponent = np.exp(rng.uniform(-1, 1) * np.log(options.gamma))
    share = np.clip((hu - low) / (high - low), 0, 1) ** np.float32(exponent)
    hu = low + (high - low) * share
    if options.noise_hu and rng.random() < 0.5:
        hu += rng.standard_normal(hu.shape, np.float32) * np.float32(rng.uniform(0, options.noise_hu))
    return hu.astype(np.float32)


def whole_samples(paths: Sequence[Path], step: Step, *, coarse: bool = False) -> Iterator[tuple[Tensor, Tensor]]:
    """Unchanged samples for validation: HU `(1, 1, D, H, W)`, labels `(D, H, W)` of KiTS; step 3 is told the kidney."""
    for path in paths:
        for read in read_samples(path, step.name):
            sample = read.coarse() if coarse else read
            if step.name == "lesion":
                sample = sample.part(closely(sample.labels > 0))
                hu = within(sample.hu.astype(np.float32), sample.labels > 0)
            else:
                hu = sample.hu.astype(np.float32)
            yield torch.from_numpy(hu)[None, None], torch.from_numpy(sample.labels)
