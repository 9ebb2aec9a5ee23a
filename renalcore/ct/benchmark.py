"""Speed of the three steps from a file to labels: seconds of each stage, memory, and how both grow with the slices.

An abdomen is drawn and written as a NIfTI file without compression, unless a scan is given. No other program is run
beside it: what is compared with is the time inside the networks alone, those of the model or, of random weights, wider
ones such as the paper's.
"""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from renalcore import models
from renalcore.ct.predict import KidneyModel
from renalcore.ct.steps import STEPS, StepName
from renalcore.engine.backends import Backend, Outputs
from renalcore.io.volume import Volume, read_volume, write_labels
from renalcore.models import ModelCard

SIDE_PX: Final = 512
SPACING_MM: Final = (1.6, 0.78, 0.78)
"""Of the scan that is drawn: 280 slices are 448 mm."""


@dataclass(frozen=True, slots=True)
class Scan:
    """What one scan took.

    Attributes:
        shape: Slices, rows and columns.
        kidneys: How many crops steps 2 and 3 saw.
        passes: Of the networks.
        seconds: From the file to labels on the disk.
        stages_s: Of those, by stage: `reading`, `rough`, `kidney`, `lesion`, `labels`, `measures`, `writing`.
        networks_s: Of those, inside the networks.
        peak_mb: The most memory that the process held until then, in 2^20 bytes.
    """

    shape: tuple[int, int, int]
    kidneys: int
    passes: int
    seconds: float
    stages_s: dict[str, float]
    networks_s: float
    peak_mb: float

    @property
    def ratio(self) -> float:
        """The whole, in times of what the networks alone take."""
        return self.seconds / self.networks_s

    def __str__(self) -> str:
        stages = "  ".join(f"{name} {seconds:.2f}" for name, seconds in self.stages_s.items())
        return (
            f"{' x '.join(map(str, self.shape))}: {self.seconds:.1f} s from file to labels, {self.ratio:.1f} times the "
            f"networks alone ({self.networks_s:.2f} s, {self.passes} passes, {self.kidneys} kidneys)\n"
            f"  seconds: {stages}\n  peak memory {self.peak_mb:.0f} MB"
        )


@dataclass(frozen=True, slots=True)
class Measured:
    """What a benchmark measured.

    Attributes:
        model: Key of the model.
        device: What ran it.
        scans: What each scan took, from few slices to many.
    """

    model: str
    device: str
    scans: tuple[Scan, ...]

    def __str__(self) -> str:
        lines = [f"{self.model}, on {self.device}", *map(str, self.scans)]
        if len(self.scans) > 1:
            first, last = self.scans[0], self.scans[-1]
            lines.append(
                f"{last.shape[0] / first.shape[0]:.1f} times as many slices took {last.seconds / first.seconds:.1f} "
                "times as long"
            )
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """All of it, for JSON."""
        scans = [{**asdict(each), "ratio": each.ratio} for each in self.scans]
        return {"model": self.model, "device": self.device, "scans": scans}


Answers = Mapping[StepName, Sequence[Outputs]]
"""What the networks of each step said of one scan, in their order."""


class _Timed:
    """A back end that counts its seconds and passes and keeps its answers; those that are given take their place."""

    def __init__(self, backend: Backend, given: Sequence[Outputs] | None) -> None:
        self.seconds = 0.0
        self.answers: list[Outputs] = []
        self._backend = backend
        self._given = given

    def run(self, batch: NDArray[Any]) -> Outputs:
        start = time.perf_counter()
        found = self._backend.run(batch)
        self.seconds += time.perf_counter() - start
        self.answers.append(found if self._given is None else self._given[len(self.answers)])
        return self.answers[-1]


def run(
    key: str,
    *,
    scan: Path | None = None,
    slices: int = 280,
    timed: tuple[str, int] | None = None,
    device: str = "auto",
    root: Path = models.WEIGHTS,
) -> Measured:
    """Search a scan, or a drawn one with half of the slices and with all, and measure.

    Args:
        key: The model.
        scan: A scan; by default two are drawn.
        slices: Of the larger drawn one.
        timed: Name and width of networks that are measured in the place of those of the model. Their weights are
            random, for time does not depend on them: what the model said of the scan before is taken for their answer.
        device: What runs the networks.
        root: Folder of models.

    Raises:
        UnknownName: There is no such model or device.
        ModelError: The weights are missing or altered, or the device or the network to be timed is absent.
        InputError: The scan cannot be read.
    """
    model = KidneyModel.load(key, device=device, root=root)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        paths = [scan] if scan is not None else []
        for count in () if scan is not None else (max(1, slices // 2), slices):
            paths.append(folder / f"drawn-{count}.nii")
            write_drawn(paths[-1], count, side_px=SIDE_PX)
        if timed is None:
            return Measured(key, str(model.device), measure(model, paths))
        given = [_searched(model, path, None)[1] for path in paths]
        model = _random(model.card, *timed, device=device, folder=folder)
        name = f"{timed[0]} of width {timed[1]}, random, with the answers of {key}"
        return Measured(name, str(model.device), measure(model, paths, given))


def _random(card: ModelCard, network: str, width: int, *, device: str, folder: Path) -> KidneyModel:
    """A model with the card of another one, but for its networks, whose weights are random."""
    import torch

    from renalcore.ct.networks import build_network, save_networks

    torch.manual_seed(0)
    weights = folder / card.key / "random.safetensors"
    weights.parent.mkdir()
    save_networks({step: build_network(network, step, width=width) for step in STEPS}, weights)
    models.write_card(replace(card, **models.file_entries(weights)), weights.parent)
    return KidneyModel.load(card.key, device=device, root=folder)


def measure(model: KidneyModel, paths: Sequence[Path], given: Sequence[Answers] | None = None) -> tuple[Scan, ...]:
    """Search each scan, the first of them twice: networks are compiled when they are first used.

    Args:
        model: Finds the kidneys.
        paths: The scans.
        given: Of each scan, answers that take the place of those of the model.
    """
    of_each = [None] * len(paths) if given is None else given
    scans = list(zip(paths, of_each, strict=True))
    return tuple(_searched(model, path, answers)[0] for path, answers in (scans[0], *scans))[1:]


def _searched(model: KidneyModel, path: Path, given: Answers | None) -> tuple[Scan, Answers]:
    """What a scan took, and what the networks said of it."""
    steps = {step: _Timed(own, given[step] if given else None) for step, own in model.steps.items()}
    timed = KidneyModel(model.card, steps, model.device, least=model.least)
    start = time.perf_counter()
    volume = read_volume(path)
    read = time.perf_counter()
    found = timed.search(volume)
    searched = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        write_labels(Path(folder) / "labels.nii.gz", found.labels, volume)
        written = time.perf_counter()
    scan = Scan(
        shape=volume.shape,
        kidneys=len(steps["lesion"].answers),
        passes=sum(len(each.answers) for each in steps.values()),
        seconds=written - start,
        stages_s={"reading": read - start, **found.seconds, "writing": written - searched},
        networks_s=sum(each.seconds for each in steps.values()),
        peak_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    )
    return scan, {step: each.answers for step, each in steps.items()}


def write_drawn(path: Path, slices: int, *, side_px: int) -> None:
    """Write a plain abdomen with noise: fat, muscle, spine, liver, and a bright kidney on either side.

    Args:
        path: A `.nii` file.
        slices: Its height.
        side_px: Its rows and columns; the voxels grow where these are fewer than 512.
    """
    import nibabel

    random = np.random.default_rng(0)
    spacing = np.array([SPACING_MM[0], *(2 * [SPACING_MM[1] * SIDE_PX / side_px])])
    noise = random.normal(0, 15, (16, side_px, side_px)).astype(np.int16)  # enough to look at, and quick
    y, x = ((np.arange(side_px) - side_px / 2)[:, None] * spacing[1], (np.arange(side_px) - side_px / 2) * spacing[2])
    hu = np.empty((slices, side_px, side_px), np.int16)
    for index in range(slices):
        z = (index - slices / 2) * spacing[0]
        plane = np.full((side_px, side_px), -1000, np.int16)
        for value, (height, back, left), (high, deep, wide) in (
            (-100, (0, 0, 0), (1e4, 115, 165)),
            (50, (0, 0, 0), (1e4, 100, 150)),
            (-90, (0, 40, 0), (1e4, 50, 115)),
            (110, (90, -20, -80), (70, 70, 65)),
            (300, (0, 70, 0), (1e4, 22, 24)),
            (170, (-5, 40, -68), (55, 26, 27)),
            (170, (5, 40, 68), (55, 26, 27)),
        ):
            inside = ((z - height) / high) ** 2 + ((y - back) / deep) ** 2 + ((x - left) / wide) ** 2 < 1
            plane[inside] = value
        hu[index] = plane + noise[index % len(noise)]
    affine = np.diag([-spacing[2], -spacing[1], spacing[0], 1.0])
    volume = Volume(hu.clip(-1024, 3071), np.diag([spacing[2], spacing[1], spacing[0], 1.0]))
    nibabel.save(nibabel.Nifti1Image(volume.hu.transpose(2, 1, 0), affine), path)
