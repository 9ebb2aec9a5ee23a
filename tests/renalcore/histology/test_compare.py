from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from renalcore import cli
from renalcore.errors import UnknownName
from renalcore.histology.compare import Comparison, Method, markdown, methods, table_row
from renalcore.histology.evaluate import Evaluation
from renalcore.histology.judging import JudgedSlide, JudgedTile
from renalcore.histology.train import TrainConfig
from renalcore.metrics.segmentation import Agreement, DiceCurve, Instances, Overlap


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as lines:
        return list(csv.DictReader(lines))


def test_the_usual_rows_are_the_baseline_and_the_networks_of_both_papers() -> None:
    names = [method.name for method in methods()]
    assert names[0] == "butterworth"
    assert {"double-unet", "unet-mobilenetv2", "linknet-mobilenetv2", "deeplabv2-resnet101", "mobilenet"} <= {*names}
    assert {f"linknet-efficientnet-b{size}" for size in (2, 3, 5)} <= {*names}
    assert "linknet-efficientnet-b0" not in names
    assert [method.name for method in methods(["linknet*-b0*"])] == [
        "linknet-efficientnet-b0", "linknet-efficientnet-b0+ssl",
    ]  # fmt: skip
    with pytest.raises(UnknownName, match=r"'u-net' is no row of the comparison; there are e\.g\. butterworth"):
        methods(["u-net"])


def test_the_papers_figures_can_be_listed_beside_the_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["compare", "histology", "--data", str(tmp_path), "--output", str(tmp_path), "--list"]
    assert cli.main(command) == 0
    lines = {line.split()[0]: line.split(maxsplit=1)[1] for line in capsys.readouterr().out.splitlines()}
    assert lines["linknet-efficientnet-b5"] == "Dice 0.827"
    assert lines["mobilenet"] == "Dice 0.81 Jaccard 0.8 Delta-glomeruli 0.18"
    assert lines["double-unet"] == "in the thesis, its figure is lost"


def judged(fold: str, both: int, curve: DiceCurve | None = None) -> JudgedSlide:
    """A slide of one tile with 10 px marked and 10 found."""
    whole = Agreement(Overlap(both, 10, 10), Instances(2, 1, 1), 2, 1)
    return JudgedSlide("a.png", "P", "HE", fold, whole, (JudgedTile(0, 0, whole),), curve)


def test_a_row_tells_mean_and_deviation_over_the_folds_beside_the_papers() -> None:
    results = [{"parameters": 5_000_000, "epochs": 3, "hours": hours, "device": "CPU"} for hours in (0.1, 0.3)]
    row = table_row(Method("mobilenet"), Evaluation.of([judged("1", 8), judged("2", 9)]), results, 5)
    assert (row["folds"], row["hours"]) == ("2 of 5", pytest.approx(0.2))
    assert (row["f1"], row["delta_glomeruli_per_tile"]) == (pytest.approx(2 * 1 / (2 + 1)), 1)
    head, _, line = markdown([row]).splitlines()
    assert head.startswith(
        "| network | Dice | F1 | Dice a slide | Dice a tile | Jaccard a tile | Delta-glomeruli a tile"
    )
    assert line.startswith("| MobileNet | 0.850 ± 0.071 | 0.667 ± 0.000 | 0.850 ± 0.071 | 0.850 ± 0.071 (0.810) | ")
    assert line.endswith("| 1.00 ± 0.00 (0.18) | 5.0 | 3 | 0.20 | 2 of 5 |")


def test_what_was_judged_is_kept_as_json_and_read_again() -> None:
    curve = DiceCurve.of(np.array([[0.3, 0.9]]), np.array([[False, True]]))
    before = judged("1", 8, curve)
    after = JudgedSlide.from_plain(json.loads(json.dumps(before.to_plain())))
    assert after.to_plain() == before.to_plain()
    assert after.whole == before.whole
    assert Evaluation.of([after]).all.best == curve.best


def test_folds_are_made_once_and_not_mixed_with_unlike_ones(
    three_slides: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "compared"
    command = ["compare", "histology", "--data", str(three_slides), "--output", str(run), "--epochs", "1", "--items",
               "2", "--batch", "2", "--size", "64", "--glomerulus", "48", "--folds", "2", "--device", "cpu",
               "--row"]  # fmt: skip
    assert cli.main([*command, "butterworth", "--row", "linknet-mobilenetv2"]) == 0
    baseline, linknet = rows_of(run / "comparison.csv")
    assert (baseline["method"], baseline["parameters"], linknet["epochs"]) == ("butterworth", "0", "1.0")
    assert (linknet["folds"], linknet["paper_dice_automatic_threshold"]) == ("2 of 2", "")
    assert float(baseline["f1"]) > 0.4  # dark discs of known size
    assert {"overlap.png", "delta.png", "table1.md", "comparison.md"} <= {path.name for path in run.iterdir()}
    assert "| LinkNet + MobileNetV2 | " in capsys.readouterr().out
    told = (run / "comparison.md").read_text()
    assert "for 1 epoch of 2 tiles a fold in tiles of 64 px that show a glomerulus 48 px across" in told
    weights = next((run / "linknet-mobilenetv2" / "fold-1").glob("*/*.safetensors"))
    made = weights.stat().st_mtime_ns
    assert cli.main([*command, "linknet-mobilenetv2"]) == 0
    assert weights.stat().st_mtime_ns == made
    assert cli.main([*command, "linknet-mobilenetv2", "--items", "3"]) == 1
    assert "holds a comparison with another items; give those again" in capsys.readouterr().err


def test_a_fold_that_was_interrupted_goes_on_and_a_finished_one_does_not(tmp_path: Path) -> None:
    comparison = Comparison(TrainConfig(data=tmp_path, output=tmp_path / "compared"))
    run = comparison.training(Method("mobilenet"), 2, ("P1",))
    assert run.output.relative_to(tmp_path).as_posix() == "compared/mobilenet/fold-2"
    assert (run.network, run.held_out, run.resume) == ("mobilenet", ("P1",), False)
    run.checkpoint.parent.mkdir(parents=True)
    run.checkpoint.touch()
    assert comparison.training(Method("mobilenet"), 2, ("P1",)).resume
    (run.output / "figures.json").touch()
    assert not comparison.training(Method("mobilenet"), 2, ("P1",)).resume
    pretrained = comparison.training(Method("unet-mobilenetv2", pretrained=True), 1, ())
    assert pretrained.start == tmp_path / "compared" / "pretrain-mobilenet_v2" / "encoder-mobilenet_v2.safetensors"
    shared = comparison.pretraining(Method("linknet-mobilenetv2", pretrained=True))
    assert (shared.weights, shared.resume) == (pretrained.start, False)
