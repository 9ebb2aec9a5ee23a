from __future__ import annotations

import csv
import hashlib
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from renalcore import cli, models
from renalcore.errors import InputError
from renalcore.export.geojson import to_geojson
from renalcore.histology import card as cards
from renalcore.histology import evaluate, judging, tables
from renalcore.histology.annotations import LabelledSlide, ReadOptions, read_slides
from renalcore.histology.evaluate import Evaluation, Part, Round, Searched
from renalcore.histology.glomeruli import Glomeruli
from renalcore.histology.judging import JudgedSlide, JudgedTile
from renalcore.histology.networks import build_network, save_weights
from renalcore.histology.tables import table1
from renalcore.metrics.segmentation import Agreement, Instances, Overlap
from renalcore.models import TrainingData
from tests.renalcore.histology.conftest import DISCS
from tests.renalcore.histology.discs import card, model
from tests.renalcore.histology.drawn import numbered, save


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as lines:
        return list(csv.DictReader(lines))


def test_stored_predictions_are_judged_by_slide_tile_stain_and_group(
    three_slides: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found, made = tmp_path / "found", tmp_path / "evaluation"
    save(found / "two.instances.png", numbered(DISCS["two"][:1]))  # one of two
    save(found / "one.instances.png", numbered(DISCS["one"]))
    command = ["evaluate", "histology", "--data", str(three_slides), "--split", "all", "--predictions", str(found)]
    assert cli.main([*command, "--output", str(made)]) == 1
    assert "has no none.instances.png: run `renalcore predict histology`" in capsys.readouterr().err
    save(found / "none.instances.png", numbered([]))
    assert cli.main([*command, "--output", str(made)]) == 0

    everything, he, pas, first, second = rows_of(made / "parts.csv")
    assert [row["name"] for row in (he, pas, first, second)] == ["HE", "PAS", "P1", "P2"]
    assert (everything["glomeruli"], everything["found"], everything["matched"]) == ("3", "2", "2")
    assert float(everything["f1"]) == pytest.approx(2 * 2 / (3 + 2))
    assert (everything["tiles"], everything["empty_tiles"]) == ("3", "1")
    assert float(everything["delta_glomeruli_per_tile"]) == pytest.approx(1 / 3, abs=1e-6)
    assert (pas["dice_per_slide"], he["recall"], pas["dice_automatic_threshold"]) == ("1.0", "0.5", "")
    first_px, second_px = (np.count_nonzero(numbered([disc])) for disc in DISCS["two"])
    assert float(he["dice_pooled"]) == pytest.approx(2 * first_px / (2 * first_px + second_px), abs=1e-6)
    told = json.loads((made / "evaluation.json").read_text())
    assert [slide["f1"] for slide in told["slides"]] == [pytest.approx(2 / 3, abs=1e-6), 1.0, 1.0]
    assert len(rows_of(made / "tiles.csv")) == 3
    assert (made / "table1_tiles.md").read_text().startswith("| Fold | Dice | Jaccard | Mean Delta-glomeruli |")
    assert {"overlap.png", "delta.png", "tables2and3.csv"} <= {path.name for path in made.iterdir()}

    folds = read_slides(three_slides).folds(2)
    for fold in ("1/2", "2/2"):
        assert cli.main([*command, "--split", fold, "--output", str(made)]) == 0
        assert {row["group"] for row in rows_of(made / "slides.csv")} == set(folds[int(fold[0]) - 1])


def judged(fold: str, dice_of_ten: int, found: int) -> JudgedSlide:
    """A slide of one tile: 10 px marked and 10 found, of which `dice_of_ten` are both; one glomerulus is marked."""
    of_all = Agreement(Overlap(dice_of_ten, 10, 10), Instances(1, found, 1), 1, found)
    return JudgedSlide(f"{fold}-{dice_of_ten}", fold, "HE", fold, of_all, (JudgedTile(0, 0, of_all),))


def test_table_1_has_a_row_a_fold_and_their_average() -> None:
    evaluation = Evaluation.of([judged("1", 8, 1), judged("1", 6, 3), judged("2", 9, 1), judged("2", 9, 1)])
    head, first, second, average = table1(evaluation, tiles=True)
    assert (first[0], second[0], average[0]) == ("1", "2", "folds average")
    assert first[1:3] == pytest.approx([0.7, math.sqrt(2 * 0.1**2 / (2 - 1))])
    assert first[head.index("delta_glomeruli")] == (0 + 2) / 2
    assert average[1:3] == pytest.approx([(0.7 + 0.9) / 2, math.sqrt(2 * 0.1**2 / (2 - 1))])
    assert "| folds average | 0.80 ± 0.14 |" in tables.as_printed([head, first, second, average])
    with pytest.raises(InputError, match="no slides to evaluate on"):
        Evaluation.of([])


def test_a_large_slide_is_judged_at_a_fraction_of_its_size_from_its_outlines(
    three_slides: Path, tmp_path: Path
) -> None:
    slide = next(each for each in read_slides(three_slides).slides if each.path.stem == "two")
    corners = [np.array([(x - r, y - r), (x + r, y - r), (x + r, y + r), (x - r, y + r)]) for x, y, r in DISCS["two"]]
    ones = np.ones(2, np.float32)
    boxes = Glomeruli(tuple(corners), ones, 4.0 * ones, ones < 1, tissue_px=1, um_per_px=None)
    (tmp_path / "two.geojson").write_bytes(to_geojson(boxes))
    whole = judging.judge(slide, tmp_path, largest_px=320 * 240 // 4).whole
    assert whole.instances == Instances(2, 2, 2)
    assert whole.pixels.jaccard == pytest.approx(math.pi / 4, abs=0.03)  # a disc in its square
    assert whole.pixels.expert == pytest.approx(math.pi * (30**2 + 32**2) / 4, rel=0.05)


def labelled(folder: Path) -> tuple[LabelledSlide, ...]:
    return read_slides(folder).slides


def test_the_threshold_is_the_one_that_is_best_for_all_slides_and_goes_on_the_card(
    three_slides: Path, tmp_path: Path
) -> None:
    # The drawn network says (200 - 140) / (200 - 60) = 0.43 of a disc, and its card asks for 0.5.
    rounds = [Round("", model(), labelled(three_slides), ())]
    missed = evaluate.search_and_judge(rounds, tmp_path / "missed", choose_threshold=False)
    assert [each.whole.instances.found for each in missed] == [0, 0, 0]
    found = evaluate.search_and_judge(rounds, tmp_path / "found", choose_threshold=True)
    assert [each.whole.instances for each in found] == [Instances(2, 2, 2), Instances(1, 1, 1), Instances(0, 0, 0)]
    evaluation = Evaluation.of(found)
    best = evaluation.all.best
    assert best is not None
    assert 0.1 <= best.threshold < 0.43
    assert best.dice > 0.95

    weights = tmp_path / "discs.safetensors"
    weights.write_bytes(b"weights")
    sources = (TrainingData("slides", "none", 9),)
    before = card(limits=("Never validated on real pictures.", "Trained on discs."), training_data=sources)
    made = cards.measured(before, weights, evaluation, data="slides", on="held out: 3 slides", command="again")
    assert made.min_score == best.threshold
    assert (made.sha256, made.validated_classes) == (hashlib.sha256(b"weights").hexdigest(), ())
    assert {figure.name: figure.value for figure in made.figures}["F1 of glomeruli at IoU 0.5"] == 1
    assert {figure.command for figure in made.figures} == {"again"}
    assert made.limits[-1] == "Trained on discs."
    assert made.limits[1:3] == (
        "Held-out slides: only 3 glomeruli, too few to call the model validated.",
        "Held-out slides: only 2 glomeruli in HE, too few for a figure.",
    )
    assert cards.measured(made, weights, evaluation, data="slides", on="", command="").limits == made.limits
    with pytest.raises(ValueError, match="stored predictions"):
        cards.measured(before, weights, Evaluation.of([judged("1", 8, 1)]), data="", on="", command="")


@pytest.mark.parametrize(("species", "downsample"), [("mouse", 0.375), ("human", 1.0), (None, 1.0)])
def test_slides_of_known_scale_are_searched_as_their_species_demands(
    three_slides: Path, species: str | None, downsample: float
) -> None:
    slides = read_slides(three_slides, ReadOptions(species=species)).slides
    assert Searched.of(model(), slides[0]).downsample == downsample  # 2 um a pixel as the card has it, 75 um of 200


def test_the_card_tells_how_large_the_glomeruli_of_training_were(three_slides: Path) -> None:
    told = cards.sizes_seen(card().input, labelled(three_slides))
    assert "median glomerulus is 56 to 62 px across" in told
    assert "the network saw 24 to 96 px; 112 to 124 um in the 2 of 3 slides" in told
    assert cards.stains_seen(labelled(three_slides)).startswith("Stains seen in training: PAS (2), HE (1); species:")


def test_slides_of_which_only_the_inside_of_glomeruli_is_known_are_left_out(three_slides: Path) -> None:
    table = three_slides / "pairs.csv"
    table.write_text(table.read_text().replace("P1,HE,2.0,", "P1,HE,2.0,target=tuft"))
    kept, left_out = evaluate.judgeable(labelled(three_slides))
    assert ([each.path.stem for each in kept], left_out) == (["one", "none"], ["two.png"])


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of two folds, and a model beside them; to each network everything is glomerulus."""
    network = build_network("linknet-mobilenetv2")
    head = network.body.segmentation_head[0]
    with torch.no_grad():
        head.weight.zero_()
        head.bias.copy_(torch.tensor([4.0, -4.0]))
    for name, groups in (("fold-1", ["P1"]), ("fold-2", ["P2"]), ("models", None)):
        folder = tmp_path / "run" / name / "discs"
        folder.mkdir(parents=True)
        save_weights(network, folder / "discs.safetensors")
        sha256 = hashlib.sha256((folder / "discs.safetensors").read_bytes()).hexdigest()
        (folder / "card.json").write_text(card(sha256=sha256).to_json())
        if groups is not None:
            (folder.parent / "held_out.json").write_text(json.dumps(groups))
    return tmp_path / "run"


def test_each_fold_is_judged_by_its_own_network_and_the_shipped_model_s_card_tells_of_all(
    run: Path, three_slides: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in DISCS:
        save(
            three_slides / "instances" / f"{name}.png", np.ones((240, 320), np.uint16)
        )  # glomerulus wherever one looks
    made = tmp_path / "evaluation"
    command = ["evaluate", "histology", "--data", str(three_slides), "--folds", str(run), "--output", str(made),
               "--model", "discs", "--models", str(run / "models"), "--write-card", "--device", "cpu"]  # fmt: skip
    assert cli.main(command) == 0
    assert [row["fold"] for row in rows_of(made / "table1_slides.csv")] == ["1", "2", "folds average"]
    assert {row["fold"] for row in rows_of(made / "slides.csv")} == {"1", "2"}
    assert sorted(path.name for path in (made / "predictions").glob("*.png")) == [
        "none.instances.png", "one.instances.png", "two.instances.png",
    ]  # fmt: skip
    told = models.card("discs", run / "models")
    assert "cross-validation in 2 folds" in told.figures[0].on
    assert "--folds" in told.figures[0].command
    assert "fold 2" in capsys.readouterr().out
    (run / "fold-2" / "discs" / "card.json").unlink()
    assert cli.main(command) == 1
    assert "fold-2 is not finished" in capsys.readouterr().err


def test_a_part_knows_its_best_threshold_only_where_all_its_slides_were_searched() -> None:
    assert Part.of("all", "", [judged("1", 8, 1)]).best is None
