"""What a field holds: a `Recipe`, four demo patients, and the random mixtures that models train on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from renalcore import taxonomy
from renalcore.sediment.synthetic.morphology import KINDS
from renalcore.sediment.synthetic.optics import Light

RBC_UM = 7.0
FINEST_UM_PER_PX, COARSEST_UM_PER_PX = RBC_UM / 60, RBC_UM / 20
"""A red cell covers 60 px at the finest scale and 20 px at the coarsest."""

LOW_POWER_SHARE = 0.15
"""Share of random training fields that are seen through the 10x objective."""

LOW_POWER_UM_PER_PX = (0.45, 0.9)
"""Scales of those."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """What is in a field and how it was seen.

    Attributes:
        name: What the sample is, in a clinician's words.
        counts: Fewest and most particles of each class in one field; classes left out do not appear.
        crowding: 0 spreads particles out, 1 lets them lie anywhere, one over another.
        debris: Amount of dust, fine haze and far-out-of-focus shadows that nobody boxes; 1 is usual.
        light: The microscope and camera, or None to take a random one for each field.
        round_field: A phone picture through an eyepiece: a bright disc on black.

    Raises:
        UnknownName: A class is not one of the 39.
        ValueError: A count is negative or its lowest exceeds its highest.
    """

    name: str
    counts: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    crowding: float = 0.2
    debris: float = 1.0
    light: Light | None = None
    round_field: bool = False

    def __post_init__(self) -> None:
        for class_name, (low, high) in self.counts.items():
            taxonomy.class_id(class_name)
            if not 0 <= low <= high:
                raise ValueError(f"counts of {class_name!r} must be 0 <= low <= high, got {low}..{high}")

    @classmethod
    def sampled_low_power(cls, rng: np.random.Generator, area_um2: float) -> Recipe:
        """A training mixture as the 10x objective shows it: only what is large enough to be told apart there."""
        names = tuple(name for name, kind in KINDS.items() if kind.radius_um >= _LOW_POWER_RADIUS_UM)
        weights = np.array([KINDS[name].weight for name in names])
        share = float(np.clip(area_um2 / 100_000, 0.3, 3))
        counts: dict[str, tuple[int, int]] = {}
        for index in rng.choice(len(names), size=int(rng.integers(1, 5)), replace=False, p=weights / weights.sum()):
            counts[names[index]] = (1, max(1, round(2 * KINDS[names[index]].most * share * rng.beta(1, 2))))
        if rng.random() < 0.75:
            counts["Epithelial cell (squamous)"] = (1, 1 + round(14 * share * rng.beta(1, 2)))
        debris = float(rng.gamma(1.5, 0.4))
        return cls("training at low power", counts, crowding=float(rng.beta(1.2, 3)), debris=debris)

    @classmethod
    def sampled(cls, rng: np.random.Generator, area_um2: float) -> Recipe:
        """A random training mixture for a field of `area_um2`: a few featured classes over a usual background."""
        names = tuple(KINDS)
        side_um = float(np.sqrt(area_um2))
        weights = np.array([KINDS[name].weight * min(1.0, 0.35 * side_um / KINDS[name].radius_um) for name in names])
        featured = rng.choice(len(names), size=int(rng.integers(2, 6)), replace=False, p=weights / weights.sum())
        share = float(np.clip(area_um2 / 16_000, 0.3, 3))
        counts: dict[str, tuple[int, int]] = {}
        for index in featured:
            most = max(1, round(KINDS[names[index]].most * share * rng.beta(1, 2.2)))
            counts[names[index]] = (max(1, most // 2), most)
        for name, chance, most in _BYSTANDERS:
            if name not in counts and rng.random() < chance:
                counts[name] = (0, max(1, round(most * share)))
        crowded = rng.beta(1.2, 3)
        debris = float(rng.gamma(1.5, 0.7))
        return cls("training", counts, crowding=float(crowded), debris=debris, round_field=rng.random() < 0.06)


_LOW_POWER_RADIUS_UM = 9.0
"""Smaller classes cannot be told apart at the 10x objective."""

_BYSTANDERS = (
    ("RBC", 0.55, 12),
    ("WBC", 0.5, 6),
    ("Bacteria", 0.25, 15),
    ("Epithelial cell (squamous)", 0.2, 1),
    ("Calcium oxalate", 0.15, 4),
    ("Yeast", 0.12, 5),
)


_DEMO_LIGHT = Light(
    colour=(0.78, 0.77, 0.70),
    gradient=(0.03, -0.02),
    vignetting=0.06,
    blotches=0.004,
    focus_um=-0.9,
    depth_um=0.3,
    resolution_um=0.14,
    contrast=1.1,
    colour_fringe=0.08,
    halo=0.25,
    sharpening=0.5,
    noise=0.006,
)
"""One laboratory's microscope: a patient's fields, and those of its other patients, look as if taken with it."""


DEMO_RECIPES: tuple[Recipe, ...] = (
    Recipe(
        "haematuria with RBC casts",
        {
            "RBC": (60, 110),
            "RBC cast": (0, 2),
            "RBC clump": (0, 1),
            "WBC": (1, 5),
            "Granular cast": (0, 1),
            "Hyaline cast": (0, 1),
            "Epithelial cell (squamous)": (0, 1),
        },
        light=_DEMO_LIGHT,
    ),
    Recipe(
        "pyuria with bacteria",
        {
            "WBC": (30, 60),
            "WBC clump": (0, 3),
            "Bacteria": (60, 160),
            "RBC": (3, 12),
            "Epithelial cell (squamous)": (0, 3),
            "Epithelial cell (transitional)": (0, 2),
            "Mucus": (0, 2),
            "Triple phosphate": (0, 2),
        },
        debris=1.4,
        light=replace(_DEMO_LIGHT, colour=(0.76, 0.78, 0.74)),
    ),
    Recipe(
        "calcium oxalate and uric acid crystals",
        {
            "Calcium oxalate": (10, 30),
            "Uric acid": (1, 6),
            "Amorphous": (2, 10),
            "RBC": (4, 16),
            "WBC": (0, 4),
            "Epithelial cell (squamous)": (0, 2),
            "Mucus": (0, 1),
        },
        light=_DEMO_LIGHT,
    ),
    Recipe(
        "tubular injury with granular and muddy brown casts",
        {
            "Muddy brown cast": (1, 3),
            "Granular cast": (0, 2),
            "Hyaline cast": (0, 1),
            "Epithelial cell (renal)": (2, 8),
            "RBC": (0, 6),
            "WBC": (1, 6),
            "Mixed cell cast": (0, 1),
        },
        debris=1.2,
        light=replace(_DEMO_LIGHT, colour=(0.80, 0.78, 0.72), focus_um=-0.7),
    ),
)
"""Four patients for demonstrations; each field is different, each patient keeps to a pattern."""
