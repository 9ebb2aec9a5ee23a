"""A slide for the browser: tiles of its pyramid, read from the file as they are asked for, and what a viewer must know.

Levels are those of Deep Zoom: the last one is the slide itself, each before it has half the width and height. Nothing
else of the file is given out: no label, no picture of the whole glass, no text of the scanner. Beside them: crops for
galleries, and what an analysis found on the slide. The guard before all addresses has asked who looks.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
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

from db import analyses, glomeruli, slides
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
CACHE_BYTES = 256 << 20  # of tiles and crops as they are sent: some thousands
CROP_SIZES_PX = (64, 96, 128, 192, 256, 384, 512)
"""Few sizes, so that a browser's cache is hit; a request gets the next larger one."""
LARGE_SIDE_PX = 10_000
"""On slides larger than that, outlines travel in whole px: the next glomerulus is hundreds away."""

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


def crop(request: Request) -> Response:
    """`/slides/{id}/crop?x=&y=&w=&h=&size=128`: a window of the slide, white where it reaches beyond.

    Sides are in px of the finest level, whole ones; the longer one of the picture has about `size` px, and never more
    than the slide has there.
    """
    asked = request.query_params
    try:
        x_px, y_px, width_px, height_px, wanted = (int(asked[name]) for name in ("x", "y", "w", "h", "size"))
    except (KeyError, ValueError):
        return PlainTextResponse("Name x, y, w, h and size in whole px.", 400)
    try:
        pyramid = _pyramid(request.path_params["slide_id"])
        longest_px = max(width_px, height_px)
        inside = x_px + width_px > 0 and x_px < pyramid.width_px and y_px + height_px > 0 and y_px < pyramid.height_px
        if min(width_px, height_px) < 1 or longest_px > 2 * max(pyramid.width_px, pyramid.height_px) or not inside:
            raise NotFound("The slide has no such window.")
        size_px = min(longest_px, next((one for one in CROP_SIZES_PX if one >= wanted), CROP_SIZES_PX[-1]))
        place = (x_px, y_px, width_px, height_px, size_px)
        headers = {"etag": f'"{pyramid.sha256[:32]}-{"-".join(map(str, place))}"', "cache-control": CACHE}
        if headers["etag"] in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        key = (pyramid.sha256, *place)
        body = _tiles.get(key)
        if body is None:
            shrinks = longest_px / size_px
            with _open.lease(pyramid.sha256) as slide:
                wide, high = (max(1, round(side / shrinks)) for side in (width_px, height_px))
                body = _jpeg(slide.read(x_px, y_px, wide, high, downsample=shrinks))
            _tiles.put(key, body)
    except RenalError as error:
        return PlainTextResponse(str(error), 404)
    return Response(body, media_type="image/jpeg", headers=headers)


def outlines(request: Request) -> Response:
    """`/slides/{id}/glomeruli.json?analysis=3`: the glomeruli of a slide as they stand now, removed ones too.

    The outline is `[x1, y1, x2, y2, ...]` in px of the finest level; `diameter`, of the circle of the same area, is in
    um where the scale is known, else in px. A viewer adds `v` to the address, anything that changes with a correction.
    """
    try:
        analysis_id = int(request.query_params["analysis"])
    except (KeyError, ValueError):
        return PlainTextResponse("Name the analysis.", 400)
    try:
        with session_scope(read_only=True) as session:
            slide = slides.get(session, request.path_params["slide_id"])
            analysis = analyses.get(session, analysis_id)
            if analysis.specimen_id != slide.specimen_id:
                raise NotFound(f"Analysis {analysis_id} is not of slide {slide.id}.")
            limits, um_per_px = glomeruli.limits_of(analysis), slide.um_per_px
            standing = glomeruli.standing(session, analysis_id, slide.id)
            large = max(slide.width_px, slide.height_px) > LARGE_SIDE_PX
    except NotFound as error:
        return PlainTextResponse(str(error), 404)
    decimals = None if large else 1
    items = [
        {
            "key": item.key,
            "number": item.number,
            "outline": [round(edge, decimals) for point in item.outline for edge in point],
            "score": None if item.score is None else round(item.score, 3),
            "sclerosed": item.sclerosed,
            "status": item.status,
            "counts": item.counts(limits, um_per_px),
            "touches_edge": item.touches_edge,
            "diameter": round(item.diameter(um_per_px), 2),
        }
        for item in standing
    ]
    body = json.dumps({"items": items}, separators=(",", ":")).encode()
    # Asked for anew each time, since corrections change it, and sent only where it did change.
    headers = {
        "etag": f'"{hashlib.sha256(body).hexdigest()[:32]}"',
        "cache-control": "private, no-cache",
        "vary": "accept-encoding",
    }
    if headers["etag"] in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    if "gzip" in request.headers.get("accept-encoding", ""):
        body = gzip.compress(body, compresslevel=3, mtime=0)
        headers["content-encoding"] = "gzip"
    return Response(body, media_type="application/json", headers=headers)


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
    """The tiles and crops asked for last, as far as they fit."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._held = 0
        self._bodies: OrderedDict[tuple[str | int, ...], bytes] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: tuple[str | int, ...]) -> bytes | None:
        with self._lock:
            if key in self._bodies:
                self._bodies.move_to_end(key)
            return self._bodies.get(key)

    def put(self, key: tuple[str | int, ...], body: bytes) -> None:
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
