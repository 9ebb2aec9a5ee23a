"""CSV files as spreadsheets and laboratory systems write them."""

from __future__ import annotations

import pytest

from renalcore.errors import TooLarge, UnreadableFile
from renalcore.export.csv import table_to_csv
from renalcore.io.table import read_table


@pytest.mark.parametrize(
    "content",
    [
        b"patient,grade\nP-1,few\n",
        b"\xef\xbb\xbfpatient;grade\r\nP-1;few\r\n",
        "patient\tgrade\nP-1\tfew\n".encode("utf-16"),
        b'"patient" , grade\nP-1,few\n',
        b"sep=;\npatient;grade\nP-1;few\n",
    ],
)
def test_a_table_is_read_whatever_wrote_it(content: bytes) -> None:
    found = read_table(content, name="grades.csv")
    assert found.header == ("patient", "grade")
    assert [cells for _, cells in found.rows] == [("P-1", "few")]


def test_lines_keep_their_numbers_past_empty_ones_and_short_ones_are_filled() -> None:
    found = read_table(b"patient,grade,by\nP-1,few,Eve\n\n,,\nP-2,rare\n", name="grades.csv")
    assert found.rows == ((2, ("P-1", "few", "Eve")), (5, ("P-2", "rare", "")))
    behind = read_table(b"sep=,\npatient,grade\nP-1,few\n", name="grades.csv")
    assert behind.rows[0][0] == 3


def test_names_in_a_windows_code_page_and_the_apostrophe_of_a_spreadsheet_are_read() -> None:
    found = read_table("patient,grade\nMüller,'++\n'x,+\n".encode("cp1252"), name="grades.csv")
    assert [cells for _, cells in found.rows] == [("Müller", "++"), ("'x", "+")]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "the file is empty"),
        (b"\n \n", "the file is empty"),
        (b"PK\x03\x04 a workbook", "this is a workbook, not a CSV"),
        (b"patient\nP-1\n", "one column only .'patient'."),
        (b"a,b\n\0,1\n", "this is no text"),
        (b'a,b\n"' + b"x" * 200_000 + b'",1\n', "line 2 cannot be read as CSV"),
        (b'sep=,\na,b\nP-1,"few\nP-2,few\nP-3,few\n', "line 5 cannot be read as CSV .unexpected end of data"),
        (b"a,b\nP-1,2,5\n", "line 2 has 3 cells and the first line 2; put what holds a ',' in quotation marks"),
    ],
)
def test_what_is_no_table_is_refused_by_name_with_the_remedy(content: bytes, words: str) -> None:
    with pytest.raises(UnreadableFile, match=f"grades.csv: .*{words}"):
        read_table(content, name="grades.csv")


def test_what_an_export_disarmed_comes_back_as_it_was() -> None:
    identifiers = ["=1", "-7", '"=1', "'=1", "+", "'x", "x"]
    lines = table_to_csv(("patient", "grade"), ([text, "few"] for text in identifiers))
    assert [cells[0] for _, cells in read_table(lines, name="export.csv").rows] == identifiers


def test_a_table_over_the_limit_is_refused() -> None:
    with pytest.raises(TooLarge, match="2 MB is more than 1 MB"):
        read_table(b"a,b\n" * 500_000, name="grades.csv", max_bytes=1_000_000)
