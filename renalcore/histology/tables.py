"""The tables and drawings of an evaluation on labelled slides, as the papers print them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from renalcore.export import figures
from renalcore.export.figures import plain, with_deviation, write_json, write_records, write_table
from renalcore.histology import plots
from renalcore.histology.evaluate import Evaluation, Part
from renalcore.histology.judging import TILE_PX, JudgedSlide
from renalcore.histology.methods import THESIS
from renalcore.metrics.segmentation import Agreement, Spread, Summary


def write(evaluation: Evaluation, folder: Path, *, network: str, about: Mapping[str, Any]) -> None:
    """Write tables and drawings into `folder`.

    `table1_slides` and `table1_tiles` are Table 1 of the mouse paper, `tables2and3.csv` the row of Tables 2 and 3 of
    the thesis, `parts.csv` the figures of all slides and of each fold, stain and group, `slides.csv` and `tiles.csv`
    those of each slide and tile; `overlap.png` and `delta.png` are drawn as Figs. 1 and 2 of the mouse paper;
    `evaluation.json` holds all but the tiles.

    Args:
        evaluation: What to write.
        folder: Where; it must exist.
        network: Which of the papers' networks it is, as on a card.
        about: What was measured on what, e.g. model, data and command; the head of `evaluation.json`.
    """
    for name, tiles in (("slides", False), ("tiles", True)):
        table = table1(evaluation, tiles=tiles)
        write_table(folder / f"table1_{name}.csv", table)
        (folder / f"table1_{name}.md").write_text(as_printed(table), encoding="utf-8")
    write_records(folder / "tables2and3.csv", [tables_2_and_3(evaluation.all, network)])
    parts = (evaluation.all, *evaluation.folds, *evaluation.stains, *evaluation.groups)
    write_records(folder / "parts.csv", [part_row(part) for part in parts])
    write_records(folder / "slides.csv", [_slide_row(each) for each in evaluation.slides])
    write_records(
        folder / "tiles.csv",
        [
            {"slide": each.name, "x_px": tile.x_px, "y_px": tile.y_px, **_agreement_row(tile.agreement)}
            for each in evaluation.slides
            for tile in each.tiles
        ],
    )
    draw({network: evaluation}, folder)
    content = {
        **about,
        "tile_px": TILE_PX,
        "parts": [part_row(part) for part in parts],
        "slides": [_slide_row(each) for each in evaluation.slides],
        "left_out": list(evaluation.left_out),
    }
    write_json(folder / "evaluation.json", plain(content))


def draw(evaluations: Mapping[str, Evaluation], folder: Path) -> None:
    """Draw `overlap.png` and `delta.png` of one or several models, as Figs. 1 and 2 of the mouse paper."""
    of_slides, of_tiles = (
        {model: _by_fold(evaluation, tiles=tiles) for model, evaluation in evaluations.items()}
        for tiles in (False, True)
    )
    plots.draw_overlap({"slides": of_slides, f"tiles of {TILE_PX} px": of_tiles}, folder / "overlap.png")
    plots.draw_delta(of_tiles, folder / "delta.png")


def table1(evaluation: Evaluation, *, tiles: bool) -> list[list[Any]]:
    """Table 1 of the mouse paper: mean and deviation over the tiles or slides of each fold, and of the folds' means.

    Without folds there is one row. The last row is the average over the folds.
    """
    head = ["fold", "dice", "dice_std", "jaccard", "jaccard_std", "delta_glomeruli", "delta_glomeruli_std"]
    rows = [
        (part.name or "all", (part.tiles if tiles else part.slides)) for part in evaluation.folds or (evaluation.all,)
    ]
    table: list[list[Any]] = [head]
    for name, summary in rows:
        spreads = (summary.dice, summary.jaccard, summary.delta_glomeruli)
        table.append([name, *(value for spread in spreads for value in (spread.mean, spread.deviation))])
    if evaluation.folds:
        means = [Spread.of(row[column] for row in table[1:]) for column in (1, 3, 5)]
        table.append(["folds average", *(value for spread in means for value in (spread.mean, spread.deviation))])
    return table


def as_printed(table: Sequence[Sequence[Any]]) -> str:
    """A table of `table1` as the paper prints it."""
    cells = [["Fold", "Dice", "Jaccard", "Mean Delta-glomeruli"]]
    for name, *values in table[1:]:
        pairs = zip(values[::2], values[1::2], strict=True)
        cells.append([str(name), *(with_deviation(*pair, digits=2) for pair in pairs)])
    return figures.markdown(cells)


def tables_2_and_3(part: Part, network: str) -> dict[str, Any]:
    """A row of Tables 2 and 3 of the thesis: pooled Dice with the threshold used and with the best one."""
    return {
        "model": network,
        "dice": part.slides.pixels.dice,
        "dice_automatic_threshold": part.best.dice if part.best else None,
        "automatic_threshold": part.best.threshold if part.best else None,
        "paper_dice": THESIS.get(network),
    }


def part_row(part: Part) -> dict[str, Any]:
    """The figures of a part in one line: those of its slides, then those of its tiles."""
    row: dict[str, Any] = {"part": part.kind, "name": part.name}
    for unit, summary in (("slide", part.slides), ("tile", part.tiles)):
        if unit == "slide":
            counts, pixels = summary.instances, summary.pixels
            row |= {
                "slides": summary.pictures, "glomeruli": counts.expert, "found": counts.found,
                "matched": counts.matched, "dice_pooled": pixels.dice, "jaccard_pooled": pixels.jaccard,
                "precision": counts.precision, "recall": counts.recall, "f1": counts.f1,
                "dice_automatic_threshold": part.best.dice if part.best else None,
                "automatic_threshold": part.best.threshold if part.best else None,
            }  # fmt: skip
        else:
            row |= {"tiles": summary.pictures, "empty_tiles": summary.empty}
        for name in ("dice", "jaccard", "f1", "dice_not_empty", "jaccard_not_empty", "delta_glomeruli",
                     "delta_instances"):  # fmt: skip
            spread: Spread = getattr(summary, name)
            row |= {f"{name}_per_{unit}": spread.mean, f"{name}_per_{unit}_std": spread.deviation}
    return row


def _slide_row(judged: JudgedSlide) -> dict[str, Any]:
    tiles = Summary.of([tile.agreement for tile in judged.tiles])
    return {
        "slide": judged.name, "group": judged.group, "stain": judged.stain, "fold": judged.fold,
        **_agreement_row(judged.whole),
        "tiles": tiles.pictures, "dice_per_tile": tiles.dice.mean,
        "delta_glomeruli_per_tile": tiles.delta_glomeruli.mean,
    }  # fmt: skip


def _agreement_row(judged: Agreement) -> dict[str, Any]:
    counts = judged.instances
    return {
        "glomeruli": counts.expert, "found": counts.found, "matched": counts.matched, "f1": counts.f1,
        "dice": judged.pixels.dice, "jaccard": judged.pixels.jaccard, "delta_glomeruli": judged.delta_glomeruli,
        "delta_instances": judged.delta_instances,
    }  # fmt: skip


def _by_fold(evaluation: Evaluation, *, tiles: bool) -> dict[str, list[Agreement]]:
    found: dict[str, list[Agreement]] = {}
    for each in evaluation.slides:
        own = [tile.agreement for tile in each.tiles] if tiles else [each.whole]
        found.setdefault(each.fold or "all", []).extend(own)
    return dict(sorted(found.items()))


def in_words(part: Part) -> str:
    """The figures of a part in one line for a person."""
    slides, tiles = part.slides, part.tiles
    name = f"{part.kind} {part.name}".strip()
    return (
        f"{name:<30} {slides.pictures:>5} slides {slides.instances.expert:>6} glomeruli  Dice {slides.pixels.dice:.3f} "
        f"(mean {slides.dice.mean:.3f}, of tiles {tiles.dice.mean:.3f})  Jaccard {slides.pixels.jaccard:.3f}  "
        f"F1 {slides.instances.f1:.3f}  Delta a tile {tiles.delta_glomeruli.mean:.2f}"
    )
