"""The viewer: one field with its findings, to zoom, filter and correct; the fields beside each other below it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from db.reviews import ReviewedObject
from pages.components import findings
from pages.components.findings import Review, ShownField

_component = findings.component("viewer")


def key_of(analysis_id: int) -> str:
    """Key of the viewer in the session: it carries the analysis, so that no click lands on another patient."""
    return f"viewer-{analysis_id}"


def neighbours(fields: Sequence[ShownField], field_id: int) -> list[int]:
    """The field and those beside it: their findings go to the browser, so that stepping does not wait."""
    ids = [shown.id for shown in fields]
    at = ids.index(field_id)
    return ids[max(0, at - 1) : at + 2]


def viewer(
    review: Review,
    *,
    current: int,
    objects: Sequence[ReviewedObject],
    on_actions: Callable[[], None],
    on_field: Callable[[], None],
    second: dict[str, Any] | None = None,
    heat: bool = False,
) -> None:
    """Show the viewer.

    Args:
        review: What is reviewed.
        current: The field shown first.
        objects: Findings of the fields near `current`; others are left out.
        on_actions: Called with new actions in `st.session_state[key_of(analysis_id)].actions`.
        on_field: Called when another field is shown, its id in `.field`.
        second: A second opinion to lay over the findings, see `second_opinion.layer`.
        heat: Whether the model's findings have heat maps.
    """
    number, _, goal_key = findings.state_of(review.analysis_id).goal
    _component(
        key=key_of(review.analysis_id),
        data={
            **findings.data_of(review, objects, neighbours(review.fields, current)),
            "goal": {"number": number, "field": current, "key": goal_key},
            "second": second,
            "heat": heat,
        },
        on_actions_change=on_actions,
        on_field_change=on_field,
    )
