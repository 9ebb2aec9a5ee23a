"""Dividing what was labelled into sides and folds: what is of one patient or sample stays together."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from renalcore.datasets.findings import Findings, Kind, counted
from renalcore.datasets.pictures import Split
from renalcore.errors import InputError


class Grouped(Protocol):
    """A labelled field or slide."""

    @property
    def group(self) -> str:
        """The patient or sample that it is of."""
        ...


Labelled = TypeVar("Labelled", bound=Grouped)


def of_side(labelled: Sequence[Labelled], splits: Sequence[Split], name: Split) -> list[Labelled]:
    """What lies on one side of the data."""
    return [each for each, side in zip(labelled, splits, strict=True) if side == name]


def train_and_val(
    labelled: Sequence[Labelled], splits: Sequence[Split], held_out: Collection[str], *, folder: Path, grouped_by: str
) -> tuple[list[Labelled], list[Labelled]]:
    """What to train on and what to validate with; what is of a test split is in neither.

    Args:
        labelled: All of the data.
        splits: The side of each.
        held_out: Groups that make up the validation side instead of the data's own, for cross-validation.
        folder: Where the data lie, for messages.
        grouped_by: What says the groups, for messages.

    Raises:
        InputError: There is no such group.
    """
    if not held_out:
        return of_side(labelled, splits, "train"), of_side(labelled, splits, "val")
    if strangers := set(held_out) - {each.group for each in labelled}:
        raise InputError(f"{folder} has no group {', '.join(sorted(strangers))}; groups are told apart by {grouped_by}")
    rest = [each for each, side in zip(labelled, splits, strict=True) if side != "test"]
    return [each for each in rest if each.group not in held_out], [each for each in labelled if each.group in held_out]


def sides(
    said: Sequence[Split | None],
    paths: Sequence[Path],
    groups: Sequence[str],
    val_share: float,
    findings: Findings,
) -> tuple[tuple[Split, ...], bool]:
    """The side of each picture.

    Where the data name no validation side, whole groups go there by a hash of their name, so that a set which grows
    keeps its split. A set with a test split and no validation split gives groups of its training side.

    Args:
        said: What the data say of each picture.
        paths: The pictures, for messages.
        groups: Patient or sample of each.
        val_share: Share of the groups that validate where the data do not say it.
        findings: Where doubts go.

    Returns:
        The sides, and whether the data said so themselves.
    """
    unsaid = [path for path, side in zip(paths, said, strict=True) if side is None]
    if unsaid and len(unsaid) < len(said):
        findings.add(
            Kind.UNSPLIT, unsaid[0],
            f"{counted(len(unsaid), 'picture')} (this is the first) in none of the data's splits, treated as train",
            "put every picture into a split, or move these out of the folder",
        )  # fmt: skip
    free = [index for index, side in enumerate(said) if side in (None, "train")]
    if "val" in said or not free or (None not in said and "train" not in said):
        return tuple(side or "train" for side in said), True
    chosen_sides: list[Split] = [side or "train" for side in said]
    order = sorted({groups[index] for index in free}, key=_position)
    chosen = {group for group in order if _position(group) < val_share} or set(order[:1])
    if len(order) < 2:
        findings.add(
            Kind.NO_VALIDATION, "(groups)", f"all pictures belong to one group, {order[0]}; nothing can validate",
            "add pictures of other patients, or name the groups in groups.csv (image,group)",
        )  # fmt: skip
        chosen = set()
    elif len(chosen) == len(order):
        chosen = set(order[:-1])
    for index in free:
        if groups[index] in chosen:
            chosen_sides[index] = "val"
    return tuple(chosen_sides), False


def divide(names: Sequence[str], counts: NDArray[np.float64], folds: int) -> list[tuple[str, ...]]:
    """Divide groups into folds that hold about as much of everything that was counted.

    The group with the largest share of anything is placed first, each into the fold that has least of what it brings.
    The same groups always give the same folds.

    Args:
        names: The groups, each once, sorted.
        counts: `(N, K)`, how much of each of K things a group has.
        folds: How many folds.

    Returns:
        The names of the groups that each fold holds out, in the order of their names.

    Raises:
        InputError: There are fewer groups than folds, or fewer than two folds.
    """
    if folds < 2 or len(names) < folds:
        raise InputError(f"{len(names)} groups cannot be divided into {folds} folds; choose between 2 and their number")
    shares = counts / np.maximum(counts.sum(0), 1)
    load = np.zeros((folds, counts.shape[1]))
    held: list[list[str]] = [[] for _ in range(folds)]
    for row in sorted(range(len(names)), key=lambda row: (-shares[row].max(), names[row])):
        # What a group adds to the sum of squares over folds and classes, without the part that is the same everywhere.
        fold = min(range(folds), key=lambda fold: (round(float(load[fold] @ shares[row]), 12), load[fold].sum(), fold))
        load[fold] += shares[row]
        held[fold].append(names[row])
    return [tuple(sorted(groups)) for groups in held]


def _position(group: str) -> float:
    """Where a group lies between 0 and 1: the same on every machine, whatever else is in the data."""
    return int.from_bytes(hashlib.sha256(group.encode()).digest()[:8], "big") / 2**64
