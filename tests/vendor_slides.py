"""Slides as Hamamatsu, Leica and Ventana write them, as far as OpenSlide reads them, `SECRET` where names stand."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

SECRET = "Maria-Secret"
TISSUE = np.random.default_rng(0).integers(120, 220, (512, 768, 3), np.uint8)
GLASS = np.random.default_rng(1).integers(0, 255, (128, 384, 3), np.uint8)
"""The whole glass with its label."""


def jpeg(pixels: NDArray[np.uint8], comment: str = "") -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "JPEG", quality=90, comment=comment)
    return content.getvalue()


def tiles(pixels: NDArray[np.uint8], side: int) -> Iterator[bytes]:
    for top in range(0, pixels.shape[0], side):
        for left in range(0, pixels.shape[1], side):
            piece = pixels[top : top + side, left : left + side]
            rest = [(0, side - size) for size in piece.shape[:2]]
            yield jpeg(np.pad(piece, [*rest, (0, 0)]))


def compressed(side: int, pixels: NDArray[np.uint8], **further: Any) -> dict[str, Any]:
    return {
        "data": tiles(pixels, side), "shape": pixels.shape, "dtype": "uint8", "photometric": "ycbcr",
        "compression": "jpeg", "tile": (side, side), "subsampling": (2, 2), "metadata": None, **further,
    }  # fmt: skip


def write_ndpi(path: Path) -> None:
    """Little-endian TIFF whose offsets have 64 bits: each directory ends in the upper halves of its values."""
    file, link = bytearray(b"II*\0" + bytes(8)), 4
    for pixels, lens in ((TISSUE, 20.0), (TISSUE[::2, ::2].copy(), 10.0), (GLASS, -1.0)):
        picture = jpeg(pixels, comment=SECRET if lens < 0 else "")
        places = []
        for content in (picture, b"Hamamatsu\0", struct.pack("<II", 22727, 1), *(f"User={SECRET}\0".encode(),) * 2):
            places.append(len(file))
            file += content + bytes(len(content) % 2)
        at, make, resolution, reference, further = places
        height, width = pixels.shape[:2]
        text = len(SECRET) + 6
        (lens_bits,) = struct.unpack("<I", struct.pack("<f", lens))
        tags = (
            (256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 7), (262, 3, 1, 6), (271, 2, 10, make),
            (273, 4, 1, at), (277, 3, 1, 3), (278, 4, 1, height), (279, 4, 1, len(picture)), (282, 5, 1, resolution),
            (283, 5, 1, resolution), (296, 3, 1, 3), (65420, 4, 1, 1), (65421, 11, 1, lens_bits), (65422, 9, 1, 0),
            (65423, 9, 1, 0), (65424, 9, 1, 0), (65427, 2, text, reference), (65449, 2, text, further),
        )  # fmt: skip
        struct.pack_into("<Q", file, link, len(file))
        file += struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags)
        link = len(file)
        file += bytes(8 + 4 * len(tags))
    path.write_bytes(file)


def write_scn(path: Path) -> None:
    def image(name: str, levels: list[tuple[int, NDArray[np.uint8]]], view: str) -> str:
        sizes = [f'sizeX="{pixels.shape[1]}" sizeY="{pixels.shape[0]}"' for _, pixels in levels]
        dimensions = "".join(
            f'<dimension {size} r="{level}" ifd="{number}"/>'
            for level, (size, (number, _)) in enumerate(zip(sizes, levels, strict=True))
        )
        return (
            f'<image name="{SECRET} {name}"><creationDate>2020-01-01 {SECRET}</creationDate><device model="SCN400"/>'
            f'<pixels {sizes[0]}>{dimensions}</pixels><view {view} spacingZ="0"/><scanSettings><objectiveSettings>'
            "<objective>20</objective></objectiveSettings><illuminationSettings><illuminationSource>brightfield"
            "</illuminationSource></illuminationSettings></scanSettings></image>"
        )

    whole = 'sizeX="38400" sizeY="12800"'
    glass = image("overview", [(0, GLASS)], f'{whole} offsetX="0" offsetY="0"')
    part = 'sizeX="7680" sizeY="5120" offsetX="1000" offsetY="1000"'
    tissue = image("tissue", [(1, TISSUE), (2, TISSUE[::2, ::2])], part)
    xml = (
        '<?xml version="1.0"?><scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01"><collection '
        f'name="{SECRET}" {whole}><barcode>{SECRET}</barcode>{glass}{tissue}</collection></scn>'
    )
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        for pixels, description in ((GLASS, xml), (TISSUE, None), (TISSUE[::2, ::2], None)):
            tiff.write(**compressed(128, pixels, description=description))


def write_bif(path: Path) -> None:
    def xmp(text: str) -> list[tuple[int, str, int, bytes, bool]]:
        return [(700, "B", len(text) + 1, text.encode() + b"\0", True)]

    scan = f'<iScan Magnification="20" ScanRes="0.5" UserName="{SECRET}" Barcode1D="{SECRET}" Comment=\'{SECRET}\'/>'
    # Tiles count from the lower left to the right, in the row above it to the left.
    joints = [("RIGHT", 1, 2), ("RIGHT", 2, 3), ("UP", 3, 4), ("RIGHT", 5, 4), ("RIGHT", 6, 5)]
    joined = "".join(
        f'<TileJointInfo FlagJoined="1" Confidence="100" Direction="{way}" Tile1="{one}" Tile2="{other}" OverlapX="0" '
        'OverlapY="0"/>'
        for way, one, other in joints
    )
    area = 'NumRows="2" NumCols="3" Pos-X="0" Pos-Y="0"'
    encoded = (
        f'<EncodeInfo Ver="2"><SlideInfo><AoiInfo XIMAGESIZE="256" YIMAGESIZE="256" {area}/></SlideInfo>'
        f'<SlideStitchInfo><ImageInfo AOIScanned="1" AOIIndex="0" Width="256" Height="256" {area}>{joined}</ImageInfo>'
        '</SlideStitchInfo><AoiOrigin><AOI0 OriginX="0" OriginY="0"/></AoiOrigin></EncodeInfo>'
    )
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        tiff.write(GLASS, photometric="rgb", description="Label_Image", metadata=None, extratags=xmp(scan))
        tiff.write(TISSUE[::4, ::4], photometric="rgb", description="Thumbnail", metadata=None)
        for level, pixels in enumerate((TISSUE, TISSUE[::2, ::2])):
            told = {"description": f"level={level} mag={20 / 2**level:g} quality=90"}
            tiff.write(**compressed(256, pixels, **told, extratags=[] if level else xmp(encoded)))
