"""A slide for the browser: tiles of its pyramid, read from the file as they are asked for, and what a viewer must know.

Levels are those of Deep Zoom: the last one is the slide itself, each before it has half the width and height. Nothing
else of the file is given out: no label, no picture of the whole glass, no text of the scanner. Beside them: crops for
galleries, and what an analysis found on the slide. The guard before all addresses has asked who looks.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import io
import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from anyio import to_thread
from PIL import Image
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response

from db import analyses, reviewed_glomeruli, slide_files, slides, uploads
from db.engine import session_scope
from db.slide_files import Preparation
from pages.components.numbers import asked_number
from pages.routes.fields import CACHE
from renalcore.errors import InputError, NotFound, RenalError
from renalcore.io.slide import Slide

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
    """`/slides/{id}/descriptor.json`: size, levels and tiles; until it is unpacked, status 202 and how far that is."""
    try:
        pyramid = _pyramid(request.path_params["slide_id"])
        preparation = _open.preparation(pyramid.sha256)
    except InputError as error:
        return PlainTextResponse(uploads.reason(error), 404)
    except RenalError as error:
        return PlainTextResponse(str(error), 404)
    headers = {"cache-control": "no-store"}
    if preparation is not None:
        return JSONResponse({"unpacked": preparation.share}, 202, headers=headers)
    return JSONResponse(
        {
            "width": pyramid.width_px,
            "height": pyramid.height_px,
            "tile": TILE_PX,
            "min_level": pyramid.min_level,
            "max_level": pyramid.max_level,
        },
        headers=headers,
    )


async def tile(request: Request) -> Response:
    """`/slides/{id}/tile/{level}/{x}/{y}.jpg`: one tile."""
    asked = request.path_params
    place = (asked["slide_id"], asked["level"], asked["x"], asked["y"])
    kept = _tiles.get(place)
    if kept is None:  # else it is answered without a thread
        try:
            kept = await _when_ready(lambda: _tile(*place))
        except RenalError as error:
            return PlainTextResponse(str(error), 404)
    return _picture(request, kept)


async def crop(request: Request) -> Response:
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
        kept = await _when_ready(
            lambda: _crop(request.path_params["slide_id"], x_px, y_px, width_px, height_px, wanted)
        )
    except RenalError as error:
        return PlainTextResponse(str(error), 404)
    return _picture(request, kept)


def outlines(request: Request) -> Response:
    """`/slides/{id}/glomeruli.json?analysis=3`: the glomeruli of a slide as they stand now, removed ones too.

    The outline is `[x1, y1, x2, y2, ...]` in px of the finest level; `diameter`, of the circle of the same area, is in
    um where the scale is known, else in px. A viewer adds `v` to the address, anything that changes with a correction.
    """
    analysis_id = asked_number(request.query_params.get("analysis"))
    if not analysis_id:
        return PlainTextResponse("Name the analysis.", 400)
    try:
        with session_scope(read_only=True) as session:
            slide = slides.get(session, request.path_params["slide_id"])
            analysis = analyses.get(session, analysis_id)
            if analysis.specimen_id != slide.specimen_id:
                raise NotFound(f"Analysis {analysis_id} is not of slide {slide.id}.")
            limits, um_per_px = reviewed_glomeruli.limits_of(analysis), slide.um_per_px
            standing = reviewed_glomeruli.standing(session, analysis_id, slide.id)
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


def _tile(slide_id: int, level: int, column: int, row: int) -> tuple[str, bytes]:
    pyramid = _pyramid(slide_id)
    window = pyramid.window(level, column, row)
    if window is None:
        raise NotFound("The slide has no such tile.")
    left, top, width, height, shrinks = window
    with _open.lease(pyramid.sha256) as slide:
        pixels = slide.read(left, top, width, height, downsample=shrinks)
    return _tiles.put((slide_id, level, column, row), pyramid, _jpeg(pixels))


def _crop(slide_id: int, x_px: int, y_px: int, width_px: int, height_px: int, wanted: int) -> tuple[str, bytes]:
    pyramid = _pyramid(slide_id)
    longest_px = max(width_px, height_px)
    inside = x_px + width_px > 0 and x_px < pyramid.width_px and y_px + height_px > 0 and y_px < pyramid.height_px
    if min(width_px, height_px) < 1 or longest_px > 2 * max(pyramid.width_px, pyramid.height_px) or not inside:
        raise NotFound("The slide has no such window.")
    size_px = min(longest_px, next((one for one in CROP_SIZES_PX if one >= wanted), CROP_SIZES_PX[-1]))
    place = (slide_id, x_px, y_px, width_px, height_px, size_px)
    kept = _tiles.get(place)
    if kept is not None:
        return kept
    shrinks = longest_px / size_px
    with _open.lease(pyramid.sha256) as slide:
        wide, high = (max(1, round(side / shrinks)) for side in (width_px, height_px))
        pixels = slide.read(x_px, y_px, wide, high, downsample=shrinks)
    return _tiles.put(place, pyramid, _jpeg(pixels))


async def _when_ready(picture: Callable[[], tuple[str, bytes]]) -> tuple[str, bytes]:
    """A tile or crop, read in a thread; while its slide is being unpacked the request waits without one."""
    while True:
        try:
            return await to_thread.run_sync(picture)
        except _NotReady as slide:
            await asyncio.shield(asyncio.wrap_future(slide.preparation.done))  # others wait for it too


def _picture(request: Request, kept: tuple[str, bytes]) -> Response:
    etag, body = kept
    headers = {"etag": etag, "cache-control": CACHE}
    if etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(body, media_type="image/jpeg", headers=headers)


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
    """The tiles and crops asked for last with their tags, as far as they fit, by slide and place."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._held = 0
        self._kept: OrderedDict[tuple[int, ...], tuple[str, bytes]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, place: tuple[int, ...]) -> tuple[str, bytes] | None:
        with self._lock:
            if place in self._kept:
                self._kept.move_to_end(place)
            return self._kept.get(place)

    def put(self, place: tuple[int, ...], pyramid: Pyramid, body: bytes) -> tuple[str, bytes]:
        kept = f'"{pyramid.sha256[:32]}-{"-".join(map(str, place[1:]))}"', body
        with self._lock:
            self._held += len(body) - len(self._kept.pop(place, ("", b""))[1])
            self._kept[place] = kept
            while self._held > self._most_bytes:
                self._held -= len(self._kept.popitem(last=False)[1][1])
        return kept


class _NotReady(Exception):
    """The slide cannot be opened at once."""

    def __init__(self, preparation: Preparation) -> None:
        super().__init__()
        self.preparation = preparation


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

    def preparation(self, sha256: str) -> Preparation | None:
        """What the slide has to wait for; None where it is open or can be opened at once.

        Raises:
            RenalError: It cannot be opened.
        """
        with self._lock:
            held = self._held.get(sha256)
            is_open = held is not None and held.slide is not None
        return None if is_open else slide_files.prepare(sha256, name="slide")

    @contextmanager
    def lease(self, sha256: str) -> Iterator[Slide]:
        with self._lock:
            held = self._held.setdefault(sha256, _Held())
            self._held.move_to_end(sha256)
            held.readers += 1
        try:
            with held.opening:
                if held.slide is None:
                    preparation = slide_files.prepare(sha256, name="slide")
                    if preparation is not None:
                        raise _NotReady(preparation)
                    held.slide = slide_files.opened(sha256, name="slide")
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
