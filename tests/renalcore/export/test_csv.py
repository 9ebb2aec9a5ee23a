import io
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import hypothesis
import hypothesis.strategies as st
import pandas as pd
import pytest

from renalcore.export.csv import COLUMNS, ExportRow, escape_formula, to_csv

ROW = ExportRow(
    patient="00417",
    accession="U-2026-0001",
    class_name="Epithelial cell (squamous)",
    group="Cells",
    loinc="11277-1",
    unit="HPF",
    fields=12,
    mean=2.5,
    grade="few",
    cut_off_version="B-1",
    model="sediment-multihead-n",
    weights_sha256="ab" * 32,
    reviewed=True,
    signed_by="Dr Zoë Müller",
    signed_at=datetime(2026, 11, 21, 7, 30, tzinfo=timezone(timedelta(hours=2))),
    signature="sign",
    withheld="field 2 withheld: out of focus",
    validated=False,
)


def read_back(content: bytes) -> pd.DataFrame:
    return pd.read_csv(io.BytesIO(content), dtype={"patient": str, "accession": str}, keep_default_na=False)


def test_a_row_comes_back_in_pandas_as_it_was() -> None:
    (record,) = read_back(to_csv([ROW])).to_dict("records")
    assert record == {
        "patient": "00417",
        "accession": "U-2026-0001",
        "class": "Epithelial cell (squamous)",
        "group": "Cells",
        "loinc": "11277-1",
        "unit": "HPF",
        "fields": 12,
        "mean": 2.5,
        "grade": "few",
        "cut_off_version": "B-1",
        "model": "sediment-multihead-n",
        "weights_sha256": "ab" * 32,
        "reviewed": "yes",
        "signed_by": "Dr Zoë Müller",
        "signed_at": "2026-11-21T05:30:00Z",
        "signature": "sign",
        "amendments": 0,
        "withheld": "field 2 withheld: out of focus",
        "validated": "no",
    }


def test_excel_sees_a_byte_order_mark_and_windows_line_ends() -> None:
    content = to_csv([ROW, ROW])
    assert content.startswith(b"\xef\xbb\xbfpatient,accession,class,")
    assert content.count(b"\r\n") == content.count(b"\n") == 3


def test_a_value_without_signature_code_or_grade_leaves_its_cells_empty() -> None:
    bare = replace(ROW, loinc=None, grade=None, signed_by=None, signed_at=None, signature=None, reviewed=False)
    (record,) = read_back(to_csv([bare])).to_dict("records")
    assert [record[c] for c in ("loinc", "grade", "signed_by", "signed_at", "signature")] == [""] * 5
    assert record["reviewed"] == "no"


def test_no_rows_make_a_file_with_a_header() -> None:
    assert list(read_back(to_csv([])).columns) == list(COLUMNS)


@pytest.mark.parametrize(
    "text", ["=1+1", "+49 30", "-2", "@SUM(A1)", "\t=1", "\r=1", '"=1', "'=1", '  "=cmd|/c calc!A0', "＝1"]
)
def test_text_that_would_run_as_a_formula_is_disarmed(text: str) -> None:
    (record,) = read_back(to_csv([replace(ROW, patient=text)])).to_dict("records")
    assert record["patient"] == f"'{text}"


@pytest.mark.parametrize("text", ["0-2", "2-5", ">100", "U=1", "O'Brien", '"quoted"', "علی"])
def test_other_text_is_left_alone(text: str) -> None:
    assert escape_formula(text) == text


@pytest.mark.parametrize(("mean", "cell"), [(0.0, "0"), (1e-6, "0.000001"), (2 / 3, "0.666667"), (1200.0, "1200")])
def test_a_mean_is_written_in_plain_digits(mean: float, cell: str) -> None:
    line = to_csv([replace(ROW, mean=mean)]).decode("utf-8-sig").splitlines()[1]
    assert line.split(",")[COLUMNS.index("mean")] == cell


def test_values_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="a mean must be a number from 0 up, got -1"):
        replace(ROW, mean=-1.0)
    with pytest.raises(ValueError, match="a mean must be a number from 0 up, got nan"):
        replace(ROW, mean=float("nan"))
    with pytest.raises(ValueError, match="signed_at must be aware"):
        replace(ROW, signed_at=datetime(2026, 11, 21, 7, 30))  # noqa: DTZ001


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


@hypothesis.given(TEXTS, TEXTS, st.floats(0, 1e6), st.integers(0, 10**6), st.datetimes(timezones=st.just(UTC)))
def test_whatever_is_typed_comes_back_and_no_cell_is_a_formula(
    patient: str, name: str, mean: float, fields: int, when: datetime
) -> None:
    row = replace(ROW, patient=patient, signed_by=name, mean=mean, fields=fields, signed_at=when)
    (record,) = read_back(to_csv([row])).astype({"signed_by": str}).to_dict("records")
    assert record["patient"] == escape_formula(patient)
    assert record["mean"] == pytest.approx(mean, abs=1e-6)
    assert record["fields"] == fields
    assert datetime.fromisoformat(record["signed_at"]) == when.replace(microsecond=0)
    assert not str(record["patient"]).startswith(("=", "+", "-", "@", "\t", "\r"))


@hypothesis.given(TEXTS)
def test_disarming_takes_nothing_away_but_null_characters(text: str) -> None:
    escaped = escape_formula(text)
    assert isinstance(escaped, str)
    assert escaped.removeprefix("'") in {text.replace("\0", ""), text.replace("\0", "").removeprefix("'")}
