"""A fault nobody foresaw: one calm box on the page, and under the same number the place of the fault in the log.

Neither holds what the error says of itself, since that may quote a patient's name.
"""

from __future__ import annotations

import logging
import secrets
import traceback
from urllib.parse import urlsplit

import streamlit as st

from pages.components import style
from renalcore.errors import RenalError

_log = logging.getLogger(__name__)


def tell(error: Exception) -> bool:
    """Show the box where the page stopped, and log the fault.

    Returns:
        True: Streamlit has nothing to add of its own.
    """
    number = note(error, path=urlsplit(st.context.url or "").path)
    # Errors raised on purpose are written for the person at the bench.
    what = str(error) if isinstance(error, RenalError) else "A fault in the program stopped this part of the page."
    st.error(
        f"{style.plain(what)} Nothing that was stored is lost. Load the page again. If this comes back, tell your "
        f"administrator **error {number}**: the log of the web server has the reason under this number."
    )
    return True


def note(error: Exception, *, path: str) -> str:
    """Log where a fault arose and of which kind it is, without its words; returns the number it stands under."""
    number = secrets.token_hex(3).upper()
    kinds, places, cause = [], [], error
    while cause is not None and len(kinds) < 5:
        kinds.append(type(cause).__name__)
        places += traceback.format_tb(cause.__traceback__)
        cause = cause.__cause__ or cause.__context__
    _log.error("error %s on %s: %s\n%s", number, path or "/", " from ".join(kinds), "".join(places).rstrip())
    return number


def keep_streamlit_quiet() -> None:
    """Streamlit logs the same faults with their words; `note` does it without."""
    logging.getLogger("streamlit.error_util").addFilter(lambda record: record.exc_info is None)
