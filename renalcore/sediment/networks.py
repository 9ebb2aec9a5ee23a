"""The multi-head YOLOv12: one backbone and neck, six detection heads, one 39-class space; and what it is compared with.

Alizadeh et al. (2025), section "Multi-head detection module" and Fig. 3: the shared feature maps F go to six parallel
heads (Cells, Casts, Crystals, Microorganisms, Others, Artifact), each of which finds the classes of its group only.
Backbone and neck are Ultralytics' YOLO12; a head is Ultralytics' `Detect`.

The networks of the paper's Tables 4 and 5 are here as well: plain YOLO12, YOLO11, YOLOv8 and RT-DETR as Ultralytics has
them, and the multi-head one without one of its heads. All find the same 39 classes and learn from partial labels.
"""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal, get_args

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from ultralytics.nn.modules import Conv, Detect, DWConv
from ultralytics.nn.tasks import DetectionModel, RTDETRDetectionModel, yaml_model_load
from ultralytics.utils.torch_utils import get_flops, get_num_params

from renalcore import taxonomy
from renalcore.errors import ModelError
from renalcore.sediment.losses import MultiHeadLoss, Normaliser, QueryLoss, SingleHeadLoss
from renalcore.sediment.names import IGNORE
from renalcore.taxonomy import Group

Scale = Literal["n", "s", "m", "l", "x"]

WITHOUT: Final = MappingProxyType(
    {f"multihead-without-{group.lower()}": group for group in Group if group is not Group.OTHERS}
)
"""The networks of Table 5, and the head that each has not."""

NETWORKS: Final = MappingProxyType(
    {
        **dict.fromkeys(("multihead", *WITHOUT), "yolo12"),
        "yolo12": "yolo12",
        "yolo11": "yolo11",
        "yolov8": "yolov8",
        "rtdetr": "rtdetr-",
    }
)
"""The networks there are, and what Ultralytics calls the architecture that each is made from."""


class GroupHead(Detect):
    """Ultralytics' `Detect` for the classes of one group, with depthwise-separable box towers.

    Six stock heads would cost more than the whole of YOLO12-n. The class towers of `Detect` are depthwise-separable
    already; giving the box towers the same form makes six heads cost about what one stock head costs.
    """

    def __init__(self, nc: int, ch: list[int]) -> None:
        super().__init__(nc=nc, ch=ch)
        width = max(16, ch[0] // 4, self.reg_max * 4)
        self.cv2 = nn.ModuleList(
            nn.Sequential(
                nn.Sequential(DWConv(channels, channels, 3), Conv(channels, width, 1)),
                nn.Sequential(DWConv(width, width, 3), Conv(width, width, 1)),
                nn.Conv2d(width, 4 * self.reg_max, 1),
            )
            for channels in ch
        )


class MultiHeadDetect(Detect):
    """Six group heads over the same feature maps, answering as one head of 39 classes.

    In training the forward gives `{"feats": [...], "heads": [{"boxes", "scores", "feats"}, ...]}`, one entry a group.
    In evaluation it gives `(B, 4 + 39, 6 A)`: the anchors of the six heads beside each other, each with scores for the
    classes of its own group and zeros elsewhere, which is what Ultralytics' own NMS, validator and predictor take.

    Args:
        ch: Channels of the feature maps P3, P4, P5.
        without: A group that has no head of its own: the head of Others finds its classes too, as in Table 5 of the
            paper, where "annotations of the removed head were redirected to the others head".
    """

    cv2 = cv3 = None  # the towers stand in the group heads; Ultralytics asks for the attribute

    def __init__(self, ch: list[int], without: Group | None = None) -> None:
        nn.Module.__init__(self)  # Detect's own constructor would build a seventh head
        self.groups = tuple(group for group in Group if group is not without)
        self.nc = len(taxonomy.CLASSES)
        self.nl = len(ch)
        self.reg_max = 16
        self.no = self.nc + 4 * self.reg_max
        self.stride = torch.zeros(self.nl)
        self.class_ids = [list(taxonomy.ids_of(group)) for group in self.groups]
        if without is not None:
            self.class_ids[self.groups.index(Group.OTHERS)] += taxonomy.ids_of(without)
        self.heads: Any = nn.ModuleList(GroupHead(len(ids), ch) for ids in self.class_ids)
        self.dfl = self.heads[0].dfl

    @property
    def end2end(self) -> bool:
        """False: duplicates are removed by NMS."""
        return False

    @end2end.setter
    def end2end(self, value: bool) -> None:
        if value:
            raise ModelError("the multi-head detector has no NMS-free output; leave `end2end` off")

    def bias_init(self) -> None:
        """Start every head at the prior of a sparse detector; needs the strides."""
        for head in self.heads:
            head.stride = self.stride
            head.bias_init()

    def forward(self, x: list[Tensor]) -> Any:
        """Raw predictions of the six heads in training, decoded 39-class predictions otherwise."""
        raw = {"feats": x, "heads": [head.forward_head(x, **head.one2many) for head in self.heads]}
        if self.training:
            return raw
        decoded = torch.cat(list(self.decode_heads(raw)), dim=2)
        return decoded if self.export else (decoded, raw)

    def decode_heads(self, raw: dict[str, Any]) -> list[Tensor]:
        """Each head's `(B, 4 + 39, A)`: centre x, centre y, width, height in px of the input, then 39 scores."""
        decoded = []
        for head, ids in zip(raw["heads"], self.class_ids, strict=True):
            boxes = self._get_decode_boxes({"feats": raw["feats"], "boxes": head["boxes"]})
            scores = torch.zeros(boxes.shape[0], self.nc, boxes.shape[2], dtype=boxes.dtype, device=boxes.device)
            scores[:, ids] = head["scores"].sigmoid().to(boxes.dtype)
            decoded.append(torch.cat((boxes, scores), dim=1))
        return decoded


class MultiHeadDetectionModel(DetectionModel):
    """YOLO12 whose last layer is a `MultiHeadDetect`; trains and validates with Ultralytics' own engine."""

    def __init__(self, scale: Scale = "n", network: str = "multihead", *, verbose: bool = False) -> None:
        if scale not in get_args(Scale):
            raise ModelError(f"YOLO12 comes in the scales {', '.join(get_args(Scale))}, got {scale!r}")
        layers = yaml_model_load(f"yolo12{scale}.yaml")
        super().__init__({**layers, "nc": len(taxonomy.CLASSES)}, ch=3, verbose=verbose)
        single = self.model[-1]
        head = MultiHeadDetect([tower[0].conv.in_channels for tower in single.cv2], WITHOUT.get(network))
        head.i, head.f, head.type = single.i, single.f, f"{__name__}.MultiHeadDetect"
        head.np = sum(parameter.numel() for parameter in head.parameters())
        head.stride = single.stride
        head.bias_init()
        self.model[-1] = head
        self.names = dict(enumerate(taxonomy.NAMES))
        self.scale, self.network = scale, network
        self.normaliser: Normaliser = "head"

    def init_criterion(self) -> MultiHeadLoss:
        """The paper's weighted sum of six head losses (its equation 1)."""
        return MultiHeadLoss(self, normaliser=self.normaliser)


class SingleHeadDetectionModel(DetectionModel):
    """A YOLO as Ultralytics has it, with one head for the 39 classes and a loss that knows partial labels."""

    def __init__(self, network: str, scale: Scale, *, verbose: bool = False) -> None:
        layers = yaml_model_load(architecture(network, scale))
        super().__init__({**layers, "nc": len(taxonomy.CLASSES)}, ch=3, verbose=verbose)
        self.names = dict(enumerate(taxonomy.NAMES))
        self.scale, self.network = scale, network

    def init_criterion(self) -> SingleHeadLoss:
        """The loss of one head."""
        return SingleHeadLoss(self)


class QueryDetectionModel(RTDETRDetectionModel):
    """RT-DETR as Ultralytics has it, for the 39 classes, with a loss that knows partial labels."""

    def __init__(self, scale: Scale, *, verbose: bool = False) -> None:
        super().__init__(architecture("rtdetr", scale), ch=3, nc=len(taxonomy.CLASSES), verbose=verbose)
        self.names = dict(enumerate(taxonomy.NAMES))
        self.scale, self.network = scale, "rtdetr"

    def init_criterion(self) -> QueryLoss:
        """The loss of RT-DETR, masked."""
        return QueryLoss(nc=len(taxonomy.CLASSES), use_vfl=True)

    def loss(self, batch: dict[str, Any], preds: Any = None) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch as `MultiHeadLoss` takes it."""
        if getattr(self, "criterion", None) is None:
            self.criterion = self.init_criterion()
        ignored = batch["cls"].view(-1) == IGNORE
        pictures = range(len(batch["img"]))
        self.criterion.known = batch["known"].to(batch["img"].device)
        self.criterion.regions = [batch["bboxes"][ignored & (batch["batch_idx"] == index)] for index in pictures]
        rows = {name: batch[name][~ignored] for name in ("cls", "bboxes", "batch_idx")}
        total: tuple[Tensor, dict[str, Tensor]] = super().loss({**batch, **rows}, preds)
        return total


def build(scale: Scale = "n") -> MultiHeadDetectionModel:
    """A multi-head YOLO12 with fresh weights, in training mode.

    Raises:
        ModelError: `scale` is not one of n, s, m, l, x.
    """
    return MultiHeadDetectionModel(scale)


def build_network(network: str, scale: Scale) -> DetectionModel:
    """One of `NETWORKS` with fresh weights, in training mode.

    Raises:
        ModelError: There is no such network, or not of that scale.
    """
    architecture(network, scale)
    if network == "multihead" or network in WITHOUT:
        return MultiHeadDetectionModel(scale, network)
    return QueryDetectionModel(scale) if network == "rtdetr" else SingleHeadDetectionModel(network, scale)


def architecture(network: str, scale: Scale) -> str:
    """The file of Ultralytics that describes what `network` is made from.

    Raises:
        ModelError: There is no such network, or not of that scale.
    """
    if network not in NETWORKS:
        raise ModelError(f"there is no network {network!r}; choose one of {', '.join(NETWORKS)}")
    scales = ("l", "x") if network == "rtdetr" else get_args(Scale)
    if scale not in scales:
        raise ModelError(f"{network} comes in the scales {', '.join(scales)}, got {scale!r}")
    return f"{NETWORKS[network]}{scale}.yaml"


def complexity(model: nn.Module, *, size_px: int = 640) -> tuple[int, float]:
    """The number of parameters, and the GFLOPs (multiplications and additions) for one square picture."""
    return int(get_num_params(model)), float(get_flops(model, size_px))


def backbone(model: DetectionModel) -> nn.Sequential:
    """The layers of `model` that turn a picture into features (P1 to P5), before the neck; shared, not copied."""
    return model.model[: len(model.yaml["backbone"])]  # type: ignore[no-any-return]


def save_weights(model: nn.Module, path: Path) -> None:
    """Write the weights as fp16 safetensors; integer buffers keep their type."""
    path.write_bytes(save(_tensors(model)))  # save_file would leave a file that only its owner can read


def save_backbone(model: MultiHeadDetectionModel, path: Path) -> None:
    """Write the weights of the backbone alone, marked as such, for a detector of the same scale to begin from."""
    path.write_bytes(save(_tensors(backbone(model)), {"part": "backbone", "scale": model.scale}))


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {
        name: (value.half() if value.is_floating_point() else value).contiguous().cpu()
        for name, value in module.state_dict().items()
        if not name.endswith("dfl.conv.weight")  # a constant shared by the heads
    }


def load_weights(model: nn.Module, path: Path) -> None:
    """Read safetensors written by `save_weights` into `model`.

    Raises:
        ModelError: The file holds a backbone only, or not the tensors of this network.
    """
    tensors, scale = _read(path)
    if scale:
        raise ModelError(
            f"{path.name} holds the backbone of YOLO12-{scale} and no detector; train one from it: "
            f"`renalcore train sediment --start {path.name}`"
        )
    _load(model, tensors, path, "Use the weights that belong to the model's card.")


def load_start(model: DetectionModel, path: Path) -> Literal["detector", "backbone"]:
    """Begin `model` from a file of `save_weights` or of `save_backbone`; the file itself says which it is.

    Returns:
        What was loaded: the whole detector, or its backbone, with neck and heads left as they were.

    Raises:
        ModelError: The file does not hold the tensors of this network, or is the backbone of another scale.
    """
    tensors, scale = _read(path)
    if not scale:
        _load(model, tensors, path, "Begin from weights of the same scale.")
        return "detector"
    if NETWORKS[model.network] != "yolo12":
        raise ModelError(f"{path.name} is the backbone of YOLO12-{scale}, and {model.network} has another backbone")
    if scale != model.scale:
        raise ModelError(
            f"{path.name} is the backbone of YOLO12-{scale}, and this network is YOLO12-{model.scale}; "
            f"give --scale {scale}, or pretrain the other"
        )
    _load(backbone(model), tensors, path, "Pretrain the backbone again.")
    return "backbone"


def _read(path: Path) -> tuple[dict[str, Tensor], str]:
    """The tensors of a file in float32, and the scale that it names if it says that it holds a backbone only."""
    try:
        with safe_open(path, framework="pt") as file:
            said = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
    except SafetensorError as error:
        raise ModelError(f"{path.name} is not a whole safetensors file ({error}); make or copy it again") from None
    scale = said.get("scale", "?") if said.get("part") == "backbone" else ""
    return {name: value.float() if value.is_floating_point() else value for name, value in tensors.items()}, scale


def _load(module: nn.Module, tensors: dict[str, Tensor], path: Path, remedy: str) -> None:
    wanted = {name: value for name, value in module.state_dict().items() if not name.endswith("dfl.conv.weight")}
    missing, unexpected = sorted(wanted.keys() - tensors.keys()), sorted(tensors.keys() - wanted.keys())
    reshaped = sorted(name for name in wanted.keys() & tensors.keys() if wanted[name].shape != tensors[name].shape)
    if wrong := missing + unexpected + reshaped:
        raise ModelError(
            f"{path.name} does not fit this network: {len(missing)} tensors missing, {len(unexpected)} unexpected, "
            f"{len(reshaped)} of another shape (first: {wrong[0]}). {remedy}"
        )
    module.load_state_dict(tensors, strict=False)  # what is not in the file is the heads' constant
