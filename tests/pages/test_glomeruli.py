"""What is said beside a slide: limits, shares and corrections in words."""

from __future__ import annotations

import pytest

from db.models import AuditEvent
from pages.components.glomeruli import (
    _limits_of_all,
    _signed_share,
    change_in_words,
    few_html,
    limits_in_words,
    share_in_words,
)
from renalcore.histology.measure import Limits, sclerosed_share


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        (Limits(), "all that the model outlined"),
        (Limits(min_diameter=60), "at least 60 µm across"),
        (Limits(max_diameter=300), "at most 300 µm across"),
        (
            Limits(edge="leave_out", min_score=0.3, min_diameter=60, max_diameter=300),
            "score at least 0.30, 60 to 300 µm across, none cut by the slide's edge",
        ),
    ],
)
def test_limits_are_told_in_words(limits: Limits, words: str) -> None:
    assert limits_in_words(limits, "um") == words


def test_a_share_of_few_glomeruli_says_so_beside_its_percentage() -> None:
    few, enough, none = sclerosed_share(3, 24), sclerosed_share(3, 25), sclerosed_share(0, 0)
    assert [share_in_words(share) for share in (few, enough, none)] == [
        "3 of 24 = 12.5 %", "3 of 25 = 12.0 %", "none found",
    ]  # fmt: skip
    assert "Fewer than 25 glomeruli" in few_html(few)
    assert [few_html(share) for share in (enough, none)] == ["", ""]


def test_corrections_are_told_by_the_numbers_of_the_glomeruli() -> None:
    def told(action: str, *keys: str) -> str | None:
        event = AuditEvent(action=action, new={"glomeruli": dict.fromkeys(keys)}, reason="of another patient")
        return change_in_words(event, {"f7": 1, "f9": 2, "c3": 3}, "um")

    assert told("glomerulus.remove", "f7") == "Glomerulus 1 removed"
    assert told("glomerulus.mark_sclerosed", "f9", "f7") == "Glomeruli 1, 2 marked as globally sclerosed"
    assert told("glomerulus.undo", "c8") == "Glomerulus undone", "its drawing was taken back: it has no number"
    assert told("analysis.running") is None


def test_limits_in_the_history_have_the_unit_of_the_slide() -> None:
    limits = {"edge": "keep", "min_score": 0.0, "min_diameter": 60.0, "max_diameter": None}
    event = AuditEvent(action="analysis.set_limits", new={"limits": limits})
    assert change_in_words(event, {}, "um") == "Counted of the model: at least 60 µm across"
    assert change_in_words(event, {}, "px") == "Counted of the model: at least 60 px across"


def test_one_slide_added_is_one_slide() -> None:
    added = [
        change_in_words(AuditEvent(action="specimen.add_slides", new={"added": n * [{}]}), {}, "um") for n in (1, 2)
    ]
    assert added == ["1 slide added", "2 slides added"]


def test_what_is_signed_of_a_slide_without_glomeruli_is_no_share() -> None:
    assert _signed_share(sclerosed_share(0, 0)) == "**no** glomeruli."
    assert _signed_share(sclerosed_share(1, 1)).startswith("**1** glomerulus, globally sclerosed 1 of 1")


def test_limits_that_are_signed_tell_the_unit_of_every_slide() -> None:
    assert _limits_of_all(Limits(min_diameter=60), {"um"}) == "at least 60 µm across"
    assert _limits_of_all(Limits(min_score=0.5), {"um", "px"}) == "score at least 0.50"
    both = "at least 60 µm across; where the scale is unknown, at least 60 px across"
    assert _limits_of_all(Limits(min_diameter=60), {"px", "um"}) == both


def test_a_date_taken_back_is_told_with_the_one_before() -> None:
    event = AuditEvent(
        action="specimen.change_date", old={"collected_at": "2004-02-29T07:15:00+00:00"},
        new={"accession": "K-1", "collected_at": None}, reason="of another block",
    )  # fmt: skip
    told = "Date of collection changed from 29 Feb 2004 07:15 to unknown: of another block"
    assert change_in_words(event, {}, "um") == told
