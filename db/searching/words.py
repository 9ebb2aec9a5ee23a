"""The words of a worker: one line an event in its log, and what a technologist reads of a picture.

The log names analyses and pictures by number: names may be those of patients.
"""

from __future__ import annotations

import logging
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from renalcore.errors import DamagedFile, InputError, NotFound, RenalError

log = logging.getLogger("renalcore.worker")

Kind = Literal["field", "slide", "scan"]


@dataclass(slots=True)
class Picture:
    """What a step is about.

    Attributes:
        kind: Its kind.
        number: Its id, which names it in the log.
        name: What people call it, as soon as it is read from the record; never in the log.
    """

    kind: Kind
    number: int
    name: str = ""


def event(what: str, **facts: object) -> None:
    """Write what happened into the log, with facts that name nobody."""
    log.info("%s%s", what, "".join(f" {name}={value}" for name, value in facts.items()))


def fault(error: BaseException, *, hide: Picture | None = None) -> str:
    """An error on one line: its kind, its words and its place, without the name of the picture it is about."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    # Our own messages are made for the technologist and name files; the kind and the place say enough here.
    words = "" if isinstance(error, RenalError) else " ".join(str(error).split())[:300]
    if hide is not None and hide.name:
        words = words.replace(hide.name, f"({hide.kind})")
    return f"{type(error).__name__}({words}){place}"


def since(started: float) -> float:
    """Seconds since a moment of `time.monotonic`."""
    return round(time.monotonic() - started, 3)


def unreadable(error: InputError | NotFound | DamagedFile, picture: Picture) -> str:
    """What a technologist reads of a picture that cannot be searched."""
    if isinstance(error, InputError):
        return str(error)
    what = "picture" if picture.kind == "field" else "file"
    happened = "is missing from" if isinstance(error, NotFound) else "was damaged or altered in"
    return (
        f"{picture.name}: its {what} {happened} the file store. Ask IT to restore it, or withdraw the {picture.kind}."
    )
