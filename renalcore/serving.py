"""The models of all wings, loaded once and asked by many: what a worker cares for, and no more.

Here is the one place that says how a loaded model of a wing is asked, so that whoever asks needs no wing's own classes,
and a test can pass others through the same door.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from renalcore import models
from renalcore.ct.predict import Crops, Found, KidneyModel
from renalcore.ct.steps import StepName
from renalcore.histology.tiles import Block, BlockResult
from renalcore.io.slide import Slide
from renalcore.io.volume import Volume
from renalcore.types import Detections, Field


@dataclass(frozen=True, slots=True)
class Detector:
    """A loaded model of fields.

    Attributes:
        predict: Finds every object in one field, in px of that field; called from several threads.
        device: What runs it, in words.
        weights_sha256: Digest of the weights it was loaded with.
        calibration_sha256: Digest of what makes its scores probabilities; empty where they are the network's own.
    """

    predict: Callable[[Field], Detections]
    device: str
    weights_sha256: str
    calibration_sha256: str = ""


@dataclass(frozen=True, slots=True)
class Searcher:
    """A loaded model of slides.

    Attributes:
        blocks: How a slide of some species is searched; one without tissue has one block without tiles.
        results: What the network says of some blocks of a slide, one after the other. It may read ahead; nothing
            reads from the slide once the generator is closed. Called from several threads.
        device: What runs it, in words.
        weights_sha256: Digest of the weights it was loaded with.
    """

    blocks: Callable[[Slide, str], Sequence[Block]]
    results: Callable[[Slide, Sequence[Block]], Generator[BlockResult, None, None]]
    device: str
    weights_sha256: str


@dataclass(frozen=True, slots=True)
class Segmenter:
    """A loaded model of CT scans.

    Attributes:
        steps: What is done one after the other: each takes the volume and what the step before gave, the first nothing.
        finish: Labels and measures from what the last step gave, with the seconds of the steps by their names.
        device: What runs it, in words.
        weights_sha256: Digest of the weights it was loaded with.
    """

    steps: Mapping[StepName, Callable[[Volume, Crops], Crops]]
    finish: Callable[[Volume, Crops, Mapping[str, float]], Found]
    device: str
    weights_sha256: str


@dataclass(frozen=True, slots=True)
class Explainer:
    """What draws heat maps with a model of fields.

    Attributes:
        draw: Where the evidence for some boxes of one class lies: a PNG as large as the field, or None where there is
            no heat at all; called from several threads.
        classes: The classes of the model, in its order.
        min_score_of: The lowest score of a class that the model reports.
        weights_sha256: Digest of the weights it was loaded with.
    """

    draw: Callable[[Field, Detections], bytes | None]
    classes: tuple[str, ...]
    min_score_of: Callable[[str], float]
    weights_sha256: str


@dataclass(frozen=True, slots=True)
class Models:
    """How the model of a key is loaded, by what it is to do. Each takes seconds, and the caller keeps what it gives.

    All raise ModelError or UnknownName where they cannot load it; `explainer` also where it has no heat maps.
    """

    detector: Callable[[str], Detector]
    searcher: Callable[[str], Searcher]
    segmenter: Callable[[str], Segmenter]
    explainer: Callable[[str], Explainer]


def registered(device: str, *, root: Path = models.WEIGHTS) -> Models:
    """The models of the registry.

    Args:
        device: Where they run, as `renalcore.engine.devices.choose` takes it.
        root: Folder of the models.
    """
    # The INT8 form is one of the models of fields; the same CPU runs the others as they are.
    without_int8 = "openvino" if device == "openvino-int8" else device

    def detector(key: str) -> Detector:
        from renalcore.sediment.predict import SedimentDetector

        loaded = SedimentDetector.load(key, device=device, root=root)
        return Detector(loaded.predict, str(loaded.device), loaded.card.sha256, loaded.card.calibration_sha256)

    def searcher(key: str) -> Searcher:
        from renalcore.histology.predict import GlomerulusModel

        loaded = GlomerulusModel.load(key, device=without_int8, root=root)
        return Searcher(
            lambda slide, species: loaded.blocks(slide, species=species),
            loaded.results,
            str(loaded.device),
            loaded.card.sha256,
        )

    def segmenter(key: str) -> Segmenter:
        loaded = KidneyModel.load(key, device=without_int8, root=root)
        return Segmenter(
            {"rough": lambda volume, _nothing: loaded.rough(volume), "kidney": loaded.refine, "lesion": loaded.lesions},
            lambda volume, crops, seconds: loaded.finish(volume, crops, seconds=seconds),
            str(loaded.device),
            loaded.card.sha256,
        )

    def explainer(key: str) -> Explainer:
        from renalcore.sediment import explain

        # Where OpenVINO searches, torch explains: OpenVINO computes no gradients.
        loaded = explain.Explainer.load(key, device="auto" if device.startswith("openvino") else device, root=root)

        def draw(field: Field, found: Detections) -> bytes | None:
            (of_class,) = loaded.explain(field, found).classes
            return explain.png(of_class.heat) if of_class.heat.any() else None

        return Explainer(draw, loaded.card.classes, loaded.card.min_score_of, loaded.card.sha256)

    return Models(detector, searcher, segmenter, explainer)
