"""Self-supervised start: an encoder learns kidney tissue from slides that nobody outlined, in place of ImageNet.

The thesis begins from ImageNet weights (section 5.4), which do not exist here. A tile is spoiled, a third of it hidden
in blocks and grain laid over the rest, and a light decoder must give the clean tile back from the deepest features
alone, so that no layer can be bypassed (denoising autoencoders, Vincent et al., 2010; hidden blocks as in He et al.,
2022). The decoder is thrown away; `train histology --start` takes the encoder.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from renalcore.datasets.pictures import files_under
from renalcore.engine.devices import usable_threads
from renalcore.errors import InputError
from renalcore.histology.annotations import LabelledSlide, survey
from renalcore.histology.data import Augmentation, TileDataset, collate
from renalcore.histology.networks import NETWORKS, GlomerulusNetwork, build_network, load_start, save_encoder
from renalcore.io.slide import open_slide
from renalcore.runs import metrics_table
from renalcore.runs.plots import draw_curves
from renalcore.runs.training import Progress, autocast, pace, write_checkpoint

HIDDEN: Final = 1 / 3
"""Share of a tile that is hidden, in blocks of `BLOCK_PX`."""

BLOCK_PX: Final = 32

GRAIN: Final = 0.1
"""Largest standard deviation of the grain upon the rest, of the range of a pixel."""

_SLIDE_SUFFIXES: Final = frozenset({".svs", ".ndpi", ".mrxs", ".scn", ".bif", ".vms"})
_HELD_OUT: Final = 0.1
_WARMUP: Final = 0.03

# Dyes and scales as in supervised training, nothing that would have to be reconstructed: blur, grain, JPEG.
_CLEAN: Final = Augmentation(zoom=(0.35, 1.4), bent=0.0, blur_px=0.0, noise=0.0, jpeg=0.0)


@dataclass(frozen=True, slots=True)
class PretrainConfig:
    """A pretraining run.

    Attributes:
        data: Folder of slides and pictures, outlined or not; outlines set the scale only.
        output: Folder of the run: checkpoint, `metrics.csv`, `curves.png`, the encoder.
        network: The network whose encoder learns.
        size_px: Side of a tile.
        batch: Tiles a step.
        augmentation: How tiles are changed before they are spoiled.
        epochs: Length of the run, unless `hours` is given.
        hours: End after this time of training, all its parts together.
        items: Tiles an epoch; None gives four a slide.
        lr0: Highest learning rate of AdamW; half a cosine leads down from it.
        weight_decay: Pull of the weights towards zero.
        start: Weights to begin from.
        resume: Go on from `output`'s checkpoint.
        bf16: Compute in bfloat16, on the CPU too.
        workers: Processes that prepare tiles beside a GPU.
        seed: Of tiles, weights and of what is hidden.
    """

    data: Path
    output: Path
    network: str = "linknet-efficientnet-b0"
    size_px: int = 256
    batch: int = 8
    augmentation: Augmentation = field(default_factory=lambda: _CLEAN)
    epochs: int = 100
    hours: float | None = None
    items: int | None = None
    lr0: float = 1e-3
    weight_decay: float = 0.02
    start: Path | None = None
    resume: bool = False
    bf16: bool = True
    workers: int = 8
    seed: int = 0

    @property
    def checkpoint(self) -> Path:
        """What a resumed run goes on from."""
        return self.output / "checkpoint.pt"

    @property
    def weights(self) -> Path:
        """The result."""
        return self.output / f"encoder-{NETWORKS[self.network].encoder}.safetensors"


class Restorer(nn.Module):
    """The encoder of a network, and a decoder from its deepest features back to the tile.

    Args:
        network: Whose encoder is trained, in place.
    """

    def __init__(self, network: GlomerulusNetwork) -> None:
        super().__init__()
        self.network = network
        with torch.no_grad():
            network.eval()
            deepest = network.features(torch.zeros(1, 3, 64, 64))[-1]
            network.train()
        channels, doublings = deepest.shape[1], round(math.log2(64 / deepest.shape[2])) - 2
        stages: list[nn.Module] = []
        for after in (96, 64, 48)[-doublings:]:  # strides 32, 16 and 8 to 4
            stages += [
                nn.Upsample(scale_factor=2, mode="nearest"),
                nn.Conv2d(channels, after, 3, padding=1, bias=False),
                nn.BatchNorm2d(after),
                nn.SiLU(inplace=True),
            ]
            channels = after
        self.decoder = nn.Sequential(*stages, nn.Conv2d(channels, 3 * 4 * 4, 3, padding=1), nn.PixelShuffle(4))

    def forward(self, spoiled: Tensor) -> Tensor:
        """Tiles `(B, 3, S, S)` in 0..1 to what they may have been, of the same shape; told as changes of the mean."""
        colour = spoiled.mean((2, 3), keepdim=True).logit(eps=1e-3)  # a decoder needs hundreds of steps to find it
        change: Tensor = self.decoder(self.network.features(spoiled)[-1])
        return (colour + change.float()).sigmoid()


def spoil(pictures: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Tiles with blocks hidden behind their mean colour and grain upon the rest.

    Args:
        pictures: `(B, 3, S, S)` in 0..1, S a multiple of `BLOCK_PX`.
        generator: Of the CPU; what is hidden depends on it alone.

    Returns:
        The tiles, and `(B, 1, S, S)` bool: where they are hidden.
    """
    size = len(pictures), 1, pictures.shape[2] // BLOCK_PX, pictures.shape[3] // BLOCK_PX
    blocks = torch.rand(size, generator=generator) < HIDDEN
    hidden = blocks.repeat_interleave(BLOCK_PX, 2).repeat_interleave(BLOCK_PX, 3).to(pictures.device)
    grain = torch.randn(pictures.shape, generator=generator) * torch.rand((len(pictures), 1, 1, 1), generator=generator)
    spoiled = pictures + GRAIN * grain.to(pictures.device)
    mean = pictures.mean((2, 3), keepdim=True)
    return torch.where(hidden, mean, spoiled).clamp(0, 1), hidden


def restoration_loss(restored: Tensor, pictures: Tensor, hidden: Tensor) -> Tensor:
    """Mean absolute difference where the tile was hidden plus that elsewhere, so that neither is neglected."""
    apart = (restored - pictures).abs().mean(1, keepdim=True)
    inside = (apart * hidden).sum() / hidden.sum().clamp(min=1)
    outside = (apart * ~hidden).sum() / (~hidden).sum().clamp(min=1)
    return inside + outside


def pretrain(config: PretrainConfig) -> Path:
    """Train the encoder and write it as fp16 safetensors.

    The run's folder then also holds `metrics.csv` (the loss of training tiles and of held-out slides, epoch by epoch),
    `curves.png` and `checkpoint.pt`. A run that is killed goes on from the end of its last epoch.

    Returns:
        `output/encoder-NAME.safetensors`, which `train histology --start` takes for any network with that encoder.

    Raises:
        InputError: `resume` without a checkpoint in `output`, fewer than two slides, or an unreadable one.
        ModelError: There is no such network, or `start` does not fit.
    """
    if config.resume and not config.checkpoint.is_file():
        raise InputError(f"{config.output} holds no checkpoint to resume from; start without --resume")
    torch.manual_seed(config.seed)
    network = build_network(config.network)
    if config.start is not None:
        load_start(network, config.start)
    slides = unlabelled(config.data)
    order = np.random.default_rng(config.seed).permutation(len(slides))
    held_out = max(1, round(_HELD_OUT * len(slides)))
    options: dict[str, Any] = {"size_px": config.size_px, "augmentation": config.augmentation, "seed": config.seed}
    tiles = TileDataset([slides[index] for index in order[held_out:]], items=config.items, **options)
    unseen = TileDataset([slides[index] for index in order[:held_out]], **options)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        torch.set_num_threads(usable_threads())
    workers = config.workers if device.type == "cuda" else 0
    loader, test_loader = (
        DataLoader(each, config.batch, num_workers=workers, collate_fn=collate, drop_last=len(each) > config.batch)
        for each in (tiles, unseen)
    )

    restorer = Restorer(network).to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(restorer.parameters(), lr=config.lr0, weight_decay=config.weight_decay)
    run = Progress(steps_an_epoch=len(loader), epochs=config.epochs, hours=config.hours)
    if config.resume:
        _restore(config, run, restorer, optimizer, device)
    config.output.mkdir(parents=True, exist_ok=True)
    table = config.output / "metrics.csv"
    rows: list[dict[str, Any]] = [*metrics_table.keep(table, run.epoch)]
    run.begin()
    while run.share < 1:
        torch.manual_seed(config.seed + run.epoch)
        tiles.start_epoch(run.epoch)
        restorer.train()
        chance, losses = torch.Generator().manual_seed(config.seed + run.epoch), []
        for batch in loader:
            rate = config.lr0 * pace(run.share, warmup=_WARMUP)
            optimizer.param_groups[0]["lr"] = rate
            loss = _loss(config, restorer, batch, chance, device)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(restorer.parameters(), 10.0)
            optimizer.step()
            losses.append(loss.item())
            run.step()
            if run.share >= 1:
                break
        run.epoch += 1
        restorer.eval()
        chance = torch.Generator().manual_seed(config.seed)
        with torch.no_grad():
            judged = [_loss(config, restorer, batch, chance, device).item() for batch in test_loader]
        values = {"train/loss": np.mean(losses), "val/loss": np.mean(judged), "lr/lr": rate}
        formatted = {name: f"{value:.5g}" for name, value in values.items()}
        rows.append({"epoch": run.epoch, "time": round(run.seconds, 1), **formatted})
        metrics_table.write(table, rows)
        content = {"restorer": restorer.state_dict(), "optimizer": optimizer.state_dict(), "progress": run.told()}
        write_checkpoint(config.checkpoint, {"network_name": config.network, **content})
    save_encoder(network, config.weights)
    draw_curves(table, config.output / "curves.png")
    return config.weights


def unlabelled(folder: Path) -> list[LabelledSlide]:
    """Every slide and picture of a folder, scaled by its outlines, else by what its file says, else shown as it is.

    Raises:
        InputError: There are fewer than two.
        UnreadableFile: One of them is no slide that can be read.
    """
    found = survey(folder)
    slides = list(found.slides)
    labelled = {slide.path for slide in slides}
    scanned = [path for path in files_under(found.folder) if path.suffix.lower() in _SLIDE_SUFFIXES]
    slides += [_without_outlines(path) for path in (*found.unlabelled, *scanned) if path not in labelled]
    if len(slides) < 2:
        raise InputError(f"{folder} holds too few slides to learn from ({len(slides)}); pretraining needs at least two")
    return slides


def _without_outlines(path: Path) -> LabelledSlide:
    with open_slide(path) as slide:
        size, um_per_px = (slide.width_px, slide.height_px), slide.um_per_px
    return LabelledSlide(
        path=path,
        group=path.stem,
        stain=None,
        species="human" if um_per_px else None,  # chooses the zoom of a slide whose scale is known, and nothing else
        um_per_px=um_per_px,
        outlines=(),
        mask_path=None,
        known="all",
        width_px=size[0],
        height_px=size[1],
        areas_px=np.zeros(0),
        whole=np.zeros(0, np.bool_),
    )


def _loss(
    config: PretrainConfig, restorer: Restorer, batch: dict[str, Tensor], chance: torch.Generator, device: torch.device
) -> Tensor:
    pictures = (batch["image"].to(device).float() / 255).contiguous(memory_format=torch.channels_last)
    spoiled, hidden = spoil(pictures, chance)
    with autocast(device, enabled=config.bf16):
        restored = restorer(spoiled)
    return restoration_loss(restored, pictures, hidden)


def _restore(
    config: PretrainConfig, run: Progress, restorer: Restorer, optimizer: torch.optim.Optimizer, device: torch.device
) -> None:
    kept = torch.load(config.checkpoint, map_location=device, weights_only=True)
    if kept["network_name"] != config.network:
        raise InputError(f"{config.output} pretrains {kept['network_name']}; resume it with that --network")
    restorer.load_state_dict(kept["restorer"])
    optimizer.load_state_dict(kept["optimizer"])
    run.epoch, run.steps, run.seconds = kept["progress"]
