"""`renalcore explain`: show where in a picture the reasons for the findings lie."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from renalcore import taxonomy
from renalcore.commands.command import (
    SEDIMENT_MODEL,
    Command,
    Family,
    add_device,
    add_models,
    bar,
    make_folder,
    share,
    status_of,
)
from renalcore.errors import InputError, RenalError

if TYPE_CHECKING:
    from renalcore.sediment.explain import Explainer
    from renalcore.sediment.predict import SedimentDetector


def _sediment_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="a microscope field, of any image format")
    parser.add_argument(
        "--output", required=True, type=Path, metavar="DIR", help="folder for NAME.png and NAME.npz of each field"
    )
    parser.add_argument(
        "--class", dest="class_name", metavar="NAME", help="explain this class only; by default every class found"
    )
    parser.add_argument(
        "--min-score",
        type=share,
        metavar="S",
        help="explain what scores at least this; by default the thresholds of the model's card",
    )
    parser.add_argument(
        "--method",
        default="hires-cam",
        choices=("hires-cam", "grad-cam"),
        help="take the gradient cell by cell (%(default)s) or averaged over a feature map, as Grad-CAM was published",
    )
    parser.add_argument("--model", default=SEDIMENT_MODEL, metavar="KEY", help="one of `models` (%(default)s)")
    add_models(parser)
    add_device(parser)


def _sediment(arguments: argparse.Namespace) -> int:
    """Find the particles of some fields and draw what speaks for them."""
    twice = sorted(name for name, count in Counter(path.stem for path in arguments.images).items() if count > 1)
    if twice:
        raise InputError(
            f"several inputs are called {', '.join(twice)}, and results are named after them: "
            "give them different names, or call the command once for each folder"
        )
    if arguments.class_name is not None:
        taxonomy.class_id(arguments.class_name)  # refuses a name that nobody knows
    for path in arguments.images:
        if arguments.output.resolve() in (path.parent.resolve(), path.resolve().parent):
            raise InputError(
                f"{path}: lies in the folder of the results, whose pictures could take the place of yours; "
                f"give --output a folder of its own, e.g. {arguments.output / 'why'}"
            )
    make_folder(arguments.output)

    from renalcore.sediment.explain import Explainer
    from renalcore.sediment.predict import SedimentDetector

    explainer = Explainer.load(arguments.model, device=arguments.device, root=arguments.models, method=arguments.method)
    detector = SedimentDetector.load(arguments.model, device=arguments.device, root=arguments.models)
    refused = 0
    with bar(len(arguments.images), "field") as progress:
        for path in arguments.images:
            try:
                _explain(path, arguments, detector, explainer)
            except RenalError as error:
                refused += 1
                progress.write(str(error), file=sys.stderr)  # names the file
            progress.update(1)
    return status_of(refused, len(arguments.images), arguments.output)


def _explain(path: Path, arguments: argparse.Namespace, detector: SedimentDetector, explainer: Explainer) -> None:
    """Write the picture and the maps of one field."""
    import numpy as np
    from PIL import Image

    from renalcore.io.image import read_field
    from renalcore.sediment.explain import panels

    field = read_field(path, name=path.name)
    found = detector.predict(field, min_score=arguments.min_score)
    if arguments.min_score is None:
        least = np.array([detector.card.min_score_of(name) for name in found.classes])
        found = found.where(found.scores >= least[found.class_ids])
    if arguments.class_name is not None:
        found = found.where(found.class_ids == taxonomy.class_id(arguments.class_name))
    explained = explainer.explain(field, found)
    heat = np.zeros((field.height_px, field.width_px), np.float32)
    for of_class in explained.classes:
        np.maximum(heat, of_class.heat, out=heat)
    title = f"why: {arguments.class_name or 'all classes'}" if len(found) else "nothing found"
    Image.fromarray(panels(field, found, heat, title=title)).save(arguments.output / f"{path.stem}.png")
    np.savez_compressed(
        arguments.output / f"{path.stem}.npz",
        allow_pickle=False,
        boxes_px=found.boxes_px,
        scores=found.scores,
        names=np.array(found.names, np.str_),
        places_px=np.array([of_box.place_px for of_box in explained.boxes], np.int64).reshape(-1, 4),
        **{f"box {index}": of_box.window for index, of_box in enumerate(explained.boxes)},
        **{f"class {of_class.class_name}": of_class.heat for of_class in explained.classes},
    )


FAMILY = Family(
    "explain",
    "show where the reasons for findings lie",
    (
        Command(
            "sediment",
            "draw Grad-CAM heat maps of urine-sediment fields",
            "renalcore explain sediment fields/*.jpg --output why --class RBC",
            _sediment_arguments,
            _sediment,
        ),
    ),
)
