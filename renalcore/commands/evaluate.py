"""`renalcore evaluate`: how well a model does on labelled pictures."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from renalcore import models
from renalcore.commands.command import (
    CT_MODEL,
    HISTOLOGY_MODEL,
    SEDIMENT_MODEL,
    Command,
    Family,
    add_device,
    add_models,
    bar,
    count,
    make_folder,
    say,
)
from renalcore.commands.reading import add_reading, add_slide_reading, reading, slide_reading
from renalcore.errors import InputError
from renalcore.export.figures import write_json

if TYPE_CHECKING:
    from renalcore.ct.data import Case
    from renalcore.ct.evaluate import Labelled
    from renalcore.ct.evaluate import Round as CtRound
    from renalcore.ct.slices import Slice
    from renalcore.histology.annotations import LabelledSlide, Slides
    from renalcore.histology.evaluate import Round
    from renalcore.models import HeldOutFigure, ModelCard
    from renalcore.sediment.readers import LabelledField


def _sediment_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", required=True, type=Path, metavar="DIR", help="real fields with labels")
    parser.add_argument("--model", default=SEDIMENT_MODEL, metavar="KEY", help="one of `models` (%(default)s)")
    add_models(parser)
    add_device(parser)
    add_reading(parser)
    parser.add_argument(
        "--split", choices=("train", "val", "test", "all"), default="val", help="side of the data (%(default)s)"
    )
    parser.add_argument(
        "--hold-out", action="append", default=[], metavar="GROUP",
        help="evaluate on this sample instead of a split; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--predictions", type=Path, metavar="FILE", help="judge these predictions instead of running the model"
    )
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder for the tables")
    parser.add_argument(
        "--write-card", action="store_true",
        help="fit the calibration here, choose the score thresholds, and put both and the figures on the model's card; "
        "none of the fields may have been trained on",
    )  # fmt: skip


def _sediment(arguments: argparse.Namespace) -> int:
    """Judge a detector by labels: Table 7 of the paper, confusion, calibration."""
    if not arguments.data.is_dir():
        raise InputError(f"{arguments.data} is not a folder; --data names a folder of fields with labels")
    card = models.card(arguments.model, arguments.models)
    trained_on = arguments.data.resolve().name in {source.name for source in card.training_data}
    touched = arguments.split == "train" or (arguments.split == "all" and trained_on)
    if arguments.write_card and touched and not arguments.hold_out:
        raise InputError(
            f"a card tells figures on fields that were not trained on: leave --split {arguments.split} out"
        )

    from renalcore.sediment import evaluate
    from renalcore.sediment.readers import read_fields

    data = read_fields(arguments.data, reading(arguments))
    if arguments.hold_out:
        fields = data.sides(arguments.hold_out)[1]
    else:
        fields = list(data.fields) if arguments.split == "all" else data.split(arguments.split)
    make_folder(arguments.output)
    found = _found(arguments, card, fields)
    thresholds = None if arguments.write_card else {name: card.min_score_of(name) for name in card.classes}
    calibration = None if arguments.write_card else card.calibration
    evaluation = evaluate.evaluate(fields, found, classes=card.classes, min_score=thresholds, calibration=calibration)
    command = _command(arguments)
    side = f"groups {', '.join(arguments.hold_out)}" if arguments.hold_out else f"split {arguments.split}"
    name = arguments.data.resolve().name
    on = f"{len(fields)} fields of {name} ({side})"
    about = {
        "model": card.key,
        "weights_sha256": found.get("weights_sha256", "unknown"),
        "data": on,
        "command": command,
    }
    evaluate.write(evaluation, arguments.output, about=about)
    for row in evaluation.rows:
        sys.stdout.write(
            f"{row.name:<30} {row.objects:>6} objects  P {row.best.precision:.3f}  R {row.best.recall:.3f}  "
            f"AP50 {row.ap50:.3f}  AP50-95 {row.ap50_95:.3f}\n"
        )
    if arguments.write_card:
        from renalcore.sediment import card as cards

        weights = models.weights_path(card, arguments.models)
        made = cards.measured(card, weights, evaluation, data=name, on=f"held out: {on}", command=command)
        models.write_card(made, weights.parent)
        say(f"card: {weights.parent / 'card.json'}")
    say(f"tables: {arguments.output}")
    return 0


def _found(arguments: argparse.Namespace, card: ModelCard, fields: list[LabelledField]) -> dict[str, Any]:
    """Predictions of a file, or of the model, which are then written beside the tables."""
    if arguments.predictions is not None:
        from renalcore.sediment import predictions

        found = predictions.read(arguments.predictions)
        if arguments.write_card and found.get("weights_sha256") != card.sha256:
            raise InputError(
                f"{arguments.predictions} was not made by `evaluate` with the weights of {card.key}, so its figures "
                "cannot stand on their card: leave --predictions out"
            )
        return found

    from renalcore.sediment.evaluate import detect
    from renalcore.sediment.predict import SedimentDetector

    detector = SedimentDetector.load(arguments.model, device=arguments.device, root=arguments.models)
    with bar(len(fields), "field") as progress:
        found = detect(detector, fields, done=lambda: progress.update(1))
    write_json(arguments.output / "predictions.json", found)
    return found


def _command(arguments: argparse.Namespace) -> str:
    """The command that gives the figures again once the model is installed."""
    words = ["--data", str(arguments.data), "--model", arguments.model]
    for option in ("mapping", "format", "groups"):
        if getattr(arguments, option) is not None:
            words += [f"--{option}", str(getattr(arguments, option))]
    if arguments.partial:
        words.append("--partial")
    if arguments.hold_out:
        words += [word for group in arguments.hold_out for word in ("--hold-out", group)]
    else:
        words += ["--split", arguments.split]
    if arguments.val_share != 0.2:
        words += ["--val-share", str(arguments.val_share)]
    if arguments.device == "openvino-int8":  # the others differ by rounding only
        words += ["--device", arguments.device]
    return shlex.join(["python", "-m", "renalcore", "evaluate", "sediment", *words, "--output", "evaluation"])


def _histology_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", required=True, type=Path, metavar="DIR", help="slides with outlined glomeruli")
    parser.add_argument("--model", default=HISTOLOGY_MODEL, metavar="KEY", help="one of `models` (%(default)s)")
    add_models(parser)
    add_device(parser)
    add_slide_reading(parser)
    parser.add_argument(
        "--split", type=_split, default="val", metavar="SIDE",
        help="side of the data: train, val, test or all; or K/N, what `train histology --folds N` held out of its K-th "
        "fold (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--hold-out", action="append", default=[], metavar="GROUP",
        help="evaluate on this patient or animal instead of a split; may be repeated",
    )  # fmt: skip
    found = parser.add_mutually_exclusive_group()
    found.add_argument(
        "--predictions", type=Path, metavar="DIR",
        help="judge what `predict histology` wrote there instead of running the model",
    )  # fmt: skip
    found.add_argument(
        "--folds", type=Path, metavar="RUN",
        help="evaluate each fold of `train histology --folds` on the groups that it held out, instead of one model",
    )  # fmt: skip
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder for tables and drawings")
    parser.add_argument(
        "--write-card", action="store_true",
        help="choose the threshold here and put it and the figures on the model's card; none of the slides may have "
        "been trained on (with --folds: by the network that searched them)",
    )  # fmt: skip


def _split(words: str) -> str:
    """A side of the data as `--split` takes it."""
    fold, _, folds = words.partition("/")
    is_fold = fold.isdecimal() and folds.isdecimal() and 1 <= int(fold) <= int(folds)
    if words not in ("train", "val", "test", "all") and not is_fold:
        raise argparse.ArgumentTypeError(f"{words!r} is not train, val, test, all or a fold such as 1/5")
    return words


def _histology(arguments: argparse.Namespace) -> int:
    """Judge outlined glomeruli by those of an expert: the tables of both papers, by slide and by tile."""
    if not arguments.data.is_dir():
        raise InputError(f"{arguments.data} is not a folder; --data names a folder of slides with outlined glomeruli")
    if arguments.write_card and arguments.predictions is not None:
        raise InputError("stored predictions cannot choose a threshold for the card: leave --predictions out")
    name = arguments.data.resolve().name
    card = models.card(arguments.model, arguments.models) if arguments.write_card else None
    if card is not None and arguments.folds is None:
        _check_untouched(arguments, name, card)

    from renalcore.histology import evaluate, judging, tables
    from renalcore.histology.annotations import read_slides

    data = read_slides(arguments.data, slide_reading(arguments))
    make_folder(arguments.output)
    if arguments.predictions is not None:
        slides, left_out = evaluate.judgeable(_side(arguments, data))
        key, weights = evaluate.made_by(arguments.predictions, slides), "unknown"
        network = key
        judged = [judging.judge(slide, arguments.predictions) for slide in slides]
    else:
        rounds = _rounds(arguments, data)
        key, network = rounds[0].model.card.key, rounds[0].model.card.network
        if card is not None and card.network != network:
            raise InputError(f"the folds are of {network}, {card.key} is a {card.network}: their figures are not its")
        weights = " ".join(each.model.card.sha256 for each in rounds)
        left_out = [slide for each in rounds for slide in each.left_out]
        with bar(sum(len(each.slides) for each in rounds), "slide") as progress:
            judged = evaluate.search_and_judge(
                rounds,
                arguments.output / "predictions",
                choose_threshold=card is not None,
                done=lambda: progress.update(1),
            )
    evaluation = evaluate.Evaluation.of(judged, left_out=left_out)
    on = f"{len(judged)} slides of {name} ({_side_in_words(arguments, len(evaluation.folds))})"
    command = _histology_command(arguments)
    about = {"model": key, "weights_sha256": weights, "data": on, "command": command}
    tables.write(evaluation, arguments.output, network=network, about=about)
    for part in (evaluation.all, *evaluation.folds, *evaluation.stains):
        sys.stdout.write(f"{tables.in_words(part)}\n")
    if left_out:
        say(f"{len(left_out)} slides were left out: only the inside of their glomeruli is outlined")
    if card is not None:
        from renalcore.histology import card as cards

        path = models.weights_path(card, arguments.models)
        made = cards.measured(card, path, evaluation, data=name, on=f"held out: {on}", command=command)
        models.write_card(made, path.parent)
        say(f"card: {path.parent / 'card.json'}")
    say(f"tables: {arguments.output}")
    return 0


def _side(arguments: argparse.Namespace, data: Slides) -> list[LabelledSlide]:
    if arguments.hold_out:
        return data.sides(arguments.hold_out)[1]
    fold, _, folds = arguments.split.partition("/")
    if folds:
        return data.sides(data.folds(int(folds))[int(fold) - 1])[1]
    return list(data.slides) if arguments.split == "all" else data.split(arguments.split)


def _side_in_words(arguments: argparse.Namespace, folds: int) -> str:
    if arguments.folds is not None:
        return f"cross-validation in {folds} folds, each by a network that was not trained on it"
    if arguments.hold_out:
        return f"groups {', '.join(arguments.hold_out)}"
    fold, _, folds = arguments.split.partition("/")
    return f"fold {fold} of {folds}" if folds else f"split {arguments.split}"


def _check_untouched(arguments: argparse.Namespace, data: str, card: ModelCard) -> None:
    """Refuse to write figures on a card that are of data it was trained on."""
    trained_on = data in {source.name for source in card.training_data}
    if not arguments.hold_out and (arguments.split == "train" or (arguments.split == "all" and trained_on)):
        raise InputError(
            f"a card tells figures on pictures that were not trained on: leave --split {arguments.split} out"
        )


def _rounds(arguments: argparse.Namespace, data: Slides) -> list[Round]:
    """The models that search, each with the slides that it was not trained on."""
    from renalcore.histology import evaluate
    from renalcore.histology.predict import GlomerulusModel

    if arguments.folds is not None:
        return evaluate.folds_of(arguments.folds, data, device=arguments.device)
    slides, left_out = evaluate.judgeable(_side(arguments, data))
    model = GlomerulusModel.load(arguments.model, device=arguments.device, root=arguments.models)
    return [evaluate.Round("", model, tuple(slides), tuple(left_out))]


def _histology_command(arguments: argparse.Namespace) -> str:
    """The command that gives the figures again once the model is installed."""
    words = ["--data", str(arguments.data)]
    words += ["--folds", str(arguments.folds)] if arguments.folds is not None else ["--model", arguments.model]
    for option in ("mapping", "groups", "stain", "species", "um_per_px"):
        if getattr(arguments, option) is not None:
            words += [f"--{option.replace('_', '-')}", str(getattr(arguments, option))]
    if arguments.known != "all":
        words += ["--known", arguments.known]
    if arguments.hold_out:
        words += [word for group in arguments.hold_out for word in ("--hold-out", group)]
    elif arguments.folds is None:
        words += ["--split", arguments.split]
    if arguments.val_share != 0.2:
        words += ["--val-share", str(arguments.val_share)]
    return shlex.join(["python", "-m", "renalcore", "evaluate", "histology", *words, "--output", "evaluation"])


def _ct_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data", required=True, type=Path, metavar="DIR",
        help="cases of KiTS (case_00000/imaging.nii.gz, segmentation.nii.gz), or label maps, around which scans are "
        "drawn",
    )  # fmt: skip
    parser.add_argument("--model", default=CT_MODEL, metavar="KEY", help="one of `models` (%(default)s)")
    add_models(parser)
    add_device(parser)
    side = parser.add_mutually_exclusive_group()
    side.add_argument(
        "--split", type=_split, default="val", metavar="SIDE",
        help="patients: train, val or all, as `train ct` divides them; or K/N, what `train ct --folds N` held out of "
        "its K-th fold (%(default)s)",
    )  # fmt: skip
    side.add_argument(
        "--hold-out", action="append", default=[], metavar="CASE",
        help="evaluate on this patient instead of a split; may be repeated",
    )  # fmt: skip
    side.add_argument(
        "--folds", type=Path, metavar="RUN",
        help="evaluate each fold of `train ct --folds` on the patients that it held out, instead of one model",
    )  # fmt: skip
    parser.add_argument(
        "--synthetic", type=count, default=None, metavar="N",
        help="scans to draw around label maps, all of them together; by default one each",
    )  # fmt: skip
    parser.add_argument(
        "--slices", type=Path, metavar="DIR",
        help="folder of labelled axial slices: those of the patients that are judged are grown as `train ct --slices` "
        "does, and steps 2 and 3 are judged in the plane of each slice, given where the kidneys are",
    )  # fmt: skip
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder for the tables")
    parser.add_argument(
        "--write-card", action="store_true",
        help="put the figures on the model's card; none of the patients may have been trained on (with --folds: by the "
        "networks that searched them)",
    )  # fmt: skip


def _ct(arguments: argparse.Namespace) -> int:
    """Judge kidneys, tumours and cysts by labels: Table II of the paper, and the classes of KiTS."""
    if not arguments.data.is_dir():
        raise InputError(f"{arguments.data} is not a folder; --data names a folder of scans or label maps")
    if arguments.split == "test":
        raise InputError("the cases of CT have no test side: choose train, val, all or a fold such as 1/5")

    from renalcore.ct import card as cards
    from renalcore.ct import evaluate, planes
    from renalcore.ct.predict import KidneyModel, card_of

    name = arguments.data.resolve().name
    card = card_of(arguments.model, arguments.models) if arguments.write_card else None
    if card is not None:
        for folder in filter(None, (arguments.data, arguments.slices)):
            _check_untouched(arguments, folder.resolve().name, card)
    cases, rounds = _ct_rounds(arguments)
    network = rounds[0].card.network
    if card is not None and card.network != network:
        raise InputError(f"the folds are of {network}, {card.key} is a {card.network}: their figures are not its")
    scans, slices = _labelled(cases, arguments.synthetic), _slices_of(cases, arguments)
    make_folder(arguments.output)
    judged, judged_slices = [], []
    with bar(len(scans) + len(slices), "picture") as progress:
        for each in rounds:
            model = KidneyModel.load(each.card.key, device=arguments.device, root=each.root)
            for scan in scans:
                if scan.group in each.patients:
                    judged.append(evaluate.judge(model, scan, fold=each.fold))
                    progress.update(1)
            for one in slices:
                if one.group in each.patients:
                    judged_slices.append(planes.judge_slice(model, one))
                    progress.update(1)
    side = _side_in_words(arguments, len(rounds))
    if arguments.hold_out:
        side = f"patients {', '.join(arguments.hold_out)}"
    on, command = f"{name} ({side})", _ct_command(arguments)
    weights = " ".join(each.card.sha256 for each in rounds)
    about: dict[str, Any] = {"model": rounds[0].card.key, "weights_sha256": weights, "data": on, "command": command}
    further: list[HeldOutFigure] = []
    if judged_slices:
        about |= {"slices": planes.written(judged_slices, arguments.output)}
        on_slices = f"held out: {arguments.slices.resolve().name} ({side} of {name})"
        further = planes.figures(judged_slices, on=on_slices, command=command)
    evaluate.write(judged, arguments.output, about=about)
    sys.stdout.write(evaluate.as_printed(judged))
    if judged_slices:
        sys.stdout.write(f"\n{planes.as_printed(judged_slices)}")
    if card is not None:
        path = models.weights_path(card, arguments.models)
        found = evaluate.summaries(judged)
        made = cards.measured(card, path, found, on=f"held out: {on}", command=command, further=further)
        models.write_card(made, path.parent)
        say(f"card: {path.parent / 'card.json'}")
    say(f"tables: {arguments.output}")
    return 0


def _ct_rounds(arguments: argparse.Namespace) -> tuple[list[Case], list[CtRound]]:
    """The patients to judge, and the models that search them, each with those that it was not trained on."""
    from renalcore.ct import evaluate
    from renalcore.ct.data import read_cases
    from renalcore.ct.predict import card_of

    if arguments.folds is None:
        card = card_of(arguments.model, arguments.models)
        cases = _cases(arguments)
        return cases, [evaluate.Round("", card, arguments.models, frozenset(case.group for case in cases))]
    cases = read_cases(arguments.data)
    rounds = evaluate.folds_of(arguments.folds, cases, data=arguments.data)
    patients = frozenset[str]().union(*(each.patients for each in rounds))
    return [case for case in cases if case.group in patients], rounds


def _labelled(cases: Sequence[Case], synthetic: int | None) -> list[Labelled]:
    """The scans to judge; patients with label maps take turns in what is drawn."""
    from renalcore.ct.evaluate import drawn_scan, real_scan

    shapes = [case for case in cases if case.image is None]
    drawn = len(shapes) if synthetic is None else synthetic
    found = [real_scan(case.group, case.image, case.labels) for case in cases if case.image is not None]
    for number in range(drawn if shapes else 0):
        case = shapes[number % len(shapes)]
        found.append(drawn_scan(case.group, case.labels, number))
    return found


def _slices_of(cases: Sequence[Case], arguments: argparse.Namespace) -> list[Slice]:
    """The slices of the patients that are judged."""
    from renalcore.ct.slices import read_slices

    if arguments.slices is None:
        return []
    patients = {case.group for case in cases}
    found = [each for each in read_slices(arguments.slices) if each.group in patients]
    if not found:
        raise InputError(
            f"{arguments.slices} holds no slice of the patients that are judged; its patients must be called as in "
            f"{arguments.data}, or leave --slices out"
        )
    return found


def _cases(arguments: argparse.Namespace) -> list[Case]:
    from renalcore.ct.data import folds_of, read_cases, train_and_validation

    cases = read_cases(arguments.data)
    if arguments.hold_out:
        return train_and_validation(cases, arguments.hold_out, folder=arguments.data)[1]
    fold, _, folds = arguments.split.partition("/")
    if folds:
        groups = folds_of(cases, int(folds))[int(fold) - 1]
        return [case for case in cases if case.group in groups]
    if arguments.split == "all":
        return cases
    training, validation = train_and_validation(cases, (), folder=arguments.data)
    chosen = validation if arguments.split == "val" else training
    if not chosen:
        raise InputError(f"{arguments.data} has no patient on the side {arguments.split}: take --split all")
    return chosen


def _ct_command(arguments: argparse.Namespace) -> str:
    """The command that gives the figures again once the model is installed."""
    words = ["--data", str(arguments.data)]
    words += ["--folds", str(arguments.folds)] if arguments.folds is not None else ["--model", arguments.model]
    if arguments.hold_out:
        words += [word for group in arguments.hold_out for word in ("--hold-out", group)]
    elif arguments.folds is None:
        words += ["--split", arguments.split]
    if arguments.synthetic is not None:
        words += ["--synthetic", str(arguments.synthetic)]
    if arguments.slices is not None:
        words += ["--slices", str(arguments.slices)]
    return shlex.join(["python", "-m", "renalcore", "evaluate", "ct", *words, "--output", "evaluation"])


FAMILY = Family(
    "evaluate",
    "measure a model on labelled pictures",
    (
        Command(
            "sediment",
            "average precision, confusion and calibration on labelled fields",
            "renalcore evaluate sediment --data fields/ --output evaluation/",
            _sediment_arguments,
            _sediment,
        ),
        Command(
            "histology",
            "Dice, Jaccard, Delta-glomeruli and F1 on labelled slides, by slide and by tile",
            "renalcore evaluate histology --data slides/ --output evaluation/",
            _histology_arguments,
            _histology,
        ),
        Command(
            "ct",
            "Dice, surface distances and surface Dice of kidneys, tumours and cysts on labelled scans",
            "renalcore evaluate ct --data cases/ --output evaluation/",
            _ct_arguments,
            _ct,
        ),
    ),
)
