"""The choice of a range of days, in the browser's time zone."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, tzinfo

import streamlit as st

from pages.components import style

_DAYS_AT_FIRST = 30


@dataclass(frozen=True, slots=True)
class DateRange:
    """Whole days, both ends among them."""

    first: date
    last: date
    zone: tzinfo

    @property
    def since(self) -> datetime:
        """The moment at which the first day begins."""
        return datetime.combine(self.first, time.min, tzinfo=self.zone)

    @property
    def until(self) -> datetime:
        """The moment at which the day after the last begins: it is no longer in the range."""
        return datetime.combine(self.last + timedelta(days=1), time.min, tzinfo=self.zone)


def choose(key: str) -> DateRange | None:
    """Show the two days, at first those of the last month; None, and why, where they make no range.

    Args:
        key: What the keys of the two widgets begin with.
    """
    zone = style.browser_zone()
    today = datetime.now(zone).date()
    with st.container(horizontal=True):
        month_ago = today - timedelta(days=_DAYS_AT_FIRST)
        first = st.date_input("Registered from", month_ago, key=f"{key}-first", format="YYYY-MM-DD", width=180)
        last = st.date_input("until", today, key=f"{key}-last", format="YYYY-MM-DD", width=180)
    if first > last:
        st.warning("The first day lies after the last.")
        return None
    return DateRange(first, last, zone)
