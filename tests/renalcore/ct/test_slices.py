from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from renalcore.ct.data import prepare_slices, read_samples
from renalcore.ct.slices import grow, read_slices
from renalcore.ct.steps import STEPS
from renalcore.errors import InputError, UnreadableFile

SIZE = 400


def write_slice(folder: Path, name: str = "7_40.png") -> None:
    """A body of 260 x 180 mm at 0.78 mm with two kidneys, in the form of CURVAS: yellow kidneys, HU cut to 0..255."""
    y, x = np.mgrid[:SIZE, :SIZE] - SIZE / 2
    body = (x / 165) ** 2 + (y / 115) ** 2 < 1
    muscle = body & ((x / 155) ** 2 + (y / 105) ** 2 > 1)
    kidneys = [(x - side * 70) ** 2 + (y - 20) ** 2 < 30**2 for side in (-1, 1)]
    image = np.zeros((SIZE, SIZE), np.uint8)
    image[muscle] = 60
    image[kidneys[0] | kidneys[1]] = 180
    image[(x / 20) ** 2 + (y - 60) ** 2 / 400 < 1] = 255
    mask = np.zeros((SIZE, SIZE, 3), np.uint8)
    mask[kidneys[0] | kidneys[1]] = (0, 255, 255)
    mask[muscle & (x < -100)] = (255, 0, 255)  # the liver of CURVAS
    for part, picture in (("images", image), ("masks", mask)):
        (folder / part).mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / part / name), picture)


def test_a_slice_lies_in_the_middle_of_what_grows_from_it_and_its_kidneys_end_in_fat(tmp_path: Path) -> None:
    write_slice(tmp_path)
    (of,) = read_slices(tmp_path)
    hu, labels, grid = grow(of, 1, slices=81, slice_mm=4.0, pixel_mm=0.78)
    assert (of.group, labels.shape, grid.spacing_mm.tolist()) == ("7", (81, SIZE, SIZE), [4.0, 0.78, 0.78])
    whole = (labels[40] == 1).sum()
    assert whole == pytest.approx(2 * np.pi * 30**2, rel=0.01)
    assert all(0 < (labels[number] == 1).sum() < 1.2 * whole for number in (38, 42))  # 8 mm below and above
    assert not labels[[0, 80]].any()  # 160 mm above and below
    assert np.median(hu[40][labels[40] == 1]) == pytest.approx(180, abs=4)
    assert np.median(hu[0][150:160, 190:210]) == pytest.approx(-100, abs=10)  # fat, which the picture shows as 0
    assert np.median(hu[0][SIZE // 2 + 20, 120:140]) == pytest.approx(-100, abs=12)  # where a kidney was
    assert hu[40][0, 0] < -900


def test_slices_become_samples_of_all_steps(tmp_path: Path) -> None:
    write_slice(tmp_path / "data")
    (path,) = prepare_slices(read_slices(tmp_path / "data"), tmp_path / "samples")
    (rough,) = read_samples(path, "rough")
    crops = read_samples(path, "lesion")
    assert (rough.hu.shape, [crop.hu.shape for crop in crops]) == (STEPS["rough"].shape, [STEPS["kidney"].shape] * 2)
    # The left kidney is on the right of the picture, as in every volume turned towards LPS.
    left = np.argwhere(rough.labels[48] == 1)[:, 1] > 64
    assert 0.4 < left.mean() < 0.6


def test_slices_without_labels_or_of_another_size_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no slices"):
        read_slices(tmp_path)
    write_slice(tmp_path)
    (of,) = read_slices(tmp_path)
    cv2.imwrite(str(of.labels), np.zeros((10, 10, 3), np.uint8))
    with pytest.raises(UnreadableFile, match="not two pictures of one size"):
        grow(of, 0, slices=2, slice_mm=2.0, pixel_mm=1.0)
    of.labels.unlink()
    with pytest.raises(InputError, match=r"no labels of 7_40\.png"):
        read_slices(tmp_path)


def test_the_real_slices_are_read_with_their_tumours_and_cysts(shared_data: Path) -> None:
    slices = read_slices(shared_data / "ct/kits19_slices_2d")
    assert (len(slices), len({each.group for each in slices})) == (81, 37)
    assert slices[0].pixel_mm == 0.7363
    _, labels, _ = grow(slices[0], 0, slices=1, slice_mm=2.0, pixel_mm=0.0)
    assert [(labels == label).sum() for label in (1, 2, 3)] == [7272, 13922, 0]  # of index.csv
    assert len(read_slices(shared_data / "ct/curvas_slices_2d")) == 108
