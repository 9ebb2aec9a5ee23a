"""The contrast phase, told from what the scanner's staff wrote: only words of a fixed list leave this module."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

_PHASES: Final = {
    "non-contrast": r"non[ -]?(contrast|enhanced)|no contrast|without contrast|unenhanced|plain|nativ\w*|nc|ncct|sans"
    r"|ohne km|w/?o|sine|basal|pre[ -]?contrast",
    "arterial": r"art|arter\w+|angio\w*|cta|corticomed\w*|cortico[ -]medull\w*|early|precoce",
    "portal venous": r"port\w*|pv|pvp|ven|venous|ven[oö]s\w*|veine\w*|hepatic(?! art)",
    "nephrographic": r"nephro\w*|n[ée]phro\w*|parenchym\w*",
    "excretory": r"excret\w*|delay\w*|late|tardi\w*|sp[aä]t\w*|urogra\w*|pyelo\w*|eliminat\w*",
}
_WITHIN_A_PHASE: Final = r"(?<![a-z])(late|sp[aä]t|early|fr[uü]h)[ _-]*(?=art|port|ven|nephro)"
"""Late arterial is arterial: by themselves these words are phases of their own."""


def phase(descriptions: Iterable[str], agents: Iterable[str]) -> str:
    """Words on the contrast phase.

    Args:
        descriptions: What names the series or its protocol.
        agents: The contrast agents; that one was given is told, never its name.

    Returns:
        The phases named, in the order of time and joined by commas; "contrast" where only an agent is; else empty.
    """
    text = re.sub(_WITHIN_A_PHASE, " ", " ".join(descriptions).lower())
    text = re.sub(r"[_.,;()+\d]+", " ", text)
    found = [name for name, words in _PHASES.items() if re.search(rf"(?<![a-z])({words})(?![a-z])", text)]
    if len(found) > 1 and "non-contrast" in found:
        found.remove("non-contrast")  # "w/o and with", "plain + portal": which one this series is remains open
    return ", ".join(found) or ("contrast" if any(agent.strip() for agent in agents) else "")
