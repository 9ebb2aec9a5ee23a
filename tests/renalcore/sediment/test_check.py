from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from renalcore import cli
from renalcore.datasets.findings import Kind
from renalcore.errors import InputError
from renalcore.sediment.check import DataCheck, check


def field(seed: int) -> np.ndarray:
    """A field of 320 x 240 px: light that falls off and the same dirt everywhere, and cells of its own."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:240, :320].astype(np.float32)
    grey = 200 - ((x - 160) ** 2 + (y - 120) ** 2) / 600
    grey = grey - 40 * np.exp(-((x - 80) ** 2 + (y - 60) ** 2) / 800)
    for cx, cy in rng.uniform((10, 10), (310, 230), (25, 2)):
        grey = grey - 60 * np.exp(-((np.hypot(x - cx, y - cy) - 8) ** 2) / 4)
    grey += rng.normal(0, 1, grey.shape)
    return np.repeat(np.clip(grey, 0, 255).astype(np.uint8)[:, :, None], 3, axis=2)


def save(folder: Path, side: str, name: str, pixels: np.ndarray) -> Path:
    path = folder / side / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.ascontiguousarray(pixels)).save(path)
    path.with_suffix(".txt").write_text("0 0.5 0.5 0.1 0.1\n")
    return path


@pytest.fixture
def fields(tmp_path: Path) -> Path:
    """Two patients to train on and one to validate with; everything is as it should be."""
    folder = tmp_path / "fields"
    for seed, (side, name) in enumerate([("train", "a"), ("train", "b"), ("val", "c")]):
        save(folder, side, name, field(seed))
    (folder / "classes.txt").write_text("erythrocyte\n")
    (folder / "groups.csv").write_text("image,group\na,P1\nb,P2\nc,P3\n")
    return folder


def messages(report: DataCheck, kind: Kind) -> list[str]:
    return [str(finding) for finding in report.findings if finding.kind is kind]


def test_a_set_that_is_as_it_should_be_is_fit(fields: Path) -> None:
    seen: list[tuple[int, int]] = []
    report = check(fields, done=lambda done, all_: seen.append((done, all_)))
    assert (report.findings, report.is_fit) == ((), True)
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert (report.pictures("train"), report.pictures("val"), report.pictures("test")) == (2, 1, 0)
    assert (report.objects("train")["RBC"], report.objects("train")["WBC"]) == (2, 0)


def test_the_same_pixels_in_two_splits_are_a_leak_whatever_the_file(fields: Path) -> None:
    save(fields, "val", "d", field(0))
    Image.fromarray(field(0)).save(fields / "val" / "d.png", compress_level=1)
    (fields / "groups.csv").write_text("image,group\na,P1\nb,P2\nc,P3\nd,P4\n")
    report = check(fields)
    assert messages(report, Kind.LEAK) == [
        "val/d.png: (val) is the same picture as train/a.png (train); remove one of the two, or put both into one split"
    ]
    assert messages(report, Kind.NEAR_LEAK) == []  # told once
    assert not report.is_fit


def jpeg(pixels: np.ndarray) -> np.ndarray:
    return cv2.imdecode(cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 40])[1], cv2.IMREAD_COLOR)


@pytest.mark.parametrize(
    "change",
    [
        jpeg,
        lambda pixels: cv2.resize(pixels, (200, 150), interpolation=cv2.INTER_AREA),
        lambda pixels: np.clip(pixels * 1.1 - 20.0, 0, 255).astype(np.uint8),
        lambda pixels: pixels[:, ::-1],
        lambda pixels: np.rot90(pixels),
        lambda pixels: np.rot90(pixels[:, ::-1], 3),
    ],
    ids=["jpeg", "smaller", "lighter", "mirrored", "turned", "mirrored and turned"],
)
def test_almost_the_same_picture_in_two_splits_is_a_leak(
    fields: Path, change: Callable[[np.ndarray], np.ndarray]
) -> None:
    save(fields, "val", "c", change(field(1)))
    (message,) = messages(check(fields), Kind.NEAR_LEAK)
    assert message.startswith("val/c.png: (val) is almost the same picture as train/b.png (train), correlation ")


def test_other_cells_under_the_same_light_and_dirt_are_no_leak(fields: Path) -> None:
    for seed in range(10, 20):
        save(fields, "val" if seed % 2 else "train", f"f{seed}", field(seed))
    assert messages(check(fields), Kind.NEAR_LEAK) == []


def test_the_same_picture_twice_on_one_side_is_worth_a_look_only(fields: Path) -> None:
    save(fields, "train", "b", field(0))
    report = check(fields)
    assert messages(report, Kind.PICTURE_TWICE) == [
        "train/b.png: is the same picture as train/a.png; remove one of the two"
    ]
    assert report.is_fit


def test_a_group_in_two_splits_is_wrong(fields: Path) -> None:
    (fields / "groups.csv").write_text("image,group\na,P1\nb,P2\nc,P1\n")
    report = check(fields)
    assert messages(report, Kind.GROUP_LEAK)[0].startswith("group P1: has pictures in train (a.png), val (c.png); put")
    assert not report.is_fit


def test_a_picture_that_is_cut_off_is_told(fields: Path) -> None:
    path = fields / "train" / "a.png"
    path.write_bytes(path.read_bytes()[:3000])
    report = check(fields)
    assert messages(report, Kind.UNREADABLE_PICTURE)[0].startswith("train/a.png: a.png")
    assert not report.is_fit


def test_listed_classes_without_a_box_are_told(fields: Path) -> None:
    (fields / "classes.txt").write_text("erythrocyte\nyeast\nother\nsperm\n")
    report = check(fields)
    assert messages(report, Kind.EMPTY_CLASS)[0].startswith("(class list): 2 classes listed, not one box: Yeast, Sperm")
    assert report.is_fit


def test_unlabelled_fields_are_checked_too(tmp_path: Path) -> None:
    for name in "ab":
        save(tmp_path, "pictures", name, field(0)).with_suffix(".txt").unlink()
    report = check(tmp_path)
    assert messages(report, Kind.PICTURE_TWICE)[0].startswith("pictures/b.png: is the same picture as pictures/a.png")
    assert report.is_fit


def test_a_folder_without_pictures_is_fit_for_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no picture; give the folder that holds the pictures"):
        check(tmp_path)


def test_the_command_tells_counts_names_and_verdict(fields: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", "sediment", "--data", str(fields)]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == f"{fields}: yolo, 3 labelled pictures, 0 unlabelled"
    assert lines[1] == "splits: its own; groups: groups.csv"
    assert lines[3:7] == ["train val", "pictures 2 1", "groups 2 1", "RBC 2 1"]
    assert "erythrocyte -> RBC (3 boxes)" in lines
    assert lines[-1] == "fit to train on"


def test_the_command_ends_with_1_and_writes_every_finding(fields: Path, tmp_path: Path) -> None:
    (fields / "classes.txt").write_text("=kristall\n")
    output = tmp_path / "checked"
    assert cli.main(["check", "sediment", "--data", str(fields), "--output", str(output)]) == 1
    content = json.loads((output / "check.json").read_text(encoding="utf-8"))
    assert (content["fit"], content["pictures"]) == (False, {"train": 2, "val": 1, "test": 0})
    assert content["names"] == [{"name": "=kristall", "read_as": "unknown", "boxes": 3}]
    with (output / "findings.csv").open(encoding="utf-8-sig", newline="") as lines:
        (row,) = csv.DictReader(lines)
    assert (row["kind"], row["error"], row["file"]) == ("unknown_name", "yes", "train/a.txt")
    with (output / "classes.csv").open(encoding="utf-8-sig", newline="") as lines:
        assert [row["class"] for row in csv.DictReader(lines)][6] == "RBC"


def test_a_mapping_makes_the_command_content(fields: Path, tmp_path: Path) -> None:
    (fields / "classes.txt").write_text("kristall\n")
    mapping = tmp_path / "names.csv"
    mapping.write_text("name,class\nkristall,Calcium oxalate\n")
    assert cli.main(["check", "sediment", "--data", str(fields), "--mapping", str(mapping)]) == 0


def test_a_set_whose_pictures_are_all_broken_is_not_called_fit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path, "train", "a", field(0)).write_bytes(b"no picture")
    (tmp_path / "classes.txt").write_text("erythrocyte\n")
    assert cli.main(["check", "sediment", "--data", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert "train/a.png: is not a picture that can be read" in said
    assert said.rstrip().endswith("NOT fit to train on: correct what is marked WRONG")


def test_a_folder_that_is_not_there_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", "sediment", "--data", str(tmp_path / "gone")]) == 1
    assert "gone is not a folder" in capsys.readouterr().err


@pytest.mark.shared_data
def test_the_real_fields_have_no_leak_but_a_group_that_is_none(shared_data: Path) -> None:
    report = check(shared_data / "sediment" / "urised2k")
    (finding,) = report.findings
    assert (finding.kind, finding.file) == (Kind.GROUP_LEAK, "group NUM_800x600")  # numbered files of many samples
    assert (report.objects("train")["RBC"], report.objects("val")["RBC"]) == (16832, 966)
    assert (report.objects("train")["Yeast"], report.objects("val")["Yeast"]) == (519, 1)
