"""What runs a network: torch, or OpenVINO with the network converted once and kept on disk, in float32 or in INT8.

A back end takes a batch of pictures as they are, `(N, H, W, 3)` uint8 RGB, or of volumes, `(N, D, H, W)` int16 HU, and
gives the network's outputs as arrays. Anything done to them (scaling to 0..1, reordering) is part of the network handed
in, so that both back ends do the same and OpenVINO can fuse it.

Back ends hold no picture and no answer: several threads may call `run` of one object, and each gets the answer to its
own batch.
"""

from __future__ import annotations

import functools
import logging
import os
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from renalcore.engine.devices import Device
from renalcore.errors import ModelError

if TYPE_CHECKING:
    import openvino
    from torch import nn

Outputs = tuple[NDArray[Any], ...]
"""One array an output of the network, each with the batch as its first axis."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Shown:
    """What a network is given.

    Attributes:
        example: Shape of a small batch of it, with which it is converted.
        dtype: Type of its numbers.
        beside: Several of a batch are answered beside each other, one a thread: quickest for many pictures. Otherwise
            all threads work on one: quickest for few volumes.
    """

    example: tuple[int, ...]
    dtype: Literal["uint8", "int16"]
    beside: bool


PICTURES: Final = Shown((1, 64, 96, 3), "uint8", beside=True)
VOLUMES: Final = Shown((1, 16, 32, 48), "int16", beside=False)


class Backend(Protocol):
    """Runs one network on one device."""

    def run(self, batch: NDArray[Any]) -> Outputs:
        """The network's outputs for a batch of what it was loaded for; safe to call from several threads."""
        ...


def load(build: Callable[[], nn.Module], device: Device, *, key: str, shown: Shown = PICTURES) -> Backend:
    """The back end of `device` with the network that `build` makes.

    Args:
        build: Makes the network with its weights. Not called when a converted copy of it lies in the cache.
        device: What to run it on.
        key: Names the network, its weights and the code that made it; another key is another network.
        shown: What it is given.

    Raises:
        ModelError: INT8 is asked for and `quantise` has not made it.
    """
    if device.kind in ("openvino", "openvino-int8"):
        return OpenVinoBackend(build, device, key=key, shown=shown)
    return TorchBackend(build(), device)


class TorchBackend:
    """Torch in channels-last order; float16 on CUDA, where it is exact enough and twice as fast."""

    def __init__(self, network: nn.Module, device: Device) -> None:
        import torch

        if device.kind == "cpu":
            torch.set_num_threads(device.threads)
        self._target = torch.device("cuda" if device.kind == "cuda" else "cpu")
        dtype = torch.float16 if device.kind == "cuda" else torch.float32
        network = network.eval().requires_grad_(False)
        deep = any(parameter.dim() == 5 for parameter in network.parameters())  # kernels of volumes
        order = torch.channels_last_3d if deep else torch.channels_last
        self._network: Any = network.to(self._target, dtype)
        self._network = self._network.to(memory_format=order)

    def run(self, batch: NDArray[Any]) -> Outputs:
        """The network's outputs for a batch."""
        import torch

        with torch.inference_mode():
            found = self._network(torch.from_numpy(np.ascontiguousarray(batch)).to(self._target, non_blocking=True))
            return tuple(output.cpu().numpy() for output in found)


@functools.cache
def _core() -> openvino.Core:
    """The one OpenVINO of this process, kept to its end.

    Each brings a stack for signals along and takes it away when it goes. Where two do not go in the order in which they
    came, the process is left with a stack that is freed, and dies at its next signal (a child that ends, for example).
    """
    import openvino

    return openvino.Core()


class OpenVinoBackend:
    """OpenVINO on the CPU, computing in float32, or with the INT8 form of the network.

    The network is converted once and kept in the cache folder. It is compiled for each picture size it meets, because
    fixed shapes run a tenth faster than a dynamic one and compile in a third of a second; the last eight sizes are
    kept. Pictures of a batch run beside each other, one a stream; volumes one after the other.
    """

    kept_sizes = 8

    def __init__(self, build: Callable[[], nn.Module], device: Device, *, key: str, shown: Shown = PICTURES) -> None:
        self._core = _core()
        precision = "f32"  # bfloat16, the default on CPUs that know it, moves scores by per cents
        if device.kind == "openvino-int8":
            self._model = _quantised(self._core, int8_path(key))
            if "BF16" in self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
                precision = "bf16"  # for what is left in floating point; finer than INT8
        else:
            self._model = _converted(self._core, build, _converted_path(key), shown)
        self._options: dict[str, Any] = {
            "PERFORMANCE_HINT": "THROUGHPUT" if shown.beside else "LATENCY",
            "INFERENCE_PRECISION_HINT": precision,
            "INFERENCE_NUM_THREADS": device.threads,
        }
        self._lock = threading.Lock()
        self._sizes: OrderedDict[tuple[int, ...], _Compiled] = OrderedDict()

    def run(self, batch: NDArray[Any]) -> Outputs:
        """The network's outputs for a batch."""
        return self._compiled(batch.shape[1:]).run(batch)

    def _compiled(self, shape: tuple[int, ...]) -> _Compiled:
        with self._lock:
            if shape not in self._sizes:
                model = self._model.clone()
                model.reshape([1, *shape])
                self._sizes[shape] = _Compiled(self._core.compile_model(model, "CPU", self._options))
                if len(self._sizes) > self.kept_sizes:
                    self._sizes.popitem(last=False)
            self._sizes.move_to_end(shape)
            return self._sizes[shape]


class _Compiled:
    """One compiled size, with queues of requests that are lent to one call at a time."""

    def __init__(self, compiled: openvino.CompiledModel) -> None:
        self._compiled = compiled
        self._idle: list[openvino.AsyncInferQueue] = []
        self._lock = threading.Lock()

    def run(self, batch: NDArray[Any]) -> Outputs:
        with self._lock:
            queue = self._idle.pop() if self._idle else None
        if queue is None:
            queue = self._queue()
        found: list[Outputs] = [()] * len(batch)
        for index in range(len(batch)):
            queue.start_async([batch[index : index + 1]], (found, index), share_inputs=True)
        queue.wait_all()  # raises what a request raised; the queue is then dropped
        with self._lock:
            self._idle.append(queue)
        return tuple(np.concatenate(output) for output in zip(*found, strict=True))

    def _queue(self) -> openvino.AsyncInferQueue:
        import openvino

        queue = openvino.AsyncInferQueue(self._compiled)
        queue.set_callback(_keep)
        return queue


def _keep(request: Any, place: tuple[list[Outputs], int]) -> None:
    found, index = place
    found[index] = tuple(np.array(tensor.data) for tensor in request.output_tensors)


def cache_folder() -> Path:
    """Where things lie that can be made again: RENAL_DATA/cache, else XDG_CACHE_HOME/renalcore."""
    if data := os.environ.get("RENAL_DATA"):
        return Path(data) / "cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "renalcore"


def int8_path(key: str) -> Path:
    """Where `quantise` puts the INT8 form of a network."""
    return cache_folder() / "openvino" / f"{key}-int8.xml"


def quantise(
    build: Callable[[], nn.Module],
    *,
    key: str,
    pictures: Sequence[NDArray[np.uint8]],
    kept_in_float: Sequence[str] = (),
) -> Path:
    """Make the INT8 form of a network (NNCF's quantisation after training) and keep it in the cache folder.

    Args:
        build: Makes the network with its weights. Not called when a converted copy of it lies in the cache.
        key: Names the network, as for `load`.
        pictures: `(H, W, 3)` uint8 RGB of one size; what the network makes of them sets the ranges of INT8.
        kept_in_float: Patterns of the names of layers that stay in floating point.

    Raises:
        ValueError: There is no picture, or they differ in size.
    """
    import nncf

    if len({picture.shape for picture in pictures}) != 1:
        raise ValueError("ranges are set with pictures of one size, at least one")
    nncf.set_log_level(logging.ERROR)
    core = _core()
    model = _converted(core, build, _converted_path(key), PICTURES).clone()
    sizes = model.input().partial_shape
    model.reshape([1, *pictures[0].shape])
    quantised = nncf.quantize(
        model,
        nncf.Dataset([picture[None] for picture in pictures]),
        preset=nncf.QuantizationPreset.MIXED,  # activations may lean to one side, as SiLU's do
        subset_size=len(pictures),
        ignored_scope=nncf.IgnoredScope(patterns=list(kept_in_float), validate=False),
    )
    quantised.reshape(sizes)
    _save(quantised, int8_path(key))
    return int8_path(key)


def _quantised(core: openvino.Core, path: Path) -> openvino.Model:
    if not path.is_file():
        raise ModelError(
            "the INT8 form of this model has not been made on this machine: run `renalcore quantise sediment` "
            "(with the same --model and --models), or use --device openvino"
        )
    try:
        return core.read_model(path)
    except RuntimeError as error:
        raise ModelError(f"{path} cannot be read, run `renalcore quantise sediment` again: {error}") from None


def _converted_path(key: str) -> Path:
    return cache_folder() / "openvino" / f"{key}.xml"


def _converted(core: openvino.Core, build: Callable[[], nn.Module], path: Path, shown: Shown) -> openvino.Model:
    if path.is_file():
        try:
            return core.read_model(path)
        except RuntimeError as error:
            _log.warning("%s cannot be read and is made again: %s", path, error)
    model = _convert(build().eval(), shown)
    try:
        _save(model, path)
    except (OSError, RuntimeError) as error:
        _log.warning("the converted network is not kept, each start will convert it again: %s", error)
    return model


def _convert(network: nn.Module, shown: Shown) -> openvino.Model:
    import warnings

    import openvino
    import torch

    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # the tracer's, about sizes that are fixed at reshape
        example = torch.zeros(shown.example, dtype=getattr(torch, shown.dtype))
        return openvino.convert_model(network, example_input=example)


def _save(model: openvino.Model, path: Path) -> None:
    """Write so that another process sees either nothing or the whole: a folder beside it first, the .xml last."""
    import openvino

    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        openvino.save_model(model, Path(folder) / path.name, compress_to_fp16=False)
        (Path(folder) / path.name).with_suffix(".bin").replace(path.with_suffix(".bin"))
        (Path(folder) / path.name).replace(path)
