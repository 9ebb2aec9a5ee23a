"""How a CT model does on cases with labels, from the whole scan to labels on its grid: the paper's table.

Real scans and scans drawn around real label maps are never told in one figure. A drawn one comes from other seeds than
those that trained and those that validated.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from renalcore import models
from renalcore.ct.data import HELD_OUT, Case
from renalcore.ct.nifti import read_labelled
from renalcore.ct.predict import KidneyModel
from renalcore.ct.synthetic import draw_scene, read_shape
from renalcore.errors import InputError
from renalcore.export.figures import markdown, plain, with_deviation, write_json, write_records
from renalcore.io.volume import Volume
from renalcore.metrics.segmentation import Spread
from renalcore.metrics.surfaces import CLASSES, Summary, VolumeAgreement, compare_labels
from renalcore.models import ModelCard

Kind = Literal["real", "drawn"]

PAPER: Final[Mapping[str, tuple[float, float, float]]] = {
    "kidney": (0.93, 1.24, 2.45),
    "tumour": (0.57, 8.24, 10.86),
    "cyst": (0.73, 6.70, 6.90),
    "kidney_and_masses": (0.93, 1.24, 2.45),
}
"""DSC, ASSD and SDD (its "SSD") of Table II of Lv and Wang, on real scans. Whether its kidney is with or without the
lesions is not told, so that it stands beside both."""

SEEDS_OF_EVALUATION: Final = 950_000
"""From here on; training counts from 0 and validation from 900,000."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """One scan with its labels, read or drawn when it is asked for.

    Attributes:
        name: What it is called.
        group: The patient.
        kind: `real`, or `drawn` around the patient's real kidneys.
        read: Gives the scan and its labels `(D, H, W)`.
    """

    name: str
    group: str
    kind: Kind
    read: Callable[[], tuple[Volume, NDArray[np.uint8]]]


@dataclass(frozen=True, slots=True)
class Judged:
    """How one scan was labelled.

    Attributes:
        name, group, kind: As of `Labelled`.
        agreements: By class of `renalcore.metrics.surfaces.CLASSES`.
        words: Which kidneys were found.
        seconds: Of the search.
        fold: Whose model searched it; empty without folds.
    """

    name: str
    group: str
    kind: Kind
    agreements: Mapping[str, VolumeAgreement]
    words: str
    seconds: float
    fold: str = ""


@dataclass(frozen=True, slots=True)
class Round:
    """A model and the patients that it is judged by.

    Attributes:
        fold: Which fold; empty without folds.
        card: Of the model.
        root: Where the model lies.
        patients: None of them was trained on.
    """

    fold: str
    card: ModelCard
    root: Path
    patients: frozenset[str]


def folds_of(run: Path, cases: Sequence[Case], *, data: Path) -> list[Round]:
    """The folds of a run of `train ct --folds`, each with the patients that it held out.

    Args:
        run: The folder of the run, with `fold-1`, `fold-2` ...
        cases: The patients that it was trained on.
        data: Where they lie.

    Raises:
        InputError: There are no folds, one is not finished, or the data lack a patient that it held out.
    """
    folders = sorted(run.glob("fold-*"), key=lambda path: (len(path.name), path.name))
    if not folders:
        raise InputError(f"{run} holds no folds; give the folder of a run of `renalcore train ct --folds N`")
    known = {case.group for case in cases}
    rounds = []
    for folder in folders:
        told, cards = folder / HELD_OUT, models.all_cards(folder)
        if not told.is_file() or len(cards) != 1:
            raise InputError(
                f"{folder} is not finished, for it holds no model of all three steps: `renalcore train ct --folds N "
                "--resume` ends it"
            )
        patients = frozenset(json.loads(told.read_text(encoding="utf-8")))
        if lacking := sorted(patients - known):
            raise InputError(
                f"{folder} held out {lacking[0]}, which {data} lacks; give the data that it was trained on"
            )
        rounds.append(Round(folder.name.removeprefix("fold-"), cards[0], folder, patients))
    return rounds


def real_scan(name: str, image: Path, labels: Path) -> Labelled:
    """A case of KiTS."""
    return Labelled(name, name, "real", lambda: _real(name, image, labels))


def drawn_scan(name: str, labels: Path, number: int, *, spacing_mm: float = 1.5) -> Labelled:
    """The `number`-th scan of an evaluation, drawn around the label map of a patient; the number chooses its seed."""

    def draw() -> tuple[Volume, NDArray[np.uint8]]:
        scene = draw_scene(read_shape(labels), SEEDS_OF_EVALUATION + number)
        grid = scene.scan(spacing_mm=spacing_mm)
        hu, truth = scene.render(grid)
        return Volume(hu, grid.affine), truth

    return Labelled(f"{name}-{SEEDS_OF_EVALUATION + number}", name, "drawn", draw)


def _real(name: str, image: Path, segmentation: Path) -> tuple[Volume, NDArray[np.uint8]]:
    hu, labels, grid = read_labelled(name, image, segmentation)
    shown = np.clip(np.rint(hu), -1024, 3071).astype(np.int16)
    return Volume(shown, grid.affine), labels


def judge(model: KidneyModel, case: Labelled, *, fold: str = "") -> Judged:
    """Search one scan and hold what was found against its labels.

    Args:
        model: What searches.
        case: The scan.
        fold: Whose model it is; empty without folds.

    Raises:
        InputError: A file cannot be read.
    """
    volume, expert = case.read()
    start = time.perf_counter()
    found = model.search(volume)
    seconds = time.perf_counter() - start
    agreements = compare_labels(expert, found.labels, spacing_mm=volume.spacing_mm)
    return Judged(case.name, case.group, case.kind, agreements, found.words, seconds, fold)


def summaries(judged: Sequence[Judged]) -> dict[Kind, dict[str, Summary]]:
    """The figures of each class, of real and of drawn scans apart; a kind without scans is not there."""
    kinds: tuple[Kind, ...] = ("real", "drawn")
    return {
        kind: {name: Summary.of([each.agreements[name] for each in some]) for name in CLASSES}
        for kind in kinds
        if (some := [each for each in judged if each.kind == kind])
    }


def table(judged: Sequence[Judged]) -> list[dict[str, Any]]:
    """Table II of the paper with what else is known, a row for each class and kind of scan."""
    rows = []
    for kind, classes in summaries(judged).items():
        for name, each in classes.items():
            paper = PAPER.get(name, (math.nan, math.nan, math.nan))
            spreads = {
                "dice": each.dice,
                "dice_where_present": each.dice_where_present,
                "assd_mm": each.assd_mm,
                "sdd_mm": each.sdd_mm,
                "hausdorff95_mm": each.hausdorff95_mm,
                "surface_dice": each.surface_dice,
            }
            row: dict[str, Any] = {"scans": kind, "class": name, "cases": each.cases}
            row |= {"present": each.cases - each.empty - each.invented}
            row |= {"missed": each.missed, "invented": each.invented}
            for figure, spread in spreads.items():
                row |= {figure: spread.mean, f"{figure}_sd": spread.deviation}
            rows.append(row | dict(zip(("paper_dice", "paper_assd_mm", "paper_sdd_mm"), paper, strict=True)))
    return rows


def as_printed(judged: Sequence[Judged]) -> str:
    """Table II as the paper prints it, with deviations and the paper's own figures."""
    cells = [["Scans", "Class", "Dice", "ASSD (mm)", "SDD (mm)", "HD95 (mm)", "Surface Dice", "Paper"]]
    for kind, classes in summaries(judged).items():
        for name, each in classes.items():
            paper = " / ".join(f"{value:.2f}" for value in PAPER.get(name, ()))
            columns = (
                (each.dice, 3), (each.assd_mm, 2), (each.sdd_mm, 2), (each.hausdorff95_mm, 2), (each.surface_dice, 3)
            )  # fmt: skip
            cells.append([kind, name, *(_printed(spread, digits) for spread, digits in columns), paper])
    return markdown(cells)


def _printed(spread: Spread, digits: int) -> str:
    return with_deviation(spread.mean, spread.deviation, digits=digits)


def write(judged: Sequence[Judged], folder: Path, *, about: Mapping[str, Any]) -> None:
    """Write `table2.csv`, `table2.md`, `cases.csv` and `evaluation.json` into a folder that exists.

    The tables are of all scans together; where there are folds, `table2_folds.csv` is of each.

    Args:
        judged: At least one scan.
        folder: Where to.
        about: What was measured on what, e.g. model, data and command; the head of `evaluation.json`.
    """
    rows = table(judged)
    write_records(folder / "table2.csv", rows)
    (folder / "table2.md").write_text(as_printed(judged), encoding="utf-8")
    cases = [_case_row(each) for each in judged]
    write_records(folder / "cases.csv", cases)
    folds = [
        {"fold": fold, **row}
        for fold in dict.fromkeys(each.fold for each in judged if each.fold)
        for row in table([each for each in judged if each.fold == fold])
    ]
    if folds:
        write_records(folder / "table2_folds.csv", folds)
    write_json(folder / "evaluation.json", plain({**about, "table": rows, "folds": folds, "cases": cases}))


def _case_row(each: Judged) -> dict[str, Any]:
    row: dict[str, Any] = {"case": each.name, "patient": each.group, "fold": each.fold, "scans": each.kind}
    row |= {"seconds": each.seconds}
    for name, agreement in each.agreements.items():
        row |= {
            f"{name}_voxels": agreement.voxels.expert,
            f"{name}_found": agreement.voxels.found,
            f"{name}_dice": agreement.dice,
            f"{name}_assd_mm": agreement.assd_mm,
            f"{name}_sdd_mm": agreement.sdd_mm,
            f"{name}_hausdorff95_mm": agreement.hausdorff95_mm,
            f"{name}_surface_dice": agreement.surface_dice,
        }
    return {**row, "found": each.words}
