import tracemalloc
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile
from numpy.typing import NDArray

from renalcore.histology.pyramid import write_pyramid

Pixels = NDArray[np.uint8]


def slope(x: int, y: int, width: int, height: int) -> Pixels:
    rows, columns = np.mgrid[y : y + height, x : x + width]
    return np.stack([columns // 8, rows // 8, rows * 0 + 90], axis=-1).astype(np.uint8)


def test_every_level_is_half_of_the_one_above_and_shows_the_same_place(tmp_path: Path) -> None:
    path = tmp_path / "slide.tif"
    write_pyramid(path, width_px=1001, height_px=777, block=slope, um_per_px=0.25, tile_px=128, quality=95)
    with tifffile.TiffFile(path) as tiff:
        levels = [page.asarray().astype(float) for page in tiff.pages]
    assert [level.shape[1::-1] for level in levels] == [(1001, 777), (501, 389), (251, 195), (126, 98)]
    for number, level in enumerate(levels):
        rows, columns = np.mgrid[0 : 700 >> number, 0 : 900 >> number] + 0.5
        expected = np.stack([columns, rows], axis=-1) * 2**number / 8 - 0.5
        assert np.abs(level[: 700 >> number, : 900 >> number, :2] - expected).mean() < 1.5


def test_openslide_and_so_other_viewers_read_it_with_its_scale(tmp_path: Path) -> None:
    path = tmp_path / "slide.tif"
    write_pyramid(path, width_px=600, height_px=300, block=slope, um_per_px=0.25, tile_px=128)
    with openslide.OpenSlide(path) as slide:
        assert slide.level_dimensions == ((600, 300), (300, 150), (150, 75), (75, 38))
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(0.25, rel=1e-4)


def test_the_height_of_a_slide_does_not_show_in_the_memory_that_writing_it_takes(tmp_path: Path) -> None:
    blank = np.full((64, 64, 3), 200, np.uint8)

    def peak(height_px: int) -> int:
        tracemalloc.start()
        try:
            write_pyramid(
                tmp_path / "slide.tif", width_px=128, height_px=height_px, block=lambda x, y, w, h: blank[:h, :w],
                um_per_px=None, tile_px=64,
            )  # fmt: skip
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(64)  # loads what is loaded once
    assert peak(4096) < peak(512) + 2**18  # of 1.5 MB in pixels


def test_a_file_that_could_not_be_finished_is_not_there(tmp_path: Path) -> None:
    def breaks(x: int, y: int, width: int, height: int) -> Pixels:
        raise RuntimeError("the scanner stopped")

    for block, error in ((breaks, RuntimeError), (lambda x, y, w, h: np.zeros((1, 1, 3), np.uint8), ValueError)):
        with pytest.raises(error):
            write_pyramid(tmp_path / "slide.tif", width_px=64, height_px=64, block=block, um_per_px=None)
    assert list(tmp_path.iterdir()) == []
