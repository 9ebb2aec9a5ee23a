"""Training of the networks that find glomeruli, in plain torch, from scratch or from a pretrained encoder.

Three recipes. `TrainConfig` as it stands is ours: AdamW under one cosine, the mean of the weights over the last steps,
BCE + Dice on both channels, stains and scales beyond those of the data; it trains from scratch on a CPU. `thesis` is
that of the thesis on human slides (sections 5.2 to 5.5), `mouse` that of Meconcelli et al. (ESANN 2022, section 3.1).

A run that is killed goes on from the end of its last epoch, and ends with the weights that it would have had.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader

from renalcore.engine.devices import usable_threads
from renalcore.errors import InputError, ModelError
from renalcore.histology import card
from renalcore.histology.annotations import LabelledSlide, ReadOptions, read_slides
from renalcore.histology.data import MOUSE, REFERENCE_PX, THESIS, Augmentation, FieldDataset, TileDataset, collate
from renalcore.histology.glomeruli import TYPICAL_GLOMERULUS_UM
from renalcore.histology.losses import Loss
from renalcore.histology.networks import (
    GLOMERULUS,
    NETWORKS,
    GlomerulusNetwork,
    build_network,
    freeze_encoder,
    load_start,
    save_weights,
)
from renalcore.metrics.segmentation import DiceCurve
from renalcore.models import InputScale, ModelCard, TrainingData, write_card
from renalcore.runs import metrics_table
from renalcore.runs.plots import draw_curves
from renalcore.runs.training import Progress, autocast, averaging, pace, write_checkpoint

FINISHED: Final = "figures.json"
"""What a run writes last; a run whose folder holds it is finished."""

Recipe = Literal["scratch", "thesis", "mouse"]

_SLICE_PX: Final = 512
"""Side of a tile in use, larger than in training: less of it is edge, where a network sees too little."""
_OVERLAP: Final = 0.25
_MEASURED: Final = ("loss", "dice", "jaccard", "best_dice", "best_threshold")


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """A training run; the defaults are our own recipe.

    Attributes:
        data: Folder of labelled slides, in any form of `renalcore.histology.annotations`.
        output: Folder of the run: checkpoint, `metrics.csv`, final safetensors with their card.
        network: One of `renalcore.histology.networks.NETWORKS`; the default is what a CPU can afford.
        size_px: Side of a training tile, the thesis': two or three glomeruli fit in.
        batch: Tiles a step; fewer make the statistics of the batch norms rough, more mean fewer steps an hour.
        augmentation: How tiles are changed.
        epochs: Length of the run, unless `hours` is given.
        frozen_epochs: Of these, those at the beginning in which the decoder alone learns; with `hours` the same share.
        hours: End after this time of training, all its parts together.
        items: Tiles an epoch; None gives four a slide.
        loss: What is minimised; both channels count alike.
        optimizer: AdamW, or Adam whose weight decay is a term of the loss.
        lr0: Highest learning rate.
        warmup: Share of the run, or of each of its two phases, in which the learning rate rises.
        annealed: Let the learning rate fall along half a cosine to a hundredth; otherwise it stays.
        weight_decay: Pull of the weights towards zero.
        average: Steps over which the weights are averaged; 1 keeps the last ones.
        licence: Licence words of the slides, for the model's card.
        held_out: Groups to validate on instead of the data's own split.
        reading: What the data cannot say of themselves.
        start: Weights to begin from (safetensors): of the same network, or a pretrained encoder.
        resume: Go on from `output`'s checkpoint.
        validate_every: Measure after every so many epochs, and at the end; 0 at the end only.
        bf16: Compute in bfloat16, on the CPU too; losses stay in float32.
        workers: Processes that prepare tiles beside a GPU; beside a CPU's own work they only compete.
        seed: Of tiles and weights.
    """

    data: Path
    output: Path
    network: str = "linknet-efficientnet-b0"
    size_px: int = 256
    batch: int = 8
    augmentation: Augmentation = field(default_factory=Augmentation)
    epochs: int = 100
    frozen_epochs: int = 0
    hours: float | None = None
    items: int | None = None
    loss: Loss = field(default_factory=lambda: Loss(bce=1.0, dice=1.0))
    optimizer: Literal["AdamW", "Adam"] = "AdamW"
    lr0: float = 1e-3
    warmup: float = 0.03
    annealed: bool = True
    weight_decay: float = 0.02
    average: int = 1000
    licence: str = "not stated"
    held_out: tuple[str, ...] = ()
    reading: ReadOptions = field(default_factory=ReadOptions)
    start: Path | None = None
    resume: bool = False
    validate_every: int = 5
    bf16: bool = True
    workers: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        if self.frozen_epochs and self.frozen_epochs >= self.epochs:
            raise InputError(f"of {self.epochs} epochs {self.frozen_epochs} cannot be those of the decoder alone")

    @property
    def checkpoint(self) -> Path:
        """What a resumed run goes on from."""
        return self.output / "checkpoint.pt"

    @property
    def key(self) -> str:
        """The model's name in the registry."""
        return f"histology-{self.network}"

    @property
    def weights(self) -> Path:
        """The result."""
        return self.output / self.key / f"{self.key}.safetensors"


FOLDS: Final[dict[Recipe, int]] = {"scratch": 5, "thesis": 4, "mouse": 5}
"""How many folds the recipes have."""


def with_recipe(config: TrainConfig, recipe: Recipe) -> TrainConfig:
    """The same run as one of the papers has it.

    The thesis names neither optimiser nor rate; it follows fastai's one-cycle, whose usual values these are.
    """
    if recipe == "thesis":
        return replace(
            config,
            size_px=256,
            batch=16,
            augmentation=THESIS,
            epochs=6 + 32,
            frozen_epochs=6,
            loss=Loss(lovasz=1.0),
            lr0=2e-3,
            warmup=0.25,
            weight_decay=0.01,
            average=1,
        )
    if recipe == "mouse":
        return replace(
            config,
            size_px=512,
            batch=2,
            augmentation=MOUSE,
            epochs=10,
            loss=Loss(bce=1.0),
            optimizer="Adam",
            lr0=2.5e-4,
            warmup=0.0,
            annealed=False,
            weight_decay=0.0005,
            average=1,
        )
    return config


def train(config: TrainConfig) -> Path:
    """Train, and write the weights as fp16 safetensors with a card that promises nothing.

    The run's folder also holds `metrics.csv` (epoch by epoch, `nan` where nothing was measured), `curves.png` and
    `figures.json`: what the kept weights reach on the held-out slides, pixels of all slides pooled.

    Returns:
        The safetensors file, `output/KEY/KEY.safetensors`; `output` is a folder of models.

    Raises:
        InputError: The data cannot be read, hold no glomerulus to train on, or there is nothing to resume.
        ModelError: There is no such network, `start` does not fit, or the loss became infinite.
    """
    if config.resume and not config.checkpoint.is_file():
        raise InputError(f"{config.output} holds no checkpoint to resume from; start without --resume")
    slides, validation = read_slides(config.data, config.reading).sides(config.held_out)
    if not any(slide.glomeruli for slide in slides):
        raise InputError(f"no glomerulus is outlined in the training slides of {config.data}; give other data")
    tiles = TileDataset(
        slides, size_px=config.size_px, augmentation=config.augmentation, items=config.items, seed=config.seed
    )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        torch.set_num_threads(usable_threads())
    loader: DataLoader[Any] = DataLoader(
        tiles,  # random already
        batch_size=config.batch,
        drop_last=len(tiles) > config.batch,
        num_workers=config.workers if device.type == "cuda" else 0,
        collate_fn=collate,
        pin_memory=device.type == "cuda",
    )

    torch.manual_seed(config.seed)
    network = build_network(config.network)
    if config.start is not None:
        load_start(network, config.start)
    network = network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    averaged: Any = AveragedModel(network, multi_avg_fn=averaging(config.average), use_buffers=True)
    made = torch.optim.AdamW if config.optimizer == "AdamW" else torch.optim.Adam
    optimizer = made(network.parameters(), lr=config.lr0, weight_decay=config.weight_decay)
    run = Progress(steps_an_epoch=len(loader), epochs=config.epochs, hours=config.hours)
    if config.resume:
        _restore(config, run, network, averaged, optimizer, device)
    config.output.mkdir(parents=True, exist_ok=True)
    finished, table = config.output / FINISHED, config.output / "metrics.csv"
    if run.share >= 1 and finished.is_file():
        raise InputError(
            f"{config.output} is finished after {run.epoch} epochs, there is nothing to resume; "
            "give more --epochs or --hours, or begin a new run from its weights with --start"
        )
    finished.unlink(missing_ok=True)
    rows: list[dict[str, Any]] = [*metrics_table.keep(table, run.epoch)]

    figures: dict[str, float] = {}
    if run.share >= 1 and validation:  # killed after its last epoch
        figures = measure(averaged.module, validation, config, device)
    frozen = config.frozen_epochs / config.epochs
    run.begin()
    while run.share < 1:
        torch.manual_seed(config.seed + run.epoch)  # what is dropped out is the same after a kill
        tiles.start_epoch(run.epoch)
        network.train()
        losses = []
        for batch in loader:
            if config.frozen_epochs:
                freeze_encoder(network, frozen=run.share < frozen)
            rate = pace(run.share, warmup=config.warmup, annealed=config.annealed, frozen=frozen)
            optimizer.param_groups[0]["lr"] = config.lr0 * rate
            losses.append(_step(config, network, optimizer, batch, device))
            averaged.update_parameters(network)
            run.step()
            if run.share >= 1:
                break
        run.epoch += 1
        due = run.share >= 1 or (config.validate_every and run.epoch % config.validate_every == 0)
        figures = measure(averaged.module, validation, config, device) if due and validation else {}
        values = {"train/loss": sum(losses) / len(losses)}
        values |= {f"val/{name}": figures.get(name, math.nan) for name in _MEASURED}
        values |= {"lr/lr": config.lr0 * rate}
        formatted = {name: f"{value:.5g}" for name, value in values.items()}
        rows.append({"epoch": run.epoch, "time": round(run.seconds, 1), **formatted})
        metrics_table.write(table, rows)
        write_checkpoint(
            config.checkpoint,
            {
                "network_name": config.network,
                "network": network.state_dict(),
                "averaged": averaged.state_dict(),
                "optimizer": optimizer.state_dict(),
                "progress": run.told(),
            },
        )

    config.weights.parent.mkdir(exist_ok=True)
    save_weights(averaged.module, config.weights)
    write_card(_card(config, slides), config.weights.parent)
    draw_curves(table, config.output / "curves.png")
    told = {"epoch": run.epoch, "slides": len(validation), **{name: round(v, 5) for name, v in figures.items()}}
    finished.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    return config.weights


def _step(
    config: TrainConfig,
    network: GlomerulusNetwork,
    optimizer: torch.optim.Optimizer,
    batch: dict[str, Tensor],
    device: torch.device,
) -> float:
    """One step of the optimiser; returns the loss before it."""
    pictures, targets, known = on(device, batch)
    with autocast(device, enabled=config.bf16):
        answers = network.answers(pictures)
    loss = torch.stack([config.loss(answer, targets, known) for answer in answers]).mean()
    if not torch.isfinite(loss):
        raise ModelError(f"the loss became {loss.item()}; go on from the last checkpoint with a lower --lr0")
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(network.parameters(), 10.0)
    optimizer.step()
    return loss.item()


@torch.no_grad()
def measure(
    network: GlomerulusNetwork, slides: Sequence[LabelledSlide], config: TrainConfig, device: torch.device
) -> dict[str, float]:
    """What a network reaches on whole slides at its middle zoom, where somebody knows what is there; pixels are pooled.

    Returns:
        `loss`, the mean over the slides; `dice` and `jaccard` at a probability of 0.5; `best_dice`, that of the
        threshold that suits these slides best, which is `best_threshold`.
    """
    network.eval()
    curves, losses = [], []
    for batch in DataLoader(
        FieldDataset(slides, zoom=config.augmentation.middle_zoom), batch_size=1, collate_fn=collate
    ):
        pictures, targets, known = on(device, batch)
        logits = network(pictures).float()
        losses.append(config.loss(logits, targets, known).item())
        judged = known[0, 0] > 0
        chance = torch.where(judged, logits[0, GLOMERULUS].sigmoid(), 0.0).cpu().numpy()
        curves.append(DiceCurve.of(chance, torch.where(judged, targets[0, GLOMERULUS] > 0.5, False).cpu().numpy()))
    total = sum(curves[1:], curves[0])
    dice = float(total.dice[np.abs(total.thresholds - 0.5).argmin()])
    return {
        "loss": sum(losses) / len(losses),
        "dice": dice,
        "jaccard": dice / (2 - dice),
        "best_dice": total.best.dice,
        "best_threshold": total.best.threshold,
    }


def on(device: torch.device, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """A batch of tiles on its device: pictures `(B, 3, S, S)` in 0..1, targets `(B, 2, S, S)`, known `(B, 1, S, S)`."""
    pictures, targets, known = (batch[name].to(device, non_blocking=True) for name in ("image", "mask", "known"))
    return (pictures.float() / 255).contiguous(memory_format=torch.channels_last), targets, known


def _restore(
    config: TrainConfig,
    run: Progress,
    network: GlomerulusNetwork,
    averaged: Any,
    optimizer: torch.optim.Optimizer,
    device: torch.device,
) -> None:
    """Go on where the checkpoint stands."""
    kept = torch.load(config.checkpoint, map_location=device, weights_only=True)
    if kept["network_name"] != config.network:
        raise InputError(f"{config.output} trains {kept['network_name']}; resume it with that --network")
    network.load_state_dict(kept["network"])
    averaged.load_state_dict(kept["averaged"])
    optimizer.load_state_dict(kept["optimizer"])
    run.epoch, run.steps, run.seconds = kept["progress"]


def _card(config: TrainConfig, slides: Sequence[LabelledSlide]) -> ModelCard:
    """A card for the weights of a run: what they were shown, and no figure."""
    architecture = NETWORKS[config.network]
    least, greatest = config.augmentation.zoom
    began = "from weights of an earlier run" if config.start is not None else "from scratch"
    return card.unmeasured(
        config.key,
        config.weights,
        title=f"{architecture.title} for glomeruli",
        architecture=f"{architecture.title}, two channels (glomerulus and its core), trained {began}",
        scale=architecture.encoder,
        network=config.network,
        shown=InputScale(
            slice_px=_SLICE_PX,
            overlap=_OVERLAP,
            um_per_px=TYPICAL_GLOMERULUS_UM["human"] / (config.augmentation.middle_zoom * REFERENCE_PX),
            object_px=(least * REFERENCE_PX, greatest * REFERENCE_PX),
        ),
        training_data=[
            TrainingData(config.data.resolve().name, config.licence, len(slides), "glomeruli outlined by people")
        ],
        slides=slides,
    )
