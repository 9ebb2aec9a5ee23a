"""Training of the multi-head YOLOv12, and of its rivals, with Ultralytics' own trainer and validator.

Alizadeh et al. (2025), "Training procedure" (2) and Table 3. What differs from Ultralytics' recipe: fields come as
crops with partial labels (`renalcore.sediment.data`), and on a CPU with bfloat16 matrix instructions the network
computes in bfloat16. `paper_recipe` gives the augmentations and the input size of Table 3 instead.

Validation may be left out between epochs: a row of `metrics.csv` then holds `nan`, early stopping and the best
checkpoint look at measured epochs only, and the weights that a run ends with are always measured.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from ultralytics.data import build_dataloader
from ultralytics.models.yolo.detect import DetectionTrainer, DetectionValidator
from ultralytics.nn.tasks import load_checkpoint
from ultralytics.utils.ops import xywh2xyxy
from ultralytics.utils.torch_utils import ModelEMA

from renalcore import taxonomy
from renalcore.engine.devices import usable_threads
from renalcore.errors import InputError
from renalcore.models import write_card
from renalcore.runs import metrics_table
from renalcore.runs.plots import draw_curves
from renalcore.sediment import card
from renalcore.sediment.data import PAPER, Augmentation, SedimentDataset, check_size
from renalcore.sediment.losses import Normaliser
from renalcore.sediment.names import IGNORE
from renalcore.sediment.networks import WITHOUT, Scale, architecture, build_network, load_start, save_weights
from renalcore.sediment.readers import AS_IS, ReadOptions, read_fields

FIGURES = MappingProxyType(
    {
        "precision": "metrics/precision(B)",
        "recall": "metrics/recall(B)",
        "mAP50": "metrics/mAP50(B)",
        "mAP50-95": "metrics/mAP50-95(B)",
    }
)
"""The four figures of the paper's Table 4, and their columns in `metrics.csv`."""

FINISHED = "figures.json"
"""What a run writes last; a run whose folder holds it is finished."""


_NO_DIFFERENCE = ("output", "resume", "licence")


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """A training run; gains and augmentation are those of Table 3 unless a reason is given.

    Attributes:
        data: Folder of real fields, in any form of `renalcore.sediment.readers`.
        output: Folder of the run: checkpoints, `metrics.csv`, final safetensors with their card.
        rendered: Folders of rendered fields.
        network: One of `renalcore.sediment.networks.NETWORKS`.
        scale: Its size.
        size_px: Side of a training crop; crops of 320 px show as many cells a second as larger ones on a CPU.
        batch: Crops a step; the paper's.
        augmentation: How crops are changed.
        epochs: Length of the run, unless `hours` is given.
        hours: Stop and anneal so that the run ends after this time, all its parts together.
        items: Crops an epoch.
        rendered_share: Share of crops from rendered fields; at 1 the real ones only validate.
        licence: Licence words of the real fields, for the model's card.
        held_out: Groups to validate on instead of the data's own split, for cross-validation.
        reading: What the data cannot say of themselves.
        normaliser: How heads share the backbone, see `MultiHeadLoss`.
        optimizer: Ultralytics' name; the paper's is SGD, AdamW learns more in a short run from scratch.
        lr0, lrf: First learning rate, and the last as a share of it.
        momentum: Of SGD; the first beta of AdamW.
        weight_decay: Pull of the weights towards zero.
        warmup_epochs: Epochs until the learning rate stands; None gives the paper's with SGD and half an epoch with
            AdamW, which needs no more.
        warmup_momentum: Momentum at the beginning of the warm-up.
        box, cls, dfl: Gains of the three parts of the loss.
        start: Weights to begin from (safetensors): a detector of an earlier stage, or a pretrained backbone.
        resume: Go on from `output`'s last checkpoint.
        patience: Stop when the mAP has not risen for so many epochs, and keep the best weights. None: train to the
            end and keep the last weights, which the falling learning rate has settled.
        validate_every: Validate after every so many epochs, and at the end; 0 at the end only.
        bf16: Compute in bfloat16 on the CPU.
        seed: Of crops and weights.
    """

    data: Path
    output: Path
    rendered: tuple[Path, ...] = ()
    network: str = "multihead"
    scale: Scale = "n"
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
    normaliser: Normaliser = "head"
    optimizer: str = "SGD"
    lr0: float = 0.00996
    lrf: float = 0.00724
    momentum: float = 0.939
    weight_decay: float = 0.0005
    warmup_epochs: float | None = None
    warmup_momentum: float = 0.874
    box: float = 5.5
    cls: float = 0.699
    dfl: float = 1.43
    start: Path | None = None
    resume: bool = False
    patience: int | None = None
    validate_every: int = 1
    bf16: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if self.rendered_share == 1 and not self.rendered:
            raise InputError("training on rendered fields alone needs some; name their folder with --synthetic")
        check_size(self.size_px)

    @property
    def checkpoint(self) -> Path:
        """The checkpoint that a resumed run goes on from."""
        return self.output / "weights" / "last.pt"

    def settings(self) -> dict[str, Any]:
        """All that decides what a run becomes, as JSON has it, for telling like runs from unlike ones.

        Folders are told by their names, since they may be moved; files by what they hold.
        """
        values = {name: value for name, value in asdict(self).items() if name not in _NO_DIFFERENCE}
        found: dict[str, Any] = json.loads(json.dumps(values, default=_told))
        return found

    def overrides(self) -> dict[str, Any]:
        """The settings in Ultralytics' words."""
        own_warmup = 2.03 if self.optimizer == "SGD" else 0.5
        return {
            "task": "detect",
            "model": str(self.checkpoint) if self.resume else architecture(self.network, self.scale),
            "data": str(self.data),
            "project": str(self.output.parent.resolve()),
            "name": self.output.name,
            "exist_ok": True,
            "resume": str(self.checkpoint) if self.resume else False,
            "epochs": self.epochs,
            "time": self.hours,
            "batch": self.batch,
            "nbs": self.batch,
            "imgsz": self.size_px,
            "optimizer": self.optimizer,
            "lr0": self.lr0,
            "lrf": self.lrf,
            "momentum": self.momentum,
            "weight_decay": self.weight_decay,
            "warmup_epochs": own_warmup if self.warmup_epochs is None else self.warmup_epochs,
            "warmup_momentum": self.warmup_momentum,
            "warmup_bias_lr": 0.1 if self.optimizer == "SGD" else 0.0,
            "box": self.box,
            "cls": self.cls,
            "dfl": self.dfl,
            "seed": self.seed,
            "device": "0" if torch.cuda.is_available() else "cpu",
            "amp": "bf16" if _has_bfloat16() else False,  # float16 is switched on later: Ultralytics' check downloads
            "pretrained": False,
            "plots": False,
            "deterministic": self.network != "rtdetr",  # torch has no such form of its sampling on GPUs
            "close_mosaic": 0,
            "patience": self.patience or 0,
            "save_period": -1,
        }


def _told(value: Path) -> str:
    return hashlib.sha256(value.read_bytes()).hexdigest() if value.is_file() else value.resolve().name


def paper_recipe(config: TrainConfig) -> TrainConfig:
    """The same run with Table 3's input size and its augmentations, and nothing else, on whole fields."""
    return replace(config, size_px=960, augmentation=PAPER)


def _has_bfloat16() -> bool:
    return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)


class PartialLabelValidator(DetectionValidator):
    """Ultralytics' validator, blind to predictions of classes that nobody looked for in a field."""

    def update_metrics(self, preds: list[dict[str, Tensor]], batch: dict[str, Any]) -> None:
        """Drop what cannot be judged, then count as Ultralytics does."""
        height, width = batch["img"].shape[2:]
        ignored = batch["cls"].view(-1) == IGNORE
        frame = torch.tensor([width, height] * 2, device=ignored.device)
        judged = []
        for index, found in enumerate(preds):
            keep = batch["known"][index][found["cls"].long()]
            regions = batch["bboxes"][ignored & (batch["batch_idx"] == index)] * frame
            centres = (found["bboxes"][:, :2] + found["bboxes"][:, 2:]) / 2
            inside = ((centres[:, None] - regions[:, :2]).abs() <= regions[:, 2:] / 2).all(2).any(1)
            judged.append({name: column[keep & ~inside] for name, column in found.items()})
        rows = {name: batch[name][~ignored] for name in ("cls", "bboxes", "batch_idx")}
        super().update_metrics(judged, {**batch, **rows})


class QueryValidator(PartialLabelValidator):
    """The same for RT-DETR, which answers in shares of a picture's sides and needs no suppression of duplicates."""

    def preprocess(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Ultralytics' batch; whole fields are no squares, as its own validator for RT-DETR supposes."""
        batch = super().preprocess(batch)
        height, width = batch["img"].shape[2:]
        self.frame = torch.tensor([width, height] * 2, device=self.device)
        return batch

    def postprocess(self, preds: Any) -> list[dict[str, Tensor]]:
        """The answers of each picture, in px."""
        found = []
        for answers in preds[0].float():
            boxes, scores, class_ids = answers[:, :4], answers[:, 4], answers[:, 5]
            keep = scores > self.args.conf
            found.append({"bboxes": xywh2xyxy(boxes)[keep] * self.frame, "conf": scores[keep], "cls": class_ids[keep]})
        return found


class SedimentTrainer(DetectionTrainer):
    """Ultralytics' trainer for partially labelled fields and the networks of `renalcore.sediment.networks`.

    Attributes:
        epochs_done: Of the run that is resumed; 0 of a new one.
        ended: That run had been trained to its end; only what comes after the last epoch is left.
    """

    fitness: float | None

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.real_fields = read_fields(config.data, config.reading)
        self.epochs_done: int = load_checkpoint(config.checkpoint)[1]["epoch"] + 1 if config.resume else 0
        super().__init__(overrides=config.overrides())
        self.csv = self.save_dir / "metrics.csv"
        metrics_table.keep(self.csv, self.epochs_done)
        self.seconds_done = metrics_table.trained_s(self.csv)
        self.ended = self.epochs_done >= self.epochs
        if config.resume:
            self.ended |= config.hours is not None and self.seconds_done >= 3600 * config.hours
            # The clock of the whole run goes on; Ultralytics would begin a new one, and count epochs from here.
            self.add_callback(
                "on_train_start", lambda _: setattr(self, "train_time_start", time.time() - self.seconds_done)
            )
            self.add_callback("on_train_epoch_start", lambda _: setattr(self, "start_epoch", 0))

    def get_dataset(self) -> dict[str, Any]:
        """Names and folders; the fields themselves are read by `build_dataset`."""
        names = dict(enumerate(taxonomy.NAMES))
        return {"train": "train", "val": "val", "names": names, "nc": len(names), "channels": 3}

    def build_dataset(self, img_path: str, mode: str = "train", batch: int | None = None) -> SedimentDataset:
        """Random crops of real and rendered fields for training, whole real fields for validation."""
        config = self.config
        fields, validation = self.real_fields.sides(config.held_out)
        if mode == "val":
            return SedimentDataset(validation, size_px=config.size_px, augmentation=None)
        if config.rendered_share == 1:
            fields = []
        for folder in config.rendered:
            fields += read_fields(folder, real=False).fields
        return SedimentDataset(
            fields,
            size_px=config.size_px,
            augmentation=config.augmentation,
            items=config.items,
            rendered_share=config.rendered_share,
            seed=config.seed + self.epochs_done,  # the same seed would bring the same crops again
        )

    def get_dataloader(self, dataset_path: str, batch_size: int = 16, rank: int = 0, mode: str = "train") -> Any:
        """One loader a split; validation fields are larger than crops, so they come in smaller batches."""
        dataset = self.build_dataset(dataset_path, mode)
        size = batch_size if mode == "train" else max(batch_size // 4, 1)
        return build_dataloader(dataset, size, self.args.workers, shuffle=mode == "train", rank=rank)

    def get_model(
        self, cfg: str | dict[str, Any] | None = None, weights: nn.Module | None = None, verbose: bool = True
    ) -> Any:
        """The network, with the weights of a checkpoint or of an earlier stage."""
        model = build_network(self.config.network, self.config.scale)
        model.normaliser = self.config.normaliser
        if weights is not None:
            model.load_state_dict(weights.float().state_dict())
        elif self.config.start is not None:
            load_start(model, self.config.start)
        return model

    def get_validator(self) -> PartialLabelValidator:
        """A validator that judges what is known."""
        kind = QueryValidator if self.config.network == "rtdetr" else PartialLabelValidator
        return kind(self.test_loader, save_dir=self.save_dir, args=vars(self.args).copy())

    def _setup_train(self) -> None:
        super()._setup_train()
        self.model: nn.Module
        if self.device.type == "cpu":
            self.model = self.model.to(memory_format=torch.channels_last)
            self.amp = self.config.bf16  # Ultralytics switches mixed precision off on CPUs
            torch.set_num_threads(usable_threads())  # and leaves one core idle
        elif not _has_bfloat16():
            self.amp = True
            self.scaler = torch.amp.GradScaler("cuda")

    def preprocess_batch(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Ultralytics' batch, channels last."""
        batch = super().preprocess_batch(batch)
        batch["img"] = batch["img"].contiguous(memory_format=torch.channels_last)
        return batch

    def resume_training(self, ckpt: dict[str, Any] | None) -> None:
        """Go on where the checkpoint stands, or take its weights where that is the end."""
        if ckpt is None or not self.ended:
            super().resume_training(ckpt)
            return
        self._load_checkpoint_state(ckpt)
        self.epoch, self.fitness = ckpt["epoch"], ckpt["train_metrics"]["fitness"]
        losses = [name.removeprefix("train/") for name in metrics_table.read(self.csv) if name.startswith("train/")]
        self.loss = torch.zeros(())  # the validator reads both
        self.loss_items = {name: self.loss.clone() for name in losses}

    def _do_train(self) -> None:
        """Train; of a run that was killed after its last epoch only measure the weights."""
        if self.ended:
            self._setup_train()
            self.final_eval()
        else:
            super()._do_train()

    def validate(self) -> tuple[dict[str, float], float | None]:
        """Measure the weights if this epoch is one to measure; otherwise figures are `nan` and the fitness is None."""
        every = self.config.validate_every
        due = (every > 0 and (self.epoch + 1) % every == 0) or self.epoch + 1 >= self.epochs
        if due or self.stop or self.stopper.possible_stop:
            measured: tuple[dict[str, float], float] = super().validate()
            return measured
        return dict.fromkeys(self.metrics, math.nan), None

    def save_model(self) -> bool:
        """Ultralytics' checkpoints, where the best one is never one that nobody measured."""
        saved: bool = super().save_model()
        if self.best_fitness is None:
            self.best.unlink(missing_ok=True)
        return saved

    def final_eval(self) -> None:
        """The weights to keep become those of `ema`, and the validator has measured them."""
        if self.config.patience is not None and self.best.is_file() and self.fitness != self.best_fitness:
            best, checkpoint = load_checkpoint(self.best)
            self.epoch = checkpoint["epoch"]
            self.ema = ModelEMA(self.model)  # the validated one holds inference tensors
            self.ema.ema.load_state_dict(best.state_dict())
            self.metrics, self.fitness = super().validate()
        elif self.fitness is None or self.ended:
            # By the clock a run may end after an epoch that was not to be measured, and a killed one may be finished.
            self.metrics, self.fitness = super().validate()
            metrics_table.complete(self.csv, self.metrics)

    def figures(self) -> dict[str, Any]:
        """What the validator measured of the weights that were kept, for comparing runs; see `figures.json`."""
        metrics = self.validator.metrics
        names = [taxonomy.NAMES[class_id] for class_id in metrics.ap_class_index]
        return {
            "epoch": self.epoch + 1,
            "fields": len(self.test_loader.dataset),
            **{name: round(float(self.metrics[column]), 5) for name, column in FIGURES.items()},
            "AP50": {name: round(float(value), 5) for name, value in zip(names, metrics.box.ap50, strict=True)},
        }


def train(config: TrainConfig) -> Path:
    """Train, and write the averaged weights of the last epoch as fp16 safetensors, with their card.

    With `patience` they are those of the best epoch. The run's folder also holds `metrics.csv` (epoch by epoch),
    `curves.png`, and `figures.json`: what Ultralytics' validator measured of the weights that were kept.

    The card has no figures: `evaluate sediment --models output --write-card` measures them.

    Returns:
        The safetensors file, `output/KEY/KEY.safetensors`, beside its `card.json`: `output` is a folder of models, and
        a copy of its `KEY` folder in `renalcore/weights` makes the model known.

    Raises:
        InputError: `resume` without a checkpoint in `output` or with a finished run there, or an unreadable data
            folder.
    """
    if config.resume and not config.checkpoint.is_file():
        raise InputError(f"{config.output} holds no checkpoint to resume from; start without --resume")
    trainer = SedimentTrainer(config)
    figures = config.output / FINISHED
    if trainer.ended and figures.is_file():
        raise InputError(
            f"{config.output} is finished after {trainer.epochs_done} epochs, there is nothing to resume; "
            "begin a new run from its weights with --start"
        )
    figures.unlink(missing_ok=True)
    trainer.train()
    key = f"sediment-{config.network}-{config.scale}"
    weights = config.output / key / f"{key}.safetensors"
    weights.parent.mkdir(exist_ok=True)
    save_weights(trainer.ema.ema, weights)
    draw_curves(trainer.csv, config.output / "curves.png")
    made = card.unmeasured(
        key,
        weights,
        title=f"{_title(config)} for urine sediment",
        architecture=_architecture(config),
        scale=config.scale,
        network=config.network,
        training_data=card.sources(
            config.data, config.licence, trainer.train_loader.dataset.fields, note="real fields; labels partial"
        ),
    )
    write_card(made, weights.parent)
    figures.write_text(json.dumps(trainer.figures(), indent=1) + "\n", encoding="utf-8")
    return weights


_NAMES = MappingProxyType({"yolo12": "YOLO12", "yolo11": "YOLO11", "yolov8": "YOLOv8", "rtdetr": "RT-DETR"})


def _title(config: TrainConfig) -> str:
    if config.network in _NAMES:
        return f"{_NAMES[config.network]}-{config.scale}"
    without = f" without a head for {WITHOUT[config.network]}" if config.network in WITHOUT else ""
    return f"Multi-head YOLOv12-{config.scale}{without}"


def _architecture(config: TrainConfig) -> str:
    if config.network in _NAMES:
        return f"{_title(config)} as Ultralytics has it, one head, 39 classes"
    heads = "five" if config.network in WITHOUT else "six"
    return f"YOLO12-{config.scale} backbone and neck, {heads} depthwise-separable Detect heads, 39 classes"
