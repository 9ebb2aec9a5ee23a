"""What a person does in the viewer or the gallery, handed to the page once each, in order.

The browser numbers what happens and repeats what it has no answer for. Nothing is lost where a click interrupts a run
of the page, and a message that arrives twice does nothing twice.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypedDict

import streamlit as st

ACTIONS = frozenset(
    {"add", "redraw", "remove", "restore", "confirm", "mark_sclerosed", "unmark_sclerosed", "select", "undo"}
)

_log = logging.getLogger(__name__)


class Event(TypedDict):
    """One thing that a person did.

    Attributes:
        id: Counts within the session of one viewer or gallery.
        action: One of `ACTIONS`.
        keys: The glomeruli it is done to; for `select` all that are selected now.
        outline: `x1, y1, x2, y2, ...` in px of the finest level, for `add` and `redraw`; else empty.
    """

    id: int
    action: str
    keys: list[str]
    outline: list[float]


@dataclass(slots=True)
class Inbox:
    """What came from one component in this browser session.

    Attributes:
        acknowledged: Number of the last event handed to the page, by the browser's component that sent it.
        waiting: What came and was not handed over yet.
        handed: How many were.
    """

    acknowledged: dict[str, int] = field(default_factory=dict)
    waiting: deque[tuple[str, int, Event]] = field(default_factory=deque)
    handed: int = 0

    def receive(self, message: Mapping[str, Any] | None) -> None:
        """Keep what is new in a message of the browser."""
        if not message:
            return
        nonce = str(message["nonce"])
        last = max(
            (number for sender, number, _ in self.waiting if sender == nonce),
            default=self.acknowledged.get(nonce, 0),
        )
        for told in message["events"]:
            number = int(told["n"])
            if number <= last:
                continue
            if told["action"] not in ACTIONS:
                _log.warning("an unknown action %r came from a browser and was left out", str(told["action"])[:40])
                continue
            event = Event(
                id=0,
                action=told["action"],
                keys=[str(key) for key in told["keys"]],
                outline=[float(edge) for edge in told.get("outline", ())],
            )
            self.waiting.append((nonce, number, event))

    def next(self) -> Event | None:
        """The oldest event that waits; it is handed over by this."""
        if not self.waiting:
            return None
        nonce, number, event = self.waiting.popleft()
        self.acknowledged[nonce] = number
        self.handed += 1
        event["id"] = self.handed
        return event


def inbox_of(key: str) -> Inbox:
    """The inbox of the component with this key."""
    name = f"{key}-inbox"
    if name not in st.session_state:
        st.session_state[name] = Inbox()
    inbox: Inbox = st.session_state[name]
    return inbox


def receiver(key: str, on_event: Callable[[Event], None] | None) -> Callable[[], None]:
    """Callback of the component with this key: what came goes into its inbox, and on to `on_event` if there is one."""

    def receive() -> None:
        inbox = inbox_of(key)
        inbox.receive(st.session_state[key].get("events"))
        while on_event is not None and (event := inbox.next()) is not None:
            on_event(event)

    return receive
