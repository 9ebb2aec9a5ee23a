from __future__ import annotations

import logging

import pytest
from streamlit.error_util import handle_user_script_exception

from pages.components import faults

NAME = " ".join(("Anna", "Example"))


def a_fault() -> Exception:
    try:
        {}[NAME]
    except KeyError as error:
        try:
            raise ValueError(f"no field of {NAME}") from error
        except ValueError as second:
            return second
    raise AssertionError


def test_the_log_names_kind_and_place_of_a_fault_under_its_number_and_no_patient(
    caplog: pytest.LogCaptureFixture,
) -> None:
    number = faults.note(a_fault(), path="/review")
    assert caplog.messages[0].startswith(f"error {number} on /review: ValueError from KeyError\n")
    assert __file__ in caplog.text
    assert "in a_fault" in caplog.text
    assert NAME not in caplog.text


def test_streamlit_logs_the_words_of_no_fault(capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("streamlit.error_util")
    before = list(logger.filters)
    faults.keep_streamlit_quiet()
    try:
        handle_user_script_exception(a_fault(), lambda _error: True)
    finally:
        logger.filters = before
    assert NAME not in "".join(capsys.readouterr())
