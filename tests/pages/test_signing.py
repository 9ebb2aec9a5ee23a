"""What a reviewer is shown before signing is what is signed."""

from __future__ import annotations

from streamlit.testing.v1 import AppTest

PATIENCE_S = 120.0


def _dialog() -> None:
    from types import SimpleNamespace

    import streamlit as st

    from pages.components import signing

    words = st.session_state.get("words", "5 glomeruli")
    signing.sign(1, lambda _: [words], SimpleNamespace(full_name="Rita Reviewer"), reviewed="slides and glomeruli")


def test_a_report_changed_by_another_person_is_read_again_before_it_is_signed() -> None:
    page = AppTest.from_function(_dialog, default_timeout=PATIENCE_S).run()
    assert page.markdown[0].value == "5 glomeruli"
    page.session_state["words"] = "4 glomeruli"
    page.button(key="sign-now-1").click().run()
    assert page.markdown[0].value == "4 glomeruli"
    assert [warning.value for warning in page.warning] == [
        "Somebody changed this report while you read it. Read it again, then sign."
    ]
