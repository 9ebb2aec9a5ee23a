"""The registry: one `ModelCard` a model, read from `renalcore/weights/KEY/card.json`.

A model is added by adding its folder: `card.json` and the weights it names, as safetensors. Nothing is downloaded,
nothing is replaced by another model, and weights that differ from their card by one bit are refused. This module
imports no heavy library, so that a page or `python -m renalcore models` can list the models at once.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Literal, get_args

from renalcore.errors import ModelError, UnknownName

Modality = Literal["sediment", "histology", "ct"]

WEIGHTS = Path(os.environ.get("RENAL_MODELS") or Path(__file__).parent / "weights").resolve()
"""The folder of the models: `RENAL_MODELS`, or else of those that come with RenalCore."""


@dataclass(frozen=True, slots=True)
class InputScale:
    """How a picture is cut before the network sees it.

    Attributes:
        slice_px: Side of a slice in px.
        overlap: Share of a slice that it has in common with its neighbour.
        um_per_px: Micrometres a pixel of what the network is shown, to which a human slide of known scale is brought.
            None where pictures are shown as they are.
        object_px: Least and greatest diameter, in px of what the network is shown, of the objects it was trained
            with; the zoom of a picture without a scale is sought within it.

    Raises:
        ValueError: The scale or the diameters are not positive, or not in order.
    """

    slice_px: int
    overlap: float
    um_per_px: float | None = None
    object_px: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.um_per_px is not None and not 0 < self.um_per_px < float("inf"):
            raise ValueError(f"um_per_px must be positive, got {self.um_per_px}")
        if self.object_px is not None:
            least, greatest = self.object_px
            if not 0 < least <= greatest < float("inf"):
                raise ValueError(f"object_px must be a least and a greatest diameter, got {self.object_px}")
            object.__setattr__(self, "object_px", (least, greatest))  # JSON knows lists only


@dataclass(frozen=True, slots=True)
class TrainingData:
    """One source of pictures a model was trained on.

    Attributes:
        name: The data set.
        licence: Its licence or terms, in the source's own words.
        images: Number of pictures used.
        note: What else a reader must know, e.g. which classes it holds.
    """

    name: str
    licence: str
    images: int
    note: str = ""


@dataclass(frozen=True, slots=True)
class HeldOutFigure:
    """One measured figure, with what measured it.

    Attributes:
        name: What was measured, e.g. `AP50 RBC`.
        value: The result.
        on: The pictures it was measured on, none of which were trained on.
        command: The command that gives the figure again.
    """

    name: str
    value: float
    on: str
    command: str


@dataclass(frozen=True, slots=True)
class Calibration:
    """What turns the network's scores of one class into probabilities, see `renalcore.sediment.calibration`.

    Attributes:
        slope: Of the score's logit; positive, so that no box overtakes another.
        intercept: Added to it.
        boxes: Counted boxes that it was fitted on.
        pooled: Fitted on the boxes of all validated classes, since those of this class were too few.

    Raises:
        ValueError: The slope is not positive.
    """

    slope: float
    intercept: float
    boxes: int
    pooled: bool = False

    def __post_init__(self) -> None:
        if not self.slope > 0:  # also refuses nan
            raise ValueError(f"the slope of a calibration must be positive, got {self.slope}")


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What a reader must know before a model's answers may be used.

    Attributes:
        key: Its name on the command line and in the database.
        title: Its name for people.
        modality: The wing it belongs to.
        task: What it does, e.g. `detection`.
        classes: Names of the classes in the order of the network's outputs.
        validated_classes: Those of them with held-out figures on real pictures.
        input: How a picture is cut.
        min_score: Score below which a finding is not reported: one number, or one for each class.
        weights: File name of the weights, beside the card.
        sha256: Of the weights file.
        bytes: Size of the weights file.
        architecture: The network.
        scale: Size of the network, e.g. `n`.
        training_data: What it was trained on.
        figures: Held-out figures.
        intended_use: What it is for.
        limits: What it is known not to do.
        date: Day the weights were made.
        network: The code that the weights belong to, where its wing has several, e.g. `multihead` or `retinanet`.
        calibration: By class, what makes its scores probabilities; `min_score` is on the scale of the result. The
            scores of a class without it are the network's own.

    Raises:
        ValueError: A value contradicts another one or leaves its range.
    """

    key: str
    title: str
    modality: Modality
    task: str
    classes: tuple[str, ...]
    validated_classes: tuple[str, ...]
    input: InputScale
    min_score: float | Mapping[str, float]
    weights: str
    sha256: str
    bytes: int
    architecture: str
    scale: str
    training_data: tuple[TrainingData, ...]
    figures: tuple[HeldOutFigure, ...]
    intended_use: str
    limits: tuple[str, ...]
    date: date
    network: str = "multihead"
    calibration: Mapping[str, Calibration] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.modality not in get_args(Modality):
            raise ValueError(f"modality must be one of {', '.join(get_args(Modality))}, got {self.modality!r}")
        named = set(self.validated_classes) | set(self.calibration)
        if isinstance(self.min_score, Mapping):
            named |= set(self.min_score)
            if missing := set(self.classes) - set(self.min_score):
                raise ValueError(f"min_score lacks the classes {', '.join(sorted(missing))}")
        if strangers := named - set(self.classes):
            raise ValueError(f"{', '.join(sorted(strangers))}: not among the model's classes")
        if Path(self.weights).name != self.weights or not self.weights.endswith(".safetensors"):
            raise ValueError(f"weights must be the base name of a .safetensors file, got {self.weights!r}")
        if not 0 <= self.input.overlap < 1 or self.input.slice_px < 32:
            raise ValueError(f"slices need at least 32 px and an overlap in 0..1, got {self.input}")

    @property
    def unvalidated_classes(self) -> tuple[str, ...]:
        """Classes the network knows of which no held-out figure on real pictures exists."""
        return tuple(name for name in self.classes if name not in self.validated_classes)

    @property
    def calibration_sha256(self) -> str:
        """Digest of the calibration, empty without one: scores of two are never to be compared."""
        if not self.calibration:
            return ""
        told = {name: dataclasses.astuple(found) for name, found in self.calibration.items()}
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()

    def min_score_of(self, class_name: str) -> float:
        """Score from which a finding of `class_name` is reported."""
        return self.min_score[class_name] if isinstance(self.min_score, Mapping) else self.min_score

    def to_json(self) -> str:
        """The text of `card.json`."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        plain = {
            **values,
            "input": {name: value for name, value in dataclasses.asdict(self.input).items() if value is not None},
            "min_score": dict(self.min_score) if isinstance(self.min_score, Mapping) else self.min_score,
            "training_data": [dataclasses.asdict(entry) for entry in self.training_data],
            "figures": [dataclasses.asdict(figure) for figure in self.figures],
            "date": self.date.isoformat(),
            "calibration": {name: dataclasses.asdict(found) for name, found in self.calibration.items()},
        }
        return json.dumps(plain, indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> ModelCard:
        """The card that `to_json` wrote.

        Raises:
            ModelError: An entry is missing, unknown or out of range.
        """
        try:
            plain: dict[str, Any] = json.loads(text)
            return cls(
                **{
                    **plain,
                    "classes": tuple(plain["classes"]),
                    "validated_classes": tuple(plain["validated_classes"]),
                    "input": InputScale(**plain["input"]),
                    "training_data": tuple(TrainingData(**entry) for entry in plain["training_data"]),
                    "figures": tuple(HeldOutFigure(**figure) for figure in plain["figures"]),
                    "limits": tuple(plain["limits"]),
                    "date": date.fromisoformat(plain["date"]),
                    "calibration": {name: Calibration(**found) for name, found in plain.get("calibration", {}).items()},
                }
            )
        except (ValueError, TypeError, KeyError) as error:
            raise ModelError(f"not a model card: {error}") from error


def all_cards(root: Path = WEIGHTS) -> tuple[ModelCard, ...]:
    """The cards of every model in `root`, by key.

    Raises:
        ModelError: A card cannot be read, or its key is not the name of its folder.
    """
    return tuple(_read(path) for path in sorted(root.glob("*/card.json")))


def card(key: str, root: Path = WEIGHTS) -> ModelCard:
    """The card of the model called `key`.

    Raises:
        UnknownName: There is no such model; the message lists the known ones.
        ModelError: Its card cannot be read.
    """
    paths = {path.parent.name: path for path in root.glob("*/card.json")}
    if key not in paths:
        known = ", ".join(sorted(paths)) or f"none, for {root} holds no KEY/card.json"
        raise UnknownName(f"{key!r} is not the key of a model; known models: {known}")
    return _read(paths[key])


def weights_path(card: ModelCard, root: Path = WEIGHTS) -> Path:
    """Where the weights of `card` lie, after their sha256 has been checked.

    Raises:
        ModelError: The file is missing, or not the one the card was written for.
    """
    path = root / card.key / card.weights
    if not path.is_file():
        raise ModelError(f"the weights of {card.key} are missing: put {card.weights} into {path.parent}")
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != card.sha256:
        raise ModelError(
            f"the weights of {card.key} were altered: {path} has sha256 {found}, its card says {card.sha256}. "
            "Restore the file from the release it came with."
        )
    return path


def write_card(card: ModelCard, folder: Path) -> None:
    """Write `folder/card.json`, never half of it."""
    partial = folder / ".card.json.partial"
    partial.write_text(card.to_json(), encoding="utf-8")
    partial.replace(folder / "card.json")


def file_entries(weights: Path) -> dict[str, Any]:
    """What a card says of its weights file: `weights`, `sha256` and `bytes`."""
    content = weights.read_bytes()
    return {"weights": weights.name, "sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}


def _read(path: Path) -> ModelCard:
    try:
        found = ModelCard.from_json(path.read_text(encoding="utf-8"))
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    if found.key != path.parent.name:
        raise ModelError(f"{path}: the key {found.key!r} must be the name of its folder, {path.parent.name!r}")
    return found
