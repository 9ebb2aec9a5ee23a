"""The look of every page: header, footer, quiet CSS, and how numbers, times and names are written."""

from __future__ import annotations

import re
from datetime import datetime
from html import escape
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from db.settings import Settings

APP_NAME = "RenalCore"
RESEARCH_USE_ONLY = "For research use only. Not for use in diagnostic procedures."

WARNING_COLOUR = "#B45309"
"""The one colour of quality flags and warnings, readable on both themes."""

NO_VALUE = "–"

_CSS = """
<style>
[data-testid="stMainBlockContainer"] { padding: 2.6rem 2rem 1.5rem; max-width: 100%; }
[data-testid="stHeader"] { background: transparent; }
h1 { font-size: 1.55rem !important; font-weight: 620 !important; padding: 0 !important; margin: 0 !important;
  line-height: 1.25 !important; letter-spacing: -0.01em; }
.stApp:not(:has([data-testid="stExpandSidebarButton"])) [data-testid="stSidebar"] {
  width: 236px !important; min-width: 236px !important; }
.stApp:has([data-testid="stExpandSidebarButton"]) [data-testid="stSidebar"] {
  visibility: hidden; } /* Tab goes past the links of a closed menu, which nobody sees */
[data-testid="stSidebarHeader"]::before { content: "RenalCore"; font-size: 1.25rem; font-weight: 650;
  letter-spacing: -0.01em; padding-left: 0.45rem; }
[data-testid="stHeading"] h2 { font-size: 1.2rem !important; font-weight: 600 !important;
  padding: 0.4rem 0 0.2rem !important; }
[data-testid="stHeading"] h3 { font-size: 1.03rem !important; font-weight: 600 !important;
  padding: 0.3rem 0 0.1rem !important; }
.rc-subtitle { color: color-mix(in srgb, currentColor 66%, transparent); margin: 0; font-size: 0.95rem; }
.rc-chip { display: inline-flex; align-items: center; gap: 0.4em; padding: 0.08em 0.6em; border-radius: 1em;
  font-size: 0.85rem; line-height: 1.55; white-space: nowrap; border: 1px solid var(--rc, #6B7280);
  background: color-mix(in srgb, var(--rc, #6B7280) 11%, transparent); }
.rc-chip::before { content: ""; width: 0.55em; height: 0.55em; border-radius: 50%; background: var(--rc, #6B7280);
  flex: none; }
.rc-chip.rc-quiet { border-color: color-mix(in srgb, currentColor 22%, transparent); background: transparent; }
.rc-chip.rc-quiet::before { display: none; }
.rc-narrow { width: min-content; min-width: 8em; margin-left: auto; } /* of what stands beside numbers in a table */
.rc-narrow .rc-chip { white-space: normal; border-radius: 0.7em; line-height: 1.3; text-align: left; }
.rc-chip.rc-flag { --rc: #B45309; }
.rc-chip.rc-flag::before { border-radius: 0; clip-path: polygon(50% 0, 100% 100%, 0 100%); }
.rc-num { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
[data-testid="stHtml"] a:not(.rc-action) { color: light-dark(#14606B, #6CC3CE); text-underline-offset: 0.15em; }
[data-testid="stButtonGroup"] [aria-checked="true"] { color: light-dark(#14606B, #6CC3CE) !important; }
[data-testid="stTextInput"] [data-testid="InputInstructions"] { display: none; } /* it lies over what was typed */
.st-key-refreshed [data-stale="true"], [class*="st-key-steady-"] [data-stale="true"] {
  opacity: 1 !important; transition: none !important; } /* no flicker */
.st-key-screen-listener { position: absolute; }
.rc-quiet-text { color: color-mix(in srgb, currentColor 66%, transparent); font-size: 0.9rem; }
.rc-footer { border-top: 1px solid color-mix(in srgb, currentColor 14%, transparent); margin-top: 1.5rem;
  padding-top: 0.6rem; font-size: 0.85rem; color: color-mix(in srgb, currentColor 66%, transparent); }
.rc-banner { border-left: 3px solid #B45309; padding: 0.45rem 0.8rem; font-size: 0.92rem;
  background: color-mix(in srgb, #B45309 9%, transparent); }
a.rc-action { display: inline-block; padding: 0.4rem 0.95rem; border-radius: 4px; background: #14606B;
  color: #FFFFFF !important; font-weight: 550; text-decoration: none !important; }
.rc-mono { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; font-size: 0.86em;
  overflow-wrap: anywhere; }
table.rc-table { border-collapse: collapse; width: 100%; font-size: 0.93rem; }
table.rc-table th { text-align: left; font-weight: 600; border-bottom: 1px solid color-mix(in srgb, currentColor 30%,
  transparent); padding: 0.3rem 0.7rem 0.3rem 0; }
table.rc-table td { border-bottom: 1px solid color-mix(in srgb, currentColor 12%, transparent);
  padding: 0.32rem 0.7rem 0.32rem 0; vertical-align: top; }
table.rc-table th.rc-num, table.rc-table td.rc-num { padding-right: 0.9rem; text-align: right; }
.rc-account { font-size: 0.9rem; line-height: 1.35; }
.rc-account form { margin: 0.5rem 0 0; }
.rc-account button { font: inherit; color: inherit; background: transparent; cursor: pointer; border-radius: 4px;
  border: 1px solid color-mix(in srgb, currentColor 28%, transparent); padding: 0.22rem 0.7rem; }
.rc-account button:hover { background: color-mix(in srgb, currentColor 7%, transparent); }
.rc-account button:focus-visible { outline: 2px solid currentColor; outline-offset: 2px; }
</style>
"""


def inject_css() -> None:
    """Put the stylesheet on the page; called once a run, by the navigation."""
    st.html(_CSS)


def page_header(title: str, subtitle: str | None = None) -> DeltaGenerator:
    """The page's title at the left; returns the place at the top right for its one primary action.

    Use it as `with style.page_header("Worklist"): st.button(...)`; a page without an action ignores the result.
    """
    with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
        words = st.container(width="stretch")
        action = st.container(
            horizontal=True, width="content", horizontal_alignment="right", vertical_alignment="center"
        )
    below = f'<p class="rc-subtitle">{escape(subtitle)}</p>' if subtitle else ""
    words.html(f"<h1>{escape(title)}</h1>{below}")
    return action


def research_footer() -> None:
    """The words every page ends with, and the way to the source."""
    source = escape(Settings.from_env().source_url)
    st.html(
        f'<div class="rc-footer">{RESEARCH_USE_ONLY} <span style="white-space:nowrap">'
        f'<a href="{source}" target="_self">Source code</a> (AGPL-3.0)</span></div>'
    )


def empty_state(what: str, next_step: str) -> None:
    """Says that there is nothing here and what to do next."""
    with st.container(border=True):
        st.markdown(f"**{plain(what)}**")
        st.markdown(next_step)


def number(value: float | None, decimals: int = 1) -> str:
    """A number as a report writes it: thousands apart by a thin space, a dash where there is none."""
    if value is None:
        return NO_VALUE
    return f"{value:,.{decimals}f}".replace(",", "\u202f")


def size(size_bytes: int) -> str:
    """A file size in words: `840 kB`, `12.4 MB`."""
    if size_bytes < 1_000_000:
        return f"{max(1, round(size_bytes / 1000))} kB" if size_bytes else "0 kB"
    if size_bytes < 1_000_000_000:
        return f"{size_bytes / 1e6:.1f} MB"
    return f"{size_bytes / 1e9:.1f} GB"


def browser_zone() -> ZoneInfo:
    """The time zone of the browser that is looking; UTC where it does not say."""
    try:
        return ZoneInfo(st.context.timezone or "UTC")
    except (ZoneInfoNotFoundError, ValueError):
        return ZoneInfo("UTC")


def when(moment: datetime | None, *, seconds: bool = False) -> str:
    """A moment in the browser's time zone, as `21 Nov 2026 05:04`; a dash where there is none."""
    if moment is None:
        return NO_VALUE
    return moment.astimezone(browser_zone()).strftime("%d %b %Y %H:%M:%S" if seconds else "%d %b %Y %H:%M")


# Within a word `_`, `.` and `-` mark nothing: a screen reader is told a label as it is written, with each backslash.
_MARKDOWN = re.compile(r"([\\`*{}\[\]()#+!~|<>$:&@]|(?<![^\W_])[_.\-]|[_.\-](?![^\W_])|(?<=www)\.)", re.IGNORECASE)


def plain(text: str) -> str:
    """`text` for a Streamlit label or markdown, every mark shown and none obeyed."""
    return _MARKDOWN.sub(r"\\\1", text)


def table(head: list[str], rows: list[list[str]], *, numeric: tuple[int, ...] = ()) -> None:
    """A plain table of short texts that keeps every line visible; `numeric` columns are right-aligned."""
    right = ' class="rc-num"'

    def cells(tag: str, values: list[str]) -> str:
        return "".join(
            f"<{tag}{right if index in numeric else ''}>{escape(value)}</{tag}>" for index, value in enumerate(values)
        )

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    st.html(f'<table class="rc-table"><thead><tr>{cells("th", head)}</tr></thead><tbody>{body}</tbody></table>')
