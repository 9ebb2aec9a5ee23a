"""Which processor runs a network.

Five words: `cuda` (torch on an NVIDIA GPU), `openvino` (OpenVINO on this machine's CPU), `cpu` (torch on this machine's
CPU), `auto`, the fastest of the three that is here, and `openvino-int8`: OpenVINO with the network in 8-bit integers,
which `renalcore quantise` makes. That one rounds, so `auto` never takes it. A device asked for by name is used or
refused, never replaced.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
from dataclasses import dataclass
from typing import Literal, get_args

from renalcore.errors import DeviceUnavailable, UnknownName

Kind = Literal["cuda", "openvino", "cpu", "openvino-int8"]
CHOICES: tuple[str, ...] = ("auto", *get_args(Kind))
"""What may be asked for."""


@dataclass(frozen=True, slots=True)
class Device:
    """A processor and what drives it.

    Attributes:
        kind: Which back end runs the network.
        threads: CPU threads it may use.
    """

    kind: Kind
    threads: int

    def __str__(self) -> str:
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        return {
            "cuda": "NVIDIA GPU (CUDA)",
            "openvino": f"CPU (OpenVINO, {threads})",
            "cpu": f"CPU (PyTorch, {threads})",
            "openvino-int8": f"CPU (OpenVINO INT8, {threads})",
        }[self.kind]


def choose(asked: str = "auto", *, threads: int | None = None) -> Device:
    """The device called `asked`.

    Args:
        asked: `auto`, `cuda`, `openvino`, `cpu` or `openvino-int8`.
        threads: CPU threads; by default RENAL_THREADS, else the cores this process may use.

    Raises:
        UnknownName: No device has that name.
        DeviceUnavailable: It was asked for by name and is not on this machine.
    """
    if asked not in CHOICES:
        raise UnknownName(f"{asked!r} is not a device; choose one of {', '.join(CHOICES)}")
    if threads is None:
        threads = usable_threads()
    if asked == "auto":
        kinds: tuple[Kind, ...] = get_args(Kind)
        return Device(next(kind for kind in kinds if absence(kind) is None), threads)  # the CPU is never absent
    kind = next(kind for kind in get_args(Kind) if kind == asked)
    if reason := absence(kind):
        raise DeviceUnavailable(f"device {asked!r} is not available: {reason}. Use --device auto, or repair it.")
    return Device(kind, threads)


def absence(kind: Kind) -> str | None:
    """Why `kind` cannot be used on this machine, or None where it can."""
    if kind in ("openvino", "openvino-int8"):
        return None if importlib.util.find_spec("openvino") else "the Python package openvino is not installed"
    if kind == "cpu":
        return None
    try:
        ctypes.CDLL("libcuda.so.1")  # milliseconds, where asking torch takes seconds
    except OSError:
        return "this machine has no NVIDIA driver (libcuda.so.1)"
    import torch

    return None if torch.cuda.is_available() else "this build of torch finds no usable NVIDIA GPU"


def usable_threads() -> int:
    """RENAL_THREADS where it is set, else the number of cores this process may use.

    Not OMP_NUM_THREADS: importing Ultralytics sets that to 1 for the whole process.
    """
    wanted = os.environ.get("RENAL_THREADS", "")
    return int(wanted) if wanted.isdecimal() and int(wanted) > 0 else len(os.sched_getaffinity(0))
