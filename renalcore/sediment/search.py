"""Search for hyper-parameters around those of Table 3, as Alizadeh et al. (2025), "Implementation details" and Fig. 4.

The paper made 300 trainings of 100 epochs. Here the next values are chosen by a tree-structured Parzen estimator from
what earlier trials reached (Optuna's TPE), and a trial that is below the median of the others at the same epoch is
ended early. The study lies in a journal in the run's folder: a killed search goes on with the trial it was at, from
that trial's last checkpoint. One process works on a study at a time.
"""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from renalcore.errors import InputError, UnknownName
from renalcore.runs.plots import draw_scatter
from renalcore.sediment.train import FIGURES, SedimentTrainer, TrainConfig

if TYPE_CHECKING:
    import optuna

OBJECTIVE = "mAP50-95"
"""What the search raises: it rewards finding a particle and placing its box, and is what early stopping looks at."""


@dataclass(frozen=True, slots=True)
class Range:
    """Where one parameter is searched.

    Attributes:
        name: As in `with_values`.
        low, high: Bounds, both included.
        reason: Why these.
        logarithmic: Each factor of ten is searched alike.
    """

    name: str
    low: float
    high: float
    reason: str
    logarithmic: bool = False


SGD_RATE = Range("lr0", 1e-3, 3e-2, "Table 3's 0.00996 and a factor of 3 to 10 around it; above, SGD diverges", True)
ADAM_RATE = Range("lr0", 1e-4, 3e-3, "AdamW's usual 1e-3 and a factor of 3 to 10 around it", True)
SPACE = (
    Range("lrf", 1e-3, 1e-1, "Table 3's 0.00724 of lr0; a tenth is Ultralytics' upper end", True),
    Range("momentum", 0.85, 0.98, "Table 3's 0.939; outside, SGD hardly averages or hardly turns"),
    Range("weight_decay", 1e-5, 2e-3, "Table 3's 0.0005, from almost none to four times", True),
    Range("warmup_epochs", 0.0, 5.0, "Table 3's 2.03, from none to 5 % of a run of 100 epochs"),
    Range("warmup_momentum", 0.5, 0.95, "Table 3's 0.874, below the momentum that it grows to"),
    Range("box", 3.0, 10.0, "Table 3's 5.5; Ultralytics' own is 7.5"),
    Range("cls", 0.3, 2.0, "Table 3's 0.699; Ultralytics' own is 0.5, and 39 classes want it higher"),
    Range("dfl", 0.8, 2.5, "Table 3's 1.43; Ultralytics' own is 1.5"),
    Range("hue", 0.0, 0.05, "Table 3's 0.0173; more turns unstained sediment into stained"),
    Range("saturation", 0.0, 0.9, "Table 3's 0.828 is near the upper end"),
    Range("value", 0.0, 0.6, "Table 3's 0.238; more makes cells invisible"),
    Range("scale", 0.1, 0.9, "Table 3's 0.35 for whole fields; crops go to 0.8, another objective's cells"),
    Range("flip", 0.0, 0.5, "Table 3's 0.286; 0.5 is every mirror image alike"),
    Range("mosaic", 0.0, 1.0, "Table 3's 0.408, from never to always"),
)
WHOLE_FIELDS = (Range("translate", 0.0, 0.3, "Table 3's 0.135; beyond a third most of the field is gone"),)
"""Searched where crops show whole fields; the place of other crops is drawn anyway."""

_OF_TRAINING = ("lr0", "lrf", "momentum", "weight_decay", "warmup_epochs", "warmup_momentum", "box", "cls", "dfl")
_OF_AUGMENTATION = ("hue", "saturation", "value", "flip", "mosaic", "translate")


def space(config: TrainConfig) -> tuple[Range, ...]:
    """The ranges that make sense for a run's optimiser and recipe."""
    rate = SGD_RATE if config.optimizer == "SGD" else ADAM_RATE
    return (rate, *SPACE, *(WHOLE_FIELDS if config.augmentation.whole else ()))


def values_of(config: TrainConfig) -> dict[str, float]:
    """The values of a run, by parameter."""
    own_warmup = config.overrides()["warmup_epochs"]
    return {
        **{name: getattr(config, name) for name in _OF_TRAINING},
        "warmup_epochs": own_warmup,
        **{name: getattr(config.augmentation, name) for name in _OF_AUGMENTATION},
        "scale": config.augmentation.scale[1] - 1,
    }


def with_values(config: TrainConfig, values: Mapping[str, float]) -> TrainConfig:
    """A run with other values of its parameters.

    Args:
        config: The run.
        values: By parameter. `scale` s zooms whole fields by 1 - s to 1 + s, and crops by 1 / (1 + s) to 1 + s.

    Raises:
        UnknownName: There is no such parameter.
    """
    strangers = values.keys() - values_of(config).keys()
    if strangers:
        raise UnknownName(f"{', '.join(sorted(strangers))}: no parameter; there are {', '.join(values_of(config))}")
    of_augmentation: dict[str, Any] = {name: values[name] for name in _OF_AUGMENTATION if name in values}
    of_training: dict[str, Any] = {name: values[name] for name in _OF_TRAINING if name in values}
    if "scale" in values:
        gain = values["scale"]
        of_augmentation["scale"] = (1 - gain if config.augmentation.whole else 1 / (1 + gain), 1 + gain)
    return replace(config, augmentation=replace(config.augmentation, **of_augmentation), **of_training)


def read_values(path: Path) -> dict[str, float]:
    """The parameters of a `best.json`.

    Raises:
        InputError: It is not such a file.
    """
    try:
        return {
            name: float(value) for name, value in json.loads(path.read_text(encoding="utf-8"))["parameters"].items()
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"{path} holds no parameters; give the best.json that `search sediment` wrote") from None


def search(
    config: TrainConfig,
    trials: int,
    *,
    parameters: tuple[str, ...] = (),
    done: Callable[[], object] = lambda: None,
) -> Path:
    """Train with one set of values after the other, the first being those of `config`.

    `config.output` then holds `study.journal`, `trials.csv`, a scatter plot of every parameter for each of precision,
    recall, mAP50 and mAP50-95 (finished trials; the best is marked with a cross), and a folder a trial with its
    `metrics.csv`. Trials that were ended early are in the table but not in the plots: they were trained for less.

    Args:
        config: The run of one trial. Its `resume` is not looked at: a study that is there is gone on with.
        trials: Trials that the study shall have in the end, earlier ones included.
        parameters: Search these only; by default all of `space`.
        done: Called after each trial.

    Returns:
        `best.json` with the best parameters, which `train sediment --hyperparameters` takes.

    Raises:
        UnknownName: A parameter that is not in the space.
        InputError: The study there was made with other settings, or no trial finished.
    """
    ranges = [each for each in space(config) if not parameters or each.name in parameters]
    strangers = set(parameters) - {each.name for each in ranges}
    if strangers:
        names = ", ".join(each.name for each in space(config))
        raise UnknownName(f"{', '.join(sorted(strangers))}: not searched with this recipe; choose from {names}")
    config.output.mkdir(parents=True, exist_ok=True)
    study = _study(config, ranges)
    for _ in range(trials - len(_ended(study))):
        trial = study.ask()
        _run(study, trial, config, ranges)
        _write_table(study, ranges, config.output / "trials.csv")
        done()
    return _conclude(study, ranges, config.output)


def _study(config: TrainConfig, ranges: list[Range]) -> optuna.Study:
    """The study of the run's folder, with what a killed process left unfinished queued again."""
    import optuna
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(config.output / "study.journal")))
    study = optuna.create_study(
        storage=storage,
        study_name="sediment",
        direction="maximize",
        load_if_exists=True,
        # A quarter of a trial is learning rate and warm-up; five finished trials make a median worth something.
        pruner=optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=config.epochs // 4),
    )
    study.sampler = optuna.samplers.TPESampler(seed=config.seed + len(study.trials))
    settings = {**config.settings(), "parameters": [each.name for each in ranges]}
    before = study.user_attrs.get("settings")
    if before is None:
        study.set_user_attr("settings", settings)
        start = values_of(config)
        study.enqueue_trial({each.name: min(max(start[each.name], each.low), each.high) for each in ranges})
    elif before != settings:
        changed = ", ".join(name for name in settings if before.get(name) != settings[name])
        raise InputError(
            f"{config.output} holds a search with another {changed}; give those again, or another --output"
        )
    for trial in study.get_trials(states=(optuna.trial.TrialState.RUNNING,)):
        study.enqueue_trial(trial.params, user_attrs={"folder": trial.user_attrs.get("folder", _folder(trial.number))})
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
    return study


def _folder(number: int) -> str:
    return f"trial-{number:04d}"


def _ended(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """Trials that came to their end, and those that were ended early."""
    from optuna.trial import TrialState

    return study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED))


def _run(study: optuna.Study, trial: optuna.Trial, config: TrainConfig, ranges: list[Range]) -> None:
    """Train with the values of one trial."""
    from optuna.trial import TrialState

    values = {each.name: trial.suggest_float(each.name, each.low, each.high, log=each.logarithmic) for each in ranges}
    folder = trial.user_attrs.get("folder", _folder(trial.number))
    trial.set_user_attr("folder", folder)
    run = replace(with_values(config, values), output=config.output / folder)
    trainer = SedimentTrainer(replace(run, resume=run.checkpoint.is_file()))
    pruned = False

    def report(trainer: SedimentTrainer) -> None:
        nonlocal pruned
        if trainer.fitness is None:  # an epoch that was not measured
            return
        trial.set_user_attr("epoch", trainer.epoch + 1)
        trial.set_user_attr("figures", {name: float(trainer.metrics[column]) for name, column in FIGURES.items()})
        trial.report(float(trainer.metrics[FIGURES[OBJECTIVE]]), trainer.epoch + 1)
        if trial.should_prune() and trainer.epoch + 1 < trainer.epochs:
            pruned = trainer.stop = True

    trainer.add_callback("on_fit_epoch_end", report)
    try:
        trainer.train()
    except RuntimeError as error:
        if "NaN" not in str(error):
            raise
        pruned = True  # values that diverge are an answer too
    shutil.rmtree(run.checkpoint.parent, ignore_errors=True)  # 300 trials would leave 10 GB
    if pruned:
        study.tell(trial, state=TrialState.PRUNED)
        return
    figures = trainer.figures()
    trial.set_user_attr("epoch", figures["epoch"])
    trial.set_user_attr("figures", {name: figures[name] for name in FIGURES})
    study.tell(trial, figures[OBJECTIVE])


def _write_table(study: optuna.Study, ranges: list[Range], path: Path) -> None:
    names = [each.name for each in ranges]
    with path.open("w", newline="", encoding="utf-8") as lines:
        writer = csv.DictWriter(lines, ["trial", "state", "folder", "epoch", "seconds", *names, *FIGURES])
        writer.writeheader()
        for trial in _ended(study):
            seconds = trial.duration.total_seconds() if trial.duration else 0.0
            row: dict[str, Any] = {
                "trial": trial.number,
                "state": "finished" if trial.state.name == "COMPLETE" else "ended early",
                "folder": trial.user_attrs["folder"],
                "epoch": trial.user_attrs.get("epoch", ""),
                "seconds": round(seconds, 1),
            }
            figures = trial.user_attrs.get("figures", {})
            writer.writerow({**row, **{name: f"{trial.params[name]:.6g}" for name in names}, **figures})


def _conclude(study: optuna.Study, ranges: list[Range], output: Path) -> Path:
    """Plots and the best parameters."""
    from optuna.trial import TrialState

    finished = study.get_trials(states=(TrialState.COMPLETE,))
    if not finished:
        raise InputError(f"{output}: no trial came to its end; allow more --trials")
    best = max(range(len(finished)), key=lambda index: finished[index].value or 0.0)
    logarithmic = [each.name for each in ranges if each.logarithmic]
    for name in FIGURES:
        draw_scatter(
            {each.name: [trial.params[each.name] for trial in finished] for each in ranges},
            [trial.user_attrs["figures"][name] for trial in finished],
            name=name,
            chosen=best,
            logarithmic=logarithmic,
            picture=output / f"scatter-{name}.png",
        )
    chosen = finished[best]
    content = {"trial": chosen.number, "figures": chosen.user_attrs["figures"], "parameters": chosen.params}
    path = output / "best.json"
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return path
