"""`renalcore train`: make a model."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from renalcore.commands.command import Command, Family, count, hours, part, say
from renalcore.commands.reading import add_reading, add_slide_reading, reading, slide_reading
from renalcore.errors import InputError

if TYPE_CHECKING:
    from renalcore.sediment.train import TrainConfig

_RUN = ("scale", "hours", "resume", "start", "seed")  # options of every stage, in the words of its configuration
_SIZES = {"epochs": "epochs", "items": "items", "lr0": "lr0", "batch": "batch", "size": "size_px"}
_DETECTOR_ONLY = (
    "synthetic", "hold_out", "normaliser", "optimizer", "recipe", "hyperparameters", "patience", "validate_every",
    "rendered_only", "folds", "fold", "licence", "mapping", "format", "groups", "val_share", "partial",
)  # fmt: skip


def add_run(parser: argparse.ArgumentParser, data: str) -> None:
    """Where a training reads and writes, and how long it takes; `data` says what `--data` holds."""
    parser.add_argument("--data", required=True, type=Path, metavar="DIR", help=data)
    parser.add_argument("--output", required=True, type=Path, metavar="RUN", help="folder of the run")
    parser.add_argument("--epochs", type=count, default=None, metavar="N", help="length of the run")
    parser.add_argument("--hours", type=hours, default=None, metavar="H", help="end after this time instead")
    parser.add_argument("--lr0", type=float, default=None, metavar="RATE", help="first and highest learning rate")
    parser.add_argument(
        "--licence", default="not stated", metavar="WORDS", help="of the real data, for the card (%(default)s)"
    )


def add_crops(parser: argparse.ArgumentParser) -> None:
    """What is trained on and validated with."""
    parser.add_argument(
        "--synthetic", action="append", default=[], type=Path, metavar="DIR", help="rendered fields; may be repeated"
    )
    parser.add_argument("--items", type=count, default=None, metavar="N", help="crops an epoch")
    parser.add_argument("--size", type=count, default=None, metavar="PX", help="side of a crop, a multiple of 32")
    parser.add_argument("--batch", type=count, default=None, metavar="N", help="crops a step")
    parser.add_argument(
        "--hold-out", action="append", default=[], metavar="GROUP",
        help="validate on this sample instead of the data's own split; may be repeated",
    )  # fmt: skip
    add_reading(parser)


def add_recipe(parser: argparse.ArgumentParser) -> None:
    """How YOLO12 and its rivals are trained."""
    parser.add_argument(
        "--normaliser", choices=("head", "batch"), default="head",
        help="heads pull the backbone alike, as in the paper, or by their objects (%(default)s)",
    )  # fmt: skip
    parser.add_argument("--optimizer", choices=("SGD", "AdamW"), default="SGD", help="(%(default)s, the paper's)")
    parser.add_argument(
        "--recipe", choices=("crops", "paper"), default="crops",
        help="crops at many zooms, or whole fields at 960 px with the augmentations of Table 3 (%(default)s)",
    )  # fmt: skip


def add_repetition(parser: argparse.ArgumentParser, *, validate_every: int) -> None:
    """When a single run is validated, and what makes it repeatable."""
    parser.add_argument(
        "--validate-every", type=int, default=validate_every, metavar="N",
        help="validate after every N epochs and at the end; 0: at the end only (%(default)s)",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of crops and weights (%(default)s)")


def add_detector(parser: argparse.ArgumentParser) -> None:
    """What describes the training of a multi-head detector, here and in `search`."""
    parser.add_argument("--scale", choices=("n", "s", "m", "l", "x"), default="n", help="size of YOLO12 (%(default)s)")
    parser.add_argument(
        "--start", type=Path, metavar="FILE",
        help="safetensors to begin from: a detector of an earlier stage, or a pretrained backbone",
    )  # fmt: skip
    parser.add_argument(
        "--rendered-only", action="store_true",
        help="train on the fields of --synthetic alone; the real ones validate, to see how far rendered ones carry",
    )  # fmt: skip
    add_crops(parser)
    add_recipe(parser)
    add_repetition(parser, validate_every=1)


def detector_config(arguments: argparse.Namespace, **more: Any) -> TrainConfig:
    """The run that the arguments of `add_detector` describe."""
    from renalcore.sediment.train import TrainConfig, paper_recipe

    config = TrainConfig(
        data=arguments.data,
        output=arguments.output,
        rendered=tuple(arguments.synthetic),
        scale=arguments.scale,
        start=arguments.start,
        held_out=tuple(arguments.hold_out),
        normaliser=arguments.normaliser,
        optimizer=arguments.optimizer,
        validate_every=arguments.validate_every,
        reading=reading(arguments),
        seed=arguments.seed,
        **more,
    )
    if arguments.rendered_only:
        config = replace(config, rendered_share=1.0)
    if arguments.recipe == "paper":
        config = paper_recipe(config)
    return replace(config, **sizes(arguments))


def sizes(arguments: argparse.Namespace) -> dict[str, Any]:
    """The sizes of a run that were given, in the words of its configuration."""
    given = {field: getattr(arguments, option, None) for option, field in _SIZES.items()}
    return {field: value for field, value in given.items() if value is not None}


def _sediment_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--stage", choices=("detect", "pretrain"), default="detect",
        help="train the detector, or first its backbone on fields without labels (%(default)s)",
    )  # fmt: skip
    add_run(parser, "real fields with labels; to pretrain, any folder of pictures")
    parser.add_argument("--resume", action="store_true", help="go on from the run's last checkpoint")
    add_detector(parser)
    parser.add_argument(
        "--hyperparameters", type=Path, metavar="FILE", help="best.json of `search sediment`, to train with"
    )
    parser.add_argument(
        "--patience", type=count, default=None, metavar="N",
        help="stop when mAP50-95 has not risen for N epochs, and keep the best weights instead of the last",
    )  # fmt: skip
    parser.add_argument(
        "--folds", type=count, default=None, metavar="N",
        help="cross-validate: N trainings, each holding other samples out, with mean and deviation in folds.csv",
    )  # fmt: skip
    parser.add_argument("--fold", type=count, default=None, metavar="K", help="with --folds: train the K-th alone")
    parser.set_defaults(option_default=parser.get_default)


def _sediment(arguments: argparse.Namespace) -> int:
    """Train the multi-head network, or pretrain its backbone."""
    check_folders(arguments)
    return _pretrain(arguments) if arguments.stage == "pretrain" else _detect(arguments)


def check_folders(arguments: argparse.Namespace) -> None:
    """Refuse, with `InputError`, a folder of fields that is none."""
    for folder in (arguments.data, *arguments.synthetic):
        if not folder.is_dir():
            raise InputError(f"{folder} is not a folder; --data and --synthetic name folders of fields")


def check_folds(arguments: argparse.Namespace) -> None:
    """Refuse, with `InputError`, options of cross-validation that contradict each other."""
    if arguments.fold is not None and arguments.folds is None:
        raise InputError("--fold names one of --folds; give both")
    if arguments.folds is not None and arguments.hold_out:
        raise InputError("--folds chooses what to hold out; leave --hold-out away")


def _pretrain(arguments: argparse.Namespace) -> int:
    misplaced = [name for name in _DETECTOR_ONLY if getattr(arguments, name) != arguments.option_default(name)]
    if misplaced:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in misplaced)
        raise InputError(f"{options}: for training the detector; leave it out with --stage pretrain")

    from renalcore.sediment.pretrain import PretrainConfig, pretrain

    same = {name: getattr(arguments, name) for name in _RUN}
    config = PretrainConfig(data=arguments.data, output=arguments.output, **same, **sizes(arguments))
    say(f"backbone: {pretrain(config)}")
    return 0


def _detect(arguments: argparse.Namespace) -> int:
    check_folds(arguments)

    from renalcore.sediment.folds import cross_validate
    from renalcore.sediment.search import read_values, with_values
    from renalcore.sediment.train import train

    config = detector_config(
        arguments,
        hours=arguments.hours,
        resume=arguments.resume,
        patience=arguments.patience,
        licence=arguments.licence,
    )
    if arguments.hyperparameters is not None:
        config = replace(with_values(config, read_values(arguments.hyperparameters)), **sizes(arguments))
    if arguments.folds is None:
        say(f"weights: {train(config)}")
    else:
        say(f"folds: {cross_validate(config, arguments.folds, only=arguments.fold)}")
    return 0


def _caox_arguments(parser: argparse.ArgumentParser) -> None:
    add_run(parser, "real fields with labels")
    parser.add_argument("--resume", action="store_true", help="go on from the run's last checkpoint")
    add_crops(parser)
    parser.add_argument(
        "--backbone", choices=("resnet50", "resnet18"), default="resnet50",
        help="the paper's, or a smaller one for a machine without a GPU (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--recipe", choices=("crops", "paper"), default="crops",
        help="the paper's augmentations with light, colour and focus, or those of the paper alone (%(default)s)",
    )  # fmt: skip
    add_repetition(parser, validate_every=10)


def _caox(arguments: argparse.Namespace) -> int:
    """Train the RetinaNet for calcium oxalate."""
    check_folders(arguments)

    from renalcore.sediment.retinanet_train import PAPER, CaoxConfig, train

    config = CaoxConfig(
        data=arguments.data,
        output=arguments.output,
        rendered=tuple(arguments.synthetic),
        backbone=arguments.backbone,
        hours=arguments.hours,
        licence=arguments.licence,
        held_out=tuple(arguments.hold_out),
        reading=reading(arguments),
        resume=arguments.resume,
        validate_every=arguments.validate_every,
        seed=arguments.seed,
        **sizes(arguments),
    )
    if arguments.recipe == "paper":
        config = replace(config, augmentation=PAPER)
    say(f"weights: {train(config)}")
    return 0


_GLOMERULI_ONLY = (
    "recipe", "glomerulus", "hold_out", "validate_every", "folds", "fold", "licence", "mapping", "groups", "val_share",
    "known", "stain", "species", "um_per_px",
)  # fmt: skip


def _histology_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--stage", choices=("segment", "pretrain"), default="segment",
        help="train the network, or first its encoder on slides without labels (%(default)s)",
    )  # fmt: skip
    add_run(parser, "slides with outlined glomeruli; to pretrain, any folder of slides and pictures")
    parser.add_argument("--resume", action="store_true", help="go on from the run's last checkpoint")
    parser.add_argument(
        "--network", default="linknet-efficientnet-b0", metavar="NAME",
        help="the network, or the one whose encoder is pretrained; a wrong name lists them all (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--recipe", choices=("scratch", "thesis", "mouse"), default="scratch",
        help="ours, for training from scratch; that of the thesis on human slides; that of the paper on mice "
        "(%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--start", type=Path, metavar="FILE",
        help="safetensors to begin from: the same network of an earlier run, or a pretrained encoder",
    )  # fmt: skip
    parser.add_argument("--items", type=count, default=None, metavar="N", help="tiles an epoch; by default 4 a slide")
    parser.add_argument("--size", type=count, default=None, metavar="PX", help="side of a tile, a multiple of 32")
    parser.add_argument(
        "--glomerulus", type=count, default=None, metavar="PX",
        help="diameter at which glomeruli are shown, in the middle of the zooms; fewer px take less time and see less "
        "(96)",
    )  # fmt: skip
    parser.add_argument("--batch", type=count, default=None, metavar="N", help="tiles a step")
    parser.add_argument(
        "--hold-out", action="append", default=[], metavar="GROUP",
        help="validate on this patient or slide instead of the data's own split; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--folds", type=count, nargs="?", const=0, default=None, metavar="N",
        help="cross-validate: N trainings (by default as many as the recipe has), each holding other groups out, with "
        "mean and deviation in folds.csv",
    )  # fmt: skip
    parser.add_argument("--fold", type=count, default=None, metavar="K", help="with --folds: train the K-th alone")
    add_slide_reading(parser)
    add_repetition(parser, validate_every=5)
    parser.set_defaults(option_default=parser.get_default)


def _histology(arguments: argparse.Namespace) -> int:
    """Train a network that finds glomeruli, or pretrain its encoder."""
    if not arguments.data.is_dir():
        raise InputError(f"{arguments.data} is not a folder; --data names a folder of slides")
    if arguments.stage == "pretrain":
        return _pretrain_encoder(arguments)
    check_folds(arguments)

    from renalcore.histology.folds import cross_validate
    from renalcore.histology.train import FOLDS, TrainConfig, train, with_recipe

    config = TrainConfig(
        data=arguments.data,
        output=arguments.output,
        network=arguments.network,
        hours=arguments.hours,
        licence=arguments.licence,
        held_out=tuple(arguments.hold_out),
        reading=slide_reading(arguments),
        start=arguments.start,
        resume=arguments.resume,
        validate_every=arguments.validate_every,
        seed=arguments.seed,
    )
    config = replace(with_recipe(config, arguments.recipe), **sizes(arguments))
    if arguments.glomerulus is not None:
        config = replace(config, augmentation=config.augmentation.showing(arguments.glomerulus))
    if arguments.folds is None:
        say(f"weights: {train(config)}")
    else:
        folds = arguments.folds or FOLDS[arguments.recipe]
        say(f"folds: {cross_validate(config, folds, only=arguments.fold)}")
    return 0


def _pretrain_encoder(arguments: argparse.Namespace) -> int:
    misplaced = [name for name in _GLOMERULI_ONLY if getattr(arguments, name) != arguments.option_default(name)]
    if misplaced:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in misplaced)
        raise InputError(f"{options}: for training on outlined glomeruli; leave it out with --stage pretrain")

    from renalcore.histology.pretrain import PretrainConfig, pretrain

    config = PretrainConfig(
        data=arguments.data,
        output=arguments.output,
        network=arguments.network,
        hours=arguments.hours,
        start=arguments.start,
        resume=arguments.resume,
        seed=arguments.seed,
        **sizes(arguments),
    )
    say(f"encoder: {pretrain(config)}")
    return 0


def _ct_arguments(parser: argparse.ArgumentParser) -> None:
    add_run(parser, "folder of case_xxxxx/imaging.nii.gz with segmentation.nii.gz, of label maps, or of both")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint of each step")
    parser.add_argument(
        "--step", choices=("rough", "kidney", "lesion", "all"), default="all",
        help="which of the three networks; --hours is the time of each (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--network", default="unet3d", metavar="NAME",
        help="unet3d, the paper's, or segresnet, a stronger one (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--width", type=count, default=None, metavar="N",
        help="channels of the finest level: 8 for a CPU, 32 is full; by default the recipe's",
    )  # fmt: skip
    parser.add_argument(
        "--recipe", choices=("cpu", "paper"), default="cpu",
        help="ours, on patches; or the paper's: whole grids, four a step, 50 epochs, full width (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--synthetic", type=count, default=None, metavar="N",
        help="scans to draw around the label maps, all of them together (300)",
    )  # fmt: skip
    parser.add_argument(
        "--randomised", type=part, default=None, metavar="SHARE",
        help="part of these in which mean and deviation of each tissue's HU are random, as in SynthSeg; 1 for all (0)",
    )  # fmt: skip
    parser.add_argument("--items", type=count, default=None, metavar="N", help="samples an epoch; by default each scan")
    parser.add_argument("--batch", type=count, default=None, metavar="N", help="samples a step")
    parser.add_argument(
        "--whole", action="store_true",
        help="show whole grids instead of patches: slower, and as the networks are used; best with --start",
    )  # fmt: skip
    parser.add_argument(
        "--coarse", action="store_true",
        help="train on voxels twice as wide: many more samples an hour; the network is used so too",
    )  # fmt: skip
    parser.add_argument(
        "--slices", action="append", default=[], type=Path, metavar="DIR",
        help="folder of labelled axial slices to train on as well; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--scans", action="append", default=[], type=Path, metavar="DIR",
        help="folder of real scans (case_xxxxx/imaging.nii.gz with segmentation.nii.gz) to train on as well: about a "
        "quarter of what is shown, however few they are, or more; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--implants", type=count, default=None, metavar="N",
        help="scans of --scans to show as well with tumours and cysts put on their kidneys: outlines of --data, "
        "texture of tumours on --slices (0)",
    )  # fmt: skip
    parser.add_argument(
        "--licence-of", action="append", nargs=2, default=[], metavar=("FOLDER", "WORDS"),
        help="licence words of one folder by its name, where they are not those of --licence; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--note-of", action="append", nargs=2, default=[], metavar=("FOLDER", "WORDS"),
        help="what else the card says of one folder, e.g. who outlined its scans; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--start", type=Path, default=None, metavar="FILE", help="begin from weights of the same network"
    )
    parser.add_argument(
        "--hold-out", action="append", default=[], metavar="CASE",
        help="validate on this patient instead of a share chosen by name; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--folds", type=count, nargs="?", const=0, default=None, metavar="N",
        help="cross-validate: N trainings (5), each holding other patients out; figures in folds.csv",
    )  # fmt: skip
    parser.add_argument("--fold", type=count, default=None, metavar="K", help="with --folds: train the K-th alone")
    add_repetition(parser, validate_every=5)


def _ct(arguments: argparse.Namespace) -> int:
    """Train the networks of the three steps for kidneys, tumours and cysts."""
    if not arguments.data.is_dir():
        raise InputError(f"{arguments.data} is not a folder; --data names a folder of scans or label maps")
    check_folds(arguments)

    from renalcore.ct.steps import STEPS
    from renalcore.ct.train import FOLDS, TrainConfig, cross_validate, train, train_all, with_recipe

    config = TrainConfig(
        data=arguments.data,
        output=arguments.output,
        network=arguments.network,
        hours=arguments.hours,
        licence=arguments.licence,
        licences=dict(arguments.licence_of),
        notes=dict(arguments.note_of),
        slices=tuple(arguments.slices),
        scans=tuple(arguments.scans),
        start=arguments.start,
        held_out=tuple(arguments.hold_out),
        coarse=arguments.coarse,
        resume=arguments.resume,
        validate_every=arguments.validate_every,
        seed=arguments.seed,
    )
    given = ("width", "synthetic", "randomised", "implants", "items", "batch", "epochs", "lr0")
    asked = {name: getattr(arguments, name) for name in given if getattr(arguments, name) is not None}
    config = replace(with_recipe(config, arguments.recipe), **asked)
    config = replace(config, whole=config.whole or arguments.whole)
    if arguments.folds is not None:
        steps = tuple(STEPS) if arguments.step == "all" else (arguments.step,)
        say(f"folds: {cross_validate(config, arguments.folds or FOLDS, steps=steps, only=arguments.fold)}")
    elif arguments.step == "all":
        say(f"weights: {train_all(config)}")
    else:
        say(f"weights: {train(replace(config, step=arguments.step))}")
    return 0


FAMILY = Family(
    "train",
    "train a model",
    (
        Command(
            "sediment",
            "train the multi-head YOLOv12",
            "renalcore train sediment --data fields/ --synthetic rendered/ --output runs/first",
            _sediment_arguments,
            _sediment,
        ),
        Command(
            "caox",
            "train the RetinaNet for calcium oxalate",
            "renalcore train caox --data fields/ --synthetic rendered/ --backbone resnet18 --output runs/caox",
            _caox_arguments,
            _caox,
        ),
        Command(
            "histology",
            "train a network that finds glomeruli",
            "renalcore train histology --data slides/ --network linknet-efficientnet-b0 --hours 3 --output runs/kidney",
            _histology_arguments,
            _histology,
        ),
        Command(
            "ct",
            "train the three steps that find kidneys, tumours and cysts",
            "renalcore train ct --data kits23_shapes/ --synthetic 300 --hours 1 --output runs/ct",
            _ct_arguments,
            _ct,
        ),
    ),
)
