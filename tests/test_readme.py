"""What README and the cards tell a user to type is what the command line takes, and their figures are the same."""

from __future__ import annotations

import argparse
import re
import shlex
from pathlib import Path

import pytest

from renalcore import cli, models

README = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")
FENCED = "\n".join(re.findall(r"```sh\n(.*?)```", README, re.DOTALL)).replace("\\\n", " ")
SPOKEN = [
    " ".join(code.split()) for code in re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", README, flags=re.DOTALL))
]


def commands_of(parser: argparse.ArgumentParser, said: str = "") -> dict[str, argparse.ArgumentParser]:
    """The last level of the command line: `train ct` for instance."""
    levels = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not levels:
        return {said: parser}
    return {
        name: end
        for level in levels
        for word, choice in level.choices.items()
        for name, end in commands_of(choice, f"{said} {word}".strip()).items()
    }


COMMANDS = commands_of(cli.parser())
WHOLE = [
    *(line for line in FENCED.splitlines() if line.startswith("python -m renalcore")),
    *(f"python -m renalcore {code}" for code in SPOKEN if code.startswith(tuple(COMMANDS)) and " --data " in code),
    *(code[code.index("python -m") :] for code in SPOKEN if "python -m renalcore" in code),
    *(figure.command for card in models.all_cards() for figure in card.figures),
]


@pytest.mark.parametrize("line", dict.fromkeys(WHOLE))
def test_a_command_that_is_told_is_one_that_the_command_line_takes(line: str) -> None:
    cli.parser().parse_args(shlex.split(line, comments=True)[3:])


def test_an_option_that_is_told_is_one_of_its_command_or_of_any() -> None:
    options = {name: set(parser._option_string_actions) for name, parser in COMMANDS.items()}
    foreign = {"--scale", "--renew"}  # of docker compose, and of python -m db
    for code in SPOKEN:
        command = next((name for name in COMMANDS if code.startswith(f"{name} ")), None)
        known = options[command] if command else set().union(*options.values(), foreign)
        assert set(re.findall(r"(?<!\S)--[a-z0-9-]+", code)) <= known, code


TOLD_FIGURES = [
    (
        "sediment-multihead-n",
        "| | RBC | WBC | calcium oxalate | squamous epithelium | mean |",
        {
            "every label of a particle ranked": [
                "AP50 RBC", "AP50 WBC", "AP50 Calcium oxalate", "AP50 Epithelial cell (squamous)",
                "AP50, mean of these 4 classes",
            ],
        },
    ),
    (
        "histology-linknet-efficientnet-b0",
        "| | Dice, pixels of all fields |",
        {
            "all": [
                "Dice, pixels of all slides", "Dice, mean of slides", "Jaccard, pixels of all slides",
                "F1 of glomeruli at IoU 0.5", "Precision of glomeruli", "Recall of glomeruli",
                "Delta-glomeruli a tile, by connected components",
            ],
        },
    ),
    (
        "ct-segresnet",
        "| | Dice | ASSD in mm | SDD in mm | paper |",
        {
            row: [f"{figure}, {label}, drawn scans" for figure in ("Dice", "ASSD in mm", "SDD in mm")]
            for row, label in (
                ("kidney with its tumours and cysts", "kidney_and_masses"), ("kidney tissue", "kidney"),
                ("tumour", "tumour"),
            )
        },
    ),
]  # fmt: skip


@pytest.mark.parametrize(("key", "head", "rows"), TOLD_FIGURES)
def test_a_table_of_the_readme_has_the_figures_of_the_card(key: str, head: str, rows: dict[str, list[str]]) -> None:
    on_card = {figure.name: figure.value for figure in models.card(key).figures}
    table = README[README.index(head) :].split("\n\n")[0]
    for row, figures in rows.items():
        told = [cell.strip() for cell in table.split(f"\n| {row} |")[1].splitlines()[0].split("|")][: len(figures)]
        digits = [len(cell.partition(".")[2]) for cell in told]
        assert told == [f"{on_card[name]:.{places}f}" for name, places in zip(figures, digits, strict=True)]
