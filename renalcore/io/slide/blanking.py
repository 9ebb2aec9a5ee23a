"""TIFF slides without the patient: Aperio, Hamamatsu, Leica and Ventana, OME-TIFF and plain ones.

Beside the tissue their files hold pictures of the label and of the whole glass, names, barcodes and dates. Kept are the
pictures that the tissue is read from and the texts that say how; every byte of another picture becomes zero, and so do
texts, both where they lie: whatever stays lies where it did, and OpenSlide opens the file as before. What is not known
to be of the tissue is not kept.
Comments within the compressed pixels of a tile are left alone, as in `renalcore.io.slide.mirax`.

Formats: https://openslide.org/formats/, and for the tags
https://www.loc.gov/preservation/digital/formats/content/tiff_tags.shtml
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from renalcore.io.image import DECODER_ERRORS
from renalcore.io.slide.tiff import HIDDEN, tissue_pages
from renalcore.io.slide.vendors import unreadable, vendor_of

if TYPE_CHECKING:
    import tifffile

_DESCRIPTION: Final = 270
_XMP: Final = 700
_NDPI_LENS: Final = 65421
_PERSONAL: Final = frozenset(
    {
        269,  # DocumentName
        285,  # PageName
        306,  # DateTime
        315,  # Artist
        316,  # HostComputer
        33432,  # Copyright
        33723,  # IPTC
        34377,  # Photoshop's
        50839,  # ImageJ's
        65427,  # Hamamatsu's Reference
        65442,  # its serial number
        65449,  # its further properties
    }
)
"""Tags whose values become zeros."""
_APERIO_KEPT: Final = frozenset(
    {"AppMag", "MPP", "StripeWidth", "Left", "Top", "OriginalWidth", "OriginalHeight", "ICC Profile", "DisplayColor"}
)
_XML_TEXTS: Final = re.compile(
    rb"<(?P<tag>(?:\w+:)?(?:barcode|creationDate|AcquisitionDate|Description|StructuredAnnotations))\b[^>]*?(?<!/)>"
    rb"(?P<text>.*?)</(?P=tag)\s*>",
    re.DOTALL,
)
"""Elements of OME-XML and of Leica's whose content becomes spaces."""
_XML_NAMES: Final = re.compile(
    rb"""[\s:](?:\w*(?:name|barcode|user|email|institution|date|time|comment|annotation)\w*)\s*=\s*(["'])(?P<text>.*?)\1""",
    re.IGNORECASE | re.DOTALL,
)
"""Attributes that name somebody or say when, in OME-XML, in Leica's and in Ventana's XML."""


def deidentify_tiff(path: Path, *, name: str) -> bool:
    """Takes everything but the tissue out of a slide that is one TIFF file, in place; running it again changes nothing.

    Args:
        path: The file; of another kind than TIFF it stays as it is.
        name: What messages call it.

    Returns:
        Whether anything was changed.

    Raises:
        UnreadableFile: It cannot be told what of it is tissue.
        OSError: It cannot be written.
    """
    import tifffile

    vendor = vendor_of(path)
    try:
        # The upload does not end in .ndpi, by which tifffile would know places beyond 4 GB.
        with tifffile.TiffFile(path, _multifile=False, is_ndpi=vendor == "hamamatsu") as tiff:
            edits = list(_edits(tiff, vendor, name))
    except tifffile.TiffFileError:
        return False
    except DECODER_ERRORS as error:
        raise unreadable(name) from error
    changed = False
    with path.open("r+b") as file:
        for start, count, blanked in edits:
            file.seek(start)
            before = file.read(count)
            after = blanked(before)
            if after != before:
                file.seek(start)
                file.write(after)
                changed = True
    return changed


_Edit = tuple[int, int, Callable[[bytes], bytes]]
"""Where something begins, its length, and what becomes of it, which is as long."""


def _edits(tiff: tifffile.TiffFile, vendor: str | None, name: str) -> Iterator[_Edit]:
    tiff.pages.useframes = False  # every page with the tags of its own
    pages = {page.offset: page for page in _all_pages(tiff)}
    kept = _tissue(tiff, list(pages.values()), vendor)
    if not kept:
        raise unreadable(name)
    needed = np.array([place for offset in kept for place in _places(pages[offset])], np.int64).reshape(-1, 2)
    for offset, page in pages.items():
        if offset not in kept:
            yield from ((start, count, _no_picture) for start, count in _places(page) if _apart(start, count, needed))
        for tag in page.tags:
            if tag.code in _PERSONAL:
                yield tag.valueoffset, tag.valuebytecount, _zeros
            elif tag.code == _DESCRIPTION:
                yield tag.valueoffset, tag.valuebytecount, _aperio if vendor == "aperio" else _description
            elif tag.code == _XMP:
                yield tag.valueoffset, tag.valuebytecount, _xml if vendor == "ventana" else _zeros


def _all_pages(tiff: tifffile.TiffFile) -> Iterator[Any]:
    for page in tiff.pages:
        yield page
        yield from page.pages or ()


def _places(page: Any) -> list[tuple[int, int]]:
    """Offset and length of the pieces of a picture."""
    return [(start, count) for start, count in zip(page.dataoffsets, page.databytecounts, strict=False) if count]


def _apart(start: int, count: int, needed: NDArray[np.int64]) -> bool:
    """Whether a piece shares no byte with those of the tissue; a file may let two pictures have one."""
    first, length = needed.T
    return not ((first < start + count) & (start < first + length)).any()


def _tissue(tiff: tifffile.TiffFile, pages: list[Any], vendor: str | None) -> set[int]:
    """Offsets of the pages that the tissue is read from."""
    match vendor:
        case "hamamatsu":
            return {page.offset for page in pages if float(page.tags.valueof(_NDPI_LENS, -1)) > 0}
        case "leica":
            numbers = _leica_tissue(pages[0].description)
            return {page.offset for number, page in enumerate(tiff.pages) if number in numbers}
        case "ventana":
            return {page.offset for page in pages if re.match(r"level=\d", page.description)}
        case None | "generic-tiff":
            return {page.offset for page in tissue_pages(tiff)}
        case _:  # pictures of the label and of the glass are in strips
            return {page.offset for page in pages if page.is_tiled}


def _leica_tissue(xml: str) -> set[int]:
    """Numbers of the directories of all pictures but of those that show the whole glass."""
    collection = ElementTree.fromstring(xml).find(".//{*}collection")
    if collection is None:
        return set()
    glass = collection.get("sizeX"), collection.get("sizeY")
    numbers = set()
    for image in collection.iterfind("{*}image"):
        view = image.find("{*}view")
        if view is not None and (view.get("sizeX"), view.get("sizeY")) != glass:
            numbers |= {int(level.get("ifd", -1)) for level in image.iterfind(".//{*}dimension")}
    return numbers


def _zeros(content: bytes) -> bytes:
    return bytes(len(content))


def _no_picture(content: bytes) -> bytes:
    """Zeros; of a JPEG the size and the tables stay, since OpenSlide reads them when it opens the slide."""
    blank = bytearray(len(content))
    if not content.startswith(b"\xff\xd8"):
        return bytes(blank)
    blank[:2] = content[:2]
    at = 2
    while at + 4 <= len(content) and content[at] == 0xFF:
        kind, end = content[at + 1], at + 2 + int.from_bytes(content[at + 2 : at + 4], "big")
        comment = 0xE0 <= kind <= 0xEF or kind == 0xFE
        blank[at : at + 4 if comment else end] = content[at : at + 4 if comment else end]
        at = end
        if kind == 0xDA:  # the pixels follow
            break
    return bytes(blank[: len(content)])


def _aperio(content: bytes) -> bytes:
    """`...|Key = value|...` in which only numbers that the tissue needs have a value."""
    head, *fields = content.split(b"|")
    return b"|".join([head, *map(_field, fields)])


def _field(field: bytes) -> bytes:
    key, equals, value = field.partition(b"=")
    if key.strip().decode("latin-1") in _APERIO_KEPT:
        return field
    end = len(value) - len(value.rstrip(b"\x00"))
    return key + equals + b" " * (len(value) - end) + value[len(value) - end :]


def _description(content: bytes) -> bytes:
    """XML without names and dates; what ImageJ and tifffile write of a picture's shape; nothing of another text."""
    text = content.lstrip(b"\xef\xbb\xbf \r\n\t")
    if text.startswith(b"<"):
        return _xml(content)
    return content if text.startswith((b"ImageJ=", b'{"shape"', b"level=")) else _zeros(content)


def _xml(content: bytes) -> bytes:
    for pattern in (_XML_TEXTS, _XML_NAMES):
        content = pattern.sub(_without_text, content)
    return content


def _without_text(found: re.Match[bytes]) -> bytes:
    start, end = (place - found.start() for place in found.span("text"))
    whole = found.group()
    word = HIDDEN.search(whole[start:end].decode("latin-1"))  # which pictures are hidden is told by these
    said = word.group().encode() if word else b""
    return whole[:start] + said.ljust(end - start) + whole[end:]
