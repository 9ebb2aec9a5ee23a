"""What an admin types into the cut-off editor, and what comes of it."""

from __future__ import annotations

import pytest

from pages.components.cutoff_lines import COLUMNS, cut_offs_of, lines_of, scale_in_words
from renalcore.sediment.measure import TABLE_A, TABLE_B, CutOff, CutOffTable


def _line(*values: object) -> dict[str, object]:
    return dict(zip(COLUMNS, values, strict=True))


@pytest.mark.parametrize("table", [TABLE_A, TABLE_B], ids=lambda table: table.version)
def test_a_published_table_survives_the_way_through_the_editor(table: CutOffTable) -> None:
    cut_offs, problems = cut_offs_of(lines_of(table).to_dict("records"))
    assert problems == []
    assert cut_offs == table.rows


def test_a_scale_is_said_in_words() -> None:
    crystals = CutOff("Crystals", "HPF", "grades", (0, 4, 10), ("none", "few", "moderate", "many"))
    assert scale_in_words(crystals) == "none: 0, few: up to 4, moderate: up to 10, many: above 10"
    assert scale_in_words(CutOff("Casts", "LPF", "number")) == "reported as a number"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (_line("RBC", "HPF", "grades", "0, four", "none, few, many"), "bounds are numbers"),
        (_line("RBC", "HPF", "grades", "4, 0", "none, few, many"), "ascend"),
        (_line("RBC", "HPF", "grades", "0, 4", "none, many"), "labels"),
        (_line("RBC", "HPF", "number", "0", "none, many"), "neither bounds nor labels"),
        (_line("RBC", "HPF", "grades", float("nan"), None), "at least one bound"),
        (_line(None, "HPF", "number", "", ""), "choose a class"),
        (_line("Quartz", "HPF", "number", "", ""), "neither one of the 39 classes"),
    ],
)
def test_a_line_that_makes_no_scale_is_named_with_the_reason(line: dict[str, object], words: str) -> None:
    fine = _line("WBC", "HPF", "number", None, None)
    cut_offs, problems = cut_offs_of([fine, line])
    assert len(cut_offs) == 1
    assert len(problems) == 1
    assert problems[0].startswith("line 2: ")
    assert words in problems[0]
