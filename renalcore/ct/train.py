"""Training of the three networks of Lv and Wang (2021), from scratch, in plain torch.

`TrainConfig` as it stands is ours, for a CPU: the small width, patches, AdamW under one cosine, the mean of the weights
over the last steps. `paper` is theirs as far as it is told: whole grids, four a step, 50 epochs, Kaiming, Dice +
weighted cross-entropy, Adam; the full width.

Scans that are drawn and crops that are cut are made once and kept in `output/samples`. A run that is killed goes on
from the end of its last epoch, and ends with the weights that it would have had. Once all three steps are there, they
become one model with its card.
"""

from __future__ import annotations

import csv
import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader

from renalcore.ct.card import drawn_scans, grown_slices, implanted_scans, unmeasured
from renalcore.ct.data import (
    HELD_OUT,
    Case,
    folds_of,
    is_randomised,
    prepare,
    prepare_implants,
    prepare_slices,
    read_cases,
    train_and_validation,
)
from renalcore.ct.items import Augmentation, StepDataset, alike, whole_samples
from renalcore.ct.losses import SMOOTH_VOXELS, Loss
from renalcore.ct.networks import (
    FULL_WIDTH,
    SMALL_WIDTH,
    StepNetwork,
    build_network,
    load_networks,
    save_networks,
)
from renalcore.ct.slices import Slice, Texture, read_slices, tumour_textures
from renalcore.ct.steps import COARSE, STEPS, Shape, Step, StepName
from renalcore.engine.devices import usable_threads
from renalcore.errors import InputError, ModelError
from renalcore.models import TrainingData, write_card
from renalcore.runs import metrics_table
from renalcore.runs.plots import draw_curves
from renalcore.runs.training import Progress, autocast, averaging, pace, write_checkpoint

FINISHED: Final = "figures.json"
"""What a step writes last; a step whose folder holds it is finished."""
FOLDS: Final = 5
"""The paper's; `train ct --folds N` may ask for others."""
SHARE_OF_SCANS: Final = 0.25
"""Of what is shown, those of `TrainConfig.scans`, or more where they are many."""

_OfPatient = TypeVar("_OfPatient", Slice, Case)

LABEL_WEIGHTS: Final = MappingProxyType(
    {"rough": (1.0, 4.0, 4.0, 4.0), "kidney": (1.0, 2.0, 4.0, 8.0), "lesion": (1.0, 1.0, 2.0, 3.0)}
)
"""Of the cross-entropy, by step and label of KiTS: the rarer a label, the more its voxels count. The paper names no
numbers. A cyst is a hundredth of the kidney that it lies on: step 2 would cut it off, and step 3 never see it."""

PATCHES: Final = MappingProxyType({"rough": (64, 96, 112), "kidney": (64, 80, 80), "lesion": (48, 64, 64)})
"""Voxels of a training patch on a CPU: a seventh to a third of the grid, so that an hour holds more steps."""

CHOSEN_FROM: Final = 4
"""Batches that are made at once, each of items of about one size."""


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """A training of one step; the defaults are our own recipe for a CPU.

    Attributes:
        data: Folder of KiTS cases, of label maps, or of both; see `renalcore.ct.data`.
        output: Folder of the run, which the three steps share.
        step: Which of them.
        network: One of `renalcore.ct.networks.NETWORKS`.
        width: Channels of its finest level.
        synthetic: Scans to draw around label maps.
        randomised: Share of these whose tissues are as bright as chance has it, as in SynthSeg; none that validates.
        whole: Train on whole grids instead of on patches.
        patch: Voxels of a patch; None for that of `PATCHES`.
        coarse: Train on voxels twice as wide (`COARSE`): an hour holds many more samples. The network is used so too.
        batch: Samples a step.
        augmentation: How samples are changed; None for that of `renalcore.ct.items.AUGMENTATIONS`.
        epochs: Length of the run, unless `hours` is given.
        hours: End after this time of training, all parts of the run together.
        items: Samples an epoch; None gives each scan once.
        dice, cross_entropy: Weights of the two parts of the loss.
        optimizer: AdamW, or Adam whose weight decay is a term of the loss.
        lr0: Highest learning rate.
        warmup: Share of the run in which it rises.
        annealed: Let it fall along half a cosine to a hundredth; otherwise it stays.
        weight_decay: Pull of the weights towards zero.
        average: Steps over which the weights are averaged; 1 keeps the last ones.
        licence: Licence words of the data, for the model's card.
        licences: Those of single folders, by their names, where they are others.
        notes: What else the card says of single folders, by their names, e.g. who outlined the scans.
        slices: Folders of labelled slices to train on as well, see `renalcore.ct.slices`.
        scans: Folders of KiTS cases to train on as well. About a quarter of what is shown is theirs, however few they
            are, or more: nothing that is drawn or grown looks like a real abdomen.
        implants: Scans of these to train on with lesions put into them (`renalcore.ct.synthetic.implants`): outlines
            of those in `data`, texture of those on `slices`.
        start: Weights to begin from (safetensors), of the same network and width: those of this step, or of another
            one but for its first and last layers where they differ.
        held_out: Patients to validate on, instead of a share chosen by their names.
        resume: Go on from the checkpoint.
        validate_every: Measure after every so many epochs, and at the end; 0 at the end only.
        bf16: Compute in bfloat16, on the CPU too; losses stay in float32.
        workers: Processes that prepare samples beside a GPU.
        seed: Of samples and weights.
    """

    data: Path
    output: Path
    step: StepName = "rough"
    network: str = "unet3d"
    width: int = SMALL_WIDTH
    synthetic: int = 300
    randomised: float = 0.0
    whole: bool = False
    patch: Shape | None = None
    coarse: bool = False
    batch: int = 2
    augmentation: Augmentation | None = None
    epochs: int = 50
    hours: float | None = None
    items: int | None = None
    dice: float = 1.0
    cross_entropy: float = 1.0
    optimizer: Literal["AdamW", "Adam"] = "AdamW"
    lr0: float = 2e-3
    warmup: float = 0.03
    annealed: bool = True
    weight_decay: float = 0.01
    average: int = 300
    licence: str = "not stated"
    licences: Mapping[str, str] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)
    slices: tuple[Path, ...] = ()
    scans: tuple[Path, ...] = ()
    implants: int = 0
    start: Path | None = None
    held_out: tuple[str, ...] = ()
    resume: bool = False
    validate_every: int = 5
    bf16: bool = True
    workers: int = 8
    seed: int = 0

    @property
    def folder(self) -> Path:
        """Where this step's checkpoint, table, curves and weights lie."""
        return self.output / self.step

    @property
    def checkpoint(self) -> Path:
        """What a resumed run goes on from."""
        return self.folder / "checkpoint.pt"

    @property
    def weights(self) -> Path:
        """The result of this step."""
        return self.folder / "weights.safetensors"

    @property
    def shown(self) -> Shape:
        """Voxels of a training sample."""
        return STEPS[self.step].shape if self.whole else self.patch or PATCHES[self.step]

    @property
    def validation_scans(self) -> int:
        """Scans to draw around label maps that are held out."""
        return max(1, self.synthetic // 15)

    @property
    def loss(self) -> Loss:
        """What is minimised."""
        return Loss(
            LABEL_WEIGHTS[self.step], STEPS[self.step].from_labels, dice=self.dice, cross_entropy=self.cross_entropy,
            smooth=SMOOTH_VOXELS / (COARSE**3 if self.coarse else 1),
        )  # fmt: skip

    @property
    def key(self) -> str:
        """The name of the model that the three steps become."""
        return f"ct-{self.network}"


def with_recipe(config: TrainConfig, recipe: Literal["cpu", "paper"]) -> TrainConfig:
    """The same run as the paper has it; it names neither optimiser nor rate, and Adam at 1e-3 is usual."""
    if recipe == "cpu":
        return config
    plain = Augmentation(mirror=0.0, noise_hu=0.0, blur=0.0, region_mm=0.0)
    return replace(
        config, width=FULL_WIDTH, whole=True, batch=4, augmentation=plain, epochs=50, optimizer="Adam", lr0=1e-3,
        warmup=0.0, annealed=False, weight_decay=0.0, average=1,
    )  # fmt: skip


def train_all(config: TrainConfig) -> Path:
    """Train the three steps one after the other; `hours` is the time of each.

    With `config.resume` finished steps are left as they are, and one that never began begins.

    Returns:
        The safetensors file of the model.
    """
    made = config.weights
    for step in STEPS:
        each = replace(config, step=step)
        if not (config.resume and (each.folder / FINISHED).is_file()):
            made = train(replace(each, resume=config.resume and each.checkpoint.is_file()))
    return model_of(config) or made


def cross_validate(config: TrainConfig, folds: int, *, steps: Sequence[StepName], only: int | None = None) -> Path:
    """Train some steps once for each fold, each time validating on the patients of that fold.

    Fold K has its own run in `output/fold-K`; with `config.resume` what is finished stays, and the rest goes on. Once
    its three steps are there, `evaluate ct --folds output` judges each patient by the fold that held it out.

    Args:
        config: The run of one fold; its `held_out` and its `step` are chosen here.
        folds: How many folds.
        steps: Which steps.
        only: Train this fold alone, counted from 1.

    Returns:
        `output/folds.csv`: a row for each finished step of each fold.

    Raises:
        InputError: There is no such fold, or the patients cannot be divided.
    """
    if only is not None and not 1 <= only <= folds:
        raise InputError(f"there is no fold {only}; folds are counted from 1 to {folds}")
    held_out = folds_of(read_cases(config.data), folds)
    for number, groups in enumerate(held_out, start=1):
        output = config.output / f"fold-{number}"
        told = output / HELD_OUT
        if told.is_file() and json.loads(told.read_text(encoding="utf-8")) != list(groups):
            raise InputError(f"{output} held out other patients; give another --output")
        if only not in (None, number):
            continue
        output.mkdir(parents=True, exist_ok=True)
        told.write_text(json.dumps(groups) + "\n", encoding="utf-8")
        for step in steps:
            each = replace(config, output=output, held_out=groups, step=step)
            if not (config.resume and (each.folder / FINISHED).is_file()):
                train(replace(each, resume=config.resume and each.checkpoint.is_file()))
    return _write_folds(config.output, folds)


def _write_folds(output: Path, folds: int) -> Path:
    rows = [
        {"fold": number, "step": step, **json.loads(told.read_text(encoding="utf-8"))}
        for number in range(1, folds + 1)
        for step in STEPS
        if (told := output / f"fold-{number}" / step / FINISHED).is_file()
    ]
    names = ["fold", "step", *dict.fromkeys(name for row in rows for name in row if name not in ("fold", "step"))]
    path = output / "folds.csv"
    with path.open("w", newline="", encoding="utf-8") as lines:
        writer = csv.DictWriter(lines, names, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return path


def train(config: TrainConfig) -> Path:
    """Train one step, and write its weights as fp16 safetensors.

    Its folder also holds `metrics.csv` (epoch by epoch, `nan` where nothing was measured), `curves.png` and
    `figures.json`. When the other steps are there too, `output/KEY` becomes the model with its card.

    Returns:
        The safetensors file of this step.

    Raises:
        InputError: The data cannot be read, a licence or note is of no folder given, there is nothing to resume, or no
            lesions or no scans to put them into.
        ModelError: There is no such network, or the loss became infinite.
    """
    named = {folder.resolve().name for folder in (config.data, *config.slices, *config.scans)}
    if strangers := sorted({*config.licences, *config.notes} - named):
        raise InputError(f"{', '.join(strangers)}: no folder of this training; it has {', '.join(sorted(named))}")
    if config.resume and not config.checkpoint.is_file():
        raise InputError(f"{config.folder} holds no checkpoint to resume from; start without --resume")
    network = _begun(config)
    cases = read_cases(config.data)
    training, validation = train_and_validation(cases, config.held_out, folder=config.data)
    samples = config.output / "samples"
    cores = usable_threads()
    shown = prepare(training, samples, drawn=config.synthetic, randomised=config.randomised, workers=cores)
    validating = {case.group for case in validation}
    slices = _by_folder(config.slices, read_slices, without=validating)
    shown += prepare_slices([*chain(*slices.values())], samples, workers=cores)
    scans = _by_folder(config.scans, read_cases, without=validating)
    if not all(each.image for each in chain(*scans.values())):
        raise InputError("--scans names folders of case_xxxxx/imaging.nii.gz; label maps without a scan go into --data")
    textures = tumour_textures([*chain(*slices.values())]) if config.implants else []
    if config.implants:
        if not any(scans.values()) or not textures:
            raise InputError(
                "--implants puts lesions of the label maps in --data, with the texture of tumours on --slices, into "
                f"--scans; {'no such tumour is on the slices' if any(scans.values()) else 'no scan is given'}"
            )
        into = [*chain(*scans.values())]
        shown += prepare_implants(into, training, textures, samples, count=config.implants, workers=cores)
    repeated = often(prepare([*chain(*scans.values())], samples, drawn=0, workers=cores), among=len(shown))
    shown += repeated
    checked = prepare(validation, samples, drawn=config.validation_scans, validation=True, workers=cores)
    step = STEPS[config.step]
    items = StepDataset(
        shown, step, augmentation=config.augmentation, patch=config.shown, coarse=config.coarse, items=config.items,
        seed=config.seed,
    )  # fmt: skip
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        torch.set_num_threads(cores)
    loader: DataLoader[Any] = DataLoader(
        items,  # random already
        batch_size=CHOSEN_FROM * config.batch,
        collate_fn=partial(alike, batch=config.batch),
        num_workers=config.workers if device.type == "cuda" else 0,
        pin_memory=device.type == "cuda",
    )
    network = network.to(device).to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    averaged: Any = AveragedModel(network, multi_avg_fn=averaging(config.average), use_buffers=True)
    made = torch.optim.AdamW if config.optimizer == "AdamW" else torch.optim.Adam
    optimizer = made(network.parameters(), lr=config.lr0, weight_decay=config.weight_decay)
    run = Progress(steps_an_epoch=-(-len(items) // config.batch), epochs=config.epochs, hours=config.hours)
    if config.resume:
        _restore(config, run, network, averaged, optimizer, device)
    config.folder.mkdir(parents=True, exist_ok=True)
    finished, table = config.folder / FINISHED, config.folder / "metrics.csv"
    if run.share >= 1 and finished.is_file():
        raise InputError(f"{config.folder} is finished after {run.epoch} epochs; give more --epochs or --hours")
    finished.unlink(missing_ok=True)
    rows: list[dict[str, Any]] = [*metrics_table.keep(table, run.epoch)]

    figures: dict[str, float] = {}
    if run.share >= 1 and checked:  # killed after its last epoch
        figures = measure(config, averaged.module, checked, device)
    run.begin()
    while run.share < 1:
        torch.manual_seed(config.seed + run.epoch)
        items.start_epoch(run.epoch)
        network.train()
        losses = []
        for batch in chain.from_iterable(loader):
            rate = pace(run.share, warmup=config.warmup, annealed=config.annealed)
            optimizer.param_groups[0]["lr"] = config.lr0 * rate
            losses.append(_step(config, network, optimizer, batch, device))
            averaged.update_parameters(network)
            run.step()
            if run.share >= 1:
                break
        run.epoch += 1
        due = run.share >= 1 or (config.validate_every and run.epoch % config.validate_every == 0)
        figures = measure(config, averaged.module, checked, device) if due and checked else {}
        values = {"train/loss": sum(losses) / len(losses)}
        values |= {f"val/{name}": figures.get(name, math.nan) for name in _measured(step)}
        values |= {"lr/lr": config.lr0 * rate}
        formatted = {name: f"{value:.5g}" for name, value in values.items()}
        rows.append({"epoch": run.epoch, "time": round(run.seconds, 1), **formatted})
        metrics_table.write(table, rows)
        kept = {"network": network, "averaged": averaged, "optimizer": optimizer}
        write_checkpoint(
            config.checkpoint,
            {
                "kind": [config.network, config.step, config.width],
                **{name: part.state_dict() for name, part in kept.items()},
                "progress": run.told(),
            },
        )

    averaged.module.coarse = config.coarse  # from now on it is shown fine voxels
    save_networks({config.step: averaged.module}, config.weights)
    draw_curves(table, config.folder / "curves.png")
    told = {"epoch": run.epoch, "scans": len(checked), **{name: round(value, 5) for name, value in figures.items()}}
    finished.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    _describe(config, training, slices, scans, textures, share_of_scans=len(repeated) / len(shown))
    model_of(config)
    return config.weights


def _by_folder(
    folders: Sequence[Path], read: Callable[[Path], list[_OfPatient]], *, without: Set[str]
) -> dict[str, list[_OfPatient]]:
    """What some folders hold by their names, without some patients."""
    found: dict[str, list[_OfPatient]] = {}
    for folder in folders:
        kept = [each for each in read(folder) if each.group not in without]
        found.setdefault(folder.resolve().name, []).extend(kept)
    return found


def _begun(config: TrainConfig) -> StepNetwork:
    torch.manual_seed(config.seed)
    network = build_network(config.network, config.step, width=config.width)
    if config.start is None:
        return network
    found = load_networks(config.start)
    before = found.get(config.step) or next(iter(found.values()))
    if (before.name, before.width) != (config.network, config.width):
        raise ModelError(
            f"{config.start.name} holds a {before.name} of width {before.width}, and a {config.network} of width "
            f"{config.width} is to be trained; give weights of the same network"
        )
    own = network.state_dict()
    fitting = {name: value for name, value in before.state_dict().items() if value.shape == own[name].shape}
    network.load_state_dict(own | fitting)  # another step has other classes and inputs: those layers begin anew
    return network


def _step(
    config: TrainConfig,
    network: StepNetwork,
    optimizer: torch.optim.Optimizer,
    batch: dict[str, Tensor],
    device: torch.device,
) -> float:
    """One step of the optimiser; returns the loss before it."""
    volumes = batch["image"].to(device, non_blocking=True).contiguous(memory_format=torch.channels_last_3d)
    labels = batch["labels"].to(device, non_blocking=True)
    with autocast(device, enabled=config.bf16):
        logits = network(volumes)
    loss = config.loss(logits, labels, batch["counts"].to(device, non_blocking=True))
    if not torch.isfinite(loss):
        raise ModelError(f"the loss became {loss.item()}; go on from the last checkpoint with a lower --lr0")
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    if torch.isfinite(torch.nn.utils.clip_grad_norm_(network.parameters(), 10.0)):  # a patch of air alone may not be
        optimizer.step()
    return loss.item()


def _measured(step: Step) -> tuple[str, ...]:
    return ("loss", *(f"dice_{name}" for name in step.classes[1:]))


@torch.no_grad()
def measure(config: TrainConfig, network: StepNetwork, paths: Sequence[Path], device: torch.device) -> dict[str, float]:
    """What a network of one step reaches on whole samples that it was not trained on, as coarse as in training.

    Returns:
        `loss`, the mean over the samples, and `dice_CLASS` for each class: the mean over the samples that hold it.
    """
    network.eval()
    step, loss = STEPS[config.step], config.loss
    losses = []
    dices: dict[str, list[float]] = {name: [] for name in step.classes[1:]}
    for volume, labels in whole_samples(paths, step, coarse=config.coarse):
        with autocast(device, enabled=True):
            logits = network(volume.to(device).contiguous(memory_format=torch.channels_last_3d))
        losses.append(loss(logits, labels[None].to(device)).item())
        found = logits[0].argmax(0)
        wanted = torch.from_numpy(step.targets(labels.numpy())).to(device)
        for label, name in enumerate(step.classes[1:], start=1):
            there, said = wanted == label, found == label
            if there.any():
                dices[name].append(2 * int((there & said).sum()) / int(there.sum() + said.sum()))
    figures = {"loss": float(np.mean(losses))}
    return figures | {f"dice_{name}": float(np.mean(values)) for name, values in dices.items() if values}


def _restore(
    config: TrainConfig,
    run: Progress,
    network: StepNetwork,
    averaged: Any,
    optimizer: torch.optim.Optimizer,
    device: torch.device,
) -> None:
    """Go on where the checkpoint stands."""
    kept = torch.load(config.checkpoint, map_location=device, weights_only=True)
    if kept["kind"] != [config.network, config.step, config.width]:
        name, step, width = kept["kind"]
        raise InputError(f"{config.folder} trains {name} of width {width} for step {step}; resume it with those")
    network.load_state_dict(kept["network"])
    averaged.load_state_dict(kept["averaged"])
    optimizer.load_state_dict(kept["optimizer"])
    run.epoch, run.steps, run.seconds = kept["progress"]


def often(scans: Sequence[Path], *, among: int) -> list[Path]:
    """The samples of real scans, repeated until they are about `SHARE_OF_SCANS` of all; more where they are many.

    Args:
        scans: Files of `prepare`.
        among: How many other files there are.
    """
    wanted = among * SHARE_OF_SCANS / (1 - SHARE_OF_SCANS)
    return [*scans] * max(1, round(wanted / max(1, len(scans))))


def _describe(
    config: TrainConfig,
    training: Sequence[Case],
    slices: Mapping[str, Sequence[Slice]],
    scans: Mapping[str, Sequence[Case]],
    textures: Sequence[Texture],
    *,
    share_of_scans: float,
) -> None:
    """Write down what this step was trained on, for the card of the model: one entry for each folder and kind."""
    real = sum(case.image is not None for case in training)
    drawn = config.synthetic if len(training) > real else 0
    by_chance = sum(is_randomised(seed, config.randomised) for seed in range(drawn))
    data = config.data.resolve().name
    shown = [
        ("real of", data, real, "real CT scans with real labels"),
        ("drawn of", data, drawn, drawn_scans(min(len(training) - real, drawn), randomised=by_chance)),
    ]
    shown += [
        ("slices of", name, len(some), grown_slices(len({each.group for each in some})))
        for name, some in slices.items()
    ]
    for name, some in scans.items():
        share = share_of_scans * len(some) / max(1, sum(map(len, scans.values())))
        shown.append(
            ("scans of", name, len(some), f"real CT scans, {100 * share:.3g} % of what samples were taken from")
        )
    in_turn = [name for name, some in scans.items() for _ in some]
    implanted = Counter(in_turn[number % len(in_turn)] for number in range(config.implants))
    note = implanted_scans(len(training), len({each.group for each in textures}))
    shown += [("implanted into", name, images, note) for name, images in implanted.items()]
    content = {
        f"{kind} {name}": asdict(
            TrainingData(
                name,
                config.licences.get(name, config.licence),
                images,
                "; ".join(filter(None, (note, config.notes.get(name)))),
            )
        )
        for kind, name, images, note in shown
        if images
    }
    (config.folder / "trained_on.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _trained_on(folder: Path) -> dict[str, TrainingData]:
    """What a step was trained on, by kind and folder."""
    told = json.loads((folder / "trained_on.json").read_text(encoding="utf-8"))
    return {source: TrainingData(**entries) for source, entries in told.items()}


def model_of(config: TrainConfig) -> Path | None:
    """Join the networks of the three steps into one model with its card, `output/KEY/KEY.safetensors`.

    Returns:
        The file, or None where a step is not finished or is of another network or width.
    """
    steps = {step: replace(config, step=step) for step in STEPS}
    if not all((each.folder / FINISHED).is_file() for each in steps.values()):
        return None
    networks = {step: load_networks(each.weights)[step] for step, each in steps.items()}
    if {(network.name, network.width) for network in networks.values()} != {(config.network, config.width)}:
        return None
    folder = config.output / config.key
    folder.mkdir(exist_ok=True)
    weights = folder / f"{config.key}.safetensors"
    save_networks(networks, weights)
    sources: dict[str, TrainingData] = {}
    for each in steps.values():
        sources |= _trained_on(each.folder)
    made = unmeasured(
        config.key, weights, network=config.network, width=config.width,
        coarse=[step for step, network in networks.items() if network.coarse], training_data=tuple(sources.values()),
        real_scans=any(source.startswith(("real of", "scans of")) for source in sources),
    )  # fmt: skip
    write_card(made, folder)
    return weights
