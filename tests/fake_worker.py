"""The real worker with a model that needs no weights: `python tests/fake_worker.py --calls FILE [...]`.

It finds one erythrocyte in every field and the dark discs of drawn slides (`slide_files.a_section`), draws a heat map
of one byte, notes each call, and misbehaves on request.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import worker
from renalcore.errors import ModelError
from renalcore.histology.tiles import Block, BlockResult
from renalcore.io.slide import Slide
from renalcore.types import Detections, Field
from tests.renalcore.histology import discs

WEIGHTS_SHA256 = "f" * 64


def noted(options: argparse.Namespace, call: str, name: str) -> None:
    """Note a call of a model, take the time it takes, and misbehave where that is asked for."""
    with options.calls.open("a") as calls:  # one short line: atomic among processes
        calls.write(f"{os.getpid()} {call}\n")
    if options.die_at == call:
        os._exit(9)
    if options.fail_while.exists():
        raise RuntimeError(f"the fake fails on {name}")
    time.sleep(options.seconds)


def detector_for(options: argparse.Namespace) -> worker.DetectorFor:
    """What takes the place of the registry: any key gives the same fake."""

    def predict(field: Field) -> Detections:
        noted(options, field.name, field.name)
        box = np.array([[1, 1, 9, 9]], np.float32)
        return Detections(box, np.array([0.9], np.float32), np.array([0]), ("RBC",))

    def load(key: str) -> worker.Detector:
        if options.no_model:
            raise ModelError(f"The weights of {key} are missing. Ask IT to install them again.")
        return worker.Detector(predict, "no device at all", options.weights_sha256)

    return load


def searcher_for(options: argparse.Namespace) -> worker.SearcherFor:
    """The whole model of slides around a 'network' that sees dark discs; some blocks a slide."""
    model = discs.model()

    def blocks(slide: Slide) -> Sequence[Block]:
        noted(options, f"plan of {slide.name}", slide.name)
        return model.blocks(slide, block_tiles=3)

    def results(slide: Slide, of: Sequence[Block]) -> Generator[BlockResult, None, None]:
        with closing(model.results(slide, of)) as coming:
            for block in of:
                noted(options, f"row {block.first_row} of {slide.name}", slide.name)
                yield next(coming)

    def load(key: str) -> worker.Searcher:
        if options.no_model:
            raise ModelError(f"The weights of {key} are missing. Ask IT to install them again.")
        return worker.Searcher(blocks, results, "no device at all", options.weights_sha256)

    return load


def explainer_for(options: argparse.Namespace) -> worker.ExplainerFor:
    """The fake's heat maps: the number of boxes as a byte."""

    def draw(field: Field, found: Detections) -> bytes | None:
        with options.calls.open("a") as calls:
            calls.write(f"{os.getpid()} heat of {field.name}\n")
        if options.die_at == f"heat of {field.name}":
            os._exit(9)
        return bytes([len(found)])

    return lambda _key: worker.Explainer(draw, ("RBC",), lambda _class_name: 0.5, options.weights_sha256)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--calls", type=Path, required=True)
    parser.add_argument("--name")
    parser.add_argument("--concurrency", type=int, default=2)
    parser.add_argument("--parent", type=int)
    parser.add_argument("--seconds", type=float, default=0.02)
    parser.add_argument("--die-at")
    parser.add_argument("--fail-while", type=Path, default=Path("/no/such/file"))
    parser.add_argument("--no-model", action="store_true")
    parser.add_argument("--weights-sha256", default=WEIGHTS_SHA256)
    parser.add_argument("--silent-after", type=float, default=worker.Pace().silent_after_s)
    chosen = parser.parse_args()
    worker.log_to_stderr()
    worker.run(
        detector_for=detector_for(chosen),
        searcher_for=searcher_for(chosen),
        explainer_for=explainer_for(chosen),
        name=chosen.name,
        concurrency=chosen.concurrency,
        parent=chosen.parent,
        pace=worker.Pace(waits_s=(0.1, 0.2), beat_s=1.0, silent_after_s=chosen.silent_after),
    )
