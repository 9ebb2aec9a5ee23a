from __future__ import annotations

from dataclasses import replace

from streamlit.testing.v1 import AppTest

from pages.components import counts
from renalcore.sediment.measure import ReportedValue
from renalcore.taxonomy import NAMES, Group, particle


def a_value(class_name: str, total: int, **changes: object) -> ReportedValue:
    value = ReportedValue(
        class_name=class_name,
        group=particle(class_name).group,
        loinc=None,
        unit="HPF",
        fields=2,
        total=total,
        mean=total / 2,
        grade="few" if total else None,
        cut_off_version="B-1",
        note=None,
        per_field=((1, total), (2, 0)),
    )
    return replace(value, **changes)  # type: ignore[arg-type]


def _shown() -> None:
    from pages.components import counts
    from tests.pages.test_counts import a_value

    rows = [a_value("Mucus", 4), a_value("RBC", 3), a_value("WBC", 0), a_value("Sperm", 0)]
    counts.show(rows, unvalidated=("Mucus", "Sperm"), key="test")


def test_values_stand_in_the_order_of_the_groups() -> None:
    rows = [a_value("Mucus", 1), a_value("Granular cast", 1), a_value("RBC", 1)]
    assert [row.group for row in counts.in_order(rows)] == [Group.CELLS, Group.CASTS, Group.OTHERS]


def test_what_was_not_found_and_what_was_not_assessed_are_told_apart() -> None:
    page = AppTest.from_function(_shown, default_timeout=60).run()
    assert not page.exception
    assert [expander.label for expander in page.expander] == [
        "Looked for, not found (1)",
        "Not assessed by the model (1)",
    ]
    table = page.get("html")[0].proto.body
    assert table.index("RBC") < table.index("Mucus")
    assert "1.5" in table
    assert "Never validated on real pictures." in table


def test_every_group_has_a_shape_of_its_own() -> None:
    marks = {counts.group_mark_html(particle(name).group) for name in NAMES}
    assert len(marks) == len(Group)
