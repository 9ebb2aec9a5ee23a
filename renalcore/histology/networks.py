"""The networks that find glomeruli, by name; all trained from scratch, since no ImageNet weights exist here.

Those of the thesis on human slides (Tables 2 and 3): DoubleU-Net, U-Net and LinkNet on MobileNetV2, LinkNet on
EfficientNet-B2, B3 and B5. Those of Meconcelli, Bonechi and Dimitri (ESANN 2022) on mice: DeepLab V2 and MobileNet.
Beside them smaller ones for a machine without a GPU, and DeepLabV3+. What segmentation-models-pytorch has is taken from
there.

Every network takes `(B, 3, H, W)` float RGB in 0..1, of any size, and gives two logits a pixel: channel `GLOMERULUS`,
and channel `CORE`, the inner part of each glomerulus, which separates those that touch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal

import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from renalcore.errors import ModelError
from renalcore.histology.deeplab import DeepLabV2
from renalcore.histology.double_unet import DoubleUNet

CHANNELS: Final = ("glomerulus", "core")
"""What the channels of an answer mean."""

GLOMERULUS: Final = 0
CORE: Final = 1

SIDE_MULTIPLE_PX: Final = 32
"""Sides of a picture are enlarged to a multiple of this on the way in, and the answer is cut back."""

_MEAN: Final = (0.485, 0.456, 0.406)
_DEVIATION: Final = (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True)
class Architecture:
    """How one network is made.

    Attributes:
        title: Its name for people, as the papers' tables have it.
        encoder: segmentation-models-pytorch's name of its encoder; networks with one encoder can begin from the same
            pretrained file.
        assemble: Makes the network from the name of the encoder.
    """

    title: str
    encoder: str
    assemble: Callable[[str], nn.Module]


def _linknet(encoder: str) -> nn.Module:
    network: nn.Module = smp.Linknet(encoder, encoder_weights=None, classes=len(CHANNELS))
    return network


def _unet(encoder: str) -> nn.Module:
    network: nn.Module = smp.Unet(encoder, encoder_weights=None, classes=len(CHANNELS))
    return network


def _deeplab_v3_plus(encoder: str) -> nn.Module:
    network: nn.Module = smp.DeepLabV3Plus(encoder, encoder_weights=None, classes=len(CHANNELS))
    return network


def _pyramid(encoder: str) -> nn.Module:
    """Coarse answers of several strides added up, as in fully convolutional networks on MobileNet.

    Meconcelli et al. name MobileNet (Howard et al., 2017) and no decoder; half of the usual width keeps it light.
    """
    network: nn.Module = smp.FPN(
        encoder,
        encoder_weights=None,
        classes=len(CHANNELS),
        decoder_pyramid_channels=128,
        decoder_segmentation_channels=64,
    )
    return network


NETWORKS: Final = MappingProxyType(
    {
        **{
            f"linknet-efficientnet-{size}": Architecture(
                f"LinkNet + EfficientNet-{size.upper()}", f"efficientnet-{size}", _linknet
            )
            for size in ("b0", "b2", "b3", "b5")
        },
        "linknet-mobilenetv2": Architecture("LinkNet + MobileNetV2", "mobilenet_v2", _linknet),
        "unet-mobilenetv2": Architecture("U-Net + MobileNetV2", "mobilenet_v2", _unet),
        "double-unet": Architecture("DoubleU-Net", "vgg19_bn", lambda name: DoubleUNet(name, len(CHANNELS))),
        **{
            f"deeplabv2-resnet{size}": Architecture(
                f"DeepLab V2 + ResNet-{size}", f"resnet{size}", lambda name: DeepLabV2(name, len(CHANNELS))
            )
            for size in (101, 50, 18)
        },
        "mobilenet": Architecture("MobileNet", "tu-mobilenetv1_100", _pyramid),
        "deeplabv3plus-efficientnet-b0": Architecture(
            "DeepLabV3+ + EfficientNet-B0", "efficientnet-b0", _deeplab_v3_plus
        ),
        "deeplabv3plus-mobilenetv2": Architecture("DeepLabV3+ + MobileNetV2", "mobilenet_v2", _deeplab_v3_plus),
    }
)
"""The networks there are."""


class GlomerulusNetwork(nn.Module):
    """One of `NETWORKS` with what all have in common: colours are centred inside, and pictures of any size are taken.

    Args:
        name: Its name in `NETWORKS`.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.body: Any = NETWORKS[name].assemble(NETWORKS[name].encoder)
        for unused in ("_conv_head", "_bn1"):  # EfficientNet's way to its classifier, which no decoder looks at
            if hasattr(self.body.encoder, unused):
                setattr(self.body.encoder, unused, nn.Identity())
        for norm in _norms(self.body):
            norm.momentum = 0.1  # EfficientNet's 0.01 follows hundreds of steps behind, which short runs have not
        self.register_buffer("mean", torch.tensor(_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(_DEVIATION).view(3, 1, 1), persistent=False)

    @property
    def encoder(self) -> nn.Module:
        """What turns a picture into features; shared, not copied."""
        encoder: nn.Module = self.body.encoder
        return encoder

    def forward(self, pictures: Tensor) -> Tensor:
        """Pictures `(B, 3, H, W)`, RGB in 0..1, to logits `(B, 2, H, W)`."""
        return self.answers(pictures)[-1]

    def answers(self, pictures: Tensor) -> tuple[Tensor, ...]:
        """Every answer that training judges, each like that of `forward`, which is the last: DoubleU-Net has two."""
        height, width = pictures.shape[2:]
        below, beside = -height % SIDE_MULTIPLE_PX, -width % SIDE_MULTIPLE_PX
        centred = self._centred(pictures)
        if below or beside:
            centred = F.pad(centred, (0, beside, 0, below), mode="replicate")
        found = self.body(centred)
        several = found if isinstance(found, tuple) else (found,)
        return tuple(logits[..., :height, :width] for logits in several)

    def features(self, pictures: Tensor) -> list[Tensor]:
        """What the encoder makes of pictures whose sides are multiples of 32, from the finest to the deepest."""
        features: list[Tensor] = self.body.encoder(self._centred(pictures))
        return features

    def _centred(self, pictures: Tensor) -> Tensor:
        return (pictures - self.mean) / self.deviation


def build_network(name: str) -> GlomerulusNetwork:
    """One of `NETWORKS` with fresh weights, in training mode.

    Raises:
        ModelError: There is no such network.
    """
    if name not in NETWORKS:
        raise ModelError(f"there is no network {name!r}; choose one of {', '.join(NETWORKS)}")
    return GlomerulusNetwork(name)


def freeze_encoder(network: GlomerulusNetwork, *, frozen: bool) -> None:
    """Train the decoder alone, or everything again.

    Batch norms of the encoder go on learning: frozen with the statistics of other pictures, or of none, they would hand
    the decoder features of a wrong size.
    """
    norms = {id(parameter) for norm in _norms(network.encoder) for parameter in norm.parameters()}
    for parameter in network.encoder.parameters():
        parameter.requires_grad = not frozen or id(parameter) in norms


def _norms(module: nn.Module) -> Iterator[nn.BatchNorm2d]:
    return (each for each in module.modules() if isinstance(each, nn.BatchNorm2d))


def parameters_of(name: str) -> int:
    """How many parameters the network `name` has.

    Raises:
        ModelError: There is no such network.
    """
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build_network(name).parameters())


def save_weights(network: GlomerulusNetwork, path: Path) -> None:
    """Write the weights as fp16 safetensors that name their network; integer buffers keep their type."""
    path.write_bytes(save(_tensors(network), {"part": "network", "network": network.name}))


def save_encoder(network: GlomerulusNetwork, path: Path) -> None:
    """Write the encoder alone, marked as such, for every network with the same encoder to begin from."""
    said = {"part": "encoder", "encoder": NETWORKS[network.name].encoder}
    path.write_bytes(save(_tensors(network.encoder), said))


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {
        name: (value.half() if value.is_floating_point() else value).contiguous().cpu()
        for name, value in module.state_dict().items()
    }


def load_weights(network: GlomerulusNetwork, path: Path) -> None:
    """Read safetensors written by `save_weights` into `network`.

    Raises:
        ModelError: The file is no safetensors file, an encoder alone, or of another network.
    """
    tensors, said = _read(path)
    if said.get("part") == "encoder":
        raise ModelError(
            f"{path.name} holds the encoder {said.get('encoder')} and no network that finds glomeruli; train one from "
            f"it: `renalcore train histology --start {path.name}`"
        )
    _load(network, tensors, path, said, "Use the weights that belong to the model's card.")


def load_start(network: GlomerulusNetwork, path: Path) -> Literal["network", "encoder"]:
    """Begin `network` from a file of `save_weights` or of `save_encoder`; the file itself says which it is.

    Returns:
        What was loaded: the whole network, or its encoder, with the decoder left as it was.

    Raises:
        ModelError: The file is no safetensors file, of another network, or another encoder.
    """
    tensors, said = _read(path)
    if said.get("part") != "encoder":
        _load(network, tensors, path, said, "Begin from weights of the same network, or from a pretrained encoder.")
        return "network"
    own = NETWORKS[network.name].encoder
    if said.get("encoder") != own:
        fitting = ", ".join(name for name, each in NETWORKS.items() if each.encoder == said.get("encoder"))
        raise ModelError(
            f"{path.name} is the encoder {said.get('encoder')}, and {network.name} has {own}; "
            f"pretrain that one, or train one of: {fitting or 'none that is known'}"
        )
    _load(network.encoder, tensors, path, {}, "Pretrain the encoder again.")
    return "encoder"


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a file in float32, and what it says of itself."""
    try:
        with safe_open(path, framework="pt") as file:
            said = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path.name} is not a whole safetensors file ({error}); make or copy it again") from None
    return {name: value.float() if value.is_floating_point() else value for name, value in tensors.items()}, said


def _load(module: nn.Module, tensors: dict[str, Tensor], path: Path, said: dict[str, str], remedy: str) -> None:
    wanted = module.state_dict()
    missing, unexpected = sorted(wanted.keys() - tensors.keys()), sorted(tensors.keys() - wanted.keys())
    reshaped = sorted(name for name in wanted.keys() & tensors.keys() if wanted[name].shape != tensors[name].shape)
    if wrong := missing + unexpected + reshaped:
        whose = f" (it is of {said['network']})" if said.get("network") else ""
        raise ModelError(
            f"{path.name}{whose} does not fit this network: {len(missing)} tensors missing, {len(unexpected)} "
            f"unexpected, {len(reshaped)} of another shape (first: {wrong[0]}). {remedy}"
        )
    module.load_state_dict(tensors)
