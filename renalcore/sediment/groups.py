"""Dividing samples into parts: the fields of one patient or sample stay together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from renalcore import taxonomy
from renalcore.errors import InputError
from renalcore.sediment.names import IGNORE

if TYPE_CHECKING:
    from renalcore.sediment.readers import LabelledField


def split_groups(fields: Sequence[LabelledField], folds: int) -> list[tuple[str, ...]]:
    """Divide the groups of some fields into folds that hold about as many fields and objects of each class.

    The group with the largest share of any class is placed first, each into the fold that has least of what it brings.
    The same fields always give the same folds. A class of a single group can only be in one of them.

    Args:
        fields: All labelled fields; those of one group stay together.
        folds: How many folds.

    Returns:
        The names of the groups that each fold holds out, in the order of their names.

    Raises:
        InputError: There are fewer groups than folds, or fewer than two folds.
    """
    names = sorted({field.group for field in fields})
    if folds < 2 or len(names) < folds:
        raise InputError(f"{len(names)} groups cannot be divided into {folds} folds; choose between 2 and their number")
    row_of = {name: row for row, name in enumerate(names)}
    counts = np.zeros((len(names), len(taxonomy.CLASSES) + 1))
    for field in fields:
        row = row_of[field.group]
        counts[row, :-1] += np.bincount(field.class_ids[field.class_ids != IGNORE], minlength=len(taxonomy.CLASSES))
        counts[row, -1] += 1
    shares = counts / np.maximum(counts.sum(0), 1)
    load = np.zeros((folds, counts.shape[1]))
    held: list[list[str]] = [[] for _ in range(folds)]
    for row in sorted(range(len(names)), key=lambda row: (-shares[row].max(), names[row])):
        # What a group adds to the sum of squares over folds and classes, without the part that is the same everywhere.
        fold = min(range(folds), key=lambda fold: (round(float(load[fold] @ shares[row]), 12), load[fold].sum(), fold))
        load[fold] += shares[row]
        held[fold].append(names[row])
    return [tuple(sorted(groups)) for groups in held]
