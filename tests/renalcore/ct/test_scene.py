"""What a scanner does to a drawn scan: kidneys that are boxes, as bright as can be, in a body of nothing but fat."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from renalcore.ct.steps import KIDNEY
from renalcore.ct.synthetic import Scene, draw_scene, read_shape
from renalcore.ct.synthetic.canvas import body_grid
from renalcore.ct.synthetic.kidneys import OF_TISSUE
from renalcore.ct.synthetic.scene import Scanner
from renalcore.ct.synthetic.tissue import Palette, Tissue
from tests.renalcore.ct.kits import SHAPE, write_labels

FAT_HU, KIDNEY_HU = -100.0, 200.0
Z, Y, X = range(3)


@pytest.fixture(scope="module")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """Kidneys of 80 x 48 x 48 mm, without texture, noise or the end of a scan."""
    found = np.zeros(SHAPE, np.uint8)
    found[8:20, 14:26, 10:30] = found[40:52, 14:26, 10:30] = KIDNEY
    path = tmp_path_factory.mktemp("boxes") / "case_00001.nii.gz"
    write_labels(path, found)
    scene = draw_scene(read_shape(path), 0)
    mean = np.where(OF_TISSUE[: len(Tissue)] == KIDNEY, KIDNEY_HU, FAT_HU).astype(np.float32)
    even = np.zeros_like(mean)
    scanner = Scanner(slice_mm=1.0, blur_mm=0.4, noise_hu=0.0, field_mm=300, feet_mm=-300, head_mm=300)
    kidneys = np.where(scene.body.shape.labels == KIDNEY, np.uint8(Tissue.CORTEX), np.uint8(0))
    return replace(scene, kidneys=kidneys, palette=Palette("portal", mean, even, even), scanner=scanner)


def around(scene: Scene, voxels: tuple[int, int, int], spacing_mm: float, **scanner: float) -> np.ndarray:
    """HU on a grid about the middle of one kidney, with some other properties of the scanner."""
    shown = replace(scene, scanner=replace(scene.scanner, **scanner))
    middle = [mm + 0.3 for mm in scene.body.shape.sides[0]]  # no voxel lies on the border of two of the label map
    return shown.render(body_grid(voxels, (spacing_mm,) * 3, middle))[0].astype(float)


def across(scene: Scene, axis: int, spacing_mm: float, **scanner: float) -> np.ndarray:
    """HU from the middle of the kidney along one axis for 72 mm: to the head, to the back or to the left."""
    voxels = [5, 5, 5]
    voxels[axis] = 2 * round(72 / spacing_mm) + 1
    line = np.moveaxis(around(scene, (voxels[0], voxels[1], voxels[2]), spacing_mm, **scanner), axis, 0)[:, 2, 2]
    return np.asarray(line[len(line) // 2 :])


def width_mm(line: np.ndarray, spacing_mm: float) -> float:
    """The deviation of the edge of the kidney, if it is a gaussian."""
    steepness = np.abs(np.diff(line))
    places = np.arange(len(steepness)) * spacing_mm
    middle = np.average(places, weights=steepness)
    return float(np.sqrt(np.average((places - middle) ** 2, weights=steepness)))


def test_thick_slices_blur_along_the_body_alone_and_blur_within_a_slice_alone(boxes: Scene) -> None:
    def widths(**scanner: float) -> list[float]:
        return [width_mm(across(boxes, axis, 1.0, **scanner), 1.0) for axis in (Z, Y, X)]

    # Voxels of 1 mm blur by 0.45 mm, slices by their thickness / 2.7. The gaussian ends at 2.5 deviations: 5 % less.
    sharp = np.hypot(1 / 2.7, 0.45), np.hypot(0.4, 0.45)
    assert widths() == pytest.approx([sharp[0], sharp[1], sharp[1]], rel=0.1)
    assert widths(slice_mm=5.0) == pytest.approx([np.hypot(5 / 2.7, 0.45), sharp[1], sharp[1]], rel=0.1)
    assert widths(blur_mm=2.0) == pytest.approx([sharp[0], *[np.hypot(2.0, 0.45)] * 2], rel=0.1)


def test_voxels_at_the_border_of_a_coarse_grid_hold_a_part_of_both_tissues(boxes: Scene) -> None:
    for axis in (Z, Y, X):
        line = across(boxes, axis, 6.0)  # the scanner's own blur is a sixteenth of a voxel
        last = int(np.flatnonzero(line > (FAT_HU + KIDNEY_HU) / 2)[-1])
        # A gaussian of 0.45 voxels: exp(-1 / (2 * 0.45^2)) = 0.085 of each neighbour, 7 % of 1 + 2 * 0.085.
        assert KIDNEY_HU - line[last] == pytest.approx(0.07 * 300, abs=4)
        assert line[last + 1] - FAT_HU == pytest.approx(0.07 * 300, abs=4)
        assert set(line[: last - 1]) == {KIDNEY_HU}
        assert set(line[last + 3 :]) == {FAT_HU}


def test_noise_is_as_strong_as_told_in_voxels_of_1_mm_and_less_in_larger_ones(boxes: Scene) -> None:
    def noise(spacing_mm: float, noise_hu: float, **scanner: float) -> np.ndarray:
        side = round(32 / spacing_mm)
        return around(boxes, (side, side, side), spacing_mm, noise_hu=noise_hu, **scanner)

    assert noise(1.0, 0.0).std() == 0
    for noise_hu in (10.0, 30.0):
        kidney = noise(1.0, noise_hu)
        assert kidney.mean() == pytest.approx(KIDNEY_HU, abs=0.1 * noise_hu)
        assert kidney.std() == pytest.approx(noise_hu, rel=0.03)
    # Eight voxels of 1 mm in one: sqrt(8) times less; never less than a quarter, for noise is not independent.
    assert noise(2.0, 30.0).std() == pytest.approx(30 / np.sqrt(8), rel=0.05)
    assert noise(4.0, 30.0).std() == pytest.approx(30 / 4, rel=0.05)
    assert noise(0.5, 30.0).std() == pytest.approx(30, rel=0.05)


def test_noise_of_neighbouring_slices_is_the_same_where_slices_are_thick(boxes: Scene) -> None:
    def alike(slice_mm: float) -> float:
        kidney = around(boxes, (32, 32, 32), 1.0, noise_hu=30.0, slice_mm=slice_mm)
        return float(np.corrcoef(kidney[1:].ravel(), kidney[:-1].ravel())[0, 1])

    # White noise under a gaussian of s voxels: exp(-1 / (4 s^2)) from voxel to voxel; s is 0.37 and 1.85.
    assert alike(1.0) < 0.3
    assert alike(5.0) == pytest.approx(np.exp(-1 / (4 * (5 / 2.7) ** 2)), abs=0.05)
