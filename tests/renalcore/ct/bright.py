"""Bodies whose tissues are told by their HU alone, and the 'networks' of the three steps that see just those."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import numpy as np
from scipy import ndimage

from renalcore.ct.predict import KidneyModel
from renalcore.ct.steps import STEPS
from renalcore.engine.devices import Device
from renalcore.io.volume import Volume
from renalcore.models import InputScale, ModelCard, file_entries, write_card

BODY, KIDNEY, TUMOUR, CYST = -250, 500, 1500, 0
"""HU. Half way from one to the next is the border of two tissues, whatever the voxels that it lies in."""

Ellipsoid = tuple[tuple[float, float, float], tuple[float, float, float]]
"""Middle and half axes in mm along the head, back and left of the patient."""


class TellsByHU:
    """A back end for one step; `shapes` are those that it was shown."""

    def __init__(self, step: str) -> None:
        self.step = step
        self.shapes: list[tuple[int, ...]] = []

    def run(self, volumes: np.ndarray) -> tuple[np.ndarray, ...]:
        self.shapes.append(volumes.shape)
        (hu,) = volumes
        found = np.zeros(hu.shape, np.uint8)
        seen = hu > ((BODY + KIDNEY) / 2 if self.step != "lesion" else -1000)
        for box in ndimage.find_objects(seen.astype(np.uint8)):
            if self.step != "lesion":  # a cyst inside is left out
                found[box] = seen[box]
            else:
                core = ndimage.binary_erosion(seen[box], iterations=3)
                tumour, cyst = hu[box] > (KIDNEY + TUMOUR) / 2, core & (hu[box] < (KIDNEY + CYST) / 2)
                found[box] = np.where(tumour, 1, np.where(cyst, 2, 0))
        return (found[None],)


def model() -> KidneyModel:
    """A model of the three of them."""
    steps = {"rough": TellsByHU("rough"), "kidney": TellsByHU("kidney"), "lesion": TellsByHU("lesion")}
    return KidneyModel(card(), steps, Device("cpu", 1))


def card(**changes: object) -> ModelCard:
    """Its card."""
    values: dict[str, object] = {
        "key": "bright", "title": "Bright kidneys", "modality": "ct", "task": "segmentation",
        "classes": ("kidney", "tumour", "cyst"), "validated_classes": (), "input": InputScale(128, 0.0),
        "min_score": 0.5, "weights": "bright.safetensors", "sha256": "0" * 64, "bytes": 1, "architecture": "thresholds",
        "scale": "4", "training_data": (), "figures": (), "intended_use": "tests", "limits": (),
        "date": date(2026, 1, 1), "network": "unet3d",
    }  # fmt: skip
    return ModelCard(**{**values, **changes})  # type: ignore[arg-type]


def install(folder: Path) -> Path:
    """A folder of models in `folder`, with one called `bright` whose weights are random."""
    import torch  # what shares this file with the worker's tests starts without it

    from renalcore.ct.networks import build_network, save_networks

    root = folder / "models"
    (root / "bright").mkdir(parents=True)
    torch.manual_seed(0)
    weights = root / "bright" / "ct.safetensors"
    save_networks({step: build_network("unet3d", step, width=4) for step in STEPS}, weights)
    write_card(card(**file_entries(weights)), root / "bright")
    return root


def body(
    kidneys: list[Ellipsoid],
    *,
    tumours: list[Ellipsoid] = [],  # noqa: B006 (never changed)
    cysts: list[Ellipsoid] = [],  # noqa: B006
    shape: tuple[int, int, int] = (60, 60, 80),
    spacing_mm: tuple[float, float, float] = (5.0, 4.0, 4.0),
) -> tuple[Volume, np.ndarray]:
    """A box of body with air around it, and its true labels; axial slices from the feet, (0, 0, 0) in the middle."""
    hu, labels = np.full(shape, BODY, np.int16), np.zeros(shape, np.uint8)
    hu[:, :3], hu[:, -3:] = -1000, -1000
    z, y, x = np.meshgrid(
        *((np.arange(n) - (n - 1) / 2) * mm for n, mm in zip(shape, spacing_mm, strict=True)), indexing="ij"
    )
    for tissue, label, ellipsoids in ((KIDNEY, 1, kidneys), (TUMOUR, 2, tumours), (CYST, 3, cysts)):
        for (cz, cy, cx), (rz, ry, rx) in ellipsoids:
            inside = ((z - cz) / rz) ** 2 + ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < 1
            hu[inside], labels[inside] = tissue, label
    affine = np.diag([*spacing_mm[::-1], 1.0])
    affine[:3, 3] = [-(n - 1) / 2 * mm for n, mm in zip(shape[::-1], spacing_mm[::-1], strict=True)]
    return Volume(hu, affine), labels


RIGHT: Ellipsoid = ((0, 30, -64), (50, 26, 26))
LEFT: Ellipsoid = ((10, 30, 64), (50, 26, 26))
