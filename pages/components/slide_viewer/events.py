"""What a person does in the viewer or the gallery, handed to the page once each, in order.

The browser numbers what happens and repeats what it has no answer for: two quick keystrokes cannot lose one, and a
message that arrives twice does nothing twice.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, TypedDict

import streamlit as st

ACTIONS = frozenset(
    {"add", "redraw", "remove", "restore", "confirm", "mark_sclerosed", "unmark_sclerosed", "select", "undo"}
)

_log = logging.getLogger(__name__)


class Event(TypedDict):
    """One thing that a person did.

    Attributes:
        action: One of `ACTIONS`.
        keys: The glomeruli it is done to; for `select` all that are selected now.
        outline: `x1, y1, x2, y2, ...` in px of the finest level, for `add` and `redraw`; else empty.
    """

    action: str
    keys: list[str]
    outline: list[float]


def acknowledged(key: str) -> dict[str, int]:
    """Number of the last event handed over, by the browser's component that sent it, of those with this key."""
    known: dict[str, int] = st.session_state.setdefault(f"{key}-acknowledged", {})
    return known


def receiver(key: str, on_event: Callable[[Event], None]) -> Callable[[], None]:
    """Callback of the component with this key: what is new in its message goes to `on_event`."""
    return lambda: hand_over(st.session_state[key].get("events"), acknowledged(key), on_event)


def hand_over(message: Mapping[str, Any] | None, known: dict[str, int], on_event: Callable[[Event], None]) -> None:
    """Hand each event of a message over that was not before, and note it in `known`, whatever becomes of it."""
    for told in unheard(message, known, actions=ACTIONS):
        keys, outline = [str(key) for key in told["keys"]], [float(edge) for edge in told.get("outline", ())]
        on_event(Event(action=told["action"], keys=keys, outline=outline))


def unheard(
    message: Mapping[str, Any] | None, known: dict[str, int], *, actions: Collection[str]
) -> Iterator[Mapping[str, Any]]:
    """What is new in a message, each noted in `known` before it is given; an action that is none of these is not."""
    if not message:
        return
    nonce = str(message["nonce"])
    for told in message["events"]:
        number = int(told["n"])
        if number <= known.get(nonce, 0):
            continue
        known[nonce] = number
        if told["action"] in actions:
            yield told
        else:
            _log.warning("an unknown action %r came from a browser and was left out", str(told["action"])[:40])
