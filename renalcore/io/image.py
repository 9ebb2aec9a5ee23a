"""Microscope pictures of any usual kind, read as fields: `(H, W, 3)` uint8 RGB, upright, with doubts as flags.

What a file is, its content says, never its name. JPEG, PNG, TIFF, BMP and WebP are read, in 8 or 16 bit, 1-bit, grey,
with a palette, RGB, with transparency (laid over white) or CMYK; colour profiles are ignored. Anything else is refused
with a message that names the file and what to do. Sizes are read from the header and checked before a pixel is decoded.

**16 bit.** Cameras put 10, 12 or 14 bits into 16. The depth is taken to be the smallest of 8, 10, 12, 14 and 16 that
holds 99.9 % of the values (so that a few hot pixels do not decide), and that range becomes 0..255: relative brightness
is kept, and a 12-bit picture is not black. Numbers with a fraction are taken as 0..1 where they fit, and anything
larger than 16 bits is scaled by its own 99.9th percentile. The flag `reduced_depth` says that it was done.

**Quality.** `quality` flags, it never refuses. Its numbers were measured on the 2,018 real fields of the URISED-2K set
(720x576 and 800x600, cells of 22 to 59 px; none of them is flagged) and on copies with Gaussian blur of 0.1 and 0.15
of a cell's diameter; each stands beside the constant it led to. Pictures are first reduced to a short side of about
600 px, the size of those fields.

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

_READERS: Final[dict[str, type[ImageFile.ImageFile]]] = {
    "image/jpeg": JpegImagePlugin.JpegImageFile,
    "image/png": PngImagePlugin.PngImageFile,
    "image/tiff": TiffImagePlugin.TiffImageFile,
    "image/bmp": BmpImagePlugin.BmpImageFile,
    "image/webp": WebPImagePlugin.WebPImageFile,
}
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
# A decoder fed with broken bytes raises almost anything that is not an exit; `Warning` where a caller made them errors.
_DECODER_ERRORS: Final = (
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

_WORKING_SIDE_PX: Final = 600
# Fine detail over coarse, see `_detail`. Real fields: 0.47 to 2.39, 99 % above 0.58. Below the limit are 96 % of the
# fields blurred by a tenth of a cell's diameter, and all of those blurred by 0.15.
_FOCUS_MIN: Final = 0.40
# Coarse detail in grey levels. Real fields: 5.2 to 49.7, 99 % above 17.
_EMPTY_MAX: Final = 1.5
_LOW_CONTRAST_MAX: Final = 4.0
# Grey levels. Real fields: background (95th percentile) from 145, median from 142 to 218.
_DARK_MAX: Final = 50.0
_BRIGHT_MIN: Final = 250.0
# White noise of one grey level has, after the two Gaussians of the fine detail, 0.216 of its deviation before them.
_NOISE_LEFT: Final = 0.216

_OUT_OF_FOCUS = QualityFlag(
    "out_of_focus", "The picture looks out of focus: edges are blurred. Focus again and retake it if you can."
)
_NEARLY_EMPTY = QualityFlag(
    "nearly_empty",
    "Almost nothing stands out from the background: an empty field, or one far out of focus. Check it by eye.",
)
_TOO_DARK = QualityFlag("too_dark", "The picture is very dark. Raise the lamp or the exposure and retake it.")
_TOO_BRIGHT = QualityFlag(
    "too_bright", "The background is burnt out to white. Lower the lamp or the exposure and retake it."
)
_LOW_CONTRAST = QualityFlag(
    "low_contrast", "Particles hardly stand out from the background. Close the condenser's aperture a little."
)
_ROUND_FIELD = QualityFlag(
    "round_field", "A round field on black, as through an eyepiece: only the lit disc counts as area."
)
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
    pixels, flags = _decoded(source, name, limits)
    disc = round_field(pixels)
    if disc:
        flags = (*flags, _ROUND_FIELD)
    return Field(name, pixels, um_per_px, (*flags, *quality(_inside(pixels, disc))), disc)


def read_pixels(source: bytes | Path | BinaryIO, *, name: str, limits: Limits = DEFAULT_LIMITS) -> NDArray[np.uint8]:
    """The upright pixels alone, for showing a field that was judged when it came in; else as `read_field`."""
    return _decoded(source, safe_name(name), limits)[0]


def quality(pixels: NDArray[np.uint8]) -> tuple[QualityFlag, ...]:
    """Doubts about a picture that shows nothing but the field, by the measured limits at the top of this module.

    Focus is judged by the share of fine detail in what stands out most, so neither the number of particles nor their
    contrast matters. A picture without particles cannot be judged and is `nearly_empty` instead.
    """
    grey = _working_copy(pixels)
    flags = []
    if np.percentile(grey, 95) < _DARK_MAX:
        flags.append(_TOO_DARK)
    elif np.median(grey) >= _BRIGHT_MIN:
        flags.append(_TOO_BRIGHT)
    fine, coarse = _detail(grey)
    if coarse < _EMPTY_MAX:
        flags.append(_NEARLY_EMPTY)
    elif fine < _FOCUS_MIN * coarse:
        flags.append(_OUT_OF_FOCUS)
    elif coarse < _LOW_CONTRAST_MAX and not flags:  # else the blur or the light explains it
        flags.append(_LOW_CONTRAST)
    return tuple(flags)


def round_field(pixels: NDArray[np.uint8]) -> tuple[float, float, float] | None:
    """The lit disc `(cx, cy, radius)` in px of a picture taken through an eyepiece, or None for an ordinary picture.

    A disc must be surrounded by black in two corners at least, end in a sharp edge (vignetting fades instead), follow
    a circle over a third of its turn, and leave nothing bright outside. The frame may cut it.
    """
    import cv2

    height, width = pixels.shape[:2]
    scale = max(1.0, max(height, width) / 512)
    size = (max(1, round(width / scale)), max(1, round(height / scale)))
    grey = cv2.cvtColor(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)
    light = float(np.percentile(grey, 90))
    patch = max(2, min(grey.shape) // 40)
    corners = [grey[y, x] for y in (slice(patch), slice(-patch, None)) for x in (slice(patch), slice(-patch, None))]
    dark_corners = sum(float(np.median(corner)) < 0.25 * light for corner in corners)
    if light < 30 or dark_corners < 2:
        return None
    mask = (cv2.medianBlur(grey, 5) >= 0.35 * light).astype(np.uint8)
    outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    rim = max(outlines, key=cv2.contourArea)[:, 0, :].astype(np.float64)
    on_frame = ((rim < 3) | (rim > np.array([grey.shape[1], grey.shape[0]]) - 4)).any(axis=1)
    circle = _fit_circle(rim[~on_frame])
    if circle is None:
        return None
    cx, cy, radius = circle
    if not 0.2 * min(grey.shape) <= radius <= max(grey.shape):
        return None
    rows, columns = np.indices(grey.shape)
    distance = np.hypot(columns - cx, rows - cy) / radius
    outside, inside = distance > 1.03, distance < 0.97
    before, behind = (distance > 0.85) & (distance < 0.95), (distance > 1.05) & (distance < 1.15)
    if outside.mean() < 0.03 or not behind.any():
        return None
    if (grey[outside] >= 0.35 * light).mean() > 0.05 or (grey[inside] >= 0.35 * light).mean() < 0.7:
        return None
    if np.median(grey[before]) < 3 * max(np.median(grey[behind]), 1):
        return None
    return (float((cx + 0.5) * scale), float((cy + 0.5) * scale), float((radius + 0.5) * scale))


def _decoded(
    source: bytes | Path | BinaryIO, name: str, limits: Limits
) -> tuple[NDArray[np.uint8], tuple[QualityFlag, ...]]:
    """Upright pixels, and flags for what was left out of the file."""
    content = _read(source, name, limits)
    kind = media_type(content)
    if kind not in _READERS:
        what = _REMEDIES.get(kind, f"not a picture that can be read; save the field as {_READABLE}")
        raise UnreadableFile(f"{name}: this is {what}." if kind in _REMEDIES else f"{name}: {what}.")
    try:
        with _READERS[kind](io.BytesIO(content)) as image:
            _check_size(image.size, name, limits)
            frames = _frames(image, kind)
            deep = _bits_per_channel(image, content, kind) > 8
            pixels = _deep_pixels(image, content) if deep else _pixels(image)
            if kind != "image/tiff":  # Pillow turns TIFF upright by itself
                pixels = _upright(pixels, _orientation(image.info.get("exif")))
    except (Image.DecompressionBombError, MemoryError):
        raise TooLarge(f"{name}: the picture is too large to be opened; reduce it and upload it again.") from None
    except _DECODER_ERRORS as error:
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
        except OSError as error:
            raise UnreadableFile(f"{name}: the file cannot be opened ({error.strerror or 'unreadable'}).") from error
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
    top = float(np.percentile(numbers, 99.9))
    if np.issubdtype(values.dtype, np.floating) and top <= 1:
        full = 1.0
    else:
        full = next((2.0**bits - 1 for bits in (8, 10, 12, 14, 16) if top <= 2**bits - 1), top)
    return np.clip(np.round(numbers * (255 / full)), 0, 255).astype(np.uint8)


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


def _inside(pixels: NDArray[np.uint8], disc: tuple[float, float, float] | None) -> NDArray[np.uint8]:
    """The largest upright square within the disc, or the whole picture."""
    if disc is None:
        return pixels
    cx, cy, radius = disc
    half = 0.68 * radius
    top, left = max(0, round(cy - half)), max(0, round(cx - half))
    return pixels[top : round(cy + half), left : round(cx + half)]


def _working_copy(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    image = Image.fromarray(pixels).convert("L")
    factor = max(1, round(min(image.size) / _WORKING_SIDE_PX))
    return np.asarray(image.reduce(factor) if factor > 1 else image, dtype=np.float32)


def _detail(grey: NDArray[np.float32]) -> tuple[float, float]:
    """What stands out most (the 99.9th percentile) between 1 and 2 px, without sensor noise, and between 4 and 8 px."""
    import cv2

    one, two, four, eight = (cv2.GaussianBlur(grey, (0, 0), sigma) for sigma in (1, 2, 4, 8))
    # Noise is known by what the smallest Gaussian removes; sharp particles lose little there against what they keep.
    noise = _NOISE_LEFT * 1.4826 * float(np.median(np.abs(grey - one)))
    fine = float(np.percentile(np.abs(one - two), 99.9))
    coarse = float(np.percentile(np.abs(four - eight), 99.9))
    return max(fine**2 - (3.29 * noise) ** 2, 0) ** 0.5, coarse


def _fit_circle(points: NDArray[np.float64]) -> tuple[float, float, float] | None:
    """The circle through most of the points, or None where there is none; dents and spikes are left out in steps."""
    kept = points
    for _ in range(8):
        if len(kept) < 40:
            return None
        centre = kept.mean(axis=0)
        shifted = kept - centre
        system = np.column_stack([shifted, np.ones(len(shifted))])
        a, b, c = np.linalg.lstsq(system, (shifted**2).sum(axis=1), rcond=None)[0]
        cx, cy = a / 2 + centre[0], b / 2 + centre[1]
        radius = float(np.sqrt(max(c + (a**2 + b**2) / 4, 0)))
        misses = np.abs(np.hypot(points[:, 0] - cx, points[:, 1] - cy) - radius)
        kept = points[misses <= max(1.5, 2 * float(np.median(misses)))]
    near = np.abs(np.hypot(points[:, 0] - cx, points[:, 1] - cy) - radius) <= max(2.0, 0.02 * radius)
    angles = np.arctan2(points[near, 1] - cy, points[near, 0] - cx)
    turn = len(np.unique(np.floor((angles + np.pi) / (2 * np.pi) * 36)))
    if near.mean() < 0.75 or turn < 12:
        return None
    return float(cx), float(cy), radius


def _reason(error: BaseException) -> str:
    """That the file is cut off, where the decoder says so. Its other words help nobody at a bench: the log has them."""
    words = str(error).lower()
    cut_off = isinstance(error, EOFError) or "truncated" in words or "requires a buffer of at least" in words
    return " (the file ends too early)" if cut_off else ""
