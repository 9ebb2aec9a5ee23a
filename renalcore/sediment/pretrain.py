"""Self-supervised pretraining: the backbone learns to describe fields that nobody labelled.

Alizadeh et al. (2025), "Training procedure" (1) and Fig. 3 A: an autoencoder whose encoder is the YOLOv12 backbone and
whose decoder reconstructs the picture, under L1 + SSIM; the backbone then begins the detector's training. The paper
names neither the decoder nor its optimiser. Here the decoder sees the deepest feature map alone (P5, one cell for
32 x 32 px), so that every layer of the backbone is on the way and none can be bypassed; it is light, since it is thrown
away; and the optimiser is AdamW with a warm-up and a cosine, the usual choice for autoencoders.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from ultralytics.nn.modules import Conv

from renalcore.datasets.pictures import find_pictures
from renalcore.engine.devices import usable_threads
from renalcore.errors import InputError
from renalcore.io.image import read_pixels
from renalcore.runs import metrics_table
from renalcore.runs.plots import draw_curves
from renalcore.sediment.data import Augmentation, Image, check_size, crop, recolour
from renalcore.sediment.networks import MultiHeadDetectionModel, Scale, backbone, build, load_start, save_backbone

HELD_OUT = 0.05
"""Share of pictures that are only looked at to see whether the network reconstructs what it never saw."""

KEPT_BYTES = 1_000_000_000
"""Decoded pictures kept in memory; the rest are decoded each time they are drawn (5,640 fields would take 50 GB)."""

# Light and colour as in supervised training, but hardly any grain: noise cannot be reconstructed, only averaged away.
LIGHT = replace(Augmentation(), noise=1.0, blur_px=0.8, native=0.0)


@dataclass(frozen=True, slots=True)
class PretrainConfig:
    """A pretraining run.

    Attributes:
        data: Folder of unlabelled fields; pictures in its sub-folders count too.
        pictures: These pictures of it alone; by default all.
        output: Folder of the run: checkpoint, `metrics.csv`, `curves.png`, reconstructions, the backbone.
        scale: Size of YOLO12.
        size_px: Side of a crop, a multiple of 32, as in supervised training on a CPU.
        batch: Crops a step.
        epochs: Length of the run, unless `hours` is given.
        hours: End after this time; the learning rate follows the clock.
        items: Crops an epoch.
        lr0: Highest learning rate; AdamW's usual 1e-3.
        weight_decay: That of Table 3.
        ssim_weight: Weight of `1 - SSIM` beside L1; the paper gives none, so both count alike.
        start: Weights to begin from (safetensors of a detector or a backbone).
        resume: Go on from `output`'s checkpoint.
        mixed: Compute in bfloat16 (float16 on GPUs that lack it); the loss is always in float32.
        seed: Of crops, weights and of the held-out pictures.
        workers: Processes that read pictures beside a GPU.
    """

    data: Path
    output: Path
    pictures: tuple[Path, ...] = ()
    scale: Scale = "n"
    size_px: int = 320
    batch: int = 16
    epochs: int = 100
    hours: float | None = None
    items: int = 4000
    lr0: float = 1e-3
    weight_decay: float = 0.0005
    ssim_weight: float = 1.0
    start: Path | None = None
    resume: bool = False
    mixed: bool = True
    seed: int = 0
    workers: int = 8

    def __post_init__(self) -> None:
        check_size(self.size_px)

    @property
    def checkpoint(self) -> Path:
        """What a resumed run goes on from."""
        return self.output / "checkpoint.pt"

    @property
    def weights(self) -> Path:
        """The result."""
        return self.output / f"backbone-{self.scale}.safetensors"


class Autoencoder(nn.Module):
    """The backbone of a detector with a decoder from its deepest features back to the picture.

    Args:
        detector: Whose backbone is trained, in place.
    """

    def __init__(self, detector: MultiHeadDetectionModel) -> None:
        super().__init__()
        self.encoder = backbone(detector)
        with torch.no_grad():
            was_training = self.encoder.training
            channels = self.encoder.eval()(torch.zeros(1, 3, 64, 64)).shape[1]
            self.encoder.train(was_training)
        widths = (channels, 96, 64, 48)
        stages: list[nn.Module] = []
        for before, after in pairwise(widths):  # strides 32, 16, 8, 4
            stages += [nn.Upsample(scale_factor=2, mode="nearest"), Conv(before, after, 3)]
        self.decoder = nn.Sequential(*stages)
        self.last = nn.Conv2d(widths[-1], 3 * 4 * 4, 3, padding=1)

    def begin_with(self, colour: Tensor) -> None:
        """Let the decoder paint a plain colour, `(3,)` in 0..1; to learn that takes it hundreds of steps."""
        self.last.bias = nn.Parameter(colour.logit(eps=1e-3).repeat_interleave(4 * 4))

    def forward(self, pictures: Tensor) -> Tensor:
        """`(B, 3, H, W)` in 0..1, sides multiples of 32, to the reconstruction of the same shape, in 0..1."""
        decoded = self.last(self.decoder(self.encoder(pictures)))
        return F.pixel_shuffle(decoded, 4).float().sigmoid()


class ReconstructionLoss(nn.Module):
    """L1 + `ssim_weight` * (1 - SSIM), the paper's reconstruction loss; SSIM is MONAI's (Wang et al., 2004).

    Args:
        ssim_weight: Weight of the structural part.
    """

    def __init__(self, ssim_weight: float) -> None:
        from monai.losses import SSIMLoss

        super().__init__()
        self.ssim_weight = ssim_weight
        self.one_minus_ssim = SSIMLoss(spatial_dims=2, data_range=1.0)

    def forward(self, found: Tensor, wanted: Tensor) -> tuple[Tensor, dict[str, float]]:
        """The loss of pictures `(B, 3, H, W)` in 0..1, and its parts: L1 and SSIM (1 is the same picture)."""
        difference, dissimilar = F.l1_loss(found, wanted), self.one_minus_ssim(found, wanted)
        loss = difference + self.ssim_weight * dissimilar
        return loss, {"loss": loss.item(), "l1": difference.item(), "ssim": 1 - dissimilar.item()}


class UnlabelledFields(Dataset[Tensor]):
    """Crops of pictures as `(3, size_px, size_px)` float32 in 0..1.

    A crop depends on the seed, the epoch and its index alone, however many processes read.

    Args:
        paths: The pictures.
        size_px: Side of a crop.
        items: Crops an epoch; None gives one crop from the middle of each picture, always the same.
        seed: Makes a run repeatable.
        kept_bytes: Decoded pictures to keep in memory.
    """

    def __init__(
        self, paths: Sequence[Path], *, size_px: int, items: int | None, seed: int, kept_bytes: int = KEPT_BYTES
    ) -> None:
        self.paths = list(paths)
        self.size_px = size_px
        self.items = items
        self.seed = seed
        self.epoch = 0
        self.kept_bytes = kept_bytes
        self.kept: dict[Path, Image] = {}

    def __len__(self) -> int:
        return self.items or len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        if self.items is None:
            pixels, zoom, across, down = self._read(self.paths[index]), 1.0, 0.5, 0.5
            window = self._window(pixels, zoom, across, down)
        else:
            rng = np.random.default_rng((self.seed, self.epoch, index))
            pixels = self._read(self.paths[rng.integers(len(self.paths))])
            zoom = float(np.exp(rng.uniform(*np.log(LIGHT.scale))))
            window = self._window(pixels, zoom, *rng.uniform(0, 1, 2))
            window = np.rot90(window[:, ::-1] if rng.random() < 0.5 else window, int(rng.integers(4)))
            window = recolour(np.ascontiguousarray(window), LIGHT, rng)
        return torch.from_numpy(np.ascontiguousarray(window.transpose(2, 0, 1))).float() / 255

    def _window(self, pixels: Image, zoom: float, across: float, down: float) -> Image:
        side = self.size_px / zoom
        height, width = pixels.shape[:2]
        corner = (across * (width - side), down * (height - side))
        none, of_none = np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
        return crop(pixels, none, of_none, size_px=self.size_px, zoom=zoom, corner_px=corner, kept=1.0)[0]

    def _read(self, path: Path) -> Image:
        if path in self.kept:
            return self.kept[path]
        pixels = read_pixels(path, name=path.name)
        if pixels.nbytes <= self.kept_bytes:
            self.kept[path] = pixels
            self.kept_bytes -= pixels.nbytes
        return pixels


class Pretraining:
    """A run of `pretrain`: network, optimiser and where it stands.

    Args:
        config: What to do.
    """

    def __init__(self, config: PretrainConfig) -> None:
        torch.manual_seed(config.seed)
        self.config = config
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.detector = build(config.scale)
        if config.start is not None:
            load_start(self.detector, config.start)

        paths = config.pictures or find_pictures(config.data)
        if len(paths) < 2:
            raise InputError(f"{config.data} holds {len(paths)} pictures; pretraining needs at least two")
        order = np.random.default_rng(config.seed).permutation(len(paths))
        held_out = max(1, round(HELD_OUT * len(paths)))
        workers = config.workers if self.device.type == "cuda" else 0  # beside a CPU's own work they only compete
        self.crops = UnlabelledFields(
            [paths[index] for index in order[held_out:]],
            size_px=config.size_px,
            items=config.items,
            seed=config.seed,
            kept_bytes=KEPT_BYTES // max(workers, 1),
        )
        self.unseen = UnlabelledFields(
            [paths[index] for index in order[:held_out]], size_px=config.size_px, items=None, seed=config.seed
        )
        options: dict[str, Any] = {"batch_size": config.batch, "pin_memory": self.device.type == "cuda"}
        self.train_loader = DataLoader(self.crops, num_workers=workers, **options)
        self.test_loader = DataLoader(self.unseen, **options)

        self.network = Autoencoder(self.detector)
        few = torch.stack([self.crops[index] for index in range(min(16, len(self.crops)))])
        self.network.begin_with(few.mean((0, 2, 3)))
        self.network = self.network.to(self.device).to(memory_format=torch.channels_last)
        self.loss = ReconstructionLoss(config.ssim_weight).to(self.device)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=0.0, weight_decay=config.weight_decay)
        native = self.device.type == "cpu" or torch.cuda.is_bf16_supported(including_emulation=False)
        self.type = torch.bfloat16 if native else torch.float16
        scaled = config.mixed and self.type == torch.float16
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=scaled)
        self.epoch = 0
        self.seconds = 0.0
        if config.resume:
            self._restore()
        self.began = time.monotonic() - self.seconds

    def learning_rate(self, step: int) -> float:
        """Linear over the first half epoch, then half a cosine down to nothing at the end of the run."""
        config, steps = self.config, len(self.train_loader)
        share = (
            step / (config.epochs * steps)
            if config.hours is None
            else (time.monotonic() - self.began) / (config.hours * 3600)
        )
        warm = min(1.0, (step + 1) / max(steps / 2, 1))
        return config.lr0 * warm * 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))

    @property
    def over(self) -> bool:
        """Whether the run has come to its end."""
        if self.config.hours is None:
            return self.epoch >= self.config.epochs
        return time.monotonic() - self.began >= self.config.hours * 3600

    def run_epoch(self) -> dict[str, float]:
        """One pass over the crops and a look at the held-out pictures; the row for `metrics.csv`."""
        self.network.train()
        self.crops.epoch = self.epoch
        train = []
        rate = 0.0
        for index, pictures in enumerate(self._batches(self.train_loader)):
            rate = self.learning_rate(self.epoch * len(self.train_loader) + index)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            loss, parts = self.loss(self._reconstructed(pictures), pictures)
            self.optimizer.zero_grad()
            self.scaler.scale(loss).backward()
            self.scaler.step(self.optimizer)
            self.scaler.update()
            train.append(parts)
            if self.config.hours is not None and self.over:
                break
        self.epoch += 1
        self.seconds = time.monotonic() - self.began
        means = {"train": _means(train), "val": self._judge()}
        return {
            "epoch": self.epoch,
            "seconds": round(self.seconds, 1),
            **{f"{part}/{name}": round(value, 6) for part, values in means.items() for name, value in values.items()},
            "lr/lr": rate,
        }

    @torch.no_grad()
    def _judge(self) -> dict[str, float]:
        self.network.eval()
        parts = []
        for index, pictures in enumerate(self._batches(self.test_loader)):
            found = self._reconstructed(pictures)
            parts.append(self.loss(found, pictures)[1])
            if index == 0:
                rows = [torch.cat(list(batch[:6].cpu()), dim=2) for batch in (pictures, found)]
                _write_picture(torch.cat(rows, dim=1), self.config.output / "reconstructions.png")
        return _means(parts)

    def _reconstructed(self, pictures: Tensor) -> Tensor:
        with torch.autocast(self.device.type, dtype=self.type, enabled=self.config.mixed):
            found: Tensor = self.network(pictures)
        return found

    def _batches(self, loader: DataLoader[Tensor]) -> Iterator[Tensor]:
        for pictures in loader:
            yield pictures.to(self.device, memory_format=torch.channels_last, non_blocking=True)

    def save(self) -> None:
        """Write the checkpoint; a killed run leaves the old one or the new one, never half of one."""
        partial = self.config.checkpoint.with_suffix(".partial")
        content = {
            "scale": self.config.scale,
            "epoch": self.epoch,
            "seconds": self.seconds,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }
        torch.save(content, partial)
        partial.replace(self.config.checkpoint)

    def _restore(self) -> None:
        if not self.config.checkpoint.is_file():
            raise InputError(f"{self.config.output} holds no checkpoint to resume from; start without --resume")
        content = torch.load(self.config.checkpoint, map_location=self.device, weights_only=True)
        if content["scale"] != self.config.scale:
            raise InputError(f"{self.config.output} trains YOLO12-{content['scale']}; resume it with that --scale")
        self.network.load_state_dict(content["network"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.scaler.load_state_dict(content["scaler"])
        self.epoch, self.seconds = content["epoch"], content["seconds"]


def pretrain(config: PretrainConfig) -> Path:
    """Train the autoencoder and write the backbone as fp16 safetensors.

    The run's folder then holds `metrics.csv` (loss, L1 and SSIM of training crops and of held-out pictures, epoch by
    epoch), `curves.png`, `reconstructions.png` (held-out crops above, what came back below) and `checkpoint.pt`.

    Returns:
        `output/backbone-SCALE.safetensors`, which `train sediment --start` takes.

    Raises:
        InputError: `resume` without a checkpoint in `output`, fewer than two pictures, or an unreadable one.
        ModelError: `start` does not fit.
    """
    run = Pretraining(config)
    if run.device.type == "cpu":
        torch.set_num_threads(usable_threads())
    config.output.mkdir(parents=True, exist_ok=True)
    table = config.output / "metrics.csv"
    rows: list[dict[str, Any]] = [*metrics_table.keep(table, run.epoch)]
    while not run.over:
        rows.append(run.run_epoch())
        metrics_table.write(table, rows)
        run.save()
    save_backbone(run.detector, config.weights)
    if rows:
        draw_curves(table, config.output / "curves.png")
    return config.weights


def _means(parts: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: sum(part[name] for part in parts) / len(parts) for name in parts[0]}


def _write_picture(picture: Tensor, path: Path) -> None:
    """`(3, H, W)` in 0..1 as PNG."""
    pixels: NDArray[np.uint8] = (picture.permute(1, 2, 0).clamp(0, 1) * 255).round().byte().numpy()
    _, packed = cv2.imencode(".png", pixels[:, :, ::-1])
    path.write_bytes(packed.tobytes())
