"""A slide as a scanner of 3DHISTECH writes it: photos that overlap, cut into tiles, in a folder beside a `.mrxs`.

The layout is the one at https://openslide.org/formats/mirax/. The camera takes 4 x 3 photos of 128 px and notes where;
each is cut into 2 x 2 tiles. A level is the photos laid edge to edge, halved again and again: its tiles hold overlaps.
The photos of the left column and the last one were not taken, as of most of a real glass.
"""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

TILE_PX, PHOTO_PX, OVERLAP_PX = 64, 128, 16
ACROSS, DOWN = 4, 3
"""Photos."""
LEFT_PX = PHOTO_PX - OVERLAP_PX
"""Where the scanned part begins in `a_field`: behind the column of which no photo was taken."""
WIDTH_PX, HEIGHT_PX = 352, 352
"""Of the scanned part: three photos of 128 px in both ways, less two overlaps of 16 px."""
EMPTY_X_PX, EMPTY_Y_PX = 240, 240
"""From here on to the right and downwards, within the scanned part, the last photo alone would have shown anything."""
UM_PER_PX = 0.25
LEVELS = 3
SLIDE_ID = "4711A0B1C2D3E4F5A6B7C8D9E0F1A2B3"
NAMED = (b"Maria", b"Secret", b"R-77", b"29/02/2024", SLIDE_ID.encode())
"""What a slide of these tells of the patient, in its texts; its pictures of the label and the glass may show more."""

_GENERAL = f"""\
[GENERAL]
SLIDE_VERSION = 01.02
SLIDE_ID = {SLIDE_ID}
SLIDE_NAME = Secret Maria R-77
PROJECT_NAME = Secret
SLIDE_BARCODE = R-77
SLIDE_CREATIONDATETIME = 29/02/2024 11:12:13
IMAGENUMBER_X = {2 * ACROSS}
IMAGENUMBER_Y = {2 * DOWN}
OBJECTIVE_MAGNIFICATION = 20
CameraImageDivisionsPerSide = 2
[HIERARCHICAL]
INDEXFILE = Index.dat
HIER_COUNT = 1
HIER_0_NAME = Slide zoom level
HIER_0_COUNT = {LEVELS}
NONHIER_COUNT = 2
NONHIER_0_NAME = Scan data layer
NONHIER_0_COUNT = 3
NONHIER_0_VAL_0 = ScanDataLayer_SlideThumbnail
NONHIER_0_VAL_0_SECTION = THUMBNAIL
NONHIER_0_VAL_1 = ScanDataLayer_SlideBarcode
NONHIER_0_VAL_1_SECTION = BARCODE
NONHIER_0_VAL_2 = ScanDataLayer_XMLInfo
NONHIER_0_VAL_2_SECTION = XML
NONHIER_1_NAME = {{positions}}
NONHIER_1_COUNT = 1
NONHIER_1_VAL_0 = default
NONHIER_1_VAL_0_SECTION = POSITIONS
[DATAFILE]
FILE_COUNT = 3
FILE_0 = Data0000.dat
FILE_1 = Data0001.dat
FILE_2 = Data0002.dat
[THUMBNAIL]
THUMBNAIL_IMAGE_TYPE = JPEG
[BARCODE]
BARCODE_IMAGE_TYPE = JPEG
BARCODE_VALUE = R-77
"""
_LEVEL = """\
HIER_0_VAL_{level} = ZoomLevel_{level}
HIER_0_VAL_{level}_SECTION = LAYER_0_LEVEL_{level}_SECTION
[LAYER_0_LEVEL_{level}_SECTION]
OVERLAP_X = {overlap}
OVERLAP_Y = {overlap}
MICROMETER_PER_PIXEL_X = {um_per_px}
MICROMETER_PER_PIXEL_Y = {um_per_px}
IMAGE_FORMAT = JPEG
IMAGE_FILL_COLOR_BGR = 16777215
DIGITIZER_WIDTH = 64
DIGITIZER_HEIGHT = 64
IMAGE_CONCAT_FACTOR = {halved}
"""


def a_mirax_slide(folder: Path, *, compressed: bool = False) -> Path:
    """Writes `a_field` at 0.25 um a pixel, with three levels, as `Maria Secret.mrxs` into a folder, which is made.

    The file of the third number, which nothing needs, is there in name only, as after a scan that was broken off.

    Args:
        folder: Where to.
        compressed: The positions are deflated, as newer scanners write them.

    Returns:
        The `.mrxs` file.
    """
    path = folder / "Maria Secret.mrxs"
    data = path.with_suffix("")
    data.mkdir(parents=True)
    path.write_bytes(a_label())
    first, second = (bytearray(f"01.02{SLIDE_ID}{number:03d}".encode()) for number in range(2))
    field, photos = a_field(), _positions()
    canvas = np.full((DOWN * PHOTO_PX, ACROSS * PHOTO_PX, 3), 255, np.uint8)
    for number, (x, y) in photos.items():
        row, column = divmod(number, ACROSS)
        canvas[row * PHOTO_PX :, column * PHOTO_PX :][:PHOTO_PX, :PHOTO_PX] = field[y:, x:][:PHOTO_PX, :PHOTO_PX]
    records = []
    for record in (a_label(), a_label(), b"<patient>Secret Maria</patient>"):
        records.append((*_put(second, record), 1))
    levels = []
    for level in range(LEVELS):
        small = Image.fromarray(canvas).reduce(1 << level)
        tiles = []
        for row in range(-(-small.height // TILE_PX)):
            for column in range(-(-small.width // TILE_PX)):
                number = ((row << level) // 2) * ACROSS + (column << level) // 2
                if level == 2 or number in photos:  # at that level a tile holds 2 x 2 photos
                    left, top = column * TILE_PX, row * TILE_PX
                    tile = _jpeg(small.crop((left, top, left + TILE_PX, top + TILE_PX)))
                    image = (row << level) * 2 * ACROSS + (column << level)
                    tiles.append((image, *_put((first, second)[level > 0], tile), int(level > 0)))
        levels.append(tiles)
    where = b"".join(struct.pack("<bii", 0, *photos.get(number, (0, 0))) for number in range(ACROSS * DOWN))
    records.append((*_put(second, zlib.compress(where) if compressed else where), 1))
    _put(second, b"scanned by Maria")
    general = _GENERAL.format(positions="StitchingIntensityLayer" if compressed else "VIMSLIDE_POSITION_BUFFER")
    hierarchy, others = general.split("[DATAFILE]")
    keys, sections = "", ""
    for level in range(LEVELS):
        text = _LEVEL.format(
            level=level, overlap=OVERLAP_PX / (1 << level), um_per_px=UM_PER_PX * (1 << level), halved=min(level, 1)
        )
        key, section = text.split("[", 1)
        keys, sections = keys + key, f"{sections}[{section}"
    slidedat = f"{hierarchy}{keys}[DATAFILE]{others}{sections}".replace("\n", "\r\n")
    (data / "Slidedat.ini").write_bytes(b"\xef\xbb\xbf" + slidedat.encode())
    (data / "Index.dat").write_bytes(_index(levels, records))
    (data / "Data0000.dat").write_bytes(first)
    (data / "Data0001.dat").write_bytes(second)
    return path


def a_label() -> bytes:
    """The picture of the label, which also stands for that of the whole glass: a JPEG."""
    return _jpeg(Image.new("RGB", (80, 40), (255, 255, 0)))


def a_field() -> NDArray[np.uint8]:
    """Squares of 16 px in colours of no order, `(352, 464, 3)`, so that nothing looks like what lies elsewhere."""
    height, width = (count * PHOTO_PX - (count - 1) * OVERLAP_PX for count in (DOWN, ACROSS))
    cells = np.random.default_rng(4).integers(90, 240, (height // 16, width // 16, 3)).astype(np.uint8)
    return np.repeat(np.repeat(cells, 16, axis=0), 16, axis=1)


def _positions() -> dict[int, tuple[int, int]]:
    """Where each photo lies, by its number: one of them 4 px off, which even the level of quarters shows exactly."""
    step = PHOTO_PX - OVERLAP_PX
    found = {}
    for number in range(ACROSS * DOWN - 1):
        row, column = divmod(number, ACROSS)
        missed = 4 if (row, column) == (1, 2) else 0
        if column > 0:
            found[number] = column * step + missed, row * step - missed
    return found


def _put(file: bytearray, content: bytes) -> tuple[int, int]:
    """Where it lies in the file, and its length."""
    file.extend(content)
    return len(file) - len(content), len(content)


def _jpeg(picture: Image.Image) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=95, subsampling=0)
    return stream.getvalue()


def _index(levels: list[list[tuple[int, int, int, int]]], records: list[tuple[int, int, int]]) -> bytes:
    """The places of the tiles, each level in two pages of which one follows the other, and of the other records."""
    root = f"01.02{SLIDE_ID}".encode()
    index = bytearray(root + bytes(8))

    def put(*numbers: int) -> int:
        return _put(index, struct.pack(f"<{len(numbers)}i", *numbers))[0]

    pages = []
    for tiles in levels:
        half = len(tiles) // 2
        first = len(index)
        put(half, first + 8 + 16 * half, *(number for tile in tiles[:half] for number in tile))
        put(len(tiles) - half, 0, *(number for tile in tiles[half:] for number in tile))
        pages.append(put(0, first))
    others = [put(0, put(1, 0, 0, 0, *record)) for record in records]
    struct.pack_into("<2i", index, len(root), put(*pages), put(*others))
    return bytes(index)
