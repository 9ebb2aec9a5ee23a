"""What the slide viewer and its gallery hand to a page."""

from __future__ import annotations

from typing import Any

from pages.components.slide_viewer.events import Inbox


def message(*numbers: int, nonce: str = "a", action: str = "remove") -> dict[str, Any]:
    return {"nonce": nonce, "events": [{"n": number, "action": action, "keys": [f"f{number}"]} for number in numbers]}


def handed(inbox: Inbox) -> list[tuple[int, str]]:
    events = []
    while (event := inbox.next()) is not None:
        events.append((event["id"], *event["keys"]))
    return events


def test_each_event_is_handed_over_once_in_order_however_often_it_is_sent() -> None:
    inbox = Inbox()
    inbox.receive(message(1))
    inbox.receive(message(1, 2))  # sent again, since nothing was answered yet
    first = inbox.next()
    assert first == {"id": 1, "action": "remove", "keys": ["f1"], "outline": []}
    assert inbox.acknowledged == {"a": 1}
    inbox.receive(message(1, 2, 3))
    assert handed(inbox) == [(2, "f2"), (3, "f3")]
    inbox.receive(message(3))
    assert handed(inbox) == []


def test_a_reloaded_browser_begins_its_numbers_anew() -> None:
    inbox = Inbox()
    inbox.receive(message(1, 2))
    inbox.receive(message(1, nonce="b"))
    assert handed(inbox) == [(1, "f1"), (2, "f2"), (3, "f1")]
    assert inbox.acknowledged == {"a": 2, "b": 1}


def test_what_nobody_can_do_here_is_left_out_and_an_empty_message_is_none() -> None:
    inbox = Inbox()
    inbox.receive(message(1, action="sign"))
    inbox.receive(message(2))
    inbox.receive(None)
    assert handed(inbox) == [(1, "f2")]
