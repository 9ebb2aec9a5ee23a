"""Dividing samples into parts: the fields of one patient or sample stay together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from renalcore import taxonomy
from renalcore.datasets.groups import divide
from renalcore.sediment.names import IGNORE

if TYPE_CHECKING:
    from renalcore.sediment.readers import LabelledField


def split_groups(fields: Sequence[LabelledField], folds: int) -> list[tuple[str, ...]]:
    """Divide the groups of some fields into folds that hold about as many fields and objects of each class.

    A class of a single group can only be in one of them; see `renalcore.datasets.groups.divide`.

    Args:
        fields: All labelled fields; those of one group stay together.
        folds: How many folds.

    Returns:
        The names of the groups that each fold holds out, in the order of their names.

    Raises:
        InputError: There are fewer groups than folds, or fewer than two folds.
    """
    names = sorted({field.group for field in fields})
    row_of = {name: row for row, name in enumerate(names)}
    counts = np.zeros((len(names), len(taxonomy.CLASSES) + 1))
    for field in fields:
        row = row_of[field.group]
        counts[row, :-1] += np.bincount(field.class_ids[field.class_ids != IGNORE], minlength=len(taxonomy.CLASSES))
        counts[row, -1] += 1
    return divide(names, counts, folds)
