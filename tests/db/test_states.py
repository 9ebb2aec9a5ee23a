from __future__ import annotations

import pytest

from db.models import SPECIMEN_STATES, Analysis, Specimen
from db.states import ANALYSIS_MOVES, SPECIMEN_MOVES, in_words, move_analysis, move_specimen
from renalcore.errors import Conflict


def test_every_state_has_words_and_a_way_out() -> None:
    assert set(SPECIMEN_MOVES) == set(SPECIMEN_STATES)
    for moves in (SPECIMEN_MOVES, ANALYSIS_MOVES):
        for state, after in moves.items():
            assert in_words(state)
            assert after <= set(moves)
            assert after, f"a record would stay {state} for ever"


def test_a_signed_specimen_can_only_be_reopened() -> None:
    assert SPECIMEN_MOVES["signed"] == {"needs_review"}
    with pytest.raises(Conflict, match=r"Specimen A-1 is signed and cannot become waiting\. Reload"):
        move_specimen(Specimen(accession="A-1", state="signed"), "waiting")


def test_a_move_tells_the_state_before_and_staying_is_none() -> None:
    specimen = Specimen(accession="A-1", state="waiting")
    assert (move_specimen(specimen, "running"), specimen.state) == ("waiting", "running")
    assert (move_specimen(specimen, "running"), specimen.state) == ("running", "running")


def test_a_complete_analysis_cannot_fail() -> None:
    with pytest.raises(Conflict, match="Analysis 7 is complete and cannot become failed"):
        move_analysis(Analysis(id=7, state="done"), "failed")
