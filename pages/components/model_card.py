"""A model's card as a reader wants it: what it is for, its limits, its figures, its data, and then its identity."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

import streamlit as st

from pages.components import status, style
from renalcore.models import Modality, ModelCard

_OUTLINED = (
    "Not validated on real pictures: outlined and counted all the same, so look at each of them before you sign."
)
_UNVALIDATED: Mapping[Modality, str] = {
    "sediment": "Never validated on real pictures: hidden in a review until asked for, and counted only where a person "
    "confirms or adds them.",
    "histology": _OUTLINED,
    "ct": _OUTLINED,
}
"""What becomes in a review of the classes without held-out figures."""


def _facts(card: ModelCard) -> None:
    """What decides a result, in two columns."""
    score = "one for each class" if isinstance(card.min_score, Mapping) else f"{card.min_score:g}"
    rows = (
        ("Task", f"{card.modality}, {card.task}"),
        ("Network", f"{card.architecture}, size {card.scale}"),
        ("Picture", f"slices of {card.input.slice_px} px, {card.input.overlap:.0%} overlap"),
        ("Lowest score reported", score),
        ("Made", card.date.strftime("%d %b %Y")),
        ("Weights", f"{card.weights}, {style.size(card.bytes)}"),
        ("sha256 of the weights", card.sha256),
    )
    body = "".join(
        f'<tr><td style="width:13rem">{escape(name)}</td><td class="{"rc-mono" if name.startswith("sha") else ""}">'
        f"{escape(value)}</td></tr>"
        for name, value in rows
    )
    st.html(f'<table class="rc-table">{body}</table>')


def _figures(card: ModelCard) -> None:
    st.subheader("Held-out figures", anchor=False)
    if not card.figures:
        st.html(status.flag_html("no held-out figure has been measured"))
        return
    style.table(
        ["Figure", "Value", "Measured on", "Command that gives it again"],
        [[figure.name, f"{figure.value:.3f}", figure.on, figure.command] for figure in card.figures],
        numeric=(1,),
    )


def _training_data(card: ModelCard) -> None:
    st.subheader("Training data", anchor=False)
    style.table(
        ["Data set", "Pictures", "Licence, in the source's words", "Note"],
        [[data.name, style.number(data.images, 0), data.licence, data.note] for data in card.training_data],
        numeric=(1,),
    )


def _classes(card: ModelCard) -> None:
    st.subheader("Classes", anchor=False)
    st.markdown(
        f"**With held-out figures on real pictures:** {style.plain(', '.join(card.validated_classes)) or 'none'}"
    )
    if card.unvalidated_classes:
        st.markdown(f"**Without such figures:** {style.plain(', '.join(card.unvalidated_classes))}")
        st.html(f'<p class="rc-quiet-text">{_UNVALIDATED[card.modality]}</p>')
    if isinstance(card.min_score, Mapping):
        with st.expander("Lowest score reported, by class"):
            style.table(
                ["Class", "Score", "The score is"],
                [[name, f"{card.min_score_of(name):.2f}", _scale(card, name)] for name in card.classes],
                numeric=(1,),
            )


def _scale(card: ModelCard, name: str) -> str:
    found = card.calibration.get(name)
    if found is None:
        return "the network's own, no probability"
    boxes = f"{style.number(found.boxes, 0)} boxes" + (" of all validated classes" if found.pooled else "")
    return f"a probability, fitted on {boxes}"


def show(card: ModelCard) -> None:
    """Everything a reader must know before a model's answers may be used."""
    with st.container(border=True):
        st.header(style.plain(card.title), anchor=False)
        st.html(f'<span class="rc-mono rc-quiet-text">{escape(card.key)}</span>')
        st.markdown(style.plain(card.intended_use))
        if card.limits:
            st.subheader("Known limits", anchor=False)
            st.html("<ul>" + "".join(f"<li>{escape(limit)}</li>" for limit in card.limits) + "</ul>")
        _figures(card)
        _training_data(card)
        _classes(card)
        st.subheader("Identity", anchor=False)
        _facts(card)
