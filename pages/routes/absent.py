"""What is answered at an address that is no page of the app.

Streamlit would serve its first page there, and its own note of it is lost when that page leads on to another.
"""

from __future__ import annotations

from starlette.convertors import StringConvertor, register_url_convertor
from starlette.requests import Request
from starlette.responses import Response

from pages.components import links, single_sign_on
from pages.routes import plain

_PAGES = "|".join((*(entry.url_path for entry in links.ENTRIES), single_sign_on.URL_PATH))
_OF_STREAMLIT = "oauth2callback|(_stcore|static|component|media|app|auth)/.*"


class _Absent(StringConvertor):
    """Any path but those that are served by others; a dot makes it the name of a file.

    From one that ends in a slash Streamlit leads on to the same without it.
    """

    regex = rf"(?!({_PAGES}|{_OF_STREAMLIT})$)[^.]*[^./]"


register_url_convertor("absent", _Absent())


def absent(request: Request) -> Response:
    """Any address that nothing else answers: a page that says so."""
    return plain.message(
        404,
        "There is no such page",
        f"RenalCore has no page at {request.url.path}. Check the address, or find what you seek from the worklist.",
        way_on=links.address(links.HOME),
        called="To the worklist",
    )
