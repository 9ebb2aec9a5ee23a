"""Histories of corrections: what still stands of them, and what a person did last, whatever the corrections are about.

Corrections are only ever added. Those of one thing are replayed in order; `restore` takes back the last one still
standing, so that undoing a removal brings back the correction before it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import TypeVar

from db.models import Correction, GlomerulusCorrection, User
from renalcore.errors import Conflict

Row = TypeVar("Row", Correction, GlomerulusCorrection)


def key_of(correction: Correction | GlomerulusCorrection) -> str:
    """Key of what a correction is about: `f12` for the model's finding 12, `c7` for what correction 7 added."""
    if correction.finding_id is not None:
        return f"f{correction.finding_id}"
    return f"c{correction.id if correction.added_id is None else correction.added_id}"


def by_key(corrections: Iterable[Row]) -> dict[str, list[Row]]:
    """Corrections under the keys of what they are about, each history in the order given."""
    histories: dict[str, list[Row]] = defaultdict(list)
    for correction in corrections:
        histories[key_of(correction)].append(correction)
    return dict(histories)


def standing(history: Iterable[Row]) -> list[Row]:
    """The corrections of one thing, oldest first, without those that a `restore` took back."""
    still: list[Row] = []
    for correction in history:
        if correction.action != "restore":
            still.append(correction)
        elif still:
            still.pop()
    return still


def restorable(histories: Mapping[str, list[Row]], key: str) -> bool:
    """Whether a correction of this thing can be taken back; that it was drawn is taken back by removing it."""
    return len(standing(histories.get(key, ()))) > (1 if key.startswith("c") else 0)


def last_action(histories: Mapping[str, list[Row]], by: User) -> dict[str, Row]:
    """The last thing that a person did and that still stands, whether to one or to many at once.

    Returns:
        What it was done to, by key, each with its correction; empty where there is nothing left.

    Raises:
        Conflict: Another person has corrected the same since.
    """
    stacks = {key: standing(history) for key, history in histories.items()}
    mine = [row for stack in stacks.values() for row in stack if row.by_id == by.id]
    if not mine:
        return {}
    moment = max(mine, key=lambda row: row.id).at  # the rows of one action carry one time
    last = {
        key: stack[-1] for key, stack in stacks.items() if any(row.by_id == by.id and row.at == moment for row in stack)
    }
    covered = sum(row.by_id != by.id or row.at != moment for row in last.values())
    if covered:
        raise Conflict(
            f"{covered} of the objects changed last have been corrected by another person since. "
            "Change them one by one."
        )
    return last
