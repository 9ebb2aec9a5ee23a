from __future__ import annotations

import pytest

from pages.components.numbers import LARGEST, asked_number


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("12", 12),
        (None, 0),
        ("", 0),
        ("-3", 0),
        ("1e3", 0),
        ("²", 0),
        ("2147483648", LARGEST),
        ("9" * 5000, LARGEST),
    ],
    ids=lambda value: str(value)[:12],
)
def test_the_number_in_an_address_is_one_that_a_record_may_have_or_none_that_a_record_has(
    asked: str | None, expected: int
) -> None:
    assert asked_number(asked) == expected
