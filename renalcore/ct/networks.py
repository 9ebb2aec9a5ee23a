"""The networks that find kidneys, tumours and cysts in three steps, by name; MONAI's parts, trained from scratch.

`unet3d` is that of Lv and Wang (2021): four levels, two 3 x 3 x 3 convolutions each, 2 x 2 x 2 maximum pooling and
up-convolution, Kaiming's initialisation. `segresnet` is a residual encoder with a lean decoder (Myronenko, 2018), the
stronger of the two for the same time. The width, channels of the finest level, is a setting: 32 is full, 8 is for a
plain CPU.

Every network takes `(B, 1, D, H, W)` float HU with sides that are multiples of 8, and gives the logits of its step's
classes `(B, C, D, H, W)`. A lesion is told by its HU, in themselves and beside those of its kidney, and in one window
normalisation takes both away: step 3 is shown them in three ways. The three networks of a model are stored in one file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import torch
import torch.nn.functional as F
from monai.networks.nets import SegResNet
from monai.networks.nets.basic_unet import Down, TwoConv, UpCat
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from renalcore.ct.steps import AIR_HU, COARSE, STEPS, WINDOW_HU, StepName
from renalcore.errors import ModelError

FULL_WIDTH: Final = 32
"""Channels of the finest level of a 3D U-Net (Cicek et al., 2016); the paper's own figure is not in its text."""

SMALL_WIDTH: Final = 8
"""What a plain CPU trains in hours and runs in a second."""

SIDE_MULTIPLE: Final = 8
"""Three halvings: sides of a volume are multiples of this, and of twice as much for a coarse network."""

LEAST_WIDTH: Final = 4

WATER_WINDOW_HU: Final = (-30.0, 90.0)
"""What step 3 looks at closely: a cyst is full of water, and a tumour is often between it and the kidney."""

FAT_HU: Final = -50.0
"""What of a kidney is denser counts for its mean in step 3."""

BESIDE_HU: Final = 120.0
"""Difference from that mean above which, up or down, it does not matter how much."""

_NORM: Final = ("instance", {"affine": True, "eps": 1e-3})
"""torch's 1e-5 would multiply gradients by 300 in each layer where a patch is nothing but air."""


class UNet3D(nn.Module):
    """The paper's 3D U-Net, with instance normalisation after each convolution.

    The paper names no normalisation; without one, training from scratch with four volumes a step is slow to begin.

    Args:
        width: Channels of the finest of the four levels; each coarser one has twice as many.
        inputs: Channels of what it is shown.
        classes: Channels of the answer.
    """

    def __init__(self, width: int, inputs: int, classes: int) -> None:
        super().__init__()
        act, norm = ("ReLU", {"inplace": True}), _NORM
        channels = [width * 2**level for level in range(4)]
        self.first = TwoConv(3, inputs, channels[0], act, norm, bias=True)
        self.down = nn.ModuleList(
            Down(3, finer, coarser, act, norm, bias=True) for finer, coarser in pairwise(channels)
        )
        self.up = nn.ModuleList(
            UpCat(3, coarser, finer, finer, act, norm, bias=True, halves=False, is_pad=False)
            for coarser, finer in pairwise(reversed(channels))
        )
        self.answer = nn.Conv3d(channels[0], classes, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, volumes: Tensor) -> Tensor:
        """`(B, inputs, D, H, W)` to logits `(B, classes, D, H, W)`."""
        levels = [self.first(volumes)]
        for down in self.down:
            levels.append(down(levels[-1]))
        features = levels.pop()
        for up in self.up:
            features = up(features, levels.pop())
        logits: Tensor = self.answer(features)
        return logits


def _segresnet(width: int, inputs: int, classes: int) -> nn.Module:
    network: nn.Module = SegResNet(
        spatial_dims=3,
        init_filters=width,
        in_channels=inputs,
        out_channels=classes,
        norm=_NORM,
        blocks_down=(1, 2, 2, 4),
        blocks_up=(1, 1, 1),
        upsample_mode="deconv",
    )
    for module in network.modules():
        if isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    return network


@dataclass(frozen=True, slots=True)
class Architecture:
    """How one network is made.

    Attributes:
        title: Its name for people.
        assemble: Makes it from its width, channels of what it is shown, and number of classes.
    """

    title: str
    assemble: Callable[[int, int, int], nn.Module]


NETWORKS: Final = MappingProxyType(
    {"unet3d": Architecture("3D U-Net", UNet3D), "segresnet": Architecture("SegResNet", _segresnet)}
)
"""The networks there are."""


class StepNetwork(nn.Module):
    """One of `NETWORKS` for one step, with what all have in common: HU are brought to what it looks at inside.

    Attributes:
        coarse: Work on voxels `COARSE` times as wide as those that it is shown, as it was trained; sides are then
            multiples of 16. Where a voxel lies half in air, that half does not count.

    Args:
        name: Its name in `NETWORKS`.
        step: What it is for.
        width: Channels of its finest level.
    """

    def __init__(self, name: str, step: StepName, width: int) -> None:
        super().__init__()
        self.name = name
        self.step = step
        self.width = width
        self.coarse = False
        inputs = 3 if step == "lesion" else 1
        self.body: Any = NETWORKS[name].assemble(width, inputs, len(STEPS[step].classes))

    def forward(self, volumes: Tensor) -> Tensor:
        """Volumes `(B, 1, D, H, W)` in HU to logits `(B, C, D, H, W)`, the classes of the step."""
        if self.coarse:
            logits = self._logits(_coarse(volumes))
            return F.interpolate(logits, scale_factor=float(COARSE), mode="trilinear", align_corners=False)
        return self._logits(volumes)

    def _logits(self, volumes: Tensor) -> Tensor:
        hu = volumes.clamp(*WINDOW_HU)
        seen = _windowed(hu, *WINDOW_HU)
        if self.step == "lesion":
            seen = torch.cat([seen, _windowed(hu, *WATER_WINDOW_HU), _beside_its_kidney(hu)], dim=1)
        logits: Tensor = self.body(seen)
        return logits


def _coarse(volumes: Tensor) -> Tensor:
    """The mean of what is no air in each voxel that is `COARSE` times as wide; air where that is less than half."""
    hu = volumes.float()
    there = (hu > AIR_HU).float()
    share = F.avg_pool3d(there, COARSE)
    mean = F.avg_pool3d(hu * there, COARSE) / share.clamp(min=0.5)
    return torch.where(share >= 0.5, mean, torch.full_like(mean, AIR_HU)).to(volumes.dtype)


def _windowed(volumes: Tensor, low: float, high: float) -> Tensor:
    """HU of a window as -2 to 2."""
    return (volumes.clamp(low, high) - (low + high) / 2) / ((high - low) / 4)


def _beside_its_kidney(volumes: Tensor) -> Tensor:
    """HU beside the mean of what is shown, -2 to 2; air and fat are 0."""
    hu = volumes.float()  # half precision ends at 65,504
    kidney = (hu > FAT_HU).float()
    every = (2, 3, 4)
    mean = (hu * kidney).sum(every, keepdim=True) / kidney.sum(every, keepdim=True).clamp(min=1)
    return (_windowed(hu - mean, -BESIDE_HU, BESIDE_HU) * kidney).to(volumes.dtype)


def build_network(name: str, step: StepName, *, width: int = SMALL_WIDTH) -> StepNetwork:
    """One of `NETWORKS` with fresh weights, in training mode.

    Raises:
        ModelError: There is no such network or step, or the width is no multiple of 4.
    """
    if name not in NETWORKS:
        raise ModelError(f"there is no network {name!r}; choose one of {', '.join(NETWORKS)}")
    if step not in STEPS:
        raise ModelError(f"there is no step {step!r}; choose one of {', '.join(STEPS)}")
    if width < LEAST_WIDTH or width % LEAST_WIDTH:
        raise ModelError(f"the width must be a multiple of {LEAST_WIDTH}, got {width}")
    return StepNetwork(name, step, width)


def save_networks(networks: Mapping[StepName, StepNetwork], path: Path) -> None:
    """Write the networks of some steps as one file of fp16 safetensors that tells their name and width.

    Raises:
        ValueError: They are of different kinds.
    """
    kinds = {(network.name, network.width) for network in networks.values()}
    if len(kinds) != 1:
        raise ValueError(f"the networks of one file share their name and width, got {sorted(kinds)}")
    ((name, width),) = kinds
    tensors = {
        f"{step}.{key}": (value.half() if value.is_floating_point() else value).contiguous().cpu()
        for step, network in networks.items()
        for key, value in network.state_dict().items()
    }
    coarse = " ".join(step for step, network in networks.items() if network.coarse)
    told = {"network": name, "width": str(width), "steps": " ".join(networks), "coarse": coarse}
    path.write_bytes(save(tensors, told))


def load_networks(path: Path) -> dict[StepName, StepNetwork]:
    """The networks that `save_networks` wrote, in float32 and ready to be used.

    Raises:
        ModelError: The file is no safetensors file, or not one of these networks.
    """
    try:
        with safe_open(path, framework="pt") as file:
            said = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path.name} is not a whole safetensors file ({error}); make or copy it again") from None
    steps = [step for step in STEPS.values() if step.name in said.get("steps", "").split()]
    if not steps or not said.get("width", "").isdecimal():
        raise ModelError(f"{path.name} holds no networks for CT; give the weights of `renalcore train ct`")
    networks: dict[StepName, StepNetwork] = {}
    for step in steps:
        network = build_network(said.get("network", ""), step.name, width=int(said["width"]))
        own = {
            name.removeprefix(f"{step.name}."): value.float() if value.is_floating_point() else value
            for name, value in tensors.items()
            if name.startswith(f"{step.name}.")
        }
        wanted = network.state_dict()
        wrong = sorted(wanted.keys() ^ own.keys())
        wrong += sorted(name for name in wanted.keys() & own.keys() if wanted[name].shape != own[name].shape)
        if wrong:
            raise ModelError(
                f"{path.name} does not fit {network.name} of width {network.width}: {len(wrong)} tensors missing, "
                f"unexpected or of another shape (first: {step.name}.{wrong[0]}). Use the weights of the model's card."
            )
        network.load_state_dict(own)
        network.coarse = step.name in said.get("coarse", "").split()
        networks[step.name] = network.eval()
    return networks


def parameters_of(name: str, *, width: int) -> int:
    """Parameters of the networks of all three steps together.

    Raises:
        ModelError: There is no such network, or the width is no multiple of 4.
    """
    with torch.device("meta"):
        networks = [build_network(name, step.name, width=width) for step in STEPS.values()]
    return sum(parameter.numel() for network in networks for parameter in network.parameters())
