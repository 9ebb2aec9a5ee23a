"""`renalcore models`: the registry."""

from __future__ import annotations

import argparse
import sys

from renalcore import models
from renalcore.commands.command import Command, add_models
from renalcore.errors import InputError


def _models_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("key", nargs="?", default=None, metavar="KEY", help="show this model's whole card")
    add_models(parser)


def _list_models(arguments: argparse.Namespace) -> int:
    """List the models, or show one card."""
    if arguments.key is not None:
        sys.stdout.write(models.card(arguments.key, arguments.models).to_json())
        return 0
    cards = models.all_cards(arguments.models)
    if not cards:
        raise InputError(f"{arguments.models} holds no KEY/card.json, as a folder of models does")
    for card in cards:
        sys.stdout.write(
            f"{card.key}\n  {card.title}\n"
            f"  {card.modality} {card.task}, {card.architecture}, {card.date}\n"
            f"  {len(card.classes)} classes, {len(card.validated_classes)} of them validated on real pictures\n"
        )
        sys.stdout.writelines(f"  {figure.name} {figure.value:.3f} on {figure.on}\n" for figure in card.figures)
    return 0


COMMAND = Command("models", "list the models and show their cards", "renalcore models", _models_arguments, _list_models)
