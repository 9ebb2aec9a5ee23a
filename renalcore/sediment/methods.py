"""The rows of Tables 4, 5 and 6 of Alizadeh et al. (2025): methods by name, and what the paper printed for them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import product
from types import MappingProxyType
from typing import Final, Literal, NamedTuple

from renalcore.runs.comparison import chosen
from renalcore.sediment.networks import NETWORKS, WITHOUT, Scale

Table = Literal[4, 5, 6]


class Printed(NamedTuple):
    """What the paper printed for a method, in per cent."""

    precision: float
    recall: float
    map50: float
    map50_95: float


PRINTED: Final = MappingProxyType(
    {
        "yolov8-m": Printed(57.85, 54.43, 57.39, 41.66),
        "yolo11-m": Printed(60.27, 54.81, 58.30, 43.10),
        "yolo12-n": Printed(63.40, 53.00, 55.98, 38.91),
        "yolo12-s": Printed(56.09, 53.72, 56.20, 40.33),
        "yolo12-m": Printed(62.45, 54.54, 58.66, 41.88),
        "yolo12-l": Printed(58.81, 54.42, 58.46, 42.13),
        "yolo12-x": Printed(58.51, 57.06, 58.40, 41.63),
        "rtdetr-l": Printed(58.69, 53.62, 57.73, 40.35),
        "yolo12-m+sahi": Printed(62.91, 56.49, 59.91, 42.27),
        "yolo12-m+sahi+ssl": Printed(63.20, 58.60, 61.08, 44.44),
        "multihead-m+sahi": Printed(70.19, 60.34, 62.01, 45.21),
        "multihead-m+sahi+ssl": Printed(76.59, 62.45, 64.15, 47.20),
        "multihead-without-casts-m+sahi+ssl": Printed(72.58, 60.68, 62.73, 45.42),
        "multihead-without-cells-m+sahi+ssl": Printed(73.69, 60.28, 61.98, 46.56),
        "multihead-without-crystals-m+sahi+ssl": Printed(73.58, 61.71, 60.38, 44.70),
        "multihead-without-microorganisms-m+sahi+ssl": Printed(72.69, 59.35, 59.47, 44.52),
        "yolo12-n@64": Printed(79.60, 7.75, 9.73, 5.40),
        "yolo12-n@96": Printed(43.86, 20.41, 15.07, 9.51),
        "yolo12-n@160": Printed(54.90, 29.39, 28.94, 19.83),
        "yolo12-n@320": Printed(53.70, 38.09, 39.51, 27.52),
        "yolo12-n@640": Printed(60.55, 51.57, 51.88, 36.92),
        "yolo12-n@960": Printed(63.40, 53.00, 55.98, 38.91),
        "yolo12-n@1280": Printed(56.29, 53.49, 54.00, 36.44),
    }
)
"""Tables 4, 5 and 6 of the paper, means of five folds. Where a comparison is of another size than the paper's, the
paper's figures of its own size stand beside it. The first two sizes of Table 6 are printed as 40 and 80: the strides of
YOLO12 need multiples of 32, to which Ultralytics rounds up."""

INPUT_SIZES: Final = (64, 96, 160, 320, 640, 960, 1280)


@dataclass(frozen=True, slots=True)
class Method:
    """A row of a table: a trained network and a way to search with it.

    Attributes:
        network: One of `NETWORKS`.
        scale: Its size.
        sliced: Searches with SAHI.
        pretrained: Begins with a backbone that was pretrained without labels.
        input_px: Sees whole fields fitted into this size; None: what the recipe shows.
    """

    network: str
    scale: Scale
    sliced: bool = False
    pretrained: bool = False
    input_px: int | None = None

    @property
    def run(self) -> str:
        """The training it rests on, and the name of its folder."""
        size = f"@{self.input_px}" if self.input_px else ""
        return f"{self.network}-{self.scale}{size}{'+ssl' if self.pretrained else ''}"

    @property
    def name(self) -> str:
        """What it is called on the command line and in a table, e.g. `yolo12-n+sahi+ssl`."""
        size = f"@{self.input_px}" if self.input_px else ""
        steps = f"{'+sahi' if self.sliced else ''}{'+ssl' if self.pretrained else ''}"
        return f"{self.network}-{self.scale}{size}{steps}"


def methods(table: Table, patterns: Iterable[str] = (), *, scale: Scale = "n") -> list[Method]:
    """The rows of a table.

    Args:
        table: 4, 5 or 6.
        patterns: Names of rows, `*` standing for anything; by default the usual rows.
        scale: Size of the networks of Tables 5 and 6; Table 4 has its own.

    Raises:
        UnknownName: A pattern fits no row.
    """
    known, usual = {4: _table4, 5: _table5, 6: _table6}[table](scale)
    return chosen(known, patterns, usual=usual, of=f"table {table}")


def _table4(_: Scale) -> tuple[list[Method], list[Method]]:
    yes_no = (False, True)
    scales: dict[str, tuple[Scale, ...]] = {"rtdetr": ("l", "x")}
    known = [
        Method(network, scale, sliced, pretrained)
        for network in ("yolov8", "yolo11", "rtdetr", "yolo12", "multihead")
        for scale in scales.get(network, ("n", "s", "m", "l", "x"))
        for pretrained, sliced in product(yes_no if NETWORKS[network] == "yolo12" else (False,), yes_no)
    ]
    usual = {"yolov8-n", "yolo11-n", "rtdetr-l", *(f"{name}-{at}" for name in ("yolo12", "multihead") for at in "nsm")}
    return known, [method for method in known if f"{method.network}-{method.scale}" in usual]


def _table5(scale: Scale) -> tuple[list[Method], list[Method]]:
    networks = (*WITHOUT, "multihead")
    known = [
        Method(network, scale, sliced, pretrained)
        for network, sliced, pretrained in product(networks, (True, False), (True, False))
    ]
    printed = [method for method in known if method.network != "multihead-without-artifact"]
    return known, [method for method in printed if method.sliced and method.pretrained]


def _table6(scale: Scale) -> tuple[list[Method], list[Method]]:
    known = [Method("yolo12", scale, input_px=size) for size in INPUT_SIZES]
    return known, known


def printed(method: Method, table: Table) -> Printed | None:
    """What the paper printed for a method; in Tables 5 and 6 for its own size of the same network."""
    scale: Scale = {4: method.scale, 5: "m", 6: "n"}[table]  # type: ignore[assignment]  # all are sizes
    return PRINTED.get(replace(method, scale=scale).name)
