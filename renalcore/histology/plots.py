"""Drawings of an evaluation, as Figs. 1 and 2 of Meconcelli et al. (ESANN 2022)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from renalcore.export.figures import OKABE_ITO
from renalcore.metrics.segmentation import Agreement

Judged = Mapping[str, Mapping[str, Sequence[Agreement]]]
"""What was judged, by model and fold."""

_HATCHES: Final = ("", "//", "..", "xx", "\\\\", "++")  # colours are not the only mark


def draw_overlap(units: Mapping[str, Judged], picture: Path) -> None:
    """Box plots of Dice and Jaccard of each fold, models side by side, as Fig. 1; a row of panels for each unit.

    Boxes span the quartiles, whiskers 1.5 times as much, the line is the median and the triangle the mean.

    Args:
        units: What was judged, by unit, e.g. slides and tiles.
        picture: The PNG to write.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    models, folds = _names(units.values())
    page = Figure(figsize=(2 * (2 + 0.35 * len(models) * len(folds)), 2.8 * len(units) + 0.4), layout="constrained")
    for row, (unit, judged) in zip(page.subplots(len(units), 2, squeeze=False), units.items(), strict=True):
        for panel, figure in zip(row, ("dice", "jaccard"), strict=True):
            for place, model in enumerate(models):
                there = [fold for fold in folds if judged[model].get(fold)]
                drawn = panel.boxplot(
                    [[getattr(each.pixels, figure) for each in judged[model][fold]] for fold in there],
                    positions=[folds.index(fold) + _offset(place, len(models)) for fold in there],
                    widths=0.7 / len(models), patch_artist=True, showmeans=True, manage_ticks=False,
                    flierprops={"marker": ".", "markersize": 3}, medianprops={"color": "black"},
                    meanprops={"markerfacecolor": "white", "markeredgecolor": "black", "markersize": 4},
                )  # fmt: skip
                for box in drawn["boxes"]:
                    box.set(**_style(place))
            panel.set_ylim(-0.03, 1.03)
            panel.set_title(f"{figure.capitalize()}, {unit}", fontsize=9)
            _folds_below(panel, folds)
    _legend(page, [Patch(label=model, **_style(place)) for place, model in enumerate(models)])
    page.savefig(picture, dpi=110)


def draw_delta(judged: Judged, picture: Path) -> None:
    """Histograms of Delta-glomeruli, a panel for each fold, models in two colours, as Fig. 2.

    Args:
        judged: What was judged.
        picture: The PNG to write.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    models, folds = _names([judged])
    across = min(len(folds), 3)
    down = -(-len(folds) // across)
    page = Figure(figsize=(3 * across + 0.6, 2.4 * down + 0.4), layout="constrained")
    panels = page.subplots(down, across, squeeze=False).ravel()
    greatest = max(each.delta_glomeruli for of in judged.values() for fold in of.values() for each in fold)
    for panel, fold in zip(panels, folds, strict=False):
        for place, model in enumerate(models):
            values = [each.delta_glomeruli for each in judged[model].get(fold, ())]
            counts = np.bincount(np.array(values, np.int64), minlength=greatest + 1)
            places = np.arange(greatest + 1) + _offset(place, len(models))
            panel.bar(places, counts, 0.7 / len(models), **_style(place))
        panel.set_title(f"fold {fold}" if len(folds) > 1 else fold, fontsize=9)
        panel.set_xlabel("Delta-glomeruli", fontsize=8)
        panel.set_ylabel("tiles", fontsize=8)
        panel.set_xticks(range(0, greatest + 1, greatest // 10 + 1))
        panel.tick_params(labelsize=7)
        panel.grid(alpha=0.3, axis="y")
    for panel in panels[len(folds) :]:
        panel.remove()
    _legend(page, [Patch(label=model, **_style(place)) for place, model in enumerate(models)])
    page.savefig(picture, dpi=110)


def _names(units: Collection[Judged]) -> tuple[list[str], list[str]]:
    """The models and the folds, each once, in order."""
    models = {model: None for judged in units for model in judged}
    folds = {fold: None for judged in units for of in judged.values() for fold in of}
    return list(models), sorted(folds)


def _offset(place: int, models: int) -> float:
    return 0.8 * ((place + 0.5) / models - 0.5)


def _style(place: int) -> dict[str, Any]:
    return {
        "facecolor": OKABE_ITO[place % len(OKABE_ITO)],
        "edgecolor": "black",
        "linewidth": 0.6,
        "hatch": _HATCHES[place % len(_HATCHES)],
        "alpha": 0.8,
    }


def _folds_below(panel: Any, folds: Sequence[str]) -> None:
    panel.set_xticks(range(len(folds)), folds)
    panel.set_xlabel("fold" if len(folds) > 1 else "", fontsize=8)
    panel.tick_params(labelsize=7)
    panel.grid(alpha=0.3, axis="y")


def _legend(page: Any, marks: Sequence[Any]) -> None:
    if len(marks) > 1:
        page.legend(handles=marks, loc="outside lower center", ncols=3, fontsize=7)
