"""What the two papers printed for their networks: Tables 2 and 3 of the thesis, Table 1 of the mouse paper.

In the text of Tables 2 and 3 most figures are lost; the Dice of 0.827 and 0.801 stand in section 5.5. Which of the two
U-Nets has 0.801 it does not say.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Final, NamedTuple

from renalcore.metrics.segmentation import Spread


class Fold(NamedTuple):
    """A row of Table 1 of the mouse paper; mean and deviation over the tiles of a fold, or over the folds."""

    dice: Spread
    jaccard: Spread
    delta_glomeruli: Spread


THESIS: Final = MappingProxyType(
    {
        "double-unet": None,
        "unet-mobilenetv2": 0.801,
        "linknet-mobilenetv2": None,
        "linknet-efficientnet-b2": 0.820,
        "linknet-efficientnet-b3": None,
        "linknet-efficientnet-b5": 0.827,
    }
)
"""Dice with automatic threshold selection, of networks that began from ImageNet, on 256-px tiles of HuBMAP slides;
None where the figure is lost."""

MOUSE: Final = MappingProxyType(
    {
        "deeplabv2-resnet101": Fold(Spread(0.91, 0.01), Spread(0.80, 0.03), Spread(0.29, 0.12)),
        "mobilenet": Fold(Spread(0.81, 0.02), Spread(0.80, 0.02), Spread(0.18, 0.11)),
    }
)
"""The folds' averages, of networks that began from nothing that is told, on 512-px tiles of mouse and rat slides."""
