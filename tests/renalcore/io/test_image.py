import io
import struct
import subprocess
import sys
import unicodedata
import zipfile
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from renalcore.errors import InputError, TooLarge, UnreadableFile
from renalcore.io.image import Limits, media_type, read_field, read_pixels, read_size, safe_name
from renalcore.io.quality import quality, round_field

Pixels = NDArray[np.uint8]


def drawn(width: int = 640, height: int = 480, *, level: int = 190, contrast: int = 60, cells: int = 25) -> Pixels:
    """A field of ring-shaped cells, 26 px across, on a light background with a little noise."""
    rng = np.random.default_rng(7)
    field = Image.new("L", (width * 4, height * 4), level)
    pen = ImageDraw.Draw(field)
    for x, y in rng.uniform((20, 20), (width - 20, height - 20), (cells, 2)) * 4:
        pen.ellipse((x - 52, y - 52, x + 52, y + 52), outline=max(0, level - contrast), width=12)
    grey = np.asarray(field.resize((width, height), Image.Resampling.BOX), np.float32)
    tinted = grey[..., None] * np.array([1.0, 0.97, 0.9]) + rng.normal(0, 1, (height, width, 1))
    return np.clip(tinted, 0, 255).astype(np.uint8)


FIELD = drawn()


def encoded(pixels: NDArray[np.generic] | Image.Image, file_format: str, **options: object) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    stream = io.BytesIO()
    image.save(stream, file_format, **options)  # type: ignore[arg-type]
    return stream.getvalue()


def codes(content: bytes) -> set[str]:
    return {flag.code for flag in read_field(content, name="field").flags}


def mean_difference(one: Pixels, other: Pixels) -> float:
    return float(np.abs(one.astype(int) - other.astype(int)).mean())


# What is read


@pytest.mark.parametrize(
    ("file_format", "options", "kind"),
    [
        ("PNG", {}, "image/png"),
        ("TIFF", {}, "image/tiff"),
        ("TIFF", {"compression": "tiff_lzw"}, "image/tiff"),
        ("TIFF", {"big_tiff": True}, "image/tiff"),
        ("BMP", {}, "image/bmp"),
        ("WEBP", {"lossless": True}, "image/webp"),
    ],
)
def test_lossless_kinds_come_back_to_the_pixel_whatever_their_name(
    file_format: str, options: dict[str, object], kind: str
) -> None:
    content = encoded(FIELD, file_format, **options)
    field = read_field(content, name="field.doc")
    np.testing.assert_array_equal(field.pixels, FIELD)
    assert (field.name, field.flags, field.round_field_px, field.um_per_px) == ("field.doc", (), None, None)
    assert media_type(content[:512]) == kind


@pytest.mark.parametrize(("file_format", "kind"), [("JPEG", "image/jpeg"), ("WEBP", "image/webp")])
def test_lossy_kinds_come_back_alike(file_format: str, kind: str) -> None:
    content = encoded(FIELD, file_format, quality=95)
    assert mean_difference(read_field(content, name="f").pixels, FIELD) < 2
    assert media_type(content) == kind


def test_bytes_a_path_and_a_stream_give_the_same_field(tmp_path: Path) -> None:
    content = encoded(FIELD, "PNG")
    path = tmp_path / "field.png"
    path.write_bytes(content)
    for source in (content, path, io.BytesIO(content)):
        field = read_field(source, name="folder/field.png", um_per_px=0.25)
        assert (field.name, field.um_per_px, field.pixels.shape) == ("field.png", 0.25, (480, 640, 3))


def test_pixels_can_be_read_alone_for_showing() -> None:
    np.testing.assert_array_equal(read_pixels(encoded(FIELD, "PNG"), name="f.png"), FIELD)
    with pytest.raises(UnreadableFile, match=r"f\.png: the file is empty"):
        read_pixels(b"", name="folder/f.png")


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "LA", "CMYK"])
def test_every_colour_mode_becomes_rgb(mode: str) -> None:
    source = Image.fromarray(FIELD).convert(mode)
    pixels = read_field(encoded(source, "TIFF"), name="f").pixels
    assert (pixels.shape, pixels.dtype) == ((480, 640, 3), np.uint8)
    np.testing.assert_array_equal(pixels, np.asarray(source.convert("RGB")))


def test_a_cmyk_jpeg_keeps_its_lightness() -> None:
    content = encoded(Image.fromarray(FIELD).convert("CMYK"), "JPEG", quality=95)
    assert mean_difference(read_field(content, name="f").pixels, FIELD) < 4


def test_what_is_transparent_is_white() -> None:
    glass = np.dstack([FIELD, np.full((480, 640), 255, np.uint8)])
    glass[:, :320, 3] = 0
    glass[:, 320:330, 3] = 128
    pixels = read_field(encoded(glass, "PNG"), name="f").pixels
    assert (pixels[:, :320] == 255).all()
    assert mean_difference(pixels[:, 320:330], (FIELD[:, 320:330] // 2 + 127)) < 1.5
    np.testing.assert_array_equal(pixels[:, 330:], FIELD[:, 330:])
    palette = Image.fromarray(FIELD).quantize(8)
    see_through = read_field(encoded(palette, "PNG", transparency=palette.getpixel((0, 0))), name="f").pixels
    assert (see_through[0, 0] == 255).all()


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_a_deep_grey_picture_keeps_its_brightness_whatever_depth_the_camera_has(file_format: str, bits: int) -> None:
    eight = FIELD[..., 0]
    deep = (eight.astype(np.float64) / 255 * (2**bits - 1)).round().astype(np.uint16)
    deep[5, 5:10] = 65535  # hot pixels
    field = read_field(encoded(deep, file_format), name="f")
    assert mean_difference(field.pixels, np.repeat(eight[..., None], 3, axis=2)) < 0.6
    assert [flag.code for flag in field.flags] == ["reduced_depth"]


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
@pytest.mark.parametrize("bits", [12, 16])
def test_a_deep_colour_picture_keeps_its_steps(suffix: str, bits: int) -> None:
    deep = (FIELD.astype(np.float64) / 255 * (2**bits - 1)).round().astype(np.uint16)
    content = cv2.imencode(suffix, deep[..., ::-1])[1].tobytes()
    field = read_field(content, name="f")
    assert mean_difference(field.pixels, FIELD) < 0.6  # Pillow alone would leave 16 steps of a 12-bit picture
    assert [flag.code for flag in field.flags] == ["reduced_depth"]


def test_a_deep_picture_with_transparency_lies_over_white() -> None:
    deep = np.dstack([FIELD[..., ::-1], np.full((480, 640), 255, np.uint8)]).astype(np.uint16) * 257
    deep[:, :320, 3] = 0
    pixels = read_field(cv2.imencode(".png", deep)[1].tobytes(), name="f").pixels
    assert (pixels[:, :320] == 255).all()
    np.testing.assert_array_equal(pixels[:, 320:], FIELD[:, 320:])


def test_a_picture_in_fractions_is_read() -> None:
    content = encoded(Image.fromarray(FIELD[..., 0].astype(np.float32) / 255), "TIFF")
    assert mean_difference(read_field(content, name="f").pixels[..., 0], FIELD[..., 0]) < 0.6


def test_a_deep_picture_whose_white_is_zero_is_not_a_negative() -> None:
    deep = 65535 - FIELD[..., 0].astype(np.uint16) * 257
    content = encoded(deep, "TIFF", tiffinfo={262: 0})
    if Image.open(io.BytesIO(content)).tag_v2[262] != 0:  # type: ignore[attr-defined]
        start = content.index(struct.pack("<HHI", 262, 3, 1)) + 8
        content = content[:start] + struct.pack("<H", 0) + content[start + 2 :]
    np.testing.assert_array_equal(read_field(content, name="f").pixels[..., 0], FIELD[..., 0])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_a_picture_stands_upright_as_its_camera_was_held(file_format: str, orientation: int, tmp_path: Path) -> None:
    scene = np.zeros((96, 128, 3), np.uint8)
    scene[:48, :64], scene[:48, 64:], scene[48:, :64] = (250, 0, 0), (0, 250, 0), (0, 0, 250)
    undo: dict[int, Callable[[Pixels], Pixels]] = {  # how such a camera stores what stands upright
        1: lambda a: a,
        2: np.fliplr,
        3: lambda a: np.rot90(a, 2),
        4: np.flipud,
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }
    stored = Image.fromarray(np.ascontiguousarray(undo[orientation](scene)))
    options: dict[str, object] = {"quality": 95} if file_format == "JPEG" else {}
    if file_format == "TIFF":
        options["tiffinfo"] = {274: orientation}
    else:
        exif = Image.Exif()
        exif[274] = orientation
        options["exif"] = exif
    if file_format == "WEBP":
        options["lossless"] = True
    content = encoded(stored, file_format, **options)
    pixels = read_field(content, name="f").pixels
    assert pixels.shape == scene.shape
    assert mean_difference(pixels, scene) < 4
    (tmp_path / "f").write_bytes(content)
    assert read_size(tmp_path / "f") == (128, 96)


def test_a_png_that_tells_behind_its_pixels_how_it_was_held_stands_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    content = encoded(Image.new("RGB", (128, 96)), "PNG", exif=exif)
    start = content.index(b"eXIf") - 4
    chunk = content[start : start + 12 + int.from_bytes(content[start : start + 4])]
    (tmp_path / "f.png").write_bytes(content.replace(chunk, b"")[:-12] + chunk + content[-12:])  # the last is IEND
    assert read_pixels(tmp_path / "f.png", name="f.png").shape == (128, 96, 3)
    assert read_size(tmp_path / "f.png") == (96, 128)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_deep_colour_tiff_stands_upright(orientation: int) -> None:
    deep = np.zeros((96, 128, 3), np.uint16)
    deep[:48, :64] = 60000
    content = cv2.imencode(".tiff", deep, [cv2.IMWRITE_TIFF_COMPRESSION, 1])[1].tobytes()
    with Image.open(io.BytesIO(content)) as image:
        tags = dict(image.tag_v2)  # type: ignore[attr-defined]
    assert tags[258] == (16, 16, 16)
    entries = struct.unpack_from("<H", content, struct.unpack_from("<I", content, 4)[0])[0]
    directory = struct.unpack_from("<I", content, 4)[0]
    old = content[directory + 2 : directory + 2 + 12 * entries]
    tag = struct.pack("<HHIHH", 274, 3, 1, orientation, 0)
    kept = [old[i : i + 12] for i in range(0, len(old), 12) if old[i : i + 2] != struct.pack("<H", 274)]
    table = b"".join(sorted([*kept, tag], key=lambda entry: struct.unpack_from("<H", entry)))
    content = content[:4] + struct.pack("<I", len(content)) + content[8:]
    content += struct.pack("<H", len(table) // 12) + table + b"\0\0\0\0"
    pixels = read_field(content, name="f").pixels
    lit = {1: (0, 0), 3: (-1, -1), 6: (0, -1), 8: (-1, 0)}[orientation]
    assert pixels.shape[:2] == ((96, 128) if orientation in {1, 3} else (128, 96))
    assert pixels[lit].min() > 200
    assert (pixels > 0).any(axis=2).mean() == pytest.approx(0.25)


def test_of_several_pictures_the_first_is_read_and_the_rest_mentioned() -> None:
    pages = [Image.fromarray(FIELD), Image.fromarray(255 - FIELD)]
    for file_format, options in (("TIFF", {}), ("PNG", {}), ("WEBP", {"lossless": True})):
        content = encoded(pages[0], file_format, save_all=True, append_images=pages[1:], **options)
        field = read_field(content, name="f")
        assert [flag.code for flag in field.flags] == ["first_frame_only"], file_format
        np.testing.assert_array_equal(field.pixels, FIELD)


def test_a_colour_profile_changes_nothing() -> None:
    assert codes(encoded(FIELD, "PNG", icc_profile=b"no profile at all")) == set()


# What is refused


def archive() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as packed:
        packed.writestr("field.png", encoded(FIELD, "PNG"))
    return stream.getvalue()


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


REFUSED = {
    "0 bytes": (b"", "the file is empty (0 bytes)"),
    "text": (b"RBC 12\r\nWBC 3\r\n", "this is text, not a picture; upload the picture itself"),
    "Persian text": ("گزارش آزمایش ادرار".encode(), "this is text"),
    "noise": (bytes(range(128, 256)) * 20, "not a picture that can be read; save the field as JPEG, PNG"),
    "zip": (archive(), "this is a zip archive; unpack it and upload the pictures in it"),
    "gif": (encoded(FIELD, "GIF"), "this is a GIF picture; save the field as JPEG, PNG, TIFF, BMP or WebP"),
    "heic": (b"\0\0\0\x18ftypheic" + bytes(100), "this is a HEIC or AVIF photograph; set the phone's camera to JPEG"),
    "pdf": (b"%PDF-1.7\n" + bytes(100), "this is a PDF document; export the pictures in it"),
    "dicom": (bytes(128) + b"DICM" + bytes(100), "this is a DICOM file; export the field as JPEG"),
    "thumbnail": (encoded(FIELD[:60, :90], "PNG"), "the picture has only 90 x 60 px; a field needs at least 64 px"),
    "header only": (b"\x89PNG\r\n\x1a\n", "the picture is damaged, cut off or of a variant"),
    **{
        f"half a {kind}": (content[: len(content) // 2], "the picture is damaged, cut off or of a variant")
        for kind, content in (
            ("JPEG", encoded(FIELD, "JPEG", quality=95)),
            ("PNG", encoded(FIELD, "PNG")),
            ("TIFF", encoded(FIELD, "TIFF")),
            ("deep TIFF", cv2.imencode(".tiff", FIELD.astype(np.uint16) * 257)[1].tobytes()),
            ("deep PNG", cv2.imencode(".png", FIELD.astype(np.uint16) * 257)[1].tobytes()),
            ("BMP", encoded(FIELD, "BMP")),
            ("WebP", encoded(FIELD, "WEBP")),
        )
    },
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_whole_picture_is_refused_with_the_remedy_and_the_base_name_only(case: str) -> None:
    content, message = REFUSED[case]
    with pytest.raises(UnreadableFile) as refusal:
        read_field(content, name="/home/lab/Meyer/field 3.png")
    assert str(refusal.value).startswith(f"field 3.png: {message}")
    assert "Meyer" not in str(refusal.value)


def test_a_refusal_is_in_a_technologists_words_and_not_in_the_decoders() -> None:
    cut, damaged = encoded(FIELD, "BMP")[:-1000], encoded(FIELD, "WEBP")[:200]
    remedy = "Copy it from the microscope again, or save it as PNG."
    for content, reason in ((cut, " (the file ends too early)"), (damaged, "")):
        with pytest.raises(UnreadableFile) as refusal:
            read_field(content, name="f.bmp")
        assert str(refusal.value) == (
            f"f.bmp: the picture is damaged, cut off or of a variant that cannot be read{reason}. {remedy}"
        )


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "BMP", "WEBP", "TIFF"])
def test_a_picture_over_the_pixel_limit_is_refused_from_its_header(file_format: str) -> None:
    with pytest.raises(TooLarge) as refusal:
        read_field(encoded(FIELD, file_format), name="f.png", limits=Limits(max_pixels=640 * 480 - 1))
    assert str(refusal.value).startswith("f.png: the picture has 640 x 480 px, more than the 0 million")


def test_a_bomb_of_30000_by_30000_is_refused_before_it_is_decoded() -> None:
    with pytest.raises(TooLarge) as refusal:
        read_field(png_header(30_000, 30_000), name="bomb.png")
    assert str(refusal.value) == (
        "bomb.png: the picture has 30000 x 30000 px, more than the 80 million that can be opened. "
        "Reduce it, or cut it into single fields."
    )


@pytest.mark.parametrize("stream", [False, True])
def test_a_file_over_the_byte_limit_is_not_even_read_whole(stream: bool) -> None:
    content = encoded(FIELD, "BMP")
    source = io.BytesIO(content) if stream else content
    with pytest.raises(TooLarge, match=r"f\.bmp: the file is larger than 0 MB\. Save it as JPEG, or reduce it\."):
        read_field(source, name="f.bmp", limits=Limits(max_bytes=1000))
    if isinstance(source, io.BytesIO):
        assert source.tell() == 1001


@pytest.mark.parametrize("kept", [0.3, 0.9, 0.999])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_cut_off_anywhere_is_refused(kept: float, progressive: bool) -> None:
    content = encoded(FIELD, "JPEG", progressive=progressive)
    with pytest.raises(UnreadableFile) as refusal:
        read_field(content[: int(len(content) * kept)], name="f.jpg")
    assert str(refusal.value).endswith("Copy it from the microscope again, or save it as PNG.")


@pytest.mark.shared_data
def test_slides_are_read_or_refused_with_a_reason(shared_data: Path) -> None:
    folder = shared_data / "histology" / "slide_formats"
    assert read_field(folder / "CMU-1-Small-Region.svs", name="slide.svs").pixels.shape == (2967, 2220, 3)
    for name in ("broken.svs", "no_mpp_jpeg2000.svs"):
        with pytest.raises(UnreadableFile, match=f"^{name}: "):
            read_field(folder / name, name=name)


def test_a_file_that_is_gone_is_refused_without_its_folder(tmp_path: Path) -> None:
    with pytest.raises(UnreadableFile) as refusal:
        read_field(tmp_path / "gone.png", name="gone.png")
    assert (
        str(refusal.value)
        == "gone.png: the file cannot be opened (No such file or directory). Check its name and place."
    )


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_a_scale_must_be_positive(scale: float) -> None:
    with pytest.raises(ValueError, match="um_per_px must be positive"):
        read_field(encoded(FIELD, "PNG"), name="f", um_per_px=scale)


SMALL = Image.fromarray(FIELD[:72, :80])
SEEDS = [encoded(SMALL, kind) for kind in ("JPEG", "PNG", "TIFF", "BMP", "WEBP")] + [
    encoded(FIELD[:72, :80, 0].astype(np.uint16) * 257, "TIFF"),
    cv2.imencode(".tiff", FIELD[:72, :80].astype(np.uint16))[1].tobytes(),
]


@pytest.mark.filterwarnings("ignore:::PIL")
@hypothesis.settings(max_examples=300)
@hypothesis.given(
    st.sampled_from(SEEDS), st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=8), st.floats(0, 1)
)
def test_broken_bytes_give_a_field_or_a_refusal_and_nothing_else(
    seed: bytes, changes: list[tuple[float, int]], cut: float
) -> None:
    content = bytearray(seed[: max(1, int(len(seed) * max(cut, 0.2)))])
    for where, byte in changes:
        content[int(where * (len(content) - 1))] = byte
    try:
        field = read_field(bytes(content), name="f")
    except InputError as refusal:
        assert str(refusal).startswith("f: ")  # noqa: PT017
    else:
        assert field.pixels.ndim == 3


def test_odd_metadata_leave_no_warning_on_the_console() -> None:
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0" + struct.pack("<HHII", 0x011A, 5, 1, 5000)  # points past its end
    content = encoded(FIELD[:80, :80], "JPEG", exif=exif).replace(b"JFIF", b"JUNK")
    program = (
        "import sys; from renalcore.io.image import read_field; "
        "print(read_field(sys.stdin.buffer, name='f').pixels.shape)"
    )
    done = subprocess.run([sys.executable, "-c", program], input=content, capture_output=True, check=False)
    assert (done.stdout.strip(), done.stderr) == (b"(80, 80, 3)", b"")


def test_threads_read_side_by_side() -> None:
    pictures = [encoded(np.roll(FIELD, 20 * i, axis=1), "PNG") for i in range(8)]
    with ThreadPoolExecutor(8) as threads:
        fields = list(threads.map(lambda content: read_field(content, name="f"), pictures * 4))
    for i, field in enumerate(fields):
        np.testing.assert_array_equal(field.pixels, np.roll(FIELD, 20 * (i % 8), axis=1))


# Names


@pytest.mark.parametrize(
    ("given", "safe"),
    [
        ("field 1.jpg", "field 1.jpg"),
        ("/home/lab/Meyer/field.png", "field.png"),
        ("C:\\Users\\lab\\field.png", "field.png"),
        ("../../etc/passwd", "passwd"),
        ("نمونه\u200cها ۳.png", "نمونه\u200cها ۳.png"),
        ("尿沉渣.tiff", "尿沉渣.tiff"),
        (unicodedata.normalize("NFD", "Müller.png"), "Müller.png"),
        ("a\0b\nc\x1b[31m.png", "abc[31m.png"),
        ("gpj.\u202eexe.png", "gpj.exe.png"),
        ("\ud800field.png", "field.png"),
        ("", "unnamed"),
        ("..", "unnamed"),
        ("folder/", "folder"),
        ("   ", "unnamed"),
    ],
)
def test_a_name_is_a_base_name_fit_to_be_shown(given: str, safe: str) -> None:
    assert safe_name(given) == safe


def test_a_long_name_keeps_its_suffix() -> None:
    short = safe_name("x" * 500 + ".tiff")
    assert (len(short), short[-6:]) == (120, "….tiff")


@hypothesis.given(st.text(max_size=300))
def test_no_name_carries_a_folder_or_a_control_character(name: str) -> None:
    safe = safe_name(name)
    assert 0 < len(safe) <= 120
    assert not set(safe) & set("/\\\0\n\r\t\u202e")
    assert safe_name(safe) == safe


# Quality


def blurred(pixels: Pixels, sigma_px: float) -> Pixels:
    return np.asarray(cv2.GaussianBlur(pixels, (0, 0), sigma_px))


def flagged(pixels: Pixels) -> set[str]:
    return {flag.code for flag in quality(pixels)}


@pytest.mark.parametrize("scale", [1, 2, 3])
def test_focus_is_judged_alike_at_every_camera_resolution(scale: int) -> None:
    sharp = np.asarray(Image.fromarray(FIELD).resize((640 * scale, 480 * scale), Image.Resampling.BICUBIC))
    assert flagged(sharp) == set()
    assert flagged(blurred(sharp, 26 * scale * 0.15)) == {"out_of_focus"}


@pytest.mark.parametrize("cells", [1, 5, 100, 900])
def test_focus_does_not_depend_on_the_number_of_particles(cells: int) -> None:
    assert "out_of_focus" not in flagged(drawn(cells=cells))
    assert "out_of_focus" in flagged(blurred(drawn(cells=cells), 4)) | ({"out_of_focus"} if cells == 1 else set())


def test_noise_is_not_taken_for_sharpness() -> None:
    noise = np.random.default_rng(1).normal(0, 4, FIELD.shape)
    assert "out_of_focus" in flagged(np.clip(blurred(FIELD, 4) + noise, 0, 255).astype(np.uint8))


def test_a_field_without_particles_is_nearly_empty_and_not_judged_otherwise() -> None:
    assert flagged(drawn(cells=0)) == {"nearly_empty"}
    assert flagged(np.full((480, 640, 3), 180, np.uint8)) == {"nearly_empty"}


def test_light_and_contrast_are_flagged() -> None:
    assert flagged((FIELD * 0.2).astype(np.uint8)) == {"too_dark"}
    assert "too_bright" in flagged(np.clip(FIELD.astype(int) + 90, 0, 255).astype(np.uint8))
    assert flagged(drawn(contrast=12)) == {"low_contrast"}


def test_each_flag_says_what_to_do() -> None:
    for flag in (*quality(blurred(FIELD, 4)), *quality((FIELD * 0.2).astype(np.uint8)), *quality(drawn(cells=0))):
        assert flag.message.count(". ") >= 1


# Round fields


def through_eyepiece(
    width: int, height: int, cx: float, cy: float, radius: float, *, glow: int = 6, edge_px: float = 3
) -> Pixels:
    rng = np.random.default_rng(3)
    scene = drawn(width, height, cells=60).astype(np.float32)
    rows, columns = np.indices((height, width))
    distance = np.hypot(columns - cx, rows - cy)
    light = 1 / (1 + np.exp((distance - radius) / edge_px)) * (1 - 0.25 * (distance / radius) ** 2).clip(0, 1)
    photo = scene * light[..., None] + glow * np.exp(-((distance - radius).clip(0) / 80))[..., None]
    return np.clip(photo + rng.normal(0, 3, scene.shape), 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("width", "height", "cx", "cy", "radius"),
    [
        (800, 600, 400, 300, 260),  # whole disc
        (600, 800, 310, 380, 270),
        (800, 600, 400, 300, 390),  # cut above and below
        (800, 600, 330, 280, 320),  # off centre, cut on three sides
        (800, 600, 260, 300, 240),
        (1600, 1200, 820, 590, 560),
    ],
)
def test_the_lit_disc_of_an_eyepiece_is_found(width: int, height: int, cx: int, cy: int, radius: int) -> None:
    found = round_field(through_eyepiece(width, height, cx, cy, radius))
    assert found is not None
    assert found == pytest.approx((cx, cy, radius), abs=0.015 * radius)


def test_a_round_field_is_flagged_and_judged_by_what_lies_inside_it() -> None:
    photo = through_eyepiece(800, 600, 400, 300, 260)
    field = read_field(encoded(photo, "PNG"), name="phone.png", um_per_px=1.0)
    assert [flag.code for flag in field.flags] == ["round_field"]
    assert field.area_mm2 == pytest.approx(np.pi * 260**2 * 1e-6, rel=0.03)
    assert "out_of_focus" in codes(encoded(blurred(photo, 5), "PNG"))


def vignetted(strength: float) -> Pixels:
    rows, columns = np.indices((480, 640))
    fall = 1 / (1 + (np.hypot(columns - 320, rows - 240) / 400) ** 2 * strength) ** 2
    return (FIELD * fall[..., None]).astype(np.uint8)


@pytest.mark.parametrize(
    "pixels",
    [
        FIELD,
        (FIELD * 0.1).astype(np.uint8),
        np.zeros((480, 640, 3), np.uint8),
        255 - drawn(cells=60),
        drawn(level=30, contrast=-180),
        vignetted(0.5),
        vignetted(1.5),
        vignetted(3.0),
        np.pad(FIELD, ((60, 60), (80, 80), (0, 0))),  # a black frame around a rectangle
        np.where(np.indices((480, 640)).sum(axis=0)[..., None] > 500, FIELD, 0).astype(np.uint8),  # a dark corner
    ],
    ids=["field", "dark", "black", "dark ground", "bright cells", "vignette", "strong", "stronger", "frame", "corner"],
)
def test_an_ordinary_picture_is_not_taken_for_a_round_field(pixels: Pixels) -> None:
    assert round_field(pixels) is None


# Real fields


@pytest.mark.shared_data
def test_real_fields_in_focus_raise_no_flag_and_blurred_ones_do(shared_data: Path) -> None:
    """Every 40th of the 2,018; over all of them see the constants in the module."""
    paths = sorted((shared_data / "sediment" / "urised2k" / "images").glob("*.webp"))[::40]
    fields = [read_field(path, name=path.name) for path in paths]
    assert sum(bool(field.flags) for field in fields) <= 1
    assert not any(field.round_field_px for field in fields)
    flags = [flagged(blurred(field.pixels, 0.15 * 31)) for field in fields]  # the median cell is 31 px across
    assert sum(bool(found & {"out_of_focus", "nearly_empty"}) for found in flags) >= len(fields) - 1
