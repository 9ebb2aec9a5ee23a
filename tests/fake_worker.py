"""The real worker with a model that needs no weights: `python tests/fake_worker.py --calls FILE [...]`.

It finds one erythrocyte in every field, draws a heat map of one byte, notes each call, and misbehaves on request.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import worker
from renalcore.errors import ModelError
from renalcore.types import Detections, Field

WEIGHTS_SHA256 = "f" * 64


def detector_for(options: argparse.Namespace) -> worker.DetectorFor:
    """What takes the place of the registry: any key gives the same fake."""

    def predict(field: Field) -> Detections:
        with options.calls.open("a") as calls:  # one short line: atomic among processes
            calls.write(f"{os.getpid()} {field.name}\n")
        if options.die_at == field.name:
            os._exit(9)
        if options.fail_while.exists():
            raise RuntimeError(f"the fake fails on {field.name}")
        time.sleep(options.seconds)
        box = np.array([[1, 1, 9, 9]], np.float32)
        return Detections(box, np.array([0.9], np.float32), np.array([0]), ("RBC",))

    def load(key: str) -> worker.Detector:
        if options.no_model:
            raise ModelError(f"The weights of {key} are missing. Ask IT to install them again.")
        return worker.Detector(predict, "no device at all", WEIGHTS_SHA256)

    return load


def explainer_for(options: argparse.Namespace) -> worker.ExplainerFor:
    """The fake's heat maps: the number of boxes as a byte."""

    def draw(field: Field, found: Detections) -> bytes | None:
        with options.calls.open("a") as calls:
            calls.write(f"{os.getpid()} heat of {field.name}\n")
        if options.die_at == f"heat of {field.name}":
            os._exit(9)
        return bytes([len(found)])

    return lambda _key: worker.Explainer(draw, ("RBC",), lambda _class_name: 0.5, WEIGHTS_SHA256)


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
    parser.add_argument("--silent-after", type=float, default=worker.Pace().silent_after_s)
    chosen = parser.parse_args()
    worker.log_to_stderr()
    worker.run(
        detector_for=detector_for(chosen),
        explainer_for=explainer_for(chosen),
        name=chosen.name,
        concurrency=chosen.concurrency,
        parent=chosen.parent,
        pace=worker.Pace(waits_s=(0.1, 0.2), beat_s=1.0, silent_after_s=chosen.silent_after),
    )
