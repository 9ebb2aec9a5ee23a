"""A slide for the browser: tiles of its pyramid, read from the file as they are asked for, and what a viewer must know.

Levels are those of Deep Zoom: the last one is the slide itself, each before it has half the width and height. Nothing
else of the file is given out: no label, no picture of the whole glass, no text of the scanner.
"""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from PIL import Image
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response

from db import slides
from db.engine import session_scope
from db.files import store
from db.settings import Settings
from pages.routes.fields import CACHE
from renalcore.errors import NotFound, RenalError
from renalcore.io.slide import Slide, open_slide

TILE_PX = 512
QUALITY = 85  # of JPEG: that at which scanners store, so that nothing more is lost
MOST_OPEN = 16
"""Slides kept open, each with a few megabytes of buffers: somebody who looks at one asks for hundreds of tiles."""
CACHE_BYTES = 256 << 20  # of tiles as they are sent: some thousands

LIBRARY_ADDRESS = "/openseadragon.js"
LIBRARY = Path(__file__).parents[1] / (
    "components/slide_viewer/node_modules/openseadragon/build/openseadragon/openseadragon.min.js"
)
"""OpenSeadragon, which `make viewer` fetches from npm."""


@dataclass(frozen=True, slots=True)
class Pyramid:
    """The levels of a slide as a viewer asks for them.

    Attributes:
        sha256: The slide's file.
        width_px: Width of the finest level.
        height_px: Height of the finest level.
    """

    sha256: str
    width_px: int
    height_px: int

    @property
    def max_level(self) -> int:
        """The finest level."""
        return (max(self.width_px, self.height_px) - 1).bit_length()

    @property
    def min_level(self) -> int:
        """The finest level that is one tile."""
        return min(self.max_level, TILE_PX.bit_length() - 1)

    def window(self, level: int, column: int, row: int) -> tuple[int, int, int, int, int] | None:
        """Left and upper side in px of the finest level, width and height in px of the tile, and how far it shrinks.

        None where the slide has no such tile.
        """
        if not 0 <= level <= self.max_level or column < 0 or row < 0:
            return None
        shrinks = 1 << (self.max_level - level)
        width, height = -(-self.width_px // shrinks), -(-self.height_px // shrinks)
        left, top = column * TILE_PX, row * TILE_PX
        if left >= width or top >= height:
            return None
        return left * shrinks, top * shrinks, min(TILE_PX, width - left), min(TILE_PX, height - top), shrinks


def descriptor(request: Request) -> Response:
    """`/slides/{id}/descriptor.json`: size, levels and tiles."""
    try:
        pyramid = _pyramid(request.path_params["slide_id"])
    except NotFound as error:
        return PlainTextResponse(str(error), 404)
    return JSONResponse(
        {
            "width": pyramid.width_px,
            "height": pyramid.height_px,
            "tile": TILE_PX,
            "min_level": pyramid.min_level,
            "max_level": pyramid.max_level,
        },
        headers={"cache-control": CACHE},
    )


def tile(request: Request) -> Response:
    """`/slides/{id}/tile/{level}/{x}/{y}.jpg`: one tile. The guard before all addresses has asked who looks."""
    asked = request.path_params
    try:
        pyramid = _pyramid(asked["slide_id"])
        place = (asked["level"], asked["x"], asked["y"])
        window = pyramid.window(*place)
        if window is None:
            raise NotFound("The slide has no such tile.")
        headers = {"etag": f'"{pyramid.sha256[:32]}-{"-".join(map(str, place))}"', "cache-control": CACHE}
        if headers["etag"] in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        key = (pyramid.sha256, *place)
        body = _tiles.get(key)
        if body is None:
            left, top, width, height, shrinks = window
            with _open.lease(pyramid.sha256) as slide:
                pixels = slide.read(left, top, width, height, downsample=shrinks)
            body = _jpeg(pixels)
            _tiles.put(key, body)
    except RenalError as error:
        return PlainTextResponse(str(error), 404)
    return Response(body, media_type="image/jpeg", headers=headers)


def library(_: Request) -> Response:
    """`/openseadragon.js`: the viewer's library, as npm brought it."""
    if not LIBRARY.is_file():
        return PlainTextResponse("OpenSeadragon is not installed: run `make viewer`.", 404)
    return FileResponse(LIBRARY, media_type="text/javascript", headers={"cache-control": "private, max-age=86400"})


@lru_cache(maxsize=1024)
def _pyramid(slide_id: int) -> Pyramid:
    """A slide's file never changes, so the database is asked once."""
    with session_scope(read_only=True) as session:
        slide = slides.get(session, slide_id)
        return Pyramid(slide.file.sha256, slide.width_px, slide.height_px)


def _jpeg(pixels: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=QUALITY)
    return stream.getvalue()


class _Tiles:
    """The tiles asked for last, as far as they fit."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._held = 0
        self._bodies: OrderedDict[tuple[str, int, int, int], bytes] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: tuple[str, int, int, int]) -> bytes | None:
        with self._lock:
            if key in self._bodies:
                self._bodies.move_to_end(key)
            return self._bodies.get(key)

    def put(self, key: tuple[str, int, int, int], body: bytes) -> None:
        with self._lock:
            self._held += len(body) - len(self._bodies.pop(key, b""))
            self._bodies[key] = body
            while self._held > self._most_bytes:
                self._held -= len(self._bodies.popitem(last=False)[1])


@dataclass(slots=True)
class _Held:
    """A slide that is open or about to be."""

    readers: int = 0
    slide: Slide | None = None
    opening: threading.Lock = field(default_factory=threading.Lock)


class _OpenSlides:
    """The slides asked for last, open; one is closed only while nobody reads it."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._held: OrderedDict[str, _Held] = OrderedDict()
        self._lock = threading.Lock()

    @contextmanager
    def lease(self, sha256: str) -> Iterator[Slide]:
        with self._lock:
            held = self._held.setdefault(sha256, _Held())
            self._held.move_to_end(sha256)
            held.readers += 1
        try:
            with held.opening:
                if held.slide is None:
                    path = store().local(sha256, copies=Settings.from_env().data_folder / "slides")
                    held.slide = open_slide(path, name="slide")
            yield held.slide
        finally:
            with self._lock:
                held.readers -= 1
                idle = [key for key, one in self._held.items() if not one.readers]
                closed = [self._held.pop(key) for key in idle[: max(0, len(self._held) - self._most)]]
            for one in closed:
                if one.slide is not None:
                    one.slide.close()


_tiles = _Tiles(CACHE_BYTES)
_open = _OpenSlides(MOST_OPEN)
