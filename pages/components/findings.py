"""What the viewer and the gallery have in common: findings packed for the browser, and the actions that come back.

The browser numbers its actions and repeats those that it has no answer for. `apply` runs each one once, in its order
and in a transaction of its own, and remembers the number: two quick keystrokes cannot lose one, and a message that
arrives twice changes nothing twice.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import streamlit as st
from sqlalchemy.orm import Session

from db import reviews
from db.engine import session_scope
from db.models import User
from db.objects import MinScore, threshold
from db.reviews import ReviewedObject
from renalcore import taxonomy
from renalcore.errors import RenalError

_HERE = Path(__file__).parent

STATUSES = ("model", "confirmed", "reclassified", "added", "removed")
"""In the order of findings.js."""

_GROUPS = tuple(taxonomy.GROUP_COLOURS)
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ShownField:
    """One field as the viewer and the gallery need it."""

    id: int
    name: str
    width_px: int
    height_px: int
    findings: int
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Review:
    """One review as the viewer and the gallery both show it.

    Attributes:
        analysis_id: The analysis reviewed.
        fields: All fields of the specimen, in order.
        min_score: The lowest score that counts.
        released: The lowest scores that the model was released with.
        unvalidated: Classes never validated on real pictures.
        show_unvalidated: Whether the model's findings of those classes are shown.
        read_only: No corrections, as on a signed specimen.
    """

    analysis_id: int
    fields: Sequence[ShownField]
    min_score: MinScore
    released: MinScore
    unvalidated: Sequence[str]
    show_unvalidated: bool
    read_only: bool


@dataclass(slots=True)
class ReviewState:
    """What the browser and the server have agreed on in one review; kept in the session under `state_of`.

    Attributes:
        acknowledged: Number of the last action applied, by the browser component that sent it.
        revision: Counts the messages answered, so that a refused action is answered too.
        goal: Number of the last wish to go to a field, the field, and the finding to select there.
        complaint: What was refused last, for the technologist.
    """

    acknowledged: dict[str, int] = field(default_factory=dict)
    revision: int = 0
    goal: tuple[int, int | None, str | None] = (0, None, None)
    complaint: str | None = None

    def go(self, field_id: int, key: str | None = None) -> None:
        """Wish that the viewer shows a field, with one finding selected."""
        self.goal = (self.goal[0] + 1, field_id, key)

    def visit(self, field_id: int) -> None:
        """Note the field that the viewer shows by itself, where it will be when it is opened again."""
        self.goal = (self.goal[0], field_id, None)


def component(name: str) -> Callable[..., Any]:
    """The browser's part of `viewer` or `gallery`: the files of its folder behind those that the two share."""
    shared, own = _HERE / "findings", _HERE / name / name
    js, css = (
        shared.with_suffix(suffix).read_text(encoding="utf-8") + own.with_suffix(suffix).read_text(encoding="utf-8")
        for suffix in (".js", ".css")
    )
    return st.components.v2.component(f"renalcore_{name}", js=js, css=css)


def state_of(analysis_id: int) -> ReviewState:
    """The state of the review of an analysis in this browser session."""
    key = f"review-state-{analysis_id}"
    if key not in st.session_state:
        st.session_state[key] = ReviewState()
    state: ReviewState = st.session_state[key]
    return state


def describe_classes(unvalidated: Iterable[str]) -> list[list[Any]]:
    """Name, group and whether it was ever validated, of all classes in the order of the taxonomy."""
    doubtful = frozenset(unvalidated)
    return [[kind.name, _GROUPS.index(kind.group), kind.name not in doubtful] for kind in taxonomy.CLASSES]


def describe_groups() -> list[list[str]]:
    """Name and colour of the groups, in the order shown everywhere."""
    return [[str(group), colour] for group, colour in taxonomy.GROUP_COLOURS.items()]


def pack(objects: Sequence[ReviewedObject], field_ids: Iterable[int]) -> dict[str, dict[str, list[Any]]]:
    """Columns for each field: about 40 bytes an object, scores in thousandths and boxes in whole pixels."""
    packed: dict[str, dict[str, list[Any]]] = {
        str(field_id): {"keys": [], "classes": [], "models": [], "scores": [], "statuses": [], "boxes": []}
        for field_id in field_ids
    }
    ids = {name: index for index, name in enumerate(taxonomy.NAMES)}
    for item in objects:
        columns = packed.get(str(item.field_id))
        if columns is None:
            continue
        columns["keys"].append(item.key)
        columns["classes"].append(ids[item.class_name])
        columns["models"].append(-1 if item.model_class is None else ids[item.model_class])
        # Cut off, not rounded: what the server leaves out at 0.2498 must not reach 0.25 in the browser.
        columns["scores"].append(-1 if item.score is None else int(item.score * 1000))
        columns["statuses"].append(STATUSES.index(item.status))
        columns["boxes"].extend(round(edge) for edge in item.box)
    return packed


def by_class(min_score: MinScore) -> list[float]:
    """The lowest score of every class, in the order of the taxonomy."""
    return [threshold(min_score, name) for name in taxonomy.NAMES]


def common(min_score: MinScore, unvalidated: Iterable[str]) -> float | None:
    """The one lowest score of all validated classes, or None where they differ."""
    doubtful = frozenset(unvalidated)
    numbers = {threshold(min_score, name) for name in taxonomy.NAMES if name not in doubtful}
    return numbers.pop() if len(numbers) == 1 else None


def apply(
    analysis_id: int, message: Mapping[str, Any] | None, *, by: User, thresholds: Callable[[float | None], MinScore]
) -> None:
    """Apply the actions of a message that were not applied before, each in its own transaction.

    `thresholds` turns the number chosen with the slider, or None for those the model was released with, into the
    lowest scores of all classes.

    A refused action (the specimen was signed meanwhile, say) leaves a complaint in the state; the rest goes on.
    """
    if not message:
        return
    state = state_of(analysis_id)
    nonce = str(message["nonce"])
    for action in message["actions"]:
        number = int(action["n"])
        if number <= state.acknowledged.get(nonce, 0):
            continue
        try:
            with session_scope() as session:
                _correct(session, analysis_id, action, by=by, thresholds=thresholds)
        except RenalError as error:
            state.complaint = str(error)
        finally:
            state.acknowledged[nonce] = number
    state.revision += 1


def _correct(
    session: Session,
    analysis_id: int,
    action: Mapping[str, Any],
    *,
    by: User,
    thresholds: Callable[[float | None], MinScore],
) -> None:
    keys = [str(key) for key in action.get("keys", ())]
    match action["kind"]:
        case "confirm":
            reviews.confirm(session, analysis_id, keys, by=by)
        case "remove":
            reviews.remove(session, analysis_id, keys, by=by)
        case "restore":
            reviews.restore(session, analysis_id, keys, by=by)
        case "reclassify":
            reviews.reclassify(session, analysis_id, keys, by=by, class_name=taxonomy.NAMES[int(action["class"])])
        case "add":
            box = [float(edge) for edge in action["box"]]
            name = taxonomy.NAMES[int(action["class"])]
            reviews.add(session, analysis_id, int(action["field"]), name, box, by=by)
        case "undo":
            reviews.undo_last(session, analysis_id, by)
        case "threshold":
            value = action["value"]
            reviews.set_threshold(session, analysis_id, thresholds(None if value is None else float(value)), by)
        case unknown:
            _log.warning("an unknown action %r came from a browser and was left out", str(unknown)[:40])


def data_of(review: Review, objects: Sequence[ReviewedObject], field_ids: Iterable[int]) -> dict[str, Any]:
    """What the viewer and the gallery both get; the names are those that findings.js and its two users read.

    Args:
        review: The review.
        objects: Findings; those of other fields than `field_ids` are left out.
        field_ids: The fields whose findings go to the browser.
    """
    state = state_of(review.analysis_id)
    return {
        "analysis": review.analysis_id,
        "revision": state.revision,
        "acknowledged": state.acknowledged,
        "readonly": review.read_only,
        "base": "",
        "classes": describe_classes(review.unvalidated),
        "groups": describe_groups(),
        "unvalidated": review.show_unvalidated,
        "threshold": common(review.min_score, review.unvalidated),
        "thresholds": by_class(review.min_score),
        "released": by_class(review.released),
        "fields": [
            [shown.id, shown.name, shown.width_px, shown.height_px, shown.findings, list(shown.flags)]
            for shown in review.fields
        ],
        "objects": pack(objects, field_ids),
    }
