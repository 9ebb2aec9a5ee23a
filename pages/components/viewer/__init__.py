"""The viewer: one field with its findings, to zoom, filter and correct; the fields beside each other below it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import streamlit as st

from db.objects import MinScore
from db.reviews import ReviewedObject
from pages.components import findings
from pages.components.findings import ShownField

_HERE = Path(__file__).parent
_component = st.components.v2.component(
    "renalcore_viewer",
    js=findings.SHARED_JS + (_HERE / "viewer.js").read_text(encoding="utf-8"),
    css=findings.SHARED_CSS + (_HERE / "viewer.css").read_text(encoding="utf-8"),
)


def key_of(analysis_id: int) -> str:
    """Key of the viewer in the session: it carries the analysis, so that no click lands on another patient."""
    return f"viewer-{analysis_id}"


def neighbours(fields: Sequence[ShownField], field_id: int) -> list[int]:
    """The field and those beside it: their findings go to the browser, so that stepping does not wait."""
    ids = [shown.id for shown in fields]
    at = ids.index(field_id)
    return ids[max(0, at - 1) : at + 2]


def viewer(
    analysis_id: int,
    *,
    fields: Sequence[ShownField],
    current: int,
    objects: Sequence[ReviewedObject],
    min_score: MinScore,
    released: MinScore,
    unvalidated: Sequence[str],
    show_unvalidated: bool,
    read_only: bool,
    on_actions: Callable[[], None],
    on_field: Callable[[], None],
) -> None:
    """Show the viewer.

    Args:
        analysis_id: The analysis reviewed.
        fields: All fields of the specimen, in order.
        current: The field shown first.
        objects: Findings of the fields near `current`; others are left out.
        min_score: The lowest score that counts.
        released: The lowest scores that the model was released with.
        unvalidated: Classes never validated on real pictures.
        show_unvalidated: Whether the model's findings of those classes are shown.
        read_only: No corrections, as on a signed specimen.
        on_actions: Called with new actions in `st.session_state[key_of(analysis_id)].actions`.
        on_field: Called when another field is shown, its id in `.field`.
    """
    state = findings.state_of(analysis_id)
    number, _, goal_key = state.goal
    _component(
        key=key_of(analysis_id),
        data={
            **findings.shared_data(
                analysis_id,
                fields=fields,
                min_score=min_score,
                released=released,
                unvalidated=unvalidated,
                show_unvalidated=show_unvalidated,
                read_only=read_only,
            ),
            "goal": {"number": number, "field": current, "key": goal_key},
            "objects": findings.pack(objects, neighbours(fields, current)),
        },
        on_actions_change=on_actions,
        on_field_change=on_field,
    )
