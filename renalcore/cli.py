"""The command line: `python -m renalcore`.

The exit status is 0 only when every input was processed; 1 when some could not be, each named with the reason; 2 when
the command itself was wrong. Heavy libraries are imported by the commands that need them.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence

from renalcore import __version__
from renalcore.commands import (
    benchmark,
    check,
    compare,
    evaluate,
    explain,
    models,
    predict,
    quantise,
    search,
    synthetic,
    train,
    validate,
)
from renalcore.commands.command import Command, say
from renalcore.errors import RenalError

FAMILIES = (
    predict.FAMILY, explain.FAMILY, check.FAMILY, train.FAMILY, search.FAMILY, evaluate.FAMILY, validate.FAMILY,
    compare.FAMILY, benchmark.FAMILY, quantise.FAMILY,
)  # fmt: skip
COMMANDS = (synthetic.COMMAND, models.COMMAND)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; its exit status."""
    arguments = parser().parse_args(argv)
    try:
        status: int = arguments.run(arguments)
    except RenalError as error:
        say(f"renalcore: {error}")
        return 1
    except OSError as error:
        told = error.filename is not None and error.strerror
        say(f"renalcore: {f'{error.filename}: {told}. Check its name and place.' if told else error}")
        return 1
    except KeyboardInterrupt:
        say("renalcore: stopped")
        return 130
    return status


def parser() -> argparse.ArgumentParser:
    """What the command line takes, at every level."""
    top = argparse.ArgumentParser(
        prog="renalcore",
        description="RenalCore: models and measures for the renal laboratory. For research use only.",
        epilog=_examples(command for family in FAMILIES for command in family.commands),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"renalcore {__version__}")
    verbs = top.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for family in FAMILIES:
        verb = verbs.add_parser(
            family.name,
            help=family.help,
            description=f"{family.help[0].upper()}{family.help[1:]}.",
            epilog=_examples(family.commands),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        kinds = verb.add_subparsers(title="modalities", required=True, metavar="MODALITY")
        for command in family.commands:
            _add_command(kinds, command)
    for command in COMMANDS:
        _add_command(verbs, command)
    return top


def _add_command(parent: argparse._SubParsersAction[argparse.ArgumentParser], command: Command) -> None:
    parser = parent.add_parser(
        command.name,
        help=command.help,
        description=f"{command.help[0].upper()}{command.help[1:]}.",
        epilog=_examples([command]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_arguments(parser)
    parser.set_defaults(run=command.run)


def _examples(commands: Iterable[Command]) -> str:
    return "\n".join(("examples:", *(f"  {command.example}" for command in commands)))
