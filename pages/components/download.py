"""Buttons that export reported values: the file is made when one is pressed, and the audit trail tells of it."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st
from sqlalchemy.orm import Session

from db import accounts, audit, ct_exports, reports, slide_exports
from db.engine import beforehand, session_scope
from db.models import CtScan, User
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
        with beforehand(session) as reading:
            rows = reports.rows_for_export(reading, **which)  # type: ignore[arg-type]
        content = to_csv(rows)
        audit.record(
            session,
            actor=user,
            action="export.csv",
            entity=entity,
            entity_id=entity_id,
            new={"file_name": file_name, "rows": len(rows)},
        )
        return content

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


def ct_button(
    label: str,
    table: ct_exports.Table,
    *,
    key: str,
    file_name: str,
    entity: str,
    entity_id: int | str,
    disabled: bool = False,
    **which: object,
) -> None:
    """Offer what CT studies report as a CSV file, a row for each kidney or each lesion; the others as `csv_button`."""

    def make(session: Session, user: User) -> bytes:
        told = {"file_name": file_name, "entity": entity, "entity_id": entity_id}
        return ct_exports.to_csv(session, table, by=user, **told, **which)  # type: ignore[arg-type]

    _button(label, make, key=key, file_name=file_name, mime="text/csv", disabled=disabled)


def scan_buttons(scan: CtScan, stem: str) -> None:
    """Offer the labels of a scan as NIfTI, as DICOM SEG or why there is none, and its surfaces as STL.

    Args:
        scan: The scan.
        stem: What the files are called, without their endings.
    """
    offered = [("Labels as NIfTI", ct_exports.to_nifti, ".nii.gz", "application/gzip")]
    if scan.format == "DICOM":
        offered.append(("DICOM SEG, for 3D Slicer and OHIF", ct_exports.to_dicom_seg, "-seg.dcm", "application/dicom"))
    offered.append(("Surfaces as STL", ct_exports.to_stl, "-stl.zip", "application/zip"))
    for label, export, ending, mime in offered:
        file_name = f"{stem}{ending}"

        def make(session: Session, user: User, export=export, file_name=file_name) -> bytes:
            return export(session, scan.id, by=user, file_name=file_name)

        _button(label, make, key=f"export{ending}-{scan.id}", file_name=file_name, mime=mime)
    if scan.format != "DICOM":
        st.caption(ct_exports.NO_DICOM_SEG, width=300)


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
        with session_scope() as session:  # one of its own: what takes long to make shall keep nobody waiting
            return make(session, user)

    st.download_button(label, content, file_name=file_name, mime=mime, key=key, on_click="ignore", disabled=disabled)
