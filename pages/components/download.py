"""Buttons that export reported values: the file is made when one is pressed, and the audit trail tells of it."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st
from sqlalchemy.orm import Session

from db import accounts, audit, reports, slide_exports
from db.engine import session_scope
from db.models import User
from pages.components import auth
from renalcore.errors import Conflict
from renalcore.export.csv import to_csv


def csv_button(
    label: str, *, key: str, file_name: str, entity: str, entity_id: int | str, disabled: bool = False, **which: object
) -> None:
    """Offer the values of sediment as a CSV file.

    Args:
        label: Words on the button.
        key: The widget's key; it carries the record's id.
        file_name: Name of the file.
        entity: What is exported, for the audit trail: `specimen`, `patient` or `specimens`.
        entity_id: Which one.
        disabled: Whether there is nothing to export.
        **which: What `reports.rows_for_export` is asked for.
    """

    def make(session: Session, user: User) -> bytes:
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

    _button(label, make, key=key, file_name=file_name, mime="text/csv", disabled=disabled)


def glomeruli_button(
    label: str,
    table: slide_exports.Table,
    *,
    key: str,
    file_name: str,
    entity: str,
    entity_id: int | str,
    disabled: bool = False,
    **which: object,
) -> None:
    """Offer what slides report as a CSV file, a row for each slide or each glomerulus; the others as `csv_button`."""

    def make(session: Session, user: User) -> bytes:
        told = {"file_name": file_name, "entity": entity, "entity_id": entity_id}
        return slide_exports.to_csv(session, table, by=user, **told, **which)  # type: ignore[arg-type]

    _button(label, make, key=key, file_name=file_name, mime="text/csv", disabled=disabled)


def geojson_button(label: str, slide_id: int, *, key: str, file_name: str) -> None:
    """Offer the outlines of a slide's glomeruli as GeoJSON."""

    def make(session: Session, user: User) -> bytes:
        return slide_exports.to_geojson(session, slide_id, by=user, file_name=file_name)

    _button(label, make, key=key, file_name=file_name, mime="application/geo+json")


def _button(
    label: str,
    make: Callable[[Session, User], bytes],
    *,
    key: str,
    file_name: str,
    mime: str,
    disabled: bool = False,
) -> None:
    token = st.context.cookies.get(auth.COOKIE)

    def content() -> bytes:
        # Streamlit calls this on a click, maybe long after the page was shown: the session may have ended since.
        with session_scope() as session:
            user = accounts.user_for_token(session, token) if token else None
            if user is None:
                raise Conflict("Your session has ended. Sign in again to export.")
            return make(session, user)

    st.download_button(label, content, file_name=file_name, mime=mime, key=key, on_click="ignore", disabled=disabled)
