"""What data sets call a glomerulus, and how a name of theirs becomes one of ours.

A name is compared as those of the sediment are, by its words. Structures that are no glomeruli (tubules, vessels,
cortex and medulla of HuBMAP's anatomy) are left out of the outlines, and what they cover counts as what it is: no
glomerulus.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from renalcore.datasets.words import mapped_names, words

GLOMERULUS: Final = "glomerulus"
SCLEROSED: Final = "globally sclerosed glomerulus"
IGNORE: Final = "ignore"
"""A region where nothing is known."""
OTHER: Final = "other"
"""A structure that is no glomerulus."""

LABELS: Final = (GLOMERULUS, SCLEROSED, IGNORE, OTHER)

_SYNONYMS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        GLOMERULUS: (
            "glomerulus", "glomeruli", "glom", "gloms", "glomerular", "normal glomerulus", "nonsclerotic glomerulus",
            "non sclerotic glomerulus", "non globally sclerotic glomerulus", "non GS glomerulus", "non GSG", "healthy",
            "viable glomerulus", "segmental sclerosis", "segmentally sclerotic glomerulus",
            "partially sclerotic glomerulus", "SGS", "glomerular capsule", "Bowman capsule", "capsule",
            "renal corpuscle", "corpuscle", "normal",
        ),
        SCLEROSED: (
            "globally sclerosed glomerulus", "globally sclerosed", "globally sclerotic glomerulus",
            "globally sclerotic", "global sclerosis", "sclerotic glomerulus", "sclerosed glomerulus", "sclerotic",
            "sclerosed", "sclerosis", "GSG", "GS", "obsolescent glomerulus", "obsolete glomerulus",
            "ghost glomerulus", "glomerulosclerosis",
        ),
        IGNORE: ("ignore", "ignored", "unknown", "uncertain", "unsure", "artefact", "artifact", "exclusion"),
        OTHER: (
            "other", "background", "tissue", "tubule", "proximal tubule", "distal tubule", "atrophic tubule", "vessel",
            "artery", "arteriole", "vein", "peritubular capillary", "interstitium", "cortex", "medulla",
            "inner cortex", "outer cortex", "inner medulla", "outer medulla", "outer stripe", "inner stripe", "ROI",
            "region", "annotation area", "capillary", "blood vessel",
        ),
    }
)  # fmt: skip


def _form(name: str) -> str:
    """What a name is compared by; a number behind it counts the structures."""
    name = re.sub(r"[\s_#-]*\d+$", "", name)
    return "".join(words(name)).replace("glomeruli", "glomerulu")  # as `words` has "glomerulus"


_LABEL_OF_FORM: Final = MappingProxyType({_form(name): label for label, names in _SYNONYMS.items() for name in names})


def label_called(name: str) -> str | None:
    """Which of `LABELS` a name of other data means, None if nobody knows it."""
    return _LABEL_OF_FORM.get(_form(name))


def read_mapping(path: Path) -> dict[str, str]:
    """A user's own mapping: a CSV file of two columns, the name in the data and one of `LABELS`.

    Returns:
        One of `LABELS` by the name in the data.

    Raises:
        InputError: It is no CSV, a label is unknown, or a name is mapped twice to different labels.
        OSError: It cannot be opened.
    """
    return mapped_names(
        path, label_called, unknown=lambda said: f"{said!r} is none of {', '.join(LABELS)}", what="label"
    )
