"""Every page of the app once: file, address, title, section of the menu, and the roles that may open it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlencode

import streamlit as st

PAGES_FOLDER = Path(__file__).resolve().parents[1]

EVERYONE = ("technologist", "reviewer", "admin")


@dataclass(frozen=True, slots=True)
class Entry:
    """One page.

    Attributes:
        url_path: Its address below the root, and its key here.
        file: Its script, below `pages/`.
        title: Its name in the menu and on the browser's tab.
        section: The heading of the menu it stands under.
        roles: Who may open it.
        in_menu: Pages that need a record in their address are reached from lists and stay out of the menu.
        menu_closed: The page opens with the menu closed, since the room belongs to its picture.
    """

    url_path: str
    file: str
    title: str
    section: str
    roles: tuple[str, ...] = EVERYONE
    in_menu: bool = True
    menu_closed: bool = False


ENTRIES: tuple[Entry, ...] = (
    Entry("worklist", "sediment/worklist.py", "Worklist", "Sediment"),
    Entry("new", "sediment/new.py", "New specimen", "Sediment"),
    Entry("review", "sediment/review.py", "Review", "Sediment", in_menu=False, menu_closed=True),
    Entry("slides", "histology/slides.py", "Slides", "Histology"),
    Entry("new-slides", "histology/new.py", "New slides", "Histology"),
    Entry("slide", "histology/slide.py", "Slide", "Histology", in_menu=False, menu_closed=True),
    Entry("ct", "ct/studies.py", "CT studies", "CT"),
    Entry("new-ct", "ct/new.py", "New CT study", "CT"),
    Entry("scan", "ct/scan.py", "CT scan", "CT", in_menu=False, menu_closed=True),
    Entry("patient", "patients/patients.py", "Patients", "Results"),
    Entry("export", "export/export.py", "Export", "Results"),
    Entry("validation", "export/validation.py", "Clinical validation", "Results", ("reviewer", "admin")),
    Entry("admin-users", "admin/users.py", "Users", "Administration", ("admin",)),
    Entry("admin-cutoffs", "admin/cutoffs.py", "Cut-off tables", "Administration", ("admin",)),
    Entry("admin-models", "admin/models.py", "Models", "Administration", ("admin",)),
    Entry("admin-audit", "admin/audit.py", "Audit trail", "Administration", ("admin",)),
    Entry("admin-system", "admin/system.py", "System", "Administration", ("admin",)),
)

MENU_CLOSED = frozenset(entry.url_path for entry in ENTRIES if entry.menu_closed)

HOME = "worklist"

_BY_PATH = {entry.url_path: entry for entry in ENTRIES}


def page(url_path: str) -> Any:
    """The `st.Page` at `url_path`, for `st.navigation`, `st.page_link` and `st.switch_page`."""
    entry = _BY_PATH[url_path]
    return st.Page(
        PAGES_FOLDER / entry.file,
        title=entry.title,
        url_path=entry.url_path,
        visibility="visible" if entry.in_menu else "hidden",
    )


def open_page(url_path: str, **query: object) -> NoReturn:
    """Go to a page, with a record in its address: `links.open_page("review", specimen=12)`."""
    st.switch_page(page(url_path), query_params={key: str(value) for key, value in query.items()})


def address(url_path: str, **query: object) -> str:
    """The address of a page for an HTML link: `/review?specimen=12`."""
    return f"/{_BY_PATH[url_path].url_path}" + (f"?{urlencode(query)}" if query else "")
