from __future__ import annotations

from datetime import UTC, date, datetime
from zoneinfo import ZoneInfo

from pages.components.date_range import DateRange


def test_a_range_holds_its_last_day_whole_by_the_clocks_of_the_browser() -> None:
    spring = date(2026, 3, 29)  # Berlin goes from UTC+1 to UTC+2 in this night
    day = DateRange(spring, spring, ZoneInfo("Europe/Berlin"))
    assert day.since == datetime(2026, 3, 28, 23, tzinfo=UTC)
    assert day.until == datetime(2026, 3, 29, 22, tzinfo=UTC)
