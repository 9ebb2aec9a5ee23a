"""Which state may follow which: the one place where a specimen or an analysis changes state.

    specimen   waiting -> running -> needs_review -> signed
    analysis   queued  -> running -> done

Either can fail and be tried again, or be cancelled; a signed specimen that a reviewer reopens needs review again.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TypeVar

from db.models import Analysis, AnalysisState, Specimen, SpecimenState
from renalcore.errors import Conflict

_State = TypeVar("_State", SpecimenState, AnalysisState)

SPECIMEN_MOVES: Mapping[SpecimenState, frozenset[SpecimenState]] = MappingProxyType(
    {
        "waiting": frozenset({"running", "failed", "cancelled", "needs_review"}),
        "running": frozenset({"needs_review", "failed", "cancelled", "waiting"}),
        "needs_review": frozenset({"signed", "waiting"}),
        "signed": frozenset({"needs_review"}),
        "failed": frozenset({"waiting", "cancelled", "needs_review"}),
        "cancelled": frozenset({"waiting"}),
    }
)
"""The states that may follow each state of a specimen.

Waiting, running and failed lead back to needs review where a second analysis is cancelled and the first, which was
complete, counts again.
"""

ANALYSIS_MOVES: Mapping[AnalysisState, frozenset[AnalysisState]] = MappingProxyType(
    {
        "queued": frozenset({"running", "failed", "cancelled"}),
        "running": frozenset({"done", "failed", "cancelled"}),
        "done": frozenset({"queued"}),  # fields were added to its specimen
        "failed": frozenset({"queued", "cancelled"}),
        "cancelled": frozenset({"queued"}),
    }
)
"""The states that may follow each state of an analysis."""

_WORDS: Mapping[str, str] = MappingProxyType(
    {
        "waiting": "waiting",
        "running": "being analysed",
        "needs_review": "awaiting review",
        "signed": "signed",
        "failed": "failed",
        "cancelled": "cancelled",
        "queued": "waiting",
        "done": "complete",
    }
)


def in_words(state: SpecimenState | AnalysisState) -> str:
    """A state as it stands in a sentence: "the specimen is being analysed"."""
    return _WORDS[state]


def named(specimen: Specimen, *, begins: bool = False) -> str:
    """A specimen as users call it: "specimen S-1", of CT "study CT-1"; with a capital where a sentence `begins`."""
    word = "study" if specimen.modality == "ct" else "specimen"
    return f"{word.capitalize() if begins else word} {specimen.accession}"


def refuse_if_signed(specimen: Specimen) -> None:
    """Raises `Conflict` where the specimen is signed."""
    if specimen.state == "signed":
        raise Conflict(f"{named(specimen, begins=True)} is signed. A reviewer must reopen it with a reason first.")


def refuse_while_running(specimen: Specimen, what: str) -> None:
    """Raises `Conflict` where the specimen is being analysed, so that nobody can do `what`: "add slides"."""
    if specimen.state == "running":
        raise Conflict(f"{named(specimen, begins=True)} is being analysed. Wait for it, or cancel it, then {what}.")


def move_specimen(specimen: Specimen, state: SpecimenState) -> SpecimenState:
    """Change the state of a specimen; staying in a state is no change.

    Returns:
        The state it was in before.

    Raises:
        Conflict: The new state may not follow the present one.
    """
    before = specimen.state
    _refuse_unless_next(named(specimen, begins=True), before, state, SPECIMEN_MOVES)
    specimen.state = state
    return before


def move_analysis(analysis: Analysis, state: AnalysisState) -> AnalysisState:
    """Change the state of an analysis; staying in a state is no change.

    Returns:
        The state it was in before.

    Raises:
        Conflict: The new state may not follow the present one.
    """
    before = analysis.state
    _refuse_unless_next(f"Analysis {analysis.id}", before, state, ANALYSIS_MOVES)
    analysis.state = state
    return before


def _refuse_unless_next(what: str, before: _State, state: _State, moves: Mapping[_State, frozenset[_State]]) -> None:
    if state != before and state not in moves[before]:
        raise Conflict(
            f"{what} is {in_words(before)} and cannot become {in_words(state)}. "
            "Reload the page to see what happened to it."
        )
