"""Technologists' tables: how they spell components and grades, and how what cannot be read is told."""

from __future__ import annotations

import pytest

from renalcore.errors import InputError, UnknownName
from renalcore.sediment.grades import (
    COMPONENT_SETS,
    FIVE_GRADES,
    GRADES,
    component_of,
    grade_of_mean,
    members,
    read_grade,
    scale_of,
    title,
)
from renalcore.sediment.measure import SETS, TABLE_A, TABLE_B
from renalcore.sediment.technologist import BadLine, read_sheet
from renalcore.taxonomy import NAMES


def word(text: str, component: str = "RBC") -> str:
    return GRADES[read_grade(text, component, FIVE_GRADES).grade]


def sheet_of(text: str):
    return read_sheet(text.encode(), name="grades.csv")


@pytest.mark.parametrize(
    ("expected", "texts"),
    [
        ("none", ["none", "Negative", "neg", "0", "-", "–", " NIL ", "not  seen", "0/HPF"]),
        ("rare", ["rare", "occasional", "occ.", "Trace", "+/-", "±", "(+)", "very few"]),
        ("few", ["few", "Few", "+", "1+", "few/hpf", "some"]),
        ("moderate", ["moderate", "MOD", "++", "2+"]),
        ("many", ["many", "numerous", "+++", "++++", "3+", "4+", "TNTC", "packed"]),
    ],
)
def test_words_and_signs_are_read_as_laboratories_write_them(expected: str, texts: list[str]) -> None:
    assert [word(text) for text in texts] == [expected] * len(texts)


@pytest.mark.parametrize(
    ("text", "expected"),
    [  # RBC per HPF: none 0, rare up to 2, few up to 5, moderate up to 25, many above
        ("2", "rare"),
        ("2.5", "few"),
        ("2,5", "few"),
        ("0,500", "rare"),
        ("12.5", "moderate"),
        ("3-5", "few"),
        ("2 – 5 /HPF", "few"),
        ("5 to 10", "moderate"),
        ("10-25", "moderate"),
        (">25", "many"),
        ("25", "moderate"),
        (">100", "many"),
        ("more than 5", "moderate"),
        ("<2", "rare"),
        ("50+", "many"),
    ],
)
def test_numbers_and_ranges_go_through_the_cut_offs(text: str, expected: str) -> None:
    assert word(text) == expected


def test_a_range_over_a_cut_off_is_graded_by_its_middle_and_says_so() -> None:
    assert read_grade("0-2", "RBC", FIVE_GRADES).crossed == (0.0,)  # 0 itself is "none"; the middle, 1, is "rare"
    assert word("0-2") == "rare"
    assert read_grade("2-5", "RBC", FIVE_GRADES).crossed == ()  # 2 is the bound below
    assert read_grade("0-8", "RBC", FIVE_GRADES).crossed == (0.0, 2.0, 5.0)
    assert word("0-8") == "few"


def test_a_number_in_the_other_field_is_scaled_by_area() -> None:
    # A 10x field holds 16 times the area of a 40x field: 2 per HPF are 32 per LPF.
    assert word("2/HPF", "Epithelium") == "moderate"
    assert word("2/LPF", "Epithelium") == "rare"
    assert word("2", "Epithelium") == "rare"  # without a unit in that of the table, LPF
    assert GRADES[grade_of_mean(32.0, "LPF", "RBC", FIVE_GRADES)] == "rare"
    assert GRADES[grade_of_mean(32.1, "LPF", "RBC", FIVE_GRADES)] == "few"
    with pytest.raises(InputError, match="unknown scale"):
        grade_of_mean(1.0, "field", "RBC", FIVE_GRADES)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "the grade is empty"),
        ("lots and lots", "'lots and lots' is no grade; write none, rare, few, moderate, many"),
        ("few to moderate", "is no grade"),
        ("10-5", "runs backwards"),
        ("1,000", "thousands"),
        ("1.000", "thousands"),
        ("2-1.000", "thousands"),
        ("05-Oct", "looks like a date, which Excel makes of a range"),
        ("10. Mai", "looks like a date"),
        ("2026-10-05", "looks like a date"),
        ("Oct-5", "looks like a date"),
        ("nan", "is no grade"),
    ],
)
def test_what_is_no_grade_is_refused_with_what_is_expected(text: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        read_grade(text, "RBC", FIVE_GRADES)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("RBCs", "RBC"),
        ("red blood cells", "RBC"),
        ("Erythrocytes", "RBC"),
        ("Pus cells", "WBC"),
        ("leucocytes", "WBC"),
        ("Epithelial cells", "Epithelium"),
        ("Squamous epithelial cells", "Epithelial cell (squamous)"),
        ("epithelial cell (Squamous)", "Epithelial cell (squamous)"),
        ("calcium oxalate crystals", "Calcium oxalate"),
        ("CaOx", "Calcium oxalate"),
        ("Mucus threads", "Mucus"),
        ("yeast cells", "Yeast"),
        ("hyaline casts", "Hyaline cast"),
        ("CASTS", "Casts"),
        ("Oval fat body", "Oval fat bodies"),
        ("Casts, hyaline", "Hyaline cast"),
        ("EC", "Epithelium"),
        ("spermatozoa", "Sperm"),
    ],
)
def test_components_are_known_by_the_names_of_the_bench(text: str, expected: str) -> None:
    assert component_of(text) == expected


def test_every_class_and_set_is_known_by_its_own_name() -> None:
    assert [component_of(name) for name in (*NAMES, *COMPONENT_SETS)] == [*NAMES, *COMPONENT_SETS]
    assert members("Casts") == SETS["Casts"]
    assert (members("RBC"), title("Epithelium")) == (("RBC",), "Epithelial cells")
    for nobodys in ("Quartz", "Other"):
        with pytest.raises(UnknownName, match=f"'{nobodys}' is none of the components"):
            component_of(nobodys)


def test_only_a_scale_in_the_words_of_the_five_grades_grades() -> None:
    assert scale_of("Calcium oxalate", TABLE_B).labels == ("none", "few", "moderate", "many")
    assert scale_of("Epithelium", TABLE_B).unit == "HPF"
    for component, table in (("RBC", TABLE_A), ("RBC", TABLE_B), ("Epithelium", TABLE_A), ("Sperm", FIVE_GRADES)):
        with pytest.raises(InputError, match=f"{table.version} does not grade {title(component)} in the words none"):
            scale_of(component, table)


def test_a_line_a_value_is_read_whatever_the_columns_are_called() -> None:
    found = sheet_of("Sample ID;MRN;Analyte;Result\nA-1;00417;Leukocytes;++\nA-1;00417;Mucus;rare\n")
    assert [(one.line, one.component, one.text, GRADES[one.grade]) for one in found.grades] == [
        (2, "WBC", "++", "moderate"),
        (3, "Mucus", "rare", "rare"),
    ]
    assert {(one.accession, one.patient) for one in found.grades} == {("A-1", "00417")}
    assert found.bad_lines == ()
    assert (found.accessions, found.patients) == ({"A-1"}, frozenset())


def test_a_column_a_component_is_read_with_the_unit_of_its_header() -> None:
    found = sheet_of("patient,Age,RBC (/HPF),Epithelial cells /HPF,Bacteria\nP-1,70,5-10,2,\nP-2,66,0,many,+\n")
    assert [(one.patient, one.component, GRADES[one.grade]) for one in found.grades] == [
        ("P-1", "RBC", "moderate"),
        ("P-1", "Epithelium", "moderate"),  # 2 per HPF are 32 per LPF
        ("P-2", "RBC", "none"),
        ("P-2", "Epithelium", "many"),
        ("P-2", "Bacteria", "few"),
    ]
    assert found.ignored_columns == ("Age",)
    assert found.patients == {"P-1", "P-2"}


def test_every_bad_line_is_named_with_its_number_and_the_others_are_kept() -> None:
    found = sheet_of(
        "accession,class,grade\nA-1,RBC,few\nA-1,Quartz,few\nA-1,WBC,lots\n,WBC,few\nA-2,RBC,\nA-2,,few\nA-2,Sperm,5-10\n"
    )
    assert [one.line for one in found.grades] == [2]
    assert [line.line for line in found.bad_lines] == [3, 4, 5, 6, 7, 8]
    assert str(found.bad_lines[1]).startswith("line 4: 'lots' is no grade")
    assert "five-1 does not grade Sperm" in found.bad_lines[5].reason


def test_a_grade_given_twice_counts_once_and_a_contradiction_not_at_all() -> None:
    found = sheet_of("accession,class,grade\nA-1,RBC,few\nA-1,RBC,+\nA-1,WBC,few\nA-1,WBC,many\n")
    assert [(one.line, one.component) for one in found.grades] == [(2, "RBC")]
    assert found.bad_lines == (
        BadLine(3, "RBC stands on line 2 already, with this grade"),
        BadLine(5, "WBC is 'many' here and 'few' on line 4; neither is used: keep one of them"),
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("class,grade\nRBC,few\n", "no column tells the patient.*The first line has class, grade"),
        ("patient,age\nP-1,70\n", "no column holds grades.*such as RBC"),
    ],
)
def test_a_table_without_patients_or_grades_is_refused_with_what_it_has(text: str, words: str) -> None:
    with pytest.raises(InputError, match=f"grades.csv: {words}"):
        sheet_of(text)
