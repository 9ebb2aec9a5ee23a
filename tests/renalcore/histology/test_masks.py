from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from renalcore.datasets.findings import Kind
from renalcore.errors import InputError, UnreadableFile
from renalcore.histology.annotations import ReadOptions, Slides, read_slides, survey
from renalcore.histology.annotations.masks import read_instances
from tests.renalcore.histology.drawn import field, numbered, pair, save

FOLDERS = ("viewer/", "bupt/", "omniseg/", "hubmap16x/")


def told(slides: Slides, kind: Kind) -> list[str]:
    return [str(finding) for finding in slides.findings if finding.kind is kind]


def test_masks_beside_pictures_are_slides_with_counted_and_measured_glomeruli(tmp_path: Path) -> None:
    pair(tmp_path, "a", [(100, 100, 20), (200, 120, 30), (319, 10, 40)])
    (slide,) = read_slides(tmp_path).slides
    assert (slide.path.name, slide.glomeruli, slide.known) == ("a.png", 3, "all")
    assert slide.areas_px[:2] == pytest.approx([np.pi * 20**2, np.pi * 30**2], rel=0.05)
    assert slide.whole.tolist() == [True, True, False]
    assert slide.glomerulus_px == pytest.approx((40 + 60) / 2, rel=0.05)  # what the edge cuts does not count


def test_a_mask_is_found_by_its_name_too(tmp_path: Path) -> None:
    save(tmp_path / "P1.jpg", field([]))
    save(tmp_path / "P1_mask.png", numbered([(100, 100, 20)]))
    (slide,) = read_slides(tmp_path).slides
    assert slide.mask_path == tmp_path / "P1_mask.png"


def test_a_mask_of_two_values_is_binary_and_its_parts_are_glomeruli(tmp_path: Path) -> None:
    white = (numbered([(60, 60, 20), (200, 60, 20)]) > 0).astype(np.uint8) * 255
    assert np.unique(read_instances(save(tmp_path / "binary.png", white))).tolist() == [0, 1, 2]
    apart = numbered([(60, 60, 20), (200, 60, 20), (200, 150, 5)])
    apart[apart == 2] = 1
    assert np.unique(read_instances(save(tmp_path / "parts.png", apart))).tolist() == [0, 1, 3]


def test_a_mask_in_colours_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnreadableFile, match="in colours; save it with one channel"):
        read_instances(save(tmp_path / "m.png", field([(100, 100, 20)])))


def test_a_mask_of_another_size_than_its_picture_is_told(tmp_path: Path) -> None:
    pair(tmp_path, "a", [(100, 100, 20)])
    save(tmp_path / "instances" / "a.png", numbered([(50, 50, 10)], size=(160, 120)))
    (message,) = told(survey(tmp_path), Kind.OTHER_SIZE)
    assert message.startswith("instances/a.png: has 160 x 120 px, its picture 320 x 240; one of them was resized")
    with pytest.raises(InputError, match="renalcore check histology --data"):
        read_slides(tmp_path)


def test_a_table_of_pairs_says_what_is_known_of_each(tmp_path: Path) -> None:
    for name in "abc":
        pair(tmp_path, name, [(100, 100, 20)])
    (tmp_path / "pairs.csv").write_text(
        "image,instances,stain,species,um_per_px,group,known,split\n"
        "images/a.png,instances/a.png,PAS,Mus musculus,0.5,M1,,train\n"
        "images/b.png,instances/b.png,HE,human (by size),~8,P1,some,val\n"
        "images/gone.png,instances/c.png,HE,human,,P2,,train\n"
    )
    found = survey(tmp_path)
    a, b = found.slides
    assert (a.stain, a.species, a.um_per_px, a.group, a.known) == ("PAS", "mouse", 0.5, "M1", "all")
    assert (b.species, b.um_per_px, b.known) == ("human", None, "some")  # an estimate is no scale
    assert (found.splits, found.own_splits, found.grouped_by) == (("train", "val"), True, "pairs.csv")
    assert told(found, Kind.MISSING_PICTURE)[0].startswith("pairs.csv: line 4 names gone.png, which is not there")


def test_groups_come_from_a_table_or_a_pattern_and_never_lie_on_both_sides(tmp_path: Path) -> None:
    for patient in range(6):
        for part in "ab":
            pair(tmp_path, f"P{patient}_{part}", [(100, 100, 10 + patient)])
    slides = read_slides(tmp_path, ReadOptions(group_pattern=r"^(P\d+)_", val_share=0.4))
    train, val = slides.sides()
    assert {slide.group for slide in (*train, *val)} == {f"P{patient}" for patient in range(6)}
    assert train
    assert val
    assert not {slide.group for slide in train} & {slide.group for slide in val}
    folds = slides.folds(3)
    assert sorted(group for fold in folds for group in fold) == [f"P{patient}" for patient in range(6)]
    assert [len(fold) for fold in folds] == [2, 2, 2]
    train, val = slides.sides(folds[0])
    assert {slide.group for slide in val} == set(folds[0])


def test_an_empty_mask_says_that_a_slide_was_searched(tmp_path: Path) -> None:
    pair(tmp_path, "a", [])
    found = survey(tmp_path)
    assert (found.slides[0].glomeruli, found.slides[0].glomerulus_px) == (0, None)
    assert told(found, Kind.EMPTY_SLIDE)[0].startswith("images/a.png: has no glomerulus outlined")


def test_a_folder_without_labels_says_what_is_read(tmp_path: Path) -> None:
    save(tmp_path / "a.png", field([]))
    with pytest.raises(InputError, match="holds 1 picture and no outlines"):
        read_slides(tmp_path)


@pytest.mark.shared_data
def test_real_fields_are_read_with_their_stains_and_what_is_known(shared_data: Path, tmp_path: Path) -> None:
    real = shared_data / "histology"
    header, *lines = (real / "pairs.csv").read_text().splitlines()
    chosen = [line.replace(folder, f"{real}/{folder}") for folder in FOLDERS for line in lines if folder in line][::40]
    (tmp_path / "pairs.csv").write_text("\n".join([header, *chosen]))
    slides = read_slides(tmp_path).slides
    assert [(slide.stain, slide.known, slide.glomeruli) for slide in slides] == [
        ("HE", "all", 8), ("HE", "all", 5), ("Masson", "all", 1), ("PASM", "all", 3), ("PAS", "all", 1),
        ("PAS", "inside", 1),
    ]  # fmt: skip
