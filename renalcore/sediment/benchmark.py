"""Speed of the sliced search against stock SAHI on Ultralytics, and whether both find the same boxes.

Both sides search the same field with the same weights, slices, overlap, confidence and suppression (within a class, at
IoU 0.7 in a slice and 0.5 across slices), in turns in one process. Stock is `sahi.predict.get_sliced_prediction` with
`AutoDetectionModel` "ultralytics" on the same device class (a CPU or a CUDA GPU) and SAHI's defaults otherwise: one
slice at a time, torch. Ours is the default of the device, in float32 on a CPU, and beside it the INT8 form where
`renalcore quantise sediment` has made it. Left out on both sides are the whole-image pass and, on ours, what SAHI does
not have (cut pieces, two labels on one particle); the time of our complete search is given beside. Stock keeps the 300
best boxes of a slice, so ours does for the comparison.
"""

from __future__ import annotations

import hashlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from renalcore import models, taxonomy
from renalcore.engine import devices
from renalcore.sediment import runners
from renalcore.sediment.networks import MultiHeadDetectionModel, Scale, build, load_weights, save_weights
from renalcore.sediment.predict import DEFAULT_MODEL, LOWEST_SCORE, NetworkFinder
from renalcore.sediment.runners import Found, Runner
from renalcore.sediment.slicing import PLAIN_SAHI, STANDARD, Boxes, search, slice_boxes

T = TypeVar("T")

SAME_IOU = 0.9
"""Overlap from which a box of ours and one of stock's are the same box."""

STOCK_BOXES_A_SLICE = 300
"""Ultralytics' `max_det`."""


@dataclass(frozen=True, slots=True)
class Int8:
    """Our search with the network in INT8, as in `Comparison`."""

    ours_s: float
    network_s: float
    ratio: float
    found_again: float
    confirmed: float

    def __str__(self) -> str:
        return "\n".join(
            (
                f"RenalCore, INT8          {self.ours_s:8.3f} s a field",
                f"  the bare network       {self.network_s:8.3f} s",
                f"  times faster           {self.ratio:8.2f}",
                f"  stock's boxes here too {self.found_again:8.2%}",
                f"  its boxes in stock too {self.confirmed:8.2%}",
            )
        )


@dataclass(frozen=True, slots=True)
class Comparison:
    """What a benchmark measured; times are medians in seconds a field.

    Attributes:
        model: Key of the model, or `untrained`.
        device: What ran ours.
        size_px: Side of the field.
        slices: Slices a field.
        images: Fields searched by each side.
        stock_s: Stock SAHI on Ultralytics.
        ours_s: The same search here.
        network_s: Our network alone, within `ours_s`: from slices to boxes not yet joined.
        complete_s: Our search with all its steps, as `predict` does it.
        ratio: How many times faster ours is: the median of the ratios of neighbouring runs.
        boxes: Boxes that stock found, over all fields.
        found_again: Share of stock's boxes that ours has too: same class, IoU of at least 0.9.
        confirmed: Share of our boxes that stock has too.
        int8: The same of our INT8 form, on an OpenVINO device that has it.
    """

    model: str
    device: str
    size_px: int
    slices: int
    images: int
    stock_s: float
    ours_s: float
    network_s: float
    complete_s: float
    ratio: float
    boxes: int
    found_again: float
    confirmed: float
    int8: Int8 | None

    @property
    def outside_share(self) -> float:
        """Share of our time that is spent outside the network."""
        return 1 - self.network_s / self.ours_s

    def __str__(self) -> str:
        int8 = [str(self.int8)] if self.int8 else []
        return "\n".join(
            (
                f"model                    {self.model}, on {self.device}",
                f"field                    {self.size_px} x {self.size_px} px, {self.slices} slices",
                f"fields                   {self.images}, both sides in turns; times are medians",
                f"stock SAHI + Ultralytics {self.stock_s:8.3f} s a field",
                f"RenalCore, same work     {self.ours_s:8.3f} s a field",
                f"  the bare network       {self.network_s:8.3f} s",
                f"  outside the network    {self.outside_share:8.1%}",
                f"RenalCore, complete      {self.complete_s:8.3f} s a field (whole image, cut pieces, one label)",
                f"times faster             {self.ratio:8.2f}",
                f"stock's boxes here too   {self.found_again:8.2%} of {self.boxes}",
                f"our boxes in stock too   {self.confirmed:8.2%}",
                *int8,
            )
        )


def compare(
    *,
    images: int = 5,
    size_px: int = 1800,
    model: str | None = None,
    root: Path = models.WEIGHTS,
    device: str = "auto",
    min_score: float = LOWEST_SCORE,
    done: Callable[[], None] = lambda: None,
) -> Comparison:
    """Search `images` rendered fields with both sides in turns.

    Args:
        images: Fields; each is searched once by each side, after one that is not counted.
        size_px: Side of a field.
        model: Key of a model; by default the standard one, or random weights while there is none.
        root: Folder of models.
        device: What runs ours; stock runs on the same GPU, or on the CPU with torch.
        min_score: Confidence threshold of both sides.
        done: Called after each field.

    Raises:
        ValueError: There is no field to search.
        UnknownName: There is no such model or device.
        ModelError: Weights are missing or altered, or the device is absent.
    """
    if images < 1 or size_px < 32:
        raise ValueError(f"a benchmark needs at least one field of at least 32 px, got {images} of {size_px} px")
    chosen = devices.choose(device)
    fields = _fields(images + 1, size_px)
    warm_up = next(fields)
    with tempfile.TemporaryDirectory() as folder:
        name, scale, weights, sha256 = _weights(model, root, warm_up, Path(folder))
        runner = _Timed(runners.load("multihead", scale, weights, sha256, chosen))
        stock = _stock(scale, weights, "cuda:0" if chosen.kind == "cuda" else "cpu", min_score)
        int8 = None
        if chosen.kind == "openvino" and runners.has_int8(sha256):
            int8 = _Timed(runners.load("multihead", scale, weights, sha256, replace(chosen, kind="openvino-int8")))
    asked: dict[str, Any] = {"classes": taxonomy.NAMES, "min_score": min_score}
    complete = partial(search, finder=NetworkFinder(runner), slicing=STANDARD, **asked)
    sides = {"ours": _Side(runner, asked)} | ({"int8": _Side(int8, asked)} if int8 else {})
    stock_s, complete_s, boxes = [], [], 0
    for turn, field in enumerate((warm_up, *fields)):
        theirs, theirs_s = _timed(partial(stock, field))
        for side in sides.values():
            side.search(field, theirs, counts=turn > 0)  # the first one compiles
        _, whole_s = _timed(partial(complete, field))
        if turn > 0:
            stock_s.append(theirs_s)
            complete_s.append(whole_s)
            boxes += len(theirs)
            done()
    figures = {key: side.figures(stock_s, boxes) for key, side in sides.items()}
    return Comparison(
        model=name,
        device=str(chosen),
        size_px=size_px,
        slices=len(slice_boxes(size_px, size_px)),
        images=images,
        stock_s=statistics.median(stock_s),
        complete_s=statistics.median(complete_s),
        boxes=boxes,
        int8=Int8(**figures["int8"]) if int8 else None,
        **figures["ours"],
    )


def matched(boxes: Boxes, others: Boxes) -> int:
    """How many of `boxes` have one of `others` to themselves: same class, IoU of at least `SAME_IOU`."""
    free = np.ones(len(others), np.bool_)
    count = 0
    for box in boxes:
        sides = np.minimum(others[:, 2:4], box[2:4]) - np.maximum(others[:, :2], box[:2])
        shared = sides.clip(0).prod(axis=1)
        areas = (others[:, 2:4] - others[:, :2]).prod(axis=1)
        iou = shared / (areas + (box[2:4] - box[:2]).prod() - shared)
        iou[~free | (others[:, 5] != box[5])] = 0
        if len(iou) and iou.max() >= SAME_IOU:
            free[iou.argmax()] = False
            count += 1
    return count


def untrained_network(pixels: NDArray[np.uint8], *, seed: int) -> MultiHeadDetectionModel:
    """Random weights that find some hundred small boxes in a field like `pixels`: enough to measure speed with.

    Fresh weights find nothing at all: signals fade on the way through the network, and class scores begin at a
    thousandth. So the batch norms are set to the picture's statistics and the last layers to small boxes and to
    scores that one anchor in two thousand lifts above the threshold.
    """
    import torch

    picture = torch.from_numpy(pixels[None, : pixels.shape[0] // 32 * 32, : pixels.shape[1] // 32 * 32])
    picture = picture.permute(0, 3, 1, 2).float() / 255
    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        torch.manual_seed(seed)
        model = build("n")
        model.train()
        norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
        for norm in norms:
            norm.momentum = 1.0
        bins = torch.arange(16.0)
        for head in model.model[-1].heads:
            for box_tower, class_tower in zip(head.cv2, head.cv3, strict=True):
                torch.nn.init.normal_(box_tower[-1].weight, std=0.1)
                box_tower[-1].bias.copy_(-0.5 * (bins - 2).square().repeat(4))
                torch.nn.init.normal_(class_tower[-1].weight, std=0.3)
                class_tower[-1].bias.zero_()
        raw = model(picture)
        threshold = torch.logit(torch.tensor(LOWEST_SCORE))
        for head, found in zip(model.model[-1].heads, raw["heads"], strict=True):
            high = found["scores"].amax(dim=1).quantile(0.9995)
            for class_tower in head.cv3:
                class_tower[-1].bias.fill_(float(threshold - high))
    model.eval()
    return model


class _Timed:
    """A runner that adds up the time it takes."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self.seconds = 0.0

    def run(self, pictures: NDArray[np.uint8], min_score: float) -> Found:
        found, seconds = _timed(partial(self._runner.run, pictures, min_score))
        self.seconds += seconds
        return found


class _Side:
    """One form of our network: searches as stock does and keeps the figures."""

    def __init__(self, runner: _Timed, asked: dict[str, Any]) -> None:
        self._runner = runner
        self._search = partial(
            search, finder=NetworkFinder(runner, most=STOCK_BOXES_A_SLICE), slicing=PLAIN_SAHI, **asked
        )
        self._ours_s: list[float] = []
        self._network_s: list[float] = []
        self._found_again, self._confirmed, self._boxes = 0, 0, 0

    def search(self, field: NDArray[np.uint8], theirs: Boxes, *, counts: bool) -> None:
        self._runner.seconds = 0.0
        mine, seconds = _timed(partial(self._search, field))
        if counts:
            self._ours_s.append(seconds)
            self._network_s.append(self._runner.seconds)
            self._found_again += matched(theirs, mine)
            self._confirmed += matched(mine, theirs)
            self._boxes += len(mine)

    def figures(self, stock_s: list[float], stock_boxes: int) -> dict[str, float]:
        return {
            "ours_s": statistics.median(self._ours_s),
            "network_s": statistics.median(self._network_s),
            "ratio": statistics.median(a / b for a, b in zip(stock_s, self._ours_s, strict=True)),
            "found_again": self._found_again / stock_boxes if stock_boxes else 1.0,
            "confirmed": self._confirmed / self._boxes if self._boxes else 1.0,
        }


def _timed(work: Callable[[], T]) -> tuple[T, float]:
    start = time.perf_counter()
    result = work()
    return result, time.perf_counter() - start


def _fields(count: int, size_px: int) -> Iterator[NDArray[np.uint8]]:
    from renalcore.sediment.synthetic import render

    for seed in range(count):
        yield render(size_px, size_px, rng=np.random.default_rng(seed)).pixels


def _weights(model: str | None, root: Path, pixels: NDArray[np.uint8], folder: Path) -> tuple[str, Scale, Path, str]:
    """Name, scale and weights of the network, and what tells them from others; untrained ones go into `folder`."""
    if model is None and not any(card.key == DEFAULT_MODEL for card in models.all_cards(root)):
        path = folder / "untrained.safetensors"
        save_weights(untrained_network(pixels, seed=0), path)
        return "untrained (random weights)", "n", path, hashlib.sha256(path.read_bytes()).hexdigest()
    card = models.card(model or DEFAULT_MODEL, root)
    return card.key, card.scale, models.weights_path(card, root), card.sha256  # type: ignore[return-value]


def _stock(scale: Scale, weights: Path, device: str, min_score: float) -> Callable[[NDArray[np.uint8]], Boxes]:
    """SAHI's sliced prediction with Ultralytics' predictor, from a checkpoint as Ultralytics writes it."""
    import torch
    from sahi import AutoDetectionModel
    from sahi.predict import get_sliced_prediction

    network = build(scale)
    load_weights(network, weights)
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "stock.pt")
        torch.save({"model": network}, path)
        detector: Any = AutoDetectionModel.from_pretrained(
            model_type="ultralytics", model_path=path, confidence_threshold=min_score, device=device
        )

    def stock(pixels: NDArray[np.uint8]) -> Boxes:
        found = get_sliced_prediction(
            pixels,
            detector,
            slice_height=STANDARD.slice_px,
            slice_width=STANDARD.slice_px,
            overlap_height_ratio=STANDARD.overlap,
            overlap_width_ratio=STANDARD.overlap,
            perform_standard_pred=False,
            postprocess_type="NMS",
            postprocess_match_metric="IOU",
            postprocess_match_threshold=STANDARD.iou,
            force_postprocess_type=True,
            verbose=0,
        ).object_prediction_list
        rows = [[*item.bbox.to_xyxy(), item.score.value, item.category.id] for item in found]
        return np.array(rows, np.float32).reshape(-1, 6)

    return stock
