"""The script Streamlit runs for every page: look, menu by role, account, then the page itself.

It lies here and not beside `pages/` because Streamlit would serve `pages/*.py` by their addresses, past this file.
"""

from __future__ import annotations

import streamlit as st
from streamlit.errors import FragmentHandledException
from streamlit.navigation.page import StreamlitPage

from pages.components import auth, faults, links, screen, single_sign_on, style


def main() -> None:
    """Show the page that the address names."""
    st.set_page_config(page_title=style.APP_NAME, layout="wide")
    style.inject_css()
    user = auth.current()
    if user is None:
        shown = st.navigation(
            [
                st.Page(auth.require, title="Sign in", default=True),
                *(st.Page(auth.require, title=entry.title, url_path=entry.url_path) for entry in links.ENTRIES),
                *single_sign_on.pages(),
            ],
            position="hidden",
        )
        shown.run()
        return
    sections: dict[str, list[object]] = {}
    for entry in links.ENTRIES:
        allowed = user.role in entry.roles
        sections.setdefault(entry.section if allowed else "", []).append(
            links.page(entry.url_path)
            if allowed
            else st.Page(_refusal(entry), title=entry.title, url_path=entry.url_path, visibility="hidden")
        )
    home = st.Page(lambda: links.open_page(links.HOME), title="Home", default=True, visibility="hidden")
    shown = st.navigation({**sections, "": [home, *sections.get("", [])]}, expanded=True)
    closed = shown.url_path in links.MENU_CLOSED or screen.is_narrow()
    st.set_page_config(initial_sidebar_state="collapsed" if closed else "auto")
    with st.sidebar:
        auth.account_form(user)
    body = st.container()
    style.research_footer()
    screen.listen()
    with body:
        _run(shown)


def _run(shown: StreamlitPage) -> None:
    """Show a page; a fault is told in its place, above the footer."""
    try:
        shown.run()
    except FragmentHandledException:
        raise  # told already, within the part of the page that it stopped
    except Exception as error:  # noqa: BLE001  # whatever it is must end in words
        faults.tell(error)


def _refusal(entry: links.Entry):
    def refuse() -> None:
        auth.require(*entry.roles)

    return refuse


main()
