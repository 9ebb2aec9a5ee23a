"""Finding kidneys, tumours and cysts in a CT volume, in the three steps of Lv and Wang (2021).

`KidneyModel.search` does all of it. Step by step it is `rough`, `refine`, `lesions` and `finish`: what a step gives is
small and can be stored (`Crops.to_bytes`), so that another process can go on with it. A step that finds nothing gives
no crops, and that is an answer and no error.

Memory is that of the volume, of its labels (a byte a voxel) and of one pass of a network: no score is ever resampled,
and nothing is computed on the grid of the scan outside of the crops.
"""

from __future__ import annotations

import hashlib
import io
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from renalcore import models
from renalcore.ct.kidneys import PAIR_MM, TOUCHING, LeastVolumes, pieces_of
from renalcore.ct.lesions import lesions_by_hu
from renalcore.ct.measure import Measures, drop_small, measure
from renalcore.ct.steps import (
    KIDNEY,
    MARGIN_MM,
    STEPS,
    Grid,
    StepName,
    closely,
    kidney_grid,
    kidney_grids,
    resample,
    resample_labels,
    within,
)
from renalcore.engine import backends, devices
from renalcore.engine.backends import VOLUMES, Backend
from renalcore.engine.devices import Device
from renalcore.errors import ModelError
from renalcore.io.volume import Volume
from renalcore.models import ModelCard

if TYPE_CHECKING:
    from torch import nn

Labels = NDArray[np.uint8]
Progress = Callable[[int, int], None]
"""Told how many passes of a network are done, and of how many; the second grows once kidneys are found."""

OVERLAP_MM: Final = 150.0
"""What neighbouring parts of a long body have in common in step 1: each kidney is seen with what surrounds it."""

MIXED_HU: Final = 100.0
"""Standard deviation of HU from which what was found may be bone and muscle. Kidneys vary less, but where contrast
medium fills their pelvis."""
BEYOND: Final = "A kidney reaches the edge of the scan: what lies beyond is not measured."
"""The last sentence of what was found, where that is so."""

WIDENED: Final = 6
"""How often a crop is widened at the most because a kidney touches its border: by then it holds the whole abdomen."""

ANOTHER_KIDNEY: Final = 1 / 3
"""Share of the largest piece's volume from which another one in a crop can be a kidney too."""


@dataclass(frozen=True, slots=True, eq=False)
class Crops:
    """What a step found: a crop around each kidney, from the patient's right to the left.

    Attributes:
        grids: Where they lie, in the LPS mm of the volume turned by `Volume.toward_lps`.
        labels: `(D, H, W)` uint8 on each grid: 0 background, 1 kidney, and after the third step 2 tumour and 3 cyst.

    Raises:
        ValueError: A crop has another shape than its grid.
    """

    grids: tuple[Grid, ...]
    labels: tuple[Labels, ...]

    def __post_init__(self) -> None:
        if [grid.shape for grid in self.grids] != [labels.shape for labels in self.labels]:
            raise ValueError("each crop needs labels of the shape of its grid")

    def __len__(self) -> int:
        return len(self.grids)

    def to_bytes(self) -> bytes:
        """To be stored between steps: some ten kilobytes a kidney."""
        stream = io.BytesIO()
        columns: dict[str, Any] = {f"labels_{number}": labels for number, labels in enumerate(self.labels)}
        affines = np.array([grid.affine for grid in self.grids], np.float64).reshape(-1, 4, 4)
        np.savez_compressed(stream, affines=affines, **columns)
        return stream.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes) -> Crops:
        """What `to_bytes` gave."""
        with np.load(io.BytesIO(content)) as stored:
            affines = stored["affines"]
            labels = tuple(stored[f"labels_{number}"] for number in range(len(affines)))
        return cls(tuple(_grid(each, affine) for each, affine in zip(labels, affines, strict=True)), labels)


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """What a volume holds.

    Attributes:
        labels: `(D, H, W)` uint8 on the volume's own grid: 0 background, 1 kidney, 2 tumour, 3 cyst.
        measures: What is measured on them.
        words: One to three sentences: which kidneys and lesions were found.
        seconds: Of each stage: `rough`, `kidney`, `lesion`, `labels` and `measures`.
    """

    labels: Labels
    measures: Measures
    words: str
    seconds: Mapping[str, float]


class KidneyModel:
    """A loaded CT model: the networks of the three steps. Several threads may search with one object.

    Attributes:
        card: The model.
        device: What runs it.
        steps: The network of each step there: `(N, D, H, W)` int16 HU to `(N, D, H, W)` uint8 classes of the step.
        least: What is too small to be kept.
    """

    def __init__(
        self,
        card: ModelCard,
        steps: Mapping[StepName, Backend],
        device: Device,
        *,
        least: LeastVolumes = LeastVolumes(),
    ) -> None:
        self.card = card
        self.steps = steps
        self.device = device
        self.least = least

    @classmethod
    def load(cls, key: str, *, device: str = "auto", root: Path = models.WEIGHTS) -> KidneyModel:
        """The model called `key`, its weights checked against its card.

        Raises:
            UnknownName: There is no such model or device.
            ModelError: No CT model is installed at all, it is no CT model, its weights are missing or altered, a step
                is missing, or the device is absent.
        """
        card = card_of(key, root)
        chosen = devices.choose(device)
        if chosen.kind == "openvino-int8":
            raise ModelError("models of CT have no INT8 form; use --device openvino")
        weights = models.weights_path(card, root)
        steps = {
            step: backends.load(partial(_network, weights, step), chosen, key=_key(card, step), shown=VOLUMES)
            for step in STEPS
        }
        return cls(card, steps, chosen)

    def rough(self, volume: Volume, *, progress: Progress | None = None) -> Crops:
        """Step 1: where the kidneys are, on the whole scan at low resolution.

        A body longer than the network's grid is seen in parts that overlap; each voxel is told by the part in whose
        middle it lies most.
        """
        scan, hu = _turned(volume)
        step = STEPS["rough"]
        length_mm = float(scan.shape[0] * scan.spacing_mm[0])
        depth = max(step.shape[0], int(np.ceil(length_mm / step.spacing_mm[0])))
        whole = scan.around(scan.centre_mm, (depth, *step.shape[1:]), step.spacing_mm)
        shown = _hounsfield(resample(hu, scan, whole))
        starts = _starts(depth, step.shape[0], round(OVERLAP_MM / step.spacing_mm[0]))
        owner = np.abs(np.arange(depth)[:, None] - (np.array(starts) + step.shape[0] / 2)).argmin(1)
        found = np.zeros(whole.shape, np.uint8)
        for number, start in enumerate(starts):
            (classes,) = self._run("rough", shown[None, start : start + step.shape[0]])
            mine = np.flatnonzero(owner == number)
            found[mine] = classes[mine - start]
            if progress is not None:
                progress(number + 1, len(starts))
        grids = tuple(kidney_grids(scan, found == KIDNEY, whole, least_ml=self.least.kidney_ml))
        return Crops(grids, tuple(_nearest_to(own, resample_labels(found, whole, own), grids) for own in grids))

    def refine(self, volume: Volume, crops: Crops, *, progress: Progress | None = None) -> Crops:
        """Step 2: each kidney with its tumours and cysts, as one label, in its crop.

        A kidney with its masses is one connected piece without holes: of the 211 crops that were looked at in the label
        maps of KiTS23, what else lies in one has 0.2 % of the kidney's volume at most, and in 40 of them holes have
        0.7 % at most. So the largest piece is kept and its holes are filled: a hole is a cyst, as a rule, that is too
        dark to be taken for kidney. A second piece stays where it is the other kidney by its size and place: step 1
        may have seen two as one, such as the halves of a horseshoe. A crop whose kidney touches the border is widened
        and seen again; one in which nothing is left is dropped.

        Args:
            volume: The volume that `rough` saw.
            crops: What `rough` found.
            progress: Told how many kidneys are done.
        """
        scan, hu = _turned(volume)
        kept: list[tuple[Grid, Labels]] = []
        for number, grid in enumerate(crops.grids):
            others = [other for other in crops.grids if other is not grid]
            for widened in range(WIDENED + 1):
                (classes,) = self._run("kidney", _hounsfield(resample(hu, scan, grid))[None])
                found = _solid(_nearest_to(grid, classes, [grid, *others]), grid, self.least)
                wider = _widened(scan, grid, found) if widened < WIDENED else None
                if wider is None:
                    break
                grid = wider
            if found.any():
                kept.append((grid, found))
            if progress is not None:
                progress(number + 1, len(crops))
        return Crops(tuple(grid for grid, _ in kept), tuple(found for _, found in kept))

    def lesions(self, volume: Volume, kidneys: Crops, *, progress: Progress | None = None) -> Crops:
        """Step 3: tumours and cysts, inside the kidneys only; cysts are as dark as water (`renalcore.ct.lesions`).

        Args:
            volume: The volume that `rough` saw.
            kidneys: What `refine` found.
            progress: Told how many kidneys are done.
        """
        scan, hu = _turned(volume)
        told = []
        for number, (grid, found) in enumerate(zip(kidneys.grids, kidneys.labels, strict=True)):
            window = closely(found > 0)
            region, shown = found[window] > 0, resample(hu, scan, grid.part(window))
            (classes,) = self._run("lesion", _hounsfield(within(shown, region))[None])
            labels = np.zeros_like(found)
            said = np.where(region, classes + np.uint8(KIDNEY), np.uint8(0))
            labels[window] = lesions_by_hu(shown, said, grid.part(window))
            told.append(labels)
            if progress is not None:
                progress(number + 1, len(kidneys))
        return Crops(kidneys.grids, tuple(told))

    def finish(self, volume: Volume, crops: Crops, *, seconds: Mapping[str, float] | None = None) -> Found:
        """The labels on the volume's own grid, without what is too small, and their measures; no network runs.

        Args:
            volume: The volume that `rough` saw.
            crops: What `lesions` found.
            seconds: Of the steps before, to be told with those of this one.
        """
        start = time.perf_counter()
        scan, _ = _turned(volume)
        turned = np.zeros(scan.shape, np.uint8)
        for grid, found in zip(crops.grids, crops.labels, strict=True):
            window = _covered(scan, grid)
            if window is not None:
                there = turned[window]  # a view
                part = resample_labels(found, grid, scan.part(window))
                np.copyto(there, part, where=there == 0)
        labels = np.ascontiguousarray(volume.from_lps(turned))
        labels = drop_small(labels, volume.affine, least=self.least)
        told = time.perf_counter()
        measures = measure(labels, volume.affine, hu=volume.hu, least=self.least)
        spent = {**(seconds or {}), "labels": told - start, "measures": time.perf_counter() - told}
        return Found(labels, measures, in_words(labels, measures), spent)

    def search(self, volume: Volume, *, progress: Progress | None = None) -> Found:
        """All three steps, one after the other.

        Args:
            volume: The volume.
            progress: Told how many passes of a network are done, and of how many so far.
        """
        told = _Passes(progress)
        start = time.perf_counter()
        crops = self.rough(volume, progress=told.of_a_step)
        seconds = {"rough": time.perf_counter() - start}
        told.expect(2 * len(crops))
        for name, step in (("kidney", self.refine), ("lesion", self.lesions)):
            start = time.perf_counter()
            crops = step(volume, crops, progress=told.of_a_step)
            seconds[name] = time.perf_counter() - start
        return self.finish(volume, crops, seconds=seconds)

    def _run(self, step: StepName, volumes: NDArray[np.int16]) -> NDArray[np.uint8]:
        classes: NDArray[np.uint8] = self.steps[step].run(volumes)[0]
        return classes


class _Passes:
    """Counts the passes of all steps together."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._done = 0
        self._of = 1

    def expect(self, more: int) -> None:
        self._of = self._done + more

    def of_a_step(self, done: int, of: int) -> None:
        self._of = max(self._of, of)
        self._done += 1
        if self._progress is not None:
            self._progress(self._done, self._of)


def card_of(key: str, root: Path) -> ModelCard:
    """The card of a CT model.

    Raises:
        ModelError: No CT model is installed, or it is a model of another wing.
        UnknownName: There are CT models, and this is none of them.
    """
    installed = {card.key for card in models.all_cards(root)}
    if key not in installed and not any(card.modality == "ct" for card in models.all_cards(root)):
        raise ModelError(
            f"no CT model is installed in {root}: train one with `renalcore train ct`, and name the folder of its run "
            "with --models"
        )
    card = models.card(key, root)
    if card.modality != "ct":
        raise ModelError(f"{key} does not search CT; it is a model for {card.modality}")
    return card


def in_words(labels: Labels, measures: Measures) -> str:
    """Which kidneys and lesions were found, which may be none, and whether one is cut off by the end of the scan."""
    if not measures.kidneys:
        return measures.found
    names = [lesion.label for lesion in measures.lesions]
    counts = [f"{names.count(name)} {name}{'s' if names.count(name) > 1 else ''}" for name in dict.fromkeys(names)]
    told = [measures.found, f"Found in them: {' and '.join(counts)}." if counts else "No tumour or cyst was found."]
    told += [
        f"HU vary by ± {kidney.sd_hu:.0f} in what was taken for a kidney "
        f"({'side unknown' if kidney.side == 'middle' else kidney.side}): check that it is one."
        for kidney in measures.kidneys
        if kidney.sd_hu is not None and kidney.sd_hu >= MIXED_HU
    ]
    faces = (np.take(labels, end, axis) for axis in range(3) for end in (0, -1))
    if any(face.any() for face in faces):
        told.append(BEYOND)
    return " ".join(told)


def _turned(volume: Volume) -> tuple[Grid, NDArray[np.int16] | NDArray[np.float32]]:
    turned = volume.toward_lps()
    return Grid(turned.shape, turned.affine), turned.hu


def _grid(labels: Labels, affine: NDArray[np.float64]) -> Grid:
    d, h, w = labels.shape
    return Grid((d, h, w), affine)


def _hounsfield(values: NDArray[np.float32]) -> NDArray[np.int16]:
    """As training has them."""
    return np.clip(np.rint(values), -1024, 3071).astype(np.int16)


def _starts(length: int, window: int, overlap: int) -> list[int]:
    """Where windows begin that cover a length and overlap, evenly."""
    beyond = length - window
    if beyond <= 0:
        return [0]
    count = 1 + int(np.ceil(beyond / (window - overlap)))
    return [round(beyond * number / (count - 1)) for number in range(count)]


def _nearest_to(own: Grid, found: Labels, grids: Sequence[Grid]) -> Labels:
    """What is found in the crop `own` but belongs to no other crop: of each piece the nearest crop's middle is its own.

    A crop may show a part of the other kidney, which its own crop shows whole.
    """
    pieces, count = ndimage.label(found, TOUCHING)
    if count == 0 or len(grids) == 1:
        return found
    centres = own.to_mm(np.array(ndimage.center_of_mass(found > 0, pieces, range(1, count + 1))))
    middles = np.array([grid.centre_mm for grid in grids])
    mine = next(number for number, grid in enumerate(grids) if grid is own)
    nearest = np.linalg.norm(centres[:, None] - middles, axis=2).argmin(1)
    belongs = np.concatenate(([False], nearest == mine))
    return np.where(belongs[pieces], found, np.uint8(0))


def _solid(found: Labels, grid: Grid, least: LeastVolumes) -> Labels:
    """The largest connected piece, and another kidney if there is one, their holes filled."""
    pieces, _, volumes_ml = pieces_of(found > 0, grid)
    if not len(volumes_ml):
        return found
    largest = volumes_ml.argmax()
    x_mm = grid.to_mm(np.array(ndimage.center_of_mass(found > 0, pieces, range(1, len(volumes_ml) + 1))))[:, 0]
    kept = volumes_ml >= max(least.kidney_ml, ANOTHER_KIDNEY * volumes_ml[largest])
    kept &= np.abs(x_mm - x_mm[largest]) >= PAIR_MM
    kept[largest] = True
    filled: Labels = ndimage.binary_fill_holes(np.concatenate(([False], kept))[pieces]).astype(np.uint8)
    return filled


def _widened(scan: Grid, grid: Grid, found: Labels) -> Grid | None:
    """A crop that holds more on the sides where what was found touches the border, or None where nothing does."""
    held = ndimage.find_objects((found > 0).astype(np.uint8))
    if not held:
        return None
    first = np.array([each.start for each in held[0]])
    last = np.array([each.stop for each in held[0]])
    ends = scan.to_index(grid.to_mm([first - 0.5, last - 0.5])) * scan.spacing_mm
    # What touches may go on for as far as two margins.
    low = ends[0] - np.where(first == 0, 2 * MARGIN_MM, 0)
    high = ends[1] + np.where(last == grid.shape, 2 * MARGIN_MM, 0)
    # The scan's own end is no border that a wider crop could move.
    low, high = np.maximum(low, ends[0].clip(max=0)), np.minimum(high, np.array(scan.shape) * scan.spacing_mm)
    if (low >= ends[0]).all() and (high <= ends[1]).all():
        return None
    return kidney_grid(scan, low, high)


def _covered(scan: Grid, grid: Grid) -> tuple[slice, slice, slice] | None:
    """The voxels of a scan that a crop covers, or None where it covers none."""
    ends = scan.to_index(grid.to_mm([[-1, -1, -1], grid.shape]))
    first = np.clip(np.floor(ends[0]), 0, scan.shape).astype(int)
    last = np.clip(np.ceil(ends[1]) + 1, 0, scan.shape).astype(int)
    if (last <= first).any():
        return None
    d, h, w = (slice(int(begin), int(end)) for begin, end in zip(first, last, strict=True))
    return d, h, w


def _network(weights: Path, step: StepName) -> nn.Module:
    from renalcore.ct.decoding import class_network

    return class_network(weights, step)


def _key(card: ModelCard, step: StepName) -> str:
    """Names a converted network by everything it was made from."""
    made_from = hashlib.sha256(f"{card.sha256}{step}".encode())
    for package in ("openvino", "torch", "monai"):
        made_from.update(version(package).encode())
    for module in ("networks.py", "steps.py", "decoding.py"):
        made_from.update((Path(__file__).parent / module).read_bytes())
    return f"ct-{step}-{made_from.hexdigest()[:32]}"
