"""What training changes of a sample, option by option: a bar of kidney in fat on voxels of 2 x 1 x 1 mm."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from renalcore.ct.items import Augmentation, StepDataset, evened
from renalcore.ct.steps import STEPS, StepName
from tests.renalcore.ct.test_train import STILL

SHAPE, SPACING_MM = (40, 72, 80), (2.0, 1.0, 1.0)
FAT, KIDNEY = -100, 200
Changed = list[tuple[np.ndarray, np.ndarray]]


def bar(*, off_centre: bool = False) -> np.ndarray:
    """40 mm to the left, 16 mm to the back and to the head; in the middle, or beside it in all directions."""
    labels = np.zeros(SHAPE, np.uint8)
    d, h, w = (3, 6, 10) if off_centre else (0, 0, 0)
    labels[16 + d : 24 + d, 28 + h : 44 + h, 20 + w : 60 + w] = 1
    return labels


def changed(
    folder: Path, augmentation: Augmentation, *, labels: np.ndarray, hu: np.ndarray | None = None,
    step: StepName = "kidney", times: int = 12,
) -> Changed:  # fmt: skip
    """HU and labels of some items of one sample; where only the bar is given, it is as bright as kidney."""
    hu = np.where(labels > 0, KIDNEY, FAT) if hu is None else hu
    path = folder / "sample.npz"
    kind = "rough" if step == "rough" else "kidney"
    stored = {"hu": hu[None].astype(np.int16), "labels": labels[None], "spacing_mm": np.array([SPACING_MM])}
    np.savez(path, **{f"{kind}_{name}": values for name, values in stored.items()})
    items = StepDataset([path], STEPS[step], augmentation=augmentation, items=times)
    shown = [items[index] for index in range(times)]
    return [(item["image"][0].numpy(), item["labels"].numpy().astype(np.uint8)) for item in shown]


def dice(first: np.ndarray, second: np.ndarray) -> float:
    return float(2 * (first & second).sum() / (first.sum() + second.sum()))


def lie(labels: np.ndarray) -> tuple[float, np.ndarray, np.ndarray, np.ndarray]:
    """Voxels of the bar, its middle in mm, its direction, and half its size along its own three axes in mm."""
    places = np.argwhere(labels > 0) * SPACING_MM
    extents, axes = np.linalg.eigh(np.cov(places.T))
    return float(len(places)), places.mean(0), axes[:, -1], np.sqrt(3 * extents)  # of a box, half a side


@pytest.mark.parametrize("hard", [False, True])
def test_image_and_labels_are_turned_scaled_shifted_and_mirrored_together(tmp_path: Path, hard: bool) -> None:
    labels = bar(off_centre=True)
    options = replace(STILL, scale=0.3, rotate_degrees=35.0, shift=0.1, mirror=0.5) if hard else Augmentation()
    shown = changed(tmp_path, options, labels=labels)
    for hu, named in shown:
        assert dice(hu > (FAT + KIDNEY) / 2, named == 1) > 0.9
    assert sum(dice(named == 1, labels == 1) < 0.8 for _, named in shown) > 6


def test_a_turn_keeps_middle_and_size_in_millimetres(tmp_path: Path) -> None:
    volume, middle, _, half_mm = lie(bar())
    degrees = []
    for _, named in changed(tmp_path, replace(STILL, rotate_degrees=20.0), labels=bar()):
        turned, there, direction, sides_mm = lie(named)
        assert turned == pytest.approx(volume, rel=0.05)
        assert there == pytest.approx(middle, abs=0.5)
        assert sides_mm == pytest.approx(half_mm, rel=0.06)
        degrees.append(float(np.degrees(np.arccos(abs(direction[2])))))
    # Two of the three turns, each up to 20 degrees, move the long axis.
    assert max(degrees) < 1.05 * np.hypot(20, 20)
    assert np.median(degrees) > 6


def test_a_change_of_size_is_the_same_along_all_axes_and_goes_both_ways(tmp_path: Path) -> None:
    _, middle, _, half_mm = lie(bar())
    times = []
    for _, named in changed(tmp_path, replace(STILL, scale=0.3), labels=bar()):
        _, there, direction, sides_mm = lie(named)
        assert there == pytest.approx(middle, abs=1.1)
        assert abs(direction[2]) == pytest.approx(1, abs=1e-3)
        ratios = sides_mm / half_mm
        assert ratios == pytest.approx(ratios.mean(), rel=0.1)  # two voxels of eight
        times.append(float(ratios.mean()))
    assert 1 / 1.35 < min(times) < 0.9
    assert 1.1 < max(times) < 1.35


def test_a_shift_is_a_share_of_the_grid_and_changes_nothing_else(tmp_path: Path) -> None:
    volume, middle, _, half_mm = lie(bar())
    away = []
    for _, named in changed(tmp_path, replace(STILL, shift=0.1), labels=bar()):
        shifted, there, _, sides_mm = lie(named)
        assert shifted == pytest.approx(volume, rel=0.15)  # a layer more or less
        assert sides_mm == pytest.approx(half_mm, rel=0.15)
        away.append((there - middle) / SPACING_MM / SHAPE)
    assert np.abs(away).max() < 0.1 + 0.5 / min(SHAPE)
    assert (np.ptp(away, axis=0) > 0.08).all()


def test_right_and_left_are_exchanged_exactly_but_never_in_the_step_that_knows_the_liver_s_side(tmp_path: Path) -> None:
    labels = bar(off_centre=True)

    def mirrored(probability: float, step: StepName) -> list[bool]:
        shown = changed(tmp_path, replace(STILL, mirror=probability), labels=labels, step=step)
        for hu, named in shown:
            assert dice(hu > 50, named == 1) > 0.99
            assert any(np.array_equal(named, way) for way in (labels, labels[:, :, ::-1]))
        return [not np.array_equal(named, labels) for _, named in shown]

    assert mirrored(1.0, "kidney") == [True] * 12
    assert 2 <= sum(mirrored(0.5, "kidney")) <= 10
    assert mirrored(1.0, "rough") == [False] * 12


def ramp() -> np.ndarray:
    """From -150 to 250 HU along the body, with room to both ends of the window."""
    return np.broadcast_to(np.linspace(-150, 250, SHAPE[0])[:, None, None], SHAPE).round()


def recoloured(folder: Path, augmentation: Augmentation, *, times: int = 12) -> list[np.ndarray]:
    """HU of some items of the ramp, whose labels are as they were."""
    shown = changed(folder, augmentation, labels=bar(), hu=ramp(), times=times)
    assert all(np.array_equal(named, bar()) for _, named in shown)
    return [hu for hu, _ in shown]


def test_brightness_is_added_to_all_hu_alike(tmp_path: Path) -> None:
    more = [hu - ramp() for hu in recoloured(tmp_path, replace(STILL, brightness_hu=15.0))]
    assert max(float(np.ptp(each)) for each in more) < 0.01
    means = [float(each.mean()) for each in more]
    assert -15 <= min(means) < -5
    assert 5 < max(means) <= 15


def test_contrast_widens_or_narrows_the_differences_to_50_hu(tmp_path: Path) -> None:
    beside = ramp() - 50
    far = np.abs(beside) > 20
    ratios = [(hu - 50)[far] / beside[far] for hu in recoloured(tmp_path, replace(STILL, contrast=0.15))]
    assert max(float(np.ptp(each)) for each in ratios) < 0.001
    means = [float(each.mean()) for each in ratios]
    assert 1 / 1.151 < min(means) < 0.95
    assert 1.05 < max(means) < 1.151


def test_gamma_is_an_exponent_of_the_window(tmp_path: Path) -> None:
    share = (ramp() + 200) / 500  # -200 to 300 HU
    exponents = [np.log((hu + 200) / 500) / np.log(share) for hu in recoloured(tmp_path, replace(STILL, gamma=1.25))]
    assert max(float(np.ptp(each)) for each in exponents) < 0.001
    means = [float(each.mean()) for each in exponents]
    assert 1 / 1.251 < min(means) < 0.93
    assert 1.07 < max(means) < 1.251


def test_noise_comes_with_half_of_the_samples_and_blur_with_a_third(tmp_path: Path) -> None:
    noises = [hu - ramp() for hu in recoloured(tmp_path, replace(STILL, noise_hu=15.0), times=30)]
    deviations = np.array([float(each.std()) for each in noises])
    assert 8 <= (deviations > 0.01).sum() <= 22
    assert 10 < deviations.max() <= 15.1
    assert max(abs(float(each.mean())) for each in noises) < 0.2  # 230,000 voxels
    edge = np.where(bar() > 0, KIDNEY, FAT)
    shown = changed(tmp_path, replace(STILL, blur=2.0), labels=bar(), hu=edge, times=30)
    blurred = [hu for hu, _ in shown if np.abs(hu - edge).max() > 1]
    assert 4 <= len(blurred) <= 16
    even = ndimage.uniform_filter(edge.astype(float), 11) == edge
    for hu in blurred:
        assert np.abs(hu - edge)[even].max() < 0.1
        assert hu.mean() == pytest.approx(edge.mean(), abs=0.1)
        assert FAT < hu[20, 36, 60] < hu[20, 36, 59] < KIDNEY


def test_a_small_lesion_counts_more_a_voxel_than_a_large_one_but_less_in_all() -> None:
    labels = np.zeros((60, 60, 60), np.uint8)
    labels[2:58, 2:58, 2:58] = 1
    labels[5:25, 5:25, 5:25] = 2  # 8 ml
    labels[30:55, 30:55, 30:55] = 3  # 15.6 ml
    labels[5:15, 40:50, 40:50] = 3  # 1 ml
    labels[50, 10, 10] = 3
    counts = evened(labels, (1.0, 1.0, 1.0))
    assert set(counts[labels < 2]) == {1.0}
    assert counts[10, 10, 10] == pytest.approx(1)
    assert counts[40, 40, 40] == pytest.approx((8 / 15.625) ** (2 / 3))
    assert counts[10, 45, 45] == pytest.approx(4)
    assert counts[50, 10, 10] == 10
    assert counts[5:15, 40:50, 40:50].sum() < counts[30:55, 30:55, 30:55].sum()
    assert evened(labels, (2.0, 1.0, 1.0))[10, 45, 45] == pytest.approx(4 / 2 ** (2 / 3))
    with np.errstate(all="raise"):  # nothing but a cyst
        assert set(evened(np.full((20, 20, 20), 3, np.uint8), (1.0, 1.0, 1.0)).ravel()) == {1.0}


def test_only_lesions_of_the_step_that_tells_them_count_more_than_once(tmp_path: Path) -> None:
    labels = bar()
    labels[18:20, 32:36, 30:34] = 3
    path = tmp_path / "sample.npz"
    hu = np.where(labels > 0, KIDNEY, FAT).astype(np.int16)
    np.savez(path, kidney_hu=hu[None], kidney_labels=labels[None], kidney_spacing_mm=np.array([SPACING_MM]))
    lesion, kidney = (
        StepDataset([path], STEPS[step], augmentation=replace(STILL, region_mm=0))[0] for step in ("lesion", "kidney")
    )
    assert (lesion["counts"] > 1).equal(lesion["labels"] == 3)
    assert (lesion["labels"] == 3).any()
    assert (kidney["counts"] == 1).all()
