"""The files that `predict ct` writes for a scan: labels on its own grid, figures, lesions, and surfaces on demand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from renalcore.ct.kidneys import SITES, Site
from renalcore.ct.measure import RENAL_NOTE, sites
from renalcore.ct.predict import Found
from renalcore.ct.steps import LABELS
from renalcore.export.ct import kidneys_to_csv, lesions_to_csv
from renalcore.export.figures import plain, write_json
from renalcore.io.volume import Volume, write_labels
from renalcore.models import ModelCard

if TYPE_CHECKING:
    from pydicom import Dataset

SEG: Final = "labels.dcm"
"""What the DICOM SEG of a scan is called."""

_NATIVE: Final[tuple[Site, ...]] = ("right", "left")
"""Told of every scan; any other site only where a kidney lies there."""


def write(folder: Path, found: Found, volume: Volume, *, card: ModelCard, name: str, seconds: float) -> None:
    """Write `labels.nii.gz`, `summary.json`, `lesions.csv` and `kidneys.csv`.

    A DICOM SEG and surfaces that lie in the folder from before are removed: they are of another search.

    Args:
        folder: Where to; it exists.
        found: What was found.
        volume: The scan.
        card: The model that found it.
        name: What the input is called.
        seconds: From opening its files to the labels.
    """
    from renalcore.export import meshes

    for left in (SEG, *(f"{surface}.stl" for surface in meshes.NAMES)):
        (folder / left).unlink(missing_ok=True)
    write_labels(folder / "labels.nii.gz", found.labels, volume)
    (folder / "lesions.csv").write_bytes(lesions_to_csv(name, found.measures))
    (folder / "kidneys.csv").write_bytes(kidneys_to_csv(name, found.measures))
    write_json(folder / "summary.json", plain(_figures(found, volume, card=card, name=name, seconds=seconds)))


def write_surfaces(folder: Path, found: Found, volume: Volume) -> list[Path]:
    """Write a binary STL in LPS mm for each label and site that holds something, `kidney-right.stl` for instance."""
    from renalcore.export.meshes import surfaces, to_stl

    written = []
    for name, surface in surfaces(found.labels, sites(found.labels, volume.affine, hu=volume.hu), volume.affine):
        path = folder / f"{name}.stl"
        path.write_bytes(to_stl(surface, name=name))
        written.append(path)
    return written


def write_seg(folder: Path, found: Found, volume: Volume, headers: Sequence[Dataset], *, card: ModelCard) -> None:
    """Write `labels.dcm`, a DICOM SEG that refers to the series that was read.

    Args:
        folder: Where to; it exists.
        found: What was found; it holds something.
        volume: The scan.
        headers: Those of its slices, as `slice_headers` gives them.
        card: The model that found it.

    Raises:
        InputError: The series cannot be referred to.
    """
    from renalcore import __version__
    from renalcore.export.dicom_seg import dicom_seg

    content = dicom_seg(
        found.labels,
        sites(found.labels, volume.affine, hu=volume.hu),
        volume.affine,
        headers,
        algorithm=card.key,
        version=__version__,
        reviewed=False,
    )
    (folder / SEG).write_bytes(content)


def _figures(found: Found, volume: Volume, *, card: ModelCard, name: str, seconds: float) -> dict[str, Any]:
    measures = found.measures
    told = [*_NATIVE, *(site for site in SITES if site not in _NATIVE and _lies(found, site))]
    lesions = {organ: [each for each in measures.lesions if each.label == organ] for organ in ("tumour", "cyst")}
    totals = {organ: np.count_nonzero(found.labels == label) * volume.voxel_ml for label, organ in LABELS.items()}
    return {
        "file_name": name,
        "model": card.key,
        "weights_sha256": card.sha256,
        "shape": list(volume.shape),
        "spacing_mm": list(volume.spacing_mm),
        "phase": volume.phase or None,
        "flags": [flag.message for flag in volume.flags],
        "found": found.words,
        "ml": {
            **{site: {organ: measures.volume_ml(site, label) for label, organ in LABELS.items()} for site in told},
            "total": totals,
        },
        "largest_diameter_mm": {
            organ: {
                "axial": max(each.axial_diameter_mm for each in some),
                "any_direction": max(each.diameter_mm for each in some),
            }
            if some
            else None
            for organ, some in lesions.items()
        },
        "kidneys": [asdict(kidney) for kidney in measures.kidneys],
        "lesions": [asdict(lesion) for lesion in measures.lesions],
        "side_from": measures.side_from,
        "renal_note": RENAL_NOTE,
        "seconds": seconds,
        "seconds_of": dict(found.seconds),
        "note": "For research use only. Not for use in diagnostic procedures.",
    }


def _lies(found: Found, site: Site) -> bool:
    return any(kidney.site == site for kidney in found.measures.kidneys)
