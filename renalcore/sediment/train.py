"""Training of the multi-head YOLOv12 with Ultralytics' own trainer and validator.

Alizadeh et al. (2025), "Training procedure" (2) and Table 3. What differs from Ultralytics' recipe: fields come as
crops with partial labels (`renalcore.sediment.data`) instead of mosaics, and on a CPU with bfloat16 matrix
instructions the network computes in bfloat16.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from ultralytics.data import build_dataloader
from ultralytics.models.yolo.detect import DetectionTrainer, DetectionValidator

from renalcore import taxonomy
from renalcore.engine.devices import usable_threads
from renalcore.errors import InputError
from renalcore.models import HeldOutFigure, InputScale, ModelCard, TrainingData
from renalcore.sediment.data import Augmentation, SedimentDataset, read_rendered, read_urised
from renalcore.sediment.losses import IGNORE, Normaliser
from renalcore.sediment.networks import MultiHeadDetectionModel, Scale, build, load_weights, save_weights

OBJECTS_TO_VALIDATE = 20
"""Held-out real objects below which a class counts as unvalidated: an AP over fewer says little."""

SCORE_UNVALIDATED = 0.5
"""Reporting threshold of a class for which no best one could be measured."""

INTENDED_USE = (
    "Research on urine-sediment microscopy: proposing particles in bright-field pictures of unstained sediment to a "
    "technologist who reviews every field. Not for use in diagnostic procedures."
)


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """A training run; gains and augmentation are those of Table 3 unless a reason is given.

    Attributes:
        data: Folder of real fields (`manifest.csv`, `images/`, `labels/`).
        output: Folder of the run: checkpoints, `metrics.csv`, final safetensors with their card.
        rendered: Folders of rendered fields.
        scale: Size of YOLO12.
        size_px: Side of a training crop; crops of 320 px show as many cells a second as larger ones on a CPU.
        batch: Crops a step.
        epochs: Length of the run, unless `hours` is given.
        hours: Stop and anneal so that the run ends after this time.
        items: Crops an epoch.
        rendered_share: Share of crops from rendered fields.
        licence: Licence words of the real fields, for the model's card.
        held_out: Groups to validate on instead of the manifest's split, for cross-validation.
        normaliser: How heads share the backbone, see `MultiHeadLoss`.
        optimizer: Ultralytics' name; the paper's is SGD, AdamW learns more in a short run from scratch.
        lr0, lrf: First learning rate, and the last as a share of it.
        start: Weights to begin from (safetensors), e.g. of an earlier stage.
        resume: Go on from `output`'s last checkpoint.
        bf16: Compute in bfloat16 on the CPU.
        seed: Of crops and weights.
    """

    data: Path
    output: Path
    rendered: tuple[Path, ...] = ()
    scale: Scale = "n"
    size_px: int = 320
    batch: int = 16
    epochs: int = 100
    hours: float | None = None
    items: int = 4000
    rendered_share: float = 0.3
    licence: str = "not stated"
    held_out: tuple[str, ...] = ()
    normaliser: Normaliser = "head"
    optimizer: str = "SGD"
    lr0: float = 0.00996
    lrf: float = 0.00724
    start: Path | None = None
    resume: bool = False
    bf16: bool = True
    seed: int = 0

    @property
    def checkpoint(self) -> Path:
        """The checkpoint that a resumed run goes on from."""
        return self.output / "weights" / "last.pt"

    def overrides(self) -> dict[str, Any]:
        """The settings in Ultralytics' words."""
        return {
            "task": "detect",
            "model": str(self.checkpoint) if self.resume else f"yolo12{self.scale}.yaml",
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
            "momentum": 0.939,
            "weight_decay": 0.0005,
            "warmup_epochs": 2.03 if self.optimizer == "SGD" else 0.5,
            "warmup_momentum": 0.874,
            "warmup_bias_lr": 0.1 if self.optimizer == "SGD" else 0.0,
            "box": 5.5,
            "cls": 0.699,
            "dfl": 1.43,
            "seed": self.seed,
            "device": "0" if torch.cuda.is_available() else "cpu",
            "amp": torch.cuda.is_available(),
            "pretrained": False,
            "plots": False,
            "close_mosaic": 0,
            "patience": 100,
            "save_period": -1,
        }


class PartialLabelValidator(DetectionValidator):
    """Ultralytics' validator, blind to predictions of classes that nobody looked for in a field."""

    def update_metrics(self, preds: list[dict[str, Tensor]], batch: dict[str, Any]) -> None:
        """Drop what cannot be judged, then count as Ultralytics does."""
        height, width = batch["img"].shape[2:]
        ignored = batch["cls"].view(-1) == IGNORE
        judged = []
        for index, found in enumerate(preds):
            keep = batch["known"][index][found["cls"].long()]
            regions = batch["bboxes"][ignored & (batch["batch_idx"] == index)] * torch.tensor([width, height] * 2)
            centres = (found["bboxes"][:, :2] + found["bboxes"][:, 2:]) / 2
            inside = ((centres[:, None] - regions[:, :2]).abs() <= regions[:, 2:] / 2).all(2).any(1)
            judged.append({name: column[keep & ~inside] for name, column in found.items()})
        rows = {name: batch[name][~ignored] for name in ("cls", "bboxes", "batch_idx")}
        super().update_metrics(judged, {**batch, **rows})


class SedimentTrainer(DetectionTrainer):
    """Ultralytics' trainer for partially labelled fields and the multi-head network."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        super().__init__(overrides=config.overrides())
        self.csv = self.save_dir / "metrics.csv"
        if not config.resume:
            self.csv.unlink(missing_ok=True)

    def get_dataset(self) -> dict[str, Any]:
        """Names and folders; the fields themselves are read by `build_dataset`."""
        names = dict(enumerate(taxonomy.NAMES))
        return {"train": "train", "val": "val", "names": names, "nc": len(names), "channels": 3}

    def build_dataset(self, img_path: str, mode: str = "train", batch: int | None = None) -> SedimentDataset:
        """Random crops of real and rendered fields for training, whole real fields for validation."""
        config = self.config
        if mode == "val":
            fields = read_urised(config.data, "val", held_out=config.held_out)
            return SedimentDataset(fields, size_px=config.size_px, augmentation=None)
        fields = read_urised(config.data, "train", held_out=config.held_out)
        for folder in config.rendered:
            fields += read_rendered(folder)
        return SedimentDataset(
            fields,
            size_px=config.size_px,
            augmentation=Augmentation(),
            items=config.items,
            rendered_share=config.rendered_share,
            seed=config.seed + int(config.resume),
        )

    def get_dataloader(self, dataset_path: str, batch_size: int = 16, rank: int = 0, mode: str = "train") -> Any:
        """One loader a split; validation fields are larger than crops, so they come in smaller batches."""
        dataset = self.build_dataset(dataset_path, mode)
        size = batch_size if mode == "train" else max(batch_size // 4, 1)
        return build_dataloader(dataset, size, self.args.workers, shuffle=mode == "train", rank=rank)

    def get_model(
        self, cfg: str | dict[str, Any] | None = None, weights: nn.Module | None = None, verbose: bool = True
    ) -> MultiHeadDetectionModel:
        """A multi-head YOLO12, with the weights of a checkpoint or of an earlier stage."""
        model = build(self.config.scale)
        model.normaliser = self.config.normaliser
        if weights is not None:
            model.load_state_dict(weights.float().state_dict())
        elif self.config.start is not None:
            load_weights(model, self.config.start)
        return model

    def get_validator(self) -> PartialLabelValidator:
        """A validator that judges what is known."""
        return PartialLabelValidator(self.test_loader, save_dir=self.save_dir, args=vars(self.args).copy())

    def _setup_train(self) -> None:
        super()._setup_train()
        self.model: nn.Module
        if self.device.type == "cpu":
            self.model = self.model.to(memory_format=torch.channels_last)
            self.amp = self.config.bf16  # Ultralytics switches mixed precision off on CPUs
            torch.set_num_threads(usable_threads())  # and leaves one core idle

    def preprocess_batch(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Ultralytics' batch, channels last."""
        batch = super().preprocess_batch(batch)
        batch["img"] = batch["img"].contiguous(memory_format=torch.channels_last)
        return batch

    def final_eval(self) -> None:
        """Nothing: released weights are scored through `predict`, the way users run them."""


def train(config: TrainConfig) -> Path:
    """Train, and write the averaged weights of the last epoch as fp16 safetensors, with their card.

    Returns:
        The safetensors file, `output/KEY.safetensors`; a copy of `output`'s two files under `renalcore/weights/KEY/`
        makes the model known.

    Raises:
        InputError: `resume` without a checkpoint in `output`, or an unreadable data folder.
    """
    if config.resume and not config.checkpoint.is_file():
        raise InputError(f"{config.output} holds no checkpoint to resume from; start without --resume")
    trainer = SedimentTrainer(config)
    trainer.train()
    key = f"sediment-multihead-{config.scale}"
    weights = config.output / f"{key}.safetensors"
    save_weights(trainer.ema.ema, weights)
    (config.output / "card.json").write_text(_card(key, config, trainer, weights).to_json(), encoding="utf-8")
    return weights


def _card(key: str, config: TrainConfig, trainer: SedimentTrainer, weights: Path) -> ModelCard:
    """What is known of the weights at the end of training; figures by Ultralytics' validator on the held-out fields."""
    metrics = trainer.validator.metrics
    objects = metrics.nt_per_class
    judged = [class_id for class_id in metrics.ap_class_index if objects[class_id] >= OBJECTS_TO_VALIDATE]
    row_of = {class_id: row for row, class_id in enumerate(metrics.ap_class_index)}
    best = {taxonomy.NAMES[i]: float(metrics.box.px[metrics.box.f1_curve[row_of[i]].argmax()]) for i in judged}
    fields = trainer.train_loader.dataset.fields
    real = sum(field.real for field in fields)
    sources = [TrainingData(config.data.name, config.licence, real, "real fields; labels partial")]
    if len(fields) > real:
        note = "drawn by renalcore.sediment.synthetic, all 39 classes"
        sources.append(TrainingData("rendered fields", "AGPL-3.0-only", len(fields) - real, note))
    held_out = f"{len(trainer.test_loader.dataset)} held-out fields of {config.data.name}"
    command = f"python -m renalcore train sediment --data {config.data} ... (its last validation)"
    return ModelCard(
        key=key,
        title=f"Multi-head YOLOv12-{config.scale} for urine sediment",
        modality="sediment",
        task="detection",
        classes=taxonomy.NAMES,
        validated_classes=tuple(taxonomy.NAMES[class_id] for class_id in judged),
        input=InputScale(slice_px=640, overlap=0.25),
        min_score={name: round(best.get(name, SCORE_UNVALIDATED), 2) for name in taxonomy.NAMES},
        weights=weights.name,
        sha256=hashlib.sha256(weights.read_bytes()).hexdigest(),
        bytes=weights.stat().st_size,
        architecture=f"YOLO12-{config.scale} backbone and neck, six depthwise-separable Detect heads, 39 classes",
        scale=config.scale,
        training_data=tuple(sources),
        figures=tuple(
            HeldOutFigure(
                f"AP50 {taxonomy.NAMES[i]} ({objects[i]} objects)", round(float(metrics.box.ap50[row_of[i]]), 4),
                held_out, command,
            )
            for i in judged
        ),
        intended_use=INTENDED_USE,
        limits=(
            f"{len(taxonomy.NAMES) - len(judged)} of the 39 classes were never validated on real pictures.",
            "Trained on bright-field pictures without stain; phase contrast and stained sediment are untested.",
        ),
        date=datetime.now(UTC).date(),
    )  # fmt: skip
