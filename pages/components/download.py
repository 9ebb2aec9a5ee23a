"""The button that exports reported values as CSV: made when it is pressed, and written into the audit trail."""

from __future__ import annotations

import streamlit as st

from db import accounts, audit, reports
from db.engine import session_scope
from pages.components import auth
from renalcore.errors import Conflict
from renalcore.export.csv import to_csv


def csv_button(
    label: str, *, key: str, file_name: str, entity: str, entity_id: int | str, disabled: bool = False, **which: object
) -> None:
    """Offer a CSV file.

    Args:
        label: Words on the button.
        key: The widget's key; it carries the record's id.
        file_name: Name of the file.
        entity: What is exported, for the audit trail: `specimen`, `patient` or `specimens`.
        entity_id: Which one.
        disabled: Whether there is nothing to export.
        **which: What `reports.rows_for_export` is asked for.
    """
    token = st.context.cookies.get(auth.COOKIE)

    def make() -> bytes:
        # Streamlit calls this on a click, maybe long after the page was shown: the session may have ended since.
        with session_scope() as session:
            user = accounts.user_for_token(session, token) if token else None
            if user is None:
                raise Conflict("Your session has ended. Sign in again to export.")
            rows = reports.rows_for_export(session, **which)  # type: ignore[arg-type]
            audit.record(
                session,
                actor=user,
                action="export.csv",
                entity=entity,
                entity_id=entity_id,
                new={"file_name": file_name, "rows": len(rows)},
            )
        return to_csv(rows)

    st.download_button(label, make, file_name=file_name, mime="text/csv", key=key, on_click="ignore", disabled=disabled)
