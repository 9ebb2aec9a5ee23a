"""`renalcore validate sediment`, from two files to the tables."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from renalcore import cli
from renalcore.export.csv import to_csv
from renalcore.sediment.measure import TABLE_B
from tests.renalcore.sediment.test_clinical import a_row

GRADES = "accession,component,grade\n" + "".join(
    f"A-{number},RBC,{rbc}\nA-{number},Epithelial cells,{epithelium}\n"
    for number, (rbc, epithelium) in enumerate(
        [("none", "few"), ("rare", "few"), ("few", "few"), ("moderate", "few"), ("many", "few"), ("few", "few")]
    )
)
REPORTED = ("none", "rare", "moderate", "moderate", "many", "few")


@pytest.fixture
def inputs(tmp_path: Path) -> list[str]:
    """Six patients: RBC right in five, epithelium "few" throughout on both sides."""
    rows = [a_row(f"A-{n}", "RBC", grade) for n, grade in enumerate(REPORTED)]
    rows += [a_row(f"A-{n}", "Epithelial cell (squamous)", "few", unit="LPF") for n in range(6)]
    (tmp_path / "grades.csv").write_text(GRADES)
    (tmp_path / "export.csv").write_bytes(to_csv(rows))
    return ["--technologist", str(tmp_path / "grades.csv"), "--report", str(tmp_path / "export.csv")]


def validate(inputs: list[str], output: Path, *options: str) -> int:
    return cli.main(["validate", "sediment", *inputs, "--output", str(output), "--resamples", "200", *options])


def lines_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text(encoding="utf-8-sig").splitlines()))


def test_two_files_become_the_tables_and_a_summary(
    inputs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "made" / "validation"
    assert validate(inputs, output) == 0
    said = capsys.readouterr().out
    assert "Mean accuracy     6         91.7 (75.0 to 100.0)" in said  # (5/6 + 6/6) / 2
    assert "Epithelial cells, kappa: both gave the same single grade to every case" in said
    assert "95 % percentile bootstrap over patients" in said
    assert "nan" not in said
    rbc, epithelium, values, mean = lines_of(output / "agreement.csv")
    assert (rbc["component"], rbc["patients"], rbc["accuracy"], rbc["paper_accuracy"]) == (
        "RBC",
        "6",
        "0.833333",
        "0.8731",
    )
    assert (epithelium["accuracy"], epithelium["kappa_linear"]) == ("1", "")
    assert "same single grade" in epithelium["notes"]
    assert (values["component"], values["values"], mean["accuracy"]) == ("All values", "12", "0.916667")
    assert mean["paper_accuracy"] == ""  # two of its six components are no comparison with its mean
    few = lines_of(output / "confusion.csv")[2]
    assert (few["technologist"], few["report_few"], few["report_moderate"]) == ("few", "1", "1")
    (difference,) = lines_of(output / "differences.csv")
    assert (difference["accession"], difference["technologist"], difference["report"], difference["steps"]) == (
        "A-2", "few", "moderate", "1",
    )  # fmt: skip
    document = json.loads((output / "validation.json").read_text())
    assert document["components"][1]["kappa_linear"]["value"] is None
    assert document["components"][0]["kappa_linear"]["low"] < document["components"][0]["kappa_linear"]["value"]
    assert document["overall"]["mean_accuracy"]["value"] == pytest.approx(11 / 12)


def test_the_same_files_give_the_same_tables(inputs: list[str], tmp_path: Path) -> None:
    for name in ("first", "second"):
        assert validate(inputs, tmp_path / name) == 0
    for path in (tmp_path / "first").iterdir():
        assert path.read_bytes() == (tmp_path / "second" / path.name).read_bytes()


def test_bad_lines_of_both_files_are_named_and_the_others_compared(
    inputs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "grades.csv").write_text(GRADES + "A-0,Quartz,few\nA-77,RBC,few\n")
    with (tmp_path / "export.csv").open("a") as export:
        export.write("P-9,A-9,RBC,Cells,,HPF,3,much,few,B-1,m,w,no,,,,0\n")
    assert validate(inputs, tmp_path / "out") == 1
    told = capsys.readouterr()
    assert "grades.csv line 14: 'Quartz' is none of the components" in told.err
    assert "export.csv line 14: the mean must be a number" in told.err
    assert "Graded by technologists, in no report: A-77" in told.out
    left_out = [(line["where"], line["line"]) for line in lines_of(tmp_path / "out" / "left_out.csv")]
    assert left_out == [("technologists", "14"), ("technologists", ""), ("reports", "14")]


def test_a_laboratorys_own_cut_offs_come_from_a_file(
    inputs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "own.json"
    own.write_text(json.dumps(TABLE_B.to_json()))
    assert validate(inputs, tmp_path / "out", "--cut-offs", str(own), "--regrade") == 0
    assert "numbers by B-1" in capsys.readouterr().out
    own.write_text("{}")
    assert validate(inputs, tmp_path / "out", "--cut-offs", str(own)) == 1
    assert validate(inputs, tmp_path / "out", "--cut-offs", "Z-9") == 1
    told = capsys.readouterr().err
    assert "own.json cannot be used as a cut-off table: this is not a cut-off table: rows" in told
    assert "Z-9 is neither one of five-1, A-1, B-1 nor a file" in told


def test_files_that_cannot_be_used_are_named(
    inputs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert validate(["--technologist", str(tmp_path / "none.csv"), *inputs[2:]], tmp_path / "out") == 1
    assert "none.csv: the file cannot be opened" in capsys.readouterr().err
    assert validate([*inputs[:2], "--report", inputs[1]], tmp_path / "out") == 1
    assert "grades.csv: this is not an export of RenalCore" in capsys.readouterr().err
