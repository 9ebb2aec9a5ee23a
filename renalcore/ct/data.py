"""What the three steps are trained on: KiTS folders of real scans, and scans drawn around the kidneys of label maps.

A **case** is a patient: `case_00042/imaging.nii.gz` with `case_00042/segmentation.nii.gz` (1 kidney, 2 tumour, 3 cyst),
or `case_00042.nii.gz`, a label map without a scan, around which as many scans are drawn as asked for; slices
(`renalcore.ct.slices`) may come to help, and lesions of label maps are put into real scans
(`renalcore.ct.synthetic.implants`). Each becomes a file of samples, made once: the whole scan on the grid of step
1, and a crop around each kidney and one around something else on that of steps 2 and 3, all in HU with their labels.
Training changes them anew each time it looks.
"""

from __future__ import annotations

import multiprocessing
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torch.utils.data import Dataset

from renalcore.ct.kidneys import LeastVolumes
from renalcore.ct.nifti import read_nifti
from renalcore.ct.slices import Slice, Texture, grow
from renalcore.ct.steps import (
    AIR_HU,
    CYST,
    STEPS,
    TUMOUR,
    WINDOW_HU,
    Grid,
    Shape,
    Step,
    StepName,
    closely,
    kidney_grids,
    resample,
    resample_labels,
    rough_grids,
    within,
)
from renalcore.ct.synthetic import draw_scene, implant, read_shape
from renalcore.datasets.findings import Findings
from renalcore.datasets.groups import divide, sides, train_and_val
from renalcore.errors import InputError

_SEED_OF_VALIDATION: Final = 900_000
"""Scans that validate are drawn from other seeds than those that train."""
_WORTH_PROCESSES: Final = 12
"""Missing scans from which starting processes is quicker than making them here."""
_APART_MM: Final = 40.0
"""Distance from the kidneys to what step 2 is shown as none."""
_SOFT_HU: Final = (0, 250)
"""What could be taken for a kidney: it is neither fat nor gas nor hard bone."""
SOUGHT: Final[Mapping[StepName, float]] = MappingProxyType({"rough": 0.0, "kidney": 0.4, "lesion": 0.8})
"""Share of the items of a step that are kidneys with a lesion. Half of the patients of KiTS have a cyst, on one kidney
mostly, and slices and whole scans have hardly any: who took files in turn would show a cyst with one item of six."""
_FLOWS_MM: Final = 8.0
"""How far the kidney of step 2 may flow over into what lies beside it, in step 3's training."""
_TURNED: Final = 12
"""Voxels around a kidney that step 3 may be turned, scaled and shifted into."""
VAL_SHARE: Final = 0.15
"""Share of the patients that validate where no fold is asked for."""


@dataclass(frozen=True, slots=True)
class Case:
    """One patient.

    Attributes:
        group: Its name, by which folds are divided.
        labels: The label map.
        image: The scan that belongs to it, or None where scans are drawn.
    """

    group: str
    labels: Path
    image: Path | None


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """A scan or a crop on the grid of a step.

    Attributes:
        hu: `(D, H, W)` int16.
        labels: `(D, H, W)` uint8, labels of KiTS.
        spacing_mm: Of its voxels along D, H and W.
    """

    hu: NDArray[np.int16]
    labels: NDArray[np.uint8]
    spacing_mm: tuple[float, float, float]

    def holds(self, lesion: int) -> bool:
        """Whether there is as much of a lesion as `LeastVolumes` keeps: specks of a label map teach nothing."""
        least = LeastVolumes()
        least_ml = {TUMOUR: least.tumour_ml, CYST: least.cyst_ml}[lesion]
        return bool((self.labels == lesion).sum() * np.prod(self.spacing_mm) / 1000 >= least_ml)

    def part(self, window: tuple[slice, slice, slice]) -> Sample:
        """What lies in a window of it."""
        return replace(self, hu=self.hu[window], labels=self.labels[window])


Kind = Literal["rough", "kidney", "other"]
Samples = Mapping[Kind, Sequence[Sample]]
"""Of one scan: the whole of it, a crop around each kidney, and one around something else."""


def read_cases(folder: Path) -> list[Case]:
    """The patients of a folder, by name.

    Raises:
        InputError: The folder holds neither cases of KiTS nor label maps, or a case lacks one of its two files.
    """
    cases = []
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            parts = [_nifti(path / name) for name in ("imaging", "segmentation")]
            if all(part is None for part in parts):
                continue
            image, labels = parts
            if image is None or labels is None:
                missing = "imaging" if image is None else "segmentation"
                raise InputError(f"{path} has no {missing}.nii.gz; copy it there, or take the folder away")
            cases.append(Case(path.name, labels, image))
        elif path.name.endswith((".nii", ".nii.gz")):
            cases.append(Case(_named(path), path, None))
    if not cases:
        raise InputError(
            f"{folder} holds no case_xxxxx/imaging.nii.gz with segmentation.nii.gz, as KiTS has them, and no label "
            "maps case_xxxxx.nii.gz; give such a folder"
        )
    if doubled := {case.group for case in cases if sum(other.group == case.group for other in cases) > 1}:
        raise InputError(f"{folder} holds {', '.join(sorted(doubled))} as a scan and as a label map; keep one of them")
    return cases


def _nifti(stem: Path) -> Path | None:
    found = (stem.with_name(stem.name + suffix) for suffix in (".nii.gz", ".nii"))
    return next((path for path in found if path.is_file()), None)


def _named(path: Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(".nii")


def train_and_validation(
    cases: Sequence[Case], held_out: Sequence[str], *, folder: Path
) -> tuple[list[Case], list[Case]]:
    """Patients to train on and patients to validate with: those held out, or a share chosen by their names.

    Raises:
        InputError: There is no such patient, or none is left to train on.
    """
    groups = [case.group for case in cases]
    splits, _ = sides([None] * len(cases), [case.labels for case in cases], groups, VAL_SHARE, Findings(folder))
    training, validation = train_and_val(cases, splits, held_out, folder=folder, grouped_by="the names of the cases")
    if not training:
        raise InputError(f"{folder} leaves no case to train on; hold out fewer")
    return training, validation


def folds_of(cases: Sequence[Case], folds: int) -> list[tuple[str, ...]]:
    """The patients that each fold holds out: about as many scans and as many drawn ones in each.

    Raises:
        InputError: There are fewer patients than folds, or fewer than two folds.
    """
    ordered = sorted(cases, key=lambda case: case.group)
    counts = np.array([[case.image is not None, case.image is None] for case in ordered], np.float64)
    return divide([case.group for case in ordered], counts, folds)


def prepare(
    cases: Sequence[Case], folder: Path, *, drawn: int, validation: bool = False, workers: int = 1
) -> list[Path]:
    """Files of samples of some patients, made where they are not there yet.

    Args:
        cases: The patients.
        folder: Where the files go; runs that share it share them.
        drawn: Scans to draw around label maps, all of them together; patients take turns.
        validation: Draw others than for training.
        workers: Processes that make them side by side.

    Returns:
        A file for each real and each drawn scan.

    Raises:
        InputError: A file cannot be read, or a scan does not lie on the grid of its labels.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shapes = [case for case in cases if case.image is None]
    first = _SEED_OF_VALIDATION if validation else 0
    wanted: dict[str, Callable[[], Samples]] = {
        case.group: partial(_real, case.group, case.image, case.labels) for case in cases if case.image is not None
    }
    for number in range(drawn if shapes else 0):
        case, seed = shapes[number % len(shapes)], first + number
        wanted[f"{case.group}-{seed}"] = partial(_drawn, case.labels, seed)
    return _made(wanted, folder, workers)


def prepare_slices(slices: Sequence[Slice], folder: Path, *, workers: int = 1) -> list[Path]:
    """Files of samples grown from slices, as those of `prepare`: a file for each slice.

    Raises:
        UnreadableFile: A picture cannot be read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return _made(
        {f"slice-{each.image.stem}": partial(_grown, each, seed) for seed, each in enumerate(slices)}, folder, workers
    )


def prepare_implants(
    scans: Sequence[Case],
    shapes: Sequence[Case],
    textures: Sequence[Texture],
    folder: Path,
    *,
    count: int,
    workers: int = 1,
) -> list[Path]:
    """Files of samples of real scans that lesions were put into, as those of `prepare`.

    Args:
        scans: Patients with a scan, who take turns.
        shapes: Patients whose lesions are put there.
        textures: What tumours look like within.
        folder: Where the files go.
        count: How many files.
        workers: Processes that make them side by side.

    Raises:
        InputError: A scan has no kidney, or no room for any lesion that was tried; or as `prepare`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    maps = [case.labels for case in shapes]
    # A file with a lesion of a patient who is held out now is not taken for one without.
    givers = zlib.crc32(" ".join([*(case.group for case in shapes), *(each.group for each in textures)]).encode())
    real = [(case.group, case.image, case.labels) for case in scans if case.image is not None]
    wanted: dict[str, Callable[[], Samples]] = {}
    for number in range(count):
        case = real[number % len(real)]
        wanted[f"implanted-{case[0]}-{number}-{givers:08x}"] = partial(_implanted, *case, maps, textures, number)
    return _made(wanted, folder, workers)


def _made(wanted: Mapping[str, Callable[[], Samples]], folder: Path, workers: int) -> list[Path]:
    """The files of samples by name, made where they are not there yet."""
    paths = {folder / f"{name}.npz": make for name, make in wanted.items()}
    missing = {path: make for path, make in paths.items() if not path.is_file()}
    if len(missing) < _WORTH_PROCESSES or workers == 1:
        for path, make in missing.items():
            _keep(path, make)
    else:
        fresh = multiprocessing.get_context("spawn")  # a fork would inherit the locks of threads without the threads
        with ProcessPoolExecutor(workers, mp_context=fresh, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            for kept in [pool.submit(_keep, path, make) for path, make in missing.items()]:
                kept.result()
    return list(paths)


def _keep(path: Path, make: Callable[[], Samples]) -> None:
    """Write the samples of one scan, never half of them."""
    unfinished = path.with_name(f".{path.stem}.partial.npz")
    np.savez_compressed(unfinished, **_columns(make()))
    unfinished.replace(path)


def _columns(scan: Samples) -> dict[str, Any]:
    return {
        f"{kind}_{name}": np.stack([getattr(sample, name) for sample in samples])
        for kind, samples in scan.items()
        for name in ("hu", "labels", "spacing_mm")
        if samples
    }


def read_samples(path: Path, step: StepName) -> list[Sample]:
    """The samples of one step from a file of `prepare`; step 3 sees the crops of step 2 that are around a kidney."""
    kinds: dict[StepName, tuple[Kind, ...]] = {
        "rough": ("rough",),
        "kidney": ("kidney", "other"),
        "lesion": ("kidney",),
    }
    with np.load(path) as stored:
        columns = [
            [stored[f"{kind}_{name}"] for name in ("hu", "labels", "spacing_mm")]
            for kind in kinds[step]
            if f"{kind}_hu" in stored
        ]
    return [
        Sample(hu, labels, (float(spacing[0]), float(spacing[1]), float(spacing[2])))
        for kind in columns
        for hu, labels, spacing in zip(*kind, strict=True)
    ]


def _holding(paths: Sequence[Path]) -> dict[int, list[Path]]:
    """The files with a kidney that holds a tumour, and those with one that holds a cyst; repeated as they are given."""
    lesions = {
        path: [lesion for lesion in (TUMOUR, CYST) if any(each.holds(lesion) for each in read_samples(path, "lesion"))]
        for path in dict.fromkeys(paths)
    }
    return {lesion: [path for path in paths if lesion in lesions[path]] for lesion in (TUMOUR, CYST)}


def _real(name: str, image: Path, segmentation: Path) -> Samples:
    return _of_scan(name, *_read_scan(name, image, segmentation))


def _implanted(
    name: str, image: Path, segmentation: Path, maps: Sequence[Path], textures: Sequence[Texture], seed: int
) -> Samples:
    hu, labels, grid = _read_scan(name, image, segmentation)
    try:
        changed, named, _ = implant(hu, labels, grid, maps, textures, seed)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    return _of_scan(f"{name}-{seed}", changed, named, grid)


def _read_scan(name: str, image: Path, segmentation: Path) -> tuple[NDArray[Any], NDArray[np.uint8], Grid]:
    hu, grid = read_nifti(image)
    labels, of_labels = read_nifti(segmentation)
    if grid.shape != of_labels.shape or not np.allclose(grid.affine, of_labels.affine, atol=0.05):
        raise InputError(f"{name}: the scan and its labels lie on different grids; take both from one release")
    if labels.min(initial=0) < 0 or labels.max(initial=0) > CYST:
        raise InputError(f"{name}: labels are 1 kidney, 2 tumour and 3 cyst; others stand there")
    return hu, labels.astype(np.uint8), grid


def _of_scan(name: str, hu: NDArray[Any], labels: NDArray[np.uint8], grid: Grid) -> Samples:
    return _sampled(
        rough_grids(grid),
        kidney_grids(grid, labels > 0, grid),
        lambda to: _on(to, hu, labels, grid),
        seed=zlib.crc32(name.encode()),
    )


def _drawn(shape_map: Path, seed: int) -> Samples:
    scene = draw_scene(read_shape(shape_map), seed)
    scan, shape = scene.scan(), scene.body.shape
    crops = kidney_grids(scan, shape.labels > 0, shape.grid)
    return _sampled(rough_grids(scan), crops, lambda to: _sample(*scene.render(to), to), seed=seed)


def _grown(of: Slice, seed: int) -> Samples:
    coarse, fine = (
        grow(of, seed, slices=step.shape[0], slice_mm=step.spacing_mm[0], pixel_mm=step.spacing_mm[1])
        for step in (STEPS["rough"], STEPS["kidney"])
    )
    rough, crops = rough_grids(coarse[-1]), kidney_grids(fine[-1], fine[1] > 0, fine[-1])
    return _sampled(rough, crops, lambda to: _on(to, *(coarse if to in rough else fine)), seed=seed)


def _sampled(rough: Sequence[Grid], kidneys: Sequence[Grid], at: Callable[[Grid], Sample], *, seed: int) -> Samples:
    """The samples of a scan, of which `at` gives the part on a grid."""
    seen = [at(grid) for grid in rough]
    other = _elsewhere(rough[0], seen[0], seed)
    return {"rough": seen, "kidney": [at(grid) for grid in kidneys], "other": [at(grid) for grid in other]}


def _elsewhere(grid: Grid, sample: Sample, seed: int) -> list[Grid]:
    """A crop around soft tissue that is no kidney: step 1 errs, and step 2 has to know a kidney when it sees one.

    Args:
        grid: Of step 1.
        sample: What lies there.
        seed: Of the place.
    """
    soft = (sample.hu >= _SOFT_HU[0]) & (sample.hu <= _SOFT_HU[1])
    far = ndimage.distance_transform_edt(sample.labels == 0, sample.spacing_mm) >= _APART_MM
    heights = np.flatnonzero(sample.labels.any(axis=(1, 2)))
    places = np.argwhere((soft & far)[heights.min() : heights.max() + 1]) if len(heights) else np.empty((0, 3))
    if not len(places):
        return []
    place = places[np.random.default_rng((seed, 1)).integers(len(places))] + (heights.min(), 0, 0)
    step = STEPS["kidney"]
    return [grid.around(grid.to_mm(place), step.shape, step.spacing_mm)]


def _on(to: Grid, hu: NDArray[Any], labels: NDArray[np.uint8], grid: Grid) -> Sample:
    """A sample of a scan that lies on `grid`."""
    shown = np.clip(np.rint(resample(hu, grid, to)), -1024, 3071).astype(np.int16)
    return _sample(shown, resample_labels(labels, grid, to), to)


def _sample(hu: NDArray[np.int16], labels: NDArray[np.uint8], grid: Grid) -> Sample:
    d, h, w = grid.spacing_mm.tolist()
    return Sample(hu, labels, (d, h, w))


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


class StepDataset(Dataset[dict[str, Tensor]]):
    """Changed samples of one step.

    An item holds `image` `(1, D, H, W)` float32 HU and `labels` `(D, H, W)` int64, those of KiTS. Items differ from
    epoch to epoch and are the same in every run with the same seed. Those of step 3 are of different sizes
    (`renalcore.ct.steps.closely`): `batched` joins them.

    Args:
        paths: Files of `prepare`.
        step: The step.
        augmentation: How samples are changed.
        patch: Voxels of an item; None for the whole grid of the step. Smaller ones are laid around the kidneys mostly,
            and about lesions in step 3.
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
        augmentation: Augmentation = Augmentation(),
        patch: Shape | None = None,
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
        self.augmentation = augmentation
        self.patch = patch
        self.items = items or len(self.paths)
        self._holding = _holding(self.paths) if SOUGHT[step.name] else {}
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
        samples = read_samples(path, self.step.name)
        if lesion is not None:
            samples = [sample for sample in samples if sample.holds(lesion)]
        if not samples:  # a scan without a kidney has no crop
            samples = [self._nothing()]
        sample = samples[int(rng.integers(len(samples)))]
        if self.step.name == "lesion":
            sample = sample.part(closely(sample.labels > 0, clear=_TURNED))
        hu, labels = self._placed(sample, rng)
        hu = _recoloured(hu, self.augmentation, rng)
        if self.step.name == "lesion":
            region = _region(labels, self.step, self.augmentation.region_mm, rng)
            window = closely(region)
            hu = within(hu, region)[window]
            labels = np.where(region, labels, np.uint8(0))[window]  # nothing is sought in air
        return {"image": torch.from_numpy(hu)[None], "labels": torch.from_numpy(labels).long()}

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


def _region(labels: NDArray[np.uint8], step: Step, wrong_mm: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """The kidney as step 2 might find it, without holes.

    It is a little too large or too small, and unevenly so; half of the time it also flows over here and there, into the
    fat of the hilum or what lies beside the kidney.
    """
    kidney = labels > 0
    if not wrong_mm or not kidney.any():
        return kidney
    uneven = ndimage.gaussian_filter(rng.standard_normal(labels.shape, np.float32), 4)
    uneven *= rng.uniform(0, 0.35) / max(float(uneven.std()), 1e-6)
    sigma = wrong_mm / np.array(step.spacing_mm) / 1.5
    soft = ndimage.gaussian_filter(kidney.astype(np.float32), sigma, truncate=2)
    found: NDArray[np.bool_] = soft > np.clip(0.4 + rng.uniform(-0.25, 0.2) + uneven, 0.05, 0.95)
    if rng.random() < 0.5:
        lumps = ndimage.gaussian_filter(rng.standard_normal(labels.shape, np.float32), 5)
        beside = ndimage.distance_transform_edt(~kidney, step.spacing_mm) < rng.uniform(0, _FLOWS_MM)
        found |= beside & (lumps > rng.uniform(0.5, 2) * lumps.std())
    return np.asarray(ndimage.binary_fill_holes(found), np.bool_)


def batched(items: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Items of a `StepDataset` as one batch; those that are smaller than others are continued with air."""
    largest = [max(sides) for sides in zip(*(item["labels"].shape for item in items), strict=True)]

    def filled(tensor: Tensor, value: int) -> Tensor:
        room = [more for side, of in zip(tensor.shape[-3:], largest, strict=True) for more in (of - side, 0)]
        return F.pad(tensor, room[::-1], value=value)

    return {
        "image": torch.stack([filled(item["image"], AIR_HU) for item in items]),
        "labels": torch.stack([filled(item["labels"], 0) for item in items]),
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


def whole_samples(paths: Sequence[Path], step: Step) -> Iterator[tuple[Tensor, Tensor]]:
    """Unchanged samples for validation: HU `(1, 1, D, H, W)`, labels `(D, H, W)` of KiTS; step 3 is told the kidney."""
    for path in paths:
        for sample in read_samples(path, step.name):
            if step.name == "lesion":
                sample = sample.part(closely(sample.labels > 0))
                hu = within(sample.hu.astype(np.float32), sample.labels > 0)
            else:
                hu = sample.hu.astype(np.float32)
            yield torch.from_numpy(hu)[None, None], torch.from_numpy(sample.labels)
