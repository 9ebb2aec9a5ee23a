"""Names that data sets give to things: comparing them, and a user's own list of what they mean."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from renalcore.errors import InputError
from renalcore.io.table import read_table

_Meaning = TypeVar("_Meaning")

_HEADERS: Final = ("name", "name in data", "name in the data", "data", "label", "from", "source")


def words(name: str) -> tuple[str, ...]:
    """What names are compared by: lower case, singular, without accents and what stands between words."""
    plain = unicodedata.normalize("NFKD", name)
    plain = "".join(character for character in plain if not unicodedata.combining(character)).replace("'", "")
    plain = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", plain)  # WhiteBloodCell
    return tuple(_singular(word) for word in re.findall(r"[^\W_]+", plain.lower()))


def _singular(word: str) -> str:
    if word.endswith("ies") and len(word) > 4:
        return f"{word[:-3]}y"
    return word[:-1] if word.endswith("s") and len(word) > 3 else word


def mapped_names(
    path: Path, meaning: Callable[[str], _Meaning | None], *, unknown: Callable[[str], str], what: str
) -> dict[str, _Meaning]:
    """A user's own mapping: a CSV file of two columns, the name in the data and what it means.

    A header line (`name,class`) may be there or not; lines that begin with `#` are left out.

    Args:
        path: The file.
        meaning: What a word of the second column means, None where it means nothing.
        unknown: What to say of such a word.
        what: What a name is mapped to, for messages: `class`.

    Raises:
        InputError: It is no CSV, a word means nothing, or a name is mapped twice to different things.
        OSError: It cannot be opened.
    """
    mapping: dict[str, _Meaning] = {}
    table = read_table(path.read_bytes(), name=str(path), comments=True)
    for number, (name, target, *_) in ((1, table.header), *table.rows):
        meant = meaning(target)
        if meant is None:
            if number == 1 and name.lower() in _HEADERS:
                continue
            raise InputError(f"{path}, line {number}: {unknown(target)}")
        same = next((known for known in mapping if known.casefold() == name.casefold()), name)
        if mapping.setdefault(same, meant) != meant:
            raise InputError(
                f"{path}, line {number}: {name!r} was mapped to another {what} before; keep one of the lines"
            )
    return mapping
