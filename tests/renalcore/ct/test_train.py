from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy import ndimage

from renalcore import cli, models
from renalcore.ct.card import drawn_scans
from renalcore.ct.data import (
    Sample,
    folds_of,
    is_randomised,
    prepare,
    read_cases,
    read_samples,
    train_and_validation,
)
from renalcore.ct.items import Augmentation, StepDataset, alike, batched
from renalcore.ct.networks import load_networks
from renalcore.ct.steps import STEPS, StepName, closely
from renalcore.ct.train import TrainConfig, cross_validate, model_of, often, train, train_all, with_recipe
from renalcore.errors import InputError, ModelError
from tests.renalcore.ct.kits import write_case, write_labels
from tests.renalcore.ct.test_planes import write_slice

STILL = Augmentation(
    scale=0, rotate_degrees=0, shift=0, mirror=0, brightness_hu=0, contrast=0, gamma=1, noise_hu=0, blur=0, region_mm=0
)


@pytest.fixture
def cases(tmp_path: Path) -> Path:
    """Two patients with their scans."""
    for number in range(2):
        write_case(tmp_path / f"kits/case_{number:05d}", seed=number)
    return tmp_path / "kits"


def run(data: Path, output: Path) -> TrainConfig:
    """A run of two steps an epoch on one patient, measured on the other."""
    return TrainConfig(
        data=data, output=output, width=4, batch=1, items=2, epochs=2, validate_every=0, held_out=("case_00001",),
        patch=(16, 32, 32),
        licence="made up",
    )  # fmt: skip


def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def test_a_case_of_kits_gives_the_whole_scan_and_crops_around_kidneys_and_something_else(
    cases: Path, tmp_path: Path
) -> None:
    (path,) = prepare(read_cases(cases)[:1], tmp_path / "samples", drawn=5)
    (rough,) = read_samples(path, "rough")
    right, left, other = read_samples(path, "kidney")
    assert [len(read_samples(path, "lesion")), bool(other.labels[30:50, 44:84, 44:84].any())] == [2, False]
    assert rough.hu.shape == STEPS["rough"].shape
    assert right.hu.shape == STEPS["kidney"].shape
    assert right.spacing_mm == pytest.approx((2, 1, 1))
    # The tumour is in the right kidney, the cyst in the left one; a ball of 15 mm has 14.1 ml.
    assert (2 in right.labels, 3 in right.labels, 2 in left.labels, 3 in left.labels) == (True, False, False, True)
    assert (right.labels == 2).sum() * 2 / 1000 == pytest.approx(14.1, rel=0.1)
    assert np.median(right.hu[right.labels == 1]) == pytest.approx(130, abs=8)  # borders are mixed with fat
    assert np.median(left.hu[left.labels == 3]) == pytest.approx(10, abs=15)
    assert rough.hu[0].max() == -1000  # nothing was scanned there


def test_an_unchanged_item_is_the_sample_and_step_3_sees_the_kidney_alone(cases: Path, tmp_path: Path) -> None:
    paths = prepare(read_cases(cases)[:1], tmp_path / "samples", drawn=0)
    (rough,) = read_samples(paths[0], "rough")
    item = StepDataset(paths, STEPS["rough"], augmentation=STILL)[0]
    assert item["labels"].numpy().tolist() == rough.labels.tolist()
    shown = np.clip(rough.hu, -200, 300)
    assert np.abs(item["image"][0].numpy() - shown).max() < 1
    lesion = StepDataset(paths, STEPS["lesion"], augmentation=STILL)[0]
    crops = [sample.labels > 0 for sample in read_samples(paths[0], "lesion")]
    kidneys = [kidney[closely(kidney)] for kidney in crops]
    outside = lesion["image"][0].numpy() == -1000
    assert any(np.array_equal(outside, ~kidney) for kidney in kidneys)
    assert outside.size < crops[0].size / 2


def test_the_kidney_that_step_3_is_shown_has_no_holes_and_flows_over_at_times(cases: Path, tmp_path: Path) -> None:
    paths = prepare(read_cases(cases), tmp_path / "samples", drawn=0)
    still = replace(STILL, region_mm=0.5)
    items = [StepDataset(paths, STEPS["lesion"], augmentation=still, items=12)[index] for index in range(12)]
    shown = [(item["image"][0] > -1000).numpy() for item in items]
    assert not any((ndimage.binary_fill_holes(region) & ~region).any() for region in shown)
    beside = [int((region & (item["labels"] == 0).numpy()).sum()) for region, item in zip(shown, items, strict=True)]
    kidneys = [int((item["labels"] > 0).sum()) for item in items]
    over = [more / kidney for more, kidney in zip(beside, kidneys, strict=True)]
    assert sum(share > 0.01 for share in over) >= 2
    assert sum(share < 0.001 for share in over) >= 2


def an_item(
    sides: tuple[int, int, int], hu: float = 0.0, label: int = 0, counts: float = 1.0
) -> dict[str, torch.Tensor]:
    return {
        "image": torch.full((1, *sides), hu),
        "labels": torch.full(sides, label),
        "counts": torch.full(sides, counts),
    }


def test_items_of_several_sizes_are_one_batch_continued_with_air() -> None:
    first, second = an_item((8, 16, 8), 30, 1, 2), an_item((16, 8, 8), 40, 2, 3)
    batch = batched([first, second])
    assert (batch["image"].shape, batch["labels"].shape) == ((2, 1, 16, 16, 8), (2, 16, 16, 8))
    assert torch.equal(batch["image"][0, :, :8], first["image"])
    assert torch.equal(batch["labels"][1, :, :8], second["labels"])
    assert torch.equal(batch["counts"][1, :, :8], second["counts"])
    assert batch["image"][0, :, 8:].unique().tolist() == batch["image"][1, :, :, 8:].unique().tolist() == [-1000]
    assert not batch["labels"][0, 8:].any()
    assert not batch["labels"][1, :, 8:].any()
    assert batch["counts"][0, 8:].unique().tolist() == [1]


def test_each_item_is_in_one_batch_with_those_of_its_size() -> None:
    sides = (8, 24, 16, 24, 8, 16, 8)
    items = [an_item((side, 8, 8)) for side in sides]
    batches = alike(items, batch=3)
    assert [tuple(batch["labels"].shape[:2]) for batch in batches] == [(3, 8), (3, 24), (1, 24)]


def test_step_3_is_asked_for_no_lesion_in_a_part_of_the_kidney_that_it_is_not_shown(
    cases: Path, tmp_path: Path
) -> None:
    paths = prepare(read_cases(cases), tmp_path / "samples", drawn=0)
    items = StepDataset(paths, STEPS["lesion"], augmentation=replace(STILL, region_mm=8.0), items=6)
    shown = [(items[index]["image"][0] > -1000, items[index]["labels"] > 1) for index in range(6)]
    assert sum(int(lesion.sum()) for _, lesion in shown) > 5000
    assert not any(bool((lesion & ~region).any()) for region, lesion in shown)


def test_coarser_voxels_have_the_mean_hu_and_the_label_of_most_and_cover_as_much(cases: Path, tmp_path: Path) -> None:
    hu, labels = np.zeros((10, 16, 16), np.int16), np.zeros((10, 16, 16), np.uint8)
    hu[:2, :2, :2] = np.arange(8).reshape(2, 2, 2) * 10
    labels[:2, :2, :1], labels[:2, :1, 1] = 3, 2  # 4 of 8 voxels are cyst, 2 tumour, 2 nothing
    coarse = Sample(hu, labels, (2.0, 1.0, 1.5)).coarse()
    assert (coarse.hu[0, 0, 0], coarse.labels[0, 0, 0], coarse.spacing_mm) == (35, 3, (4.0, 2.0, 3.0))
    assert coarse.hu.shape == (8, 8, 8)
    assert (coarse.hu[5:] == -1000).all()
    paths = prepare(read_cases(cases), tmp_path / "samples", drawn=0)
    fine, twice = (
        [StepDataset(paths, STEPS["lesion"], augmentation=STILL, coarse=coarse)[at]["labels"] for at in range(2)]
        for coarse in (False, True)
    )
    for few, many in zip(twice, fine, strict=True):
        assert few.numel() < many.numel() / 4
        assert 8 * int((few > 0).sum()) == pytest.approx(int((many > 0).sum()), rel=0.05)


def test_items_differ_by_epoch_and_are_the_same_in_every_run(cases: Path, tmp_path: Path) -> None:
    paths = prepare(read_cases(cases), tmp_path / "samples", drawn=0)
    sets = [StepDataset(paths, STEPS["kidney"], patch=(16, 32, 32), seed=3) for _ in range(2)]
    assert torch.equal(sets[0][1]["image"], sets[1][1]["image"])
    sets[1].start_epoch(1)
    assert not torch.equal(sets[0][1]["image"], sets[1][1]["image"])


def test_cysts_and_tumours_are_sought_among_all_files_and_specks_are_none(tmp_path: Path) -> None:
    kidney = np.zeros((1, *STEPS["kidney"].shape), np.uint8)
    kidney[0, 30:50, 40:90, 40:90] = 1
    paths = [tmp_path / f"{number}.npz" for number in range(7)]  # of seven patients one has a cyst and none a tumour
    for path in paths:
        if path == paths[-1]:
            kidney[0, 38:42, 60:70, 60:70] = 3
        hu = np.zeros(kidney.shape, np.int16)
        np.savez_compressed(path, kidney_hu=hu, kidney_labels=kidney, kidney_spacing_mm=[[2.0, 1.0, 1.0]])

    def with_a_cyst(step: StepName) -> int:
        items = StepDataset(paths, STEPS[step], augmentation=STILL, items=20)
        return sum(bool((items[index]["labels"] == 3).any()) for index in range(20))

    assert with_a_cyst("lesion") >= 4  # 8 in the long run; 2 or 3 by chance
    assert with_a_cyst("kidney") >= 4  # 9 in the long run; 1 by chance
    speck = np.zeros((10, 10, 10), np.uint8)
    speck[5, 5, 4:8] = 3
    sample = Sample(np.zeros((10, 10, 10), np.int16), speck, (2.0, 2.0, 2.0))
    assert not sample.holds(3)  # 0.03 ml
    assert replace(sample, spacing_mm=(4.0, 2.0, 2.0)).holds(3)


def test_three_steps_become_one_model_whose_card_says_what_was_real(cases: Path, tmp_path: Path) -> None:
    weights = train_all(run(cases, tmp_path / "run"))
    assert weights == tmp_path / "run/ct-unet3d/ct-unet3d.safetensors"
    assert list(load_networks(weights)) == ["rough", "kidney", "lesion"]
    card = models.card("ct-unet3d", tmp_path / "run")
    assert models.weights_path(card, tmp_path / "run") == weights
    assert card.classes == ("kidney", "tumour", "cyst")
    assert [(each.images, each.licence) for each in card.training_data] == [(1, "made up")]
    assert card.figures == card.validated_classes == ()
    told = json.loads((tmp_path / "run/lesion/figures.json").read_text())
    assert set(told) == {"epoch", "scans", "loss", "dice_tumour", "dice_cyst"}
    rows = table(tmp_path / "run/rough/metrics.csv")
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert 0 <= float(rows[1]["val/dice_kidney"]) <= 1
    assert (tmp_path / "run/rough/curves.png").is_file()


def test_the_card_that_is_shipped_says_of_drawn_scans_what_training_says() -> None:
    (note,) = (each.note for each in models.card("ct-segresnet").training_data if each.note.startswith("drawn"))
    patients = re.search(r"those of (\d+) real patients", note)
    assert patients is not None
    assert note.startswith(drawn_scans(int(patients[1])))
    assert "HU of kidneys, tumours and cysts follow those measured" in note


def test_a_model_of_steps_that_saw_no_real_scan_says_so(cases: Path, tmp_path: Path) -> None:
    config = replace(run(cases, tmp_path / "run"), items=1, epochs=1)
    train_all(config)
    drawn = {"drawn of shapes": {"name": "shapes", "licence": "free", "images": 5, "note": "drawn CT scans"}}
    for step in STEPS:
        (tmp_path / "run" / step / "trained_on.json").write_text(json.dumps(drawn))
    assert model_of(config) is not None
    card = models.card("ct-unet3d", tmp_path / "run")
    assert [(each.name, each.images) for each in card.training_data] == [("shapes", 5)]
    assert any("without a single real CT scan" in limit for limit in card.limits)


def test_each_folder_stands_on_the_card_with_its_own_licence_and_note(cases: Path, tmp_path: Path) -> None:
    for name in ("first", "second"):
        write_slice(tmp_path / name, f"{name}_patient")
        write_case(tmp_path / f"{name} scans/{name}_case", seed=3)
    words = f"train ct --data {cases} --output {tmp_path / 'run'} --width 4 --batch 1 --items 1 --epochs 1"
    options = [*words.split(), "--hold-out", "case_00001", "--validate-every", "0", "--licence", "free"]
    for name in ("first", "second"):
        options += ["--slices", str(tmp_path / name), "--scans", str(tmp_path / f"{name} scans")]
    options += ["--licence-of", "second", "CC BY-NC", "--note-of", "second scans", "kidneys outlined by a threshold"]
    assert cli.main(options) == 0
    sources = models.card("ct-unet3d", tmp_path / "run").training_data
    assert [(each.name, each.licence, each.images) for each in sources] == [
        ("kits", "free", 1),
        ("first", "free", 1),
        ("second", "CC BY-NC", 1),
        ("first scans", "free", 1),
        ("second scans", "free", 1),
    ]
    assert [each.note.endswith("; kidneys outlined by a threshold") for each in sources] == [False] * 4 + [True]
    with pytest.raises(InputError, match="sceond: no folder of this training; it has kits"):
        train(replace(run(cases, tmp_path / "other"), notes={"sceond": "misspelt"}))


def test_a_quarter_of_what_is_shown_is_of_real_scans_given_beside_the_drawn_ones(cases: Path, tmp_path: Path) -> None:
    scan, others = Path("scan.npz"), [Path(f"drawn-{number}.npz") for number in range(9)]
    assert often([scan], among=len(others)) == [scan] * 3  # 3 of 12
    assert often([scan, scan], among=1) == [scan, scan]
    for name in ("case_00001", "case_00002"):
        write_case(tmp_path / "real" / name, seed=5)
    config = replace(run(cases, tmp_path / "run"), items=1, epochs=1)
    train(replace(config, scans=(tmp_path / "real",)))
    told = json.loads((config.folder / "trained_on.json").read_text())
    assert {source: each["images"] for source, each in told.items()} == {"real of kits": 1, "scans of real": 1}
    assert told["scans of real"]["note"] == "real CT scans, 50 % of what samples were taken from"
    write_labels(tmp_path / "real/case_00003.nii.gz")
    with pytest.raises(InputError, match="label maps without a scan go into --data"):
        train(replace(config, scans=(tmp_path / "real",)))


def test_a_step_begins_from_another_one_but_for_its_first_and_last_layers(cases: Path, tmp_path: Path) -> None:
    kidney = train(replace(run(cases, tmp_path / "kidney"), step="kidney", epochs=1))
    lesion = replace(run(cases, tmp_path / "lesion"), step="lesion", epochs=1, start=kidney, lr0=0.0)
    before, after = load_file(kidney), load_file(train(lesion))
    differing = {name for name in after if not torch.equal(after[name], before[name.replace("lesion.", "kidney.")])}
    first, answer = "lesion.body.first.conv_0.conv", "lesion.body.answer"
    assert differing == {f"{first}.weight", f"{answer}.weight", f"{answer}.bias"}
    with pytest.raises(ModelError, match="holds a unet3d of width 4, and a unet3d of width 8 is to be trained"):
        train(replace(lesion, width=8))


def test_a_step_trained_on_coarse_voxels_is_used_so_in_the_model(cases: Path, tmp_path: Path) -> None:
    train_all(replace(run(cases, tmp_path / "run"), epochs=1, items=1))
    joined = load_networks(train(replace(run(cases, tmp_path / "run"), step="lesion", epochs=1, coarse=True)))
    assert joined["lesion"].coarse
    model = load_networks(tmp_path / "run/ct-unet3d/ct-unet3d.safetensors")
    assert [step for step, network in model.items() if network.coarse] == ["lesion"]
    told = models.card("ct-unet3d", tmp_path / "run").architecture
    assert told.endswith("(Lv and Wang, 2021), on voxels twice as wide in the step lesion, from scratch")


def test_a_run_that_goes_on_ends_with_the_weights_it_would_have_had(cases: Path, tmp_path: Path) -> None:
    # No rate knows how long the run is; bfloat16 is not the same to the last bit.
    steady = replace(run(cases, tmp_path / "whole"), annealed=False, warmup=0.0, bf16=False)
    whole = load_file(train(steady))
    half = replace(steady, output=tmp_path / "half", epochs=1)
    train(half)
    (half.folder / "figures.json").unlink()  # as if killed after the first of two epochs
    resumed = load_file(train(replace(half, epochs=2, resume=True)))
    assert [row["epoch"] for row in table(half.folder / "metrics.csv")] == ["1", "2"]
    assert all(torch.equal(value, whole[name]) for name, value in resumed.items())


def test_air_alone_does_not_spoil_the_weights(cases: Path, tmp_path: Path) -> None:
    nothing = read_cases(cases)[0]
    shape = (60, 40, 40)
    for name, value in (("imaging", -1000), ("segmentation", 0)):
        image = nibabel.Nifti1Image(np.full(shape, value, np.int16), np.diag([4.0, 4, 4, 1]))
        nibabel.save(image, nothing.labels.with_name(f"{name}.nii.gz"))
    config = replace(run(cases, tmp_path / "run"), step="lesion", epochs=1, items=3)
    weights = load_file(train(config))
    assert all(bool(torch.isfinite(value).all()) for value in weights.values())


def test_folds_hold_each_patient_out_once(cases: Path, tmp_path: Path) -> None:
    write_labels(cases / "case_00002.nii.gz")
    held = folds_of(read_cases(cases), 3)
    assert sorted(group for fold in held for group in fold) == ["case_00000", "case_00001", "case_00002"]
    (cases / "case_00002.nii.gz").unlink()
    config = replace(run(cases, tmp_path / "run"), items=1, epochs=1)
    path = cross_validate(config, 2, steps=("rough",), only=2)
    (row,) = table(path)
    assert (row["fold"], row["step"], row["scans"]) == ("2", "rough", "1")
    assert json.loads((tmp_path / "run/fold-2/held_out.json").read_text()) == list(folds_of(read_cases(cases), 2)[1])


def test_folds_without_a_number_are_the_papers_five(
    cases: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["train", "ct", "--data", str(cases), "--output", str(tmp_path / "run"), "--folds"]) == 1
    assert "5 folds" in capsys.readouterr().err  # of two patients


def test_the_papers_recipe_has_its_batch_epochs_and_whole_grids() -> None:
    config = with_recipe(TrainConfig(data=Path(), output=Path(), step="kidney"), "paper")
    assert (config.batch, config.epochs, config.width, config.shown) == (4, 50, 32, (80, 128, 128))


def test_the_papers_recipe_scales_turns_and_recolours_without_more_and_steps_by_adam(
    cases: Path, tmp_path: Path
) -> None:
    config = with_recipe(run(cases, tmp_path / "run"), "paper")
    # Scaling, rotation, brightness, contrast and gamma as in the text; mirroring, noise and blur are ours.
    assert config.augmentation == Augmentation(mirror=0, noise_hu=0, blur=0, region_mm=0)
    assert min(config.augmentation.scale, config.augmentation.rotate_degrees, config.augmentation.brightness_hu) > 0
    assert (config.augmentation.contrast > 0, config.augmentation.gamma > 1) == (True, True)
    assert (config.warmup, config.annealed, config.average) == (0, False, 1)  # one rate, the last weights
    small = replace(config, width=4, whole=False, batch=1, epochs=1, items=1)
    train(small)
    (told,) = torch.load(small.checkpoint, weights_only=True)["optimizer"]["param_groups"]
    assert (told["decoupled_weight_decay"], told["weight_decay"], told["lr"]) == (False, 0, 1e-3)  # Adam, not AdamW
    assert table(small.folder / "metrics.csv")[-1]["lr/lr"] == "0.001"


def test_folders_that_cannot_be_trained_on_are_refused_with_the_reason(cases: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no case_xxxxx"):
        read_cases(tmp_path / "empty")
    (cases / "case_00000/segmentation.nii.gz").rename(tmp_path / "away.nii.gz")
    with pytest.raises(InputError, match=r"case_00000 has no segmentation\.nii\.gz"):
        read_cases(cases)
    (tmp_path / "away.nii.gz").rename(cases / "case_00000/segmentation.nii.gz")
    write_labels(cases / "case_00000.nii.gz")
    with pytest.raises(InputError, match="case_00000 as a scan and as a label map"):
        read_cases(cases)
    (cases / "case_00000.nii.gz").unlink()
    with pytest.raises(InputError, match="has no group case_00009"):
        train_and_validation(read_cases(cases), ["case_00009"], folder=cases)
    with pytest.raises(InputError, match="no checkpoint to resume from"):
        train(replace(run(cases, tmp_path / "new"), resume=True))


def test_the_command_trains_a_step_on_scans_drawn_around_label_maps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shapes = tmp_path / "shapes"
    shapes.mkdir()
    for number in range(2):
        write_labels(shapes / f"case_{number:05d}.nii.gz")
    words = f"train ct --data {shapes} --output {tmp_path / 'run'} --step rough --synthetic 1 --width 4 --batch 1"
    assert cli.main([*words.split(), "--epochs", "1", "--validate-every", "0"]) == 0
    assert capsys.readouterr().err.endswith("rough/weights.safetensors\n")
    told = json.loads((tmp_path / "run/rough/trained_on.json").read_text())
    assert {source: each["images"] for source, each in told.items()} == {"drawn of shapes": 1}
    assert cli.main([*words.split(), "--fold", "1"]) == 1
    assert "--fold names one of --folds" in capsys.readouterr().err


def test_a_share_of_the_drawn_scans_is_randomised_and_the_card_says_how_many(tmp_path: Path) -> None:
    shapes = tmp_path / "shapes"
    shapes.mkdir()
    for number in range(2):
        write_labels(shapes / f"case_{number:05d}.nii.gz")
    words = f"train ct --data {shapes} --output {tmp_path / 'run'} --step rough --synthetic 3 --width 4 --batch 1"
    words += " --items 1 --epochs 1 --validate-every 0 --hold-out case_00001 --randomised"
    assert cli.main([*words.split(), "0.5"]) == 0
    # Of seeds 0, 1 and 2 the first two; validation draws seed 900,000 as always.
    assert sorted(path.stem for path in (tmp_path / "run/samples").iterdir()) == [
        "case_00000-0-randomised",
        "case_00000-1-randomised",
        "case_00000-2",
        "case_00001-900000",
    ]
    told = json.loads((tmp_path / "run/rough/trained_on.json").read_text())["drawn of shapes"]
    assert told["images"] == 3
    assert told["note"].endswith("no real voxel of CT; mean and deviation of each tissue's HU are random in 2")
    assert [seed for seed in range(1000) if is_randomised(seed, 0.0)] == []
    assert all(is_randomised(seed, 1.0) for seed in range(1000))
    some, more = ({seed for seed in range(1000) if is_randomised(seed, share)} for share in (0.2, 0.4))
    assert some < more
    assert [len(some), len(more)] == pytest.approx([200, 400], abs=60)
    with pytest.raises(SystemExit):
        cli.main([*words.split(), "1.5"])
