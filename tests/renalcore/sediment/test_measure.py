import itertools
import json
import math
import time

import hypothesis
import hypothesis.strategies as st
import pytest

from renalcore import taxonomy
from renalcore.errors import InputError, UnknownName
from renalcore.sediment.measure import (
    DEFAULT_TABLE,
    TABLE_A,
    TABLE_B,
    CutOff,
    CutOffTable,
    MeasuredField,
    ReportedValue,
    report,
)
from renalcore.types import Detections, illuminated_area_px

HPF_MM2 = math.pi / 4 * 0.55**2
LPF_MM2 = math.pi / 4 * 2.2**2


def seen_at_40x(*counts: dict[str, int]) -> list[MeasuredField]:
    return [MeasuredField(number, "40x", "whole_field", count) for number, count in enumerate(counts, 1)]


def value(values: list[ReportedValue], name: str) -> ReportedValue:
    (found,) = [reported for reported in values if reported.class_name == name]
    return found


def table(*rows: CutOff) -> CutOffTable:
    return CutOffTable("mine-1", "Mine", "our laboratory", rows)


def test_the_mean_per_hpf_of_whole_fields_is_the_mean_over_the_fields() -> None:
    rbc = value(report(seen_at_40x({"RBC": 3}, {"RBC": 4}, {})), "RBC")
    assert (rbc.unit, rbc.fields, rbc.total, rbc.mean) == ("HPF", 3, 7, round(7 / 3, 6))
    assert rbc.per_field == ((1, 3), (2, 4), (3, 0))


def test_every_class_is_reported_and_one_not_seen_is_zero() -> None:
    values = report(seen_at_40x({"RBC": 3}))
    assert [reported.class_name for reported in values] == list(taxonomy.NAMES)
    assert {reported.mean for reported in values if reported.class_name != "RBC"} == {0.0}


def test_a_known_scale_turns_pixels_into_fields() -> None:
    # 2000 x 1000 px at 0.5 um: 1.0 mm x 0.5 mm = 0.5 mm2, with 10 WBC in it.
    field = MeasuredField(1, "40x", "um_per_px", {"WBC": 10}, um_per_px=0.5, area_px=2000 * 1000)
    assert value(report([field]), "WBC").mean == pytest.approx(10 * HPF_MM2 / 0.5, abs=1e-6)


def test_fields_of_different_size_weigh_by_their_area() -> None:
    small = MeasuredField(1, "40x", "um_per_px", {"WBC": 1}, um_per_px=1.0, area_px=100_000)
    large = MeasuredField(2, "40x", "um_per_px", {"WBC": 1}, um_per_px=1.0, area_px=300_000)
    assert value(report([small, large]), "WBC").mean == pytest.approx(2 / 0.4 * HPF_MM2, abs=1e-6)


def test_only_the_lit_disc_of_a_round_field_counts() -> None:
    assert illuminated_area_px(400, 300) == 400 * 300
    assert illuminated_area_px(400, 300, (200, 150, 100)) == pytest.approx(math.pi * 100**2, rel=1e-4)
    half = illuminated_area_px(400, 300, (0, 150, 100))
    assert half == pytest.approx(math.pi * 100**2 / 2, rel=1e-4)
    assert illuminated_area_px(400, 300, (200, 150, 1000)) == 400 * 300


def test_a_whole_field_at_20x_is_four_high_power_fields() -> None:
    field = MeasuredField(1, "20x", "whole_field", {"RBC": 8})
    assert value(report([field]), "RBC").mean == 2.0


def test_casts_are_counted_in_the_10x_fields_where_there_are_some() -> None:
    fields = [
        MeasuredField(1, "40x", "whole_field", {"Hyaline cast": 9, "RBC": 4}),
        MeasuredField(2, "10x", "whole_field", {"Hyaline cast": 1, "RBC": 2}),
        MeasuredField(3, "10x", "whole_field", {"Hyaline cast": 2}),
    ]
    cast, rbc = value(report(fields), "Hyaline cast"), value(report(fields), "RBC")
    assert (cast.unit, cast.mean, cast.per_field, cast.note) == ("LPF", 1.5, ((2, 1), (3, 2)), None)
    assert (rbc.unit, rbc.mean, rbc.per_field, rbc.note) == ("HPF", 4.0, ((1, 4),), None)


def test_casts_in_40x_fields_only_are_scaled_by_area_and_say_so() -> None:
    cast = value(report(seen_at_40x({"Hyaline cast": 1}, {}, {}, {})), "Hyaline cast")
    assert cast.mean == pytest.approx(1 / 4 * LPF_MM2 / HPF_MM2)  # 16 high-power fields make one low-power field
    assert cast.mean == 4.0
    assert cast.note == "Counted in 4 fields at 40x, together 0.25 LPF, and scaled by area."


def test_an_unknown_scale_gives_numbers_per_field_without_grade_or_code() -> None:
    fields = [
        MeasuredField(1, "40x", "unknown", {"Calcium oxalate": 4}),
        MeasuredField(2, "40x", "whole_field", {"Calcium oxalate": 1}),
    ]
    crystal = value(report(fields), "Calcium oxalate")
    assert (crystal.unit, crystal.mean, crystal.grade, crystal.loinc) == ("field", 2.5, None, None)
    assert crystal.note == "The scale of the pictures is unknown: mean per picture, without a grade."


def test_before_the_first_field_there_is_neither_mean_nor_grade() -> None:
    values = report([])
    assert len(values) == 39
    assert {(v.fields, v.mean, v.grade, v.note) for v in values} == {(0, 0.0, None, "No field has been counted yet.")}


@pytest.mark.parametrize(
    ("mean", "grade"),
    [
        (0, "none"),
        (1e-6, "few"),
        (4, "few"),
        (4.000001, "moderate"),
        (4.5, "moderate"),
        (10, "moderate"),
        (10.5, "many"),
    ],
)
def test_a_label_reaches_up_to_its_bound_and_the_gap_between_belongs_to_the_next(mean: float, grade: str) -> None:
    assert TABLE_B.row_for("Uric acid").label(mean) == grade


def test_a_mean_on_a_bound_stays_in_the_lower_grade_whatever_the_arithmetic() -> None:
    for fields, (upper, grade) in itertools.product(range(1, 60), [(4, "few"), (10, "moderate")]):
        counts = [{"Uric acid": upper}] * fields
        assert value(report(seen_at_40x(*counts)), "Uric acid").grade == grade


def test_one_particle_in_very_many_fields_is_not_none() -> None:
    fields = seen_at_40x({"Uric acid": 1}, *[{}] * 999)
    assert value(report(fields), "Uric acid").grade == "few"


@pytest.mark.parametrize(
    ("name", "unit", "steps"),
    [
        (
            "Epithelial cell (squamous)",
            "LPF",
            {0: "none", 5: "rare", 20: "few", 100: "moderate", 100.5: "many"},
        ),
        ("Cystine", "HPF", {0: "none", 2: "rare", 5: "few", 20: "moderate", 21: "many"}),
        ("Bacteria", "HPF", {0: "none", 10: "rare", 50: "few", 200: "moderate", 201: "many"}),
        ("Mucus", "LPF", {0: "none", 1: "rare", 3: "few", 10: "moderate", 11: "many"}),
        ("Waxy cast", "LPF", {0: "none", 2: "rare", 5: "few", 10: "moderate", 11: "many"}),
        ("Lipid cast", "LPF", {0: "none", 2: "rare", 5: "few", 10: "moderate", 11: "many"}),
        *(
            (
                cell,
                "HPF",
                {0: "0-2", 2: "0-2", 5: "2-5", 10: "5-10", 25: "10-25", 50: "25-50", 100: "50-100", 101: ">100"},
            )
            for cell in ("RBC", "WBC")
        ),
    ],
)
def test_table_a_grades_as_published(name: str, unit: str, steps: dict[float, str]) -> None:
    row = TABLE_A.row_for(name)
    assert row.unit == unit
    assert {mean: row.label(mean) for mean in steps} == steps


@pytest.mark.parametrize(
    ("name", "unit", "steps"),
    [
        ("Triple phosphate", "HPF", {0: "none", 4: "few", 5: "moderate", 10: "moderate", 11: "many"}),
        ("Bacteria", "HPF", {0: "none", 25: "few", 50: "moderate", 51: "many"}),
        ("Yeast", "HPF", {0: "none", 25: "few", 50: "moderate", 51: "many"}),
        ("Epithelial cell (squamous)", "HPF", {0: "none", 4: "few", 10: "moderate", 11: "many"}),
        ("Epithelial cell (renal)", "HPF", {0: "none", 4: "few", 10: "moderate", 11: "many"}),
        ("Granular cast", "LPF", {0: None, 7: None}),
        ("Lipid cast", "LPF", {0: None, 7: None}),
        ("RBC", "HPF", {7: None}),
    ],
)
def test_table_b_the_default_grades_as_published(name: str, unit: str, steps: dict[float, str]) -> None:
    assert DEFAULT_TABLE is TABLE_B
    row = DEFAULT_TABLE.row_for(name)
    assert row.unit == unit
    assert {mean: row.label(mean) for mean in steps} == steps


def test_a_group_row_grades_each_class_by_itself() -> None:
    values = report(seen_at_40x({"Uric acid": 3, "Cystine": 3, "Leucine": 12}), TABLE_B)
    assert [value(values, name).grade for name in ("Uric acid", "Cystine", "Leucine", "Bilirubin")] == [
        "few",
        "few",
        "many",
        "none",
    ]


def test_the_row_of_a_class_comes_before_that_of_its_group() -> None:
    special = CutOff("Cystine", "HPF", "grades", (0,), ("absent", "present"))
    mine = table(CutOff("Crystals", "HPF", "grades", (5,), ("few", "many")), special)
    assert (mine.row_for("Cystine"), mine.row_for("Leucine").target) == (special, "Crystals")


def test_a_graded_value_without_a_code_for_its_number_carries_that_of_its_presence() -> None:
    (field,) = seen_at_40x({"Epithelial cell (squamous)": 1, "Sperm": 1, "Granular cast": 1})
    a, b = report([field], TABLE_A), report([field], TABLE_B)
    assert value(b, "Epithelial cell (squamous)").loinc == "11277-1"  # [#/area], high power field
    assert value(a, "Epithelial cell (squamous)").loinc == "12258-0"  # per LPF LOINC has only the presence
    assert value(b, "Granular cast").loinc == "5793-5"
    assert value(b, "Sperm").loinc is None  # a bare number may not carry a code that means presence


@pytest.mark.parametrize("published", [TABLE_A, TABLE_B])
def test_a_table_survives_json(published: CutOffTable) -> None:
    assert CutOffTable.from_json(json.loads(json.dumps(published.to_json()))) == published
    rows = json.loads(json.dumps(published.to_rows()))
    copy = CutOffTable.from_rows(rows, version=published.version, title=published.title, source=published.source)
    assert copy == published


def test_another_eyepiece_makes_other_fields() -> None:
    wide = CutOffTable("w-1", "Wide", "", (), field_number_mm=26)
    assert wide.unit_area_mm2("HPF") == pytest.approx(math.pi / 4 * 0.65**2)
    assert CutOffTable.from_json(wide.to_json()).field_number_mm == 26
    assert TABLE_B.unit_area_mm2("HPF") == pytest.approx(0.2376, abs=1e-4)
    assert TABLE_B.unit_area_mm2("LPF") == pytest.approx(3.801, abs=1e-3)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("Cristals", "HPF", "grades", (0,), ("a", "b")), "'Cristals' is neither one of the 39 classes"),
        (("RBC", "MPF", "grades", (0,), ("a", "b")), "RBC: the unit must be HPF or LPF, got 'MPF'"),
        (("RBC", "HPF", "words", (0,), ("a", "b")), "RBC: the kind must be grades, ranges or number, got 'words'"),
        (("RBC", "HPF", "grades", (0, 5, 5), tuple("abcd")), "RBC: the bounds must ascend, got 0, 5, 5"),
        (("RBC", "HPF", "grades", (5, 2), tuple("abc")), "RBC: the bounds must ascend, got 5, 2"),
        (("RBC", "HPF", "grades", (0, math.nan), tuple("abc")), "RBC: a bound must be a finite number from 0 up"),
        (("RBC", "HPF", "grades", (0, math.inf), tuple("abc")), "RBC: a bound must be a finite number from 0 up"),
        (("RBC", "HPF", "grades", (-1,), ("a", "b")), "RBC: a bound must be a finite number from 0 up, got -1"),
        (("RBC", "HPF", "grades", ("5",), ("a", "b")), "RBC: a bound must be a number, got '5'"),
        (("RBC", "HPF", "grades", (True,), ("a", "b")), "RBC: a bound must be a number, got True"),
        (("RBC", "HPF", "grades", (0, 5), ("a", "b")), "RBC: 2 bounds make 3 labels, got 2"),
        (("RBC", "HPF", "grades", (), ("a",)), "RBC: grades need at least one bound, or choose the kind number"),
        (("RBC", "HPF", "grades", (0,), ("a", " ")), "RBC: a label is empty"),
        (("RBC", "HPF", "grades", (0,), ("a", "a")), "RBC: two labels are the same"),
        (("RBC", "HPF", "number", (0,), ("a", "b")), "RBC: a plain number has neither bounds nor labels"),
    ],
)
def test_an_admin_is_told_what_is_wrong_with_a_row(row: tuple[object, ...], message: str) -> None:
    with pytest.raises(InputError) as refusal:
        CutOff(*row)  # type: ignore[arg-type]
    assert str(refusal.value).startswith(message)


def test_two_rows_for_one_class_are_refused() -> None:
    number = CutOff("RBC", "HPF", "number")
    with pytest.raises(InputError, match="two rows claim RBC: RBC and RBC; remove one of them"):
        table(number, number)
    with pytest.raises(InputError, match=r"two rows claim Epithelial cell \(squamous\): Cells and Epithelium"):
        table(CutOff("Cells", "HPF", "number"), CutOff("Epithelium", "HPF", "number"))


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({}, "this is not a cut-off table: rows, source, title, version missing"),
        ({**TABLE_A.to_json(), "version": " "}, "a cut-off table needs a version"),
        ({**TABLE_A.to_json(), "rows": ["RBC"]}, "a row of a cut-off table must have named columns, got 'RBC'"),
        ({**TABLE_A.to_json(), "rows": [{"target": "RBC", "lable": 1}]}, "a row of a cut-off table has target"),
        ({**TABLE_A.to_json(), "rows": [{"field_number_mm": 220}]}, "the field number must lie between 5 and 40 mm"),
    ],
)
def test_a_document_that_is_no_table_is_refused(document: dict[str, object], message: str) -> None:
    with pytest.raises(InputError) as refusal:
        CutOffTable.from_json(document)
    assert str(refusal.value).startswith(message)


def test_boxes_below_the_threshold_are_not_counted() -> None:
    rbc, wbc = taxonomy.class_id("RBC"), taxonomy.class_id("WBC")
    found = Detections([[0, 0, 9, 9]] * 3, [0.9, 0.5, 0.4], [rbc, rbc, wbc], taxonomy.NAMES)  # type: ignore[arg-type]
    field = MeasuredField.of(1, found, objective="40x", scale_kind="whole_field", min_score=0.5)
    assert dict(field.counts) == {"RBC": 2}


def test_a_field_that_cannot_be_is_refused() -> None:
    with pytest.raises(UnknownName, match="the objective must be one of 10x, 20x, 40x, 60x, 100x, got '50x'"):
        MeasuredField(1, "50x", "whole_field", {})
    with pytest.raises(UnknownName, match="'Rbc' is not one of the 39"):
        MeasuredField(1, "40x", "whole_field", {"Rbc": 1})
    with pytest.raises(ValueError, match="a count cannot be negative, got -1 for RBC"):
        MeasuredField(1, "40x", "whole_field", {"RBC": -1})
    with pytest.raises(ValueError, match="um_per_px must be positive where the scale is known, got None"):
        MeasuredField(1, "40x", "um_per_px", {}, area_px=100)
    with pytest.raises(InputError, match="a field was handed in twice"):
        report([MeasuredField(1, "40x", "whole_field", {})] * 2)


@hypothesis.given(
    st.lists(st.floats(0, 1000), min_size=1, max_size=6, unique=True).map(sorted),
    st.floats(0, 2000),
    st.floats(0, 2000),
)
def test_more_particles_never_make_a_lower_grade(bounds: list[float], one: float, other: float) -> None:
    row = CutOff("RBC", "HPF", "grades", tuple(bounds), tuple("abcdefg"[: len(bounds) + 1]))
    fewer, more = sorted([one, other])
    assert row.labels.index(row.label(fewer)) <= row.labels.index(row.label(more))


def test_a_correction_in_two_hundred_fields_is_reported_at_once() -> None:
    fields = seen_at_40x(*[dict.fromkeys(taxonomy.NAMES, 3)] * 200)
    start = time.perf_counter()
    report(fields)
    assert time.perf_counter() - start < 0.5  # 20 ms on an idle machine
