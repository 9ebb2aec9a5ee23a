from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from renalcore import taxonomy
from renalcore.datasets.findings import Kind
from renalcore.datasets.pictures import find_pictures, read_rgb
from renalcore.errors import InputError
from renalcore.io.image import read_field
from renalcore.sediment.names import IGNORE, SYNONYMS, class_called, nearest, read_mapping
from renalcore.sediment.readers import Format, LabelledField, LabelledFields, ReadOptions, read_fields, survey

RBC, WBC = taxonomy.class_id("RBC"), taxonomy.class_id("WBC")
SQUAMOUS, OXALATE = taxonomy.class_id("Epithelial cell (squamous)"), taxonomy.class_id("Calcium oxalate")
YOLO_BOX = "0.4 0.35 0.1 0.2"  # of a picture of 200 x 100 px
BOX_PX = [70, 25, 90, 45]


def picture(path: Path, *, seed: int = 0, size: tuple[int, int] = (200, 100), **options: Any) -> Path:
    """A picture of noise, of the given width and height."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(noise).save(path, **options)
    return path


def text(path: Path, content: str, encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode(encoding))
    return path


def names_of(field: LabelledField) -> list[str]:
    return [taxonomy.NAMES[index] if index != IGNORE else "ignore" for index in field.class_ids]


def known_of(field: LabelledField) -> set[str]:
    return {taxonomy.NAMES[index] for index in np.flatnonzero(field.known)}


def kinds(fields: LabelledFields) -> set[Kind]:
    """What was found, but that nobody named groups, which is so in most of these sets."""
    return {finding.kind for finding in fields.findings} - {Kind.UNGROUPED}


def only(fields: LabelledFields, kind: Kind) -> str:
    """The one finding of a kind as it is shown."""
    (finding,) = [finding for finding in fields.findings if finding.kind is kind]
    return str(finding)


@pytest.fixture
def yolo(tmp_path: Path) -> Path:
    """Two fields with a class list in an order of its own."""
    for seed, name in enumerate(("a", "b")):
        picture(tmp_path / "images" / f"{name}.png", seed=seed)
        text(tmp_path / "labels" / f"{name}.txt", f"{seed} {YOLO_BOX}\n")
    text(tmp_path / "classes.txt", "leukocyte\nred_blood_cells\n")
    return tmp_path


# Names


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("rbc", "RBC"),
        ("Red-Blood_Cells", "RBC"),
        ("RedBloodCell", "RBC"),
        ("erythrocytes", "RBC"),
        ("Pus cells", "WBC"),
        ("leucocyte", "WBC"),
        ("epithelial", "Epithelial cell (squamous)"),
        ("squamous epithelial cells", "Epithelial cell (squamous)"),
        ("Epithelial_cell_(renal)", "Epithelial cell (renal)"),
        ("CaOx", "Calcium oxalate"),
        ("calcium oxalate monohydrate", "Calcium oxalate"),
        ("Calcium Oxalate crystals", "Calcium oxalate"),
        ("ammonium biurate", "Ammonium biurat"),
        ("tyrosine", "Tyrosine crystal"),
        ("cast, hyaline", "Hyaline cast"),
        ("fatty casts", "Lipid cast"),
        ("WBC_clumps", "WBC clump"),
        ("oval fat body", "Oval fat bodies"),
        ("artefact", "Artifact"),
        ("mucous threads", "Mucus"),
        ("Trichomonas", "Trichomonas vaginalis"),
    ],
)
def test_common_names_are_those_of_the_taxonomy(name: str, expected: str) -> None:
    assert class_called(name) == taxonomy.class_id(expected)


@pytest.mark.parametrize("name", ["cast", "casts", "crystal", "cell", "fungus", "particle", "", "7"])
def test_a_name_that_fits_several_classes_or_none_is_nobodys(name: str) -> None:
    assert class_called(name) is None


def test_every_name_and_synonym_means_its_own_class() -> None:
    assert set(SYNONYMS) == set(taxonomy.NAMES)
    for name in taxonomy.NAMES:
        assert {class_called(other) for other in (name, *SYNONYMS[name])} == {taxonomy.class_id(name)}


def test_a_misspelt_name_has_near_ones() -> None:
    assert nearest("Calcium oxalat")[0] == "Calcium oxalate"
    assert nearest("cast")[0].endswith("cast")
    assert nearest("xyz") == ()


def test_a_mapping_goes_before_the_synonyms(yolo: Path, tmp_path: Path) -> None:
    mapping = text(tmp_path / "m.csv", "\ufeffName;Class\r\nLEUKOCYTE;ignore\r\n", "utf-8")
    first, second = read_fields(yolo, ReadOptions(mapping=mapping)).fields
    assert (names_of(first), names_of(second)) == (["ignore"], ["RBC"])
    assert known_of(first) == {"RBC"}


def test_a_mapping_may_have_no_header_and_comments(tmp_path: Path) -> None:
    mapping = text(
        tmp_path / "m.csv", "# names, classes, notes\nkristall,calcium oxalate\n# end\nzylinder,Hyaline cast\n"
    )
    assert read_mapping(mapping) == {"kristall": OXALATE, "zylinder": taxonomy.class_id("Hyaline cast")}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("kristall,oxalat calcium\n", "line 1: 'oxalat calcium' is neither .* do you mean Calcium oxalate"),
        ("name,class\na,RBC\nA,WBC\n", "line 3: 'A' was mapped to another class before"),
    ],
)
def test_a_mapping_that_cannot_be_meant_is_refused(tmp_path: Path, lines: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_mapping(text(tmp_path / "m.csv", lines))


# YOLO


def test_yolo_labels_are_read_in_pixels_by_name(yolo: Path) -> None:
    read = read_fields(yolo)
    assert (read.format, kinds(read)) == (Format.YOLO, set())
    assert [field.boxes_px.tolist() for field in read.fields] == [[pytest.approx(BOX_PX)]] * 2
    assert [names_of(field) for field in read.fields] == [["WBC"], ["RBC"]]
    assert [known_of(field) for field in read.fields] == [{"RBC", "WBC"}] * 2
    assert all(field.real for field in read.fields)


def test_windows_files_names_with_spaces_and_other_letters_are_read(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "Feld 1 ü.PNG")
    text(tmp_path / "labels" / "Feld 1 u\u0308.TXT", f"\ufeff1 {YOLO_BOX}\r\n\r\n")  # as macOS spells it
    text(tmp_path / "labels" / "classes.txt", "\ufeffWBC\r\nRBC\r\n")
    (field,) = read_fields(tmp_path).fields
    assert names_of(field) == ["RBC"]


def test_ultralytics_yaml_names_classes_and_splits_by_relative_paths(tmp_path: Path) -> None:
    for seed, side in enumerate(("train", "valid", "test")):
        picture(tmp_path / "set" / side / "images" / f"{side}.jpg", seed=seed)
        text(tmp_path / "set" / side / "labels" / f"{side}.txt", f"0 {YOLO_BOX}")
    text(
        tmp_path / "set" / "data.yaml",
        "train: ../train/images\nval: ../valid/images\ntest: ../test/images\nnames: [wbc]\n",
    )
    read = read_fields(tmp_path / "set")
    assert [(field.path.stem, side) for field, side in zip(read.fields, read.splits, strict=True)] == [
        ("test", "test"), ("train", "train"), ("valid", "val"),
    ]  # fmt: skip
    assert read.own_splits


def test_ultralytics_yaml_may_point_outside_its_folder_and_list_pictures(tmp_path: Path) -> None:
    for seed, name in enumerate("abc"):
        picture(tmp_path / "pictures" / "images" / f"{name}.jpg", seed=seed)
        text(tmp_path / "pictures" / "labels" / f"{name}.txt", f"3 {YOLO_BOX}")
    text(
        tmp_path / "set" / "mine.yaml",
        "path: ../pictures\ntrain: train.txt\nval: [images/c.jpg.txt]\nnames: {3: RBC, 0: WBC}",
    )
    text(tmp_path / "pictures" / "train.txt", "./images/a.jpg\n/somewhere/else/images/b.jpg\n")
    text(tmp_path / "pictures" / "images" / "c.jpg.txt", "C:\\lab\\images\\c.jpg\n")
    read = read_fields(tmp_path / "set", ReadOptions(format=Format.YOLO))
    assert [(field.path.stem, side) for field, side in zip(read.fields, read.splits, strict=True)] == [
        ("a", "train"), ("b", "train"), ("c", "val"),
    ]  # fmt: skip
    assert {name for field in read.fields for name in names_of(field)} == {"RBC"}


def test_darknet_lists_split_and_obj_names_name(tmp_path: Path) -> None:
    for seed, name in enumerate("ab"):
        picture(tmp_path / "obj_train_data" / f"{name}.jpg", seed=seed)
        text(tmp_path / "obj_train_data" / f"{name}.txt", f"0 {YOLO_BOX}")
    text(tmp_path / "obj.names", "erythrocyte\n")
    text(tmp_path / "train.txt", "data/obj_train_data/a.jpg\n")
    text(tmp_path / "valid.txt", "data/obj_train_data/b.jpg\n")
    read = read_fields(tmp_path)
    assert (read.splits, [field.path.stem for field in read.split("val")]) == (("train", "val"), ["b"])


def test_an_outline_is_read_as_its_box(yolo: Path) -> None:
    text(yolo / "labels" / "a.txt", "0 0.35 0.25 0.45 0.30 0.40 0.45")
    assert read_fields(yolo).fields[0].boxes_px.tolist() == [pytest.approx(BOX_PX)]


def test_a_picture_turned_by_its_camera_is_read_upright(yolo: Path) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    path = picture(yolo / "images" / "c.jpg", size=(100, 200), exif=turned)
    text(yolo / "labels" / "c.txt", f"0 {YOLO_BOX}")
    assert read_rgb(path).shape == (100, 200, 3)
    assert read_fields(yolo).fields[2].boxes_px.tolist() == [pytest.approx(BOX_PX)]


@pytest.mark.parametrize("kind", ["12 of 16 bit", "transparent"])
def test_training_sees_a_picture_as_prediction_does(tmp_path: Path, kind: str) -> None:
    values = np.random.default_rng(0).integers(0, 4096 if kind == "12 of 16 bit" else 256, (80, 80, 4), np.uint16)
    deep, transparent = values[..., :3], values.astype(np.uint8)
    assert cv2.imwrite(str(tmp_path / "a.png"), deep if kind == "12 of 16 bit" else transparent)
    pixels = read_rgb(tmp_path / "a.png")
    assert pixels.max() > 250  # OpenCV alone makes 16 of 4096 steps
    np.testing.assert_array_equal(pixels, read_field(tmp_path / "a.png", name="a.png").pixels)


def test_an_empty_label_file_is_an_empty_field_and_a_missing_one_is_no_field(yolo: Path) -> None:
    text(yolo / "labels" / "a.txt", "")
    (yolo / "labels" / "b.txt").unlink()
    read = read_fields(yolo)
    (field,) = read.fields
    assert (len(field.class_ids), known_of(field)) == (0, {"RBC", "WBC"})
    assert [path.name for path in read.unlabelled] == ["b.png"]
    assert "images/b.png: 1 picture without labels" in only(read, Kind.UNLABELLED)


def test_labels_in_one_folder_for_pictures_in_several_are_found_by_their_name(tmp_path: Path) -> None:
    text(tmp_path / "classes.txt", "rbc")
    for seed, (side, name) in enumerate([("train", "a"), ("val", "b")]):
        picture(tmp_path / "images" / side / f"{name}.png", seed=seed)
        text(tmp_path / "labels" / f"{name}.txt", f"0 {YOLO_BOX}")
    assert read_fields(tmp_path).splits == ("train", "val")


def test_no_picture_takes_the_labels_of_another_of_its_name(tmp_path: Path) -> None:
    text(tmp_path / "classes.txt", "rbc")
    for seed, side in enumerate(("train", "val")):
        picture(tmp_path / side / "images" / "a.png", seed=seed)
    text(tmp_path / "val" / "labels" / "a.txt", f"0 {YOLO_BOX}")
    read = read_fields(tmp_path)
    assert (read.splits, read.unlabelled) == (("val",), (tmp_path / "train" / "images" / "a.png",))


def test_labels_without_a_class_list_are_refused(yolo: Path) -> None:
    (yolo / "classes.txt").unlink()
    with pytest.raises(InputError, match=r"has no class list; write classes\.txt"):
        read_fields(yolo)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("names: [a\nb: ]c", "is not valid YAML"),
        ("names: [a]\ndate: 2026-13-45", "is not valid YAML: month must be in 1..12"),
        ("names: {900000000: RBC}", "must give a name to each number 0, 1, 2"),
        ("names: {-1: RBC}", "must give a name to each number 0, 1, 2"),
        ("a: &a [x, x]\nnames: [[*a, *a]]", "each of `names` must be one name"),
    ],
)
def test_a_broken_yaml_is_refused_by_name(yolo: Path, content: str, message: str) -> None:
    text(yolo / "data.yaml", content)
    with pytest.raises(InputError, match=rf"data\.yaml.* {message}"):
        read_fields(yolo)


def test_what_a_list_of_a_split_lacks_or_has_too_much_is_told(yolo: Path) -> None:
    outside = picture(yolo.with_name("elsewhere") / "c.png")
    text(outside.with_suffix(".txt"), f"0 {YOLO_BOX}")
    text(yolo / "val.txt", f"images/a.png\nimages/gone.png\n{outside}\n")
    read = survey(yolo)
    assert read.splits == ("val", "train", "val")
    assert "val.txt: lists 1 picture of which there is no file, the first is images/gone.png" in only(
        read, Kind.LISTED_NOT_THERE
    )
    assert "images/b.png: 1 picture (this is the first) in none of the data's splits" in only(read, Kind.UNSPLIT)
    assert "../elsewhere/c.png: 1 picture (this is the first) outside the folder" in only(read, Kind.PICTURE_OUTSIDE)


def test_a_link_back_to_a_folder_above_is_not_followed(yolo: Path) -> None:
    (yolo / "images" / "all").symlink_to(yolo)
    assert len(find_pictures(yolo)) == 2


# Pascal VOC


def voc(name: str, objects: str, *, filename: str = "", size: tuple[int, int] = (200, 100)) -> str:
    return (
        f"<?xml version='1.0'?><annotation><filename>{filename or name}</filename>"
        f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>{objects}</annotation>"
    )


def thing(name: str, *, difficult: int = 0, box: tuple[float, ...] = (70, 25, 90, 45)) -> str:
    corners = "".join(f"<{side}>{at}</{side}>" for side, at in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
    return (
        f"<object><name>{name}</name><truncated>1</truncated><difficult>{difficult}</difficult>"
        f"<bndbox>{corners}</bndbox></object>"
    )


def test_voc_is_read_with_its_image_sets_and_difficult_objects_are_regions_to_ignore(tmp_path: Path) -> None:
    for seed, name in enumerate("ab"):
        picture(tmp_path / "JPEGImages" / f"{name}.jpg", seed=seed)
        text(tmp_path / "ImageSets" / "Main" / f"{('train', 'val')[seed]}.txt", f"{name}\r\n")
    text(tmp_path / "Annotations" / "a.xml", voc("a.jpg", thing("White Blood Cell") + thing("rbc", difficult=1)))
    text(tmp_path / "Annotations" / "b.xml", voc("b.jpg", thing("RBC")))
    read = read_fields(tmp_path)
    assert (read.format, read.splits, kinds(read)) == (Format.VOC, ("train", "val"), set())
    assert [names_of(field) for field in read.fields] == [["WBC", "ignore"], ["RBC"]]
    assert read.fields[0].boxes_px[0].tolist() == BOX_PX
    assert [known_of(field) for field in read.fields] == [{"RBC", "WBC"}] * 2


def test_voc_finds_pictures_by_relative_paths_other_folders_and_other_suffixes(tmp_path: Path) -> None:
    picture(tmp_path / "pics" / "one two.JPG", seed=1)
    picture(tmp_path / "train" / "é.PNG", seed=2)
    text(tmp_path / "xml" / "1.xml", voc("", thing("rbc"), filename="..\\pics\\one two.JPG"))
    text(tmp_path / "train" / "é.xml", voc("", thing("rbc"), filename="é.jpg"))
    read = read_fields(tmp_path)
    assert [field.path.name for field in read.fields] == ["é.PNG", "one two.JPG"]


def test_voc_of_a_picture_renamed_after_labelling_is_found_at_its_place(tmp_path: Path) -> None:
    for seed, name in enumerate(("1", "2")):
        picture(tmp_path / "images" / f"{name}.jpg", seed=seed)
        text(tmp_path / "annotations" / f"{name}.xml", voc("", thing("rbc"), filename="DSC_0815.JPG"))
    assert [field.path.name for field in read_fields(tmp_path).fields] == ["1.jpg", "2.jpg"]


def test_voc_says_which_picture_is_missing_resized_or_broken(tmp_path: Path) -> None:
    for seed, name in enumerate("abc"):
        picture(tmp_path / f"{name}.png", seed=seed)
    text(tmp_path / "a.xml", voc("a.png", thing("rbc"), size=(400, 200)))
    text(tmp_path / "b.xml", "<annotation><object>")
    text(tmp_path / "c.xml", voc("c.png", thing("rbc") + "<object><name>wbc</name></object>"))
    text(tmp_path / "d.xml", voc("gone.png", thing("rbc")))
    read = survey(tmp_path)
    assert only(read, Kind.OTHER_SIZE).startswith("a.xml: says 400 x 200 px, the picture has 200 x 100; it was resized")
    assert only(read, Kind.MISSING_PICTURE).startswith("d.xml: names the picture gone.png, which is not there; add")
    broken = [str(finding) for finding in read.findings if finding.kind is Kind.BROKEN_LABEL]
    assert broken[0].startswith("b.xml: is not valid XML")
    assert broken[1].startswith("c.xml: an object 'wbc' without a name or a whole bndbox")
    assert [names_of(field) for field in read.fields] == [["RBC"]]


BOMB = "<!DOCTYPE a [<!ENTITY a '" + "x" * 1000 + "'>" + "".join(
    f"<!ENTITY {name} '{f'&{of};' * 40}'>" for of, name in zip("abcde", "bcdef", strict=True)
) + "]>"  # fmt: skip


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (BOMB + voc("a.png", thing("&f;"))[21:], "limit on input amplification factor"),
        ("<?xml version='1.0' encoding='xyz'?>" + voc("a.png", thing("rbc"))[21:], "unknown encoding: xyz"),
    ],
)
def test_xml_that_grows_without_end_or_cannot_be_decoded_is_told(tmp_path: Path, content: str, message: str) -> None:
    picture(tmp_path / "a.png")
    text(tmp_path / "a.xml", content)
    assert message in only(survey(tmp_path), Kind.BROKEN_LABEL)


def test_voc_of_any_encoding_with_odd_names_and_sizes_is_read(tmp_path: Path) -> None:
    for name in ("a b 1.jpg", "a b 1.png"):
        picture(tmp_path / name)
    content = voc("a b 1.png", thing("rbc")).replace("'1.0'", "'1.0' encoding='gb2312'").replace("200", "细胞")
    text(tmp_path / "a b 1.xml", content, "gb2312")
    text(tmp_path / "ImageSets" / "Main" / "val.txt", "a b 1\ngone 1\n")
    read = survey(tmp_path)
    assert [(field.path.name, side) for field, side in zip(read.fields, read.splits, strict=True)] == [
        ("a b 1.png", "val")
    ]
    assert "lists 1 picture of which there is no file, the first is gone 1" in only(read, Kind.LISTED_NOT_THERE)
    text(tmp_path / "a b 1.xml", voc(" / ", thing("rbc")))
    assert len(survey(tmp_path).fields) == 1


# COCO


def coco(*names: str, **changes: Any) -> str:
    content = {
        "images": [{"id": 10 + at, "file_name": name, "width": 200, "height": 100} for at, name in enumerate(names)],
        "annotations": [
            {"id": at, "image_id": 10 + at, "category_id": 7, "bbox": [70, 25, 20, 20], "iscrowd": 0}
            for at, _ in enumerate(names)
        ],
        "categories": [{"id": 7, "name": "Leukocytes"}, {"id": 2, "name": "yeast"}],
    }
    return json.dumps({**content, **changes})


def test_coco_is_read_by_category_names_and_crowds_are_regions_to_ignore(tmp_path: Path) -> None:
    picture(tmp_path / "train2017" / "a.jpg", seed=1)
    picture(tmp_path / "val2017" / "b.jpg", seed=2)
    crowd = {"id": 1, "image_id": 10, "category_id": 2, "bbox": [0, 0, 50, 50], "iscrowd": 1}
    text(tmp_path / "annotations" / "instances_train2017.json", coco("a.jpg", annotations=[crowd]))
    text(tmp_path / "annotations" / "instances_val2017.json", coco("b.jpg"))
    read = read_fields(tmp_path)
    assert (read.format, read.splits, kinds(read)) == (Format.COCO, ("train", "val"), set())
    assert [names_of(field) for field in read.fields] == [["ignore"], ["WBC"]]
    assert read.fields[1].boxes_px.tolist() == [BOX_PX]
    assert known_of(read.fields[0]) == {"WBC", "Yeast"}


def test_coco_names_missing_pictures_and_follows_relative_paths(tmp_path: Path) -> None:
    picture(tmp_path / "pictures" / "ä b.png")
    text(tmp_path / "set" / "_annotations.coco.json", coco("../pictures/ä b.png", "gone.png"), "utf-8-sig")
    read = survey(tmp_path / "set")
    assert [field.path.name for field in read.fields] == ["ä b.png"]
    assert "names the picture gone.png, which is not there" in only(read, Kind.MISSING_PICTURE)
    with pytest.raises(InputError, match=r"gone\.png"):
        read_fields(tmp_path / "set")


def test_a_coco_picture_in_two_files_is_a_leak(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "a.jpg")
    text(tmp_path / "train.json", coco("a.jpg"))
    text(tmp_path / "val.json", coco("a.jpg"))
    assert only(survey(tmp_path), Kind.LEAK).startswith("images/a.jpg: is listed in train and val")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"image_id": 99, "category_id": 7, "bbox": [0, 0, 9, 9]}, "belongs to image 99, which is not listed"),
        ({"image_id": 10, "category_id": 8, "bbox": [0, 0, 9, 9]}, "has category 8, which is not listed"),
        ({"image_id": 10, "category_id": [7], "bbox": [0, 0, 9, 9]}, "has category [7], which is not listed"),
        ({"image_id": 10, "category_id": 7, "bbox": [0, 0, 9]}, "of a.jpg has no bbox of four numbers"),
        ({"image_id": 10, "category_id": 7, "bbox": "0099"}, "of a.jpg has no bbox of four numbers"),
        ({"image_id": 10, "category_id": 7, "bbox": [[0], 0, 9, 9]}, "of a.jpg has no bbox of four numbers"),
        ({"image_id": 10, "category_id": 7, "bbox": [0, 0, 10**400, 1e308]}, "of a.jpg has no bbox of four numbers"),
    ],
)
def test_a_broken_coco_annotation_is_told(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    picture(tmp_path / "a.jpg")
    text(tmp_path / "c.json", coco("a.jpg", annotations=[{"id": 5, **row}]))
    assert f"c.json: annotation 5 {message}" in only(survey(tmp_path), Kind.BROKEN_LABEL)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"images": []}', "`annotations` is no list of entries"),
        ('{"images": ' + "[" * 100_000, "maximum recursion depth"),
        (coco("a.jpg", images=[{"id": [1], "file_name": "a.jpg"}]), "an entry of `images` has no id"),
        (coco("a.jpg", images=[{"id": 1, "file_name": None}]), "an entry of `images` has no file_name"),
        (
            coco("a.jpg", categories=[{"id": 7, "name": "rbc"}, {"id": 7, "name": "wbc"}]),
            "calls category 7 rbc and wbc",
        ),
    ],
)
def test_what_is_not_coco_is_refused_by_name(tmp_path: Path, content: str, message: str) -> None:
    picture(tmp_path / "a.jpg")
    text(tmp_path / "c.json", content)
    with pytest.raises(InputError, match=f"c\\.json .*{message}"):
        read_fields(tmp_path)


def test_an_image_id_given_to_two_pictures_is_wrong(tmp_path: Path) -> None:
    for seed, name in enumerate("ab"):
        picture(tmp_path / f"{name}.jpg", seed=seed)
    images = [{"id": 10, "file_name": name, "width": "two hundred"} for name in ("a.jpg", "b.jpg")]
    text(tmp_path / "c.json", coco("a.jpg", images=images))
    read = survey(tmp_path)
    assert "c.json: image 10 is a.jpg and b.jpg, so nobody knows" in only(read, Kind.BROKEN_LABEL)
    assert [len(field.class_ids) for field in read.fields] == [0]


def test_a_coco_picture_of_its_split_is_found_where_both_splits_use_its_name(tmp_path: Path) -> None:
    for seed, side in enumerate(("train2017", "val2017")):
        picture(tmp_path / side / "1.jpg", seed=seed)
        text(tmp_path / "annotations" / f"instances_{side}.json", coco("1.jpg"))
    read = read_fields(tmp_path)
    assert [(field.path.parent.name, side) for field, side in zip(read.fields, read.splits, strict=True)] == [
        ("train2017", "train"), ("val2017", "val"),
    ]  # fmt: skip


# Forms


def test_two_forms_in_one_folder_must_be_told_apart(yolo: Path) -> None:
    text(yolo / "all.json", coco("a.png"))
    with pytest.raises(InputError, match=r"several forms \(coco, yolo\); say which to read with --format"):
        read_fields(yolo)
    assert len(read_fields(yolo, ReadOptions(format=Format.COCO)).fields) == 1


def test_a_folder_of_unlabelled_fields_gives_its_pictures(tmp_path: Path) -> None:
    paths = [picture(tmp_path / name) for name in ("a.TIF", "deeper/b.jpg")]
    picture(tmp_path / ".hidden" / "c.jpg")
    text(tmp_path / "notes.txt", "not a picture")
    assert find_pictures(tmp_path) == tuple(paths)
    read = survey(tmp_path)
    assert (read.format, read.fields, read.unlabelled) == (Format.UNLABELLED, (), tuple(paths))
    with pytest.raises(InputError, match="holds 2 pictures and no labels"):
        read_fields(tmp_path)


def test_no_folder_and_an_empty_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a folder"):
        read_fields(tmp_path / "gone")
    with pytest.raises(InputError, match="holds 0 pictures and no labels"):
        read_fields(tmp_path)


def test_rendered_fields_need_no_class_list_and_are_not_real(yolo: Path) -> None:
    (yolo / "classes.txt").unlink()
    text(yolo / "labels" / "a.txt", f"38 {YOLO_BOX}")
    first, _ = read_fields(yolo, real=False).fields
    assert (names_of(first), first.known.sum(), first.real) == (["Artifact"], 39, False)


# Manifest, groups and splits


def test_urised_is_read_with_what_was_looked_for(urised: Path) -> None:
    first, second = read_fields(urised).fields
    np.testing.assert_allclose(first.boxes_px[0], (100, 50, 140, 80), atol=0.01)
    assert first.class_ids.tolist() == [RBC, IGNORE]
    assert known_of(first) == {"RBC", "WBC", "Epithelial cell (squamous)", "Calcium oxalate", "Yeast"}
    assert (second.class_ids.tolist(), np.flatnonzero(second.known).tolist()) == ([WBC], [WBC])


def test_held_out_groups_replace_the_split(urised: Path) -> None:
    train, val = read_fields(urised).sides(["S2"])
    assert ([field.group for field in train], [field.group for field in val]) == (["S1"], ["S2"])
    with pytest.raises(InputError, match="has no group S9"):
        read_fields(urised).sides(["S9"])


def test_an_unknown_scope_is_refused(urised: Path) -> None:
    (urised / "manifest.csv").write_text(
        "image,group,width,height,label_scope,split\na.png,S1,300,200,some_cells,train\n"
    )
    with pytest.raises(InputError, match="unknown label_scope 'some_cells' for a"):
        read_fields(urised)


def test_a_manifest_beside_any_labels_says_group_split_and_what_is_known(yolo: Path) -> None:
    text(yolo / "manifest.csv", "Image;Group;Split;Known\r\na.png;P1;train;RBC\r\nb.png;P2;valid;*\r\n")
    read = read_fields(yolo)
    assert (read.splits, read.grouped_by, read.findings) == (("train", "val"), "manifest.csv", ())
    assert [field.group for field in read.fields] == ["P1", "P2"]
    assert [known_of(field) for field in read.fields] == [{"RBC"}, {"RBC", "WBC"}]


def test_a_manifest_lists_the_set(yolo: Path) -> None:
    text(yolo / "manifest.csv", "image,group\na.png,P1\ngone.png,P2\n")
    read = survey(yolo)
    assert [field.path.name for field in read.fields] == ["a.png"]
    assert only(read, Kind.MISSING_PICTURE).startswith("manifest.csv: lists gone.png, which has no picture or labels")
    assert only(read, Kind.UNLABELLED).startswith("images/b.png: is not listed in manifest.csv")


def test_a_table_that_contradicts_itself_is_refused(yolo: Path) -> None:
    text(yolo / "groups.csv", "image,group\na,P1\nb,P2\nA,P2\n")
    with pytest.raises(InputError, match=r"groups\.csv, line 4: A was listed otherwise before"):
        read_fields(yolo)


def test_partial_labels_are_known_where_they_are(yolo: Path) -> None:
    first, _ = read_fields(yolo, ReadOptions(partial=True)).fields
    assert (names_of(first), known_of(first)) == (["WBC"], set())


def test_groups_come_from_a_table_or_a_pattern_or_each_picture_is_its_own(yolo: Path) -> None:
    alone = read_fields(yolo)
    assert (alone.grouped_by, [field.group for field in alone.fields]) == ("picture", ["a", "b"])
    assert "each picture counts as a patient of its own" in only(alone, Kind.UNGROUPED)
    pattern = read_fields(yolo, ReadOptions(group_pattern="^(a)"))
    assert (pattern.grouped_by, [field.group for field in pattern.fields]) == ("pattern", ["a", "b"])
    assert "images/b.png: 1 picture (this is the first) without a group by pattern" in only(pattern, Kind.UNGROUPED)
    text(yolo / "groups.csv", "image,group\nimages/a.png,P7\nb,P8\n")
    table = read_fields(yolo)
    assert (table.grouped_by, [field.group for field in table.fields]) == ("groups.csv", ["P7", "P8"])


def test_copies_that_roboflow_made_of_one_picture_are_one_group(yolo: Path) -> None:
    for part in ("0a1b", "2c3d"):
        picture(yolo / "images" / f"S1_png.rf.{part}.png", seed=5)
        text(yolo / "labels" / f"S1_png.rf.{part}.txt", f"0 {YOLO_BOX}")
    assert [field.group for field in read_fields(yolo).fields] == ["S1_png", "S1_png", "a", "b"]


def test_a_set_without_splits_is_split_by_group_and_stays_so_when_it_grows(tmp_path: Path) -> None:
    text(tmp_path / "classes.txt", "rbc")

    def add(patients: range) -> dict[str, str]:
        for patient in patients:
            for field in "ab":
                picture(tmp_path / f"P{patient}_{field}.png", seed=patient, size=(64, 64))
                text(tmp_path / f"P{patient}_{field}.txt", f"0 {YOLO_BOX}")
        read = read_fields(tmp_path, ReadOptions(group_pattern=r"^(P\d+)_", val_share=0.3))
        assert not read.own_splits
        sides: dict[str, str] = {}
        for field, side in zip(read.fields, read.splits, strict=True):
            assert sides.setdefault(field.group, side) == side
        return sides

    before = add(range(20))
    after = add(range(20, 40))
    assert before.items() <= after.items()
    assert 4 <= sum(side == "val" for side in after.values()) <= 20  # 12 of 40 expected


def test_two_groups_are_enough_for_two_sides_and_one_is_not(yolo: Path) -> None:
    assert sorted(read_fields(yolo).splits) == ["train", "val"]
    text(yolo / "groups.csv", "image,group\na,P1\nb,P1\n")
    alone = read_fields(yolo)
    assert alone.splits == ("train", "train")
    assert "all pictures belong to one group, P1; nothing can validate" in str(only(alone, Kind.NO_VALIDATION))


def test_a_test_split_is_never_trained_on(tmp_path: Path) -> None:
    text(tmp_path / "classes.txt", "rbc")
    for seed, (side, name) in enumerate([("train", "a"), ("train", "b"), ("test", "c")]):
        picture(tmp_path / side / f"{name}.png", seed=seed)
        text(tmp_path / side / f"{name}.txt", f"0 {YOLO_BOX}")
    read = read_fields(tmp_path)
    train, val = read.sides()
    assert {field.path.stem for field in train + val} == {"a", "b"}
    assert (len(train), len(val), len(read.split("test"))) == (1, 1, 1)
    assert [field.path.stem for field in read.sides(["a"])[0]] == ["b"]


# What reading finds


def test_an_unknown_name_is_told_with_the_nearest_and_the_remedy(yolo: Path) -> None:
    text(yolo / "classes.txt", "calcium oxalatt\nrbc\nurine\n")
    read = survey(yolo)
    assert only(read, Kind.UNKNOWN_NAME) == (
        "labels/a.txt: 'calcium oxalatt' (1 box) is none of the 39 classes; nearest: Calcium oxalate, "
        "Calcium phosphate, Calcium carbonate; add the line `calcium oxalatt,CLASS` or `calcium oxalatt,ignore` to a "
        "file for --mapping"
    )
    assert "'urine' (0 boxes)" in only(read, Kind.UNUSED_NAME)
    with pytest.raises(InputError, match=r"cannot be used as it is:\nlabels/a\.txt: 'calcium oxalatt'"):
        read_fields(yolo)


def test_a_mapped_name_that_the_data_lack_is_told(yolo: Path, tmp_path: Path) -> None:
    mapping = text(tmp_path / "m.csv", "name,class\nleukozyt,WBC\n")
    assert "maps leukozyt, not in the data" in only(survey(yolo, ReadOptions(mapping=mapping)), Kind.UNUSED_MAPPING)


@pytest.mark.parametrize(
    ("line", "kind", "message", "kept"),
    [
        (
            "0 0.98 0.5 0.1 0.2",
            Kind.BOX_CLIPPED,
            "1 box up to 6.0 px outside the picture, clipped",
            [[186, 40, 200, 60]],
        ),
        ("0 1.2 0.5 0.1 0.2", Kind.BOX_OUTSIDE, "1 box wholly outside the picture", []),
        ("0 80 35 20 20", Kind.BOX_TOO_LARGE, "1 box larger than the picture of 200 x 100 px", []),
        ("0 0.5 0.5 0.1 0", Kind.BOX_WITHOUT_AREA, "1 box less than 1 px wide or high, left out", []),
        (f"0 {YOLO_BOX}\n0 {YOLO_BOX}", Kind.BOX_TWICE, "1 box given twice, counted once", [BOX_PX]),
        ("0 0.5 0.5 0.1", Kind.BROKEN_LABEL, "line 1 is not `class x y w h`: '0 0.5 0.5 0.1'", []),
        ("rbc 0.5 0.5 0.1 0.1", Kind.BROKEN_LABEL, "line 1 is not `class x y w h`", []),
        ("0 nan 0.5 0.1 0.1", Kind.BROKEN_LABEL, "line 1 is not `class x y w h`", []),
        ("0 1e308 0.5 1e308 0.1", Kind.BROKEN_LABEL, "line 1 is not `class x y w h`", []),
        ("0;0,5;0,5;0,1;0,1", Kind.BROKEN_LABEL, "line 1 is not `class x y w h`", []),
        (f"2 {YOLO_BOX}", Kind.UNKNOWN_ID, "1 box of class id 2; the class list ends at 1", []),
    ],
)
def test_a_wrong_box_is_told_and_left_out_or_clipped(
    yolo: Path, line: str, kind: Kind, message: str, kept: list[list[float]]
) -> None:
    text(yolo / "labels" / "a.txt", line)
    read = survey(yolo)
    assert only(read, kind).startswith(f"labels/a.txt: {message}")
    np.testing.assert_allclose(read.fields[0].boxes_px, np.array(kept).reshape(-1, 4), atol=0.001)


def test_a_box_that_reaches_over_the_edge_by_rounding_is_nobodys_fault(yolo: Path) -> None:
    text(yolo / "labels" / "a.txt", "0 0.9526 0.5 0.1 0.2")  # 0.52 px outside
    read = read_fields(yolo)
    assert kinds(read) == set()
    assert read.fields[0].boxes_px[0, 2] == 200


def test_labels_without_a_picture_and_pictures_that_are_none_are_told(yolo: Path) -> None:
    text(yolo / "labels" / "gone.txt", f"0 {YOLO_BOX}")
    text(yolo / "images" / "b.png", "no picture")
    importlib.import_module("ultralytics.utils")  # replaces Pillow's open by one that installs packages
    read = survey(yolo)
    assert only(read, Kind.LABEL_ALONE).startswith("labels/gone.txt: has no picture")
    assert only(read, Kind.UNREADABLE_PICTURE).startswith("images/b.png: is not a picture that can be read")
    assert [field.path.name for field in read.fields] == ["a.png"]
    text(yolo / "images" / "a.png", "")
    with pytest.raises(InputError, match=r"images/a\.png: is not a picture that can be read"):
        read_fields(yolo)


def test_one_folder_for_two_splits_is_a_leak(yolo: Path) -> None:
    text(yolo / "data.yaml", "train: images\nval: images\nnames: [wbc, rbc]\n")
    assert only(survey(yolo), Kind.LEAK).startswith("data.yaml: puts 2 pictures into train and val, the first is a.png")


@pytest.mark.parametrize(
    ("options", "message"),
    [({"val_share": 0.0}, "between 0 and 1, got 0.0"), ({"group_pattern": "("}, "is no regular expression")],
)
def test_options_that_cannot_be_meant_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ReadOptions(**options)


@pytest.mark.shared_data
def test_the_real_fields_are_read_whole(shared_data: Path) -> None:
    read = read_fields(shared_data / "sediment" / "urised2k")
    train, val = read.sides()
    assert (len(train), len(val), read.findings) == (1812, 206, ())
    shared = {field.group for field in train} & {field.group for field in val}
    assert shared == {"NUM_800x600"}  # a label for numbered files of many samples, not a sample
    assert sum(int((field.class_ids == RBC).sum()) for field in train) == 16078 + 754
    assert sum(int((field.class_ids == RBC).sum()) for field in val) == 938 + 28
    assert sum(int((field.class_ids == SQUAMOUS).sum()) for field in val) == 152
