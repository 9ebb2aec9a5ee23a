"""The gallery: crops of a specimen's findings, class by class, to correct many at once."""

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
    "renalcore_gallery",
    js=findings.SHARED_JS + (_HERE / "gallery.js").read_text(encoding="utf-8"),
    css=findings.SHARED_CSS + (_HERE / "gallery.css").read_text(encoding="utf-8"),
)


def key_of(analysis_id: int) -> str:
    """Key of the gallery in the session: it carries the analysis, so that no click lands on another patient."""
    return f"gallery-{analysis_id}"


def gallery(
    analysis_id: int,
    *,
    fields: Sequence[ShownField],
    objects: Sequence[ReviewedObject],
    min_score: MinScore,
    released: MinScore,
    unvalidated: Sequence[str],
    show_unvalidated: bool,
    read_only: bool,
    on_actions: Callable[[], None],
    on_jump: Callable[[], None],
) -> None:
    """Show the gallery.

    Args:
        analysis_id: The analysis reviewed.
        fields: All fields of the specimen, in order.
        objects: Findings of all fields.
        min_score: The lowest score that counts.
        released: The lowest scores that the model was released with.
        unvalidated: Classes never validated on real pictures.
        show_unvalidated: Whether the model's findings of those classes are listed.
        read_only: No corrections, as on a signed specimen.
        on_actions: Called with new actions in `st.session_state[key_of(analysis_id)].actions`.
        on_jump: Called when a finding is to be looked at in its field: `.jump` holds `field` and `key`.
    """
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
            "objects": findings.pack(objects, [shown.id for shown in fields]),
        },
        on_actions_change=on_actions,
        on_jump_change=on_jump,
    )
