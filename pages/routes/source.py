"""`/source.tar.gz`: the source of the version that runs here, signed in or not.

Section 13 of the AGPL gives it to whoever uses the program over a network. The archive is made of the very files that
run, so it is right for a changed copy too; a laboratory that publishes its source elsewhere names that address in
RENAL_SOURCE_URL. Weights stay outside: the card beside them names each file with its sha256.
"""

from __future__ import annotations

import functools
import gzip
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

import renalcore

ROOT = Path(__file__).resolve().parents[2]

_FOLDERS = ("renalcore", "db", "pages", "tests")
_FILES = (
    "app.py", "worker.py", "requirements.txt", "pyproject.toml", "Makefile", "Dockerfile", "compose.yaml",
    "README.md", "LICENSE", ".gitignore", ".ci/run", ".streamlit/config.toml",
)  # fmt: skip
_KINDS = frozenset(
    {".py", ".mako", ".js", ".css", ".html", ".png", ".json", ".csv", ".toml", ".txt", ".md", ".sh", ".yaml"}
)
"""What source is made of: a database, a log or a key that somebody left in a folder is not handed out."""


def source(_: Request) -> Response:
    """The archive."""
    name = f"renalcore-{renalcore.__version__}"
    return Response(
        _archive(name),
        media_type="application/gzip",
        headers={"content-disposition": f'attachment; filename="{name}-source.tar.gz"'},
    )


@functools.lru_cache(maxsize=1)
def _archive(name: str) -> bytes:
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", mtime=0) as stream, tarfile.open(fileobj=stream, mode="w") as archive:
        for path in _source_files():
            member = tarfile.TarInfo(f"{name}/{path.relative_to(ROOT).as_posix()}")
            content = path.read_bytes()
            member.size = len(content)
            member.mode = path.stat().st_mode & 0o777
            member.mtime = int(path.stat().st_mtime)
            archive.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def _source_files() -> Iterator[Path]:
    """In one order; an installation without tests or build files has none to give."""
    yield from (ROOT / name for name in _FILES if (ROOT / name).is_file())
    for folder in _FOLDERS:
        for path in sorted((ROOT / folder).rglob("*")):
            fetched = "node_modules" in path.parts  # from npm, as package-lock.json names it
            if path.suffix in _KINDS and not fetched and path.is_file() and not path.is_symlink():
                yield path
