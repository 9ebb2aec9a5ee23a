"""What the slide viewer and its gallery hand to a page."""

from __future__ import annotations

from typing import Any

import pytest

from pages.components.slide_viewer.events import Event, hand_over


def message(*numbers: int, nonce: str = "a", action: str = "remove") -> dict[str, Any]:
    return {"nonce": nonce, "events": [{"n": number, "action": action, "keys": [f"f{number}"]} for number in numbers]}


def test_each_event_is_handed_over_once_in_order_however_often_it_is_sent() -> None:
    known: dict[str, int] = {}
    events: list[Event] = []
    for sent in (message(1), message(1, 2, 3), message(3), None):  # sent again until it is answered
        hand_over(sent, known, events.append)
    assert events[0] == {"action": "remove", "keys": ["f1"], "outline": []}
    assert [event["keys"] for event in events] == [["f1"], ["f2"], ["f3"]]
    assert known == {"a": 3}


def test_a_reloaded_browser_begins_its_numbers_anew() -> None:
    known: dict[str, int] = {}
    events: list[Event] = []
    hand_over(message(1, 2), known, events.append)
    hand_over(message(1, nonce="b"), known, events.append)
    assert [event["keys"] for event in events] == [["f1"], ["f2"], ["f1"]]
    assert known == {"a": 2, "b": 1}


def test_what_nobody_can_do_here_is_left_out() -> None:
    events: list[Event] = []
    hand_over(message(1, action="sign"), {}, events.append)
    assert events == []


def test_an_event_that_fails_is_not_tried_again() -> None:
    known: dict[str, int] = {}

    def fail(_: Event) -> None:
        raise RuntimeError("no such page")

    with pytest.raises(RuntimeError):
        hand_over(message(1), known, fail)
    assert known == {"a": 1}
