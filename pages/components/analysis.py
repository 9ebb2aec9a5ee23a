"""Asking for an analysis, the same way from every page: the model, what counts of its findings, and the queue."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import streamlit as st
from sqlalchemy.orm import Session

from db import analyses, queue, specimens
from db.engine import session_scope
from db.models import Analysis, Modality, Specimen, User
from db.objects import ONLY_WHEN_CONFIRMED, MinScore
from pages.components import style
from renalcore import __version__, models
from renalcore.errors import RenalError
from renalcore.models import ModelCard

MODEL = "sediment-multihead-n"
HISTOLOGY_MODEL = "histology-linknet-efficientnet-b0"
CT_MODEL = "ct-segresnet"
MODELS: Mapping[Modality, str] = MappingProxyType({"sediment": MODEL, "histology": HISTOLOGY_MODEL, "ct": CT_MODEL})
"""The model in use for each kind of specimen."""

ALL_GLOMERULI: Mapping[str, Any] = MappingProxyType(
    {"limits": {"edge": "keep", "min_score": 0.0, "min_diameter": 0.0, "max_diameter": None}}
)
"""What an analysis of slides begins with: every glomerulus that the model outlines counts."""


@functools.lru_cache(maxsize=16)
def card_of(key: str) -> ModelCard | None:
    """The card of a model, or None where this installation no longer has it."""
    try:
        return models.card(key)
    except RenalError:
        return None


def counted_from(card: ModelCard, chosen: float | None = None) -> dict[str, float]:
    """The lowest score of every class: `chosen` for all validated ones, or those the model was released with.

    Classes never validated on real pictures count only where a person confirms a finding.
    """
    return {
        name: ONLY_WHEN_CONFIRMED
        if name in card.unvalidated_classes
        else card.min_score_of(name)
        if chosen is None
        else chosen
        for name in card.classes
    }


def released_scores(card: ModelCard) -> MinScore:
    """The lowest scores that a model was released with, as the database keeps them."""
    return {name: card.min_score_of(name) for name in card.classes}


def request(session: Session, specimen: Specimen, *, by: User) -> Analysis:
    """Ask for an analysis by the model in use; `send` it once the transaction is committed.

    Raises:
        UnknownName: The model is not installed.
    """
    card = models.card(MODELS[specimen.modality])
    options: Mapping[str, Any] = {}  # whatever decides the result of a CT is on the model's card
    if specimen.modality == "sediment":
        options = {"min_score": counted_from(card), "calibration": card.calibration_sha256}
    elif specimen.modality == "histology":
        options = ALL_GLOMERULI
    return analyses.request(
        session,
        specimen,
        model_key=card.key,
        weights_sha256=card.sha256,
        code_version=__version__,
        options=options,
        by=by,
    )


def request_second(specimen_id: int, model_key: str, *, by: User) -> None:
    """Ask another model for its opinion on a specimen under review, and hand it to the workers.

    Raises:
        Conflict: The specimen is not under review, or has an opinion that is not finished.
        UnknownName: The model is not installed.
    """
    card = models.card(model_key)
    with session_scope() as session:
        asked = analyses.request_second(
            session,
            specimens.get(session, specimen_id),
            model_key=card.key,
            weights_sha256=card.sha256,
            code_version=__version__,
            options={"min_score": counted_from(card), "calibration": card.calibration_sha256},
            by=by,
        )
    send(asked.id)


def send(analysis_id: int) -> None:
    """Hand an analysis to the workers. Where that fails it stays waiting, and the workers find it by themselves."""
    queue.enqueue(analysis_id)


def retry(analysis_id: int, *, by: User) -> None:
    """Try a failed or cancelled analysis again; fields that have a result keep it."""
    with session_scope() as session:
        analyses.retry(session, analysis_id, by)
    send(analysis_id)


def cancel(analysis_id: int, *, by: User) -> None:
    """Stop an analysis that waits or runs."""
    with session_scope() as session:
        workflow_id = analyses.cancel(session, analysis_id, by).workflow_id
    queue.cancel(workflow_id)


def analyse(specimen_id: int, *, by: User) -> None:
    """Ask for an analysis of a specimen that has none, and hand it to the workers."""
    with session_scope() as session:
        asked = request(session, specimens.get(session, specimen_id), by=by)
    send(asked.id)


def attempt(action: Callable[[], object]) -> None:
    """Do what a button stands for and draw the page anew; what speaks against it is told below the button."""
    try:
        action()
    except RenalError as error:
        st.error(style.plain(str(error)))
    else:
        st.rerun()


def offer_the_rest(analysis_id: int, lacking: int, *, picture: str, by: User) -> None:
    """The button that searches what an analysis left out.

    Args:
        analysis_id: The analysis; it is under review.
        lacking: How many fields, slides or scans it lacks, at least one.
        picture: What one is called.
        by: Who would ask.
    """
    words = f"Search the {picture if lacking == 1 else f'{lacking} {picture}s'} left out"
    if st.button(words, key=f"complete-{analysis_id}"):
        attempt(lambda: retry(analysis_id, by=by))


def is_installed(modality: Modality) -> bool:
    """Whether this installation has the model in use for these specimens."""
    if card_of(MODELS[modality]) is not None:
        return True
    card_of.cache_clear()  # it may be installed at any moment
    return False


def model_is_missing() -> bool:
    """Says so on the page where no model is installed, since nothing can be analysed then."""
    if is_installed("sediment"):
        return False
    st.error(f"The model {MODEL} is not installed, so nothing can be analysed. Tell your administrator.")
    return True


def no_glomeruli_are_found() -> bool:
    """Says so on the page where no model for slides is installed; slides can be looked at all the same."""
    return _nothing_is_found(
        "histology", "no glomeruli are found. Slides can be uploaded, looked at and measured; tell"
    )


def no_kidneys_are_found() -> bool:
    """Says so on the page where no model for CT is installed; scans can be looked at all the same."""
    return _nothing_is_found(
        "ct", "no kidneys, tumours or cysts are outlined. Scans can be uploaded and looked at; tell"
    )


def _nothing_is_found(modality: Modality, so: str) -> bool:
    if is_installed(modality):
        return False
    st.html(
        f'<div class="rc-banner" role="status">The model {MODELS[modality]} is not installed, so {so} your '
        "administrator if you expect more.</div>"
    )
    return True
