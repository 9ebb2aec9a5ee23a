"""The real worker with a model that needs no weights: `python tests/fake_worker.py --calls FILE [...]`.

It finds one erythrocyte in every field, the dark discs of drawn slides (`slide_files.a_section`) and the bright kidneys
of drawn scans (`renalcore.ct.bright`; with `--ct-labels` those of a real one), draws a heat map of one byte, notes each
call, and misbehaves on request.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TypeVar

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import worker
from renalcore.ct.predict import Crops, Found
from renalcore.ct.steps import StepName
from renalcore.errors import ModelError
from renalcore.histology.tiles import Block, BlockResult
from renalcore.io.slide import Slide
from renalcore.io.volume import Volume
from renalcore.serving import Detector, Explainer, Models, Searcher, Segmenter
from renalcore.types import Detections, Field
from tests.ct_told import Told
from tests.renalcore.ct import bright
from tests.renalcore.histology import discs

WEIGHTS_SHA256 = "f" * 64

Loaded = TypeVar("Loaded")


def noted(options: argparse.Namespace, call: str, name: str) -> None:
    """Note a call of a model, take the time it takes, and misbehave where that is asked for."""
    with options.calls.open("a") as calls:  # one short line: atomic among processes
        calls.write(f"{os.getpid()} {call}\n")
    if options.die_at == call:
        os._exit(9)
    if options.fail_while.exists():
        raise RuntimeError(f"the fake fails on {name}")
    time.sleep(options.seconds)


def models(options: argparse.Namespace) -> Models:
    """What takes the place of the registry: any key gives the same fakes."""
    same = {"device": "no device at all", "weights_sha256": options.weights_sha256}
    slides = discs.model()
    scans = Told(options.ct_labels) if options.ct_labels else bright.model()

    def predict(field: Field) -> Detections:
        noted(options, field.name, field.name)
        box = np.array([[1, 1, 9, 9]], np.float32)
        return Detections(box, np.array([0.9], np.float32), np.array([0]), ("RBC",))

    def blocks(slide: Slide, species: str) -> Sequence[Block]:
        noted(options, f"plan of {slide.name}", slide.name)
        return slides.blocks(slide, species=species, block_tiles=3)

    def results(slide: Slide, of: Sequence[Block]) -> Generator[BlockResult, None, None]:
        with closing(slides.results(slide, of)) as coming:
            for block in of:
                noted(options, f"row {block.first_row} of {slide.name}", slide.name)
                yield next(coming)

    def step(name: StepName, does: Callable[..., Crops]) -> Callable[[Volume, Crops], Crops]:
        def taken(volume: Volume, crops: Crops) -> Crops:
            call = f"{name} of {volume.slices} slices"
            noted(options, call, "a scan")

            def passed(done: int, of: int) -> None:
                if done < of and options.die_at == f"middle of {call}":
                    os._exit(9)

            return does(volume, crops, progress=passed)

        return taken

    def finish(volume: Volume, crops: Crops, seconds: Mapping[str, float]) -> Found:
        noted(options, f"finish of {volume.slices} slices", "a scan")
        return scans.finish(volume, crops, seconds=seconds)

    def draw(field: Field, found: Detections) -> bytes | None:
        with options.calls.open("a") as calls:
            calls.write(f"{os.getpid()} heat of {field.name}\n")
        if options.die_at == f"heat of {field.name}":
            os._exit(9)
        return bytes([len(found)])

    steps: dict[StepName, Callable[[Volume, Crops], Crops]] = {
        "rough": step("rough", lambda volume, _nothing, progress: scans.rough(volume, progress=progress)),
        "kidney": step("kidney", scans.refine),
        "lesion": step("lesion", scans.lesions),
    }

    def loaded(model: Loaded) -> Callable[[str], Loaded]:
        def load(key: str) -> Loaded:
            if options.no_model:
                raise ModelError(f"The weights of {key} are missing. Ask IT to install them again.")
            return model

        return load

    return Models(
        detector=loaded(Detector(predict, **same)),
        searcher=loaded(Searcher(blocks, results, **same)),
        segmenter=loaded(Segmenter(steps, finish, **same)),
        explainer=loaded(Explainer(draw, ("RBC",), lambda _class_name: 0.5, options.weights_sha256)),
    )


def run(arguments: Sequence[str] | None = None) -> None:
    """Work until told to stop; `arguments` are those of the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--calls", type=Path, required=True)
    parser.add_argument("--name")
    parser.add_argument("--concurrency", type=int, default=2)
    parser.add_argument("--parent", type=int)
    parser.add_argument("--seconds", type=float, default=0.02)
    parser.add_argument("--die-at")
    parser.add_argument("--fail-while", type=Path, default=Path("/no/such/file"))
    parser.add_argument("--no-model", action="store_true")
    parser.add_argument("--ct-labels", type=Path)
    parser.add_argument("--weights-sha256", default=WEIGHTS_SHA256)
    parser.add_argument("--silent-after", type=float, default=worker.Pace().silent_after_s)
    chosen = parser.parse_args(arguments)
    worker.log_to_stderr()
    worker.run(
        models=models(chosen),
        name=chosen.name,
        concurrency=chosen.concurrency,
        parent=chosen.parent,
        pace=worker.Pace(waits_s=(0.1, 0.2), beat_s=1.0, silent_after_s=chosen.silent_after),
    )


if __name__ == "__main__":
    run()
