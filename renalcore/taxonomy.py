"""The 39 urine-sediment classes of OpenUrine in six groups.

Names, groups, order and descriptions are those of Table 2 of Alizadeh et al., "A multi-head YOLOv12 with
self-supervised pretraining for urinary sediment particle detection" (2025), to the letter ("Ammonium biurat"
included; Lipid cast stands under Cells there). Reporting units follow laboratory custom: cells, crystals and
microorganisms per high-power field, casts, squamous epithelium and mucus per low-power field. LOINC codes are
those of the urine-sediment panel; a class that LOINC does not name has none.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Literal

from renalcore.errors import UnknownName

Unit = Literal["HPF", "LPF"]


class Group(StrEnum):
    """The six super-categories, each with a detection head of its own, in the order shown everywhere."""

    CELLS = "Cells"
    CASTS = "Casts"
    CRYSTALS = "Crystals"
    MICROORGANISMS = "Microorganisms"
    OTHERS = "Others"
    ARTIFACT = "Artifact"


GROUP_COLOURS = MappingProxyType(
    {
        Group.CELLS: "#0072B2",
        Group.CASTS: "#D55E00",
        Group.CRYSTALS: "#009E73",
        Group.MICROORGANISMS: "#CC79A7",
        Group.OTHERS: "#E69F00",
        Group.ARTIFACT: "#56B4E9",
    }
)
"""Okabe-Ito colours, distinguishable with any common colour vision."""


@dataclass(frozen=True, slots=True)
class ParticleClass:
    """One kind of particle a technologist reports.

    Attributes:
        name: The class as Table 2 spells it.
        group: The detection head it belongs to.
        unit: The field that it is usually counted in.
        description: What it is.
        loinc_hpf: LOINC code of its number per high-power field.
        loinc_lpf: LOINC code of its number per low-power field.
        loinc_presence: LOINC code of its presence or grade.
    """

    name: str
    group: Group
    unit: Unit
    description: str
    loinc_hpf: str | None = None
    loinc_lpf: str | None = None
    loinc_presence: str | None = None

    @property
    def colour(self) -> str:
        """The group's colour as `#RRGGBB`; classes of one group are told apart by their labels."""
        return GROUP_COLOURS[self.group]

    def loinc(self, unit: Unit) -> str | None:
        """LOINC code of a result in `unit`: the number's where LOINC has one for that field, else the presence's."""
        return (self.loinc_hpf if unit == "HPF" else self.loinc_lpf) or self.loinc_presence


CLASSES: tuple[ParticleClass, ...] = (
    ParticleClass(
        "Muddy brown cast",
        Group.CASTS,
        "LPF",
        "Brown casts indicating acute tubular necrosis; typically associated with kidney injury.",
    ),
    ParticleClass(
        "Granular cast",
        Group.CASTS,
        "LPF",
        "Cylindrical structures formed from protein and cellular debris, indicating kidney damage.",
        loinc_lpf="5793-5",
        loinc_presence="25160-3",
    ),
    ParticleClass(
        "Hyaline cast",
        Group.CASTS,
        "LPF",
        "Clear, colorless casts formed from protein; may indicate dehydration or kidney disease.",
        loinc_lpf="5796-8",
        loinc_presence="25162-9",
    ),
    ParticleClass(
        "Waxy cast",
        Group.CASTS,
        "LPF",
        "Broad casts indicating chronic renal failure; they appear broad and are formed from degenerated cells.",
        loinc_lpf="5819-8",
        loinc_presence="33862-4",
    ),
    ParticleClass(
        "Mixed cell cast",
        Group.CASTS,
        "LPF",
        "Casts containing various types of cells; their presence can indicate kidney pathology.",
        loinc_lpf="38995-7",
        loinc_presence="34173-5",
    ),
    ParticleClass(
        "RBC cast",
        Group.CASTS,
        "LPF",
        "Casts formed from red blood cells; presence indicates glomerular damage or bleeding within the kidneys.",
        loinc_lpf="5807-3",
        loinc_presence="33804-6",
    ),
    ParticleClass(
        "RBC",
        Group.CELLS,
        "HPF",
        "Red blood cells; their presence in urine (hematuria) can indicate bleeding within the urinary tract.",
        loinc_hpf="13945-1",
        loinc_presence="32776-7",
    ),
    ParticleClass(
        "WBC",
        Group.CELLS,
        "HPF",
        "White blood cells; an increased number (pyuria) suggests infection or inflammation, such "
        "as a urinary tract infection.",
        loinc_hpf="5821-4",
        loinc_presence="20455-2",
    ),
    ParticleClass(
        "Epithelial cell (squamous)",
        Group.CELLS,
        "LPF",
        "Flat cells from the urethra or vaginal lining; usually considered normal unless present in excess.",
        loinc_hpf="11277-1",
        loinc_presence="12258-0",
    ),
    ParticleClass(
        "Epithelial cell (transitional)",
        Group.CELLS,
        "HPF",
        "Cells lining the bladder and ureters; increased numbers may suggest infection, "
        "inflammation, or, rarely, malignancy.",
        loinc_hpf="30089-7",
        loinc_presence="8249-5",
    ),
    ParticleClass(
        "Suspected atypical cell",
        Group.CELLS,
        "HPF",
        "Unusual cells that may require further investigation to rule out malignancy.",
    ),
    ParticleClass(
        "Epithelial cell (renal)",
        Group.CELLS,
        "HPF",
        "Cells originating from the renal tubules; their presence may indicate tubular injury or necrosis.",
        loinc_hpf="26052-1",
        loinc_presence="12248-1",
    ),
    ParticleClass(
        "WBC clump",
        Group.CELLS,
        "HPF",
        "Aggregates of white blood cells; may indicate significant infection or inflammation within the urinary tract.",
        loinc_hpf="46420-6",
    ),
    ParticleClass(
        "Lipid cast",
        Group.CELLS,
        "LPF",
        "Casts containing fat droplets, indicating nephrotic syndrome when present in excess.",
        loinc_lpf="5789-3",
        loinc_presence="25159-5",
    ),
    ParticleClass(
        "RBC clump",
        Group.CELLS,
        "HPF",
        "Aggregates of red blood cells; may indicate significant bleeding or injury within the urinary tract.",
        loinc_hpf="58449-0",
    ),
    ParticleClass(
        "Calcium oxalate",
        Group.CRYSTALS,
        "HPF",
        "Colorless, envelope-shaped (dihydrate) or dumbbell-shaped (monohydrate) crystals; "
        "commonly seen in individuals who consume oxalate-rich foods or have kidney stones.",
        loinc_hpf="25148-8",
        loinc_presence="5774-5",
    ),
    ParticleClass(
        "Amorphous",
        Group.CRYSTALS,
        "HPF",
        "Aggregates of fine granules; amorphous urates appear in acidic urine, while amorphous "
        "phosphates appear in alkaline urine; generally of little clinical significance.",
        loinc_hpf="55368-5",
        loinc_presence="8246-1",
    ),
    ParticleClass(
        "Triple phosphate",
        Group.CRYSTALS,
        "HPF",
        "Coffin-lid shaped crystals; typically found in alkaline urine and associated with urinary tract infections.",
        loinc_hpf="46137-6",
        loinc_presence="5814-9",
    ),
    ParticleClass(
        "Uric acid",
        Group.CRYSTALS,
        "HPF",
        "Yellow to reddish-brown, diamond or barrel-shaped crystals; common in acidic urine and "
        "can be associated with gout or chemotherapy.",
        loinc_hpf="46138-4",
        loinc_presence="5817-2",
    ),
    ParticleClass(
        "Ammonium biurat",
        Group.CRYSTALS,
        "HPF",
        "Yellow-brown, thorn-apple shaped crystals; often found in old or poorly preserved urine samples.",
        loinc_hpf="25144-7",
        loinc_presence="5766-1",
    ),
    ParticleClass(
        "Hippuric acid",
        Group.CRYSTALS,
        "HPF",
        "Colorless or pale yellow needles or prisms; rare and typically of little clinical significance.",
        loinc_hpf="25161-1",
        loinc_presence="5795-0",
    ),
    ParticleClass(
        "Calcium phosphate",
        Group.CRYSTALS,
        "HPF",
        "Colorless, needle-like or rosette formations; typically found in alkaline urine; "
        "generally not clinically significant.",
        loinc_hpf="25149-6",
        loinc_presence="5775-2",
    ),
    ParticleClass(
        "Cystine",
        Group.CRYSTALS,
        "HPF",
        "Colorless, hexagonal plates; indicative of cystinuria, a rare genetic disorder.",
        loinc_hpf="25155-3",
        loinc_presence="5784-4",
    ),
    ParticleClass(
        "Leucine",
        Group.CRYSTALS,
        "HPF",
        "Spherical crystals with concentric rings and radial striations; associated with severe liver disease.",
        loinc_hpf="25163-7",
        loinc_presence="5798-4",
    ),
    ParticleClass(
        "Tyrosine crystal",
        Group.CRYSTALS,
        "HPF",
        "Fine, needle-like crystals; may indicate severe liver disease.",
        loinc_hpf="53119-4",
        loinc_presence="5815-6",
    ),
    ParticleClass(
        "Calcium carbonate",
        Group.CRYSTALS,
        "HPF",
        "Small, colorless granules or dumbbell-shaped crystals; typically found in alkaline urine; "
        "usually not clinically significant.",
        loinc_hpf="25147-0",
        loinc_presence="5773-7",
    ),
    ParticleClass(
        "Cholesterol",
        Group.CRYSTALS,
        "HPF",
        "Large, flat, transparent plates with notched corners; may be seen in nephrotic syndrome.",
        loinc_hpf="25153-8",
        loinc_presence="5777-8",
    ),
    ParticleClass(
        "Bilirubin",
        Group.CRYSTALS,
        "HPF",
        "Yellow to reddish brown, needle-like or granular crystals, associated with liver disorders.",
        loinc_hpf="25146-2",
        loinc_presence="5771-1",
    ),
    ParticleClass(
        "Bacteria",
        Group.MICROORGANISMS,
        "HPF",
        "Their presence, especially in large numbers, suggests a urinary tract infection.",
        loinc_hpf="5769-5",
        loinc_presence="25145-4",
    ),
    ParticleClass(
        "Yeast",
        Group.MICROORGANISMS,
        "HPF",
        "Often appear as budding cells; can indicate a yeast infection, particularly in diabetic patients.",
        loinc_hpf="5822-2",
        loinc_presence="32356-8",
    ),
    ParticleClass(
        "Enterobius vermicularis egg",
        Group.MICROORGANISMS,
        "HPF",
        "Oval-shaped eggs with a characteristic flattened side; indicates pinworm infection, often "
        "due to fecal contamination.",
    ),
    ParticleClass(
        "Fungal hyphae",
        Group.MICROORGANISMS,
        "HPF",
        "Branching filamentous structures; indicate a fungal infection, more common in immunocompromised individuals.",
        loinc_hpf="5790-1",
        loinc_presence="20457-8",
    ),
    ParticleClass(
        "Schistosoma haematobium eggs",
        Group.MICROORGANISMS,
        "HPF",
        "Oval eggs with a terminal spine; indicate schistosomiasis, a parasitic infection affecting the urinary tract.",
    ),
    ParticleClass(
        "Trichomonas vaginalis",
        Group.MICROORGANISMS,
        "HPF",
        "A motile parasite; its presence indicates trichomoniasis, a sexually transmitted infection.",
        loinc_hpf="33905-1",
        loinc_presence="5813-1",
    ),
    ParticleClass(
        "Sperm",
        Group.OTHERS,
        "HPF",
        "May be present in urine after ejaculation; typically not clinically significant.",
        loinc_presence="8248-7",
    ),
    ParticleClass(
        "Mucus",
        Group.OTHERS,
        "LPF",
        "Thread-like structures; generally not clinically significant but can be confused with casts.",
        loinc_lpf="28545-2",
        loinc_presence="8247-9",
    ),
    ParticleClass(
        "Fat droplets",
        Group.OTHERS,
        "HPF",
        "Free-floating droplets; indicate lipiduria, often associated with nephrotic syndrome.",
    ),
    ParticleClass(
        "Oval fat bodies",
        Group.OTHERS,
        "HPF",
        "Renal tubular cells filled with fat droplets; suggestive of nephrotic syndrome.",
        loinc_hpf="5788-5",
        loinc_presence="25158-7",
    ),
    ParticleClass(
        "Artifact",
        Group.ARTIFACT,
        "HPF",
        "Any foreign substance or error that does not represent actual urine components.",
    ),
)
"""Table 2, in its order; a class id is an index into this tuple."""

NAMES: tuple[str, ...] = tuple(particle.name for particle in CLASSES)
_IDS = MappingProxyType({name: index for index, name in enumerate(NAMES)})


def class_id(name: str) -> int:
    """Index of the class called `name`.

    Raises:
        UnknownName: No class has that name.
    """
    try:
        return _IDS[name]
    except KeyError:
        raise UnknownName(
            f"{name!r} is not one of the 39 sediment classes, which `renalcore models sediment-multihead-n` lists"
        ) from None


def particle(name: str) -> ParticleClass:
    """The class called `name`; raises `UnknownName` if there is none."""
    return CLASSES[class_id(name)]


def ids_of(group: Group) -> tuple[int, ...]:
    """Ids of the classes of `group`, ascending."""
    return tuple(index for index, kind in enumerate(CLASSES) if kind.group is group)
