"""The models of this installation, each with the card it came with."""

from __future__ import annotations

import streamlit as st

from pages.components import auth, model_card, style
from renalcore import models
from renalcore.errors import ModelError

auth.require("admin")
style.page_header("Models", "What each model was trained on, how well it did on held-out data, and its limits")

try:
    cards = models.all_cards()
except ModelError as error:
    st.error(str(error))
    st.stop()
if not cards:
    style.empty_state(
        "No model is installed.",
        "A model is a folder below `renalcore/weights` with its weights and its card; see the README.",
    )
for card in cards:
    model_card.show(card)
