"""What other data sets call the 39 classes, and how a name of theirs becomes one of ours.

A name is compared by its words: case, accents, plurals, the order of the words and what stands between them (blanks,
underscores, hyphens, brackets, capitals inside a word) make no difference, and the word "crystal" may be there or not.
What is left open by that is told by `SYNONYMS`. A name that fits several classes ("cast", "crystal", "fungus") is no
synonym of any: only the owner of the data knows, and says so in a mapping file.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from renalcore import taxonomy
from renalcore.datasets.words import mapped_names, words

IGNORE: Final = len(taxonomy.CLASSES)
"""Class id of a region where nothing is known."""

SYNONYMS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "Muddy brown cast": ("muddy brown granular cast", "muddy cast"),
        "Granular cast": ("granular", "coarse granular cast", "fine granular cast"),
        "Hyaline cast": ("hyaline",),
        "Waxy cast": ("waxy",),
        "Mixed cell cast": ("mixed cast", "mixed cellular cast", "cellular cast"),
        "RBC cast": ("red blood cell cast", "red cell cast", "erythrocyte cast"),
        "RBC": (
            "red blood cell", "red cell", "erythrocyte", "eryth", "ery", "broken erythrocyte",
            "dysmorphic RBC", "isomorphic RBC", "crenated RBC", "dysmorphic erythrocyte", "isomorphic erythrocyte",
        ),
        "WBC": (
            "white blood cell", "white cell", "leukocyte", "leucocyte", "leuko", "leuk", "pus cell",
            "broken leukocyte", "broken leucocyte",
        ),
        "Epithelial cell (squamous)": (
            "squamous", "squamous cell", "squamous epithelial", "squamous epithelium", "epithelial", "epithelial cell",
            "epithelium", "epithelia", "epith", "epi", "SEC",
        ),
        "Epithelial cell (transitional)": (
            "transitional", "transitional cell", "transitional epithelial", "transitional epithelium",
            "urothelial cell", "urothelial",
        ),
        "Suspected atypical cell": ("atypical", "atypical cell", "suspicious cell"),
        "Epithelial cell (renal)": (
            "renal epithelial", "renal epithelium", "renal tubular epithelial cell", "renal tubular epithelial",
            "renal tubular cell", "tubular epithelial cell", "tubular cell", "renal cell", "RTE", "RTEC",
        ),
        "WBC clump": (
            "WBC cluster", "white blood cell clump", "white blood cell cluster", "leukocyte clump",
            "leukocyte cluster", "leucocyte clump", "leucocyte cluster", "white cell clump",
        ),
        "Lipid cast": ("fatty cast", "fat cast"),
        "RBC clump": (
            "RBC cluster", "red blood cell clump", "red blood cell cluster", "erythrocyte clump", "erythrocyte cluster",
            "red cell clump",
        ),
        "Calcium oxalate": (
            "CaOx", "Ca oxalate", "oxalate", "calcium oxalate monohydrate", "calcium oxalate dihydrate",
            "calcium oxalate mono", "calcium oxalate di", "CaOx monohydrate", "CaOx dihydrate", "CaOx mono", "CaOx di",
            "CaOxm", "CaOxd", "whewellite", "weddellite",
        ),
        "Amorphous": (
            "amorph", "amorphous urate", "amorphous phosphate", "amorphous salt", "amorphous sediment",
            "amorphous material", "amorphous deposit",
        ),
        "Triple phosphate": ("struvite", "magnesium ammonium phosphate"),
        "Uric acid": ("uric",),
        "Ammonium biurat": ("ammonium biurate", "ammonium urate", "biurate"),
        "Hippuric acid": ("hippuric",),
        "Calcium phosphate": ("Ca phosphate", "CaPhos", "brushite"),
        "Cystine": ("cystin",),
        "Leucine": ("leucin",),
        "Tyrosine crystal": ("tyrosine", "tyrosin"),
        "Calcium carbonate": ("Ca carbonate", "CaCO3"),
        "Cholesterol": ("cholesterin",),
        "Bilirubin": (),
        "Bacteria": ("bacterium", "bact", "bacilli", "bacillus", "cocci", "coccus", "rod bacteria", "germ"),
        "Yeast": ("yeast cell", "budding yeast", "mycete", "candida", "blastospore"),
        "Enterobius vermicularis egg": (
            "Enterobius vermicularis", "Enterobius vermicularis ova", "Enterobius egg", "E vermicularis egg",
            "pinworm egg", "pinworm", "oxyuris egg",
        ),
        "Fungal hyphae": ("hyphae", "hypha", "fungal hypha", "pseudohyphae", "pseudohypha", "mycelium"),
        "Schistosoma haematobium eggs": (
            "Schistosoma haematobium", "Schistosoma hematobium egg", "Schistosoma egg", "Schistosoma",
            "S haematobium egg", "Schistosoma haematobium ova",
        ),
        "Trichomonas vaginalis": ("trichomonas", "T vaginalis", "trichomonad"),
        "Sperm": ("spermatozoa", "spermatozoon", "spermatozoid", "sperm cell"),
        "Mucus": ("mucus thread", "mucus strand", "mucous", "mucous thread", "mucous strand", "mucin"),
        "Fat droplets": ("fat", "fat drop", "fat globule", "lipid droplet", "lipid"),
        "Oval fat bodies": ("OFB",),
        "Artifact": (
            "artefact", "air bubble", "bubble", "fiber", "fibre", "starch", "starch granule", "pollen", "dust",
        ),
    }
)  # fmt: skip
"""Other names of each class, in common use by laboratories and published data sets."""

REGIONS: Final = ("ignore", "ignored", "dont care", "don't care", "other", "unknown", "unidentified", "unclassified")
"""Names of boxes that say that something is there, not what: read as regions where nothing is known."""


def _forms(name: str) -> tuple[str, ...]:
    """What a name is compared by: its words run together, then sorted; then both without the word "crystal"."""
    said = words(name)
    bare = tuple(word for word in said if word != "crystal") or said
    return ("".join(said), " ".join(sorted(said)), "".join(bare), " ".join(sorted(bare)))


def _known_forms() -> dict[str, int]:
    forms = {form: IGNORE for name in REGIONS for form in _forms(name)}
    for class_id, name in enumerate(taxonomy.NAMES):
        forms |= dict.fromkeys((form for other in (name, *SYNONYMS[name]) for form in _forms(other)), class_id)
    return forms


_CLASS_OF_FORM: Final = MappingProxyType(_known_forms())


def class_called(name: str) -> int | None:
    """Class id of a name used by other data, `IGNORE` for a region where nothing is known, None if nobody knows it."""
    return next((_CLASS_OF_FORM[form] for form in _forms(name) if form in _CLASS_OF_FORM), None)


def nearest(name: str, *, count: int = 3) -> tuple[str, ...]:
    """The classes whose names look most like `name`, for a message; empty if none does."""
    lowered = {known.lower(): known for known in taxonomy.NAMES}
    alike = difflib.get_close_matches(name.lower(), lowered, count, 0.7)
    sharing = [known for known in taxonomy.NAMES if set(words(name)) & set(words(known))]
    return tuple(dict.fromkeys([*(lowered[match] for match in alike), *sharing]))[:count]


def read_mapping(path: Path) -> dict[str, int]:
    """A user's own mapping: a CSV file of two columns, the name in the data and one of the 39 names or `ignore`.

    Returns:
        Class ids, or `IGNORE`, by the name in the data.

    Raises:
        InputError: It is no CSV, a class is unknown, or a name is mapped twice to different classes.
        OSError: It cannot be opened.
    """

    def unknown(target: str) -> str:
        hint = f"; do you mean {' or '.join(nearest(target))}?" if nearest(target) else ""
        return f"{target!r} is neither one of the 39 classes nor `ignore`{hint}"

    return mapped_names(path, class_called, unknown=unknown, what="class")
