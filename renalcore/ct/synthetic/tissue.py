"""What a drawn abdomen is made of, and how bright it is in each contrast phase.

The HU of the kidney, of tumours and of cysts follow those measured on the slices of KiTS19 (kidney 105 +- 37 HU, tumour
66 +- 30, cyst 30 +- 11, mean and deviation between slices; within a slice 55, 36 and 23; with the border left out and
pixels of 0.8 mm smoothed by 0, 2 and 4 pixels the kidney keeps 51, 37 and 29, a tumour 35, 21 and 17). A cyst's own HU
are those of its middle, since border and values that the picture cut off at 0 brighten it: medians of 13, 14, 29 and 35
HU. Those of the other tissues are the usual ones of a scan at 120 kV.

A randomised palette knows none of this: what learns from it as well cannot lean on how bright a tissue is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType
from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from renalcore.ct.steps import WINDOW_HU

Phase = Literal["plain", "arterial", "portal", "delayed"]
PHASES: Final[tuple[Phase, ...]] = get_args(Phase)

PHASE_SHARES: Final = (0.15, 0.3, 0.4, 0.15)
"""How often each phase is drawn: KiTS is late arterial, most abdomens are portal, stones are sought plain."""


class Tissue(IntEnum):
    """One number for each kind of tissue; 0 is the air around the body."""

    AIR = 0
    SKIN_FAT = 1
    MUSCLE = 2
    FAT = 3
    CORTICAL_BONE = 4
    MARROW = 5
    DISC = 6
    CANAL = 7
    LIVER = 8
    SPLEEN = 9
    PANCREAS = 10
    BILE = 11
    WALL = 12
    FLUID = 13
    GAS = 14
    FAECES = 15
    ORAL_CONTRAST = 16
    ARTERY = 17
    VEIN = 18
    PORTAL_VEIN = 19
    HEART = 20
    LUNG = 21
    ADRENAL = 22
    CORTEX = 23
    MEDULLA = 24
    SINUS_FAT = 25
    URINE = 26
    TUMOUR = 27
    NECROSIS = 28
    CYST = 29
    TABLE = 30
    SKIN = 31
    BLADDER = 32


@dataclass(frozen=True, slots=True)
class Brightness:
    """How bright a tissue is.

    Attributes:
        hu: Mean in each of `PHASES`.
        between: Deviation from patient to patient, in HU.
        coarse: Deviation within it over centimetres.
        fine: Deviation within it over millimetres.
    """

    hu: tuple[float, float, float, float]
    between: float
    coarse: float = 2.0
    fine: float = 2.0


BRIGHTNESS: Final[Mapping[Tissue, Brightness]] = MappingProxyType(
    {
        Tissue.AIR: Brightness((-1000, -1000, -1000, -1000), 0, 0, 0),
        Tissue.SKIN_FAT: Brightness((-105, -105, -103, -103), 8, 4, 6),
        Tissue.MUSCLE: Brightness((52, 58, 62, 62), 9, 8, 12),
        Tissue.FAT: Brightness((-100, -99, -97, -97), 10, 8, 9),
        Tissue.CORTICAL_BONE: Brightness((480, 480, 480, 480), 120, 60, 60),
        Tissue.MARROW: Brightness((170, 175, 180, 175), 60, 25, 35),
        Tissue.DISC: Brightness((85, 88, 90, 90), 15, 6, 8),
        Tissue.CANAL: Brightness((25, 28, 32, 30), 8, 4, 4),
        Tissue.LIVER: Brightness((57, 72, 108, 92), 14, 5, 6),
        Tissue.SPLEEN: Brightness((47, 115, 118, 90), 12, 8, 5),
        Tissue.PANCREAS: Brightness((38, 95, 88, 65), 13, 12, 14),
        Tissue.BILE: Brightness((8, 8, 9, 10), 7, 2, 2),
        Tissue.WALL: Brightness((38, 75, 88, 75), 15, 8, 10),
        Tissue.FLUID: Brightness((15, 16, 18, 18), 12, 9, 8),
        Tissue.GAS: Brightness((-930, -930, -930, -930), 40, 20, 10),
        Tissue.FAECES: Brightness((-20, -20, -20, -20), 50, 60, 130),
        Tissue.ORAL_CONTRAST: Brightness((240, 240, 240, 240), 70, 30, 20),
        Tissue.ARTERY: Brightness((42, 270, 155, 110), 40, 4, 4),
        Tissue.VEIN: Brightness((41, 85, 142, 108), 25, 9, 5),
        Tissue.PORTAL_VEIN: Brightness((41, 115, 162, 112), 22, 4, 4),
        Tissue.HEART: Brightness((42, 190, 140, 108), 30, 18, 8),
        Tissue.LUNG: Brightness((-840, -840, -835, -838), 40, 25, 60),
        Tissue.ADRENAL: Brightness((25, 70, 72, 55), 12, 5, 6),
        Tissue.CORTEX: Brightness((33, 178, 182, 132), 27, 16, 18),
        Tissue.MEDULLA: Brightness((31, 84, 160, 134), 24, 16, 18),
        Tissue.SINUS_FAT: Brightness((-75, -65, -62, -65), 25, 25, 25),
        Tissue.URINE: Brightness((6, 12, 25, 380), 12, 6, 5),
        Tissue.TUMOUR: Brightness((34, 98, 84, 66), 24, 20, 20),
        Tissue.NECROSIS: Brightness((20, 28, 30, 28), 9, 9, 8),
        Tissue.CYST: Brightness((14, 18, 20, 20), 10, 3, 5),
        Tissue.TABLE: Brightness((-120, -120, -120, -120), 200, 20, 20),
        Tissue.SKIN: Brightness((10, 20, 30, 30), 25, 20, 20),
        Tissue.BLADDER: Brightness((6, 8, 10, 300), 6, 3, 3),
    }
)

EVENNESS_OF_PLAIN: Final = 0.3
"""Without contrast medium kidneys and tumours keep this share of what they deviate within themselves."""

DENSE_CYSTS: Final = 0.12
"""Share of patients whose cysts hold protein or old blood, 40 to 90 HU in every phase."""

RANDOM_DEVIATION_HU: Final = 70.0
"""Largest deviation within a randomised tissue: as much of `WINDOW_HU` as SynthSeg's 35 are of its 255 grey values."""

_NEVER_RANDOM: Final = frozenset({Tissue.AIR, Tissue.LUNG})


@dataclass(frozen=True, slots=True)
class Palette:
    """How bright each tissue is in one patient, indexed by `Tissue`.

    Attributes:
        phase: The contrast phase; None where each tissue is as bright as chance has it.
        mean, coarse, fine: Float32 tables of HU, see `Brightness`.
    """

    phase: Phase | None
    mean: NDArray[np.float32]
    coarse: NDArray[np.float32]
    fine: NDArray[np.float32]


def draw_palette(rng: np.random.Generator) -> Palette:
    """The HU of one patient: a phase, or a moment between two, and this patient's deviations from it."""
    first = int(rng.choice(len(PHASES), p=PHASE_SHARES))
    later = min(first + 1, len(PHASES) - 1) if first else 0  # plain scans are not on the way to the arterial phase
    share = rng.beta(1, 3)
    uptake = rng.normal(1, 0.12)  # more or less contrast medium for the patient's size
    mean = np.zeros(len(Tissue), np.float32)
    later_added = rng.spawn(1)[0]  # a seed draws the other tissues as it did before there was a bladder
    for tissue, bright in BRIGHTNESS.items():
        hu = (1 - share) * bright.hu[first] + share * bright.hu[later]
        if tissue not in (Tissue.URINE, Tissue.BLADDER):
            hu = bright.hu[0] + (hu - bright.hu[0]) * uptake
        # Without contrast medium patients differ little, and so does a tissue within itself.
        between = bright.between if first or bright.hu[0] == bright.hu[1] else min(bright.between, 7.0)
        mean[tissue] = hu + between * (later_added if tissue is Tissue.BLADDER else rng).normal()
    if rng.random() < DENSE_CYSTS:
        mean[Tissue.CYST] = rng.uniform(40, 90)
    if first == 2 and rng.random() < 0.75:  # the medulla fills during the portal phase
        mean[Tissue.MEDULLA] = mean[Tissue.CORTEX] - abs(rng.normal(0, 25))
    if first == 0:
        mean[Tissue.MEDULLA] = mean[Tissue.CORTEX] + rng.normal(0, 3)
    if rng.random() < 0.3:  # clear-cell carcinomas take up as much as the cortex, or nothing separates them from it
        mean[Tissue.TUMOUR] += rng.uniform(0, 0.8) * (mean[Tissue.CORTEX] - mean[Tissue.TUMOUR])
    vary = np.exp(rng.normal(0, 0.25, 2))
    coarse = np.array([BRIGHTNESS[tissue].coarse for tissue in Tissue], np.float32) * np.float32(vary[0])
    fine = np.array([BRIGHTNESS[tissue].fine for tissue in Tissue], np.float32) * np.float32(vary[1])
    if first == 0:
        inside = [Tissue.CORTEX, Tissue.MEDULLA, Tissue.TUMOUR]
        coarse[inside] *= EVENNESS_OF_PLAIN
        fine[inside] *= EVENNESS_OF_PLAIN
    if first == 1:
        coarse[Tissue.SPLEEN] *= 2.5  # mottled while its first blood arrives
        coarse[Tissue.TUMOUR] *= 1.6
    return Palette(PHASES[first], mean, coarse, fine)


def randomised_palette(rng: np.random.Generator) -> Palette:
    """HU as in SynthSeg (Billot et al., Medical Image Analysis 2023): for each tissue a mean and a deviation by chance.

    Means are uniform over `WINDOW_HU`, deviations up to `RANDOM_DEVIATION_HU`, divided by chance between the two sizes
    of texture. The air around the body and the lungs stay what they are.
    """
    mean = rng.uniform(*WINDOW_HU, len(Tissue)).astype(np.float32)
    deviation = rng.uniform(0, RANDOM_DEVIATION_HU, len(Tissue))
    share = rng.uniform(0, 1, len(Tissue))
    coarse, fine = ((deviation * np.sqrt(part)).astype(np.float32) for part in (share, 1 - share))
    for tissue in _NEVER_RANDOM:
        known = BRIGHTNESS[tissue]
        mean[tissue], coarse[tissue], fine[tissue] = known.hu[0], known.coarse, known.fine
    return Palette(None, mean, coarse, fine)
