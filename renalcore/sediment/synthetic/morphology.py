"""Which drawer draws which class, how much room it takes and how many a field may hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from renalcore.sediment.synthetic import casts, cells, crystals, microorganisms, others
from renalcore.sediment.synthetic.sheet import Sheet

Drawer = Callable[[np.random.Generator, float], Sheet]


@dataclass(frozen=True, slots=True)
class Kind:
    """How one class is drawn.

    Attributes:
        draw: Makes a new particle from a random generator and a scale in um a pixel.
        radius_um: Half the length of a usual one, to find room for it.
        most: How many a training field that features the class may hold.
        weight: How often a training field features it, against 1 for most classes.
    """

    draw: Drawer
    radius_um: float
    most: int
    weight: float = 1.0


KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "Muddy brown cast": Kind(casts.muddy_brown, 40, 3, 1.8),
        "Granular cast": Kind(casts.granular, 50, 3, 1.8),
        "Hyaline cast": Kind(casts.hyaline, 60, 3, 1.8),
        "Waxy cast": Kind(casts.waxy, 60, 2, 1.8),
        "Mixed cell cast": Kind(casts.mixed_cell, 50, 2, 1.8),
        "RBC cast": Kind(casts.rbc_cast, 45, 2, 1.8),
        "RBC": Kind(cells.rbc, 3.5, 60, 3.0),
        "WBC": Kind(cells.wbc, 5.5, 30, 3.0),
        "Epithelial cell (squamous)": Kind(cells.squamous, 25, 6, 2.0),
        "Epithelial cell (transitional)": Kind(cells.transitional, 13, 8, 1.3),
        "Suspected atypical cell": Kind(cells.atypical, 15, 6, 1.3),
        "Epithelial cell (renal)": Kind(cells.renal, 9, 10, 1.3),
        "WBC clump": Kind(cells.wbc_clump, 18, 4),
        "Lipid cast": Kind(casts.lipid, 45, 2, 1.8),
        "RBC clump": Kind(cells.rbc_clump, 12, 4),
        "Calcium oxalate": Kind(crystals.calcium_oxalate, 4, 25, 2.0),
        "Amorphous": Kind(crystals.amorphous, 10, 20, 1.3),
        "Triple phosphate": Kind(crystals.triple_phosphate, 17, 8),
        "Uric acid": Kind(crystals.uric_acid, 14, 10),
        "Ammonium biurat": Kind(crystals.ammonium_biurate, 11, 12),
        "Hippuric acid": Kind(crystals.hippuric_acid, 18, 8),
        "Calcium phosphate": Kind(crystals.calcium_phosphate, 14, 10),
        "Cystine": Kind(crystals.cystine, 12, 10),
        "Leucine": Kind(crystals.leucine, 9, 10),
        "Tyrosine crystal": Kind(crystals.tyrosine, 16, 6),
        "Calcium carbonate": Kind(crystals.calcium_carbonate, 3, 30),
        "Cholesterol": Kind(crystals.cholesterol, 25, 4),
        "Bilirubin": Kind(crystals.bilirubin, 6, 15),
        "Bacteria": Kind(microorganisms.bacterium, 1.5, 90, 2.5),
        "Yeast": Kind(microorganisms.yeast, 5, 25, 2.0),
        "Enterobius vermicularis egg": Kind(microorganisms.enterobius_egg, 28, 3),
        "Fungal hyphae": Kind(microorganisms.hyphae, 40, 2, 1.8),
        "Schistosoma haematobium eggs": Kind(microorganisms.schistosoma_egg, 65, 2, 1.8),
        "Trichomonas vaginalis": Kind(microorganisms.trichomonas, 11, 8),
        "Sperm": Kind(others.sperm, 18, 12),
        "Mucus": Kind(others.mucus, 60, 4, 1.8),
        "Fat droplets": Kind(others.fat_droplet, 4, 25),
        "Oval fat bodies": Kind(cells.oval_fat_body, 10, 8),
        "Artifact": Kind(others.artifact, 20, 4, 1.5),
    }
)
"""Every class of `renalcore.taxonomy`, by its name there."""
