"""How steps 2 and 3 do on single labelled slices of real patients, each judged in its own plane.

A slice is grown into a volume as for training (`renalcore.ct.slices`), with one plane where the slice itself lies. Step
2 is given a crop around each true kidney, step 3 what step 2 found, and what both found is held against the labels in
that plane alone, on the slice's own pixels. Real there are the labels and what the picture tells of the HU, 0 to 255;
fat, gas and some noise are drawn, and so is everything above and below. Therefore step 1 is not judged, nor is any
volume or distance, and nothing that was found is dropped for its volume.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from renalcore.ct.predict import Crops, KidneyModel
from renalcore.ct.slices import Slice, grow
from renalcore.ct.steps import STEPS, kidney_grids, resample_labels
from renalcore.datasets.findings import counted
from renalcore.export.figures import markdown, with_deviation, write_records
from renalcore.io.volume import Volume
from renalcore.metrics.segmentation import Overlap, Spread, overlap
from renalcore.metrics.surfaces import CLASSES
from renalcore.models import HeldOutFigure

JUDGED: Final = ("kidney_and_masses", "tumour", "cyst")
"""Of the classes of `renalcore.metrics.surfaces.CLASSES`."""

HOW: Final = "grown; judged in the real plane only, step 2 being given the crop around each true kidney"
"""What a figure of slices has to tell of itself."""

_DEPTH: Final = STEPS["kidney"].shape[0] + 1
"""Planes of a grown volume: about those of training, and an odd number, so that one of them is the slice."""

_LEAST_ML: Final = 1.0
"""A grown piece that is smaller gets no crop of its own: those of labels that lie beside a kidney are specks. Whole
kidneys are none, even where the slice shows but 8 mm of one end."""


@dataclass(frozen=True, slots=True)
class JudgedSlice:
    """How one slice was labelled.

    Attributes:
        name: Of its picture.
        group: The patient.
        pixels: Of the slice itself, by class of `JUDGED`.
    """

    name: str
    group: str
    pixels: Mapping[str, Overlap]


@dataclass(frozen=True, slots=True)
class SliceSummary:
    """The figures of one class over several slices.

    Attributes:
        slices: How many.
        patients: Of how many.
        present: Those in which the class is.
        missed: Those of them in which it was not found at all.
        invented: Those in which it is not and was found.
        dice: Over all slices; 1 where it neither is nor was found.
        dice_where_present: Over the slices in which it is.
    """

    slices: int
    patients: int
    present: int
    missed: int
    invented: int
    dice: Spread
    dice_where_present: Spread

    @property
    def absent(self) -> int:
        """Slices in which the class is not."""
        return self.slices - self.present

    @classmethod
    def of(cls, judged: Sequence[JudgedSlice], name: str) -> SliceSummary:
        """The figures of the class `name` of `JUDGED`."""
        pixels = [each.pixels[name] for each in judged]
        held = [each for each in pixels if each.expert]
        return cls(
            len(judged),
            len({each.group for each in judged}),
            len(held),
            sum(not each.found for each in held),
            sum(each.found > 0 and not each.expert for each in pixels),
            Spread.of(each.dice for each in pixels),
            Spread.of(each.dice for each in held),
        )


def judge_slice(model: KidneyModel, of: Slice) -> JudgedSlice:
    """Grow a slice, the same each time, and hold what steps 2 and 3 find in its plane against its labels.

    Raises:
        UnreadableFile: A picture cannot be read.
    """
    seed = zlib.crc32(of.image.stem.encode())
    slice_mm = STEPS["kidney"].spacing_mm[0]
    hu, labels, grid = grow(of, seed, slices=_DEPTH, slice_mm=slice_mm, pixel_mm=of.pixel_mm)
    volume = Volume(hu, grid.affine)
    around = kidney_grids(grid, labels > 0, grid, least_ml=_LEAST_ML)
    nothing_told = tuple(np.zeros(each.shape, np.uint8) for each in around)
    kidneys = model.lesions(volume, model.refine(volume, Crops(tuple(around), nothing_told)))

    _, height, width = grid.shape
    plane = grid.part((slice(_DEPTH // 2, _DEPTH // 2 + 1), slice(0, height), slice(0, width)))
    found = np.zeros(plane.shape, np.uint8)
    for crop, told in zip(kidneys.grids, kidneys.labels, strict=True):
        np.copyto(found, resample_labels(told, crop, plane), where=found == 0)
    expert = labels[_DEPTH // 2]
    pixels = {name: overlap(np.isin(expert, CLASSES[name]), np.isin(found[0], CLASSES[name])) for name in JUDGED}
    return JudgedSlice(of.image.stem, of.group, pixels)


def written(judged: Sequence[JudgedSlice], folder: Path) -> dict[str, Any]:
    """Write `slices.csv`, a row for each slice, into a folder that exists.

    Returns:
        For `evaluation.json`: what was judged, a row of figures for each class, and the rows of the file.
    """
    rows = [
        {"slice": each.name, "patient": each.group}
        | {
            f"{name}_{figure}": value
            for name, pixels in each.pixels.items()
            for figure, value in (("px", pixels.expert), ("found_px", pixels.found), ("dice", pixels.dice))
        }
        for each in judged
    ]
    write_records(folder / "slices.csv", rows)
    return {"judged": in_words(judged), "table": [_table_row(judged, name) for name in JUDGED], "slices": rows}


def _table_row(judged: Sequence[JudgedSlice], name: str) -> dict[str, Any]:
    each = SliceSummary.of(judged, name)
    return {
        "class": name,
        "slices": each.slices,
        "patients": each.patients,
        "present": each.present,
        "missed": each.missed,
        "invented": each.invented,
        "dice": each.dice.mean,
        "dice_sd": each.dice.deviation,
        "dice_where_present": each.dice_where_present.mean,
        "dice_where_present_sd": each.dice_where_present.deviation,
    }


def as_printed(judged: Sequence[JudgedSlice]) -> str:
    """The table for people, below a line that says what the figures are of."""
    cells = [["Class", "Slices with it", "Missed", "Dice where it is", "Slices without", "Invented", "Dice of all"]]
    for name in JUDGED:
        each = SliceSummary.of(judged, name)
        where, everywhere = (
            with_deviation(spread.mean, spread.deviation, digits=3) for spread in (each.dice_where_present, each.dice)
        )
        counts = [str(count) for count in (each.present, each.missed, each.absent, each.invented)]
        cells.append([name, *counts[:2], where, *counts[2:], everywhere])
    return f"{in_words(judged)}\n\n{markdown(cells)}"


def in_words(judged: Sequence[JudgedSlice]) -> str:
    """What the figures are of: how many slices of how many patients, and how they were judged."""
    patients = {each.group for each in judged}
    return f"{counted(len(judged), 'real slice')} of {counted(len(patients), 'patient')}, {HOW}"


def figures(judged: Sequence[JudgedSlice], *, on: str, command: str) -> list[HeldOutFigure]:
    """What a card tells of slices that were not trained on.

    Args:
        judged: At least one slice.
        on: What they are, e.g. `held out: kits19_slices_2d (split val)`.
        command: The command that gives the figures again.
    """
    about, told = f"{on}; {in_words(judged)}", []
    for name in JUDGED:
        each = SliceSummary.of(judged, name)
        if each.present:
            held, dice = f"{about}; {each.present} of them with this class", round(each.dice_where_present.mean, 4)
            told.append(HeldOutFigure(f"Dice, {name}, real slices", dice, held, command))
        if each.absent:
            bare, share = f"{about}; {each.absent} of them without this class", round(each.invented / each.absent, 4)
            told.append(HeldOutFigure(f"Share with a false {name}, real slices without one", share, bare, command))
    return told
