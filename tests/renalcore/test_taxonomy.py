import csv
import re
from pathlib import Path

import pytest

from renalcore import taxonomy
from renalcore.errors import UnknownName
from renalcore.taxonomy import CLASSES, GROUP_COLOURS, NAMES, Group

# What LOINC calls each class that it knows.
COMPONENTS = {
    "Granular cast": ("Granular casts",),
    "Hyaline cast": ("Hyaline casts",),
    "Waxy cast": ("Waxy casts",),
    "Mixed cell cast": ("Mixed cellular casts",),
    "RBC cast": ("RBC casts",),
    "RBC": ("Erythrocytes",),
    "WBC": ("Leukocytes",),
    "Epithelial cell (squamous)": ("Epithelial cells.squamous",),
    "Epithelial cell (transitional)": ("Transitional cells",),
    "Epithelial cell (renal)": ("Epithelial cells.renal",),
    "WBC clump": ("Leukocyte clumps",),
    "Lipid cast": ("Fatty casts",),
    "RBC clump": ("Erythrocyte clumps",),
    "Calcium oxalate": ("Calcium oxalate crystals",),
    "Amorphous": ("Crystals.amorphous", "Amorphous sediment"),
    "Triple phosphate": ("Triple phosphate crystals",),
    "Uric acid": ("Urate crystals",),
    "Ammonium biurat": ("Ammonium urate crystals",),
    "Hippuric acid": ("Hippurate crystals",),
    "Calcium phosphate": ("Calcium phosphate crystals",),
    "Cystine": ("Cystine crystals",),
    "Leucine": ("Leucine crystals",),
    "Tyrosine crystal": ("Tyrosine crystals",),
    "Calcium carbonate": ("Calcium carbonate crystals",),
    "Cholesterol": ("Cholesterol crystals",),
    "Bilirubin": ("Bilirubin crystals",),
    "Bacteria": ("Bacteria",),
    "Yeast": ("Yeast",),
    "Fungal hyphae": ("Fungi.filamentous",),
    "Trichomonas vaginalis": ("Trichomonas sp", "Trichomonas vaginalis"),
    "Sperm": ("Spermatozoa",),
    "Mucus": ("Mucus",),
    "Oval fat bodies": ("Oval fat bodies (globules)",),
}
PROPERTIES = {
    "loinc_hpf": "[#/area] in Urine sediment by Microscopy high power field",
    "loinc_lpf": "[#/area] in Urine sediment by Microscopy low power field",
    "loinc_presence": "[Presence] in Urine sediment by Light microscopy",
}


def test_there_are_39_classes_in_the_sizes_of_the_papers_groups() -> None:
    assert len(CLASSES) == len(set(NAMES)) == 39
    assert {group.value: len(taxonomy.ids_of(group)) for group in Group} == {
        "Cells": 9,
        "Casts": 6,
        "Crystals": 13,
        "Microorganisms": 6,
        "Others": 4,
        "Artifact": 1,
    }
    assert sorted(sum((taxonomy.ids_of(group) for group in Group), ())) == list(range(39))


@pytest.mark.shared_data
def test_names_groups_order_and_descriptions_are_those_of_table_2(shared_data: Path) -> None:
    (paper,) = (shared_data.parent / "papers").glob("002_*.txt")
    text = paper.read_text(encoding="utf-8")
    table = text[text.index("Label\tCategory\tNumber of boxes") : text.index("**Table 2.**")]
    rows = [line.split("\t") for line in table.splitlines()[1:] if line.count("\t") == 4 and "Total" not in line]
    assert [(row[0], row[1], row[4].rstrip(".")) for row in rows] == [
        (particle.name, particle.group.value, particle.description.rstrip(".")) for particle in CLASSES
    ]
    assert sum(int(row[2]) for row in rows) == 31285  # the table's own total


@pytest.mark.shared_data
def test_every_loinc_code_means_its_class_in_its_unit_and_none_is_missing(shared_data: Path) -> None:
    with (shared_data.parent / "standards" / "loinc_urine_sediment.csv").open(encoding="utf-8", newline="") as file:
        code_of = {row["long_common_name"]: row["loinc"] for row in csv.DictReader(file)}
    for particle in CLASSES:
        for attribute, words in PROPERTIES.items():
            named = [code_of.get(f"{component} {words}") for component in COMPONENTS.get(particle.name, ())]
            expected = next(filter(None, named), None)
            assert getattr(particle, attribute) == expected, (particle.name, attribute)


def test_loinc_codes_have_a_true_check_digit() -> None:
    codes = [getattr(particle, name) for particle in CLASSES for name in PROPERTIES if getattr(particle, name)]
    assert len(codes) == len(set(codes)) > 50
    for code in codes:
        assert re.fullmatch(r"\d{4,5}-\d", code)
        digits = [int(digit) for digit in reversed(code[:-2])]
        doubled = [digit * 2 - 9 * (digit > 4) if place % 2 == 0 else digit for place, digit in enumerate(digits)]
        assert -sum(doubled) % 10 == int(code[-1]), code


def test_casts_squamous_epithelium_and_mucus_are_counted_per_low_power_field_and_all_else_per_high() -> None:
    low = {particle.name for particle in CLASSES if particle.unit == "LPF"}
    casts = {particle.name for particle in CLASSES if particle.name.endswith("cast")}
    assert low == casts | {"Epithelial cell (squamous)", "Mucus"}


def test_a_result_has_the_code_of_its_unit_else_that_of_its_presence() -> None:
    cast, sperm = taxonomy.particle("Granular cast"), taxonomy.particle("Sperm")
    assert (cast.loinc("LPF"), cast.loinc("HPF"), sperm.loinc("HPF")) == ("5793-5", "25160-3", "8248-7")


def test_groups_have_six_different_colours() -> None:
    assert set(GROUP_COLOURS) == set(Group)
    assert len(set(GROUP_COLOURS.values())) == 6
    assert taxonomy.particle("RBC").colour == GROUP_COLOURS[Group.CELLS]


def test_an_id_is_the_place_in_table_2() -> None:
    assert [taxonomy.class_id(name) for name in NAMES] == list(range(39))
    with pytest.raises(UnknownName, match="'Ammonium biurate' is not one of the 39 sediment classes"):
        taxonomy.class_id("Ammonium biurate")
