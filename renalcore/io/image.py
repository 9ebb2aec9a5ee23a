"""Microscope pictures of any usual kind, read as fields: `(H, W, 3)` uint8 RGB, upright, with doubts as flags.

What a file is, its content says, never its name. JPEG, PNG, TIFF, BMP and WebP are read, in 8 or 16 bit, 1-bit, grey,
with a palette, RGB, with transparency (laid over white) or CMYK; colour profiles are ignored. Anything else is refused
with a message that names the file and what to do. Sizes are read from the header and checked before a pixel is decoded.

**16 bit.** Cameras put 10, 12 or 14 bits into 16. The depth is taken to be the smallest of 8, 10, 12, 14 and 16 that
holds 99.9 % of the values (so that a few hot pixels do not decide), and that range becomes 0..255: relative brightness
is kept, and a 12-bit picture is not black. Numbers with a fraction are taken as 0..1 where they fit, and anything
larger than 16 bits is scaled by its own 99.9th percentile. The flag `reduced_depth` says that it was done.

All functions are free of shared state and may be called from several threads at once.
"""

from __future__ import annotations

import io
import struct
import unicodedata
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
from numpy.typing import NDArray
from PIL import BmpImagePlugin, Image, ImageFile, JpegImagePlugin, PngImagePlugin, TiffImagePlugin, WebPImagePlugin

from renalcore.errors import TooLarge, UnreadableFile
from renalcore.io.quality import judge
from renalcore.types import Field, QualityFlag

# Remarks on odd metadata, which nobody at a bench can act on. Set once: `catch_warnings` is not safe with threads.
warnings.filterwarnings("ignore", category=Warning, module=r"PIL\.")


@dataclass(frozen=True, slots=True)
class Limits:
    """What a file may cost before it is refused.

    Attributes:
        max_bytes: Size of the file.
        max_pixels: Width times height. 80 million fits every microscope camera and most phones (a decoded picture
            then takes 240 MB), and stays below the 89 million from which Pillow itself objects.
        min_side_px: Shorter side; below it no cell could be told from another.
    """

    max_bytes: int = 100 * 1024 * 1024
    max_pixels: int = 80_000_000
    min_side_px: int = 64


DEFAULT_LIMITS: Final = Limits()

_SIGNATURES: Final = (
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"II*\0", "image/tiff"),
    (b"MM\0*", "image/tiff"),
    (b"II+\0", "image/tiff"),
    (b"MM\0+", "image/tiff"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "image/jp2"),
    (b"\xff\x4f\xff\x51", "image/jp2"),
    (b"%PDF-", "application/pdf"),
    (b"PK\x03\x04", "application/zip"),
    (b"PK\x05\x06", "application/zip"),
    (b"Rar!\x1a\x07", "application/vnd.rar"),
    (b"7z\xbc\xaf\x27\x1c", "application/x-7z-compressed"),
    (b"\x1f\x8b", "application/gzip"),
)
_HEIF_BRANDS: Final = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1", b"avif", b"avis")

READERS: Final[dict[str, type[ImageFile.ImageFile]]] = {
    "image/jpeg": JpegImagePlugin.JpegImageFile,
    "image/png": PngImagePlugin.PngImageFile,
    "image/tiff": TiffImagePlugin.TiffImageFile,
    "image/bmp": BmpImagePlugin.BmpImageFile,
    "image/webp": WebPImagePlugin.WebPImageFile,
}
"""Pillow's reader of each kind that is read. Not `Image.open`: Ultralytics replaces that by a function which installs a
package from the network when a file is no picture."""

_READABLE: Final = "JPEG, PNG, TIFF, BMP or WebP"
_REMEDIES: Final = {
    "image/gif": f"a GIF picture; save the field as {_READABLE}",
    "image/heif": "a HEIC or AVIF photograph; set the phone's camera to JPEG ('most compatible') and take it again",
    "image/jp2": f"a JPEG 2000 picture; save the field as {_READABLE}",
    "application/pdf": "a PDF document; export the pictures in it and upload those",
    "application/zip": "a zip archive; unpack it and upload the pictures in it",
    "application/vnd.rar": "a rar archive; unpack it and upload the pictures in it",
    "application/x-7z-compressed": "a 7z archive; unpack it and upload the pictures in it",
    "application/gzip": "a compressed file; unpack it and upload the pictures in it",
    "application/dicom": f"a DICOM file; export the field as {_READABLE}",
    "text/plain": "text, not a picture; upload the picture itself",
}
DECODER_ERRORS: Final = (
    OSError,
    SyntaxError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    EOFError,
    RuntimeError,
    AssertionError,
    struct.error,
    zlib.error,
    Warning,
)
"""A decoder fed with broken bytes raises almost anything but an exit; `Warning` where a caller made them errors."""

_FIRST_FRAME_ONLY = QualityFlag(
    "first_frame_only", "The file holds several pictures; only the first was read. Upload the others one by one."
)
_REDUCED_DEPTH = QualityFlag("reduced_depth", "The picture has more than 8 bits a channel and was scaled down to 8.")


def media_type(content: bytes) -> str:
    """What a file is, told by its first bytes (512 are enough): `image/jpeg`, `text/plain`, ...

    What cannot be told is `application/octet-stream`.
    """
    for signature, kind in _SIGNATURES:
        if content.startswith(signature):
            return kind
    if content.startswith(b"RIFF") and content[8:12] == b"WEBP":
        return "image/webp"
    if content.startswith(b"BM") and content[6:10] == b"\0\0\0\0":
        return "image/bmp"
    if content[4:8] == b"ftyp" and content[8:12] in _HEIF_BRANDS:
        return "image/heif"
    if content[128:132] == b"DICM":
        return "application/dicom"
    head = content[:512]
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 3:  # else only the last character is cut
            return "application/octet-stream"
        text = head[: error.start].decode("utf-8")
    printable = all(character.isprintable() or character in "\t\r\n\f\ufeff" for character in text)
    return "text/plain" if text and printable else "application/octet-stream"


def safe_name(name: str, *, max_length: int = 120) -> str:
    """The base name of an uploaded file, fit for a database, a page and a message.

    Folders of any system are dropped, and so are control characters and those that reverse the direction of reading.
    Letters of every script stay, in the composed form (NFC). A longer name loses its middle, never its suffix.
    """
    base = name.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1]
    kept = "".join(
        character
        for character in unicodedata.normalize("NFC", base)
        if unicodedata.category(character) not in {"Cc", "Cf", "Cs", "Cn", "Zl", "Zp"}
        or character in "\u200c\u200d"  # joiners that Persian and Indic words are spelt with
    ).strip()
    if not kept.strip("."):
        return "unnamed"
    if len(kept) <= max_length:
        return kept
    suffix = Path(kept).suffix[:12]
    return kept[: max_length - len(suffix) - 1] + "…" + suffix


def read_field(
    source: bytes | Path | BinaryIO, *, name: str, um_per_px: float | None = None, limits: Limits = DEFAULT_LIMITS
) -> Field:
    """One microscope field from a picture file.

    Args:
        source: The file's bytes, its path, or a binary stream, which is read from where it stands.
        name: What the user calls the file; only its base name is kept and shown.
        um_per_px: Micrometres a pixel where known; it is never taken from the file.
        limits: What the file may cost.

    Returns:
        The upright picture with its quality flags. Boxes and `round_field_px` refer to its pixels.

    Raises:
        UnreadableFile: It is not a picture of a kind that can be read, is cut off, empty, or too small.
        TooLarge: It exceeds a limit.
        ValueError: `um_per_px` is not positive.
    """
    if um_per_px is not None and not 0 < um_per_px < float("inf"):
        raise ValueError(f"um_per_px must be positive, got {um_per_px}")
    name = safe_name(name)
    pixels, left_out = read_picture(source, name=name, limits=limits)
    doubts, disc = judge(pixels)
    return Field(name, pixels, um_per_px, (*left_out, *doubts), disc)


def read_pixels(source: bytes | Path | BinaryIO, *, name: str, limits: Limits = DEFAULT_LIMITS) -> NDArray[np.uint8]:
    """The upright pixels alone, for showing a field that was judged when it came in; else as `read_field`."""
    return read_picture(source, name=name, limits=limits)[0]


def read_size(path: Path) -> tuple[int, int]:
    """Width and height in px of the upright picture that `read_pixels` gives, from the file's header.

    Raises:
        UnreadableFile: It is not a picture of a kind that can be read.
    """
    try:
        with path.open("rb") as stream:
            kind = media_type(stream.read(512))
        with READERS[kind](path) as image:
            width, height = image.size
            orientation = _orientation_of(image, kind)
        if kind == "image/png" and orientation == 1:
            orientation = _orientation(_late_exif(path))
    except DECODER_ERRORS:
        raise UnreadableFile(
            f"{safe_name(path.name)} is not a picture that can be read; replace it or remove it"
        ) from None
    return (height, width) if orientation >= 5 else (width, height)


def read_picture(
    source: bytes | Path | BinaryIO, *, name: str, limits: Limits = DEFAULT_LIMITS
) -> tuple[NDArray[np.uint8], tuple[QualityFlag, ...]]:
    """Upright pixels, and flags for what was left out of the file, without judging what they show; as `read_field`."""
    name = safe_name(name)
    content = _read(source, name, limits)
    kind = media_type(content)
    if kind not in READERS:
        what = _REMEDIES.get(kind, f"not a picture that can be read; save the field as {_READABLE}")
        raise UnreadableFile(f"{name}: this is {what}." if kind in _REMEDIES else f"{name}: {what}.")
    try:
        with READERS[kind](io.BytesIO(content)) as image:
            _check_size(image.size, name, limits)
            frames = _frames(image, kind)
            deep = _bits_per_channel(image, content, kind) > 8
            pixels = _deep_pixels(image, content) if deep else _pixels(image)
            pixels = _upright(pixels, _orientation_of(image, kind))
    except (Image.DecompressionBombError, MemoryError):
        raise TooLarge(f"{name}: the picture is too large to be opened; reduce it and upload it again.") from None
    except DECODER_ERRORS as error:
        raise UnreadableFile(
            f"{name}: the picture is damaged, cut off or of a variant that cannot be read{_reason(error)}. "
            "Copy it from the microscope again, or save it as PNG."
        ) from error
    flags = ((_FIRST_FRAME_ONLY, frames > 1), (_REDUCED_DEPTH, deep))
    return pixels, tuple(flag for flag, raised in flags if raised)


def _read(source: bytes | Path | BinaryIO, name: str, limits: Limits) -> bytes:
    if isinstance(source, bytes):
        content = source
    else:
        try:
            if isinstance(source, Path):
                with source.open("rb") as stream:
                    content = stream.read(limits.max_bytes + 1)
            else:
                content = source.read(limits.max_bytes + 1)
        except IsADirectoryError:
            raise UnreadableFile(f"{name}: this is a folder. Name the pictures in it.") from None
        except OSError as error:
            raise UnreadableFile(
                f"{name}: the file cannot be opened ({error.strerror or 'unreadable'}). Check its name and place."
            ) from error
    if not content:
        raise UnreadableFile(f"{name}: the file is empty (0 bytes). Copy it from the microscope again.")
    if len(content) > limits.max_bytes:
        raise TooLarge(
            f"{name}: the file is larger than {limits.max_bytes / 2**20:.0f} MB. Save it as JPEG, or reduce it."
        )
    return content


def _check_size(size: tuple[int, int], name: str, limits: Limits) -> None:
    width, height = size
    if width * height > limits.max_pixels:
        raise TooLarge(
            f"{name}: the picture has {width} x {height} px, more than the {limits.max_pixels / 1e6:.0f} million that "
            "can be opened. Reduce it, or cut it into single fields."
        )
    if min(width, height) < limits.min_side_px:
        raise UnreadableFile(
            f"{name}: the picture has only {width} x {height} px; a field needs at least {limits.min_side_px} px "
            "a side. Upload the original, not its thumbnail."
        )


def _frames(image: ImageFile.ImageFile, kind: str) -> int:
    if kind == "image/jpeg":
        return 1  # phones put a preview behind the photograph
    return int(getattr(image, "n_frames", 1) or 1)


def _bits_per_channel(image: ImageFile.ImageFile, content: bytes, kind: str) -> int:
    if kind == "image/png":
        return content[24]
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        bits = image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (1,))
        return int(max(bits)) if isinstance(bits, tuple) else int(bits)
    return 8


def _pixels(image: Image.Image) -> NDArray[np.uint8]:
    image.load()
    if image.mode in {"RGBA", "LA", "PA", "RGBa", "La"} or "transparency" in image.info:
        over = image.convert({"La": "LA"}.get(image.mode, image.mode)).convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", over.size, "white"), over)
    return np.array(image.convert("RGB"))


def _deep_pixels(image: ImageFile.ImageFile, content: bytes) -> NDArray[np.uint8]:
    """More than 8 bits: grey by Pillow, colour by OpenCV, of which Pillow would keep the upper 8 bits only."""
    if image.mode in {"RGB", "RGBA"}:
        import cv2

        image.load()  # Pillow tells a file that is cut off; OpenCV fills it up
        raw = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
        if raw is not None and raw.dtype != np.uint8 and raw.shape[:2] == image.size[::-1]:
            values = raw[..., None] if raw.ndim == 2 else raw
            colour = _to_8_bit(values[..., :3])
            if values.shape[2] == 4:
                opacity = values[..., 3:].astype(np.float32) / np.iinfo(raw.dtype).max
                colour = np.round(255 - opacity * (255.0 - colour)).astype(np.uint8)
            return np.ascontiguousarray(np.broadcast_to(colour[..., ::-1], (*colour.shape[:2], 3)))
        return _pixels(image)
    if not image.mode.startswith(("I", "F")):
        return _pixels(image)
    image.load()
    grey = _to_8_bit(np.asarray(image))
    if (
        isinstance(image, TiffImagePlugin.TiffImageFile)
        and image.tag_v2.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0
    ):
        grey = 255 - grey  # white is zero, which Pillow minds in 8 bits only
    return np.repeat(grey[..., None], 3, axis=2)


def _to_8_bit(values: NDArray[np.generic]) -> NDArray[np.uint8]:
    """See "16 bit" at the top of this module."""
    numbers = np.nan_to_num(values.astype(np.float32), posinf=0, neginf=0)
    return np.clip(np.round(numbers * (255 / full_scale(values))), 0, 255).astype(np.uint8)


def full_scale(values: NDArray[np.generic]) -> float:
    """The value that becomes 255 in 8 bits; see "16 bit" at the top of this module."""
    numbers = np.nan_to_num(values.astype(np.float32), posinf=0, neginf=0)
    top = float(np.percentile(numbers, 99.9))
    if np.issubdtype(values.dtype, np.floating) and top <= 1:
        return 1.0
    return next((2.0**bits - 1 for bits in (8, 10, 12, 14, 16) if top <= 2**bits - 1), top)


def _orientation_of(image: ImageFile.ImageFile, kind: str) -> int:
    """How a picture has to be turned: TIFF not at all, for Pillow has its size and pixels upright already."""
    return 1 if kind == "image/tiff" else _orientation(image.info.get("exif"))


def _late_exif(path: Path) -> bytes | None:
    """The EXIF data of a PNG wherever they stand; Pillow sees those behind the picture only when it decodes it."""
    with path.open("rb") as stream:
        stream.seek(8)
        while len(head := stream.read(8)) == 8:
            length, chunk = struct.unpack(">I4s", head)
            if chunk == b"eXIf":
                return stream.read(length)
            stream.seek(length + 4, io.SEEK_CUR)
    return None


def _orientation(exif: bytes | None) -> int:
    """The orientation that EXIF data state, 1 where they are absent or broken."""
    data = (exif or b"").removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(data[:4])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(order + "I", data, 4)
        (count,) = struct.unpack_from(order + "H", data, start)
        for entry in range(start + 2, start + 2 + 12 * count, 12):
            tag, _, _, value = struct.unpack_from(order + "HHIH", data, entry)
            if tag == 0x0112:
                return value if 1 <= value <= 8 else 1
    except struct.error:
        return 1
    return 1


def _upright(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    if orientation in {5, 6, 7, 8}:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in {3, 4, 7, 8}:
        pixels = pixels[::-1]
    if orientation in {2, 3, 6, 7}:
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _reason(error: BaseException) -> str:
    """That the file is cut off, where the decoder says so. Its other words help nobody at a bench: the log has them."""
    words = str(error).lower()
    cut_off = isinstance(error, EOFError) or "truncated" in words or "requires a buffer of at least" in words
    return " (the file ends too early)" if cut_off else ""
