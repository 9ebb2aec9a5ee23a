"""The gallery: crops of a specimen's findings, class by class, to correct many at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from db.reviews import ReviewedObject
from pages.components import findings
from pages.components.findings import Review

_component = findings.component("gallery")


def key_of(analysis_id: int) -> str:
    """Key of the gallery in the session: it carries the analysis, so that no click lands on another patient."""
    return f"gallery-{analysis_id}"


def gallery(
    review: Review,
    *,
    objects: Sequence[ReviewedObject],
    on_actions: Callable[[], None],
    on_jump: Callable[[], None],
) -> None:
    """Show the gallery.

    Args:
        review: What is reviewed.
        objects: Findings of all fields.
        on_actions: Called with new actions in `st.session_state[key_of(analysis_id)].actions`.
        on_jump: Called when a finding is to be looked at in its field: `.jump` holds `field` and `key`.
    """
    _component(
        key=key_of(review.analysis_id),
        data=findings.data_of(review, objects, [shown.id for shown in review.fields]),
        on_actions_change=on_actions,
        on_jump_change=on_jump,
    )
