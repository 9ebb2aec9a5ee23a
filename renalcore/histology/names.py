"""What data sets call a glomerulus, and how a name of theirs becomes one of ours.

A name is compared as those of the sediment are, by its words. Structures that are no glomeruli (tubules, vessels,
cortex and medulla of HuBMAP's anatomy) are left out of the outlines, and what they cover counts as what it is: no
glomerulus.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from renalcore.errors import InputError
from renalcore.io.table import read_table
from renalcore.sediment.names import words

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

_HEADERS: Final = ("name", "name in data", "data", "label", "from", "source")


def _form(name: str) -> str:
    return "".join(words("glomerulus" if name.casefold() == "glomeruli" else name)).replace("glomeruli", "glomerulus")


_LABEL_OF_FORM: Final = MappingProxyType({_form(name): label for label, names in _SYNONYMS.items() for name in names})


def label_called(name: str) -> str | None:
    """Which of `LABELS` a name of other data means, None if nobody knows it."""
    return _LABEL_OF_FORM.get(_form(name))


def read_mapping(path: Path) -> dict[str, str]:
    """A user's own mapping: a CSV file of two columns, the name in the data and one of `LABELS`.

    A header line (`name,label`) may be there or not; lines that begin with `#` are left out.

    Returns:
        One of `LABELS` by the name in the data.

    Raises:
        InputError: It is no CSV, a label is unknown, or a name is mapped twice to different labels.
        OSError: It cannot be opened.
    """
    mapping: dict[str, str] = {}
    table = read_table(path.read_bytes(), name=str(path), comments=True)
    for number, (name, target, *_) in ((1, table.header), *table.rows):
        label = label_called(target)
        if label is None:
            if number == 1 and name.lower() in _HEADERS:
                continue
            raise InputError(f"{path}, line {number}: {target!r} is none of {', '.join(LABELS)}; correct it")
        same = next((known for known in mapping if known.casefold() == name.casefold()), name)
        if mapping.setdefault(same, label) != label:
            raise InputError(
                f"{path}, line {number}: {name!r} was mapped to another label before; keep one of the lines"
            )
    return mapping
