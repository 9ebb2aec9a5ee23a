"""Pictures of a run: its curves, and what each parameter of a search did to each figure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from renalcore.export.figures import OKABE_ITO
from renalcore.runs import metrics_table

_MARKS = ("-", "--", ":", "-.")


def draw_curves(metrics: Path, picture: Path) -> None:
    """Draw the columns of a `metrics.csv` over its epochs.

    Columns are named `PART/FIGURE`. Parts of one figure (train and val) share a panel, all learning rates share one.

    Args:
        metrics: The table, with a column `epoch`.
        picture: The PNG to write.
    """
    from matplotlib.figure import Figure

    columns = metrics_table.read(metrics)
    epochs = columns["epoch"]
    panels: dict[str, list[str]] = {}
    for name in columns:
        part, _, figure = name.partition("/")
        if figure:
            panels.setdefault("learning rate" if part == "lr" else figure.removesuffix("(B)"), []).append(name)
    across = min(4, len(panels))
    down = -(-len(panels) // across)
    width, height = 3.6 * across, 2.7 * down  # inches; a layout that measures every label takes as long as drawing them
    page = Figure(figsize=(width, height))
    for place, (title, names) in enumerate(panels.items()):
        left, top = 3.6 * (place % across) + 0.5, 2.7 * (place // across) + 0.3
        panel = page.add_axes((left / width, 1 - (top + 1.95) / height, 2.95 / width, 1.95 / height))
        for index, name in enumerate(names):
            measured = np.isfinite(columns[name])
            colour, line = OKABE_ITO[index % len(OKABE_ITO)], _MARKS[index % len(_MARKS)]
            (drawn,) = panel.plot(epochs[measured], columns[name][measured], line, color=colour, marker=".")
            drawn.set_label(name.partition("/")[0])
        panel.set_title(title, fontsize=9)
        panel.set_xlabel("epoch", fontsize=8)
        panel.tick_params(labelsize=7)
        panel.grid(alpha=0.3)
        if len(names) > 1 and title != "learning rate":
            panel.legend(fontsize=7)
    page.savefig(picture, dpi=110)


def draw_scatter(
    parameters: dict[str, Sequence[float]],
    figure: Sequence[float],
    *,
    name: str,
    chosen: int | None,
    logarithmic: Sequence[str],
    picture: Path,
) -> None:
    """Draw one figure against each parameter, one dot a trial, as Fig. 4 of Alizadeh et al. (2025).

    Args:
        parameters: The values tried, by parameter.
        figure: What each trial reached, in the same order.
        name: What the figure is called.
        chosen: Position of the trial that is marked with a cross.
        logarithmic: Parameters whose axis is logarithmic.
        picture: The PNG to write.
    """
    from matplotlib.figure import Figure

    across = min(4, len(parameters))
    down = -(-len(parameters) // across)
    page = Figure(figsize=(3 * across, 2.5 * down), layout="constrained")
    for panel, (title, values) in zip(
        page.subplots(down, across, squeeze=False).flat, parameters.items(), strict=False
    ):
        panel.scatter(values, figure, s=14, alpha=0.6, color=OKABE_ITO[0], linewidths=0)
        if chosen is not None:
            panel.plot(values[chosen], figure[chosen], marker="x", markersize=9, mew=2, color=OKABE_ITO[1])
        if title in logarithmic:
            panel.set_xscale("log")
        panel.set_xlabel(title, fontsize=8)
        panel.set_ylabel(name, fontsize=8)
        panel.tick_params(labelsize=7, which="both")
        panel.grid(alpha=0.3)
    for panel in page.axes[len(parameters) :]:
        panel.remove()
    page.savefig(picture, dpi=110)
