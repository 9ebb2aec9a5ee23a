"""Numbers in addresses, of records and of tiles, as all pages and routes read them."""

from __future__ import annotations

from typing import Final

from starlette.convertors import Convertor, register_url_convertor

LARGEST: Final = 2**31 - 1
"""The largest whole number that the database has for a record, which none reaches."""


def asked_number(asked: str | None) -> int:
    """The number that an address names: 0, which no record has, where it names none.

    One that is too large for any record is read as `LARGEST`, which no record has either.
    """
    if not asked or not (asked.isascii() and asked.isdigit()):
        return 0
    return LARGEST if len(asked) > len(str(LARGEST)) else min(int(asked), LARGEST)


class _Number(Convertor[int]):
    """`{slide_id:number}` in the address of a route."""

    regex = "[0-9]+"

    def convert(self, value: str) -> int:
        return asked_number(value)

    def to_string(self, value: int) -> str:
        return str(value)


register_url_convertor("number", _Number())
