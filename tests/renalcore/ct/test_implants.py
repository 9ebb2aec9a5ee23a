from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import nibabel
import numpy as np
import pytest
from scipy import ndimage

from renalcore import cli
from renalcore.ct.data import prepare_implants, read_cases, read_samples
from renalcore.ct.slices import Texture, read_slices, tumour_textures
from renalcore.ct.steps import CYST, KIDNEY, TUMOUR, Grid
from renalcore.ct.synthetic import implant
from renalcore.ct.synthetic.canvas import body_grid
from renalcore.ct.synthetic.implants import lesions_of
from renalcore.ct.train import TrainConfig, train
from renalcore.errors import InputError
from tests.renalcore.ct.kits import labels, write_labels

KIDNEY_HU, FAT_HU, NOISE_HU = 150, -100, 8
FLAT = Texture("case_00500", np.zeros((20, 20), np.float32), 0.8)


def shape(path: Path, *, tumour_mm: tuple[float, float, float] | None, cyst: bool = False) -> Path:
    """The small patient; a tumour of 12 mm radius `tumour_mm` to the right, front and head of the right kidney's middle
    instead of its own lesions."""
    found = labels()
    found[found > KIDNEY] = KIDNEY
    x, y, z = np.meshgrid(*((np.arange(n) - (n - 1) / 2) * 4.0 for n in found.shape), indexing="ij")
    if tumour_mm is not None:
        right, front, head = tumour_mm
        found[(x - 64 - right) ** 2 + (y - front) ** 2 + (z - head) ** 2 < 12**2] = TUMOUR
    if cyst:
        found[(x + 64) ** 2 + y**2 + z**2 < 10**2] = CYST
    write_labels(path, found)
    return path


def scan(*, muscle_mm: float = 999.0) -> tuple[np.ndarray, np.ndarray, Grid]:
    """Two kidneys as ellipsoids of 24 x 26 x 44 mm in fat, 2 mm voxels; muscle further than `muscle_mm` outwards."""
    grid = body_grid((64, 64, 120), (2.0, 2.0, 2.0), (0.0, 0.0, 0.0))
    z, y, x = np.meshgrid(*((np.arange(n) - (n - 1) / 2) * 2.0 for n in grid.shape), indexing="ij")
    found = np.zeros(grid.shape, np.uint8)
    hu = np.full(grid.shape, FAT_HU, np.float32)
    hu[np.abs(x) > muscle_mm] = 60
    for side in (-1, 1):
        kidney = ((x - 64 * side) / 24) ** 2 + (y / 26) ** 2 + (z / 44) ** 2 < 1
        hu[kidney], found[kidney] = KIDNEY_HU, KIDNEY
    hu += np.random.default_rng(1).normal(0, NOISE_HU, grid.shape)
    return np.rint(hu).astype(np.int16), found, grid


def outlying(tmp_path: Path) -> Path:
    """A tumour at the outer border of the right kidney, half of which sticks out."""
    return shape(tmp_path / "case_00500.nii.gz", tumour_mm=(24, 0, 0))


def test_a_lesion_is_known_by_its_place_its_size_and_the_share_that_sticks_out(tmp_path: Path) -> None:
    (tumour,) = lesions_of(outlying(tmp_path))
    assert (tumour.patient, tumour.label, tumour.side) == ("case_00500", TUMOUR, "right")
    assert tumour.ml == pytest.approx(136 * 0.4**3)  # 136 voxels of 4 mm: 8.7 ml
    assert tumour.place == pytest.approx([0, 0, -1], abs=0.2)  # at the end of the half axis; columns run to the left
    assert 0.3 < tumour.inside < 0.6  # the outline is curved inwards: less than half
    assert tumour.mirrored().place == pytest.approx([0, 0, 1], abs=0.2)
    middle = shape(tmp_path / "case_00501.nii.gz", tumour_mm=(0, 0, 0), cyst=True)
    assert [(each.label, each.side, each.inside) for each in lesions_of(middle)] == [
        (TUMOUR, "right", 1.0),
        (CYST, "left", 1.0),
    ]


def test_a_tumour_keeps_size_place_and_share_and_nothing_else_changes(tmp_path: Path) -> None:
    (own,) = lesions_of(path := outlying(tmp_path))
    hu, before, grid = scan()
    kept, kept_labels = hu.copy(), before.copy()
    shown, named, put = implant(hu, before, grid, [path], [FLAT], 0)
    assert np.array_equal(hu, kept)
    assert np.array_equal(before, kept_labels)
    assert [each.side for each in put] == ["right", "left"]  # mirrored where the side differs
    tumours = named == TUMOUR
    assert tumours.sum() * grid.voxel_ml == pytest.approx(2 * own.ml, rel=0.05)
    right = tumours & (np.arange(grid.shape[2]) < 60)
    assert grid.to_mm(np.argwhere(right)).mean(0) == pytest.approx([-64 - 24, 0, 0], abs=3)  # LPS: to the left
    assert (before[right] == KIDNEY).mean() == pytest.approx(own.inside, abs=0.1)
    # What a lesion covers beyond the border is mixed: 2.5 sigmas of 1.2 voxels at most, and a voxel of the map.
    near = np.zeros(grid.shape, bool)
    for z, y, x in np.argwhere(tumours):
        near[z - 5 : z + 6, y - 5 : y + 6, x - 5 : x + 6] = True
    assert np.array_equal(shown[~near], hu[~near])
    assert np.array_equal(named[~tumours], before[~tumours])


def test_a_lesion_is_as_bright_as_one_is_in_the_phase_of_the_scan_and_as_noisy_as_the_scan(tmp_path: Path) -> None:
    cyst = shape(tmp_path / "case_00501.nii.gz", tumour_mm=None, cyst=True)
    tumour = outlying(tmp_path)
    hu, before, grid = scan()

    def inside(path: Path, seed: int, of: np.ndarray, texture: Texture = FLAT) -> np.ndarray:
        shown, named, _ = implant(of, before, grid, [path], [texture], seed)
        return np.asarray(shown[ndimage.binary_erosion(named > KIDNEY, iterations=2)])

    cysts = [inside(cyst, seed, hu) for seed in range(8)]
    assert np.median([each.mean() for each in cysts]) == pytest.approx(20, abs=12)  # water, and a little protein
    tumours = [inside(tumour, seed, hu).mean() for seed in range(8)]
    assert 60 < np.median(tumours) < KIDNEY_HU
    # White noise less its own mean over a gaussian of one voxel in the plane keeps 1 - 2 / 2 pi + 1 / 4 pi: 0.76.
    assert np.median([each.std() for each in cysts]) == pytest.approx(NOISE_HU * np.sqrt(0.76), abs=1.2)
    # Waves of 40 HU and 16 mm, which half a voxel of blur leaves as they are: 28 HU of deviation, 8.5 of it in a plain
    # scan, where tissues are more even.
    waves = np.broadcast_to(40 * np.sin(np.arange(60) * np.pi / 10), (60, 60)).astype(np.float32)
    textured = replace(FLAT, hu=waves)
    assert np.median([inside(tumour, seed, hu, textured).std() for seed in range(6)]) == pytest.approx(28, abs=9)
    plain = np.where(before == KIDNEY, hu - KIDNEY_HU + 32, hu)
    assert np.median([inside(tumour, seed, plain, textured).std() for seed in range(6)]) == pytest.approx(11, abs=4)


def test_a_seed_gives_the_same_scan_each_time_and_another_seed_another(tmp_path: Path) -> None:
    hu, before, grid = scan()
    paths = [outlying(tmp_path), shape(tmp_path / "case_00501.nii.gz", tumour_mm=(0, 0, 0), cyst=True)]
    first, again, other = (implant(hu, before, grid, paths, [FLAT], seed) for seed in (1, 1, 2))
    assert np.array_equal(first[0], again[0])
    assert np.array_equal(first[1], again[1])
    assert not np.array_equal(first[0], other[0])


def test_muscle_and_other_lesions_do_not_give_way(tmp_path: Path) -> None:
    tumour = outlying(tmp_path)
    hu, before, grid = scan(muscle_mm=64 + 24 + 3)  # 3 mm of fat, and the tumour reaches 12 mm beyond the border
    with pytest.raises(InputError, match="none of the lesions of 1 label maps has room there; give more"):
        implant(hu, before, grid, [tumour], [FLAT], 0)
    hu, before, grid = scan()
    before[:, :, 100:][before[:, :, 100:] > 0] = CYST  # the outer part of the left kidney is one already
    _, named, put = implant(hu, before, grid, [tumour], [FLAT], 0)
    assert len(put) == 1
    assert np.array_equal(named == CYST, before == CYST)


def write_scan(folder: Path, *, kidneys: bool = True) -> None:
    """`scan` as a case of KiTS."""
    folder.mkdir(parents=True)
    hu, found, grid = scan()
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ grid.affine
    for name, values in (("imaging", hu), ("segmentation", found * np.uint8(kidneys))):
        nibabel.save(nibabel.Nifti1Image(values.transpose(2, 1, 0), affine), folder / f"{name}.nii.gz")


def write_slices(folder: Path, *patients: str, hu: int = 80, radius_px: int = 20) -> None:
    """A slice of each patient with a round tumour in its middle, 1 mm a pixel, as those of KiTS19 lie here."""
    lines = ["name,case,spacing"]
    x, y = np.meshgrid(np.arange(64) - 32, np.arange(64) - 32)
    tumour = np.hypot(x, y) < radius_px
    image = np.clip(np.random.default_rng(0).normal(hu, 10, tumour.shape), 0, 255)
    for number, patient in enumerate(patients):
        lines.append(f"slice{number},{patient},2.5x1.0x1.0")
        for part, picture in (("images", image), ("labels_kits23", tumour * TUMOUR)):
            (folder / part).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(folder / part / f"slice{number}.png"), picture.astype(np.uint8))
    (folder / "index.csv").write_text("\n".join(lines))


def test_the_texture_is_the_largest_square_in_a_real_tumour_whose_hu_were_not_cut_off(tmp_path: Path) -> None:
    write_slices(tmp_path / "good", "case_00007")
    (texture,) = tumour_textures(read_slices(tmp_path / "good"))
    # 20 mm deep, less 2 mm at the border: half a square of 18 / 1.41 = 12.7 pixels to each side of its middle.
    assert (texture.group, texture.hu.shape, texture.pixel_mm) == ("case_00007", (25, 25), 1.0)
    assert [float(texture.hu.mean()), float(texture.hu.std())] == pytest.approx([0, 10], abs=1)
    write_slices(tmp_path / "dark", "case_00007", hu=8)  # a fifth of N(8, 10) lies below 0
    write_slices(tmp_path / "small", "case_00007", radius_px=9)  # a square of 9 mm
    for name in ("dark", "small"):
        assert tumour_textures(read_slices(tmp_path / name)) == []


def test_the_real_tumours_give_textures_of_29_patients(shared_data: Path) -> None:
    found = tumour_textures(read_slices(shared_data / "ct/kits19_slices_2d"))
    assert (len(found), len({each.group for each in found})) == (46, 29)


def test_training_shows_scans_with_lesions_of_those_patients_alone_that_do_not_validate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "shapes"
    data.mkdir()
    outlying(data)
    shape(data / "case_00501.nii.gz", tumour_mm=None, cyst=True)
    write_scan(tmp_path / "abdomens/case_00900")
    write_slices(tmp_path / "slices", "case_00501", "case_00502", "case_00503")
    words = f"train ct --data {data} --scans {tmp_path}/abdomens --slices {tmp_path}/slices --output {tmp_path}/run"
    words += " --step rough --synthetic 1 --implants 2 --width 4 --batch 1 --items 1 --epochs 1 --validate-every 0"
    assert cli.main([*words.split(), "--hold-out", "case_00501"]) == 0
    made = sorted((tmp_path / "run/samples").glob("implanted-case_00900-*.npz"))
    assert len(made) == 2
    for path in made:  # the one with the cyst validates
        assert {int(label) for each in read_samples(path, "lesion") for label in np.unique(each.labels)} == {0, 1, 2}
    told = json.loads((tmp_path / "run/rough/trained_on.json").read_text())["implanted into abdomens"]
    assert (told["name"], told["images"]) == ("abdomens", 2)
    assert "of lesions of 1 real patients" in told["note"]
    assert "on real slices of 2 patients" in told["note"]
    # Who is held out later finds no file with lesions of a patient that validates then.
    (other,) = prepare_implants(
        read_cases(tmp_path / "abdomens"), read_cases(data)[1:], [FLAT], tmp_path / "run/samples", count=1
    )
    assert other not in made


def test_what_lesions_cannot_be_put_into_is_refused_with_the_reason(tmp_path: Path) -> None:
    data = tmp_path / "shapes"
    data.mkdir()
    outlying(data)
    shape(data / "case_00501.nii.gz", tumour_mm=None, cyst=True)
    write_slices(tmp_path / "slices", "case_00501")
    config = TrainConfig(
        data=data, output=tmp_path / "run", held_out=("case_00501",), synthetic=1, implants=1,
        slices=(tmp_path / "slices",),
    )  # fmt: skip
    with pytest.raises(InputError, match="into --scans; no scan is given"):
        train(config)
    write_scan(tmp_path / "abdomens/case_00900", kidneys=False)
    with pytest.raises(InputError, match="no such tumour is on the slices"):  # that of the patient who validates
        train(replace(config, scans=(tmp_path / "abdomens",)))
    cases = read_cases(tmp_path / "abdomens")
    with pytest.raises(InputError, match="case_00900: no whole kidney is labelled there"):
        prepare_implants(cases, read_cases(data), [FLAT], tmp_path / "samples", count=1)
