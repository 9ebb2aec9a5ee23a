"""Which tables of a database are ours."""

from __future__ import annotations

from typing import Any

from db.models import Base

_TABLES = frozenset(Base.metadata.tables)


def ours(name: str | None, kind: str, _parents: Any) -> bool:
    """Leaves out tables of others: the workflow engine keeps its own in the same SQLite file."""
    return kind != "table" or name in _TABLES
