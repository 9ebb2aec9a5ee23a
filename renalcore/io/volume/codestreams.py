"""A plugin of pydicom's decoders that unpacks a slice only where its codestream states the size of the picture.

JPEG and JPEG 2000 state their own size beside that of the DICOM header, and a decoder takes memory for it before it
looks at a pixel: a slice of a kilobyte that states 60,000 x 60,000 would fill the memory of the server.
"""

from __future__ import annotations

from typing import Final

from openjpeg.utils import get_parameters
from pydicom import Dataset, uid
from pydicom.pixels.decoders import pylibjpeg
from pydicom.pixels.decoders.base import DecodeRunner, get_decoder

DECODER_DEPENDENCIES: Final = pylibjpeg.DECODER_DEPENDENCIES
is_available: Final = pylibjpeg.is_available

_NAME: Final = "renalcore"
_SYNTAXES: Final = frozenset(DECODER_DEPENDENCIES) - {uid.RLELossless}
_FRAME_HEADERS: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC} | {0xF7}
"""Markers of JPEG, and of JPEG-LS, after which the size stands."""


def plugin_of(dataset: Dataset) -> str:
    """What `decoding_plugin` of pydicom is to be for a data set; empty where each pixel has its place in the file."""
    return _NAME if dataset.file_meta.TransferSyntaxUID in _SYNTAXES else ""


def size_of(codestream: bytes) -> tuple[int, int]:
    """Rows and columns that a codestream of JPEG, JPEG-LS or JPEG 2000 states.

    Raises:
        ValueError: It states none, or is none of them.
    """
    if not codestream.startswith(b"\xff\xd8"):
        stated = get_parameters(codestream)  # reads the header alone
        return int(stated["rows"]), int(stated["columns"])
    at = 2
    while codestream[at : at + 1] == b"\xff" and at + 9 <= len(codestream):
        marker = codestream[at + 1]
        if marker == 0xFF:  # filling
            at += 1
        elif marker in _FRAME_HEADERS:
            return int.from_bytes(codestream[at + 5 : at + 7]), int.from_bytes(codestream[at + 7 : at + 9])
        else:
            at += 2 + int.from_bytes(codestream[at + 2 : at + 4])
    raise ValueError("a codestream without its size")


def decode_frame(codestream: bytes, runner: DecodeRunner) -> bytearray:
    """The plugin's function, as pydicom wants it.

    Raises:
        ValueError: The codestream is not of the picture's size.
    """
    if size_of(codestream) != (runner.rows, runner.columns):
        raise ValueError(f"a slice of another size than {runner.rows} x {runner.columns}")
    return pylibjpeg._decode_frame(codestream, runner)


for _syntax in _SYNTAXES:
    get_decoder(_syntax).add_plugin(_NAME, (__name__, decode_frame.__name__))
