"""Training of the RetinaNet for calcium oxalate, from scratch.

Xiang et al., "Urine Calcium Oxalate Crystallization Recognition Method Based on Deep Learning", sections II and III.
The paper enlarges its 135 fields with crystals by rotation, translation, cropping, zooming and mirroring in X and Y and
tells no ranges, optimiser or rates; those are ours. Crops, zooms and shifts are those of `renalcore.sediment.data`;
rotation is by quarter turns, which keep boxes exact where another angle would widen them.

A field takes part if somebody looked for calcium oxalate in it, or boxed some. Labels may be Pascal VOC, the paper's.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader

from renalcore import taxonomy
from renalcore.engine.devices import usable_threads
from renalcore.errors import InputError, ModelError
from renalcore.models import write_card
from renalcore.runs import metrics_table
from renalcore.runs.plots import draw_curves
from renalcore.sediment import card, evaluate
from renalcore.sediment.data import Augmentation, SedimentDataset, check_size
from renalcore.sediment.names import IGNORE
from renalcore.sediment.networks import save_weights
from renalcore.sediment.predict import SedimentDetector
from renalcore.sediment.readers import AS_IS, LabelledField, ReadOptions, read_fields
from renalcore.sediment.retinanet import CLASS_NAME, Backbone, build

KEY: Final = "sediment-caox-retinanet"
"""The model's name in the registry."""

PAPER: Final = Augmentation(grey=0.0, coloured=0.0, optics=False, paste=0.0, native=0.0)
"""The paper's augmentations and nothing else: crops, zooms, shifts, quarter turns, mirror images."""

_CAOX: Final = taxonomy.class_id(CLASS_NAME)
_FIGURES: Final = ("AP50", "AP50-95", "accuracy")


@dataclass(frozen=True, slots=True)
class CaoxConfig:
    """A training run.

    Attributes:
        data: Folder of real fields, in any form of `renalcore.sediment.readers`.
        output: Folder of the run: checkpoint, `metrics.csv`, final safetensors with their card.
        rendered: Folders of rendered fields.
        backbone: The paper's ResNet-50, or ResNet-18.
        size_px: Side of a training crop, a multiple of 32.
        batch: Crops a step; fewer than about 8 make the statistics of the batch norms rough.
        augmentation: How crops are changed: the paper's ways and, for other microscopes, light, colour and focus.
        epochs: Length of the run, unless `hours` is given.
        hours: End after this time of training, all its parts together.
        items: Crops an epoch.
        rendered_share: Share of crops from rendered fields.
        licence: Licence words of the real fields, for the model's card.
        held_out: Groups to validate on instead of the data's own split.
        reading: What the data cannot say of themselves.
        lr0: Highest learning rate of AdamW; it rises over `warmup` steps and falls along a cosine to a hundredth.
        weight_decay: Pull of the weights towards zero.
        warmup: Steps until the learning rate stands.
        resume: Go on from `output`'s checkpoint.
        validate_every: Measure after every so many epochs, and at the end; 0 at the end only.
        bf16: Compute in bfloat16, on the CPU too; losses stay in float32.
        workers: Processes that prepare crops; 0 prepares them in this one.
        seed: Of crops and weights.
    """

    data: Path
    output: Path
    rendered: tuple[Path, ...] = ()
    backbone: Backbone = "resnet50"
    size_px: int = 320
    batch: int = 16
    augmentation: Augmentation = field(default_factory=Augmentation)
    epochs: int = 100
    hours: float | None = None
    items: int = 4000
    rendered_share: float = 0.3
    licence: str = "not stated"
    held_out: tuple[str, ...] = ()
    reading: ReadOptions = AS_IS
    lr0: float = 5e-4
    weight_decay: float = 0.01
    warmup: int = 300
    resume: bool = False
    validate_every: int = 10
    bf16: bool = True
    workers: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        check_size(self.size_px)

    @property
    def checkpoint(self) -> Path:
        """The checkpoint that a resumed run goes on from."""
        return self.output / "weights" / "last.pt"


def crystal_fields(fields: Sequence[LabelledField]) -> list[LabelledField]:
    """What `fields` say of calcium oxalate: fields in which it was looked for or boxed, without other objects.

    Regions to ignore stay. A field in which nobody looked for crystals and nobody boxed one teaches nothing.
    """
    kept = []
    for each in fields:
        crystals = each.class_ids == _CAOX
        if each.known[_CAOX] or crystals.any():
            shown = crystals | (each.class_ids == IGNORE)
            kept.append(replace(each, boxes_px=each.boxes_px[shown], class_ids=each.class_ids[shown]))
    return kept


def targets(batch: dict[str, Any]) -> list[dict[str, Tensor]]:
    """What RetinaNet's loss takes, one entry a picture, from a batch of `SedimentDataset`.

    Returns:
        `boxes` `(N, 4)` in px, `labels` `(N,)` zeros, `ignored` `(R, 4)` in px, and `known`, a bool.
    """
    height, width = batch["img"].shape[2:]
    middle, sides = batch["bboxes"].chunk(2, 1)
    corners = torch.cat((middle - sides / 2, middle + sides / 2), 1) * torch.tensor([width, height] * 2)
    ignored = batch["cls"].view(-1) == IGNORE
    found = []
    for index, known in enumerate(batch["known"][:, _CAOX]):
        own = batch["batch_idx"] == index
        crystals = corners[own & ~ignored]
        labels = torch.zeros(len(crystals), dtype=torch.long)
        found.append({"boxes": crystals, "labels": labels, "ignored": corners[own & ignored], "known": known})
    return found


def train(config: CaoxConfig) -> Path:
    """Train, and write the averaged weights as fp16 safetensors with their card.

    The run's folder also holds `metrics.csv` (epoch by epoch, `nan` where nothing was measured), `curves.png` and
    `figures.json`: AP and count table of the weights that were kept, where there are fields to validate with.

    Returns:
        The safetensors file, `output/sediment-caox-retinanet/sediment-caox-retinanet.safetensors`; `output` is a folder
        of models.

    Raises:
        InputError: There is no crystal to train on, nothing to resume, or the data cannot be read.
        ModelError: The loss became infinite.
    """
    if config.resume and not config.checkpoint.is_file():
        raise InputError(f"{config.output} holds no checkpoint to resume from; start without --resume")
    data = read_fields(config.data, config.reading)
    training, validation = (crystal_fields(side) for side in data.sides(config.held_out))
    for folder in config.rendered:
        training += crystal_fields(read_fields(folder, real=False).fields)
    validation = [each for each in validation if each.known[_CAOX]]
    if not any((each.class_ids == _CAOX).any() for each in training):
        raise InputError(f"no {CLASS_NAME} is boxed in the training fields of {config.data}; add some, or --synthetic")

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(usable_threads())  # importing Ultralytics leaves one
    torch.manual_seed(config.seed)
    model = build(config.backbone).to(device, memory_format=torch.channels_last)
    averaged = AveragedModel(model, multi_avg_fn=_average, use_buffers=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr0, weight_decay=config.weight_decay)
    run = _Progress(config)
    if config.resume:
        run.load(model, averaged, optimizer, device)
    config.checkpoint.parent.mkdir(parents=True, exist_ok=True)
    finished, table = config.output / "figures.json", config.output / "metrics.csv"
    if run.share >= 1 and finished.is_file():
        raise InputError(
            f"{config.output} is finished after {run.epoch} epochs, there is nothing to resume; "
            "give more --epochs or --hours"
        )
    finished.unlink(missing_ok=True)
    rows: list[dict[str, Any]] = [*metrics_table.keep(table, run.epoch)]
    # Another seed after each resume, or the same crops would come again.
    crops = SedimentDataset(
        training,
        size_px=config.size_px,
        augmentation=config.augmentation,
        items=config.items,
        rendered_share=config.rendered_share,
        seed=config.seed + run.epoch,
    )
    loader: Any = DataLoader(
        crops,  # random already
        batch_size=config.batch,
        drop_last=len(crops) > config.batch,
        num_workers=config.workers,
        persistent_workers=config.workers > 0,
        collate_fn=SedimentDataset.collate_fn,
    )

    weights = config.output / KEY / f"{KEY}.safetensors"
    figures: dict[str, Any] = {}
    started = time.monotonic() - run.seconds
    if run.share >= 1:  # killed after its last epoch
        _write_model(config, averaged, training, weights)
        figures = _measured(config, validation, device) if validation else {}
    while run.share < 1:
        losses = []
        model.train()
        for batch in loader:
            optimizer.param_groups[0]["lr"] = run.learning_rate
            loss = _step(config, model, optimizer, batch, device)
            averaged.update_parameters(model)
            losses.append(loss)
            run.steps += 1
            run.seconds = time.monotonic() - started
            if run.share >= 1:
                break
        run.epoch += 1
        figures = {}
        if run.share >= 1 or (config.validate_every and run.epoch % config.validate_every == 0):
            _write_model(config, averaged, training, weights)
            figures = _measured(config, validation, device) if validation else {}
        classification, box = torch.tensor(losses).mean(0).tolist()
        rows.append(_row(run, classification, box, figures))
        metrics_table.write(table, rows)
        run.save(model, averaged, optimizer)
    draw_curves(table, config.output / "curves.png")
    text = json.dumps({"epoch": run.epoch, "fields": len(validation), **figures}, indent=1)
    finished.write_text(text + "\n", encoding="utf-8")
    return weights


def _step(
    config: CaoxConfig, model: torch.nn.Module, optimizer: torch.optim.Optimizer, batch: dict[str, Any], device: Any
) -> tuple[float, float]:
    """One step of the optimiser; returns the two losses before it."""
    pictures = (batch["img"].to(device).float() / 255).contiguous(memory_format=torch.channels_last)
    wanted = [{name: value.to(device) for name, value in target.items()} for target in targets(batch)]
    with torch.autocast(device.type, torch.bfloat16, enabled=config.bf16):
        losses = model(list(pictures), wanted)
    total = losses["classification"] + losses["bbox_regression"]
    if not torch.isfinite(total):
        raise ModelError(f"the loss became {total.item()}; go on from the last checkpoint with a lower --lr0")
    optimizer.zero_grad()
    total.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
    optimizer.step()
    return losses["classification"].item(), losses["bbox_regression"].item()


def _average(averages: Any, values: Any, updates: Any) -> None:
    """Move averages of weights, in place: over few steps at the beginning, over a thousand later."""
    if averages[0].is_floating_point():
        torch._foreach_lerp_(averages, values, 1 - min(0.999, (1 + int(updates)) / (10 + int(updates))))
    else:  # the batch norms' counters
        torch._foreach_copy_(averages, values)


@dataclass(slots=True)
class _Progress:
    """How far a run is, which its checkpoint keeps beside the weights."""

    config: CaoxConfig
    epoch: int = 0
    steps: int = 0
    seconds: float = 0.0

    @property
    def share(self) -> float:
        """The share of the run that is done, by the clock where it has one."""
        config = self.config
        if config.hours is not None:
            return self.seconds / (3600 * config.hours)
        whole = config.items // config.batch if config.items > config.batch else 1
        return self.steps / (whole * config.epochs)

    @property
    def learning_rate(self) -> float:
        """Warm-up, then half a cosine."""
        risen = min(1.0, (self.steps + 1) / max(self.config.warmup, 1))
        return self.config.lr0 * risen * (0.01 + 0.99 * (1 + math.cos(math.pi * min(self.share, 1.0))) / 2)

    def save(self, model: torch.nn.Module, averaged: AveragedModel, optimizer: torch.optim.Optimizer) -> None:
        """Write the checkpoint, never half of it."""
        partial = self.config.checkpoint.with_suffix(".partial")
        torch.save(
            {
                "backbone": self.config.backbone,
                "model": model.state_dict(),
                "averaged": averaged.state_dict(),
                "optimizer": optimizer.state_dict(),
                "progress": (self.epoch, self.steps, self.seconds),
            },
            partial,
        )
        partial.replace(self.config.checkpoint)

    def load(
        self, model: torch.nn.Module, averaged: AveragedModel, optimizer: torch.optim.Optimizer, device: torch.device
    ) -> None:
        """Go on where the checkpoint stands."""
        kept = torch.load(self.config.checkpoint, map_location=device, weights_only=True)
        if kept["backbone"] != self.config.backbone:
            raise InputError(
                f"{self.config.output} trains a {kept['backbone']}; resume it with --backbone {kept['backbone']}"
            )
        model.load_state_dict(kept["model"])
        averaged.load_state_dict(kept["averaged"])
        optimizer.load_state_dict(kept["optimizer"])
        self.epoch, self.steps, self.seconds = kept["progress"]


def _row(run: _Progress, classification: float, box: float, figures: dict[str, Any]) -> dict[str, Any]:
    """The row of `metrics.csv` for the epoch that has just ended."""
    values = {
        "train/cls_loss": classification,
        "train/box_loss": box,
        **{f"metrics/{name}": figures.get(name, math.nan) for name in _FIGURES},
        "lr/all": run.learning_rate,
    }
    formatted = {name: f"{value:.5g}" for name, value in values.items()}
    return {"epoch": run.epoch, "time": round(run.seconds, 1), **formatted}


def _write_model(config: CaoxConfig, averaged: AveragedModel, fields: Sequence[LabelledField], weights: Path) -> None:
    """The run's folder as a folder of models: weights and a card that promises nothing."""
    weights.parent.mkdir(exist_ok=True)
    save_weights(averaged.module, weights)
    name = {"resnet18": "ResNet-18", "resnet50": "ResNet-50"}[config.backbone]
    made = card.unmeasured(
        KEY,
        weights,
        title=f"RetinaNet ({name}) for calcium oxalate",
        architecture=f"{name}, feature pyramid, classification and box subnets (torchvision's RetinaNet), from scratch",
        scale=config.backbone,
        training_data=card.sources(config.data, config.licence, fields, note="real fields with calcium oxalate known"),
        classes=(CLASS_NAME,),
        network="retinanet",
    )
    write_card(made, weights.parent)


def _measured(config: CaoxConfig, validation: Sequence[LabelledField], device: torch.device) -> dict[str, Any]:
    """AP and count table of the weights just written, searched for as `predict` does."""
    detector = SedimentDetector.load(KEY, device=device.type, root=config.output)
    found = evaluate.evaluate(validation, evaluate.detect(detector, validation), classes=(CLASS_NAME,))
    (row,), (counts,) = found.rows, found.counts
    table = {"total": counts.total, "correct": counts.correct, "false": counts.false, "missed": counts.missed}
    return {
        "AP50": round(row.ap50, 5),
        "AP50-95": round(row.ap50_95, 5),
        "accuracy": round(counts.accuracy, 5),
        "min_score": row.reported.min_score,
        **table,
    }
