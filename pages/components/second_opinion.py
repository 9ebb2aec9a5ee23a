"""A second model's opinion beside a review: asked for, waited for, laid over the picture, never counted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import streamlit as st
from sqlalchemy.orm import Session

from db import analyses, second_opinions
from db.engine import session_scope
from db.models import Analysis
from db.reviews import ReviewedObject
from db.second_opinions import Agreement, ClassAgreement
from pages.components import analysis as asking
from pages.components import auth, counts, findings, status, style
from renalcore import models, taxonomy
from renalcore.errors import ModelError, RenalError
from renalcore.models import ModelCard

REFRESH_S = 2.0
HELP = (
    "Another model searches the same fields. Its boxes can be laid over the picture, dashed, to see where the two "
    "agree. They enter neither the counts nor the report."
)


@dataclass(frozen=True, slots=True)
class Opinion:
    """The second opinion on a specimen, as far as it is.

    Attributes:
        second: Its analysis.
        done: Fields that it has searched.
        total: Fields of the specimen.
        agreement: How it agrees with what counts; None until it is complete.
    """

    second: Analysis
    done: int
    total: int
    agreement: Agreement | None

    @property
    def title(self) -> str:
        """The model's name for people."""
        card = asking.card_of(self.second.model_key)
        return card.title if card else self.second.model_key


def opinion_on(session: Session, current: Analysis) -> Opinion | None:
    """The newest second opinion on the specimen of an analysis; None where nobody asked for one."""
    second = analyses.second_opinion(session, current.specimen_id)
    if second is None:
        return None
    done, total = analyses.progress(session, second.id)
    complete = second.state == "done"
    return Opinion(second, done, total, second_opinions.agreement(session, current, second) if complete else None)


def layer(opinion: Opinion | None, field_ids: Iterable[int]) -> dict[str, Any] | None:
    """What the viewer draws of a second opinion; the names are those that viewer.js reads.

    Args:
        opinion: The second opinion.
        field_ids: The fields whose findings go to the browser.

    Returns:
        None while there is nothing to lay over.
    """
    if opinion is None or opinion.agreement is None:
        return None
    found = opinion.agreement.findings
    packed = findings.pack([one.item for one in found], field_ids)
    for field_id, columns in packed.items():
        columns["confirms"] = [one.confirms for one in found if str(one.item.field_id) == field_id]
    return {"title": opinion.title, "fields": packed}


def panel(opinion: Opinion | None, current: Analysis, state: findings.ReviewState, *, read_only: bool) -> None:
    """The second opinion beside the counts: how to ask for one, how far it is, and how it agrees.

    Args:
        opinion: The second opinion so far.
        current: The analysis under review.
        state: The state of its review, which leads the viewer to a box.
        read_only: Nothing can be asked for, as on a signed specimen.
    """
    offered = [] if read_only else _others(current, opinion)
    if opinion is None and not offered:
        return
    with st.container(border=True, gap="small", key=f"second-opinion-{current.id}"):
        st.html(
            '<div role="heading" aria-level="2"><strong>Second opinion</strong> '
            '<span class="rc-quiet-text">not counted</span></div>'
            + (f'<div class="rc-quiet-text">{escape(opinion.title)}</div>' if opinion else "")
        )
        if opinion is not None and opinion.second.state in ("queued", "running"):
            st.fragment(_waiting, run_every=REFRESH_S)(opinion.second.id, opinion.second.state)
        elif opinion is not None and opinion.second.state == "failed":
            _failed(opinion, read_only=read_only)
        else:
            if opinion is not None and opinion.agreement is not None:
                _agreement(opinion.agreement.classes, current.id, state)
                _left_out(opinion, read_only=read_only)
            if offered:
                _ask(offered, current)


def _others(current: Analysis, opinion: Opinion | None) -> list[ModelCard]:
    """Installed models that can judge sediment and have not judged this specimen yet."""
    try:
        cards = models.all_cards()
    except ModelError:
        return []  # a broken card is a matter of the page Models, which names it
    heard = opinion.second.weights_sha256 if opinion is not None and opinion.second.state == "done" else None
    return [
        card
        for card in cards
        if card.modality == "sediment"
        and card.validated_classes
        and card.key != current.model_key
        and card.sha256 != heard
    ]


def _ask(offered: Sequence[ModelCard], current: Analysis) -> None:
    titles = {card.key: card.title for card in offered}
    with st.container(horizontal=True, vertical_alignment="bottom"):
        chosen = st.selectbox(
            "Model", list(titles), format_func=titles.__getitem__, key=f"second-model-{current.id}", help=HELP
        )
        wanted = st.button("Ask", key=f"second-ask-{current.id}")
    if wanted and chosen is not None:
        _act(lambda: asking.request_second(current.specimen_id, chosen, by=auth.require()))


def _waiting(second_id: int, shown_state: str) -> None:
    auth.require(keep_alive=False)
    with session_scope(read_only=True) as session:
        second = analyses.get(session, second_id)
        done, total = analyses.progress(session, second_id)
    if second.state not in ("queued", "running"):
        st.rerun()
    status.worker_banner()
    status.progress(done, total, started=second.state == "running")
    if st.button("Cancel", key=f"second-cancel-{second_id}"):
        _act(lambda: asking.cancel(second_id, by=auth.require()))


def _failed(opinion: Opinion, *, read_only: bool) -> None:
    st.html(
        '<p class="rc-quiet-text" role="status" style="margin:0">It could not be finished; the counts are not touched. '
        f"{escape(opinion.second.message or '')}</p>"
    )
    with st.container(horizontal=True):
        if not read_only and st.button("Retry", key=f"second-retry-{opinion.second.id}"):
            _act(lambda: asking.retry(opinion.second.id, by=auth.require()))
        if st.button("Dismiss", key=f"second-dismiss-{opinion.second.id}"):
            _act(lambda: asking.cancel(opinion.second.id, by=auth.require()))


def _left_out(opinion: Opinion, *, read_only: bool) -> None:
    lacking = opinion.total - opinion.done
    if not lacking:
        return
    st.html(f'<p class="rc-quiet-text" style="margin:0">It has searched {opinion.done} of {opinion.total} fields.</p>')
    if not read_only and st.button("Search the others", key=f"second-complete-{opinion.second.id}"):
        _act(lambda: asking.retry(opinion.second.id, by=auth.require()))


def _agreement(classes: Sequence[ClassAgreement], analysis_id: int, state: findings.ReviewState) -> None:
    seen = [line for line in classes if line.counted or line.only_second]
    if not seen:
        names = classes[0].class_name if len(classes) == 1 else "what it looks for"
        st.html(f'<p style="margin:0">Neither found {escape(names)}.</p>')
    for line in seen:
        st.html(
            f'<div data-agreement="{escape(line.class_name)}">'
            f"{counts.group_mark_html(taxonomy.particle(line.class_name).group)} {escape(line.class_name)}: "
            f"<strong>{line.confirmed} of {line.counted}</strong> confirmed</div>"
        )
        with st.container(horizontal=True, gap="small"):
            _places("not confirmed", line.only_first, f"{analysis_id}-{line.class_name}-first", analysis_id, state)
            _places("additional", line.only_second, f"{analysis_id}-{line.class_name}-second", analysis_id, state)


def _places(
    words: str, items: Sequence[ReviewedObject], key: str, analysis_id: int, state: findings.ReviewState
) -> None:
    """A button that leads to one of these boxes after the other; nothing where there is none."""
    if not items:
        return
    visited = f"second-visited-{key}"

    def jump() -> None:
        at = st.session_state.get(visited, -1) + 1
        st.session_state[visited] = at
        item = items[at % len(items)]
        state.go(item.field_id, item.key)
        st.session_state[f"mode-{analysis_id}"] = "Fields"

    st.button(
        f"{len(items)} {words}", key=f"second-jump-{key}", on_click=jump, help="Show the box; again: the next one."
    )


def _act(action: Callable[[], object]) -> None:
    try:
        action()
    except RenalError as error:
        st.error(style.plain(str(error)))
    else:
        st.rerun()
