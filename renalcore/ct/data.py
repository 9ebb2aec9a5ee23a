"""What the three steps are trained on: KiTS folders of real scans, and scans drawn around the kidneys of label maps.

A **case** is a patient: `case_00042/imaging.nii.gz` with `case_00042/segmentation.nii.gz` (1 kidney, 2 tumour, 3 cyst),
or `case_00042.nii.gz`, a label map without a scan, around which as many scans are drawn as asked for; slices
(`renalcore.ct.slices`) may come to help, and lesions of label maps are put into real scans
(`renalcore.ct.synthetic.implants`). Each becomes a file of samples, made once: the whole scan on the grid of step
1, and a crop around each kidney and one around something else on that of steps 2 and 3, all in HU with their labels.
Training changes them anew each time it looks (`renalcore.ct.items`).
"""

from __future__ import annotations

import multiprocessing
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from renalcore.ct.kidneys import LeastVolumes
from renalcore.ct.nifti import read_labelled
from renalcore.ct.slices import Slice, Texture, grow
from renalcore.ct.steps import (
    AIR_HU,
    COARSE,
    CYST,
    LABELS,
    STEPS,
    TUMOUR,
    Grid,
    StepName,
    kidney_grids,
    resample,
    resample_labels,
    rough_grids,
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
HELD_OUT: Final = "held_out.json"
"""What names the patients that a fold holds out, in its folder."""
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

    def coarse(self) -> Sample:
        """The same with voxels `COARSE` times as wide: mean HU, and the label that most of each has.

        Sides are filled with air to multiples of 8.
        """
        room = [(0, -side % (8 * COARSE)) for side in self.hu.shape]
        d, h, w = (side // COARSE for side in np.add(self.hu.shape, np.sum(room, axis=1)))
        apart, within = (d, COARSE, h, COARSE, w, COARSE), (1, 3, 5)
        hu = np.pad(self.hu, room, constant_values=AIR_HU).reshape(apart).mean(within)
        labels = np.pad(self.labels, room).reshape(apart)
        shares = np.stack([(labels == label).mean(within) for label in (0, *LABELS)])
        deep, high, wide = (mm * COARSE for mm in self.spacing_mm)
        return Sample(np.rint(hu).astype(np.int16), shares.argmax(0).astype(np.uint8), (deep, high, wide))


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
    cases: Sequence[Case],
    folder: Path,
    *,
    drawn: int,
    randomised: float = 0.0,
    validation: bool = False,
    workers: int = 1,
) -> list[Path]:
    """Files of samples of some patients, made where they are not there yet.

    Args:
        cases: The patients.
        folder: Where the files go; runs that share it share them.
        drawn: Scans to draw around label maps, all of them together; patients take turns.
        randomised: Share of these whose tissues are as bright as chance has it, see `is_randomised`.
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
        by_chance = is_randomised(seed, randomised)
        name = f"{case.group}-{seed}{'-randomised' if by_chance else ''}"
        wanted[name] = partial(_drawn, case.labels, seed, randomised=by_chance)
    return _made(wanted, folder, workers)


def is_randomised(seed: int, share: float) -> bool:
    """Whether a drawn scan is one of a share whose tissues are as bright as chance has it; more keep those of fewer."""
    return bool(np.random.default_rng((seed, 2)).random() < share)


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


def _real(name: str, image: Path, segmentation: Path) -> Samples:
    return _of_scan(name, *read_labelled(name, image, segmentation))


def _implanted(
    name: str, image: Path, segmentation: Path, maps: Sequence[Path], textures: Sequence[Texture], seed: int
) -> Samples:
    hu, labels, grid = read_labelled(name, image, segmentation)
    try:
        changed, named, _ = implant(hu, labels, grid, maps, textures, seed)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    return _of_scan(f"{name}-{seed}", changed, named, grid)


def _of_scan(name: str, hu: NDArray[Any], labels: NDArray[np.uint8], grid: Grid) -> Samples:
    return _sampled(
        rough_grids(grid),
        kidney_grids(grid, labels > 0, grid),
        lambda to: _on(to, hu, labels, grid),
        seed=zlib.crc32(name.encode()),
    )


def _drawn(shape_map: Path, seed: int, *, randomised: bool) -> Samples:
    scene = draw_scene(read_shape(shape_map), seed, randomised=randomised)
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
