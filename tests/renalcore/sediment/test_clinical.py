"""Clinical validation: reports against technologists, after the paper's Table 8."""

from __future__ import annotations

import pytest

from renalcore.errors import InputError
from renalcore.export.csv import ExportRow, to_csv
from renalcore.metrics.agreement import kappa
from renalcore.sediment.clinical import Validation, compare
from renalcore.sediment.grades import GRADES
from renalcore.sediment.measure import TABLE_B
from renalcore.sediment.reported import ReportLine, read_report
from renalcore.sediment.technologist import read_sheet


def a_row(accession: str, class_name: str, grade: str | None, **changes: object) -> ExportRow:
    values = {
        "patient": accession.replace("A", "P"),
        "accession": accession,
        "class_name": class_name,
        "group": "Cells",
        "loinc": None,
        "unit": "HPF",
        "fields": 3,
        "mean": 1.0,
        "grade": grade,
        "cut_off_version": "B-1",
        "model": "sediment-multihead-n",
        "weights_sha256": "ab" * 32,
        "reviewed": False,
    }
    return ExportRow(**(values | changes))  # type: ignore[arg-type]


def compared(grades: str, *rows: ExportRow, **options: object) -> Validation:
    sheet = read_sheet(f"accession,component,grade\n{grades}".encode(), name="grades.csv")
    return compare(sheet, map(ReportLine.of, rows), resamples=200, **options)  # type: ignore[arg-type]


FOUR_PATIENTS = "".join(f"A-{number},Bacteria,{grade}\n" for number, grade in enumerate(("none", "few", "++", "many")))


def test_accuracy_within_one_and_confusion_of_four_patients_by_hand() -> None:
    # Technologist none, few, moderate, many; report none, moderate, moderate, rare.
    reported = ("none", "moderate", "moderate", "rare")
    found = compared(FOUR_PATIENTS, *(a_row(f"A-{n}", "Bacteria", grade) for n, grade in enumerate(reported)))
    (bacteria,) = found.components
    assert (bacteria.patients, bacteria.specimens, bacteria.accuracy.value) == (4, 4, 2 / 4)
    assert bacteria.within_one.value == 3 / 4
    assert bacteria.confusion == (
        (1, 0, 0, 0, 0),
        (0, 0, 0, 0, 0),
        (0, 0, 0, 1, 0),
        (0, 0, 0, 1, 0),
        (0, 1, 0, 0, 0),
    )
    assert bacteria.linear.value == kappa(bacteria.confusion, "linear").value
    assert bacteria.quadratic.low is not None
    assert bacteria.paper == 0.5936
    assert [(pair.accession, pair.steps) for pair in found.differences] == [("A-3", -3), ("A-1", 1)]


def test_the_mean_accuracy_is_that_of_table_8_the_unweighted_mean_of_the_components() -> None:
    # RBC right in 1 of 1, mucus in 1 of 3: mean (1 + 1/3) / 2, while 2 of the 4 values are right.
    found = compared(
        "A-1,RBC,few\nA-1,Mucus,few\nA-2,Mucus,few\nA-3,Mucus,few\n",
        a_row("A-1", "RBC", "few"),
        *(a_row(f"A-{n}", "Mucus", grade) for n, grade in ((1, "few"), (2, "many"), (3, "none"))),
    )
    assert found.overall.mean_accuracy.value == pytest.approx((1 + 1 / 3) / 2)
    assert (found.overall.accuracy.value, found.overall.values, found.overall.patients) == (0.5, 4, 3)
    assert [one.component for one in found.components] == ["RBC", "Mucus"]


def test_a_report_with_ranges_is_read_as_the_technologists_ranges_are() -> None:
    found = compared(
        "A-1,RBC,0-2\nA-2,RBC,5-10\n", a_row("A-1", "RBC", "0-2", mean=0.0), a_row("A-2", "RBC", "5-10", mean=6.0)
    )
    assert found.components[0].accuracy.value == 1.0
    assert found.components[0].notes == ("1 range over a cut-off, graded by the middle: 0-2.",)


def test_a_report_without_a_grade_is_graded_by_its_mean() -> None:
    found = compared("A-1,RBC,moderate\n", a_row("A-1", "RBC", None, mean=7.5))
    (pair,) = found.pairs
    assert (GRADES[pair.report], pair.reported, pair.from_mean) == ("moderate", "7.5 per HPF", True)


def test_all_means_can_be_graded_anew_by_another_table() -> None:
    row = a_row("A-1", "Calcium oxalate", "few", mean=1.0)  # B-1 knows no "rare"
    assert compared("A-1,Calcium oxalate,rare\n", row).pairs[0].steps == 1
    anew = compared("A-1,Calcium oxalate,rare\n", row, regrade=True)
    assert (anew.pairs[0].steps, anew.table, anew.regraded) == (0, "five-1", True)
    assert compared("A-1,Calcium oxalate,rare\n", row, regrade=True, table=TABLE_B).pairs[0].steps == 1


def test_a_set_has_the_highest_grade_of_its_classes_or_that_of_the_sum_of_their_means() -> None:
    squamous, renal = "Epithelial cell (squamous)", "Epithelial cell (renal)"
    rows = (a_row("A-1", squamous, "few", unit="LPF", mean=4.0), a_row("A-1", renal, "moderate", mean=0.1))
    assert compared("A-1,Epithelial cells,moderate\n", *rows).pairs[0].reported == "moderate"
    # 4 per LPF and 0.1 per HPF, 16 times as much per LPF, are 5.6 per LPF: above 5, few.
    anew = compared("A-1,Epithelial cells,few\n", *rows, regrade=True).pairs[0]
    assert (anew.reported, anew.steps) == ("5.6 per LPF", 0)


def test_what_only_one_file_has_is_listed() -> None:
    found = compared(
        "A-1,RBC,few\nA-9,RBC,few\nA-1,Mucus,few\n",
        a_row("A-1", "RBC", "few"),
        a_row("A-1", "Yeast", "few"),
        a_row("A-1", "WBC", "none", mean=0.0),
        a_row("A-2", "RBC", "few"),
        also_reported=["A-3"],
    )
    assert found.one_sided.technologist_specimens == ("A-9",)
    assert found.one_sided.report_specimens == ("A-2", "A-3")
    assert found.one_sided.technologist_components == ("Mucus",)
    assert found.one_sided.report_classes == (("Yeast", 1),)  # WBC was not found in any
    assert list(map(str, found.not_compared)) == ["line 4: the report of A-1 has no Mucus"]


def test_specimens_are_joined_by_patient_only_where_there_is_no_doubt() -> None:
    sheet = read_sheet(b"patient,RBC\nP-1,few\nP-2,few\n", name="grades.csv")
    rows = [a_row("A-1", "RBC", "few"), a_row("A-2", "RBC", "few"), a_row("A-3", "RBC", "many", patient="P-2")]
    found = compare(sheet, map(ReportLine.of, rows), resamples=50)
    assert [pair.accession for pair in found.pairs] == ["A-1"]
    assert "patient P-2 has 2 specimens in the report (A-2, A-3)" in found.not_compared[0].reason


def test_an_accession_number_of_another_patient_is_not_compared() -> None:
    sheet = read_sheet(b"accession,patient,RBC\nA-1,P-1,few\nA-2,P-7,few\n", name="grades.csv")
    found = compare(sheet, [ReportLine.of(a_row(f"A-{n}", "RBC", "few")) for n in (1, 2)], resamples=50)
    assert [pair.accession for pair in found.pairs] == ["A-1"]
    assert "A-2 belongs to patient P-2 in the report and to P-7 here" in found.not_compared[0].reason


def test_one_grade_only_has_no_kappa_and_every_missing_figure_has_its_reason() -> None:
    same = compared("A-1,RBC,none\nA-2,RBC,none\n", a_row("A-1", "RBC", "none"), a_row("A-2", "RBC", "none"))
    rbc = same.components[0]
    assert (rbc.accuracy.value, rbc.linear.value, rbc.quadratic.value) == (1.0, None, None)
    assert "same single grade" in (rbc.linear.reason or "")
    one_sided = compared("A-1,RBC,none\nA-2,RBC,none\n", a_row("A-1", "RBC", "none"), a_row("A-2", "RBC", "few"))
    assert one_sided.components[0].linear.value == 0.0
    assert "technologists give 'none' throughout: kappa is 0" in one_sided.components[0].notes[0]


def test_a_step_that_the_reports_never_give_is_noted() -> None:
    found = compared("A-1,Yeast,rare\nA-2,Yeast,few\n", a_row("A-1", "Yeast", "few"), a_row("A-2", "Yeast", "few"))
    assert any("Technologists give 'rare' 1 time, the reports never" in note for note in found.components[0].notes)


def test_what_the_figures_rest_on_is_kept() -> None:
    found = compared(
        "A-1,RBC,few\nA-2,RBC,few\n", a_row("A-1", "RBC", "few", reviewed=True), a_row("A-2", "RBC", "few", model="m2")
    )
    assert (found.specimens, found.reviewed, found.cut_off_versions) == (2, 1, ("B-1",))
    assert found.models == ("m2", "sediment-multihead-n")


@pytest.mark.parametrize(
    ("grades", "rows", "words"),
    [
        ("A-1,RBC,lots\n", [a_row("A-1", "RBC", "few")], "no line holds a grade that can be read: line 2"),
        ("A-1,RBC,few\n", [], "no report was found for 1 specimen in it"),
        ("A-9,RBC,few\n", [a_row("A-1", "RBC", "few")], r"none of its specimens \(A-9\) is among the reports \(A-1\)"),
        (
            "A-1,WBC,few\n",
            [a_row("A-1", "RBC", "few")],
            "nothing can be compared; line 2: the report of A-1 has no WBC",
        ),
        ("A-1,RBC,few\n", [a_row("A-1", "RBC", None, unit="field")], "line 2: RBC: counted per picture of unknown"),
    ],
)
def test_nothing_to_compare_says_why(grades: str, rows: list[ExportRow], words: str) -> None:
    with pytest.raises(InputError, match=words):
        compared(grades, *rows)


def test_an_exported_csv_comes_back_as_it_was() -> None:
    rows = [a_row("=A-1", "RBC", "few", patient="00417", reviewed=True), a_row("A-2", "Mucus", None, unit="LPF")]
    without_counts = a_row("A-3", "RBC", None, mean=None, fields=0, withheld="field 1 withheld: too dark")
    lines, bad = read_report(to_csv([*rows, without_counts]), name="export.csv")
    assert lines == tuple(map(ReportLine.of, rows))
    assert bad == ()


def test_bad_lines_of_an_export_are_named_and_the_others_kept() -> None:
    content = to_csv([a_row("A-1", "RBC", "few"), a_row("A-2", "RBC", "few"), a_row("A-1", "RBC", "few")]).decode()
    content = content.replace("A-2,RBC,", "A-2,Quartz,") + "P,A-3,WBC,Cells,,HPF,3,much,few,B-1,m,w,no,,,,0\r\n"
    lines, bad = read_report(content.encode(), name="export.csv")
    assert [line.accession for line in lines] == ["A-1"]
    assert list(map(str, bad)) == [
        "line 3: 'Quartz' is not one of the 39 classes",
        "line 4: RBC of A-1 stands on line 2 already",
        "line 5: the mean must be a number from 0 up, got 'much'",
    ]
    with pytest.raises(InputError, match=r"other.csv: this is not an export of RenalCore, the column accession is"):
        read_report(b"patient,grade\nP-1,few\n", name="other.csv")
