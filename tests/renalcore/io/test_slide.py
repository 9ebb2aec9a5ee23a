"""Slides drawn here in each format that can be written, and the real ones beside the project.

Nothing here can write MRXS, NDPI, SCN or BIF slides: of those only what OpenSlide tells about them is tested. Those in
DICOM are in `test_packed_slide.py`.
"""

import io
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from renalcore.errors import InputError, TooLarge, UnreadableFile
from renalcore.histology.pyramid import write_pyramid
from renalcore.io.slide import Slide, open_slide
from renalcore.io.slide.scale import likely, um_of
from renalcore.io.slide.tiff import TiffSource
from renalcore.io.slide.vendors import bounds

Pixels = NDArray[np.uint8]
WIDTH, HEIGHT = 700, 500


def tissue(x: int = 0, y: int = 0, width: int = WIDTH, height: int = HEIGHT) -> Pixels:
    """Red rises with x and green with y, a grey level every 4 px: a pixel tells where it came from."""
    rows, columns = np.mgrid[y : y + height, x : x + width]
    return np.stack([columns // 4 % 256, rows // 4 % 256, np.full_like(rows, 200)], axis=-1).astype(np.uint8)


def written(path: Path, pixels: NDArray[Any] | None = None, **options: Any) -> Path:
    options = {"photometric": "rgb", "metadata": None} | options
    tifffile.imwrite(path, tissue() if pixels is None else pixels, **options)
    return path


def jpeg(pixels: Pixels) -> bytes:
    return cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()


def codes(slide: Slide) -> set[str]:
    return {flag.code for flag in slide.flags}


@pytest.fixture(scope="module")
def pyramid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("slides") / "pyramid.tif"
    write_pyramid(path, width_px=2000, height_px=1000, block=tissue, um_per_px=0.5, tile_px=128, quality=95)
    return path


# Windows


def test_a_window_is_the_same_place_at_every_resolution(pyramid: Path) -> None:
    with open_slide(pyramid) as slide:
        assert [(level.width_px, level.height_px) for level in slide.levels[:2]] == [(2000, 1000), (1000, 500)]
        assert (slide.format, slide.um_per_px, slide.flags) == ("TIFF", 0.5, ())
        for downsample in (0.5, 1.0, 2.0, 2.7, 4.0, 10.0):
            window = slide.read(80, 120, 60, 40, downsample=downsample).astype(float)
            # The middle of result pixel 30 lies 30.5 * downsample px to the right of the corner.
            assert window[:, 30, 0].mean() == pytest.approx((80 + 30.5 * downsample) / 4 - 0.5, abs=2)
            assert window[20, :, 1].mean() == pytest.approx((120 + 20.5 * downsample) / 4 - 0.5, abs=2)


def test_shrinking_averages_areas(tmp_path: Path) -> None:
    chessboard = np.repeat((np.indices((200, 200)).sum(axis=0) % 2 * 200)[..., None], 3, axis=2).astype(np.uint8)
    with open_slide(written(tmp_path / "slide.tif", chessboard)) as slide:
        assert (slide.read(0, 0, 50, 50, downsample=2.0) == 100).all()


def test_outside_the_slide_it_is_white(tmp_path: Path) -> None:
    with open_slide(written(tmp_path / "slide.tif")) as slide:
        corner = slide.read(-10, -20, 40, 50)
        assert (corner[:20] == 255).all()
        assert (corner[:, :10] == 255).all()
        np.testing.assert_array_equal(corner[20:, 10:], tissue(0, 0, 30, 30))
        assert (slide.read(WIDTH, 0, 9, 9) == 255).all()
        assert (slide.read(-1e6, 1e6, 9, 9, downsample=64) == 255).all()


def test_neighbouring_windows_join_without_a_seam(pyramid: Path) -> None:
    with open_slide(pyramid) as slide:
        whole = slide.read(0, 0, 640, 256, downsample=1.5)
        parts = [slide.read(left * 1.5, 0, 128, 256, downsample=1.5) for left in range(0, 640, 128)]
        assert np.abs(whole.astype(int) - np.hstack(parts)).max() <= 1


def test_a_thumbnail_is_the_whole_slide_and_never_larger_than_it(pyramid: Path) -> None:
    with open_slide(pyramid) as slide:
        assert slide.thumbnail(300).shape == (150, 300, 3)
        assert slide.thumbnail(9000).shape == (1000, 2000, 3)


@pytest.mark.parametrize("made_by", ["pyramid writer", "scanner"])
def test_eight_threads_get_what_one_gets(pyramid: Path, tmp_path: Path, made_by: str) -> None:
    path = pyramid if made_by == "pyramid writer" else scanned(tmp_path / "slide.svs")
    places = [(x, y, downsample) for downsample in (1.0, 2.0, 3.0) for x in range(0, 1600, 200) for y in (0, 300)]

    def window(place: tuple[int, int, float]) -> bytes:
        return shared.read(place[0], place[1], 100, 100, downsample=place[2]).tobytes()

    with open_slide(path) as shared:
        alone = [window(place) for place in places]
    with open_slide(path) as shared, ThreadPoolExecutor(8) as pool:
        assert list(pool.map(window, places)) == alone


def test_a_slide_closed_while_others_read_waits_for_them_and_then_refuses(pyramid: Path) -> None:
    slide = open_slide(pyramid)
    with ThreadPoolExecutor(4) as pool:
        results = [pool.submit(slide.read, 0, 0, 400, 400) for _ in range(8)]
        slide.close()
        for result in results:
            assert result.exception() is None or str(result.exception()) == "the slide is closed"
    with pytest.raises(ValueError, match="closed"):
        slide.read(0, 0, 1, 1)


def test_a_window_of_nothing_is_refused(pyramid: Path) -> None:
    with open_slide(pyramid) as slide:
        for size, downsample in (((0, 5), 1.0), ((5, 5), 0.0), ((5, 5), float("nan"))):
            with pytest.raises(ValueError, match="larger than nothing"):
                slide.read(0, 0, *size, downsample=downsample)


# Memory


def test_a_picture_of_20000_px_without_smaller_levels_is_read_in_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "flat.tif"  # 1.2 GB of zeros, of which the disk holds none
    tifffile.imwrite(path, shape=(20_000, 20_000, 3), dtype=np.uint8, photometric="rgb", metadata=None)
    tracemalloc.start()
    try:
        with open_slide(path) as slide:
            assert slide.levels[-1].width_px == 2500  # computed when it is first read
            for corner in ((0, 0), (19_000, 19_900)):
                slide.read(*corner, 512, 512)
            assert slide.read(3000, 9000, 100, 100, downsample=4.0).max() == 0
        assert tracemalloc.get_traced_memory()[1] < 100 * 2**20
    finally:
        tracemalloc.stop()


def test_the_small_level_that_a_file_lacks_is_computed_right(tmp_path: Path) -> None:
    rows, columns = np.mgrid[0:200, 0:9000]
    pixels = np.stack([columns // 40, rows, rows * 0], axis=-1).astype(np.uint8)
    path = written(tmp_path / "wide.tif", pixels, rowsperstrip=50)
    with open_slide(path) as slide:
        assert [level.downsample for level in slide.levels] == [1.0, 4.0]
        small = slide.read(0, 0, 9000 // 8, 200 // 8, downsample=8.0).astype(float)
        assert small[20, 1000, :2] == pytest.approx([1000.5 * 8 / 40 - 0.5, 20.5 * 8 - 0.5], abs=1)


@pytest.mark.long
def test_reading_all_of_a_slide_of_40000_px_stays_under_300_mb(tmp_path: Path) -> None:
    path = tmp_path / "large.tif"
    tile = tissue(0, 0, 512, 512)
    write_pyramid(
        path, width_px=40_000, height_px=40_000, block=lambda x, y, w, h: tile[:h, :w], um_per_px=0.25, tile_px=512
    )
    tracemalloc.start()
    try:
        with open_slide(path) as slide:
            for top in range(0, 40_000, 4096):
                for left in range(0, 40_000, 4096):
                    slide.read(left, top, 1024, 1024, downsample=4.0)
                    slide.read(left, top, 512, 512)
            slide.thumbnail(1000)
        assert tracemalloc.get_traced_memory()[1] < 300 * 2**20
    finally:
        tracemalloc.stop()


# Kinds of TIFF


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"rowsperstrip": 7, "compression": "lzw", "predictor": True},
        {"tile": (64, 64), "compression": "deflate"},
        {"tile": (64, 128), "compression": "zstd", "bigtiff": True, "byteorder": ">"},
        {"tile": (128, 128), "compression": "jpeg2000", "compressionargs": {"level": 0, "reversible": True}},
        {"rowsperstrip": 500, "byteorder": ">"},
    ],
    ids=["plain", "LZW", "deflate tiles", "BigTIFF zstd", "JPEG 2000", "one strip"],
)
def test_tiff_of_every_usual_kind_comes_back_to_the_pixel(tmp_path: Path, options: dict[str, Any]) -> None:
    with open_slide(written(tmp_path / "slide.bin", **options)) as slide:
        np.testing.assert_array_equal(slide.read(0, 0, WIDTH, HEIGHT), tissue())
        np.testing.assert_array_equal(slide.read(333, 222, 150, 90), tissue(333, 222, 150, 90))
        assert (slide.um_per_px, slide.flags) == (None, ())


def test_planes_greys_and_transparency_are_read_as_what_they_show(tmp_path: Path) -> None:
    pixels = tissue()
    planar = written(tmp_path / "planar.tif", pixels.transpose(2, 0, 1), planarconfig="separate", tile=(64, 64))
    with open_slide(planar) as slide:
        np.testing.assert_array_equal(slide.read(100, 50, 300, 200), pixels[50:250, 100:400])
    grey = written(tmp_path / "grey.tif", pixels[..., 0], photometric="miniswhite")
    with open_slide(grey) as slide:
        np.testing.assert_array_equal(slide.read(0, 0, WIDTH, HEIGHT)[..., 2], 255 - pixels[..., 0])
    clear = np.dstack([pixels, np.zeros((HEIGHT, WIDTH), np.uint8)])
    with open_slide(written(tmp_path / "clear.tif", clear, extrasamples=["unassalpha"])) as slide:
        assert (slide.read(0, 0, WIDTH, HEIGHT) == 255).all()


def test_palettes_cmyk_and_16_bits_are_read_and_16_bits_flagged(tmp_path: Path) -> None:
    Image.fromarray(tissue()).quantize(256).save(tmp_path / "palette.tif")
    Image.fromarray(tissue()).convert("CMYK").save(tmp_path / "cmyk.tif")
    written(tmp_path / "deep.tif", tissue().astype(np.uint16) * 16)  # 12 of 16 bits, as cameras give them
    for name, flags in (("palette.tif", set()), ("cmyk.tif", set()), ("deep.tif", {"reduced_depth"})):
        with open_slide(tmp_path / name) as slide:
            assert codes(slide) == flags
            assert np.abs(slide.read(0, 0, WIDTH, HEIGHT).astype(int) - tissue()).mean() < 8


def test_16_bits_too_large_to_be_held_whole_are_scaled_as_small_ones_are(tmp_path: Path) -> None:
    tile = zlib.compress(np.full((1008, 1008), 4000, np.uint16).tobytes())
    path = tmp_path / "deep.tif"  # 81 million px
    tifffile.imwrite(
        path, iter([tile] * 81), shape=(9000, 9000), dtype=np.uint16, photometric="minisblack", tile=(1008, 1008),
        compression="deflate", metadata=None,
    )  # fmt: skip
    with open_slide(path) as slide:
        assert codes(slide) == {"reduced_depth"}
        assert (slide.read(100, 100, 10, 10) == round(4000 * 255 / 4095)).all()


def test_a_palette_too_large_to_be_held_whole_is_read_by_region(tmp_path: Path) -> None:
    picture = Image.fromarray(tissue()).quantize(256)
    picture.save(tmp_path / "palette.tif")
    source = TiffSource(tmp_path / "palette.tif", name="palette.tif")
    source.prepare()
    found = source.region(0, 100, 50, 300, 200)
    source.close()
    np.testing.assert_array_equal(found, np.asarray(picture.convert("RGB"))[50:250, 100:400])


def test_the_levels_of_an_ome_tiff_lie_below_its_picture(tmp_path: Path) -> None:
    path = tmp_path / "slide.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as tiff:
        tiff.write(tissue(), photometric="rgb", tile=(64, 64), subifds=2, metadata={"PhysicalSizeX": 0.5})
        for step in (2, 4):
            tiff.write(tissue()[::step, ::step].copy(), photometric="rgb", tile=(64, 64), subfiletype=1)
    with open_slide(path) as slide:
        assert [level.width_px for level in slide.levels] == [700, 350, 175]
        np.testing.assert_array_equal(slide.read(0, 0, 175, 125, downsample=4.0), tissue()[::4, ::4])


def test_a_thumbnail_beside_the_picture_is_no_level_and_a_smaller_copy_is(tmp_path: Path) -> None:
    path = tmp_path / "slide.tif"
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(tissue(), photometric="rgb", metadata=None)
        tiff.write(tissue()[::5, ::5].copy(), photometric="rgb", metadata=None, subfiletype=1)
        tiff.write(tissue()[:64, :64].copy(), photometric="rgb", metadata=None, subfiletype=1)  # of another shape
    with open_slide(path) as slide:
        assert [level.width_px for level in slide.levels] == [700, 140]


# Scale


@pytest.mark.parametrize(
    ("options", "um_per_px"),
    [
        ({"resolution": (20_000, 20_000), "resolutionunit": "CENTIMETER"}, 0.5),
        ({"resolution": (101_600, 101_600), "resolutionunit": "INCH"}, 0.25),
        ({"resolution": (20_000, 20_000), "resolutionunit": "NONE"}, None),
        ({"resolution": (72, 72), "resolutionunit": "INCH"}, None),
        ({"resolution": (96, 96), "resolutionunit": "INCH"}, None),
        ({"resolution": (1200, 1200), "resolutionunit": "INCH"}, None),
        ({"resolution": (20_000, 10_000), "resolutionunit": "CENTIMETER"}, None),
        ({"resolution": (4, 4), "imagej": True, "photometric": None, "metadata": {"unit": "um"}}, 0.25),
        ({"ome": True, "metadata": {"PhysicalSizeX": 0.25, "PhysicalSizeY": 0.25}}, 0.25),
        ({"ome": True, "metadata": {"PhysicalSizeX": 250, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 250,
                                    "PhysicalSizeYUnit": "nm"}}, 0.25),
        ({"ome": True, "metadata": {"PhysicalSizeX": 1, "PhysicalSizeXUnit": "pixel"}}, None),
    ],
)  # fmt: skip
def test_a_scale_is_taken_from_where_a_microscope_writes_it_and_nowhere_else(
    tmp_path: Path, options: dict[str, Any], um_per_px: float | None
) -> None:
    with open_slide(written(tmp_path / "slide.tif", **options)) as slide:
        assert slide.um_per_px == (None if um_per_px is None else pytest.approx(um_per_px, rel=1e-4))
        assert slide.flags == ()


def test_a_scale_that_cannot_be_is_dropped_and_flagged(tmp_path: Path) -> None:
    options: dict[str, Any] = {"ome": True, "metadata": {"PhysicalSizeX": 353.0, "PhysicalSizeY": 353.0}}
    with open_slide(written(tmp_path / "slide.ome.tif", **options)) as slide:
        assert (slide.format, slide.um_per_px, codes(slide)) == ("OME-TIFF", None, {"unlikely_scale"})
    assert likely(0.5, 0.51) == pytest.approx(0.505, abs=1e-3)
    assert (likely(0.5, 0.6), likely(0.001, 0.001), likely(None, 0.5)) == (None, None, None)
    assert (um_of("Micron"), um_of("mm"), um_of("pixel")) == (1.0, 1000.0, None)


def test_a_scale_that_the_user_gives_fills_a_gap_and_may_not_contradict_the_file(pyramid: Path, tmp_path: Path) -> None:
    with open_slide(written(tmp_path / "slide.tif"), um_per_px=0.3) as slide:
        assert slide.um_per_px == 0.3
    with open_slide(pyramid, um_per_px=0.52) as slide:
        assert slide.um_per_px == 0.5  # the file knows better, within 10 %
    with pytest.raises(InputError, match=r"states 0\.5 um a pixel, but 0.25 was given"):
        open_slide(pyramid, um_per_px=0.25)
    with pytest.raises(ValueError, match="positive"):
        open_slide(pyramid, um_per_px=0.0)


# Scanners' files


def scanned(path: Path, *, about: str = "|MPP = 0.2500|AppMag = 40") -> Path:
    """An Aperio slide as its scanner writes it: two levels, a thumbnail, and a label that names the patient."""
    head = "Aperio Image Library v12.0.15\r\n"
    options: dict[str, Any] = {"photometric": "rgb", "compression": "jpeg", "metadata": None}
    label = np.full((120, 100, 3), (255, 0, 0), np.uint8)
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(tissue(), tile=(240, 240), description=f"{head}700x500 [0,0 700x500] (240x240) JPEG/RGB{about}",
                   **options)  # fmt: skip
        tiff.write(tissue()[::4, ::4].copy(), rowsperstrip=16, description=f"{head}700x500 -> 175x125 - {about}",
                   **options)  # fmt: skip
        tiff.write(tissue()[::2, ::2].copy(), tile=(240, 240), description=f"{head}700x500 [0,0 700x500] (240x240) -> "
                   f"350x250 JPEG/RGB{about}", **options)  # fmt: skip
        tiff.write(label, photometric="rgb", compression="lzw", metadata=None, rowsperstrip=120, subfiletype=1,
                   description=f"{head}label 100x120")  # fmt: skip
    return path


def test_a_scanners_slide_is_known_by_its_content_and_its_label_stays_hidden(tmp_path: Path) -> None:
    about = "|MPP = 0.2500|AppMag = 40|Patient = Doe^Jane"
    with open_slide(scanned(tmp_path / "Doe_Jane.png", about=about), name="slide 7") as slide:
        assert (slide.name, slide.format, slide.um_per_px, slide.objective) == ("slide 7", "Aperio SVS", 0.25, 40)
        assert [(level.width_px, level.height_px) for level in slide.levels] == [(700, 500), (350, 250)]
        assert np.abs(slide.read(96, 48, 128, 96).astype(int) - tissue(96, 48, 128, 96)).mean() < 6
        assert not any("label" in name or "propert" in name or "associated" in name for name in dir(slide))
        shown = repr(slide) + repr([value for key, value in vars(slide).items() if not key.startswith("_")])
        assert "Doe" not in shown


def test_a_label_among_the_pictures_of_an_ome_tiff_is_never_the_slide(tmp_path: Path) -> None:
    path = tmp_path / "slide.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as tiff:
        tiff.write(tissue(), photometric="rgb", metadata={"Name": "slide"})
        tiff.write(np.zeros((900, 900, 3), np.uint8), photometric="rgb", metadata={"Name": "label image"})
    with open_slide(path) as slide:
        np.testing.assert_array_equal(slide.read(0, 0, WIDTH, HEIGHT), tissue())


def test_a_slide_is_cropped_to_what_was_scanned() -> None:
    stated = {f"openslide.bounds-{side}": value for side, value in zip(
        ("x", "y", "width", "height"), ("1000", "2000", "300", "400"), strict=True)}  # fmt: skip
    assert bounds(stated, (9000, 9000)) == (1000, 2000, 300, 400)
    assert bounds(stated | {"openslide.bounds-y": "0"}, (9000, 9000)) == (1000, 0, 300, 400)
    assert bounds({}, (9000, 9000)) == (0, 0, 9000, 9000)
    assert bounds(stated, (1200, 9000)) == (0, 0, 1200, 9000)  # beyond the plane: not believed


# Pictures


@pytest.mark.parametrize("kind", ["PNG", "BMP", "WEBP"])
def test_small_pictures_are_slides_of_one_level_whatever_their_name(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "section.svs"
    Image.fromarray(tissue()).save(path, kind, **({"lossless": True} if kind == "WEBP" else {}))
    with open_slide(path) as slide:
        assert (slide.name, slide.format.upper(), slide.um_per_px) == ("section.svs", kind, None)
        np.testing.assert_array_equal(slide.read(7, 9, 50, 40), tissue(7, 9, 50, 40))


def test_what_may_be_no_stained_section_is_read_and_flagged(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010F] = "Maker of phones"
    Image.fromarray(tissue()).save(tmp_path / "photo.jpg", quality=95, exif=exif)
    Image.fromarray(tissue()[..., 0]).save(tmp_path / "electron.png")
    glowing = np.zeros((300, 300, 3), np.uint8)
    glowing[100:150, 100:150, 1] = 250
    Image.fromarray(glowing).save(tmp_path / "fluorescence.png")
    expected = {"photo.jpg": "camera_picture", "electron.png": "no_colour", "fluorescence.png": "dark_background"}
    for name, flag in expected.items():
        with open_slide(tmp_path / name) as slide:
            assert codes(slide) == {flag}


# Refusals


def test_fluorescence_and_time_are_refused_and_depth_is_read_in_the_middle(tmp_path: Path) -> None:
    stack = np.stack([np.full((100, 100), level, np.uint8) for level in (60, 120, 180)])
    refused = {
        "channels.ome.tif": {"ome": True, "metadata": {"axes": "CYX"}},
        "time.ome.tif": {"ome": True, "metadata": {"axes": "TYX"}},
        "channels.tif": {"imagej": True, "metadata": {"axes": "CYX"}},
    }
    for name, options in refused.items():
        written(tmp_path / name, stack, **{"photometric": "minisblack"} | options)
        with pytest.raises(UnreadableFile, match="time series" if "time" in name else "fluorescence"):
            open_slide(tmp_path / name)
    one = {"axes": "YX", "Channel": {"EmissionWavelength": 461.0}}
    written(tmp_path / "dapi.ome.tif", stack[0], photometric="minisblack", ome=True, metadata=one)
    with pytest.raises(UnreadableFile, match="fluorescence"):
        open_slide(tmp_path / "dapi.ome.tif")
    written(tmp_path / "deep.ome.tif", stack, photometric="minisblack", ome=True, metadata={"axes": "ZYX"})
    with open_slide(tmp_path / "deep.ome.tif") as slide:
        assert (slide.read(50, 50, 1, 1) == 120).all()
        assert "one_plane" in codes(slide)
    written(tmp_path / "pages.tif", np.stack([tissue(), tissue()]))
    with open_slide(tmp_path / "pages.tif") as slide:
        assert codes(slide) == {"first_frame_only"}


@pytest.mark.parametrize("make", [scanned, lambda path: written(path, tile=(64, 64), compression="deflate")])
def test_a_slide_cut_off_while_it_was_copied_is_refused_when_it_is_opened(
    tmp_path: Path, make: Callable[[Path], Path]
) -> None:
    content = make(tmp_path / "whole.tif").read_bytes()
    for share in (0.01, 0.3, 0.9):
        (tmp_path / "cut.tif").write_bytes(content[: int(share * len(content))])
        with pytest.raises(UnreadableFile, match=r"cut\.tif: .*(cut off|damaged).*[Cc]opy it"):
            open_slide(tmp_path / "cut.tif")


def test_a_damaged_tile_is_told_when_it_is_read(tmp_path: Path) -> None:
    path = written(tmp_path / "slide.tif", tile=(64, 64), compression="deflate")
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        at, length = page.dataoffsets[12], page.databytecounts[12]
    content = bytearray(path.read_bytes())
    content[at : at + length] = bytes(length)
    path.write_bytes(content)
    with open_slide(path) as slide:
        slide.read(0, 0, 60, 60)
        with pytest.raises(UnreadableFile, match=r"slide\.tif: a part of the slide is damaged"):
            slide.read(0, 0, WIDTH, HEIGHT)


def test_a_tile_that_would_burst_the_memory_is_refused(tmp_path: Path) -> None:
    tiles = [jpeg(np.zeros((side, side, 3), np.uint8)) for side in (256, 2000, 256, 256)]
    path = tmp_path / "bomb.tif"
    tifffile.imwrite(
        path, iter(tiles), shape=(512, 512, 3), dtype=np.uint8, photometric="rgb", compression="jpeg",
        tile=(256, 256), metadata=None,
    )  # fmt: skip
    with pytest.raises(UnreadableFile, match="damaged"):
        open_slide(path)


def test_a_size_that_no_scanner_makes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "endless.tif"
    tifffile.imwrite(
        path, iter([b"0"] * 25), shape=(300_000, 300_000), dtype=np.uint8, photometric="minisblack",
        tile=(60_000, 60_000), compression="deflate", metadata=None,
    )  # fmt: skip
    with pytest.raises(TooLarge, match="300000 x 300000"):
        open_slide(path)
    written(path, tissue()[:40, :40].copy())
    with pytest.raises(UnreadableFile, match="only 40 x 40 px"):
        open_slide(path)


def test_what_is_no_slide_is_refused_with_what_to_do(tmp_path: Path) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("slide.svs", b"0")
    contents = {
        "empty.svs": (b"", "0 bytes"),
        "archive.svs": (archive.getvalue(), "unpack it"),
        "notes.svs": (b"accession 7, left kidney", "text, not a slide"),
        "noise.ndpi": (bytes(range(256)), "neither a slide nor a picture"),
        "alone.mrxs": (jpeg(tissue()), "folder with the slide's data is missing"),
        "header.tif": (b"II*\0\x08\0\0\0", "Copy it"),
    }
    for name, (content, message) in contents.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UnreadableFile, match=message):
            open_slide(tmp_path / name)
    with pytest.raises(UnreadableFile, match="this is a folder"):
        open_slide(tmp_path)
    with pytest.raises(UnreadableFile, match="cannot be opened"):
        open_slide(tmp_path / "missing.svs")


# Real slides


@pytest.mark.parametrize(
    ("name", "slide_format", "size", "levels", "um_per_px", "objective", "flags"),
    [
        ("CMU-1-Small-Region.svs", "Aperio SVS", (2220, 2967), 1, 0.499, 20, set()),
        ("no_mpp_jpeg2000.svs", "Aperio SVS", (4443, 3567), 2, None, None, set()),
        ("OS-2-ndpi.ome.tif", "OME-TIFF", (2202, 2202), 1, 0.2271, None, set()),
        ("small_HE_levels.tiff", "TIFF", (300, 250), 4, None, None, set()),
        ("smalltif.tif", "TIFF", (640, 480), 1, None, None, {"reduced_depth", "first_frame_only", "dark_background"}),
    ],
)
def test_real_slides_are_read_with_the_scale_they_state_or_none(
    shared_data: Path, name: str, slide_format: str, size: tuple[int, int], levels: int, um_per_px: float | None,
    objective: float | None, flags: set[str],
) -> None:  # fmt: skip
    with open_slide(shared_data / "histology" / "slide_formats" / name) as slide:
        assert (slide.format, slide.width_px, slide.height_px, len(slide.levels)) == (slide_format, *size, levels)
        assert slide.um_per_px == (None if um_per_px is None else pytest.approx(um_per_px, abs=1e-4))
        assert (slide.objective, codes(slide)) == (objective, flags)
        middle = slide.read(size[0] / 2 - 50, size[1] / 2 - 50, 100, 100)
        assert middle.std() > 5


def test_the_real_broken_slide_is_refused_and_so_is_a_real_one_cut_off(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "histology" / "slide_formats"
    with pytest.raises(UnreadableFile, match="not a slide"):
        open_slide(folder / "broken.svs")
    for name in ("CMU-1-Small-Region.svs", "no_mpp_jpeg2000.svs", "OS-2-ndpi.ome.tif"):
        content = (folder / name).read_bytes()
        (tmp_path / name).write_bytes(content[: len(content) // 2])
        with pytest.raises(UnreadableFile, match="cut off"):
            open_slide(tmp_path / name)
