"""Pages that are plain HTML and work without JavaScript: sign-in, and what is said where no page can be shown."""

from __future__ import annotations

from pathlib import Path

import jinja2
import streamlit
from starlette.responses import HTMLResponse

from db.settings import Settings
from pages.components.style import RESEARCH_USE_ONLY

_STATIC = Path(streamlit.__file__).parent / "static"
_FONT = next((_STATIC / "static/media").glob("SourceSansVF-Upright*.woff2"), None)
"""The font of the pages, which Streamlit brings along; the system's is used if a later release names it otherwise."""

_TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
)


def page(template: str, status: int = 200, **values: object) -> HTMLResponse:
    """A page made of one of `templates/`."""
    body = _TEMPLATES.get_template(template).render(
        research_use_only=RESEARCH_USE_ONLY,
        source_url=Settings.from_env().source_url,
        font=f"/{_FONT.relative_to(_STATIC)}" if _FONT else None,
        **values,
    )
    return HTMLResponse(body, status, headers={"cache-control": "no-store"})


def message(
    status: int, title: str, words: str, *, way_on: str = "/login", called: str = "To the sign-in page"
) -> HTMLResponse:
    """A page that says one thing and leads on from there."""
    return page("message.html", status, title=title, message=words, way_on=way_on, called=called)
