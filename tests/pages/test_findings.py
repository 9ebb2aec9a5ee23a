from __future__ import annotations

from pages.components import analysis, findings
from pages.components.findings import STATUSES, ShownField, by_class, common, describe_classes, pack
from pages.components.viewer import neighbours
from renalcore.models import InputScale, ModelCard
from renalcore.taxonomy import NAMES, Group, class_id
from tests.pages.records import a_card, an_object


def test_findings_travel_in_columns_a_field_each() -> None:
    objects = [
        an_object("f1", field_id=7, class_name="WBC", score=0.875, box=(1.2, 2.6, 30.4, 40.5)),
        an_object("c2", field_id=8, class_name="RBC", score=None, model_class=None, status="added"),
    ]
    packed = pack(objects, [7, 8, 9])
    assert packed["7"] == {
        "keys": ["f1"],
        "classes": [class_id("WBC")],
        "models": [class_id("WBC")],
        "scores": [875],
        "statuses": [STATUSES.index("model")],
        "boxes": [1, 3, 30, 40],
    }
    assert (packed["8"]["models"], packed["8"]["scores"]) == ([-1], [-1])
    assert packed["9"]["keys"] == []


def test_findings_of_fields_that_are_not_shown_stay_on_the_server() -> None:
    assert pack([an_object("f1", field_id=1)], [2]) == {
        "2": {"keys": [], "classes": [], "models": [], "scores": [], "statuses": [], "boxes": []}
    }


def test_a_score_just_below_the_threshold_does_not_reach_it_in_the_browser() -> None:
    assert pack([an_object("f1", field_id=1, score=0.24996)], [1])["1"]["scores"] == [249]


def test_a_field_comes_with_its_neighbours() -> None:
    fields = [ShownField(number, "a.png", 10, 10, 0) for number in (4, 5, 6, 7)]
    assert [neighbours(fields, number) for number in (4, 6, 7)] == [[4, 5], [5, 6, 7], [6, 7]]


def test_one_threshold_is_shown_where_all_validated_classes_share_it() -> None:
    assert common({"default": 0.3, "Mucus": 1.0}, ["Mucus"]) == 0.3
    assert common({"default": 0.3, "RBC": 0.4, "Mucus": 1.0}, ["Mucus"]) is None
    assert by_class({"default": 0.3, "RBC": 0.4})[class_id("RBC")] == 0.4


def test_classes_carry_their_group_and_whether_they_were_ever_validated() -> None:
    described = describe_classes(["Mucus"])
    assert described[class_id("Mucus")] == ["Mucus", list(Group).index(Group.OTHERS), False]
    assert described[class_id("RBC")] == ["RBC", 0, True]


def test_a_class_never_validated_counts_only_where_a_person_confirms_it() -> None:
    card: ModelCard = a_card(validated=("RBC", "WBC"), min_score=0.25)
    assert isinstance(card.input, InputScale)
    counted = analysis.counted_from(card)
    assert (counted["RBC"], counted["Mucus"]) == (0.25, 1.0)
    chosen = analysis.counted_from(card, 0.6)
    assert (chosen["RBC"], chosen["Mucus"], len(chosen)) == (0.6, 1.0, len(NAMES))


def test_what_a_browser_repeats_is_acknowledged_by_number() -> None:
    state = findings.ReviewState()
    state.go(3, "f9")
    state.visit(4)
    assert state.goal == (1, 4, None)
